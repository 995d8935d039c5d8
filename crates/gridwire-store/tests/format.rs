//! The bytes on disk are a promise: a store of an earlier build opens, and holds what it held.
//!
//! `tests/data/store-1` was written by [`make`] and is never written again; a format that cannot read it needs
//! another number, and a fixture of its own. Files are kept as text: their length, then
//! runs of bytes that are not zero, each with its place; `ff*3` is three runs of one byte.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use gridwire_core::event::{Data, Event, InputSchema};
use gridwire_core::filter::MatchSet;
use gridwire_core::frame::FrameBuilder;
use gridwire_core::ids::{Lsn, Offset, ShardId, Slot, StateSeq, SubscriptionNumber, TopicNumber};
use gridwire_core::time::Timestamp;
use gridwire_outside::{Clock, Disk, ManualClock, MemoryDisk, SeededRng};
use gridwire_store::embedded::tools;
use gridwire_store::embedded::{EmbeddedLog, EmbeddedOptions, RedbResources};
use gridwire_store::{Log, Recovered, ResourceStore, Revision, SnapshotPart};

const DIR: &str = "/data";
const RUN: usize = 32;

fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        segment_bytes: 32 << 10,
        block_bytes: 8 << 10,
        state_file_bytes: 8 << 10,
        ballast_bytes: 0,
        threads: false,
        ..EmbeddedOptions::default()
    }
}

fn open(disk: &MemoryDisk, millis: u64) -> Arc<EmbeddedLog> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::from_millis(millis)));
    EmbeddedLog::open(Arc::new(disk.clone()), clock, &SeededRng::new(3), Path::new(DIR), options())
        .expect("it opens")
}

fn resources(disk: &MemoryDisk) -> Arc<RedbResources> {
    RedbResources::open_inline(Arc::new(disk.clone()), &Path::new(DIR).join("meta.redb")).expect("it opens")
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

/// Every kind of attribute once in a while.
fn event(number: u64) -> (String, String) {
    (format!("event-{number}"), format!("{{\"n\":{number},\"text\":\"{}\"}}", "x".repeat(1_400)))
}

fn topic(number: u64) -> TopicNumber {
    TopicNumber(if number % 4 == 3 { 7 } else { 2 })
}

const EVENTS: u64 = 72;

fn append(log: &EmbeddedLog, number: u64) {
    let (id, data) = event(number);
    let event = Event {
        schema: InputSchema::CloudEvent,
        id: id.into(),
        event_type: "order.paid".into(),
        source: "/shop".into(),
        subject: (number.is_multiple_of(2)).then(|| "s/1".into()),
        time: (number.is_multiple_of(3)).then(|| "2024-05-01T10:00:00Z".into()),
        data_content_type: Some("application/json".into()),
        data_schema: None,
        extensions: Vec::new(),
        data: Data::Json(data.into()),
    };
    let mut matched = MatchSet::default();
    matched.push(Slot(0));
    if number.is_multiple_of(5) {
        matched.push(Slot(40));
    }
    let mut frame = FrameBuilder::new(topic(number), 0);
    frame.push(&matched, &event);
    now(log.append_events(frame.finish().expect("it has an event"))).expect("it is appended");
}

/// Writes the fixture.
fn make() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let log = open(&disk, 1_700_000_000_000);
    for number in 0..EVENTS {
        append(&log, number);
    }
    let first = log.segments()[0].end;
    let mut last = StateSeq(0);
    for group in 0..5u8 {
        if group == 3 {
            let part = |number: u32| SnapshotPart {
                subscription: SubscriptionNumber(number),
                at: last,
                state: vec![number.to_le_bytes()[0]; 20],
            };
            now(log.snapshot(vec![part(11), part(12)])).expect("it is taken");
        }
        last = now(log.append_state(ShardId(0), vec![group; 30], last)).expect("it is recorded");
    }
    now(log.flush_state()).expect("it is flushed");
    now(log.trim(first)).expect("it is trimmed");
    now(log.close(Duration::from_secs(1)));
    drop(log);
    let store = resources(&disk);
    now(store.create("a", b"one".to_vec())).expect("it is created");
    now(store.create("a/b", b"two".to_vec())).expect("it is created");
    now(store.update("a", b"three".to_vec(), Revision(1))).expect("it is updated");
    now(store.next_numbers("topics", 5)).expect("they are given");
    drop(store);
    disk
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/store-1")
}

fn encode(bytes: &[u8]) -> String {
    let mut text = format!("{}\n", bytes.len());
    let mut repeated = 0u64;
    for (run, chunk) in bytes.chunks(RUN).enumerate() {
        let byte = chunk[0];
        if chunk.len() == RUN && chunk.iter().all(|other| *other == byte) {
            let before = run.checked_sub(1).and_then(|run| bytes.get(run * RUN..(run + 1) * RUN));
            if byte != 0 && before == Some(chunk) && repeated > 0 {
                // The line before says so already.
                text.truncate(text.rfind('*').expect("it is repeated"));
                repeated += 1;
                let _ = writeln!(text, "*{repeated}");
            } else if byte != 0 {
                repeated = 1;
                let _ = writeln!(text, "{} {byte:02x}*1", run * RUN);
            }
            continue;
        }
        repeated = 0;
        let _ = write!(text, "{} ", run * RUN);
        for byte in chunk {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text
}

fn decode(text: &str) -> Vec<u8> {
    let byte = |digits: &str| u8::from_str_radix(digits, 16).expect("digits");
    let mut lines = text.lines();
    let len: usize = lines.next().and_then(|len| len.parse().ok()).expect("a length");
    let mut bytes = vec![0; len];
    for line in lines {
        let (at, run) = line.split_once(' ').expect("a place and bytes");
        let at: usize = at.parse().expect("a place");
        if let Some((digits, count)) = run.split_once('*') {
            let count: usize = count.parse().expect("a number");
            bytes[at..at + count * RUN].fill(byte(digits));
            continue;
        }
        for (index, pair) in run.as_bytes().chunks(2).enumerate() {
            bytes[at + index] = byte(std::str::from_utf8(pair).expect("digits"));
        }
    }
    bytes
}

/// The fixture's files on a disk in memory.
fn load() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir_all(&Path::new(DIR).join("state")).expect("it is made");
    disk.put(&Path::new(DIR).join("LOCK"), Vec::new());
    let mut count = 0;
    for entry in fs::read_dir(fixture()).expect("the fixture is there") {
        let entry = entry.expect("it is read");
        let name = entry.file_name().to_string_lossy().replace("--", "/");
        disk.put(&Path::new(DIR).join(name), decode(&fs::read_to_string(entry.path()).expect("it is text")));
        count += 1;
    }
    assert!(count >= 6, "{count} files");
    disk
}

/// Run by hand when there is a new format, never to change this one: `cargo test -p gridwire-store --test
/// format -- --ignored`.
#[test]
#[ignore = "writes the fixture"]
fn write_the_fixture() {
    let disk = make();
    fs::create_dir_all(fixture()).expect("it is made");
    for dir in ["", "log", "state"] {
        for name in disk.list(&Path::new(DIR).join(dir)).expect("it is there") {
            let path = Path::new(DIR).join(dir).join(&name);
            let Some(bytes) = disk.contents(&path).filter(|bytes| !bytes.is_empty()) else { continue };
            // Derived, or of no meaning.
            if name.strip_suffix(".idx").is_some() || name.starts_with("spare-") {
                continue;
            }
            let flat = if dir.is_empty() { name } else { format!("{dir}--{name}") };
            fs::write(fixture().join(flat), encode(&bytes)).expect("it is written");
        }
    }
}

fn check_contents(disk: &MemoryDisk) {
    let log = open(disk, 1_800_000_000_000);
    let (two, seven) = (TopicNumber(2), TopicNumber(7));
    assert_eq!((log.end(two), log.end(seven)), (Offset(54), Offset(18)));
    assert!(0 < log.start(two).0 && log.segments().len() >= 2);
    let mut offsets = std::collections::BTreeMap::new();
    for number in 0..EVENTS {
        let end = offsets.entry(topic(number)).or_insert(0u64);
        let offset = Offset(*end);
        *end += 1;
        if offset < log.start(topic(number)) {
            continue;
        }
        let fetched = now(log.fetch(topic(number), vec![offset])).expect("it is fetched");
        let (id, data) = event(number);
        let decoded = Event::decode(&fetched[0].event).expect("it is an event");
        assert_eq!((decoded.id.as_ref(), decoded.event_type.as_ref()), (id.as_str(), "order.paid"));
        assert_eq!(decoded.subject.is_some(), number.is_multiple_of(2));
        assert_eq!(decoded.time.is_some(), number.is_multiple_of(3));
        assert!(matches!(&decoded.data, Data::Json(json) if json.as_ref() == data));
        assert!(1_700_000_000_000 <= fetched[0].time.as_millis());
        let found = now(log.scan(topic(number), Slot(40), offset, 1)).expect("it is scanned");
        let is_match = found.matches.first().is_some_and(|matched| matched.offset == offset);
        assert_eq!(is_match, number.is_multiple_of(5), "event {number}");
    }
    let frames = now(log.read(Lsn(0), 1 << 20)).expect("it is read");
    assert!(frames.windows(2).all(|pair| pair[0].lsn < pair[1].lsn) && frames.len() > 10);
    let (mut parts, mut groups) = (Vec::new(), Vec::new());
    let last = log.recover(&mut |recovered| match recovered {
        Recovered::Part { subscription, at, state } => parts.push((subscription.0, at.0, state.to_vec())),
        Recovered::Group { decisions, .. } => groups.push(decisions.to_vec()),
    });
    assert_eq!(parts, [(11, 3, vec![11; 20]), (12, 3, vec![12; 20])]);
    assert_eq!(groups, (0..5).map(|group| vec![group; 30]).collect::<Vec<_>>());
    assert!(5 <= last.expect("it is recovered").0);
    drop(log);

    let store = resources(disk);
    let all: Vec<(String, Vec<u8>, u64)> = now(store.list(""))
        .expect("it is listed")
        .into_iter()
        .map(|resource| (resource.key, resource.value, resource.revision.0))
        .collect();
    assert_eq!(all, [("a".into(), b"three".to_vec(), 3), ("a/b".into(), b"two".to_vec(), 2)]);
    assert_eq!(now(store.next_numbers("topics", 1)), Ok(5));
}

#[test]
fn a_store_of_format_1_opens_and_holds_what_it_held() {
    let disk = load();
    let report = tools::check(&disk, Path::new(DIR)).expect("it is checked");
    assert_eq!(report.findings, []);
    check_contents(&disk);
    // It goes on from there.
    let log = open(&disk, 1_800_000_000_000);
    append(&log, 0);
    assert_eq!(log.end(TopicNumber(2)), Offset(55));
    drop(log);
    disk.crash(1);
    assert_eq!(open(&disk, 1).end(TopicNumber(2)), Offset(55));
}

#[test]
fn what_is_written_now_is_what_the_fixture_checks() {
    check_contents(&make());
}

#[test]
fn runs_of_bytes_are_written_and_read() {
    let mut bytes = vec![0; 200];
    bytes[40..44].copy_from_slice(b"abcd");
    bytes[64..160].fill(9);
    bytes[199] = 7;
    assert_eq!(decode(&encode(&bytes)), bytes);
}
