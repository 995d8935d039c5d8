//! Who wants an event: filters, compiled once per change of the topic, evaluated once per event.

use std::fmt;

use crate::event::{Event, InputSchema};
use crate::ids::Slot;

mod match_set;
pub use match_set::MatchSet;
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
