//! Everything that can happen to a shard.

use std::ops::Range;
use std::time::Duration;

use super::decision::Held;
use crate::ids::{Offset, Slot, SubscriptionNumber, TopicNumber};
use crate::lock_token::LockToken;
use crate::retry::Outcome;
use crate::routing::QueuePolicy;
use crate::time::Timestamp;

/// Names a request that waits for its answer; ascending in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyId(pub u64);

/// An event's place in the log, with what a queue needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub offset: Offset,
    pub time: Timestamp,
    pub size: u32,
}

impl Position {
    pub(super) fn held(self, attempts: u32) -> Held {
        Held { offset: self.offset, time: self.time, size: self.size, attempts }
    }
}

/// A subscription that this shard shall serve.
#[derive(Clone, Debug)]
pub struct SubscribeInput {
    pub number: SubscriptionNumber,
    pub slot: Slot,
    pub topic: TopicNumber,
    pub policy: QueuePolicy,
    /// The end of the topic's log now. Where a new subscription starts.
    pub end: Offset,
    /// The oldest retained offset: a recorded floor below it is raised.
    pub start: Offset,
    /// It was there before this process. When its state is lost it starts with the oldest event: its slot was
    /// in no match set before it existed, so it gets what it had not settled, and some of it again.
    pub existed: bool,
}

/// What a receiver wants done with the events it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleVerb {
    Acknowledge,
    Release { delay: Duration },
    Reject,
    RenewLock,
}

/// Everything that can happen to a shard, besides frames and recovery.
#[derive(Debug)]
pub enum Input<'a> {
    /// Create the subscription, or change its policy.
    Subscribe(SubscribeInput),
    Unsubscribe {
        subscription: SubscriptionNumber,
    },
    Receive {
        subscription: SubscriptionNumber,
        reply: ReplyId,
        max: u32,
        deadline: Timestamp,
    },
    /// The client hung up.
    CancelReceive {
        subscription: SubscriptionNumber,
        reply: ReplyId,
    },
    Settle {
        subscription: SubscriptionNumber,
        reply: ReplyId,
        verb: SettleVerb,
        tokens: &'a [LockToken],
    },
    /// A push attempt ended. `jitter` is in `0.0..1.0`.
    Attempted {
        subscription: SubscriptionNumber,
        offset: Offset,
        id: u64,
        outcome: Outcome,
        jitter: f64,
    },
    /// The event's bytes are gone for good. `id` is that of the attempt, or the nonce of the lease, for which
    /// they were wanted; `None` for a dead letter.
    Unreadable {
        subscription: SubscriptionNumber,
        offset: Offset,
        id: Option<u64>,
    },
    /// The event's bytes could not be read just now; they may be there. `id` as for [`Input::Unreadable`].
    Unread {
        subscription: SubscriptionNumber,
        offset: Offset,
        id: Option<u64>,
    },
    /// The event was not sent: its request had no room for it, or was recalled because the subscription was paused.
    /// `id` is that of the attempt.
    NotSent {
        subscription: SubscriptionNumber,
        offset: Offset,
        id: u64,
    },
    DeadLetterWritten {
        subscription: SubscriptionNumber,
        offset: Offset,
    },
    DeadLetterFailed {
        subscription: SubscriptionNumber,
        offset: Offset,
    },
    /// The answer to [`super::Effect::Scan`]. `lost` are damaged events between `from` and `next`, ascending, of
    /// which nobody knows any more whom they matched.
    Scanned {
        subscription: SubscriptionNumber,
        from: Offset,
        matches: &'a [Position],
        lost: &'a [Range<u64>],
        next: u64,
    },
    ScanFailed {
        subscription: SubscriptionNumber,
    },
    /// The answer to [`super::Effect::Count`]: all that matched from `from` up to `next`. `start` is the oldest offset
    /// that the log has still.
    Counted {
        subscription: SubscriptionNumber,
        from: Offset,
        matches: &'a [Position],
        next: u64,
        start: Offset,
    },
    CountFailed {
        subscription: SubscriptionNumber,
    },
    /// Time has passed.
    Tick,
}
