//! `latency`: from the moment an event should have been published to its arrival at a webhook, at a rate the
//! server can keep up with.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;

use super::push::{DRAIN_PATIENCE, saturate};
use super::{conclude, tell_conditions, template};
use crate::bench::args::LatencyArgs;
use crate::bench::connection::{Client, Route, Target};
use crate::bench::load::{Load, Pacing, Tally, Window};
use crate::bench::numbers::{float, quotient};
use crate::bench::progress::Progress;
use crate::bench::report::{Report, Series, Slice};
use crate::bench::setup::{Delivery, Plan};
use crate::bench::sink::Sink;
use crate::bench::stage::Stage;

/// Deliveries outstanding while the most that the server delivers is found out.
pub(super) const WINDOW: u64 = 2_000;

pub(crate) async fn run(args: &LatencyArgs) -> anyhow::Result<Report> {
    let mut stage = Stage::open(&args.server, &args.load).await?;
    let measured = measure(args, &mut stage).await;
    conclude(measured, stage).await
}

async fn measure(args: &LatencyArgs, stage: &mut Stage) -> anyhow::Result<Report> {
    ensure!(args.shape.subscriptions > 0, "nothing arrives without a subscription");
    let template = template(args.kind, &args.shape, args.batch)?;
    let (progress, _shown) = Progress::start();
    progress.phase("setting up");
    let (sink, _sink_stop) = Sink::start().await?;
    let url = sink.url();
    let delivery = Delivery::Push { url: &url, events_max: 1 };
    let plan = Plan::new(&stage.run, args.kind, &args.shape, template.content_type, delivery);
    let topics = plan.make(&mut stage.management).await?;

    let mut report = Report::new("latency");
    tell_conditions(&mut report, args.kind, &args.shape, &template, &args.load);
    let copies = u64::from(args.shape.subscriptions);
    let mut load = Load {
        template: Arc::new(template),
        routes: topics.into_iter().map(|topic| topic.publish).collect(),
        pacing: Pacing::Window(Arc::new(Window::new(WINDOW, copies, Arc::clone(&sink)))),
        duration: args.load.warmup,
        requests_max: None,
        sequence: Arc::default(),
        progress: Arc::clone(&progress),
    };
    let mut clients = Client::pool(&stage.target, args.load.connections, args.load.streams);
    let warm_up = WarmUp { clients: &mut clients, sink: &sink, copies, duration: args.load.duration };
    let rate = warm_up.rate(&mut load, args.rate, &mut report).await?;
    load.pacing = Pacing::Open { requests_per_second: rate / float(load.template.events()) };
    load.duration = args.load.duration;
    let mut answers = Series::new("publish, until answered");
    let mut arrivals = Series::new("publish to webhook");
    let mut direct = Series::new("bare client to webhook");
    for number in 1..=args.load.slices {
        progress.phase(format!("gridwire {number}/{}", args.load.slices));
        let before = stage.usage().await;
        let answered = open_slice(&load, &mut clients, &sink, copies).await;
        let after = stage.usage().await;
        if answered.missing > 0 {
            report.notes.push(format!("{} deliveries never came", answered.missing));
        }
        answers.push(Slice { tally: answered.answers, cpu: None });
        arrivals.push(Slice::new(answered.arrivals, before, after));
        if args.baseline {
            progress.phase(format!("bare client {number}/{}", args.load.slices));
            direct.push(bare_slice(&load, args).await?);
        }
    }
    report.series.push(arrivals);
    report.series.push(answers);
    if args.baseline {
        report.series.push(direct);
    }
    Ok(report)
}

/// What comes before slices at a rate: a warm-up, and where no rate is given, finding it out.
pub(super) struct WarmUp<'a> {
    pub(super) clients: &'a mut Vec<Client>,
    pub(super) sink: &'a Sink,
    /// Deliveries of each event.
    pub(super) copies: u64,
    /// How long to look for the most that is delivered.
    pub(super) duration: Duration,
}

impl WarmUp<'_> {
    /// Events a second for the slices: as `given`, or half of the most that the server delivers.
    pub(super) async fn rate(
        self,
        load: &mut Load,
        given: Option<f64>,
        report: &mut Report,
    ) -> anyhow::Result<f64> {
        load.progress.phase("warming up");
        let mut published = saturate(load, self.clients, self.sink).await.1;
        let rate = if let Some(rate) = given {
            rate
        } else {
            load.progress.phase("finding the most that is delivered");
            load.duration = self.duration;
            let (tally, events) = saturate(load, self.clients, self.sink).await;
            published += events;
            let most = quotient(float(tally.events), tally.elapsed.as_secs_f64()) / float(self.copies);
            let reason = tally.sample.as_deref().unwrap_or("nothing arrived");
            ensure!(tally.events > 0, "the server delivers nothing to take half of: {reason}");
            report.fact("most_events_per_second", most);
            most / 2.0
        };
        report.fact("intended_events_per_second", rate);
        let expected = published * self.copies;
        ensure!(
            self.sink.wait_for(expected, DRAIN_PATIENCE).await,
            "{} deliveries of the warm-up never came",
            expected - self.sink.delivered().min(expected)
        );
        Ok(rate)
    }
}

pub(super) struct OpenSlice {
    pub(super) answers: Tally,
    pub(super) arrivals: Tally,
    pub(super) missing: u64,
}

/// Publishes by the clock, then waits for the last delivery.
pub(super) async fn open_slice(
    load: &Load,
    clients: &mut Vec<Client>,
    sink: &Sink,
    copies: u64,
) -> OpenSlice {
    let before = sink.counted();
    sink.take_latency();
    let answers = load.drive(clients).await;
    let expected = before.events + answers.events * copies;
    sink.wait_for(expected, DRAIN_PATIENCE).await;
    let after = sink.counted();
    let mut arrivals = Tally::new();
    arrivals.events = after.events - before.events;
    arrivals.requests = after.requests - before.requests;
    arrivals.bytes = after.bytes - before.bytes;
    arrivals.latency = sink.take_latency();
    arrivals.elapsed = answers.elapsed;
    OpenSlice { answers, arrivals, missing: expected.saturating_sub(after.events) }
}

/// The same load straight to a webhook: what this machine adds to any latency measured on it.
async fn bare_slice(load: &Load, args: &LatencyArgs) -> anyhow::Result<Slice> {
    let (sink, _stop) = Sink::start().await?;
    let target = Target::resolve(&sink.url(), args.load.protocol, None).await?;
    let routes: anyhow::Result<Vec<Route>> = load.routes.iter().map(|route| route.on(&target)).collect();
    let load = Load { routes: routes?.into(), ..load.clone() };
    let mut clients = Client::pool(&target, args.load.connections, args.load.streams);
    let slice = open_slice(&load, &mut clients, &sink, 1).await;
    Ok(Slice { tally: slice.arrivals, cpu: None })
}
