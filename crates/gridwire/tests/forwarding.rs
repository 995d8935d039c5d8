//! Forwarding, end to end: from custom topics and domains into a namespace topic, and on from there.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use support::arm::{GROUP, Namespace, SUBSCRIPTION, Topic, dead_letters, group_path, merge};
use support::client::send_once;
use support::dev::{Dev, without_jitter};
use support::pull::{Queue, Received};
use support::time::pause;
use support::{Arm, Client, Reply, Request, Server, Sink, events, metrics};

const SOON: Duration = Duration::from_secs(30);
/// Rounds of publishing that end with a kill, and batches of each publisher in a round.
const KILLS: usize = 6;

/// A namespace with the topic `jobs`, and the topic's id.
fn target(arm: &Arm<'_>) -> (Namespace, String) {
    let namespace = arm.namespace("shop");
    arm.namespace_topic(&namespace, "jobs");
    (namespace, format!("{}/namespaces/shop/topics/jobs", group_path()))
}

/// Makes a subscription of `topic` that forwards to `id`; the answer is its own id.
#[track_caller]
fn forward(arm: &Arm<'_>, topic: &str, name: &str, id: &str, more: &Value) -> String {
    let destination = json!({ "endpointType": "NamespaceTopic", "properties": { "resourceId": id } });
    let mut properties = json!({ "destination": destination });
    merge(&mut properties, more);
    let made = arm.put(&format!("{topic}/eventSubscriptions/{name}"), &json!({ "properties": properties }));
    assert_eq!(made["properties"]["eventDeliverySchema"], "CloudEventSchemaV1_0");
    made["id"].as_str().expect("an id").to_owned()
}

fn publish(server: &Server, topic: &Topic, content_type: &str, events: &Value) {
    server.send(&topic.publish(content_type, events)).expect(200);
}

fn receive(server: &Server, namespace: &Namespace, name: &str) -> Vec<Received> {
    let mut client = Client::new(server.http);
    let mut all = Queue::new(namespace, "jobs", name).receive(&mut client, 100).expect("an answer");
    all.sort_by(|left, right| left.id.cmp(&right.id));
    all
}

fn ids(received: &[Received]) -> Vec<&str> {
    received.iter().map(|one| one.id.as_str()).collect()
}

/// The one letter in a container, once nothing moves any more.
fn letter(server: &Server, container: &str) -> Value {
    let (mut found, mut dirs) =
        (Vec::new(), vec![server.data_dir().join("deadletter/store").join(container)]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path: PathBuf = entry.path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");
    let letters: Value = serde_json::from_slice(&fs::read(&found[0]).expect("readable")).expect("JSON");
    letters[0].clone()
}

#[test]
fn events_arrive_as_cloud_events_with_their_identity_and_go_on_by_the_topics_own_rules() {
    let server = Server::launch(without_jitter());
    let (arm, dev, sink) = (Arm::new(&server), Dev(&server), Sink::start());
    let (namespace, id) = target(&arm);
    arm.queue(&namespace, "jobs", "all", &json!({}), &json!({}));
    let only_paid = json!({ "includedEventTypes": ["Shop.OrderPaid"] });
    arm.queue(&namespace, "jobs", "paid", &json!({}), &only_paid);
    arm.push(&namespace, "jobs", "hook", &sink.url("/hook"), &json!({}));
    let grid = arm.topic("grid", &json!({}));
    let cloud = arm.topic("cloud", &json!({ "inputSchema": "CloudEventSchemaV1_0" }));
    let filter = json!({ "filter": { "subjectBeginsWith": "orders/" } });
    let grid_onward = forward(&arm, &grid.resource, "onward", &id, &filter);
    let cloud_onward = forward(&arm, &cloud.resource, "onward", &id, &filter);

    let mut paid = events::grid_event("g-paid");
    paid["eventType"] = "Shop.OrderPaid".into();
    let mut elsewhere = events::grid_event("g-elsewhere");
    elsewhere["subject"] = "returns/1".into();
    publish(&server, &grid, events::JSON, &json!([events::grid_event("g-1"), paid, elsewhere]));
    let mut traced = events::cloud_event("c-1");
    traced["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
    publish(&server, &cloud, events::ONE, &traced);

    // Everything that was published before has gone all the way.
    dev.drain();
    let pushed: BTreeSet<String> = sink.at("/hook").iter().flat_map(|one| one.ids("id")).collect();
    assert_eq!(pushed.iter().map(String::as_str).collect::<Vec<_>>(), ["c-1", "g-1", "g-paid"]);
    let all = receive(&server, &namespace, "all");
    assert_eq!(ids(&all), ["c-1", "g-1", "g-paid"]);
    assert_eq!(all[0].event, traced, "not a member is changed");
    let expected = json!({
        "specversion": "1.0",
        "id": "g-1",
        "source": grid.id,
        "type": "Shop.OrderPlaced",
        "subject": "orders/42",
        "time": "2026-03-01T12:00:00.5Z",
        "dataschema": "#2.1",
        "data": { "amount": 12.50, "lines": [1, 2], "note": "Gr\u{fc}\u{df}e" },
    });
    assert_eq!(all[1].event, expected);
    assert_eq!(ids(&receive(&server, &namespace, "paid")), ["g-paid"]);

    for (id, attempts) in [(&grid_onward, 2), (&cloud_onward, 1)] {
        let met: Vec<Option<u64>> = dev.attempts(id).iter().map(|attempt| attempt.status).collect();
        assert_eq!(met, vec![Some(200); attempts], "each attempt can be seen");
    }
    let page = server.metrics();
    let value = |series: &str| metrics::value(&page, series);
    let of_grid = "{topic=\"grid\",subscription=\"onward\"}";
    assert_eq!(value(&format!("gridwire_delivery_attempts_delivered_total{of_grid}")), Some(2.0), "{page}");
    assert_eq!(value("gridwire_publish_events_total{topic=\"shop/jobs\"}"), Some(3.0), "{page}");
    let path = utf8_percent_encode(&grid_onward, NON_ALPHANUMERIC);
    let asked = Request::get(format!("/gridwire/v1/subscriptions/{path}/endpoint"))
        .with("authorization", format!("Bearer {}", server.token));
    assert_eq!(server.send(&asked).expect(200).json()["rule"], "free");
}

#[test]
fn domains_forward_all_of_their_topics_and_a_domain_topic_its_own() {
    let server = Server::launch(without_jitter());
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let (namespace, id) = target(&arm);
    arm.queue(&namespace, "jobs", "all", &json!({}), &json!({}));
    let resource = "domains/malls".to_owned();
    let made = arm.put(&resource, &json!({ "location": "local", "properties": {} }));
    let malls = Topic {
        key: arm.key(&resource),
        id: made["id"].as_str().expect("an id").to_owned(),
        path: format!("/{SUBSCRIPTION}/{GROUP}/{resource}/api/events?api-version=2018-01-01"),
        resource,
    };
    let only_small = json!({ "filter": { "includedEventTypes": ["Small"] } });
    forward(&arm, &malls.resource, "small", &id, &only_small);
    forward(&arm, &format!("{}/topics/north", malls.resource), "own", &id, &json!({}));
    let event = |id: &str, topic: &str, event_type: &str| {
        let mut event = events::grid_event(id);
        (event["topic"], event["eventType"]) = (topic.into(), event_type.into());
        event
    };
    let all = json!([event("n", "north", "Big"), event("s", "south", "Small"), event("b", "south", "Big")]);
    publish(&server, &malls, events::JSON, &all);
    dev.drain();
    let received = receive(&server, &namespace, "all");
    let sources: Vec<(&str, &str)> = received
        .iter()
        .map(|one| (one.id.as_str(), one.event["source"].as_str().expect("a source")))
        .collect();
    let of = |topic: &str| format!("{}/topics/{topic}", malls.id);
    assert_eq!(sources, [("n", of("north").as_str()), ("s", of("south").as_str())]);
}

#[test]
fn a_target_that_is_gone_is_tried_again_by_the_ladder_and_then_given_up() {
    let server = Server::launch(without_jitter());
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let (namespace, id) = target(&arm);
    let grid = arm.topic("grid", &json!({}));
    let patient = forward(&arm, &grid.resource, "patient", &id, &json!({}));
    let hasty = json!({
        "retryPolicy": { "maxDeliveryAttempts": 2 },
        "deadLetterDestination": dead_letters("store", "hasty"),
    });
    forward(&arm, &grid.resource, "hasty", &id, &hasty);
    arm.call("DELETE", "namespaces/shop/topics/jobs", None).expect(204);
    publish(&server, &grid, events::JSON, &json!([events::grid_event("g-1")]));
    let waits = dev.drained("patient");
    assert_eq!((&waits["delivered"], &waits["waiting"]), (&json!(0), &json!(1)), "{waits}");
    // A topic that is missing is missing for a while: no second try before five minutes.
    dev.advance("4m");
    assert_eq!(dev.attempts(&patient).len(), 1);
    dev.advance("2m");
    let met: Vec<Option<u64>> = dev.attempts(&patient).iter().map(|attempt| attempt.status).collect();
    assert_eq!(met, [Some(404), Some(404)]);
    let given_up = letter(&server, "hasty");
    assert_eq!(given_up["lastdeliveryoutcome"], "NotFound", "{given_up}");
    assert_eq!(given_up["deadletterreason"], "MaxDeliveryAttemptsExceeded");
    assert_eq!((&given_up["id"], &given_up["source"]), (&json!("g-1"), &json!(grid.id)));

    // One of the same name is the same target.
    arm.namespace_topic(&namespace, "jobs");
    arm.queue(&namespace, "jobs", "all", &json!({}), &json!({}));
    dev.advance("10m");
    assert_eq!(ids(&receive(&server, &namespace, "all")), ["g-1"]);
}

#[test]
fn an_event_that_becomes_too_large_is_given_up_at_once() {
    const MAX: usize = 1 << 20;
    let server = Server::launch(without_jitter());
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let (_, id) = target(&arm);
    let grid = arm.topic("grid", &json!({}));
    let letters = json!({ "deadLetterDestination": dead_letters("store", "large") });
    let onward = forward(&arm, &grid.resource, "onward", &id, &letters);
    let mut event = events::grid_event("g-1");
    event["data"] = "".into();
    let rest = json!([event]).to_string().len();
    event["data"] = "x".repeat(MAX - rest).into();
    publish(&server, &grid, events::JSON, &json!([event]));
    dev.drain();
    assert_eq!(dev.attempts(&onward).len(), 1);
    assert_eq!(letter(&server, "large")["lastdeliveryoutcome"], "PayloadTooLarge");
}

#[test]
fn killing_the_server_while_it_forwards_loses_nothing() {
    let mut server = Server::start();
    let sink = Sink::scripted(|_, _| Reply::Status(200));
    let arm = Arm::new(&server);
    let (namespace, id) = target(&arm);
    arm.push(&namespace, "jobs", "hook", &sink.url("/hook"), &json!({}));
    let grid = arm.topic("grid", &json!({}));
    forward(&arm, &grid.resource, "onward", &id, &json!({}));
    let mut published = BTreeSet::new();
    for round in 0..KILLS {
        let address = server.http;
        let publishers: Vec<_> = (0..3)
            .map(|publisher| {
                let grid = grid.clone();
                std::thread::spawn(move || {
                    let mut accepted = Vec::new();
                    for batch in 0.. {
                        let ids: Vec<String> =
                            (0..20).map(|n| format!("{round}-{publisher}-{batch}-{n}")).collect();
                        let all: Value = ids.iter().map(|id| events::grid_event(id)).collect();
                        match send_once(address, &grid.publish(events::JSON, &all)) {
                            Ok(answer) if answer.status == 200 => accepted.extend(ids),
                            _ => break, // It is dead.
                        }
                    }
                    accepted
                })
            })
            .collect();
        // The moment is chance; what is asked for holds at each.
        pause(Duration::from_millis(60 + 50 * u64::try_from(round).expect("few")));
        server.kill9();
        for publisher in publishers {
            published.extend(publisher.join().expect("it does not panic"));
        }
        server.restart();
    }
    assert!(published.len() > 100, "only {} events were under way", published.len());
    let (mut missing, mut seen) = (published, 0);
    sink.wait("all that was accepted", SOON, |all| {
        for id in all[seen..].iter().flat_map(|one| one.ids("id")) {
            missing.remove(&id);
        }
        seen = all.len();
        missing.is_empty().then_some(())
    });
}
