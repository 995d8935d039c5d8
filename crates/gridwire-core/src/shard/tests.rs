//! The shard's promises, each through a small driver that records what it is told to.

mod batches;
mod books;
mod damage;
mod ends;
mod last_attempt;
mod letters;
mod pace;
mod probation;
mod pull;
mod push;
mod restarts;
mod trouble;

use std::ops::Range;
use std::time::Duration;

use super::*;
use crate::event::{Data, Event, InputSchema};
use crate::frame::{FrameBuilder, FrameDraft};
use crate::ids::Lsn;
use crate::limits;
use crate::lock_token::LockToken;
use crate::pace::Pacing;
use crate::patience::DeadLetterPolicy;
use crate::retry::{Outcome, RetryPolicy, Tier};
use crate::routing::{DeliveryMode, QueuePolicy};

const TOPIC: TopicNumber = TopicNumber(1);
const ONE: SubscriptionNumber = SubscriptionNumber(10);
const LOCK: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const TWO_DAYS: DeadLetterPolicy = DeadLetterPolicy::documented(Tier::Namespace);

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + seconds * 1000)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A log of frames, a log of groups, and a shard between them.
struct Driver {
    shard: Shard,
    log: Vec<(u64, Timestamp)>,
    groups: Vec<u8>,
    effects: Vec<Effect>,
    /// Where each scan for a count began.
    counts: Vec<u64>,
    now: Timestamp,
    seeds: u64,
    replies: u64,
    policy: QueuePolicy,
    /// What a scan finds damaged.
    lost: Vec<Range<u64>>,
    existed: bool,
    /// What a restart says of expiry.
    expiry_from: Timestamp,
    dead_letter_delay: Duration,
}

fn pull() -> QueuePolicy {
    QueuePolicy {
        mode: DeliveryMode::Pull { lock: LOCK },
        attempts_max: 3,
        time_to_live: DAY,
        dead_letter: None,
        pacing: Pacing::FREE,
    }
}

fn push() -> QueuePolicy {
    let retry = RetryPolicy { tier: Tier::Basic };
    QueuePolicy { mode: DeliveryMode::Push { retry, batching: None }, ..pull() }
}

fn frame_of(topic: TopicNumber, slots: &[u32], count: usize) -> FrameDraft {
    let mut matched = MatchSet::default();
    for slot in slots {
        matched.push(Slot(*slot));
    }
    let mut builder = FrameBuilder::new(topic, 0);
    for _ in 0..count {
        let event = Event {
            schema: InputSchema::CloudEvent,
            id: "1".into(),
            event_type: "t".into(),
            source: "s".into(),
            subject: None,
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: Vec::new(),
            data: Data::Absent,
        };
        builder.push(&matched, &event);
    }
    builder.finish().expect("at least one event")
}

impl Driver {
    fn new(policy: QueuePolicy) -> Self {
        let mut driver = Self {
            shard: Shard::new(),
            log: Vec::new(),
            groups: Vec::new(),
            effects: Vec::new(),
            counts: Vec::new(),
            now: at(0),
            seeds: 0,
            replies: 0,
            policy,
            lost: Vec::new(),
            existed: false,
            expiry_from: Timestamp::ZERO,
            dead_letter_delay: Duration::ZERO,
        };
        driver.subscribe();
        driver
    }

    fn end(&self) -> u64 {
        self.log.len() as u64
    }

    fn subscribe(&mut self) {
        let input = SubscribeInput {
            number: ONE,
            slot: Slot(0),
            topic: TOPIC,
            policy: self.policy.clone(),
            end: Offset(self.end()),
            start: Offset(0),
            existed: self.existed,
        };
        self.input(Input::Subscribe(input));
    }

    fn take(&mut self, out: Output) {
        for decision in &out.decisions {
            decision.encode(&mut self.groups);
        }
        // Scans are answered as the real driver does: from the log.
        for effect in out.effects {
            match effect {
                Effect::Scan { subscription, from, max, .. } => {
                    let (matches, lost, next) = self.scan(from, max);
                    self.input(Input::Scanned { subscription, from, matches: &matches, lost: &lost, next });
                }
                Effect::Count { subscription, from, .. } => {
                    self.counts.push(from.0);
                    let (matches, _, next) = self.scan(from, 50);
                    let start = Offset(0);
                    self.input(Input::Counted { subscription, from, matches: &matches, next, start });
                }
                effect => self.effects.push(effect),
            }
        }
    }

    /// Everything in the log matches, but for what is lost.
    fn scan(&self, from: Offset, max: usize) -> (Vec<Position>, Vec<Range<u64>>, u64) {
        let end = self.end().min(from.0 + max as u64);
        let matches = (from.0..end)
            .filter(|offset| !self.lost.iter().any(|lost| lost.contains(offset)))
            .map(|offset| Position {
                offset: Offset(offset),
                time: self.log[usize::try_from(offset).unwrap()].1,
                size: 10,
            })
            .collect();
        (matches, self.lost.clone(), end)
    }

    fn input(&mut self, input: Input<'_>) {
        let mut out = Output::default();
        let seeds = &mut self.seeds;
        self.shard.handle(
            input,
            self.now,
            &mut || {
                *seeds += 1;
                *seeds
            },
            &mut out,
        );
        self.take(out);
    }

    fn publish(&mut self, count: usize) {
        self.publish_for(&[0], count);
    }

    /// Publishes what these slots match.
    fn publish_for(&mut self, slots: &[u32], count: usize) {
        let draft = frame_of(TOPIC, slots, count);
        let view = FrameView {
            lsn: Lsn(0),
            topic: TOPIC,
            first: Offset(self.end()),
            count: draft.count,
            time: self.now,
            body: &draft.body,
        };
        for _ in 0..count {
            self.log.push((self.log.len() as u64, self.now));
        }
        let mut out = Output::default();
        self.shard.frame(&view, self.now, &mut || 7, &mut out);
        self.take(out);
    }

    /// Goes on to `now`, handling every timer on the way.
    fn advance_to(&mut self, now: Timestamp) {
        while self.shard.next_due() <= now {
            self.now = self.shard.next_due().max(self.now);
            self.input(Input::Tick);
        }
        self.now = now;
    }

    fn receive(&mut self, max: u32) -> Vec<LockToken> {
        match self.answer_to(|reply, now| Input::Receive { subscription: ONE, reply, max, deadline: now }) {
            Answer::Received(events) => events
                .into_iter()
                .map(|event| LockToken {
                    subscription: ONE,
                    offset: event.offset,
                    delivery: event.delivery,
                    nonce: event.nonce,
                })
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    fn settle(&mut self, verb: SettleVerb, tokens: &[LockToken]) -> Vec<Result<(), TokenError>> {
        match self.answer_to(|reply, _| Input::Settle { subscription: ONE, reply, verb, tokens }) {
            Answer::Settled(results) => results,
            other => panic!("{other:?}"),
        }
    }

    fn answer_to<'a>(&mut self, make: impl FnOnce(ReplyId, Timestamp) -> Input<'a>) -> Answer {
        self.replies += 1;
        let reply = ReplyId(self.replies);
        self.input(make(reply, self.now));
        let place = self
            .effects
            .iter()
            .position(|effect| matches!(effect, Effect::Answer { reply: of, .. } if *of == reply))
            .expect("an answer");
        let Effect::Answer { answer, .. } = self.effects.remove(place) else { unreachable!() };
        answer
    }

    /// The attempts to start, taken.
    fn attempts(&mut self) -> Vec<(Offset, u32, u64)> {
        let mut attempts = Vec::new();
        self.effects.retain(|effect| {
            let Effect::Attempt { offset, attempt, id, .. } = effect else { return true };
            attempts.push((*offset, *attempt, *id));
            false
        });
        attempts
    }

    fn outcome(&mut self, offset: Offset, id: u64, outcome: Outcome) {
        self.input(Input::Attempted { subscription: ONE, offset, id, outcome, jitter: 0.0 });
    }

    /// A crash: what was recorded is applied to a new shard, which then scans on.
    fn restart(&mut self) {
        let mut shard = Shard::new();
        let mut input = self.groups.as_slice();
        while !input.is_empty() {
            shard.recover_decision(&Decision::decode(&mut input).expect("what we wrote"));
        }
        shard.hold_expiry(self.expiry_from);
        shard.delay_dead_letters(self.dead_letter_delay);
        self.shard = shard;
        self.effects.clear();
        self.subscribe();
    }

    /// A snapshot in place of the decisions so far, then a restart.
    fn restart_from_snapshot(&mut self) {
        let part = self.shard.snapshot(ONE).expect("the subscription is there");
        let mut shard = Shard::new();
        assert!(shard.recover_part(ONE, &part));
        self.shard = shard;
        self.effects.clear();
        self.subscribe();
    }

    fn totals(&self) -> Totals {
        self.shard.status()[0].totals
    }

    fn floor(&self) -> u64 {
        self.shard.status()[0].floor.0
    }
}

fn failed(status: u16) -> Outcome {
    Outcome::Answered { status, retry_after: None }
}

fn offsets(tokens: &[LockToken]) -> Vec<u64> {
    tokens.iter().map(|token| token.offset.0).collect()
}
