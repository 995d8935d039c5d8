//! One segment file as the running log holds it, and how frames are read out of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use gridwire_outside::DiskFile;

use super::damage::Lost;
use super::format::{Contents, FRAME_HEADER, FrameHeader};

/// What a name in the log's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Segment(u64),
    Index(u64),
    Spare(u8),
    /// What a change that was under way when the process ended left behind.
    Leftover,
    Unknown,
}

impl Name {
    pub(crate) fn parse(name: &str) -> Self {
        let numbered = |stem: &str| (stem.len() == 20).then(|| stem.parse::<u64>().ok()).flatten();
        if let Some(number) = name.strip_suffix(".seg").and_then(numbered) {
            return Self::Segment(number);
        }
        if let Some(number) = name.strip_suffix(".idx").and_then(numbered) {
            return Self::Index(number);
        }
        if let Some(place) = name.strip_prefix("spare-").and_then(|place| place.parse().ok()) {
            return Self::Spare(place);
        }
        if name.strip_suffix(".new").is_some() { Self::Leftover } else { Self::Unknown }
    }
}

pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.seg"))
}

pub(crate) fn index_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.idx"))
}

/// A segment under construction, before its rename.
pub(crate) fn new_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.new"))
}

pub(crate) fn spare_path(dir: &Path, place: u8) -> PathBuf {
    dir.join(format!("spare-{place}"))
}

/// A segment. Whoever reads from it holds the `Arc`, which keeps its file from being recycled.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    /// What its CRCs begin with.
    pub(crate) seed: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    state: RwLock<State>,
    /// What was found damaged since the segment was opened.
    pub(crate) lost: Mutex<Lost>,
}

#[derive(Debug)]
pub(crate) struct State {
    /// Durable frames only.
    pub(crate) contents: Contents,
    pub(crate) sealed: bool,
    /// Size of the file, for the sum of what the log takes.
    pub(crate) bytes: u64,
}

impl Segment {
    pub(crate) fn new(number: u64, seed: u32, file: Arc<dyn DiskFile>, state: State) -> Self {
        Self { number, seed, file, state: RwLock::new(state), lost: Mutex::default() }
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("no panic while a segment's state is held")
    }

    pub(crate) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("no panic while a segment's state is held")
    }

    /// Reads frames between `from` and `end`, about `ahead` bytes at a time.
    pub(crate) fn window(&self, end: u64, ahead: usize) -> Window<'_> {
        Window::new(&*self.file, self.seed, end, ahead)
    }
}

/// A stretch of a segment file in memory, moved along by whoever walks its frames.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    file: &'a dyn DiskFile,
    seed: u32,
    /// Bytes from here on are not looked at.
    end: u64,
    ahead: usize,
    /// Where `buffer` begins in the file.
    at: u64,
    buffer: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(crate) fn new(file: &'a dyn DiskFile, seed: u32, end: u64, ahead: usize) -> Self {
        Self { file, seed, end, ahead, at: 0, buffer: Vec::new() }
    }

    /// The bytes from `at` on: `len` of them, or fewer when the end comes first; more when they are there.
    pub(crate) fn bytes(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let want = len.min(left);
        let skip = at.checked_sub(self.at).and_then(|skip| usize::try_from(skip).ok());
        if let Some(skip) = skip.filter(|skip| skip.saturating_add(want) <= self.buffer.len()) {
            return Ok(&self.buffer[skip..]);
        }
        // The beginning of a frame that is longer than what was read ahead is not read again.
        let kept = skip.filter(|skip| *skip < self.buffer.len()).unwrap_or(self.buffer.len());
        self.buffer.drain(..kept);
        self.at = at;
        let kept = self.buffer.len();
        self.buffer.resize(len.max(self.ahead).min(left), 0);
        let got = match self.file.read_at(&mut self.buffer[kept..], at + kept as u64) {
            Ok(got) => got,
            Err(error) => {
                self.buffer.clear();
                return Err(error);
            }
        };
        self.buffer.truncate(kept + got);
        Ok(&self.buffer)
    }

    /// Reads anew from here on.
    pub(crate) fn forget(&mut self) {
        self.buffer.clear();
    }

    /// The frame at `at`, checked; `None` when there is no valid one. What does not pass is read once more
    /// before it is given up.
    pub(crate) fn frame(&mut self, at: u64) -> io::Result<Option<(FrameHeader, &[u8])>> {
        let Some((header, len)) = self.check(at)? else {
            return Ok(None);
        };
        Ok(Some((header, &self.bytes(at, len)?[..len])))
    }

    /// The frame at `at` if it is also the one looked for. Read once more before it is given up, whatever is
    /// there: for places where there must be a frame.
    pub(crate) fn frame_if(
        &mut self,
        at: u64,
        is_it: impl Fn(&FrameHeader) -> bool,
    ) -> io::Result<Option<(FrameHeader, &[u8])>> {
        let mut found = self.check_once(at)?.filter(|(header, _)| is_it(header));
        if found.is_none() {
            self.forget();
            found = self.check_once(at)?.filter(|(header, _)| is_it(header));
        }
        let Some((header, len)) = found else { return Ok(None) };
        Ok(Some((header, &self.bytes(at, len)?[..len])))
    }

    fn check(&mut self, at: u64) -> io::Result<Option<(FrameHeader, usize)>> {
        let first = self.check_once(at)?;
        // A length of zero says "nothing here": there is nothing to doubt.
        if first.is_some() || self.bytes(at, 4)?.get(..4).is_none_or(|len| len == [0; 4]) {
            return Ok(first);
        }
        self.forget();
        self.check_once(at)
    }

    fn check_once(&mut self, at: u64) -> io::Result<Option<(FrameHeader, usize)>> {
        let seed = self.seed;
        let Some(len) = FrameHeader::frame_len(self.bytes(at, FRAME_HEADER)?) else {
            return Ok(None);
        };
        let Some(frame) = self.bytes(at, len)?.get(..len) else {
            return Ok(None);
        };
        Ok(FrameHeader::decode(frame, seed).map(|header| (header, len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for (name, is) in [
            ("00000000000000000042.seg", Name::Segment(42)),
            ("00000000000000000042.idx", Name::Index(42)),
            ("00000000000000000042.new", Name::Leftover),
            ("spare-3", Name::Spare(3)),
            ("spare-3.new", Name::Leftover),
            ("42.seg", Name::Unknown),
            ("notes", Name::Unknown),
        ] {
            assert_eq!(Name::parse(name), is, "{name}");
        }
        assert_eq!(segment_path(Path::new(""), 42), Path::new("00000000000000000042.seg"));
    }
}
