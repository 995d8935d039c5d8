//! What an event must look like where it arrives, written down a second time and apart from the code that
//! renders it: attributes by name, data as the very bytes that were published.

use std::collections::BTreeMap;

use gridwire_core::event::{Data, DeliverySchema, Event, InputSchema};
use gridwire_core::routing::TopicKind;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Mode, Subscription, Topic};

type Members = BTreeMap<String, Box<RawValue>>;

/// Attributes that a dead letter adds.
const STORY: [&str; 6] = [
    "reason",
    "deliveryattempts",
    "lastdeliveryoutcome",
    "lasthttpstatuscode",
    "publishtime",
    "lastdeliveryattempttime",
];

/// In which schema a subscription's events come, and whether in an array.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    event_grid: bool,
    array: bool,
}

impl Shape {
    pub(super) fn of(subscription: &Subscription, topic: &Topic) -> Self {
        match subscription.mode {
            Mode::Pull { .. } => Self { event_grid: false, array: false },
            Mode::Push { schema, batching } => {
                let event_grid = topic.kind == TopicKind::Custom && schema == DeliverySchema::EventGrid;
                Self { event_grid, array: event_grid || batching.is_some() }
            }
        }
    }
}

/// An event as it came.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) id: String,
    members: Members,
}

/// The texts of the events in a request to a webhook, one at least.
pub(super) fn split(body: &[u8], shape: Shape) -> Result<Vec<Box<RawValue>>, String> {
    let all: Result<Vec<_>, _> = if shape.array {
        serde_json::from_slice(body)
    } else {
        serde_json::from_slice(body).map(|one| vec![one])
    };
    match all {
        Ok(all) if all.is_empty() => Err("a request without an event".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads one event.
pub(super) fn read(text: &[u8]) -> Result<Arrived, String> {
    let members: Members = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let id = members.get("id").and_then(|id| serde_json::from_str(id.get()).ok());
    Ok(Arrived { id: id.ok_or("no id")?, members })
}

/// The event in a dead letter's array: itself, or inside a namespace's wrapper.
pub(super) fn unwrap_letter(content: &[u8]) -> Option<Vec<u8>> {
    let [letter]: [Box<RawValue>; 1] = serde_json::from_slice(content).ok()?;
    let mut members: Members = serde_json::from_str(letter.get()).ok()?;
    let inner = if members.contains_key("deadLetterProperties") { members.remove("event")? } else { letter };
    Some(inner.get().as_bytes().to_vec())
}

impl Arrived {
    /// What differs from what should have come.
    pub(super) fn compare(&self, event: &Event<'_>, topic: &Topic, shape: Shape) -> Result<(), String> {
        let expected = expected(event, topic, shape);
        for (name, wanted) in &expected {
            let Some(found) = self.members.get(*name) else { return Err(format!("`{name}` is missing")) };
            let same = match wanted {
                Wanted::Any => true,
                Wanted::Text(text) => {
                    serde_json::from_str::<Value>(found.get()).is_ok_and(|found| found == *text)
                }
                Wanted::Bytes(bytes) => found.get() == *bytes,
            };
            if !same {
                return Err(format!("`{name}` is {}", found.get()));
            }
        }
        let is_story = |name: &str| {
            let name = name.to_ascii_lowercase();
            STORY.contains(&name.as_str()) || name == "deadletterreason"
        };
        match self.members.keys().find(|name| !expected.contains_key(name.as_str()) && !is_story(name)) {
            Some(more) => Err(format!("`{more}` was never there")),
            None => Ok(()),
        }
    }
}

/// What a member must be.
enum Wanted<'a> {
    Text(Value),
    /// To the byte.
    Bytes(&'a str),
    /// Given by the broker.
    Any,
}

fn expected<'a>(event: &'a Event<'_>, topic: &Topic, shape: Shape) -> BTreeMap<&'a str, Wanted<'a>> {
    let text = |text: &str| Wanted::Text(text.into());
    let mut all = BTreeMap::from([("id", text(&event.id))]);
    if let Data::Json(json) = &event.data {
        all.insert("data", Wanted::Bytes(json));
    }
    let own = event.schema == InputSchema::CloudEvent;
    if shape.event_grid {
        all.insert("topic", text(&topic.resource_id));
        all.insert("subject", text(event.subject.as_deref().unwrap_or_default()));
        all.insert("eventType", text(&event.event_type));
        all.insert("eventTime", event.time.as_deref().map_or(Wanted::Any, text));
        all.insert("dataVersion", text(event.data_schema.as_deref().unwrap_or_default()));
        all.insert("metadataVersion", text("1"));
        return all;
    }
    all.insert("specversion", text("1.0"));
    all.insert("type", text(&event.event_type));
    all.insert("source", text(if own { &event.source } else { &topic.resource_id }));
    if let Some(subject) = event.subject.as_deref().filter(|subject| own || !subject.is_empty()) {
        all.insert("subject", text(subject));
    }
    match event.time.as_deref() {
        Some(time) => drop(all.insert("time", text(time))),
        // A CloudEvent has the attributes it came with; the other schemas have a time, if need be ours.
        None if own => {}
        None => drop(all.insert("time", Wanted::Any)),
    }
    if own {
        if let Some(content_type) = event.data_content_type.as_deref() {
            all.insert("datacontenttype", text(content_type));
        }
        for extension in &event.extensions {
            all.insert(&extension.name, Wanted::Bytes(&extension.json));
        }
    } else if let Some(version) = event.data_schema.as_deref().filter(|version| !version.is_empty()) {
        all.insert("dataschema", text(&format!("#{version}")));
    }
    all
}
