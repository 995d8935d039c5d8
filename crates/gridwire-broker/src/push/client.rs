//! One HTTP/1.1 connection to one endpoint, at one judged address.
//!
//! A name is looked up once for each connection, every address found is judged, and the connection is made
//! to one of those very addresses; there is no second look-up that could answer differently. Redirects,
//! proxies and compressed answers do not exist here.
//!
//! A connection has no task of its own: whoever uses it also drives it, waiting included. So an idle
//! connection that the other side closes is noticed before it is used again.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gridwire_core::limits;
use gridwire_core::retry::Outcome;
use gridwire_core::routing::BoxFuture;
use gridwire_outside::{Clock, Net, Stream};
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;

use super::PushOptions;
use super::endpoint::{EndpointKey, Host};
use super::judge::judge_connection;
use super::request::Outgoing;
use super::tls::{self, Terms, Tls};

/// Look-ups of one name at once: resolvers run on a shared pool of threads, and a name server that does not
/// answer must not take all of it.
pub(crate) const LOOKUPS_MAX: usize = 4;
/// The head of an answer; far above any sensible one.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 100;
/// How long one of several addresses may take to connect before the next is tried. The last one has all the
/// time that is left.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_secs(3);
/// How long we wait for the rest of an answer's body, only to keep its connection. Then a new connection is
/// cheaper.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Client {
    net: Arc<dyn Net>,
    clock: Arc<dyn Clock>,
    options: Arc<PushOptions>,
    tls: Tls,
}

/// The time an attempt has left, over all its steps.
pub(crate) struct Deadline<'c> {
    /// `None` once it has passed.
    timer: Option<BoxFuture<'c, ()>>,
}

type Driver = http1::Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

/// An open connection.
pub(crate) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once it has ended.
    driver: Option<Pin<Box<Driver>>>,
    /// When it was made, in monotonic time.
    opened: Duration,
}

/// Why a request got no answer.
pub(crate) enum SendFailure {
    /// The connection was closed and nothing of the request was written: it can be sent on another.
    NotSent(Box<Outgoing>),
    /// The other side may have seen it.
    CutOff,
    /// It said that it will have no session with us.
    Refused,
}

impl SendFailure {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::NotSent(_) | Self::CutOff => Outcome::Unreachable,
            Self::Refused => Outcome::TlsFailed,
        }
    }
}

impl<'c> Deadline<'c> {
    pub(crate) fn after(clock: &'c dyn Clock, wait: Duration) -> Self {
        Self { timer: Some(clock.sleep(wait)) }
    }

    /// The work's result, or `None` when the time was over first.
    ///
    /// # Cancel safety
    ///
    /// As cancel safe as `work`.
    pub(crate) async fn race<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let timer = self.timer.as_mut()?;
        tokio::select! {
            biased; // What is done in time counts, even when we are late to see it.
            done = work => Some(done),
            () = timer => {
                self.timer = None;
                None
            }
        }
    }
}

impl Client {
    pub(crate) fn new(net: Arc<dyn Net>, clock: Arc<dyn Clock>, options: Arc<PushOptions>) -> Self {
        let tls = Tls::new(options.extra_roots.clone());
        Self { net, clock, options, tls }
    }

    /// The deadline of an attempt that starts now.
    pub(crate) fn deadline(&self) -> Deadline<'_> {
        Deadline::after(&*self.clock, self.options.attempt_timeout)
    }

    /// Connects to the endpoint: looks up, judges, connects, encrypts. `lookups` is shared by all who may
    /// look the same name up.
    pub(crate) async fn connect(
        &self,
        key: &EndpointKey,
        terms: &Terms,
        lookups: &Semaphore,
        deadline: &mut Deadline<'_>,
    ) -> Result<Connection, Outcome> {
        let addresses = deadline.race(self.resolve(key, lookups)).await.ok_or(Outcome::Unresolved)??;
        let plain = deadline.race(self.reach(&addresses)).await.ok_or(Outcome::TimedOut)?;
        let mut stream = plain.ok_or(Outcome::Unreachable)?;
        if key.https {
            let session = deadline.race(self.tls.connect(terms, key.server_name(), stream)).await;
            stream = match session {
                Some(Ok(session)) => session,
                Some(Err(error)) => {
                    tracing::debug!(endpoint = %key, %error, "no TLS session");
                    return Err(Outcome::TlsFailed);
                }
                None => return Err(Outcome::TlsFailed),
            };
        }
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
        let opened = builder.handshake(TokioIo::new(stream)).await;
        let (sender, driver) = opened.map_err(|_| Outcome::Unreachable)?;
        Ok(Connection { sender, driver: Some(Box::pin(driver)), opened: self.clock.monotonic() })
    }

    /// All addresses of the endpoint, if every one of them may be called; never none.
    async fn resolve(&self, key: &EndpointKey, lookups: &Semaphore) -> Result<Vec<SocketAddr>, Outcome> {
        let mut addresses = match &key.host {
            Host::Address(ip) => vec![SocketAddr::new(*ip, key.port)],
            Host::Name(name) => {
                let _turn = lookups.acquire().await.expect("it is never closed");
                self.net.resolve(name, key.port).await.map_err(|error| {
                    tracing::debug!(endpoint = %key, %error, "the name did not resolve");
                    Outcome::Unresolved
                })?
            }
        };
        for address in &mut addresses {
            if let IpAddr::V6(v6) = address.ip()
                && let Some(v4) = v6.to_ipv4_mapped()
            {
                address.set_ip(IpAddr::V4(v4));
            }
            if let Err(denied) = judge_connection(*address, &self.options) {
                tracing::debug!(endpoint = %key, %denied, "the endpoint may not be called");
                return Err(Outcome::Forbidden);
            }
        }
        if addresses.is_empty() {
            return Err(Outcome::Unresolved);
        }
        addresses.truncate(limits::ADDRESSES_MAX);
        Ok(addresses)
    }

    /// The first of the addresses that takes a connection.
    async fn reach(&self, addresses: &[SocketAddr]) -> Option<Box<dyn Stream>> {
        let (last, before) = addresses.split_last()?;
        for address in before {
            let mut turn = Deadline::after(&*self.clock, NEXT_ADDRESS_AFTER);
            if let Some(Ok(stream)) = turn.race(self.net.connect(*address)).await {
                return Some(stream);
            }
        }
        self.net.connect(*last).await.ok()
    }

    /// Reads the rest of an answer so that the connection can be used again; `None` when it can't.
    pub(crate) async fn finish(&self, mut connection: Connection, body: Incoming) -> Option<Connection> {
        if (limits::RESPONSE_BYTES_MAX as u64) < body.size_hint().lower() {
            return None;
        }
        if !body.is_end_stream() {
            let mut deadline = Deadline::after(&*self.clock, DRAIN_TIMEOUT);
            let rest = deadline.race(connection.read(body, limits::RESPONSE_BYTES_MAX)).await?;
            if rest.ended != BodyEnd::Complete {
                return None;
            }
        }
        connection.is_ready().await.then_some(connection)
    }
}

/// How the reading of a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyEnd {
    Complete,
    /// There is more than we read.
    TooLong,
    /// It was cut off or malformed.
    Broken,
}

/// What was read of a body.
#[derive(Debug)]
pub(crate) struct ReadBody {
    pub bytes: BytesMut,
    pub ended: BodyEnd,
}

impl Connection {
    /// Sends and waits for the head of the answer. Informational answers are passed over.
    pub(crate) async fn send(&mut self, request: Outgoing) -> Result<Response<Incoming>, SendFailure> {
        let answer = self.sender.try_send_request(request);
        match drive(&mut self.driver, answer).await {
            Ok(response) => Ok(response),
            Err(error) if tls::was_refused(error.error()) => Err(SendFailure::Refused),
            Err(mut error) => Err(match error.take_message() {
                Some(request) => SendFailure::NotSent(Box::new(request)),
                None => SendFailure::CutOff,
            }),
        }
    }

    /// Reads a body up to `bytes_max`.
    pub(crate) async fn read(&mut self, mut body: Incoming, bytes_max: usize) -> ReadBody {
        let mut bytes = BytesMut::new();
        let ended = loop {
            match drive(&mut self.driver, body.frame()).await {
                None => break BodyEnd::Complete,
                Some(Err(_)) => break BodyEnd::Broken,
                Some(Ok(frame)) => {
                    let Some(data) = frame.data_ref() else { continue };
                    let room = bytes_max - bytes.len();
                    if room < data.len() {
                        bytes.extend_from_slice(&data[..room]);
                        break BodyEnd::TooLong;
                    }
                    bytes.extend_from_slice(data);
                }
            }
        };
        ReadBody { bytes, ended }
    }

    /// Whether another request can be sent now, as far as we can know.
    pub(crate) async fn is_ready(&mut self) -> bool {
        let Some(driver) = self.driver.as_mut() else { return false };
        let ended = poll_fn(|context| Poll::Ready(driver.as_mut().poll(context).is_ready())).await;
        if ended {
            self.driver = None;
        }
        !ended && self.sender.is_ready()
    }

    /// Waits until the other side closes it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn closed(&mut self) {
        if let Some(driver) = self.driver.as_mut() {
            // How it ended is of no interest: nothing was under way.
            let _ = driver.await;
            self.driver = None;
        }
    }

    pub(crate) fn opened(&self) -> Duration {
        self.opened
    }
}

/// Does `work` while driving the connection that it needs.
async fn drive<T>(driver: &mut Option<Pin<Box<Driver>>>, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        if let Some(running) = driver
            && running.as_mut().poll(context).is_ready()
        {
            *driver = None;
        }
        work.as_mut().poll(context)
    })
    .await
}
