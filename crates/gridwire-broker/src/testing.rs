//! What tests of several modules share: a broker over a disk and a clock of the test's, the table of one subscription,
//! and events in the log.

pub(crate) mod log;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gridwire_core::event::{Data, Event, InputSchema};
use gridwire_core::filter::{FilterSpec, MatchSet, Matcher};
use gridwire_core::frame::FrameBuilder;
use gridwire_core::ids::{Slot, TopicNumber};
use gridwire_core::routing::{
    AccessKey, Credentials, DomainTopics, RoutingTable, SubscriptionRoute, TopicKind, TopicRoute,
};
use gridwire_core::time::Timestamp;
use gridwire_outside::system::SystemNet;
use gridwire_outside::{ManualClock, MemoryDisk, SeededRng};
use gridwire_store::Log;
use gridwire_store::model::ModelLog;

use crate::broker::{Broker, BrokerOptions, BrokerParts};
use crate::push::testing::local_options;

pub(crate) fn new_clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(1_795_465_178_054)))
}

/// One shard, endpoints on this machine, no limits, and letters written at once where they are decided.
pub(crate) fn options() -> BrokerOptions {
    BrokerOptions {
        shards: 1,
        push: local_options(),
        base_domain: None,
        retry_jitter: 0.0,
        auth_failures_max: 0,
        known_time: Timestamp::ZERO,
        dead_letter_accounts: Vec::new(),
        dead_letter_delay: Duration::ZERO,
        threads: false,
    }
}

/// A broker without resources, with an empty log.
pub(crate) fn start(disk: &MemoryDisk, clock: &Arc<ManualClock>, options: BrokerOptions) -> Arc<Broker> {
    Broker::start(BrokerParts {
        log: Arc::new(ModelLog::new(clock.clone())),
        disk: Arc::new(disk.clone()),
        clock: clock.clone(),
        rng: Arc::new(SeededRng::new(1)),
        net: Arc::new(SystemNet),
        data_dir: "/data".into(),
        token_secret: [7; 32],
        options,
    })
    .expect("it starts")
}

/// A custom topic whose only subscription is `route`, which every event matches.
pub(crate) fn table(route: &Arc<SubscriptionRoute>) -> Arc<RoutingTable> {
    let topic = Arc::new(TopicRoute {
        number: route.topic,
        kind: TopicKind::Custom,
        name: route.topic_name.clone(),
        resource_id: route.topic_resource_id.clone(),
        input_schema: InputSchema::EventGrid,
        input_mapping: None,
        credentials: Credentials { keys: [AccessKey::new("a"), AccessKey::new("b")], local_auth: true },
        retention: Duration::from_secs(86_400),
        matcher: Arc::new(Matcher::compile(InputSchema::EventGrid, &[(route.slot, &FilterSpec::default())])),
        subscriptions: HashMap::from([(route.name.clone(), Arc::clone(route))]),
        domain_topics: DomainTopics::default(),
    });
    let mut table = RoutingTable::default();
    table.by_number.insert(topic.number, topic);
    Arc::new(table)
}

/// Appends `count` events that these slots match, in one frame.
pub(crate) async fn append(log: &dyn Log, topic: TopicNumber, slots: &[Slot], count: usize) {
    let event = Event {
        schema: InputSchema::EventGrid,
        id: "e-1".into(),
        event_type: "t".into(),
        source: "".into(),
        subject: None,
        time: None,
        data_content_type: None,
        data_schema: None,
        extensions: Vec::new(),
        data: Data::Absent,
    };
    let mut matched = MatchSet::default();
    for slot in slots {
        matched.push(*slot);
    }
    let mut frame = FrameBuilder::new(topic, 64);
    for _ in 0..count {
        frame.push(&matched, &event);
    }
    log.append_events(frame.finish().expect("an event")).await.expect("appended");
}
