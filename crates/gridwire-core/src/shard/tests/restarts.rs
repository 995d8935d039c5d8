//! What outlives a crash: locks, tokens, delays, and every event exactly once.

use super::*;

#[test]
fn locks_tokens_and_delays_are_the_same_after_a_restart() {
    for snapshot in [false, true] {
        let mut driver = Driver::new(pull());
        driver.publish(4);
        let tokens = driver.receive(2);
        let released = driver.receive(1);
        driver.settle(SettleVerb::Release { delay: seconds(30) }, &released);
        driver.settle(SettleVerb::Acknowledge, &tokens[..1]);
        if snapshot {
            driver.restart_from_snapshot();
        } else {
            driver.restart();
        }
        assert_eq!(offsets(&driver.receive(5)), [3], "only the one that nobody held");
        assert_eq!(driver.settle(SettleVerb::Acknowledge, &tokens), [Err(TokenError::Lost), Ok(())]);
        driver.advance_to(at(29));
        assert_eq!(driver.receive(5), []);
        driver.advance_to(at(30));
        let again = driver.receive(5);
        assert_eq!((again[0].offset, again[0].delivery), (Offset(2), 2));
    }
}

/// The same inputs, with a crash after any of them, settle every event exactly once.
#[test]
fn random_histories_with_crashes_settle_every_event_once() {
    for seed in 0..200u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut roll = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut driver = Driver::new(QueuePolicy { attempts_max: 1_000, ..pull() });
        let mut held: Vec<LockToken> = Vec::new();
        let mut acknowledged = std::collections::BTreeSet::new();
        for _ in 0..120 {
            match roll(8) {
                0 | 1 => driver.publish(1 + usize::try_from(roll(5)).unwrap()),
                2 | 3 => {
                    let got = driver.receive(1 + u32::try_from(roll(4)).unwrap());
                    for token in &got {
                        assert!(
                            !acknowledged.contains(&token.offset),
                            "seed {seed}: received after acknowledge"
                        );
                    }
                    held.extend(got);
                }
                4 => {
                    let now = driver.now + seconds(roll(50));
                    driver.advance_to(now);
                }
                5 => driver.restart(),
                6 => {
                    let Some(token) = held.pop() else { continue };
                    driver.settle(SettleVerb::Release { delay: seconds(roll(20)) }, &[token]);
                }
                _ => {
                    let Some(token) = held.pop() else { continue };
                    if driver.settle(SettleVerb::Acknowledge, &[token]) == [Ok(())] {
                        assert!(acknowledged.insert(token.offset), "seed {seed}: acknowledged twice");
                    }
                }
            }
        }
        driver.check_books(&format!("seed {seed}"));
        driver.advance_to(driver.now + seconds(600));
        loop {
            let tokens = driver.receive(100);
            if tokens.is_empty() {
                break;
            }
            for result in driver.settle(SettleVerb::Acknowledge, &tokens) {
                assert_eq!(result, Ok(()));
            }
            acknowledged.extend(tokens.iter().map(|token| token.offset));
        }
        assert_eq!(acknowledged.len() as u64, driver.end(), "seed {seed}");
        assert_eq!(driver.floor(), driver.end(), "seed {seed}");
        driver.check_books(&format!("seed {seed}"));
        assert_eq!(driver.shard.status()[0].pending, 0, "seed {seed}");
    }
}
