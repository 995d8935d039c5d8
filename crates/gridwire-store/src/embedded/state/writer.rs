//! Numbers groups of decisions and writes them: one call of [`Writer::step`] writes all that it is given
//! with one `pwrite` and answers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use gridwire_core::ids::StateSeq;
use gridwire_outside::{Disk, DiskFile, OpenMode};

use super::SettleDurability;
use super::format::{FRAME_BYTES, Frame, HEADER_BYTES, Header, Kind, Seed};
use super::shared::{Answer, Failed, LogFile, Shared, Tail};
use crate::embedded::writer::is_no_space;
use crate::log::AppendError;

/// A group on its way to the log.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) decisions: Vec<u8>,
    pub(super) answer: Answer,
}

/// The end of the log. Everything goes through here, in order.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    file: Arc<dyn DiskFile>,
    number: u64,
    /// Whether all of the file's space is reserved. Until it is, nothing is taken.
    is_reserved: bool,
    /// Where the next frame goes.
    tail: u64,
    next: u64,
    last_group: u64,
    /// The highest `durable` that any frame or header says.
    marked: u64,
    buffer: Vec<u8>,
    answers: Vec<(u64, Answer)>,
}

/// Why there is no next file.
enum RollError {
    Full,
    Failed(Failed),
}

/// Ends the name of what is not finished; recovery removes it.
pub(super) const ASIDE_SUFFIX: &str = ".new";

pub(super) fn log_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.slg"))
}

/// Creates log file `number` aside, with its space reserved and its header durable. The caller renames it.
pub(super) fn create_aside(
    disk: &dyn Disk,
    dir: &Path,
    store: [u8; 16],
    header: &Header,
    file_bytes: u64,
) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.open(&aside_path(dir, header.number), OpenMode::Create)?;
    file.allocate(0, file_bytes)?;
    file.write_at(&header.encode(store), 0)?;
    Ok(file)
}

/// Where a log file is made, before it is renamed.
pub(super) fn aside_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.slg{ASIDE_SUFFIX}"))
}

impl Writer {
    /// Goes on at byte `tail` of file `number`; the shared state tells the rest.
    pub(super) fn new(shared: Arc<Shared>, number: u64, tail: u64) -> Self {
        let Tail { file, seq } = shared.tail();
        Self {
            shared,
            file,
            number,
            is_reserved: false,
            tail,
            next: seq + 1,
            last_group: seq,
            marked: 0,
            buffer: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// Writes `groups` and answers each, at once or, if so configured, when it is durable. True when
    /// somebody waits for a flush now.
    pub(super) fn step(&mut self, groups: Vec<Append>) -> bool {
        let mut refused = None;
        let mut flush_wanted = false;
        for Append { decisions, answer } in groups {
            let queued = decisions.len() as u64;
            self.shared.counters.queue_bytes.fetch_sub(queued, Ordering::Relaxed);
            if refused.is_none() {
                refused = self.make_room(decisions.len(), &mut flush_wanted).err();
            }
            if let Some(error) = refused {
                let _ = answer.send(Err(error));
                continue;
            }
            self.last_group = self.next;
            self.answers.push((self.next, answer));
            self.put(&decisions);
            self.shared.counters.groups.fetch_add(1, Ordering::Relaxed);
            self.shared.counters.bytes.fetch_add(queued, Ordering::Relaxed);
        }
        flush_wanted | self.write()
    }

    /// Writes an empty frame which says that the last group is durable, if no frame says so yet, and makes the
    /// ballast again if it was given up. Called once a second and when the log closes.
    pub(super) fn mark(&mut self) {
        let is_news = self.marked < self.last_group && self.last_group <= self.shared.durable();
        if is_news && !self.shared.has_failed() && self.fits(0) {
            self.put(&[]);
            self.write();
        }
        self.shared.restore_ballast();
    }

    fn put(&mut self, body: &[u8]) {
        self.marked = self.shared.durable();
        let frame = Frame { seq: self.next, durable: self.marked, time: self.shared.next_time(), body };
        frame.put(Seed::new(self.shared.store, self.number), &mut self.buffer);
        self.next += 1;
    }

    /// Whether a group of `body` bytes can be written at once: no new file, nothing to reserve.
    pub(super) fn has_room(&self, body: usize) -> bool {
        self.fits(body) && !self.shared.has_failed()
    }

    fn fits(&self, body: usize) -> bool {
        let end = self.tail + (self.buffer.len() + FRAME_BYTES + body) as u64;
        self.is_reserved && end <= self.shared.options.file_bytes
    }

    /// Makes sure that a group of `body` bytes fits, in this file or a new one.
    fn make_room(&mut self, body: usize, flush_wanted: &mut bool) -> Result<(), AppendError> {
        if self.shared.has_failed() {
            return Err(AppendError::Failed);
        }
        if !self.is_reserved {
            self.reserve()?;
        }
        if self.fits(body) {
            return Ok(());
        }
        *flush_wanted |= self.write();
        self.roll().map_err(|error| match error {
            RollError::Full => AppendError::StorageFull,
            RollError::Failed(Failed) => AppendError::Failed,
        })
    }

    /// Reserves what the file may still need: a crash can have lost what was reserved before.
    pub(super) fn reserve(&mut self) -> Result<(), AppendError> {
        let bytes = self.shared.options.file_bytes;
        let mut outcome = self.file.allocate(0, bytes);
        if is_full(&outcome) && self.shared.ballast.give_up() {
            outcome = self.file.allocate(0, bytes);
        }
        if is_full(&outcome) {
            return Err(AppendError::StorageFull);
        }
        if let Err(error) = outcome {
            self.shared.fail("reserving space for the state log", &error);
            return Err(AppendError::Failed);
        }
        self.is_reserved = true;
        Ok(())
    }

    /// Goes on in a new file. What is in the old one is durable before the new one can be seen: so damage
    /// in any but the last file is never a torn tail.
    fn roll(&mut self) -> Result<(), RollError> {
        let shared = Arc::clone(&self.shared);
        let fatal = |doing: &str, error: &io::Error| RollError::Failed(shared.fail(doing, error));
        let number = self.number + 1;
        let header = Header { kind: Kind::Log, number, first: self.next, time: shared.next_time() };
        let create =
            || create_aside(&*shared.disk, &shared.dir, shared.store, &header, shared.options.file_bytes);
        let mut created = create();
        if is_full(&created) && shared.ballast.give_up() {
            created = create();
        }
        let file = match created {
            Ok(file) => file,
            Err(error) if is_no_space(&error) => {
                // If the removal fails, the next attempt meets the same file and reuses it.
                let _ = shared.disk.remove(&aside_path(&shared.dir, number));
                return Err(RollError::Full);
            }
            Err(error) => return Err(fatal("creating a state log file", &error)),
        };
        file.sync_data().map_err(|error| fatal("flushing a new state log file", &error))?;
        let last = Tail { file: Arc::clone(&self.file), seq: self.next - 1 };
        shared.flush_file(&last).map_err(RollError::Failed)?;
        let (from, to) = (aside_path(&shared.dir, number), log_path(&shared.dir, number));
        shared.disk.rename(&from, &to).map_err(|error| fatal("renaming a state log file", &error))?;
        shared.disk.sync_dir(&shared.dir).map_err(|error| fatal("flushing the state directory", &error))?;
        shared
            .files
            .lock()
            .expect("no panic while the files are held")
            .push(LogFile { number, first: self.next });
        shared.set_tail(Tail { file: Arc::clone(&file), seq: self.next - 1 });
        self.file = file;
        self.number = number;
        self.tail = HEADER_BYTES as u64;
        self.marked = self.next - 1;
        Ok(())
    }

    /// Writes what is encoded, and answers it.
    fn write(&mut self) -> bool {
        if self.buffer.is_empty() {
            return false;
        }
        let written = self.file.write_at(&self.buffer, self.tail);
        let bytes = self.buffer.len() as u64;
        self.buffer.clear();
        if let Err(error) = &written {
            self.shared.fail("writing the state log", error);
        }
        if self.shared.has_failed() {
            for (_, answer) in self.answers.drain(..) {
                let _ = answer.send(Err(AppendError::Failed));
            }
            return false;
        }
        self.tail += bytes;
        self.shared.since_snapshot.lock().expect("no panic while the count is held").bytes += bytes;
        self.shared.set_tail(Tail { file: Arc::clone(&self.file), seq: self.next - 1 });
        let mut flush_wanted = false;
        for (seq, answer) in self.answers.drain(..) {
            match self.shared.options.settle_durability {
                SettleDurability::Write => {
                    let _ = answer.send(Ok(StateSeq(seq)));
                }
                SettleDurability::Flush => flush_wanted |= self.shared.answer_when_durable(seq, answer),
            }
        }
        flush_wanted
    }
}

fn is_full<T>(outcome: &io::Result<T>) -> bool {
    outcome.as_ref().is_err_and(is_no_space)
}
