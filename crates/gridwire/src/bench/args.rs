//! The arguments of `gridwire bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::illness::SickArgs;
use super::numbers::{parse_bytes, parse_duration};

/// Measures what a server can do: throughput, latency, processor time and memory.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Publish events and wait for the answers
    Publish(PublishArgs),
    /// Publish a backlog, then receive and acknowledge all of it
    Pull(PullArgs),
    /// Publish to webhook subscriptions, as much as their endpoint will take
    Push(PushArgs),
    /// Publish at a fixed rate and time each event until its webhook has it
    Latency(LatencyArgs),
    /// Time deliveries to healthy webhooks with and without sick ones beside them
    Isolation(IsolationArgs),
    /// Publish to a domain of one topic and to one of very many
    Domains(DomainsArgs),
    /// Let pull subscriptions fall far behind: memory, a crash, catching up, and who else notices
    Backlog(BacklogArgs),
    /// Publish while sick webhooks leave all of it waiting: memory, a crash, and what healthy ones get
    SickBacklog(SickBacklogArgs),
    /// Find the subscriptions that get an event, in this process
    Match(MatchArgs),
    /// Write and flush groups to a file: the most that batched publishing could reach
    Disk(DiskArgs),
    /// Serve the baseline of `publish` until standard input ends
    #[command(hide = true)]
    BaselineServer(BaselineServerArgs),
    /// Post the baseline of `push`
    #[command(hide = true)]
    BaselineClient(BaselineClientArgs),
}

/// Which server; without any of these one is spawned and stopped again.
///
/// `--server`, `--data-dir` and `--ca` have the names, types and ids of the program's global options. The
/// parser takes them for the same, so they may stand before or after the scenario.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerArgs {
    /// Start a server of this program in a temporary directory, and stop it at the end (the default)
    #[arg(long, conflicts_with_all = ["server", "data_dir"])]
    pub(crate) spawn: bool,
    /// Use the server at this URL
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Management token of that server
    #[arg(long, env = "GRIDWIRE_MANAGEMENT_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Use the server that runs on this data directory
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Process id of the server, to measure its processor time and memory
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Admin listener of the server, where its metrics are
    #[arg(long, value_name = "URL")]
    pub(crate) admin: Option<String>,
    /// Certificates to trust over https (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Where a spawned server gets its temporary data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) temp_dir: Option<PathBuf>,
    /// Program to start as the server, such as another build, in place of this one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["server", "data_dir"])]
    pub(crate) program: Option<PathBuf>,
}

/// What is published, and to where.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Events")]
pub(crate) struct ShapeArgs {
    /// Schema of the events
    #[arg(long, value_enum, default_value_t = Schema::Cloudevents)]
    pub(crate) schema: Schema,
    /// Bytes of one event
    #[arg(long, default_value = "1KiB", value_parser = parse_bytes)]
    pub(crate) size: usize,
    /// Topics to spread the requests over
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) topics: u32,
    /// Event subscriptions of each topic, each matching every event
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) subscriptions: u32,
}

/// How hard, for how long, and how it is reported.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadArgs {
    /// Connections
    #[arg(long, short, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) connections: u32,
    /// Protocol on them
    #[arg(long, value_enum, default_value_t = Protocol::Http1)]
    pub(crate) protocol: Protocol,
    /// Requests at once on each HTTP/2 connection
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) streams: u32,
    /// Use the https listener of a spawned server or a data directory
    #[arg(long)]
    pub(crate) https: bool,
    /// Length of one slice
    #[arg(long, short, default_value = "5s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Load before the first slice that is not counted
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub(crate) warmup: Duration,
    /// Slices; with a baseline they alternate with as many of its own
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) slices: u32,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    /// Kind of topic: a namespace topic has pull subscriptions, a custom topic webhooks
    #[arg(long, value_enum, default_value_t = Kind::Namespace)]
    pub(crate) kind: Kind,
    /// Events in one request
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub(crate) batch: u32,
    /// Requests in one slice at most
    #[arg(long)]
    pub(crate) count: Option<u64>,
    /// Events per second, sent by the clock (open loop) instead of as fast as answers come
    #[arg(long, value_parser = parse_rate)]
    pub(crate) rate: Option<f64>,
    /// Also measure a bare HTTP server that reads the same bodies
    #[arg(long)]
    pub(crate) baseline: bool,
    /// Also measure what the disk under the data directory can flush
    #[arg(long)]
    pub(crate) baseline_disk: bool,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PullArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    /// Events in one publish request
    #[arg(long, short, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) batch: u32,
    /// Events in the backlog of each slice
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) events: u64,
    /// Receivers, each with a connection
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) receivers: u32,
    /// Events in one receive at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) receive: u32,
    /// Time one slice may take at most
    #[arg(long, default_value = "2m", value_parser = parse_duration)]
    pub(crate) limit: Duration,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    /// Kind of topic
    #[arg(long, value_enum, default_value_t = Kind::Topic)]
    pub(crate) kind: Kind,
    /// Events in one publish request
    #[arg(long, short, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub(crate) batch: u32,
    /// Events in one delivery at most
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub(crate) delivery_batch: u32,
    /// Deliveries outstanding at which publishing waits
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) window: u64,
    /// Also measure a bare HTTP client posting the same bodies
    #[arg(long)]
    pub(crate) baseline: bool,
    /// Connections of that client
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) baseline_connections: u32,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LatencyArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    /// Kind of topic
    #[arg(long, value_enum, default_value_t = Kind::Topic)]
    pub(crate) kind: Kind,
    /// Events in one publish request
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub(crate) batch: u32,
    /// Events per second
    #[arg(long, value_parser = parse_rate, required_unless_present = "half_load")]
    pub(crate) rate: Option<f64>,
    /// Find out first how much the server delivers, then run at half of it
    #[arg(long, conflicts_with = "rate")]
    pub(crate) half_load: bool,
    /// Also post the same bodies to the webhook directly
    #[arg(long)]
    pub(crate) baseline: bool,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct IsolationArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Endpoints that take deliveries at once
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) healthy: u32,
    #[command(flatten)]
    pub(crate) sick: SickArgs,
    /// Bytes of one event
    #[arg(long, default_value = "1KiB", value_parser = parse_bytes, help_heading = "Events")]
    pub(crate) size: usize,
    /// Events per second (default: half of what the healthy endpoints get at most)
    #[arg(long, value_parser = parse_rate, help_heading = "Events")]
    pub(crate) rate: Option<f64>,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DomainsArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Topics of the large domain
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) topics: u32,
    /// Of them, so many have a subscription, which events go to
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) subscribed: u32,
    /// Events in one request, each to another topic
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub(crate) batch: u32,
    /// Bytes of one event
    #[arg(long, default_value = "1KiB", value_parser = parse_bytes)]
    pub(crate) size: usize,
    /// Leave the domains to the next run on the same server, which then has nothing to make
    #[arg(long)]
    pub(crate) keep: bool,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BacklogArgs {
    /// Where the server, which is killed once, gets its temporary data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) temp_dir: Option<PathBuf>,
    /// Events in the backlog
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100..=100_000_000))]
    pub(crate) events: u64,
    /// Pull subscriptions of the topic, each matching every event
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=100))]
    pub(crate) subscriptions: u32,
    /// Bytes of one event
    #[arg(long, default_value = "200", value_parser = parse_bytes)]
    pub(crate) size: usize,
    /// Subscriptions that catch up, having acknowledged none, a part, and so on, of the backlog
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(crate) behind: u32,
    /// Receivers of each subscription that has any
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) receivers: u32,
    /// Events in one publish request of the backlog
    #[arg(long, short, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) batch: u32,
    /// Connections that publish it
    #[arg(long, short, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) connections: u32,
    /// Events per second published while the receiver at the tail is timed
    #[arg(long, default_value = "200", value_parser = parse_rate)]
    pub(crate) rate: f64,
    /// How long the receiver at the tail is timed before and again after the others catch up
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) quiet: Duration,
    /// Rest before memory is read
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub(crate) rest: Duration,
    /// Time that publishing, and catching up, may each take
    #[arg(long, default_value = "10m", value_parser = parse_duration)]
    pub(crate) limit: Duration,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SickBacklogArgs {
    /// Where the server, which is killed once, gets its temporary data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) temp_dir: Option<PathBuf>,
    /// Events in the backlog
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100..=100_000_000))]
    pub(crate) events: u64,
    /// Endpoints that take deliveries at once
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) healthy: u32,
    #[command(flatten)]
    pub(crate) sick: SickArgs,
    /// Bytes of one event
    #[arg(long, default_value = "200", value_parser = parse_bytes, help_heading = "Events")]
    pub(crate) size: usize,
    /// Events in one publish request
    #[arg(
        long,
        short,
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=5_000),
        help_heading = "Events",
    )]
    pub(crate) batch: u32,
    /// Connections that publish
    #[arg(
        long,
        short,
        default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=1_000),
        help_heading = "Events",
    )]
    pub(crate) connections: u32,
    /// Deliveries to the healthy outstanding at which publishing waits
    #[arg(
        long,
        default_value_t = 20_000,
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Events",
    )]
    pub(crate) window: u64,
    /// Rest before memory is read
    #[arg(long, default_value = "3s", value_parser = parse_duration, help_heading = "Events")]
    pub(crate) rest: Duration,
    /// Time that publishing may take
    #[arg(long, default_value = "10m", value_parser = parse_duration, help_heading = "Events")]
    pub(crate) limit: Duration,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DiskArgs {
    /// Directory on the disk to measure
    #[arg(long, default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Bytes written before each flush
    #[arg(long, default_value = "1MiB", value_parser = parse_bytes)]
    pub(crate) group: usize,
    /// Bytes of the file, written over and over
    #[arg(long, default_value = "256MiB", value_parser = parse_bytes)]
    pub(crate) file: usize,
    /// Bytes of one event, to express the result in events
    #[arg(long, default_value = "1KiB", value_parser = parse_bytes)]
    pub(crate) size: usize,
    /// Length of one slice
    #[arg(long, short, default_value = "5s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Slices
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) slices: u32,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct MatchArgs {
    /// Length of one slice
    #[arg(long, short, default_value = "2s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Slices
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) slices: u32,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BaselineServerArgs {
    #[arg(long)]
    pub(crate) tls: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BaselineClientArgs {
    #[arg(long)]
    pub(crate) url: String,
    #[arg(long, value_enum)]
    pub(crate) schema: Schema,
    #[arg(long)]
    pub(crate) size: usize,
    #[arg(long)]
    pub(crate) batch: u32,
    #[arg(long)]
    pub(crate) connections: u32,
    #[arg(long, value_parser = parse_duration)]
    pub(crate) warmup: Duration,
    #[arg(long, value_parser = parse_duration)]
    pub(crate) duration: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A custom topic
    Topic,
    /// A topic of a namespace
    Namespace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Schema {
    /// `CloudEvents` 1.0
    Cloudevents,
    /// Event Grid events
    Eventgrid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// HTTP/1.1 with keep-alive
    Http1,
    /// HTTP/2: by prior knowledge over http, by ALPN over https
    Http2,
}

/// Form of a report. Not an option here: the whole program has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Text,
    Json,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // Above, the pacing thread would do nothing but look at the clock.
        Ok(rate) if (0.01..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err(format!("`{text}` is no rate between 0.01 and 10000000 events per second")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    /// A program with global options of the same names.
    #[derive(Debug, Parser)]
    struct Cli {
        #[arg(long, global = true)]
        data_dir: Option<PathBuf>,
        #[arg(long, global = true)]
        server: Option<String>,
        #[arg(long, global = true)]
        ca: Option<PathBuf>,
        #[arg(long, global = true, default_value = "table")]
        output: String,
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> Result<Scenario, clap::Error> {
        Ok(Cli::try_parse_from(line.split_whitespace())?.bench.scenario)
    }

    #[test]
    fn global_options_of_the_program_reach_the_scenario() {
        for line in ["bench --data-dir d publish --output json", "bench publish --data-dir d"] {
            let Ok(Scenario::Publish(args)) = parse(line) else { panic!("{line}") };
            assert_eq!(args.server.data_dir, Some(PathBuf::from("d")), "{line}");
        }
    }

    #[test]
    fn every_scenario_runs_without_options_where_nothing_must_be_chosen() {
        for name in [
            "publish",
            "pull",
            "push",
            "disk",
            "match",
            "latency --half-load",
            "isolation",
            "backlog",
            "sick-backlog",
        ] {
            assert!(parse(&format!("bench {name}")).is_ok(), "{name}");
        }
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        for bad in [
            "publish --server http://h:1 --token t --data-dir d",
            "publish --spawn --data-dir d",
            "latency",
            "latency --rate 5 --half-load",
            "publish --rate 0",
            "publish --rate nan",
            "publish --batch 0",
            "publish --duration soon",
            "pull --batch 1001",
        ] {
            assert!(parse(&format!("bench {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn options_arrive_where_they_are_used() {
        let Ok(Scenario::Publish(args)) = parse(
            "bench publish --kind topic --schema eventgrid --batch 100 --size 2KiB --rate 2.5e3 -c 3 \
             --protocol http2 -d 250ms --baseline",
        ) else {
            panic!("these are the arguments of publish");
        };
        assert_eq!((args.kind, args.shape.schema), (Kind::Topic, Schema::Eventgrid));
        assert_eq!((args.batch, args.shape.size, args.load.connections), (100, 2048, 3));
        assert_eq!(args.rate, Some(2500.0));
        assert_eq!(args.load.duration, Duration::from_millis(250));
        assert!(args.baseline && !args.baseline_disk);
    }
}
