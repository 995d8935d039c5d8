//! The cases for a [`ResourceStore`].

use super::OpenResources;
use crate::resources::{ResourceError, ResourceStore, Revision};

async fn create(store: &dyn ResourceStore, key: &str, value: &[u8]) -> Revision {
    store.create(key, value.to_vec()).await.expect("the key is new")
}

async fn keys(store: &dyn ResourceStore, prefix: &str) -> Vec<String> {
    let listed = store.list(prefix).await.expect("what is there is readable");
    listed.into_iter().map(|resource| resource.key).collect()
}

async fn value(store: &dyn ResourceStore, key: &str) -> Option<(Revision, Vec<u8>)> {
    let found = store.get(key).await.expect("what is there is readable");
    found.map(|resource| {
        assert_eq!(resource.key, key);
        (resource.revision, resource.value)
    })
}

/// A key is created once; it is there as it was given, also after a restart.
pub(super) async fn a_resource_is_created_once(open: OpenResources) {
    let store = open();
    assert_eq!(value(&*store, "topics/a").await, None);
    let revision = create(&*store, "topics/a", b"first").await;
    let exists = Err(ResourceError::Exists { key: "topics/a".into() });
    assert_eq!(store.create("topics/a", b"second".to_vec()).await, exists);
    assert_eq!(value(&*store, "topics/a").await, Some((revision, b"first".to_vec())));
    drop(store);
    let store = open();
    assert_eq!(value(&*store, "topics/a").await, Some((revision, b"first".to_vec())));
}

/// An update with a revision that is not the current one changes nothing.
pub(super) async fn an_update_needs_the_current_revision(open: OpenResources) {
    let store = open();
    let first = create(&*store, "a", b"1").await;
    let second = store.update("a", b"2".to_vec(), first).await.expect("the revision is current");
    assert!(first < second);
    let changed = Err(ResourceError::Changed { key: "a".into() });
    assert_eq!(store.update("a", b"3".to_vec(), first).await, changed);
    let missing = Err(ResourceError::Missing { key: "b".into() });
    assert_eq!(store.update("b", b"3".to_vec(), second).await, missing);
    assert_eq!(value(&*store, "a").await, Some((second, b"2".to_vec())));
}

/// No revision is given twice, to whichever key, also after a delete and a restart: an `ETag` of a resource
/// that was deleted must not fit the one made after it.
pub(super) async fn revisions_rise_over_the_whole_store(open: OpenResources) {
    let store = open();
    let a = create(&*store, "a", b"").await;
    let b = create(&*store, "b", b"").await;
    store.delete(vec!["a".into(), "b".into()]).await.expect("deleting works");
    drop(store);
    let store = open();
    let again = create(&*store, "a", b"").await;
    assert!(a < b && b < again, "{a:?}, {b:?}, {again:?}");
}

/// A delete takes all the keys that are there and does not mind the others.
pub(super) async fn many_are_deleted_in_one_step(open: OpenResources) {
    let store = open();
    for key in ["a", "b", "c", "d"] {
        create(&*store, key, b"").await;
    }
    store.delete(vec!["d".into(), "nowhere".into(), "b".into()]).await.expect("deleting works");
    assert_eq!(keys(&*store, "").await, ["a", "c"]);
    store.delete(vec!["nowhere".into()]).await.expect("deleting works");
    store.delete(Vec::new()).await.expect("deleting works");
    assert_eq!(keys(&*store, "").await, ["a", "c"]);
    drop(store);
    assert_eq!(keys(&*open(), "").await, ["a", "c"]);
}

/// A list has every key with the prefix and no other, in order of bytes.
pub(super) async fn a_prefix_lists_in_order_of_key(open: OpenResources) {
    let store = open();
    for key in ["topics/b", "topics/a/x", "topics/a", "topics", "topics0", "zebra", "topics/ä", "alpha"] {
        create(&*store, key, key.as_bytes()).await;
    }
    assert_eq!(keys(&*store, "topics/").await, ["topics/a", "topics/a/x", "topics/b", "topics/ä"]);
    assert_eq!(keys(&*store, "topics/a").await, ["topics/a", "topics/a/x"]);
    assert_eq!(keys(&*store, "none").await, [""; 0]);
    assert_eq!(keys(&*store, "").await.len(), 8);
    let listed = store.list("zebra").await.expect("what is there is readable");
    assert_eq!(listed[0].value, b"zebra");
}

/// Each sequence gives every number once, also over a restart.
pub(super) async fn numbers_are_never_given_twice(open: OpenResources) {
    let store = open();
    let first = store.next_numbers("topic", 1).await.expect("there are numbers left");
    let run = store.next_numbers("topic", 10).await.expect("there are numbers left");
    assert!(first < run);
    let other = store.next_numbers("subscription", 1).await.expect("there are numbers left");
    assert_eq!(other, first, "sequences begin alike and do not disturb one another");
    drop(store);
    let store = open();
    let later = store.next_numbers("topic", 1).await.expect("there are numbers left");
    assert!(run + 10 <= later, "{run} to {} were given, and then {later}", run + 9);
    assert!(store.next_numbers("topic", u32::MAX).await.is_err(), "numbers do not start again");
}

/// A receiver sees a new value after each write, and none after what changed nothing.
pub(super) async fn a_watcher_sees_each_write(open: OpenResources) {
    let store = open();
    let mut watch = store.watch();
    let mut seen = *watch.borrow_and_update();
    let mut expect_change = |is_expected: bool, what: &str| {
        assert_eq!(watch.has_changed().expect("the store is there"), is_expected, "{what}");
        let now = *watch.borrow_and_update();
        assert_eq!(now != seen, is_expected, "{what}");
        seen = now;
    };
    let revision = create(&*store, "a", b"1").await;
    expect_change(true, "after a create");
    let _ = store.create("a", b"2".to_vec()).await;
    expect_change(false, "after a refused create");
    store.update("a", b"2".to_vec(), revision).await.expect("the revision is current");
    expect_change(true, "after an update");
    store.delete(vec!["b".into()]).await.expect("deleting works");
    expect_change(false, "after a delete of nothing");
    store.delete(vec!["a".into()]).await.expect("deleting works");
    expect_change(true, "after a delete");
}
