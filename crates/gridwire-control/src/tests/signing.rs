//! The keys that deliveries are signed with.

use gridwire_core::signing::SigningKey;

use super::*;

const PATH: &str = "~/topics/orders/eventSubscriptions/billing";

impl Grid {
    async fn keys(&self, action: &str, body: impl Into<Sent>) -> Vec<Value> {
        let answer = self.call("POST", &format!("{PATH}/{action}"), body).await.expect(200);
        answer.body["value"].as_array().unwrap().clone()
    }

    /// The keys that the broker signs with now.
    fn signing(&self) -> Vec<String> {
        let route = self.port.latest().subscriptions().remove(0);
        let now = self.clock.now();
        let keys = route.webhook.as_ref().unwrap().signing.iter();
        keys.filter(|key| key.is_live(now)).map(SigningKey::reveal).collect()
    }
}

fn texts(keys: &[Value]) -> Vec<String> {
    keys.iter().map(|key| key["key"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn keys_are_rotated_with_an_overlap_sealed_and_shown_by_their_action_alone() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    grid.put_subscription("orders", "billing").await;
    assert_eq!(grid.keys("listSigningKeys", ()).await, Vec::<Value>::new());
    assert_eq!(grid.signing(), Vec::<String>::new());

    let first = texts(&grid.keys("rotateSigningKey", ()).await);
    assert_eq!(first.len(), 1);
    assert_eq!(grid.signing(), first);
    let both = grid.keys("rotateSigningKey", json!({ "overlap": "PT2H" })).await;
    assert_eq!(both[0]["signsUntil"], written_time(&grid, Duration::from_secs(7200)));
    let both = texts(&both);
    assert_eq!((both.len(), &both[0]), (2, &first[0]));
    assert_ne!(both[0], both[1]);
    assert_eq!(grid.signing(), both);

    let shown = grid.get(PATH).await.expect(200).body.to_string();
    for key in &both {
        assert!(!shown.contains(&key[6..]));
        for resource in grid.store.dump() {
            assert!(!String::from_utf8_lossy(&resource.value).contains(&key[6..]), "{}", resource.key);
        }
    }
    // A PUT by somebody who knows nothing of keys changes none and asks nobody.
    let asked = grid.port.handshakes().len();
    grid.call("PUT", PATH, webhook_with(&json!({ "labels": ["x"] }))).await.expect(201);
    assert_eq!(grid.port.handshakes().len(), asked);

    let grid = grid.restarted().await;
    assert_eq!(texts(&grid.keys("listSigningKeys", ()).await), both);
    assert_eq!(grid.signing(), both);
    grid.clock.advance(Duration::from_secs(7200));
    assert_eq!(texts(&grid.keys("listSigningKeys", ()).await), both[1..]);
    assert_eq!(grid.signing(), both[1..]);

    assert_eq!(grid.keys("removeSigningKeys", ()).await, Vec::<Value>::new());
    assert_eq!(grid.signing(), Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_be_signed_or_overlap_is_refused() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    grid.put_subscription("orders", "billing").await;
    let rotate = format!("{PATH}/rotateSigningKey");
    for overlap in ["soon", "P31D", "-PT1H"] {
        let refused = grid.call("POST", &rotate, json!({ "overlap": overlap })).await.expect(400);
        assert_eq!(refused.inner(), "invalid_resource", "{overlap}");
    }
    for _ in 0..4 {
        grid.call("POST", &rotate, ()).await.expect(200);
    }
    assert_eq!(grid.call("POST", &rotate, ()).await.expect(409).inner(), "conflict");
    assert_eq!(grid.keys("rotateSigningKey", json!({ "overlap": "PT0S" })).await.len(), 1);

    grid.put_namespace().await;
    let pull = "~/namespaces/ns1/topics/jobs/eventSubscriptions/pull";
    grid.call("PUT", pull, queue(&json!({}))).await.expect(201);
    grid.call("POST", &format!("{pull}/rotateSigningKey"), ()).await.expect(400);
    grid.call("POST", &format!("{pull}/removeSigningKeys"), ()).await.expect(400);
}
