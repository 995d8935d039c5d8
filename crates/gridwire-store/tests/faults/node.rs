//! A broker in small: shards over the embedded log, without tasks, sockets or threads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use gridwire_core::event::{Data, Event, InputSchema};
use gridwire_core::filter::MatchSet;
use gridwire_core::frame::{FrameBuilder, FrameDraft};
use gridwire_core::ids::{Lsn, Offset, ShardId, Slot, StateSeq, SubscriptionNumber, TopicNumber};
use gridwire_core::lock_token::LockToken;
use gridwire_core::pace::Pacing;
use gridwire_core::patience::DeadLetterPolicy;
use gridwire_core::retry::Tier;
use gridwire_core::routing::{DeliveryMode, QueuePolicy};
use gridwire_core::shard::{
    Answer, Decision, Effect, Input, Output, Position, QueueStatus, ReplyId, SettleVerb, Shard,
    SubscribeInput, TokenError,
};
use gridwire_core::time::Timestamp;
use gridwire_outside::{Clock, Disk, ManualClock, MemoryDisk, OpenMode, SeededRng};
use gridwire_store::embedded::{EmbeddedLog, EmbeddedOptions, OpenError};
use gridwire_store::{AppendError, Appended, Fetched, Frame, Log, Matched, Recovered, SnapshotPart};

use crate::ledger::Ledger;

/// Below directories that do not exist yet.
pub(crate) const DIR: &str = "/srv/gridwire/data";
const LETTERS: &str = "/srv/letters";
pub(crate) const LOCK: Duration = Duration::from_secs(60);

/// Small segments, blocks and caches, so that a short history meets all of them.
pub(crate) fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        segment_bytes: 32 << 10,
        cache_bytes: 4 << 10,
        index_cache_bytes: 8 << 10,
        block_bytes: 8 << 10,
        state_file_bytes: 8 << 10,
        ballast_bytes: 0,
        threads: false,
        ..EmbeddedOptions::default()
    }
}

/// A pull subscription.
#[derive(Clone, Debug)]
pub(crate) struct Sub {
    pub(crate) number: SubscriptionNumber,
    pub(crate) slot: Slot,
    pub(crate) topic: TopicNumber,
    pub(crate) dead_letter: bool,
}

impl Sub {
    pub(crate) fn new(number: u32, topic: u32, dead_letter: bool) -> Self {
        let (number, slot) = (SubscriptionNumber(number), Slot(number));
        Self { number, slot, topic: TopicNumber(topic), dead_letter }
    }

    fn policy(&self) -> QueuePolicy {
        QueuePolicy {
            mode: DeliveryMode::Pull { lock: LOCK },
            attempts_max: 3,
            time_to_live: Duration::from_secs(7 * 24 * 3600),
            dead_letter: self.dead_letter.then(|| DeadLetterPolicy::documented(Tier::Namespace)),
            pacing: Pacing::FREE,
        }
    }
}

/// Why the node cannot go on: in a process this is its end.
#[derive(Debug)]
pub(crate) struct Stopped(#[allow(dead_code, reason = "it is shown when a test fails")] pub(crate) String);

pub(crate) struct Node {
    pub(crate) log: Arc<EmbeddedLog>,
    pub(crate) disk: MemoryDisk,
    pub(crate) clock: Arc<ManualClock>,
    shards: Vec<Shard>,
    /// The last group of each shard.
    last: Vec<StateSeq>,
    newest: StateSeq,
    next: Lsn,
    subs: Vec<Sub>,
    answers: BTreeMap<ReplyId, Answer>,
    replies: u64,
    seed: SeededRng,
    /// Scans that failed, to be asked for again.
    unscanned: Vec<SubscriptionNumber>,
    /// How often segments were let go.
    pub(crate) trims: u64,
    pub(crate) ledger: Ledger,
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(1_000_000)))
}

pub(crate) fn open_log(
    disk: &MemoryDisk,
    clock: &Arc<ManualClock>,
    options: EmbeddedOptions,
) -> Result<Arc<EmbeddedLog>, OpenError> {
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    EmbeddedLog::open(Arc::new(disk.clone()), clock, &SeededRng::new(1), Path::new(DIR), options)
}

/// Without threads every call is done when it is first looked at; `None` when it waits for something new.
pub(crate) fn poll<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    poll(future).expect("it is done at once")
}

pub(crate) fn event(name: &str, data: Vec<u8>) -> Event<'_> {
    Event {
        schema: InputSchema::CloudEvent,
        id: name.into(),
        event_type: "t".into(),
        source: "/s".into(),
        subject: None,
        time: None,
        data_content_type: None,
        data_schema: None,
        extensions: Vec::new(),
        data: Data::Binary(data.into()),
    }
}

/// A frame of events, each for all of `slots`.
pub(crate) fn draft(topic: TopicNumber, events: &[Event<'_>], slots: &[Slot]) -> FrameDraft {
    let mut matched = MatchSet::default();
    for slot in slots {
        matched.push(*slot);
    }
    let mut frame = FrameBuilder::new(topic, 0);
    for event in events {
        frame.push(&matched, event);
    }
    frame.finish().expect("it has events")
}

/// Every retained frame.
pub(crate) fn read_all(log: &EmbeddedLog) -> Result<Vec<Frame>, String> {
    let (mut from, end) = (Lsn(0), log.position().0);
    let mut frames: Vec<Frame> = Vec::new();
    while from < end {
        // Nothing more when all that is left is damaged.
        let Some(read) = poll(log.read(from, 4_000)) else { break };
        frames.extend(read.map_err(|error| error.to_string())?);
        from = frames.last().expect("at least one").lsn.next();
    }
    Ok(frames)
}

impl Node {
    /// Opens the log and makes `count` shards of what it holds. `ledger` learns what was recovered.
    pub(crate) fn open(
        disk: &MemoryDisk,
        clock: &Arc<ManualClock>,
        subs: &[Sub],
        count: usize,
        options: EmbeddedOptions,
        mut ledger: Ledger,
    ) -> Result<Self, Box<(Stopped, Ledger)>> {
        let stopped =
            |error: &dyn std::fmt::Display, ledger| Err(Box::new((Stopped(error.to_string()), ledger)));
        let log = match open_log(disk, clock, options) {
            Ok(log) => log,
            Err(error) => return stopped(&error, ledger),
        };
        clock.raise_to(log.position().1);
        let mut shards: Vec<Shard> = (0..count).map(|_| Shard::new()).collect();
        let mut included: BTreeMap<SubscriptionNumber, StateSeq> = BTreeMap::new();
        let of: BTreeMap<SubscriptionNumber, usize> =
            subs.iter().map(|sub| (sub.number, sub.topic.0 as usize % count)).collect();
        let mut groups = Vec::new();
        let recovered = log.recover(&mut |recovered| match recovered {
            Recovered::Part { subscription, at, state } => {
                included.insert(subscription, at);
                assert!(shards[of[&subscription]].recover_part(subscription, state), "a part is whole");
            }
            Recovered::Group { seq, decisions, .. } => {
                groups.push((seq, decisions.to_vec()));
                let mut input = decisions;
                while !input.is_empty() {
                    let decision = Decision::decode(&mut input).expect("a group is whole");
                    let subscription = decision.subscription();
                    if included.get(&subscription).is_none_or(|at| *at < seq) {
                        shards[of[&subscription]].recover_decision(&decision);
                    }
                }
            }
        });
        let last = match recovered {
            Ok(last) => last,
            Err(error) => return stopped(&error, ledger),
        };
        ledger.recovered(last, &groups);
        let mut node = Self {
            next: log.position().0,
            log,
            disk: disk.clone(),
            clock: Arc::clone(clock),
            shards,
            last: vec![last; count],
            newest: last,
            subs: subs.to_vec(),
            answers: BTreeMap::new(),
            replies: 0,
            seed: SeededRng::new(last.0),
            unscanned: Vec::new(),
            trims: 0,
            ledger,
        };
        for sub in subs {
            let input = SubscribeInput {
                number: sub.number,
                slot: sub.slot,
                topic: sub.topic,
                policy: sub.policy(),
                end: node.log.end(sub.topic),
                start: node.log.start(sub.topic),
                existed: last.0 > 0,
            };
            if let Err(error) = node.input(sub.topic, Input::Subscribe(input)) {
                return Err(Box::new((error, node.ledger)));
            }
        }
        // As the broker does: no event may be acknowledged that its subscription's start would forget.
        match now(node.log.flush_state()) {
            Ok(()) => Ok(node),
            Err(error) => Err(Box::new((Stopped(error.to_string()), node.ledger))),
        }
    }

    pub(crate) fn time(&self) -> Timestamp {
        self.clock.now()
    }

    fn shard_of(&self, topic: TopicNumber) -> usize {
        topic.0 as usize % self.shards.len()
    }

    fn input(&mut self, topic: TopicNumber, input: Input<'_>) -> Result<(), Stopped> {
        let shard = self.shard_of(topic);
        let mut out = Output::default();
        let seed = &self.seed;
        self.shards[shard].handle(input, self.clock.now(), &mut || seed.below(u64::MAX), &mut out);
        self.carry_out(shard, out)
    }

    /// Records what was decided, and only then lets the effects out.
    fn carry_out(&mut self, shard: usize, out: Output) -> Result<(), Stopped> {
        if !out.decisions.is_empty() {
            let mut group = Vec::new();
            out.decisions.iter().for_each(|decision| decision.encode(&mut group));
            self.ledger.attempts(&group);
            let id = ShardId(u16::try_from(shard).expect("few shards"));
            let seq = now(self.log.append_state(id, group.clone(), self.last[shard]));
            let seq = seq.map_err(|error| Stopped(error.to_string()))?;
            self.last[shard] = seq;
            self.newest = self.newest.max(seq);
            self.ledger.recorded(seq, self.clock.now(), group);
        }
        for effect in out.effects {
            self.effect(effect)?;
        }
        Ok(())
    }

    fn effect(&mut self, effect: Effect) -> Result<(), Stopped> {
        match effect {
            Effect::Answer { reply, answer } => {
                self.answers.insert(reply, answer);
                Ok(())
            }
            Effect::Attempt { .. } => unreachable!("no subscription is pushed to"),
            Effect::Scan { subscription, topic, slot, from, max } => {
                let Ok(found) = now(self.log.scan(topic, slot, from, max)) else {
                    self.unscanned.push(subscription);
                    return Ok(());
                };
                let matches: Vec<Position> = found
                    .matches
                    .iter()
                    .map(|found| Position { offset: found.offset, time: found.time, size: found.size })
                    .collect();
                let (lost, next) = (&*found.lost, found.next);
                self.input(topic, Input::Scanned { subscription, from, matches: &matches, lost, next })
            }
            Effect::Count { subscription, topic, slot, from } => {
                let Ok(found) = now(self.log.scan(topic, slot, from, 100)) else {
                    // Nobody asks this node how much is pending.
                    return Ok(());
                };
                let position =
                    |found: &Matched| Position { offset: found.offset, time: found.time, size: found.size };
                let matches: Vec<Position> = found.matches.iter().map(position).collect();
                let (next, start) = (found.next, self.log.start(topic));
                self.input(topic, Input::Counted { subscription, from, matches: &matches, next, start })
            }
            Effect::DeadLetter { subscription, topic, offset, .. } => {
                let input = match now(self.log.fetch(topic, vec![offset])) {
                    Err(_) => Input::Unread { subscription, offset, id: None },
                    Ok(found) => match found.first() {
                        None => Input::Unreadable { subscription, offset, id: None },
                        Some(found) => match self.write_letter(subscription, found) {
                            Ok(()) => Input::DeadLetterWritten { subscription, offset },
                            Err(_) => Input::DeadLetterFailed { subscription, offset },
                        },
                    },
                };
                self.input(topic, input)
            }
        }
    }

    pub(crate) fn letter_path(subscription: SubscriptionNumber, offset: Offset) -> PathBuf {
        Path::new(LETTERS).join(format!("{subscription}-{offset}"))
    }

    fn write_letter(&self, subscription: SubscriptionNumber, event: &Fetched) -> std::io::Result<()> {
        self.disk.create_dir_all(Path::new(LETTERS))?;
        Path::new(LETTERS).ancestors().skip(1).try_for_each(|above| self.disk.sync_dir(above))?;
        let path = Self::letter_path(subscription, event.offset);
        let file = self.disk.open(&path, OpenMode::Create)?;
        file.write_at(&event.event, 0)?;
        file.sync_data()?;
        self.disk.sync_dir(Path::new(LETTERS))
    }

    /// Publishes one frame and shows it to the shards.
    pub(crate) fn publish(
        &mut self,
        topic: TopicNumber,
        events: &[Event<'_>],
        slots: &[Slot],
    ) -> Result<Result<Appended, AppendError>, Stopped> {
        self.ledger.publishes(topic, events, slots);
        let appended = now(self.log.append_events(draft(topic, events, slots)));
        if let Ok(appended) = &appended {
            self.ledger.published(topic, *appended, events, slots);
        }
        self.feed()?;
        Ok(appended)
    }

    /// Shows new frames to their shards.
    pub(crate) fn feed(&mut self) -> Result<(), Stopped> {
        while self.next < self.log.position().0 {
            // Else tried again with the next publish, or nothing readable is left.
            let Some(Ok(frames)) = poll(self.log.read(self.next, 10_000)) else { return Ok(()) };
            for frame in frames {
                self.next = frame.lsn.next();
                self.ledger.seen(&frame);
                let shard = self.shard_of(frame.topic);
                let (mut out, seed) = (Output::default(), &self.seed);
                let now = self.clock.now();
                self.shards[shard].frame(&frame.view(), now, &mut || seed.below(u64::MAX), &mut out);
                self.carry_out(shard, out)?;
            }
        }
        Ok(())
    }

    fn answer<'a>(
        &mut self,
        sub: &Sub,
        make: impl FnOnce(ReplyId, Timestamp) -> Input<'a>,
    ) -> Result<Answer, Stopped> {
        self.replies += 1;
        let reply = ReplyId(self.replies);
        self.input(sub.topic, make(reply, self.clock.now()))?;
        Ok(self.answers.remove(&reply).expect("nothing waits"))
    }

    /// Leases at most `max` events and reads them.
    pub(crate) fn receive(&mut self, sub: &Sub, max: u32) -> Result<Vec<(LockToken, Fetched)>, Stopped> {
        let subscription = sub.number;
        let answer =
            self.answer(sub, |reply, now| Input::Receive { subscription, reply, max, deadline: now })?;
        let Answer::Received(leased) = answer else { panic!("{answer:?}") };
        let mut offsets: Vec<Offset> = leased.iter().map(|event| event.offset).collect();
        offsets.sort_unstable();
        let fetched = now(self.log.fetch(sub.topic, offsets));
        let mut received = Vec::new();
        for event in leased {
            let (offset, id) = (event.offset, Some(event.nonce));
            let Ok(fetched) = &fetched else {
                self.input(sub.topic, Input::Unread { subscription, offset, id })?;
                continue;
            };
            let Some(found) = fetched.iter().find(|found| found.offset == offset) else {
                self.input(sub.topic, Input::Unreadable { subscription, offset, id })?;
                continue;
            };
            let token = LockToken { subscription, offset, delivery: event.delivery, nonce: event.nonce };
            received.push((token, found.clone()));
        }
        Ok(received)
    }

    pub(crate) fn settle(
        &mut self,
        sub: &Sub,
        verb: SettleVerb,
        tokens: &[LockToken],
    ) -> Result<Vec<Result<(), TokenError>>, Stopped> {
        let subscription = sub.number;
        let answer = self.answer(sub, |reply, _| Input::Settle { subscription, reply, verb, tokens })?;
        let Answer::Settled(results) = answer else { panic!("{answer:?}") };
        Ok(results)
    }

    /// Time passes: due work is done, failed scans are asked for again.
    pub(crate) fn advance(&mut self, by: Duration) -> Result<(), Stopped> {
        self.clock.advance(by);
        for number in std::mem::take(&mut self.unscanned) {
            let sub = self.subs.iter().find(|sub| sub.number == number).expect("it is ours").clone();
            self.input(sub.topic, Input::ScanFailed { subscription: number })?;
        }
        for shard in 0..self.shards.len() {
            let (mut out, seed) = (Output::default(), &self.seed);
            let now = self.clock.now();
            self.shards[shard].handle(Input::Tick, now, &mut || seed.below(u64::MAX), &mut out);
            self.carry_out(shard, out)?;
        }
        self.feed()
    }

    pub(crate) fn flush(&mut self) -> Result<(), Stopped> {
        let newest = self.newest;
        now(self.log.flush_state()).map_err(|error| Stopped(error.to_string()))?;
        self.ledger.flushed(newest);
        Ok(())
    }

    pub(crate) fn snapshot(&mut self) -> Result<(), AppendError> {
        // Whether one is wanted is asked first, as the broker does: the log remembers that it was.
        self.log.wants_snapshot();
        let at = self.newest;
        let mut parts = Vec::new();
        for shard in &self.shards {
            for subscription in shard.subscriptions() {
                let state = shard.snapshot(subscription).expect("it is there");
                parts.push(SnapshotPart { subscription, at, state });
            }
        }
        now(self.log.snapshot(parts))?;
        self.ledger.flushed(at);
        Ok(())
    }

    pub(crate) fn status(&self) -> Vec<QueueStatus> {
        self.shards.iter().flat_map(Shard::status).collect()
    }

    /// Lets go what every subscription has settled.
    pub(crate) fn trim(&mut self) -> Result<(), Stopped> {
        let mut floors: BTreeMap<TopicNumber, u64> = BTreeMap::new();
        for status in self.status() {
            let floor = floors.entry(status.topic).or_insert(u64::MAX);
            *floor = (*floor).min(status.floor.0);
        }
        let segments = self.log.segments();
        let free = segments.iter().take_while(|segment| {
            let is_free = |span: &gridwire_store::TopicSpan| {
                floors.get(&span.topic).is_none_or(|floor| *floor > span.last.0)
            };
            segment.topics.iter().all(is_free)
        });
        let Some(last) = free.last() else { return Ok(()) };
        self.flush()?;
        self.trims += 1;
        now(self.log.trim(last.end)).map_err(|error| Stopped(error.to_string()))
    }
}
