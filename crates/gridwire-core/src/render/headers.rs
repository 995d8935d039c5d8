//! The `aeg-` headers of a delivery, and the validation event (`push-delivery` contract, sections 2.1 and 3).

use crate::event::{DeliverySchema, Event};
use crate::percent;
use crate::render::object::Object;
use crate::time::Timestamp;

/// The headers of one delivery attempt beside `Content-Type`. A batch takes those of its first event.
///
/// Values are percent-encoded, so whatever a publisher wrote stays inside its header.
pub fn delivery_headers(
    event: &Event<'_>,
    subscription_name: &str,
    delivery_count: u32,
    schema: DeliverySchema,
) -> Vec<(&'static str, String)> {
    let (metadata_version, data_version) = match schema {
        DeliverySchema::CloudEvent => ("1.0", ""),
        DeliverySchema::EventGrid | DeliverySchema::Custom => {
            ("1", event.data_schema.as_deref().unwrap_or_default())
        }
    };
    headers(subscription_name, delivery_count, "Notification", [metadata_version, data_version, &event.id])
}

/// The headers of a validation request, whose event is called `event_id`.
pub fn validation_headers(subscription_name: &str, event_id: &str) -> Vec<(&'static str, String)> {
    headers(subscription_name, 0, "SubscriptionValidation", ["1", "1", event_id])
}

fn headers(
    subscription_name: &str,
    delivery_count: u32,
    event_type: &str,
    [metadata_version, data_version, event_id]: [&str; 3],
) -> Vec<(&'static str, String)> {
    vec![
        ("aeg-subscription-name", percent::header_value(subscription_name)),
        ("aeg-delivery-count", delivery_count.to_string()),
        ("aeg-event-type", event_type.to_owned()),
        ("aeg-metadata-version", metadata_version.to_owned()),
        ("aeg-data-version", percent::header_value(data_version)),
        ("aeg-output-event-id", percent::header_value(event_id)),
    ]
}

/// What asks an endpoint of the Event Grid or custom schema for its consent.
#[derive(Clone, Copy, Debug)]
pub struct ValidationEvent<'a> {
    pub id: &'a str,
    pub topic_resource_id: &'a str,
    /// What the endpoint sends back as `validationResponse`.
    pub code: &'a str,
    /// What a person may open instead, where that is possible.
    pub url: Option<&'a str>,
    pub time: Timestamp,
}

/// Appends the body of a validation request: an array of one Event Grid event.
pub fn validation_event(validation: &ValidationEvent<'_>, out: &mut Vec<u8>) {
    out.push(b'[');
    let mut object = Object::begin(out);
    object.text("id", validation.id);
    object.text("topic", validation.topic_resource_id);
    object.text("subject", "");
    let mut data = object.object("data");
    data.text("validationCode", validation.code);
    if let Some(url) = validation.url {
        data.text("validationUrl", url);
    }
    data.end();
    object.text("eventType", "Microsoft.EventGrid.SubscriptionValidationEvent");
    object.text("eventTime", &validation.time.to_string());
    object.text("metadataVersion", "1");
    object.text("dataVersion", "1");
    object.end();
    out.push(b']');
}
