//! From a publish request to events, borrowed from its body (`publish` contract, sections 2 to 6).
//!
//! Three input schemas and three ways to write them down meet here: a JSON array of Event Grid or custom
//! events; a `CloudEvent` as one JSON object, as a batch, or as headers around bare data. A request is taken
//! apart once: its body is checked to be text, walked by a parser that hands over each envelope member as it
//! was sent, and `data` is never looked into. Whatever is wrong refuses the whole request, naming the event
//! and the property; nothing panics and nothing recurses on what a client sends.

mod binary;
mod check;
mod cloud_event;
mod custom;
mod domain;
mod event_grid;
mod json;
mod mapping;
mod media_type;
mod mismatch;

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};

use crate::api_error::{ApiError, ErrorCode};
use crate::event::{Event, InputSchema};
use crate::limits::{BASIC_EVENTS_MAX, EVENT_BYTES_MAX, NAMESPACE_EVENTS_MAX, REQUEST_BYTES_MAX};
use crate::routing::TopicKind;
use crate::time::Timestamp;

use self::json::Progress;
use self::media_type::MediaType;

pub use self::domain::{domain_topic, route_to_domain_topics};
pub use self::mapping::{InputMapping, MappedField};

// An event is never larger than the request that brings it, so one check covers both limits.
const _: () = assert!(REQUEST_BYTES_MAX <= EVENT_BYTES_MAX, "events need a size check of their own");

/// What a publish request says, without its HTTP.
#[derive(Clone, Copy, Debug)]
pub struct PublishRequest<'a> {
    pub kind: TopicKind,
    /// The topic's schema; a namespace topic takes `CloudEvents` whatever stands here.
    pub schema: InputSchema,
    /// Only with [`InputSchema::Custom`]; without one, events name their properties as Event Grid does.
    pub mapping: Option<&'a InputMapping>,
    pub content_type: Option<&'a str>,
    /// The headers whose names start with `ce-`: names in lower case, in order, repeats kept.
    pub ce_headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
    /// Publish time, for events of a custom schema that bring none.
    pub now: Timestamp,
}

/// Parses all events of a request, or refuses it as a whole.
///
/// `new_id` names an event of a custom schema that has no id of its own.
///
/// # Errors
///
/// 400 with detail `InputJsonInvalid` for what is wrong in the body or the `ce-` headers, 413 for too many
/// events or bytes, 415 for a content type that the topic does not take.
pub fn parse<'a>(
    request: &PublishRequest<'a>,
    new_id: &mut dyn FnMut() -> String,
) -> Result<Vec<Event<'a>>, ApiError> {
    if request.body.len() > REQUEST_BYTES_MAX {
        let message = format!("The request body is larger than {REQUEST_BYTES_MAX} bytes.");
        return Err(ApiError::new(ErrorCode::TooLarge, message));
    }
    let schema = match request.kind {
        TopicKind::Namespace => InputSchema::CloudEvent,
        TopicKind::Custom | TopicKind::Domain => request.schema,
    };
    take_apart(request, schema, new_id).map_err(|refusal| {
        // With a head of its own the body is data, which may look like anything.
        if request.ce_headers.is_empty() { mismatch::named(refusal, schema, request.body) } else { refusal }
    })
}

fn take_apart<'a>(
    request: &PublishRequest<'a>,
    schema: InputSchema,
    new_id: &mut dyn FnMut() -> String,
) -> Result<Vec<Event<'a>>, ApiError> {
    let media_type = request.content_type.map(MediaType::parse);
    if schema == InputSchema::CloudEvent {
        return parse_cloud_events(request, media_type.as_ref());
    }
    if !request.ce_headers.is_empty() {
        return Err(unsupported(
            "This topic does not take CloudEvents: a request to it must not have `ce-` headers.",
        ));
    }
    require_utf8(media_type.as_ref())?;
    let text = json::text(request.body)?;
    let progress = Progress::default();
    if schema == InputSchema::EventGrid {
        return parse_batch(text, event_grid::EventSeed { progress: &progress }, request.kind, &progress);
    }
    let events = parse_batch(text, std::marker::PhantomData, request.kind, &progress)?;
    let mut reader = custom::Reader::new(request.mapping, request.now, new_id);
    events.into_iter().enumerate().map(|(index, raw)| reader.read(index, raw)).collect()
}

/// Which of the ways to send a `CloudEvent` a request chose, by its content type and headers.
fn parse_cloud_events<'a>(
    request: &PublishRequest<'a>,
    media_type: Option<&MediaType<'a>>,
) -> Result<Vec<Event<'a>>, ApiError> {
    let structured = media_type.is_some_and(MediaType::is_cloud_events);
    if !request.ce_headers.is_empty() {
        if structured {
            return Err(refusal(
                ErrorCode::InvalidEvent,
                "The request is in structured mode by its content type and in binary mode by its `ce-` headers.",
            ));
        }
        return Ok(vec![binary::parse(request.ce_headers, media_type, request.body)?]);
    }
    // The hosted service's documents show only the CloudEvents types; plain `application/json` is what people
    // send by hand to a topic, and its first character tells which of the two it is.
    let plain_json = request.kind != TopicKind::Namespace && media_type.is_some_and(MediaType::is_plain_json);
    let (one, batch) = match media_type {
        Some(media_type) if media_type.is("application/cloudevents+json") => (true, false),
        Some(media_type) if media_type.is("application/cloudevents-batch+json") => (false, true),
        _ if plain_json => (true, true),
        _ => {
            return Err(unsupported(
                "The content type must be `application/cloudevents+json` or \
                 `application/cloudevents-batch+json`, or the request must have `ce-` headers.",
            ));
        }
    };
    require_utf8(media_type)?;
    let text = json::text(request.body)?;
    let progress = Progress::default();
    let is_object = first_byte(text) == Some(b'{');
    let seed = cloud_event::EventSeed { progress: &progress, outer: if is_object { 1 } else { 2 } };
    if one && is_object {
        return Ok(vec![json::parse(text, seed, &progress)?]);
    }
    if batch {
        return parse_batch(text, seed, request.kind, &progress);
    }
    Err(wrong_outside(text, "a JSON object holding one event"))
}

/// Parses a JSON array, each element with `each`.
fn parse_batch<'a, S>(
    text: &'a str,
    each: S,
    kind: TopicKind,
    progress: &Progress,
) -> Result<Vec<S::Value>, ApiError>
where
    S: DeserializeSeed<'a> + Copy,
{
    if first_byte(text) != Some(b'[') {
        return Err(wrong_outside(text, "a JSON array of events"));
    }
    let events_max = match kind {
        TopicKind::Custom | TopicKind::Domain => BASIC_EVENTS_MAX,
        TopicKind::Namespace => NAMESPACE_EVENTS_MAX,
    };
    let events = json::parse(text, Batch { each, events_max, progress }, progress)?;
    if events.is_empty() {
        return Err(refusal(ErrorCode::EmptyBatch, "The request body must hold at least one event."));
    }
    Ok(events)
}

/// An array of events: [`DeserializeSeed`] and [`Visitor`] in one.
#[derive(Clone, Copy)]
struct Batch<'p, S> {
    each: S,
    events_max: usize,
    progress: &'p Progress,
}

impl<'de, S: DeserializeSeed<'de> + Copy> DeserializeSeed<'de> for Batch<'_, S> {
    type Value = Vec<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, S: DeserializeSeed<'de> + Copy> Visitor<'de> for Batch<'_, S> {
    type Value = Vec<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        while events.len() < self.events_max {
            match elements.next_element_seed(self.each)? {
                Some(event) => events.push(event),
                None => return Ok(events),
            }
            self.progress.next_event();
        }
        if elements.next_element::<IgnoredAny>()?.is_some() {
            let message = format!("The request holds more than {} events.", self.events_max);
            return Err(self.progress.refuse(ApiError::new(ErrorCode::TooManyEvents, message)));
        }
        Ok(events)
    }
}

fn first_byte(text: &str) -> Option<u8> {
    text.bytes().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// The refusal of a body that is not `expected` on the outside: no JSON at all, or JSON of another shape.
fn wrong_outside(text: &str, expected: &str) -> ApiError {
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => refusal(ErrorCode::InvalidEvent, format!("The request body must be {expected}.")),
        Err(error) => {
            refusal(ErrorCode::InvalidJson, format!("The request body is not valid JSON: {error}."))
        }
    }
}

fn require_utf8(media_type: Option<&MediaType<'_>>) -> Result<(), ApiError> {
    if media_type.is_none_or(MediaType::is_utf8) {
        return Ok(());
    }
    Err(unsupported("The charset of the request body must be UTF-8."))
}

fn unsupported(message: &str) -> ApiError {
    ApiError::new(ErrorCode::UnsupportedMediaType, message)
}

/// A 400 as a publisher's client expects it.
fn refusal(code: ErrorCode, message: impl Into<String>) -> ApiError {
    ApiError::new(code, message).with_detail("InputJsonInvalid")
}

/// The refusal of one property of one event.
fn invalid(index: usize, name: &str, problem: &str) -> ApiError {
    let message = format!("Property '{}' of the event at index {index} {problem}.", shown(name));
    refusal(ErrorCode::InvalidEvent, message)
}

fn duplicate(index: usize, name: &str) -> ApiError {
    let message = format!("Property '{}' of the event at index {index} occurs more than once.", shown(name));
    refusal(ErrorCode::DuplicateAttribute, message)
}

/// A name that a client chose, short enough for a message.
fn shown(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
