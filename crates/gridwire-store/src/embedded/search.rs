//! Looking for frames at every byte position, so that one damaged length does not hide what follows it.

use std::io;

use super::format::{FRAME_HEADER, FrameHeader};
use super::segment::Window;

/// Finds valid frames behind a place where there should have been one.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    window: Window<'a>,
    at: u64,
    lost_at: u64,
    lost: u64,
}

impl<'a> Search<'a> {
    /// Frame `lost` should have begun at `lost_at`.
    pub(crate) fn new(window: Window<'a>, lost_at: u64, lost: u64) -> Self {
        Self { window, at: lost_at, lost_at, lost }
    }

    /// The last frame was not one of those looked for: what it spans is looked at too.
    pub(crate) fn look_behind(&mut self, at: u64) {
        self.at = at + 1;
    }

    /// The next valid frame and its place.
    pub(crate) fn next(&mut self) -> io::Result<Option<(u64, FrameHeader)>> {
        loop {
            let bytes = self.window.bytes(self.at, FRAME_HEADER)?;
            if bytes.len() < FRAME_HEADER {
                return Ok(None);
            }
            // Long runs of zeros are what is usually there; they are passed over quickly.
            if bytes.starts_with(&[0; 256]) {
                let zeros = bytes.chunks_exact(64).take_while(|chunk| **chunk == [0; 64]).count() * 64;
                // A length may begin in the last zeros.
                self.at += (zeros - 8) as u64;
                continue;
            }
            let positions = bytes.len() - (FRAME_HEADER - 1);
            let so_far = self.at - self.lost_at;
            let plausible = |&ahead: &usize| may_be(&bytes[ahead..], so_far + ahead as u64, self.lost);
            let Some(ahead) = (0..positions).find(plausible) else {
                self.at += positions as u64;
                continue;
            };
            self.at += ahead as u64;
            let at = self.at;
            if let Some((header, frame)) = self.window.frame(at)? {
                self.at += frame.len() as u64;
                return Ok(Some((at, header)));
            }
            self.at += 1;
        }
    }
}

/// Whether the front of a frame, `behind` bytes after where frame `lost` should be, is plausible: rules out
/// nearly everything before a checksum is computed.
fn may_be(front: &[u8], behind: u64, lost: u64) -> bool {
    FrameHeader::frame_len(front).is_some()
        && FrameHeader::peek(front).is_some_and(|(lsn, durable)| {
            lost < lsn && lsn - lost <= behind / FRAME_HEADER as u64 + 1 && durable <= lsn
        })
}
