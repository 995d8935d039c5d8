//! Reading what nobody asks for, so that damage is found before a subscriber finds it.
//!
//! [`Scrub`] goes over the frames of all sealed segments, a stretch at a time and gently, and begins again after a
//! rest. A place without a sound frame is examined like one that a reader met ([`super::damage`]).

use std::time::Duration;

use super::segment::Segment;
use super::shared::Shared;
use crate::log::ReadError;

/// Bytes read in one step.
const STEP_BYTES: u64 = 1 << 20;
/// Between two steps: 4 MiB/s, which leaves the disk to those who wait for it.
pub(crate) const STEP_PAUSE: Duration = Duration::from_millis(250);
/// Between two passes over the log. Damage comes with months, not with minutes.
pub(crate) const PASS_PAUSE: Duration = Duration::from_secs(3600);

/// How far the present pass has come.
#[derive(Debug, Default)]
pub(crate) struct Scrub {
    /// The segment that is read, or the first one after it.
    segment: u64,
    /// Where in it, and the LSN of the frame there; `None` for its beginning.
    place: Option<(u64, u64)>,
}

impl Scrub {
    /// Reads the next stretch. True when the pass is over.
    pub(crate) fn step(&mut self, shared: &Shared) -> bool {
        let Some(segment) = shared.sealed_from(self.segment) else {
            *self = Self::default();
            return true;
        };
        let place = if segment.number == self.segment { self.place } else { None };
        self.segment = segment.number;
        match read(shared, &segment, place) {
            Ok(Some(place)) => self.place = Some(place),
            Ok(None) => *self = Self { segment: segment.number + 1, place: None },
            Err(error) => {
                // What cannot be read is not damaged; the next pass tries again.
                tracing::warn!(segment = segment.number, %error, "failed to read a segment for its check");
                *self = Self { segment: segment.number + 1, place: None };
            }
        }
        false
    }
}

/// Reads on from `place`; returns where to go on, or `None` at the segment's end.
fn read(
    shared: &Shared,
    segment: &Segment,
    place: Option<(u64, u64)>,
) -> Result<Option<(u64, u64)>, ReadError> {
    let (start, end_at) = {
        let contents = &segment.state().contents;
        let first = contents.blocks.first().map_or((contents.end_at, contents.end_lsn), |b| (b.at, b.lsn));
        (first, contents.end_at)
    };
    let (mut at, mut lsn) = place.unwrap_or(start);
    let until = end_at.min(at + STEP_BYTES);
    let ahead = usize::try_from(STEP_BYTES).unwrap_or(usize::MAX);
    let mut window = segment.window(end_at, ahead);
    while at < until {
        let frame = window.frame_if(at, |header| header.lsn == lsn);
        let len = frame.map_err(|error| ReadError::Io(error.to_string()))?.map(|(_, frame)| frame.len());
        (at, lsn) = match len {
            Some(len) => (at + len as u64, lsn + 1),
            None => shared.behind_damage(segment, at)?,
        };
    }
    Ok((at < end_at).then_some((at, lsn)))
}
