//! Building responses.

use bytes::Bytes;
use gridwire_core::api_error::ApiError;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, StatusCode};
use http_body_util::Full;

pub type Response = http::Response<Full<Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// A response without a body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// A JSON response; `body` is the JSON text.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A plain-text response.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The error body, with the headers that go with its status.
pub fn error(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, error.to_json());
    let headers = response.headers_mut();
    let (_, public) = error.code.public();
    if let Ok(value) = HeaderValue::from_str(public) {
        headers.insert(HeaderName::from_static("x-ms-error-code"), value);
    }
    if let Some(wait) = error.retry_after {
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        headers.insert(RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)));
    }
    if let Some(methods) = error.allow {
        headers.insert(ALLOW, HeaderValue::from_static(methods));
    }
    if status == StatusCode::UNAUTHORIZED {
        // Without `claims`: with them, clients fetch a new token and repeat.
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Lengthens the wait that a refusal asks for by up to a half, at least a second, by what `random` says: those who
/// were refused together must not come back together. Still whole seconds, for that is all that clients understand.
pub(crate) fn spread_retry(response: &mut Response, random: impl FnOnce() -> u64) {
    let Some(value) = response.headers_mut().get_mut(RETRY_AFTER) else { return };
    let Some(seconds) = value.to_str().ok().and_then(|text| text.parse::<u64>().ok()) else { return };
    *value = HeaderValue::from(seconds + random() % (seconds.div_ceil(2) + 1));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use gridwire_core::api_error::ErrorCode;

    use super::*;

    #[test]
    fn those_who_are_refused_together_are_told_different_waits() {
        let check = |wait: u64, expected: &[u64]| {
            let refusal =
                ApiError::new(ErrorCode::Overloaded, "busy").with_retry_after(Duration::from_secs(wait));
            let told: BTreeSet<u64> = (0..100)
                .map(|random| {
                    let mut response = error(&refusal);
                    spread_retry(&mut response, || random);
                    response.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap()
                })
                .collect();
            assert!(told.iter().eq(expected), "{wait}: {told:?}");
        };
        check(1, &[1, 2]);
        check(5, &[5, 6, 7, 8]);
        let mut other = text(StatusCode::OK, "a");
        spread_retry(&mut other, || 1);
        assert!(!other.headers().contains_key(RETRY_AFTER));
    }
}
