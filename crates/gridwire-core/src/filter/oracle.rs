//! A second matcher, written to be obviously right and nothing else: it builds the whole event as one JSON value
//! and reads the contract's tables from top to bottom. The real one must agree with it on everything.

use proptest::prelude::*;
use serde_json::Value;

use super::{AdvancedFilter, FilterSpec, MatchSet, Matcher, Operator};
use crate::event::{Data, Event, Extension, InputSchema};
use crate::ids::Slot;

fn lower(text: &str) -> String {
    text.chars().map(|char| if char == 'İ' { char } else { char.to_lowercase().next().unwrap() }).collect()
}

/// The value at a key and whether it is in an extension attribute.
fn look_up(event: &Event<'_>, key: &str) -> (Option<Value>, bool) {
    let members: Vec<&str> = key.split('.').collect();
    if lower(members[0]) == "data" {
        let Data::Json(json) = &event.data else {
            let opaque = matches!(event.data, Data::Binary(_)) && members.len() == 1;
            return (opaque.then(|| serde_json::json!({})), false);
        };
        let mut value: Value = serde_json::from_str(json).unwrap();
        for member in &members[1..] {
            match value.as_object().and_then(|object| object.get(*member)) {
                Some(inner) => value = inner.clone(),
                None => return (None, false),
            }
        }
        return (Some(value), false);
    }
    let text = |text: Option<&str>| (text.map(Value::from), false);
    let cloud = event.schema == InputSchema::CloudEvent;
    let name = lower(key);
    match name.as_str() {
        "id" => return text(Some(&event.id)),
        "source" => return text(Some(&event.source)),
        "type" => return text(Some(&event.event_type)),
        "subject" => return text(event.subject.as_deref()),
        "time" => return text(event.time.as_deref()),
        "specversion" => return text(cloud.then_some("1.0")),
        _ => {}
    }
    if cloud {
        for extension in &event.extensions {
            if extension.name == name {
                return (Some(serde_json::from_str(&extension.json).unwrap()), true);
            }
        }
    }
    match name.as_str() {
        "eventtype" => text(Some(&event.event_type)),
        "topic" => text(Some(&event.source)),
        _ => (None, false),
    }
}

fn hit(operator: &Operator, value: &Value, extension: bool) -> Option<bool> {
    let number = || value.as_f64();
    let text = || match value {
        Value::String(text) => Some(lower(text)),
        Value::Number(_) | Value::Bool(_) if extension => Some(value.to_string()),
        _ => None,
    };
    let any_text = |values: &[String], ask: fn(&str, &str) -> bool| {
        let text = text()?;
        Some(values.iter().any(|value| ask(&text, &lower(value))))
    };
    match operator {
        Operator::NumberIn(values) | Operator::NumberNotIn(values) => {
            number().map(|number| values.contains(&number))
        }
        Operator::NumberLessThan(value) => number().map(|number| number < *value),
        Operator::NumberGreaterThan(value) => number().map(|number| number > *value),
        Operator::NumberLessThanOrEquals(value) => number().map(|number| number <= *value),
        Operator::NumberGreaterThanOrEquals(value) => number().map(|number| number >= *value),
        Operator::NumberInRange(ranges) | Operator::NumberNotInRange(ranges) => {
            number().map(|number| ranges.iter().any(|(low, high)| *low <= number && number <= *high))
        }
        Operator::BoolEquals(wanted) => value.as_bool().map(|value| value == *wanted),
        Operator::StringIn(values) | Operator::StringNotIn(values) => {
            any_text(values, |text, value| text == value)
        }
        Operator::StringContains(values) | Operator::StringNotContains(values) => {
            any_text(values, |text, value| text.contains(value))
        }
        Operator::StringBeginsWith(values) | Operator::StringNotBeginsWith(values) => {
            any_text(values, |text, value| text.starts_with(value))
        }
        Operator::StringEndsWith(values) | Operator::StringNotEndsWith(values) => {
            any_text(values, |text, value| text.ends_with(value))
        }
        Operator::IsNullOrUndefined | Operator::IsNotNull => unreachable!("asks no scalar"),
    }
}

fn holds(filter: &AdvancedFilter, arrays: bool, event: &Event<'_>) -> bool {
    let (value, extension) = look_up(event, &filter.key);
    let operator = &filter.operator;
    let negative = operator.name().contains("Not");
    let nothing = value.as_ref().is_none_or(Value::is_null);
    match operator {
        Operator::IsNullOrUndefined => return nothing,
        Operator::IsNotNull => return !nothing,
        _ => {}
    }
    let otherwise = ["NumberNotIn", "StringNotIn", "NumberNotInRange"].contains(&operator.name());
    match value {
        Some(Value::Array(elements)) if arrays => {
            elements.iter().any(|element| hit(operator, element, false) == Some(true)) != negative
        }
        Some(value) => hit(operator, &value, extension).map_or(otherwise, |hit| hit != negative),
        None => otherwise,
    }
}

fn matches(spec: &FilterSpec, event: &Event<'_>) -> bool {
    let types = spec.event_types.as_deref().unwrap_or_default();
    let case = |text: &str| if spec.subject_case_sensitive { text.to_owned() } else { lower(text) };
    let subject = case(event.subject.as_deref().unwrap_or_default());
    let type_holds = types.is_empty()
        || types.iter().any(|name| lower(name) == "all" || lower(name) == lower(&event.event_type));
    type_holds
        && subject.starts_with(&case(&spec.subject_begins_with))
        && subject.ends_with(&case(&spec.subject_ends_with))
        && spec.advanced.iter().all(|filter| holds(filter, spec.arrays, event))
}

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
