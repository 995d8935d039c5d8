//! Measures durable appends to the embedded log: `log_bench [DIRECTORY] [SECONDS]`.
//!
//! Two loads: many callers with small frames, where grouping pays, and few callers with large ones, where
//! the disk's bandwidth is the limit. Each caller waits for its answer before it appends again. The
//! directory (default: `log-bench` in the current one) is made and left behind.
#![allow(clippy::disallowed_methods, reason = "a measurement needs the real clock and tasks of its own")]
#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridwire_core::event::{Data, Event, InputSchema};
use gridwire_core::filter::MatchSet;
use gridwire_core::frame::{FrameBuilder, FrameDraft};
use gridwire_core::ids::{Lsn, Offset, Slot, TopicNumber};
use gridwire_outside::system::{SystemClock, SystemDisk, SystemRng};
use gridwire_store::Log;
use gridwire_store::embedded::{EmbeddedLog, EmbeddedOptions};
use tokio::task::JoinSet;

const TOPIC: TopicNumber = TopicNumber(1);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().map_or_else(|| PathBuf::from("log-bench"), PathBuf::from);
    let seconds = arguments.next().map_or(Ok(3), |seconds| seconds.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let log = open(&dir)?;
        for round in ["first", "after recycling"] {
            println!("{round}:");
            append(&log, 256, 1 << 10, Duration::from_secs(seconds)).await?;
            append(&log, 16, 100 << 10, Duration::from_secs(seconds)).await?;
            scan(&log).await?;
            log.trim(Lsn(u64::MAX)).await?;
        }
        log.close(Duration::from_secs(10)).await;
        drop(log);
        let before = Instant::now();
        let log = open(&dir)?;
        println!("opened again in {:?}", before.elapsed());
        log.close(Duration::from_secs(10)).await;
        Ok(())
    })
}

fn open(dir: &Path) -> Result<Arc<EmbeddedLog>, Box<dyn Error>> {
    let clock = Arc::new(SystemClock::start());
    Ok(EmbeddedLog::open(Arc::new(SystemDisk), clock, &SystemRng::new(), dir, EmbeddedOptions::default())?)
}

/// One frame of one event with `size` bytes of data, which two subscriptions matched.
fn draft(size: usize) -> FrameDraft {
    let mut frame = FrameBuilder::new(TOPIC, size + 256);
    let mut matched = MatchSet::default();
    matched.push(Slot(0));
    matched.push(Slot(7));
    let event = Event {
        schema: InputSchema::CloudEvent,
        id: "b2a1d9f0-0000-4000-8000-000000000000".into(),
        event_type: "order.created".into(),
        source: "/bench".into(),
        subject: None,
        time: None,
        data_content_type: None,
        data_schema: None,
        extensions: Vec::new(),
        data: Data::Binary(vec![0x5a; size].into()),
    };
    frame.push(&matched, &event);
    frame.finish().expect("it holds an event")
}

async fn append(
    log: &Arc<EmbeddedLog>,
    callers: usize,
    size: usize,
    lasting: Duration,
) -> Result<(), Box<dyn Error>> {
    let (start, before) = (Instant::now(), log.health());
    let template = draft(size);
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (log, template) = (log.clone(), template.clone());
        tasks.spawn(async move {
            let mut waits = Vec::new();
            while start.elapsed() < lasting {
                let asked = Instant::now();
                log.append_events(template.clone()).await?;
                waits.push(asked.elapsed());
            }
            Ok::<_, gridwire_store::AppendError>(waits)
        });
    }
    let mut waits = Vec::new();
    while let Some(done) = tasks.join_next().await {
        waits.extend(done??);
    }
    let took = start.elapsed().as_secs_f64();
    waits.sort_unstable();
    let after = log.health();
    let appends = waits.len();
    let at = |percent: usize| waits.get(appends * percent / 100).copied().unwrap_or_default();
    println!(
        "  {callers} callers x {} KiB: {:.0} appends/s, {:.0} MB/s, p50 {:?}, p99 {:?}, {} flushes of {:.2} ms",
        size >> 10,
        per(appends as u64, took),
        per(after.bytes_total - before.bytes_total, took) / 1e6,
        at(50),
        at(99),
        after.flushes - before.flushes,
        (after.flush_seconds_total - before.flush_seconds_total) * 1e3
            / per(after.flushes - before.flushes, 1.0),
    );
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "figures to be read by people")]
fn per(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

/// Walks the whole backlog as a subscription that is behind does, twice: indexes are built, then used.
async fn scan(log: &Arc<EmbeddedLog>) -> Result<(), Box<dyn Error>> {
    for what in ["building indexes", "by index"] {
        let (mut from, mut found, mut calls) = (log.start(TOPIC), 0, 0);
        let start = Instant::now();
        while from < log.end(TOPIC) {
            let matches = log.scan(TOPIC, Slot(7), from, 1_024).await?;
            found += matches.matches.len();
            from = Offset(matches.next);
            calls += 1;
        }
        println!("  scanned {found} in {calls} calls, {what}: {:?}", start.elapsed());
    }
    Ok(())
}
