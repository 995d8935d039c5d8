//! `gridwire dev`: the clock, the fault scripts and `drain` of a server in development mode.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use gridwire_core::fault_script::Step;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::resources::subscription_id;
use crate::arm::ManagementError;
use crate::dev::{ROOT, span};
use crate::output::{Output, printable};
use crate::target::{Target, TargetArgs};

pub(crate) const HELP: &str = "\
Examples:
  gridwire dev faults set orders/billing '503*3'      the next three attempts are answered 503
  gridwire dev faults set orders/billing slow:2s timeout reset duplicate reorder 503:60s
  gridwire dev drain                                  wait until nothing more happens by itself
  gridwire dev clock advance 10s                      let ten seconds pass, with all that is due in them
  gridwire dev clock advance 24h --jump               be a day later at once, as after a long sleep

The server must run with --dev. Advances last: a restart goes on from them.";

/// What the answer may take longer than the server was told to wait.
const SLACK: Duration = Duration::from_secs(15);

#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Show or advance broker time: retries, locks, times to live and expirations follow
    #[command(subcommand)]
    Clock(ClockCommand),
    /// Say what the next attempts of a push subscription shall meet
    #[command(subcommand)]
    Faults(FaultsCommand),
    /// Wait until everything published so far is delivered or waits for a later time, and say which
    Drain {
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
        DevCommand::Drain { patience } => {
            let body = json!({ "timeout": patience.timeout });
            let outlook = ask(&target, Method::POST, "drain", Some(&body), patience.duration()?).await?;
            show_outlook(&outlook, output)?;
            ensure!(outlook["drained"] == true, "attempts are still under way");
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

fn show_outlook(outlook: &Value, output: Output) -> anyhow::Result<()> {
    if output.is_json() {
        output.json(outlook)?;
        return Ok(());
    }
    for subscription in outlook["subscriptions"].as_array().into_iter().flatten() {
        output.line(output.bold(text(&subscription["id"])))?;
        let count = |name: &str| text(&subscription[name]);
        output.line(format_args!(
            "  delivered {}, dead-lettered {}, expired {}, dropped {}; available {}, waiting {}",
            count("delivered"),
            count("deadLettered"),
            count("expired"),
            count("dropped"),
            count("available"),
            count("waiting"),
        ))?;
        if !subscription["heldBy"].is_null() {
            output.line(format_args!("  {}: {}", count("heldBy"), count("detail")))?;
        }
        for event in subscription["events"].as_array().into_iter().flatten() {
            let value = |name: &str| text(&event[name]);
            output.line(format_args!(
                "  {}  {} until {}: {}",
                value("eventId"),
                value("why"),
                value("until"),
                value("detail")
            ))?;
        }
    }
    Ok(())
}

/// A value as a line of text.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}
