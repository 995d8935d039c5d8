//! What a dead letter says: its story, and the event in it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use crate::event::{Data, Event, Extension, InputSchema};
use crate::percent;
use crate::render::{CLOUD_EVENT_NAMES, EVENT_GRID_NAMES, StoryNames};
use crate::routing::TopicKind;
use crate::time::Timestamp;

/// Why an event was given up, as its letter tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Story {
    /// In the letter's own words.
    pub reason: String,
    /// The status of the last answer, where the letter tells it.
    pub status: Option<u16>,
    pub attempts: u32,
    pub outcome: Option<String>,
    pub published: Option<Timestamp>,
    pub last_attempt: Option<Timestamp>,
}

/// A dead letter, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter<'a> {
    pub story: Story,
    /// As it was published, as far as the letter's form keeps it.
    pub event: Event<'a>,
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// Reads the letter of a subscription of a topic of this kind and input schema; `None` when it is none of ours:
/// letters can be edited by whoever has the directory.
pub fn read(content: &[u8], kind: TopicKind, input: InputSchema) -> Option<Letter<'_>> {
    let text = std::str::from_utf8(content).ok()?;
    let letters: Vec<Members<'_>> = serde_json::from_str(text).ok()?;
    let [mut members]: [Members<'_>; 1] = letters.try_into().ok()?;
    if kind == TopicKind::Namespace {
        return wrapped(&members);
    }
    if members.contains_key("specversion") {
        let story = story(&mut members, &CLOUD_EVENT_NAMES);
        let event = cloud_event(members)?;
        return Some(Letter { story, event: as_published(event, kind, input) });
    }
    let story = story(&mut members, &EVENT_GRID_NAMES);
    Some(Letter { story, event: event_grid(&members, kind, input)? })
}

fn wrapped<'a>(members: &Members<'a>) -> Option<Letter<'a>> {
    let told: Members<'_> = serde_json::from_str(members.get("deadLetterProperties")?.get()).ok()?;
    let story = Story {
        reason: text(&told, "deadletterreason").unwrap_or_default(),
        status: None,
        attempts: number(&told, "deliveryattempts").unwrap_or(0),
        outcome: text(&told, "deliveryresult"),
        published: text(&told, "publishutc").and_then(|time| Timestamp::parse_rfc3339(&time)),
        last_attempt: text(&told, "deliveryattemptutc").and_then(|time| Timestamp::parse_rfc3339(&time)),
    };
    let event: Members<'_> = serde_json::from_str(members.get("event")?.get()).ok()?;
    Some(Letter { story, event: cloud_event(event)? })
}

/// Takes the story out of the members, so that it does not become part of the event.
fn story(members: &mut Members<'_>, names: &StoryNames) -> Story {
    let time =
        |members: &Members<'_>, name| text(members, name).and_then(|time| Timestamp::parse_rfc3339(&time));
    let story = Story {
        reason: text(members, names.reason).unwrap_or_default(),
        status: number(members, names.status),
        attempts: number(members, names.attempts).unwrap_or(0),
        outcome: text(members, names.outcome),
        published: time(members, names.published),
        last_attempt: time(members, names.last_attempt),
    };
    for name in names.all() {
        members.remove(name);
    }
    story
}

fn cloud_event(mut members: Members<'_>) -> Option<Event<'_>> {
    let mut take = |name: &str| {
        let value = text(&members, name);
        members.remove(name);
        value
    };
    take("specversion");
    let (id, source, event_type) = (take("id")?, take("source")?, take("type")?);
    let (subject, time) = (take("subject"), take("time"));
    let (data_content_type, data_schema) = (take("datacontenttype"), take("dataschema"));
    let data = match (members.remove("data_base64"), members.remove("data")) {
        (Some(encoded), _) => {
            let encoded: String = serde_json::from_str(encoded.get()).ok()?;
            Data::Binary(STANDARD.decode(encoded).ok()?.into())
        }
        (None, Some(data)) => Data::Json(Cow::Borrowed(data.get())),
        (None, None) => Data::Absent,
    };
    let extensions = members
        .into_iter()
        .map(|(name, value)| Extension { name: name.into(), json: Cow::Borrowed(value.get()) })
        .collect();
    Some(Event {
        schema: InputSchema::CloudEvent,
        id: id.into(),
        event_type: event_type.into(),
        source: source.into(),
        subject: subject.map(Cow::from),
        time: time.map(Cow::from),
        data_content_type: data_content_type.map(Cow::from),
        data_schema: data_schema.map(Cow::from),
        extensions,
        data,
    })
}

/// What an event of another schema than `CloudEvents` keeps of the topic that its letter shows. One of a domain
/// says by it which of the domain's topics it is for; elsewhere every delivery shows the topic's own id anew.
fn source(topic: Cow<'_, str>, kind: TopicKind) -> Cow<'_, str> {
    match kind {
        TopicKind::Domain => topic,
        TopicKind::Custom | TopicKind::Namespace => Cow::Borrowed(""),
    }
}

/// An event of another schema that was shown as a `CloudEvent` becomes what it was.
fn as_published(event: Event<'_>, kind: TopicKind, input: InputSchema) -> Event<'_> {
    if input == InputSchema::CloudEvent {
        return event;
    }
    let version =
        event.data_schema.as_deref().and_then(|schema| schema.strip_prefix('#')).and_then(percent::decode);
    let data_schema = version.map(|version| Cow::Owned(version.into_owned()));
    let source = source(event.source, kind);
    Event { schema: input, source, data_schema, extensions: Vec::new(), ..event }
}

fn event_grid<'a>(members: &Members<'a>, kind: TopicKind, input: InputSchema) -> Option<Event<'a>> {
    let schema = if input == InputSchema::Custom { InputSchema::Custom } else { InputSchema::EventGrid };
    Some(Event {
        schema,
        id: text(members, "id")?.into(),
        event_type: text(members, "eventType")?.into(),
        source: source(text(members, "topic")?.into(), kind),
        subject: text(members, "subject").filter(|subject| !subject.is_empty()).map(Cow::from),
        time: text(members, "eventTime").map(Cow::from),
        data_content_type: None,
        data_schema: text(members, "dataVersion").filter(|version| !version.is_empty()).map(Cow::from),
        extensions: Vec::new(),
        data: members.get("data").map_or(Data::Absent, |data| Data::Json(Cow::Borrowed(data.get()))),
    })
}

fn text(members: &Members<'_>, name: &str) -> Option<String> {
    serde_json::from_str(members.get(name)?.get()).ok()
}

fn number<T: TryFrom<u64>>(members: &Members<'_>, name: &str) -> Option<T> {
    let number: u64 = serde_json::from_str(members.get(name)?.get()).ok()?;
    T::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::DeliverySchema;
    use crate::render::{self, DeadLetterInfo, DeliveryContext};
    use crate::shard::DeadLetterReason;

    fn event(schema: InputSchema) -> Event<'static> {
        Event {
            schema,
            id: "e \"1\"".into(),
            event_type: "order.paid".into(),
            source: if schema == InputSchema::CloudEvent { "/shop".into() } else { "".into() },
            subject: Some("orders/1".into()),
            time: Some("2026-11-28T09:10:11Z".into()),
            data_content_type: None,
            data_schema: (schema != InputSchema::CloudEvent).then(|| "2.0 b".into()),
            extensions: Vec::new(),
            data: Data::Json("{\"n\": 1.50,  \"s\":\"\\u00e9\"}".into()),
        }
    }

    const TOPIC: &str = "/subscriptions/s/domains/d/topics/t";

    fn check(event: &Event<'_>, kind: TopicKind, delivery: DeliverySchema) {
        let published = Timestamp::from_millis(1_795_465_178_054);
        let info = DeadLetterInfo {
            reason: DeadLetterReason::Undeliverable,
            attempts: 3,
            last_outcome: Some("NotFound"),
            last_attempt: Some(published),
            last_http_status: Some(404),
            custom_properties: &[],
        };
        let mut bytes = Vec::new();
        let context = DeliveryContext { topic_resource_id: TOPIC, published };
        render::dead_letter(event, &info, kind, delivery, context, &mut bytes);
        let letter = read(&bytes, kind, event.schema).expect("a letter");
        assert_eq!(&letter.event, event, "{}", String::from_utf8_lossy(&bytes));
        let told = letter.story;
        assert_eq!((told.attempts, told.published, told.last_attempt), (3, Some(published), Some(published)));
        assert_eq!(told.outcome.as_deref(), Some("NotFound"));
        assert_eq!(told.status, (kind != TopicKind::Namespace).then_some(404));
    }

    #[test]
    fn an_event_comes_out_of_its_letter_as_it_went_in() {
        for delivery in [DeliverySchema::EventGrid, DeliverySchema::CloudEvent] {
            check(&event(InputSchema::EventGrid), TopicKind::Custom, delivery);
        }
        for delivery in [DeliverySchema::EventGrid, DeliverySchema::CloudEvent, DeliverySchema::Custom] {
            check(&event(InputSchema::Custom), TopicKind::Custom, delivery);
        }
        // Of a domain, whose events say which topic they are for.
        for schema in [InputSchema::EventGrid, InputSchema::Custom] {
            let event = Event { source: TOPIC.into(), ..event(schema) };
            for delivery in [DeliverySchema::EventGrid, DeliverySchema::CloudEvent] {
                check(&event, TopicKind::Domain, delivery);
            }
        }
        let mut event = event(InputSchema::CloudEvent);
        check(&event, TopicKind::Domain, DeliverySchema::CloudEvent);
        event.data_schema = Some("#schema".into());
        event.extensions = vec![Extension { name: "tenant".into(), json: "7".into() }];
        for data in [event.data.clone(), Data::Binary(vec![0, 255, 7].into()), Data::Absent] {
            event.data = data;
            check(&event, TopicKind::Custom, DeliverySchema::CloudEvent);
            check(&event, TopicKind::Namespace, DeliverySchema::CloudEvent);
        }
    }

    #[test]
    fn what_is_no_letter_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            "[{}]",
            "[{\"id\":\"1\"}]",
            "[{\"id\":1,\"eventType\":\"a\"}]",
            "[{},{}]",
            "\u{7f}",
        ] {
            for kind in [TopicKind::Custom, TopicKind::Namespace] {
                assert_eq!(read(text.as_bytes(), kind, InputSchema::EventGrid), None, "{text}");
            }
        }
        assert_eq!(read(b"\xff", TopicKind::Custom, InputSchema::EventGrid), None);
    }
}
