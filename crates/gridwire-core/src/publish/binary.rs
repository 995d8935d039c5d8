//! A `CloudEvent` in binary mode: attributes in `ce-` headers, data as the body (`publish` contract 3.2).

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::check::{is_attribute_name, is_plain};
use super::cloud_event::{Attributes, place};
use super::media_type::MediaType;
use super::{duplicate, invalid, json, refusal, require_utf8};
use crate::api_error::{ApiError, ErrorCode};
use crate::event::{Data, Event, Extension};
use crate::limits::ATTRIBUTE_NAME_BINARY_MAX;
use crate::percent;

pub(super) fn parse<'a>(
    headers: &'a [(&'a str, &'a str)],
    media_type: Option<&MediaType<'a>>,
    body: &'a [u8],
) -> Result<Event<'a>, ApiError> {
    let mut attributes = Attributes::default();
    for &(header, value) in headers {
        let name = header.strip_prefix("ce-").unwrap_or(header);
        if name == "datacontenttype" {
            return Err(invalid(0, header, "must not be there: the content type says it"));
        }
        let value = decode(value).ok_or_else(|| invalid(0, header, "is not percent-encoded UTF-8"))?;
        if let Some(place) = place(name) {
            if !attributes.see(place) {
                return Err(duplicate(0, header));
            }
            attributes.set(place, value);
            continue;
        }
        if !is_attribute_name(name, ATTRIBUTE_NAME_BINARY_MAX) || name == "data" {
            return Err(invalid(
                0,
                header,
                "must be named with 1 to 20 characters of a-z and 0-9, not 'data'",
            ));
        }
        if attributes.extensions.iter().any(|extension| extension.name == name) {
            return Err(duplicate(0, header));
        }
        is_plain(&value).map_err(|problem| invalid(0, header, problem))?;
        let json = Cow::Owned(quoted(&value));
        attributes.extensions.push(Extension { name: Cow::Borrowed(name), json });
    }
    if let Some(media_type) = media_type {
        attributes.set_content_type(Cow::Borrowed(media_type.text));
    }
    attributes.finish(data(media_type, body)?, 0)
}

/// A header value as the HTTP binding writes it: perhaps a quoted string, then percent-encoded once.
fn decode(value: &str) -> Option<Cow<'_, str>> {
    let Some(inside) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return percent::decode(value);
    };
    let mut plain = String::with_capacity(inside.len());
    let mut characters = inside.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.push(characters.next()?),
            '"' => return None,
            other => plain.push(other),
        }
    }
    Some(Cow::Owned(percent::decode(&plain)?.into_owned()))
}

/// What the body is, by its media type: JSON stays JSON, other text becomes a JSON string, the rest bytes.
fn data<'a>(media_type: Option<&MediaType<'a>>, body: &'a [u8]) -> Result<Data<'a>, ApiError> {
    if body.is_empty() {
        return Ok(Data::Absent);
    }
    match media_type {
        Some(media_type) if media_type.is_json() => {
            require_utf8(Some(media_type))?;
            let text = json::text(body)?.trim_matches([' ', '\t', '\r', '\n']);
            if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
                let message = format!("The request body is not valid JSON: {error}.");
                return Err(refusal(ErrorCode::InvalidJson, message));
            }
            json::depth(text, 0)?;
            Ok(Data::Json(Cow::Borrowed(text)))
        }
        Some(media_type) if media_type.is_text() => {
            require_utf8(Some(media_type))?;
            match std::str::from_utf8(body) {
                Ok(text) => Ok(Data::Json(Cow::Owned(quoted(text)))),
                Err(_) => Err(refusal(ErrorCode::InvalidJson, "The text of the request body is not UTF-8.")),
            }
        }
        _ => Ok(Data::Binary(Cow::Borrowed(body))),
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always valid JSON")
}
