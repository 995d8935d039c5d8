//! Everybody outside: publishers, receivers and webhooks, who tell the checker of all they ask and are answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use gridwire_core::event::{Data, DeliverySchema, Event, Extension, InputSchema};
use gridwire_core::filter::FilterSpec;
use gridwire_core::routing::TopicKind;
use gridwire_core::time::Timestamp;
use gridwire_sim::checker::{Answer, Checker, Mode, Outcome, Subscription, Topic, Verb};
use gridwire_sim::texts::{read_received, read_results, write_event};
use serde_json::json;

use crate::support::arm::{self, Namespace};
use crate::support::load::Chance;
use crate::support::pull::Queue;
use crate::support::time::pause;
use crate::support::{Arm, Client, Delivery, Reply, Request, Server, Sink, events, metrics, now};

/// The shortest there is.
const LOCK: Duration = Duration::from_secs(60);
/// The service's own, and longer than any run.
const TIME_TO_LIVE: Duration = Duration::from_secs(24 * 3600);
/// What a lost answer has locked comes again when its lock has run out.
const DRAIN_WITHIN: Duration = Duration::from_secs(100);
/// How late the flush of every 100 ms may be on two processors that also build, test and play the clients, where nobody
/// watches the flushes: a second in all, with what the checker allows anyway.
const FLUSHES_LATE_BY: Duration = Duration::from_millis(750);
/// Answers of webhooks take a twentieth of a second.
const QUIET_WITHIN: Duration = Duration::from_secs(10);
/// Tokens that are held over a cut, at most, so that not all of them run out.
const HELD_MAX: usize = 20;
pub(crate) const QUEUES: [&str; 2] = ["all", "some"];
const HOOKS: [&str; 2] = ["grid", "spaces"];
/// What the second queue takes.
const TAKEN: &str = "t.a";
const TYPES: [&str; 3] = ["t.a", "t.b", "t.c"];

/// The checker and its clock.
pub(crate) struct Judge {
    begun: Instant,
    /// How far the servers' wall clock was put ahead, in milliseconds.
    ahead: AtomicU64,
    checker: Mutex<Checker>,
}

impl Judge {
    fn new() -> Self {
        Self { begun: now(), ahead: AtomicU64::new(0), checker: Mutex::default() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        let passed = self.begun.elapsed() + Duration::from_millis(self.ahead.load(Ordering::SeqCst));
        // Far enough from zero to look back.
        Timestamp::from_millis(1_000_000_000) + passed
    }

    /// A moment that is so long ago.
    pub(crate) fn before_now(&self, ago: Duration) -> Timestamp {
        let ago = u64::try_from(ago.as_millis()).expect("a short time");
        Timestamp::from_millis(self.now().as_millis().saturating_sub(ago))
    }

    pub(crate) fn put_ahead(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).expect("a short time");
        self.ahead.fetch_add(by, Ordering::SeqCst);
    }

    pub(crate) fn checker(&self) -> MutexGuard<'_, Checker> {
        self.checker.lock().expect("no panic while the checker is held")
    }

    fn report(&self, kind: &'static str, event: &str, what: &str) {
        let when = self.now();
        self.checker().report_other(kind, event, when, what);
    }

    /// A webhook was sent something: what it answers.
    fn posted(&self, delivery: &Delivery) -> Reply {
        // By the event's own text, so that a repetition is answered alike: a tenth fails, a tenth takes its time.
        let sum =
            delivery.body.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
        let again = delivery.header("aeg-delivery-count").is_some_and(|count| count != "0");
        let reply = match sum % 10 {
            0 if !again => Reply::Status(500),
            1 => Reply::After(Duration::from_millis(40), 200),
            _ => Reply::Status(200),
        };
        let answer = match reply {
            Reply::Status(500) => Answer::Status { status: 500, retry_after: Duration::ZERO },
            _ => Answer::Accepted,
        };
        let when = self.now();
        let mut checker = self.checker();
        let id = checker.delivered(delivery.path.trim_start_matches('/'), &delivery.body, when);
        checker.answered(id, answer, when);
        reply
    }
}

/// What ended a server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Killed,
    /// With the beginning of the last flush of decisions that succeeded, where it is known.
    PowerCut(Option<Timestamp>),
}

/// One history: resources that were made on an empty server, and all that happened since.
pub(crate) struct World {
    pub(crate) judge: Arc<Judge>,
    /// Outlives every server of the history.
    sink: Sink,
    topic: arm::Topic,
    namespace: Namespace,
    next: AtomicU64,
    /// Queue, token, and when it was received.
    held: Mutex<Vec<(&'static str, String, Instant)>>,
}

impl World {
    pub(crate) fn new(server: &Server) -> Self {
        let judge = Arc::new(Judge::new());
        let of_sink = Arc::clone(&judge);
        let sink = Sink::scripted(move |delivery, _| of_sink.posted(delivery));
        let arm = Arm::new(server);
        let topic = arm.topic("grid", &json!({}));
        arm.webhook(&topic, HOOKS[0], &sink.url(&format!("/{}", HOOKS[0])), &json!({}));
        let namespace = arm.namespace("spaces");
        arm.namespace_topic(&namespace, "orders");
        arm.push(&namespace, "orders", HOOKS[1], &sink.url(&format!("/{}", HOOKS[1])), &json!({}));
        let queue = json!({ "receiveLockDurationInSeconds": LOCK.as_secs(), "eventTimeToLive": "P1D" });
        arm.queue(&namespace, "orders", QUEUES[0], &queue, &json!({}));
        let filter = json!({ "includedEventTypes": [TAKEN] });
        arm.queue(&namespace, "orders", QUEUES[1], &queue, &filter);
        {
            let mut checker = judge.checker();
            checker.flushes_late_by = FLUSHES_LATE_BY;
            let kinds = [
                ("grid", TopicKind::Custom, topic.id.clone()),
                ("orders", TopicKind::Namespace, String::new()),
            ];
            for (name, kind, resource_id) in kinds {
                checker.topic(Topic { name: name.to_owned(), kind, resource_id });
            }
            let pull = Mode::Pull { lock: LOCK };
            let push = |schema| Mode::Push { schema, batching: None };
            for (name, topic, mode) in [
                (HOOKS[0], "grid", push(DeliverySchema::EventGrid)),
                (HOOKS[1], "orders", push(DeliverySchema::CloudEvent)),
                (QUEUES[0], "orders", pull),
                (QUEUES[1], "orders", pull),
            ] {
                let event_types = (name == QUEUES[1]).then(|| vec![TAKEN.to_owned()]);
                checker.subscription(Subscription {
                    name: name.to_owned(),
                    topic: topic.to_owned(),
                    mode,
                    filter: FilterSpec { event_types, ..FilterSpec::default() },
                    attempts_max: if mode == pull { 10 } else { 30 },
                    time_to_live: TIME_TO_LIVE,
                    dead_letter: false,
                    forwarded: false,
                });
            }
        }
        let (next, held) = (AtomicU64::new(1), Mutex::default());
        Self { judge, sink, topic, namespace, next, held }
    }

    /// Publishes, receives and settles in several threads until `ending`, which tells when the server goes.
    pub(crate) fn load<'s>(
        &'s self,
        scope: &'s std::thread::Scope<'s, '_>,
        address: SocketAddr,
        ending: &'s AtomicBool,
        chance: &mut Chance,
    ) {
        let actor = |chance: &mut Chance| Actor {
            world: self,
            address,
            client: Client::new(address),
            ending: Some(ending),
            chance: chance.split(),
        };
        for topic in ["grid", "orders"] {
            let mut actor = actor(chance);
            scope.spawn(move || while actor.publish(topic).is_some() {});
        }
        for queue in [QUEUES[0], QUEUES[0], QUEUES[1]] {
            let mut actor = actor(chance);
            scope.spawn(move || while actor.receive(queue).is_some() {});
        }
        let held = std::mem::take(&mut *self.held());
        let mut actor = actor(chance);
        scope.spawn(move || {
            for (queue, token, since) in held {
                // The others have run out, or may at any moment.
                if since.elapsed() < LOCK / 2 && actor.settle(queue, Verb::Acknowledge, &[token]).is_none() {
                    return;
                }
            }
        });
    }

    fn held(&self) -> MutexGuard<'_, Vec<(&'static str, String, Instant)>> {
        self.held.lock().expect("no panic while it is held")
    }

    /// The server ended at this moment or soon after, and has not been started again.
    pub(crate) fn ended(&self, when: Timestamp, end: End) {
        // What it had sent is of its own time, however late we look at it. So is what it did between the moment when
        // the power went and its end.
        self.sink.wait_quiet(QUIET_WITHIN);
        let now = self.judge.now();
        let mut checker = self.judge.checker();
        checker.killed(when);
        match end {
            End::Killed => checker.killed(now),
            End::PowerCut(None) => checker.power_cut(now),
            End::PowerCut(Some(flushed)) => checker.power_cut_after_flush(now, flushed),
        }
    }

    /// With good weather from now on: receives and acknowledges until everything has come, and judges.
    /// The number is of what never came.
    pub(crate) fn drain(&self, server: &Server) -> usize {
        let end = now() + DRAIN_WITHIN;
        let pending = || {
            let names = ["gridwire_delivery_pending_events{", "gridwire_delivery_lag_events{"];
            let page = server.metrics();
            let lines = metrics::family(&page, &names).into_iter();
            lines.filter(|line| !line.ends_with(" 0")).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            for queue in QUEUES {
                let (pending, address) = (&pending, server.http);
                scope.spawn(move || {
                    let (client, chance) = (Client::new(address), Chance(1));
                    let mut actor = Actor { world: self, address, client, ending: None, chance };
                    let mine = format!("subscription=\"{queue}\"");
                    while pending().iter().any(|line| line.contains(&mine)) && now() < end {
                        actor.receive(queue);
                    }
                });
            }
        });
        while !pending().is_empty() && now() < end {
            pause(Duration::from_millis(100));
        }
        let (when, left) = (self.judge.now(), pending());
        let mut checker = self.judge.checker();
        if !left.is_empty() {
            checker.report_other("stuck", "", when, &format!("the queues did not drain: {left:?}"));
        }
        let lost = checker.outstanding(when).len();
        checker.finish(when);
        lost
    }
}

/// One client.
struct Actor<'w> {
    world: &'w World,
    address: SocketAddr,
    client: Client,
    /// `None` when the server is there to stay and everything is to be acknowledged.
    ending: Option<&'w AtomicBool>,
    chance: Chance,
}

impl Actor<'_> {
    fn is_ending(&self) -> bool {
        self.ending.is_some_and(|ending| ending.load(Ordering::SeqCst))
    }

    /// An answer with its status; `None` when there was none, which is nobody's fault only when the server goes.
    fn call(&mut self, what: &str, request: &Request) -> Option<crate::support::Answer> {
        match self.client.send(request) {
            Ok(answer) => {
                let is_excused = answer.status == 503 && self.is_ending();
                if answer.status != 200 && !is_excused {
                    let text = format!("{what}: {} {}", answer.status, answer.text());
                    self.world.judge.report("misjudged", "", &text);
                }
                Some(answer)
            }
            Err(error) => {
                self.client = Client::new(self.address);
                if !self.is_ending() {
                    self.world.judge.report("failed", "", &format!("{what} on a running server: {error}"));
                }
                None
            }
        }
    }

    /// Publishes a batch; `None` when the server is gone.
    fn publish(&mut self, topic: &'static str) -> Option<()> {
        let count = if self.chance.below(20) == 0 { 40 } else { 1 + self.chance.below(6) };
        let batch: Vec<Event<'static>> = (0..count).map(|_| self.event(topic == "orders")).collect();
        let texts: Vec<String> = batch.iter().map(write_event).collect();
        let body = format!("[{}]", texts.join(","));
        let World { judge, topic: custom, namespace, .. } = self.world;
        let request = if topic == "grid" {
            Request::post(&custom.path).with("aeg-sas-key", &custom.key).with("content-type", events::JSON)
        } else {
            namespace.request("topics/orders:publish", "").with("content-type", events::BATCH)
        };
        let asked = judge.now();
        let call = judge.checker().publishing(topic, batch, asked);
        let answer = self.call("a publish", &request.body(body));
        let outcome = match &answer {
            Some(answer) if answer.status == 200 => Outcome::Accepted,
            Some(answer) if answer.status < 500 => Outcome::Refused,
            _ => Outcome::Unknown,
        };
        let when = judge.now();
        judge.checker().published(call, outcome, when);
        pause(Duration::from_millis(self.chance.below(10)));
        (outcome == Outcome::Accepted).then_some(())
    }

    fn event(&mut self, cloud: bool) -> Event<'static> {
        let number = self.world.next.fetch_add(1, Ordering::Relaxed);
        let index = usize::try_from(self.chance.below(TYPES.len() as u64)).expect("a small number");
        let length = if self.chance.below(15) == 0 { 20_000 } else { 80 };
        let padding = "~".repeat(usize::try_from(self.chance.below(length)).expect("a small number"));
        let extension =
            Extension { name: "trace".into(), json: format!("\"{}\"", self.chance.below(100)).into() };
        Event {
            schema: if cloud { InputSchema::CloudEvent } else { InputSchema::EventGrid },
            id: format!("e{number}").into(),
            event_type: TYPES[index].into(),
            source: if cloud { "/s".into() } else { "".into() },
            subject: Some("/x".into()),
            time: Some("2026-11-23T20:00:00.5Z".into()),
            data_content_type: None,
            data_schema: (!cloud).then(|| "1.0".into()),
            extensions: if cloud && number.is_multiple_of(3) { vec![extension] } else { Vec::new() },
            // Unusual blanks: the bytes must come through.
            data: Data::Json(format!("{{ \"n\":{number},\t\"padding\" : \"{padding}\"}}").into()),
        }
    }

    /// Receives and settles; `None` when the server is gone. A lost answer may have locked events and counted a
    /// delivery; the checker is not told, for that happens to no event more than once in the time of its lock, and so
    /// never uses up its deliveries.
    fn receive(&mut self, queue: &'static str) -> Option<()> {
        let max = if self.ending.is_some() { 1 + self.chance.below(40) } else { 100 };
        let max = u32::try_from(max).expect("a small number");
        let judge = &self.world.judge;
        let asked = judge.now();
        let request = Queue::new(&self.world.namespace, "orders", queue).receive_request(max);
        let answer = self.call("a receive", &request).filter(|answer| answer.status == 200)?;
        let received = read_received(&answer.body).unwrap_or_else(|| {
            judge.report("altered", "", &format!("an answer to receive: {}", answer.text()));
            Vec::new()
        });
        let mut by_verb: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for one in &received {
            let intent = if self.ending.is_some() { self.chance.below(20) } else { 19 };
            let intent = if 1 < one.delivery_count && intent < 4 { 19 } else { intent.min(5) };
            by_verb.entry(intent).or_default().push(one.token.clone());
        }
        let when = judge.now();
        judge.checker().received(queue, received, asked, when);
        for (intent, tokens) in by_verb {
            match intent {
                0 => self.settle(queue, Verb::Release { delay: Duration::ZERO }, &tokens)?,
                1 => self.settle(queue, Verb::Release { delay: Duration::from_secs(10) }, &tokens)?,
                2 => self.settle(queue, Verb::Reject, &tokens)?,
                3 => {
                    self.settle(queue, Verb::Renew, &tokens)?;
                    self.settle(queue, Verb::Acknowledge, &tokens)?;
                }
                4 => {
                    let mut held = self.world.held();
                    let free = HELD_MAX.saturating_sub(held.len());
                    held.extend(tokens.into_iter().take(free).map(|token| (queue, token, now())));
                }
                _ => self.settle(queue, Verb::Acknowledge, &tokens)?,
            }
        }
        Some(())
    }

    /// `None` when the server is gone.
    fn settle(&mut self, queue: &'static str, verb: Verb, tokens: &[String]) -> Option<()> {
        let (name, query) = match verb {
            Verb::Acknowledge => ("acknowledge", String::new()),
            Verb::Release { delay } => ("release", format!("&releaseDelayInSeconds={}", delay.as_secs())),
            Verb::Reject => ("reject", String::new()),
            Verb::Renew => ("renewLock", String::new()),
        };
        let judge = &self.world.judge;
        let operation = format!("topics/orders/eventsubscriptions/{queue}:{name}");
        let request = self.world.namespace.request(&operation, &query).json(&json!({ "lockTokens": tokens }));
        let asked = judge.now();
        judge.checker().settling(verb, tokens);
        let answer = self.call("a settlement", &request).filter(|answer| answer.status == 200);
        let results = answer.as_ref().and_then(|answer| read_results(&answer.body));
        let when = judge.now();
        judge.checker().settled(verb, tokens, results.as_deref(), asked, when);
        results.map(|_| ())
    }
}
