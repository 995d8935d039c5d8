//! Development mode: the clock, the fault scripts and `drain`, over HTTP.

use std::ffi::OsString;
use std::time::Duration;

use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::client::{Answer, Request};
use super::server::{Launch, Server};

/// The development routes of a server.
pub(crate) struct Dev<'a>(pub(crate) &'a Server);

/// One attempt, by broker time.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) began: Timestamp,
    pub(crate) ended: Timestamp,
    pub(crate) event_id: String,
    pub(crate) status: Option<u64>,
}

/// A server that never lengthens a wait by chance.
pub(crate) fn without_jitter() -> Launch {
    let environment = vec![("GRIDWIRE_DELIVERY_RETRY_JITTER", OsString::from("0%"))];
    Launch { environment, ..Launch::default() }
}

pub(crate) fn time(value: &Value) -> Timestamp {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no time"));
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// From `earlier` to `later`, in seconds.
pub(crate) fn seconds(earlier: Timestamp, later: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64()
}

impl Dev<'_> {
    pub(crate) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let request = Request::new(method, format!("/gridwire/v1/dev/{path}"))
            .with("authorization", format!("Bearer {}", self.0.token));
        self.0.send(&match body {
            Some(body) => request.json(body),
            None => request,
        })
    }

    /// Broker time, and what it is ahead of the real one.
    #[track_caller]
    pub(crate) fn clock(&self) -> (Timestamp, String) {
        let shown = self.call("GET", "clock", None).expect(200).json();
        (time(&shown["now"]), shown["ahead"].as_str().expect("a duration").to_owned())
    }

    /// Lets time pass, with everything that is due on the way.
    #[track_caller]
    pub(crate) fn advance(&self, by: &str) {
        let moved = self.call("POST", "clock", Some(&json!({ "advance": by }))).expect(200).json();
        assert_eq!(moved["complete"], true, "{moved}");
    }

    /// Goes there at once.
    #[track_caller]
    pub(crate) fn jump(&self, by: &str) {
        let body = json!({ "advance": by, "jump": true });
        self.call("POST", "clock", Some(&body)).expect(200);
    }

    /// What is left once nothing moves any more.
    #[track_caller]
    pub(crate) fn drain(&self) -> Value {
        let outlook = self.call("POST", "drain", None).expect(200).json();
        assert_eq!(outlook["drained"], true, "{outlook}");
        outlook
    }

    /// One subscription's part of it, by the end of its id.
    #[track_caller]
    pub(crate) fn drained(&self, subscription: &str) -> Value {
        let outlook = self.drain();
        let end = format!("/eventSubscriptions/{subscription}");
        let all = outlook["subscriptions"].as_array().expect("subscriptions");
        let found = all.iter().find(|one| one["id"].as_str().is_some_and(|id| id.ends_with(&end)));
        found.unwrap_or_else(|| panic!("no {subscription} in {outlook}")).clone()
    }

    #[track_caller]
    pub(crate) fn set_faults(&self, subscription_id: &str, steps: &[&str]) {
        let path = faults_path(subscription_id);
        self.call("PUT", &path, Some(&json!({ "steps": steps }))).expect(200);
    }

    /// Every attempt for a subscription that the server remembers, in order.
    #[track_caller]
    pub(crate) fn attempts(&self, subscription_id: &str) -> Vec<Attempt> {
        let id = utf8_percent_encode(subscription_id, NON_ALPHANUMERIC);
        let request = Request::get(format!("/gridwire/v1/subscriptions/{id}/deliveries?after=0"))
            .with("authorization", format!("Bearer {}", self.0.token));
        let page = self.0.send(&request).expect(200).json();
        let deliveries = page["deliveries"].as_array().expect("deliveries");
        let attempt = |delivery: &Value| {
            let ended = time(&delivery["time"]);
            let latency =
                Duration::from_secs_f64(delivery["latencyMs"].as_f64().expect("a latency") / 1000.0);
            Attempt {
                began: ended - latency,
                ended,
                event_id: delivery["eventId"].as_str().expect("an id").to_owned(),
                status: delivery["status"].as_u64(),
            }
        };
        // What ended without an attempt is numbered 0.
        deliveries.iter().filter(|delivery| delivery["attempt"] != 0).map(attempt).collect()
    }
}

pub(crate) fn faults_path(subscription_id: &str) -> String {
    format!("faults/{}", utf8_percent_encode(subscription_id, NON_ALPHANUMERIC))
}
