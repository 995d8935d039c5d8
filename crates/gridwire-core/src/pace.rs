//! How fast one subscription's endpoint may be posted to.
//!
//! An endpoint says so when it consents (`WebHook-Allowed-Rate`, in requests a minute), and before it consents
//! nothing may be sent at all. The operator may say so too, or pause it. A [`Pace`] is such a rule, a [`Pacing`] the
//! strictest of them and whose it is; a [`Pacer`] keeps to it. Pure: the time comes in.
//!
//! Requests are spaced evenly instead of counted by the minute: a count that starts anew would let two minutes'
//! worth through around the turn of the minute. The spaces are a little longer than the rate asks for
//! ([`LATENESS`]), and a request that was late by no more than that does not push the following ones back. So
//! timers that fire late cost no throughput, and still no minute holds a request too many.

use std::num::NonZeroU32;

use crate::time::Timestamp;

/// How late a request may be without delaying the next ones, in microseconds.
const LATENESS: u64 = 50_000;
const MINUTE: u64 = 60_000_000;

/// The rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// As fast as the endpoint takes it.
    #[default]
    Free,
    /// So many requests in any minute.
    PerMinute(NonZeroU32),
    /// None at all: the operator paused it, or the endpoint has not consented yet or allows a rate of 0. Events wait,
    /// and their time to live goes on.
    Paused,
}

impl Pace {
    /// The pace of so many requests a minute; 0 is a pause.
    pub fn per_minute(rate: u32) -> Self {
        NonZeroU32::new(rate).map_or(Self::Paused, Self::PerMinute)
    }

    /// Reads a `WebHook-Allowed-Rate`: `*`, or requests a minute. `None` for anything else, which allows and
    /// forbids nothing. A number that is too large to count is no limit that anybody meets.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii();
        if text == b"*" {
            return Some(Self::Free);
        }
        if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let digit = |sum: u32, byte: &u8| sum.saturating_mul(10).saturating_add(u32::from(byte - b'0'));
        Some(Self::per_minute(text.iter().fold(0, digit)))
    }

    /// The stricter of two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Free, pace) | (pace, Self::Free) => pace,
            (Self::Paused, _) | (_, Self::Paused) => Self::Paused,
            (Self::PerMinute(one), Self::PerMinute(other)) => Self::PerMinute(one.min(other)),
        }
    }
}

/// Whose word a pace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaceSource {
    /// What the endpoint allowed when it consented.
    Endpoint,
    /// That the endpoint has not consented.
    Consent,
    Operator,
}

impl PaceSource {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Consent => "consent",
            Self::Operator => "operator",
        }
    }
}

/// The pace that holds, and by whose word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pacing {
    pub pace: Pace,
    pub source: PaceSource,
}

impl Pacing {
    pub const FREE: Self = Self::by(Pace::Free, PaceSource::Endpoint);

    pub const fn by(pace: Pace, source: PaceSource) -> Self {
        Self { pace, source }
    }

    /// The stricter of two; of equals the first.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self.pace.and(other.pace) == self.pace { self } else { other }
    }
}

/// Keeps to a pace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pacer {
    pace: Pace,
    /// When the next request is due if requests come without a break, in microseconds of broker time.
    next: u64,
}

impl Pacer {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, next: 0 }
    }

    /// From now on another pace holds. A space of the old one, if it is longer, is not waited out.
    pub(crate) fn change(&mut self, pace: Pace, now: Timestamp) {
        self.pace = pace;
        if let Pace::PerMinute(rate) = pace {
            self.next = self.next.min(micros(now).saturating_add(space(rate)));
        }
    }

    /// When the next request may start; [`Timestamp::MAX`] for never.
    pub(crate) fn ready_at(&self) -> Timestamp {
        match self.pace {
            Pace::Free => Timestamp::ZERO,
            Pace::Paused => Timestamp::MAX,
            Pace::PerMinute(_) => Timestamp::from_millis(self.next.div_ceil(1000)),
        }
    }

    pub(crate) fn may_start(&self, now: Timestamp) -> bool {
        self.pace != Pace::Paused && self.ready_at() <= now
    }

    /// A request starts.
    pub(crate) fn started(&mut self, now: Timestamp) {
        if let Pace::PerMinute(rate) = self.pace {
            let now = micros(now);
            let due = if now <= self.next.saturating_add(LATENESS) { self.next } else { now };
            self.next = due.saturating_add(space(rate));
        }
    }
}

fn micros(time: Timestamp) -> u64 {
    time.as_millis().saturating_mul(1000)
}

fn space(rate: NonZeroU32) -> u64 {
    (MINUTE + LATENESS).div_ceil(u64::from(rate.get()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_000_000);

    #[test]
    fn an_allowed_rate_is_a_star_or_a_number_of_requests_a_minute() {
        let check =
            |text: &str, pace: Option<Pace>| assert_eq!(Pace::parse(text.as_bytes()), pace, "{text:?}");
        check("*", Some(Pace::Free));
        check(" * ", Some(Pace::Free));
        check("120", Some(Pace::per_minute(120)));
        check(" 1\t", Some(Pace::per_minute(1)));
        check("0", Some(Pace::Paused));
        check("000", Some(Pace::Paused));
        check("99999999999999999999", Some(Pace::per_minute(u32::MAX)));
        for nothing in ["", " ", "-1", "+1", "1.5", "60/min", "**", "1 2", "0x10"] {
            check(nothing, None);
        }
    }

    #[test]
    fn the_stricter_of_two_paces_holds() {
        let (slow, fast) = (Pace::per_minute(1), Pace::per_minute(60));
        for (one, other, both) in [
            (Pace::Free, Pace::Free, Pace::Free),
            (Pace::Free, slow, slow),
            (fast, slow, slow),
            (Pace::Paused, fast, Pace::Paused),
            (Pace::Free, Pace::Paused, Pace::Paused),
        ] {
            assert_eq!(one.and(other), both);
            assert_eq!(other.and(one), both);
        }
    }

    #[test]
    fn the_stricter_pace_is_the_one_that_is_named() {
        use PaceSource::{Consent, Endpoint, Operator};
        let (slow, fast) = (Pace::per_minute(1), Pace::per_minute(60));
        for (operator, endpoint, expected) in [
            (Pacing::by(Pace::Free, Operator), Pacing::FREE, Pacing::by(Pace::Free, Operator)),
            (Pacing::by(slow, Operator), Pacing::by(fast, Endpoint), Pacing::by(slow, Operator)),
            (Pacing::by(fast, Operator), Pacing::by(slow, Endpoint), Pacing::by(slow, Endpoint)),
            (
                Pacing::by(fast, Operator),
                Pacing::by(Pace::Paused, Consent),
                Pacing::by(Pace::Paused, Consent),
            ),
            // Whoever resumes it is told next that the consent is missing.
            (
                Pacing::by(Pace::Paused, Operator),
                Pacing::by(Pace::Paused, Consent),
                Pacing::by(Pace::Paused, Operator),
            ),
        ] {
            assert_eq!(operator.and(endpoint), expected);
        }
    }

    /// Starts requests whenever it is allowed and says when, over ten minutes; whoever waits for a moment is woken
    /// up to `late` after it.
    fn starts(rate: u32, late: impl Fn(usize) -> u64) -> Vec<Timestamp> {
        let mut pacer = Pacer::new(Pace::per_minute(rate));
        let (mut now, mut starts) = (START, Vec::new());
        while now < START + Duration::from_secs(600) {
            if pacer.may_start(now) {
                pacer.started(now);
                starts.push(now);
            } else {
                now = pacer.ready_at() + Duration::from_millis(late(starts.len()));
            }
        }
        starts
    }

    #[test]
    fn no_minute_holds_a_request_too_many_and_hardly_one_too_few() {
        for rate in [1, 7, 60, 600, 45_000, 90_000] {
            for late in [0, 1, 17, 49] {
                let starts = starts(rate, |number| if number % 3 == 0 { late } else { 0 });
                // The request that comes as many later is at least a minute later.
                for (start, next) in starts.iter().zip(&starts[rate as usize..]) {
                    assert!(
                        *start + Duration::from_secs(60) <= *next,
                        "{rate} a minute, {late} ms late: {start}"
                    );
                }
                let wanted = 10 * rate as usize;
                let enough = wanted - wanted / 100 - 1;
                assert!(enough <= starts.len(), "{rate} a minute, {late} ms late: {}", starts.len());
            }
        }
    }

    #[test]
    fn a_break_earns_nothing_and_a_faster_pace_is_not_kept_waiting() {
        let mut pacer = Pacer::new(Pace::per_minute(1));
        pacer.started(START);
        assert!(!pacer.may_start(START + Duration::from_secs(60)));
        let later = START + Duration::from_secs(3600);
        assert!(pacer.may_start(later));
        pacer.started(later);
        assert!(!pacer.may_start(later));

        pacer.change(Pace::per_minute(600), later);
        assert_eq!(pacer.ready_at(), later + Duration::from_millis(101));
        pacer.change(Pace::Paused, later);
        assert_eq!(pacer.ready_at(), Timestamp::MAX);
        assert!(!pacer.may_start(Timestamp::MAX));
        pacer.change(Pace::Free, later);
        assert!(pacer.may_start(later));
    }
}
