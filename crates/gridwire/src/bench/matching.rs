//! `match`: what it costs to find the subscriptions that get an event, without a server around it.
//!
//! A topic is given as many subscriptions as it may have, each with as many filter values as it may have, of
//! which every event matches four. Two kinds of filter are told apart: those that can only be tried one after
//! the other, value by value (prefixes, parts, ranges), made so that every clause but the last holds and in
//! every clause it is the last value that does; and those that a look-up by value can find (`StringIn`).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use gridwire_core::event::{Data, Event, InputSchema};
use gridwire_core::filter::{AdvancedFilter, FilterSpec, MatchSet, Matcher, Operator};
use gridwire_core::ids::Slot;
use gridwire_core::limits::{FILTER_VALUES_MAX, SUBSCRIPTIONS_PER_TOPIC_MAX};

use super::args::MatchArgs;
use super::load::Tally;
use super::progress::Progress;
use super::report::{Report, Series, Slice};
use super::stopwatch::Moment;

/// Subscriptions that get each event.
const MATCHES: usize = 4;
/// Event types in the case that has an aim, and that aim.
const TYPES: usize = 50;
const AIM_MICROSECONDS: u64 = 10;
/// Evaluations between two looks at the clock.
const EVALUATIONS_PER_LOOK: u64 = 200;
/// Bytes of data in front of the values that filters look at.
const PADDING: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filters {
    /// Tried value by value.
    Tried,
    /// Found by their value.
    LookedUp,
}

/// The `match` scenario.
pub(crate) async fn run(args: MatchArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("match");
    report.fact("subscriptions", SUBSCRIPTIONS_PER_TOPIC_MAX);
    report.fact("filter_values_per_subscription", FILTER_VALUES_MAX);
    report.fact("matches_per_event", MATCHES);
    report.fact("aim_microseconds_with_50_types", AIM_MICROSECONDS);
    let (progress, _shown) = Progress::start();
    for (name, types, filters) in [
        ("50 types, values tried", TYPES, Filters::Tried),
        ("50 types, values looked up", TYPES, Filters::LookedUp),
        ("1 type, values tried", 1, Filters::Tried),
        ("1 type, values looked up", 1, Filters::LookedUp),
    ] {
        progress.phase(name);
        let mut series = Series::new(name);
        for _ in 0..args.slices {
            let progress = Arc::clone(&progress);
            let evaluating = tokio::task::spawn_blocking(move || {
                Case::new(types, filters).evaluate_for(args.duration, &progress)
            });
            let tally = evaluating.await.context("the evaluating thread ended")??;
            // One thread that never waits: its time is processor time.
            let cpu = Some(tally.elapsed);
            series.push(Slice { tally, cpu });
        }
        report.series.push(series);
    }
    Ok(report)
}

struct Case {
    matcher: Matcher,
    /// One event of each type.
    events: Vec<Event<'static>>,
}

impl Case {
    fn new(types: usize, filters: Filters) -> Self {
        let specs: Vec<_> =
            (0..SUBSCRIPTIONS_PER_TOPIC_MAX).map(|index| spec(index, types, filters)).collect();
        let subscriptions: Vec<_> = (0..).map(Slot).zip(&specs).collect();
        Self {
            matcher: Matcher::compile(InputSchema::CloudEvent, &subscriptions),
            events: (0..types).map(event).collect(),
        }
    }

    fn evaluate_for(&self, duration: Duration, progress: &Progress) -> anyhow::Result<Tally> {
        let mut tally = Tally::new();
        let mut set = MatchSet::default();
        let mut events = self.events.iter().cycle();
        let start = Moment::now();
        while start.elapsed() < duration {
            for _ in 0..EVALUATIONS_PER_LOOK {
                let event = events.next().context("a case without events")?;
                self.matcher.matches(std::hint::black_box(event), &mut set);
                anyhow::ensure!(set.len() == MATCHES, "{} matches instead of {MATCHES}", set.len());
            }
            tally.events += EVALUATIONS_PER_LOOK;
            tally.requests += EVALUATIONS_PER_LOOK;
            progress.add(EVALUATIONS_PER_LOOK);
        }
        tally.elapsed = start.elapsed();
        Ok(tally)
    }
}

fn event_type(number: usize) -> String {
    format!("shop.order.kind-{number}")
}

fn event(number: usize) -> Event<'static> {
    let padding = "x".repeat(PADDING);
    let data =
        format!(r#"{{"padding":"{padding}","text":"the wanted words in it","number":42,"key":"wanted"}}"#);
    Event {
        schema: InputSchema::CloudEvent,
        id: "1".into(),
        event_type: event_type(number).into(),
        source: "/bench".into(),
        subject: Some("wanted/subject".into()),
        time: None,
        data_content_type: None,
        data_schema: None,
        extensions: Vec::new(),
        data: Data::Json(data.into()),
    }
}

/// The filter of the subscription `index`: the first few of each event type take the events of that type.
fn spec(index: usize, types: usize, filters: Filters) -> FilterSpec {
    let takes = index / types < MATCHES;
    let last = |value: &str| if takes { value.to_owned() } else { format!("un{value}") };
    // Told apart by subscription, so that no two lists are alike.
    let values = |count: usize, last: String| -> Vec<String> {
        (1..count).map(|value| format!("other-{index}-{value}")).chain([last]).collect()
    };
    let filter = |key: &str, operator| AdvancedFilter { key: key.to_owned(), operator };
    let advanced = match filters {
        Filters::Tried => {
            let mut ranges: Vec<_> =
                (1..5).map(|from| (f64::from(from) * 100.0, f64::from(from) * 110.0)).collect();
            ranges.push(if takes { (40.0, 44.0) } else { (50.0, 54.0) });
            vec![
                filter("subject", Operator::StringBeginsWith(values(10, "wanted/".to_owned()))),
                filter("data.text", Operator::StringContains(values(10, "wanted words".to_owned()))),
                filter("data.number", Operator::NumberInRange(ranges)),
            ]
        }
        Filters::LookedUp => {
            vec![filter("data.key", Operator::StringIn(values(FILTER_VALUES_MAX, last("wanted"))))]
        }
    };
    FilterSpec { event_types: Some(vec![event_type(index % types)]), advanced, ..FilterSpec::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_of_every_case_matches_four_subscriptions() {
        for (types, filters) in
            [(TYPES, Filters::Tried), (TYPES, Filters::LookedUp), (1, Filters::Tried), (1, Filters::LookedUp)]
        {
            let case = Case::new(types, filters);
            let mut set = MatchSet::default();
            for event in &case.events {
                case.matcher.matches(event, &mut set);
                assert_eq!(set.len(), MATCHES, "{types} {filters:?}");
            }
        }
    }

    #[test]
    fn every_filter_has_as_many_values_as_it_may() {
        for filters in [Filters::Tried, Filters::LookedUp] {
            let spec = spec(499, TYPES, filters);
            let values: usize = spec.advanced.iter().map(|filter| filter.operator.value_count()).sum();
            assert_eq!(values, FILTER_VALUES_MAX);
        }
    }
}
