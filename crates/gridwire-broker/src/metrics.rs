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

    /// The whole page. `name` finds what to call a topic or a subscription.
    pub(crate) fn render(
        &self,
        health: &LogHealth,
        queues: &[(QueueStatus, Named<'_>)],
        topic_name: impl Fn(TopicNumber) -> Option<String>,
    ) -> String {
        let mut out = String::new();
        let mut head = |name: &str, kind: &str, help: &str, out: &mut String| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        let topics: Vec<_> = {
            let map = self.topics.lock().expect("no panic while the map is held");
            map.iter().map(|(number, counters)| (*number, Arc::clone(counters))).collect()
        };
        type Pick = fn(&TopicCounters) -> &AtomicU64;
        let per_topic: [(&str, &str, Pick); 3] = [
            ("gridwire_publish_events_total", "Events accepted.", |topic| &topic.accepted),
            ("gridwire_publish_events_unmatched_total", "Events accepted that no subscription matched.", |topic| {
                &topic.unmatched
            }),
            ("gridwire_publish_requests_refused_total", "Publish requests refused.", |topic| &topic.refused),
        ];
        for (name, help, pick) in per_topic {
            head(name, "counter", help, &mut out);
            for (number, counters) in &topics {
                let Some(topic) = topic_name(*number) else { continue };
                let _ = writeln!(out, "{name}{{topic=\"{topic}\"}} {}", pick(counters).load(Ordering::Relaxed));
            }
        }
        type Count = fn(&QueueStatus) -> u64;
        let per_queue: [(&str, &str, &str, Count); 7] = [
            ("gridwire_delivery_events_delivered_total", "counter", "Events delivered or acknowledged.", |queue| {
                queue.totals.delivered
            }),
            ("gridwire_delivery_events_dead_lettered_total", "counter", "Events dead-lettered.", |queue| {
                queue.totals.dead_lettered
            }),
            ("gridwire_delivery_events_expired_total", "counter", "Events whose time to live ended.", |queue| {
                queue.totals.expired
            }),
            ("gridwire_delivery_events_dropped_total", "counter", "Events given up without a dead letter.", |queue| {
                queue.totals.dropped
            }),
            (
                "gridwire_delivery_events_returned_total",
                "counter",
                "Deliveries that failed, were released, or whose lock ran out.",
                |queue| queue.totals.returned,
            ),
            ("gridwire_delivery_pending_events", "gauge", "Events known to wait, be locked or be in flight.", |queue| {
                queue.pending as u64
            }),
            ("gridwire_delivery_lag_events", "gauge", "Events of the topic above the lowest unsettled one.", |queue| {
                queue.end.0.saturating_sub(queue.floor.0)
            }),
        ];
        for (name, kind, help, count) in per_queue {
            head(name, kind, help, &mut out);
            for (status, named) in queues {
                let Named { topic, subscription } = named;
                let value = count(status);
                let _ = writeln!(out, "{name}{{topic=\"{topic}\",subscription=\"{subscription}\"}} {value}");
            }
        }
        let plain: [(&str, &str, &str, f64); 20] = [
            ("gridwire_delivery_attempts_delivered_total", "counter", "Push attempts that were accepted.", count(&self.attempts_delivered)),
            ("gridwire_delivery_attempts_failed_total", "counter", "Push attempts that failed.", count(&self.attempts_failed)),
            ("gridwire_pull_events_received_total", "counter", "Events handed to receivers.", count(&self.received_events)),
            ("gridwire_pull_tokens_settled_total", "counter", "Lock tokens acknowledged, released, rejected or renewed.", count(&self.settled_tokens)),
            ("gridwire_pull_tokens_failed_total", "counter", "Lock tokens refused.", count(&self.failed_tokens)),
            ("gridwire_auth_refused_total", "counter", "Data plane requests answered 401.", count(&self.unauthorized)),
            ("gridwire_log_frames_total", "counter", "Frames appended since the start.", health.frames_total as f64),
            ("gridwire_log_events_total", "counter", "Events appended since the start.", health.events_total as f64),
            ("gridwire_log_bytes_total", "counter", "Bytes appended since the start.", health.bytes_total as f64),
            ("gridwire_log_flushes_total", "counter", "Flushes of the event log.", health.flushes as f64),
            ("gridwire_log_flush_seconds_total", "counter", "Time spent in flushes of the event log.", health.flush_seconds_total),
            ("gridwire_log_queue_bytes", "gauge", "Bytes waiting to be appended.", health.queue_bytes as f64),
            ("gridwire_log_segments", "gauge", "Segments of the event log.", health.segments as f64),
            ("gridwire_log_spares", "gauge", "Spare segments ready for use.", health.spares as f64),
            ("gridwire_log_disk_bytes", "gauge", "Bytes of the event log on disk.", health.bytes_on_disk as f64),
            ("gridwire_log_durable_lsn", "gauge", "Frames up to here are durable.", health.durable as f64),
            ("gridwire_log_failed", "gauge", "1 when the log has failed.", f64::from(u8::from(health.failed))),
            ("gridwire_log_full", "gauge", "1 while publishing is refused for lack of space.", f64::from(u8::from(health.full))),
            ("gridwire_state_groups_total", "counter", "Groups of decisions recorded since the start.", health.state_groups_total as f64),
            ("gridwire_state_bytes_total", "counter", "Bytes of decisions recorded since the start.", health.state_bytes_total as f64),
        ];
        for (name, kind, help, value) in plain {
            head(name, kind, help, &mut out);
            let _ = writeln!(out, "{name} {value}");
        }
        let histograms = [
            ("gridwire_publish_seconds", "Time from a publish request's body to its answer.", &self.publish_seconds),
            ("gridwire_delivery_attempt_seconds", "Time of a push attempt.", &self.attempt_seconds),
        ];
        for (name, help, histogram) in histograms {
            head(name, "histogram", help, &mut out);
            histogram.write(name, &mut out);
        }
        out
    }
}

fn count(counter: &AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64
}
