//! The built-in webhook: agrees to every subscription, counts what is delivered and how long it took. It can be sick
//! as well, once it has agreed.

mod sick;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::sick::Conduct;
use super::baseline;
use super::body::stamps;
use super::identity::{Authority, Lie};
use super::load::{histogram, record};
use super::stopwatch::Moment;

/// Bytes of one delivery; a batch is at most 1 MiB and one event, whatever its envelope adds.
const DELIVERY_BYTES_MAX: usize = 8 << 20;
/// Histograms that connections share, so that they seldom wait for each other.
const SHARDS: usize = 16;
/// Between two looks at the count while waiting for deliveries.
const LOOK: Duration = Duration::from_millis(5);
/// Where deliveries go, and where a redirect leads, which is nowhere that they may go.
const DELIVERIES: &str = "/deliveries";
const ELSEWHERE: &str = "/elsewhere";

/// What a sink does with deliveries. It agrees to subscriptions at once in any case.
#[derive(Clone, Debug)]
pub(crate) enum Manner {
    /// Takes them at once.
    Prompt,
    /// Takes them after a time.
    Hangs(Duration),
    /// Refuses them with this status.
    Fails(StatusCode),
    /// Answers a byte in each such time, without an end.
    Trickles(Duration),
    /// Resets every connection.
    Resets,
    /// Sends them on to another path, and counts who comes there.
    Redirects,
    /// Is met over TLS, and proves to be somebody else, by either lie in turn.
    Lies(Arc<Authority>),
}

impl Manner {
    /// The last but one part of the loopback addresses of sinks of this manner.
    fn octet(&self) -> u8 {
        match self {
            Self::Prompt => 0,
            Self::Hangs(_) => 1,
            Self::Fails(_) => 2,
            Self::Trickles(_) => 3,
            Self::Resets => 4,
            Self::Redirects => 5,
            Self::Lies(_) => 6,
        }
    }

    /// How the endpoint at `address`, the `number`th, is sick below HTTP, if it is.
    fn conduct(&self, address: SocketAddr, number: u32) -> anyhow::Result<Option<Conduct>> {
        Ok(match self {
            Self::Prompt | Self::Hangs(_) | Self::Fails(_) | Self::Redirects => None,
            Self::Trickles(pause) => Some(Conduct::Trickles(*pause)),
            Self::Resets => Some(Conduct::Resets),
            Self::Lies(authority) => {
                let lie = if number.is_multiple_of(2) { Lie::Name } else { Lie::Authority };
                Some(Conduct::Lies(authority.acceptors(address.ip(), lie)?))
            }
        })
    }
}

/// What has been delivered.
#[derive(Debug)]
pub(crate) struct Sink {
    manner: Manner,
    addresses: Vec<SocketAddr>,
    delivered: AtomicU64,
    requests: AtomicU64,
    strayed: AtomicU64,
    bytes: AtomicU64,
    shards: Vec<Mutex<Histogram<u64>>>,
    next_shard: AtomicUsize,
}

/// A reading of the sink's counters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    pub(crate) events: u64,
    /// Of a sink that is sick below HTTP, connections.
    pub(crate) requests: u64,
    /// Those that followed a redirect or believed a lie.
    pub(crate) strayed: u64,
    pub(crate) bytes: u64,
}

impl Sink {
    /// Listens on a free port of the loopback address until the guard is dropped.
    pub(crate) async fn start() -> anyhow::Result<(Arc<Self>, DropGuard)> {
        Self::start_many(1, Manner::Prompt).await
    }

    /// The same with many endpoints, up to 250, counted together. Each has a port and a loopback address of its
    /// own: a server asks one host for its consent only so often in a minute.
    pub(crate) async fn start_many(endpoints: u32, manner: Manner) -> anyhow::Result<(Arc<Self>, DropGuard)> {
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for number in 0..endpoints {
            let last = u8::try_from(1 + number).context("too many endpoints")?;
            let address = Ipv4Addr::new(127, 0, manner.octet(), last);
            let listener =
                TcpListener::bind((address, 0)).await.context("failed to listen for deliveries")?;
            let address = listener.local_addr().context("a listener without an address")?;
            addresses.push(address);
            listeners.push((listener, manner.conduct(address, number)?));
        }
        let sink = Arc::new(Self {
            manner,
            addresses,
            delivered: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            strayed: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            shards: (0..SHARDS).map(|_| Mutex::new(histogram())).collect(),
            next_shard: AtomicUsize::new(0),
        });
        let stop = CancellationToken::new();
        let serving = tokio_util::task::TaskTracker::new();
        for (listener, conduct) in listeners {
            let (sink, stop) = (Arc::clone(&sink), stop.clone());
            match conduct {
                None => serving.spawn(sink.serve(listener, stop)),
                Some(conduct) => serving.spawn(sick::serve(listener, conduct, sink, stop)),
            };
        }
        Ok((sink, stop.drop_guard()))
    }

    async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let connected = || {
            let sink = Arc::clone(&self);
            let shard = sink.next_shard.fetch_add(1, Ordering::Relaxed) % SHARDS;
            move |request| {
                let sink = Arc::clone(&sink);
                async move { sink.answer(request, shard).await }
            }
        };
        baseline::serve(listener, None, connected, stop).await;
    }

    /// Where events are to be delivered.
    pub(crate) fn url(&self) -> String {
        self.urls().next().expect("a sink has an endpoint")
    }

    /// The same for each endpoint.
    pub(crate) fn urls(&self) -> impl Iterator<Item = String> + '_ {
        let scheme = if matches!(self.manner, Manner::Lies(_)) { "https" } else { "http" };
        self.addresses.iter().map(move |address| format!("{scheme}://{address}{DELIVERIES}"))
    }

    /// Events delivered so far.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    pub(crate) fn counted(&self) -> Counted {
        Counted {
            events: self.delivered(),
            requests: self.requests.load(Ordering::Relaxed),
            strayed: self.strayed.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// Counts somebody who wants something and gets nothing.
    fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts somebody who followed where nobody may follow.
    fn strayed(&self) {
        self.strayed.fetch_add(1, Ordering::Relaxed);
    }

    /// The latencies since the last call.
    pub(crate) fn take_latency(&self) -> Histogram<u64> {
        let mut total = histogram();
        for shard in &self.shards {
            let mut shard = shard.lock().expect("no panic while a histogram is held");
            total.add(&*shard).expect("all have the same bounds");
            shard.reset();
        }
        total
    }

    /// Waits until `events` have been delivered in all, or nothing has come for `patience`. Tells which.
    pub(crate) async fn wait_for(&self, events: u64, patience: Duration) -> bool {
        let (mut last, mut at) = (self.delivered(), Moment::now());
        loop {
            let delivered = self.delivered();
            if delivered >= events {
                return true;
            }
            if delivered > last {
                (last, at) = (delivered, Moment::now());
            } else if at.elapsed() >= patience {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn answer(&self, request: Request<Incoming>, shard: usize) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        if head.uri.path() == ELSEWHERE {
            self.strayed();
            return plain(StatusCode::OK);
        }
        if head.method == Method::OPTIONS {
            return consent(&head.headers);
        }
        let Ok(body) = Limited::new(body, DELIVERY_BYTES_MAX).collect().await else {
            return plain(StatusCode::PAYLOAD_TOO_LARGE);
        };
        let body = body.to_bytes();
        if is_validation(&head.headers) {
            return validate(&body);
        }
        if matches!(self.manner, Manner::Prompt) {
            self.deliver(&body, shard);
            return plain(StatusCode::OK);
        }
        self.asked();
        match self.manner {
            Manner::Hangs(time) => {
                tokio::time::sleep(time).await;
                plain(StatusCode::OK)
            }
            Manner::Fails(status) => plain(status),
            Manner::Redirects => {
                let mut answer = plain(StatusCode::FOUND);
                answer.headers_mut().insert(LOCATION, HeaderValue::from_static(ELSEWHERE));
                answer
            }
            // Whoever comes to these by HTTP again does so on the connection that they agreed over.
            Manner::Prompt | Manner::Trickles(_) | Manner::Resets | Manner::Lies(_) => {
                plain(StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }

    fn deliver(&self, body: &[u8], shard: usize) {
        let now = Moment::now();
        let mut events = 0;
        let mut latency = self.shards[shard].lock().expect("no panic while a histogram is held");
        for sent in stamps(body) {
            record(&mut latency, now.since(sent));
            events += 1;
        }
        drop(latency);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        self.delivered.fetch_add(events, Ordering::Relaxed);
    }
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// The answer to the preflight of `CloudEvents` (`push-delivery` contract section 2.2): whoever asks may post.
fn consent(headers: &HeaderMap) -> Response<Full<Bytes>> {
    let origin = headers.get("webhook-request-origin").cloned();
    let mut response = plain(StatusCode::OK);
    let answer = response.headers_mut();
    answer.insert("webhook-allowed-origin", origin.unwrap_or(HeaderValue::from_static("*")));
    answer.insert("webhook-allowed-rate", HeaderValue::from_static("*"));
    answer.insert(ALLOW, HeaderValue::from_static("POST"));
    response
}

fn is_validation(headers: &HeaderMap) -> bool {
    let kind = headers.get("aeg-event-type").and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case("SubscriptionValidation"))
}

/// The answer to a validation event (`push-delivery` contract section 2.1): its code.
fn validate(body: &[u8]) -> Response<Full<Bytes>> {
    let event: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(code) = event[0]["data"]["validationCode"].as_str() else {
        return plain(StatusCode::BAD_REQUEST);
    };
    let answer = serde_json::json!({ "validationResponse": code }).to_string();
    let mut response = Response::new(Full::new(Bytes::from(answer)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::args::{Protocol, Schema};
    use crate::bench::body::Template;
    use crate::bench::connection::{Client, Target};

    async fn post(sink: &Sink, headers: &[(&'static str, &str)], body: Bytes) -> Result<Bytes, u16> {
        let target = Target::resolve(&sink.url(), Protocol::Http1, None).await.unwrap();
        let mut route = target.route(Method::POST, "/deliveries").unwrap();
        for (name, value) in headers {
            route = route.with(name, value).unwrap();
        }
        Client::single(&target).send(route.request(body)).await.map_err(|failed| match failed.failure {
            crate::bench::connection::Failure::Status(status) => status,
            other => panic!("{other}"),
        })
    }

    #[tokio::test]
    async fn a_validation_event_is_answered_with_its_code_and_not_counted() {
        let (sink, _stop) = Sink::start().await.unwrap();
        let kind = [("aeg-event-type", "SubscriptionValidation")];
        let event = Bytes::from_static(br#"[{"id":"1","data":{"validationCode":"abc"}}]"#);
        let answer = post(&sink, &kind, event).await.unwrap();
        assert_eq!(&answer[..], br#"{"validationResponse":"abc"}"#);
        assert_eq!(post(&sink, &kind, Bytes::from_static(b"[]")).await, Err(400));
        assert_eq!(sink.counted().requests, 0);
    }

    #[tokio::test]
    async fn a_failing_endpoint_agrees_to_subscriptions_and_refuses_deliveries() {
        let manner = Manner::Fails(StatusCode::INTERNAL_SERVER_ERROR);
        let (sink, _stop) = Sink::start_many(2, manner).await.unwrap();
        assert_eq!(sink.urls().count(), 2);
        let kind = [("aeg-event-type", "SubscriptionValidation")];
        let event = Bytes::from_static(br#"[{"id":"1","data":{"validationCode":"abc"}}]"#);
        assert!(post(&sink, &kind, event).await.is_ok());
        assert_eq!(post(&sink, &[], Bytes::from_static(b"{}")).await, Err(500));
        assert_eq!((sink.counted().requests, sink.delivered()), (1, 0));
    }

    #[test]
    fn a_preflight_gets_the_origin_it_came_with() {
        let mut headers = HeaderMap::new();
        assert_eq!(consent(&headers).headers()["webhook-allowed-origin"], "*");
        headers.insert("webhook-request-origin", HeaderValue::from_static("gridwire.local"));
        let answer = consent(&headers);
        assert_eq!(answer.headers()["webhook-allowed-origin"], "gridwire.local");
        assert_eq!(answer.headers()["webhook-allowed-rate"], "*");
    }

    #[tokio::test]
    async fn deliveries_are_counted_and_timed_by_their_stamps() {
        let (sink, _stop) = Sink::start().await.unwrap();
        let template = Template::new(Schema::Cloudevents, 3, 400);
        let long_ago = Moment::from_nanos(Moment::now().as_nanos() - 2_000_000_000);
        post(&sink, &[], template.render(0, long_ago)).await.unwrap();
        assert!(sink.wait_for(3, Duration::from_secs(5)).await);
        let counted = sink.counted();
        assert_eq!((counted.events, counted.requests, counted.bytes), (3, 1, template.len() as u64));
        let latency = sink.take_latency();
        assert_eq!(latency.len(), 3);
        assert!((1_990_000..60_000_000).contains(&latency.value_at_quantile(0.5)));
        assert_eq!(sink.take_latency().len(), 0);
        assert!(!sink.wait_for(4, Duration::from_millis(10)).await);
    }
}
