//! Whether a subscription's requests may be sent, asked last thing before each of them is.
//!
//! The shard starts nothing for a paused subscription, but what it has handed over before waits for a connection, or is
//! having one made. Each attempt carries its subscription's gate; a pause closes it, and whoever finds it closed
//! reports the attempt as recalled. So nothing begins to be sent once the pause is answered. It closes for good when
//! the subscription is removed.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use gridwire_core::ids::SubscriptionNumber;
use gridwire_core::retry::Outcome;

use super::NoAnswer;

/// Gates that are remembered before the first look for those that nobody needs.
const PRUNE_AT_LEAST: usize = 1024;

/// Removed subscriptions whose gates are kept, closed: an attempt of one may still be reading its event.
const REMOVED_MAX: usize = 1024;

/// One subscription's.
#[derive(Debug, Default)]
pub(super) struct Gate {
    closed: AtomicBool,
}

impl Gate {
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Of an attempt that came to this before anything of it was sent.
    pub(super) fn unsent(&self, outcome: Outcome) -> NoAnswer {
        if self.is_closed() { NoAnswer::Recalled } else { NoAnswer::Ended(outcome) }
    }

    fn set_closed(&self, closed: bool) {
        self.closed.store(closed, Ordering::Release);
    }
}

/// Those of subscriptions that are paused, have attempts outstanding, or were removed lately.
#[derive(Debug, Default)]
pub(super) struct Gates {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    gates: HashMap<SubscriptionNumber, Arc<Gate>>,
    /// The oldest first.
    removed: VecDeque<SubscriptionNumber>,
    /// With this many, those that are open and in nobody's hands are forgotten.
    prune_at: usize,
}

impl Gates {
    /// The one that an attempt of the subscription has to pass.
    pub(super) fn of(&self, subscription: SubscriptionNumber) -> Arc<Gate> {
        let mut known = self.known.lock().expect("no panic while the gates are held");
        known.of(subscription)
    }

    pub(super) fn set_closed(&self, subscription: SubscriptionNumber, closed: bool) {
        let mut known = self.known.lock().expect("no panic while the gates are held");
        if closed {
            known.of(subscription).set_closed(true);
        } else if let Some(gate) = known.gates.get(&subscription) {
            gate.set_closed(false);
        }
    }

    /// Closes it for good.
    pub(super) fn forget(&self, subscription: SubscriptionNumber) {
        let mut known = self.known.lock().expect("no panic while the gates are held");
        known.of(subscription).set_closed(true);
        known.removed.push_back(subscription);
        if known.removed.len() > REMOVED_MAX
            && let Some(oldest) = known.removed.pop_front()
        {
            known.gates.remove(&oldest);
        }
    }
}

impl Known {
    fn of(&mut self, subscription: SubscriptionNumber) -> Arc<Gate> {
        if let Some(gate) = self.gates.get(&subscription) {
            return Arc::clone(gate);
        }
        if self.prune_at <= self.gates.len() {
            // Only who asks us can hold one that we alone hold now, and nobody asks meanwhile.
            self.gates.retain(|_, gate| gate.is_closed() || 1 < Arc::strong_count(gate));
            self.prune_at = PRUNE_AT_LEAST.max(2 * self.gates.len());
        }
        Arc::clone(self.gates.entry(subscription).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SubscriptionNumber = SubscriptionNumber(1);

    #[test]
    fn a_gate_is_one_for_all_attempts_of_its_subscription_before_and_after_a_pause() {
        let gates = Gates::default();
        let (first, other) = (gates.of(ONE), gates.of(SubscriptionNumber(2)));
        assert!(!first.is_closed());
        gates.set_closed(ONE, true);
        assert!(first.is_closed() && gates.of(ONE).is_closed() && !other.is_closed());
        gates.set_closed(ONE, false);
        assert!(!first.is_closed() && !gates.of(ONE).is_closed());
        gates.forget(ONE);
        assert!(first.is_closed(), "what is outstanding of a removed subscription is not sent");
        assert!(gates.of(ONE).is_closed(), "nor what is still being read for it");
        for number in 3..5_000 {
            gates.forget(SubscriptionNumber(number));
        }
        assert!(gates.known.lock().unwrap().gates.len() <= REMOVED_MAX + 2);
    }

    #[test]
    fn many_subscriptions_come_and_go_and_only_the_needed_gates_are_kept() {
        let gates = Gates::default();
        gates.set_closed(ONE, true);
        let held = gates.of(SubscriptionNumber(2));
        for number in 3..5_000 {
            gates.of(SubscriptionNumber(number));
        }
        assert!(gates.known.lock().unwrap().gates.len() <= PRUNE_AT_LEAST);
        assert!(gates.of(ONE).is_closed(), "a pause is not forgotten");
        gates.set_closed(SubscriptionNumber(2), true);
        assert!(held.is_closed(), "nor whoever has attempts outstanding");
    }
}
