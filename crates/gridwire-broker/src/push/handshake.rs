//! Asking an endpoint whether it agrees to be posted to (`push-delivery` contract, section 2).
//!
//! A subscription is somebody's claim that a URL wants events; the handshake lets the URL answer for itself,
//! so that nobody can aim the broker at a stranger. Endpoints of the Event Grid schema return a code they were
//! posted, those of the `CloudEvents` schema name our origin in a header. An endpoint that does neither, and does
//! not say no either, was told a URL by which whoever runs it can consent later.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gridwire_core::event::DeliverySchema;
use gridwire_core::limits;
use gridwire_core::pace::Pace;
use gridwire_core::render;
use gridwire_core::render::ValidationEvent;
use gridwire_core::retry::Outcome;
use gridwire_core::routing::{Consent, Handshake, HandshakeError, TopicKind, Webhook};
use gridwire_core::secret::Secret;
use gridwire_core::signing;
use gridwire_outside::{Clock, Rng};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::sync::Semaphore;

use super::PushOptions;
use super::client::{BodyEnd, Client, ReadBody};
use super::endpoint::Endpoint;
use super::request::{self, Outgoing};
use super::tls::Terms;
use super::tokens::Tokens;

/// Tries when there is no answer, and the pause between them (`push-delivery` contract, section 2.1).
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_secs(5);
/// Handshakes with one host in each window that it did not agree to: enough for a person who tries, useless for
/// an attack by way of us. A host that agrees is not attacked, and may have as many endpoints as it likes.
const PER_HOST_MAX: usize = 10;
const PER_HOST_WINDOW: Duration = Duration::from_secs(60);
/// Hosts remembered in one window; beyond it handshakes are refused until some are forgotten.
const HOSTS_MAX: usize = 10_000;

const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");
const REQUEST_RATE: HeaderName = HeaderName::from_static("webhook-request-rate");
const REQUEST_CALLBACK: &str = "webhook-request-callback";

/// Does handshakes.
#[derive(Debug)]
pub(crate) struct Handshakes {
    client: Arc<Client>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    origin: HeaderValue,
    options: Arc<PushOptions>,
    tokens: Arc<Tokens>,
    /// When each host was asked of late, in monotonic time.
    recent: Mutex<HashMap<String, VecDeque<Duration>>>,
}

/// What came back.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: ReadBody,
}

/// The name we show endpoints, fit for a header.
pub(crate) fn origin_header(options: &PushOptions) -> HeaderValue {
    request::header_value(options.origin.as_str()).unwrap_or_else(|| HeaderValue::from_static("gridwire"))
}

impl Handshakes {
    pub(crate) fn new(
        client: Arc<Client>,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        origin: HeaderValue,
        options: Arc<PushOptions>,
        tokens: Arc<Tokens>,
    ) -> Self {
        Self { client, clock, rng, origin, options, tokens, recent: Mutex::default() }
    }

    /// Asks, up to [`TRIES`] times while there is no answer.
    pub(crate) async fn validate(&self, handshake: &Handshake) -> Result<Consent, HandshakeError> {
        let url = &handshake.webhook.url;
        let endpoint = Endpoint::parse(url, self.options.allow_http).map_err(|error| {
            HandshakeError::Forbidden { endpoint: Endpoint::shown(url), reason: error.to_string() }
        })?;
        let refused = |reason| HandshakeError::Refused { endpoint: endpoint.base.clone(), reason };
        self.admit(&endpoint).map_err(refused)?;
        let code = self.rng.uuid();
        let mut tries = 1;
        let answer = loop {
            let request = self.request(handshake, &endpoint, &code);
            match self.ask(&endpoint, request, &handshake.webhook).await {
                Ok(answer) => break answer,
                Err(Outcome::TimedOut | Outcome::Unreachable) if tries < TRIES => tries += 1,
                Err(Outcome::Forbidden) => {
                    let reason = "its address is in a private, local or reserved network".to_owned();
                    return Err(HandshakeError::Forbidden { endpoint: endpoint.base, reason });
                }
                Err(outcome) => return Err(refused(self.explain(outcome))),
            }
            self.clock.sleep(PAUSE).await;
        };
        let judged = match handshake.webhook.schema {
            DeliverySchema::CloudEvent => judge_consent(&answer, &self.origin, handshake.topic_kind),
            DeliverySchema::EventGrid | DeliverySchema::Custom => judge_response(&answer, &code),
        };
        match judged {
            Verdict::Agrees(pace) => {
                self.forget(&endpoint);
                Ok(Consent::Given { pace })
            }
            Verdict::Silent(pace, _) if handshake.validation_url.is_some() => Ok(Consent::ByHand { pace }),
            Verdict::Silent(_, reason) | Verdict::Declines(reason) => Err(refused(reason)),
        }
    }

    /// Takes a handshake that the host agreed to out of the count.
    fn forget(&self, endpoint: &Endpoint) {
        let mut recent = self.recent.lock().expect("no panic while the hosts are held");
        if let Some(times) = recent.get_mut(&endpoint.key.host.to_string()) {
            times.pop_back();
        }
    }

    /// Counts a handshake with the host, or says why there may be none now.
    fn admit(&self, endpoint: &Endpoint) -> Result<(), String> {
        let now = self.clock.monotonic();
        let mut recent = self.recent.lock().expect("no panic while the hosts are held");
        recent.retain(|_, times| {
            times.retain(|time| now.saturating_sub(*time) < PER_HOST_WINDOW);
            !times.is_empty()
        });
        let host = endpoint.key.host.to_string();
        if HOSTS_MAX <= recent.len() && !recent.contains_key(&host) {
            return Err("too many endpoints are being validated; try again in a minute".to_owned());
        }
        let times = recent.entry(host).or_default();
        if PER_HOST_MAX <= times.len() {
            return Err(format!("its host was asked {PER_HOST_MAX} times in the last minute"));
        }
        times.push_back(now);
        Ok(())
    }

    fn request(&self, handshake: &Handshake, endpoint: &Endpoint, code: &str) -> Outgoing {
        let by_hand = handshake.validation_url.as_ref();
        if handshake.webhook.schema == DeliverySchema::CloudEvent {
            let mut request = request::options(endpoint, &self.origin);
            if let Some(url) = by_hand {
                request::add_header(request.headers_mut(), REQUEST_CALLBACK, url.reveal());
            }
            // Topics of namespaces ask for no rate, and keep to none.
            if let Some(rate) =
                self.options.request_rate.filter(|_| handshake.topic_kind != TopicKind::Namespace)
            {
                request.headers_mut().insert(REQUEST_RATE, rate.get().into());
            }
            return request;
        }
        let id = self.rng.uuid();
        let mut body = Vec::with_capacity(1024);
        let event = ValidationEvent {
            id: &id,
            topic_resource_id: &handshake.topic_resource_id,
            code,
            url: by_hand.map(Secret::reveal),
            time: self.clock.now(),
        };
        render::validation_event(&event, &mut body);
        let message = format!("msg_{id}");
        let signed =
            signing::sign(&handshake.webhook.signing, &message, &body, self.clock.now(), self.clock.wall());
        let mut request = request::post(
            &endpoint.key.host_header(),
            &endpoint.path_and_query,
            "application/json; charset=utf-8",
            body.into(),
        );
        if let Some(signed) = signed {
            request::add_signature(request.headers_mut(), &message, &signed);
        }
        for (name, value) in render::validation_headers(&handshake.subscription_name, &id) {
            request::add_header(request.headers_mut(), name, value);
        }
        request
    }

    /// Sends on a connection of its own, and reads the answer.
    async fn ask(
        &self,
        endpoint: &Endpoint,
        mut request: Outgoing,
        webhook: &Webhook,
    ) -> Result<Answer, Outcome> {
        if let Some(audience) = &webhook.token {
            let bearer = self.tokens.bearer(audience).await?;
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
        let mut deadline = self.client.deadline();
        let (terms, lookups) = (Terms::of(webhook.tls.clone()), Semaphore::new(1));
        let mut connection = self.client.connect(&endpoint.key, &terms, &lookups, &mut deadline).await?;
        let sent = deadline.race(connection.send(request)).await.ok_or(Outcome::TimedOut)?;
        let (head, body) = sent.map_err(|failure| failure.outcome())?.into_parts();
        let reading = connection.read(body, limits::RESPONSE_BYTES_MAX);
        let body = deadline.race(reading).await.ok_or(Outcome::TimedOut)?;
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    fn explain(&self, outcome: Outcome) -> String {
        match outcome {
            Outcome::TimedOut => {
                format!("it did not answer within {} seconds", self.options.attempt_timeout.as_secs())
            }
            Outcome::Unreachable => "it refused or closed the connection".to_owned(),
            Outcome::Unresolved => "its name does not resolve".to_owned(),
            Outcome::TlsFailed => {
                "it has no TLS session with a trusted certificate to offer, or refuses ours".to_owned()
            }
            Outcome::Forbidden => "it may not be called".to_owned(),
            Outcome::NoToken => "no bearer token for it was to be had".to_owned(),
            Outcome::Accepted => "it answered".to_owned(),
            Outcome::Answered { status, .. } => format!("it answered with status {status}"),
        }
    }
}

/// What an answer says.
enum Verdict {
    Agrees(Pace),
    /// It reached somebody who knows nothing of handshakes; and why it is no consent.
    Silent(Pace, String),
    /// Why not.
    Declines(String),
}

/// Event Grid schema: 200 with the code. Every other 200 is silence; every other status is a no, 202 too.
fn judge_response(answer: &Answer, code: &str) -> Verdict {
    if answer.status != StatusCode::OK {
        let status = answer.status.as_u16();
        return Verdict::Declines(format!("it answered with status {status} instead of 200"));
    }
    if answer.body.ended == BodyEnd::Broken {
        return Verdict::Declines("its answer was cut off".to_owned());
    }
    // One that is too long to be read to its end is not JSON here either.
    let body: Option<serde_json::Value> = serde_json::from_slice(&answer.body.bytes).ok();
    let reason = match body.as_ref().and_then(|body| body.get("validationResponse")) {
        Some(response) if response.as_str() == Some(code) => return Verdict::Agrees(Pace::Free),
        Some(_) => "its `validationResponse` is not the code it was sent",
        None => "its answer has no `validationResponse`",
    };
    Verdict::Silent(Pace::Free, reason.to_owned())
}

/// `CloudEvents` schema: the header decides, whatever the status is. Without it, a status that servers answer a
/// method with that they do not know is silence, and so is success.
fn judge_consent(answer: &Answer, origin: &HeaderValue, kind: TopicKind) -> Verdict {
    let pace = match kind {
        TopicKind::Custom | TopicKind::Domain => allowed_pace(&answer.headers),
        TopicKind::Namespace => Pace::Free,
    };
    let mut origins = answer.headers.get_all(ALLOWED_ORIGIN).iter().peekable();
    if origins.peek().is_none() {
        let status = answer.status;
        let reason =
            format!("it answered with status {} and without `WebHook-Allowed-Origin`", status.as_u16());
        let unknowing = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED];
        if status.is_success() || unknowing.contains(&status) {
            return Verdict::Silent(pace, reason);
        }
        return Verdict::Declines(reason);
    }
    let names_us = |value: &HeaderValue| {
        let value = value.as_bytes().trim_ascii();
        value == b"*" || value.eq_ignore_ascii_case(origin.as_bytes())
    };
    if origins.any(names_us) {
        Verdict::Agrees(pace)
    } else {
        Verdict::Declines("its `WebHook-Allowed-Origin` names somebody else".to_owned())
    }
}

/// The rate that headers allow; of several the lowest. What is no rate says nothing.
fn allowed_pace(headers: &HeaderMap) -> Pace {
    let said = headers.get_all(ALLOWED_RATE).iter().filter_map(|value| Pace::parse(value.as_bytes()));
    said.fold(Pace::Free, Pace::and)
}

#[cfg(test)]
mod tests;
