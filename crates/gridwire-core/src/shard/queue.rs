//! One subscription's queue: its recorded state, and what can be worked out again from the log.
//!
//! A queue is a cursor over its topic's log. Offsets come to it in log order, at the tail from each new
//! frame, behind it by scans that the driver answers, and wait in a short `ready` window. From there each is
//! delivered: locked for a receiver, or posted. What is released or failed waits in the trouble map until it
//! is due; what is given up waits there until its dead letter is written. Every recorded change goes through
//! [`QueueState::apply`] and no other way.

mod attempts;
pub(super) mod outlook;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use super::decision::{DeadLetterReason, Decision, Held, LastAttempt, Return, Settlement};
use super::letters::Letters;
use super::state::{Lease, QueueState, nonce};
use super::{Answer, Effect, LeasedEvent, Output, Position, ReplyId, SettleVerb, SubscribeInput, TokenError};
use crate::endpoint::{EndpointHealth, EndpointStatus};
use crate::ids::{Offset, Slot, SubscriptionNumber, TopicNumber};
use crate::limits;
use crate::lock_token::LockToken;
use crate::pace::{Pace, Pacer};
use crate::patience::{AfterFailure, DeadLetterPolicy};
use crate::planted::planted;
use crate::retry::{Outcome, Verdict};
use crate::routing::{DeliveryMode, QueuePolicy};
use crate::time::Timestamp;
use attempts::InFlight;

/// How long an event whose bytes could not be read waits before it is tried again.
const READ_RETRY: Duration = Duration::from_secs(10);

/// How a push attempt ended; `id` is the one it was started with, `jitter` is in `0.0..1.0`.
#[derive(Clone, Copy, Debug)]
pub(super) struct FinishedAttempt {
    pub(super) offset: Offset,
    pub(super) id: u64,
    pub(super) outcome: Outcome,
    pub(super) jitter: f64,
}

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
        Self {
            endpoint: attempts::trusted(&input.policy),
            letters,
            number: input.number,
            topic: input.topic,
            slot: input.slot,
            pacer: Pacer::new(input.policy.pace),
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
            timer: Timestamp::MAX,
        }
    }

    /// Every matching offset below is settled. `tail` is the end of the topic.
    pub(super) fn floor(&self, tail: u64) -> u64 {
        let cursor = match self.cursor {
            Cursor::Tail => tail,
            Cursor::Behind(from) => from,
        };
        [
            self.ready.front().map(|position| position.offset.0),
            self.in_flight.first(),
            self.state.leases.keys().next().copied(),
            self.state.trouble.keys().next().copied(),
        ]
        .into_iter()
        .flatten()
        .fold(cursor, u64::min)
        .max(self.state.floor)
    }

    /// Events that wait, are locked, in flight or in trouble, as far as they are known without a scan.
    pub(super) fn pending(&self) -> usize {
        self.ready.len() + self.in_flight.len() + self.state.leases.len() + self.state.trouble.len()
    }

    pub(super) fn is_behind(&self) -> bool {
        self.cursor != Cursor::Tail
    }

    pub(super) fn configure(&mut self, policy: QueuePolicy, now: Timestamp, out: &mut Output) {
        let changed_mode = std::mem::discriminant(&self.policy.mode) != std::mem::discriminant(&policy.mode);
        if self.policy.pace != policy.pace {
            self.pacer.change(policy.pace, now);
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

    // ---- new events -------------------------------------------------------------------------------

    /// A new event of the topic matched. Ignored while behind: a scan will find it.
    pub(super) fn offer(&mut self, position: Position) {
        if self.cursor != Cursor::Tail {
            return;
        }
        if self.ready.len() >= self.window() {
            self.cursor = Cursor::Behind(position.offset.0);
            return;
        }
        self.ready.push_back(position);
    }

    /// Frames from `from` on were not shown: they are scanned for.
    pub(super) fn fall_behind(&mut self, from: u64) {
        if self.cursor == Cursor::Tail {
            self.cursor = Cursor::Behind(from);
        }
    }

    /// The driver's answer to [`Effect::Scan`]: everything that matched in `from..next`, and what is `lost`
    /// there. What is lost may have matched, so it is settled as dropped: rather a drop too many on the books
    /// than one that nobody hears of.
    pub(super) fn scanned(
        &mut self,
        from: u64,
        matches: &[Position],
        lost: &[Range<u64>],
        next: u64,
        tail: u64,
        out: &mut Output,
    ) {
        self.scanning = false;
        if self.cursor != Cursor::Behind(from) {
            return; // Reset meanwhile.
        }
        // What the shard has not seen as a frame yet will come as one.
        let next = next.min(tail);
        let new = matches.iter().filter(|position| position.offset.0 < next);
        self.ready.extend(new.filter(|position| !self.state.knows(position.offset.0)));
        self.cursor = if next >= tail { Cursor::Tail } else { Cursor::Behind(next) };
        let gone = lost.iter().flat_map(|range| range.start.max(from)..range.end.min(next));
        let gone: Vec<Offset> = gone.filter(|offset| !self.state.knows(*offset)).map(Offset).collect();
        if !gone.is_empty() {
            let floor = Offset(self.floor(tail));
            let (subscription, how) = (self.number, Settlement::Damaged);
            self.record(Decision::Settled { subscription, how, floor, offsets: gone }, out);
        }
    }

    /// The driver could not scan; it will be asked again.
    pub(super) fn scan_failed(&mut self) {
        self.scanning = false;
    }

    // ---- requests ---------------------------------------------------------------------------------

    pub(super) fn receive(&mut self, reply: ReplyId, max: u32, deadline: Timestamp, out: &mut Output) {
        if matches!(self.policy.mode, DeliveryMode::Push { .. }) {
            out.effects.push(Effect::Answer { reply, answer: Answer::NotPull });
        } else if self.receivers.len() >= limits::RECEIVERS_WAITING_MAX {
            out.effects.push(Effect::Answer { reply, answer: Answer::TooManyReceivers });
        } else {
            self.receivers.insert(reply, Receiver { max, deadline });
            self.receiver_deadlines.insert((deadline, reply));
        }
    }

    /// The client hung up before it was answered.
    pub(super) fn cancel_receive(&mut self, reply: ReplyId) {
        if let Some(receiver) = self.receivers.remove(&reply) {
            self.receiver_deadlines.remove(&(receiver.deadline, reply));
        }
    }

    /// Settles or renews by lock tokens; each token gets its own result.
    pub(super) fn settle(
        &mut self,
        reply: ReplyId,
        verb: SettleVerb,
        tokens: &[LockToken],
        tail: u64,
        now: Timestamp,
        out: &mut Output,
    ) {
        let DeliveryMode::Pull { lock } = self.policy.mode else {
            out.effects.push(Effect::Answer { reply, answer: Answer::NotPull });
            return;
        };
        let mut results = Vec::with_capacity(tokens.len());
        let mut together = Vec::new();
        for token in tokens {
            let lease = match self.holder(token, now) {
                // The same token twice in one request: the first use settles it.
                // Tokens usually come in the order they were handed out, so there is nothing to look through.
                Ok(_)
                    if verb != SettleVerb::RenewLock
                        && together.last().is_some_and(|last| token.offset <= *last)
                        && together.contains(&token.offset) =>
                {
                    results.push(Err(TokenError::Lost));
                    continue;
                }
                Ok(lease) => lease,
                Err(error) => {
                    results.push(Err(error));
                    continue;
                }
            };
            let (held, last) = (lease.held, lease.attempt());
            match verb {
                SettleVerb::Acknowledge => together.push(token.offset),
                SettleVerb::RenewLock => {
                    if now > lease.first_granted + limits::LOCK_RENEWAL_WINDOW {
                        results.push(Err(TokenError::RenewedTooLong));
                        continue;
                    }
                    together.push(token.offset);
                }
                SettleVerb::Release { delay } => {
                    if held.attempts >= self.policy.attempts_max {
                        self.give_up(held, DeadLetterReason::MaxDeliveryAttempts, last, tail, now, out);
                    } else {
                        let due = crate::retry::next_look(now, delay, self.end_of(&held));
                        self.give_back(held, due, Return::Released, last, out);
                    }
                }
                SettleVerb::Reject => self.give_up(held, DeadLetterReason::Rejected, last, tail, now, out),
            }
            results.push(Ok(()));
        }
        if !together.is_empty() {
            together.sort_unstable();
            together.dedup();
            let subscription = self.number;
            let decision = if verb == SettleVerb::RenewLock {
                Decision::Renewed { subscription, deadline: now + lock, offsets: together }
            } else {
                let floor = Offset(self.floor(tail));
                Decision::Settled { subscription, how: Settlement::Delivered, floor, offsets: together }
            };
            self.record(decision, out);
        }
        out.effects.push(Effect::Answer { reply, answer: Answer::Settled(results) });
    }

    /// The current lease that `token` belongs to.
    fn holder(&self, token: &LockToken, now: Timestamp) -> Result<Lease, TokenError> {
        let lease = self.state.leases.get(&token.offset.0).ok_or(TokenError::Lost)?;
        let current = lease.nonce == token.nonce && lease.held.attempts == token.delivery
            || planted("any-holder-settles");
        if current && now < lease.deadline { Ok(*lease) } else { Err(TokenError::Lost) }
    }

    // ---- push outcomes and dead letters -----------------------------------------------------------

    pub(super) fn attempted(
        &mut self,
        attempt: FinishedAttempt,
        tail: u64,
        now: Timestamp,
        out: &mut Output,
    ) {
        let FinishedAttempt { offset, id, outcome, jitter } = attempt;
        // Otherwise it is from before a reset.
        let Some((held, ends_request)) = self.in_flight.end(offset.0, id) else { return };
        if ends_request {
            self.endpoint.ended(id, self.in_flight.last_id(), outcome, now);
        }
        let last = LastAttempt::ended(outcome, now);
        let verdict = match self.policy.mode {
            DeliveryMode::Push { retry, .. } => retry.after(outcome, held.attempts, jitter),
            // The subscription became a pull subscription while the attempt was in flight.
            DeliveryMode::Pull { .. } if outcome == Outcome::Accepted => Verdict::Delivered,
            DeliveryMode::Pull { .. } => Verdict::RetryAfter(Duration::ZERO),
        };
        match verdict {
            Verdict::RetryAfter(_) if planted("failure-counts-as-delivered") && held.attempts > 2 => {
                self.settled_one(Settlement::Delivered, offset, tail, out);
            }
            Verdict::Delivered => self.settled_one(Settlement::Delivered, offset, tail, out),
            Verdict::Undeliverable => {
                self.give_up(held, DeadLetterReason::Undeliverable, last, tail, now, out);
            }
            Verdict::RetryAfter(_) if held.attempts >= self.policy.attempts_max => {
                self.give_up(held, DeadLetterReason::MaxDeliveryAttempts, last, tail, now, out);
            }
            Verdict::RetryAfter(wait) => {
                let due = crate::retry::next_look(now, wait, self.end_of(&held));
                self.give_back(held, due, Return::Failed, last, out);
            }
        }
    }

    /// The event's bytes are not to be had: it can't be delivered any more. Ignored when whoever wanted them
    /// no longer holds the event.
    pub(super) fn unreadable(&mut self, offset: Offset, id: Option<u64>, tail: u64, out: &mut Output) {
        let held = match id {
            None => self.letters.finish(offset.0).is_some(),
            Some(id) => {
                let leased = self.state.leases.get(&offset.0).is_some_and(|lease| lease.nonce == id);
                self.in_flight.end(offset.0, id).is_some() || leased
            }
        };
        if held {
            self.settled_one(Settlement::Damaged, offset, tail, out);
        }
    }

    /// The event's bytes could not be read just now. That is no delivery and nobody's failure: it is tried
    /// again and counts for nothing, however often it happens.
    pub(super) fn unread(&mut self, offset: Offset, id: Option<u64>, now: Timestamp, out: &mut Output) {
        let Some(id) = id else {
            if let Some(failures) = self.letters.finish(offset.0) {
                self.letters.push(now + READ_RETRY, offset.0, failures);
            }
            return;
        };
        let in_flight = self.in_flight.end(offset.0, id).map(|(held, _)| held);
        let leased = self.state.leases.get(&offset.0).filter(|lease| lease.nonce == id).copied();
        let Some(held) = in_flight.or(leased.map(|lease| lease.held)) else { return };
        let due = crate::retry::next_look(now, READ_RETRY, self.end_of(&held));
        let held = Held { attempts: held.attempts.saturating_sub(1), ..held };
        let last = match leased {
            // A lease does not remember the delivery before it; this is when the next was tried.
            Some(lease) if held.attempts > 0 => lease.attempt(),
            _ => self.last_attempt(offset.0),
        };
        self.give_back(held, due, Return::Released, last, out);
    }

    /// The event had no place in the request that it was meant for: it is the next one's, and counts for nothing.
    pub(super) fn not_sent(&mut self, offset: Offset, id: u64, now: Timestamp, out: &mut Output) {
        let Some((held, _)) = self.in_flight.end(offset.0, id) else { return };
        let held = Held { attempts: held.attempts.saturating_sub(1), ..held };
        let last = self.last_attempt(offset.0);
        self.give_back(held, now, Return::Released, last, out);
    }

    pub(super) fn dead_letter_written(&mut self, offset: Offset, tail: u64, out: &mut Output) {
        if self.letters.finish(offset.0).is_some() {
            self.settled_one(Settlement::DeadLettered, offset, tail, out);
        }
    }

    pub(super) fn dead_letter_failed(&mut self, offset: Offset, tail: u64, now: Timestamp, out: &mut Output) {
        let Some(failures) = self.letters.finish(offset.0) else { return };
        let Some(trouble) = self.state.trouble.get(&offset.0) else { return };
        let since = trouble.condemned.map_or(now, |(since, _)| since);
        // A destination that was taken away since counts as down.
        let policy =
            self.policy.dead_letter.unwrap_or_else(|| DeadLetterPolicy::documented(self.policy.tier()));
        match policy.after_failure(failures + 1, since, self.expiry_from, now) {
            AfterFailure::TryAt(due) => self.letters.push(due, offset.0, failures + 1),
            AfterFailure::Drop => self.settled_one(Settlement::DeadLetterFailed, offset, tail, out),
        }
    }

    /// How the endpoint of a push subscription is treated.
    pub(super) fn endpoint(&self) -> Option<EndpointStatus> {
        let pushes = matches!(self.policy.mode, DeliveryMode::Push { .. });
        pushes.then(|| self.endpoint.status(self.in_flight.requests()))
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
        let paced = pushes && matches!(self.policy.pace, Pace::PerMinute(_));
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
        self.policy.dead_letter.is_none() || self.state.trouble.len() < limits::TROUBLE_MAX
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
        if self.state.trouble.len() >= limits::TROUBLE_MAX {
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
