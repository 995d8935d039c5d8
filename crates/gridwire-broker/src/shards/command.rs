//! What is asked of one shard.

use std::collections::HashMap;
use std::sync::Arc;

use gridwire_core::ids::{Offset, SubscriptionNumber, TopicNumber};
use gridwire_core::lock_token::LockToken;
use gridwire_core::routing::SubscriptionRoute;
use gridwire_core::shard::{
    Books, LeasedEvent, QueueOutlook, QueueStatus, ReplyId, SettleVerb, SubscribeInput, TokenError,
};
use gridwire_core::time::Timestamp;
use gridwire_store::SnapshotPart;
use tokio::sync::oneshot;

/// What a receive is told.
pub(crate) enum ReceiveReply {
    Events(Vec<LeasedEvent>),
    NotPull,
    Gone,
    TooManyReceivers,
}

/// What a settle is told.
pub(crate) enum SettleReply {
    Results(Vec<Result<(), TokenError>>),
    NotPull,
    Gone,
}

/// A request to one shard.
pub(crate) enum Command {
    Subscribe {
        input: SubscribeInput,
        route: Arc<SubscriptionRoute>,
        done: oneshot::Sender<()>,
    },
    Unsubscribe {
        subscription: SubscriptionNumber,
        done: oneshot::Sender<()>,
    },
    Receive {
        subscription: SubscriptionNumber,
        id: ReplyId,
        max: u32,
        deadline: Timestamp,
        reply: oneshot::Sender<ReceiveReply>,
    },
    CancelReceive {
        subscription: SubscriptionNumber,
        id: ReplyId,
    },
    Settle {
        subscription: SubscriptionNumber,
        id: ReplyId,
        verb: SettleVerb,
        tokens: Vec<LockToken>,
        reply: oneshot::Sender<SettleReply>,
    },
    /// The bytes of a leased event are gone for good.
    Unreadable {
        subscription: SubscriptionNumber,
        offset: Offset,
        nonce: u64,
    },
    /// The bytes of a leased event could not be read just now.
    Unread {
        subscription: SubscriptionNumber,
        offset: Offset,
        nonce: u64,
    },
    Status {
        reply: oneshot::Sender<Vec<QueueStatus>>,
    },
    /// Of one queue; `None` when there is no such subscription.
    StatusOf {
        subscription: SubscriptionNumber,
        reply: oneshot::Sender<Option<QueueStatus>>,
    },
    Snapshot {
        reply: oneshot::Sender<Vec<SnapshotPart>>,
    },
    /// For an audit; `None` when there is no such subscription.
    Books {
        subscription: SubscriptionNumber,
        reply: oneshot::Sender<Option<Books>>,
    },
    Outlook(OutlookAsked),
}

/// A question for what is left of the events before these ends of topics.
pub(crate) struct OutlookAsked {
    pub(crate) ends: Arc<HashMap<TopicNumber, Offset>>,
    /// Answered only once nothing goes on by itself.
    pub(crate) when_still: bool,
    pub(crate) reply: oneshot::Sender<Vec<QueueOutlook>>,
}
