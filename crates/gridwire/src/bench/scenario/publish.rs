//! `publish`: how fast events are accepted, next to a bare server and to the disk.

use std::sync::Arc;

use anyhow::Context as _;

use super::{conclude, tell_conditions, template};
use crate::bench::args::{Kind, Protocol, PublishArgs};
use crate::bench::baseline::BareProcess;
use crate::bench::connection::{Client, Route, Target};
use crate::bench::disk::FlushedFile;
use crate::bench::load::{Load, Pacing};
use crate::bench::numbers::float;
use crate::bench::progress::Progress;
use crate::bench::report::{Ratio, Report, Series, Slice};
use crate::bench::setup::{Delivery, Plan};
use crate::bench::sink::Sink;
use crate::bench::stage::Stage;

/// What the design asks for: of a bare server with single events, of the disk with batches.
const AIM_OF_BARE: f64 = 0.6;
const AIM_OF_DISK: f64 = 0.5;
/// The batch from which on the disk is the yardstick.
const LARGE_BATCH: u32 = 100;
/// How the disk is measured beside publishing.
const GROUP_BYTES: usize = 1 << 20;
const FILE_BYTES: usize = 256 << 20;

pub(crate) async fn run(args: &PublishArgs) -> anyhow::Result<Report> {
    let mut stage = Stage::open(&args.server, &args.load).await?;
    let measured = measure(args, &mut stage).await;
    conclude(measured, stage).await
}

async fn measure(args: &PublishArgs, stage: &mut Stage) -> anyhow::Result<Report> {
    let template = template(args.kind, &args.shape, args.batch)?;
    let (progress, _shown) = Progress::start();
    progress.phase("setting up");
    let (sink, _sink_stop) = Sink::start().await?;
    let url = sink.url();
    let delivery = match args.kind {
        Kind::Topic => Delivery::Push { url: &url, events_max: 1 },
        Kind::Namespace => Delivery::Pull { events_max: 1 },
    };
    let plan = Plan::new(&stage.run, args.kind, &args.shape, template.content_type, delivery);
    let topics = plan.make(&mut stage.management).await?;
    let routes: Vec<Route> = topics.into_iter().map(|topic| topic.publish).collect();

    let mut report = Report::new("publish");
    tell_conditions(&mut report, args.kind, &args.shape, &template, &args.load);
    if args.shape.subscriptions == 0 {
        report.notes.push("without a subscription events match nobody and are not stored".to_owned());
    }
    let pacing = match args.rate {
        None => Pacing::Closed,
        Some(rate) => {
            report.fact("intended_events_per_second", rate);
            Pacing::Open { requests_per_second: rate / float(template.events()) }
        }
    };
    let load = Load {
        template: Arc::new(template),
        routes: routes.into(),
        pacing,
        duration: args.load.duration,
        requests_max: args.count,
        sequence: Arc::default(),
        progress: Arc::clone(&progress),
    };
    let mut real = Contender::new("gridwire", load.clone(), &stage.target, args);
    let bare = if args.baseline {
        Some(BareProcess::spawn(args.load.https, args.load.protocol).await?)
    } else {
        None
    };
    let mut rival = match &bare {
        Some(bare) => {
            let routes: anyhow::Result<Vec<Route>> =
                load.routes.iter().map(|route| route.on(&bare.target)).collect();
            let load = Load { routes: routes?.into(), ..load.clone() };
            Some((Contender::new("bare hyper server", load, &bare.target, args), bare))
        }
        None => None,
    };
    let mut disk = if args.baseline_disk {
        Some((flushed_file(args, stage).await?, Series::new("disk group commit")))
    } else {
        None
    };

    real.warm_up(args).await;
    if let Some((rival, _)) = &mut rival {
        rival.warm_up(args).await;
    }
    for number in 1..=args.load.slices {
        progress.phase(format!("gridwire {number}/{}", args.load.slices));
        let before = stage.usage().await;
        let tally = real.load.drive(&mut real.clients).await;
        real.series.push(Slice::new(tally, before, stage.usage().await));
        if let Some((rival, bare)) = &mut rival {
            progress.phase(format!("bare hyper server {number}/{}", args.load.slices));
            let before = bare.usage();
            let tally = rival.load.drive(&mut rival.clients).await;
            rival.series.push(Slice::new(tally, before, bare.usage()));
        }
        if let Some((file, series)) = disk.take() {
            progress.phase(format!("disk {number}/{}", args.load.slices));
            let (file, slice) = file.slice(args.load.duration, Arc::clone(&progress)).await?;
            let mut series = series;
            series.push(slice);
            disk = Some((file, series));
        }
    }
    if let Some((rival, _)) = rival {
        let comparable = args.batch == 1 && args.load.protocol == Protocol::Http1 && args.rate.is_none();
        report.ratios.push(Ratio::of(&real.series, &rival.series, comparable.then_some(AIM_OF_BARE)));
        report.series.push(rival.series);
    }
    if let Some((_, series)) = disk {
        let comparable = args.batch >= LARGE_BATCH && args.rate.is_none();
        report.ratios.push(Ratio::of(&real.series, &series, comparable.then_some(AIM_OF_DISK)));
        report.series.push(series);
    }
    report.series.insert(0, real.series);
    Ok(report)
}

/// One of those whose slices alternate.
struct Contender {
    load: Load,
    clients: Vec<Client>,
    series: Series,
}

impl Contender {
    fn new(name: &'static str, load: Load, target: &Target, args: &PublishArgs) -> Self {
        let clients = Client::pool(target, args.load.connections, args.load.streams);
        Self { load, clients, series: Series::new(name) }
    }

    async fn warm_up(&mut self, args: &PublishArgs) {
        self.load.progress.phase("warming up");
        Load { duration: args.load.warmup, ..self.load.clone() }.drive(&mut self.clients).await;
    }
}

async fn flushed_file(args: &PublishArgs, stage: &Stage) -> anyhow::Result<FlushedFile> {
    let dir = stage.data_dir.clone().context("only the disk of a local data directory can be measured")?;
    let size = args.shape.size;
    let made = tokio::task::spawn_blocking(move || FlushedFile::create(&dir, GROUP_BYTES, FILE_BYTES, size));
    made.await.context("the preparing thread ended")?
}
