//! Whoever sends events: small batches and large ones, in every form a topic takes, now and then a wrong one.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use gridwire_core::event::{Data, Event, Extension, InputSchema};
use gridwire_core::routing::TopicKind;
use gridwire_outside::Clock;

use crate::checker::Outcome;
use crate::link;
use crate::plan::{PublisherPlan, STORM};
use crate::setup::Place;
use crate::texts::write_event;
use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(8);

pub(crate) struct Publisher {
    pub(crate) world: Arc<World>,
    pub(crate) number: usize,
    pub(crate) plan: PublisherPlan,
    pub(crate) place: Place,
}

impl Publisher {
    /// Publishes until the storm is over.
    pub(crate) async fn run(self) {
        let mut sent = 0;
        while self.world.clock.monotonic() < STORM {
            self.world.pause(Duration::from_millis(self.world.between(1, self.plan.pause))).await;
            let large = self.plan.batch_max > 1 && self.world.chance(20);
            let count = if large { 40 } else { self.world.between(1, self.plan.batch_max) };
            let events: Vec<Event<'static>> = (0..count).map(|index| self.event(sent + index)).collect();
            sent += count;
            self.publish(events).await;
        }
    }

    async fn publish(&self, events: Vec<Event<'static>>) {
        let world = &self.world;
        let topic = &world.plan.topics[self.plan.topic];
        let wrong = world.chance(30);
        let mut bodies: Vec<String> = events.iter().map(write_event).collect();
        if wrong {
            // The last has no type: nothing of the call may be taken.
            let member = if topic.schema == InputSchema::EventGrid { "\"eventType\"" } else { "\"type\"" };
            let last = bodies.last_mut().expect("a batch has an event");
            *last = last.replace(member, "\"tipe\"");
        }
        let first = events[0].id.to_string();
        let count = events.len();
        let single = count == 1 && topic.schema == InputSchema::CloudEvent && world.chance(500);
        let body = if single { bodies.remove(0) } else { format!("[{}]", bodies.join(",")) };
        let content_type = match topic.schema {
            InputSchema::CloudEvent if single => "application/cloudevents+json",
            InputSchema::CloudEvent => "application/cloudevents-batch+json",
            _ => "application/json",
        };
        let (target, header, key) = if topic.kind == TopicKind::Custom {
            let target = format!("{}/api/events?api-version=2018-01-01", self.place.path);
            (target, "aeg-sas-key", self.place.key.clone())
        } else {
            let target = format!("{}:publish?api-version=2024-06-01", self.place.path);
            (target, "authorization", format!("SharedAccessKey {}", self.place.key))
        };
        let request = link::request("POST", &target, &[("content-type", content_type), (header, &key)], body);
        let call = world.checker().publishing(topic.name, events, world.now());
        let answer = link::call(world, request, PATIENCE).await;
        let (outcome, shown) = match &answer {
            Ok(answer) if answer.status().is_success() => (Outcome::Accepted, "accepted".to_owned()),
            Ok(answer) if answer.status().is_client_error() => {
                (Outcome::Refused, answer.status().to_string())
            }
            Ok(answer) => (Outcome::Unknown, answer.status().to_string()),
            Err(none) => (Outcome::Unknown, none.0.to_owned()),
        };
        world.note(format_args!("publish {first} +{} to {}: {shown}", count - 1, topic.name));
        let unexpected = if wrong { Outcome::Accepted } else { Outcome::Refused };
        let mut checker = world.checker();
        checker.published(call, outcome, world.now());
        if outcome == unexpected {
            let text = answer.map(|answer| String::from_utf8_lossy(answer.body()).into_owned());
            checker.report_other("misjudged", &first, world.now(), &format!("{shown}: {text:?}"));
        }
    }

    fn event(&self, number: u64) -> Event<'static> {
        let world = &self.world;
        let schema = world.plan.topics[self.plan.topic].schema;
        let cloud = schema == InputSchema::CloudEvent;
        let pick =
            |from: &[&'static str]| from[usize::try_from(world.rng.below(from.len() as u64)).unwrap_or(0)];
        let on = world.chance(500);
        let (n, v) = (world.rng.below(12), world.rng.below(50));
        let k = pick(&["alpha", "beta", "gamma", "Alphabet", "\\u00e9t\\u00e9"]);
        let none = if world.chance(300) { ", \"none\": 1" } else { "" };
        let pad = "~".repeat(
            usize::try_from(world.rng.below(if world.chance(50) { 3_000 } else { self.plan.pad }))
                .unwrap_or(0),
        );
        // Unusual blanks: the bytes must come through.
        let data = format!(
            "{{ \"n\":{n},\"on\" : {on}, \"k\": \"{k}\"{none},\t\"deep\":{{\"v\": {}.{}}}, \"pad\":\"{pad}\"}}",
            v / 10,
            v % 10
        );
        let extension = |name: &'static str, json: String| Extension {
            name: Cow::Borrowed(name),
            json: Cow::Owned(json),
        };
        Event {
            schema,
            id: format!("p{}-{number}", self.number).into(),
            event_type: pick(&["t.a", "t.b", "t.c", "t.d"]).into(),
            source: if cloud { pick(&["/s/1", "urn:two"]).into() } else { "".into() },
            subject: (!cloud || world.chance(800))
                .then(|| pick(&["/x/1", "/X/end", "/y/1", "/y/2", "/z/2"]).into()),
            time: (!cloud || world.chance(700)).then(|| "2026-11-23T20:00:00.5Z".into()),
            data_content_type: (cloud && world.chance(300)).then(|| "application/json".into()),
            data_schema: (!cloud).then(|| pick(&["", "1.0"]).into()),
            extensions: if cloud && world.chance(300) {
                vec![extension("trace", format!("\"{}\"", world.rng.below(1000)))]
            } else {
                Vec::new()
            },
            data: Data::Json(data.into()),
        }
    }
}
