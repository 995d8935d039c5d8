//! For whoever looks after a data directory while no server uses it: is it sound, and can it be opened again?
//!
//! [`check`] reads every byte that means anything and changes none. [`repair`] makes a store that does not open
//! openable: each file that cannot be taken as it is gets a copy beside it (`.bad`) and a successor that holds
//! all that is sound, at the same places. What is lost is reported, range by range. Neither trusts an index.

mod segments;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gridwire_core::ids::TopicNumber;
use gridwire_outside::{Disk, DiskFile, OpenMode};

use self::segments::Segments;
use super::directory::{read_format, write_format_of};
use super::error::{Damage, OpenError};
use super::state::tools as state;
use crate::log::Recovered;

/// Bytes copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// Something that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub damage: Damage,
    /// Offsets of events that were there and cannot be read any more, as far as it can be told.
    pub lost: Vec<(TopicNumber, Range<u64>)>,
    /// A server does not start because of it; without, it starts and passes the damage.
    pub refused: bool,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub segments: u64,
    pub frames: u64,
    pub events: u64,
    pub bytes: u64,
    /// Groups of decisions.
    pub groups: u64,
    /// Files that [`repair`] made anew; each has its old contents in a `.bad` file beside it.
    pub rewritten: Vec<PathBuf>,
}

/// What one segment holds, for the question who keeps the disk full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentUsage {
    pub number: u64,
    /// Of the file.
    pub bytes: u64,
    pub sealed: bool,
    pub topics: Vec<crate::log::TopicSpan>,
}

/// Where a store's bytes are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub segments: Vec<SegmentUsage>,
    pub spares: u64,
    pub indexes: u64,
    pub state: u64,
    pub resources: u64,
    pub ballast: u64,
    /// Copies of damaged files that repairs left.
    pub set_aside: u64,
}

/// A data directory in the hands of a tool.
struct Store<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    /// Keeps servers out.
    _lock: Arc<dyn DiskFile>,
}

impl<'a> Store<'a> {
    fn take(disk: &'a dyn Disk, dir: &'a Path) -> Result<Self, OpenError> {
        let path = dir.join("LOCK");
        let lock = disk.open(&path, OpenMode::Existing).map_err(OpenError::io("open", &path))?;
        if !lock.try_lock().map_err(OpenError::io("lock", &path))? {
            return Err(OpenError::Locked { path: dir.to_owned() });
        }
        Ok(Self { disk, dir, _lock: lock })
    }

    fn segments(&self, store: [u8; 16]) -> Result<Segments<'a>, OpenError> {
        Segments::find(self.disk, self.dir.join("log"), store)
    }

    /// The store id: from the format file, or, when that is damaged, from any file that proves to be of it.
    fn id(&self, report: &mut Report) -> Result<[u8; 16], OpenError> {
        match read_format(self.disk, self.dir) {
            Err(OpenError::Damaged(damage)) => {
                let id = segments::store_id(self.disk, &self.dir.join("log"))?;
                let id = id.ok_or(OpenError::Damaged(damage.clone()))?;
                report.findings.push(Finding { damage, lost: Vec::new(), refused: true });
                Ok(id)
            }
            Err(OpenError::Io { source, path, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let id = segments::store_id(self.disk, &self.dir.join("log"))?;
                let what = "the file is missing and the log is not empty";
                let damaged = OpenError::damaged(&path, 0..0, what);
                let (Some(id), OpenError::Damaged(damage)) = (id, damaged) else {
                    return Err(OpenError::Io { doing: "open", path, source });
                };
                report.findings.push(Finding { damage, lost: Vec::new(), refused: true });
                Ok(id)
            }
            other => other,
        }
    }
}

/// Reads everything of the store in `dir` and reports all damage. Nothing is changed.
///
/// # Errors
///
/// There is no store, it is in use, or it cannot be read; damage is no error.
pub fn check(disk: &dyn Disk, dir: &Path) -> Result<Report, OpenError> {
    let mut report = Report::default();
    let store = Store::take(disk, dir)?;
    let id = store.id(&mut report)?;
    let segments = store.segments(id)?;
    segments.check(&mut report)?;
    state::check(disk, &dir.join("state"), id, !segments.is_empty(), &mut report)?;
    Ok(report)
}

/// Makes the store in `dir` openable. `ends` are offsets that no new event of a topic may be below, besides
/// those that the log itself knows: what the decisions speak of.
///
/// # Errors
///
/// As [`check`]. What was done until then stays; nothing is lost by it, and the repair may be made again.
pub fn repair(disk: &dyn Disk, dir: &Path, ends: &BTreeMap<TopicNumber, u64>) -> Result<Report, OpenError> {
    let mut report = Report::default();
    let store = Store::take(disk, dir)?;
    let id = store.id(&mut report)?;
    if !report.findings.is_empty() {
        let path = dir.join("FORMAT");
        if disk.open(&path, OpenMode::Existing).is_ok() {
            set_aside(disk, &path)?;
        }
        write_format_of(disk, dir, id)?;
        report.rewritten.push(path);
    }
    let segments = store.segments(id)?;
    segments.repair(ends, &mut report)?;
    state::repair(disk, &dir.join("state"), id, !segments.is_empty(), &mut report)?;
    Ok(report)
}

/// Where the bytes of the store in `dir` are. Damaged segments are left out; [`check`] tells of them.
///
/// # Errors
///
/// As [`check`].
pub fn usage(disk: &dyn Disk, dir: &Path) -> Result<Usage, OpenError> {
    let store = Store::take(disk, dir)?;
    let id = store.id(&mut Report::default())?;
    let mut usage = Usage { segments: store.segments(id)?.usage()?, ..Usage::default() };
    let mut add = |sub: &str| -> Result<(), OpenError> {
        let dir = dir.join(sub);
        for name in disk.list(&dir).map_err(OpenError::io("list", &dir))? {
            let path = dir.join(&name);
            let kind = match (sub, &*name) {
                (_, name) if name.contains(".bad") => &mut usage.set_aside,
                ("", "meta.redb") => &mut usage.resources,
                ("", "ballast") => &mut usage.ballast,
                ("log", name) if name.starts_with("spare-") => &mut usage.spares,
                ("log", name) if name.strip_suffix(".idx").is_some() => &mut usage.indexes,
                ("state", _) => &mut usage.state,
                _ => continue,
            };
            let file = disk.open(&path, OpenMode::Existing).map_err(OpenError::io("open", &path))?;
            *kind += file.len().map_err(OpenError::io("read", &path))?;
        }
        Ok(())
    };
    add("")?;
    add("log")?;
    add("state")?;
    Ok(usage)
}

/// Shows what is sound of the state log of the store in `dir`, newest snapshot first. Nothing is changed.
///
/// # Errors
///
/// As [`check`].
pub fn read_state(
    disk: &dyn Disk,
    dir: &Path,
    visit: &mut dyn FnMut(Recovered<'_>),
) -> Result<(), OpenError> {
    let store = Store::take(disk, dir)?;
    let id = store.id(&mut Report::default())?;
    state::read(disk, &dir.join("state"), id, visit)
}

/// Copies a file to one beside it that nobody takes for part of the store.
pub(super) fn set_aside(disk: &dyn Disk, path: &Path) -> Result<(), OpenError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names = disk.list(dir).map_err(OpenError::io("list", dir))?;
    // One more than there are files: one of them is free.
    let mut asides = (0..=names.len()).map(|number| format!("{name}.bad-{}", number + 1));
    let aside = dir.join(asides.find(|aside| !names.contains(aside)).unwrap_or_default());
    let copy = || {
        let from = disk.open(path, OpenMode::Existing)?;
        let to = disk.open(&aside, OpenMode::New)?;
        let (len, mut at) = (from.len()?, 0);
        let mut buffer = vec![0; COPY_BYTES];
        while at < len {
            let got = from.read_at(&mut buffer, at)?;
            if got == 0 {
                break;
            }
            to.write_at(&buffer[..got], at)?;
            at += got as u64;
        }
        to.sync_data()?;
        disk.sync_dir(dir)
    };
    copy().map_err(OpenError::io("copy", path))
}

/// Puts a file that is whole in the place of what was there, which was set aside.
pub(super) fn put_in_place(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    from: &Path,
    to: &Path,
) -> Result<(), OpenError> {
    let put = || {
        file.sync_data()?;
        disk.rename(from, to)?;
        disk.sync_dir(to.parent().unwrap_or(Path::new("/")))
    };
    put().map_err(OpenError::io("write", to))
}

pub(super) fn finding(damage: OpenError, refused: bool) -> Finding {
    let OpenError::Damaged(damage) = damage else { unreachable!("it was made as damage") };
    Finding { damage, lost: Vec::new(), refused }
}
