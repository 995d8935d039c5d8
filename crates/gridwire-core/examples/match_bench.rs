//! How long one event takes to match against 500 subscriptions with 25 filter values each.
//!
//! `cargo run --release -p gridwire-core --example match_bench`. The aim is 10 us or less with 50 event types and
//! 4 matches. The other figures show what a less kind set of filters costs.

#![allow(clippy::disallowed_methods, reason = "it measures real time, and is not part of the program")]
#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

use gridwire_core::event::{Data, Event, InputSchema};
use gridwire_core::filter::{AdvancedFilter, FilterSpec, MatchSet, Matcher, Operator};
use gridwire_core::ids::Slot;

const SUBSCRIPTIONS: u32 = 500;
const VALUES: u32 = 25;
const MATCHES: u32 = 4;
const ROUNDS: u32 = 20_000;

/// What a benchmark asks of each subscription's one or 25 advanced filters.
type Filters = fn(wanted: bool, subscription: u32) -> Vec<AdvancedFilter>;

fn main() {
    let types = |count: u32| move |subscription: u32| format!("Shop.Orders.Type{}", subscription % count);
    measure("one StringIn of 25, 50 types", types(50), one_of);
    measure("one StringIn of 25, 1 type", types(1), one_of);
    measure("25 filters on 25 keys, 50 types", types(50), many_keys);
    measure("25 filters on 25 keys, 1 type", types(1), many_keys);
    measure("one StringContains of 25, 50 types", types(50), contains);
    measure("one StringContains of 25, 1 type", types(1), contains);
    measure("one StringBeginsWith of 25, 50 types", types(50), begins);
    measure("one StringBeginsWith of 25, 1 type", types(1), begins);
}

fn measure(name: &str, event_type: impl Fn(u32) -> String, filters: Filters) {
    // Subscriptions 0, 100, 200 and 300 have the event's type in each benchmark, and want the event.
    let specs: Vec<FilterSpec> = (0..SUBSCRIPTIONS)
        .map(|subscription| FilterSpec {
            event_types: Some(vec![event_type(subscription)]),
            advanced: filters(subscription % 100 == 0 && subscription / 100 < MATCHES, subscription),
            ..FilterSpec::default()
        })
        .collect();
    let subscriptions: Vec<_> = (0..).map(Slot).zip(&specs).collect();
    let start = Instant::now();
    let matcher = Matcher::compile(InputSchema::CloudEvent, &subscriptions);
    let compiled = start.elapsed();

    let data = data();
    let event = event(&data);
    let mut set = MatchSet::default();
    matcher.matches(&event, &mut set);
    assert_eq!(set.len(), MATCHES as usize, "{name}");
    let best = (0..5)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..ROUNDS / 5 {
                matcher.matches(black_box(&event), &mut set);
            }
            start.elapsed() / (ROUNDS / 5)
        })
        .min()
        .expect("five rounds");
    println!("{name:<40} {:>8.2} us   (compiled in {compiled:?})", best.as_secs_f64() * 1e6);
}

/// An object of about 1 KiB with 25 members that filters use, and one that they don't.
fn data() -> String {
    let mut json = String::from("{\"customer\": {\"name\": \"Adele Vance\", \"tags\": [1, 2, 3]}");
    for index in 0..VALUES {
        write!(json, ", \"key{index}\": \"The value of member {index}\"").expect("a string takes any text");
    }
    json.push('}');
    json
}

fn event(data: &str) -> Event<'_> {
    Event {
        schema: InputSchema::CloudEvent,
        id: "7e0c1f9a".into(),
        event_type: "Shop.Orders.Type0".into(),
        source: "/shops/17".into(),
        subject: Some("orders/4711".into()),
        time: Some("2026-11-22T20:00:00Z".into()),
        data_content_type: Some("application/json".into()),
        data_schema: None,
        extensions: Vec::new(),
        data: Data::Json(data.into()),
    }
}

fn strings(wanted: bool, subscription: u32, fitting: &str) -> Vec<String> {
    let mut values: Vec<_> = (1..VALUES).map(|index| format!("Other {subscription} of {index}")).collect();
    values.push(if wanted { fitting.to_owned() } else { "The other".to_owned() });
    values
}

fn one(operator: Operator) -> Vec<AdvancedFilter> {
    vec![AdvancedFilter { key: "data.key7".to_owned(), operator }]
}

fn one_of(wanted: bool, subscription: u32) -> Vec<AdvancedFilter> {
    one(Operator::StringIn(strings(wanted, subscription, "the VALUE of member 7")))
}

fn contains(wanted: bool, subscription: u32) -> Vec<AdvancedFilter> {
    one(Operator::StringContains(strings(wanted, subscription, "OF member")))
}

fn begins(wanted: bool, subscription: u32) -> Vec<AdvancedFilter> {
    one(Operator::StringBeginsWith(strings(wanted, subscription, "the VALUE")))
}

/// Filters that all hold, but for the last one of a subscription that does not want the event.
fn many_keys(wanted: bool, _: u32) -> Vec<AdvancedFilter> {
    (0..VALUES)
        .map(|index| {
            let text = if wanted || index + 1 < VALUES { "MEMBER" } else { "nothing" };
            let operator = match index % 3 {
                0 => Operator::StringContains(vec![text.to_owned()]),
                1 => Operator::StringNotEndsWith(vec!["something".to_owned()]),
                _ => Operator::StringBeginsWith(vec!["the value".to_owned()]),
            };
            AdvancedFilter { key: format!("data.key{index}"), operator }
        })
        .collect()
}
