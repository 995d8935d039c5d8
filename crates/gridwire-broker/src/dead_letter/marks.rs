//! Which marks of redriven letters may go.
//!
//! A crash between writing a letter and recording that has it written once more, and its mark is what tells then
//! that its event was put back already. So a mark is needed until its event's end is recorded, on stable storage:
//! removed before that, the letter could be redriven a second time.

use std::collections::HashMap;

use gridwire_core::dead_letter::LetterKey;
use gridwire_core::routing::SubscriptionRoute;
use gridwire_core::shard::Books;

use crate::broker::Broker;
use crate::shards;

/// Events of one subscription that have ended for good, as of one moment.
#[derive(Debug)]
pub(super) struct Ended(Books);

impl Ended {
    /// `None` when it cannot be said, as while the broker stops.
    pub(super) async fn of(broker: &Broker, route: &SubscriptionRoute) -> Option<Self> {
        let handles = broker.shards()?;
        let books = shards::books(&handles, route).await??;
        // Answered once everything decided before is recorded; no event of any topic is asked for.
        shards::outlook(&handles, HashMap::new(), false).await?;
        broker.outside().log.flush_state().await.ok()?;
        Some(Self(books))
    }

    /// Whether the letter is never written again.
    pub(super) fn holds(&self, key: LetterKey) -> bool {
        let offset = key.guid.offset().0;
        offset < self.0.floor || self.0.settled.contains(offset)
    }
}
