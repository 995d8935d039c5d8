//! Files.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Read and write; it must exist.
    Existing,
    /// Read and write; created when missing, kept when there.
    Create,
    /// Read and write; must not exist.
    New,
}

/// Files and directories. All calls block; callers have threads for that.
///
/// What is written is durable only after [`DiskFile::sync_data`]; a created, renamed or removed name only
/// after [`Disk::sync_dir`].
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Also the missing parents; fine when it is there.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Names of the entries, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// The first `max` names, by order, of the entries that `pick` takes. Takes no more memory than they do,
    /// however many others there are.
    fn list_some(
        &self,
        dir: &Path,
        max: usize,
        pick: &mut dyn FnMut(&str) -> bool,
    ) -> io::Result<Vec<String>> {
        let mut names = self.list(dir)?;
        names.retain(|name| pick(name));
        names.truncate(max);
        Ok(names)
    }
    /// Bytes free to an ordinary user where `dir` is.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// All bytes of the file system where `dir` is; 0 when there is no telling.
    fn total_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(0)
    }
    /// The kind of the file system where `dir` is, when its flushes do not make data outlive a power cut, or
    /// nobody can say whether they do.
    fn undependable(&self, _dir: &Path) -> io::Result<Option<&'static str>> {
        Ok(None)
    }
}

/// An open file. Positions are explicit, so that readers and the writer share it.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads into all of `buffer` or up to the end of the file; the count says which.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of `bytes` or fails.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Returns when data and the metadata to read them back are on stable storage. A failure is final: the
    /// caller must not try again.
    fn sync_data(&self) -> io::Result<()>;
    /// Reserves space without changing what is read.
    fn allocate(&self, at: u64, len: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Takes the exclusive lock that is held until the file is closed; `false` when another process has it.
    fn try_lock(&self) -> io::Result<bool>;
}

/// Reads exactly `buffer.len()` bytes, or fails with `UnexpectedEof`.
pub fn read_exact_at(file: &dyn DiskFile, buffer: &mut [u8], at: u64) -> io::Result<()> {
    if file.read_at(buffer, at)? == buffer.len() {
        return Ok(());
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}
