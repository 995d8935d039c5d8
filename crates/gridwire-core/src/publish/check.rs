//! What an envelope member may hold: small judgements, each on one value.

use crate::limits::ATTRIBUTE_BYTES_MAX;
use crate::percent;

/// Whether `text` is short enough and free of control characters (C0, DEL and C1).
pub(super) fn is_plain(text: &str) -> Result<(), &'static str> {
    if text.len() > ATTRIBUTE_BYTES_MAX {
        return Err("must not be longer than 4096 bytes");
    }
    let control = if text.is_ascii() {
        text.bytes().any(|byte| byte < 0x20 || byte == 0x7f)
    } else {
        text.chars().any(char::is_control)
    };
    if control { Err("must not contain control characters") } else { Ok(()) }
}

/// Whether `name` is made of `a` to `z` and `0` to `9`, and no longer than `max`.
pub(super) fn is_attribute_name(name: &str, max: usize) -> bool {
    !name.is_empty()
        && name.len() <= max
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Whether `text` can be a URI-reference: no spaces, none of the characters that RFC 3986 leaves out, and
/// every `%` followed by two hexadecimal digits. Characters beyond ASCII pass, for people write IRIs.
pub(super) fn is_uri_reference(text: &str) -> bool {
    let outside = |byte| {
        matches!(byte, 0..=b' ' | 0x7f | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    };
    !text.bytes().any(outside) && percent::escapes_are_whole(text)
}

/// How strictly a date-time is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeForm {
    /// RFC 3339 to the letter.
    Rfc3339,
    /// Also an offset without a colon, as `date +%Y-%m-%dT%H:%M:%S%z` of the documented curl line writes it.
    ColonOptional,
}

/// Whether `text` is a date-time with an offset.
///
/// Written out because a calendar library takes much that RFC 3339 does not (basic format, time zone
/// annotations, no seconds), and a subscriber's parser would then fail on what we let through.
pub(super) fn is_date_time(text: &str, form: TimeForm) -> bool {
    date_time(text.as_bytes(), form).is_some()
}

fn date_time(text: &[u8], form: TimeForm) -> Option<()> {
    let (date, rest) = text.split_at_checked(10)?;
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *date else { return None };
    let year = two(y1, y2)? * 100 + two(y3, y4)?;
    let (month, day) = (two(m1, m2)?, two(d1, d2)?);
    let (time, rest) = rest.split_at_checked(9)?;
    let [b'T' | b't' | b' ', h1, h2, b':', n1, n2, b':', s1, s2] = *time else { return None };
    // 60 is a leap second; which minutes have one is not for us to know.
    if two(h1, h2)? > 23 || two(n1, n2)? > 59 || two(s1, s2)? > 60 {
        return None;
    }
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
        return None;
    }
    let rest = match rest.strip_prefix(b".") {
        None => rest,
        Some(fraction) => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            fraction.get(digits..)?
        }
    };
    let (hours, minutes) = match *rest {
        [b'Z' | b'z'] => return Some(()),
        [b'+' | b'-', h1, h2, b':', m1, m2] => (two(h1, h2)?, two(m1, m2)?),
        [b'+' | b'-', h1, h2, m1, m2] if form == TimeForm::ColonOptional => (two(h1, h2)?, two(m1, m2)?),
        _ => return None,
    };
    (hours <= 23 && minutes <= 59).then_some(())
}

fn two(tens: u8, ones: u8) -> Option<u32> {
    let digit = |byte: u8| byte.is_ascii_digit().then(|| u32::from(byte - b'0'));
    Some(digit(tens)? * 10 + digit(ones)?)
}

fn days_in(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc_3339_to_the_letter() {
        for good in [
            "2026-11-22T20:19:38Z",
            "2026-11-22t20:19:38z",
            "2026-11-22 20:19:38Z",
            "2026-11-22T20:19:38.0547351+01:00",
            "2024-02-29T00:00:00-23:59",
            "2000-02-29T23:59:60Z",
        ] {
            assert!(is_date_time(good, TimeForm::Rfc3339), "{good}");
        }
        for bad in [
            "",
            "now",
            "2026-11-22",
            "2026-11-22T20:19:38",
            "2026-11-22T20:19Z",
            "2026-11-22T20:19:38.Z",
            "2026-11-22T20:19:38,5Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:61Z",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+0000",
            "2026-01-01T00:00:00+00",
            "2026-01-01T00:00:00Z ",
            "2026-01-01T00:00:00Z[UTC]",
            "20260101T000000Z",
            "2026-1-1T00:00:00Z",
            "+2026-01-01T00:00:00Z",
            "２026-01-01T00:00:00Z",
        ] {
            assert!(!is_date_time(bad, TimeForm::Rfc3339), "{bad}");
        }
        assert!(is_date_time("2026-01-01T00:00:00+0000", TimeForm::ColonOptional));
        assert!(!is_date_time("2026-01-01T00:00:00", TimeForm::ColonOptional));
    }

    #[test]
    fn a_uri_reference_has_no_spaces_and_whole_escapes() {
        for good in ["/shop", "urn:a:b", "https://h/p?q=1#f", "#1.0", "a%20b", "/süß", "//h", "[::1]"] {
            assert!(is_uri_reference(good), "{good}");
        }
        for bad in
            ["a b", "a%2", "a%zz", "%", "<a>", "a\\b", "a\tb", "{x}", "a|b", "a^b", "a`b", "a\"b", "a\u{7f}"]
        {
            assert!(!is_uri_reference(bad), "{bad:?}");
        }
    }
}
