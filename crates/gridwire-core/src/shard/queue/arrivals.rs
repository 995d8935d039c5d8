//! How new events come to a queue: at the tail from each frame, behind it by scans.

use std::ops::Range;

use super::{Cursor, Queue};
use crate::ids::Offset;
use crate::planted::planted;
use crate::shard::decision::{Decision, Settlement};
use crate::shard::{Effect, Output, Position};

impl Queue {
    /// A new event of the topic matched. While behind it is only counted: a scan will find it.
    pub(in crate::shard) fn offer(&mut self, position: Position) {
        self.census.show();
        if self.cursor != Cursor::Tail {
            return;
        }
        if self.ready.len() >= self.window() {
            self.cursor = Cursor::Behind(position.offset.0);
            return;
        }
        self.ready.push_back(position);
    }

    /// Frames from `from` on were not shown: they are scanned for.
    pub(in crate::shard) fn fall_behind(&mut self, from: u64) {
        self.census.spoil();
        if self.cursor == Cursor::Tail {
            self.cursor = Cursor::Behind(from);
        }
    }

    /// The driver's answer to [`Effect::Scan`]: everything that matched in `from..next`, and what is `lost`
    /// there. What is lost may have matched, so it is settled as dropped: rather a drop too many on the books
    /// than one that nobody hears of.
    pub(in crate::shard) fn scanned(
        &mut self,
        from: u64,
        matches: &[Position],
        lost: &[Range<u64>],
        next: u64,
        tail: u64,
        out: &mut Output,
    ) {
        self.scanning = false;
        if self.cursor != Cursor::Behind(from) {
            return; // Reset meanwhile.
        }
        // What the shard has not seen as a frame yet will come as one.
        let next = next.min(tail);
        self.census.scanned(from, matches.iter().map(|position| position.offset.0), next);
        let skipped = usize::from(planted("scan-skips-a-match") && matches.len() > 1);
        let kept = matches.len() - skipped;
        let new = matches[..kept].iter().filter(|position| position.offset.0 < next);
        self.ready.extend(new.filter(|position| !self.state.knows(position.offset.0)));
        self.cursor = if next >= tail { Cursor::Tail } else { Cursor::Behind(next) };
        let gone = lost.iter().flat_map(|range| range.start.max(from)..range.end.min(next));
        let gone: Vec<Offset> = gone.filter(|offset| !self.state.knows(*offset)).map(Offset).collect();
        if !gone.is_empty() {
            let floor = Offset(self.floor(tail));
            let (subscription, how) = (self.number, Settlement::Damaged);
            // Some of them may have been counted, and nobody knows how many.
            self.census.spoil();
            self.record(Decision::Settled { subscription, how, floor, offsets: gone }, out);
        }
    }

    /// The driver could not scan; it will be asked again.
    pub(in crate::shard) fn scan_failed(&mut self) {
        self.scanning = false;
    }

    // ---- the count --------------------------------------------------------------------------------

    /// Begins to count what matched; see [`super::census`].
    pub(super) fn count_anew(&mut self, tail: u64) {
        let (from, held) = (self.cursor(tail), self.held());
        self.census.begin(self.state.totals.ended(), from, &self.state.settled, &held, tail);
    }

    /// Asks for a scan for the count, where the queue's own do not get on.
    pub(super) fn count_on(&mut self, tail: u64, out: &mut Output) {
        if self.census.is_spoiled() {
            self.count_anew(tail);
        }
        let Some(from) = self.census.next() else { return };
        if self.scanning || self.census.asked {
            return;
        }
        self.census.asked = true;
        let (subscription, topic, slot) = (self.number, self.topic, self.slot);
        out.effects.push(Effect::Count { subscription, topic, slot, from: Offset(from) });
    }

    /// The answer to [`Effect::Count`]; `start` is the oldest offset that the log has still.
    pub(in crate::shard) fn counted(&mut self, from: u64, matches: &[Position], next: u64, start: u64) {
        self.census.asked = false;
        if self.census.next().is_some_and(|next| next < start) {
            // What the log let go is settled by now.
            self.census.spoil();
        } else {
            self.census.scanned(from, matches.iter().map(|position| position.offset.0), next);
        }
    }

    /// The driver could not scan for the count; it will be asked again.
    pub(in crate::shard) fn count_failed(&mut self) {
        self.census.asked = false;
    }
}
