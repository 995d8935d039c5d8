//! Finding the index of a block: in a bounded cache, in the segment's `.idx` file, or by building it.
//!
//! An index is built when it is first needed: subscriptions at the tail need none, and those behind share
//! what one of them had built. The block that is still being written to has its index in memory, brought up
//! to date by whoever uses it. Whoever is in no hurry has an index built slice by slice ([`Indexes::with_slice`]),
//! so that nobody waits for more than one of them. An `.idx` file is never trusted over the log: each of its records carries
//! a checksum and says what it covers, and whatever does not fit is built anew.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use gridwire_outside::disk::read_exact_at;
use gridwire_outside::{Disk, DiskFile, OpenMode};

use super::block::{BlockIndex, Extent};
use super::bytes::Cursor;
use super::damage::{Damages, extent_of, walk, walk_some};
use super::segment::{Segment, index_path};
use crate::log::ReadError;

const RECORD_MAGIC: &[u8; 4] = b"GWIX";
const RECORD_HEADER: usize = 48;
/// Bytes of log that whoever is in no hurry reads at a time: one or two milliseconds when they are in memory, and no
/// more than some tens from a slow disk.
pub(crate) const SLICE: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Indexes {
    bytes_max: usize,
    cache: Mutex<Cache>,
    /// What is being built. Whoever builds holds the lock, so that nothing is built twice.
    growing: Mutex<Unfinished>,
    pub(crate) damages: Damages,
}

/// Finished indexes, the least recently used first.
#[derive(Debug, Default)]
struct Cache {
    bytes: usize,
    entries: Vec<(Key, Arc<BlockIndex>)>,
}

/// Segment number and block.
type Key = (u64, usize);

/// The indexes that are not all there.
#[derive(Debug, Default)]
struct Unfinished {
    /// Of the block that is being written to, or was when it was last asked for.
    newest: Option<Growing>,
    /// The one that is built by slices. One for all who wait for one: each helps to get it done, whosever it is, so
    /// that however many there are nobody's work is thrown away for another's.
    sliced: Option<Growing>,
}

impl Unfinished {
    /// What there is of this one already.
    fn take(&mut self, key: Key) -> Option<BlockIndex> {
        let of = |growing: &mut Growing| growing.key == key;
        let own = self.newest.take_if(of).or_else(|| self.sliced.take_if(of))?;
        Some(own.index)
    }
}

#[derive(Debug)]
struct Growing {
    key: Key,
    /// Weak, so as not to keep a segment that is let go.
    segment: Weak<Segment>,
    index: BlockIndex,
}

/// The panics that could leave these half changed are in building, which starts over on any doubt.
fn hold<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a block covers, and whether that is final.
fn extent(segment: &Segment, block: usize) -> Option<(Extent, bool)> {
    let state = segment.state();
    let is_last = state.contents.blocks.len() == block + 1;
    Some((extent_of(&state.contents, block)?, state.sealed || !is_last))
}

impl Indexes {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, cache: Mutex::default(), growing: Mutex::default(), damages: Damages::default() }
    }

    /// Shows the index of a block, complete as of now. Blocks on files.
    pub(crate) fn with<T>(
        &self,
        (disk, dir): (&dyn Disk, &Path),
        segment: &Arc<Segment>,
        block: usize,
        show: impl FnOnce(&BlockIndex) -> T,
    ) -> Result<T, ReadError> {
        let key = (segment.number, block);
        let gone = || ReadError::Io(format!("segment {} has no block {block}", segment.number));
        let (covers, finished) = extent(segment, block).ok_or_else(gone)?;
        if finished && let Some(index) = self.cached(key) {
            return Ok(show(&index));
        }
        let mut growing = hold(&self.growing);
        if finished {
            if let Some(index) = self.cached(key) {
                drop(growing);
                return Ok(show(&index));
            }
            let loaded = load(disk, dir, segment, block, covers);
            let index = if let Some(index) = loaded {
                index
            } else {
                let own = growing.take(key);
                let index = own.unwrap_or_else(|| BlockIndex::new(covers.at, covers.lsn));
                self.complete(disk, dir, segment, block, index, covers)?
            };
            let index = self.keep(key, index);
            drop(growing);
            return Ok(show(&index));
        }
        let own = growing.take(key);
        if let Some(other) = growing.newest.take() {
            self.finish_other(disk, dir, other);
        }
        let mut index = own.unwrap_or_else(|| BlockIndex::new(covers.at, covers.lsn));
        walk(segment, block, &mut index, covers, &self.damages)?;
        let shown = show(&index);
        growing.newest = Some(Growing { key, segment: Arc::downgrade(segment), index });
        Ok(shown)
    }

    /// Shows the index of a block to whoever is in no hurry, and whether it is complete as of now. Where there is none
    /// it is shown as far as it is built, a slice more each time; `None` when somebody else is building, or the slice
    /// went to another block.
    pub(crate) fn with_slice<T>(
        &self,
        (disk, dir): (&dyn Disk, &Path),
        segment: &Arc<Segment>,
        block: usize,
        show: impl FnOnce(&BlockIndex) -> T,
    ) -> Result<Option<(T, bool)>, ReadError> {
        let key = (segment.number, block);
        let gone = || ReadError::Io(format!("segment {} has no block {block}", segment.number));
        let (covers, finished) = extent(segment, block).ok_or_else(gone)?;
        if finished {
            let known = self.cached(key).or_else(|| {
                let loaded = load(disk, dir, segment, block, covers)?;
                Some(self.keep(key, loaded))
            });
            if let Some(index) = known {
                return Ok(Some((show(&index), true)));
            }
        }
        let mut growing = match self.growing.try_lock() {
            Ok(growing) => growing,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // This thread has better to do than to wait.
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        if finished && let Some(index) = self.cached(key) {
            drop(growing);
            return Ok(Some((show(&index), true)));
        }
        let newest = growing.newest.take_if(|newest| newest.key == key);
        let is_newest = newest.is_some();
        let mut own = newest.or_else(|| growing.sliced.take()).unwrap_or_else(|| Growing {
            key,
            segment: Arc::downgrade(segment),
            index: BlockIndex::new(covers.at, covers.lsn),
        });
        // It is gone when the log has let go what somebody else was building.
        let Some(of) = own.segment.upgrade() else { return Ok(None) };
        let Some((covers, finished)) = extent(&of, own.key.1) else { return Ok(None) };
        let is_other = own.key != key;
        let walked = match walk_some(&of, &mut own.index, covers, SLICE) {
            Ok(true) => Ok(()),
            Ok(false) => walk(&of, own.key.1, &mut own.index, covers, &self.damages),
            Err(error) => Err(error),
        };
        match walked {
            Ok(()) => {}
            // Whoever wants that block meets the failure by itself.
            Err(_) if is_other => return Ok(None),
            Err(error) => {
                // What the index has by then is right.
                let place = if is_newest { &mut growing.newest } else { &mut growing.sliced };
                *place = Some(own);
                return Err(error);
            }
        }
        let complete = covers.end_at <= own.index.extent.end_at;
        let shown = (own.key == key).then(|| (show(&own.index), complete));
        if complete && finished {
            let Growing { key, index, .. } = own;
            match self.complete(disk, dir, &of, key.1, index, covers) {
                Ok(index) => drop(self.keep(key, index)),
                Err(_) if is_other => {}
                Err(error) => return Err(error),
            }
        } else if is_newest {
            growing.newest = Some(own);
        } else if complete {
            // As of now: there it is kept up to date, and what was there is no longer the newest.
            growing.sliced = growing.newest.replace(own);
        } else {
            growing.sliced = Some(own);
        }
        Ok(shown)
    }

    /// The writer has moved on from a block whose index was being kept up to date: what is missing is added,
    /// and it is kept like any other.
    fn finish_other(&self, disk: &dyn Disk, dir: &Path, other: Growing) {
        let Growing { key, segment, index } = other;
        let Some(segment) = segment.upgrade() else { return };
        let Some((covers, true)) = extent(&segment, key.1) else { return };
        // A failure shows again when the block is next asked for.
        if let Ok(index) = self.complete(disk, dir, &segment, key.1, index, covers) {
            self.keep(key, index);
        }
    }

    /// Finds out what of a block is damaged, whatever an index made before says of it.
    pub(crate) fn examine(&self, segment: &Segment, block: usize) -> Result<(), ReadError> {
        let gone = || ReadError::Io(format!("segment {} has no block {block}", segment.number));
        let (covers, _) = extent(segment, block).ok_or_else(gone)?;
        walk(segment, block, &mut BlockIndex::new(covers.at, covers.lsn), covers, &self.damages)
    }

    fn complete(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        segment: &Segment,
        block: usize,
        mut index: BlockIndex,
        covers: Extent,
    ) -> Result<BlockIndex, ReadError> {
        walk(segment, block, &mut index, covers, &self.damages)?;
        index.finish();
        // What is damaged is looked for again at every start: it may have been the reading.
        if index.is_damaged() {
            return Ok(index);
        }
        if let Err(error) = store(disk, dir, segment, block, &index) {
            tracing::debug!(segment = segment.number, block, %error, "did not keep an index on disk");
        }
        Ok(index)
    }

    fn cached(&self, key: Key) -> Option<Arc<BlockIndex>> {
        let mut cache = hold(&self.cache);
        let at = cache.entries.iter().position(|(other, _)| *other == key)?;
        let entry = cache.entries.remove(at);
        let index = entry.1.clone();
        cache.entries.push(entry);
        Some(index)
    }

    fn keep(&self, key: Key, index: BlockIndex) -> Arc<BlockIndex> {
        // Two may have loaded it at once.
        if let Some(index) = self.cached(key) {
            return index;
        }
        let index = Arc::new(index);
        let mut cache = hold(&self.cache);
        cache.bytes += index.weight();
        cache.entries.push((key, index.clone()));
        while self.bytes_max < cache.bytes && cache.entries.len() > 1 {
            let (_, gone) = cache.entries.remove(0);
            cache.bytes -= gone.weight();
        }
        index
    }

    /// Forgets a segment that is let go.
    pub(crate) fn forget(&self, segment: u64) {
        let mut cache = hold(&self.cache);
        let (gone, kept) = cache.entries.drain(..).partition(|((number, _), _)| *number == segment);
        cache.entries = kept;
        let gone: Vec<(Key, Arc<BlockIndex>)> = gone;
        cache.bytes -= gone.iter().map(|(_, index)| index.weight()).sum::<usize>();
    }
}

/// A record of an `.idx` file, still encoded.
struct Record {
    block: u32,
    extent: Extent,
    crc: u32,
    len: u32,
    header: [u8; RECORD_HEADER],
}

fn record_header(block: u32, extent: Extent, len: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(RECORD_HEADER + len as usize);
    out.extend_from_slice(RECORD_MAGIC);
    out.extend_from_slice(&[0; 4]); // The checksum, of all that follows it.
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&block.to_le_bytes());
    for number in [extent.at, extent.lsn, extent.end_at, extent.end_lsn] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out
}

fn read_record(file: &dyn DiskFile, at: u64) -> Option<Record> {
    let mut header = [0; RECORD_HEADER];
    read_exact_at(file, &mut header, at).ok()?;
    let mut cursor = Cursor(&header);
    if cursor.array::<4>()? != *RECORD_MAGIC {
        return None;
    }
    let (crc, len, block) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
    let (at, lsn, end_at, end_lsn) = (cursor.u64()?, cursor.u64()?, cursor.u64()?, cursor.u64()?);
    Some(Record { block, extent: Extent { at, lsn, end_at, end_lsn }, crc, len, header })
}

/// Reads a block's index from the `.idx` file; `None` when it is not there, not sound, or of something else.
fn load(disk: &dyn Disk, dir: &Path, segment: &Segment, block: usize, covers: Extent) -> Option<BlockIndex> {
    let file = disk.open(&index_path(dir, segment.number), OpenMode::Existing).ok()?;
    let file_len = file.len().ok()?;
    let mut at = 0;
    loop {
        let record = read_record(&*file, at)?;
        let payload_at = at + RECORD_HEADER as u64;
        at = payload_at + u64::from(record.len);
        if file_len < at {
            return None;
        }
        if record.block as usize != block || record.extent != covers {
            continue;
        }
        let mut payload = vec![0; record.len as usize];
        read_exact_at(&*file, &mut payload, payload_at).ok()?;
        let crc = crc32c::crc32c_append(segment.seed, &record.header[8..]);
        if crc32c::crc32c_append(crc, &payload) != record.crc {
            // A damaged record would hide its successor for good.
            let _ = file.set_len(0);
            return None;
        }
        return BlockIndex::decode(covers, &payload);
    }
}

/// Adds a finished block's index to the `.idx` file. Not flushed: it can be built again.
fn store(disk: &dyn Disk, dir: &Path, segment: &Segment, block: usize, index: &BlockIndex) -> io::Result<()> {
    let mut payload = Vec::new();
    index.encode(&mut payload);
    let len = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut record = record_header(u32::try_from(block).map_err(io::Error::other)?, index.extent, len);
    record.extend_from_slice(&payload);
    let crc = crc32c::crc32c_append(segment.seed, &record[8..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());

    let file = disk.open(&index_path(dir, segment.number), OpenMode::Create)?;
    let file_len = file.len()?;
    let mut at = 0;
    while let Some(found) = read_record(&*file, at) {
        let end = at + RECORD_HEADER as u64 + u64::from(found.len);
        if file_len < end {
            break;
        }
        at = end;
    }
    file.set_len(at)?;
    file.write_at(&record, at)
}
