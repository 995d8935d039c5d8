//! Calls of the disk that fail, and a disk that is full.

use std::io::ErrorKind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gridwire_outside::memory::Call;
use gridwire_store::{AppendError, Log};

use crate::crash::Place;
use crate::history::World;
use crate::node::Node;
use crate::{effort, knob, say};

const STEPS: u64 = 30;

/// After a failure the log must answer nothing with success any more.
fn check_ended(world: &mut World, node: &mut Node) {
    if node.log.health().failed {
        for _ in 0..2 {
            let answer = world.publish(node).unwrap_or(Err(AppendError::Failed));
            assert_eq!(answer, Err(AppendError::Failed), "nothing succeeds after a failure");
            assert!(node.flush().is_err() || node.log.health().failed);
        }
    }
}

/// One life in which the `n`-th call of a kind fails; then what comes after it.
fn fail(seed: u64, call: Call, n: u64, kind: ErrorKind, forever: bool) -> bool {
    let _place = Place(format!("seed {seed}, {call:?} {n}: {kind:?}, forever: {forever}"));
    let mut world = World::new(seed);
    world.run(STEPS, 1).expect("nothing goes wrong");
    world.kill();
    fail_next(world, call, n, kind, forever)
}

/// The same for a world that has a past. Whether there was an `n`-th call in this life.
fn fail_next(mut world: World, call: Call, n: u64, kind: ErrorKind, forever: bool) -> bool {
    let before = world.disk.calls(call);
    world.disk.fail_nth(call, n, kind, forever);
    if let Ok(mut node) = world.open(2) {
        for _ in 0..STEPS {
            if world.step(&mut node).is_err() {
                break;
            }
        }
        check_ended(&mut world, &mut node);
        world.ledger = std::mem::take(&mut node.ledger);
    }
    let is_reached = before + n <= world.disk.calls(call);
    world.disk.heal();
    // First what a kill leaves, which shows what the system believes is written; then what the disk has.
    let mut cut = world.fork();
    world.kill();
    world.check(1);
    world.crash(n);
    world.check(3);
    cut.crash(n);
    cut.check(2);
    is_reached
}

fn fail_every(call: Call, kind: ErrorKind, stride: u64) -> u64 {
    let mut tried = 0;
    for seed in 500..500 + effort() {
        for forever in [false, true] {
            let mut n = 1 + u64::from(forever) * (stride / 2);
            while fail(seed, call, n, kind, forever) {
                tried += 1;
                n += stride;
            }
        }
    }
    say(&format!("{tried} failing calls of {call:?} with {kind:?}"));
    tried
}

/// Every call to the disk of a long history fails, once and for ever: the history is lived in pieces, each with a
/// start, and in every piece each call fails in a copy of the world.
#[test]
fn every_call_of_a_history_may_fail() {
    let operations = knob("GRIDWIRE_OPERATIONS").unwrap_or(STEPS);
    let mut world = World::new(700);
    let mut worlds = Vec::new();
    for piece in 0..operations.div_ceil(STEPS) {
        worlds.extend([false, true].map(|forever| (piece, forever, world.fork())));
        let mut node = world.open(1).expect("nothing goes wrong");
        (0..STEPS).for_each(|_| world.step(&mut node).expect("nothing goes wrong"));
        let starts = world.subs.iter().map(|sub| (sub.topic, node.log.start(sub.topic))).collect();
        world.ledger = std::mem::take(&mut node.ledger);
        drop(node);
        world.kill();
        world.ledger.settle(&world.subs, starts);
    }
    let (worlds, tried) = (Mutex::new(worlds), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                // The longest histories first: they take longest.
                while let Some((piece, forever, world)) = next(&worlds) {
                    let fails = |n: &u64| {
                        let _place = Place(format!("piece {piece}, call {n}, forever: {forever}"));
                        fail_next(world.fork(), Call::Any, *n, ErrorKind::Other, forever)
                    };
                    // A piece ends long before its calls could be counted to that.
                    let failed = (1..u64::from(u32::MAX)).take_while(fails).count();
                    tried.fetch_add(failed, Ordering::Relaxed);
                }
            });
        }
    });
    let tried = tried.into_inner();
    say(&format!("{tried} failing calls in {operations} operations"));
    assert!(tried > 100);
}

fn next<T>(left: &Mutex<Vec<T>>) -> Option<T> {
    left.lock().expect("no panic while the list is held").pop()
}

fn stride() -> u64 {
    if effort() == 1 { 4 } else { 1 }
}

#[test]
fn a_call_that_fails_ends_the_log_or_harms_nothing() {
    assert!(fail_every(Call::Any, ErrorKind::Other, stride()) > 100);
}

#[test]
fn a_call_that_finds_no_space_ends_the_log_or_harms_nothing() {
    assert!(fail_every(Call::Any, ErrorKind::StorageFull, stride()) > 100);
}

#[test]
fn a_short_write_ends_the_log_or_harms_nothing() {
    assert!(fail_every(Call::Write, ErrorKind::WriteZero, 1) > 20);
}

#[test]
fn a_failed_flush_is_final() {
    assert!(fail_every(Call::Sync, ErrorKind::Other, 1) > 20);
}

/// A disk that is full from some amount of space on: publishing is refused, nothing is lost, and all goes on
/// by itself when space returns.
#[test]
fn whatever_the_space_left_nothing_is_lost_and_all_resumes() {
    let mut refused = 0;
    for seed in 600..600 + 2 * effort() {
        for room in (0..60 << 10).step_by(2_900) {
            let _place = Place(format!("seed {seed}, {room} bytes left"));
            let mut world = World::new(seed);
            let mut node = world.open(1).expect("it opens");
            (0..STEPS).for_each(|_| world.step(&mut node).expect("nothing goes wrong"));
            world.disk.set_capacity(Some(world.disk.used() + room));
            let mut is_stopped = false;
            for _ in 0..8 * STEPS {
                // A decision that finds no space ends this node, which does not wait as the broker does.
                if let Err(stopped) = world.step(&mut node) {
                    assert!(stopped.0.contains("no space"), "{stopped:?}");
                    assert!(!node.log.health().failed && node.log.health().state_full);
                    is_stopped = true;
                    break;
                }
            }
            refused += u64::from(is_stopped);
            if is_stopped {
                world.ledger = std::mem::take(&mut node.ledger);
                drop(node);
                world.kill();
                // Full or not, it opens; what it holds can be read.
                if let Ok(mut node) = world.open(1) {
                    node.ledger.check_events(&*node.log);
                    world.ledger = std::mem::take(&mut node.ledger);
                    drop(node);
                    world.kill();
                }
                world.disk.set_capacity(None);
                node = world.open(1).expect("it opens");
            } else {
                while world.publish(&mut node).expect("it goes on").is_ok() {}
                assert!(node.log.health().full && !node.log.health().failed);
                world.disk.set_capacity(None);
            }
            for _ in 0..STEPS {
                node.advance(Duration::from_secs(1)).expect("time passes");
                world.publish(&mut node).expect("it goes on").expect("space is back");
            }
            node.ledger.check(&node, &world.subs);
            world.ledger = std::mem::take(&mut node.ledger);
            drop(node);
            world.crash(seed + room);
            world.check(1);
        }
    }
    say(&format!("the state log found no space {refused} times"));
    assert!(refused > 0);
}

#[test]
fn low_space_is_told_before_publishing_stops_and_no_longer_when_there_is_enough() {
    let mut world = World::new(1);
    let mut node = world.open(1).expect("it opens");
    world.publish(&mut node).expect("it goes on").expect("it is published");
    assert!(!node.log.health().low_space);
    let segment = world.options.segment_bytes;
    // A disk of 20 segments: a twentieth of it is one.
    world.disk.set_capacity(Some(20 * segment));
    assert!(!node.log.health().low_space);
    let mut was_low = false;
    while world.publish(&mut node).expect("it goes on").is_ok() {
        let health = node.log.health();
        assert_eq!(health.low_space, health.free_bytes < 3 * segment, "{} bytes are free", health.free_bytes);
        was_low |= health.low_space;
    }
    let health = node.log.health();
    assert!(was_low && health.low_space && health.full && !health.state_full);
    world.disk.set_capacity(Some(60 * segment));
    world.publish(&mut node).expect("it goes on").expect("space is back");
    assert!(!node.log.health().low_space && !node.log.health().full);
}
