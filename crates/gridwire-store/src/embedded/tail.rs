//! The most recent durable frames in memory, bounded in bytes: the usual read and fetch touch no disk.

use std::collections::{BTreeMap, VecDeque};

use gridwire_core::ids::{Lsn, Offset, TopicNumber};

use crate::log::Frame;

/// What a frame costs besides its body: its entry here and in its topic's list, and the allocation's own.
const OVERHEAD: usize = 160;

#[derive(Debug)]
pub(crate) struct Tail {
    bytes_max: usize,
    bytes: usize,
    /// Every event frame from the first of these on is here, oldest first. Marks are not.
    frames: VecDeque<Frame>,
    /// LSN of the first frame that the cache can answer for, even if it holds none.
    from: Lsn,
    topics: BTreeMap<TopicNumber, VecDeque<(Offset, Lsn)>>,
}

impl Tail {
    /// An empty cache that answers for frames from `from` on.
    pub(crate) fn new(bytes_max: usize, from: Lsn) -> Self {
        Self { bytes_max, bytes: 0, frames: VecDeque::new(), from, topics: BTreeMap::new() }
    }

    pub(crate) fn push(&mut self, frame: Frame) {
        self.bytes += frame.body.len() + OVERHEAD;
        self.topics.entry(frame.topic).or_default().push_back((frame.first, frame.lsn));
        self.frames.push_back(frame);
        while self.bytes_max < self.bytes && self.forget_first() {}
    }

    /// Forgets the frames before `lsn`: they were trimmed.
    pub(crate) fn forget_before(&mut self, lsn: Lsn) {
        while self.frames.front().is_some_and(|first| first.lsn < lsn) {
            self.forget_first();
        }
        self.from = self.from.max(lsn);
    }

    fn forget_first(&mut self) -> bool {
        let Some(gone) = self.frames.pop_front() else { return false };
        self.bytes -= gone.body.len() + OVERHEAD;
        self.from = gone.lsn.next();
        if let Some(places) = self.topics.get_mut(&gone.topic) {
            places.pop_front();
            if places.is_empty() {
                self.topics.remove(&gone.topic);
            }
        }
        true
    }

    /// Frames from `from` on, about `bytes_max` of them; `None` when older ones are asked for than are here.
    pub(crate) fn read(&self, from: Lsn, bytes_max: usize) -> Option<Vec<Frame>> {
        if from < self.from {
            return None;
        }
        let start = self.frames.partition_point(|frame| frame.lsn < from);
        let (mut frames, mut bytes) = (Vec::new(), 0);
        for frame in self.frames.range(start..) {
            frames.push(frame.clone());
            bytes += frame.body.len();
            if bytes_max <= bytes {
                break;
            }
        }
        Some(frames)
    }

    /// The frame that holds `offset` of `topic`, if it is here.
    pub(crate) fn frame_of(&self, topic: TopicNumber, offset: Offset) -> Option<&Frame> {
        let places = self.topics.get(&topic)?;
        let after = places.partition_point(|(first, _)| *first <= offset);
        let (_, lsn) = places.get(after.checked_sub(1)?)?;
        let frame = self.frames.binary_search_by_key(lsn, |frame| frame.lsn).ok()?;
        let frame = self.frames.get(frame)?;
        (offset.0 < frame.end()).then_some(frame)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use gridwire_core::time::Timestamp;

    use super::*;

    #[test]
    fn the_cache_answers_for_what_it_holds_and_only_for_that() {
        let frame = |lsn: u64, topic: u32, first: u64| Frame {
            lsn: Lsn(lsn),
            topic: TopicNumber(topic),
            first: Offset(first),
            count: 2,
            time: Timestamp::ZERO,
            body: Bytes::from(vec![0; 100]),
        };
        let mut tail = Tail::new(3 * (100 + OVERHEAD), Lsn(5));
        assert!(tail.read(Lsn(4), 1).is_none());
        assert_eq!(tail.read(Lsn(5), 1).map(|frames| frames.len()), Some(0));
        for (lsn, topic, first) in [(5, 1, 0), (6, 2, 0), (8, 1, 2), (9, 1, 4)] {
            tail.push(frame(lsn, topic, first));
        }
        let read = |from, max| -> Option<Vec<u64>> {
            tail.read(Lsn(from), max).map(|frames| frames.iter().map(|frame| frame.lsn.0).collect())
        };
        assert_eq!(read(5, 1), None);
        assert_eq!(read(6, 1000), Some(vec![6, 8, 9]));
        assert_eq!(read(7, 150), Some(vec![8, 9]));
        assert_eq!(read(7, 100), Some(vec![8]));
        let find = |topic, offset| tail.frame_of(TopicNumber(topic), Offset(offset)).map(|found| found.lsn.0);
        assert_eq!([find(1, 1), find(1, 2), find(1, 5), find(1, 6)], [None, Some(8), Some(9), None]);
        assert_eq!([find(2, 1), find(3, 0)], [Some(6), None]);
    }
}
