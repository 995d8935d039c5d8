//! Namespaces: `namespaces/{n}`.

use gridwire_core::api_error::ApiError;
use serde_json::{Map, Value, json};

use super::network::Network;
use super::{Admission, Ground, Spec, Surroundings};
use crate::facts::Facts;
use crate::members::{Members, invalid};

const SESSION_EXPIRY_HOURS_MAX: u32 = 8;
const SESSIONS_PER_NAME_MAX: u32 = 100;

#[derive(Debug)]
struct NamespaceSpec {
    network: Network,
    zone_redundant: bool,
    session_expiry_hours: u32,
    sessions_per_name: u32,
}

/// Reads the properties of a namespace.
pub(super) fn read(properties: &Members<'_>, _ground: Ground<'_>) -> Result<Box<dyn Spec>, ApiError> {
    if properties.text("minimumTlsVersionAllowed")?.is_some_and(|version| version != "1.2") {
        return Err(properties.wrong("minimumTlsVersionAllowed", "`1.2`"));
    }
    if let Some(topics) = properties.object("topicsConfiguration")? {
        refuse_custom_domains(&topics)?;
    }
    let mut session_expiry_hours = None;
    let mut sessions_per_name = None;
    if let Some(spaces) = properties.object("topicSpacesConfiguration")? {
        if spaces.choice("state", &[("Disabled", false), ("Enabled", true)])? == Some(true) {
            return Err(invalid(
                "The property `properties.topicSpacesConfiguration.state` must be `Disabled`: MQTT is not available.",
            ));
        }
        refuse_custom_domains(&spaces)?;
        session_expiry_hours = spaces.integer("maximumSessionExpiryInHours", 1..=SESSION_EXPIRY_HOURS_MAX)?;
        sessions_per_name =
            spaces.integer("maximumClientSessionsPerAuthenticationName", 1..=SESSIONS_PER_NAME_MAX)?;
    }
    Ok(Box::new(NamespaceSpec {
        network: Network::read(properties)?,
        zone_redundant: properties.boolean("isZoneRedundant")?.unwrap_or(false),
        session_expiry_hours: session_expiry_hours.unwrap_or(1),
        sessions_per_name: sessions_per_name.unwrap_or(1),
    }))
}

fn refuse_custom_domains(configuration: &Members<'_>) -> Result<(), ApiError> {
    if configuration.array("customDomains")?.is_empty() {
        return Ok(());
    }
    Err(configuration
        .wrong("customDomains", "empty: give the listener a certificate and a base domain instead"))
}

impl Spec for NamespaceSpec {
    fn properties(&self) -> Map<String, Value> {
        let mut properties = Map::new();
        properties.insert("isZoneRedundant".into(), self.zone_redundant.into());
        let spaces = json!({
            "state": "Disabled",
            "maximumSessionExpiryInHours": self.session_expiry_hours,
            "maximumClientSessionsPerAuthenticationName": self.sessions_per_name,
        });
        properties.insert("topicSpacesConfiguration".into(), spaces);
        self.network.put(&mut properties);
        properties
    }

    fn shown(&self, Surroundings { address, public, .. }: Surroundings<'_>) -> Map<String, Value> {
        let mut properties = self.properties();
        let (_, hostname) = public.host_of(address.name());
        properties.insert("topicsConfiguration".into(), json!({ "hostname": hostname }));
        properties
    }

    fn facts(&self) -> Facts<'_> {
        Facts::Namespace
    }

    fn admit(&self, _admission: Admission<'_>) -> Result<(), ApiError> {
        Ok(())
    }
}
