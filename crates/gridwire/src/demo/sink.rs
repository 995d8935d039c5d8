//! A webhook endpoint that agrees to everything and remembers what it is sent.

use std::sync::Arc;

use anyhow::Context;
use gridwire_core::limits::REQUEST_BYTES_MAX;
use gridwire_core::routing::BoxFuture;
use gridwire_http::{Peer, Request, Response, Server, ServerOptions, Service};
use gridwire_outside::system::SystemNet;
use gridwire_outside::{Clock, Net, Rng};
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::Running;

/// Bodies that wait to be shown; more are answered 503, and the broker tries again.
const BODIES_MAX: usize = 1_000;

/// The endpoint, listening.
#[derive(Debug)]
pub(crate) struct Sink {
    url: String,
    bodies: mpsc::Receiver<Value>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Sink {
    pub(crate) async fn start(running: &Running) -> anyhow::Result<Self> {
        let at = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = SystemNet.listen(at).await.context("failed to listen for the webhook")?;
        let address = listener.local_addr().context("the webhook's listener has no address")?;
        let (sender, bodies) = mpsc::channel(BODIES_MAX);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let server = Server {
            listener,
            tls: None,
            service: Arc::new(Endpoint { bodies: sender }),
            clock: Arc::clone(running.clock()) as Arc<dyn Clock>,
            rng: Arc::clone(running.rng()) as Arc<dyn Rng>,
            options: ServerOptions::default(),
        };
        tasks.spawn(server.serve(stop.clone()));
        tasks.close();
        Ok(Self { url: format!("http://{address}/webhook"), bodies, tasks, stop })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The next body that was posted. Cancel safe.
    pub(crate) async fn next(&mut self) -> Value {
        match self.bodies.recv().await {
            Some(body) => body,
            // The endpoint is gone, and so nothing comes any more.
            None => std::future::pending().await,
        }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        // Whoever waits for room is let go.
        drop(self.bodies);
        self.tasks.wait().await;
    }
}

#[derive(Debug)]
struct Endpoint {
    bodies: mpsc::Sender<Value>,
}

impl Service for Endpoint {
    fn handle(&self, request: Request, _peer: Peer) -> BoxFuture<'_, Response> {
        Box::pin(async move {
            // The consent of `CloudEvents` webhooks: an OPTIONS answered with who may post.
            if request.method() == Method::OPTIONS {
                let mut response = gridwire_http::empty(StatusCode::OK);
                response.headers_mut().insert("webhook-allowed-origin", HeaderValue::from_static("*"));
                response.headers_mut().insert("webhook-allowed-rate", HeaderValue::from_static("*"));
                return response;
            }
            let body = match request.into_body().read(REQUEST_BYTES_MAX * 2).await {
                Ok(body) => body,
                Err(error) => return gridwire_http::error(&error),
            };
            let Ok(body) = serde_json::from_slice::<Value>(&body) else {
                return gridwire_http::empty(StatusCode::BAD_REQUEST);
            };
            // The consent of Event Grid webhooks: a code that comes back.
            if let Some(code) = body.pointer("/0/data/validationCode") {
                let answer = json!({ "validationResponse": code });
                return gridwire_http::json(StatusCode::OK, answer.to_string());
            }
            match self.bodies.try_send(body) {
                Ok(()) => gridwire_http::empty(StatusCode::OK),
                Err(_) => gridwire_http::empty(StatusCode::SERVICE_UNAVAILABLE),
            }
        })
    }
}
