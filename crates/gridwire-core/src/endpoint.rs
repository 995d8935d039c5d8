//! One subscription's endpoint, as its requests show it: how many it takes at once, and when to leave it alone.
//!
//! Two rules that it makes by itself, and one that it is given, each readable in [`EndpointStatus`]:
//!
//! * **Probation** (`push-delivery` contract, section 6). After [`FAILURES_MAX`] failures in a row nothing is sent
//!   before a time that follows from the last one's outcome; neither retries nor new events. Then everything that is
//!   due goes out. The first success ends it; another failure renews it. Outcomes that the documented table does not
//!   name, such as a 500, count and bring no such time: their events follow the ladder alone.
//! * **Congestion.** Timeouts and answers that say "too much" halve the number of requests at once; each round of
//!   successes adds one.
//! * **Pace** ([`Pacing`]). What the endpoint allowed or the operator decided: so many requests a minute, or none.
//!
//! Pure and in memory: requests and time come in. A restart begins with a good opinion, and so does a change of the
//! subscription, by which an owner can say that the endpoint is mended.

use std::time::Duration;

use crate::pace::{Pace, PaceSource, Pacing};
use crate::retry::Outcome;
use crate::time::Timestamp;

/// Failures in a row after which an endpoint is left alone (documented, as an example).
pub const FAILURES_MAX: u32 = 10;
const SHORT: Duration = Duration::from_secs(10);
const SOCKET: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(300);

/// What is believed of an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointHealth {
    failures: u32,
    rest: Option<Rest>,
    /// Requests at once.
    limit: u32,
    /// No more than this at any time.
    limit_max: u32,
    /// Successes since the limit was last changed.
    successes: u32,
    /// Requests up to this one were in flight when the limit was last cut: what they meet is known.
    cut_at: u64,
}

/// A time in which nothing is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    pub until: Timestamp,
    /// The last failure, in the words of [`Outcome::as_str`].
    pub outcome: &'static str,
}

/// How an endpoint is treated, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointStatus {
    pub rule: Rule,
    pub failures_in_a_row: u32,
    pub requests_in_flight: u32,
    /// Requests at once.
    pub requests_max: u32,
    /// Requests a minute, whether or not that is the rule that holds back most.
    pub pacing: Pacing,
}

/// What holds requests back, that which does so most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Free,
    /// No request at all.
    Paused(PaceSource),
    Probation(Rest),
    Congestion,
    /// So many requests a minute.
    Paced(PaceSource),
}

impl Rule {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Paused(_) => "paused",
            Self::Probation(_) => "probation",
            Self::Congestion => "congestion",
            Self::Paced(_) => "paced",
        }
    }

    /// What it means, in a sentence for whoever asks why events wait.
    pub fn detail(self) -> &'static str {
        match self {
            Self::Free => "Nothing holds deliveries back.",
            Self::Paused(PaceSource::Operator) => {
                "The operator paused it: no attempt starts before it is resumed. Events wait, and their time to live goes on."
            }
            Self::Paused(PaceSource::Consent) => {
                "The endpoint has not consented: nothing is sent to it before it does. Events wait, and their time to live goes on."
            }
            Self::Paused(PaceSource::Endpoint) => {
                "The endpoint allows a rate of 0: nothing is sent to it. Events wait, and their time to live goes on."
            }
            Self::Probation(_) => "The endpoint failed ten times in a row: nothing is sent to it until then.",
            Self::Congestion => {
                "The endpoint timed out or answered 408, 429 or 503: fewer requests at once until it copes."
            }
            Self::Paced(PaceSource::Operator) => "The operator's cap: requests are spaced to keep to it.",
            Self::Paced(PaceSource::Endpoint | PaceSource::Consent) => {
                "The rate that the endpoint allowed when it consented: requests are spaced to keep to it."
            }
        }
    }
}

impl EndpointStatus {
    /// The same, of an endpoint that is posted to at this pace. A pause outdoes everything; a rate is named where
    /// no request waits for something else.
    #[must_use]
    pub fn under(self, pacing: Pacing) -> Self {
        let is_full = self.requests_max <= self.requests_in_flight;
        let rule = match (pacing.pace, self.rule) {
            (Pace::Paused, _) => Rule::Paused(pacing.source),
            (Pace::PerMinute(_), Rule::Free) => Rule::Paced(pacing.source),
            (Pace::PerMinute(_), Rule::Congestion) if !is_full => Rule::Paced(pacing.source),
            (_, rule) => rule,
        };
        Self { rule, pacing, ..self }
    }
}

/// What the end of a request tells of its endpoint.
enum Lesson {
    Well,
    /// It answered, and what it said is of the events; or it was not asked.
    Nothing,
    Failing {
        /// How long it is left alone when this is not the first failure. No table says it for every outcome.
        rest: Option<Duration>,
        congested: bool,
    },
}

fn lesson(outcome: Outcome) -> Lesson {
    let failing = |rest| Lesson::Failing { rest: Some(rest), congested: false };
    match outcome {
        Outcome::Accepted => Lesson::Well,
        Outcome::Answered { status, .. } => match status {
            400 | 413 | 414 => Lesson::Nothing,
            401 | 403 | 404 => failing(LONG),
            408 | 429 | 503 => Lesson::Failing { rest: Some(SHORT), congested: true },
            _ => Lesson::Failing { rest: None, congested: false },
        },
        Outcome::TimedOut => Lesson::Failing { rest: Some(SHORT), congested: true },
        Outcome::Unreachable | Outcome::TlsFailed => failing(SOCKET),
        Outcome::Unresolved | Outcome::Forbidden => failing(LONG),
        Outcome::NoToken => Lesson::Nothing,
    }
}

impl EndpointHealth {
    pub fn new(limit_max: u32) -> Self {
        Self { failures: 0, rest: None, limit: limit_max, limit_max, successes: 0, cut_at: 0 }
    }

    /// A request ended. Requests are numbered as they start; `last_started` is the newest.
    pub fn ended(&mut self, request: u64, last_started: u64, outcome: Outcome, now: Timestamp) {
        match lesson(outcome) {
            Lesson::Nothing => {}
            Lesson::Well => {
                self.failures = 0;
                self.rest = None;
                self.successes += 1;
                if self.successes >= self.limit {
                    self.successes = 0;
                    self.limit = (self.limit + 1).min(self.limit_max);
                }
            }
            Lesson::Failing { rest, congested } => {
                self.failures = self.failures.saturating_add(1);
                if congested && self.cut_at < request {
                    self.cut_at = last_started;
                    self.successes = 0;
                    self.limit = (self.limit / 2).max(1);
                }
                if let Some(rest) = rest
                    && FAILURES_MAX <= self.failures
                {
                    // An earlier outcome may have asked for a longer rest.
                    let until = self.rest.map_or(now, |rest| rest.until).max(now + rest);
                    self.rest = Some(Rest { until, outcome: outcome.as_str() });
                }
            }
        }
    }

    /// Ends a rest whose time is over.
    pub fn wake(&mut self, now: Timestamp) {
        self.rest = self.rest.filter(|rest| now < rest.until);
    }

    /// The rest that is on, or whose end has not been noticed.
    pub fn rest(&self) -> Option<Rest> {
        self.rest
    }

    /// Whether one more request may start beside `in_flight` others.
    pub fn has_room(&self, in_flight: usize) -> bool {
        self.rest.is_none() && in_flight < self.limit as usize
    }

    pub fn status(&self, in_flight: usize) -> EndpointStatus {
        let rule = match self.rest {
            Some(rest) => Rule::Probation(rest),
            None if self.limit < self.limit_max => Rule::Congestion,
            None => Rule::Free,
        };
        EndpointStatus {
            rule,
            failures_in_a_row: self.failures,
            requests_in_flight: u32::try_from(in_flight).unwrap_or(u32::MAX),
            requests_max: self.limit,
            pacing: Pacing::FREE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u32 = 64;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + 1_000 * seconds)
    }

    fn answered(status: u16) -> Outcome {
        Outcome::Answered { status, retry_after: None }
    }

    /// An endpoint that has failed so often, at time 0.
    fn failed(count: u32, outcome: Outcome) -> EndpointHealth {
        let mut health = EndpointHealth::new(MAX);
        for _ in 0..count {
            health.ended(1, 1, outcome, at(0));
        }
        health
    }

    #[test]
    fn ten_failures_in_a_row_bring_probation_as_long_as_documented() {
        for (outcome, seconds, word) in [
            (answered(503), 10, "Busy"),
            (answered(429), 10, "Busy"),
            (answered(408), 10, "TimedOut"),
            (Outcome::TimedOut, 10, "TimedOut"),
            (Outcome::Unreachable, 30, "SocketError"),
            (Outcome::TlsFailed, 30, "SocketError"),
            (answered(404), 300, "NotFound"),
            (answered(401), 300, "Unauthorized"),
            (answered(403), 300, "Forbidden"),
            (Outcome::Unresolved, 300, "ResolutionError"),
        ] {
            assert_eq!(failed(9, outcome).rest(), None, "{outcome:?}");
            let mut health = failed(10, outcome);
            let rest = Rest { until: at(seconds), outcome: word };
            assert_eq!(health.rest(), Some(rest));
            assert_eq!(health.status(0).rule, Rule::Probation(rest));
            assert!(!health.has_room(0));
            health.wake(at(seconds - 1));
            assert!(!health.has_room(0));
            health.wake(at(seconds));
            assert!(health.has_room(0), "{outcome:?}");
            health.ended(2, 2, outcome, at(seconds));
            assert_eq!(health.rest(), Some(Rest { until: at(2 * seconds), ..rest }), "one more renews it");
            health.ended(3, 3, Outcome::Accepted, at(seconds));
            assert_eq!((health.rest(), health.status(0).failures_in_a_row), (None, 0));
        }
    }

    #[test]
    fn an_outcome_without_a_documented_time_counts_and_brings_none() {
        for status in [500, 502, 302] {
            let mut health = failed(20, answered(status));
            assert_eq!((health.rest(), health.status(0).failures_in_a_row), (None, 20), "{status}");
            health.ended(2, 2, answered(503), at(0));
            assert_eq!(health.rest().map(|rest| rest.until), Some(at(10)));
        }
    }

    #[test]
    fn what_is_said_of_an_event_is_not_held_against_its_endpoint() {
        for status in [400, 413, 414] {
            let health = failed(100, answered(status));
            assert_eq!(health.status(0).rule, Rule::Free, "{status}");
        }
    }

    #[test]
    fn the_longest_rest_that_was_asked_for_holds() {
        let mut health = failed(10, answered(404));
        health.ended(1, 1, Outcome::TimedOut, at(1));
        assert_eq!(health.rest().map(|rest| rest.until), Some(at(300)));
    }

    #[test]
    fn congestion_halves_once_for_what_was_in_flight_together_and_success_adds_one_a_round() {
        let mut health = EndpointHealth::new(MAX);
        for request in 1..=8 {
            health.ended(request, 64, Outcome::TimedOut, at(0));
        }
        assert_eq!(health.status(0).requests_max, 32, "one cut for the requests of one round");
        for limit in [16, 8, 4, 2, 1, 1] {
            health.ended(health.cut_at + 1, health.cut_at + 1, answered(503), at(0));
            assert_eq!(health.status(0).requests_max, limit);
        }
        health.wake(at(100));
        assert_eq!(health.status(1).rule, Rule::Congestion);
        assert!(health.has_room(0) && !health.has_room(1));
        for (successes, limit) in [(1, 2), (1, 2), (1, 3), (3, 4), (10_000, MAX)] {
            for _ in 0..successes {
                health.ended(100, 100, Outcome::Accepted, at(100));
            }
            assert_eq!(health.status(0).requests_max, limit);
        }
        assert_eq!(health.status(0).rule, Rule::Free);
        health.ended(101, 101, answered(500), at(100));
        assert_eq!(health.status(0).requests_max, MAX, "an error is no sign of too much");
    }

    #[test]
    fn the_rule_that_holds_back_most_is_the_one_that_is_shown() {
        let paused = Pacing::by(Pace::Paused, PaceSource::Operator);
        let slow = Pacing::by(Pace::per_minute(6), PaceSource::Endpoint);
        let check = |health: &EndpointHealth, in_flight, pacing, rule| {
            let status = health.status(in_flight).under(pacing);
            assert_eq!((status.rule, status.pacing), (rule, pacing));
        };
        let well = EndpointHealth::new(MAX);
        check(&well, 0, Pacing::FREE, Rule::Free);
        check(&well, 0, slow, Rule::Paced(PaceSource::Endpoint));
        check(&well, 0, paused, Rule::Paused(PaceSource::Operator));
        let congested = failed(1, answered(503));
        check(&congested, 0, Pacing::FREE, Rule::Congestion);
        check(&congested, 0, slow, Rule::Paced(PaceSource::Endpoint));
        check(&congested, MAX as usize / 2, slow, Rule::Congestion);
        let resting = failed(10, answered(404));
        let rest = resting.rest().expect("it failed often enough");
        check(&resting, 0, slow, Rule::Probation(rest));
        check(&resting, 0, paused, Rule::Paused(PaceSource::Operator));
    }
}
