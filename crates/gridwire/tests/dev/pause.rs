//! What the operator decides of a subscription's deliveries: that there are none, and how many at most.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::arm::{GROUP, SUBSCRIPTION, Topic, webhook_body};
use crate::support::dev::{Dev, seconds, without_jitter};
use crate::support::endpoint::{endpoint, gauge};
use crate::support::{Arm, Reply, Server, Sink, events, program};

const SOON: Duration = Duration::from_secs(15);
const HOOK: &str = "topics/orders/eventSubscriptions/hook";

/// What the program says, and whether it succeeded.
fn told(server: &Server, line: &str) -> (bool, String) {
    let output = program()
        .args(["subscription"])
        .args(line.split(' '))
        .arg("--data-dir")
        .arg(server.data_dir())
        .env("GRIDWIRE_SUBSCRIPTION_ID", SUBSCRIPTION)
        .env("GRIDWIRE_RESOURCE_GROUP", GROUP)
        .output()
        .expect("the program runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// What it says when it succeeds.
#[track_caller]
fn done(server: &Server, line: &str) -> String {
    let (succeeded, said) = told(server, line);
    assert!(succeeded, "{line}: {said}");
    said
}

fn publish(server: &Server, topic: &Topic, count: usize) {
    let batch: Vec<Value> = (0..count).map(|number| events::grid_event(&format!("e-{number}"))).collect();
    server.send(&topic.publish(events::JSON, &json!(batch))).expect(200);
}

#[test]
fn a_paused_subscription_is_sent_nothing_over_a_crash_and_a_put_until_it_is_resumed() {
    let mut server = Server::launch(without_jitter());
    let sink = Sink::start();
    let topic = Arm::new(&server).topic("orders", &json!({}));
    let hook = Arm::new(&server).webhook(&topic, "hook", &sink.url("/hook"), &json!({}));
    let hook = hook["id"].as_str().expect("an id");
    let short = json!({ "retryPolicy": { "eventTimeToLiveInMinutes": 5 } });
    Arm::new(&server).webhook(&topic, "short", &sink.url("/short"), &short);
    Arm::new(&server).webhook(&topic, "well", &sink.url("/well"), &json!({}));
    // One event is on its second attempt when the pause comes.
    Dev(&server).set_faults(hook, &["500"]);
    publish(&server, &topic, 1);
    Dev(&server).drain();
    let said = done(&server, "pause orders/hook");
    assert!(said.starts_with("orders/hook is paused"), "{said}");
    done(&server, "pause orders/short");
    publish(&server, &topic, 3);
    Dev(&server).advance("2m");
    sink.wait_at("/well", 4, SOON);

    let waits = Dev(&server).drained("hook");
    assert_eq!((&waits["available"], &waits["heldBy"]), (&json!(4), &json!("paused")), "{waits}");
    assert!(waits["detail"].as_str().is_some_and(|detail| detail.contains("operator")), "{waits}");
    assert!(sink.at("/hook").is_empty());
    let shown = endpoint(&server, hook);
    assert_eq!((&shown["rule"], &shown["paceBy"]), (&json!("paused"), &json!("operator")), "{shown}");
    assert_eq!((gauge(&server, "hook", "paused"), gauge(&server, "well", "paused")), (Some(1.0), Some(0.0)));
    assert!(done(&server, "endpoint orders/hook").starts_with("paused: The operator paused it"));

    server.kill9();
    server.restart();
    // A client that knows nothing of pauses writes the subscription anew.
    Arm::new(&server).put(HOOK, &webhook_body(&sink.url("/hook"), &json!({ "labels": ["x"] })));
    assert_eq!(endpoint(&server, hook)["rule"], "paused");
    // The time to live of the paused goes on.
    Dev(&server).advance("4m");
    let short = Dev(&server).drained("short");
    assert_eq!(
        (&short["delivered"], &short["expired"], &short["available"]),
        (&json!(1), &json!(3), &json!(0))
    );
    assert_eq!(Dev(&server).drained("hook")["available"], 4);
    assert!(sink.at("/hook").is_empty());

    assert!(done(&server, "resume orders/hook").starts_with("orders/hook is delivered"));
    sink.wait_at("/hook", 4, SOON);
    let drained = Dev(&server).drained("hook");
    assert_eq!((&drained["delivered"], &drained["heldBy"]), (&json!(4), &Value::Null), "{drained}");
    assert_eq!(gauge(&server, "hook", "paused"), Some(0.0));
}

#[test]
fn what_waits_for_a_connection_is_not_sent_after_the_pause_nor_counted() {
    let server = Server::start();
    // It answers none of the requests that there are connections for: behind them as many wait to be sent.
    let sink = Sink::scripted(|_, _| Reply::Held);
    let topic = Arm::new(&server).topic("orders", &json!({}));
    Arm::new(&server).webhook(&topic, "hook", &sink.url("/hook"), &json!({}));
    publish(&server, &topic, 100);
    sink.wait_at("/hook", 32, SOON);
    done(&server, "pause orders/hook");
    sink.let_go();
    let left = Dev(&server).drained("hook");
    assert_eq!((&left["delivered"], &left["available"]), (&json!(32), &json!(68)), "{left}");
    assert_eq!(sink.at("/hook").len(), 32, "what was being sent has ended, and nothing followed");

    done(&server, "resume orders/hook");
    let sent = sink.wait_at("/hook", 100, SOON);
    assert!(sent.iter().all(|one| one.header("aeg-delivery-count") == Some("0")));
    assert_eq!(Dev(&server).drained("hook")["delivered"], 100);
}

#[test]
fn a_cap_is_kept_to_within_five_hundredths_by_the_clock_and_the_lower_rule_is_shown() {
    let server = Server::launch(without_jitter());
    let sink = Sink::start();
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("orders", &json!({}));
    let hook = arm.webhook(&topic, "hook", &sink.url("/hook"), &json!({}));
    let hook = hook["id"].as_str().expect("an id");
    let said = done(&server, "rate orders/hook --per-second 20");
    assert_eq!(said.trim(), "orders/hook is delivered; at most 20 requests a second");
    publish(&server, &topic, 201);
    let first = dev.drained("hook");
    assert_eq!((&first["heldBy"], &first["drained"]), (&json!("paced"), &json!(true)), "{first}");
    assert!(first["detail"].as_str().is_some_and(|detail| detail.contains("operator's cap")), "{first}");
    dev.advance("11s");
    assert_eq!(dev.drained("hook")["delivered"], 201);
    let attempts = dev.attempts(hook);
    let (first, last) = (&attempts[0], &attempts[attempts.len() - 1]);
    let took = seconds(first.began, last.began);
    assert!((9.5..=10.5).contains(&took), "200 requests after the first took {took} s");

    let shown = endpoint(&server, hook);
    assert_eq!((&shown["rule"], &shown["requestsPerMinute"]), (&json!("paced"), &json!(1200)), "{shown}");
    assert_eq!(gauge(&server, "hook", "requests_per_minute_max"), Some(1200.0));
    let text = done(&server, "endpoint orders/hook");
    assert!(text.contains("at most 1200, by the operator"), "{text}");

    assert!(done(&server, "rate orders/hook --per-second none").contains("without a cap"));
    assert_eq!(endpoint(&server, hook)["rule"], "free");
    assert_eq!(gauge(&server, "hook", "requests_per_minute_max"), Some(0.0));
}

#[test]
fn what_is_no_rate_or_not_pushed_is_refused_and_says_why() {
    let server = Server::start();
    let sink = Sink::start();
    let arm = Arm::new(&server);
    let topic = arm.topic("orders", &json!({}));
    arm.webhook(&topic, "hook", &sink.url("/hook"), &json!({}));
    let space = arm.namespace("spaces");
    arm.namespace_topic(&space, "jobs");
    arm.queue(&space, "jobs", "pulled", &json!({}), &json!({}));
    for (line, says) in [
        ("rate orders/hook --per-second 0", "from 1 on"),
        ("rate orders/hook --per-second many", "from 1 on"),
        ("rate orders/hook --per-second 100001", "requestsPerSecond"),
        ("rate orders/hook", "--per-second"),
        ("pause orders/nobody", "there is no event subscription"),
        ("pause spaces/jobs/pulled", "Only event subscriptions that push"),
        ("resume spaces/jobs/pulled", "Only event subscriptions that push"),
        ("rate spaces/jobs/pulled --per-second 5", "Only event subscriptions that push"),
    ] {
        let (succeeded, said) = told(&server, line);
        assert!(!succeeded && said.contains(says), "{line}: {said}");
    }
}
