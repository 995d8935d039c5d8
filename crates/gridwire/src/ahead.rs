//! How far broker time is ahead of the wall clock, and what to say about it.
//!
//! It is ahead after advances in development mode, which stay, and on a directory with records from the future:
//! one that was advanced before, or whose machine's clock was wrong. That part is worked off, but slowly, and until
//! then publish times, expirations and the times on signatures are off for everybody else.

use std::time::Duration;

use gridwire_outside::Clock;
use gridwire_outside::system::FOLLOW_SHARE;
use http::HeaderName;

/// By which the admin listener tells `doctor`, in whole seconds.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("gridwire-clock-ahead");

/// Less is worked off within the half hour, and nobody has set it up on purpose.
const WORTH_SAYING: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ahead {
    total: Duration,
    /// The part of it that was advanced and is kept.
    advanced: Duration,
}

impl Ahead {
    /// What `clock` is ahead by, `advanced` of it on purpose.
    pub(crate) fn of(clock: &dyn Clock, advanced: Duration) -> Self {
        let total = clock.now().since(clock.wall());
        Self { total, advanced: advanced.min(total) }
    }

    pub(crate) fn seconds(self) -> u64 {
        self.total.as_secs()
    }

    /// A sentence or two, unless all is well enough.
    pub(crate) fn warning(self) -> Option<String> {
        let followed = self.total.saturating_sub(self.advanced);
        if self.total < WORTH_SAYING {
            return None;
        }
        let outlook = if followed < WORTH_SAYING {
            ", by advances in development mode, and stays so".to_owned()
        } else if self.advanced.is_zero() {
            format!(" and catches up in about {}", friendly(followed * FOLLOW_SHARE))
        } else {
            let wait = friendly(followed * FOLLOW_SHARE);
            let kept = friendly(self.advanced);
            format!(" and catches up in about {wait}, but for the {kept} that it was advanced")
        };
        let total = friendly(self.total);
        Some(format!(
            "broker time is {total} ahead of the wall clock{outlook}; use a fresh data directory for tests"
        ))
    }

    /// [`Ahead::warning`] for the part that nobody advanced: the other has its own place where this is shown.
    pub(crate) fn unwanted(self) -> Option<String> {
        let unwanted = WORTH_SAYING <= self.total.saturating_sub(self.advanced);
        if unwanted { self.warning() } else { None }
    }
}

/// `26h 3m`: whole minutes from an hour on, before that whole seconds.
fn friendly(span: Duration) -> String {
    let unit = if span < Duration::from_secs(3600) { 1 } else { 60 };
    let seconds = span.as_secs() / unit * unit;
    let shown = jiff::SignedDuration::try_from(Duration::from_secs(seconds));
    shown.map_or_else(|_| "very long".to_owned(), |shown| format!("{shown:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(total: u64, advanced: u64, expected: Option<&str>) {
        let ahead = Ahead { total: Duration::from_secs(total), advanced: Duration::from_secs(advanced) };
        assert_eq!(ahead.warning().as_deref(), expected);
    }

    #[test]
    fn how_far_and_how_long_is_said_from_a_minute_on() {
        check(59, 0, None);
        check(
            3600,
            0,
            Some(
                "broker time is 1h ahead of the wall clock and catches up in about 20h; \
                 use a fresh data directory for tests",
            ),
        );
        check(
            93_605,
            93_600,
            Some(
                "broker time is 26h ahead of the wall clock, by advances in development mode, and stays so; \
                 use a fresh data directory for tests",
            ),
        );
        check(
            7200,
            3600,
            Some(
                "broker time is 2h ahead of the wall clock and catches up in about 20h, but for the 1h that it \
                 was advanced; use a fresh data directory for tests",
            ),
        );
    }
}
