//! Power cuts and kills, at every moment of a history.

use gridwire_outside::memory::Call;
use gridwire_outside::{Disk, MemoryDisk};
use gridwire_store::Log;
use gridwire_store::embedded::SettleDurability;
use std::path::Path;

use crate::history::World;
use crate::node::{DIR, now};
use crate::{effort, say};

/// Things done in one life of the store.
const STEPS: u64 = 45;

/// A history of two lives from `seed`; the second ends at its `n`-th call of the disk. `None` when it is
/// over before.
fn cut_at(seed: u64, n: u64, durability: SettleDurability) -> Option<World> {
    let mut world = World::new(seed);
    world.options.settle_durability = durability;
    world.run(STEPS, 1).expect("nothing goes wrong");
    world.kill();
    world.disk.halt_at(n);
    let ended = world.run(STEPS, 2);
    assert!(ended.is_ok() || world.disk.is_halted(), "seed {seed}, call {n}: {ended:?}");
    world.disk.is_halted().then_some(world)
}

fn check_cuts(seed: u64, stride: u64, subsets: u64, durability: SettleDurability) -> u64 {
    let mut points = 0;
    for n in (1 + seed % stride..).step_by(usize::try_from(stride).expect("it is small")) {
        let Some(world) = cut_at(seed, n, durability) else { break };
        points += 1;
        for subset in 0..subsets {
            let _place = Place(format!("seed {seed}, call {n}, subset {subset}, {durability:?}"));
            let mut world = world.fork();
            if durability == SettleDurability::Flush {
                world.ledger.all_flushed();
            }
            world.crash(n * 1_000 + subset);
            world.check(1 + usize::try_from(subset % 3).expect("it is small"));
        }
    }
    points
}

/// Says where a test was when it panicked.
pub(crate) struct Place(pub(crate) String);

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("at {}", self.0));
        }
    }
}

#[test]
fn a_power_cut_at_any_call_takes_back_nothing_that_was_promised() {
    let (mut points, mut trims) = (0, 0);
    for seed in 0..4 * effort() {
        trims += World::new(seed).trims_of(2 * STEPS);
        let stride = if effort() == 1 { 3 } else { 1 };
        points += check_cuts(seed, stride, 1 + effort().min(7), SettleDurability::Write);
    }
    say(&format!("{points} crash points, {trims} trims"));
    assert!(points > 500, "{points} crash points are too few");
    assert!(trims > 10, "{trims} times segments were let go");
}

#[test]
fn with_flushed_settlements_a_power_cut_takes_back_none_that_was_answered() {
    for seed in 100..100 + effort() {
        check_cuts(seed, 3, 2, SettleDurability::Flush);
    }
}

#[test]
fn a_kill_at_any_call_loses_nothing_that_was_answered() {
    for seed in 200..200 + 2 * effort() {
        for n in (1..).step_by(if effort() == 1 { 2 } else { 1 }) {
            let Some(mut world) = cut_at(seed, n, SettleDurability::Write) else { break };
            let _place = Place(format!("seed {seed}, call {n}"));
            world.kill();
            world.check(2);
            // What the start found it has made durable, and what it changed too.
            world.crash(n);
            world.check(1);
        }
    }
}

#[test]
fn a_cut_in_the_middle_of_recovery_is_recovered_from() {
    for seed in 300..300 + effort() {
        let mut world = World::new(seed);
        world.run(60, 1).expect("nothing goes wrong");
        world.crash(seed);
        for n in 1.. {
            let _place = Place(format!("seed {seed}, call {n}"));
            let mut world = world.fork();
            world.disk.halt_at(n);
            let is_opened = world.open_only().is_ok();
            if !world.disk.is_halted() {
                assert!(is_opened);
                break;
            }
            world.crash(n);
            world.check(1);
        }
    }
}

#[test]
fn a_store_made_below_new_directories_survives_as_soon_as_it_is_open() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let mut node = world.open(1).expect("it opens");
        world.publish(&mut node).expect("it goes on").expect("it is published");
        world.ledger = std::mem::take(&mut node.ledger);
        drop(node);
        world.crash(seed);
        assert!(world.disk.list(Path::new(DIR)).is_ok(), "seed {seed}");
        world.check(1);
    }
}

#[test]
fn another_number_of_shards_at_every_start_changes_nothing() {
    for seed in 400..400 + 5 * effort() {
        let mut world = World::new(seed);
        for shards in [1, 4, 2, 7, 1, 3] {
            let _place = Place(format!("seed {seed}, {shards} shards"));
            world.run(60, shards).expect("nothing goes wrong");
            let mut node = world.open(shards).expect("it opens");
            node.ledger.check(&node, &world.subs);
            now(node.log.close(std::time::Duration::from_secs(1)));
            world.ledger = std::mem::take(&mut node.ledger);
            drop(node);
            world.crash(seed);
        }
        world.check(2);
    }
}

#[test]
fn recovery_reads_at_most_two_segments_and_the_state_log() {
    let mut world = World::new(7);
    let mut node = world.open(1).expect("it opens");
    while node.log.segments().len() < 12 {
        world.publish(&mut node).expect("it goes on").expect("it is published");
    }
    let segments = node.log.health().segments;
    drop(node);
    let reads = |disk: &MemoryDisk| disk.calls(Call::Read);
    let before = reads(&world.disk);
    let clock = &world.clock;
    let log = crate::node::open_log(&world.disk, clock, world.options.clone()).expect("it opens");
    let made = reads(&world.disk) - before;
    // Header and footer of each segment take three; what is scanned comes in large reads.
    assert!(made < 3 * segments + 20, "{made} reads of {segments} segments");
    drop(log);
}
