//! One event: its attributes, taken apart once when it is published, and its data, never touched.
//!
//! The same value serves both ways: [`crate::publish`] borrows it from a request body, [`crate::frame`]
//! stores it, and reading a frame borrows it again for filters, delivery and dead letters. Data are kept as
//! the bytes that were sent.

use std::borrow::Cow;

use crate::varint;

/// The schema a topic takes events in (ARM `inputSchema`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum InputSchema {
    /// `EventGridSchema`
    #[default]
    EventGrid,
    /// `CloudEventSchemaV1_0`
    CloudEvent,
    /// `CustomEventSchema`
    Custom,
}

/// The schema a subscription is sent events in (ARM `eventDeliverySchema`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum DeliverySchema {
    /// `EventGridSchema`
    #[default]
    EventGrid,
    /// `CloudEventSchemaV1_0`
    CloudEvent,
    /// `CustomInputSchema`
    Custom,
}

/// An event's data, exactly as published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data<'a> {
    /// No data member at all.
    Absent,
    /// The JSON text of `data`. For a custom schema: the whole original object.
    Json(Cow<'a, str>),
    /// Bytes: `data_base64` decoded, or a binary-mode body that is not JSON.
    Binary(Cow<'a, [u8]>),
}

/// An extension attribute: its name and the JSON text of its value (a string, number or boolean).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    pub name: Cow<'a, str>,
    pub json: Cow<'a, str>,
}

/// One event. All strings are unescaped; `None` means the publisher left the member out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    pub schema: InputSchema,
    pub id: Cow<'a, str>,
    /// `type` of a `CloudEvent`, `eventType` of an Event Grid event.
    pub event_type: Cow<'a, str>,
    /// `source` of a `CloudEvent`; `topic` as sent in an Event Grid event (empty when absent).
    pub source: Cow<'a, str>,
    pub subject: Option<Cow<'a, str>>,
    /// `time` or `eventTime`, in the publisher's own writing.
    pub time: Option<Cow<'a, str>>,
    pub data_content_type: Option<Cow<'a, str>>,
    /// `dataschema` of a `CloudEvent`, `dataVersion` of an Event Grid event.
    pub data_schema: Option<Cow<'a, str>>,
    pub extensions: Vec<Extension<'a>>,
    pub data: Data<'a>,
}

const SCHEMA_MASK: u8 = 0b11;
const HAS_SUBJECT: u8 = 1 << 2;
const HAS_TIME: u8 = 1 << 3;
const HAS_CONTENT_TYPE: u8 = 1 << 4;
const HAS_DATA_SCHEMA: u8 = 1 << 5;
const DATA_JSON: u8 = 1 << 6;
const DATA_BINARY: u8 = 1 << 7;

impl<'a> Event<'a> {
    /// Appends the stored form: a flag byte (schema, which optional parts follow), then length-prefixed
    /// `id`, `type`, `source`, the optional attributes, the extensions, and the data to the end.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut flags = match self.schema {
            InputSchema::EventGrid => 0,
            InputSchema::CloudEvent => 1,
            InputSchema::Custom => 2,
        };
        let optional = [
            (HAS_SUBJECT, &self.subject),
            (HAS_TIME, &self.time),
            (HAS_CONTENT_TYPE, &self.data_content_type),
            (HAS_DATA_SCHEMA, &self.data_schema),
        ];
        for (flag, value) in &optional {
            if value.is_some() {
                flags |= flag;
            }
        }
        flags |= match self.data {
            Data::Absent => 0,
            Data::Json(_) => DATA_JSON,
            Data::Binary(_) => DATA_BINARY,
        };
        out.push(flags);
        for text in [&self.id, &self.event_type, &self.source] {
            varint::put_bytes(out, text.as_bytes());
        }
        for (_, value) in optional {
            if let Some(value) = value {
                varint::put_bytes(out, value.as_bytes());
            }
        }
        varint::put(out, self.extensions.len() as u64);
        for extension in &self.extensions {
            varint::put_bytes(out, extension.name.as_bytes());
            varint::put_bytes(out, extension.json.as_bytes());
        }
        match &self.data {
            Data::Absent => {}
            Data::Json(json) => out.extend_from_slice(json.as_bytes()),
            Data::Binary(bytes) => out.extend_from_slice(bytes),
        }
    }

    /// Reads what [`Event::encode`] wrote; `None` when the bytes are not that.
    pub fn decode(mut input: &'a [u8]) -> Option<Self> {
        let (&flags, rest) = input.split_first()?;
        input = rest;
        let schema = match flags & SCHEMA_MASK {
            0 => InputSchema::EventGrid,
            1 => InputSchema::CloudEvent,
            2 => InputSchema::Custom,
            _ => return None,
        };
        let id = Cow::Borrowed(varint::take_str(&mut input)?);
        let event_type = Cow::Borrowed(varint::take_str(&mut input)?);
        let source = Cow::Borrowed(varint::take_str(&mut input)?);
        let mut optional = |flag: u8| -> Option<Option<Cow<'a, str>>> {
            if flags & flag == 0 {
                return Some(None);
            }
            Some(Some(Cow::Borrowed(varint::take_str(&mut input)?)))
        };
        let subject = optional(HAS_SUBJECT)?;
        let time = optional(HAS_TIME)?;
        let data_content_type = optional(HAS_CONTENT_TYPE)?;
        let data_schema = optional(HAS_DATA_SCHEMA)?;
        let count = varint::take(&mut input)?;
        let mut extensions = Vec::new();
        for _ in 0..count {
            let name = Cow::Borrowed(varint::take_str(&mut input)?);
            let json = Cow::Borrowed(varint::take_str(&mut input)?);
            extensions.push(Extension { name, json });
        }
        let data = match flags & (DATA_JSON | DATA_BINARY) {
            0 => Data::Absent,
            DATA_JSON => Data::Json(Cow::Borrowed(std::str::from_utf8(input).ok()?)),
            DATA_BINARY => Data::Binary(Cow::Borrowed(input)),
            _ => return None,
        };
        Some(Self {
            schema,
            id,
            event_type,
            source,
            subject,
            time,
            data_content_type,
            data_schema,
            extensions,
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(event: &Event<'_>) {
        let mut bytes = Vec::new();
        event.encode(&mut bytes);
        assert_eq!(Event::decode(&bytes).as_ref(), Some(event));
    }

    #[test]
    fn an_event_survives_being_stored() {
        let mut event = Event {
            schema: InputSchema::CloudEvent,
            id: "1".into(),
            event_type: "order.created".into(),
            source: "/shop".into(),
            subject: Some("orders/1".into()),
            time: Some("2026-11-22T20:00:00Z".into()),
            data_content_type: None,
            data_schema: None,
            extensions: vec![Extension { name: "tenant".into(), json: "\"a\"".into() }],
            data: Data::Json("{\"n\": 1}".into()),
        };
        check(&event);
        event.schema = InputSchema::EventGrid;
        event.data = Data::Binary(vec![0, 255].into());
        event.subject = None;
        check(&event);
        event.data = Data::Absent;
        event.data_schema = Some("1".into());
        check(&event);
    }

    #[test]
    fn bytes_that_are_no_event_are_refused() {
        for bytes in [&b""[..], b"\x03", b"\x00\x05ab", b"\xc0\x00\x00\x00\x00"] {
            assert_eq!(Event::decode(bytes), None);
        }
    }
}
