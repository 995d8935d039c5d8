//! Event subscriptions of a namespace topic: `namespaces/{n}/topics/{t}/eventSubscriptions/{e}`, pull
//! (`Queue`) or push.

use std::sync::Arc;
use std::time::Duration;

use gridwire_core::api_error::ApiError;
use gridwire_core::event::DeliverySchema;
use gridwire_core::filter::FilterSpec;
use gridwire_core::limits::{LOCK_DURATION_MAX, LOCK_DURATION_MIN};
use gridwire_core::retry::{RetryPolicy, Tier};
use gridwire_core::routing::DeliveryMode;
use serde_json::{Map, Value, json};

use super::parts::dead_letter::{self, DeadLetter};
use super::parts::destination::Destination;
use super::parts::webhook::WebhookDestination;
use super::parts::{admit_expiration, read_expiration};
use super::{Admission, Ground, Spec, Surroundings};
use crate::facts::{Facts, SubscriptionFacts};
use crate::iso_duration;
use crate::limits::TIME_TO_LIVE_MIN;
use crate::members::{Members, invalid};

const DELIVERY_COUNT_MAX: u32 = 10;
const SECONDS_PER_DAY: u64 = 24 * 3600;
const DEAD_LETTER_MEMBER: &str = "deadLetterDestinationWithResourceIdentity";

#[derive(Debug)]
struct NamespaceSubscriptionSpec {
    facts: SubscriptionFacts,
    /// Only in push mode.
    destination: Option<WebhookDestination>,
    dead_letter: Option<DeadLetter>,
    /// As the user wrote it.
    time_to_live: Option<String>,
}

/// Reads the properties of a namespace topic's event subscription.
pub(super) fn read(properties: &Members<'_>, _ground: Ground<'_>) -> Result<Box<dyn Spec>, ApiError> {
    properties.choice("eventDeliverySchema", &[("CloudEventSchemaV1_0", ())])?;
    let filter = match properties.value("filtersConfiguration") {
        Some(filters) => FilterSpec::from_namespace(filters),
        None => FilterSpec::from_namespace(&json!({})),
    };
    let filter = Arc::new(filter.map_err(|error| error.to_api_error())?);
    let nothing = Map::new();
    let configuration = properties
        .object("deliveryConfiguration")?
        .unwrap_or_else(|| Members::new(&nothing, &properties.path("deliveryConfiguration")));
    let push = configuration.choice("deliveryMode", &[("Queue", false), ("Push", true)])?.unwrap_or(false);
    let (own, other) = if push { ("push", "queue") } else { ("queue", "push") };
    if configuration.value(other).is_some() {
        let mode = if push { "Push" } else { "Queue" };
        return Err(configuration.wrong(other, &format!("left out when `deliveryMode` is `{mode}`")));
    }
    let queue =
        configuration.object(own)?.unwrap_or_else(|| Members::new(&nothing, &configuration.path(own)));

    let destination = if push { Destination::read_webhook(&queue)? } else { None };
    let mode = if push {
        let Some(destination) = &destination else {
            return Err(queue.wrong("destination", "given when `deliveryMode` is `Push`"));
        };
        DeliveryMode::Push { retry: RetryPolicy { tier: Tier::Namespace }, batching: destination.batching() }
    } else {
        DeliveryMode::Pull { lock: read_lock(&queue)? }
    };
    let dead_letter = dead_letter::read(&queue, false, DEAD_LETTER_MEMBER)?;
    let (time_to_live, written) = read_time_to_live(&queue)?;
    Ok(Box::new(NamespaceSubscriptionSpec {
        facts: SubscriptionFacts {
            mode,
            attempts_max: queue
                .integer("maxDeliveryCount", 1..=DELIVERY_COUNT_MAX)?
                .unwrap_or(DELIVERY_COUNT_MAX),
            time_to_live,
            webhook: destination.as_ref().map(|destination| destination.webhook(DeliverySchema::CloudEvent)),
            minimum_tls: destination.as_ref().and_then(|destination| destination.minimum_tls),
            forward: None,
            dead_letter: dead_letter.as_ref().map(|dead_letter| dead_letter.destination.clone()),
            filter,
            expires_at: read_expiration(properties)?,
            delivery_attributes: destination
                .iter()
                .flat_map(|destination| &destination.attributes)
                .map(|attribute| attribute.to_arm(true))
                .collect(),
        },
        destination,
        dead_letter,
        time_to_live: written,
    }))
}

fn read_lock(queue: &Members<'_>) -> Result<Duration, ApiError> {
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let range = seconds(LOCK_DURATION_MIN)..=seconds(LOCK_DURATION_MAX);
    let lock = queue.integer("receiveLockDurationInSeconds", range)?;
    Ok(lock.map_or(LOCK_DURATION_MIN, |lock| Duration::from_secs(lock.into())))
}

fn read_time_to_live(queue: &Members<'_>) -> Result<(Option<Duration>, Option<String>), ApiError> {
    let Some(text) = queue.text("eventTimeToLive")? else { return Ok((None, None)) };
    match iso_duration::parse(text) {
        Some(duration) if duration >= TIME_TO_LIVE_MIN => Ok((Some(duration), Some(text.to_owned()))),
        _ => Err(queue.wrong("eventTimeToLive", "an ISO 8601 duration of at least one minute (`PT1M`)")),
    }
}

impl NamespaceSubscriptionSpec {
    fn write(&self, secrets: bool, time_to_live: Option<&str>) -> Map<String, Value> {
        let mut queue = Map::new();
        if let DeliveryMode::Pull { lock } = self.facts.mode {
            queue.insert("receiveLockDurationInSeconds".into(), lock.as_secs().into());
        }
        queue.insert("maxDeliveryCount".into(), self.facts.attempts_max.into());
        if let Some(time_to_live) = time_to_live {
            queue.insert("eventTimeToLive".into(), time_to_live.into());
        }
        if let Some(destination) = &self.destination {
            destination.put(&mut queue, secrets);
        }
        if let Some(dead_letter) = &self.dead_letter {
            dead_letter.put(&mut queue);
        }
        let configuration = match self.facts.mode {
            DeliveryMode::Pull { .. } => json!({ "deliveryMode": "Queue", "queue": queue }),
            DeliveryMode::Push { .. } => json!({ "deliveryMode": "Push", "push": queue }),
        };
        let mut properties = Map::new();
        properties.insert("deliveryConfiguration".into(), configuration);
        properties.insert("eventDeliverySchema".into(), "CloudEventSchemaV1_0".into());
        properties.insert("filtersConfiguration".into(), self.facts.filter.to_namespace());
        if let Some(time) = self.facts.expires_at {
            properties.insert("expirationTimeUtc".into(), time.to_string().into());
        }
        properties
    }
}

impl Spec for NamespaceSubscriptionSpec {
    fn properties(&self) -> Map<String, Value> {
        self.write(true, self.time_to_live.as_deref())
    }

    /// A time to live that was not given is shown as what it is now: the topic's retention.
    fn shown(&self, surroundings: Surroundings<'_>) -> Map<String, Value> {
        let topic = surroundings.parent.and_then(Facts::topic);
        let retention = topic.map(|topic| format!("P{}D", topic.retention.as_secs() / SECONDS_PER_DAY));
        let mut properties = self.write(false, self.time_to_live.as_deref().or(retention.as_deref()));
        let member = match self.facts.mode {
            DeliveryMode::Pull { .. } => "queue",
            DeliveryMode::Push { .. } => "push",
        };
        let queue = properties.get_mut("deliveryConfiguration").and_then(|delivery| delivery.get_mut(member));
        if let (Some(dead_letter), Some(Value::Object(queue))) = (&self.dead_letter, queue) {
            dead_letter.locate(surroundings.public, queue);
        }
        properties
    }

    fn facts(&self) -> Facts<'_> {
        Facts::Subscription(&self.facts)
    }

    fn admit(&self, admission: Admission<'_>) -> Result<(), ApiError> {
        let Ground { parent, existing } = admission.ground;
        let pushes = |facts: &SubscriptionFacts| matches!(facts.mode, DeliveryMode::Push { .. });
        if existing.and_then(Facts::subscription).is_some_and(|old| pushes(old) != pushes(&self.facts)) {
            // Locks and retries of what is under way would lose their meaning.
            return Err(invalid(
                "The property `properties.deliveryConfiguration.deliveryMode` cannot be updated. Delete the event subscription and create it again.",
            ));
        }
        if let (Some(topic), Some(time_to_live)) = (parent.and_then(Facts::topic), self.facts.time_to_live) {
            let unchanged = existing
                .and_then(Facts::subscription)
                .is_some_and(|old| old.time_to_live == self.facts.time_to_live);
            if !unchanged && topic.retention < time_to_live {
                return Err(invalid(format!(
                    "The property `eventTimeToLive` must not be longer than the topic's retention of {} days.",
                    topic.retention.as_secs() / SECONDS_PER_DAY
                )));
            }
        }
        if let Some(destination) = &self.destination {
            destination.admit(admission)?;
        }
        admit_expiration(self.facts.expires_at, admission)
    }
}
