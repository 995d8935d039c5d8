//! An endpoint that Gridwire itself refuses to call: its owner is told why, wherever the attempt is shown.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::support::arm::{GROUP, SUBSCRIPTION};
use crate::support::endpoint::endpoint;
use crate::support::time::wait_for;
use crate::support::{Arm, Request, Server, Sink, events, program};

const PATIENCE: Duration = Duration::from_secs(15);
const REASON: &str = "its scheme is not `https`";

/// The first delivery that the server remembers.
fn first_delivery(server: &Server, id: &str) -> Value {
    let id = utf8_percent_encode(id, NON_ALPHANUMERIC);
    let request = Request::get(format!("/gridwire/v1/subscriptions/{id}/deliveries?after=0"))
        .with("authorization", format!("Bearer {}", server.token));
    wait_for("a first attempt", PATIENCE, || {
        server.send(&request).expect(200).json()["deliveries"].get(0).cloned()
    })
}

#[test]
fn what_gridwire_itself_refuses_to_call_is_shown_with_the_reason() {
    let mut server = Server::start();
    let sink = Sink::start();
    let topic = Arm::new(&server).topic("orders", &json!({}));
    let made = Arm::new(&server).webhook(&topic, "billing", &sink.url("/hook"), &json!({}));
    let id = made["id"].as_str().expect("an id").to_owned();
    // Plain http is for development only.
    server.kill9();
    server.launch.without_dev = true;
    server.restart();
    server.send(&topic.publish(events::JSON, &json!([events::grid_event("a")]))).expect(200);

    let delivery = first_delivery(&server, &id);
    assert_eq!(
        (&delivery["outcome"], &delivery["reason"]),
        (&json!("Forbidden"), &json!(REASON)),
        "{delivery}"
    );
    let shown = endpoint(&server, &id);
    assert_eq!(
        (&shown["lastOutcome"], &shown["lastReason"]),
        (&json!("Forbidden"), &json!(REASON)),
        "{shown}"
    );
    for (command, expected) in [
        (&["tail", "orders/billing", "--from-start", "--max", "1"][..], "Forbidden       a  attempt 1"),
        (&["subscription", "endpoint", "orders/billing"], "last outcome: Forbidden"),
    ] {
        let told = program()
            .args(command)
            .arg("--data-dir")
            .arg(server.data_dir())
            .env("GRIDWIRE_SUBSCRIPTION_ID", SUBSCRIPTION)
            .env("GRIDWIRE_RESOURCE_GROUP", GROUP)
            .output()
            .expect("the program runs");
        let text = String::from_utf8_lossy(&told.stdout);
        let problems = String::from_utf8_lossy(&told.stderr);
        assert!(text.contains(expected) && text.contains(REASON), "{command:?}: {text}{problems}");
    }
    assert!(sink.at("/hook").is_empty());
}
