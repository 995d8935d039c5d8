//! What exists, and who may change it: the control plane, shaped like Azure Resource Manager.
//!
//! The cast: a [`Control`] answers management requests; a *kind* (`kinds`) knows one sort of resource, its
//! names, properties and rules; a *document* (`document`, `format`) is one resource as it is kept, with its
//! secrets sealed by the [`Sealer`]; the *compiler* (`compile`) turns all documents into the routing table.
//!
//! The life of one change: `request` takes the URL apart and the token is checked before the body is read;
//! `plan` turns body and present state into the document to keep, without waiting for anything; a webhook is
//! asked for its consent (`consent`; by hand, `by_hand`); then, one change at a time, the plan is made again on the state as it is now, the
//! document is written, the table compiled and installed, and only then is the change answered. A client that
//! hangs up does not interrupt a change that has begun. After a restart [`Control::open`] reads every document
//! and compiles the same table.
//!
//! Control never touches events and never meets the broker: what it needs done is a
//! [`DeliveryPort`](gridwire_core::routing::DeliveryPort).

mod address;
mod audit;
mod body;
mod by_hand;
mod change;
mod compile;
mod consent;
mod control;
mod document;
mod expiration;
mod facts;
mod format;
mod iso_duration;
mod kinds;
mod limits;
mod list;
mod members;
mod name_filter;
mod options;
mod plan;
mod provider;
mod request;
mod sealer;
mod signing;
mod strict;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod throttle;

pub use control::{Control, ControlError, Counts, read_table};
pub use expiration::Expiry;
pub use options::{ControlOptions, DeadLetterPatience, ManagementToken, PublicAddresses};
pub use sealer::{SealError, Sealer};
