//! The one clock of a simulation. It moves only when every task waits, and then to the next moment that is due.
//!
//! Sleepers are kept in order of (due, arrival), so who is woken first is decided by the run and not by chance
//! (a `watch` channel, as the manual clock of the tests has it, wakes in a random order).

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Mutex;
use std::task::{Poll, Waker};
use std::time::Duration;

use gridwire_core::routing::BoxFuture;
use gridwire_core::time::Timestamp;
use gridwire_outside::Clock;

#[derive(Debug)]
pub(crate) struct SimClock {
    start: Timestamp,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since the start.
    now: Duration,
    arrivals: u64,
    sleepers: BTreeMap<(Duration, u64), Waker>,
}

/// Takes its sleeper out when it is dropped.
struct Place<'a> {
    clock: &'a SimClock,
    due: Duration,
    arrival: Option<u64>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(arrival) = self.arrival {
            self.clock.state().sleepers.remove(&(self.due, arrival));
        }
    }
}

impl SimClock {
    pub(crate) fn new(start: Timestamp) -> Self {
        Self { start, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the time is held")
    }

    /// Goes to the next moment at which somebody wants to be woken; `false` when nobody does.
    pub(crate) fn advance(&self) -> bool {
        let mut wakers = Vec::new();
        {
            let mut state = self.state();
            let Some((&(due, _), _)) = state.sleepers.first_key_value() else { return false };
            state.now = state.now.max(due);
            while let Some(entry) = state.sleepers.first_entry() {
                if entry.key().0 > due {
                    break;
                }
                wakers.push(entry.remove());
            }
        }
        for waker in wakers {
            waker.wake();
        }
        true
    }

    fn until(&self, due: Duration) -> BoxFuture<'_, ()> {
        let mut place = Place { clock: self, due, arrival: None };
        Box::pin(poll_fn(move |context| {
            let mut state = self.state();
            if place.due <= state.now {
                return Poll::Ready(());
            }
            let arrival = *place.arrival.get_or_insert_with(|| {
                state.arrivals += 1;
                state.arrivals
            });
            state.sleepers.insert((place.due, arrival), context.waker().clone());
            Poll::Pending
        }))
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.start + self.monotonic()
    }

    /// A simulated wall clock is never set.
    fn wall(&self) -> Timestamp {
        self.now()
    }

    fn monotonic(&self) -> Duration {
        self.state().now
    }

    /// Nothing recorded is ever ahead: all processes of a run share this clock.
    fn raise_to(&self, floor: Timestamp) {
        assert!(floor <= self.now(), "a record from the future");
    }

    fn sleep_until(&self, due: Timestamp) -> BoxFuture<'_, ()> {
        self.until(due.since(self.start))
    }

    fn sleep(&self, wait: Duration) -> BoxFuture<'_, ()> {
        // Whole milliseconds, as timestamps have them; and never at once, so that a loop of sleeps moves on.
        let wait = Duration::from_millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX / 2).max(1));
        self.until(self.monotonic().saturating_add(wait))
    }
}
