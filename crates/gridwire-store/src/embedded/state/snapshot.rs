//! Snapshots: one file that stands for all groups before a log file. Written aside, flushed, renamed, and
//! only then are the logs before it removed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gridwire_core::ids::{StateSeq, SubscriptionNumber};
use gridwire_core::time::Timestamp;
use gridwire_outside::disk::read_exact_at;
use gridwire_outside::{Disk, DiskFile, OpenMode};

use super::format::{FRAME_BYTES, Frame, HEADER_BYTES, Header, HeaderFault, Kind, Seed};
use super::shared::Shared;
use super::writer::{ASIDE_SUFFIX, log_path};
use crate::embedded::writer::is_no_space;
use crate::log::{AppendError, Recovered, SnapshotPart};

/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;
/// Largest state of one subscription; its frame's length must fit 32 bits with room to spare.
const PART_BYTES_MAX: usize = 1 << 30;

pub(super) fn snapshot_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("snap-{number:020}"))
}

/// Replaces the snapshot. An error other than `Failed` leaves the old one in force.
pub(super) fn write(shared: &Shared, parts: &[SnapshotPart]) -> Result<(), AppendError> {
    if shared.has_failed() {
        return Err(AppendError::Failed);
    }
    if parts.iter().any(|part| PART_BYTES_MAX < part.state.len()) {
        return Err(AppendError::TooLarge { max: PART_BYTES_MAX });
    }
    let (bytes_covered, number) = plan(shared, parts);
    // What a part includes must outlive a power cut, or its numbers would be given again to other groups,
    // which replay would then skip.
    shared.flush().map_err(|_| AppendError::Failed)?;

    let aside = shared.dir.join(format!("snap-{number:020}{ASIDE_SUFFIX}"));
    let mut written = write_aside(shared, &aside, number, parts);
    if is_full(&written) && shared.ballast.give_up() {
        written = write_aside(shared, &aside, number, parts);
    }
    let file = match written {
        Ok(file) => file,
        Err(error) if is_no_space(&error) => {
            // If the removal fails, the next snapshot or the next start meets the file and replaces it.
            let _ = shared.disk.remove(&aside);
            return Err(AppendError::StorageFull);
        }
        Err(error) => return Err(fatal(shared, "writing a state snapshot", &error)),
    };
    file.sync_data().map_err(|error| fatal(shared, "flushing a state snapshot", &error))?;
    let path = snapshot_path(&shared.dir, number);
    shared.disk.rename(&aside, &path).map_err(|error| fatal(shared, "renaming a state snapshot", &error))?;
    shared
        .disk
        .sync_dir(&shared.dir)
        .map_err(|error| fatal(shared, "flushing the state directory", &error))?;

    {
        let mut since = shared.since_snapshot.lock().expect("no panic while the count is held");
        since.bytes = since.bytes.saturating_sub(bytes_covered);
        since.at = shared.clock.now();
        since.asked_at = None;
    }
    forget_before(shared, number);
    Ok(())
}

/// Which log file replay will have to start with, and how many bytes recorded so far the snapshot stands for.
fn plan(shared: &Shared, parts: &[SnapshotPart]) -> (u64, u64) {
    let (bytes, asked_at) = {
        let since = shared.since_snapshot.lock().expect("no panic while the count is held");
        (since.bytes, since.asked_at)
    };
    let recorded = shared.tail().seq;
    let included = parts.iter().map(|part| part.at.0).min().unwrap_or(recorded);
    let included = included.min(asked_at.unwrap_or(recorded));
    let files = shared.files.lock().expect("no panic while the files are held");
    let needed = files.iter().rev().find(|file| file.first <= included + 1).or(files.first());
    (bytes, needed.expect("a log has a file").number)
}

fn write_aside(
    shared: &Shared,
    aside: &Path,
    number: u64,
    parts: &[SnapshotPart],
) -> io::Result<Arc<dyn DiskFile>> {
    let file = shared.disk.open(aside, OpenMode::Create)?;
    file.set_len(0)?;
    let seed = Seed::new(shared.store, number);
    let time = shared.next_time();
    let header = Header { kind: Kind::Snapshot, number, first: parts.len() as u64, time };
    let mut buffer = header.encode(shared.store);
    let mut at = 0;
    for part in parts {
        let durable = u64::from(part.subscription.0);
        Frame { seq: part.at.0, durable, time, body: &part.state }.put(seed, &mut buffer);
        if WRITE_BYTES <= buffer.len() {
            file.write_at(&buffer, at)?;
            at += buffer.len() as u64;
            buffer.clear();
        }
    }
    file.write_at(&buffer, at)?;
    Ok(file)
}

/// Removes what the snapshot stands for. Whatever cannot be removed now goes at the next start.
fn forget_before(shared: &Shared, number: u64) {
    let old = {
        let mut files = shared.files.lock().expect("no panic while the files are held");
        let keep = files.iter().position(|file| file.number == number).unwrap_or(0);
        files.drain(..keep).map(|file| log_path(&shared.dir, file.number)).collect()
    };
    if let Err(error) = remove_old(&*shared.disk, &shared.dir, number, old) {
        tracing::warn!(%error, "failed to remove state logs that a snapshot replaces");
    }
}

/// Removes the `old` logs and every snapshot but number `keep`.
pub(super) fn remove_old(disk: &dyn Disk, dir: &Path, keep: u64, mut old: Vec<PathBuf>) -> io::Result<()> {
    let numbers = disk.list(dir)?.into_iter().filter_map(|name| snapshot_number(&name));
    old.extend(numbers.filter(|number| *number != keep).map(|number| snapshot_path(dir, number)));
    for path in &old {
        disk.remove(path)?;
    }
    if old.is_empty() { Ok(()) } else { disk.sync_dir(dir) }
}

pub(super) fn snapshot_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("snap-")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

fn fatal(shared: &Shared, doing: &str, error: &io::Error) -> AppendError {
    shared.fail(doing, error);
    AppendError::Failed
}

fn is_full<T>(outcome: &io::Result<T>) -> bool {
    outcome.as_ref().is_err_and(is_no_space)
}

/// Why a snapshot was not read.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    Version(u32),
    /// The byte from which on it is damaged.
    Damaged(u64),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What a sound snapshot says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Summary {
    pub(super) number: u64,
    pub(super) time: Timestamp,
    /// The newest group that any part includes.
    pub(super) newest_at: u64,
}

/// Reads snapshot `number` and shows its parts. Parts are shown before the end is known to be sound: look
/// at nothing on the first pass.
pub(super) fn read(
    disk: &dyn Disk,
    dir: &Path,
    store: [u8; 16],
    number: u64,
    visit: &mut dyn FnMut(Recovered<'_>),
) -> Result<Summary, Fault> {
    let file = disk.open(&snapshot_path(dir, number), OpenMode::Existing)?;
    let end = file.len()?;
    let mut block = vec![0; HEADER_BYTES];
    let got = file.read_at(&mut block, 0)?;
    let header =
        Header::decode(Kind::Snapshot, number, store, &block[..got]).map_err(|fault| match fault {
            HeaderFault::Damaged => Fault::Damaged(0),
            HeaderFault::Version(version) => Fault::Version(version),
        })?;
    let seed = Seed::new(store, number);
    let mut at = HEADER_BYTES as u64;
    let mut newest_at = 0;
    let mut frame_bytes = Vec::new();
    for _ in 0..header.first {
        let mut head = [0; FRAME_BYTES];
        let whole = file.read_at(&mut head, at)? == head.len();
        let len = Frame::len(&head).filter(|len| whole && *len as u64 <= end - at);
        let Some(len) = len else { return Err(Fault::Damaged(at)) };
        frame_bytes.resize(len, 0);
        read_exact_at(&*file, &mut frame_bytes, at)?;
        let frame = Frame::parse(&frame_bytes, seed).ok_or(Fault::Damaged(at))?;
        let subscription = u32::try_from(frame.durable).map_err(|_| Fault::Damaged(at))?;
        newest_at = newest_at.max(frame.seq);
        visit(Recovered::Part {
            subscription: SubscriptionNumber(subscription),
            at: StateSeq(frame.seq),
            state: frame.body,
        });
        at += len as u64;
    }
    Ok(Summary { number, time: header.time, newest_at })
}
