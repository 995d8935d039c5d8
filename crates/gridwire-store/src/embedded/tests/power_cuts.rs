//! Random histories with power cuts: whatever was answered with success is there.

use super::*;

/// What was answered with success, by topic and offset: the event's name and size.
type Acknowledged = BTreeMap<(TopicNumber, u64), (String, usize)>;

fn check_acknowledged(log: &EmbeddedLog, acknowledged: &Acknowledged) -> Result<(), String> {
    for topic in (0..3).map(TopicNumber) {
        let retained = (topic, log.start(topic).0)..=(topic, u64::MAX);
        let expected: Vec<_> = acknowledged.range(retained).collect();
        let offsets = expected.iter().map(|((_, offset), _)| Offset(*offset)).collect();
        let events = now(log.fetch(topic, offsets)).map_err(|error| error.to_string())?;
        if events.len() != expected.len() {
            return Err(format!("{} of {} events are left", events.len(), expected.len()));
        }
        for (found, ((_, offset), (name, size))) in events.iter().zip(expected) {
            let mut bytes = Vec::new();
            event(name, *size).encode(&mut bytes);
            if found.offset.0 != *offset || found.event != bytes {
                return Err(format!("`{name}` is another event"));
            }
        }
    }
    let frames = read_all(log, Lsn(0));
    let rises = |pair: &[Frame]| pair[0].lsn < pair[1].lsn && pair[0].time <= pair[1].time;
    frames.windows(2).all(rises).then_some(()).ok_or_else(|| "frames are out of order".into())
}

/// A batch of frames for random topics; notes what is acknowledged.
fn append_random(
    log: &EmbeddedLog,
    rng: &SeededRng,
    tag: &str,
    acknowledged: &mut Acknowledged,
) -> Result<(), String> {
    let size = usize::try_from(rng.below(2_000)).expect("it is small");
    let (mut drafts, mut names) = (Vec::new(), Vec::new());
    for frame in 0..=rng.below(3) {
        let topic = TopicNumber(u32::try_from(rng.below(3)).expect("it is small"));
        let (name, count) = (format!("{tag}-{frame}"), 1 + rng.below(3));
        let matched: Vec<&[u32]> = (0..count).map(|_| &[0u32, 3][..]).collect();
        drafts.push(draft(topic, &name, size, &matched));
        names.push((topic, name, count));
    }
    for (answer, (topic, name, count)) in append_batch(log, drafts).into_iter().zip(names) {
        let Ok(appended) = answer else { continue };
        for index in 0..count {
            let event = (format!("{name}-{index}"), size);
            if acknowledged.insert((topic, appended.first.0 + index), event).is_some() {
                return Err(format!("`{name}` was given an offset that was taken"));
            }
        }
    }
    Ok(())
}

/// Random appends, trims, faults and restarts with power cuts; all that was answered must stay.
fn run_with_crashes(seed: u64, plant_missing_flush: bool) -> Result<(), String> {
    let disk = MemoryDisk::new();
    let rng = SeededRng::new(seed);
    let options = EmbeddedOptions { plant_missing_flush, ..options() };
    let mut acknowledged = Acknowledged::new();
    for round in 0..6 {
        let log = try_open(&disk, options.clone()).map_err(|error| error.to_string())?;
        check_acknowledged(&log, &acknowledged)?;
        if rng.below(3) == 0 {
            disk.fail_nth(Call::Any, 1 + rng.below(200), std::io::ErrorKind::Other, true);
        }
        for step in 0..rng.below(60) {
            append_random(&log, &rng, &format!("{seed}-{round}-{step}"), &mut acknowledged)?;
            let oldest = log.segments().first().map(|segment| segment.end);
            if let Some(end) = oldest.filter(|_| rng.below(30) == 0) {
                let _ = now(log.trim(end));
            }
        }
        if rng.below(4) == 0 {
            now(log.close(Duration::from_secs(1)));
        }
        drop(log);
        disk.heal();
        disk.crash(rng.next_u64());
    }
    Ok(())
}

#[test]
fn whatever_the_power_cut_all_that_was_acknowledged_is_there() {
    for seed in 0..60 {
        run_with_crashes(seed, false).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

#[test]
fn a_missing_flush_is_found_by_the_power_cuts() {
    assert!((0..20).any(|seed| run_with_crashes(seed, true).is_err()));
}
