//! What the data plane counts, in Prometheus' text format. Labels come from closed sets or from resource
//! names, never from a client.
//!
//! [`counters`] are what is counted, [`catalog`] what it is called.

mod catalog;
mod counters;
mod slots;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use gridwire_core::endpoint::{EndpointStatus, Rule};
use gridwire_core::ids::{SubscriptionNumber, TopicNumber};
use gridwire_core::routing::{RoutingTable, SubscriptionRoute, TableChange};
use gridwire_core::shard::QueueStatus;
use gridwire_store::LogHealth;

use catalog::{Family, GLOBAL, LATENCIES, LOG, MATCHED, PER_QUEUE, PER_SUBSCRIPTION, PER_TOPIC};
use counters::{BUCKETS, Histogram, OPERATIONS};
pub(crate) use counters::{PullOperation, SubscriptionCounters, Tally, TopicCounters};
use slots::Slots;

use crate::unmatched::Unmatched;

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
    /// Refused for too many wrong credentials.
    pub(crate) auth_blocked: AtomicU64,
    pub(crate) letters_given_up: AtomicU64,
    pub(crate) dead_letters_redriven: AtomicU64,
    pub(crate) dead_letters_purged: AtomicU64,
    /// As of the latest page.
    pub(crate) dead_letter_jobs: AtomicU64,
}

#[derive(Debug, Default)]
struct ByNumber {
    topics: BTreeMap<TopicNumber, Arc<TopicCounters>>,
    subscriptions: BTreeMap<SubscriptionNumber, Arc<SubscriptionCounters>>,
}

/// A name for a topic or subscription in a label: resource names hold nothing that needs escaping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named<'a> {
    pub(crate) topic: &'a str,
    pub(crate) subscription: &'a str,
}

/// The endpoint that is held back more.
fn worse(one: Option<EndpointStatus>, other: Option<EndpointStatus>) -> Option<EndpointStatus> {
    let held_back = |status: &EndpointStatus| {
        let rank = match status.rule {
            Rule::Paused(_) => 2,
            Rule::Probation(_) => 1,
            Rule::Free | Rule::Congestion | Rule::Paced(_) => 0,
        };
        (rank, std::cmp::Reverse(status.requests_max))
    };
    one.into_iter().chain(other).max_by_key(held_back)
}

/// One figure for each pair of labels. A domain topic is no label, for there may be 100,000 of them: what their
/// subscriptions of one name did is added up. The lag of several is that of the one furthest behind,
/// and so is the treatment of their endpoints.
pub(crate) fn merged<'a>(
    queues: impl Iterator<Item = (QueueStatus, Named<'a>)>,
) -> Vec<(QueueStatus, Named<'a>)> {
    let mut all: BTreeMap<Named<'a>, QueueStatus> = BTreeMap::new();
    for (status, named) in queues {
        let Some(sum) = all.get_mut(&named) else {
            all.insert(named, status);
            continue;
        };
        sum.totals.delivered += status.totals.delivered;
        sum.totals.dead_lettered += status.totals.dead_lettered;
        sum.totals.expired += status.totals.expired;
        sum.totals.dropped += status.totals.dropped;
        sum.totals.returned += status.totals.returned;
        sum.matched = sum.matched.zip(status.matched).map(|(one, other)| one + other);
        sum.pending += status.pending;
        sum.held += status.held;
        sum.letters += status.letters;
        sum.behind |= status.behind;
        sum.endpoint = worse(sum.endpoint, status.endpoint);
        let lag = |status: &QueueStatus| status.end.0.saturating_sub(status.floor.0);
        if lag(&status) > lag(sum) {
            (sum.floor, sum.end) = (status.floor, status.end);
        }
    }
    all.into_iter().map(|(named, status)| (status, named)).collect()
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

    /// Makes counters for what `table` has; those of what it no longer has go. `change` is what it has other than
    /// the table before it: a walk over the subscriptions of a large domain would be dearer than the change.
    /// `unmatched` knows how many events of a topic nobody matched before.
    pub(crate) fn follow(
        &self,
        table: &RoutingTable,
        change: &TableChange,
        unmatched: impl Fn(TopicNumber) -> Unmatched,
    ) {
        let mut of = self.of.write().expect("no panic while the counters are held");
        let ByNumber { topics, subscriptions } = &mut *of;
        topics.retain(|number, _| table.by_number.contains_key(number));
        for number in table.by_number.keys() {
            let counters = || Arc::new(TopicCounters::after(unmatched(*number)));
            topics.entry(*number).or_insert_with(counters);
        }
        let mut changed: BTreeMap<TopicNumber, Slots> = BTreeMap::new();
        let mut set = |route: &SubscriptionRoute, counters: Option<Arc<SubscriptionCounters>>| {
            let Some(topic) = topics.get(&route.topic) else { return };
            let slots = changed.entry(route.topic).or_insert_with(|| Slots::clone(&topic.slots.load()));
            slots.set(route.slot, counters);
        };
        for route in &change.gone {
            subscriptions.remove(&route.number);
            set(route, None);
        }
        for (_, route) in &change.put {
            set(route, Some(Arc::clone(subscriptions.entry(route.number).or_default())));
        }
        for (number, slots) in changed {
            topics[&number].slots.store(Arc::new(slots));
        }
    }

    /// The whole page. `stored` is how many events each topic's log has had; `topic_name` and `subscription_name`
    /// find what to call them.
    pub(crate) fn render<'a>(
        &self,
        health: &LogHealth,
        queues: &[(QueueStatus, Named<'a>)],
        stored: impl Fn(TopicNumber) -> u64,
        topic_name: impl Fn(TopicNumber) -> Option<&'a str>,
        subscription_name: impl Fn(SubscriptionNumber) -> Option<Named<'a>>,
    ) -> String {
        let mut page = Page(String::new(), SERIES_MAX);
        let (topics, subscriptions): (Vec<_>, Vec<_>) = {
            let of = self.of.read().expect("no panic while the counters are held");
            (
                of.topics
                    .iter()
                    .filter_map(|(number, counters)| {
                        Some((topic_name(*number)?, stored(*number), Arc::clone(counters)))
                    })
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
            let all = topics.iter().flat_map(|(topic, stored, counters)| {
                series(counters, *stored)
                    .into_iter()
                    .map(|(labels, value)| (Owner::Topic(topic), labels, value))
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
        let (family, figure) = &MATCHED;
        let counted = queues.iter().filter_map(|(status, named)| Some((named, figure(status)?)));
        page.series(
            family,
            counted.map(|(named, value)| (Owner::Subscription(*named), String::new(), value)),
        );
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

/// Whose figure it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

    /// Figures with the same labels are one, which is how subscriptions in a domain share their series.
    fn series<'a>(&mut self, family: &Family, all: impl Iterator<Item = (Owner<'a>, String, u64)>) {
        self.head(family);
        let mut own: BTreeMap<(Owner<'a>, String), u64> = BTreeMap::new();
        let mut others: BTreeMap<(Owner<'a>, String), u64> = BTreeMap::new();
        for (owner, labels, value) in all {
            let key = (owner, labels);
            let sum = if own.len() < self.1 || own.contains_key(&key) {
                own.entry(key).or_default()
            } else {
                others.entry((owner.other(), key.1)).or_default()
            };
            *sum += value;
        }
        for ((owner, labels), value) in own.into_iter().chain(others) {
            let comma = if labels.is_empty() { "" } else { "," };
            self.line(&format!("{}{{{}{comma}{labels}}}", family.name, owner.labels()), value as f64);
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
