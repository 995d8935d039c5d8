//! The embedded log's promises, one test each.

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

#[test]
fn what_is_appended_is_read_scanned_and_fetched() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    let first = now(log.append_events(draft(TOPIC, "a", 10, &[&[0], &[1], &[0, 1]]))).unwrap();
    let other = now(log.append_events(draft(TopicNumber(2), "b", 10, &[&[0]]))).unwrap();
    let second = now(log.append_events(draft(TOPIC, "c", 2_000, &[&[0, 2], &[1]]))).unwrap();
    assert_eq!((first.first, other.first, second.first), (Offset(0), Offset(0), Offset(3)));
    let check = |log: &EmbeddedLog| {
        let frames = read_all(log, Lsn(0));
        let seen: Vec<_> =
            frames.iter().map(|frame| (frame.lsn, frame.topic, frame.first, frame.count)).collect();
        let lsns = [first.lsn, other.lsn, second.lsn];
        let expected = [(TOPIC, Offset(0), 3), (TopicNumber(2), Offset(0), 1), (TOPIC, Offset(3), 2)];
        assert_eq!(seen, lsns.iter().zip(expected).map(|(l, (t, f, c))| (*l, t, f, c)).collect::<Vec<_>>());
        for (slot, offsets) in [(0, vec![0, 2, 3]), (1, vec![1, 2, 4]), (2, vec![3]), (9, vec![])] {
            for max in [1, 2, 100] {
                let found = scan_all(log, slot, max);
                assert_eq!(found.iter().map(|matched| matched.offset.0).collect::<Vec<_>>(), offsets);
            }
        }
        let events = now(log.fetch(TOPIC, [1, 2, 4].map(Offset).to_vec())).unwrap();
        assert_eq!(events.iter().map(id).collect::<Vec<_>>(), ["a-1", "a-2", "c-1"]);
        let matched = scan_all(log, 1, 10);
        for (event, matched) in events.iter().zip(matched) {
            assert_eq!((event.offset, event.time), (matched.offset, matched.time));
            assert_eq!(event.event.len(), matched.size as usize);
        }
        assert_eq!((log.start(TOPIC), log.end(TOPIC)), (Offset(0), Offset(5)));
        assert_eq!(log.position(), (second.lsn.next(), second.time));
    };
    check(&log);
    now(log.close(Duration::from_secs(1)));
    drop(log);
    let log = open(&disk);
    check(&log);
    // The mark of the clean end took a number of its own.
    let third = append(&log, "d", 1).unwrap();
    assert_eq!((third.first, third.lsn), (Offset(5), Lsn(second.lsn.0 + 2)));
    assert_eq!(read_all(&log, second.lsn).len(), 2);
}

#[test]
fn segments_follow_each_other_and_all_of_them_are_readable() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 600, 500);
    assert!(log.segments().len() > 3);
    check_filled(&log);
    drop(log);
    let log = open(&disk);
    check_filled(&log);
    fill_to(&log, 700, 500);
    check_filled(&log);
}

#[test]
fn an_index_that_is_deleted_or_damaged_is_built_again() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 500, 500);
    check_filled(&log);
    let path = index_path(&log_dir(), 1);
    let good = disk.contents(&path).expect("it was written");
    drop(log);
    for damage in 0..4 {
        match damage {
            0 => disk.remove(&path).unwrap(),
            1 => disk.put(&path, good[..good.len() / 2].to_vec()),
            2 => assert!(disk.flip_bit(&path, 100, 3)),
            _ => disk.put(&path, disk.contents(&index_path(&log_dir(), 2)).unwrap()),
        }
        let log = open(&disk);
        check_filled(&log);
        assert!(disk.contents(&path).is_some_and(|bytes| good.len() <= bytes.len()), "damage {damage}");
    }
}

#[test]
fn ends_survive_the_trimming_of_all_their_segments() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    let other = TopicNumber(9);
    now(log.append_events(draft(other, "x", 10, &[&[0], &[0]]))).unwrap();
    fill_to(&log, 500, 500);
    let segments = log.segments();
    assert_eq!(segments[0].topics.len(), 2);
    let last = segments.last().unwrap();
    now(log.trim(last.end)).unwrap();
    assert_eq!(log.segments(), []);
    assert_eq!((log.start(other), log.end(other)), (Offset(2), Offset(2)));
    assert_eq!(log.start(TOPIC).0, last.topics[0].last.0 + 1);
    check_filled(&log);
    drop(log);
    let log = open(&disk);
    assert_eq!((log.start(other), log.end(other)), (Offset(2), Offset(2)));
    check_filled(&log);
    assert_eq!(now(log.append_events(draft(other, "y", 10, &[&[0]]))).unwrap().first, Offset(2));
    assert!(log.health().spares > 0);
}

#[test]
fn a_recycled_file_yields_none_of_its_old_frames() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 500, 500);
    now(log.trim(log.segments().last().unwrap().end)).unwrap();
    let spares = log.health().spares;
    // Into the first recycled file, and then the power goes.
    while log.health().spares == spares {
        append(&log, &log.end(TOPIC).to_string(), 500).unwrap();
    }
    let end = log.end(TOPIC);
    drop(log);
    disk.crash(1);
    let log = open(&disk);
    assert_eq!(log.end(TOPIC), end);
    check_filled(&log);
}

#[test]
fn a_reader_keeps_its_file_from_being_recycled() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 300, 500);
    let reader = log.shared.segment_of(0).unwrap();
    let first_end = log.segments()[0].end;
    now(log.trim(first_end)).unwrap();
    assert_eq!((reader.number, log.health().spares), (1, 0));
    let end_at = reader.state().contents.end_at;
    assert!(reader.window(end_at, 0).frame(reader.state().contents.data_at).unwrap().is_some());
}

#[test]
fn a_torn_tail_is_cut_and_written_over() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 10, 100);
    let path = segment_path(&log_dir(), 1);
    let end_at = log.shared.last_segment().unwrap().state().contents.end_at;
    drop(log);
    let bytes = disk.contents(&path).unwrap();
    // The last frame is torn, at every place.
    for keep in 1..60 {
        let mut torn = bytes.clone();
        torn.truncate(usize::try_from(end_at).unwrap() - keep);
        disk.put(&path, torn);
        let log = open(&disk);
        assert_eq!(log.end(TOPIC), Offset(9));
        check_filled(&log);
        fill_to(&log, 12, 100);
        check_filled(&log);
    }
}

#[test]
fn a_segment_that_is_found_at_a_start_keeps_its_name() {
    for seed in 0..20 {
        let disk = MemoryDisk::new();
        let log = open(&disk);
        fill_to(&log, 1, 10);
        // The next segment has its name, and nobody knows whether for good.
        disk.fail_nth(Call::SyncDir, 1, std::io::ErrorKind::Other, false);
        let refused = (1..100).find_map(|count| append(&log, &count.to_string(), 6_000).err());
        assert_eq!(refused, Some(AppendError::Failed));
        disk.kill();
        let log = open(&disk);
        fill_to(&log, 30, 10);
        disk.crash(seed);
        let log = open(&disk);
        assert_eq!(log.end(TOPIC), Offset(30), "seed {seed}");
        check_filled(&log);
    }
}

#[test]
fn what_is_found_after_a_failed_flush_outlives_the_next_power_cut() {
    for flush in 1..60 {
        let disk = MemoryDisk::new();
        let log = open(&disk);
        // A frame, a new segment's header, or the footer of the one before it: shown, and not on the disk.
        disk.fail_nth(Call::Sync, flush, std::io::ErrorKind::Other, false);
        let failed = (0..60).find(|count| append(&log, &count.to_string(), 6_000).is_err());
        let acknowledged = failed.expect("the flush is reached");
        disk.kill();
        let log = open(&disk);
        assert!(acknowledged <= log.end(TOPIC).0);
        let end = log.end(TOPIC).0 + 40;
        fill_to(&log, end, 6_000);
        disk.crash(flush);
        let log = open(&disk);
        assert_eq!(log.end(TOPIC), Offset(end), "flush {flush}");
        check_filled(&log);
    }
}

#[test]
fn a_damaged_middle_is_refused_with_its_place_and_topics() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 10, 100);
    now(log.close(Duration::from_secs(1)));
    let contents = log.shared.last_segment().unwrap().state().contents.clone();
    drop(log);
    let path = segment_path(&log_dir(), 1);
    let sound = disk.contents(&path).unwrap();
    // Any byte of any frame but the mark, lengths included.
    let mark = contents.end_at - FRAME_HEADER as u64;
    for byte in (contents.data_at..mark).step_by(7) {
        assert!(disk.flip_bit(&path, byte, 2));
        let error = try_open(&disk, options()).expect_err("it is refused");
        let OpenError::Damaged(damage) = &error else { panic!("{error}") };
        assert_eq!(damage.file, path);
        assert!(damage.bytes.contains(&byte), "{byte}: {damage}");
        // Behind the last event frame comes only the mark, which tells of no topic.
        if damage.bytes.end < mark {
            assert_eq!(damage.topics, [TOPIC]);
        }
        disk.put(&path, sound.clone());
    }
    check_filled(&open(&disk));
}

#[test]
fn damage_to_a_sealed_segment_is_refused_or_reported_when_read() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 400, 500);
    check_filled(&log);
    let log_segments = log.health().segments;
    drop(log);
    let refused = |byte: u64, segment: u64| {
        let path = segment_path(&log_dir(), segment);
        let sound = disk.contents(&path).unwrap();
        assert!(disk.flip_bit(&path, byte, 0));
        let error = try_open(&disk, options()).expect_err("it is refused");
        assert!(matches!(&error, OpenError::Damaged(damage) if damage.file == path), "{error}");
        disk.put(&path, sound);
    };
    refused(20, 1);
    refused((64 << 10) - 20, 1);
    refused(4096 + 3, log_segments);

    let path = segment_path(&log_dir(), 1);
    assert!(disk.flip_bit(&path, 4096 + 300, 0));
    let log = open(&disk);
    assert_eq!(now(log.fetch(TOPIC, vec![Offset(0)])), Ok(Vec::new()));
    let health = log.health();
    assert_eq!((health.damaged_frames_total, health.damaged_events_total), (1, 1));
    assert_eq!((health.damages[0].segment, health.damages[0].bytes.start), (1, 4096));
    assert!(now(log.fetch(TOPIC, vec![Offset(1)])).is_ok());
    disk.remove(&path).unwrap();
    drop(log);
    assert!(try_open(&disk, options()).is_ok(), "the oldest may have been trimmed");
    disk.remove(&segment_path(&log_dir(), 3)).unwrap();
    assert!(matches!(try_open(&disk, options()), Err(OpenError::Damaged(_))), "a gap is damage");
}

#[test]
fn the_scrubber_finds_damage_that_nobody_met_and_goes_on_after_a_read_that_fails() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 400, 500);
    let sealed = log.segments().len() as u64;
    let pass = |log: &EmbeddedLog| {
        let mut scrub = scrub::Scrub::default();
        (1..1_000).find(|_| scrub.step(&log.shared)).expect("a pass ends")
    };
    assert_eq!((pass(&log), log.health().damaged_frames_total), (sealed + 1, 0));
    assert!(disk.flip_bit(&segment_path(&log_dir(), 2), 20_000, 1));
    disk.fail_nth(Call::Read, 1, std::io::ErrorKind::Other, true);
    assert_eq!((pass(&log), log.health().damaged_frames_total), (sealed + 1, 0));
    disk.heal();
    pass(&log);
    pass(&log);
    let health = log.health();
    assert_eq!((health.damaged_frames_total, health.damaged_events_total), (1, 1));
    assert_eq!(health.damages[0].segment, 2);
}

#[test]
fn a_missing_footer_of_the_last_sealed_segment_is_written_again() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 200, 500);
    let sealed = log.segments();
    drop(log);
    let path = segment_path(&log_dir(), sealed.last().unwrap().number);
    assert!(disk.flip_bit(&path, (64 << 10) - 20, 0));
    let log = open(&disk);
    assert_eq!(log.segments(), sealed);
    check_filled(&log);
    drop(log);
    assert_eq!(open(&disk).segments(), sealed);
}

#[test]
fn a_frame_planted_in_a_payload_is_taken_for_nothing() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    // Well formed but for the store id, which no publisher knows; it claims that all before was durable.
    let header = FrameHeader {
        lsn: 2,
        durable: 2,
        topic: TOPIC,
        count: 1,
        first: Offset(2),
        time: Timestamp::from_millis(1_000),
    };
    let mut planted = Vec::new();
    header.encode(b"body", format::seed([0; 16], 1), &mut planted);
    let mut frame = FrameBuilder::new(TOPIC, 0);
    let mut set = MatchSet::default();
    set.push(Slot(0));
    let mut carrier = event("1-0", 0);
    carrier.data = Data::Binary(planted.into());
    frame.push(&set, &carrier);
    fill_to(&log, 1, 10);
    let at = log.shared.last_segment().unwrap().state().contents.end_at;
    now(log.append_events(frame.finish().unwrap())).unwrap();
    drop(log);
    // The carrier is torn at its front, so that the search walks over its payload.
    assert!(disk.flip_bit(&segment_path(&log_dir(), 1), at + 9, 0));
    let log = open(&disk);
    assert_eq!(log.end(TOPIC), Offset(1));
    check_filled(&log);
}

#[test]
fn after_a_failed_flush_nothing_is_answered_with_success() {
    for n in 1..12 {
        let disk = MemoryDisk::new();
        let log = open(&disk);
        disk.fail_nth(Call::Sync, n, std::io::ErrorKind::Other, false);
        let answers: Vec<_> = (0..200).map(|i| append(&log, &i.to_string(), 500)).collect();
        let failed = answers.iter().position(Result::is_err).expect("flush {n} fails");
        assert!(answers[failed..].iter().all(|answer| *answer == Err(AppendError::Failed)));
        assert!(log.health().failed);
        now(log.failed());
        assert_eq!(log.end(TOPIC), Offset(failed as u64));
        drop(log);
        disk.crash(n);
        let log = open(&disk);
        assert!(log.end(TOPIC).0 >= failed as u64);
        check_filled(&log);
    }
}

#[test]
fn a_full_disk_refuses_and_resumes_when_space_returns() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 10, 500);
    // At every amount of space from now on.
    for room in (0..150 << 10).step_by(11_000) {
        disk.set_capacity(Some(disk.used() + room));
        while append(&log, &log.end(TOPIC).to_string(), 500).is_ok() {}
        assert_eq!(append(&log, "refused", 500), Err(AppendError::StorageFull));
        assert!(log.health().full && !log.health().failed);
        disk.set_capacity(None);
        append(&log, &log.end(TOPIC).to_string(), 500).expect("space is back");
        assert!(!log.health().full);
    }
    check_filled(&log);
    drop(log);
    disk.crash(3);
    check_filled(&open(&disk));
}

#[test]
fn a_write_that_finds_no_space_loses_nothing_and_does_not_fail_the_log() {
    for call in [Call::Write, Call::Allocate] {
        for n in 1..25 {
            let disk = MemoryDisk::new();
            let log = open(&disk);
            disk.fail_nth(call, n, std::io::ErrorKind::StorageFull, false);
            for _ in 0..100 {
                match append(&log, &log.end(TOPIC).to_string(), 1_500) {
                    Ok(_) | Err(AppendError::StorageFull) => {}
                    Err(error) => panic!("{call:?} {n}: {error}"),
                }
            }
            let end = log.end(TOPIC);
            drop(log);
            disk.crash(n);
            let log = open(&disk);
            assert_eq!(log.end(TOPIC), end);
            check_filled(&log);
        }
    }
}

#[test]
fn a_full_queue_refuses_at_once() {
    let disk = MemoryDisk::new();
    let log = try_open(&disk, EmbeddedOptions { queue_bytes_max: 1_000, ..options() }).unwrap();
    // Alone it is taken, however small the queue.
    assert!(append(&log, "0", 3_000).is_ok());
    log.shared.queue_bytes.store(900, Ordering::Relaxed);
    assert_eq!(append(&log, "1", 10), Err(AppendError::Overloaded));
    log.shared.queue_bytes.store(0, Ordering::Relaxed);
    assert!(append(&log, "1", 10).is_ok());
    assert!(matches!(append(&log, "2", 100 << 10), Err(AppendError::TooLarge { .. })));
    assert_eq!(log.health().queue_bytes, 0);
}

#[test]
fn the_writer_as_a_value_answers_each_append_of_a_batch_in_order() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    let flushes = disk.calls(Call::Sync);
    let drafts = (0..20).map(|i| draft(TOPIC, &i.to_string(), 100, &[&[0]])).collect();
    for (offset, answer) in (0..).zip(append_batch(&log, drafts)) {
        assert_eq!(answer.unwrap().first, Offset(offset));
    }
    // One for the new segment's header, one for the group.
    assert_eq!(disk.calls(Call::Sync) - flushes, 2);
    check_filled(&log);
}

#[test]
fn with_threads_many_callers_are_answered_and_a_reader_waits_for_the_next_frame() {
    let disk = MemoryDisk::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let log = try_open(&disk, EmbeddedOptions { threads: true, ..options() }).unwrap();
        let reader = log.clone();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let (mut next, mut count) = (Lsn(0), 0);
            while count < 400 {
                let frames = reader.read(next, 10_000).await.unwrap();
                next = frames.last().unwrap().lsn.next();
                count += frames.len();
            }
        });
        for caller in 0..8 {
            let log = log.clone();
            tasks.spawn(async move {
                for i in 0..50 {
                    let name = format!("{caller}-{i}");
                    let appended = log.append_events(draft(TOPIC, &name, 300, &[&[0]])).await.unwrap();
                    let events = log.fetch(TOPIC, vec![appended.first]).await.unwrap();
                    assert_eq!(id(&events[0]), format!("{name}-0"));
                }
            });
        }
        tasks.join_all().await;
        assert_eq!(log.scan(TOPIC, Slot(0), Offset(0), 100).await.unwrap().matches.len(), 100);
        log.trim(log.segments()[0].end).await.unwrap();
        log.close(Duration::from_secs(5)).await;
        let late = log.append_events(draft(TOPIC, "late", 1, &[&[0]])).await;
        assert_eq!(late, Err(AppendError::Failed));
    });
    // Closing released the directory although the log still exists somewhere.
    assert_eq!(open(&disk).end(TOPIC), Offset(400));
}

#[test]
fn recovery_reads_one_segment_whatever_the_backlog() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 1_500, 500);
    let segments = log.health().segments;
    drop(log);
    let before = disk.calls(Call::Read);
    drop(open(&disk));
    let reads = disk.calls(Call::Read) - before;
    // Header, the footer's end and the footer of each, and a few for the last and the state log.
    assert!(reads < segments * 3 + 20, "{reads} reads for {segments} segments");
}

/// What was answered with success, by topic and offset: the event's name and size.
type Acknowledged = BTreeMap<(TopicNumber, u64), (String, usize)>;

fn check_acknowledged(log: &EmbeddedLog, acknowledged: &Acknowledged) -> Result<(), String> {
    for topic in (0..3).map(TopicNumber) {
        let retained = (topic, log.start(topic).0)..=(topic, u64::MAX);
        let expected: Vec<_> = acknowledged.range(retained).collect();
        let offsets = expected.iter().map(|((_, offset), _)| Offset(*offset)).collect();
        let events = now(log.fetch(topic, offsets)).map_err(|error| error.to_string())?;
        if events.len() != expected.len() {
            return Err(format!("{} of {} events are left", events.len(), expected.len()));
        }
        for (found, ((_, offset), (name, size))) in events.iter().zip(expected) {
            let mut bytes = Vec::new();
            event(name, *size).encode(&mut bytes);
            if found.offset.0 != *offset || found.event != bytes {
                return Err(format!("`{name}` is another event"));
            }
        }
    }
    let frames = read_all(log, Lsn(0));
    let rises = |pair: &[Frame]| pair[0].lsn < pair[1].lsn && pair[0].time <= pair[1].time;
    frames.windows(2).all(rises).then_some(()).ok_or_else(|| "frames are out of order".into())
}

/// A batch of frames for random topics; notes what is acknowledged.
fn append_random(
    log: &EmbeddedLog,
    rng: &SeededRng,
    tag: &str,
    acknowledged: &mut Acknowledged,
) -> Result<(), String> {
    let size = usize::try_from(rng.below(2_000)).expect("it is small");
    let (mut drafts, mut names) = (Vec::new(), Vec::new());
    for frame in 0..=rng.below(3) {
        let topic = TopicNumber(u32::try_from(rng.below(3)).expect("it is small"));
        let (name, count) = (format!("{tag}-{frame}"), 1 + rng.below(3));
        let matched: Vec<&[u32]> = (0..count).map(|_| &[0u32, 3][..]).collect();
        drafts.push(draft(topic, &name, size, &matched));
        names.push((topic, name, count));
    }
    for (answer, (topic, name, count)) in append_batch(log, drafts).into_iter().zip(names) {
        let Ok(appended) = answer else { continue };
        for index in 0..count {
            let event = (format!("{name}-{index}"), size);
            if acknowledged.insert((topic, appended.first.0 + index), event).is_some() {
                return Err(format!("`{name}` was given an offset that was taken"));
            }
        }
    }
    Ok(())
}

/// Random appends, trims, faults and restarts with power cuts; all that was answered must stay.
fn run_with_crashes(seed: u64, plant_missing_flush: bool) -> Result<(), String> {
    let disk = MemoryDisk::new();
    let rng = SeededRng::new(seed);
    let options = EmbeddedOptions { plant_missing_flush, ..options() };
    let mut acknowledged = Acknowledged::new();
    for round in 0..6 {
        let log = try_open(&disk, options.clone()).map_err(|error| error.to_string())?;
        check_acknowledged(&log, &acknowledged)?;
        if rng.below(3) == 0 {
            disk.fail_nth(Call::Any, 1 + rng.below(200), std::io::ErrorKind::Other, true);
        }
        for step in 0..rng.below(60) {
            append_random(&log, &rng, &format!("{seed}-{round}-{step}"), &mut acknowledged)?;
            let oldest = log.segments().first().map(|segment| segment.end);
            if let Some(end) = oldest.filter(|_| rng.below(30) == 0) {
                let _ = now(log.trim(end));
            }
        }
        if rng.below(4) == 0 {
            now(log.close(Duration::from_secs(1)));
        }
        drop(log);
        disk.heal();
        disk.crash(rng.next_u64());
    }
    Ok(())
}

#[test]
fn whatever_the_power_cut_all_that_was_acknowledged_is_there() {
    for seed in 0..60 {
        run_with_crashes(seed, false).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

#[test]
fn a_missing_flush_is_found_by_the_power_cuts() {
    assert!((0..20).any(|seed| run_with_crashes(seed, true).is_err()));
}
