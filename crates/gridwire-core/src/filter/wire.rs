//! Filters in the shapes of the management API: the `filter` object of an event subscription and the
//! `filtersConfiguration` object of a namespace topic's subscription (`filters` contract section 1).
//!
//! Unknown properties are ignored, since clients send them; what is known must be right. Property names are
//! matched exactly, `operatorType` without case.

use serde_json::{Map, Number, Value, json};

use super::key::{self, KeyError};
use super::spec::{AdvancedFilter, FilterSpec, Operator};
use crate::api_error::{ApiError, ErrorCode};
use crate::limits::{
    ADVANCED_FILTERS_MAX, ATTRIBUTE_BYTES_MAX, FILTER_KEY_DEPTH_MAX, FILTER_STRING_CHARS_MAX,
    FILTER_VALUES_MAX,
};

/// Why a filter was refused. `place` is the property, with the index of an advanced filter and its key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("{place} {problem}")]
    Invalid { place: String, problem: String },
    #[error("{place} {problem}")]
    TooComplex { place: String, problem: String },
}

impl FilterError {
    /// The answer to the request that brought the filter: `invalid_filter` or `filter_too_complex`, both 400.
    pub fn to_api_error(&self) -> ApiError {
        let code = match self {
            Self::Invalid { .. } => ErrorCode::InvalidFilter,
            Self::TooComplex { .. } => ErrorCode::FilterTooComplex,
        };
        ApiError::new(code, self.to_string())
    }

    fn invalid(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { place: place.into(), problem: problem.into() }
    }

    fn too_complex(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::TooComplex { place: place.into(), problem: problem.into() }
    }
}

impl FilterSpec {
    /// Reads the `filter` object of an event subscription; null takes every event.
    pub fn from_basic(filter: &Value) -> Result<Self, FilterError> {
        let Some(filter) = Object::new(filter, "filter")? else {
            return Ok(Self::default());
        };
        Ok(Self {
            event_types: filter.event_types()?,
            subject_begins_with: filter.subject("subjectBeginsWith")?,
            subject_ends_with: filter.subject("subjectEndsWith")?,
            subject_case_sensitive: filter.bool("isSubjectCaseSensitive")?,
            arrays: filter.bool("enableAdvancedFilteringOnArrays")?,
            advanced: filter.advanced("advancedFilters")?,
        })
    }

    /// Reads the `filtersConfiguration` object of a namespace topic's subscription; null takes every event.
    /// The model has no switch for arrays, so they are always judged by their elements.
    pub fn from_namespace(configuration: &Value) -> Result<Self, FilterError> {
        let Some(configuration) = Object::new(configuration, "filtersConfiguration")? else {
            return Ok(Self { arrays: true, ..Self::default() });
        };
        Ok(Self {
            event_types: configuration.event_types()?,
            arrays: true,
            advanced: configuration.advanced("filters")?,
            ..Self::default()
        })
    }

    /// The `filter` object of an event subscription, with every default spelled out.
    pub fn to_basic(&self) -> Value {
        let mut filter = self.common("advancedFilters");
        filter.insert("subjectBeginsWith".into(), json!(self.subject_begins_with));
        filter.insert("subjectEndsWith".into(), json!(self.subject_ends_with));
        filter.insert("isSubjectCaseSensitive".into(), json!(self.subject_case_sensitive));
        filter.insert("enableAdvancedFilteringOnArrays".into(), json!(self.arrays));
        Value::Object(filter)
    }

    /// The `filtersConfiguration` object of a namespace topic's subscription. What that model cannot say (the
    /// subject rules) is left out.
    pub fn to_namespace(&self) -> Value {
        Value::Object(self.common("filters"))
    }

    fn common(&self, advanced: &str) -> Map<String, Value> {
        let mut object = Map::new();
        if let Some(types) = &self.event_types {
            object.insert("includedEventTypes".into(), json!(types));
        }
        if !self.advanced.is_empty() {
            object.insert(advanced.into(), self.advanced.iter().map(render).collect());
        }
        object
    }
}

/// A JSON object and where it stands, for messages.
struct Object<'a> {
    members: &'a Map<String, Value>,
    place: &'a str,
}

impl<'a> Object<'a> {
    fn new(value: &'a Value, place: &'a str) -> Result<Option<Self>, FilterError> {
        match value {
            Value::Null => Ok(None),
            Value::Object(members) => Ok(Some(Self { members, place })),
            _ => Err(FilterError::invalid(format!("`{place}`"), "must be an object")),
        }
    }

    /// The member `name`, unless it is absent or null.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    fn at(&self, name: &str) -> String {
        format!("`{}.{name}`", self.place)
    }

    fn bool(&self, name: &str) -> Result<bool, FilterError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(FilterError::invalid(self.at(name), "must be true or false")),
        }
    }

    fn subject(&self, name: &str) -> Result<String, FilterError> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => attribute_text(text, || self.at(name)),
            Some(_) => Err(FilterError::invalid(self.at(name), "must be a string")),
        }
    }

    fn event_types(&self) -> Result<Option<Vec<String>>, FilterError> {
        const NAME: &str = "includedEventTypes";
        let types = match self.get(NAME) {
            None => return Ok(None),
            Some(Value::Array(types)) => types,
            Some(_) => return Err(FilterError::invalid(self.at(NAME), "must be an array of strings")),
        };
        let each = |(index, value): (usize, &Value)| match value {
            Value::String(text) => attribute_text(text, || self.at(&format!("{NAME}[{index}]"))),
            _ => Err(FilterError::invalid(self.at(&format!("{NAME}[{index}]")), "must be a string")),
        };
        types.iter().enumerate().map(each).collect::<Result<_, _>>().map(Some)
    }

    fn advanced(&self, name: &str) -> Result<Vec<AdvancedFilter>, FilterError> {
        let filters = match self.get(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(filters)) => filters,
            Some(_) => return Err(FilterError::invalid(self.at(name), "must be an array of filters")),
        };
        if filters.len() > ADVANCED_FILTERS_MAX {
            let problem = format!("has {} filters, and {ADVANCED_FILTERS_MAX} are allowed", filters.len());
            return Err(FilterError::too_complex(self.at(name), problem));
        }
        let mut parsed = Vec::with_capacity(filters.len());
        let mut values = 0;
        for (index, filter) in filters.iter().enumerate() {
            let place = format!("{}.{name}[{index}]", self.place);
            let filter = parse(filter, &place)?;
            values += filter.operator.value_count();
            parsed.push(filter);
        }
        if values > FILTER_VALUES_MAX {
            let problem = format!("holds {values} values in all, and {FILTER_VALUES_MAX} are allowed");
            return Err(FilterError::too_complex(self.at(name), problem));
        }
        Ok(parsed)
    }
}

/// A string to compare with an attribute. One longer than any attribute could never match.
fn attribute_text(text: &str, place: impl FnOnce() -> String) -> Result<String, FilterError> {
    if text.len() > ATTRIBUTE_BYTES_MAX {
        let problem = format!("has {} bytes, and {ATTRIBUTE_BYTES_MAX} are allowed", text.len());
        return Err(FilterError::too_complex(place(), problem));
    }
    Ok(text.to_owned())
}

/// Reads one advanced filter. Its number of values is checked by the caller, over all filters.
fn parse(filter: &Value, place: &str) -> Result<AdvancedFilter, FilterError> {
    let Some(filter) = Object::new(filter, place)? else {
        return Err(FilterError::invalid(format!("`{place}`"), "must be an object"));
    };
    let key = match filter.get("key") {
        Some(Value::String(key)) if !key.is_empty() => key,
        Some(Value::String(_)) => return Err(FilterError::invalid(filter.at("key"), "must not be empty")),
        Some(_) => return Err(FilterError::invalid(filter.at("key"), "must be a string")),
        None => return Err(FilterError::invalid(filter.at("key"), "is missing")),
    };
    check_key(key, &filter)?;
    let operands = Operands { filter: &filter, key };
    let operator_type = match filter.get("operatorType") {
        Some(Value::String(name)) => name,
        Some(_) => return Err(operands.invalid("operatorType", "must be a string")),
        None => return Err(operands.invalid("operatorType", "is missing")),
    };
    let operator = match operator_type.to_ascii_lowercase().as_str() {
        "numberin" => Operator::NumberIn(operands.values("a number", Value::as_f64)?),
        "numbernotin" => Operator::NumberNotIn(operands.values("a number", Value::as_f64)?),
        "numberlessthan" => Operator::NumberLessThan(operands.value("a number", Value::as_f64)?),
        "numbergreaterthan" => Operator::NumberGreaterThan(operands.value("a number", Value::as_f64)?),
        "numberlessthanorequals" => {
            Operator::NumberLessThanOrEquals(operands.value("a number", Value::as_f64)?)
        }
        "numbergreaterthanorequals" => {
            Operator::NumberGreaterThanOrEquals(operands.value("a number", Value::as_f64)?)
        }
        "numberinrange" => Operator::NumberInRange(operands.values(RANGE, range)?),
        "numbernotinrange" => Operator::NumberNotInRange(operands.values(RANGE, range)?),
        "boolequals" => Operator::BoolEquals(operands.value("true or false", Value::as_bool)?),
        "stringin" => Operator::StringIn(operands.strings()?),
        "stringnotin" => Operator::StringNotIn(operands.strings()?),
        "stringcontains" => Operator::StringContains(operands.strings()?),
        "stringnotcontains" => Operator::StringNotContains(operands.strings()?),
        "stringbeginswith" => Operator::StringBeginsWith(operands.strings()?),
        "stringnotbeginswith" => Operator::StringNotBeginsWith(operands.strings()?),
        "stringendswith" => Operator::StringEndsWith(operands.strings()?),
        "stringnotendswith" => Operator::StringNotEndsWith(operands.strings()?),
        "isnullorundefined" => Operator::IsNullOrUndefined,
        "isnotnull" => Operator::IsNotNull,
        _ => {
            let shown: String = operator_type.chars().take(64).collect();
            return Err(operands.invalid("operatorType", &format!("`{shown}` is not an operator")));
        }
    };
    Ok(AdvancedFilter { key: key.clone(), operator })
}

fn check_key(key: &str, filter: &Object<'_>) -> Result<(), FilterError> {
    if key.chars().count() > FILTER_STRING_CHARS_MAX {
        let problem = format!("is longer than the {FILTER_STRING_CHARS_MAX} characters that are allowed");
        return Err(FilterError::too_complex(filter.at("key"), problem));
    }
    match key::check(key) {
        Ok(()) => Ok(()),
        Err(KeyError::EmptyMember) => {
            Err(FilterError::invalid(filter.at("key"), format!("`{key}` has an empty member name")))
        }
        Err(KeyError::TooDeep { members }) => {
            let problem = format!("`{key}` has {members} members, and {FILTER_KEY_DEPTH_MAX} are allowed");
            Err(FilterError::too_complex(filter.at("key"), problem))
        }
    }
}

const RANGE: &str = "a pair of numbers, the lower first";

/// A range the wrong way round could never hold anything, so it is refused as the mistake that it is.
fn range(value: &Value) -> Option<(f64, f64)> {
    let [low, high] = value.as_array()?.as_slice() else {
        return None;
    };
    let (low, high) = (low.as_f64()?, high.as_f64()?);
    (low <= high).then_some((low, high))
}

/// What an operator compares to: `value` or `values` of a filter.
struct Operands<'a> {
    filter: &'a Object<'a>,
    key: &'a str,
}

impl Operands<'_> {
    fn place(&self, name: &str) -> String {
        format!("{} (key `{}`)", self.filter.at(name), self.key)
    }

    fn invalid(&self, name: &str, problem: &str) -> FilterError {
        FilterError::invalid(self.place(name), problem)
    }

    fn value<T>(&self, kind: &str, read: fn(&Value) -> Option<T>) -> Result<T, FilterError> {
        let value = self.filter.get("value").ok_or_else(|| self.invalid("value", "is missing"))?;
        read(value).ok_or_else(|| self.invalid("value", &format!("must be {kind}")))
    }

    fn values<T>(&self, kind: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>, FilterError> {
        let values = match self.filter.get("values") {
            None => return Err(self.invalid("values", "is missing")),
            Some(Value::Array(values)) if values.is_empty() => {
                return Err(self.invalid("values", "must not be empty"));
            }
            Some(Value::Array(values)) => values,
            Some(_) => return Err(self.invalid("values", "must be an array")),
        };
        if values.len() > FILTER_VALUES_MAX {
            let problem = format!("has {} values, and {FILTER_VALUES_MAX} are allowed", values.len());
            return Err(FilterError::too_complex(self.place("values"), problem));
        }
        let each = |(index, value): (usize, &Value)| {
            let problem = || self.invalid(&format!("values[{index}]"), &format!("must be {kind}"));
            read(value).ok_or_else(problem)
        };
        values.iter().enumerate().map(each).collect()
    }

    fn strings(&self) -> Result<Vec<String>, FilterError> {
        let strings = self.values("a string", |value| value.as_str().map(str::to_owned))?;
        let long = strings.iter().position(|text| text.chars().count() > FILTER_STRING_CHARS_MAX);
        if let Some(index) = long {
            let problem = format!("is longer than the {FILTER_STRING_CHARS_MAX} characters that are allowed");
            return Err(FilterError::too_complex(self.place(&format!("values[{index}]")), problem));
        }
        Ok(strings)
    }
}

fn render(filter: &AdvancedFilter) -> Value {
    let mut object = json!({ "operatorType": filter.operator.name(), "key": filter.key });
    match &filter.operator {
        Operator::NumberIn(values) | Operator::NumberNotIn(values) => {
            object["values"] = values.iter().copied().map(number).collect();
        }
        Operator::NumberInRange(ranges) | Operator::NumberNotInRange(ranges) => {
            object["values"] = ranges.iter().map(|&(low, high)| json!([number(low), number(high)])).collect();
        }
        Operator::NumberLessThan(value)
        | Operator::NumberGreaterThan(value)
        | Operator::NumberLessThanOrEquals(value)
        | Operator::NumberGreaterThanOrEquals(value) => object["value"] = number(*value),
        Operator::BoolEquals(value) => object["value"] = json!(value),
        Operator::StringIn(values)
        | Operator::StringNotIn(values)
        | Operator::StringContains(values)
        | Operator::StringNotContains(values)
        | Operator::StringBeginsWith(values)
        | Operator::StringNotBeginsWith(values)
        | Operator::StringEndsWith(values)
        | Operator::StringNotEndsWith(values) => object["values"] = json!(values),
        Operator::IsNullOrUndefined | Operator::IsNotNull => {}
    }
    object
}

/// A number as most people write it: whole numbers without a fraction, as far as a double holds them exactly.
fn number(value: f64) -> Value {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT_MAX {
        #[allow(clippy::cast_possible_truncation, reason = "whole, and within 2^53")]
        return json!(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses one advanced filter of either model and expects it back, in `normal` form.
    fn check_filter(filter: &Value, normal: &Value) {
        let basic = FilterSpec::from_basic(&json!({ "advancedFilters": [filter] })).expect("a valid filter");
        let namespace = FilterSpec::from_namespace(&json!({ "filters": [filter] })).expect("a valid filter");
        assert_eq!(basic.advanced, namespace.advanced);
        assert_eq!(basic.to_basic()["advancedFilters"], json!([normal]));
        assert_eq!(namespace.to_namespace(), json!({ "filters": [normal] }));
        assert_eq!(FilterSpec::from_basic(&basic.to_basic()), Ok(basic));
    }

    fn check_error(filter: &Value, code: ErrorCode, message: &str) {
        let error = FilterSpec::from_basic(filter).expect_err("a filter in error").to_api_error();
        assert_eq!((error.code, &*error.message), (code, message), "{filter}");
        assert_eq!(error.status(), 400);
    }

    /// As [`check_error`], for the second advanced filter.
    fn check_advanced_error(filter: &Value, code: ErrorCode, message: &str) {
        let good = json!({ "key": "k", "operatorType": "IsNotNull" });
        check_error(&json!({ "advancedFilters": [good, filter] }), code, message);
    }

    #[test]
    fn every_operator_is_read_and_written_back() {
        for operator in ["StringIn", "StringNotIn", "StringContains", "StringNotContains", "StringBeginsWith"]
            .into_iter()
            .chain(["StringNotBeginsWith", "StringEndsWith", "StringNotEndsWith"])
        {
            let filter = json!({ "operatorType": operator, "key": "data.Key", "values": ["A", ""] });
            check_filter(&filter, &filter);
        }
        for operator in ["NumberIn", "NumberNotIn"] {
            let values = json!([1, -2.5, 1e300, 0.1]);
            let filter = json!({ "operatorType": operator, "key": "k", "values": values });
            check_filter(&filter, &filter);
        }
        for operator in
            ["NumberLessThan", "NumberGreaterThan", "NumberLessThanOrEquals", "NumberGreaterThanOrEquals"]
        {
            let filter = json!({ "operatorType": operator, "key": "k", "value": 0 });
            check_filter(&filter, &filter);
        }
        for operator in ["NumberInRange", "NumberNotInRange"] {
            let filter = json!({ "operatorType": operator, "key": "k", "values": [[1, 2], [3.5, 3.5]] });
            check_filter(&filter, &filter);
        }
        for value in [true, false] {
            let filter = json!({ "operatorType": "BoolEquals", "key": "k", "value": value });
            check_filter(&filter, &filter);
        }
        for operator in ["IsNullOrUndefined", "IsNotNull"] {
            let filter = json!({ "operatorType": operator, "key": "k" });
            check_filter(&filter, &filter);
        }
    }

    #[test]
    fn operators_have_no_case_and_unknown_properties_are_ignored() {
        check_filter(
            &json!({ "operatorType": "numberIN", "key": "k", "values": [5.0], "value": null, "x": {} }),
            &json!({ "operatorType": "NumberIn", "key": "k", "values": [5] }),
        );
    }

    #[test]
    fn no_filter_takes_every_event() {
        for nothing in
            [json!(null), json!({}), json!({ "includedEventTypes": null, "advancedFilters": null })]
        {
            assert_eq!(FilterSpec::from_basic(&nothing), Ok(FilterSpec::default()));
            let namespace = FilterSpec::from_namespace(&nothing).expect("a valid filter");
            assert_eq!(namespace, FilterSpec { arrays: true, ..FilterSpec::default() });
            assert_eq!(namespace.to_namespace(), json!({}));
        }
        assert_eq!(
            FilterSpec::default().to_basic(),
            json!({
                "subjectBeginsWith": "",
                "subjectEndsWith": "",
                "isSubjectCaseSensitive": false,
                "enableAdvancedFilteringOnArrays": false,
            })
        );
    }

    #[test]
    fn what_the_owner_wrote_is_read_back() {
        let filter = json!({
            "includedEventTypes": ["All"],
            "subjectBeginsWith": "A",
            "subjectEndsWith": "b",
            "isSubjectCaseSensitive": true,
            "enableAdvancedFilteringOnArrays": true,
            "advancedFilters": [{ "key": "k", "operatorType": "IsNotNull" }],
        });
        let spec = FilterSpec::from_basic(&filter).expect("a valid filter");
        assert!(spec.takes_every_type());
        assert_eq!(spec.to_basic(), filter);
        let filter = json!({ "includedEventTypes": ["a"] });
        assert_eq!(FilterSpec::from_namespace(&filter).expect("a valid filter").to_namespace(), filter);
    }

    #[test]
    fn a_property_of_the_wrong_type_is_named() {
        let code = ErrorCode::InvalidFilter;
        check_error(&json!([]), code, "`filter` must be an object");
        check_error(
            &json!({ "includedEventTypes": "a" }),
            code,
            "`filter.includedEventTypes` must be an array of strings",
        );
        check_error(
            &json!({ "includedEventTypes": ["a", 1] }),
            code,
            "`filter.includedEventTypes[1]` must be a string",
        );
        check_error(&json!({ "subjectBeginsWith": 1 }), code, "`filter.subjectBeginsWith` must be a string");
        check_error(
            &json!({ "isSubjectCaseSensitive": "true" }),
            code,
            "`filter.isSubjectCaseSensitive` must be true or false",
        );
        check_error(
            &json!({ "advancedFilters": {} }),
            code,
            "`filter.advancedFilters` must be an array of filters",
        );
        let error = FilterSpec::from_namespace(&json!({ "filters": [null] })).expect_err("no filter");
        assert_eq!(error.to_string(), "`filtersConfiguration.filters[0]` must be an object");
    }

    #[test]
    fn an_advanced_filter_in_error_is_named_by_index_and_key() {
        let code = ErrorCode::InvalidFilter;
        let at = "`filter.advancedFilters[1].";
        for (filter, message) in [
            (json!({ "operatorType": "IsNotNull" }), "key` is missing"),
            (json!({ "operatorType": "IsNotNull", "key": "" }), "key` must not be empty"),
            (json!({ "operatorType": "IsNotNull", "key": 5 }), "key` must be a string"),
            (
                json!({ "operatorType": "IsNotNull", "key": "data..x" }),
                "key` `data..x` has an empty member name",
            ),
            (json!({ "key": "k" }), "operatorType` (key `k`) is missing"),
            (
                json!({ "key": "k", "operatorType": "StringLike" }),
                "operatorType` (key `k`) `StringLike` is not an operator",
            ),
            (json!({ "key": "k", "operatorType": 1 }), "operatorType` (key `k`) must be a string"),
            (json!({ "key": "k", "operatorType": "StringIn" }), "values` (key `k`) is missing"),
            (json!({ "key": "k", "operatorType": "StringIn", "value": "a" }), "values` (key `k`) is missing"),
            (
                json!({ "key": "k", "operatorType": "StringIn", "values": "a" }),
                "values` (key `k`) must be an array",
            ),
            (
                json!({ "key": "k", "operatorType": "StringIn", "values": [] }),
                "values` (key `k`) must not be empty",
            ),
            (
                json!({ "key": "k", "operatorType": "StringIn", "values": ["a", null] }),
                "values[1]` (key `k`) must be a string",
            ),
            (
                json!({ "key": "k", "operatorType": "NumberIn", "values": ["1"] }),
                "values[0]` (key `k`) must be a number",
            ),
            (json!({ "key": "k", "operatorType": "NumberLessThan" }), "value` (key `k`) is missing"),
            (
                json!({ "key": "k", "operatorType": "NumberLessThan", "value": "1" }),
                "value` (key `k`) must be a number",
            ),
            (
                json!({ "key": "k", "operatorType": "BoolEquals", "value": "true" }),
                "value` (key `k`) must be true or false",
            ),
            (
                json!({ "key": "k", "operatorType": "NumberInRange", "values": [[1, 2], [1]] }),
                "values[1]` (key `k`) must be a pair of numbers, the lower first",
            ),
            (
                json!({ "key": "k", "operatorType": "NumberNotInRange", "values": [[2, 1]] }),
                "values[0]` (key `k`) must be a pair of numbers, the lower first",
            ),
        ] {
            check_advanced_error(&filter, code, &format!("{at}{message}"));
        }
    }

    #[test]
    fn a_filter_over_a_limit_is_too_complex() {
        let code = ErrorCode::FilterTooComplex;
        let filters = |count: usize| json!({ "advancedFilters": vec![json!({ "key": "k", "operatorType": "IsNotNull" }); count] });
        assert!(FilterSpec::from_basic(&filters(25)).is_ok());
        check_error(&filters(26), code, "`filter.advancedFilters` has 26 filters, and 25 are allowed");

        let numbers =
            |count: usize| json!({ "key": "k", "operatorType": "NumberIn", "values": vec![1; count] });
        let one = json!({ "key": "k", "operatorType": "NumberLessThan", "value": 1 });
        let range = json!({ "key": "k", "operatorType": "NumberInRange", "values": [[1, 2]] });
        let none = json!({ "key": "k", "operatorType": "IsNotNull" });
        let filters = |count| json!({ "advancedFilters": [numbers(count), one, range, none] });
        assert!(FilterSpec::from_basic(&filters(23)).is_ok());
        check_error(
            &filters(24),
            code,
            "`filter.advancedFilters` holds 26 values in all, and 25 are allowed",
        );
        check_advanced_error(
            &numbers(26),
            code,
            "`filter.advancedFilters[1].values` (key `k`) has 26 values, and 25 are allowed",
        );

        let text =
            |chars: usize| json!({ "key": "k", "operatorType": "StringIn", "values": ["é".repeat(chars)] });
        assert!(FilterSpec::from_basic(&json!({ "advancedFilters": [text(512)] })).is_ok());
        check_advanced_error(
            &text(513),
            code,
            "`filter.advancedFilters[1].values[0]` (key `k`) is longer than the 512 characters that are allowed",
        );
        check_advanced_error(
            &json!({ "key": "k".repeat(513), "operatorType": "IsNotNull" }),
            code,
            "`filter.advancedFilters[1].key` is longer than the 512 characters that are allowed",
        );
        check_advanced_error(
            &json!({ "key": "data.a.b.c.d.e.f.g.h", "operatorType": "IsNotNull" }),
            code,
            "`filter.advancedFilters[1].key` `data.a.b.c.d.e.f.g.h` has 9 members, and 8 are allowed",
        );
        let longest = json!({
            "subjectEndsWith": "x".repeat(4096),
            "includedEventTypes": ["x".repeat(4096)],
            "advancedFilters": [{ "key": "k".repeat(512), "operatorType": "IsNotNull" }],
        });
        assert!(FilterSpec::from_basic(&longest).is_ok());
        check_error(
            &json!({ "subjectEndsWith": "x".repeat(4097) }),
            code,
            "`filter.subjectEndsWith` has 4097 bytes, and 4096 are allowed",
        );
        check_error(
            &json!({ "includedEventTypes": ["x".repeat(4097)] }),
            code,
            "`filter.includedEventTypes[0]` has 4097 bytes, and 4096 are allowed",
        );
    }
}
