//! The subscriptions that an event matched, in memory and as stored in front of every event in the log.
//!
//! The stored form begins with a varint header. Its lowest bit tells the form, the rest is a count:
//! - 0, a list: that many varints follow; the first is a slot, each other one the gap to the slot before it,
//!   less one. Nobody is the single byte 0.
//! - 1, a bitmap: that many bytes follow, bit `n % 8` of byte `n / 8` for slot `n`; the last byte is not 0.
//!
//! Whichever is shorter is written, so subscriptions 0 to 499 never cost more than 63 bytes and the header.

use crate::ids::Slot;
use crate::varint;

/// The subscriptions of a topic that an event matched: ascending slots, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MatchSet {
    slots: Vec<u32>,
}

const BITMAP: u64 = 1;
/// Bytes of a bitmap that has a bit for every slot.
const BITMAP_BYTES_MAX: usize = 1 << 29;

impl MatchSet {
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Forgets the slots and keeps the memory, so that one set serves many events.
    pub fn clear(&mut self) {
        self.slots.clear();
    }

    /// Adds a slot above all that are there.
    pub fn push(&mut self, slot: Slot) {
        assert!(self.slots.last().is_none_or(|&last| last < slot.0), "slots of a match set ascend");
        self.slots.push(slot.0);
    }

    /// Adds all slots of `other`.
    pub fn merge(&mut self, other: &Self) {
        if other.slots.is_empty() {
            return;
        }
        let ascend = self.slots.last().is_none_or(|last| *last < other.slots[0]);
        self.slots.extend_from_slice(&other.slots);
        if !ascend {
            self.slots.sort_unstable();
            self.slots.dedup();
        }
    }

    pub fn contains(&self, slot: Slot) -> bool {
        self.slots.binary_search(&slot.0).is_ok()
    }

    /// The slots in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.slots.iter().copied().map(Slot)
    }

    /// Appends the stored form, which tells its own length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Some(&last) = self.slots.last() else {
            out.push(0);
            return;
        };
        let bitmap_bytes = last as usize / 8 + 1;
        let start = out.len();
        varint::put(out, (self.slots.len() as u64) << 1);
        let header = out.len();
        let mut next = 0;
        for &slot in &self.slots {
            varint::put(out, u64::from(slot) - next);
            next = u64::from(slot) + 1;
            if out.len() - header > bitmap_bytes {
                break;
            }
        }
        if out.len() - header > bitmap_bytes {
            out.truncate(start);
            varint::put(out, (bitmap_bytes as u64) << 1 | BITMAP);
            let first = out.len();
            out.resize(first + bitmap_bytes, 0);
            for &slot in &self.slots {
                out[first + slot as usize / 8] |= 1 << (slot % 8);
            }
        }
    }

    /// Takes the stored form from the front of `input`; `None` when it is malformed.
    pub fn decode(input: &mut &[u8]) -> Option<Self> {
        let mut set = Self::default();
        Self::decode_into(input, &mut set)?;
        Some(set)
    }

    /// As [`MatchSet::decode`], into a set whose memory is used again. After `None` the set is empty.
    pub fn decode_into(input: &mut &[u8], set: &mut Self) -> Option<()> {
        set.clear();
        let slots = &mut set.slots;
        let result = walk(input, |slot| slots.push(slot));
        if result.is_none() {
            set.clear();
        }
        result
    }

    /// Passes over the stored form; `None` in exactly the cases of [`MatchSet::decode`]. Allocates nothing.
    pub fn skip(input: &mut &[u8]) -> Option<()> {
        walk(input, |_| ())
    }
}

/// Calls `each` with every slot of the stored form. Each byte of input yields at most 8 slots, so memory made
/// from them is bounded by what was read.
fn walk(input: &mut &[u8], mut each: impl FnMut(u32)) -> Option<()> {
    let header = varint::take(input)?;
    let count = header >> 1;
    if header & BITMAP == 0 {
        let mut next = 0;
        for _ in 0..count {
            let slot = varint::take(input)?.checked_add(next)?;
            each(u32::try_from(slot).ok()?);
            next = slot + 1;
        }
        return Some(());
    }
    let bytes = usize::try_from(count).ok().filter(|&bytes| bytes <= BITMAP_BYTES_MAX)?;
    let (bitmap, rest) = input.split_at_checked(bytes)?;
    if *bitmap.last()? == 0 {
        return None;
    }
    *input = rest;
    for (base, &byte) in (0..).step_by(8).zip(bitmap) {
        let mut bits = byte;
        while bits != 0 {
            each(base + bits.trailing_zeros());
            bits &= bits - 1;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(slots: &[u32]) -> MatchSet {
        let mut set = MatchSet::default();
        for &slot in slots {
            set.push(Slot(slot));
        }
        set
    }

    fn check(slots: &[u32], bytes_max: usize) {
        let set = set(slots);
        let mut bytes = vec![0xee];
        set.encode(&mut bytes);
        assert!(bytes.len() - 1 <= bytes_max, "{} bytes for {slots:?}", bytes.len() - 1);
        bytes.push(0xdd);
        let mut input = &bytes[1..];
        assert_eq!(MatchSet::decode(&mut input).as_ref(), Some(&set));
        assert_eq!(input, [0xdd]);
        let mut input = &bytes[1..];
        assert_eq!(MatchSet::skip(&mut input), Some(()));
        assert_eq!(input, [0xdd]);
        for cut in 1..bytes.len() - 1 {
            assert_eq!(MatchSet::decode(&mut &bytes[1..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_match_set_survives_being_stored_in_few_bytes() {
        check(&[], 1);
        check(&[0], 2);
        check(&[499], 3);
        check(&[3, 9, 200, 410], 7);
        check(&(0..500).collect::<Vec<_>>(), 64);
        check(&(0..500).step_by(2).collect::<Vec<_>>(), 64);
        check(&[0, 1, 2, 3, u32::MAX], 10);
        check(&[u32::MAX], 6);
    }

    #[test]
    fn five_hundred_subscriptions_never_cost_more_than_63_bytes_and_a_header() {
        for step in 1..500 {
            check(&(0..500).step_by(step).collect::<Vec<_>>(), 64);
        }
    }

    #[test]
    fn bytes_that_are_no_match_set_are_refused() {
        let too_many = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 1];
        let bitmap_too_long = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 1];
        let slot_over_32_bits = [0x02, 0x80, 0x80, 0x80, 0x80, 0x10];
        let sum_over_32_bits = [0x04, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
        let sum_over_64_bits = [0x04, 5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        for bytes in [
            &[][..],
            &[0x80],
            &[0x02],
            &[0x01],
            &[0x03, 0x00],
            &[0x05, 0x01, 0x00],
            &too_many,
            &bitmap_too_long,
            &slot_over_32_bits,
            &sum_over_32_bits,
            &sum_over_64_bits,
        ] {
            assert_eq!(MatchSet::decode(&mut &*bytes), None, "{bytes:?}");
            assert_eq!(MatchSet::skip(&mut &*bytes), None, "{bytes:?}");
            let mut reused = set(&[1, 2]);
            assert_eq!(MatchSet::decode_into(&mut &*bytes, &mut reused), None);
            assert!(reused.is_empty());
        }
    }

    #[test]
    fn a_set_knows_its_members() {
        let set = set(&[1, 5, 9]);
        assert_eq!(set.len(), 3);
        assert!(set.contains(Slot(5)) && !set.contains(Slot(6)));
        assert_eq!(set.iter().collect::<Vec<_>>(), [Slot(1), Slot(5), Slot(9)]);
    }

    #[test]
    fn sets_are_merged_in_order() {
        for (one, other, expected) in [
            (&[][..], &[][..], &[][..]),
            (&[1, 4], &[], &[1, 4]),
            (&[], &[2], &[2]),
            (&[1, 4], &[5, 9], &[1, 4, 5, 9]),
            (&[1, 4, 7], &[0, 4, 5], &[0, 1, 4, 5, 7]),
        ] {
            let mut merged = set(one);
            merged.merge(&set(other));
            assert_eq!(merged, set(expected), "{one:?} and {other:?}");
        }
    }

    #[test]
    #[should_panic(expected = "slots of a match set ascend")]
    fn a_slot_out_of_order_is_a_bug() {
        set(&[2, 2]);
    }

    proptest! {
        #[test]
        fn any_set_survives_being_stored(slots in proptest::collection::btree_set(0u32..3000, 0..200)) {
            check(&slots.into_iter().collect::<Vec<_>>(), 400);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let (mut decoded, mut skipped) = (&bytes[..], &bytes[..]);
            let set = MatchSet::decode(&mut decoded);
            prop_assert_eq!(set.is_some(), MatchSet::skip(&mut skipped).is_some());
            if let Some(set) = set {
                prop_assert_eq!(decoded, skipped);
                prop_assert!(set.slots.is_sorted_by(|a, b| a < b));
            }
        }
    }
}
