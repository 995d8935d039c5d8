//! Real time: these tests watch a real process.

use std::time::{Duration, Instant};

/// How often a condition that cannot wake us is looked at.
const POLL: Duration = Duration::from_millis(10);

#[expect(clippy::disallowed_methods, reason = "a real process keeps real time; there is no clock to own")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// By the wall clock, since 1970: to compare with times that other programs wrote.
#[expect(clippy::disallowed_methods, reason = "a real process keeps real time; there is no clock to own")]
pub(crate) fn since_epoch() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970")
}

/// Looks at `condition` until it gives something, for at most `limit`; panics with `what` after that.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} in vain: {what}");
        pause(POLL);
    }
}

/// Lets time pass: for loads and for showing that nothing happens, never for waiting on something.
pub(crate) fn pause(duration: Duration) {
    let end = now() + duration;
    while let Some(left) = end.checked_duration_since(now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}
