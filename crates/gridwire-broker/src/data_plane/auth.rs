//! Who may publish and receive. One answer for every wrong credential, so that it tells nothing.
//!
//! Source: `publish` contract, section 7. When a request carries several credentials, the first of
//! `aeg-sas-key` (header), `aeg-sas-token`, `Authorization`, `aeg-sas-key` (query) is the one that counts.

use std::sync::Arc;

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::routing::{NamespaceRoute, TopicRoute};
use gridwire_core::sas;
use gridwire_core::time::Timestamp;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::address;

fn unauthorized() -> ApiError {
    ApiError::new(
        ErrorCode::Unauthorized,
        "Request must contain one of the following authorization signature: aeg-sas-token, aeg-sas-key, \
         or a valid Authorization header, and it must be valid for this resource.",
    )
}

fn header<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    // A header that is no text is a credential nobody has.
    parts.headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// The value of an `Authorization` header of the given scheme.
fn authorization<'a>(parts: &'a Parts, scheme: &str) -> Option<&'a str> {
    let (found, value) = header(parts, AUTHORIZATION.as_str())?.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| value.trim())
}

pub(super) fn shared_access_key(parts: &Parts) -> Option<&str> {
    authorization(parts, "SharedAccessKey").or_else(|| header(parts, "aeg-sas-key"))
}

/// Whether the request may publish to a custom topic.
pub(super) fn topic(topic: &TopicRoute, parts: &Parts, now: Timestamp) -> Result<(), ApiError> {
    let credentials = &topic.credentials;
    let by_key = |key: &str| if credentials.accept_key(key) { Ok(()) } else { Err(unauthorized()) };
    if let Some(key) = header(parts, "aeg-sas-key") {
        return by_key(key);
    }
    let token = header(parts, "aeg-sas-token").or_else(|| authorization(parts, "SharedAccessSignature"));
    if let Some(token) = token {
        if !credentials.local_auth {
            return Err(unauthorized());
        }
        let host = parts
            .uri
            .authority()
            .map(http::uri::Authority::as_str)
            .or_else(|| header(parts, http::header::HOST.as_str()))
            .unwrap_or_default();
        return sas::verify(token, &credentials.keys, host, parts.uri.path(), now).map_err(
            |error| match error {
                // The service says so, and it tells nothing about keys.
                sas::SasError::Malformed => ApiError::new(
                    ErrorCode::InvalidRequest,
                    "Invalid key in aeg-sas-token. Valid format \
                 :r=UrlEncodedResource&e=UrlEncodedUtcExpiration&s=UrlEncodedSignature.",
                ),
                _ => unauthorized(),
            },
        );
    }
    if let Some(key) = authorization(parts, "SharedAccessKey") {
        return by_key(key);
    }
    match address::query(parts, "aeg-sas-key").as_slice() {
        // A `+` of the key that was not percent-encoded arrives as a space.
        [key] => by_key(&key.replace(' ', "+")),
        _ => Err(unauthorized()),
    }
}

/// Whether the request may use a topic of a namespace: by a key of either. Answers 404 for an unknown topic
/// only to those who may use the namespace.
pub(super) fn namespace(
    namespace: &NamespaceRoute,
    topic: &str,
    parts: &Parts,
) -> Result<Arc<TopicRoute>, ApiError> {
    if !address::query(parts, "aeg-sas-key").is_empty() {
        return Err(ApiError::new(ErrorCode::InvalidRequest, "A key in the query is not accepted here."));
    }
    let key = shared_access_key(parts).ok_or_else(unauthorized)?;
    let found = namespace.topics.get(&topic.to_ascii_lowercase());
    let by_namespace = namespace.credentials.accept_key(key);
    let by_topic = found.is_some_and(|topic| topic.credentials.accept_key(key));
    match found {
        Some(topic) if by_namespace || by_topic => Ok(Arc::clone(topic)),
        None if by_namespace => {
            let shown: String = topic.chars().take(64).collect();
            Err(ApiError::new(ErrorCode::NotFound, format!("The topic '{shown}' was not found.")))
        }
        _ => Err(unauthorized()),
    }
}
