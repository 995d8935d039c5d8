//! `gridwire bench`: a load generator that says how fast a server is, and compared with what.
//!
//! The cast: a [`stage`] is the server under test, spawned for the occasion or already running, with a way
//! to ask what it costs. [`setup`] makes topics and subscriptions on it by the management API. A [`load`]
//! drives [`connection`]s with [`body`] after body, in a closed loop (the next request when the last one is
//! answered) or an open one (by the clock, whatever the server does). A [`sink`] is a webhook that tells how
//! long each event took to reach it. A [`baseline`] is the bare HTTP library doing the same exchange without
//! Gridwire in between. An [`illness`] is what ails a sink that is there to be a burden. A [`report`] holds what
//! came out.
//!
//! A figure of one machine says little about another, so the baseline runs in the same minute with the same
//! bodies and as many connections, in slices that alternate with the real ones; what carries over is the
//! median of their ratios. The baseline has a process of its own, as the server has, so that both compete
//! with the generator for the processor alike.
//!
//! Latency in an open loop counts from the moment a request *should* have been sent. Measured from the
//! actual sending, a server that stalls for a second would be charged for one slow request instead of for all
//! those that had to wait behind it.

mod args;
mod baseline;
mod body;
mod connection;
mod disk;
mod identity;
mod illness;
mod load;
mod matching;
mod numbers;
mod proc;
mod progress;
mod report;
mod scenario;
mod setup;
mod sink;
mod stage;
mod stopwatch;
mod wire;

use std::io::Write as _;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use args::{BenchArgs, Output};

use args::Scenario;
use report::Report;

/// Runs one scenario and prints its report on standard output.
///
/// # Errors
///
/// When the server cannot be reached or set up, when nothing at all succeeded, and when a signal ends the
/// run; what was started is stopped in every case.
pub(crate) async fn run(args: BenchArgs, output: Output) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for signals")?;
    tokio::select! {
        done = dispatch(args.scenario, output) => done,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("terminated"),
    }
}

async fn dispatch(scenario: Scenario, output: Output) -> anyhow::Result<()> {
    let report = match scenario {
        Scenario::Publish(args) => scenario::publish::run(&args).await?,
        Scenario::Pull(args) => scenario::pull::run(&args).await?,
        Scenario::Push(args) => scenario::push::run(&args).await?,
        Scenario::Latency(args) => scenario::latency::run(&args).await?,
        Scenario::Isolation(args) => scenario::isolation::run(&args).await?,
        Scenario::Domains(args) => scenario::domains::run(&args).await?,
        Scenario::Backlog(args) => scenario::backlog::run(&args).await?,
        Scenario::SickBacklog(args) => scenario::sick_backlog::run(&args).await?,
        Scenario::Match(args) => matching::run(args).await?,
        Scenario::Disk(args) => disk::run(args).await?,
        Scenario::BaselineServer(args) => return baseline::serve_as_child(&args).await,
        Scenario::BaselineClient(args) => return baseline::post_as_child(&args).await,
    };
    print(&report, output)
}

fn print(report: &Report, output: Output) -> anyhow::Result<()> {
    let text = match output {
        Output::Text => report.to_text(),
        Output::Json => format!("{:#}\n", report.to_json()),
    };
    std::io::stdout().write_all(text.as_bytes()).context("failed to print the report")?;
    anyhow::ensure!(
        report.faults.is_empty(),
        "the server did not do what it should: {}",
        report.faults.join("; ")
    );
    match report.dead_series() {
        Some(reason) => anyhow::bail!("nothing was measured: {reason}"),
        None => Ok(()),
    }
}
