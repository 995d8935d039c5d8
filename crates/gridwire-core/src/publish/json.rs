//! Strict JSON, cheaply: what serde's parser does not refuse by itself, and how our refusals get past it.
//!
//! A body is walked once by [`serde_json`], which hands each member's value over as the text that was sent.
//! Skipping a value does not recurse and checks its syntax, but it lets lone surrogates and any depth pass;
//! both are looked for here, with loops that cost next to nothing on an ordinary event.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde_json::value::RawValue;

use super::refusal;
use crate::api_error::{ApiError, ErrorCode};
use crate::limits::{ENVELOPE_MEMBERS_MAX, JSON_DEPTH_MAX};

/// The whole body as text without lone surrogates.
pub(super) fn text(body: &[u8]) -> Result<&str, ApiError> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let at = error.valid_up_to();
        refusal(ErrorCode::InvalidJson, format!("The request body is not UTF-8 from byte {at} on."))
    })?;
    match lone_surrogate(text.as_bytes()) {
        None => Ok(text),
        Some(at) => Err(refusal(
            ErrorCode::InvalidJson,
            format!("The request body holds half of a surrogate pair at byte {at}."),
        )),
    }
}

/// Where the first `\u` escape stands that names half a surrogate pair.
///
/// Malformed escapes are left for the parser to find.
fn lone_surrogate(text: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, b"\\u")?;
    let mut from = 0;
    while let Some(found) = memchr::memchr(b'\\', text.get(from..)?) {
        let at = from + found;
        // Whatever follows a backslash belongs to it: `\\u` is a backslash and a letter.
        from = at + 2;
        match escaped_unit(text, at) {
            Some(0xD800..=0xDBFF) => match escaped_unit(text, at + 6) {
                Some(0xDC00..=0xDFFF) => from = at + 12,
                _ => return Some(at),
            },
            Some(0xDC00..=0xDFFF) => return Some(at),
            _ => {}
        }
    }
    None
}

/// The UTF-16 unit of the `\uXXXX` at `at`.
fn escaped_unit(text: &[u8], at: usize) -> Option<u32> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)?))
}

/// Refuses a value that lies `outer` levels deep in its body and whose own nesting makes that too many.
pub(super) fn depth(json: &str, outer: usize) -> Result<(), ApiError> {
    // A value with few brackets cannot nest deeply. Counting them is a vectorized pass; only what has many
    // is walked.
    let brackets = brackets(json.as_bytes());
    if brackets + outer <= JSON_DEPTH_MAX || nesting(json.as_bytes()) + outer <= JSON_DEPTH_MAX {
        return Ok(());
    }
    Err(refusal(ErrorCode::TooComplex, format!("The JSON nests deeper than {JSON_DEPTH_MAX} levels.")))
}

/// How many brackets and braces open, in strings too. Chunks that a byte can count for keep the loop in wide
/// vectors of bytes.
fn brackets(json: &[u8]) -> usize {
    let count = |chunk: &[u8]| chunk.iter().map(|byte| u8::from(byte | 0x20 == b'{')).sum::<u8>();
    json.chunks(usize::from(u8::MAX)).map(|chunk| usize::from(count(chunk))).sum()
}

/// The deepest nesting of well-formed JSON: 0 for a scalar.
fn nesting(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                at += 1;
                while let Some(found) = memchr::memchr2(b'"', b'\\', json.get(at..).unwrap_or_default()) {
                    at += found;
                    if json.get(at) == Some(&b'"') {
                        break;
                    }
                    at += 2;
                }
            }
            _ => {}
        }
        at += 1;
    }
    deepest
}

/// Parses the whole of `text` with `seed`, and turns what went wrong into a refusal.
pub(super) fn parse<'a, S>(text: &'a str, seed: S, progress: &Progress) -> Result<S::Value, ApiError>
where
    S: serde::de::DeserializeSeed<'a>,
{
    let mut parser = serde_json::Deserializer::from_str(text);
    let parsed = seed.deserialize(&mut parser).and_then(|value| parser.end().map(|()| value));
    parsed.map_err(|error| match progress.take_refusal() {
        Some(refusal) => refusal,
        // Only a member that is no object can be of the wrong type: every value inside is taken as text.
        None if error.is_data() => refusal(
            ErrorCode::InvalidEvent,
            format!("The event at index {} must be a JSON object.", progress.index()),
        ),
        None => refusal(ErrorCode::InvalidJson, format!("The request body is not valid JSON: {error}.")),
    })
}

/// How far a parse has come, and its refusal: serde's error type can carry only a text.
#[derive(Default)]
pub(super) struct Progress {
    index: std::cell::Cell<usize>,
    refusal: std::cell::Cell<Option<ApiError>>,
}

impl Progress {
    /// For a parse of a single event, the one at `index` of its batch.
    pub(super) fn starting_at(index: usize) -> Self {
        Self { index: index.into(), refusal: None.into() }
    }

    /// The event in hand, counted from 0.
    pub(super) fn index(&self) -> usize {
        self.index.get()
    }

    pub(super) fn next_event(&self) {
        self.index.set(self.index.get() + 1);
    }

    /// Keeps `refusal` for [`parse`] and makes the error that stops serde.
    pub(super) fn refuse<E: serde::de::Error>(&self, refusal: ApiError) -> E {
        self.refusal.set(Some(refusal));
        E::custom("refused")
    }

    fn take_refusal(&self) -> Option<ApiError> {
        self.refusal.take()
    }
}

/// A member's name, borrowed unless it was written with escapes.
pub(super) struct Name<'a>(pub(super) Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// The names an envelope has had so far, of those that have no place of their own.
#[derive(Default)]
pub(super) struct Names<'a> {
    few: Vec<Cow<'a, str>>,
    many: BTreeSet<Cow<'a, str>>,
    count: usize,
}

/// Up to here names are compared one by one; hardly an envelope has more.
const FEW: usize = 16;

impl<'a> Names<'a> {
    /// Counts any member, known or not.
    pub(super) fn count(&mut self) -> Result<(), ApiError> {
        self.count += 1;
        if self.count <= ENVELOPE_MEMBERS_MAX {
            return Ok(());
        }
        let message = format!("An event must not have more than {ENVELOPE_MEMBERS_MAX} members.");
        Err(refusal(ErrorCode::TooComplex, message))
    }

    /// False when `name` was there before.
    pub(super) fn insert(&mut self, name: Cow<'a, str>) -> bool {
        if self.few.contains(&name) {
            return false;
        }
        if self.few.len() < FEW {
            self.few.push(name);
            return true;
        }
        self.many.insert(name)
    }
}

/// A value as it was sent.
pub(super) enum Value<'a> {
    Null,
    /// Without its quotes and escapes.
    Text(Cow<'a, str>),
    /// A number or boolean, as written.
    Scalar(&'a str),
    /// An object or array, as written.
    Nested,
}

/// Takes a value's text apart.
pub(super) fn value(raw: &RawValue) -> Value<'_> {
    let json = raw.get();
    let Some(inside) = json.strip_prefix('"') else {
        return match json.as_bytes().first() {
            Some(b'n') => Value::Null,
            Some(b'{' | b'[') => Value::Nested,
            _ => Value::Scalar(json),
        };
    };
    if memchr::memchr(b'\\', inside.as_bytes()).is_none() {
        return Value::Text(Cow::Borrowed(inside.strip_suffix('"').unwrap_or(inside)));
    }
    match serde_json::from_str::<String>(json) {
        Ok(text) => Value::Text(Cow::Owned(text)),
        // The body's syntax and its surrogates were checked, so this is out of reach; were it not, the value
        // is of no use as text.
        Err(_) => Value::Nested,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_surrogate_pair_is_found_wherever_it_stands() {
        let rows = [
            (r#""plain""#, None),
            (r#""é""#, None),
            (r#""\u00e9""#, None),
            (r#""\ud83d\ude00""#, None),
            (r#""\uD83D\uDE00\uD83D\uDE00""#, None),
            (r#""\\ud83d""#, None),
            (r#""\\\\ud83d""#, None),
            (r#""\ud83d""#, Some(1)),
            (r#""\\\ud83d""#, Some(3)),
            (r#""\ude00""#, Some(1)),
            (r#""\ud83d\n""#, Some(1)),
            (r#""\ud83d\u0041""#, Some(1)),
            (r#""\ud83d\ud83d\ude00""#, Some(1)),
            (r#""\ud83d\ude00\ude00""#, Some(13)),
            (r#""ok\ud83"#, None),
            (r#""\ud83d\"#, Some(1)),
            ("\\", None),
            ("\\u", None),
        ];
        for (json, at) in rows {
            assert_eq!(lone_surrogate(json.as_bytes()), at, "{json}");
        }
    }

    #[test]
    fn depth_counts_brackets_outside_strings_only() {
        let rows = [
            ("1", 0),
            ("[]", 1),
            (r#"{"a":[1,{"b":2}]}"#, 3),
            (r#"["[[[[","\"[[",{"{":"}"}]"#, 2),
            (r#"["\\",[[]],[]]"#, 3),
            ("[[],[],[[]]]", 3),
        ];
        for (json, expected) in rows {
            assert_eq!(nesting(json.as_bytes()), expected, "{json}");
        }
        assert_eq!(brackets("[{".repeat(500).as_bytes()), 1000);
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(depth(&nested(JSON_DEPTH_MAX), 0).is_ok());
        assert!(depth(&nested(JSON_DEPTH_MAX), 1).is_err());
        assert!(depth(&format!("[{}0]", "[],".repeat(1000)), 2).is_ok());
    }

    #[test]
    fn many_names_are_told_apart_too() {
        let mut names = Names::default();
        for number in 0..100 {
            assert!(names.insert(Cow::Owned(number.to_string())));
        }
        for number in [0, 15, 16, 17, 99] {
            assert!(!names.insert(Cow::Owned(number.to_string())));
        }
    }
}
