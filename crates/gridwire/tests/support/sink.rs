//! A webhook: answers both handshakes, keeps what it is sent, and answers as it is told.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::time::{now, wait_for};

/// How a webhook answers one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Status(u16),
    /// Answers 200 with this body.
    Body(&'static str),
    /// Answers with a status after a while.
    After(Duration, u16),
    /// Answers 503 and asks to be left alone for so many seconds.
    Busy(u32),
    /// Never answers.
    Hang,
    /// Answers 200 after [`Sink::let_go`].
    Held,
}

/// How it answers those who ask for its consent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consent {
    Given,
    /// Given at a rate, in requests a minute; with the `CloudEvents` schema only.
    Rated(u32),
    /// 200, without what would show consent.
    Withheld,
    /// A status that is no success.
    Refused(u16),
}

/// One delivery that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) path: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) at: Instant,
}

impl Delivery {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The ids of the events in it, whatever their schema; `id_member` is `id` unless the schema is custom.
    pub(crate) fn ids(&self, id_member: &str) -> Vec<String> {
        let body = self.json();
        let one = std::slice::from_ref(&body);
        let events = body.as_array().map_or(one, Vec::as_slice);
        events.iter().filter_map(|event| event[id_member].as_str().map(str::to_owned)).collect()
    }
}

type Script = dyn Fn(&Delivery, usize) -> Reply + Send + Sync;

struct Shared {
    deliveries: Mutex<Vec<Delivery>>,
    /// How many of them came to each path. Locked only while `deliveries` is.
    counts: Mutex<HashMap<String, usize>>,
    handshakes: Mutex<Vec<Delivery>>,
    arrived: Condvar,
    let_go: watch::Sender<bool>,
    consent: Consent,
    script: Box<Script>,
}

/// Numbers the hosts that URLs of webhooks name.
static HOSTS: AtomicU16 = AtomicU16::new(1);

/// A webhook on a port of its own. Deliveries to different paths are kept apart by [`Sink::at`].
pub(crate) struct Sink {
    port: u16,
    shared: Arc<Shared>,
    /// The listener's, and one for each connection.
    tasks: TaskTracker,
    // Ends the server and every answer still held back.
    runtime: Option<Runtime>,
}

impl Sink {
    /// One that takes everything.
    pub(crate) fn start() -> Self {
        Self::with(Consent::Given, |_, _| Reply::Status(200))
    }

    /// One that answers by `script`, which is told the delivery and how many came before it to that path.
    pub(crate) fn scripted(script: impl Fn(&Delivery, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(Consent::Given, script)
    }

    pub(crate) fn with(
        consent: Consent,
        script: impl Fn(&Delivery, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime for the webhook");
        let listener = runtime.block_on(TcpListener::bind("0.0.0.0:0")).expect("a port for the webhook");
        let port = listener.local_addr().expect("a bound port").port();
        let shared = Arc::new(Shared {
            deliveries: Mutex::default(),
            counts: Mutex::default(),
            handshakes: Mutex::default(),
            arrived: Condvar::new(),
            let_go: watch::Sender::new(false),
            consent,
            script: Box::new(script),
        });
        let tasks = TaskTracker::new();
        let serving = serve(listener, Arc::clone(&shared), tasks.clone());
        tasks.spawn_on(serving, runtime.handle());
        Self { port, shared, tasks, runtime: Some(runtime) }
    }

    /// A URL of a path on it, with a loopback address of its own: the server asks one host for its consent no
    /// more than ten times a minute.
    pub(crate) fn url(&self, path: &str) -> String {
        let [high, low] = HOSTS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        format!("http://{}:{}{path}", Ipv4Addr::new(127, 1, high, low), self.port)
    }

    /// Answers what it holds back, and holds back nothing from now on.
    pub(crate) fn let_go(&self) {
        self.shared.let_go.send_replace(true);
    }

    /// Waits until every connection has ended: what a sender that is gone had under way has then been answered.
    #[track_caller]
    pub(crate) fn wait_quiet(&self, limit: Duration) {
        wait_for("the webhook's connections to end", limit, || (self.tasks.len() <= 1).then_some(()));
    }

    pub(crate) fn deliveries(&self) -> Vec<Delivery> {
        self.shared.deliveries.lock().expect("no panic while it is held").clone()
    }

    /// What came to one path.
    pub(crate) fn at(&self, path: &str) -> Vec<Delivery> {
        let deliveries = self.shared.deliveries.lock().expect("no panic while it is held");
        deliveries.iter().filter(|delivery| delivery.path == path).cloned().collect()
    }

    /// Requests for its consent.
    pub(crate) fn handshakes(&self) -> Vec<Delivery> {
        self.shared.handshakes.lock().expect("no panic while it is held").clone()
    }

    /// Waits until `done` finds what it wants in the deliveries so far. It is asked at each arrival, with all of them:
    /// where thousands come, it must not read again what it has read.
    #[track_caller]
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&[Delivery]) -> Option<T>,
    ) -> T {
        let end = now() + limit;
        let mut deliveries = self.shared.deliveries.lock().expect("no panic while it is held");
        loop {
            if let Some(found) = done(&deliveries) {
                return found;
            }
            let left = end.saturating_duration_since(now());
            if left.is_zero() {
                let count = deliveries.len();
                drop(deliveries);
                panic!("waited {limit:?} in vain: {what} ({count} deliveries came)");
            }
            (deliveries, _) =
                self.shared.arrived.wait_timeout(deliveries, left).expect("no panic while it is held");
        }
    }

    /// Waits for `count` deliveries to a path.
    #[track_caller]
    pub(crate) fn wait_at(&self, path: &str, count: usize, limit: Duration) -> Vec<Delivery> {
        let is_there = |delivery: &&Delivery| delivery.path == path;
        let (mut found, mut seen) = (0, 0);
        self.wait(&format!("{count} deliveries to {path}"), limit, |deliveries| {
            found += deliveries[seen..].iter().filter(is_there).count();
            seen = deliveries.len();
            (found >= count).then(|| deliveries.iter().filter(is_there).cloned().collect())
        })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            let service = service_fn(|request| answer(&shared, request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    shared: &Shared,
    request: http::Request<Incoming>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let at = now();
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let path = parts.uri.path().to_owned();
    let delivery = Delivery { path, headers: parts.headers, body, at };
    let asked = parts.method == http::Method::OPTIONS
        || delivery.header("aeg-event-type") == Some("SubscriptionValidation");
    if asked {
        let response = consent(shared.consent, &delivery, parts.method == http::Method::OPTIONS);
        shared.handshakes.lock().expect("no panic while it is held").push(delivery);
        return Ok(response);
    }
    let reply = {
        let mut deliveries = shared.deliveries.lock().expect("no panic while it is held");
        let mut counts = shared.counts.lock().expect("no panic while it is held");
        let count = counts.entry(delivery.path.clone()).or_default();
        let reply = (shared.script)(&delivery, *count);
        *count += 1;
        deliveries.push(delivery);
        reply
    };
    shared.arrived.notify_all();
    Ok(match reply {
        Reply::Status(status) => empty(status),
        Reply::Body(body) => http::Response::new(Full::new(Bytes::from_static(body.as_bytes()))),
        Reply::After(wait, status) => {
            tokio::time::sleep(wait).await;
            empty(status)
        }
        Reply::Busy(seconds) => {
            let mut response = empty(503);
            response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
            response
        }
        Reply::Hang => std::future::pending().await,
        Reply::Held => {
            let _ = shared.let_go.subscribe().wait_for(|go| *go).await;
            empty(200)
        }
    })
}

fn empty(status: u16) -> http::Response<Full<Bytes>> {
    let mut response = http::Response::new(Full::default());
    *response.status_mut() = http::StatusCode::from_u16(status).expect("a script names real statuses");
    response
}

fn consent(consent: Consent, asked: &Delivery, by_options: bool) -> http::Response<Full<Bytes>> {
    match consent {
        Consent::Refused(status) => empty(status),
        Consent::Withheld => empty(200),
        Consent::Given | Consent::Rated(_) if by_options => {
            let mut response = empty(200);
            if let Some(origin) = asked.headers.get("webhook-request-origin") {
                response.headers_mut().insert("webhook-allowed-origin", origin.clone());
            }
            let rate = match consent {
                Consent::Rated(rate) => rate.into(),
                _ => http::HeaderValue::from_static("*"),
            };
            response.headers_mut().insert("webhook-allowed-rate", rate);
            response
        }
        Consent::Given | Consent::Rated(_) => {
            let code = asked.json()[0]["data"]["validationCode"].clone();
            let mut response = empty(200);
            *response.body_mut() = Full::new(Bytes::from(json!({ "validationResponse": code }).to_string()));
            response
        }
    }
}
