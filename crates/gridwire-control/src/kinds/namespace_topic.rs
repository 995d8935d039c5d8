//! Topics of a namespace: `namespaces/{n}/topics/{t}`.

use std::time::Duration;

use gridwire_core::api_error::ApiError;
use gridwire_core::event::InputSchema;
use gridwire_core::routing::TopicKind;
use serde_json::{Map, Value};

use super::{Admission, Ground, Spec, Surroundings};
use crate::facts::{Facts, TopicFacts};
use crate::members::Members;

const RETENTION_DAYS_MAX: u32 = 7;
const RETENTION_DAYS_DEFAULT: u32 = 1;
const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
struct NamespaceTopicSpec {
    facts: TopicFacts,
    retention_days: u32,
}

/// Reads the properties of a namespace topic.
pub(super) fn read(properties: &Members<'_>, _ground: Ground<'_>) -> Result<Box<dyn Spec>, ApiError> {
    properties.choice("publisherType", &[("Custom", ())])?;
    properties.choice("inputSchema", &[("CloudEventSchemaV1_0", ())])?;
    let retention_days =
        properties.integer("eventRetentionInDays", 1..=RETENTION_DAYS_MAX)?.unwrap_or(RETENTION_DAYS_DEFAULT);
    Ok(Box::new(NamespaceTopicSpec {
        facts: TopicFacts {
            kind: TopicKind::Namespace,
            input_schema: InputSchema::CloudEvent,
            input_mapping: None,
            local_auth: true,
            retention: DAY * retention_days,
            domain: None,
        },
        retention_days,
    }))
}

impl Spec for NamespaceTopicSpec {
    fn properties(&self) -> Map<String, Value> {
        let mut properties = Map::new();
        properties.insert("publisherType".into(), "Custom".into());
        properties.insert("inputSchema".into(), "CloudEventSchemaV1_0".into());
        properties.insert("eventRetentionInDays".into(), self.retention_days.into());
        properties
    }

    fn shown(&self, _surroundings: Surroundings<'_>) -> Map<String, Value> {
        self.properties()
    }

    fn facts(&self) -> Facts<'_> {
        Facts::Topic(&self.facts)
    }

    fn admit(&self, _admission: Admission<'_>) -> Result<(), ApiError> {
        Ok(())
    }
}
