//! `CloudEvents` 1.0: the attributes, however they arrive, and the JSON format (`publish` contract 3.2).

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::check::{TimeForm, is_attribute_name, is_date_time, is_plain, is_uri_reference};
use super::json::{self, Name, Names, Progress, Value};
use super::{duplicate, invalid};
use crate::api_error::ApiError;
use crate::event::{Data, Event, Extension, InputSchema};
use crate::limits::{ATTRIBUTE_BYTES_MAX, ATTRIBUTE_NAME_STRUCTURED_MAX};

const ID: usize = 0;
const SOURCE: usize = 1;
const TYPE: usize = 2;
const SPEC_VERSION: usize = 3;
const SUBJECT: usize = 4;
const TIME: usize = 5;
const DATA_CONTENT_TYPE: usize = 6;
const DATA_SCHEMA: usize = 7;

/// The attributes that the specification names, by place in [`Attributes`].
const NAMES: [&str; 8] =
    ["id", "source", "type", "specversion", "subject", "time", "datacontenttype", "dataschema"];

/// The place of an attribute that the specification names.
pub(super) fn place(name: &str) -> Option<usize> {
    match name {
        "id" => Some(ID),
        "source" => Some(SOURCE),
        "type" => Some(TYPE),
        "specversion" => Some(SPEC_VERSION),
        "subject" => Some(SUBJECT),
        "time" => Some(TIME),
        "datacontenttype" => Some(DATA_CONTENT_TYPE),
        "dataschema" => Some(DATA_SCHEMA),
        _ => None,
    }
}

/// The attributes of one event as they are collected.
#[derive(Default)]
pub(super) struct Attributes<'a> {
    values: [Option<Cow<'a, str>>; 8],
    seen: u8,
    pub(super) extensions: Vec<Extension<'a>>,
}

impl<'a> Attributes<'a> {
    /// Notes that the attribute at `place` occurred; false when it had occurred before.
    pub(super) fn see(&mut self, place: usize) -> bool {
        let first = self.seen & 1 << place == 0;
        self.seen |= 1 << place;
        first
    }

    pub(super) fn set(&mut self, place: usize, value: Cow<'a, str>) {
        self.values[place] = Some(value);
    }

    pub(super) fn set_content_type(&mut self, value: Cow<'a, str>) {
        self.set(DATA_CONTENT_TYPE, value);
    }

    /// Judges the attributes together and makes them an event.
    pub(super) fn finish(mut self, data: Data<'a>, index: usize) -> Result<Event<'a>, ApiError> {
        for (value, name) in self.values.iter().zip(NAMES) {
            if let Some(value) = value {
                is_plain(value).map_err(|problem| invalid(index, name, problem))?;
            }
        }
        let mut required = |place: usize| match self.values[place].take() {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(invalid(index, NAMES[place], "is required and must be a non-empty string")),
        };
        if required(SPEC_VERSION)? != "1.0" {
            return Err(invalid(index, "specversion", "must be '1.0'"));
        }
        let (id, source, event_type) = (required(ID)?, required(SOURCE)?, required(TYPE)?);
        let [_, _, _, _, subject, time, data_content_type, data_schema] = self.values;
        if !is_uri_reference(&source) {
            return Err(invalid(index, "source", "must be a URI-reference"));
        }
        if time.as_ref().is_some_and(|time| !is_date_time(time, TimeForm::Rfc3339)) {
            return Err(invalid(index, "time", "must be an RFC 3339 date-time"));
        }
        if data_schema.as_ref().is_some_and(|uri| uri.is_empty() || !is_uri_reference(uri)) {
            return Err(invalid(index, "dataschema", "must be a URI-reference"));
        }
        Ok(Event {
            schema: InputSchema::CloudEvent,
            id,
            event_type,
            source,
            subject,
            time,
            data_content_type,
            data_schema,
            extensions: self.extensions,
            data,
        })
    }
}

/// One event in the JSON format: [`DeserializeSeed`] and [`Visitor`] in one.
#[derive(Clone, Copy)]
pub(super) struct EventSeed<'p> {
    pub(super) progress: &'p Progress,
    /// Levels of nesting around the event's data.
    pub(super) outer: usize,
}

impl<'de> DeserializeSeed<'de> for EventSeed<'_> {
    type Value = Event<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EventSeed<'_> {
    type Value = Event<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members::default();
        while let Some(Name(name)) = map.next_key()? {
            let value: &'de RawValue = map.next_value()?;
            members
                .take(name, value, self.progress.index(), self.outer)
                .map_err(|refusal| self.progress.refuse(refusal))?;
        }
        members.finish(self.progress.index()).map_err(|refusal| self.progress.refuse(refusal))
    }
}

/// The members of one JSON object, attributes and data.
#[derive(Default)]
struct Members<'a> {
    attributes: Attributes<'a>,
    names: Names<'a>,
    data: Option<&'a RawValue>,
    data_base64: Option<&'a RawValue>,
}

impl<'a> Members<'a> {
    fn take(
        &mut self,
        name: Cow<'a, str>,
        raw: &'a RawValue,
        index: usize,
        outer: usize,
    ) -> Result<(), ApiError> {
        self.names.count()?;
        if let Some(place) = place(&name) {
            if !self.attributes.see(place) {
                return Err(duplicate(index, &name));
            }
            match json::value(raw) {
                Value::Null => {}
                Value::Text(text) => self.attributes.set(place, text),
                Value::Scalar(_) | Value::Nested => return Err(invalid(index, &name, "must be a string")),
            }
            return Ok(());
        }
        let data = match &*name {
            "data" => {
                json::depth(raw.get(), outer)?;
                &mut self.data
            }
            "data_base64" => &mut self.data_base64,
            _ => return self.take_extension(name, raw, index),
        };
        if data.replace(raw).is_some() { Err(duplicate(index, &name)) } else { Ok(()) }
    }

    fn take_extension(
        &mut self,
        name: Cow<'a, str>,
        raw: &'a RawValue,
        index: usize,
    ) -> Result<(), ApiError> {
        if !is_attribute_name(&name, ATTRIBUTE_NAME_STRUCTURED_MAX) {
            return Err(invalid(index, &name, "must be named with 1 to 64 characters of a-z and 0-9"));
        }
        if !self.names.insert(name.clone()) {
            return Err(duplicate(index, &name));
        }
        match json::value(raw) {
            Value::Null => return Ok(()),
            Value::Text(text) => is_plain(&text).map_err(|problem| invalid(index, &name, problem))?,
            Value::Scalar(text) if text.len() <= ATTRIBUTE_BYTES_MAX => {}
            Value::Scalar(_) => return Err(invalid(index, &name, "must not be longer than 4096 bytes")),
            Value::Nested => return Err(invalid(index, &name, "must be a string, a number or a boolean")),
        }
        self.attributes.extensions.push(Extension { name, json: Cow::Borrowed(raw.get()) });
        Ok(())
    }

    fn finish(self, index: usize) -> Result<Event<'a>, ApiError> {
        let bytes = match self.data_base64.map(json::value) {
            None | Some(Value::Null) => None,
            Some(Value::Text(text)) => match STANDARD.decode(text.as_bytes()) {
                Ok(bytes) => Some(bytes),
                Err(_) => return Err(invalid(index, "data_base64", "must be base64 with its padding")),
            },
            Some(Value::Scalar(_) | Value::Nested) => {
                return Err(invalid(index, "data_base64", "must be a string"));
            }
        };
        let data = match (self.data, bytes) {
            (None, None) => Data::Absent,
            (Some(json), None) => Data::Json(Cow::Borrowed(json.get())),
            // Many serializers write a null for the one of the two that is not there.
            (Some(json), Some(_)) if json.get() != "null" => {
                return Err(invalid(index, "data", "must not be there together with 'data_base64'"));
            }
            (_, Some(bytes)) => Data::Binary(Cow::Owned(bytes)),
        };
        self.attributes.finish(data, index)
    }
}
