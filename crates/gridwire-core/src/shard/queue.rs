//! One subscription's queue: its recorded state, and what can be worked out again from the log.
//!
//! A queue is a cursor over its topic's log. Offsets come to it in log order, at the tail from each new
//! frame, behind it by scans that the driver answers, and wait in a short `ready` window. From there each is
//! delivered: locked for a receiver, or posted. What is released or failed waits in the trouble map until it
//! is due; what is given up waits there until its dead letter is written. Every recorded change goes through
//! [`QueueState::apply`] and no other way.

mod arrivals;
mod attempts;
pub(super) mod books;
mod census;
mod outcomes;
pub(super) mod outlook;
mod requests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::decision::{DeadLetterReason, Decision, Held, LastAttempt, Return, Settlement};
use super::letters::Letters;
use super::state::{Lease, QueueState, nonce};
use super::{Answer, Effect, LeasedEvent, Output, Position, ReplyId, SubscribeInput};
use crate::endpoint::{EndpointHealth, EndpointStatus};
use crate::ids::{Offset, Slot, SubscriptionNumber, TopicNumber};
use crate::limits;
use crate::pace::{Pace, Pacer};
use crate::planted::planted;
use crate::routing::{DeliveryMode, QueuePolicy};
use crate::time::Timestamp;
use attempts::InFlight;
use census::Census;
pub(super) use outcomes::FinishedAttempt;

/// A receive that waits for events.
#[derive(Clone, Copy, Debug)]
struct Receiver {
    max: u32,
    deadline: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cursor {
    /// Every new frame of the topic is offered as it comes.
    Tail,
    /// Offsets from here on must be scanned for.
    Behind(u64),
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) number: SubscriptionNumber,
    pub(super) topic: TopicNumber,
    pub(super) slot: Slot,
    policy: QueuePolicy,
    /// Nothing is given up for its age before ([`super::Shard::hold_expiry`]).
    expiry_from: Timestamp,
    /// Between giving an event up and writing its dead letter.
    dead_letter_delay: Duration,
    pub(super) state: QueueState,
    /// Offsets never delivered yet, ascending.
    ready: VecDeque<Position>,
    cursor: Cursor,
    scanning: bool,
    /// Troubled events whose time has come, by offset: the oldest first.
    again: BTreeSet<u64>,
    in_flight: InFlight,
    endpoint: EndpointHealth,
    pacer: Pacer,
    receivers: BTreeMap<ReplyId, Receiver>,
    receiver_deadlines: BTreeSet<(Timestamp, ReplyId)>,
    /// Those of condemned events.
    letters: Letters,
    pub(super) census: Census,
    /// With so many events in trouble nothing new is started.
    pub(super) trouble_max: usize,
    /// So many were in trouble when the shard last counted them.
    pub(super) trouble_counted: usize,
    /// Where this queue stands in the shard's timers.
    pub(super) timer: Timestamp,
}

impl Queue {
    /// `state` is fresh or recovered; `tail` is the end of the topic as the shard knows it.
    pub(super) fn new(
        input: SubscribeInput,
        state: QueueState,
        tail: u64,
        expiry_from: Timestamp,
        dead_letter_delay: Duration,
    ) -> Self {
        let cursor = if state.floor >= tail { Cursor::Tail } else { Cursor::Behind(state.floor) };
        let mut letters = Letters::default();
        for trouble in state.trouble.values() {
            if let Some((since, _)) = trouble.condemned {
                letters.push(since + dead_letter_delay, trouble.held.offset.0, 0);
            }
        }
        let mut queue = Self {
            endpoint: attempts::trusted(&input.policy),
            letters,
            census: Census::default(),
            number: input.number,
            topic: input.topic,
            slot: input.slot,
            pacer: Pacer::new(input.policy.pacing.pace),
            policy: input.policy,
            expiry_from,
            dead_letter_delay,
            state,
            ready: VecDeque::new(),
            cursor,
            scanning: false,
            again: BTreeSet::new(),
            in_flight: InFlight::default(),
            receivers: BTreeMap::new(),
            receiver_deadlines: BTreeSet::new(),
            trouble_max: limits::TROUBLE_MAX,
            trouble_counted: 0,
            timer: Timestamp::MAX,
        };
        queue.count_anew(tail);
        queue
    }

    /// Every matching offset below is settled or held. `tail` is the end of the topic.
    fn cursor(&self, tail: u64) -> u64 {
        match self.cursor {
            Cursor::Tail => tail,
            Cursor::Behind(from) => from,
        }
    }

    /// Every matching offset below is settled. `tail` is the end of the topic.
    pub(super) fn floor(&self, tail: u64) -> u64 {
        [
            self.ready.front().map(|position| position.offset.0),
            self.in_flight.first(),
            self.state.leases.keys().next().copied(),
            self.state.trouble.keys().next().copied(),
        ]
        .into_iter()
        .flatten()
        .fold(self.cursor(tail), u64::min)
        .max(self.state.floor)
    }

    /// Events that wait, are locked, in flight or in trouble, as far as they are known without a scan.
    pub(super) fn held_in_memory(&self) -> usize {
        self.ready.len() + self.in_flight.len() + self.state.leases.len() + self.state.trouble.len()
    }

    /// All of them; as long as they are not counted, those that are known.
    pub(super) fn pending(&self) -> u64 {
        match self.census.matched() {
            Some(matched) => matched.saturating_sub(self.state.totals.ended()),
            None => self.held_in_memory() as u64,
        }
    }

    /// All that matched since the queue exists, once it is counted.
    pub(super) fn matched(&self) -> Option<u64> {
        self.census.matched()
    }

    pub(super) fn is_behind(&self) -> bool {
        self.cursor != Cursor::Tail
    }

    pub(super) fn configure(&mut self, policy: QueuePolicy, now: Timestamp, out: &mut Output) {
        let changed_mode = std::mem::discriminant(&self.policy.mode) != std::mem::discriminant(&policy.mode);
        if self.policy.pacing.pace != policy.pacing.pace {
            self.pacer.change(policy.pacing.pace, now);
        }
        self.policy = policy;
        // Whoever changes a subscription may have mended its endpoint, or chosen another.
        self.endpoint = attempts::trusted(&self.policy);
        if changed_mode {
            let locked: Vec<Lease> = self.state.leases.values().copied().collect();
            for lease in locked {
                self.give_back(lease.held, now, Return::Released, lease.attempt(), out);
            }
            for (reply, _) in std::mem::take(&mut self.receivers) {
                out.effects.push(Effect::Answer { reply, answer: Answer::Gone });
            }
            self.receiver_deadlines.clear();
        }
    }

    /// The subscription is removed: whoever waits is told.
    pub(super) fn end(&mut self, out: &mut Output) {
        for (reply, _) in std::mem::take(&mut self.receivers) {
            out.effects.push(Effect::Answer { reply, answer: Answer::Gone });
        }
    }

    /// How the endpoint of a push subscription is treated.
    pub(super) fn endpoint(&self) -> Option<EndpointStatus> {
        let pushes = matches!(self.policy.mode, DeliveryMode::Push { .. });
        pushes.then(|| self.endpoint.status(self.in_flight.requests()).under(self.policy.pacing))
    }

    /// Dead letters that wait for their destination or are being written.
    pub(super) fn letters(&self) -> usize {
        self.letters.len()
    }

    // ---- moving on --------------------------------------------------------------------------------

    /// Does everything that is due or possible now; called after every input that touched the queue.
    pub(super) fn pump(
        &mut self,
        tail: u64,
        now: Timestamp,
        seed: &mut dyn FnMut() -> u64,
        out: &mut Output,
    ) {
        self.endpoint.wake(now);
        self.expire_locks(tail, now, out);
        while let Some(&(due, offset)) = self.state.due.first() {
            if due > now {
                break;
            }
            self.state.due.pop_first();
            self.again.insert(offset);
        }
        self.expire_events(tail, now, out);
        match self.policy.mode {
            DeliveryMode::Pull { lock } => self.serve_receivers(lock, tail, now, seed, out),
            DeliveryMode::Push { .. } => self.start_attempts(tail, now, out),
        }
        self.write_dead_letters(now, out);
        self.scan_if_low(out);
        self.count_on(tail, out);
    }

    /// When the queue must be looked at again if nothing else happens.
    pub(super) fn next_due(&self) -> Timestamp {
        let receiver = self.receiver_deadlines.first().map(|&(deadline, _)| deadline);
        // The end of a rest is noticed also when nobody waits for it.
        let rest = self.endpoint.rest().map(|rest| rest.until);
        [receiver, rest].into_iter().flatten().fold(self.events_due(), Timestamp::min)
    }

    /// The same for the events alone.
    fn events_due(&self) -> Timestamp {
        let oldest_again = self.again.first().and_then(|offset| self.state.trouble.get(offset));
        let deadline = self.state.deadlines.first().filter(|_| !planted("lock-never-expires"));
        [
            deadline.map(|&(deadline, _)| deadline),
            self.state.due.first().map(|&(due, _)| due),
            oldest_again.map(|trouble| self.end_of(&trouble.held)),
            self.ready.front().filter(|_| self.may_condemn()).map(|position| self.end_at(position.time)),
            self.letters.next_due(),
            self.endpoint
                .rest()
                .filter(|_| !self.again.is_empty() || !self.ready.is_empty())
                .map(|rest| rest.until),
            self.pace_due(),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(Timestamp::MAX)
    }

    /// When the pace lets the next attempt start, if one waits for that.
    fn pace_due(&self) -> Option<Timestamp> {
        let pushes = matches!(self.policy.mode, DeliveryMode::Push { .. });
        let paced = pushes && matches!(self.policy.pacing.pace, Pace::PerMinute(_));
        let waits = paced && self.has_room() && self.peek_next().is_some();
        waits.then(|| self.pacer.ready_at())
    }

    fn expire_locks(&mut self, tail: u64, now: Timestamp, out: &mut Output) {
        while let Some(&(deadline, offset)) = self.state.deadlines.first() {
            if deadline > now || planted("lock-never-expires") {
                break;
            }
            let lease = self.state.leases[&offset];
            let (held, last) = (lease.held, lease.attempt());
            if held.attempts >= self.policy.attempts_max {
                self.give_up(held, DeadLetterReason::MaxDeliveryAttempts, last, tail, now, out);
            } else {
                self.give_back(held, now, Return::LockExpired, last, out);
            }
        }
    }

    /// Whether one more event that was never delivered may begin to wait for its dead letter. While a destination
    /// is down the rest of an expired backlog stays a cursor, and its segments stay.
    fn may_condemn(&self) -> bool {
        self.policy.dead_letter.is_none() || self.state.trouble.len() < self.trouble_max
    }

    /// Gives up what has outlived its time to live, the oldest first. Times never decrease with offsets.
    fn expire_events(&mut self, tail: u64, now: Timestamp, out: &mut Output) {
        while let Some(&offset) = self.again.first() {
            let trouble = self.state.trouble[&offset];
            if self.end_of(&trouble.held) > now {
                break;
            }
            self.give_up(trouble.held, DeadLetterReason::TimeToLive, trouble.last, tail, now, out);
        }
        while let Some(&position) = self.ready.front() {
            if self.end_at(position.time) > now || !self.may_condemn() {
                break;
            }
            // First popped, so that the recorded floor may pass it only with the decision that settles it.
            let held = position.held(0);
            let floor = self.floor(tail);
            self.ready.pop_front();
            let last = LastAttempt::default();
            self.give_up_at(held, DeadLetterReason::TimeToLive, last, floor, now, out);
        }
    }

    fn serve_receivers(
        &mut self,
        lock: Duration,
        tail: u64,
        now: Timestamp,
        seed: &mut dyn FnMut() -> u64,
        out: &mut Output,
    ) {
        while let Some((&reply, &receiver)) = self.receivers.first_key_value() {
            let events = self.take_for_lease(receiver.max, tail, now, out);
            if events.is_empty() {
                break;
            }
            self.cancel_receive(reply);
            let seed = seed();
            let leased = events
                .iter()
                .map(|held| LeasedEvent {
                    offset: held.offset,
                    delivery: held.attempts,
                    nonce: nonce(seed, held.offset),
                })
                .collect();
            let decision = Decision::Leased {
                subscription: self.number,
                seed,
                granted: now,
                deadline: now + lock,
                events,
            };
            self.record(decision, out);
            out.effects.push(Effect::Answer { reply, answer: Answer::Received(leased) });
        }
        while let Some(&(deadline, reply)) = self.receiver_deadlines.first() {
            if deadline > now {
                break;
            }
            self.cancel_receive(reply);
            out.effects.push(Effect::Answer { reply, answer: Answer::Received(Vec::new()) });
        }
    }

    /// The next events for one receiver, within the bounds of an answer.
    fn take_for_lease(&mut self, max: u32, tail: u64, now: Timestamp, out: &mut Output) -> Vec<Held> {
        let mut events: Vec<Held> = Vec::new();
        let mut bytes = 0u64;
        while events.len() < max as usize && self.state.leases.len() + events.len() < limits::LEASES_MAX {
            let next = self.peek_next();
            let Some(held) = next else { break };
            if !events.is_empty() && bytes + u64::from(held.size) > limits::RECEIVE_ANSWER_BYTES_MAX {
                break;
            }
            self.take_next();
            if held.attempts > self.policy.attempts_max {
                self.give_up_undelivered(held, tail, now, out);
                continue;
            }
            bytes += u64::from(held.size);
            events.push(held);
        }
        events
    }

    /// What would be delivered next, already counted as its next delivery: first what comes back.
    fn peek_next(&self) -> Option<Held> {
        if let Some(offset) = self.again.first() {
            let held = self.state.trouble[offset].held;
            return Some(Held { attempts: held.attempts + 1, ..held });
        }
        // New events wait while too many are in trouble; the rest of the backlog stays a cursor.
        if self.state.trouble.len() >= self.trouble_max {
            return None;
        }
        self.ready.front().map(|position| position.held(1))
    }

    /// What is known of the last delivery of an event that comes back.
    fn last_attempt(&self, offset: u64) -> LastAttempt {
        self.state.trouble.get(&offset).map(|trouble| trouble.last).unwrap_or_default()
    }

    fn take_next(&mut self) {
        // A troubled event stays in the trouble map until a decision moves it.
        if self.again.pop_first().is_none() {
            self.ready.pop_front();
        }
    }

    fn write_dead_letters(&mut self, now: Timestamp, out: &mut Output) {
        while let Some(offset) = self.letters.start(now) {
            let condemned = self.state.trouble.get(&offset);
            let Some((trouble, (_, reason))) =
                condemned.and_then(|trouble| Some((trouble, trouble.condemned?)))
            else {
                self.letters.finish(offset);
                continue;
            };
            out.effects.push(Effect::DeadLetter {
                subscription: self.number,
                topic: self.topic,
                offset: Offset(offset),
                attempts: trouble.held.attempts,
                reason,
                last: trouble.last,
            });
        }
    }

    /// Positions that are held ready: at least one batch, if there are any.
    fn window(&self) -> usize {
        let batch = self.policy.batching().map_or(0, |batching| batching.events_max as usize);
        limits::READY_MAX.max(batch)
    }

    fn scan_if_low(&mut self, out: &mut Output) {
        let Cursor::Behind(from) = self.cursor else { return };
        let window = self.window();
        if self.scanning || self.ready.len() > window / 2 {
            return;
        }
        self.scanning = true;
        out.effects.push(Effect::Scan {
            subscription: self.number,
            topic: self.topic,
            slot: self.slot,
            from: Offset(from),
            max: window.saturating_sub(self.ready.len()),
        });
    }

    // ---- decisions --------------------------------------------------------------------------------

    /// The end of an event's life.
    fn end_of(&self, held: &Held) -> Timestamp {
        self.end_at(held.time)
    }

    /// When an event published at `time` has outlived its time to live.
    fn end_at(&self, time: Timestamp) -> Timestamp {
        (time + self.policy.time_to_live).max(self.expiry_from)
    }

    fn give_back(&mut self, held: Held, due: Timestamp, reason: Return, last: LastAttempt, out: &mut Output) {
        let decision = Decision::Returned { subscription: self.number, held, due, reason, last };
        self.record(decision, out);
    }

    fn give_up(
        &mut self,
        held: Held,
        reason: DeadLetterReason,
        last: LastAttempt,
        tail: u64,
        now: Timestamp,
        out: &mut Output,
    ) {
        let floor = self.floor(tail).min(held.offset.0);
        self.give_up_at(held, reason, last, floor, now, out);
    }

    /// Gives up what [`Queue::peek_next`] has counted as delivered once more: the policy was lowered since its last
    /// delivery, so that there will be no other.
    fn give_up_undelivered(&mut self, counted: Held, tail: u64, now: Timestamp, out: &mut Output) {
        let held = Held { attempts: counted.attempts.saturating_sub(1), ..counted };
        let last = self.last_attempt(held.offset.0);
        self.give_up(held, DeadLetterReason::MaxDeliveryAttempts, last, tail, now, out);
    }

    fn give_up_at(
        &mut self,
        held: Held,
        reason: DeadLetterReason,
        last: LastAttempt,
        floor: u64,
        now: Timestamp,
        out: &mut Output,
    ) {
        self.again.remove(&held.offset.0);
        let subscription = self.number;
        if self.policy.dead_letter.is_some() && planted("dead-letter-after-record") {
            let (how, offset, attempts) = (Settlement::DeadLettered, held.offset, held.attempts);
            let (floor, topic) = (Offset(floor), self.topic);
            self.record(Decision::Settled { subscription, how, floor, offsets: vec![offset] }, out);
            out.effects.push(Effect::DeadLetter { subscription, topic, offset, attempts, reason, last });
        } else if self.policy.dead_letter.is_some() {
            // What has waited behind too much trouble, or for us to be started, has waited since its life ended.
            let since = match reason {
                DeadLetterReason::TimeToLive => self.end_of(&held).min(now),
                _ => now,
            };
            self.record(Decision::Condemned { subscription, held, since, reason, last }, out);
            // From `since` on, as after a restart: what waited long enough already does not fill the queue any longer.
            self.letters.push((since + self.dead_letter_delay).max(now), held.offset.0, 0);
        } else {
            let how = Settlement::Dropped(reason);
            let floor = Offset(floor);
            self.record(Decision::Settled { subscription, how, floor, offsets: vec![held.offset] }, out);
        }
    }

    fn settled_one(&mut self, how: Settlement, offset: Offset, tail: u64, out: &mut Output) {
        let floor = Offset(self.floor(tail).min(offset.0));
        self.again.remove(&offset.0);
        self.record(Decision::Settled { subscription: self.number, how, floor, offsets: vec![offset] }, out);
    }

    /// The only way a decision is made: applied here, written by the driver before any effect leaves.
    fn record(&mut self, decision: Decision, out: &mut Output) {
        self.state.apply(&decision);
        out.record(decision);
    }
}
