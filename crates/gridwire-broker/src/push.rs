//! Posting events to webhooks.
//!
//! The shard decides when an event is tried; this module does one attempt and says how it ended. The cast:
//!
//! * `endpoint`: a webhook's URL, taken apart once. Endpoints with the same scheme, host and port share
//!   connections.
//! * `judge`: which addresses may be called. Every outgoing connection passes it with the address that is
//!   about to be connected to, so neither a name that resolves inwards nor a redirect gets past. `refusal` has the
//!   words for whoever asks why an endpoint was not called.
//! * `client`: one HTTP/1.1 connection to one judged address; `tls` sets up its encryption, `request`
//!   writes what is sent and `answer` reads what came back.
//! * `faults`: in development mode, what attempts meet instead of their endpoint.
//! * `dispatcher`: a queue and a bounded set of connections for each endpoint, so that a bad one delays
//!   nobody else. Its `forward` puts events into topics of namespaces, which are no webhooks but attempts all the same.
//! * `tokens`: bearer tokens for endpoints that want one, from the configured issuer, kept until they are about to
//!   expire.
//! * `handshake`: asks an endpoint for its consent before a subscription is kept.
//!
//! What an owner learns of a failure is its class, its status and its timing, never the answer's body nor the
//! resolved address. URLs may carry secrets, so none is logged.

pub(crate) mod answer;
mod client;
mod dispatcher;
mod endpoint;
mod faults;
pub(crate) mod handshake;
pub mod judge;
pub(crate) mod refusal;
mod request;
#[cfg(test)]
pub(crate) mod testing;
mod tls;
mod tokens;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use gridwire_core::limits;
use gridwire_core::secret::Secret;
use rustls_pki_types::CertificateDer;

pub(crate) use dispatcher::{Attempt, AttemptKey, Dispatcher, Finished, Forwarder, Report};
use judge::Network;
pub(crate) use tls::{Terms, Tls};

/// How webhooks are called.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// Also call endpoints without TLS.
    pub allow_http: bool,
    /// Also call endpoints on this machine (`127.0.0.0/8`, `::1`).
    pub allow_loopback: bool,
    /// Networks that may be called although they are private or reserved.
    pub allow_networks: Vec<Network>,
    /// Our own listeners and the store's addresses: never called, not even when listed above. A listener on
    /// the unspecified address stands for its port on loopback; list the machine's other addresses too.
    pub own_addresses: Vec<SocketAddr>,
    /// The DNS name we show endpoints as the sender (`WebHook-Request-Origin`).
    pub origin: String,
    /// How many requests a minute we ask endpoints to allow (`WebHook-Request-Rate`). Without it no rate is asked
    /// for; what an endpoint allows is kept to in any case.
    pub request_rate: Option<NonZeroU32>,
    /// Who issues bearer tokens for protected webhooks.
    pub token_issuer: Option<TokenIssuer>,
    /// How long an attempt may take, from the look-up of the name to the head of the answer.
    pub attempt_timeout: Duration,
    /// Connections to one endpoint, and so attempts in flight to it. At least 1.
    pub connections_per_endpoint: usize,
    /// Queued attempts that one subscription can have at one endpoint; what is above is failed at once.
    pub attempts_per_subscription_max: usize,
    /// Certificate authorities that are believed besides this machine's.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// How long attempts in flight may go on once we are told to stop.
    pub stop_grace: Duration,
    /// Whether there are fault scripts: only in development mode.
    pub faults: bool,
}

/// An issuer of tokens by the client credentials grant of `OAuth` 2.0.
#[derive(Clone, Debug)]
pub struct TokenIssuer {
    /// Its token endpoint; `{tenant}` stands for the destination's tenant.
    pub endpoint: String,
    pub client_id: String,
    pub client_secret: Secret,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            allow_http: false,
            allow_loopback: false,
            allow_networks: Vec::new(),
            own_addresses: Vec::new(),
            origin: "eventgrid.azure.net".to_owned(),
            request_rate: None,
            token_issuer: None,
            attempt_timeout: limits::ATTEMPT_TIMEOUT,
            connections_per_endpoint: 32,
            attempts_per_subscription_max: limits::READY_MAX,
            extra_roots: Vec::new(),
            idle_timeout: Duration::from_secs(60),
            stop_grace: Duration::from_secs(10),
            faults: false,
        }
    }
}
