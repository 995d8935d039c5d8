//! What is told of a seed, and of many.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::checker::{Counts, Violation};
use crate::plan::Plan;
use crate::world::Tally;

/// Lines of a failing seed's story.
const STORY_MAX: usize = 120;

/// What came of a seed.
#[derive(Debug)]
pub struct Report {
    pub plan: Plan,
    pub violations: Vec<Violation>,
    pub counts: Counts,
    pub tally: Tally,
    /// A line for everything that happened.
    pub trace: String,
}

impl Report {
    /// The lines about the first violation's events, with the faults and ends of processes between.
    fn story(&self) -> Vec<&str> {
        let suspects: BTreeSet<&str> =
            self.violations.iter().take(3).map(|violation| violation.event.as_str()).collect();
        let tells = |line: &&str| {
            line.contains(" fault: ")
                || line.contains(" process: ")
                || line.contains("storm: ")
                || line.contains("panic: ")
                || line.split([' ', '#', ',']).any(|word| !word.is_empty() && suspects.contains(word))
        };
        let lines: Vec<&str> = self.trace.lines().filter(tells).collect();
        lines[lines.len().saturating_sub(STORY_MAX)..].to_vec()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.plan)?;
        if self.violations.is_empty() {
            return writeln!(f, "nothing was broken");
        }
        for line in self.story() {
            writeln!(f, "{line}")?;
        }
        for violation in &self.violations {
            writeln!(f, "BROKEN {violation}")?;
        }
        writeln!(f, "again: cargo xtask sim --seed {} --trace", self.plan.seed)
    }
}

/// Figures over many seeds.
#[derive(Debug, Default)]
pub struct Sum {
    seeds: u64,
    counts: Counts,
    tally: Tally,
    slowest: (Duration, u64),
}

impl Sum {
    pub fn add(&mut self, report: &Report, took: Duration) {
        self.seeds += 1;
        self.counts.add(&report.counts);
        self.tally.add(&report.tally);
        self.slowest = self.slowest.max((took, report.plan.seed));
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, counts, tally, slowest } = self;
        writeln!(
            f,
            "{seeds} seeds: {} events accepted, {} with unknown outcome; {} deliveries, {} of them repeated after a \
             fault; {} dead letters, {} given up; {} events expired; {} lease operations; {} snapshots; {} segments trimmed, \
             {} at once at most",
            counts.accepted,
            counts.unknown,
            counts.deliveries,
            counts.repeated,
            counts.dead_letters,
            tally.letters_given_up,
            tally.expired,
            tally.lease_operations,
            tally.snapshots,
            tally.segments_trimmed,
            tally.segments_most
        )?;
        writeln!(
            f,
            "ends of processes: {} killed, {} by power cuts, {} by fail-stop, {} in order",
            tally.kills, tally.power_cuts, tally.fail_stops, tally.stops
        )?;
        // Tenths of events, so that an idle feature is seen: it has 1.0.
        let mean = (10 * counts.batched).checked_div(counts.batches).unwrap_or(0);
        writeln!(
            f,
            "{} batched requests with {}.{} events on average and {} at most, {} of them with several",
            counts.batches,
            mean / 10,
            mean % 10,
            counts.batch_most,
            counts.shared
        )?;
        write!(
            f,
            "faults: {} failing disks, {} full disks, {} of the network, {} of the place for dead letters; {} sick answers of webhooks, {} requests \
             without an answer or with a 5xx; slowest seed {} in {:.1?}",
            tally.disk_errors,
            tally.disk_full,
            tally.network,
            tally.letters_down,
            tally.webhook_failures,
            tally.unanswered,
            slowest.1,
            slowest.0
        )
    }
}
