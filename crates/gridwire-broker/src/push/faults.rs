//! The fault scripts of subscriptions, at the edge of the dispatcher: only in development mode.
//!
//! What an attempt meets is decided by the pure [`FaultScript`]; here is only which subscription has which, and
//! who is held back until whom. Scripts are forgotten at the end of the process and with their subscription.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use gridwire_core::fault_script::{Fault, FaultScript};
use gridwire_core::ids::SubscriptionNumber;
use gridwire_core::retry::Outcome;
use tokio::sync::oneshot;

/// How long an attempt is held back for the one that shall overtake it, in real time. Perhaps no other comes.
pub(super) const REORDER_PATIENCE: Duration = Duration::from_secs(3);

/// One script for each subscription that has any left.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<HashMap<SubscriptionNumber, Run>>);

#[derive(Debug, Default)]
struct Run {
    script: FaultScript,
    /// Attempts held back for the next one. At most as many as may be in flight.
    held: Vec<oneshot::Sender<()>>,
}

/// What an attempt that starts now meets.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) fault: Fault,
    /// Whoever waits for this attempt to end; let go by being dropped.
    pub(super) overtakes: Vec<oneshot::Sender<()>>,
    /// Set when this attempt has to wait for another.
    pub(super) held: Option<oneshot::Receiver<()>>,
}

impl Default for Met {
    fn default() -> Self {
        Self { fault: Fault::Pass, overtakes: Vec::new(), held: None }
    }
}

impl Met {
    /// The outcome that a fault puts in the place of sending, with the status that goes with it.
    pub(super) fn instead(fault: Fault) -> Option<(Outcome, Option<u16>)> {
        match fault {
            Fault::Status { status, .. } if (200..=204).contains(&status) => {
                Some((Outcome::Accepted, Some(status)))
            }
            Fault::Status { status, retry_after } => {
                Some((Outcome::Answered { status, retry_after }, Some(status)))
            }
            Fault::Timeout => Some((Outcome::TimedOut, None)),
            Fault::Reset => Some((Outcome::Unreachable, None)),
            Fault::Pass | Fault::Slow { .. } | Fault::Duplicate | Fault::Reorder => None,
        }
    }
}

impl Faults {
    /// Replaces a subscription's script. Whoever is held back goes on.
    pub(super) fn set(&self, subscription: SubscriptionNumber, script: FaultScript) {
        let mut runs = self.runs();
        if script.is_over() {
            runs.remove(&subscription);
        } else {
            runs.insert(subscription, Run { script, held: Vec::new() });
        }
    }

    /// What is left of a subscription's script.
    pub(super) fn left(&self, subscription: SubscriptionNumber) -> FaultScript {
        self.runs().get(&subscription).map(|run| run.script.clone()).unwrap_or_default()
    }

    /// What the subscription's attempt that starts now meets.
    pub(super) fn next(&self, subscription: SubscriptionNumber) -> Met {
        let mut runs = self.runs();
        let Some(run) = runs.get_mut(&subscription) else { return Met::default() };
        let fault = run.script.next_fault();
        if fault == Fault::Reorder {
            // Those that have lost their patience wait no more.
            run.held.retain(|held| !held.is_closed());
            let (hold, held) = oneshot::channel();
            run.held.push(hold);
            return Met { fault, overtakes: Vec::new(), held: Some(held) };
        }
        let overtakes = std::mem::take(&mut run.held);
        if run.script.is_over() {
            runs.remove(&subscription);
        }
        Met { fault, overtakes, held: None }
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<SubscriptionNumber, Run>> {
        self.0.lock().expect("no panic while the scripts are held")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gridwire_core::event::DeliverySchema;
    use gridwire_core::fault_script::Step;
    use gridwire_outside::system::SystemNet;

    use super::*;
    use crate::push::PushOptions;
    use crate::push::testing::{OK, Rig, TestServer, local_options, subscription};

    const ONE: SubscriptionNumber = SubscriptionNumber(1);
    const OTHER: SubscriptionNumber = SubscriptionNumber(2);

    fn script(words: &str) -> FaultScript {
        FaultScript::new(words.split(' ').map(|word| Step::parse(word).unwrap())).unwrap()
    }

    fn faults(words: &str) -> Faults {
        let faults = Faults::default();
        faults.set(ONE, script(words));
        faults
    }

    #[tokio::test]
    async fn an_attempt_that_is_held_back_longer_than_its_time_ends_by_it() {
        let server = TestServer::answering(OK).await;
        let options = PushOptions { faults: true, ..local_options() };
        let patience = options.attempt_timeout;
        let mut rig = Rig::with(options, Arc::new(SystemNet));
        let route = subscription(1, &server.url(), DeliverySchema::EventGrid);
        assert!(rig.dispatcher.set_faults(route.number, script("slow:60s")));
        rig.start(&route);
        // Its worker runs until it waits.
        tokio::task::yield_now().await;
        rig.clock.advance(patience);
        assert_eq!(rig.finished().await.outcome, Outcome::TimedOut);
        assert_eq!(server.connections(), 0);
        rig.start(&route);
        assert_eq!(rig.finished().await.outcome, Outcome::Accepted);
    }

    #[test]
    fn without_development_mode_there_are_no_faults() {
        let rig = Rig::new();
        assert!(!rig.dispatcher.set_faults(ONE, script("reset")));
        assert!(rig.dispatcher.faults(ONE).is_over());
    }

    #[test]
    fn a_script_is_for_one_subscription_and_is_forgotten_at_its_end() {
        let faults = faults("reset pass");
        assert_eq!(faults.next(OTHER).fault, Fault::Pass);
        assert_eq!(faults.next(ONE).fault, Fault::Reset);
        assert_eq!(faults.left(ONE).steps().count(), 1);
        assert_eq!(faults.next(ONE).fault, Fault::Pass);
        assert!(faults.runs().is_empty());
    }

    #[test]
    fn an_attempt_is_held_back_until_the_next_one_has_ended() {
        let faults = faults("reorder*2 pass");
        let mut held = [faults.next(ONE).held.unwrap(), faults.next(ONE).held.unwrap()];
        let overtaking = faults.next(ONE);
        assert!(overtaking.held.is_none());
        assert!(held.iter_mut().all(|held| held.try_recv() == Err(oneshot::error::TryRecvError::Empty)));
        drop(overtaking);
        assert!(held.iter_mut().all(|held| held.try_recv() == Err(oneshot::error::TryRecvError::Closed)));
    }

    #[test]
    fn whoever_is_held_back_is_let_go_with_the_script() {
        let faults = faults("reorder pass");
        let mut held = faults.next(ONE).held.unwrap();
        faults.set(ONE, FaultScript::default());
        assert_eq!(held.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(faults.next(ONE).fault, Fault::Pass);
    }
}
