//! The log, as the broker sees it.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use gridwire_core::frame::{FrameDraft, FrameView};
use gridwire_core::ids::{Lsn, Offset, ShardId, Slot, StateSeq, SubscriptionNumber, TopicNumber};
use gridwire_core::routing::BoxFuture;
use gridwire_core::time::Timestamp;

/// Where a frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub lsn: Lsn,
    /// Offset of the frame's first event.
    pub first: Offset,
    /// The publish time it was given.
    pub time: Timestamp,
}

/// Why something was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The bounded queue to the writer is full: refuse the request, to be tried again soon.
    #[error("the log's queue is full")]
    Overloaded,
    /// No space; nothing was written. Ends by itself when space returns.
    #[error("the log has no space left")]
    StorageFull,
    /// The store has failed and stays failed; whether the append happened is unknown. The process must end.
    #[error("the log has failed")]
    Failed,
    /// Another owner has claimed the shard (clusters only).
    #[error("the shard has another owner")]
    Fenced,
    /// The frame is larger than a log frame may be.
    #[error("the frame is larger than {max} bytes")]
    TooLarge { max: usize },
}

/// Why something was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Damaged bytes: said with the place, never served.
    #[error("the log is damaged: {what}")]
    Damaged { what: String },
    /// Below the oldest retained event.
    #[error("the position is no longer retained")]
    Trimmed,
    #[error("failed to read the log: {0}")]
    Io(String),
}

/// A durable frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub lsn: Lsn,
    pub topic: TopicNumber,
    pub first: Offset,
    pub count: u32,
    pub time: Timestamp,
    pub body: Bytes,
}

impl Frame {
    /// The offset after its last event.
    pub fn end(&self) -> u64 {
        self.first.0 + u64::from(self.count)
    }

    pub fn view(&self) -> FrameView<'_> {
        FrameView {
            lsn: self.lsn,
            topic: self.topic,
            first: self.first,
            count: self.count,
            time: self.time,
            body: &self.body,
        }
    }
}

/// A position that a subscription matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    pub offset: Offset,
    pub time: Timestamp,
    /// Bytes of the event's encoding.
    pub size: u32,
}

/// An answer to [`Log::scan`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matches {
    /// Ascending.
    pub matches: Vec<Matched>,
    /// Offsets between `from` and `next` whose frames are damaged, ascending. Whom they matched is not known
    /// any more: they are in no `matches`, and [`Log::fetch`] leaves them out.
    pub lost: Vec<Range<u64>>,
    /// Everything below is covered by `matches` and `lost`: scan on from here.
    pub next: u64,
}

/// One event's stored bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub offset: Offset,
    pub time: Timestamp,
    /// For `Event::decode`; a slice of the frame it was stored in.
    pub event: Bytes,
}

/// What recovery found in the state log, one piece at a time, in order.
#[derive(Clone, Copy, Debug)]
pub enum Recovered<'a> {
    /// One subscription's state from the newest snapshot. Groups up to and including `at` are in it.
    Part { subscription: SubscriptionNumber, at: StateSeq, state: &'a [u8] },
    /// A group of decisions since.
    Group { seq: StateSeq, time: Timestamp, decisions: &'a [u8] },
}

/// One subscription's entry of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPart {
    pub subscription: SubscriptionNumber,
    /// The last group that the entry includes.
    pub at: StateSeq,
    pub state: Vec<u8>,
}

/// What a segment holds of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSpan {
    pub topic: TopicNumber,
    pub first: Offset,
    pub last: Offset,
    pub newest: Timestamp,
    pub bytes: u64,
}

/// A sealed segment: the unit in which space comes back, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    pub number: u64,
    /// [`Log::trim`] below this position lets the segment go.
    pub end: Lsn,
    pub topics: Vec<TopicSpan>,
}

/// How the log is doing, for readiness, metrics and the operator.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "any of these can be without any other")]
pub struct LogHealth {
    pub failed: bool,
    /// No space for events: publishing is refused, everything else goes on.
    pub full: bool,
    /// No space for decisions: nothing is received, settled or attempted.
    pub state_full: bool,
    /// Space is getting low: soon publishing will be refused.
    pub low_space: bool,
    /// Bytes free where the log is.
    pub free_bytes: u64,
    /// Frames up to here (exclusive) are durable.
    pub durable: u64,
    pub queue_bytes: u64,
    pub segments: u64,
    pub spares: u64,
    pub bytes_on_disk: u64,
    pub flushes: u64,
    pub flush_seconds_total: f64,
    pub frames_total: u64,
    pub events_total: u64,
    pub bytes_total: u64,
    pub state_groups_total: u64,
    pub state_bytes_total: u64,
    /// Frames found damaged while reading, and the events that were in them, since the start.
    pub damaged_frames_total: u64,
    pub damaged_events_total: u64,
    /// Where the latest of them are.
    pub damages: Vec<DamagedStretch>,
}

/// A stretch of a segment that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedStretch {
    pub segment: u64,
    pub bytes: Range<u64>,
    pub frames: u64,
}

/// An ordered log of events and an ordered log of decisions.
///
/// It stores and orders; leases, retries and settlements are the shard's, on top.
pub trait Log: Send + Sync + fmt::Debug + 'static {
    /// Stores one publish call: durable on return, wholly there or absent. After `Failed` it may be either.
    /// Dropping the future does not cancel the append.
    fn append_events(&self, draft: FrameDraft) -> BoxFuture<'_, Result<Appended, AppendError>>;

    /// Records one group of decisions of a shard, after `expected`, that shard's last group. Recorded on
    /// return: `kill -9` does not lose it. Groups of one shard are appended one at a time.
    fn append_state(
        &self,
        shard: ShardId,
        decisions: Vec<u8>,
        expected: StateSeq,
    ) -> BoxFuture<'_, Result<StateSeq, AppendError>>;

    /// Returns when every recorded group is flushed to stable storage.
    fn flush_state(&self) -> BoxFuture<'_, Result<(), AppendError>>;

    /// Durable frames from `from` on, about `max_bytes` of them but at least one; waits for the first when
    /// there is none yet, and then looks for more for at most no time at all. A `from` below the oldest
    /// retained frame starts at that one. Frames that are damaged are passed over. Cancel safe.
    fn read(&self, from: Lsn, max_bytes: usize) -> BoxFuture<'_, Result<Vec<Frame>, ReadError>>;

    /// The next positions of `topic`, from `from` on, whose match set holds `slot`: at most `max` of them,
    /// from durable frames only. `next` advances also when nothing matched.
    fn scan(
        &self,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
        max: usize,
    ) -> BoxFuture<'_, Result<Matches, ReadError>>;

    /// The same for whoever is in no hurry: one call keeps others from reading for some milliseconds at most, whatever
    /// has to be read to find an answer. `None` when that time was all spent on preparing one: call again. Pauses
    /// between calls are the caller's affair.
    fn scan_slice(
        &self,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
        max: usize,
    ) -> BoxFuture<'_, Result<Option<Matches>, ReadError>>;

    /// The bytes of the events at `offsets` (ascending) of `topic`. Those no longer retained, and those whose
    /// frames are damaged, are left out; an error says that nothing is known of any of them.
    fn fetch(
        &self,
        topic: TopicNumber,
        offsets: Vec<Offset>,
    ) -> BoxFuture<'_, Result<Vec<Fetched>, ReadError>>;

    /// The next offset that a durable event of `topic` will get, as of the durable position.
    fn end(&self, topic: TopicNumber) -> Offset;

    /// The oldest retained offset of `topic`; its end when nothing is retained.
    fn start(&self, topic: TopicNumber) -> Offset;

    /// The LSN of the next durable frame, and the newest time that any record carries.
    fn position(&self) -> (Lsn, Timestamp);

    /// Shows what the state log holds, snapshot first. Called once, before the first `append_state`.
    /// Returns the last recorded group.
    fn recover(&self, visit: &mut dyn FnMut(Recovered<'_>)) -> Result<StateSeq, ReadError>;

    /// Replaces the snapshot: all live subscriptions' parts. Older state logs go once it is durable.
    fn snapshot(&self, parts: Vec<SnapshotPart>) -> BoxFuture<'_, Result<(), AppendError>>;

    /// Whether enough has been recorded since the last snapshot that a new one should be taken.
    fn wants_snapshot(&self) -> bool;

    /// The sealed segments, oldest first.
    fn segments(&self) -> Vec<SegmentInfo>;

    /// Lets sealed segments whose frames are all below `below` go. The decision to do so must be recorded
    /// and flushed before.
    fn trim(&self, below: Lsn) -> BoxFuture<'_, Result<(), AppendError>>;

    fn health(&self) -> LogHealth;

    /// Done when the log has failed (`AppendError::Failed`): the process must end with exit code 74.
    fn failed(&self) -> BoxFuture<'_, ()>;

    /// Flushes and marks a clean end. Appends after it fail.
    fn close(&self, patience: Duration) -> BoxFuture<'_, ()>;
}
