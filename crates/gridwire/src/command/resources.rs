//! `gridwire topic`, `domain`, `namespace` and `subscription`: the resources, one at a time.
//!
//! Each kind has a module of its own; here is what they share: how a resource is made or changed, shown, listed,
//! deleted and told of.

mod domain;
mod namespace;
mod subscription;
mod topic;

use anyhow::Context;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::hint;
use crate::arm::{Scope, Subscription, Topic};
use crate::output::Output;
use crate::target::Target;

pub(crate) use domain::{DomainCommand, domain};
pub(crate) use namespace::{NamespaceCommand, namespace};
pub(crate) use subscription::{SubscriptionCommand, subscription};
pub(crate) use topic::{TopicCommand, topic};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputSchema {
    /// `CloudEvents` 1.0
    CloudEvents,
    /// The Event Grid event schema
    EventGrid,
}

impl InputSchema {
    /// As the management API writes it.
    fn arm(self) -> &'static str {
        match self {
            Self::CloudEvents => "CloudEventSchemaV1_0",
            Self::EventGrid => "EventGridSchema",
        }
    }
}

/// What a create did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Created,
    Changed,
    Replaced,
    Nothing,
}

/// The member at a JSON pointer as text, empty when it is not there.
fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// What holds the topic's keys and says what it takes: the topic, or the domain that it is of.
pub(crate) async fn topic_resource(topic: &Topic, target: &Target) -> anyhow::Result<Value> {
    let found = target.management.get(&topic.key_holder(&target.scope)).await?;
    found.with_context(|| format!("there is no topic `{topic}`"))
}

/// What a person would type to see this subscription's resource id used elsewhere.
pub(crate) fn subscription_id(text: &str, scope: &Scope) -> anyhow::Result<String> {
    Ok(Subscription::parse(text)?.id(scope))
}

/// Changes the `asked` properties of what is there, and no other.
async fn change(id: &str, existing: Value, asked: &Value, target: &Target) -> anyhow::Result<(Done, Value)> {
    let asked = asked.as_object().context("properties are an object")?;
    if asked.iter().all(|(name, value)| existing["properties"][name.as_str()] == *value) {
        return Ok((Done::Nothing, existing));
    }
    let mut body = existing;
    for (name, value) in asked {
        body["properties"][name.as_str()] = value.clone();
    }
    Ok((Done::Changed, target.management.put(id, &body).await?))
}

/// An error is explained by what is missing, which is looked for only then.
async fn explained<T>(
    result: anyhow::Result<T>,
    missing: impl Future<Output = Option<String>>,
) -> anyhow::Result<T> {
    match result {
        Ok(value) => Ok(value),
        Err(error) => Err(hint::explain(error, missing.await)),
    }
}

/// Where a resource takes requests, each with what to call it.
fn endpoints(https: String, path: &str, target: &Target) -> Vec<(&'static str, String)> {
    let mut endpoints = Vec::new();
    if !https.is_empty() {
        endpoints.push(("endpoint", https));
    }
    if let Some(http) = &target.http {
        endpoints.push(("plain http", format!("{http}{path}")));
    }
    endpoints
}

fn tell(
    done: Done,
    resource: &Value,
    label: &str,
    endpoints: &[(&str, String)],
    next: &str,
    target: &Target,
    output: Output,
) -> anyhow::Result<()> {
    if output.is_json() {
        output.json(resource)?;
        return Ok(());
    }
    match done {
        Done::Created => output.line(format_args!("created {label}"))?,
        Done::Changed => output.line(format_args!("changed {label}"))?,
        Done::Replaced => output.line(format_args!("replaced {label}: it has exactly these settings now"))?,
        Done::Nothing => output.line(format_args!("{label} is there already; nothing was changed"))?,
    }
    for (name, value) in endpoints {
        output.line(format_args!("  {name:<10}  {value}"))?;
    }
    output.remark(format_args!("next: {next}{}", target.flags));
    Ok(())
}

fn list(
    entries: &[Value],
    headings: &[&str],
    row: impl Fn(&Value) -> Vec<String>,
    output: Output,
) -> anyhow::Result<()> {
    if output.is_json() {
        output.json(&Value::from(entries))?;
    } else if entries.is_empty() {
        output.remark("there are none yet");
    } else {
        output.table(headings, &entries.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(())
}

async fn show(id: &str, name: &str, target: &Target, output: Output) -> anyhow::Result<()> {
    let resource =
        target.management.get(id).await?.with_context(|| format!("there is no `{name}` (looked at {id})"))?;
    Ok(output.json(&resource)?)
}

async fn keys(id: &str, target: &Target, output: Output) -> anyhow::Result<()> {
    let keys = target.management.act(id, "listKeys").await?;
    if output.is_json() {
        return Ok(output.json(&keys)?);
    }
    for name in ["key1", "key2"] {
        output.line(format_args!("{name}  {}", keys[name].as_str().unwrap_or_default()))?;
    }
    Ok(())
}

async fn delete(id: &str, name: &str, target: &Target, output: Output) -> anyhow::Result<()> {
    let was_there = target.management.get(id).await?.is_some();
    target.management.delete(id).await.with_context(|| format!("failed to delete `{name}`"))?;
    if output.is_json() {
        output.json(&json!({ "id": id, "deleted": was_there }))?;
    } else {
        let done = if was_there { "deleted" } else { "was not there:" };
        output.line(format_args!("{done} {name}"))?;
    }
    Ok(())
}
