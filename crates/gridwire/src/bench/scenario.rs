//! The scenarios: what is set up, what is measured in which order, and what it is compared with.

pub(crate) mod backlog;
pub(crate) mod domains;
pub(crate) mod isolation;
pub(crate) mod latency;
pub(crate) mod publish;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod sick_backlog;

mod healthy;
mod memory;
mod patients;

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use gridwire_core::limits::{BASIC_EVENTS_MAX, NAMESPACE_EVENTS_MAX, REQUEST_BYTES_MAX};

use super::args::{Kind, LoadArgs, Protocol, ShapeArgs};
use super::body::Template;
use super::proc::Usage;
use super::report::Report;
use super::stage::Stage;

/// The load options of a scenario that has none.
#[derive(Debug, clap::Parser)]
struct DefaultLoad {
    #[command(flatten)]
    load: LoadArgs,
}

impl DefaultLoad {
    fn load() -> anyhow::Result<LoadArgs> {
        Ok(Self::try_parse_from(["load"]).context("the load options have defaults")?.load)
    }
}

/// The body that `shape` and `batch` describe, if a server would take it.
fn template(kind: Kind, shape: &ShapeArgs, batch: u32) -> anyhow::Result<Template> {
    let (events_max, topic) = match kind {
        Kind::Topic => (BASIC_EVENTS_MAX, "a custom topic"),
        Kind::Namespace => (NAMESPACE_EVENTS_MAX, "a namespace topic"),
    };
    ensure!(batch as usize <= events_max, "{topic} takes at most {events_max} events in one request");
    let bytes = shape.size.saturating_mul(batch as usize);
    ensure!(bytes <= REQUEST_BYTES_MAX, "a request has at most {REQUEST_BYTES_MAX} bytes, not {bytes}");
    let template = Template::new(shape.schema, batch, shape.size);
    let bytes = template.len();
    ensure!(bytes <= REQUEST_BYTES_MAX, "a request has at most {REQUEST_BYTES_MAX} bytes, not {bytes}");
    Ok(template)
}

/// What every report begins with.
fn tell_conditions(report: &mut Report, kind: Kind, shape: &ShapeArgs, template: &Template, load: &LoadArgs) {
    report.fact("kind", if kind == Kind::Topic { "custom topic" } else { "namespace topic" });
    report.fact("schema", template.content_type);
    report.fact("events_per_request", template.events());
    report.fact("bytes_per_request", template.len());
    report.fact("topics", shape.topics);
    report.fact("subscriptions_per_topic", shape.subscriptions);
    report.fact("connections", load.connections);
    match load.protocol {
        Protocol::Http1 => report.fact("protocol", "HTTP/1.1"),
        Protocol::Http2 => report.fact("protocol", format!("HTTP/2, {} streams", load.streams)),
    }
    report.fact("tls", load.https);
}

/// Takes the server's usage into the report, stops it, and notes what a reader should know.
async fn finish(mut report: Report, stage: Stage) -> Report {
    report.server = stage.usage().await;
    report.generator = Usage::of_self();
    if let Some(time) = stage.start_time {
        report.fact("server_start_milliseconds", u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }
    report.notes.extend(stage.caution());
    report.notes.extend(stage.close().await);
    report
}

/// Ends a scenario: with its report, or with its error after tidying up all the same.
async fn conclude(measured: anyhow::Result<Report>, stage: Stage) -> anyhow::Result<Report> {
    match measured {
        Ok(report) => Ok(finish(report, stage).await),
        Err(error) => {
            stage.close().await;
            Err(error)
        }
    }
}
