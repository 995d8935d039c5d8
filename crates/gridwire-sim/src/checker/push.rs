//! Deliveries to webhooks.

use std::time::Duration;

use gridwire_core::time::Timestamp;

use super::{Checker, SLACK};

/// Waits of the retry ladders at their shortest: after the first, second, … failed attempt. The last repeats.
const LADDER: [u64; 4] = [10, 20, 30, 60];
/// The shortest wait after any failure.
const WAIT_MIN: Duration = Duration::from_secs(10);

/// Statuses after which nothing is tried again, in one of the tiers at least.
const FINAL: [u16; 6] = [400, 401, 403, 404, 413, 414];

/// Names one delivery to a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryId(usize);

/// What a webhook answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200 to 204, and all of its head was on its way.
    Accepted,
    /// Another status, and all of its head was on its way.
    Status { status: u16, retry_after: Duration },
    /// Nothing, or something that the broker may not have seen; 2xx if so.
    Unclear { accepted: bool },
}

#[derive(Debug)]
pub(super) struct Delivery {
    /// `None` when it should not have come.
    key: Option<(usize, String)>,
}

/// The time in which so many attempts can be made at the soonest.
pub(super) fn ladder(attempts: u32) -> Duration {
    let waits = (1..attempts).map(|after| LADDER[(after as usize - 1).min(LADDER.len() - 1)]);
    Duration::from_secs(waits.sum())
}

impl Checker {
    /// A request with one event came to the webhook of a subscription.
    pub fn delivered(&mut self, subscription: &str, body: &[u8], now: Timestamp) -> DeliveryId {
        let key = self.arrived(subscription, body, false, now);
        if let Some(key) = &key {
            if !self.subscriptions[subscription].forwarded {
                self.judge_delivery(key, now);
            }
            self.item(key).seen += 1;
        }
        self.pushes.push(Delivery { key });
        DeliveryId(self.pushes.len() - 1)
    }

    fn judge_delivery(&mut self, key: &(usize, String), now: Timestamp) {
        let subscription = &key.1;
        let item = &self.items[key];
        if let Some((when, how)) = item.done {
            self.counts.repeated += 1;
            if !self.may_be_unrecorded(when) && !self.may_be_taken_back(when, when) {
                let what = format!("`{subscription}` got it again, {how} at {when}, with no fault between");
                self.report("duplicated", key.0, now, &what);
            }
        } else if let Some((due, since)) = item.not_before
            && now + SLACK < due
            && !self.may_be_unrecorded(since)
            && !self.may_be_taken_back(since, since)
        {
            let what = format!("`{subscription}` got it again before {due}");
            self.report("early", key.0, now, &what);
        }
    }

    /// The webhook's answer has left.
    pub fn answered(&mut self, delivery: DeliveryId, answer: Answer, now: Timestamp) {
        let Some(key) = self.pushes[delivery.0].key.clone() else { return };
        let item = self.item(&key);
        match answer {
            Answer::Accepted => {
                item.done.get_or_insert((now, "accepted"));
                item.not_before = None;
            }
            Answer::Unclear { accepted } => item.perhaps_done |= accepted,
            Answer::Status { status, retry_after } => {
                item.given_up |= FINAL.contains(&status);
                item.not_before = Some((now + retry_after.max(WAIT_MIN), now));
            }
        }
    }
}
