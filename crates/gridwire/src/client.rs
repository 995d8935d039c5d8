//! A small HTTP/1.1 client: one kept connection, TLS with our own authority, a deadline on everything.
//!
//! It carries the command line and the demo. [`Connection`] is the bare connection below it, for whoever
//! wants many at once.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gridwire_outside::{Clock, Net, Stream};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// How long connecting may take, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take when the caller names no time.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer: above every page of a list and every receive.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A server's base address: `http://host:port` or `https://host:port`, with an optional path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) tls: bool,
    /// Without brackets.
    host: String,
    port: u16,
    /// Empty, or `/…` without a slash at its end.
    path: String,
}

/// Why a base address was not understood.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a server address: write it as https://localhost:8443 or http://127.0.0.1:8080")]
pub(crate) struct BaseError {
    text: String,
}

impl Base {
    /// The server at an address from `addresses.json`. One that listens everywhere is met on loopback.
    pub(crate) fn local(tls: bool, address: &str) -> Result<Self, BaseError> {
        let scheme = if tls { "https" } else { "http" };
        let mut base: Self = format!("{scheme}://{address}").parse()?;
        match base.host.as_str() {
            "0.0.0.0" => "127.0.0.1".clone_into(&mut base.host),
            "::" => "::1".clone_into(&mut base.host),
            _ => {}
        }
        Ok(base)
    }

    /// A DNS name or an address, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// `host:port`, as in a `Host` header.
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Base {
    type Err = BaseError;

    fn from_str(text: &str) -> Result<Self, BaseError> {
        let wrong = || BaseError { text: text.to_owned() };
        let url = url::Url::parse(text).map_err(|_| wrong())?;
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(wrong()),
        };
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(wrong());
        }
        let host = url.host_str().ok_or_else(wrong)?;
        Ok(Self {
            tls,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: url.port_or_known_default().ok_or_else(wrong)?,
            path: url.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

/// Whose certificates are believed.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// The authorities of a PEM file only.
    File(PathBuf),
    /// The operating system's.
    System,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("failed to use the authority file `{}`: {reason}", file.display())]
    Trust { file: PathBuf, reason: String },
    #[error("failed to find the address of `{host}`")]
    Resolve { host: String, source: std::io::Error },
    #[error("failed to connect to {base}")]
    Connect { base: Base, source: std::io::Error },
    /// Nobody listens where the server of a data directory was last: it was killed.
    #[error("{advice}")]
    Away { advice: String, source: std::io::Error },
    #[error("failed to speak TLS with {base}{}", tls_advice(source))]
    Tls { base: Base, source: std::io::Error },
    #[error("{base} gave no answer within {} s", waited.as_secs())]
    Timeout { base: Base, waited: Duration },
    #[error("failed to exchange HTTP with {base}")]
    Http { base: Base, source: hyper::Error },
    #[error("failed to write a request")]
    Request(#[from] http::Error),
    #[error("the answer of {base} is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge { base: Base },
}

/// What to say of a server that nobody here vouches for.
fn tls_advice(source: &std::io::Error) -> &'static str {
    let error = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match error {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            ": nothing here vouches for its certificate; name its authority with --ca FILE \
             (a Gridwire server's own is tls/ca.pem of its data directory)"
        }
        _ => "",
    }
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The network and the time a client uses.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    pub(crate) net: Arc<dyn Net>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// One server, reached over one connection that is kept and made again when it is gone. Requests take turns.
pub(crate) struct Client {
    base: Base,
    reach: Reach,
    tls: Option<Arc<ClientConfig>>,
    connection: Mutex<Option<Connection>>,
    /// What to say when nobody listens at `base`.
    advice: Option<String>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects at the first request.
    pub(crate) fn new(base: Base, trust: &Trust, reach: Reach) -> Result<Self, ClientError> {
        let tls = if base.tls { Some(tls_config(trust)?) } else { None };
        Ok(Self { base, reach, tls, connection: Mutex::new(None), advice: None })
    }

    /// The same, with what to say when nobody listens there.
    pub(crate) fn advised(self, advice: Option<String>) -> Self {
        Self { advice, ..self }
    }

    fn explained(&self, error: ClientError) -> ClientError {
        match (error, &self.advice) {
            (ClientError::Connect { source, .. }, Some(advice))
                if source.kind() == std::io::ErrorKind::ConnectionRefused =>
            {
                ClientError::Away { advice: advice.clone(), source }
            }
            (error, _) => error,
        }
    }

    /// Sends `request`, whose URI is a path with query, and waits up to `patience` for the whole answer.
    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
        patience: Duration,
    ) -> Result<Answer, ClientError> {
        let exchange = self.exchange(request);
        tokio::select! {
            answer = exchange => answer,
            () = self.reach.clock.sleep(patience) => {
                Err(ClientError::Timeout { base: self.base.clone(), waited: patience })
            }
        }
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Answer, ClientError> {
        // Held over the exchange: requests take turns. A cancelled one leaves `None`, never half an answer.
        let mut kept = self.connection.lock().await;
        let (parts, body) = request.into_parts();
        let mut request = Request::from_parts(parts, Full::new(body));
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = format!("{}{path}", self.base.path).parse().map_err(http::Error::from)?;
        if let Some(mut connection) = kept.take()
            && connection.is_open().await
        {
            match connection.try_send(request).await {
                Ok(answer) => {
                    *kept = Some(connection);
                    return Ok(answer);
                }
                // The server closed it just then and took nothing of the request: safe on a new one.
                Err(TrySendError { unsent: Some(unsent), .. }) => request = *unsent,
                Err(TrySendError { error, .. }) => return Err(error),
            }
        }
        let opened = Connection::open(&self.base, self.tls.clone(), &self.reach).await;
        let mut connection = opened.map_err(|error| self.explained(error))?;
        let answer = connection.try_send(request).await.map_err(|failed| failed.error)?;
        *kept = Some(connection);
        Ok(answer)
    }
}

/// One connection. Dropping it closes it.
pub(crate) struct Connection {
    base: Base,
    host: HeaderValue,
    sender: SendRequest<Full<Bytes>>,
    /// Owns the task that drives the connection.
    _driver: JoinSet<()>,
}

struct TrySendError {
    error: ClientError,
    unsent: Option<Box<Request<Full<Bytes>>>>,
}

impl Connection {
    /// Connects, with TLS when the base asks for it; `tls` must be there then.
    pub(crate) async fn open(
        base: &Base,
        tls: Option<Arc<ClientConfig>>,
        reach: &Reach,
    ) -> Result<Self, ClientError> {
        let connecting = async {
            let stream = Self::connect(base, reach).await?;
            match tls {
                None => Self::shake_hands(base, stream).await,
                Some(config) => {
                    let name = ServerName::try_from(base.host.clone()).map_err(|error| ClientError::Tls {
                        base: base.clone(),
                        source: std::io::Error::other(error),
                    })?;
                    let stream = TlsConnector::from(config)
                        .connect(name, stream)
                        .await
                        .map_err(|source| ClientError::Tls { base: base.clone(), source })?;
                    Self::shake_hands(base, stream).await
                }
            }
        };
        tokio::select! {
            connection = connecting => connection,
            () = reach.clock.sleep(CONNECT_TIMEOUT) => {
                Err(ClientError::Timeout { base: base.clone(), waited: CONNECT_TIMEOUT })
            }
        }
    }

    async fn connect(base: &Base, reach: &Reach) -> Result<Box<dyn Stream>, ClientError> {
        let resolving = |source| ClientError::Resolve { host: base.host.clone(), source };
        // The standard keeps `*.localhost` on this machine; not every resolver knows.
        let host = if base.host.ends_with(".localhost") { "localhost" } else { &base.host };
        let addresses = reach.net.resolve(host, base.port).await.map_err(resolving)?;
        let mut failure = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match reach.net.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(ClientError::Connect { base: base.clone(), source: failure })
    }

    async fn shake_hands(base: &Base, stream: impl Stream) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Http { base: base.clone(), source };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
        let host = HeaderValue::from_str(&base.authority()).map_err(http::Error::from)?;
        Ok(Self { base: base.clone(), host, sender, _driver: driver })
    }

    async fn is_open(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    async fn try_send(&mut self, mut request: Request<Full<Bytes>>) -> Result<Answer, TrySendError> {
        request.headers_mut().insert(header::HOST, self.host.clone());
        let answer = self.sender.try_send_request(request).await.map_err(|mut failed| {
            let unsent = failed.take_message().map(Box::new);
            let error = ClientError::Http { base: self.base.clone(), source: failed.into_error() };
            TrySendError { error, unsent }
        })?;
        self.read(answer).await.map_err(|error| TrySendError { error, unsent: None })
    }

    async fn read(&self, answer: http::Response<hyper::body::Incoming>) -> Result<Answer, ClientError> {
        let (parts, mut incoming) = answer.into_parts();
        let mut body = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|source| ClientError::Http { base: self.base.clone(), source })?;
            let Ok(data) = frame.into_data() else { continue };
            if body.len() + data.len() > ANSWER_BYTES_MAX {
                return Err(ClientError::TooLarge { base: self.base.clone() });
            }
            body.extend_from_slice(&data);
        }
        Ok(Answer { status: parts.status, headers: parts.headers, body: body.freeze() })
    }
}

/// What TLS connections believe.
pub(crate) fn tls_config(trust: &Trust) -> Result<Arc<ClientConfig>, ClientError> {
    let mut roots = RootCertStore::empty();
    match trust {
        Trust::File(file) => {
            let failed = |reason: String| ClientError::Trust { file: file.clone(), reason };
            let pem = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|error| failed(error.to_string()))?;
                roots.add(certificate).map_err(|error| failed(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(failed("it holds no PEM certificate".to_owned()));
            }
        }
        Trust::System => {
            // Those that cannot be read are not trusted, and that is all that follows from it.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the ring provider has the cipher suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<&str>) {
        let base = text.parse::<Base>().ok().map(|base| base.to_string());
        assert_eq!(base.as_deref(), expect, "{text}");
    }

    #[test]
    fn a_base_is_a_scheme_a_host_and_a_port() {
        check("https://localhost:8443", Some("https://localhost:8443"));
        check("http://[::1]:8080/grid/", Some("http://[::1]:8080/grid"));
        check("https://grid.example", Some("https://grid.example:443"));
        check("localhost:8443", None);
        check("ftp://localhost", None);
        check("https://user:pass@localhost", None);
    }

    #[test]
    fn a_server_that_listens_everywhere_is_met_on_loopback() {
        assert_eq!(Base::local(false, "0.0.0.0:80").unwrap().to_string(), "http://127.0.0.1:80");
        assert_eq!(Base::local(true, "[::]:443").unwrap().to_string(), "https://[::1]:443");
    }
}
