//! What a queue has settled, in so few numbers that they are kept for as long as the log keeps the events.
//!
//! Below its floor a queue remembers no event by itself: whether one was settled or slipped through, nothing else
//! tells any more. The ledger does. It cuts the offsets into blocks and keeps of each how many were settled and the
//! sum of their places, so that whoever counts the matches of a block in the log sees whether one is missing, and
//! which: the difference of the sums is its place. It grows with neither backlog nor age. Blocks double in size when
//! there are too many of them, or too many for the little that is settled in them, and those whose events the log no
//! longer has become one number.
//!
//! It changes only by [`super::state::QueueState::apply`], but for [`Ledger::release`], which changes what is kept
//! and not what was counted.

use std::ops::Range;

use crate::varint::{put, take};

/// Blocks of one queue at most: three kilobytes in memory and about one in a snapshot. A hundredth of what is retained
/// is still a useful place to look at when more than one event is missing.
const BLOCKS_MAX: usize = 128;
/// Beyond these, of a queue that has settled little: two hundred bytes, and a domain may have 100,000 queues that each
/// match an event now and then. Fewer would only make the place to look at larger.
const BLOCKS_MIN: usize = 8;
/// Settled events for which there is another block: those of a block are few enough to be looked at one by one.
const SETTLED_PER_BLOCK: u64 = 16;
/// Offsets of the smallest block, as a power of two. Smaller ones would only be doubled at once.
const SHIFT_MIN: u32 = 6;
/// Of the largest: one block that holds every offset there is would have nowhere to begin.
const SHIFT_MAX: u32 = 63;

/// What is settled of some neighbouring offsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub count: u64,
    /// Of the offsets' places in their block, wrapping: right modulo 2^64 whatever was added.
    pub sum: u64,
}

impl Tally {
    pub fn add(&mut self, place: u64) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(place);
    }

    /// The places from `first` to `last`, both included.
    fn add_run(&mut self, first: u64, last: u64) {
        let count = last - first + 1;
        // Places are below 2^63, so their sum is one; of it and the count one is even.
        let ends = first + last;
        let sum = if ends.is_multiple_of(2) {
            (ends / 2).wrapping_mul(count)
        } else {
            ends.wrapping_mul(count / 2)
        };
        self.count = self.count.wrapping_add(count);
        self.sum = self.sum.wrapping_add(sum);
    }

    fn join(&mut self, other: Self) {
        self.count = self.count.wrapping_add(other.count);
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// The same counted from `by` places before.
    fn moved(self, by: u64) -> Self {
        Self { sum: self.sum.wrapping_add(self.count.wrapping_mul(by)), ..self }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    /// Its offsets, shifted.
    index: u64,
    tally: Tally,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Offsets below are not in blocks.
    from: u64,
    /// Settled events that are in no block.
    carried: u64,
    /// A block has two to the power of this many offsets.
    shift: u32,
    /// Ascending; none is empty.
    blocks: Vec<Block>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::starting_at(0)
    }
}

impl Ledger {
    /// Of a queue that has settled nothing yet, and will settle nothing below `from`.
    pub(super) fn starting_at(from: u64) -> Self {
        Self { from, carried: 0, shift: SHIFT_MIN, blocks: Vec::new() }
    }

    /// Of a queue about which only this is known: it has settled `total` events, those at or above `from` are
    /// `above`.
    pub(super) fn resumed(from: u64, total: u64, above: impl Iterator<Item = u64>) -> Self {
        let mut ledger = Self::starting_at(from);
        let mut known = 0u64;
        for offset in above {
            ledger.settle(offset, offset);
            known += 1;
        }
        ledger.carried = total.saturating_sub(known);
        ledger
    }

    /// Offsets from here on are accounted for in blocks.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// All that was ever settled.
    pub fn settled(&self) -> u64 {
        self.blocks.iter().fold(self.carried, |sum, block| sum.wrapping_add(block.tally.count))
    }

    /// The offsets of the block that holds `offset`.
    pub fn block_of(&self, offset: u64) -> Range<u64> {
        let start = (offset >> self.shift) << self.shift;
        start..start.saturating_add(1 << self.shift)
    }

    /// What is settled of the block that begins at `start`.
    pub fn tally(&self, start: u64) -> Tally {
        let index = start >> self.shift;
        let found = self.blocks.binary_search_by_key(&index, |block| block.index);
        found.map_or(Tally::default(), |place| self.blocks[place].tally)
    }

    /// The blocks in which something is settled, ascending.
    pub fn blocks(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.blocks.iter().map(|block| self.block_of(block.index << self.shift))
    }

    /// The offsets from `first` to `last`, both included, were settled. Costs the blocks they touch, not the offsets.
    pub(super) fn settle(&mut self, first: u64, last: u64) {
        let mut next = first;
        if next < self.from {
            let below = last.min(self.from - 1) - next + 1;
            self.carried = self.carried.wrapping_add(below);
            next += below;
        }
        let before = self.blocks.len();
        while next <= last {
            let places = (1 << self.shift) - 1;
            let until = last.min(next | places);
            self.at(next >> self.shift).add_run(next & places, until & places);
            let Some(after) = until.checked_add(1) else { break };
            next = after;
        }
        if self.blocks.len() > before {
            self.fit();
        }
    }

    /// Doubles the blocks until there are no more than what is settled in them is worth.
    fn fit(&mut self) {
        if self.blocks.len() <= BLOCKS_MIN {
            return;
        }
        let settled = self.settled().wrapping_sub(self.carried);
        let worth = usize::try_from(settled / SETTLED_PER_BLOCK).unwrap_or(BLOCKS_MAX);
        let blocks_max = worth.clamp(BLOCKS_MIN, BLOCKS_MAX);
        if self.blocks.len() <= blocks_max {
            return;
        }
        while self.blocks.len() > blocks_max && self.shift < SHIFT_MAX {
            self.double();
        }
        self.blocks.shrink_to_fit();
    }

    fn at(&mut self, index: u64) -> &mut Tally {
        // Nearly always the newest block, or a new one behind it.
        let place = match self.blocks.last() {
            Some(last) if last.index == index => self.blocks.len() - 1,
            Some(last) if index < last.index => {
                self.blocks.binary_search_by_key(&index, |block| block.index).unwrap_or_else(|place| {
                    self.blocks.insert(place, Block { index, tally: Tally::default() });
                    place
                })
            }
            _ => {
                self.blocks.push(Block { index, tally: Tally::default() });
                self.blocks.len() - 1
            }
        };
        &mut self.blocks[place].tally
    }

    /// Makes each two neighbours one.
    fn double(&mut self) {
        let size = 1u64 << self.shift;
        self.shift += 1;
        for block in &mut self.blocks {
            if block.index % 2 == 1 {
                block.tally = block.tally.moved(size);
            }
            block.index /= 2;
        }
        self.blocks.dedup_by(|block, before| {
            let is_neighbour = before.index == block.index;
            if is_neighbour {
                before.tally.join(block.tally);
            }
            is_neighbour
        });
    }

    /// The log no longer has what is below `start`: nothing can be compared there any more, so blocks that end
    /// there are only carried on.
    pub(super) fn release(&mut self, start: u64) {
        let kept = (start >> self.shift) << self.shift;
        if kept <= self.from {
            return;
        }
        let gone = self.blocks.partition_point(|block| block.index < kept >> self.shift);
        for block in self.blocks.drain(..gone) {
            self.carried = self.carried.wrapping_add(block.tally.count);
        }
        self.from = kept;
        if self.blocks.is_empty() {
            self.shift = SHIFT_MIN;
        }
        // Those that are left may be too many now for what is settled in them.
        self.fit();
        self.blocks.shrink_to_fit();
    }

    /// Its part of a snapshot's entry: where it begins, what is carried, the blocks' size, how many stretches of
    /// alike blocks; then each stretch. Where everything matched and is settled, that is one stretch.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let alike = |left: &Block, right: &Block| left.index + 1 == right.index && left.tally == right.tally;
        let stretches = self.blocks.chunk_by(alike);
        let count = stretches.clone().count() as u64;
        for value in [self.from, self.carried, u64::from(self.shift), count] {
            put(out, value);
        }
        let mut next = 0;
        for stretch in stretches {
            let Some(&Block { index, tally }) = stretch.first() else { continue };
            for value in [index - next, stretch.len() as u64, tally.count, tally.sum] {
                put(out, value);
            }
            next = index + stretch.len() as u64;
        }
    }

    /// Reads what [`Ledger::encode`] wrote; `None` when the bytes are not that.
    pub(super) fn decode(input: &mut &[u8]) -> Option<Self> {
        let (from, carried) = (take(input)?, take(input)?);
        let shift = u32::try_from(take(input)?).ok()?;
        if !(SHIFT_MIN..=SHIFT_MAX).contains(&shift) {
            return None;
        }
        let mut blocks = Vec::new();
        let mut next = 0u64;
        for _ in 0..take(input)? {
            let first = next.checked_add(take(input)?)?;
            let len = take(input)?;
            let tally = Tally { count: take(input)?, sum: take(input)? };
            next = first.checked_add(len).filter(|next| *next <= (u64::MAX >> shift) + 1)?;
            if len == 0 || len > (BLOCKS_MAX - blocks.len()) as u64 {
                return None;
            }
            blocks.extend((first..next).map(|index| Block { index, tally }));
        }
        let mut ledger = Self { from, carried, shift, blocks };
        // It may be from when only the number of blocks was bounded.
        ledger.fit();
        Some(ledger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts one by one what the ledger counts by runs.
    fn check(ledger: &Ledger, settled: &[u64]) {
        assert_eq!(ledger.settled(), settled.len() as u64);
        let in_blocks: u64 = ledger.blocks().map(|block| ledger.tally(block.start).count).sum();
        let above = settled.iter().filter(|offset| **offset >= ledger.from()).count();
        assert_eq!(in_blocks, above as u64, "what is not carried is in a block");
        for block in ledger.blocks() {
            let mut tally = Tally::default();
            for offset in settled.iter().filter(|offset| **offset >= ledger.from()) {
                if block.contains(offset) {
                    tally.add(offset - block.start);
                }
            }
            assert_eq!(ledger.tally(block.start), tally, "{block:?}");
        }
    }

    #[test]
    fn runs_count_as_their_offsets_do_whatever_the_size_of_the_blocks() {
        let mut ledger = Ledger::starting_at(10);
        let mut settled = Vec::new();
        let mut next = 3u64;
        for step in 0..2_000u64 {
            let last = next + step % 97;
            ledger.settle(next, last);
            settled.extend(next..=last);
            next = last + 1 + step * step % 61;
            if step % 100 == 0 {
                check(&ledger, &settled);
            }
        }
        check(&ledger, &settled);
        assert!(ledger.blocks.len() <= BLOCKS_MAX && ledger.shift > SHIFT_MIN, "{ledger:?}");
        // Settled out of order, long after its neighbours.
        ledger.settle(1_001, 1_001);
        settled.push(1_001);
        check(&ledger, &settled);
    }

    #[test]
    fn what_the_log_no_longer_has_is_carried_on_and_small_blocks_come_back() {
        let mut ledger = Ledger::starting_at(0);
        ledger.settle(0, 99_999);
        let size = ledger.block_of(0).end;
        assert!(size > 1 << SHIFT_MIN);
        ledger.release(size + 1);
        assert_eq!((ledger.from(), ledger.carried, ledger.settled()), (size, size, 100_000));
        ledger.release(size);
        ledger.release(0);
        check(&ledger, &[(0..size).collect::<Vec<_>>(), (size..100_000).collect()].concat());
        ledger.release(200_000);
        assert_eq!((ledger.settled(), ledger.shift, ledger.blocks.len()), (100_000, SHIFT_MIN, 0));
        // What is settled that late can't be compared with anything, and counts.
        ledger.settle(5, 6);
        assert_eq!((ledger.settled(), ledger.blocks.len()), (100_002, 0));
    }

    #[test]
    fn a_ledger_survives_its_snapshot_and_stays_small() {
        let mut ledger = Ledger::starting_at(1_000);
        for first in (1_000..40_000_000).step_by(3_000) {
            ledger.settle(first, first + 1_700);
        }
        let mut bytes = Vec::new();
        ledger.encode(&mut bytes);
        assert!(bytes.len() < BLOCKS_MAX * 12, "{}", bytes.len());
        let mut even = Ledger::starting_at(0);
        even.settle(0, 40_000_000);
        let mut short = Vec::new();
        even.encode(&mut short);
        assert!(short.len() < 40, "all settled is one stretch, not {} bytes", short.len());
        assert_eq!(Ledger::decode(&mut &short[..]), Some(even));
        let mut input = &bytes[..];
        assert_eq!(Ledger::decode(&mut input), Some(ledger));
        assert!(input.is_empty());
        for cut in 0..bytes.len() {
            assert_eq!(Ledger::decode(&mut &bytes[..cut]), None, "cut at {cut}");
        }
    }

    /// What a domain's subscription does that matches an event now and then.
    #[test]
    fn a_queue_that_settles_little_takes_little_room_and_is_exact_all_the_same() {
        let mut ledger = Ledger::starting_at(0);
        let mut settled = Vec::new();
        for number in 0..500u64 {
            let offset = number * 10_007 + number % 13;
            ledger.settle(offset, offset);
            settled.push(offset);
            let blocks_max = (settled.len() / 16).max(8);
            assert!(ledger.blocks.len() <= blocks_max, "{} blocks for {number}", ledger.blocks.len());
            assert!(ledger.blocks.capacity() <= 2 * blocks_max.max(8), "{}", ledger.blocks.capacity());
        }
        check(&ledger, &settled);
        assert!(ledger.blocks.len() > 8, "they are told apart as far as they are worth it");
        // The log lets most of it go: what is left has settled less.
        ledger.release(450 * 10_007);
        check(&ledger, &settled);
        assert!(ledger.blocks.len() <= 8 && ledger.blocks.capacity() <= 8, "{ledger:?}");
        let mut bytes = Vec::new();
        ledger.encode(&mut bytes);
        assert!(bytes.len() < 100, "{}", bytes.len());
        assert_eq!(Ledger::decode(&mut &bytes[..]), Some(ledger));
    }

    /// Snapshots that exist may have 128 blocks, whatever is settled in them.
    #[test]
    fn a_ledger_of_many_blocks_with_little_in_them_is_read_and_made_small() {
        let settled: Vec<u64> = (0..100).map(|number| number * 64).collect();
        let tally = Tally { count: 1, sum: 0 };
        let blocks = (0..100).map(|index| Block { index, tally }).collect();
        let old = Ledger { from: 0, carried: 0, shift: SHIFT_MIN, blocks };
        let mut bytes = Vec::new();
        old.encode(&mut bytes);
        let read = Ledger::decode(&mut &bytes[..]).expect("it is one");
        check(&read, &settled);
        assert!(read.blocks.len() <= BLOCKS_MIN, "{read:?}");
    }

    #[test]
    fn the_last_offsets_there_are_can_be_settled() {
        let mut ledger = Ledger::starting_at(0);
        ledger.settle(u64::MAX - 2, u64::MAX - 1);
        ledger.settle(u64::MAX, u64::MAX);
        assert_eq!(ledger.settled(), 3);
        for offset in 0..=BLOCKS_MAX as u64 {
            ledger.settle(offset << 56, offset << 56);
        }
        assert_eq!(ledger.settled(), 3 + 1 + BLOCKS_MAX as u64);
    }
}
