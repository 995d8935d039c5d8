//! Opens a state directory after whatever happened to it.
//!
//! The newest sound snapshot, then the logs from its number on, without a gap. All files but the last were
//! flushed before the next one could be seen, so anything wrong in them is damage. The last may end in a torn
//! tail, which is cut: nothing there was promised to outlive a power cut. It is damage all the same when a
//! later frame says that it was durable. What follows the highest such mark is written again and flushed
//! before anybody is served: after a failed flush the page cache may show bytes that the disk does not have.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gridwire_core::ids::StateSeq;
use gridwire_core::time::Timestamp;
use gridwire_outside::{Clock, Disk, DiskFile, OpenMode};

use super::StateOptions;
use super::format::{HEADER_BYTES, Header, HeaderFault, Kind, Seed, VERSION, find_later_mark, walk};
use super::shared::{LogFile, Start, Tail};
use super::snapshot::{self, Fault, Summary, remove_old, snapshot_number, snapshot_path};
use super::writer::{ASIDE_SUFFIX, aside_path, create_aside, log_path};
use crate::embedded::error::OpenError;
use crate::log::{ReadError, Recovered};

/// An opened directory, ready to be written.
pub(super) struct Opened {
    pub(super) start: Start,
    /// The last file and where its next frame goes.
    pub(super) number: u64,
    pub(super) tail: u64,
    /// What [`replay`] shows.
    pub(super) history: History,
}

/// Where recovery found what it shows to the shards.
#[derive(Clone, Debug)]
pub(super) struct History {
    snapshot: Option<u64>,
    files: Vec<LogFile>,
    last: u64,
}

/// A log file's bytes and what they turned out to hold.
struct Scanned {
    bytes: Vec<u8>,
    first: u64,
    /// The number after the last sound frame, and the place.
    next: u64,
    end: usize,
    highest_mark: u64,
    newest: Timestamp,
}

pub(super) fn open(
    disk: &dyn Disk,
    clock: &dyn Clock,
    dir: &Path,
    store: [u8; 16],
    options: &StateOptions,
) -> Result<Opened, OpenError> {
    let names = disk.list(dir).map_err(OpenError::io("list", dir))?;
    for name in names.iter().filter(|name| name.strip_suffix(ASIDE_SUFFIX).is_some()) {
        disk.remove(&dir.join(name)).map_err(OpenError::io("remove", &dir.join(name)))?;
    }
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| log_number(name)).collect();
    numbers.sort_unstable();
    let found = newest_snapshot(disk, dir, store, &names)?;
    if numbers.is_empty() && found.sound.is_none() && found.damaged.is_none() {
        return create_first(disk, clock, dir, store, options);
    }
    let from = found.sound.map_or(1, |snapshot| snapshot.number);
    let old = numbers.iter().filter(|number| **number < from).map(|number| log_path(dir, *number)).collect();
    numbers.retain(|number| from <= *number);
    if let Some(missing) = first_gap(&numbers, from) {
        // Without the snapshot that cannot be read, the logs that it replaced are needed.
        let missing = OpenError::damaged(&log_path(dir, missing), 0..0, "the state log is missing");
        return Err(found.damaged.unwrap_or(missing));
    }
    if let Some(damaged) = found.damaged {
        tracing::warn!(%damaged, "an older state snapshot and all logs since are used");
    }
    let opened = scan_all(disk, dir, store, found.sound, &numbers)?;
    if let Err(error) = remove_old(disk, dir, from, old) {
        tracing::warn!(%error, "failed to remove old state logs");
    }
    // A rename before a kill may not have been flushed; what is written now must not depend on that.
    disk.sync_dir(dir).map_err(OpenError::io("flush", dir))?;
    Ok(opened)
}

struct Snapshots {
    sound: Option<Summary>,
    damaged: Option<OpenError>,
}

fn newest_snapshot(
    disk: &dyn Disk,
    dir: &Path,
    store: [u8; 16],
    names: &[String],
) -> Result<Snapshots, OpenError> {
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| snapshot_number(name)).collect();
    numbers.sort_unstable();
    let mut damaged = None;
    for number in numbers.into_iter().rev() {
        let path = snapshot_path(dir, number);
        match snapshot::read(disk, dir, store, number, &mut |_| {}) {
            Ok(summary) => return Ok(Snapshots { sound: Some(summary), damaged }),
            Err(Fault::Io(error)) => return Err(OpenError::io("read", &path)(error)),
            Err(Fault::Version(version)) => {
                return Err(OpenError::UnknownFormat { path, version, known: VERSION });
            }
            Err(Fault::Damaged(at)) => {
                let end = file_len(disk, &path).unwrap_or(at).max(at);
                let error = OpenError::damaged(&path, at..end, "the state snapshot is not what was written");
                damaged.get_or_insert(error);
            }
        }
    }
    Ok(Snapshots { sound: None, damaged })
}

fn file_len(disk: &dyn Disk, path: &Path) -> io::Result<u64> {
    disk.open(path, OpenMode::Existing)?.len()
}

pub(super) fn log_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".slg")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

/// The first number from `from` on that is not there, if a later one is or if none is.
fn first_gap(numbers: &[u64], from: u64) -> Option<u64> {
    if numbers.is_empty() {
        return Some(from);
    }
    (from..).zip(numbers).find(|(expected, number)| expected != *number).map(|(expected, _)| expected)
}

fn create_first(
    disk: &dyn Disk,
    clock: &dyn Clock,
    dir: &Path,
    store: [u8; 16],
    options: &StateOptions,
) -> Result<Opened, OpenError> {
    let path = log_path(dir, 1);
    let newest = clock.now();
    let header = Header { kind: Kind::Log, number: 1, first: 1, time: newest };
    let make = || -> io::Result<Arc<dyn DiskFile>> {
        let file = create_aside(disk, dir, store, &header, options.file_bytes)?;
        file.sync_data()?;
        disk.rename(&aside_path(dir, 1), &path)?;
        disk.sync_dir(dir)?;
        Ok(file)
    };
    let file = make().map_err(OpenError::io("create", &path))?;
    let files = vec![LogFile { number: 1, first: 1 }];
    Ok(Opened {
        history: History { snapshot: None, files: files.clone(), last: 0 },
        start: Start { tail: Tail { file, seq: 0 }, files, newest, bytes: 0 },
        number: 1,
        tail: HEADER_BYTES as u64,
    })
}

fn scan_all(
    disk: &dyn Disk,
    dir: &Path,
    store: [u8; 16],
    snapshot: Option<Summary>,
    numbers: &[u64],
) -> Result<Opened, OpenError> {
    let mut files = Vec::new();
    let mut newest = snapshot.map_or(Timestamp::ZERO, |snapshot| snapshot.time);
    let mut bytes = 0;
    let mut before: Option<(PathBuf, Scanned)> = None;
    for &number in numbers {
        let path = log_path(dir, number);
        let file = disk.open(&path, OpenMode::Existing).map_err(OpenError::io("open", &path))?;
        let scanned = scan(&*file, &path, number, store)?;
        if let Some((path, before)) = &before
            && before.next != scanned.first
        {
            return Err(OpenError::damaged(
                path,
                before.end as u64..before.bytes.len().max(before.end) as u64,
                format!("frame {} is missing or damaged, and a later file exists", before.next),
            ));
        }
        files.push(LogFile { number, first: scanned.first });
        newest = newest.max(scanned.newest);
        bytes += (scanned.end - HEADER_BYTES) as u64;
        before = Some((path, scanned));
    }
    let (path, last) = before.expect("there is at least one file: a gap was looked for");
    let number = *numbers.last().expect("there is at least one file: a gap was looked for");
    let seed = Seed::new(store, number);
    if let Some(mark) = find_later_mark(&last.bytes, last.end, last.next, seed) {
        let what = format!("frame {} was durable and is not what was written", last.next);
        return Err(OpenError::damaged(&path, last.end as u64..mark as u64, what));
    }
    let seq = last.next - 1;
    if let Some(snapshot) = snapshot.filter(|snapshot| seq < snapshot.newest_at) {
        let what = format!("it ends at frame {seq}, the snapshot includes frame {}", snapshot.newest_at);
        return Err(OpenError::damaged(&path, last.end as u64..last.bytes.len() as u64, what));
    }
    let file = disk.open(&path, OpenMode::Existing).map_err(OpenError::io("open", &path))?;
    make_good(&*file, &last, seed).map_err(OpenError::io("write the end of", &path))?;
    let history =
        History { snapshot: snapshot.map(|snapshot| snapshot.number), files: files.clone(), last: seq };
    let start = Start { tail: Tail { file, seq }, files, newest, bytes };
    Ok(Opened { start, number, tail: last.end as u64, history })
}

/// Reads a file's header and walks its frames.
fn scan(file: &dyn DiskFile, path: &Path, number: u64, store: [u8; 16]) -> Result<Scanned, OpenError> {
    let bytes = read_all(file).map_err(OpenError::io("read", path))?;
    let header = Header::decode(Kind::Log, number, store, &bytes).map_err(|fault| match fault {
        HeaderFault::Damaged => OpenError::damaged(path, 0..HEADER_BYTES as u64, "the header is damaged"),
        HeaderFault::Version(version) => {
            OpenError::UnknownFormat { path: path.to_owned(), version, known: VERSION }
        }
    })?;
    let (mut next, mut highest_mark, mut newest) = (header.first, header.first - 1, header.time);
    let end = walk(&bytes, HEADER_BYTES, header.first, Seed::new(store, number), |_, frame| {
        next = frame.seq + 1;
        highest_mark = highest_mark.max(frame.durable);
        newest = newest.max(frame.time);
    });
    Ok(Scanned { bytes, first: header.first, next, end, highest_mark, newest })
}

pub(super) fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; len];
    let got = file.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// Writes the frames after the highest mark again, zeros what follows them, and flushes. What is cut must
/// never follow a later group's frames, which will carry its numbers.
fn make_good(file: &dyn DiskFile, last: &Scanned, seed: Seed) -> io::Result<()> {
    let mut from = last.end;
    walk(&last.bytes, HEADER_BYTES, last.first, seed, |at, frame| {
        if last.highest_mark < frame.seq {
            from = from.min(at);
        }
    });
    if from < last.end {
        file.write_at(&last.bytes[from..last.end], from as u64)?;
    }
    let torn = &last.bytes[last.end..];
    if torn.iter().any(|byte| *byte != 0) {
        tracing::info!(bytes = torn.len(), "a torn end of the state log was cut");
    }
    if !torn.is_empty() {
        // Also when it reads as zeros: those may be what a recovery wrote whose flush failed.
        file.write_at(&vec![0; torn.len()], last.end as u64)?;
    }
    file.sync_data()
}

/// Shows the snapshot's parts, then the groups since.
pub(super) fn replay(
    disk: &dyn Disk,
    dir: &Path,
    store: [u8; 16],
    history: &History,
    visit: &mut dyn FnMut(Recovered<'_>),
) -> Result<StateSeq, ReadError> {
    if let Some(number) = history.snapshot {
        snapshot::read(disk, dir, store, number, visit).map_err(|fault| match fault {
            Fault::Io(error) => ReadError::Io(error.to_string()),
            Fault::Damaged(_) | Fault::Version(_) => damaged(&snapshot_path(dir, number)),
        })?;
    }
    for (index, file) in history.files.iter().enumerate() {
        let path = log_path(dir, file.number);
        let read = disk.open(&path, OpenMode::Existing).and_then(|file| read_all(&*file));
        let bytes = read.map_err(|error| ReadError::Io(error.to_string()))?;
        let end = history.files.get(index + 1).map_or(history.last + 1, |next| next.first);
        let mut next = file.first;
        walk(&bytes, HEADER_BYTES, file.first, Seed::new(store, file.number), |_, frame| {
            if end <= frame.seq {
                return;
            }
            next = frame.seq + 1;
            if !frame.body.is_empty() {
                let (seq, time) = (StateSeq(frame.seq), frame.time);
                visit(Recovered::Group { seq, time, decisions: frame.body });
            }
        });
        if next != end {
            return Err(damaged(&path));
        }
    }
    Ok(StateSeq(history.last))
}

fn damaged(path: &Path) -> ReadError {
    ReadError::Damaged { what: format!("`{}` is not what it was when it was opened", path.display()) }
}
