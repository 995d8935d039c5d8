//! Frames that were read from files of late, bounded in number and bytes.
//!
//! What a queue asks for behind the tail cache comes from files, where only a whole frame can be checked. Who works
//! through a backlog wants the events of a large frame a few at a time, and would have all of it read for each few.

use std::collections::VecDeque;

use gridwire_core::ids::{Offset, TopicNumber};

use crate::log::Frame;

/// Enough for a few queues that are behind at different places; a search looks at all.
const FRAMES_MAX: usize = 16;
const BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// The one used last comes last.
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Recent {
    /// Remembers `frame`, of which more is wanted soon, and forgets those that were not used for longest.
    pub(crate) fn keep(&mut self, frame: Frame) {
        if self.frames.iter().any(|known| known.lsn == frame.lsn) {
            return; // Somebody else has read it meanwhile.
        }
        self.bytes += frame.body.len();
        self.frames.push_back(frame);
        while FRAMES_MAX < self.frames.len() || BYTES_MAX < self.bytes {
            let Some(gone) = self.frames.pop_front() else { break };
            self.bytes -= gone.body.len();
        }
    }

    /// The frame with `offset` of `topic`, if it is here.
    pub(crate) fn frame_of(&mut self, topic: TopicNumber, offset: Offset) -> Option<Frame> {
        let has_it = |frame: &Frame| frame.topic == topic && (frame.first.0..frame.end()).contains(&offset.0);
        let place = self.frames.iter().rposition(has_it)?;
        let frame = self.frames.remove(place)?;
        self.frames.push_back(frame.clone());
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use gridwire_core::ids::Lsn;
    use gridwire_core::time::Timestamp;

    use super::*;

    fn frame(lsn: u64, bytes: usize) -> Frame {
        Frame {
            lsn: Lsn(lsn),
            topic: TopicNumber(1),
            first: Offset(10 * lsn),
            count: 10,
            time: Timestamp::ZERO,
            body: Bytes::from(vec![0; bytes]),
        }
    }

    fn check(recent: &mut Recent, offset: u64, lsn: Option<u64>) {
        let found = recent.frame_of(TopicNumber(1), Offset(offset));
        assert_eq!(found.map(|frame| frame.lsn.0), lsn, "{offset}");
    }

    #[test]
    fn it_has_what_was_used_last_and_no_more_than_that() {
        let mut recent = Recent::default();
        for lsn in 0..FRAMES_MAX as u64 {
            recent.keep(frame(lsn, 1));
        }
        recent.keep(frame(3, 1));
        assert_eq!((recent.frames.len(), recent.bytes), (FRAMES_MAX, FRAMES_MAX));
        check(&mut recent, 0, Some(0));
        check(&mut recent, 39, Some(3));
        check(&mut recent, 160, None);
        assert_eq!(recent.frame_of(TopicNumber(2), Offset(0)).map(|frame| frame.lsn), None);
        recent.keep(frame(16, 1));
        check(&mut recent, 0, Some(0));
        check(&mut recent, 10, None);
        check(&mut recent, 160, Some(16));
    }

    #[test]
    fn it_keeps_within_its_bytes() {
        let mut recent = Recent::default();
        for lsn in 0..5 {
            recent.keep(frame(lsn, BYTES_MAX / 4));
        }
        check(&mut recent, 0, None);
        check(&mut recent, 10, Some(1));
        recent.keep(frame(5, BYTES_MAX + 1));
        check(&mut recent, 50, None);
        assert_eq!((recent.frames.len(), recent.bytes), (0, 0));
    }
}
