//! Who wants an event: filters, compiled once per change of the topic, evaluated once per event.
//!
//! The cast: a [`FilterSpec`] is one subscription's filter as its owner wrote it, parsed from and rendered to the
//! two shapes of the management API by `wire`. A [`Matcher`] is all filters of one topic, compiled. For each
//! event it gives a [`MatchSet`]: who gets it. That set is stored with the event, so nothing after publish
//! evaluates a filter again, save [`FilterSpec::explain`], which says to a person why an event did not come.
//!
//! The life of one match: `matcher` looks up the candidates by event type (and by the value of one key where
//! their filters allow it), `values` takes the keys' values out of the event, walking its data once and only
//! when somebody asks, and `clause` judges each candidate's clauses on them. The `filters` contract rules; where
//! it is silent, the choice made is in the documentation of the function that makes it.

mod clause;
mod explain;
mod key;
mod match_set;
mod matcher;
#[cfg(any(test, fuzzing, feature = "oracle"))]
pub mod oracle;
mod spec;
mod text;
mod values;
mod wire;

pub use explain::{Explanation, Judgement};
pub use match_set::MatchSet;
pub use matcher::Matcher;
pub use spec::{AdvancedFilter, FilterSpec, Operator};
pub use wire::FilterError;
