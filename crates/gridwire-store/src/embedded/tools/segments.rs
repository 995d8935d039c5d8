//! The event log's segments, sound or not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gridwire_core::ids::{Offset, TopicNumber};
use gridwire_core::time::Timestamp;
use gridwire_outside::disk::read_exact_at;
use gridwire_outside::{Disk, DiskFile, OpenMode};

use super::{Finding, Report, SegmentUsage, put_in_place, set_aside};
use crate::embedded::error::{Damage, OpenError};
use crate::embedded::format::{BLOCK, Contents, FrameHeader, SegmentHeader, seed};
use crate::embedded::search::Search;
use crate::embedded::segment::{Name, Window, new_path, segment_path};
use crate::log::TopicSpan;

/// Bytes read at a time.
const AHEAD: usize = 1 << 20;
/// How the footer of a rewritten segment divides it for indexes; what the log itself does by default.
const BLOCK_BYTES: u64 = 32 << 20;
/// Where the first frame of a segment with a damaged header is looked for: behind so many blocks of ends.
const ENDS_BLOCKS_MAX: u64 = 64;

pub(super) struct Segments<'a> {
    disk: &'a dyn Disk,
    dir: PathBuf,
    store: [u8; 16],
    numbers: Vec<u64>,
}

/// A segment file as it was found.
struct Found {
    number: u64,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    len: u64,
    header: Option<SegmentHeader>,
    footer: Option<Contents>,
    /// Where the frames begin, and the LSN of the first.
    start: Option<(u64, u64)>,
}

/// What a segment's frames say, holes passed.
struct Walked {
    contents: Contents,
    /// Damaged stretches, with the LSNs that are missing in each.
    holes: Vec<(Range<u64>, Range<u64>)>,
    lost: Vec<(TopicNumber, Range<u64>)>,
    ends: BTreeMap<TopicNumber, u64>,
    /// How many bytes of holes follow each topic's last sound frame; for a topic without one, all.
    holes_since: BTreeMap<TopicNumber, u64>,
    frames: u64,
    events: u64,
    /// The highest LSN that a frame says was durable.
    marked: u64,
    /// Frames at the end are missing.
    is_short: bool,
}

/// Where the segments before have brought the log.
#[derive(Clone, Default)]
struct Before {
    lsn: u64,
    events_end: u64,
    newest: Timestamp,
    ends: BTreeMap<TopicNumber, u64>,
}

/// The store id of the first segment whose header proves it.
pub(super) fn store_id(disk: &dyn Disk, dir: &Path) -> Result<Option<[u8; 16]>, OpenError> {
    for name in disk.list(dir).map_err(OpenError::io("list", dir))? {
        let Name::Segment(number) = Name::parse(&name) else { continue };
        let path = dir.join(&name);
        let read = || -> io::Result<Vec<u8>> {
            let mut block = vec![0; BLOCK];
            let got = disk.open(&path, OpenMode::Existing)?.read_at(&mut block, 0)?;
            block.truncate(got);
            Ok(block)
        };
        let block = read().map_err(OpenError::io("read", &path))?;
        if let Some(id) = block.get(12..28).and_then(|id| <[u8; 16]>::try_from(id).ok())
            && SegmentHeader::decode_block(&block, id, number).is_ok()
        {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

impl<'a> Segments<'a> {
    pub(super) fn find(disk: &'a dyn Disk, dir: PathBuf, store: [u8; 16]) -> Result<Self, OpenError> {
        let names = disk.list(&dir).map_err(OpenError::io("list", &dir))?;
        let number = |name: &String| match Name::parse(name) {
            Name::Segment(number) => Some(number),
            _ => None,
        };
        Ok(Self { disk, store, numbers: names.iter().filter_map(number).collect(), dir })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    fn open(&self, number: u64) -> Result<Found, OpenError> {
        let path = segment_path(&self.dir, number);
        let io = || OpenError::io("read", &path);
        let file = self.disk.open(&path, OpenMode::Existing).map_err(io())?;
        let len = file.len().map_err(io())?;
        let mut block = vec![0; BLOCK];
        let got = file.read_at(&mut block, 0).map_err(io())?;
        let header = match SegmentHeader::decode_block(&block[..got], self.store, number) {
            Ok(block) if block.data_at() <= len => {
                let mut ends = vec![0; block.ends_len()];
                read_exact_at(&*file, &mut ends, BLOCK as u64).map_err(io())?;
                SegmentHeader::decode_ends(block, &ends, self.store).map(|header| (header, block.data_at()))
            }
            _ => None,
        };
        let footer = self.footer(&*file, len, number).map_err(io())?;
        let start = match (&header, &footer) {
            (Some((header, data_at)), _) => Some((*data_at, header.first_lsn)),
            (None, Some(footer)) => Some((footer.data_at, footer.first_lsn)),
            (None, None) => {
                let mut window = Window::new(&*file, seed(self.store, number), len, AHEAD);
                let mut start = None;
                for at in (1..=ENDS_BLOCKS_MAX).map(|block| block * BLOCK as u64) {
                    if let Some((frame, _)) = window.frame(at).map_err(io())? {
                        start = Some((at, frame.lsn));
                        break;
                    }
                }
                start
            }
        };
        let header = header.map(|(header, _)| header);
        Ok(Found { number, path, file, len, header, footer, start })
    }

    fn footer(&self, file: &dyn DiskFile, len: u64, number: u64) -> io::Result<Option<Contents>> {
        let mut tail = [0; Contents::FOOTER_TAIL];
        if len < tail.len() as u64 {
            return Ok(None);
        }
        read_exact_at(file, &mut tail, len - Contents::FOOTER_TAIL as u64)?;
        let Some(at) = Contents::footer_at(&tail, len).filter(|at| BLOCK as u64 <= *at) else {
            return Ok(None);
        };
        let mut footer = vec![0; usize::try_from(len - at).map_err(io::Error::other)?];
        read_exact_at(file, &mut footer, at)?;
        Ok(Contents::decode_footer(&footer, seed(self.store, number)))
    }

    /// Walks the frames of a segment from its start to its end, over all holes.
    fn walk(&self, found: &Found, header: &SegmentHeader) -> Result<Walked, OpenError> {
        let (data_at, first_lsn) = found.start.unwrap_or((BLOCK as u64, header.first_lsn));
        let mut contents = Contents::new(data_at, header);
        contents.first_lsn = first_lsn;
        contents.end_lsn = first_lsn;
        let mut walked = Walked {
            contents,
            holes: Vec::new(),
            lost: Vec::new(),
            ends: header.ends.clone(),
            holes_since: BTreeMap::new(),
            frames: 0,
            events: 0,
            marked: 0,
            is_short: false,
        };
        let end = found.footer.as_ref().map_or(found.len, |footer| footer.end_at);
        let seed = seed(self.store, found.number);
        let mut window = Window::new(&*found.file, seed, end, AHEAD);
        let io = || OpenError::io("read", &found.path);
        loop {
            let (at, lsn) = (walked.contents.end_at, walked.contents.end_lsn);
            let frame = window.frame_if(at, |frame| frame.lsn == lsn).map_err(io())?;
            if let Some((frame, bytes)) = frame {
                walked.add(&frame, bytes.len() as u64);
                continue;
            }
            let mut search = Search::new(Window::new(&*found.file, seed, end, AHEAD), at, lsn);
            let next = search.next().map_err(io())?.map(|(at, frame)| (at, frame.lsn));
            let sealed_end = found.footer.as_ref().map(|footer| (footer.end_at, footer.end_lsn));
            let Some((behind, next_lsn)) = next.or(sealed_end.filter(|end| at < end.0)) else {
                if let Some(footer) = &found.footer {
                    walked.lost.extend(walked.short_of(footer));
                    // One that a repair put in the place of another has numbers but no frames.
                    walked.contents.end_lsn = walked.contents.end_lsn.max(footer.end_lsn);
                }
                return Ok(walked);
            };
            walked.skip(behind, next_lsn);
        }
    }

    /// The header that a segment must have had, when its own is damaged.
    fn header_after(before: &Before, found: &Found) -> SegmentHeader {
        let first_lsn = found.start.map_or(before.lsn, |(_, lsn)| lsn);
        SegmentHeader {
            number: found.number,
            first_lsn,
            created: before.newest,
            newest: before.newest,
            events_end: before.events_end,
            ends: before.ends.clone(),
        }
    }

    pub(super) fn check(&self, report: &mut Report) -> Result<(), OpenError> {
        self.go_through(report, |_, _, _, _| Ok(()))
    }

    /// Looks at every segment, oldest first. `mend` is shown those that a server would refuse, each with what
    /// is before it, and the number of the newest.
    fn go_through(
        &self,
        report: &mut Report,
        mut mend: impl FnMut(Option<&Found>, &Before, Option<&Walked>, u64) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        let (Some(&first), Some(&last)) = (self.numbers.first(), self.numbers.last()) else { return Ok(()) };
        let mut before: Option<Before> = None;
        let mut next_found = None;
        let mut is_behind_gap = true;
        for number in first..=last {
            if self.numbers.binary_search(&number).is_err() {
                let path = segment_path(&self.dir, number);
                let mut finding =
                    super::finding(OpenError::damaged(&path, 0..0, "the segment is missing"), true);
                if self.numbers.binary_search(&(number + 1)).is_ok() {
                    let next = self.open(number + 1)?;
                    let known = before.clone().unwrap_or_default().ends;
                    let ends = next.header.as_ref().map(|header| &header.ends);
                    finding.lost = ends.map_or_else(Vec::new, |ends| short_of(&known, ends));
                    finding.damage.topics = finding.lost.iter().map(|(topic, _)| *topic).collect();
                    next_found = Some(next);
                }
                report.findings.push(finding);
                mend(None, &before.clone().unwrap_or_default(), None, number)?;
                is_behind_gap = true;
                continue;
            }
            let found = match next_found.take() {
                Some(found) => found,
                None => self.open(number)?,
            };
            let known = before.clone().unwrap_or_default();
            let header = found.header.clone().unwrap_or_else(|| Self::header_after(&known, &found));
            let mut walked = self.walk(&found, &header)?;
            if number < last && self.numbers.binary_search(&(number + 1)).is_ok() {
                let next = self.open(number + 1)?;
                if let Some(next) = &next.header {
                    walked.lost.extend(walked.short_of_ends(&next.ends));
                }
                // Without a footer, only the next one tells how far this one went.
                if let Some((_, lsn)) = next.start.filter(|_| found.footer.is_none()) {
                    walked.is_short = walked.contents.end_lsn < lsn;
                    walked.contents.end_lsn = walked.contents.end_lsn.max(lsn);
                }
                next_found = Some(next);
            }
            let joins = is_behind_gap || known.lsn == walked.contents.first_lsn;
            is_behind_gap = false;
            let refused = judge(&found, &walked, joins, last - number, report);
            report.segments += 1;
            report.frames += walked.frames;
            report.events += walked.events;
            report.bytes += found.len;
            if refused {
                mend(Some(&found), &known, Some(&walked), number)?;
            }
            let Contents { end_lsn, events_end, newest, .. } = walked.contents;
            let mut ends = known.ends;
            ends.extend(walked.ends);
            before = Some(Before { lsn: end_lsn, events_end, newest, ends });
        }
        Ok(())
    }

    pub(super) fn usage(&self) -> Result<Vec<SegmentUsage>, OpenError> {
        let mut all = Vec::new();
        for &number in &self.numbers {
            let found = self.open(number)?;
            let contents = match (&found.footer, &found.header) {
                (Some(footer), _) => footer.clone(),
                (None, Some(header)) => self.walk(&found, header)?.contents,
                (None, None) => continue,
            };
            let span = |(topic, span): (&TopicNumber, &crate::embedded::format::Span)| TopicSpan {
                topic: *topic,
                first: Offset(span.first),
                last: Offset(span.last),
                newest: span.newest,
                bytes: span.bytes,
            };
            all.push(SegmentUsage {
                number,
                bytes: found.len,
                sealed: found.footer.is_some(),
                topics: contents.topics.iter().map(span).collect(),
            });
        }
        Ok(all)
    }

    pub(super) fn repair(
        &self,
        floors: &BTreeMap<TopicNumber, u64>,
        report: &mut Report,
    ) -> Result<(), OpenError> {
        let mut rewritten = Vec::new();
        let last = self.numbers.last().copied();
        self.go_through(report, |found, before, walked, number| {
            match (found, walked) {
                (Some(found), Some(walked)) => {
                    self.rewrite(found, before, walked)?;
                    if Some(number) == last {
                        self.begin_anew(number + 1, before, walked, floors)?;
                    }
                }
                _ => self.fill_gap(number, before)?,
            }
            rewritten.push(segment_path(&self.dir, number));
            Ok(())
        })?;
        report.rewritten.extend(rewritten);
        Ok(())
    }

    /// The segment again, with a sound header, every sound frame in its place, and a footer.
    fn rewrite(&self, found: &Found, before: &Before, walked: &Walked) -> Result<(), OpenError> {
        set_aside(self.disk, &found.path)?;
        let mut header = found.header.clone().unwrap_or_else(|| Self::header_after(before, found));
        header.first_lsn = walked.contents.first_lsn;
        let front = header.encode(self.store);
        let from = walked.contents.data_at;
        let (to, mut contents) = (front.len() as u64, walked.contents.clone());
        let moved = |at: u64| at - from + to;
        (contents.data_at, contents.end_at) = (to, moved(contents.end_at));
        contents.blocks.iter_mut().for_each(|block| block.at = moved(block.at));
        let path = new_path(&self.dir, found.number);
        let write = || -> io::Result<Arc<dyn DiskFile>> {
            let file = self.disk.open(&path, OpenMode::Create)?;
            file.set_len(0)?;
            file.write_at(&front, 0)?;
            let mut at = from;
            for (hole, _) in &walked.holes {
                copy(&*found.file, at..hole.start, &*file, moved(at))?;
                at = hole.end;
            }
            copy(&*found.file, at..walked.contents.end_at, &*file, moved(at))?;
            let footer = contents.encode_footer(seed(self.store, found.number));
            let end = (contents.end_at + footer.len() as u64).max(found.len);
            file.write_at(&footer, end - footer.len() as u64)?;
            Ok(file)
        };
        let file = write().map_err(OpenError::io("write", &path))?;
        put_in_place(self.disk, &*file, &path, &found.path)
    }

    /// A segment without frames in the place of one that is gone.
    fn fill_gap(&self, number: u64, before: &Before) -> Result<(), OpenError> {
        let next = self.numbers.iter().find(|next| number < **next);
        let next = self.open(*next.expect("a gap is followed by a segment"))?;
        let next_lsn = next.start.map_or(before.lsn, |(_, lsn)| lsn);
        let is_last_of_gap = next.number == number + 1;
        let header = SegmentHeader {
            number,
            first_lsn: before.lsn,
            created: before.newest,
            newest: before.newest,
            events_end: before.events_end,
            ends: before.ends.clone(),
        };
        let front = header.encode(self.store);
        let mut contents = Contents::new(front.len() as u64, &header);
        if is_last_of_gap {
            contents.end_lsn = next_lsn;
        }
        self.write_new(number, &front, Some(&contents))
    }

    /// An empty segment to go on in, where no topic's offsets can meet those that were given before.
    fn begin_anew(
        &self,
        number: u64,
        before: &Before,
        walked: &Walked,
        floors: &BTreeMap<TopicNumber, u64>,
    ) -> Result<(), OpenError> {
        let mut ends = before.ends.clone();
        ends.extend(walked.ends.iter().map(|(topic, end)| (*topic, *end)));
        let all_holes: u64 = walked.holes.iter().map(|(bytes, _)| bytes.end - bytes.start).sum();
        for (topic, end) in &mut ends {
            // An event takes a byte at least, so no more of them can have been in the holes.
            *end += walked.holes_since.get(topic).copied().unwrap_or(all_holes);
        }
        for (topic, floor) in floors {
            let end = ends.entry(*topic).or_insert(0);
            *end = (*end).max(*floor);
        }
        let Contents { end_lsn, events_end, newest, .. } = walked.contents;
        let header = SegmentHeader { number, first_lsn: end_lsn, created: newest, newest, events_end, ends };
        self.write_new(number, &header.encode(self.store), None)
    }

    fn write_new(&self, number: u64, front: &[u8], footer: Option<&Contents>) -> Result<(), OpenError> {
        let path = new_path(&self.dir, number);
        let write = || -> io::Result<Arc<dyn DiskFile>> {
            let file = self.disk.open(&path, OpenMode::Create)?;
            file.set_len(0)?;
            file.write_at(front, 0)?;
            if let Some(contents) = footer {
                file.write_at(&contents.encode_footer(seed(self.store, number)), front.len() as u64)?;
            }
            Ok(file)
        };
        let file = write().map_err(OpenError::io("write", &path))?;
        put_in_place(self.disk, &*file, &path, &segment_path(&self.dir, number))
    }
}

/// Reports what is wrong with a segment that has `younger` behind it; whether a server refuses it.
fn judge(found: &Found, walked: &Walked, joins: bool, younger: u64, report: &mut Report) -> bool {
    let topics: BTreeSet<TopicNumber> = walked.lost.iter().map(|(topic, _)| *topic).collect();
    let mut findings = Vec::new();
    let mut say = |bytes: Range<u64>, what: String, refused: bool| {
        let topics = topics.iter().copied().collect();
        let damage = Damage { file: found.path.clone(), bytes, topics, what };
        findings.push(Finding { damage, lost: Vec::new(), refused });
    };
    if found.header.is_none() {
        say(0..walked.contents.data_at, "the header is not valid".to_owned(), true);
    }
    if !joins {
        say(0..found.len, "the segment does not join its neighbours".to_owned(), true);
    }
    if found.footer.is_none() && younger > 0 {
        let at = found.len.saturating_sub(Contents::FOOTER_TAIL as u64);
        // That of the last but one is written again at the next start, when its frames are whole.
        let refused = younger > 1 || walked.is_short || !walked.holes.is_empty();
        say(at..found.len, "the footer is not valid".to_owned(), refused);
    }
    for (bytes, lsns) in &walked.holes {
        let is_sealed = found.footer.is_some();
        // What nobody says was durable is a torn tail, and was never acknowledged.
        if is_sealed || younger > 0 || lsns.start < walked.marked {
            let what = format!("frames {} to {} are not valid", lsns.start, lsns.end - 1);
            say(bytes.clone(), what, !is_sealed);
        }
    }
    if let Some(last) = findings.last_mut() {
        last.lost.clone_from(&walked.lost);
    }
    let refused = findings.iter().any(|finding| finding.refused);
    report.findings.extend(findings);
    refused
}

impl Walked {
    fn add(&mut self, frame: &FrameHeader, len: u64) {
        self.contents.add(frame, len, BLOCK_BYTES);
        self.marked = self.marked.max(frame.durable);
        self.frames += 1;
        if frame.is_mark() {
            return;
        }
        self.events += u64::from(frame.count);
        let end = self.ends.insert(frame.topic, frame.end());
        // Without its header, a segment's first frame of a topic may be the topic's first of all.
        if let Some(end) = end.filter(|end| *end < frame.first.0) {
            self.lost.push((frame.topic, end..frame.first.0));
        }
        self.holes_since.insert(frame.topic, 0);
    }

    fn skip(&mut self, at: u64, lsn: u64) {
        let bytes = self.contents.end_at..at;
        self.holes_since.values_mut().for_each(|since| *since += bytes.end - bytes.start);
        self.holes.push((bytes, self.contents.end_lsn..lsn));
        (self.contents.end_at, self.contents.end_lsn) = (at, lsn);
    }

    /// What the footer knows of and the frames do not have, at the end of each topic.
    fn short_of<'a>(&'a self, footer: &'a Contents) -> Vec<(TopicNumber, Range<u64>)> {
        let ends = footer.topics.iter().map(|(topic, span)| (*topic, span.last + 1)).collect();
        let mut lost = self.short_of_ends(&ends);
        for (topic, range) in &mut lost {
            if !self.ends.contains_key(topic) {
                range.start = footer.topics[topic].first;
            }
        }
        lost
    }

    fn short_of_ends(&self, ends: &BTreeMap<TopicNumber, u64>) -> Vec<(TopicNumber, Range<u64>)> {
        let mut have = self.ends.clone();
        for (topic, range) in &self.lost {
            let end = have.entry(*topic).or_insert(0);
            *end = (*end).max(range.end);
        }
        short_of(&have, ends)
    }
}

/// The offsets of each topic between one moment and a later one.
fn short_of(
    have: &BTreeMap<TopicNumber, u64>,
    ends: &BTreeMap<TopicNumber, u64>,
) -> Vec<(TopicNumber, Range<u64>)> {
    let missing = |(topic, end): (&TopicNumber, &u64)| {
        let have = have.get(topic).copied().unwrap_or(0);
        (have < *end).then_some((*topic, have..*end))
    };
    ends.iter().filter_map(missing).collect()
}

fn copy(from: &dyn DiskFile, bytes: Range<u64>, to: &dyn DiskFile, mut at: u64) -> io::Result<()> {
    let mut buffer = vec![0; AHEAD];
    let mut from_at = bytes.start;
    while from_at < bytes.end {
        let len = usize::try_from(bytes.end - from_at).unwrap_or(AHEAD).min(AHEAD);
        read_exact_at(from, &mut buffer[..len], from_at)?;
        to.write_at(&buffer[..len], at)?;
        from_at += len as u64;
        at += len as u64;
    }
    Ok(())
}
