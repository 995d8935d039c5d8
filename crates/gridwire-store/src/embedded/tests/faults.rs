//! A disk that fails or is full, and what a start finds after it.

use super::*;

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
