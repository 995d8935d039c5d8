//! Endpoints that say neither yes nor no, and what becomes of their subscriptions.

use gridwire_core::pace::Pace;
use gridwire_core::routing::{Consent, HandshakeError};

use super::*;

const PATH: &str = "~/topics/orders/eventSubscriptions/billing";
const BY_HAND: Consent = Consent::ByHand { pace: Pace::Free };
const MINUTE: Duration = Duration::from_secs(60);

/// A topic `orders` whose endpoints answer so.
async fn grid(consent: Consent) -> Grid {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    grid.port.answer(consent);
    grid
}

impl Grid {
    async fn state(&self) -> String {
        let shown = self.get(PATH).await.expect(200);
        shown.body["properties"]["provisioningState"].as_str().unwrap().to_owned()
    }

    /// The validation URL that the endpoint was told last.
    fn validation_url(&self) -> String {
        let handshakes = self.port.handshakes();
        handshakes.last().unwrap().validation_url.as_ref().unwrap().reveal().to_owned()
    }

    /// Opens a validation URL, with an allowed rate or without.
    async fn open_url(&self, method: &str, url: &str, rate: Option<&str>) -> u16 {
        let path = url.strip_prefix("http://127.0.0.1:8080").expect("our public address");
        assert!(Control::is_validation_path(path.split('?').next().unwrap()), "{path}");
        let mut request = Request::builder().method(method).uri(path);
        if let Some(rate) = rate {
            request = request.header("WebHook-Allowed-Rate", rate);
        }
        let request = request.body(Body::from(Bytes::new())).unwrap();
        let peer = Peer { address: self.client, tls: false };
        self.control.validate_by_hand(request, peer).await.status().as_u16()
    }

    /// How fast the endpoint is posted to, as the broker was told.
    fn pace(&self) -> Pace {
        self.port.latest().subscriptions()[0].policy.pacing.pace
    }
}

#[tokio::test]
async fn a_silent_endpoint_is_validated_by_its_url_within_ten_minutes() {
    for late in [false, true] {
        let grid = grid(BY_HAND).await;
        let created = grid.put_subscription("orders", "billing").await;
        assert_eq!(created.body["properties"]["provisioningState"], "AwaitingManualAction");
        assert!(!created.body.to_string().contains("token="), "the owner is not told: {}", created.body);
        assert_eq!(grid.pace(), Pace::Paused);
        let listed = grid.get("~/topics/orders/eventSubscriptions").await.expect(200);
        assert_eq!(listed.body["value"][0]["properties"]["provisioningState"], "AwaitingManualAction");

        grid.clock.advance((10 * MINUTE).saturating_sub(Duration::from_millis(u64::from(!late))));
        let url = grid.validation_url();
        assert_eq!(grid.state().await, if late { "Failed" } else { "AwaitingManualAction" });
        assert_eq!(grid.open_url("GET", &url, None).await, if late { 404 } else { 200 });
        assert_eq!(grid.state().await, if late { "Failed" } else { "Succeeded" });
        assert_eq!(grid.pace(), if late { Pace::Paused } else { Pace::Free });
        if !late {
            assert_eq!(grid.open_url("GET", &url, None).await, 200, "a second look does no harm");
        }
    }
}

#[tokio::test]
async fn only_the_url_itself_consents() {
    let grid = grid(BY_HAND).await;
    grid.put_subscription("orders", "billing").await;
    let url = grid.validation_url();
    assert_eq!(grid.open_url("HEAD", &url, None).await, 405);
    let (head, token) = url.split_once("&token=").unwrap();
    for wrong in [
        format!("{head}&token="),
        format!("{head}&token={}", token.to_ascii_uppercase()),
        head.to_owned(),
        url.replace("billing", "another"),
        url.replace("id=", "id=x"),
    ] {
        assert_eq!(grid.open_url("GET", &wrong, None).await, 404, "{wrong}");
    }
    assert_eq!(grid.state().await, "AwaitingManualAction");
    assert_eq!(grid.open_url("POST", &url, None).await, 200);
    assert_eq!(grid.state().await, "Succeeded");
}

#[tokio::test]
async fn what_is_awaited_outlives_a_restart_and_its_token_is_not_on_file() {
    let grid = grid(Consent::ByHand { pace: Pace::per_minute(30) }).await;
    grid.put_subscription("orders", "billing").await;
    let url = grid.validation_url();
    let token = url.split_once("&token=").unwrap().1;
    for resource in grid.store.dump() {
        assert!(!String::from_utf8_lossy(&resource.value).contains(token), "{}", resource.key);
    }
    let grid = grid.restarted().await;
    assert_eq!((grid.state().await.as_str(), grid.pace()), ("AwaitingManualAction", Pace::Paused));
    assert_eq!(grid.open_url("GET", &url, None).await, 200);
    assert_eq!((grid.state().await.as_str(), grid.pace()), ("Succeeded", Pace::per_minute(30)));
    let grid = grid.restarted().await;
    assert_eq!((grid.state().await.as_str(), grid.pace()), ("Succeeded", Pace::per_minute(30)));
}

#[tokio::test]
async fn a_url_may_be_opened_while_the_endpoint_is_still_being_asked() {
    let grid = Arc::new(grid(BY_HAND).await);
    let gate = grid.port.close_gate();
    let asking = Arc::clone(&grid);
    let create = async move { asking.put_subscription("orders", "billing").await };
    let open = async {
        grid.port.begun.acquire().await.unwrap().forget();
        assert_eq!(grid.open_url("GET", &grid.validation_url(), Some("12")).await, 200);
        gate.0.add_permits(1);
    };
    let (created, ()) = tokio::join!(create, open);
    assert_eq!(created.body["properties"]["provisioningState"], "Succeeded");
    assert_eq!(grid.pace(), Pace::per_minute(12));
}

#[tokio::test]
async fn the_allowed_rate_is_kept_to_and_asked_for_again() {
    let grid = grid(Consent::Given { pace: Pace::Paused }).await;
    let created = grid.put_subscription("orders", "billing").await;
    assert_eq!(created.body["properties"]["provisioningState"], "Succeeded");
    assert_eq!(grid.pace(), Pace::Paused);
    grid.port.answer(Consent::Given { pace: Pace::per_minute(90) });
    grid.call("POST", &format!("{PATH}/revalidate"), ()).await.expect(200);
    assert_eq!(grid.pace(), Pace::per_minute(90));

    // A callback's own word on the rate counts for more than what came with the silence.
    let grid = self::grid(Consent::ByHand { pace: Pace::per_minute(5) }).await;
    grid.put_subscription("orders", "billing").await;
    assert_eq!(grid.open_url("POST", &grid.validation_url(), Some("*")).await, 200);
    assert_eq!(grid.pace(), Pace::Free);
}

#[tokio::test]
async fn revalidation_is_the_way_out_of_every_failure() {
    let grid = grid(BY_HAND).await;
    grid.put_subscription("orders", "billing").await;
    let first = grid.validation_url();
    grid.clock.advance(10 * MINUTE);
    let path = format!("{PATH}/revalidate");

    // A refusal changes nothing and says why.
    let refusal = HandshakeError::Refused { endpoint: "https://a.example/in".into(), reason: "no".into() };
    grid.port.refuse(Some(refusal));
    let refused = grid.call("POST", &path, ()).await.expect(400);
    assert_eq!(refused.inner(), "endpoint_validation_failed");
    assert_eq!(grid.state().await, "Failed");
    grid.port.refuse(None);

    let again = grid.call("POST", &path, ()).await.expect(200);
    assert_eq!(again.body["properties"]["provisioningState"], "AwaitingManualAction");
    assert_eq!(grid.open_url("GET", &first, None).await, 404, "only the last URL counts");
    assert_eq!(grid.open_url("GET", &grid.validation_url(), None).await, 200);
    assert_eq!(grid.state().await, "Succeeded");

    // Silence takes back no consent.
    grid.call("POST", &path, ()).await.expect(400);
    assert_eq!((grid.state().await.as_str(), grid.pace()), ("Succeeded", Pace::Free));
}

#[tokio::test]
async fn a_put_asks_again_as_long_as_there_is_no_consent() {
    let grid = grid(BY_HAND).await;
    grid.put_subscription("orders", "billing").await;
    grid.port.answer(Consent::Given { pace: Pace::Free });
    grid.put_subscription("orders", "billing").await;
    assert_eq!(grid.state().await, "Succeeded");
    assert_eq!(grid.port.handshakes().len(), 2);
    grid.put_subscription("orders", "billing").await;
    assert_eq!(grid.port.handshakes().len(), 2, "who has consented is not asked again");

    // A new URL is a new endpoint: nothing is sent to it before it consents.
    grid.port.answer(BY_HAND);
    grid.call("PUT", PATH, webhook("https://b.example/in")).await.expect(201);
    assert_eq!((grid.state().await.as_str(), grid.pace()), ("AwaitingManualAction", Pace::Paused));
}

#[tokio::test]
async fn a_namespace_has_no_consent_by_hand_and_a_queue_no_endpoint_to_ask() {
    let grid = Grid::new().await;
    grid.put_namespace().await;
    let topic = "~/namespaces/ns1/topics/jobs/eventSubscriptions";
    let destination = webhook("https://a.example/in")["properties"]["destination"].clone();
    let push = json!({"properties": {"deliveryConfiguration":
        {"deliveryMode": "Push", "push": {"destination": destination}}}});
    grid.call("PUT", &format!("{topic}/push"), push).await.expect(201);
    assert_eq!(grid.port.handshakes()[0].validation_url, None);
    grid.call("POST", &format!("{topic}/push/revalidate"), ()).await.expect(200);
    assert_eq!(grid.port.handshakes().len(), 2);

    grid.call("PUT", &format!("{topic}/pull"), queue(&json!({}))).await.expect(201);
    let refused = grid.call("POST", &format!("{topic}/pull/revalidate"), ()).await.expect(400);
    assert_eq!(refused.inner(), "invalid_request");
    grid.call("POST", &format!("{topic}/none/revalidate"), ()).await.expect(404);
}
