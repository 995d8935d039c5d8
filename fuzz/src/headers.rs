//! Headers of webhooks' answers: how long to wait, and at what rate.

use std::time::Duration;

use gridwire_broker::fuzzing::retry_after;
use gridwire_core::limits::RETRY_AFTER_MAX;
use gridwire_core::pace::Pace;
use gridwire_core::time::Timestamp;
use http::HeaderValue;

pub fn headers(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    for now in [0, 784_111_777_000, 1_790_000_000_000, u64::MAX] {
        let wait = retry_after(&value, Timestamp::from_millis(now));
        assert!(wait.unwrap_or(Duration::ZERO) <= RETRY_AFTER_MAX);
    }
    let plain = value.to_str().map(str::trim).unwrap_or_default();
    let digits = !plain.is_empty() && plain.bytes().all(|byte| byte.is_ascii_digit());
    match Pace::parse(value.as_bytes()) {
        None => assert!(!digits && plain != "*"),
        Some(Pace::Free) => assert_eq!(plain, "*"),
        Some(Pace::Paused) => assert!(digits && plain.bytes().all(|byte| byte == b'0')),
        Some(Pace::PerMinute(_)) => assert!(digits && plain.bytes().any(|byte| byte != b'0')),
    }
}
