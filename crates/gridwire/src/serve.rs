//! `gridwire serve`: run the server until a signal, and say where everything is.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use gridwire_outside::Clock;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{App, LOG_FAILED, Running};
use crate::apply::{self, Change, Wanted};
use crate::arm::{Management, Scope};
use crate::client::{Base, Client, Trust};
use crate::command::apply::error_text;
use crate::output::{Output, program};
use crate::settings::Settings;
use crate::target::real_reach;

/// Before resources that could not be applied at start are tried again.
const APPLY_PERIOD: Duration = Duration::from_secs(15);

/// How a server came to its end.
enum Ended {
    Signal,
    LogFailed,
}

/// Runs until a signal or a failure. Errors are those of the start.
pub(crate) async fn run(settings: &Settings, scope: &Scope, output: Output) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let wanted = match &settings.apply {
        Some(file) => apply::read(file, scope)?,
        None => Vec::new(),
    };
    let started = real_reach().clock;
    let running = App::build(settings).await?.spawn()?;
    // Before anybody is told: what the file wants is there when the server is ready.
    let mut left = if wanted.is_empty() { wanted } else { apply_all(wanted, &running).await };
    running.data_dir.write_addresses(&running.addresses)?;
    say_where(&running, settings, started.monotonic(), output)?;
    let ended = loop {
        tokio::select! {
            () = signals.next() => break Ended::Signal,
            () = running.log_failed() => break Ended::LogFailed,
            () = running.clock().sleep(APPLY_PERIOD), if !left.is_empty() => {
                left = apply_all(left, &running).await;
            }
        }
    };
    match ended {
        Ended::Signal => {
            tracing::info!("stopping: requests in flight may finish; a second signal ends at once");
            tokio::select! {
                () = running.drain() => tracing::info!("stopped"),
                () = signals.next() => {
                    tracing::warn!("a second signal: ending at once");
                    return Ok(ExitCode::from(130));
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Ended::LogFailed => {
            tracing::error!("the store has failed: ending, so that nothing is promised that cannot be kept");
            // No drain: an answer now could not be believed.
            if let Err(error) = running.data_dir.remove_addresses() {
                tracing::warn!(error = format!("{error:#}"), "the addresses stay on file");
            }
            Ok(ExitCode::from(LOG_FAILED))
        }
    }
}

/// SIGTERM and SIGINT.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("failed to listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// The next one of either. Cancel safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The management API of the server in this process, over its own http listener.
pub(crate) fn own_management(running: &Running) -> anyhow::Result<Management> {
    let base = Base::local(false, &running.addresses.http)?;
    let client = Client::new(base, &Trust::System, real_reach())?;
    Ok(Management::new(client, running.token.clone()))
}

/// Applies in order and returns what did not work out, to be tried again: an endpoint that is still starting
/// must not keep the server from starting.
async fn apply_all(wanted: Vec<Wanted>, running: &Running) -> Vec<Wanted> {
    let management = match own_management(running) {
        Ok(management) => management,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the resources could not be applied");
            return wanted;
        }
    };
    let mut left = Vec::new();
    for wanted in wanted {
        match apply::apply(&wanted, &management).await {
            Ok(Change::Create) => tracing::info!(resource = wanted.label, "created"),
            Ok(Change::Update(paths)) => {
                tracing::info!(resource = wanted.label, differed = paths.join(", "), "changed");
            }
            Ok(Change::Nothing) => {}
            Err(error) => {
                let error = error_text(&error);
                tracing::error!(resource = wanted.label, error, "could not be applied; it is tried again");
                left.push(wanted);
            }
        }
    }
    left
}

/// What a newcomer needs to know now: what runs, where it keeps things, and what to type next.
fn say_where(running: &Running, settings: &Settings, took: Duration, output: Output) -> anyhow::Result<()> {
    let addresses = &running.addresses;
    let dir = running.data_dir.root().display();
    if output.is_json() {
        let value = serde_json::json!({
            "http": addresses.http, "https": addresses.https, "admin": addresses.admin,
            "dataDir": dir.to_string(), "ca": running.data_dir.ca_file().display().to_string(),
            "dev": settings.dev, "clockAheadSeconds": running.ahead().seconds(),
        });
        output.json_line(&value)?;
        return Ok(());
    }
    let say = |text: String| output.line(text);
    say(format!("{} is ready after {} ms", output.bold("gridwire"), took.as_millis()))?;
    say(String::new())?;
    say(format!("  https   https://{}   events and management", addresses.https))?;
    say(format!("  http    http://{}    the same, without TLS", addresses.http))?;
    say(format!("  admin   http://{}    /healthz /readyz /metrics", addresses.admin))?;
    say(format!("  data    {dir}"))?;
    if settings.tls_files.is_none() {
        say(format!(
            "  trust   {}   the authority of the https certificate",
            running.data_dir.ca_file().display()
        ))?;
    }
    if settings.management_token.is_none() {
        say(format!(
            "  token   {}   for management: Authorization: Bearer ...",
            running.data_dir.token_file().display()
        ))?;
    } else {
        say("  token   from GRIDWIRE_MANAGEMENT_TOKEN, for management: Authorization: Bearer ...".to_owned())?;
    }
    if let Some(dev) = &running.dev {
        say(String::new())?;
        say(format!(
            "  {}  webhooks may be plain http and on this machine. Not for production.",
            output.yellow(format_args!("development mode{}", dev.remark()))
        ))?;
    }
    if let Some(warning) = running.ahead().warning() {
        say(String::new())?;
        say(format!("  {}", output.yellow(warning)))?;
    }
    let gridwire = program();
    let at = if settings.data_dir == std::path::Path::new(crate::data_dir::DEFAULT) {
        String::new()
    } else {
        format!(" --data-dir {dir}")
    };
    say(String::new())?;
    say("Next, in another terminal:".to_owned())?;
    say(format!("  {gridwire}{at} namespace create shop"))?;
    say(format!("  {gridwire}{at} topic create shop/jobs"))?;
    say(format!("  {gridwire}{at} subscription create shop/jobs/workers"))?;
    say(format!("  {gridwire}{at} publish shop/jobs '{{\"n\": 1}}' --type job.created"))?;
    say(format!("  {gridwire}{at} receive shop/jobs/workers --ack"))?;
    Ok(())
}
