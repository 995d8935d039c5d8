//! The server loop: accept, TLS, HTTP/1.1 and HTTP/2, limits, drain.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gridwire_core::api_error::ApiError;
use gridwire_core::routing::BoxFuture;
use gridwire_outside::{Clock, Listener, Rng, Stream};
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Version};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::{BodyBudget, Unread};
use crate::respond::spread_retry;
use crate::scan::{Fault, HEAD_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX};
use crate::watch::{Answer, Ended, Patience, Watch};
use crate::watched::Watched;
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

    /// Answers what is no request.
    fn refuse(&self, error: &ApiError) -> Response {
        crate::error(error)
    }
}

/// Limits of one listener. Sources: `reliability` section 3.1.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Connections at once; more wait to be accepted.
    pub connections_max: usize,
    /// Time for a TLS handshake and for the headers of a request.
    pub headers_timeout: Duration,
    /// Time between two requests of a connection.
    pub idle_timeout: Duration,
    /// Shared by all listeners that have clones of these options.
    pub bodies: BodyBudget,
    /// How long a drain waits for requests in flight.
    pub drain_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            headers_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            bodies: BodyBudget::new(BODIES_BYTES_MAX),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// What the HTTP library may read ahead: a whole head and some more, for it refuses one that fills all of it.
const READ_BYTES_MAX: usize = HEAD_BYTES_MAX + (8 << 10);
/// Bodies of all requests under way. Each costs about as much again while it is taken apart, and the log's queue
/// has its own bound: together they stay well below half of a small machine's memory.
const BODIES_BYTES_MAX: u32 = 64 << 20;
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
    /// Spreads the times at which refused clients come again.
    pub rng: Arc<dyn Rng>,
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
        let Self { listener, tls, service, clock, rng, options } = self;
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
                rng: Arc::clone(&rng),
                patience: Patience { headers: options.headers_timeout, idle: options.idle_timeout },
                bodies: options.bodies.clone(),
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
    rng: Arc<dyn Rng>,
    patience: Patience,
    bodies: BodyBudget,
    stop: CancellationToken,
}

impl Connection {
    async fn run(self, stream: Box<dyn Stream>, tls: Option<TlsAcceptor>) {
        let Some(tls) = tls else { return self.speak(stream).await };
        let shaken = tokio::select! {
            shaken = tls.accept(stream) => shaken,
            () = self.clock.sleep(self.patience.headers) => return,
        };
        match shaken {
            Ok(stream) => self.speak(stream).await,
            Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
        }
    }

    async fn speak<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(self, stream: S) {
        let watch = Watch::new(Arc::clone(&self.clock), self.patience);
        let stream = Watched::new(stream, Arc::clone(&watch));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // The watch does that. The library's own also runs between requests, and not before the first byte.
            .header_read_timeout(None)
            .max_buf_size(READ_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).expect("32 KiB fit in a u32"))
            .keep_alive_interval(Duration::from_secs(75));
        let stop = self.stop.clone();
        let this = Arc::new(self);
        let patient = Arc::clone(&watch);
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let (this, watch) = (Arc::clone(&this), Arc::clone(&watch));
            let answering = watch.answering();
            // Known only now: the next one's may come while this one is answered.
            let fault = watch.fault();
            async move {
                let _answering = answering;
                let http2 = request.version() == Version::HTTP_2;
                let response = match fault.or_else(|| fault_of_frames(&request)) {
                    Some(fault) => this.refuse(fault, http2),
                    None => this.answer(request).await,
                };
                let (head, body) = response.into_parts();
                let body = body.into_inner().unwrap_or_default();
                Ok::<_, std::convert::Infallible>(http::Response::from_parts(
                    head,
                    Answer::new(body, http2, &watch),
                ))
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut stopping = false;
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                // Refusing a head that comes too slowly is something that the connection then reads.
                ended = patient.patience_ends() => if ended == Ended::Silently { return },
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }

    /// Has a request answered, and reads past what the service did not want of it.
    async fn answer(&self, request: http::Request<hyper::body::Incoming>) -> Response {
        // Who asks before sending, or has a stream to reset, needs no reading past.
        let asks = request.headers().contains_key(EXPECT) || request.version() == Version::HTTP_2;
        let (head, incoming) = request.into_parts();
        let (body, unread) = Unread::watch(incoming, self.bodies.clone(), Arc::clone(&self.clock));
        let mut response = self.service.handle(Request::from_parts(head, body), self.peer).await;
        spread_retry(&mut response, || self.rng.next_u64());
        if !asks && unread.is_there() {
            tokio::select! {
                () = unread.discard(UNREAD_BYTES_MAX) => {}
                () = self.clock.sleep(UNREAD_TIME_MAX) => {}
            }
        }
        response
    }

    /// The connection ends with the answer, but for HTTP/2, where the next request stands for itself.
    fn refuse(&self, fault: Fault, http2: bool) -> Response {
        let mut response = self.service.refuse(&fault.to_error());
        if !http2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// What of HTTP/2 is refused that the HTTP library takes.
fn fault_of_frames<B>(request: &http::Request<B>) -> Option<Fault> {
    if request.version() != Version::HTTP_2 {
        return None;
    }
    let target = request.uri().path_and_query();
    if target.is_some_and(|target| target.as_str().len() > TARGET_BYTES_MAX) {
        return Some(Fault::TargetTooLong);
    }
    (request.headers().len() > HEADERS_MAX).then_some(Fault::TooManyHeaders)
}

#[cfg(test)]
mod tests {
    use gridwire_core::api_error::ErrorCode;
    use gridwire_outside::Net;
    use gridwire_outside::system::{SystemClock, SystemNet, SystemRng};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Refuses bodies over 1,000 bytes, and everything sent to `/closed`, unread.
    #[derive(Debug)]
    struct Refusing;

    impl Service for Refusing {
        fn handle(&self, request: Request, _peer: Peer) -> BoxFuture<'_, Response> {
            Box::pin(async move {
                if request.uri().path() == "/closed" {
                    return crate::error(&ApiError::new(ErrorCode::Unauthorized, "no"));
                }
                match request.into_body().read(1_000).await {
                    Ok(body) => crate::text(http::StatusCode::OK, body.len().to_string()),
                    Err(error) => crate::error(&error),
                }
            })
        }
    }

    /// Sends all the requests on one connection, each written to its end before its answer is read, as most
    /// clients do.
    async fn check(requests: &[(&str, usize, &str)]) {
        let listener = SystemNet.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server {
            listener,
            tls: None,
            service: Arc::new(Refusing),
            clock: Arc::new(SystemClock::start()),
            rng: Arc::new(SystemRng::new()),
            options: ServerOptions::default(),
        };
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(server.serve(stop.clone()));
        let mut client = SystemNet.connect(address).await.unwrap();
        for &(path, size, expected) in requests {
            let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            client
                .write_all(&vec![b'x'; size])
                .await
                .unwrap_or_else(|error| panic!("{path} {size}: {error}"));
            let mut answer = vec![0; 4096];
            let count = client.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..count]);
            assert!(answer.starts_with(expected), "{path} {size}: {answer}");
        }
        drop(client);
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn a_body_that_stalls_is_not_waited_for() {
        let clock =
            Arc::new(gridwire_outside::ManualClock::new(gridwire_core::time::Timestamp::from_millis(1)));
        let listener = SystemNet.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server {
            listener,
            tls: None,
            service: Arc::new(Refusing),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            rng: Arc::new(SystemRng::new()),
            options: ServerOptions::default(),
        };
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(server.serve(stop.clone()));
        let mut client = SystemNet.connect(address).await.unwrap();
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
        let mut answer = vec![0; 4096];
        // Time passes in steps, since nobody tells when the server has begun to read.
        let count = loop {
            tokio::select! {
                biased;
                count = client.read(&mut answer) => break count.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(5)) => clock.advance(Duration::from_secs(1)),
            }
        };
        let answer = String::from_utf8_lossy(&answer[..count]);
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        stop.cancel();
        clock.advance(Duration::from_secs(60));
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn a_client_that_sent_too_much_is_told_and_may_go_on() {
        let refused = "HTTP/1.1 413";
        check(&[
            ("/", 1_000, "HTTP/1.1 200"),
            ("/", 1_001, refused),
            ("/", 8_000_000, refused),
            ("/", 0, "HTTP/1.1 200"),
        ])
        .await;
    }

    #[tokio::test]
    async fn a_client_that_is_refused_before_its_body_was_read_is_told_and_may_go_on() {
        let refused = "HTTP/1.1 401";
        check(&[("/closed", 8_000_000, refused), ("/closed", 10, refused), ("/", 10, "HTTP/1.1 200")]).await;
    }
}
