//! Wrong credentials: how many an address may try for one object.
//!
//! Keys cannot be guessed at any speed; those that people choose, such as a management token, perhaps can. So an
//! address that has presented too many wrong credentials for an object within a minute is refused there until that
//! minute is over, whatever it presents. Others are not concerned, nor is the same address at other objects: who
//! guesses must not be able to lock anybody else out. Behind a proxy all clients have one address; there the limit
//! is better kept by the proxy.
//!
//! The table is bounded. Full, it forgets the oldest, so that want of space never refuses anybody.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_outside::Clock;

use crate::Peer;

/// Failures are counted for so long from the first.
const WINDOW: Duration = Duration::from_secs(60);
/// Pairs of address and object that are remembered: about a megabyte.
const ENTRIES_MAX: usize = 4_096;

/// Counts wrong credentials, and refuses those who presented too many.
pub struct Guard {
    clock: Arc<dyn Clock>,
    /// Failures in a window; more are refused. 0: never.
    failures_max: u32,
    table: Mutex<Table>,
    /// The table's size, so that while nobody guesses nobody waits for it.
    entries: AtomicUsize,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("failures_max", &self.failures_max).finish_non_exhaustive()
    }
}

impl Guard {
    /// One that lets an address fail so often in a minute; 0 means as often as it likes.
    pub fn new(failures_max: u32, clock: Arc<dyn Clock>) -> Self {
        Self { clock, failures_max, table: Mutex::default(), entries: AtomicUsize::new(0) }
    }

    /// Has a credential for `object` judged, unless its sender has to wait.
    ///
    /// # Errors
    ///
    /// What `judge` says; 429 when there were too many failures.
    pub fn judge<T>(
        &self,
        object: &str,
        peer: Peer,
        judge: impl FnOnce() -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        self.admit(object, peer)?;
        let judged = judge();
        if judged.as_ref().is_err_and(|error| error.code == ErrorCode::Unauthorized) {
            self.failed(object, peer);
        }
        judged
    }

    /// # Errors
    ///
    /// 429 when there were too many failures.
    pub fn admit(&self, object: &str, peer: Peer) -> Result<(), ApiError> {
        if self.entries.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let now = self.clock.monotonic();
        let mut table = self.table();
        table.forget_what_is_over(now);
        self.entries.store(table.failures.len(), Ordering::Relaxed);
        let waits = table.wait(&key(object, peer), self.failures_max, now);
        drop(table);
        let Some(wait) = waits else { return Ok(()) };
        let message = "Too many wrong credentials have come from this address. Wait before the next.";
        Err(ApiError::new(ErrorCode::QuotaExceeded, message).with_retry_after(wait))
    }

    /// Counts a wrong credential that was presented for `object`.
    pub fn failed(&self, object: &str, peer: Peer) {
        if self.failures_max == 0 {
            return;
        }
        let now = self.clock.monotonic();
        let mut table = self.table();
        table.failed(key(object, peer), now);
        self.entries.store(table.failures.len(), Ordering::Relaxed);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who, and at what.
type Key = (IpAddr, String);

/// What belongs to one sender: of IPv6 he has a whole network.
fn key(object: &str, peer: Peer) -> Key {
    let address = match peer.address.ip().to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    };
    (address, object.to_owned())
}

#[derive(Debug, Default)]
struct Table {
    failures: BTreeMap<Key, Failures>,
    /// The same keys, by the beginning of their windows.
    order: VecDeque<Key>,
}

#[derive(Debug)]
struct Failures {
    /// Monotonic time of the first.
    since: Duration,
    count: u32,
}

impl Table {
    /// How long `key` has to wait, if it has.
    fn wait(&self, key: &Key, failures_max: u32, now: Duration) -> Option<Duration> {
        let failures = self.failures.get(key).filter(|failures| failures_max <= failures.count)?;
        let left = (failures.since + WINDOW).saturating_sub(now);
        (!left.is_zero()).then_some(left)
    }

    fn forget_what_is_over(&mut self, now: Duration) {
        while let Some(oldest) = self.order.front()
            && self.failures.get(oldest).is_none_or(|failures| failures.since + WINDOW <= now)
        {
            self.forget_oldest();
        }
    }

    fn failed(&mut self, key: Key, now: Duration) {
        self.forget_what_is_over(now);
        if let Some(failures) = self.failures.get_mut(&key) {
            failures.count = failures.count.saturating_add(1);
            return;
        }
        if self.order.len() >= ENTRIES_MAX {
            self.forget_oldest();
        }
        self.order.push_back(key.clone());
        self.failures.insert(key, Failures { since: now, count: 1 });
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.order.pop_front() {
            self.failures.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use gridwire_core::time::Timestamp;
    use gridwire_outside::ManualClock;

    use super::*;

    const MAX: u32 = 10;

    fn guard(failures_max: u32) -> (Guard, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1)));
        (Guard::new(failures_max, Arc::clone(&clock) as Arc<dyn Clock>), clock)
    }

    fn from(address: &str) -> Peer {
        Peer { address: format!("{address}:1").parse().unwrap(), tls: false }
    }

    fn wrong() -> Result<(), ApiError> {
        Err(ApiError::new(ErrorCode::Unauthorized, "no"))
    }

    /// The status of a credential's judgement, 200 for a right one.
    fn status(guard: &Guard, object: &str, address: &str, judged: Result<(), ApiError>) -> u16 {
        guard.judge(object, from(address), || judged).map_or_else(|error| error.status(), |()| 200)
    }

    #[test]
    fn after_ten_failures_of_a_minute_an_address_has_to_wait_at_that_object_alone() {
        let (guard, clock) = guard(MAX);
        for _ in 0..MAX {
            assert_eq!(status(&guard, "a", "127.0.0.1", wrong()), 401);
            clock.advance(Duration::from_secs(2));
        }
        let refusal = guard.admit("a", from("127.0.0.1")).unwrap_err();
        assert_eq!((refusal.status(), refusal.retry_after), (429, Some(Duration::from_secs(40))));
        assert_eq!(status(&guard, "a", "127.0.0.1", Ok(())), 429, "also with a right one");
        assert_eq!(status(&guard, "a", "127.0.0.2", Ok(())), 200, "from elsewhere");
        assert_eq!(status(&guard, "a", "127.0.0.2", wrong()), 401);
        assert_eq!(status(&guard, "b", "127.0.0.1", Ok(())), 200, "elsewhere");
        clock.advance(Duration::from_millis(39_999));
        assert_eq!(status(&guard, "a", "127.0.0.1", Ok(())), 429);
        clock.advance(Duration::from_millis(1));
        assert_eq!(status(&guard, "a", "127.0.0.1", Ok(())), 200, "what was refused did not count");
        assert_eq!(status(&guard, "a", "127.0.0.1", wrong()), 401, "and all begins anew");
        assert_eq!(status(&guard, "a", "127.0.0.1", Ok(())), 200);
    }

    #[test]
    fn only_wrong_credentials_count() {
        let (guard, _) = guard(1);
        for code in [ErrorCode::NotFound, ErrorCode::InvalidRequest, ErrorCode::Overloaded] {
            for _ in 0..3 {
                let refusal = ApiError::new(code, "no");
                let expected = refusal.status();
                assert_eq!(status(&guard, "a", "127.0.0.1", Err(refusal)), expected);
            }
        }
        assert_eq!(status(&guard, "a", "127.0.0.1", Ok(())), 200);
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let (guard, _) = guard(0);
        for _ in 0..1_000 {
            assert_eq!(status(&guard, "a", "127.0.0.1", wrong()), 401);
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_sender_and_an_address_written_as_ipv6_is_itself() {
        let (guard, _) = guard(1);
        assert_eq!(status(&guard, "a", "[2001:db8::1]", wrong()), 401);
        assert_eq!(status(&guard, "a", "[2001:db8::ffff:2]", Ok(())), 429);
        assert_eq!(status(&guard, "a", "[2001:db8:0:1::1]", Ok(())), 200);
        assert_eq!(status(&guard, "a", "10.0.0.1", wrong()), 401);
        assert_eq!(status(&guard, "a", "[::ffff:10.0.0.1]", Ok(())), 429);
        assert_eq!(status(&guard, "a", "[::ffff:10.0.0.2]", Ok(())), 200);
    }

    #[test]
    fn when_all_failures_are_over_nobody_waits_for_the_table() {
        let (guard, clock) = guard(MAX);
        assert_eq!(status(&guard, "a", "127.0.0.1", wrong()), 401);
        clock.advance(WINDOW / 2);
        assert_eq!(status(&guard, "a", "127.0.0.2", wrong()), 401);
        for left in [1, 0] {
            clock.advance(WINDOW / 2);
            assert_eq!(status(&guard, "b", "127.0.0.3", Ok(())), 200);
            assert_eq!(guard.entries.load(Ordering::Relaxed), left);
        }
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest_first() {
        let (guard, clock) = guard(1);
        let address = |number: usize| format!("10.1.{}.{}", number / 256, number % 256);
        for number in 0..ENTRIES_MAX + 100 {
            assert_eq!(status(&guard, "a", &address(number), wrong()), 401);
        }
        let table = guard.table();
        assert_eq!((table.failures.len(), table.order.len()), (ENTRIES_MAX, ENTRIES_MAX));
        drop(table);
        assert_eq!(status(&guard, "a", &address(99), Ok(())), 200);
        assert_eq!(status(&guard, "a", &address(100), Ok(())), 429);
        clock.advance(WINDOW);
        assert_eq!(status(&guard, "a", &address(100), wrong()), 401);
        assert_eq!(guard.table().failures.len(), 1, "what is over is forgotten");
    }
}
