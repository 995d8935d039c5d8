//! Endpoints that are left alone for a while.

use super::*;
use crate::endpoint::{EndpointStatus, Rule};

fn endpoint(driver: &Driver) -> EndpointStatus {
    driver.shard.status()[0].endpoint.expect("a push subscription has an endpoint")
}

/// A subscription whose first ten attempts failed with this status.
fn failed_ten(status: u16) -> Driver {
    let mut driver = Driver::new(push());
    driver.publish(10);
    for (offset, _, id) in driver.attempts() {
        driver.outcome(offset, id, failed(status));
    }
    driver
}

#[test]
fn new_events_wait_for_the_end_of_probation_and_no_longer() {
    let mut driver = failed_ten(503);
    let Rule::Probation(rest) = endpoint(&driver).rule else { panic!("{:?}", endpoint(&driver)) };
    assert_eq!((rest.until, rest.outcome), (at(10), "Busy"));
    driver.publish(2);
    driver.advance_to(at(9));
    assert_eq!(driver.attempts(), [], "nothing is sent");
    driver.advance_to(at(10));
    let attempts = driver.attempts();
    assert_eq!(attempts.iter().map(|attempt| attempt.0.0).collect::<Vec<_>>(), [10, 11]);
    let (offset, _, id) = attempts[0];
    driver.outcome(offset, id, Outcome::Accepted);
    let status = endpoint(&driver);
    assert_eq!((status.failures_in_a_row, status.rule), (0, Rule::Congestion));
}

#[test]
fn the_end_of_a_rest_is_noticed_although_nothing_waits() {
    let mut driver = failed_ten(400 + 4);
    driver.advance_to(at(299));
    assert!(matches!(endpoint(&driver).rule, Rule::Probation(_)));
    driver.advance_to(at(300));
    assert_eq!(endpoint(&driver).rule, Rule::Free);
}

#[test]
fn retries_are_never_earlier_and_only_later_by_the_rest() {
    // Refused connections: the ladder says 10 s, probation 30 s.
    let mut driver = Driver::new(push());
    driver.publish(10);
    for (offset, _, id) in driver.attempts() {
        driver.outcome(offset, id, Outcome::Unreachable);
    }
    driver.advance_to(at(29));
    assert_eq!(driver.attempts(), []);
    driver.advance_to(at(30));
    assert_eq!(driver.attempts().len(), 10);

    // Nine of them are not ten.
    let mut driver = Driver::new(push());
    driver.publish(9);
    for (offset, _, id) in driver.attempts() {
        driver.outcome(offset, id, Outcome::Unreachable);
    }
    driver.advance_to(at(10));
    assert_eq!(driver.attempts().len(), 9);
}

#[test]
fn an_event_may_outlive_its_time_without_an_attempt_but_is_not_given_up_for_probation() {
    let mut driver = Driver::new(QueuePolicy { time_to_live: seconds(100), ..push() });
    driver.publish(10);
    for (offset, _, id) in driver.attempts() {
        driver.outcome(offset, id, failed(401));
    }
    assert_eq!(driver.totals().dropped, 10, "by their status");
    driver.publish(1);
    driver.advance_to(at(99));
    assert_eq!((driver.attempts(), driver.totals().expired), (vec![], 0));
    driver.advance_to(at(100));
    assert_eq!((driver.attempts(), driver.totals().expired), (vec![], 1));
}

#[test]
fn a_change_of_the_subscription_and_a_restart_end_probation() {
    let mut driver = failed_ten(404);
    driver.publish(1);
    assert_eq!(driver.attempts(), []);
    driver.subscribe();
    assert_eq!(driver.attempts().len(), 1);
    assert_eq!(endpoint(&driver).rule, Rule::Free);

    let mut driver = failed_ten(404);
    driver.publish(1);
    driver.restart();
    assert_eq!(driver.attempts().len(), 1);
}

#[test]
fn a_congested_endpoint_gets_fewer_requests_at_once() {
    let mut driver = Driver::new(push());
    driver.publish(200);
    let mut in_flight = driver.attempts();
    assert_eq!(in_flight.len(), 64);
    for _ in 0..8 {
        let (offset, _, id) = in_flight.remove(0);
        driver.outcome(offset, id, Outcome::TimedOut);
    }
    assert_eq!(endpoint(&driver).requests_max, 32);
    for (offset, _, id) in in_flight.drain(..24) {
        driver.outcome(offset, id, Outcome::Accepted);
        assert_eq!(driver.attempts(), [], "still more than 32 in flight");
    }
    let (offset, _, id) = in_flight.remove(0);
    driver.outcome(offset, id, Outcome::Accepted);
    assert_eq!(driver.attempts().len(), 1);
}
