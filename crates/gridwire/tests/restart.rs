//! Killing the process at any moment loses nothing it answered for (`reliability` promises 1 to 5).
//!
//! Twenty times the server is ended in the middle of publishing, receiving, settling and pushing, and started
//! again on the same data directory. Everything that was asked and answered is written into a journal, which
//! is judged at the end. What a lost answer leaves unknown is judged as either.

mod support;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use support::arm::{Namespace, Topic};
use support::pull::{Queue, Received};
use support::server::show;
use support::time::pause;
use support::{Arm, Client, Reply, Request, Server, Sink, events, metrics, now};

const ROUNDS: u32 = 25;
/// Every so many rounds the server is asked to stop instead.
const POLITE_EVERY: u32 = 5;
const READY_WITHIN: Duration = Duration::from_secs(2);
const LOCK: Duration = Duration::from_secs(60);
/// A lock is granted a little later than it was asked for, and ends by the server's clock, not by ours.
const LOCK_SLACK: Duration = Duration::from_millis(500);
/// Locks of lost answers must run out before their events come again.
const DRAIN_WITHIN: Duration = Duration::from_secs(90);
const QUEUES: [&str; 2] = ["first", "second"];
/// Held over the end of each round, by each receiver.
const HELD_MAX: usize = 8;

/// A small generator whose whole state is the seed that a failed run prints.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Another one, for another thread.
    fn split(&mut self) -> Self {
        Self(self.below(u64::MAX) | 1)
    }
}

/// One received event in somebody's hands.
#[derive(Clone, Debug)]
struct Hold {
    received: Received,
    /// When its settlement was asked for: from then on it may be anybody's again.
    settling: Option<Instant>,
    /// When its acknowledgement was answered with success.
    acknowledged: Option<Instant>,
}

/// All that was asked and answered.
#[derive(Default)]
struct Journal {
    attempted: HashSet<String>,
    /// Answered with success.
    published: HashSet<String>,
    /// By queue.
    holds: HashMap<&'static str, Vec<Hold>>,
    problems: Vec<String>,
}

struct Load<'a> {
    address: SocketAddr,
    namespace: &'a Namespace,
    topic: &'a Topic,
    journal: &'a Mutex<Journal>,
    /// Numbers the events of the whole test.
    next: &'a AtomicU64,
    ending: &'a AtomicBool,
}

impl Load<'_> {
    fn journal(&self) -> std::sync::MutexGuard<'_, Journal> {
        self.journal.lock().expect("no panic while the journal is held")
    }

    /// Whether to go on after a call; a failure before the end of the round is a problem.
    fn goes_on<T>(&self, what: &str, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if !self.ending.load(Ordering::SeqCst) {
                    self.journal().problems.push(format!("{what} failed on a running server: {error}"));
                }
                None
            }
        }
    }

    /// Publishes batches until the server is gone.
    fn publish(&self, prefix: &str, chance: &mut Chance) {
        let mut client = Client::new(self.address);
        loop {
            let count = 1 + chance.below(5);
            let ids: Vec<String> = (0..count)
                .map(|_| format!("{prefix}-{}", self.next.fetch_add(1, Ordering::Relaxed)))
                .collect();
            let request = self.request(prefix, &ids);
            self.journal().attempted.extend(ids.iter().cloned());
            let Some(answer) = self.goes_on("a publish", client.send(&request)) else { return };
            match answer.status {
                200 => self.journal().published.extend(ids),
                // A server on its way down says so; whether it took the events is then unknown.
                503 if self.ending.load(Ordering::SeqCst) => return,
                status => {
                    self.journal()
                        .problems
                        .push(format!("a publish was answered {status}: {}", answer.text()));
                    return;
                }
            }
            pause(Duration::from_millis(chance.below(8)));
        }
    }

    fn request(&self, prefix: &str, ids: &[String]) -> Request {
        if prefix == "grid" {
            let events: Vec<Value> = ids.iter().map(|id| events::grid_event(id)).collect();
            return self.topic.publish(events::JSON, &json!(events));
        }
        let events: Vec<Value> = ids.iter().map(|id| events::cloud_event(id)).collect();
        self.namespace.publish("orders", &json!(events))
    }

    /// Receives and settles until the server is gone; of what it received it keeps some unsettled.
    fn receive(&self, name: &'static str, chance: &mut Chance) {
        let queue = Queue::new(self.namespace, "orders", name);
        let mut client = Client::new(self.address);
        let mut kept = 0;
        loop {
            let max = u32::try_from(1 + chance.below(40)).expect("a small number");
            let Some(received) = self.goes_on("a receive", queue.receive(&mut client, max)) else { return };
            let (mut acknowledge, mut release) = (Vec::new(), Vec::new());
            for one in received {
                match chance.below(10) {
                    0 if kept < HELD_MAX => kept += 1,
                    1 if one.delivery_count < 4 => release.push(one.token.clone()),
                    _ => acknowledge.push(one.token.clone()),
                }
                let hold = Hold { received: one, settling: None, acknowledged: None };
                self.journal().holds.entry(name).or_default().push(hold);
            }
            for (verb, tokens) in [("acknowledge", acknowledge), ("release", release)] {
                if !tokens.is_empty() && self.settle(name, &mut client, verb, &tokens).is_none() {
                    return;
                }
            }
        }
    }

    /// Settles tokens that must still be good, and writes it down.
    fn settle(&self, name: &'static str, client: &mut Client, verb: &str, tokens: &[String]) -> Option<()> {
        let each = |done: &mut dyn FnMut(&mut Hold)| {
            let mut journal = self.journal();
            for hold in journal.holds.entry(name).or_default() {
                if tokens.contains(&hold.received.token) {
                    done(hold);
                }
            }
        };
        let asked = now();
        each(&mut |hold| hold.settling = Some(asked));
        let texts: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let queue = Queue::new(self.namespace, "orders", name);
        let settled = self.goes_on("a settlement", queue.settle(client, verb, "", &texts))?;
        let answered = now();
        if verb == "acknowledge" {
            each(&mut |hold| {
                if settled.succeeded.contains(&hold.received.token) {
                    hold.acknowledged = Some(answered);
                }
            });
        }
        if !settled.failed.is_empty() {
            let codes: Vec<&str> = settled.failed.iter().map(|(_, code)| code.as_str()).collect();
            self.journal().problems.push(format!("{verb} in `{name}` failed for good tokens: {codes:?}"));
        }
        Some(())
    }

    /// Acknowledges what was kept from before the restart, one by one.
    fn acknowledge_kept(&self, kept: &[(&'static str, String)], chance: &mut Chance) {
        let mut client = Client::new(self.address);
        for (name, token) in kept {
            pause(Duration::from_millis(chance.below(20)));
            if self.settle(name, &mut client, "acknowledge", std::slice::from_ref(token)).is_none() {
                return;
            }
        }
    }
}

impl Journal {
    /// What is held and not settled, and sure to be locked still.
    fn kept(&self) -> Vec<(&'static str, String)> {
        let fresh = |hold: &&Hold| hold.settling.is_none() && hold.received.asked.elapsed() < LOCK / 2;
        self.holds
            .iter()
            .flat_map(|(name, holds)| {
                holds.iter().filter(fresh).map(|hold| (*name, hold.received.token.clone()))
            })
            .collect()
    }

    /// Judges one queue.
    fn judge_queue(&mut self, name: &'static str) {
        let mut problems = Vec::new();
        let mut by_event: HashMap<&str, Vec<&Hold>> = HashMap::new();
        for hold in self.holds.get(name).into_iter().flatten() {
            by_event.entry(&hold.received.id).or_default().push(hold);
        }
        for (id, holds) in &mut by_event {
            holds.sort_by_key(|hold| hold.received.arrived);
            if !self.attempted.contains(*id) {
                problems.push(format!("`{name}` got `{id}`, which nobody published"));
            }
            for (index, one) in holds.iter().enumerate() {
                let runs_out = one.received.asked + LOCK.saturating_sub(LOCK_SLACK);
                let free = one.settling.map_or(runs_out, |settling| settling.min(runs_out));
                for other in &holds[index + 1..] {
                    if other.received.arrived < free {
                        problems
                            .push(format!("`{name}` has two locks of `{id}` at once: {one:?} and {other:?}"));
                    }
                    if one.acknowledged.is_some_and(|at| at < other.received.arrived) {
                        problems.push(format!("`{name}` got `{id}` after it was acknowledged: {other:?}"));
                    }
                    if other.received.delivery_count <= one.received.delivery_count {
                        problems.push(format!("the delivery count of `{id}` in `{name}` does not grow"));
                    }
                }
            }
        }
        for id in &self.published {
            if id.starts_with("spaces") && !by_event.contains_key(id.as_str()) {
                problems.push(format!("`{name}` never got `{id}`"));
            }
        }
        self.problems.extend(problems);
    }

    /// Judges what webhooks got.
    fn judge_pushes(&mut self, sink: &Sink) {
        for prefix in ["grid", "spaces"] {
            let mut seen = HashSet::new();
            for id in sink.at(&format!("/{prefix}")).iter().flat_map(|delivery| delivery.ids("id")) {
                if !self.attempted.contains(&id) {
                    self.problems.push(format!("`{prefix}` was posted `{id}`, which nobody published"));
                }
                seen.insert(id);
            }
            let missing = self.published.iter().filter(|id| id.starts_with(prefix) && !seen.contains(*id));
            self.problems.extend(missing.map(|id| format!("`{id}` was never posted")));
        }
    }
}

#[test]
fn killing_the_server_again_and_again_loses_nothing_and_gives_nothing_twice() {
    let seed = match std::env::var("SCENARIO_SEED") {
        Ok(seed) => seed.parse().expect("SCENARIO_SEED is a number"),
        Err(_) => RandomState::new().hash_one("restart") | 1,
    };
    show(&format!("SCENARIO_SEED={seed}"));
    let mut chance = Chance(seed);
    let mut server = Server::start();
    // One in eight deliveries is under way for long enough to be cut off by a kill.
    let sink = Sink::scripted(|_, before| match before % 8 {
        0 => Reply::After(Duration::from_millis(40), 200),
        _ => Reply::Status(200),
    });
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({}));
    arm.webhook(&topic, "hook", &sink.url("/grid"), &json!({}));
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    arm.push(&namespace, "orders", "hook", &sink.url("/spaces"), &json!({}));
    for name in QUEUES {
        arm.queue(&namespace, "orders", name, &json!({ "receiveLockDurationInSeconds": 60 }), &json!({}));
    }
    let (journal, next) = (Mutex::new(Journal::default()), AtomicU64::new(0));
    let mut ready = Vec::new();
    let mut stops = Vec::new();
    for round in 0..ROUNDS {
        let ending = AtomicBool::new(false);
        let load = Load {
            address: server.http,
            namespace: &namespace,
            topic: &topic,
            journal: &journal,
            next: &next,
            ending: &ending,
        };
        let kept = load.journal().kept();
        std::thread::scope(|scope| {
            let load = &load;
            for prefix in ["grid", "spaces"] {
                let mut chance = chance.split();
                scope.spawn(move || load.publish(prefix, &mut chance));
            }
            for name in [QUEUES[0], QUEUES[0], QUEUES[1]] {
                let mut chance = chance.split();
                scope.spawn(move || load.receive(name, &mut chance));
            }
            let mut own = chance.split();
            scope.spawn(move || load.acknowledge_kept(&kept, &mut own));
            pause(Duration::from_millis(150 + chance.below(1_000)));
            ending.store(true, Ordering::SeqCst);
            if round % POLITE_EVERY == POLITE_EVERY - 1 {
                let (status, took) = server.terminate();
                assert!(status.success(), "the server ended with {status} after SIGTERM");
                stops.push(took);
            } else {
                server.kill9();
            }
        });
        server.restart();
        ready.push(server.ready_after);
    }
    drain(&server, &namespace, &topic, &journal);
    let mut journal = journal.into_inner().expect("no panic while the journal is held");
    for name in QUEUES {
        journal.judge_queue(name);
    }
    journal.judge_pushes(&sink);
    let slowest = ready.iter().max().expect("there were rounds");
    show(&format!(
        "{} events published of {} attempted, {} posts; ready after {slowest:?} at most ({ready:?}), stopped after {stops:?}",
        journal.published.len(),
        journal.attempted.len(),
        sink.deliveries().len()
    ));
    let count = journal.problems.len();
    let shown = some_of_each(&journal.problems);
    assert!(count == 0, "{count} problems with seed {seed}:\n{}", shown.join("\n"));
    assert!(journal.published.len() > 500, "too little was going on: {} events", journal.published.len());
    assert!(*slowest < READY_WITHIN, "a restart took {slowest:?}");
}

/// The first few problems of each kind: texts that differ only in their names are of one kind.
fn some_of_each(problems: &[String]) -> Vec<&str> {
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut few = |problem: &&String| {
        let kind: String = problem.split('`').step_by(2).take(3).collect();
        let count = seen.entry(kind.chars().take(40).collect()).or_default();
        *count += 1;
        *count <= 5
    };
    problems.iter().filter(|problem| few(problem)).map(String::as_str).collect()
}

/// Receives and acknowledges until every queue is empty and every push has been made.
fn drain(server: &Server, namespace: &Namespace, topic: &Topic, journal: &Mutex<Journal>) {
    let (next, ending) = (AtomicU64::new(0), AtomicBool::new(false));
    let load = Load { address: server.http, namespace, topic, journal, next: &next, ending: &ending };
    let kept = load.journal().kept();
    load.acknowledge_kept(&kept, &mut Chance(1));
    let end = now() + DRAIN_WITHIN;
    let pending = || {
        let page = server.metrics();
        let lines =
            metrics::family(&page, &["gridwire_delivery_pending_events{", "gridwire_delivery_lag_events{"]);
        lines.into_iter().filter(|line| !line.ends_with(" 0")).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        for name in QUEUES {
            let (load, pending) = (&load, &pending);
            scope.spawn(move || {
                let queue = Queue::new(load.namespace, "orders", name);
                let mut client = Client::new(load.address);
                let waits =
                    || pending().iter().any(|line| line.contains(&format!("subscription=\"{name}\"")));
                while waits() && now() < end {
                    let received = queue.receive(&mut client, 100).expect("an answer while draining");
                    let tokens: Vec<String> = received.iter().map(|one| one.token.clone()).collect();
                    let holds = received.into_iter().map(|received| Hold {
                        received,
                        settling: None,
                        acknowledged: None,
                    });
                    load.journal().holds.entry(name).or_default().extend(holds);
                    if !tokens.is_empty() {
                        load.settle(name, &mut client, "acknowledge", &tokens)
                            .expect("an answer while draining");
                    }
                }
            });
        }
    });
    while !pending().is_empty() && now() < end {
        pause(Duration::from_millis(100));
    }
    let left = pending();
    if !left.is_empty() {
        load.journal().problems.push(format!("the backlog did not drain: {left:?}"));
    }
}

/// A delivery fails, the server ends in one way or another and comes back: the retry keeps its time.
fn check_retry(end: fn(&mut Server)) {
    let mut server = Server::start();
    let sink = Sink::scripted(|_, before| Reply::Status(if before == 0 { 500 } else { 200 }));
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({}));
    arm.webhook(&topic, "hook", &sink.url("/grid"), &json!({}));
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    arm.push(&namespace, "orders", "hook", &sink.url("/spaces"), &json!({}));
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("g")]))).expect(200);
    server.send(&namespace.publish("orders", &json!([events::cloud_event("n")]))).expect(200);
    for path in ["/grid", "/spaces"] {
        sink.wait_at(path, 1, Duration::from_secs(15));
    }
    // Long enough for the outcomes to be recorded, far from the retry.
    pause(Duration::from_secs(3));
    end(&mut server);
    server.restart();
    for path in ["/grid", "/spaces"] {
        let tries = sink.wait_at(path, 2, Duration::from_secs(30));
        let wait = tries[1].at.duration_since(tries[0].at);
        let allowed = Duration::from_millis(9_900)..Duration::from_secs(16);
        assert!(allowed.contains(&wait), "{path}: the second attempt came after {wait:?}");
        assert_eq!(tries[1].header("aeg-delivery-count"), Some("1"), "{path}");
    }
    pause(Duration::from_secs(1));
    assert_eq!(sink.deliveries().len(), 4, "no third attempt");
}

#[test]
fn a_retry_that_is_due_keeps_its_time_over_a_kill() {
    check_retry(|server| {
        server.kill9();
    });
}

#[test]
fn a_retry_that_is_due_keeps_its_time_over_a_stop() {
    check_retry(|server| {
        let (status, took) = server.terminate();
        assert!(status.success(), "{status}");
        assert!(took < Duration::from_secs(5), "a server at rest took {took:?} to stop");
    });
}

/// What the ladder lengthens a wait by at most, and what a busy machine may add.
const JITTER_SHARE: f64 = 0.1;
const LATE_MAX: Duration = Duration::from_secs(4);

/// A minute ahead the retry is far beyond anything that a start could put right by trying at once: the ladder's
/// third wait, and a wait that the endpoint asked for. The attempts before and after the kill stand on the ladder
/// too, so the one after the minute must also be told that it is the fourth.
///
/// Runs in real time beside the kills above; most of it is waiting.
#[test]
fn a_retry_due_in_a_minute_keeps_its_time_over_a_kill() {
    let mut server = Server::start();
    let sink = Sink::scripted(|delivery, before| match (delivery.path.as_str(), before) {
        ("/asked", 0) => Reply::Busy(60),
        ("/ladder", 0..=2) => Reply::Status(500),
        _ => Reply::Status(200),
    });
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({}));
    for name in ["asked", "ladder"] {
        arm.webhook(&topic, name, &sink.url(&format!("/{name}")), &json!({}));
    }
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("g")]))).expect(200);
    sink.wait_at("/ladder", 3, Duration::from_secs(75));
    assert_eq!(sink.at("/asked").len(), 1, "the endpoint's minute is not over");
    // Long enough for the outcome to be recorded, far from both retries.
    pause(Duration::from_secs(3));
    server.kill9();
    server.restart();
    for (path, wait, jitter, count) in [("/asked", 60, 0.0, 1), ("/ladder", 60, JITTER_SHARE, 3)] {
        let tries = sink.wait_at(path, count + 1, Duration::from_secs(90));
        let waited = tries[count].at.duration_since(tries[count - 1].at);
        // Counted from the answer, which comes after what the webhook calls the arrival.
        let due = Duration::from_secs(wait);
        let allowed = due..due.mul_f64(1.0 + jitter) + LATE_MAX;
        show(&format!("{path}: waited {waited:?} of {allowed:?}, over a restart"));
        assert!(allowed.contains(&waited), "{path}: attempt {} came after {waited:?}", count + 1);
        assert_eq!(tries[count].header("aeg-delivery-count"), Some(count.to_string().as_str()), "{path}");
    }
    pause(Duration::from_secs(1));
    assert_eq!(sink.deliveries().len(), 6, "what was taken is not sent again");
}

#[test]
fn resources_and_keys_survive_a_kill_right_after_the_answer() {
    let mut server = Server::start();
    let sink = Sink::start();
    let topic = {
        let arm = Arm::new(&server);
        let topic = arm.topic("grid", &json!({}));
        let filter = json!({ "filter": { "includedEventTypes": ["Shop.OrderPlaced"] } });
        arm.webhook(&topic, "hook", &sink.url("/hook?code=s3cret"), &filter);
        topic
    };
    server.kill9();
    server.restart();
    let arm = Arm::new(&server);
    assert_eq!(arm.key("topics/grid"), topic.key);
    let subscription = arm.get("topics/grid/eventSubscriptions/hook");
    assert_eq!(subscription["properties"]["filter"]["includedEventTypes"], json!(["Shop.OrderPlaced"]));
    let mut other = events::grid_event("other");
    other["eventType"] = json!("Shop.Else");
    server.send(&topic.publish(events::JSON, &json!([other, events::grid_event("g")]))).expect(200);
    let delivery = sink.wait_at("/hook", 1, Duration::from_secs(15)).remove(0);
    assert_eq!(delivery.ids("id"), ["g"]);
    arm.call("DELETE", "topics/grid/eventSubscriptions/hook", None).expect(204);
    server.kill9();
    server.restart();
    let arm = Arm::new(&server);
    arm.call("GET", "topics/grid/eventSubscriptions/hook", None).expect(404);
    assert_eq!(sink.handshakes().len(), 1, "a restart does not ask for consent again");
}
