//! Why an event was, or was not, given to a subscription: the matcher's own judgement, clause by clause.

use super::matcher::{Candidate, Subject, folded_types, key_table};
use super::spec::{FilterSpec, Operator};
use super::text::fold;
use super::values::{Elements, Scalar, Text, Value, Values};
use crate::event::{Event, InputSchema};
use crate::ids::Slot;

/// A filter's judgement of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether the event matches: every clause holds.
    pub matched: bool,
    /// One for each part of the filter that asks for something: event types, subject, advanced filters.
    pub judgements: Vec<Judgement>,
}

/// What one clause of a filter made of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The clause in a reader's words, such as ``filter 2: `data.size` NumberLessThan 10``.
    pub clause: String,
    pub holds: bool,
    /// What the event has there, as JSON, shortened; `missing` or `null` when there is nothing.
    pub found: String,
}

/// Characters of a value or an operand that are shown.
const SHOWN_CHARS_MAX: usize = 200;
/// Elements of an array that are shown.
const SHOWN_ELEMENTS_MAX: usize = 10;

impl FilterSpec {
    /// Judges `event` as [`Matcher::matches`](super::Matcher::matches) would, and says how each clause came out.
    pub fn explain(&self, schema: InputSchema, event: &Event<'_>) -> Explanation {
        let keys = key_table(schema, std::iter::once(self));
        let candidate = Candidate::new(schema, Slot(0), self, &keys);
        let mut judgements = Vec::new();
        if let (Some(folded), Some(types)) = (folded_types(self), &self.event_types) {
            judgements.push(Judgement {
                clause: format!("event type is one of {}", list(types.iter().map(|name| quoted(name)))),
                holds: folded.contains(&*fold(&event.event_type)),
                found: quoted(&event.event_type),
            });
        }
        let subject = Subject::new(event.subject.as_deref());
        let case = if self.subject_case_sensitive { " (case-sensitive)" } else { "" };
        let parts = [
            ("begins", &self.subject_begins_with, candidate.begins(&subject)),
            ("ends", &self.subject_ends_with, candidate.ends(&subject)),
        ];
        for (verb, text, holds) in parts {
            if !text.is_empty() {
                let found = event.subject.as_deref().map_or_else(|| "missing".to_owned(), quoted);
                let clause = format!("subject {verb} with {}{case}", quoted(text));
                judgements.push(Judgement { clause, holds, found });
            }
        }
        let mut values = Values::new(&keys, event);
        for (index, (filter, (key, clause))) in self.advanced.iter().zip(&candidate.clauses).enumerate() {
            let value = values.get(*key);
            judgements.push(Judgement {
                clause: shortened(&format!(
                    "filter {index}: `{}` {}{}",
                    filter.key,
                    filter.operator.name(),
                    operand(&filter.operator)
                )),
                holds: candidate.holds(clause, value),
                found: shown(value),
            });
        }
        let matched = judgements.iter().all(|judgement| judgement.holds);
        Explanation { matched, judgements }
    }
}

/// The operand, led by a blank; nothing for an operator without one.
fn operand(operator: &Operator) -> String {
    match operator {
        Operator::NumberIn(values) | Operator::NumberNotIn(values) => {
            format!(" {}", list(values.iter().map(f64::to_string)))
        }
        Operator::NumberLessThan(value)
        | Operator::NumberGreaterThan(value)
        | Operator::NumberLessThanOrEquals(value)
        | Operator::NumberGreaterThanOrEquals(value) => format!(" {value}"),
        Operator::NumberInRange(ranges) | Operator::NumberNotInRange(ranges) => {
            format!(" {}", list(ranges.iter().map(|(low, high)| format!("[{low}, {high}]"))))
        }
        Operator::BoolEquals(value) => format!(" {value}"),
        Operator::StringIn(values)
        | Operator::StringNotIn(values)
        | Operator::StringContains(values)
        | Operator::StringNotContains(values)
        | Operator::StringBeginsWith(values)
        | Operator::StringNotBeginsWith(values)
        | Operator::StringEndsWith(values)
        | Operator::StringNotEndsWith(values) => format!(" {}", list(values.iter().map(|text| quoted(text)))),
        Operator::IsNullOrUndefined | Operator::IsNotNull => String::new(),
    }
}

fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Missing => "missing".to_owned(),
        Value::Null => "null".to_owned(),
        Value::Opaque => "an object, or data that are not JSON".to_owned(),
        Value::Scalar(Scalar { number: Some(number), .. }) => number.to_string(),
        Value::Scalar(Scalar { boolean: Some(boolean), .. }) => boolean.to_string(),
        Value::Scalar(Scalar { text, .. }) => {
            text.as_ref().map_or_else(String::new, |text| quoted(&text.raw))
        }
        Value::Array(Elements { numbers, booleans, texts }) => {
            let text = |text: &Text<'_>| quoted(&text.raw);
            let elements = numbers.iter().map(f64::to_string);
            let elements = elements.chain(booleans.iter().map(bool::to_string)).chain(texts.iter().map(text));
            format!("an array with {}", list(elements))
        }
    }
}

fn quoted(text: &str) -> String {
    shortened(&serde_json::Value::from(text).to_string())
}

fn list(elements: impl Iterator<Item = String>) -> String {
    let mut elements = elements;
    let mut shown: Vec<_> = elements.by_ref().take(SHOWN_ELEMENTS_MAX).collect();
    let more = elements.count();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::Data;

    fn check(filter: &serde_json::Value, expected: &[(&str, bool, &str)]) {
        let event = Event {
            schema: InputSchema::EventGrid,
            id: "1".into(),
            event_type: "Created".into(),
            source: "".into(),
            subject: Some("Orders/1".into()),
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: Vec::new(),
            data: Data::Json(r#"{"n": 5, "s": "Text", "list": [1, "A", {}], "o": {}, "z": null}"#.into()),
        };
        let spec = FilterSpec::from_basic(filter).expect("a valid filter");
        let explanation = spec.explain(event.schema, &event);
        let judgements: Vec<_> =
            explanation.judgements.iter().map(|one| (&*one.clause, one.holds, &*one.found)).collect();
        assert_eq!(judgements, expected);
        assert_eq!(explanation.matched, expected.iter().all(|(_, holds, _)| *holds));
    }

    #[test]
    fn each_clause_says_what_it_asked_and_what_it_found() {
        check(&json!({}), &[]);
        check(
            &json!({ "includedEventTypes": ["a", "b"], "subjectBeginsWith": "orders", "subjectEndsWith": "2" }),
            &[
                ("event type is one of \"a\", \"b\"", false, "\"Created\""),
                ("subject begins with \"orders\"", true, "\"Orders/1\""),
                ("subject ends with \"2\"", false, "\"Orders/1\""),
            ],
        );
        check(
            &json!({ "enableAdvancedFilteringOnArrays": true, "advancedFilters": [
                { "key": "data.n", "operatorType": "NumberInRange", "values": [[1, 2], [6.5, 7]] },
                { "key": "data.s", "operatorType": "StringIn", "values": ["TEXT"] },
                { "key": "data.list", "operatorType": "NumberLessThan", "value": 2 },
                { "key": "data.o", "operatorType": "IsNotNull" },
                { "key": "data.z", "operatorType": "BoolEquals", "value": true },
                { "key": "data.x", "operatorType": "IsNullOrUndefined" },
            ] }),
            &[
                ("filter 0: `data.n` NumberInRange [1, 2], [6.5, 7]", false, "5"),
                ("filter 1: `data.s` StringIn \"TEXT\"", true, "\"Text\""),
                ("filter 2: `data.list` NumberLessThan 2", true, "an array with 1, \"A\""),
                ("filter 3: `data.o` IsNotNull", true, "an object, or data that are not JSON"),
                ("filter 4: `data.z` BoolEquals true", false, "null"),
                ("filter 5: `data.x` IsNullOrUndefined", true, "missing"),
            ],
        );
    }

    #[test]
    fn what_is_long_is_shortened() {
        let long = "é".repeat(SHOWN_CHARS_MAX + 1);
        assert_eq!(quoted(&long).chars().count(), SHOWN_CHARS_MAX + 1);
        assert_eq!(list((0..12).map(|n| n.to_string())), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 2 more");
    }
}
