//! What may be said of a webhook destination and of giving up: the documented limits, each at its end and beyond.

use super::*;

const HOOK: &str = "~/topics/orders/eventSubscriptions/hook";
const PUSH: &str = "~/namespaces/ns1/topics/jobs/eventSubscriptions/hook";

/// A grid with an issuer of tokens, a topic and a namespace.
async fn grid() -> Grid {
    let grid = Grid::with(ControlOptions { token_issuer: true, ..options() }).await;
    grid.put_topic("orders").await;
    grid.put_namespace().await;
    grid
}

/// A subscription whose destination has these properties beside its URL.
fn destination(properties: &Value) -> Value {
    let mut body = webhook("https://a.example/in");
    for (name, value) in properties.as_object().unwrap() {
        body["properties"]["destination"]["properties"][name] = value.clone();
    }
    body
}

fn fixed(name: &str, value: &str) -> Value {
    json!({"name": name, "type": "Static", "properties": {"value": value}})
}

fn mappings(mappings: &[Value]) -> Value {
    destination(&json!({"deliveryAttributeMappings": mappings}))
}

#[tokio::test]
async fn ten_delivery_attributes_of_four_kibibytes_are_taken_and_no_more() {
    let grid = grid().await;
    let many = |count: usize| -> Vec<_> { (0..count).map(|n| fixed(&format!("x-{n}"), "v")).collect() };
    for (mapped, status) in [
        (many(10), 201),
        (many(11), 400),
        (vec![fixed("x", &"v".repeat(4096))], 201),
        (vec![fixed("x", &"v".repeat(4097))], 400),
        (vec![fixed("x", "a"), fixed("X", "b")], 400),
    ] {
        let answer = grid.call("PUT", HOOK, mappings(&mapped)).await.expect(status);
        if status == 201 {
            let shown = &answer.body["properties"]["destination"]["properties"]["deliveryAttributeMappings"];
            assert_eq!(shown.as_array().map(Vec::len), Some(mapped.len()));
        }
    }
}

#[tokio::test]
async fn an_attribute_is_no_secret_unless_it_is_said_to_be() {
    let grid = grid().await;
    let answer = grid.call("PUT", HOOK, mappings(&[fixed("x", "open")])).await.expect(201);
    let shown = &answer.body["properties"]["destination"]["properties"]["deliveryAttributeMappings"];
    assert_eq!(shown[0]["properties"], json!({"value": "open", "isSecret": false}));
}

#[tokio::test]
async fn authorization_may_be_an_attribute_where_no_tokens_are_asked_for() {
    let grid = grid().await;
    let mut body = mappings(&[fixed("Authorization", "Basic x")]);
    grid.call("PUT", HOOK, body.clone()).await.expect(201);
    let properties = &mut body["properties"]["destination"]["properties"];
    properties["azureActiveDirectoryTenantId"] = "contoso".into();
    properties["azureActiveDirectoryApplicationIdOrUri"] = "api://billing".into();
    let refused = grid.call("PUT", HOOK, body.clone()).await.expect(400);
    assert!(refused.message().contains("Authorization"), "{}", refused.message());
    body["properties"]["destination"]["properties"]["deliveryAttributeMappings"] = json!([]);
    grid.call("PUT", HOOK, body).await.expect(201);
}

#[tokio::test]
async fn the_least_version_of_tls_is_one_that_is_kept_to() {
    let grid = grid().await;
    for (version, status) in [("1.0", 201), ("1.1", 201), ("1.2", 201), ("1.3", 400), ("0.9", 400)] {
        let body = destination(&json!({"minimumTlsVersionAllowed": version}));
        let answer = grid.call("PUT", HOOK, body).await.expect(status);
        if status == 201 {
            let shown = &answer.body["properties"]["destination"]["properties"];
            assert_eq!(shown["minimumTlsVersionAllowed"], version);
        }
    }
}

/// Writes this into the stored destination of the one subscription there is, as an earlier build may have.
fn write_minimum_tls(grid: &Grid, pointer: &str, version: &str) {
    let stored = grid.store.dump().into_iter().find(|one| one.key.contains("eventsubscriptions")).unwrap();
    let mut value: Value = serde_json::from_slice(&stored.value).unwrap();
    let member = value["properties"].pointer_mut(pointer).unwrap();
    let (sealer, place) = (Sealer::new(MASTER), format!("{}#{pointer}", stored.key));
    let opened = sealer.open(&place, member["sealed"].as_str().unwrap()).unwrap();
    let mut destination: Value = serde_json::from_slice(&opened).unwrap();
    destination["properties"]["minimumTlsVersionAllowed"] = version.into();
    let sealed = sealer.seal(&TestRng, &place, destination.to_string().as_bytes());
    *member = json!({ "sealed": sealed });
    grid.store.overwrite(&stored.key, value.to_string().into_bytes());
}

/// A subscription of an earlier build whose least version of TLS is 1.3, which is refused by now.
async fn check_kept(path: &str, plain: Value, sealed: &str, patch: Value) {
    let grid = grid().await;
    grid.call("PUT", path, plain.clone()).await.expect(201);
    write_minimum_tls(&grid, sealed, "1.3");
    let grid = grid.restarted().await;
    let at = format!("/properties{sealed}/properties");
    let check = |answer: &Answer| {
        let shown = answer.body.pointer(&at).unwrap_or(&Value::Null);
        assert!((200..300).contains(&answer.status), "{path}: {}", answer.body);
        assert_eq!(shown["minimumTlsVersionAllowed"], "1.3", "{path}");
    };
    let with = |version: &str| {
        let mut body = plain.clone();
        body.pointer_mut(&at).unwrap()["minimumTlsVersionAllowed"] = version.into();
        body
    };
    check(&grid.call("PATCH", path, patch).await);
    check(&grid.get(path).await);
    // Whoever writes back what a GET shows is not refused either.
    check(&grid.call("PUT", path, with("1.3")).await);
    // What was given up is new when it comes again.
    grid.call("PUT", path, with("1.1")).await.expect(201);
    grid.call("PUT", path, with("1.3")).await.expect(400);
}

#[tokio::test]
async fn a_least_version_of_tls_that_an_earlier_build_took_is_kept_by_changes_of_other_things() {
    let plain = webhook("https://a.example/in");
    check_kept(HOOK, plain.clone(), "/destination", json!({ "labels": ["a"] })).await;
    let push = json!({ "deliveryMode": "Push", "push": plain["properties"].clone() });
    let in_namespace = json!({ "properties": { "deliveryConfiguration": push } });
    let patch = json!({ "properties": { "eventDeliverySchema": "CloudEventSchemaV1_0" } });
    check_kept(PUSH, in_namespace, "/deliveryConfiguration/push/destination", patch).await;
}

#[tokio::test]
async fn a_topics_retry_policy_is_taken_up_to_its_limits() {
    let grid = grid().await;
    for (policy, status) in [
        (json!({"maxDeliveryAttempts": 1, "eventTimeToLiveInMinutes": 1}), 201),
        (json!({"maxDeliveryAttempts": 30, "eventTimeToLiveInMinutes": 1440}), 201),
        (json!({"maxDeliveryAttempts": 31}), 400),
        (json!({"maxDeliveryAttempts": 0}), 400),
        (json!({"eventTimeToLiveInMinutes": 1441}), 400),
        (json!({"eventTimeToLiveInMinutes": 0}), 400),
    ] {
        let answer =
            grid.call("PUT", HOOK, webhook_with(&json!({"retryPolicy": policy}))).await.expect(status);
        if status == 201 {
            assert_eq!(answer.body["properties"]["retryPolicy"], policy);
        }
    }
    let answer = grid.call("PUT", HOOK, webhook("https://a.example/in")).await.expect(201);
    let default = json!({"maxDeliveryAttempts": 30, "eventTimeToLiveInMinutes": 1440});
    assert_eq!(answer.body["properties"]["retryPolicy"], default);
}

#[tokio::test]
async fn a_namespaces_push_is_given_up_by_limits_of_its_own() {
    let grid = grid().await;
    let destination = webhook("https://a.example/in")["properties"]["destination"].clone();
    let body = |limits: &Value| {
        let mut push = limits.clone();
        push["destination"] = destination.clone();
        json!({"properties": {"deliveryConfiguration": {"deliveryMode": "Push", "push": push}}})
    };
    let made = grid.call("PUT", PUSH, body(&json!({}))).await.expect(201);
    let push = &made.body["properties"]["deliveryConfiguration"]["push"];
    let retention =
        grid.get("~/namespaces/ns1/topics/jobs").await.body["properties"]["eventRetentionInDays"].clone();
    assert_eq!(
        (&push["maxDeliveryCount"], &push["eventTimeToLive"]),
        (&json!(10), &json!(format!("P{retention}D")))
    );
    for (limits, status) in [
        (json!({"maxDeliveryCount": 1, "eventTimeToLive": "PT1M"}), 201),
        (json!({"maxDeliveryCount": 10, "eventTimeToLive": format!("P{retention}D")}), 201),
        (json!({"maxDeliveryCount": 0}), 400),
        (json!({"maxDeliveryCount": 11}), 400),
        (json!({"eventTimeToLive": "PT59S"}), 400),
        (json!({"eventTimeToLive": format!("P{retention}DT1S")}), 400),
    ] {
        let answer = grid.call("PUT", PUSH, body(&limits)).await.expect(status);
        if status == 201 {
            let push = &answer.body["properties"]["deliveryConfiguration"]["push"];
            assert_eq!(
                (&push["maxDeliveryCount"], &push["eventTimeToLive"]),
                (&limits["maxDeliveryCount"], &limits["eventTimeToLive"])
            );
        }
    }
}
