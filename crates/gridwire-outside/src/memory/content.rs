//! The bytes of one file: what is written, and what of it a power cut may take back.
//!
//! `bytes` is what every reader sees. For each sector that differs from the medium, `unsynced` or `lost`
//! holds what the medium has. A sync makes `unsynced` sectors durable. A *failed* sync moves them to `lost`:
//! the system thinks they are clean, so no later sync writes them; only writing them again helps.
//!
//! Disks that share a past share its bytes until one of them changes a file.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::rng::SeededRng;

/// What a disk writes as a whole or not at all.
pub(super) const SECTOR: u64 = 512;

/// The medium's bytes of a sector; shorter than a sector when the file ended in it or before.
type OldSector = Vec<u8>;

#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    bytes: Arc<Vec<u8>>,
    unsynced: BTreeMap<u64, OldSector>,
    lost: BTreeMap<u64, OldSector>,
    durable_len: usize,
    /// Lengths given by `set_len` since the last sync, unless a write has made the file longer since: each
    /// came to be as a whole.
    set_lens: Vec<usize>,
    reserved: u64,
    durable_reserved: u64,
}

fn index(at: u64) -> usize {
    usize::try_from(at).expect("a file in memory is addressable")
}

impl Content {
    /// A file whose bytes are all on the medium.
    pub(super) fn durable(bytes: Vec<u8>) -> Self {
        Self { durable_len: bytes.len(), bytes: Arc::new(bytes), ..Self::default() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes that count against the capacity.
    pub(super) fn space(&self) -> u64 {
        self.reserved.max(self.bytes.len() as u64)
    }

    /// What [`Content::space`] becomes when the file reaches to `end`.
    pub(super) fn space_with(&self, end: u64) -> u64 {
        self.space().max(end)
    }

    pub(super) fn reserve(&mut self, end: u64) {
        self.reserved = self.reserved.max(end);
    }

    fn bytes_mut(&mut self) -> &mut Vec<u8> {
        Arc::make_mut(&mut self.bytes)
    }

    /// New bytes are zero.
    fn resize(&mut self, len: usize) {
        if self.bytes.len() != len {
            self.bytes_mut().resize(len, 0);
        }
    }

    fn remember(&mut self, from: u64, to: u64) {
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            let old = self.lost.remove(&sector);
            if self.unsynced.contains_key(&sector) {
                continue;
            }
            let old = old.unwrap_or_else(|| {
                let start = index(sector * SECTOR).min(self.bytes.len());
                let end = index((sector + 1) * SECTOR).min(self.bytes.len());
                self.bytes[start..end].to_vec()
            });
            self.unsynced.insert(sector, old);
        }
    }

    pub(super) fn read(&self, buffer: &mut [u8], at: u64) -> usize {
        let start = index(at).min(self.bytes.len());
        let count = buffer.len().min(self.bytes.len() - start);
        buffer[..count].copy_from_slice(&self.bytes[start..start + count]);
        count
    }

    pub(super) fn write(&mut self, bytes: &[u8], at: u64) {
        let end = at + bytes.len() as u64;
        self.remember(at, end);
        if self.bytes.len() < index(end) {
            self.resize(index(end));
            self.set_lens.clear();
        }
        self.bytes_mut()[index(at)..index(end)].copy_from_slice(bytes);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.bytes.len() as u64 {
            self.remember(len, self.bytes.len() as u64);
            self.reserved = len;
        }
        self.resize(index(len));
        self.set_lens.push(index(len));
    }

    pub(super) fn sync(&mut self) {
        self.unsynced.clear();
        self.set_lens.clear();
        self.durable_len = self.bytes.len();
        self.durable_reserved = self.reserved;
    }

    /// The system gave up writing: it forgets that the sectors are dirty, and says so once.
    pub(super) fn fail_sync(&mut self) {
        self.lost.append(&mut self.unsynced);
    }

    /// Changes a bit for good, whether it was synced or not.
    pub(super) fn flip(&mut self, byte: u64, mask: u8) {
        if let Some(shown) = self.bytes_mut().get_mut(index(byte)) {
            *shown ^= mask;
        }
        for old in [&mut self.unsynced, &mut self.lost] {
            if let Some(below) =
                old.get_mut(&(byte / SECTOR)).and_then(|old| old.get_mut(index(byte % SECTOR)))
            {
                *below ^= mask;
            }
        }
    }

    /// The power went: of everything not durable, `rng` says what made it to the medium.
    pub(super) fn crash(&mut self, rng: &SeededRng) {
        let written_len = self.bytes.len();
        let len = match rng.below(3) {
            0 => written_len,
            1 => self.durable_len,
            _ => {
                let (low, high) = (written_len.min(self.durable_len), written_len.max(self.durable_len));
                // A cut-off file is cut or not; one that writes made longer may have grown by a part.
                if written_len < self.durable_len {
                    self.durable_len
                } else if let Some(last) = self.set_lens.len().checked_sub(1) {
                    self.set_lens[index(rng.below(last as u64 + 1))].max(low)
                } else {
                    low + index(rng.below((high - low) as u64 + 1))
                }
            }
        };
        let mut old = std::mem::take(&mut self.unsynced);
        old.append(&mut self.lost);
        self.resize(written_len.max(self.durable_len));
        for (sector, old) in old {
            let start = index(sector * SECTOR);
            let cut_off = written_len < start + old.len() && written_len < self.durable_len;
            let keep = rng.below(2) == 0;
            if keep && !(cut_off && written_len < len) {
                continue;
            }
            let end = (start + index(SECTOR)).min(self.bytes.len());
            if start < end {
                let bytes = self.bytes_mut();
                bytes[start..end].fill(0);
                let shown = old.len().min(end - start);
                bytes[start..start + shown].copy_from_slice(&old[..shown]);
            }
        }
        self.resize(len);
        self.durable_len = len;
        self.set_lens.clear();
        self.reserved = self.durable_reserved;
    }
}
