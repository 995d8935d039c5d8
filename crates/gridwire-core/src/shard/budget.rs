//! What all queues of a shard may hold of events in trouble, together (`storage` contract, "Consuming").

use std::collections::BTreeSet;

use crate::ids::SubscriptionNumber;
use crate::limits;

/// Counts the events in trouble of all queues, and knows who waits for them to become fewer.
#[derive(Debug)]
pub(super) struct TroubleBudget {
    total: usize,
    /// Queues that have any.
    queues: usize,
    max: usize,
    /// Queues that start nothing new for that.
    held_back: BTreeSet<SubscriptionNumber>,
}

impl Default for TroubleBudget {
    fn default() -> Self {
        Self::of(limits::SHARD_TROUBLE_MAX)
    }
}

impl TroubleBudget {
    pub(super) fn of(max: usize) -> Self {
        Self { total: 0, queues: 0, max, held_back: BTreeSet::new() }
    }

    /// From how many events in trouble on a queue starts nothing new. While all together are at the limit, those with
    /// their share of it or more wait, the largest always among them; the others go on.
    pub(super) fn of_one(&self) -> usize {
        if self.total < self.max {
            return limits::TROUBLE_MAX;
        }
        (self.max / self.queues.max(1)).clamp(1, limits::TROUBLE_MAX)
    }

    /// This queue would start something but for all together.
    pub(super) fn hold_back(&mut self, queue: SubscriptionNumber) {
        self.held_back.insert(queue);
    }

    /// A queue had `before` events in trouble when it was last counted, and has `now`. Returns who is to be looked at
    /// again because the limit is no longer reached.
    #[must_use]
    pub(super) fn counted(&mut self, before: usize, now: usize) -> BTreeSet<SubscriptionNumber> {
        self.total = (self.total + now).saturating_sub(before);
        self.queues = (self.queues + usize::from(now > 0)).saturating_sub(usize::from(before > 0));
        if self.total < self.max { std::mem::take(&mut self.held_back) } else { BTreeSet::new() }
    }

    pub(super) fn forget(&mut self, queue: SubscriptionNumber) {
        self.held_back.remove(&queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_limit_of_all_each_queue_in_trouble_has_its_share_and_never_more_than_its_own_limit() {
        let (one, other) = (SubscriptionNumber(1), SubscriptionNumber(2));
        let mut budget = TroubleBudget::of(1_000_000);
        for _ in 0..99 {
            assert!(budget.counted(0, 10_000).is_empty());
        }
        assert_eq!(budget.of_one(), limits::TROUBLE_MAX);
        assert!(budget.counted(0, 10_000).is_empty());
        assert_eq!(budget.of_one(), 10_000);
        budget.hold_back(one);
        budget.hold_back(other);
        assert!(budget.counted(10_000, 10_000).is_empty());
        budget.forget(other);
        assert_eq!(budget.counted(10_000, 9_999), BTreeSet::from([one]), "it may go on");
        assert_eq!(budget.of_one(), limits::TROUBLE_MAX);
        let mut two = TroubleBudget::of(1_000_000);
        assert!(two.counted(0, 600_000).is_empty() && two.counted(0, 600_000).is_empty());
        assert_eq!(two.of_one(), limits::TROUBLE_MAX);
    }
}
