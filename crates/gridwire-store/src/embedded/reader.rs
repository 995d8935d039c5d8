//! Reading what is durable: frames in order, the positions of a subscription that is behind, single events.
//!
//! The tail cache answers the usual calls. The rest blocks on files and runs on two threads of its own
//! ([`Readers`]), so that no task of the runtime waits for a disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use gridwire_core::ids::{Lsn, Offset, Slot, TopicNumber};
use tokio::sync::{Semaphore, oneshot};

use super::block::{BlockIndex, EventPlace};
use super::format::{Contents, FRAME_HEADER, FrameHeader};
use super::segment::Segment;
use super::shared::Shared;
use crate::log::{Fetched, Frame, Matches, ReadError};

/// Blocks whose index one scan consults: bounds how long a scan that finds nothing takes.
const SCAN_BLOCKS_MAX: usize = 4;
/// Bytes read ahead for single events: small, since the next one asked for may be far away.
const FETCH_AHEAD: usize = 32 << 10;
/// Reads waiting for a thread; more wait for their turn without a place in the queue.
const JOBS_MAX: usize = 256;
/// Enough to keep a disk busy while another read waits for an index to be built.
const THREADS: usize = 2;

type Job = Box<dyn FnOnce() + Send>;

/// The threads that read from files; without threads, whoever asks does it.
#[derive(Debug)]
pub(crate) struct Readers {
    jobs: Option<Sender<Job>>,
    places: Arc<Semaphore>,
}

impl Readers {
    pub(crate) fn inline() -> Self {
        Self { jobs: None, places: Arc::new(Semaphore::new(JOBS_MAX)) }
    }

    /// Starts the threads; they end when the value is dropped and what waits is done.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (jobs, queue) = crossbeam_channel::bounded::<Job>(JOBS_MAX);
        for number in 0..THREADS {
            let queue: Receiver<Job> = queue.clone();
            std::thread::Builder::new().name(format!("log-reader-{number}")).spawn(move || {
                for job in queue {
                    // A panic ends the one read; its caller is told by the channel that closes.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            })?;
        }
        Ok(Self { jobs: Some(jobs), places: Arc::new(Semaphore::new(JOBS_MAX)) })
    }

    /// Runs `job` off the runtime's threads. Cancel safe: a job that nobody waits for is done for nothing.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let Some(jobs) = &self.jobs else {
            return job();
        };
        let gone = || ReadError::Io("the read was given up".to_owned());
        // There is a place in the queue for each permit, so that sending never waits.
        let place = self.places.clone().acquire_owned().await.map_err(|_| gone())?;
        let (answer, answered) = oneshot::channel();
        let job = move || {
            let _ = answer.send(job());
            drop(place);
        };
        jobs.try_send(Box::new(job)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

fn io(error: &std::io::Error) -> ReadError {
    ReadError::Io(error.to_string())
}

fn damaged(segment: &Segment, at: u64, what: &str) -> ReadError {
    ReadError::Damaged { what: format!("segment {}, byte {at}: {what}", segment.number) }
}

/// The same bytes were sound in one reading and not in another.
fn inconstant(segment: &Segment, at: u64) -> ReadError {
    ReadError::Io(format!("segment {}, byte {at}: every reading gives something else", segment.number))
}

/// The events of a frame at `offsets`, which ascend and are all within it.
fn pick(frame: &Frame, offsets: &[Offset], into: &mut Vec<Fetched>) -> Option<()> {
    let mut wanted = offsets.iter().peekable();
    for stored in frame.view().events() {
        while wanted.next_if_eq(&&stored.offset).is_some() {
            let event = frame.body.slice_ref(stored.event_bytes()?);
            into.push(Fetched { offset: stored.offset, time: frame.time, event });
        }
        if wanted.peek().is_none() {
            break;
        }
    }
    wanted.peek().is_none().then_some(())
}

fn frame_from(header: &FrameHeader, frame: &[u8]) -> Frame {
    let FrameHeader { lsn, topic, first, count, time, .. } = *header;
    // Its own allocation, so that one event held for long does not hold a whole stretch of the file.
    let body = Bytes::copy_from_slice(&frame[FRAME_HEADER..]);
    Frame { lsn: Lsn(lsn), topic, first, count, time, body }
}

/// The last block that begins at or before an LSN.
fn block_of_lsn(contents: &Contents, lsn: u64) -> Option<usize> {
    contents.blocks.partition_point(|block| block.lsn <= lsn).checked_sub(1)
}

/// The block that holds an offset which the segment holds.
fn block_of_offset(contents: &Contents, topic: TopicNumber, offset: u64) -> Option<usize> {
    contents.blocks.iter().rposition(|block| block.topics.get(&topic).is_some_and(|first| *first <= offset))
}

impl Shared {
    fn files(&self) -> (&dyn gridwire_outside::Disk, &std::path::Path) {
        (&*self.disk, &self.dir)
    }

    /// Event frames from `from` on, out of the files. Empty only when the frames from there on are not
    /// durable or are marks.
    pub(crate) fn read_files(&self, from: Lsn, bytes_max: usize) -> Result<Vec<Frame>, ReadError> {
        let mut frames = Vec::new();
        let mut from = from.0.max(self.first_lsn());
        while frames.is_empty() {
            let Some(segment) = self.segment_of(from) else { break };
            let (block, first_lsn, end_at, end_lsn) = {
                let contents = &segment.state().contents;
                let first_lsn = contents.blocks.first().map(|block| block.lsn);
                (block_of_lsn(contents, from), first_lsn, contents.end_at, contents.end_lsn)
            };
            let Some(block) = block else {
                // A repair may have left a segment without frames, or without the first of them.
                from = first_lsn.filter(|first| from < *first).unwrap_or(end_lsn);
                continue;
            };
            let (mut lsn, mut at) =
                self.indexes.with(self.files(), &segment, block, |index| index.place_before(from))?;
            let mut window = segment.window(end_at, bytes_max.clamp(FETCH_AHEAD, 1 << 20));
            let mut bytes = 0;
            while at < end_at && bytes < bytes_max.max(1) {
                let Some((header, frame)) =
                    window.frame_if(at, |header| header.lsn == lsn).map_err(|error| io(&error))?
                else {
                    (at, lsn) = self.behind_damage(&segment, at)?;
                    continue;
                };
                at += frame.len() as u64;
                lsn += 1;
                if from <= header.lsn && !header.is_mark() {
                    bytes += frame.len();
                    frames.push(frame_from(&header, frame));
                }
            }
            from = end_lsn;
        }
        Ok(frames)
    }

    /// Where to read on, and the LSN there, when there is no sound frame at `at`.
    pub(crate) fn behind_damage(&self, segment: &Segment, at: u64) -> Result<(u64, u64), ReadError> {
        if segment.behind_damage(at).is_none() {
            let block = {
                let contents = &segment.state().contents;
                contents.blocks.partition_point(|block| block.at <= at).saturating_sub(1)
            };
            self.indexes.examine(segment, block)?;
        }
        segment.behind_damage(at).ok_or_else(|| inconstant(segment, at))
    }

    /// The next positions that a slot matched; see `Log::scan`.
    pub(crate) fn scan_index(
        &self,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
        max: usize,
    ) -> Result<Matches, ReadError> {
        let (found, _) = self.scan_blocks(topic, slot, from, max, |segment, block, show| {
            let covered = self.indexes.with(self.files(), segment, block, show)?;
            Ok(Some((covered, true)))
        })?;
        Ok(found)
    }

    /// The same by slices; see `Log::scan_slice`.
    pub(crate) fn scan_index_slice(
        &self,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
        max: usize,
    ) -> Result<Option<Matches>, ReadError> {
        let (found, is_cut) = self.scan_blocks(topic, slot, from, max, |segment, block, show| {
            self.indexes.with_slice(self.files(), segment, block, show)
        })?;
        Ok((!is_cut || from.0 < found.next).then_some(found))
    }

    /// Goes from block to block by what `with` shows of their indexes: up to where it covers the topic, and whether
    /// that is all there is; `None` when it has nothing to show yet. Says too whether it was cut short by that.
    fn scan_blocks(
        &self,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
        max: usize,
        with: impl Fn(
            &Arc<Segment>,
            usize,
            &mut dyn FnMut(&BlockIndex) -> u64,
        ) -> Result<Option<(u64, bool)>, ReadError>,
    ) -> Result<(Matches, bool), ReadError> {
        let end = self.end(topic).0;
        let mut found = Matches { next: from.0, ..Matches::default() };
        for _ in 0..SCAN_BLOCKS_MAX {
            if end <= found.next || found.matches.len() == max {
                break;
            }
            let Some(segment) = self.segment_with(topic, Offset(found.next)) else { break };
            let block = {
                let contents = &segment.state().contents;
                let Some(span) = contents.topics.get(&topic) else { break };
                found.next = found.next.max(span.first); // What is below is not retained.
                block_of_offset(contents, topic, found.next)
            };
            let Some(block) = block else { break };
            let (matches, lost, next) = (&mut found.matches, &mut found.lost, found.next);
            let shown = with(&segment, block, &mut |index| {
                let covered = index.matches(topic, slot, next, max, matches);
                let ranges = index.lost(topic).map(|lost| lost.start.max(next)..lost.end.min(covered));
                lost.extend(ranges.filter(|range| !range.is_empty()));
                covered
            })?;
            let Some((covered, complete)) = shown else { return Ok((found, true)) };
            if complete && covered == found.next && found.matches.len() < max {
                return Err(damaged(&segment, 0, "the index does not cover what the segment holds"));
            }
            found.next = covered;
            if !complete {
                return Ok((found, true));
            }
        }
        Ok((found, false))
    }

    /// The events at `offsets` that are in the tail cache; `rest` are those before, which are not.
    pub(crate) fn fetch_tail<'o>(
        &self,
        topic: TopicNumber,
        offsets: &'o [Offset],
    ) -> Result<(&'o [Offset], Vec<Fetched>), ReadError> {
        let mut events = Vec::new();
        let tail = self.tail();
        // Offsets that are not there yet are in no cache; below the end what is cached is a suffix.
        let end = self.end(topic);
        let known = &offsets[..offsets.partition_point(|offset| *offset < end)];
        let cold = known.partition_point(|offset| tail.frame_of(topic, *offset).is_none());
        let (rest, mut warm) = known.split_at(cold);
        while let Some(frame) = warm.first().and_then(|first| tail.frame_of(topic, *first)) {
            let (own, later) = warm.split_at(warm.partition_point(|offset| offset.0 < frame.end()));
            pick(frame, own, &mut events)
                .ok_or_else(|| ReadError::Damaged { what: format!("frame {}: malformed", frame.lsn) })?;
            warm = later;
        }
        Ok((rest, events))
    }

    /// The events at `offsets`, when all of them are in frames that were read of late and are retained.
    pub(crate) fn fetch_recent(&self, topic: TopicNumber, offsets: &[Offset]) -> Option<Vec<Fetched>> {
        let mut events = Vec::new();
        let mut rest = offsets;
        while let Some(&first) = rest.first() {
            let frame = self.recent_frame(topic, first)?;
            let (own, later) = rest.split_at(rest.partition_point(|offset| offset.0 < frame.end()));
            pick(&frame, own, &mut events)?;
            rest = later;
        }
        Some(events)
    }

    fn recent_frame(&self, topic: TopicNumber, offset: Offset) -> Option<Frame> {
        let frame = self.recent().frame_of(topic, offset)?;
        // It may have been trimmed since.
        (self.first_lsn() <= frame.lsn.0).then_some(frame)
    }

    /// The events at `offsets`, out of the files. Those no longer retained are left out.
    pub(crate) fn fetch_files(
        &self,
        topic: TopicNumber,
        mut offsets: &[Offset],
    ) -> Result<Vec<Fetched>, ReadError> {
        let mut events = Vec::new();
        while let Some(&first) = offsets.first() {
            let Some(segment) = self.segment_with(topic, first) else { break };
            let (start, block, end_at) = {
                let contents = &segment.state().contents;
                let Some(span) = contents.topics.get(&topic) else { break };
                (span.first, block_of_offset(contents, topic, first.0), contents.end_at)
            };
            if first.0 < start {
                offsets = &offsets[offsets.partition_point(|offset| offset.0 < start)..];
                continue;
            }
            let Some(block) = block else { break };
            let places: Vec<EventPlace> = self.indexes.with(self.files(), &segment, block, |index| {
                offsets.iter().map_while(|offset| index.place_of(topic, *offset)).collect()
            })?;
            if places.is_empty() {
                return Err(damaged(&segment, 0, "the index does not cover what the segment holds"));
            }
            let (own, later) = offsets.split_at(places.len());
            offsets = later;
            let mut window = segment.window(end_at, FETCH_AHEAD);
            let mut done = 0;
            for frame_places in places.chunk_by(|a, b| a == b) {
                let (place, wanted) = (frame_places[0], &own[done..done + frame_places.len()]);
                done += frame_places.len();
                let EventPlace::At(at) = place else { continue };
                let frame = match self.recent_frame(topic, wanted[0]) {
                    Some(frame) => Some(frame),
                    None => window
                        .frame_if(at, |header| header.topic == topic)
                        .map_err(|error| io(&error))?
                        .map(|(header, frame)| frame_from(&header, frame)),
                };
                let picked = frame.as_ref().and_then(|frame| pick(frame, wanted, &mut events));
                match frame {
                    Some(frame) if picked.is_some() => {
                        if wanted.last().is_some_and(|last| last.0 + 1 < frame.end()) {
                            self.recent().keep(frame);
                        }
                    }
                    _ => self.confirm_loss(&segment, block, topic, wanted, at)?,
                }
            }
        }
        Ok(events)
    }

    /// There is no sound frame with the `wanted` events at `at`, where an index says it is. They are left out
    /// only when the block itself says that they are lost.
    fn confirm_loss(
        &self,
        segment: &Segment,
        block: usize,
        topic: TopicNumber,
        wanted: &[Offset],
        at: u64,
    ) -> Result<(), ReadError> {
        let is_lost = || wanted.iter().all(|offset| segment.has_lost(topic, *offset));
        if !is_lost() {
            self.indexes.examine(segment, block)?;
        }
        if is_lost() { Ok(()) } else { Err(inconstant(segment, at)) }
    }
}
