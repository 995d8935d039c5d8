//! The state log: the decisions of all shards, in one order.
//!
//! The life of a group: [`StateLog::append`] numbers it, writes it to the page cache and answers (so a killed
//! process has lost nothing that was answered). What could take longer, a new file or another group being
//! written, is the writer's thread's: the group is queued for it. A second thread flushes ten times a second,
//! so that neither waits for the other. From time to time a snapshot takes the place of the logs before it.
//! After a restart [`StateLog::recover`] shows the snapshot and the groups since.
//!
//! Files (the `storage` contract, "State log"): `{number}.slg`, each with all its space reserved before the
//! first group goes in, so that a decision once taken always fits; `snap-{number}`, which stands for
//! everything before log `number`. The writer and the flush are plain values; with
//! [`StateOptions::threads`] off, whoever appends drives them, and a simulation stays in one thread.

mod ballast;
mod format;
mod recovery;
mod shared;
mod snapshot;
#[cfg(test)]
mod tests;
pub(super) mod tools;
mod writer;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use gridwire_core::ids::StateSeq;
use gridwire_core::routing::BoxFuture;
use gridwire_core::time::Timestamp;
use gridwire_outside::{Clock, Disk};
use tokio::sync::oneshot;

use self::format::{FRAME_BYTES, HEADER_BYTES};
use self::recovery::History;
use self::shared::Shared;
use self::writer::{Append, Writer};
use crate::embedded::error::OpenError;
use crate::log::{AppendError, LogHealth, ReadError, Recovered, SnapshotPart};

/// How often decisions are flushed: the most that a power cut takes back.
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// How long the log is idle before an empty frame says that all of it is durable.
const IDLE: Duration = Duration::from_secs(1);
/// Groups waiting for the writer. A shard has one at a time, so this is far above the number of shards; more
/// are refused as overload.
const QUEUE_GROUPS_MAX: usize = 4_096;
/// Bytes waiting for the writer; more are refused as overload.
const QUEUE_BYTES_MAX: u64 = 64 << 20;
/// Bytes taken in one write; more would make the first of them wait.
const STEP_BYTES_MAX: usize = 4 << 20;
/// Largest group. A shard's group is bounded by what it handles in one turn, far below.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// When an answer that rests on a decision goes out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SettleDurability {
    /// After the decision is written: `kill -9` takes nothing back, a power cut at most the last 100 ms.
    #[default]
    Write,
    /// After the decision is flushed, for operators who pay dearly for a duplicate.
    Flush,
}

/// How the state log works.
#[derive(Clone, Debug)]
pub(crate) struct StateOptions {
    pub(crate) settle_durability: SettleDurability,
    /// Size of a log file, reserved when it is made. Larger: fewer files to make; smaller: less space taken.
    pub(crate) file_bytes: u64,
    /// Space set aside for when the disk is full; 0 for none.
    pub(crate) ballast_bytes: u64,
    /// A snapshot is wanted after so many bytes, or so long after the last when there were changes.
    pub(crate) snapshot_bytes: u64,
    pub(crate) snapshot_every: Duration,
    /// Off: whoever appends also writes and flushes, one at a time, with broker time for the flush period.
    pub(crate) threads: bool,
}

impl Default for StateOptions {
    fn default() -> Self {
        Self {
            settle_durability: SettleDurability::Write,
            file_bytes: 64 << 20,
            ballast_bytes: 64 << 20,
            snapshot_bytes: 64 << 20,
            snapshot_every: Duration::from_secs(600),
            threads: true,
        }
    }
}

/// Whether there is anything of a state log in `dir`.
pub(crate) fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool, OpenError> {
    let names = disk.list(dir).map_err(OpenError::io("list", dir))?;
    let is_ours =
        |name: &String| recovery::log_number(name).is_some() || snapshot::snapshot_number(name).is_some();
    Ok(names.iter().any(is_ours))
}

/// The log of decisions. See the module.
#[derive(Debug)]
pub(crate) struct StateLog {
    shared: Arc<Shared>,
    writer: Arc<Mutex<Writer>>,
    history: History,
    /// Gone once the log is closed.
    queue: Mutex<Option<Queue>>,
    alarm: Arc<Alarm>,
    snapshot_running: Arc<AtomicBool>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

/// The way to the writer.
#[derive(Clone, Debug)]
enum Queue {
    Thread(Sender<Append>),
    /// No thread: the time of the last flush.
    Inline(Timestamp),
}

/// Wakes the flushing thread before its time.
#[derive(Debug, Default)]
struct Alarm {
    state: Mutex<AlarmState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct AlarmState {
    rung: bool,
    stop: bool,
}

impl StateLog {
    /// Opens the state directory `dir` (which exists) of the store `store_id`, and repairs its end as far as
    /// nothing durable is concerned.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        dir: &Path,
        store_id: [u8; 16],
        options: StateOptions,
    ) -> Result<Self, OpenError> {
        if options.file_bytes < (HEADER_BYTES + 2 * FRAME_BYTES) as u64 {
            return Err(OpenError::Option { option: "state file size", expected: "at least 8 KiB" });
        }
        let threads = options.threads;
        let opened = recovery::open(&*disk, &*clock, dir, store_id, &options)?;
        let now = clock.now();
        let shared = Arc::new(Shared::new(disk, clock, dir, store_id, options, opened.start));
        let mut writer = Writer::new(Arc::clone(&shared), opened.number, opened.tail);
        // Without space the log opens all the same and refuses groups until there is some.
        if let Err(AppendError::Failed) = writer.reserve() {
            let source = std::io::Error::other("space for the state log could not be reserved");
            return Err(OpenError::Io { doing: "reserve space in", path: dir.to_owned(), source });
        }
        let log = Self {
            shared,
            writer: Arc::new(Mutex::new(writer)),
            history: opened.history,
            queue: Mutex::new(Some(Queue::Inline(now))),
            alarm: Arc::default(),
            snapshot_running: Arc::default(),
            threads: Mutex::default(),
        };
        if threads {
            log.start_threads().map_err(OpenError::io("start threads for", dir))?;
        }
        Ok(log)
    }

    fn start_threads(&self) -> std::io::Result<()> {
        let (sender, receiver) = crossbeam_channel::bounded(QUEUE_GROUPS_MAX);
        let (writer, alarm) = (Arc::clone(&self.writer), Arc::clone(&self.alarm));
        let write = move || run_writer(&receiver, &writer, &alarm);
        let (shared, alarm) = (Arc::clone(&self.shared), Arc::clone(&self.alarm));
        let flush = move || run_flusher(&shared, &alarm);
        let handles = [
            thread::Builder::new().name("state-writer".into()).spawn(write)?,
            thread::Builder::new().name("state-flusher".into()).spawn(flush)?,
        ];
        self.threads.lock().expect("no panic while the threads are held").extend(handles);
        *self.queue.lock().expect("no panic while the queue is held") = Some(Queue::Thread(sender));
        Ok(())
    }

    /// Records one group; groups are numbered in the order of the calls. On return it is written, or flushed
    /// if the options say so. Dropping the future does not take the group back.
    pub(crate) fn append(&self, decisions: Vec<u8>) -> BoxFuture<'_, Result<StateSeq, AppendError>> {
        let queued = self.enqueue(decisions);
        Box::pin(async move { queued?.await.unwrap_or(Err(AppendError::Failed)) })
    }

    fn enqueue(
        &self,
        decisions: Vec<u8>,
    ) -> Result<oneshot::Receiver<Result<StateSeq, AppendError>>, AppendError> {
        if self.shared.has_failed() {
            return Err(AppendError::Failed);
        }
        let fits = self.shared.options.file_bytes - (HEADER_BYTES + FRAME_BYTES) as u64;
        let max = usize::try_from(fits).unwrap_or(usize::MAX).min(GROUP_BYTES_MAX);
        if max < decisions.len() {
            return Err(AppendError::TooLarge { max });
        }
        let bytes = decisions.len() as u64;
        let (answer, answered) = oneshot::channel();
        let append = Append { decisions, answer };
        let mut queue = self.queue.lock().expect("no panic while the queue is held");
        let queued = &self.shared.counters.queue_bytes;
        match queue.as_mut().ok_or(AppendError::Failed)? {
            Queue::Thread(sender) => {
                let append = match self.write_at_once(append) {
                    Ok(()) => return Ok(answered),
                    Err(append) => append,
                };
                if QUEUE_BYTES_MAX < queued.fetch_add(bytes, Ordering::Relaxed) + bytes {
                    queued.fetch_sub(bytes, Ordering::Relaxed);
                    return Err(AppendError::Overloaded);
                }
                sender.try_send(append).map_err(|error| {
                    queued.fetch_sub(bytes, Ordering::Relaxed);
                    match error {
                        TrySendError::Full(_) => AppendError::Overloaded,
                        TrySendError::Disconnected(_) => AppendError::Failed,
                    }
                })?;
            }
            Queue::Inline(flushed) => {
                queued.fetch_add(bytes, Ordering::Relaxed);
                let flush_wanted = self.step(vec![append]);
                self.shared.restore_ballast();
                let now = self.shared.clock.now();
                if flush_wanted || FLUSH_EVERY <= now.since(*flushed) {
                    // Whoever has to know of a failure learns it from the answers.
                    let _ = self.shared.flush();
                    *flushed = now;
                }
            }
        }
        Ok(answered)
    }

    /// Writes a group that fits what is reserved, unless somebody else writes just now. The write only
    /// reaches the page cache: handing it to the thread and back costs more.
    fn write_at_once(&self, append: Append) -> Result<(), Append> {
        let Ok(mut writer) = self.writer.try_lock() else { return Err(append) };
        let bytes = append.decisions.len();
        if !writer.has_room(bytes) {
            return Err(append);
        }
        self.shared.counters.queue_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if writer.step(vec![append]) {
            self.alarm.ring();
        }
        Ok(())
    }

    fn step(&self, groups: Vec<Append>) -> bool {
        self.writer.lock().expect("no panic while the writer is held").step(groups)
    }

    /// Returns when every group that was answered before the call is on stable storage.
    pub(crate) fn flush(&self) -> BoxFuture<'_, Result<(), AppendError>> {
        let (answer, answered) = oneshot::channel();
        if self.shared.answer_when_durable(self.shared.tail().seq, answer) {
            if self.shared.options.threads {
                self.alarm.ring();
            } else {
                let _ = self.shared.flush();
            }
        }
        Box::pin(async move { answered.await.unwrap_or(Err(AppendError::Failed)).map(drop) })
    }

    /// Shows what was there when the log was opened: the snapshot's parts, then the groups since. Returns
    /// the last number given. Reads files: call it where that may block.
    pub(crate) fn recover(&self, visit: &mut dyn FnMut(Recovered<'_>)) -> Result<StateSeq, ReadError> {
        recovery::replay(&*self.shared.disk, &self.shared.dir, self.shared.store, &self.history, visit)
    }

    /// Replaces the snapshot by `parts`, one for each live subscription, copied after
    /// [`StateLog::wants_snapshot`] said so. One at a time: a second meanwhile is refused as overload.
    pub(crate) fn snapshot(&self, parts: Vec<SnapshotPart>) -> BoxFuture<'_, Result<(), AppendError>> {
        if self.snapshot_running.swap(true, Ordering::AcqRel) {
            return Box::pin(std::future::ready(Err(AppendError::Overloaded)));
        }
        let (shared, running) = (Arc::clone(&self.shared), Arc::clone(&self.snapshot_running));
        let (answer, answered) = oneshot::channel();
        let write = move || {
            let outcome = snapshot::write(&shared, &parts);
            running.store(false, Ordering::Release);
            let _ = answer.send(outcome);
        };
        if self.shared.options.threads {
            match thread::Builder::new().name("state-snapshot".into()).spawn(write) {
                Ok(handle) => {
                    let mut threads = self.threads.lock().expect("no panic while the threads are held");
                    threads.retain(|thread| !thread.is_finished());
                    threads.push(handle);
                }
                Err(error) => {
                    tracing::warn!(%error, "no thread for a state snapshot");
                    self.snapshot_running.store(false, Ordering::Release);
                    return Box::pin(std::future::ready(Err(AppendError::Overloaded)));
                }
            }
        } else {
            write();
        }
        Box::pin(async move { answered.await.unwrap_or(Err(AppendError::Failed)) })
    }

    /// Whether so much was recorded since the last snapshot, or so long ago, that the next start would read
    /// too much. The moment is remembered: a subscription that came later is not missing from the snapshot.
    pub(crate) fn wants_snapshot(&self) -> bool {
        let recorded = self.shared.tail().seq;
        let now = self.shared.clock.now();
        let options = &self.shared.options;
        let mut since = self.shared.since_snapshot.lock().expect("no panic while the count is held");
        let is_due = options.snapshot_bytes < since.bytes
            || (0 < since.bytes && options.snapshot_every <= now.since(since.at));
        if is_due {
            since.asked_at.get_or_insert(recorded);
        }
        is_due
    }

    /// The newest time that any record carries; broker time must not start below it.
    pub(crate) fn newest_time(&self) -> Timestamp {
        self.shared.newest()
    }

    /// Adds what this log knows.
    pub(crate) fn health(&self, into: &mut LogHealth) {
        let counters = &self.shared.counters;
        let files = self.shared.files.lock().expect("no panic while the files are held").len() as u64;
        let ballast = if self.shared.ballast.is_held() { self.shared.options.ballast_bytes } else { 0 };
        into.failed |= self.shared.has_failed();
        into.queue_bytes += counters.queue_bytes.load(Ordering::Relaxed);
        into.bytes_on_disk += files * self.shared.options.file_bytes + ballast;
        into.state_groups_total += counters.groups.load(Ordering::Relaxed);
        into.state_bytes_total += counters.bytes.load(Ordering::Relaxed);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.shared.has_failed()
    }

    /// Done when the log has failed and the process must end. Cancel safe.
    pub(crate) fn failed(&self) -> BoxFuture<'_, ()> {
        let mut failed = self.shared.watch_failed();
        Box::pin(async move {
            // The sender lives as long as `self`, so an error cannot be.
            let _ = failed.wait_for(|failed| *failed).await;
        })
    }

    /// Writes what is queued, flushes, and marks all of it durable. Appends after it fail. Blocks.
    pub(crate) fn close(&self) {
        if !self.stop() {
            return;
        }
        let mut writer = self.writer.lock().expect("no panic while the writer is held");
        // A failure is told by `failed` and the log.
        if self.shared.flush().is_ok() {
            writer.mark();
            let _ = self.shared.flush();
        }
    }

    /// Ends the threads; the queue is emptied first. False when that was done before.
    fn stop(&self) -> bool {
        let queue = self.queue.lock().expect("no panic while the queue is held").take();
        let was_open = queue.is_some();
        drop(queue);
        self.alarm.stop();
        let threads = std::mem::take(&mut *self.threads.lock().expect("no panic while the threads are held"));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the state log panicked");
            }
        }
        was_open
    }
}

/// Ends without a flush, as a process that dies does; [`StateLog::close`] is the orderly way.
impl Drop for StateLog {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Alarm {
    fn ring(&self) {
        self.state.lock().expect("no panic while the alarm is held").rung = true;
        self.changed.notify_one();
    }

    fn stop(&self) {
        self.state.lock().expect("no panic while the alarm is held").stop = true;
        self.changed.notify_one();
    }

    /// Waits for a ring or the period's end; false when it is time to stop.
    fn wait(&self, period: Duration) -> bool {
        let state = self.state.lock().expect("no panic while the alarm is held");
        let waited = self.changed.wait_timeout_while(state, period, |state| !state.rung && !state.stop);
        let (mut state, _) = waited.expect("no panic while the alarm is held");
        state.rung = false;
        !state.stop
    }
}

fn run_writer(queue: &Receiver<Append>, writer: &Mutex<Writer>, alarm: &Alarm) {
    loop {
        let first = match queue.recv_timeout(IDLE) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                writer.lock().expect("no panic while the writer is held").mark();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut bytes = first.decisions.len();
        let mut groups = vec![first];
        while bytes < STEP_BYTES_MAX
            && let Ok(next) = queue.try_recv()
        {
            bytes += next.decisions.len();
            groups.push(next);
        }
        if writer.lock().expect("no panic while the writer is held").step(groups) {
            alarm.ring();
        }
    }
}

fn run_flusher(shared: &Shared, alarm: &Alarm) {
    while alarm.wait(FLUSH_EVERY) {
        if shared.flush().is_err() {
            return;
        }
    }
}
