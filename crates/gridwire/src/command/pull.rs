//! Pull delivery from the command line: receive, and settle what was received.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, header};
use serde_json::{Value, json};

use super::hint;
use super::publish::first_key;
use crate::arm::{Refusal, Scope, Subscription};
use crate::client::{ANSWER_TIMEOUT, Client};
use crate::output::{Output, printable};
use crate::target::{Target, TargetArgs};

pub(crate) const RECEIVE_HELP: &str = "\
Examples:
  gridwire receive shop/jobs/workers --max 10          look at up to ten events; they stay locked for a minute
  gridwire receive shop/jobs/workers --ack             take one event and settle it
  gridwire acknowledge shop/jobs/workers LOCK_TOKEN    settle one that was received before
  gridwire receive shop/jobs/workers --output json | jq .value[].event";

#[derive(Clone, Debug, Args)]
pub(crate) struct ReceiveArgs {
    /// `shop/jobs/workers`: namespace, topic and event subscription
    subscription: String,
    /// How many events at most, 1 to 100
    #[arg(long, default_value_t = 1)]
    max: u32,
    /// How many seconds to wait for the first event, 10 to 120
    #[arg(long, default_value_t = 10)]
    wait: u32,
    /// Acknowledge what was received, after showing it
    #[arg(long)]
    ack: bool,
    /// Access key of the namespace; with it, no management token is needed [default: asked from the server]
    #[arg(long, value_name = "KEY", env = "GRIDWIRE_KEY", hide_env_values = true)]
    key: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SettleArgs {
    /// `shop/jobs/workers`: namespace, topic and event subscription
    subscription: String,
    /// The lock tokens that `receive` showed
    #[arg(required = true, value_name = "LOCK_TOKEN")]
    tokens: Vec<String>,
    /// Access key of the namespace; with it, no management token is needed [default: asked from the server]
    #[arg(long, value_name = "KEY", env = "GRIDWIRE_KEY", hide_env_values = true)]
    key: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ReleaseArgs {
    #[command(flatten)]
    settle: SettleArgs,
    /// Seconds until the events can be received again
    #[arg(long, default_value = "0", value_parser = ["0", "10", "60", "600", "3600"])]
    delay: String,
}

/// What is done to received events.
#[derive(Clone, Debug)]
pub(crate) enum Settlement<'a> {
    Acknowledge(&'a SettleArgs),
    Release(&'a ReleaseArgs),
    Reject(&'a SettleArgs),
    Renew(&'a SettleArgs),
}

/// The pull operations of one subscription.
pub(crate) struct Puller<'a> {
    pub(crate) client: &'a Client,
    pub(crate) subscription: &'a Subscription,
    pub(crate) scope: &'a Scope,
    pub(crate) key: &'a str,
}

impl Puller<'_> {
    /// The answer to a receive: `{"value":[…]}`.
    pub(crate) async fn receive(&self, max: u32, wait: u32) -> anyhow::Result<Value> {
        let query = format!("&maxEvents={max}&maxWaitTime={wait}");
        let patience = ANSWER_TIMEOUT + Duration::from_secs(wait.into());
        self.call("receive", &query, Bytes::new(), patience).await
    }

    /// The answer to a settlement: which tokens succeeded and which failed, and why.
    pub(crate) async fn settle(
        &self,
        operation: &str,
        query: &str,
        tokens: &[String],
    ) -> anyhow::Result<Value> {
        let body = json!({ "lockTokens": tokens }).to_string();
        self.call(operation, query, Bytes::from(body), ANSWER_TIMEOUT).await
    }

    async fn call(
        &self,
        operation: &str,
        query: &str,
        body: Bytes,
        patience: Duration,
    ) -> anyhow::Result<Value> {
        let subscription = self.subscription;
        let path = subscription.pull_path(self.scope, operation).with_context(|| {
            format!(
                "`{subscription}` belongs to a custom topic, and those only push; \
                 pull needs a namespace: NAMESPACE/TOPIC/SUBSCRIPTION"
            )
        })?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{path}{query}"))
            .header(header::AUTHORIZATION, format!("SharedAccessKey {}", self.key))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)?;
        let answer = self.client.send(request, patience).await?;
        if !answer.status.is_success() {
            let refusal = Refusal::of(&answer);
            bail!("failed to {operation} events of `{subscription}`: {refusal}{}", refusal.about_key());
        }
        serde_json::from_slice(&answer.body).context("the server's answer is not JSON")
    }
}

pub(crate) async fn receive(args: &ReceiveArgs, target: &TargetArgs, output: Output) -> anyhow::Result<()> {
    ensure!((1..=100).contains(&args.max), "--max takes 1 to 100");
    ensure!((10..=120).contains(&args.wait), "--wait takes 10 to 120 seconds");
    let subscription = pull_subscription(&args.subscription)?;
    let target = target.find_with(args.key.as_ref())?;
    match receive_from(args, &subscription, &target, output).await {
        Ok(()) => Ok(()),
        Err(error) => Err(hint::explain(error, hint::missing_subscription(&subscription, &target).await)),
    }
}

async fn receive_from(
    args: &ReceiveArgs,
    subscription: &Subscription,
    target: &Target,
    output: Output,
) -> anyhow::Result<()> {
    let key = key(args.key.as_ref(), subscription, target).await?;
    let client = target.management.client();
    let puller = Puller { client, subscription, scope: &target.scope, key: &key };
    let answer = puller.receive(args.max, args.wait).await?;
    if output.is_json() {
        output.json(&answer)?;
    } else {
        print_events(&answer, !args.ack, output)?;
    }
    let tokens = lock_tokens(&answer);
    if args.ack && !tokens.is_empty() {
        let settled = puller.settle("acknowledge", "", &tokens).await?;
        // A remark: the events are the answer.
        let said = report(&settled, "acknowledged", output)?;
        if !output.is_json() {
            output.remark(said);
        }
    } else if !tokens.is_empty() && !output.is_json() {
        output.remark(format_args!(
            "these events are locked for you; settle them with\n  gridwire acknowledge {subscription} LOCK_TOKEN...{}",
            target.flags
        ));
    }
    Ok(())
}

pub(crate) async fn settle(
    settlement: Settlement<'_>,
    target: &TargetArgs,
    output: Output,
) -> anyhow::Result<()> {
    let mut query = String::new();
    let (args, operation, done) = match settlement {
        Settlement::Acknowledge(args) => (args, "acknowledge", "acknowledged"),
        Settlement::Reject(args) => (args, "reject", "rejected"),
        Settlement::Renew(args) => (args, "renewLock", "renewed"),
        Settlement::Release(args) => {
            query = format!("&releaseDelayInSeconds={}", args.delay);
            (&args.settle, "release", "released")
        }
    };
    let subscription = pull_subscription(&args.subscription)?;
    let target = target.find_with(args.key.as_ref())?;
    let key = key(args.key.as_ref(), &subscription, &target).await?;
    let client = target.management.client();
    let puller = Puller { client, subscription: &subscription, scope: &target.scope, key: &key };
    let answer = match puller.settle(operation, &query, &args.tokens).await {
        Ok(answer) => answer,
        Err(error) => {
            return Err(hint::explain(error, hint::missing_subscription(&subscription, &target).await));
        }
    };
    if output.is_json() {
        output.json(&answer)?;
    }
    let said = report(&answer, done, output)?;
    if !output.is_json() {
        output.line(said)?;
    }
    Ok(())
}

/// The key to ask with: the one that was given, or the first that management tells.
async fn key(given: Option<&String>, subscription: &Subscription, target: &Target) -> anyhow::Result<String> {
    match given {
        Some(key) => Ok(key.clone()),
        None => first_key(&subscription.topic, target).await,
    }
}

fn pull_subscription(text: &str) -> anyhow::Result<Subscription> {
    let subscription = Subscription::parse(text)?;
    if !subscription.topic.is_namespace() {
        bail!(
            "`{text}` names a subscription of a custom topic or domain, and those only push; \
             pull needs a namespace: NAMESPACE/TOPIC/SUBSCRIPTION"
        );
    }
    Ok(subscription)
}

/// The lock tokens in an answer to receive.
pub(crate) fn lock_tokens(answer: &Value) -> Vec<String> {
    let details = answer["value"].as_array().map(Vec::as_slice).unwrap_or_default();
    details
        .iter()
        .filter_map(|detail| detail["brokerProperties"]["lockToken"].as_str().map(str::to_owned))
        .collect()
}

/// Tells the tokens that failed, and returns a sentence about those that succeeded. An error when one failed,
/// so that a script notices.
fn report(answer: &Value, done: &str, output: Output) -> anyhow::Result<String> {
    let succeeded = answer["succeededLockTokens"].as_array().map_or(0, Vec::len);
    let failed = answer["failedLockTokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    for entry in failed {
        let text = |value: &Value| printable(value.as_str().unwrap_or_default());
        output.remark(format_args!(
            "not {done}: {} {} ({})",
            text(&entry["error"]["code"]),
            text(&entry["error"]["message"]),
            text(&entry["lockToken"])
        ));
    }
    if !failed.is_empty() {
        bail!("{} of {} lock tokens failed", failed.len(), failed.len() + succeeded);
    }
    Ok(format!("{done} {succeeded} event{}", if succeeded == 1 { "" } else { "s" }))
}

fn print_events(answer: &Value, with_tokens: bool, output: Output) -> anyhow::Result<()> {
    let details = answer["value"].as_array().map(Vec::as_slice).unwrap_or_default();
    if details.is_empty() {
        output.remark("no events came in that time");
    }
    for detail in details {
        output.line(describe(detail, output))?;
        if with_tokens {
            let token = detail["brokerProperties"]["lockToken"].as_str().unwrap_or_default();
            output.line(format_args!("  {} {}", output.dim("lock token"), printable(token)))?;
        }
    }
    Ok(())
}

/// A received event in two lines: its attributes and its data.
pub(crate) fn describe(detail: &Value, output: Output) -> String {
    let event = &detail["event"];
    let mut text = output.bold(printable(event["type"].as_str().unwrap_or("?")));
    for name in ["subject", "id", "source"] {
        if let Some(value) = event[name].as_str() {
            text = format!("{text}  {name}={}", printable(value));
        }
    }
    let deliveries = detail["brokerProperties"]["deliveryCount"].as_u64().unwrap_or(0);
    if deliveries > 1 {
        text.push_str(&output.yellow(format_args!("  delivery {deliveries}")));
    }
    if !event["data"].is_null() {
        text = format!("{text}\n  {}", printable(&event["data"].to_string()));
    } else if let Some(data) = event["data_base64"].as_str() {
        text = format!("{text}\n  {}", bytes_shown(data));
    }
    text
}

/// Data that came as bytes: as text when they are that, and with a mark, for it is no JSON.
fn bytes_shown(base64: &str) -> String {
    let bytes = STANDARD.decode(base64).unwrap_or_default();
    match std::str::from_utf8(&bytes) {
        Ok(text) => format!("(data_base64) {}", printable(text)),
        Err(_) => format!("(data_base64, {} bytes) {}", bytes.len(), printable(base64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    #[test]
    fn an_event_is_described_by_its_attributes_and_its_data() {
        let detail = json!({
            "brokerProperties": { "lockToken": "T", "deliveryCount": 2 },
            "event": { "type": "a.b", "id": "1", "source": "/s", "data": { "text": "\u{1b}[2J" } },
        });
        let text = describe(&detail, Output::new(Format::Table, true));
        assert_eq!(text, "a.b  id=1  source=/s  delivery 2\n  {\"text\":\"\\u001b[2J\"}");
        assert_eq!(lock_tokens(&json!({ "value": [detail] })), ["T"]);
    }

    #[test]
    fn bytes_are_shown_as_such() {
        let shown = |base64: &str| {
            let detail = json!({ "event": { "type": "t", "data_base64": base64 } });
            describe(&detail, Output::new(Format::Table, true))
        };
        assert_eq!(shown("aGVsbG8="), "t\n  (data_base64) hello");
        assert_eq!(shown("//4="), "t\n  (data_base64, 2 bytes) //4=");
    }

    #[test]
    fn a_failed_token_is_an_error() {
        let answer = json!({
            "succeededLockTokens": ["a"],
            "failedLockTokens": [{ "lockToken": "b", "error": { "code": "TokenLost", "message": "Token has expired." } }],
        });
        let output = Output::new(Format::Json, true);
        assert!(report(&answer, "acknowledged", output).unwrap_err().to_string().contains("1 of 2"));
        let fine = json!({ "succeededLockTokens": ["a"], "failedLockTokens": [] });
        assert_eq!(report(&fine, "acknowledged", output).unwrap(), "acknowledged 1 event");
    }

    #[test]
    fn only_namespaces_can_be_pulled_from() {
        assert!(pull_subscription("shop/jobs/workers").is_ok());
        assert!(pull_subscription("orders/billing").unwrap_err().to_string().contains("only push"));
    }
}
