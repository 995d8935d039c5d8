//! The matcher and the oracle on random filters and events.

use proptest::prelude::*;
use serde_json::Value;

use super::matches;
use crate::event::{Data, Event, Extension, InputSchema};
use crate::filter::{AdvancedFilter, FilterSpec, MatchSet, Matcher, Operator};
use crate::ids::Slot;

fn text() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "", "a", "A", "b", "ab", "aB", "Ba", "é", "É", "İa", "5", "1.5", "true", "\"\\\n",
    ])
    .prop_map(str::to_owned)
}

fn number() -> impl Strategy<Value = f64> {
    prop::sample::select(vec![0.0, -0.0, 1.0, 1.5, 2.0, 5.0, -3.0, 1e300, 0.123_456_789_012_345_68])
}

fn key() -> impl Strategy<Value = String> {
    let known =
        ["id", "Subject", "TYPE", "eventType", "topic", "Source", "time", "specversion", "Ext", "num", "on"];
    let paths =
        ["data", "Data.a", "data.a", "data.b", "data.A", "data.a.a", "data.a.b", "data.b.a", "data.a.b.a"];
    prop::sample::select([&known[..], &paths[..], &paths[..]].concat()).prop_map(str::to_owned)
}

fn operator() -> impl Strategy<Value = Operator> {
    let texts = || prop::collection::vec(text(), 1..4);
    let numbers = || prop::collection::vec(number(), 1..4);
    let ranges = || prop::collection::vec((number(), number()), 1..3);
    let of_numbers = prop_oneof![
        numbers().prop_map(Operator::NumberIn),
        numbers().prop_map(Operator::NumberNotIn),
        number().prop_map(Operator::NumberLessThan),
        number().prop_map(Operator::NumberGreaterThan),
        number().prop_map(Operator::NumberLessThanOrEquals),
        number().prop_map(Operator::NumberGreaterThanOrEquals),
        ranges().prop_map(Operator::NumberInRange),
        ranges().prop_map(Operator::NumberNotInRange),
    ];
    let of_texts = prop_oneof![
        texts().prop_map(Operator::StringIn),
        texts().prop_map(Operator::StringNotIn),
        texts().prop_map(Operator::StringContains),
        texts().prop_map(Operator::StringNotContains),
        texts().prop_map(Operator::StringBeginsWith),
        texts().prop_map(Operator::StringNotBeginsWith),
        texts().prop_map(Operator::StringEndsWith),
        texts().prop_map(Operator::StringNotEndsWith),
    ];
    let others = prop_oneof![
        any::<bool>().prop_map(Operator::BoolEquals),
        Just(Operator::IsNullOrUndefined),
        Just(Operator::IsNotNull),
    ];
    prop_oneof![3 => of_numbers, 3 => of_texts, 1 => others]
}

fn spec() -> impl Strategy<Value = FilterSpec> {
    let advanced = || (key(), operator()).prop_map(|(key, operator)| AdvancedFilter { key, operator });
    let types = prop::collection::vec(prop::sample::select(vec!["t", "T", "é", "u", "All"]), 0..3)
        .prop_map(|types| types.into_iter().map(str::to_owned).collect());
    let subject = || prop_oneof![4 => Just(String::new()), 1 => text()];
    (
        prop::option::of(types),
        subject(),
        subject(),
        any::<bool>(),
        any::<bool>(),
        prop_oneof![3 => prop::collection::vec(advanced(), 1..2), 1 => prop::collection::vec(advanced(), 0..4)],
    )
        .prop_map(|(event_types, subject_begins_with, subject_ends_with, subject_case_sensitive, arrays, advanced)| {
            FilterSpec { event_types, subject_begins_with, subject_ends_with, subject_case_sensitive, arrays, advanced }
        })
}

/// JSON text, with members that come twice and names that are escaped.
fn json() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        1 => Just("null".to_owned()),
        1 => any::<bool>().prop_map(|value| value.to_string()),
        3 => number().prop_map(|value| Value::from(value).to_string()),
        1 => prop::sample::select(vec!["1", "5", "15e-1", "-0"]).prop_map(str::to_owned),
        3 => text().prop_map(|value| Value::from(value).to_string()),
    ];
    scalar.prop_recursive(4, 24, 4, |inner| {
        let name = prop::sample::select(vec!["a", "a", "b", "A", "\\u0061", "", "x.y"]);
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(|elements| format!("[{}]", elements.join(" , "))),
            3 => prop::collection::vec((name, inner), 0..5).prop_map(|members| {
                let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
                format!("{{{}}}", members.join(",\n"))
            }),
        ]
    })
}

fn event() -> impl Strategy<Value = Event<'static>> {
    let data = prop_oneof![
        8 => (json(), json()).prop_map(|(a, b)| Data::Json(format!(" {{\"a\": {a}, \"b\": {b}}} ").into())),
        3 => json().prop_map(|json| Data::Json(json.into())),
        1 => Just(Data::Absent),
        1 => Just(Data::Binary(b"a".as_slice().into())),
    ];
    let extension = |name: &'static str, json: String| Extension { name: name.into(), json: json.into() };
    let extensions = prop::collection::vec(
        prop_oneof![
            text().prop_map(move |text| extension("ext", Value::from(text).to_string())),
            prop::sample::select(vec!["5", "1.5", "-3"])
                .prop_map(move |json| extension("num", json.to_owned())),
            any::<bool>().prop_map(move |value| extension("on", value.to_string())),
            text().prop_map(move |text| extension("topic", Value::from(text).to_string())),
        ],
        0..3,
    );
    let schema =
        prop::sample::select(vec![InputSchema::EventGrid, InputSchema::CloudEvent, InputSchema::Custom]);
    (
        schema,
        text(),
        prop::sample::select(vec!["t", "T", "É", "v"]),
        prop::option::of(text()),
        extensions,
        data,
    )
        .prop_map(|(schema, id, event_type, subject, extensions, data)| Event {
            schema,
            id: id.into(),
            event_type: event_type.into(),
            source: "/s".into(),
            subject: subject.map(Into::into),
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: if schema == InputSchema::CloudEvent { extensions } else { Vec::new() },
            data,
        })
}

proptest! {
    // 400 times 8 filters on 8 events: more than 25,000 comparisons.
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_matcher_agrees_with_a_naive_one(
        specs in prop::collection::vec(spec(), 8),
        events in prop::collection::vec(event(), 8),
    ) {
        let subscriptions: Vec<_> = specs.iter().zip(0..).map(|(spec, slot)| (Slot(slot), spec)).collect();
        let mut set = MatchSet::default();
        for schema in [InputSchema::EventGrid, InputSchema::CloudEvent, InputSchema::Custom] {
            let matcher = Matcher::compile(schema, &subscriptions);
            for event in events.iter().filter(|event| event.schema == schema) {
                matcher.matches(event, &mut set);
                for (slot, spec) in &subscriptions {
                    let expected = matches(spec, event);
                    prop_assert_eq!(set.contains(*slot), expected, "{:?} on {:?}", spec, event);
                    prop_assert_eq!(spec.explain(schema, event).matched, expected, "{:?} on {:?}", spec, event);
                }
            }
        }
    }

    #[test]
    fn any_data_are_matched_or_not_without_a_panic(text in "[\\[\\]{}\":,a0-9\\\\eu. -]{0,40}", spec in spec()) {
        let mut event = Event {
            schema: InputSchema::Custom,
            id: "1".into(),
            event_type: "t".into(),
            source: "/s".into(),
            subject: None,
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: vec![Extension { name: "ext".into(), json: text.clone().into() }],
            data: Data::Json(text.into()),
        };
        for schema in [InputSchema::Custom, InputSchema::CloudEvent] {
            event.schema = schema;
            let mut set = MatchSet::default();
            Matcher::compile(schema, &[(Slot(0), &spec)]).matches(&event, &mut set);
            prop_assert_eq!(set.is_empty(), !spec.explain(schema, &event).matched);
        }
    }
}
