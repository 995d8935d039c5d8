//! Delivery attributes: headers that a subscription adds to its deliveries (`push-delivery` contract, section 7).

use serde_json::Value;

use crate::event::{Data, Event};
use crate::routing::AttributeSource;

/// The header's value for this event; `None` when a dynamic source is missing or no string, number or
/// boolean: then the header is left out.
pub fn attribute_value(event: &Event<'_>, source: &AttributeSource) -> Option<String> {
    match source {
        AttributeSource::Static(value) | AttributeSource::Secret(value) => Some(value.clone()),
        AttributeSource::Dynamic(field) => dynamic(event, field.strip_prefix("$.").unwrap_or(field)),
    }
}

/// What a dead letter shows of a subscription's attributes: each name with the value a delivery had, secrets
/// left out.
pub fn open_attributes<'a>(
    event: &Event<'_>,
    attributes: &'a [(String, AttributeSource)],
) -> Vec<(&'a str, String)> {
    let open = attributes.iter().filter(|(_, source)| !matches!(source, AttributeSource::Secret(_)));
    open.filter_map(|(name, source)| Some((name.as_str(), attribute_value(event, source)?))).collect()
}

fn dynamic(event: &Event<'_>, field: &str) -> Option<String> {
    let (head, rest) = field.split_once('.').map_or((field, None), |(head, rest)| (head, Some(rest)));
    if head.eq_ignore_ascii_case("data") {
        let Data::Json(json) = &event.data else { return None };
        let data: Value = serde_json::from_str(json).ok()?;
        let found = match rest {
            None => &data,
            Some(path) => path.split('.').try_fold(&data, |value, member| value.get(member))?,
        };
        return scalar(found);
    }
    if rest.is_some() {
        return None;
    }
    let text = match head.to_ascii_lowercase().as_str() {
        "id" => Some(&event.id),
        "type" | "eventtype" => Some(&event.event_type),
        "source" | "topic" => Some(&event.source),
        "subject" => event.subject.as_ref(),
        "time" | "eventtime" => event.time.as_ref(),
        "datacontenttype" => event.data_content_type.as_ref(),
        "dataschema" | "dataversion" => event.data_schema.as_ref(),
        name => {
            let extension = event.extensions.iter().find(|extension| extension.name == name)?;
            return scalar(&serde_json::from_str(&extension.json).ok()?);
        }
    };
    text.map(|text| text.clone().into_owned())
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Extension, InputSchema};

    fn event() -> Event<'static> {
        Event {
            schema: InputSchema::CloudEvent,
            id: "7".into(),
            event_type: "t".into(),
            source: "/s".into(),
            subject: None,
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: vec![Extension { name: "tenant".into(), json: "\"a\"".into() }],
            data: Data::Json(r#"{"key1":{"n":1.50,"b":true,"o":{},"z":null},"s":"x"}"#.into()),
        }
    }

    fn check(source: &AttributeSource, expected: Option<&str>) {
        assert_eq!(attribute_value(&event(), source).as_deref(), expected, "{source:?}");
    }

    #[test]
    fn what_may_be_told_is_everything_but_secrets_and_what_is_not_there() {
        let attributes = [
            ("a".to_owned(), AttributeSource::Static("v".to_owned())),
            ("b".to_owned(), AttributeSource::Secret("hush".to_owned())),
            ("c".to_owned(), AttributeSource::Dynamic("data.s".to_owned())),
            ("d".to_owned(), AttributeSource::Dynamic("data.missing".to_owned())),
        ];
        let open = open_attributes(&event(), &attributes);
        assert_eq!(open, [("a", "v".to_owned()), ("c", "x".to_owned())]);
        let printed = format!("{attributes:?}");
        assert!(!printed.contains("hush") && !printed.contains("\"v\""), "{printed}");
    }

    #[test]
    fn a_value_is_what_the_source_says() {
        check(&AttributeSource::Static("v".to_owned()), Some("v"));
        check(&AttributeSource::Secret("v".to_owned()), Some("v"));
        for (field, expected) in [
            ("data.s", Some("x")),
            ("Data.key1.b", Some("true")),
            ("data.key1.n", Some("1.5")),
            ("$.data.s", Some("x")),
            ("data.key1.o", None),
            ("data.key1.z", None),
            ("data.key1", None),
            ("data.missing.deep", None),
            ("id", Some("7")),
            ("eventType", Some("t")),
            ("subject", None),
            ("tenant", Some("a")),
            ("tenant.x", None),
            ("nothing", None),
        ] {
            check(&AttributeSource::Dynamic(field.to_owned()), expected);
        }
    }
}
