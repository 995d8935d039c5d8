//! A disk in memory that loses, refuses and damages what it is told to.
//!
//! It tells apart what is on the medium and what is only written, as a real one does: [`MemoryDisk::crash`]
//! keeps an arbitrary, seeded subset of the un-synced 512-byte sectors and directory changes;
//! [`MemoryDisk::kill`] ends the process and loses nothing. [`MemoryDisk::fail_nth`] makes one call fail,
//! [`MemoryDisk::halt_at`] ends the process in the middle of what it does, a capacity makes the disk full,
//! [`MemoryDisk::flip_bit`] damages it, and [`MemoryDisk::fork`] lets one history end in many ways. Nothing here
//! depends on anything but the calls made and the seeds given.
//!
//! A directory made is durable, like a file's name, once the directory above it is synced; all that is in a
//! directory that did not survive is gone with it. One simplification: a file grown by `set_len` takes its
//! space.

mod content;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use self::content::Content;
use crate::rng::SeededRng;
use crate::{Disk, DiskFile, OpenMode};

/// The kinds of calls that are counted and can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Any of the others.
    Any,
    Open,
    Read,
    /// A failing write leaves the first half of its bytes, as a short write does.
    Write,
    /// After a failing sync, what it should have written counts as clean: no later sync writes it.
    Sync,
    Allocate,
    SetLen,
    Lock,
    Rename,
    Remove,
    SyncDir,
    CreateDir,
    List,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    files: BTreeMap<u64, Inode>,
    next_inode: u64,
    directories: BTreeSet<PathBuf>,
    durable_directories: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// What was done to names since their directory was synced, in order.
    changes: Vec<Change>,
    capacity: Option<u64>,
    /// Counts crashes and kills: handles of an earlier process are refused.
    process: u64,
    calls: BTreeMap<Call, u64>,
    faults: Vec<Fault>,
    /// From this call on nothing has any effect.
    halt_at: Option<u64>,
}

#[derive(Clone, Default)]
struct Inode {
    content: Content,
    handles: u64,
    locked: bool,
}

#[derive(Clone)]
enum Change {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf, u64),
    Remove(PathBuf),
    CreateDir(PathBuf),
}

#[derive(Clone)]
struct Fault {
    call: Call,
    at: u64,
    kind: io::ErrorKind,
    forever: bool,
}

impl Change {
    fn touches(&self, dir: &Path) -> bool {
        match self {
            Self::Create(path, _) | Self::Remove(path) | Self::CreateDir(path) => path.parent() == Some(dir),
            Self::Rename(from, to, _) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, u64>, directories: &mut BTreeSet<PathBuf>) {
        match self {
            Self::Create(path, inode) => {
                names.insert(path, inode);
            }
            Self::Rename(from, to, inode) => {
                names.remove(&from);
                names.insert(to, inode);
            }
            Self::Remove(path) => {
                names.remove(&path);
            }
            Self::CreateDir(path) => {
                directories.insert(path);
            }
        }
    }

    fn inode(&self) -> Option<u64> {
        match self {
            Self::Create(_, inode) | Self::Rename(_, _, inode) => Some(*inode),
            Self::Remove(_) | Self::CreateDir(_) => None,
        }
    }
}

impl State {
    /// Counts a call and says whether it is one that should fail.
    fn count(&mut self, call: Call) -> io::Result<()> {
        for kind in [Call::Any, call] {
            *self.calls.entry(kind).or_default() += 1;
        }
        if self.is_halted() {
            return Err(io::Error::other("the process has ended"));
        }
        for fault in &self.faults {
            let made = self.calls.get(&fault.call).copied().unwrap_or(0);
            let is_due = made == fault.at || (fault.forever && fault.at < made);
            if is_due && (fault.call == Call::Any || fault.call == call) {
                return Err(fault.kind.into());
            }
        }
        Ok(())
    }

    fn is_halted(&self) -> bool {
        let made = self.calls.get(&Call::Any).copied().unwrap_or(0);
        self.halt_at.is_some_and(|at| at <= made)
    }

    fn used(&self) -> u64 {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        let live = self.files.iter().filter(|(inode, file)| file.handles > 0 || named.contains(inode));
        live.map(|(_, file)| file.content.space()).sum()
    }

    /// Refuses when a file cannot grow to `end`.
    fn admit(&self, inode: u64, end: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity else { return Ok(()) };
        let content = &self.file(inode).content;
        let more = content.space_with(end) - content.space();
        // Overwriting takes no space, so it works also on a disk that is over-full.
        if more == 0 || self.used() + more <= capacity {
            return Ok(());
        }
        Err(io::ErrorKind::StorageFull.into())
    }

    fn file(&self, inode: u64) -> &Inode {
        self.files.get(&inode).expect("a file outlives its names and handles")
    }

    fn file_mut(&mut self, inode: u64) -> &mut Inode {
        self.files.get_mut(&inode).expect("a file outlives its names and handles")
    }

    fn lookup(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, change: Change) {
        change.clone().apply(&mut self.names, &mut self.directories);
        self.changes.push(change);
    }

    /// Forgets a file if nothing can bring it back. Files are closed so often that looking at all of them, as
    /// [`State::collect`] does, would be most of the work.
    fn forget(&mut self, inode: u64) {
        let is_named = |names: &BTreeMap<PathBuf, u64>| names.values().any(|named| *named == inode);
        let is_needed = self.files.get(&inode).is_some_and(|file| file.handles > 0)
            || is_named(&self.names)
            || is_named(&self.durable_names)
            || self.changes.iter().any(|change| change.inode() == Some(inode));
        if !is_needed {
            self.files.remove(&inode);
        }
    }

    /// Forgets files that nothing can bring back.
    fn collect(&mut self) {
        let mut needed: BTreeSet<u64> =
            self.names.values().chain(self.durable_names.values()).copied().collect();
        needed.extend(self.changes.iter().filter_map(Change::inode));
        self.files.retain(|inode, file| file.handles > 0 || needed.contains(inode));
    }

    fn end_process(&mut self) {
        self.process += 1;
        self.halt_at = None;
        for file in self.files.values_mut() {
            file.handles = 0;
            file.locked = false;
        }
        self.collect();
    }
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryDisk {
    /// An empty disk without a limit; only `/` exists.
    pub fn new() -> Self {
        let directories = BTreeSet::from([PathBuf::from("/")]);
        let durable_directories = directories.clone();
        let state = State { directories, durable_directories, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Another disk that holds what this one does; what is done to one does not touch the other.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.state().clone())) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the disk is held")
    }

    /// Power goes: an arbitrary subset of what was not synced survives, decided by `seed`. Open files and
    /// locks are gone; faults and capacity stay.
    pub fn crash(&self, seed: u64) {
        let rng = SeededRng::new(seed);
        let mut state = self.state();
        let state = &mut *state;
        for change in std::mem::take(&mut state.changes) {
            if rng.below(2) == 0 {
                change.apply(&mut state.durable_names, &mut state.durable_directories);
            }
        }
        let directories = &mut state.durable_directories;
        // What is in a directory that did not survive cannot be reached. From the top down, by their order.
        let mut kept = BTreeSet::new();
        for dir in std::mem::take(directories) {
            if dir.parent().is_none_or(|above| kept.contains(above)) {
                kept.insert(dir);
            }
        }
        *directories = kept;
        state.durable_names.retain(|path, _| path.parent().is_some_and(|dir| directories.contains(dir)));
        state.directories = directories.clone();
        state.names = state.durable_names.clone();
        for file in state.files.values_mut() {
            file.content.crash(&rng);
        }
        state.end_process();
    }

    /// The process ends (`kill -9`): open files and locks are gone, everything written stays.
    pub fn kill(&self) {
        self.state().end_process();
    }

    /// Makes the `n`-th call of this kind from now on fail (1 is the next), and all later ones if `forever`.
    pub fn fail_nth(&self, call: Call, n: u64, kind: io::ErrorKind, forever: bool) {
        let mut state = self.state();
        let at = state.calls.get(&call).copied().unwrap_or(0) + n;
        state.faults.push(Fault { call, at, kind, forever });
    }

    /// Ends the process at the `n`-th call from now on (1 is the next): that call and all later ones fail and
    /// have no effect, until [`MemoryDisk::crash`] or [`MemoryDisk::kill`] lets another process in.
    pub fn halt_at(&self, n: u64) {
        let mut state = self.state();
        let at = state.calls.get(&Call::Any).copied().unwrap_or(0) + n;
        state.halt_at = Some(at);
    }

    /// Whether the call of [`MemoryDisk::halt_at`] was reached.
    pub fn is_halted(&self) -> bool {
        self.state().is_halted()
    }

    /// Takes back every [`MemoryDisk::fail_nth`].
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// How many bytes fit; `None` for no limit. What is there stays, even when it is more.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bytes taken by files, reserved space included.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// How often this kind of call was made so far, failed ones included.
    pub fn calls(&self, call: Call) -> u64 {
        self.state().calls.get(&call).copied().unwrap_or(0)
    }

    /// Flips bit `bit` (0 to 7) of byte `byte`, for good and unnoticed. False when there is no such byte.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) -> bool {
        let mut state = self.state();
        let Ok(inode) = state.lookup(path) else { return false };
        let content = &mut state.file_mut(inode).content;
        if content.bytes().len() as u64 <= byte {
            return false;
        }
        content.flip(byte, 1 << (bit & 7));
        true
    }

    /// A file's bytes as a reader would see them.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        let inode = state.lookup(path).ok()?;
        Some(state.file(inode).content.bytes().to_vec())
    }

    /// Puts a file there, durable, in place of what was; its directory is made if need be.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.state();
        for dir in path.ancestors().skip(1) {
            state.directories.insert(dir.to_path_buf());
            state.durable_directories.insert(dir.to_path_buf());
        }
        let inode = state.next_inode;
        state.next_inode += 1;
        state.files.insert(inode, Inode { content: Content::durable(bytes), ..Inode::default() });
        state.names.insert(path.to_path_buf(), inode);
        state.durable_names.insert(path.to_path_buf(), inode);
        state.collect();
    }
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDisk").finish_non_exhaustive()
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.count(Call::Open)?;
        let inode = match (state.lookup(path), mode) {
            (Ok(_), OpenMode::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(inode), _) => inode,
            (Err(error), OpenMode::Existing) => return Err(error),
            (Err(error), OpenMode::Create | OpenMode::New) => {
                if !path.parent().is_some_and(|dir| state.directories.contains(dir)) {
                    return Err(error);
                }
                let inode = state.next_inode;
                state.next_inode += 1;
                state.files.insert(inode, Inode::default());
                state.change(Change::Create(path.to_path_buf(), inode));
                inode
            }
        };
        state.file_mut(inode).handles += 1;
        let process = state.process;
        let locked = Mutex::new(false);
        Ok(Arc::new(MemoryFile { disk: self.clone(), inode, process, locked }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.count(Call::Rename)?;
        let inode = state.lookup(from)?;
        state.change(Change::Rename(from.to_path_buf(), to.to_path_buf(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.count(Call::Remove)?;
        state.lookup(path)?;
        state.change(Change::Remove(path.to_path_buf()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.count(Call::SyncDir)?;
        if !state.directories.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let state = &mut *state;
        let (synced, rest): (Vec<Change>, Vec<Change>) =
            std::mem::take(&mut state.changes).into_iter().partition(|change| change.touches(dir));
        state.changes = rest;
        // A new name takes none away: where one was, a removal came first.
        let is_over = synced.iter().any(|change| matches!(change, Change::Rename(..) | Change::Remove(_)));
        for change in synced {
            change.apply(&mut state.durable_names, &mut state.durable_directories);
        }
        if is_over {
            state.collect();
        }
        Ok(())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.count(Call::CreateDir)?;
        let missing: Vec<&Path> = dir.ancestors().filter(|dir| !state.directories.contains(*dir)).collect();
        for dir in missing.into_iter().rev() {
            state.change(Change::CreateDir(dir.to_path_buf()));
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.count(Call::List)?;
        if !state.directories.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let entries = state.names.keys().chain(&state.directories).filter(|path| path.parent() == Some(dir));
        let names: BTreeSet<String> =
            entries.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
        Ok(names.into_iter().collect())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.unwrap_or(u64::MAX).saturating_sub(state.used()))
    }

    fn total_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.state().capacity.unwrap_or(0))
    }
}

/// An open file; worthless once the process that opened it has ended.
struct MemoryFile {
    disk: MemoryDisk,
    inode: u64,
    process: u64,
    /// Whether this handle holds the file's lock.
    locked: Mutex<bool>,
}

impl MemoryFile {
    fn call(&self, call: Call) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state()?;
        state.count(call)?;
        Ok(state)
    }

    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.process == self.process {
            return Ok(state);
        }
        Err(io::Error::other("the process that opened this file has ended"))
    }
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFile").field("inode", &self.inode).finish_non_exhaustive()
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let Ok(mut state) = self.disk.state.lock() else { return };
        if state.process != self.process {
            return;
        }
        let Some(file) = state.files.get_mut(&self.inode) else { return };
        file.handles -= 1;
        if self.locked.get_mut().is_ok_and(|locked| *locked) {
            file.locked = false;
        }
        if file.handles == 0 {
            state.forget(self.inode);
        }
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        Ok(self.call(Call::Read)?.file(self.inode).content.read(buffer, at))
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let end = at + bytes.len() as u64;
        if let Err(error) = state.count(Call::Write) {
            if state.is_halted() {
                return Err(error);
            }
            let half = bytes.len() / 2;
            if state.admit(self.inode, end).is_ok() && half > 0 {
                state.file_mut(self.inode).content.write(&bytes[..half], at);
            }
            return Err(error);
        }
        state.admit(self.inode, end)?;
        if !bytes.is_empty() {
            state.file_mut(self.inode).content.write(bytes, at);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        let counted = state.count(Call::Sync);
        let is_halted = state.is_halted();
        let content = &mut state.file_mut(self.inode).content;
        match &counted {
            Ok(()) => content.sync(),
            Err(_) if is_halted => {}
            Err(_) => content.fail_sync(),
        }
        counted
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        let mut state = self.call(Call::Allocate)?;
        state.admit(self.inode, at + len)?;
        state.file_mut(self.inode).content.reserve(at + len);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.file(self.inode).content.bytes().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.call(Call::SetLen)?;
        state.admit(self.inode, len)?;
        state.file_mut(self.inode).content.set_len(len);
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut state = self.call(Call::Lock)?;
        let mut locked = self.locked.lock().expect("no panic while the lock's state is held");
        let file = state.file_mut(self.inode);
        if file.locked && !*locked {
            return Ok(false);
        }
        file.locked = true;
        *locked = true;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
