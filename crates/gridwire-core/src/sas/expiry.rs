//! The writings of a token's expiry. All are UTC unless they carry an offset.

use jiff::civil::DateTime;
use jiff::tz::Offset;

use crate::time::Timestamp;

/// Reads an expiry as any of the known clients writes it, with `+` perhaps standing for a space.
///
/// * .NET and JavaScript, en-US: `6/15/2017 6:20:15 PM`, also with an offset after it, also by 24 hours.
/// * Python: `2026-01-02 03:04:05.678901+00:00`, with `T`, without fraction, without offset, with `Z`.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    // A form-encoded space and the sign of an offset look the same. A reading as the first leaves an offset
    // no sign, so only one of the two can succeed where both characters occur.
    one(text.trim()).or_else(|| one(text.replace('+', " ").trim())).or_else(|| {
        let (rest, offset) = text.trim().rsplit_once('+')?;
        one(&format!("{}+{offset}", rest.replace('+', " ")))
    })
}

fn one(text: &str) -> Option<Timestamp> {
    let instant = if text.contains('/') { en_us(text)? } else { iso(text)? };
    u64::try_from(instant.as_millisecond()).ok().map(Timestamp::from_millis)
}

fn iso(text: &str) -> Option<jiff::Timestamp> {
    if let Ok(instant) = text.parse() {
        return Some(instant);
    }
    at_offset(text.strip_suffix('Z').unwrap_or(text).parse().ok()?, Offset::UTC)
}

/// The instant of a calendar time. The last day of the year 9999, which people write for "never", is past the
/// library's last instant and counts as that.
fn at_offset(civil: DateTime, offset: Offset) -> Option<jiff::Timestamp> {
    offset.to_timestamp(civil).ok().or((civil.year() == 9999).then_some(jiff::Timestamp::MAX))
}

/// `M/d/yyyy h:mm:ss[ AM| PM][ ±hh:mm]`.
fn en_us(text: &str) -> Option<jiff::Timestamp> {
    // Any white space: newer JavaScript engines put a narrow no-break space before AM and PM.
    let mut words = text.split_whitespace();
    let mut date = words.next()?.split('/').map(number);
    let (month, day, year) = (date.next()??, date.next()??, date.next()??);
    let mut time = words.next()?.split(':').map(number);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if date.next().is_some() || time.next().is_some() {
        return None;
    }
    let mut next = words.next();
    let half = next.and_then(|word| match word {
        "AM" | "am" => Some(0),
        "PM" | "pm" => Some(12),
        _ => None,
    });
    if half.is_some() {
        next = words.next();
    }
    // Old JavaScript clients write noon as 0 PM.
    let hour = match half {
        Some(half) if hour <= 12 => hour % 12 + half,
        Some(_) => return None,
        None => hour,
    };
    let offset = match next {
        None => Offset::UTC,
        Some(word) => offset(word)?,
    };
    if words.next().is_some() {
        return None;
    }
    let small = |number: i16| i8::try_from(number).ok();
    let civil =
        DateTime::new(year, small(month)?, small(day)?, small(hour)?, small(minute)?, small(second)?, 0)
            .ok()?;
    at_offset(civil, offset)
}

/// `+00:00`, or `Z`, or the zone's name.
fn offset(word: &str) -> Option<Offset> {
    if matches!(word, "Z" | "UTC" | "GMT") {
        return Some(Offset::UTC);
    }
    let (sign, rest) = match word.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    Offset::from_seconds(sign * (i32::from(hours) * 60 + i32::from(minutes)) * 60).ok()
}

/// One to four digits.
fn number(text: &str) -> Option<i16> {
    let digits = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(parse(text).map(|time| time.to_string()).as_deref(), expected, "{text:?}");
    }

    #[test]
    fn every_clients_writing_is_read() {
        let evening = Some("2026-11-22T20:20:56.000Z");
        for text in [
            "11/22/2026 8:20:56 PM",
            "11/22/2026 08:20:56 pm",
            "11/22/2026 8:20:56\u{202f}PM",
            "11/22/2026+8:20:56+PM",
            "11/22/2026 8:20:56 PM +00:00",
            "11/22/2026+8:20:56+PM++00:00",
            "11/22/2026 10:20:56 PM +02:00",
            "11/22/2026 20:20:56",
            "11/22/2026 8:20:56 PM Z",
            "2026-11-22T20:20:56Z",
            "2026-11-22 20:20:56+00:00",
            "2026-11-22 20:20:56",
            "2026-11-22T20:20:56",
            "2026-11-22+20:20:56",
            "2026-11-22+20:20:56+00:00",
            "2026-11-22T21:20:56+01:00",
            "2026-11-22T19:20:56-01:00",
            " 2026-11-22T20:20:56Z ",
        ] {
            check(text, evening);
        }
        check("2026-11-22 20:19:38.054735+00:00", Some("2026-11-22T20:19:38.054Z"));
        check("1/2/2026 12:00:00 AM", Some("2026-01-02T00:00:00.000Z"));
        check("1/2/2026 12:00:00 PM", Some("2026-01-02T12:00:00.000Z"));
        for text in ["9999-12-31T23:59:59Z", "12/31/9999 11:59:59 PM", "9999-12-31 23:59:59.999999"] {
            assert!(parse(text) > parse("9999-12-30T00:00:00Z"), "{text}");
        }
        check("1/2/2026 0:00:00 PM", Some("2026-01-02T12:00:00.000Z"));
    }

    #[test]
    fn other_writings_are_not() {
        for text in [
            "",
            "never",
            "1795465178",
            "11/22/2026",
            "22/11/2026 8:20:56 PM",
            "11/31/2026 8:20:56 PM",
            "11/22/2026 13:20:56 PM",
            "11/22/2026 24:00:00",
            "11/22/2026 8:20 PM",
            "11/22/2026 8:20:56 PM CET",
            "11/22/2026 8:20:56 PM +00:00 x",
            "11/22/2026/1 8:20:56 PM",
            "11/22/2026 8:20:56:1 PM",
            "11/22/99999 8:20:56 PM",
            "-1/22/2026 8:20:56 PM",
            "+/+/+ +:+:+",
            "1/1/1960 8:20:56 PM",
            "1960-01-01T00:00:00Z",
            "-009999-01-01T00:00:00Z",
            "2026-11-22T25:00:00Z",
        ] {
            check(text, None);
        }
    }
}
