//! What a validation URL answers: whoever runs an endpoint opens it, or the endpoint calls it back.
//!
//! It needs no management token: the token in it was sent to the endpoint only, and all it can do is say yes for
//! that endpoint. `GET` and `POST` both consent, as `CloudEvents` abuse protection has it, and either may carry
//! `WebHook-Allowed-Rate`.

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::pace::Pace;
use gridwire_http::{Peer, Request, Response, error, text};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use subtle::ConstantTimeEq;

use crate::address::{Address, Form};
use crate::audit::RequestIds;
use crate::change::{Change, Operation};
use crate::consent::{Confirmation, TokenDigest, VALIDATION_ROOT, token_digest};
use crate::control::Control;
use crate::plan::Preconditions;
use crate::request::Target;

const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");
const DONE: &str = "The endpoint is validated: its event subscription delivers to it now.\n";

impl Control {
    /// Whether a path is that of a validation URL.
    pub fn is_validation_path(path: &str) -> bool {
        path.strip_prefix(VALIDATION_ROOT).is_some_and(|rest| rest.ends_with("/validate"))
    }

    /// Answers a request to a validation URL.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: a consent that was understood takes effect.
    pub async fn validate_by_hand(&self, request: Request, peer: Peer) -> Response {
        let ids = RequestIds::of(request.headers(), &*self.shared().rng);
        let mut response = match self.confirm(&request, peer, &ids).await {
            Ok(()) => text(StatusCode::OK, DONE),
            Err(refusal) => error(&refusal),
        };
        ids.stamp(response.headers_mut());
        response
    }

    async fn confirm(&self, request: &Request, peer: Peer, ids: &RequestIds) -> Result<(), ApiError> {
        // A look at the head alone is what link checkers do; it consents to nothing.
        if request.method() != Method::GET && request.method() != Method::POST {
            let message = "A validation URL is opened with GET or POST.";
            return Err(ApiError::new(ErrorCode::MethodNotAllowed, message).with_allow("GET, POST"));
        }
        let (address, digest) = parse(request.uri().query().unwrap_or_default()).ok_or_else(not_valid)?;
        let confirmation = Confirmation { allowed: allowed(request.headers()) };
        if self.shared().invitations.accept(&digest, confirmation) {
            // Its change is still under way, and will see it.
            ids.record(peer, CONFIRM, &address.id(Form::Nested), Ok(StatusCode::OK));
            return Ok(());
        }
        let standing =
            self.shared().state().resources.get(&address).map(|entry| entry.document.consent.clone());
        let standing =
            standing.filter(|standing| standing.token.is_some_and(|known| bool::from(known.ct_eq(&digest))));
        match standing {
            None => return Err(not_valid()),
            // Opened twice, by a person and by what looked at the message before.
            Some(standing) if standing.consented() => return Ok(()),
            Some(_) => {}
        }
        let operation = Operation::Confirm(digest, confirmation);
        let change = Change { address, operation, preconditions: Preconditions::default() };
        self.change(change, StatusCode::OK, peer, ids).await.map(drop)
    }
}

/// In the audit log.
pub(crate) const CONFIRM: &str = "validateByHand";

/// The subscription and the token's digest in a validation URL's query.
fn parse(query: &str) -> Option<(Address, TokenDigest)> {
    let find = |wanted: &str| {
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.find(|(name, _)| name == wanted).map(|(_, value)| value)
    };
    let Ok(Target::Resource { address, .. }) = Target::parse(&find("id")?) else { return None };
    Some((address, token_digest(&find("token")?)))
}

/// The stricter of what they say, if they say anything.
fn allowed(headers: &HeaderMap) -> Option<Pace> {
    headers.get_all(ALLOWED_RATE).iter().filter_map(|value| Pace::parse(value.as_bytes())).reduce(Pace::and)
}

/// One message for every reason, so that it tells nothing.
pub(crate) fn not_valid() -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        "The validation URL is not valid, or not any more: only the one that was sent last counts.",
    )
}

pub(crate) fn too_late() -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        "The validation URL is not valid any more: its time is over. The owner of the event subscription can have a new one sent (`gridwire subscription revalidate`).",
    )
}
