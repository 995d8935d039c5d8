//! What tests of handlers need of a broker in development mode: fault scripts, and to know when nothing more
//! happens by itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gridwire_core::event::Event;
use gridwire_core::fault_script::FaultScript;
use gridwire_core::ids::{Offset, TopicNumber};
use gridwire_core::routing::{DeliveryMode, SubscriptionRoute};
use gridwire_core::shard::QueueOutlook;
use gridwire_core::time::Timestamp;

use crate::broker::Broker;
use crate::shards;

/// There is no such subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event subscription was not found")]
pub struct NoSubscription;

/// Why a subscription got no fault script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetFaultsError {
    #[error(transparent)]
    NotFound(#[from] NoSubscription),
    /// It is received from: no attempt of ours would ever meet the script.
    #[error("the event subscription is received from, and faults are met by deliveries only")]
    Pull,
}

/// What became of everything that was published before the question.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// Nothing goes on by itself any more: what is left waits for a later time or for a receiver.
    pub still: bool,
    pub remainders: Vec<Remainder>,
}

/// One subscription's part of it.
#[derive(Clone, Debug)]
pub struct Remainder {
    pub subscription: Arc<SubscriptionRoute>,
    pub queue: QueueOutlook,
    /// The ids of `queue.soonest`, in order; empty where an event cannot be read.
    pub event_ids: Vec<String>,
}

impl Outlook {
    /// When something happens by itself next.
    pub fn next_due(&self) -> Timestamp {
        self.remainders.iter().map(|one| one.queue.next_due).min().unwrap_or(Timestamp::MAX)
    }
}

impl Broker {
    /// What the subscription's next attempts shall meet; it is named by its resource id or number. Does nothing
    /// without [`crate::PushOptions::faults`].
    pub fn set_faults(&self, subscription: &str, script: FaultScript) -> Result<(), SetFaultsError> {
        let route = self.subscription(subscription).ok_or(NoSubscription)?;
        if let DeliveryMode::Pull { .. } = route.policy.mode {
            return Err(SetFaultsError::Pull);
        }
        self.outside().dispatcher.set_faults(route.number, script);
        Ok(())
    }

    /// What is left of the subscription's script.
    pub fn faults(&self, subscription: &str) -> Result<FaultScript, NoSubscription> {
        let route = self.subscription(subscription).ok_or(NoSubscription)?;
        Ok(self.outside().dispatcher.faults(route.number))
    }

    /// Waits until nothing of what is published now goes on by itself, for `patience` of real time at most, and
    /// tells what became of it. `None` when the broker is stopping.
    ///
    /// What is forwarded on the way is published by that, and belongs to it: once the sources are still, the topics
    /// that they forward to are waited for. Those forward nothing, so a second look is the last.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    pub async fn settle_down(&self, patience: Duration) -> Option<Outlook> {
        let shards = self.shards()?;
        let outside = self.outside();
        let mut ends = self.ends();
        let until_still = async {
            let queues = shards::outlook(&shards, ends.clone(), true).await?;
            if !self.follow_forwards(&mut ends) {
                return Some(queues);
            }
            shards::outlook(&shards, ends.clone(), true).await
        };
        let waited = tokio::select! {
            biased;
            still = until_still => Some(still?),
            () = outside.clock.sleep(patience) => None,
        };
        let still = waited.is_some();
        let queues = match waited {
            Some(queues) => queues,
            None => shards::outlook(&shards, ends, false).await?,
        };
        let routes: HashMap<_, _> =
            self.table().subscriptions().into_iter().map(|route| (route.number, route)).collect();
        let mut remainders = Vec::with_capacity(queues.len());
        for queue in queues {
            // One that was removed meanwhile has nothing left.
            let Some(route) = routes.get(&queue.subscription) else { continue };
            let event_ids = self.event_ids(&queue).await;
            remainders.push(Remainder { subscription: Arc::clone(route), queue, event_ids });
        }
        Some(Outlook { still, remainders })
    }

    /// What is durable now, and so everything whose publish was answered.
    fn ends(&self) -> HashMap<TopicNumber, Offset> {
        let log = &self.outside().log;
        self.table().by_number.keys().map(|&topic| (topic, log.end(topic))).collect()
    }

    /// Moves the ends of the topics that are forwarded to behind what was forwarded since. Returns whether there was
    /// anything.
    fn follow_forwards(&self, ends: &mut HashMap<TopicNumber, Offset>) -> bool {
        let table = self.table();
        let all = table.by_number.values().flat_map(|topic| topic.all_subscriptions());
        let targets = all.filter_map(|route| table.forward_target(route.forward.as_ref()?));
        let mut moved = false;
        for number in targets.map(|topic| topic.number) {
            let end = self.outside().log.end(number);
            moved |= ends.insert(number, end) != Some(end);
        }
        moved
    }

    async fn event_ids(&self, queue: &QueueOutlook) -> Vec<String> {
        let mut offsets: Vec<Offset> = queue.soonest.iter().map(|waiting| waiting.offset).collect();
        offsets.sort_unstable();
        let fetched = self.outside().log.fetch(queue.topic, offsets).await.unwrap_or_default();
        let id = |offset: Offset| {
            let place = fetched.binary_search_by_key(&offset, |event| event.offset).ok()?;
            Some(Event::decode(&fetched[place].event)?.id.into_owned())
        };
        queue.soonest.iter().map(|waiting| id(waiting.offset).unwrap_or_default()).collect()
    }
}
