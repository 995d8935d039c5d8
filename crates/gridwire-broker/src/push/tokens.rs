//! Bearer tokens for protected webhooks (`push-delivery` contract, section 8).
//!
//! A token is got from the configured issuer by the client credentials grant, over a connection that the address
//! judge has passed like any other, and kept until it is about to expire. Whoever needs one while it is being
//! fetched waits for that fetch, so an issuer meets one request however many attempts there are; and one that fails
//! is left alone for a while ([`FAILURE_HOLDS`]), in which attempts fail at once and are retried by their policy.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gridwire_core::limits;
use gridwire_core::retry::Outcome;
use gridwire_core::routing::TokenAudience;
use gridwire_core::time::Timestamp;
use gridwire_outside::Clock;
use http::{HeaderValue, StatusCode};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::client::{BodyEnd, Client, Deadline};
use super::endpoint::Endpoint;
use super::tls::Terms;
use super::{PushOptions, TokenIssuer, request};

/// How long an issuer has for its answer, all in all. Whoever waits for it keeps a connection of an endpoint from
/// deliveries that need no token.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a fetch that failed stands for the next ones: longer than one takes to fail.
const FAILURE_HOLDS: Duration = Duration::from_secs(10);
/// How long a token is used of which the issuer does not say how long it is good.
const UNSAID_LIFE: Duration = Duration::from_secs(300);
/// A token is renewed this long before its end, or a fifth of its life before, whichever is shorter.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// A token that is younger than this is not fetched again because an endpoint refuses it: an endpoint that refuses
/// every token must not become a load on the issuer.
const FRESH: Duration = Duration::from_secs(60);
/// Audiences remembered; beyond it those nobody uses are forgotten. Far above the applications of one company.
const AUDIENCES_MAX: usize = 10_000;

/// What is known of one audience. In broker time, so that the virtual clock moves tokens on too.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Token {
        bearer: HeaderValue,
        fetched: Timestamp,
        until: Timestamp,
    },
    Failed {
        until: Timestamp,
    },
}

type Slot = Arc<AsyncMutex<Held>>;

/// Gets tokens, and keeps them.
#[derive(Debug)]
pub(crate) struct Tokens {
    client: Arc<Client>,
    clock: Arc<dyn Clock>,
    options: Arc<PushOptions>,
    slots: Mutex<HashMap<TokenAudience, Slot>>,
}

impl Tokens {
    pub(crate) fn new(client: Arc<Client>, clock: Arc<dyn Clock>, options: Arc<PushOptions>) -> Self {
        Self { client, clock, options, slots: Mutex::default() }
    }

    /// The value of `Authorization` for an audience.
    pub(crate) async fn bearer(&self, audience: &TokenAudience) -> Result<HeaderValue, Outcome> {
        let deadline = &mut Deadline::after(&*self.clock, PATIENCE);
        let slot = self.slot(audience);
        let mut held = deadline.race(slot.lock()).await.ok_or(Outcome::NoToken)?;
        let now = self.clock.now();
        match &*held {
            Held::Token { bearer, until, .. } if now < *until => return Ok(bearer.clone()),
            Held::Failed { until } if now < *until => return Err(Outcome::NoToken),
            _ => {}
        }
        match self.fetch(audience, deadline).await {
            Ok((bearer, life)) => {
                let until = now + life.saturating_sub(RENEW_BEFORE.min(life / 5));
                *held = Held::Token { bearer: bearer.clone(), fetched: now, until };
                Ok(bearer)
            }
            Err(reason) => {
                tracing::warn!(
                    tenant = audience.tenant,
                    application = audience.application,
                    reason,
                    "failed to get a bearer token for a webhook"
                );
                *held = Held::Failed { until: self.clock.now() + FAILURE_HOLDS };
                Err(Outcome::NoToken)
            }
        }
    }

    /// An endpoint refused this token. `true` when it makes sense to get another.
    pub(crate) async fn refuse(&self, audience: &TokenAudience, refused: &HeaderValue) -> bool {
        let deadline = &mut Deadline::after(&*self.clock, PATIENCE);
        let slot = self.slot(audience);
        let Some(mut held) = deadline.race(slot.lock()).await else { return false };
        match &*held {
            Held::Token { bearer, fetched, .. } if bearer == refused => {
                let is_old = FRESH <= self.clock.now().since(*fetched);
                if is_old {
                    *held = Held::Nothing;
                }
                is_old
            }
            // Somebody else has found out already.
            Held::Token { .. } | Held::Nothing => true,
            Held::Failed { .. } => false,
        }
    }

    fn slot(&self, audience: &TokenAudience) -> Slot {
        let mut slots = self.slots.lock().expect("no panic while the audiences are held");
        if let Some(slot) = slots.get(audience) {
            return Arc::clone(slot);
        }
        if AUDIENCES_MAX <= slots.len() {
            slots.retain(|_, slot| 1 < Arc::strong_count(slot));
        }
        Arc::clone(slots.entry(audience.clone()).or_default())
    }

    /// Asks the issuer; the token's header and how long it is good for, or why there is none. Never the answer's
    /// text, which may hold anything.
    async fn fetch(
        &self,
        audience: &TokenAudience,
        deadline: &mut Deadline<'_>,
    ) -> Result<(HeaderValue, Duration), String> {
        let Some(issuer) = &self.options.token_issuer else {
            return Err("no issuer is configured (delivery.token_endpoint)".to_owned());
        };
        let url = issuer.endpoint.replace("{tenant}", &audience.tenant);
        let endpoint = Endpoint::parse(&url, self.options.allow_http).map_err(|error| error.to_string())?;
        let mut request = request::post(
            &endpoint.key.host_header(),
            &endpoint.path_and_query,
            "application/x-www-form-urlencoded",
            form(issuer, audience).into(),
        );
        request::add_header(request.headers_mut(), "accept", "application/json");
        let failed = |outcome: Outcome| format!("the issuer was not reached: {}", outcome.as_str());
        let lookups = Semaphore::new(1);
        let mut connection = self
            .client
            .connect(&endpoint.key, &Terms::default(), &lookups, deadline)
            .await
            .map_err(failed)?;
        let sent =
            deadline.race(connection.send(request)).await.ok_or("the issuer did not answer in time")?;
        let (head, body) = sent.map_err(|_| "the issuer closed the connection")?.into_parts();
        if head.status != StatusCode::OK {
            return Err(format!("the issuer answered with status {}", head.status.as_u16()));
        }
        let reading = connection.read(body, limits::RESPONSE_BYTES_MAX);
        let body = deadline.race(reading).await.ok_or("the issuer did not answer in time")?;
        if body.ended != BodyEnd::Complete {
            return Err("the issuer's answer was cut off or too long".to_owned());
        }
        read_answer(&body.bytes).ok_or_else(|| "the issuer's answer holds no token".to_owned())
    }
}

fn form(issuer: &TokenIssuer, audience: &TokenAudience) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "client_credentials")
        .append_pair("client_id", &issuer.client_id)
        .append_pair("client_secret", issuer.client_secret.reveal())
        .append_pair("scope", &format!("{}/.default", audience.application.trim_end_matches('/')))
        .finish()
}

/// Reads `access_token` and `expires_in`, a number or, as some issuers write it, a text of one.
fn read_answer(body: &[u8]) -> Option<(HeaderValue, Duration)> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let token = answer.get("access_token")?.as_str().filter(|token| !token.is_empty())?;
    let mut bearer = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    bearer.set_sensitive(true);
    let seconds = match answer.get("expires_in") {
        None => None,
        Some(value) => Some(value.as_u64().or_else(|| value.as_str()?.parse().ok())?),
    };
    // Longer than a day is as good as a day.
    let life = seconds.map_or(UNSAID_LIFE, |seconds| Duration::from_secs(seconds.min(24 * 3600)));
    Some((bearer, life))
}

#[cfg(test)]
mod tests;
