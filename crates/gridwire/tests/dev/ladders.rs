//! When attempts are made: the documented ladders of both tiers, for every class of outcome.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::arm::{Namespace, Topic, dead_letters, namespace_dead_letters};
use crate::support::dev::{Attempt, Dev, seconds, time, without_jitter};
use crate::support::{Arm, Reply, Server, Sink, events};

/// Deliveries come within milliseconds; a test machine may be busy.
const SOON: Duration = Duration::from_secs(15);
/// "To the second": how much later than its due time an attempt may begin.
const LATE_MAX: f64 = 1.0;
const DAY: &str = "25h";

const BASIC: [f64; 10] = [10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 10_800.0, 21_600.0, 43_200.0];
const NAMESPACE: [f64; 9] = [10.0, 20.0, 30.0, 240.0, 300.0, 300.0, 300.0, 300.0, 300.0];
const TIMEOUTS: &str = "timeout*1000";

/// The status that a path such as `/500` asks for.
fn by_path() -> Sink {
    Sink::scripted(|delivery, _| {
        Reply::Status(delivery.path.trim_start_matches('/').parse().expect("a status"))
    })
}

/// The basic ladder, no step shorter than this.
fn at_least(minimum: f64) -> Vec<f64> {
    BASIC.iter().map(|wait| wait.max(minimum)).collect()
}

/// Waits between attempts, each from the end of one to the beginning of the next.
fn waits(attempts: &[Attempt]) -> Vec<f64> {
    attempts.windows(2).map(|pair| seconds(pair[0].ended, pair[1].began)).collect()
}

#[track_caller]
fn check_waits(name: &str, attempts: &[Attempt], expected: &[f64]) {
    let waits = waits(attempts);
    assert_eq!(waits.len(), expected.len(), "{name}: {waits:?} where {expected:?} was expected");
    for (wait, expected) in waits.iter().zip(expected) {
        // Times are told in whole milliseconds.
        let late = wait - expected;
        assert!((-0.002..LATE_MAX).contains(&late), "{name}: {waits:?} where {expected:?} was expected");
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no `{name}` in {value}"))
}

/// Every file below a directory, as text.
fn files(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let content = fs::read_to_string(&path).expect("a dead letter is text");
            found.push((path.display().to_string(), content));
        }
    }
    found
}

/// A subscription of a custom topic with a dead-letter destination, and its id.
fn basic(arm: &Arm<'_>, topic: &Topic, name: &str, url: &str, more: &Value) -> String {
    let mut properties = json!({ "deadLetterDestination": dead_letters("store", "letters") });
    crate::support::arm::merge(&mut properties, more);
    text(&arm.webhook(topic, name, url, &properties), "id").to_owned()
}

fn namespace(arm: &Arm<'_>, space: &Namespace, name: &str, url: &str, more: &Value) -> String {
    let letters = namespace_dead_letters("store", "letters");
    let mut properties = json!({ "deadLetterDestinationWithResourceIdentity": letters });
    crate::support::arm::merge(&mut properties, more);
    arm.push(space, "orders", name, url, &properties);
    let resource = format!("namespaces/{}/topics/orders/eventSubscriptions/{name}", space.name);
    text(&arm.get(&resource), "id").to_owned()
}

#[test]
fn attempts_on_custom_topics_follow_the_documented_ladder_for_every_class_of_outcome() {
    let server = Server::launch(without_jitter());
    let (sink, refusing) = (by_path(), Sink::start());
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("orders", &json!({}));
    let retried: Vec<(&str, Vec<f64>)> = vec![
        ("500", BASIC.to_vec()),
        ("429", BASIC.to_vec()),
        ("302", BASIC.to_vec()),
        ("404", at_least(300.0)),
        ("408", at_least(120.0)),
        ("503", at_least(30.0)),
    ];
    let ids: Vec<String> = retried
        .iter()
        .map(|(status, _)| {
            basic(&arm, &topic, &format!("s{status}"), &sink.url(&format!("/{status}")), &json!({}))
        })
        .collect();
    let timeouts = basic(&arm, &topic, "timeouts", &sink.url("/200"), &json!({}));
    dev.set_faults(&timeouts, &[TIMEOUTS]);
    let refused = basic(&arm, &topic, "refused", &refusing.url("/200"), &json!({}));
    drop(refusing);
    let finals: Vec<(u16, String)> = [400, 401, 403, 413]
        .map(|status| {
            let url = sink.url(&format!("/{status}"));
            (status, basic(&arm, &topic, &format!("s{status}"), &url, &json!({})))
        })
        .to_vec();

    server.send(&topic.publish(events::JSON, &json!([events::grid_event("e")]))).expect(200);
    dev.drain();
    for (status, id) in &finals {
        let drained = dev.drained(&format!("s{status}"));
        assert_eq!((&drained["deadLettered"], &drained["waiting"]), (&json!(1), &json!(0)), "{drained}");
        assert_eq!(dev.attempts(id).len(), 1, "{status}");
    }
    dev.advance(DAY);
    for ((status, expected), id) in retried.iter().zip(&ids) {
        check_waits(status, &dev.attempts(id), expected);
        assert_eq!(sink.at(&format!("/{status}")).len(), expected.len() + 1, "{status}");
    }
    check_waits("timeouts", &dev.attempts(&timeouts), &BASIC);
    check_waits("refused", &dev.attempts(&refused), &BASIC);
    for (status, _) in &finals {
        assert_eq!(sink.at(&format!("/{status}")).len(), 1, "{status} is not tried again");
    }

    // All that was tried for a day has outlived its time to live.
    let letters = files(&server.data_dir().join("deadletter"));
    let of = |reason: &str| letters.iter().filter(|(_, letter)| letter.contains(reason)).count();
    assert_eq!(of("TimeToLiveExceeded"), retried.len() + 2, "{letters:?}");
    assert_eq!(letters.len(), retried.len() + 2 + finals.len(), "{letters:?}");
}

#[test]
fn attempts_on_namespace_topics_follow_the_documented_ladder_for_every_class_of_outcome() {
    let server = Server::launch(without_jitter());
    let (sink, refusing) = (by_path(), Sink::start());
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let space = arm.namespace("spaces");
    arm.namespace_topic(&space, "orders");
    let retried = ["500", "503", "408", "429", "302"];
    let ids: Vec<String> = retried
        .iter()
        .map(|status| {
            namespace(&arm, &space, &format!("s{status}"), &sink.url(&format!("/{status}")), &json!({}))
        })
        .collect();
    let timeouts = namespace(&arm, &space, "timeouts", &sink.url("/200"), &json!({}));
    dev.set_faults(&timeouts, &[TIMEOUTS]);
    let refused = namespace(&arm, &space, "refused", &refusing.url("/200"), &json!({}));
    drop(refusing);
    let finals = [400, 401, 403, 404, 413, 414];
    for status in finals {
        let url = sink.url(&format!("/{status}"));
        namespace(&arm, &space, &format!("s{status}"), &url, &json!({}));
    }

    server.send(&space.publish("orders", &json!([events::cloud_event("e")]))).expect(200);
    for status in finals {
        let drained = dev.drained(&format!("s{status}"));
        assert_eq!((&drained["deadLettered"], &drained["waiting"]), (&json!(1), &json!(0)), "{drained}");
    }
    dev.advance("1h");
    for (status, id) in retried.iter().zip(&ids) {
        check_waits(status, &dev.attempts(id), &NAMESPACE);
        let drained = dev.drained(&format!("s{status}"));
        assert_eq!(drained["deadLettered"], 1, "ten deliveries are all there are: {drained}");
    }
    check_waits("timeouts", &dev.attempts(&timeouts), &NAMESPACE);
    check_waits("refused", &dev.attempts(&refused), &NAMESPACE);
    for status in finals {
        assert_eq!(sink.at(&format!("/{status}")).len(), 1, "{status} is not tried again");
    }
}

#[test]
fn no_attempt_is_made_before_its_time() {
    let server = Server::launch(without_jitter());
    let sink = by_path();
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("orders", &json!({}));
    basic(&arm, &topic, "s404", &sink.url("/404"), &json!({}));
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("e")]))).expect(200);
    let waits = dev.drained("s404");
    let event = &waits["events"][0];
    assert_eq!((text(event, "why"), text(event, "eventId")), ("retry", "e"), "{waits}");
    assert!(text(event, "detail").contains("404"), "{waits}");
    let until = time(&event["until"]);
    assert!((299.0..=300.0).contains(&seconds(dev.clock().0, until)), "{waits}");

    dev.jump("270s");
    let later = dev.drained("s404");
    assert_eq!(later["events"], waits["events"], "half a minute is left");
    assert_eq!(sink.at("/404").len(), 1);
    dev.advance("30s");
    assert_eq!(sink.at("/404").len(), 2);
    assert!(until <= dev.clock().0);
}

/// A ladder goes on over a kill: at the same times, with the clock where it was.
#[test]
fn a_restart_in_the_middle_of_a_ladder_changes_no_attempt_time() {
    let mut server = Server::launch(without_jitter());
    let sink = by_path();
    let ids = {
        let arm = Arm::new(&server);
        let topic = arm.topic("orders", &json!({}));
        let space = arm.namespace("spaces");
        arm.namespace_topic(&space, "orders");
        let ids = [
            basic(&arm, &topic, "basic", &sink.url("/500"), &json!({})),
            namespace(&arm, &space, "namespace", &sink.url("/503"), &json!({})),
        ];
        server.send(&topic.publish(events::JSON, &json!([events::grid_event("e")]))).expect(200);
        server.send(&space.publish("orders", &json!([events::cloud_event("e")]))).expect(200);
        ids
    };
    // Basic has tried at 0, 10, 40 and 100 s, the namespace at 0, 10, 30, 60 and 300 s.
    Dev(&server).advance("310s");
    let before: Vec<Vec<Attempt>> = ids.iter().map(|id| Dev(&server).attempts(id)).collect();
    check_waits("basic", &before[0], &BASIC[..3]);
    check_waits("namespace", &before[1], &NAMESPACE[..4]);
    let (shown, _) = Dev(&server).clock();
    server.kill9();
    server.restart();

    let dev = Dev(&server);
    let (again, _) = dev.clock();
    assert!((0.0..60.0).contains(&seconds(shown, again)), "{shown} before the kill, {again} after it");
    dev.advance(DAY);
    for (index, ladder) in [&BASIC[..], &NAMESPACE[..]].into_iter().enumerate() {
        let last = before[index].last().expect("attempts before the kill").clone();
        let mut attempts = dev.attempts(&ids[index]);
        attempts.insert(0, last);
        check_waits(&ids[index], &attempts, &ladder[before[index].len() - 1..]);
    }
    // Nobody takes an advance for a wrong wall clock: the end of the time to live came at its time.
    assert!(!server.log().contains("nothing expires in the next ten minutes"), "{}", server.log());
    assert_eq!(dev.drained("basic")["waiting"], 0);
    assert_eq!(sink.at("/500").len(), BASIC.len() + 1);
}

#[test]
fn jitter_lengthens_each_wait_by_a_tenth_at_most() {
    let server = Server::start();
    let sink = by_path();
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("orders", &json!({}));
    let id = basic(&arm, &topic, "s500", &sink.url("/500"), &json!({}));
    let count = 20;
    let batch: Vec<Value> = (0..count).map(|number| events::grid_event(&format!("e-{number}"))).collect();
    server.send(&topic.publish(events::JSON, &json!(batch))).expect(200);
    dev.advance("20m");
    let mut first_waits = Vec::new();
    for number in 0..count {
        let mut attempts = dev.attempts(&id);
        attempts.retain(|attempt| attempt.event_id == format!("e-{number}"));
        let waits = waits(&attempts);
        assert!(waits.len() >= 4, "{waits:?}");
        for (wait, least) in waits.iter().zip(BASIC) {
            assert!((least - 0.002..1.1 * least + LATE_MAX).contains(wait), "{waits:?}");
        }
        first_waits.push(waits[2]);
    }
    let spread = first_waits.iter().fold(0.0_f64, |most, wait| most.max(*wait)) - 60.0;
    assert!(spread > 1.0, "twenty waits of 60 to 66 s are not all in the first second: {first_waits:?}");
}

#[test]
fn an_event_is_given_up_at_the_end_of_its_time_to_live() {
    let server = Server::launch(without_jitter());
    let sink = by_path();
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("orders", &json!({}));
    let short = json!({ "retryPolicy": { "eventTimeToLiveInMinutes": 30 } });
    let id = basic(&arm, &topic, "short", &sink.url("/500"), &short);
    let few = json!({ "retryPolicy": { "maxDeliveryAttempts": 3 } });
    let few = basic(&arm, &topic, "few", &sink.url("/503"), &few);
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("e")]))).expect(200);
    let (published, _) = dev.clock();

    // Tried at 0, 10, 40, 100, 400 and 1000 s; the next would be at 2800 s, and the end is at 1800 s.
    dev.advance("25m");
    let waits = dev.drained("short");
    let until = time(&waits["events"][0]["until"]);
    assert!((1795.0..=1800.0).contains(&seconds(published, until)), "{waits}");
    dev.jump("4m");
    assert_eq!(dev.drained("short")["events"], waits["events"], "a minute is left");
    dev.advance("1m");
    let ended = dev.drained("short");
    assert_eq!((&ended["deadLettered"], &ended["waiting"]), (&json!(1), &json!(0)), "{ended}");
    check_waits("short", &dev.attempts(&id), &BASIC[..5]);
    check_waits("few", &dev.attempts(&few), &[30.0, 30.0]);
    let letters = files(&server.data_dir().join("deadletter"));
    for reason in ["TimeToLiveExceeded", "MaxDeliveryAttemptsExceeded"] {
        let found = letters.iter().filter(|(_, letter)| letter.contains(reason)).count();
        assert_eq!(found, 1, "{reason} in {letters:?}");
    }
}

#[test]
fn retry_after_lengthens_a_wait_and_never_shortens_it() {
    let server = Server::launch(without_jitter());
    let asked = [5, 45, 120, 7200];
    let sink =
        Sink::scripted(move |_, before| asked.get(before).map_or(Reply::Status(200), |s| Reply::Busy(*s)));
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("orders", &json!({}));
    let id = basic(&arm, &topic, "busy", &sink.url("/busy"), &json!({}));
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("e")]))).expect(200);
    sink.wait_at("/busy", 1, SOON);
    dev.advance("3h");
    // The ladder says 30 (as the status does), 30, 60 and 300 s; an hour is the longest that is believed.
    check_waits("busy", &dev.attempts(&id), &[30.0, 45.0, 120.0, 3600.0]);
    assert_eq!(dev.attempts(&id).last().and_then(|attempt| attempt.status), Some(200));
    assert_eq!(dev.drained("busy")["delivered"], 1);
}
