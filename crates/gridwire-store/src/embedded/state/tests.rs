//! The state log against kills, power cuts, failing calls, damaged bytes and a full disk.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use gridwire_core::ids::SubscriptionNumber;
use gridwire_outside::memory::Call;
use gridwire_outside::{ManualClock, MemoryDisk, SeededRng};

use super::*;

const DIR: &str = "/data/state";
const STORE: [u8; 16] = [9; 16];
/// Small enough that a handful of groups fills a file.
const FILE_BYTES: u64 = 8 << 10;

/// A disk, a clock, and everything that the log has answered for.
struct Bench {
    disk: MemoryDisk,
    clock: Arc<ManualClock>,
    options: StateOptions,
    /// Answered groups.
    answered: Vec<(u64, Vec<u8>)>,
    /// The last of them that is known to be flushed.
    flushed: u64,
    /// The last group that a snapshot known to be durable includes.
    snapshot_at: u64,
}

/// What [`StateLog::recover`] showed.
#[derive(Debug, Default, PartialEq)]
struct Found {
    parts: Vec<(u64, Vec<u8>)>,
    groups: Vec<(u64, Vec<u8>)>,
    last: u64,
}

fn wait<T>(future: BoxFuture<'_, T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn found(log: &StateLog) -> Found {
    let mut found = Found::default();
    let last = log.recover(&mut |recovered| match recovered {
        Recovered::Part { at, state, .. } => found.parts.push((at.0, state.to_vec())),
        Recovered::Group { seq, decisions, .. } => found.groups.push((seq.0, decisions.to_vec())),
    });
    found.last = last.unwrap().0;
    found
}

impl Bench {
    fn new() -> Self {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new(DIR)).unwrap();
        Path::new(DIR).ancestors().skip(1).for_each(|above| disk.sync_dir(above).unwrap());
        let options = StateOptions {
            file_bytes: FILE_BYTES,
            ballast_bytes: 0,
            threads: false,
            ..StateOptions::default()
        };
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000)));
        Self { disk, clock, options, answered: Vec::new(), flushed: 0, snapshot_at: 0 }
    }

    fn try_open(&self) -> Result<StateLog, OpenError> {
        let disk = Arc::new(self.disk.clone());
        let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&self.clock);
        StateLog::open(disk, clock, Path::new(DIR), STORE, self.options.clone())
    }

    fn open(&self) -> StateLog {
        self.try_open().unwrap()
    }

    fn append(&mut self, log: &StateLog, body: Vec<u8>) -> Result<(), AppendError> {
        let seq = wait(log.append(body.clone()))?.0;
        assert!(self.answered.last().is_none_or(|(last, _)| *last < seq), "numbers rise");
        self.answered.push((seq, body));
        if self.options.settle_durability == SettleDurability::Flush {
            self.flushed = seq;
        }
        Ok(())
    }

    fn flush(&mut self, log: &StateLog) -> Result<(), AppendError> {
        wait(log.flush())?;
        self.flushed = self.last();
        Ok(())
    }

    fn last(&self) -> u64 {
        self.answered.last().map_or(0, |(seq, _)| *seq)
    }

    /// Two subscriptions, both up to date.
    fn snapshot(&mut self, log: &StateLog) -> Result<(), AppendError> {
        let at = StateSeq(self.last());
        let part = |subscription| SnapshotPart {
            subscription: SubscriptionNumber(subscription),
            at,
            state: format!("state of {subscription} at {at}").into_bytes(),
        };
        wait(log.snapshot(vec![part(1), part(2)]))?;
        self.snapshot_at = at.0;
        self.flushed = at.0;
        Ok(())
    }

    fn file(number: u64) -> PathBuf {
        Path::new(DIR).join(format!("{number:020}.slg"))
    }

    /// Compares what a log found with what was answered: everything up to `at_least`, nothing but it, in order,
    /// where a snapshot may stand for the beginning. Then forgets what was allowed to be lost.
    fn check(&mut self, log: &StateLog, at_least: u64) -> Result<(), String> {
        let found = found(log);
        let mut covered = 0;
        for (at, state) in &found.parts {
            let text = String::from_utf8_lossy(state).into_owned();
            if !text.ends_with(&format!(" at {at}")) {
                return Err(format!("a part at {at} holds `{text}`"));
            }
            covered = *at;
        }
        if covered < self.snapshot_at {
            return Err(format!("the snapshot at {} was lost, {covered} was found", self.snapshot_at));
        }
        let last = found.last;
        let first = found.groups.first().map_or(last + 1, |(seq, _)| *seq).min(covered + 1);
        let expected: Vec<_> =
            self.answered.iter().filter(|(seq, _)| (first..=last).contains(seq)).cloned().collect();
        if found.groups != expected {
            let numbers = |groups: &[(u64, Vec<u8>)]| groups.iter().map(|(seq, _)| *seq).collect::<Vec<_>>();
            let (found, expected) = (numbers(&found.groups), numbers(&expected));
            return Err(format!("found the groups {found:?} instead of {expected:?}"));
        }
        if last < at_least {
            return Err(format!("{at_least} was promised, {last} is the end"));
        }
        self.answered.retain(|(seq, _)| *seq <= last);
        Ok(())
    }
}

/// A few files' worth of groups with a flush now and then and a snapshot in the middle, until something fails.
fn work(bench: &mut Bench, log: &StateLog, groups: u64) -> Result<(), AppendError> {
    for group in 0..groups {
        bench.append(log, vec![group.to_le_bytes()[0]; 100 + usize::try_from(group % 7).unwrap() * 90])?;
        if group % 5 == 4 {
            bench.flush(log)?;
        }
        if group == groups / 2 {
            bench.snapshot(log)?;
        }
    }
    Ok(())
}

#[test]
fn a_kill_loses_nothing_that_was_answered() {
    for threads in [false, true] {
        let mut bench = Bench::new();
        bench.options.threads = threads;
        for round in 1..=4 {
            let log = bench.open();
            bench.check(&log, bench.last()).unwrap();
            work(&mut bench, &log, 20 * round).unwrap();
            bench.disk.kill();
        }
        let log = bench.open();
        bench.check(&log, bench.last()).unwrap();
    }
}

#[test]
fn a_power_cut_loses_only_what_was_not_flushed_and_invents_nothing() {
    for durability in [SettleDurability::Write, SettleDurability::Flush] {
        for seed in 0..60 {
            let mut bench = Bench::new();
            bench.options.settle_durability = durability;
            let log = bench.open();
            work(&mut bench, &log, seed % 40 + 1).unwrap();
            drop(log);
            bench.disk.crash(seed);
            let log = bench.open();
            let flushed = bench.flushed;
            bench.check(&log, flushed).unwrap_or_else(|what| panic!("seed {seed}, {durability:?}: {what}"));
        }
    }
}

#[test]
fn random_histories_end_as_they_were_answered() {
    for seed in 0..150 {
        let rng = SeededRng::new(seed);
        let mut bench = Bench::new();
        if rng.below(4) == 0 {
            bench.options.settle_durability = SettleDurability::Flush;
        }
        let mut log = Some(bench.open());
        for _ in 0..rng.below(120) + 20 {
            let open = log.as_ref().unwrap();
            match rng.below(24) {
                0 => {
                    drop(log.take());
                    bench.disk.kill();
                    log = Some(bench.open());
                    let last = bench.last();
                    let outcome = bench.check(log.as_ref().unwrap(), last);
                    outcome.unwrap_or_else(|what| panic!("seed {seed}, after a kill: {what}"));
                }
                1 | 2 => {
                    drop(log.take());
                    bench.disk.crash(rng.below(u64::MAX));
                    log = Some(bench.try_open().unwrap_or_else(|error| panic!("seed {seed}: {error}")));
                    let flushed = bench.flushed;
                    let outcome = bench.check(log.as_ref().unwrap(), flushed);
                    outcome.unwrap_or_else(|what| panic!("seed {seed}, after a crash: {what}"));
                    // Recovery has flushed what it serves.
                    bench.flushed = bench.last();
                }
                3 => bench.snapshot(open).unwrap(),
                4 | 5 => bench.flush(open).unwrap(),
                6 => {
                    open.close();
                    bench.flushed = bench.last();
                    assert_eq!(wait(open.append(vec![1])), Err(AppendError::Failed));
                    log = Some(bench.open());
                }
                7 => open.writer.lock().unwrap().mark(),
                _ => {
                    let len = usize::try_from(rng.below(900) + 1).unwrap();
                    let body = vec![rng.below(256).to_le_bytes()[0]; len];
                    bench.append(open, body).unwrap();
                }
            }
        }
    }
}

#[test]
fn after_a_failed_call_nothing_succeeds_and_nothing_flushed_is_lost() {
    for call in [Call::Write, Call::Sync, Call::Rename, Call::SyncDir, Call::Allocate, Call::Open, Call::Any]
    {
        for n in 1.. {
            assert!(n < 1_000, "the work makes fewer calls than that");
            let mut bench = Bench::new();
            let log = bench.open();
            bench.disk.fail_nth(call, n, ErrorKind::Other, false);
            if work(&mut bench, &log, 40).is_ok() && !log.shared.has_failed() {
                break;
            }
            let failed = wait(log.append(vec![1]));
            assert_eq!(failed, Err(AppendError::Failed), "{call:?} {n}");
            assert_eq!(wait(log.flush()), Err(AppendError::Failed), "{call:?} {n}");
            assert_eq!(wait(log.snapshot(Vec::new())), Err(AppendError::Failed), "{call:?} {n}");
            wait(log.failed());
            drop(log);
            bench.disk.heal();
            bench.disk.crash(n);
            let log = bench.open();
            let (flushed, last) = (bench.flushed, bench.last());
            // What was being recorded when it failed may be there or not, so it is not compared.
            let found = found(&log);
            assert!(flushed <= found.last, "{call:?} {n}: {flushed} was flushed, {} is left", found.last);
            for group in &found.groups {
                assert!(last < group.0 || bench.answered.contains(group), "{call:?} {n}: {group:?}");
            }
        }
    }
}

#[test]
fn what_a_failed_flush_left_in_the_page_cache_is_made_durable_before_it_is_served() {
    for seed in 0..40 {
        let mut bench = Bench::new();
        let log = bench.open();
        work(&mut bench, &log, 6).unwrap();
        bench.disk.fail_nth(Call::Sync, 1, ErrorKind::Other, false);
        assert_eq!(wait(log.flush()), Err(AppendError::Failed));
        drop(log);
        bench.disk.kill();
        drop(bench.open());
        bench.disk.crash(seed);
        let log = bench.open();
        let last = bench.last();
        bench.check(&log, last).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

#[test]
fn what_was_cut_never_follows_a_later_group() {
    for seed in 0..60 {
        let mut bench = Bench::new();
        let log = bench.open();
        // Frames of one size, so that one written after the cut ends where an old one begins.
        for group in 0..3 {
            bench.append(&log, vec![group; 1_000]).unwrap();
        }
        drop(log);
        bench.disk.crash(seed);
        let log = bench.open();
        bench.check(&log, 0).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        bench.append(&log, vec![7; 1_000]).unwrap();
        drop(log);
        bench.disk.kill();
        let log = bench.open();
        let last = bench.last();
        bench.check(&log, last).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        assert_eq!(found(&log).last, last, "seed {seed}");
    }
}

#[test]
fn a_flipped_bit_in_durable_data_is_refused() {
    let mut bench = Bench::new();
    let log = bench.open();
    work(&mut bench, &log, 30).unwrap();
    log.close();
    let all = found(&bench.open());
    bench.disk.kill();
    let names = bench.disk.list(Path::new(DIR)).unwrap();
    assert!(names.len() >= 3, "a snapshot and more than one log: {names:?}");
    for name in &names {
        let path = Path::new(DIR).join(name);
        let len = bench.disk.contents(&path).unwrap().len() as u64;
        // The mark that ends the last log says of no one but itself that it is there.
        let is_last = name == names.iter().rfind(|name| name.contains("slg")).unwrap();
        let durable = if is_last { len - FRAME_BYTES as u64 } else { len };
        for byte in (0..durable).filter(|byte| *byte < 64 || byte % 7 == 0 || durable < byte + 40) {
            let bit = u8::try_from(byte % 8).unwrap();
            bench.disk.flip_bit(&path, byte, bit);
            match bench.try_open() {
                Err(OpenError::Damaged(damage)) => assert!(damage.bytes.start <= byte || is_last, "{damage}"),
                Err(OpenError::UnknownFormat { .. }) => assert!((8..12).contains(&byte)),
                other => panic!("bit {bit} of byte {byte} of {name}: {other:?}"),
            }
            bench.disk.flip_bit(&path, byte, bit);
        }
    }
    assert_eq!(found(&bench.open()), all);
}

#[test]
fn a_missing_or_foreign_file_is_refused() {
    let mut bench = Bench::new();
    let log = bench.open();
    for group in 0..40 {
        bench.append(&log, vec![group; 500]).unwrap();
    }
    log.close();
    let (second, third) = (Bench::file(2), Bench::file(3));
    let bytes = [&second, &third].map(|path| bench.disk.contents(path).unwrap());
    bench.disk.put(&second, bytes[1].clone());
    assert!(matches!(bench.try_open(), Err(OpenError::Damaged(_))), "another file's bytes");
    bench.disk.put(&second, bytes[0][..5_000].to_vec());
    assert!(matches!(bench.try_open(), Err(OpenError::Damaged(_))), "cut short");
    bench.disk.remove(&second).unwrap();
    assert!(matches!(bench.try_open(), Err(OpenError::Damaged(_))), "gone");
    bench.disk.put(&second, bytes[0].clone());
    let log = bench.open();
    bench.check(&log, bench.last()).unwrap();
}

#[test]
fn a_snapshot_interrupted_at_any_call_leaves_the_old_one_or_the_new() {
    for n in 1.. {
        assert!(n < 100, "a snapshot makes fewer calls than that");
        let mut is_done = false;
        for seed in 0..8 {
            let mut bench = Bench::new();
            let log = bench.open();
            work(&mut bench, &log, 30).unwrap();
            bench.disk.fail_nth(Call::Any, n, ErrorKind::Other, true);
            is_done = bench.snapshot(&log).is_ok();
            let made = bench.disk.calls(Call::Any);
            drop(log);
            bench.disk.heal();
            bench.disk.crash(seed);
            let log = bench.open();
            let flushed = bench.flushed;
            bench
                .check(&log, flushed)
                .unwrap_or_else(|what| panic!("call {n} of {made}, seed {seed}: {what}"));
        }
        if is_done && n > 12 {
            break;
        }
    }
}

#[test]
fn a_snapshot_lets_older_logs_go_but_none_that_a_part_still_needs() {
    let mut bench = Bench::new();
    let log = bench.open();
    for group in 0..40 {
        bench.append(&log, vec![group; 500]).unwrap();
    }
    let behind = StateSeq(10);
    let part = |subscription, at| SnapshotPart { subscription, at, state: format!(" at {at}").into_bytes() };
    let parts = vec![part(SubscriptionNumber(1), behind), part(SubscriptionNumber(2), StateSeq(40))];
    wait(log.snapshot(parts)).unwrap();
    let first_kept = log.shared.files.lock().unwrap()[0];
    assert!(first_kept.first <= 11, "group 11 is not in the first part: {first_kept:?}");
    bench.snapshot(&log).unwrap();
    assert_eq!(log.shared.files.lock().unwrap().len(), 1);
    log.close();
    let names = bench.disk.list(Path::new(DIR)).unwrap();
    assert_eq!(names.len(), 2, "one log and one snapshot: {names:?}");
    let log = bench.open();
    bench.check(&log, 40).unwrap();
}

#[test]
fn a_full_disk_takes_the_ballast_then_refuses_then_recovers() {
    let mut bench = Bench::new();
    bench.options.ballast_bytes = FILE_BYTES;
    bench.disk.set_capacity(Some(3 * FILE_BYTES));
    let log = bench.open();
    let outcome = loop {
        if let Err(error) = bench.append(&log, vec![1; 1000]) {
            break error;
        }
    };
    assert_eq!(outcome, AppendError::StorageFull);
    assert!(!log.shared.ballast.is_held());
    assert_eq!(log.shared.files.lock().unwrap().len(), 3, "the third file took the ballast's space");
    assert!(!log.shared.has_failed());
    bench.disk.set_capacity(Some(6 * FILE_BYTES));
    bench.clock.advance(Duration::from_secs(2));
    bench.append(&log, vec![2; 1000]).unwrap();
    assert!(log.shared.ballast.is_held(), "made again once there is space");
    bench.disk.crash(1);
    drop(log);
    let log = bench.open();
    let flushed = bench.flushed;
    bench.check(&log, flushed).unwrap();
}

#[test]
fn a_full_disk_keeps_what_was_answered_at_every_step() {
    for blocks in 1..12 {
        let mut bench = Bench::new();
        bench.disk.set_capacity(Some(blocks * FILE_BYTES / 2));
        let Ok(log) = bench.try_open() else { continue };
        let _ = work(&mut bench, &log, 40);
        assert!(!log.shared.has_failed(), "no space is no failure");
        drop(log);
        bench.disk.kill();
        let log = bench.open();
        bench.check(&log, bench.last()).unwrap();
        bench.disk.set_capacity(None);
        bench.append(&log, vec![1; 100]).unwrap();
    }
}

#[test]
fn a_snapshot_is_wanted_after_enough_bytes_or_enough_time() {
    let mut bench = Bench::new();
    bench.options.snapshot_bytes = 1_000;
    let log = bench.open();
    bench.clock.advance(bench.options.snapshot_every);
    assert!(!log.wants_snapshot(), "nothing has changed");
    bench.append(&log, vec![1; 100]).unwrap();
    assert!(log.wants_snapshot(), "it is time");
    bench.snapshot(&log).unwrap();
    assert!(!log.wants_snapshot());
    bench.append(&log, vec![1; 1_000]).unwrap();
    assert!(log.wants_snapshot(), "it is much");
}

#[test]
fn a_group_that_does_not_fit_is_refused_and_time_never_steps_back() {
    let mut bench = Bench::new();
    let log = bench.open();
    let refused = wait(log.append(vec![0; usize::try_from(FILE_BYTES).unwrap()]));
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })));
    bench.clock.advance(Duration::from_secs(5));
    bench.append(&log, vec![1]).unwrap();
    log.close();
    let bench = Bench { disk: bench.disk.clone(), ..Bench::new() };
    assert_eq!(bench.open().newest_time(), Timestamp::from_millis(6_000));
}

#[test]
fn threads_answer_concurrent_callers_and_count_what_they_did() {
    let mut bench = Bench::new();
    bench.options.threads = true;
    bench.options.settle_durability = SettleDurability::Flush;
    bench.options.file_bytes = 1 << 20;
    let log = bench.open();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let appends: Vec<_> = (0..200u8).map(|group| log.append(vec![group; 50])).collect();
    for (append, expected) in appends.into_iter().zip(1..) {
        assert_eq!(runtime.block_on(append), Ok(StateSeq(expected)));
    }
    let mut health = LogHealth::default();
    log.health(&mut health);
    assert_eq!((health.state_groups_total, health.state_bytes_total, health.queue_bytes), (200, 10_000, 0));
    log.close();
    bench.disk.crash(5);
    assert_eq!(found(&bench.open()).groups.len(), 200);
}
