//! The management API: consent, addresses, keys, and the statuses that clients accept.

use std::time::Duration;

use serde_json::{Value, json};

use crate::only;
use crate::support::arm::{GROUP, SUBSCRIPTION, VERSION, webhook_body};
use crate::support::sink::Consent;
use crate::support::time::pause;
use crate::support::{Arm, Reply, Request, Server, Sink, events};

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
