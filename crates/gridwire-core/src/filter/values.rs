//! The values that an event has at a topic's keys: each taken out once, when the first filter asks for it.
//!
//! The data are walked when the first path into them is asked for, and then for all paths at once. The walk
//! follows only members that some path names and lets everything else be skipped; nothing is built from what
//! nobody asks for. A member that is followed is scanned again from its own start, so a byte is looked at no
//! more often than a key has members, which the limits hold small.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::key::{Field, Key, KeyId, KeyTable};
use super::text::fold;
use crate::event::{Data, Event, InputSchema};

/// What an event has at a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Missing,
    Null,
    Scalar(Scalar<'a>),
    Array(Elements<'a>),
    /// An object, or data that are not JSON. There, but nothing to compare with.
    Opaque,
}

/// A single value, in each form that operators may compare it in. In JSON data that is exactly one; a number or
/// a boolean in an extension attribute can be compared as text, too, since a publisher may send either.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scalar<'a> {
    pub number: Option<f64>,
    pub boolean: Option<bool>,
    pub text: Option<Text<'a>>,
}

/// The scalars in an array; no operator looks at other elements. By type, since a single large event may hold
/// hundreds of thousands, and each then takes no more than its type needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Elements<'a> {
    pub numbers: Vec<f64>,
    pub booleans: Vec<bool>,
    pub texts: Vec<Text<'a>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Text<'a> {
    /// As published.
    pub raw: Cow<'a, str>,
    /// As compared.
    pub folded: Cow<'a, str>,
}

impl<'a> Text<'a> {
    pub(super) fn borrowed(raw: &'a str) -> Self {
        Self { raw: Cow::Borrowed(raw), folded: fold(raw) }
    }

    fn owned(raw: String) -> Self {
        let folded = Cow::Owned(fold(&raw).into_owned());
        Self { raw: Cow::Owned(raw), folded }
    }
}

impl<'a> Value<'a> {
    fn text(raw: &'a str) -> Self {
        Self::Scalar(Scalar { text: Some(Text::borrowed(raw)), ..Scalar::default() })
    }

    /// From JSON text. What is no JSON is as good as opaque; whoever took the event has refused it.
    pub(super) fn json(text: &'a str) -> Self {
        match text.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b'[') => serde_json::Deserializer::from_str(text)
                .deserialize_seq(Elements::default())
                .map_or(Self::Opaque, Self::Array),
            _ => Scalar::json(text).map_or(Self::Opaque, Self::Scalar),
        }
    }
}

impl<'a> Scalar<'a> {
    /// From JSON text; `None` unless that is a string, a number or a boolean.
    fn json(text: &'a str) -> Option<Self> {
        match text.as_bytes().first()? {
            b'"' => {
                let inner = text.strip_prefix('"')?.strip_suffix('"')?;
                let text = if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
                    Text::borrowed(inner)
                } else {
                    // A lone surrogate is an escape that stands for no character: such a string has no value.
                    Text::owned(serde_json::from_str(text).ok()?)
                };
                Some(Self { text: Some(text), ..Self::default() })
            }
            b't' => Some(Self { boolean: Some(true), ..Self::default() }),
            b'f' => Some(Self { boolean: Some(false), ..Self::default() }),
            b'-' | b'0'..=b'9' => Some(Self { number: Some(text.parse().ok()?), ..Self::default() }),
            _ => None,
        }
    }

    fn extension(json: &'a str) -> Option<Self> {
        let mut scalar = Self::json(json)?;
        scalar.text.get_or_insert_with(|| Text::borrowed(json));
        Some(scalar)
    }
}

impl<'a> Visitor<'a> for Elements<'a> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<S: SeqAccess<'a>>(mut self, mut elements: S) -> Result<Self, S::Error> {
        while let Some(element) = elements.next_element::<&'a RawValue>()? {
            if let Some(Scalar { number, boolean, text }) = Scalar::json(element.get()) {
                self.numbers.extend(number);
                self.booleans.extend(boolean);
                self.texts.extend(text);
            }
        }
        Ok(self)
    }
}

/// A key that nobody has asked for.
const UNKNOWN: u32 = 0;
/// A key that the event does not have.
const MISSING: u32 = 1;
/// `found[n]` is kept as `n + FOUND`.
const FOUND: u32 = 2;

/// Values that room is made for at once: few events meet filters on more keys, and growing by doubling costs
/// as much as reading the values.
const FOUND_AT_FIRST: usize = 32;

/// The values of one event at the keys of a topic.
#[derive(Debug)]
pub(super) struct Values<'a> {
    keys: &'a KeyTable,
    event: &'a Event<'a>,
    /// For each key one of the states above. A number rather than the value, so that a topic with thousands of
    /// keys costs an event little that has few of them.
    states: Vec<u32>,
    found: Vec<Value<'a>>,
}

impl<'a> Values<'a> {
    pub(super) fn new(keys: &'a KeyTable, event: &'a Event<'a>) -> Self {
        Self { keys, event, states: vec![UNKNOWN; keys.len()], found: Vec::new() }
    }

    pub(super) fn get(&mut self, key: KeyId) -> &Value<'a> {
        if self.states[key] == UNKNOWN {
            match self.keys.envelope(key) {
                Some(source) => {
                    let value = envelope_value(self.event, source);
                    self.set(key, value);
                }
                None => self.read_data(),
            }
        }
        match self.states[key].checked_sub(FOUND) {
            Some(index) => &self.found[index as usize],
            None => &Value::Missing,
        }
    }

    fn set(&mut self, key: KeyId, value: Value<'a>) {
        if value == Value::Missing {
            self.states[key] = MISSING;
            return;
        }
        if self.found.is_empty() {
            self.found.reserve(self.keys.len().min(FOUND_AT_FIRST));
        }
        let index = u32::try_from(self.found.len()).expect("an event of bounded size has few values");
        self.states[key] = index + FOUND;
        self.found.push(value);
    }

    fn read_data(&mut self) {
        let all = self.keys.data();
        self.states[all.clone()].fill(MISSING);
        match &self.event.data {
            Data::Absent => {}
            Data::Binary(_) => {
                if self.keys.ends(all.start, 0) {
                    self.set(all.start, Value::Opaque);
                }
            }
            Data::Json(text) => {
                let text: &'a str = text.trim();
                if self.read_json(text, all.clone(), 0).is_err() {
                    // Text that breaks off tells nothing for certain. Nobody publishes it: it was parsed before.
                    self.states[all].fill(MISSING);
                }
            }
        }
    }

    /// Takes from `text` the values at the paths `within`, which lead here by their first `depth` members.
    fn read_json(&mut self, text: &'a str, mut within: Range<KeyId>, depth: usize) -> serde_json::Result<()> {
        if within.start < within.end && self.keys.ends(within.start, depth) {
            self.set(within.start, Value::json(text));
            within.start += 1;
        }
        if within.is_empty() || !text.starts_with('{') {
            return Ok(());
        }
        let mut json = serde_json::Deserializer::from_str(text);
        json.deserialize_map(Members { values: self, within, depth })
    }
}

/// Visits one object on the way to the paths `within`.
struct Members<'v, 'a> {
    values: &'v mut Values<'a>,
    within: Range<KeyId>,
    depth: usize,
}

impl<'a> Visitor<'a> for Members<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        let Self { values, within, depth } = self;
        let name = Name { keys: values.keys, within: &within, depth };
        while let Some(below) = map.next_key_seed(name)? {
            if below.is_empty() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            // Of members with the same name the last one counts, so what an earlier one left is dropped.
            values.states[below.clone()].fill(MISSING);
            let raw: &'a RawValue = map.next_value()?;
            values.read_json(raw.get(), below, depth + 1).map_err(M::Error::custom)?;
        }
        Ok(())
    }
}

/// Reads a member's name as the paths that go through it. As bytes, so that a name with a lone surrogate, which
/// is no string, is passed over rather than being an error.
#[derive(Clone, Copy)]
struct Name<'n> {
    keys: &'n KeyTable,
    within: &'n Range<KeyId>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Range<KeyId>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Range<KeyId>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        self.visit_bytes(name.as_bytes())
    }

    fn visit_bytes<E: Error>(self, name: &[u8]) -> Result<Self::Value, E> {
        Ok(self.keys.below(self.within, self.depth, name))
    }
}

fn envelope_value<'a>(event: &'a Event<'a>, key: &Key) -> Value<'a> {
    match key {
        Key::Envelope(field) => field_value(event, *field),
        Key::Extension(name, or) => {
            let carried = event.extensions.iter().find(|extension| extension.name.eq_ignore_ascii_case(name));
            match (carried, or) {
                (Some(extension), _) => Scalar::extension(&extension.json)
                    .map_or_else(|| Value::json(&extension.json), Value::Scalar),
                (None, Some(field)) => field_value(event, *field),
                (None, None) => Value::Missing,
            }
        }
        Key::Data(_) => Value::Missing,
    }
}

fn field_value<'a>(event: &'a Event<'a>, field: Field) -> Value<'a> {
    let text = match field {
        Field::Id => Some(&*event.id),
        Field::Type => Some(&*event.event_type),
        // An Event Grid event whose publisher gave no topic has an empty one.
        Field::Source => Some(&*event.source).filter(|source| !source.is_empty()),
        Field::Subject => event.subject.as_deref(),
        Field::Time => event.time.as_deref(),
        Field::ContentType => event.data_content_type.as_deref(),
        Field::DataSchema => event.data_schema.as_deref(),
        Field::SpecVersion => (event.schema == InputSchema::CloudEvent).then_some("1.0"),
    };
    text.map_or(Value::Missing, Value::text)
}

#[cfg(test)]
mod tests {
    use super::super::key::KeyTable;
    use super::*;

    fn check(json: &str, expected: &[(&str, &str)]) {
        let event = Event {
            schema: InputSchema::CloudEvent,
            id: "1".into(),
            event_type: "t".into(),
            source: "/s".into(),
            subject: None,
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: Vec::new(),
            data: Data::Json(json.into()),
        };
        let key = |text: &str| Key::new(InputSchema::CloudEvent, text);
        let keys = KeyTable::new(expected.iter().map(|(text, _)| key(text)).collect());
        let mut values = Values::new(&keys, &event);
        for (text, value) in expected {
            let found = values.get(keys.id(&key(text))).clone();
            let wanted = if value.is_empty() { Value::Missing } else { Value::json(value) };
            assert_eq!(found, wanted, "{text} of {json}");
        }
    }

    #[test]
    fn every_path_finds_its_value_in_one_walk() {
        let json = r#" {"a": {"b": "X", "c": [1, "y", {}, null]}, "other": [[{}]], "d": -1.5e3, "e": null} "#;
        check(json, &[("data.a", "{}"), ("data.a.b", r#""X""#), ("data.d", "-1500"), ("data.e", "null")]);
        check(json, &[("data.a.c", r#"[1, "y"]"#), ("data.a.c.x", ""), ("data.x", ""), ("data.d.e", "")]);
        check(json, &[("data", "{}"), ("data.a.b.c", ""), ("data.A.b", "")]);
    }

    #[test]
    fn neither_a_name_with_a_dot_nor_an_element_can_be_reached() {
        check(r#"{"a.b": 1, "c": {"d.e": 2}}"#, &[("data.a.b", ""), ("data.c.d.e", "")]);
        let json = r#"{"a": [1, {"b": 2}, [3, "x"], null]}"#;
        check(json, &[("data.a", "[1]"), ("data.a.0", ""), ("data.a.b", ""), ("data.a[0]", "")]);
    }

    #[test]
    fn data_may_be_a_scalar() {
        for json in [r#""text""#, "5", "true", "null", "[1]"] {
            check(json, &[("data", json), ("data.a", "")]);
        }
    }

    #[test]
    fn of_members_with_one_name_the_last_counts() {
        check(r#"{"a": {"b": 1}, "a": {"c": 2}}"#, &[("data.a.b", ""), ("data.a.c", "2")]);
        check(r#"{"a": {"b": 1}, "a": 3}"#, &[("data.a.b", ""), ("data.a", "3")]);
        check(r#"{"a": 1, "\u0061": 2}"#, &[("data.a", "2")]);
    }

    #[test]
    fn strange_json_is_read_as_far_as_it_means_something() {
        check(r#"{"\ud800": 1, "a": 2}"#, &[("data.a", "2")]);
        check(r#"{"x": "\ud800", "a": "\ud83d\ude00"}"#, &[("data.a", "\"\u{1f600}\""), ("data.x", "{}")]);
        check(r#"{"x": 1e999, "a": 2}"#, &[("data.a", "2"), ("data.x", "1e999")]);
        check(r#"{"x": {"y": 1e999}, "a": {"b": 2}}"#, &[("data.a.b", "2"), ("data.x.y.z", "")]);
        check(r#"{"a": 2, "b""#, &[("data.a", "")]);
        check("", &[("data.a", "")]);
    }
}
