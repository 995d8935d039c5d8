//! Opening the event log: finding its end, and telling a torn tail from damage.
//!
//! Only the last segment is scanned, and the one before it when its footer is missing. The scan ends at the
//! first frame that is not valid. If a valid frame behind it says that it had been durable, acknowledged
//! data are damaged and the store does not open; otherwise nothing from there on was ever acknowledged, and
//! it is cut. Then the frames that no mark vouches for are written again and flushed: after a failed flush
//! and a crash the page cache may show bytes that the disk does not have.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gridwire_core::ids::TopicNumber;
use gridwire_core::time::Timestamp;
use gridwire_outside::disk::read_exact_at;
use gridwire_outside::{Disk, DiskFile, OpenMode};

use super::error::{Damage, OpenError};
use super::format::{
    BLOCK, Contents, FRAME_BYTES_MAX, FrameHeader, GROUP_BYTES_MAX, HeaderFault, SegmentHeader, seed,
};
use super::search::Search;
use super::segment::{Name, Segment, State, Window, segment_path, spare_path};

/// Bytes read at a time while scanning.
const SCAN_AHEAD: usize = 1 << 20;
/// What of the file behind the end is made zeros: as far as the one group that was under way can reach.
const TORN_MAX: u64 = (GROUP_BYTES_MAX + FRAME_BYTES_MAX + BLOCK) as u64;

/// The log as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Oldest first; the last may be unsealed.
    pub(crate) segments: VecDeque<Arc<Segment>>,
    pub(crate) ends: BTreeMap<TopicNumber, u64>,
    pub(crate) next_lsn: u64,
    /// The LSN after the last event frame.
    pub(crate) events_end: u64,
    /// The highest LSN that a frame on disk vouches for.
    pub(crate) marked: u64,
    pub(crate) newest: Timestamp,
    pub(crate) spares: BTreeSet<u8>,
}

/// What recovery needs to know of the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) dir: &'a Path,
    pub(crate) store: [u8; 16],
    pub(crate) segment_bytes: u64,
    pub(crate) block_bytes: u64,
    pub(crate) spares_max: u8,
}

/// A segment file with its header read.
struct Opened {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    len: u64,
    header: SegmentHeader,
    data_at: u64,
}

impl Place<'_> {
    pub(crate) fn recover(&self) -> Result<Found, OpenError> {
        let (numbers, spares) = self.tidy()?;
        if let Some(gap) = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
            let file = segment_path(self.dir, gap[0] + 1);
            return Err(OpenError::damaged(&file, 0..0, "the segment is missing"));
        }
        let mut found = Found {
            segments: VecDeque::new(),
            ends: BTreeMap::new(),
            next_lsn: 0,
            events_end: 0,
            marked: 0,
            newest: Timestamp::ZERO,
            spares,
        };
        // From the newest to the oldest: a segment without a footer is judged by the one after it.
        for (age, &number) in numbers.iter().rev().enumerate() {
            let opened = self.open(number, age == 0)?;
            let next_lsn = found.segments.front().map(|segment| segment.state().contents.first_lsn);
            let footer = opened.read_footer(self.store)?;
            let sealed = footer.is_some() || age > 0;
            let contents = match (footer, next_lsn) {
                (Some(contents), _) => {
                    if age == 0 {
                        opened.write_footer(&contents, self.store)?;
                        found.take_ends(&opened.header, &contents);
                    }
                    contents
                }
                (None, None) => self.scan_last(&opened, &mut found)?,
                (None, Some(next_lsn)) if age == 1 => self.scan_unsealed(number, next_lsn)?,
                (None, Some(_)) => {
                    let at = opened.len.saturating_sub(Contents::FOOTER_TAIL as u64);
                    return Err(OpenError::damaged(&opened.path, at..opened.len, "the footer is not valid"));
                }
            };
            if contents.first_lsn != opened.header.first_lsn
                || next_lsn.is_some_and(|next_lsn| contents.end_lsn != next_lsn)
            {
                let what = "the segment does not join its neighbours";
                return Err(OpenError::damaged(&opened.path, 0..opened.len, what));
            }
            let state = State { contents, sealed, bytes: opened.len };
            let segment = Segment::new(number, seed(self.store, number), opened.file, state);
            found.segments.push_front(Arc::new(segment));
        }
        Ok(found)
    }

    /// Removes what half-done changes left behind; returns the segments and the spares there are.
    fn tidy(&self) -> Result<(Vec<u64>, BTreeSet<u8>), OpenError> {
        let names = self.disk.list(self.dir).map_err(OpenError::io("list", self.dir))?;
        let (mut numbers, mut spares, mut leftovers) = (Vec::new(), BTreeSet::new(), Vec::new());
        for name in &names {
            match Name::parse(name) {
                Name::Segment(number) => numbers.push(number),
                Name::Spare(place) if place < self.spares_max && self.is_sound_spare(place)? => {
                    spares.insert(place);
                }
                Name::Index(_) | Name::Unknown => {}
                Name::Spare(_) | Name::Leftover => leftovers.push(name.clone()),
            }
        }
        for name in &names {
            if matches!(Name::parse(name), Name::Index(number) if numbers.binary_search(&number).is_err()) {
                leftovers.push(name.clone());
            }
        }
        for name in &leftovers {
            let path = self.dir.join(name);
            self.disk.remove(&path).map_err(OpenError::io("remove", &path))?;
        }
        // Also when nothing was left over: a process that died right after it named a segment did not make the
        // name durable, and what we append to that segment must not go with its name.
        self.disk.sync_dir(self.dir).map_err(OpenError::io("sync", self.dir))?;
        Ok((numbers, spares))
    }

    /// A spare of another size would make a segment of another size.
    fn is_sound_spare(&self, place: u8) -> Result<bool, OpenError> {
        let path = spare_path(self.dir, place);
        let len = self.disk.open(&path, OpenMode::Existing).and_then(|file| file.len());
        Ok(len.map_err(OpenError::io("open", &path))? == self.segment_bytes)
    }

    /// Opens a segment and reads its header, the ends only `with_ends`.
    fn open(&self, number: u64, with_ends: bool) -> Result<Opened, OpenError> {
        let path = segment_path(self.dir, number);
        let file = self.disk.open(&path, OpenMode::Existing).map_err(OpenError::io("open", &path))?;
        let len = file.len().map_err(OpenError::io("read", &path))?;
        let mut block = vec![0; BLOCK];
        let got = file.read_at(&mut block, 0).map_err(OpenError::io("read", &path))?;
        let block = SegmentHeader::decode_block(&block[..got], self.store, number).map_err(|fault| {
            let what = match fault {
                HeaderFault::Damaged => "the header is not valid".to_owned(),
                HeaderFault::Version(version) => format!("the segment has format version {version}"),
                HeaderFault::OtherStore => "the segment is another store's".to_owned(),
                HeaderFault::OtherNumber(other) => format!("the segment is number {other}"),
            };
            OpenError::damaged(&path, 0..BLOCK as u64, what)
        })?;
        let data_at = block.data_at();
        let wrong = || OpenError::damaged(&path, BLOCK as u64..data_at, "the topics' ends are not valid");
        if len < data_at {
            return Err(wrong());
        }
        let header = if with_ends {
            let mut ends = vec![0; block.ends_len()];
            read_exact_at(&*file, &mut ends, BLOCK as u64).map_err(OpenError::io("read", &path))?;
            SegmentHeader::decode_ends(block, &ends, self.store).ok_or_else(wrong)?
        } else {
            block.without_ends()
        };
        Ok(Opened { path, file, len, header, data_at })
    }

    /// The last segment: finds its end, cuts what was never acknowledged, writes the rest of the tail again.
    fn scan_last(&self, opened: &Opened, found: &mut Found) -> Result<Contents, OpenError> {
        let scan = opened.scan(self.store, self.block_bytes)?;
        let end_at = scan.contents.end_at;
        if let Some(damage) = scan.damage(opened, self.store)? {
            return Err(OpenError::Damaged(damage));
        }
        let write = OpenError::io("write", &opened.path);
        (|| {
            let torn = opened.len.saturating_sub(end_at).min(TORN_MAX);
            opened.file.write_at(&vec![0; usize::try_from(torn).unwrap_or(0)], end_at)?;
            if let Some(&(_, from)) = scan.unmarked.front() {
                let mut tail = vec![0; usize::try_from(end_at - from).map_err(io::Error::other)?];
                read_exact_at(&*opened.file, &mut tail, from)?;
                opened.file.write_at(&tail, from)?;
            }
            opened.file.sync_data()
        })()
        .map_err(write)?;
        found.next_lsn = scan.contents.end_lsn;
        found.events_end = scan.contents.events_end;
        found.marked = scan.marked;
        found.newest = scan.contents.newest;
        found.ends = scan.ends;
        Ok(scan.contents)
    }

    /// The last segment but one without a footer: its frames must reach the next segment; then it is sealed
    /// again.
    fn scan_unsealed(&self, number: u64, next_lsn: u64) -> Result<Contents, OpenError> {
        let opened = self.open(number, true)?;
        let scan = opened.scan(self.store, self.block_bytes)?;
        if scan.contents.end_lsn != next_lsn {
            let damage = scan.damage(&opened, self.store)?.unwrap_or_else(|| Damage {
                file: opened.path.clone(),
                bytes: scan.contents.end_at..opened.len,
                topics: Vec::new(),
                what: format!("frames {} to {next_lsn} are missing", scan.contents.end_lsn),
            });
            return Err(OpenError::Damaged(damage));
        }
        tracing::warn!(segment = number, "wrote the damaged footer of a segment again");
        opened.write_footer(&scan.contents, self.store)?;
        Ok(scan.contents)
    }
}

impl Found {
    /// The ends of topics at the end of a sealed last segment.
    fn take_ends(&mut self, header: &SegmentHeader, contents: &Contents) {
        self.ends.clone_from(&header.ends);
        self.ends.extend(contents.topics.iter().map(|(topic, span)| (*topic, span.last + 1)));
        self.next_lsn = contents.end_lsn;
        self.events_end = contents.events_end;
        self.marked = contents.end_lsn; // The footer vouches for all of it.
        self.newest = contents.newest;
    }
}

/// A segment's frames, as far as they are valid.
struct Scan {
    contents: Contents,
    ends: BTreeMap<TopicNumber, u64>,
    /// The highest durable LSN that a frame carries.
    marked: u64,
    /// LSN and place of the frames from `marked` on.
    unmarked: VecDeque<(u64, u64)>,
}

impl Opened {
    fn read_footer(&self, store: [u8; 16]) -> Result<Option<Contents>, OpenError> {
        let read = || -> io::Result<Option<Contents>> {
            let mut tail = [0; Contents::FOOTER_TAIL];
            let tail_at = self.len.saturating_sub(tail.len() as u64);
            read_exact_at(&*self.file, &mut tail, tail_at)?;
            let Some(at) = Contents::footer_at(&tail, self.len).filter(|at| self.data_at <= *at) else {
                return Ok(None);
            };
            let mut footer = vec![0; usize::try_from(self.len - at).map_err(io::Error::other)?];
            read_exact_at(&*self.file, &mut footer, at)?;
            Ok(Contents::decode_footer(&footer, seed(store, self.header.number)))
        };
        read().map_err(OpenError::io("read", &self.path))
    }

    /// Writes the footer (again) and flushes it. One that is there already may be there in the page cache alone,
    /// left by a process that died before its flush; nobody would write it later, for the segment is sealed.
    fn write_footer(&self, contents: &Contents, store: [u8; 16]) -> Result<(), OpenError> {
        let footer = contents.encode_footer(seed(store, self.header.number));
        let at = self.len.saturating_sub(footer.len() as u64);
        if at < contents.end_at {
            return Err(OpenError::damaged(&self.path, at..self.len, "there is no room for the footer"));
        }
        let written = self.file.write_at(&footer, at).and_then(|()| self.file.sync_data());
        written.map_err(OpenError::io("write", &self.path))
    }

    fn scan(&self, store: [u8; 16], block_bytes: u64) -> Result<Scan, OpenError> {
        let header = &self.header;
        let mut scan = Scan {
            contents: Contents::new(self.data_at, header),
            ends: header.ends.clone(),
            marked: header.first_lsn,
            unmarked: VecDeque::new(),
        };
        let mut window = Window::new(&*self.file, seed(store, header.number), self.len, SCAN_AHEAD);
        loop {
            let at = scan.contents.end_at;
            let frame = window.frame(at).map_err(OpenError::io("read", &self.path))?;
            let Some((frame, bytes)) = frame.filter(|(frame, _)| scan.follows(frame)) else {
                return Ok(scan);
            };
            scan.contents.add(&frame, bytes.len() as u64, block_bytes);
            if !frame.is_mark() {
                scan.ends.insert(frame.topic, frame.end());
            }
            scan.marked = scan.marked.max(frame.durable);
            scan.unmarked.push_back((frame.lsn, at));
            while scan.unmarked.front().is_some_and(|(lsn, _)| *lsn < scan.marked) {
                scan.unmarked.pop_front();
            }
        }
    }
}

impl Scan {
    /// Whether a frame whose checksum is right is also the next one.
    fn follows(&self, frame: &FrameHeader) -> bool {
        frame.lsn == self.contents.end_lsn
            && frame.durable <= frame.lsn
            && (frame.is_mark() || frame.first.0 == self.ends.get(&frame.topic).copied().unwrap_or(0))
    }

    /// Looks behind the end of the scan, at every byte position, for a frame that vouches for the one that
    /// is missing there.
    fn damage(&self, opened: &Opened, store: [u8; 16]) -> Result<Option<Damage>, OpenError> {
        let (lost_at, lost) = (self.contents.end_at, self.contents.end_lsn);
        let window = Window::new(&*opened.file, seed(store, opened.header.number), opened.len, SCAN_AHEAD);
        let mut search = Search::new(window, lost_at, lost);
        let (mut ends, mut topics) = (self.ends.clone(), BTreeSet::new());
        let mut bytes = lost_at..lost_at;
        let mut acknowledged = false;
        while let Some((at, frame)) = search.next().map_err(OpenError::io("read", &opened.path))? {
            if bytes.is_empty() {
                bytes.end = at;
            }
            acknowledged |= lost < frame.durable;
            if !frame.is_mark() {
                let end = ends.insert(frame.topic, frame.end()).unwrap_or(0);
                if end != frame.first.0 {
                    topics.insert(frame.topic);
                }
            }
        }
        Ok(acknowledged.then(|| Damage {
            file: opened.path.clone(),
            bytes,
            topics: topics.into_iter().collect(),
            what: format!("frame {lost} was durable and is not valid"),
        }))
    }
}
