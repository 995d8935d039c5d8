//! Segments go by settlement, by age, and not before the dead letters in them: one subscription that matches
//! everything, in good weather but for the place of its dead letters.

use std::time::Duration;

use gridwire_core::filter::FilterSpec;
use gridwire_core::patience::DeadLetterPolicy;

use crate::disk::Outage;
use crate::plan::{Fault, ModePlan, Plan, PublisherPlan, SubscriptionPlan};
use crate::report::Report;
use crate::run::run_plan;

/// The topic `north` of a namespace.
const TOPIC: usize = 2;
/// A minute of publishing fills about so many segments.
const SEGMENTS: u64 = 10;

/// A minute in which the events of a pull subscription live for ten seconds.
fn run(receivers: u64, dead_letter: bool, letters: Duration, faults: Vec<(Duration, Fault)>) -> Report {
    let mut plan = Plan::new(1);
    plan.haste = 30;
    plan.shards = 1;
    plan.segment_bytes = 1 << 16;
    plan.letters = DeadLetterPolicy { patience: letters };
    plan.subscriptions = vec![SubscriptionPlan {
        name: "keeps".to_owned(),
        topic: TOPIC,
        mode: ModePlan::Pull { lock_seconds: 60, receivers },
        filter: FilterSpec { arrays: true, ..FilterSpec::default() },
        attempts_max: 10,
        time_to_live_minutes: 5,
        dead_letter,
        begins: None,
        ends: None,
    }];
    plan.publishers = vec![PublisherPlan { topic: TOPIC, pause: 200, batch_max: 1, pad: 3_000 }];
    plan.faults = faults;
    let report = run_plan(plan);
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.counts.accepted > 400 && report.tally.segments_trimmed >= SEGMENTS, "{:?}", report.tally);
    assert!(report.tally.segments_left <= 1, "{:?}", report.tally);
    report
}

fn down(from: u64, lasts: u64) -> Vec<(Duration, Fault)> {
    let fault = Fault::LettersDown { outage: Outage::All, lasts: Duration::from_secs(lasts) };
    vec![(Duration::from_secs(from), fault)]
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn segments_go_when_their_events_are_settled() {
    let Report { tally, counts, .. } = run(4, false, HOUR, Vec::new());
    assert!(counts.deliveries > 300 && tally.segments_most < SEGMENTS / 2, "{tally:?}");
}

#[test]
fn segments_go_when_their_events_are_too_old() {
    let Report { tally, counts, .. } = run(0, false, HOUR, Vec::new());
    assert_eq!(tally.expired, counts.accepted);
    assert!(tally.segments_most < SEGMENTS / 2, "{tally:?}");
}

#[test]
fn expired_events_are_dead_lettered_before_their_segment_goes() {
    let Report { tally, counts, .. } = run(0, true, HOUR, Vec::new());
    assert_eq!((counts.dead_letters, tally.expired), (counts.accepted, 0));
    assert!(tally.segments_most < SEGMENTS / 2, "{tally:?}");
}

#[test]
fn segments_wait_for_dead_letters_that_cannot_be_written() {
    // Longer than events live, and until long after the last publish.
    let Report { tally, counts, .. } = run(0, true, HOUR, down(5, 100));
    assert_eq!((counts.dead_letters, tally.letters_given_up), (counts.accepted, 0));
    assert!(tally.segments_most >= SEGMENTS, "{tally:?}");
}

#[test]
fn dead_letters_that_waited_for_too_long_are_dropped_counted_and_free_their_segments() {
    let Report { tally, counts, .. } = run(0, true, Duration::from_secs(90), down(5, 300));
    assert!(tally.letters_given_up > 300, "{tally:?}");
    assert_eq!(tally.letters_given_up + counts.dead_letters, counts.accepted);
    assert!(tally.segments_most >= SEGMENTS, "{tally:?}");
}
