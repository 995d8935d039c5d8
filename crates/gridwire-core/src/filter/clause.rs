//! One advanced filter, compiled: an operator and its operand, judged on the value at a key.
//!
//! The contract's sections 2, 4 and 5 in one place. Every operator is a question about one scalar ("is it one of
//! these?"), whether it is asked in the negative, and what holds when there is no scalar to ask about.

use memchr::memmem::Finder;

use super::spec::Operator;
use super::text::fold;
use super::values::{Elements, Scalar, Text, Value};
use crate::planted::planted;

#[derive(Clone, Debug)]
pub(super) struct Clause {
    question: Question,
    negated: bool,
    /// What holds when the key is missing, null, of another type, or an array where arrays are not looked into.
    /// The contract gives it for a missing key; the rest follows that, so that the answer does not depend on how
    /// a publisher says "nothing here". `NumberNotInRange`, which it does not list, goes with `NumberNotIn`.
    otherwise: bool,
}

#[derive(Clone, Debug)]
enum Question {
    Number(NumberQuestion),
    Boolean(bool),
    Text(TextQuestion),
    Nothing,
}

#[derive(Clone, Debug)]
enum NumberQuestion {
    OneOf(Box<[f64]>),
    Less(f64),
    AtMost(f64),
    Greater(f64),
    AtLeast(f64),
    InRange(Box<[(f64, f64)]>),
}

/// With operands folded.
#[derive(Clone, Debug)]
enum TextQuestion {
    OneOf(Box<[Box<str>]>),
    Contains(Box<[Finder<'static>]>),
    BeginsWith(Box<[Box<str>]>),
    EndsWith(Box<[Box<str>]>),
}

impl Clause {
    pub(super) fn new(operator: &Operator) -> Self {
        use {NumberQuestion as N, TextQuestion as T};
        let (question, negated, otherwise) = match operator {
            Operator::NumberIn(values) => (number(N::OneOf(values.as_slice().into())), false, false),
            Operator::NumberNotIn(values) => (number(N::OneOf(values.as_slice().into())), true, true),
            Operator::NumberLessThan(value) => (number(N::Less(*value)), false, false),
            Operator::NumberGreaterThan(value) => (number(N::Greater(*value)), false, false),
            Operator::NumberLessThanOrEquals(value) if planted("filter-off-by-one") => {
                (number(N::Less(*value)), false, false)
            }
            Operator::NumberLessThanOrEquals(value) => (number(N::AtMost(*value)), false, false),
            Operator::NumberGreaterThanOrEquals(value) => (number(N::AtLeast(*value)), false, false),
            Operator::NumberInRange(ranges) => (number(N::InRange(ranges.as_slice().into())), false, false),
            Operator::NumberNotInRange(ranges) => (number(N::InRange(ranges.as_slice().into())), true, true),
            Operator::BoolEquals(value) => (Question::Boolean(*value), false, false),
            Operator::StringIn(values) => (text(T::OneOf(folded(values))), false, false),
            Operator::StringNotIn(values) => (text(T::OneOf(folded(values))), true, true),
            Operator::StringContains(values) => (text(T::Contains(finders(values))), false, false),
            Operator::StringNotContains(values) => (text(T::Contains(finders(values))), true, false),
            Operator::StringBeginsWith(values) => (text(T::BeginsWith(folded(values))), false, false),
            Operator::StringNotBeginsWith(values) => (text(T::BeginsWith(folded(values))), true, false),
            Operator::StringEndsWith(values) => (text(T::EndsWith(folded(values))), false, false),
            Operator::StringNotEndsWith(values) => (text(T::EndsWith(folded(values))), true, false),
            Operator::IsNullOrUndefined => (Question::Nothing, false, true),
            Operator::IsNotNull => (Question::Nothing, true, false),
        };
        Self { question, negated, otherwise }
    }

    /// Whether the filter holds. With `arrays`, an array stands for its elements of the operator's type: any one
    /// may answer the question. So an array without such elements fails a positive operator and passes a
    /// negative one.
    pub(super) fn holds(&self, value: &Value<'_>, arrays: bool) -> bool {
        if let Question::Nothing = self.question {
            return matches!(value, Value::Missing | Value::Null) != self.negated;
        }
        match value {
            Value::Scalar(Scalar { number, boolean, text }) => self
                .question
                .ask(number.as_slice(), boolean.as_slice(), text.as_slice())
                .map_or(self.otherwise, |yes| yes != self.negated),
            Value::Array(Elements { numbers, booleans, texts }) if arrays => {
                (self.question.ask(numbers, booleans, texts) == Some(true)) != self.negated
            }
            Value::Array(_) | Value::Missing | Value::Null | Value::Opaque => self.otherwise,
        }
    }

    /// The values of which the key must have one for the filter to hold, if the filter is of that kind.
    pub(super) fn must_be_one_of(&self) -> Option<OneOf<'_>> {
        match &self.question {
            _ if self.negated => None,
            Question::Number(NumberQuestion::OneOf(values)) => Some(OneOf::Numbers(values)),
            Question::Text(TextQuestion::OneOf(values)) => Some(OneOf::Texts(values)),
            _ => None,
        }
    }
}

/// The operand of `NumberIn` or `StringIn`, the latter folded.
pub(super) enum OneOf<'a> {
    Numbers(&'a [f64]),
    Texts(&'a [Box<str>]),
}

fn number(question: NumberQuestion) -> Question {
    Question::Number(question)
}

fn text(question: TextQuestion) -> Question {
    Question::Text(question)
}

fn folded(values: &[String]) -> Box<[Box<str>]> {
    values.iter().map(|value| fold(value).into()).collect()
}

fn finders(values: &[String]) -> Box<[Finder<'static>]> {
    values.iter().map(|value| Finder::new(fold(value).as_bytes()).into_owned()).collect()
}

impl Question {
    /// Whether any of the values of the question's type answers it; `None` when there is none of that type.
    fn ask(&self, numbers: &[f64], booleans: &[bool], texts: &[Text<'_>]) -> Option<bool> {
        fn any<T>(values: &[T], ask: impl Fn(&T) -> bool) -> Option<bool> {
            (!values.is_empty()).then(|| values.iter().any(ask))
        }
        match self {
            Self::Number(question) => any(numbers, |&number| question.ask(number)),
            Self::Boolean(wanted) => any(booleans, |boolean| boolean == wanted),
            Self::Text(question) => any(texts, |text| question.ask(&text.folded)),
            Self::Nothing => None,
        }
    }
}

impl NumberQuestion {
    fn ask(&self, number: f64) -> bool {
        match self {
            Self::OneOf(values) => values.contains(&number),
            Self::Less(value) => number < *value,
            Self::AtMost(value) => number <= *value,
            Self::Greater(value) => number > *value,
            Self::AtLeast(value) => number >= *value,
            Self::InRange(ranges) => ranges.iter().any(|&(low, high)| low <= number && number <= high),
        }
    }
}

impl TextQuestion {
    fn ask(&self, text: &str) -> bool {
        match self {
            Self::OneOf(values) => values.iter().any(|value| text == &**value),
            Self::Contains(finders) => finders.iter().any(|finder| finder.find(text.as_bytes()).is_some()),
            Self::BeginsWith(values) => values.iter().any(|value| text.starts_with(&**value)),
            Self::EndsWith(values) => values.iter().any(|value| text.ends_with(&**value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What holds for a value that fits, one that does not, a missing key, null, a value of another type, and for
    /// an array with a fitting element, one without, and an empty one.
    struct Row {
        operator: Operator,
        fits: &'static str,
        differs: &'static str,
        other_type: &'static str,
        expected: [bool; 8],
    }

    /// A positive operator, a negative one that holds when there is nothing, and one that does not.
    const POSITIVE: [bool; 8] = [true, false, false, false, false, true, false, false];
    const NOT_IN: [bool; 8] = [false, true, true, true, true, false, true, true];
    const NOT_LIKE: [bool; 8] = [false, true, false, false, false, false, true, true];

    fn check(row: &Row) {
        let Row { operator, fits, differs, other_type, expected } = row;
        let clause = Clause::new(operator);
        let array = |element: &str| format!("[null, {{}}, {other_type}, {element}]");
        let (with, without) = (array(fits), array(differs));
        let judge = |json: &str, arrays| clause.holds(&Value::json(json), arrays);
        let off_type = expected[4];
        let judged = [
            judge(fits, false),
            judge(differs, false),
            clause.holds(&Value::Missing, false),
            judge("null", false),
            judge(other_type, false),
            judge(&with, true),
            judge(&without, true),
            judge("[]", true),
        ];
        assert_eq!(judged, *expected, "{operator:?}");
        for other in [&*with, &*without, "[]", "{}", other_type] {
            assert_eq!(judge(other, false), off_type, "{operator:?} on {other}, not looking into arrays");
        }
        for scalar in [fits, differs, other_type] {
            assert_eq!(judge(scalar, true), judge(scalar, false), "{operator:?} on {scalar}");
        }
        assert_eq!(judge("{}", true), off_type, "{operator:?} on an object");
    }

    fn strings(values: &[&str]) -> Vec<String> {
        values.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_number_and_boolean_operator_answers_as_the_contract_says() {
        let ranges = vec![(1.0, 2.0), (5.0, 5.0)];
        let row = |operator, fits, differs, expected| Row {
            operator,
            fits,
            differs,
            other_type: "\"5\"",
            expected,
        };
        for row in [
            row(Operator::NumberIn(vec![1.0, 5.5]), "5.5", "5", POSITIVE),
            row(Operator::NumberIn(vec![0.0]), "-0.0", "1e-300", POSITIVE),
            row(Operator::NumberNotIn(vec![1.0, 5.5]), "55e-1", "5", NOT_IN),
            row(Operator::NumberLessThan(5.0), "4.9", "5", POSITIVE),
            row(Operator::NumberLessThanOrEquals(5.0), "5", "5.1", POSITIVE),
            row(Operator::NumberGreaterThan(-5.0), "-4", "-5", POSITIVE),
            row(Operator::NumberGreaterThanOrEquals(5.0), "5", "4.9", POSITIVE),
            row(Operator::NumberInRange(ranges.clone()), "2", "2.1", POSITIVE),
            row(Operator::NumberInRange(ranges.clone()), "5", "4", POSITIVE),
            row(Operator::NumberNotInRange(ranges.clone()), "1", "0.9", NOT_IN),
            row(Operator::NumberNotInRange(ranges), "5", "6", NOT_IN),
            row(Operator::BoolEquals(true), "true", "false", POSITIVE),
            row(Operator::BoolEquals(false), "false", "true", POSITIVE),
        ] {
            check(&row);
        }
    }

    #[test]
    fn every_string_operator_answers_as_the_contract_says() {
        let values = || strings(&["Blue", "ÜBER"]);
        let row =
            |operator, fits, differs, expected| Row { operator, fits, differs, other_type: "5", expected };
        for row in [
            row(Operator::StringIn(values()), "\"bLUE\"", "\"blue \"", POSITIVE),
            row(Operator::StringNotIn(values()), "\"über\"", "\"uber\"", NOT_IN),
            row(Operator::StringContains(values()), "\"a BLUE one\"", "\"blu\"", POSITIVE),
            row(Operator::StringNotContains(values()), "\"darüber\"", "\"blu\"", NOT_LIKE),
            row(Operator::StringBeginsWith(values()), "\"Blueish\"", "\"a blue\"", POSITIVE),
            row(Operator::StringNotBeginsWith(values()), "\"Überall\"", "\"a blue\"", NOT_LIKE),
            row(Operator::StringEndsWith(values()), "\"a blue\"", "\"blueish\"", POSITIVE),
            row(Operator::StringNotEndsWith(values()), "\"darÜBER\"", "\"blueish\"", NOT_LIKE),
            row(Operator::StringIn(strings(&[""])), "\"\"", "\" \"", POSITIVE),
        ] {
            check(&row);
        }
    }

    #[test]
    fn nothing_is_a_missing_key_or_null() {
        for (json, nothing) in
            [("null", true), ("0", false), ("\"\"", false), ("[]", false), ("{}", false), ("false", false)]
        {
            for arrays in [false, true] {
                assert_eq!(
                    Clause::new(&Operator::IsNullOrUndefined).holds(&Value::json(json), arrays),
                    nothing
                );
                assert_eq!(Clause::new(&Operator::IsNotNull).holds(&Value::json(json), arrays), !nothing);
            }
        }
        assert!(Clause::new(&Operator::IsNullOrUndefined).holds(&Value::Missing, false));
        assert!(!Clause::new(&Operator::IsNotNull).holds(&Value::Missing, false));
    }

    #[test]
    fn a_number_beyond_every_double_is_above_them_all() {
        assert!(Clause::new(&Operator::NumberGreaterThan(f64::MAX)).holds(&Value::json("1e999"), false));
    }
}
