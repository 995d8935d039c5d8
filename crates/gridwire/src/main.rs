//! The `gridwire` program: a server and the commands to use it.
//!
//! Reading order: [`cli`] (what can be typed), [`settings`] (what can be configured), [`app`] (how the server
//! is put together), [`serve`] (how it runs and ends), [`service`] (which part answers what); then the
//! commands ([`command`], [`apply`], [`demo`]) over [`target`], [`arm`] and [`client`].

mod ahead;
mod app;
mod apply;
mod arm;
mod bench;
mod cli;
mod client;
mod command;
mod data_dir;
mod demo;
mod dev;
mod output;
mod process;
mod serve;
mod service;
mod settings;
mod short_name;
mod target;
mod telemetry;
mod tls;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command};
use crate::command::pull::Settlement;
use crate::output::Output;
use crate::settings::LogFormat;
use crate::target::TargetArgs;

/// Buffers are made on one thread and dropped on another (handlers, log writer, connections): the system's
/// allocator spends a sixth of a publish on that, in locks and in joining free chunks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let output = Output::new(cli.output, no_colour);
    start(cli, no_colour, output).unwrap_or_else(|error| report(&error, output))
}

/// Runs the command to its end.
fn start(cli: Cli, no_colour: bool, output: Output) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let ended = runtime.block_on(run(cli, no_colour, output));
    // Whatever still runs has been told to stop, or may be left.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn run(cli: Cli, no_colour: bool, output: Output) -> anyhow::Result<ExitCode> {
    let target = &cli.target;
    match cli.command {
        Command::Serve(args) => {
            let settings = command::config::load(&args, target)?;
            telemetry::start(settings.log_format, &settings.log_filter, no_colour)?;
            return serve::run(&settings, &target.scope()?, output).await;
        }
        Command::Demo(args) => {
            telemetry::start(LogFormat::Plain, "error", no_colour)?;
            return demo::run(&args, target, output).await;
        }
        Command::Apply(args) => command::apply::run(&args, target, output).await?,
        Command::Topic(command) => command::resources::topic(&command, target, output).await?,
        Command::Domain(command) => command::resources::domain(&command, target, output).await?,
        Command::Namespace(command) => command::resources::namespace(&command, target, output).await?,
        Command::Subscription(command) => command::resources::subscription(&command, target, output).await?,
        Command::Publish(args) => command::publish::run(&args, target, output).await?,
        Command::Receive(args) => command::pull::receive(&args, target, output).await?,
        Command::Acknowledge(args) => settle(Settlement::Acknowledge(&args), target, output).await?,
        Command::Release(args) => settle(Settlement::Release(&args), target, output).await?,
        Command::Reject(args) => settle(Settlement::Reject(&args), target, output).await?,
        Command::Renew(args) => settle(Settlement::Renew(&args), target, output).await?,
        Command::Tail(args) => command::tail::run(&args, target, output).await?,
        Command::Dev(command) => command::dev::run(&command, target, output).await?,
        Command::Deadletter(command) => command::dead_letter::run(&command, target, output).await?,
        Command::Audit(args) => return command::audit::run(&args, target, output).await,
        Command::Doctor(args) => command::doctor::run(&args, target, output).await?,
        Command::Bench(args) => {
            let form = if output.is_json() { bench::Output::Json } else { bench::Output::Text };
            bench::run(args, form).await?;
        }
        Command::Store(command) => return command::store::run(&command, target, output).await,
        Command::Config(command) => command::config::run(&command, target, output)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "gridwire", &mut script);
            // A reader that has seen enough is no error.
            let written = io::Write::write_all(&mut io::stdout().lock(), &script);
            match written {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
                _ => {}
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn settle(settlement: Settlement<'_>, target: &TargetArgs, output: Output) -> anyhow::Result<()> {
    command::pull::settle(settlement, target, output).await
}

/// Says what went wrong and everything that led to it, once.
fn report(error: &anyhow::Error, output: Output) -> ExitCode {
    // Whoever reads our answer has seen enough of it: `gridwire topic list | head -1`.
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(closed) {
        return ExitCode::SUCCESS;
    }
    output.remark(format_args!("error: {error}"));
    for cause in error.chain().skip(1) {
        output.remark(format_args!("  because: {cause}"));
    }
    ExitCode::FAILURE
}
