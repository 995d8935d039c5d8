//! What changes do to the routing table and the delivery port.

use gridwire_core::patience::DeadLetterPolicy;
use gridwire_core::retry::{RetryPolicy, Tier};
use gridwire_core::routing::{Batching, DeliveryMode, Place, TopicKind};

use super::*;

fn place(name: &str) -> Place {
    Place::new(SUB, "rg", name)
}

#[tokio::test]
async fn every_change_is_in_use_when_it_is_answered() {
    let grid = Grid::new().await;
    assert_eq!(grid.port.installs(), 1);
    grid.put_topic("Orders").await;
    assert_eq!(grid.port.installs(), 2);
    let topic = Arc::clone(&grid.port.latest().topics[&place("orders")]);
    assert_eq!((topic.name.as_str(), topic.kind), ("Orders", TopicKind::Custom));
    assert_eq!(topic.retention, Duration::from_secs(86_400));
    assert!(topic.credentials.local_auth);
    let keys = grid.call("POST", "~/topics/orders/listKeys", ()).await.body;
    assert!(topic.credentials.accept_key(keys["key2"].as_str().unwrap()));

    grid.put_subscription("orders", "Audit").await;
    let table = grid.port.latest();
    let subscription = &table.topics[&place("orders")].subscriptions["audit"];
    assert_eq!(subscription.topic, topic.number);
    assert_eq!(subscription.webhook.as_ref().unwrap().url, "https://a.example/in");
    assert_eq!(
        subscription.policy.mode,
        DeliveryMode::Push { retry: RetryPolicy { tier: Tier::Basic }, batching: None }
    );
    assert_eq!(subscription.policy.attempts_max, 30);
    assert_eq!(subscription.policy.time_to_live, Duration::from_secs(1440 * 60));
    assert_eq!(subscription.policy.dead_letter, None);
    assert!(Arc::ptr_eq(&grid.control.table(), &table));

    grid.call("DELETE", "~/topics/orders/eventSubscriptions/audit", ()).await.expect(204);
    assert!(grid.port.latest().topics[&place("orders")].subscriptions.is_empty());
    grid.call("DELETE", "~/topics/orders", ()).await.expect(204);
    assert!(grid.port.latest().by_number.is_empty());
}

#[tokio::test]
async fn what_changes_nothing_installs_nothing() {
    let grid = Grid::new().await;
    let etag = grid.put_topic("orders").await.header("etag").to_owned();
    let installs = grid.port.installs();
    assert_eq!(grid.put_topic("orders").await.header("etag"), etag);
    grid.call("DELETE", "~/topics/other", ()).await.expect(204);
    grid.get("~/topics/orders").await.expect(200);
    assert_eq!(grid.port.installs(), installs);
}

#[tokio::test]
async fn an_unchanged_topic_is_shared_with_the_last_table() {
    let grid = Grid::new().await;
    grid.put_topic("one").await.expect(201);
    grid.put_topic("two").await.expect(201);
    let before = grid.port.latest();
    grid.put_subscription("two", "audit").await;
    let after = grid.port.latest();
    assert!(Arc::ptr_eq(&before.topics[&place("one")], &after.topics[&place("one")]));
    assert!(!Arc::ptr_eq(&before.topics[&place("two")], &after.topics[&place("two")]));
}

#[tokio::test]
async fn either_batch_setting_brings_the_default_of_the_other_and_one_event_is_no_batch() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    grid.put_namespace().await;
    let batching = |events_max, bytes_max| Some(Batching { events_max, bytes_max });
    for (settings, expected, shown) in [
        (json!({}), None, [1, 64]),
        (json!({"maxEventsPerBatch": 1, "preferredBatchSizeInKilobytes": 64}), None, [1, 64]),
        (json!({"preferredBatchSizeInKilobytes": 1024}), None, [1, 1024]),
        (json!({"maxEventsPerBatch": 5_000}), batching(5_000, 64 << 10), [5_000, 64]),
        (json!({"maxEventsPerBatch": 2, "preferredBatchSizeInKilobytes": 1}), batching(2, 1 << 10), [2, 1]),
    ] {
        let mut properties = json!({"endpointUrl": "https://a.example/in"});
        for (name, value) in settings.as_object().unwrap() {
            properties[name] = value.clone();
        }
        let destination = json!({"endpointType": "WebHook", "properties": properties});
        let path = "~/topics/orders/eventSubscriptions/one";
        let body = json!({"properties": {"destination": destination}});
        let made = grid.call("PUT", path, body).await.expect(201);
        let written = &made.body["properties"]["destination"]["properties"];
        let written = [&written["maxEventsPerBatch"], &written["preferredBatchSizeInKilobytes"]];
        assert_eq!(written, [&json!(shown[0]), &json!(shown[1])], "{settings}");
        let table = grid.port.latest();
        let route = &table.topics[&place("orders")].subscriptions["one"];
        assert_eq!(route.policy.batching(), expected, "{settings}");

        let path = "~/namespaces/ns1/topics/jobs/eventSubscriptions/one";
        let push = json!({"deliveryMode": "Push", "push": {"destination": destination}});
        let body = json!({"properties": {"deliveryConfiguration": push}});
        grid.call("PUT", path, body).await.expect(201);
        let table = grid.port.latest();
        let route = &table.namespaces[&place("ns1")].topics["jobs"].subscriptions["one"];
        assert_eq!(route.policy.batching(), expected, "{settings}");
    }
}

#[tokio::test]
async fn numbers_are_never_used_again() {
    let grid = Grid::new().await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        grid.put_topic("orders").await;
        grid.put_subscription("orders", "one").await;
        grid.put_subscription("orders", "two").await;
        grid.call("DELETE", "~/topics/orders/eventSubscriptions/one", ()).await.expect(204);
        grid.put_subscription("orders", "one").await;
        let topic = Arc::clone(&grid.port.latest().topics[&place("orders")]);
        let mut slots: Vec<_> = topic.subscriptions.values().map(|one| (one.slot, one.number)).collect();
        slots.sort();
        seen.push((topic.number, slots));
        grid.call("DELETE", "~/topics/orders", ()).await.expect(204);
    }
    let (first, second) = (&seen[0], &seen[1]);
    assert_ne!(first.0, second.0);
    assert_eq!(first.1.len(), 2);
    assert!(first.1.iter().all(|(_, number)| second.1.iter().all(|(_, other)| number != other)));
    // Slots begin anew with the topic's number.
    let slots =
        |one: &(_, Vec<(gridwire_core::ids::Slot, _)>)| one.1.iter().map(|one| one.0).collect::<Vec<_>>();
    assert_eq!(slots(first), slots(second));
    assert_eq!(slots(first), [gridwire_core::ids::Slot(2), gridwire_core::ids::Slot(3)]);
}

#[tokio::test]
async fn a_namespace_routes_to_its_topics_by_its_own_and_their_keys() {
    let grid = Grid::new().await;
    grid.put_namespace().await;
    let path = "~/namespaces/ns1/topics/jobs/eventSubscriptions/work";
    let dead = json!({"identity": {"type": "SystemAssigned"}, "deadLetterDestination": {
        "endpointType": "StorageBlob", "properties": {"resourceId": STORAGE, "blobContainerName": "letters"}}});
    let body = queue(&json!({"receiveLockDurationInSeconds": 120, "maxDeliveryCount": 3,
        "deadLetterDestinationWithResourceIdentity": dead}));
    grid.call("PUT", path, body).await.expect(201);
    let table = grid.port.latest();
    let namespace = &table.namespaces[&place("ns1")];
    let topic = &namespace.topics["jobs"];
    assert_eq!(topic.kind, TopicKind::Namespace);
    assert!(table.topics.is_empty());
    assert!(Arc::ptr_eq(topic, &table.by_number[&topic.number]));
    let keys = grid.call("POST", "~/namespaces/ns1/listKeys", ()).await.body;
    let own = grid.call("POST", "~/namespaces/ns1/topics/jobs/listKeys", ()).await.body;
    assert!(namespace.credentials.accept_key(keys["key1"].as_str().unwrap()));
    assert!(topic.credentials.accept_key(own["key1"].as_str().unwrap()));
    assert!(!topic.credentials.accept_key(keys["key1"].as_str().unwrap()));
    let subscription = &topic.subscriptions["work"];
    assert_eq!(subscription.namespace_name, "ns1");
    assert_eq!(subscription.policy.mode, DeliveryMode::Pull { lock: Duration::from_secs(120) });
    assert_eq!(subscription.policy.attempts_max, 3);
    assert_eq!(subscription.policy.time_to_live, Duration::from_secs(86_400));
    let dead = subscription.dead_letter.as_ref().unwrap();
    assert_eq!((dead.account.as_str(), dead.container.as_str()), ("dead01", "letters"));
    assert_eq!(subscription.policy.dead_letter, Some(DeadLetterPolicy::documented(Tier::Namespace)));
    // A longer retention lengthens the default time to live, a shorter one cuts a longer wish.
    let retention = |days: u32| json!({"properties": {"eventRetentionInDays": days}});
    let topic_path = "~/namespaces/ns1/topics/jobs";
    grid.call("PATCH", topic_path, retention(7)).await.expect(200);
    let policy = |grid: &Grid| {
        let table = grid.port.latest();
        table.namespaces[&place("ns1")].topics["jobs"].subscriptions["work"].policy.clone()
    };
    assert_eq!(policy(&grid).time_to_live, Duration::from_secs(7 * 86_400));
    let change = json!({"properties": {"deliveryConfiguration": {"queue": {"eventTimeToLive": "P5D"}}}});
    grid.call("PATCH", path, change).await.expect(200);
    grid.call("PATCH", topic_path, retention(2)).await.expect(200);
    assert_eq!(policy(&grid).time_to_live, Duration::from_secs(2 * 86_400));
}

#[tokio::test]
async fn disabled_local_auth_and_new_keys_reach_the_route() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    let old = grid.call("POST", "~/topics/orders/listKeys", ()).await.body;
    grid.call("POST", "~/topics/orders/regenerateKey", json!({"keyName": "key1"})).await.expect(200);
    let credentials = |grid: &Grid| grid.port.latest().topics[&place("orders")].credentials.clone();
    assert!(!credentials(&grid).accept_key(old["key1"].as_str().unwrap()));
    assert!(credentials(&grid).accept_key(old["key2"].as_str().unwrap()));
    grid.call("PATCH", "~/topics/orders", json!({"properties": {"disableLocalAuth": true}}))
        .await
        .expect(200);
    assert!(!credentials(&grid).accept_key(old["key2"].as_str().unwrap()));
}
