//! Fault scripts: what handlers meet, with their endpoints left alone.

use std::time::Duration;

use serde_json::json;

use crate::support::arm::Topic;
use crate::support::dev::{Dev, faults_path, without_jitter};
use crate::support::{Arm, Reply, Server, Sink, events, now};

const SOON: Duration = Duration::from_secs(15);

/// A topic with one subscription to `/hook`, whose id is told.
fn hooked(server: &Server, sink: &Sink) -> (Topic, String) {
    let arm = Arm::new(server);
    let topic = arm.topic("orders", &json!({}));
    let made = arm.webhook(&topic, "hook", &sink.url("/hook"), &json!({}));
    (topic, made["id"].as_str().expect("an id").to_owned())
}

fn publish(server: &Server, topic: &Topic, id: &str) {
    server.send(&topic.publish(events::JSON, &json!([events::grid_event(id)]))).expect(200);
}

fn arrived(sink: &Sink) -> Vec<String> {
    sink.at("/hook").iter().flat_map(|delivery| delivery.ids("id")).collect()
}

#[test]
fn failures_come_as_scripted_without_the_endpoint_being_asked() {
    let server = Server::launch(without_jitter());
    let sink = Sink::start();
    let (dev, (topic, id)) = (Dev(&server), hooked(&server, &sink));
    dev.set_faults(&id, &["500", "timeout", "reset", "429:90s", "204"]);
    publish(&server, &topic, "a");
    dev.advance("1h");
    let met: Vec<Option<u64>> = dev.attempts(&id).iter().map(|attempt| attempt.status).collect();
    assert_eq!(met, [Some(500), None, None, Some(429), Some(204)]);
    assert_eq!(dev.drained("hook")["delivered"], 1);
    assert!(arrived(&sink).is_empty());
    publish(&server, &topic, "b");
    dev.drain();
    assert_eq!(arrived(&sink), ["b"], "the script is over");
}

#[test]
fn an_event_is_delivered_twice_and_the_second_answer_counts() {
    let server = Server::launch(without_jitter());
    let sink = Sink::scripted(|_, before| Reply::Status(if before == 1 { 500 } else { 200 }));
    let (dev, (topic, id)) = (Dev(&server), hooked(&server, &sink));
    dev.set_faults(&id, &["duplicate"]);
    publish(&server, &topic, "a");
    let drained = dev.drained("hook");
    assert_eq!(arrived(&sink), ["a", "a"]);
    assert_eq!((&drained["delivered"], &drained["waiting"]), (&json!(0), &json!(1)), "{drained}");
}

#[test]
fn an_event_is_overtaken_by_the_next() {
    let server = Server::start();
    let sink = Sink::start();
    let (dev, (topic, id)) = (Dev(&server), hooked(&server, &sink));
    dev.set_faults(&id, &["reorder"]);
    publish(&server, &topic, "a");
    publish(&server, &topic, "b");
    dev.drain();
    assert_eq!(arrived(&sink), ["b", "a"]);
    // One that nobody overtakes goes out all the same.
    dev.set_faults(&id, &["reorder"]);
    publish(&server, &topic, "c");
    assert_eq!(sink.wait_at("/hook", 3, SOON).len(), 3);
}

#[test]
fn a_slow_delivery_is_late_in_real_time() {
    let server = Server::start();
    let sink = Sink::start();
    let (dev, (topic, id)) = (Dev(&server), hooked(&server, &sink));
    dev.set_faults(&id, &["slow:700ms"]);
    let begun = now();
    publish(&server, &topic, "a");
    let still = dev.call("POST", "drain", Some(&json!({ "timeout": "1ms" }))).expect(200).json();
    if begun.elapsed() < Duration::from_millis(700) {
        assert_eq!(still["drained"], false, "{still}");
    }
    dev.drain();
    let at = sink.at("/hook")[0].at;
    assert!(at.duration_since(begun) >= Duration::from_millis(700));
}

#[test]
fn a_script_can_be_read_and_cleared_and_does_not_outlive_its_subscription() {
    let server = Server::start();
    let sink = Sink::start();
    let (dev, (topic, id)) = (Dev(&server), hooked(&server, &sink));
    let path = faults_path(&id);
    dev.set_faults(&id, &["500*2", "slow:1500ms"]);
    let shown = dev.call("GET", &path, None).expect(200).json();
    assert_eq!(shown, json!({ "steps": ["500*2", "slow:1500ms"] }));
    assert_eq!(dev.call("DELETE", &path, None).expect(200).json(), json!({ "steps": [] }));
    let long: Vec<&str> = vec!["pass"; 101];
    dev.call("PUT", &path, Some(&json!({ "steps": long }))).expect(400);

    dev.set_faults(&id, &["reset*1000"]);
    let arm = Arm::new(&server);
    arm.call("DELETE", &format!("{}/eventSubscriptions/hook", topic.resource), None).expect(204);
    dev.call("GET", &path, None).expect(404);
    arm.webhook(&topic, "hook", &sink.url("/hook"), &json!({}));
    publish(&server, &topic, "a");
    dev.drain();
    assert_eq!(arrived(&sink), ["a"]);
}
