//! Pausing a subscription's deliveries, and their cap.

use gridwire_core::pace::{Pace, PaceSource, Pacing};
use gridwire_core::routing::Consent;

use super::*;

const PATH: &str = "~/topics/orders/eventSubscriptions/billing";

impl Grid {
    /// What the broker was told of the pace.
    fn pacing(&self) -> Pacing {
        self.port.latest().subscriptions()[0].policy.pacing
    }

    async fn throttle(&self, action: &str, body: impl Into<Sent>) -> Value {
        self.call("POST", &format!("{PATH}/{action}"), body).await.expect(200).body
    }
}

async fn grid(consent: Consent) -> Grid {
    let grid = Grid::new().await;
    grid.port.answer(consent);
    grid.put_topic("orders").await;
    grid.put_subscription("orders", "billing").await;
    grid
}

const OPERATORS_PAUSE: Pacing = Pacing::by(Pace::Paused, PaceSource::Operator);

#[tokio::test]
async fn a_pause_holds_over_a_restart_and_a_put_until_it_is_ended() {
    let grid = grid(Consent::Given { pace: Pace::Free }).await;
    let nothing = json!({ "paused": false, "requestsPerSecond": null });
    assert_eq!(grid.throttle("resume", ()).await, nothing, "ending no pause is no mistake");
    assert_eq!(grid.throttle("pause", ()).await, json!({ "paused": true, "requestsPerSecond": null }));
    assert_eq!(grid.pacing(), OPERATORS_PAUSE);
    let etag = grid.get(PATH).await.expect(200).header("etag").to_owned();
    grid.throttle("pause", ()).await;
    assert_eq!(grid.get(PATH).await.expect(200).header("etag"), etag, "nothing changed");

    // By somebody who knows nothing of it, as it was and with a change.
    let asked = grid.port.handshakes().len();
    grid.put_subscription("orders", "billing").await;
    grid.call("PUT", PATH, webhook_with(&json!({ "labels": ["x"] }))).await.expect(201);
    grid.call("PATCH", PATH, json!({ "labels": ["y"] })).await.expect(201);
    assert_eq!((grid.pacing(), grid.port.handshakes().len()), (OPERATORS_PAUSE, asked));

    let grid = grid.restarted().await;
    assert_eq!(grid.pacing(), OPERATORS_PAUSE);
    assert_eq!(grid.throttle("resume", ()).await, nothing);
    assert_eq!(grid.pacing().pace, Pace::Free);

    grid.throttle("pause", ()).await;
    grid.call("DELETE", PATH, ()).await.expect(204);
    grid.put_subscription("orders", "billing").await;
    assert_eq!(grid.pacing().pace, Pace::Free, "a new one of the same name starts afresh");
}

#[tokio::test]
async fn the_stricter_of_the_operators_cap_and_the_allowed_rate_holds() {
    let grid = grid(Consent::Given { pace: Pace::per_minute(120) }).await;
    let endpoints = Pacing::by(Pace::per_minute(120), PaceSource::Endpoint);
    let operators = Pacing::by(Pace::per_minute(60), PaceSource::Operator);
    assert_eq!(grid.pacing(), endpoints);
    let capped = grid.throttle("limitRate", json!({ "requestsPerSecond": 1 })).await;
    assert_eq!(capped, json!({ "paused": false, "requestsPerSecond": 1 }));
    assert_eq!(grid.pacing(), operators);
    let grid = grid.restarted().await;
    assert_eq!(grid.pacing(), operators);
    grid.throttle("pause", ()).await;
    assert_eq!(grid.pacing(), OPERATORS_PAUSE);
    let resumed = grid.throttle("resume", ()).await;
    assert_eq!((resumed["requestsPerSecond"].as_u64(), grid.pacing()), (Some(1), operators));
    grid.throttle("limitRate", json!({ "requestsPerSecond": 50 })).await;
    assert_eq!(grid.pacing(), endpoints);
    grid.throttle("limitRate", json!({ "requestsPerSecond": null })).await;
    assert_eq!(grid.pacing(), endpoints);
}

#[tokio::test]
async fn who_has_not_consented_is_not_posted_to_after_a_resume() {
    let grid = grid(Consent::ByHand { pace: Pace::Free }).await;
    grid.throttle("pause", ()).await;
    assert_eq!(grid.pacing(), OPERATORS_PAUSE);
    grid.throttle("resume", ()).await;
    assert_eq!(grid.pacing(), Pacing::by(Pace::Paused, PaceSource::Consent));
}

#[tokio::test]
async fn what_is_no_cap_and_what_is_not_pushed_is_refused() {
    let grid = grid(Consent::Given { pace: Pace::Free }).await;
    let limit = format!("{PATH}/limitRate");
    for rate in [json!(0), json!(-1), json!(0.5), json!("10"), json!(100_001), json!({})] {
        let refused = grid.call("POST", &limit, json!({ "requestsPerSecond": rate })).await.expect(400);
        assert_eq!(refused.inner(), "invalid_resource", "{rate}");
        assert!(refused.message().contains("`requestsPerSecond`"), "{}", refused.message());
    }
    grid.call("POST", &limit, json!({})).await.expect(400);
    grid.call("POST", &limit, "no JSON").await.expect(400);
    assert_eq!(grid.pacing().pace, Pace::Free);
    grid.call("GET", &format!("{PATH}/pause"), ()).await.expect(405);
    grid.call("POST", "~/topics/orders/eventSubscriptions/nobody/pause", ()).await.expect(404);
    grid.call("POST", "~/topics/orders/pause", ()).await.expect(404);

    grid.put_namespace().await;
    let pull = "~/namespaces/ns1/topics/jobs/eventSubscriptions/pull";
    grid.call("PUT", pull, queue(&json!({}))).await.expect(201);
    for (action, body) in [("pause", None), ("resume", None), ("limitRate", Some(1))] {
        let body = body.map_or(json!({}), |rate| json!({ "requestsPerSecond": rate }));
        let refused = grid.call("POST", &format!("{pull}/{action}"), body).await.expect(400);
        assert_eq!(refused.inner(), "invalid_request", "{action}");
    }
}
