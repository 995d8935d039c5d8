//! Custom topics and domains: `topics/{t}`, `domains/{d}`.

use std::collections::BTreeMap;

use gridwire_core::api_error::ApiError;
use gridwire_core::event::InputSchema;
use gridwire_core::publish::InputMapping;
use gridwire_core::routing::TopicKind;
use serde_json::{Map, Value, json};

use super::network::Network;
use super::parts::{INPUT_SCHEMAS, written};
use super::{Admission, Ground, Spec, Surroundings};
use crate::facts::{DomainFacts, Facts, TopicFacts};
use crate::limits::CUSTOM_TOPIC_RETENTION;
use crate::members::{Members, invalid, without_controls};

const RESIDENCY: &[(&str, &str)] = &[("WithinGeopair", "WithinGeopair"), ("WithinRegion", "WithinRegion")];
const AUTO_CREATE: &str = "autoCreateTopicWithFirstSubscription";
const AUTO_DELETE: &str = "autoDeleteTopicWithLastSubscription";
const EVENT_TYPE_MEMBERS: &[&str] = &["description", "displayName", "documentationUrl", "dataSchemaUrl"];

/// Informational: by name of an event type, its documented members.
type EventTypes = BTreeMap<String, Map<String, Value>>;

#[derive(Debug)]
struct TopicSpec {
    facts: TopicFacts,
    network: Network,
    data_residency: Option<&'static str>,
    event_types: Option<EventTypes>,
}

/// Reads the properties of a custom topic.
pub(super) fn read(properties: &Members<'_>, ground: Ground<'_>) -> Result<Box<dyn Spec>, ApiError> {
    Ok(Box::new(read_topic(properties, ground, None)?))
}

/// Reads the properties of a domain: those of a topic, and two of its own.
pub(super) fn read_domain(properties: &Members<'_>, ground: Ground<'_>) -> Result<Box<dyn Spec>, ApiError> {
    let domain = DomainFacts {
        auto_create: properties.boolean(AUTO_CREATE)?.unwrap_or(true),
        auto_delete: properties.boolean(AUTO_DELETE)?.unwrap_or(true),
    };
    let spec = read_topic(properties, ground, Some(domain))?;
    if spec.facts.input_mapping.as_ref().is_some_and(|mapping| mapping.topic.is_none()) {
        // No event could ever say where it goes.
        let must = "an object that maps `topic`, which names each event's domain topic";
        return Err(properties.wrong("inputSchemaMapping", must));
    }
    Ok(Box::new(spec))
}

/// Schema and mapping cannot be changed, so leaving them out of a later PUT keeps them.
fn read_topic(
    properties: &Members<'_>,
    ground: Ground<'_>,
    domain: Option<DomainFacts>,
) -> Result<TopicSpec, ApiError> {
    let existing = ground.existing.and_then(Facts::topic);
    let input_schema = properties
        .choice("inputSchema", INPUT_SCHEMAS)?
        .or(existing.map(|facts| facts.input_schema))
        .unwrap_or_default();
    let input_mapping = match properties.value("inputSchemaMapping") {
        Some(mapping) => Some(InputMapping::from_arm(mapping)?),
        None => existing.and_then(|facts| facts.input_mapping.clone()),
    };
    if input_mapping.is_some() && input_schema != InputSchema::Custom {
        let must = "left out unless `inputSchema` is `CustomEventSchema`";
        return Err(properties.wrong("inputSchemaMapping", must));
    }
    Ok(TopicSpec {
        facts: TopicFacts {
            kind: if domain.is_some() { TopicKind::Domain } else { TopicKind::Custom },
            input_schema,
            input_mapping,
            local_auth: !properties.boolean("disableLocalAuth")?.unwrap_or(false),
            retention: CUSTOM_TOPIC_RETENTION,
            domain,
        },
        network: Network::read(properties)?,
        data_residency: properties.choice("dataResidencyBoundary", RESIDENCY)?,
        event_types: read_event_types(properties)?,
    })
}

fn read_event_types(properties: &Members<'_>) -> Result<Option<EventTypes>, ApiError> {
    let Some(info) = properties.object("eventTypeInfo")? else { return Ok(None) };
    info.choice("kind", &[("Inline", ())])?;
    let mut types = BTreeMap::new();
    if let Some(Value::Object(inline)) = info.value("inlineEventTypes") {
        for (name, value) in inline {
            let described = Members::of(value, &format!("{}.{name}", info.path("inlineEventTypes")))?;
            let mut kept = Map::new();
            for member in EVENT_TYPE_MEMBERS {
                if let Some(text) = described.text(member)? {
                    without_controls(&described, member, text)?;
                    kept.insert((*member).into(), text.into());
                }
            }
            types.insert(name.clone(), kept);
        }
    }
    Ok(Some(types))
}

impl Spec for TopicSpec {
    fn properties(&self) -> Map<String, Value> {
        let mut properties = Map::new();
        properties.insert("inputSchema".into(), written(INPUT_SCHEMAS, &self.facts.input_schema).into());
        if let Some(mapping) = &self.facts.input_mapping {
            properties.insert("inputSchemaMapping".into(), mapping.to_arm());
        }
        properties.insert("disableLocalAuth".into(), (!self.facts.local_auth).into());
        self.network.put(&mut properties);
        if let Some(boundary) = self.data_residency {
            properties.insert("dataResidencyBoundary".into(), boundary.into());
        }
        if let Some(types) = &self.event_types {
            let info = json!({ "kind": "Inline", "inlineEventTypes": types });
            properties.insert("eventTypeInfo".into(), info);
        }
        if let Some(domain) = &self.facts.domain {
            properties.insert(AUTO_CREATE.into(), domain.auto_create.into());
            properties.insert(AUTO_DELETE.into(), domain.auto_delete.into());
        }
        properties
    }

    fn shown(&self, surroundings: Surroundings<'_>) -> Map<String, Value> {
        let mut properties = self.properties();
        properties.insert("endpoint".into(), endpoint(surroundings).into());
        properties
    }

    fn facts(&self) -> Facts<'_> {
        Facts::Topic(&self.facts)
    }

    fn admit(&self, admission: Admission<'_>) -> Result<(), ApiError> {
        let Some(existing) = admission.ground.existing.and_then(Facts::topic) else { return Ok(()) };
        let noun = if self.facts.domain.is_some() { "domain" } else { "topic" };
        if existing.input_schema != self.facts.input_schema {
            return Err(invalid(format!(
                "The property `inputSchema` cannot be updated: the {noun} takes `{}`. Delete the {noun} and create it again.",
                written(INPUT_SCHEMAS, &existing.input_schema)
            )));
        }
        if existing.input_mapping != self.facts.input_mapping {
            return Err(invalid(format!(
                "The property `inputSchemaMapping` cannot be updated. Delete the {noun} and create it again.",
            )));
        }
        Ok(())
    }
}

/// Where events are posted: by host name under a base domain, else by path.
fn endpoint(Surroundings { address, public, .. }: Surroundings<'_>) -> String {
    if public.base_domain.is_some() {
        let (scheme, host) = public.host_of(address.name());
        return format!("{scheme}://{host}/api/events");
    }
    format!(
        "{}/{}/{}/{}/{}/api/events",
        public.preferred().trim_end_matches('/'),
        address.subscription,
        address.resource_group,
        address.kind.segment,
        address.name()
    )
}
