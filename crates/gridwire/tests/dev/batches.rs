//! Output batching: events that wait at the same time share a request, and its outcome.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::arm::dead_letters;
use crate::support::dev::{Dev, without_jitter};
use crate::support::{Arm, Delivery, Request, Server, Sink, events, metrics};

const SOON: Duration = Duration::from_secs(15);

/// The properties of a subscription that batches.
fn batching(events_max: u32, kilobytes: u32) -> Value {
    json!({ "destination": { "properties": {
        "maxEventsPerBatch": events_max, "preferredBatchSizeInKilobytes": kilobytes,
    } } })
}

fn many(event: fn(&str) -> Value, count: usize) -> Value {
    (0..count).map(|number| event(&format!("e-{number}"))).collect()
}

/// How many events each request carried, the most first: which of them comes first is not promised.
fn sizes(deliveries: &[Delivery], id: &str) -> Vec<usize> {
    let mut sizes: Vec<usize> = deliveries.iter().map(|delivery| delivery.ids(id).len()).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes
}

#[test]
fn each_schema_is_delivered_in_arrays_of_at_most_so_many_events() {
    let server = Server::start();
    let sink = Sink::start();
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let grid = arm.topic("grid", &json!({}));
    let cloud = arm.topic("cloud", &json!({ "inputSchema": "CloudEventSchemaV1_0" }));
    let custom = json!({ "inputSchema": "CustomEventSchema", "inputSchemaMapping": events::mapping() });
    let custom = arm.topic("custom", &custom);
    let space = arm.namespace("spaces");
    arm.namespace_topic(&space, "orders");
    for (topic, path) in [(&grid, "grid"), (&cloud, "cloud"), (&custom, "custom")] {
        arm.webhook(topic, path, &sink.url(&format!("/{path}")), &batching(3, 64));
    }
    let mut translated = batching(3, 64);
    translated["eventDeliverySchema"] = "CloudEventSchemaV1_0".into();
    arm.webhook(&grid, "translated", &sink.url("/translated"), &translated);
    arm.push(&space, "orders", "space", &sink.url("/space"), &batching(3, 64));
    // What SDKs send for everybody is no batching.
    arm.webhook(&cloud, "single", &sink.url("/single"), &batching(1, 64));

    let publishes: [Request; 4] = [
        grid.publish(events::JSON, &many(events::grid_event, 7)),
        cloud.publish(events::BATCH, &many(events::cloud_event, 7)),
        custom.publish(events::JSON, &many(events::custom_event, 7)),
        space.publish("orders", &many(events::cloud_event, 7)),
    ];
    for publish in &publishes {
        server.send(publish).expect(200);
    }
    dev.drain();
    for (path, id, content_type) in [
        ("/grid", "id", events::JSON),
        ("/cloud", "id", events::BATCH),
        ("/custom", "orderId", events::JSON),
        ("/translated", "id", events::BATCH),
        ("/space", "id", events::BATCH),
    ] {
        let deliveries = sink.at(path);
        assert_eq!(sizes(&deliveries, id), [3, 3, 1], "{path}");
        let mut ids: Vec<String> = deliveries.iter().flat_map(|delivery| delivery.ids(id)).collect();
        ids.sort();
        let expected: Vec<String> = (0..7).map(|number| format!("e-{number}")).collect();
        assert_eq!(ids, expected, "{path}");
        for delivery in &deliveries {
            assert!(delivery.json().is_array(), "{path}");
            assert_eq!(delivery.header("content-type"), Some(content_type), "{path}");
            assert_eq!(delivery.header("aeg-delivery-count"), Some("0"), "{path}");
            if id == "id" {
                let first = delivery.ids(id).remove(0);
                assert_eq!(delivery.header("aeg-output-event-id"), Some(&*first), "{path}");
            }
        }
    }
    let single = sink.at("/single");
    assert_eq!(single.len(), 7);
    assert!(single.iter().all(|delivery| delivery.json().is_object()));

    // An event that comes alone goes alone.
    server.send(&cloud.publish(events::ONE, &events::cloud_event("alone"))).expect(200);
    let alone = sink.wait_at("/cloud", 4, SOON).pop().expect("the last one");
    assert_eq!(alone.json()[0]["id"], "alone");
    assert_eq!(alone.header("content-type"), Some(events::BATCH));
}

#[test]
fn a_request_keeps_to_its_size_but_for_an_event_that_is_larger() {
    let server = Server::start();
    let sink = Sink::start();
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("orders", &json!({}));
    arm.webhook(&topic, "sized", &sink.url("/sized"), &batching(5_000, 2));
    let mut batch = many(events::grid_event, 20);
    batch[7]["data"]["note"] = "x".repeat(3_000).into();
    server.send(&topic.publish(events::JSON, &batch)).expect(200);
    dev.drain();
    let deliveries = sink.at("/sized");
    let all: usize = deliveries.iter().map(|delivery| delivery.ids("id").len()).sum();
    assert_eq!(all, 20);
    let (within, above): (Vec<_>, Vec<_>) =
        deliveries.iter().partition(|delivery| delivery.body.len() <= 2 << 10);
    assert_eq!(above.iter().flat_map(|delivery| delivery.ids("id")).collect::<Vec<_>>(), ["e-7"]);
    assert!(within.iter().any(|delivery| delivery.ids("id").len() > 2), "{:?}", sizes(&deliveries, "id"));
}

#[test]
fn a_batch_has_one_outcome_and_is_tried_again_as_a_batch() {
    let server = Server::launch(without_jitter());
    let sink = Sink::start();
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("orders", &json!({}));
    let mut more = batching(100, 64);
    more["deadLetterDestination"] = dead_letters("store", "letters");
    let made = arm.webhook(&topic, "hook", &sink.url("/hook"), &more);
    let id = made["id"].as_str().expect("an id");
    dev.set_faults(id, &["503", "pass", "pass", "400"]);
    server.send(&topic.publish(events::JSON, &many(events::grid_event, 5))).expect(200);
    assert_eq!(dev.drained("hook")["waiting"], 5);
    // What comes meanwhile was never tried, and has a request of its own.
    dev.advance("20s");
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("fresh")]))).expect(200);
    dev.drain();
    assert_eq!(sink.at("/hook").iter().map(|one| one.ids("id")).collect::<Vec<_>>(), [["fresh"]]);
    dev.advance("10s");
    let again = sink.wait_at("/hook", 2, SOON).remove(1);
    assert_eq!(again.ids("id").len(), 5);
    assert_eq!(again.header("aeg-delivery-count"), Some("1"));
    assert_eq!(dev.drained("hook")["delivered"], 6);

    // Every event of the batch is in `tail`, each with its own attempts.
    let attempts: Vec<(String, Option<u64>)> =
        dev.attempts(id).into_iter().map(|attempt| (attempt.event_id, attempt.status)).collect();
    assert_eq!(attempts.len(), 11, "{attempts:?}");
    assert!((0..5).all(|number| {
        let of = |status| attempts.contains(&(format!("e-{number}"), Some(status)));
        of(503) && of(200)
    }));

    // A status that is not tried again ends all of them.
    server.send(&topic.publish(events::JSON, &many(events::grid_event, 3))).expect(200);
    let drained = dev.drained("hook");
    assert_eq!((&drained["deadLettered"], &drained["delivered"]), (&json!(3), &json!(6)), "{drained}");
    let page = server.metrics();
    let labels = "{topic=\"orders\",subscription=\"hook\"}";
    let value = |name: &str| metrics::value(&page, &format!("gridwire_delivery_{name}"));
    assert_eq!(value(&format!("requests_total{labels}")), Some(4.0));
    assert_eq!(value(&format!("attempts_delivered_total{labels}")), Some(6.0));
    let failed = |outcome| {
        value(&format!(
            "attempts_failed_total{{topic=\"orders\",subscription=\"hook\",outcome=\"{outcome}\"}}"
        ))
    };
    assert_eq!((failed("Busy"), failed("BadRequest")), (Some(5.0), Some(3.0)));
    let letters = server.data_dir().join("deadletter");
    assert!(fs::exists(&letters).expect("the directory can be looked at"));
}

#[test]
fn events_with_attributes_of_their_own_have_requests_of_their_own() {
    let server = Server::start();
    let sink = Sink::start();
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("orders", &json!({}));
    let mut more = batching(100, 64);
    more["destination"]["properties"]["deliveryAttributeMappings"] = json!([
        { "name": "x-note", "type": "Dynamic", "properties": { "sourceField": "data.note" } },
        { "name": "x-same", "type": "Static", "properties": { "value": "s" } },
    ]);
    arm.webhook(&topic, "hook", &sink.url("/hook"), &more);
    let mut batch = many(events::grid_event, 6);
    for number in 0..6 {
        batch[number]["data"]["note"] = if number % 2 == 0 { "even" } else { "odd" }.into();
    }
    server.send(&topic.publish(events::JSON, &batch)).expect(200);
    dev.drain();
    let deliveries = sink.at("/hook");
    assert_eq!(deliveries.len(), 6);
    for delivery in deliveries {
        assert_eq!(delivery.header("x-same"), Some("s"));
        let body = delivery.json();
        let [event] = &body.as_array().expect("a batch")[..] else { panic!("{body}") };
        assert_eq!(delivery.header("x-note"), event["data"]["note"].as_str());
    }
}

/// A batch in flight at a kill is repeated as it was, uncounted.
#[test]
fn a_kill_under_a_batch_loses_none_of_it() {
    let mut server = Server::start();
    let sink = Sink::scripted(|_, before| {
        if before == 0 { crate::support::Reply::Hang } else { crate::support::Reply::Status(200) }
    });
    let topic = {
        let arm = Arm::new(&server);
        let topic = arm.topic("orders", &json!({}));
        arm.webhook(&topic, "hook", &sink.url("/hook"), &batching(5_000, 1_024));
        topic
    };
    server.send(&topic.publish(events::JSON, &many(events::grid_event, 500))).expect(200);
    let first = sink.wait_at("/hook", 1, SOON).remove(0);
    assert_eq!(first.ids("id").len(), 500);
    server.kill9();
    server.restart();
    let dev = Dev(&server);
    assert_eq!(dev.drained("hook")["delivered"], 500);
    let again = sink.at("/hook");
    let ids: Vec<String> = again[1..].iter().flat_map(|delivery| delivery.ids("id")).collect();
    assert_eq!(ids.len(), 500, "each once more");
    assert!(again.iter().all(|delivery| delivery.header("aeg-delivery-count") == Some("0")));
}
