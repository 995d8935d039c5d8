//! The latest deliveries, for whoever watches a subscription live. A bounded ring: the newest win.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use gridwire_core::ids::{Offset, SubscriptionNumber};
use gridwire_core::time::Timestamp;

/// Deliveries remembered over all subscriptions; about 1 MiB at most.
const REMEMBERED_MAX: usize = 8_192;

/// One finished delivery attempt, one event handed to a receiver or settled by it, or one that ended undelivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Ascending; a watcher asks for what comes after the last it saw.
    pub(crate) seq: u64,
    pub(crate) subscription: SubscriptionNumber,
    pub(crate) time: Timestamp,
    /// The event's id is looked up in the log when somebody asks: most deliveries nobody watches.
    pub(crate) offset: Offset,
    pub(crate) attempt: u32,
    /// Events that travelled in the same request, this one included.
    pub(crate) batch: usize,
    pub(crate) outcome: &'static str,
    pub(crate) status: Option<u16>,
    pub(crate) latency: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    ring: Mutex<(u64, VecDeque<Delivery>)>,
}

impl Deliveries {
    /// Remembers deliveries that ended together; `seq` is given here.
    pub(crate) fn extend(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        let mut ring = self.ring.lock().expect("no panic while the ring is held");
        for mut delivery in deliveries {
            ring.0 += 1;
            delivery.seq = ring.0;
            if ring.1.len() >= REMEMBERED_MAX {
                ring.1.pop_front();
            }
            ring.1.push_back(delivery);
        }
    }

    /// The latest attempt for `subscription` that is remembered.
    pub(crate) fn last_attempt(&self, subscription: SubscriptionNumber) -> Option<Delivery> {
        let ring = self.ring.lock().expect("no panic while the ring is held");
        // What ended by itself was no attempt.
        let mut newest = ring.1.iter().rev();
        newest.find(|one| one.subscription == subscription && one.attempt != 0).cloned()
    }

    /// The deliveries of `subscription` after `after`, oldest first, at most `max`; and where to go on.
    pub(crate) fn after(
        &self,
        subscription: SubscriptionNumber,
        after: u64,
        max: usize,
    ) -> (Vec<Delivery>, u64) {
        let ring = self.ring.lock().expect("no panic while the ring is held");
        let start = ring.1.partition_point(|delivery| delivery.seq <= after);
        let found: Vec<_> = ring
            .1
            .range(start..)
            .filter(|delivery| delivery.subscription == subscription)
            .take(max)
            .cloned()
            .collect();
        let next = if found.len() == max { found.last().map_or(after, |last| last.seq) } else { ring.0 };
        (found, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(subscription: u32) -> Delivery {
        Delivery {
            seq: 0,
            subscription: SubscriptionNumber(subscription),
            time: Timestamp::ZERO,
            offset: Offset(0),
            attempt: 1,
            batch: 1,
            outcome: "Delivered",
            status: Some(200),
            latency: Duration::ZERO,
        }
    }

    #[test]
    fn a_watcher_sees_each_delivery_of_its_subscription_once() {
        let deliveries = Deliveries::default();
        for subscription in [1, 2, 1, 1] {
            deliveries.extend([delivery(subscription)]);
        }
        let (first, next) = deliveries.after(SubscriptionNumber(1), 0, 2);
        assert_eq!(first.iter().map(|delivery| delivery.seq).collect::<Vec<_>>(), [1, 3]);
        let (rest, next) = deliveries.after(SubscriptionNumber(1), next, 2);
        assert_eq!(rest.iter().map(|delivery| delivery.seq).collect::<Vec<_>>(), [4]);
        assert_eq!(deliveries.after(SubscriptionNumber(1), next, 2), (Vec::new(), 4));
    }

    #[test]
    fn what_ended_by_itself_was_no_attempt() {
        let deliveries = Deliveries::default();
        assert_eq!(deliveries.last_attempt(SubscriptionNumber(1)), None);
        deliveries.extend([delivery(1), Delivery { outcome: "Forbidden", ..delivery(1) }]);
        deliveries.extend([delivery(2), Delivery { attempt: 0, outcome: "Expired", ..delivery(1) }]);
        let last = deliveries.last_attempt(SubscriptionNumber(1));
        assert_eq!(last.map(|delivery| delivery.outcome), Some("Forbidden"));
    }

    #[test]
    fn the_ring_is_bounded() {
        let deliveries = Deliveries::default();
        for _ in 0..REMEMBERED_MAX + 10 {
            deliveries.extend([delivery(1)]);
        }
        assert_eq!(deliveries.after(SubscriptionNumber(1), 0, usize::MAX).0.len(), REMEMBERED_MAX);
    }
}
