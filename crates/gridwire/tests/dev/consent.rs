//! Endpoints that say neither yes nor no to being posted to, and endpoints that say how fast.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::arm::{GROUP, SUBSCRIPTION, Topic, webhook_body};
use crate::support::dev::{Dev, seconds, without_jitter};
use crate::support::sink::Consent;
use crate::support::{Arm, Reply, Request, Server, Sink, events, program};

const HOOK: &str = "topics/grid/eventSubscriptions/hook";
const SCHEMAS: [&str; 2] = ["EventGridSchema", "CloudEventSchemaV1_0"];

fn state(arm: &Arm<'_>) -> String {
    arm.get(HOOK)["properties"]["provisioningState"].as_str().expect("a state").to_owned()
}

/// A topic `grid` with a subscription `hook` in this delivery schema, and what its creation was answered.
fn subscribed(arm: &Arm<'_>, sink: &Sink, schema: &str) -> (Topic, Value) {
    let topic = arm.topic("grid", &json!({}));
    let body = webhook_body(&sink.url("/hook"), &json!({ "eventDeliverySchema": schema }));
    let created = arm.put(HOOK, &body);
    (topic, created)
}

fn publish(server: &Server, topic: &Topic, id: &str) {
    server.send(&topic.publish(events::JSON, &json!([events::grid_event(id)]))).expect(200);
}

/// Path and query of the validation URL that the endpoint was told last.
fn validation_path(sink: &Sink) -> String {
    let asked = sink.handshakes().pop().expect("a handshake");
    let body = asked.json();
    let url = match body[0]["data"]["validationUrl"].as_str() {
        Some(url) => url,
        None => asked.header("webhook-request-callback").expect("a validation URL"),
    };
    let (_, path) = url.split_once("/eventsubscriptions/").expect("the path of validation URLs");
    format!("/eventsubscriptions/{path}")
}

#[test]
fn nothing_is_delivered_until_the_validation_url_is_opened_and_then_all_of_it() {
    for schema in SCHEMAS {
        let mut server = Server::start();
        let sink = Sink::with(Consent::Withheld, |_, _| Reply::Status(200));
        let (topic, created) = subscribed(&Arm::new(&server), &sink, schema);
        assert_eq!(created["properties"]["provisioningState"], "AwaitingManualAction", "{created}");
        publish(&server, &topic, "before");
        let drained = Dev(&server).drained("hook");
        assert_eq!((&drained["available"], &drained["delivered"]), (&json!(1), &json!(0)), "{drained}");

        server.kill9();
        server.restart();
        let (arm, path) = (Arm::new(&server), validation_path(&sink));
        assert_eq!(state(&arm), "AwaitingManualAction");
        publish(&server, &topic, "after");
        Dev(&server).drain();
        assert_eq!(sink.deliveries().len(), 0, "{schema}");
        // Without any credentials, as a browser would.
        server.send(&Request::get(path.replace("token=", "token=x"))).expect(404);
        let opened = server.send(&Request::get(&path)).expect(200);
        assert!(opened.text().contains("validated"), "{}", opened.text());
        let came = sink.wait_at("/hook", 2, Duration::from_secs(10));
        let mut ids: Vec<String> = came.iter().flat_map(|delivery| delivery.ids("id")).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["after", "before"]);
        assert_eq!(state(&arm), "Succeeded");
        server.send(&Request::post(&path)).expect(200);
        let log = server.log();
        let token = path.split_once("token=").expect("a token").1;
        assert!(!log.contains(token) && log.contains("validateByHand"), "{log}");
    }
}

#[test]
fn a_consent_that_comes_too_late_can_be_asked_for_again_from_the_command_line() {
    let server = Server::launch(without_jitter());
    let sink = Sink::with(Consent::Withheld, |_, _| Reply::Status(200));
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let (topic, _) = subscribed(&arm, &sink, "EventGridSchema");
    publish(&server, &topic, "one");
    dev.advance("9m");
    assert_eq!(state(&arm), "AwaitingManualAction");
    dev.advance("1m");
    assert_eq!(state(&arm), "Failed");
    let late = validation_path(&sink);
    server.send(&Request::get(&late)).expect(404);

    let asked = program()
        .args(["subscription", "revalidate", "grid/hook", "--data-dir"])
        .arg(server.data_dir())
        .env("GRIDWIRE_SUBSCRIPTION_ID", SUBSCRIPTION)
        .env("GRIDWIRE_RESOURCE_GROUP", GROUP)
        .output()
        .expect("the program runs");
    let (said, failed) = (String::from_utf8_lossy(&asked.stdout), String::from_utf8_lossy(&asked.stderr));
    assert!(asked.status.success(), "{said}{failed}");
    assert!(said.contains("validation URL"), "{said}");
    assert_eq!(state(&arm), "AwaitingManualAction");
    server.send(&Request::get(&late)).expect(404);
    assert_eq!(sink.deliveries().len(), 0);
    server.send(&Request::get(validation_path(&sink))).expect(200);
    sink.wait_at("/hook", 1, Duration::from_secs(10));
}

#[test]
fn what_is_no_silence_is_still_refused() {
    let server = Server::start();
    let arm = Arm::new(&server);
    arm.topic("grid", &json!({}));
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    for consent in [Consent::Withheld, Consent::Refused(202)] {
        let sink = Sink::with(consent, |_, _| Reply::Status(200));
        let destination =
            json!({ "endpointType": "WebHook", "properties": { "endpointUrl": sink.url("/hook") } });
        let push = json!({ "deliveryMode": "Push", "push": { "destination": destination } });
        let body = json!({ "properties": { "deliveryConfiguration": push } });
        let refused = arm.call("PUT", "namespaces/spaces/topics/orders/eventSubscriptions/hook", Some(&body));
        assert_eq!(refused.expect(400).error().1, "endpoint_validation_failed", "{consent:?}");
        let asked = sink.handshakes().pop().expect("a handshake");
        assert_eq!(asked.header("webhook-request-callback"), None, "namespaces have no such way");
    }
    let sink = Sink::with(Consent::Refused(202), |_, _| Reply::Status(200));
    let body = webhook_body(&sink.url("/hook"), &json!({ "eventDeliverySchema": "EventGridSchema" }));
    arm.call("PUT", HOOK, Some(&body)).expect(400);
    arm.call("GET", HOOK, None).expect(404);
}

#[test]
fn an_endpoint_is_not_posted_to_faster_than_it_allows() {
    let server = Server::launch(without_jitter());
    let sink = Sink::with(Consent::Rated(6), |_, _| Reply::Status(200));
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let (topic, created) = subscribed(&arm, &sink, "CloudEventSchemaV1_0");
    for number in 0..5 {
        publish(&server, &topic, &number.to_string());
    }
    sink.wait_at("/hook", 1, Duration::from_secs(10));
    dev.advance("1m");
    dev.drain();
    let attempts = dev.attempts(created["id"].as_str().expect("an id"));
    assert_eq!(attempts.len(), 5);
    for pair in attempts.windows(2) {
        let space = seconds(pair[0].began, pair[1].began);
        assert!((9.9..=11.0).contains(&space), "{space} seconds");
    }

    let paused = Sink::with(Consent::Rated(0), |_, _| Reply::Status(200));
    let body = webhook_body(&paused.url("/hook"), &json!({ "eventDeliverySchema": "CloudEventSchemaV1_0" }));
    arm.put(HOOK, &body);
    assert_eq!(state(&arm), "Succeeded");
    publish(&server, &topic, "late");
    dev.advance("1h");
    assert_eq!(dev.drained("hook")["available"], 1);
    assert_eq!(paused.deliveries().len(), 0);
}
