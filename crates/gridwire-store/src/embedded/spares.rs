//! Spare files, ready to become segments: recycled ones and ones filled with zeros.
//!
//! Appending where blocks were written before lets a flush skip the file system's metadata, which makes it
//! twice as fast as growing a file. Each place `spare-N` is empty, in somebody's hands, or ready.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use gridwire_outside::{Disk, OpenMode};

use super::segment::spare_path;

/// Bytes written at a time when a spare is filled.
const FILL_CHUNK: usize = 1 << 20;
/// Pause between two chunks: 32 MiB/s, gentle enough not to spoil the writer's flushes.
pub(crate) const FILL_PAUSE: Duration = Duration::from_micros(31_250);

#[derive(Debug)]
pub(crate) struct Spares {
    max: u8,
    places: Mutex<Places>,
}

#[derive(Debug)]
struct Places {
    ready: BTreeSet<u8>,
    held: BTreeSet<u8>,
}

impl Spares {
    pub(crate) fn new(max: u8, ready: BTreeSet<u8>) -> Self {
        Self { max, places: Mutex::new(Places { ready, held: BTreeSet::new() }) }
    }

    fn places(&self) -> std::sync::MutexGuard<'_, Places> {
        self.places.lock().expect("no panic while the places are held")
    }

    pub(crate) fn ready(&self) -> usize {
        self.places().ready.len()
    }

    /// Takes a ready spare into the caller's hands.
    pub(crate) fn take(&self) -> Option<u8> {
        let mut places = self.places();
        let place = places.ready.pop_first()?;
        places.held.insert(place);
        Some(place)
    }

    /// Takes an empty place into the caller's hands.
    pub(crate) fn claim(&self) -> Option<u8> {
        let mut places = self.places();
        let place =
            (0..self.max).find(|place| !places.ready.contains(place) && !places.held.contains(place))?;
        places.held.insert(place);
        Some(place)
    }

    /// What was held is ready (`true`) or its place is empty.
    pub(crate) fn give_back(&self, place: u8, ready: bool) {
        let mut places = self.places();
        places.held.remove(&place);
        if ready {
            places.ready.insert(place);
        }
    }
}

/// A spare being filled with zeros, a chunk at a time.
#[derive(Debug)]
pub(crate) struct Filling {
    place: u8,
    at: u64,
    bytes: u64,
}

impl Filling {
    pub(crate) fn start(spares: &Spares, bytes: u64) -> Option<Self> {
        Some(Self { place: spares.claim()?, at: 0, bytes })
    }

    /// Writes the next chunk; true when the spare is ready.
    pub(crate) fn step(&mut self, disk: &dyn Disk, dir: &Path, spares: &Spares) -> io::Result<bool> {
        let path = spare_path(dir, self.place).with_extension("new");
        let file = disk.open(&path, OpenMode::Create)?;
        let chunk = (self.bytes - self.at).min(FILL_CHUNK as u64);
        if chunk > 0 {
            file.write_at(&vec![0; usize::try_from(chunk).unwrap_or(FILL_CHUNK)], self.at)?;
            // Chunk by chunk, so that no large flush gets in the writer's way.
            file.sync_data()?;
            self.at += chunk;
            return Ok(false);
        }
        disk.rename(&path, &spare_path(dir, self.place))?;
        disk.sync_dir(dir)?;
        spares.give_back(self.place, true);
        Ok(true)
    }

    /// Gives the place up after a failure.
    pub(crate) fn abandon(self, disk: &dyn Disk, dir: &Path, spares: &Spares) {
        // What cannot be removed now is removed as a leftover at the next start.
        let _ = disk.remove(&spare_path(dir, self.place).with_extension("new"));
        spares.give_back(self.place, false);
    }
}

#[cfg(test)]
mod tests {
    use gridwire_outside::MemoryDisk;

    use super::*;

    #[test]
    fn a_filled_spare_is_ready_only_under_its_name() {
        let (disk, dir) = (MemoryDisk::new(), Path::new("/log"));
        disk.create_dir_all(dir).unwrap();
        let spares = Spares::new(1, BTreeSet::new());
        let bytes = FILL_CHUNK as u64 + 10;
        let mut filling = Filling::start(&spares, bytes).unwrap();
        assert!(Filling::start(&spares, bytes).is_none());
        assert!(!filling.step(&disk, dir, &spares).unwrap());
        assert!(!filling.step(&disk, dir, &spares).unwrap());
        assert_eq!((spares.ready(), spares.take()), (0, None));
        assert!(filling.step(&disk, dir, &spares).unwrap());
        assert_eq!(disk.list(dir).unwrap(), ["spare-0"]);
        assert_eq!(disk.contents(&spare_path(dir, 0)).map(|zeros| zeros.len() as u64), Some(bytes));
        assert_eq!(spares.take(), Some(0));
        assert_eq!(spares.claim(), None);
        spares.give_back(0, false);
        assert_eq!(spares.claim(), Some(0));
    }
}
