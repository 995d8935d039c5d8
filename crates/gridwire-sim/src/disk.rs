//! A process's hold on the disk: every call can be its last.
//!
//! [`Life`] is a process's life as the rest of the world sees it. It ends by a call of [`Life::end`], or by a
//! *fuse*: at the n-th call to the disk from now, before it is made. From then on the disk refuses the process,
//! and whoever stands between the process and the world ([`crate::process`], [`crate::net`]) lets nothing more
//! out. Calls to the disk and bytes on the network are all that can be seen of a process, so this covers every
//! moment at which it could die.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use gridwire_outside::{Disk, DiskFile, MemoryDisk, OpenMode};

use crate::letters::LETTERS_DIR;

/// How a process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// `kill -9`: the page cache stays.
    Killed,
    /// What was not synced is lost, torn or kept, as the seed says.
    PowerCut(u64),
    /// It went by itself, in order.
    Stopped,
    /// It went by itself because it could not keep its promises; what it said.
    Failed(String),
}

/// A process's life. Clones are the same life.
#[derive(Clone)]
pub(crate) struct Life {
    state: Arc<Mutex<LifeState>>,
    disk: MemoryDisk,
}

#[derive(Debug, Default)]
struct LifeState {
    end: Option<End>,
    calls: u64,
    fuse: Option<(u64, End)>,
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life").finish_non_exhaustive()
    }
}

impl Life {
    pub(crate) fn new(disk: MemoryDisk) -> Self {
        Self { state: Arc::default(), disk }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, LifeState> {
        self.state.lock().expect("no panic while a life is held")
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state().end.is_some()
    }

    pub(crate) fn how_it_ended(&self) -> Option<End> {
        self.state().end.clone()
    }

    /// Ends it at the `calls`-th call to the disk from now.
    pub(crate) fn set_fuse(&self, calls: u64, end: End) {
        let mut state = self.state();
        state.fuse = Some((state.calls + calls, end));
    }

    pub(crate) fn clear_fuse(&self) {
        self.state().fuse = None;
    }

    /// Ends it now, unless it is over.
    pub(crate) fn end(&self, end: End) {
        let mut state = self.state();
        if state.end.is_some() {
            return;
        }
        match end {
            End::PowerCut(seed) => self.disk.crash(seed),
            End::Killed | End::Stopped | End::Failed(_) => self.disk.kill(),
        }
        state.end = Some(end);
    }

    /// Lets one call to the disk through, or not.
    fn step(&self) -> io::Result<()> {
        let due = {
            let mut state = self.state();
            state.calls += 1;
            let calls = state.calls;
            state.fuse.take_if(|(at, _)| *at <= calls).map(|(_, end)| end)
        };
        if let Some(end) = due {
            self.end(end);
        }
        if self.is_over() { Err(io::Error::other("the process has ended")) } else { Ok(()) }
    }
}

/// What the directory of dead letters refuses, as a storage account that is down or a share that is not mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Outage {
    #[default]
    None,
    /// Everything.
    All,
    /// To name a letter that was written aside.
    Names,
    /// To make a name durable: the letter is there, and nobody may count on it.
    Flushes,
}

/// The outage of the moment; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct LettersDisk(Arc<AtomicU8>);

impl LettersDisk {
    pub(crate) fn set(&self, outage: Outage) {
        self.0.store(outage as u8, Ordering::Relaxed);
    }

    fn allow(&self, path: &Path, refused: &[Outage]) -> io::Result<()> {
        let now = self.0.load(Ordering::Relaxed);
        let is_refused = now != Outage::None as u8 && refused.iter().any(|outage| *outage as u8 == now);
        if is_refused && path.starts_with(LETTERS_DIR) {
            return Err(io::Error::other("the place for dead letters is down"));
        }
        Ok(())
    }
}

/// The disk as one process sees it.
#[derive(Debug)]
pub(crate) struct ProcessDisk {
    pub(crate) life: Life,
    pub(crate) letters: LettersDisk,
}

#[derive(Debug)]
struct ProcessFile {
    life: Life,
    file: Arc<dyn DiskFile>,
}

impl ProcessDisk {
    fn disk(&self) -> io::Result<&MemoryDisk> {
        self.life.step()?;
        Ok(&self.life.disk)
    }
}

impl Disk for ProcessDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let disk = self.disk()?;
        self.letters.allow(path, &[Outage::All])?;
        let file = disk.open(path, mode)?;
        Ok(Arc::new(ProcessFile { life: self.life.clone(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let disk = self.disk()?;
        self.letters.allow(to, &[Outage::All, Outage::Names])?;
        disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let disk = self.disk()?;
        self.letters.allow(path, &[Outage::All])?;
        disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let disk = self.disk()?;
        self.letters.allow(dir, &[Outage::All, Outage::Flushes])?;
        disk.sync_dir(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let disk = self.disk()?;
        self.letters.allow(dir, &[Outage::All])?;
        disk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk()?.list(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.disk()?.free_bytes(dir)
    }
}

impl ProcessFile {
    fn file(&self) -> io::Result<&dyn DiskFile> {
        self.life.step()?;
        Ok(&*self.file)
    }
}

impl DiskFile for ProcessFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.file()?.read_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file()?.write_at(bytes, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file()?.sync_data()
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.file()?.allocate(at, len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file()?.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file()?.set_len(len)
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.file()?.try_lock()
    }
}
