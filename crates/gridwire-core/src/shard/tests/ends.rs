//! How an event ends that nobody took: dropped, as a dead letter, or with its time to live.

use super::*;

#[test]
fn too_many_deliveries_end_in_a_drop_or_a_dead_letter() {
    for dead_letter in [None, Some(TWO_DAYS)] {
        let mut driver = Driver::new(QueuePolicy { dead_letter, ..pull() });
        driver.publish(1);
        for delivery in 1..=3 {
            let tokens = driver.receive(1);
            assert_eq!(tokens[0].delivery, delivery);
            assert_eq!(driver.settle(SettleVerb::Release { delay: seconds(0) }, &tokens), [Ok(())]);
        }
        assert_eq!(driver.receive(1), []);
        if dead_letter.is_some() {
            let reason = DeadLetterReason::MaxDeliveryAttempts;
            assert!(
                matches!(driver.effects[..], [Effect::DeadLetter { attempts: 3, reason: why, .. }] if why == reason)
            );
            assert_eq!(driver.floor(), 0);
            driver.input(Input::DeadLetterWritten { subscription: ONE, offset: Offset(0) });
            assert_eq!(driver.totals().dead_lettered, 1);
        } else {
            assert_eq!(driver.totals().dropped, 1);
        }
        assert_eq!(driver.floor(), 1);
    }
}

#[test]
fn a_rejected_event_is_never_received_again_and_its_dead_letter_survives_a_restart() {
    let mut driver = Driver::new(QueuePolicy { dead_letter: Some(TWO_DAYS), ..pull() });
    driver.publish(1);
    let tokens = driver.receive(1);
    assert_eq!(driver.settle(SettleVerb::Reject, &tokens), [Ok(())]);
    driver.restart();
    assert_eq!(driver.receive(1), []);
    assert!(matches!(driver.effects[..], [Effect::DeadLetter { reason: DeadLetterReason::Rejected, .. }]));
    driver.input(Input::DeadLetterFailed { subscription: ONE, offset: Offset(0) });
    driver.effects.clear();
    driver.advance_to(at(10));
    assert!(matches!(driver.effects[..], [Effect::DeadLetter { .. }]), "tried again after 10 s");
}

#[test]
fn a_dead_letter_waits_for_its_delay_also_over_a_restart() {
    let mut driver = Driver::new(QueuePolicy { dead_letter: Some(TWO_DAYS), ..pull() });
    driver.dead_letter_delay = seconds(300);
    driver.restart();
    driver.publish(1);
    let tokens = driver.receive(1);
    assert_eq!(driver.settle(SettleVerb::Reject, &tokens), [Ok(())]);
    driver.effects.clear();
    driver.advance_to(at(200));
    driver.restart();
    driver.advance_to(at(299));
    assert_eq!(driver.effects, []);
    assert_eq!(driver.floor(), 0, "the event stays until its letter is written");
    driver.advance_to(at(300));
    assert!(matches!(driver.effects[..], [Effect::DeadLetter { reason: DeadLetterReason::Rejected, .. }]));
    driver.input(Input::DeadLetterWritten { subscription: ONE, offset: Offset(0) });
    assert_eq!(driver.totals().dead_lettered, 1);
}

#[test]
fn an_event_ends_with_its_time_to_live_wherever_it_waits() {
    let mut driver = Driver::new(QueuePolicy { time_to_live: seconds(100), ..pull() });
    driver.publish(2);
    let tokens = driver.receive(1);
    driver.settle(SettleVerb::Release { delay: seconds(3600) }, &tokens);
    driver.advance_to(at(99));
    assert_eq!(driver.totals().expired, 0);
    driver.advance_to(at(100));
    assert_eq!(driver.totals().expired, 2);
    assert_eq!(driver.floor(), 2);
}

#[test]
fn after_a_start_that_found_a_gap_in_time_nothing_expires_for_a_while_but_is_delivered() {
    let short = seconds(100);
    let mut pulled = Driver::new(QueuePolicy { time_to_live: short, ..pull() });
    pulled.publish(3);
    let released = pulled.receive(1);
    pulled.settle(SettleVerb::Release { delay: seconds(30) }, &released);
    let mut pushed = Driver::new(QueuePolicy { time_to_live: short, ..push() });
    pushed.publish(1);
    let two_days = at(2 * 24 * 3600);
    for driver in [&mut pulled, &mut pushed] {
        driver.now = two_days;
        driver.expiry_from = two_days + seconds(600);
        driver.restart();
    }
    pulled.advance_to(two_days + seconds(599));
    assert_eq!(pulled.totals().expired, 0);
    assert_eq!(offsets(&pulled.receive(2)), [0, 1], "released and never delivered ones alike");
    pulled.advance_to(two_days + seconds(600));
    assert_eq!(pulled.totals().expired, 1, "the one that nobody fetched");

    let (offset, _, id) = pushed.attempts()[0];
    pushed.outcome(offset, id, failed(500));
    pushed.advance_to(two_days + seconds(9));
    assert_eq!(pushed.attempts(), [], "its age does not hurry a retry");
    pushed.advance_to(two_days + seconds(10));
    assert_eq!(pushed.attempts().len(), 1);
}

#[test]
fn a_lock_that_is_valid_at_the_end_of_life_may_still_be_settled() {
    let mut driver = Driver::new(QueuePolicy { time_to_live: seconds(70), ..pull() });
    driver.publish(1);
    driver.advance_to(at(20));
    let tokens = driver.receive(1);
    driver.advance_to(at(75));
    assert_eq!(driver.settle(SettleVerb::Acknowledge, &tokens), [Ok(())]);
    assert_eq!(driver.totals(), Totals { delivered: 1, ..Totals::default() });
}
