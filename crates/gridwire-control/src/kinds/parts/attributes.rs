//! Delivery attribute mappings: the headers a subscription adds to its deliveries. Source: `push-delivery`
//! contract section 7 for the limits, `reliability` contract section 3.5 for the names that are taken.

use gridwire_core::api_error::ApiError;
use gridwire_core::routing::AttributeSource;
use http::HeaderName;
use serde_json::{Value, json};

use crate::limits::{DELIVERY_ATTRIBUTE_BYTES_MAX, DELIVERY_ATTRIBUTES_MAX};
use crate::members::{Members, invalid};

/// Header names that belong to the protocol, to `CloudEvents`, or to Gridwire.
const RESERVED_NAMES: &[&str] =
    &["host", "transfer-encoding", "connection", "upgrade", "te", "trailer", "origin"];
const RESERVED_PREFIXES: &[&str] = &["aeg-", "content-", "proxy-", "ce-", "webhook-"];

/// One header and where its value comes from.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct DeliveryAttribute {
    name: String,
    source: Source,
}

#[derive(Clone, PartialEq, Eq)]
enum Source {
    Static { value: String, secret: bool },
    Dynamic { field: String },
}

impl DeliveryAttribute {
    /// What the broker needs to know of it.
    pub(super) fn route(&self) -> (String, AttributeSource) {
        let source = match &self.source {
            Source::Static { value, secret: true } => AttributeSource::Secret(value.clone()),
            Source::Static { value, secret: false } => AttributeSource::Static(value.clone()),
            Source::Dynamic { field } => AttributeSource::Dynamic(field.clone()),
        };
        (self.name.clone(), source)
    }

    /// Whether its value is of the event.
    pub(super) fn is_dynamic(&self) -> bool {
        matches!(self.source, Source::Dynamic { .. })
    }

    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// As ARM writes it; without `secrets`, a secret value is left out.
    pub(crate) fn to_arm(&self, secrets: bool) -> Value {
        match &self.source {
            Source::Static { value, secret } => {
                let value = if *secret && !secrets { Value::Null } else { value.as_str().into() };
                let properties = json!({ "value": value, "isSecret": secret });
                json!({ "name": self.name, "type": "Static", "properties": properties })
            }
            Source::Dynamic { field } => {
                json!({ "name": self.name, "type": "Dynamic", "properties": { "sourceField": field } })
            }
        }
    }
}

/// Reads `deliveryAttributeMappings` of a destination's properties.
pub(super) fn read(properties: &Members<'_>) -> Result<Vec<DeliveryAttribute>, ApiError> {
    let items = properties.array("deliveryAttributeMappings")?;
    if items.len() > DELIVERY_ATTRIBUTES_MAX {
        return Err(invalid(format!(
            "A subscription may have at most {DELIVERY_ATTRIBUTES_MAX} delivery attribute mappings."
        )));
    }
    let mut attributes: Vec<DeliveryAttribute> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let at = format!("{}[{index}]", properties.path("deliveryAttributeMappings"));
        let attribute = read_one(&Members::of(item, &at)?)?;
        if attributes.iter().any(|other| other.name.eq_ignore_ascii_case(&attribute.name)) {
            return Err(invalid(format!("The delivery attribute `{}` is mapped twice.", attribute.name)));
        }
        attributes.push(attribute);
    }
    Ok(attributes)
}

fn read_one(mapping: &Members<'_>) -> Result<DeliveryAttribute, ApiError> {
    let name = mapping.text("name")?.unwrap_or_default();
    let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err(mapping.wrong("name", "a valid header name"));
    };
    let lower = parsed.as_str();
    if RESERVED_NAMES.contains(&lower) || RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix)) {
        return Err(mapping.wrong("name", &format!("another name: `{lower}` is reserved")));
    }
    let dynamic = mapping.choice("type", &[("Static", false), ("Dynamic", true)])?;
    let Some(properties) = mapping.object("properties")? else {
        return Err(mapping.wrong("properties", "given"));
    };
    let source = match dynamic {
        None => return Err(mapping.wrong("type", "`Static` or `Dynamic`")),
        Some(false) => Source::Static {
            value: bounded(&properties, "value")?,
            secret: properties.boolean("isSecret")?.unwrap_or(false),
        },
        Some(true) => Source::Dynamic { field: bounded(&properties, "sourceField")? },
    };
    Ok(DeliveryAttribute { name: name.to_owned(), source })
}

fn bounded(properties: &Members<'_>, name: &str) -> Result<String, ApiError> {
    let Some(text) = properties.text(name)?.filter(|text| !text.is_empty()) else {
        return Err(properties.wrong(name, "given"));
    };
    if text.len() > DELIVERY_ATTRIBUTE_BYTES_MAX || text.chars().any(char::is_control) {
        let must =
            format!("at most {DELIVERY_ATTRIBUTE_BYTES_MAX} bytes long and free of control characters");
        return Err(properties.wrong(name, &must));
    }
    Ok(text.to_owned())
}
