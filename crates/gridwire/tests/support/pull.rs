//! Receiving and settling.

use std::io;
use std::time::Instant;

use serde_json::{Value, json};

use super::arm::Namespace;
use super::client::{Answer, Client, Request};
use super::time::now;

/// A pull subscription, as a receiver sees it.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    base: String,
    namespace: Namespace,
}

/// One received event. The lock was granted somewhere between `asked` and `arrived`.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) delivery_count: u64,
    pub(crate) event: Value,
    pub(crate) asked: Instant,
    pub(crate) arrived: Instant,
}

impl Queue {
    pub(crate) fn new(namespace: &Namespace, topic: &str, subscription: &str) -> Self {
        let base = format!("topics/{topic}/eventsubscriptions/{subscription}");
        Self { base, namespace: namespace.clone() }
    }

    /// A receive of up to `max` events that waits the shortest time there is.
    pub(crate) fn receive_request(&self, max: u32) -> Request {
        self.namespace.request(&format!("{}:receive", self.base), &format!("&maxEvents={max}&maxWaitTime=10"))
    }

    pub(crate) fn receive(&self, client: &mut Client, max: u32) -> io::Result<Vec<Received>> {
        let asked = now();
        let answer = client.send(&self.receive_request(max))?;
        let arrived = now();
        if answer.status != 200 {
            return Err(io::Error::other(format!(
                "receive was answered {}: {}",
                answer.status,
                answer.text()
            )));
        }
        let body = answer.json();
        let items = body["value"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().expect("a text in a received event").to_owned();
        Ok(items
            .into_iter()
            .map(|item| Received {
                id: text(&item["event"]["id"]),
                token: text(&item["brokerProperties"]["lockToken"]),
                delivery_count: item["brokerProperties"]["deliveryCount"].as_u64().expect("a delivery count"),
                event: item["event"].clone(),
                asked,
                arrived,
            })
            .collect())
    }

    /// `verb` is e.g. `acknowledge`; `query` begins with `&`.
    pub(crate) fn settle(
        &self,
        client: &mut Client,
        verb: &str,
        query: &str,
        tokens: &[&str],
    ) -> io::Result<Settled> {
        let request = self
            .namespace
            .request(&format!("{}:{verb}", self.base), query)
            .json(&json!({ "lockTokens": tokens }));
        client.send(&request).and_then(|answer| Settled::read(&answer))
    }
}

/// The result of acknowledge, release, reject or renewLock.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) succeeded: Vec<String>,
    /// Token and code.
    pub(crate) failed: Vec<(String, String)>,
}

impl Settled {
    fn read(answer: &Answer) -> io::Result<Self> {
        if answer.status != 200 {
            return Err(io::Error::other(format!(
                "a settlement was answered {}: {}",
                answer.status,
                answer.text()
            )));
        }
        let body = answer.json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list =
            |name: &str| body[name].as_array().cloned().unwrap_or_else(|| panic!("no `{name}` in {body}"));
        Ok(Self {
            succeeded: list("succeededLockTokens").iter().map(text).collect(),
            failed: list("failedLockTokens")
                .iter()
                .map(|item| (text(&item["lockToken"]), text(&item["error"]["code"])))
                .collect(),
        })
    }
}
