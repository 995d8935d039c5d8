//! Scans of whoever is in no hurry.

use super::*;

/// Read calls of one slice: two of a mebibyte at most for its frames, the others small, in the files of indexes.
const READS_MAX: u64 = 14;
/// Events of 64 KiB, in blocks of which each takes more read calls than a slice may make.
const EVENT: usize = 64 << 10;
const COUNT: u64 = 800;

fn large_blocks() -> EmbeddedOptions {
    EmbeddedOptions { segment_bytes: 34 << 20, block_bytes: 16 << 20, ..options() }
}

/// A store of a sealed segment and one that is being written to, without any index.
fn filled() -> (MemoryDisk, Arc<EmbeddedLog>) {
    let disk = MemoryDisk::new();
    let log = try_open(&disk, large_blocks()).expect("it opens");
    fill_to(&log, COUNT, EVENT);
    assert_eq!(log.segments().len(), 1);
    (disk, log)
}

/// One step of a scan, which reads little whatever has to be read.
fn step(disk: &MemoryDisk, log: &EmbeddedLog, from: u64) -> Option<Matches> {
    let before = disk.calls(Call::Read);
    let found = now(log.scan_slice(TOPIC, Slot(0), Offset(from), 50)).expect("it is scanned");
    let reads = disk.calls(Call::Read) - before;
    assert!(reads <= READS_MAX, "{reads} reads from offset {from}");
    found
}

/// All matches from `from` on; what is between the steps is done by `meanwhile`.
fn scan_slowly(
    disk: &MemoryDisk,
    log: &EmbeddedLog,
    mut from: u64,
    mut meanwhile: impl FnMut(),
) -> (Vec<u64>, usize) {
    let (mut offsets, mut steps) = (Vec::new(), 0);
    while from < COUNT {
        steps += 1;
        assert!(steps < 400, "it gets nowhere at {from}");
        if let Some(found) = step(disk, log, from) {
            assert!(from < found.next && found.matches.len() <= 50, "an answer is one");
            from = found.next;
            offsets.extend(found.matches.iter().map(|matched| matched.offset.0));
        }
        meanwhile();
    }
    (offsets, steps)
}

#[test]
fn a_block_without_an_index_is_read_in_slices_and_its_index_is_kept() {
    let (disk, log) = filled();
    let (offsets, steps) = scan_slowly(&disk, &log, 0, || {});
    assert_eq!(offsets, (0..COUNT).collect::<Vec<_>>());
    assert!(steps > 45, "{steps} steps for 50 MiB");
    // Now there are indexes, also after a start but for the newest block's.
    let (again, fewer) = scan_slowly(&disk, &log, 0, || {});
    assert!(again == offsets && fewer <= 22, "{fewer} steps");
    drop(log);
    let log = try_open(&disk, large_blocks()).expect("it opens");
    assert!(step(&disk, &log, 0).is_some(), "at once");
}

#[test]
fn many_who_scan_different_blocks_all_get_on() {
    let (disk, log) = filled();
    let mut others = [300u64, 500, 780].map(|from| (from, Vec::new()));
    let (offsets, _) = scan_slowly(&disk, &log, 0, || {
        for (from, found) in &mut others {
            if let Some(matches) = (*from < COUNT).then(|| step(&disk, &log, *from)).flatten() {
                found.extend(matches.matches.iter().map(|matched| matched.offset.0));
                *from = matches.next;
            }
        }
    });
    assert_eq!(offsets, (0..COUNT).collect::<Vec<_>>());
    for ((_, found), from) in others.into_iter().zip([300, 500, 780]) {
        assert_eq!(found, (from..COUNT).collect::<Vec<_>>());
    }
}

#[test]
fn whoever_is_in_a_hurry_takes_over_what_was_built_and_the_newest_block_is_kept_up_to_date() {
    let (disk, log) = filled();
    for _ in 0..12 {
        step(&disk, &log, 0);
    }
    let before = disk.calls(Call::Read);
    assert_eq!(now(log.scan(TOPIC, Slot(0), Offset(0), 50)).expect("it is scanned").next, 50);
    let reads = disk.calls(Call::Read) - before;
    assert!(reads <= 6, "{reads} reads of what twelve slices had not read");
    // The newest block: by slices, then at once, then by slices again.
    let (offsets, _) = scan_slowly(&disk, &log, COUNT - 20, || {});
    assert_eq!(offsets.len(), 20);
    fill_to(&log, COUNT + 5, EVENT);
    let found = now(log.scan(TOPIC, Slot(0), Offset(COUNT), 50)).expect("it is scanned");
    assert_eq!((found.matches.len(), found.next), (5, COUNT + 5));
    fill_to(&log, COUNT + 8, EVENT);
    let found = step(&disk, &log, COUNT).expect("little is new");
    assert_eq!((found.matches.len(), found.next), (8, COUNT + 8));
    let end = step(&disk, &log, COUNT + 8).expect("there is nothing more");
    assert_eq!((end.matches.len(), end.next), (0, COUNT + 8));
}

#[test]
fn slices_tell_of_damage_as_other_scans_do() {
    let (disk, log) = filled();
    drop(log);
    let path = segment_path(&log_dir(), 1);
    assert!(disk.flip_bit(&path, 5 << 20, 3) && disk.flip_bit(&path, 20 << 20, 3));
    let log = try_open(&disk, large_blocks()).expect("it opens");
    let (mut slow, mut from) = (Matches::default(), 0);
    for _ in 0..400 {
        let found = now(log.scan_slice(TOPIC, Slot(0), Offset(from), 50)).expect("it is scanned");
        if let Some(found) = found {
            from = found.next;
            slow.matches.extend(found.matches);
            slow.lost.extend(found.lost);
        }
    }
    assert_eq!((from, slow.lost.len(), slow.matches.len() as u64), (COUNT, 2, COUNT - 2));
    drop(log);
    let log = try_open(&disk, large_blocks()).expect("it opens");
    assert_eq!(scan_all(&log, 0, 50), slow.matches);
}

#[test]
fn a_read_that_fails_is_told_to_whoever_wants_the_block_and_to_nobody_who_helps() {
    let (disk, log) = filled();
    step(&disk, &log, 0);
    disk.fail_nth(Call::Read, 1, std::io::ErrorKind::Other, true);
    let slice = |from| now(log.scan_slice(TOPIC, Slot(0), Offset(from), 50));
    // Its slice goes to the block that was begun.
    assert!(matches!(slice(500), Ok(None)));
    assert!(slice(0).is_err());
    disk.heal();
    let (offsets, _) = scan_slowly(&disk, &log, 0, || {});
    assert_eq!(offsets, (0..COUNT).collect::<Vec<_>>());
}
