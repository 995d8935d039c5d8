//! Reading the members of a request's JSON, so that each refusal names the member it is about.

use std::ops::RangeInclusive;

use gridwire_core::api_error::{ApiError, ErrorCode};
use serde_json::{Map, Value};

/// An object of a body and where it stands. An absent member and one that is `null` are the same: the
/// clients send either.
#[derive(Clone, Debug)]
pub(crate) struct Members<'a> {
    map: &'a Map<String, Value>,
    /// Path of the object, e.g. `properties.retryPolicy`; empty for the body itself.
    at: String,
}

impl<'a> Members<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>, at: &str) -> Self {
        Self { map, at: at.to_owned() }
    }

    /// The object `value`, or a refusal that names `at`.
    pub(crate) fn of(value: &'a Value, at: &str) -> Result<Self, ApiError> {
        let Value::Object(map) = value else {
            return Err(invalid(format!("The property `{at}` must be a JSON object.")));
        };
        Ok(Self::new(map, at))
    }

    pub(crate) fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    /// A refusal about the member `name`: `must` completes the sentence.
    pub(crate) fn wrong(&self, name: &str, must: &str) -> ApiError {
        invalid(format!("The property `{}` must be {must}.", self.path(name)))
    }

    pub(crate) fn value(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<Members<'a>>, ApiError> {
        self.value(name).map(|value| Members::of(value, &self.path(name))).transpose()
    }

    pub(crate) fn array(&self, name: &str) -> Result<&'a [Value], ApiError> {
        match self.value(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(self.wrong(name, "a JSON array")),
        }
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "a string")),
        }
    }

    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    /// A whole number in `range`; a fraction is refused rather than rounded.
    pub(crate) fn integer(&self, name: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, ApiError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        match number.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                Err(self
                    .wrong(name, &format!("a whole number between {} and {}", range.start(), range.end())))
            }
        }
    }

    /// One of `choices`, compared without regard to case as Resource Manager does; the choice's own writing
    /// is returned with its value.
    pub(crate) fn choice<T: Copy>(
        &self,
        name: &str,
        choices: &[(&'static str, T)],
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        if let Some((_, value)) = choices.iter().find(|(known, _)| known.eq_ignore_ascii_case(text)) {
            return Ok(Some(*value));
        }
        let known: Vec<_> = choices.iter().map(|(known, _)| format!("`{known}`")).collect();
        Err(self.wrong(name, &format!("one of {}", known.join(", "))))
    }
}

/// A refusal of a resource.
pub(crate) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidResource, message)
}

/// Refuses a text that could forge a log line or a header.
pub(crate) fn without_controls(members: &Members<'_>, name: &str, text: &str) -> Result<(), ApiError> {
    if text.chars().any(char::is_control) {
        return Err(members.wrong(name, "free of control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_names_the_member_and_what_is_allowed() {
        let body = json!({"properties": {"count": 1.5, "name": 7, "on": "yes", "mode": "Fast", "list": {}}});
        let body = Members::of(&body, "").unwrap().object("properties").unwrap().unwrap();
        for (error, expected) in [
            (
                body.integer("count", 1..=7).unwrap_err(),
                "The property `properties.count` must be a whole number between 1 and 7.",
            ),
            (body.text("name").unwrap_err(), "The property `properties.name` must be a string."),
            (body.boolean("on").unwrap_err(), "The property `properties.on` must be true or false."),
            (body.array("list").unwrap_err(), "The property `properties.list` must be a JSON array."),
            (
                body.choice("mode", &[("Queue", 0), ("Push", 1)]).unwrap_err(),
                "The property `properties.mode` must be one of `Queue`, `Push`.",
            ),
        ] {
            assert_eq!(error.message, expected);
            assert_eq!(error.code, ErrorCode::InvalidResource);
        }
    }

    #[test]
    fn null_is_absent_and_choices_ignore_case() {
        let body = json!({"a": null, "mode": "PUSH"});
        let body = Members::of(&body, "").unwrap();
        assert_eq!(body.text("a"), Ok(None));
        assert_eq!(body.choice("mode", &[("Queue", 0), ("Push", 1)]), Ok(Some(1)));
    }
}
