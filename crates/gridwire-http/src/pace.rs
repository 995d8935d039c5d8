//! How slow a transfer may be.

use std::time::Duration;

/// How long nothing may come of it (`reliability` section 3.1).
const PATIENCE: Duration = Duration::from_secs(10);
const BYTES_PER_SECOND_MIN: u32 = 1024;

/// A transfer that must keep going: each second's worth of bytes gives it a second more, but what came fast at first
/// is no credit for later. One that stands still ends after ten seconds, whenever it stopped; one below the least
/// rate ends the sooner the slower it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    ends: Duration,
}

impl Pace {
    /// Begins at `now`, by the monotonic clock.
    pub(crate) fn begin(now: Duration) -> Self {
        Self { ends: now + PATIENCE }
    }

    pub(crate) fn moved(&mut self, bytes: usize, now: Duration) {
        // Above this the answer is the same.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let earned = Duration::from_secs(1) * bytes / BYTES_PER_SECOND_MIN;
        self.ends = (self.ends + earned).min(now + PATIENCE);
    }

    /// When it is too slow unless something comes before.
    pub(crate) fn ends(self) -> Duration {
        self.ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For how many seconds a transfer goes on that has these bytes in each second, the last for ever.
    fn check(bytes: &[usize], expected: u64) {
        let mut pace = Pace::begin(Duration::ZERO);
        for second in 0..100 {
            let now = Duration::from_secs(second);
            if now >= pace.ends() {
                assert_eq!(second, expected, "{bytes:?}");
                return;
            }
            let index = usize::try_from(second).unwrap().min(bytes.len() - 1);
            pace.moved(bytes[index], now);
        }
        assert_eq!(expected, 100, "{bytes:?}");
    }

    #[test]
    fn a_transfer_goes_on_while_it_keeps_the_least_rate() {
        check(&[1024], 100);
        check(&[0], 10);
        check(&[1], 11);
        check(&[256], 13);
        check(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 1024, 1024, 1024], 100);
    }

    #[test]
    fn a_fast_start_is_no_credit() {
        check(&[900 << 10, 0], 10);
        check(&[900 << 10, 900 << 10, 900 << 10, 0], 12);
        check(&[900 << 10, 100], 11);
    }
}
