//! Shortens what the management API does not let anybody make short.
//!
//! A lock of a minute and a time to live of a minute would hardly end within a simulated minute. So the table is
//! changed on its way from the control plane to the broker: both are divided by [`Hurried::haste`], and how long dead
//! letters wait is the plan's. The rest of the broker cannot tell.

use std::collections::HashMap;
use std::sync::Arc;

use gridwire_broker::Broker;
use gridwire_core::filter::Matcher;
use gridwire_core::ids::TopicNumber;
use gridwire_core::patience::DeadLetterPolicy;
use gridwire_core::routing::{
    BoxFuture, Consent, DeliveryMode, DeliveryPort, Handshake, HandshakeError, InstallError, NamespaceRoute,
    QueuePolicy, RoutingTable, SubscriptionRoute, TopicRoute,
};

#[derive(Debug)]
pub(crate) struct Hurried {
    pub(crate) broker: Arc<Broker>,
    pub(crate) haste: u32,
    /// How dead letters wait.
    pub(crate) letters: DeadLetterPolicy,
}

impl DeliveryPort for Hurried {
    fn validate(&self, handshake: Handshake) -> BoxFuture<'_, Result<Consent, HandshakeError>> {
        self.broker.validate(handshake)
    }

    fn install(&self, table: Arc<RoutingTable>) -> BoxFuture<'_, Result<(), InstallError>> {
        let hurried = self.hurry(&table);
        self.broker.install(Arc::new(hurried))
    }
}

impl Hurried {
    fn hurry(&self, table: &RoutingTable) -> RoutingTable {
        let by_number: HashMap<TopicNumber, Arc<TopicRoute>> = table
            .by_number
            .iter()
            .map(|(number, topic)| (*number, Arc::new(self.hurry_topic(topic))))
            .collect();
        let same = |topic: &Arc<TopicRoute>| Arc::clone(&by_number[&topic.number]);
        let namespaces = table.namespaces.iter().map(|(place, namespace)| {
            let topics = namespace.topics.iter().map(|(name, topic)| (name.clone(), same(topic)));
            let route = NamespaceRoute {
                name: namespace.name.clone(),
                resource_id: namespace.resource_id.clone(),
                credentials: namespace.credentials.clone(),
                topics: topics.collect(),
            };
            (place.clone(), Arc::new(route))
        });
        RoutingTable {
            topics: table.topics.iter().map(|(place, topic)| (place.clone(), same(topic))).collect(),
            domains: table.domains.iter().map(|(place, topic)| (place.clone(), same(topic))).collect(),
            namespaces: namespaces.collect(),
            by_number,
        }
    }

    fn hurry_topic(&self, topic: &TopicRoute) -> TopicRoute {
        let subscriptions: HashMap<_, _> = topic
            .subscriptions
            .iter()
            .map(|(name, route)| (name.clone(), Arc::new(self.hurry_subscription(route))))
            .collect();
        let mut filters: Vec<_> = subscriptions.values().map(|route| (route.slot, &*route.filter)).collect();
        filters.sort_by_key(|(slot, _)| *slot);
        TopicRoute {
            number: topic.number,
            kind: topic.kind,
            name: topic.name.clone(),
            resource_id: topic.resource_id.clone(),
            input_schema: topic.input_schema,
            input_mapping: topic.input_mapping.clone(),
            credentials: topic.credentials.clone(),
            retention: topic.retention,
            matcher: Arc::new(Matcher::compile(topic.input_schema, &filters)),
            subscriptions,
            // The simulation plans no domains yet.
            domain_topics: topic.domain_topics.clone(),
        }
    }

    fn hurry_subscription(&self, route: &SubscriptionRoute) -> SubscriptionRoute {
        let (haste, letters) = (self.haste, self.letters);
        let mode = match &route.policy.mode {
            DeliveryMode::Pull { lock } => DeliveryMode::Pull { lock: *lock / haste },
            push @ DeliveryMode::Push { .. } => push.clone(),
        };
        SubscriptionRoute {
            number: route.number,
            slot: route.slot,
            topic: route.topic,
            topic_kind: route.topic_kind,
            name: route.name.clone(),
            resource_id: route.resource_id.clone(),
            topic_name: route.topic_name.clone(),
            topic_resource_id: route.topic_resource_id.clone(),
            namespace_name: route.namespace_name.clone(),
            policy: QueuePolicy {
                mode,
                time_to_live: route.policy.time_to_live / haste,
                dead_letter: route.policy.dead_letter.map(|_| letters),
                ..route.policy.clone()
            },
            webhook: route.webhook.clone(),
            forward: route.forward.clone(),
            dead_letter: route.dead_letter.clone(),
            filter: Arc::clone(&route.filter),
        }
    }
}
