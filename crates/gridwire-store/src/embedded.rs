//! The store of one machine: files in a data directory.
//!
//! The cast of the event log: a handler's frame is queued to the *writer* ([`writer`]), the only one who
//! appends. It groups what waits, writes it to the tail of the last *segment* ([`format`], [`segment`]),
//! flushes, and only then shows it to readers and answers. Recent frames stay in the *tail cache*
//! ([`tail`]); whoever is behind finds its way by the *index* of a segment's blocks ([`index`], [`block`]),
//! which is derived and may be deleted at any time. A damaged frame is found by whoever reads it; which
//! events were in it is worked out from what surrounds it ([`damage`]), and reading goes on behind; [`scrub`]
//! reads what nobody asks for. When all of a segment is settled or expired its file goes, or waits among the
//! *spares* ([`spares`]) to become a segment again. After a restart [`recovery`] scans the last segment, cuts
//! what was never acknowledged, and refuses to skip what was; then [`tools`] help.
//!
//! Decisions go to the state log ([`state`]), which has threads of its own, so that neither log waits for the
//! other's flush. Configuration is in `meta.redb` ([`RedbResources`]).

mod block;
mod bytes;
mod damage;
mod directory;
mod error;
mod format;
mod index;
mod reader;
mod recent;
mod recovery;
mod resources;
mod scrub;
mod search;
mod segment;
mod shared;
mod spares;
mod state;
mod tail;
pub mod tools;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender};
use gridwire_core::frame::FrameDraft;
use gridwire_core::ids::{Lsn, Offset, ShardId, Slot, StateSeq, TopicNumber};
use gridwire_core::routing::BoxFuture;
use gridwire_core::time::Timestamp;
use gridwire_outside::{Clock, Disk, DiskFile, Rng};
use tokio::sync::oneshot;

pub use self::error::{Damage, OpenError};
pub use self::resources::RedbResources;
pub use self::state::SettleDurability;

use self::directory::Directory;
use self::format::{BLOCK, BODY_BYTES_MAX, FRAME_HEADER};
use self::reader::Readers;
use self::recovery::Place;
use self::scrub::{PASS_PAUSE, STEP_PAUSE, Scrub};
use self::shared::Shared;
use self::spares::{FILL_PAUSE, Filling};
use self::state::{StateLog, StateOptions};
use self::writer::{Command, Queued, Writer};
use crate::log::{
    AppendError, Appended, Fetched, Frame, Log, LogHealth, Matches, ReadError, Recovered, SegmentInfo,
    SnapshotPart,
};

/// Spares kept at most: what a burst of trimming leaves, without holding the disk hostage.
const SPARES_MAX: u8 = 4;
/// Spares made of zeros ahead of need; the rest come from recycling.
const SPARES_FILLED_MAX: usize = 2;
/// Appends waiting for the writer, whatever their size; its memory is taken at the start. Far more than the
/// callers that one machine serves at a time.
const QUEUE_APPENDS_MAX: usize = 16_384;
/// What an append costs in the queue besides its body.
const QUEUED_OVERHEAD: u64 = 256;
/// How long until the filler looks again whether spares are wanted.
const FILL_IDLE: Duration = Duration::from_secs(1);
/// The smallest segment: a few frames, for tests. Configuration is held to 16 MiB.
const SEGMENT_BYTES_MIN: u64 = 32 << 10;

/// How the embedded store works.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Size of a segment, the unit in which space comes back. Larger: fewer files; smaller: space comes back
    /// sooner.
    pub segment_bytes: u64,
    /// Appends waiting for the writer, in bytes; more are refused as overload.
    pub queue_bytes_max: u64,
    /// The most recent frames kept in memory.
    pub cache_bytes: usize,
    /// Indexes of blocks kept in memory.
    pub index_cache_bytes: usize,
    /// Size of a block: the stretch of a segment that shares one piece of index.
    pub block_bytes: u64,
    /// When an answer that rests on a decision goes out.
    pub settle_durability: SettleDurability,
    /// Size of a state log file, reserved when it is made.
    pub state_file_bytes: u64,
    /// Space set aside so that settling goes on when the disk is full; 0 for none.
    pub ballast_bytes: u64,
    /// A snapshot of the state is wanted after so many bytes of decisions, or so long after the last one.
    /// Smaller: less to replay at a start; larger: less to write.
    pub snapshot_bytes: u64,
    pub snapshot_every: Duration,
    /// Off: whoever calls does the work, one at a time, so that a simulation stays in one thread. There is
    /// then no grouping, no idle mark and no filling of spares.
    pub threads: bool,
    /// Leaves the flush out, so that the tests can show that they would notice.
    #[cfg(test)]
    pub(crate) plant_missing_flush: bool,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        let state = StateOptions::default();
        Self {
            segment_bytes: 256 << 20,
            queue_bytes_max: 64 << 20,
            cache_bytes: 16 << 20,
            index_cache_bytes: 8 << 20,
            block_bytes: 32 << 20,
            settle_durability: state.settle_durability,
            state_file_bytes: state.file_bytes,
            ballast_bytes: state.ballast_bytes,
            snapshot_bytes: state.snapshot_bytes,
            snapshot_every: state.snapshot_every,
            threads: true,
            #[cfg(test)]
            plant_missing_flush: false,
        }
    }
}

impl EmbeddedOptions {
    /// Largest frame body that is taken: what fits a frame, and a small segment beside its footer.
    fn body_bytes_max(&self) -> usize {
        let room = (self.segment_bytes - 4 * BLOCK as u64) / 4;
        usize::try_from(room).unwrap_or(usize::MAX).min(BODY_BYTES_MAX)
    }

    #[cfg(test)]
    fn flushes(&self) -> bool {
        !self.plant_missing_flush
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "tests ask the option that only they have")]
    fn flushes(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), OpenError> {
        let bad = |option, expected| Err(OpenError::Option { option, expected });
        if self.segment_bytes < SEGMENT_BYTES_MIN {
            return bad("segment size", "at least 32 KiB");
        }
        if !(1..=1 << 30).contains(&self.block_bytes) {
            return bad("index block size", "between 1 byte and 1 GiB");
        }
        Ok(())
    }
}

/// The embedded log. Dropping it ends its threads without a mark, as a process that dies does;
/// [`Log::close`] is the orderly way.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    state: Arc<StateLog>,
    driver: Driver,
    readers: Readers,
    /// The last group of each shard that has appended in this process.
    shards: Mutex<BTreeMap<ShardId, StateSeq>>,
    ending: Arc<Ending>,
}

/// Who calls [`Writer::step`].
#[derive(Debug)]
enum Driver {
    Thread(Sender<Command>),
    Inline(Mutex<Option<Writer>>),
}

/// What has to end, in order, before the directory is released.
#[derive(Debug)]
struct Ending {
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Dropped to stop the filler and the scrubber.
    upkeep: Mutex<Option<Sender<()>>>,
    lock: Mutex<Option<Arc<dyn DiskFile>>>,
}

/// Not the caches and maps, which are large.
impl fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLog").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

fn hold<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ending {
    /// Waits for the threads, which have been told.
    fn join(&self) {
        drop(hold(&self.upkeep).take());
        for thread in std::mem::take(&mut *hold(&self.threads)) {
            if thread.join().is_err() {
                tracing::error!("a thread of the log panicked");
            }
        }
    }
}

impl EmbeddedLog {
    /// Opens the data directory `dir`, making it if need be, and recovers both logs. Blocks.
    ///
    /// # Errors
    ///
    /// The directory is in use, was written by an unknown release, cannot be read or written, or holds
    /// damaged acknowledged data: then file, bytes and topics are named and nothing is skipped.
    pub fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        rng: &dyn Rng,
        dir: &Path,
        options: EmbeddedOptions,
    ) -> Result<Arc<Self>, OpenError> {
        options.check()?;
        let Directory { lock, store } = Directory::open(&*disk, rng, dir)?;
        let log_dir = dir.join("log");
        let place = Place {
            disk: &*disk,
            dir: &log_dir,
            store,
            segment_bytes: options.segment_bytes,
            block_bytes: options.block_bytes,
            spares_max: SPARES_MAX,
        };
        let found = place.recover()?;
        let (next_lsn, marked) = (found.next_lsn, found.marked);
        if !found.segments.is_empty() && !state::exists(&*disk, &dir.join("state"))? {
            // It is made before the first event: without it nobody knows what was settled.
            let what = "there is neither a state log nor a snapshot, and the log is not empty";
            return Err(OpenError::damaged(&dir.join("state"), 0..0, what));
        }
        let state_options = StateOptions {
            settle_durability: options.settle_durability,
            file_bytes: options.state_file_bytes,
            ballast_bytes: options.ballast_bytes,
            snapshot_bytes: options.snapshot_bytes,
            snapshot_every: options.snapshot_every,
            threads: options.threads,
        };
        let state = StateLog::open(disk.clone(), clock.clone(), &dir.join("state"), store, state_options)?;
        let shared = Arc::new(Shared::new((disk, clock), log_dir, store, options, found));
        let writer = Writer::new(shared.clone(), next_lsn, marked);
        shared.look_at_space();
        let ending = Ending {
            threads: Mutex::new(Vec::new()),
            upkeep: Mutex::new(None),
            lock: Mutex::new(Some(lock)),
        };
        let (driver, readers) = if shared.options.threads {
            let started = start(&shared, writer, &ending);
            started.map_err(OpenError::io("start the threads for", dir))?
        } else {
            (Driver::Inline(Mutex::new(Some(writer))), Readers::inline())
        };
        let (state, ending) = (Arc::new(state), Arc::new(ending));
        Ok(Arc::new(Self { shared, state, driver, readers, shards: Mutex::default(), ending }))
    }

    /// The two logs fail as one: what one of them could not keep, the other must not build on.
    fn check_failed(&self) -> Result<(), AppendError> {
        if self.shared.has_failed() || self.state.has_failed() { Err(AppendError::Failed) } else { Ok(()) }
    }

    /// Hands a frame to the writer; the answer comes by the channel.
    fn enqueue(
        &self,
        draft: FrameDraft,
    ) -> Result<oneshot::Receiver<Result<Appended, AppendError>>, AppendError> {
        assert!(draft.count > 0, "a frame without events is never appended");
        let shared = &self.shared;
        self.check_failed()?;
        let max = shared.options.body_bytes_max();
        if max < draft.body.len() {
            return Err(AppendError::TooLarge { max });
        }
        let weight = (draft.body.len() + FRAME_HEADER) as u64 + QUEUED_OVERHEAD;
        let before = shared.queue_bytes.fetch_add(weight, Ordering::Relaxed);
        // One append is always taken, however large it is and however small the queue.
        if before > 0 && shared.options.queue_bytes_max < before + weight {
            shared.queue_bytes.fetch_sub(weight, Ordering::Relaxed);
            return Err(AppendError::Overloaded);
        }
        let (answer, answered) = oneshot::channel();
        let queued = Queued { draft, answer, weight };
        let refused = match &self.driver {
            Driver::Thread(commands) => commands
                .try_send(Command::Append(queued))
                .err()
                .map(|error| if error.is_full() { AppendError::Overloaded } else { AppendError::Failed }),
            Driver::Inline(writer) => match hold(writer).as_mut() {
                Some(writer) => {
                    for done in writer.step(vec![queued]) {
                        done.send(shared);
                    }
                    return Ok(answered);
                }
                None => Some(AppendError::Failed),
            },
        };
        if let Some(error) = refused {
            shared.queue_bytes.fetch_sub(weight, Ordering::Relaxed);
            return Err(error);
        }
        Ok(answered)
    }
}

fn start(shared: &Arc<Shared>, writer: Writer, ending: &Ending) -> std::io::Result<(Driver, Readers)> {
    let (commands, queue) = crossbeam_channel::bounded(QUEUE_APPENDS_MAX);
    let (stop_upkeep, stopped) = crossbeam_channel::bounded(0);
    let (own, scrubbed, scrub_stopped) = (shared.clone(), shared.clone(), stopped.clone());
    let threads = [
        thread::Builder::new().name("log-writer".into()).spawn(move || writer::run(writer, &queue))?,
        thread::Builder::new().name("log-filler".into()).spawn(move || {
            let mut filling = None;
            let mut wait = FILL_IDLE;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(wait) {
                filling = fill(&own, filling);
                if filling.is_none() {
                    own.look_at_space();
                }
                wait = if filling.is_some() { FILL_PAUSE } else { FILL_IDLE };
            }
        })?,
        thread::Builder::new().name("log-scrubber".into()).spawn(move || {
            let mut scrub = Scrub::default();
            let mut wait = STEP_PAUSE;
            while let Err(RecvTimeoutError::Timeout) = scrub_stopped.recv_timeout(wait) {
                wait = if scrub.step(&scrubbed) { PASS_PAUSE } else { STEP_PAUSE };
            }
        })?,
    ];
    hold(&ending.threads).extend(threads);
    *hold(&ending.upkeep) = Some(stop_upkeep);
    Ok((Driver::Thread(commands), Readers::start()?))
}

/// One step of making spares: nothing while the writer is busy or the disk is short of space.
fn fill(shared: &Shared, filling: Option<Filling>) -> Option<Filling> {
    let (disk, dir, spares) = (&*shared.disk, &*shared.dir, &shared.spares);
    let options = &shared.options;
    if options.queue_bytes_max / 2 < shared.queue_bytes.load(Ordering::Relaxed) {
        return filling;
    }
    let Some(mut filling) = filling else {
        // An idle node needs no spare; one that will fill its segment soon does.
        let busy = options.segment_bytes / 8 < shared.stats.bytes.load(Ordering::Relaxed);
        let room = disk.free_bytes(dir).is_ok_and(|free| 4 * options.segment_bytes < free);
        let wanted = busy && room && spares.ready() < SPARES_FILLED_MAX && !shared.has_failed();
        return if wanted { Filling::start(spares, options.segment_bytes) } else { None };
    };
    match filling.step(disk, dir, spares) {
        Ok(true) => None,
        Ok(false) => Some(filling),
        Err(error) => {
            tracing::warn!(%error, "failed to make a spare segment");
            filling.abandon(disk, dir, spares);
            None
        }
    }
}

impl Log for EmbeddedLog {
    fn append_events(&self, draft: FrameDraft) -> BoxFuture<'_, Result<Appended, AppendError>> {
        let queued = self.enqueue(draft);
        Box::pin(async move {
            let appended = queued?.await.unwrap_or(Err(AppendError::Failed))?;
            // The other log may have failed meanwhile; then nothing is promised any more.
            self.check_failed()?;
            Ok(appended)
        })
    }

    fn append_state(
        &self,
        shard: ShardId,
        decisions: Vec<u8>,
        expected: StateSeq,
    ) -> BoxFuture<'_, Result<StateSeq, AppendError>> {
        Box::pin(async move {
            if hold(&self.shards).get(&shard).is_some_and(|last| *last != expected) {
                return Err(AppendError::Fenced);
            }
            self.check_failed()?;
            let appended = self.state.append(decisions).await;
            let is_full = matches!(appended, Err(AppendError::StorageFull));
            self.shared.state_full.store(is_full, Ordering::Relaxed);
            let seq = appended?;
            self.check_failed()?;
            hold(&self.shards).insert(shard, seq);
            Ok(seq)
        })
    }

    fn flush_state(&self) -> BoxFuture<'_, Result<(), AppendError>> {
        Box::pin(async move {
            self.check_failed()?;
            self.state.flush().await
        })
    }

    fn read(&self, from: Lsn, max_bytes: usize) -> BoxFuture<'_, Result<Vec<Frame>, ReadError>> {
        Box::pin(async move {
            let mut visible = self.shared.visible.subscribe();
            loop {
                // The sender lives as long as `self`, so an error cannot be.
                let _ = visible.wait_for(|end| from.0 < *end).await;
                let recent = self.shared.tail().read(from, max_bytes);
                if let Some(frames) = recent.filter(|frames| !frames.is_empty()) {
                    return Ok(frames);
                }
                let shared = self.shared.clone();
                let frames = self.readers.run(move || shared.read_files(from, max_bytes)).await?;
                if !frames.is_empty() {
                    return Ok(frames);
                }
                // All that there was has been trimmed meanwhile.
                let _ = visible.changed().await;
            }
        })
    }

    fn scan(
        &self,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
        max: usize,
    ) -> BoxFuture<'_, Result<Matches, ReadError>> {
        Box::pin(async move {
            if self.shared.end(topic) <= from {
                return Ok(Matches { next: from.0, ..Matches::default() });
            }
            let shared = self.shared.clone();
            self.readers.run(move || shared.scan_index(topic, slot, from, max)).await
        })
    }

    fn scan_slice(
        &self,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
        max: usize,
    ) -> BoxFuture<'_, Result<Option<Matches>, ReadError>> {
        Box::pin(async move {
            if self.shared.end(topic) <= from {
                return Ok(Some(Matches { next: from.0, ..Matches::default() }));
            }
            let shared = self.shared.clone();
            self.readers.run(move || shared.scan_index_slice(topic, slot, from, max)).await
        })
    }

    fn fetch(
        &self,
        topic: TopicNumber,
        offsets: Vec<Offset>,
    ) -> BoxFuture<'_, Result<Vec<Fetched>, ReadError>> {
        Box::pin(async move {
            let (cold, mut warm) = {
                let (cold, warm) = self.shared.fetch_tail(topic, &offsets)?;
                (cold.len(), warm)
            };
            if cold == 0 {
                return Ok(warm);
            }
            let mut events = if let Some(events) = self.shared.fetch_recent(topic, &offsets[..cold]) {
                events
            } else {
                let shared = self.shared.clone();
                self.readers.run(move || shared.fetch_files(topic, &offsets[..cold])).await?
            };
            events.append(&mut warm);
            Ok(events)
        })
    }

    fn end(&self, topic: TopicNumber) -> Offset {
        self.shared.end(topic)
    }

    fn start(&self, topic: TopicNumber) -> Offset {
        self.shared.start(topic)
    }

    fn position(&self) -> (Lsn, Timestamp) {
        let newest = self.shared.newest().max(self.state.newest_time());
        (Lsn(*self.shared.visible.borrow()), newest)
    }

    fn recover(&self, visit: &mut dyn FnMut(Recovered<'_>)) -> Result<StateSeq, ReadError> {
        self.state.recover(visit)
    }

    fn snapshot(&self, parts: Vec<SnapshotPart>) -> BoxFuture<'_, Result<(), AppendError>> {
        Box::pin(async move {
            self.check_failed()?;
            self.state.snapshot(parts).await
        })
    }

    fn wants_snapshot(&self) -> bool {
        self.state.wants_snapshot()
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        self.shared.sealed()
    }

    fn trim(&self, below: Lsn) -> BoxFuture<'_, Result<(), AppendError>> {
        Box::pin(async move {
            self.check_failed()?;
            let shared = self.shared.clone();
            // A thread that is gone tells as little about the files as a failure does.
            let done = self.readers.run(move || Ok(shared.trim(below))).await;
            done.unwrap_or(Err(AppendError::Failed))
        })
    }

    fn health(&self) -> LogHealth {
        if matches!(self.driver, Driver::Inline(_)) {
            self.shared.look_at_space();
        }
        let mut health = self.shared.health();
        self.state.health(&mut health);
        health
    }

    fn failed(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut events = self.shared.failed.subscribe();
            tokio::select! {
                _ = events.wait_for(|failed| *failed) => {}
                () = self.state.failed() => {}
            }
        })
    }

    fn close(&self, patience: Duration) -> BoxFuture<'_, ()> {
        let state = self.state.clone();
        let ending = self.ending.clone();
        let end = move || {
            ending.join();
            state.close();
            drop(hold(&ending.lock).take());
        };
        let commands = match &self.driver {
            Driver::Thread(commands) => commands.clone(),
            Driver::Inline(writer) => {
                if let Some(mut writer) = hold(writer).take() {
                    writer.mark();
                }
                end();
                return Box::pin(std::future::ready(()));
            }
        };
        let (ended, wait) = oneshot::channel();
        let closer = thread::Builder::new().name("log-close".into()).spawn(move || {
            // An error says that the writer has ended already.
            let _ = commands.send(Command::Close);
            end();
            let _ = ended.send(());
        });
        if let Err(error) = closer {
            tracing::warn!(%error, "could not close the log in order; it recovers at the next start");
        }
        Box::pin(async move {
            tokio::select! {
                _ = wait => {}
                () = self.shared.clock.sleep(patience) => tracing::warn!("the log was not closed in time"),
            }
        })
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        if let Driver::Thread(commands) = &mut self.driver {
            // The writer ends when nobody can send to it any more.
            *commands = crossbeam_channel::bounded(0).0;
        }
        self.ending.join();
    }
}

#[cfg(test)]
mod tests;
