//! Whether a subscription's books are in balance with the log: every event that matched was settled once, or is held.
//!
//! Pure. Whoever audits takes the queue's [`Books`] as of one moment and shows the matches that the log has, in
//! order. At or above the queue's floor each event stands in the books by itself, so each is looked up. Below it only
//! the ledger's blocks are left: how many were settled, and the sum of their places. One event too few is named by
//! the difference of the sums, if that is an event that matched; of several the block is named, and all that matched
//! in it where these are few. What happens to cancel out in a block can't be told from one event: a loss and two
//! settlements too many look like one too many, of whatever event the difference points at.
//!
//! What the log no longer has can't be recomputed, and a damaged event may have matched or not: there the numbers
//! have to fit within what is possible, and the report says how much that is. An event that was dropped as damaged and
//! can be read again is a match or it is not; if not, it is unexpected, for nothing says any more why it was dropped.

use std::collections::BTreeMap;
use std::ops::Range;

use roaring::RoaringTreemap;

use crate::shard::{Books, Tally};

/// Matches of a block that are named if some of them are missing. The blocks of a queue that matches little have half as
/// many.
pub const CANDIDATES_MAX: usize = 32;
/// Findings in a report; more are only counted.
const FINDINGS_MAX: usize = 100;

/// Something that is out of balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The event matched and is neither settled nor held: nobody will get it.
    Lost { offset: u64 },
    /// The event is settled or held, and either did not match or was settled more than once.
    Unexpected { offset: u64 },
    /// So many events among these offsets matched and were not settled. `among` are all that matched there, if
    /// they are few.
    LostAmong { offsets: Range<u64>, count: u64, among: Vec<u64> },
    /// So many more were settled among these offsets than matched.
    UnexpectedAmong { offsets: Range<u64>, count: u64 },
    /// The totals say this many, the ledger that many.
    Totals { ended: u64, settled: u64 },
    /// So many are counted as pending, and the log has that many.
    Pending { counted: u64, found: u64 },
}

/// What an audit has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The offsets that were compared.
    pub compared: Range<u64>,
    /// Matches among them.
    pub matched: u64,
    /// Those that were neither settled nor held.
    pub lost: u64,
    /// Those settled or held that should not have been.
    pub unexpected: u64,
    /// Damaged events among them, which may have matched or not.
    pub damaged: u64,
    /// What is out of balance, in order; at most a hundred.
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn is_balanced(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, finding: Finding) {
        match &finding {
            Finding::Lost { .. } => self.lost += 1,
            Finding::Unexpected { .. } => self.unexpected += 1,
            Finding::LostAmong { count, .. } => self.lost += count,
            Finding::UnexpectedAmong { count, .. } => self.unexpected += count,
            Finding::Totals { ended, settled } if ended < settled => self.unexpected += settled - ended,
            Finding::Totals { ended, settled } => self.lost += ended - settled,
            // A wrong count loses nothing.
            Finding::Pending { .. } => {}
        }
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

/// What the log has of one block below the floor.
#[derive(Debug, Default)]
struct Found {
    tally: Tally,
    damaged: u64,
}

/// Those in a block, if they are few.
fn candidates(matches: &RoaringTreemap, block: &Range<u64>) -> Vec<u64> {
    let mut inside = matches.iter();
    inside.advance_to(block.start);
    let inside = inside.take_while(|offset| *offset < block.end);
    let some: Vec<u64> = inside.take(CANDIDATES_MAX + 1).collect();
    if some.len() <= CANDIDATES_MAX { some } else { Vec::new() }
}

/// An audit under way.
#[derive(Debug)]
pub struct Audit {
    books: Books,
    /// What is settled or held and has not been found in the log.
    unmatched: RoaringTreemap,
    /// By their first offset.
    blocks: BTreeMap<u64, Found>,
    /// The log's matches below the floor: a bit for each offset at most.
    below: RoaringTreemap,
    /// Matches that are in no book.
    lost: Vec<u64>,
    lost_more: u64,
    /// Matches at or above the floor that are not settled.
    pending: u64,
    next: u64,
    end: u64,
    report: Report,
}

impl Audit {
    pub fn new(books: Books) -> Self {
        let mut unmatched = books.settled.clone();
        unmatched |= &books.held;
        let known = unmatched.max().map_or(0, |last| last.saturating_add(1));
        let next = books.ledger.from();
        Self {
            unmatched,
            blocks: BTreeMap::new(),
            below: RoaringTreemap::new(),
            lost: Vec::new(),
            lost_more: 0,
            pending: 0,
            next,
            end: books.end.max(known).max(next),
            report: Report::default(),
            books,
        }
    }

    /// From where on the log's matches are to be shown; `None` when all were.
    pub fn next(&self) -> Option<u64> {
        (self.next < self.end).then_some(self.next)
    }

    /// These are all that matched from [`Audit::next`] up to `next`; of the events in `damaged` nobody knows.
    pub fn found(&mut self, matches: impl Iterator<Item = u64>, damaged: &[Range<u64>], next: u64) {
        let covers = self.next..next.min(self.end);
        for offset in matches.filter(|offset| covers.contains(offset)) {
            self.report.matched += 1;
            let accounted = self.unmatched.remove(offset);
            if offset < self.books.floor {
                let start = self.books.ledger.block_of(offset).start;
                self.blocks.entry(start).or_default().tally.add(offset - start);
                self.below.insert(offset);
                continue;
            }
            let is_new = self.books.cursor <= offset;
            if !accounted && !is_new {
                if self.lost.len() < FINDINGS_MAX { self.lost.push(offset) } else { self.lost_more += 1 }
            } else if offset < self.books.end && !self.books.settled.contains(offset) {
                self.pending += 1;
            }
        }
        for range in damaged {
            let range = range.start.max(covers.start)..range.end.min(covers.end);
            if range.is_empty() {
                continue;
            }
            self.report.damaged += range.end - range.start;
            self.unmatched.remove_range(range.clone());
            let mut from = range.start;
            while from < range.end.min(self.books.floor) {
                let block = self.books.ledger.block_of(from);
                let until = range.end.min(self.books.floor).min(block.end);
                self.blocks.entry(block.start).or_default().damaged += until - from;
                from = until;
            }
        }
        self.next = self.next.max(covers.end);
    }

    /// The end. `start` is the oldest offset that the log has still.
    pub fn finish(mut self, start: u64) -> Report {
        self.report.compared = self.first_compared(start)..self.end.max(start);
        for offset in std::mem::take(&mut self.lost) {
            self.report.find(Finding::Lost { offset });
        }
        self.report.lost += self.lost_more;
        self.compare_blocks(start);
        for offset in self.unmatched.iter().filter(|offset| start <= *offset && *offset < self.next) {
            self.report.find(Finding::Unexpected { offset });
        }
        let (ended, settled) = (self.books.totals.ended(), self.books.ledger.settled());
        if ended != settled {
            self.report.find(Finding::Totals { ended, settled });
        }
        // Of what was let go meanwhile above the floor, nobody has seen whether it was pending.
        if let Some(matched) = self.books.matched.filter(|_| start <= self.books.floor) {
            // What is lost was counted, unless that was before; what is damaged may have been.
            let counted = matched.saturating_sub(ended);
            let found = self.pending..=self.pending + self.report.lost + self.report.damaged;
            if !found.contains(&counted) {
                self.report.find(Finding::Pending { counted, found: self.pending });
            }
        }
        self.report
    }

    /// Below the floor only whole blocks are comparable, so not all that the log has from `start` on.
    fn first_compared(&self, start: u64) -> u64 {
        let ledger = &self.books.ledger;
        if start <= ledger.from() {
            return ledger.from();
        }
        let block = ledger.block_of(start);
        if block.start < start { block.end.min(self.books.floor.max(start)) } else { start }
    }

    /// Every block that is wholly there, be it in the log or in the ledger.
    fn compare_blocks(&mut self, start: u64) {
        let ledger = &self.books.ledger;
        for block in ledger.blocks() {
            self.blocks.entry(block.start).or_default();
        }
        // What is settled above the floor by itself is in the ledger too.
        for offset in self.books.settled.iter().filter(|offset| *offset >= ledger.from()) {
            let place = ledger.block_of(offset).start;
            self.blocks.entry(place).or_default().tally.add(offset - place);
        }
        for (&first, found) in &self.blocks {
            let offsets = first.max(ledger.from())..ledger.block_of(first).end;
            if offsets.start < start {
                continue;
            }
            let (log, book) = (found.tally, ledger.tally(first));
            let (few, many) = (log.count, log.count + found.damaged);
            let single = |left: Tally, right: Tally| {
                let offset = first.wrapping_add(left.sum.wrapping_sub(right.sum));
                offsets.contains(&offset).then_some(offset)
            };
            if book.count < few {
                let count = few - book.count;
                let one = single(log, book).filter(|_| count == 1 && found.damaged == 0);
                let finding = if let Some(offset) = one.filter(|offset| self.below.contains(*offset)) {
                    Finding::Lost { offset }
                } else {
                    let among = candidates(&self.below, &offsets);
                    Finding::LostAmong { offsets, count, among }
                };
                self.report.find(finding);
            } else if many < book.count {
                let count = book.count - many;
                let finding = match single(book, log).filter(|_| count == 1 && found.damaged == 0) {
                    Some(offset) => Finding::Unexpected { offset },
                    None => Finding::UnexpectedAmong { offsets, count },
                };
                self.report.find(finding);
            } else if found.damaged == 0 && log.sum != book.sum {
                // As many as there should be, but not the same ones.
                let among = candidates(&self.below, &offsets);
                self.report.find(Finding::LostAmong { offsets, count: 1, among });
            }
        }
    }
}
