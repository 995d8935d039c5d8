//! A few seeds with every change; `cargo xtask sim` runs many.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use gridwire_sim::{Report, run};

/// Runs the seeds on all cores.
fn run_all(seeds: std::ops::Range<u64>) -> Vec<Report> {
    let (next, reports) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seeds.end <= seed {
                        return;
                    }
                    let report = run(seed);
                    reports.lock().expect("no panic while the reports are held").push(report);
                }
            });
        }
    });
    reports.into_inner().expect("all threads have ended well")
}

#[test]
fn no_promise_is_broken() {
    let reports = run_all(1000..1020);
    for report in &reports {
        assert!(report.violations.is_empty(), "{report}");
    }
    // A simulation in which nothing happens proves nothing.
    let sum = |count: fn(&Report) -> u64| reports.iter().map(count).sum::<u64>();
    assert!(sum(|report| report.counts.accepted) > 20_000);
    assert!(sum(|report| report.counts.deliveries) > 20_000);
    assert!(sum(|report| report.counts.dead_letters) > 100);
    let batches = sum(|report| report.counts.batches);
    assert!(batches > 1_000, "{batches}");
    assert!(sum(|report| report.counts.batched) > 2 * batches, "requests are hardly shared");
    for ended in [sum(|report| report.tally.kills), sum(|report| report.tally.power_cuts)] {
        assert!(ended > 20, "{ended}");
    }
    assert!(sum(|report| report.tally.fail_stops) > 5);
}

#[test]
fn a_seed_run_twice_writes_the_same_bytes() {
    let reports = [run(2000), run(2000)];
    let [first, second] = reports.each_ref().map(|report| format!("{report}{}", report.trace));
    assert!(first.lines().count() > 1_000, "it happened too little to tell");
    let difference = first.lines().zip(second.lines()).find(|(first, second)| first != second);
    assert_eq!(difference, None);
    assert_eq!(first.len(), second.len());
    assert_ne!(run(2001).trace, reports[0].trace);
}
