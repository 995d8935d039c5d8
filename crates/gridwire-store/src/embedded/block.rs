//! The index of one block of a segment: who matched what, and where it is.
//!
//! Per topic it holds the place and time of each frame, the size of each event, and per slot the offsets
//! that matched, as runs or bitmaps, whichever is smaller. It is derived from the frames and can be built
//! again at any time.

use std::collections::BTreeMap;
use std::ops::Range;

use gridwire_core::frame::FrameView;
use gridwire_core::ids::{Lsn, Offset, Slot, TopicNumber};
use gridwire_core::time::Timestamp;
use roaring::RoaringBitmap;

use super::bytes::{Cursor, put_varint};
use super::format::FrameHeader;
use crate::log::Matched;

/// Every so many bytes of the segment one LSN's place is noted; what lies between is walked.
const POINT_BYTES: u64 = 64 << 10;

/// What part of a segment an index covers: byte positions and LSNs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) at: u64,
    pub(crate) lsn: u64,
    pub(crate) end_at: u64,
    pub(crate) end_lsn: u64,
}

#[derive(Debug, PartialEq)]
pub(crate) struct BlockIndex {
    pub(crate) extent: Extent,
    /// LSNs and places.
    points: Vec<(u64, u64)>,
    topics: BTreeMap<TopicNumber, TopicIndex>,
    /// Frames of the block are damaged: offsets may be missing between those that follow each other.
    damaged: bool,
}

/// Where an event of the block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventPlace {
    /// In the frame that begins here.
    At(u64),
    /// It was in a frame that is damaged.
    Lost,
}

#[derive(Debug, Default, PartialEq)]
struct TopicIndex {
    /// Offset of the first event in the block; all other numbers count from it.
    first: u64,
    frames: Vec<FramePlace>,
    /// Bytes of each event's encoding.
    sizes: Vec<u32>,
    /// Ascending.
    slots: Vec<SlotIndex>,
    /// Events that were in damaged frames, ascending. Whom they matched is not known.
    lost: Vec<Range<u32>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct FramePlace {
    /// The frame's first event.
    event: u32,
    /// Where it is, from the start of the block.
    at: u32,
    time: Timestamp,
}

#[derive(Debug, PartialEq)]
struct SlotIndex {
    slot: u32,
    matched: RoaringBitmap,
    /// The latest run, above all of `matched`: most subscriptions match in runs, and lengthening one costs
    /// next to nothing.
    run: Range<u32>,
}

impl SlotIndex {
    fn push(&mut self, event: u32) {
        if self.run.end == event {
            self.run.end += 1;
        } else {
            self.matched.insert_range(self.run.clone());
            self.run = event..event + 1;
        }
    }
}

impl TopicIndex {
    fn push(&mut self, frame: &FrameView<'_>, at: u32) -> Option<()> {
        let event = u32::try_from(self.sizes.len()).ok()?;
        self.frames.push(FramePlace { event, at, time: frame.time });
        for (event, stored) in (event..).zip(frame.events()) {
            self.sizes.push(u32::try_from(stored.event_bytes()?.len()).ok()?);
            let mut place = 0;
            for Slot(slot) in stored.matched()?.iter() {
                // Both ascend, and the usual match set has the same slots as the one before.
                while self.slots.get(place).is_some_and(|index| index.slot < slot) {
                    place += 1;
                }
                match self.slots.get_mut(place) {
                    Some(index) if index.slot == slot => index.push(event),
                    _ => {
                        let (matched, run) = (RoaringBitmap::new(), event..event + 1);
                        self.slots.insert(place, SlotIndex { slot, matched, run });
                    }
                }
                place += 1;
            }
        }
        (self.end() == frame.first.0 + u64::from(frame.count)).then_some(())
    }

    /// The offset after the last event.
    fn end(&self) -> u64 {
        self.first + self.sizes.len() as u64
    }

    /// Events up to `end` are lost, as far as they are not here.
    fn lose_to(&mut self, end: u64) -> Option<()> {
        let event = u32::try_from(self.sizes.len()).ok()?;
        let end = u32::try_from(end.checked_sub(self.first)?).ok()?;
        if event < end {
            self.sizes.resize(end as usize, 0);
            self.lost.push(event..end);
        }
        Some(())
    }

    fn is_lost(&self, event: u32) -> bool {
        let after = self.lost.partition_point(|lost| lost.end <= event);
        self.lost.get(after).is_some_and(|lost| lost.contains(&event))
    }

    /// The frame that holds an event.
    fn frame_of(&self, event: u32) -> Option<&FramePlace> {
        let after = self.frames.partition_point(|frame| frame.event <= event);
        self.frames.get(after.checked_sub(1)?)
    }
}

impl BlockIndex {
    /// An index of nothing yet, for a block that begins here.
    pub(crate) fn new(at: u64, lsn: u64) -> Self {
        let extent = Extent { at, lsn, end_at: at, end_lsn: lsn };
        Self { extent, points: Vec::new(), topics: BTreeMap::new(), damaged: false }
    }

    /// The frames from here on to `at`, which has frame `lsn`, are damaged. `starts` are the offsets with which
    /// each topic of the block begins.
    pub(crate) fn skip_damage(
        &mut self,
        at: u64,
        lsn: u64,
        starts: impl Iterator<Item = (TopicNumber, u64)>,
    ) {
        for (topic, first) in starts {
            self.topics.entry(topic).or_insert_with(|| TopicIndex { first, ..TopicIndex::default() });
        }
        self.damaged = true;
        self.extent.end_at = at;
        self.extent.end_lsn = lsn;
    }

    /// Whether the frame, which is sound, may follow what is here already.
    pub(crate) fn may_follow(&self, header: &FrameHeader) -> bool {
        self.extent.end_lsn < header.lsn
            && (header.is_mark()
                || self.topics.get(&header.topic).is_none_or(|index| index.end() <= header.first.0))
    }

    /// Of a block with damage, all there is was added: up to `ends` what is not here is lost.
    pub(crate) fn fill_damage(&mut self, ends: impl Iterator<Item = (TopicNumber, u64)>) -> Option<()> {
        for (topic, end) in ends {
            if let Some(index) = self.topics.get_mut(&topic) {
                index.lose_to(end.max(index.first))?;
            }
        }
        Some(())
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// The offsets of `topic` that are lost.
    pub(crate) fn lost(&self, topic: TopicNumber) -> impl Iterator<Item = Range<u64>> {
        let index = self.topics.get(&topic);
        index.into_iter().flat_map(|index| {
            let range =
                |lost: &Range<u32>| index.first + u64::from(lost.start)..index.first + u64::from(lost.end);
            index.lost.iter().map(range)
        })
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = TopicNumber> {
        self.topics.keys().copied()
    }

    /// Takes in the next frame of the block, `len` bytes in all. `None` when its body is malformed, which its
    /// checksum rules out.
    pub(crate) fn add(&mut self, header: &FrameHeader, body: &[u8], len: u64) -> Option<()> {
        let extent = &mut self.extent;
        let at = extent.end_at;
        if self.points.last().is_none_or(|(_, point)| POINT_BYTES <= at - point) {
            self.points.push((header.lsn, at));
        }
        if !header.is_mark() {
            let FrameHeader { lsn, topic, first, count, time, .. } = *header;
            let view = FrameView { lsn: Lsn(lsn), topic, first, count, time, body };
            let index = self.topics.entry(topic);
            let index = index.or_insert_with(|| TopicIndex { first: first.0, ..TopicIndex::default() });
            if self.damaged {
                index.lose_to(first.0)?;
            }
            index.push(&view, u32::try_from(at - extent.at).ok()?)?;
        }
        extent.end_at += len;
        extent.end_lsn = header.lsn + 1;
        Some(())
    }

    /// Makes a finished index small.
    pub(crate) fn finish(&mut self) {
        for topic in self.topics.values_mut() {
            topic.frames.shrink_to_fit();
            topic.sizes.shrink_to_fit();
            for slot in &mut topic.slots {
                slot.matched.insert_range(std::mem::take(&mut slot.run));
                slot.matched.optimize();
            }
        }
    }

    /// The LSN and the place of a frame at or before this LSN, from which to walk to it.
    pub(crate) fn place_before(&self, lsn: u64) -> (u64, u64) {
        let after = self.points.partition_point(|(point, _)| *point <= lsn);
        let point = after.checked_sub(1).and_then(|point| self.points.get(point));
        point.copied().unwrap_or((self.extent.lsn, self.extent.at))
    }

    /// Where the frame with this event is; `None` when the block does not hold it.
    pub(crate) fn place_of(&self, topic: TopicNumber, offset: Offset) -> Option<EventPlace> {
        let index = self.topics.get(&topic)?;
        let event = u32::try_from(offset.0.checked_sub(index.first)?).ok()?;
        if index.sizes.len() <= event as usize {
            return None;
        }
        if index.is_lost(event) {
            return Some(EventPlace::Lost);
        }
        Some(EventPlace::At(self.extent.at + u64::from(index.frame_of(event)?.at)))
    }

    /// Adds the matches of `slot` from `from` on, at most until there are `max`; returns up to where the
    /// answer covers the topic.
    pub(crate) fn matches(
        &self,
        topic: TopicNumber,
        slot: Slot,
        from: u64,
        max: usize,
        matches: &mut Vec<Matched>,
    ) -> u64 {
        let Some(index) = self.topics.get(&topic) else { return from };
        let end = index.end();
        let Ok(at) = index.slots.binary_search_by_key(&slot.0, |index| index.slot) else {
            return end.max(from);
        };
        let slot = &index.slots[at];
        let Ok(from_event) = u32::try_from(from.saturating_sub(index.first)) else {
            return from;
        };
        let run = slot.run.start.max(from_event)..slot.run.end.max(from_event);
        // Matches come in order, so the frame is seldom looked for.
        let mut frame: Option<(u32, &FramePlace)> = None;
        for event in slot.matched.range(from_event..).chain(run) {
            if matches.len() == max {
                return matches.last().map_or(from, |last| last.offset.0 + 1);
            }
            if frame.is_none_or(|(end, _)| end <= event) {
                let after = index.frames.partition_point(|frame| frame.event <= event);
                let Some(place) = after.checked_sub(1).and_then(|place| index.frames.get(place)) else {
                    continue;
                };
                frame = Some((index.frames.get(after).map_or(u32::MAX, |next| next.event), place));
            }
            let (Some((_, place)), Some(&size)) = (frame, index.sizes.get(event as usize)) else { continue };
            let offset = Offset(index.first + u64::from(event));
            matches.push(Matched { offset, time: place.time, size });
        }
        end.max(from)
    }

    /// Bytes of memory, about.
    pub(crate) fn weight(&self) -> usize {
        let topic = |topic: &TopicIndex| {
            let slots: usize = topic.slots.iter().map(|slot| 96 + slot.matched.serialized_size()).sum();
            200 + topic.frames.len() * size_of::<FramePlace>() + topic.sizes.len() * 4 + slots
        };
        self.topics.values().map(topic).sum::<usize>() + self.points.len() * 16
    }

    /// The stored form of a finished index without damage, without its extent.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.points.len() as u64);
        let (mut lsn, mut at) = (self.extent.lsn, self.extent.at);
        for point in &self.points {
            put_varint(out, point.0 - lsn);
            put_varint(out, point.1 - at);
            (lsn, at) = *point;
        }
        put_varint(out, self.topics.len() as u64);
        for (topic, index) in &self.topics {
            put_varint(out, u64::from(topic.0));
            put_varint(out, index.first);
            put_varint(out, index.frames.len() as u64);
            let mut before = FramePlace { event: 0, at: 0, time: Timestamp::ZERO };
            for frame in &index.frames {
                put_varint(out, u64::from(frame.event - before.event));
                put_varint(out, u64::from(frame.at - before.at));
                put_varint(out, frame.time.as_millis().saturating_sub(before.time.as_millis()));
                before = *frame;
            }
            put_varint(out, index.sizes.len() as u64);
            for &size in &index.sizes {
                put_varint(out, u64::from(size));
            }
            put_varint(out, index.slots.len() as u64);
            for slot in &index.slots {
                put_varint(out, u64::from(slot.slot));
                put_varint(out, slot.matched.serialized_size() as u64);
                slot.matched.serialize_into(&mut *out).expect("memory takes what it is given");
            }
        }
    }

    /// Reads what [`BlockIndex::encode`] wrote; `None` when the bytes are not that.
    pub(crate) fn decode(extent: Extent, bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(bytes);
        let mut points = Vec::with_capacity(cursor.count(2)?);
        let (mut lsn, mut at) = (extent.lsn, extent.at);
        for _ in 0..points.capacity() {
            lsn = lsn.checked_add(cursor.varint()?)?;
            at = at.checked_add(cursor.varint()?)?;
            points.push((lsn, at));
        }
        let mut topics = BTreeMap::new();
        for _ in 0..cursor.count(2)? {
            let topic = TopicNumber(u32::try_from(cursor.varint()?).ok()?);
            topics.insert(topic, TopicIndex::decode(&mut cursor)?);
        }
        Some(Self { extent, points, topics, damaged: false })
    }
}

impl TopicIndex {
    fn decode(cursor: &mut Cursor<'_>) -> Option<Self> {
        let first = cursor.varint()?;
        let count = cursor.count(3)?;
        let mut frames = Vec::with_capacity(count);
        let (mut event, mut at, mut time) = (0u32, 0u32, 0u64);
        for _ in 0..count {
            event = event.checked_add(u32::try_from(cursor.varint()?).ok()?)?;
            at = at.checked_add(u32::try_from(cursor.varint()?).ok()?)?;
            time = time.checked_add(cursor.varint()?)?;
            frames.push(FramePlace { event, at, time: Timestamp::from_millis(time) });
        }
        let count = cursor.count(1)?;
        let mut sizes = Vec::with_capacity(count);
        for _ in 0..count {
            sizes.push(u32::try_from(cursor.varint()?).ok()?);
        }
        let count = cursor.count(2)?;
        let mut slots = Vec::with_capacity(count);
        for _ in 0..count {
            let slot = u32::try_from(cursor.varint()?).ok()?;
            let len = cursor.count(1)?;
            let matched = RoaringBitmap::deserialize_from(cursor.take(len)?).ok()?;
            slots.push(SlotIndex { slot, matched, run: 0..0 });
        }
        Some(Self { first, frames, sizes, slots, lost: Vec::new() })
    }
}
