//! What a queue can show an auditor, all as of one moment.

use roaring::RoaringTreemap;

use super::Queue;
use crate::ids::{Slot, TopicNumber};
use crate::shard::ledger::Ledger;
use crate::shard::state::Totals;

/// See the module.
#[derive(Clone, Debug)]
pub struct Books {
    pub topic: TopicNumber,
    pub slot: Slot,
    pub totals: Totals,
    /// All that matched, once it is counted.
    pub matched: Option<u64>,
    /// Everything matching below is settled.
    pub floor: u64,
    /// Everything matching from here on has not been looked at yet.
    pub cursor: u64,
    /// The end of the topic.
    pub end: u64,
    /// What is settled at or above the floor.
    pub settled: RoaringTreemap,
    /// What waits, is locked, in flight or in trouble.
    pub held: RoaringTreemap,
    pub ledger: Ledger,
}

impl Queue {
    pub(in crate::shard) fn books(&self, tail: u64) -> Books {
        let floor = self.floor(tail);
        let mut settled = self.state.settled.clone();
        settled.remove_range(..floor);
        Books {
            topic: self.topic,
            slot: self.slot,
            totals: self.state.totals,
            matched: self.matched(),
            floor,
            cursor: self.cursor(tail),
            end: tail,
            settled,
            held: self.held(),
            ledger: self.state.ledger.clone(),
        }
    }

    /// What waits, is locked, in flight or in trouble.
    pub(super) fn held(&self) -> RoaringTreemap {
        let mut held: RoaringTreemap = self.ready.iter().map(|position| position.offset.0).collect();
        held.extend(self.in_flight.offsets());
        held.extend(self.state.leases.keys().copied());
        held.extend(self.state.trouble.keys().copied());
        held
    }
}
