//! The counters themselves. Whoever counts holds the `Arc` of a topic or subscription, found by number once
//! for each request or attempt, so that an event costs additions only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use gridwire_core::api_error::ErrorCode;
use gridwire_core::filter::MatchSet;
use gridwire_core::ids::Slot;
use gridwire_core::retry::Outcome;
use gridwire_core::shard::{DeadLetterReason, Settlement, TokenError};

use super::slots::Slots;
use crate::unmatched::Unmatched;

/// Upper bounds of the latency histograms, in seconds.
pub(super) const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0];

/// A latency histogram with fixed buckets.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    pub(super) counts: [AtomicU64; BUCKETS.len() + 1],
    pub(super) sum_micros: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe(&self, value: Duration) {
        let seconds = value.as_secs_f64();
        let bucket = BUCKETS.partition_point(|bound| *bound < seconds);
        add(&self.counts[bucket], 1);
        add(&self.sum_micros, u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
    }
}

pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// One counter for each value of a label with a closed set of values.
#[derive(Debug)]
pub(crate) struct ByLabel<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for ByLabel<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> ByLabel<N> {
    pub(super) fn add(&self, index: usize, count: u64) {
        add(&self.0[index], count);
    }

    /// What was counted at all, with the label's value.
    pub(super) fn counted<'a>(
        &'a self,
        values: &'a [&'a str; N],
    ) -> impl Iterator<Item = (&'a str, u64)> + 'a {
        let counts = self.0.iter().map(|counter| counter.load(Ordering::Relaxed));
        values.iter().copied().zip(counts).filter(|(_, count)| *count > 0)
    }
}

/// A refused request, by its code.
pub(super) const ERRORS: usize = ErrorCode::ALL.len();
/// A refused pull request: the client's fault, or ours.
pub(super) const FAULTS: [&str; 2] = ["client", "service"];
/// How a push attempt failed ([`Outcome::as_str`]).
pub(super) const OUTCOMES: [&str; 10] = [
    "NotFound",
    "Unauthorized",
    "Forbidden",
    "BadRequest",
    "PayloadTooLarge",
    "TimedOut",
    "Busy",
    "GenericError",
    "SocketError",
    "ResolutionError",
];
/// Why an event was given up.
pub(super) const REASONS: [&str; 4] = ["max_delivery_attempts", "time_to_live", "rejected", "undeliverable"];
/// Why an event ended without a dead letter.
pub(super) const DROPS: [&str; 6] =
    ["max_delivery_attempts", "time_to_live", "rejected", "undeliverable", "dead_letter_failed", "damaged"];
/// What a receiver asks for.
pub(super) const OPERATIONS: [&str; 5] = ["receive", "acknowledge", "release", "reject", "renew_lock"];
/// Why a lock token did not do what was asked.
pub(super) const TOKEN_ERRORS: [&str; 3] = ["bad_token", "token_lost", "renewed_too_long"];

fn reason_index(reason: DeadLetterReason) -> usize {
    match reason {
        DeadLetterReason::MaxDeliveryAttempts => 0,
        DeadLetterReason::TimeToLive => 1,
        DeadLetterReason::Rejected => 2,
        DeadLetterReason::Undeliverable => 3,
    }
}

/// A request of pull delivery; the order is that of [`OPERATIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullOperation {
    Receive,
    Acknowledge,
    Release,
    Reject,
    RenewLock,
}

/// Counters of one topic.
#[derive(Debug, Default)]
pub(crate) struct TopicCounters {
    /// Events that were taken and that no subscription matched, ever.
    pub(crate) unmatched: Unmatched,
    /// Publish requests refused, by error.
    pub(super) refused: ByLabel<ERRORS>,
    /// The subscriptions by slot, for counting matches. Replaced as a whole when they change.
    pub(super) slots: ArcSwap<Slots>,
}

/// How many events of one request each slot matched: counted apart, for a request may still be refused.
#[derive(Debug)]
pub(crate) struct Tally {
    slots: Arc<Slots>,
    /// Only what was matched: a domain has many slots, of which a request meets few.
    counts: BTreeMap<Slot, u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, matched: &MatchSet) {
        for slot in matched.iter() {
            *self.counts.entry(slot).or_default() += 1;
        }
    }

    /// The request was accepted.
    pub(crate) fn count(self) {
        for (slot, count) in self.counts {
            // A slot that is not there belongs to a table newer than ours, for a moment.
            if let Some(subscription) = self.slots.get(slot) {
                add(&subscription.matched, count);
            }
        }
    }
}

impl TopicCounters {
    /// Of a topic of which `unmatched` is known already.
    pub(super) fn after(unmatched: Unmatched) -> Self {
        Self { unmatched, ..Self::default() }
    }

    pub(crate) fn tally(&self) -> Tally {
        Tally { slots: self.slots.load_full(), counts: BTreeMap::new() }
    }

    pub(crate) fn refuse(&self, error: ErrorCode) {
        self.refused.add(error as usize, 1);
    }
}

/// Counters of one event subscription since the process started.
#[derive(Debug, Default)]
pub(crate) struct SubscriptionCounters {
    pub(super) matched: AtomicU64,
    pub(super) attempts_delivered: AtomicU64,
    pub(super) attempts_failed: ByLabel<{ OUTCOMES.len() }>,
    pub(super) requests: AtomicU64,
    pub(super) received: AtomicU64,
    /// Indexed as [`OPERATIONS`]; receive has none.
    pub(super) settled: ByLabel<{ OPERATIONS.len() }>,
    pub(super) tokens_failed: [ByLabel<{ TOKEN_ERRORS.len() }>; OPERATIONS.len()],
    pub(super) requests_failed: [ByLabel<{ FAULTS.len() }>; OPERATIONS.len()],
    pub(super) letters: ByLabel<{ REASONS.len() }>,
    pub(super) letters_failed: AtomicU64,
    pub(super) drops: ByLabel<{ DROPS.len() }>,
}

impl SubscriptionCounters {
    /// Counts a request that carried so many events.
    pub(crate) fn attempted(&self, outcome: Outcome, events: u64) {
        add(&self.requests, 1);
        let name = outcome.as_str();
        match OUTCOMES.iter().position(|known| *known == name) {
            Some(index) => self.attempts_failed.add(index, events),
            None => add(&self.attempts_delivered, events),
        }
    }

    pub(crate) fn received(&self, events: u64) {
        add(&self.received, events);
    }

    pub(crate) fn settled(&self, operation: PullOperation, tokens: u64) {
        self.settled.add(operation as usize, tokens);
    }

    /// `None` is a token that is not one of this subscription.
    pub(crate) fn token_failed(&self, operation: PullOperation, error: Option<TokenError>) {
        let index = match error {
            None => 0,
            Some(TokenError::Lost) => 1,
            Some(TokenError::RenewedTooLong) => 2,
        };
        self.tokens_failed[operation as usize].add(index, 1);
    }

    pub(crate) fn request_failed(&self, operation: PullOperation, status: u16) {
        self.requests_failed[operation as usize].add(usize::from(status >= 500), 1);
    }

    pub(crate) fn letter(&self, reason: DeadLetterReason, written: bool) {
        if written {
            self.letters.add(reason_index(reason), 1);
        } else {
            add(&self.letters_failed, 1);
        }
    }

    /// Counts events that ended without having been delivered or written down.
    pub(crate) fn ended(&self, how: Settlement, events: u64) {
        let index = match how {
            Settlement::Delivered | Settlement::DeadLettered => return,
            Settlement::Dropped(reason) => reason_index(reason),
            Settlement::DeadLetterFailed => 4,
            Settlement::Damaged => 5,
        };
        self.drops.add(index, events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_and_outcome_has_its_own_counter() {
        for (index, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(*code as usize, index, "{}", code.as_str());
        }
        let failures = [
            Outcome::TimedOut,
            Outcome::Unreachable,
            Outcome::TlsFailed,
            Outcome::Unresolved,
            Outcome::Forbidden,
            Outcome::NoToken,
        ];
        let answers = [400, 401, 403, 404, 408, 413, 429, 500, 503, 302]
            .map(|status| Outcome::Answered { status, retry_after: None });
        for outcome in failures.into_iter().chain(answers) {
            let counters = SubscriptionCounters::default();
            counters.attempted(outcome, 3);
            let counted: Vec<_> = counters.attempts_failed.counted(&OUTCOMES).collect();
            assert_eq!(counted, [(outcome.as_str(), 3)]);
            assert_eq!(counters.attempts_delivered.load(Ordering::Relaxed), 0);
        }
        let counters = SubscriptionCounters::default();
        counters.attempted(Outcome::Accepted, 1);
        counters.attempted(Outcome::Accepted, 5);
        assert_eq!(counters.attempts_delivered.load(Ordering::Relaxed), 6);
        assert_eq!(counters.requests.load(Ordering::Relaxed), 2);
    }
}
