//! From a stored event to the bytes that a subscriber, a receiver or a dead-letter blob gets.
//!
//! Attributes are written out again; data are copied as they came. Which members stand where is the
//! `push-delivery` contract, sections 2, 3 and 9, and the `publish` contract, section 3.3; a received event is
//! the `pull-delivery` contract's. Everything here appends to a buffer the caller owns.

mod attributes;
mod dead_letter;
mod envelope;
mod headers;
mod object;
mod requests;

use crate::event::{DeliverySchema, Event, InputSchema};
use crate::time::Timestamp;

use self::object::Object;

pub use self::attributes::{attribute_value, open_attributes};
pub(crate) use self::dead_letter::{
    CLOUD_EVENT as CLOUD_EVENT_NAMES, EVENT_GRID as EVENT_GRID_NAMES, Names as StoryNames, reason_name,
    reason_sentence,
};
pub use self::dead_letter::{
    DeadLetterInfo, DeadLetterPlace, dead_letter, dead_letter_path, dead_letter_prefix,
};
pub use self::headers::{ValidationEvent, delivery_headers, validation_event, validation_headers};
pub use self::requests::{DeliveryRequest, delivery_request};

/// What an event does not carry itself but its delivery shows.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryContext<'a> {
    /// The full ARM id of the topic, or of the domain topic, that the event was published to.
    pub topic_resource_id: &'a str,
    /// Stands in for the time of an event of the other schemas when the publisher sent none.
    pub published: Timestamp,
}

/// Appends the `event` member of an answer to receive: a `CloudEvent` as one JSON object. Attributes that
/// the publisher left out are left out here.
pub fn pull_event(event: &Event<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    envelope::stored_cloud_event(event, &[], &mut object);
    object.end();
}

/// Appends one event in the schema a subscription asked for. Arrays are the affair of [`delivery_request`].
///
/// Pairs of schemas that subscriptions cannot have (`publish` contract 3.3) come out in the event's own schema.
pub fn delivery(event: &Event<'_>, schema: DeliverySchema, context: DeliveryContext<'_>, out: &mut Vec<u8>) {
    match possible(event.schema, schema) {
        DeliverySchema::Custom => envelope::original(event, out),
        DeliverySchema::EventGrid => {
            let mut object = Object::begin(out);
            envelope::event_grid(event, context, &mut object);
            object.end();
        }
        DeliverySchema::CloudEvent => {
            let mut object = Object::begin(out);
            envelope::cloud_event(event, context, &[], &mut object);
            object.end();
        }
    }
}

/// The schema an event of `input` can be shown in, as near as can be to `wanted`.
fn possible(input: InputSchema, wanted: DeliverySchema) -> DeliverySchema {
    match (input, wanted) {
        (InputSchema::CloudEvent, _) => DeliverySchema::CloudEvent,
        (InputSchema::EventGrid, DeliverySchema::Custom) => DeliverySchema::EventGrid,
        (InputSchema::EventGrid | InputSchema::Custom, wanted) => wanted,
    }
}

/// The `Content-Type` that goes with [`delivery_request`].
pub fn content_type(schema: DeliverySchema, batched: bool) -> &'static str {
    match (schema, batched) {
        (DeliverySchema::EventGrid | DeliverySchema::Custom, _) => "application/json; charset=utf-8",
        (DeliverySchema::CloudEvent, false) => "application/cloudevents+json; charset=utf-8",
        (DeliverySchema::CloudEvent, true) => "application/cloudevents-batch+json; charset=utf-8",
    }
}

#[cfg(test)]
mod tests;
