//! ISO 8601 durations, as ARM writes a time to live: `P1D`, `PT1H30M`.

use std::time::Duration;

/// Longest text taken; the longest sensible one has half of it.
const BYTES_MAX: usize = 64;
const SECONDS_PER_DAY: i64 = 24 * 3600;

/// Parses a duration of weeks, days, hours, minutes and seconds; a day has 24 hours. Years and months have no
/// fixed length and are refused, as are signs.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    if text.len() > BYTES_MAX || !text.starts_with('P') {
        return None;
    }
    let span: jiff::Span = text.parse().ok()?;
    if span.is_negative() || span.get_years() != 0 || span.get_months() != 0 {
        return None;
    }
    let days = i64::from(span.get_weeks()).checked_mul(7)?.checked_add(i64::from(span.get_days()))?;
    let seconds = days
        .checked_mul(SECONDS_PER_DAY)?
        .checked_add(i64::from(span.get_hours()).checked_mul(3600)?)?
        .checked_add(span.get_minutes().checked_mul(60)?)?
        .checked_add(span.get_seconds())?;
    let fraction = Duration::from_millis(u64::try_from(span.get_milliseconds()).ok()?)
        .checked_add(Duration::from_micros(u64::try_from(span.get_microseconds()).ok()?))?
        .checked_add(Duration::from_nanos(u64::try_from(span.get_nanoseconds()).ok()?))?;
    Duration::from_secs(u64::try_from(seconds).ok()?).checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(parse(text), expected.map(Duration::from_secs), "{text}");
    }

    #[test]
    fn days_and_times_are_read() {
        check("P1D", Some(86_400));
        check("P1W", Some(7 * 86_400));
        check("PT1M", Some(60));
        check("P1DT2H3M4S", Some(86_400 + 2 * 3600 + 3 * 60 + 4));
        check("PT90M", Some(5_400));
        assert_eq!(parse("PT1.5S"), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn what_has_no_fixed_length_or_is_no_duration_is_refused() {
        for text in ["", "P", "PT", "P1M", "P1Y", "-P1D", "+P1D", "1 day", "P-1D", "1D", "PT1X", "00:01:00"] {
            check(text, None);
        }
        check(&format!("P{}D", "9".repeat(80)), None);
        check("P99999999999999999999D", None);
    }
}
