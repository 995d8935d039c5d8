//! The event log's bytes: a segment's header, its frames and its footer.
//!
//! ```text
//! 0      header block, 4 KiB: magic, version, store id, class, number, first LSN, created, newest time,
//!        LSN after the last event frame, count and CRC of the ends, CRC of all that
//! 4096   ends: per topic the next offset when the segment began; padded with zeros to 4 KiB
//! ...    frames, back to back
//! ...    nothing (zeros, or what a recycled file held in its former life)
//! -len   footer of a sealed segment: contents, CRC, length, magic; up to the last byte of the file
//! ```
//!
//! All integers are little-endian. Every CRC begins with the store id and the segment number, neither of
//! which is stored beside it: bytes of a file's former life do not pass, and neither do bytes that a
//! publisher planted in a payload, for no API shows the store id. The ends make a topic's offsets survive
//! the trimming of all its segments.

use std::collections::BTreeMap;

use gridwire_core::ids::{Offset, TopicNumber};
use gridwire_core::time::Timestamp;

use super::bytes::Cursor;

pub(crate) const FORMAT_VERSION: u32 = 1;
/// Size of the header block; the ends are padded to a multiple of it.
pub(crate) const BLOCK: usize = 4096;
/// Bytes of a frame before its body.
pub(crate) const FRAME_HEADER: usize = 50;
/// Bytes at the front of a frame that its length does not count: the length itself and the CRC.
const UNCOUNTED: usize = 8;
/// Largest frame, in bytes after its length and CRC. It bounds what recovery believes of a length, and a
/// publish request is far smaller.
pub(crate) const FRAME_BYTES_MAX: usize = 4 << 20;
/// Largest body that fits a frame.
pub(crate) const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX - (FRAME_HEADER - UNCOUNTED);
/// Most bytes that one group commit writes, unless a single frame is larger: long enough to keep a disk
/// streaming, short enough to keep its answer prompt.
pub(crate) const GROUP_BYTES_MAX: usize = 4 << 20;

const HEADER_MAGIC: &[u8; 8] = b"GWSEG\0\0\0";
const FOOTER_MAGIC: &[u8; 8] = b"GWSEAL\0\0";
/// CRC, length and magic behind a footer's contents.
const FOOTER_TAIL: usize = 16;
/// The codec bits of a frame's flags; only 0, "none", is written and read.
const CODEC_MASK: u16 = 0x00ff;
const KIND_MARK: u16 = 0x0100;

/// What every CRC of a segment begins with.
pub(crate) fn seed(store: [u8; 16], segment: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&store), &segment.to_le_bytes())
}

/// What a frame says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) lsn: u64,
    /// Frames below this one were durable when this one was written.
    pub(crate) durable: u64,
    pub(crate) topic: TopicNumber,
    /// 0 for a mark: a frame that only carries `durable`.
    pub(crate) count: u32,
    pub(crate) first: Offset,
    pub(crate) time: Timestamp,
}

impl FrameHeader {
    pub(crate) fn is_mark(&self) -> bool {
        self.count == 0
    }

    /// The offset after the frame's last event.
    pub(crate) fn end(&self) -> u64 {
        self.first.0 + u64::from(self.count)
    }

    /// Appends the whole frame. `body` is at most [`BODY_BYTES_MAX`] long.
    pub(crate) fn encode(&self, body: &[u8], seed: u32, out: &mut Vec<u8>) {
        let start = out.len();
        let len = u32::try_from(FRAME_HEADER - UNCOUNTED + body.len()).expect("bodies are bounded");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.lsn.to_le_bytes());
        out.extend_from_slice(&self.durable.to_le_bytes());
        out.extend_from_slice(&self.topic.0.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.first.0.to_le_bytes());
        out.extend_from_slice(&self.time.as_millis().to_le_bytes());
        out.extend_from_slice(&if self.is_mark() { KIND_MARK } else { 0 }.to_le_bytes());
        out.extend_from_slice(body);
        let crc = crc32c::crc32c_append(seed, &out[start + UNCOUNTED..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }

    /// The length of the whole frame whose first bytes these are, when it is within bounds.
    pub(crate) fn frame_len(front: &[u8]) -> Option<usize> {
        let len = Cursor(front).u32()? as usize;
        (FRAME_HEADER - UNCOUNTED..=FRAME_BYTES_MAX).contains(&len).then_some(len + UNCOUNTED)
    }

    /// LSN and `durable` of the frame whose first bytes these are, unchecked.
    pub(crate) fn peek(front: &[u8]) -> Option<(u64, u64)> {
        let mut cursor = Cursor(front.get(UNCOUNTED..)?);
        Some((cursor.u64()?, cursor.u64()?))
    }

    /// Checks and reads a whole frame; its body is what follows [`FRAME_HEADER`] bytes.
    pub(crate) fn decode(frame: &[u8], seed: u32) -> Option<Self> {
        let mut cursor = Cursor(frame);
        let _len = cursor.u32()?;
        let crc = cursor.u32()?;
        if crc32c::crc32c_append(seed, cursor.0) != crc {
            return None;
        }
        let header = Self {
            lsn: cursor.u64()?,
            durable: cursor.u64()?,
            topic: TopicNumber(cursor.u32()?),
            count: cursor.u32()?,
            first: Offset(cursor.u64()?),
            time: Timestamp::from_millis(cursor.u64()?),
        };
        let flags = cursor.u16()?;
        let sound = flags & CODEC_MASK == 0
            && header.is_mark() == (flags & KIND_MARK != 0)
            && header.first.0.checked_add(u64::from(header.count)).is_some();
        sound.then_some(header)
    }
}

/// What a segment says about itself before its first frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) number: u64,
    pub(crate) first_lsn: u64,
    pub(crate) created: Timestamp,
    /// The newest time of any frame before this segment.
    pub(crate) newest: Timestamp,
    /// The LSN after the last event frame before this segment; only marks lie between.
    pub(crate) events_end: u64,
    /// The next offset of every topic that ever had events.
    pub(crate) ends: BTreeMap<TopicNumber, u64>,
}

const END_BYTES: usize = 12;

/// The fixed part of a segment's header, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeaderBlock {
    number: u64,
    first_lsn: u64,
    created: Timestamp,
    newest: Timestamp,
    events_end: u64,
    ends_count: u32,
    ends_crc: u32,
}

impl HeaderBlock {
    /// Bytes that the ends take behind the header block.
    pub(crate) fn ends_len(&self) -> usize {
        self.ends_count as usize * END_BYTES
    }

    /// The header for those who do not need the ends.
    pub(crate) fn without_ends(self) -> SegmentHeader {
        let Self { number, first_lsn, created, newest, events_end, .. } = self;
        SegmentHeader { number, first_lsn, created, newest, events_end, ends: BTreeMap::new() }
    }

    /// Where the first frame begins.
    pub(crate) fn data_at(&self) -> u64 {
        (BLOCK + self.ends_len().next_multiple_of(BLOCK)) as u64
    }
}

/// Why a header block was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Damaged,
    Version(u32),
    OtherStore,
    OtherNumber(u64),
}

impl SegmentHeader {
    /// Header block and ends, as they are written at the front of a file.
    pub(crate) fn encode(&self, store: [u8; 16]) -> Vec<u8> {
        let seed = seed(store, self.number);
        let mut ends = Vec::with_capacity(self.ends.len() * END_BYTES);
        for (topic, end) in &self.ends {
            ends.extend_from_slice(&topic.0.to_le_bytes());
            ends.extend_from_slice(&end.to_le_bytes());
        }
        let count = u32::try_from(self.ends.len()).expect("topic numbers are 32 bits");
        let mut out = Vec::with_capacity(BLOCK + ends.len().next_multiple_of(BLOCK));
        out.extend_from_slice(HEADER_MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&store);
        out.extend_from_slice(&0u32.to_le_bytes()); // The class; there is only one.
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.first_lsn.to_le_bytes());
        out.extend_from_slice(&self.created.as_millis().to_le_bytes());
        out.extend_from_slice(&self.newest.as_millis().to_le_bytes());
        out.extend_from_slice(&self.events_end.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c_append(seed, &ends).to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.resize(BLOCK, 0);
        out.extend_from_slice(&ends);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }

    /// Checks a header block that should be that of segment `number`.
    pub(crate) fn decode_block(
        block: &[u8],
        store: [u8; 16],
        number: u64,
    ) -> Result<HeaderBlock, HeaderFault> {
        let mut cursor = Cursor(block);
        let fields = (|| {
            let magic = cursor.array::<8>()?;
            let version = cursor.u32()?;
            let found_store = cursor.array::<16>()?;
            let class = cursor.u32()?;
            let header = HeaderBlock {
                number: cursor.u64()?,
                first_lsn: cursor.u64()?,
                created: Timestamp::from_millis(cursor.u64()?),
                newest: Timestamp::from_millis(cursor.u64()?),
                events_end: cursor.u64()?,
                ends_count: cursor.u32()?,
                ends_crc: cursor.u32()?,
            };
            let covered = block.len() - cursor.0.len();
            Some((magic, version, found_store, class, header, covered, cursor.u32()?))
        })();
        let Some((magic, version, found_store, class, header, covered, crc)) = fields else {
            return Err(HeaderFault::Damaged);
        };
        if magic != *HEADER_MAGIC {
            return Err(HeaderFault::Damaged);
        }
        if version != FORMAT_VERSION {
            return Err(HeaderFault::Version(version));
        }
        if crc32c::crc32c_append(seed(found_store, header.number), &block[..covered]) != crc || class != 0 {
            return Err(HeaderFault::Damaged);
        }
        if found_store != store {
            return Err(HeaderFault::OtherStore);
        }
        if header.number != number {
            return Err(HeaderFault::OtherNumber(header.number));
        }
        Ok(header)
    }

    /// Adds the ends to a checked header block; `None` when they are damaged.
    pub(crate) fn decode_ends(block: HeaderBlock, ends: &[u8], store: [u8; 16]) -> Option<Self> {
        if crc32c::crc32c_append(seed(store, block.number), ends) != block.ends_crc {
            return None;
        }
        let mut cursor = Cursor(ends);
        let mut map = BTreeMap::new();
        for _ in 0..block.ends_count {
            map.insert(TopicNumber(cursor.u32()?), cursor.u64()?);
        }
        Some(Self { ends: map, ..block.without_ends() })
    }
}

/// What a segment holds of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) newest: Timestamp,
    pub(crate) bytes: u64,
}

/// Where a block begins: a stretch of a segment that shares one piece of index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockStart {
    pub(crate) at: u64,
    pub(crate) lsn: u64,
    /// The first offset in the block of each topic that has events there.
    pub(crate) topics: BTreeMap<TopicNumber, u64>,
}

/// What a segment holds: kept in memory, and written as its footer when it is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Where the first frame begins, and its LSN.
    pub(crate) data_at: u64,
    pub(crate) first_lsn: u64,
    /// Behind the last durable frame, and the LSN after it.
    pub(crate) end_at: u64,
    pub(crate) end_lsn: u64,
    /// The LSN after the last event frame, here or before: what follows are marks.
    pub(crate) events_end: u64,
    pub(crate) newest: Timestamp,
    pub(crate) topics: BTreeMap<TopicNumber, Span>,
    pub(crate) blocks: Vec<BlockStart>,
}

const SPAN_BYTES: usize = 36;
const BLOCK_TOPIC_BYTES: usize = 12;
const BLOCK_START_BYTES: usize = 20;
const CONTENTS_BYTES: usize = 56;

impl Contents {
    /// Of a segment without frames.
    pub(crate) fn new(data_at: u64, header: &SegmentHeader) -> Self {
        Self {
            data_at,
            first_lsn: header.first_lsn,
            end_at: data_at,
            end_lsn: header.first_lsn,
            events_end: header.events_end,
            newest: header.newest,
            topics: BTreeMap::new(),
            blocks: Vec::new(),
        }
    }

    /// Takes in the next frame, `len` bytes in all. A block begins with the first frame that starts at or
    /// behind its multiple of `block_bytes`.
    pub(crate) fn add(&mut self, header: &FrameHeader, len: u64, block_bytes: u64) {
        let due = match self.blocks.last() {
            None => true,
            Some(last) => (last.at - self.data_at) / block_bytes < (self.end_at - self.data_at) / block_bytes,
        };
        if due {
            self.blocks.push(BlockStart { at: self.end_at, lsn: header.lsn, topics: BTreeMap::new() });
        }
        self.end_at += len;
        self.end_lsn = header.lsn + 1;
        self.newest = self.newest.max(header.time);
        if header.is_mark() {
            return;
        }
        self.events_end = self.end_lsn;
        let last = header.end() - 1;
        let span = self.topics.entry(header.topic).or_insert(Span {
            first: header.first.0,
            last,
            newest: header.time,
            bytes: 0,
        });
        span.last = last;
        span.newest = span.newest.max(header.time);
        span.bytes += len;
        if let Some(block) = self.blocks.last_mut() {
            block.topics.entry(header.topic).or_insert(header.first.0);
        }
    }

    /// Bytes of the footer, at most, after `frames` more frames in `bytes` bytes.
    pub(crate) fn footer_len_max(&self, frames: usize, bytes: u64, block_bytes: u64) -> u64 {
        let more_blocks = usize::try_from(bytes / block_bytes).unwrap_or(usize::MAX).saturating_add(1);
        let starts: usize = self.blocks.iter().map(|block| block.topics.len()).sum();
        let len = CONTENTS_BYTES
            + FOOTER_TAIL
            + (self.topics.len() + frames) * SPAN_BYTES
            + (self.blocks.len() + more_blocks) * BLOCK_START_BYTES
            + (starts + frames) * BLOCK_TOPIC_BYTES;
        len as u64
    }

    /// The footer; its last byte belongs at the end of the file.
    pub(crate) fn encode_footer(&self, seed: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let Self { data_at, first_lsn, end_at, end_lsn, events_end, newest, .. } = self;
        for number in [*data_at, *first_lsn, *end_at, *end_lsn, *events_end, newest.as_millis()] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let count = |len: usize| u32::try_from(len).expect("topic numbers are 32 bits").to_le_bytes();
        out.extend_from_slice(&count(self.topics.len()));
        out.extend_from_slice(&count(self.blocks.len()));
        for (topic, span) in &self.topics {
            out.extend_from_slice(&topic.0.to_le_bytes());
            for number in [span.first, span.last, span.newest.as_millis(), span.bytes] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        for block in &self.blocks {
            out.extend_from_slice(&block.at.to_le_bytes());
            out.extend_from_slice(&block.lsn.to_le_bytes());
            out.extend_from_slice(&count(block.topics.len()));
            for (topic, first) in &block.topics {
                out.extend_from_slice(&topic.0.to_le_bytes());
                out.extend_from_slice(&first.to_le_bytes());
            }
        }
        let crc = crc32c::crc32c_append(seed, &out);
        let len = count(out.len());
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&len);
        out.extend_from_slice(FOOTER_MAGIC);
        out
    }

    /// From a file's last 16 bytes: where its footer begins, if they look like the end of one.
    pub(crate) fn footer_at(tail: &[u8], file_len: u64) -> Option<u64> {
        let mut cursor = Cursor(tail);
        let (_crc, len, magic) = (cursor.u32()?, cursor.u32()?, cursor.array::<8>()?);
        if magic != *FOOTER_MAGIC {
            return None;
        }
        file_len.checked_sub(FOOTER_TAIL as u64 + u64::from(len))
    }

    /// Bytes to read for [`Contents::footer_at`].
    pub(crate) const FOOTER_TAIL: usize = FOOTER_TAIL;

    /// Checks and reads a whole footer.
    pub(crate) fn decode_footer(footer: &[u8], seed: u32) -> Option<Self> {
        let (contents, tail) = footer.split_at_checked(footer.len().checked_sub(FOOTER_TAIL)?)?;
        let crc = Cursor(tail).u32()?;
        if crc32c::crc32c_append(seed, contents) != crc {
            return None;
        }
        let mut cursor = Cursor(contents);
        let data_at = cursor.u64()?;
        let first_lsn = cursor.u64()?;
        let (end_at, end_lsn, events_end) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
        let newest = Timestamp::from_millis(cursor.u64()?);
        let (topic_count, block_count) = (cursor.u32()?, cursor.u32()?);
        let mut topics = BTreeMap::new();
        for _ in 0..topic_count {
            let topic = TopicNumber(cursor.u32()?);
            let (first, last) = (cursor.u64()?, cursor.u64()?);
            let newest = Timestamp::from_millis(cursor.u64()?);
            topics.insert(topic, Span { first, last, newest, bytes: cursor.u64()? });
        }
        let mut blocks = Vec::new();
        for _ in 0..block_count {
            let (at, lsn) = (cursor.u64()?, cursor.u64()?);
            let mut topics = BTreeMap::new();
            for _ in 0..cursor.u32()? {
                topics.insert(TopicNumber(cursor.u32()?), cursor.u64()?);
            }
            blocks.push(BlockStart { at, lsn, topics });
        }
        Some(Self { data_at, first_lsn, end_at, end_lsn, events_end, newest, topics, blocks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: [u8; 16] = [7; 16];

    fn header(lsn: u64, topic: u32, count: u32, first: u64) -> FrameHeader {
        FrameHeader {
            lsn,
            durable: lsn,
            topic: TopicNumber(topic),
            count,
            first: Offset(first),
            time: Timestamp::from_millis(1_000 + lsn),
        }
    }

    #[test]
    fn a_frame_passes_only_whole_and_in_its_own_segment() {
        let frame = header(5, 2, 3, 10);
        let mut bytes = Vec::new();
        frame.encode(b"body", seed(STORE, 1), &mut bytes);
        assert_eq!(FrameHeader::frame_len(&bytes), Some(bytes.len()));
        assert_eq!(FrameHeader::peek(&bytes), Some((5, 5)));
        assert_eq!(FrameHeader::decode(&bytes, seed(STORE, 1)), Some(frame));
        assert_eq!(FrameHeader::decode(&bytes, seed(STORE, 2)), None);
        assert_eq!(FrameHeader::decode(&bytes, seed([8; 16], 1)), None);
        for byte in 4..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[byte] ^= 1;
            assert_eq!(FrameHeader::decode(&damaged, seed(STORE, 1)), None, "byte {byte}");
        }
    }

    #[test]
    fn a_header_tells_damage_from_another_version_and_another_place() {
        let ends = BTreeMap::from([(TopicNumber(1), 5), (TopicNumber(9), 700)]);
        let time = Timestamp::from_millis(9);
        let header =
            SegmentHeader { number: 3, first_lsn: 44, created: time, newest: time, events_end: 43, ends };
        let bytes = header.encode(STORE);
        let block = SegmentHeader::decode_block(&bytes, STORE, 3).expect("it is sound");
        assert_eq!(bytes.len() as u64, block.data_at());
        let ends = &bytes[BLOCK..BLOCK + block.ends_len()];
        assert_eq!(SegmentHeader::decode_ends(block, ends, STORE), Some(header));

        let fault = |bytes: &[u8], store, number| SegmentHeader::decode_block(bytes, store, number).err();
        assert_eq!(fault(&bytes, [8; 16], 3), Some(HeaderFault::OtherStore));
        assert_eq!(fault(&bytes, STORE, 4), Some(HeaderFault::OtherNumber(3)));
        let mut other = bytes.clone();
        other[8] = 2;
        assert_eq!(fault(&other, STORE, 3), Some(HeaderFault::Version(2)));
        let mut other = bytes.clone();
        other[40] ^= 1;
        assert_eq!(fault(&other, STORE, 3), Some(HeaderFault::Damaged));
        let mut other = ends.to_vec();
        other[4] ^= 1;
        assert_eq!(SegmentHeader::decode_ends(block, &other, STORE), None);
    }

    #[test]
    fn a_footer_survives_being_written_and_read_and_no_flipped_bit_passes() {
        let header_of = SegmentHeader {
            number: 1,
            first_lsn: 7,
            created: Timestamp::ZERO,
            newest: Timestamp::ZERO,
            events_end: 7,
            ends: BTreeMap::new(),
        };
        let mut contents = Contents::new(4096, &header_of);
        for lsn in 7..20 {
            let topic = u32::try_from(lsn % 3).expect("it is small");
            contents.add(&header(lsn, topic, 2, lsn / 3 * 2), 100, 256);
        }
        contents.add(&header(20, 0, 0, 0), 50, 256);
        assert!(contents.blocks.len() > 3);
        assert_eq!((contents.events_end, contents.end_lsn), (20, 21));
        let footer = contents.encode_footer(seed(STORE, 1));
        assert!(footer.len() as u64 <= contents.footer_len_max(0, 0, 256));
        let tail = &footer[footer.len() - Contents::FOOTER_TAIL..];
        assert_eq!(Contents::footer_at(tail, footer.len() as u64 + 10), Some(10));
        assert_eq!(Contents::decode_footer(&footer, seed(STORE, 1)).as_ref(), Some(&contents));
        assert_eq!(Contents::decode_footer(&footer, seed(STORE, 2)), None);
        for byte in 0..footer.len() - 12 {
            let mut damaged = footer.clone();
            damaged[byte] ^= 4;
            assert_eq!(Contents::decode_footer(&damaged, seed(STORE, 1)), None, "byte {byte}");
        }
    }
}
