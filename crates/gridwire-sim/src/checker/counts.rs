//! The broker's own figures, compared with what was seen of it.

use gridwire_core::time::Timestamp;

use super::{Checker, Item, Outcome, TAKEN_BACK};

impl Checker {
    /// What the broker says it has settled of a subscription, in whatever way, when nothing is pending: each event
    /// once. A power cut may take back what was counted, but nothing counts twice.
    pub fn counted(&mut self, subscription: &str, total: u64, now: Timestamp) {
        if self.leaving.contains(subscription) {
            return;
        }
        let (certain, possible) = self.wanted(subscription);
        let power_was_cut = self.crashes.iter().any(|crash| crash.power);
        if possible < total || (total < certain && !power_was_cut) {
            let what = format!("`{subscription}` counts {total} settled events of {certain} to {possible}");
            self.report_other("miscounted", "", now, &what);
        }
    }

    /// What the broker says that a subscription matched, when nothing is pending and `ended` have ended: each event that
    /// it should get, whatever was taken back of what became of them.
    pub fn matched(&mut self, subscription: &str, matched: u64, ended: u64, now: Timestamp) {
        if self.leaving.contains(subscription) {
            return;
        }
        let (certain, possible) = self.wanted(subscription);
        if possible < matched || matched < certain || matched != ended {
            let what = format!(
                "`{subscription}` counts {matched} matches of {certain} to {possible}, and {ended} that have ended"
            );
            self.report_other("miscounted", "", now, &what);
        }
    }

    /// How many events a subscription should get for sure, and how many at most.
    fn wanted(&self, subscription: &str) -> (u64, u64) {
        let (mut certain, mut possible) = (0, 0);
        for ((event, owner), item) in &self.items {
            let call = &self.calls[self.events[*event].call];
            if owner != subscription || call.outcome == Some(Outcome::Refused) {
                continue;
            }
            possible += 1;
            let is_certain = !item.optional && (call.outcome == Some(Outcome::Accepted) || call.seen);
            certain += u64::from(is_certain);
        }
        (certain, possible)
    }

    /// What the broker says it has dropped of a subscription with dead letters, when nothing is pending: nothing is
    /// dropped without being counted. What happened before the last power cut may be forgotten.
    pub fn dropped(&mut self, subscription: &str, dropped: u64, now: Timestamp) {
        if self.leaving.contains(subscription) || !self.subscriptions[subscription].dead_letter {
            return;
        }
        let cut = self.crashes.iter().filter(|crash| crash.power).map(|crash| crash.when + TAKEN_BACK).max();
        let is_dropped = |((event, owner), item): &(&(usize, String), &Item)| {
            let call = &self.calls[self.events[*event].call];
            let certain = call.outcome == Some(Outcome::Accepted) || call.seen;
            let settled = item.dead_lettered || item.done.is_some() || item.perhaps_done;
            let after_cut = cut.is_none_or(|cut| cut < call.began + self.letter_patience);
            owner == subscription && certain && !item.optional && !settled && after_cut
        };
        let missing = self.items.iter().filter(is_dropped).count() as u64;
        if dropped < missing {
            let what = format!(
                "`{subscription}` dropped {missing} events without a dead letter and counts {dropped}"
            );
            self.report_other("miscounted", "", now, &what);
        }
    }
}
