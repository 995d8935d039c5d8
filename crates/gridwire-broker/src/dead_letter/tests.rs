//! Dead letters on a disk that crashes and refuses.

use std::io;
use std::path::Path;
use std::sync::Arc;

use gridwire_core::routing::DeadLetterDestination;
use gridwire_outside::memory::{Call, MemoryDisk};
use gridwire_outside::system::SystemDisk;
use gridwire_outside::{Disk, OpenMode};

use super::DeadLetters;

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

/// A disk with the data directory that a log has made.
fn new_disk() -> MemoryDisk {
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
