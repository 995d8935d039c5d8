//! Events of a custom schema: any JSON object, with an envelope read out of it by the topic's mapping
//! (`publish` contract 3.4).

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::check::{TimeForm, is_date_time, is_plain};
use super::json::{self, Name, Progress, Value};
use super::{InputMapping, duplicate, invalid, refusal};
use crate::api_error::{ApiError, ErrorCode};
use crate::event::{Data, Event, InputSchema};
use crate::limits::ENVELOPE_MEMBERS_MAX;
use crate::time::Timestamp;

/// Reads one event after the other by one mapping.
pub(super) struct Reader<'m, 'n> {
    mapping: Cow<'m, InputMapping>,
    now: String,
    new_id: &'n mut dyn FnMut() -> String,
}

/// What a mapping may name, in the order of [`Reader::read`]'s look-up.
const FIELDS: usize = 6;

impl<'m, 'n> Reader<'m, 'n> {
    pub(super) fn new(
        mapping: Option<&'m InputMapping>,
        now: Timestamp,
        new_id: &'n mut dyn FnMut() -> String,
    ) -> Self {
        let mapping = mapping.map_or_else(|| Cow::Owned(InputMapping::by_name()), Cow::Borrowed);
        Self { mapping, now: now.to_string(), new_id }
    }

    /// Makes the event at `index` of a batch.
    pub(super) fn read<'a>(&mut self, index: usize, raw: &'a RawValue) -> Result<Event<'a>, ApiError> {
        json::depth(raw.get(), 1)?;
        let mapping = &*self.mapping;
        let paths: [Option<&str>; FIELDS] = [
            mapping.id.as_deref(),
            mapping.topic.as_deref(),
            mapping.event_time.as_deref(),
            mapping.event_type.source_field.as_deref(),
            mapping.subject.source_field.as_deref(),
            mapping.data_version.source_field.as_deref(),
        ];
        let found = look_up(raw.get(), paths, index)?;
        let mut texts: [Option<Cow<'a, str>>; FIELDS] = Default::default();
        for ((text, value), path) in texts.iter_mut().zip(found).zip(paths) {
            if let (Some(value), Some(path)) = (value, path) {
                *text = scalar(value, path, index)?;
            }
        }
        let [id, topic, time, event_type, subject, data_version] = texts;
        let event_type = event_type
            .filter(|text| !text.is_empty())
            .or_else(|| mapping.event_type.default_value.clone().map(Cow::Owned))
            .filter(|text| !text.is_empty());
        let Some(event_type) = event_type else {
            let name = mapping.event_type.source_field.as_deref().unwrap_or("eventType");
            return Err(invalid(index, name, "is required, for it is the event's type"));
        };
        if time.as_ref().is_some_and(|time| !is_date_time(time, TimeForm::ColonOptional)) {
            let name = mapping.event_time.as_deref().unwrap_or_default();
            return Err(invalid(index, name, "must be an RFC 3339 date-time"));
        }
        let or_default = |text: Option<_>, default: &Option<String>| {
            text.or_else(|| default.clone().map(Cow::Owned)).unwrap_or_default()
        };
        Ok(Event {
            schema: InputSchema::Custom,
            id: id.filter(|id| !id.is_empty()).unwrap_or_else(|| Cow::Owned((self.new_id)())),
            event_type,
            source: topic.unwrap_or_default(),
            subject: Some(or_default(subject, &mapping.subject.default_value)),
            time: Some(time.unwrap_or_else(|| Cow::Owned(self.now.clone()))),
            data_content_type: None,
            data_schema: Some(or_default(data_version, &mapping.data_version.default_value)),
            extensions: Vec::new(),
            data: Data::Json(Cow::Borrowed(raw.get())),
        })
    }
}

/// A mapped value as text. Numbers and booleans count by what was written, for a custom event's id is often
/// a number.
fn scalar<'a>(raw: &'a RawValue, path: &str, index: usize) -> Result<Option<Cow<'a, str>>, ApiError> {
    let text = match json::value(raw) {
        Value::Null => return Ok(None),
        Value::Text(text) => text,
        Value::Scalar(text) => Cow::Borrowed(text),
        Value::Nested => return Err(invalid(index, path, "must be a string, a number or a boolean")),
    };
    is_plain(&text).map_err(|problem| invalid(index, path, problem))?;
    Ok(Some(text))
}

/// The values at `paths` in an event: a member of the very name, or else the walk that the dots tell.
fn look_up<'a>(
    object: &'a str,
    paths: [Option<&str>; FIELDS],
    index: usize,
) -> Result<[Option<&'a RawValue>; FIELDS], ApiError> {
    // Even places hold whole names, odd ones the first steps of dotted paths.
    let mut names = [None; 2 * FIELDS];
    for (pair, path) in names.chunks_exact_mut(2).zip(paths) {
        if let [whole, first] = pair {
            *whole = path;
            *first = path.and_then(|path| path.split_once('.')).map(|(first, _)| first);
        }
    }
    let progress = Progress::starting_at(index);
    let picked = json::parse(object, Pick { names, repeats: false, progress: &progress }, &progress)?;
    let mut found = [None; FIELDS];
    for ((found, picked), path) in found.iter_mut().zip(picked.chunks_exact(2)).zip(paths) {
        *found = match (picked, path.and_then(|path| path.split_once('.'))) {
            ([Some(whole), _], _) => Some(*whole),
            ([None, Some(first)], Some((_, rest))) => walk(first, rest),
            _ => None,
        };
    }
    Ok(found)
}

/// Follows a dotted path. What is no object ends the walk; of repeated members the last counts, as for filters.
fn walk<'a>(mut value: &'a RawValue, path: &str) -> Option<&'a RawValue> {
    for step in path.split('.') {
        if !value.get().starts_with('{') {
            return None;
        }
        let progress = Progress::default();
        let pick = Pick { names: [Some(step)], repeats: true, progress: &progress };
        let [found] = json::parse(value.get(), pick, &progress).ok()?;
        value = found?;
    }
    Some(value)
}

/// Picks members of one object by name: [`DeserializeSeed`] and [`Visitor`] in one.
#[derive(Clone, Copy)]
struct Pick<'n, 'p, const N: usize> {
    names: [Option<&'n str>; N],
    /// Whether a picked member may occur more than once.
    repeats: bool,
    progress: &'p Progress,
}

impl<'de, const N: usize> DeserializeSeed<'de> for Pick<'_, '_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Pick<'_, '_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut picked = [None; N];
        let mut count = 0;
        while let Some(Name(name)) = map.next_key()? {
            let value: &'de RawValue = map.next_value()?;
            count += 1;
            if count > ENVELOPE_MEMBERS_MAX {
                let message = format!("An event must not have more than {ENVELOPE_MEMBERS_MAX} members.");
                return Err(self.progress.refuse(refusal(ErrorCode::TooComplex, message)));
            }
            for (picked, wanted) in picked.iter_mut().zip(self.names) {
                if wanted == Some(&*name) && picked.replace(value).is_some() && !self.repeats {
                    return Err(self.progress.refuse(duplicate(self.progress.index(), &name)));
                }
            }
        }
        Ok(picked)
    }
}
