//! An event of one schema at a topic of another: the refusal says so, for the missing property alone explains
//! little to somebody whose events are fine elsewhere.
//!
//! Only what was refused already is looked at again, and of that the names in its first event.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

use crate::api_error::{ApiError, ErrorCode};
use crate::event::InputSchema;

/// `refusal`, with a sentence more when the first event of `body` plainly is of the other schema.
#[cold]
pub(super) fn named(mut refusal: ApiError, schema: InputSchema, body: &[u8]) -> ApiError {
    if refusal.code == ErrorCode::InvalidEvent
        && let Some(remark) = remark(schema, body)
    {
        refusal.message.push(' ');
        refusal.message.push_str(remark);
    }
    refusal
}

#[expect(clippy::zero_sized_map_values, reason = "an object is a map to serde, and its values are skipped")]
fn remark(schema: InputSchema, body: &[u8]) -> Option<&'static str> {
    let text = std::str::from_utf8(body).ok()?.trim_start();
    let first = text.strip_prefix('[').unwrap_or(text);
    let mut events = serde_json::Deserializer::from_str(first).into_iter::<BTreeMap<String, IgnoredAny>>();
    let names = events.next()?.ok()?;
    let has = |name: &str| names.contains_key(name);
    let grid = has("eventType") && (has("eventTime") || has("dataVersion"));
    match schema {
        InputSchema::CloudEvent if grid && !has("specversion") => Some(
            "This topic takes CloudEvents; what was sent looks like events of the Event Grid schema: they have \
             'eventType' and no 'specversion'.",
        ),
        InputSchema::EventGrid if has("specversion") && !has("eventType") => Some(
            "This topic takes events of the Event Grid schema; what was sent looks like CloudEvents: they have \
             'specversion' and no 'eventType'.",
        ),
        InputSchema::CloudEvent | InputSchema::EventGrid | InputSchema::Custom => None,
    }
}
