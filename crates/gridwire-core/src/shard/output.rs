//! What comes of a shard's inputs: decisions to record, and effects to carry out after that.

use super::decision::{DeadLetterReason, Decision, LastAttempt};
use super::input::ReplyId;
use crate::ids::{Offset, Slot, SubscriptionNumber, TopicNumber};

/// One event in an answer to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeasedEvent {
    pub offset: Offset,
    /// 1 on the first delivery.
    pub delivery: u32,
    pub nonce: u64,
}

/// Why one lock token did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Its lock ran out, or its event is settled.
    Lost,
    /// An hour after the first lock it can no longer be renewed.
    RenewedTooLong,
}

/// What a waiting request is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Possibly nothing, when the wait is over.
    Received(Vec<LeasedEvent>),
    /// One result for each token, in order.
    Settled(Vec<Result<(), TokenError>>),
    /// The subscription delivers by push.
    NotPull,
    /// There is no such subscription (any more).
    Gone,
    TooManyReceivers,
}

/// What the driver shall do once the decisions are recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Answer {
        reply: ReplyId,
        answer: Answer,
    },
    /// Post the event; report by [`super::Input::Attempted`]. `attempt` is 1 the first time. Events that follow each other
    /// with the same `id` share a request.
    Attempt {
        subscription: SubscriptionNumber,
        topic: TopicNumber,
        offset: Offset,
        attempt: u32,
        id: u64,
    },
    /// Write the event's dead letter; report by [`super::Input::DeadLetterWritten`].
    DeadLetter {
        subscription: SubscriptionNumber,
        topic: TopicNumber,
        offset: Offset,
        attempts: u32,
        reason: DeadLetterReason,
        last: LastAttempt,
    },
    /// Find the next matches; report by [`super::Input::Scanned`].
    Scan {
        subscription: SubscriptionNumber,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
        max: usize,
    },
    /// Find the next matches only to count them, when there is time; report by [`super::Input::Counted`].
    Count {
        subscription: SubscriptionNumber,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
    },
}

/// What came of the inputs handled since it was last empty.
#[derive(Debug, Default)]
pub struct Output {
    /// To be recorded first, as one group.
    pub decisions: Vec<Decision>,
    /// To be carried out after that, in order.
    pub effects: Vec<Effect>,
}

impl Output {
    pub fn is_empty(&self) -> bool {
        self.decisions.is_empty() && self.effects.is_empty()
    }

    /// Appends a decision; settlements of one subscription that follow each other become one record.
    pub(super) fn record(&mut self, decision: Decision) {
        if let Decision::Settled { subscription, how, offsets, .. } = &decision
            && let Some(Decision::Settled { subscription: last, how: same, offsets: list, .. }) =
                self.decisions.last_mut()
            && last == subscription
            && same == how
        {
            // The earlier, lower floor stays: it still holds.
            list.extend_from_slice(offsets);
            return;
        }
        self.decisions.push(decision);
    }
}
