//! Bytes that are not as they were written: built again, refused, or reported.

use super::*;

#[test]
fn an_index_that_is_deleted_or_damaged_is_built_again() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 500, 500);
    check_filled(&log);
    let path = index_path(&log_dir(), 1);
    let good = disk.contents(&path).expect("it was written");
    drop(log);
    for damage in 0..4 {
        match damage {
            0 => disk.remove(&path).unwrap(),
            1 => disk.put(&path, good[..good.len() / 2].to_vec()),
            2 => assert!(disk.flip_bit(&path, 100, 3)),
            _ => disk.put(&path, disk.contents(&index_path(&log_dir(), 2)).unwrap()),
        }
        let log = open(&disk);
        check_filled(&log);
        assert!(disk.contents(&path).is_some_and(|bytes| good.len() <= bytes.len()), "damage {damage}");
    }
}

#[test]
fn a_damaged_middle_is_refused_with_its_place_and_topics() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 10, 100);
    now(log.close(Duration::from_secs(1)));
    let contents = log.shared.last_segment().unwrap().state().contents.clone();
    drop(log);
    let path = segment_path(&log_dir(), 1);
    let sound = disk.contents(&path).unwrap();
    // Any byte of any frame but the mark, lengths included.
    let mark = contents.end_at - FRAME_HEADER as u64;
    for byte in (contents.data_at..mark).step_by(7) {
        assert!(disk.flip_bit(&path, byte, 2));
        let error = try_open(&disk, options()).expect_err("it is refused");
        let OpenError::Damaged(damage) = &error else { panic!("{error}") };
        assert_eq!(damage.file, path);
        assert!(damage.bytes.contains(&byte), "{byte}: {damage}");
        // Behind the last event frame comes only the mark, which tells of no topic.
        if damage.bytes.end < mark {
            assert_eq!(damage.topics, [TOPIC]);
        }
        disk.put(&path, sound.clone());
    }
    check_filled(&open(&disk));
}

#[test]
fn damage_to_a_sealed_segment_is_refused_or_reported_when_read() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 400, 500);
    check_filled(&log);
    let log_segments = log.health().segments;
    drop(log);
    let refused = |byte: u64, segment: u64| {
        let path = segment_path(&log_dir(), segment);
        let sound = disk.contents(&path).unwrap();
        assert!(disk.flip_bit(&path, byte, 0));
        let error = try_open(&disk, options()).expect_err("it is refused");
        assert!(matches!(&error, OpenError::Damaged(damage) if damage.file == path), "{error}");
        disk.put(&path, sound);
    };
    refused(20, 1);
    refused((64 << 10) - 20, 1);
    refused(4096 + 3, log_segments);

    let path = segment_path(&log_dir(), 1);
    assert!(disk.flip_bit(&path, 4096 + 300, 0));
    let log = open(&disk);
    assert_eq!(now(log.fetch(TOPIC, vec![Offset(0)])), Ok(Vec::new()));
    let health = log.health();
    assert_eq!((health.damaged_frames_total, health.damaged_events_total), (1, 1));
    assert_eq!((health.damages[0].segment, health.damages[0].bytes.start), (1, 4096));
    assert!(now(log.fetch(TOPIC, vec![Offset(1)])).is_ok());
    disk.remove(&path).unwrap();
    drop(log);
    assert!(try_open(&disk, options()).is_ok(), "the oldest may have been trimmed");
    disk.remove(&segment_path(&log_dir(), 3)).unwrap();
    assert!(matches!(try_open(&disk, options()), Err(OpenError::Damaged(_))), "a gap is damage");
}

#[test]
fn the_scrubber_finds_damage_that_nobody_met_and_goes_on_after_a_read_that_fails() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 400, 500);
    let sealed = log.segments().len() as u64;
    let pass = |log: &EmbeddedLog| {
        let mut scrub = scrub::Scrub::default();
        (1..1_000).find(|_| scrub.step(&log.shared)).expect("a pass ends")
    };
    assert_eq!((pass(&log), log.health().damaged_frames_total), (sealed + 1, 0));
    assert!(disk.flip_bit(&segment_path(&log_dir(), 2), 20_000, 1));
    disk.fail_nth(Call::Read, 1, std::io::ErrorKind::Other, true);
    assert_eq!((pass(&log), log.health().damaged_frames_total), (sealed + 1, 0));
    disk.heal();
    pass(&log);
    pass(&log);
    let health = log.health();
    assert_eq!((health.damaged_frames_total, health.damaged_events_total), (1, 1));
    assert_eq!(health.damages[0].segment, 2);
}

#[test]
fn a_missing_footer_of_the_last_sealed_segment_is_written_again() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    fill_to(&log, 200, 500);
    let sealed = log.segments();
    drop(log);
    let path = segment_path(&log_dir(), sealed.last().unwrap().number);
    assert!(disk.flip_bit(&path, (64 << 10) - 20, 0));
    let log = open(&disk);
    assert_eq!(log.segments(), sealed);
    check_filled(&log);
    drop(log);
    assert_eq!(open(&disk).segments(), sealed);
}

#[test]
fn a_frame_planted_in_a_payload_is_taken_for_nothing() {
    let disk = MemoryDisk::new();
    let log = open(&disk);
    // Well formed but for the store id, which no publisher knows; it claims that all before was durable.
    let header = FrameHeader {
        lsn: 2,
        durable: 2,
        topic: TOPIC,
        count: 1,
        first: Offset(2),
        time: Timestamp::from_millis(1_000),
    };
    let mut planted = Vec::new();
    header.encode(b"body", format::seed([0; 16], 1), &mut planted);
    let mut frame = FrameBuilder::new(TOPIC, 0);
    let mut set = MatchSet::default();
    set.push(Slot(0));
    let mut carrier = event("1-0", 0);
    carrier.data = Data::Binary(planted.into());
    frame.push(&set, &carrier);
    fill_to(&log, 1, 10);
    let at = log.shared.last_segment().unwrap().state().contents.end_at;
    now(log.append_events(frame.finish().unwrap())).unwrap();
    drop(log);
    // The carrier is torn at its front, so that the search walks over its payload.
    assert!(disk.flip_bit(&segment_path(&log_dir(), 1), at + 9, 0));
    let log = open(&disk);
    assert_eq!(log.end(TOPIC), Offset(1));
    check_filled(&log);
}
