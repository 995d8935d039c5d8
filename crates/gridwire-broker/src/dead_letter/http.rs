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
use tokio::task::JoinSet;

use crate::push::Tls;

/// How long a call may take, connecting included.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer: above every letter and every page of a list.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Connections kept for the next call.
const KEPT_MAX: usize = 8;

/// Makes clients for the stores.
#[derive(Clone, Debug)]
pub(super) struct Connector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    net: Arc<dyn Net>,
    clock: Arc<dyn Clock>,
    tls: Tls,
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
        Self(Arc::new(Inner { net, clock, tls: Tls::new(Vec::new()), kept: Mutex::default() }))
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
            self.tls.connect(name, stream).await.map_err(connecting)?
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
        let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in self.net.resolve(host, port).await? {
            match self.net.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}
