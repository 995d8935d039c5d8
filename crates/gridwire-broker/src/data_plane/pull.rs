//! Pull delivery: receive, acknowledge, release, reject, renewLock.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::event::Event;
use gridwire_core::ids::{Offset, SubscriptionNumber, TopicNumber};
use gridwire_core::limits;
use gridwire_core::lock_token::LockToken;
use gridwire_core::render;
use gridwire_core::routing::{SubscriptionRoute, TopicRoute};
use gridwire_core::shard::{LeasedEvent, ReplyId, SettleVerb, TokenError};
use gridwire_http::{Body, Response};
use http::StatusCode;
use http::request::Parts;
use tokio::sync::oneshot;

use super::address::{self, Verb};
use crate::broker::Broker;
use crate::deliveries::Delivery;
use crate::metrics::{PullOperation, SubscriptionCounters};
use crate::shards::{Command, ReceiveReply, SettleReply, Shards};

/// Seconds a receive waits when it does not say (service default).
const WAIT_DEFAULT: u64 = 60;
/// A hundred lock tokens and their punctuation fit many times.
const SETTLE_BYTES_MAX: usize = 1 << 20;

fn subscription(topic: &TopicRoute, name: &str) -> Result<Arc<SubscriptionRoute>, ApiError> {
    topic.subscriptions.get(&name.to_ascii_lowercase()).cloned().ok_or_else(|| gone(name))
}

fn gone(name: &str) -> ApiError {
    let shown: String = name.chars().take(64).collect();
    ApiError::new(ErrorCode::NotFound, format!("The event subscription '{shown}' was not found."))
}

fn not_pull(name: &str) -> ApiError {
    let message = format!("The event subscription '{name}' delivers by push; its events cannot be received.");
    ApiError::new(ErrorCode::InvalidRequest, message)
}

fn stopping() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "The server is stopping.").with_retry_after(Duration::from_secs(1))
}

/// An integer query parameter within its documented bounds.
fn bounded(parts: &Parts, name: &str, default: u64, min: u64, max: u64) -> Result<u64, ApiError> {
    let values = address::query(parts, name);
    let value = match values.as_slice() {
        [] => return Ok(default),
        [value] => value.parse().ok().filter(|value| (min..=max).contains(value)),
        _ => None,
    };
    value.ok_or_else(|| {
        ApiError::new(ErrorCode::InvalidRequest, format!("{name} must be an integer from {min} to {max}."))
    })
}

/// Tells the shard when the client hangs up, so that no event is locked for nobody.
struct Waiting<'a> {
    shards: &'a Shards,
    topic: TopicNumber,
    subscription: SubscriptionNumber,
    id: ReplyId,
    answer: oneshot::Receiver<ReceiveReply>,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        // From here on an answer fails, and the shard takes its events back itself.
        self.answer.close();
        if let Ok(ReceiveReply::Events(events)) = self.answer.try_recv() {
            // It came when nobody looked any more.
            drop(Unsent::new(self.shards, self.topic, self.subscription, &events));
            return;
        }
        let command = Command::CancelReceive { subscription: self.subscription, id: self.id };
        self.shards.try_send(self.topic, command);
    }
}

/// Counts how a request about a subscription ended, and how long it took.
async fn counted(
    broker: &Broker,
    counters: &SubscriptionCounters,
    operation: PullOperation,
    request: impl Future<Output = Result<Response, ApiError>>,
) -> Result<Response, ApiError> {
    let outside = broker.outside();
    let begun = outside.clock.monotonic();
    let result = request.await;
    match &result {
        Ok(_) => outside.metrics.pulled(operation, outside.clock.monotonic().saturating_sub(begun)),
        Err(error) => counters.request_failed(operation, error.status()),
    }
    result
}

pub(super) async fn receive(
    broker: &Broker,
    topic: &TopicRoute,
    name: &str,
    parts: &Parts,
) -> Result<Response, ApiError> {
    let route = subscription(topic, name)?;
    let counters = broker.outside().metrics.subscription(route.number);
    let request = receive_from(broker, topic, &route, name, parts, &counters);
    counted(broker, &counters, PullOperation::Receive, request).await
}

async fn receive_from(
    broker: &Broker,
    topic: &TopicRoute,
    route: &SubscriptionRoute,
    name: &str,
    parts: &Parts,
    counters: &SubscriptionCounters,
) -> Result<Response, ApiError> {
    let max = bounded(parts, "maxEvents", 1, 1, u64::from(limits::RECEIVE_EVENTS_MAX))?;
    let (shortest, longest) = (limits::RECEIVE_WAIT_MIN.as_secs(), limits::RECEIVE_WAIT_MAX.as_secs());
    let wait = bounded(parts, "maxWaitTime", WAIT_DEFAULT, shortest, longest)?;
    let shards = broker.shards().ok_or_else(stopping)?;
    let (reply, answer) = oneshot::channel();
    let id = shards.next_reply();
    let deadline = broker.now() + Duration::from_secs(wait);
    let max = u32::try_from(max).unwrap_or(limits::RECEIVE_EVENTS_MAX);
    let (topic, subscription) = (topic.number, route.number);
    let mut waiting = Waiting { shards: &shards, topic, subscription, id, answer, answered: false };
    let command = Command::Receive { subscription: route.number, id, max, deadline, reply };
    if !shards.send(topic, command).await {
        return Err(stopping());
    }
    let answer = tokio::select! {
        biased;
        answer = &mut waiting.answer => answer.map_err(|_| stopping())?,
        // A drain does not wait two minutes for a long poll: it ends with what there is.
        () = broker.stopping() => match waiting.answer.try_recv() {
            Ok(answer) => answer,
            Err(_) => return Ok(empty_receive()),
        },
    };
    waiting.answered = true;
    match answer {
        ReceiveReply::Events(events) if events.is_empty() => Ok(empty_receive()),
        ReceiveReply::Events(events) => received(broker, &shards, route, &events, counters).await,
        ReceiveReply::NotPull => Err(not_pull(name)),
        ReceiveReply::Gone => Err(gone(name)),
        ReceiveReply::TooManyReceivers => Err(ApiError::new(
            ErrorCode::QuotaExceeded,
            "Too many receives are waiting on this event subscription.",
        )
        .with_retry_after(Duration::from_secs(1))),
    }
}

fn empty_receive() -> Response {
    gridwire_http::json(StatusCode::OK, &b"{\"value\":[]}"[..])
}

/// Locks that nobody knows of yet: they end at once when the answer does not leave.
struct Unsent<'a> {
    shards: &'a Shards,
    topic: TopicNumber,
    subscription: SubscriptionNumber,
    tokens: Vec<LockToken>,
}

impl<'a> Unsent<'a> {
    fn new(
        shards: &'a Shards,
        topic: TopicNumber,
        subscription: SubscriptionNumber,
        events: &[LeasedEvent],
    ) -> Self {
        let tokens = events.iter().map(|leased| token(subscription, leased)).collect();
        Self { shards, topic, subscription, tokens }
    }
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if self.tokens.is_empty() {
            return;
        }
        // Nobody waits for the results.
        let (reply, _) = oneshot::channel();
        let verb = SettleVerb::Release { delay: Duration::ZERO };
        let (subscription, id) = (self.subscription, self.shards.next_reply());
        let tokens = std::mem::take(&mut self.tokens);
        self.shards.try_send(self.topic, Command::Settle { subscription, id, verb, tokens, reply });
    }
}

fn token(subscription: SubscriptionNumber, leased: &LeasedEvent) -> LockToken {
    LockToken { subscription, offset: leased.offset, delivery: leased.delivery, nonce: leased.nonce }
}

/// Joins the leases with their events' bytes.
async fn received(
    broker: &Broker,
    shards: &Shards,
    route: &SubscriptionRoute,
    events: &[LeasedEvent],
    counters: &SubscriptionCounters,
) -> Result<Response, ApiError> {
    let outside = broker.outside();
    let mut offsets: Vec<Offset> = events.iter().map(|event| event.offset).collect();
    offsets.sort_unstable();
    let newest = offsets.last().map_or(0, |offset| offset.0);
    let mut unsent = Unsent::new(shards, route.topic, route.number, events);
    let behind = outside.log.end(route.topic).0.saturating_sub(newest) > limits::READY_MAX as u64;
    let turn = if behind { broker.turn_of_those_behind().await } else { None };
    let fetched = match outside.log.fetch(route.topic, offsets).await {
        Ok(fetched) => fetched,
        Err(error) => {
            tracing::error!(%error, subscription = route.name, "failed to read events for a receiver");
            // A shard may make us wait.
            drop(turn);
            // Not a release, which would count as a delivery.
            for LeasedEvent { offset, nonce, .. } in events.iter().copied() {
                let command = Command::Unread { subscription: route.number, offset, nonce };
                shards.send(route.topic, command).await;
            }
            unsent.tokens.clear();
            let message = "The events cannot be read right now. Try again.";
            return Err(
                ApiError::new(ErrorCode::Unavailable, message).with_retry_after(Duration::from_secs(1))
            );
        }
    };
    let bytes: usize = fetched.iter().map(|event| event.event.len() + 160).sum();
    let mut out = Vec::with_capacity(bytes + 16);
    out.extend_from_slice(b"{\"value\":[");
    let mut delivered = Vec::with_capacity(events.len());
    let mut unreadable = Vec::new();
    let time = outside.clock.now();
    for leased in events {
        let event = fetched
            .binary_search_by_key(&leased.offset, |event| event.offset)
            .ok()
            .and_then(|place| Event::decode(&fetched[place].event));
        let Some(event) = event else {
            unreadable.push(*leased);
            continue;
        };
        if !delivered.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"brokerProperties\":{\"lockToken\":\"");
        broker.tokens().seal_into(token(route.number, leased), &mut out);
        // Writing to memory cannot fail.
        let _ = write!(out, "\",\"deliveryCount\":{}}},\"event\":", leased.delivery);
        render::pull_event(&event, &mut out);
        out.push(b'}');
        delivered.push(Delivery {
            seq: 0,
            subscription: route.number,
            time,
            offset: leased.offset,
            attempt: leased.delivery,
            batch: 1,
            outcome: "Received",
            status: None,
            latency: Duration::ZERO,
        });
    }
    out.extend_from_slice(b"]}");
    drop(turn);
    // No longer retained, or damaged: they cannot be delivered any more.
    for LeasedEvent { offset, nonce, .. } in unreadable {
        let command = Command::Unreadable { subscription: route.number, offset, nonce };
        shards.send(route.topic, command).await;
    }
    unsent.tokens.clear();
    counters.received(delivered.len() as u64);
    outside.deliveries.extend(delivered);
    Ok(gridwire_http::json(StatusCode::OK, out))
}

#[derive(serde::Deserialize)]
struct SettleBody<'a> {
    #[serde(rename = "lockTokens", borrow)]
    lock_tokens: Vec<TokenText<'a>>,
}

/// Borrowed from the body unless it was written with escapes.
#[derive(serde::Deserialize, PartialEq, Eq, Hash)]
struct TokenText<'a>(#[serde(borrow)] Cow<'a, str>);

pub(super) async fn settle(
    broker: &Broker,
    topic: &TopicRoute,
    name: &str,
    verb: Verb,
    parts: &Parts,
    body: Body,
) -> Result<Response, ApiError> {
    let route = subscription(topic, name)?;
    let operation = match verb {
        Verb::Acknowledge => PullOperation::Acknowledge,
        Verb::Release => PullOperation::Release,
        Verb::Reject => PullOperation::Reject,
        Verb::RenewLock => PullOperation::RenewLock,
    };
    let counters = broker.outside().metrics.subscription(route.number);
    let request = settle_for(broker, &route, verb, parts, body, (operation, &counters));
    counted(broker, &counters, operation, request).await
}

async fn settle_for(
    broker: &Broker,
    route: &SubscriptionRoute,
    verb: Verb,
    parts: &Parts,
    body: Body,
    (operation, counters): (PullOperation, &SubscriptionCounters),
) -> Result<Response, ApiError> {
    let name = &route.name;
    let verb = match verb {
        Verb::Acknowledge => SettleVerb::Acknowledge,
        Verb::Reject => SettleVerb::Reject,
        Verb::RenewLock => SettleVerb::RenewLock,
        Verb::Release => SettleVerb::Release { delay: release_delay(parts)? },
    };
    let body = body.read(SETTLE_BYTES_MAX).await?;
    let SettleBody { lock_tokens: texts } = serde_json::from_slice(&body).map_err(|_| {
        let message = "The body must be {\"lockTokens\":[\"...\"]}.";
        ApiError::new(ErrorCode::InvalidJson, message)
    })?;
    if texts.is_empty() || texts.len() > limits::LOCK_TOKENS_MAX {
        let message = format!("lockTokens must hold 1 to {} tokens.", limits::LOCK_TOKENS_MAX);
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    }
    let shards = broker.shards().ok_or_else(stopping)?;
    // Tokens of another subscription are not tokens here.
    let opened: Vec<Option<LockToken>> = texts
        .iter()
        .map(|text| broker.tokens().open(&text.0).filter(|token| token.subscription == route.number))
        .collect();
    let tokens: Vec<LockToken> = opened.iter().copied().flatten().collect();
    let results = if tokens.is_empty() {
        Vec::new()
    } else {
        let (reply, answer) = oneshot::channel();
        let id = shards.next_reply();
        let command = Command::Settle { subscription: route.number, id, verb, tokens, reply };
        if !shards.send(route.topic, command).await {
            return Err(stopping());
        }
        match answer.await.map_err(|_| stopping())? {
            SettleReply::Results(results) => results,
            SettleReply::NotPull => return Err(not_pull(name)),
            SettleReply::Gone => return Err(gone(name)),
        }
    };
    let mut results = results.into_iter();
    let results: Vec<Result<(), Refusal>> =
        opened.iter().map(|token| result_of(token.is_some(), &mut results)).collect();
    let mut out = Vec::with_capacity(texts.len() * 64 + 64);
    out.extend_from_slice(b"{\"failedLockTokens\":");
    let failed = failures(&texts, &results);
    for (_, refusal) in &failed {
        counters.token_failed(operation, refusal.error);
    }
    let failed: Vec<_> = failed.into_iter().map(|(text, refusal)| refusal.told_of(text)).collect();
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(&mut out, &failed);
    out.extend_from_slice(b",\"succeededLockTokens\":[");
    let mut succeeded = 0u64;
    for (text, _) in texts.iter().zip(&results).filter(|(_, result)| result.is_ok()) {
        if succeeded > 0 {
            out.push(b',');
        }
        // It was opened, so it is written in letters that JSON does not escape.
        out.push(b'"');
        out.extend_from_slice(text.0.as_bytes());
        out.push(b'"');
        succeeded += 1;
    }
    out.extend_from_slice(b"]}");
    counters.settled(operation, succeeded);
    let settled = opened.iter().zip(&results).filter(|(_, result)| result.is_ok());
    remember(broker, route.number, verb, settled.filter_map(|(token, _)| *token));
    Ok(gridwire_http::json(StatusCode::OK, out))
}

/// For whoever watches: what became of events that were received.
fn remember(
    broker: &Broker,
    subscription: SubscriptionNumber,
    verb: SettleVerb,
    tokens: impl Iterator<Item = LockToken>,
) {
    let outcome = match verb {
        SettleVerb::Acknowledge => "Acknowledged",
        SettleVerb::Release { .. } => "Released",
        SettleVerb::Reject => "Rejected",
        SettleVerb::RenewLock => "Renewed",
    };
    let time = broker.now();
    broker.outside().deliveries.extend(tokens.map(|token| Delivery {
        seq: 0,
        subscription,
        time,
        offset: token.offset,
        attempt: token.delivery,
        batch: 1,
        outcome,
        status: None,
        latency: Duration::ZERO,
    }));
}

/// Why a token did nothing.
#[derive(Clone, Copy)]
struct Refusal {
    code: &'static str,
    message: &'static str,
    /// `None` when it is no token of this subscription.
    error: Option<TokenError>,
}

impl Refusal {
    fn told_of(self, token: &TokenText<'_>) -> serde_json::Value {
        let Self { code, message, .. } = self;
        serde_json::json!({
            "lockToken": token.0,
            "error": { "code": code, "message": message },
            // What clients of api-version 2023-11-01 look at.
            "errorCode": code,
            "errorDescription": message,
        })
    }
}

/// What came of one token; the next of `results` when it was one of this subscription.
fn result_of(
    opened: bool,
    results: &mut impl Iterator<Item = Result<(), TokenError>>,
) -> Result<(), Refusal> {
    let (code, message, error) = if opened {
        match results.next() {
            Some(Ok(())) => return Ok(()),
            Some(Err(error @ TokenError::Lost)) => ("TokenLost", "Token has expired.", Some(error)),
            Some(Err(error @ TokenError::RenewedTooLong)) => {
                let message = "The lock was first granted more than an hour ago and cannot be renewed.";
                ("TokenLost", message, Some(error))
            }
            None => ("InternalServerError", "No result for this token.", None),
        }
    } else {
        ("BadToken", "The lock token is not valid for this event subscription.", None)
    };
    Err(Refusal { code, message, error })
}

/// Those that were refused. A token that is there more than once is told of, and counted, once: its first use
/// decided, and that may have succeeded.
fn failures<'a, 'b>(
    texts: &'a [TokenText<'b>],
    results: &[Result<(), Refusal>],
) -> Vec<(&'a TokenText<'b>, Refusal)> {
    if results.iter().all(Result::is_ok) {
        return Vec::new();
    }
    let mut seen: HashSet<&TokenText<'_>> = HashSet::with_capacity(texts.len());
    let first_uses = texts.iter().zip(results).filter(|(text, _)| seen.insert(text));
    first_uses.filter_map(|(text, result)| Some((text, result.err()?))).collect()
}

fn release_delay(parts: &Parts) -> Result<Duration, ApiError> {
    let values = address::query(parts, "releaseDelayInSeconds");
    let seconds = match values.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] | ["0"] => 0,
        ["10"] => 10,
        ["60"] => 60,
        ["600"] => 600,
        ["3600"] => 3600,
        _ => {
            let message = "releaseDelayInSeconds must be one of 0, 10, 60, 600, 3600.";
            return Err(ApiError::new(ErrorCode::InvalidRequest, message));
        }
    };
    Ok(Duration::from_secs(seconds))
}
