//! The loop around one shard: take inputs, let the shard decide, record, then let the effects out.
//!
//! It decides nothing. Inputs that come while a group is being recorded form the next one, so a busy shard
//! writes few, large groups. **No answer and no attempt leaves before the decisions made with it are
//! recorded.** When recording fails the log has failed, and the process ends with it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use gridwire_core::ids::{Offset, ShardId, StateSeq, SubscriptionNumber};
use gridwire_core::lock_token::LockToken;
use gridwire_core::pace::Pace;
use gridwire_core::planted::planted;
use gridwire_core::retry::Outcome;
use gridwire_core::routing::SubscriptionRoute;
use gridwire_core::shard::{
    Answer, DeadLetterReason, Decision, Effect, Input, LeasedEvent, Output, ReplyId, SettleVerb, Settlement,
    Shard,
};
use gridwire_core::time::Timestamp;
use gridwire_store::{AppendError, Frame, SnapshotPart};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinSet};
use tokio_util::sync::CancellationToken;

use super::command::{Command, OutlookAsked, ReceiveReply, SettleReply};
use super::work::{Awaited, CountAsked, Done, Letter, Outside};
use crate::push::{AttemptKey, Finished, Report};

/// Inputs taken into one group at most, so that answers do not wait for an endless group.
const GROUP_INPUTS_MAX: usize = 256;
/// Bytes of one recorded group, about; far below what a state log takes at once.
const GROUP_BYTES_MAX: usize = 1 << 20;
/// Finished attempts waiting for the shard. At least what all endpoints' connections can finish at once;
/// beyond it their workers wait, which only slows them.
const REPORTS_MAX: usize = 4_096;

/// Who waits for an answer.
enum Waiter {
    Receive { subscription: SubscriptionNumber, reply: oneshot::Sender<ReceiveReply> },
    Settle(oneshot::Sender<SettleReply>),
}

pub(super) struct Driver {
    id: ShardId,
    shard: Shard,
    outside: Arc<Outside>,
    /// The newest group of any shard; see [`Driver::snapshot`].
    newest: Arc<AtomicU64>,
    last: StateSeq,
    commands: mpsc::Receiver<Command>,
    frames: mpsc::Receiver<Vec<Frame>>,
    reports: mpsc::Receiver<Report>,
    /// Given to each attempt; `None` once nothing new is started.
    reports_sender: Option<mpsc::Sender<Report>>,
    /// Reads and dead letters under way.
    work: JoinSet<Done>,
    /// Those of them that a queue waits for, so that it is told when one of them panics.
    awaited: HashMap<task::Id, Awaited>,
    routes: HashMap<SubscriptionNumber, Arc<SubscriptionRoute>>,
    /// In order of arrival, in which they are also let go.
    waiters: BTreeMap<ReplyId, Waiter>,
    /// Told once the group is recorded.
    acknowledgements: Vec<oneshot::Sender<()>>,
    /// Given their entries once the group is recorded.
    snapshots: Vec<oneshot::Sender<Vec<SnapshotPart>>>,
    /// Answered when their time has come, after a group is recorded. Their askers are few, and wait.
    outlooks: Vec<OutlookAsked>,
    /// Scans for counts only, one at a time: nobody waits for them, and there may be one for each subscription.
    counts: VecDeque<CountAsked>,
    counting: Option<task::Id>,
    /// Begins the next group, see [`Driver::gather`].
    postponed: Option<Command>,
    out: Output,
}

impl Driver {
    pub(super) fn new(
        id: ShardId,
        shard: Shard,
        outside: Arc<Outside>,
        newest: Arc<AtomicU64>,
        last: StateSeq,
        commands: mpsc::Receiver<Command>,
        frames: mpsc::Receiver<Vec<Frame>>,
    ) -> Self {
        let (reports_sender, reports) = mpsc::channel(REPORTS_MAX);
        Self {
            id,
            shard,
            outside,
            newest,
            last,
            commands,
            frames,
            reports,
            reports_sender: Some(reports_sender),
            work: JoinSet::new(),
            awaited: HashMap::new(),
            routes: HashMap::new(),
            waiters: BTreeMap::new(),
            acknowledgements: Vec::new(),
            snapshots: Vec::new(),
            outlooks: Vec::new(),
            counts: VecDeque::new(),
            counting: None,
            postponed: None,
            out: Output::default(),
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let clock = Arc::clone(&self.outside.clock);
        loop {
            let due = self.shard.next_due();
            if let Some(command) = self.postponed.take() {
                self.command(command);
            } else {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return self.drain().await,
                    Some(report) = self.reports.recv() => self.reported(&report),
                    Some(command) = self.commands.recv() => self.command(command),
                    Some(done) = self.work.join_next_with_id(), if !self.work.is_empty() => self.worked(done),
                    Some(frames) = self.frames.recv() => self.frames(&frames),
                    () = clock.sleep_until(due), if due != Timestamp::MAX => self.input(Input::Tick),
                }
            }
            // Whoever is about to send something does so now: a larger group costs one record all the same.
            tokio::task::yield_now().await;
            self.gather();
            if planted("answer-before-record") {
                self.let_out();
            }
            loop {
                if self.record().await.is_err() {
                    // Nothing of this group may leave. The log reports its failure, and the process ends.
                    return;
                }
                self.let_out();
                // What nobody took was released, and somebody else may be waiting for it.
                if self.out.is_empty() {
                    break;
                }
            }
            self.answer_outlooks();
        }
    }

    /// Stopping: nothing new is started, and attempts in flight are waited for, so that a clean stop repeats
    /// none of them. The dispatcher bounds how long that can take. Requests that still wait are let go; their
    /// clients are told that the server is stopping.
    async fn drain(mut self) {
        self.reports_sender = None;
        self.work.abort_all();
        while self.work.join_next().await.is_some() {}
        self.waiters.clear();
        while let Some(report) = self.reports.recv().await {
            self.reported(&report);
            while let Ok(report) = self.reports.try_recv() {
                self.reported(&report);
            }
            if self.record().await.is_err() {
                return;
            }
            self.out.effects.clear();
        }
    }

    /// Takes what else is there already, so that one record serves it all. Every source gets its turn.
    fn gather(&mut self) {
        let mut inputs = 0;
        while inputs < GROUP_INPUTS_MAX {
            inputs += 1;
            let mut idle = true;
            if let Ok(report) = self.reports.try_recv() {
                // Each event of a batch is an input.
                inputs += report.key().offsets.len().saturating_sub(1);
                self.reported(&report);
                idle = false;
            }
            if self.postponed.is_none()
                && let Ok(command) = self.commands.try_recv()
            {
                // What this group has decided to send goes where its subscription pointed when that was decided.
                if matches!(command, Command::Subscribe { .. }) && !self.out.effects.is_empty() {
                    self.postponed = Some(command);
                } else {
                    self.command(command);
                }
                idle = false;
            }
            if let Some(done) = self.work.try_join_next_with_id() {
                self.worked(done);
                idle = false;
            }
            if idle {
                break;
            }
        }
        if let Ok(frames) = self.frames.try_recv() {
            self.frames(&frames);
        }
        if self.shard.next_due() <= self.outside.clock.now() {
            self.input(Input::Tick);
        }
    }

    fn input(&mut self, input: Input<'_>) {
        let rng = Arc::clone(&self.outside.rng);
        self.shard.handle(input, self.outside.clock.now(), &mut || rng.next_u64(), &mut self.out);
    }

    fn frames(&mut self, frames: &[Frame]) {
        let rng = Arc::clone(&self.outside.rng);
        let now = self.outside.clock.now();
        for frame in frames {
            self.shard.frame(&frame.view(), now, &mut || rng.next_u64(), &mut self.out);
        }
    }

    fn reported(&mut self, report: &Report) {
        match report {
            Report::Finished(finished) => self.attempted(finished),
            Report::Recalled(key) => {
                for &offset in &*key.offsets {
                    self.input(Input::NotSent { subscription: key.subscription, offset, id: key.id });
                }
            }
        }
    }

    fn attempted(&mut self, finished: &Finished) {
        let key = &finished.key;
        self.outside.note_attempt(finished);
        // One for all that shared the request, so that they can share the next.
        let jitter = match finished.outcome {
            // Nothing is put off.
            Outcome::Accepted => 0.0,
            // 53 random bits make a fraction in 0.0..1.0.
            _ => (self.outside.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * self.outside.retry_jitter,
        };
        for (place, &offset) in key.offsets.iter().enumerate() {
            let in_part = planted("batch-retried-in-part") && place > 0;
            let outcome = if in_part { Outcome::Accepted } else { finished.outcome };
            self.input(Input::Attempted {
                subscription: key.subscription,
                offset,
                id: key.id,
                outcome,
                jitter,
            });
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Subscribe { input, route, done } => {
                // Before this is answered, so that nothing leaves that was handed over earlier.
                let paused = route.policy.pacing.pace == Pace::Paused;
                self.outside.dispatcher.set_paused(input.number, paused);
                self.routes.insert(input.number, route);
                self.input(Input::Subscribe(input));
                self.acknowledgements.push(done);
            }
            Command::Unsubscribe { subscription, done } => {
                self.routes.remove(&subscription);
                self.outside.dispatcher.forget(subscription);
                self.outside.missed.forget(subscription);
                self.input(Input::Unsubscribe { subscription });
                self.acknowledgements.push(done);
            }
            Command::Receive { subscription, id, max, deadline, reply } => {
                self.waiters.insert(id, Waiter::Receive { subscription, reply });
                self.input(Input::Receive { subscription, reply: id, max, deadline });
            }
            Command::CancelReceive { subscription, id } => {
                if self.waiters.remove(&id).is_some() {
                    self.input(Input::CancelReceive { subscription, reply: id });
                }
            }
            Command::Settle { subscription, id, verb, tokens, reply } => {
                self.waiters.insert(id, Waiter::Settle(reply));
                self.input(Input::Settle { subscription, reply: id, verb, tokens: &tokens });
            }
            Command::Unreadable { subscription, offset, nonce } => {
                self.input(Input::Unreadable { subscription, offset, id: Some(nonce) });
            }
            Command::Unread { subscription, offset, nonce } => {
                self.input(Input::Unread { subscription, offset, id: Some(nonce) });
            }
            Command::Status { reply } => {
                // Nobody waiting any more is fine.
                let _ = reply.send(self.shard.status());
            }
            Command::StatusOf { subscription, reply } => {
                let _ = reply.send(self.shard.status_of(subscription));
            }
            Command::Snapshot { reply } => self.snapshots.push(reply),
            Command::Outlook(asked) => self.outlooks.push(asked),
            Command::Books { subscription, reply } => {
                let _ = reply.send(self.shard.books(subscription));
            }
        }
    }

    /// Answers whoever asked what is left and need not wait for it any longer.
    fn answer_outlooks(&mut self) {
        if self.outlooks.is_empty() {
            return;
        }
        let now = self.outside.clock.now();
        for asked in std::mem::take(&mut self.outlooks) {
            let end_of = |topic| asked.ends.get(&topic).copied();
            if asked.reply.is_closed() {
                continue;
            }
            if asked.when_still && self.shard.moves(now, end_of) {
                self.outlooks.push(asked);
                continue;
            }
            // Nobody waiting any more is fine.
            let _ = asked.reply.send(self.shard.outlook(now, end_of));
        }
    }

    /// Every queue's entry; only while every decision made is recorded. `at` is the newest group of *any*
    /// shard, since none up to it can change these queues any more: this shard's own are all applied, and no
    /// other shard touches them.
    fn snapshot(&mut self) -> Vec<SnapshotPart> {
        self.shard.release(|topic| self.outside.log.start(topic));
        let at = StateSeq(self.newest.load(Ordering::Acquire));

        let part = |subscription| {
            let state = self.shard.snapshot(subscription)?;
            Some(SnapshotPart { subscription, at, state })
        };
        self.shard.subscriptions().filter_map(part).collect()
    }

    fn worked(&mut self, done: Result<(task::Id, Done), task::JoinError>) {
        let id = done.as_ref().map_or_else(task::JoinError::id, |(id, _)| *id);
        let awaited = self.awaited.remove(&id);
        if self.counting == Some(id) {
            self.counting = None;
        }
        let Ok((_, done)) = done else {
            // A panic is a bug, and ends only this piece of work: a queue that waits for it tries again.
            if let Some(awaited) = awaited {
                self.work.spawn(Outside::after_panic(Arc::clone(&self.outside), awaited));
            }
            return;
        };
        match done {
            Done::Nothing => {}
            Done::Scanned { subscription, from, positions, lost, next } => {
                self.input(Input::Scanned { subscription, from, matches: &positions, lost: &lost, next });
            }
            Done::ScanFailed { subscription } => self.input(Input::ScanFailed { subscription }),
            Done::Counted { subscription, from, positions, next, start } => {
                self.input(Input::Counted { subscription, from, matches: &positions, next, start });
            }
            Done::CountFailed { subscription } => self.input(Input::CountFailed { subscription }),
            Done::Unstarted { subscription, gone, unread, not_sent } => {
                for Attempting { offset, id, .. } in not_sent {
                    self.input(Input::NotSent { subscription, offset, id });
                }
                for Attempting { offset, id, .. } in gone {
                    self.input(Input::Unreadable { subscription, offset, id: Some(id) });
                }
                for Attempting { offset, id, .. } in unread {
                    self.input(Input::Unread { subscription, offset, id: Some(id) });
                }
            }
            Done::LetterUnread { subscription, offset } => {
                self.input(Input::Unread { subscription, offset, id: None });
            }
            Done::LetterGone { subscription, offset } => {
                self.input(Input::Unreadable { subscription, offset, id: None });
            }
            Done::DeadLetter { subscription, offset, written: true } => {
                self.outside.note_ends(subscription, &[offset], "DeadLettered");
                self.input(Input::DeadLetterWritten { subscription, offset });
            }
            Done::DeadLetter { subscription, offset, written: false } => {
                self.input(Input::DeadLetterFailed { subscription, offset });
            }
            Done::AttemptsPanicked { subscription, attempts } => {
                self.attempts_panicked(subscription, &attempts);
            }
        }
    }

    /// They count as attempts that came to nothing, so that an event nobody can render ends as its policy says and is
    /// not tried for ever.
    fn attempts_panicked(&mut self, subscription: SubscriptionNumber, attempts: &[Attempting]) {
        for together in attempts.chunk_by(|left, right| left.id == right.id) {
            let Attempting { id, attempt, .. } = together[0];
            let offsets = together.iter().map(|attempt| attempt.offset).collect();
            let key = AttemptKey { subscription, offsets, id, attempt };
            self.attempted(&Finished::unsent(key, Outcome::Unreachable, None));
        }
    }

    async fn record(&mut self) -> Result<(), AppendError> {
        if self.out.decisions.is_empty() {
            return Ok(());
        }
        // Usually one group; a mass expiry is cut, since each decision stands for itself.
        let mut group = Vec::with_capacity(self.out.decisions.len() * 32);
        for decision in std::mem::take(&mut self.out.decisions) {
            self.tell_of_drops(&decision);
            decision.encode(&mut group);
            if group.len() >= GROUP_BYTES_MAX {
                self.append(std::mem::take(&mut group)).await?;
            }
        }
        if group.is_empty() { Ok(()) } else { self.append(group).await }
    }

    /// Counts what ends without delivery. What is dropped because its dead letter could not be written is never
    /// dropped silently.
    fn tell_of_drops(&self, decision: &Decision) {
        let Decision::Settled { subscription, how, offsets, .. } = decision else { return };
        if matches!(how, Settlement::Delivered | Settlement::DeadLettered) {
            return;
        }
        let count = offsets.len() as u64;
        self.outside.metrics.subscription(*subscription).ended(*how, count);
        let outcome = match how {
            Settlement::Dropped(DeadLetterReason::TimeToLive) => "Expired",
            Settlement::Damaged => "Damaged",
            _ => "Dropped",
        };
        self.outside.note_ends(*subscription, offsets, outcome);
        if *how != Settlement::DeadLetterFailed {
            return;
        }
        let name = self.routes.get(subscription).map_or("", |route| route.resource_id.as_str());
        self.outside.metrics.letters_given_up.fetch_add(count, Ordering::Relaxed);
        tracing::error!(
            subscription = name,
            count,
            first = offsets.first().map(|offset| offset.0),
            "events were dropped: their dead-letter destination was down for too long"
        );
    }

    async fn append(&mut self, group: Vec<u8>) -> Result<(), AppendError> {
        loop {
            match self.outside.log.append_state(self.id, group.clone(), self.last).await {
                Ok(seq) => {
                    self.last = seq;
                    self.newest.fetch_max(seq.0, Ordering::AcqRel);
                    return Ok(());
                }
                // The decisions are made: they wait for room, and everything of this shard with them.
                Err(AppendError::Overloaded | AppendError::StorageFull) => {
                    self.outside.clock.sleep(std::time::Duration::from_millis(50)).await;
                }
                Err(error) => {
                    tracing::error!(%error, shard = %self.id, "failed to record decisions");
                    self.outside.fatal.cancel();
                    return Err(error);
                }
            }
        }
    }

    fn let_out(&mut self) {
        for reply in std::mem::take(&mut self.snapshots) {
            let parts = self.snapshot();
            let _ = reply.send(parts);
        }
        for done in self.acknowledgements.drain(..) {
            let _ = done.send(());
        }
        let mut attempts: Vec<Attempting> = Vec::new();
        for effect in std::mem::take(&mut self.out.effects) {
            match effect {
                Effect::Answer { reply, answer } => self.answer(reply, answer),
                Effect::Attempt { subscription, offset, attempt, id, .. } => {
                    attempts.push(Attempting { subscription, offset, attempt, id });
                }
                Effect::Scan { subscription, topic, slot, from, max } => {
                    let scan = Outside::scan(Arc::clone(&self.outside), subscription, topic, slot, from, max);
                    self.work_awaited(Awaited::Scan(subscription), scan);
                }
                Effect::Count { subscription, topic, slot, from } => {
                    self.counts.push_back(CountAsked { subscription, topic, slot, from });
                }
                Effect::DeadLetter { subscription, topic, offset, attempts, reason, last } => {
                    let Some(route) = self.routes.get(&subscription) else { continue };
                    let letter = Letter { topic, offset, attempts, reason, last };
                    let write = Outside::dead_letter(Arc::clone(&self.outside), Arc::clone(route), letter);
                    self.work_awaited(Awaited::DeadLetter(subscription, offset), write);
                }
            }
        }
        self.start_attempts(&attempts);
        if self.counting.is_none()
            && let Some(asked) = self.counts.pop_front()
        {
            let awaited = Awaited::Count(asked.subscription);
            let count = Outside::count(Arc::clone(&self.outside), asked);
            self.counting = Some(self.work_awaited(awaited, count));
        }
    }

    /// Starts work that a queue waits for.
    fn work_awaited(
        &mut self,
        awaited: Awaited,
        work: impl Future<Output = Done> + Send + 'static,
    ) -> task::Id {
        let id = self.work.spawn(work).id();
        self.awaited.insert(id, awaited);
        id
    }

    fn start_attempts(&mut self, attempts: &[Attempting]) {
        let Some(reports) = self.reports_sender.clone() else { return };
        // One read for all attempts of a subscription that start together.
        for group in attempts.chunk_by(|left, right| left.subscription == right.subscription) {
            let subscription = group[0].subscription;
            let Some(route) = self.routes.get(&subscription) else { continue };
            let outside = Arc::clone(&self.outside);
            let mut start = Box::pin(outside.attempt(Arc::clone(route), group.to_vec(), reports.clone()));
            // Most events are in the cache of the log's tail: then this is done at once, without a task.
            let mut context = Context::from_waker(Waker::noop());
            let awaited = || Awaited::Attempts(subscription, group.to_vec());
            // What panics is dropped, and shares nothing with us that it may have left half done.
            match catch_unwind(AssertUnwindSafe(|| start.as_mut().poll(&mut context))) {
                Ok(Poll::Ready(Done::Nothing)) => {}
                Ok(Poll::Ready(done)) => drop(self.work.spawn(async { done })),
                Ok(Poll::Pending) => drop(self.work_awaited(awaited(), start)),
                Err(_) => drop(self.work.spawn(Outside::after_panic(Arc::clone(&self.outside), awaited()))),
            }
        }
    }

    fn answer(&mut self, reply: ReplyId, answer: Answer) {
        match self.waiters.remove(&reply) {
            Some(Waiter::Receive { subscription, reply }) => {
                let answer = match answer {
                    Answer::Received(events) => ReceiveReply::Events(events),
                    Answer::NotPull => ReceiveReply::NotPull,
                    Answer::TooManyReceivers => ReceiveReply::TooManyReceivers,
                    Answer::Gone | Answer::Settled(_) => ReceiveReply::Gone,
                };
                if let Err(ReceiveReply::Events(events)) = reply.send(answer) {
                    self.release(subscription, &events);
                }
            }
            Some(Waiter::Settle(reply)) => {
                let answer = match answer {
                    Answer::Settled(results) => SettleReply::Results(results),
                    Answer::NotPull => SettleReply::NotPull,
                    Answer::Gone | Answer::Received(_) | Answer::TooManyReceivers => SettleReply::Gone,
                };
                // A client that hung up has no more to learn; its events are settled.
                let _ = reply.send(answer);
            }
            None => {}
        }
    }

    /// The receiver hung up before its answer left: nobody knows these tokens, so the locks end now. The
    /// decisions wait in `out` for the next group.
    fn release(&mut self, subscription: SubscriptionNumber, events: &[LeasedEvent]) {
        let tokens: Vec<LockToken> = events
            .iter()
            .map(|event| LockToken {
                subscription,
                offset: event.offset,
                delivery: event.delivery,
                nonce: event.nonce,
            })
            .collect();
        let verb = SettleVerb::Release { delay: std::time::Duration::ZERO };
        // Nobody waits for the answer under this id.
        self.input(Input::Settle { subscription, reply: ReplyId(u64::MAX), verb, tokens: &tokens });
    }
}

/// A push attempt that the shard wants started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempting {
    pub(super) subscription: SubscriptionNumber,
    pub(super) offset: Offset,
    pub(super) attempt: u32,
    pub(super) id: u64,
}

#[cfg(test)]
mod tests;
