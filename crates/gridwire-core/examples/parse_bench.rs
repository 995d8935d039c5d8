//! How long it takes to parse one 1 KiB event in a batch of 100, in each schema.
//!
//! `cargo run --release -p gridwire-core --example parse_bench`

#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time, and nothing simulates it")]

use std::hint::black_box;
use std::time::Instant;

use gridwire_core::event::InputSchema;
use gridwire_core::publish::{PublishRequest, parse};
use gridwire_core::routing::TopicKind;
use gridwire_core::time::Timestamp;

const EVENTS: usize = 100;
const ROUNDS: usize = 2_000;
const REPEATS: usize = 5;

/// An order with as many lines as fill the event up to about 1 KiB.
fn data(envelope: usize) -> String {
    let mut lines = String::new();
    while envelope + lines.len() < 900 {
        lines += r#"{"sku":"A-1001","title":"Blue jug, 1 l","quantity":2,"price":12.5},"#;
    }
    format!(r#"{{"customer":"Zoë \"Z\" Hart","lines":[{}]}}"#, lines.trim_end_matches(','))
}

fn batch(envelope: &str) -> String {
    let event = format!(r#"{{{envelope},"data":{}}}"#, data(envelope.len()));
    format!("[{}]", vec![event; EVENTS].join(","))
}

fn main() {
    let cloud = batch(
        r#""specversion":"1.0","id":"2c8f1b9e-5d1c-4f0e-9b58-0d7f5a0b6a11","source":"/shops/berlin","type":"Shop.Order.Created","subject":"orders/4711","time":"2026-11-22T20:19:38.054735Z","datacontenttype":"application/json","tenant":"acme""#,
    );
    let grid = batch(
        r#""id":"2c8f1b9e-5d1c-4f0e-9b58-0d7f5a0b6a11","eventType":"Shop.Order.Created","subject":"orders/4711","eventTime":"2026-11-22T20:19:38.054735Z","dataVersion":"1.0""#,
    );
    let text = "x".repeat(950);
    let event = format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","data":"{text}"}}"#);
    let long = format!("[{}]", vec![event; EVENTS].join(","));
    for (name, schema, body) in [
        ("CloudEvents", InputSchema::CloudEvent, &cloud),
        ("CloudEvents, one long string", InputSchema::CloudEvent, &long),
        ("Event Grid", InputSchema::EventGrid, &grid),
        ("custom, no mapping", InputSchema::Custom, &grid),
    ] {
        measure(name, schema, body);
    }
}

#[allow(clippy::print_stdout, reason = "the figure is what the program is for")]
fn measure(name: &str, schema: InputSchema, body: &str) {
    let request = PublishRequest {
        kind: TopicKind::Custom,
        schema,
        mapping: None,
        content_type: Some("application/cloudevents-batch+json; charset=utf-8"),
        ce_headers: &[],
        body: body.as_bytes(),
        now: Timestamp::from_millis(1_795_465_178_054),
    };
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            let events = parse(black_box(&request), &mut String::new).expect("the batch is well formed");
            assert_eq!(black_box(events).len(), EVENTS);
        }
        let elapsed = start.elapsed().as_secs_f64();
        best = best.min(elapsed / f64::from(u32::try_from(ROUNDS * EVENTS).expect("a small number")));
    }
    println!("{name}: {:.2} us an event of {} bytes", best * 1e6, body.len() / EVENTS);
}
