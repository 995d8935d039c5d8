//! Events that share a request.

use super::*;
use crate::routing::Batching;

/// What each event of these tests weighs: eight bytes stored, and its envelope.
const WEIGHT: usize = 264;

fn batching(events_max: u32, bytes_max: usize) -> QueuePolicy {
    let retry = RetryPolicy { tier: Tier::Basic };
    let batching = Some(Batching { events_max, bytes_max });
    QueuePolicy { mode: DeliveryMode::Push { retry, batching }, ..push() }
}

/// The requests to start, taken: the id, the attempt's number and the offsets of each.
fn requests(driver: &mut Driver) -> Vec<(u64, u32, Vec<u64>)> {
    let attempts = driver.attempts();
    let each = attempts.chunk_by(|left, right| left.2 == right.2);
    each.map(|events| {
        assert!(events.iter().all(|event| event.1 == events[0].1), "tried equally often: {events:?}");
        (events[0].2, events[0].1, events.iter().map(|event| event.0.0).collect())
    })
    .collect()
}

fn sizes(requests: &[(u64, u32, Vec<u64>)]) -> Vec<usize> {
    requests.iter().map(|request| request.2.len()).collect()
}

fn end(driver: &mut Driver, request: &(u64, u32, Vec<u64>), outcome: Outcome) {
    for offset in &request.2 {
        driver.outcome(Offset(*offset), request.0, outcome);
    }
}

#[test]
fn what_waits_shares_a_request_and_what_comes_alone_goes_alone() {
    let mut driver = Driver::new(batching(3, 1 << 20));
    driver.publish(1);
    driver.publish(7);
    assert_eq!(sizes(&requests(&mut driver)), [1, 3, 3, 1], "nothing waits for company");
}

#[test]
fn a_request_keeps_within_its_size_but_for_an_event_larger_by_itself() {
    for (bytes_max, expected) in [(3 * WEIGHT, vec![3, 2]), (3 * WEIGHT - 1, vec![2, 2, 1]), (1, vec![1; 5])]
    {
        let mut driver = Driver::new(batching(100, bytes_max));
        driver.publish(5);
        assert_eq!(sizes(&requests(&mut driver)), expected, "{bytes_max}");
    }
}

#[test]
fn while_every_request_is_in_flight_events_gather_for_the_next() {
    let mut driver = Driver::new(batching(5_000, 1 << 20));
    for _ in 0..100 {
        driver.publish(1);
    }
    let mut started = requests(&mut driver);
    assert_eq!(sizes(&started), vec![1; 32], "as many as there are connections");
    let first = started.remove(0);
    end(&mut driver, &first, Outcome::Accepted);
    assert_eq!(sizes(&requests(&mut driver)), [68]);
    assert_eq!(driver.totals().delivered, 1);
}

#[test]
fn a_failed_batch_comes_back_together_and_fresh_events_do_not_travel_with_it() {
    let mut driver = Driver::new(batching(10, 1 << 20));
    driver.publish(4);
    let [batch] = &requests(&mut driver)[..] else { panic!("one request") };
    end(&mut driver, batch, failed(500));
    driver.advance_to(at(9));
    driver.publish(2);
    let fresh = requests(&mut driver);
    assert_eq!((fresh[0].1, &fresh[0].2), (1, &vec![4, 5]));
    driver.restart();
    assert_eq!(requests(&mut driver)[0].2, [4, 5], "in flight at the crash");
    driver.advance_to(at(10));
    let [again] = &requests(&mut driver)[..] else { panic!("one request") };
    assert_eq!((again.1, &again.2), (2, &vec![0, 1, 2, 3]));
    end(&mut driver, again, failed(400));
    assert_eq!(driver.totals().dropped, 4, "one outcome for all");
}

#[test]
fn the_next_request_waits_for_the_last_event_of_the_one_before() {
    let mut driver = Driver::new(batching(2, 1 << 20));
    driver.publish(2 * 32 + 1);
    let started = requests(&mut driver);
    assert_eq!(started.len(), 32);
    let (id, _, offsets) = &started[0];
    driver.outcome(Offset(offsets[0]), *id, Outcome::Accepted);
    assert_eq!(requests(&mut driver), []);
    driver.outcome(Offset(offsets[1]), *id, Outcome::Accepted);
    assert_eq!(requests(&mut driver)[0].2, [64]);
}

#[test]
fn a_batch_of_the_largest_number_is_gathered_from_a_backlog() {
    let mut driver = Driver::new(batching(5_000, usize::MAX));
    for _ in 0..20 {
        driver.publish(1_000);
    }
    // Only the requests that were started as the frames came are in flight; then there is room for no other.
    let mut delivered = 0;
    let mut largest = 0;
    let mut next = requests(&mut driver);
    while !next.is_empty() {
        for request in std::mem::take(&mut next) {
            largest = largest.max(request.2.len());
            delivered += request.2.len();
            end(&mut driver, &request, Outcome::Accepted);
        }
        next = requests(&mut driver);
    }
    assert_eq!((delivered, driver.totals().delivered, driver.floor()), (20_000, 20_000, 20_000));
    assert_eq!(largest, 5_000);
}

#[test]
fn what_had_no_place_in_its_request_is_in_the_next_and_not_counted() {
    let mut driver = Driver::new(batching(3, 1 << 20));
    driver.publish(3);
    let [(id, _, _)] = requests(&mut driver)[..] else { panic!("one request") };
    driver.input(Input::NotSent { subscription: ONE, offset: Offset(1), id });
    driver.input(Input::NotSent { subscription: ONE, offset: Offset(2), id });
    driver.outcome(Offset(0), id, Outcome::Accepted);
    let next: Vec<_> =
        requests(&mut driver).into_iter().map(|(_, attempt, offsets)| (attempt, offsets)).collect();
    assert_eq!(next.iter().map(|(_, offsets)| offsets.len()).sum::<usize>(), 2, "{next:?}");
    assert!(next.iter().all(|(attempt, _)| *attempt == 1), "{next:?}");
    assert_eq!(driver.totals().delivered, 1);
}

#[test]
fn events_that_could_not_be_read_leave_their_request() {
    let mut driver = Driver::new(batching(3, 1 << 20));
    driver.publish(3);
    let [(id, _, _)] = requests(&mut driver)[..] else { panic!("one request") };
    driver.input(Input::Unreadable { subscription: ONE, offset: Offset(0), id: Some(id) });
    driver.input(Input::Unread { subscription: ONE, offset: Offset(1), id: Some(id) });
    driver.outcome(Offset(2), id, Outcome::Accepted);
    assert_eq!((driver.totals().dropped, driver.totals().delivered), (1, 1));
    driver.advance_to(at(10));
    assert_eq!(requests(&mut driver), [(id + 1, 1, vec![1])], "not counted as an attempt");
}
