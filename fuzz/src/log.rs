//! A store's files, changed: opening either refuses or gives back what it can read.
//!
//! The input is a list of changes, each of eight bytes: a file, a kind, a place, a value.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gridwire_core::event::{Data, Event, InputSchema};
use gridwire_core::filter::MatchSet;
use gridwire_core::frame::FrameBuilder;
use gridwire_core::ids::{Lsn, Offset, ShardId, Slot, StateSeq, SubscriptionNumber, TopicNumber};
use gridwire_core::shard::{Decision, Settlement};
use gridwire_core::time::Timestamp;
use gridwire_outside::{Clock, Disk, ManualClock, MemoryDisk, SeededRng};
use gridwire_store::embedded::{EmbeddedLog, EmbeddedOptions, OpenError};
use gridwire_store::{Log, Recovered, SnapshotPart};

const CHANGE_BYTES: usize = 8;
const CHANGES_MAX: usize = 64;
/// Larger than a store of a few frames.
const PLACES: usize = 16 << 10;

pub fn log(data: &[u8]) {
    thread_local! {
        static FILES: Vec<(PathBuf, Vec<u8>)> = files();
    }
    let disk = Arc::new(MemoryDisk::new());
    for dir in ["/data/log", "/data/state"] {
        disk.create_dir_all(Path::new(dir)).expect("a new disk takes a directory");
    }
    FILES.with(|files| {
        let mut files = files.clone();
        for change in data.chunks_exact(CHANGE_BYTES).take(CHANGES_MAX) {
            apply(change, &mut files);
        }
        for (path, bytes) in files {
            disk.put(&path, bytes);
        }
    });
    let opened = open(disk);
    assert!(opened.is_ok() || data.len() >= CHANGE_BYTES, "what was not changed opens: {opened:?}");
    let Ok(log) = opened else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let _ = log.recover(&mut |recovered| {
        if let Recovered::Group { decisions, .. } = recovered {
            let mut input = decisions;
            while Decision::decode(&mut input).is_some() {}
        }
    });
    runtime.block_on(async {
        let (end, _) = log.position();
        if end.0 > 0 {
            let _ = log.read(Lsn(0), 1 << 20).await;
        }
        let _ = log.scan(TopicNumber(1), Slot(0), Offset(0), 100).await;
    });
}

fn apply(change: &[u8], files: &mut [(PathBuf, Vec<u8>)]) {
    let number = |at: usize| usize::from(change[at]) | usize::from(change[at + 1]) << 8;
    let index = usize::from(change[0]) % files.len();
    let bytes = &mut files[index].1;
    let place = number(2) % PLACES.min(bytes.len().max(1));
    match change[1] % 4 {
        0 => bytes.truncate(place),
        1 => bytes.extend_from_slice(&change[4..]),
        2 => {
            let from = number(4) % bytes.len().max(1);
            let length = number(6).min(bytes.len() - from.max(place).min(bytes.len()));
            let copied = bytes[from..from + length].to_vec();
            bytes[place..place + length].copy_from_slice(&copied);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= change[4];
            }
        }
    }
}

fn open(disk: Arc<MemoryDisk>) -> Result<Arc<EmbeddedLog>, OpenError> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::from_millis(1_000)));
    let options = EmbeddedOptions {
        segment_bytes: 2 << 20,
        state_file_bytes: 64 << 10,
        ballast_bytes: 0,
        threads: false,
        ..EmbeddedOptions::default()
    };
    EmbeddedLog::open(disk, clock, &SeededRng::new(1), Path::new("/data"), options)
}

/// The files of a small store with frames, groups and a snapshot.
fn files() -> Vec<(PathBuf, Vec<u8>)> {
    let disk = Arc::new(MemoryDisk::new());
    disk.create_dir_all(Path::new("/data")).expect("a new disk takes a directory");
    let log = open(Arc::clone(&disk)).expect("a new store opens");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut seq = log.recover(&mut |_| {}).expect("a new store is empty");
        for number in 0..6 {
            let mut matched = MatchSet::default();
            matched.push(Slot(0));
            let mut builder = FrameBuilder::new(TopicNumber(1), 0);
            builder.push(&matched, &event(&number.to_string()));
            log.append_events(builder.finish().expect("an event")).await.expect("an append");
            seq = append(&log, seq, number).await;
            if number == 3 {
                let part = SnapshotPart { subscription: SubscriptionNumber(1), at: seq, state: Vec::new() };
                log.snapshot(vec![part]).await.expect("a snapshot");
            }
        }
        log.flush_state().await.expect("a flush");
    });
    drop(log);
    let mut found = Vec::new();
    for dir in ["/data", "/data/log", "/data/state"] {
        for name in disk.list(Path::new(dir)).expect("a directory") {
            let path = Path::new(dir).join(name);
            if let Some(mut bytes) = disk.contents(&path) {
                let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
                bytes.truncate(used);
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

async fn append(log: &EmbeddedLog, seq: StateSeq, offset: u64) -> StateSeq {
    let mut group = Vec::new();
    let decision = Decision::Settled {
        subscription: SubscriptionNumber(1),
        how: Settlement::Delivered,
        floor: Offset(offset),
        offsets: vec![Offset(offset)],
    };
    decision.encode(&mut group);
    log.append_state(ShardId(0), group, seq).await.expect("a group")
}

fn event(id: &str) -> Event<'_> {
    Event {
        schema: InputSchema::CloudEvent,
        id: id.into(),
        event_type: "t".into(),
        source: "/s".into(),
        subject: None,
        time: None,
        data_content_type: None,
        data_schema: None,
        extensions: Vec::new(),
        data: Data::Json("{\"a\":1}".into()),
    }
}
