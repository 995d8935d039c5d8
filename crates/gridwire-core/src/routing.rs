//! The routing table: everything a request or a delivery needs to know about resources, compiled.
//!
//! Control builds a new table from its resources after each change and hands it over whole
//! ([`DeliveryPort::install`]); the broker routes by the latest one. A table never changes under a reader.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use subtle::ConstantTimeEq;

use crate::event::{DeliverySchema, InputSchema};
use crate::filter::{FilterSpec, Matcher};
use crate::ids::{Slot, SubscriptionNumber, TopicNumber};
use crate::patience::DeadLetterPolicy;
use crate::publish::InputMapping;
use crate::retry::{RetryPolicy, Tier};

/// A future that does not name its type, so that a port can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One access key: base64 text, compared in constant time and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey(String);

impl AccessKey {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The key itself, for `listKeys` and for computing a signature.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn matches(&self, presented: &str) -> bool {
        self.0.as_bytes().ct_eq(presented.as_bytes()).into()
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The two keys of a topic or namespace; both always valid, so that one can be exchanged at a time.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub keys: [AccessKey; 2],
    /// False when `disableLocalAuth` is set: keys and SAS tokens are refused.
    pub local_auth: bool,
}

impl Credentials {
    /// Whether `presented` is one of the keys. Always tries both.
    pub fn accept_key(&self, presented: &str) -> bool {
        let first = self.keys[0].matches(presented);
        let second = self.keys[1].matches(presented);
        self.local_auth && (first | second)
    }
}

/// What kind of topic it is; decides the tier's rules (limits, status codes, defaults).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TopicKind {
    /// A custom topic: `topics/{name}`, `POST …/api/events`.
    Custom,
    /// A topic of a namespace: `POST …/topics/{name}:publish`.
    Namespace,
}

/// A topic, ready to publish to.
#[derive(Debug)]
pub struct TopicRoute {
    pub number: TopicNumber,
    pub kind: TopicKind,
    pub name: String,
    /// The full ARM id, in the case the user wrote.
    pub resource_id: String,
    pub input_schema: InputSchema,
    /// Only with [`InputSchema::Custom`].
    pub input_mapping: Option<InputMapping>,
    pub credentials: Credentials,
    /// How long an undelivered event is kept at most.
    pub retention: Duration,
    pub matcher: Matcher,
    /// By lower-cased name.
    pub subscriptions: HashMap<String, Arc<SubscriptionRoute>>,
}

/// An event subscription, ready to deliver to.
#[derive(Debug)]
pub struct SubscriptionRoute {
    pub number: SubscriptionNumber,
    pub slot: Slot,
    pub topic: TopicNumber,
    pub topic_kind: TopicKind,
    pub name: String,
    pub resource_id: String,
    pub topic_name: String,
    pub topic_resource_id: String,
    /// Empty for a custom topic.
    pub namespace_name: String,
    pub policy: QueuePolicy,
    pub webhook: Option<Webhook>,
    pub dead_letter: Option<DeadLetterDestination>,
    pub filter: Arc<FilterSpec>,
}

/// The rules by which a subscription's queue runs; what the shard knows of a subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct QueuePolicy {
    pub mode: DeliveryMode,
    /// Deliveries of one event before it is given up: `maxDeliveryCount` or `maxDeliveryAttempts`.
    pub attempts_max: u32,
    /// From publish time.
    pub time_to_live: Duration,
    /// Where there is a dead-letter destination: how events that are given up wait for it.
    pub dead_letter: Option<DeadLetterPolicy>,
}

impl QueuePolicy {
    /// The tier whose documented figures hold: only namespaces have pull.
    pub fn tier(&self) -> Tier {
        match self.mode {
            DeliveryMode::Push { retry } => retry.tier,
            DeliveryMode::Pull { .. } => Tier::Namespace,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum DeliveryMode {
    /// Receivers ask; an event is locked for `lock` from each receive or renewal.
    Pull { lock: Duration },
    /// We post; after a failure `retry` says when to try again.
    Push { retry: RetryPolicy },
}

/// Where and how a push subscription's events are posted.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The full URL. May carry secrets in its query, so it is never printed.
    pub url: String,
    pub schema: DeliverySchema,
    /// Headers added to each delivery: the name, and where the value comes from.
    pub attributes: Vec<(String, AttributeSource)>,
}

/// Where a delivery attribute's value comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum AttributeSource {
    /// The same for every event.
    Static(String),
    /// The same for every event, and told to nobody but the endpoint.
    Secret(String),
    /// A member of the event: `data.key1`, `subject`, an extension attribute.
    Dynamic(String),
}

impl fmt::Debug for AttributeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static(_) | Self::Secret(_) => f.write_str("Static(***)"),
            Self::Dynamic(field) => f.debug_tuple("Dynamic").field(field).finish(),
        }
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// A blob container for dead letters; an account that is not configured is a directory of the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterDestination {
    /// The storage account's name: the last segment of its resource id.
    pub account: String,
    pub container: String,
}

/// A namespace, ready to route by.
#[derive(Debug)]
pub struct NamespaceRoute {
    pub name: String,
    pub resource_id: String,
    pub credentials: Credentials,
    /// By lower-cased name.
    pub topics: HashMap<String, Arc<TopicRoute>>,
}

/// A resource's place: subscription GUID, resource group and name, each lower-cased.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub subscription: String,
    pub resource_group: String,
    pub name: String,
}

impl Place {
    pub fn new(subscription: &str, resource_group: &str, name: &str) -> Self {
        Self {
            subscription: subscription.to_ascii_lowercase(),
            resource_group: resource_group.to_ascii_lowercase(),
            name: name.to_ascii_lowercase(),
        }
    }
}

/// All of it.
#[derive(Debug, Default)]
pub struct RoutingTable {
    /// Custom topics.
    pub topics: HashMap<Place, Arc<TopicRoute>>,
    pub namespaces: HashMap<Place, Arc<NamespaceRoute>>,
    /// Every topic of either kind.
    pub by_number: HashMap<TopicNumber, Arc<TopicRoute>>,
}

impl RoutingTable {
    /// The custom topics called `name` in any place: for host-name routing. More than one is ambiguous.
    pub fn topics_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Arc<TopicRoute>> + 'a {
        self.topics
            .iter()
            .filter(move |(place, _)| place.name.eq_ignore_ascii_case(name))
            .map(|(_, route)| route)
    }

    /// The namespaces called `name` in any place.
    pub fn namespaces_named<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = &'a Arc<NamespaceRoute>> + 'a {
        self.namespaces
            .iter()
            .filter(move |(place, _)| place.name.eq_ignore_ascii_case(name))
            .map(|(_, route)| route)
    }

    /// Every subscription of every topic, in order of number (so that walks are repeatable).
    pub fn subscriptions(&self) -> Vec<Arc<SubscriptionRoute>> {
        let mut all: Vec<_> =
            self.by_number.values().flat_map(|topic| topic.subscriptions.values().cloned()).collect();
        all.sort_by_key(|subscription| subscription.number);
        all
    }
}

/// What control asks for before it keeps a push subscription: does the endpoint agree to be posted to?
#[derive(Clone, Debug)]
pub struct Handshake {
    pub webhook: Webhook,
    /// ARM id of the topic, shown to the endpoint.
    pub topic_resource_id: String,
    pub subscription_name: String,
    pub topic_kind: TopicKind,
}

/// Why an endpoint was not accepted. What a subscription's owner may see: class and status, no body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("the endpoint `{endpoint}` may not be called: {reason}")]
    Forbidden { endpoint: String, reason: String },
    #[error(
        "The attempt to validate the provided endpoint {endpoint} failed: {reason}. For more details, visit https://aka.ms/esvalidation"
    )]
    Refused { endpoint: String, reason: String },
}

/// Why a routing table could not be put in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    #[error("the broker is stopping")]
    Stopping,
    #[error("the state log is damaged: {what}")]
    Damaged { what: String },
}

/// What control needs done by whoever delivers events. The broker implements it; the binary wires it.
pub trait DeliveryPort: Send + Sync + fmt::Debug {
    /// Asks the endpoint for its consent.
    fn validate(&self, handshake: Handshake) -> BoxFuture<'_, Result<(), HandshakeError>>;

    /// Puts `table` in use: when the future is done, new subscriptions have their start recorded, removed ones
    /// are gone, and every later publish is matched by it.
    fn install(&self, table: Arc<RoutingTable>) -> BoxFuture<'_, Result<(), InstallError>>;
}
