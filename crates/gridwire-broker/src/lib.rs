//! The data plane: takes events in, keeps the shards running, and delivers by push and by pull.
//!
//! The cast: the **data plane** ([`data_plane`]) answers publishers and receivers; the **shards**
//! ([`shards`]) drive the state machines of `gridwire-core` over the log; the **push dispatcher** ([`push`])
//! speaks to webhooks; **dead letters** ([`dead_letter`]) go to a directory or a storage account; **recent deliveries**
//! ([`deliveries`]) answer "what is happening to my subscription right now?".
//!
//! The life of one event: a publish handler parses it once, matches it by the routing table's compiled
//! filters, and appends it to the log. When it is durable the handler answers, and the shards' feed shows
//! the frame to the shard of its topic. From there the shard decides, its driver records, and only then
//! does anything leave: an answer to a receiver, a post to a webhook. After a restart [`Broker::start`]
//! gives each shard its recorded decisions back, and the first routing table wakes the queues.

mod audit;
mod broker;
mod data_plane;
mod dead_letter;
mod deliveries;
mod dev;
mod intake;
mod metrics;
mod push;
mod shards;
#[cfg(test)]
mod testing;
mod unmatched;

pub use audit::{AuditError, Audited, AuditedEvent};
pub use broker::{Broker, BrokerOptions, BrokerParts, StartError};
pub use dead_letter::{AccountKind, AccountOptions};
pub use dev::{NoSubscription, Outlook, Remainder, SetFaultsError};
pub use push::{PushOptions, TokenIssuer, judge};

/// What endpoints' headers mean, for the fuzz targets.
#[cfg(fuzzing)]
pub mod fuzzing {
    use std::time::Duration;

    use gridwire_core::time::Timestamp;
    use http::HeaderValue;

    pub fn retry_after(value: &HeaderValue, now: Timestamp) -> Option<Duration> {
        crate::push::answer::retry_after(value, now)
    }
}
