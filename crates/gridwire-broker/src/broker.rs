//! The broker as a whole: started with its parts, told of routing tables, stopped.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use gridwire_core::dead_letter::StoreTag;
use gridwire_core::lock_token::LockTokens;
use gridwire_core::routing::{
    BoxFuture, Consent, DeliveryPort, Handshake, HandshakeError, InstallError, RoutingTable,
    SubscriptionRoute,
};
use gridwire_core::time::Timestamp;
use gridwire_http::{Guard, Peer, Request, Response};
use gridwire_outside::{Clock, Disk, Net, Rng};
use gridwire_store::{Log, ReadError};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::data_plane;
use crate::dead_letter::{self, AccountOptions, DeadLetters, Job, Jobs, Record, StartJobError};
use crate::deliveries::Deliveries;
use crate::metrics::{Metrics, Named, merged};
use crate::push::refusal::refusal;
use crate::push::{Dispatcher, Forwarder, PushOptions};
use crate::shards::{Missed, Outside, RecoveredShards, Shards};
use crate::unmatched::UnmatchedFile;

/// How long a stop waits: a little longer than the dispatcher lets attempts in flight go on.
const STOP_PATIENCE: Duration = Duration::from_secs(12);

/// How the broker runs.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// State machines side by side; usually one for each core. May differ at every start.
    pub shards: usize,
    pub push: PushOptions,
    /// `{topic}.{base_domain}` names a topic; without it only `{topic}.localhost` does.
    pub base_domain: Option<String>,
    /// How much of the jitter there may be lengthens the waits before retries, in `0.0..=1.0`.
    pub retry_jitter: f64,
    /// Wrong credentials from one address for one topic or namespace in a minute; 0: any number.
    pub auth_failures_max: u32,
    /// The newest time that is recorded outside the log. What has passed since is downtime or a step of the wall
    /// clock; what had passed before is known.
    pub known_time: Timestamp,
    /// Storage accounts that dead letters go to; others are directories.
    pub dead_letter_accounts: Vec<AccountOptions>,
    /// How long an event that is given up waits for its dead letter to be written.
    pub dead_letter_delay: Duration,
    /// Off: dead letters are written by the task that waits for them, so that a simulation stays in one thread.
    pub threads: bool,
}

/// What the broker is made of.
#[derive(Debug)]
pub struct BrokerParts {
    pub log: Arc<dyn Log>,
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
    pub net: Arc<dyn Net>,
    /// Dead letters go below it.
    pub data_dir: PathBuf,
    /// Authenticates lock tokens; must stay the same as long as locks live.
    pub token_secret: [u8; 32],
    pub options: BrokerOptions,
}

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("a broker needs at least one shard")]
    NoShards,
    #[error("failed to open the counters in {dir}: {source}")]
    Counters { dir: PathBuf, source: std::io::Error },
}

/// See the crate.
#[derive(Debug)]
pub struct Broker {
    outside: Arc<Outside>,
    /// Shared with the forwarder.
    table: Arc<ArcSwap<RoutingTable>>,
    /// Set by the first routing table: which shard has which subscription follows from it.
    shards: OnceLock<Arc<Shards>>,
    /// How many events of each topic nobody matched.
    unmatched: UnmatchedFile,
    /// One change of the table at a time.
    installing: Arc<tokio::sync::Mutex<()>>,
    tokens: LockTokens,
    /// See [`Broker::turn_of_those_behind`].
    turns: Semaphore,
    /// See [`Broker::only_audit`].
    audits: Semaphore,
    /// On dead letters.
    jobs: Arc<Jobs>,
    /// For jobs, which outlive the request that starts them.
    me: Weak<Self>,
    guard: Guard,
    options: BrokerOptions,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Broker {
    /// Puts the parts together. Nothing is delivered before the first [`DeliveryPort::install`].
    pub fn start(parts: BrokerParts) -> Result<Arc<Self>, StartError> {
        let BrokerParts { log, disk, clock, rng, net, data_dir, token_secret, options } = parts;
        if options.shards == 0 {
            return Err(StartError::NoShards);
        }
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let unmatched = UnmatchedFile::open(&*disk, &data_dir)
            .map_err(|source| StartError::Counters { dir: data_dir.clone(), source })?;
        let dead_letters = DeadLetters::new(disk, data_dir.join("deadletter"), options.threads)
            .with_accounts(&options.dead_letter_accounts, &net, &clock)
            .of_store(StoreTag::of(&token_secret));
        let (table, metrics) = (Arc::<ArcSwap<RoutingTable>>::default(), Arc::<Metrics>::default());
        let installing = Arc::<tokio::sync::Mutex<()>>::default();
        let forwarder = Forwarder {
            log: Arc::clone(&log),
            clock: Arc::clone(&clock),
            rng: Arc::clone(&rng),
            table: Arc::clone(&table),
            installing: Arc::clone(&installing),
            metrics: Arc::clone(&metrics),
        };
        let dispatcher = Dispatcher::new(
            net,
            Arc::clone(&clock),
            Arc::clone(&rng),
            options.push.clone(),
            forwarder,
            tasks.clone(),
            stop.clone(),
        );
        let guard = Guard::new(options.auth_failures_max, Arc::clone(&clock));
        let outside = Outside {
            log,
            clock,
            rng,
            dispatcher,
            dead_letters,
            missed: Missed::default(),
            deliveries: Deliveries::default(),
            metrics,
            retry_jitter: options.retry_jitter,
            fatal: CancellationToken::new(),
        };
        let jobs = Arc::new(outside.dead_letters.jobs());
        Ok(Arc::new_cyclic(|me| Self {
            outside: Arc::new(outside),
            table,
            shards: OnceLock::new(),
            unmatched,
            installing,
            tokens: LockTokens::new(&token_secret),
            turns: Semaphore::new((options.shards / 2).max(1)),
            audits: Semaphore::new(1),
            jobs,
            me: Weak::clone(me),
            guard,
            options,
            tasks,
            stop,
        }))
    }

    /// Answers a data plane request: publish, receive and settle.
    pub async fn handle(&self, request: Request, peer: Peer) -> Response {
        data_plane::handle(self, request, peer).await
    }

    /// The metrics page, without those of the process.
    pub async fn metrics(&self) -> String {
        let table = self.table();
        let routes: HashMap<_, _> =
            table.subscriptions().into_iter().map(|route| (route.number, route)).collect();
        let labels: HashMap<_, _> =
            table.by_number.iter().map(|(number, topic)| (*number, data_plane::label(topic))).collect();
        let status = match self.shards() {
            Some(shards) => shards.status().await.unwrap_or_default(),
            None => Vec::new(),
        };
        let queues = merged(status.into_iter().filter_map(|status| {
            let topic = labels.get(&status.topic)?;
            let subscription = &routes.get(&status.subscription)?.name;
            Some((status, Named { topic, subscription }))
        }));
        let jobs = self.jobs.running().len() as u64;
        self.outside.metrics.dead_letter_jobs.store(jobs, std::sync::atomic::Ordering::Relaxed);
        let topic_name = |number| labels.get(&number).map(String::as_str);
        let subscription_name = |number| {
            let route = routes.get(&number)?;
            Some(Named { topic: labels.get(&route.topic)?, subscription: &route.name })
        };
        let stored = |number| self.outside.log.end(number).0;
        let health = self.outside.log.health();
        self.outside.metrics.render(&health, &queues, stored, topic_name, subscription_name)
    }

    /// Whether events can be taken, and why not.
    pub fn readiness(&self) -> Result<(), String> {
        let health = self.outside.log.health();
        if health.failed {
            return Err("the log has failed".to_owned());
        }
        if self.outside.fatal.is_cancelled() {
            return Err("the broker cannot go on and is about to end".to_owned());
        }
        if health.state_full {
            return Err("the disk is full: nothing is received, settled or attempted".to_owned());
        }
        if health.full {
            return Err("the disk is full: publishing is refused, deliveries go on".to_owned());
        }
        if self.shards.get().is_none() {
            return Err("the state is still being recovered".to_owned());
        }
        Ok(())
    }

    /// What an operator should look at although requests may come.
    pub fn remarks(&self) -> Vec<String> {
        let health = self.outside.log.health();
        let mut remarks: Vec<String> = health
            .damages
            .iter()
            .map(|damage| {
                let bytes = &damage.bytes;
                let (segment, start, end) = (damage.segment, bytes.start, bytes.end);
                format!("segment {segment} of the log is damaged in bytes {start} to {end}")
            })
            .collect();
        if health.damaged_events_total > 0 {
            remarks.push(format!("events lost in damaged frames: {}", health.damaged_events_total));
        }
        if health.low_space {
            remarks.push(format!("the disk is getting full: {} bytes are free", health.free_bytes));
        }
        remarks
    }

    /// Stops delivering: attempts in flight may finish, everything else goes on after the next start.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => {}
            () = self.outside.clock.sleep(STOP_PATIENCE) => {
                tracing::info!("some attempts were still in flight; they will be repeated after the next start");
            }
        }
    }

    /// Done when the broker cannot keep its promises any more: the process must end with the exit code of a
    /// failed log. Cancel safe.
    pub async fn failed(&self) {
        self.outside.fatal.cancelled().await;
    }

    pub(crate) fn outside(&self) -> &Outside {
        &self.outside
    }

    pub(crate) fn table(&self) -> Arc<RoutingTable> {
        self.table.load_full()
    }

    /// The subscription with this number or resource id.
    pub(crate) fn subscription(&self, wanted: &str) -> Option<Arc<SubscriptionRoute>> {
        self.table().subscription(wanted)
    }

    pub(crate) fn shards(&self) -> Option<Arc<Shards>> {
        self.shards.get().cloned()
    }

    pub(crate) fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// Records a job on dead letters and does it. In a task: were it left to a request whose client hangs up, there
    /// could be a record of a job that nobody does.
    pub(crate) async fn start_job(&self, record: Record) -> Result<Arc<Job>, StartJobError> {
        let me = self.me.upgrade().expect("it is there while it is borrowed");
        let starting = self.tasks.spawn(async move {
            let job = me.jobs.add(record).await?;
            me.run(Arc::clone(&job));
            Ok::<_, StartJobError>(job)
        });
        match starting.await {
            Ok(started) => started,
            Err(panicked) => Err(StartJobError::Record(std::io::Error::other(panicked))),
        }
    }

    /// Does a job on dead letters, from where its record says.
    pub(crate) fn run(&self, job: Arc<Job>) {
        let Some(me) = self.me.upgrade() else { return };
        self.tasks.spawn(dead_letter::run_job(me, job, self.stop.clone()));
    }

    pub(crate) fn tokens(&self) -> &LockTokens {
        &self.tokens
    }

    /// Waits until events that are long past may be read and put into an answer. As many at once as half of the cores:
    /// consumers that catch up ask again at once, and whoever is at the tail would wait for all of them.
    pub(crate) async fn turn_of_those_behind(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed.
        self.turns.acquire().await.ok()
    }

    /// The right to audit; `None` while somebody else has it. Nobody waits for it: that may take minutes.
    pub(crate) fn only_audit(&self) -> Option<SemaphorePermit<'_>> {
        self.audits.try_acquire().ok()
    }

    /// Against guesses at topics' and namespaces' keys.
    pub(crate) fn guard(&self) -> &Guard {
        &self.guard
    }

    pub(crate) fn base_domain(&self) -> Option<&str> {
        self.options.base_domain.as_deref()
    }

    /// Why the subscription's endpoint may not be called, if that is so.
    pub(crate) fn refusal(&self, route: &SubscriptionRoute) -> Option<String> {
        refusal(&route.webhook.as_ref()?.url, &self.options.push)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.outside.clock.now()
    }

    /// See [`Clock::wall`]: for nothing but what clients have dated.
    pub(crate) fn wall(&self) -> Timestamp {
        self.outside.clock.wall()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(crate) async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// The order matters. First the shards know every new subscription, with its start recorded; then
    /// publishes are matched by the new table; last the removed ones end. So no match set ever names a
    /// subscription that its shard does not know, and a publish after the answer meets the new table.
    async fn install_table(&self, table: Arc<RoutingTable>) -> Result<(), InstallError> {
        let _one_at_a_time = self.installing.lock().await;
        let log = Arc::clone(&self.outside.log);
        let old = self.table();
        let shards = if let Some(shards) = self.shards.get() {
            Arc::clone(shards)
        } else {
            let mut recovered =
                RecoveredShards::read(&*log, self.options.shards, &table).map_err(|error| {
                    let what = match error {
                        ReadError::Damaged { what } => what,
                        other => other.to_string(),
                    };
                    InstallError::Damaged { what }
                })?;
            let newest = log.position().1.max(self.options.known_time);
            recovered.distrust_gap(newest, self.outside.clock.now());
            recovered.delay_dead_letters(self.options.dead_letter_delay);
            Shards::start(recovered, &self.outside, &self.tasks, &self.stop)
        };
        let is_first = self.shards.get().is_none();
        let change = table.since(&old);
        if shards.subscribe(&*log, &change.put, is_first).await? {
            // A publish that meets the new table is flushed before it is answered; where its subscription
            // starts must not be known any less surely.
            log.flush_state().await.map_err(|_| InstallError::Stopping)?;
        }
        self.outside.metrics.follow(&table, &change, |topic| self.unmatched.of(topic));
        self.table.store(Arc::clone(&table));
        shards.unsubscribe(change.gone).await?;
        // Only now: before, requests would find queues that are not awake yet.
        if self.shards.set(Arc::clone(&shards)).is_ok() {
            shards.start_housekeeping(&self.outside, &self.jobs, &self.tasks, &self.stop);
            for job in self.jobs.running() {
                self.run(job);
            }
        }
        Ok(())
    }
}

impl DeliveryPort for Broker {
    fn validate(&self, handshake: Handshake) -> BoxFuture<'_, Result<Consent, HandshakeError>> {
        Box::pin(self.outside.dispatcher.validate(handshake))
    }

    fn install(&self, table: Arc<RoutingTable>) -> BoxFuture<'_, Result<(), InstallError>> {
        Box::pin(self.install_table(table))
    }
}

#[cfg(test)]
mod tests;
