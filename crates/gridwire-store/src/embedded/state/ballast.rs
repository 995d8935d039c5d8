//! Space set aside, to be given up when there is no other: so that settling goes on when publishing stops.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gridwire_outside::{Disk, OpenMode};

/// How often a ballast that was given up is tried to be made again.
const RETRY: Duration = Duration::from_secs(1);

/// The file `ballast` beside the state directory.
#[derive(Debug)]
pub(super) struct Ballast {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// 0: there is none.
    bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: bool,
    tried: Duration,
}

impl Ballast {
    /// Makes the ballast if there is space for it.
    pub(super) fn open(disk: Arc<dyn Disk>, path: PathBuf, bytes: u64) -> Self {
        let ballast = Self { disk, path, bytes, state: Mutex::default() };
        if 0 < bytes {
            ballast.make();
        }
        ballast
    }

    /// Whether the space is set aside.
    pub(super) fn is_held(&self) -> bool {
        self.state.lock().expect("no panic while the ballast is held").held
    }

    fn make(&self) {
        let made = self.disk.open(&self.path, OpenMode::Create).and_then(|file| file.allocate(0, self.bytes));
        let held = made.is_ok();
        if let Err(error) = made {
            tracing::warn!(%error, "no space for the ballast");
            self.remove();
        }
        self.state.lock().expect("no panic while the ballast is held").held = held;
    }

    fn remove(&self) {
        match self.disk.remove(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "failed to remove the ballast"),
        }
    }

    /// Frees the space. False when there was nothing to give.
    pub(super) fn give_up(&self) -> bool {
        let was_held = {
            let mut state = self.state.lock().expect("no panic while the ballast is held");
            std::mem::take(&mut state.held)
        };
        if was_held {
            tracing::warn!("the disk is full; the ballast was given up to keep settling");
            self.remove();
        }
        was_held
    }

    /// Makes the ballast again when there is space for it and for `spare` bytes beside, so that making it
    /// does not take what the log needs next. `now` is monotonic time.
    pub(super) fn restore(&self, spare: u64, now: Duration) {
        {
            let mut state = self.state.lock().expect("no panic while the ballast is held");
            if self.bytes == 0 || state.held || now < state.tried + RETRY {
                return;
            }
            state.tried = now;
        }
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        if self.disk.free_bytes(dir).is_ok_and(|free| self.bytes.saturating_add(spare) <= free) {
            self.make();
        }
    }
}
