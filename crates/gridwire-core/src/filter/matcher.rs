//! All filters of one topic, compiled, and the look-up that spares an event most of them.
//!
//! Subscriptions are first told apart by event type: an event meets those that name its type and those that
//! name none. Among each of these groups, a subscription whose filters hold only when some key has one of given
//! values (`StringIn`, `NumberIn`) is found by the event's value at that key; the others are all tried. Whoever
//! is found is still judged by all clauses, so the look-up can only save work, never decide.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use super::clause::{Clause, OneOf};
use super::key::{Key, KeyId, KeyTable};
use super::match_set::MatchSet;
use super::spec::FilterSpec;
use super::text::fold;
use super::values::{Elements, Scalar, Text, Value, Values};
use crate::event::{Event, InputSchema};
use crate::ids::Slot;

/// All filters of one topic. The default matches nobody.
#[derive(Default)]
pub struct Matcher {
    keys: KeyTable,
    /// Ascending by slot.
    candidates: Vec<Candidate>,
    /// By folded event type.
    by_type: HashMap<Box<str>, Group>,
    any_type: Group,
}

/// One subscription's filter, compiled, but for its event types.
#[derive(Debug)]
pub(super) struct Candidate {
    slot: Slot,
    subject: SubjectRule,
    arrays: bool,
    pub clauses: Vec<(KeyId, Clause)>,
}

#[derive(Debug)]
pub(super) struct SubjectRule {
    /// Folded unless case matters.
    begins_with: Box<str>,
    ends_with: Box<str>,
    case_sensitive: bool,
}

/// Candidates that an event of some type meets, by their place in [`Matcher::candidates`].
#[derive(Debug, Default)]
struct Group {
    /// Tried for every event.
    always: Vec<u32>,
    /// Tried when the event has a fitting value at the index's key.
    indexes: Vec<Index>,
}

/// Candidates by the values that their filter asks for at one key.
#[derive(Debug)]
struct Index {
    key: KeyId,
    texts: HashMap<Box<str>, Vec<u32>>,
    /// By the bits of the double.
    numbers: HashMap<u64, Vec<u32>>,
    /// Bytes of the longest text: no need to hash a longer value.
    text_bytes_max: usize,
}

/// Places that one candidate may take in indexes: its event types times its values. One with more is tried for
/// every event of its types, so that long lists of types cannot blow up memory.
const INDEX_PLACES_MAX: usize = 256;

impl Matcher {
    /// Compiles the filters of a topic's subscriptions. The order does not matter; of a slot given twice, each
    /// filter may match.
    pub fn compile(schema: InputSchema, subscriptions: &[(Slot, &FilterSpec)]) -> Self {
        let mut sorted: Vec<_> = subscriptions.to_vec();
        sorted.sort_by_key(|&(slot, _)| slot);
        let keys = key_table(schema, sorted.iter().map(|&(_, spec)| spec));
        let mut matcher = Self { keys, ..Self::default() };
        for (number, (slot, spec)) in (0..).zip(sorted) {
            let candidate = Candidate::new(schema, slot, spec, &matcher.keys);
            match folded_types(spec) {
                None => matcher.any_type.add(number, &candidate, 1),
                Some(types) => {
                    let count = types.len();
                    for name in types {
                        matcher.by_type.entry(name).or_default().add(number, &candidate, count);
                    }
                }
            }
            matcher.candidates.push(candidate);
        }
        matcher
    }

    /// Puts into `into`, instead of what it holds, the slots of all subscriptions that get `event`.
    pub fn matches(&self, event: &Event<'_>, into: &mut MatchSet) {
        into.clear();
        let typed = if self.by_type.is_empty() { None } else { self.by_type.get(&*fold(&event.event_type)) };
        if typed.is_none() && self.any_type.is_empty() {
            return;
        }
        let mut values = Values::new(&self.keys, event);
        let mut found = Vec::new();
        for group in typed.into_iter().chain([&self.any_type]) {
            group.find(&mut values, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        let subject = Subject::new(event.subject.as_deref());
        let mut last = None;
        for number in found {
            let candidate = &self.candidates[number as usize];
            if last != Some(candidate.slot) && candidate.takes(&subject, &mut values) {
                into.push(candidate.slot);
                last = Some(candidate.slot);
            }
        }
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher")
            .field("subscriptions", &self.candidates.len())
            .field("event_types", &self.by_type.len())
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

/// Every key that the filters use.
pub(super) fn key_table<'s>(schema: InputSchema, specs: impl Iterator<Item = &'s FilterSpec>) -> KeyTable {
    let keys: BTreeSet<Key> =
        specs.flat_map(|spec| &spec.advanced).map(|filter| Key::new(schema, &filter.key)).collect();
    KeyTable::new(keys)
}

/// The event types that a filter takes, as they are compared; `None` for every type.
pub(super) fn folded_types(spec: &FilterSpec) -> Option<BTreeSet<Box<str>>> {
    let types = spec.event_types.as_ref().filter(|_| !spec.takes_every_type())?;
    Some(types.iter().map(|name| fold(name).into()).collect())
}

impl Candidate {
    pub(super) fn new(schema: InputSchema, slot: Slot, spec: &FilterSpec, keys: &KeyTable) -> Self {
        let clauses = spec
            .advanced
            .iter()
            .map(|filter| (keys.id(&Key::new(schema, &filter.key)), Clause::new(&filter.operator)))
            .collect();
        Self { slot, subject: SubjectRule::new(spec), arrays: spec.arrays, clauses }
    }

    fn takes(&self, subject: &Subject<'_>, values: &mut Values<'_>) -> bool {
        self.begins(subject)
            && self.ends(subject)
            && self.clauses.iter().all(|(key, clause)| self.holds(clause, values.get(*key)))
    }

    pub(super) fn begins(&self, subject: &Subject<'_>) -> bool {
        let SubjectRule { begins_with, case_sensitive, .. } = &self.subject;
        begins_with.is_empty()
            || subject.get(*case_sensitive).is_some_and(|text| text.starts_with(&**begins_with))
    }

    pub(super) fn ends(&self, subject: &Subject<'_>) -> bool {
        let SubjectRule { ends_with, case_sensitive, .. } = &self.subject;
        ends_with.is_empty() || subject.get(*case_sensitive).is_some_and(|text| text.ends_with(&**ends_with))
    }

    pub(super) fn holds(&self, clause: &Clause, value: &Value<'_>) -> bool {
        clause.holds(value, self.arrays)
    }
}

impl SubjectRule {
    fn new(spec: &FilterSpec) -> Self {
        let case_sensitive = spec.subject_case_sensitive;
        let text = |text: &str| if case_sensitive { text.into() } else { fold(text).into() };
        Self {
            begins_with: text(&spec.subject_begins_with),
            ends_with: text(&spec.subject_ends_with),
            case_sensitive,
        }
    }
}

/// An event's subject as it is compared, with and without case.
pub(super) struct Subject<'a>(Option<Text<'a>>);

impl<'a> Subject<'a> {
    pub(super) fn new(subject: Option<&'a str>) -> Self {
        Self(subject.map(Text::borrowed))
    }

    fn get(&self, case_sensitive: bool) -> Option<&str> {
        let text = self.0.as_ref()?;
        Some(if case_sensitive { &text.raw } else { &text.folded })
    }
}

impl Group {
    fn is_empty(&self) -> bool {
        self.always.is_empty() && self.indexes.is_empty()
    }

    /// Adds a candidate that is in `groups` groups.
    fn add(&mut self, number: u32, candidate: &Candidate, groups: usize) {
        let one_of =
            candidate.clauses.iter().find_map(|(key, clause)| Some((*key, clause.must_be_one_of()?)));
        let Some((key, one_of)) = one_of.filter(|(_, one_of)| one_of.len() * groups <= INDEX_PLACES_MAX)
        else {
            self.always.push(number);
            return;
        };
        let at = self.indexes.iter().position(|index| index.key == key).unwrap_or_else(|| {
            self.indexes.push(Index::new(key));
            self.indexes.len() - 1
        });
        self.indexes[at].add(number, &one_of);
    }

    /// Adds the candidates that an event may match to `found`, in no order, perhaps more than once.
    fn find(&self, values: &mut Values<'_>, found: &mut Vec<u32>) {
        found.extend_from_slice(&self.always);
        for index in &self.indexes {
            match values.get(index.key) {
                Value::Scalar(Scalar { number, text, .. }) => {
                    index.find(number.as_slice(), text.as_slice(), found);
                }
                // Also for those that don't look into arrays: they fail when they are judged.
                Value::Array(Elements { numbers, texts, .. }) => index.find(numbers, texts, found),
                Value::Missing | Value::Null | Value::Opaque => {}
            }
        }
    }
}

impl OneOf<'_> {
    fn len(&self) -> usize {
        match self {
            OneOf::Numbers(values) => values.len(),
            OneOf::Texts(values) => values.len(),
        }
    }
}

impl Index {
    fn new(key: KeyId) -> Self {
        Self { key, texts: HashMap::new(), numbers: HashMap::new(), text_bytes_max: 0 }
    }

    fn add(&mut self, number: u32, one_of: &OneOf<'_>) {
        match one_of {
            OneOf::Numbers(values) => {
                for &value in *values {
                    self.numbers.entry(bits(value)).or_default().push(number);
                }
            }
            OneOf::Texts(values) => {
                for value in *values {
                    self.text_bytes_max = self.text_bytes_max.max(value.len());
                    self.texts.entry(value.clone()).or_default().push(number);
                }
            }
        }
    }

    fn find(&self, numbers: &[f64], texts: &[Text<'_>], found: &mut Vec<u32>) {
        if !self.numbers.is_empty() {
            for &number in numbers {
                found.extend(self.numbers.get(&bits(number)).into_iter().flatten());
            }
        }
        for text in texts.iter().filter(|text| text.folded.len() <= self.text_bytes_max) {
            found.extend(self.texts.get(&*text.folded).into_iter().flatten());
        }
    }
}

/// Equal for equal doubles: the two zeros differ in their bits only.
fn bits(number: f64) -> u64 {
    if number == 0.0 { 0 } else { number.to_bits() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::{Data, Extension};

    fn event(schema: InputSchema) -> Event<'static> {
        Event {
            schema,
            id: "Id1".into(),
            event_type: "Order.Created".into(),
            source: "/Shop".into(),
            subject: Some("Orders/Blue/1".into()),
            time: Some("2026-11-22T20:00:00Z".into()),
            data_content_type: None,
            data_schema: Some("V1".into()),
            extensions: vec![
                Extension { name: "count".into(), json: "15".into() },
                Extension { name: "flag".into(), json: "true".into() },
                Extension { name: "tenant".into(), json: "\"Contoso\"".into() },
            ],
            data: Data::Json(
                r#"{"color": "Red", "Size": 7, "tags": ["a", "B"], "nested": {"ok": true}}"#.into(),
            ),
        }
    }

    /// Whether `event` matches the basic `filter`; also that the explanation agrees.
    fn check(event: &Event<'_>, filter: &serde_json::Value, expected: bool) {
        let spec = FilterSpec::from_basic(filter).expect("a valid filter");
        let mut set = MatchSet::default();
        Matcher::compile(event.schema, &[(Slot(7), &spec)]).matches(event, &mut set);
        assert_eq!(set.iter().collect::<Vec<_>>(), if expected { vec![Slot(7)] } else { vec![] }, "{filter}");
        assert_eq!(spec.explain(event.schema, event).matched, expected, "{filter}");
    }

    fn check_key(event: &Event<'_>, key: &str, operator: &str, values: &serde_json::Value, expected: bool) {
        let filter = json!({ "key": key, "operatorType": operator, "values": values, "value": values });
        check(event, &json!({ "advancedFilters": [filter] }), expected);
    }

    #[test]
    fn event_types_are_compared_without_case() {
        let event = event(InputSchema::EventGrid);
        for (types, expected) in [
            (json!(null), true),
            (json!(["All"]), true),
            (json!([]), true),
            (json!(["order.CREATED"]), true),
            (json!(["x", "Order.Created"]), true),
            (json!(["Order"]), false),
            (json!(["x", "all"]), true),
        ] {
            check(&event, &json!({ "includedEventTypes": types }), expected);
        }
    }

    #[test]
    fn subjects_are_compared_without_case_unless_asked_for() {
        let mut event = event(InputSchema::EventGrid);
        for (begins, ends, case, expected) in [
            ("", "", false, true),
            ("orders/", "/1", false, true),
            ("orders/", "", true, false),
            ("Orders/", "/1", true, true),
            ("blue", "", false, false),
            ("", "blue", false, false),
            ("Orders/Blue/1", "ORDERS/BLUE/1", false, true),
            ("Orders/*", "", false, false),
        ] {
            let filter = json!({ "subjectBeginsWith": begins, "subjectEndsWith": ends, "isSubjectCaseSensitive": case });
            check(&event, &filter, expected);
        }
        event.subject = None;
        check(&event, &json!({ "subjectBeginsWith": "", "subjectEndsWith": "" }), true);
        check(&event, &json!({ "subjectBeginsWith": "o" }), false);
        check(&event, &json!({ "subjectEndsWith": "1" }), false);
    }

    #[test]
    fn keys_reach_the_envelope_of_each_schema() {
        let mut event = event(InputSchema::EventGrid);
        for (key, value) in [
            ("ID", "id1"),
            ("topic", "/shop"),
            ("Subject", "orders/blue/1"),
            ("eventtype", "order.created"),
            ("DataVersion", "v1"),
            ("EventTime", "2026-11-22t20:00:00z"),
        ] {
            for schema in [InputSchema::EventGrid, InputSchema::Custom, InputSchema::CloudEvent] {
                event.schema = schema;
                check_key(&event, key, "StringIn", &json!([value]), true);
            }
        }
        for (key, value) in [
            ("Source", "/shop"),
            ("type", "order.created"),
            ("SpecVersion", "1.0"),
            ("dataschema", "v1"),
            ("eventid", "id1"),
            ("eventtypeversion", "v1"),
            ("Tenant", "contoso"),
        ] {
            check_key(&event, key, "StringIn", &json!([value]), true);
        }
        check_key(&event, "datacontenttype", "IsNullOrUndefined", &json!(null), true);
        check_key(&event, "nobody", "IsNullOrUndefined", &json!(null), true);
        check_key(&event, "subject.x", "IsNullOrUndefined", &json!(null), true);
        event.schema = InputSchema::EventGrid;
        check_key(&event, "SpecVersion", "IsNotNull", &json!(null), false);
        event.source = "".into();
        check_key(&event, "Topic", "IsNullOrUndefined", &json!(null), true);
    }

    #[test]
    fn an_extension_attribute_comes_before_another_name_of_a_context_attribute() {
        let mut event = event(InputSchema::CloudEvent);
        event.extensions.push(Extension { name: "topic".into(), json: "\"mine\"".into() });
        check_key(&event, "Topic", "StringIn", &json!(["Mine"]), true);
        check_key(&event, "Source", "StringIn", &json!(["/shop"]), true);
    }

    #[test]
    fn numbers_and_booleans_in_extension_attributes_also_compare_as_text() {
        let event = event(InputSchema::CloudEvent);
        check_key(&event, "count", "StringBeginsWith", &json!(["5", "1"]), true);
        check_key(&event, "count", "StringIn", &json!(["15"]), true);
        check_key(&event, "count", "StringNotContains", &json!(["5"]), false);
        check_key(&event, "count", "NumberIn", &json!([15]), true);
        check_key(&event, "flag", "StringIn", &json!(["TRUE"]), true);
        check_key(&event, "flag", "BoolEquals", &json!(true), true);
        check_key(&event, "data.Size", "StringIn", &json!(["7"]), false);
    }

    #[test]
    fn data_members_keep_their_case_and_values_do_not() {
        for schema in [InputSchema::EventGrid, InputSchema::CloudEvent, InputSchema::Custom] {
            let event = event(schema);
            check_key(&event, "Data.color", "StringIn", &json!(["RED"]), true);
            check_key(&event, "data.Color", "StringIn", &json!(["red"]), false);
            check_key(&event, "data.nested.ok", "BoolEquals", &json!(true), true);
            check_key(&event, "data.nested", "IsNotNull", &json!(null), true);
            check_key(&event, "data", "IsNotNull", &json!(null), true);
            check_key(&event, "color", "StringIn", &json!(["red"]), false);
        }
    }

    #[test]
    fn the_key_data_alone_is_the_payload() {
        let mut event = event(InputSchema::CloudEvent);
        event.data = Data::Json("\"On Fire\"".into());
        check_key(&event, "data", "StringContains", &json!(["fire"]), true);
        event.data = Data::Binary(b"on fire".as_slice().into());
        check_key(&event, "data", "StringContains", &json!(["fire"]), false);
        check_key(&event, "data", "IsNotNull", &json!(null), true);
        check_key(&event, "data.x", "IsNullOrUndefined", &json!(null), true);
        event.data = Data::Absent;
        check_key(&event, "data", "IsNullOrUndefined", &json!(null), true);
    }

    #[test]
    fn arrays_are_looked_into_only_when_asked_for() {
        let event = event(InputSchema::EventGrid);
        let filter = json!([{ "key": "data.tags", "operatorType": "StringIn", "values": ["b"] }]);
        check(&event, &json!({ "advancedFilters": filter }), false);
        check(&event, &json!({ "advancedFilters": filter, "enableAdvancedFilteringOnArrays": true }), true);
    }

    #[test]
    fn a_namespaces_filters_look_into_arrays_and_know_no_subject_rules() {
        let event = event(InputSchema::CloudEvent);
        let subject = json!("nothing like it");
        for (value, expected) in [("b", true), ("c", false)] {
            let filters = json!([{ "key": "data.tags", "operatorType": "StringIn", "values": [value] }]);
            let spec = FilterSpec::from_namespace(
                &json!({ "filters": filters, "subjectBeginsWith": subject, "subjectEndsWith": subject }),
            )
            .expect("a valid filter");
            let mut set = MatchSet::default();
            Matcher::compile(event.schema, &[(Slot(7), &spec)]).matches(&event, &mut set);
            assert_eq!(set.contains(Slot(7)), expected, "{value}");
        }
    }

    #[test]
    fn every_part_of_a_filter_must_hold() {
        let event = event(InputSchema::EventGrid);
        let filter = |types: &str, subject: &str, color: &str, size: u32| {
            json!({
                "includedEventTypes": [types],
                "subjectBeginsWith": subject,
                "advancedFilters": [
                    { "key": "data.color", "operatorType": "StringIn", "values": ["green", color] },
                    { "key": "data.Size", "operatorType": "NumberLessThan", "value": size },
                    { "key": "data.Size", "operatorType": "NumberGreaterThan", "value": 6 },
                ],
            })
        };
        check(&event, &filter("order.created", "orders", "red", 8), true);
        check(&event, &filter("order.changed", "orders", "red", 8), false);
        check(&event, &filter("order.created", "order/", "red", 8), false);
        check(&event, &filter("order.created", "orders", "blue", 8), false);
        check(&event, &filter("order.created", "orders", "red", 7), false);
    }

    #[test]
    fn slots_come_out_ascending_whatever_order_they_went_in() {
        let all = FilterSpec::default();
        let typed = FilterSpec { event_types: Some(vec!["order.created".into()]), ..FilterSpec::default() };
        let other = FilterSpec { event_types: Some(vec!["x".into()]), ..FilterSpec::default() };
        let color = FilterSpec::from_basic(
            &json!({ "advancedFilters": [{ "key": "data.color", "operatorType": "StringIn", "values": ["red"] }] }),
        )
        .expect("a valid filter");
        let subscriptions = [
            (Slot(9), &all),
            (Slot(3), &typed),
            (Slot(4), &other),
            (Slot(1), &color),
            (Slot(0), &typed),
            (Slot(5), &all),
        ];
        let matcher = Matcher::compile(InputSchema::EventGrid, &subscriptions);
        let mut set = MatchSet::default();
        set.push(Slot(100));
        matcher.matches(&event(InputSchema::EventGrid), &mut set);
        assert_eq!(set.iter().map(|slot| slot.0).collect::<Vec<_>>(), [0, 1, 3, 5, 9]);
        Matcher::default().matches(&event(InputSchema::EventGrid), &mut set);
        assert!(set.is_empty());
    }

    #[test]
    fn a_matcher_can_be_shared_between_threads() {
        fn check<T: Send + Sync + fmt::Debug + Default>() {}
        check::<Matcher>();
    }
}
