//! Management calls, and what they make: topics, namespaces and their subscriptions.

use serde_json::{Value, json};

use super::client::{Answer, Request};
use super::server::Server;

pub(crate) const SUBSCRIPTION: &str = "11111111-2222-3333-4444-555555555555";
pub(crate) const GROUP: &str = "scenarios";
pub(crate) const VERSION: &str = "2025-02-15";
pub(crate) const NAMESPACE_VERSION: &str = "2024-06-01";

/// The management API of a server.
pub(crate) struct Arm<'a> {
    server: &'a Server,
}

/// A custom topic that was made.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    /// Below the provider, e.g. `topics/orders`.
    pub(crate) resource: String,
    /// Where to publish, api-version included.
    pub(crate) path: String,
    pub(crate) key: String,
    pub(crate) id: String,
}

/// A namespace that was made, with its first key.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    pub(crate) name: String,
    pub(crate) prefix: String,
    pub(crate) key: String,
}

/// The path of everything in the tests' resource group.
pub(crate) fn group_path() -> String {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.EventGrid")
}

impl<'a> Arm<'a> {
    pub(crate) fn new(server: &'a Server) -> Self {
        Self { server }
    }

    /// A call by its path below the provider.
    pub(crate) fn call(&self, method: &str, resource: &str, body: Option<&Value>) -> Answer {
        let request = Request::new(method, format!("{}/{resource}?api-version={VERSION}", group_path()))
            .with("authorization", format!("Bearer {}", self.server.token));
        self.server.send(&match body {
            Some(body) => request.json(body),
            None => request,
        })
    }

    #[track_caller]
    pub(crate) fn get(&self, resource: &str) -> Value {
        self.call("GET", resource, None).expect(200).json()
    }

    #[track_caller]
    pub(crate) fn put(&self, resource: &str, body: &Value) -> Value {
        self.call("PUT", resource, Some(body)).expect(201).json()
    }

    #[track_caller]
    pub(crate) fn key(&self, resource: &str) -> String {
        let keys = self.call("POST", &format!("{resource}/listKeys"), None).expect(200).json();
        keys["key1"].as_str().expect("a first key").to_owned()
    }

    /// Makes a custom topic.
    #[track_caller]
    pub(crate) fn topic(&self, name: &str, properties: &Value) -> Topic {
        let resource = format!("topics/{name}");
        let made = self.put(&resource, &json!({ "location": "local", "properties": properties }));
        assert_eq!(made["properties"]["provisioningState"], "Succeeded", "{made}");
        Topic {
            key: self.key(&resource),
            id: made["id"].as_str().expect("an id").to_owned(),
            path: format!("/{SUBSCRIPTION}/{GROUP}/{resource}/api/events?api-version=2018-01-01"),
            resource,
        }
    }

    /// Makes a subscription of a custom topic: to `url`, with `more` properties.
    #[track_caller]
    pub(crate) fn webhook(&self, topic: &Topic, name: &str, url: &str, more: &Value) -> Value {
        let resource = format!("{}/eventSubscriptions/{name}", topic.resource);
        self.put(&resource, &webhook_body(url, more))
    }

    /// Makes a namespace.
    #[track_caller]
    pub(crate) fn namespace(&self, name: &str) -> Namespace {
        let resource = format!("namespaces/{name}");
        let sku = json!({ "name": "Standard", "capacity": 1 });
        self.put(&resource, &json!({ "location": "local", "sku": sku, "properties": {} }));
        Namespace {
            name: name.to_owned(),
            prefix: format!("/{SUBSCRIPTION}/{GROUP}/namespaces/{name}"),
            key: self.key(&resource),
        }
    }

    #[track_caller]
    pub(crate) fn namespace_topic(&self, namespace: &Namespace, topic: &str) {
        self.put(&format!("namespaces/{}/topics/{topic}", namespace.name), &json!({ "properties": {} }));
    }

    /// Makes a pull subscription; `queue` are its queue's properties.
    #[track_caller]
    pub(crate) fn queue(
        &self,
        namespace: &Namespace,
        topic: &str,
        name: &str,
        queue: &Value,
        filters: &Value,
    ) {
        let resource = format!("namespaces/{}/topics/{topic}/eventSubscriptions/{name}", namespace.name);
        self.put(&resource, &queue_body(queue, filters));
    }

    /// Makes a push subscription of a namespace topic; `more` are more properties of its push configuration.
    #[track_caller]
    pub(crate) fn push(&self, namespace: &Namespace, topic: &str, name: &str, url: &str, more: &Value) {
        let resource = format!("namespaces/{}/topics/{topic}/eventSubscriptions/{name}", namespace.name);
        let mut push =
            json!({ "destination": { "endpointType": "WebHook", "properties": { "endpointUrl": url } } });
        merge(&mut push, more);
        self.put(
            &resource,
            &json!({ "properties": {
                "deliveryConfiguration": { "deliveryMode": "Push", "push": push },
                "eventDeliverySchema": "CloudEventSchemaV1_0",
            } }),
        );
    }
}

impl Topic {
    /// A publish request of this media type.
    pub(crate) fn publish(&self, content_type: &str, body: &Value) -> Request {
        Request::post(&self.path)
            .with("aeg-sas-key", &self.key)
            .with("content-type", content_type)
            .body(body.to_string())
    }
}

impl Namespace {
    pub(crate) fn authorization(&self) -> String {
        format!("SharedAccessKey {}", self.key)
    }

    /// The request for an operation such as `topics/t:publish`, perhaps with a query.
    pub(crate) fn request(&self, operation: &str, query: &str) -> Request {
        let path = format!("{}/{operation}?api-version={NAMESPACE_VERSION}{query}", self.prefix);
        Request::post(path).with("authorization", self.authorization())
    }

    /// A publish of a batch.
    pub(crate) fn publish(&self, topic: &str, events: &Value) -> Request {
        self.request(&format!("topics/{topic}:publish"), "")
            .with("content-type", "application/cloudevents-batch+json; charset=utf-8")
            .body(events.to_string())
    }
}

pub(crate) fn webhook_body(url: &str, more: &Value) -> Value {
    let mut properties =
        json!({ "destination": { "endpointType": "WebHook", "properties": { "endpointUrl": url } } });
    merge(&mut properties, more);
    json!({ "properties": properties })
}

pub(crate) fn queue_body(queue: &Value, filters: &Value) -> Value {
    json!({ "properties": {
        "deliveryConfiguration": { "deliveryMode": "Queue", "queue": queue },
        "eventDeliverySchema": "CloudEventSchemaV1_0",
        "filtersConfiguration": filters,
    } })
}

/// A dead-letter destination of a custom topic's subscription.
pub(crate) fn dead_letters(account: &str, container: &str) -> Value {
    let account = format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Storage/storageAccounts/{account}"
    );
    json!({
        "endpointType": "StorageBlob",
        "properties": { "resourceId": account, "blobContainerName": container },
    })
}

/// The same in the wrapper that namespaces want.
pub(crate) fn namespace_dead_letters(account: &str, container: &str) -> Value {
    json!({
        "identity": { "type": "SystemAssigned" },
        "deadLetterDestination": dead_letters(account, container),
    })
}

/// Puts the members of `more` into `into`, objects member by member.
pub(crate) fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (name, value) in more {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (into, more) => *into = more.clone(),
    }
}
