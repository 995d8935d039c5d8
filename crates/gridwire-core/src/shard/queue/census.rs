//! How many events a queue has matched, exactly, and so how many are pending.
//!
//! What has ended is in the recorded totals; what has not is in the log, and nobody keeps a number of it. So a queue
//! counts: at some moment it takes what had ended by then and what it holds, counts the matches that lie between its
//! cursor and the end of the topic of that moment and are neither, and from then on each event that it is shown. The
//! sum is what it matched since it exists, whatever is settled meanwhile.
//!
//! Below the cursor each match has ended or is held, so nothing is read again there; after a start the cursor is at
//! the floor. The count runs along with the queue's own scans and is never behind them; what they do not reach, since
//! a backlog is only a cursor, is looked at by scans for the count alone, which hold nobody up. After a restart it
//! begins anew, and so it does where it can't go on: when frames were not shown, when the log no longer has what was
//! to be counted, and when the queue's own scan has met damaged events. Of those nobody knows whom they matched, so
//! they count as matched when they are settled as dropped: with what had ended when the count began. An event that is
//! held when its bytes turn out to be gone did match and was counted: nothing begins anew for it.

use roaring::RoaringTreemap;

#[derive(Debug, Default)]
pub(in crate::shard) struct Census {
    /// Events that had ended when it began.
    ended: u64,
    /// What needs no scan to be counted: what had ended and is not below where it began, and what was held.
    known: RoaringTreemap,
    /// The next offset to be looked at, up to `end`; from there on events are shown.
    next: u64,
    end: u64,
    /// What was held when it began, and what else was found unsettled so far.
    found: u64,
    /// Events shown since it began.
    shown: u64,
    /// It must begin anew.
    spoiled: bool,
    /// A scan for it is under way.
    pub(super) asked: bool,
}

impl Census {
    /// `ended` events are settled, others are `held`, and these are all that matched below `from`; at or above it the
    /// `settled` ones are. The topic ends at `end`.
    pub(super) fn begin(
        &mut self,
        ended: u64,
        from: u64,
        settled: &RoaringTreemap,
        held: &RoaringTreemap,
        end: u64,
    ) {
        let known = if from < end { settled | held } else { RoaringTreemap::new() };
        *self = Self { ended, known, next: from.min(end), end, asked: self.asked, ..Self::default() };
        self.found = held.len();
    }

    pub(super) fn spoil(&mut self) {
        self.spoiled = true;
    }

    pub(super) fn is_spoiled(&self) -> bool {
        self.spoiled
    }

    /// An event that matched was shown.
    pub(in crate::shard) fn show(&mut self) {
        self.shown += 1;
    }

    /// These are all matches from `from` up to `next`.
    pub(super) fn scanned(&mut self, from: u64, matches: impl Iterator<Item = u64>, next: u64) {
        let next = next.min(self.end);
        if self.next < from || next <= self.next {
            return;
        }
        let new = matches.filter(|offset| (self.next..next).contains(offset));
        self.found += new.filter(|offset| !self.known.contains(*offset)).count() as u64;
        self.next = next;
        if next == self.end {
            self.known = RoaringTreemap::new();
        }
    }

    /// Where the next scan begins, unless all is counted.
    pub(super) fn next(&self) -> Option<u64> {
        (self.next < self.end).then_some(self.next)
    }

    /// All that matched since the queue exists; `None` until it is counted.
    pub(super) fn matched(&self) -> Option<u64> {
        let complete = !self.spoiled && self.next == self.end;
        complete.then(|| self.ended.saturating_add(self.found).saturating_add(self.shown))
    }
}
