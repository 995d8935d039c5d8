//! `gridwire dev`: the clock, the fault scripts and `drain` of a server in development mode.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use gridwire_core::fault_script::Step;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::resources::subscription_id;
use crate::arm::{ManagementError, Scope};
use crate::dev::{ROOT, span};
use crate::output::{Output, printable};
use crate::short_name::short_name;
use crate::target::{Target, TargetArgs};

pub(crate) const HELP: &str = "\
Examples:
  gridwire dev faults set orders/billing '503*3'      the next three attempts are answered 503
  gridwire dev faults set orders/billing slow:2s timeout reset duplicate reorder 503:60s
  gridwire dev drain                                  wait until nothing more happens by itself
  gridwire dev clock advance 10s                      let ten seconds pass, with all that is due in them
  gridwire dev clock advance 24h --jump               be a day later at once, as after a long sleep

The server must run with --dev. Advances last: a restart goes on from them. Fault scripts do not: a
restart forgets them.";

/// What the answer may take longer than the server was told to wait.
const SLACK: Duration = Duration::from_secs(15);

#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Show or advance broker time: retries, locks, times to live and expirations follow
    #[command(subcommand)]
    Clock(ClockCommand),
    /// Say what the next attempts of a push subscription shall meet; a restart of the server forgets it
    #[command(subcommand)]
    Faults(FaultsCommand),
    /// Wait until everything published so far is delivered or waits for a later time, and say which
    Drain {
        /// List every event subscription, also those with nothing waiting or under way
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        patience: Patience,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClockCommand {
    /// Show broker time, and how far it is ahead of the real one
    Show,
    /// Let time pass: everything due on the way happens at its time
    Advance {
        /// How much: `90s`, `1h30m`, `2d`, `PT1H`
        by: String,
        /// Go there at once and leave out what is due on the way, as if the server had slept
        #[arg(long)]
        jump: bool,
        #[command(flatten)]
        patience: Patience,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum FaultsCommand {
    /// Replace the script; after its last step, attempts pass
    Set {
        /// `orders/billing`, `shop/jobs/hook`, a resource id, or the subscription's number
        subscription: String,
        /// Each for one attempt, or more with `*`: a status (`503`, `429:60s` with Retry-After), `timeout`, `reset`,
        /// `slow:2s`, `duplicate`, `reorder`, `pass`
        #[arg(required = true, value_name = "STEP")]
        steps: Vec<String>,
    },
    /// Show what is left of the script
    Show {
        /// As for `set`
        subscription: String,
    },
    /// Forget the script
    Clear {
        /// As for `set`
        subscription: String,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Patience {
    /// How long to wait for attempts under way, in real time
    #[arg(long, value_name = "SPAN", default_value = "30s")]
    timeout: String,
}

impl Patience {
    fn duration(&self) -> anyhow::Result<Duration> {
        span(&self.timeout).with_context(|| format!("`{}` is not a span of time such as 30s", self.timeout))
    }
}

pub(crate) async fn run(command: &DevCommand, target: &TargetArgs, output: Output) -> anyhow::Result<()> {
    let target = target.find()?;
    match command {
        DevCommand::Clock(ClockCommand::Show) => {
            let clock = ask(&target, Method::GET, "clock", None, Duration::ZERO).await?;
            show_clock(&clock, output)
        }
        DevCommand::Clock(ClockCommand::Advance { by, jump, patience }) => {
            ensure!(span(by).is_some(), "`{by}` is not a span of time such as 90s, 1h30m or PT1H");
            let body = json!({ "advance": by, "jump": jump, "timeout": patience.timeout });
            let clock = ask(&target, Method::POST, "clock", Some(&body), patience.duration()?).await?;
            show_clock(&clock, output)?;
            if clock["complete"] == false {
                bail!(
                    "attempts were still under way: the clock came {} forward; `gridwire dev drain` says more",
                    text(&clock["advanced"])
                );
            }
            Ok(())
        }
        DevCommand::Faults(command) => faults(command, &target, output).await,
        DevCommand::Drain { all, patience } => {
            let body = json!({ "timeout": patience.timeout });
            let outlook = ask(&target, Method::POST, "drain", Some(&body), patience.duration()?).await?;
            if output.is_json() {
                output.json(&outlook)?;
            } else {
                for line in describe(&outlook, *all, &target.scope) {
                    output.line(line)?;
                }
            }
            ensure!(outlook["drained"] == true, "{}", still_under_way(&outlook, &target.scope));
            Ok(())
        }
    }
}

async fn faults(command: &FaultsCommand, target: &Target, output: Output) -> anyhow::Result<()> {
    let (subscription, method, body) = match command {
        FaultsCommand::Set { subscription, steps } => {
            for step in steps {
                Step::parse(step)?;
            }
            (subscription, Method::PUT, Some(json!({ "steps": steps })))
        }
        FaultsCommand::Show { subscription } => (subscription, Method::GET, None),
        FaultsCommand::Clear { subscription } => (subscription, Method::DELETE, None),
    };
    let key = if subscription.starts_with('/') || subscription.bytes().all(|byte| byte.is_ascii_digit()) {
        subscription.clone()
    } else {
        subscription_id(subscription, &target.scope)?
    };
    let path = format!("faults/{}", utf8_percent_encode(&key, NON_ALPHANUMERIC));
    let left = ask(target, method, &path, body.as_ref(), Duration::ZERO).await?;
    if output.is_json() {
        output.json(&left)?;
        return Ok(());
    }
    let steps: Vec<String> = left["steps"].as_array().into_iter().flatten().map(text).collect();
    let what = if steps.is_empty() { "attempts pass".to_owned() } else { steps.join(" ") };
    Ok(output.line(format_args!("{subscription}: {what}"))?)
}

async fn ask(
    target: &Target,
    method: Method,
    path: &str,
    body: Option<&Value>,
    patience: Duration,
) -> anyhow::Result<Value> {
    let path = format!("{ROOT}{path}");
    match target.management.ask(method, &path, body, patience + SLACK).await {
        // A server in development mode has this path, so it named something that is not there.
        Err(ManagementError::Refused(refusal)) if refusal.status == StatusCode::NOT_FOUND => {
            let shown = target.management.read(&format!("{ROOT}clock")).await;
            ensure!(
                shown.is_ok(),
                "the server does not run in development mode: start it with `serve --dev`"
            );
            bail!("{refusal}")
        }
        answer => Ok(answer?),
    }
}

fn show_clock(clock: &Value, output: Output) -> anyhow::Result<()> {
    if output.is_json() {
        output.json(clock)?;
        return Ok(());
    }
    let (now, ahead) = (text(&clock["now"]), text(&clock["ahead"]));
    Ok(output.line(format_args!("{now}  {}", output.dim(format_args!("{ahead} ahead"))))?)
}

/// What a drain found, as lines: each subscription with something left, or every one with `all`, and how many are
/// not listed.
fn describe(outlook: &Value, all: bool, scope: &Scope) -> Vec<String> {
    let mut lines = Vec::new();
    let mut done = 0;
    for subscription in outlook["subscriptions"].as_array().into_iter().flatten() {
        if !all && !has_something_left(subscription) {
            done += 1;
            continue;
        }
        let name = short_name(subscription["id"].as_str().unwrap_or_default(), scope);
        let count = |name: &str| text(&subscription[name]);
        lines.push(format!(
            "{name}: delivered {}, dead-lettered {}, expired {}, dropped {}; under way {}, available {}, waiting {}",
            count("delivered"),
            count("deadLettered"),
            count("expired"),
            count("dropped"),
            count("underWay"),
            count("available"),
            count("waiting"),
        ));
        lines.extend(held_back(subscription));
        for event in subscription["events"].as_array().into_iter().flatten() {
            let value = |name: &str| text(&event[name]);
            lines.push(format!(
                "  {}  {} until {}: {}",
                value("eventId"),
                value("why"),
                value("until"),
                value("detail")
            ));
        }
    }
    match done {
        0 => {}
        1 => lines.push("1 event subscription has nothing left to do".to_owned()),
        _ => lines.push(format!("{done} event subscriptions have nothing left to do")),
    }
    lines
}

fn has_something_left(subscription: &Value) -> bool {
    let some = |name: &str| subscription[name].as_u64().is_some_and(|count| 0 < count);
    subscription["drained"] == false
        || some("underWay")
        || some("available")
        || some("waiting")
        || subscription["moreBehind"] == true
}

/// What the events wait for that wait for no time of their own, and until when, if that is known.
fn held_back(subscription: &Value) -> Option<String> {
    let available = subscription["available"].as_u64().unwrap_or(0);
    let more = if subscription["moreBehind"] == true { " or more" } else { "" };
    let rule = subscription["heldBy"].as_str();
    let detail = text(&subscription["detail"]);
    match (rule, available) {
        (None, 0) => None,
        // What is under way still moves, so nothing waits for somebody else yet.
        (None, _) if subscription["drained"] == false => None,
        (None, _) => Some(format!("  {available}{more} until a receiver or room for them comes")),
        (Some(rule), 0) => Some(format!("  {}: {detail}", printable(rule))),
        (Some(rule), _) => {
            let until = subscription["nextDue"].as_str();
            let until = until.map_or_else(String::new, |until| format!(" until {}", printable(until)));
            Some(format!("  {available}{more}  {}{until}: {detail}", printable(rule)))
        }
    }
}

/// Which subscriptions a drain gave up on.
fn still_under_way(outlook: &Value, scope: &Scope) -> String {
    /// More names tell nobody more.
    const NAMED_MAX: usize = 10;
    let all = outlook["subscriptions"].as_array().into_iter().flatten();
    let moving: Vec<String> = all
        .filter(|subscription| subscription["drained"] == false)
        .map(|subscription| {
            let name = short_name(subscription["id"].as_str().unwrap_or_default(), scope);
            format!("{name} ({})", text(&subscription["underWay"]))
        })
        .collect();
    if moving.is_empty() {
        return "the time to wait was over; by now nothing is under way any more".to_owned();
    }
    let more = moving.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let named = moving.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    format!("still under way, with the number of events whose attempt is: {named}{more}")
}

/// A value as a line of text.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(name: &str, changed: &Value) -> Value {
        let id = subscription_id(name, &Scope::default()).unwrap();
        let mut subscription = json!({
            "id": id, "drained": true, "delivered": 1, "deadLettered": 0, "expired": 0, "dropped": 0,
            "underWay": 0, "available": 0, "heldBy": null, "detail": null, "moreBehind": false, "waiting": 0,
            "nextDue": null, "events": [],
        });
        for (name, value) in changed.as_object().unwrap() {
            subscription[name.as_str()] = value.clone();
        }
        subscription
    }

    fn lines(subscriptions: &[Value], all: bool) -> Vec<String> {
        describe(&json!({ "subscriptions": subscriptions }), all, &Scope::default())
    }

    #[test]
    fn what_has_nothing_left_is_only_counted_unless_all_is_asked_for() {
        let done = [subscription("orders/done", &json!({})), subscription("shop/jobs/done", &json!({}))];
        assert_eq!(lines(&done[..1], false), ["1 event subscription has nothing left to do"]);
        assert_eq!(lines(&done, false), ["2 event subscriptions have nothing left to do"]);
        let all = lines(&done, true);
        assert_eq!(all.len(), 2);
        assert!(all[1].starts_with("shop/jobs/done: delivered 1, "), "{all:?}");
    }

    #[test]
    fn what_waits_for_its_turn_says_what_for_and_until_when() {
        let paced = json!({ "available": 4, "heldBy": "paced", "detail": "The cap.",
                            "nextDue": "2026-11-28T10:00:00Z" });
        let found = lines(&[subscription("orders/billing", &paced)], false);
        assert_eq!(found[1], "  4  paced until 2026-11-28T10:00:00Z: The cap.");
        let pulled = lines(&[subscription("shop/jobs/workers", &json!({ "available": 2 }))], false);
        assert_eq!(pulled[1], "  2 until a receiver or room for them comes");
    }

    #[test]
    fn a_drain_that_gave_up_says_on_whom() {
        let moving = subscription("orders/billing", &json!({ "drained": false, "underWay": 3 }));
        let found = lines(std::slice::from_ref(&moving), false);
        assert!(found[0].starts_with("orders/billing: ") && found[0].contains("under way 3"), "{found:?}");
        let outlook = json!({ "subscriptions": [moving, subscription("orders/done", &json!({}))] });
        let error = still_under_way(&outlook, &Scope::default());
        assert!(error.ends_with(": orders/billing (3)"), "{error}");
    }
}
