//! Headers of webhooks' answers: how long to wait, and at what rate.

use std::time::Duration;

use gridwire_broker::fuzzing::{is_zero_rate, retry_after};
use gridwire_core::limits::RETRY_AFTER_MAX;
use gridwire_core::time::Timestamp;
use http::HeaderValue;

pub fn headers(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    for now in [0, 784_111_777_000, 1_790_000_000_000, u64::MAX] {
        let wait = retry_after(&value, Timestamp::from_millis(now));
        assert!(wait.unwrap_or(Duration::ZERO) <= RETRY_AFTER_MAX);
    }
    if is_zero_rate(&value) {
        assert_eq!(
            value.to_str().ok().and_then(|text| text.trim().trim_start_matches('0').chars().next()),
            None
        );
    }
}
