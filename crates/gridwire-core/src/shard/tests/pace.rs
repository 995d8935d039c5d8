//! How fast an endpoint is posted to, by its own word or the operator's, and that it is not while it has not
//! consented or is paused.

use super::*;
use crate::endpoint::Rule;
use crate::pace::{Pace, PaceSource};

fn paced(pace: Pace) -> QueuePolicy {
    QueuePolicy { pacing: Pacing::by(pace, PaceSource::Endpoint), ..push() }
}

fn paused() -> QueuePolicy {
    QueuePolicy { pacing: Pacing::by(Pace::Paused, PaceSource::Operator), ..push() }
}

fn rule(driver: &Driver) -> Rule {
    let status = driver.shard.status().pop().expect("the subscription");
    status.endpoint.expect("it is pushed").rule
}

fn outlook(driver: &Driver) -> QueueOutlook {
    driver.shard.outlook(driver.now, |_| Some(Offset(driver.end()))).pop().expect("the subscription")
}

/// Lets every attempt succeed at once until `end`, and says when each one started, in seconds.
fn deliver_until(driver: &mut Driver, end: u64) -> Vec<u64> {
    let mut starts = Vec::new();
    loop {
        for (offset, _, id) in driver.attempts() {
            starts.push(driver.now.since(at(0)).as_secs());
            driver.outcome(offset, id, Outcome::Accepted);
        }
        let due = driver.shard.next_due();
        if at(end) <= due {
            return starts;
        }
        assert!(driver.now < due, "it does not ask for time that has passed");
        driver.advance_to(due);
    }
}

#[test]
fn attempts_are_spaced_as_the_endpoint_allows() {
    let mut driver = Driver::new(paced(Pace::per_minute(6)));
    driver.publish(5);
    assert_eq!(deliver_until(&mut driver, 60), [0, 10, 20, 30, 40]);
    assert_eq!(driver.totals().delivered, 5);
    assert_eq!(driver.shard.next_due(), Timestamp::MAX, "nothing waits, so no timer is set");
}

#[test]
fn retries_keep_to_the_pace_too() {
    let mut driver = Driver::new(paced(Pace::per_minute(6)));
    driver.publish(2);
    let [(first, _, id)] = driver.attempts()[..] else { panic!("one attempt") };
    driver.outcome(first, id, failed(500));
    // Its retry and the other event are both due after ten seconds; one of them has to wait for another ten.
    assert_eq!(deliver_until(&mut driver, 60), [10, 20]);
}

#[test]
fn nothing_is_started_without_consent_and_all_of_it_with_it() {
    let mut driver = Driver::new(paced(Pace::Paused));
    driver.publish(3);
    driver.advance_to(at(600));
    assert_eq!(driver.attempts(), []);
    let before = driver.shard.outlook(driver.now, |_| Some(Offset(3))).pop().expect("the subscription");
    assert!(!before.moving, "a drain does not wait for what nobody starts: {before:?}");
    assert_eq!(before.available, 3);

    driver.restart();
    assert_eq!(driver.attempts(), [], "a restart starts nothing either");

    driver.policy = push();
    driver.subscribe();
    assert_eq!(driver.attempts().len(), 3);
}

#[test]
fn the_time_to_live_goes_on_while_nothing_may_be_sent() {
    let mut driver = Driver::new(QueuePolicy { time_to_live: seconds(100), ..paced(Pace::Paused) });
    driver.publish(1);
    driver.advance_to(at(99));
    assert_eq!(driver.totals().expired, 0);
    driver.advance_to(at(100));
    assert_eq!(driver.totals().expired, 1);
}

#[test]
fn a_pause_does_not_recall_what_is_under_way() {
    let mut driver = Driver::new(push());
    driver.publish(1);
    let [(offset, _, id)] = driver.attempts()[..] else { panic!("one attempt") };
    driver.policy = paced(Pace::Paused);
    driver.subscribe();
    driver.outcome(offset, id, failed(500));
    driver.advance_to(at(3600));
    assert_eq!(driver.attempts(), []);
    driver.policy = push();
    driver.subscribe();
    assert_eq!(driver.attempts().iter().map(|(_, attempt, _)| *attempt).collect::<Vec<_>>(), [2]);
}

#[test]
fn what_a_pause_recalls_was_not_tried_and_goes_first_when_it_ends() {
    let mut driver = Driver::new(push());
    driver.publish(2);
    let [(first, _, id), _] = driver.attempts()[..] else { panic!("two attempts") };
    driver.policy = paused();
    driver.subscribe();
    driver.input(Input::NotSent { subscription: ONE, offset: first, id });
    driver.publish(1);
    driver.advance_to(at(60));
    assert_eq!(driver.attempts(), []);
    let status = driver.shard.status().pop().expect("the subscription");
    assert_eq!(status.endpoint.map(|endpoint| endpoint.failures_in_a_row), Some(0));

    driver.restart();
    driver.policy = push();
    driver.subscribe();
    let attempts =
        driver.attempts().iter().map(|&(offset, attempt, _)| (offset, attempt)).collect::<Vec<_>>();
    assert_eq!(attempts[0], (first, 1), "{attempts:?}");
    assert_eq!(attempts.len(), 3);
}

#[test]
fn an_operators_cap_is_kept_to_within_a_hundredth() {
    for per_second in [1_u32, 7, 50, 900, 5_000] {
        let cap = Pacing::by(Pace::per_minute(60 * per_second), PaceSource::Operator);
        let mut driver = Driver::new(QueuePolicy { pacing: cap, ..push() });
        // Ten seconds' worth, and what starts with the first second.
        let count = u64::from(10 * per_second);
        driver.publish(usize::try_from(count).unwrap() + 1);
        assert_eq!(rule(&driver), Rule::Paced(PaceSource::Operator));
        let mut started = 0;
        while driver.now < at(10) {
            for (offset, _, id) in driver.attempts() {
                started += 1;
                driver.outcome(offset, id, Outcome::Accepted);
            }
            let due = driver.shard.next_due().min(at(10));
            driver.advance_to(due);
        }
        let enough = count - count / 100;
        assert!((enough..=count).contains(&started), "{per_second} a second: {started} in ten");
    }
}

#[test]
fn a_paused_retry_waits_and_starts_when_the_pause_ends() {
    let mut driver = Driver::new(push());
    driver.publish(1);
    let [(offset, _, id)] = driver.attempts()[..] else { panic!("one attempt") };
    driver.policy = paused();
    driver.subscribe();
    assert!(outlook(&driver).moving, "what is in flight ends");
    driver.outcome(offset, id, failed(500));
    driver.publish(1);
    driver.advance_to(at(60));
    let waiting = outlook(&driver);
    assert_eq!((waiting.moving, waiting.available, waiting.waiting), (false, 2, 0));
    assert_eq!(waiting.held_by, Some(Rule::Paused(PaceSource::Operator)));

    driver.restart();
    assert_eq!((driver.attempts(), outlook(&driver).available), (vec![], 2));
    driver.policy = push();
    driver.subscribe();
    assert_eq!(driver.attempts().iter().map(|(_, attempt, _)| *attempt).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(outlook(&driver).held_by, None);
}
