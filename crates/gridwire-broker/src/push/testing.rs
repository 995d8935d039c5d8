//! What the tests of this module share: webhooks that behave as a test wants, down to the byte, and a broker's
//! end to call them from, on a clock that only the test moves.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use gridwire_core::event::DeliverySchema;
use gridwire_core::filter::FilterSpec;
use gridwire_core::ids::{Offset, Slot, SubscriptionNumber, TopicNumber};
use gridwire_core::pace::Pacing;
use gridwire_core::retry::{RetryPolicy, Tier};
use gridwire_core::routing::{
    BoxFuture, DeliveryMode, QueuePolicy, RoutingTable, SubscriptionRoute, TopicKind, Webhook,
};
use gridwire_core::time::Timestamp;
use gridwire_core::tls_identity::ClientCertificate;
use gridwire_outside::system::SystemNet;
use gridwire_outside::{Listener, ManualClock, Net, SeededRng, Stream};
use gridwire_store::Log;
use gridwire_store::model::ModelLog;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::PushOptions;
use super::dispatcher::{Attempt, AttemptKey, Dispatcher, Finished, Forwarder, Report};

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A server on a port of its own that does with each connection what it is told. Ends when dropped.
pub(crate) struct TestServer {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

/// A connection as the server sees it.
pub(super) struct Peer {
    stream: Box<dyn Stream>,
    /// Which connection of its server it is; the first is 1.
    pub(super) number: usize,
    received: Vec<u8>,
}

impl TestServer {
    pub(super) async fn start<F, W>(serve: F) -> Self
    where
        F: Fn(Peer) -> W + Send + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        Self::start_with(None, serve).await
    }

    pub(super) async fn start_with<F, W>(tls: Option<TlsAcceptor>, serve: F) -> Self
    where
        F: Fn(Peer) -> W + Send + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let listener = SystemNet.listen(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("the listener works");
                let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
                let stream: Box<dyn Stream> = match &tls {
                    None => stream,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(session) => Box::new(session),
                        Err(_) => continue,
                    },
                };
                serving.spawn(serve(Peer { stream, number, received: Vec::new() }));
            }
        });
        Self { address, connections, _tasks: tasks }
    }

    /// Answers every request with `answer`, for as long as the client keeps the connection.
    pub(crate) async fn answering(answer: impl Into<String>) -> Self {
        let answer = answer.into();
        Self::start(move |mut peer| {
            let answer = answer.clone();
            async move {
                while peer.request().await.is_some() {
                    peer.write(&answer).await;
                }
            }
        })
        .await
    }

    /// Takes what it is sent and never answers.
    pub(crate) async fn hanging() -> Self {
        Self::start(|mut peer| async move { peer.hang().await }).await
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }
}

impl Peer {
    /// The next request, head and body, or `None` when there is no other.
    pub(super) async fn request(&mut self) -> Option<String> {
        loop {
            if let Some(length) = request_length(&self.received) {
                let rest = self.received.split_off(length);
                let request = std::mem::replace(&mut self.received, rest);
                return Some(String::from_utf8_lossy(&request).into_owned());
            }
            if self.stream.read_buf(&mut self.received).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Sends `text` at once. That the client is gone is for the client's end to tell.
    pub(super) async fn write(&mut self, text: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(text.as_ref()).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Says that nothing more will be sent.
    pub(super) async fn shut_down(&mut self) {
        // That the client is gone already is as good.
        let _ = self.stream.shutdown().await;
    }

    /// Keeps the connection open until the client leaves.
    pub(super) async fn hang(&mut self) {
        while self.stream.read_buf(&mut self.received).await.is_ok_and(|count| 0 < count) {}
    }
}

/// How long the first request in `bytes` is, once all of it is there.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let length = text.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
    let length = length.map_or(0, |length| length.parse().expect("a number"));
    (head + length <= bytes.len()).then_some(head + length)
}

/// A network whose names are a table; it connects for real.
pub(super) struct TableNet {
    names: HashMap<&'static str, Vec<SocketAddr>>,
    lookups: AtomicUsize,
}

impl TableNet {
    pub(super) fn new<const N: usize>(names: [(&'static str, Vec<SocketAddr>); N]) -> Arc<Self> {
        Arc::new(Self { names: HashMap::from(names), lookups: AtomicUsize::new(0) })
    }

    /// Look-ups begun so far.
    pub(super) fn lookups(&self) -> usize {
        self.lookups.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for TableNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TableNet")
    }
}

impl Net for TableNet {
    fn listen(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move { SystemNet.listen(at).await })
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move { SystemNet.connect(to).await })
    }

    fn resolve<'a>(&'a self, host: &'a str, _port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let before = self.lookups.fetch_add(1, Ordering::SeqCst);
            match host {
                "hangs.example" => std::future::pending().await,
                "panics.example" if before == 0 => panic!("a planted panic in a look-up"),
                host => self.names.get(host).cloned().ok_or_else(|| io::ErrorKind::NotFound.into()),
            }
        })
    }
}

/// A dispatcher and who it works for.
pub(super) struct Rig {
    pub(super) clock: Arc<ManualClock>,
    pub(super) dispatcher: Arc<Dispatcher>,
    /// Where what is forwarded ends.
    pub(super) log: Arc<dyn Log>,
    pub(super) table: Arc<ArcSwap<RoutingTable>>,
    pub(super) installing: Arc<tokio::sync::Mutex<()>>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    done: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    next_id: u64,
}

pub(crate) fn local_options() -> PushOptions {
    PushOptions { allow_http: true, allow_loopback: true, ..PushOptions::default() }
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(local_options(), Arc::new(SystemNet))
    }

    pub(super) fn with(options: PushOptions, net: Arc<dyn Net>) -> Self {
        // 1994-11-06T08:49:37Z, the example date of the HTTP standard.
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(784_111_777_000)));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let rng = Arc::new(SeededRng::new(1));
        let log: Arc<dyn Log> = Arc::new(ModelLog::new(clock.clone()));
        let table = Arc::<ArcSwap<RoutingTable>>::default();
        let installing = Arc::<tokio::sync::Mutex<()>>::default();
        let forwarder = Forwarder {
            log: Arc::clone(&log),
            clock: clock.clone(),
            rng: rng.clone(),
            table: Arc::clone(&table),
            installing: Arc::clone(&installing),
            metrics: Arc::default(),
        };
        let dispatcher =
            Dispatcher::new(net, clock.clone(), rng, options, forwarder, tasks.clone(), stop.clone());
        let (done, reports) = mpsc::channel(10_000);
        Self { clock, dispatcher, log, table, installing, stop, tasks, done, reports, next_id: 0 }
    }

    pub(super) fn start(&mut self, subscription: &Arc<SubscriptionRoute>) -> AttemptKey {
        self.start_with(subscription, vec![("aeg-event-type", "Notification".to_owned())])
    }

    pub(super) fn start_with(
        &mut self,
        subscription: &Arc<SubscriptionRoute>,
        headers: Vec<(&'static str, String)>,
    ) -> AttemptKey {
        self.next_id += 1;
        let offsets = Arc::new([Offset(7)]);
        let key = AttemptKey { subscription: subscription.number, offsets, id: self.next_id, attempt: 1 };
        let attempt = Attempt {
            subscription: Arc::clone(subscription),
            key: key.clone(),
            body: bytes::Bytes::from_static(b"[{\"id\":\"1\"}]"),
            content_type: "application/json; charset=utf-8",
            headers: headers.into_iter().map(|(name, value)| (name.into(), value)).collect(),
        };
        self.send(attempt);
        key
    }

    /// Has `attempt` sent, and reported to [`Rig::finished`].
    pub(super) fn send(&self, attempt: Attempt) {
        self.dispatcher.start(attempt, &self.done);
    }

    /// The next report. Gives up, by the real clock, on what should have happened long ago.
    pub(super) async fn report(&mut self) -> Report {
        let report = tokio::time::timeout(Duration::from_secs(20), self.reports.recv()).await;
        report.expect("a report in time").expect("the channel is open")
    }

    /// The next report, of an attempt that has ended.
    pub(super) async fn finished(&mut self) -> Finished {
        match self.report().await {
            Report::Finished(finished) => finished,
            Report::Recalled(key) => panic!("recalled: {key:?}"),
        }
    }

    /// A report that is there already.
    pub(super) fn try_report(&mut self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    /// One attempt at `url` and how it ended.
    pub(super) async fn attempt(&mut self, url: &str) -> Finished {
        let subscription = subscription(1, url, DeliverySchema::EventGrid);
        let key = self.start(&subscription);
        let finished = self.finished().await;
        assert_eq!(finished.key, key);
        finished
    }

    /// One attempt at `url` that comes to nothing before the time is over: moves the clock on once `reached`.
    pub(super) async fn attempt_until_timeout(&mut self, url: &str, reached: impl Fn() -> bool) -> Finished {
        let subscription = subscription(1, url, DeliverySchema::EventGrid);
        self.start(&subscription);
        eventually(reached).await;
        self.clock.advance(Duration::from_millis(29_999));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.try_report(), None, "it gave up too early");
        self.clock.advance(Duration::from_millis(1));
        self.finished().await
    }
}

/// Waits, by the real clock and not for ever, until `condition` holds.
pub(crate) async fn eventually(condition: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never came true");
}

pub(crate) fn subscription(number: u32, url: &str, schema: DeliverySchema) -> Arc<SubscriptionRoute> {
    Arc::new(SubscriptionRoute {
        number: SubscriptionNumber(number),
        slot: Slot(number),
        topic: TopicNumber(1),
        topic_kind: TopicKind::Custom,
        name: format!("subscription-{number}"),
        resource_id: format!("/subscriptions/s/eventSubscriptions/subscription-{number}"),
        topic_name: "orders".to_owned(),
        topic_resource_id: "/subscriptions/s/topics/orders".to_owned(),
        namespace_name: String::new(),
        policy: QueuePolicy {
            mode: DeliveryMode::Push { retry: RetryPolicy { tier: Tier::Basic }, batching: None },
            attempts_max: 30,
            time_to_live: Duration::from_secs(86_400),
            dead_letter: None,
            pacing: Pacing::FREE,
        },
        webhook: Some(Webhook {
            url: url.to_owned(),
            schema,
            attributes: Vec::new(),
            signing: Vec::new(),
            token: None,
            tls: None,
        }),
        forward: None,
        dead_letter: None,
        filter: Arc::new(FilterSpec::default()),
    })
}

pub(super) type TlsVersions = &'static [&'static rustls::SupportedProtocolVersion];

/// A certificate authority of the test's own.
pub(super) struct Authority {
    pub(super) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// A server that proves to be `name`.
    pub(super) fn acceptor(&self, name: &str, versions: TlsVersions, expired: bool) -> TlsAcceptor {
        let (certificate, key) = self.issue(name, expired);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions the provider has")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a key that fits");
        TlsAcceptor::from(Arc::new(config))
    }

    /// The same, and it has no session with whoever does not prove to be of `clients`.
    pub(super) fn demanding(&self, name: &str, versions: TlsVersions, clients: &Self) -> TlsAcceptor {
        let (certificate, key) = self.issue(name, false);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(clients.certificate.clone()).expect("an authority");
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions the provider has")
            .with_client_cert_verifier(clients.build().expect("a verifier"))
            .with_single_cert(vec![certificate], key)
            .expect("a key that fits");
        TlsAcceptor::from(Arc::new(config))
    }

    /// What a client shows to prove to be `name`.
    pub(super) fn client(&self, name: &str) -> ClientCertificate {
        let (certificate, key) = self.issue(name, false);
        ClientCertificate { chain: vec![certificate.to_vec()], key: key.secret_der().to_vec() }
    }

    fn issue(&self, name: &str, expired: bool) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        if expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").der().clone();
        (certificate, PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
    }
}
