//! Where events, decisions and resources are kept.
//!
//! Two traits are all that a backend implements: [`Log`] (an ordered log of events and an ordered log of
//! decisions) and [`ResourceStore`] (what exists). Both have a conformance suite ([`conformance`]) that runs
//! against the in-memory [`model`] and the [`embedded`] store: files of one machine.
//!
//! The life of an event here: [`Log::append_events`] hands a frame to the writer, which groups what waits,
//! writes, flushes, and only then answers; [`Log::read`] shows the durable frame to the shards; those behind
//! find it again by [`Log::scan`] and its bytes by [`Log::fetch`]; [`Log::trim`] lets its segment go.

pub mod conformance;
pub mod embedded;
pub mod log;
pub mod model;
pub mod resources;

pub use log::{
    AppendError, Appended, DamagedStretch, Fetched, Frame, Log, LogHealth, Matched, Matches, ReadError,
    Recovered, SegmentInfo, SnapshotPart, TopicSpan,
};
pub use resources::{Resource, ResourceError, ResourceStore, Revision};
