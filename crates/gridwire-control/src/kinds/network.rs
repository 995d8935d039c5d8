//! Who may connect: `publicNetworkAccess`, `inboundIpRules`, `minimumTlsVersionAllowed`.
//!
//! Gridwire does not restrict connections by resource: listeners and firewalls do. A setting that would
//! close something is therefore refused rather than accepted and not kept.

use gridwire_core::api_error::ApiError;
use serde_json::{Map, Value};

use crate::members::Members;

const TLS_VERSIONS: &[(&str, &str)] = &[("1.0", "1.0"), ("1.1", "1.1"), ("1.2", "1.2")];

/// The accepted settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    minimum_tls: Option<&'static str>,
}

impl Network {
    pub(super) fn read(properties: &Members<'_>) -> Result<Self, ApiError> {
        if properties.choice("publicNetworkAccess", &[("Enabled", true), ("Disabled", false)])? == Some(false)
        {
            let must = "`Enabled`: Gridwire does not restrict access by resource; bind its listeners to a private address";
            return Err(properties.wrong("publicNetworkAccess", must));
        }
        if !properties.array("inboundIpRules")?.is_empty() {
            let must = "empty: Gridwire does not restrict access by resource; use a firewall";
            return Err(properties.wrong("inboundIpRules", must));
        }
        Ok(Self { minimum_tls: properties.choice("minimumTlsVersionAllowed", TLS_VERSIONS)? })
    }

    pub(super) fn put(&self, properties: &mut Map<String, Value>) {
        properties.insert("publicNetworkAccess".into(), "Enabled".into());
        if let Some(version) = self.minimum_tls {
            properties.insert("minimumTlsVersionAllowed".into(), version.into());
        }
    }
}
