//! `gridwire deadletter`: what could not be delivered: look at it, put it back, remove it.
//!
//! Putting back and removing are jobs of the server: they go on when this program ends, and after a restart.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::resources::subscription_id;
use crate::output::{Output, printable};
use crate::short_name::short_name;
use crate::target::{Target, TargetArgs};

pub(crate) const HELP: &str = "\
Examples:
  gridwire deadletter list orders/billing --reason MaxDeliveryAttempts
  gridwire deadletter show orders/billing 2026112809-0000002a-58f1-8d2a-9a67-0f3c61d0b4e2
  gridwire deadletter redrive orders/billing --status 404 --dry-run       what would be put back
  gridwire deadletter redrive orders/billing --status 404 --rate 50       put it back, 50 events a second
  gridwire deadletter purge orders/billing --until 2026-11-01T00:00:00Z
  gridwire deadletter jobs                                                how redrives and purges get on

Reasons: MaxDeliveryAttempts, TimeToLive, Rejected, Undeliverable, or as a letter writes them.
A redriven event goes to its own subscription only, whatever its filter says now, and starts anew: first attempt,
full time to live. Its letter stays, marked, until it is purged with --redriven.";

/// Between two looks at a job.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum DeadLetterCommand {
    /// List the dead letters of an event subscription, by the hour of publishing
    List(ListArgs),
    /// Show one dead letter, with its event
    Show {
        /// `orders/billing`, `shop/jobs/workers`, `domain:malls/all`, a resource id, or its number
        subscription: String,
        /// The id that `list` shows
        id: String,
    },
    /// Put the events of dead letters back into their subscription's queue
    Redrive(RedriveArgs),
    /// Remove dead letters
    Purge(PurgeArgs),
    /// Show how redrives and purges get on
    Jobs {
        /// Only this one
        id: Option<String>,
    },
    /// End a redrive or a purge; what it has done stays done
    Cancel {
        /// The id that `jobs` shows
        id: String,
    },
}

/// Which dead letters.
#[derive(Clone, Debug, Args)]
pub(crate) struct SelectionArgs {
    /// `orders/billing`, `shop/jobs/workers`, `domain:malls/all`, a resource id, or its number
    subscription: String,
    /// Only those given up for this reason
    #[arg(long)]
    reason: Option<String>,
    /// Only those whose last answer had this HTTP status; letters of namespaces tell none
    #[arg(long, value_name = "CODE")]
    status: Option<u16>,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only events published then or later, such as 2026-11-28T09:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only events published before
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// How many at most
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    max: usize,
    /// Those that were redriven, instead of those that wait
    #[arg(long)]
    redriven: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RedriveArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// How many events in a second, at most
    #[arg(long, value_name = "EVENTS", default_value_t = 100)]
    rate: u32,
    #[command(flatten)]
    how: JobArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PurgeArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Those that were redriven, instead of those that wait
    #[arg(long)]
    redriven: bool,
    #[command(flatten)]
    how: JobArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct JobArgs {
    /// Only say what would be taken
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for the end
    #[arg(long)]
    no_wait: bool,
}

impl SelectionArgs {
    fn members(&self) -> Map<String, Value> {
        let texts = [
            ("reason", &self.reason),
            ("type", &self.event_type),
            ("since", &self.since),
            ("until", &self.until),
        ];
        let given =
            texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), json!(text.as_ref()?))));
        given.chain(self.status.map(|status| ("status".to_owned(), json!(status)))).collect()
    }

    fn query(&self) -> String {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let part = |(name, value): (&String, &Value)| {
            format!("&{name}={}", utf8_percent_encode(&text(value), NON_ALPHANUMERIC))
        };
        self.members().iter().map(part).collect()
    }
}

pub(crate) async fn run(
    command: &DeadLetterCommand,
    target: &TargetArgs,
    output: Output,
) -> anyhow::Result<()> {
    let target = target.find()?;
    match command {
        DeadLetterCommand::List(args) => list(args, &target, output).await,
        DeadLetterCommand::Show { subscription, id } => {
            let path = format!(
                "{}/{}",
                letters_path(subscription, &target)?,
                utf8_percent_encode(id, NON_ALPHANUMERIC)
            );
            let letter = target.management.read(&path).await;
            let letter = letter.with_context(|| format!("failed to show the dead letter `{id}`"))?;
            Ok(output.json(&letter)?)
        }
        DeadLetterCommand::Redrive(args) => {
            let mut order = args.selection.members();
            order.insert("eventsPerSecond".to_owned(), json!(args.rate));
            start("redrive", &args.selection.subscription, order, &args.how, &target, output).await
        }
        DeadLetterCommand::Purge(args) => {
            let mut order = args.selection.members();
            order.insert("redriven".to_owned(), json!(args.redriven));
            start("purge", &args.selection.subscription, order, &args.how, &target, output).await
        }
        DeadLetterCommand::Jobs { id: Some(id) } => Ok(output.json(&job(id, &target).await?)?),
        DeadLetterCommand::Jobs { id: None } => {
            let jobs = target.management.read("/gridwire/v1/dead-letter-jobs").await;
            let jobs = jobs.context("failed to list the jobs on dead letters")?;
            let jobs = jobs["jobs"].as_array().cloned().unwrap_or_default();
            let columns = ["id", "kind", "state", "taken", "unusable", "created", "resource"];
            let shown = |job: &Value, column: &str| match (column, job[column].as_str()) {
                ("resource", Some(id)) if !output.is_json() => short_name(id, &target.scope),
                _ => cell(&job[column]),
            };
            let row = |job: &Value| columns.iter().map(|&column| shown(job, column)).collect();
            Ok(output.table(&columns, &jobs.iter().map(row).collect::<Vec<Vec<String>>>())?)
        }
        DeadLetterCommand::Cancel { id } => {
            let path =
                format!("/gridwire/v1/dead-letter-jobs/{}:cancel", utf8_percent_encode(id, NON_ALPHANUMERIC));
            let answer = target.management.order(&path, &json!({})).await;
            let answer = answer.with_context(|| format!("failed to cancel the job `{id}`"))?;
            watch(&answer, &target, output).await
        }
    }
}

/// Where a subscription's dead letters are; its resource id is one escaped segment.
fn letters_path(subscription: &str, target: &Target) -> anyhow::Result<String> {
    let name = subscription.trim();
    let key = if name.starts_with('/') || (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()))
    {
        name.to_owned()
    } else {
        subscription_id(name, &target.scope)?
    };
    Ok(format!("/gridwire/v1/subscriptions/{}/dead-letters", utf8_percent_encode(&key, NON_ALPHANUMERIC)))
}

async fn list(args: &ListArgs, target: &Target, output: Output) -> anyhow::Result<()> {
    let base = letters_path(&args.selection.subscription, target)?;
    let (mut letters, mut after, mut more) = (Vec::new(), String::new(), false);
    while letters.len() < args.max {
        let max = (args.max - letters.len()).min(1000);
        let redriven = args.redriven;
        let path = format!("{base}?max={max}&redriven={redriven}{}{after}", args.selection.query());
        let page = target.management.read(&path).await;
        let mut page = page.with_context(|| {
            format!("failed to list the dead letters of `{}`", args.selection.subscription)
        })?;
        if let Value::Array(mut found) = page["deadLetters"].take() {
            letters.append(&mut found);
        }
        more = page["next"].is_string();
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    if output.is_json() {
        return Ok(output.json(&Value::Array(letters))?);
    }
    let columns = ["id", "eventId", "type", "reason", "status", "attempts", "published"];
    let row = |letter: &Value| columns.iter().map(|column| cell(&letter[*column])).collect();
    output.table(&columns, &letters.iter().map(row).collect::<Vec<Vec<String>>>())?;
    if more {
        output.remark(format_args!("there are more than these {}; --max shows more", letters.len()));
    }
    Ok(())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

async fn start(
    verb: &str,
    subscription: &str,
    mut order: Map<String, Value>,
    how: &JobArgs,
    target: &Target,
    output: Output,
) -> anyhow::Result<()> {
    order.insert("dryRun".to_owned(), json!(how.dry_run));
    let path = format!("{}:{verb}", letters_path(subscription, target)?);
    let answer = target.management.order(&path, &Value::Object(order)).await;
    let answer = answer.with_context(|| format!("failed to {verb} the dead letters of `{subscription}`"))?;
    if how.dry_run {
        if output.is_json() {
            return Ok(output.json(&answer)?);
        }
        let more = if answer["complete"] == json!(true) { "" } else { " or more" };
        output.line(format_args!("{}{more} dead letters would be taken", answer["count"]))?;
        let columns = ["id", "eventId", "type", "reason"];
        let row = |letter: &Value| columns.iter().map(|column| cell(&letter[*column])).collect();
        let sample = answer["sample"].as_array().cloned().unwrap_or_default();
        output.table(&columns, &sample.iter().map(row).collect::<Vec<Vec<String>>>())?;
        let rest = answer["count"].as_u64().unwrap_or(0).saturating_sub(sample.len() as u64);
        if 0 < rest {
            output.remark(format_args!("and {rest}{more} others"));
        }
        return Ok(());
    }
    if how.no_wait {
        if output.is_json() {
            return Ok(output.json(&answer)?);
        }
        return Ok(output.line(cell(&answer["id"]))?);
    }
    if !output.is_json() {
        output.remark(format_args!("job {}; it goes on when this program ends", cell(&answer["id"])));
    }
    watch(&answer, target, output).await
}

async fn job(id: &str, target: &Target) -> anyhow::Result<Value> {
    let path = format!("/gridwire/v1/dead-letter-jobs/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
    target.management.read(&path).await.with_context(|| format!("failed to show the job `{id}`"))
}

/// Waits for the end of a job and says what came of it.
async fn watch(started: &Value, target: &Target, output: Output) -> anyhow::Result<()> {
    let id = started["id"].as_str().context("failed to understand the server's answer")?;
    let mut told = String::new();
    let ended = loop {
        let job = job(id, target).await?;
        if job["state"] != json!("running") {
            break job;
        }
        let waiting = cell(&job["waitingFor"]);
        if !waiting.is_empty() && waiting != told {
            output.remark(format_args!("waiting: {waiting}"));
            told = waiting;
        }
        target.reach.clock.sleep(PAUSE).await;
    };
    if output.is_json() {
        output.json(&ended)?;
    } else {
        output.line(format_args!(
            "{}: {} dead letters taken, {} unusable",
            cell(&ended["state"]),
            ended["taken"],
            ended["unusable"]
        ))?;
    }
    if ended["state"] == json!("failed") {
        bail!("the job failed: {}", cell(&ended["problem"]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_selected_is_asked_for() {
        let selection = SelectionArgs {
            subscription: "orders/billing".to_owned(),
            reason: Some("Time to live was exceeded.".to_owned()),
            status: Some(404),
            event_type: None,
            since: None,
            until: Some("2026-11-01T00:00:00Z".to_owned()),
        };
        assert_eq!(selection.members()["status"], json!(404));
        assert_eq!(
            selection.query(),
            "&reason=Time%20to%20live%20was%20exceeded%2E&status=404&until=2026%2D11%2D01T00%3A00%3A00Z"
        );
    }
}
