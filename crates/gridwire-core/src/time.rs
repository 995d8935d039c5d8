//! Broker time, as it is persisted: milliseconds since the Unix epoch.
//!
//! The `Clock` that produces it lives in `gridwire-outside`; here it is only a number with a meaning.

use std::fmt;
use std::time::Duration;

/// A moment in broker time, in milliseconds since the Unix epoch (UTC).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The beginning of the Unix epoch; before every recorded time.
    pub const ZERO: Self = Self(0);
    /// After every time; "never" for timers.
    pub const MAX: Self = Self(u64::MAX);

    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Parses an RFC 3339 date-time with an offset, as `CloudEvents` and ARM write it.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let parsed: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(parsed.as_millisecond()).ok().map(Self)
    }

    /// The calendar time in UTC, for paths such as `{yyyy}/{M}/{d}/{H}`; `None` past the year 9999.
    pub fn to_civil(self) -> Option<jiff::civil::DateTime> {
        let instant = jiff::Timestamp::from_millisecond(i64::try_from(self.0).ok()?).ok()?;
        Some(instant.to_zoned(jiff::tz::TimeZone::UTC).datetime())
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    /// Saturates, so that an absurd duration means "never" and not "long ago".
    fn add(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-11-22T20:19:38.054Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instant =
            i64::try_from(self.0).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
        match instant {
            Some(instant) => write!(f, "{instant:.3}"),
            None => f.write_str("never"),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_being_written_and_read() {
        let time = Timestamp::from_millis(1_795_465_178_054);
        assert_eq!(time.to_string(), "2026-11-23T20:19:38.054Z");
        assert_eq!(Timestamp::parse_rfc3339(&time.to_string()), Some(time));
    }

    #[test]
    fn adding_too_much_means_never() {
        assert_eq!(Timestamp::from_millis(5) + Duration::MAX, Timestamp::MAX);
    }
}
