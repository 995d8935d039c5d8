//! What is remembered of one subscription across a restart. Changes only in [`QueueState::apply`].

use std::collections::{BTreeMap, BTreeSet};

use roaring::RoaringTreemap;

use super::decision::{
    DeadLetterReason, Decision, Held, LastAttempt, Settlement, put_before, take_before, take_time,
};
use super::ledger::Ledger;
use crate::ids::Offset;
use crate::time::Timestamp;
use crate::varint::{put, put_bytes, take, take_bytes};

/// Counters of one subscription since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub delivered: u64,
    pub dead_lettered: u64,
    /// Ended by time to live with no dead-letter destination.
    pub expired: u64,
    /// Given up for any other reason with no dead letter.
    pub dropped: u64,
    /// Attempts that failed, locks that ran out, events that were released.
    pub returned: u64,
}

impl Totals {
    /// Events that have ended, in whatever way.
    pub fn ended(&self) -> u64 {
        let given_up = self.expired.saturating_add(self.dropped);
        self.delivered.saturating_add(self.dead_lettered).saturating_add(given_up)
    }
}

/// A pull receiver's hold on an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub held: Held,
    pub nonce: u64,
    pub first_granted: Timestamp,
    pub deadline: Timestamp,
}

impl Lease {
    /// The delivery this lease is.
    pub(super) fn attempt(&self) -> LastAttempt {
        LastAttempt::received(self.first_granted)
    }
}

/// An event that was delivered at least once and is not settled, or is given up but not yet dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub held: Held,
    pub due: Timestamp,
    pub last: LastAttempt,
    /// Set once it is given up: since when and why.
    pub condemned: Option<(Timestamp, DeadLetterReason)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct QueueState {
    /// Every matching offset below is settled.
    pub floor: u64,
    /// Settled offsets at or above the floor.
    pub settled: RoaringTreemap,
    pub trouble: BTreeMap<u64, Trouble>,
    pub leases: BTreeMap<u64, Lease>,
    /// When each lease runs out.
    pub deadlines: BTreeSet<(Timestamp, u64)>,
    /// When each troubled event may be looked at again.
    pub due: BTreeSet<(Timestamp, u64)>,
    pub totals: Totals,
    /// What was settled, also below the floor.
    pub ledger: Ledger,
}

/// The nonce of one event's lease: the same again when the decision is replayed.
pub(super) fn nonce(seed: u64, offset: Offset) -> u64 {
    let mut mixed = seed ^ offset.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl QueueState {
    /// Whether the event needs no more delivery, or already has its place in the state.
    pub(super) fn knows(&self, offset: u64) -> bool {
        offset < self.floor
            || self.settled.contains(offset)
            || self.leases.contains_key(&offset)
            || self.trouble.contains_key(&offset)
    }

    /// The offset after the last that is spoken of.
    pub(super) fn end(&self) -> u64 {
        let last = [
            self.settled.max(),
            self.leases.keys().next_back().copied(),
            self.trouble.keys().next_back().copied(),
        ];
        last.into_iter().flatten().map(|offset| offset + 1).fold(self.floor, u64::max)
    }

    pub(super) fn apply(&mut self, decision: &Decision) {
        match decision {
            Decision::Reset { floor, .. } => {
                let ledger = Ledger::starting_at(floor.0);
                *self = Self { floor: floor.0, ledger, ..Self::default() };
            }
            Decision::Gone { .. } => *self = Self::default(),
            Decision::Leased { seed, granted, deadline, events, .. } => {
                for &held in events {
                    let offset = held.offset.0;
                    self.forget(offset);
                    let nonce = nonce(*seed, held.offset);
                    let lease = Lease { held, nonce, first_granted: *granted, deadline: *deadline };
                    self.leases.insert(offset, lease);
                    self.deadlines.insert((*deadline, offset));
                }
            }
            Decision::Renewed { deadline, offsets, .. } => {
                for offset in offsets {
                    if let Some(lease) = self.leases.get_mut(&offset.0) {
                        self.deadlines.remove(&(lease.deadline, offset.0));
                        lease.deadline = *deadline;
                        self.deadlines.insert((*deadline, offset.0));
                    }
                }
            }
            Decision::Returned { held, due, last, .. } => {
                let offset = held.offset.0;
                self.forget(offset);
                self.trouble.insert(offset, Trouble { held: *held, due: *due, last: *last, condemned: None });
                self.due.insert((*due, offset));
                self.totals.returned += 1;
            }
            Decision::Condemned { held, since, reason, last, .. } => {
                let offset = held.offset.0;
                self.forget(offset);
                let condemned = Some((*since, *reason));
                self.trouble.insert(offset, Trouble { held: *held, due: *since, last: *last, condemned });
            }
            Decision::Settled { how, floor, offsets, .. } => self.settle(*how, *floor, offsets),
        }
    }

    fn settle(&mut self, how: Settlement, floor: Offset, offsets: &[Offset]) {
        for offset in offsets {
            self.forget(offset.0);
        }
        for run in offsets.chunk_by(|left, right| left.0.checked_add(1) == Some(right.0)) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            // Empty when all of it is below the floor.
            self.settled.insert_range(first.0.max(self.floor)..=last.0);
            self.ledger.settle(first.0, last.0);
        }
        self.raise_floor(floor.0);
        let count = offsets.len() as u64;
        match how {
            Settlement::Delivered => self.totals.delivered += count,
            Settlement::DeadLettered => self.totals.dead_lettered += count,
            Settlement::Dropped(DeadLetterReason::TimeToLive) => self.totals.expired += count,
            Settlement::Dropped(_) | Settlement::DeadLetterFailed | Settlement::Damaged => {
                self.totals.dropped += count;
            }
        }
    }

    /// Below `floor` nothing needs to be remembered one by one.
    pub(super) fn raise_floor(&mut self, floor: u64) {
        if floor > self.floor {
            self.settled.remove_range(..floor);
            self.floor = floor;
        }
    }

    /// Takes the event out of the trouble map, the leases and their timers.
    fn forget(&mut self, offset: u64) {
        if let Some(trouble) = self.trouble.remove(&offset) {
            self.due.remove(&(trouble.due, offset));
        }
        if let Some(lease) = self.leases.remove(&offset) {
            self.deadlines.remove(&(lease.deadline, offset));
        }
    }

    /// The snapshot's entry: version, floor, totals, trouble, leases, settled set (run-compressed), ledger.
    ///
    /// Version 2 added to each troubled event 1 and how long before `due` its last attempt was, or 0; version 3
    /// the ledger. Before it nothing is known of what was settled below the floor but how much.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![3u8];
        let totals = self.totals;
        for value in [
            self.floor,
            totals.delivered,
            totals.dead_lettered,
            totals.expired,
            totals.dropped,
            totals.returned,
            self.trouble.len() as u64,
        ] {
            put(&mut out, value);
        }
        let mut previous = Held::list_start();
        for trouble in self.trouble.values() {
            trouble.held.encode(previous, &mut out);
            previous = trouble.held;
            put(&mut out, trouble.due.as_millis());
            trouble.last.put_answer(&mut out);
            match trouble.condemned {
                None => put(&mut out, 0),
                Some((since, reason)) => {
                    put(&mut out, 1 + u64::from(reason.code()));
                    put(&mut out, since.as_millis());
                }
            }
            put(&mut out, u64::from(trouble.last.at.is_some()));
            put_before(trouble.last.at, trouble.due, &mut out);
        }
        put(&mut out, self.leases.len() as u64);
        let mut previous = Held::list_start();
        for lease in self.leases.values() {
            lease.held.encode(previous, &mut out);
            previous = lease.held;
            out.extend_from_slice(&lease.nonce.to_le_bytes());
            put(&mut out, lease.first_granted.as_millis());
            put(&mut out, lease.deadline.as_millis());
        }
        let mut settled = self.settled.clone();
        settled.optimize();
        let mut bytes = Vec::with_capacity(settled.serialized_size());
        settled.serialize_into(&mut bytes).expect("a Vec takes every byte");
        put_bytes(&mut out, &bytes);
        self.ledger.encode(&mut out);
        out
    }

    /// Reads what [`QueueState::encode`] wrote, now or in an earlier version; `None` when the bytes are not
    /// that.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let input = &mut bytes;
        let version = take(input)?;
        if !(1..=3).contains(&version) {
            return None;
        }
        let mut state = Self { floor: take(input)?, ..Self::default() };
        state.totals = Totals {
            delivered: take(input)?,
            dead_lettered: take(input)?,
            expired: take(input)?,
            dropped: take(input)?,
            returned: take(input)?,
        };
        let mut held = Held::list_start();
        for _ in 0..take(input)? {
            held = Held::decode(held, input)?;
            let due = take_time(input)?;
            let answer = LastAttempt::take_answer(input)?;
            let condemned = match take(input)? {
                0 => None,
                code => {
                    let reason = DeadLetterReason::from_code(u8::try_from(code - 1).ok()?)?;
                    Some((take_time(input)?, reason))
                }
            };
            let at = match if version == 1 { 0 } else { take(input)? } {
                0 => None,
                1 => Some(take_before(due, input)?),
                _ => return None,
            };
            let last = LastAttempt { at, ..answer };
            state.trouble.insert(held.offset.0, Trouble { held, due, last, condemned });
            if condemned.is_none() {
                state.due.insert((due, held.offset.0));
            }
        }
        let mut held = Held::list_start();
        for _ in 0..take(input)? {
            held = Held::decode(held, input)?;
            let (nonce, rest) = input.split_first_chunk::<8>()?;
            *input = rest;
            let nonce = u64::from_le_bytes(*nonce);
            let (first_granted, deadline) = (take_time(input)?, take_time(input)?);
            state.leases.insert(held.offset.0, Lease { held, nonce, first_granted, deadline });
            state.deadlines.insert((deadline, held.offset.0));
        }
        state.settled = RoaringTreemap::deserialize_from(take_bytes(input)?).ok()?;
        state.ledger = if version < 3 {
            Ledger::resumed(state.floor, state.totals.ended(), state.settled.iter())
        } else {
            Ledger::decode(input)?
        };
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Return;
    use super::*;
    use crate::ids::SubscriptionNumber;

    fn held(offset: u64, attempts: u32) -> Held {
        Held { offset: Offset(offset), time: Timestamp::from_millis(1000 + offset), size: 10, attempts }
    }

    #[test]
    fn a_state_survives_its_snapshot() {
        let subscription = SubscriptionNumber(1);
        let at = Timestamp::from_millis;
        let mut state = QueueState::default();
        for decision in [
            Decision::Reset { subscription, floor: Offset(5) },
            Decision::Leased {
                subscription,
                seed: 9,
                granted: at(1),
                deadline: at(2),
                events: vec![held(6, 1), held(7, 1), held(8, 1)],
            },
            Decision::Returned {
                subscription,
                held: held(7, 1),
                due: at(99),
                reason: Return::Released,
                last: LastAttempt::received(at(1)),
            },
            Decision::Condemned {
                subscription,
                held: held(8, 1),
                since: at(7),
                reason: DeadLetterReason::Rejected,
                last: LastAttempt { status: Some(400), ..LastAttempt::default() },
            },
            Decision::Settled {
                subscription,
                how: Settlement::Delivered,
                floor: Offset(5),
                offsets: (100..5000).map(Offset).collect(),
            },
        ] {
            state.apply(&decision);
        }
        let bytes = state.encode();
        assert!(bytes.len() < 200, "4,900 settled offsets in a row are one run, not {} bytes", bytes.len());
        assert_eq!(QueueState::decode(&bytes), Some(state));
        for cut in 0..bytes.len() {
            assert_eq!(QueueState::decode(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    /// These bytes are in snapshots that exist: they are never changed.
    #[test]
    fn an_entry_of_version_1_is_still_read() {
        let mut bytes = vec![1, 5, 1, 0, 0, 0, 2, 2];
        bytes.extend([7, 239, 7, 10, 1, 99, 247, 3, 0]); // Offset 7 waits until 99 after a 503.
        bytes.extend([1, 1, 10, 2, 7, 0, 3, 7]); // Offset 8 was rejected at 7.
        bytes.extend([0, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
        let state = QueueState::decode(&bytes).expect("it is read");
        assert_eq!((state.floor, state.totals.delivered, state.totals.returned), (5, 1, 2));
        let returned = LastAttempt { status: Some(503), ..LastAttempt::default() };
        assert_eq!((state.trouble[&7].held, state.trouble[&7].last), (held(7, 1), returned));
        let condemned = Some((Timestamp::from_millis(7), DeadLetterReason::Rejected));
        assert_eq!((state.trouble[&8].held, state.trouble[&8].condemned), (held(8, 2), condemned));
        assert_eq!(state.trouble[&8].last, LastAttempt::default());
        // What is written from it is of the newer version.
        assert_eq!(QueueState::decode(&state.encode()), Some(state));
    }

    /// These bytes are in snapshots that exist: they are never changed.
    #[test]
    fn an_entry_of_version_2_is_still_read_and_accounts_for_what_is_above_its_floor() {
        let mut bytes = vec![2, 5, 4, 0, 1, 0, 2, 1];
        bytes.extend([7, 239, 7, 10, 1, 99, 247, 3, 0, 1, 9]); // Offset 7 waits until 99 after a 503.
        bytes.push(0);
        let settled: RoaringTreemap = [6, 8].into_iter().collect();
        let mut set = Vec::new();
        settled.serialize_into(&mut set).expect("a Vec takes every byte");
        put_bytes(&mut bytes, &set);
        let state = QueueState::decode(&bytes).expect("it is read");
        let at = Some(Timestamp::from_millis(90));
        assert_eq!(state.trouble[&7].last, LastAttempt { at, status: Some(503), ..LastAttempt::default() });
        assert_eq!(state.ledger, Ledger::resumed(5, 5, [6, 8].into_iter()));
        assert_eq!((state.ledger.settled(), state.ledger.tally(0).count), (5, 2));
        // What is written from it is of the newer version.
        assert_eq!(QueueState::decode(&state.encode()), Some(state));
    }

    #[test]
    fn a_settled_event_is_known_above_and_below_the_floor() {
        let subscription = SubscriptionNumber(1);
        let mut state = QueueState::default();
        let settle = |floor, offset| Decision::Settled {
            subscription,
            how: Settlement::Delivered,
            floor: Offset(floor),
            offsets: vec![Offset(offset)],
        };
        state.apply(&settle(0, 3));
        assert!(state.knows(3) && !state.knows(2));
        state.apply(&settle(4, 4));
        assert!(state.knows(0) && state.knows(4) && !state.knows(5));
        assert_eq!(state.totals.delivered, 2);
        let offsets = [9, 10, 11, 7, 2, 3, 4].map(Offset).to_vec();
        state.apply(&Decision::Settled {
            subscription,
            how: Settlement::Delivered,
            floor: Offset(3),
            offsets,
        });
        assert_eq!(state.settled.iter().collect::<Vec<_>>(), [4, 7, 9, 10, 11], "none below the floor");
    }
}
