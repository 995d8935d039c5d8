//! Runs seeds: one to look at, many to be sure, or many with a bug planted to see that it is found.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use gridwire_outside::Clock;
use gridwire_outside::system::SystemClock;
use gridwire_sim::checker::Violation;
use gridwire_sim::{PLANTED, Report, Sum, run};

/// Seeds in which each planted bug must be found.
const PLANTED_SEEDS: u64 = 50;
/// Failing seeds of which all is told; of more only the number.
const FAILURES_SHOWN: usize = 3;

/// The simulation of the broker.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask sim", max_term_width = 110)]
struct Cli {
    /// Run this one seed and show what happened
    #[arg(long, conflicts_with = "planted")]
    seed: Option<u64>,
    /// Run so many seeds on all cores
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run each planted bug, or the one of this name, until it is found
    #[arg(long, num_args = 0..=1, default_missing_value = "all", value_name = "NAME")]
    planted: Option<String>,
    /// With --seed: plant this bug
    #[arg(long, value_name = "NAME")]
    with: Option<String>,
    /// With --seed: print every line of the trace
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let sound = match (&cli.planted, cli.seed) {
        (Some(name), _) => run_planted(name),
        (None, Some(seed)) => run_one(seed, &cli),
        (None, None) => run_many(cli.from, cli.seeds),
    };
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A closed terminal is no reason to stop.
fn say(text: impl std::fmt::Display) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

fn run_one(seed: u64, cli: &Cli) -> bool {
    if let Some(name) = &cli.with {
        let Some(name) = PLANTED.iter().find(|known| *known == name) else {
            say(format_args!("there is no planted bug `{name}`; there are: {}", PLANTED.join(", ")));
            return false;
        };
        gridwire_sim::plant(Some(name));
    }
    let report = run(seed);
    if cli.trace {
        say(&report.trace);
    }
    say(&report);
    let mut sum = Sum::default();
    sum.add(&report, Duration::ZERO);
    say(sum);
    report.violations.is_empty()
}

/// Runs seeds on all cores, as long as `go_on` says so; each report goes to `done` with the time it took.
fn run_all(
    seeds: std::ops::Range<u64>,
    planted: Option<&'static str>,
    go_on: impl Fn() -> bool + Sync,
    done: impl Fn(Report, Duration) + Sync,
) {
    let next = AtomicU64::new(seeds.start);
    let clock = SystemClock::start();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                gridwire_sim::plant(planted);
                while go_on() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seeds.end <= seed {
                        return;
                    }
                    let begun = clock.monotonic();
                    let report = run(seed);
                    done(report, clock.monotonic().saturating_sub(begun));
                }
            });
        }
    });
}

fn run_many(from: u64, count: u64) -> bool {
    let clock = SystemClock::start();
    let sum = Mutex::new((Sum::default(), 0));
    run_all(
        from..from + count,
        None,
        || true,
        |report, took| {
            let mut sum = sum.lock().expect("no panic while the sum is held");
            sum.0.add(&report, took);
            if !report.violations.is_empty() {
                sum.1 += 1;
                if sum.1 <= FAILURES_SHOWN {
                    say(&report);
                }
            }
        },
    );
    let (sum, failures) = sum.into_inner().expect("all threads have ended well");
    say(&sum);
    say(format_args!("{failures} of {count} seeds failed, in {:.1?}", clock.monotonic()));
    failures == 0
}

fn run_planted(name: &str) -> bool {
    let chosen: Vec<&'static str> =
        PLANTED.iter().copied().filter(|known| name == "all" || *known == name).collect();
    if chosen.is_empty() || !gridwire_sim::can_plant() {
        say(format_args!(
            "no such planted bug, or none in this build (feature `planted`); there are: {}",
            PLANTED.join(", ")
        ));
        return false;
    }
    let mut missed = 0;
    for name in &chosen {
        let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
        let found = &found;
        run_all(
            1..PLANTED_SEEDS + 1,
            Some(name),
            || found.lock().expect("no panic while it is held").is_none(),
            |report, _| {
                let kind = gridwire_sim::found_as(name);
                let mut violations = report.violations.iter();
                let found_as = |violation: &&Violation| {
                    kind.is_none_or(|kind| violation.kind == kind && !violation.event.is_empty())
                };
                let Some(first) = violations.find(found_as) else { return };
                let mut found = found.lock().expect("no panic while it is held");
                if found.as_ref().is_none_or(|(seed, _)| report.plan.seed < *seed) {
                    *found = Some((report.plan.seed, first.to_string()));
                }
            },
        );
        if let Some((seed, what)) = &*found.lock().expect("no panic while it is held") {
            say(format_args!("{name}: found by seed {seed}: {what}"));
        } else {
            missed += 1;
            say(format_args!("{name}: MISSED by {PLANTED_SEEDS} seeds"));
        }
    }
    say(format_args!("{} of {} planted bugs found", chosen.len() - missed, chosen.len()));
    missed == 0
}
