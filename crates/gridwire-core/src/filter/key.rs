//! What a filter's key points at (`filters` contract section 3), and the table of all keys of a topic.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::event::InputSchema;
use crate::limits::FILTER_KEY_DEPTH_MAX;

/// A place in an event. Ordered so that the paths into the data come first, each followed by those below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// Member names from the root of the data down; none is the data themselves.
    Data(Vec<Box<str>>),
    Envelope(Field),
    /// An extension attribute by its lower-cased name, or else the attribute that it is another name of.
    Extension(Box<str>, Option<Field>),
}

/// A context attribute that every event may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    Id,
    Type,
    Source,
    Subject,
    Time,
    ContentType,
    DataSchema,
    SpecVersion,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyError {
    EmptyMember,
    TooDeep { members: usize },
}

/// The member names after `data`, when the key is a path into the data.
fn data_path(key: &str) -> Option<impl Iterator<Item = &str>> {
    let mut members = key.split('.');
    members.next().filter(|first| first.eq_ignore_ascii_case("data"))?;
    Some(members)
}

/// Refuses a path into the data that can't be meant or is too deep. A name that no event carries is no error:
/// it is missing in each of them.
pub(super) fn check(key: &str) -> Result<(), KeyError> {
    let Some(mut path) = data_path(key) else {
        return Ok(());
    };
    let members = key.split('.').count();
    if members > FILTER_KEY_DEPTH_MAX {
        return Err(KeyError::TooDeep { members });
    }
    if path.any(str::is_empty) { Err(KeyError::EmptyMember) } else { Ok(()) }
}

impl Key {
    /// Names of the envelope and the leading `data` are matched without case, member names of the data exactly.
    ///
    /// Both tables of the contract are served: an Event Grid (or mapped) event also answers to `source`, `type`
    /// and `time`, a `CloudEvent` to `eventId`, `topic`, `eventType`, `eventTime`, `dataVersion` and
    /// `eventTypeVersion`, unless it carries an extension attribute of that name.
    pub(super) fn new(schema: InputSchema, key: &str) -> Self {
        if let Some(path) = data_path(key) {
            return Self::Data(path.map(Box::from).collect());
        }
        let name = key.to_ascii_lowercase();
        let own = match name.as_str() {
            "id" => Some(Field::Id),
            "source" => Some(Field::Source),
            "type" => Some(Field::Type),
            "subject" => Some(Field::Subject),
            "time" => Some(Field::Time),
            "datacontenttype" => Some(Field::ContentType),
            "dataschema" => Some(Field::DataSchema),
            "specversion" => Some(Field::SpecVersion),
            _ => None,
        };
        let other = match name.as_str() {
            "eventid" => Some(Field::Id),
            "topic" => Some(Field::Source),
            "eventtype" => Some(Field::Type),
            "eventtime" => Some(Field::Time),
            "dataversion" | "eventtypeversion" => Some(Field::DataSchema),
            _ => None,
        };
        match (own, other, schema) {
            (Some(field), _, _) | (None, Some(field), InputSchema::EventGrid | InputSchema::Custom) => {
                Self::Envelope(field)
            }
            (None, other, _) => Self::Extension(name.into(), other),
        }
    }
}

/// The number of a key in its topic's table.
pub(super) type KeyId = usize;

/// Every key that some filter of a topic uses, once. Ids follow the order of [`Key`], so the paths into the
/// data have the lowest, and a path and all below it are one range.
#[derive(Debug, Default)]
pub(super) struct KeyTable {
    paths: Vec<Vec<Box<str>>>,
    envelope: Vec<Key>,
}

impl KeyTable {
    pub(super) fn new(keys: BTreeSet<Key>) -> Self {
        let mut table = Self::default();
        for key in keys {
            match key {
                Key::Data(path) => table.paths.push(path),
                key => table.envelope.push(key),
            }
        }
        table
    }

    pub(super) fn len(&self) -> usize {
        self.paths.len() + self.envelope.len()
    }

    /// The id of a key that the table was made with.
    pub(super) fn id(&self, key: &Key) -> KeyId {
        const KNOWN: &str = "the table was made from these keys";
        match key {
            Key::Data(path) => self.paths.binary_search(path).expect(KNOWN),
            key => self.paths.len() + self.envelope.binary_search(key).expect(KNOWN),
        }
    }

    /// The key, unless it is a path into the data.
    pub(super) fn envelope(&self, id: KeyId) -> Option<&Key> {
        self.envelope.get(id.checked_sub(self.paths.len())?)
    }

    /// The ids of all paths into the data.
    pub(super) fn data(&self) -> Range<KeyId> {
        0..self.paths.len()
    }

    /// Of `within`, whose paths share their first `depth` members: those whose next member is `name`. Never
    /// includes the path that ends there.
    pub(super) fn below(&self, within: &Range<KeyId>, depth: usize, name: &[u8]) -> Range<KeyId> {
        let paths = &self.paths[within.clone()];
        // A path that ends has no member at `depth`, and so sorts before all that go on.
        let member = |path: &Vec<Box<str>>| path.get(depth).map(|member| member.as_bytes().cmp(name));
        let start = paths.partition_point(|path| member(path).is_none_or(std::cmp::Ordering::is_lt));
        let count =
            paths[start..].partition_point(|path| member(path).is_some_and(std::cmp::Ordering::is_eq));
        within.start + start..within.start + start + count
    }

    /// Whether the path ends after `depth` members.
    pub(super) fn ends(&self, id: KeyId, depth: usize) -> bool {
        self.paths[id].len() == depth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(members: &[&str]) -> Key {
        Key::Data(members.iter().map(|&member| member.into()).collect())
    }

    fn check_key(schema: InputSchema, key: &str, expected: &Key) {
        assert_eq!(Key::new(schema, key), *expected, "{key} of {schema:?}");
    }

    #[test]
    fn envelope_names_have_no_case_and_data_members_do() {
        for schema in [InputSchema::EventGrid, InputSchema::CloudEvent, InputSchema::Custom] {
            check_key(schema, "SUBJECT", &Key::Envelope(Field::Subject));
            check_key(schema, "Id", &Key::Envelope(Field::Id));
            check_key(schema, "Data.Key1.b", &path(&["Key1", "b"]));
            check_key(schema, "DATA", &path(&[]));
        }
        check_key(InputSchema::EventGrid, "Topic", &Key::Envelope(Field::Source));
        check_key(InputSchema::EventGrid, "DataVersion", &Key::Envelope(Field::DataSchema));
        check_key(InputSchema::CloudEvent, "Topic", &Key::Extension("topic".into(), Some(Field::Source)));
        check_key(InputSchema::CloudEvent, "database", &Key::Extension("database".into(), None));
        check_key(InputSchema::CloudEvent, "Tenant", &Key::Extension("tenant".into(), None));
    }

    #[test]
    fn a_path_that_cannot_be_meant_or_is_too_deep_is_refused() {
        for key in ["data", "data.a", "data.a.b.c.d.e.f.g", "a..b", "subject.x", "datax."] {
            assert_eq!(check(key), Ok(()), "{key}");
        }
        for key in ["data.", "Data..x", "data.a."] {
            assert_eq!(check(key), Err(KeyError::EmptyMember), "{key}");
        }
        assert_eq!(check("data.a.b.c.d.e.f.g.h"), Err(KeyError::TooDeep { members: 9 }));
    }

    #[test]
    fn the_paths_below_a_member_are_one_range() {
        let keys = [&[][..], &["a"], &["a", "b"], &["a", "c", "d"], &["ab"], &["b", "a"]];
        let table = KeyTable::new(keys.iter().rev().map(|members| path(members)).collect());
        for (id, members) in keys.iter().enumerate() {
            assert_eq!(table.id(&path(members)), id);
        }
        assert_eq!(table.below(&(0..6), 0, b"a"), 1..4);
        assert_eq!(table.below(&(1..4), 1, b"c"), 3..4);
        assert_eq!(table.below(&(0..6), 0, b"ab"), 4..5);
        assert_eq!(table.below(&(0..6), 0, b"aa"), 4..4);
        assert!(table.ends(1, 1) && !table.ends(2, 1));
    }
}
