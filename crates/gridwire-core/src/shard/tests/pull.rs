//! Events that are received: locks, tokens and waiting receivers.

use super::*;

#[test]
fn a_received_event_is_locked_until_it_is_acknowledged() {
    let mut driver = Driver::new(pull());
    driver.publish(3);
    let tokens = driver.receive(2);
    assert_eq!(offsets(&tokens), [0, 1]);
    assert_eq!(offsets(&driver.receive(5)), [2]);
    assert_eq!(driver.receive(5), []);
    assert_eq!(driver.settle(SettleVerb::Acknowledge, &tokens), [Ok(()), Ok(())]);
    assert_eq!(driver.settle(SettleVerb::Acknowledge, &tokens), [Err(TokenError::Lost); 2]);
    assert_eq!(driver.totals().delivered, 2);
    assert_eq!(driver.floor(), 2);
}

#[test]
fn a_lock_that_runs_out_makes_the_event_available_with_a_higher_count() {
    let mut driver = Driver::new(pull());
    driver.publish(1);
    let first = driver.receive(1);
    driver.advance_to(at(59));
    assert_eq!(driver.receive(1), []);
    driver.advance_to(at(60));
    let second = driver.receive(1);
    assert_eq!((second[0].offset, second[0].delivery), (Offset(0), 2));
    assert_eq!(driver.settle(SettleVerb::Acknowledge, &first), [Err(TokenError::Lost)]);
    assert_eq!(driver.settle(SettleVerb::Acknowledge, &second), [Ok(())]);
}

#[test]
fn a_waiting_receive_is_answered_by_the_next_event_or_by_its_deadline() {
    let mut driver = Driver::new(pull());
    let wait =
        |reply, deadline| Input::Receive { subscription: ONE, reply: ReplyId(reply), max: 10, deadline };
    driver.input(wait(100, at(10)));
    assert_eq!(driver.effects, []);
    driver.publish(2);
    assert!(matches!(&driver.effects[..],
        [Effect::Answer { reply: ReplyId(100), answer: Answer::Received(events) }] if events.len() == 2));
    driver.effects.clear();
    driver.input(wait(101, at(10)));
    driver.advance_to(at(10));
    let nothing = Effect::Answer { reply: ReplyId(101), answer: Answer::Received(Vec::new()) };
    assert_eq!(driver.effects, [nothing]);
}

#[test]
fn a_cancelled_receive_takes_nothing() {
    let mut driver = Driver::new(pull());
    driver.input(Input::Receive { subscription: ONE, reply: ReplyId(100), max: 10, deadline: at(10) });
    driver.input(Input::CancelReceive { subscription: ONE, reply: ReplyId(100) });
    driver.publish(1);
    assert_eq!(driver.effects, []);
    assert_eq!(driver.receive(1).len(), 1);
}

#[test]
fn a_released_event_comes_back_after_its_delay() {
    let mut driver = Driver::new(pull());
    driver.publish(1);
    let tokens = driver.receive(1);
    assert_eq!(driver.settle(SettleVerb::Release { delay: seconds(10) }, &tokens), [Ok(())]);
    driver.advance_to(at(9));
    assert_eq!(driver.receive(1), []);
    driver.advance_to(at(10));
    assert_eq!(driver.receive(1)[0].delivery, 2);
}

#[test]
fn renewing_keeps_the_token_for_at_most_an_hour() {
    let mut driver = Driver::new(pull());
    driver.publish(1);
    let tokens = driver.receive(1);
    for turn in 1..=61 {
        driver.advance_to(at(turn * 59));
        assert_eq!(driver.settle(SettleVerb::RenewLock, &tokens), [Ok(())], "turn {turn}");
    }
    driver.advance_to(at(3601));
    assert_eq!(driver.settle(SettleVerb::RenewLock, &tokens), [Err(TokenError::RenewedTooLong)]);
    assert_eq!(driver.settle(SettleVerb::Acknowledge, &tokens), [Ok(())]);
}

#[test]
fn one_answer_holds_a_bounded_number_of_bytes_but_at_least_one_event() {
    let mut driver = Driver::new(pull());
    let big = Position { offset: Offset(0), time: at(0), size: 3 << 20 };
    driver.publish(1);
    driver.receive(1);
    let queue = driver.shard.queues.get_mut(&ONE).unwrap();
    queue.offer(Position { offset: Offset(1), ..big });
    queue.offer(Position { offset: Offset(2), ..big });
    driver.shard.topics.get_mut(&TOPIC).unwrap().tail = 3;
    assert_eq!(offsets(&driver.receive(10)), [1]);
    assert_eq!(offsets(&driver.receive(10)), [2]);
}

#[test]
fn a_removed_subscription_answers_its_waiters_and_forgets_its_state() {
    let mut driver = Driver::new(pull());
    driver.input(Input::Receive { subscription: ONE, reply: ReplyId(100), max: 1, deadline: at(60) });
    driver.input(Input::Unsubscribe { subscription: ONE });
    assert_eq!(driver.effects, [Effect::Answer { reply: ReplyId(100), answer: Answer::Gone }]);
    assert_eq!(driver.shard.next_due(), Timestamp::MAX);
    driver.publish(1);
    driver.restart();
    assert_eq!(driver.receive(1), [], "a new subscription starts at the end");
}

#[test]
fn frames_that_were_not_shown_are_found_by_a_scan() {
    let mut driver = Driver::new(pull());
    driver.publish(1);
    // Three events become durable without their frame being shown; the next frame is.
    for _ in 0..3 {
        driver.log.push((driver.end(), driver.now));
    }
    driver.publish(1);
    assert_eq!(offsets(&driver.receive(10)), [0, 1, 2, 3, 4]);
}

#[test]
fn only_the_holder_of_an_event_can_say_that_it_is_gone() {
    let mut driver = Driver::new(pull());
    driver.publish(1);
    let first = driver.receive(1);
    driver.advance_to(at(60));
    let second = driver.receive(1);
    let gone = |token: &LockToken| Input::Unreadable {
        subscription: ONE,
        offset: token.offset,
        id: Some(token.nonce),
    };
    driver.input(gone(&first[0]));
    assert_eq!(driver.totals().dropped, 0);
    driver.input(gone(&second[0]));
    assert_eq!((driver.totals().dropped, driver.floor()), (1, 1));
}
