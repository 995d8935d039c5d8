//! Every credential that is documented publishes, at every address that is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::SOON;
use crate::support::{Arm, Request, Server, Sink, events};

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
