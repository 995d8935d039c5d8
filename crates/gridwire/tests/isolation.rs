//! One bad endpoint harms only itself (`reliability` promise 9). Bounds are generous: how much slower a
//! neighbour may get is for a load generator to measure, here it is whether it is served at all.

mod support;

use std::time::Duration;

use serde_json::{Value, json};

use support::arm::dead_letters;
use support::pull::Queue;
use support::time::pause;
use support::{Arm, Client, Reply, Server, Sink, events, now};

const EVENTS: usize = 300;
/// For all events of a test to reach a healthy endpoint; alone it takes a fraction of a second.
const PROMPT: Duration = Duration::from_secs(20);
/// From one publish to a healthy endpoint while its neighbours misbehave.
const ONE_PROMPT: Duration = Duration::from_secs(5);

#[test]
fn a_hanging_and_a_failing_endpoint_do_not_hold_up_the_healthy_ones() {
    let server = Server::start();
    let hanging = Sink::scripted(|_, _| Reply::After(Duration::from_secs(30), 200));
    let failing = Sink::scripted(|_, _| Reply::Status(500));
    let healthy = Sink::start();
    let arm = Arm::new(&server);
    // Neighbours on one topic, on another topic, and in a namespace.
    let shared = arm.topic("shared", &json!({}));
    arm.webhook(&shared, "hanging", &hanging.url("/shared"), &json!({}));
    arm.webhook(&shared, "failing", &failing.url("/shared"), &json!({}));
    arm.webhook(&shared, "healthy", &healthy.url("/shared"), &json!({}));
    let own = arm.topic("own", &json!({}));
    arm.webhook(&own, "healthy", &healthy.url("/own"), &json!({}));
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    arm.push(&namespace, "orders", "hanging", &hanging.url("/spaces"), &json!({}));
    arm.push(&namespace, "orders", "healthy", &healthy.url("/spaces"), &json!({}));
    arm.queue(&namespace, "orders", "pulled", &json!({}), &json!({}));

    let mut client = Client::new(server.http);
    let begun = now();
    for number in 0..EVENTS {
        let (id, own_id) = (format!("s-{number}"), format!("o-{number}"));
        for request in [
            shared.publish(events::JSON, &json!([events::grid_event(&id)])),
            own.publish(events::JSON, &json!([events::grid_event(&own_id)])),
            namespace.publish("orders", &json!([events::cloud_event(&id)])),
        ] {
            client.send(&request).expect("an answer").expect(200);
        }
    }
    let published = begun.elapsed();
    assert!(published < PROMPT, "publishing took {published:?}");
    let mut received = 0;
    let queue = Queue::new(&namespace, "orders", "pulled");
    while received < EVENTS {
        let events = queue.receive(&mut client, 100).expect("an answer");
        assert!(!events.is_empty(), "only {received} of {EVENTS} were received");
        let tokens: Vec<&str> = events.iter().map(|one| one.token.as_str()).collect();
        received += queue.settle(&mut client, "acknowledge", "", &tokens).expect("an answer").succeeded.len();
    }
    for path in ["/shared", "/own", "/spaces"] {
        let deliveries = healthy.wait_at(path, EVENTS, PROMPT);
        let mut ids: Vec<String> = deliveries.iter().flat_map(|delivery| delivery.ids("id")).collect();
        ids.sort();
        ids.dedup();
        assert_eq!((ids.len(), deliveries.len()), (EVENTS, EVENTS), "each event once, to {path}");
    }

    // Now that the bad ones are known to be bad and have a backlog, a new event still finds its way.
    assert!(
        !hanging.deliveries().is_empty() && !failing.deliveries().is_empty(),
        "nothing was held up at all"
    );
    for round in 0..5 {
        let id = format!("late-{round}");
        let sent = now();
        client
            .send(&shared.publish(events::JSON, &json!([events::grid_event(&id)])))
            .expect("an answer")
            .expect(200);
        let came = healthy.wait("the late event", PROMPT, |deliveries| {
            let is_it = |delivery: &&support::Delivery| delivery.ids("id") == [id.clone()];
            deliveries.iter().find(is_it).map(|delivery| delivery.at)
        });
        let took = came.saturating_duration_since(sent);
        assert!(took < ONE_PROMPT, "event {round} took {took:?}");
    }
}

#[test]
fn a_bad_endpoint_is_not_hammered() {
    let server = Server::start();
    let failing = Sink::scripted(|_, _| Reply::Status(500));
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({}));
    let more = json!({ "deadLetterDestination": dead_letters("letters1", "failing") });
    arm.webhook(&topic, "failing", &failing.url("/failing"), &more);
    let batch: Vec<Value> = (0..EVENTS).map(|number| events::grid_event(&format!("e-{number}"))).collect();
    server.send(&topic.publish(events::JSON, &json!(batch))).expect(200);
    failing.wait_at("/failing", 1, PROMPT);
    pause(Duration::from_secs(6));
    // Before the first step of the ladder is over no event may come a second time.
    let mut ids: Vec<String> = failing.deliveries().iter().flat_map(|delivery| delivery.ids("id")).collect();
    let attempts = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(attempts, ids.len(), "an event was tried again within six seconds");
}
