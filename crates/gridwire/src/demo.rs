//! `gridwire demo`: everything once, with nothing installed and nothing configured.
//!
//! A server of its own in a directory of its own, a webhook endpoint in the same process, one topic that pushes
//! to it and one that is received from. It says what it does in the order in which a user would do it, and
//! then waits, so that the lines it prints can be tried.

mod sink;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use gridwire_outside::system::SystemRng;
use gridwire_outside::{Clock, Rng};
use serde_json::{Value, json};

use self::sink::Sink;
use crate::app::{App, Running};
use crate::arm::{self, Management, Scope, Subscription, Topic};
use crate::command::publish::{Schema, send};
use crate::command::pull::{Puller, describe, lock_tokens};
use crate::output::{Output, program};
use crate::serve::{Signals, own_management};
use crate::settings::{Layers, Settings, Sources};
use crate::target::TargetArgs;

pub(crate) const HELP: &str = "\
Examples:
  gridwire demo            show everything, then stay up for you to try more; Ctrl-C ends it
  gridwire demo --once     show everything and end: 0 when all of it worked";

/// Events published of each kind.
const EVENTS: usize = 3;
/// How long the webhook's events may take to arrive.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// End when everything has been shown
    #[arg(long)]
    once: bool,
}

/// What the demo is about.
struct Cast {
    scope: Scope,
    orders: Topic,
    billing: Subscription,
    jobs: Topic,
    workers: Subscription,
}

impl Cast {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            scope: Scope::default(),
            orders: Topic::parse("orders")?,
            billing: Subscription::parse("orders/billing")?,
            jobs: Topic::parse("shop/jobs")?,
            workers: Subscription::parse("shop/jobs/workers")?,
        })
    }
}

pub(crate) async fn run(args: &DemoArgs, target: &TargetArgs, output: Output) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let directory = Directory::choose(target);
    let running = App::build(&settings(&directory.path)?).await?.spawn()?;
    running.data_dir.write_addresses(&running.addresses)?;
    let mut sink = Sink::start(&running).await?;
    let shown = tokio::select! {
        shown = show(&running, &mut sink, &directory, args.once, output) => shown,
        () = signals.next() => Err(anyhow::anyhow!("interrupted")),
    };
    if shown.is_ok() && !args.once {
        wait(&mut sink, &mut signals, output).await?;
    }
    sink.stop().await;
    tokio::select! {
        () = running.drain() => {}
        () = signals.next() => {}
    }
    directory.remove()?;
    shown.map(|()| ExitCode::SUCCESS)
}

/// Where the demo keeps its data: where it was told to, or in a temporary directory that it removes.
struct Directory {
    path: PathBuf,
    temporary: bool,
}

impl Directory {
    fn choose(target: &TargetArgs) -> Self {
        if let Some(path) = &target.data_dir {
            return Self { path: path.clone(), temporary: false };
        }
        let mark = &SystemRng::new().uuid()[..8];
        Self { path: std::env::temp_dir().join(format!("gridwire-demo-{mark}")), temporary: true }
    }

    fn remove(&self) -> anyhow::Result<()> {
        if self.temporary {
            std::fs::remove_dir_all(&self.path)
                .with_context(|| format!("failed to remove `{}`", self.path.display()))?;
        }
        Ok(())
    }
}

/// Development mode on free ports, whatever the environment says.
fn settings(path: &std::path::Path) -> anyhow::Result<Settings> {
    let any = || "127.0.0.1:0".to_owned();
    let flags = vec![
        ("data_dir", path.to_string_lossy().into_owned()),
        ("dev", "true".to_owned()),
        ("listen.http", any()),
        ("listen.https", any()),
        ("listen.admin", any()),
    ];
    Ok(Layers::new(&Sources { flags, ..Sources::default() }).settle()?)
}

async fn show(
    running: &Running,
    sink: &mut Sink,
    directory: &Directory,
    once: bool,
    output: Output,
) -> anyhow::Result<()> {
    let cast = Cast::new()?;
    let management = own_management(running)?;
    output.line(format_args!(
        "{} started a server in {}",
        output.bold("gridwire"),
        directory.path.display()
    ))?;
    output.line(format_args!("  events and management  http://{}", running.addresses.http))?;
    output.line(format_args!("  health and metrics     http://{}", running.addresses.admin))?;

    show_push(running, sink, &management, &cast, output).await?;
    show_pull(&management, &cast, output).await?;
    if once {
        heading("It works; `gridwire demo` without --once stays up for you to try more", output)?;
        return Ok(());
    }
    say_next(running, &management, &cast, directory, output).await
}

async fn show_push(
    running: &Running,
    sink: &mut Sink,
    management: &Management,
    cast: &Cast,
    output: Output,
) -> anyhow::Result<()> {
    let Cast { scope, orders, billing, .. } = cast;
    heading("1. Push: a custom topic that posts to a webhook", output)?;
    let body = json!({ "location": "local", "properties": { "inputSchema": "CloudEventSchemaV1_0" } });
    management.put(&orders.id(scope), &body).await?;
    output.line(format_args!("created the topic {orders}"))?;
    let destination = json!({ "endpointType": "WebHook", "properties": { "endpointUrl": sink.url() } });
    let body = json!({
        "properties": { "destination": destination, "eventDeliverySchema": "CloudEventSchemaV1_0" }
    });
    management.put(&billing.id(scope), &body).await.context("failed to subscribe the webhook")?;
    output.line(format_args!("created the subscription {billing}; its endpoint {} agreed", sink.url()))?;

    let key = key1(management, &orders.key_holder(scope)).await?;
    let events = events("order.paid", "/orders", running.clock().now().to_string().as_str());
    send(management.client(), orders, scope, Schema::CloudEvents, &key, events).await?;
    output.line(format_args!("published {EVENTS} events to {orders}; the webhook received"))?;
    for _ in 0..EVENTS {
        let arrival = tokio::select! {
            arrival = sink.next() => arrival,
            () = running.clock().sleep(ARRIVAL_PATIENCE) => {
                bail!("the webhook did not receive every event within {} s", ARRIVAL_PATIENCE.as_secs())
            }
        };
        show_arrival(&arrival, output)?;
    }
    Ok(())
}

async fn show_pull(management: &Management, cast: &Cast, output: Output) -> anyhow::Result<()> {
    let Cast { scope, jobs, workers, .. } = cast;
    heading("2. Pull: a namespace topic that workers receive from", output)?;
    let body = json!({ "location": "local", "properties": {} });
    management.put(&arm::namespace_id(scope, "shop"), &body).await?;
    let body = json!({ "properties": { "inputSchema": "CloudEventSchemaV1_0" } });
    management.put(&jobs.id(scope), &body).await?;
    let queue = json!({ "deliveryMode": "Queue", "queue": { "receiveLockDurationInSeconds": 60 } });
    let body = json!({
        "properties": { "deliveryConfiguration": queue, "eventDeliverySchema": "CloudEventSchemaV1_0" }
    });
    management.put(&workers.id(scope), &body).await?;
    output
        .line(format_args!("created the namespace shop, the topic {jobs} and the subscription {workers}"))?;

    let key = key1(management, &jobs.key_holder(scope)).await?;
    let client = management.client();
    send(client, jobs, scope, Schema::CloudEvents, &key, events("job.created", "/jobs", "")).await?;
    output.line(format_args!("published {EVENTS} events to {jobs}; a worker received"))?;
    let puller = Puller { client, subscription: workers, scope, key: &key };
    let mut received = 0;
    while received < EVENTS {
        let answer = puller.receive(10, 10).await?;
        let tokens = lock_tokens(&answer);
        ensure!(!tokens.is_empty(), "only {received} of {EVENTS} events could be received");
        let details = answer["value"].as_array().map(Vec::as_slice).unwrap_or_default();
        for detail in details {
            output.line(indented(&describe(detail, output)))?;
        }
        let settled = puller.settle("acknowledge", "", &tokens).await?;
        let succeeded = settled["succeededLockTokens"].as_array().map_or(0, Vec::len);
        ensure!(succeeded == tokens.len(), "not every event could be acknowledged: {settled}");
        received += succeeded;
    }
    output.line(format_args!("and acknowledged {received}: they are done and will not come again"))?;
    Ok(())
}

async fn say_next(
    running: &Running,
    management: &Management,
    cast: &Cast,
    directory: &Directory,
    output: Output,
) -> anyhow::Result<()> {
    let Cast { scope, orders, jobs, workers, .. } = cast;
    let base = format!("http://{}", running.addresses.http);
    let orders_key = key1(management, &orders.key_holder(scope)).await?;
    let shop_key = key1(management, &jobs.key_holder(scope)).await?;
    let event = r#"{"specversion":"1.0","id":"42","source":"/me","type":"order.paid","data":{"n":42}}"#;
    let receive = workers.pull_path(scope, "receive").context("a namespace can be received from")?;
    heading("Try it yourself, in another terminal", output)?;
    output.line(output.dim("# push: publish, and see it arrive at the webhook below"))?;
    output.line(format_args!(
        "curl -H 'aeg-sas-key: {orders_key}' -H 'content-type: application/cloudevents+json' \\\n  \
         -d '{event}' \\\n  '{base}{}'",
        orders.publish_path(scope)
    ))?;
    output.line(output.dim("# pull: publish, then receive"))?;
    let event = event.replace("order.paid", "job.created");
    output.line(format_args!(
        "curl -H 'authorization: SharedAccessKey {shop_key}' -H 'content-type: application/cloudevents+json' \\\n  \
         -d '{event}' \\\n  '{base}{}'",
        jobs.publish_path(scope)
    ))?;
    output.line(format_args!(
        "curl -X POST -H 'authorization: SharedAccessKey {shop_key}' \\\n  '{base}{receive}&maxEvents=10'"
    ))?;
    output.line(output.dim("# the same with the command line, which finds address and keys itself"))?;
    let (gridwire, dir) = (program(), directory.path.display());
    output.line(format_args!("{gridwire} --data-dir {dir} publish {jobs} '{{\"n\": 43}}'"))?;
    output.line(format_args!("{gridwire} --data-dir {dir} receive {workers} --ack"))?;
    output.line(format_args!("{gridwire} --data-dir {dir} tail {}", cast.billing))?;
    Ok(())
}

/// Shows what arrives until a signal comes.
async fn wait(sink: &mut Sink, signals: &mut Signals, output: Output) -> anyhow::Result<()> {
    output.line(format_args!("\nThe server stays up; Ctrl-C ends it and removes what it kept."))?;
    loop {
        tokio::select! {
            () = signals.next() => return Ok(()),
            arrival = sink.next() => show_arrival(&arrival, output)?,
        }
    }
}

fn heading(text: &str, output: Output) -> anyhow::Result<()> {
    Ok(output.line(format_args!("\n{}", output.bold(text)))?)
}

/// A webhook body: one event, or an array of them.
fn show_arrival(body: &Value, output: Output) -> anyhow::Result<()> {
    let events = match body {
        Value::Array(events) => events.as_slice(),
        event => std::slice::from_ref(event),
    };
    for event in events {
        output.line(indented(&describe(&json!({ "event": event }), output)))?;
    }
    Ok(())
}

fn indented(text: &str) -> String {
    format!("  {}", text.replace('\n', "\n  "))
}

async fn key1(management: &Management, id: &str) -> anyhow::Result<String> {
    let keys = management.act(id, "listKeys").await?;
    Ok(keys["key1"].as_str().context("the server returned no key")?.to_owned())
}

/// `EVENTS` `CloudEvents` as a JSON array.
fn events(kind: &str, source: &str, time: &str) -> Vec<u8> {
    let event = |n: usize| {
        let mut event = json!({
            "specversion": "1.0", "id": format!("{kind}-{n}"), "source": source, "type": kind,
            "subject": format!("{source}/{n}"), "data": { "n": n },
        });
        if !time.is_empty() {
            event["time"] = time.into();
        }
        event
    };
    Value::Array((1..=EVENTS).map(event).collect()).to_string().into_bytes()
}
