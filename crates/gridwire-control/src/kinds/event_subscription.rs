//! Event subscriptions of a custom topic, a domain or a domain topic: `topics/{t}/eventSubscriptions/{e}`,
//! `domains/{d}/eventSubscriptions/{e}`, `domains/{d}/topics/{t}/eventSubscriptions/{e}`, each in either form.

use std::sync::Arc;
use std::time::Duration;

use gridwire_core::api_error::ApiError;
use gridwire_core::event::{DeliverySchema, InputSchema};
use gridwire_core::filter::FilterSpec;
use gridwire_core::retry::{RetryPolicy, Tier};
use gridwire_core::routing::DeliveryMode;
use serde_json::{Map, Value, json};

use super::parts::dead_letter::{self, DeadLetter};
use super::parts::destination::Destination;
use super::parts::{DELIVERY_SCHEMAS, INPUT_SCHEMAS, admit_expiration, read_expiration, written};
use super::{Admission, Ground, Spec, Surroundings};
use crate::address::Form;
use crate::facts::{Facts, SubscriptionFacts};
use crate::limits::{LABEL_BYTES_MAX, LABELS_MAX};
use crate::members::{Members, invalid, without_controls};

const ATTEMPTS_MAX: u32 = 30;
const TIME_TO_LIVE_MINUTES_MAX: u32 = 1440;

#[derive(Debug)]
struct EventSubscriptionSpec {
    facts: SubscriptionFacts,
    destination: Destination,
    schema: DeliverySchema,
    dead_letter: Option<DeadLetter>,
    time_to_live_minutes: u32,
    labels: Vec<String>,
}

/// Reads the properties of an event subscription.
pub(super) fn read(properties: &Members<'_>, ground: Ground<'_>) -> Result<Box<dyn Spec>, ApiError> {
    let Some(destination) = Destination::read(properties)? else {
        return Err(properties.wrong("destination", "given"));
    };
    // Unless told otherwise, events leave in the schema they came in, but a namespace topic takes only one.
    let input_schema = ground.parent.and_then(Facts::topic).map(|topic| topic.input_schema);
    let schema = match properties.choice("eventDeliverySchema", DELIVERY_SCHEMAS)? {
        Some(schema) => schema,
        None if destination.forward().is_some() => DeliverySchema::CloudEvent,
        None => match input_schema.unwrap_or_default() {
            InputSchema::EventGrid => DeliverySchema::EventGrid,
            InputSchema::CloudEvent => DeliverySchema::CloudEvent,
            InputSchema::Custom => DeliverySchema::Custom,
        },
    };
    let filter = match properties.value("filter") {
        Some(filter) => FilterSpec::from_basic(filter),
        None => FilterSpec::from_basic(&json!({})),
    };
    let filter = filter.map_err(|error| error.to_api_error())?;
    let (attempts_max, time_to_live_minutes) = read_retry_policy(properties)?;
    let dead_letter = dead_letter::read(properties, true, "deadLetterWithResourceIdentity")?;
    Ok(Box::new(EventSubscriptionSpec {
        facts: SubscriptionFacts {
            mode: DeliveryMode::Push {
                retry: RetryPolicy { tier: Tier::Basic },
                batching: destination.batching(),
            },
            attempts_max,
            time_to_live: Some(Duration::from_secs(60 * u64::from(time_to_live_minutes))),
            webhook: destination.webhook(schema),
            minimum_tls: destination.as_webhook().and_then(|webhook| webhook.minimum_tls),
            forward: destination.forward(),
            dead_letter: dead_letter.as_ref().map(|dead_letter| dead_letter.destination.clone()),
            filter: Arc::new(filter),
            expires_at: read_expiration(properties)?,
            delivery_attributes: destination
                .as_webhook()
                .iter()
                .flat_map(|webhook| &webhook.attributes)
                .map(|one| one.to_arm(true))
                .collect(),
        },
        destination,
        schema,
        dead_letter,
        time_to_live_minutes,
        labels: read_labels(properties)?,
    }))
}

fn read_retry_policy(properties: &Members<'_>) -> Result<(u32, u32), ApiError> {
    let Some(policy) = properties.object("retryPolicy")? else {
        return Ok((ATTEMPTS_MAX, TIME_TO_LIVE_MINUTES_MAX));
    };
    let attempts = policy.integer("maxDeliveryAttempts", 1..=ATTEMPTS_MAX)?;
    let minutes = policy.integer("eventTimeToLiveInMinutes", 1..=TIME_TO_LIVE_MINUTES_MAX)?;
    Ok((attempts.unwrap_or(ATTEMPTS_MAX), minutes.unwrap_or(TIME_TO_LIVE_MINUTES_MAX)))
}

fn read_labels(properties: &Members<'_>) -> Result<Vec<String>, ApiError> {
    let items = properties.array("labels")?;
    if items.len() > LABELS_MAX {
        return Err(properties.wrong("labels", &format!("at most {LABELS_MAX} strings")));
    }
    let mut labels = Vec::with_capacity(items.len());
    for item in items {
        let Some(label) = item.as_str().filter(|label| label.len() <= LABEL_BYTES_MAX) else {
            let must = format!("an array of strings of at most {LABEL_BYTES_MAX} bytes");
            return Err(properties.wrong("labels", &must));
        };
        without_controls(properties, "labels", label)?;
        labels.push(label.to_owned());
    }
    Ok(labels)
}

impl EventSubscriptionSpec {
    fn write(&self, secrets: bool) -> Map<String, Value> {
        let mut properties = Map::new();
        self.destination.put(&mut properties, secrets);
        properties.insert("filter".into(), self.facts.filter.to_basic());
        properties.insert("labels".into(), json!(self.labels));
        properties.insert("eventDeliverySchema".into(), written(DELIVERY_SCHEMAS, &self.schema).into());
        let retry_policy = json!({
            "maxDeliveryAttempts": self.facts.attempts_max,
            "eventTimeToLiveInMinutes": self.time_to_live_minutes,
        });
        properties.insert("retryPolicy".into(), retry_policy);
        if let Some(time) = self.facts.expires_at {
            properties.insert("expirationTimeUtc".into(), time.to_string().into());
        }
        if let Some(dead_letter) = &self.dead_letter {
            dead_letter.put(&mut properties);
        }
        properties
    }
}

impl Spec for EventSubscriptionSpec {
    fn properties(&self) -> Map<String, Value> {
        self.write(true)
    }

    fn shown(&self, surroundings: Surroundings<'_>) -> Map<String, Value> {
        let mut properties = self.write(false);
        if let Some(dead_letter) = &self.dead_letter {
            dead_letter.locate(surroundings.public, &mut properties);
        }
        if let Some(topic) = surroundings.address.parent() {
            properties.insert("topic".into(), topic.id(Form::Nested).into());
        }
        properties
    }

    fn facts(&self) -> Facts<'_> {
        Facts::Subscription(&self.facts)
    }

    fn admit(&self, admission: Admission<'_>) -> Result<(), ApiError> {
        if let Some(topic) = admission.ground.parent.and_then(Facts::topic) {
            admit_schemas(topic.input_schema, self.schema)?;
        }
        self.destination.admit(self.schema, admission)?;
        admit_expiration(self.facts.expires_at, admission)
    }
}

/// Which schema can be delivered in which. Source: `publish` contract section 3.3.
fn admit_schemas(input: InputSchema, delivery: DeliverySchema) -> Result<(), ApiError> {
    let possible = match (input, delivery) {
        (_, DeliverySchema::CloudEvent)
        | (InputSchema::Custom, _)
        | (InputSchema::EventGrid, DeliverySchema::EventGrid) => true,
        (InputSchema::EventGrid, DeliverySchema::Custom)
        | (InputSchema::CloudEvent, DeliverySchema::EventGrid | DeliverySchema::Custom) => false,
    };
    if possible {
        return Ok(());
    }
    Err(invalid(format!(
        "The event delivery schema `{}` is not supported for a topic whose input schema is `{}`.",
        written(DELIVERY_SCHEMAS, &delivery),
        written(INPUT_SCHEMAS, &input)
    )))
}
