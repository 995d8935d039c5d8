//! The control plane as its clients see it: requests in, responses out, what is stored and installed beside.

mod audit;
mod consent;
mod destinations;
mod domains;
mod expiration;
mod faults;
mod forwarding;
mod life_cycles;
mod lists;
mod openapi;
mod refusals;
mod routes;
mod signing;
mod strictness;
mod throttle;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gridwire_core::time::Timestamp;
use gridwire_http::{Body, Peer};
use gridwire_outside::{Clock, ManualClock};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::testing::{MemoryStore, RecordingPort, TestRng};
use crate::{
    Control, ControlError, ControlOptions, DeadLetterPatience, ManagementToken, PublicAddresses, Sealer,
};

const SUB: &str = "11111111-2222-3333-4444-555555555555";
const TOKEN: &str = "management-secret";
const MASTER: [u8; 32] = [7; 32];

/// A control plane with everything it stands on in sight.
struct Grid {
    control: Arc<Control>,
    store: Arc<MemoryStore>,
    port: Arc<RecordingPort>,
    clock: Arc<ManualClock>,
    /// Where its requests come from.
    client: SocketAddr,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    fn inner(&self) -> &str {
        self.body["error"]["innererror"]["code"].as_str().unwrap_or_default()
    }

    fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }

    #[track_caller]
    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }
}

fn options() -> ControlOptions {
    ControlOptions {
        management_token: ManagementToken::from_secret(TOKEN),
        auth_failures_max: 0,
        public: PublicAddresses { http: Some("http://127.0.0.1:8080".into()), ..Default::default() },
        allow_http_webhooks: false,
        token_issuer: false,
        dead_letter_patience: DeadLetterPatience::default(),
    }
}

impl Grid {
    async fn new() -> Self {
        Self::with(options()).await
    }

    async fn with(options: ControlOptions) -> Self {
        let store = Arc::new(MemoryStore::default());
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_795_465_178_000)));
        Self::open(store, clock, options, MASTER).await.unwrap()
    }

    async fn open(
        store: Arc<MemoryStore>,
        clock: Arc<ManualClock>,
        options: ControlOptions,
        master: [u8; 32],
    ) -> Result<Self, ControlError> {
        let port = RecordingPort::new();
        let control = Control::open(
            Arc::clone(&store) as _,
            Sealer::new(master),
            Arc::clone(&port) as _,
            Arc::clone(&clock) as _,
            Arc::new(TestRng),
            options,
        )
        .await?;
        control.install().await.unwrap();
        Ok(Self { control, store, port, clock, client: ([127, 0, 0, 1], 5000).into() })
    }

    /// The same resources after a restart.
    async fn restarted(&self) -> Self {
        let again = Self::open(Arc::clone(&self.store), Arc::clone(&self.clock), options(), MASTER).await;
        again.unwrap()
    }

    /// Sends a request. `~` stands for the resource group's provider; the api-version is added.
    async fn call(&self, method: &str, path: &str, body: impl Into<Sent>) -> Answer {
        self.send(request(method, path, body.into())).await
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        self.send_by(request, false).await
    }

    async fn send_by(&self, request: Request<Body>, tls: bool) -> Answer {
        let peer = Peer { address: self.client, tls };
        let response = self.control.handle(request, peer).await;
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, ()).await
    }

    async fn put_topic(&self, name: &str) -> Answer {
        self.call("PUT", &format!("~/topics/{name}"), json!({"location": "local"})).await.expect(201)
    }

    async fn put_subscription(&self, topic: &str, name: &str) -> Answer {
        self.call(
            "PUT",
            &format!("~/topics/{topic}/eventSubscriptions/{name}"),
            webhook("https://a.example/in"),
        )
        .await
        .expect(201)
    }

    /// A namespace `ns` with a topic `jobs`.
    async fn put_namespace(&self) {
        self.call("PUT", "~/namespaces/ns1", json!({"location": "local"})).await.expect(201);
        self.call("PUT", "~/namespaces/ns1/topics/jobs", json!({})).await.expect(201);
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        tokio::task::yield_now().await;
    }
}

/// A request's body.
enum Sent {
    Nothing,
    Json(String),
}

impl From<()> for Sent {
    fn from((): ()) -> Self {
        Self::Nothing
    }
}

impl From<Value> for Sent {
    fn from(value: Value) -> Self {
        Self::Json(value.to_string())
    }
}

impl From<&str> for Sent {
    fn from(text: &str) -> Self {
        Self::Json(text.to_owned())
    }
}

fn full_path(path: &str) -> String {
    let group = format!("/subscriptions/{SUB}/resourceGroups/rg/providers/Microsoft.EventGrid");
    let sub = format!("/subscriptions/{SUB}/providers/Microsoft.EventGrid");
    let path = path.replace("~sub", &sub).replace('~', &group);
    if path.contains("api-version") || path.ends_with('?') {
        return path;
    }
    let joint = if path.contains('?') { '&' } else { '?' };
    format!("{path}{joint}api-version=2025-02-15")
}

fn request(method: &str, path: &str, body: Sent) -> Request<Body> {
    let builder = Request::builder()
        .method(method)
        .uri(full_path(path))
        .header("host", "127.0.0.1:8080")
        .header("authorization", format!("Bearer {TOKEN}"));
    let (builder, body) = match body {
        Sent::Nothing => (builder, String::new()),
        Sent::Json(text) => (builder.header("content-type", "application/json"), text),
    };
    builder.body(Body::from(Bytes::from(body))).unwrap()
}

/// The least body of an event subscription.
fn webhook(url: &str) -> Value {
    json!({"properties": {"destination": {"endpointType": "WebHook", "properties": {"endpointUrl": url}}}})
}

/// An event subscription with more properties.
fn webhook_with(properties: &Value) -> Value {
    let mut body = webhook("https://a.example/in");
    for (name, value) in properties.as_object().unwrap() {
        body["properties"][name] = value.clone();
    }
    body
}

/// A pull subscription with more in its queue.
fn queue(queue: &Value) -> Value {
    json!({"properties": {"deliveryConfiguration": {"deliveryMode": "Queue", "queue": queue}}})
}

const STORAGE: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/dead01";

/// Broker time now, as ARM writes it, `after` from now.
fn written_time(grid: &Grid, after: Duration) -> String {
    (grid.clock.now() + after).to_string()
}
