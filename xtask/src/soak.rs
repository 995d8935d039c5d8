//! `cargo xtask soak`: what takes too long, or too much space, for every change. Prints figures, and fails where a
//! target of the reliability contract is missed.

use std::process::Command;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::run::{cargo, heading, must, output, say};
use crate::sim::SimArgs;
use crate::workspace::Workspace;
use crate::{sim, test};

/// A server is ready again within this, whatever lies on its disk.
const READY_MILLISECONDS_MAX: u64 = 2_000;
/// A backlog costs so much memory at most, before and after a restart.
const ABOVE_IDLE_BYTES_MAX: i64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// A backlog of 10 GB, and how soon a killed server is ready again; needs 12 GB of disk
    #[value(name = "restart-10gb")]
    Restart,
    /// Five million events that nobody takes, and what they cost in memory, before and after a restart
    #[value(name = "backlog-5m")]
    Backlog,
    /// Half a million flipped bits, one at a time
    Flips,
    /// Every call to the disk of a history of 10,000 operations fails
    Calls,
    /// The server is killed a thousand times under load
    Kills,
    /// A hundred thousand dead letters are put back while the server is killed three times
    #[value(name = "redrive-100k")]
    Redrive,
    /// Ten thousand seeds of the simulation
    Seeds,
    /// Five endpoints of a hundred hang, five fail: what the others notice
    Isolation,
}

#[derive(Debug, Args)]
pub(crate) struct SoakArgs {
    /// Only these parts
    #[arg(long = "part", value_enum)]
    parts: Vec<Part>,
}

pub(crate) fn run(workspace: &Workspace, args: &SoakArgs) -> anyhow::Result<()> {
    for part in Part::value_variants() {
        if !args.parts.is_empty() && !args.parts.contains(part) {
            continue;
        }
        match part {
            Part::Restart => {
                heading("A restart with 10 GB");
                let size = ["--events", "160000", "--size", "64KiB", "--batch", "15"];
                let report = backlog(workspace, &size)?;
                check_restart(&report)?;
            }
            Part::Backlog => {
                heading("Five million events that nobody takes");
                let report = backlog(workspace, &["--events", "5000000", "--size", "200"])?;
                check_restart(&report)?;
                check_memory(&report)?;
            }
            Part::Flips => store_faults(workspace, 1 << 19, 30)?,
            Part::Calls => store_faults(workspace, 1 << 10, 10_000)?,
            Part::Kills => {
                heading("A thousand kills");
                let mut kills = cargo(&workspace.root);
                kills.args(["test", "--locked", "--release", "-p", "gridwire", "--test", "restart"]);
                must(kills.args(["killing", "--", "--nocapture"]).env("GRIDWIRE_KILLS", "1000"))?;
            }
            Part::Redrive => {
                heading("A hundred thousand dead letters are put back");
                let mut redrive = cargo(&workspace.root);
                redrive.args(["test", "--locked", "--release", "-p", "gridwire", "--test", "dead_letters"]);
                must(redrive.args(["killed", "--", "--nocapture"]).env("GRIDWIRE_LETTERS", "100000"))?;
            }
            Part::Seeds => {
                heading("Ten thousand seeds");
                sim::run(workspace, &SimArgs::new(&["--seeds", "10000", "--from", "100000"]))?;
            }
            Part::Isolation => {
                heading("Five of a hundred endpoints hang, five fail");
                let bad = ["--healthy", "90", "--hanging", "5", "--failing", "5"];
                must(bench(workspace, "isolation")?.args(bad).args(["--duration", "20s"]))?;
            }
        }
    }
    Ok(())
}

/// Flips so many bits of the log's files one by one, and lets every call of so many operations on them fail.
pub(crate) fn store_faults(workspace: &Workspace, flips: u64, operations: u64) -> anyhow::Result<()> {
    heading(&format!("{flips} flipped bits, every failing call of {operations} operations"));
    // The simulation's profile: quick enough, and with every assertion.
    let mut test = cargo(&workspace.root);
    test.args([
        "test",
        "--locked",
        "--profile",
        "sim",
        "--package",
        "gridwire-store",
        "--test",
        "faults",
        "--",
    ]);
    test.args(["--nocapture", "a_flipped_bit_is_reported_or_harmless", "every_call_of_a_history_may_fail"]);
    must(test.env("GRIDWIRE_FLIPS", flips.to_string()).env("GRIDWIRE_OPERATIONS", operations.to_string()))
}

/// The load generator, as it is released.
fn bench(workspace: &Workspace, scenario: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(test::build(workspace, true)?);
    command.args(["bench", scenario]).current_dir(&workspace.root);
    Ok(command)
}

/// The report on a backlog that two subscriptions have, one of which catches up in the end.
fn backlog(workspace: &Workspace, size: &[&str]) -> anyhow::Result<Value> {
    let mut command = bench(workspace, "backlog")?;
    command.args(size).args(["--subscriptions", "2", "--behind", "1", "--limit", "30m", "--output", "json"]);
    command.arg("--temp-dir").arg(&workspace.target);
    let report: Value = serde_json::from_str(&output(&mut command)?).context("the report is not JSON")?;
    for note in report["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        say(note);
    }
    for table in report["tables"].as_array().into_iter().flatten() {
        for row in table["rows"].as_array().into_iter().flatten() {
            say(&format!("{}: {row}", table["name"].as_str().unwrap_or_default()));
        }
    }
    Ok(report)
}

fn check_restart(report: &Value) -> anyhow::Result<()> {
    let took = report["facts"]["restart_milliseconds"].as_u64().context("the report tells of no restart")?;
    say(&format!("ready {took} ms after it was started again; at most {READY_MILLISECONDS_MAX} are allowed"));
    ensure!(took <= READY_MILLISECONDS_MAX, "a restart took {took} ms");
    Ok(())
}

/// At rest: with the backlog, and after the restart.
fn check_memory(report: &Value) -> anyhow::Result<()> {
    let tables = report["tables"].as_array().context("the report has no tables")?;
    let memory = tables.iter().find(|table| table["name"] == "server's memory").context("no memory in it")?;
    for point in ["published", "restarted"] {
        let rows = memory["rows"].as_array().context("no rows in it")?;
        let row = rows.iter().find(|row| row["name"] == point).with_context(|| format!("no `{point}`"))?;
        let above = row["above_idle_bytes"].as_i64().context("it was not measured")?;
        say(&format!("{point}: {above} bytes above idle; at most {ABOVE_IDLE_BYTES_MAX} are allowed"));
        ensure!(above <= ABOVE_IDLE_BYTES_MAX, "`{point}`: {above} bytes above idle");
    }
    Ok(())
}
