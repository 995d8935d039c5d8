//! `gridwire tail`: the deliveries of a subscription as they happen.
//!
//! The server keeps the latest deliveries of each subscription with running numbers; this asks again and again
//! for those after the last one seen.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use super::hint;
use super::resources::subscription_id;
use crate::arm::{ManagementError, Subscription};
use crate::output::{Output, printable};
use crate::target::{Target, TargetArgs};

pub(crate) const HELP: &str = "\
Examples:
  gridwire tail orders/billing
  gridwire tail shop/jobs/workers --from-start
  gridwire tail orders/billing --output json | jq 'select(.outcome != \"Delivered\")'";

/// Between two questions; what a person takes for \"at once\".
const PAUSE: Duration = Duration::from_millis(300);
/// Between two tries to reach a server that is away.
const RECONNECT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Args)]
pub(crate) struct TailArgs {
    /// `orders/billing`, `shop/jobs/workers`, `domain:malls/north/billing`, a resource id, or the
    /// subscription's number
    subscription: String,
    /// Begin with the oldest delivery that the server remembers, instead of the next one
    #[arg(long)]
    from_start: bool,
    /// Stop after this many deliveries
    #[arg(long, value_name = "COUNT")]
    max: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Page {
    deliveries: Vec<Value>,
    /// What to ask after next.
    next: u64,
}

pub(crate) async fn run(args: &TailArgs, target: &TargetArgs, output: Output) -> anyhow::Result<()> {
    let from = target;
    let mut target = from.find()?;
    let name = args.subscription.as_str();
    let key = if name.starts_with('/') || name.bytes().all(|byte| byte.is_ascii_digit()) {
        name.to_owned()
    } else {
        subscription_id(name, &target.scope)?
    };
    ensure!(!key.is_empty(), "name a subscription, such as orders/billing");
    let ask = async |target: &Target, after: Option<u64>| -> anyhow::Result<Page> {
        let page = target.management.read(&deliveries_path(&key, after)).await;
        let page = page.with_context(|| format!("failed to read the deliveries of `{name}`"))?;
        serde_json::from_value(page).context("failed to understand the server's answer")
    };
    let first = match ask(&target, None).await {
        Ok(page) => page,
        Err(error) => {
            let missing = match Subscription::parse(name) {
                Ok(subscription) => hint::missing_subscription(&subscription, &target).await,
                Err(_) => None,
            };
            return Err(hint::explain(error, missing));
        }
    };
    let mut after = if args.from_start { 0 } else { first.next };
    if !output.is_json() {
        output.remark(format_args!("watching the deliveries of {name}; Ctrl-C ends it"));
    }
    let mut seen = 0;
    let mut lost = false;
    loop {
        let page = match ask(&target, Some(after)).await {
            Ok(page) => page,
            // A server that restarts is waited for; one that says no is believed.
            Err(error) if is_out_of_reach(&error) => {
                if !std::mem::replace(&mut lost, true) {
                    output.remark("the server is out of reach; waiting for it");
                }
                target.reach.clock.sleep(RECONNECT).await;
                // It may come back on other ports.
                target = from.find().unwrap_or(target);
                continue;
            }
            Err(error) => return Err(error),
        };
        if std::mem::replace(&mut lost, false) {
            output.remark("the server is back");
        }
        for delivery in &page.deliveries {
            if output.is_json() {
                output.json_line(delivery)?;
            } else {
                output.line(describe(delivery, output))?;
            }
            seen += 1;
            if args.max.is_some_and(|max| seen >= max) {
                return Ok(());
            }
        }
        // A full page is followed by the next at once. After a restart numbers begin anew, and so does `next`.
        if page.deliveries.is_empty() {
            target.reach.clock.sleep(PAUSE).await;
        }
        after = page.next;
    }
}

/// Whether the server was not there to answer at all.
fn is_out_of_reach(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(ManagementError::Client(_))))
}

/// Where a subscription's deliveries are; a resource id is one escaped segment. Without `after`, nothing is
/// after it, and the answer only tells where the next delivery will be.
fn deliveries_path(key: &str, after: Option<u64>) -> String {
    let key = utf8_percent_encode(key, NON_ALPHANUMERIC);
    let after = after.unwrap_or(u64::MAX);
    format!("/gridwire/v1/subscriptions/{key}/deliveries?after={after}")
}

fn describe(delivery: &Value, output: Output) -> String {
    let text = |member: &str| match &delivery[member] {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    };
    let outcome = text("outcome");
    let painted = match outcome.as_str() {
        "Delivered" | "Acknowledged" | "Received" => output.green(format_args!("{outcome:<14}")),
        "Released" | "Renewed" => output.yellow(format_args!("{outcome:<14}")),
        _ => output.red(format_args!("{outcome:<14}")),
    };
    let time = text("time");
    let time = time.split('T').nth(1).unwrap_or(&time).trim_end_matches('Z').to_owned();
    // What is only remembered by its position is named by it.
    let event = match text("eventId") {
        id if id.is_empty() => format!("event #{}", text("offset")),
        id => id,
    };
    let mut line = format!("{}  {painted}  {event}", output.dim(time));
    for (member, before) in [("attempt", "attempt "), ("status", "")] {
        let value = text(member);
        // What ended by itself was no attempt.
        if !value.is_empty() && value != "0" {
            line = format!("{line}  {before}{value}");
        }
    }
    if !delivery["reason"].is_null() {
        line = format!("{line}  {}", text("reason"));
    }
    if let Some(batch) = delivery["batch"].as_u64().filter(|batch| *batch > 1) {
        line = format!("{line}  in a batch of {batch}");
    }
    // Only a push takes time.
    if let Some(latency) = delivery["latencyMs"].as_f64().filter(|latency| *latency > 0.0) {
        line = format!("{line}  {latency:.1} ms");
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::Format;

    #[test]
    fn a_resource_id_is_one_segment() {
        assert_eq!(deliveries_path("7", Some(3)), "/gridwire/v1/subscriptions/7/deliveries?after=3");
        assert_eq!(
            deliveries_path("/a/b", None),
            "/gridwire/v1/subscriptions/%2Fa%2Fb/deliveries?after=18446744073709551615"
        );
    }

    #[test]
    fn a_delivery_is_one_line() {
        let delivery = json!({ "seq": 1, "time": "2026-11-22T20:19:38.054Z", "eventId": "e1", "attempt": 2,
                               "outcome": "Delivered", "status": 200, "latencyMs": 3 });
        let line = describe(&delivery, Output::new(Format::Table, true));
        assert_eq!(line, "20:19:38.054  Delivered       e1  attempt 2  200  3.0 ms");
        let mut refused = delivery.clone();
        (refused["outcome"], refused["status"]) = (json!("Forbidden"), Value::Null);
        (refused["reason"], refused["latencyMs"]) = (json!("its scheme is not `https`"), json!(0));
        let line = describe(&refused, Output::new(Format::Table, true));
        assert_eq!(line, "20:19:38.054  Forbidden       e1  attempt 2  its scheme is not `https`");
        let mut batched = delivery;
        batched["batch"] = json!(7);
        let line = describe(&batched, Output::new(Format::Table, true));
        assert_eq!(line, "20:19:38.054  Delivered       e1  attempt 2  200  in a batch of 7  3.0 ms");
    }
}
