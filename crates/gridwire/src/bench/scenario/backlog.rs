//! `backlog`: a topic whose pull subscriptions fall far behind.
//!
//! The cast: the *tail* is a subscription whose receivers are always there; the *behind* are those that have
//! acknowledged none, a part, and so on, of the backlog, and catch up later; all others never receive. The
//! server is killed when the backlog is there and started again on the same directory.
//!
//! What is asked: does memory stay where it was when idle, whatever lies on the disk; does each subscription
//! get exactly what it had not acknowledged, across the crash; and does the tail notice those who catch up.
//! Page cache is no memory the server needs, so only anonymous pages are counted.

mod receiver;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::receiver::{Goal, Ledger, Receivers};
use super::memory::Memory;
use super::{DefaultLoad, conclude, template};
use crate::bench::args::{BacklogArgs, Kind, Schema, ServerArgs, ShapeArgs};
use crate::bench::body::Template;
use crate::bench::connection::Client;
use crate::bench::load::{Load, Pacing, Tally, histogram};
use crate::bench::numbers::{float, per_second, quotient, show_micros};
use crate::bench::progress::Progress;
use crate::bench::report::{Cell, Ratio, Report, Table};
use crate::bench::setup::{Delivery, Plan, Pull};
use crate::bench::stage::Stage;
use crate::bench::stopwatch::Moment;

/// Events that a receiver takes and acknowledges at once.
const RECEIVE: u32 = 100;
/// What the design asks for: the tail's 99th percentile may grow by half, or by so little that nobody minds.
const AIM: f64 = 1.5;
const SLOWER_MAX: Duration = Duration::from_millis(5);
/// What it asks for of anonymous memory: so much above idle at most, whatever waits.
const ABOVE_IDLE_MAX: u64 = 64 << 20;
/// The tail is timed in slices, so that timing ends soon after the others have caught up.
const SLICE: Duration = Duration::from_secs(1);
/// The point at which all are at the tail.
const CAUGHT_UP: &str = "caught up";
/// Connections of the modest publisher.
const TAIL_PUBLISHERS: u32 = 8;
/// How long the tail may take for the last event it has not got yet.
const TAIL_PATIENCE: Duration = Duration::from_secs(15);
const LATENCY_COLUMNS: [(&str, &str); 5] = [
    ("events", "events"),
    ("p50", "p50_microseconds"),
    ("p90", "p90_microseconds"),
    ("p99", "p99_microseconds"),
    ("max", "max_microseconds"),
];
const DRAIN_COLUMNS: [(&str, &str); 7] = [
    ("acknowledged before", "acknowledged_before"),
    ("expected", "expected"),
    ("received", "received"),
    ("twice", "twice"),
    ("missing", "missing"),
    ("seconds", "seconds"),
    ("events/s", "events_per_second"),
];
const STEP_COLUMNS: [(&str, &str); 2] = [("seconds", "seconds"), ("events/s", "events_per_second")];

pub(crate) async fn run(args: &BacklogArgs) -> anyhow::Result<Report> {
    ensure!(args.behind < args.subscriptions, "one subscription is at the tail: fewer can be behind");
    let server = ServerArgs { temp_dir: args.temp_dir.clone(), spawn: true, ..ServerArgs::default() };
    let load = DefaultLoad::load()?;
    let mut stage = Stage::open(&server, &load).await?;
    let measured = measure(args, &mut stage).await;
    conclude(measured, stage).await
}

async fn measure(args: &BacklogArgs, stage: &mut Stage) -> anyhow::Result<Report> {
    let shape = ShapeArgs {
        schema: Schema::Cloudevents,
        size: args.size,
        topics: 1,
        subscriptions: args.subscriptions,
    };
    let template = template(Kind::Namespace, &shape, args.batch)?;
    let (progress, _shown) = Progress::start();
    progress.phase("setting up");
    let delivery = Delivery::Pull { events_max: RECEIVE };
    let plan = Plan::new(&stage.run, Kind::Namespace, &shape, template.content_type, delivery);
    let topic = plan.make(&mut stage.management).await?.pop().context("one topic was asked for")?;
    let backlog = args.events.div_ceil(template.events()) * template.events();
    let mut report = Report::new("backlog");
    report.fact("events", backlog);
    report.fact("events_per_request", template.events());
    report.fact("bytes_per_request", template.len());
    report.fact("subscriptions", args.subscriptions);
    report.fact("subscriptions_that_catch_up", args.behind);
    report.fact("receivers_of_each", args.receivers);
    report.fact("events_per_receive_max", RECEIVE);
    report.fact("timed_events_per_second", args.rate);
    let mut pull = topic.pull.into_iter();
    let tail = pull.next().context("a subscription for the tail")?;
    let behind = pull.take(args.behind as usize).map(|routes| Behind::new(routes, backlog)).collect();
    let publish = Load {
        template: Arc::new(template),
        routes: vec![topic.publish].into(),
        pacing: Pacing::Closed,
        duration: args.limit,
        requests_max: None,
        sequence: Arc::default(),
        progress: Arc::clone(&progress),
    };
    let pid = stage.pid().context("only a server on this machine can be killed")?;
    let memory = Memory::watch(pid, ABOVE_IDLE_MAX);
    let scene = Scene { args, backlog, tail, behind, publish, memory, progress, report };
    scene.play(stage).await
}

/// A subscription that catches up.
struct Behind {
    routes: Pull,
    ledger: Arc<Ledger>,
    acknowledged_before: u64,
}

impl Behind {
    fn new(routes: Pull, backlog: u64) -> Self {
        Self { routes, ledger: Arc::new(Ledger::new(backlog)), acknowledged_before: 0 }
    }
}

struct Scene<'a> {
    args: &'a BacklogArgs,
    backlog: u64,
    tail: Pull,
    behind: Vec<Behind>,
    publish: Load,
    memory: Memory,
    progress: Arc<Progress>,
    report: Report,
}

/// How long the tail waited for its events, while others caught up and while nobody did.
struct TailLatency {
    alone: Histogram<u64>,
    beside: Histogram<u64>,
}

impl Scene<'_> {
    async fn play(mut self, stage: &mut Stage) -> anyhow::Result<Report> {
        let mut steps = Table::new("step", &STEP_COLUMNS);
        self.rest("idle").await;

        let tail = Arc::new(Ledger::new(self.backlog));
        let receivers = self.receive_at_tail(stage, &tail);
        let published = self.publish_backlog(stage).await?;
        steps.rows.push(step("publish", published.events, published.elapsed));
        ensure!(tail.wait_for(self.backlog, self.args.limit).await, "the tail never got to the end");
        self.rest("published").await;

        let time = self.acknowledge_parts(stage).await?;
        let acknowledged = self.behind.iter().map(|one| one.acknowledged_before).sum();
        steps.rows.push(step("acknowledge parts", acknowledged, time));
        self.rest("parts acknowledged").await;

        // The tail is waiting for events that nobody publishes: it holds no locks that would outlive it.
        receivers.stop().await;
        self.progress.phase("killed and starting again");
        let time = stage.crash_and_restart().await?;
        steps.rows.push(("restart".to_owned(), vec![Cell::Decimal(time.as_secs_f64()), Cell::Unknown]));
        self.report.fact("restart_milliseconds", u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.memory.follow(stage.pid().context("a server that was just started")?);
        self.rest("restarted").await;

        let receivers = self.receive_at_tail(stage, &tail);
        let latency = self.catch_up(stage, &tail, &mut steps).await?;
        let published = self.publish.sequence.load(std::sync::atomic::Ordering::Relaxed);
        if !tail.wait_for(published, TAIL_PATIENCE).await {
            let missing = published - tail.counted().distinct;
            self.report.faults.push(format!("the tail never got {missing} of {published} events"));
        }
        if tail.counted().twice > 0 {
            self.report.faults.push(format!("the tail got {} events twice", tail.counted().twice));
        }
        receivers.stop().await;
        self.rest("all quiet again").await;
        self.tell_latency(&latency);
        self.report.notes.push(self.memory.verdict(CAUGHT_UP, "the others catch up"));
        self.report.tables.insert(0, self.memory.table());
        self.report.tables.insert(1, steps);
        Ok(self.report)
    }

    /// Reads memory after a while in which nothing happens.
    async fn rest(&mut self, point: &'static str) {
        tokio::time::sleep(self.args.rest).await;
        self.memory.note(point);
    }

    fn receive_at_tail(&self, stage: &Stage, ledger: &Arc<Ledger>) -> Receivers {
        Receivers::start(
            &Handle::current(),
            &stage.target,
            &self.tail,
            ledger,
            self.args.receivers,
            Goal::Forever,
        )
    }

    async fn publish_backlog(&mut self, stage: &Stage) -> anyhow::Result<Tally> {
        self.progress.phase("publishing");
        let mut clients = Client::pool(&stage.target, self.args.connections, 1);
        let requests_max = Some(self.backlog / self.publish.template.events());
        let load = Load { requests_max, ..self.publish.clone() };
        let tally = load.drive(&mut clients).await;
        let reason = tally.sample.as_deref().unwrap_or("out of time");
        ensure!(tally.events == self.backlog, "published {} of {}: {reason}", tally.events, self.backlog);
        Ok(tally)
    }

    /// The first of the behind acknowledges nothing, the next one of `behind` parts, and so on.
    async fn acknowledge_parts(&mut self, stage: &Stage) -> anyhow::Result<Duration> {
        let began = Moment::now();
        let parts = u64::from(self.args.behind);
        for (number, one) in (0..).zip(&mut self.behind) {
            let part = self.backlog * number / parts;
            self.progress.phase(format!("acknowledging {part}"));
            if part > 0 {
                let receivers = self.args.receivers;
                let goal = Goal::AtLeast(part);
                let receivers = Receivers::start(
                    &Handle::current(),
                    &stage.target,
                    &one.routes,
                    &one.ledger,
                    receivers,
                    goal,
                );
                let done = tokio::time::timeout(self.args.limit, receivers.finish()).await;
                ensure!(done.is_ok(), "acknowledging a part took too long");
            }
            one.acknowledged_before = one.ledger.counted().acknowledged;
        }
        Ok(began.elapsed())
    }

    /// All that are behind empty their queues at once, while the tail is timed before, meanwhile and after.
    async fn catch_up(
        &mut self,
        stage: &Stage,
        tail: &Ledger,
        steps: &mut Table,
    ) -> anyhow::Result<TailLatency> {
        let mut publisher = Publisher::new(self.args, &self.publish, stage)?;
        let mut latency = TailLatency { alone: histogram(), beside: histogram() };
        self.progress.phase("timing the tail alone");
        // Connections and caches get warm.
        publisher.slice(tail).await;
        let quiet = Moment::now();
        while quiet.elapsed() < self.args.quiet {
            add(&mut latency.alone, &publisher.slice(tail).await);
        }

        self.progress.phase("catching up");
        self.memory.note("timed alone");
        let done = CancellationToken::new();
        let began = Moment::now();
        let consumers = Consumers::start()?;
        let mut catching_up = JoinSet::new();
        for (number, one) in self.behind.iter().enumerate() {
            let goal = Goal::Backlog(self.backlog);
            let receivers = Receivers::start(
                consumers.handle(),
                &stage.target,
                &one.routes,
                &one.ledger,
                self.args.receivers,
                goal,
            );
            let limit = self.args.limit;
            catching_up.spawn(async move {
                // Those that run out of time are counted as missing below.
                let _ = tokio::time::timeout(limit, receivers.finish()).await;
                (number, began.elapsed())
            });
        }
        let waiting = {
            let done = done.clone();
            async move {
                let mut times = catching_up.join_all().await;
                times.sort_unstable();
                done.cancel();
                times
            }
        };
        let timing = async {
            while !done.is_cancelled() {
                let slice = publisher.slice(tail).await;
                // One that the others left alone in its course would flatter, unless there is no other.
                if !done.is_cancelled() || latency.beside.is_empty() {
                    add(&mut latency.beside, &slice);
                }
            }
        };
        let (times, ()) = tokio::join!(waiting, timing);
        self.memory.note(CAUGHT_UP);
        self.tell_counts(&times, steps);

        self.progress.phase("timing the tail alone again");
        publisher.slice(tail).await;
        let quiet = Moment::now();
        while quiet.elapsed() < self.args.quiet {
            add(&mut latency.alone, &publisher.slice(tail).await);
        }
        if let Some(failed) = publisher.failed {
            self.report.faults.push(format!("publishing for the tail failed: {failed}"));
        }
        Ok(latency)
    }

    fn tell_counts(&mut self, times: &[(usize, Duration)], steps: &mut Table) {
        let mut table = Table::new("caught up", &DRAIN_COLUMNS);
        let mut all = 0;
        for ((number, one), (_, time)) in self.behind.iter().enumerate().zip(times) {
            let counted = one.ledger.counted();
            let expected = self.backlog - one.acknowledged_before;
            let missing = one.ledger.missing_below(self.backlog);
            let received = expected - missing;
            all += received;
            let name = format!("subscription {}", number + 1);
            for (count, what) in [
                (missing, "events of its backlog are missing"),
                (counted.twice, "events came more than once"),
                (counted.unknown, "events were never published"),
                (counted.refused, "lock tokens were refused"),
            ] {
                if count > 0 {
                    self.report.faults.push(format!("{name}: {count} {what}"));
                }
            }
            if let Some(sample) = one.ledger.first_failure() {
                self.report.notes.push(format!("{name}: first failure: {sample}"));
            }
            let cells = vec![
                Cell::Count(one.acknowledged_before),
                Cell::Count(expected),
                Cell::Count(received),
                Cell::Count(counted.twice),
                Cell::Count(missing),
                Cell::Decimal(time.as_secs_f64()),
                Cell::Decimal(per_second(received, *time)),
            ];
            table.rows.push((name, cells));
        }
        let longest = times.iter().map(|(_, time)| *time).max().unwrap_or_default();
        steps.rows.push(step("catch up", all, longest));
        self.report.tables.push(table);
    }

    fn tell_latency(&mut self, latency: &TailLatency) {
        let mut table = Table::new("tail, publish to receive", &LATENCY_COLUMNS);
        for (name, histogram) in [("alone", &latency.alone), ("beside those", &latency.beside)] {
            let quantile = |quantile| Cell::Micros(histogram.value_at_quantile(quantile));
            let cells = vec![
                Cell::Count(histogram.len()),
                quantile(0.5),
                quantile(0.9),
                quantile(0.99),
                Cell::Micros(histogram.max()),
            ];
            table.rows.push((name.to_owned(), cells));
        }
        self.report.tables.push(table);
        let [alone, beside] =
            [&latency.alone, &latency.beside].map(|histogram| histogram.value_at_quantile(0.99));
        let ratio = quotient(float(beside), float(alone));
        self.report.ratios.push(Ratio::at_most("tail p99 beside those that catch up / alone", ratio, AIM));
        let slower = Duration::from_micros(beside.saturating_sub(alone));
        let verdict = if ratio <= AIM || slower <= SLOWER_MAX { "is not slowed" } else { "is slowed" };
        let slower = show_micros(beside.saturating_sub(alone));
        self.report.notes.push(format!("the tail {verdict}: its p99 is {slower} higher"));
    }
}

/// Threads for those who catch up. Consumers are programs of their own, on machines of their own: on the threads that the
/// tail is timed on, it would wait for what they do with their events, and so it would where they take the cores from
/// it or from the server. So they come last wherever somebody else wants to run, and are given what is left.
struct Consumers(Option<Runtime>);

impl Consumers {
    fn start() -> anyhow::Result<Self> {
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        let runtime = threads.enable_all().on_thread_start(give_way).build();
        Ok(Self(Some(runtime.context("failed to start the threads of the consumers")?)))
    }

    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is taken when this is dropped").handle()
    }
}

impl Drop for Consumers {
    fn drop(&mut self) {
        // To wait for its threads is forbidden where other tasks run.
        self.0.take().expect("this is its end").shutdown_background();
    }
}

/// Puts the calling thread behind all others of the machine. Only Linux gives a thread a priority of its own.
fn give_way() {
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::nice(19)
    {
        tracing::debug!(%error, "a thread of the consumers keeps its priority");
    }
}

fn step(name: &str, events: u64, time: Duration) -> (String, Vec<Cell>) {
    (name.to_owned(), vec![Cell::Decimal(time.as_secs_f64()), Cell::Decimal(per_second(events, time))])
}

fn add(total: &mut Histogram<u64>, more: &Histogram<u64>) {
    total.add(more).expect("all have the same bounds");
}

/// Publishes a little while the tail is timed.
struct Publisher {
    load: Load,
    clients: Vec<Client>,
    /// What the first failure said.
    failed: Option<String>,
}

impl Publisher {
    /// Goes on with the numbers of `backlog`, one event at a time.
    fn new(args: &BacklogArgs, backlog: &Load, stage: &Stage) -> anyhow::Result<Self> {
        let template = Template::new(Schema::Cloudevents, 1, args.size);
        let routes = backlog.routes.iter().cloned();
        let routes: anyhow::Result<Vec<_>> =
            routes.map(|route| route.with("content-type", template.content_type)).collect();
        let load = Load {
            template: Arc::new(template),
            routes: routes?.into(),
            pacing: Pacing::Open { requests_per_second: args.rate },
            duration: SLICE,
            ..backlog.clone()
        };
        Ok(Self { load, clients: Client::pool(&stage.target, TAIL_PUBLISHERS, 1), failed: None })
    }

    /// Publishes for one slice and returns how long its events took to the tail.
    async fn slice(&mut self, tail: &Ledger) -> Histogram<u64> {
        tail.take_latency();
        let before = tail.counted().distinct;
        let tally = self.load.drive(&mut self.clients).await;
        self.failed = self.failed.take().or(tally.sample);
        tail.wait_for(before + tally.events, TAIL_PATIENCE).await;
        tail.take_latency()
    }
}
