//! `gridwire audit`: whether every event that matched a subscription is accounted for, and which is not.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use http::{Method, StatusCode};
use serde_json::Value;

use crate::arm::{ManagementError, Scope, Subscription, Topic};
use crate::output::{Output, printable};
use crate::target::{Target, TargetArgs};

pub(crate) const HELP: &str = "\
Examples:
  gridwire audit                            every event subscription
  gridwire audit orders                     those of a topic
  gridwire audit shop/jobs/workers          one of them
  gridwire audit --output json | jq '.[] | select(.balanced | not)'

Each event that a subscription matched was delivered, dead-lettered, expired or dropped, or is pending. An audit
compares the counters with the log: it reads all that the log still has of the topic, in small parts, so that nothing
is delivered later for it. The server makes one audit at a time; this command waits for its turn. It ends with status 1
when something is out of balance.";

/// An audit reads as much as the log has of a topic, in turns with others.
const PATIENCE: Duration = Duration::from_secs(600);
/// The waits between two questions whether another audit has ended, whatever the server says.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Args)]
pub(crate) struct AuditArgs {
    /// `orders/billing`, `shop/jobs/workers`, a topic, `domain:malls`, or a resource id; all without
    name: Option<String>,
}

pub(crate) async fn run(args: &AuditArgs, target: &TargetArgs, output: Output) -> anyhow::Result<ExitCode> {
    let target = target.find()?;
    let wanted = match &args.name {
        Some(name) => Some(Wanted::parse(name, &target.scope)?),
        None => None,
    };
    let mut audits = Vec::new();
    for counters in counters(&target).await? {
        let id = counters["eventSubscription"].as_str().unwrap_or_default();
        if wanted.as_ref().is_some_and(|wanted| !wanted.takes(id)) {
            continue;
        }
        let path = format!("/gridwire/v1/subscriptions/{}/audit", counters["number"]);
        let mut audit = match ask(&target, &path, output).await {
            // It was removed since it was listed.
            Err(ManagementError::Refused(refusal)) if refusal.status == StatusCode::NOT_FOUND => continue,
            audit => audit.with_context(|| format!("failed to audit `{id}`"))?,
        };
        audit["counters"] = counters;
        if !output.is_json() {
            for line in describe(&audit, &target.scope, output) {
                output.line(line)?;
            }
        }
        audits.push(audit);
    }
    if let Some(name) = &args.name {
        ensure!(
            !audits.is_empty(),
            "`{name}` is neither an event subscription nor a topic that has one; without a name all are audited"
        );
    }
    let out = audits.iter().filter(|audit| audit["balanced"] != true).count();
    if output.is_json() {
        output.json(&Value::Array(audits))?;
    } else if out == 0 {
        output.line(format_args!(
            "{} {}",
            output.green("0 events out of balance;"),
            subscriptions(audits.len())
        ))?;
    } else {
        let found = format!("{out} of {} are out of balance", subscriptions(audits.len()));
        output.line(output.red(found))?;
    }
    Ok(if out == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks for one audit, and again for as long as somebody else's is under way: the server makes one at a time.
async fn ask(target: &Target, path: &str, output: Output) -> Result<Value, ManagementError> {
    let mut waited = Duration::ZERO;
    loop {
        let answer = target.management.ask(Method::POST, path, None, PATIENCE).await;
        let Err(ManagementError::Refused(refusal)) = &answer else { return answer };
        let busy = refusal.status == StatusCode::SERVICE_UNAVAILABLE;
        let Some(wait) = refusal.retry_after.filter(|_| busy && waited < PATIENCE) else { return answer };
        if waited.is_zero() {
            output.remark(format_args!("{} Waiting for its end.", printable(&refusal.message)));
        }
        let wait = wait.clamp(RETRY_MIN, RETRY_MAX);
        target.reach.clock.sleep(wait).await;
        waited += wait;
    }
}

fn subscriptions(count: usize) -> String {
    format!("{count} event subscription{} audited", if count == 1 { "" } else { "s" })
}

/// The counters of every subscription, over all pages.
async fn counters(target: &Target) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    let mut next = Value::Null;
    loop {
        let query = if next.is_null() { String::new() } else { format!("?after={next}") };
        let page = target.management.read(&format!("/gridwire/v1/subscriptions{query}")).await;
        let mut page = page.context("failed to read the counters of the event subscriptions")?;
        if let Value::Array(mut some) = page["subscriptions"].take() {
            all.append(&mut some);
        }
        next = page["next"].take();
        if next.is_null() {
            return Ok(all);
        }
    }
}

/// Which subscriptions a name means.
struct Wanted {
    /// Lower case, as ids are compared.
    ids: Vec<String>,
    /// What the ids begin with.
    below: Vec<String>,
}

impl Wanted {
    fn parse(name: &str, scope: &Scope) -> anyhow::Result<Self> {
        let mut wanted = Self { ids: Vec::new(), below: Vec::new() };
        if name.starts_with('/') {
            wanted.ids.push(name.to_lowercase());
            wanted.below.push(format!("{}/", name.to_lowercase()));
            return Ok(wanted);
        }
        // `shop/jobs` may be a topic, or an event subscription of a custom topic.
        let (topic, subscription) = (Topic::parse(name), Subscription::parse(name));
        if let Ok(subscription) = &subscription {
            wanted.ids.push(subscription.id(scope).to_lowercase());
        }
        match topic {
            Ok(topic) => wanted.below.push(format!("{}/", topic.id(scope).to_lowercase())),
            Err(error) if subscription.is_err() => return Err(error.into()),
            Err(_) => {}
        }
        Ok(wanted)
    }

    fn takes(&self, id: &str) -> bool {
        let id = id.to_lowercase();
        self.ids.contains(&id) || self.below.iter().any(|below| id.starts_with(below))
    }
}

fn describe(audit: &Value, scope: &Scope, output: Output) -> Vec<String> {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let id = audit["eventSubscription"].as_str().unwrap_or_default();
    let name = printable(id.strip_prefix(&scope.provider()).unwrap_or(id).trim_start_matches('/'));
    let counters = &audit["counters"];
    let balanced = audit["balanced"] == true;
    let verdict = if balanced { output.green("balanced") } else { output.red("out of balance") };
    let mut lines = vec![format!("{name}: {verdict}")];
    let matched = match counters["matched"].as_u64() {
        Some(matched) => format!("matched {matched} ="),
        None => "still counting what matched;".to_owned(),
    };
    lines.push(format!(
        "  {matched} delivered {} + dead-lettered {} + expired {} + dropped {} + pending {}",
        number(&counters["delivered"]),
        number(&counters["deadLettered"]),
        number(&counters["expired"]),
        number(&counters["dropped"]),
        number(&counters["pending"]),
    ));
    lines.push(format!(
        "  compared offsets {} to {}: {} matched, {} lost, {} unexpected",
        number(&audit["from"]),
        number(&audit["to"]),
        number(&audit["matched"]),
        number(&audit["lost"]),
        number(&audit["unexpected"]),
    ));
    if number(&audit["damaged"]) > 0 {
        lines.push(format!("  {} damaged events may have matched or not", number(&audit["damaged"])));
    }
    for finding in audit["findings"].as_array().into_iter().flatten() {
        lines.push(format!("  {}", finding_line(finding)));
        for event in finding["events"].as_array().into_iter().flatten() {
            lines.push(format!("    {}", event_line(event)));
        }
    }
    lines
}

fn finding_line(finding: &Value) -> String {
    let count = &finding["count"];
    let range = format!("offsets {} to before {}", finding["from"], finding["to"]);
    match finding["kind"].as_str().unwrap_or_default() {
        "lost" => "lost: it matched, and is neither settled nor held".to_owned(),
        "unexpected" => "unexpected: it did not match, or was settled more than once".to_owned(),
        "lostAmong" => format!("lost: {count} of the events that matched at {range}"),
        "unexpectedAmong" => format!("unexpected: {count} more than matched at {range}"),
        "pending" => format!("what is counted as pending differs by {count} from what the log has"),
        _ => format!("the totals differ by {count} from what was settled one by one"),
    }
}

fn event_line(event: &Value) -> String {
    let text = |member: &str| printable(event[member].as_str().unwrap_or("?"));
    let offset = &event["offset"];
    if event["id"].is_null() {
        return format!("offset {offset}, which the log no longer has");
    }
    let (id, source, kind, published) = (text("id"), text("source"), text("type"), text("published"));
    format!("offset {offset}: id {id}, source {source}, type {kind}, published {published}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_means_a_topic_and_all_below_it_or_one_subscription() {
        let id = |rest: &str| format!("{}/{rest}", Scope::default().provider());
        let check = |name: &str, taken: &[&str], left: &[&str]| {
            let wanted = Wanted::parse(name, &Scope::default()).unwrap();
            for rest in taken {
                assert!(wanted.takes(&id(rest)), "{name} takes {rest}");
            }
            for rest in left {
                assert!(!wanted.takes(&id(rest)), "{name} leaves {rest}");
            }
        };
        let (billing, other) =
            ("topics/orders/eventSubscriptions/billing", "topics/orders2/eventSubscriptions/billing");
        check("orders", &[billing], &[other]);
        check("orders/billing", &[billing], &[other, "topics/orders/eventSubscriptions/billing2"]);
        check("shop/jobs", &["namespaces/shop/topics/jobs/eventSubscriptions/workers"], &[billing]);
        check("domain:malls", &["domains/malls/topics/north/eventSubscriptions/x"], &[billing]);
        check(&id("topics/orders"), &[billing], &[other]);
        assert!(Wanted::parse("a/b/c/d", &Scope::default()).is_err());
    }

    #[test]
    fn an_event_out_of_balance_is_named() {
        let audit = json!({
            "eventSubscription": format!("{}/topics/orders/eventSubscriptions/billing", Scope::default().provider()),
            "balanced": false, "from": 0, "to": 9, "matched": 9, "lost": 1, "unexpected": 0, "damaged": 0,
            "counters": { "matched": 9, "delivered": 7, "deadLettered": 0, "expired": 0, "dropped": 0,
                          "pending": 2 },
            "findings": [{ "kind": "lost", "count": 1, "events": [{
                "offset": 4, "id": "e-4", "source": "/shop", "type": "order.paid",
                "published": "2026-11-22T20:19:38.054Z" }] }],
        });
        let lines = describe(&audit, &Scope::default(), Output::new(crate::output::Format::default(), true));
        assert_eq!(lines[0], "topics/orders/eventSubscriptions/billing: out of balance");
        assert_eq!(
            lines[1],
            "  matched 9 = delivered 7 + dead-lettered 0 + expired 0 + dropped 0 + pending 2"
        );
        assert_eq!(lines[2], "  compared offsets 0 to 9: 9 matched, 1 lost, 0 unexpected");
        assert_eq!(lines[3], "  lost: it matched, and is neither settled nor held");
        let event = "offset 4: id e-4, source /shop, type order.paid, published 2026-11-22T20:19:38.054Z";
        assert_eq!(lines[4], format!("    {event}"));
    }
}
