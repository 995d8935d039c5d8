//! Both traits in memory, in the plainest way that can be right: what the real stores are compared with.
//!
//! Nothing is lost but what is trimmed; nothing fails. [`ModelLog::reopen`] is a restart.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use gridwire_core::frame::FrameDraft;
use gridwire_core::ids::{Lsn, Offset, ShardId, Slot, StateSeq, TopicNumber};
use gridwire_core::routing::BoxFuture;
use gridwire_core::time::Timestamp;
use gridwire_outside::Clock;
use tokio::sync::watch;

use crate::log::{
    AppendError, Appended, Fetched, Frame, Log, LogHealth, Matched, Matches, ReadError, Recovered,
    SegmentInfo, SnapshotPart, TopicSpan,
};
use crate::resources::{Resource, ResourceError, ResourceStore, Revision};

/// Bytes after which a segment is sealed: small, so that tests meet several.
const SEGMENT_BYTES: u64 = 64 << 10;
/// As large as a frame of the real log may be.
const FRAME_BYTES_MAX: usize = 4 << 20;

/// A [`Log`] in memory.
#[derive(Debug)]
pub struct ModelLog {
    clock: Arc<dyn Clock>,
    stored: Arc<Mutex<Stored>>,
    /// The LSN of the next frame.
    end: watch::Sender<u64>,
    run: Mutex<Run>,
}

/// What a restart keeps.
#[derive(Debug, Default)]
struct Stored {
    sealed: Vec<Segment>,
    open: Segment,
    ends: BTreeMap<TopicNumber, Offset>,
    next_lsn: u64,
    newest: Timestamp,
    parts: Vec<SnapshotPart>,
    groups: Vec<(StateSeq, Timestamp, Vec<u8>)>,
    last_seq: u64,
    events_total: u64,
}

/// What a restart forgets.
#[derive(Debug, Default)]
struct Run {
    is_closed: bool,
    /// The last group when it was opened: what a shard without one of its own must expect.
    opened_at: u64,
    last_by_shard: BTreeMap<ShardId, u64>,
}

#[derive(Debug, Default)]
struct Segment {
    number: u64,
    frames: Vec<Frame>,
    bytes: u64,
}

impl Segment {
    fn info(&self, end: Lsn) -> SegmentInfo {
        let mut topics: BTreeMap<TopicNumber, TopicSpan> = BTreeMap::new();
        for frame in &self.frames {
            let span = topics.entry(frame.topic).or_insert(TopicSpan {
                topic: frame.topic,
                first: frame.first,
                last: frame.first,
                newest: frame.time,
                bytes: 0,
            });
            span.last = Offset(frame.end() - 1);
            span.newest = frame.time;
            span.bytes += frame.body.len() as u64;
        }
        SegmentInfo { number: self.number, end, topics: topics.into_values().collect() }
    }

    fn end(&self) -> Option<Lsn> {
        self.frames.last().map(|frame| frame.lsn.next())
    }
}

impl Stored {
    fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.sealed.iter().chain([&self.open]).flat_map(|segment| &segment.frames)
    }

    fn next_time(&mut self, clock: &dyn Clock) -> Timestamp {
        self.newest = self.newest.max(clock.now());
        self.newest
    }

    fn append(&mut self, draft: FrameDraft, clock: &dyn Clock) -> Appended {
        let time = self.next_time(clock);
        let end = self.ends.entry(draft.topic).or_insert(Offset::ZERO);
        let first = *end;
        *end = Offset(first.0 + u64::from(draft.count));
        let lsn = Lsn(self.next_lsn);
        self.next_lsn += 1;
        self.events_total += u64::from(draft.count);
        self.open.bytes += draft.body.len() as u64;
        let body = Bytes::from(draft.body);
        self.open.frames.push(Frame { lsn, topic: draft.topic, first, count: draft.count, time, body });
        if SEGMENT_BYTES <= self.open.bytes {
            let next = Segment { number: self.open.number + 1, ..Segment::default() };
            self.sealed.push(std::mem::replace(&mut self.open, next));
        }
        Appended { lsn, first, time }
    }
}

impl ModelLog {
    /// An empty log.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::over(clock, Arc::default())
    }

    /// The same log after a restart.
    #[must_use]
    pub fn reopen(&self) -> Self {
        Self::over(Arc::clone(&self.clock), Arc::clone(&self.stored))
    }

    fn over(clock: Arc<dyn Clock>, stored: Arc<Mutex<Stored>>) -> Self {
        let (end, run) = {
            let stored = stored.lock().expect("no panic while the log is held");
            (stored.next_lsn, Run { opened_at: stored.last_seq, ..Run::default() })
        };
        Self { clock, stored, end: watch::Sender::new(end), run: Mutex::new(run) }
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().expect("no panic while the log is held")
    }

    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().expect("no panic while the run is held")
    }

    fn check_open(&self) -> Result<(), AppendError> {
        if self.run().is_closed { Err(AppendError::Failed) } else { Ok(()) }
    }

    fn append(&self, draft: FrameDraft) -> Result<Appended, AppendError> {
        self.check_open()?;
        if FRAME_BYTES_MAX < draft.body.len() {
            return Err(AppendError::TooLarge { max: FRAME_BYTES_MAX });
        }
        let appended = self.stored().append(draft, &*self.clock);
        self.end.send_replace(appended.lsn.0 + 1);
        Ok(appended)
    }

    fn record(
        &self,
        shard: ShardId,
        decisions: Vec<u8>,
        expected: StateSeq,
    ) -> Result<StateSeq, AppendError> {
        self.check_open()?;
        let mut run = self.run();
        if run.last_by_shard.get(&shard).copied().unwrap_or(run.opened_at) != expected.0 {
            return Err(AppendError::Fenced);
        }
        let mut stored = self.stored();
        stored.last_seq += 1;
        let seq = stored.last_seq;
        run.last_by_shard.insert(shard, seq);
        let time = stored.next_time(&*self.clock);
        stored.groups.push((StateSeq(seq), time, decisions));
        Ok(StateSeq(seq))
    }

    fn read_now(&self, from: Lsn, max_bytes: usize) -> Vec<Frame> {
        let mut bytes = 0;
        let stored = self.stored();
        let frames = stored.frames().filter(|frame| from <= frame.lsn);
        let within = frames.take_while(|frame| {
            let is_first = bytes == 0;
            bytes += frame.body.len().max(1);
            is_first || bytes <= max_bytes
        });
        within.cloned().collect()
    }

    fn scan_now(&self, topic: TopicNumber, slot: Slot, from: Offset, max: usize) -> Matches {
        let mut matches = Vec::new();
        let stored = self.stored();
        let end = stored.ends.get(&topic).copied().unwrap_or(Offset::ZERO);
        for frame in stored.frames().filter(|frame| frame.topic == topic) {
            for event in frame.view().events().filter(|event| from <= event.offset) {
                if matches.len() == max {
                    return Matches { matches, next: event.offset.0, ..Matches::default() };
                }
                let is_match =
                    event.matched().is_some_and(|matched| matched.iter().any(|other| other == slot));
                if let (true, Some(bytes)) = (is_match, event.event_bytes()) {
                    let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    matches.push(Matched { offset: event.offset, time: frame.time, size });
                }
            }
        }
        Matches { matches, next: end.0.max(from.0), ..Matches::default() }
    }

    fn fetch_now(&self, topic: TopicNumber, offsets: &[Offset]) -> Vec<Fetched> {
        let mut fetched = Vec::new();
        let stored = self.stored();
        for frame in stored.frames().filter(|frame| frame.topic == topic) {
            for event in frame.view().events().filter(|event| offsets.contains(&event.offset)) {
                if let Some(bytes) = event.event_bytes() {
                    let event_bytes = frame.body.slice_ref(bytes);
                    fetched.push(Fetched { offset: event.offset, time: frame.time, event: event_bytes });
                }
            }
        }
        fetched
    }
}

impl Log for ModelLog {
    fn append_events(&self, draft: FrameDraft) -> BoxFuture<'_, Result<Appended, AppendError>> {
        let outcome = self.append(draft);
        Box::pin(async move { outcome })
    }

    fn append_state(
        &self,
        shard: ShardId,
        decisions: Vec<u8>,
        expected: StateSeq,
    ) -> BoxFuture<'_, Result<StateSeq, AppendError>> {
        let outcome = self.record(shard, decisions, expected);
        Box::pin(async move { outcome })
    }

    fn flush_state(&self) -> BoxFuture<'_, Result<(), AppendError>> {
        Box::pin(async { self.check_open() })
    }

    fn read(&self, from: Lsn, max_bytes: usize) -> BoxFuture<'_, Result<Vec<Frame>, ReadError>> {
        Box::pin(async move {
            let mut end = self.end.subscribe();
            // The sender lives as long as `self`, so an error cannot be.
            let _ = end.wait_for(|end| from.0 < *end).await;
            Ok(self.read_now(from, max_bytes))
        })
    }

    fn scan(
        &self,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
        max: usize,
    ) -> BoxFuture<'_, Result<Matches, ReadError>> {
        Box::pin(async move { Ok(self.scan_now(topic, slot, from, max)) })
    }

    fn scan_slice(
        &self,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
        max: usize,
    ) -> BoxFuture<'_, Result<Option<Matches>, ReadError>> {
        Box::pin(async move { Ok(Some(self.scan_now(topic, slot, from, max))) })
    }

    fn fetch(
        &self,
        topic: TopicNumber,
        offsets: Vec<Offset>,
    ) -> BoxFuture<'_, Result<Vec<Fetched>, ReadError>> {
        Box::pin(async move { Ok(self.fetch_now(topic, &offsets)) })
    }

    fn end(&self, topic: TopicNumber) -> Offset {
        self.stored().ends.get(&topic).copied().unwrap_or(Offset::ZERO)
    }

    fn start(&self, topic: TopicNumber) -> Offset {
        let first = self.stored().frames().find(|frame| frame.topic == topic).map(|frame| frame.first);
        first.unwrap_or_else(|| self.end(topic))
    }

    fn position(&self) -> (Lsn, Timestamp) {
        let stored = self.stored();
        (Lsn(stored.next_lsn), stored.newest)
    }

    fn recover(&self, visit: &mut dyn FnMut(Recovered<'_>)) -> Result<StateSeq, ReadError> {
        let stored = self.stored();
        for part in &stored.parts {
            visit(Recovered::Part { subscription: part.subscription, at: part.at, state: &part.state });
        }
        for (seq, time, decisions) in &stored.groups {
            visit(Recovered::Group { seq: *seq, time: *time, decisions });
        }
        Ok(StateSeq(stored.last_seq))
    }

    fn snapshot(&self, parts: Vec<SnapshotPart>) -> BoxFuture<'_, Result<(), AppendError>> {
        Box::pin(async move {
            self.check_open()?;
            let mut stored = self.stored();
            // Without parts nobody says which groups may go.
            let included = parts.iter().map(|part| part.at).min().unwrap_or(StateSeq(0));
            stored.groups.retain(|(seq, _, _)| included < *seq);
            stored.parts = parts;
            Ok(())
        })
    }

    fn wants_snapshot(&self) -> bool {
        false
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        let stored = self.stored();
        stored.sealed.iter().filter_map(|segment| Some(segment.info(segment.end()?))).collect()
    }

    fn trim(&self, below: Lsn) -> BoxFuture<'_, Result<(), AppendError>> {
        Box::pin(async move {
            self.check_open()?;
            self.stored().sealed.retain(|segment| segment.end().is_some_and(|end| below < end));
            Ok(())
        })
    }

    fn health(&self) -> LogHealth {
        let stored = self.stored();
        LogHealth {
            durable: stored.next_lsn,
            segments: stored.sealed.len() as u64 + 1,
            frames_total: stored.next_lsn,
            events_total: stored.events_total,
            state_groups_total: stored.last_seq,
            ..LogHealth::default()
        }
    }

    fn failed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn close(&self, _patience: Duration) -> BoxFuture<'_, ()> {
        self.run().is_closed = true;
        Box::pin(std::future::ready(()))
    }
}

/// A [`ResourceStore`] in memory.
#[derive(Debug, Default)]
pub struct ModelResources {
    stored: Mutex<StoredResources>,
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct StoredResources {
    resources: BTreeMap<String, (Revision, Vec<u8>)>,
    sequences: BTreeMap<String, u32>,
    revision: u64,
}

impl ModelResources {
    pub fn new() -> Self {
        Self::default()
    }

    fn stored(&self) -> MutexGuard<'_, StoredResources> {
        self.stored.lock().expect("no panic while the resources are held")
    }

    fn write(&self, stored: &mut StoredResources, key: &str, value: Vec<u8>) -> Revision {
        stored.revision += 1;
        let revision = Revision(stored.revision);
        stored.resources.insert(key.to_owned(), (revision, value));
        self.written.send_replace(revision.0);
        revision
    }

    fn create_now(&self, key: &str, value: Vec<u8>) -> Result<Revision, ResourceError> {
        let mut stored = self.stored();
        if stored.resources.contains_key(key) {
            return Err(ResourceError::Exists { key: key.to_owned() });
        }
        Ok(self.write(&mut stored, key, value))
    }

    fn update_now(&self, key: &str, value: Vec<u8>, expected: Revision) -> Result<Revision, ResourceError> {
        let mut stored = self.stored();
        match stored.resources.get(key) {
            None => Err(ResourceError::Missing { key: key.to_owned() }),
            Some((revision, _)) if *revision != expected => {
                Err(ResourceError::Changed { key: key.to_owned() })
            }
            Some(_) => Ok(self.write(&mut stored, key, value)),
        }
    }

    fn delete_now(&self, keys: &[String]) {
        let mut stored = self.stored();
        let before = stored.resources.len();
        stored.resources.retain(|key, _| !keys.contains(key));
        if stored.resources.len() < before {
            stored.revision += 1;
            self.written.send_replace(stored.revision);
        }
    }

    fn next_numbers_now(&self, sequence: &str, count: u32) -> Result<u32, ResourceError> {
        let mut stored = self.stored();
        let next = stored.sequences.entry(sequence.to_owned()).or_default();
        let first = *next;
        *next = first.checked_add(count).ok_or_else(|| {
            ResourceError::Failed(format!("the numbers of the sequence `{sequence}` are used up"))
        })?;
        Ok(first)
    }
}

fn resource(key: &str, (revision, value): &(Revision, Vec<u8>)) -> Resource {
    Resource { key: key.to_owned(), revision: *revision, value: value.clone() }
}

impl ResourceStore for ModelResources {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Resource>, ResourceError>> {
        Box::pin(async move { Ok(self.stored().resources.get(key).map(|entry| resource(key, entry))) })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Resource>, ResourceError>> {
        Box::pin(async move {
            let stored = self.stored();
            let listed = stored.resources.iter().filter(|(key, _)| key.starts_with(prefix));
            Ok(listed.map(|(key, entry)| resource(key, entry)).collect())
        })
    }

    fn create<'a>(&'a self, key: &'a str, value: Vec<u8>) -> BoxFuture<'a, Result<Revision, ResourceError>> {
        Box::pin(async move { self.create_now(key, value) })
    }

    fn update<'a>(
        &'a self,
        key: &'a str,
        value: Vec<u8>,
        expected: Revision,
    ) -> BoxFuture<'a, Result<Revision, ResourceError>> {
        Box::pin(async move { self.update_now(key, value, expected) })
    }

    fn delete(&self, keys: Vec<String>) -> BoxFuture<'_, Result<(), ResourceError>> {
        Box::pin(async move {
            self.delete_now(&keys);
            Ok(())
        })
    }

    fn next_numbers<'a>(
        &'a self,
        sequence: &'a str,
        count: u32,
    ) -> BoxFuture<'a, Result<u32, ResourceError>> {
        Box::pin(async move { self.next_numbers_now(sequence, count) })
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }
}
