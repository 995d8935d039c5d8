//! Makes what the plan wants by management calls, and tells the checker.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gridwire_core::event::{DeliverySchema, InputSchema};
use gridwire_core::filter::FilterSpec;
use gridwire_core::routing::TopicKind;
use gridwire_outside::Clock;
use http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::checker::{Mode, Subscription, Topic};
use crate::link::{self, NoAnswer};
use crate::plan::{BATCH_KILOBYTES_DEFAULT, ModePlan, ONWARD, SubscriptionPlan, TopicPlan};
use crate::process::MANAGEMENT_TOKEN;
use crate::world::World;

pub(crate) const SCOPE: &str = "11111111-2222-3333-4444-555555555555";
pub(crate) const GROUP: &str = "storms";
pub(crate) const NAMESPACE: &str = "space";
pub(crate) const ACCOUNT: &str = "letters";
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(300);

/// Where a topic's publishers and receivers go, and their key.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: String,
    pub(crate) key: String,
}

/// Makes everything; the answer is each topic's place, in the plan's order.
pub(crate) async fn setup(world: &Arc<World>) -> Vec<Place> {
    let plan = world.plan.clone();
    put(world, &format!("namespaces/{NAMESPACE}"), json!({ "location": "local", "properties": {} })).await;
    let mut places = Vec::new();
    for topic in &plan.topics {
        places.push(make_topic(world, topic).await);
    }
    for subscription in plan.subscriptions.iter().filter(|subscription| subscription.begins.is_none()) {
        if let ModePlan::Forward { host } = subscription.mode {
            make_onward(world, host).await;
        }
        let (resource, body) = body_of(world, subscription);
        put(world, &resource, body).await;
        world.checker().subscription(told_of(world, subscription));
    }
    places
}

/// Makes the topic that is forwarded to, and the subscription by which its events go on.
async fn make_onward(world: &Arc<World>, host: u8) {
    let topic = format!("namespaces/{NAMESPACE}/topics/{ONWARD}");
    put(world, &topic, json!({ "properties": {} })).await;
    let url = format!("http://h{host}.example/{ONWARD}");
    let destination = json!({ "endpointType": "WebHook", "properties": { "endpointUrl": url } });
    let delivery = json!({ "deliveryMode": "Push", "push": { "destination": destination } });
    let body = json!({ "properties": { "deliveryConfiguration": delivery } });
    put(world, &format!("{topic}/eventSubscriptions/{ONWARD}"), body).await;
}

async fn make_topic(world: &Arc<World>, topic: &TopicPlan) -> Place {
    let custom = topic.kind == TopicKind::Custom;
    let resource = resource_of(topic);
    let properties = match topic.schema {
        InputSchema::EventGrid if custom => json!({ "inputSchema": "EventGridSchema" }),
        _ if custom => json!({ "inputSchema": "CloudEventSchemaV1_0" }),
        _ => json!({}),
    };
    let made = put(world, &resource, json!({ "location": "local", "properties": properties })).await;
    let id = made["id"].as_str().expect("a resource has an id").to_owned();
    world.checker().topic(Topic { name: topic.name.to_owned(), kind: topic.kind, resource_id: id });
    let (keyed, path) = if custom {
        (resource.clone(), format!("/{SCOPE}/{GROUP}/{resource}"))
    } else {
        (format!("namespaces/{NAMESPACE}"), format!("/{SCOPE}/{GROUP}/{resource}"))
    };
    let keys = manage(world, "POST", &format!("{keyed}/listKeys"), Value::Null).await;
    Place { path, key: keys["key1"].as_str().expect("a first key").to_owned() }
}

fn resource_of(topic: &TopicPlan) -> String {
    match topic.kind {
        TopicKind::Custom => format!("topics/{}", topic.name),
        TopicKind::Domain => format!("domains/{}", topic.name),
        TopicKind::Namespace => format!("namespaces/{NAMESPACE}/topics/{}", topic.name),
    }
}

/// The container of a subscription's dead letters.
pub(crate) fn container(subscription: &str) -> String {
    format!("of-{subscription}")
}

/// Makes a subscription while everything fails: again and again, until it is told to be there.
pub(crate) async fn subscribe_in_the_storm(world: &Arc<World>, plan: &SubscriptionPlan) {
    let (resource, body) = body_of(world, plan);
    world.checker().subscribing(told_of(world, plan));
    while !try_manage(world, "PUT", &resource, &body).await.is_ok_and(|status| status.is_success()) {
        world.clock.sleep(RETRY).await;
    }
    world.checker().subscribed(&plan.name);
}

/// Removes one in the same way.
pub(crate) async fn unsubscribe_in_the_storm(world: &Arc<World>, plan: &SubscriptionPlan) {
    let (resource, _) = body_of(world, plan);
    world.checker().unsubscribing(&plan.name);
    loop {
        let told = try_manage(world, "DELETE", &resource, &Value::Null).await;
        if told.is_ok_and(|status| status.is_success() || status == StatusCode::NOT_FOUND) {
            break;
        }
        world.clock.sleep(RETRY).await;
    }
    world.checker().unsubscribed(&plan.name);
}

async fn try_manage(
    world: &Arc<World>,
    method: &str,
    resource: &str,
    body: &Value,
) -> Result<StatusCode, NoAnswer> {
    let answer = link::call(world, management(method, resource, body), PATIENCE).await;
    let shown = answer.as_ref().map(http::Response::status);
    world.note(format_args!("{method} {resource}: {shown:?}"));
    Ok(answer?.status())
}

/// The management call that makes a subscription.
fn body_of(world: &World, plan: &SubscriptionPlan) -> (String, Value) {
    let topic = &world.plan.topics[plan.topic];
    let custom = topic.kind == TopicKind::Custom;
    let account = format!(
        "/subscriptions/{SCOPE}/resourceGroups/{GROUP}/providers/Microsoft.Storage/storageAccounts/{ACCOUNT}"
    );
    let letters = json!({
        "endpointType": "StorageBlob",
        "properties": { "resourceId": account, "blobContainerName": container(&plan.name) },
    });
    let mut destination = destination(plan);
    let body = if custom {
        let event_grid = match plan.mode {
            ModePlan::Push { schema, .. } => schema == DeliverySchema::EventGrid,
            ModePlan::Forward { .. } => {
                let topic = format!(
                    "/subscriptions/{SCOPE}/resourceGroups/{GROUP}/providers/Microsoft.EventGrid/namespaces/{NAMESPACE}/topics/{ONWARD}"
                );
                destination =
                    json!({ "endpointType": "NamespaceTopic", "properties": { "resourceId": topic } });
                false
            }
            ModePlan::Pull { .. } => panic!("custom topics push"),
        };
        let mut properties = json!({
            "destination": destination,
            "filter": plan.filter.to_basic(),
            "eventDeliverySchema": if event_grid { "EventGridSchema" } else { "CloudEventSchemaV1_0" },
            "retryPolicy": {
                "maxDeliveryAttempts": plan.attempts_max,
                "eventTimeToLiveInMinutes": plan.time_to_live_minutes,
            },
        });
        if plan.dead_letter {
            properties["deadLetterDestination"] = letters;
        }
        properties
    } else {
        let mut queue = json!({
            "maxDeliveryCount": plan.attempts_max,
            "eventTimeToLive": format!("PT{}M", plan.time_to_live_minutes),
        });
        if plan.dead_letter {
            queue["deadLetterDestinationWithResourceIdentity"] =
                json!({ "identity": { "type": "SystemAssigned" }, "deadLetterDestination": letters });
        }
        let configuration = match plan.mode {
            ModePlan::Pull { lock_seconds, .. } => {
                queue["receiveLockDurationInSeconds"] = lock_seconds.into();
                json!({ "deliveryMode": "Queue", "queue": queue })
            }
            ModePlan::Forward { .. } => panic!("namespace topics forward nothing"),
            ModePlan::Push { .. } => {
                queue["destination"] = destination;
                json!({ "deliveryMode": "Push", "push": queue })
            }
        };
        json!({
            "deliveryConfiguration": configuration,
            "eventDeliverySchema": "CloudEventSchemaV1_0",
            "filtersConfiguration": plan.filter.to_namespace(),
        })
    };
    (format!("{}/eventSubscriptions/{}", resource_of(topic), plan.name), json!({ "properties": body }))
}

/// Its resource id.
pub(crate) fn id_of(world: &World, plan: &SubscriptionPlan) -> String {
    let topic = resource_of(&world.plan.topics[plan.topic]);
    below_provider(&format!("{topic}/eventSubscriptions/{}", plan.name))
}

fn below_provider(resource: &str) -> String {
    format!("/subscriptions/{SCOPE}/resourceGroups/{GROUP}/providers/Microsoft.EventGrid/{resource}")
}

fn destination(plan: &SubscriptionPlan) -> Value {
    let ModePlan::Push { host, batching, .. } = plan.mode else { return Value::Null };
    let mut properties = json!({ "endpointUrl": format!("http://h{host}.example/{}", plan.name) });
    if let Some(batching) = batching {
        properties["maxEventsPerBatch"] = batching.events_max.into();
        let kilobytes = batching.bytes_max >> 10;
        if kilobytes != BATCH_KILOBYTES_DEFAULT {
            properties["preferredBatchSizeInKilobytes"] = kilobytes.into();
        }
    }
    json!({ "endpointType": "WebHook", "properties": properties })
}

/// What the checker is told of a subscription.
fn told_of(world: &World, plan: &SubscriptionPlan) -> Subscription {
    let topic = &world.plan.topics[plan.topic];
    let filter = match topic.kind {
        TopicKind::Custom | TopicKind::Domain => FilterSpec::from_basic(&plan.filter.to_basic()),
        TopicKind::Namespace => FilterSpec::from_namespace(&plan.filter.to_namespace()),
    };
    let haste = world.plan.haste;
    let mode = match plan.mode {
        ModePlan::Pull { lock_seconds, .. } => Mode::Pull { lock: Duration::from_secs(lock_seconds) / haste },
        ModePlan::Push { schema, batching, .. } => Mode::Push { schema, batching },
        ModePlan::Forward { .. } => Mode::Push { schema: DeliverySchema::CloudEvent, batching: None },
    };
    Subscription {
        name: plan.name.clone(),
        topic: topic.name.to_owned(),
        mode,
        filter: filter.expect("the simulation's filters are right"),
        attempts_max: plan.attempts_max,
        time_to_live: Duration::from_secs(60 * plan.time_to_live_minutes) / haste,
        dead_letter: plan.dead_letter,
        forwarded: matches!(plan.mode, ModePlan::Forward { .. }),
    }
}

async fn put(world: &Arc<World>, resource: &str, body: Value) -> Value {
    manage(world, "PUT", resource, body).await
}

fn management(method: &str, resource: &str, body: &Value) -> Request<Bytes> {
    let target = format!("{}?api-version=2025-02-15", below_provider(resource));
    let authorization = format!("Bearer {MANAGEMENT_TOKEN}");
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    link::request(method, &target, &headers, body)
}

async fn manage(world: &Arc<World>, method: &str, resource: &str, body: Value) -> Value {
    let answer = link::call(world, management(method, resource, &body), PATIENCE).await;
    let answer = answer.unwrap_or_else(|none| panic!("{method} {resource}: {none:?}"));
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(answer.status().is_success(), "{method} {resource}: {} {text}", answer.status());
    serde_json::from_str(&text).unwrap_or(Value::Null)
}
