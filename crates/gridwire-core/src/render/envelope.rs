//! The envelopes: which stored attribute becomes which member.

use std::borrow::Cow;

use crate::event::{Data, Event, InputSchema};
use crate::percent;
use crate::render::DeliveryContext;
use crate::render::object::Object;

/// An event of a custom schema as it was published.
pub(super) fn original(event: &Event<'_>, out: &mut Vec<u8>) {
    match &event.data {
        Data::Json(json) => out.extend_from_slice(json.as_bytes()),
        // A custom event is its data, so it always has some.
        Data::Absent | Data::Binary(_) => out.extend_from_slice(b"null"),
    }
}

/// The members of the Event Grid schema; for a custom event `data` is the whole original.
pub(super) fn event_grid(event: &Event<'_>, context: DeliveryContext<'_>, object: &mut Object<'_>) {
    object.text("id", &event.id);
    object.text("topic", context.topic_resource_id);
    object.text("subject", event.subject.as_deref().unwrap_or_default());
    object.text("eventType", &event.event_type);
    object.text("eventTime", &time(event, context));
    match &event.data {
        Data::Absent => {}
        Data::Json(json) => object.json("data", json),
        Data::Binary(bytes) => object.base64("data", bytes),
    }
    object.text("dataVersion", event.data_schema.as_deref().unwrap_or_default());
    object.text("metadataVersion", "1");
}

/// The members of a `CloudEvent`: unchanged for one, without a time when it came without; mapped for the other
/// schemas. Extensions named in `except` are left out, for the caller writes members of these names.
pub(super) fn cloud_event(
    event: &Event<'_>,
    context: DeliveryContext<'_>,
    except: &[&str],
    object: &mut Object<'_>,
) {
    if event.schema == InputSchema::CloudEvent {
        return stored_cloud_event(event, except, object);
    }
    object.text("specversion", "1.0");
    object.text("id", &event.id);
    object.text("source", context.topic_resource_id);
    object.text("type", &event.event_type);
    // A CloudEvent's subject is not empty when it is there.
    if let Some(subject) = event.subject.as_deref().filter(|subject| !subject.is_empty()) {
        object.text("subject", subject);
    }
    object.text("time", &with_colon(&time(event, context)));
    if let Some(version) = event.data_schema.as_deref().filter(|version| !version.is_empty()) {
        object.text("dataschema", &format!("#{}", percent::component(version)));
    }
    data(event, object);
}

/// The members of an event that was published as a `CloudEvent`.
pub(super) fn stored_cloud_event(event: &Event<'_>, except: &[&str], object: &mut Object<'_>) {
    object.text("specversion", "1.0");
    object.text("id", &event.id);
    object.text("source", &event.source);
    object.text("type", &event.event_type);
    let optional = [
        ("subject", event.subject.as_deref()),
        ("time", event.time.as_deref()),
        ("datacontenttype", event.data_content_type.as_deref()),
        ("dataschema", event.data_schema.as_deref()),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            object.text(name, value);
        }
    }
    for extension in &event.extensions {
        if !except.contains(&&*extension.name) {
            object.json(&extension.name, &extension.json);
        }
    }
    data(event, object);
}

fn data(event: &Event<'_>, object: &mut Object<'_>) {
    match &event.data {
        Data::Absent => {}
        Data::Json(json) => object.json("data", json),
        Data::Binary(bytes) => object.base64("data_base64", bytes),
    }
}

/// The event's time as it was sent, else when it was published: the Event Grid schema requires one.
fn time<'a>(event: &'a Event<'_>, context: DeliveryContext<'_>) -> Cow<'a, str> {
    match &event.time {
        Some(time) => Cow::Borrowed(time),
        None => Cow::Owned(context.published.to_string()),
    }
}

/// An Event Grid event's offset may lack its colon; a `CloudEvent`'s may not.
fn with_colon(time: &str) -> Cow<'_, str> {
    let Some((rest, offset)) = time.len().checked_sub(5).and_then(|at| time.split_at_checked(at)) else {
        return Cow::Borrowed(time);
    };
    match *offset.as_bytes() {
        [b'+' | b'-', _, _, minutes, _] if minutes.is_ascii_digit() => {
            let (hours, minutes) = offset.split_at(3);
            Cow::Owned(format!("{rest}{hours}:{minutes}"))
        }
        _ => Cow::Borrowed(time),
    }
}
