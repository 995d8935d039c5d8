//! Events whose bytes are lost, or cannot be read for the moment.

use super::*;

#[test]
fn what_a_scan_finds_damaged_is_dropped_once_and_the_rest_is_delivered() {
    let mut driver = Driver::new(pull());
    driver.publish(1);
    let held = driver.receive(1);
    // Offsets 1 to 6 are found by a scan; 2, 3 and 6 are damaged. So is 0, which somebody holds.
    driver.lost = vec![0..1, 2..4, 6..7];
    for _ in 0..6 {
        driver.log.push((driver.end(), driver.now));
    }
    driver.publish(1);
    assert_eq!(offsets(&driver.receive(10)), [1, 4, 5, 7]);
    assert_eq!((driver.totals().dropped, driver.floor()), (3, 0));
    assert_eq!(driver.settle(SettleVerb::Acknowledge, &held), [Ok(())]);
    assert_eq!((driver.totals().delivered, driver.totals().dropped), (1, 3));
}

#[test]
fn a_damaged_stretch_without_matches_is_passed_and_counted_across_a_restart() {
    let mut driver = Driver::new(pull());
    driver.publish(1);
    driver.lost.push(1..4);
    for _ in 0..3 {
        driver.log.push((driver.end(), driver.now));
    }
    driver.publish(1);
    assert_eq!(offsets(&driver.receive(10)), [0, 4]);
    assert_eq!(driver.totals().dropped, 3);
    driver.restart();
    assert_eq!(driver.totals().dropped, 3);
    assert_eq!(offsets(&driver.receive(10)), Vec::<u64>::new());
}

#[test]
fn what_lies_behind_the_floor_is_not_dropped_again() {
    let mut driver = Driver::new(pull());
    driver.publish(3);
    let all = driver.receive(3);
    driver.settle(SettleVerb::Acknowledge, &all[..2]);
    driver.lost.push(0..3);
    driver.restart();
    assert_eq!((driver.totals().delivered, driver.totals().dropped), (2, 0));
    assert_eq!(driver.settle(SettleVerb::Acknowledge, &all[2..]), [Ok(())]);
}

#[test]
fn a_delivery_whose_bytes_could_not_be_read_counts_for_nothing() {
    let mut driver = Driver::new(pull());
    driver.publish(1);
    for round in 1..20 {
        let token = driver.receive(1)[0];
        assert_eq!(token.delivery, 1, "round {round}");
        driver.input(Input::Unread { subscription: ONE, offset: token.offset, id: Some(token.nonce) });
        assert_eq!(driver.settle(SettleVerb::Acknowledge, &[token]), [Err(TokenError::Lost)]);
        assert!(driver.receive(1).is_empty(), "not at once");
        driver.advance_to(at(round * 10));
    }
    assert_eq!(driver.totals().dropped, 0);

    let mut driver = Driver::new(push());
    driver.publish(1);
    for round in 1..20 {
        let (offset, attempt, id) = driver.attempts()[0];
        assert_eq!(attempt, 1, "round {round}");
        driver.input(Input::Unread { subscription: ONE, offset, id: Some(id) });
        assert!(driver.attempts().is_empty(), "not at once");
        driver.advance_to(at(round * 10));
    }
    assert_eq!(driver.totals().dropped, 0);
}

#[test]
fn a_dead_letter_whose_event_cannot_be_read_waits_past_every_patience() {
    let mut driver = Driver::new(QueuePolicy { dead_letter: Some(TWO_DAYS), ..pull() });
    driver.publish(1);
    let token = driver.receive(1);
    driver.settle(SettleVerb::Reject, &token);
    for hour in 0..72 {
        driver.advance_to(at(hour * 3600));
        let letter = |effect: &Effect| matches!(effect, Effect::DeadLetter { .. });
        let place = driver.effects.iter().position(letter).expect("it is tried again");
        driver.effects.remove(place);
        driver.input(Input::Unread { subscription: ONE, offset: token[0].offset, id: None });
    }
    assert_eq!((driver.totals().dropped, driver.floor()), (0, 0));
}

#[test]
fn a_subscription_that_lost_its_state_starts_with_the_oldest_event_and_a_new_one_at_the_end() {
    let mut driver = Driver::new(pull());
    driver.publish(3);
    let first = driver.receive(1);
    driver.settle(SettleVerb::Acknowledge, &first);
    driver.groups.clear();
    driver.existed = true;
    driver.restart();
    assert_eq!(offsets(&driver.receive(10)), [0, 1, 2]);
    driver.groups.clear();
    driver.existed = false;
    driver.restart();
    assert_eq!(offsets(&driver.receive(10)), Vec::<u64>::new());
}

#[test]
fn recovered_state_says_how_far_it_reaches() {
    let mut driver = Driver::new(pull());
    driver.publish(6);
    let all = driver.receive(5);
    driver.settle(SettleVerb::Acknowledge, &all[3..4]);
    let mut shard = Shard::new();
    let mut input = driver.groups.as_slice();
    while !input.is_empty() {
        shard.recover_decision(&Decision::decode(&mut input).unwrap());
    }
    assert_eq!(shard.recovered_end(ONE), Offset(5));
    assert_eq!(shard.recovered_end(SubscriptionNumber(99)), Offset(0));
}
