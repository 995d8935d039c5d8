//! What publishers and receivers ask over HTTP: addresses, credentials, limits, answers.
//!
//! Handlers hold no state between requests; what goes on after an answer is a job ([`dead_letters`]). A path is
//! taken apart once ([`address`]), the credential is checked from the headers before the body is read ([`auth`]),
//! and then one of [`publish`], [`pull`] or [`dead_letters`] does the work.

mod address;
mod auth;
mod books;
mod dead_letters;
mod inspect;
mod publish;
mod pull;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::routing::{NamespaceRoute, RoutingTable, TopicRoute};
use gridwire_core::time::Timestamp;
use gridwire_http::{Body, Peer, Request, Response};
use http::Method;
use http::request::Parts;

use crate::broker::Broker;
use address::{Operation, Target};
use auth::Credential;

/// Answers one data plane request.
pub(crate) async fn handle(broker: &Broker, request: Request, peer: Peer) -> Response {
    match answer(broker, request, peer).await {
        Ok(response) => response,
        Err(error) => {
            if error.code == ErrorCode::Unauthorized {
                broker.outside().metrics.unauthorized.fetch_add(1, Ordering::Relaxed);
            }
            gridwire_http::error(&error)
        }
    }
}

async fn answer(broker: &Broker, request: Request, peer: Peer) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let target = address::parse(&parts, broker.base_domain())?;
    let table = broker.table();
    match target {
        Target::Inspect { subscription, what } => inspect::answer(broker, &subscription, what, &parts).await,
        Target::Counters => books::list(broker, &table, &parts).await,
        Target::TopicCounters => books::topics(broker, &table, &parts),
        Target::DeadLetters(operation) => {
            dead_letters::answer(broker, &table, &operation, &parts, body, peer).await
        }
        Target::Topic(named) => {
            only_post(&parts)?;
            basic(broker, &address::topic(&table, &named)?, &parts, body, peer).await
        }
        Target::Domain(place) => {
            only_post(&parts)?;
            basic(broker, &address::domain(&table, &place)?, &parts, body, peer).await
        }
        Target::Namespace { place, topic, operation } => {
            only_post(&parts)?;
            address::namespace_api_version(&parts)?;
            let wall = broker.wall();
            let credential = Credential::of(&parts);
            let caller = Caller { parts: &parts, credential: credential.as_ref(), peer, broker };
            let namespace = namespace(&table, place.as_ref(), &topic, caller, wall)?;
            let judge = || auth::namespace(&namespace, &topic, caller.credential, &parts, wall);
            let topic = caller.guarded(&namespace.resource_id, judge)?;
            match operation {
                Operation::Publish => publish::events(broker, &topic, &parts, body).await,
                Operation::Receive { subscription } => {
                    pull::receive(broker, &topic, &subscription, &parts).await
                }
                Operation::Settle { subscription, verb } => {
                    pull::settle(broker, &topic, &subscription, verb, &parts, body).await
                }
            }
        }
    }
}

/// A publish to a custom topic or a domain.
async fn basic(
    broker: &Broker,
    topic: &Arc<TopicRoute>,
    parts: &Parts,
    body: Body,
    peer: Peer,
) -> Result<Response, ApiError> {
    let credential = Credential::of(parts);
    let caller = Caller { parts, credential: credential.as_ref(), peer, broker };
    let judge = || auth::topic(topic, caller.credential, parts, broker.wall());
    caller.guarded(&topic.resource_id, judge)?;
    address::basic_api_version(parts)?;
    publish::events(broker, topic, parts, body).await
}

/// What the guesses of those who look for a namespace by its keys are counted for.
const ANY_NAMESPACE: &str = "namespaces";

/// Who asks.
#[derive(Clone, Copy)]
struct Caller<'a> {
    parts: &'a Parts,
    credential: Option<&'a Credential<'a>>,
    peer: Peer,
    broker: &'a Broker,
}

impl Caller<'_> {
    /// Has the credential judged, unless too many wrong ones came from there. None at all is no guess.
    fn guarded<T>(self, object: &str, judge: impl FnOnce() -> Result<T, ApiError>) -> Result<T, ApiError> {
        if self.credential.is_none() {
            return judge();
        }
        let judged = self.broker.guard().judge(object, self.peer, judge);
        if judged.as_ref().is_err_and(|error| error.code == ErrorCode::QuotaExceeded) {
            self.broker.outside().metrics.auth_blocked.fetch_add(1, Ordering::Relaxed);
        }
        judged
    }
}

/// The namespace that a request means: by its path, its host, its credential, or because there is only one.
fn namespace(
    table: &RoutingTable,
    place: Option<&address::Named>,
    topic: &str,
    caller: Caller<'_>,
    wall: Timestamp,
) -> Result<Arc<NamespaceRoute>, ApiError> {
    let parts = caller.parts;
    if let Some(place) = place {
        return address::namespace(table, place);
    }
    if let Some(credential) = caller.credential {
        let belongs = |namespace: &&Arc<NamespaceRoute>| credential.belongs_to(namespace, topic, parts, wall);
        let wrong = || ApiError::new(ErrorCode::Unauthorized, "no namespace has this key");
        let search = || table.namespaces.values().find(belongs).ok_or_else(wrong);
        match caller.guarded(ANY_NAMESPACE, search) {
            Ok(owner) => return Ok(Arc::clone(owner)),
            Err(error) if error.code == ErrorCode::QuotaExceeded => return Err(error),
            Err(_) => {}
        }
    }
    let mut all = table.namespaces.values();
    match (all.next(), all.next()) {
        (Some(only), None) => Ok(Arc::clone(only)),
        _ => Err(ApiError::new(
            ErrorCode::NotFound,
            "The request does not say which namespace it is for. Put \
             /{subscription}/{resourceGroup}/namespaces/{name} in front of the path, or use the \
             namespace's host name.",
        )),
    }
}

fn only_post(parts: &Parts) -> Result<(), ApiError> {
    if parts.method == Method::POST {
        return Ok(());
    }
    let message = format!("{} is not supported here.", parts.method);
    Err(ApiError::new(ErrorCode::MethodNotAllowed, message).with_allow("POST"))
}

/// The name of a topic as a metric label: its namespace in front, if it has one.
pub(crate) fn label(topic: &TopicRoute) -> String {
    let mut segments = topic.resource_id.rsplit('/');
    let name = segments.next().unwrap_or(&topic.name);
    match (segments.next(), segments.next()) {
        (Some(_), Some(namespace)) if topic.kind == gridwire_core::routing::TopicKind::Namespace => {
            format!("{namespace}/{name}")
        }
        _ => name.to_owned(),
    }
}
