//! Where events go that could not be delivered: one blob each in a storage account ([`account`]), or one file
//! each below a directory that stands for an account's containers (`push-delivery` contract, section 9).
//!
//! A file appears whole or not at all, and stays: its content is written aside and made durable first, then
//! it gets its name. Writing the same dead letter again, as after a crash before it was recorded, changes
//! nothing; for that its name comes from its event ([`LetterKey`](gridwire_core::dead_letter::LetterKey)) and
//! not from chance.
//!
//! Letters are read again through a [`Container`] and found by [`Shelf`]. [`Jobs`] put their events back into
//! their subscription's queue, or remove them, at a bounded rate and over restarts.

mod account;
mod container;
mod http;
mod job;
mod jobs;
mod marks;
mod record;
mod shelf;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use gridwire_core::dead_letter::StoreTag;
use gridwire_core::routing::DeadLetterDestination;
use gridwire_outside::{Clock, Disk, Net, OpenMode};
use tokio::sync::Semaphore;

use account::Account;

pub use account::{AccountKind, AccountOptions};
pub(crate) use container::Container;
pub(crate) use job::run as run_job;
pub(crate) use jobs::{Job, Jobs, StartJobError};
pub(crate) use record::{JobState, Kind, Record};
pub(crate) use shelf::{LetterState, Shelf};

/// Writes at a time: each takes a thread and two flushes, and events that end here are not urgent.
const WRITES_MAX: usize = 4;
/// Directories known to be durable; forgotten all at once beyond it, at the cost of some flushes.
const DIRECTORIES_MAX: usize = 4096;
/// Where contents are written before they get their names. No account can have it: none begins with a dot.
const ASIDE: &str = ".partial";
/// Longest name of a file or directory, as file systems have it, and of a blob, as the service has it.
const NAME_BYTES_MAX: usize = 255;
const PATH_BYTES_MAX: usize = 1024;

/// The directory of all dead letters.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    files: Arc<Files>,
    /// By name; what is not among them is a directory.
    accounts: HashMap<String, Account>,
    /// Off: whoever asks does the writing, so that a simulation stays in one thread.
    store: StoreTag,
    threads: bool,
}

#[derive(Debug)]
struct Files {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Turns to write: letters, and records of jobs on them.
    turns: Arc<Semaphore>,
    /// Names free to be used in [`ASIDE`]. There are as many as writes at a time, so what a crash leaves
    /// behind is bounded and replaced.
    free: Mutex<Vec<usize>>,
    /// Directories whose own names are durable, up to `dir`.
    durable: Mutex<HashSet<PathBuf>>,
}

impl DeadLetters {
    /// `dir` is made when the first dead letter is written.
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf, threads: bool) -> Self {
        let free = Mutex::new((0..WRITES_MAX).collect());
        let turns = Arc::new(Semaphore::new(WRITES_MAX));
        let files = Files { disk, dir, turns, free, durable: Mutex::default() };
        Self { files: Arc::new(files), accounts: HashMap::new(), store: StoreTag::default(), threads }
    }

    /// The same, whose letters are told from those of other stores by this.
    pub(crate) fn of_store(self, store: StoreTag) -> Self {
        Self { store, ..self }
    }

    pub(crate) fn store(&self) -> StoreTag {
        self.store
    }

    /// The same, with storage accounts beside the directory.
    pub(crate) fn with_accounts(
        mut self,
        accounts: &[AccountOptions],
        net: &Arc<dyn Net>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let open = |options: &AccountOptions| {
            let account = Account::new(options.clone(), Arc::clone(net), Arc::clone(clock));
            (options.name.clone(), account)
        };
        self.accounts = accounts.iter().map(open).collect();
        self
    }

    /// What holds the letters of a subscription with this destination; `None` when none can be there, for the
    /// destination's name is no place.
    pub(crate) fn container(&self, destination: &DeadLetterDestination) -> Option<Container> {
        if let Some(account) = self.accounts.get(&destination.account) {
            return account.container(&destination.container).ok().map(Container::blobs);
        }
        // Any plain name below it shows whether the two roots are plain.
        let path = relative_path(destination, "x")?.parent()?.to_owned();
        Some(Container::directory(Arc::clone(&self.files), &path, self.threads))
    }

    /// Where letters for this destination are by the configuration of its account; no secret is in it.
    pub(crate) fn place(&self, destination: &DeadLetterDestination) -> String {
        self.accounts.get(&destination.account).map_or_else(|| "directory".to_owned(), Account::place)
    }

    /// The jobs on these letters, as they were recorded.
    pub(crate) fn jobs(&self) -> Jobs {
        Jobs::read(Arc::clone(&self.files), self.threads)
    }

    /// Writes `content` to `{account}/{container}/{path}`; done when it is durable. `path` has `/` between
    /// its segments. What was there under the same path is replaced.
    ///
    /// An error of kind `InvalidInput` means that the path cannot be used, now or ever.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the write happens or not, and can be repeated.
    pub(crate) async fn write(
        &self,
        destination: &DeadLetterDestination,
        path: &str,
        content: Vec<u8>,
    ) -> io::Result<()> {
        let blob = path;
        let path = relative_path(destination, path)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a path for a dead letter"))?;
        if let Some(account) = self.accounts.get(&destination.account) {
            // It needs no thread; how many are under way is the account's to bound.
            return account.container(&destination.container)?.write(blob, content).await;
        }
        Arc::clone(&self.files).write_in_turn(path, content, self.threads).await
    }
}

impl Files {
    /// Writes one file when it is its turn.
    async fn write_in_turn(
        self: Arc<Self>,
        path: PathBuf,
        content: Vec<u8>,
        threads: bool,
    ) -> io::Result<()> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.expect("it is never closed");
        if !threads {
            return self.write(&path, &content);
        }
        let written = tokio::task::spawn_blocking(move || {
            let _turn = turn; // Held by the write itself, which goes on when nobody waits for it.
            self.write(&path, &content)
        });
        written.await.map_err(io::Error::other)?
    }

    /// Only for who has a turn, or is alone.
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let slot = self.free.lock().expect("no panic while the names are held").pop();
        // Fewer names than turns are left only after a write that panicked.
        let slot = slot.ok_or_else(|| io::Error::other("no place left to write aside"))?;
        let result = self.write_by(slot, &self.dir.join(path), content);
        self.free.lock().expect("no panic while the names are held").push(slot);
        result
    }

    fn write_by(&self, slot: usize, path: &Path, content: &[u8]) -> io::Result<()> {
        let parent = path.parent().unwrap_or(&self.dir);
        let aside_dir = self.dir.join(ASIDE);
        let aside = aside_dir.join(slot.to_string());
        match self.write_between(&aside_dir, &aside, parent, path, content) {
            // Somebody moved one of the two away since we made it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut durable = self.durable.lock().expect("no panic while the directories are held");
                durable.remove(parent);
                durable.remove(&aside_dir);
                drop(durable);
                self.write_between(&aside_dir, &aside, parent, path, content)
            }
            done => done,
        }
    }

    /// Writes to `aside`, then renames to `path`; each is in the directory before it.
    fn write_between(
        &self,
        aside_dir: &Path,
        aside: &Path,
        parent: &Path,
        path: &Path,
        content: &[u8],
    ) -> io::Result<()> {
        self.make_durable_dir(parent)?;
        self.make_durable_dir(aside_dir)?;
        // Not written over in place: were it, after a crash, also the name of a finished dead letter, that
        // one would be lost.
        match self.disk.remove(aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.open(aside, OpenMode::New)?;
        file.write_at(content, 0)?;
        file.sync_data()?;
        drop(file);
        self.disk.rename(aside, path)?;
        self.disk.sync_dir(parent)
    }

    /// Makes a directory and everything above it, and makes their names durable, each in its parent.
    fn make_durable_dir(&self, dir: &Path) -> io::Result<()> {
        if self.durable.lock().expect("no panic while the directories are held").contains(dir) {
            return Ok(());
        }
        self.disk.create_dir_all(dir)?;
        for above in dir.ancestors().skip(1) {
            self.disk.sync_dir(above)?;
            // The data directory, which holds ours, is somebody else's to keep.
            if !above.starts_with(&self.dir) {
                break;
            }
        }
        let mut durable = self.durable.lock().expect("no panic while the directories are held");
        if DIRECTORIES_MAX <= durable.len() {
            durable.clear();
        }
        durable.insert(dir.to_owned());
        Ok(())
    }
}

/// `{account}/{container}/{path}` if every segment is a plain name.
fn relative_path(destination: &DeadLetterDestination, path: &str) -> Option<PathBuf> {
    let roots = [destination.account.as_str(), destination.container.as_str()];
    if PATH_BYTES_MAX < path.len() || roots.iter().any(|root| root.contains('/')) {
        return None;
    }
    let mut whole = PathBuf::new();
    for segment in roots.into_iter().chain(path.split('/')) {
        if !is_plain_name(segment) {
            return None;
        }
        whole.push(segment);
    }
    Some(whole)
}

/// Neither hidden nor special, on any system the directory may be copied to.
fn is_plain_name(name: &str) -> bool {
    let plain = |character: char| !character.is_control() && !"/\\:*?\"<>|".contains(character);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && name.chars().all(plain)
}

#[cfg(test)]
pub(crate) mod tests;
