//! A second matcher, written to be obviously right and nothing else: it builds the whole event as one JSON value
//! and reads the contract's tables from top to bottom. The real one must agree with it on everything.
//!
//! Built for tests and, with the feature `oracle`, for the checker of the simulation; never shipped. It shares
//! the types of filters and events with the real matcher and no line of its work.

#[cfg(test)]
mod tests;

use serde_json::Value;

use super::{AdvancedFilter, FilterSpec, Operator};
use crate::event::{Data, Event, InputSchema};

fn lower(text: &str) -> String {
    let lower = |char: char| if char == 'İ' { char } else { char.to_lowercase().next().unwrap_or(char) };
    text.chars().map(lower).collect()
}

/// The value at a key and whether it is in an extension attribute.
fn look_up(event: &Event<'_>, key: &str) -> (Option<Value>, bool) {
    let members: Vec<&str> = key.split('.').collect();
    if lower(members[0]) == "data" {
        let Data::Json(json) = &event.data else {
            let opaque = matches!(event.data, Data::Binary(_)) && members.len() == 1;
            return (opaque.then(|| serde_json::json!({})), false);
        };
        let mut value: Value = serde_json::from_str(json).expect("data of an accepted event are JSON");
        for member in &members[1..] {
            match value.as_object().and_then(|object| object.get(*member)) {
                Some(inner) => value = inner.clone(),
                None => return (None, false),
            }
        }
        return (Some(value), false);
    }
    let text = |text: Option<&str>| (text.map(Value::from), false);
    let cloud = event.schema == InputSchema::CloudEvent;
    let name = lower(key);
    match name.as_str() {
        "id" => return text(Some(&event.id)),
        "source" => return text(Some(&event.source)),
        "type" => return text(Some(&event.event_type)),
        "subject" => return text(event.subject.as_deref()),
        "time" => return text(event.time.as_deref()),
        "specversion" => return text(cloud.then_some("1.0")),
        _ => {}
    }
    if cloud {
        for extension in &event.extensions {
            if extension.name == name {
                return (Some(serde_json::from_str(&extension.json).expect("so are extensions")), true);
            }
        }
    }
    match name.as_str() {
        "eventtype" => text(Some(&event.event_type)),
        "topic" => text(Some(&event.source)),
        _ => (None, false),
    }
}

fn hit(operator: &Operator, value: &Value, extension: bool) -> Option<bool> {
    let number = || value.as_f64();
    let text = || match value {
        Value::String(text) => Some(lower(text)),
        Value::Number(_) | Value::Bool(_) if extension => Some(value.to_string()),
        _ => None,
    };
    let any_text = |values: &[String], ask: fn(&str, &str) -> bool| {
        let text = text()?;
        Some(values.iter().any(|value| ask(&text, &lower(value))))
    };
    match operator {
        Operator::NumberIn(values) | Operator::NumberNotIn(values) => {
            number().map(|number| values.contains(&number))
        }
        Operator::NumberLessThan(value) => number().map(|number| number < *value),
        Operator::NumberGreaterThan(value) => number().map(|number| number > *value),
        Operator::NumberLessThanOrEquals(value) => number().map(|number| number <= *value),
        Operator::NumberGreaterThanOrEquals(value) => number().map(|number| number >= *value),
        Operator::NumberInRange(ranges) | Operator::NumberNotInRange(ranges) => {
            number().map(|number| ranges.iter().any(|(low, high)| *low <= number && number <= *high))
        }
        Operator::BoolEquals(wanted) => value.as_bool().map(|value| value == *wanted),
        Operator::StringIn(values) | Operator::StringNotIn(values) => {
            any_text(values, |text, value| text == value)
        }
        Operator::StringContains(values) | Operator::StringNotContains(values) => {
            any_text(values, |text, value| text.contains(value))
        }
        Operator::StringBeginsWith(values) | Operator::StringNotBeginsWith(values) => {
            any_text(values, |text, value| text.starts_with(value))
        }
        Operator::StringEndsWith(values) | Operator::StringNotEndsWith(values) => {
            any_text(values, |text, value| text.ends_with(value))
        }
        Operator::IsNullOrUndefined | Operator::IsNotNull => unreachable!("asks no scalar"),
    }
}

fn holds(filter: &AdvancedFilter, arrays: bool, event: &Event<'_>) -> bool {
    let (value, extension) = look_up(event, &filter.key);
    let operator = &filter.operator;
    let negative = operator.name().contains("Not");
    let nothing = value.as_ref().is_none_or(Value::is_null);
    match operator {
        Operator::IsNullOrUndefined => return nothing,
        Operator::IsNotNull => return !nothing,
        _ => {}
    }
    let otherwise = ["NumberNotIn", "StringNotIn", "NumberNotInRange"].contains(&operator.name());
    match value {
        Some(Value::Array(elements)) if arrays => {
            elements.iter().any(|element| hit(operator, element, false) == Some(true)) != negative
        }
        Some(value) => hit(operator, &value, extension).map_or(otherwise, |hit| hit != negative),
        None => otherwise,
    }
}

/// Whether an event passes a filter.
pub fn matches(spec: &FilterSpec, event: &Event<'_>) -> bool {
    let types = spec.event_types.as_deref().unwrap_or_default();
    let case = |text: &str| if spec.subject_case_sensitive { text.to_owned() } else { lower(text) };
    let subject = case(event.subject.as_deref().unwrap_or_default());
    let type_holds = types.is_empty()
        || types.iter().any(|name| lower(name) == "all" || lower(name) == lower(&event.event_type));
    type_holds
        && subject.starts_with(&case(&spec.subject_begins_with))
        && subject.ends_with(&case(&spec.subject_ends_with))
        && spec.advanced.iter().all(|filter| holds(filter, spec.arrays, event))
}
