//! What the listeners answer: which part of the program a path belongs to.
//!
//! The http and https listeners share one [`Front`]: management paths and validation URLs go to the control
//! plane, the rest to the data plane. The admin listener has an [`Admin`]: health and metrics, no password.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gridwire_broker::Broker;
use gridwire_control::Control;
use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::routing::BoxFuture;
use gridwire_core::time::Timestamp;
use gridwire_http::{Peer, REQUEST_ID, Request, Response, Service};
use gridwire_outside::{Clock, Rng};
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio_util::sync::CancellationToken;

use crate::ahead::{self, Ahead};
use crate::dev::{self, Dev};
use crate::process;

const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");
/// Longer client request ids are not echoed.
const CLIENT_REQUEST_ID_MAX: usize = 128;

const WELCOME: &str = "\
This is Gridwire, an event broker that speaks the Azure Event Grid protocol.

Publish to a topic:      POST /{subscription}/{resource group}/topics/{topic}/api/events
Publish to a namespace:  POST /{subscription}/{resource group}/namespaces/{namespace}/topics/{topic}:publish
Manage resources:        /subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.EventGrid/...

On the command line: gridwire --help
";

/// The service of the http and https listeners.
pub(crate) struct Front {
    broker: Arc<Broker>,
    control: Arc<Control>,
    /// Only in development mode.
    dev: Option<Arc<Dev>>,
    ids: RequestIds,
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").finish_non_exhaustive()
    }
}

/// Request ids: a random prefix for this process and a running number, so that none costs a system call.
struct RequestIds {
    /// All before the running number.
    prefix: String,
    next: AtomicU64,
}

impl RequestIds {
    fn new(rng: &dyn Rng) -> Self {
        let random = rng.next_u64();
        let prefix =
            format!("{:08x}-{:04x}-4{:03x}-8", random >> 32, (random >> 16) & 0xffff, random & 0xfff);
        Self { prefix, next: AtomicU64::new(0) }
    }

    /// Written like a UUID.
    fn next(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}{:03x}-{:012x}", self.prefix, (number >> 48) & 0xfff, number & 0xffff_ffff_ffff)
    }

    /// Names the request in its answer, unless that is done.
    fn stamp(&self, response: &mut Response) {
        if !response.headers().contains_key(REQUEST_ID)
            && let Ok(id) = HeaderValue::try_from(self.next())
        {
            response.headers_mut().insert(REQUEST_ID, id);
        }
    }
}

impl Front {
    pub(crate) fn new(
        broker: Arc<Broker>,
        control: Arc<Control>,
        dev: Option<Arc<Dev>>,
        rng: &dyn Rng,
    ) -> Self {
        Self { broker, control, dev, ids: RequestIds::new(rng) }
    }

    async fn answer(&self, request: Request, peer: Peer) -> Response {
        let path = request.uri().path();
        if path == "/" {
            return welcome(request.method());
        }
        if Control::is_management_path(path) {
            return self.control.handle(request, peer).await;
        }
        if Control::is_validation_path(path) {
            return self.control.validate_by_hand(request, peer).await;
        }
        if is_inspection(path)
            && let Err(refusal) = self.control.admit(request.headers(), peer)
        {
            return gridwire_http::error(&refusal);
        }
        if let Some(dev) = &self.dev
            && let Some(rest) = path.strip_prefix(dev::ROOT)
        {
            let rest = rest.to_owned();
            return dev.handle(&rest, request).await;
        }
        self.broker.handle(request, peer).await
    }
}

impl Service for Front {
    fn handle(&self, request: Request, peer: Peer) -> BoxFuture<'_, Response> {
        Box::pin(async move {
            let client_id = request.headers().get(CLIENT_REQUEST_ID).cloned();
            let mut response = self.answer(request, peer).await;
            self.ids.stamp(&mut response);
            let headers = response.headers_mut();
            if let Some(id) = client_id.filter(|id| id.len() <= CLIENT_REQUEST_ID_MAX) {
                headers.entry(CLIENT_REQUEST_ID).or_insert(id);
            }
            response
        })
    }

    fn refuse(&self, error: &ApiError) -> Response {
        let mut response = gridwire_http::error(error);
        self.ids.stamp(&mut response);
        response
    }
}

/// Paths of the data plane that tell more than a topic's key may see. The escaped forms of the first segment
/// are none of them: the data plane knows the plain one only where we do.
fn is_inspection(path: &str) -> bool {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    first.contains('%') || first.eq_ignore_ascii_case("gridwire")
}

fn welcome(method: &Method) -> Response {
    if method == Method::GET || method == Method::HEAD {
        return gridwire_http::text(StatusCode::OK, WELCOME);
    }
    let message = "Publish to a topic's own path; GET / shows them.";
    let error = ApiError::new(ErrorCode::MethodNotAllowed, message).with_allow("GET, HEAD");
    gridwire_http::error(&error)
}

/// What the admin listener shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Paths,
    Health,
    Readiness,
    Metrics,
}

impl Page {
    const ALL: [Self; 4] = [Self::Paths, Self::Health, Self::Readiness, Self::Metrics];

    fn path(self) -> &'static str {
        match self {
            Self::Paths => "/",
            Self::Health => "/healthz",
            Self::Readiness => "/readyz",
            Self::Metrics => "/metrics",
        }
    }

    fn at(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|page| page.path() == path)
    }
}

/// The service of the admin listener.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) broker: Arc<Broker>,
    pub(crate) control: Arc<Control>,
    pub(crate) dev: Option<Arc<Dev>>,
    /// What broker time is told by.
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) started: Timestamp,
    pub(crate) stop: CancellationToken,
}

impl Admin {
    fn readiness(&self) -> Result<(), String> {
        if self.stop.is_cancelled() {
            return Err("stopping".to_owned());
        }
        if !self.control.is_installed() {
            return Err("the latest change of the resources is not in use yet".to_owned());
        }
        self.broker.readiness()
    }

    async fn answer(&self, request: Request) -> Response {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let message = "The admin listener is only read from.";
            return gridwire_http::error(
                &ApiError::new(ErrorCode::MethodNotAllowed, message).with_allow("GET, HEAD"),
            );
        }
        match Page::at(request.uri().path()) {
            Some(Page::Paths) => gridwire_http::text(
                StatusCode::OK,
                "/healthz  is the process alive\n/readyz   may requests come\n/metrics  numbers, for Prometheus\n",
            ),
            Some(Page::Health) => gridwire_http::text(StatusCode::OK, "ok\n"),
            Some(Page::Readiness) => match self.readiness() {
                Ok(()) => {
                    let mut text = match &self.dev {
                        None => "ready\n".to_owned(),
                        Some(dev) => format!("ready (development mode{})\n", dev.remark()),
                    };
                    let advanced = self.dev.as_ref().map_or(Duration::ZERO, |dev| dev.ahead());
                    let ahead = Ahead::of(&*self.clock, advanced);
                    for remark in self.broker.remarks().into_iter().chain(ahead.unwanted()) {
                        text.push_str(&remark);
                        text.push('\n');
                    }
                    let mut response = gridwire_http::text(StatusCode::OK, text);
                    response.headers_mut().insert(ahead::HEADER, ahead.seconds().into());
                    response
                }
                Err(reason) => gridwire_http::text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            Some(Page::Metrics) => {
                let mut page = self.broker.metrics().await;
                page.push_str(&process::metrics(self.started));
                let mut response = gridwire_http::text(StatusCode::OK, page);
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            None => gridwire_http::error(&ApiError::new(
                ErrorCode::NotFound,
                "There is /healthz, /readyz and /metrics.",
            )),
        }
    }
}

impl Service for Admin {
    fn handle(&self, request: Request, _peer: Peer) -> BoxFuture<'_, Response> {
        Box::pin(self.answer(request))
    }
}

#[cfg(test)]
mod tests {
    use gridwire_outside::system::SystemRng;

    use super::*;

    #[test]
    fn request_ids_look_like_uuids_and_differ() {
        let ids = RequestIds::new(&SystemRng::new());
        let (one, other) = (ids.next(), ids.next());
        assert_ne!(one, other);
        let lengths: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }

    #[test]
    fn the_document_of_the_admin_listener_has_every_page_and_no_other() {
        let document: serde_json::Value =
            serde_json::from_str(include_str!("../../../openapi/admin.json")).unwrap();
        let mut paths = Page::ALL.map(Page::path);
        paths.sort_unstable();
        assert!(document["paths"].as_object().unwrap().keys().eq(&paths));
    }

    #[test]
    fn inspection_cannot_be_reached_by_another_spelling() {
        for path in ["/gridwire/v1/x", "/GridWire/v1/x", "/%67ridwire/v1/x", "//gridwire/v1"] {
            assert!(is_inspection(path), "{path}");
        }
        assert!(!is_inspection("/00000000-0000-0000-0000-000000000000/default/topics/t/api/events"));
    }
}
