//! Publish requests of every schema and mode. The first byte chooses which.

use gridwire_core::event::{Event, InputSchema};
use gridwire_core::filter::MatchSet;
use gridwire_core::frame::{FrameBuilder, FrameView};
use gridwire_core::ids::{Lsn, Offset, Slot, TopicNumber};
use gridwire_core::publish::{InputMapping, PublishRequest, parse};
use gridwire_core::routing::TopicKind;
use gridwire_core::time::Timestamp;

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

pub fn publish(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    let mut request = PublishRequest {
        kind: TopicKind::Custom,
        schema: InputSchema::CloudEvent,
        mapping: None,
        content_type: Some("application/json"),
        ce_headers: &[],
        body: rest,
        now: NOW,
    };
    match mode % 7 {
        0 => request.schema = InputSchema::EventGrid,
        1 => request.content_type = Some("application/cloudevents+json; charset=utf-8"),
        2 => request.content_type = Some("application/cloudevents-batch+json"),
        3 => {
            request.kind = TopicKind::Namespace;
            request.content_type = Some("application/cloudevents+json");
        }
        4 => return binary(rest),
        5 => return custom(rest),
        _ => return content_type(rest),
    }
    check(&request);
}

/// Lines of `name: value`, an empty one, and the data.
fn binary(input: &[u8]) {
    let at = input.windows(2).position(|two| two == b"\n\n").unwrap_or(input.len());
    let Ok(head) = std::str::from_utf8(&input[..at]) else { return };
    let mut headers = Vec::new();
    let mut content_type = None;
    for line in head.lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        // As they come from HTTP: names are tokens in lower case, values have no control characters.
        if value.chars().any(char::is_control) {
            continue;
        }
        match name {
            "content-type" => content_type = Some(value),
            _ if name.starts_with("ce-") => headers.push((name, value)),
            _ => {}
        }
    }
    check(&PublishRequest {
        kind: TopicKind::Namespace,
        schema: InputSchema::CloudEvent,
        mapping: None,
        content_type,
        ce_headers: &headers,
        body: input.get(at + 2..).unwrap_or_default(),
        now: NOW,
    });
}

/// A mapping as management takes it, a NUL, and events.
fn custom(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == 0);
    let (Some(mapping), Some(body)) = (parts.next(), parts.next()) else { return };
    let Ok(value) = serde_json::from_slice(mapping) else { return };
    let Ok(mapping) = InputMapping::from_arm(&value) else { return };
    assert_eq!(InputMapping::from_arm(&mapping.to_arm()).as_ref(), Ok(&mapping));
    check(&PublishRequest {
        kind: TopicKind::Custom,
        schema: InputSchema::Custom,
        mapping: Some(&mapping),
        content_type: None,
        ce_headers: &[],
        body,
        now: NOW,
    });
}

/// A content type, a line feed, and the body.
fn content_type(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Some((content_type, body)) = text.split_once('\n') else { return };
    for (kind, schema) in [
        (TopicKind::Custom, InputSchema::EventGrid),
        (TopicKind::Custom, InputSchema::CloudEvent),
        (TopicKind::Namespace, InputSchema::CloudEvent),
    ] {
        check(&PublishRequest {
            kind,
            schema,
            mapping: None,
            content_type: Some(content_type),
            ce_headers: &[],
            body: body.as_bytes(),
            now: NOW,
        });
    }
}

/// What is refused is refused with 4xx; what is taken is read again from its frame as it was.
fn check(request: &PublishRequest<'_>) {
    let events = match parse(request, &mut || "made".to_owned()) {
        Ok(events) => events,
        Err(refusal) => {
            assert!((400..500).contains(&refusal.status()), "{refusal:?}");
            return;
        }
    };
    let mut matched = MatchSet::default();
    matched.push(Slot(3));
    let mut builder = FrameBuilder::new(TopicNumber(1), 0);
    for event in &events {
        builder.push(&matched, event);
    }
    let draft = builder.finish().expect("a request that is taken has an event");
    let view = FrameView {
        lsn: Lsn(0),
        topic: TopicNumber(1),
        first: Offset(0),
        count: draft.count,
        time: NOW,
        body: &draft.body,
    };
    let stored: Vec<_> = view.events().collect();
    assert_eq!(stored.len(), events.len());
    for (stored, event) in stored.iter().zip(&events) {
        let bytes = stored.event_bytes().expect("what we wrote");
        let read = Event::decode(bytes).expect("what we wrote");
        assert_eq!(format!("{read:?}"), format!("{event:?}"));
        assert_eq!(stored.matched().expect("what we wrote").iter().collect::<Vec<_>>(), [Slot(3)]);
    }
}
