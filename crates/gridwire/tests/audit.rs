//! The laws of conservation over `kill -9`: what a topic accepted is stored or matched nobody; what matched was
//! delivered, dead-lettered, expired or dropped, or is pending, and `gridwire audit` finds it so in the log.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use support::arm::group_path;
use support::pull::{Queue, Received};
use support::{Arm, Client, Reply, Request, Server, Sink, events, metrics, program, wait_for};

const BATCH: usize = 100;

/// Publishes `count` events in batches, each acknowledged.
fn publish(server: &Server, publish: impl Fn(&Value) -> Request, prefix: &str, count: usize) {
    let ids: Vec<Value> =
        (0..count).map(|number| events::cloud_event(&format!("{prefix}-{number}"))).collect();
    for batch in ids.chunks(BATCH) {
        server.send(&publish(&json!(batch))).expect(200);
    }
}

fn tokens(received: &[Received]) -> Vec<&str> {
    received.iter().map(|received| received.token.as_str()).collect()
}

fn settle(queue: &Queue, client: &mut Client, verb: &str, received: &[Received]) {
    let settled = queue.settle(client, verb, "", &tokens(received)).expect("an answer");
    assert_eq!((settled.succeeded.len(), settled.failed), (received.len(), Vec::new()), "{verb}");
}

/// The counters of the event subscription, once it has counted.
fn counters(server: &Server, resource: &str) -> Value {
    let path = format!("/gridwire/v1/subscriptions{}/{resource}/counters", group_path());
    let request = Request::get(path).with("authorization", format!("Bearer {}", server.token));
    wait_for("the count after a start", Duration::from_secs(20), || {
        let counters = server.send(&request).expect(200).json();
        (counters["complete"] == true).then_some(counters)
    })
}

/// Matched, delivered, dropped, pending and returned.
fn figures(counters: &Value) -> [u64; 5] {
    assert_eq!((&counters["deadLettered"], &counters["expired"]), (&json!(0), &json!(0)), "{counters}");
    ["matched", "delivered", "dropped", "pending", "returned"]
        .map(|name| counters[name].as_u64().unwrap_or_else(|| panic!("{name} of {counters}")))
}

fn audit(server: &Server, arguments: &[&str]) -> Output {
    let mut command = program();
    command.arg("audit").args(arguments).args(["--output", "json", "--data-dir"]).arg(server.data_dir());
    command.output().expect("the program runs")
}

/// Accepted, stored and unmatched, of the topic whose resource id ends so.
fn taken(server: &Server, resource: &str) -> [u64; 3] {
    let request =
        Request::get("/gridwire/v1/topics").with("authorization", format!("Bearer {}", server.token));
    let page = server.send(&request).expect(200).json();
    let id = format!("{}/{resource}", group_path());
    let topics = page["topics"].as_array().expect("an array");
    let topic = topics.iter().find(|topic| topic["topic"] == id.as_str()).expect("it is listed");
    ["accepted", "stored", "unmatched"].map(|name| topic[name].as_u64().expect("a number"))
}

#[test]
fn what_a_topic_took_is_stored_or_matched_nobody_exactly_over_kills() {
    let mut server = Server::start();
    let arm = Arm::new(&server);
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    arm.namespace_topic(&namespace, "idle");
    let filters = json!({ "includedEventTypes": ["never.seen"] });
    arm.queue(&namespace, "orders", "few", &json!({}), &filters);
    let to_namespace = |batch: &Value| namespace.publish("orders", batch);
    let orders = "namespaces/spaces/topics/orders";

    publish(&server, to_namespace, "a", 700);
    assert_eq!(taken(&server, orders), [700, 0, 700]);
    server.kill9();
    server.restart();
    assert_eq!(taken(&server, orders), [700, 0, 700], "after a kill");
    Arm::new(&server).queue(&namespace, "orders", "all", &json!({}), &json!({}));
    publish(&server, to_namespace, "b", 300);
    server.kill9();
    server.restart();
    assert_eq!(taken(&server, orders), [1_000, 300, 700], "after another");
    assert_eq!(taken(&server, "namespaces/spaces/topics/idle"), [0; 3]);
    let page = server.metrics();
    for (name, value) in [("", 1_000.0), ("stored_", 300.0), ("unmatched_", 700.0)] {
        let series = format!("gridwire_publish_events_{name}total{{topic=\"spaces/orders\"}}");
        assert_eq!(metrics::value(&page, &series), Some(value), "{series}");
    }
}

#[test]
fn counters_balance_exactly_over_kills_and_the_audit_finds_nothing() {
    let mut server = Server::start();
    let sink = Sink::scripted(|_, before| match before % 4 {
        0 => Reply::After(Duration::from_millis(20), 200),
        _ => Reply::Status(200),
    });
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({ "inputSchema": "CloudEventSchemaV1_0" }));
    arm.webhook(&topic, "hook", &sink.url("/grid"), &json!({}));
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    arm.queue(&namespace, "orders", "workers", &json!({ "receiveLockDurationInSeconds": 300 }), &json!({}));
    let (hook, workers) =
        ("topics/grid/eventSubscriptions/hook", "namespaces/spaces/topics/orders/eventSubscriptions/workers");
    let queue = Queue::new(&namespace, "orders", "workers");
    let to_topic = |batch: &Value| topic.publish("application/cloudevents-batch+json; charset=utf-8", batch);
    let to_namespace = |batch: &Value| namespace.publish("orders", batch);

    publish(&server, to_namespace, "a", 3_000);
    publish(&server, to_topic, "p", 400);
    let mut client = Client::new(server.http);
    let held = queue.receive(&mut client, 100).expect("an answer");
    assert_eq!(held.len(), 100);
    settle(&queue, &mut client, "acknowledge", &held[..60]);
    settle(&queue, &mut client, "release", &held[60..70]);
    settle(&queue, &mut client, "reject", &held[70..75]);
    assert_eq!(figures(&counters(&server, workers)), [3_000, 60, 5, 2_935, 10]);
    server.kill9();
    server.restart();
    assert_eq!(figures(&counters(&server, workers)), [3_000, 60, 5, 2_935, 10], "after a kill");

    // Locks from before the kill are settled after it; more is published meanwhile.
    let mut client = Client::new(server.http);
    settle(&queue, &mut client, "acknowledge", &held[75..]);
    publish(&server, to_namespace, "b", 500);
    publish(&server, to_topic, "q", 400);
    server.kill9();
    server.restart();
    let page = server.metrics();
    let series = |name: &str| {
        let series = format!("gridwire_delivery_{name}{{topic=\"spaces/orders\",subscription=\"workers\"}}");
        metrics::value(&page, &series)
    };
    assert_eq!((series("events_delivered_total"), series("events_dropped_total")), (Some(85.0), Some(5.0)));
    assert_eq!(figures(&counters(&server, workers)), [3_500, 85, 5, 3_410, 10], "after another");

    // Everything that was pushed is counted once, however often it was sent.
    let pushed = wait_for("the pushes", Duration::from_secs(60), || {
        let counters = counters(&server, hook);
        (counters["pending"] == 0).then_some(counters)
    });
    assert_eq!(figures(&pushed)[..4], [800, 800, 0, 0]);

    let found = audit(&server, &[]);
    let report: Value = serde_json::from_slice(&found.stdout).expect("it is JSON");
    assert!(found.status.success(), "{report}");
    let audits = report.as_array().expect("an array");
    assert_eq!(audits.len(), 2, "{report}");
    for audit in audits {
        assert_eq!((&audit["balanced"], &audit["findings"]), (&json!(true), &json!([])), "{audit}");
    }
    let compared: Vec<_> = audits.iter().map(|audit| audit["matched"].as_u64()).collect();
    assert!(compared.contains(&Some(3_500)) && compared.contains(&Some(800)), "{report}");
    let one = audit(&server, &[&format!("{}/{workers}", group_path())]);
    let report: Value = serde_json::from_slice(&one.stdout).expect("it is JSON");
    assert_eq!((report.as_array().map(Vec::len), one.status.code()), (Some(1), Some(0)), "{report}");
    let none = audit(&server, &[&format!("{}/{workers}-too", group_path())]);
    assert_eq!(none.status.code(), Some(1));
}

/// Tells a thread to end, also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn there_is_one_audit_at_a_time_and_the_command_waits_for_its_turn() {
    let server = Server::start();
    let arm = Arm::new(&server);
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    arm.queue(&namespace, "orders", "workers", &json!({}), &json!({}));
    publish(&server, |batch| namespace.publish("orders", batch), "a", 10_000);
    let workers = "namespaces/spaces/topics/orders/eventSubscriptions/workers";
    let path = format!("/gridwire/v1/subscriptions{}/{workers}/audit", group_path());
    let request = Request::post(path).with("authorization", format!("Bearer {}", server.token));
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = End(&ended);
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let status = server.send(&request).status;
                assert!([200, 503].contains(&status), "{status}");
            }
        });
        let refusal = wait_for("a refusal", Duration::from_secs(60), || {
            let answer = server.send(&request);
            (answer.status == 503).then_some(answer)
        });
        assert_eq!(refusal.error(), ("ServiceUnavailable".to_owned(), "overloaded".to_owned()));
        let wait: u64 = refusal.header("retry-after").expect("when to come again").parse().expect("seconds");
        assert!((1..10).contains(&wait), "{wait}");
        // The command comes while others audit without a pause, and says so; when they end it has its turn.
        wait_for("a command that waits", Duration::from_secs(60), || {
            let mut command = program();
            command.arg("audit").args(["--output", "json", "--data-dir"]).arg(server.data_dir());
            let mut command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
            let mut said = String::new();
            let stderr = command.stderr.take().expect("a pipe");
            BufReader::new(stderr).read_line(&mut said).expect("text");
            let waits = said == "Another audit is under way. Waiting for its end.\n";
            ended.store(waits, Ordering::Relaxed);
            let output = command.wait_with_output().expect("it ends");
            let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
            assert!(output.status.success() && report[0]["matched"] == 10_000, "{said} {report}");
            waits.then_some(())
        });
    });
}
