//! Event subscriptions whose destination is a namespace topic.

use gridwire_core::routing::{ForwardTarget, Place};

use super::*;

const SUBSCRIPTION: &str = "~/topics/orders/eventSubscriptions/onward";

fn topic_id(name: &str) -> String {
    format!(
        "/subscriptions/{SUB}/resourceGroups/rg/providers/Microsoft.EventGrid/namespaces/ns1/topics/{name}"
    )
}

fn to_topic(id: &str) -> Value {
    json!({ "endpointType": "NamespaceTopic", "properties": { "resourceId": id } })
}

fn onward(more: &Value) -> Value {
    let mut body = json!({ "properties": { "destination": to_topic(&topic_id("jobs")) } });
    for (name, value) in more.as_object().unwrap() {
        body["properties"][name] = value.clone();
    }
    body
}

/// A custom topic of the Event Grid schema, and the namespace topic.
async fn grid() -> Grid {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    grid.put_namespace().await;
    grid
}

#[tokio::test]
async fn a_namespace_topic_is_a_destination_that_nobody_has_to_consent_for() {
    let grid = grid().await;
    let made = grid.call("PUT", SUBSCRIPTION, onward(&json!({}))).await.expect(201).body;
    let properties = &made["properties"];
    assert_eq!(properties["destination"], to_topic(&topic_id("jobs")));
    assert_eq!(properties["eventDeliverySchema"], "CloudEventSchemaV1_0", "the only one that it takes");
    assert_eq!(properties["provisioningState"], "Succeeded");
    let check = |grid: &Grid| {
        let table = grid.control.table();
        let route = table.subscriptions().into_iter().find(|route| route.name == "onward").unwrap();
        let target = ForwardTarget { namespace: Place::new(SUB, "rg", "ns1"), topic: "jobs".to_owned() };
        assert_eq!(route.forward.as_ref(), Some(&target));
        assert!(route.webhook.is_none());
        assert_eq!(table.forward_target(&target).unwrap().resource_id, topic_id("jobs"));
    };
    check(&grid);
    assert_eq!(grid.get(SUBSCRIPTION).await.expect(200).body["properties"], *properties);
    check(&grid.restarted().await);
}

#[tokio::test]
async fn domains_and_their_topics_forward_too_and_the_case_of_an_id_does_not_matter() {
    let grid = grid().await;
    grid.call("PUT", "~/domains/malls", json!({ "location": "local" })).await.expect(201);
    let id = topic_id("jobs").to_ascii_uppercase();
    let identity = json!({ "type": "SystemAssigned" });
    let wrapped = json!({ "properties": {
        "deliveryWithResourceIdentity": { "identity": identity, "destination": to_topic(&id) },
    } });
    for path in
        ["~/domains/malls/eventSubscriptions/all", "~/domains/malls/topics/north/eventSubscriptions/all"]
    {
        let made = grid.call("PUT", path, wrapped.clone()).await.expect(201).body;
        assert_eq!(
            made["properties"]["deliveryWithResourceIdentity"]["destination"],
            to_topic(&id),
            "{path}"
        );
    }
    let table = grid.control.table();
    assert_eq!(table.subscriptions().iter().filter(|route| route.forward.is_some()).count(), 2);
}

#[tokio::test]
async fn what_cannot_be_forwarded_to_is_refused_and_nothing_is_kept() {
    let grid = grid().await;
    let stored = grid.store.dump();
    let custom = topic_id("jobs").replace("namespaces/ns1/topics/jobs", "topics/orders");
    for (id, message) in [
        (topic_id("none"), format!("The destination does not exist: there is no namespace topic `{}`.", topic_id("none"))),
        (custom, "The property `properties.destination.properties.resourceId` must be the resource id of a namespace topic.".to_owned()),
    ] {
        let body = json!({ "properties": { "destination": to_topic(&id) } });
        let answer = grid.call("PUT", SUBSCRIPTION, body).await.expect(400);
        assert_eq!((answer.code(), answer.message()), ("InvalidRequest", message.as_str()));
    }
    let schema = onward(&json!({ "eventDeliverySchema": "EventGridSchema" }));
    let answer = grid.call("PUT", SUBSCRIPTION, schema).await.expect(400);
    assert!(answer.message().contains("must be `CloudEventSchemaV1_0`"), "{}", answer.message());
    assert_eq!(grid.store.dump().len(), stored.len());
    grid.get(SUBSCRIPTION).await.expect(404);
}

#[tokio::test]
async fn a_namespace_topic_cannot_forward_so_there_are_no_rings() {
    let grid = grid().await;
    grid.call("PUT", "~/namespaces/ns1/topics/other", json!({})).await.expect(201);
    let push = json!({ "destination": to_topic(&topic_id("other")) });
    let body = json!({ "properties": { "deliveryConfiguration": { "deliveryMode": "Push", "push": push } } });
    let path = "~/namespaces/ns1/topics/jobs/eventSubscriptions/onward";
    let answer = grid.call("PUT", path, body).await.expect(400);
    assert!(answer.message().contains("cannot forward to another"), "{}", answer.message());
    assert!(grid.control.table().subscriptions().iter().all(|route| route.forward.is_none()));
}

#[tokio::test]
async fn a_target_may_be_deleted_and_what_it_leaves_can_be_changed_but_not_pointed_there_anew() {
    let grid = grid().await;
    grid.call("PUT", SUBSCRIPTION, onward(&json!({}))).await.expect(201);
    grid.call("DELETE", "~/namespaces/ns1/topics/jobs", ()).await.expect(204);
    let changed = grid.call("PATCH", SUBSCRIPTION, json!({ "labels": ["a"] })).await.expect(201).body;
    assert_eq!(changed["properties"]["destination"], to_topic(&topic_id("jobs")));
    grid.call("PUT", "~/topics/orders/eventSubscriptions/second", onward(&json!({}))).await.expect(400);
}

#[tokio::test]
async fn a_destination_can_be_exchanged_for_the_other_kind() {
    let grid = grid().await;
    grid.put_subscription("orders", "onward").await;
    let to_jobs = json!({ "destination": to_topic(&topic_id("jobs")) });
    // It was made with the topic's schema, which a namespace topic does not take.
    grid.call("PATCH", SUBSCRIPTION, to_jobs.clone()).await.expect(400);
    let mut both = to_jobs;
    both["eventDeliverySchema"] = "CloudEventSchemaV1_0".into();
    grid.call("PATCH", SUBSCRIPTION, both).await.expect(201);
    for action in ["getFullUrl", "revalidate", "rotateSigningKey"] {
        let answer = grid.call("POST", &format!("{SUBSCRIPTION}/{action}"), ()).await.expect(400);
        assert!(
            answer.message().contains("forwarded to a namespace topic"),
            "{action}: {}",
            answer.message()
        );
    }
    let none = grid.call("POST", &format!("{SUBSCRIPTION}/getDeliveryAttributes"), ()).await.expect(200);
    assert_eq!(none.body["value"], json!([]));
    let back = grid.call("PUT", SUBSCRIPTION, webhook("https://a.example/in")).await.expect(201).body;
    assert_eq!(back["properties"]["destination"]["endpointType"], "WebHook");
}
