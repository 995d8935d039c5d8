//! Frames that are not what was written, found while the log runs.
//!
//! What a damaged frame held cannot be asked of the frame: its header may be what is damaged. It is worked out
//! from what surrounds it. A segment's contents (its footer, or what the writer counted) say where each block
//! begins and ends, in bytes, LSNs and each topic's offsets; a walk over the block takes every frame that is
//! sound and the next in order; where there is none, every byte position up to the block's end is tried for a
//! frame that is sound and later. The offsets of the block that are in no sound frame are lost: these and no
//! others. A read that *fails* says nothing of the bytes, so it ends the walk and nothing is lost by it.
//!
//! Lost events are told to subscriptions by whoever they are told of events by: a scan says which offsets are
//! lost, a fetch leaves them out.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gridwire_core::ids::{Offset, TopicNumber};

use super::block::{BlockIndex, Extent};
use super::format::{Contents, FRAME_HEADER};
use super::search::Search;
use super::segment::Segment;
use crate::log::{DamagedStretch, LogHealth, ReadError};

/// Damaged stretches kept for the operator: enough to see where, whatever the number.
const SHOWN_MAX: usize = 16;
/// Damaged stretches that get a line each in the process' log; the rest of a large damage is only counted.
const LINES_MAX: u64 = 100;
/// Bytes of log read at a time while a block is walked.
const AHEAD: usize = 1 << 20;

/// What is damaged in one segment, as far as it was found.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    /// By where they begin: where they end, and the LSN there.
    stretches: BTreeMap<u64, (u64, u64)>,
    /// By topic and first offset: the offset after the last. They do not overlap.
    offsets: BTreeMap<(TopicNumber, u64), u64>,
}

impl Segment {
    fn lost(&self) -> MutexGuard<'_, Lost> {
        // Each insertion leaves it whole.
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the event is known to have been in a damaged frame.
    pub(crate) fn has_lost(&self, topic: TopicNumber, offset: Offset) -> bool {
        let lost = self.lost();
        let before = lost.offsets.range(..=(topic, offset.0)).next_back();
        before.is_some_and(|((of, _), end)| *of == topic && offset.0 < *end)
    }

    /// Where the damage that begins at `at` ends, and the LSN there.
    pub(crate) fn behind_damage(&self, at: u64) -> Option<(u64, u64)> {
        self.lost().stretches.get(&at).copied()
    }
}

/// What was found damaged since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct Damages {
    frames: AtomicU64,
    events: AtomicU64,
    lines: AtomicU64,
    shown: Mutex<VecDeque<DamagedStretch>>,
}

impl Damages {
    pub(crate) fn health(&self, into: &mut LogHealth) {
        into.damaged_frames_total = self.frames.load(Ordering::Relaxed);
        into.damaged_events_total = self.events.load(Ordering::Relaxed);
        into.damages = self.shown.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
    }

    /// Takes down a damaged stretch of a segment, once.
    fn note_stretch(&self, segment: &Segment, bytes: Range<u64>, lsns: Range<u64>) {
        if segment.lost().stretches.insert(bytes.start, (bytes.end, lsns.end)).is_some() {
            return;
        }
        let frames = lsns.end - lsns.start;
        self.frames.fetch_add(frames, Ordering::Relaxed);
        if self.lines.fetch_add(1, Ordering::Relaxed) < LINES_MAX {
            tracing::error!(
                segment = segment.number,
                at = bytes.start,
                end = bytes.end,
                frames,
                "frames of the log are damaged; their events are lost, reading goes on behind them"
            );
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.len() == SHOWN_MAX {
            shown.pop_front();
        }
        shown.push_back(DamagedStretch { segment: segment.number, bytes, frames });
    }

    /// Takes down lost offsets of a segment, each once.
    fn note_offsets(&self, segment: &Segment, topic: TopicNumber, offsets: Range<u64>) {
        let known = segment.lost().offsets.insert((topic, offsets.start), offsets.end);
        let new = offsets.end - known.unwrap_or(offsets.start).min(offsets.end);
        if new == 0 {
            return;
        }
        self.events.fetch_add(new, Ordering::Relaxed);
        if self.lines.fetch_add(1, Ordering::Relaxed) < LINES_MAX {
            let Range { start: first, end } = offsets;
            tracing::error!(segment = segment.number, %topic, first, end, "events of a topic are lost");
        }
    }
}

/// What a block covers, and the offsets of each topic in it, all as of one moment.
struct Bounds {
    extent: Extent,
    topics: BTreeMap<TopicNumber, Range<u64>>,
}

/// What a block of a segment covers.
pub(crate) fn extent_of(contents: &Contents, block: usize) -> Option<Extent> {
    let start = contents.blocks.get(block)?;
    let (at, lsn) = (start.at, start.lsn);
    Some(match contents.blocks.get(block + 1) {
        Some(next) => Extent { at, lsn, end_at: next.at, end_lsn: next.lsn },
        None => Extent { at, lsn, end_at: contents.end_at, end_lsn: contents.end_lsn },
    })
}

impl Bounds {
    fn of(segment: &Segment, block: usize) -> Option<Self> {
        let contents = &segment.state().contents;
        let extent = extent_of(contents, block)?;
        let later = contents.blocks.get(block + 1..).unwrap_or_default();
        let range = |(topic, first): (&TopicNumber, &u64)| {
            let next = later.iter().find_map(|block| block.topics.get(topic)).copied();
            let end = next.or_else(|| Some(contents.topics.get(topic)?.last + 1))?;
            Some((*topic, *first..end))
        };
        let topics = contents.blocks.get(block)?.topics.iter().filter_map(range).collect();
        Some(Self { extent, topics })
    }
}

/// Adds the frames that the index of a block has not yet; what is damaged is taken down and passed over.
///
/// # Errors
///
/// A read failed. What the index has by then is right.
pub(crate) fn walk(
    segment: &Segment,
    block: usize,
    index: &mut BlockIndex,
    covers: Extent,
    damages: &Damages,
) -> Result<(), ReadError> {
    let io = |error: std::io::Error| ReadError::Io(error.to_string());
    let mut end_at = covers.end_at;
    let mut window = segment.window(end_at, AHEAD);
    let mut bounds = None;
    while index.extent.end_at < end_at {
        let at = index.extent.end_at;
        let lost = index.extent.end_lsn;
        if let Some((header, frame)) = window.frame_if(at, |header| header.lsn == lost).map_err(io)? {
            let added = index.add(&header, &frame[FRAME_HEADER..], frame.len() as u64);
            added.ok_or_else(|| malformed(segment, at))?;
            continue;
        }
        if bounds.is_none() {
            // The segment may have grown since; what is lost must be told as of one moment.
            let now = Bounds::of(segment, block).ok_or_else(|| malformed(segment, at))?;
            end_at = now.extent.end_at;
            window = segment.window(end_at, AHEAD);
            bounds = Some(now);
        }
        let Some(bounds) = &bounds else { continue };
        let (behind, lsn) = next_sound(segment, index, bounds)?;
        damages.note_stretch(segment, at..behind, lost..lsn);
        index.skip_damage(behind, lsn, bounds.topics.iter().map(|(topic, range)| (*topic, range.start)));
    }
    if let Some(bounds) = bounds {
        let filled = index.fill_damage(bounds.topics.iter().map(|(topic, range)| (*topic, range.end)));
        filled.ok_or_else(|| malformed(segment, index.extent.at))?;
        for topic in index.topics() {
            for offsets in index.lost(topic) {
                damages.note_offsets(segment, topic, offsets);
            }
        }
    }
    Ok(())
}

/// Adds frames of about `bytes` that the index of a block has not yet. `false` where one is damaged, for which
/// [`walk`] has to look at the whole block.
///
/// # Errors
///
/// A read failed. What the index has by then is right.
pub(crate) fn walk_some(
    segment: &Segment,
    index: &mut BlockIndex,
    covers: Extent,
    bytes: u64,
) -> Result<bool, ReadError> {
    let until = index.extent.end_at.saturating_add(bytes).min(covers.end_at);
    let ahead = usize::try_from(bytes).unwrap_or(AHEAD).min(AHEAD);
    let mut window = segment.window(covers.end_at, ahead);
    while index.extent.end_at < until {
        let (at, next) = (index.extent.end_at, index.extent.end_lsn);
        let found = window.frame_if(at, |header| header.lsn == next);
        let Some((header, frame)) = found.map_err(|error| ReadError::Io(error.to_string()))? else {
            return Ok(false);
        };
        let added = index.add(&header, &frame[FRAME_HEADER..], frame.len() as u64);
        added.ok_or_else(|| malformed(segment, at))?;
    }
    Ok(true)
}

/// Where the next sound frame of the block is behind what the index has, and its LSN; the block's end if there
/// is none.
fn next_sound(segment: &Segment, index: &BlockIndex, bounds: &Bounds) -> Result<(u64, u64), ReadError> {
    let Extent { end_at, end_lsn, .. } = bounds.extent;
    let (at, lost) = (index.extent.end_at, index.extent.end_lsn);
    let mut search = Search::new(segment.window(end_at, AHEAD), at, lost);
    while let Some((at, header)) = search.next().map_err(|error| ReadError::Io(error.to_string()))? {
        let in_bounds = header.is_mark()
            || bounds.topics.get(&header.topic).is_some_and(|range| header.end() <= range.end);
        if header.lsn < end_lsn && in_bounds && index.may_follow(&header) {
            return Ok((at, header.lsn));
        }
        search.look_behind(at);
    }
    Ok((end_at, end_lsn))
}

fn malformed(segment: &Segment, at: u64) -> ReadError {
    ReadError::Damaged { what: format!("segment {}, byte {at}: sound frames do not join", segment.number) }
}
