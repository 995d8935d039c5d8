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

/// A subscription whose every attempt fails in one way, and the waits that are documented for it.
struct Ladder {
    /// A status, or what happens instead of one.
    fails: &'static str,
    id: String,
    waits: Vec<f64>,
}

impl Ladder {
    /// How often the endpoint is asked, where it answers at all.
    fn requests(&self) -> Option<usize> {
        self.fails.parse::<u16>().ok().map(|_| self.waits.len() + 1)
    }

    #[track_caller]
    fn check(&self, attempts: &[Attempt]) {
        check_waits(&format!("{} of {}", self.fails, self.id), attempts, &self.waits);
    }
}

const TIMED_OUT: &str = "timeouts";
const REFUSED: &str = "refused";

/// One of each class of outcome that is tried again on custom topics.
fn custom_ladders(arm: &Arm<'_>, topic: &Topic, sink: &Sink) -> Vec<Ladder> {
    let refusing = Sink::start();
    let classes = [
        ("500", 10.0),
        ("429", 10.0),
        ("302", 10.0),
        ("404", 300.0),
        ("408", 120.0),
        ("503", 30.0),
        (TIMED_OUT, 10.0),
        (REFUSED, 10.0),
    ];
    let made = classes.map(|(fails, least)| {
        let url = url_for(fails, sink, &refusing);
        Ladder {
            fails,
            id: basic(arm, topic, &format!("on-{fails}"), &url, &json!({})),
            waits: at_least(least),
        }
    });
    made.into()
}

/// The same for topics of namespaces, where no status has a wait of its own.
fn namespace_ladders(arm: &Arm<'_>, space: &Namespace, sink: &Sink) -> Vec<Ladder> {
    let refusing = Sink::start();
    let made = ["500", "503", "408", "429", "302", TIMED_OUT, REFUSED].map(|fails| {
        let url = url_for(fails, sink, &refusing);
        let id = namespace(arm, space, &format!("on-{fails}"), &url, &json!({}));
        Ladder { fails, id, waits: NAMESPACE.to_vec() }
    });
    made.into()
}

/// Where attempts fail so; timeouts are the script's doing.
fn url_for(fails: &str, sink: &Sink, refusing: &Sink) -> String {
    match fails {
        REFUSED => refusing.url("/200"),
        TIMED_OUT => sink.url("/200"),
        status => sink.url(&format!("/{status}")),
    }
}

/// A script is forgotten with its process.
fn set_timeouts(dev: &Dev<'_>, ladders: &[Ladder]) {
    for ladder in ladders.iter().filter(|ladder| ladder.fails == TIMED_OUT) {
        dev.set_faults(&ladder.id, &[TIMEOUTS]);
    }
}

#[test]
fn attempts_on_custom_topics_follow_the_documented_ladder_for_every_class_of_outcome() {
    let server = Server::launch(without_jitter());
    let sink = by_path();
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("orders", &json!({}));
    let ladders = custom_ladders(&arm, &topic, &sink);
    set_timeouts(&dev, &ladders);
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
    for ladder in &ladders {
        ladder.check(&dev.attempts(&ladder.id));
        if let Some(requests) = ladder.requests() {
            assert_eq!(sink.at(&format!("/{}", ladder.fails)).len(), requests, "{}", ladder.fails);
        }
    }
    for (status, _) in &finals {
        assert_eq!(sink.at(&format!("/{status}")).len(), 1, "{status} is not tried again");
    }

    // All that was tried for a day has outlived its time to live.
    let letters = files(&server.data_dir().join("deadletter"));
    let of = |reason: &str| letters.iter().filter(|(_, letter)| letter.contains(reason)).count();
    assert_eq!(of("TimeToLiveExceeded"), ladders.len(), "{letters:?}");
    assert_eq!(letters.len(), ladders.len() + finals.len(), "{letters:?}");
    for (word, count) in [("\"SocketError\"", 1), ("\"TimedOut\"", 2), ("\"Busy\"", 2), ("\"NotFound\"", 1)] {
        assert_eq!(of(word), count, "{word} in {letters:?}");
    }
}

#[test]
fn attempts_on_namespace_topics_follow_the_documented_ladder_for_every_class_of_outcome() {
    let server = Server::launch(without_jitter());
    let sink = by_path();
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let space = arm.namespace("spaces");
    arm.namespace_topic(&space, "orders");
    let ladders = namespace_ladders(&arm, &space, &sink);
    set_timeouts(&dev, &ladders);
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
    for ladder in &ladders {
        ladder.check(&dev.attempts(&ladder.id));
        let drained = dev.drained(&format!("on-{}", ladder.fails));
        assert_eq!(drained["deadLettered"], 1, "ten deliveries are all there are: {drained}");
    }
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

/// Every ladder of both tiers goes on over a kill: at the same times, with the clock where it was.
#[test]
fn a_restart_in_the_middle_of_a_ladder_changes_no_attempt_time() {
    let mut server = Server::launch(without_jitter());
    let (custom_sink, namespace_sink) = (by_path(), by_path());
    let (customs, namespaces) = {
        let arm = Arm::new(&server);
        let topic = arm.topic("orders", &json!({}));
        let space = arm.namespace("spaces");
        arm.namespace_topic(&space, "orders");
        let customs = custom_ladders(&arm, &topic, &custom_sink);
        let namespaces = namespace_ladders(&arm, &space, &namespace_sink);
        set_timeouts(&Dev(&server), &customs);
        set_timeouts(&Dev(&server), &namespaces);
        server.send(&topic.publish(events::JSON, &json!([events::grid_event("e")]))).expect(200);
        server.send(&space.publish("orders", &json!([events::cloud_event("e")]))).expect(200);
        (customs, namespaces)
    };
    let all = || customs.iter().chain(&namespaces);
    // Most customs have tried at 0, 10, 40 and 100 s, the slowest at 0 and 300 s; namespaces at 0, 10, 30, 60 and
    // 300 s.
    Dev(&server).advance("310s");
    let before: Vec<Vec<Attempt>> = all().map(|ladder| Dev(&server).attempts(&ladder.id)).collect();
    for (ladder, attempts) in all().zip(&before) {
        assert!((2..=5).contains(&attempts.len()), "{}: {attempts:?}", ladder.id);
        check_waits(&ladder.id, attempts, &ladder.waits[..attempts.len() - 1]);
    }
    let (shown, _) = Dev(&server).clock();
    server.kill9();
    server.restart();

    let dev = Dev(&server);
    let (again, _) = dev.clock();
    assert!((0.0..60.0).contains(&seconds(shown, again)), "{shown} before the kill, {again} after it");
    set_timeouts(&dev, &customs);
    set_timeouts(&dev, &namespaces);
    dev.advance(DAY);
    for (ladder, before) in all().zip(&before) {
        // Attempts are remembered by the process that made them.
        let mut attempts = before.clone();
        attempts.extend(dev.attempts(&ladder.id));
        ladder.check(&attempts);
    }
    // Nobody takes an advance for a wrong wall clock: the end of the time to live came at its time.
    assert!(!server.log().contains("nothing expires in the next ten minutes"), "{}", server.log());
    for (sink, ladders) in [(&custom_sink, &customs), (&namespace_sink, &namespaces)] {
        for ladder in ladders {
            if let Some(requests) = ladder.requests() {
                assert_eq!(sink.at(&format!("/{}", ladder.fails)).len(), requests, "{}", ladder.id);
            }
        }
    }
    let outlook = dev.drain();
    for one in outlook["subscriptions"].as_array().expect("subscriptions") {
        assert_eq!((&one["waiting"], &one["deadLettered"]), (&json!(0), &json!(1)), "{one}");
    }
}

#[test]
fn jitter_lengthens_each_wait_by_a_tenth_at_most() {
    let server = Server::start();
    let (custom_sink, namespace_sink) = (by_path(), by_path());
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("orders", &json!({}));
    let space = arm.namespace("spaces");
    arm.namespace_topic(&space, "orders");
    let mut ladders = custom_ladders(&arm, &topic, &custom_sink);
    ladders.extend(namespace_ladders(&arm, &space, &namespace_sink));
    set_timeouts(&dev, &ladders);
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("e")]))).expect(200);
    server.send(&space.publish("orders", &json!([events::cloud_event("e")]))).expect(200);
    dev.advance(DAY);
    for ladder in &ladders {
        let waits = waits(&dev.attempts(&ladder.id));
        // So much later, the last one may fall behind the end of the day.
        assert!(ladder.waits.len() - 1 <= waits.len(), "{}: {waits:?}", ladder.id);
        for (wait, least) in waits.iter().zip(&ladder.waits) {
            assert!((least - 0.002..1.1 * least + LATE_MAX).contains(wait), "{}: {waits:?}", ladder.id);
        }
    }
}

#[test]
fn jitter_spreads_what_has_failed_together() {
    let server = Server::start();
    let sink = by_path();
    let (arm, dev) = (Arm::new(&server), Dev(&server));
    let topic = arm.topic("orders", &json!({}));
    let id = basic(&arm, &topic, "s500", &sink.url("/500"), &json!({}));
    let count = 20;
    let batch: Vec<Value> = (0..count).map(|number| events::grid_event(&format!("e-{number}"))).collect();
    server.send(&topic.publish(events::JSON, &json!(batch))).expect(200);
    dev.advance("20m");
    let mut third_waits = Vec::new();
    for number in 0..count {
        let mut attempts = dev.attempts(&id);
        attempts.retain(|attempt| attempt.event_id == format!("e-{number}"));
        let waits = waits(&attempts);
        assert!(waits.len() >= 4, "{waits:?}");
        for (wait, least) in waits.iter().zip(BASIC) {
            assert!((least - 0.002..1.1 * least + LATE_MAX).contains(wait), "{waits:?}");
        }
        third_waits.push(waits[2]);
    }
    let spread = third_waits.iter().fold(0.0_f64, |most, wait| most.max(*wait)) - 60.0;
    assert!(spread > 1.0, "twenty waits of 60 to 66 s are not all in the first second: {third_waits:?}");
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
