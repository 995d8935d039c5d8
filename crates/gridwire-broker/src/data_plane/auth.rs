//! Who may publish and receive. One answer for every wrong credential, so that it tells nothing.
//!
//! Source: `publish` contract, section 7. When a request carries several credentials, the first of
//! `aeg-sas-key` (header), `aeg-sas-token`, `Authorization`, `aeg-sas-key` (query) is the one that counts, for
//! custom topics and namespaces alike. Tokens end by the wall clock (`wall`), as the clients that made them have
//! it; [`gridwire_outside::Clock::wall`] says why.

use std::borrow::Cow;
use std::sync::Arc;

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::routing::{Credentials, NamespaceRoute, TopicRoute};
use gridwire_core::sas;
use gridwire_core::time::Timestamp;
use http::HeaderName;
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;

use super::address;

fn unauthorized() -> ApiError {
    ApiError::new(
        ErrorCode::Unauthorized,
        "Request must contain one of the following authorization signature: aeg-sas-token, aeg-sas-key, \
         or a valid Authorization header, and it must be valid for this resource.",
    )
}

static KEY: HeaderName = HeaderName::from_static("aeg-sas-key");
static TOKEN: HeaderName = HeaderName::from_static("aeg-sas-token");

fn header<'a>(parts: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    // A header that is no text is a credential nobody has.
    parts.headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// The value of an `Authorization` header of the given scheme.
fn authorization<'a>(parts: &'a Parts, scheme: &str) -> Option<&'a str> {
    let (found, value) = header(parts, &AUTHORIZATION)?.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| value.trim())
}

/// The credential of a request that counts.
pub(super) enum Credential<'a> {
    Key(Cow<'a, str>),
    /// A shared access signature.
    Token(&'a str),
}

impl<'a> Credential<'a> {
    /// The first there is; what follows it is not looked at, so that a request cannot try several.
    pub(super) fn of(parts: &'a Parts) -> Option<Self> {
        if let Some(key) = header(parts, &KEY) {
            return Some(Self::Key(key.into()));
        }
        let token = header(parts, &TOKEN).or_else(|| authorization(parts, "SharedAccessSignature"));
        if let Some(token) = token {
            return Some(Self::Token(token));
        }
        if let Some(key) = authorization(parts, "SharedAccessKey") {
            return Some(Self::Key(key.into()));
        }
        match address::query(parts, "aeg-sas-key").as_slice() {
            // A `+` of the key that was not percent-encoded arrives as a space.
            [key] => Some(Self::Key(key.replace(' ', "+").into())),
            _ => None,
        }
    }

    /// Whether it opens what `credentials` guard, at the address that the request was sent to.
    fn judge(&self, credentials: &Credentials, parts: &Parts, wall: Timestamp) -> Result<(), ApiError> {
        match self {
            Self::Key(key) if credentials.accept_key(key) => Ok(()),
            Self::Key(_) => Err(unauthorized()),
            Self::Token(_) if !credentials.local_auth => Err(unauthorized()),
            Self::Token(token) => {
                let host = parts
                    .uri
                    .authority()
                    .map(http::uri::Authority::as_str)
                    .or_else(|| header(parts, &HOST))
                    .unwrap_or_default();
                sas::verify(token, &credentials.keys, host, parts.uri.path(), wall).map_err(|error| {
                    match error {
                        // The service says so, and it tells nothing about keys.
                        sas::SasError::Malformed => ApiError::new(
                            ErrorCode::InvalidRequest,
                            "Invalid key in aeg-sas-token. Valid format \
                         :r=UrlEncodedResource&e=UrlEncodedUtcExpiration&s=UrlEncodedSignature.",
                        ),
                        _ => unauthorized(),
                    }
                })
            }
        }
    }

    /// Whether it is of this namespace or, a token, of its topic called `topic`; a key may be any topic's.
    pub(super) fn belongs_to(
        &self,
        namespace: &NamespaceRoute,
        topic: &str,
        parts: &Parts,
        wall: Timestamp,
    ) -> bool {
        let opens = |credentials: &Credentials| self.judge(credentials, parts, wall).is_ok();
        opens(&namespace.credentials)
            || match self {
                Self::Key(_) => namespace.topics.values().any(|topic| opens(&topic.credentials)),
                // A signature costs more to check than a key to compare, so only the topic in question.
                Self::Token(_) => namespace
                    .topics
                    .get(&topic.to_ascii_lowercase())
                    .is_some_and(|topic| opens(&topic.credentials)),
            }
    }
}

/// Whether the request may publish to a custom topic.
pub(super) fn topic(
    topic: &TopicRoute,
    credential: Option<&Credential<'_>>,
    parts: &Parts,
    wall: Timestamp,
) -> Result<(), ApiError> {
    credential.ok_or_else(unauthorized)?.judge(&topic.credentials, parts, wall)
}

/// Whether the request may use a topic of a namespace: by a key of either, or a token made with one. Answers
/// 404 for an unknown topic only to those who may use the namespace.
pub(super) fn namespace(
    namespace: &NamespaceRoute,
    topic: &str,
    credential: Option<&Credential<'_>>,
    parts: &Parts,
    wall: Timestamp,
) -> Result<Arc<TopicRoute>, ApiError> {
    if !address::query(parts, "aeg-sas-key").is_empty() {
        return Err(ApiError::new(ErrorCode::InvalidRequest, "A key in the query is not accepted here."));
    }
    let credential = credential.ok_or_else(unauthorized)?;
    let found = namespace.topics.get(&topic.to_ascii_lowercase());
    // Both are judged, so that the time taken does not tell which was right.
    let by_namespace = credential.judge(&namespace.credentials, parts, wall);
    let by_topic = found.is_some_and(|topic| credential.judge(&topic.credentials, parts, wall).is_ok());
    match (found, by_namespace) {
        (Some(topic), Ok(())) => Ok(Arc::clone(topic)),
        (Some(topic), Err(_)) if by_topic => Ok(Arc::clone(topic)),
        (None, Ok(())) => {
            let shown: String = topic.chars().take(64).collect();
            Err(ApiError::new(ErrorCode::NotFound, format!("The topic '{shown}' was not found.")))
        }
        (_, Err(refusal)) => Err(refusal),
    }
}

#[cfg(test)]
mod tests;
