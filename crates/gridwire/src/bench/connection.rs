//! Connections to a server, and the requests sent on them.
//!
//! An HTTP/1.1 client has a connection of its own. HTTP/2 clients of one [`Link`] share one. Either connects
//! when it must and again after a failure, so that a server's restart costs errors and not the run.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use super::args::Protocol;

/// How long one exchange may take; above the longest wait a receive is sent with.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes read of an answer: a full receive answer is 4 MiB of events, one event more at most, and escapes.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Characters kept of an answer that tells of an error.
const DETAIL_CHARS: usize = 300;

/// Where requests go.
#[derive(Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    /// `host:port`, for the `Host` header.
    authority: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    protocol: Protocol,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.authority).finish()
    }
}

impl Target {
    /// Takes `http://host:port` or `https://host:port` apart and resolves the host. `ca` is the PEM text of
    /// the certificates to trust over https.
    pub(crate) async fn resolve(url: &str, protocol: Protocol, ca: Option<&[u8]>) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("`{url}` is no URL"))?;
        let host = uri.host().with_context(|| format!("`{url}` names no host"))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => anyhow::bail!("`{url}` begins with neither `http://` nor `https://`"),
        };
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = tokio::net::lookup_host((bare, port))
            .await
            .with_context(|| format!("failed to resolve `{host}`"))?
            .next()
            .with_context(|| format!("`{host}` has no address"))?;
        let tls = if https {
            let ca = ca.context("give the certificate authority of an https server with `--ca`")?;
            let name = ServerName::try_from(bare.to_owned())
                .with_context(|| format!("`{host}` is no name that a certificate could have"))?;
            Some((connector(ca, protocol)?, name))
        } else {
            None
        };
        Ok(Self { address, authority: format!("{host}:{port}"), tls, protocol })
    }

    /// The same place by another name over TLS.
    #[cfg(test)]
    pub(crate) fn called(mut self, name: &str, ca: &[u8]) -> Self {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        self.tls = Some((connector(ca, self.protocol).unwrap(), name));
        self
    }

    /// The request template for `path` (with query) on this target.
    pub(crate) fn route(&self, method: Method, path: &str) -> anyhow::Result<Route> {
        let authority = HeaderValue::from_str(&self.authority).context("a host name in plain text")?;
        let mut route = Route {
            method,
            uri: Uri::try_from(path).with_context(|| format!("`{path}` is no path"))?,
            headers: HeaderMap::new(),
        };
        match self.protocol {
            Protocol::Http1 => {
                route.headers.insert(HOST, authority);
            }
            Protocol::Http2 => {
                let scheme = if self.tls.is_some() { "https" } else { "http" };
                let text = format!("{scheme}://{}{path}", self.authority);
                route.uri = Uri::try_from(text).with_context(|| format!("`{path}` is no path"))?;
            }
        }
        Ok(route)
    }
}

fn connector(ca: &[u8], protocol: Protocol) -> anyhow::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate.context("the certificate authority is not in PEM form")?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = match protocol {
        Protocol::Http1 => vec![b"http/1.1".to_vec()],
        Protocol::Http2 => vec![b"h2".to_vec()],
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A request without its body.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Route {
    /// Adds a header.
    ///
    /// # Errors
    ///
    /// When the value has characters that no header may have.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> anyhow::Result<Self> {
        let value = HeaderValue::from_str(value).with_context(|| format!("a bad value for `{name}`"))?;
        self.headers.insert(name, value);
        Ok(self)
    }

    /// The same request to another server.
    pub(crate) fn on(&self, target: &Target) -> anyhow::Result<Self> {
        let path = self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut route = target.route(self.method.clone(), path)?;
        for (name, value) in &self.headers {
            if name != HOST {
                route.headers.insert(name.clone(), value.clone());
            }
        }
        Ok(route)
    }

    pub(crate) fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// What went wrong with a request, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// Answered, but not with success.
    Status(u16),
    /// No connection.
    Connect,
    /// The connection ended in the middle.
    Broken,
    /// No answer in time.
    Timeout,
    /// Answered with success, but not with what was asked for.
    NotUnderstood,
    /// An acknowledgement that did not hold for every lock token.
    Refused,
    /// Due in an open loop, but never sent for want of a free connection.
    NotSent,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Connect => f.write_str("connect"),
            Self::Broken => f.write_str("broken"),
            Self::Timeout => f.write_str("timeout"),
            Self::NotUnderstood => f.write_str("not understood"),
            Self::Refused => f.write_str("refused tokens"),
            Self::NotSent => f.write_str("not sent"),
        }
    }
}

/// A request that did not succeed, with the first words of why.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    pub(crate) detail: String,
}

impl Failed {
    /// An answer that is not what it should be.
    pub(crate) fn not_understood(detail: impl fmt::Display) -> Self {
        Self::new(Failure::NotUnderstood, detail)
    }

    /// An acknowledgement that did not hold for every lock token.
    pub(crate) fn refused(detail: impl fmt::Display) -> Self {
        Self::new(Failure::Refused, detail)
    }

    fn new(failure: Failure, detail: impl fmt::Display) -> Self {
        Self { failure, detail: detail.to_string().chars().take(DETAIL_CHARS).collect() }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.failure, self.detail)
    }
}

impl std::error::Error for Failed {}

/// What HTTP/2 clients share: the connection they are all on.
#[derive(Debug)]
pub(crate) struct Link {
    target: Target,
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Full<Bytes>>>>,
    drivers: TaskTracker,
}

/// Sends one request after the other.
#[derive(Debug)]
pub(crate) struct Client {
    link: Arc<Link>,
    sender: Option<Sender>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    /// Clients for `connections` connections: one each, or with HTTP/2 `streams` each.
    pub(crate) fn pool(target: &Target, connections: u32, streams: u32) -> Vec<Self> {
        let share = match target.protocol {
            Protocol::Http1 => 1,
            Protocol::Http2 => streams,
        };
        let links = (0..connections).map(|_| {
            Arc::new(Link {
                target: target.clone(),
                shared: tokio::sync::Mutex::new(None),
                drivers: TaskTracker::new(),
            })
        });
        links
            .flat_map(|link| (0..share).map(move |_| Self { link: Arc::clone(&link), sender: None }))
            .collect()
    }

    /// A client on a connection of its own.
    pub(crate) fn single(target: &Target) -> Self {
        Self::pool(target, 1, 1).remove(0)
    }

    /// Gives the connection up, after a request on it was abandoned.
    pub(crate) fn disconnect(&mut self) {
        self.sender = None;
    }

    /// Sends a request and reads its answer whole.
    ///
    /// # Errors
    ///
    /// Anything but a 2xx answer in time is a failure.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Bytes, Failed> {
        let Ok(done) = tokio::time::timeout(EXCHANGE_TIMEOUT, self.exchange(request)).await else {
            self.disconnect();
            return Err(Failed::new(Failure::Timeout, "no answer in time"));
        };
        let (status, body) = match done {
            Ok(done) => done,
            Err(failed) => {
                self.disconnect();
                return Err(failed);
            }
        };
        if status.is_success() {
            return Ok(body);
        }
        Err(Failed::new(Failure::Status(status.as_u16()), String::from_utf8_lossy(&body)))
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Failed> {
        let broken = |error: hyper::Error| Failed::new(Failure::Broken, error);
        let answer = match self.connected().await? {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        };
        let (head, body) = answer.map_err(broken)?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Failed::new(Failure::Broken, error))?.to_bytes();
        Ok((head.status, body))
    }

    /// The sender of a connection that can take a request.
    async fn connected(&mut self) -> Result<&mut Sender, Failed> {
        let ready = match &mut self.sender {
            Some(Sender::Http1(sender)) => sender.ready().await.is_ok(),
            Some(Sender::Http2(sender)) => sender.ready().await.is_ok(),
            None => false,
        };
        if !ready {
            self.sender = None;
            let sender = self.link.connect().await.map_err(|error| Failed::new(Failure::Connect, error))?;
            return Ok(self.sender.insert(sender));
        }
        Ok(self.sender.as_mut().expect("a ready sender is there"))
    }
}

impl Link {
    async fn connect(&self) -> anyhow::Result<Sender> {
        match self.target.protocol {
            Protocol::Http1 => Ok(Sender::Http1(self.http1().await?)),
            Protocol::Http2 => {
                let mut shared = self.shared.lock().await;
                if let Some(sender) = shared.as_ref().filter(|sender| !sender.is_closed()) {
                    return Ok(Sender::Http2(sender.clone()));
                }
                let sender = self.http2().await?;
                *shared = Some(sender.clone());
                Ok(Sender::Http2(sender))
            }
        }
    }

    async fn http1(&self) -> anyhow::Result<http1::SendRequest<Full<Bytes>>> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.stream().await?)).await?;
        // Its error is also that of the request in flight, where it is counted.
        self.drivers.spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    async fn http2(&self) -> anyhow::Result<http2::SendRequest<Full<Bytes>>> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(1 << 20).initial_connection_window_size(8 << 20);
        let (sender, connection) = builder.handshake(TokioIo::new(self.stream().await?)).await?;
        self.drivers.spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    async fn stream(&self) -> anyhow::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.target.address).await?;
        stream.set_nodelay(true)?;
        match &self.target.tls {
            None => Ok(Box::new(stream)),
            Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), stream).await?)),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
