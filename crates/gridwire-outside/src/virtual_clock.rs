//! A real clock that can be put forward: what a retry ladder of a day needs in a test of seconds.

use std::sync::Arc;
use std::time::Duration;

use gridwire_core::routing::BoxFuture;
use gridwire_core::time::Timestamp;
use tokio::sync::watch;

use crate::Clock;

/// Broker time that runs as another clock does, and ahead of it by what it was advanced.
///
/// Whoever sleeps until a broker time is woken by an advance that reaches it. Monotonic time is the other
/// clock's own: the timeouts of connections measure real waiting, which no advance shortens.
#[derive(Debug)]
pub struct VirtualClock {
    real: Arc<dyn Clock>,
    /// How far ahead we are. Only grows, so time never steps back.
    ahead: watch::Sender<Duration>,
}

impl VirtualClock {
    /// `ahead` is what it had been advanced before, by an earlier process.
    pub fn new(real: Arc<dyn Clock>, ahead: Duration) -> Self {
        Self { real, ahead: watch::Sender::new(ahead) }
    }

    /// How far it is ahead of the real clock.
    pub fn ahead(&self) -> Duration {
        *self.ahead.borrow()
    }

    /// Puts the clock so far ahead of the real one, unless it is that far already, and wakes whoever is due.
    pub fn put_ahead(&self, ahead: Duration) {
        self.ahead.send_if_modified(|now| {
            let forward = *now < ahead;
            *now = (*now).max(ahead);
            forward
        });
    }

    /// What the real clock shows when this one shows `time`.
    fn in_real_time(&self, time: Timestamp) -> Timestamp {
        let ahead = u64::try_from(self.ahead().as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_millis(time.as_millis().saturating_sub(ahead))
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        self.real.now() + self.ahead()
    }

    /// The world's time is not ours to advance.
    fn wall(&self) -> Timestamp {
        self.real.wall()
    }

    fn monotonic(&self) -> Duration {
        self.real.monotonic()
    }

    fn raise_to(&self, floor: Timestamp) {
        self.real.raise_to(self.in_real_time(floor));
    }

    fn sleep_until(&self, due: Timestamp) -> BoxFuture<'_, ()> {
        let mut ahead = self.ahead.subscribe();
        Box::pin(async move {
            loop {
                ahead.mark_unchanged();
                if due <= self.now() {
                    return;
                }
                tokio::select! {
                    () = self.real.sleep_until(self.in_real_time(due)) => {}
                    // The sender is ours, so it is not gone.
                    _ = ahead.changed() => {}
                }
            }
        })
    }

    fn sleep(&self, wait: Duration) -> BoxFuture<'_, ()> {
        self.real.sleep(wait)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Wake, Waker};

    use super::*;
    use crate::ManualClock;

    const START: Timestamp = Timestamp::from_millis(1_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn clocks(ahead: Duration) -> (Arc<ManualClock>, VirtualClock) {
        let real = Arc::new(ManualClock::new(START));
        (Arc::clone(&real), VirtualClock::new(real, ahead))
    }

    /// A sleep that is looked at only when it asks for it, as a runtime would.
    struct Sleeper<'c> {
        sleep: BoxFuture<'c, ()>,
        woken: Arc<Woken>,
    }

    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    impl<'c> Sleeper<'c> {
        fn new(sleep: BoxFuture<'c, ()>) -> Self {
            Self { sleep, woken: Arc::new(Woken(AtomicBool::new(true))) }
        }

        fn is_over(&mut self) -> bool {
            let waker = Waker::from(Arc::clone(&self.woken));
            self.woken.0.swap(false, Ordering::SeqCst)
                && self.sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        }
    }

    #[test]
    fn an_advance_moves_broker_time_and_not_monotonic_time() {
        let (real, clock) = clocks(HOUR);
        assert_eq!(clock.now(), START + HOUR, "an earlier advance still counts");
        clock.put_ahead(2 * HOUR);
        real.advance(Duration::from_secs(1));
        assert_eq!(clock.now(), START + 2 * HOUR + Duration::from_secs(1));
        assert_eq!(clock.monotonic(), Duration::from_secs(1));
        assert_eq!(clock.wall(), START + Duration::from_secs(1), "nor the wall clock");
    }

    #[test]
    fn time_never_steps_back() {
        let (_, clock) = clocks(2 * HOUR);
        clock.put_ahead(HOUR);
        assert_eq!(clock.ahead(), 2 * HOUR);
    }

    #[test]
    fn an_advance_wakes_who_it_reaches_and_nobody_else() {
        let (real, clock) = clocks(Duration::ZERO);
        let mut early = Sleeper::new(clock.sleep_until(START + HOUR));
        let mut late = Sleeper::new(clock.sleep_until(START + 3 * HOUR));
        let mut timeout = Sleeper::new(clock.sleep(HOUR));
        assert!(!early.is_over() && !late.is_over() && !timeout.is_over());
        clock.put_ahead(2 * HOUR);
        assert!(early.is_over());
        assert!(!late.is_over() && !timeout.is_over());
        real.advance(HOUR);
        assert!(late.is_over() && timeout.is_over(), "one hour of the three was left");
    }

    #[test]
    fn a_floor_is_met_without_counting_the_advance_twice() {
        let (real, clock) = clocks(HOUR);
        clock.raise_to(START + HOUR);
        assert_eq!(real.now(), START);
        clock.raise_to(START + 3 * HOUR);
        assert_eq!(clock.now(), START + 3 * HOUR);
    }
}
