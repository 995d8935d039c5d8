//! What the binary decides for the control plane.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use gridwire_core::patience::DeadLetterPolicy;
use gridwire_core::retry::Tier;
use gridwire_core::routing::TopicKind;
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;

/// The bearer token of management requests. Only its SHA-256 digest is held.
#[derive(Clone, PartialEq, Eq)]
pub struct ManagementToken([u8; 32]);

impl ManagementToken {
    pub fn from_secret(secret: &str) -> Self {
        Self(sha256(secret))
    }

    /// A token known by its digest, as it is kept in a file.
    pub fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The digest, to be kept in a file.
    pub fn digest(&self) -> [u8; 32] {
        self.0
    }

    /// Compares digests in constant time.
    pub fn matches(&self, presented: &str) -> bool {
        self.0.ct_eq(&sha256(presented)).into()
    }
}

impl fmt::Debug for ManagementToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn sha256(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    bytes
}

/// Where publishers and receivers reach this broker, and where dead letters go. Known only once the ports are
/// bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicAddresses {
    /// Base URL of the plain listener, e.g. `http://127.0.0.1:8080`, without a slash at the end.
    pub http: Option<String>,
    /// Base URL of the TLS listener, preferred where there is one.
    pub https: Option<String>,
    /// With `example.org`, the topic `orders` is called `orders.example.org`.
    pub base_domain: Option<String>,
    /// Where the storage accounts for dead letters are, by name. Others are directories.
    pub letter_accounts: BTreeMap<String, String>,
}

impl PublicAddresses {
    /// The base URL that clients should use.
    pub(crate) fn preferred(&self) -> &str {
        self.https.as_deref().or(self.http.as_deref()).unwrap_or("http://localhost")
    }

    /// Scheme and authority (`host:port`) of the preferred listener; below the base domain the host is
    /// `{name}.{base domain}`.
    pub(crate) fn host_of(&self, name: &str) -> (&str, String) {
        let base = self.preferred();
        let (scheme, authority) = base.split_once("://").unwrap_or(("http", base));
        let authority = authority.trim_end_matches('/');
        let Some(domain) = &self.base_domain else { return (scheme, authority.to_owned()) };
        let name = name.to_ascii_lowercase();
        // The last colon outside of an IPv6 literal's brackets begins the port.
        match authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())) {
            Some((_, port)) => (scheme, format!("{name}.{domain}:{port}")),
            None => (scheme, format!("{name}.{domain}")),
        }
    }
}

/// How long events that were given up wait for a dead-letter destination that is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterPatience {
    pub custom: Duration,
    pub namespace: Duration,
}

impl Default for DeadLetterPatience {
    /// What the service documents.
    fn default() -> Self {
        Self {
            custom: DeadLetterPolicy::documented(Tier::Basic).patience,
            namespace: DeadLetterPolicy::documented(Tier::Namespace).patience,
        }
    }
}

impl DeadLetterPatience {
    pub(crate) fn of(self, kind: TopicKind) -> DeadLetterPolicy {
        let patience = match kind {
            TopicKind::Custom | TopicKind::Domain => self.custom,
            TopicKind::Namespace => self.namespace,
        };
        DeadLetterPolicy { patience }
    }
}

/// Options of the control plane.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// Whoever presents it may do everything.
    pub management_token: ManagementToken,
    /// Wrong tokens from one address in a minute; 0: any number.
    pub auth_failures_max: u32,
    pub public: PublicAddresses,
    /// Whether webhooks may be plain `http` (development).
    pub allow_http_webhooks: bool,
    /// Whether there is an issuer of bearer tokens for webhooks.
    pub token_issuer: bool,
    pub dead_letter_patience: DeadLetterPatience,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_matches_itself_only_and_is_never_printed() {
        let token = ManagementToken::from_secret("secret");
        assert!(token.matches("secret"));
        assert!(!token.matches("secret "));
        assert_eq!(ManagementToken::from_digest(token.digest()), token);
        assert_eq!(format!("{token:?}"), "***");
    }

    #[test]
    fn https_is_preferred_and_a_base_domain_keeps_the_port() {
        let mut public = PublicAddresses { http: Some("http://127.0.0.1:8080".into()), ..Default::default() };
        assert_eq!(public.host_of("Orders"), ("http", "127.0.0.1:8080".into()));
        public.https = Some("https://127.0.0.1:8443".into());
        assert_eq!(public.host_of("Orders"), ("https", "127.0.0.1:8443".into()));
        public.base_domain = Some("example.org".into());
        assert_eq!(public.host_of("Orders"), ("https", "orders.example.org:8443".into()));
        public.https = Some("https://grid.example.org".into());
        assert_eq!(public.host_of("orders"), ("https", "orders.example.org".into()));
        public.https = Some("https://[::1]:8443".into());
        assert_eq!(public.host_of("orders"), ("https", "orders.example.org:8443".into()));
    }
}
