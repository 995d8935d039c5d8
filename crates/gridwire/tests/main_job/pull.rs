//! Events that are received: locked, settled as asked, and waited for.

use std::time::Duration;

use serde_json::{Value, json};

use crate::letters;
use crate::support::arm::namespace_dead_letters;
use crate::support::pull::Queue;
use crate::support::time::pause;
use crate::support::{Arm, Client, Server, events, metrics, now};

#[test]
fn received_events_are_settled_as_asked() {
    let server = Server::start();
    let arm = Arm::new(&server);
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    let dead = |name: &str| json!({ "deadLetterDestinationWithResourceIdentity": namespace_dead_letters("letters1", name) });
    let mut twice = dead("twice");
    twice["maxDeliveryCount"] = json!(2);
    arm.queue(&namespace, "orders", "plain", &dead("plain"), &json!({}));
    arm.queue(&namespace, "orders", "twice", &twice, &json!({}));
    let batch: Vec<Value> = ["a", "b", "c", "d"].map(events::cloud_event).into();
    server.send(&namespace.publish("orders", &json!(batch))).expect(200);
    let mut client = Client::new(server.http);
    let plain = Queue::new(&namespace, "orders", "plain");
    let received = plain.receive(&mut client, 100).expect("an answer");
    assert_eq!(received.len(), 4);
    let token = |id: &str| received.iter().find(|one| one.id == id).expect("it was received").token.as_str();

    // Acknowledge, twice; renew; a token that is none, beside a right one that is there twice.
    let tokens = [token("a"), "nonsense", token("a")];
    let done = plain.settle(&mut client, "acknowledge", "", &tokens).expect("an answer");
    assert_eq!(done.succeeded, [token("a")]);
    assert_eq!(done.failed, [("nonsense".to_owned(), "BadToken".to_owned())]);
    let counted = || metrics::family(&server.metrics(), &["gridwire_pull_tokens_failed_total{"]);
    let series = r#"gridwire_pull_tokens_failed_total{topic="spaces/orders",subscription="plain",operation="acknowledge""#;
    assert_eq!(counted(), [format!(r#"{series},error="bad_token"}} 1"#)], "each failure is counted once");
    let done = plain.settle(&mut client, "acknowledge", "", &[token("a")]).expect("an answer");
    assert_eq!(done.failed, [(token("a").to_owned(), "TokenLost".to_owned())]);
    let done = plain.settle(&mut client, "renewLock", "", &[token("b")]).expect("an answer");
    assert_eq!(done.succeeded, [token("b")]);

    // Release: at once, and after ten seconds.
    let released = now();
    let done =
        plain.settle(&mut client, "release", "&releaseDelayInSeconds=10", &[token("d")]).expect("an answer");
    assert_eq!(done.succeeded.len(), 1);
    let done =
        plain.settle(&mut client, "release", "&releaseDelayInSeconds=0", &[token("b")]).expect("an answer");
    assert_eq!(done.succeeded.len(), 1);
    let again = plain.receive(&mut client, 100).expect("an answer");
    assert_eq!(again.iter().map(|one| (one.id.as_str(), one.delivery_count)).collect::<Vec<_>>(), [("b", 2)]);
    assert_ne!(again[0].token, token("b"), "a new lock has a new token");
    let done = plain.settle(&mut client, "acknowledge", "", &[token("b")]).expect("an answer");
    assert_eq!(done.failed.first().map(|(_, code)| code.as_str()), Some("TokenLost"));

    // Reject: a dead letter.
    let done = plain.settle(&mut client, "reject", "", &[token("c")]).expect("an answer");
    assert_eq!(done.succeeded.len(), 1);
    let container = server.data_dir().join("deadletter/letters1/plain");
    let (path, letter) = letters(&container, 1).remove(0);
    assert!(path.starts_with(container.join("spaces/orders/plain")), "{}", path.display());
    assert_eq!(letter[0]["event"], events::cloud_event("c"));
    assert_eq!(letter[0]["deadLetterProperties"]["deliveryattempts"], 1, "{letter}");
    assert_eq!(letter[0]["deadLetterProperties"]["deliveryresult"], "Event was rejected.", "{letter}");

    // The most deliveries there may be.
    let queue = Queue::new(&namespace, "orders", "twice");
    for count in 1..=2 {
        let received = queue.receive(&mut client, 100).expect("an answer");
        assert_eq!(received.len(), 4, "delivery {count}");
        assert!(received.iter().all(|one| one.delivery_count == count));
        let tokens: Vec<&str> = received.iter().map(|one| one.token.as_str()).collect();
        assert_eq!(queue.settle(&mut client, "release", "", &tokens).expect("an answer").succeeded.len(), 4);
    }
    let dead = letters(&server.data_dir().join("deadletter/letters1/twice"), 4);
    for (_, letter) in &dead {
        let properties = &letter[0]["deadLetterProperties"];
        assert_eq!(properties["deadletterreason"], "Maximum delivery attempts was exceeded.", "{letter}");
        assert_eq!(properties["deliveryresult"], "Event was not acknowledged nor rejected.", "{letter}");
        assert_eq!(properties["deliveryattempts"], 2, "{letter}");
    }

    let late = plain.receive(&mut client, 100).expect("an answer");
    assert_eq!(late.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["d"]);
    let after = late[0].arrived.duration_since(released);
    assert!((Duration::from_secs(10)..Duration::from_secs(14)).contains(&after), "it came after {after:?}");
    let begun = now();
    assert!(queue.receive(&mut client, 100).expect("an answer").is_empty());
    let waited = begun.elapsed();
    assert!((Duration::from_millis(9_900)..Duration::from_secs(14)).contains(&waited), "{waited:?}");
}

#[test]
fn a_long_poll_is_answered_when_an_event_comes() {
    let server = Server::start();
    let arm = Arm::new(&server);
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    arm.queue(&namespace, "orders", "plain", &json!({}), &json!({}));
    let queue = Queue::new(&namespace, "orders", "plain");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| queue.receive(&mut Client::new(server.http), 10).expect("an answer"));
        pause(Duration::from_millis(500));
        let published = now();
        server.send(&namespace.publish("orders", &json!([events::cloud_event("a")]))).expect(200);
        let received = waiting.join().expect("the receiver did not panic");
        assert_eq!(received.len(), 1);
        let wait = received[0].arrived.saturating_duration_since(published);
        assert!(wait < Duration::from_secs(3), "the event took {wait:?}");
    });
}
