//! What is sent in one schema arrives in each that it can be delivered in, with its headers and its bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::only;
use crate::support::pull::Queue;
use crate::support::{Arm, Client, Delivery, Request, Server, Sink, events};

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
