//! What an endpoint allows: how fast it is posted to, and that it is not while it has not consented.

use super::*;
use crate::pace::Pace;

fn paced(pace: Pace) -> QueuePolicy {
    QueuePolicy { pace, ..push() }
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
