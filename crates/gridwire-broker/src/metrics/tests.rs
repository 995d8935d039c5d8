//! What stands on the page, and that `docs/metrics.md` says the same.

use std::fs;
use std::path::Path;

use gridwire_core::api_error::ErrorCode;
use gridwire_core::filter::MatchSet;
use gridwire_core::ids::{Offset, Slot};
use gridwire_core::retry::Outcome;
use gridwire_core::shard::{DeadLetterReason, Settlement, TokenError, Totals};

use super::*;

const TOPIC: TopicNumber = TopicNumber(1);
const ONE: SubscriptionNumber = SubscriptionNumber(10);

/// With a topic and one subscription of it, in slot 2.
fn metrics() -> (Metrics, Arc<TopicCounters>, Arc<SubscriptionCounters>) {
    let metrics = Metrics::default();
    let (topic, one) = (Arc::<TopicCounters>::default(), Arc::<SubscriptionCounters>::default());
    let mut slots = Slots::default();
    slots.set(Slot(2), Some(Arc::clone(&one)));
    topic.slots.store(Arc::new(slots));
    let mut of = metrics.of.write().unwrap();
    of.topics.insert(TOPIC, Arc::clone(&topic));
    of.subscriptions.insert(ONE, Arc::clone(&one));
    drop(of);
    (metrics, topic, one)
}

const NAMED: Named<'static> = Named { topic: "orders", subscription: "audit" };

fn page(metrics: &Metrics) -> String {
    metrics.render(&LogHealth::default(), &[], |_| 4, |_| Some("orders"), |_| Some(NAMED))
}

#[track_caller]
fn check(page: &str, lines: &[&str]) {
    for line in lines {
        assert!(page.lines().any(|found| found == *line), "{line} is missing in\n{page}");
    }
}

#[test]
fn the_page_holds_what_was_counted() {
    let (metrics, topic, _) = metrics();
    topic.unmatched.add(3);
    topic.refuse(ErrorCode::InvalidEvent);
    metrics.publish_seconds.observe(Duration::from_millis(3));
    metrics.publish_seconds.observe(Duration::from_secs(60));
    metrics.pulled(PullOperation::Release, Duration::from_millis(3));
    check(
        &page(&metrics),
        &[
            "gridwire_publish_events_total{topic=\"orders\"} 7",
            "gridwire_publish_events_stored_total{topic=\"orders\"} 4",
            "gridwire_publish_events_unmatched_total{topic=\"orders\"} 3",
            "gridwire_publish_requests_refused_total{topic=\"orders\",error=\"invalid_event\"} 1",
            "gridwire_publish_seconds_bucket{le=\"0.002\"} 0",
            "gridwire_publish_seconds_bucket{le=\"0.005\"} 1",
            "gridwire_publish_seconds_bucket{le=\"+Inf\"} 2",
            "gridwire_publish_seconds_sum 60.003",
            "gridwire_pull_request_seconds_bucket{operation=\"release\",le=\"0.005\"} 1",
            "gridwire_pull_request_seconds_count{operation=\"reject\"} 0",
            "gridwire_log_full 0",
        ],
    );
}

#[test]
fn a_subscription_has_its_own_figures() {
    let (metrics, topic, one) = metrics();
    let mut matched = MatchSet::default();
    matched.push(Slot(2));
    matched.push(Slot(9)); // Not known yet.
    let mut tally = topic.tally();
    tally.add(&matched);
    tally.add(&matched);
    assert!(
        page(&metrics)
            .contains("gridwire_publish_events_matched_total{topic=\"orders\",subscription=\"audit\"} 0")
    );
    tally.count();
    metrics.subscription(ONE).attempted(Outcome::Accepted, 2);
    one.attempted(Outcome::Answered { status: 503, retry_after: None }, 1);
    one.letter(DeadLetterReason::TimeToLive, true);
    one.letter(DeadLetterReason::TimeToLive, false);
    one.ended(Settlement::Dropped(DeadLetterReason::Rejected), 3);
    one.ended(Settlement::Delivered, 3);
    one.ended(Settlement::Damaged, 1);
    one.received(4);
    one.settled(PullOperation::Acknowledge, 2);
    one.token_failed(PullOperation::Reject, None);
    one.token_failed(PullOperation::RenewLock, Some(TokenError::RenewedTooLong));
    one.request_failed(PullOperation::Receive, 400);
    one.request_failed(PullOperation::Receive, 503);
    let labels = "topic=\"orders\",subscription=\"audit\"";
    let expected = [
        ("publish_events_matched_total", "", 2),
        ("delivery_attempts_delivered_total", "", 2),
        ("delivery_requests_total", "", 2),
        ("delivery_attempts_failed_total", ",outcome=\"Busy\"", 1),
        ("delivery_dead_letters_written_total", ",reason=\"time_to_live\"", 1),
        ("delivery_dead_letters_failed_total", "", 1),
        ("delivery_drops_total", ",reason=\"rejected\"", 3),
        ("delivery_drops_total", ",reason=\"damaged\"", 1),
        ("pull_events_received_total", "", 4),
        ("pull_tokens_settled_total", ",operation=\"acknowledge\"", 2),
        ("pull_tokens_failed_total", ",operation=\"reject\",error=\"bad_token\"", 1),
        ("pull_tokens_failed_total", ",operation=\"renew_lock\",error=\"renewed_too_long\"", 1),
        ("pull_requests_refused_total", ",operation=\"receive\",error=\"client\"", 1),
        ("pull_requests_refused_total", ",operation=\"receive\",error=\"service\"", 1),
    ]
    .map(|(name, more, value)| format!("gridwire_{name}{{{labels}{more}}} {value}"));
    let page = page(&metrics);
    check(&page, &expected.each_ref().map(String::as_str));
    assert_eq!(page.matches("gridwire_delivery_drops_total{").count(), 2, "only what was counted:\n{page}");
}

#[test]
fn what_is_beyond_the_bound_is_summed_up_as_other() {
    let names: Vec<String> = (0..5).map(|number| format!("s{number}")).collect();
    let mut page = Page(String::new(), 3);
    let (family, _) = &PER_SUBSCRIPTION[0];
    let series = names.iter().enumerate().map(|(index, name)| {
        (Owner::Subscription(Named { topic: "t", subscription: name }), String::new(), index as u64)
    });
    page.series(family, series);
    let lines: Vec<&str> = page.0.lines().skip(2).collect();
    let of =
        |topic, name, value| format!("{}{{topic=\"{topic}\",subscription=\"{name}\"}} {value}", family.name);
    assert_eq!(lines, [of("t", "s0", 0), of("t", "s1", 1), of("t", "s2", 2), of("other", "other", 7)]);
}

/// A queue with three events delivered and one dead letter waiting.
fn queue(floor: u64) -> QueueStatus {
    QueueStatus {
        subscription: ONE,
        topic: TOPIC,
        floor: Offset(floor),
        end: Offset(9),
        letters: 1,
        matched: Some(7),
        pending: 4,
        held: 4,
        behind: false,
        endpoint: None,
        totals: Totals { delivered: 3, ..Totals::default() },
    }
}

#[test]
fn queues_of_one_name_are_one_and_lag_as_the_last_of_them() {
    let other = Named { topic: "orders", subscription: "billing" };
    let all = merged([(queue(9), NAMED), (queue(5), NAMED), (queue(8), other)].into_iter());
    let figures: Vec<_> = all
        .iter()
        .map(|(sum, named)| {
            (named.subscription, sum.totals.delivered, sum.pending, sum.letters, sum.end.0 - sum.floor.0)
        })
        .collect();
    assert_eq!(figures, [("audit", 6, 8, 2, 4), ("billing", 3, 4, 1, 1)]);
}

#[test]
fn figures_with_the_same_labels_are_one_series() {
    let (metrics, _, one) = metrics();
    one.received(4);
    let two = Arc::<SubscriptionCounters>::default();
    two.received(3);
    metrics.of.write().unwrap().subscriptions.insert(SubscriptionNumber(11), two);
    let page = page(&metrics);
    let lines: Vec<_> =
        page.lines().filter(|line| line.starts_with("gridwire_pull_events_received_total{")).collect();
    assert_eq!(lines, ["gridwire_pull_events_received_total{topic=\"orders\",subscription=\"audit\"} 7"]);
}

#[test]
fn a_queues_figures_come_from_its_status() {
    let status = queue(5);
    let page =
        Metrics::default().render(&LogHealth::default(), &[(status, NAMED)], |_| 0, |_| None, |_| None);
    let labels = "topic=\"orders\",subscription=\"audit\"";
    check(
        &page,
        &[
            &format!("gridwire_delivery_events_delivered_total{{{labels}}} 3"),
            &format!("gridwire_delivery_lag_events{{{labels}}} 4"),
        ],
    );
}

/// The table of `docs/metrics.md`.
fn table() -> String {
    let mut table = "| metric | kind | labels | what it says | nearest in the hosted service |\n\
                     | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for Family { name, kind, labels, help, hosted } in catalog::all() {
        let _ = writeln!(table, "| `{name}` | {kind} | {labels} | {help} | {hosted} |");
    }
    table
}

/// `GRIDWIRE_WRITE_DOCS=1 cargo test -p gridwire-broker the_documented` writes the table anew.
#[test]
fn the_documented_metrics_are_those_of_the_page() {
    const BEGIN: &str = "<!-- The table is made from the code; a test compares. -->\n";
    const END: &str = "<!-- End of the table. -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let text = fs::read_to_string(&path).expect("the page is there");
    let (before, rest) = text.split_once(BEGIN).expect("the table begins");
    let (found, after) = rest.split_once(END).expect("the table ends");
    let table = table();
    if std::env::var_os("GRIDWIRE_WRITE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).expect("it is written");
        return;
    }
    assert_eq!(found, table, "docs/metrics.md is not what the code says; write it anew");
    // And the page has no family that the table lacks.
    let page = page(&metrics().0);
    let shown: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
    let listed: Vec<&str> = catalog::all().iter().map(|family| family.name).collect();
    assert_eq!(shown, listed);
    for name in listed {
        assert!(name.starts_with("gridwire_"), "{name}");
    }
}
