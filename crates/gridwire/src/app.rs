//! The server: what it is made of, in which order it comes up and goes down.
//!
//! Up: take the data directory, bind every port, open the log and the resources, put broker and control
//! together, install the routing table, and only then serve and tell the addresses. Down: stop accepting, let
//! requests in flight finish within the grace period, stop delivering, flush and close the log. A log that has
//! failed cannot keep its promises any more: then the process ends with [`LOG_FAILED`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use gridwire_broker::{Broker, BrokerOptions, BrokerParts, PushOptions};
use gridwire_control::{Control, ControlOptions, ManagementToken, PublicAddresses, Sealer};
use gridwire_core::retry::JITTER_SHARE;
use gridwire_core::routing::DeliveryPort;
use gridwire_core::time::Timestamp;
use gridwire_http::{Server, ServerOptions, Service};
use gridwire_outside::system::{SystemClock, SystemDisk, SystemNet, SystemRng};
use gridwire_outside::{Clock, Disk, DiskFile, Listener, Net, Rng, VirtualClock};
use gridwire_store::embedded::{EmbeddedLog, EmbeddedOptions, RedbResources};
use gridwire_store::{Log, ResourceStore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ahead::Ahead;
use crate::data_dir::{Addresses, DataDir};
use crate::dev::{ClockOnFile, Dev};
use crate::service::{Admin, Front};
use crate::settings::Settings;
use crate::tls::{self, ServerCertificate, Source};

/// The exit code after the log has failed; an input/output error in `sysexits`.
pub(crate) const LOG_FAILED: u8 = 74;

/// How long the log may take to flush at the end.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at the wall clock.
const WALL_PERIOD: Duration = Duration::from_secs(1);
/// A difference from the wall clock that is worth a line in the log, in milliseconds.
const WALL_DIFFERENCE_MAX: u64 = 1000;
/// Looks at the wall clock between two looks at the certificate: half a day.
const CERTIFICATE_PERIODS: u32 = 12 * 60 * 60;

/// The real outside.
#[derive(Debug)]
struct Outside {
    /// Real time, for connections and certificates.
    clock: Arc<SystemClock>,
    /// What broker time is told by.
    broker_clock: Arc<dyn Clock>,
    /// The same, in development mode.
    virtual_clock: Option<Arc<VirtualClock>>,
    rng: Arc<SystemRng>,
    disk: Arc<SystemDisk>,
    net: Arc<SystemNet>,
}

impl Outside {
    /// `ahead` is what the clock was advanced before; `None` outside development mode, where it cannot be.
    fn new(disk: Arc<SystemDisk>, ahead: Option<Duration>) -> Self {
        let clock = Arc::new(SystemClock::start());
        let virtual_clock =
            ahead.map(|ahead| Arc::new(VirtualClock::new(Arc::clone(&clock) as Arc<dyn Clock>, ahead)));
        let broker_clock = match &virtual_clock {
            Some(ahead) => Arc::clone(ahead) as Arc<dyn Clock>,
            None => Arc::clone(&clock) as Arc<dyn Clock>,
        };
        let (rng, net) = (Arc::new(SystemRng::new()), Arc::new(SystemNet));
        Self { clock, broker_clock, virtual_clock, rng, disk, net }
    }
}

/// A server that is ready to serve, and does not yet.
#[derive(Debug)]
pub(crate) struct App {
    outside: Outside,
    data_dir: DataDir,
    lock: Arc<dyn DiskFile>,
    listeners: Listeners,
    certificate: Arc<ServerCertificate>,
    log: Arc<EmbeddedLog>,
    resources: Arc<dyn ResourceStore>,
    broker: Arc<Broker>,
    control: Arc<Control>,
    token: String,
    started: Timestamp,
    dev: Option<Arc<Dev>>,
    grace_period: Duration,
}

#[derive(Debug)]
struct Listeners {
    http: Box<dyn Listener>,
    https: Box<dyn Listener>,
    admin: Box<dyn Listener>,
}

impl Listeners {
    async fn bind(net: &dyn Net, settings: &Settings) -> anyhow::Result<Self> {
        let bind = async |key: &str, flag: &str, at: SocketAddr| {
            net.listen(at).await.with_context(|| {
                format!(
                    "failed to listen on {at} for {key}; choose another address with {flag}, port 0 for any"
                )
            })
        };
        Ok(Self {
            http: bind("http", "--http", settings.http).await?,
            https: bind("https", "--https", settings.https).await?,
            admin: bind("admin", "--admin", settings.admin).await?,
        })
    }

    fn addresses(&self) -> anyhow::Result<[SocketAddr; 3]> {
        let address = |listener: &dyn Listener| listener.local_addr().context("a listener has no address");
        Ok([address(&*self.http)?, address(&*self.https)?, address(&*self.admin)?])
    }
}

impl App {
    /// Builds everything; when it returns, requests wait at the ports.
    pub(crate) async fn build(settings: &Settings) -> anyhow::Result<Self> {
        let disk = Arc::new(SystemDisk);
        let data_dir = DataDir::at(&settings.data_dir);
        let lock = data_dir.take(&*disk)?;
        let on_file = ClockOnFile::read(&data_dir)?;
        let outside = Outside::new(disk, settings.dev.then_some(on_file.ahead));
        let started = outside.clock.now();
        if !settings.dev && !on_file.ahead.is_zero() {
            tracing::warn!(
                seconds = on_file.ahead.as_secs(),
                "the clock of this data directory was advanced in development mode: broker time goes on from \
                 the newest record, and follows the wall clock slowly"
            );
        }
        check_file_system(&*outside.disk, &data_dir, settings.require_durable_fs)?;
        let secrets = data_dir.secrets(&*outside.rng)?;
        let token = match &settings.management_token {
            Some(token) => token.0.clone(),
            None => data_dir.token(&*outside.rng)?,
        };
        let source = certificate_source(settings, &data_dir);
        let prepared = source.prepare(started)?;
        if let Some(reason) = &prepared.made_because {
            tracing::info!(reason, until = %prepared.not_after, "made a server certificate");
        }
        let certificate = ServerCertificate::new(source, &prepared);
        let listeners = Listeners::bind(&*outside.net, settings).await?;
        let own = listeners.addresses()?;

        let log = open_log(&outside, &data_dir).await?;
        // Broker time never steps back, not even over a restart with the wall clock set back.
        let (_, newest) = log.position();
        outside.broker_clock.raise_to(newest.max(on_file.at));
        let advanced = outside.virtual_clock.as_ref().map_or(Duration::ZERO, |clock| clock.ahead());
        if let Some(warning) = Ahead::of(&*outside.broker_clock, advanced).warning() {
            tracing::warn!("{warning}");
        }
        let resources = open_resources(&outside, &data_dir).await?;
        let broker = Broker::start(BrokerParts {
            log: Arc::clone(&log) as Arc<dyn Log>,
            disk: Arc::clone(&outside.disk) as Arc<dyn Disk>,
            clock: Arc::clone(&outside.broker_clock),
            rng: Arc::clone(&outside.rng) as Arc<dyn Rng>,
            net: Arc::clone(&outside.net) as Arc<dyn Net>,
            data_dir: settings.data_dir.clone(),
            token_secret: secrets.token,
            options: broker_options(settings, own, on_file.at),
        })?;
        let control = Control::open(
            Arc::clone(&resources),
            Sealer::new(secrets.master),
            Arc::clone(&broker) as Arc<dyn DeliveryPort>,
            Arc::clone(&outside.broker_clock),
            Arc::clone(&outside.rng) as Arc<dyn Rng>,
            control_options(settings, own, &token),
        )
        .await
        .context("failed to read the resources")?;
        // Before anything is delivered: what has expired is not woken up once more.
        control.expire().await;
        control.install().await.context("failed to put the resources in use")?;
        let dev = outside.virtual_clock.clone().map(|clock| {
            Arc::new(Dev::new(clock, data_dir.clone(), Arc::clone(&broker), Arc::clone(&control)))
        });
        let grace_period = settings.grace_period;
        Ok(Self {
            outside,
            data_dir,
            lock,
            listeners,
            certificate,
            log,
            resources,
            broker,
            control,
            token,
            started,
            dev,
            grace_period,
        })
    }

    /// Serves.
    pub(crate) fn spawn(self) -> anyhow::Result<Running> {
        let addresses = self.listeners.addresses()?.map(|address| address.to_string());
        let [http, https, admin] = addresses;
        let acceptor = self.certificate.acceptor()?;
        let stop = CancellationToken::new();
        let front: Arc<dyn Service> = Arc::new(Front::new(
            Arc::clone(&self.broker),
            Arc::clone(&self.control),
            self.dev.clone(),
            &*self.outside.rng,
        ));
        let admin_service: Arc<dyn Service> = Arc::new(Admin {
            broker: Arc::clone(&self.broker),
            control: Arc::clone(&self.control),
            dev: self.dev.clone(),
            clock: Arc::clone(&self.outside.broker_clock),
            started: self.started,
            stop: stop.clone(),
        });
        let options = ServerOptions { drain_timeout: self.grace_period, ..ServerOptions::default() };
        let server = |listener, tls, service: &Arc<dyn Service>| Server {
            listener,
            tls,
            service: Arc::clone(service),
            clock: Arc::clone(&self.outside.clock) as Arc<dyn Clock>,
            rng: Arc::clone(&self.outside.rng) as Arc<dyn Rng>,
            options: options.clone(),
        };
        let Listeners { http: plain, https: secure, admin: private } = self.listeners;
        let (requests, upkeep) = (TaskTracker::new(), TaskTracker::new());
        let end = CancellationToken::new();
        requests.spawn(server(plain, None, &front).serve(stop.clone()));
        requests.spawn(server(secure, Some(acceptor), &front).serve(stop.clone()));
        // The admin listener answers to the end, so that the drain can be watched.
        upkeep.spawn(server(private, None, &admin_service).serve(end.clone()));
        upkeep.spawn(keep_up(Arc::clone(&self.outside.clock), Arc::clone(&self.certificate), end.clone()));
        upkeep.spawn(Arc::clone(&self.control).keep_expiring(stop.clone()));
        requests.close();
        upkeep.close();
        Ok(Running {
            addresses: Addresses { http, https, admin },
            data_dir: self.data_dir,
            token: self.token,
            lock: self.lock,
            clock: self.outside.clock,
            broker_clock: self.outside.broker_clock,
            rng: self.outside.rng,
            log: self.log,
            resources: self.resources,
            broker: self.broker,
            control: self.control,
            dev: self.dev,
            grace_period: self.grace_period,
            requests,
            upkeep,
            stop,
            end,
        })
    }
}

/// A server that serves.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) addresses: Addresses,
    pub(crate) data_dir: DataDir,
    pub(crate) token: String,
    /// Held until the end, so that no second server comes in.
    lock: Arc<dyn DiskFile>,
    clock: Arc<SystemClock>,
    broker_clock: Arc<dyn Clock>,
    rng: Arc<SystemRng>,
    log: Arc<EmbeddedLog>,
    resources: Arc<dyn ResourceStore>,
    broker: Arc<Broker>,
    control: Arc<Control>,
    /// Only in development mode.
    pub(crate) dev: Option<Arc<Dev>>,
    grace_period: Duration,
    requests: TaskTracker,
    upkeep: TaskTracker,
    stop: CancellationToken,
    end: CancellationToken,
}

impl Running {
    /// Done when the log or the resource store has failed: the process must end with [`LOG_FAILED`]. Cancel safe.
    pub(crate) async fn log_failed(&self) {
        tokio::select! {
            () = self.log.failed() => {}
            () = self.resources.failed() => {}
            () = self.broker.failed() => {}
        }
    }

    /// Chance, for whoever serves beside the server.
    pub(crate) fn rng(&self) -> &Arc<SystemRng> {
        &self.rng
    }

    /// How far broker time is ahead.
    pub(crate) fn ahead(&self) -> Ahead {
        Ahead::of(&*self.broker_clock, self.dev.as_ref().map_or(Duration::ZERO, |dev| dev.ahead()))
    }

    /// The clock, for whoever waits beside the server.
    pub(crate) fn clock(&self) -> &Arc<SystemClock> {
        &self.clock
    }

    /// Goes down in order; at most about the grace period.
    pub(crate) async fn drain(self) {
        if let Err(error) = self.data_dir.remove_addresses() {
            tracing::warn!(error = format!("{error:#}"), "the addresses stay on file");
        }
        self.stop.cancel();
        // What is quick finishes first. Then the broker stops, which also answers receivers that still wait.
        tokio::select! {
            () = self.requests.wait() => {}
            () = self.clock.sleep(self.grace_period.min(Duration::from_secs(1))) => {}
        }
        self.broker.stop().await;
        self.requests.wait().await;
        tokio::select! {
            () = self.control.drain() => {}
            () = self.clock.sleep(self.grace_period) => {
                tracing::warn!("a change of the resources was still under way at the end");
            }
        }
        self.log.close(CLOSE_PATIENCE).await;
        self.end.cancel();
        self.upkeep.wait().await;
        drop(self.lock);
    }
}

/// Promises rest on flushes that reach a medium.
fn check_file_system(disk: &dyn Disk, data_dir: &DataDir, required: bool) -> anyhow::Result<()> {
    let shown = data_dir.root().display();
    let found = disk.undependable(data_dir.root());
    let Some(kind) = found.with_context(|| format!("failed to look at the file system of `{shown}`"))? else {
        return Ok(());
    };
    anyhow::ensure!(
        !required,
        "`{shown}` is on {kind}, where a flush does not make data outlive a power cut; \
         choose another directory with --data-dir, or leave --require-durable-fs out"
    );
    tracing::warn!(
        directory = %shown,
        file_system = kind,
        "a flush does not make data outlive a power cut here: what was answered may be lost in one"
    );
    Ok(())
}

fn certificate_source(settings: &Settings, data_dir: &DataDir) -> Source {
    if let Some((certificate, key)) = &settings.tls_files {
        return Source::Files { certificate: certificate.clone(), key: key.clone() };
    }
    let mut extra = settings.tls_names.clone();
    extra.extend(settings.public_https.iter().map(|base| base.host().to_owned()));
    let names = tls::names(settings.base_domain.as_deref(), settings.https.ip(), &extra);
    Source::Local { dir: data_dir.clone(), names }
}

async fn open_log(outside: &Outside, data_dir: &DataDir) -> anyhow::Result<Arc<EmbeddedLog>> {
    let disk: Arc<dyn Disk> = Arc::clone(&outside.disk) as _;
    let clock = Arc::clone(&outside.broker_clock);
    let rng = Arc::clone(&outside.rng);
    let dir = data_dir.root().to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        EmbeddedLog::open(disk, clock, &*rng, &dir, EmbeddedOptions::default())
    });
    opened
        .await
        .context("opening the log panicked")?
        .with_context(|| format!("failed to open the log in `{}`", data_dir.root().display()))
}

async fn open_resources(outside: &Outside, data_dir: &DataDir) -> anyhow::Result<Arc<dyn ResourceStore>> {
    let disk: Arc<dyn Disk> = Arc::clone(&outside.disk) as _;
    let path: PathBuf = data_dir.resources_file();
    let shown = path.display().to_string();
    let opened = tokio::task::spawn_blocking(move || RedbResources::open(disk, &path));
    let resources = opened
        .await
        .context("opening the resources panicked")?
        .with_context(|| format!("failed to open the resources in `{shown}`"))?;
    Ok(resources)
}

fn broker_options(settings: &Settings, own: [SocketAddr; 3], known_time: Timestamp) -> BrokerOptions {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    BrokerOptions {
        shards: if settings.shards == 0 { cores } else { settings.shards },
        push: PushOptions {
            allow_http: settings.dev || settings.allow_http,
            allow_loopback: settings.dev || settings.allow_loopback,
            allow_networks: settings.allow_networks.iter().filter_map(|text| text.parse().ok()).collect(),
            own_addresses: own.to_vec(),
            request_rate: settings.request_rate,
            token_issuer: settings.token_issuer.clone(),
            faults: settings.dev,
            ..PushOptions::default()
        },
        base_domain: settings.base_domain.clone(),
        retry_jitter: settings.retry_jitter / (100.0 * JITTER_SHARE),
        auth_failures_max: settings.auth_failures_max,
        known_time,
        dead_letter_accounts: settings.dead_letter_accounts.clone(),
        dead_letter_delay: settings.dead_letter_delay,
        threads: true,
    }
}

fn control_options(settings: &Settings, own: [SocketAddr; 3], token: &str) -> ControlOptions {
    let [http, https, _] = own;
    // An unspecified address is no place to send anybody to.
    let shown = |scheme: &str, address: SocketAddr| {
        if address.ip().is_unspecified() {
            format!("{scheme}://localhost:{}", address.port())
        } else {
            format!("{scheme}://{address}")
        }
    };
    let public = |base: &Option<crate::client::Base>, scheme: &str, address| {
        Some(base.as_ref().map_or_else(|| shown(scheme, address), ToString::to_string))
    };
    let accounts = settings.dead_letter_accounts.iter();
    let accounts = accounts.map(|account| (account.name.clone(), account.url.clone())).collect();
    ControlOptions {
        management_token: ManagementToken::from_secret(token),
        auth_failures_max: settings.auth_failures_max,
        public: PublicAddresses {
            http: public(&settings.public_http, "http", http),
            https: public(&settings.public_https, "https", https),
            base_domain: settings.base_domain.clone(),
            letter_accounts: accounts,
        },
        allow_http_webhooks: settings.dev || settings.allow_http,
        token_issuer: settings.token_issuer.is_some(),
        dead_letter_patience: settings.dead_letter_patience,
    }
}

/// Follows the wall clock, and keeps the certificate fresh.
async fn keep_up(clock: Arc<SystemClock>, certificate: Arc<ServerCertificate>, end: CancellationToken) {
    let mut was_off = false;
    let mut periods = 0;
    loop {
        tokio::select! {
            biased;
            () = end.cancelled() => return,
            () = clock.sleep(WALL_PERIOD) => {}
        }
        let difference = clock.follow_wall(WALL_PERIOD);
        let is_off = difference.unsigned_abs() > WALL_DIFFERENCE_MAX;
        if is_off && !was_off {
            tracing::warn!(
                milliseconds = difference,
                "the wall clock differs from broker time, which now follows slowly"
            );
        }
        was_off = is_off;
        periods += 1;
        if periods == CERTIFICATE_PERIODS {
            periods = 0;
            let (certificate, now) = (Arc::clone(&certificate), clock.now());
            let renewed = tokio::task::spawn_blocking(move || certificate.renew(now)).await;
            if let Ok(Err(error)) = renewed {
                tracing::error!(error = format!("{error:#}"), "the server certificate could not be renewed");
            }
        }
    }
}
