//! `gridwire store` on the data directory of a server that has stopped.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use support::pull::Queue;
use support::{Arm, Client, Server, events, program};

fn gridwire(dir: &Path, arguments: &[&str]) -> Output {
    program().args(arguments).arg("--data-dir").arg(dir).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn only_segment(dir: &Path) -> PathBuf {
    let files =
        fs::read_dir(dir.join("log")).expect("there is a log").map(|entry| entry.expect("it is read"));
    let mut segments =
        files.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "seg"));
    segments.next().expect("there is a segment")
}

#[test]
fn a_damaged_store_is_reported_refused_repaired_and_served_again() {
    let mut server = Server::start();
    let arm = Arm::new(&server);
    let namespace = arm.namespace("shop");
    arm.namespace_topic(&namespace, "orders");
    arm.queue(&namespace, "orders", "billing", &json!({}), &json!({}));
    for number in 0..5 {
        let event = events::cloud_event(&format!("event-{number}"));
        server.send(&namespace.publish("orders", &json!([event]))).expect(200);
    }
    let dir = server.data_dir();

    let busy = gridwire(&dir, &["store", "check"]);
    assert_eq!(busy.status.code(), Some(1));
    assert!(text(&busy.stderr).contains("stop the server"), "{}", text(&busy.stderr));
    server.terminate();

    let sound = gridwire(&dir, &["store", "check"]);
    assert_eq!(sound.status.code(), Some(0), "{}", text(&sound.stderr));
    assert!(text(&sound.stderr).contains("5 events") && text(&sound.stderr).contains("all are sound"));
    let usage = gridwire(&dir, &["store", "usage", "--output", "json"]);
    let rows: Value = serde_json::from_slice(&usage.stdout).expect("it is JSON");
    let row = |what: &str| {
        let rows = rows.as_array().expect("an array");
        rows.iter()
            .find(|row| row["what"] == what)
            .unwrap_or_else(|| panic!("no `{what}` in {rows:?}"))
            .clone()
    };
    assert_eq!(row("shop/orders")["events"], "5");
    assert_eq!(row("shop/orders/billing")["unsettled at most"], "5");
    assert_ne!(row("shop/orders/billing")["holds bytes"], "0");

    // A byte in the middle of the second event.
    let segment = only_segment(&dir);
    let mut bytes = fs::read(&segment).expect("it is read");
    let at = bytes.windows(7).position(|found| found == b"event-1").expect("it is stored as it came");
    bytes[at] ^= 1;
    fs::write(&segment, &bytes).expect("it is written");

    let damaged = gridwire(&dir, &["store", "check", "--output", "json"]);
    assert_eq!(damaged.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&damaged.stdout).expect("it is JSON");
    let finding = &report["findings"][0];
    assert_eq!(finding["serverStarts"], false);
    assert_eq!(finding["lost"], json!([{ "topic": "shop/orders", "first": 1, "end": 2 }]));
    let within = finding["from"].as_u64() < Some(at as u64) && Some(at as u64) < finding["to"].as_u64();
    assert!(within, "{finding}");
    let refused = gridwire(
        &dir,
        &["serve", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
    );
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("is damaged in bytes"), "{}", text(&refused.stderr));

    let repaired = gridwire(&dir, &["store", "repair"]);
    assert_eq!(repaired.status.code(), Some(0), "{}", text(&repaired.stderr));
    assert!(text(&repaired.stdout).contains("shop/orders 1 to 1"), "{}", text(&repaired.stdout));
    let aside =
        segment.with_file_name(format!("{}.bad-1", segment.file_name().expect("a name").to_string_lossy()));
    assert_eq!(fs::read(aside).expect("it is kept"), bytes);

    server.restart();
    let queue = Queue::new(&namespace, "orders", "billing");
    let received = queue.receive(&mut Client::new(server.http), 10).expect("it is received");
    let ids: Vec<&str> = received.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids, ["event-0", "event-2", "event-3", "event-4"]);
    let metrics = server.metrics();
    assert!(metrics.contains("gridwire_log_damaged_events_total 1"), "{metrics}");
    assert!(
        metrics
            .lines()
            .any(|line| line.starts_with("gridwire_delivery_events_dropped_total") && line.ends_with(" 1"))
    );
}

#[test]
fn a_directory_without_a_store_is_said_to_be_none() {
    let dir = tempfile::tempdir().expect("a directory");
    for verb in ["check", "repair", "usage"] {
        let output = gridwire(dir.path(), &["store", verb]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("there is no store"), "{}", text(&output.stderr));
    }
    assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 0, "nothing was made");
}

#[test]
fn a_file_system_in_memory_is_refused_when_a_durable_one_is_required() {
    let memory = Path::new("/dev/shm");
    let kind = Command::new("stat").args(["--file-system", "--format=%T"]).arg(memory).output();
    if !kind.is_ok_and(|kind| text(&kind.stdout).trim() == "tmpfs") {
        support::server::show("skipped: /dev/shm is not in memory here");
        return;
    }
    let dir = tempfile::tempdir_in(memory).expect("a directory");
    let listen = ["--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let refused = gridwire(dir.path(), &[&["serve", "--require-durable-fs"][..], &listen].concat());
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("is on tmpfs"), "{}", text(&refused.stderr));
}
