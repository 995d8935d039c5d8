//! When dead letters are written: at once or after the delay that is configured, and again and again while their
//! place is down.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::support::arm::{Topic, dead_letters};
use crate::support::dev::{Dev, without_jitter};
use crate::support::{Arm, Reply, Server, Sink, events, metrics, wait_for};

const SOON: Duration = Duration::from_secs(15);

/// A topic whose one subscription is refused everything for good.
fn hopeless(server: &Server, sink: &Sink) -> Topic {
    let arm = Arm::new(server);
    let grid = arm.topic("grid", &json!({}));
    let more = json!({ "deadLetterDestination": dead_letters("store", "letters") });
    arm.webhook(&grid, "hook", &sink.url("/hook"), &more);
    grid
}

fn publish(server: &Server, topic: &Topic, id: &str) {
    server.send(&topic.publish(events::JSON, &json!([events::grid_event(id)]))).expect(200);
}

/// The letters on the disk.
fn letters(server: &Server) -> Vec<PathBuf> {
    below(&server.data_dir().join("deadletter/store/letters"))
}

/// Every file below a directory.
pub(crate) fn below(directory: &Path) -> Vec<PathBuf> {
    let (mut found, mut dirs) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found
}

fn counted(server: &Server, name: &str) -> f64 {
    let page = server.metrics();
    let of_hook = format!("gridwire_delivery_{name}{{topic=\"grid\",subscription=\"hook\"}}");
    let all = format!("gridwire_delivery_{name}");
    metrics::value(&page, &of_hook).or_else(|| metrics::value(&page, &all)).unwrap_or(0.0)
}

fn wait_until(server: &Server, name: &str, value: f64) {
    wait_for(name, SOON, || ((counted(server, name) - value).abs() < 0.5).then_some(()));
}

#[test]
fn a_letter_waits_for_the_documented_five_minutes_where_that_is_asked_for_over_a_restart_too() {
    let mut launch = without_jitter();
    launch.environment.push(("GRIDWIRE_DEAD_LETTER_DELAY", OsString::from("5m")));
    let mut server = Server::launch(launch);
    let sink = Sink::scripted(|_, _| Reply::Status(400));
    let grid = hopeless(&server, &sink);
    publish(&server, &grid, "e-1");
    sink.wait_at("/hook", 1, SOON);
    wait_until(&server, "dead_letters_waiting", 1.0);
    Dev(&server).advance("3m");
    server.kill9();
    server.restart();
    Dev(&server).advance("1m");
    Dev(&server).drain();
    assert_eq!(letters(&server), Vec::<PathBuf>::new(), "four minutes after it was given up");
    assert!((counted(&server, "dead_letters_waiting") - 1.0).abs() < 0.5, "it is seen meanwhile");
    Dev(&server).advance("1m");
    wait_until(&server, "events_dead_lettered_total", 1.0);
    assert_eq!(letters(&server).len(), 1);
    assert_eq!(sink.at("/hook").len(), 1, "nothing was tried again");
}

#[test]
fn letters_are_tried_again_while_their_place_is_down_and_counted_when_that_is_too_long() {
    let server = Server::launch(without_jitter());
    let sink = Sink::scripted(|_, _| Reply::Status(400));
    let grid = hopeless(&server, &sink);
    let place = server.data_dir().join("deadletter");
    // A file where the directory should be.
    fs::write(&place, "").expect("a file");
    publish(&server, &grid, "e-1");
    // At once, then after 10 s, 1 min and 5 min, then every 5 min.
    wait_until(&server, "dead_letters_failed_total", 1.0);
    for (tries, wait) in [(2.0, "12s"), (3.0, "62s"), (4.0, "302s")] {
        Dev(&server).advance(wait);
        wait_until(&server, "dead_letters_failed_total", tries);
    }
    assert!((counted(&server, "dead_letters_waiting") - 1.0).abs() < 0.5);
    assert!(server.log().contains("failed to write a dead letter"), "the operator is told");
    fs::remove_file(&place).expect("it is mended");
    Dev(&server).advance("302s");
    wait_until(&server, "events_dead_lettered_total", 1.0);
    assert_eq!(letters(&server).len(), 1);

    fs::rename(&place, server.data_dir().join("aside")).expect("it is moved");
    fs::write(&place, "").expect("a file");
    publish(&server, &grid, "e-2");
    wait_until(&server, "dead_letters_failed_total", 5.0);
    Dev(&server).advance("3h50m");
    Dev(&server).drain();
    assert!((counted(&server, "dead_letters_waiting") - 1.0).abs() < 0.5, "kept for four hours");
    Dev(&server).advance("15m");
    wait_until(&server, "dead_letters_given_up_total", 1.0);
    wait_until(&server, "dead_letters_waiting", 0.0);
    assert!((counted(&server, "events_dead_lettered_total") - 1.0).abs() < 0.5, "it got no letter");
    assert!((counted(&server, "events_dropped_total") - 1.0).abs() < 0.5, "it is counted");
}
