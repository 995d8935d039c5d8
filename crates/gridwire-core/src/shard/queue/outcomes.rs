//! What the driver reports of what it was told to do: attempts, reads, dead letters.

use std::time::Duration;

use super::Queue;
use crate::ids::Offset;
use crate::patience::{AfterFailure, DeadLetterPolicy};
use crate::planted::planted;
use crate::retry::{Outcome, Verdict};
use crate::routing::DeliveryMode;
use crate::shard::Output;
use crate::shard::decision::{DeadLetterReason, Held, LastAttempt, Return, Settlement};
use crate::time::Timestamp;

/// How long an event whose bytes could not be read waits before it is tried again.
const READ_RETRY: Duration = Duration::from_secs(10);

/// How a push attempt ended; `id` is the one it was started with, `jitter` is in `0.0..1.0`.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct FinishedAttempt {
    pub(in crate::shard) offset: Offset,
    pub(in crate::shard) id: u64,
    pub(in crate::shard) outcome: Outcome,
    pub(in crate::shard) jitter: f64,
}

impl Queue {
    pub(in crate::shard) fn attempted(
        &mut self,
        attempt: FinishedAttempt,
        tail: u64,
        now: Timestamp,
        out: &mut Output,
    ) {
        let FinishedAttempt { offset, id, outcome, jitter } = attempt;
        // Otherwise it is from before a reset.
        let Some((held, ends_request)) = self.in_flight.end(offset.0, id) else { return };
        if ends_request {
            self.endpoint.ended(id, self.in_flight.last_id(), outcome, now);
        }
        let last = LastAttempt::ended(outcome, now);
        let verdict = match self.policy.mode {
            DeliveryMode::Push { retry, .. } => retry.after(outcome, held.attempts, jitter),
            // The subscription became a pull subscription while the attempt was in flight.
            DeliveryMode::Pull { .. } if outcome == Outcome::Accepted => Verdict::Delivered,
            DeliveryMode::Pull { .. } => Verdict::RetryAfter(Duration::ZERO),
        };
        match verdict {
            Verdict::RetryAfter(_) if planted("failure-counts-as-delivered") && held.attempts > 2 => {
                self.settled_one(Settlement::Delivered, offset, tail, out);
            }
            Verdict::Delivered => self.settled_one(Settlement::Delivered, offset, tail, out),
            Verdict::Undeliverable => {
                self.give_up(held, DeadLetterReason::Undeliverable, last, tail, now, out);
            }
            Verdict::RetryAfter(_) if held.attempts >= self.policy.attempts_max => {
                self.give_up(held, DeadLetterReason::MaxDeliveryAttempts, last, tail, now, out);
            }
            Verdict::RetryAfter(wait) => {
                let due = crate::retry::next_look(now, wait, self.end_of(&held));
                self.give_back(held, due, Return::Failed, last, out);
            }
        }
    }

    /// The event's bytes are not to be had: it can't be delivered any more. Ignored when whoever wanted them
    /// no longer holds the event.
    pub(in crate::shard) fn unreadable(
        &mut self,
        offset: Offset,
        id: Option<u64>,
        tail: u64,
        out: &mut Output,
    ) {
        let held = match id {
            None => self.letters.finish(offset.0).is_some(),
            Some(id) => {
                let leased = self.state.leases.get(&offset.0).is_some_and(|lease| lease.nonce == id);
                self.in_flight.end(offset.0, id).is_some() || leased
            }
        };
        if held {
            self.settled_one(Settlement::Damaged, offset, tail, out);
        }
    }

    /// The event's bytes could not be read just now. That is no delivery and nobody's failure: it is tried
    /// again and counts for nothing, however often it happens.
    pub(in crate::shard) fn unread(
        &mut self,
        offset: Offset,
        id: Option<u64>,
        now: Timestamp,
        out: &mut Output,
    ) {
        let Some(id) = id else {
            if let Some(failures) = self.letters.finish(offset.0) {
                self.letters.push(now + READ_RETRY, offset.0, failures);
            }
            return;
        };
        let in_flight = self.in_flight.end(offset.0, id).map(|(held, _)| held);
        let leased = self.state.leases.get(&offset.0).filter(|lease| lease.nonce == id).copied();
        let Some(held) = in_flight.or(leased.map(|lease| lease.held)) else { return };
        let due = crate::retry::next_look(now, READ_RETRY, self.end_of(&held));
        let held = Held { attempts: held.attempts.saturating_sub(1), ..held };
        let last = match leased {
            // A lease does not remember the delivery before it; this is when the next was tried.
            Some(lease) if held.attempts > 0 => lease.attempt(),
            _ => self.last_attempt(offset.0),
        };
        self.give_back(held, due, Return::Released, last, out);
    }

    /// The event had no place in the request that it was meant for, or that request was recalled: it is the next
    /// one's, and counts for nothing.
    pub(in crate::shard) fn not_sent(&mut self, offset: Offset, id: u64, now: Timestamp, out: &mut Output) {
        let Some((held, _)) = self.in_flight.end(offset.0, id) else { return };
        let held = Held { attempts: held.attempts.saturating_sub(1), ..held };
        let last = self.last_attempt(offset.0);
        self.give_back(held, now, Return::Released, last, out);
    }

    pub(in crate::shard) fn dead_letter_written(&mut self, offset: Offset, tail: u64, out: &mut Output) {
        if self.letters.finish(offset.0).is_some() {
            self.settled_one(Settlement::DeadLettered, offset, tail, out);
        }
    }

    pub(in crate::shard) fn dead_letter_failed(
        &mut self,
        offset: Offset,
        tail: u64,
        now: Timestamp,
        out: &mut Output,
    ) {
        let Some(failures) = self.letters.finish(offset.0) else { return };
        let Some(trouble) = self.state.trouble.get(&offset.0) else { return };
        let since = trouble.condemned.map_or(now, |(since, _)| since);
        // A destination that was taken away since counts as down.
        let policy =
            self.policy.dead_letter.unwrap_or_else(|| DeadLetterPolicy::documented(self.policy.tier()));
        match policy.after_failure(failures + 1, since, self.expiry_from, now) {
            AfterFailure::TryAt(due) => self.letters.push(due, offset.0, failures + 1),
            AfterFailure::Drop => self.settled_one(Settlement::DeadLetterFailed, offset, tail, out),
        }
    }
}
