//! Domains, end to end: one endpoint, many topics, and each event only where it belongs.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use support::arm::{GROUP, SUBSCRIPTION, Topic, dead_letters};
use support::time::pause;
use support::{Arm, Reply, Request, Server, Sink, events, metrics, program, wait_for};

const SOON: Duration = Duration::from_secs(15);

/// Makes the domain `malls`.
fn domain(arm: &Arm<'_>, properties: &Value) -> Topic {
    let resource = "domains/malls".to_owned();
    let made = arm.put(&resource, &json!({ "location": "local", "properties": properties }));
    Topic {
        key: arm.key(&resource),
        id: made["id"].as_str().expect("an id").to_owned(),
        path: format!("/{SUBSCRIPTION}/{GROUP}/{resource}/api/events?api-version=2018-01-01"),
        resource,
    }
}

/// The same as a topic to subscribe to.
fn topic_of(domain: &Topic, name: &str) -> Topic {
    Topic { resource: format!("{}/topics/{name}", domain.resource), ..domain.clone() }
}

fn grid_event(id: &str, topic: &str) -> Value {
    let mut event = events::grid_event(id);
    event["topic"] = topic.into();
    event
}

fn cloud_event(id: &str, source: &str) -> Value {
    let mut event = events::cloud_event(id);
    event["source"] = source.into();
    event
}

/// The ids that arrived at a path, once there are `count`, in order.
fn ids(sink: &Sink, path: &str, count: usize) -> Vec<String> {
    let deliveries = sink.wait_at(path, count, SOON);
    let id = |delivery: &support::Delivery| match delivery.json() {
        Value::Array(events) => events[0]["id"].clone(),
        event => event["id"].clone(),
    };
    let mut ids: Vec<String> =
        deliveries.iter().map(|one| id(one).as_str().expect("an id").to_owned()).collect();
    ids.sort();
    ids
}

#[test]
fn events_go_to_their_topics_subscribers_and_to_those_of_all() {
    let mut server = Server::start();
    let sink = Sink::start();
    let arm = Arm::new(&server);
    let malls = domain(&arm, &json!({}));
    arm.webhook(&malls, "all", &sink.url("/all"), &json!({}));
    arm.webhook(&topic_of(&malls, "North"), "own", &sink.url("/north"), &json!({}));
    arm.webhook(
        &topic_of(&malls, "south"),
        "own",
        &sink.url("/south"),
        &json!({ "eventDeliverySchema": "CloudEventSchemaV1_0" }),
    );
    let filter = json!({ "key": "topic", "operatorType": "StringEndsWith", "values": ["/topics/east"] });
    arm.webhook(&malls, "east", &sink.url("/east"), &json!({ "filter": { "advancedFilters": [filter] } }));

    let full = format!("{}/topics/south", malls.id);
    let batch = [grid_event("n", "north"), grid_event("s", &full), grid_event("e", "east")];
    server.send(&malls.publish(events::JSON, &json!(batch))).expect(200);
    assert_eq!(ids(&sink, "/north", 1), ["n"]);
    assert_eq!(ids(&sink, "/south", 1), ["s"]);
    assert_eq!(ids(&sink, "/east", 1), ["e"]);
    assert_eq!(ids(&sink, "/all", 3), ["e", "n", "s"]);

    // Each is told which topic it is of, in full, also where nobody made that topic.
    let topics: Vec<String> = sink
        .at("/all")
        .iter()
        .map(|delivery| delivery.json()[0]["topic"].as_str().expect("a topic").to_owned())
        .collect();
    for name in ["north", "south", "east"] {
        assert!(topics.contains(&format!("{}/topics/{name}", malls.id)), "{name} in {topics:?}");
    }
    let delivery = &sink.at("/north")[0];
    let name = delivery.header("aeg-subscription-name").expect("the subscription is named");
    assert!(name.eq_ignore_ascii_case("own"), "{name}");
    let mut expected = grid_event("n", &format!("{}/topics/north", malls.id));
    expected["metadataVersion"] = "1".into();
    assert_eq!(delivery.json(), json!([expected]));
    assert_eq!(sink.at("/south")[0].json()["source"], full);
    let asked = sink.handshakes();
    let topic = format!("{}/topics/North", malls.id);
    assert!(asked.iter().any(|asked| asked.json()[0]["topic"] == topic), "the endpoint is told what for");

    let page = server.metrics();
    for (series, value) in [
        ("gridwire_publish_events_total{topic=\"malls\"}", 3.0),
        ("gridwire_delivery_events_delivered_total{topic=\"malls\",subscription=\"all\"}", 3.0),
        // Two subscriptions of one name: a domain topic is no label.
        ("gridwire_delivery_events_delivered_total{topic=\"malls\",subscription=\"own\"}", 2.0),
    ] {
        let found = wait_for(series, SOON, || metrics::value(&server.metrics(), series));
        assert!((found - value).abs() < 0.5, "{series} is {found}\n{page}");
    }

    server.kill9();
    server.restart();
    server.send(&malls.publish(events::JSON, &json!([grid_event("n2", "NORTH")]))).expect(200);
    assert_eq!(ids(&sink, "/north", 2), ["n", "n2"]);
    assert_eq!(ids(&sink, "/all", 4), ["e", "n", "n2", "s"]);
}

#[test]
fn a_publish_reaches_all_its_topics_or_none() {
    let server = Server::start();
    let sink = Sink::start();
    let arm = Arm::new(&server);
    let malls = domain(&arm, &json!({}));
    for name in ["north", "south"] {
        arm.webhook(&topic_of(&malls, name), "own", &sink.url(&format!("/{name}")), &json!({}));
    }
    for wrong in [
        grid_event("bad", "https://malls.example/north"),
        grid_event("bad", ""),
        grid_event(
            "bad",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.EventGrid/domains/d/topics/t",
        ),
        events::grid_event("bad"),
    ] {
        let batch = json!([grid_event("n", "north"), wrong, grid_event("s", "south")]);
        let refused = server.send(&malls.publish(events::JSON, &batch)).expect(400);
        let body = refused.json();
        assert_eq!(body["error"]["code"], "BadRequest", "{body}");
        assert_eq!(body["error"]["details"][0]["code"], "InputJsonInvalid", "{body}");
        let message = body["error"]["message"].as_str().expect("a message");
        assert!(message.starts_with("Required property 'topic' needs to either be"), "{message}");
    }
    // What was refused would have come before this.
    let frames = metrics::value(&server.metrics(), "gridwire_log_frames_total").expect("a count");
    let batch: Vec<Value> = (0..200)
        .map(|number| grid_event(&format!("e{number:03}"), if number % 2 == 0 { "north" } else { "south" }))
        .collect();
    server.send(&malls.publish(events::JSON, &json!(batch))).expect(200);
    assert_eq!(ids(&sink, "/north", 100).len(), 100);
    assert_eq!(ids(&sink, "/south", 100).len(), 100);
    let now = metrics::value(&server.metrics(), "gridwire_log_frames_total").expect("a count");
    assert!((now - frames - 1.0).abs() < 0.5, "one publish is one frame, so no crash can part it");
    assert!(frames < 0.5, "nothing of a refused publish is stored");
}

#[test]
fn cloud_events_are_routed_by_their_source_and_keep_it() {
    let server = Server::start();
    let sink = Sink::start();
    let arm = Arm::new(&server);
    let malls = domain(&arm, &json!({ "inputSchema": "CloudEventSchemaV1_0" }));
    arm.webhook(&topic_of(&malls, "north"), "own", &sink.url("/north"), &json!({}));
    let full = format!("{}/topics/north", malls.id);
    let batch = [
        cloud_event("1", "north"),
        cloud_event("2", &full),
        cloud_event("3", "north#till/4"),
        cloud_event("4", "south"),
    ];
    server.send(&malls.publish(events::BATCH, &json!(batch))).expect(200);
    server.send(&malls.publish(events::ONE, &cloud_event("5", "north"))).expect(200);
    let binary = Request::post(&malls.path)
        .with("aeg-sas-key", &malls.key)
        .with("content-type", "text/plain")
        .with("ce-specversion", "1.0")
        .with("ce-id", "6")
        .with("ce-source", "north")
        .with("ce-type", "t");
    server.send(&binary.body("hello")).expect(200);
    assert_eq!(ids(&sink, "/north", 5), ["1", "2", "3", "5", "6"]);
    let mut sources: Vec<String> = sink
        .at("/north")
        .iter()
        .map(|delivery| delivery.json()["source"].as_str().expect("a source").to_owned())
        .collect();
    sources.sort();
    assert_eq!(sources, [&full, "north", "north", "north", "north#till/4"]);
    server.send(&malls.publish(events::ONE, &cloud_event("bad", "https://malls.example/"))).expect(400);
}

#[test]
fn a_custom_schema_names_its_topic_by_the_mapping() {
    let server = Server::start();
    let sink = Sink::start();
    let arm = Arm::new(&server);
    let mut mapping = events::mapping();
    mapping["properties"]["topic"] = json!({ "sourceField": "mall" });
    let malls = domain(&arm, &json!({ "inputSchema": "CustomEventSchema", "inputSchemaMapping": mapping }));
    let own = topic_of(&malls, "north");
    arm.webhook(&own, "as-sent", &sink.url("/sent"), &json!({}));
    arm.webhook(&own, "as-grid", &sink.url("/grid"), &json!({ "eventDeliverySchema": "EventGridSchema" }));
    let mut event = events::custom_event("x-1");
    event["mall"] = "north".into();
    server.send(&malls.publish(events::JSON, &json!([event]))).expect(200);
    assert_eq!(sink.wait_at("/sent", 1, SOON)[0].json(), json!([event]));
    let delivered = sink.wait_at("/grid", 1, SOON)[0].json();
    assert_eq!(delivered[0]["topic"], format!("{}/topics/north", malls.id));
    assert_eq!(delivered[0]["data"], event);
    server.send(&malls.publish(events::JSON, &json!([events::custom_event("bad")]))).expect(400);
}

#[test]
fn keys_and_addresses_are_the_domains_own() {
    let server = Server::start();
    let arm = Arm::new(&server);
    let malls = domain(&arm, &json!({}));
    let topic = arm.topic("orders", &json!({}));
    let event = json!([grid_event("1", "north")]);
    let with = |path: &str, key: &str| {
        let request = Request::post(path).with("aeg-sas-key", key).with("content-type", events::JSON);
        server.send(&request.body(event.to_string())).status
    };
    assert_eq!(with(&malls.path, &malls.key), 200);
    assert_eq!(with(&malls.path, &topic.key), 401);
    assert_eq!(with(&malls.path.replace("malls", "MALLS"), &malls.key), 200);
    assert_eq!(with(&malls.path.replace("malls", "none"), &malls.key), 404);
    assert_eq!(with(&malls.path.replace("domains/malls", "topics/malls"), &malls.key), 404);
    let by_host = Request::post("/api/events")
        .with("host", "malls.localhost")
        .with("aeg-sas-key", &malls.key)
        .with("content-type", events::JSON);
    server.send(&by_host.body(event.to_string())).expect(200);
    arm.call("POST", "domains/malls/regenerateKey", Some(&json!({ "keyName": "key1" }))).expect(200);
    assert_eq!(with(&malls.path, &malls.key), 401);
    let many: Vec<Value> = (0..5_001).map(|number| grid_event(&number.to_string(), "north")).collect();
    let fresh = Topic { key: arm.key("domains/malls"), ..malls.clone() };
    // Too many events and too many bytes alike.
    server.send(&fresh.publish(events::JSON, &json!(many))).expect(413);
    arm.call("DELETE", "domains/malls", None).expect(204);
    assert_eq!(with(&malls.path, &fresh.key), 404);
}

fn json_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(json_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "json") {
            found.push(path);
        }
    }
    found
}

#[test]
fn dead_letters_say_which_topic_of_the_domain_they_are_of() {
    let server = Server::start();
    let sink = Sink::scripted(|_, _| Reply::Status(400));
    let arm = Arm::new(&server);
    let malls = domain(&arm, &json!({}));
    let more = json!({ "deadLetterDestination": dead_letters("letters1", "malls") });
    arm.webhook(&malls, "all", &sink.url("/all"), &more);
    server.send(&malls.publish(events::JSON, &json!([grid_event("1", "north")]))).expect(200);
    let container = server.data_dir().join("deadletter/letters1/malls");
    let letter = wait_for("a dead letter", SOON, || {
        let file = json_files(&container).pop()?;
        serde_json::from_slice::<Value>(&std::fs::read(file).ok()?).ok()
    });
    assert_eq!(letter[0]["topic"], format!("{}/topics/north", malls.id));
    assert_eq!(letter[0]["deadLetterReason"], "UndeliverableDueToHttpBadRequest");
    assert!(container.join("ALL").is_dir(), "as the service names it");
}

#[test]
fn a_topic_comes_with_its_first_subscription_and_goes_with_its_last() {
    let server = Server::start();
    let sink = Sink::start();
    let arm = Arm::new(&server);
    let malls = domain(&arm, &json!({}));
    let north = topic_of(&malls, "north");
    arm.webhook(&north, "one", &sink.url("/one"), &json!({}));
    arm.webhook(&north, "two", &sink.url("/two"), &json!({}));
    arm.get(&north.resource);
    arm.call("DELETE", &format!("{}/eventSubscriptions/one", north.resource), None).expect(204);
    arm.get(&north.resource);
    arm.call("DELETE", &format!("{}/eventSubscriptions/two", north.resource), None).expect(204);
    arm.call("GET", &north.resource, None).expect(404);
    server.send(&malls.publish(events::JSON, &json!([grid_event("1", "north")]))).expect(200);
    pause(Duration::from_millis(300));
    assert_eq!(sink.deliveries().len(), 0, "nobody subscribes any more");
}

#[test]
fn the_command_line_and_apply_know_domains() {
    let server = Server::start();
    let sink = Sink::start();
    let run = |arguments: &[&str], fine: bool| -> String {
        let output = program()
            .args(arguments)
            .arg("--data-dir")
            .arg(server.data_dir())
            .output()
            .expect("the program runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.success(), fine, "{arguments:?}: {said}");
        said
    };
    run(&["domain", "create", "malls", "--schema", "event-grid"], true);
    run(&["domain", "create", "malls/west"], true);
    run(&["subscription", "create", "domain:malls/all", "--webhook", &sink.url("/all")], true);
    run(&["subscription", "create", "domain:malls/north/own", "--webhook", &sink.url("/north")], true);
    let topics = run(&["domain", "list", "malls"], true);
    assert!(topics.contains("domain:malls/north") && topics.contains("domain:malls/west"), "{topics}");
    run(&["publish", "domain:malls/north", "{\"n\": 1}", "--id", "e1"], true);
    assert_eq!(ids(&sink, "/north", 1), ["e1"]);
    assert_eq!(ids(&sink, "/all", 1), ["e1"]);
    let seen = run(&["tail", "domain:malls/north/own", "--from-start", "--max", "1"], true);
    assert!(seen.contains("Delivered") && seen.contains("e1"), "{seen}");
    assert!(run(&["subscription", "list", "domain:malls/north"], true).contains("own"));
    assert!(run(&["domain", "keys", "malls"], true).contains("key2"));
    assert!(run(&["domain", "show", "malls/north"], true).contains("Succeeded"));
    assert!(run(&["topic", "create", "domain:malls"], false).contains("gridwire domain create"));
    run(&["domain", "delete", "malls/west"], true);

    let file = server.scratch().join("resources.toml");
    let hook = sink.url("/south");
    let text = format!(
        "[[domains]]\nname = \"malls\"\n[[domains.eventSubscriptions]]\nname = \"all\"\n\
         properties.destination.endpointType = \"WebHook\"\n\
         properties.destination.properties.endpointUrl = \"{}\"\n\
         [[domains.topics]]\nname = \"south\"\n[[domains.topics.eventSubscriptions]]\nname = \"own\"\n\
         properties.destination.endpointType = \"WebHook\"\n\
         properties.destination.properties.endpointUrl = \"{hook}\"\n",
        sink.url("/all")
    );
    std::fs::write(&file, text).expect("the file is written");
    let file = file.to_str().expect("a plain path");
    assert!(run(&["apply", "-f", file], true).contains("domain:malls/south"));
    let again = run(&["apply", "-f", file, "--dry-run"], true);
    assert!(!again.contains("would"), "applying again changes nothing: {again}");
    run(&["publish", "domain:malls/south", "{}", "--id", "e2"], true);
    assert_eq!(ids(&sink, "/south", 1), ["e2"]);
    run(&["domain", "delete", "malls"], true);
    assert!(!run(&["domain", "list"], true).contains("malls"));
}
