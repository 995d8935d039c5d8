//! The audit log, whichever plane was asked: one line for each change and each look at a secret, on the tracing target
//! `audit`. Never a secret, never a body.

use gridwire_core::api_error::ApiError;
use http::{HeaderName, StatusCode};

use crate::Peer;

/// Names a request in its answer and in the audit log.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");

/// Who asked for what.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub peer: Peer,
    pub operation: &'a str,
    pub resource: &'a str,
    /// As it is in the answer's [`REQUEST_ID`].
    pub request_id: &'a str,
}

/// Writes down what was asked for, and how it ended.
pub fn audit(asked: Asked<'_>, outcome: Result<StatusCode, &ApiError>) {
    let Asked { peer, operation, resource, request_id } = asked;
    let (status, code) = told(outcome);
    tracing::info!(
        target: "audit",
        peer = %peer.address,
        tls = peer.tls,
        operation,
        resource,
        status,
        code,
        request_id,
        "management"
    );
}

/// The same for what the server does by itself.
pub fn audit_own(operation: &str, resource: &str, outcome: Result<StatusCode, &ApiError>) {
    let (status, code) = told(outcome);
    tracing::info!(target: "audit", peer = "gridwire", operation, resource, status, code, "management");
}

fn told(outcome: Result<StatusCode, &ApiError>) -> (u16, &'static str) {
    match outcome {
        Ok(status) => (status.as_u16(), ""),
        Err(refusal) => (refusal.status(), refusal.code.as_str()),
    }
}
