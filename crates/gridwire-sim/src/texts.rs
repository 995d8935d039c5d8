//! What clients write and read: for whoever drives a broker and tells the checker.

use std::collections::BTreeMap;

use gridwire_core::event::{Data, Event, InputSchema};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::checker::{Received, TokenResult};

type Members = BTreeMap<String, Box<RawValue>>;

/// The event as its publisher writes it.
pub fn write_event(event: &Event<'_>) -> String {
    let text = |text: &str| Value::from(text).to_string();
    let mut members = Vec::new();
    let mut add = |name: &str, json: String| members.push(format!("\"{name}\":{json}"));
    let cloud = event.schema == InputSchema::CloudEvent;
    add("id", text(&event.id));
    if cloud {
        add("specversion", text("1.0"));
        add("source", text(&event.source));
    }
    add(if cloud { "type" } else { "eventType" }, text(&event.event_type));
    if let Some(subject) = &event.subject {
        add("subject", text(subject));
    }
    if let Some(time) = &event.time {
        add(if cloud { "time" } else { "eventTime" }, text(time));
    }
    if let Some(content_type) = &event.data_content_type {
        add("datacontenttype", text(content_type));
    }
    if let Some(version) = &event.data_schema {
        add(if cloud { "dataschema" } else { "dataVersion" }, text(version));
    }
    for extension in &event.extensions {
        add(&extension.name, extension.json.to_string());
    }
    if let Data::Json(data) = &event.data {
        add("data", data.to_string());
    }
    format!("{{{}}}", members.join(","))
}

/// The events in an answer to receive, to the byte.
pub fn read_received(body: &[u8]) -> Option<Vec<Received>> {
    let answer: Members = serde_json::from_slice(body).ok()?;
    let all: Vec<Members> = serde_json::from_str(answer.get("value")?.get()).ok()?;
    let one = |members: &Members| {
        let properties: Value = serde_json::from_str(members.get("brokerProperties")?.get()).ok()?;
        Some(Received {
            token: properties["lockToken"].as_str()?.to_owned(),
            delivery_count: u32::try_from(properties["deliveryCount"].as_u64()?).ok()?,
            event: members.get("event")?.get().as_bytes().to_vec(),
        })
    };
    all.iter().map(one).collect()
}

/// What a settlement's answer says of each token.
pub fn read_results(body: &[u8]) -> Option<Vec<TokenResult>> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let succeeded = answer["succeededLockTokens"]
        .as_array()?
        .iter()
        .map(|token| Some(TokenResult { token: token.as_str()?.to_owned(), error: None }));
    let failed = answer["failedLockTokens"].as_array()?.iter().map(|failed| {
        let token = failed["lockToken"].as_str()?.to_owned();
        Some(TokenResult { token, error: Some(failed["error"]["code"].as_str()?.to_owned()) })
    });
    succeeded.chain(failed).collect()
}
