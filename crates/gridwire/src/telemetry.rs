//! Log lines: to standard error, for a person or for a machine.

use std::io::{self, IsTerminal};

use anyhow::{Context, anyhow};
use tracing_subscriber::EnvFilter;

use crate::settings::LogFormat;

/// Starts writing log lines; once in a process.
pub(crate) fn start(format: LogFormat, filter: &str, no_colour: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(filter).context("failed to understand the log filter")?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match format {
        LogFormat::Plain => lines.with_ansi(!no_colour && io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow!("failed to start logging: {error}"))
}
