//! The server loop: accept, TLS, HTTP/1.1 and HTTP/2, limits, drain.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gridwire_core::routing::BoxFuture;
use gridwire_outside::{Clock, Listener, Stream};
use http::Version;
use http::header::EXPECT;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Unread;
use crate::{Request, Response};

pub use tokio_rustls::TlsAcceptor;

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: SocketAddr,
    pub tls: bool,
}

/// Answers requests. The future is dropped when the client hangs up.
pub trait Service: Send + Sync + fmt::Debug + 'static {
    fn handle(&self, request: Request, peer: Peer) -> BoxFuture<'_, Response>;
}

/// Limits of one listener. Sources: `reliability` section 3.1.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Connections at once; more wait to be accepted.
    pub connections_max: usize,
    /// Time for a TLS handshake and for the headers of a request.
    pub headers_timeout: Duration,
    /// How long a drain waits for requests in flight.
    pub drain_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            headers_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Bytes of a request's header block; more is answered 431.
const HEADER_BYTES_MAX: usize = 32 << 10;
const HEADERS_MAX: usize = 100;
/// Concurrent HTTP/2 streams of one connection.
const STREAMS_MAX: u32 = 100;
/// How much, and how long, is read of a request that was answered before its end. Clients write first and read
/// then; far above any sensible request, so that whoever sends too much is told so.
const UNREAD_BYTES_MAX: u64 = 64 << 20;
const UNREAD_TIME_MAX: Duration = Duration::from_secs(10);

/// One listener being served.
pub struct Server {
    pub listener: Box<dyn Listener>,
    pub tls: Option<TlsAcceptor>,
    pub service: Arc<dyn Service>,
    pub clock: Arc<dyn Clock>,
    pub options: ServerOptions,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Server {
    /// Serves until `stop` is cancelled, then lets requests in flight finish within the drain timeout.
    pub async fn serve(self, stop: CancellationToken) {
        let Self { listener, tls, service, clock, options } = self;
        let connections = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(options.connections_max));
        loop {
            let permit = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                permit = Arc::clone(&permits).acquire_owned() => permit.expect("the semaphore is never closed"),
            };
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, or the peer is gone already: neither ends the listener.
                    tracing::warn!(%error, "failed to accept a connection");
                    clock.sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let connection = Connection {
                peer: Peer { address, tls: tls.is_some() },
                service: Arc::clone(&service),
                clock: Arc::clone(&clock),
                headers_timeout: options.headers_timeout,
                stop: stop.clone(),
            };
            let tls = tls.clone();
            connections.spawn(async move {
                let _permit = permit;
                connection.run(stream, tls).await;
            });
        }
        connections.close();
        tokio::select! {
            biased;
            () = connections.wait() => {}
            () = clock.sleep(options.drain_timeout) => {
                tracing::warn!("requests were still in flight when the drain ended");
            }
        }
    }
}

struct Connection {
    peer: Peer,
    service: Arc<dyn Service>,
    clock: Arc<dyn Clock>,
    headers_timeout: Duration,
    stop: CancellationToken,
}

impl Connection {
    async fn run(self, stream: Box<dyn Stream>, tls: Option<TlsAcceptor>) {
        let Some(tls) = tls else { return self.speak(stream).await };
        let shaken = tokio::select! {
            shaken = tls.accept(stream) => shaken,
            () = self.clock.sleep(self.headers_timeout) => return,
        };
        match shaken {
            Ok(stream) => self.speak(stream).await,
            Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
        }
    }

    async fn speak<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(self, stream: S) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.headers_timeout)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).expect("32 KiB fit in a u32"))
            .keep_alive_interval(Duration::from_secs(75));
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let service = Arc::clone(&self.service);
            let clock = Arc::clone(&self.clock);
            let peer = self.peer;
            async move {
                // Who asks before sending, or has a stream to reset, needs no reading past.
                let asks = request.headers().contains_key(EXPECT) || request.version() == Version::HTTP_2;
                let (head, incoming) = request.into_parts();
                let (body, unread) = Unread::watch(incoming);
                let response = service.handle(Request::from_parts(head, body), peer).await;
                if !asks {
                    tokio::select! {
                        () = unread.discard(UNREAD_BYTES_MAX) => {}
                        () = clock.sleep(UNREAD_TIME_MAX) => {}
                    }
                }
                Ok::<Response, std::convert::Infallible>(response)
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}
