//! One container of dead letters: what can be done with the letters in it, whatever it is made of.
//!
//! Paths have `/` between their segments, as blobs have. What is moved or removed is so for good when the call
//! returns; repeating either is fine, for after a crash it is repeated.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gridwire_outside::OpenMode;
use gridwire_outside::disk::read_exact_at;

use super::Files;
use super::account::Blobs;

/// Bytes of one letter that are read. An event has at most 1 MiB, and its letter escapes or encodes it.
const LETTER_BYTES_MAX: u64 = 8 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Container(Made);

/// What a container is made of.
#[derive(Clone, Debug)]
enum Made {
    Directory(Directory),
    Blobs(Blobs),
}

#[derive(Clone, Debug)]
struct Directory {
    files: Arc<Files>,
    path: PathBuf,
    /// Off: whoever asks does the work, so that a simulation stays in one thread.
    threads: bool,
}

/// Which names of a directory are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) prefix: String,
    pub(crate) suffix: &'static str,
    /// Only those behind it.
    pub(crate) after: Option<String>,
    pub(crate) max: usize,
}

impl Names {
    pub(super) fn picks(&self, name: &str) -> bool {
        name.starts_with(&self.prefix)
            && name.ends_with(self.suffix)
            && self.after.as_deref().is_none_or(|after| after < name)
    }
}

impl Container {
    pub(super) fn blobs(blobs: Blobs) -> Self {
        Self(Made::Blobs(blobs))
    }

    /// The directory `path` of the directory of all letters.
    pub(super) fn directory(files: Arc<Files>, path: &Path, threads: bool) -> Self {
        let path = files.dir.join(path);
        Self(Made::Directory(Directory { files, path, threads }))
    }

    /// The directories directly below `dir` whose names are numbers, ascending.
    pub(crate) async fn numbers(&self, dir: &str) -> io::Result<Vec<u16>> {
        match &self.0 {
            Made::Directory(directory) => directory.numbers(dir).await,
            Made::Blobs(blobs) => blobs.numbers(dir).await,
        }
    }

    /// Names of files directly below `dir`, in order.
    pub(crate) async fn names(&self, dir: &str, names: Names) -> io::Result<Vec<String>> {
        match &self.0 {
            Made::Directory(directory) => directory.names(dir, names).await,
            Made::Blobs(blobs) => blobs.names(dir, &names).await,
        }
    }

    /// Reads as many of `paths`, in order, as fit into `bytes_max`, at least one. `None` for one that is not
    /// there. One that is too large to be a letter, or no file at all, has no bytes, which nobody understands.
    pub(crate) async fn read(
        &self,
        paths: Vec<String>,
        bytes_max: usize,
    ) -> io::Result<Vec<Option<Vec<u8>>>> {
        match &self.0 {
            Made::Directory(directory) => directory.read(paths, bytes_max).await,
            Made::Blobs(blobs) => blobs.read(paths, bytes_max, LETTER_BYTES_MAX).await,
        }
    }

    /// Whether something is at each of `paths`.
    pub(crate) async fn are_there(&self, paths: Vec<String>) -> io::Result<Vec<bool>> {
        match &self.0 {
            Made::Directory(directory) => directory.are_there(paths).await,
            Made::Blobs(blobs) => blobs.are_there(paths).await,
        }
    }

    /// Gives each its new name, in the same directory. One that is no longer there has it already.
    pub(crate) async fn rename(&self, names: Vec<(String, String)>) -> io::Result<()> {
        match &self.0 {
            Made::Directory(directory) => directory.rename(names).await,
            Made::Blobs(blobs) => blobs.rename(names).await,
        }
    }

    /// Removes what is there.
    pub(crate) async fn remove(&self, paths: Vec<String>) -> io::Result<()> {
        match &self.0 {
            Made::Directory(directory) => directory.remove(paths).await,
            Made::Blobs(blobs) => blobs.remove(paths).await,
        }
    }
}

impl Directory {
    async fn numbers(&self, dir: &str) -> io::Result<Vec<u16>> {
        let dir = self.path.join(dir);
        self.run(move |files| {
            let number =
                |name: &String| name.parse::<u16>().ok().filter(|number| number.to_string() == *name);
            let found = empty_if_missing(files.disk.list(&dir))?;
            let mut numbers: Vec<u16> = found.iter().filter_map(number).collect();
            numbers.sort_unstable();
            Ok(numbers)
        })
        .await
    }

    async fn names(&self, dir: &str, names: Names) -> io::Result<Vec<String>> {
        let dir = self.path.join(dir);
        self.run(move |files| {
            empty_if_missing(files.disk.list_some(&dir, names.max, &mut |name| names.picks(name)))
        })
        .await
    }

    async fn read(&self, paths: Vec<String>, bytes_max: usize) -> io::Result<Vec<Option<Vec<u8>>>> {
        let root = self.path.clone();
        self.run(move |files| {
            let mut contents = Vec::with_capacity(paths.len());
            let mut bytes = 0;
            for path in paths {
                let content = files.read(&root.join(path))?;
                bytes += content.as_ref().map_or(0, Vec::len);
                contents.push(content);
                if bytes_max <= bytes {
                    break;
                }
            }
            Ok(contents)
        })
        .await
    }

    async fn are_there(&self, paths: Vec<String>) -> io::Result<Vec<bool>> {
        let root = self.path.clone();
        self.run(move |files| paths.iter().map(|path| Ok(files.open(&root.join(path))?.is_some())).collect())
            .await
    }

    async fn rename(&self, names: Vec<(String, String)>) -> io::Result<()> {
        let root = self.path.clone();
        self.run(move |files| {
            let touched = names.iter().map(|(from, to)| {
                let (from, to) = (root.join(from), root.join(to));
                fine_if_missing(files.disk.rename(&from, &to))?;
                Ok(to)
            });
            files.sync_parents(touched)
        })
        .await
    }

    async fn remove(&self, paths: Vec<String>) -> io::Result<()> {
        let root = self.path.clone();
        self.run(move |files| {
            let touched = paths.iter().map(|path| {
                let path = root.join(path);
                match files.disk.remove(&path) {
                    // Not a letter of ours; it stays, and does not stop the rest.
                    Err(error) if error.kind() == io::ErrorKind::IsADirectory => {}
                    done => fine_if_missing(done)?,
                }
                Ok(path)
            });
            files.sync_parents(touched)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let files = Arc::clone(&self.files);
        if !self.threads {
            return work(&files);
        }
        tokio::task::spawn_blocking(move || work(&files)).await.map_err(io::Error::other)?
    }
}

impl Files {
    fn open(&self, path: &Path) -> io::Result<Option<Arc<dyn gridwire_outside::DiskFile>>> {
        match self.disk.open(path, OpenMode::Existing) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match self.read_file(path) {
            // Somebody made a directory of this name. It will not become a file by trying again.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(Some(Vec::new())),
            content => content,
        }
    }

    fn read_file(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let len = file.len()?;
        if LETTER_BYTES_MAX < len {
            return Ok(Some(Vec::new()));
        }
        let mut content = vec![0; usize::try_from(len).unwrap_or(0)];
        read_exact_at(&*file, &mut content, 0)?;
        Ok(Some(content))
    }

    /// Makes what happened to these names durable, each directory once.
    fn sync_parents(&self, paths: impl Iterator<Item = io::Result<PathBuf>>) -> io::Result<()> {
        let mut parents = BTreeSet::new();
        for path in paths {
            if let Some(parent) = path?.parent() {
                parents.insert(parent.to_owned());
            }
        }
        // One that is gone holds nothing to lose.
        parents.iter().try_for_each(|parent| fine_if_missing(self.disk.sync_dir(parent)))
    }
}

fn empty_if_missing(names: io::Result<Vec<String>>) -> io::Result<Vec<String>> {
    match names {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names,
    }
}

fn fine_if_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
