//! What is happening to a subscription right now: its latest deliveries, for the CLI's `tail`, and how its endpoint
//! is treated. What became of all its events is in [`books`].

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::endpoint::{EndpointStatus, Rule};
use gridwire_core::event::Event;
use gridwire_core::ids::Offset;
use gridwire_core::pace::{Pace, Pacing};
use gridwire_core::retry::Outcome;
use gridwire_core::routing::SubscriptionRoute;
use gridwire_http::Response;
use http::StatusCode;
use http::request::Parts;
use serde_json::Value;

use super::address::{self, Inspected};
use super::books;
use crate::broker::Broker;
use crate::deliveries::Delivery;

/// Deliveries in one answer.
const DELIVERIES_MAX: usize = 1_000;

/// `GET /gridwire/v1/subscriptions/{number or resource id}/…`, with the management token. An audit reads much, so it
/// is ordered by `POST`.
pub(super) async fn answer(
    broker: &Broker,
    subscription: &str,
    what: Inspected,
    parts: &Parts,
) -> Result<Response, ApiError> {
    let allowed = if what == Inspected::Audit { "POST" } else { "GET" };
    if parts.method != allowed {
        let message = format!("Only {allowed} is supported here.");
        return Err(ApiError::new(ErrorCode::MethodNotAllowed, message).with_allow(allowed));
    }
    let route = broker
        .subscription(subscription)
        .ok_or_else(|| ApiError::new(ErrorCode::NotFound, "The event subscription was not found."))?;
    match what {
        Inspected::Deliveries => deliveries(broker, &route, parts).await,
        Inspected::Endpoint => endpoint(broker, &route).await,
        Inspected::Counters => books::show(broker, &route).await,
        Inspected::Audit => books::audit(broker, &route).await,
    }
}

/// How the endpoint is treated, and by which rule.
async fn endpoint(broker: &Broker, route: &SubscriptionRoute) -> Result<Response, ApiError> {
    let status = books::status_of(broker, route)
        .await
        .ok_or_else(|| ApiError::new(ErrorCode::Unavailable, "The server is starting or stopping."))?;
    let Some(endpoint) = status.endpoint else {
        let message = "The event subscription has no endpoint: its events are received.";
        return Err(ApiError::new(ErrorCode::NotFound, message));
    };
    let mut shown = shown(&endpoint, route.forward.is_some());
    let last = broker.outside().deliveries.last_attempt(route.number);
    if let Some(last) = &last
        && shown["lastOutcome"].is_null()
    {
        shown["lastOutcome"] = last.outcome.into();
    }
    shown["lastReason"] = last.and_then(|last| reason(broker, route, &last)).into();
    Ok(gridwire_http::json(StatusCode::OK, shown.to_string()))
}

/// Why an attempt ended so, where its outcome does not say it: it was this broker that did not call.
fn reason(broker: &Broker, route: &SubscriptionRoute, attempt: &Delivery) -> Option<String> {
    // An endpoint that answered 403 has this outcome too, but was called.
    if attempt.outcome != Outcome::Forbidden.as_str() || attempt.status.is_some() {
        return None;
    }
    broker.refusal(route)
}

/// `forwards`: the endpoint is a topic of this broker.
fn shown(endpoint: &EndpointStatus, forwards: bool) -> Value {
    let detail = match endpoint.rule {
        Rule::Probation(_) if forwards => {
            "Forwarding failed ten times in a row: nothing is forwarded until then."
        }
        Rule::Congestion if forwards => {
            "This broker's store was full or busy: fewer events are forwarded at once until it copes."
        }
        rule => rule.detail(),
    };
    let (until, outcome) = match endpoint.rule {
        Rule::Probation(rest) => (Some(rest.until.to_string()), Some(rest.outcome)),
        Rule::Free | Rule::Paused(_) | Rule::Congestion | Rule::Paced(_) => (None, None),
    };
    let (rate, by) = match endpoint.pacing {
        Pacing { pace: Pace::Free, .. } => (None, None),
        Pacing { pace: Pace::Paused, source } => (Some(0), Some(source.as_str())),
        Pacing { pace: Pace::PerMinute(rate), source } => (Some(rate.get()), Some(source.as_str())),
    };
    serde_json::json!({
        "rule": endpoint.rule.as_str(),
        "detail": detail,
        "until": until,
        "lastOutcome": outcome,
        "requestsPerMinute": rate,
        "paceBy": by,
        "failuresInARow": endpoint.failures_in_a_row,
        "requestsInFlight": endpoint.requests_in_flight,
        "requestsMax": endpoint.requests_max,
    })
}

/// Its latest deliveries, those after `after`.
async fn deliveries(broker: &Broker, route: &SubscriptionRoute, parts: &Parts) -> Result<Response, ApiError> {
    let after = match address::query(parts, "after").as_slice() {
        [] => 0,
        [after] => after
            .parse()
            .map_err(|_| ApiError::new(ErrorCode::InvalidRequest, "after must be an integer."))?,
        _ => return Err(ApiError::new(ErrorCode::InvalidRequest, "after is given more than once.")),
    };
    let (found, next) = broker.outside().deliveries.after(route.number, after, DELIVERIES_MAX);
    let mut offsets: Vec<Offset> = found.iter().map(|delivery| delivery.offset).collect();
    offsets.sort_unstable();
    offsets.dedup();
    // What is no longer retained, or not readable right now, is shown without its id.
    let fetched = broker.outside().log.fetch(route.topic, offsets).await.unwrap_or_default();
    let event_id = |offset: Offset| {
        let place = fetched.binary_search_by_key(&offset, |event| event.offset).ok()?;
        Some(Event::decode(&fetched[place].event)?.id.into_owned())
    };
    let list: Vec<_> = found
        .iter()
        .map(|delivery| {
            serde_json::json!({
                "seq": delivery.seq,
                "time": delivery.time.to_string(),
                "offset": delivery.offset.0,
                "eventId": event_id(delivery.offset).unwrap_or_default(),
                "attempt": delivery.attempt,
                "batch": delivery.batch,
                "outcome": delivery.outcome,
                "reason": reason(broker, route, delivery),
                "status": delivery.status,
                "latencyMs": delivery.latency.as_secs_f64() * 1000.0,
            })
        })
        .collect();
    Ok(gridwire_http::json(
        StatusCode::OK,
        serde_json::json!({ "deliveries": list, "next": next }).to_string(),
    ))
}
