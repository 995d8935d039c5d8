//! The audit log - one event for each change and each look at a secret, on the tracing target `audit` - and
//! the ids by which its lines and a client's requests are matched.

use gridwire_core::api_error::ApiError;
use gridwire_http::Peer;
use gridwire_outside::Rng;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::limits::REQUEST_ID_BYTES_MAX;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
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

    /// Writes to the audit log who did what to which resource, and how it ended. Never a secret, never a body.
    pub(crate) fn record(
        &self,
        peer: Peer,
        operation: &str,
        resource: &str,
        outcome: Result<StatusCode, &ApiError>,
    ) {
        let (status, code) = match outcome {
            Ok(status) => (status.as_u16(), ""),
            Err(refusal) => (refusal.status(), refusal.code.as_str()),
        };
        tracing::info!(
            target: "audit",
            peer = %peer.address,
            tls = peer.tls,
            operation,
            resource,
            status,
            code,
            request_id = self.own,
            "management"
        );
    }
}

/// The same for what the control plane does by itself.
pub(crate) fn record_own(operation: &str, resource: &str, outcome: Result<&(), &ApiError>) {
    let (status, code) = match outcome {
        Ok(()) => (StatusCode::OK.as_u16(), ""),
        Err(refusal) => (refusal.status(), refusal.code.as_str()),
    };
    tracing::info!(target: "audit", peer = "gridwire", operation, resource, status, code, "management");
}
