//! The ids by which a client's requests and the lines of the audit log are matched.

use gridwire_core::api_error::ApiError;
use gridwire_http::{Asked, Peer, REQUEST_ID};
use gridwire_outside::Rng;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::limits::REQUEST_ID_BYTES_MAX;

const CORRELATION_ID: HeaderName = HeaderName::from_static("x-ms-correlation-request-id");
const CLIENT_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");

/// The ids by which a request can be found again.
#[derive(Clone, Debug)]
pub(crate) struct RequestIds {
    own: String,
    correlation: Option<HeaderValue>,
    client: Option<HeaderValue>,
}

impl RequestIds {
    pub(crate) fn of(headers: &HeaderMap, rng: &dyn Rng) -> Self {
        let sent = |name| {
            let value: Option<&HeaderValue> = headers.get(name);
            value.filter(|value| (1..=REQUEST_ID_BYTES_MAX).contains(&value.len())).cloned()
        };
        Self { own: rng.uuid(), correlation: sent(CORRELATION_ID), client: sent(CLIENT_ID) }
    }

    pub(crate) fn stamp(self, headers: &mut HeaderMap) {
        let Ok(own) = HeaderValue::from_str(&self.own) else { return };
        headers.insert(CORRELATION_ID, self.correlation.unwrap_or_else(|| own.clone()));
        headers.insert(REQUEST_ID, own);
        if let Some(client) = self.client {
            headers.insert(CLIENT_ID, client);
        }
    }

    /// Writes to the audit log who did what to which resource, and how it ended.
    pub(crate) fn record(
        &self,
        peer: Peer,
        operation: &str,
        resource: &str,
        outcome: Result<StatusCode, &ApiError>,
    ) {
        let request_id = &self.own;
        gridwire_http::audit(Asked { peer, operation, resource, request_id }, outcome);
    }
}
