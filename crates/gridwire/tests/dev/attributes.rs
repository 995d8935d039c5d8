//! Delivery attributes on their way to the endpoint, and what a dead letter tells of them.

use serde_json::{Value, json};

use crate::support::arm::{dead_letters, merge, namespace_dead_letters};
use crate::support::dev::{Dev, without_jitter};
use crate::support::{Arm, Reply, Server, Sink, events};

const SECRET: &str = "Bearer hush";

/// A destination's properties with each kind of attribute, and more.
fn attributes(more: &Value) -> Value {
    let mut properties = json!({ "destination": { "properties": { "deliveryAttributeMappings": [
        { "name": "X-Static", "type": "Static", "properties": { "value": "plain" } },
        { "name": "Authorization", "type": "Static", "properties": { "value": SECRET, "isSecret": true } },
        { "name": "x-note", "type": "Dynamic", "properties": { "sourceField": "data.amount" } },
        { "name": "x-type", "type": "Dynamic", "properties": { "sourceField": "type" } },
        { "name": "x-none", "type": "Dynamic", "properties": { "sourceField": "data.nobody" } },
        { "name": "x-list", "type": "Dynamic", "properties": { "sourceField": "data.lines" } },
    ] } } });
    merge(&mut properties, more);
    properties
}

#[test]
fn attributes_go_with_each_attempt_and_no_letter_tells_a_secret() {
    let server = Server::launch(without_jitter());
    let sink = Sink::scripted(|_, before| Reply::Status(if before == 0 { 500 } else { 400 }));
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("grid", &json!({}));
    let more = json!({ "deadLetterDestination": dead_letters("letters1", "grid") });
    arm.webhook(&topic, "hook", &sink.url("/grid"), &attributes(&more));
    let space = arm.namespace("spaces");
    arm.namespace_topic(&space, "orders");
    let more =
        json!({ "deadLetterDestinationWithResourceIdentity": namespace_dead_letters("letters1", "spaces") });
    arm.push(&space, "orders", "pushed", &sink.url("/spaces"), &attributes(&more));
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("g")]))).expect(200);
    server.send(&space.publish("orders", &json!([events::cloud_event("n")]))).expect(200);
    dev.advance("10s");
    dev.drain();

    for path in ["/grid", "/spaces"] {
        let attempts = sink.at(path);
        assert_eq!(attempts.len(), 2, "{path}");
        for attempt in attempts {
            assert_eq!(attempt.header("x-static"), Some("plain"));
            assert_eq!(attempt.header("authorization"), Some(SECRET));
            assert_eq!(attempt.header("x-note"), Some("12.5"));
            assert_eq!(attempt.header("x-type"), Some("Shop.OrderPlaced"));
            assert_eq!((attempt.header("x-none"), attempt.header("x-list")), (None, None));
        }
    }
    let letter = |container: &str| {
        let found = super::letters::below(&server.data_dir().join("deadletter/letters1").join(container));
        assert_eq!(found.len(), 1, "{found:?}");
        std::fs::read_to_string(&found[0]).expect("a letter is text")
    };
    let (grid, spaces) = (letter("grid"), letter("spaces"));
    assert!(!grid.contains("hush") && !spaces.contains("hush"), "{grid}{spaces}");
    let spaces: Value = serde_json::from_str(&spaces).expect("a letter is JSON");
    assert_eq!(
        spaces[0]["customDeliveryProperties"],
        json!({ "X-Static": "plain", "x-note": "12.5", "x-type": "Shop.OrderPlaced" })
    );
}
