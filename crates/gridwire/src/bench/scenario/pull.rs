//! `pull`: a backlog is published, then received and acknowledged to its end.
//!
//! The yardstick is the publishing of that backlog, a moment before on the same server: a queue that takes in
//! faster than it gives out has its limit at the exit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{conclude, tell_conditions, template};
use crate::bench::args::{Kind, PullArgs};
use crate::bench::connection::{Client, Failed};
use crate::bench::load::{Load, Pacing, Tally};
use crate::bench::progress::Progress;
use crate::bench::report::{Ratio, Report, Series, Slice};
use crate::bench::setup::{Delivery, Plan, Pull};
use crate::bench::stage::Stage;
use crate::bench::stopwatch::Moment;
use crate::bench::wire::{Acknowledge, Received, Settled};

/// What the design asks for.
const AIM: f64 = 0.8;
/// Wait after a failure; as in the load loop.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

pub(crate) async fn run(args: &PullArgs) -> anyhow::Result<Report> {
    let mut stage = Stage::open(&args.server, &args.load).await?;
    let measured = measure(args, &mut stage).await;
    conclude(measured, stage).await
}

async fn measure(args: &PullArgs, stage: &mut Stage) -> anyhow::Result<Report> {
    anyhow::ensure!(args.shape.subscriptions > 0, "nothing is received without a subscription");
    let template = template(Kind::Namespace, &args.shape, args.batch)?;
    let (progress, _shown) = Progress::start();
    progress.phase("setting up");
    let delivery = Delivery::Pull { events_max: args.receive };
    let plan = Plan::new(&stage.run, Kind::Namespace, &args.shape, template.content_type, delivery);
    let topics = plan.make(&mut stage.management).await?;
    let (routes, subscriptions): (Vec<_>, Vec<_>) =
        topics.into_iter().map(|topic| (topic.publish, topic.pull)).unzip();
    let subscriptions: Vec<Pull> = subscriptions.into_iter().flatten().collect();

    let mut report = Report::new("pull");
    tell_conditions(&mut report, Kind::Namespace, &args.shape, &template, &args.load);
    // Every subscription needs somebody who empties it.
    let receivers = (args.receivers as usize).max(subscriptions.len());
    report.fact("receivers", receivers);
    report.fact("events_per_receive_max", args.receive);
    let batch = template.events();
    let event_bytes = template.len() as u64 / batch;
    let load = Load {
        template: Arc::new(template),
        routes: routes.into(),
        pacing: Pacing::Closed,
        duration: args.limit,
        requests_max: Some(args.events.div_ceil(batch)),
        sequence: Arc::default(),
        progress: Arc::clone(&progress),
    };
    let mut publishers = Client::pool(&stage.target, args.load.connections, args.load.streams);
    let mut clients = Client::pool(&stage.target, u32::try_from(receivers)?, 1);
    let (mut publishing, mut receiving) = (Series::new("publish"), Series::new("receive + acknowledge"));
    // The first round is the warm-up of both.
    for number in 0..=args.load.slices {
        progress.phase(format!("publish {number}/{}", args.load.slices));
        let before = stage.usage().await;
        let published = load.drive(&mut publishers).await;
        let middle = stage.usage().await;
        let expected = published.events * u64::from(args.shape.subscriptions);
        progress.phase(format!("receive {number}/{}", args.load.slices));
        let emptied = Emptying {
            expected,
            event_bytes,
            end: Moment::now() + args.limit,
            settled: AtomicU64::new(0),
            done: CancellationToken::new(),
            progress: Arc::clone(&progress),
        }
        .run(&mut clients, &subscriptions)
        .await;
        if emptied.events < expected {
            let missing = expected - emptied.events;
            report.notes.push(format!("{missing} of {expected} events were not received in time"));
        }
        if number > 0 {
            publishing.push(Slice::new(published, before, middle));
            receiving.push(Slice::new(emptied, middle, stage.usage().await));
        }
    }
    let aim = (args.receive == 100 && args.batch >= 100).then_some(AIM);
    report.ratios.push(Ratio::of(&receiving, &publishing, aim));
    report.series.push(receiving);
    report.series.push(publishing);
    Ok(report)
}

/// Receivers at work until everything is acknowledged.
struct Emptying {
    expected: u64,
    event_bytes: u64,
    end: Moment,
    settled: AtomicU64,
    /// Cancelled when all is acknowledged: some receivers are waiting for more by then.
    done: CancellationToken,
    progress: Arc<Progress>,
}

impl Emptying {
    /// Latencies are of a receive with the acknowledge that follows it.
    async fn run(self, clients: &mut Vec<Client>, subscriptions: &[Pull]) -> Tally {
        let start = Moment::now();
        let shared = Arc::new(self);
        if shared.expected == 0 {
            shared.done.cancel();
        }
        let mut receivers = JoinSet::new();
        for (number, client) in clients.drain(..).enumerate() {
            let routes = subscriptions[number % subscriptions.len()].clone();
            receivers.spawn(Arc::clone(&shared).receive(client, routes, start));
        }
        let mut total = Tally::new();
        while let Some(ended) = receivers.join_next().await {
            let (client, tally) =
                ended.expect("a receiver neither panics nor is aborted while it is awaited");
            clients.push(client);
            total.add(&tally);
        }
        total
    }

    async fn receive(self: Arc<Self>, mut client: Client, routes: Pull, start: Moment) -> (Client, Tally) {
        let mut tally = Tally::new();
        loop {
            let left = self.end.since(Moment::now());
            if left.is_zero() || self.done.is_cancelled() {
                return (client, tally);
            }
            let began = Moment::now();
            let round = tokio::select! {
                biased;
                () = self.done.cancelled() => None,
                round = tokio::time::timeout(left, round(&mut client, &routes)) => round.ok(),
            };
            match round {
                Some(Ok(Settling { events: 0, refused: None })) => {}
                Some(Ok(Settling { events, refused })) => {
                    let bytes = usize::try_from(events * self.event_bytes).unwrap_or(usize::MAX);
                    tally.succeeded(events, bytes, began.elapsed());
                    tally.elapsed = start.elapsed();
                    self.progress.add(events);
                    if let Some(refused) = refused {
                        tally.failed(&refused);
                    }
                    if self.settled.fetch_add(events, Ordering::Relaxed) + events >= self.expected {
                        self.done.cancel();
                    }
                }
                Some(Err(failed)) => {
                    tally.failed(&failed);
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                }
                // Abandoned in the middle of an exchange.
                None => client.disconnect(),
            }
        }
    }
}

/// What one acknowledgement came to.
struct Settling {
    /// Events acknowledged.
    events: u64,
    /// The answer, if it refused some of the lock tokens.
    refused: Option<Failed>,
}

/// One receive and the acknowledgement of all it brought.
async fn round(client: &mut Client, routes: &Pull) -> Result<Settling, Failed> {
    let answer = client.send(routes.receive.request(Bytes::new())).await?;
    let received: Received<'_> = serde_json::from_slice(&answer).map_err(Failed::not_understood)?;
    if received.value.is_empty() {
        return Ok(Settling { events: 0, refused: None });
    }
    let lock_tokens = received.value.into_iter().map(|one| one.broker_properties.lock_token).collect();
    let body = serde_json::to_vec(&Acknowledge { lock_tokens }).map_err(Failed::not_understood)?;
    let answer = client.send(routes.acknowledge.request(body.into())).await?;
    let settled: Settled = serde_json::from_slice(&answer).map_err(Failed::not_understood)?;
    Ok(Settling {
        events: settled.succeeded.len() as u64,
        refused: (!settled.failed.is_empty()).then(|| Failed::refused(String::from_utf8_lossy(&answer))),
    })
}
