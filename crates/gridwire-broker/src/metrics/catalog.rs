//! Every metric of the data plane: its name, what it means, where its figure comes from, and what the hosted
//! service calls it. `docs/metrics.md` is made from this.

use std::sync::atomic::{AtomicU64, Ordering};

use gridwire_core::api_error::ErrorCode;
use gridwire_core::endpoint::Rule;
use gridwire_core::pace::Pace;
use gridwire_core::shard::QueueStatus;
use gridwire_store::LogHealth;

use super::Metrics;
use super::counters::{
    DROPS, ERRORS, FAULTS, Histogram, OPERATIONS, OUTCOMES, REASONS, SubscriptionCounters, TOKEN_ERRORS,
    TopicCounters,
};

/// One metric with all its series.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    /// The labels' names, as they stand in the table.
    #[cfg_attr(not(test), expect(dead_code, reason = "only the documentation shows it, which a test makes"))]
    pub(super) labels: &'static str,
    pub(super) help: &'static str,
    /// The nearest metrics of the hosted service, or nothing.
    #[cfg_attr(not(test), expect(dead_code, reason = "only the documentation shows it, which a test makes"))]
    pub(super) hosted: &'static str,
}

const fn family(
    kind: &'static str,
    name: &'static str,
    labels: &'static str,
    help: &'static str,
    hosted: &'static str,
) -> Family {
    Family { name, kind, labels, help, hosted }
}

const fn counter(
    name: &'static str,
    labels: &'static str,
    help: &'static str,
    hosted: &'static str,
) -> Family {
    family("counter", name, labels, help, hosted)
}

/// The labels beside topic and subscription, written out (`reason="rejected"`), and the figure.
pub(super) type Series = Vec<(String, u64)>;

const TOPIC: &str = "topic";
const SUBSCRIPTION: &str = "topic, subscription";

/// The figure of a topic with so many events stored.
type PerTopic = (Family, fn(&TopicCounters, u64) -> Series);
type PerSubscription = (Family, fn(&SubscriptionCounters) -> Series);
type PerQueue = (Family, fn(&QueueStatus) -> u64);
type Global = (Family, fn(&Metrics) -> &AtomicU64);
type OfLog = (Family, fn(&LogHealth) -> f64);

pub(super) const PER_TOPIC: [PerTopic; 4] = [
    (
        counter(
            "gridwire_publish_events_total",
            TOPIC,
            "Events accepted since the topic was made, those put back by a redrive included: stored and unmatched.",
            "PublishSuccessCount, SuccessfulPublishedEvents",
        ),
        |topic, stored| plain(stored.saturating_add(topic.unmatched.get())),
    ),
    (
        counter(
            "gridwire_publish_events_stored_total",
            TOPIC,
            "Events accepted that at least one subscription matched, since the topic was made.",
            "",
        ),
        |_, stored| plain(stored),
    ),
    (
        counter(
            "gridwire_publish_events_unmatched_total",
            TOPIC,
            "Events accepted that no subscription matched, since the topic was made.",
            "UnmatchedEventCount, UnMatchedEvents",
        ),
        |topic, _| plain(topic.unmatched.get()),
    ),
    (
        counter(
            "gridwire_publish_requests_refused_total",
            "topic, error",
            "Publish requests refused, by error code.",
            "PublishFailCount, FailedPublishedEvents",
        ),
        |topic, _| {
            let names: [&str; ERRORS] = std::array::from_fn(|index| ErrorCode::ALL[index].as_str());
            topic.refused.counted(&names).map(|(error, count)| (label("error", error), count)).collect()
        },
    ),
];

pub(super) const PER_SUBSCRIPTION: [PerSubscription; 11] = [
    (
        counter(
            "gridwire_publish_events_matched_total",
            SUBSCRIPTION,
            "Events accepted that the subscription matched.",
            "MatchedEventCount, MatchedEvents",
        ),
        |counters| one(&counters.matched),
    ),
    (
        counter(
            "gridwire_delivery_attempts_delivered_total",
            SUBSCRIPTION,
            "Push attempts that were accepted; each event of a batch is one.",
            "DeliverySuccessCount",
        ),
        |counters| one(&counters.attempts_delivered),
    ),
    (
        counter(
            "gridwire_delivery_attempts_failed_total",
            "topic, subscription, outcome",
            "Push attempts that failed, by outcome; each event of a batch is one.",
            "DeliveryAttemptFailCount",
        ),
        |counters| by("outcome", counters.attempts_failed.counted(&OUTCOMES)),
    ),
    (
        counter(
            "gridwire_delivery_requests_total",
            SUBSCRIPTION,
            "Push requests that ended, however; with batching one carries several events.",
            "",
        ),
        |counters| one(&counters.requests),
    ),
    (
        counter(
            "gridwire_delivery_dead_letters_written_total",
            "topic, subscription, reason",
            "Dead letters written, by reason. A repeat after a crash counts again.",
            "DeadLetteredCount, SuccessfulDeadLetteredEvents",
        ),
        |counters| by("reason", counters.letters.counted(&REASONS)),
    ),
    (
        counter(
            "gridwire_delivery_dead_letters_failed_total",
            SUBSCRIPTION,
            "Failed tries to write a dead letter.",
            "FailedDeadLetteredEvents",
        ),
        |counters| one(&counters.letters_failed),
    ),
    (
        counter(
            "gridwire_delivery_drops_total",
            "topic, subscription, reason",
            "Events that ended without delivery and without a dead letter, by reason.",
            "DroppedEventCount, DroppedEvents",
        ),
        |counters| by("reason", counters.drops.counted(&DROPS)),
    ),
    (
        counter(
            "gridwire_pull_events_received_total",
            SUBSCRIPTION,
            "Events handed to receivers.",
            "SuccessfulReceivedEvents",
        ),
        |counters| one(&counters.received),
    ),
    (
        counter(
            "gridwire_pull_tokens_settled_total",
            "topic, subscription, operation",
            "Lock tokens acknowledged, released, rejected or renewed.",
            "SuccessfulAcknowledgedEvents, SuccessfulReleasedEvents",
        ),
        |counters| by("operation", counters.settled.counted(&OPERATIONS)),
    ),
    (
        counter(
            "gridwire_pull_tokens_failed_total",
            "topic, subscription, operation, error",
            "Lock tokens refused, by operation and error.",
            "FailedAcknowledgedEvents, FailedReleasedEvents",
        ),
        |counters| {
            let all = OPERATIONS.iter().zip(&counters.tokens_failed);
            by_operation(all.flat_map(|(operation, failed)| {
                failed.counted(&TOKEN_ERRORS).map(move |(error, count)| (*operation, error, count))
            }))
        },
    ),
    (
        counter(
            "gridwire_pull_requests_refused_total",
            "topic, subscription, operation, error",
            "Pull requests refused as a whole: for the client's fault (4xx) or the service's (5xx).",
            "FailedReceivedEvents",
        ),
        |counters| {
            let all = OPERATIONS.iter().zip(&counters.requests_failed);
            by_operation(all.flat_map(|(operation, failed)| {
                failed.counted(&FAULTS).map(move |(error, count)| (*operation, error, count))
            }))
        },
    ),
];

pub(super) const PER_QUEUE: [PerQueue; 12] = [
    (
        counter(
            "gridwire_delivery_events_delivered_total",
            SUBSCRIPTION,
            "Events delivered or acknowledged, since the subscription was created.",
            "DeliverySuccessCount, SuccessfulAcknowledgedEvents",
        ),
        |queue| queue.totals.delivered,
    ),
    (
        counter(
            "gridwire_delivery_events_dead_lettered_total",
            SUBSCRIPTION,
            "Events dead-lettered, since the subscription was created.",
            "DeadLetteredCount, DeadLetteredEvents",
        ),
        |queue| queue.totals.dead_lettered,
    ),
    (
        counter(
            "gridwire_delivery_events_expired_total",
            SUBSCRIPTION,
            "Events whose time to live ended without a dead letter, since the subscription was created.",
            "DroppedEventCount, DroppedEvents",
        ),
        |queue| queue.totals.expired,
    ),
    (
        counter(
            "gridwire_delivery_events_dropped_total",
            SUBSCRIPTION,
            "Events given up otherwise without a dead letter, since the subscription was created.",
            "DroppedEventCount, DroppedEvents",
        ),
        |queue| queue.totals.dropped,
    ),
    (
        counter(
            "gridwire_delivery_events_returned_total",
            SUBSCRIPTION,
            "Failed, released, timed-out and recalled deliveries, since the subscription was created.",
            "",
        ),
        |queue| queue.totals.returned,
    ),
    (
        family(
            "gauge",
            "gridwire_delivery_pending_events",
            SUBSCRIPTION,
            "Events that wait, are locked or in flight: matched and not ended. While they are counted, after a start or \
             when events turned out to be damaged, those that are known.",
            "",
        ),
        |queue| queue.pending,
    ),
    (
        family(
            "gauge",
            "gridwire_delivery_dead_letters_waiting",
            SUBSCRIPTION,
            "Events given up whose dead letter is not written yet.",
            "",
        ),
        |queue| queue.letters as u64,
    ),
    (
        family(
            "gauge",
            "gridwire_delivery_lag_events",
            SUBSCRIPTION,
            "Events of the topic above the lowest unsettled one.",
            "",
        ),
        |queue| queue.end.0.saturating_sub(queue.floor.0),
    ),
    (
        family(
            "gauge",
            "gridwire_delivery_endpoint_probation",
            SUBSCRIPTION,
            "1 while nothing is sent to the endpoint, because it failed ten times in a row.",
            "",
        ),
        |queue| u64::from(queue.endpoint.is_some_and(|endpoint| matches!(endpoint.rule, Rule::Probation(_)))),
    ),
    (
        family(
            "gauge",
            "gridwire_delivery_endpoint_requests_max",
            SUBSCRIPTION,
            "Requests to the endpoint at once, fewer while it is congested; 0 for pull delivery.",
            "",
        ),
        |queue| queue.endpoint.map_or(0, |endpoint| endpoint.requests_max.into()),
    ),
    (
        family(
            "gauge",
            "gridwire_delivery_endpoint_paused",
            SUBSCRIPTION,
            "1 while nothing is sent to the endpoint, because the operator paused it, it has not consented, or it allows a rate of 0.",
            "",
        ),
        |queue| u64::from(queue.endpoint.is_some_and(|endpoint| matches!(endpoint.rule, Rule::Paused(_)))),
    ),
    (
        family(
            "gauge",
            "gridwire_delivery_endpoint_requests_per_minute_max",
            SUBSCRIPTION,
            "Requests a minute by the operator's cap or the rate that the endpoint allows, whichever is lower; 0 without either, and while it is paused.",
            "",
        ),
        |queue| match queue.endpoint.map(|endpoint| endpoint.pacing.pace) {
            Some(Pace::PerMinute(rate)) => rate.get().into(),
            Some(Pace::Free | Pace::Paused) | None => 0,
        },
    ),
];

/// Of a queue that has counted. Shown while it counts, a sum that begins too low would look like a reset.
pub(super) const MATCHED: (Family, fn(&QueueStatus) -> Option<u64>) = (
    counter(
        "gridwire_delivery_events_matched_total",
        SUBSCRIPTION,
        "Events that matched, since the subscription was created: those delivered, dead-lettered, expired, dropped and \
         pending. Not shown while they are counted, after a start or when events turned out to be damaged.",
        "MatchedEventCount, MatchedEvents",
    ),
    |queue| queue.matched,
);

pub(super) const GLOBAL: [Global; 6] = [
    (
        counter(
            "gridwire_auth_blocked_total",
            "",
            "Data plane requests answered 429 because of too many wrong credentials from their address.",
            "PublishFailCount",
        ),
        |metrics| &metrics.auth_blocked,
    ),
    (
        counter("gridwire_auth_refused_total", "", "Data plane requests answered 401.", "PublishFailCount"),
        |metrics| &metrics.unauthorized,
    ),
    (
        counter(
            "gridwire_delivery_dead_letters_given_up_total",
            "",
            "Events dropped since the start because their dead-letter destination was down for too long.",
            "FailedDeadLetteredEvents",
        ),
        |metrics| &metrics.letters_given_up,
    ),
    (
        counter(
            "gridwire_dead_letters_redriven_total",
            "",
            "Dead letters whose events were put back into their subscription's queue.",
            "",
        ),
        |metrics| &metrics.dead_letters_redriven,
    ),
    (counter("gridwire_dead_letters_purged_total", "", "Dead letters removed.", ""), |metrics| {
        &metrics.dead_letters_purged
    }),
    (
        gauge("gridwire_dead_letter_jobs_running", "Redrives and purges of dead letters under way."),
        |metrics| &metrics.dead_letter_jobs,
    ),
];

/// The histograms of one family, each with its labels written out.
pub(super) type Histograms = fn(&Metrics) -> Vec<(String, &Histogram)>;

pub(super) const LATENCIES: [(Family, Histograms); 3] = [
    (
        family(
            "histogram",
            "gridwire_publish_seconds",
            "",
            "Time from a publish request's body to its answer.",
            "PublishSuccessLatencyInMs, PublishLatencyInMilliseconds",
        ),
        |metrics| vec![(String::new(), &metrics.publish_seconds)],
    ),
    (
        family(
            "histogram",
            "gridwire_delivery_attempt_seconds",
            "",
            "Time of a push attempt.",
            "DestinationProcessingDurationInMs",
        ),
        |metrics| vec![(String::new(), &metrics.attempt_seconds)],
    ),
    (
        family(
            "histogram",
            "gridwire_pull_request_seconds",
            "operation",
            "Time from a pull request's head to its answer; that of receive includes its wait for events.",
            "ReceiveLatencyInMilliseconds, AcknowledgeLatencyInMilliseconds, ReleaseLatencyInMilliseconds, \
             RejectLatencyInMilliseconds",
        ),
        |metrics| {
            let each = OPERATIONS.iter().zip(&metrics.pull_seconds);
            each.map(|(operation, histogram)| (label("operation", operation), histogram)).collect()
        },
    ),
];

const fn log_counter(name: &'static str, help: &'static str) -> Family {
    counter(name, "", help, "")
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    family("gauge", name, "", help, "")
}

pub(super) const LOG: [OfLog; 19] = [
    (log_counter("gridwire_log_frames_total", "Frames appended since the start."), |log| {
        log.frames_total as f64
    }),
    (log_counter("gridwire_log_events_total", "Events appended since the start."), |log| {
        log.events_total as f64
    }),
    (log_counter("gridwire_log_bytes_total", "Bytes appended since the start."), |log| {
        log.bytes_total as f64
    }),
    (log_counter("gridwire_log_flushes_total", "Flushes of the event log."), |log| log.flushes as f64),
    (log_counter("gridwire_log_flush_seconds_total", "Time spent in flushes."), |log| {
        log.flush_seconds_total
    }),
    (gauge("gridwire_log_queue_bytes", "Bytes waiting to be appended."), |log| log.queue_bytes as f64),
    (gauge("gridwire_log_segments", "Segments of the event log."), |log| log.segments as f64),
    (gauge("gridwire_log_spares", "Spare segments ready for use."), |log| log.spares as f64),
    (gauge("gridwire_log_disk_bytes", "Bytes of the event log on disk."), |log| log.bytes_on_disk as f64),
    (gauge("gridwire_log_durable_lsn", "Frames up to here are durable."), |log| log.durable as f64),
    (gauge("gridwire_log_failed", "1 when the log has failed."), |log| f64::from(u8::from(log.failed))),
    (gauge("gridwire_log_full", "1 while publishing is refused for lack of space."), |log| {
        f64::from(u8::from(log.full))
    }),
    (log_counter("gridwire_log_damaged_frames_total", "Frames of the event log found damaged."), |log| {
        log.damaged_frames_total as f64
    }),
    (log_counter("gridwire_log_damaged_events_total", "Events lost in damaged frames."), |log| {
        log.damaged_events_total as f64
    }),
    (
        gauge("gridwire_log_low_space", "1 while the disk has too little space for two more segments."),
        |log| f64::from(u8::from(log.low_space)),
    ),
    (gauge("gridwire_log_free_bytes", "Bytes free where the log is."), |log| log.free_bytes as f64),
    (gauge("gridwire_state_full", "1 while nothing is settled or attempted for lack of space."), |log| {
        f64::from(u8::from(log.state_full))
    }),
    (log_counter("gridwire_state_groups_total", "Groups of decisions recorded."), |log| {
        log.state_groups_total as f64
    }),
    (log_counter("gridwire_state_bytes_total", "Bytes of decisions recorded."), |log| {
        log.state_bytes_total as f64
    }),
];

fn one(counter: &AtomicU64) -> Series {
    plain(counter.load(Ordering::Relaxed))
}

fn plain(value: u64) -> Series {
    vec![(String::new(), value)]
}

/// A label as it stands in a series. Values come from closed sets and need no escaping.
fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{value}\"")
}

fn by<'a>(name: &str, counted: impl Iterator<Item = (&'a str, u64)>) -> Series {
    counted.map(|(value, count)| (label(name, value), count)).collect()
}

fn by_operation<'a>(counted: impl Iterator<Item = (&'a str, &'a str, u64)>) -> Series {
    counted
        .map(|(operation, error, count)| {
            (format!("{},{}", label("operation", operation), label("error", error)), count)
        })
        .collect()
}

/// Every family, in the order of the page.
#[cfg(test)]
pub(super) fn all() -> Vec<Family> {
    let mut all: Vec<Family> = PER_TOPIC.iter().map(|(family, _)| *family).collect();
    all.extend(PER_SUBSCRIPTION.iter().map(|(family, _)| *family));
    all.extend(PER_QUEUE.iter().map(|(family, _)| *family));
    all.push(MATCHED.0);
    all.extend(GLOBAL.iter().map(|(family, _)| *family));
    all.extend(LOG.iter().map(|(family, _)| *family));
    all.extend(LATENCIES.iter().map(|(family, _)| *family));
    all
}
