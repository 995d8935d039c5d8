//! Whether a subscription's endpoint has consented to be posted to, and the way to consent by hand.
//!
//! The life of one consent: a change that needs it makes an [`Invitation`], a URL with a token that nobody can
//! guess, and the endpoint is asked and told that URL. If it agrees, that is all. If it says neither yes nor no,
//! the subscription is kept with a [`Standing`] that awaits a consent by hand, and nothing is delivered. Opening
//! the URL in time ends that; when the time has passed, the standing is a failed one by itself, without anybody
//! writing so. Of the token only a digest is kept, with the resource, so all of this outlives a restart.
//!
//! The URL may be opened before the subscription is even stored: a program that is told of it need not wait for
//! its own answer to arrive. So invitations that are out are known by their digest until their change has ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gridwire_core::pace::{Pace, PaceSource, Pacing};
use gridwire_core::secret::Secret;
use gridwire_core::time::Timestamp;
use gridwire_outside::Rng;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ring::digest::{SHA256, digest};

use crate::address::{Address, Form};
use crate::options::PublicAddresses;

/// How long a validation URL can be used (`push-delivery` contract section 2.1; older pages say five minutes).
pub(crate) const BY_HAND_WITHIN: Duration = Duration::from_secs(600);
/// What validation URLs begin with, below the public address.
pub(crate) const VALIDATION_ROOT: &str = "/eventsubscriptions/";
const TOKEN_BYTES: usize = 32;

/// SHA-256 of a token: what is kept of it, so that nobody who reads the store can consent.
pub(crate) type TokenDigest = [u8; 32];

pub(crate) fn token_digest(token: &str) -> TokenDigest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    bytes
}

/// How a subscription stands with its endpoint. The default is that of one that needs no consent, or was given it
/// before there were others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Until when a consent by hand is awaited; `None` once there is consent.
    pub awaited_until: Option<Timestamp>,
    /// What the endpoint allows, as far as it said.
    pub allowed: Pace,
    /// Of the validation URL that is, or was, the way to consent by hand.
    pub token: Option<TokenDigest>,
}

impl Standing {
    pub(crate) fn consented(&self) -> bool {
        self.awaited_until.is_none()
    }

    /// How fast the endpoint lets itself be posted to.
    pub(crate) fn pacing(&self) -> Pacing {
        if self.consented() {
            Pacing::by(self.allowed, PaceSource::Endpoint)
        } else {
            Pacing::by(Pace::Paused, PaceSource::Consent)
        }
    }

    /// After somebody opened the validation URL.
    pub(crate) fn confirmed(&self, confirmation: Confirmation) -> Self {
        let allowed = confirmation.allowed.unwrap_or(self.allowed);
        Self { awaited_until: None, allowed, token: self.token }
    }

    /// As ARM names it.
    pub(crate) fn provisioning_state(&self, now: Timestamp) -> &'static str {
        match self.awaited_until {
            None => "Succeeded",
            Some(until) if now < until => "AwaitingManualAction",
            Some(_) => "Failed",
        }
    }
}

/// A way to consent by hand that an endpoint is being told of. Known to [`Invitations`] until it is closed.
#[derive(Debug)]
pub(crate) struct Invitation {
    pub url: Secret,
    pub digest: TokenDigest,
    among: Arc<Invitations>,
}

/// Those that are out, and what came of them so far: at most one for each change under way.
#[derive(Debug, Default)]
pub(crate) struct Invitations(Mutex<HashMap<TokenDigest, Option<Confirmation>>>);

/// Somebody opened the validation URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Confirmation {
    /// What they allow, if they said so.
    pub allowed: Option<Pace>,
}

impl Invitation {
    pub(crate) fn new(
        address: &Address,
        among: &Arc<Invitations>,
        public: &PublicAddresses,
        rng: &dyn Rng,
        now: Timestamp,
    ) -> Self {
        let mut bytes = [0; TOKEN_BYTES];
        rng.fill(&mut bytes);
        let token = URL_SAFE_NO_PAD.encode(bytes);
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let url = format!(
            "{}{VALIDATION_ROOT}{}/validate?id={}&t={}&apiVersion=2025-02-15&token={token}",
            public.preferred().trim_end_matches('/'),
            encoded(address.name()),
            encoded(&address.id(Form::Nested)),
            encoded(&now.to_string()),
        );
        let digest = token_digest(&token);
        among.all().insert(digest, None);
        Self { url: Secret::new(url), digest, among: Arc::clone(among) }
    }

    /// What came of it so far.
    pub(crate) fn confirmation(&self) -> Option<Confirmation> {
        self.among.all().get(&self.digest).copied().flatten()
    }
}

impl Drop for Invitation {
    fn drop(&mut self) {
        self.among.all().remove(&self.digest);
    }
}

impl Invitations {
    /// Accepts the invitation, if it is out.
    pub(crate) fn accept(&self, digest: &TokenDigest, confirmation: Confirmation) -> bool {
        match self.all().get_mut(digest) {
            Some(known) => {
                *known = Some(confirmation);
                true
            }
            None => false,
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<TokenDigest, Option<Confirmation>>> {
        self.0.lock().expect("no panic while the invitations are held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consent_that_is_awaited_too_long_has_failed() {
        let until = Timestamp::from_millis(600_000);
        let standing = Standing { awaited_until: Some(until), allowed: Pace::per_minute(6), token: None };
        let check = |now: u64, state: &str| {
            assert_eq!(standing.provisioning_state(Timestamp::from_millis(now)), state, "{now}");
        };
        check(0, "AwaitingManualAction");
        check(599_999, "AwaitingManualAction");
        check(600_000, "Failed");
        assert_eq!(standing.pacing(), Pacing::by(Pace::Paused, PaceSource::Consent));
        let given = Standing { awaited_until: None, ..standing.clone() };
        assert_eq!(given.provisioning_state(until), "Succeeded");
        assert_eq!(given.pacing(), Pacing::by(Pace::per_minute(6), PaceSource::Endpoint));
        assert_eq!(Standing::default().pacing(), Pacing::FREE);
    }
}
