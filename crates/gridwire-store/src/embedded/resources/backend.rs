//! redb's storage over a file of our [`gridwire_outside::Disk`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gridwire_outside::DiskFile;
use gridwire_outside::disk::read_exact_at;
use redb::StorageBackend;

#[derive(Debug)]
pub(super) struct FileBackend {
    file: Arc<dyn DiskFile>,
    /// Set by the first failed flush, and then for good: a later flush would promise what it cannot know.
    flush_failed: Arc<AtomicBool>,
}

impl FileBackend {
    pub(super) fn new(file: Arc<dyn DiskFile>, flush_failed: Arc<AtomicBool>) -> Self {
        Self { file, flush_failed }
    }
}

impl StorageBackend for FileBackend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_exact_at(&*self.file, out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let old = self.file.len()?;
        if old < len {
            // A longer file without blocks would be refused later, in the middle of a commit.
            self.file.allocate(old, len - old)?;
        }
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.flush_failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier flush has failed"));
        }
        self.file.sync_data().inspect_err(|_| self.flush_failed.store(true, Ordering::Release))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(data, offset)
    }
}
