//! How storage accounts are spoken to: over our own network and clock, by the HTTP and TLS that everything else
//! uses.
//!
//! An account's address comes from the operator's configuration, so it is not judged as webhooks' are.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use gridwire_outside::{Clock, Net, Stream};
use http::header::HOST;
use http::{HeaderValue, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};
use rustls_pki_types::ServerName;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::push::{Terms, Tls};

/// How long a call may take, waiting for its turn and connecting included.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an address may take to connect at least, however many there are.
const ADDRESS_TIMEOUT_MIN: Duration = Duration::from_secs(2);
/// Calls to one account at a time, each with a connection and an answer in memory. Every letter that is given up
/// is a call; an account that hangs would take all the sockets there are.
const CALLS_MAX: usize = 32;
/// Look-ups of one account's name at a time, each a thread for as long as the resolver likes.
const LOOKUPS_MAX: usize = 3;
/// Bytes of an answer: above every letter and every page of a list.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Connections kept for the next call.
const KEPT_MAX: usize = 8;

/// Makes clients for the stores of one account. Its turns are its own: one that hangs holds up no other.
#[derive(Clone, Debug)]
pub(super) struct Connector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    net: Arc<dyn Net>,
    clock: Arc<dyn Clock>,
    tls: Tls,
    calls: Semaphore,
    lookups: Semaphore,
    kept: Mutex<Vec<Kept>>,
}

/// A connection to `authority`. Dropping it closes it.
#[derive(Debug)]
struct Kept {
    https: bool,
    authority: String,
    sender: SendRequest<Full<Bytes>>,
    /// Owns the task that drives the connection.
    _driver: JoinSet<()>,
}

impl Connector {
    pub(super) fn new(net: Arc<dyn Net>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            net,
            clock,
            tls: Tls::new(Vec::new()),
            calls: Semaphore::new(CALLS_MAX),
            lookups: Semaphore::new(LOOKUPS_MAX),
            kept: Mutex::default(),
        }))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Connector {
    fn call<'s, 'f>(
        &'s self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            tokio::select! {
                answer = self.0.exchange(request) => answer,
                () = self.0.clock.sleep(CALL_TIMEOUT) => {
                    Err(HttpError::new(HttpErrorKind::Timeout, io::Error::from(io::ErrorKind::TimedOut)))
                }
            }
        })
    }
}

fn connecting(error: io::Error) -> HttpError {
    HttpError::new(HttpErrorKind::Connect, error)
}

impl Inner {
    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let _turn = self.calls.acquire().await.expect("it is never closed");
        let (mut parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let wrong =
            || connecting(io::Error::new(io::ErrorKind::InvalidInput, "not the URL of a storage account"));
        let https = parts.uri.scheme_str() == Some("https");
        let authority = parts.uri.authority().ok_or_else(wrong)?.clone();
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        if !parts.headers.contains_key(HOST) {
            parts.headers.insert(HOST, HeaderValue::from_str(authority.as_str()).map_err(|_| wrong())?);
        }
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        parts.uri = target.parse::<Uri>().map_err(|_| wrong())?;
        let mut request = http::Request::from_parts(parts, Full::new(body));
        let mut connection = match self.take(https, authority.as_str()) {
            Some(kept) => kept,
            None => self.open(https, authority.host(), port, authority.as_str()).await?,
        };
        let answer = loop {
            match connection.sender.try_send_request(request).await {
                Ok(answer) => break answer,
                Err(mut failed) => match failed.take_message() {
                    // It was closed just then and took nothing of the request: safe on a new one.
                    Some(unsent) => {
                        request = unsent;
                        connection = self.open(https, authority.host(), port, authority.as_str()).await?;
                    }
                    None => return Err(HttpError::new(HttpErrorKind::Interrupted, failed.into_error())),
                },
            }
        };
        let (parts, body) = answer.into_parts();
        let broken = |error: Box<dyn std::error::Error + Send + Sync>| {
            HttpError::new(HttpErrorKind::Decode, io::Error::other(error))
        };
        let limited = http_body_util::Limited::new(body, ANSWER_BYTES_MAX);
        let body = limited.collect().await.map_err(broken)?.to_bytes();
        self.keep(connection).await;
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(body)))
    }

    /// A kept connection to this place.
    fn take(&self, https: bool, authority: &str) -> Option<Kept> {
        let mut kept = self.kept.lock().expect("no panic while the connections are held");
        let fits =
            |kept: &Kept| kept.https == https && kept.authority == authority && !kept.sender.is_closed();
        let place = kept.iter().rposition(fits)?;
        Some(kept.swap_remove(place))
    }

    async fn keep(&self, mut connection: Kept) {
        if connection.sender.ready().await.is_err() {
            return;
        }
        let mut kept = self.kept.lock().expect("no panic while the connections are held");
        kept.retain(|kept| !kept.sender.is_closed());
        if KEPT_MAX <= kept.len() {
            kept.remove(0);
        }
        kept.push(connection);
    }

    async fn open(&self, https: bool, host: &str, port: u16, authority: &str) -> Result<Kept, HttpError> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = self.reach(host, port).await.map_err(connecting)?;
        let stream: Box<dyn Stream> = if https {
            let name = ServerName::try_from(host.to_owned())
                .map_err(|error| connecting(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
            self.tls.connect(&Terms::default(), name, stream).await.map_err(connecting)?
        } else {
            stream
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| HttpError::new(HttpErrorKind::Connect, error))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a storage account ended early");
            }
        });
        Ok(Kept { https, authority: authority.to_owned(), sender, _driver: driver })
    }

    async fn reach(&self, host: &str, port: u16) -> io::Result<Box<dyn Stream>> {
        let turn = self.lookups.acquire().await.expect("it is never closed");
        let addresses = self.net.resolve(host, port).await?;
        drop(turn);
        let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
        // One that does not answer leaves the others their time.
        let share = CALL_TIMEOUT / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        for address in addresses {
            tokio::select! {
                connected = self.net.connect(address) => match connected {
                    Ok(stream) => return Ok(stream),
                    Err(error) => failure = error,
                },
                () = self.clock.sleep(share.max(ADDRESS_TIMEOUT_MIN)) => {
                    failure = io::ErrorKind::TimedOut.into();
                }
            }
        }
        Err(failure)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use gridwire_core::routing::BoxFuture;
    use gridwire_core::time::Timestamp;
    use gridwire_outside::{Listener, ManualClock};
    use object_store::client::HttpRequestBody;

    use super::*;

    /// A name with some addresses, or one that nobody can look up. No address answers.
    #[derive(Debug)]
    struct SilentNet {
        addresses: Option<Vec<SocketAddr>>,
        lookups: AtomicUsize,
        connects: AtomicUsize,
    }

    impl SilentNet {
        fn new(addresses: Option<&[&str]>) -> Arc<Self> {
            let parse = |at: &&str| at.parse::<SocketAddr>().expect("an address");
            let addresses: Option<Vec<SocketAddr>> =
                addresses.map(|addresses| addresses.iter().map(parse).collect());
            Arc::new(Self { addresses, lookups: AtomicUsize::new(0), connects: AtomicUsize::new(0) })
        }

        fn counts(&self) -> (usize, usize) {
            (self.lookups.load(Ordering::SeqCst), self.connects.load(Ordering::SeqCst))
        }
    }

    impl Net for SilentNet {
        fn listen(&self, _at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
            Box::pin(async move { Err(io::Error::from(io::ErrorKind::Unsupported)) })
        }

        fn connect(&self, _to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
            Box::pin(async move {
                self.connects.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<io::Result<Box<dyn Stream>>>().await
            })
        }

        fn resolve<'a>(&'a self, _host: &'a str, _port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
            Box::pin(async move {
                self.lookups.fetch_add(1, Ordering::SeqCst);
                match &self.addresses {
                    Some(addresses) => Ok(addresses.clone()),
                    None => std::future::pending().await,
                }
            })
        }
    }

    fn connector(net: &Arc<SilentNet>) -> (Connector, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1)));
        let net: Arc<dyn Net> = Arc::<SilentNet>::clone(net);
        (Connector::new(net, Arc::<ManualClock>::clone(&clock)), clock)
    }

    type Call<'a> = BoxFuture<'a, Result<HttpResponse, HttpError>>;

    /// So many calls, each as far as it gets.
    fn calls(connector: &Connector, count: usize) -> Vec<Call<'_>> {
        let mut calls: Vec<Call<'_>> = (0..count)
            .map(|_| {
                let mut request = HttpRequest::new(HttpRequestBody::empty());
                *request.uri_mut() = Uri::from_static("http://letters1.example/failed/x");
                connector.call(request)
            })
            .collect();
        for call in &mut calls {
            assert!(call.now_or_never().is_none());
        }
        calls
    }

    #[test]
    fn calls_to_one_account_take_turns_and_others_are_not_concerned() {
        let net = SilentNet::new(Some(&["192.0.2.1:80"]));
        let (one, two) = (connector(&net).0, connector(&net).0);
        let mut waiting = calls(&one, CALLS_MAX + 8);
        assert_eq!(net.counts(), (CALLS_MAX, CALLS_MAX));
        let _others = calls(&two, 2);
        assert_eq!(net.counts().1, CALLS_MAX + 2);
        drop(waiting.remove(0));
        for call in &mut waiting {
            assert!(call.now_or_never().is_none());
        }
        assert_eq!(net.counts().1, CALLS_MAX + 3, "whoever goes makes room");
    }

    #[test]
    fn a_name_that_cannot_be_looked_up_takes_few_turns_and_no_longer_than_a_call() {
        let net = SilentNet::new(None);
        let (connector, clock) = connector(&net);
        let waiting = calls(&connector, CALLS_MAX + 8);
        assert_eq!(net.counts(), (LOOKUPS_MAX, 0));
        clock.advance(CALL_TIMEOUT);
        for call in waiting {
            let error = call.now_or_never().expect("its time is over").expect_err("it is not there");
            assert_eq!(error.kind(), HttpErrorKind::Timeout);
        }
    }

    #[test]
    fn every_address_gets_its_share_of_the_time() {
        let net = SilentNet::new(Some(&["192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80"]));
        let (connector, clock) = connector(&net);
        let mut reach = pin!(connector.0.reach("letters1.example", 80));
        for connects in 1..=3 {
            assert!(reach.as_mut().now_or_never().is_none());
            assert_eq!(net.counts(), (1, connects));
            clock.advance(CALL_TIMEOUT / 3);
        }
        let reached = reach.as_mut().now_or_never().expect("none is left");
        assert_eq!(reached.err().map(|error| error.kind()), Some(io::ErrorKind::TimedOut));
    }
}
