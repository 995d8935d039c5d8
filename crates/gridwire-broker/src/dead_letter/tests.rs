//! Dead letters on a disk that crashes and refuses.

use std::io;
use std::path::Path;
use std::sync::Arc;

use gridwire_core::dead_letter::Selection;
use gridwire_core::ids::{Lsn, SubscriptionNumber};
use gridwire_core::routing::DeadLetterDestination;
use gridwire_core::time::Timestamp;
use gridwire_outside::memory::{Call, MemoryDisk};
use gridwire_outside::system::SystemDisk;
use gridwire_outside::{Disk, OpenMode};

use super::{DeadLetters, JobState, Kind, Record};

const PATH: &str = "BILLING/2026/11/22/21/guid.json";
const WHOLE: &str = "/data/deadletter/store/failed/BILLING/2026/11/22/21/guid.json";

fn destination(account: &str, container: &str) -> DeadLetterDestination {
    DeadLetterDestination { account: account.to_owned(), container: container.to_owned() }
}

fn on(disk: &MemoryDisk) -> DeadLetters {
    DeadLetters::new(Arc::new(disk.clone()), "/data/deadletter".into(), true)
}

async fn write(letters: &DeadLetters, path: &str, content: &str) -> io::Result<()> {
    letters.write(&destination("store", "failed"), path, content.into()).await
}

/// The record of a job that runs.
pub(crate) fn record(id: &str, subscription: u32) -> Record {
    Record {
        id: id.to_owned(),
        kind: Kind::Redrive { rate: 100 },
        subscription: SubscriptionNumber(subscription),
        resource: "/subscriptions/s".to_owned(),
        destination: destination("store", "failed"),
        place: None,
        prefix: "BILLING".to_owned(),
        selection: Selection::default(),
        created: Timestamp::from_millis(1_795_465_178_054),
        state: JobState::Running,
        ended: None,
        cursor: None,
        checkpoint: Lsn(12),
        taken: 0,
        unusable: 0,
        problem: None,
    }
}

/// A disk with the data directory that a log has made.
pub(crate) fn new_disk() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new("/data")).expect("it is made");
    disk.sync_dir(Path::new("/")).expect("it is synced");
    disk
}

fn contents(disk: &MemoryDisk, path: &str) -> Option<String> {
    disk.contents(Path::new(path)).map(|bytes| String::from_utf8(bytes).expect("text"))
}

#[tokio::test]
async fn a_written_dead_letter_survives_every_crash() {
    for seed in 0..100 {
        let disk = new_disk();
        let letters = on(&disk);
        for number in 0..6 {
            let path = format!("BILLING/2026/11/22/21/{number}.json");
            write(&letters, &path, &format!("content {number}")).await.expect("written");
        }
        disk.crash(seed);
        // The next process writes more, which must not touch what is there, and crashes too.
        write(&on(&disk), "BILLING/2026/11/22/21/6.json", "content 6").await.expect("written");
        disk.crash(seed + 1000);
        for number in 0..7 {
            let path = format!("/data/deadletter/store/failed/BILLING/2026/11/22/21/{number}.json");
            assert_eq!(contents(&disk, &path), Some(format!("content {number}")), "seed {seed}");
        }
    }
}

#[tokio::test]
async fn a_dead_letter_is_whole_or_not_there_whatever_call_fails() {
    let mut n = 0;
    loop {
        n += 1;
        let disk = new_disk();
        let letters = on(&disk);
        disk.fail_nth(Call::Any, n, io::ErrorKind::Other, false);
        let failed = write(&letters, PATH, "content").await.is_err();
        disk.crash(n);
        if failed {
            assert!(contents(&disk, WHOLE).is_none_or(|content| content == "content"), "call {n}");
            disk.heal();
            write(&on(&disk), PATH, "content").await.expect("written the second time");
        }
        assert_eq!(contents(&disk, WHOLE).as_deref(), Some("content"), "call {n}");
        if !failed && 8 < n {
            return;
        }
    }
}

#[tokio::test]
async fn writing_again_changes_nothing_but_the_content() {
    let disk = new_disk();
    let letters = on(&disk);
    write(&letters, PATH, "the first content").await.expect("written");
    write(&letters, PATH, "another").await.expect("written");
    assert_eq!(contents(&disk, WHOLE).as_deref(), Some("another"));
    let dir = Path::new(WHOLE).parent().expect("a directory");
    assert_eq!(disk.list(dir).expect("there"), ["guid.json"]);
    assert!(disk.list(Path::new("/data/deadletter/.partial")).expect("there").is_empty());
}

#[tokio::test]
async fn a_directory_that_somebody_moved_away_is_made_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("deadletter");
    let letters = DeadLetters::new(Arc::new(SystemDisk), root.clone(), true);
    write(&letters, "A/0.json", "content").await.expect("written");
    let moves = [root.join("store"), root.join(".partial"), root.clone()];
    for (number, moved) in moves.iter().enumerate() {
        std::fs::rename(moved, directory.path().join(format!("away-{number}"))).expect("moved");
        let path = format!("A/{number}-again.json");
        write(&letters, &path, "content").await.expect("written");
        let content = std::fs::read(root.join("store/failed").join(&path)).expect("there");
        assert_eq!(content, b"content", "{} was moved", moved.display());
    }
}

#[tokio::test]
async fn writes_at_the_same_time_do_not_mix() {
    let directory = tempfile::tempdir().expect("a directory");
    let letters = Arc::new(DeadLetters::new(Arc::new(SystemDisk), directory.path().join("deadletter"), true));
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..40 {
        let letters = Arc::clone(&letters);
        writes.spawn(async move {
            let (path, content) =
                (format!("A/{}/{number}.json", number % 3), number.to_string().repeat(1000));
            write(&letters, &path, &content).await.expect("written");
        });
    }
    while let Some(done) = writes.join_next().await {
        done.expect("no panic");
    }
    for number in 0..40 {
        let path = directory.path().join(format!("deadletter/store/failed/A/{}/{number}.json", number % 3));
        let file = SystemDisk.open(&path, OpenMode::Existing).expect("there");
        let mut content = vec![0; 10_000];
        let length = file.read_at(&mut content, 0).expect("readable");
        assert_eq!(content[..length], *number.to_string().repeat(1000).as_bytes());
    }
}

#[tokio::test]
async fn a_path_cannot_leave_its_container() {
    let disk = new_disk();
    let letters = on(&disk);
    let long = "a".repeat(256);
    for path in [
        "",
        "/",
        "..",
        "../a.json",
        "a/../../b.json",
        "a/./b.json",
        "a//b.json",
        "/etc/passwd",
        "a/",
        "a\\b.json",
        "a\0.json",
        "a\n.json",
        ".hidden",
        "c:/a.json",
        &long,
        &"a/".repeat(600),
    ] {
        let error = write(&letters, path, "x").await.expect_err(path);
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path:?}");
    }
    for (account, container) in
        [("", "c"), ("a", ""), ("..", "c"), ("a", ".."), ("a/b", "c"), (".partial", "c")]
    {
        let error = letters.write(&destination(account, container), "a.json", b"x".to_vec()).await;
        assert_eq!(error.expect_err("refused").kind(), io::ErrorKind::InvalidInput, "{account} {container}");
    }
    assert_eq!(disk.list(Path::new("/data")).expect("it is listed"), Vec::<String>::new());
}
