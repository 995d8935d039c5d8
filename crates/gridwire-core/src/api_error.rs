//! The one error body of every HTTP interface, and the closed set of codes in it.
//!
//! `{"error":{"code","message","details":[{"code","message"}],"innererror":{"code"}}}`: `code` is the public
//! name that the hosted service's clients know, `details` what a contract names (`InputJsonInvalid`), and
//! `innererror.code` is Gridwire's own, closed set. Each of those has a page in `docs/errors/`.

use std::time::Duration;

/// Gridwire's own error codes: closed, so that a user can look each one up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    InvalidJson,
    TooComplex,
    DuplicateAttribute,
    InvalidEvent,
    EmptyBatch,
    TooLarge,
    TooManyEvents,
    UnsupportedMediaType,
    UnsupportedEncoding,
    InvalidRequest,
    InvalidApiVersion,
    InvalidFilter,
    FilterTooComplex,
    InvalidResource,
    EndpointForbidden,
    EndpointValidationFailed,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Conflict,
    PreconditionFailed,
    QuotaExceeded,
    Overloaded,
    StorageFull,
    Unavailable,
    RequestTimeout,
    UriTooLong,
    HeadersTooLarge,
    Internal,
}

impl ErrorCode {
    /// Every code, for the test that each has its page in `docs/errors/`.
    pub const ALL: &'static [Self] = &[
        Self::InvalidJson,
        Self::TooComplex,
        Self::DuplicateAttribute,
        Self::InvalidEvent,
        Self::EmptyBatch,
        Self::TooLarge,
        Self::TooManyEvents,
        Self::UnsupportedMediaType,
        Self::UnsupportedEncoding,
        Self::InvalidRequest,
        Self::InvalidApiVersion,
        Self::InvalidFilter,
        Self::FilterTooComplex,
        Self::InvalidResource,
        Self::EndpointForbidden,
        Self::EndpointValidationFailed,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::PreconditionFailed,
        Self::QuotaExceeded,
        Self::Overloaded,
        Self::StorageFull,
        Self::Unavailable,
        Self::RequestTimeout,
        Self::UriTooLong,
        Self::HeadersTooLarge,
        Self::Internal,
    ];

    /// The text in `innererror.code`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::TooComplex => "too_complex",
            Self::DuplicateAttribute => "duplicate_attribute",
            Self::InvalidEvent => "invalid_event",
            Self::EmptyBatch => "empty_batch",
            Self::TooLarge => "too_large",
            Self::TooManyEvents => "too_many_events",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::InvalidRequest => "invalid_request",
            Self::InvalidApiVersion => "invalid_api_version",
            Self::InvalidFilter => "invalid_filter",
            Self::FilterTooComplex => "filter_too_complex",
            Self::InvalidResource => "invalid_resource",
            Self::EndpointForbidden => "endpoint_forbidden",
            Self::EndpointValidationFailed => "endpoint_validation_failed",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Conflict => "conflict",
            Self::PreconditionFailed => "precondition_failed",
            Self::QuotaExceeded => "quota_exceeded",
            Self::Overloaded => "overloaded",
            Self::StorageFull => "storage_full",
            Self::Unavailable => "unavailable",
            Self::RequestTimeout => "request_timeout",
            Self::UriTooLong => "uri_too_long",
            Self::HeadersTooLarge => "headers_too_large",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status and the public `error.code` that go with it.
    pub fn public(self) -> (u16, &'static str) {
        match self {
            Self::InvalidJson
            | Self::TooComplex
            | Self::DuplicateAttribute
            | Self::InvalidEvent
            | Self::EmptyBatch
            | Self::InvalidRequest => (400, "BadRequest"),
            Self::InvalidApiVersion => (400, "InvalidApiVersionParameter"),
            Self::InvalidFilter
            | Self::FilterTooComplex
            | Self::InvalidResource
            | Self::EndpointForbidden => (400, "InvalidRequest"),
            Self::EndpointValidationFailed => (400, "Url validation"),
            Self::Unauthorized => (401, "Unauthorized"),
            Self::Forbidden => (403, "Forbidden"),
            Self::NotFound => (404, "ResourceNotFound"),
            Self::MethodNotAllowed => (405, "MethodNotAllowed"),
            Self::RequestTimeout => (408, "RequestTimeout"),
            Self::Conflict => (409, "Conflict"),
            Self::PreconditionFailed => (412, "PreconditionFailed"),
            Self::TooLarge | Self::TooManyEvents => (413, "RequestEntityTooLarge"),
            Self::UriTooLong => (414, "UriTooLong"),
            Self::UnsupportedMediaType | Self::UnsupportedEncoding => (415, "UnsupportedMediaType"),
            Self::QuotaExceeded => (429, "TooManyRequests"),
            Self::HeadersTooLarge => (431, "RequestHeaderFieldsTooLarge"),
            Self::Internal => (500, "InternalServerError"),
            Self::Overloaded | Self::StorageFull | Self::Unavailable => (503, "ServiceUnavailable"),
        }
    }
}

/// A refusal, ready to be answered. The message is safe to show: no secret, token or internal address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: ErrorCode,
    pub message: String,
    /// What the contract names beside the public code, e.g. `InputJsonInvalid` on a publish.
    pub detail: Option<&'static str>,
    /// Sent as whole seconds, rounded up. Only with 429 and 503: clients retry whatever carries it.
    pub retry_after: Option<Duration>,
    /// The methods of a 405, for its `Allow` header.
    pub allow: Option<&'static str>,
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None, retry_after: None, allow: None }
    }

    #[must_use]
    pub fn with_detail(mut self, detail: &'static str) -> Self {
        self.detail = Some(detail);
        self
    }

    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    #[must_use]
    pub fn with_allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    pub fn status(&self) -> u16 {
        self.code.public().0
    }

    /// The JSON body.
    pub fn to_json(&self) -> Vec<u8> {
        let (_, public) = self.code.public();
        let mut error = serde_json::json!({
            "code": public,
            "message": self.message,
            "innererror": { "code": self.code.as_str() },
        });
        if let Some(detail) = self.detail {
            error["details"] = serde_json::json!([{ "code": detail, "message": self.message }]);
        }
        serde_json::json!({ "error": error }).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_of_the_interfaces_know_every_code_and_status() {
        for (name, text) in [
            ("admin", include_str!("../../../openapi/admin.json")),
            ("data-plane", include_str!("../../../openapi/data-plane.json")),
            ("development", include_str!("../../../openapi/development.json")),
            ("management", include_str!("../../../openapi/management.json")),
        ] {
            let document: serde_json::Value = serde_json::from_str(text).unwrap();
            let codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
            assert_eq!(document.pointer("/components/schemas/ErrorCode/enum"), Some(&codes.into()), "{name}");
            let statuses: Vec<String> =
                ErrorCode::ALL.iter().map(|code| code.public().0.to_string()).collect();
            for operation in
                document["paths"].as_object().unwrap().values().flat_map(|one| one.as_object().unwrap())
            {
                for status in operation.1["responses"].as_object().unwrap().keys() {
                    assert!(status.starts_with('2') || statuses.contains(status), "{name}: {status}");
                }
            }
        }
    }
}
