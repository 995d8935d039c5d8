//! What is happening to a subscription right now: its latest deliveries, for the CLI's `tail`.

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::event::Event;
use gridwire_core::ids::Offset;
use gridwire_http::Response;
use http::StatusCode;
use http::request::Parts;

use super::address;
use crate::broker::Broker;

/// Deliveries in one answer.
const DELIVERIES_MAX: usize = 1_000;

/// `GET /gridwire/v1/subscriptions/{number or resource id}/deliveries?after=N`, with the management token.
pub(super) async fn deliveries(
    broker: &Broker,
    subscription: &str,
    parts: &Parts,
) -> Result<Response, ApiError> {
    if parts.method != http::Method::GET {
        return Err(
            ApiError::new(ErrorCode::MethodNotAllowed, "Only GET is supported here.").with_allow("GET")
        );
    }
    let route = broker
        .subscription(subscription)
        .ok_or_else(|| ApiError::new(ErrorCode::NotFound, "The event subscription was not found."))?;
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
