//! Destinations that are webhooks.

use gridwire_core::api_error::ApiError;
use gridwire_core::event::DeliverySchema;
use gridwire_core::routing::{Batching, TokenAudience, Webhook};
use serde_json::{Map, Value, json};
use url::Url;

use super::attributes::{self, DeliveryAttribute};
use super::tls::TlsSettings;
use super::{Identity, endpoint_forbidden};
use crate::kinds::Admission;
use crate::limits::{ENDPOINT_URL_BYTES_MAX, RESOURCE_ID_BYTES_MAX};
use crate::members::{Members, invalid};

/// Ports no webhook may use: the Fetch standard's list of ports that speak another protocol, where a posted
/// body could be taken for commands.
const BLOCKED_PORTS: &[u16] = &[
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103,
    104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514,
    515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723,
    2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
];

const TLS_VERSIONS: &[(&str, &str)] = &[("1.0", "1.0"), ("1.1", "1.1"), ("1.2", "1.2"), ("1.3", "1.3")];
const EVENTS_PER_BATCH_MAX: u32 = 5_000;
const BATCH_KILOBYTES_MAX: u32 = 1_024;
const EVENTS_PER_BATCH_DEFAULT: u32 = 1;
const BATCH_KILOBYTES_DEFAULT: u32 = 64;

/// A webhook as it was configured.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct WebhookDestination {
    identity: Option<Identity>,
    /// As the user wrote it; never shown but by `getFullUrl`.
    pub(crate) url: String,
    /// Scheme, host and path.
    base_url: String,
    events_per_batch: u32,
    batch_kilobytes: u32,
    pub(crate) minimum_tls: Option<&'static str>,
    token: Option<TokenAudience>,
    tls: Option<TlsSettings>,
    pub(crate) attributes: Vec<DeliveryAttribute>,
}

impl std::fmt::Debug for WebhookDestination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookDestination").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

impl WebhookDestination {
    /// What the broker needs to know of it.
    pub(crate) fn webhook(&self, schema: DeliverySchema) -> Webhook {
        let attributes = self.attributes.iter().map(DeliveryAttribute::route).collect();
        // Keys are no property: they stand beside them.
        let (token, tls) = (self.token.clone(), self.tls.as_ref().map(TlsSettings::identity));
        Webhook { url: self.url.clone(), schema, attributes, signing: Vec::new(), token, tls }
    }

    /// How many events may share a request. Clients write the defaults for everybody, so a batch of one is none.
    pub(crate) fn batching(&self) -> Option<Batching> {
        let bytes_max = self.batch_kilobytes as usize * 1024;
        // A header that says something of an event cannot say it of two.
        let alone = self.attributes.iter().any(DeliveryAttribute::is_dynamic);
        let events_max = if alone { 1 } else { self.events_per_batch };
        (self.events_per_batch > 1).then_some(Batching { events_max, bytes_max })
    }

    pub(super) fn read(destination: &Members<'_>, identity: Option<Identity>) -> Result<Self, ApiError> {
        let Some(properties) = destination.object("properties")? else {
            return Err(destination.wrong("properties", "given"));
        };
        let Some(url) = properties.text("endpointUrl")? else {
            return Err(properties.wrong("endpointUrl", "given"));
        };
        let parsed = parse_url(&properties, url)?;
        let token = read_token(&properties)?;
        let attributes = attributes::read(&properties)?;
        if token.is_some() && attributes.iter().any(|one| one.is_called("authorization")) {
            let must = "free of `Authorization` when bearer tokens are asked for";
            return Err(properties.wrong("deliveryAttributeMappings", must));
        }
        Ok(Self {
            identity,
            url: url.to_owned(),
            base_url: base_url(&parsed),
            events_per_batch: properties
                .integer("maxEventsPerBatch", 1..=EVENTS_PER_BATCH_MAX)?
                .unwrap_or(EVENTS_PER_BATCH_DEFAULT),
            batch_kilobytes: properties
                .integer("preferredBatchSizeInKilobytes", 1..=BATCH_KILOBYTES_MAX)?
                .unwrap_or(BATCH_KILOBYTES_DEFAULT),
            minimum_tls: properties.choice("minimumTlsVersionAllowed", TLS_VERSIONS)?,
            token,
            tls: TlsSettings::read(&properties, parsed.scheme() == "https")?,
            attributes,
        })
    }

    /// Judges the URL, the tokens and the certificates by the options and the time, when they are new.
    pub(crate) fn admit(&self, admission: Admission<'_>) -> Result<(), ApiError> {
        let subscription = admission.ground.existing.and_then(crate::facts::Facts::subscription);
        let existing = subscription.and_then(|facts| facts.webhook.as_ref());
        let has_token = existing.is_some_and(|webhook| webhook.token == self.token);
        if self.token.is_some() && !has_token && !admission.token_issuer {
            // Delivering without the token that the endpoint counts on would only look configured.
            return Err(invalid(
                "The destination asks for bearer tokens, and this server has no issuer to get them from: it needs the configuration key `delivery.token_endpoint`.",
            ));
        }
        let has_minimum = subscription.is_some_and(|facts| facts.minimum_tls == self.minimum_tls);
        if self.minimum_tls == Some("1.3") && !has_minimum {
            // Connections are shared by all who post to a host, and 1.2 is good enough for the others.
            return Err(invalid(
                "The property `minimumTlsVersionAllowed` must be `1.0`, `1.1` or `1.2`; webhooks are posted to by TLS 1.2 or later.",
            ));
        }
        let has_tls = |tls: &TlsSettings| existing.is_some_and(|webhook| webhook.tls == Some(tls.identity()));
        if let Some(tls) = self.tls.as_ref().filter(|tls| !has_tls(tls)) {
            tls.admit(admission.now)?;
        }
        let unchanged = existing.is_some_and(|webhook| webhook.url == self.url);
        if unchanged || admission.allow_http_webhooks || self.base_url.starts_with("https:") {
            return Ok(());
        }
        Err(endpoint_forbidden("The endpoint's URL must begin with `https://`."))
    }

    /// The member of the owner that this is, its secrets shown or not.
    pub(crate) fn put(&self, owner: &mut Map<String, Value>, secrets: bool) {
        let mut properties = json!({
            "endpointBaseUrl": self.base_url,
            "maxEventsPerBatch": self.events_per_batch,
            "preferredBatchSizeInKilobytes": self.batch_kilobytes,
        });
        if secrets {
            properties["endpointUrl"] = self.url.as_str().into();
        }
        if let Some(version) = self.minimum_tls {
            properties["minimumTlsVersionAllowed"] = version.into();
        }
        if let Some(token) = &self.token {
            properties["azureActiveDirectoryTenantId"] = token.tenant.as_str().into();
            properties["azureActiveDirectoryApplicationIdOrUri"] = token.application.as_str().into();
        }
        if !self.attributes.is_empty() {
            properties["deliveryAttributeMappings"] =
                self.attributes.iter().map(|attribute| attribute.to_arm(secrets)).collect();
        }
        if let (Some(tls), Value::Object(properties)) = (&self.tls, &mut properties) {
            tls.put(properties, secrets);
        }
        let destination = json!({ "endpointType": "WebHook", "properties": properties });
        match &self.identity {
            None => owner.insert("destination".into(), destination),
            Some(identity) => {
                owner.insert("deliveryWithResourceIdentity".into(), identity.wrap("destination", destination))
            }
        };
    }
}

const TENANT: &str = "azureActiveDirectoryTenantId";
const APPLICATION: &str = "azureActiveDirectoryApplicationIdOrUri";
const TENANT_BYTES_MAX: usize = 128;

/// Whom bearer tokens are for: both members, or neither. Portals write an empty text for "none".
fn read_token(properties: &Members<'_>) -> Result<Option<TokenAudience>, ApiError> {
    let given = |name| properties.text(name).map(|text| text.filter(|text| !text.is_empty()));
    let (tenant, application) = match (given(TENANT)?, given(APPLICATION)?) {
        (None, None) => return Ok(None),
        (Some(tenant), Some(application)) => (tenant, application),
        (None, Some(_)) => return Err(properties.wrong(TENANT, "given with the application")),
        (Some(_), None) => return Err(properties.wrong(APPLICATION, "given with the tenant")),
    };
    // It becomes a part of the issuer's URL.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if TENANT_BYTES_MAX < tenant.len() || !tenant.bytes().all(is_plain) || tenant.starts_with('.') {
        return Err(properties.wrong(TENANT, "a directory's id or domain name"));
    }
    let is_visible = application.bytes().all(|byte| byte.is_ascii_graphic());
    if RESOURCE_ID_BYTES_MAX < application.len() || !is_visible {
        return Err(properties.wrong(APPLICATION, "an application's id or URI"));
    }
    Ok(Some(TokenAudience { tenant: tenant.to_owned(), application: application.to_owned() }))
}

/// Parses an endpoint's URL. The rules that need no look-up are judged here; addresses are judged when they
/// are known, on every attempt.
fn parse_url(properties: &Members<'_>, text: &str) -> Result<Url, ApiError> {
    if text.len() > ENDPOINT_URL_BYTES_MAX {
        let must = format!("at most {ENDPOINT_URL_BYTES_MAX} bytes long");
        return Err(properties.wrong("endpointUrl", &must));
    }
    // A URL parser drops tabs and line breaks; a text with them is not what it seems to be.
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(properties.wrong("endpointUrl", "free of spaces and control characters"));
    }
    let url = Url::parse(text).map_err(|_| properties.wrong("endpointUrl", "an absolute URL"))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(endpoint_forbidden("The endpoint's URL must begin with `https://`."));
    }
    if url.host().is_none() {
        return Err(properties.wrong("endpointUrl", "a URL with a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(endpoint_forbidden("The endpoint's URL must not hold a user name or password."));
    }
    if url.fragment().is_some() {
        return Err(endpoint_forbidden("The endpoint's URL must not have a fragment (`#`)."));
    }
    let port = url.port_or_known_default().unwrap_or(0);
    if BLOCKED_PORTS.contains(&port) {
        return Err(endpoint_forbidden(format!("The endpoint's port {port} may not be used for webhooks.")));
    }
    Ok(url)
}

fn base_url(url: &Url) -> String {
    let mut base = url.clone();
    base.set_query(None);
    base.into()
}
