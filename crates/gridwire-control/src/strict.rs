//! Members of a body that no resource has: a misspelled filter would deliver everything.
//!
//! Resource Manager ignores what it does not know, and its clients count on that. Whoever would rather be told
//! sends `Prefer: handling=strict` (RFC 7240, section 4.4) with a PUT; our own command line does.

use gridwire_core::api_error::ApiError;
use http::HeaderMap;
use serde_json::{Map, Value};

use crate::members::invalid;

/// What a resource may carry beside its properties.
const BESIDE: &[&str] = &[
    "id",
    "name",
    "type",
    "location",
    "tags",
    "sku",
    "identity",
    "systemData",
    "etag",
    "kind",
    "properties",
];

/// What the server writes: read by many a client and sent back as it came.
const WRITTEN_BY_US: &[&str] = &[
    "provisioningState",
    "endpoint",
    "endpointBaseUrl",
    "hostname",
    "lettersAt",
    "metricResourceId",
    "privateEndpointConnections",
    "tls",
    "topic",
    "topicsConfiguration",
    "topicSpacesConfiguration",
    "validationState",
    "expectedTxtRecordName",
    "expectedTxtRecordValue",
];

/// Whether the client asks for strict handling. Values as `Prefer` lists them, in any case.
pub(crate) fn is_asked_for(headers: &HeaderMap) -> bool {
    let mut preferences = headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    preferences.any(|preference| {
        let wanted = preference.split(';').next().unwrap_or_default();
        wanted.split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("handling")
                && value.trim().trim_matches('"').eq_ignore_ascii_case("strict")
        })
    })
}

/// Refuses a body with members that were not understood: those that are not in `kept`, the properties as
/// they would be stored. What is null or empty says nothing, so it may have any name.
pub(crate) fn check(body: &Map<String, Value>, kept: &Map<String, Value>) -> Result<(), ApiError> {
    let mut unknown: Vec<String> = body
        .iter()
        .filter(|(name, value)| !BESIDE.contains(&name.as_str()) && says_something(value))
        .map(|(name, _)| name.clone())
        .collect();
    if let Some(Value::Object(properties)) = body.get("properties") {
        collect("properties", properties, kept, &mut unknown);
    }
    if unknown.is_empty() {
        return Ok(());
    }
    unknown.sort_unstable();
    let names: Vec<_> = unknown.iter().take(10).map(|path| format!("`{path}`")).collect();
    Err(invalid(format!("This resource has no property {}.", names.join(", "))))
}

fn collect(at: &str, given: &Map<String, Value>, kept: &Map<String, Value>, unknown: &mut Vec<String>) {
    for (name, value) in given {
        let path = format!("{at}.{name}");
        match (value, kept.get(name)) {
            (value, None) if says_something(value) && !WRITTEN_BY_US.contains(&name.as_str()) => {
                unknown.push(path);
            }
            (Value::Object(given), Some(Value::Object(kept))) => collect(&path, given, kept, unknown),
            (Value::Array(given), Some(Value::Array(kept))) => {
                for (index, pair) in given.iter().zip(kept).enumerate() {
                    if let (Value::Object(given), Value::Object(kept)) = pair {
                        collect(&format!("{path}[{index}]"), given, kept, unknown);
                    }
                }
            }
            _ => {}
        }
    }
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_refused(body: Value, kept: Value, expected: &str) {
        let (Value::Object(body), Value::Object(kept)) = (body, kept) else { panic!("not objects") };
        let message = check(&body, &kept).err().map(|error| error.message).unwrap_or_default();
        assert_eq!(message, expected);
    }

    #[test]
    fn members_that_nobody_understood_are_named() {
        check_refused(
            json!({ "locaton": "x", "properties": { "filter": { "includedEventTypess": ["a"] } } }),
            json!({ "filter": { "includedEventTypes": [] } }),
            "This resource has no property `locaton`, `properties.filter.includedEventTypess`.",
        );
        check_refused(
            json!({ "properties": { "filters": [{ "key": "a", "valeus": [1] }] } }),
            json!({ "filters": [{ "key": "a", "values": [] }] }),
            "This resource has no property `properties.filters[0].valeus`.",
        );
    }

    #[test]
    fn what_is_kept_written_by_us_or_empty_is_fine() {
        check_refused(
            json!({ "id": "/x", "tags": { "a": "b" },
                    "properties": { "provisioningState": "Succeeded", "labels": ["a"], "mapping": null,
                                    "rules": [], "tenant": "" } }),
            json!({ "labels": ["a"] }),
            "",
        );
    }

    #[test]
    fn strictness_is_a_preference_among_others() {
        for (value, strict) in [
            ("handling=strict", true),
            ("respond-async, Handling=\"Strict\"; x=y", true),
            ("handling=lenient", false),
            ("strict", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", value.parse().unwrap());
            assert_eq!(is_asked_for(&headers), strict, "{value}");
        }
    }
}
