//! The main job, end to end: events published over HTTP arrive at webhooks and receivers as documented.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use support::arm::{GROUP, SUBSCRIPTION, VERSION, dead_letters, namespace_dead_letters, webhook_body};
use support::pull::Queue;
use support::sink::Consent;
use support::time::pause;
use support::{Arm, Client, Delivery, Reply, Request, Server, Sink, events, metrics, now, wait_for};

/// A delivery comes within milliseconds; a busy test machine may take longer.
const SOON: Duration = Duration::from_secs(15);
/// The first step of the retry ladder, with its jitter and some slack for the machine.
const RETRY: std::ops::Range<Duration> = Duration::from_millis(9_900)..Duration::from_secs(16);

/// The headers that every delivery of the first event has.
fn check_headers(
    delivery: &Delivery,
    subscription: &str,
    event_id: &str,
    content_type: &str,
    versions: [&str; 2],
) {
    let header = |name: &str| delivery.header(name).unwrap_or("(absent)").to_owned();
    assert_eq!(header("content-type"), content_type);
    assert_eq!(header("aeg-event-type"), "Notification");
    assert_eq!(header("aeg-subscription-name").to_ascii_lowercase(), subscription.to_ascii_lowercase());
    assert_eq!(header("aeg-delivery-count"), "0");
    assert_eq!(header("aeg-output-event-id"), event_id);
    assert_eq!([header("aeg-metadata-version"), header("aeg-data-version")], versions);
    assert!(delivery.headers.keys().all(|name| !name.as_str().starts_with("ce-")), "{:?}", delivery.headers);
}

/// The one delivery to a path, after it was seen that no second one comes at once.
fn only(sink: &Sink, path: &str) -> Delivery {
    let mut deliveries = sink.wait_at(path, 1, SOON);
    assert_eq!(deliveries.len(), 1, "one delivery to {path}");
    deliveries.remove(0)
}

#[test]
fn each_input_schema_arrives_in_each_delivery_schema_it_can_have() {
    const GRID: &str = "application/json; charset=utf-8";
    const CLOUD: &str = "application/cloudevents+json; charset=utf-8";
    let server = Server::start();
    let sink = Sink::start();
    let arm = Arm::new(&server);
    let schema = |schema: &str| json!({ "eventDeliverySchema": schema });

    let grid = arm.topic("grid", &json!({}));
    arm.webhook(&grid, "as-grid", &sink.url("/grid/grid"), &schema("EventGridSchema"));
    arm.webhook(&grid, "as-cloud", &sink.url("/grid/cloud"), &schema("CloudEventSchemaV1_0"));
    server.send(&grid.publish(events::JSON, &json!([events::grid_event("g-1")]))).expect(200);
    let sent = events::grid_event("g-1");

    let delivery = only(&sink, "/grid/grid");
    check_headers(&delivery, "as-grid", "g-1", GRID, ["1", "2.1"]);
    let mut expected = sent.clone();
    expected["topic"] = json!(grid.id);
    expected["metadataVersion"] = json!("1");
    assert_eq!(delivery.json(), json!([expected]));

    let delivery = only(&sink, "/grid/cloud");
    check_headers(&delivery, "as-cloud", "g-1", CLOUD, ["1.0", ""]);
    let body = delivery.json();
    let expected = json!({
        "specversion": "1.0", "id": "g-1", "source": grid.id, "type": "Shop.OrderPlaced",
        "subject": "orders/42", "time": "2026-03-01T12:00:00.5Z", "data": sent["data"],
    });
    for (name, value) in expected.as_object().expect("an object") {
        assert_eq!(&body[name], value, "{name} in {body}");
    }

    let cloud = arm.topic("cloud", &json!({ "inputSchema": "CloudEventSchemaV1_0" }));
    arm.webhook(&cloud, "as-cloud", &sink.url("/cloud/cloud"), &schema("CloudEventSchemaV1_0"));
    server.send(&cloud.publish(events::BATCH, &json!([events::cloud_event("c-1")]))).expect(200);
    let delivery = only(&sink, "/cloud/cloud");
    check_headers(&delivery, "as-cloud", "c-1", CLOUD, ["1.0", ""]);
    assert_eq!(delivery.json(), events::cloud_event("c-1"));

    let inputs = json!({ "inputSchema": "CustomEventSchema", "inputSchemaMapping": events::mapping() });
    let custom = arm.topic("custom", &inputs);
    arm.webhook(&custom, "as-custom", &sink.url("/custom/custom"), &schema("CustomInputSchema"));
    arm.webhook(&custom, "as-grid", &sink.url("/custom/grid"), &schema("EventGridSchema"));
    arm.webhook(&custom, "as-cloud", &sink.url("/custom/cloud"), &schema("CloudEventSchemaV1_0"));
    let sent = events::custom_event("x-1");
    server.send(&custom.publish(events::JSON, &json!([sent]))).expect(200);
    let delivery = only(&sink, "/custom/custom");
    check_headers(&delivery, "as-custom", "x-1", GRID, ["1", "1.0"]);
    assert_eq!(delivery.json(), json!([sent]));
    let delivery = only(&sink, "/custom/grid");
    check_headers(&delivery, "as-grid", "x-1", GRID, ["1", "1.0"]);
    let expected = json!([{
        "id": "x-1", "topic": custom.id, "subject": "orders/42", "eventType": "Shop.OrderPlaced",
        "eventTime": "2026-03-01T12:00:00.5Z", "data": sent, "dataVersion": "1.0", "metadataVersion": "1",
    }]);
    assert_eq!(delivery.json(), expected);
    let delivery = only(&sink, "/custom/cloud");
    check_headers(&delivery, "as-cloud", "x-1", CLOUD, ["1.0", ""]);
    let body = delivery.json();
    assert_eq!(
        [&body["id"], &body["type"], &body["data"]],
        [&json!("x-1"), &json!("Shop.OrderPlaced"), &sent]
    );

    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    arm.push(&namespace, "orders", "pushed", &sink.url("/namespace"), &json!({}));
    arm.queue(&namespace, "orders", "pulled", &json!({}), &json!({}));
    let one = namespace.request("topics/orders:publish", "").with("content-type", events::ONE);
    let answer = server.send(&one.body(events::cloud_event("n-1").to_string())).expect(200);
    assert_eq!(answer.json(), json!({}), "clients read the answer as JSON");
    let delivery = only(&sink, "/namespace");
    check_headers(&delivery, "pushed", "n-1", CLOUD, ["1.0", ""]);
    assert_eq!(delivery.json(), events::cloud_event("n-1"));
    assert_eq!(delivery.header("origin"), delivery.header("webhook-request-origin"));
    assert!(delivery.header("webhook-request-origin").is_some(), "{:?}", delivery.headers);
    let received = Queue::new(&namespace, "orders", "pulled").receive(&mut Client::new(server.http), 10);
    let received = received.expect("an answer");
    assert_eq!(received.len(), 1);
    assert_eq!((&received[0].event, received[0].delivery_count), (&events::cloud_event("n-1"), 1));

    check_handshakes(&sink);
}

fn check_handshakes(sink: &Sink) {
    let mut asked = 0;
    for handshake in sink.handshakes() {
        let by_options =
            matches!(handshake.path.as_str(), "/namespace") || handshake.path.ends_with("/cloud");
        if by_options {
            assert!(handshake.header("webhook-request-origin").is_some(), "{handshake:?}");
            if handshake.path == "/namespace" {
                assert_eq!(handshake.header("webhook-request-callback"), None);
            }
        } else {
            let body = handshake.json();
            assert_eq!(body.as_array().map(Vec::len), Some(1), "{body}");
            assert_eq!(body[0]["eventType"], "Microsoft.EventGrid.SubscriptionValidationEvent");
            assert!(
                body[0]["data"]["validationCode"].as_str().is_some_and(|code| code.len() >= 16),
                "{body}"
            );
            assert!(body[0]["topic"].as_str().is_some_and(|topic| topic.contains("/topics/")), "{body}");
        }
        asked += 1;
    }
    assert_eq!(asked, 7, "one handshake for each push subscription");
}

#[test]
fn binary_mode_and_bytes_arrive_as_they_were_sent() {
    let server = Server::start();
    let sink = Sink::start();
    let arm = Arm::new(&server);
    let topic = arm.topic("cloud", &json!({ "inputSchema": "CloudEventSchemaV1_0" }));
    arm.webhook(
        &topic,
        "hook",
        &sink.url("/basic"),
        &json!({ "eventDeliverySchema": "CloudEventSchemaV1_0" }),
    );
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    arm.queue(&namespace, "orders", "pulled", &json!({}), &json!({}));
    let binary = |request: Request, id: &str, content_type: &str, body: &[u8]| {
        let request = request
            .with("ce-specversion", "1.0")
            .with("ce-id", id)
            .with("ce-source", "/shop")
            .with("ce-type", "T")
            .with("ce-subject", "gr%C3%BC%C3%9Fe")
            .with("ce-myext", "1")
            .with("content-type", content_type)
            .body(body);
        server.send(&request).expect(200);
    };
    let basic = || Request::post(&topic.path).with("aeg-sas-key", &topic.key);
    let spaces = || namespace.request("topics/orders:publish", "");
    let bytes = [0, 159, 146, 150, 255];
    binary(basic(), "b-1", "image/png", &bytes);
    binary(spaces(), "b-1", "image/png", &bytes);
    binary(spaces(), "b-2", "application/vnd.x+json", b" {\"a\":1.50} ");
    binary(spaces(), "b-3", "text/plain", "gr\u{fc}\u{df}e".as_bytes());

    let delivered = only(&sink, "/basic").json();
    assert_eq!(delivered["data_base64"], STANDARD.encode(bytes), "{delivered}");
    let queue = Queue::new(&namespace, "orders", "pulled");
    let mut client = Client::new(server.http);
    let mut received = Vec::new();
    while received.len() < 3 {
        let more = queue.receive(&mut client, 10).expect("an answer");
        assert!(!more.is_empty(), "only {} of 3 events came", received.len());
        received.extend(more);
    }
    received.sort_by(|one, other| one.id.cmp(&other.id));
    for received in &received {
        assert_eq!(received.event["subject"], "gr\u{fc}\u{df}e");
        assert_eq!(received.event["myext"], "1");
        assert_eq!(received.event.get("time"), None, "what was not sent is not there");
    }
    assert_eq!(received[0].event["datacontenttype"], "image/png");
    assert_eq!(received[0].event["data_base64"], STANDARD.encode(bytes));
    assert_eq!(received[1].event["data"], json!({ "a": 1.5 }));
    assert_eq!(received[2].event["data"], "gr\u{fc}\u{df}e");
}

#[test]
fn filters_deliver_only_what_matches_and_a_new_one_holds_for_the_next_publish() {
    let server = Server::start();
    let sink = Sink::start();
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({}));
    let filters = [
        ("by-type", json!({ "includedEventTypes": ["shop.paid"] })),
        ("by-subject", json!({ "subjectBeginsWith": "/EU/", "subjectEndsWith": ".jpg" })),
        ("by-case", json!({ "subjectBeginsWith": "/EU/", "isSubjectCaseSensitive": true })),
        (
            "by-data",
            json!({ "advancedFilters": [
            { "operatorType": "NumberGreaterThan", "key": "data.amount", "value": 10 },
            { "operatorType": "StringIn", "key": "data.city", "values": ["ULM", "bonn"] },
        ] }),
        ),
        (
            "by-absence",
            json!({ "advancedFilters": [{ "operatorType": "IsNullOrUndefined", "key": "data.city" }] }),
        ),
        (
            "by-array",
            json!({ "enableAdvancedFilteringOnArrays": true, "advancedFilters": [
            { "operatorType": "StringContains", "key": "data.tags", "values": ["fra"] },
        ] }),
        ),
        ("everything", json!({})),
    ];
    for (name, filter) in &filters {
        arm.webhook(&topic, name, &sink.url(&format!("/{name}")), &json!({ "filter": filter }));
    }
    let event = |id: &str, subject: &str, kind: &str, data: Value| {
        json!({ "id": id, "subject": subject, "eventType": kind, "eventTime": "2026-03-01T12:00:00Z",
                "dataVersion": "1", "data": data })
    };
    let batch = json!([
        event("paid", "/us/1", "Shop.Paid", json!({ "amount": 5, "city": "Ulm" })),
        event("photo", "/eu/1.JPG", "Shop.Sent", json!({ "amount": 10.01, "city": "Bonn" })),
        event(
            "large",
            "/EU/2",
            "Shop.Sent",
            json!({ "amount": 50, "city": "ulm", "tags": ["x", "Fragile"] })
        ),
        event("bare", "/us/2", "Shop.Sent", json!({})),
    ]);
    server.send(&topic.publish(events::JSON, &batch)).expect(200);
    let expected: [(&str, &[&str]); 7] = [
        ("by-type", &["paid"]),
        ("by-subject", &["photo"]),
        ("by-case", &["large"]),
        ("by-data", &["large", "photo"]),
        ("by-absence", &["bare"]),
        ("by-array", &["large"]),
        ("everything", &["bare", "large", "paid", "photo"]),
    ];
    let ids_at = |name: &str| {
        let mut ids: Vec<String> =
            sink.at(&format!("/{name}")).iter().flat_map(|delivery| delivery.ids("id")).collect();
        ids.sort();
        ids
    };
    for (name, ids) in expected {
        sink.wait_at(&format!("/{name}"), ids.len(), SOON);
    }

    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    let filter = json!({ "includedEventTypes": ["A"], "filters": [
        { "operatorType": "StringNotIn", "key": "subject", "values": ["no"] },
        { "operatorType": "NumberInRange", "key": "data.n", "values": [[1, 2]] },
    ] });
    arm.queue(&namespace, "orders", "some", &json!({}), &filter);
    let cloud = |id: &str, kind: &str, subject: &str, n: f64| json!({ "specversion": "1.0", "id": id, "source": "/s", "type": kind, "subject": subject, "data": { "n": n } });
    let some = Queue::new(&namespace, "orders", "some");
    let mut client = Client::new(server.http);
    let batch = [cloud("1", "A", "yes", 2.0), cloud("2", "B", "yes", 2.0), cloud("3", "A", "no", 2.0)];
    server.send(&namespace.publish("orders", &json!(batch))).expect(200);
    server.send(&namespace.publish("orders", &json!([cloud("4", "A", "yes", 2.5)]))).expect(200);
    let received = some.receive(&mut client, 100).expect("an answer");
    assert_eq!(received.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["1"]);

    // The answer to the change means: from the next publish on.
    let resource = "namespaces/spaces/topics/orders/eventSubscriptions/some";
    let change = json!({ "properties": { "filtersConfiguration": { "includedEventTypes": ["B"] } } });
    arm.call("PATCH", resource, Some(&change)).expect(200);
    let batch = [cloud("5", "A", "yes", 2.0), cloud("6", "B", "yes", 9.0)];
    server.send(&namespace.publish("orders", &json!(batch))).expect(200);
    let received = some.receive(&mut client, 100).expect("an answer");
    assert_eq!(received.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["6"]);

    let change = json!({ "filter": { "includedEventTypes": ["Shop.New"] } });
    arm.call("PATCH", "topics/grid/eventSubscriptions/by-type", Some(&change)).expect(201);
    let batch = json!([
        event("old-type", "s", "Shop.Paid", json!({ "city": 1 })),
        event("new-type", "s", "Shop.New", json!({ "city": 1 })),
    ]);
    server.send(&topic.publish(events::JSON, &batch)).expect(200);
    sink.wait_at("/by-type", 2, SOON);
    sink.wait_at("/everything", 6, SOON);
    for (name, ids) in expected.iter().take(6).skip(1) {
        assert_eq!(ids_at(name), *ids, "{name}");
    }
    assert_eq!(ids_at("by-type"), ["new-type", "paid"]);
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// The dead letters below a container, once there are `count` files; each must be an array.
fn letters(container: &Path, count: usize) -> Vec<(PathBuf, Value)> {
    wait_for(&format!("{count} dead letters in {}", container.display()), SOON, || {
        let found: Vec<(PathBuf, Value)> = files(container)
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .filter_map(|path| {
                let letter = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
                Some((path, letter))
            })
            .collect();
        (found.len() >= count).then_some(found)
    })
}

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

#[test]
fn received_events_are_settled_as_asked() {
    let server = Server::start();
    let arm = Arm::new(&server);
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    let dead = |name: &str| json!({ "deadLetterDestinationWithResourceIdentity": namespace_dead_letters("letters1", name) });
    let mut twice = dead("twice");
    twice["maxDeliveryCount"] = json!(2);
    arm.queue(&namespace, "orders", "plain", &dead("plain"), &json!({}));
    arm.queue(&namespace, "orders", "twice", &twice, &json!({}));
    let batch: Vec<Value> = ["a", "b", "c", "d"].map(events::cloud_event).into();
    server.send(&namespace.publish("orders", &json!(batch))).expect(200);
    let mut client = Client::new(server.http);
    let plain = Queue::new(&namespace, "orders", "plain");
    let received = plain.receive(&mut client, 100).expect("an answer");
    assert_eq!(received.len(), 4);
    let token = |id: &str| received.iter().find(|one| one.id == id).expect("it was received").token.as_str();

    // Acknowledge, twice; renew; a token that is none, beside a right one that is there twice.
    let tokens = [token("a"), "nonsense", token("a")];
    let done = plain.settle(&mut client, "acknowledge", "", &tokens).expect("an answer");
    assert_eq!(done.succeeded, [token("a")]);
    assert_eq!(done.failed, [("nonsense".to_owned(), "BadToken".to_owned())]);
    let counted = || metrics::family(&server.metrics(), &["gridwire_pull_tokens_failed_total{"]);
    let series = r#"gridwire_pull_tokens_failed_total{topic="spaces/orders",subscription="plain",operation="acknowledge""#;
    assert_eq!(counted(), [format!(r#"{series},error="bad_token"}} 1"#)], "each failure is counted once");
    let done = plain.settle(&mut client, "acknowledge", "", &[token("a")]).expect("an answer");
    assert_eq!(done.failed, [(token("a").to_owned(), "TokenLost".to_owned())]);
    let done = plain.settle(&mut client, "renewLock", "", &[token("b")]).expect("an answer");
    assert_eq!(done.succeeded, [token("b")]);

    // Release: at once, and after ten seconds.
    let released = now();
    let done =
        plain.settle(&mut client, "release", "&releaseDelayInSeconds=10", &[token("d")]).expect("an answer");
    assert_eq!(done.succeeded.len(), 1);
    let done =
        plain.settle(&mut client, "release", "&releaseDelayInSeconds=0", &[token("b")]).expect("an answer");
    assert_eq!(done.succeeded.len(), 1);
    let again = plain.receive(&mut client, 100).expect("an answer");
    assert_eq!(again.iter().map(|one| (one.id.as_str(), one.delivery_count)).collect::<Vec<_>>(), [("b", 2)]);
    assert_ne!(again[0].token, token("b"), "a new lock has a new token");
    let done = plain.settle(&mut client, "acknowledge", "", &[token("b")]).expect("an answer");
    assert_eq!(done.failed.first().map(|(_, code)| code.as_str()), Some("TokenLost"));

    // Reject: a dead letter.
    let done = plain.settle(&mut client, "reject", "", &[token("c")]).expect("an answer");
    assert_eq!(done.succeeded.len(), 1);
    let container = server.data_dir().join("deadletter/letters1/plain");
    let (path, letter) = letters(&container, 1).remove(0);
    assert!(path.starts_with(container.join("spaces/orders/plain")), "{}", path.display());
    assert_eq!(letter[0]["event"], events::cloud_event("c"));
    assert_eq!(letter[0]["deadLetterProperties"]["deliveryattempts"], 1, "{letter}");
    assert_eq!(letter[0]["deadLetterProperties"]["deliveryresult"], "Event was rejected.", "{letter}");

    // The most deliveries there may be.
    let queue = Queue::new(&namespace, "orders", "twice");
    for count in 1..=2 {
        let received = queue.receive(&mut client, 100).expect("an answer");
        assert_eq!(received.len(), 4, "delivery {count}");
        assert!(received.iter().all(|one| one.delivery_count == count));
        let tokens: Vec<&str> = received.iter().map(|one| one.token.as_str()).collect();
        assert_eq!(queue.settle(&mut client, "release", "", &tokens).expect("an answer").succeeded.len(), 4);
    }
    let dead = letters(&server.data_dir().join("deadletter/letters1/twice"), 4);
    for (_, letter) in &dead {
        let properties = &letter[0]["deadLetterProperties"];
        assert_eq!(properties["deadletterreason"], "Maximum delivery attempts was exceeded.", "{letter}");
        assert_eq!(properties["deliveryresult"], "Event was not acknowledged nor rejected.", "{letter}");
        assert_eq!(properties["deliveryattempts"], 2, "{letter}");
    }

    let late = plain.receive(&mut client, 100).expect("an answer");
    assert_eq!(late.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["d"]);
    let after = late[0].arrived.duration_since(released);
    assert!((Duration::from_secs(10)..Duration::from_secs(14)).contains(&after), "it came after {after:?}");
    let begun = now();
    assert!(queue.receive(&mut client, 100).expect("an answer").is_empty());
    let waited = begun.elapsed();
    assert!((Duration::from_millis(9_900)..Duration::from_secs(14)).contains(&waited), "{waited:?}");
}

#[test]
fn a_long_poll_is_answered_when_an_event_comes() {
    let server = Server::start();
    let arm = Arm::new(&server);
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    arm.queue(&namespace, "orders", "plain", &json!({}), &json!({}));
    let queue = Queue::new(&namespace, "orders", "plain");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| queue.receive(&mut Client::new(server.http), 10).expect("an answer"));
        pause(Duration::from_millis(500));
        let published = now();
        server.send(&namespace.publish("orders", &json!([events::cloud_event("a")]))).expect(200);
        let received = waiting.join().expect("the receiver did not panic");
        assert_eq!(received.len(), 1);
        let wait = received[0].arrived.saturating_duration_since(published);
        assert!(wait < Duration::from_secs(3), "the event took {wait:?}");
    });
}

#[test]
fn an_endpoint_that_does_not_consent_is_not_subscribed() {
    let server = Server::start();
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({}));
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    for consent in
        [Consent::Refused(403), Consent::Refused(410), Consent::Refused(302), Consent::Refused(500)]
    {
        let sink = Sink::with(consent, |_, _| Reply::Status(200));
        for schema in ["EventGridSchema", "CloudEventSchemaV1_0"] {
            let body =
                webhook_body(&sink.url("/hook?secret=s3cret"), &json!({ "eventDeliverySchema": schema }));
            let answer = arm.call("PUT", "topics/grid/eventSubscriptions/hook", Some(&body)).expect(400);
            let (code, inner) = answer.error();
            assert_eq!(
                (code.as_str(), inner.as_str()),
                ("Url validation", "endpoint_validation_failed"),
                "{consent:?}"
            );
            assert!(!answer.text().contains("s3cret"), "{}", answer.text());
        }
        let push = json!({ "destination": { "endpointType": "WebHook", "properties": { "endpointUrl": sink.url("/hook") } } });
        let body =
            json!({ "properties": { "deliveryConfiguration": { "deliveryMode": "Push", "push": push } } });
        arm.call("PUT", "namespaces/spaces/topics/orders/eventSubscriptions/hook", Some(&body)).expect(400);
        assert_eq!(sink.handshakes().len(), 3, "{consent:?}");
        arm.call("GET", "topics/grid/eventSubscriptions/hook", None).expect(404);
        assert_eq!(arm.get("topics/grid/eventSubscriptions")["value"], json!([]));
        assert_eq!(arm.get("namespaces/spaces/topics/orders/eventSubscriptions")["value"], json!([]));
        server.send(&topic.publish(events::JSON, &json!([events::grid_event("g")]))).expect(200);
        server.send(&namespace.publish("orders", &json!([events::cloud_event("n")]))).expect(200);
        assert_eq!(sink.deliveries().len(), 0, "{consent:?}");
    }
}

#[test]
fn an_update_to_an_endpoint_that_does_not_consent_keeps_the_old_one() {
    let server = Server::start();
    let arm = Arm::new(&server);
    let good = Sink::start();
    let bad = Sink::with(Consent::Refused(403), |_, _| Reply::Status(200));
    let topic = arm.topic("grid", &json!({}));
    arm.webhook(&topic, "hook", &good.url("/good"), &json!({}));
    let before = arm.get("topics/grid/eventSubscriptions/hook");
    let change = json!({ "destination": { "endpointType": "WebHook", "properties": { "endpointUrl": bad.url("/bad") } } });
    arm.call("PATCH", "topics/grid/eventSubscriptions/hook", Some(&change)).expect(400);
    assert_eq!(arm.get("topics/grid/eventSubscriptions/hook"), before);
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("g")]))).expect(200);
    only(&good, "/good");
    assert_eq!(bad.deliveries().len(), 0);
}

#[test]
fn both_forms_of_a_subscriptions_address_are_one_resource() {
    let server = Server::start();
    let sink = Sink::start();
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({}));
    let nested = "topics/grid/eventSubscriptions/hook";
    let scope = "topics/grid/providers/Microsoft.EventGrid/eventSubscriptions/hook";
    let url = sink.url("/hook?code=s3cret");
    let made = arm.put(scope, &webhook_body(&url, &json!({ "labels": ["one"] })));
    assert!(made["id"].as_str().is_some_and(|id| id.ends_with(scope)), "{made}");
    let read = arm.get(nested);
    assert!(read["id"].as_str().is_some_and(|id| id.ends_with(nested)), "{read}");
    assert_eq!(read["properties"], made["properties"]);
    assert!(!read.to_string().contains("s3cret"), "{read}");
    arm.call("PATCH", nested, Some(&json!({ "labels": ["two"] }))).expect(201);
    assert_eq!(arm.get(scope)["properties"]["labels"], json!(["two"]));
    for form in [nested, scope] {
        let full = arm.call("POST", &format!("{form}/getFullUrl"), None).expect(200).json();
        assert_eq!(full["endpointUrl"], url);
    }
    // Case does not tell resources apart either.
    let upper = "TOPICS/GRID/EVENTSUBSCRIPTIONS/HOOK";
    assert_eq!(arm.get(upper)["properties"], arm.get(nested)["properties"]);
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("g-1")]))).expect(200);
    only(&sink, "/hook");
    arm.call("DELETE", scope, None).expect(204);
    arm.call("GET", nested, None).expect(404);
    arm.call("DELETE", nested, None).expect(204);
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("g-2")]))).expect(200);
    pause(Duration::from_millis(500));
    assert_eq!(sink.deliveries().len(), 1, "nothing is delivered to what is deleted");
}

/// The status of a publish with a key.
type Use<'a> = &'a dyn Fn(&str) -> u16;

#[test]
fn a_new_key_holds_at_once_and_the_other_one_stays() {
    let server = Server::start();
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({}));
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    let publish = |key: &str| {
        let request =
            Request::post(&topic.path).with("aeg-sas-key", key).with("content-type", "application/json");
        server.send(&request.body(json!([events::grid_event("g")]).to_string())).status
    };
    let spaces = |key: &str| {
        let request =
            Request::post(format!("{}/topics/orders:publish?api-version=2024-06-01", namespace.prefix))
                .with("authorization", format!("SharedAccessKey {key}"))
                .with("content-type", events::ONE);
        server.send(&request.body(events::cloud_event("n").to_string())).status
    };
    let uses: [(&str, Use<'_>); 2] = [("topics/grid", &publish), ("namespaces/spaces", &spaces)];
    for (resource, status) in uses {
        let keys = |action: &str, body: Option<&Value>| {
            let keys = arm.call("POST", &format!("{resource}/{action}"), body).expect(200).json();
            ["key1", "key2"].map(|name| keys[name].as_str().expect("two keys").to_owned())
        };
        let old = keys("listKeys", None);
        assert_eq!([status(&old[0]), status(&old[1])], [200, 200], "{resource}");
        let new = keys("regenerateKey", Some(&json!({ "keyName": "key1" })));
        assert_ne!(new[0], old[0]);
        assert_eq!(new[1], old[1]);
        assert_eq!([status(&old[0]), status(&new[0]), status(&old[1])], [401, 200, 200], "{resource}");
        assert_eq!(keys("listKeys", None), new);
    }
}

#[test]
fn every_documented_credential_and_address_publishes() {
    let server = Server::start();
    let sink = Sink::start();
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({}));
    arm.webhook(&topic, "hook", &sink.url("/hook"), &json!({}));
    let path = topic.path.split('?').next().expect("a path").to_owned();
    let endpoint = arm.get("topics/grid")["properties"]["endpoint"].as_str().expect("an endpoint").to_owned();
    assert!(endpoint.ends_with(&path), "{endpoint} is not where we publish");
    assert!(endpoint.starts_with("http"), "{endpoint}");
    let sas = |expiry: &str, resource: &str, key: &str| {
        let encode = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
        };
        let signed = format!("r={}&e={}", encode(resource), encode(expiry));
        let key = STANDARD.decode(key).expect("a key is base64");
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
        format!("{signed}&s={}", encode(&STANDARD.encode(ring::hmac::sign(&key, signed.as_bytes()))))
    };
    let token = |expiry: &str, resource: &str| sas(expiry, resource, &topic.key);
    let resource = format!("http://{}{path}", server.http);
    let sdk = format!("{resource}?apiVersion=2018-01-01");
    let label = format!("grid.localhost:{}", server.http.port());
    let label = label.as_str();
    let encoded: String = url::form_urlencoded::byte_serialize(topic.key.as_bytes()).collect();
    let post = |path: &str| Request::post(path).with("content-type", "application/json");
    let requests = [
        ("a key", post(&topic.path).with("aeg-sas-key", &topic.key)),
        ("a key, no api-version", post(&path).with("aeg-sas-key", &topic.key)),
        ("a key in the query", post(&format!("{path}?aeg-sas-key={encoded}"))),
        ("a .NET expiry", post(&topic.path).with("aeg-sas-token", token("6/15/2099 6:20:15 PM", &resource))),
        (
            "a Python expiry",
            post(&topic.path).with("aeg-sas-token", token("2099-01-02 03:04:05.678901+00:00", &sdk)),
        ),
        ("an ISO expiry", post(&topic.path).with("aeg-sas-token", token("2099-01-02T03:04:05", &sdk))),
        (
            "a token as authorization",
            post(&topic.path).with(
                "authorization",
                format!("SharedAccessSignature {}", token("1/1/2099 1:00:00 AM", &resource)),
            ),
        ),
        ("a host name", post("/api/events").with("host", label).with("aeg-sas-key", &topic.key)),
        ("a form type, as curl sends", {
            let mut request = post(&topic.path).with("aeg-sas-key", &topic.key);
            request.headers[0].1 = "application/x-www-form-urlencoded".to_owned();
            request
        }),
        (
            "another case",
            post(&topic.path.to_uppercase().replace("API-VERSION", "api-version"))
                .with("aeg-sas-key", &topic.key),
        ),
    ];
    let count = requests.len();
    for (name, request) in requests {
        let answer = server.send(&request.body(json!([events::grid_event(name)]).to_string()));
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        assert!(answer.body.is_empty(), "{name}: a topic's answer has no body");
    }
    sink.wait_at("/hook", count, SOON);

    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    let topic_key = arm.key("namespaces/spaces/topics/orders");
    let hostname = arm.get("namespaces/spaces")["properties"]["topicsConfiguration"]["hostname"].clone();
    assert!(hostname.as_str().is_some_and(|name| name.contains(':') && !name.contains("//")), "{hostname}");
    for (name, prefix, key) in [
        ("the namespace's key", namespace.prefix.as_str(), &namespace.key),
        ("the topic's key", namespace.prefix.as_str(), &topic_key),
        ("no prefix", "", &namespace.key),
    ] {
        let request = Request::post(format!("{prefix}/topics/orders:publish?api-version=2023-11-01"))
            .with("authorization", format!("SharedAccessKey {key}"))
            .with("content-type", events::BATCH);
        let answer = server.send(&request.body(json!([events::cloud_event(name)]).to_string()));
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    }
    arm.queue(&namespace, "orders", "pulled", &json!({}), &json!({}));
    let topic_url = format!("http://{}{}/topics/orders", server.http, namespace.prefix);
    let token = sas("6/15/2099 6:20:15 PM", &topic_url, &topic_key);
    for (name, value) in
        [("authorization", format!("SharedAccessSignature {token}")), ("aeg-sas-token", token.clone())]
    {
        let call = |operation: &str, body: String| {
            let path = format!("{}/topics/orders{operation}api-version=2024-06-01", namespace.prefix);
            let request = Request::post(path).with(name, value.clone()).with("content-type", events::BATCH);
            server.send(&request.body(body)).expect(200).json()
        };
        call(":publish?", json!([events::cloud_event(name)]).to_string());
        let received = call("/eventsubscriptions/pulled:receive?", String::new());
        let lock = &received["value"][0]["brokerProperties"]["lockToken"];
        let settled =
            call("/eventsubscriptions/pulled:acknowledge?", json!({ "lockTokens": [lock] }).to_string());
        assert_eq!(settled["succeededLockTokens"], json!([lock]), "{name}");
    }
}

#[test]
fn management_answers_have_the_statuses_that_clients_accept() {
    let server = Server::start();
    let arm = Arm::new(&server);
    let status = |method: &str, resource: &str, body: Option<Value>| {
        let answer = arm.call(method, resource, body.as_ref());
        assert_eq!(answer.header("location"), None, "{method} {resource}");
        assert_eq!(answer.header("azure-asyncoperation"), None, "{method} {resource}");
        answer.status
    };
    let local =
        || Some(json!({ "location": "local", "properties": {}, "kind": "Azure", "unknown": { "a": 1 } }));
    for resource in ["topics/one", "namespaces/two", "namespaces/two/topics/three"] {
        assert_eq!(status("PUT", resource, local()), 201, "{resource}");
        assert_eq!(status("PUT", resource, local()), 201, "{resource} again");
        assert_eq!(status("GET", resource, None), 200, "{resource}");
        assert_eq!(status("PATCH", resource, Some(json!({}))), 200, "{resource}");
    }
    let subscription = "namespaces/two/topics/three/eventSubscriptions/four";
    assert_eq!(status("PUT", subscription, Some(json!({ "properties": {} }))), 201);
    assert_eq!(status("PATCH", subscription, Some(json!({ "properties": {} }))), 200);
    for resource in
        [subscription, "namespaces/two/topics/three", "namespaces/two", "topics/one", "topics/none"]
    {
        assert_eq!(status("DELETE", resource, None), 204, "{resource}");
    }
    // Lists page by page, with links that can be followed as they are.
    for number in 0..25 {
        arm.topic(&format!("listed-{number}"), &json!({}));
    }
    let path =
        format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.EventGrid/topics");
    let mut next = Some(format!("{path}?api-version={VERSION}"));
    let mut names = Vec::new();
    while let Some(path) = next {
        let request = Request::get(path).with("authorization", format!("Bearer {}", server.token));
        let page = server.send(&request).expect(200).json();
        let items = page["value"].as_array().expect("a list");
        assert!(items.len() <= 20, "a page has 20 at most unless asked");
        names.extend(items.iter().map(|item| item["name"].to_string()));
        next = page["nextLink"].as_str().map(|link| {
            let base = format!("http://{}", server.http);
            link.strip_prefix(&base).unwrap_or_else(|| panic!("{link} is not on {base}")).to_owned()
        });
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 25);
}
