//! Webhooks that want a bearer token.

use std::ffi::OsString;

use serde_json::{Value, json};

use crate::support::arm::webhook_body;
use crate::support::dev::{Dev, without_jitter};
use crate::support::server::Launch;
use crate::support::{Arm, Reply, Server, Sink, events};

const HOOK: &str = "topics/grid/eventSubscriptions/hook";
const SECRET: &str = "very-s3cret";

fn protected(url: &str) -> Value {
    let mut body = webhook_body(url, &json!({}));
    let properties = &mut body["properties"]["destination"]["properties"];
    properties["azureActiveDirectoryTenantId"] = "contoso".into();
    properties["azureActiveDirectoryApplicationIdOrUri"] = "api://billing".into();
    body
}

#[test]
fn a_protected_webhook_gets_tokens_of_the_configured_issuer() {
    let issuer = Sink::scripted(|_, before| match before {
        0 => Reply::Body(r#"{"token_type":"Bearer","access_token":"first","expires_in":3600}"#),
        1 => Reply::Status(503),
        _ => Reply::Body(r#"{"token_type":"Bearer","access_token":"second","expires_in":3600}"#),
    });
    let sink = Sink::start();
    let mut launch: Launch = without_jitter();
    launch.environment.extend([
        ("GRIDWIRE_DELIVERY_TOKEN_ENDPOINT", OsString::from(issuer.url("/{tenant}/token"))),
        ("GRIDWIRE_DELIVERY_TOKEN_CLIENT_ID", OsString::from("gridwire")),
        ("GRIDWIRE_DELIVERY_TOKEN_CLIENT_SECRET", OsString::from(SECRET)),
    ]);
    let server = Server::launch(launch);
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("grid", &json!({}));
    let made = arm.put(HOOK, &protected(&sink.url("/hook")));
    let shown = &made["properties"]["destination"]["properties"];
    assert_eq!(shown["azureActiveDirectoryTenantId"], "contoso");
    assert_eq!(shown["azureActiveDirectoryApplicationIdOrUri"], "api://billing");
    assert_eq!(sink.handshakes()[0].header("authorization"), Some("Bearer first"));
    let publish = |id: &str| {
        server.send(&topic.publish(events::JSON, &json!([events::grid_event(id)]))).expect(200);
        dev.drain();
    };
    publish("one");
    assert_eq!(sink.at("/hook")[0].header("authorization"), Some("Bearer first"));

    // The issuer is down when the token has expired: nothing is sent, and the attempt counts as failed.
    dev.advance("1h");
    publish("two");
    assert_eq!(issuer.at("/contoso/token").len(), 2);
    assert_eq!(sink.at("/hook").len(), 1);
    let attempts = dev.attempts(made["id"].as_str().expect("an id"));
    assert_eq!(attempts.iter().map(|attempt| attempt.status).collect::<Vec<_>>(), [Some(200), None]);
    dev.advance("10s");
    dev.drain();
    let came = sink.at("/hook");
    assert_eq!(came.len(), 2);
    assert_eq!(came[1].header("authorization"), Some("Bearer second"));
    let form = String::from_utf8_lossy(&issuer.at("/contoso/token")[0].body).into_owned();
    assert!(form.contains("grant_type=client_credentials"), "{form}");
    assert!(form.contains("scope=api%3A%2F%2Fbilling%2F.default"), "{form}");
    assert!(!server.log().contains(SECRET) && !server.log().contains("Bearer first"));
}

#[test]
fn without_an_issuer_a_protected_webhook_is_refused() {
    let server = Server::start();
    let (arm, sink) = (Arm::new(&server), Sink::start());
    arm.topic("grid", &json!({}));
    let refused = arm.call("PUT", HOOK, Some(&protected(&sink.url("/hook")))).expect(400);
    assert!(refused.text().contains("delivery.token_endpoint"), "{}", refused.text());
    assert_eq!(sink.handshakes().len(), 0);
}
