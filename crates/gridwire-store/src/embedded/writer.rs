//! The one writer of the event log: groups what waits into one write and one flush, then answers.
//!
//! [`Writer`] is a value: queued appends go in, answers come out, and between them it calls the disk. A
//! thread ([`run`]) or a simulation drives it. The first failed write or flush of the log fails the writer for
//! good, since after it nobody knows what the disk has; running out of space does not, since space is
//! reserved before anything is written.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use gridwire_core::frame::FrameDraft;
use gridwire_core::ids::{Lsn, Offset, TopicNumber};
use gridwire_core::planted::planted;
use gridwire_core::time::Timestamp;
use gridwire_outside::{DiskFile, OpenMode};
use tokio::sync::oneshot;

use super::format::{Contents, FRAME_HEADER, FrameHeader, GROUP_BYTES_MAX, SegmentHeader, seed};
use super::segment::{Segment, State, new_path, segment_path, spare_path};
use super::shared::Shared;
use crate::log::{AppendError, Appended, Frame};

/// A growing file reserves this much ahead, so that a full disk refuses before anything is written, and
/// the file system is asked seldom.
const RESERVE_AHEAD: u64 = 16 << 20;
/// A small group that grows the file writes so many zeros behind it: the groups that follow go where blocks
/// were written before, so that their flush leaves the file system's metadata alone.
const ZEROS_AHEAD: u64 = 64 << 10;
/// How long the log is idle before the writer marks the last group as durable.
const IDLE: Duration = Duration::from_secs(1);

/// An append on its way to the writer.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) draft: FrameDraft,
    pub(crate) answer: oneshot::Sender<Result<Appended, AppendError>>,
    /// What it counts for in the queue.
    pub(crate) weight: u64,
}

/// An answer on its way back.
#[derive(Debug)]
pub(crate) struct Done {
    answer: oneshot::Sender<Result<Appended, AppendError>>,
    result: Result<Appended, AppendError>,
    weight: u64,
}

impl Done {
    pub(crate) fn send(self, shared: &Shared) {
        shared.queue_bytes.fetch_sub(self.weight, Ordering::Relaxed);
        // Nobody may be waiting any more: a client that hangs up does not cancel its append.
        let _ = self.answer.send(self.result);
    }
}

/// The writer's state between two groups.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    /// None before the first append, and after a start that found the last segment sealed.
    active: Option<Active>,
    ends: BTreeMap<TopicNumber, u64>,
    next_lsn: u64,
    /// The LSN after the last event frame, and the highest one that a flushed frame or footer vouches for.
    events_end: u64,
    marked: u64,
    newest: Timestamp,
    buffer: Vec<u8>,
}

/// The segment that is appended to.
#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    at: u64,
    /// Frames and footer fit below.
    capacity: u64,
    /// Space is taken up to here; writing below does not need more.
    reserved: u64,
    /// Every byte below was written before.
    written: u64,
    /// A write that did not fit may have left bytes up to here.
    dirty: u64,
}

/// A segment file that is complete but for its name.
struct Prepared {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    spare: Option<u8>,
    number: u64,
    data_at: u64,
    reserved: u64,
}

/// A frame of the group that is being written; a mark has no draft.
struct Entry {
    topic: TopicNumber,
    count: u32,
    body: Bytes,
}

pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Writer {
    /// Goes on where recovery found the end.
    pub(crate) fn new(shared: Arc<Shared>, next_lsn: u64, marked: u64) -> Self {
        let events_end = *shared.visible.borrow();
        let active = shared.last_segment().filter(|segment| !segment.state().sealed).map(|segment| {
            let (at, len) = {
                let state = segment.state();
                (state.contents.end_at, state.bytes)
            };
            let capacity = shared.options.segment_bytes.max(len);
            let reserved = if len == capacity { len } else { at };
            Active { segment, at, capacity, reserved, written: len, dirty: 0 }
        });
        let ends = shared.all_ends();
        let newest = shared.newest();
        Self { shared, active, ends, next_lsn, events_end, marked, newest, buffer: Vec::new() }
    }

    /// Appends a batch in as few groups as may be, and returns an answer for each.
    pub(crate) fn step(&mut self, batch: Vec<Queued>) -> Vec<Done> {
        let mut done = Vec::with_capacity(batch.len());
        let (mut group, mut bytes) = (Vec::new(), 0);
        let group_bytes_max = GROUP_BYTES_MAX.min(self.shared.options.body_bytes_max());
        for queued in batch {
            let len = FRAME_HEADER + queued.draft.body.len();
            if group_bytes_max < bytes + len && !group.is_empty() {
                self.step_group(std::mem::take(&mut group), &mut done);
                bytes = 0;
            }
            bytes += len;
            group.push(queued);
        }
        self.step_group(group, &mut done);
        done
    }

    fn step_group(&mut self, group: Vec<Queued>, done: &mut Vec<Done>) {
        let (mut entries, mut waiting) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
        for Queued { draft, answer, weight } in group {
            entries.push(Entry { topic: draft.topic, count: draft.count, body: draft.body.into() });
            waiting.push((answer, weight));
        }
        match self.append(entries) {
            Ok(appended) => {
                for ((answer, weight), appended) in waiting.into_iter().zip(appended) {
                    done.push(Done { answer, result: Ok(appended), weight });
                }
            }
            Err(error) => done.extend(waiting.into_iter().map(|(answer, weight)| Done {
                answer,
                result: Err(error),
                weight,
            })),
        }
    }

    /// Whether the last group's durability is not yet written down, so that damage to it would pass for a
    /// torn tail.
    pub(crate) fn wants_mark(&self) -> bool {
        self.marked < self.events_end && !self.shared.has_failed()
    }

    /// Appends an empty frame that only says what is durable.
    pub(crate) fn mark(&mut self) {
        if self.wants_mark() {
            // Without space the mark is left out: it only helps to tell damage from a torn tail.
            let _ = self.append(vec![Entry { topic: TopicNumber(0), count: 0, body: Bytes::new() }]);
        }
    }

    /// Looks whether space has come back, so that publishers are let in again.
    pub(crate) fn probe_space(&self) {
        if self.shared.full.load(Ordering::Relaxed) {
            let wanted = RESERVE_AHEAD.min(self.shared.options.segment_bytes) * 2;
            let free = self.shared.disk.free_bytes(&self.shared.dir);
            if free.is_ok_and(|free| wanted <= free) {
                self.shared.full.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Writes one group and flushes it.
    fn append(&mut self, entries: Vec<Entry>) -> Result<Vec<Appended>, AppendError> {
        if self.shared.has_failed() {
            return Err(AppendError::Failed);
        }
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let result = self.append_or_stop(entries);
        self.shared.full.store(matches!(result, Err(Stop::NoSpace)), Ordering::Relaxed);
        result.map_err(|stop| match stop {
            Stop::NoSpace => AppendError::StorageFull,
            Stop::TooLarge => AppendError::TooLarge { max: self.shared.options.body_bytes_max() },
            Stop::Failed(doing, error) => {
                self.shared.fail(doing, &error);
                AppendError::Failed
            }
        })
    }

    fn append_or_stop(&mut self, entries: Vec<Entry>) -> Result<Vec<Appended>, Stop> {
        let bytes: u64 = entries.iter().map(|entry| (FRAME_HEADER + entry.body.len()) as u64).sum();
        self.make_room(entries.len(), bytes)?;
        let time = self.shared.clock.now().max(self.newest);
        let active = self.active.as_mut().expect("room was made in a segment");
        let (headers, changed) = number(&entries, self.next_lsn, &self.ends, time);
        self.buffer.clear();
        for (header, entry) in headers.iter().zip(&entries) {
            header.encode(&entry.body, active.segment.seed, &mut self.buffer);
        }
        let end = active.at + bytes;
        // What an earlier write left behind must not follow these frames as if it belonged there.
        let zeros = active.dirty.max(active.zeros_to(end, bytes)).saturating_sub(end);
        self.buffer.resize(self.buffer.len() + usize::try_from(zeros).unwrap_or(0), 0);
        active.write(&self.buffer)?;
        let before = self.shared.clock.monotonic();
        if self.shared.options.flushes() && !planted("missing-flush") {
            active.segment.file.sync_data().map_err(|error| Stop::Failed("flush a group", error))?;
        }
        self.shared.count_flush(self.shared.clock.monotonic().saturating_sub(before));

        active.at = end;
        active.written = active.written.max(end + zeros);
        active.dirty = 0;
        self.marked = self.next_lsn;
        self.next_lsn += headers.len() as u64;
        self.newest = time;
        self.ends.extend(changed.iter().map(|(topic, end)| (*topic, *end)));
        self.publish(&headers, entries, changed);
        Ok(headers
            .iter()
            .map(|header| Appended { lsn: Lsn(header.lsn), first: header.first, time: header.time })
            .collect())
    }

    /// Shows a durable group to the readers.
    fn publish(&mut self, headers: &[FrameHeader], entries: Vec<Entry>, changed: BTreeMap<TopicNumber, u64>) {
        let shared = &self.shared;
        let active = self.active.as_ref().expect("a group was just written to it");
        let (mut events, mut bytes) = (0, 0);
        {
            let mut state = active.segment.state_mut();
            for (header, entry) in headers.iter().zip(&entries) {
                let len = (FRAME_HEADER + entry.body.len()) as u64;
                state.contents.add(header, len, shared.options.block_bytes);
                events += u64::from(header.count);
                bytes += len;
            }
            state.bytes = state.bytes.max(active.reserved);
        }
        shared.set_newest(self.newest);
        shared.stats.frames.fetch_add(headers.len() as u64, Ordering::Relaxed);
        shared.stats.events.fetch_add(events, Ordering::Relaxed);
        shared.stats.bytes.fetch_add(bytes, Ordering::Relaxed);
        if events == 0 {
            return; // A mark is nothing to read.
        }
        shared.ends_mut().extend(changed);
        {
            let mut tail = shared.tail_mut();
            for (header, entry) in headers.iter().zip(entries) {
                let FrameHeader { lsn, topic, first, count, time, .. } = *header;
                tail.push(Frame { lsn: Lsn(lsn), topic, first, count, time, body: entry.body });
            }
        }
        self.events_end = self.next_lsn;
        shared.visible.send_replace(self.next_lsn);
    }

    /// Makes sure that the active segment takes a group of `frames` in `bytes`, with its space reserved.
    fn make_room(&mut self, frames: usize, bytes: u64) -> Result<(), Stop> {
        let block_bytes = self.shared.options.block_bytes;
        let fits = self.active.as_ref().is_some_and(|active| {
            let footer = active.segment.state().contents.footer_len_max(frames, bytes, block_bytes);
            active.at + bytes + footer <= active.capacity
        });
        if !fits {
            let header = self.next_header();
            let data = header.encode(self.shared.store);
            let empty = Contents::new(data.len() as u64, &header);
            let footer = empty.footer_len_max(frames, bytes, block_bytes);
            if self.shared.options.segment_bytes < empty.data_at + bytes + footer {
                return Err(Stop::TooLarge);
            }
            self.roll(&header, &data)?;
        }
        let active = self.active.as_mut().expect("a segment was just opened");
        active.reserve(active.at + bytes)
    }

    fn next_header(&self) -> SegmentHeader {
        SegmentHeader {
            number: self.shared.last_segment().map_or(1, |last| last.number + 1),
            first_lsn: self.next_lsn,
            created: self.shared.clock.now(),
            newest: self.newest,
            events_end: self.events_end,
            ends: self.ends.clone(),
        }
    }

    /// Goes on in a new segment: makes its file ready, seals the old one, then gives the new one its name.
    /// Whatever finds no space does so before anything that could not be taken back.
    fn roll(&mut self, header: &SegmentHeader, bytes: &[u8]) -> Result<(), Stop> {
        let number = header.number;
        let prepared = self.prepare(number, bytes)?;
        if let Err(stop) = self.seal() {
            self.discard(&prepared);
            return Err(stop);
        }
        let Prepared { file, path, spare, data_at, reserved, .. } = prepared;
        let shared = &self.shared;
        shared
            .disk
            .rename(&path, &segment_path(&shared.dir, number))
            .and_then(|()| shared.disk.sync_dir(&shared.dir))
            .map_err(|error| Stop::Failed("name a segment", error))?;
        if let Some(place) = spare {
            shared.spares.give_back(place, false);
        }
        let contents = Contents::new(data_at, header);
        let state = State { contents, sealed: false, bytes: reserved };
        let segment = Arc::new(Segment::new(number, seed(shared.store, number), file, state));
        shared.push_segment(segment.clone());
        let capacity = shared.options.segment_bytes;
        let written = if spare.is_some() { capacity } else { data_at };
        self.active = Some(Active { segment, at: data_at, capacity, reserved, written, dirty: 0 });
        self.marked = self.next_lsn; // The sealed segment's footer vouches for everything before.
        Ok(())
    }

    /// A spare, or a fresh file when none is ready: the writer never waits for one.
    fn prepare(&self, number: u64, header: &[u8]) -> Result<Prepared, Stop> {
        let shared = &self.shared;
        let spare = shared.spares.take();
        let path =
            spare.map_or_else(|| new_path(&shared.dir, number), |place| spare_path(&shared.dir, place));
        let mode = if spare.is_some() { OpenMode::Existing } else { OpenMode::Create };
        let opened = shared.disk.open(&path, mode);
        let file = opened.map_err(|error| {
            if let Some(place) = spare {
                shared.spares.give_back(place, true);
            }
            Stop::from("open a segment", error)
        })?;
        let data_at = header.len() as u64;
        let reserved = if spare.is_some() {
            shared.options.segment_bytes
        } else {
            (data_at + RESERVE_AHEAD).min(shared.options.segment_bytes)
        };
        let prepared = Prepared { file, path, spare, number, data_at, reserved };
        let written = if spare.is_some() { Ok(()) } else { prepared.file.allocate(0, reserved) }
            .and_then(|()| prepared.file.write_at(header, 0))
            .map_err(|error| Stop::from("write a segment's header", error))
            .and_then(|()| {
                prepared.file.sync_data().map_err(|e| Stop::Failed("flush a segment's header", e))
            });
        if let Err(stop) = written {
            self.discard(&prepared);
            return Err(stop);
        }
        Ok(prepared)
    }

    fn discard(&self, prepared: &Prepared) {
        tracing::debug!(segment = prepared.number, "gave up a segment that was made ready");
        match prepared.spare {
            Some(place) => self.shared.spares.give_back(place, true),
            // What cannot be removed now is removed as a leftover at the next start.
            None => drop(self.shared.disk.remove(&prepared.path)),
        }
    }

    fn seal(&mut self) -> Result<(), Stop> {
        let Some(active) = self.active.as_mut() else {
            return Ok(());
        };
        let footer = active.segment.state().contents.encode_footer(active.segment.seed);
        let at = active.capacity - footer.len() as u64;
        let file = &active.segment.file;
        if active.reserved < active.capacity {
            let from = at.max(active.reserved);
            file.allocate(from, active.capacity - from).map_err(|e| Stop::from("reserve space", e))?;
        }
        file.write_at(&footer, at).map_err(|error| Stop::from("write a footer", error))?;
        file.sync_data().map_err(|error| Stop::Failed("flush a footer", error))?;
        let mut state = active.segment.state_mut();
        state.sealed = true;
        state.bytes = active.capacity;
        drop(state);
        self.active = None;
        Ok(())
    }
}

/// Why a group was not written.
enum Stop {
    NoSpace,
    TooLarge,
    Failed(&'static str, io::Error),
}

impl Stop {
    fn from(doing: &'static str, error: io::Error) -> Self {
        if is_no_space(&error) { Self::NoSpace } else { Self::Failed(doing, error) }
    }
}

impl Active {
    fn reserve(&mut self, end: u64) -> Result<(), Stop> {
        if end <= self.reserved {
            return Ok(());
        }
        let to = (end + RESERVE_AHEAD).min(self.capacity);
        let reserved = self.segment.file.allocate(self.reserved, to - self.reserved);
        reserved.map_err(|error| Stop::from("reserve space", error))?;
        self.reserved = to;
        Ok(())
    }

    /// Where the zeros end that a group of `bytes` up to `end` writes behind itself; below `end` for none. A
    /// large group's own bytes outweigh the metadata.
    fn zeros_to(&self, end: u64, bytes: u64) -> u64 {
        if end <= self.written || ZEROS_AHEAD / 2 < bytes {
            0
        } else {
            (end + ZEROS_AHEAD).min(self.reserved)
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let Err(error) = self.segment.file.write_at(bytes, self.at) else {
            return Ok(());
        };
        let stop = Stop::from("write a group", error);
        if matches!(stop, Stop::NoSpace) {
            // Where space cannot be reserved a part may have been written. The next group covers it; until
            // then its first frame must not be found.
            self.dirty = self.dirty.max(self.at + bytes.len() as u64);
            let _ = self.segment.file.write_at(&[0; 8], self.at);
        }
        Err(stop)
    }
}

/// Gives each frame of a group its LSN and its offsets; also the ends of the topics that move.
fn number(
    entries: &[Entry],
    durable: u64,
    ends: &BTreeMap<TopicNumber, u64>,
    time: Timestamp,
) -> (Vec<FrameHeader>, BTreeMap<TopicNumber, u64>) {
    let mut changed = BTreeMap::new();
    let headers = (durable..).zip(entries).map(|(lsn, &Entry { topic, count, .. })| {
        if count == 0 {
            return FrameHeader { lsn, durable, topic, count, first: Offset(0), time };
        }
        let end = changed.entry(topic).or_insert_with(|| ends.get(&topic).copied().unwrap_or(0));
        let first = Offset(*end);
        *end += u64::from(count);
        FrameHeader { lsn, durable, topic, count, first, time }
    });
    (headers.collect(), changed)
}

/// What the writer's thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    Append(Queued),
    /// Mark the clean end and stop.
    Close,
}

/// Drives a writer until it is told to close or nobody can append any more.
pub(crate) fn run(mut writer: Writer, commands: &Receiver<Command>) {
    let _guard = FailOnPanic(writer.shared.clone());
    let mut closing = false;
    while !closing {
        let idle = writer.wants_mark() || writer.shared.full.load(Ordering::Relaxed);
        let command = if idle {
            commands.recv_timeout(IDLE)
        } else {
            commands.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        let (mut batch, mut bytes) = (Vec::new(), 0);
        match command {
            Ok(Command::Append(queued)) => {
                bytes += queued.draft.body.len();
                batch.push(queued);
            }
            Ok(Command::Close) => closing = true,
            Err(RecvTimeoutError::Timeout) => {
                writer.mark();
                writer.probe_space();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while bytes < GROUP_BYTES_MAX {
            match commands.try_recv() {
                Ok(Command::Append(queued)) => {
                    bytes += queued.draft.body.len();
                    batch.push(queued);
                }
                Ok(Command::Close) => closing = true,
                Err(_) => break,
            }
        }
        for done in writer.step(batch) {
            done.send(&writer.shared);
        }
    }
    writer.mark();
}

/// A writer that is gone without having been told to is a failed log.
struct FailOnPanic(Arc<Shared>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("keep its writer alive", &io::Error::other("the writer panicked"));
        }
    }
}
