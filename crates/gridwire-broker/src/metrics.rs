//! What the data plane counts, in Prometheus' text format. Labels come from closed sets or from resource
//! names, never from a client.
//!
//! [`counters`] are what is counted, [`catalog`] what it is called.

mod catalog;
mod counters;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use gridwire_core::ids::{SubscriptionNumber, TopicNumber};
use gridwire_core::routing::{RoutingTable, TopicRoute};
use gridwire_core::shard::QueueStatus;
use gridwire_store::LogHealth;

use catalog::{Family, GLOBAL, LATENCIES, LOG, PER_QUEUE, PER_SUBSCRIPTION, PER_TOPIC};
use counters::{BUCKETS, Histogram, OPERATIONS};
pub(crate) use counters::{PullOperation, SubscriptionCounters, Tally, TopicCounters};

/// Series of one family; what is beyond is summed up as `other`. A page of a hundred thousand lines takes
/// Prometheus longer than its interval, and nobody looks at each of ten thousand subscriptions.
const SERIES_MAX: usize = 10_000;

/// All counters of the broker.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    of: RwLock<ByNumber>,
    pub(crate) publish_seconds: Histogram,
    pub(crate) attempt_seconds: Histogram,
    pull_seconds: [Histogram; OPERATIONS.len()],
    pub(crate) unauthorized: AtomicU64,
    pub(crate) letters_given_up: AtomicU64,
}

#[derive(Debug, Default)]
struct ByNumber {
    topics: BTreeMap<TopicNumber, Arc<TopicCounters>>,
    subscriptions: BTreeMap<SubscriptionNumber, Arc<SubscriptionCounters>>,
}

/// A name for a topic or subscription in a label: resource names hold nothing that needs escaping.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) topic: &'a str,
    pub(crate) subscription: &'a str,
}

impl Metrics {
    /// The counters of a topic. Of one that is gone they are counted for nobody.
    pub(crate) fn topic(&self, number: TopicNumber) -> Arc<TopicCounters> {
        let of = self.of.read().expect("no panic while the counters are held");
        of.topics.get(&number).cloned().unwrap_or_default()
    }

    /// The same of a subscription.
    pub(crate) fn subscription(&self, number: SubscriptionNumber) -> Arc<SubscriptionCounters> {
        let of = self.of.read().expect("no panic while the counters are held");
        of.subscriptions.get(&number).cloned().unwrap_or_default()
    }

    pub(crate) fn pulled(&self, operation: PullOperation, took: Duration) {
        self.pull_seconds[operation as usize].observe(took);
    }

    /// Makes counters for what `table` has; those of what it no longer has go.
    pub(crate) fn follow(&self, table: &RoutingTable) {
        let mut of = self.of.write().expect("no panic while the counters are held");
        let of = &mut *of;
        let known = std::mem::take(&mut of.subscriptions);
        of.topics.retain(|number, _| table.by_number.contains_key(number));
        for (number, route) in &table.by_number {
            let counters = of.topics.entry(*number).or_default();
            counters.slots.store(Arc::new(slots(route, &known, &mut of.subscriptions)));
        }
    }

    /// The whole page. `topic_name` and `subscription_name` find what to call them.
    pub(crate) fn render<'a>(
        &self,
        health: &LogHealth,
        queues: &[(QueueStatus, Named<'a>)],
        topic_name: impl Fn(TopicNumber) -> Option<&'a str>,
        subscription_name: impl Fn(SubscriptionNumber) -> Option<Named<'a>>,
    ) -> String {
        let mut page = Page(String::new(), SERIES_MAX);
        let (topics, subscriptions): (Vec<_>, Vec<_>) = {
            let of = self.of.read().expect("no panic while the counters are held");
            (
                of.topics
                    .iter()
                    .filter_map(|(number, counters)| Some((topic_name(*number)?, Arc::clone(counters))))
                    .collect(),
                of.subscriptions
                    .iter()
                    .filter_map(|(number, counters)| {
                        Some((subscription_name(*number)?, Arc::clone(counters)))
                    })
                    .collect(),
            )
        };
        for (family, series) in &PER_TOPIC {
            let all = topics.iter().flat_map(|(topic, counters)| {
                series(counters).into_iter().map(|(labels, value)| (Owner::Topic(topic), labels, value))
            });
            page.series(family, all);
        }
        for (family, series) in &PER_SUBSCRIPTION {
            let all = subscriptions.iter().flat_map(|(named, counters)| {
                series(counters)
                    .into_iter()
                    .map(|(labels, value)| (Owner::Subscription(*named), labels, value))
            });
            page.series(family, all);
        }
        for (family, figure) in &PER_QUEUE {
            let all = queues
                .iter()
                .map(|(status, named)| (Owner::Subscription(*named), String::new(), figure(status)));
            page.series(family, all);
        }
        for (family, counter) in &GLOBAL {
            page.head(family);
            page.line(family.name, counter(self).load(Ordering::Relaxed) as f64);
        }
        for (family, figure) in &LOG {
            page.head(family);
            page.line(family.name, figure(health));
        }
        for (family, histograms) in &LATENCIES {
            page.head(family);
            for (labels, histogram) in histograms(self) {
                page.histogram(family.name, &labels, histogram);
            }
        }
        page.0
    }
}

/// A topic's subscriptions by slot, those that are `known` with their counters, all put into `live`.
fn slots(
    route: &TopicRoute,
    known: &BTreeMap<SubscriptionNumber, Arc<SubscriptionCounters>>,
    live: &mut BTreeMap<SubscriptionNumber, Arc<SubscriptionCounters>>,
) -> Vec<Option<Arc<SubscriptionCounters>>> {
    let mut slots = Vec::new();
    for subscription in route.subscriptions.values() {
        let counters = known.get(&subscription.number).cloned().unwrap_or_default();
        let slot = subscription.slot.0 as usize;
        if slots.len() <= slot {
            slots.resize(slot + 1, None);
        }
        slots[slot] = Some(Arc::clone(&counters));
        live.insert(subscription.number, counters);
    }
    slots
}

/// Whose figure it is.
#[derive(Clone, Copy)]
enum Owner<'a> {
    Topic(&'a str),
    Subscription(Named<'a>),
}

impl Owner<'_> {
    fn labels(self) -> String {
        match self {
            Self::Topic(topic) => format!("topic=\"{topic}\""),
            Self::Subscription(Named { topic, subscription }) => {
                format!("topic=\"{topic}\",subscription=\"{subscription}\"")
            }
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Topic(_) => Self::Topic("other"),
            Self::Subscription(_) => Self::Subscription(Named { topic: "other", subscription: "other" }),
        }
    }
}

/// A page in the making, with how many series a family may have. Writing to a `String` cannot fail.
struct Page(String, usize);

impl Page {
    fn head(&mut self, family: &Family) {
        let Family { name, kind, help, .. } = family;
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, series: &str, value: f64) {
        let _ = writeln!(self.0, "{series} {value}");
    }

    fn series<'a>(&mut self, family: &Family, all: impl Iterator<Item = (Owner<'a>, String, u64)>) {
        self.head(family);
        let mut others: BTreeMap<String, u64> = BTreeMap::new();
        for (index, (owner, labels, value)) in all.enumerate() {
            let comma = if labels.is_empty() { "" } else { "," };
            if index < self.1 {
                let series = format!("{}{{{}{comma}{labels}}}", family.name, owner.labels());
                self.line(&series, value as f64);
            } else {
                *others.entry(format!("{}{comma}{labels}", owner.other().labels())).or_default() += value;
            }
        }
        for (labels, value) in others {
            self.line(&format!("{}{{{labels}}}", family.name), value as f64);
        }
    }

    fn histogram(&mut self, name: &str, labels: &str, histogram: &Histogram) {
        let (comma, braced) =
            if labels.is_empty() { ("", String::new()) } else { (",", format!("{{{labels}}}")) };
        let mut total = 0;
        for (bound, count) in BUCKETS.iter().zip(&histogram.counts) {
            total += count.load(Ordering::Relaxed);
            let _ = writeln!(self.0, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}");
        }
        total += histogram.counts[BUCKETS.len()].load(Ordering::Relaxed);
        let sum = Duration::from_micros(histogram.sum_micros.load(Ordering::Relaxed)).as_secs_f64();
        let _ = writeln!(self.0, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {total}");
        let _ = writeln!(self.0, "{name}_sum{braced} {sum}\n{name}_count{braced} {total}");
    }
}

#[cfg(test)]
mod tests;
