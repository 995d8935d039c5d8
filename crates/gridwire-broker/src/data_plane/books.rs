//! The counters of topics and subscriptions, and whether the latter are in balance with the log.

use std::time::Duration;

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::audit::Finding;
use gridwire_core::ids::{SubscriptionNumber, TopicNumber};
use gridwire_core::routing::{RoutingTable, SubscriptionRoute};
use gridwire_core::shard::QueueStatus;
use gridwire_http::Response;
use http::StatusCode;
use http::request::Parts;
use serde_json::{Value, json};

use super::address;
use crate::audit::{AuditError, Audited};
use crate::broker::Broker;

/// Subscriptions in one answer. A domain may have 100,000.
const PAGE_MAX: usize = 1_000;
/// When to ask for an audit again while another is under way: most take less than that.
const AUDIT_RETRY: Duration = Duration::from_secs(2);

fn unavailable() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "The server is starting or stopping.")
}

/// How one subscription's queue is doing; `None` while it has none, at a start or an end.
pub(super) async fn status_of(broker: &Broker, route: &SubscriptionRoute) -> Option<QueueStatus> {
    broker.shards()?.status_of(route).await
}

/// The number behind which a page of a list begins; `None` for the first.
fn page_after(parts: &Parts) -> Result<Option<u32>, ApiError> {
    if parts.method != http::Method::GET {
        return Err(
            ApiError::new(ErrorCode::MethodNotAllowed, "Only GET is supported here.").with_allow("GET")
        );
    }
    match address::query(parts, "after").as_slice() {
        [] => Ok(None),
        [after] => after
            .parse()
            .map(Some)
            .map_err(|_| ApiError::new(ErrorCode::InvalidRequest, "after must be an integer.")),
        _ => Err(ApiError::new(ErrorCode::InvalidRequest, "after is given more than once.")),
    }
}

/// What every topic has taken, by number, those after `after`: `accepted` = `stored` + `unmatched`.
pub(super) fn topics(broker: &Broker, table: &RoutingTable, parts: &Parts) -> Result<Response, ApiError> {
    let after = page_after(parts)?.map(TopicNumber);
    let mut numbers: Vec<_> =
        table.by_number.keys().copied().filter(|number| after.is_none_or(|after| after < *number)).collect();
    numbers.sort_unstable();
    let next = numbers.get(PAGE_MAX).and_then(|_| numbers.get(PAGE_MAX - 1)).map(|number| number.0);
    numbers.truncate(PAGE_MAX);
    let outside = broker.outside();
    let shown: Vec<Value> = numbers
        .into_iter()
        .filter_map(|number| {
            let topic = table.by_number.get(&number)?;
            let (stored, unmatched) =
                (outside.log.end(number).0, outside.metrics.topic(number).unmatched.get());
            Some(json!({
                "number": number.0,
                "topic": topic.resource_id,
                "accepted": stored.saturating_add(unmatched),
                "stored": stored,
                "unmatched": unmatched,
            }))
        })
        .collect();
    Ok(gridwire_http::json(StatusCode::OK, json!({ "topics": shown, "next": next }).to_string()))
}

/// The counters of every subscription, by number, those after `after`.
pub(super) async fn list(broker: &Broker, table: &RoutingTable, parts: &Parts) -> Result<Response, ApiError> {
    let after = page_after(parts)?.map(SubscriptionNumber);
    let routes: std::collections::BTreeMap<_, _> =
        table.subscriptions().into_iter().map(|route| (route.number, route)).collect();
    let all = match broker.shards() {
        Some(shards) => shards.status().await,
        None => None,
    };
    let all = all.ok_or_else(unavailable)?;
    let mut later = all
        .iter()
        .filter(|status| after.is_none_or(|after| after < status.subscription))
        .filter_map(|status| Some((routes.get(&status.subscription)?, status)));
    let shown: Vec<_> = later.by_ref().take(PAGE_MAX).collect();
    let next = later.next().and_then(|_| shown.last()).map(|(route, _)| route.number.0);
    let shown: Vec<Value> = shown.into_iter().map(|(route, status)| counters(route, status)).collect();
    Ok(gridwire_http::json(StatusCode::OK, json!({ "subscriptions": shown, "next": next }).to_string()))
}

/// The counters of one.
pub(super) async fn show(broker: &Broker, route: &SubscriptionRoute) -> Result<Response, ApiError> {
    let status = status_of(broker, route).await.ok_or_else(unavailable)?;
    Ok(gridwire_http::json(StatusCode::OK, counters(route, &status).to_string()))
}

/// `matched` = `delivered` + `deadLettered` + `expired` + `dropped` + `pending`, at one moment.
fn counters(route: &SubscriptionRoute, status: &QueueStatus) -> Value {
    let totals = &status.totals;
    json!({
        "number": route.number.0,
        "eventSubscription": route.resource_id,
        "complete": status.matched.is_some(),
        "matched": status.matched,
        "delivered": totals.delivered,
        "deadLettered": totals.dead_lettered,
        "expired": totals.expired,
        "dropped": totals.dropped,
        "pending": status.pending,
        "returned": totals.returned,
    })
}

/// Audits one subscription.
pub(super) async fn audit(broker: &Broker, route: &SubscriptionRoute) -> Result<Response, ApiError> {
    let audited = broker.audit(&route.number.0.to_string()).await.map_err(|error| match error {
        AuditError::NotFound => ApiError::new(ErrorCode::NotFound, "The event subscription was not found."),
        AuditError::Busy => {
            ApiError::new(ErrorCode::Overloaded, "Another audit is under way.").with_retry_after(AUDIT_RETRY)
        }
        AuditError::Unavailable => unavailable(),
        AuditError::Read(error) => {
            tracing::error!(%error, subscription = route.resource_id, "failed to read the log for an audit");
            ApiError::new(ErrorCode::Unavailable, "The log could not be read for the audit.")
        }
    })?;
    Ok(gridwire_http::json(StatusCode::OK, shown(route, &audited).to_string()))
}

fn shown(route: &SubscriptionRoute, audited: &Audited) -> Value {
    let report = &audited.report;
    let event = |offset: u64| {
        let place = audited.events.binary_search_by_key(&offset, |event| event.offset.0);
        let found = place.ok().map(|place| &audited.events[place]);
        json!({
            "offset": offset,
            "id": found.map(|event| &event.id),
            "source": found.map(|event| &event.source),
            "type": found.map(|event| &event.event_type),
            "published": found.map(|event| event.published.to_string()),
        })
    };
    let finding = |finding: &Finding| match finding {
        Finding::Lost { offset } => json!({ "kind": "lost", "count": 1, "events": [event(*offset)] }),
        Finding::Unexpected { offset } => {
            json!({ "kind": "unexpected", "count": 1, "events": [event(*offset)] })
        }
        Finding::LostAmong { offsets, count, among } => json!({
            "kind": "lostAmong",
            "count": count,
            "from": offsets.start,
            "to": offsets.end,
            "events": among.iter().map(|offset| event(*offset)).collect::<Vec<_>>(),
        }),
        Finding::UnexpectedAmong { offsets, count } => json!({
            "kind": "unexpectedAmong",
            "count": count,
            "from": offsets.start,
            "to": offsets.end,
            "events": [],
        }),
        Finding::Totals { ended, settled } => json!({
            "kind": "totals",
            "count": ended.abs_diff(*settled),
            "events": [],
        }),
        Finding::Pending { counted, found } => json!({
            "kind": "pending",
            "count": counted.abs_diff(*found),
            "events": [],
        }),
    };
    json!({
        "number": route.number.0,
        "eventSubscription": route.resource_id,
        "balanced": report.is_balanced(),
        "from": report.compared.start,
        "to": report.compared.end,
        "matched": report.matched,
        "damaged": report.damaged,
        "lost": report.lost,
        "unexpected": report.unexpected,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gridwire_core::event::DeliverySchema;
    use gridwire_core::routing::DeliveryPort;
    use gridwire_outside::MemoryDisk;

    use super::*;
    use crate::broker::BrokerOptions;
    use crate::push::testing::subscription;
    use crate::testing;

    /// A broker that serves one subscription of a topic that is empty.
    async fn broker(route: &Arc<SubscriptionRoute>) -> Arc<Broker> {
        let options = BrokerOptions { shards: 2, ..testing::options() };
        let broker = testing::start(&MemoryDisk::new(), &testing::new_clock(), options);
        broker.install(testing::table(route)).await.expect("it is served");
        broker
    }

    #[tokio::test]
    async fn there_is_one_audit_at_a_time_and_whoever_comes_meanwhile_is_told_when_to_come_again() {
        let route = subscription(1, "http://127.0.0.1:9/", DeliverySchema::EventGrid);
        let broker = broker(&route).await;
        let under_way = broker.only_audit().expect("nobody audits");
        let refusal = audit(&broker, &route).await.expect_err("another is under way");
        assert_eq!((refusal.code, refusal.status()), (ErrorCode::Overloaded, 503));
        assert_eq!(refusal.retry_after, Some(AUDIT_RETRY));
        drop(under_way);
        for _ in 0..2 {
            let answer = audit(&broker, &route).await.expect("each makes room for the next");
            assert_eq!(answer.status(), StatusCode::OK);
        }
        let counters = show(&broker, &route).await.expect("it has a queue");
        assert_eq!(counters.status(), StatusCode::OK);
        broker.stop().await;
    }
}
