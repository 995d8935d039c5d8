//! What an endpoint's answer means for the attempt.

use std::time::Duration;

use gridwire_core::limits;
use gridwire_core::retry::Outcome;
use gridwire_core::time::Timestamp;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, StatusCode};

/// The outcome of an answer whose head is complete; what its body does no longer matters
/// (`push-delivery` contract, section 5).
pub(crate) fn outcome(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Outcome {
    match status.as_u16() {
        200..=204 => Outcome::Accepted,
        status => {
            let retry_after = headers.get(RETRY_AFTER).and_then(|value| retry_after(value, now));
            Outcome::Answered { status, retry_after }
        }
    }
}

/// The wait that a `Retry-After` asks for: seconds or a date, believed up to [`limits::RETRY_AFTER_MAX`].
/// `None` when it is neither.
pub(crate) fn retry_after(value: &HeaderValue, now: Timestamp) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits only, so the one way to fail is to be too large.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        // A date before 1970 is long past.
        let since_epoch = date.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        since_epoch.saturating_sub(Duration::from_millis(now.as_millis()))
    };
    Some(wait.min(limits::RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1994-11-06T08:49:37Z, the example date of the standard.
    const NOW: Timestamp = Timestamp::from_millis(784_111_777_000);

    fn check(value: &[u8], seconds: Option<u64>) {
        let value = HeaderValue::from_bytes(value).expect("a header value");
        assert_eq!(retry_after(&value, NOW), seconds.map(Duration::from_secs), "{value:?}");
    }

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        check(b"0", Some(0));
        check(b"120", Some(120));
        check(b" 7 ", Some(7));
        check(b"Sun, 06 Nov 1994 08:50:37 GMT", Some(60));
        check(b"Sunday, 06-Nov-94 08:50:37 GMT", Some(60));
        check(b"Sun Nov  6 08:50:37 1994", Some(60));
    }

    #[test]
    fn retry_after_is_bounded() {
        check(b"3601", Some(3600));
        check(b"315360000", Some(3600));
        check(b"99999999999999999999999999", Some(3600));
        check(b"Fri, 31 Dec 9999 23:59:59 GMT", Some(3600));
        check(b"Sun, 06 Nov 1994 08:49:36 GMT", Some(0));
        check(b"Thu, 01 Jan 1970 00:00:00 GMT", Some(0));
    }

    #[test]
    fn a_retry_after_that_makes_no_sense_is_ignored() {
        for value in
            ["", "-1", "1.5", "soon", "1e3", "+5", "0x10", "Sun, 06 Nov", "Sun, 99 Nov 1994 08:49:37 GMT"]
        {
            check(value.as_bytes(), None);
        }
        check(b"\xff\xfe", None);
    }

    #[test]
    fn only_the_documented_statuses_are_success() {
        for status in 100..600 {
            let status = StatusCode::from_u16(status).expect("a status");
            let outcome = outcome(status, &HeaderMap::new(), NOW);
            assert_eq!(outcome == Outcome::Accepted, (200..=204).contains(&status.as_u16()), "{status}");
        }
    }
}
