//! The data directory: its lock, its format file and its store id.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use gridwire_outside::disk::read_exact_at;
use gridwire_outside::{Disk, DiskFile, OpenMode, Rng};

use super::error::OpenError;
use super::format::FORMAT_VERSION;
use super::segment::Name;

/// No sound `FORMAT` is larger.
const FORMAT_BYTES_MAX: u64 = 4096;

/// The directory, locked for this process.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Dropping it releases the lock.
    pub(crate) lock: Arc<dyn DiskFile>,
    pub(crate) store: [u8; 16],
}

impl Directory {
    /// Makes the directory if need be, locks it, and reads or writes its format.
    pub(crate) fn open(disk: &dyn Disk, rng: &dyn Rng, dir: &Path) -> Result<Self, OpenError> {
        disk.create_dir_all(dir).map_err(OpenError::io("create", dir))?;
        let path = dir.join("LOCK");
        let lock = disk.open(&path, OpenMode::Create).map_err(OpenError::io("open", &path))?;
        if !lock.try_lock().map_err(OpenError::io("lock", &path))? {
            return Err(OpenError::Locked { path: dir.to_owned() });
        }
        let names = disk.list(dir).map_err(OpenError::io("list", dir))?;
        let store = if names.iter().any(|name| name == "FORMAT") {
            read_format(disk, dir)?
        } else {
            let log = dir.join("log");
            // A missing file reads as an empty list too: a start may have been cut off before it was made.
            let old = if names.iter().any(|name| name == "log") { disk.list(&log) } else { Ok(Vec::new()) };
            if old
                .map_err(OpenError::io("list", &log))?
                .iter()
                .any(|name| matches!(Name::parse(name), Name::Segment(_)))
            {
                let path = dir.join("FORMAT");
                return Err(OpenError::damaged(&path, 0..0, "the file is missing and the log is not empty"));
            }
            write_format(disk, rng, dir)?
        };
        for name in ["log", "state"] {
            let dir = dir.join(name);
            disk.create_dir_all(&dir).map_err(OpenError::io("create", &dir))?;
        }
        disk.sync_dir(dir).map_err(OpenError::io("sync", dir))?;
        sync_above(disk, dir)?;
        Ok(Self { lock, store })
    }
}

/// Each directory's name is in the one above, and several may have been made.
fn sync_above(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
    for above in dir.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
        match disk.sync_dir(above) {
            // One that may not be read was not ours to make anything in, and not every system can.
            Err(error)
                if !matches!(
                    error.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::InvalidInput | ErrorKind::Unsupported
                ) =>
            {
                return Err(OpenError::io("sync", above)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn write_format(disk: &dyn Disk, rng: &dyn Rng, dir: &Path) -> Result<[u8; 16], OpenError> {
    let mut store = [0; 16];
    rng.fill(&mut store);
    write_format_of(disk, dir, store)?;
    Ok(store)
}

/// Writes the format file of a store that has its id.
pub(crate) fn write_format_of(disk: &dyn Disk, dir: &Path, store: [u8; 16]) -> Result<(), OpenError> {
    let text = format!("gridwire\nversion {FORMAT_VERSION}\nstore {:032x}\n", u128::from_be_bytes(store));
    let path = dir.join("FORMAT.new");
    let write = || {
        let file = disk.open(&path, OpenMode::Create)?;
        file.set_len(0)?;
        file.write_at(text.as_bytes(), 0)?;
        file.sync_data()?;
        disk.rename(&path, &dir.join("FORMAT"))?;
        disk.sync_dir(dir)
    };
    write().map_err(OpenError::io("write", &path))
}

pub(crate) fn read_format(disk: &dyn Disk, dir: &Path) -> Result<[u8; 16], OpenError> {
    let path = dir.join("FORMAT");
    let read = || {
        let file = disk.open(&path, OpenMode::Existing)?;
        let len = file.len()?.min(FORMAT_BYTES_MAX);
        let mut text = vec![0; usize::try_from(len).unwrap_or(0)];
        read_exact_at(&*file, &mut text, 0)?;
        Ok(text)
    };
    let text = read().map_err(OpenError::io("read", &path))?;
    let wrong = || OpenError::damaged(&path, 0..text.len() as u64, "it is not a format file of this store");
    let mut lines = std::str::from_utf8(&text).map_err(|_| wrong())?.lines();
    if lines.next() != Some("gridwire") {
        return Err(wrong());
    }
    let version = lines.next().and_then(|line| line.strip_prefix("version ")).and_then(|v| v.parse().ok());
    let version: u32 = version.ok_or_else(wrong)?;
    if version != FORMAT_VERSION {
        return Err(OpenError::UnknownFormat { path: dir.to_owned(), version, known: FORMAT_VERSION });
    }
    let store = lines.next().and_then(|line| line.strip_prefix("store ")).filter(|id| id.len() == 32);
    let store = store.and_then(|id| u128::from_str_radix(id, 16).ok()).ok_or_else(wrong)?;
    Ok(store.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use gridwire_outside::{MemoryDisk, SeededRng};

    use super::*;

    fn open(disk: &MemoryDisk) -> Result<Directory, OpenError> {
        Directory::open(disk, &SeededRng::new(1), Path::new("/data"))
    }

    #[test]
    fn a_directory_is_one_process_s_and_keeps_its_store_id() {
        let disk = MemoryDisk::new();
        let first = open(&disk).unwrap();
        assert!(matches!(open(&disk), Err(OpenError::Locked { .. })));
        let store = first.store;
        drop(first);
        assert_eq!(Directory::open(&disk, &SeededRng::new(2), Path::new("/data")).unwrap().store, store);
    }

    #[test]
    fn a_format_that_is_not_known_is_refused() {
        let check = |text: &str, expected: &str| {
            let disk = MemoryDisk::new();
            drop(open(&disk).unwrap());
            disk.put(Path::new("/data/FORMAT"), text.as_bytes().to_vec());
            let error = open(&disk).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let id = "0".repeat(32);
        check(
            &format!("gridwire\nversion 2\nstore {id}\n"),
            "has format version 2; this release knows version 1",
        );
        check(&format!("gridwire\nversion x\nstore {id}\n"), "`/data/FORMAT` is damaged");
        check("gridwire\nversion 1\nstore 00\n", "`/data/FORMAT` is damaged");
        check("", "`/data/FORMAT` is damaged");
    }

    #[test]
    fn a_log_without_its_format_is_refused() {
        let disk = MemoryDisk::new();
        drop(open(&disk).unwrap());
        disk.put(Path::new("/data/log/00000000000000000001.seg"), Vec::new());
        disk.remove(Path::new("/data/FORMAT")).unwrap();
        assert!(matches!(open(&disk), Err(OpenError::Damaged(_))));
    }
}
