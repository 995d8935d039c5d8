//! The resource store against power cuts, failing calls and a full disk.

use std::io::ErrorKind;

use gridwire_outside::memory::Call;
use gridwire_outside::{MemoryDisk, SeededRng};

use super::*;

const PATH: &str = "/data/meta.redb";

fn new_disk() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn open(disk: &MemoryDisk) -> Result<Arc<RedbResources>, ResourceError> {
    RedbResources::open_inline(Arc::new(disk.clone()), Path::new(PATH))
}

fn wait<T>(future: BoxFuture<'_, T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn all(store: &RedbResources) -> Vec<(String, Vec<u8>)> {
    wait(store.list("")).unwrap().into_iter().map(|resource| (resource.key, resource.value)).collect()
}

#[test]
fn a_power_cut_at_any_moment_leaves_what_was_answered() {
    for seed in 0..25 {
        let rng = SeededRng::new(seed);
        let disk = new_disk();
        let mut expected = Vec::new();
        for round in 0..4 {
            let store = open(&disk).unwrap();
            assert_eq!(all(&store), expected, "seed {seed}, round {round}");
            for write in 0..rng.below(4) {
                let key = format!("{round}/{write}");
                let value = vec![7; usize::try_from(rng.below(5_000)).unwrap()];
                wait(store.create(&key, value.clone())).unwrap();
                expected.push((key, value));
            }
            disk.crash(rng.below(u64::MAX));
            drop(store);
        }
    }
}

#[test]
fn a_crash_while_it_is_made_leaves_nothing_or_all() {
    for n in 1.. {
        assert!(n < 200, "making it takes fewer calls than that");
        let disk = new_disk();
        disk.fail_nth(Call::Any, n, ErrorKind::Other, true);
        let is_made = open(&disk).is_ok();
        disk.heal();
        disk.crash(n);
        let store = open(&disk).unwrap();
        assert_eq!(wait(store.create("a", vec![1])), Ok(Revision(1)));
        if is_made {
            break;
        }
    }
}

#[test]
fn after_a_failed_flush_nothing_succeeds() {
    let disk = new_disk();
    let store = open(&disk).unwrap();
    wait(store.create("a", vec![1])).unwrap();
    disk.fail_nth(Call::Sync, 1, ErrorKind::Other, false);
    assert!(matches!(wait(store.create("b", vec![1])), Err(ResourceError::Failed(_))));
    assert!(matches!(wait(store.create("c", vec![1])), Err(ResourceError::Failed(_))));
    assert!(matches!(wait(store.get("a")), Err(ResourceError::Failed(_))));
    disk.crash(3);
    assert_eq!(all(&open(&disk).unwrap())[0], ("a".into(), vec![1]));
}

#[test]
fn a_full_disk_refuses_and_service_resumes_with_space() {
    let disk = new_disk();
    let store = open(&disk).unwrap();
    disk.set_capacity(Some(disk.used()));
    let mut kept = 0u32;
    let error = loop {
        match wait(store.create(&format!("{kept:08}"), vec![1; 200_000])) {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 1_000, "the disk becomes full");
    };
    assert_eq!(error, ResourceError::StorageFull);
    assert_eq!(all(&store).len(), usize::try_from(kept).unwrap(), "reading goes on");
    disk.set_capacity(None);
    wait(store.create("later", vec![1; 200_000])).unwrap();
    drop(store);
    disk.kill();
    assert_eq!(all(&open(&disk).unwrap()).len(), usize::try_from(kept).unwrap() + 1);
}

fn has_failed(store: &RedbResources) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    store.failed().as_mut().poll(&mut context).is_ready()
}

#[test]
fn a_read_that_fails_does_not_end_the_store() {
    let disk = new_disk();
    drop(open(&disk).unwrap());
    let mut failures = 0;
    for n in 1..40 {
        let store = open(&disk).unwrap();
        disk.fail_nth(Call::Read, n, ErrorKind::Other, false);
        failures += u64::from(wait(store.get("a")).is_err());
        assert!(!has_failed(&store));
        disk.heal();
        assert_eq!(wait(store.get("a")), Ok(None));
    }
    // What was read when it was opened is in memory.
    assert!(failures <= 1, "{failures}");
}

#[test]
fn a_commit_that_fails_ends_the_store_and_happened_or_not() {
    let mut failed = 0;
    for call in [Call::Write, Call::Sync] {
        for n in 1..20 {
            let disk = new_disk();
            let store = open(&disk).unwrap();
            wait(store.create("a", vec![1])).unwrap();
            disk.fail_nth(call, n, ErrorKind::Other, false);
            let mut made = 0;
            while made < 10 && wait(store.create(&format!("b{made}"), vec![2; 3_000])).is_ok() {
                made += 1;
            }
            if made == 10 {
                continue;
            }
            failed += 1;
            assert!(has_failed(&store), "{call:?} {n}");
            disk.heal();
            assert!(matches!(wait(store.create("c", vec![3])), Err(ResourceError::Failed(_))));
            assert!(matches!(wait(store.get("a")), Err(ResourceError::Failed(_))));
            drop(store);
            disk.crash(n);
            let keys: Vec<String> = all(&open(&disk).unwrap()).into_iter().map(|(key, _)| key).collect();
            assert_eq!(keys[0], "a");
            assert!((made..=made + 1).contains(&(keys.len() - 1)), "{made} were made, {keys:?} are there");
        }
    }
    assert!(failed > 10, "{failed} commits failed");
}
