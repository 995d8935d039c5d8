//! A custom topic's `inputSchemaMapping` (`publish` contract 3.4): where its events keep what an Event Grid
//! event must have.

use serde_json::{Map, Value, json};

use super::check::is_plain;
use crate::api_error::{ApiError, ErrorCode};
use crate::limits::FILTER_KEY_DEPTH_MAX;

/// Where each property comes from. A source field is a member's name; dots lead into nested objects when
/// there is no member with the dotted name itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputMapping {
    /// `None`: every event is given a new id.
    pub id: Option<String>,
    pub topic: Option<String>,
    /// `None`: the publish time.
    pub event_time: Option<String>,
    pub event_type: MappedField,
    pub subject: MappedField,
    pub data_version: MappedField,
}

/// A source field, and the value for events that lack it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappedField {
    pub source_field: Option<String>,
    pub default_value: Option<String>,
}

impl InputMapping {
    /// The mapping of a topic that has none: the members of an Event Grid event, by their own names.
    pub(super) fn by_name() -> Self {
        let field = |name: &str| MappedField { source_field: Some(name.to_owned()), default_value: None };
        Self {
            id: Some("id".to_owned()),
            topic: Some("topic".to_owned()),
            event_time: Some("eventTime".to_owned()),
            event_type: field("eventType"),
            subject: field("subject"),
            data_version: field("dataVersion"),
        }
    }

    /// Reads ARM's `{"inputSchemaMappingType":"Json","properties":{…}}`. Unknown members are ignored, as
    /// everywhere in ARM bodies.
    ///
    /// # Errors
    ///
    /// `invalid_resource`, naming the member.
    pub fn from_arm(value: &Value) -> Result<Self, ApiError> {
        let outer = value.as_object().ok_or_else(|| invalid("", "must be an object"))?;
        if !outer
            .get("inputSchemaMappingType")
            .and_then(Value::as_str)
            .is_some_and(|kind| kind.eq_ignore_ascii_case("Json"))
        {
            return Err(invalid(".inputSchemaMappingType", "must be 'Json'"));
        }
        let none = Map::new();
        let properties = match outer.get("properties") {
            None | Some(Value::Null) => &none,
            Some(Value::Object(properties)) => properties,
            Some(_) => return Err(invalid(".properties", "must be an object")),
        };
        Ok(Self {
            id: field(properties, "id")?.source_field,
            topic: field(properties, "topic")?.source_field,
            event_time: field(properties, "eventTime")?.source_field,
            event_type: field(properties, "eventType")?,
            subject: field(properties, "subject")?,
            data_version: field(properties, "dataVersion")?,
        })
    }

    /// The shape that [`InputMapping::from_arm`] reads, without what is not set.
    pub fn to_arm(&self) -> Value {
        let mut properties = Map::new();
        for (name, source) in [("id", &self.id), ("topic", &self.topic), ("eventTime", &self.event_time)] {
            if let Some(source) = source {
                properties.insert(name.to_owned(), json!({ "sourceField": source }));
            }
        }
        for (name, field) in
            [("eventType", &self.event_type), ("subject", &self.subject), ("dataVersion", &self.data_version)]
        {
            let mut members = Map::new();
            if let Some(source) = &field.source_field {
                members.insert("sourceField".to_owned(), json!(source));
            }
            if let Some(default) = &field.default_value {
                members.insert("defaultValue".to_owned(), json!(default));
            }
            if !members.is_empty() {
                properties.insert(name.to_owned(), Value::Object(members));
            }
        }
        json!({ "inputSchemaMappingType": "Json", "properties": properties })
    }
}

fn field(properties: &Map<String, Value>, name: &str) -> Result<MappedField, ApiError> {
    let members = match properties.get(name) {
        None | Some(Value::Null) => return Ok(MappedField::default()),
        Some(Value::Object(members)) => members,
        Some(_) => return Err(invalid(&format!(".properties.{name}"), "must be an object")),
    };
    let text = |member: &str| {
        let problem = |problem| invalid(&format!(".properties.{name}.{member}"), problem);
        match members.get(member) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => is_plain(text).map(|()| Some(text.clone())).map_err(problem),
            Some(_) => Err(problem("must be a string")),
        }
    };
    // An empty source field names no member; the portal sends one where nothing was typed.
    let source_field = text("sourceField")?.filter(|source| !source.is_empty());
    if source_field.as_ref().is_some_and(|source| source.split('.').count() > FILTER_KEY_DEPTH_MAX) {
        return Err(invalid(
            &format!(".properties.{name}.sourceField"),
            "must not lead deeper than 8 levels",
        ));
    }
    Ok(MappedField { source_field, default_value: text("defaultValue")? })
}

fn invalid(place: &str, problem: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidResource, format!("Property 'inputSchemaMapping{place}' {problem}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_survives_being_shown_and_read() {
        let arm = json!({ "inputSchemaMappingType": "Json", "properties": {
            "id": { "sourceField": "orderId" },
            "topic": { "sourceField": "shop" },
            "eventTime": { "sourceField": "meta.at" },
            "eventType": { "sourceField": "kind", "defaultValue": "order" },
            "subject": { "defaultValue": "orders" },
            "dataVersion": { "sourceField": "v" },
        }});
        let mapping = InputMapping::from_arm(&arm).unwrap();
        assert_eq!(mapping.to_arm(), arm);
        assert_eq!(mapping.subject.default_value.as_deref(), Some("orders"));
        let empty = InputMapping::default();
        assert_eq!(InputMapping::from_arm(&empty.to_arm()), Ok(empty));
    }

    #[test]
    fn nulls_empty_names_and_unknown_members_count_as_left_out() {
        let arm = json!({ "inputSchemaMappingType": "json", "more": 1, "properties": {
            "id": null, "topic": { "sourceField": null, "more": [] }, "eventTime": { "sourceField": "" },
            "more": {},
        }});
        assert_eq!(InputMapping::from_arm(&arm), Ok(InputMapping::default()));
    }

    #[test]
    fn a_mapping_of_the_wrong_shape_is_refused() {
        let deep = ["a"; FILTER_KEY_DEPTH_MAX + 1].join(".");
        for arm in [
            json!(null),
            json!([]),
            json!({}),
            json!({ "inputSchemaMappingType": "Xml" }),
            json!({ "inputSchemaMappingType": "Json", "properties": [] }),
            json!({ "inputSchemaMappingType": "Json", "properties": { "id": "orderId" } }),
            json!({ "inputSchemaMappingType": "Json", "properties": { "id": { "sourceField": 1 } } }),
            json!({ "inputSchemaMappingType": "Json", "properties": { "id": { "sourceField": deep } } }),
            json!({ "inputSchemaMappingType": "Json", "properties": { "subject": { "defaultValue": {} } } }),
            json!({ "inputSchemaMappingType": "Json", "properties": { "subject": { "defaultValue": "a\nb" } } }),
        ] {
            assert_eq!(InputMapping::from_arm(&arm).unwrap_err().code, ErrorCode::InvalidResource, "{arm}");
        }
    }
}
