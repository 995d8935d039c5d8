//! `push`: how fast a webhook is posted to, next to a bare client posting the same bodies.
//!
//! Publishing keeps a window of deliveries outstanding, so that the server always has something to deliver
//! and never a backlog that grows. What is measured is what arrives at the webhook.

use std::sync::Arc;
use std::time::Duration;

use super::{conclude, tell_conditions, template};
use crate::bench::args::{BaselineClientArgs, PushArgs};
use crate::bench::baseline::post_from_child;
use crate::bench::connection::Client;
use crate::bench::load::{Load, Pacing, Tally, Window};
use crate::bench::progress::Progress;
use crate::bench::report::{Ratio, Report, Series, Slice};
use crate::bench::setup::{Delivery, Plan};
use crate::bench::sink::{Counted, Sink};
use crate::bench::stage::Stage;

/// What the design asks for with one event in each delivery.
const AIM: f64 = 0.6;
/// How long nothing may arrive before what is outstanding counts as lost.
pub(crate) const DRAIN_PATIENCE: Duration = Duration::from_secs(15);

pub(crate) async fn run(args: &PushArgs) -> anyhow::Result<Report> {
    let mut stage = Stage::open(&args.server, &args.load).await?;
    let measured = measure(args, &mut stage).await;
    conclude(measured, stage).await
}

/// Publishes in a window for `duration` and returns what arrived meanwhile, with what failed to be published
/// and the number of events that did not.
pub(crate) async fn saturate(load: &Load, clients: &mut Vec<Client>, sink: &Sink) -> (Tally, u64) {
    let before = sink.counted();
    sink.take_latency();
    let published = load.drive(clients).await;
    let mut arrived = arrived(sink, before, published.elapsed);
    arrived.failures = published.failures;
    arrived.sample = published.sample;
    (arrived, published.events)
}

fn arrived(sink: &Sink, before: Counted, elapsed: Duration) -> Tally {
    let after = sink.counted();
    let mut tally = Tally::new();
    tally.events = after.events - before.events;
    tally.requests = after.requests - before.requests;
    tally.bytes = after.bytes - before.bytes;
    tally.latency = sink.take_latency();
    tally.elapsed = elapsed;
    tally
}

async fn measure(args: &PushArgs, stage: &mut Stage) -> anyhow::Result<Report> {
    anyhow::ensure!(args.shape.subscriptions > 0, "nothing is pushed without a subscription");
    let template = template(args.kind, &args.shape, args.batch)?;
    let (progress, _shown) = Progress::start();
    progress.phase("setting up");
    let (sink, _sink_stop) = Sink::start().await?;
    let url = sink.url();
    let delivery = Delivery::Push { url: &url, events_max: args.delivery_batch };
    let plan = Plan::new(&stage.run, args.kind, &args.shape, template.content_type, delivery);
    let topics = plan.make(&mut stage.management).await?;

    let mut report = Report::new("push");
    tell_conditions(&mut report, args.kind, &args.shape, &template, &args.load);
    report.fact("events_per_delivery_max", args.delivery_batch);
    report.fact("deliveries_outstanding_max", args.window);
    let copies = u64::from(args.shape.subscriptions);
    let window = Arc::new(Window::new(args.window, copies, Arc::clone(&sink)));
    let mut load = Load {
        template: Arc::new(template),
        routes: topics.into_iter().map(|topic| topic.publish).collect(),
        pacing: Pacing::Window(window),
        duration: args.load.warmup,
        requests_max: None,
        sequence: Arc::default(),
        progress: Arc::clone(&progress),
    };
    let mut clients = Client::pool(&stage.target, args.load.connections, args.load.streams);
    let (mut real, mut rival) = (Series::new("gridwire"), Series::new("bare hyper client"));
    let mut published = 0;
    for number in 1..=args.load.slices {
        progress.phase(format!("gridwire {number}/{}", args.load.slices));
        // Each slice begins with an empty window and so with a warm-up.
        load.duration = args.load.warmup;
        published += saturate(&load, &mut clients, &sink).await.1;
        load.duration = args.load.duration;
        let before = stage.usage().await;
        let (tally, events) = saturate(&load, &mut clients, &sink).await;
        published += events;
        real.push(Slice::new(tally, before, stage.usage().await));
        progress.phase("draining");
        if !sink.wait_for(published * copies, DRAIN_PATIENCE).await {
            let missing = (published * copies).saturating_sub(sink.delivered());
            report.notes.push(format!("{missing} deliveries never came"));
            break;
        }
        if args.baseline {
            progress.phase(format!("bare hyper client {number}/{}", args.load.slices));
            rival.push(bare_slice(args).await?);
        }
    }
    let twice = sink.delivered().saturating_sub(published * copies);
    if twice > 0 {
        report.notes.push(format!("{twice} deliveries came more than once"));
    }
    if args.baseline {
        let aim = (args.delivery_batch == 1 && copies == 1).then_some(AIM);
        report.ratios.push(Ratio::of(&real, &rival, aim));
        report.series.push(rival);
    }
    report.series.insert(0, real);
    Ok(report)
}

/// A bare client posts what the server would have, to a webhook like the server's.
async fn bare_slice(args: &PushArgs) -> anyhow::Result<Slice> {
    let (sink, _stop) = Sink::start().await?;
    let child = BaselineClientArgs {
        url: sink.url(),
        schema: args.shape.schema,
        size: args.shape.size,
        batch: args.delivery_batch,
        connections: args.baseline_connections,
        warmup: args.load.warmup,
        duration: args.load.duration,
    };
    let warm = {
        let sink = Arc::clone(&sink);
        move || drop(sink.take_latency())
    };
    let mut posted = post_from_child(&child, warm).await?;
    posted.tally.latency = sink.take_latency();
    Ok(Slice { tally: posted.tally, cpu: posted.cpu })
}
