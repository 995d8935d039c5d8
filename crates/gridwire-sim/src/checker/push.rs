//! Deliveries to webhooks.

use std::time::Duration;

use gridwire_core::time::Timestamp;
use serde_json::value::RawValue;

use super::{Checker, Mode, SLACK, forms};

/// Waits of the retry ladders at their shortest: after the first, second, … failed attempt. The last repeats.
const LADDER: [u64; 4] = [10, 20, 30, 60];
/// The shortest wait after any failure.
const WAIT_MIN: Duration = Duration::from_secs(10);

/// Statuses after which nothing is tried again, in one of the tiers at least.
const FINAL: [u16; 6] = [400, 401, 403, 404, 413, 414];

/// Names one request to a webhook.
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

/// The events of one request that should have come. They share its answer, whatever it is.
#[derive(Debug)]
pub(super) struct Delivery {
    keys: Vec<(usize, String)>,
}

/// The time in which so many attempts can be made at the soonest.
pub(super) fn ladder(attempts: u32) -> Duration {
    let waits = (1..attempts).map(|after| LADDER[(after as usize - 1).min(LADDER.len() - 1)]);
    Duration::from_secs(waits.sum())
}

impl Checker {
    /// A request came to the webhook of a subscription.
    pub fn delivered(&mut self, subscription: &str, body: &[u8], now: Timestamp) -> DeliveryId {
        let forwarded = self.subscriptions.get(subscription).is_some_and(|owner| owner.forwarded);
        let mut keys = Vec::new();
        for text in self.opened(subscription, body, now) {
            let Some(key) = self.arrived(subscription, text.get().as_bytes(), false, now) else { continue };
            if keys.contains(&key) {
                let what = format!("`{subscription}` got it twice in one request");
                self.report("duplicated", key.0, now, &what);
                continue;
            }
            if !forwarded {
                self.judge_delivery(&key, now);
            }
            self.item(&key).seen += 1;
            keys.push(key);
        }
        self.pushes.push(Delivery { keys });
        DeliveryId(self.pushes.len() - 1)
    }

    /// The events in a request, each as its own text, once the request as a whole is judged.
    fn opened(&mut self, subscription: &str, body: &[u8], now: Timestamp) -> Vec<Box<RawValue>> {
        let Some(owner) = self.subscriptions.get(subscription) else {
            self.report_other("unexpected", subscription, now, "no such subscription");
            return Vec::new();
        };
        let batching = match owner.mode {
            Mode::Push { batching, .. } => batching,
            Mode::Pull { .. } => None,
        };
        let texts = match forms::split(body, forms::Shape::of(owner, &self.topics[&owner.topic])) {
            Ok(texts) => texts,
            Err(why) => {
                let shown = String::from_utf8_lossy(body).into_owned();
                self.report_other("altered", subscription, now, &format!("{why}: {shown}"));
                return Vec::new();
            }
        };
        let events = texts.len() as u64;
        let (events_max, bytes_max) =
            batching.map_or((1, usize::MAX), |batching| (u64::from(batching.events_max), batching.bytes_max));
        // An event that is larger by itself goes alone.
        if events_max < events || (1 < events && bytes_max < body.len()) {
            let what =
                format!("{events} events in {} bytes, of {events_max} in {bytes_max} at most", body.len());
            self.report_other("overfull", subscription, now, &what);
        }
        if batching.is_some() {
            self.counts.batches += 1;
            self.counts.batched += events;
            self.counts.shared += u64::from(1 < events);
            self.counts.batch_most = self.counts.batch_most.max(events);
        }
        texts
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
        for key in std::mem::take(&mut self.pushes[delivery.0].keys) {
            self.answered_for(&key, answer, now);
        }
    }

    fn answered_for(&mut self, key: &(usize, String), answer: Answer, now: Timestamp) {
        let item = self.item(key);
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
