//! The loop, one step at a time: what it takes into a group and what it leaves for the next.

use arc_swap::ArcSwap;
use gridwire_core::event::{Data, DeliverySchema, Event, InputSchema};
use gridwire_core::filter::MatchSet;
use gridwire_core::frame::FrameBuilder;
use gridwire_core::ids::Lsn;
use gridwire_core::pace::{PaceSource, Pacing};
use gridwire_core::routing::RoutingTable;
use gridwire_core::shard::SubscribeInput;
use gridwire_outside::memory::MemoryDisk;
use gridwire_outside::system::SystemNet;
use gridwire_outside::{Clock, ManualClock, Rng, SeededRng};
use gridwire_store::Log;
use gridwire_store::model::ModelLog;
use tokio_util::task::TaskTracker;

use super::*;
use crate::dead_letter::DeadLetters;
use crate::metrics::Metrics;
use crate::push::testing::{OK, TestServer, eventually, local_options, subscription};
use crate::push::{Dispatcher, Forwarder};

/// A driver whose steps a test takes, and the way to command it.
struct Rig {
    driver: Driver,
    commands: mpsc::Sender<Command>,
    log: Arc<dyn Log>,
    read: Lsn,
}

impl Rig {
    fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::from_millis(1_795_465_178_054)));
        let rng: Arc<dyn Rng> = Arc::new(SeededRng::new(1));
        let log: Arc<dyn Log> = Arc::new(ModelLog::new(Arc::clone(&clock)));
        let metrics = Arc::<Metrics>::default();
        let forwarder = Forwarder {
            log: Arc::clone(&log),
            clock: Arc::clone(&clock),
            rng: Arc::clone(&rng),
            table: Arc::<ArcSwap<RoutingTable>>::default(),
            installing: Arc::default(),
            metrics: Arc::clone(&metrics),
        };
        let dispatcher = Dispatcher::new(
            Arc::new(SystemNet),
            Arc::clone(&clock),
            Arc::clone(&rng),
            local_options(),
            forwarder,
            TaskTracker::new(),
            CancellationToken::new(),
        );
        let outside = Arc::new(Outside {
            log: Arc::clone(&log),
            clock,
            rng,
            dispatcher,
            dead_letters: DeadLetters::new(Arc::new(MemoryDisk::new()), "/data/deadletter".into(), false),
            missed: crate::shards::Missed::default(),
            deliveries: crate::deliveries::Deliveries::default(),
            metrics,
            retry_jitter: 0.0,
            fatal: CancellationToken::new(),
        });
        let ((commands, inbox), (_, frames)) = (mpsc::channel(8), mpsc::channel(8));
        let newest = Arc::new(AtomicU64::new(0));
        let driver = Driver::new(ShardId(0), Shard::new(), outside, newest, StateSeq(0), inbox, frames);
        Self { driver, commands, log, read: Lsn(0) }
    }

    /// A command that makes the shard serve `route`, and word of when it does.
    fn subscribe(&self, route: &Arc<SubscriptionRoute>) -> (Command, oneshot::Receiver<()>) {
        let input = SubscribeInput {
            number: route.number,
            slot: route.slot,
            topic: route.topic,
            policy: route.policy.clone(),
            end: self.log.end(route.topic),
            start: self.log.start(route.topic),
            existed: false,
        };
        let (done, told) = oneshot::channel();
        (Command::Subscribe { input, route: Arc::clone(route), done }, told)
    }

    /// Publishes an event for `route` and shows it to the shard.
    async fn publish(&mut self, route: &SubscriptionRoute, id: &str) {
        let event = Event {
            schema: InputSchema::EventGrid,
            id: id.into(),
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
        matched.push(route.slot);
        let mut frame = FrameBuilder::new(route.topic, 64);
        frame.push(&matched, &event);
        self.log.append_events(frame.finish().expect("an event")).await.expect("appended");
        let frames = self.log.read(self.read, 1 << 20).await.expect("readable");
        self.read = frames.last().expect("a frame").lsn.next();
        self.driver.frames(&frames);
    }

    /// Records the group and lets its effects out.
    async fn end_group(&mut self) {
        self.driver.record().await.expect("recorded");
        self.driver.let_out();
    }
}

#[tokio::test]
async fn what_a_group_has_decided_to_send_goes_where_its_subscription_pointed_then() {
    let (old, new) = (TestServer::answering(OK).await, TestServer::answering(OK).await);
    let before = subscription(1, &old.url(), DeliverySchema::EventGrid);
    let after = subscription(1, &new.url(), DeliverySchema::EventGrid);
    let mut rig = Rig::new();
    let (first, mut told) = rig.subscribe(&before);
    rig.driver.command(first);
    rig.end_group().await;
    assert!(told.try_recv().is_ok());

    // The endpoint changes while an attempt is decided and not let out.
    rig.publish(&before, "e-1").await;
    assert!(!rig.driver.out.effects.is_empty(), "an attempt is decided");
    let (change, mut told) = rig.subscribe(&after);
    assert!(rig.commands.try_send(change).is_ok());
    rig.driver.gather();
    assert!(rig.driver.postponed.is_some());
    rig.end_group().await;
    assert!(told.try_recv().is_err(), "the change is the next group's");
    eventually(|| old.connections() == 1).await;
    assert_eq!(new.connections(), 0);

    let change = rig.driver.postponed.take().expect("it was put off");
    rig.driver.command(change);
    rig.end_group().await;
    assert!(told.try_recv().is_ok());
    rig.publish(&after, "e-2").await;
    rig.end_group().await;
    eventually(|| new.connections() == 1).await;
    assert_eq!(old.connections(), 1);
}

#[tokio::test]
async fn what_a_pause_finds_unsent_is_the_queues_again_and_no_attempt_of_it_counts() {
    // It never answers, so the attempts above its connections wait for one.
    let hanging = TestServer::hanging().await;
    let route = subscription(1, &hanging.url(), DeliverySchema::EventGrid);
    let mut rig = Rig::new();
    let (first, _) = rig.subscribe(&route);
    rig.driver.command(first);
    for number in 0..40 {
        rig.publish(&route, &format!("e-{number}")).await;
    }
    rig.end_group().await;
    let in_flight = |rig: &Rig| {
        let status = rig.driver.shard.status().pop().expect("the subscription");
        (status.endpoint.expect("it is pushed").requests_in_flight, status.pending)
    };
    assert_eq!(in_flight(&rig), (40, 40));
    eventually(|| hanging.connections() == 32).await;

    let mut paused =
        Arc::into_inner(subscription(1, &hanging.url(), DeliverySchema::EventGrid)).expect("ours");
    paused.policy.pacing = Pacing::by(Pace::Paused, PaceSource::Operator);
    let (pause, mut told) = rig.subscribe(&Arc::new(paused));
    rig.driver.command(pause);
    rig.end_group().await;
    assert!(told.try_recv().is_ok());
    rig.driver.gather();
    let returned: Vec<u32> = rig.driver.out.decisions.iter().map(attempts_returned).collect();
    assert_eq!(returned, [0; 8], "none of them was tried");
    rig.end_group().await;
    assert_eq!(in_flight(&rig), (32, 40));
    assert!(rig.driver.out.effects.is_empty());
}

/// How often the event of a decision that gives it back was tried.
fn attempts_returned(decision: &Decision) -> u32 {
    match decision {
        Decision::Returned { held, .. } => held.attempts,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_change_is_not_put_off_when_nothing_is_about_to_leave() {
    let route = subscription(1, "http://127.0.0.1:9/", DeliverySchema::EventGrid);
    let mut rig = Rig::new();
    let (first, mut told) = rig.subscribe(&route);
    assert!(rig.commands.try_send(first).is_ok());
    rig.driver.gather();
    assert!(rig.driver.postponed.is_none());
    rig.end_group().await;
    assert!(told.try_recv().is_ok());
}
