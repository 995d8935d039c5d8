//! The Event Grid schema (`publish` contract 3.1).

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::check::{TimeForm, is_date_time, is_plain};
use super::json::{self, Name, Names, Progress, Value};
use super::{duplicate, invalid};
use crate::api_error::ApiError;
use crate::event::{Data, Event, InputSchema};

const ID: usize = 0;
const TOPIC: usize = 1;
const SUBJECT: usize = 2;
const EVENT_TYPE: usize = 3;
const EVENT_TIME: usize = 4;
const DATA_VERSION: usize = 5;
const METADATA_VERSION: usize = 6;

/// The members with a text, by place in [`Members`].
const NAMES: [&str; 7] =
    ["id", "topic", "subject", "eventType", "eventTime", "dataVersion", "metadataVersion"];

/// One event: [`DeserializeSeed`] and [`Visitor`] in one.
#[derive(Clone, Copy)]
pub(super) struct EventSeed<'p> {
    pub(super) progress: &'p Progress,
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
        while let Some(name) = map.next_key()? {
            let value: &'de RawValue = map.next_value()?;
            members
                .take(&name, value, self.progress.index())
                .map_err(|refusal| self.progress.refuse(refusal))?;
        }
        members.finish(self.progress.index()).map_err(|refusal| self.progress.refuse(refusal))
    }
}

/// The members of one event. Those that the schema does not name are dropped.
#[derive(Default)]
struct Members<'a> {
    values: [Option<Cow<'a, str>>; 7],
    seen: u8,
    names: Names<'a>,
    data: Option<&'a RawValue>,
}

/// Levels of nesting around the data: the array and the event.
const OUTER: usize = 2;

impl<'a> Members<'a> {
    fn take(&mut self, name: &Name<'a>, raw: &'a RawValue, index: usize) -> Result<(), ApiError> {
        self.names.count()?;
        let Name(name) = name;
        let place = match &**name {
            "id" => ID,
            "topic" => TOPIC,
            "subject" => SUBJECT,
            "eventType" => EVENT_TYPE,
            "eventTime" => EVENT_TIME,
            "dataVersion" => DATA_VERSION,
            "metadataVersion" => METADATA_VERSION,
            "data" => {
                json::depth(raw.get(), OUTER)?;
                return match self.data.replace(raw) {
                    Some(_) => Err(duplicate(index, name)),
                    None => Ok(()),
                };
            }
            _ => {
                json::depth(raw.get(), OUTER)?;
                return if self.names.insert(name.clone()) { Ok(()) } else { Err(duplicate(index, name)) };
            }
        };
        if self.seen & 1 << place != 0 {
            return Err(duplicate(index, name));
        }
        self.seen |= 1 << place;
        match json::value(raw) {
            Value::Null => {}
            Value::Text(text) => {
                is_plain(&text).map_err(|problem| invalid(index, name, problem))?;
                self.values[place] = Some(text);
            }
            Value::Scalar(_) | Value::Nested => return Err(invalid(index, name, "must be a string")),
        }
        Ok(())
    }

    fn finish(mut self, index: usize) -> Result<Event<'a>, ApiError> {
        let mut required = |place: usize| match self.values[place].take() {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(invalid(index, NAMES[place], "is required and must be a non-empty string")),
        };
        let (id, subject) = (required(ID)?, required(SUBJECT)?);
        let (event_type, time) = (required(EVENT_TYPE)?, required(EVENT_TIME)?);
        if !is_date_time(&time, TimeForm::ColonOptional) {
            return Err(invalid(index, "eventTime", "must be an RFC 3339 date-time"));
        }
        let [_, topic, _, _, _, data_version, metadata_version] = self.values;
        if metadata_version.is_some_and(|version| version != "1") {
            return Err(invalid(index, "metadataVersion", "must be '1' or left out"));
        }
        Ok(Event {
            schema: InputSchema::EventGrid,
            id,
            event_type,
            source: topic.unwrap_or_default(),
            subject: Some(subject),
            time: Some(time),
            data_content_type: None,
            data_schema: data_version,
            extensions: Vec::new(),
            data: self.data.map_or(Data::Absent, |raw| Data::Json(Cow::Borrowed(raw.get()))),
        })
    }
}
