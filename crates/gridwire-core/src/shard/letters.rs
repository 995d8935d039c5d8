//! One queue's dead letters: which are due, which are being written, and how often each has failed.
//!
//! Nothing of it is recorded. That an event is given up is ([`super::Decision::Condemned`]), so a restart begins
//! again with every letter due.

use std::collections::BTreeMap;

use crate::time::Timestamp;

/// Dead letters of one subscription being written at once.
const IN_FLIGHT_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Letters {
    /// When each should be tried, with the tries that failed.
    waiting: BTreeMap<(Timestamp, u64), u32>,
    in_flight: BTreeMap<u64, u32>,
}

impl Letters {
    /// The letter of an event is to be written from `due` on, after `failures` tries.
    pub(super) fn push(&mut self, due: Timestamp, offset: u64, failures: u32) {
        self.waiting.insert((due, offset), failures);
    }

    /// Takes the next that is due, if one more may be written now.
    pub(super) fn start(&mut self, now: Timestamp) -> Option<u64> {
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return None;
        }
        let entry = self.waiting.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((_, offset), failures) = entry.remove_entry();
        self.in_flight.insert(offset, failures);
        Some(offset)
    }

    /// A letter is no longer being written; the answer is how often it had failed before, unless nobody wrote it.
    pub(super) fn finish(&mut self, offset: u64) -> Option<u32> {
        self.in_flight.remove(&offset)
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let next = self.waiting.first_key_value().filter(|_| self.in_flight.len() < IN_FLIGHT_MAX);
        next.map(|(&(due, _), _)| due)
    }

    /// Those that wait: when each is tried, and its event.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (Timestamp, u64)> + '_ {
        self.waiting.keys().copied()
    }

    /// The first event whose letter is being written.
    pub(super) fn first_in_flight(&self) -> Option<u64> {
        self.in_flight.keys().next().copied()
    }

    /// Events before `end` whose letters are being written.
    pub(super) fn in_flight_before(&self, end: u64) -> usize {
        self.in_flight.range(..end).count()
    }

    /// All that wait or are being written.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }
}
