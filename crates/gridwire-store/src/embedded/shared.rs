//! What the writer, the readers and the handle of the event log have in common.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use gridwire_core::ids::{Lsn, Offset, TopicNumber};
use gridwire_core::time::Timestamp;
use gridwire_outside::{Clock, Disk};
use tokio::sync::watch;

use super::index::Indexes;
use super::recent::Recent;
use super::recovery::Found;
use super::segment::{Segment, index_path, segment_path, spare_path};
use super::spares::Spares;
use super::tail::Tail;
use super::{EmbeddedOptions, SPARES_MAX};
use crate::log::{AppendError, LogHealth, SegmentInfo, TopicSpan};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    /// `DIR/log`
    pub(crate) dir: PathBuf,
    pub(crate) store: [u8; 16],
    pub(crate) options: EmbeddedOptions,
    /// Oldest first.
    segments: RwLock<VecDeque<Arc<Segment>>>,
    /// Next offsets, of durable events only.
    ends: RwLock<BTreeMap<TopicNumber, u64>>,
    tail: RwLock<Tail>,
    recent: Mutex<Recent>,
    /// Held while segments go, one after the other.
    trimming: Mutex<()>,
    pub(crate) indexes: Indexes,
    pub(crate) spares: Spares,
    /// The LSN after the last durable event frame: the readers' horizon.
    pub(crate) visible: watch::Sender<u64>,
    newest: AtomicU64,
    pub(crate) failed: watch::Sender<bool>,
    pub(crate) full: AtomicBool,
    /// Decisions find no space.
    pub(crate) state_full: AtomicBool,
    pub(crate) space: Space,
    pub(crate) queue_bytes: AtomicU64,
    pub(crate) stats: Stats,
}

/// What the disk had left when it was last looked at.
#[derive(Debug, Default)]
pub(crate) struct Space {
    free: AtomicU64,
    low: AtomicBool,
}

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) flushes: AtomicU64,
    pub(crate) flush_nanos: AtomicU64,
    pub(crate) frames: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// The maps and lists here are whole after every statement that changes them, so that a panic elsewhere in
/// a holder leaves nothing half done.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        (disk, clock): (Arc<dyn Disk>, Arc<dyn Clock>),
        dir: PathBuf,
        store: [u8; 16],
        options: EmbeddedOptions,
        found: Found,
    ) -> Self {
        let Found { segments, ends, events_end, newest, spares, .. } = found;
        Self {
            disk,
            clock,
            dir,
            store,
            segments: RwLock::new(segments),
            ends: RwLock::new(ends),
            tail: RwLock::new(Tail::new(options.cache_bytes, Lsn(events_end))),
            recent: Mutex::default(),
            trimming: Mutex::new(()),
            indexes: Indexes::new(options.index_cache_bytes),
            spares: Spares::new(SPARES_MAX, spares),
            visible: watch::Sender::new(events_end),
            newest: AtomicU64::new(newest.as_millis()),
            failed: watch::Sender::new(false),
            full: AtomicBool::new(false),
            state_full: AtomicBool::new(false),
            space: Space::default(),
            queue_bytes: AtomicU64::new(0),
            stats: Stats::default(),
            options,
        }
    }

    pub(crate) fn tail(&self) -> RwLockReadGuard<'_, Tail> {
        read(&self.tail)
    }

    pub(crate) fn tail_mut(&self) -> RwLockWriteGuard<'_, Tail> {
        write(&self.tail)
    }

    pub(crate) fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ends_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<TopicNumber, u64>> {
        write(&self.ends)
    }

    pub(crate) fn all_ends(&self) -> BTreeMap<TopicNumber, u64> {
        read(&self.ends).clone()
    }

    pub(crate) fn end(&self, topic: TopicNumber) -> Offset {
        Offset(read(&self.ends).get(&topic).copied().unwrap_or(0))
    }

    pub(crate) fn start(&self, topic: TopicNumber) -> Offset {
        let first =
            |segment: &Arc<Segment>| segment.state().contents.topics.get(&topic).map(|span| span.first);
        read(&self.segments).iter().find_map(first).map_or_else(|| self.end(topic), Offset)
    }

    pub(crate) fn newest(&self) -> Timestamp {
        Timestamp::from_millis(self.newest.load(Ordering::Acquire))
    }

    pub(crate) fn set_newest(&self, newest: Timestamp) {
        self.newest.fetch_max(newest.as_millis(), Ordering::Release);
    }

    pub(crate) fn push_segment(&self, segment: Arc<Segment>) {
        write(&self.segments).push_back(segment);
    }

    pub(crate) fn last_segment(&self) -> Option<Arc<Segment>> {
        read(&self.segments).back().cloned()
    }

    /// The oldest retained LSN; the horizon when there is no segment.
    pub(crate) fn first_lsn(&self) -> u64 {
        let first = read(&self.segments).front().map(|segment| segment.state().contents.first_lsn);
        first.unwrap_or_else(|| *self.visible.borrow())
    }

    /// The segment that holds the frame with this LSN.
    pub(crate) fn segment_of(&self, lsn: u64) -> Option<Arc<Segment>> {
        let segments = read(&self.segments);
        let after = segments.partition_point(|segment| segment.state().contents.first_lsn <= lsn);
        let segment = segments.get(after.checked_sub(1)?)?;
        (lsn < segment.state().contents.end_lsn).then(|| segment.clone())
    }

    /// The oldest sealed segment with this number or a higher one.
    pub(crate) fn sealed_from(&self, number: u64) -> Option<Arc<Segment>> {
        let found = |segment: &&Arc<Segment>| number <= segment.number && segment.state().sealed;
        read(&self.segments).iter().find(found).cloned()
    }

    /// The oldest segment that holds `offset` of `topic` or a later one.
    pub(crate) fn segment_with(&self, topic: TopicNumber, offset: Offset) -> Option<Arc<Segment>> {
        let holds = |segment: &&Arc<Segment>| {
            segment.state().contents.topics.get(&topic).is_some_and(|span| offset.0 <= span.last)
        };
        read(&self.segments).iter().find(holds).cloned()
    }

    /// Looks how much space there is; says so when it becomes low, and when it is enough again.
    pub(crate) fn look_at_space(&self) {
        let free = self.disk.free_bytes(&self.dir);
        let (Ok(free), Ok(total)) = (free, self.disk.total_bytes(&self.dir)) else { return };
        // The next segment and the one after it, and a twentieth, which file systems need to work well.
        let low = free < 2 * self.options.segment_bytes + total / 20;
        self.space.free.store(free, Ordering::Relaxed);
        match (self.space.low.swap(low, Ordering::Relaxed), low) {
            (false, true) => tracing::warn!(free, total, "the disk is getting full; publishing stops soon"),
            (true, false) => tracing::info!(free, total, "the disk has enough space again"),
            _ => {}
        }
    }

    /// The store has failed and stays failed.
    pub(crate) fn fail(&self, doing: &'static str, error: &std::io::Error) {
        if !self.failed.send_replace(true) {
            tracing::error!(%error, "the log has failed to {doing}; it takes no more");
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        *self.failed.borrow()
    }

    pub(crate) fn count_flush(&self, took: Duration) {
        self.stats.flushes.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.stats.flush_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(crate) fn sealed(&self) -> Vec<SegmentInfo> {
        let info = |segment: &Arc<Segment>| {
            let state = segment.state();
            let span = |(topic, span): (&TopicNumber, &super::format::Span)| TopicSpan {
                topic: *topic,
                first: Offset(span.first),
                last: Offset(span.last),
                newest: span.newest,
                bytes: span.bytes,
            };
            state.sealed.then(|| SegmentInfo {
                number: segment.number,
                end: Lsn(state.contents.end_lsn),
                topics: state.contents.topics.iter().map(span).collect(),
            })
        };
        read(&self.segments).iter().filter_map(info).collect()
    }

    pub(crate) fn health(&self) -> LogHealth {
        let (count, bytes) = {
            let segments = read(&self.segments);
            let bytes: u64 = segments.iter().map(|segment| segment.state().bytes).sum();
            (segments.len() as u64, bytes)
        };
        let spares = self.spares.ready() as u64;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut health = LogHealth {
            failed: self.has_failed(),
            full: self.full.load(Ordering::Relaxed),
            state_full: self.state_full.load(Ordering::Relaxed),
            low_space: self.space.low.load(Ordering::Relaxed),
            free_bytes: self.space.free.load(Ordering::Relaxed),
            durable: *self.visible.borrow(),
            queue_bytes: load(&self.queue_bytes),
            segments: count,
            spares,
            bytes_on_disk: bytes + spares * self.options.segment_bytes,
            flushes: load(&self.stats.flushes),
            flush_seconds_total: Duration::from_nanos(load(&self.stats.flush_nanos)).as_secs_f64(),
            frames_total: load(&self.stats.frames),
            events_total: load(&self.stats.events),
            bytes_total: load(&self.stats.bytes),
            ..LogHealth::default()
        };
        self.indexes.damages.health(&mut health);
        health
    }

    /// Lets sealed segments below `below` go, oldest first, each for good before the next: two forgotten
    /// changes of the directory must not leave a gap. The newest segment stays, for it knows the ends.
    pub(crate) fn trim(&self, below: Lsn) -> Result<(), AppendError> {
        let _one_at_a_time = self.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let segment = {
                let mut segments = write(&self.segments);
                let goes = |segment: &Arc<Segment>| {
                    let state = segment.state();
                    state.sealed && state.contents.end_lsn <= below.0
                };
                if segments.len() < 2 || !segments.front().is_some_and(goes) {
                    return Ok(());
                }
                let Some(segment) = segments.pop_front() else { return Ok(()) };
                segment
            };
            self.indexes.forget(segment.number);
            let end = Lsn(segment.state().contents.end_lsn);
            self.tail_mut().forget_before(end);
            if let Err(error) = self.let_go(segment) {
                self.fail("remove a segment", &error);
                return Err(AppendError::Failed);
            }
        }
    }

    fn let_go(&self, segment: Arc<Segment>) -> std::io::Result<()> {
        let number = segment.number;
        let path = segment_path(&self.dir, number);
        // Nobody can take hold of it any more, so that a reader that is not there now never will be.
        let unread = Arc::into_inner(segment).map(|segment| segment.state().bytes);
        let place = if unread == Some(self.options.segment_bytes) { self.spares.claim() } else { None };
        let done = match place {
            Some(place) => self.disk.rename(&path, &spare_path(&self.dir, place)),
            None => self.disk.remove(&path),
        };
        let done = done.and_then(|()| self.disk.sync_dir(&self.dir));
        if let Some(place) = place {
            self.spares.give_back(place, done.is_ok());
        }
        // Derived: what stays is removed at the next start.
        let _ = self.disk.remove(&index_path(&self.dir, number));
        done
    }
}
