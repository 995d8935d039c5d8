//! A log whose reads of events panic when a test wants them to.

use std::sync::Mutex;
use std::time::Duration;

use gridwire_core::frame::FrameDraft;
use gridwire_core::ids::{Lsn, Offset, ShardId, Slot, StateSeq, TopicNumber};
use gridwire_core::routing::BoxFuture;
use gridwire_core::time::Timestamp;
use gridwire_store::model::ModelLog;
use gridwire_store::{
    AppendError, Appended, Fetched, Frame, Log, LogHealth, Matches, ReadError, Recovered, SegmentInfo,
    SnapshotPart,
};

/// When a read that panics does so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PanicAt {
    /// When it is first asked for.
    Once,
    /// After it has waited, as a read of a file does.
    Later,
}

/// A model of a log, whose next fetches panic as `panics` says, the last of them first.
#[derive(Debug)]
pub(crate) struct PanickyLog {
    pub log: ModelLog,
    pub panics: Mutex<Vec<PanicAt>>,
}

impl Log for PanickyLog {
    fn fetch(
        &self,
        topic: TopicNumber,
        offsets: Vec<Offset>,
    ) -> BoxFuture<'_, Result<Vec<Fetched>, ReadError>> {
        Box::pin(async move {
            let panics = self.panics.lock().expect("the panic comes after the lock").pop();
            if panics == Some(PanicAt::Later) {
                tokio::task::yield_now().await;
            }
            assert!(panics.is_none(), "a planted panic in a read");
            self.log.fetch(topic, offsets).await
        })
    }

    fn append_events(&self, draft: FrameDraft) -> BoxFuture<'_, Result<Appended, AppendError>> {
        self.log.append_events(draft)
    }

    fn append_state(
        &self,
        shard: ShardId,
        decisions: Vec<u8>,
        expected: StateSeq,
    ) -> BoxFuture<'_, Result<StateSeq, AppendError>> {
        self.log.append_state(shard, decisions, expected)
    }

    fn flush_state(&self) -> BoxFuture<'_, Result<(), AppendError>> {
        self.log.flush_state()
    }

    fn read(&self, from: Lsn, max_bytes: usize) -> BoxFuture<'_, Result<Vec<Frame>, ReadError>> {
        self.log.read(from, max_bytes)
    }

    fn scan(
        &self,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
        max: usize,
    ) -> BoxFuture<'_, Result<Matches, ReadError>> {
        self.log.scan(topic, slot, from, max)
    }

    fn scan_slice(
        &self,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
        max: usize,
    ) -> BoxFuture<'_, Result<Option<Matches>, ReadError>> {
        self.log.scan_slice(topic, slot, from, max)
    }

    fn end(&self, topic: TopicNumber) -> Offset {
        self.log.end(topic)
    }

    fn start(&self, topic: TopicNumber) -> Offset {
        self.log.start(topic)
    }

    fn position(&self) -> (Lsn, Timestamp) {
        self.log.position()
    }

    fn recover(&self, visit: &mut dyn FnMut(Recovered<'_>)) -> Result<StateSeq, ReadError> {
        self.log.recover(visit)
    }

    fn snapshot(&self, parts: Vec<SnapshotPart>) -> BoxFuture<'_, Result<(), AppendError>> {
        self.log.snapshot(parts)
    }

    fn wants_snapshot(&self) -> bool {
        self.log.wants_snapshot()
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        self.log.segments()
    }

    fn trim(&self, below: Lsn) -> BoxFuture<'_, Result<(), AppendError>> {
        self.log.trim(below)
    }

    fn health(&self) -> LogHealth {
        self.log.health()
    }

    fn failed(&self) -> BoxFuture<'_, ()> {
        self.log.failed()
    }

    fn close(&self, patience: Duration) -> BoxFuture<'_, ()> {
        self.log.close(patience)
    }
}
