//! Subscriptions that end by themselves.

use gridwire_store::ResourceError;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::Expiry;

const HOUR: Duration = Duration::from_secs(3600);

fn expiring(at: Timestamp) -> Value {
    json!({ "properties": {
        "destination": { "endpointType": "WebHook", "properties": { "endpointUrl": "https://example.com/hook" } },
        "expirationTimeUtc": at.to_string(),
    } })
}

impl Grid {
    async fn put_expiring(&self, name: &str, at: Timestamp) -> Answer {
        let path = format!("~/topics/orders/eventSubscriptions/{name}");
        self.call("PUT", &path, expiring(at)).await.expect(201)
    }

    /// The names of the subscriptions that the delivery port has.
    fn delivering(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.control.table().subscriptions().iter().map(|route| route.name.clone()).collect();
        names.sort_unstable();
        names
    }
}

async fn grid() -> Grid {
    let grid = Grid::new().await;
    grid.call("PUT", "~/topics/orders", json!({"location": "local"})).await.expect(201);
    grid
}

#[tokio::test]
async fn a_subscription_ends_at_its_expiration_time_and_not_before() {
    let grid = grid().await;
    let now = grid.clock.now();
    grid.put_expiring("first", now + HOUR).await;
    grid.put_expiring("second", now + 2 * HOUR).await;
    grid.put_subscription("orders", "endless").await;
    let nothing = Expiry { removed: 0, failed: 0, next: now + HOUR };
    assert_eq!(grid.control.expire().await, nothing);

    grid.clock.advance(Duration::from_millis(3_599_999));
    assert_eq!(grid.control.expire().await, nothing);
    grid.clock.advance(Duration::from_millis(1));
    assert_eq!(grid.control.expire().await, Expiry { removed: 1, next: now + 2 * HOUR, ..nothing });
    assert_eq!(grid.delivering(), ["endless", "second"]);
    grid.get("~/topics/orders/eventSubscriptions/first").await.expect(404);
    assert!(grid.control.is_installed());
    assert_eq!(grid.control.expire().await, Expiry { next: now + 2 * HOUR, ..nothing });
}

#[tokio::test]
async fn an_expiration_counts_as_it_was_set_last() {
    let grid = grid().await;
    let now = grid.clock.now();
    let nothing = Expiry { removed: 0, failed: 0, next: Timestamp::MAX };
    let next = |hours| Expiry { next: now + hours * HOUR, ..nothing };
    grid.put_expiring("moved", now + HOUR).await;
    grid.put_expiring("removed", now + 3 * HOUR).await;
    let path = "~/topics/orders/eventSubscriptions/moved";
    grid.call("PUT", path, expiring(now + 4 * HOUR)).await.expect(201);
    assert_eq!(grid.control.expire().await, next(3));
    grid.call("DELETE", "~/topics/orders/eventSubscriptions/removed", ()).await.expect(204);
    assert_eq!(grid.control.expire().await, next(4));
    grid.call("PUT", path, expiring(now + 2 * HOUR)).await.expect(201);
    assert_eq!(grid.control.expire().await, next(2));
    grid.clock.advance(2 * HOUR);
    assert_eq!(grid.control.expire().await, Expiry { removed: 1, ..nothing });
    assert!(grid.delivering().is_empty());
}

#[tokio::test]
async fn what_expired_while_nobody_looked_ends_at_the_next_look() {
    let grid = grid().await;
    grid.put_expiring("first", grid.clock.now() + HOUR).await;
    grid.clock.advance(2 * HOUR);
    let again = grid.restarted().await;
    assert_eq!(again.control.expire().await, Expiry { removed: 1, failed: 0, next: Timestamp::MAX });
    assert!(again.delivering().is_empty());
}

#[tokio::test]
async fn a_removal_that_fails_is_told_and_made_up_for() {
    let grid = grid().await;
    grid.put_expiring("first", grid.clock.now() + HOUR).await;
    grid.clock.advance(HOUR);
    grid.store.fail_next(ResourceError::StorageFull, false);
    assert_eq!(grid.control.expire().await, Expiry { removed: 0, failed: 1, next: Timestamp::MAX });
    assert_eq!(grid.delivering(), ["first"]);
    assert_eq!(grid.control.expire().await, Expiry { removed: 1, failed: 0, next: Timestamp::MAX });
}

#[tokio::test]
async fn the_reconciler_wakes_for_changes_and_for_the_clock() {
    let grid = grid().await;
    let stop = CancellationToken::new();
    let task = tokio::task::JoinSet::from_iter([Arc::clone(&grid.control).keep_expiring(stop.clone())]);
    // It is asleep for ever when it is told of this one.
    tokio::task::yield_now().await;
    grid.put_expiring("first", grid.clock.now() + HOUR).await;
    tokio::task::yield_now().await;
    grid.clock.advance(HOUR);
    let gone = async {
        while !grid.delivering().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it is removed");
    stop.cancel();
    task.join_all().await;
}
