//! When a failed push is tried again. Source: `push-delivery` contract, section 5; the rules are listed in
//! `docs/compatibility/push-delivery.md`.
//!
//! Pure: the time and the jitter come in, the due time goes out. The shard keeps the schedule.

use std::time::Duration;

use crate::limits;
use crate::time::Timestamp;

/// Which documented ladder and which statuses are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// Custom topics and domains.
    Basic,
    /// Topics of a namespace.
    Namespace,
}

/// How a subscription's failed attempts are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    pub tier: Tier,
}

/// How one delivery attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 200, 201, 202, 203 or 204.
    Accepted,
    /// Any other answer.
    Answered { status: u16, retry_after: Option<Duration> },
    /// No complete answer in time.
    TimedOut,
    /// Refused, reset or cut off.
    Unreachable,
    /// The name did not resolve.
    Unresolved,
    /// No acceptable TLS session.
    TlsFailed,
    /// The address judge refused every address.
    Forbidden,
    /// No bearer token for it was to be had, so nothing was sent.
    NoToken,
}

/// What follows a finished attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// Never to be tried again: dead-letter or drop.
    Undeliverable,
    /// Try again, not before this long after the attempt.
    RetryAfter(Duration),
}

const SECOND: u64 = 1;
const MINUTE: u64 = 60;
const HOUR: u64 = 3600;

/// Waits after the first, second, … failed attempt of the basic tier; the last repeats.
const BASIC_WAITS: [u64; 10] = [
    10 * SECOND,
    30 * SECOND,
    MINUTE,
    5 * MINUTE,
    10 * MINUTE,
    30 * MINUTE,
    HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
];
/// Attempts are documented at 0 s, 10 s, 30 s, 1 min, 5 min and then every 5 min, counted from the first.
const NAMESPACE_WAITS: [u64; 5] = [10 * SECOND, 20 * SECOND, 30 * SECOND, 4 * MINUTE, 5 * MINUTE];
/// Each wait is lengthened by up to this share, so that a failed burst does not come back as a burst.
pub const JITTER_SHARE: f64 = 0.1;

impl RetryPolicy {
    /// Decides what follows attempt number `attempt` (the first is 1). `jitter` is in `0.0..1.0`.
    ///
    /// `Retry-After` may lengthen our wait but never shorten it: a busy endpoint must not be able to pull
    /// the schedule forward.
    pub fn after(self, outcome: Outcome, attempt: u32, jitter: f64) -> Verdict {
        let (minimum, retry_after) = match outcome {
            Outcome::Accepted => return Verdict::Delivered,
            Outcome::Answered { status, retry_after } => {
                if self.is_final(status) {
                    return Verdict::Undeliverable;
                }
                (self.minimum_wait(status), retry_after.unwrap_or_default().min(limits::RETRY_AFTER_MAX))
            }
            Outcome::TimedOut
            | Outcome::Unreachable
            | Outcome::Unresolved
            | Outcome::TlsFailed
            | Outcome::Forbidden
            | Outcome::NoToken => (Duration::ZERO, Duration::ZERO),
        };
        let step = self.wait(attempt).max(minimum);
        let lengthened = step.mul_f64(1.0 + JITTER_SHARE * jitter.clamp(0.0, 1.0));
        Verdict::RetryAfter(lengthened.max(retry_after))
    }

    /// The ladder's wait after attempt number `attempt`.
    pub fn wait(self, attempt: u32) -> Duration {
        let waits: &[u64] = match self.tier {
            Tier::Basic => &BASIC_WAITS,
            Tier::Namespace => &NAMESPACE_WAITS,
        };
        let step = (attempt.max(1) as usize - 1).min(waits.len() - 1);
        Duration::from_secs(waits[step])
    }

    /// Statuses after which the service does not try again.
    fn is_final(self, status: u16) -> bool {
        match self.tier {
            Tier::Basic => matches!(status, 400 | 401 | 403 | 413),
            Tier::Namespace => matches!(status, 400 | 401 | 403 | 404 | 413 | 414),
        }
    }

    /// The least wait that the basic tier documents for a status.
    fn minimum_wait(self, status: u16) -> Duration {
        let seconds = match (self.tier, status) {
            (Tier::Namespace, _) => 0,
            (Tier::Basic, 404) => 5 * MINUTE,
            (Tier::Basic, 408) => 2 * MINUTE,
            (Tier::Basic, 503) => 30 * SECOND,
            (Tier::Basic, _) => 10 * SECOND,
        };
        Duration::from_secs(seconds)
    }
}

impl Outcome {
    /// The hosted service's word for it: `lastDeliveryOutcome` of a dead letter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Delivered",
            Self::Answered { status: 404, .. } => "NotFound",
            Self::Answered { status: 401, .. } | Self::NoToken => "Unauthorized",
            Self::Answered { status: 403, .. } | Self::Forbidden => "Forbidden",
            Self::Answered { status: 400, .. } => "BadRequest",
            Self::Answered { status: 413, .. } => "PayloadTooLarge",
            Self::Answered { status: 408, .. } | Self::TimedOut => "TimedOut",
            Self::Answered { status: 429 | 503, .. } => "Busy",
            Self::Answered { .. } => "GenericError",
            Self::Unreachable | Self::TlsFailed => "SocketError",
            Self::Unresolved => "ResolutionError",
        }
    }
}

/// The earlier of a retry's due time and the end of the event's life: at its end it is given up, neither
/// at once nor hours later.
pub fn next_look(now: Timestamp, wait: Duration, end: Timestamp) -> Timestamp {
    (now + wait).min(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASIC: RetryPolicy = RetryPolicy { tier: Tier::Basic };
    const NAMESPACE: RetryPolicy = RetryPolicy { tier: Tier::Namespace };

    fn answered(status: u16, retry_after: Option<u64>) -> Outcome {
        Outcome::Answered { status, retry_after: retry_after.map(Duration::from_secs) }
    }

    fn check(policy: RetryPolicy, outcome: Outcome, attempt: u32, seconds: u64) {
        assert_eq!(policy.after(outcome, attempt, 0.0), Verdict::RetryAfter(Duration::from_secs(seconds)));
    }

    #[test]
    fn the_ladders_are_the_documented_ones() {
        for (attempt, seconds) in
            [(1, 10), (2, 30), (3, 60), (4, 300), (9, 21_600), (10, 43_200), (30, 43_200)]
        {
            check(BASIC, answered(500, None), attempt, seconds);
        }
        for (attempt, seconds) in [(1, 10), (2, 20), (3, 30), (4, 240), (5, 300), (9, 300)] {
            check(NAMESPACE, answered(500, None), attempt, seconds);
        }
    }

    #[test]
    fn every_failure_without_a_wait_of_its_own_keeps_to_the_ladder() {
        let of_both =
            [302, 405, 429, 500, 502, 504].map(|status| answered(status, None)).into_iter().chain([
                Outcome::TimedOut,
                Outcome::Unreachable,
                Outcome::Unresolved,
                Outcome::TlsFailed,
                Outcome::Forbidden,
                Outcome::NoToken,
            ]);
        let of_namespaces = [answered(408, None), answered(503, None)];
        for outcome in of_both.clone() {
            for (attempt, seconds) in
                (1..).zip([10, 30, 60, 300, 600, 1800, 3600, 10_800, 21_600, 43_200, 43_200])
            {
                check(BASIC, outcome, attempt, seconds);
            }
        }
        for outcome in of_both.chain(of_namespaces) {
            for (attempt, seconds) in (1..).zip([10, 20, 30, 240, 300, 300, 300, 300, 300]) {
                check(NAMESPACE, outcome, attempt, seconds);
            }
        }
    }

    #[test]
    fn a_status_sets_the_least_wait() {
        check(BASIC, answered(404, None), 1, 300);
        check(BASIC, answered(408, None), 1, 120);
        check(BASIC, answered(503, None), 1, 30);
        check(BASIC, answered(302, None), 1, 10);
        check(BASIC, Outcome::TimedOut, 2, 30);
    }

    #[test]
    fn final_statuses_are_not_tried_again() {
        for status in [400, 401, 403, 413] {
            assert_eq!(BASIC.after(answered(status, Some(5)), 1, 0.0), Verdict::Undeliverable);
            assert_eq!(NAMESPACE.after(answered(status, None), 1, 0.0), Verdict::Undeliverable);
        }
        assert_eq!(NAMESPACE.after(answered(404, None), 1, 0.0), Verdict::Undeliverable);
        assert_eq!(NAMESPACE.after(answered(414, None), 1, 0.0), Verdict::Undeliverable);
    }

    #[test]
    fn each_outcome_has_the_services_word_for_it() {
        for (outcome, word) in [
            (answered(400, None), "BadRequest"),
            (answered(401, None), "Unauthorized"),
            (answered(403, None), "Forbidden"),
            (answered(404, None), "NotFound"),
            (answered(408, None), "TimedOut"),
            (answered(413, None), "PayloadTooLarge"),
            (answered(429, None), "Busy"),
            (answered(503, None), "Busy"),
            (answered(302, None), "GenericError"),
            (answered(500, None), "GenericError"),
            (Outcome::TimedOut, "TimedOut"),
            (Outcome::Unreachable, "SocketError"),
            (Outcome::TlsFailed, "SocketError"),
            (Outcome::Unresolved, "ResolutionError"),
            (Outcome::Forbidden, "Forbidden"),
            (Outcome::NoToken, "Unauthorized"),
        ] {
            assert_eq!(outcome.as_str(), word, "{outcome:?}");
        }
    }

    #[test]
    fn retry_after_lengthens_the_wait_but_never_shortens_it() {
        check(BASIC, answered(500, Some(1)), 1, 10);
        check(BASIC, answered(500, Some(25)), 1, 25);
        check(BASIC, answered(500, Some(315_360_000)), 1, 3600);
    }

    #[test]
    fn jitter_only_lengthens() {
        let Verdict::RetryAfter(wait) = BASIC.after(answered(500, None), 1, 1.0) else { panic!("no retry") };
        assert_eq!(wait, Duration::from_secs(11));
    }
}
