//! What all queues of a shard may hold of events in trouble, together (`storage` contract, "Consuming").

use crate::limits;

/// Counts the events in trouble of all queues.
#[derive(Debug)]
pub(super) struct TroubleBudget {
    total: usize,
    max: usize,
}

impl Default for TroubleBudget {
    fn default() -> Self {
        Self::of(limits::SHARD_TROUBLE_MAX)
    }
}

impl TroubleBudget {
    pub(super) fn of(max: usize) -> Self {
        Self { total: 0, max }
    }

    /// A queue had `before` events in trouble when it was last counted, and has `now`.
    pub(super) fn counted(&mut self, before: usize, now: usize) {
        self.total = (self.total + now).saturating_sub(before);
    }

    /// From how many events in trouble on one of `queues` starts nothing new. While all together are at the limit,
    /// those with more than their share wait, the largest always among them; the others go on.
    pub(super) fn of_one(&self, queues: usize) -> usize {
        if self.total < self.max {
            return limits::TROUBLE_MAX;
        }
        (self.max / queues.max(1)).clamp(1, limits::TROUBLE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_limit_of_all_a_queue_has_its_share_and_never_more_than_its_own_limit() {
        let mut budget = TroubleBudget::of(1_000_000);
        budget.counted(0, 999_999);
        assert_eq!(budget.of_one(100), limits::TROUBLE_MAX);
        budget.counted(7, 8);
        assert_eq!((budget.of_one(100), budget.of_one(3)), (10_000, limits::TROUBLE_MAX));
        assert_eq!((budget.of_one(2_000_000), budget.of_one(0)), (1, limits::TROUBLE_MAX));
        budget.counted(8, 7);
        assert_eq!(budget.of_one(100), limits::TROUBLE_MAX);
    }
}
