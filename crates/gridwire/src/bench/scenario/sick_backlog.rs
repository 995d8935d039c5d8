//! `sick-backlog`: everything that is published waits for sick webhooks, and healthy ones beside them get it.
//!
//! One custom topic; each endpoint has a subscription that matches every event. Publishing goes on as fast as the
//! healthy take it, so that what is left in the end waits for the sick alone. Then the server is killed and started
//! again on the same directory, and the healthy ones must get what is published after that.
//!
//! What is asked: does memory stay where it was when idle, however much waits; and do the healthy get all of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::healthy::Healthy;
use super::memory::Memory;
use super::patients::{ASKED, Patients, Ward};
use super::push::DRAIN_PATIENCE;
use super::{DefaultLoad, conclude, template};
use crate::bench::args::{Kind, Schema, ServerArgs, ShapeArgs, SickBacklogArgs};
use crate::bench::connection::Client;
use crate::bench::load::{Load, Pacing, Window};
use crate::bench::numbers::per_second;
use crate::bench::progress::Progress;
use crate::bench::report::{Cell, Report, Table};
use crate::bench::stage::Stage;
use crate::bench::stopwatch::Moment;

/// Anonymous memory above idle. Of each endpoint 100,000 failed events may be in memory, of some 150 bytes, which three of
/// ten come to; the others are left alone before that.
const ABOVE_IDLE_MAX: u64 = 128 << 20;
/// The point at which everything waits for the sick.
const PUBLISHED: &str = "published";
/// Of the events of the backlog, so many more are published after the restart.
const MORE: u64 = 100;
const STEPS: [(&str, &str); 5] = [
    ("events", "events"),
    ("seconds", "seconds"),
    ("events/s", "events_per_second"),
    ("delivered to the healthy", "delivered"),
    ("missing", "missing"),
];

pub(crate) async fn run(args: &SickBacklogArgs) -> anyhow::Result<Report> {
    ensure!(args.sick.total() > 0, "without a sick endpoint nothing waits");
    let ward = Ward::open(&args.sick)?;
    let server = ServerArgs { temp_dir: args.temp_dir.clone(), spawn: true, ..ServerArgs::default() };
    let mut stage = Stage::open_trusting(&server, &DefaultLoad::load()?, ward.authority()).await?;
    let measured = measure(args, &ward, &mut stage).await;
    conclude(measured, stage).await
}

async fn measure(args: &SickBacklogArgs, ward: &Ward, stage: &mut Stage) -> anyhow::Result<Report> {
    let shape =
        ShapeArgs { schema: Schema::Cloudevents, size: args.size, topics: 1, subscriptions: args.healthy };
    let template = template(Kind::Topic, &shape, args.batch)?;
    let (progress, _shown) = Progress::start();
    progress.phase("setting up");
    let healthy = Healthy::subscribe(stage, &shape, template.content_type).await?;
    let patients = ward.fall_ill(&mut stage.management, &healthy.topic).await?;

    let mut report = Report::new("sick-backlog");
    report.fact("events_per_request", template.events());
    report.fact("bytes_per_request", template.len());
    report.fact("healthy_endpoints", args.healthy);
    ward.tell(&mut report);
    let copies = u64::from(args.healthy);
    let window = Window::new(args.window, copies, Arc::clone(&healthy.sink));
    let load = Load {
        template: Arc::new(template),
        routes: vec![healthy.publish.clone()].into(),
        pacing: Pacing::Window(Arc::new(window)),
        duration: args.limit,
        requests_max: None,
        sequence: Arc::default(),
        progress: Arc::clone(&progress),
    };
    let pid = stage.pid().context("only a server on this machine can be killed")?;
    let memory = Memory::watch(pid, ABOVE_IDLE_MAX);
    let steps = Table::new("step", &STEPS);
    let scene = Scene { args, load, healthy, copies, patients, memory, progress, steps, report };
    scene.play(stage).await
}

struct Scene<'a> {
    args: &'a SickBacklogArgs,
    load: Load,
    healthy: Healthy,
    copies: u64,
    patients: Patients,
    memory: Memory,
    progress: Arc<Progress>,
    steps: Table,
    report: Report,
}

impl Scene<'_> {
    async fn play(mut self, stage: &mut Stage) -> anyhow::Result<Report> {
        self.rest("idle").await;
        self.progress.phase("publishing");
        self.publish(stage, "publish", self.args.events).await?;
        self.rest(PUBLISHED).await;

        self.progress.phase("killed and starting again");
        let time = stage.crash_and_restart().await?;
        self.report.fact("restart_milliseconds", u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.memory.follow(stage.pid().context("a server that was just started")?);
        self.rest("restarted").await;
        self.progress.phase("publishing more");
        self.publish(stage, "after a restart", self.args.events / MORE).await?;

        let waiting = self.load.sequence.load(Ordering::Relaxed);
        self.report.fact("events", waiting);
        self.report.fact("deliveries_waiting_for_the_sick", waiting * self.patients.count() as u64);
        let seen = self.patients.seen();
        let mut asked = Table::new("the sick, asked", &ASKED);
        asked.rows.push(("in all".to_owned(), seen.cells()));
        self.report.faults.extend(seen.fault("in all"));
        let verdict = self.memory.verdict(PUBLISHED, "publishing");
        self.report.notes.push(verdict);
        self.report.tables.extend([self.memory.table(), self.steps, asked]);
        drop(self.healthy);
        Ok(self.report)
    }

    /// Reads memory after a while in which nothing is published.
    async fn rest(&mut self, point: &'static str) {
        tokio::time::sleep(self.args.rest).await;
        self.memory.note(point);
    }

    /// Publishes so many events, or a few more, and waits until the healthy have them.
    async fn publish(&mut self, stage: &Stage, name: &str, events: u64) -> anyhow::Result<()> {
        let requests = events.div_ceil(self.load.template.events());
        let events = requests * self.load.template.events();
        let began = Moment::now();
        let sink = &self.healthy.sink;
        let before = sink.delivered();
        let load = Load { requests_max: Some(requests), ..self.load.clone() };
        let mut clients = Client::pool(&stage.target, self.args.connections, 1);
        let tally = load.drive(&mut clients).await;
        let reason = tally.sample.as_deref().unwrap_or("out of time");
        ensure!(tally.events == events, "published {} of {events}: {reason}", tally.events);
        let expected = events * self.copies;
        sink.wait_for(before + expected, DRAIN_PATIENCE).await;
        let delivered = sink.delivered() - before;
        self.tell(name, events, began.elapsed(), delivered, expected);
        Ok(())
    }

    fn tell(&mut self, name: &str, events: u64, time: Duration, delivered: u64, expected: u64) {
        let missing = expected.saturating_sub(delivered);
        if missing > 0 {
            self.report.faults.push(format!("{name}: {missing} deliveries to healthy endpoints never came"));
        }
        let twice = delivered.saturating_sub(expected);
        if twice > 0 {
            // What was under way when the server was killed may come again.
            self.report.notes.push(format!("{name}: {twice} deliveries came more than once"));
        }
        let cells = vec![
            Cell::Count(events),
            Cell::Decimal(time.as_secs_f64()),
            Cell::Decimal(per_second(events, time)),
            Cell::Count(delivered),
            Cell::Count(missing),
        ];
        self.steps.rows.push((name.to_owned(), cells));
    }
}
