//! The state directory in the hands of `tools`: what is damaged in it, and a directory that opens again.
//!
//! A decision stands for itself and an acknowledged event may always be delivered once more, so the groups
//! behind damaged ones still count: what a repair cannot save is delivered again, and nothing is skipped.
//! Numbers must follow on, so an empty frame takes the place of each group that is lost.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gridwire_core::ids::StateSeq;
use gridwire_core::time::Timestamp;
use gridwire_outside::{Disk, DiskFile, OpenMode};

use super::format::{Frame, HEADER_BYTES, Header, HeaderFault, Kind, Seed, find_later_frame};
use super::recovery::{log_number, read_all};
use super::snapshot::{self, Fault, snapshot_number, snapshot_path};
use super::writer::{ASIDE_SUFFIX, aside_path, log_path};
use crate::embedded::error::OpenError;
use crate::embedded::tools::{Finding, Report, finding, put_in_place, set_aside};
use crate::log::Recovered;

/// What a log file holds, damage passed.
struct Survey {
    header: Option<Header>,
    bytes: Vec<u8>,
    /// Places and lengths of sound frames, in order.
    frames: Vec<(usize, usize)>,
    /// The number after the last sound frame, and its end.
    next: u64,
    end: usize,
    holes: Vec<std::ops::Range<usize>>,
    /// The highest number that any frame says was durable.
    durable: u64,
    groups: u64,
    time: Timestamp,
}

/// A directory's files, from the newest snapshot that is sound on.
struct Found {
    snapshot: Option<snapshot::Summary>,
    damaged_snapshot: Option<(u64, Finding)>,
    numbers: Vec<u64>,
    from: u64,
}

fn io_at<'p>(doing: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> OpenError + use<'p> {
    OpenError::io(doing, path)
}

fn find(disk: &dyn Disk, dir: &Path, store: [u8; 16]) -> Result<Found, OpenError> {
    let names = disk.list(dir).map_err(io_at("list", dir))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| log_number(name)).collect();
    numbers.sort_unstable();
    let mut snapshots: Vec<u64> = names.iter().filter_map(|name| snapshot_number(name)).collect();
    snapshots.sort_unstable();
    let (mut sound, mut damaged) = (None, None);
    for number in snapshots.into_iter().rev() {
        let path = snapshot_path(dir, number);
        match snapshot::read(disk, dir, store, number, &mut |_| {}) {
            Ok(summary) => {
                sound = Some(summary);
                break;
            }
            Err(Fault::Io(error)) => return Err(OpenError::io("read", &path)(error)),
            Err(Fault::Version(version)) => {
                return Err(OpenError::UnknownFormat { path, version, known: super::format::VERSION });
            }
            Err(Fault::Damaged(at)) => {
                let file = disk.open(&path, OpenMode::Existing).map_err(io_at("open", &path))?;
                let end = file.len().map_err(io_at("read", &path))?.max(at);
                let what = "the state snapshot is not what was written";
                let damage = OpenError::damaged(&path, at..end, what);
                damaged.get_or_insert((number, finding(damage, false)));
            }
        }
    }
    let from = sound.map_or(1, |snapshot: snapshot::Summary| snapshot.number);
    numbers.retain(|number| from <= *number);
    let is_gap = numbers.first().is_none_or(|first| *first != from);
    if let Some((_, finding)) = &mut damaged {
        // The logs that it replaced are needed now, and are there or not.
        finding.refused = is_gap;
    }
    Ok(Found { snapshot: sound, damaged_snapshot: damaged, numbers, from })
}

fn survey(
    disk: &dyn Disk,
    path: &Path,
    number: u64,
    store: [u8; 16],
    expected: Option<u64>,
) -> Result<Survey, OpenError> {
    let file = disk.open(path, OpenMode::Existing).map_err(io_at("open", path))?;
    let bytes = read_all(&*file).map_err(io_at("read", path))?;
    let header = match Header::decode(Kind::Log, number, store, &bytes) {
        Ok(header) => Some(header),
        Err(HeaderFault::Damaged) => None,
        Err(HeaderFault::Version(version)) => {
            let known = super::format::VERSION;
            return Err(OpenError::UnknownFormat { path: path.to_owned(), version, known });
        }
    };
    let seed = Seed::new(store, number);
    let own_first =
        bytes.get(HEADER_BYTES..).and_then(|rest| Frame::parse(rest, seed)).map(|frame| frame.seq);
    let first = header.map(|header| header.first).or(expected).or(own_first).unwrap_or(1);
    let mut survey = Survey {
        header,
        frames: Vec::new(),
        next: first,
        end: HEADER_BYTES,
        holes: Vec::new(),
        durable: first - 1,
        groups: 0,
        time: header.map_or(Timestamp::ZERO, |header| header.time),
        bytes: Vec::new(),
    };
    loop {
        let at = survey.end;
        let frame = bytes.get(at..).and_then(|rest| Frame::parse(rest, seed));
        if let Some(frame) = frame.filter(|frame| frame.seq == survey.next) {
            survey.frames.push((at, frame.size()));
            survey.next += 1;
            survey.end += frame.size();
            survey.durable = survey.durable.max(frame.durable);
            survey.time = survey.time.max(frame.time);
            survey.groups += u64::from(!frame.body.is_empty());
            continue;
        }
        let Some(behind) = find_later_frame(&bytes, at, survey.next, seed) else { break };
        let frame = Frame::parse(&bytes[behind..], seed).expect("it was just found");
        survey.holes.push(at..behind);
        survey.next = frame.seq;
        survey.end = behind;
    }
    survey.bytes = bytes;
    Ok(survey)
}

/// A log file's first number may be told by the file before it.
fn surveys(
    disk: &dyn Disk,
    dir: &Path,
    store: [u8; 16],
    found: &Found,
    report: &mut Report,
    mut show: impl FnMut(u64, Option<Survey>, u64, bool) -> Result<u64, OpenError>,
) -> Result<(), OpenError> {
    let newest_at = found.snapshot.map_or(0, |snapshot| snapshot.newest_at);
    let last = found.numbers.last().copied().unwrap_or(found.from);
    let mut next = None;
    for number in found.from..=last {
        let path = log_path(dir, number);
        let mut refused = false;
        let mut say = |bytes: std::ops::Range<usize>, what: String| {
            refused = true;
            let bytes = bytes.start as u64..bytes.end as u64;
            report.findings.push(finding(OpenError::damaged(&path, bytes, what), true));
        };
        if found.numbers.binary_search(&number).is_err() {
            say(0..0, "the state log is missing".to_owned());
            next = Some(show(number, None, next.unwrap_or(newest_at + 1), true)?);
            continue;
        }
        let survey = survey(disk, &path, number, store, next)?;
        if survey.header.is_none() {
            say(0..HEADER_BYTES, "the header is damaged".to_owned());
        }
        let is_last = number == last;
        for hole in &survey.holes {
            // At the end of the last file, what nobody says was durable is a torn tail.
            let place = survey.frames.iter().filter(|(at, _)| *at < hole.start).count() as u64;
            let lost = survey.header.map_or(0, |header| header.first) + place;
            if !is_last || lost <= survey.durable {
                say(hole.clone(), "groups of decisions are not what was written".to_owned());
            }
        }
        let first = survey.header.map(|header| header.first);
        if let (Some(first), Some(next)) = (first, next)
            && first != next
        {
            say(
                0..HEADER_BYTES,
                format!("groups {next} to {} are missing before it", first.saturating_sub(1)),
            );
        }
        if is_last && survey.next <= newest_at {
            let what = format!("it ends at group {}, the snapshot includes {newest_at}", survey.next - 1);
            say(survey.end..survey.bytes.len(), what);
        }
        report.groups += survey.groups;
        let first = next.or(first).unwrap_or(newest_at + 1);
        next = Some(show(number, Some(survey), first, refused)?);
    }
    Ok(())
}

/// Reports what is damaged in the state directory; `is_used` when the store has events.
pub(crate) fn check(
    disk: &dyn Disk,
    dir: &Path,
    store: [u8; 16],
    is_used: bool,
    report: &mut Report,
) -> Result<(), OpenError> {
    let found = find(disk, dir, store)?;
    report.findings.extend(found.damaged_snapshot.iter().map(|(_, finding)| finding.clone()));
    if found.numbers.is_empty() && found.snapshot.is_none() && found.damaged_snapshot.is_none() && !is_used {
        return Ok(());
    }
    surveys(disk, dir, store, &found, report, |_, survey, first, _| Ok(survey.map_or(first, |s| s.next)))
}

/// Shows the parts of the newest sound snapshot, and every sound group since.
pub(crate) fn read(
    disk: &dyn Disk,
    dir: &Path,
    store: [u8; 16],
    visit: &mut dyn FnMut(Recovered<'_>),
) -> Result<(), OpenError> {
    let found = find(disk, dir, store)?;
    if let Some(summary) = found.snapshot {
        let path = snapshot_path(dir, summary.number);
        let changed = |_| OpenError::damaged(&path, 0..0, "it is not what it was a moment ago");
        snapshot::read(disk, dir, store, summary.number, visit).map_err(changed)?;
    }
    for &number in &found.numbers {
        let survey = survey(disk, &log_path(dir, number), number, store, None)?;
        for &(at, len) in &survey.frames {
            let bytes = survey.bytes.get(at..at + len).unwrap_or_default();
            let frame = Frame::parse(bytes, Seed::new(store, number));
            if let Some(Frame { seq, time, body, .. }) = frame.filter(|frame| !frame.body.is_empty()) {
                visit(Recovered::Group { seq: StateSeq(seq), time, decisions: body });
            }
        }
    }
    Ok(())
}

/// Makes the state directory openable.
pub(crate) fn repair(
    disk: &dyn Disk,
    dir: &Path,
    store: [u8; 16],
    is_used: bool,
    report: &mut Report,
) -> Result<(), OpenError> {
    let mut found = find(disk, dir, store)?;
    if let Some((number, finding)) = found.damaged_snapshot.take() {
        let refused = finding.refused;
        report.findings.push(finding);
        let path = snapshot_path(dir, number);
        set_aside(disk, &path)?;
        if refused {
            salvage_snapshot(disk, dir, store, number)?;
        } else {
            disk.remove(&path).and_then(|()| disk.sync_dir(dir)).map_err(io_at("remove", &path))?;
        }
        report.rewritten.push(path);
        found = find(disk, dir, store)?;
    }
    if found.numbers.is_empty() && found.snapshot.is_none() && !is_used {
        return Ok(());
    }
    let newest_at = found.snapshot.map_or(0, |snapshot| snapshot.newest_at);
    let last = found.numbers.last().copied().unwrap_or(found.from);
    // A file ends where the next one begins.
    let mut firsts = std::collections::BTreeMap::new();
    for &number in &found.numbers {
        let survey = survey(disk, &log_path(dir, number), number, store, None)?;
        firsts.extend(survey.header.map(|header| (number, header.first)));
    }
    let mut rewritten: Vec<PathBuf> = Vec::new();
    let ends = |number: u64| firsts.range(number + 1..).next().map(|(_, first)| *first);
    surveys(disk, dir, store, &found, report, |number, survey, first, refused| {
        let next = survey.as_ref().map_or(first, |survey| survey.next);
        let end = ends(number).unwrap_or(next).max(if number == last { newest_at + 1 } else { 0 });
        if !refused && end <= next {
            return Ok(next);
        }
        let path = log_path(dir, number);
        if survey.is_some() {
            set_aside(disk, &path)?;
        }
        let file = write_log(disk, dir, store, number, survey.as_ref(), first, end)?;
        put_in_place(disk, &*file, &aside_path(dir, number), &path)?;
        rewritten.push(path);
        Ok(end.max(next))
    })?;
    report.rewritten.extend(rewritten);
    Ok(())
}

/// A log file with every sound group of another, and empty ones for what is lost up to `end`.
fn write_log(
    disk: &dyn Disk,
    dir: &Path,
    store: [u8; 16],
    number: u64,
    survey: Option<&Survey>,
    first: u64,
    end: u64,
) -> Result<Arc<dyn DiskFile>, OpenError> {
    let seed = Seed::new(store, number);
    let time = survey.map_or(Timestamp::ZERO, |survey| survey.time);
    let header = Header { kind: Kind::Log, number, first, time };
    let mut out = header.encode(store);
    let mut next = first;
    let fill = |out: &mut Vec<u8>, next: &mut u64, end: u64| {
        while *next < end {
            Frame { seq: *next, durable: *next - 1, time, body: &[] }.put(seed, out);
            *next += 1;
        }
    };
    for &(at, len) in survey.iter().flat_map(|survey| &survey.frames) {
        let frame = survey.and_then(|survey| Frame::parse(survey.bytes.get(at..at + len)?, seed));
        let frame = frame.expect("it was sound when it was surveyed");
        fill(&mut out, &mut next, frame.seq);
        if frame.seq == next {
            frame.put(seed, &mut out);
            next += 1;
        }
    }
    fill(&mut out, &mut next, end);
    let path = aside_path(dir, number);
    let write = || {
        let file = disk.open(&path, OpenMode::Create)?;
        file.set_len(0)?;
        file.write_at(&out, 0)?;
        Ok(file)
    };
    write().map_err(io_at("write", &path))
}

/// Writes a snapshot again with the parts of it that are sound. Who lost its part begins with the oldest
/// event there is.
fn salvage_snapshot(disk: &dyn Disk, dir: &Path, store: [u8; 16], number: u64) -> Result<(), OpenError> {
    let path = snapshot_path(dir, number);
    let file = disk.open(&path, OpenMode::Existing).map_err(io_at("open", &path))?;
    let bytes = read_all(&*file).map_err(io_at("read", &path))?;
    let seed = Seed::new(store, number);
    let (mut parts, mut count, mut at, mut time) = (Vec::new(), 0, HEADER_BYTES, Timestamp::ZERO);
    while at < bytes.len() {
        match Frame::parse(&bytes[at..], seed).filter(|frame| u32::try_from(frame.durable).is_ok()) {
            Some(frame) => {
                frame.put(seed, &mut parts);
                time = time.max(frame.time);
                count += 1;
                at += frame.size();
            }
            None => at += 1,
        }
    }
    let mut out = Header { kind: Kind::Snapshot, number, first: count, time }.encode(store);
    out.extend_from_slice(&parts);
    let aside = dir.join(format!("snap-{number:020}{ASIDE_SUFFIX}"));
    let write = || {
        let file = disk.open(&aside, OpenMode::Create)?;
        file.set_len(0)?;
        file.write_at(&out, 0)?;
        Ok(file)
    };
    let file = write().map_err(io_at("write", &aside))?;
    put_in_place(disk, &*file, &aside, &path)
}
