//! What an endpoint refuses or fails to take: dead letters, and the first step of the ladder.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::arm::{dead_letters, namespace_dead_letters};
use crate::support::time::pause;
use crate::support::{self, Arm, Reply, Server, Sink, events};
use crate::{SOON, letters};

/// The first step of the retry ladder, with its jitter and some slack for the machine.
const RETRY: Range<Duration> = Duration::from_millis(9_900)..Duration::from_secs(16);

/// Year, month, day and hour without padding, and a name that is a GUID.
fn check_blob_name(rest: &Path) {
    let parts: Vec<&str> = rest.iter().map(|part| part.to_str().expect("a plain name")).collect();
    let [year, month, day, hour, file] = parts.as_slice() else {
        panic!("{} is no blob name", rest.display())
    };
    let number = |text: &str| text.parse::<u32>().is_ok() && (text == "0" || !text.starts_with('0'));
    assert!([year, month, day, hour].into_iter().all(|text| number(text)), "{}", rest.display());
    let guid = file.strip_suffix(".json").expect("a blob is called .json");
    assert_eq!(guid.len(), 36, "{guid}");
    assert_eq!(guid.matches('-').count(), 4, "{guid}");
}

fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok())
}

#[test]
fn a_refused_event_is_not_tried_again_and_becomes_a_dead_letter() {
    let server = Server::start();
    let sink = Sink::scripted(|_, _| Reply::Status(400));
    let arm = Arm::new(&server);
    let container = |name: &str| server.data_dir().join("deadletter").join("letters1").join(name);
    let delivery = |schema: &str, name: &str| json!({ "eventDeliverySchema": schema, "deadLetterDestination": dead_letters("Letters1", name) });
    let grid = arm.topic("grid", &json!({}));
    arm.webhook(&grid, "as-grid", &sink.url("/grid"), &delivery("EventGridSchema", "grid"));
    arm.webhook(&grid, "as-cloud", &sink.url("/grid-cloud"), &delivery("CloudEventSchemaV1_0", "grid-cloud"));
    let cloud = arm.topic("cloud", &json!({ "inputSchema": "CloudEventSchemaV1_0" }));
    arm.webhook(&cloud, "as-cloud", &sink.url("/cloud"), &delivery("CloudEventSchemaV1_0", "cloud"));
    let inputs = json!({ "inputSchema": "CustomEventSchema", "inputSchemaMapping": events::mapping() });
    let custom = arm.topic("custom", &inputs);
    arm.webhook(&custom, "as-custom", &sink.url("/custom"), &delivery("CustomInputSchema", "custom"));
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    let more =
        json!({ "deadLetterDestinationWithResourceIdentity": namespace_dead_letters("letters1", "spaces") });
    arm.push(&namespace, "orders", "pushed", &sink.url("/spaces"), &more);
    arm.webhook(&grid, "no-letters", &sink.url("/dropped"), &json!({}));

    server.send(&grid.publish(events::JSON, &json!([events::grid_event("g-1")]))).expect(200);
    server.send(&cloud.publish(events::BATCH, &json!([events::cloud_event("c-1")]))).expect(200);
    server.send(&custom.publish(events::JSON, &json!([events::custom_event("x-1")]))).expect(200);
    server.send(&namespace.publish("orders", &json!([events::cloud_event("n-1")]))).expect(200);

    let letter = |name: &str, below: &[&str]| {
        let mut found = letters(&container(name), 1);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        let (path, letter) = found.remove(0);
        let mut folder = container(name);
        folder.extend(below);
        check_blob_name(
            path.strip_prefix(&folder).unwrap_or_else(|_| panic!("{} is not in it", path.display())),
        );
        assert_eq!(letter.as_array().map(Vec::len), Some(1), "{letter}");
        letter[0].clone()
    };
    let story = |letter: &Value, names: [&str; 5]| {
        assert_eq!(letter[names[0]], "UndeliverableDueToHttpBadRequest", "{letter}");
        assert_eq!(letter[names[1]], 1, "{letter}");
        assert_eq!(letter[names[2]], "BadRequest", "{letter}");
        assert!(is_time(&letter[names[3]]) && is_time(&letter[names[4]]), "{letter}");
    };
    let camel = [
        "deadLetterReason",
        "deliveryAttempts",
        "lastDeliveryOutcome",
        "publishTime",
        "lastDeliveryAttemptTime",
    ];
    let lower = [
        "deadletterreason",
        "deliveryattempts",
        "lastdeliveryoutcome",
        "publishtime",
        "lastdeliveryattempttime",
    ];
    let holds = |letter: &Value, event: &Value| {
        for (name, value) in event.as_object().expect("an event is an object") {
            assert_eq!(&letter[name], value, "{name} in {letter}");
        }
    };
    let found = letter("grid", &["AS-GRID"]);
    story(&found, camel);
    holds(&found, &events::grid_event("g-1"));
    assert_eq!((&found["topic"], &found["metadataVersion"]), (&json!(grid.id), &json!("1")));
    let found = letter("grid-cloud", &["AS-CLOUD"]);
    story(&found, lower);
    assert_eq!([&found["id"], &found["source"]], [&json!("g-1"), &json!(grid.id)]);
    let found = letter("cloud", &["AS-CLOUD"]);
    story(&found, lower);
    holds(&found, &events::cloud_event("c-1"));
    let found = letter("custom", &["AS-CUSTOM"]);
    story(&found, camel);
    assert_eq!(found["data"], events::custom_event("x-1"));
    assert_eq!([&found["id"], &found["eventType"]], [&json!("x-1"), &json!("Shop.OrderPlaced")]);
    let found = letter("spaces", &["spaces", "orders", "pushed"]);
    let properties = &found["deadLetterProperties"];
    assert_eq!(properties["deadletterreason"], "Undeliverable due to client error", "{found}");
    assert_eq!(properties["deliveryattempts"], 1, "{found}");
    assert_eq!(properties["deliveryresult"], "BadRequest", "{found}");
    assert!(is_time(&properties["publishutc"]) && is_time(&properties["deliveryattemptutc"]), "{found}");
    assert_eq!(found["event"], events::cloud_event("n-1"));

    sink.wait_at("/dropped", 1, SOON);
    pause(Duration::from_secs(12));
    assert_eq!(sink.deliveries().len(), 6, "none of them was tried again");
    let page = server.metrics();
    let total = |name: &str| -> f64 {
        let lines = support::metrics::family(&page, &[name]);
        lines.iter().filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    };
    assert!((total("gridwire_delivery_events_dead_lettered_total{") - 5.0).abs() < 0.5, "{page}");
    assert!((total("gridwire_delivery_events_dropped_total{") - 1.0).abs() < 0.5, "{page}");
    assert!(total("gridwire_delivery_pending_events{") < 0.5, "{page}");
}

#[test]
fn a_failed_delivery_is_repeated_after_the_first_step_of_the_ladder() {
    let server = Server::start();
    let sink = Sink::scripted(|_, before| Reply::Status(if before == 0 { 500 } else { 200 }));
    let silent =
        Sink::scripted(|_, before| if before == 0 { Reply::Status(302) } else { Reply::Status(204) });
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({}));
    arm.webhook(&topic, "hook", &sink.url("/basic"), &json!({}));
    arm.webhook(&topic, "redirecting", &silent.url("/redirecting"), &json!({}));
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    arm.push(&namespace, "orders", "pushed", &sink.url("/spaces"), &json!({}));
    let last = json!({ "retryPolicy": { "maxDeliveryAttempts": 1 }, "deadLetterDestination": dead_letters("letters1", "once") });
    arm.webhook(&topic, "once", &sink.url("/once"), &last);
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("g-1")]))).expect(200);
    server.send(&namespace.publish("orders", &json!([events::cloud_event("n-1")]))).expect(200);
    for (sink, path) in [(&sink, "/basic"), (&silent, "/redirecting"), (&sink, "/spaces")] {
        let tries = sink.wait_at(path, 2, RETRY.end + SOON);
        let wait = tries[1].at.duration_since(tries[0].at);
        assert!(RETRY.contains(&wait), "{path}: the second attempt came after {wait:?}");
        assert_eq!(tries[0].body, tries[1].body, "{path}");
        assert_eq!(tries[1].header("aeg-delivery-count"), Some("1"), "{path}");
    }
    let (_, letter) = letters(&server.data_dir().join("deadletter/letters1/once"), 1).remove(0);
    assert_eq!(letter[0]["deadLetterReason"], "MaxDeliveryAttemptsExceeded", "{letter}");
    assert_eq!(letter[0]["deliveryAttempts"], 1, "{letter}");
    // An accepted event does not come again.
    pause(Duration::from_secs(1));
    assert_eq!(sink.at("/basic").len() + sink.at("/spaces").len() + silent.deliveries().len(), 6);
    assert_eq!(sink.at("/once").len(), 1);
}
