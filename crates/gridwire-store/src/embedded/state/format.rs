//! The bytes of the state log's files, to the letter. Integers are little-endian.
//!
//! A file is a header block of 4 KiB and frames, back to back. Header: magic (8), version (4), CRC32C (4),
//! store id (16), number (8), `first` (8), time (8), zeros. Frame: `len` (4, bytes after the first 8),
//! CRC32C (4), `seq` (8), `durable` (8), time (8), body. Each CRC begins with the store id and the file's
//! number, so that no frame passes in another file or another store, and then covers what follows it (the
//! header's: all the block but itself).
//!
//! A snapshot has the same shape under another magic: `first` counts its parts, and in a part's frame `seq`
//! is the last group it includes and `durable` its subscription.

use gridwire_core::time::Timestamp;

use crate::embedded::bytes::Cursor;

pub(super) const VERSION: u32 = 1;
/// Bytes before the first frame.
pub(super) const HEADER_BYTES: usize = 4096;
/// Bytes of a frame before its body.
pub(super) const FRAME_BYTES: usize = 32;
/// Bytes of a frame that its `len` leaves out.
const UNCOUNTED: usize = 8;

/// What a file is; its magic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Log,
    Snapshot,
}

impl Kind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Log => b"GWSLG\0\0\0",
            Self::Snapshot => b"GWSNP\0\0\0",
        }
    }
}

/// The CRC of what is not stored: which store, which file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(u32);

impl Seed {
    pub(super) fn new(store: [u8; 16], number: u64) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(&store), &number.to_le_bytes()))
    }

    fn sum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) number: u64,
    /// A log's first sequence number; a snapshot's number of parts.
    pub(super) first: u64,
    pub(super) time: Timestamp,
}

/// Why a header was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    Damaged,
    Version(u32),
}

impl Header {
    pub(super) fn encode(&self, store: [u8; 16]) -> Vec<u8> {
        let mut rest = Vec::with_capacity(HEADER_BYTES);
        rest.extend_from_slice(&store);
        for field in [self.number, self.first, self.time.as_millis()] {
            rest.extend_from_slice(&field.to_le_bytes());
        }
        rest.resize(HEADER_BYTES - 16, 0);
        let mut block = Vec::with_capacity(HEADER_BYTES);
        block.extend_from_slice(self.kind.magic());
        block.extend_from_slice(&VERSION.to_le_bytes());
        let seed = Seed(Seed::new(store, self.number).sum(&block));
        block.extend_from_slice(&seed.sum(&rest).to_le_bytes());
        block.extend_from_slice(&rest);
        block
    }

    /// Reads the header of the file that should be number `number` of `store`.
    pub(super) fn decode(
        kind: Kind,
        number: u64,
        store: [u8; 16],
        block: &[u8],
    ) -> Result<Self, HeaderFault> {
        let block = block.get(..HEADER_BYTES).ok_or(HeaderFault::Damaged)?;
        let mut input = Cursor(block);
        if input.array() != Some(*kind.magic()) {
            return Err(HeaderFault::Damaged);
        }
        let version = input.u32().ok_or(HeaderFault::Damaged)?;
        let crc = input.u32().ok_or(HeaderFault::Damaged)?;
        let seed = Seed(Seed::new(store, number).sum(&block[..12]));
        if seed.sum(input.0) != crc {
            // Another version may sum otherwise, so it is believed unchecked: either way nothing is opened.
            return Err(if version == VERSION {
                HeaderFault::Damaged
            } else {
                HeaderFault::Version(version)
            });
        }
        let fields = (input.array::<16>(), input.u64(), input.u64(), input.u64());
        let (Some(_), Some(_), Some(first), Some(time)) = fields else { return Err(HeaderFault::Damaged) };
        Ok(Self { kind, number, first, time: Timestamp::from_millis(time) })
    }
}

/// One group of decisions, or, without a body, only the news of what is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) seq: u64,
    /// Every frame up to here was durable when this one was written.
    pub(super) durable: u64,
    pub(super) time: Timestamp,
    pub(super) body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Appends the frame. The body is below 4 GiB: callers bound it.
    pub(super) fn put(&self, seed: Seed, out: &mut Vec<u8>) {
        let len = u32::try_from(FRAME_BYTES - UNCOUNTED + self.body.len()).expect("a body is below 4 GiB");
        out.extend_from_slice(&len.to_le_bytes());
        let crc_at = out.len();
        out.extend_from_slice(&[0; 4]);
        for field in [self.seq, self.durable, self.time.as_millis()] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(self.body);
        let crc = seed.sum(&out[crc_at + 4..]);
        out[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// The length of the frame that begins with `head`; `None` when it cannot be one.
    pub(super) fn len(head: &[u8]) -> Option<usize> {
        let len = usize::try_from(Cursor(head).u32()?).ok()?;
        let total = len.checked_add(UNCOUNTED)?;
        (total >= FRAME_BYTES).then_some(total)
    }

    /// Reads the frame at the front of `bytes` if it is whole and sound.
    pub(super) fn parse(bytes: &'a [u8], seed: Seed) -> Option<Self> {
        let bytes = bytes.get(..Self::len(bytes)?)?;
        let mut input = Cursor(&bytes[4..]);
        let crc = input.u32()?;
        if seed.sum(input.0) != crc {
            return None;
        }
        let (seq, durable, time) = (input.u64()?, input.u64()?, input.u64()?);
        Some(Self { seq, durable, time: Timestamp::from_millis(time), body: input.0 })
    }

    pub(super) fn size(&self) -> usize {
        FRAME_BYTES + self.body.len()
    }
}

/// Shows the frames of a log file from `at` on, each with its place, as long as they are sound and numbered
/// without a gap from `seq`. Returns the place after the last.
pub(super) fn walk<'a>(
    bytes: &'a [u8],
    mut at: usize,
    mut seq: u64,
    seed: Seed,
    mut visit: impl FnMut(usize, Frame<'a>),
) -> usize {
    while let Some(frame) = bytes.get(at..).and_then(|rest| Frame::parse(rest, seed)) {
        if frame.seq != seq {
            break;
        }
        visit(at, frame);
        at += frame.size();
        seq += 1;
    }
    at
}

/// Looks at every byte position from `from` on for a sound frame which says that frame `seq` was durable, so
/// that one damaged length does not hide the frames behind it. Returns its place.
pub(super) fn find_later_mark(bytes: &[u8], from: usize, seq: u64, seed: Seed) -> Option<usize> {
    let rest = bytes.get(from..)?;
    let frames_max = (rest.len() / FRAME_BYTES) as u64;
    (0..rest.len().saturating_sub(FRAME_BYTES - 1)).find_map(|skip| {
        let mut fields = Cursor(&rest[skip + 8..]);
        let (later, durable) = (fields.u64()?, fields.u64()?);
        // Cheap checks first; the checksum decides.
        let is_plausible = seq <= durable && durable < later && later - seq <= frames_max;
        (is_plausible && Frame::parse(&rest[skip..], seed).is_some()).then_some(from + skip)
    })
}

/// Looks at every byte position from `from` on for a sound frame that comes after frame `seq`. Returns its
/// place.
pub(super) fn find_later_frame(bytes: &[u8], from: usize, seq: u64, seed: Seed) -> Option<usize> {
    let rest = bytes.get(from..)?;
    (0..rest.len().saturating_sub(FRAME_BYTES - 1)).find_map(|skip| {
        let mut fields = Cursor(&rest[skip + 8..]);
        let (later, durable) = (fields.u64()?, fields.u64()?);
        let frames_max = (skip / FRAME_BYTES) as u64 + 1;
        let is_plausible = durable < later && seq < later && later - seq <= frames_max;
        (is_plausible && Frame::parse(&rest[skip..], seed).is_some()).then_some(from + skip)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: [u8; 16] = [3; 16];

    fn header() -> Header {
        Header { kind: Kind::Log, number: 7, first: 42, time: Timestamp::from_millis(5) }
    }

    #[test]
    fn a_header_passes_only_unchanged_and_in_its_place() {
        let block = header().encode(STORE);
        assert_eq!(block.len(), HEADER_BYTES);
        assert_eq!(Header::decode(Kind::Log, 7, STORE, &block), Ok(header()));
        assert_eq!(Header::decode(Kind::Log, 8, STORE, &block), Err(HeaderFault::Damaged));
        assert_eq!(Header::decode(Kind::Log, 7, [4; 16], &block), Err(HeaderFault::Damaged));
        assert_eq!(Header::decode(Kind::Snapshot, 7, STORE, &block), Err(HeaderFault::Damaged));
        assert_eq!(Header::decode(Kind::Log, 7, STORE, &block[..100]), Err(HeaderFault::Damaged));
        for byte in 0..HEADER_BYTES {
            let mut changed = block.clone();
            changed[byte] ^= 4;
            assert!(Header::decode(Kind::Log, 7, STORE, &changed).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn a_frame_passes_only_whole_unchanged_and_in_its_file() {
        let seed = Seed::new(STORE, 7);
        let frame = Frame { seq: 9, durable: 8, time: Timestamp::from_millis(1), body: b"decisions" };
        let mut bytes = Vec::new();
        frame.put(seed, &mut bytes);
        assert_eq!(bytes.len(), frame.size());
        assert_eq!(Frame::parse(&bytes, seed), Some(frame));
        assert_eq!(Frame::parse(&bytes, Seed::new(STORE, 8)), None);
        assert_eq!(Frame::parse(&bytes[..bytes.len() - 1], seed), None);
        for byte in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[byte] ^= 1;
            assert_eq!(Frame::parse(&changed, seed), None, "byte {byte}");
        }
    }

    #[test]
    fn a_mark_is_found_behind_a_damaged_length() {
        let seed = Seed::new(STORE, 1);
        let mut bytes = Vec::new();
        for (seq, durable) in [(1, 0), (2, 0), (3, 1), (4, 2)] {
            Frame { seq, durable, time: Timestamp::ZERO, body: &[0xab; 13] }.put(seed, &mut bytes);
        }
        bytes[1] ^= 1;
        assert_eq!(walk(&bytes, 0, 1, seed, |_, _| panic!("no frame is sound here")), 0);
        assert_eq!(find_later_mark(&bytes, 0, 1, seed), Some(2 * 45));
        assert_eq!(find_later_mark(&bytes, 0, 3, seed), None, "nobody said that frame 3 was durable");
    }
}
