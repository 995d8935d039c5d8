//! Making the topics and subscriptions of a run by the management API, and removing them afterwards.

use anyhow::Context as _;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::args::{Kind, Schema, ShapeArgs};
use super::body::domain_topic;
use super::connection::{Client, Route, Target};

/// Where the resources of all runs are; their names carry the run's id.
const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000000";
const RESOURCE_GROUP: &str = "bench";
const MANAGEMENT_VERSION: &str = "2025-02-15";
const BASIC_VERSION: &str = "2018-01-01";
const NAMESPACE_VERSION: &str = "2024-06-01";

/// A client of the management API that remembers what it made.
#[derive(Debug)]
pub(crate) struct Management {
    client: Client,
    target: Target,
    token: String,
    /// Paths of the resources made, parents first.
    made: Vec<String>,
}

/// What to make.
#[derive(Clone, Debug)]
pub(crate) struct Plan<'a> {
    /// Id of the run, part of every name.
    pub(crate) run: &'a str,
    pub(crate) kind: Kind,
    pub(crate) schema: Schema,
    pub(crate) content_type: &'a str,
    pub(crate) topics: u32,
    /// Of each topic.
    pub(crate) subscriptions: u32,
    pub(crate) delivery: Delivery<'a>,
}

/// A domain to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DomainPlan<'a> {
    pub(crate) name: &'a str,
    pub(crate) topics: u32,
    /// Of the first so many topics.
    pub(crate) subscribed: u32,
    pub(crate) content_type: &'a str,
    pub(crate) url: &'a str,
}

impl DomainPlan<'_> {
    /// Makes what is not there yet. Returns the way to publish, and how many topics were made.
    pub(crate) async fn make(&self, on: &mut Management, keep: bool) -> anyhow::Result<(Route, u32)> {
        let path = format!("domains/bench-domain-{}", self.name);
        let schema = schema_name(Schema::Cloudevents);
        let body = json!({ "location": "local", "properties": { "inputSchema": schema } });
        let made = on.call(Method::PUT, &path, Some(&body)).await?;
        if !keep {
            // With all that is in it.
            on.made.push(path.clone());
        }
        let key = on.key(&path).await?;
        let endpoint = made["properties"]["endpoint"].as_str().context("the domain has no endpoint")?;
        let publish = basic_route(&on.target, endpoint)?
            .with("aeg-sas-key", &key)?
            .with("content-type", self.content_type)?;
        let topic = |number| format!("{path}/topics/{}", domain_topic(number));
        let mut count = 0;
        if on.call(Method::GET, &topic(self.topics - 1), None).await.is_err() {
            for number in 0..self.topics {
                on.call(Method::PUT, &topic(number), Some(&json!({}))).await?;
                count += 1;
            }
        }
        let body = json!({ "properties": {
            "destination": { "endpointType": "WebHook", "properties": { "endpointUrl": self.url } },
        } });
        for number in 0..self.subscribed {
            let path = format!("{}/eventSubscriptions/webhook", topic(number));
            on.call(Method::PUT, &path, Some(&body)).await?;
        }
        Ok((publish, count))
    }
}

/// How subscriptions are delivered to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Delivery<'a> {
    /// Receivers ask, for up to so many events at once.
    Pull { events_max: u32 },
    /// A webhook is posted to, up to so many events at once.
    Push { url: &'a str, events_max: u32 },
}

/// A topic that was made.
#[derive(Debug)]
pub(crate) struct Topic {
    /// Its path below the provider.
    pub(crate) path: String,
    pub(crate) publish: Route,
    /// One for each pull subscription.
    pub(crate) pull: Vec<Pull>,
}

#[derive(Clone, Debug)]
pub(crate) struct Pull {
    pub(crate) receive: Route,
    pub(crate) acknowledge: Route,
}

impl<'a> Plan<'a> {
    /// What `shape` describes, for bodies of this content type.
    pub(crate) fn new(
        run: &'a str,
        kind: Kind,
        shape: &ShapeArgs,
        content_type: &'a str,
        delivery: Delivery<'a>,
    ) -> Self {
        let ShapeArgs { schema, topics, subscriptions, .. } = *shape;
        Self { run, kind, schema, content_type, topics, subscriptions, delivery }
    }

    /// Makes everything and returns the topics, ready to publish to.
    pub(crate) async fn make(&self, on: &mut Management) -> anyhow::Result<Vec<Topic>> {
        match self.kind {
            Kind::Topic => self.make_custom(on).await,
            Kind::Namespace => self.make_namespace(on).await,
        }
    }

    async fn make_custom(&self, on: &mut Management) -> anyhow::Result<Vec<Topic>> {
        let schema = schema_name(self.schema);
        let Delivery::Push { url, events_max } = self.delivery else {
            anyhow::bail!("custom topics have no pull subscriptions; choose `--kind namespace`");
        };
        let mut topics = Vec::new();
        for index in 0..self.topics {
            let name = format!("bench-{}-{index}", self.run);
            let path = format!("topics/{name}");
            let body = json!({ "location": "local", "properties": { "inputSchema": schema } });
            let made = on.put(&path, &body).await?;
            let key = on.key(&path).await?;
            for number in 0..self.subscriptions {
                on.subscribe(&path, &format!("webhook-{number}"), self.schema, url, events_max).await?;
            }
            let endpoint = made["properties"]["endpoint"].as_str().context("the topic has no endpoint")?;
            let publish = basic_route(&on.target, endpoint)?
                .with("aeg-sas-key", &key)?
                .with("content-type", self.content_type)?;
            topics.push(Topic { path, publish, pull: Vec::new() });
        }
        Ok(topics)
    }

    async fn make_namespace(&self, on: &mut Management) -> anyhow::Result<Vec<Topic>> {
        anyhow::ensure!(self.schema == Schema::Cloudevents, "namespace topics take CloudEvents only");
        let name = format!("bench-{}", self.run);
        let namespace = format!("namespaces/{name}");
        let body =
            json!({ "location": "local", "sku": { "name": "Standard", "capacity": 1 }, "properties": {} });
        on.put(&namespace, &body).await?;
        let authorization = format!("SharedAccessKey {}", on.key(&namespace).await?);
        let prefix = format!("/{SUBSCRIPTION}/{RESOURCE_GROUP}/namespaces/{name}");
        let mut topics = Vec::new();
        for index in 0..self.topics {
            let topic = format!("topic-{index}");
            let topic_path = format!("{namespace}/topics/{topic}");
            on.put(&topic_path, &json!({ "properties": {} })).await?;
            let mut pull = Vec::new();
            for number in 0..self.subscriptions {
                let subscription = format!("sub-{number}");
                let path = format!("{topic_path}/eventSubscriptions/{subscription}");
                on.put(&path, &self.namespace_subscription()).await?;
                let Delivery::Pull { events_max } = self.delivery else { continue };
                let base = format!("{prefix}/topics/{topic}/eventsubscriptions/{subscription}");
                // The shortest wait there is: a receiver that waits has nothing to do.
                let query = format!("api-version={NAMESPACE_VERSION}&maxEvents={events_max}&maxWaitTime=10");
                let receive = on.target.route(Method::POST, &format!("{base}:receive?{query}"))?;
                let acknowledge = on
                    .target
                    .route(Method::POST, &format!("{base}:acknowledge?api-version={NAMESPACE_VERSION}"))?
                    .with("content-type", "application/json")?;
                pull.push(Pull {
                    receive: receive.with("authorization", &authorization)?,
                    acknowledge: acknowledge.with("authorization", &authorization)?,
                });
            }
            let path = format!("{prefix}/topics/{topic}:publish?api-version={NAMESPACE_VERSION}");
            let publish = on
                .target
                .route(Method::POST, &path)?
                .with("authorization", &authorization)?
                .with("content-type", self.content_type)?;
            topics.push(Topic { path: topic_path, publish, pull });
        }
        Ok(topics)
    }

    fn namespace_subscription(&self) -> Value {
        let delivery = match self.delivery {
            Delivery::Pull { .. } => json!({
                "deliveryMode": "Queue",
                "queue": { "receiveLockDurationInSeconds": 60, "maxDeliveryCount": 10, "eventTimeToLive": "P1D" },
            }),
            Delivery::Push { url, events_max } => json!({
                "deliveryMode": "Push",
                "push": {
                    "maxDeliveryCount": 10,
                    "eventTimeToLive": "P1D",
                    "destination": { "endpointType": "WebHook", "properties": webhook(url, events_max) },
                },
            }),
        };
        json!({ "properties": {
            "deliveryConfiguration": delivery,
            "eventDeliverySchema": "CloudEventSchemaV1_0",
        } })
    }
}

/// The properties of a webhook that is posted up to so many events at once.
fn webhook(url: &str, events_max: u32) -> Value {
    let mut webhook = json!({ "endpointUrl": url });
    if events_max > 1 {
        webhook["maxEventsPerBatch"] = json!(events_max);
        webhook["preferredBatchSizeInKilobytes"] = json!(1024);
    }
    webhook
}

fn schema_name(schema: Schema) -> &'static str {
    match schema {
        Schema::Cloudevents => "CloudEventSchemaV1_0",
        Schema::Eventgrid => "EventGridSchema",
    }
}

/// The way to a custom topic's endpoint on the server under test, whatever public name the endpoint has.
fn basic_route(target: &Target, endpoint: &str) -> anyhow::Result<Route> {
    let uri: http::Uri = endpoint.parse().with_context(|| format!("the endpoint `{endpoint}` is no URL"))?;
    let host = uri.host().unwrap_or_default();
    anyhow::ensure!(
        !uri.path().eq_ignore_ascii_case("/api/events"),
        "the topic is told by the host name `{host}`, which a load generator does not use; unset the base domain"
    );
    target.route(Method::POST, &format!("{}?api-version={BASIC_VERSION}", uri.path()))
}

impl Management {
    pub(crate) fn new(target: Target, token: String) -> Self {
        Self { client: Client::single(&target), target, token, made: Vec::new() }
    }

    /// Makes a resource, named by its path below the provider.
    async fn put(&mut self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.made.push(path.to_owned());
        self.call(Method::PUT, path, Some(body)).await
    }

    /// Makes a webhook subscription on the custom topic at `topic` and returns its path.
    pub(crate) async fn subscribe(
        &mut self,
        topic: &str,
        name: &str,
        schema: Schema,
        url: &str,
        events_max: u32,
    ) -> anyhow::Result<String> {
        let body = json!({ "properties": {
            "destination": { "endpointType": "WebHook", "properties": webhook(url, events_max) },
            "eventDeliverySchema": schema_name(schema),
        } });
        let path = format!("{topic}/eventSubscriptions/{name}");
        self.put(&path, &body).await?;
        Ok(path)
    }

    /// Removes one of the resources that were made.
    pub(crate) async fn remove(&mut self, path: &str) -> anyhow::Result<()> {
        self.call(Method::DELETE, path, None).await?;
        self.made.retain(|made| made != path);
        Ok(())
    }

    /// The first access key of a resource.
    async fn key(&mut self, path: &str) -> anyhow::Result<String> {
        let keys = self.call(Method::POST, &format!("{path}/listKeys"), None).await?;
        Ok(keys["key1"].as_str().with_context(|| format!("`{path}` has no key"))?.to_owned())
    }

    /// Removes all that was made, children first, and returns what could not be removed.
    pub(crate) async fn remove_all(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        while let Some(path) = self.made.pop() {
            if let Err(error) = self.call(Method::DELETE, &path, None).await {
                left.push(format!("{error:#}"));
            }
        }
        left
    }

    async fn call(&mut self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let what = format!("failed to {method} `{path}`");
        let full = format!(
            "/subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}/providers/Microsoft.EventGrid/{path}\
             ?api-version={MANAGEMENT_VERSION}"
        );
        let route = self
            .target
            .route(method, &full)?
            .with("authorization", &format!("Bearer {}", self.token))?
            .with("content-type", "application/json")?;
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let answer = self.client.send(route.request(body)).await.with_context(|| what.clone())?;
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer).with_context(|| format!("{what}: the answer is no JSON"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::args::Protocol;

    #[tokio::test]
    async fn an_endpoint_is_reached_by_its_path_on_the_server_under_test() {
        let target = Target::resolve("http://127.0.0.1:9", Protocol::Http1, None).await.unwrap();
        let check = |endpoint: &str, path: Option<&str>| {
            let route = basic_route(&target, endpoint);
            let found = route.ok().map(|route| route.request(Bytes::new()).uri().to_string());
            assert_eq!(found.as_deref(), path, "{endpoint}");
        };
        check(
            "https://public.example:8443/s/g/topics/t/api/events",
            Some("/s/g/topics/t/api/events?api-version=2018-01-01"),
        );
        check("https://t.example/api/events", None);
        check("not a url", None);
    }

    #[test]
    fn subscriptions_are_described_as_the_management_api_wants_them() {
        let plan = |delivery| Plan {
            run: "r",
            kind: Kind::Namespace,
            schema: Schema::Cloudevents,
            content_type: "",
            topics: 1,
            subscriptions: 1,
            delivery,
        };
        let body = plan(Delivery::Pull { events_max: 5 }).namespace_subscription();
        assert_eq!(body["properties"]["deliveryConfiguration"]["deliveryMode"], "Queue");
        let body = plan(Delivery::Push { url: "http://h/", events_max: 1 }).namespace_subscription();
        let push = &body["properties"]["deliveryConfiguration"]["push"];
        assert_eq!(push["destination"]["properties"]["endpointUrl"], "http://h/");
    }
}
