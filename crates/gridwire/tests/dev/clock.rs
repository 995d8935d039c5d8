//! Everything else that follows the clock, and who may move it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ring::hmac;
use serde_json::{Value, json};

use crate::support::arm::Topic;
use crate::support::dev::{Dev, seconds, time, without_jitter};
use crate::support::pull::Queue;
use crate::support::server::Launch;
use crate::support::time::wait_for;
use crate::support::{Arm, Client, Request, Server, Sink, events, program};

/// A pull subscription with three events.
fn pulled(server: &Server) -> Queue {
    let arm = Arm::new(server);
    let space = arm.namespace("spaces");
    arm.namespace_topic(&space, "orders");
    let queue = json!({ "receiveLockDurationInSeconds": 60, "eventTimeToLive": "PT3H" });
    arm.queue(&space, "orders", "workers", &queue, &json!({}));
    let batch = ["a", "b", "c"].map(events::cloud_event);
    server.send(&space.publish("orders", &json!(batch))).expect(200);
    Queue::new(&space, "orders", "workers")
}

#[test]
fn locks_delayed_releases_and_times_to_live_follow_the_clock() {
    let server = Server::start();
    let (queue, dev) = (pulled(&server), Dev(&server));
    let mut client = Client::new(server.http);
    assert_eq!(dev.drained("workers")["available"], 3);
    let locked = queue.receive(&mut client, 2).expect("an answer");
    assert_eq!(locked.len(), 2);
    let drained = dev.drained("workers");
    assert_eq!((&drained["available"], &drained["waiting"]), (&json!(1), &json!(2)), "{drained}");
    let event = &drained["events"][0];
    assert_eq!((&event["why"], &event["eventId"]), (&json!("locked"), &json!("a")), "{drained}");
    assert!((50.0..=60.0).contains(&seconds(dev.clock().0, time(&event["until"]))), "{drained}");

    let token = locked[0].token.as_str();
    let query = "&releaseDelayInSeconds=3600";
    assert_eq!(queue.settle(&mut client, "release", query, &[token]).expect("an answer").failed, []);
    dev.advance("60s");
    let lost = queue.settle(&mut client, "acknowledge", "", &[&locked[1].token]).expect("an answer");
    assert_eq!(lost.failed.len(), 1, "its lock has run out");
    let drained = dev.drained("workers");
    assert_eq!((&drained["available"], &drained["waiting"]), (&json!(1), &json!(1)), "{drained}");
    assert_eq!(drained["events"][0]["why"], "released", "{drained}");
    dev.advance("1h");
    let again = queue.receive(&mut client, 10).expect("an answer");
    let mut ids: Vec<&str> = again.iter().map(|one| one.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["a", "b", "c"]);

    dev.advance("3h");
    let ended = dev.drained("workers");
    assert_eq!(
        (&ended["expired"], &ended["waiting"], &ended["available"]),
        (&json!(3), &json!(0), &json!(0))
    );
}

#[test]
fn a_waiting_receiver_is_woken_by_the_clock() {
    let server = Server::start();
    let (queue, dev) = (pulled(&server), Dev(&server));
    let locked = queue.receive(&mut Client::new(server.http), 10).expect("an answer");
    assert_eq!(locked.len(), 3);
    let (mut client, request) = (Client::new(server.http), queue.receive_request(10));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || client.send(&request).expect("an answer").json());
        dev.jump("61s");
        let answer = waiting.join().expect("an answer");
        assert_eq!(answer["value"].as_array().map(Vec::len), Some(locked.len()), "{answer}");
    });
}

/// A SAS token for the whole topic.
fn sas(topic: &Topic, server: &Server, expires: &str) -> String {
    let path = topic.path.split('?').next().expect("a path");
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let signed = format!("r={}&e={}", encode(&format!("http://{}{path}", server.http)), encode(expires));
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(&topic.key).expect("base64"));
    let signature = STANDARD.encode(hmac::sign(&key, signed.as_bytes()));
    format!("{signed}&s={}", encode(&signature))
}

#[test]
fn tokens_expire_by_the_wall_clock_whatever_broker_time_is() {
    let mut server = Server::start();
    let topic = Arm::new(&server).topic("orders", &json!({}));
    let publish = |server: &Server, expires: Timestamp| {
        let request = Request::post(&topic.path)
            .with("aeg-sas-token", sas(&topic, server, &expires.to_string()))
            .with("content-type", events::JSON)
            .body(json!([events::grid_event("a")]).to_string());
        server.send(&request).status
    };
    // Nothing was advanced yet, so this is what the wall clock shows.
    let wall = Dev(&server).clock().0;
    let hour = Duration::from_secs(3600);
    // Clients' clocks may be a minute ahead of ours.
    let (good, ended) = (wall + hour, wall - hour);
    assert_eq!((publish(&server, good), publish(&server, ended)), (200, 401));
    Dev(&server).advance("1d");
    assert_eq!((publish(&server, good), publish(&server, ended)), (200, 401), "a day advanced");
    // Outside development mode the records keep broker time ahead for days.
    server.kill9();
    server.launch.without_dev = true;
    server.restart();
    assert_eq!((publish(&server, good), publish(&server, ended)), (200, 401), "after a restart");
}

#[test]
fn an_event_subscription_ends_at_its_expiration_time() {
    let mut server = Server::start();
    let sink = Sink::start();
    let (topic, path) = {
        let (arm, dev) = (Arm::new(&server), Dev(&server));
        let topic = arm.topic("orders", &json!({}));
        let at = dev.clock().0 + Duration::from_secs(3600);
        let expires = json!({ "expirationTimeUtc": at.to_string() });
        for name in ["ends", "ends-while-down"] {
            let later = Duration::from_secs(if name == "ends" { 0 } else { 7200 });
            let mut expires = expires.clone();
            expires["expirationTimeUtc"] = json!((at + later).to_string());
            arm.webhook(&topic, name, &sink.url(&format!("/{name}")), &expires);
        }
        let path = format!("{}/eventSubscriptions/ends", topic.resource);
        dev.advance("58m");
        arm.call("GET", &path, None).expect(200);
        dev.advance("2m");
        arm.call("GET", &path, None).expect(404);
        server.send(&topic.publish(events::JSON, &json!([events::grid_event("e")]))).expect(200);
        dev.drain();
        (topic, path)
    };
    assert_eq!(sink.at("/ends").len(), 0);
    assert_eq!(sink.at("/ends-while-down").len(), 1);

    // The clock goes on from its advances; what ends between is gone with the start.
    server.kill9();
    let file = server.data_dir().join("dev-clock.json");
    let mut on_file: Value =
        serde_json::from_slice(&std::fs::read(&file).expect("an advance on file")).expect("JSON");
    for member in ["aheadMillis", "atMillis"] {
        on_file[member] = json!(on_file[member].as_u64().expect("milliseconds") + 7_200_000);
    }
    std::fs::write(&file, on_file.to_string()).expect("the file can be written");
    server.restart();
    let arm = Arm::new(&server);
    arm.call("GET", &path.replace("/ends", "/ends-while-down"), None).expect(404);
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("f")]))).expect(200);
    Dev(&server).drain();
    assert_eq!(sink.at("/ends-while-down").len(), 1);
}

#[test]
fn an_advance_is_kept_over_restarts_and_shown() {
    let mut server = Server::start();
    let ready = |server: &Server| {
        crate::support::client::send_once(server.admin, &Request::get("/readyz")).expect("an answer").text()
    };
    assert_eq!(ready(&server), "ready (development mode)\n");
    let (before, ahead) = Dev(&server).clock();
    assert_eq!(ahead, "PT0S");
    Dev(&server).jump("P1DT2H");
    let (after, ahead) = Dev(&server).clock();
    assert_eq!(ahead, "PT26H");
    assert!(seconds(before, after) >= 93_600.0);
    for _ in 0..2 {
        server.kill9();
        server.restart();
        let (now, ahead) = Dev(&server).clock();
        assert_eq!(ahead, "PT26H");
        assert!(after <= now, "{after} before, {now} after");
    }
    assert_eq!(ready(&server), "ready (development mode, the clock is PT26H ahead)\n");
    assert!(server.log().contains("development mode, the clock is PT26H ahead"), "{}", server.log());

    // Outside development mode time does not step back either, and somebody should know why.
    server.kill9();
    server.launch.without_dev = true;
    server.restart();
    Dev(&server).call("GET", "clock", None).expect(404);
    let log = server.log();
    assert!(log.contains("was advanced in development mode"), "{log}");
    // Twenty times 26 hours, or a little less: some of it passed since the advance.
    assert!(log.contains("ahead of the wall clock and catches up in about 5"), "{log}");
    assert!(ready(&server).contains("broker time is 2"), "{}", ready(&server));
    let doctor = program().args(["--data-dir", &server.data_dir().display().to_string(), "doctor"]).output();
    let doctor = String::from_utf8(doctor.expect("the program runs").stdout).expect("text");
    assert!(doctor.contains("note  broker time: 93"), "{doctor}");
    assert!(doctor.contains("ok    clock: this machine's wall clock agrees"), "{doctor}");
    let made = Arm::new(&server).put("topics/late", &json!({ "location": "local", "properties": {} }));
    assert!(after <= time(&made["systemData"]["createdAt"]), "{after} before, {made} after");
}

#[test]
fn only_development_mode_has_a_clock_to_move_and_only_for_who_manages() {
    let server = Server::start();
    for (method, path) in [("GET", "clock"), ("POST", "clock"), ("POST", "drain"), ("PUT", "faults/1")] {
        let request = Request::new(method, format!("/gridwire/v1/dev/{path}"));
        server.send(&request).expect(401);
        server.send(&request.clone().with("authorization", "Bearer wrong")).expect(401);
    }
    let dev = Dev(&server);
    for (method, path, body, status) in [
        ("POST", "clock", json!({ "advance": "soon" }), 400),
        ("POST", "clock", json!({ "advance": "-1h" }), 400),
        ("POST", "clock", json!({ "advance": "100000d" }), 400),
        ("POST", "clock", json!({}), 400),
        ("POST", "drain", json!({ "timeout": "1d" }), 400),
        ("PUT", "faults/1", json!({ "steps": ["503"] }), 404),
        ("PUT", "faults/1", json!({ "steps": ["boom"] }), 400),
        ("DELETE", "clock", json!({}), 405),
        ("GET", "nothing", json!({}), 404),
    ] {
        dev.call(method, path, Some(&body)).expect(status);
    }
    let plain = Server::launch(Launch { without_dev: true, ..Launch::default() });
    for (method, path) in [("GET", "clock"), ("POST", "clock"), ("POST", "drain"), ("GET", "faults/1")] {
        Dev(&plain).call(method, path, None).expect(404);
    }
}

#[test]
fn the_command_line_moves_the_clock_and_scripts_failures() {
    let server = Server::launch(without_jitter());
    let sink = Sink::start();
    let run = |arguments: &str| {
        let output = program()
            .args(["--data-dir", &server.data_dir().display().to_string()])
            .args(arguments.split(' '))
            .output()
            .expect("the program runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let expect = |arguments: &str, shown: &str| {
        let (success, out, err) = run(arguments);
        assert!(success && out.contains(shown), "{arguments}: {out}{err}");
    };
    expect("topic create orders", "orders");
    expect(&format!("subscription create orders/billing --webhook {}", sink.url("/hook")), "billing");
    expect("dev faults set orders/billing 503:60s*2 pass", "orders/billing: 503:60s*2 pass");
    expect("publish orders {\"n\":1} --type t", "");
    expect("dev drain", "the endpoint answered 503");
    expect("dev faults show orders/billing", "orders/billing: 503:60s pass");
    assert!(sink.at("/hook").is_empty(), "the endpoint was not asked");
    expect("dev clock advance 2m --output json", "\"advanced\":");
    expect("dev drain --all", "orders/billing: delivered 1, dead-lettered 0");
    expect("dev drain", "1 event subscription has nothing left to do");
    assert_eq!(sink.at("/hook").len(), 1);
    expect("dev faults set orders/billing reset*9", "reset*9");
    expect("dev faults clear orders/billing", "orders/billing: attempts pass");
    expect("dev clock show", "ahead");
    expect("dev faults set orders/billing slow:60s", "slow:60s");
    expect("publish orders {\"n\":2} --type t", "");
    // The attempt may not have begun when the first answer is given.
    wait_for("an attempt to be under way", Duration::from_secs(15), || {
        let (success, out, err) = run("dev drain --timeout 10ms");
        assert!(!success && err.contains("still under way"), "{out}{err}");
        (err.contains(": orders/billing (1)") && out.contains("under way 1,")).then_some(())
    });
    for (arguments, reason) in [
        ("dev faults set orders/billing boom", "`boom` is not a fault"),
        ("dev faults show orders/nobody", "was not found"),
        ("dev clock advance soon", "not a span of time"),
    ] {
        let (success, _, err) = run(arguments);
        assert!(!success && err.contains(reason), "{arguments}: {err}");
    }
}
