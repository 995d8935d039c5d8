//! What all ways into a topic have in common once the events are parsed: they are matched, framed and appended,
//! and counted when that is durable. Publishing is one way, forwarding the other.

use std::sync::Arc;

use gridwire_core::event::Event;
use gridwire_core::filter::MatchSet;
use gridwire_core::frame::{FrameBuilder, FrameDraft};
use gridwire_core::routing::TopicRoute;
use gridwire_store::{AppendError, Log};

use crate::metrics::{Tally, TopicCounters};

/// What a match set and the lengths around an event cost in a frame, about.
const FRAME_OVERHEAD: usize = 32;

/// The events of one call, on their way into the log.
#[derive(Debug)]
pub(crate) struct Intake {
    counters: Arc<TopicCounters>,
    /// `None` when nobody is to get any of them.
    pub(crate) draft: Option<FrameDraft>,
    unmatched: u64,
    tally: Tally,
}

impl Intake {
    /// Matches `events`, which came in so many `bytes`, by the subscriptions of `topic`.
    pub(crate) fn of(
        topic: &TopicRoute,
        events: &[Event<'_>],
        bytes: usize,
        counters: Arc<TopicCounters>,
    ) -> Self {
        let mut tally = counters.tally();
        let mut frame = FrameBuilder::new(topic.number, bytes + events.len() * FRAME_OVERHEAD);
        let (mut matched, mut scratch) = (MatchSet::default(), MatchSet::default());
        let mut unmatched = 0;
        for event in events {
            topic.matches(event, &mut matched, &mut scratch);
            if matched.is_empty() {
                unmatched += 1;
            } else {
                tally.add(&matched);
                frame.push(&matched, event);
            }
        }
        Self { draft: frame.finish(), unmatched, tally, counters }
    }

    /// Returns once they are on stable storage, and counted. Dropping the future does not take them back.
    pub(crate) async fn store(self, log: &dyn Log) -> Result<(), AppendError> {
        if let Some(draft) = self.draft {
            log.append_events(draft).await?;
        }
        self.tally.count();
        self.counters.unmatched.add(self.unmatched);
        Ok(())
    }
}
