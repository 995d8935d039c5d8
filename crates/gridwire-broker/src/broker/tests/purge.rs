//! Marks of redriven letters, and when a purge takes them.

use std::path::Path;

use gridwire_core::dead_letter::LetterKey;
use gridwire_core::event::DeliverySchema;
use gridwire_core::ids::Offset;
use gridwire_core::patience::DeadLetterPolicy;
use gridwire_core::retry::Tier;
use gridwire_core::routing::DeadLetterDestination;

use super::*;
use crate::dead_letter::{Kind, LetterState, Shelf};
use crate::push::testing::{TestServer, subscription};

/// A subscription with a destination for letters whose endpoint, at `url`, takes nothing.
fn route(url: &str) -> Arc<SubscriptionRoute> {
    let mut route = Arc::into_inner(subscription(1, url, DeliverySchema::EventGrid)).expect("ours alone");
    route.policy.dead_letter = Some(DeadLetterPolicy::documented(Tier::Basic));
    route.dead_letter =
        Some(DeadLetterDestination { account: "store".to_owned(), container: "failed".to_owned() });
    Arc::new(route)
}

/// Waits until the one queue has so many events that wait for their letter.
async fn until_letters(broker: &Broker, count: usize) {
    let shards = broker.shards().expect("a table is in use");
    for _ in 0..10_000 {
        if shards.status().await.expect("it runs")[0].letters == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never came true");
}

/// Purges all marks, and returns how many went.
async fn purge(broker: &Broker, route: &SubscriptionRoute, shelf: &Shelf, id: &str) -> u64 {
    let order = Record {
        kind: Kind::Purge { redriven: true },
        resource: route.resource_id.clone(),
        prefix: shelf.prefix().to_owned(),
        ..record(id, route.number.0)
    };
    let job = broker.start_job(order).await.expect("started");
    eventually(|| job.record().state == JobState::Done).await;
    job.record().taken
}

#[tokio::test]
async fn a_mark_stays_until_its_letter_is_never_written_again_and_takes_a_second_copy_with_it() {
    let refusing = TestServer::answering("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let (disk, clock) = (new_disk(), testing::new_clock());
    let broker = testing::start(&disk, &clock, options());
    let route = route(&refusing.url());
    broker.install(testing::table(&route)).await.expect("in use");
    testing::append(&*broker.outside().log, route.topic, &[route.slot], 1).await;
    until_letters(&broker, 1).await;

    // A process before this one had written the letter, and it was redriven since.
    let letters = &broker.outside().dead_letters;
    let shelf = Shelf::of(letters, &route).expect("it has a destination");
    let key = LetterKey::of(letters.store(), route.number, Offset(0), broker.now());
    let at = |state| Path::new("/data/deadletter/store/failed").join(shelf.path(key, state));
    let (mark, copy) = (at(LetterState::Redriven), at(LetterState::Waiting));
    disk.create_dir_all(mark.parent().expect("a directory")).expect("made");
    disk.put(&mark, b"{}".to_vec());
    assert_eq!(purge(&broker, &route, &shelf, "a").await, 0);
    assert!(disk.contents(&mark).is_some(), "the letter is written again in an hour");

    clock.advance(HOUR);
    until_letters(&broker, 0).await;
    assert!(disk.contents(&copy).is_some());
    assert_eq!(purge(&broker, &route, &shelf, "b").await, 1);
    assert_eq!((disk.contents(&mark), disk.contents(&copy)), (None, None));
}
