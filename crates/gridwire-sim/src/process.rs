//! One life of the broker: the real one, put together as the program does it, on the simulated outside.
//!
//! Up: the log, the resources, broker and control, the routing table; then the door opens. Requests come in by
//! a channel in place of a socket, each is handled by its own task, and its future is dropped when the client
//! hangs up, as the HTTP server does. When the log fails the process ends itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use gridwire_broker::{AuditError, Audited, Broker, BrokerOptions, BrokerParts, PushOptions};
use gridwire_control::{
    Control, ControlOptions, DeadLetterPatience, ManagementToken, PublicAddresses, Sealer,
};
use gridwire_core::routing::DeliveryPort;
use gridwire_core::time::Timestamp;
use gridwire_http::{Body, Peer};
use gridwire_outside::{Clock, Disk, Rng, SeededRng};
use gridwire_store::Log;
use gridwire_store::embedded::{EmbeddedLog, EmbeddedOptions, RedbResources, SettleDurability};
use http_body_util::BodyExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::disk::{End, Life, ProcessDisk};
use crate::hurried::Hurried;
use crate::machine::Turns;
use crate::net::SimNet;
use crate::slow_log::SlowLog;
use crate::world::World;

pub(crate) const DATA_DIR: &str = "/data";
pub(crate) const MANAGEMENT_TOKEN: &str = "management";
/// How often the state log's own thread would flush.
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// Requests on their way in.
const CALLS_MAX: usize = 1024;

/// What comes in.
#[derive(Debug)]
pub(crate) enum Call {
    /// A request; whoever waits for its answer is in [`Replies`] under this number, and keeps the other end of
    /// the channel until it hangs up.
    Request(Box<http::Request<Bytes>>, u64, oneshot::Receiver<()>),
    /// The metrics page.
    Metrics(oneshot::Sender<String>),
    /// An audit of the event subscription with this resource id.
    Audit(String, oneshot::Sender<Result<Audited, AuditError>>),
    /// SIGTERM.
    Stop,
}

/// Who waits for an answer of the process that runs, in order of arrival. Outside of the process, so that a kill
/// resets its connections in that order and not in the one in which a runtime drops its tasks.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    last: u64,
    waiting: BTreeMap<u64, oneshot::Sender<http::Response<Bytes>>>,
}

impl Replies {
    pub(crate) fn wait(&mut self) -> (u64, oneshot::Receiver<http::Response<Bytes>>) {
        let (reply, answer) = oneshot::channel();
        self.last += 1;
        self.waiting.insert(self.last, reply);
        (self.last, answer)
    }

    fn answer(&mut self, number: u64, response: http::Response<Bytes>) {
        if let Some(reply) = self.waiting.remove(&number) {
            // A client that hung up has no more to learn.
            let _ = reply.send(response);
        }
    }

    pub(crate) fn reset_all(&mut self) {
        self.waiting.clear();
    }
}

/// A broker that runs, until it is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) turns: Turns,
    pub(crate) life: Life,
}

impl Process {
    pub(crate) fn start(world: &Arc<World>) -> Self {
        let turns = Turns::new();
        let life = Life::new(world.disk.clone());
        let (own, mine) = (Arc::clone(world), life.clone());
        // Joined by the end of its runtime.
        drop(turns.handle().spawn(async move {
            let end = serve(&own, &mine).await;
            mine.end(end);
        }));
        Self { turns, life }
    }
}

/// What a process is made of.
struct Parts {
    log: Arc<SlowLog>,
    broker: Arc<Broker>,
    control: Arc<Control>,
}

async fn serve(world: &Arc<World>, life: &Life) -> End {
    let parts = match build(world, life).await {
        Ok(parts) => Arc::new(parts),
        Err(why) => return End::Failed(format!("it did not start: {why}")),
    };
    let (door, mut calls) = mpsc::channel(CALLS_MAX);
    world.stage().door = Some(door);
    world.stage_changed.notify_waiters();
    world.checker().serves();
    world.note("process: serves");
    let tasks = TaskTracker::new();
    let (log, clock) = (Arc::clone(&parts.log), Arc::clone(&world.clock));
    // Ends with its runtime.
    drop(tokio::runtime::Handle::current().spawn(async move {
        loop {
            clock.sleep(FLUSH_EVERY).await;
            log.flush_if_dirty().await;
        }
    }));
    loop {
        let call = tokio::select! {
            biased;
            () = parts.log.failed() => return End::Failed("the log has failed".to_owned()),
            () = parts.broker.failed() => return End::Failed("the broker has failed".to_owned()),
            call = calls.recv() => call,
        };
        match call {
            Some(Call::Request(request, number, hung_up)) => {
                let (own, parts, life) = (Arc::clone(world), Arc::clone(&parts), life.clone());
                tasks.spawn(async move {
                    let response = handle(&parts, *request, hung_up).await;
                    let mut replies = own.replies();
                    match response {
                        Some(response) if !life.is_over() => replies.answer(number, response),
                        Some(_) => {} // The end of the process resets them all.
                        None => drop(replies.waiting.remove(&number)),
                    }
                });
            }
            Some(Call::Metrics(reply)) => {
                // Nobody waiting any more is fine.
                let _ = reply.send(parts.broker.metrics().await);
            }
            Some(Call::Audit(subscription, reply)) => {
                let _ = reply.send(parts.broker.audit(&subscription).await);
            }
            Some(Call::Stop) | None => break,
        }
    }
    world.note("process: stops");
    drop(calls);
    tasks.close();
    let drain = async {
        parts.broker.stop().await;
        tasks.wait().await;
        parts.control.drain().await;
        parts.log.close(Duration::from_secs(5)).await;
    };
    tokio::select! {
        biased;
        () = parts.log.failed() => End::Failed("the log has failed while it stopped".to_owned()),
        () = drain => End::Stopped,
    }
}

/// Answers a request, unless the client hangs up before.
async fn handle(
    parts: &Parts,
    request: http::Request<Bytes>,
    hung_up: oneshot::Receiver<()>,
) -> Option<http::Response<Bytes>> {
    let request = request.map(Body::from);
    let peer = Peer { address: ([10, 0, 0, 1], 4000).into(), tls: false };
    let answer = async {
        if Control::is_management_path(request.uri().path()) {
            parts.control.handle(request, peer).await
        } else {
            parts.broker.handle(request, peer).await
        }
    };
    let response = tokio::select! {
        biased;
        response = answer => response,
        _ = hung_up => return None,
    };
    let (head, body) = response.into_parts();
    let Ok(body) = body.collect().await;
    Some(http::Response::from_parts(head, body.to_bytes()))
}

async fn build(world: &Arc<World>, life: &Life) -> Result<Parts, String> {
    let plan = &world.plan;
    let disk: Arc<dyn Disk> =
        Arc::new(ProcessDisk { life: life.clone(), letters: world.letters_disk.clone() });
    let clock: Arc<dyn Clock> = world.clock.clone();
    let rng: Arc<dyn Rng> = Arc::new(SeededRng::new(world.rng.next_u64()));
    let dir = Path::new(DATA_DIR);
    let options = EmbeddedOptions {
        segment_bytes: plan.segment_bytes,
        cache_bytes: plan.cache_bytes,
        block_bytes: plan.block_bytes,
        state_file_bytes: plan.state_file_bytes,
        ballast_bytes: plan.state_file_bytes,
        snapshot_bytes: plan.snapshot_bytes,
        settle_durability: if plan.settlements_are_flushed {
            SettleDurability::Flush
        } else {
            SettleDurability::Write
        },
        threads: false,
        ..EmbeddedOptions::default()
    };
    let log = EmbeddedLog::open(Arc::clone(&disk), Arc::clone(&clock), &*rng, dir, options);
    let log = log.map_err(|error| format!("the log: {error} ({error:?})"))?;
    clock.raise_to(log.position().1);
    let log = Arc::new(SlowLog { log, world: Arc::clone(world), dirty: AtomicBool::new(true) });
    let resources = RedbResources::open_inline(Arc::clone(&disk), &dir.join("meta.redb"));
    let resources = resources.map_err(|error| format!("the resources: {error}"))?;
    let push = PushOptions { allow_http: true, connections_per_endpoint: 8, ..PushOptions::default() };
    let broker = Broker::start(BrokerParts {
        log: Arc::clone(&log) as Arc<dyn Log>,
        disk,
        clock: Arc::clone(&clock),
        rng: Arc::clone(&rng),
        net: Arc::new(SimNet { world: Arc::clone(world), life: life.clone() }),
        data_dir: dir.to_owned(),
        token_secret: [7; 32],
        options: BrokerOptions {
            shards: plan.shards,
            push,
            base_domain: None,
            retry_jitter: 1.0,
            auth_failures_max: 0,
            known_time: Timestamp::ZERO,
            dead_letter_accounts: Vec::new(),
            dead_letter_delay: Duration::ZERO,
            threads: false,
        },
    })
    .map_err(|error| error.to_string())?;
    let (haste, letters) = (plan.haste, plan.letters);
    let port = Arc::new(Hurried { broker: Arc::clone(&broker), haste, letters });
    let control = Control::open(
        resources,
        Sealer::new([9; 32]),
        port as Arc<dyn DeliveryPort>,
        clock,
        rng,
        ControlOptions {
            management_token: ManagementToken::from_secret(MANAGEMENT_TOKEN),
            auth_failures_max: 0,
            public: PublicAddresses::default(),
            allow_http_webhooks: true,
            token_issuer: false,
            dead_letter_patience: DeadLetterPatience::default(),
        },
    )
    .await
    .map_err(|error| format!("the control plane: {error}"))?;
    control.install().await.map_err(|error| format!("the routing table: {error}"))?;
    Ok(Parts { log, broker, control })
}
