//! Watching how much memory the server has, from point to point of the story.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::bench::numbers::float;
use crate::bench::proc::anonymous_memory;
use crate::bench::report::{Cell, Table};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
const COLUMNS: [(&str, &str); 4] = [
    ("anonymous", "anonymous_bytes"),
    ("above idle", "above_idle_bytes"),
    ("peak until then", "peak_bytes"),
    ("above idle", "peak_above_idle_bytes"),
];

/// Follows a server's anonymous memory until it is dropped.
pub(super) struct Memory {
    shared: Arc<Shared>,
    /// The aim: so many bytes above idle at most.
    above_idle_max: u64,
    points: Vec<Point>,
    _stop: DropGuard,
}

struct Shared {
    pid: AtomicU32,
    peak: AtomicU64,
}

struct Point {
    name: &'static str,
    now: u64,
    /// The most since the point before.
    peak: u64,
}

impl Shared {
    fn look(&self) -> u64 {
        let now = anonymous_memory(self.pid.load(Ordering::Relaxed)).unwrap_or(0);
        self.peak.fetch_max(now, Ordering::Relaxed);
        now
    }
}

impl Memory {
    pub(super) fn watch(pid: u32, above_idle_max: u64) -> Self {
        let shared = Arc::new(Shared { pid: AtomicU32::new(pid), peak: AtomicU64::new(0) });
        let stop = CancellationToken::new();
        let looking = {
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            async move {
                while !stop.is_cancelled() {
                    shared.look();
                    tokio::time::sleep(LOOK).await;
                }
            }
        };
        TaskTracker::new().spawn(looking);
        Self { shared, above_idle_max, points: Vec::new(), _stop: stop.drop_guard() }
    }

    /// Goes on with the process that took the place of the last one.
    pub(super) fn follow(&self, pid: u32) {
        self.shared.pid.store(pid, Ordering::Relaxed);
        self.shared.peak.store(0, Ordering::Relaxed);
    }

    /// Notes the memory now, and the most since the last point.
    pub(super) fn note(&mut self, name: &'static str) {
        let now = self.shared.look();
        self.points.push(Point { name, now, peak: self.shared.peak.swap(0, Ordering::Relaxed) });
    }

    /// How far above idle the server was at rest, and at its peak before the point `busy`, which was `doing` so.
    pub(super) fn verdict(&self, busy: &str, doing: &str) -> String {
        let idle = self.points.first().map_or(0, |point| point.now);
        let rest = self.points.iter().map(|point| point.now).max().unwrap_or(0);
        let peaks = self.points.iter().filter(|point| point.name == busy);
        let peak = peaks.map(|point| point.peak).max().unwrap_or(0);
        let [rest, peak, aim] = [rest.saturating_sub(idle), peak.saturating_sub(idle), self.above_idle_max]
            .map(|bytes| float(bytes) / f64::from(1 << 20));
        format!(
            "memory is at most {rest:.1} MiB above idle at rest and {peak:.1} MiB while {doing}; aim {aim:.0} MiB"
        )
    }

    /// Every point next to the first, which is the idle server.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new("server's memory", &COLUMNS);
        let idle = self.points.first().map_or(0, |point| point.now);
        let above = |bytes: u64| {
            let (bytes, idle) = (i64::try_from(bytes), i64::try_from(idle));
            bytes.ok().zip(idle.ok()).map_or(Cell::Unknown, |(bytes, idle)| Cell::More(bytes - idle))
        };
        for point in &self.points {
            let cells =
                vec![Cell::Bytes(point.now), above(point.now), Cell::Bytes(point.peak), above(point.peak)];
            table.rows.push((point.name.to_owned(), cells));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn points_are_told_next_to_the_first() {
        let mut memory = Memory::watch(std::process::id(), 128 << 20);
        memory.note("idle");
        memory.follow(u32::MAX); // No such process: nothing is read rather than something wrong.
        memory.note("gone");
        let verdict = memory.verdict("gone", "nothing");
        assert!(verdict.ends_with("; aim 128 MiB"), "{verdict}");
        let table = memory.table();
        let Cell::Bytes(idle) = table.rows[0].1[0] else { panic!("bytes come first") };
        assert!(idle > 0);
        assert!(matches!(table.rows[1].1[1], Cell::More(more) if more == -i64::try_from(idle).unwrap()));
    }
}
