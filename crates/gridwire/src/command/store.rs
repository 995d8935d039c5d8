//! `gridwire store`: what is in a data directory, whether it is sound, and making it openable again.
//!
//! Works on the files; the server must be stopped. Only `repair` changes anything, and it keeps what it
//! replaces in `.bad` files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Subcommand;
use gridwire_control::{Sealer, read_table};
use gridwire_core::ids::{Offset, SubscriptionNumber, TopicNumber};
use gridwire_core::routing::{RoutingTable, SubscriptionRoute};
use gridwire_core::shard::{Decision, Shard};
use gridwire_outside::MemoryDisk;
use gridwire_outside::system::{SystemDisk, SystemRng};
use gridwire_store::embedded::tools::{self, Report, Usage};
use gridwire_store::embedded::{OpenError, RedbResources};
use gridwire_store::{Recovered, ResourceStore};
use serde_json::{Value, json};

use crate::data_dir::DataDir;
use crate::output::Output;
use crate::target::TargetArgs;

pub(crate) const HELP: &str = "\
Examples:
  gridwire store check                    read everything; exit code 1 when something is damaged
  gridwire store repair                   make a store openable that a server refuses to open
  gridwire store usage --output json      which topics and subscriptions hold which bytes

Stop the server first. `repair` overwrites nothing that it cannot read: what it replaces stays in .bad files.
Make a copy of the data directory before it all the same.";

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read everything and report all damage: file, bytes, topics, lost offsets
    Check,
    /// Make a store that cannot be opened openable again, and report what is lost
    #[command(visible_alias = "salvage")]
    Repair,
    /// Say what holds which bytes, by topic and subscription
    Usage,
}

pub(crate) async fn run(
    command: &StoreCommand,
    target: &TargetArgs,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let dir = target.data_dir();
    let resources = Resources::read(&dir).await;
    match command {
        StoreCommand::Check => {
            let report = explain(tools::check(&SystemDisk, dir.root()), &dir)?;
            let is_sound = report.findings.is_empty() && resources.damage.is_none();
            show_report(&report, &resources, &dir, output)?;
            Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        StoreCommand::Repair => {
            let mut queues = explain(Queues::read(&dir, &resources), &dir)?;
            let report = explain(tools::repair(&SystemDisk, dir.root(), &queues.ends()), &dir)?;
            show_report(&report, &resources, &dir, output)?;
            let after = explain(tools::check(&SystemDisk, dir.root()), &dir)?;
            let is_openable = after.findings.iter().all(|finding| !finding.refused);
            Ok(if is_openable && resources.damage.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        StoreCommand::Usage => {
            let usage = explain(tools::usage(&SystemDisk, dir.root()), &dir)?;
            let mut queues = explain(Queues::read(&dir, &resources), &dir)?;
            show_usage(&usage, &resources, &mut queues, output)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What to do about an error, beside it.
fn explain<T>(result: Result<T, OpenError>, dir: &DataDir) -> anyhow::Result<T> {
    let shown = dir.root().display();
    let advice = match &result {
        Err(OpenError::Locked { .. }) => format!("stop the server on `{shown}` first"),
        Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            format!("there is no store in `{shown}`; choose another directory with --data-dir")
        }
        _ => format!("failed to read the store in `{shown}`"),
    };
    result.context(advice)
}

/// The resources, for the names of things; read from a copy in memory, so that nothing is changed.
struct Resources {
    table: Arc<RoutingTable>,
    /// Why they cannot be read.
    damage: Option<String>,
}

impl Resources {
    async fn read(dir: &DataDir) -> Self {
        match Self::table(dir).await {
            Ok(table) => Self { table, damage: None },
            Err(error) => Self { table: Arc::default(), damage: Some(format!("{error:#}")) },
        }
    }

    async fn table(dir: &DataDir) -> anyhow::Result<Arc<RoutingTable>> {
        let path = dir.resources_file();
        // A server that ended early in its first start leaves none, and that is no damage.
        if !path.exists() || !dir.secrets_file().exists() {
            return Ok(Arc::default());
        }
        let bytes = std::fs::read(&path).context("failed to read the resources")?;
        let (disk, copy) = (MemoryDisk::new(), Path::new("/meta.redb"));
        disk.put(copy, bytes);
        let store = RedbResources::open_inline(Arc::new(disk), copy).context("the resources are damaged")?;
        let store: Arc<dyn ResourceStore> = store;
        let master = dir.secrets(&SystemRng::new())?.master;
        Ok(read_table(&*store, &Sealer::new(master)).await?)
    }

    fn topic(&self, number: TopicNumber) -> String {
        let Some(topic) = self.table.by_number.get(&number) else {
            return format!("topic {number} (removed)");
        };
        match topic.subscriptions.values().next() {
            Some(route) if !route.namespace_name.is_empty() => {
                format!("{}/{}", route.namespace_name, topic.name)
            }
            _ => topic.name.clone(),
        }
    }
}

/// The subscriptions' recorded state.
struct Queues {
    shard: Shard,
    routes: Vec<Arc<SubscriptionRoute>>,
}

impl Queues {
    fn read(dir: &DataDir, resources: &Resources) -> Result<Self, OpenError> {
        let mut shard = Shard::new();
        let mut included: HashMap<SubscriptionNumber, _> = HashMap::new();
        tools::read_state(&SystemDisk, dir.root(), &mut |recovered| match recovered {
            Recovered::Part { subscription, at, state } => {
                if shard.recover_part(subscription, state) {
                    included.insert(subscription, at);
                }
            }
            Recovered::Group { seq, decisions, .. } => {
                let mut input = decisions;
                while let Some(decision) = Decision::decode(&mut input) {
                    if included.get(&decision.subscription()).is_none_or(|at| *at < seq) {
                        shard.recover_decision(&decision);
                    }
                }
            }
        })?;
        Ok(Self { shard, routes: resources.table.subscriptions() })
    }

    /// Offsets of each topic that decisions speak of: a new event must not get one of them.
    fn ends(&mut self) -> BTreeMap<TopicNumber, u64> {
        let mut ends = BTreeMap::new();
        for route in &self.routes {
            let end = ends.entry(route.topic).or_insert(0);
            *end = self.shard.recovered_end(route.number).0.max(*end);
        }
        ends
    }

    fn floor(&self, route: &SubscriptionRoute) -> Option<Offset> {
        self.shard.recovered_floor(route.number)
    }
}

fn ranges(lost: &[(TopicNumber, std::ops::Range<u64>)], resources: &Resources) -> String {
    let one = |(topic, range): &(TopicNumber, std::ops::Range<u64>)| {
        format!("{} {} to {}", resources.topic(*topic), range.start, range.end.saturating_sub(1))
    };
    lost.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn show_report(report: &Report, resources: &Resources, dir: &DataDir, output: Output) -> anyhow::Result<()> {
    let file = |path: &Path| path.strip_prefix(dir.root()).unwrap_or(path).display().to_string();
    if output.is_json() {
        let finding = |finding: &tools::Finding| {
            let lost = finding.lost.iter().map(|(topic, range)| {
                json!({ "topic": resources.topic(*topic), "first": range.start, "end": range.end })
            });
            json!({
                "file": file(&finding.damage.file), "from": finding.damage.bytes.start,
                "to": finding.damage.bytes.end, "what": finding.damage.what,
                "topics": finding.damage.topics.iter().map(|topic| resources.topic(*topic)).collect::<Vec<_>>(),
                "lost": lost.collect::<Vec<Value>>(), "serverStarts": !finding.refused,
            })
        };
        let mut findings: Vec<Value> = report.findings.iter().map(finding).collect();
        findings.extend(resources.damage.iter().map(|what| {
            json!({ "file": "meta.redb", "what": what, "topics": [], "lost": [], "serverStarts": false })
        }));
        return Ok(output.json(&json!({
            "segments": report.segments, "frames": report.frames, "events": report.events,
            "groups": report.groups, "findings": findings,
            "rewritten": report.rewritten.iter().map(|path| file(path)).collect::<Vec<_>>(),
        }))?);
    }
    let mut rows: Vec<Vec<String>> = report
        .findings
        .iter()
        .map(|finding| {
            let bytes = &finding.damage.bytes;
            let starts = if finding.refused { "no" } else { "yes" };
            let topics: Vec<String> = finding.damage.topics.iter().map(|t| resources.topic(*t)).collect();
            vec![
                file(&finding.damage.file),
                format!("{}-{}", bytes.start, bytes.end),
                topics.join(" "),
                ranges(&finding.lost, resources),
                starts.to_owned(),
                finding.damage.what.clone(),
            ]
        })
        .collect();
    rows.extend(resources.damage.iter().map(|what| {
        let cells = ["meta.redb", "", "", "", "no", what];
        cells.map(str::to_owned).to_vec()
    }));
    if !rows.is_empty() {
        output.table(&["file", "bytes", "topics", "lost offsets", "server starts", "what"], &rows)?;
    }
    for path in &report.rewritten {
        output.remark(format_args!("rewritten: {}; what was there is in a .bad file beside it", file(path)));
    }
    let count = rows.len();
    output.remark(format_args!(
        "{} segments, {} events and {} groups of decisions read; {}",
        report.segments,
        report.events,
        report.groups,
        if count == 0 { "all are sound".to_owned() } else { format!("{count} damaged places") },
    ));
    if resources.damage.is_some() {
        output.remark("meta.redb cannot be repaired: restore it and `secrets` from a backup");
    }
    Ok(())
}

/// Bytes of the segments that a subscription, or with `floor` 0 a topic, needs.
fn held(usage: &Usage, topic: TopicNumber, floor: u64) -> u64 {
    let needs = |segment: &&tools::SegmentUsage| {
        segment.topics.iter().any(|span| span.topic == topic && floor <= span.last.0)
    };
    // The log goes from its old end only: a segment keeps all behind it.
    let first = usage.segments.iter().find(needs).map_or(u64::MAX, |segment| segment.number);
    usage.segments.iter().filter(|segment| first <= segment.number).map(|segment| segment.bytes).sum()
}

fn show_usage(
    usage: &Usage,
    resources: &Resources,
    queues: &mut Queues,
    output: Output,
) -> anyhow::Result<()> {
    let mut topics: BTreeMap<TopicNumber, (u64, u64, u64)> = BTreeMap::new();
    for span in usage.segments.iter().flat_map(|segment| &segment.topics) {
        let (events, bytes, end) = topics.entry(span.topic).or_default();
        *events += span.last.0 - span.first.0 + 1;
        *bytes += span.bytes;
        *end = (*end).max(span.last.0 + 1);
    }
    let mut rows = Vec::new();
    let mut row = |what: String, events: String, bytes: u64, unsettled: String, holds: String| {
        rows.push(vec![what, events, bytes.to_string(), unsettled, holds]);
    };
    for (topic, (events, bytes, end)) in &topics {
        let name = resources.topic(*topic);
        row(name.clone(), events.to_string(), *bytes, String::new(), held(usage, *topic, 0).to_string());
        for route in queues.routes.iter().filter(|route| route.topic == *topic) {
            let floor = queues.floor(route).map_or(0, |floor| floor.0);
            let unsettled = end.saturating_sub(floor).to_string();
            let holds = held(usage, *topic, floor).to_string();
            row(format!("{name}/{}", route.name), String::new(), 0, unsettled, holds);
        }
    }
    let segments: u64 = usage.segments.iter().map(|segment| segment.bytes).sum();
    for (what, bytes) in [
        ("(segments)", segments),
        ("(spare segments)", usage.spares),
        ("(indexes)", usage.indexes),
        ("(state log)", usage.state),
        ("(resources)", usage.resources),
        ("(ballast)", usage.ballast),
        ("(set aside by repairs)", usage.set_aside),
    ] {
        row(what.to_owned(), String::new(), bytes, String::new(), String::new());
    }
    output.table(&["what", "events", "bytes", "unsettled at most", "holds bytes"], &rows)?;
    Ok(())
}
