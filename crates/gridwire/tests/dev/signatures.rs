//! Deliveries that prove where they come from (Standard Webhooks).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::json;

use crate::support::arm::{GROUP, SUBSCRIPTION};
use crate::support::dev::{Dev, without_jitter};
use crate::support::time::since_epoch;
use crate::support::{Arm, Delivery, Reply, Server, Sink, events, program};

const HOOK: &str = "topics/grid/eventSubscriptions/hook";

/// Runs `gridwire subscription signing` and gives back the keys that sign then.
fn signing(server: &Server, command: &[&str]) -> Vec<String> {
    let output = program()
        .args(["subscription", "signing"])
        .args(command)
        .args(["--output", "json", "--data-dir"])
        .arg(server.data_dir())
        .env("GRIDWIRE_SUBSCRIPTION_ID", SUBSCRIPTION)
        .env("GRIDWIRE_RESOURCE_GROUP", GROUP)
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let keys: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let key = |key: &serde_json::Value| key["key"].as_str().expect("a key").to_owned();
    keys.as_array().expect("an array").iter().map(key).collect()
}

/// As a receiver does: whether one of the signatures is that of `key`.
fn is_signed(delivery: &Delivery, key: &str) -> bool {
    let secret = STANDARD.decode(key.strip_prefix("whsec_").expect("the prefix")).expect("base64");
    let header = |name| delivery.header(name).unwrap_or_default();
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let mut content = format!("{id}.{timestamp}.").into_bytes();
    content.extend_from_slice(&delivery.body);
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    header("webhook-signature").split(' ').filter_map(|one| one.strip_prefix("v1,")).any(|one| {
        let tag = STANDARD.decode(one).expect("base64");
        hmac::verify(&secret, &content, &tag).is_ok()
    })
}

#[test]
fn every_attempt_is_signed_by_every_live_key_under_one_id() {
    let mut server = Server::launch(without_jitter());
    let sink = Sink::scripted(|_, before| Reply::Status(if before < 3 { 503 } else { 200 }));
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({}));
    arm.webhook(&topic, "hook", &sink.url("/hook"), &json!({}));
    assert_eq!(signing(&server, &["list", "grid/hook"]), Vec::<String>::new());
    let first = signing(&server, &["rotate", "grid/hook"]).remove(0);
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("one")]))).expect(200);
    sink.wait_at("/hook", 1, Duration::from_secs(10));
    Dev(&server).drain();

    let keys = signing(&server, &["rotate", "grid/hook", "--overlap", "PT30M"]);
    assert_eq!((keys.len(), &keys[0]), (2, &first));
    Dev(&server).advance("1m");
    Dev(&server).drain();
    server.kill9();
    server.restart();
    Dev(&server).advance("40m");
    Dev(&server).drain();
    let attempts = sink.at("/hook");
    assert_eq!(attempts.len(), 4, "three failures and a success");
    let ids: Vec<_> = attempts.iter().map(|attempt| attempt.header("webhook-id")).collect();
    assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    // Receivers compare the time with their own clocks, however far the virtual one has come.
    let now = since_epoch().as_secs();
    for attempt in &attempts {
        let time = attempt.header("webhook-timestamp").and_then(|time| time.parse().ok()).expect("a time");
        assert!(now.abs_diff(time) < 120, "{time} at {now}");
    }
    let signed: Vec<_> =
        attempts.iter().map(|one| (is_signed(one, &keys[0]), is_signed(one, &keys[1]))).collect();
    assert_eq!(signed[0], (true, false));
    assert_eq!(signed[1], (true, true), "both sign during the overlap");
    assert_eq!(attempts[0].header("aeg-event-type"), Some("Notification"), "beside the other headers");

    server.send(&topic.publish(events::JSON, &json!([events::grid_event("two")]))).expect(200);
    let second = sink.wait_at("/hook", 5, Duration::from_secs(10)).pop().expect("a delivery");
    assert_ne!(second.header("webhook-id"), ids[0]);
    assert_eq!((is_signed(&second, &keys[0]), is_signed(&second, &keys[1])), (false, true));

    let shown = Arm::new(&server).get(HOOK).to_string();
    let log = server.log();
    assert!(keys.iter().all(|key| !shown.contains(&key[6..]) && !log.contains(&key[6..])));
    assert_eq!(signing(&server, &["remove", "grid/hook"]), Vec::<String>::new());
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("three")]))).expect(200);
    let third = sink.wait_at("/hook", 6, Duration::from_secs(10)).pop().expect("a delivery");
    assert_eq!(third.header("webhook-signature"), None);
}
