//! Who wants an event: filters, compiled once per change of the topic, evaluated once per event.

use std::fmt;

use crate::event::{Event, InputSchema};
use crate::ids::Slot;

/// The subscriptions of a topic that an event matched: ascending slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MatchSet {
    slots: Vec<u32>,
}

impl MatchSet {
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
    pub fn clear(&mut self) {
        self.slots.clear();
    }
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.slots.iter().copied().map(Slot)
    }
    pub fn encode(&self, _out: &mut Vec<u8>) {
        unimplemented!()
    }
    pub fn decode(_input: &mut &[u8]) -> Option<Self> {
        unimplemented!()
    }
    pub fn skip(_input: &mut &[u8]) -> Option<()> {
        unimplemented!()
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilterSpec {}

pub struct Matcher {}
impl Matcher {
    pub fn compile(_schema: InputSchema, _subscriptions: &[(Slot, &FilterSpec)]) -> Self {
        unimplemented!()
    }
    pub fn matches(&self, _event: &Event<'_>, _into: &mut MatchSet) {
        unimplemented!()
    }
}
impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Matcher")
    }
}
