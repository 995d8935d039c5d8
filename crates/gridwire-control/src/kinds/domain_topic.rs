//! Topics of a domain: `domains/{d}/topics/{t}`. They have nothing but a name.

use gridwire_core::api_error::ApiError;
use serde_json::{Map, Value};

use super::{Admission, Ground, Spec, Surroundings};
use crate::facts::Facts;
use crate::members::Members;

#[derive(Debug)]
pub(super) struct DomainTopicSpec;

#[expect(clippy::unnecessary_wraps, reason = "the kinds' table has one type for all of them")]
pub(super) fn read(_properties: &Members<'_>, _ground: Ground<'_>) -> Result<Box<dyn Spec>, ApiError> {
    Ok(Box::new(DomainTopicSpec))
}

impl Spec for DomainTopicSpec {
    fn properties(&self) -> Map<String, Value> {
        Map::new()
    }

    fn shown(&self, _surroundings: Surroundings<'_>) -> Map<String, Value> {
        Map::new()
    }

    fn facts(&self) -> Facts<'_> {
        Facts::DomainTopic
    }

    fn admit(&self, _admission: Admission<'_>) -> Result<(), ApiError> {
        Ok(())
    }
}
