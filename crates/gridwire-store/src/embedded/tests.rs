//! The embedded log's promises, one test each.

mod damage;
mod faults;
mod power_cuts;
mod segments;
mod slices;
mod writing;

use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use gridwire_core::event::{Data, Event, InputSchema};
use gridwire_core::filter::MatchSet;
use gridwire_core::frame::FrameBuilder;
use gridwire_outside::memory::Call;
use gridwire_outside::{ManualClock, MemoryDisk, SeededRng};

use super::format::FrameHeader;
use super::segment::{index_path, segment_path};
use super::*;
use crate::log::Matched;

const DIR: &str = "/data";
const TOPIC: TopicNumber = TopicNumber(1);

/// Small segments and blocks, and everything in the caller's thread.
fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        segment_bytes: 64 << 10,
        cache_bytes: 4 << 10,
        block_bytes: 16 << 10,
        state_file_bytes: 16 << 10,
        ballast_bytes: 0,
        threads: false,
        ..EmbeddedOptions::default()
    }
}

fn try_open(disk: &MemoryDisk, options: EmbeddedOptions) -> Result<Arc<EmbeddedLog>, OpenError> {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000)));
    EmbeddedLog::open(Arc::new(disk.clone()), clock, &SeededRng::new(1), Path::new(DIR), options)
}

fn open(disk: &MemoryDisk) -> Arc<EmbeddedLog> {
    try_open(disk, options()).expect("it opens")
}

fn log_dir() -> PathBuf {
    Path::new(DIR).join("log")
}

/// An event of `size` bytes of data, for a topic and the slots it matches.
fn event(name: &str, size: usize) -> Event<'static> {
    Event {
        schema: InputSchema::CloudEvent,
        id: name.to_owned().into(),
        event_type: "t".into(),
        source: "/s".into(),
        subject: None,
        time: None,
        data_content_type: None,
        data_schema: None,
        extensions: Vec::new(),
        data: Data::Binary(vec![7; size].into()),
    }
}

/// A frame of events named `name-0`, `name-1`, ..., each with the slots it matches.
fn draft(topic: TopicNumber, name: &str, size: usize, matched: &[&[u32]]) -> FrameDraft {
    let mut frame = FrameBuilder::new(topic, 0);
    for (index, slots) in matched.iter().enumerate() {
        let mut set = MatchSet::default();
        slots.iter().for_each(|slot| set.push(Slot(*slot)));
        frame.push(&set, &event(&format!("{name}-{index}"), size));
    }
    frame.finish().expect("it has events")
}

/// Without threads every call is done when it is first looked at.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

/// Appends drafts as one batch, which is one group of the writer.
fn append_batch(log: &EmbeddedLog, drafts: Vec<FrameDraft>) -> Vec<Result<Appended, AppendError>> {
    let Driver::Inline(writer) = &log.driver else { unreachable!("threads are off") };
    let (batch, waiting): (Vec<_>, Vec<_>) = drafts
        .into_iter()
        .map(|draft| {
            let (answer, answered) = oneshot::channel();
            (Queued { draft, answer, weight: 0 }, answered)
        })
        .unzip();
    for done in hold(writer).as_mut().expect("it is open").step(batch) {
        done.send(&log.shared);
    }
    waiting.into_iter().map(|answered| now(answered).expect("each is answered")).collect()
}

fn append(log: &EmbeddedLog, name: &str, size: usize) -> Result<Appended, AppendError> {
    now(log.append_events(draft(TOPIC, name, size, &[&[0]])))
}

/// Appends events named by their offsets until there are `count`.
fn fill_to(log: &EmbeddedLog, count: u64, size: usize) {
    for offset in log.end(TOPIC).0..count {
        append(log, &offset.to_string(), size).expect("it is appended");
    }
}

fn id(fetched: &Fetched) -> String {
    Event::decode(&fetched.event).expect("it is an event").id.into_owned()
}

/// Every retained frame from `from` on, by many small reads.
fn read_all(log: &EmbeddedLog, from: Lsn) -> Vec<Frame> {
    let (mut from, end) = (from, log.position().0);
    let mut frames: Vec<Frame> = Vec::new();
    while from < end {
        frames.extend(now(log.read(from, 1_000)).expect("it is read"));
        from = frames.last().expect("at least one").lsn.next();
    }
    frames
}

/// Every offset that `slot` matched, by scans of `max`.
fn scan_all(log: &EmbeddedLog, slot: u32, max: usize) -> Vec<Matched> {
    let (mut from, end) = (Offset(0), log.end(TOPIC));
    let mut matched = Vec::new();
    while from < end {
        let found = now(log.scan(TOPIC, Slot(slot), from, max)).expect("it is scanned");
        assert!(from.0 < found.next && found.matches.len() <= max);
        from = Offset(found.next);
        matched.extend(found.matches);
    }
    matched
}

/// That all retained events of [`fill_to`] come back by every way of reading.
fn check_filled(log: &EmbeddedLog) {
    let (start, end) = (log.start(TOPIC).0, log.end(TOPIC).0);
    let offsets: Vec<u64> = read_all(log, Lsn(0)).iter().map(|frame| frame.first.0).collect();
    assert_eq!(offsets, (start..end).collect::<Vec<_>>());
    let matched: Vec<u64> = scan_all(log, 0, 100).iter().map(|matched| matched.offset.0).collect();
    assert_eq!(matched, offsets);
    let events = now(log.fetch(TOPIC, (0..end + 3).map(Offset).collect())).expect("they are fetched");
    let names: Vec<String> = events.iter().map(|event| format!("{}-0", event.offset)).collect();
    assert_eq!(names, (start..end).map(|offset| format!("{offset}-0")).collect::<Vec<_>>());
    assert_eq!(events.iter().map(id).collect::<Vec<_>>(), names);
}
