//! From resources to the routing table.
//!
//! A change names the resources it touched, and only what hangs on them is compiled anew; everything else is
//! shared with the last table. The unit is a topic, and within a domain one domain topic: with a hundred thousand
//! of those, one more subscription costs its own domain topic's filters and a copy of one bucket of names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gridwire_core::event::InputSchema;
use gridwire_core::filter::{FilterSpec, Matcher};
use gridwire_core::ids::{Slot, TopicNumber};
use gridwire_core::routing::{
    Credentials, DomainTopicRoute, DomainTopics, NamespaceRoute, Place, QueuePolicy, RoutingTable,
    SubscriptionRoute, TopicRoute, Webhook,
};

use crate::address::{Address, Form};
use crate::document::{Entry, Numbers, Resources};
use crate::facts::{Facts, SubscriptionFacts, TopicFacts};
use crate::kinds::{DOMAIN, SUBSCRIPTIONS_SEGMENT};
use crate::options::DeadLetterPatience;

/// A topic that something changed of.
struct Touched {
    topic: Address,
    /// The topic itself, or a subscription to all of it.
    whole: bool,
    /// By key: the domain topics whose subscriptions changed.
    domain_topics: BTreeMap<String, Address>,
}

/// Compiles everything.
pub(crate) fn compile(resources: &Resources, patience: DeadLetterPatience) -> Arc<RoutingTable> {
    let all = resources.iter().map(|entry| &entry.document.address);
    recompile(resources, &Arc::default(), patience, all)
}

/// The table after a change of the resources at `changed`, there or not. The same table when none of them
/// matters to routing.
pub(crate) fn recompile<'a>(
    resources: &Resources,
    last: &Arc<RoutingTable>,
    patience: DeadLetterPatience,
    changed: impl IntoIterator<Item = &'a Address>,
) -> Arc<RoutingTable> {
    let mut topics: BTreeMap<String, Touched> = BTreeMap::new();
    let mut namespaces: BTreeMap<String, Address> = BTreeMap::new();
    for address in changed {
        if address.kind.bare {
            // Events meet a domain topic by its subscriptions only. There may be 100,000 of them.
            continue;
        }
        let Some(topic) = address.topic() else {
            namespaces.insert(address.key(), address.clone());
            continue;
        };
        if let Some(namespace) = topic.parent() {
            namespaces.insert(namespace.key(), namespace);
        }
        let touched = topics.entry(topic.key()).or_insert_with(|| Touched {
            topic,
            whole: false,
            domain_topics: BTreeMap::new(),
        });
        match address.parent().filter(|parent| parent.kind.bare) {
            Some(domain_topic) => drop(touched.domain_topics.insert(domain_topic.key(), domain_topic)),
            None => touched.whole = true,
        }
    }
    if topics.is_empty() && namespaces.is_empty() {
        return Arc::clone(last);
    }
    let mut table = RoutingTable::clone(last);
    for touched in topics.values() {
        put_topic(&mut table, resources, patience, touched);
    }
    for address in namespaces.values() {
        put_namespace(&mut table, resources, address);
    }
    Arc::new(table)
}

fn put_topic(
    table: &mut RoutingTable,
    resources: &Resources,
    patience: DeadLetterPatience,
    touched: &Touched,
) {
    let Touched { topic, whole, domain_topics: touched_topics } = touched;
    let old = old_route(table, topic);
    if let Some(old) = &old {
        table.by_number.remove(&old.number);
    }
    let place = place(topic);
    let Some(entry) = resources.get(topic) else {
        // A namespace's topics are listed anew with the namespace.
        if topic.parent().is_none() {
            places(table, topic).remove(&place);
        }
        return;
    };
    let (Facts::Topic(facts), Numbers::Topic(number)) = (entry.facts(), entry.document.numbers) else {
        return;
    };
    let old = old.filter(|old| old.number == number);
    let mut route = match &old {
        Some(old) if !whole => TopicRoute::clone(old),
        _ => topic_route(resources, entry, facts, number, patience),
    };
    if let Some(old) = old {
        route.domain_topics = old.domain_topics.clone();
    }
    put_domain_topics(&mut route.domain_topics, resources, facts, number, patience, touched_topics);
    let route = Arc::new(route);
    if topic.parent().is_none() {
        places(table, topic).insert(place, Arc::clone(&route));
    }
    table.by_number.insert(number, route);
}

fn put_domain_topics(
    into: &mut DomainTopics,
    resources: &Resources,
    facts: &TopicFacts,
    number: TopicNumber,
    patience: DeadLetterPatience,
    touched: &BTreeMap<String, Address>,
) {
    for address in touched.values() {
        // In the case it was created with.
        let address = resources.get(address).map_or(address, |entry| &entry.document.address);
        let subscriptions = Subscriptions::of(resources, address);
        if subscriptions.parts.is_empty() {
            into.remove(address.name());
            continue;
        }
        into.insert(Arc::new(DomainTopicRoute {
            name: address.name().to_owned(),
            resource_id: address.id(Form::Nested),
            matcher: subscriptions.matcher(facts.input_schema),
            subscriptions: subscriptions.routes(address, facts, number, "", patience),
        }));
    }
}

fn put_namespace(table: &mut RoutingTable, resources: &Resources, address: &Address) {
    let place = place(address);
    let Some(entry) = resources.get(address) else {
        table.namespaces.remove(&place);
        return;
    };
    let Some(credentials) = credentials(entry, true) else { return };
    let below = format!("{}/", entry.key);
    let topics = resources.below(&below, None).filter_map(|child| {
        let Numbers::Topic(number) = child.document.numbers else { return None };
        let route = table.by_number.get(&number)?;
        Some((child.document.address.name().to_ascii_lowercase(), Arc::clone(route)))
    });
    let route = NamespaceRoute {
        name: entry.document.address.name().to_owned(),
        resource_id: entry.document.address.id(Form::Nested),
        credentials,
        topics: topics.collect(),
    };
    table.namespaces.insert(place, Arc::new(route));
}

/// What the table has at the address of a topic.
fn old_route(table: &RoutingTable, topic: &Address) -> Option<Arc<TopicRoute>> {
    let route = match topic.parent() {
        Some(namespace) => {
            table.namespaces.get(&place(&namespace))?.topics.get(&topic.name().to_ascii_lowercase())
        }
        None if topic.kind == &DOMAIN => table.domains.get(&place(topic)),
        None => table.topics.get(&place(topic)),
    };
    route.cloned()
}

/// Where the table keeps topics of this kind, if they have no parent.
fn places<'t>(table: &'t mut RoutingTable, topic: &Address) -> &'t mut HashMap<Place, Arc<TopicRoute>> {
    if topic.kind == &DOMAIN { &mut table.domains } else { &mut table.topics }
}

fn place(address: &Address) -> Place {
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
    patience: DeadLetterPatience,
) -> TopicRoute {
    let address = &entry.document.address;
    let namespace_name = match resources.parent_of(address) {
        Some(namespace) => namespace.document.address.name(),
        None => "",
    };
    let subscriptions = Subscriptions::of(resources, address);
    TopicRoute {
        number,
        kind: facts.kind,
        name: address.name().to_owned(),
        resource_id: address.id(Form::Nested),
        input_schema: facts.input_schema,
        input_mapping: facts.input_mapping.clone(),
        credentials: credentials(entry, facts.local_auth).expect("a topic has its keys from its creation on"),
        retention: facts.retention,
        matcher: Arc::new(subscriptions.matcher(facts.input_schema)),
        subscriptions: subscriptions.routes(address, facts, number, namespace_name, patience),
        domain_topics: DomainTopics::default(),
    }
}

/// A subscription, taken apart once.
struct Part<'a> {
    entry: &'a Entry,
    facts: &'a SubscriptionFacts,
    slot: Slot,
    number: gridwire_core::ids::SubscriptionNumber,
}

/// The subscriptions to one topic or domain topic, in order of slot.
struct Subscriptions<'a> {
    parts: Vec<Part<'a>>,
}

impl<'a> Subscriptions<'a> {
    fn of(resources: &'a Resources, topic: &Address) -> Self {
        let below = format!("{}/{}/", topic.key(), SUBSCRIPTIONS_SEGMENT.to_ascii_lowercase());
        let mut parts: Vec<Part<'a>> = resources
            .below(&below, None)
            .filter_map(|entry| {
                let Facts::Subscription(facts) = entry.facts() else { return None };
                let Numbers::Subscription { number, slot } = entry.document.numbers else { return None };
                Some(Part { entry, facts, slot, number })
            })
            .collect();
        parts.sort_by_key(|part| part.slot);
        Self { parts }
    }

    fn matcher(&self, schema: InputSchema) -> Matcher {
        let filters: Vec<(Slot, &FilterSpec)> =
            self.parts.iter().map(|part| (part.slot, &*part.facts.filter)).collect();
        Matcher::compile(schema, &filters)
    }

    fn routes(
        &self,
        topic: &Address,
        facts: &TopicFacts,
        number: TopicNumber,
        namespace_name: &str,
        patience: DeadLetterPatience,
    ) -> HashMap<String, Arc<SubscriptionRoute>> {
        let topic_resource_id = topic.id(Form::Nested);
        let route = |part: &Part<'_>| {
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
                topic_name: topic.name().to_owned(),
                topic_resource_id: topic_resource_id.clone(),
                namespace_name: namespace_name.to_owned(),
                policy: QueuePolicy {
                    mode: subscription.mode.clone(),
                    attempts_max: subscription.attempts_max,
                    time_to_live,
                    dead_letter: subscription.dead_letter.as_ref().map(|_| patience.of(facts.kind)),
                    // The operator first: of two pauses theirs is the one to end first.
                    pacing: entry.document.throttle.pacing().and(entry.document.consent.pacing()),
                },
                webhook: subscription
                    .webhook
                    .clone()
                    .map(|webhook| Webhook { signing: entry.document.signing.clone(), ..webhook }),
                forward: subscription.forward.clone(),
                dead_letter: subscription.dead_letter.clone(),
                filter: Arc::clone(&subscription.filter),
            };
            (own.name().to_ascii_lowercase(), Arc::new(route))
        };
        self.parts.iter().map(route).collect()
    }
}
