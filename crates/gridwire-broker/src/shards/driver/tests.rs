//! The loop, one step at a time: what it takes into a group and what it leaves for the next.

use arc_swap::ArcSwap;
use gridwire_core::event::DeliverySchema;
use gridwire_core::ids::{Lsn, Slot};
use gridwire_core::limits;
use gridwire_core::pace::{PaceSource, Pacing};
use gridwire_core::patience::DeadLetterPolicy;
use gridwire_core::retry::Tier;
use gridwire_core::routing::{BoxFuture, DeadLetterDestination, DeliveryMode, RoutingTable};
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
use crate::testing::{
    self,
    log::{PanicAt, PanickyLog},
};

/// A driver whose steps a test takes, and the way to command it.
struct Rig {
    driver: Driver,
    commands: mpsc::Sender<Command>,
    log: Arc<dyn Log>,
    read: Lsn,
}

/// A clock that some of those who want to sleep can't stand.
#[derive(Debug)]
struct Nightmare {
    clock: ManualClock,
    /// The length of a sleep that panics, and how often it still does.
    panics: std::sync::Mutex<Option<(std::time::Duration, u32)>>,
}

impl Clock for Nightmare {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn wall(&self) -> Timestamp {
        self.clock.wall()
    }

    fn monotonic(&self) -> std::time::Duration {
        self.clock.monotonic()
    }

    fn raise_to(&self, floor: Timestamp) {
        self.clock.raise_to(floor);
    }

    fn sleep_until(&self, due: Timestamp) -> BoxFuture<'_, ()> {
        self.clock.sleep_until(due)
    }

    fn sleep(&self, wait: std::time::Duration) -> BoxFuture<'_, ()> {
        let mut panics = self.panics.lock().expect("the panic comes after the lock");
        if let Some((length, left)) = &mut *panics
            && *length == wait
            && *left > 0
        {
            *left -= 1;
            drop(panics);
            panic!("a planted panic in a task");
        }
        self.clock.sleep(wait)
    }
}

impl Rig {
    fn new() -> Self {
        Self::with(Arc::new(ManualClock::new(Timestamp::from_millis(1_795_465_178_054))))
    }

    fn with(clock: Arc<dyn Clock>) -> Self {
        let log = Arc::new(ModelLog::new(Arc::clone(&clock)));
        Self::over(clock, log)
    }

    fn over(clock: Arc<dyn Clock>, log: Arc<dyn Log>) -> Self {
        let rng: Arc<dyn Rng> = Arc::new(SeededRng::new(1));
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
    async fn publish(&mut self, route: &SubscriptionRoute) {
        testing::append(&*self.log, route.topic, &[route.slot], 1).await;
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
    rig.publish(&before).await;
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
    rig.publish(&after).await;
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
    for _ in 0..40 {
        rig.publish(&route).await;
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

/// Subscriptions that exist already and have a backlog to count, as after a start.
#[tokio::test]
async fn a_count_that_panics_is_made_again_and_keeps_nobody_from_counting() {
    let pause = std::time::Duration::from_millis(5);
    let clock = Arc::new(Nightmare {
        clock: ManualClock::new(Timestamp::from_millis(1_795_465_178_054)),
        panics: std::sync::Mutex::new(Some((pause, 2))),
    });
    let mut rig = Rig::with(Arc::clone(&clock) as Arc<dyn Clock>);
    let routes = [1, 2, 3].map(|number| {
        let route = subscription(number, "http://127.0.0.1:9/", DeliverySchema::EventGrid);
        let mut route = Arc::into_inner(route).expect("nobody else has it");
        route.policy.mode = DeliveryMode::Pull { lock: std::time::Duration::from_secs(60) };
        Arc::new(route)
    });
    // More than a queue's own scans look at while nobody receives.
    let slots: Vec<Slot> = routes.iter().map(|route| route.slot).collect();
    testing::append(&*rig.log, routes[0].topic, &slots, 2 * limits::READY_MAX).await;
    for route in &routes {
        let (command, _told) = rig.subscribe(route);
        let Command::Subscribe { mut input, route, done } = command else {
            unreachable!("it is that command")
        };
        input.existed = true;
        rig.driver.command(Command::Subscribe { input, route, done });
    }
    rig.end_group().await;
    let status = rig.driver.shard.status();
    assert!(status.iter().all(|status| status.matched.is_none()), "all count: {status:?}");
    let mut steps = 0;
    while rig.driver.shard.status().iter().any(|status| status.matched.is_none()) {
        steps += 1;
        assert!(steps < 1_000, "somebody never counts: {:?}", rig.driver.shard.status());
        if let Some(done) = rig.driver.work.try_join_next_with_id() {
            rig.driver.worked(done);
            rig.end_group().await;
        } else {
            clock.clock.advance(pause);
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(*clock.panics.lock().expect("nobody has it"), Some((pause, 0)), "two tasks panicked");
    assert!(rig.driver.awaited.is_empty());
}

/// A rig whose next fetches panic so, its clock and its log.
fn panicky(panics: &[PanicAt]) -> (Rig, Arc<ManualClock>, Arc<PanickyLog>) {
    let clock = testing::new_clock();
    let log = ModelLog::new(Arc::clone(&clock) as Arc<dyn Clock>);
    let log = Arc::new(PanickyLog { log, panics: std::sync::Mutex::new(panics.to_vec()) });
    (Rig::over(Arc::clone(&clock) as Arc<dyn Clock>, Arc::clone(&log) as Arc<dyn Log>), clock, log)
}

/// Takes the driver's steps until `reached`, and lets time pass while there are none.
async fn drive(rig: &mut Rig, clock: &ManualClock, reached: impl Fn(&Rig) -> bool) {
    let mut steps = 0;
    while !reached(rig) {
        steps += 1;
        assert!(steps < 1_000, "that never happens: {:?}", rig.driver.shard.status());
        if let Some(done) = rig.driver.work.try_join_next_with_id() {
            rig.driver.worked(done);
        } else if let Ok(report) = rig.driver.reports.try_recv() {
            rig.driver.reported(&report);
        } else {
            clock.advance(std::time::Duration::from_millis(100));
            rig.driver.input(Input::Tick);
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        rig.end_group().await;
    }
}

#[tokio::test]
async fn attempts_whose_start_panics_are_made_again_by_the_ladder() {
    for panics in [PanicAt::Once, PanicAt::Later] {
        let server = TestServer::answering(OK).await;
        let route = subscription(1, &server.url(), DeliverySchema::EventGrid);
        let (mut rig, clock, log) = panicky(&[panics]);
        let (first, _told) = rig.subscribe(&route);
        rig.driver.command(first);
        rig.publish(&route).await;
        rig.end_group().await;
        drive(&mut rig, &clock, |rig| rig.driver.shard.status()[0].pending == 0).await;
        assert!(log.panics.lock().expect("nobody has it").is_empty(), "one panicked");
        // The one that did never got so far.
        assert_eq!(server.connections(), 1, "{panics:?}");
        assert!(rig.driver.awaited.is_empty());
    }
}

#[tokio::test]
async fn an_event_that_panics_at_every_attempt_is_given_up_as_its_policy_says_and_others_go_on() {
    let server = TestServer::answering(OK).await;
    let mut route = Arc::into_inner(subscription(1, &server.url(), DeliverySchema::EventGrid)).expect("ours");
    route.policy.attempts_max = 3;
    let route = Arc::new(route);
    let (mut rig, clock, log) = panicky(&[PanicAt::Once; 3]);
    let (first, _told) = rig.subscribe(&route);
    rig.driver.command(first);
    rig.publish(&route).await;
    rig.end_group().await;
    drive(&mut rig, &clock, |rig| rig.driver.shard.status()[0].pending == 0).await;
    assert!(log.panics.lock().expect("nobody has it").is_empty(), "all three panicked");
    assert_eq!(server.connections(), 0);
    rig.publish(&route).await;
    rig.end_group().await;
    drive(&mut rig, &clock, |rig| rig.driver.shard.status()[0].pending == 0).await;
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_dead_letter_whose_writing_panics_is_written_later() {
    let server = TestServer::answering("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    let mut route = Arc::into_inner(subscription(1, &server.url(), DeliverySchema::EventGrid)).expect("ours");
    route.policy.dead_letter = Some(DeadLetterPolicy::documented(Tier::Basic));
    let (account, container) = ("letters".to_owned(), "orders".to_owned());
    route.dead_letter = Some(DeadLetterDestination { account, container });
    let route = Arc::new(route);
    let (mut rig, clock, log) = panicky(&[]);
    let (first, _told) = rig.subscribe(&route);
    rig.driver.command(first);
    rig.publish(&route).await;
    rig.end_group().await;
    // Only what is read after the attempt panics.
    log.panics.lock().expect("nobody has it").push(PanicAt::Later);
    drive(&mut rig, &clock, |rig| rig.driver.shard.status()[0].pending == 0).await;
    assert!(log.panics.lock().expect("nobody has it").is_empty(), "one panicked");
    assert_eq!(rig.driver.shard.status()[0].totals.dead_lettered, 1);
    assert!(rig.driver.awaited.is_empty());
}
