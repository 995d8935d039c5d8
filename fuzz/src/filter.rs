//! Filters and events: a filter as management takes it, a NUL, and a CloudEvent.

use gridwire_core::event::{Data, Event, InputSchema};
use gridwire_core::filter::{FilterSpec, MatchSet, Matcher, oracle};
use gridwire_core::ids::Slot;
use gridwire_core::publish::{PublishRequest, parse};
use gridwire_core::routing::TopicKind;
use gridwire_core::time::Timestamp;

pub fn filter(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let Some(written) = parts.next() else { return };
    let Ok(value) = serde_json::from_slice(written) else { return };
    let mut specs = Vec::new();
    if let Ok(spec) = FilterSpec::from_basic(&value) {
        assert_eq!(FilterSpec::from_basic(&spec.to_basic()).as_ref(), Ok(&spec), "written down again");
        specs.push(spec);
    }
    if let Ok(spec) = FilterSpec::from_namespace(&value) {
        assert_eq!(
            FilterSpec::from_namespace(&spec.to_namespace()).as_ref(),
            Ok(&spec),
            "written down again"
        );
        specs.push(spec);
    }
    let request = PublishRequest {
        kind: TopicKind::Namespace,
        schema: InputSchema::CloudEvent,
        mapping: None,
        content_type: Some("application/cloudevents+json"),
        ce_headers: &[],
        body: parts
            .next()
            .unwrap_or(br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1}}"#),
        now: Timestamp::from_millis(1),
    };
    let Ok(events) = parse(&request, &mut || "made".to_owned()) else { return };
    for spec in &specs {
        for event in &events {
            let mut set = MatchSet::default();
            Matcher::compile(InputSchema::CloudEvent, &[(Slot(0), spec)]).matches(event, &mut set);
            if is_readable(event) {
                assert_eq!(set.contains(Slot(0)), oracle::matches(spec, event), "{spec:?} on {event:?}");
            }
            assert_eq!(set.contains(Slot(0)), spec.explain(InputSchema::CloudEvent, event).matched);
        }
    }
}

/// Whether the naive matcher can read the data. They are JSON in any case, but it knows no number that a double does
/// not hold.
fn is_readable(event: &Event<'_>) -> bool {
    match &event.data {
        Data::Json(json) => serde_json::from_str::<serde_json::Value>(json).is_ok(),
        _ => true,
    }
}
