//! The real log with the time it takes.
//!
//! Without threads the embedded log does its work at once, inside the call. Here its answers come later, as they
//! do from a disk: frames are seen by the shards before their publishers are answered, groups of decisions are
//! recorded a while before their effects leave, reads take turns with everything else. What is done is done at
//! once, so a crash in between finds it on the disk and unanswered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gridwire_core::frame::FrameDraft;
use gridwire_core::ids::{Lsn, Offset, ShardId, Slot, StateSeq, TopicNumber};
use gridwire_core::routing::BoxFuture;
use gridwire_core::time::Timestamp;
use gridwire_store::embedded::EmbeddedLog;
use gridwire_store::{
    AppendError, Appended, Fetched, Frame, Log, LogHealth, Matches, ReadError, Recovered, SegmentInfo,
    SnapshotPart,
};

use crate::world::World;

#[derive(Debug)]
pub(crate) struct SlowLog {
    pub(crate) log: Arc<EmbeddedLog>,
    pub(crate) world: Arc<World>,
    /// Whether decisions were recorded since the last flush of ours.
    pub(crate) dirty: AtomicBool,
}

impl SlowLog {
    async fn take<T>(&self, work: impl Future<Output = T> + Send) -> T {
        let done = work.await;
        let rng = &self.world.rng;
        let millis = match rng.below(16) {
            0..=9 => return done,
            10..=14 => 1 + rng.below(4),
            _ => 5 + rng.below(25),
        };
        self.world.pause(Duration::from_millis(millis)).await;
        done
    }

    /// What the flushing thread does every 100 ms.
    pub(crate) async fn flush_if_dirty(&self) {
        if self.dirty.swap(false, Ordering::Relaxed) {
            // A failure is told by `failed`.
            let _ = self.log.flush_state().await;
        }
    }
}

impl Log for SlowLog {
    fn append_events(&self, draft: FrameDraft) -> BoxFuture<'_, Result<Appended, AppendError>> {
        let append = self.log.append_events(draft);
        Box::pin(self.take(append))
    }

    fn append_state(
        &self,
        shard: ShardId,
        decisions: Vec<u8>,
        expected: StateSeq,
    ) -> BoxFuture<'_, Result<StateSeq, AppendError>> {
        Box::pin(async move {
            // It waits in the writer's queue: a crash meanwhile finds nothing on the disk.
            self.take(std::future::ready(())).await;
            self.dirty.store(true, Ordering::Relaxed);
            self.take(self.log.append_state(shard, decisions, expected)).await
        })
    }

    fn flush_state(&self) -> BoxFuture<'_, Result<(), AppendError>> {
        Box::pin(self.take(self.log.flush_state()))
    }

    fn read(&self, from: Lsn, max_bytes: usize) -> BoxFuture<'_, Result<Vec<Frame>, ReadError>> {
        Box::pin(self.take(self.log.read(from, max_bytes)))
    }

    fn scan(
        &self,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
        max: usize,
    ) -> BoxFuture<'_, Result<Matches, ReadError>> {
        Box::pin(self.take(self.log.scan(topic, slot, from, max)))
    }

    fn scan_slice(
        &self,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
        max: usize,
    ) -> BoxFuture<'_, Result<Option<Matches>, ReadError>> {
        Box::pin(self.take(self.log.scan_slice(topic, slot, from, max)))
    }

    fn fetch(
        &self,
        topic: TopicNumber,
        offsets: Vec<Offset>,
    ) -> BoxFuture<'_, Result<Vec<Fetched>, ReadError>> {
        Box::pin(self.take(self.log.fetch(topic, offsets)))
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
        Box::pin(async move {
            // Writing it takes its time, and decisions go on meanwhile.
            self.world.pause(Duration::from_millis(self.world.rng.below(50))).await;
            let done = self.log.snapshot(parts).await;
            self.world.tally().snapshots += u64::from(done.is_ok());
            done
        })
    }

    fn wants_snapshot(&self) -> bool {
        self.log.wants_snapshot()
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        let segments = self.log.segments();
        let mut tally = self.world.tally();
        // Asked for once a second, before anything is let go.
        tally.segments_left = segments.len() as u64;
        tally.segments_most = tally.segments_most.max(tally.segments_left);
        drop(tally);
        segments
    }

    fn trim(&self, below: Lsn) -> BoxFuture<'_, Result<(), AppendError>> {
        Box::pin(async move {
            let before = self.log.segments().len();
            let done = self.take(self.log.trim(below)).await;
            let left = self.log.segments().len();
            let mut tally = self.world.tally();
            tally.segments_trimmed += before.saturating_sub(left) as u64;
            tally.segments_left = left as u64;
            done
        })
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
