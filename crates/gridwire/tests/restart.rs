//! Killing the process at any moment loses nothing it answered for (`reliability` promises 1 to 5).
//!
//! Twenty-five times, or `GRIDWIRE_KILLS`, the server is ended in the middle of publishing, receiving, settling and pushing, and started
//! again on the same data directory. Everything that was asked and answered is written into a journal, which
//! is judged at the end. What a lost answer leaves unknown is judged as either.

mod support;

use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use support::arm::{Namespace, Topic};
use support::load::{Chance, Hold, Journal, Load, some_of_each};
use support::pull::Queue;
use support::server::show;
use support::time::pause;
use support::{Arm, Client, Reply, Server, Sink, events, metrics, now};

/// Unless `GRIDWIRE_KILLS` says otherwise.
const ROUNDS: u32 = 25;
/// Every so many rounds the server is asked to stop instead.
const POLITE_EVERY: u32 = 5;
const READY_WITHIN: Duration = Duration::from_secs(2);
/// Locks of lost answers must run out before their events come again.
const DRAIN_WITHIN: Duration = Duration::from_secs(90);
/// Far fewer than a machine at rest carries over: without any, nothing is said of locks and kills.
const CARRIED_ROUNDS_MIN: u32 = 5;
const CARRIED_MIN: usize = 20;
const QUEUES: [&str; 2] = ["first", "second"];

#[test]
fn killing_the_server_again_and_again_loses_nothing_and_gives_nothing_twice() {
    let seed = match std::env::var("SCENARIO_SEED") {
        Ok(seed) => seed.parse().expect("SCENARIO_SEED is a number"),
        Err(_) => RandomState::new().hash_one("restart") | 1,
    };
    show(&format!("SCENARIO_SEED={seed}"));
    let rounds =
        std::env::var("GRIDWIRE_KILLS").map_or(ROUNDS, |text| text.parse().expect("a number of kills"));
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
    // Rounds in which a lock from before a kill was settled, and how many locks that were.
    let (mut carried_rounds, mut carried) = (0, 0);
    let mut killed = false;
    for round in 0..rounds {
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
            let acknowledging = scope.spawn(move || load.acknowledge_kept(&kept, &mut own));
            pause(Duration::from_millis(150 + chance.below(1_000)));
            ending.store(true, Ordering::SeqCst);
            if round % POLITE_EVERY == POLITE_EVERY - 1 {
                let (status, took) = server.terminate();
                assert!(status.success(), "the server ended with {status} after SIGTERM");
                stops.push(took);
            } else {
                server.kill9();
            }
            let settled = acknowledging.join().expect("it does not panic");
            if killed && settled > 0 {
                carried_rounds += 1;
                carried += settled;
            }
        });
        killed = round % POLITE_EVERY != POLITE_EVERY - 1;
        server.restart();
        ready.push(server.ready_after);
    }
    drain(&server, &namespace, &topic, &journal);
    let mut journal = journal.into_inner().expect("no panic while the journal is held");
    for name in QUEUES {
        journal.judge_queue(name);
        journal.judge_complete(name);
    }
    journal.judge_pushes(&sink);
    let slowest = ready.iter().max().expect("there were rounds");
    show(&format!(
        "{} events published of {} attempted, {} posts; {carried} locks settled after a kill, in {carried_rounds} rounds; ready after {slowest:?} at most ({ready:?}), stopped after {stops:?}",
        journal.published.len(),
        journal.attempted.len(),
        sink.deliveries().len()
    ));
    let count = journal.problems.len();
    let shown = some_of_each(&journal.problems);
    assert!(count == 0, "{count} problems with seed {seed}:\n{}", shown.join("\n"));
    assert!(journal.published.len() > 500, "too little was going on: {} events", journal.published.len());
    assert!(
        carried_rounds >= CARRIED_ROUNDS_MIN && carried >= CARRIED_MIN,
        "{carried} locks outlived a kill and were acknowledged after it, in {carried_rounds} rounds: too few to tell"
    );
    assert!(*slowest < READY_WITHIN, "a restart took {slowest:?}");
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
