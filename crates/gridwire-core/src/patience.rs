//! How long a dead letter waits for its destination, and how often it is tried. Source: `push-delivery` contract,
//! section 9.
//!
//! Pure: the shard keeps the letters and their times, a driver writes them and says how it went. Until a letter is
//! written or its time is over its event is unsettled, so the segment that holds it stays.

use std::time::Duration;

use crate::planted::planted;
use crate::retry::Tier;
use crate::time::Timestamp;

/// Waits after the first, second, … failed try; the last repeats.
const WAITS: [Duration; 3] = [Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300)];
/// Tries that a process makes at least before it gives a letter up. A server that was down for longer than its
/// letters may wait starts together with what it writes to, and must not find it missing once and drop everything.
const TRIES_MIN: u32 = 3;

/// How long the events of one subscription may wait for their dead-letter destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterPolicy {
    /// From the moment at which an event is given up, or its time to live ended.
    pub patience: Duration,
}

/// What follows a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    TryAt(Timestamp),
    /// Its time is over: the event is dropped, counted and logged.
    Drop,
}

impl DeadLetterPolicy {
    /// What the service documents: four hours for custom topics, two days for namespaces.
    pub const fn documented(tier: Tier) -> Self {
        const HOUR: u64 = 3600;
        let seconds = match tier {
            Tier::Basic => 4 * HOUR,
            Tier::Namespace => 48 * HOUR,
        };
        Self { patience: Duration::from_secs(seconds) }
    }

    /// Decides what follows the `failures`-th failed try of this process. The event was given up at `since`, and
    /// nothing is dropped before `hold`.
    ///
    /// The last try is made when the time is over, not up to five minutes before.
    pub fn after_failure(
        self,
        failures: u32,
        since: Timestamp,
        hold: Timestamp,
        now: Timestamp,
    ) -> AfterFailure {
        let end = (since + self.patience).max(hold);
        if end <= now && TRIES_MIN <= failures || planted("letter-given-up-early") {
            return AfterFailure::Drop;
        }
        let step = (failures.max(1) as usize - 1).min(WAITS.len() - 1);
        let next = now + WAITS[step];
        // The end may lie behind, or before the tries that are owed to everybody.
        let last = if now < end && TRIES_MIN <= failures { end } else { Timestamp::MAX };
        AfterFailure::TryAt(next.min(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINCE: Timestamp = Timestamp::from_millis(5_000_000);

    fn after(seconds: u64) -> Timestamp {
        SINCE + Duration::from_secs(seconds)
    }

    /// When a destination that is never there is tried, in seconds since the event was given up, and when the event
    /// is dropped; the first try is made `late` seconds after.
    fn tries(patience: u64, late: u64, hold: Timestamp) -> (Vec<u64>, u64) {
        let policy = DeadLetterPolicy { patience: Duration::from_secs(patience) };
        let mut now = after(late);
        let mut tries = Vec::new();
        loop {
            tries.push(now.since(SINCE).as_secs());
            let failures = u32::try_from(tries.len()).unwrap();
            match policy.after_failure(failures, SINCE, hold, now) {
                AfterFailure::TryAt(next) => {
                    assert!(now < next, "tried again at once");
                    now = next;
                }
                AfterFailure::Drop => return (tries, now.since(SINCE).as_secs()),
            }
        }
    }

    #[test]
    fn the_ladder_and_the_time_are_the_documented_ones() {
        for (tier, hours) in [(Tier::Basic, 4), (Tier::Namespace, 48)] {
            let patience = DeadLetterPolicy::documented(tier).patience.as_secs();
            assert_eq!(patience, hours * 3600);
            let (tries, dropped) = tries(patience, 0, Timestamp::ZERO);
            assert_eq!(tries[..5], [0, 10, 70, 370, 670]);
            assert!(tries[3..tries.len() - 1].windows(2).all(|pair| pair[1] - pair[0] == 300));
            assert_eq!(dropped, patience, "the last try is made when the time is over");
        }
    }

    #[test]
    fn whoever_was_down_for_longer_than_the_time_tries_for_a_while() {
        assert_eq!(tries(100, 5_000, Timestamp::ZERO), (vec![5_000, 5_010, 5_070], 5_070));
        assert_eq!(tries(100, 60, Timestamp::ZERO), (vec![60, 70, 130], 130));
        assert_eq!(tries(0, 0, Timestamp::ZERO).1, 70);
    }

    #[test]
    fn nothing_is_dropped_while_the_clock_is_not_trusted() {
        assert_eq!(tries(100, 0, after(600)), (vec![0, 10, 70, 370, 600], 600));
    }
}
