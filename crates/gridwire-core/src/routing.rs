//! The routing table: everything a request or a delivery needs to know about resources, compiled.
//!
//! Control builds a new table from its resources after each change and hands it over whole
//! ([`DeliveryPort::install`]); the broker routes by the latest one. A table never changes under a reader.

mod domain_topics;

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use subtle::ConstantTimeEq;

use crate::event::{DeliverySchema, Event, InputSchema};
use crate::filter::{FilterSpec, MatchSet, Matcher};
use crate::ids::{Slot, SubscriptionNumber, TopicNumber};
use crate::pace::{Pace, Pacing};
use crate::patience::DeadLetterPolicy;
use crate::publish::{self, InputMapping};
use crate::retry::{RetryPolicy, Tier};
use crate::secret::Secret;
use crate::signing::SigningKey;
use crate::tls_identity::TlsIdentity;

pub use domain_topics::{DomainTopicRoute, DomainTopics};

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
    /// A domain: `domains/{name}`, `POST …/api/events`. Each of its events names a domain topic.
    Domain,
    /// A topic of a namespace: `POST …/topics/{name}:publish`.
    Namespace,
}

/// A topic, ready to publish to.
#[derive(Clone, Debug)]
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
    /// Of a domain: the filters of the subscriptions to all of it.
    pub matcher: Arc<Matcher>,
    /// By lower-cased name. Of a domain: those to all of it.
    pub subscriptions: HashMap<String, Arc<SubscriptionRoute>>,
    /// Of a domain: its topics that have subscriptions of their own.
    pub domain_topics: DomainTopics,
}

impl TopicRoute {
    /// Puts into `into`, instead of what it holds, the slots of all subscriptions that get `event`. Of a domain
    /// those are subscriptions to it and to the event's domain topic; `scratch` is for the latter.
    pub fn matches(&self, event: &Event<'_>, into: &mut MatchSet, scratch: &mut MatchSet) {
        self.matcher.matches(event, into);
        if self.kind != TopicKind::Domain {
            return;
        }
        if let Some(name) = publish::domain_topic(event, &self.resource_id)
            && let Some(topic) = self.domain_topics.get(name)
        {
            topic.matcher.matches(event, scratch);
            into.merge(scratch);
        }
    }

    /// Every subscription to the topic and, of a domain, to its topics; in no order.
    pub fn all_subscriptions(&self) -> impl Iterator<Item = &Arc<SubscriptionRoute>> {
        let below = self.domain_topics.iter().flat_map(|topic| topic.subscriptions.values());
        self.subscriptions.values().chain(below)
    }
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
    /// The topic's, or the domain topic's.
    pub topic_name: String,
    pub topic_resource_id: String,
    /// Empty for a custom topic.
    pub namespace_name: String,
    pub policy: QueuePolicy,
    /// Where events are posted to; `None` of one that is received from, or that forwards.
    pub webhook: Option<Webhook>,
    /// Where events go instead of a webhook. Never of a namespace topic's subscription: an event that is
    /// forwarded is not forwarded again, so no chain of subscriptions is longer than two, and none is a ring.
    pub forward: Option<ForwardTarget>,
    pub dead_letter: Option<DeadLetterDestination>,
    pub filter: Arc<FilterSpec>,
}

impl SubscriptionRoute {
    /// How a delivery shows an event: the schema, and what is added to it. `None` of one that is received from.
    pub fn form(&self) -> Option<(DeliverySchema, &[(String, AttributeSource)])> {
        match (&self.webhook, &self.forward) {
            (Some(webhook), _) => Some((webhook.schema, &webhook.attributes)),
            (None, Some(_)) => Some((DeliverySchema::CloudEvent, &[])),
            (None, None) => None,
        }
    }

    /// The ARM id of the topic that `event` was published to. An event of a domain names its domain topic,
    /// which a subscription to the whole domain has to tell from others.
    pub fn topic_of<'a>(&'a self, event: &'a Event<'_>) -> &'a str {
        match (self.topic_kind, event.schema) {
            (TopicKind::Domain, InputSchema::EventGrid | InputSchema::Custom) => &event.source,
            (TopicKind::Domain, InputSchema::CloudEvent) | (TopicKind::Custom | TopicKind::Namespace, _) => {
                &self.topic_resource_id
            }
        }
    }
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
    /// How fast the endpoint may be posted to, and by whose word; of no meaning to pull.
    pub pacing: Pacing,
}

impl QueuePolicy {
    /// The tier whose documented figures hold: only namespaces have pull.
    pub fn tier(&self) -> Tier {
        match self.mode {
            DeliveryMode::Push { retry, .. } => retry.tier,
            DeliveryMode::Pull { .. } => Tier::Namespace,
        }
    }

    pub fn batching(&self) -> Option<Batching> {
        match self.mode {
            DeliveryMode::Push { batching, .. } => batching,
            DeliveryMode::Pull { .. } => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum DeliveryMode {
    /// Receivers ask; an event is locked for `lock` from each receive or renewal.
    Pull { lock: Duration },
    /// We post; after a failure `retry` says when to try again. With `batching`, events that wait at the same
    /// time share a request.
    Push { retry: RetryPolicy, batching: Option<Batching> },
}

/// How many events one delivery request may carry. Nothing is held back to fill a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Never exceeded. At least 2: requests of one event are no batches.
    pub events_max: u32,
    /// Of the request's body; exceeded only by an event that is larger by itself.
    pub bytes_max: usize,
}

/// Where and how a push subscription's events are posted.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The full URL. May carry secrets in its query, so it is never printed.
    pub url: String,
    pub schema: DeliverySchema,
    /// Headers added to each delivery: the name, and where the value comes from.
    pub attributes: Vec<(String, AttributeSource)>,
    /// What deliveries are signed with; none, and they are not.
    pub signing: Vec<SigningKey>,
    /// Every request carries a bearer token for this.
    pub token: Option<TokenAudience>,
    /// Its own terms for connections; without them, the server's.
    pub tls: Option<Arc<TlsIdentity>>,
}

/// Whom a bearer token is for, as a protected webhook's destination names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenAudience {
    pub tenant: String,
    /// The application's id or URI.
    pub application: String,
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

impl Webhook {
    /// Whether who consented to this one has consented to the other: it is the same endpoint, asked in the same way.
    pub fn asks_as(&self, other: &Self) -> bool {
        self.is_to(other) && self.tls == other.tls
    }

    /// Whether both post the same requests to the same endpoint, whatever the sessions that they travel in.
    pub fn is_to(&self, other: &Self) -> bool {
        self.url == other.url && self.schema == other.schema && self.token == other.token
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// The topic of a namespace that events are forwarded to, by its name: one that was deleted and made again is
/// the same target, as a webhook would be that was down for a while.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ForwardTarget {
    pub namespace: Place,
    /// Lower-cased.
    pub topic: String,
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
#[derive(Clone, Debug, Default)]
pub struct RoutingTable {
    /// Custom topics.
    pub topics: HashMap<Place, Arc<TopicRoute>>,
    pub domains: HashMap<Place, Arc<TopicRoute>>,
    pub namespaces: HashMap<Place, Arc<NamespaceRoute>>,
    /// Every topic of any kind; a domain is one.
    pub by_number: HashMap<TopicNumber, Arc<TopicRoute>>,
}

impl RoutingTable {
    /// The custom topics and domains called `name` in any place: for host-name routing, which does not tell
    /// one from the other. More than one is ambiguous.
    pub fn topics_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Arc<TopicRoute>> + 'a {
        self.topics
            .iter()
            .chain(&self.domains)
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

    /// Where events are forwarded to, if it is there.
    pub fn forward_target(&self, target: &ForwardTarget) -> Option<&Arc<TopicRoute>> {
        self.namespaces.get(&target.namespace)?.topics.get(&target.topic)
    }

    /// Every subscription of every topic, in order of number (so that walks are repeatable).
    pub fn subscriptions(&self) -> Vec<Arc<SubscriptionRoute>> {
        let mut all: Vec<_> =
            self.by_number.values().flat_map(|topic| topic.all_subscriptions().cloned()).collect();
        all.sort_by_key(|subscription| subscription.number);
        all
    }

    /// The subscription whose number or ARM id this is.
    pub fn subscription(&self, wanted: &str) -> Option<Arc<SubscriptionRoute>> {
        let wanted = wanted.trim_matches('/');
        let number = wanted.parse().ok();
        let is_it = |route: &&Arc<SubscriptionRoute>| {
            number == Some(route.number.0) || wanted.eq_ignore_ascii_case(route.resource_id.trim_matches('/'))
        };
        self.by_number.values().flat_map(|topic| topic.all_subscriptions()).find(is_it).cloned()
    }

    /// What is new or other than in `old`, and what is gone. Costs what differs and a look at each topic, not
    /// at each subscription.
    pub fn since(&self, old: &Self) -> TableChange {
        let mut change = TableChange::default();
        for (number, topic) in &self.by_number {
            match old.by_number.get(number) {
                Some(before) if Arc::ptr_eq(before, topic) => {}
                Some(before) => {
                    change.compare(&before.subscriptions, &topic.subscriptions);
                    topic.domain_topics.compare(&before.domain_topics, &mut |was, is| {
                        let none = HashMap::new();
                        change.compare(
                            was.map_or(&none, |route| &route.subscriptions),
                            is.map_or(&none, |route| &route.subscriptions),
                        );
                    });
                }
                None => change.put.extend(topic.all_subscriptions().map(|route| (None, Arc::clone(route)))),
            }
        }
        for (number, topic) in &old.by_number {
            if !self.by_number.contains_key(number) {
                change.gone.extend(topic.all_subscriptions().cloned());
            }
        }
        change.put.sort_by_key(|(_, route)| route.number);
        change.gone.sort_by_key(|route| route.number);
        change
    }
}

/// How one routing table differs from another, by subscription, in order of number.
#[derive(Debug, Default)]
pub struct TableChange {
    /// Those that are new or another value: as they were, if they were, and as they are.
    pub put: Vec<(Option<Arc<SubscriptionRoute>>, Arc<SubscriptionRoute>)>,
    pub gone: Vec<Arc<SubscriptionRoute>>,
}

impl TableChange {
    /// A name is used again by another subscription when one was deleted and created: the number tells.
    fn compare(
        &mut self,
        old: &HashMap<String, Arc<SubscriptionRoute>>,
        new: &HashMap<String, Arc<SubscriptionRoute>>,
    ) {
        for (name, route) in new {
            let before = old.get(name).filter(|before| before.number == route.number);
            if before.is_none_or(|before| !Arc::ptr_eq(before, route)) {
                self.put.push((before.cloned(), Arc::clone(route)));
            }
        }
        for (name, route) in old {
            if new.get(name).is_none_or(|now| now.number != route.number) {
                self.gone.push(Arc::clone(route));
            }
        }
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
    /// What whoever runs the endpoint may open to consent in its place. Whoever knows it can, so it goes to the
    /// endpoint and nowhere else. `None` where the contract has no such way: topics of namespaces.
    pub validation_url: Option<Secret>,
}

/// What an endpoint that was asked for its consent has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// It agrees, at this pace.
    Given { pace: Pace },
    /// It answered neither yes nor no. The validation URL decides; then this pace holds.
    ByHand { pace: Pace },
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
    fn validate(&self, handshake: Handshake) -> BoxFuture<'_, Result<Consent, HandshakeError>>;

    /// Puts `table` in use: when the future is done, new subscriptions have their start recorded, removed ones
    /// are gone, and every later publish is matched by it.
    fn install(&self, table: Arc<RoutingTable>) -> BoxFuture<'_, Result<(), InstallError>>;
}
