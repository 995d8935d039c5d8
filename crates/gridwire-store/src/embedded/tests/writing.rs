//! What is appended comes back, and how appends are answered.

use super::*;

#[test]
fn what_is_appended_is_read_scanned_and_fetched() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    let first = now(log.append_events(draft(TOPIC, "a", 10, &[&[0], &[1], &[0, 1]]))).unwrap();
    let other = now(log.append_events(draft(TopicNumber(2), "b", 10, &[&[0]]))).unwrap();
    let second = now(log.append_events(draft(TOPIC, "c", 2_000, &[&[0, 2], &[1]]))).unwrap();
    assert_eq!((first.first, other.first, second.first), (Offset(0), Offset(0), Offset(3)));
    let check = |log: &EmbeddedLog| {
        let frames = read_all(log, Lsn(0));
        let seen: Vec<_> =
            frames.iter().map(|frame| (frame.lsn, frame.topic, frame.first, frame.count)).collect();
        let lsns = [first.lsn, other.lsn, second.lsn];
        let expected = [(TOPIC, Offset(0), 3), (TopicNumber(2), Offset(0), 1), (TOPIC, Offset(3), 2)];
        assert_eq!(seen, lsns.iter().zip(expected).map(|(l, (t, f, c))| (*l, t, f, c)).collect::<Vec<_>>());
        for (slot, offsets) in [(0, vec![0, 2, 3]), (1, vec![1, 2, 4]), (2, vec![3]), (9, vec![])] {
            for max in [1, 2, 100] {
                let found = scan_all(log, slot, max);
                assert_eq!(found.iter().map(|matched| matched.offset.0).collect::<Vec<_>>(), offsets);
            }
        }
        let events = now(log.fetch(TOPIC, [1, 2, 4].map(Offset).to_vec())).unwrap();
        assert_eq!(events.iter().map(id).collect::<Vec<_>>(), ["a-1", "a-2", "c-1"]);
        let matched = scan_all(log, 1, 10);
        for (event, matched) in events.iter().zip(matched) {
            assert_eq!((event.offset, event.time), (matched.offset, matched.time));
            assert_eq!(event.event.len(), matched.size as usize);
        }
        assert_eq!((log.start(TOPIC), log.end(TOPIC)), (Offset(0), Offset(5)));
        assert_eq!(log.position(), (second.lsn.next(), second.time));
    };
    check(&log);
    now(log.close(Duration::from_secs(1)));
    drop(log);
    let log = open(&disk);
    check(&log);
    // The mark of the clean end took a number of its own.
    let third = append(&log, "d", 1).unwrap();
    assert_eq!((third.first, third.lsn), (Offset(5), Lsn(second.lsn.0 + 2)));
    assert_eq!(read_all(&log, second.lsn).len(), 2);
}

#[test]
fn a_full_queue_refuses_at_once() {
    let disk = MemoryDisk::new();
    let log = try_open(&disk, EmbeddedOptions { queue_bytes_max: 1_000, ..options() }).unwrap();
    // Alone it is taken, however small the queue.
    assert!(append(&log, "0", 3_000).is_ok());
    log.shared.queue_bytes.store(900, Ordering::Relaxed);
    assert_eq!(append(&log, "1", 10), Err(AppendError::Overloaded));
    log.shared.queue_bytes.store(0, Ordering::Relaxed);
    assert!(append(&log, "1", 10).is_ok());
    assert!(matches!(append(&log, "2", 100 << 10), Err(AppendError::TooLarge { .. })));
    assert_eq!(log.health().queue_bytes, 0);
}

#[test]
fn the_writer_as_a_value_answers_each_append_of_a_batch_in_order() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    let flushes = disk.calls(Call::Sync);
    let drafts = (0..20).map(|i| draft(TOPIC, &i.to_string(), 100, &[&[0]])).collect();
    for (offset, answer) in (0..).zip(append_batch(&log, drafts)) {
        assert_eq!(answer.unwrap().first, Offset(offset));
    }
    // One for the new segment's header, one for the group.
    assert_eq!(disk.calls(Call::Sync) - flushes, 2);
    check_filled(&log);
}

#[test]
fn with_threads_many_callers_are_answered_and_a_reader_waits_for_the_next_frame() {
    let disk = MemoryDisk::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let log = try_open(&disk, EmbeddedOptions { threads: true, ..options() }).unwrap();
        let reader = log.clone();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let (mut next, mut count) = (Lsn(0), 0);
            while count < 400 {
                let frames = reader.read(next, 10_000).await.unwrap();
                next = frames.last().unwrap().lsn.next();
                count += frames.len();
            }
        });
        for caller in 0..8 {
            let log = log.clone();
            tasks.spawn(async move {
                for i in 0..50 {
                    let name = format!("{caller}-{i}");
                    let appended = log.append_events(draft(TOPIC, &name, 300, &[&[0]])).await.unwrap();
                    let events = log.fetch(TOPIC, vec![appended.first]).await.unwrap();
                    assert_eq!(id(&events[0]), format!("{name}-0"));
                }
            });
        }
        tasks.join_all().await;
        assert_eq!(log.scan(TOPIC, Slot(0), Offset(0), 100).await.unwrap().matches.len(), 100);
        log.trim(log.segments()[0].end).await.unwrap();
        log.close(Duration::from_secs(5)).await;
        let late = log.append_events(draft(TOPIC, "late", 1, &[&[0]])).await;
        assert_eq!(late, Err(AppendError::Failed));
    });
    // Closing released the directory although the log still exists somewhere.
    assert_eq!(open(&disk).end(TOPIC), Offset(400));
}
