//! Time.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use gridwire_core::routing::BoxFuture;
use gridwire_core::time::Timestamp;

/// Broker time and monotonic time.
///
/// Broker time is what is persisted (publish times, locks, retries, time to live): anchored to the wall clock
/// at start, never below the newest recorded time, carried on by a clock that ignores wall steps. It never
/// steps back. Monotonic time is for timeouts and measuring.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    fn now(&self) -> Timestamp;

    /// What the system's wall clock shows now: it steps when it is set, and no advance or record moves it.
    ///
    /// Only for what others have dated by their own wall clocks, as the end of a shared access signature. Judged by
    /// broker time, a signature would be refused for days on a server whose broker time is ahead, to clients whose
    /// clocks are right. The price is that setting the wall clock back lets a signature that had ended open once
    /// more. That is right: such an end promises a moment of the world's time, which the operator states by setting
    /// the clock and nobody else can; a clock that was wrongly ahead would otherwise lock out its clients for good.
    /// Who wants a signature to end for good replaces the key that it was made with. A clock that was never set is
    /// none: it shows no less than when the program was written.
    fn wall(&self) -> Timestamp;

    /// Time since some fixed moment of this process.
    fn monotonic(&self) -> Duration;

    /// Makes sure that broker time is at least `floor`: called once, after recovery, with the newest
    /// recorded time.
    fn raise_to(&self, floor: Timestamp);

    /// Done when broker time has reached `due`. Cancel safe.
    fn sleep_until(&self, due: Timestamp) -> BoxFuture<'_, ()>;

    /// Done after `wait` of monotonic time. Cancel safe.
    fn sleep(&self, wait: Duration) -> BoxFuture<'_, ()>;
}

/// A clock that only moves when told: long schedules in short tests.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<Timestamp>,
    start: Timestamp,
    moved: tokio::sync::watch::Sender<Timestamp>,
}

impl ManualClock {
    pub fn new(start: Timestamp) -> Self {
        Self { state: Mutex::new(start), start, moved: tokio::sync::watch::Sender::new(start) }
    }

    /// Moves time forward and wakes whoever is due.
    pub fn advance(&self, by: Duration) {
        self.raise_to(self.now() + by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.state.lock().expect("no panic while the time is held")
    }

    /// Set by nobody, so it shows the same.
    fn wall(&self) -> Timestamp {
        self.now()
    }

    fn monotonic(&self) -> Duration {
        self.now().since(self.start)
    }

    fn raise_to(&self, floor: Timestamp) {
        let mut now = self.state.lock().expect("no panic while the time is held");
        *now = (*now).max(floor);
        self.moved.send_replace(*now);
    }

    fn sleep_until(&self, due: Timestamp) -> BoxFuture<'_, ()> {
        let mut moved = self.moved.subscribe();
        Box::pin(async move {
            // An error means the clock is gone, and with it everybody who could be late.
            let _ = moved.wait_for(|now| due <= *now).await;
        })
    }

    fn sleep(&self, wait: Duration) -> BoxFuture<'_, ()> {
        self.sleep_until(self.now() + wait)
    }
}
