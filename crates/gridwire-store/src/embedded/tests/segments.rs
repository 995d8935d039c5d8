//! Segments: one after another, trimmed, and their files used again.

use super::*;

#[test]
fn segments_follow_each_other_and_all_of_them_are_readable() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 600, 500);
    assert!(log.segments().len() > 3);
    check_filled(&log);
    drop(log);
    let log = open(&disk);
    check_filled(&log);
    fill_to(&log, 700, 500);
    check_filled(&log);
}

#[test]
fn ends_survive_the_trimming_of_all_their_segments() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    let other = TopicNumber(9);
    now(log.append_events(draft(other, "x", 10, &[&[0], &[0]]))).unwrap();
    fill_to(&log, 500, 500);
    let segments = log.segments();
    assert_eq!(segments[0].topics.len(), 2);
    let last = segments.last().unwrap();
    now(log.trim(last.end)).unwrap();
    assert_eq!(log.segments(), []);
    assert_eq!((log.start(other), log.end(other)), (Offset(2), Offset(2)));
    assert_eq!(log.start(TOPIC).0, last.topics[0].last.0 + 1);
    check_filled(&log);
    drop(log);
    let log = open(&disk);
    assert_eq!((log.start(other), log.end(other)), (Offset(2), Offset(2)));
    check_filled(&log);
    assert_eq!(now(log.append_events(draft(other, "y", 10, &[&[0]]))).unwrap().first, Offset(2));
    assert!(log.health().spares > 0);
}

#[test]
fn a_recycled_file_yields_none_of_its_old_frames() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 500, 500);
    now(log.trim(log.segments().last().unwrap().end)).unwrap();
    let spares = log.health().spares;
    // Into the first recycled file, and then the power goes.
    while log.health().spares == spares {
        append(&log, &log.end(TOPIC).to_string(), 500).unwrap();
    }
    let end = log.end(TOPIC);
    drop(log);
    disk.crash(1);
    let log = open(&disk);
    assert_eq!(log.end(TOPIC), end);
    check_filled(&log);
}

#[test]
fn a_large_frame_is_read_once_for_those_who_want_it_a_few_events_at_a_time() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    let (frames, events) = (12, 50);
    for frame in 0..frames {
        now(log.append_events(draft(TOPIC, &frame.to_string(), 200, &vec![&[0][..]; events]))).unwrap();
    }
    scan_all(&log, 0, 1_000); // Builds the indexes.
    let total = log.end(TOPIC).0;
    let fetch = |from: u64| {
        let wanted = (from..(from + 7).min(total)).map(Offset).collect();
        now(log.fetch(TOPIC, wanted)).expect("they are fetched").iter().map(id).collect::<Vec<_>>()
    };
    let before = disk.calls(Call::Read);
    let fetched: Vec<String> = (0..total).step_by(7).flat_map(fetch).collect();
    let expected = (0..frames).flat_map(|frame| (0..events).map(move |event| format!("{frame}-{event}")));
    assert!(fetched.into_iter().eq(expected));
    let reads = disk.calls(Call::Read) - before;
    assert!(reads <= 2 * frames, "{reads} reads for {frames} frames");

    // What is trimmed is gone, though it was read a moment ago.
    assert_eq!(fetch(0).len(), 7);
    now(log.trim(log.segments()[0].end)).unwrap();
    assert!(7 < log.start(TOPIC).0);
    assert_eq!(fetch(0), Vec::<String>::new());
}

#[test]
fn a_reader_keeps_its_file_from_being_recycled() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 300, 500);
    let reader = log.shared.segment_of(0).unwrap();
    let first_end = log.segments()[0].end;
    now(log.trim(first_end)).unwrap();
    assert_eq!((reader.number, log.health().spares), (1, 0));
    let end_at = reader.state().contents.end_at;
    assert!(reader.window(end_at, 0).frame(reader.state().contents.data_at).unwrap().is_some());
}

#[test]
fn recovery_reads_one_segment_whatever_the_backlog() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 1_500, 500);
    let segments = log.health().segments;
    drop(log);
    let before = disk.calls(Call::Read);
    drop(open(&disk));
    let reads = disk.calls(Call::Read) - before;
    // Header, the footer's end and the footer of each, and a few for the last and the state log.
    assert!(reads < segments * 3 + 20, "{reads} reads for {segments} segments");
}
