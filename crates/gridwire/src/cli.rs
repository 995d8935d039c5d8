//! The command line: every command, what it takes, and examples to copy.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::bench::BenchArgs;
use crate::command::{audit, dead_letter, dev, doctor, publish, pull, resources, store, tail};
use crate::demo;
use crate::output::Format;
use crate::target::TargetArgs;

const AFTER_HELP: &str = "\
First steps:
  gridwire demo                                       see it work, in one command
  gridwire serve --dev                                start a server on ./gridwire-data
  gridwire namespace create shop                      then, in another terminal:
  gridwire topic create shop/jobs
  gridwire subscription create shop/jobs/workers
  gridwire publish shop/jobs '{\"n\": 1}' --type job.created
  gridwire receive shop/jobs/workers --ack

Names:
  orders                a custom topic: pushes to webhooks
  orders/billing        its event subscription
  shop/jobs             the topic `jobs` of the namespace `shop`: pull or push
  shop/jobs/workers     its event subscription
  domain:malls          a domain: one endpoint for many topics; pushes to webhooks
  domain:malls/audit    an event subscription to all of it
  domain:malls/north    its topic `north`
  domain:malls/north/billing
                        an event subscription to that topic only

The commands find the server that runs on the data directory (--data-dir, ./gridwire-data by default);
--server names one elsewhere.";

/// A self-hosted event broker that speaks the Azure Event Grid protocol.
#[derive(Debug, Parser)]
#[command(name = "gridwire", version, about, after_help = AFTER_HELP, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) target: TargetArgs,

    /// How answers are written
    #[arg(long, global = true, value_enum, default_value_t, env = "GRIDWIRE_OUTPUT", hide_env = true)]
    pub(crate) output: Format,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a server; needs no configuration
    #[command(after_help = SERVE_HELP)]
    Serve(ServeArgs),
    /// Show everything once: a server, a webhook, a queue and a few events
    #[command(after_help = demo::HELP)]
    Demo(demo::DemoArgs),
    /// Bring topics, domains, namespaces and subscriptions in line with a file
    #[command(after_help = APPLY_HELP)]
    Apply(ApplyArgs),
    /// Create, list, show and delete topics, and show their keys
    #[command(subcommand, visible_alias = "topics")]
    Topic(resources::TopicCommand),
    /// Create, list, show and delete domains and their topics, and show their keys
    #[command(subcommand, visible_alias = "domains")]
    Domain(resources::DomainCommand),
    /// Create, list, show and delete namespaces, and show their keys
    #[command(subcommand, visible_alias = "namespaces")]
    Namespace(resources::NamespaceCommand),
    /// Create, list, show and delete event subscriptions
    #[command(subcommand, visible_aliases = ["sub", "subscriptions"])]
    Subscription(resources::SubscriptionCommand),
    /// Publish events to a topic
    #[command(after_help = publish::HELP)]
    Publish(publish::PublishArgs),
    /// Receive events from a pull subscription; each is locked until it is settled
    #[command(after_help = pull::RECEIVE_HELP)]
    Receive(pull::ReceiveArgs),
    /// Settle received events as done
    #[command(visible_alias = "ack")]
    Acknowledge(pull::SettleArgs),
    /// Give received events back, to be received again
    Release(pull::ReleaseArgs),
    /// Settle received events as never to be processed: dead-lettered where the subscription has a place for
    /// that, else dropped
    Reject(pull::SettleArgs),
    /// Keep received events locked for another lock duration
    Renew(pull::SettleArgs),
    /// Watch the deliveries of a subscription as they happen
    #[command(after_help = tail::HELP)]
    Tail(tail::TailArgs),
    /// Test handlers on a `serve --dev`: advance its clock, script failures, wait for deliveries
    #[command(subcommand, after_help = dev::HELP)]
    Dev(dev::DevCommand),
    /// Look at what could not be delivered, put it back, or remove it
    #[command(subcommand, visible_alias = "deadletters", after_help = dead_letter::HELP)]
    Deadletter(dead_letter::DeadLetterCommand),
    /// Check that every event is accounted for, and name those that are not
    #[command(after_help = audit::HELP)]
    Audit(audit::AuditArgs),
    /// Check that a server can run here, or that the running one is well
    Doctor(doctor::DoctorArgs),
    /// Check, repair and measure a data directory that no server uses
    #[command(subcommand, after_help = store::HELP)]
    Store(store::StoreCommand),
    /// Measure what a server can do
    Bench(BenchArgs),
    /// Check, print or explain the configuration of `serve`
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Write a completion script for a shell
    #[command(
        after_help = "Example:\n  gridwire completions bash > ~/.local/share/bash-completion/completions/gridwire"
    )]
    Completions {
        /// The shell to write it for
        shell: clap_complete::Shell,
    },
}

const SERVE_HELP: &str = "\
Examples:
  gridwire serve --dev                          webhooks may be plain http on this machine
  gridwire serve --apply resources.toml         with these topics and subscriptions
  gridwire serve --http 127.0.0.1:0 --https 127.0.0.1:0 --admin 127.0.0.1:0
                                                on free ports; DIR/addresses.json says which

Every option can be a line in a TOML file or a variable too: `gridwire config schema`.";

/// Options of `serve`. Their values are checked with the rest of the configuration, not here.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// Development mode: webhooks may be plain http and on this machine, and `gridwire dev` moves the clock
    #[arg(long)]
    pub(crate) dev: bool,
    #[arg(long, value_name = "FILE", help = "TOML file with the configuration [env: GRIDWIRE_CONFIG]")]
    pub(crate) config: Option<PathBuf>,
    /// Where to listen for HTTP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<String>,
    /// Where to listen for HTTPS [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR")]
    pub(crate) https: Option<String>,
    /// Where to listen for health checks and metrics [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin: Option<String>,
    /// Topics and namespaces are then also met at {name}.DOMAIN
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) base_domain: Option<String>,
    /// Resources to have at start, as for `gridwire apply`
    #[arg(long, value_name = "FILE")]
    pub(crate) apply: Option<PathBuf>,
    /// Refuse to start where a flush cannot be depended on (tmpfs, network file systems)
    #[arg(long)]
    pub(crate) require_durable_fs: bool,
    /// How log lines are written: plain or json [default: plain]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
    /// Which log lines are written, such as debug or `info,gridwire_broker=debug` [default: info]
    #[arg(long, value_name = "FILTER")]
    pub(crate) log_filter: Option<String>,
}

impl ServeArgs {
    /// The flags that were given, by configuration key.
    pub(crate) fn flags(&self, target: &TargetArgs) -> Vec<(&'static str, String)> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let flags = [
            ("data_dir", path(&target.data_dir)),
            ("dev", self.dev.then(|| "true".to_owned())),
            ("listen.http", self.http.clone()),
            ("listen.https", self.https.clone()),
            ("listen.admin", self.admin.clone()),
            ("base_domain", self.base_domain.clone()),
            ("apply", path(&self.apply)),
            ("require_durable_fs", self.require_durable_fs.then(|| "true".to_owned())),
            ("log.format", self.log_format.clone()),
            ("log.filter", self.log_filter.clone()),
        ];
        flags.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

const APPLY_HELP: &str = r#"Example file (resources.toml; the same tree works as .json):
  [[topics]]
  name = "orders"
  properties.inputSchema = "CloudEventSchemaV1_0"

  [[topics.eventSubscriptions]]
  name = "billing"
  properties.destination.endpointType = "WebHook"
  properties.destination.properties.endpointUrl = "https://billing.example.com/hook"
  properties.filter.includedEventTypes = ["order.paid"]

  [[domains]]
  name = "malls"
  [[domains.topics]]
  name = "north"                      # with eventSubscriptions as above, and so has the domain

  [[namespaces]]
  name = "shop"
  [[namespaces.topics]]
  name = "jobs"
  [[namespaces.topics.eventSubscriptions]]
  name = "workers"
  properties.deliveryConfiguration.deliveryMode = "Queue"

  gridwire apply -f resources.toml

`properties` are those of the management API. Nothing is deleted; applying again changes nothing."#;

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// File with the resources: .json or .toml
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Only say what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Report everything that is wrong with the configuration
    Check(ServeArgs),
    /// Print the configuration in force, and where each value comes from
    Print(ServeArgs),
    /// List every key, with its variable, flag, default and meaning
    Schema,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::settings::KEYS;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does() {
        fn check(command: &clap::Command) {
            if command.is_hide_set() {
                return;
            }
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let id = argument.get_id();
                assert!(argument.get_help().is_some(), "{} of {} has no help", id, command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn every_flag_of_the_configuration_is_a_flag_of_serve() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        for key in KEYS {
            let Some(flag) = key.flag else { continue };
            let there = |command: &clap::Command| {
                command.get_arguments().any(|argument| argument.get_long() == flag.strip_prefix("--"))
            };
            assert!(there(serve) || there(&command), "{flag}");
        }
    }

    #[test]
    fn what_the_help_shows_can_be_typed() {
        for line in [
            "gridwire serve --dev --data-dir /tmp/x",
            "gridwire namespace create shop",
            "gridwire topic create shop/jobs",
            "gridwire subscription create orders/billing --webhook http://127.0.0.1:7070/hook",
            "gridwire subscription revalidate orders/billing",
            "gridwire subscription pause orders/billing",
            "gridwire subscription resume orders/billing",
            "gridwire subscription rate orders/billing --per-second 20",
            "gridwire subscription rate orders/billing --per-second none",
            "gridwire subscription signing list orders/billing",
            "gridwire subscription signing rotate orders/billing --overlap PT0S",
            "gridwire subscription signing remove orders/billing",
            "gridwire publish shop/jobs {} --type job.created",
            "gridwire receive shop/jobs/workers --ack --output json",
            "gridwire --data-dir x tail orders/billing",
            "gridwire apply -f resources.toml",
            "gridwire demo --once",
            "gridwire store check --data-dir x --output json",
            "gridwire store repair",
            "gridwire store usage",
            "gridwire dev clock show",
            "gridwire dev clock advance 1h30m",
            "gridwire dev clock advance PT24H --jump",
            "gridwire dev faults set orders/billing 503*3 timeout slow:2s duplicate",
            "gridwire dev faults show orders/billing",
            "gridwire dev faults clear orders/billing",
            "gridwire dev drain --timeout 10s",
            "gridwire deadletter list orders/billing --reason MaxDeliveryAttempts",
            "gridwire deadletter redrive orders/billing --status 404 --rate 50",
            "gridwire deadletter purge orders/billing --until 2026-11-01T00:00:00Z",
            "gridwire deadletter jobs",
            "gridwire audit",
            "gridwire audit shop/jobs/workers --output json",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
