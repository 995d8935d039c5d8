//! Damage found while the log runs: exactly the events of the damaged frames are lost, and everybody goes on.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gridwire_core::ids::{Lsn, Offset, Slot, TopicNumber};
use gridwire_core::lock_token::LockToken;
use gridwire_core::shard::SettleVerb;
use gridwire_outside::memory::Call;
use gridwire_outside::{Disk, ManualClock, MemoryDisk};
use gridwire_store::embedded::EmbeddedLog;
use gridwire_store::{Fetched, Log};

use crate::crash::Place;
use crate::effort;
use crate::ledger::Ledger;
use crate::node::{DIR, LOCK, Node, Sub, clock, draft, event, now, open_log, options, poll};

const ONE: TopicNumber = TopicNumber(1);
const TWO: TopicNumber = TopicNumber(2);

pub(crate) fn segment_file(number: u64) -> PathBuf {
    Path::new(DIR).join("log").join(format!("{number:020}.seg"))
}

fn index_file(number: u64) -> PathBuf {
    segment_file(number).with_extension("idx")
}

/// A frame where it is in its file; read by the format's description, not by the log's code.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) bytes: Range<u64>,
    lsn: u64,
    topic: TopicNumber,
    offsets: Range<u64>,
}

pub(crate) fn frames(disk: &MemoryDisk, segment: u64) -> Vec<Placed> {
    let bytes = disk.contents(&segment_file(segment)).expect("it is there");
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let mut lsn = u64_at(40);
    let mut at = 4096 + (u32_at(72) as usize * 12).next_multiple_of(4096);
    let mut frames = Vec::new();
    while at + 50 <= bytes.len() && u32_at(at) != 0 && u64_at(at + 8) == lsn {
        let end = at + 8 + u32_at(at) as usize;
        let first = u64_at(at + 32);
        frames.push(Placed {
            bytes: at as u64..end as u64,
            lsn,
            topic: TopicNumber(u32_at(at + 24)),
            offsets: first..first + u64::from(u32_at(at + 28)),
        });
        (at, lsn) = (end, lsn + 1);
    }
    frames
}

/// Sets bytes to zero, on the medium too.
fn zero(disk: &MemoryDisk, path: &Path, bytes: Range<u64>) {
    let contents = disk.contents(path).expect("it is there");
    for at in bytes {
        let byte = contents[usize::try_from(at).expect("it is small")];
        (0..8).filter(|bit| byte & (1 << bit) != 0).for_each(|bit| assert!(disk.flip_bit(path, at, bit)));
    }
}

/// Some segments of two topics, in frames of one to three events, all of them for slot 1 of their topic and
/// every other one of topic 1 for slot 2.
fn filled() -> (MemoryDisk, Arc<ManualClock>) {
    let (disk, clock) = (MemoryDisk::new(), clock());
    let log = open_log(&disk, &clock, options()).expect("it opens");
    let mut number = 0;
    while log.segments().len() < 3 {
        let topic = if number % 5 == 3 { TWO } else { ONE };
        let names: Vec<String> = (0..=number % 3).map(|index| format!("{number:03}-{index}")).collect();
        let size = 200 + usize::try_from(number % 4).expect("it is small") * 190;
        let events: Vec<_> = names.iter().map(|name| event(name, vec![9; size])).collect();
        let slots = if number % 2 == 0 { vec![Slot(1), Slot(2)] } else { vec![Slot(1)] };
        now(log.append_events(draft(topic, &events, &slots))).expect("it is appended");
        number += 1;
    }
    now(log.close(Duration::from_secs(1)));
    (disk, clock)
}

fn open(disk: &MemoryDisk, clock: &Arc<ManualClock>) -> Arc<EmbeddedLog> {
    open_log(disk, clock, options()).expect("it opens")
}

/// Everything of a topic, as far as it is found: by fetch, by scans, by reading on.
#[derive(Debug, PartialEq)]
struct Everything {
    fetched: Vec<Fetched>,
    scanned: BTreeSet<Offset>,
    lost: BTreeSet<Offset>,
    read: BTreeSet<Lsn>,
}

fn everything(log: &EmbeddedLog, topic: TopicNumber) -> Everything {
    let end = log.end(topic);
    let fetched = now(log.fetch(topic, (0..end.0).map(Offset).collect())).expect("it is fetched");
    let (mut scanned, mut lost, mut from) = (BTreeSet::new(), BTreeSet::new(), Offset(0));
    while from < end {
        let found = now(log.scan(topic, Slot(1), from, 5)).expect("it is scanned");
        assert!(from.0 < found.next);
        scanned.extend(found.matches.iter().map(|matched| matched.offset));
        lost.extend(found.lost.into_iter().flatten().map(Offset));
        from = Offset(found.next);
    }
    let mut read = BTreeSet::new();
    let mut next = Lsn(0);
    while next < log.position().0
        && let Some(frames) = poll(log.read(next, 3_000))
    {
        let frames = frames.expect("it is read");
        next = frames.last().expect("at least one").lsn.next();
        read.extend(frames.iter().filter(|frame| frame.topic == topic).map(|frame| frame.lsn));
    }
    Everything { fetched, scanned, lost, read }
}

/// Opens what was damaged and compares it with what was there before: `gone` is missing, nothing else.
fn check_lost(disk: &MemoryDisk, clock: &Arc<ManualClock>, gone: &[Placed], is_indexed: bool) {
    let sound = {
        let (disk, clock) = filled();
        let log = open(&disk, &clock);
        [ONE, TWO].map(|topic| everything(&log, topic))
    };
    let log = open(disk, clock);
    for (topic, mut expected) in [ONE, TWO].into_iter().zip(sound) {
        let of_topic = gone.iter().filter(|frame| frame.topic == topic);
        let lost: BTreeSet<Offset> =
            of_topic.clone().flat_map(|frame| frame.offsets.clone()).map(Offset).collect();
        expected.fetched.retain(|event| !lost.contains(&event.offset));
        expected.read.retain(|lsn| !gone.iter().any(|frame| frame.lsn == lsn.0));
        if !is_indexed {
            expected.scanned.retain(|offset| !lost.contains(offset));
            expected.lost = lost;
        }
        let found = everything(&log, topic);
        // What a sound index says that matched is still known, though it cannot be fetched.
        assert_eq!(found, expected, "topic {topic}");
    }
    let health = log.health();
    let events: u64 = gone.iter().map(|frame| frame.offsets.end - frame.offsets.start).sum();
    assert_eq!((health.damaged_frames_total, health.damaged_events_total), (gone.len() as u64, events));
    assert_eq!(health.damages.is_empty(), gone.is_empty());
}

#[test]
fn a_flipped_byte_loses_the_events_of_its_frame_and_no_others() {
    let (disk, clock) = filled();
    let placed = frames(&disk, 2);
    // The first, the last, the first of a block, some between.
    for frame in [0, 1, 2, placed.len() / 3, placed.len() / 2, placed.len() - 2, placed.len() - 1] {
        let frame = &placed[frame];
        let header =
            [0, 1, 2, 3, 4, 8, 9, 16, 24, 28, 29, 32, 39, 40, 48, 49].map(|at| frame.bytes.start + at);
        let body = (50..frame.bytes.end - frame.bytes.start).step_by(97).map(|at| frame.bytes.start + at);
        for byte in header.into_iter().chain(body) {
            let _place = Place(format!("byte {byte} of {frame:?}"));
            let disk = disk.fork();
            assert!(disk.flip_bit(&segment_file(2), byte, (byte % 8).to_le_bytes()[0]));
            check_lost(&disk, &clock, std::slice::from_ref(frame), false);
        }
    }
    check_lost(&disk, &clock, &[], false);
}

#[test]
fn with_an_index_from_before_the_damage_it_stays_known_whom_the_lost_events_matched() {
    let (disk, clock) = filled();
    // Asking once makes the index.
    let log = open(&disk, &clock);
    everything(&log, ONE);
    drop(log);
    assert!(disk.contents(&index_file(2)).is_some());
    let placed = frames(&disk, 2);
    for frame in [0, placed.len() / 2, placed.len() - 1] {
        for at in [0, 3, 9, 24, 60] {
            let frame = &placed[frame];
            let _place = Place(format!("byte {at} of {frame:?}"));
            let disk = disk.fork();
            assert!(disk.flip_bit(&segment_file(2), frame.bytes.start + at, 1));
            check_lost(&disk, &clock, std::slice::from_ref(frame), true);
        }
    }
}

#[test]
fn whole_sectors_and_whole_blocks_that_are_zero_lose_what_was_in_them() {
    let (disk, clock) = filled();
    let placed = frames(&disk, 2);
    let (start, end) = (placed[0].bytes.start, placed[placed.len() - 1].bytes.end);
    let mut cases: Vec<Range<u64>> = (start..end - 512).step_by(1_536).map(|at| at..at + 512).collect();
    cases.extend([start..start + 9_000, start + 7_000..end, start..end, end - 300..end]);
    for case in cases {
        let _place = Place(format!("bytes {case:?}"));
        let disk = disk.fork();
        zero(&disk, &segment_file(2), case.clone());
        let touched = |frame: &&Placed| frame.bytes.start < case.end && case.start < frame.bytes.end;
        let gone: Vec<Placed> = placed.iter().filter(touched).cloned().collect();
        check_lost(&disk, &clock, &gone, false);
    }
}

#[test]
fn a_frame_that_was_written_to_the_wrong_place_is_not_taken() {
    let (disk, clock) = filled();
    let path = segment_file(2);
    let placed = frames(&disk, 2);
    let len = |frame: &Placed| frame.bytes.end - frame.bytes.start;
    let (mut pairs, mut tried) = (Vec::new(), 0);
    for (index, one) in placed.iter().enumerate() {
        pairs.extend(placed[index + 1..].iter().filter(|other| len(one) == len(other)).map(|o| (one, o)));
    }
    for (one, other) in pairs {
        for (from, to) in [(one, other), (other, one)] {
            let _place = Place(format!("{from:?} at {to:?}"));
            let disk = disk.fork();
            let mut bytes = disk.contents(&path).expect("it is there");
            let index = |at: u64| usize::try_from(at).expect("it is small");
            let copy = bytes[index(from.bytes.start)..index(from.bytes.end)].to_vec();
            bytes[index(to.bytes.start)..index(to.bytes.end)].copy_from_slice(&copy);
            disk.put(&path, bytes);
            check_lost(&disk, &clock, std::slice::from_ref(to), false);
            tried += 1;
        }
    }
    assert!(tried >= 10, "{tried} pairs of frames have the same length");
}

#[test]
fn a_read_that_fails_loses_nothing() {
    let (disk, clock) = filled();
    let placed = frames(&disk, 2);
    let frame = &placed[placed.len() / 2];
    assert!(disk.flip_bit(&segment_file(2), frame.bytes.start + 70, 0));
    for forever in [false, true] {
        for n in 1..60 * effort() {
            let _place = Place(format!("read {n}, forever: {forever}"));
            let disk = disk.fork();
            let log = open(&disk, &clock);
            disk.fail_nth(Call::Read, n, ErrorKind::Other, forever);
            let end = log.end(ONE);
            let mut from = Offset(0);
            while from < end {
                let Ok(found) = now(log.scan(ONE, Slot(1), from, 5)) else { break };
                let lost: Vec<u64> = found.lost.into_iter().flatten().collect();
                assert!(lost.iter().all(|offset| frame.offsets.contains(offset)), "{lost:?}");
                from = Offset(found.next);
            }
            for offset in (0..end.0).step_by(3) {
                if let Ok(found) = now(log.fetch(ONE, vec![Offset(offset)])) {
                    assert_eq!(found.is_empty(), frame.topic == ONE && frame.offsets.contains(&offset));
                }
            }
            let _ = poll(log.read(Lsn(0), 1 << 20));
            assert!(log.health().damaged_frames_total <= 1 && !log.health().failed);
            disk.heal();
            drop(log);
            check_lost(&disk, &clock, std::slice::from_ref(frame), false);
        }
    }
}

#[test]
fn a_payload_that_holds_sound_frames_of_the_log_is_taken_for_nothing() {
    let (disk, clock) = (MemoryDisk::new(), clock());
    let log = open(&disk, &clock);
    let append = |name: &str, data: Vec<u8>| {
        let frame = draft(ONE, &[event(name, data)], &[Slot(1)]);
        now(log.append_events(frame)).expect("it is appended").first
    };
    for number in 0..5 {
        append(&number.to_string(), vec![1; 300]);
    }
    // Somebody publishes a copy of the log itself: every frame in it has the right checksum.
    let copy = disk.contents(&segment_file(1)).expect("it is there");
    let end = frames(&disk, 1).last().expect("it has frames").bytes.end;
    let carrier = append("copy", copy[4096..usize::try_from(end).expect("it is small")].to_vec());
    while log.segments().is_empty() {
        append("later", vec![1; 700]);
    }
    now(log.close(Duration::from_secs(1)));
    let all = log.end(ONE).0;
    drop(log);
    let frame = frames(&disk, 1).into_iter().find(|frame| frame.offsets.start == carrier.0);
    let frame = frame.expect("it is in the first segment");
    for at in [0, 1, 4, 9, 24, 32, 55] {
        let _place = Place(format!("byte {at}"));
        let disk = disk.fork();
        assert!(disk.flip_bit(&segment_file(1), frame.bytes.start + at, 0));
        let log = open(&disk, &clock);
        let found = everything(&log, ONE);
        assert_eq!(found.lost, BTreeSet::from([carrier]));
        assert_eq!(found.fetched.len() as u64, all - 1);
        assert_eq!(found.read.len() as u64, all - 1);
    }
}

/// A node with three subscriptions of a topic, and segments that are no longer in the cache.
struct Scene {
    node: Node,
    subs: Vec<Sub>,
    count: u64,
}

impl Scene {
    fn new(disk: &MemoryDisk) -> Self {
        let subs = vec![Sub::new(1, 1, false), Sub::new(2, 1, true), Sub::new(3, 1, false)];
        let node = Node::open(disk, &clock(), &subs, 1, options(), Ledger::default());
        let Ok(node) = node else { panic!("it opens") };
        let mut scene = Self { node, subs, count: 0 };
        while scene.node.log.segments().len() < 2 {
            scene.publish();
        }
        scene
    }

    fn publish(&mut self) {
        // All match 1 and 2; 3 matches every other one.
        let mut slots = vec![Slot(1), Slot(2)];
        slots.extend(self.count.is_multiple_of(2).then_some(Slot(3)));
        let name = self.count.to_string();
        let events = [event(&name, vec![3; 600])];
        self.node.publish(ONE, &events, &slots).expect("it goes on").expect("it is published");
        self.count += 1;
    }

    fn receive(&mut self, sub: usize, max: u32) -> Vec<LockToken> {
        let received = self.node.receive(&self.subs[sub], max).expect("it is received");
        received.into_iter().map(|(token, _)| token).collect()
    }

    fn drain(&mut self, sub: usize) -> Vec<u64> {
        let mut offsets = Vec::new();
        loop {
            let tokens = self.receive(sub, 7);
            if tokens.is_empty() {
                return offsets;
            }
            offsets.extend(tokens.iter().map(|token| token.offset.0));
            let results = self.node.settle(&self.subs[sub], SettleVerb::Acknowledge, &tokens);
            assert!(results.expect("it goes on").iter().all(Result::is_ok));
        }
    }

    /// Flips a byte of the frames with these offsets, `at` bytes from their front.
    fn damage(&self, offsets: &[u64], at: u64) {
        for segment in [1, 2] {
            for frame in frames(&self.node.disk, segment) {
                if offsets.contains(&frame.offsets.start) {
                    assert!(self.node.disk.flip_bit(&segment_file(segment), frame.bytes.start + at, 4));
                }
            }
        }
    }

    /// Delivered and dropped.
    fn totals(&self, sub: usize) -> (u64, u64) {
        let status = self.node.status().into_iter().find(|s| s.subscription == self.subs[sub].number);
        let totals = status.expect("it is there").totals;
        (totals.delivered, totals.dropped)
    }
}

#[test]
fn subscribers_at_the_tail_behind_and_with_locks_lose_only_the_damaged_events() {
    // In the length, the checksum, the header and the body of a frame.
    for (at, is_indexed) in
        [(0, false), (2, true), (5, false), (12, true), (25, false), (33, true), (200, false)]
    {
        let _place = Place(format!("byte {at}, index kept: {is_indexed}"));
        let disk = MemoryDisk::new();
        let mut scene = Scene::new(&disk);
        let count = scene.count;
        // At the tail: offsets 0 to 4 are locked by the first, and the rest waits for it.
        let held = scene.receive(0, 5);
        scene.damage(&[1, 3, 8, 9, 20], at);
        // A lock needs no bytes: it is settled, damaged or not.
        let first = &held[1..2];
        assert_eq!(scene.node.settle(&scene.subs[0], SettleVerb::Acknowledge, first).expect("ok"), [Ok(())]);
        let rest = scene.drain(0);
        let expected: Vec<u64> = (5..count).filter(|offset| ![8, 9, 20].contains(offset)).collect();
        assert_eq!(rest, expected);
        assert_eq!(scene.totals(0), (1 + expected.len() as u64, 3));
        // The locks run out: what is damaged is not handed out again, the rest is.
        scene.node.advance(LOCK + Duration::from_secs(1)).expect("time passes");
        assert_eq!(scene.drain(0), [0, 2, 4]);
        assert_eq!(scene.totals(0), (count - 4, 4));

        // Behind, after a restart: the third matches even offsets, of which 8 and 20 are damaged. Whom 1, 3 and
        // 9 matched can only be told by an index from before.
        if !is_indexed {
            disk.remove(&index_file(1)).expect("reading made it");
        }
        let ledger = std::mem::take(&mut scene.node.ledger);
        let subs = scene.subs.clone();
        drop(scene);
        disk.kill();
        let Ok(node) = Node::open(&disk, &clock(), &subs, 1, options(), ledger) else { panic!("it opens") };
        let mut scene = Scene { node, subs, count };
        let expected: Vec<u64> = (0..count).step_by(2).filter(|offset| ![8, 20].contains(offset)).collect();
        assert_eq!(scene.drain(2), expected);
        assert_eq!(scene.totals(2), (expected.len() as u64, if is_indexed { 2 } else { 5 }));
        assert_eq!(scene.drain(1).len() as u64, count - 5);
        assert_eq!(scene.totals(1), (count - 5, 5));
        assert_eq!(scene.totals(0), (count - 4, 4), "what it had settled stays settled");
        // Everybody got on, so the damaged segments may go.
        assert!(scene.node.status().iter().all(|status| status.floor.0 == count && !status.behind));
        scene.node.trim().expect("it is trimmed");
        assert!(scene.node.log.segments().len() < 2);
    }
}

#[test]
fn a_damaged_event_that_was_given_up_gets_no_dead_letter_and_is_counted_as_dropped() {
    let disk = MemoryDisk::new();
    let mut scene = Scene::new(&disk);
    let tokens = scene.receive(1, 4);
    scene.damage(&[2], 60);
    let sub = scene.subs[1].clone();
    scene.node.settle(&sub, SettleVerb::Reject, &tokens).expect("it goes on");
    let status = scene.node.status().into_iter().find(|status| status.subscription == sub.number);
    let totals = status.expect("it is there").totals;
    assert_eq!((totals.dead_lettered, totals.dropped), (3, 1));
    for offset in 0..4 {
        let letter = disk.contents(&Node::letter_path(sub.number, Offset(offset)));
        assert_eq!(letter.is_some(), offset != 2, "offset {offset}");
    }
}

#[test]
fn damage_in_the_segment_that_is_being_written_is_passed_too() {
    let disk = MemoryDisk::new();
    let mut scene = Scene::new(&disk);
    // The block that grows, and blocks of its segment that are done.
    let active = scene.node.log.segments().len() as u64 + 1;
    while frames(&disk, active).len() < 25 {
        scene.publish();
    }
    let placed = frames(&disk, active);
    let offsets: Vec<u64> = [2, 3, 12].map(|frame| placed[frame].offsets.start).to_vec();
    for (frame, at) in [(2, 0), (3, 40), (12, 90)] {
        assert!(disk.flip_bit(&segment_file(active), placed[frame].bytes.start + at, 2));
    }
    let count = scene.count;
    let expected: Vec<u64> = (0..count).filter(|offset| !offsets.contains(offset)).collect();
    assert_eq!(scene.drain(0), expected);
    // Indexes of damaged blocks grow on.
    (0..10).for_each(|_| scene.publish());
    assert_eq!(scene.drain(0), (count..count + 10).collect::<Vec<_>>());
    let log = Arc::clone(&scene.node.log);
    let all = everything(&log, ONE);
    assert_eq!(all.lost.iter().map(|offset| offset.0).collect::<Vec<_>>(), offsets);
    assert_eq!(all.fetched.len() as u64, count + 10 - 3);
    assert_eq!(log.health().damaged_events_total, 3);
}

#[test]
fn an_unreadable_disk_drops_nothing_however_often_it_is_asked() {
    let disk = MemoryDisk::new();
    let mut scene = Scene::new(&disk);
    let count = scene.count;
    let sub = scene.subs[1].clone();
    let token = scene.receive(1, 1);
    disk.fail_nth(Call::Read, 1, ErrorKind::Other, true);
    scene.node.settle(&sub, SettleVerb::Reject, &token).expect("it goes on");
    for _ in 0..50 {
        // What is in the cache may come; nothing may be given up.
        for sub in 0..3 {
            scene.drain(sub);
        }
        scene.node.advance(Duration::from_secs(3600)).expect("time passes");
    }
    assert!((0..3).all(|sub| scene.totals(sub).1 == 0));
    disk.heal();
    scene.node.advance(Duration::from_secs(3600)).expect("time passes");
    for sub in 0..3 {
        scene.drain(sub);
    }
    assert_eq!(scene.totals(0), (count, 0));
    assert_eq!(scene.totals(1), (count - 1, 0));
    assert_eq!(scene.totals(2), (count.div_ceil(2), 0));
    assert!(disk.contents(&Node::letter_path(sub.number, Offset(0))).is_some());
}
