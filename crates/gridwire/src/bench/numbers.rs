//! Numbers: reading them from arguments, doing sums with them, and writing them for people.

use std::time::Duration;

/// A count as a float. Counts here stay far below 2^53, where the conversion would begin to round.
#[allow(clippy::cast_precision_loss, reason = "a figure for people; counts stay below 2^53")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// The whole part; zero for what is negative or not a number.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates, which is what is wanted"
)]
pub(crate) fn whole(value: f64) -> u64 {
    value as u64
}

/// `count` per second over `time`; zero when no time has passed.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    quotient(float(count), time.as_secs_f64())
}

/// `a / b`, or zero where that is no number.
pub(crate) fn quotient(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

/// The middle value, or the mean of the middle two; `None` of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.is_empty() {
        None
    } else if sorted.len() % 2 == 1 {
        Some(sorted[middle])
    } else {
        Some(f64::midpoint(sorted[middle - 1], sorted[middle]))
    }
}

/// Reads `250ms`, `10s`, `2m`, `1.5s`; a bare number is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let complaint = || format!("`{text}` is no duration such as `10s`, `250ms` or `2m`");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(complaint()),
    };
    let number: f64 = number.parse().map_err(|_| complaint())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| complaint())
}

/// Reads `1024`, `64KiB`, `1MiB`, `2GiB`: bytes.
pub(crate) fn parse_bytes(text: &str) -> Result<usize, String> {
    let complaint = || format!("`{text}` is no size such as `1024`, `64KiB` or `1MiB`");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err(complaint()),
    };
    let number: usize = number.parse().map_err(|_| complaint())?;
    number.checked_mul(1 << shift).ok_or_else(complaint)
}

/// Microseconds with three figures: `830 us`, `4.25 ms`, `1.20 s`.
pub(crate) fn show_micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..10_000 => format!("{:.2} ms", float(micros) / 1e3),
        10_000..100_000 => format!("{:.1} ms", float(micros) / 1e3),
        100_000..1_000_000 => format!("{:.0} ms", float(micros) / 1e3),
        _ => format!("{:.2} s", float(micros) / 1e6),
    }
}

/// A whole number with its thousands apart: `1,234,567`.
pub(crate) fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        let check = |text: &str, millis: Option<u64>| {
            assert_eq!(parse_duration(text).ok(), millis.map(Duration::from_millis), "{text}");
        };
        check("10s", Some(10_000));
        check("250ms", Some(250));
        check("1.5s", Some(1_500));
        check("2m", Some(120_000));
        check("3", Some(3_000));
        for bad in ["", "s", "-1s", "10 s", "5d", "nan", "1e999s"] {
            check(bad, None);
        }
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        let check = |text: &str, bytes: Option<usize>| assert_eq!(parse_bytes(text).ok(), bytes, "{text}");
        check("1024", Some(1024));
        check("64KiB", Some(65_536));
        check("1MiB", Some(1 << 20));
        for bad in ["", "KiB", "-1", "1.5KiB", "1TiB", "99999999999999999GiB"] {
            check(bad, None);
        }
    }

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        let check = |values: &[f64], expected: Option<f64>| assert_eq!(median(values), expected);
        check(&[], None);
        check(&[3.0, 1.0, 2.0], Some(2.0));
        check(&[4.0, 1.0], Some(2.5));
        check(&[0.7], Some(0.7));
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(show_count(0), "0");
        assert_eq!(show_count(999), "999");
        assert_eq!(show_count(1_234_567), "1,234,567");
        assert_eq!(show_micros(830), "830 us");
        assert_eq!(show_micros(4_250), "4.25 ms");
        assert_eq!(show_micros(1_200_000), "1.20 s");
    }

    #[test]
    fn nothing_over_no_time_is_zero() {
        assert!(per_second(5, Duration::ZERO).abs() < f64::EPSILON);
        assert!((per_second(5, Duration::from_millis(500)) - 10.0).abs() < 1e-9);
    }
}
