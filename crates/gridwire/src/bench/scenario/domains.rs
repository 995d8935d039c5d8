//! `domains`: what a hundred thousand topics in a domain cost a publish, and what each costs to make.
//!
//! Two domains take the same load in slices that alternate: one has a single topic, the other as many as asked
//! for, some of them with a subscription. Every event meets exactly one subscription in either.

use std::sync::Arc;

use anyhow::ensure;

use super::{conclude, tell_conditions};
use crate::bench::args::{DomainsArgs, Kind, Schema, ShapeArgs};
use crate::bench::body::Template;
use crate::bench::connection::{Client, Route};
use crate::bench::load::{Load, Pacing};
use crate::bench::numbers::float;
use crate::bench::progress::Progress;
use crate::bench::report::{Ratio, Report, Series, Slice};
use crate::bench::setup::DomainPlan;
use crate::bench::sink::Sink;
use crate::bench::stage::Stage;
use crate::bench::stopwatch::Moment;

/// "Without slowing a publish", within what two runs of the same differ by.
const AIM: f64 = 0.95;

pub(crate) async fn run(args: &DomainsArgs) -> anyhow::Result<Report> {
    ensure!(args.subscribed <= args.topics, "no more topics can have a subscription than there are");
    let mut stage = Stage::open(&args.server, &args.load).await?;
    let measured = measure(args, &mut stage).await;
    conclude(measured, stage).await
}

async fn measure(args: &DomainsArgs, stage: &mut Stage) -> anyhow::Result<Report> {
    let shape = ShapeArgs { schema: Schema::Cloudevents, size: args.size, topics: 1, subscriptions: 1 };
    let template = super::template(Kind::Topic, &shape, args.batch)?;
    let (progress, _shown) = Progress::start();
    let (sink, _sink_stop) = Sink::start().await?;
    let url = sink.url();
    let mut report = Report::new("domains");
    tell_conditions(&mut report, Kind::Topic, &shape, &template, &args.load);
    report.fact("topics_of_the_large_domain", args.topics);
    report.fact("of_them_with_a_subscription", args.subscribed);

    let mut routes = Vec::new();
    for (name, topics, subscribed) in [("one", 1, 1), ("many", args.topics, args.subscribed)] {
        progress.phase(format!("making a domain of {topics} topics"));
        let plan = DomainPlan { name, topics, subscribed, content_type: template.content_type, url: &url };
        let begun = Moment::now();
        let (route, made) = plan.make(&mut stage.management, args.keep).await?;
        if name == "many" && made > 0 {
            let micros = begun.elapsed().as_secs_f64() * 1e6 / float(u64::from(made));
            report.fact("microseconds_to_make_a_topic", micros);
        }
        routes.push(route);
    }
    let mut contenders: Vec<Contender> = [("one topic", 1), ("many topics", args.subscribed)]
        .into_iter()
        .zip(routes)
        .map(|((name, spread), route)| {
            let template = template.clone().addressed(|event| event % spread);
            Contender::new(name, template, route, args, stage, &progress)
        })
        .collect();
    progress.phase("warming up");
    for contender in &mut contenders {
        let warmup = Load { duration: args.load.warmup, ..contender.load.clone() };
        warmup.drive(&mut contender.clients).await;
    }
    for number in 1..=args.load.slices {
        for contender in &mut contenders {
            progress.phase(format!("{} {number}/{}", contender.name, args.load.slices));
            let before = stage.usage().await;
            let tally = contender.load.drive(&mut contender.clients).await;
            contender.series.push(Slice::new(tally, before, stage.usage().await));
        }
    }
    let mut series: Vec<Series> = contenders.into_iter().map(|contender| contender.series).collect();
    if let [one, many] = series.as_slice() {
        report.ratios.push(Ratio::of(many, one, Some(AIM)));
    }
    report.series.append(&mut series);
    Ok(report)
}

/// One of the two whose slices alternate.
struct Contender {
    name: &'static str,
    load: Load,
    clients: Vec<Client>,
    series: Series,
}

impl Contender {
    fn new(
        name: &'static str,
        template: Template,
        route: Route,
        args: &DomainsArgs,
        stage: &Stage,
        progress: &Arc<Progress>,
    ) -> Self {
        let load = Load {
            template: Arc::new(template),
            routes: vec![route].into(),
            pacing: Pacing::Closed,
            duration: args.load.duration,
            requests_max: None,
            sequence: Arc::default(),
            progress: Arc::clone(progress),
        };
        let clients = Client::pool(&stage.target, args.load.connections, args.load.streams);
        Self { name, load, clients, series: Series::new(name) }
    }
}
