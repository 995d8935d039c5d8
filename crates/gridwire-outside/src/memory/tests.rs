//! The disk keeps its promises to those who test with it.

use super::*;

const FILE: &str = "/data/file";

fn new_disk() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn open(disk: &MemoryDisk, mode: OpenMode) -> Arc<dyn DiskFile> {
    disk.open(Path::new(FILE), mode).unwrap()
}

/// Runs `before` on a new disk, lets power go with many seeds, and collects what the file may hold after.
fn check(before: impl Fn(&MemoryDisk), expected: &[Option<&[u8]>]) {
    let outcomes: BTreeSet<Option<Vec<u8>>> = (0..200)
        .map(|seed| {
            let disk = new_disk();
            before(&disk);
            disk.crash(seed);
            disk.contents(Path::new(FILE))
        })
        .collect();
    let expected: BTreeSet<Option<Vec<u8>>> =
        expected.iter().map(|bytes| bytes.map(<[u8]>::to_vec)).collect();
    assert_eq!(outcomes, expected);
}

fn write_durably(disk: &MemoryDisk, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = open(disk, OpenMode::Create);
    file.write_at(bytes, 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    file
}

#[test]
fn what_is_synced_survives_a_crash() {
    check(|disk| drop(write_durably(disk, b"abc")), &[Some(b"abc")]);
}

#[test]
fn a_name_survives_only_by_chance_until_its_directory_is_synced() {
    let before = |disk: &MemoryDisk| {
        let file = open(disk, OpenMode::New);
        file.write_at(b"abc", 0).unwrap();
        file.sync_data().unwrap();
    };
    check(before, &[None, Some(b"abc")]);
}

#[test]
fn sectors_survive_one_by_one() {
    let before = |disk: &MemoryDisk| {
        let file = write_durably(disk, &[1; 1024]);
        file.write_at(&[2; 1024], 0).unwrap();
    };
    let mixed = |first: u8, second: u8| [[first; 512], [second; 512]].concat();
    let outcomes = [mixed(1, 1), mixed(1, 2), mixed(2, 1), mixed(2, 2)];
    check(before, &outcomes.each_ref().map(|bytes| Some(bytes.as_slice())));
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next() {
    let fail = |disk: &MemoryDisk| {
        let file = write_durably(disk, b"old");
        file.write_at(b"new", 0).unwrap();
        disk.fail_nth(Call::Sync, 1, io::ErrorKind::Other, false);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(disk.contents(Path::new(FILE)).unwrap(), b"new");
        file
    };
    check(|disk| drop(fail(disk)), &[Some(b"old"), Some(b"new")]);
    let write_again = |disk: &MemoryDisk| {
        let file = fail(disk);
        file.write_at(b"new", 0).unwrap();
        file.sync_data().unwrap();
    };
    check(write_again, &[Some(b"new")]);
}

#[test]
fn a_cut_off_file_is_cut_or_whole() {
    let before = |disk: &MemoryDisk| write_durably(disk, &[7; 1000]).set_len(0).unwrap();
    check(before, &[Some(b""), Some(&[7; 1000])]);
}

#[test]
fn a_file_grows_by_parts_when_it_is_written_and_as_a_whole_when_its_length_is_set() {
    let set = |disk: &MemoryDisk| {
        let file = write_durably(disk, b"a");
        file.set_len(3).unwrap();
        file.set_len(5).unwrap();
    };
    check(set, &[Some(b"a"), Some(b"a\0\0"), Some(b"a\0\0\0\0")]);
    let lengths: BTreeSet<usize> = (0..100)
        .map(|seed| {
            let disk = new_disk();
            write_durably(&disk, b"a").write_at(b"bcd", 1).unwrap();
            disk.crash(seed);
            disk.contents(Path::new(FILE)).unwrap().len()
        })
        .collect();
    assert_eq!(lengths, BTreeSet::from([1, 2, 3, 4]));
}

#[test]
fn a_rename_happens_or_not() {
    let before = |disk: &MemoryDisk| {
        drop(write_durably(disk, b"old"));
        let aside = Path::new("/data/aside");
        let file = disk.open(aside, OpenMode::New).unwrap();
        file.write_at(b"new", 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/data")).unwrap();
        disk.rename(aside, Path::new(FILE)).unwrap();
    };
    check(before, &[Some(b"old"), Some(b"new")]);
    let before_and_sync = |disk: &MemoryDisk| {
        before(disk);
        disk.sync_dir(Path::new("/data")).unwrap();
    };
    check(before_and_sync, &[Some(b"new")]);
}

#[test]
fn a_removal_happens_or_not() {
    let before = |disk: &MemoryDisk| {
        drop(write_durably(disk, b"x"));
        disk.remove(Path::new(FILE)).unwrap();
    };
    check(before, &[None, Some(b"x")]);
}

#[test]
fn a_kill_loses_handles_and_locks_but_no_bytes() {
    let disk = new_disk();
    let file = open(&disk, OpenMode::New);
    file.write_at(b"abc", 0).unwrap();
    assert!(file.try_lock().unwrap());
    assert!(!open(&disk, OpenMode::Existing).try_lock().unwrap());
    disk.kill();
    assert!(file.write_at(b"x", 0).is_err());
    assert_eq!(disk.contents(Path::new(FILE)).unwrap(), b"abc");
    let after = open(&disk, OpenMode::Existing);
    drop(file);
    assert!(after.try_lock().unwrap());
    drop(after);
    assert!(open(&disk, OpenMode::Existing).try_lock().unwrap());
}

#[test]
fn the_nth_call_fails_once_or_for_ever() {
    let disk = new_disk();
    let file = open(&disk, OpenMode::New);
    disk.fail_nth(Call::Write, 2, io::ErrorKind::Other, false);
    let outcomes: Vec<bool> = (0..4).map(|_| file.write_at(b"ab", 0).is_ok()).collect();
    assert_eq!(outcomes, [true, false, true, true]);
    disk.fail_nth(Call::Any, 1, io::ErrorKind::Other, true);
    assert!(file.sync_data().is_err());
    assert!(disk.list(Path::new("/data")).is_err());
    disk.heal();
    file.sync_data().unwrap();
    assert_eq!(disk.calls(Call::Write), 4);
    assert_eq!(disk.calls(Call::Sync), 2);
}

#[test]
fn a_full_disk_refuses_growth_but_not_overwriting() {
    let disk = new_disk();
    disk.set_capacity(Some(10));
    let file = open(&disk, OpenMode::New);
    file.allocate(0, 8).unwrap();
    assert_eq!(disk.free_bytes(Path::new("/data")).unwrap(), 2);
    assert_eq!(file.write_at(&[1; 11], 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.allocate(0, 11).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_at(&[1; 10], 0).unwrap();
    file.write_at(&[2; 10], 0).unwrap();
    disk.remove(Path::new(FILE)).unwrap();
    assert_eq!(disk.used(), 10, "an open file keeps its space");
    drop(file);
    assert_eq!(disk.used(), 0);
}

#[test]
fn a_flipped_bit_outlives_a_crash() {
    let flip = |disk: &MemoryDisk| {
        drop(write_durably(disk, &[0, 0]));
        assert!(disk.flip_bit(Path::new(FILE), 1, 3));
        assert!(!disk.flip_bit(Path::new(FILE), 2, 0));
    };
    check(flip, &[Some(&[0, 8])]);
}

#[test]
fn names_and_modes_are_obeyed() {
    let disk = new_disk();
    let kind = |path: &str, mode| disk.open(Path::new(path), mode).unwrap_err().kind();
    assert_eq!(kind(FILE, OpenMode::Existing), io::ErrorKind::NotFound);
    assert_eq!(kind("/nowhere/file", OpenMode::Create), io::ErrorKind::NotFound);
    drop(open(&disk, OpenMode::New));
    assert_eq!(kind(FILE, OpenMode::New), io::ErrorKind::AlreadyExists);
    disk.create_dir_all(Path::new("/data/sub/dir")).unwrap();
    assert_eq!(disk.list(Path::new("/data")).unwrap(), ["file", "sub"]);
    disk.put(Path::new("/other/x"), vec![1]);
    assert_eq!(disk.list(Path::new("/")).unwrap(), ["data", "other"]);
}

#[test]
fn a_directory_survives_only_by_chance_until_the_one_above_is_synced() {
    let make = |synced: &[&str]| {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/data/sub")).unwrap();
        let file = disk.open(Path::new("/data/sub/file"), OpenMode::New).unwrap();
        file.write_at(b"abc", 0).unwrap();
        file.sync_data().unwrap();
        for dir in synced {
            disk.sync_dir(Path::new(dir)).unwrap();
        }
        disk
    };
    let outcomes = |synced: &[&str]| -> BTreeSet<bool> {
        let disk = make(synced);
        let crash = |seed| {
            let disk = disk.fork();
            disk.crash(seed);
            disk.contents(Path::new("/data/sub/file")).is_some()
        };
        (0..50).map(crash).collect()
    };
    assert_eq!(outcomes(&["/data/sub", "/data", "/"]), BTreeSet::from([true]));
    for missing in [["/data", "/"], ["/data/sub", "/"], ["/data/sub", "/data"]] {
        assert_eq!(outcomes(&missing), BTreeSet::from([false, true]), "{missing:?}");
    }
}

#[test]
fn a_halted_process_changes_nothing_any_more_and_a_fork_is_a_disk_of_its_own() {
    let disk = new_disk();
    let file = write_durably(&disk, b"old");
    disk.halt_at(2);
    file.write_at(b"new", 0).unwrap();
    assert!(!disk.is_halted());
    assert!(file.sync_data().is_err() && disk.is_halted());
    assert!(file.write_at(b"xyz", 0).is_err());
    assert!(disk.list(Path::new("/data")).is_err());
    let other = disk.fork();
    other.kill();
    assert_eq!(other.contents(Path::new(FILE)).unwrap(), b"new");
    other.put(Path::new(FILE), b"other".to_vec());
    let seen: BTreeSet<Vec<u8>> = (0..20)
        .map(|seed| {
            let disk = disk.fork();
            disk.crash(seed);
            disk.contents(Path::new(FILE)).unwrap()
        })
        .collect();
    assert_eq!(seen, BTreeSet::from([b"new".to_vec(), b"old".to_vec()]), "the flush did not happen");
}
