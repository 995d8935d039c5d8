//! One line on the terminal that says how far it is.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::numbers::{per_second, show_count};
use super::stopwatch::Moment;

/// Counts what is done and shows it twice a second, if somebody is looking.
#[derive(Debug)]
pub(crate) struct Progress {
    done: AtomicU64,
    phase: Mutex<String>,
    shown: bool,
}

impl Progress {
    /// Progress on standard error if that is a terminal. It is shown until the guard is dropped.
    pub(crate) fn start() -> (Arc<Self>, DropGuard) {
        let progress = Arc::new(Self {
            done: AtomicU64::new(0),
            phase: Mutex::default(),
            shown: std::io::stderr().is_terminal(),
        });
        let stop = CancellationToken::new();
        if progress.shown {
            let line = Arc::clone(&progress).show(stop.clone());
            tokio_util::task::TaskTracker::new().spawn(line);
        }
        (progress, stop.drop_guard())
    }

    #[cfg(test)]
    pub(crate) fn silent() -> Arc<Self> {
        Arc::new(Self { done: AtomicU64::new(0), phase: Mutex::default(), shown: false })
    }

    pub(crate) fn add(&self, events: u64) {
        self.done.fetch_add(events, Ordering::Relaxed);
    }

    /// Says what is going on from now on.
    pub(crate) fn phase(&self, text: impl Into<String>) {
        *self.phase.lock().expect("no panic while the phase is held") = text.into();
    }

    async fn show(self: Arc<Self>, stop: CancellationToken) {
        let (mut last, mut at) = (0, Moment::now());
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let (done, now) = (self.done.load(Ordering::Relaxed), Moment::now());
            let rate = super::numbers::whole(per_second(done - last, now.since(at)));
            (last, at) = (done, now);
            let phase = self.phase.lock().expect("no panic while the phase is held").clone();
            write_line(&format!("{phase}: {} events/s", show_count(rate)));
        }
        write_line("");
    }
}

/// Replaces the terminal's current line. A terminal that is gone is no reason to stop.
fn write_line(text: &str) {
    let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
}
