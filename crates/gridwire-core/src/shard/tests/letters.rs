//! A dead-letter destination that is down: who waits for it, for how long, and what that costs.

use super::*;

const HOUR: u64 = 3600;

fn impatient(time_to_live: u64) -> QueuePolicy {
    QueuePolicy { time_to_live: seconds(time_to_live), dead_letter: Some(TWO_DAYS), ..pull() }
}

/// The letters that the shard wants written, taken.
fn letters(driver: &mut Driver) -> Vec<u64> {
    let mut wanted = Vec::new();
    driver.effects.retain(|effect| {
        let Effect::DeadLetter { offset, .. } = effect else { return true };
        wanted.push(offset.0);
        false
    });
    wanted
}

/// Lets time pass while every try fails; the answer is when each letter was tried, in seconds.
fn fail_until(driver: &mut Driver, end: Timestamp) -> Vec<(u64, u64)> {
    let mut tries = Vec::new();
    loop {
        for offset in letters(driver) {
            tries.push(((driver.now.as_millis() - at(0).as_millis()) / 1000, offset));
            driver.input(Input::DeadLetterFailed { subscription: ONE, offset: Offset(offset) });
        }
        let due = driver.shard.next_due();
        if due > end {
            driver.now = end;
            return tries;
        }
        driver.advance_to(due.max(driver.now));
    }
}

#[test]
fn what_expires_while_its_destination_is_down_waits_and_holds_its_segment() {
    let mut driver = Driver::new(impatient(100));
    driver.publish(2);
    let tries = fail_until(&mut driver, at(HOUR));
    let of_first: Vec<u64> = tries.iter().filter(|(_, offset)| *offset == 0).map(|(when, _)| *when).collect();
    assert_eq!(of_first[..5], [100, 110, 170, 470, 770], "the documented ladder");
    assert_eq!((driver.floor(), driver.totals()), (0, Totals::default()), "nothing is settled");
    assert_eq!(driver.shard.status()[0].letters, 2);
    // The destination is back.
    driver.advance_to(at(2 * HOUR));
    assert_eq!(letters(&mut driver), [0, 1]);
    driver.input(Input::DeadLetterWritten { subscription: ONE, offset: Offset(0) });
    assert_eq!(driver.floor(), 1);
    driver.input(Input::DeadLetterWritten { subscription: ONE, offset: Offset(1) });
    assert_eq!((driver.floor(), driver.totals().dead_lettered, driver.totals().dropped), (2, 2, 0));
}

#[test]
fn after_the_documented_time_it_is_dropped_and_counted() {
    let four_hours = Some(DeadLetterPolicy::documented(Tier::Basic));
    // One expires, the other is refused for good at once.
    for (policy, since, hours) in
        [(impatient(100), 100, 48), (QueuePolicy { dead_letter: four_hours, ..push() }, 0, 4)]
    {
        let mut driver = Driver::new(policy);
        driver.publish(1);
        for (offset, _, id) in driver.attempts() {
            driver.outcome(offset, id, failed(400));
        }
        fail_until(&mut driver, at(since + hours * HOUR - 1));
        assert_eq!((driver.totals().dropped, driver.floor()), (0, 0), "{hours} hours are not over");
        fail_until(&mut driver, at(since + hours * HOUR));
        assert_eq!((driver.totals().dropped, driver.floor()), (1, 1), "{hours} hours are over");
        assert_eq!(driver.shard.status()[0].letters, 0);
    }
}

#[test]
fn a_restart_tries_at_once_and_counts_the_time_from_when_it_was_given_up() {
    let mut driver = Driver::new(impatient(100));
    driver.publish(1);
    fail_until(&mut driver, at(24 * HOUR));
    driver.restart();
    driver.input(Input::Tick);
    assert_eq!(fail_until(&mut driver, at(24 * HOUR + 60)).len(), 2, "at once and after ten seconds");
    fail_until(&mut driver, at(100 + 48 * HOUR));
    assert_eq!(driver.totals().dropped, 1);

    // Down for longer than the time: the destination may start later than we do.
    let mut driver = Driver::new(impatient(100));
    driver.publish(1);
    fail_until(&mut driver, at(200));
    driver.now = at(100 * HOUR);
    driver.restart();
    driver.input(Input::Tick);
    fail_until(&mut driver, at(100 * HOUR + 60));
    assert_eq!(driver.totals().dropped, 0);
    driver.advance_to(at(100 * HOUR + 70));
    assert_eq!(letters(&mut driver), [0]);
    driver.input(Input::DeadLetterWritten { subscription: ONE, offset: Offset(0) });
    assert_eq!(driver.totals().dead_lettered, 1);
}

#[test]
fn an_expired_backlog_waits_as_a_cursor_and_not_in_memory() {
    let mut driver = Driver::new(impatient(100));
    let backlog = limits::TROUBLE_MAX + 3 * limits::READY_MAX;
    for _ in 0..=backlog / 1_000 {
        driver.publish(1_000);
    }
    driver.advance_to(at(HOUR));
    let status = driver.shard.status()[0];
    assert_eq!(status.letters, limits::TROUBLE_MAX);
    assert!(status.behind && status.held <= limits::TROUBLE_MAX + limits::READY_MAX, "{status:?}");
    assert!(driver.shard.next_due() > driver.now, "it does not ask for time that has passed");
    // Each that is written makes room for one more, whose time began when its life ended.
    for offset in letters(&mut driver) {
        driver.input(Input::DeadLetterWritten { subscription: ONE, offset: Offset(offset) });
    }
    assert_eq!(driver.shard.status()[0].letters, limits::TROUBLE_MAX);
    assert_eq!(driver.totals().dead_lettered, 16);
}
