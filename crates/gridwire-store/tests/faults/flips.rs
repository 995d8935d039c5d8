//! A flipped bit anywhere in what is durable: reported, or without any effect; never served, never silent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gridwire_core::ids::{StateSeq, SubscriptionNumber};
use gridwire_core::shard::SettleVerb;
use gridwire_outside::{Disk, MemoryDisk};
use gridwire_store::embedded::{EmbeddedLog, OpenError};
use gridwire_store::{Fetched, Log, Recovered};

use crate::crash::Place;
use crate::history::World;
use crate::node::{DIR, Node, clock, now, open_log, options, read_all};
use crate::{effort, knob, say};

/// Of bytes that are zero only every so many are tried: they are room for what comes.
const ZERO_STRIDE: usize = 67;

/// All that a store holds, as its users see it.
#[derive(Debug, PartialEq)]
pub(crate) struct Held {
    pub(crate) events: Vec<Vec<Fetched>>,
    frames: Vec<u64>,
    last: StateSeq,
    parts: BTreeMap<SubscriptionNumber, Vec<u8>>,
    pub(crate) groups: BTreeMap<StateSeq, Vec<u8>>,
}

pub(crate) fn held(log: &EmbeddedLog) -> Result<Held, String> {
    let mut events = Vec::new();
    for topic in [1, 2].map(gridwire_core::ids::TopicNumber) {
        let offsets = (log.start(topic).0..log.end(topic).0).map(gridwire_core::ids::Offset).collect();
        events.push(now(log.fetch(topic, offsets)).map_err(|error| error.to_string())?);
    }
    let frames = read_all(log)?.iter().map(|frame| frame.lsn.0).collect();
    let (mut parts, mut groups) = (BTreeMap::new(), BTreeMap::new());
    let last = log.recover(&mut |recovered| match recovered {
        Recovered::Part { subscription, state, .. } => {
            parts.insert(subscription, state.to_vec());
        }
        Recovered::Group { seq, decisions, .. } => {
            groups.insert(seq, decisions.to_vec());
        }
    });
    let last = last.map_err(|error| error.to_string())?;
    Ok(Held { events, frames, last, parts, groups })
}

/// A store that was closed in order: two segments or more, a snapshot, groups since.
pub(crate) fn store(seed: u64) -> MemoryDisk {
    let mut world = World::new(seed);
    let mut node = world.open(1).expect("it opens");
    let publish_and_receive = |world: &mut World, node: &mut Node| {
        world.publish(node).expect("it goes on").expect("it is published");
        for sub in world.subs.clone() {
            let received = node.receive(&sub, 2).expect("it is received");
            let tokens: Vec<_> = received.iter().map(|(token, _)| *token).take(1).collect();
            node.settle(&sub, SettleVerb::Acknowledge, &tokens).expect("it is settled");
        }
    };
    while node.log.segments().is_empty() {
        publish_and_receive(&mut world, &mut node);
    }
    node.snapshot().expect("it is taken");
    (0..6).for_each(|_| publish_and_receive(&mut world, &mut node));
    now(node.log.close(Duration::from_secs(1)));
    drop(node);
    // Only what is durable counts.
    world.disk.crash(seed);
    world.disk
}

pub(crate) fn files(disk: &MemoryDisk) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in ["", "log", "state"] {
        let dir = Path::new(DIR).join(dir);
        for name in disk.list(&dir).expect("it is there") {
            let path = dir.join(name);
            if disk.contents(&path).is_some_and(|bytes| !bytes.is_empty()) {
                files.push(path);
            }
        }
    }
    files
}

/// What came of a flipped bit.
#[derive(Debug, Default)]
struct Outcomes {
    tried: u64,
    refused: u64,
    lost: u64,
    harmless: u64,
}

fn flip(disk: &MemoryDisk, path: &Path, byte: usize, bit: u8, sound: &Held, outcomes: &mut Outcomes) {
    let _place = Place(format!("bit {bit} of byte {byte} of {}", path.display()));
    let disk = disk.fork();
    assert!(disk.flip_bit(path, byte as u64, bit));
    outcomes.tried += 1;
    let log = match open_log(&disk, &clock(), options()) {
        Ok(log) => log,
        Err(OpenError::Damaged(_) | OpenError::UnknownFormat { .. }) => {
            outcomes.refused += 1;
            return;
        }
        Err(error) => panic!("a changed byte is no {error}"),
    };
    let found = held(&log).expect("what opens can be read");
    let health = log.health();
    if health.damaged_frames_total > 0 {
        // Something is missing, and it is said what; the rest is what it was.
        outcomes.lost += 1;
        let mut missing = 0;
        for (found, sound) in found.events.iter().zip(&sound.events) {
            assert!(found.iter().all(|event| sound.contains(event)));
            missing += sound.len() - found.len();
        }
        assert_eq!(missing as u64, health.damaged_events_total);
        assert_eq!((found.last, &found.parts, &found.groups), (sound.last, &sound.parts, &sound.groups));
    } else {
        outcomes.harmless += 1;
        let is_same =
            (&found.events, &found.frames, &found.groups) == (&sound.events, &sound.frames, &sound.groups);
        // All groups since the beginning will do instead of a snapshot, where they are still there.
        let from_the_start = found.parts.is_empty() && found.groups.contains_key(&StateSeq(1));
        let has_state = found.parts == sound.parts || from_the_start;
        assert!(is_same && has_state, "it is served as if it were sound");
    }
}

/// Flips every bit but of zeros, which are room for what comes, in one store after another, until so many are flipped.
fn flip_many(count: u64) {
    let mut outcomes = Outcomes::default();
    for seed in 900.. {
        let disk = store(seed);
        let sound =
            held(&open_log(&disk.fork(), &clock(), options()).expect("it opens")).expect("it is read");
        for path in files(&disk) {
            let bytes = disk.contents(&path).expect("it is there");
            for (byte, _) in bytes.iter().enumerate().filter(|(_, value)| **value != 0) {
                for bit in 0..8 {
                    if outcomes.tried == count {
                        say(&format!("to seed {seed}: {outcomes:?}"));
                        return;
                    }
                    flip(&disk, &path, byte, bit, &sound, &mut outcomes);
                }
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_reported_or_harmless() {
    if let Some(count) = knob("GRIDWIRE_FLIPS") {
        return flip_many(count);
    }
    for seed in 800..800 + effort() {
        let disk = store(seed);
        let sound =
            held(&open_log(&disk.fork(), &clock(), options()).expect("it opens")).expect("it is read");
        assert!(!sound.parts.is_empty() && !sound.groups.is_empty() && sound.frames.len() > 15);
        let mut outcomes = Outcomes::default();
        let stride = if effort() == 1 { 7 } else { 1 };
        for path in files(&disk) {
            let bytes = disk.contents(&path).expect("it is there");
            let is_small = bytes.len() < 200;
            let mut next_zero = 0;
            for (byte, value) in bytes.iter().enumerate() {
                let is_wanted = if *value == 0 {
                    next_zero += 1;
                    next_zero % ZERO_STRIDE == 1
                } else {
                    // Every header and footer byte; of bodies, which are one checksum each, some.
                    is_small || byte < 4_200 || bytes.len() - byte < 300 || byte % stride == 0
                };
                if is_wanted {
                    let bit = (byte % 8).to_le_bytes()[0];
                    flip(&disk, &path, byte, bit, &sound, &mut outcomes);
                }
            }
        }
        say(&format!("seed {seed}: {outcomes:?}"));
        assert!(outcomes.refused > 100 && outcomes.lost > 100 && outcomes.harmless > 100);
    }
}
