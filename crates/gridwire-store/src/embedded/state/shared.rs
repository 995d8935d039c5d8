//! What the state log's threads share: what is written, what is durable, who waits, and whether it failed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gridwire_core::ids::StateSeq;
use gridwire_core::planted::planted;
use gridwire_core::time::Timestamp;
use gridwire_outside::{Clock, Disk, DiskFile};
use tokio::sync::{oneshot, watch};

use super::StateOptions;
use super::ballast::Ballast;
use crate::log::AppendError;

pub(super) type Answer = oneshot::Sender<Result<StateSeq, AppendError>>;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) dir: PathBuf,
    pub(super) store: [u8; 16],
    pub(super) options: StateOptions,
    pub(super) ballast: Ballast,
    pub(super) counters: Counters,
    /// Where the last written frame is.
    tail: Mutex<Tail>,
    /// The log's files, oldest first; the last is being written.
    pub(super) files: Mutex<Vec<LogFile>>,
    /// Held while a log file is flushed, so that nobody takes a flush for good that ran beside a failing one.
    flushing: Mutex<()>,
    durable: AtomicU64,
    newest: AtomicU64,
    waiting: Mutex<Vec<(u64, Answer)>>,
    failed: watch::Sender<bool>,
    pub(super) since_snapshot: Mutex<SinceSnapshot>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) queue_bytes: AtomicU64,
    pub(super) groups: AtomicU64,
    pub(super) bytes: AtomicU64,
}

#[derive(Clone, Debug)]
pub(super) struct Tail {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) seq: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogFile {
    pub(super) number: u64,
    /// The first sequence number in it.
    pub(super) first: u64,
}

#[derive(Debug)]
pub(super) struct SinceSnapshot {
    pub(super) bytes: u64,
    pub(super) at: Timestamp,
    /// The last group when the snapshot was first asked for: a subscription that is not in the snapshot
    /// and has groups after this one is new, not gone.
    pub(super) asked_at: Option<u64>,
}

/// The log has failed: nothing is answered with success from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed;

/// What recovery knows when the log begins to serve.
pub(super) struct Start {
    pub(super) tail: Tail,
    pub(super) files: Vec<LogFile>,
    pub(super) newest: Timestamp,
    pub(super) bytes: u64,
}

impl Shared {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        dir: &Path,
        store: [u8; 16],
        options: StateOptions,
        start: Start,
    ) -> Self {
        let beside = dir.parent().unwrap_or(dir).join("ballast");
        let ballast = Ballast::open(Arc::clone(&disk), beside, options.ballast_bytes);
        let since_snapshot = SinceSnapshot { bytes: start.bytes, at: clock.now(), asked_at: None };
        Self {
            ballast,
            counters: Counters::default(),
            durable: AtomicU64::new(start.tail.seq),
            tail: Mutex::new(start.tail),
            files: Mutex::new(start.files),
            flushing: Mutex::new(()),
            newest: AtomicU64::new(start.newest.as_millis()),
            waiting: Mutex::default(),
            failed: watch::Sender::new(false),
            since_snapshot: Mutex::new(since_snapshot),
            disk,
            clock,
            dir: dir.to_owned(),
            store,
            options,
        }
    }

    /// Broker time for the next record: never below one that was given before.
    pub(super) fn next_time(&self) -> Timestamp {
        let now = self.clock.now().as_millis();
        Timestamp::from_millis(self.newest.fetch_max(now, Ordering::Relaxed).max(now))
    }

    pub(super) fn newest(&self) -> Timestamp {
        Timestamp::from_millis(self.newest.load(Ordering::Relaxed))
    }

    /// Makes the ballast again if it was given up and there is space.
    pub(super) fn restore_ballast(&self) {
        self.ballast.restore(self.options.file_bytes, self.clock.monotonic());
    }

    pub(super) fn tail(&self) -> Tail {
        self.tail.lock().expect("no panic while the tail is held").clone()
    }

    pub(super) fn set_tail(&self, tail: Tail) {
        *self.tail.lock().expect("no panic while the tail is held") = tail;
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(super) fn has_failed(&self) -> bool {
        *self.failed.borrow()
    }

    pub(super) fn watch_failed(&self) -> watch::Receiver<bool> {
        self.failed.subscribe()
    }

    /// Ends the log: whoever waits is told, and nothing succeeds any more.
    pub(super) fn fail(&self, doing: &str, error: &std::io::Error) -> Failed {
        if !self.failed.send_replace(true) {
            tracing::error!(%error, doing, "the state log has failed");
        }
        let waiting = std::mem::take(&mut *self.waiting.lock().expect("no panic while the waiting are held"));
        for (_, answer) in waiting {
            let _ = answer.send(Err(AppendError::Failed));
        }
        Failed
    }

    /// Answers once frame `seq` is durable; true when somebody has to flush for that.
    pub(super) fn answer_when_durable(&self, seq: u64, answer: Answer) -> bool {
        let mut waiting = self.waiting.lock().expect("no panic while the waiting are held");
        // `fail` sets its flag before it takes the lock, and `flush` its mark: nobody is forgotten.
        if self.has_failed() {
            drop(waiting);
            let _ = answer.send(Err(AppendError::Failed));
        } else if seq <= self.durable() {
            drop(waiting);
            let _ = answer.send(Ok(StateSeq(seq)));
        } else {
            waiting.push((seq, answer));
            return true;
        }
        false
    }

    /// Flushes everything written so far and answers those who waited for it.
    pub(super) fn flush(&self) -> Result<(), Failed> {
        let tail = self.tail();
        if tail.seq <= self.durable() && !self.has_failed() {
            return Ok(());
        }
        self.flush_file(&tail)
    }

    /// Flushes one file; everything up to `tail.seq` is durable then.
    pub(super) fn flush_file(&self, tail: &Tail) -> Result<(), Failed> {
        {
            let _alone = self.flushing.lock().expect("no panic while a file is flushed");
            if self.has_failed() {
                return Err(Failed);
            }
            if planted("missing-state-flush") {
                // As if it had succeeded.
            } else if let Err(error) = tail.file.sync_data() {
                return Err(self.fail("flushing the state log", &error));
            }
        }
        let durable = self.durable.fetch_max(tail.seq, Ordering::AcqRel).max(tail.seq);
        let done: Vec<(u64, Answer)> = {
            let mut waiting = self.waiting.lock().expect("no panic while the waiting are held");
            waiting.extract_if(.., |(seq, _)| *seq <= durable).collect()
        };
        for (seq, answer) in done {
            let _ = answer.send(Ok(StateSeq(seq)));
        }
        Ok(())
    }
}
