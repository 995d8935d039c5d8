//! What could not be delivered can be looked at, put back and removed; and each letter is put back once,
//! whatever happens to the process meanwhile.
//!
//! `GRIDWIRE_LETTERS` makes the latter as large as one likes; then the rate is judged to the percent, too.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use support::arm::{GROUP, SUBSCRIPTION, Topic, dead_letters, group_path, namespace_dead_letters};
use support::pull::Queue;
use support::server::show;
use support::{Answer, Arm, Client, Reply, Request, Server, Sink, events, metrics, now, wait_for};

const SOON: Duration = Duration::from_secs(20);

/// Letters that are redriven while the process is killed.
const LETTERS: usize = 3_000;
/// The cap they are redriven at, with few and with many of them.
const RATE_FEW: u64 = 600;
const RATE_MANY: u64 = 1_000;
const KILLS: usize = 3;

/// The dead letters of a subscription, over the API.
struct Letters<'a> {
    server: &'a Server,
    /// Its resource id, escaped to one segment.
    subscription: String,
}

impl<'a> Letters<'a> {
    fn of(server: &'a Server, resource: &str) -> Self {
        let subscription = format!("{}/{resource}", group_path()).replace('/', "%2F");
        Self { server, subscription }
    }

    fn send(&self, method: &str, rest: &str, body: Option<&Value>) -> Answer {
        let path = format!("/gridwire/v1/subscriptions/{}/dead-letters{rest}", self.subscription);
        let request =
            Request::new(method, path).with("authorization", format!("Bearer {}", self.server.token));
        self.server.send(&body.map_or(request.clone(), |body| request.json(body)))
    }

    #[track_caller]
    fn list(&self, query: &str) -> Vec<Value> {
        let page = self.send("GET", query, None).expect(200).json();
        page["deadLetters"].as_array().unwrap_or_else(|| panic!("no letters in {page}")).clone()
    }

    /// How many there are.
    #[track_caller]
    fn count(&self, redriven: bool) -> usize {
        let (mut count, mut after) = (0, String::new());
        loop {
            let page =
                self.send("GET", &format!("?max=1000&redriven={redriven}{after}"), None).expect(200).json();
            count += page["deadLetters"].as_array().map_or(0, Vec::len);
            let Some(next) = page["next"].as_str() else { return count };
            after = format!("&after={next}");
        }
    }

    /// Starts a job and waits for its end.
    #[track_caller]
    fn run(&self, verb: &str, order: &Value) -> Value {
        let job = self.send("POST", &format!(":{verb}"), Some(order)).expect(202).json();
        finished(self.server, job["id"].as_str().expect("an id"), SOON)
    }
}

fn job(server: &Server, id: &str) -> Value {
    let request = Request::get(format!("/gridwire/v1/dead-letter-jobs/{id}"))
        .with("authorization", format!("Bearer {}", server.token));
    server.send(&request).expect(200).json()
}

fn finished(server: &Server, id: &str, limit: Duration) -> Value {
    wait_for("the end of the job", limit, || {
        let job = job(server, id);
        (job["state"] != "running").then_some(job)
    })
}

fn texts(letters: &[Value], member: &str) -> Vec<String> {
    letters.iter().map(|letter| letter[member].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn dead_letters_are_listed_shown_redriven_and_purged() {
    let server = Server::start();
    // What the endpoint answers, until it is mended.
    let status = Arc::new(AtomicU16::new(0));
    let answered = Arc::clone(&status);
    let sink = Sink::scripted(move |delivery, _| match answered.load(Ordering::SeqCst) {
        0 if delivery.ids("id")[0].starts_with("bad") => Reply::Status(400),
        0 => Reply::Status(503),
        status => Reply::Status(status),
    });
    let arm = Arm::new(&server);
    let once = json!({
        "retryPolicy": { "maxDeliveryAttempts": 1 },
        "deadLetterDestination": dead_letters("letters1", "shared"),
    });
    // Two subscriptions of one name share a container, and with it a directory.
    let (grid, other) = (arm.topic("grid", &json!({})), arm.topic("other", &json!({})));
    arm.webhook(&grid, "billing", &sink.url("/grid"), &once);
    arm.webhook(&other, "billing", &sink.url("/other"), &once);
    let own = Letters::of(&server, "topics/grid/eventSubscriptions/billing");
    let batch = |ids: &[&str]| Value::Array(ids.iter().map(|id| events::grid_event(id)).collect());
    server.send(&grid.publish(events::JSON, &batch(&["bad-1", "busy-1", "busy-2"]))).expect(200);
    server.send(&other.publish(events::JSON, &batch(&["busy-9"]))).expect(200);
    wait_for("the dead letters", SOON, || (own.count(false) == 3).then_some(()));
    let others = Letters::of(&server, "topics/other/eventSubscriptions/billing");
    wait_for("the other dead letter", SOON, || (others.count(false) == 1).then_some(()));

    // Listed, in pages, and by what they say.
    let all = own.list("");
    let mut ids = texts(&all, "eventId");
    ids.sort();
    assert_eq!(ids, ["bad-1", "busy-1", "busy-2"]);
    let first = own.send("GET", "?max=2", None).expect(200).json();
    let rest = own.list(&format!("?after={}", first["next"].as_str().expect("there is more")));
    assert_eq!(rest, all[2..]);
    let bad = own.list("?status=400");
    assert_eq!(texts(&bad, "eventId"), ["bad-1"]);
    assert_eq!(texts(&own.list("?reason=undeliverable"), "eventId"), ["bad-1"]);
    assert_eq!(own.list("?reason=MaxDeliveryAttempts&type=shop.orderplaced").len(), 2);
    assert_eq!(own.list("?until=2020-01-01T00:00:00Z").len() + own.list("?type=other").len(), 0);
    assert_eq!(own.list("?since=2020-01-01T00:00:00Z").len(), 3);

    // Shown whole.
    let shown =
        own.send("GET", &format!("/{}", bad[0]["id"].as_str().expect("an id")), None).expect(200).json();
    assert_eq!(shown["letter"][0]["deadLetterReason"], "UndeliverableDueToHttpBadRequest", "{shown}");
    assert_eq!(shown["redriven"], false);
    others.send("GET", &format!("/{}", bad[0]["id"].as_str().expect("an id")), None).expect(404);

    // A dry run takes nothing.
    let dry =
        own.send("POST", ":redrive", Some(&json!({ "status": 503, "dryRun": true }))).expect(200).json();
    assert_eq!((&dry["count"], &dry["complete"]), (&json!(2), &json!(true)), "{dry}");
    assert_eq!(own.count(false), 3);

    // Redriven: to its own subscription, whatever its filter says now, and as it was published.
    status.store(200, Ordering::SeqCst);
    let mut filtered = once.clone();
    filtered["filter"] = json!({ "includedEventTypes": ["none.of.these"] });
    let resource = format!("{}/eventSubscriptions/billing", grid.resource);
    arm.call("PUT", &resource, Some(&support::arm::webhook_body(&sink.url("/mended"), &filtered)))
        .expect(201);
    let done = own.run("redrive", &json!({ "status": 503 }));
    assert_eq!((&done["state"], &done["taken"]), (&json!("done"), &json!(2)), "{done}");
    let came = sink.wait_at("/mended", 2, SOON);
    for delivery in &came {
        assert_eq!(delivery.header("aeg-delivery-count"), Some("0"), "it starts anew");
        let event = &delivery.json()[0];
        let mut expected = events::grid_event(&delivery.ids("id")[0]);
        expected["topic"] = json!(grid.id);
        expected["metadataVersion"] = json!("1");
        assert_eq!(*event, expected);
    }
    assert_eq!((own.count(false), own.count(true), others.count(false)), (1, 2, 1));
    // Another redrive finds only what is left, and the redriven stay where they are.
    let done = own.run("redrive", &json!({}));
    assert_eq!(done["taken"], 1, "{done}");
    sink.wait_at("/mended", 3, SOON);
    let page = server.metrics();
    assert_eq!(metrics::value(&page, "gridwire_dead_letters_redriven_total"), Some(3.0));
    let again = own.send("POST", ":redrive", Some(&json!({}))).expect(202);
    let id = again.header("x-ms-request-id").expect("each request has an id");
    finished(&server, again.json()["id"].as_str().expect("a job"), SOON);
    let log = server.log();
    let line = log.lines().find(|line| line.contains(id)).expect("it is in the audit log by its id");
    assert!(line.contains("dead-letters/redrive") && line.contains("status=202"), "{line}");

    // Purged.
    let done = own.run("purge", &json!({ "redriven": true, "status": 503 }));
    assert_eq!(done["taken"], 2, "{done}");
    assert_eq!((own.count(true), others.count(false)), (1, 1));
    assert_eq!(others.run("purge", &json!({}))["taken"], 1);
    assert_eq!(others.count(false), 0);
    assert_eq!(sink.at("/mended").len(), 3, "nothing came twice");
}

#[test]
fn an_event_of_a_domain_goes_back_with_the_topic_it_was_for() {
    let server = Server::start();
    let status = Arc::new(AtomicU16::new(400));
    let answered = Arc::clone(&status);
    let sink = Sink::scripted(move |_, _| Reply::Status(answered.load(Ordering::SeqCst)));
    let arm = Arm::new(&server);
    let malls = "domains/malls";
    let made = arm.put(malls, &json!({ "location": "local", "properties": {} }));
    let to = |path: &str, schema: &str| {
        let more = json!({
            "deadLetterDestination": dead_letters("letters1", "malls"),
            "eventDeliverySchema": schema,
        });
        support::arm::webhook_body(&sink.url(path), &more)
    };
    // Of one name, to all of it and to one of its topics.
    let (all, own) = ("eventSubscriptions/seen", "topics/north/eventSubscriptions/seen");
    arm.put(&format!("{malls}/{all}"), &to("/all", "EventGridSchema"));
    arm.put(&format!("{malls}/{own}"), &to("/own", "CloudEventSchemaV1_0"));
    let mut event = events::grid_event("n-1");
    event["topic"] = "north".into();
    let path = format!("/{SUBSCRIPTION}/{GROUP}/{malls}/api/events?api-version=2018-01-01");
    let request = Request::post(path).with("aeg-sas-key", arm.key(malls));
    server.send(&request.json(&json!([event]))).expect(200);
    let north = json!(format!("{}/topics/north", made["id"].as_str().expect("an id")));
    let of = |resource: &str| Letters::of(&server, &format!("{malls}/{resource}"));
    for resource in [all, own] {
        wait_for("the dead letter", SOON, || (of(resource).count(false) == 1).then_some(()));
    }
    status.store(200, Ordering::SeqCst);
    for (resource, path, topic) in [(all, "/all", "topic"), (own, "/own", "source")] {
        let before = sink.at(path).len();
        assert_eq!(of(resource).run("redrive", &json!({}))["taken"], 1);
        let came = sink.wait_at(path, before + 1, SOON);
        let told = came[before].json();
        let event = told.get(0).unwrap_or(&told);
        assert_eq!((&event["id"], &event[topic]), (&json!("n-1"), &north), "{path}: {event}");
    }
    // Neither went to the other's subscription.
    assert_eq!((sink.at("/all").len(), sink.at("/own").len()), (2, 2));
}

#[test]
fn what_is_asked_wrongly_is_refused() {
    let server = Server::start();
    let sink = Sink::start();
    let arm = Arm::new(&server);
    let grid = arm.topic("grid", &json!({}));
    arm.webhook(&grid, "plain", &sink.url("/"), &json!({}));
    let more = json!({ "deadLetterDestination": dead_letters("letters1", "failed") });
    arm.webhook(&grid, "lettered", &sink.url("/"), &more);
    let plain = Letters::of(&server, "topics/grid/eventSubscriptions/plain");
    plain.send("GET", "", None).expect(404);
    Letters::of(&server, "topics/grid/eventSubscriptions/none").send("GET", "", None).expect(404);
    let letters = Letters::of(&server, "topics/grid/eventSubscriptions/lettered");
    for query in [
        "?max=0",
        "?max=1001",
        "?status=x",
        "?status=99",
        "?status=99999",
        "?reason=MaxDeliveryAttemps",
        "?reason=",
        "?since=yesterday",
        "?since=2026-11-02T00:00:00Z&until=2026-11-01T00:00:00Z",
        "?after=x",
        "?redriven=perhaps",
        "?colour=red",
    ] {
        letters.send("GET", query, None).expect(400);
    }
    letters.send("GET", "/x", None).expect(400);
    letters.send("DELETE", "", None).expect(405);
    letters.send("GET", ":redrive", None).expect(405);
    for order in [
        json!([]),
        json!({ "eventsPerSecond": 0 }),
        json!({ "eventsPerSecond": 100_001 }),
        json!({ "dryRun": "yes" }),
        json!({ "eventsPerSecond": "fast" }),
        json!({ "eventsPerSecond": 1.5 }),
        json!({ "redriven": 1, "eventsPerSecond": 1 }),
        json!({ "reason": 400 }),
        json!({ "reason": "TimeToLife" }),
        json!({ "status": "four hundred" }),
        json!({ "status": [400] }),
        json!({ "status": null }),
        json!({ "type": 7 }),
        json!({ "since": 1_795_465_178 }),
        json!({ "until": "tomorrow" }),
        json!({ "since": "2026-11-02T00:00:00Z", "until": "2026-11-02T00:00:00Z" }),
        json!({ "colour": "red" }),
    ] {
        for verb in [":redrive", ":purge"] {
            let answer = letters.send("POST", verb, Some(&order));
            let (status, (_, code)) = (answer.status, answer.error());
            assert_eq!((status, code.as_str()), (400, "invalid_request"), "{verb} {order}");
        }
    }
    // Neither JSON nor short.
    let path = format!("/gridwire/v1/subscriptions/{}/dead-letters:purge", letters.subscription);
    let request = Request::post(path).with("authorization", format!("Bearer {}", server.token));
    server.send(&request.clone().body("{\"status\":")).expect(400);
    server.send(&request.body(format!("{{\"type\":\"{}\"}}", "x".repeat(70_000)))).expect(413);
    let path = "/gridwire/v1/dead-letter-jobs";
    server.send(&Request::get(path)).expect(401);
    let request = Request::get(format!("{path}/x")).with("authorization", format!("Bearer {}", server.token));
    server.send(&request).expect(404);
}

/// Publishes so many events and waits until each is a letter.
fn fail_all(server: &Server, topic: &Topic, letters: &Letters<'_>, count: usize) {
    let batch: Vec<Value> = (0..count).map(|number| events::grid_event(&format!("e-{number:02}"))).collect();
    server.send(&topic.publish(events::JSON, &json!(batch))).expect(200);
    wait_for("the dead letters", SOON, || (letters.count(false) == count).then_some(()));
}

#[test]
fn a_damaged_letter_is_shown_stays_and_holds_up_no_other() {
    let server = Server::start();
    let status = Arc::new(AtomicU16::new(400));
    let answered = Arc::clone(&status);
    let sink = Sink::scripted(move |_, _| Reply::Status(answered.load(Ordering::SeqCst)));
    let arm = Arm::new(&server);
    let grid = arm.topic("grid", &json!({}));
    let dead = json!({ "deadLetterDestination": dead_letters("letters1", "damaged") });
    arm.webhook(&grid, "hook", &sink.url("/hook"), &dead);
    let letters = Letters::of(&server, "topics/grid/eventSubscriptions/hook");
    fail_all(&server, &grid, &letters, 6);
    status.store(200, Ordering::SeqCst);

    let container = server.data_dir().join("deadletter/letters1/damaged");
    let listed = letters.list("");
    let files: Vec<PathBuf> = texts(&listed, "path").iter().map(|path| container.join(path)).collect();
    let whole = fs::read(&files[1]).expect("a letter");
    fs::write(&files[0], "").expect("emptied");
    fs::write(&files[1], &whole[..whole.len() / 2]).expect("cut");
    fs::write(&files[2], [0xff, 0x00, 0x9f]).expect("overwritten");
    fs::write(&files[3], format!("[{}]", " ".repeat(9 << 20))).expect("blown up");
    fs::remove_file(&files[4]).expect("removed");
    fs::create_dir(&files[4]).expect("a directory instead");
    // What does not even look like a letter is not seen.
    let hour = files[0].parent().expect("an hour");
    for name in ["notes.txt", "x.json", "ffffffff-0000-8000-8000-000000000000.json"] {
        fs::write(hour.join(name), "[]").expect("written");
    }

    let listed = letters.list("");
    let unusable: Vec<bool> = listed.iter().map(|letter| letter["unusable"] == true).collect();
    assert_eq!(unusable, [true, true, true, true, true, false], "{listed:?}");
    for letter in &listed {
        letters.send("GET", &format!("/{}", letter["id"].as_str().expect("an id")), None).expect(200);
    }
    let dry = letters.send("POST", ":redrive", Some(&json!({ "dryRun": true }))).expect(200).json();
    assert_eq!((&dry["count"], &dry["unusable"]), (&json!(1), &json!(5)), "{dry}");
    let done = letters.run("redrive", &json!({}));
    assert_eq!(
        (&done["state"], &done["taken"], &done["unusable"]),
        (&json!("done"), &json!(1), &json!(5)),
        "{done}"
    );
    let came = sink.wait_at("/hook", 7, SOON);
    assert_eq!(came[6].ids("id"), texts(&listed[5..], "eventId"));
    assert_eq!((letters.count(false), letters.count(true)), (5, 1));

    // A condition takes none of them; no condition takes all that can be removed.
    let done = letters.run("purge", &json!({ "status": 400 }));
    assert_eq!((&done["taken"], &done["unusable"]), (&json!(0), &json!(5)), "{done}");
    let done = letters.run("purge", &json!({}));
    assert_eq!((&done["state"], letters.count(false)), (&json!("done"), 1), "{done}");
    assert!(files[4].is_dir() && hour.join("notes.txt").is_file(), "what is no letter is left alone");
}

#[test]
fn letters_of_a_removed_subscription_go_to_no_other() {
    let server = Server::start();
    let sink = Sink::scripted(|_, _| Reply::Status(400));
    let arm = Arm::new(&server);
    let grid = arm.topic("grid", &json!({}));
    let dead = json!({ "deadLetterDestination": dead_letters("letters1", "removed") });
    arm.webhook(&grid, "hook", &sink.url("/old"), &dead);
    let resource = "topics/grid/eventSubscriptions/hook";
    let letters = Letters::of(&server, resource);
    fail_all(&server, &grid, &letters, 30);
    // So slowly that most are still there when the subscription goes.
    let job = letters.send("POST", ":redrive", Some(&json!({ "eventsPerSecond": 1 }))).expect(202).json();
    let id = job["id"].as_str().expect("an id");
    arm.call("DELETE", resource, None).expect(204);
    let ended = finished(&server, id, SOON);
    assert_eq!(ended["state"], "failed", "{ended}");
    assert!(ended["problem"].as_str().is_some_and(|problem| problem.contains("deleted")), "{ended}");
    for (method, rest) in [("GET", ""), ("POST", ":redrive"), ("POST", ":purge")] {
        letters.send(method, rest, None).expect(404);
    }

    // Another of its name, in the same directory, has none of them.
    arm.webhook(&grid, "hook", &sink.url("/new"), &dead);
    assert_eq!(letters.list(""), Vec::<Value>::new());
    assert_eq!(letters.run("redrive", &json!({}))["taken"], 0);
    assert_eq!(sink.at("/new").len(), 0);
}

#[test]
fn the_command_line_says_what_would_be_taken_and_takes_it() {
    let server = Server::start();
    let status = Arc::new(AtomicU16::new(400));
    let answered = Arc::clone(&status);
    let sink = Sink::scripted(move |_, _| Reply::Status(answered.load(Ordering::SeqCst)));
    let arm = Arm::new(&server);
    let grid = arm.topic("grid", &json!({}));
    let dead = json!({ "deadLetterDestination": dead_letters("letters1", "failed") });
    // In the scope that the command line assumes.
    arm.webhook(&grid, "hook", &sink.url("/hook"), &dead);
    let letters = Letters::of(&server, "topics/grid/eventSubscriptions/hook");
    fail_all(&server, &grid, &letters, 3);
    status.store(200, Ordering::SeqCst);
    let resource = format!("{}/topics/grid/eventSubscriptions/hook", group_path());
    let run = |arguments: &[&str], fine: bool| -> String {
        let mut command = support::program();
        command.args(["deadletter", arguments[0], &resource]).args(&arguments[1..]);
        let output = command.arg("--data-dir").arg(server.data_dir()).output().expect("the program runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.success(), fine, "{arguments:?}: {said}");
        said
    };
    assert!(run(&["list", "--reason", "Undeliverable", "--status", "400"], true).contains("e-02"));
    assert!(run(&["list", "--reason", "Undeliverabel"], false).contains("MaxDeliveryAttempts, TimeToLive"));
    assert!(run(&["redrive", "--rate", "0"], false).contains("eventsPerSecond"));
    assert!(run(&["redrive", "--dry-run"], true).contains("3 dead letters would be taken"));
    assert_eq!(letters.count(false), 3, "a dry run takes nothing");
    assert!(run(&["redrive", "--type", "no.such"], true).contains("0 dead letters taken"));
    assert!(run(&["redrive"], true).contains("done: 3 dead letters taken, 0 unusable"));
    sink.wait_at("/hook", 6, SOON);
    assert!(run(&["purge", "--redriven", "--dry-run"], true).contains("3 dead letters would be taken"));
    assert!(run(&["purge", "--redriven"], true).contains("done: 3 dead letters taken"));
    assert_eq!((letters.count(false), letters.count(true)), (0, 0));
    assert!(run(&["show", "x"], false).contains("not the id of a dead letter"));
}

/// When so many had been redriven by this process.
#[derive(Clone, Copy)]
struct Mark {
    count: f64,
    at: Instant,
}

#[test]
fn each_letter_is_redriven_once_whenever_the_process_is_killed() {
    let asked: Option<usize> =
        std::env::var("GRIDWIRE_LETTERS").ok().map(|text| text.parse().expect("a number"));
    let letters = asked.unwrap_or(LETTERS);
    let rate = if asked.is_some() { RATE_MANY } else { RATE_FEW };
    let patience = Duration::from_secs(60 + letters as u64 / 50);
    let mut server = Server::start();
    let arm = Arm::new(&server);
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    let dead =
        json!({ "deadLetterDestinationWithResourceIdentity": namespace_dead_letters("letters1", "killed") });
    arm.queue(&namespace, "orders", "workers", &dead, &json!({}));
    let resource = "namespaces/spaces/topics/orders/eventSubscriptions/workers";
    let queue = Queue::new(&namespace, "orders", "workers");
    let mut client = Client::new(server.http);
    for first in (0..letters).step_by(100) {
        let batch: Vec<Value> = (first..letters.min(first + 100))
            .map(|number| events::cloud_event(&format!("e-{number}")))
            .collect();
        client.send(&namespace.publish("orders", &json!(batch))).expect("an answer").expect(200);
        let mut left = batch.len();
        while left > 0 {
            let received = queue.receive(&mut client, 100).expect("an answer");
            let tokens: Vec<&str> = received.iter().map(|one| one.token.as_str()).collect();
            left -= queue.settle(&mut client, "reject", "", &tokens).expect("an answer").succeeded.len();
        }
    }
    let series =
        "gridwire_delivery_events_dead_lettered_total{topic=\"spaces/orders\",subscription=\"workers\"}";
    wait_for("the dead letters", patience, || {
        let written = metrics::value(&server.metrics(), series);
        (written == Some(letters as f64)).then_some(())
    });

    let order = json!({ "eventsPerSecond": rate });
    let started = Letters::of(&server, resource).send("POST", ":redrive", Some(&order)).expect(202).json();
    let id = started["id"].as_str().expect("an id").to_owned();
    let busy = Letters::of(&server, resource).send("POST", ":redrive", Some(&order));
    assert_eq!(busy.error().1, "conflict", "one job at a time on the same letters");
    let (mut redriven, mut busy_seconds) = (0.0, 0.0);
    for kill in 0..=KILLS {
        let share = (letters / (KILLS + 1)) as f64;
        let (mut first, mut last): (Option<Mark>, Option<Mark>) = (None, None);
        wait_for("a part of the redrive", patience, || {
            let count = metrics::value(&server.metrics(), "gridwire_dead_letters_redriven_total")?;
            let at = now();
            if count > 0.0 && last.is_none_or(|last| last.count < count) {
                last = Some(Mark { count, at });
                first = first.or(last);
            }
            let part_done = kill < KILLS && share <= count;
            (part_done || job(&server, &id)["state"] == "done").then_some(())
        });
        let (first, last) = first.zip(last).expect("something was redriven");
        redriven += last.count - first.count;
        busy_seconds += (last.at - first.at).as_secs_f64();
        if kill < KILLS {
            server.kill9();
            server.restart();
        }
    }
    let done = job(&server, &id);
    assert_eq!((&done["taken"], &done["unusable"]), (&json!(letters), &json!(0)), "{done}");
    let own = Letters::of(&server, resource);
    assert_eq!((own.count(false), own.count(true)), (0, letters), "waiting and marked");

    // Each event is in the queue, once.
    let mut client = Client::new(server.http);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    loop {
        let received = queue.receive(&mut client, 100).expect("an answer");
        if received.is_empty() {
            break;
        }
        for one in &received {
            assert_eq!(one.delivery_count, 1, "it starts anew");
            *seen.entry(one.id.clone()).or_default() += 1;
        }
        let tokens: Vec<&str> = received.iter().map(|one| one.token.as_str()).collect();
        let settled = queue.settle(&mut client, "acknowledge", "", &tokens).expect("an answer");
        assert_eq!(settled.succeeded.len(), received.len());
    }
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).take(5).collect();
    assert!(twice.is_empty(), "redriven more than once: {twice:?}");
    assert_eq!(seen.len(), letters, "redriven at all");

    let measured = redriven / busy_seconds;
    show(&format!("{letters} letters, {KILLS} kills, {measured:.1} events/s under a cap of {rate}"));
    assert!(measured < rate as f64 * 1.05, "{measured} events/s are over the cap of {rate}");
    // A few seconds on a machine that does other things too say nothing of the lower end.
    let least = if asked.is_some() { 0.95 } else { 0.5 };
    assert!(rate as f64 * least < measured, "{measured} events/s are far below the cap of {rate}");
}
