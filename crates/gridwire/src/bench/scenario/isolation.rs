//! `isolation`: what sick webhooks cost healthy ones beside them on the same topic.
//!
//! One custom topic has a subscription for each endpoint, and each endpoint a port of its own. Runs without
//! and with the subscriptions of the sick alternate, at half of what the healthy get at most, so that what
//! the machine does meanwhile meets both alike. The sick agree to their subscriptions at once: they fall ill
//! afterwards, as endpoints do.
//!
//! A slice should be longer than the time that the server gives an attempt, or none of those that hang comes to its
//! end in it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;

use super::healthy::Healthy;
use super::latency::{WINDOW, WarmUp, open_slice};
use super::patients::{ASKED, Ward};
use super::{conclude, tell_conditions, template};
use crate::bench::args::{IsolationArgs, Kind, Schema, ShapeArgs};
use crate::bench::connection::Client;
use crate::bench::load::{Load, Pacing, Tally, Window};
use crate::bench::numbers::{float, median, per_second, quotient};
use crate::bench::progress::Progress;
use crate::bench::report::{Cell, Ratio, Report, Series, Slice, Table};
use crate::bench::stage::Stage;

/// What the design asks for: the healthy endpoints' 99th percentile may grow by half.
const AIM: f64 = 1.5;
/// After the sick have gone, for what still waits for them to be given up.
const REST: Duration = Duration::from_secs(2);
const COLUMNS: [(&str, &str); 6] = [
    ("events/s", "events_per_second"),
    ("p50", "p50_microseconds"),
    ("p90", "p90_microseconds"),
    ("p99", "p99_microseconds"),
    ("max", "max_microseconds"),
    ("missing", "missing"),
];

pub(crate) async fn run(args: &IsolationArgs) -> anyhow::Result<Report> {
    ensure!(args.sick.total() > 0, "without a sick endpoint there is nothing to compare");
    let ward = Ward::open(&args.sick)?;
    let mut stage = Stage::open_trusting(&args.server, &args.load, ward.authority()).await?;
    let measured = measure(args, &ward, &mut stage).await;
    conclude(measured, stage).await
}

async fn measure(args: &IsolationArgs, ward: &Ward, stage: &mut Stage) -> anyhow::Result<Report> {
    let shape =
        ShapeArgs { schema: Schema::Cloudevents, size: args.size, topics: 1, subscriptions: args.healthy };
    let template = template(Kind::Topic, &shape, 1)?;
    let (progress, _shown) = Progress::start();
    progress.phase("setting up");
    let Healthy { topic, publish, sink, .. } =
        &Healthy::subscribe(stage, &shape, template.content_type).await?;

    let mut report = Report::new("isolation");
    tell_conditions(&mut report, Kind::Topic, &shape, &template, &args.load);
    ward.tell(&mut report);
    let copies = u64::from(args.healthy);
    let mut load = Load {
        template: Arc::new(template),
        routes: vec![publish.clone()].into(),
        pacing: Pacing::Window(Arc::new(Window::new(WINDOW, copies, Arc::clone(sink)))),
        duration: args.load.warmup,
        requests_max: None,
        sequence: Arc::default(),
        progress: Arc::clone(&progress),
    };
    let mut clients = Client::pool(&stage.target, args.load.connections, args.load.streams);
    let warm_up = WarmUp { clients: &mut clients, sink, copies, duration: args.load.duration };
    let rate = warm_up.rate(&mut load, args.rate, &mut report).await?;
    load.pacing = Pacing::Open { requests_per_second: rate };
    load.duration = args.load.duration;
    let mut runs = Runs { table: Table::new("run", &COLUMNS), p99: [Vec::new(), Vec::new()] };
    let mut asked = Table::new("the sick, asked", &ASKED);
    let (mut without, mut with) = (Series::new("healthy, alone"), Series::new("healthy, beside the sick"));
    for number in 1..=args.load.slices {
        for sick in [false, true] {
            let name = if sick { "with" } else { "without" };
            progress.phase(format!("{name} the sick {number}/{}", args.load.slices));
            let patients = if sick { Some(ward.fall_ill(&mut stage.management, topic).await?) } else { None };
            let before = stage.usage().await;
            let slice = open_slice(&load, &mut clients, sink, copies).await;
            let after = stage.usage().await;
            let name = format!("{name} {number}");
            if let Some(patients) = patients {
                let cared = patients.leave(&mut stage.management).await?;
                report.faults.extend(cared.fault(&name));
                asked.rows.push((name.clone(), cared.cells()));
                tokio::time::sleep(REST).await;
            }
            if slice.missing > 0 {
                report.faults.push(format!("{name}: {} deliveries never came", slice.missing));
            }
            if let Some(sample) = &slice.answers.sample {
                report.faults.push(format!("{name}: publishing failed, {sample}"));
            }
            runs.add(sick, name, &slice.arrivals, slice.missing);
            let series = if sick { &mut with } else { &mut without };
            series.push(Slice::new(slice.arrivals, before, after));
        }
    }
    report.series.extend([without, with]);
    report.ratios.push(runs.ratio());
    report.tables.extend([runs.table, asked]);
    Ok(report)
}

/// The runs so far, one by one.
struct Runs {
    table: Table,
    /// Of those without the sick, and of those with them.
    p99: [Vec<f64>; 2],
}

impl Runs {
    fn add(&mut self, sick: bool, name: String, arrived: &Tally, missing: u64) {
        let quantile = |quantile| arrived.latency.value_at_quantile(quantile);
        self.p99[usize::from(sick)].push(float(quantile(0.99)));
        let cells = vec![
            Cell::Decimal(per_second(arrived.events, arrived.elapsed)),
            Cell::Micros(quantile(0.5)),
            Cell::Micros(quantile(0.9)),
            Cell::Micros(quantile(0.99)),
            Cell::Micros(arrived.latency.max()),
            Cell::Count(missing),
        ];
        self.table.rows.push((name, cells));
    }

    fn ratio(&self) -> Ratio {
        let [without, with] = self.p99.each_ref().map(|values| median(values).unwrap_or(0.0));
        Ratio::at_most("median p99 with the sick / without", quotient(with, without), AIM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load::record;

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let mut runs = Runs { table: Table::new("run", &COLUMNS), p99: [Vec::new(), Vec::new()] };
        for (sick, millis) in [(false, 10), (true, 12), (false, 90), (true, 14), (false, 10), (true, 500)] {
            let mut tally = Tally::new();
            record(&mut tally.latency, Duration::from_millis(millis));
            runs.add(sick, "run".to_owned(), &tally, 0);
        }
        assert!((runs.ratio().median() - 1.4).abs() < 0.01);
        assert_eq!(runs.table.rows.len(), 6);
        assert!(runs.table.rows.iter().all(|(_, cells)| cells.len() == COLUMNS.len()));
    }
}
