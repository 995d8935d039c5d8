//! Files that were segments before, and readers that are still inside.

use std::sync::Arc;

use gridwire_core::ids::{Lsn, Offset, Slot, TopicNumber};
use gridwire_outside::MemoryDisk;
use gridwire_store::Log;
use gridwire_store::embedded::EmbeddedLog;

use crate::crash::Place;
use crate::effort;
use crate::history::World;
use crate::node::{clock, draft, event, now, open_log, options, poll};

const TOPIC: TopicNumber = TopicNumber(1);

fn append(log: &EmbeddedLog, life: u64, offset: u64) {
    // All lives' frames have the same places and lengths, so that only their checksums tell them apart.
    let name = format!("{life}-{offset:05}");
    let event = event(&name, vec![5; 480]);
    let appended = now(log.append_events(draft(TOPIC, &[event], &[Slot(1)]))).expect("it is appended");
    assert_eq!(appended.first, Offset(offset));
}

fn check(log: &EmbeddedLog, life_of: &[u64]) {
    let (start, end) = (log.start(TOPIC).0, log.end(TOPIC).0);
    assert_eq!(end, life_of.len() as u64);
    let frames = crate::node::read_all(log).expect("it is read");
    let firsts: Vec<u64> = frames.iter().map(|frame| frame.first.0).collect();
    assert_eq!(firsts, (start..end).collect::<Vec<_>>());
    let events = now(log.fetch(TOPIC, (start..end).map(Offset).collect())).expect("they are fetched");
    for event in events {
        let offset = event.offset.0;
        let decoded = gridwire_core::event::Event::decode(&event.event).expect("it is an event");
        let life = life_of[usize::try_from(offset).expect("it is small")];
        assert_eq!(decoded.id, format!("{life}-{offset:05}"));
    }
}

#[test]
fn a_recycled_file_shows_nothing_of_its_former_lives_wherever_it_is_cut() {
    for seed in 0..60 * effort() {
        let _place = Place(format!("seed {seed}"));
        let (disk, clock) = (MemoryDisk::new(), clock());
        let mut life_of = Vec::new();
        for life in 0..3 {
            let log = open_log(&disk, &clock, options()).expect("it opens");
            check(&log, &life_of);
            let until = life_of.len() as u64 + 40 + (seed * 7 + life) % 90;
            while (life_of.len() as u64) < until {
                append(&log, life, life_of.len() as u64);
                life_of.push(life);
            }
            // All but the newest go, and become segments again.
            if let Some(last) = log.segments().last() {
                now(log.trim(last.end)).expect("it is trimmed");
            }
            for _ in 0..(seed % 50) {
                append(&log, life, life_of.len() as u64);
                life_of.push(life);
            }
            check(&log, &life_of);
            drop(log);
            disk.crash(seed * 10 + life);
        }
        check(&open_log(&disk, &clock, options()).expect("it opens"), &life_of);
    }
}

#[test]
fn a_reader_inside_a_segment_that_is_let_go_sees_its_events_or_none() {
    // With threads, so that reads and trims run side by side.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("it starts");
    for seed in 0..4 * effort() {
        let disk = MemoryDisk::new();
        let options = gridwire_store::embedded::EmbeddedOptions { threads: true, ..options() };
        let log = open_log(&disk, &clock(), options).expect("it opens");
        runtime.block_on(async {
            let mut readers = tokio::task::JoinSet::new();
            let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
            for reader in 0..3u64 {
                let (log, done) = (Arc::clone(&log), Arc::clone(&done));
                readers.spawn(async move {
                    let mut at = reader * 11;
                    let mut seen = 0u64;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) || seen == 0 {
                        let (start, end) = (log.start(TOPIC).0, log.end(TOPIC).0);
                        at = if start < end { start + (at * 31 + 7) % (end - start) } else { start };
                        let wanted = (at..(at + 5).min(end)).map(Offset).collect();
                        for event in log.fetch(TOPIC, wanted).await.expect("it is fetched") {
                            let decoded = gridwire_core::event::Event::decode(&event.event).expect("whole");
                            assert_eq!(decoded.id, format!("{seed}-{:05}", event.offset.0));
                            seen += 1;
                        }
                        let found = log.scan(TOPIC, Slot(1), Offset(at), 5).await.expect("it is scanned");
                        assert!(found.lost.is_empty());
                        if at < end {
                            for frame in log.read(Lsn(at), 2_000).await.expect("it is read") {
                                let event = frame.view().events().next().expect("it has one");
                                let bytes = event.event_bytes().expect("whole");
                                let decoded = gridwire_core::event::Event::decode(bytes).expect("whole");
                                assert_eq!(decoded.id, format!("{seed}-{:05}", frame.first.0));
                            }
                        }
                        tokio::task::yield_now().await;
                    }
                });
            }
            for offset in 0..900 {
                let name = format!("{seed}-{offset:05}");
                let frame = draft(TOPIC, &[event(&name, vec![5; 480])], &[Slot(1)]);
                log.append_events(frame).await.expect("it is appended");
                if offset % 60 == 59
                    && let Some(last) = log.segments().last()
                {
                    log.trim(last.end).await.expect("it is trimmed");
                }
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            while let Some(ended) = readers.join_next().await {
                ended.expect("a reader saw what it should");
            }
            assert_eq!(log.health().damaged_frames_total, 0, "recycling is no damage");
        });
    }
}

#[test]
fn a_history_that_recycles_is_whole_after_every_restart() {
    for seed in 700..700 + 10 * effort() {
        let _place = Place(format!("seed {seed}"));
        let mut world = World::new(seed);
        for life in 0..5 {
            world.run(60, 1).expect("nothing goes wrong");
            world.crash(seed * 10 + life);
            world.check(1);
        }
    }
}

#[test]
fn a_read_of_what_was_let_go_meanwhile_is_answered() {
    let (disk, clock) = (MemoryDisk::new(), clock());
    let log = open_log(&disk, &clock, options()).expect("it opens");
    (0..150).for_each(|offset| append(&log, 0, offset));
    now(log.trim(log.segments().last().expect("it has some").end)).expect("it is trimmed");
    let frames = poll(log.read(Lsn(0), 100)).expect("there are some").expect("it is read");
    assert_eq!(frames[0].first, log.start(TOPIC));
    assert!(now(log.fetch(TOPIC, vec![Offset(0)])).expect("it is fetched").is_empty());
}
