//! An endpoint that fails again and again is left alone for a while, by a rule that everybody can read.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::arm::{GROUP, SUBSCRIPTION};
use crate::support::dev::{Dev, seconds, time, without_jitter};
use crate::support::endpoint::{endpoint, gauge};
use crate::support::{Arm, Request, Server, Sink, events, program};

const SOON: Duration = Duration::from_secs(15);

#[test]
fn after_ten_failures_new_events_wait_as_long_as_documented_and_a_neighbour_does_not() {
    let server = Server::launch(without_jitter());
    let sink = Sink::start();
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("orders", &json!({}));
    let sick = arm.webhook(&topic, "sick", &sink.url("/sick"), &json!({}));
    let sick = sick["id"].as_str().expect("an id");
    arm.webhook(&topic, "well", &sink.url("/well"), &json!({}));
    assert_eq!(endpoint(&server, sick)["rule"], "free");
    dev.set_faults(sick, &["reset*10"]);
    let batch: Vec<Value> = (0..10).map(|number| events::grid_event(&format!("e-{number}"))).collect();
    server.send(&topic.publish(events::JSON, &json!(batch))).expect(200);
    dev.drain();

    // The script is over, so whatever is sent now would arrive.
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("late")]))).expect(200);
    sink.wait_at("/well", 11, SOON);
    let waits = dev.drained("sick");
    assert_eq!(waits["waiting"], 11, "{waits}");
    assert!(sink.at("/sick").is_empty());
    let shown = endpoint(&server, sick);
    assert_eq!((&shown["rule"], &shown["lastOutcome"]), (&json!("probation"), &json!("SocketError")));
    assert_eq!(shown["failuresInARow"], 10, "{shown}");
    let left = seconds(dev.clock().0, time(&shown["until"]));
    assert!((25.0..=30.0).contains(&left), "{shown}");
    let events = waits["events"].as_array().expect("events");
    let late = events.iter().find(|event| event["eventId"] == "late").expect("it waits");
    assert_eq!((&late["why"], &late["until"]), (&json!("probation"), &shown["until"]), "{late}");
    assert_eq!(
        (gauge(&server, "sick", "probation"), gauge(&server, "well", "probation")),
        (Some(1.0), Some(0.0))
    );
    let told = program()
        .args(["subscription", "endpoint", "orders/sick", "--data-dir"])
        .arg(server.data_dir())
        .env("GRIDWIRE_SUBSCRIPTION_ID", SUBSCRIPTION)
        .env("GRIDWIRE_RESOURCE_GROUP", GROUP)
        .output();
    let told = told.expect("the program runs");
    let text = String::from_utf8_lossy(&told.stdout);
    assert!(text.starts_with("probation: "), "{text}{}", String::from_utf8_lossy(&told.stderr));

    // Retries are due after 10 s by the ladder, and wait for the end of probation as everything does.
    dev.jump("20s");
    dev.drain();
    assert!(sink.at("/sick").is_empty());
    dev.advance("10s");
    assert_eq!(dev.drained("sick")["delivered"], 11);
    assert_eq!(sink.at("/sick").len(), 11);
    let shown = endpoint(&server, sick);
    assert_eq!((&shown["rule"], &shown["failuresInARow"]), (&json!("free"), &json!(0)), "{shown}");
    assert_eq!(gauge(&server, "sick", "probation"), Some(0.0));
}

#[test]
fn timeouts_lower_the_number_of_requests_at_once_and_successes_raise_it() {
    let server = Server::launch(without_jitter());
    let sink = Sink::start();
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("orders", &json!({}));
    let made = arm.webhook(&topic, "hook", &sink.url("/hook"), &json!({}));
    let id = made["id"].as_str().expect("an id");
    assert_eq!(endpoint(&server, id)["requestsMax"], 64);
    dev.set_faults(id, &["timeout"]);
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("first")]))).expect(200);
    dev.drain();
    let shown = endpoint(&server, id);
    assert_eq!((&shown["rule"], &shown["requestsMax"]), (&json!("congestion"), &json!(32)), "{shown}");
    assert_eq!(gauge(&server, "hook", "requests_max"), Some(32.0));
    let batch: Vec<Value> = (0..100).map(|number| events::grid_event(&format!("e-{number}"))).collect();
    server.send(&topic.publish(events::JSON, &json!(batch))).expect(200);
    dev.drain();
    // Rounds of 32, 33 and 34 successes, and one more.
    assert_eq!(endpoint(&server, id)["requestsMax"], 35);
}

#[test]
fn a_subscription_that_is_received_from_has_no_endpoint() {
    let server = Server::start();
    let arm = Arm::new(&server);
    let space = arm.namespace("spaces");
    arm.namespace_topic(&space, "orders");
    arm.queue(&space, "orders", "pulled", &json!({}), &json!({}));
    let resource = "namespaces/spaces/topics/orders/eventSubscriptions/pulled";
    let id = arm.get(resource)["id"].as_str().expect("an id").trim_start_matches('/').to_owned();
    let path = format!("/gridwire/v1/subscriptions/{id}/endpoint");
    let asked = Request::get(&path).with("authorization", format!("Bearer {}", server.token));
    assert!(server.send(&asked).expect(404).text().contains("received"));
    server.send(&Request::get(&path)).expect(401);
}
