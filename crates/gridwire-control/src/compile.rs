//! From all resources to the routing table.
//!
//! A topic's route is compiled anew only when the topic or one of its subscriptions has another revision than
//! in the last table; all others are shared with it. So a change costs one topic's filters and a walk over
//! the revisions, however many topics there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gridwire_core::filter::{FilterSpec, Matcher};
use gridwire_core::ids::{Slot, TopicNumber};
use gridwire_core::routing::{
    Credentials, NamespaceRoute, Place, QueuePolicy, RoutingTable, SubscriptionRoute, TopicKind, TopicRoute,
};
use gridwire_store::Revision;

use crate::address::Form;
use crate::document::{Entry, Numbers, Resources};
use crate::facts::{Facts, SubscriptionFacts, TopicFacts};
use crate::options::DeadLetterPatience;

/// A table and what it was compiled from.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    pub table: Arc<RoutingTable>,
    /// The same for every table of a process.
    pub patience: DeadLetterPatience,
    sources: HashMap<TopicNumber, Source>,
}

impl Compiled {
    /// What a process begins with.
    pub(crate) fn nothing(patience: DeadLetterPatience) -> Self {
        Self { patience, ..Self::default() }
    }
}

/// Everything a topic's route depends on, by revision.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    topic: Revision,
    subscriptions: Vec<(Slot, Revision)>,
}

/// A subscription, taken apart once.
struct Part<'a> {
    entry: &'a Entry,
    facts: &'a SubscriptionFacts,
    slot: Slot,
    number: gridwire_core::ids::SubscriptionNumber,
}

/// Compiles `resources`, with what can be reused of `last`.
pub(crate) fn compile(resources: &Resources, last: &Compiled) -> Compiled {
    let mut subscriptions: BTreeMap<String, Vec<Part<'_>>> = BTreeMap::new();
    for entry in resources.iter() {
        let Facts::Subscription(facts) = entry.facts() else { continue };
        let Numbers::Subscription { number, slot } = entry.document.numbers else { continue };
        let Some(parent) = entry.document.address.parent() else { continue };
        subscriptions.entry(parent.key()).or_default().push(Part { entry, facts, slot, number });
    }

    let mut table = RoutingTable::default();
    let mut sources = HashMap::new();
    let mut namespace_topics: BTreeMap<String, HashMap<String, Arc<TopicRoute>>> = BTreeMap::new();
    for entry in resources.iter() {
        let Facts::Topic(facts) = entry.facts() else { continue };
        let Numbers::Topic(number) = entry.document.numbers else { continue };
        let mut parts = subscriptions.remove(&entry.key).unwrap_or_default();
        parts.sort_by_key(|part| part.slot);
        let source = Source {
            topic: entry.revision,
            subscriptions: parts.iter().map(|part| (part.slot, part.entry.revision)).collect(),
        };
        let unchanged =
            last.table.by_number.get(&number).filter(|_| last.sources.get(&number) == Some(&source));
        let route = match unchanged {
            Some(route) => Arc::clone(route),
            None => Arc::new(topic_route(resources, entry, facts, number, &parts, last.patience)),
        };
        sources.insert(number, source);
        table.by_number.insert(number, Arc::clone(&route));
        match facts.kind {
            TopicKind::Custom => {
                table.topics.insert(place(entry), route);
            }
            TopicKind::Namespace => {
                if let Some(namespace) = entry.document.address.parent() {
                    let name = entry.document.address.name().to_ascii_lowercase();
                    namespace_topics.entry(namespace.key()).or_default().insert(name, route);
                }
            }
        }
    }
    for entry in resources.iter() {
        let Facts::Namespace = entry.facts() else { continue };
        let Some(credentials) = credentials(entry, true) else { continue };
        let route = NamespaceRoute {
            name: entry.document.address.name().to_owned(),
            resource_id: entry.document.address.id(Form::Nested),
            credentials,
            topics: namespace_topics.remove(&entry.key).unwrap_or_default(),
        };
        table.namespaces.insert(place(entry), Arc::new(route));
    }
    Compiled { table: Arc::new(table), patience: last.patience, sources }
}

fn place(entry: &Entry) -> Place {
    let address = &entry.document.address;
    Place::new(&address.subscription, &address.resource_group, address.name())
}

fn credentials(entry: &Entry, local_auth: bool) -> Option<Credentials> {
    entry.document.keys.clone().map(|keys| Credentials { keys, local_auth })
}

fn topic_route(
    resources: &Resources,
    entry: &Entry,
    facts: &TopicFacts,
    number: TopicNumber,
    parts: &[Part<'_>],
    patience: DeadLetterPatience,
) -> TopicRoute {
    let address = &entry.document.address;
    let resource_id = address.id(Form::Nested);
    let namespace_name = match resources.parent_of(address) {
        Some(namespace) => namespace.document.address.name().to_owned(),
        None => String::new(),
    };
    let filters: Vec<(Slot, &FilterSpec)> =
        parts.iter().map(|part| (part.slot, &*part.facts.filter)).collect();
    let subscriptions = parts.iter().map(|part| {
        let Part { entry, facts: subscription, slot, number: subscription_number } = *part;
        let own = &entry.document.address;
        let time_to_live =
            subscription.time_to_live.map_or(facts.retention, |wanted| wanted.min(facts.retention));
        let route = SubscriptionRoute {
            number: subscription_number,
            slot,
            topic: number,
            topic_kind: facts.kind,
            name: own.name().to_owned(),
            resource_id: own.id(Form::Nested),
            topic_name: address.name().to_owned(),
            topic_resource_id: resource_id.clone(),
            namespace_name: namespace_name.clone(),
            policy: QueuePolicy {
                mode: subscription.mode.clone(),
                attempts_max: subscription.attempts_max,
                time_to_live,
                dead_letter: subscription.dead_letter.as_ref().map(|_| patience.of(facts.kind)),
            },
            webhook: subscription.webhook.clone(),
            dead_letter: subscription.dead_letter.clone(),
            filter: Arc::clone(&subscription.filter),
        };
        (own.name().to_ascii_lowercase(), Arc::new(route))
    });
    TopicRoute {
        number,
        kind: facts.kind,
        name: address.name().to_owned(),
        subscriptions: subscriptions.collect(),
        resource_id,
        input_schema: facts.input_schema,
        input_mapping: facts.input_mapping.clone(),
        credentials: credentials(entry, facts.local_auth).expect("a topic has its keys from its creation on"),
        retention: facts.retention,
        matcher: Matcher::compile(facts.input_schema, &filters),
    }
}
