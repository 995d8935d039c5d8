//! Power cuts under the real process, on a real ext4 (`reliability` sections 2 and 4.4, R4).
//!
//! The server's data directory is on an ext4 on a loop device on a disk that forgets what was not flushed
//! (`power_cut/platter.rs`). Under publish, pull and push load the power goes, at any moment; the disk keeps what was
//! flushed and any part of the rest, sector by sector; the file system recovers, the server starts, the load goes on.
//! The simulation's checker, which is told of everything that was asked and answered, says what was broken.
//!
//! The first tests show that the disk forgets, and that a server that does not flush is found out.

#![cfg(target_os = "linux")]

mod support;

#[path = "power_cut/flushes.rs"]
mod flushes;
#[path = "power_cut/fuse.rs"]
mod fuse;
#[path = "power_cut/history.rs"]
mod history;
#[path = "power_cut/machine.rs"]
mod machine;
#[path = "power_cut/platter.rs"]
mod platter;
#[path = "power_cut/storm.rs"]
mod storm;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use machine::{Machine, alone};
use platter::{Moment, SECTOR, Survival};
use support::load::Chance;
use support::outside::{Injection, skip};
use support::server::show;

/// Cuts of a run on every change; continuous integration asks for more beside it.
const CUTS: u32 = 10;
/// Cuts on one disk, after which everything must have come: a history that is longer than the retries of a delivery
/// excuses too much.
const HISTORY_CUTS: u32 = 100;
/// What a run says when a store does not survive.
const REFUSED: [&str; 2] = [history::DAMAGED, "the server ended at its start"];
/// Within so many cuts a server that does not flush must be found out.
const CUTS_TO_CATCH: u32 = 4;
/// What was settled in the last second may be taken back. Of a server that never flushes it there is more to miss.
const FLUSHED_LONG_AGO: Duration = Duration::from_secs(3);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn cutting_the_power_again_and_again_loses_nothing_that_was_answered_for() {
    alone("cutting_the_power_again_and_again_loses_nothing_that_was_answered_for", || {
        let wanted =
            number("GRIDWIRE_POWER_CUTS").map_or(CUTS, |cuts| u32::try_from(cuts).expect("not that many"));
        let seed =
            number("GRIDWIRE_POWER_SEED").unwrap_or_else(|| RandomState::new().hash_one("power") >> 1 | 1);
        let (mut cuts, mut history) = (0, 0);
        while cuts < wanted {
            let story =
                history::run(seed + 2 * history, (wanted - cuts).min(HISTORY_CUTS), Duration::ZERO, |_| {
                    Vec::new()
                });
            show(&story.told());
            let lines: Vec<String> = story.violations.iter().map(ToString::to_string).collect();
            assert!(lines.is_empty(), "broken with seed {}:\n{}", seed + 2 * history, lines.join("\n"));
            let enough =
                story.counts.accepted > 20 * u64::from(story.cuts) && story.loss.lost > story.cuts as usize;
            assert!(enough, "too little was going on: {}", story.told());
            cuts += story.cuts;
            history += 1;
        }
    });
}

/// What to put in front of a server so that these flushes do nothing and say that they have; all of them, or those
/// of one file.
fn without(flushes: &str, file: Option<&Path>) -> Vec<OsString> {
    let words = ["strace", "-D", "-f", "--seccomp-bpf", "-o", "/dev/null"];
    let mut before: Vec<OsString> = words.map(Into::into).into();
    before.extend(file.into_iter().flat_map(|file| ["-P".into(), file.into()]));
    before.extend(["-e".into(), format!("inject={flushes}:retval=0").into()]);
    before
}

/// Planted: a server that does not flush. `None` when the store did not even open after a cut.
fn planted(least: Duration, before: impl FnOnce(&Path) -> Vec<OsString>) -> Option<history::Story> {
    let run = || history::run(5, CUTS_TO_CATCH, least, before);
    let story = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(story) => story,
        Err(panic) => {
            let why = panic.downcast_ref::<String>().map_or("", String::as_str);
            let is_refused = REFUSED.iter().any(|text| why.contains(text));
            assert!(is_refused, "the run failed for another reason: {why}");
            return None;
        }
    };
    let kinds: BTreeSet<&str> = story.violations.iter().map(|violation| violation.kind).collect();
    show(&format!("{}; {} deliveries lost; reported: {kinds:?}", story.told(), story.lost));
    assert!(!story.violations.is_empty(), "nobody noticed");
    Some(story)
}

#[test]
fn a_server_that_does_not_flush_is_found_out() {
    if let Some(reason) = Injection::unavailable() {
        return skip(&reason);
    }
    alone("a_server_that_does_not_flush_is_found_out", || {
        if let Some(story) = planted(Duration::ZERO, |_| without("fdatasync,fsync", None)) {
            assert!(0 < story.lost, "nothing was lost without flushes");
        }
    });
}

#[test]
fn a_server_that_does_not_flush_what_was_settled_is_found_out() {
    if let Some(reason) = Injection::unavailable() {
        return skip(&reason);
    }
    alone("a_server_that_does_not_flush_what_was_settled_is_found_out", || {
        let decisions = |dir: &Path| dir.join("state/00000000000000000001.slg");
        if let Some(story) = planted(FLUSHED_LONG_AGO, |dir| without("fdatasync", Some(&decisions(dir)))) {
            assert_eq!(story.lost, 0, "the events themselves are flushed");
        }
    });
}

#[test]
fn the_disk_keeps_what_was_flushed_and_forgets_the_rest() {
    alone("the_disk_keeps_what_was_flushed_and_forgets_the_rest", || {
        let mut machine = Machine::new();
        let path = |machine: &Machine, name: &str| machine.root().join(name);
        let durable = |machine: &Machine, name: &str, text: &[u8]| {
            let mut file = File::create(path(machine, name)).expect("a file");
            file.write_all(text).expect("it is written");
            file.sync_all().expect("it is flushed");
            File::open(machine.root()).and_then(|root| root.sync_all()).expect("its name is flushed");
        };
        durable(&machine, "kept", b"first");
        durable(&machine, "changed", b"first");
        fs::write(path(&machine, "changed"), b"later").expect("it is written");
        fs::write(path(&machine, "lost"), b"never flushed").expect("it is written");
        assert!(machine.flushes() > 2, "flushes of a file reach the disk");
        machine.cut(Moment::Now, Survival::Nothing, Chance(1));
        let mut unlucky = File::create(path(&machine, "unlucky")).expect("a file in memory");
        unlucky.write_all(b"after the cut").expect("it is written to memory");
        unlucky.sync_all().expect_err("no flush succeeds without power");
        drop(unlucky);
        machine.boot();
        assert_eq!(fs::read(path(&machine, "kept")).expect("it is there"), b"first");
        assert_eq!(fs::read(path(&machine, "changed")).unwrap_or_default().strip_prefix(b"later"), None);
        assert!(!path(&machine, "lost").exists() && !path(&machine, "unlucky").exists());
        machine.check_file_system();
    });
}

#[test]
fn what_was_written_and_not_flushed_is_torn_at_any_sector() {
    alone("what_was_written_and_not_flushed_is_torn_at_any_sector", || {
        let mut machine = Machine::new();
        let path = machine.root().join("torn");
        let mut file = File::create(&path).expect("a file");
        file.write_all(&vec![b'a'; 64 << 10]).and_then(|()| file.sync_all()).expect("it is flushed");
        drop(file);
        // Past the page cache to the disk, without a flush.
        let mut write = Command::new("sh");
        write.args([
            "-c",
            "tr '\\0' b </dev/zero | dd of=\"$0\" bs=64k count=1 iflag=fullblock oflag=direct conv=notrunc",
        ]);
        let written = write.arg(&path).output().expect("a shell");
        assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
        let loss = machine.cut(Moment::Now, Survival::Some(4), Chance(7));
        assert!(20 < loss.kept && 20 < loss.lost, "{loss:?}");
        machine.boot();
        let bytes = fs::read(&path).expect("it is there");
        let sectors: Vec<u8> = bytes.chunks(SECTOR).map(|sector| sector[0]).collect();
        assert!(bytes.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        let block = |block: &[u8]| block.contains(&b'a') && block.contains(&b'b');
        assert!(sectors.chunks(8).any(block), "no block of 4 KiB is torn: {sectors:?}");
        machine.check_file_system();
    });
}

#[test]
fn a_disk_that_lies_about_its_flushes_forgets_them_too() {
    alone("a_disk_that_lies_about_its_flushes_forgets_them_too", || {
        let mut machine = Machine::new();
        machine.lie(true);
        let mut file =
            OpenOptions::new().create(true).append(true).open(machine.root().join("gone")).expect("a file");
        file.write_all(b"flushed, it was said").and_then(|()| file.sync_all()).expect("it says so");
        drop(file);
        machine.cut(Moment::Now, Survival::Nothing, Chance(1));
        machine.lie(false);
        machine.boot();
        assert!(!machine.root().join("gone").exists());
    });
}
