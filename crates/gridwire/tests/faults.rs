//! The real process on a disk that fails (`reliability` section 2: fsync error, the n-th call fails; `storage`,
//! "When the disk misbehaves").
//!
//! strace makes one system call on one file fail. The process must then end with status 74, answer nobody with
//! success any more, and have everything that it answered for when it is started again.

#[path = "faults/clock.rs"]
mod clock;
#[path = "faults/disk_full.rs"]
mod disk_full;
mod support;

use std::path::Path;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use serde_json::json;

use support::arm::{Namespace, Topic};
use support::load::{Chance, Hold, Journal, LOCK, Load, some_of_each};
use support::outside::{Injection, skip};
use support::pull::Queue;
use support::server::show;
use support::time::{since_epoch, wait_for};
use support::{Arm, Client, Launch, Server, Sink, events, metrics};

/// What the process ends with when a log has failed.
const LOG_FAILED: i32 = 74;
/// A load of some hundred requests a second reaches every call chosen here within a second or two.
const STRIKES_WITHIN: Duration = Duration::from_secs(30);
/// From the failed call to the end of the process. It answers what is under way first.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// Between the failed call and the last request that may still succeed: one that was under way.
const UNDER_WAY: Duration = Duration::from_millis(100);
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
enum File {
    Events,
    Decisions,
}

impl File {
    fn path(self) -> &'static str {
        match self {
            Self::Events => "log/00000000000000000001.seg",
            Self::Decisions => "state/00000000000000000001.slg",
        }
    }
}

/// A load works until the call fails. Then the process is gone, and a new one on the same directory has it all.
fn check_under_load(call: &'static str, file: File, nth: u64) {
    if let Some(reason) = Injection::unavailable() {
        return skip(&reason);
    }
    let place = tempfile::tempdir().expect("a directory for data and trace");
    let (dir, trace) = (place.path().join("data"), place.path().join("trace"));
    let injection = Injection { call, error: "EIO", nth, file: dir.join(file.path()) };
    let kept_by_us = Launch { data_dir: Some((dir.clone(), dir)), ..Launch::default() };
    let mut server = Server::launch(Launch { before: injection.before(&trace), ..kept_by_us.clone() });
    let sink = Sink::start();
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({}));
    arm.webhook(&topic, "hook", &sink.url("/grid"), &json!({}));
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    arm.push(&namespace, "orders", "hook", &sink.url("/spaces"), &json!({}));
    for name in ["worked", "kept"] {
        let lock = json!({ "receiveLockDurationInSeconds": LOCK.as_secs() });
        arm.queue(&namespace, "orders", name, &lock, &json!({}));
    }
    let (journal, next, ending) = (Mutex::default(), AtomicU64::new(0), AtomicBool::new(true));
    let load = Load {
        address: server.http,
        namespace: &namespace,
        topic: &topic,
        journal: &journal,
        next: &next,
        ending: &ending,
    };
    let mut chance = Chance(nth | 1);
    let status = std::thread::scope(|scope| {
        let load = &load;
        for prefix in ["grid", "spaces"] {
            let mut chance = chance.split();
            scope.spawn(move || load.publish(prefix, &mut chance));
        }
        let mut chance = chance.split();
        scope.spawn(move || load.receive("worked", &mut chance));
        server.wait_end(STRIKES_WITHIN)
    });
    check_end(&server, &trace, status, &journal);

    server.launch = kept_by_us;
    server.restart();
    drain(&server, &namespace, &topic, &journal);
    let mut journal = journal.into_inner().expect("no panic while the journal is held");
    journal.judge_queue("worked");
    journal.judge_queue("kept");
    journal.judge_complete("kept");
    journal.judge_pushes(&sink);
    show(&format!("{call} {file:?} {nth}: {} events published", journal.published.len()));
    assert!(journal.problems.is_empty(), "{}", some_of_each(&journal.problems).join("\n"));
    assert!(!journal.published.is_empty(), "nothing was published before the fault");
}

/// Judges how the process ended: with its status, in time, after one line about the cause, and with no success
/// after the failed call.
fn check_end(server: &Server, trace: &Path, status: ExitStatus, journal: &Mutex<Journal>) {
    let struck = Injection::struck(trace).expect("the process ended by itself, so the call has failed");
    let struck = since_epoch().saturating_sub(Duration::from_secs_f64(struck));
    let log = server.log();
    assert_eq!(status.code(), Some(LOG_FAILED), "{status}: {log}");
    // Seen within one look of the test's loop, so this is an upper bound.
    assert!(struck < ENDS_WITHIN + UNDER_WAY, "the process ended {struck:?} after the failed call");
    let causes = log.lines().filter(|line| line.contains("Input/output error")).count();
    assert_eq!(causes, 1, "the cause is told once: {log}");
    assert!(!log.contains("panicked"), "{log}");
    let latest = journal.lock().expect("no panic while it is held").latest;
    if let Some(latest) = latest {
        let begun_before = latest.elapsed() + UNDER_WAY;
        assert!(
            struck < begun_before,
            "a request begun {:?} after the failed call succeeded",
            struck.saturating_sub(latest.elapsed())
        );
    }
    show(&format!("gone at most {struck:?} after the failed call"));
}

/// Receives all of the queue that nobody worked on, what is free of the other, and waits for the posts.
fn drain(server: &Server, namespace: &Namespace, topic: &Topic, journal: &Mutex<Journal>) {
    let (next, ending) = (AtomicU64::new(0), AtomicBool::new(false));
    let load = Load { address: server.http, namespace, topic, journal, next: &next, ending: &ending };
    let pending = |name: &str| {
        let page = server.metrics();
        let lines =
            metrics::family(&page, &["gridwire_delivery_pending_events{", "gridwire_delivery_lag_events{"]);
        lines.iter().any(|line| line.contains(&format!("subscription=\"{name}\"")) && !line.ends_with(" 0"))
    };
    let mut client = Client::new(server.http);
    let mut receive = |name: &'static str| {
        let queue = Queue::new(namespace, "orders", name);
        let received = queue.receive(&mut client, 100).expect("an answer while draining");
        let tokens: Vec<String> = received.iter().map(|one| one.token.clone()).collect();
        let holds =
            received.into_iter().map(|received| Hold { received, settling: None, acknowledged: None });
        load.journal().holds.entry(name).or_default().extend(holds);
        if !tokens.is_empty() {
            load.settle(name, &mut client, "acknowledge", &tokens).expect("an answer while draining");
        }
    };
    // What is locked stays locked over the restart: a look, not a drain. There is something to be had in any case.
    let last = "spaces-last".to_owned();
    server.send(&namespace.publish("orders", &json!([events::cloud_event(&last)]))).expect(200);
    load.journal().attempted.insert(last.clone());
    load.journal().published.insert(last);
    receive("worked");
    wait_for("the untouched queue to be empty", DRAIN_WITHIN, || {
        receive("kept");
        (!pending("kept")).then_some(())
    });
    wait_for("all posts to be made", DRAIN_WITHIN, || (!pending("hook")).then_some(()));
}

#[test]
fn a_failed_flush_of_the_event_log_ends_the_process_and_loses_nothing() {
    check_under_load("fdatasync", File::Events, 60);
}

#[test]
fn a_failed_flush_of_the_state_log_ends_the_process_and_loses_nothing() {
    check_under_load("fdatasync", File::Decisions, 12);
}

#[test]
fn a_failed_write_to_the_event_log_ends_the_process_and_loses_nothing() {
    check_under_load("pwrite64", File::Events, 60);
}

#[test]
fn a_failed_write_to_the_state_log_ends_the_process_and_loses_nothing() {
    check_under_load("pwrite64", File::Decisions, 80);
}

/// With one publisher that waits for each answer, which group failed is known: its own.
fn check_one_by_one(call: &'static str) {
    if let Some(reason) = Injection::unavailable() {
        return skip(&reason);
    }
    let place = tempfile::tempdir().expect("a directory for data and trace");
    let (dir, trace) = (place.path().join("data"), place.path().join("trace"));
    let injection = Injection { call, error: "EIO", nth: 12, file: dir.join(File::Events.path()) };
    let data_dir = Some((dir.clone(), dir));
    let mut server =
        Server::launch(Launch { before: injection.before(&trace), data_dir, ..Launch::default() });
    let arm = Arm::new(&server);
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    arm.queue(&namespace, "orders", "kept", &json!({}), &json!({}));
    let mut client = Client::new(server.http);
    for n in 1..100 {
        let batch = json!([events::cloud_event(&n.to_string())]);
        match client.send(&namespace.publish("orders", &batch)) {
            Ok(answer) if answer.status == 200 => {
                assert_eq!(Injection::struck(&trace), None, "publish {n} succeeded though its group failed");
            }
            Ok(answer) => {
                let (status, code) = (answer.status, answer.error().1);
                assert_eq!((status, code.as_str()), (503, "unavailable"), "{}", answer.text());
                break;
            }
            Err(_) => break, // The process was faster.
        }
    }
    assert_eq!(server.wait_end(STRIKES_WITHIN).code(), Some(LOG_FAILED));
    Injection::struck(&trace).expect("the call has failed");
}

#[test]
fn a_publish_is_refused_when_its_own_flush_fails() {
    check_one_by_one("fdatasync");
}

#[test]
fn a_publish_is_refused_when_its_own_write_fails() {
    check_one_by_one("pwrite64");
}
