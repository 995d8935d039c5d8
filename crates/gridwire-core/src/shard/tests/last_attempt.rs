//! A dead letter tells when its event was tried last, however long ago and however often it is written.

use super::*;

/// The dead letters to write, taken: attempts, reason, and what is known of the last attempt.
fn letters(driver: &mut Driver) -> Vec<(u32, DeadLetterReason, LastAttempt)> {
    let mut letters = Vec::new();
    driver.effects.retain(|effect| {
        let Effect::DeadLetter { attempts, reason, last, .. } = effect else { return true };
        letters.push((*attempts, *reason, *last));
        false
    });
    letters
}

/// Fails the write, so that it is due again in ten seconds.
fn fail(driver: &mut Driver) {
    driver.input(Input::DeadLetterFailed { subscription: ONE, offset: Offset(0) });
    driver.advance_to(driver.now + seconds(10));
}

/// The same letter now, after a failed write, and after restarts from the log and from a snapshot.
#[track_caller]
fn check(driver: &mut Driver, attempts: u32, reason: DeadLetterReason, last: LastAttempt) {
    let expected = [(attempts, reason, last)];
    assert_eq!(letters(driver), expected);
    fail(driver);
    assert_eq!(letters(driver), expected, "written again");
    driver.restart();
    assert_eq!(letters(driver), expected, "after a restart");
    driver.restart_from_snapshot();
    assert_eq!(letters(driver), expected, "after a restart from a snapshot");
}

fn dead_lettered(policy: QueuePolicy) -> QueuePolicy {
    QueuePolicy { dead_letter: Some(TWO_DAYS), time_to_live: seconds(300), ..policy }
}

#[test]
fn a_push_that_failed_is_told_with_its_own_time_at_the_end_of_time_to_live() {
    for restarts in [false, true] {
        let mut driver = Driver::new(dead_lettered(push()));
        driver.publish(1);
        driver.advance_to(at(7));
        let [(offset, 1, id)] = driver.attempts()[..] else { panic!("one attempt") };
        driver.outcome(offset, id, failed(404)); // Tried again in five minutes: never.
        if restarts {
            driver.restart();
            driver.restart_from_snapshot();
        }
        driver.advance_to(at(300));
        let last = LastAttempt { at: Some(at(7)), status: Some(404), unanswered: None };
        check(&mut driver, 1, DeadLetterReason::TimeToLive, last);
    }
}

#[test]
fn a_push_without_an_answer_is_told_why_there_was_none() {
    for (outcome, unanswered, word) in [
        (Outcome::TimedOut, Unanswered::TimedOut, "TimedOut"),
        (Outcome::Unreachable, Unanswered::Unreachable, "SocketError"),
        (Outcome::TlsFailed, Unanswered::TlsFailed, "SocketError"),
        (Outcome::Unresolved, Unanswered::Unresolved, "ResolutionError"),
        (Outcome::Forbidden, Unanswered::Forbidden, "Forbidden"),
        (Outcome::NoToken, Unanswered::NoToken, "Unauthorized"),
    ] {
        let mut driver = Driver::new(QueuePolicy { attempts_max: 2, ..dead_lettered(push()) });
        driver.publish(1);
        for restarts in [true, false] {
            let [(offset, _, id)] = driver.attempts()[..] else { panic!("one attempt") };
            driver.outcome(offset, id, outcome);
            if restarts {
                driver.restart();
                driver.advance_to(driver.now + seconds(10));
            }
        }
        let last = LastAttempt { at: Some(at(10)), status: None, unanswered: Some(unanswered) };
        assert_eq!(last.outcome().as_str(), word);
        check(&mut driver, 2, DeadLetterReason::MaxDeliveryAttempts, last);
    }
    assert_eq!(LastAttempt::default().outcome(), Outcome::TimedOut, "of an earlier build's");
}

#[test]
fn the_latest_of_several_attempts_counts() {
    let mut driver = Driver::new(dead_lettered(push()));
    driver.publish(1);
    let mut ended = Vec::new();
    for _ in 0..3 {
        let [(offset, _, id)] = driver.attempts()[..] else { panic!("one attempt") };
        driver.advance_to(driver.now + seconds(2));
        ended.push(driver.now);
        driver.outcome(offset, id, failed(503));
        driver.advance_to(driver.now + seconds(60));
    }
    assert!(ended[1] < ended[2]);
    let last = LastAttempt { at: Some(ended[2]), status: Some(503), unanswered: None };
    check(&mut driver, 3, DeadLetterReason::MaxDeliveryAttempts, last);
}

#[test]
fn a_final_refusal_is_told_with_its_own_time() {
    let mut driver = Driver::new(dead_lettered(push()));
    driver.publish(1);
    driver.advance_to(at(3));
    let [(offset, 1, id)] = driver.attempts()[..] else { panic!("one attempt") };
    driver.outcome(offset, id, failed(400));
    let last = LastAttempt { at: Some(at(3)), status: Some(400), unanswered: None };
    check(&mut driver, 1, DeadLetterReason::Undeliverable, last);
}

#[test]
fn a_pull_delivery_is_told_with_the_time_of_the_last_receive() {
    // Rejected, released, or its lock ran out, long after it was received and over a renewal.
    for verb in [Some(SettleVerb::Reject), Some(SettleVerb::Release { delay: seconds(0) }), None] {
        let mut driver = Driver::new(QueuePolicy { attempts_max: 2, ..dead_lettered(pull()) });
        driver.publish(1);
        driver.receive(1);
        driver.advance_to(at(70));
        let tokens = driver.receive(1);
        assert_eq!(tokens[0].delivery, 2);
        driver.advance_to(at(90));
        assert_eq!(driver.settle(SettleVerb::RenewLock, &tokens), [Ok(())]);
        driver.advance_to(at(100));
        match verb {
            Some(verb) => assert_eq!(driver.settle(verb, &tokens), [Ok(())]),
            None => driver.advance_to(at(150)),
        }
        let reason = match verb {
            Some(SettleVerb::Reject) => DeadLetterReason::Rejected,
            _ => DeadLetterReason::MaxDeliveryAttempts,
        };
        check(&mut driver, 2, reason, LastAttempt { at: Some(at(70)), status: None, unanswered: None });
    }
}

#[test]
fn a_released_event_that_expires_is_told_with_its_receive() {
    let mut driver = Driver::new(dead_lettered(pull()));
    driver.publish(1);
    driver.advance_to(at(5));
    let tokens = driver.receive(1);
    driver.advance_to(at(8));
    assert_eq!(driver.settle(SettleVerb::Release { delay: seconds(60) }, &tokens), [Ok(())]);
    driver.restart();
    driver.restart_from_snapshot();
    driver.advance_to(at(300));
    check(
        &mut driver,
        1,
        DeadLetterReason::TimeToLive,
        LastAttempt { at: Some(at(5)), status: None, unanswered: None },
    );
}

#[test]
fn an_event_that_was_never_tried_has_no_last_attempt() {
    let mut driver = Driver::new(dead_lettered(pull()));
    driver.publish(1);
    driver.advance_to(at(300));
    check(&mut driver, 0, DeadLetterReason::TimeToLive, LastAttempt::default());
}

#[test]
fn a_delivery_whose_bytes_could_not_be_read_is_none() {
    let mut driver = Driver::new(QueuePolicy { time_to_live: seconds(60), ..dead_lettered(push()) });
    driver.publish(1);
    driver.advance_to(at(2));
    let [(offset, 1, id)] = driver.attempts()[..] else { panic!("one attempt") };
    driver.outcome(offset, id, failed(503));
    driver.advance_to(at(55));
    let [(offset, 2, id)] = driver.attempts()[..] else { panic!("one attempt") };
    driver.input(Input::Unread { subscription: ONE, offset, id: Some(id) });
    driver.advance_to(at(60));
    check(
        &mut driver,
        1,
        DeadLetterReason::TimeToLive,
        LastAttempt { at: Some(at(2)), status: Some(503), unanswered: None },
    );
}

/// What waits for its next delivery when the limit is lowered to what it has had already gets no other, and is
/// told with as many as it had.
#[test]
fn an_event_given_up_for_a_lowered_limit_is_told_with_the_deliveries_that_it_had() {
    let mut pulled = Driver::new(dead_lettered(pull()));
    pulled.publish(1);
    let tokens = pulled.receive(1);
    let verb = SettleVerb::Release { delay: seconds(10) };
    assert_eq!(pulled.settle(verb, &tokens), [Ok(())]);
    let mut pushed = Driver::new(dead_lettered(push()));
    pushed.publish(1);
    let [(offset, 1, id)] = pushed.attempts()[..] else { panic!("one attempt") };
    pushed.outcome(offset, id, failed(503));
    let had = [(pulled, LastAttempt { at: Some(at(0)), status: None, unanswered: None })];
    let had = had
        .into_iter()
        .chain([(pushed, LastAttempt { at: Some(at(0)), status: Some(503), unanswered: None })]);
    for (mut driver, last) in had {
        driver.policy.attempts_max = 1;
        driver.subscribe();
        driver.advance_to(at(60));
        if matches!(driver.policy.mode, DeliveryMode::Pull { .. }) {
            assert!(driver.receive(1).is_empty());
        }
        check(&mut driver, 1, DeadLetterReason::MaxDeliveryAttempts, last);
    }
}
