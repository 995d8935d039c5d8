//! What the data plane counts, in Prometheus' text format. Labels come from closed sets or from resource
//! names, never from a client.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gridwire_core::ids::TopicNumber;
use gridwire_core::shard::QueueStatus;
use gridwire_store::LogHealth;

/// Upper bounds of the latency histograms, in seconds.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0];

/// A latency histogram with fixed buckets.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe(&self, value: Duration) {
        let seconds = value.as_secs_f64();
        let bucket = BUCKETS.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(u64::try_from(value.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn write(&self, name: &str, out: &mut String) {
        let mut total = 0;
        for (bound, count) in BUCKETS.iter().zip(&self.counts) {
            total += count.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        total += self.counts[BUCKETS.len()].load(Ordering::Relaxed);
        let sum = Duration::from_micros(self.sum_micros.load(Ordering::Relaxed)).as_secs_f64();
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {total}\n{name}_sum {sum}\n{name}_count {total}");
    }
}

/// Counters of one topic.
#[derive(Debug, Default)]
pub(crate) struct TopicCounters {
    /// Events in requests that were answered with success.
    pub(crate) accepted: AtomicU64,
    /// Those of them that no subscription matched.
    pub(crate) unmatched: AtomicU64,
    /// Publish requests refused, by any reason.
    pub(crate) refused: AtomicU64,
}

/// All counters of the broker.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    topics: Mutex<BTreeMap<TopicNumber, Arc<TopicCounters>>>,
    pub(crate) publish_seconds: Histogram,
    pub(crate) attempt_seconds: Histogram,
    pub(crate) attempts_delivered: AtomicU64,
    pub(crate) attempts_failed: AtomicU64,
    pub(crate) received_events: AtomicU64,
    pub(crate) settled_tokens: AtomicU64,
    pub(crate) failed_tokens: AtomicU64,
    pub(crate) unauthorized: AtomicU64,
    pub(crate) letters_given_up: AtomicU64,
}

/// A name for a topic or subscription in a label: resource names hold nothing that needs escaping.
pub(crate) struct Named<'a> {
    pub(crate) topic: &'a str,
    pub(crate) subscription: &'a str,
}

impl Metrics {
    pub(crate) fn topic(&self, number: TopicNumber) -> Arc<TopicCounters> {
        let mut topics = self.topics.lock().expect("no panic while the map is held");
        Arc::clone(topics.entry(number).or_default())
    }

    /// Forgets the topics that `keep` refuses, so that the map follows the resources.
    pub(crate) fn retain_topics(&self, keep: impl Fn(TopicNumber) -> bool) {
        self.topics.lock().expect("no panic while the map is held").retain(|number, _| keep(*number));
    }

    /// The whole page. `topic_name` finds what to call a topic.
    pub(crate) fn render(
        &self,
        health: &LogHealth,
        queues: &[(QueueStatus, Named<'_>)],
        topic_name: impl Fn(TopicNumber) -> Option<String>,
    ) -> String {
        let mut page = Page::default();
        let topics: Vec<_> = {
            let map = self.topics.lock().expect("no panic while the map is held");
            map.iter()
                .filter_map(|(number, counters)| Some((topic_name(*number)?, Arc::clone(counters))))
                .collect()
        };
        for (name, help, pick) in PER_TOPIC {
            page.head(name, "counter", help);
            for (topic, counters) in &topics {
                page.line(&format!("{name}{{topic=\"{topic}\"}}"), load(pick(counters)));
            }
        }
        for (name, kind, help, figure) in PER_QUEUE {
            page.head(name, kind, help);
            for (status, Named { topic, subscription }) in queues {
                let series = format!("{name}{{topic=\"{topic}\",subscription=\"{subscription}\"}}");
                page.line(&series, figure(status) as f64);
            }
        }
        for (name, help, counter) in [
            (
                "gridwire_delivery_attempts_delivered_total",
                "Push attempts that were accepted.",
                &self.attempts_delivered,
            ),
            ("gridwire_delivery_attempts_failed_total", "Push attempts that failed.", &self.attempts_failed),
            ("gridwire_pull_events_received_total", "Events handed to receivers.", &self.received_events),
            ("gridwire_pull_tokens_settled_total", "Lock tokens settled or renewed.", &self.settled_tokens),
            ("gridwire_pull_tokens_failed_total", "Lock tokens refused.", &self.failed_tokens),
            (
                "gridwire_delivery_dead_letters_given_up_total",
                "Events dropped since the start because their dead-letter destination was down for too long.",
                &self.letters_given_up,
            ),
            ("gridwire_auth_refused_total", "Data plane requests answered 401.", &self.unauthorized),
        ] {
            page.head(name, "counter", help);
            page.line(name, load(counter));
        }
        for (name, kind, help, figure) in LOG {
            page.head(name, kind, help);
            page.line(name, figure(health));
        }
        for (name, help, histogram) in [
            (
                "gridwire_publish_seconds",
                "Time from a publish request's body to its answer.",
                &self.publish_seconds,
            ),
            ("gridwire_delivery_attempt_seconds", "Time of a push attempt.", &self.attempt_seconds),
        ] {
            page.head(name, "histogram", help);
            histogram.write(name, &mut page.0);
        }
        page.0
    }
}

/// Name, help, counter.
type PerTopic = (&'static str, &'static str, fn(&TopicCounters) -> &AtomicU64);
/// Name, kind, help, figure.
type PerQueue = (&'static str, &'static str, &'static str, fn(&QueueStatus) -> u64);
type OfLog = (&'static str, &'static str, &'static str, fn(&LogHealth) -> f64);

const PER_TOPIC: [PerTopic; 3] = [
    ("gridwire_publish_events_total", "Events accepted.", |topic| &topic.accepted),
    ("gridwire_publish_events_unmatched_total", "Events accepted that no subscription matched.", |topic| {
        &topic.unmatched
    }),
    ("gridwire_publish_requests_refused_total", "Publish requests refused.", |topic| &topic.refused),
];

const PER_QUEUE: [PerQueue; 8] = [
    ("gridwire_delivery_events_delivered_total", "counter", "Events delivered or acknowledged.", |queue| {
        queue.totals.delivered
    }),
    ("gridwire_delivery_events_dead_lettered_total", "counter", "Events dead-lettered.", |queue| {
        queue.totals.dead_lettered
    }),
    ("gridwire_delivery_events_expired_total", "counter", "Events whose time to live ended.", |queue| {
        queue.totals.expired
    }),
    (
        "gridwire_delivery_events_dropped_total",
        "counter",
        "Events given up without a dead letter.",
        |queue| queue.totals.dropped,
    ),
    (
        "gridwire_delivery_events_returned_total",
        "counter",
        "Failed, released and timed-out deliveries.",
        |queue| queue.totals.returned,
    ),
    (
        "gridwire_delivery_pending_events",
        "gauge",
        "Events known to wait, be locked or be in flight.",
        |queue| queue.pending as u64,
    ),
    (
        "gridwire_delivery_dead_letters_waiting",
        "gauge",
        "Events given up whose dead letter is not written yet.",
        |queue| queue.letters as u64,
    ),
    (
        "gridwire_delivery_lag_events",
        "gauge",
        "Events of the topic above the lowest unsettled one.",
        |queue| queue.end.0.saturating_sub(queue.floor.0),
    ),
];

const LOG: [OfLog; 19] = [
    ("gridwire_log_frames_total", "counter", "Frames appended since the start.", |log| {
        log.frames_total as f64
    }),
    ("gridwire_log_events_total", "counter", "Events appended since the start.", |log| {
        log.events_total as f64
    }),
    ("gridwire_log_bytes_total", "counter", "Bytes appended since the start.", |log| log.bytes_total as f64),
    ("gridwire_log_flushes_total", "counter", "Flushes of the event log.", |log| log.flushes as f64),
    ("gridwire_log_flush_seconds_total", "counter", "Time spent in flushes.", |log| log.flush_seconds_total),
    ("gridwire_log_queue_bytes", "gauge", "Bytes waiting to be appended.", |log| log.queue_bytes as f64),
    ("gridwire_log_segments", "gauge", "Segments of the event log.", |log| log.segments as f64),
    ("gridwire_log_spares", "gauge", "Spare segments ready for use.", |log| log.spares as f64),
    ("gridwire_log_disk_bytes", "gauge", "Bytes of the event log on disk.", |log| log.bytes_on_disk as f64),
    ("gridwire_log_durable_lsn", "gauge", "Frames up to here are durable.", |log| log.durable as f64),
    ("gridwire_log_failed", "gauge", "1 when the log has failed.", |log| f64::from(u8::from(log.failed))),
    ("gridwire_log_full", "gauge", "1 while publishing is refused for lack of space.", |log| {
        f64::from(u8::from(log.full))
    }),
    ("gridwire_log_damaged_frames_total", "counter", "Frames of the event log found damaged.", |log| {
        log.damaged_frames_total as f64
    }),
    ("gridwire_log_damaged_events_total", "counter", "Events lost in damaged frames.", |log| {
        log.damaged_events_total as f64
    }),
    (
        "gridwire_log_low_space",
        "gauge",
        "1 while the disk has too little space for two more segments.",
        |log| f64::from(u8::from(log.low_space)),
    ),
    ("gridwire_log_free_bytes", "gauge", "Bytes free where the log is.", |log| log.free_bytes as f64),
    ("gridwire_state_full", "gauge", "1 while nothing is settled or attempted for lack of space.", |log| {
        f64::from(u8::from(log.state_full))
    }),
    ("gridwire_state_groups_total", "counter", "Groups of decisions recorded.", |log| {
        log.state_groups_total as f64
    }),
    ("gridwire_state_bytes_total", "counter", "Bytes of decisions recorded.", |log| {
        log.state_bytes_total as f64
    }),
];

/// A page in the making. Writing to a `String` cannot fail.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, series: &str, value: f64) {
        let _ = writeln!(self.0, "{series} {value}");
    }
}

fn load(counter: &AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_what_was_counted() {
        let metrics = Metrics::default();
        metrics.topic(TopicNumber(1)).accepted.fetch_add(7, Ordering::Relaxed);
        metrics.publish_seconds.observe(Duration::from_millis(3));
        metrics.publish_seconds.observe(Duration::from_secs(60));
        let page = metrics.render(&LogHealth::default(), &[], |_| Some("orders".to_owned()));
        for line in [
            "gridwire_publish_events_total{topic=\"orders\"} 7",
            "gridwire_publish_seconds_bucket{le=\"0.002\"} 0",
            "gridwire_publish_seconds_bucket{le=\"0.005\"} 1",
            "gridwire_publish_seconds_bucket{le=\"+Inf\"} 2",
            "gridwire_publish_seconds_sum 60.003",
            "gridwire_log_full 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
        }
    }
}
