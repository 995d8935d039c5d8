//! Events that are pushed: attempts, and when they are made again.

use super::*;

#[test]
fn a_failed_push_is_tried_again_when_it_is_due_also_after_a_restart() {
    let mut driver = Driver::new(push());
    driver.publish(1);
    let (offset, attempt, id) = driver.attempts()[0];
    assert_eq!(attempt, 1);
    driver.outcome(offset, id, failed(500));
    assert_eq!(driver.attempts(), []);
    driver.advance_to(at(5));
    driver.restart();
    assert_eq!(driver.attempts(), [], "not at once");
    driver.advance_to(at(9));
    assert_eq!(driver.attempts(), []);
    driver.advance_to(at(10));
    let (offset, attempt, id) = driver.attempts()[0];
    assert_eq!(attempt, 2);
    driver.outcome(offset, id, Outcome::Accepted);
    assert_eq!((driver.totals().delivered, driver.floor()), (1, 1));
}

#[test]
fn an_attempt_in_flight_is_repeated_uncounted_after_a_restart() {
    let mut driver = Driver::new(push());
    driver.publish(1);
    assert_eq!(driver.attempts()[0].1, 1);
    driver.restart();
    assert_eq!(driver.attempts()[0].1, 1);
}

#[test]
fn a_final_status_is_not_tried_again_and_a_late_outcome_is_ignored() {
    let mut driver = Driver::new(push());
    driver.publish(1);
    let (offset, _, id) = driver.attempts()[0];
    driver.outcome(offset, id + 1, Outcome::Accepted);
    assert_eq!(driver.totals(), Totals::default());
    driver.outcome(offset, id, failed(400));
    assert_eq!(driver.totals().dropped, 1);
    driver.outcome(offset, id, Outcome::Accepted);
    assert_eq!(driver.totals(), Totals { dropped: 1, ..Totals::default() });
}

#[test]
fn attempts_in_flight_are_bounded_and_the_backlog_stays_a_cursor() {
    let mut driver = Driver::new(push());
    for _ in 0..50 {
        driver.publish(100);
    }
    let attempts = driver.attempts();
    assert_eq!(attempts.len(), 64);
    assert!(driver.shard.status()[0].behind);
    assert!(driver.shard.status()[0].held <= 64 + limits::READY_MAX);
    assert_eq!(driver.shard.status()[0].pending, 5_000);
    let mut done = 0;
    let mut next = attempts;
    while !next.is_empty() {
        for (offset, _, id) in std::mem::take(&mut next) {
            driver.outcome(offset, id, Outcome::Accepted);
            done += 1;
        }
        next = driver.attempts();
    }
    assert_eq!((done, driver.totals().delivered, driver.floor()), (5000, 5000, 5000));
}
