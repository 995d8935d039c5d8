//! The shard: one deterministic state machine between the log of events and the log of decisions.
//!
//! The cast: a **queue** for each event subscription ([`queue`]), its recorded **state** ([`state`]), and the
//! **decisions** that change it ([`decision`]). The driver (in `gridwire-broker`) feeds inputs and time, takes
//! an [`Output`], records its decisions as one group, and only then carries out its effects.
//!
//! The life of one event: its frame becomes durable and is shown by [`Shard::frame`]; each matched queue at
//! the tail takes its position into the ready window. A receive leases it ([`Decision::Leased`]) or the queue
//! starts an attempt ([`Effect::Attempt`]). An acknowledgement or a 200 settles it ([`Decision::Settled`]);
//! a failure returns it for later ([`Decision::Returned`]); what is given up is condemned, written as a dead
//! letter, and then settled. After a restart the recorded decisions are applied again ([`Shard::recover_part`],
//! [`Shard::recover_decision`]) without asking `handle` anything, and each queue scans on from its floor.

mod budget;
mod decision;
mod input;
mod ledger;
mod letters;
mod output;
mod queue;
mod state;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

pub use decision::{DeadLetterReason, Decision, Held, LastAttempt, Return, Settlement, Unanswered};
pub use input::{Input, Position, ReplyId, SettleVerb, SubscribeInput};
pub use ledger::{Ledger, Tally};
pub use output::{Answer, Effect, LeasedEvent, Output, TokenError};
pub use queue::books::Books;
pub use queue::outlook::{QueueOutlook, Waiting, Why};
pub use state::Totals;

use crate::endpoint::EndpointStatus;
use crate::filter::MatchSet;
use crate::frame::FrameView;
use crate::ids::{Offset, Slot, SubscriptionNumber, TopicNumber};
use crate::limits;
use crate::planted::planted;
use crate::time::Timestamp;
use budget::TroubleBudget;
use queue::{FinishedAttempt, Queue};
use state::QueueState;

/// How one subscription is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    pub subscription: SubscriptionNumber,
    pub topic: TopicNumber,
    pub totals: Totals,
    /// Every matching offset below is settled.
    pub floor: Offset,
    /// The end of the topic.
    pub end: Offset,
    /// All that matched since the subscription exists: what has ended, and what is pending. `None` while it is counted:
    /// after a start, and when events turned out to be damaged.
    pub matched: Option<u64>,
    /// What waits, is locked, in flight or in trouble; while `matched` is not known, as far as that is known.
    pub pending: u64,
    /// Those of them that are in memory; the others lie behind the cursor.
    pub held: usize,
    /// Those of them that were given up and whose dead letter is not written yet.
    pub letters: usize,
    pub behind: bool,
    /// How its endpoint is treated, if it has one.
    pub endpoint: Option<EndpointStatus>,
}

#[derive(Debug, Default)]
struct Topic {
    tail: u64,
    /// Subscriptions by slot; `None` where it is gone.
    slots: HashMap<Slot, SubscriptionNumber>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Shard {
    topics: HashMap<TopicNumber, Topic>,
    queues: BTreeMap<SubscriptionNumber, Queue>,
    timers: BTreeSet<(Timestamp, SubscriptionNumber)>,
    /// State that recovery found, until its subscription is told of.
    recovered: BTreeMap<SubscriptionNumber, QueueState>,
    /// Nothing is given up for its age before.
    expiry_from: Timestamp,
    /// How long a dead letter waits.
    dead_letter_delay: Duration,
    trouble: TroubleBudget,
    scratch: MatchSet,
}

impl Shard {
    pub fn new() -> Self {
        Self::default()
    }

    // ---- recovery ---------------------------------------------------------------------------------

    /// A subscription's entry of the snapshot. `false` when the bytes are not one.
    pub fn recover_part(&mut self, subscription: SubscriptionNumber, bytes: &[u8]) -> bool {
        let Some(state) = QueueState::decode(bytes) else { return false };
        self.recovered.insert(subscription, state);
        true
    }

    /// A decision recorded since the snapshot.
    pub fn recover_decision(&mut self, decision: &Decision) {
        let subscription = decision.subscription();
        let forgotten = match decision {
            Decision::Leased { .. } => planted("lease-forgotten-by-kill"),
            Decision::Renewed { .. } => planted("recovery-differs"),
            Decision::Returned { .. } => planted("retry-lost-at-restart"),
            _ => false,
        };
        if forgotten {
            return;
        }
        if matches!(decision, Decision::Gone { .. }) {
            self.recovered.remove(&subscription);
        } else {
            self.recovered.entry(subscription).or_default().apply(decision);
        }
    }

    /// The offset after the last that recovered state of a subscription speaks of.
    pub fn recovered_end(&self, subscription: SubscriptionNumber) -> Offset {
        Offset(self.recovered.get(&subscription).map_or(0, QueueState::end))
    }

    /// Every matching offset below is settled, by recovered state; `None` when there is none.
    pub fn recovered_floor(&self, subscription: SubscriptionNumber) -> Option<Offset> {
        self.recovered.get(&subscription).map(|state| Offset(state.floor))
    }

    /// Time has moved on since the newest record, and whether it did so by itself is not known: nothing is given
    /// up for its age before `until`. Said before the first subscription. Delivery goes on meanwhile.
    pub fn hold_expiry(&mut self, until: Timestamp) {
        self.expiry_from = until;
    }

    /// A dead letter is written so long after its event was given up; said before the first subscription. Settled
    /// is an event only then, so its segment stays meanwhile.
    pub fn delay_dead_letters(&mut self, delay: Duration) {
        self.dead_letter_delay = delay;
    }

    // ---- running ----------------------------------------------------------------------------------

    /// A durable frame, in log order. Frames of topics that the shard does not know are skipped.
    pub fn frame(
        &mut self,
        frame: &FrameView<'_>,
        now: Timestamp,
        seed: &mut dyn FnMut() -> u64,
        out: &mut Output,
    ) {
        let Some(topic) = self.topics.get_mut(&frame.topic) else { return };
        let seen = topic.tail;
        let mut touched: Vec<SubscriptionNumber> = Vec::new();
        if frame.first.0 > seen {
            // Frames between were not shown to us: whoever was at the tail finds theirs by a scan.
            for number in topic.slots.values() {
                if let Some(queue) = self.queues.get_mut(number) {
                    queue.fall_behind(seen);
                    touched.push(*number);
                }
            }
        }
        let mut matched = std::mem::take(&mut self.scratch);
        for event in frame.events() {
            if event.offset.0 < seen {
                continue;
            }
            let Some(bytes) = event.split_into(&mut matched) else { continue };
            let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let position = Position { offset: event.offset, time: frame.time, size };
            for slot in matched.iter() {
                let Some(number) = topic.slots.get(&slot) else { continue };
                let Some(queue) = self.queues.get_mut(number) else { continue };
                queue.offer(position);
                touched.push(*number);
            }
        }
        topic.tail = seen.max(frame.first.0 + u64::from(frame.count));
        self.scratch = matched;
        touched.sort_unstable();
        touched.dedup();
        for number in touched {
            self.pump(number, now, seed, out);
        }
    }

    /// Handles one input. `seed` gives random numbers for lease nonces.
    pub fn handle(
        &mut self,
        input: Input<'_>,
        now: Timestamp,
        seed: &mut dyn FnMut() -> u64,
        out: &mut Output,
    ) {
        let number = match input {
            Input::Subscribe(input) => self.subscribe(input, now, out),
            Input::Unsubscribe { subscription } => {
                self.unsubscribe(subscription, out);
                return;
            }
            Input::Tick => {
                let last = (now, SubscriptionNumber(u32::MAX));
                let due: Vec<_> = self.timers.range(..=last).map(|&(_, number)| number).collect();
                for number in due {
                    self.pump(number, now, seed, out);
                }
                return;
            }
            Input::Receive { subscription, reply, max, deadline } => {
                let Some(queue) = self.queues.get_mut(&subscription) else {
                    out.effects.push(Effect::Answer { reply, answer: Answer::Gone });
                    return;
                };
                queue.receive(reply, max, deadline, out);
                subscription
            }
            Input::Settle { subscription, reply, verb, tokens } => {
                let Some((queue, tail)) = self.queue(subscription) else {
                    out.effects.push(Effect::Answer { reply, answer: Answer::Gone });
                    return;
                };
                queue.settle(reply, verb, tokens, tail, now, out);
                subscription
            }
            Input::CancelReceive { subscription, reply } => {
                let Some((queue, _)) = self.queue(subscription) else { return };
                queue.cancel_receive(reply);
                subscription
            }
            Input::Attempted { subscription, offset, id, outcome, jitter } => {
                let Some((queue, tail)) = self.queue(subscription) else { return };
                queue.attempted(FinishedAttempt { offset, id, outcome, jitter }, tail, now, out);
                subscription
            }
            Input::Unreadable { subscription, offset, id } => {
                let Some((queue, tail)) = self.queue(subscription) else { return };
                queue.unreadable(offset, id, tail, out);
                subscription
            }
            Input::Unread { subscription, offset, id } => {
                let Some((queue, _)) = self.queue(subscription) else { return };
                queue.unread(offset, id, now, out);
                subscription
            }
            Input::NotSent { subscription, offset, id } => {
                let Some((queue, _)) = self.queue(subscription) else { return };
                queue.not_sent(offset, id, now, out);
                subscription
            }
            Input::DeadLetterWritten { subscription, offset } => {
                let Some((queue, tail)) = self.queue(subscription) else { return };
                queue.dead_letter_written(offset, tail, out);
                subscription
            }
            Input::DeadLetterFailed { subscription, offset } => {
                let Some((queue, tail)) = self.queue(subscription) else { return };
                queue.dead_letter_failed(offset, tail, now, out);
                subscription
            }
            Input::Scanned { subscription, from, matches, lost, next } => {
                let Some((queue, tail)) = self.queue(subscription) else { return };
                queue.scanned(from.0, matches, lost, next, tail, out);
                subscription
            }
            Input::ScanFailed { subscription } => {
                let Some((queue, _)) = self.queue(subscription) else { return };
                queue.scan_failed();
                subscription
            }
            Input::Counted { subscription, from, matches, next, start } => {
                let Some((queue, _)) = self.queue(subscription) else { return };
                queue.counted(from.0, matches, next, start.0);
                subscription
            }
            Input::CountFailed { subscription } => {
                let Some((queue, _)) = self.queue(subscription) else { return };
                queue.count_failed();
                subscription
            }
        };
        self.pump(number, now, seed, out);
    }

    /// When [`Input::Tick`] is needed next; [`Timestamp::MAX`] for never.
    pub fn next_due(&self) -> Timestamp {
        self.timers.first().map_or(Timestamp::MAX, |&(due, _)| due)
    }

    pub fn subscriptions(&self) -> impl Iterator<Item = SubscriptionNumber> + '_ {
        self.queues.keys().copied()
    }

    /// The subscription's entry for a snapshot, as of now. Taken only when every decision is recorded.
    pub fn snapshot(&self, subscription: SubscriptionNumber) -> Option<Vec<u8>> {
        let queue = self.queues.get(&subscription)?;
        let mut state = queue.state.clone();
        state.raise_floor(queue.floor(self.tail(queue.topic)));
        Some(state.encode())
    }

    /// What an audit of the subscription compares with the log, as of now.
    pub fn books(&self, subscription: SubscriptionNumber) -> Option<Books> {
        let queue = self.queues.get(&subscription)?;
        Some(queue.books(self.tail(queue.topic)))
    }

    /// The log no longer has what is below `start_of` each topic: ledgers need not tell it apart any more. No
    /// decision, for nothing that was counted changes.
    pub fn release(&mut self, start_of: impl Fn(TopicNumber) -> Offset) {
        let starts: HashMap<TopicNumber, Offset> =
            self.topics.keys().map(|topic| (*topic, start_of(*topic))).collect();
        for queue in self.queues.values_mut() {
            if let Some(start) = starts.get(&queue.topic) {
                queue.state.ledger.release(start.0);
            }
        }
    }

    /// Of every queue, in order of subscription.
    pub fn status(&self) -> Vec<QueueStatus> {
        self.queues.values().map(|queue| self.status_in(queue)).collect()
    }

    pub fn status_of(&self, subscription: SubscriptionNumber) -> Option<QueueStatus> {
        self.queues.get(&subscription).map(|queue| self.status_in(queue))
    }

    fn status_in(&self, queue: &Queue) -> QueueStatus {
        let tail = self.tail(queue.topic);
        QueueStatus {
            subscription: queue.number,
            topic: queue.topic,
            totals: queue.state.totals,
            floor: Offset(queue.floor(tail)),
            end: Offset(tail),
            matched: queue.matched(),
            pending: queue.pending(),
            held: queue.held_in_memory(),
            letters: queue.letters(),
            behind: queue.is_behind(),
            endpoint: queue.endpoint(),
        }
    }

    /// Whether something goes on by itself with the events before `end_of` each topic.
    pub fn moves(&self, now: Timestamp, end_of: impl Fn(TopicNumber) -> Option<Offset>) -> bool {
        self.queues.values().any(|queue| {
            end_of(queue.topic).is_some_and(|end| queue.moves(end.0, self.tail(queue.topic), now))
        })
    }

    /// What became of the events before `end_of` each topic, and what is left of them: in order of subscription,
    /// those of topics that it knows an end of.
    pub fn outlook(
        &self,
        now: Timestamp,
        end_of: impl Fn(TopicNumber) -> Option<Offset>,
    ) -> Vec<QueueOutlook> {
        let outlook = |queue: &Queue| {
            let end = end_of(queue.topic)?;
            Some(queue.outlook(end.0, self.tail(queue.topic), now))
        };
        self.queues.values().filter_map(outlook).collect()
    }

    fn tail(&self, topic: TopicNumber) -> u64 {
        self.topics.get(&topic).map_or(0, |topic| topic.tail)
    }

    fn queue(&mut self, subscription: SubscriptionNumber) -> Option<(&mut Queue, u64)> {
        let queue = self.queues.get_mut(&subscription)?;
        let tail = self.topics.get(&queue.topic).map_or(0, |topic| topic.tail);
        Some((queue, tail))
    }

    fn subscribe(&mut self, input: SubscribeInput, now: Timestamp, out: &mut Output) -> SubscriptionNumber {
        let number = input.number;
        if let Some(queue) = self.queues.get_mut(&number) {
            queue.configure(input.policy, now, out);
            return number;
        }
        let topic =
            self.topics.entry(input.topic).or_insert_with(|| Topic { tail: input.end.0, ..Topic::default() });
        topic.slots.insert(input.slot, number);
        let state = if let Some(mut state) = self.recovered.remove(&number) {
            state.raise_floor(input.start.0);
            state
        } else {
            let floor = if input.existed { input.start } else { input.end };
            let decision = Decision::Reset { subscription: number, floor };
            let mut state = QueueState::default();
            state.apply(&decision);
            out.record(decision);
            state
        };
        let tail = topic.tail;
        self.queues.insert(number, Queue::new(input, state, tail, self.expiry_from, self.dead_letter_delay));
        number
    }

    fn unsubscribe(&mut self, subscription: SubscriptionNumber, out: &mut Output) {
        let Some(mut queue) = self.queues.remove(&subscription) else { return };
        self.trouble.forget(subscription);
        let held_back = self.trouble.counted(queue.trouble_counted, 0);
        self.look_again(held_back);
        self.timers.remove(&(queue.timer, subscription));
        queue.end(out);
        out.record(Decision::Gone { subscription });
        if let Some(topic) = self.topics.get_mut(&queue.topic) {
            topic.slots.remove(&queue.slot);
            // The tail is told again when the topic gets its next subscription.
            if topic.slots.is_empty() {
                self.topics.remove(&queue.topic);
            }
        }
    }

    fn pump(
        &mut self,
        number: SubscriptionNumber,
        now: Timestamp,
        seed: &mut dyn FnMut() -> u64,
        out: &mut Output,
    ) {
        let Some(queue) = self.queues.get_mut(&number) else { return };
        let tail = self.topics.get(&queue.topic).map_or(0, |topic| topic.tail);
        queue.trouble_max = self.trouble.of_one();
        queue.pump(tail, now, seed, out);
        let in_trouble = queue.state.trouble.len();
        let counted = std::mem::replace(&mut queue.trouble_counted, in_trouble);
        let due = queue.next_due();
        if due != queue.timer {
            self.timers.remove(&(queue.timer, number));
            queue.timer = due;
            if due != Timestamp::MAX {
                self.timers.insert((due, number));
            }
        }
        if queue.trouble_max < limits::TROUBLE_MAX && queue.trouble_max <= in_trouble {
            self.trouble.hold_back(number);
        }
        let free = self.trouble.counted(counted, in_trouble);
        self.look_again(free);
    }

    /// The next tick looks at these queues, whatever they wait for.
    fn look_again(&mut self, numbers: BTreeSet<SubscriptionNumber>) {
        for number in numbers {
            let Some(queue) = self.queues.get_mut(&number) else { continue };
            self.timers.remove(&(queue.timer, number));
            queue.timer = Timestamp::ZERO;
            self.timers.insert((Timestamp::ZERO, number));
        }
    }
}

#[cfg(test)]
mod tests;
