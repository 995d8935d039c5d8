//! The shard's promises, each through a small driver that records what it is told to.

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

#[test]
fn a_received_event_is_locked_until_it_is_acknowledged() {
    let mut driver = Driver::new(pull());
    driver.publish(3);
    let tokens = driver.receive(2);
    assert_eq!(offsets(&tokens), [0, 1]);
    assert_eq!(offsets(&driver.receive(5)), [2]);
    assert_eq!(driver.receive(5), []);
    assert_eq!(driver.settle(SettleVerb::Acknowledge, &tokens), [Ok(()), Ok(())]);
    assert_eq!(driver.settle(SettleVerb::Acknowledge, &tokens), [Err(TokenError::Lost); 2]);
    assert_eq!(driver.totals().delivered, 2);
    assert_eq!(driver.floor(), 2);
}

#[test]
fn a_lock_that_runs_out_makes_the_event_available_with_a_higher_count() {
    let mut driver = Driver::new(pull());
    driver.publish(1);
    let first = driver.receive(1);
    driver.advance_to(at(59));
    assert_eq!(driver.receive(1), []);
    driver.advance_to(at(60));
    let second = driver.receive(1);
    assert_eq!((second[0].offset, second[0].delivery), (Offset(0), 2));
    assert_eq!(driver.settle(SettleVerb::Acknowledge, &first), [Err(TokenError::Lost)]);
    assert_eq!(driver.settle(SettleVerb::Acknowledge, &second), [Ok(())]);
}

#[test]
fn a_waiting_receive_is_answered_by_the_next_event_or_by_its_deadline() {
    let mut driver = Driver::new(pull());
    let wait =
        |reply, deadline| Input::Receive { subscription: ONE, reply: ReplyId(reply), max: 10, deadline };
    driver.input(wait(100, at(10)));
    assert_eq!(driver.effects, []);
    driver.publish(2);
    assert!(matches!(&driver.effects[..],
        [Effect::Answer { reply: ReplyId(100), answer: Answer::Received(events) }] if events.len() == 2));
    driver.effects.clear();
    driver.input(wait(101, at(10)));
    driver.advance_to(at(10));
    let nothing = Effect::Answer { reply: ReplyId(101), answer: Answer::Received(Vec::new()) };
    assert_eq!(driver.effects, [nothing]);
}

#[test]
fn a_cancelled_receive_takes_nothing() {
    let mut driver = Driver::new(pull());
    driver.input(Input::Receive { subscription: ONE, reply: ReplyId(100), max: 10, deadline: at(10) });
    driver.input(Input::CancelReceive { subscription: ONE, reply: ReplyId(100) });
    driver.publish(1);
    assert_eq!(driver.effects, []);
    assert_eq!(driver.receive(1).len(), 1);
}

#[test]
fn a_released_event_comes_back_after_its_delay() {
    let mut driver = Driver::new(pull());
    driver.publish(1);
    let tokens = driver.receive(1);
    assert_eq!(driver.settle(SettleVerb::Release { delay: seconds(10) }, &tokens), [Ok(())]);
    driver.advance_to(at(9));
    assert_eq!(driver.receive(1), []);
    driver.advance_to(at(10));
    assert_eq!(driver.receive(1)[0].delivery, 2);
}

#[test]
fn renewing_keeps_the_token_for_at_most_an_hour() {
    let mut driver = Driver::new(pull());
    driver.publish(1);
    let tokens = driver.receive(1);
    for turn in 1..=61 {
        driver.advance_to(at(turn * 59));
        assert_eq!(driver.settle(SettleVerb::RenewLock, &tokens), [Ok(())], "turn {turn}");
    }
    driver.advance_to(at(3601));
    assert_eq!(driver.settle(SettleVerb::RenewLock, &tokens), [Err(TokenError::RenewedTooLong)]);
    assert_eq!(driver.settle(SettleVerb::Acknowledge, &tokens), [Ok(())]);
}

#[test]
fn nothing_new_is_delivered_while_the_shard_is_full_of_trouble() {
    let mut driver = Driver::new(pull());
    driver.shard.trouble = TroubleBudget::of(5);
    driver.publish(20);
    let tokens = driver.receive(5);
    driver.settle(SettleVerb::Release { delay: seconds(600) }, &tokens);
    assert_eq!(driver.receive(1), []);
    driver.advance_to(at(600));
    let again = driver.receive(20);
    assert_eq!(again.iter().map(|token| token.delivery).collect::<Vec<_>>(), [2; 5], "first what comes back");
    driver.settle(SettleVerb::Acknowledge, &again);
    assert_eq!(driver.receive(20).len(), 15);
}

#[test]
fn who_waits_for_the_trouble_of_others_goes_on_when_it_has_ended() {
    let mut driver = Driver::new(pull());
    let two = SubscriptionNumber(2);
    let input = SubscribeInput {
        number: two,
        slot: Slot(1),
        topic: TOPIC,
        policy: pull(),
        end: Offset(0),
        start: Offset(0),
        existed: false,
    };
    driver.input(Input::Subscribe(input));
    driver.shard.trouble = TroubleBudget::of(6);
    driver.publish(6);
    let tokens = driver.receive(6);
    driver.settle(SettleVerb::Release { delay: seconds(3600) }, &tokens);
    // The other has less than its share, so it goes on.
    driver.publish_for(&[1], 4);
    let receive =
        |reply, max| Input::Receive { subscription: two, reply: ReplyId(reply), max, deadline: at(1_000) };
    driver.input(receive(901, 3));
    let effect = driver.effects.remove(0);
    let Effect::Answer { answer: Answer::Received(events), .. } = effect else { panic!("{effect:?}") };
    let token = |event: &LeasedEvent| LockToken {
        subscription: two,
        offset: event.offset,
        delivery: event.delivery,
        nonce: event.nonce,
    };
    let tokens: Vec<_> = events.iter().map(token).collect();
    let verb = SettleVerb::Release { delay: seconds(3600) };
    driver.input(Input::Settle { subscription: two, reply: ReplyId(902), verb, tokens: &tokens });
    driver.effects.clear();
    driver.input(receive(903, 1));
    assert_eq!(driver.effects, [], "it has its share");
    driver.input(Input::Unsubscribe { subscription: ONE });
    driver.advance_to(driver.now);
    assert!(
        matches!(&driver.effects[..], [Effect::Answer { reply: ReplyId(903), answer: Answer::Received(one) }] if one.len() == 1),
        "{:?}",
        driver.effects
    );
}

#[test]
fn too_many_deliveries_end_in_a_drop_or_a_dead_letter() {
    for dead_letter in [None, Some(TWO_DAYS)] {
        let mut driver = Driver::new(QueuePolicy { dead_letter, ..pull() });
        driver.publish(1);
        for delivery in 1..=3 {
            let tokens = driver.receive(1);
            assert_eq!(tokens[0].delivery, delivery);
            assert_eq!(driver.settle(SettleVerb::Release { delay: seconds(0) }, &tokens), [Ok(())]);
        }
        assert_eq!(driver.receive(1), []);
        if dead_letter.is_some() {
            let reason = DeadLetterReason::MaxDeliveryAttempts;
            assert!(
                matches!(driver.effects[..], [Effect::DeadLetter { attempts: 3, reason: why, .. }] if why == reason)
            );
            assert_eq!(driver.floor(), 0);
            driver.input(Input::DeadLetterWritten { subscription: ONE, offset: Offset(0) });
            assert_eq!(driver.totals().dead_lettered, 1);
        } else {
            assert_eq!(driver.totals().dropped, 1);
        }
        assert_eq!(driver.floor(), 1);
    }
}

#[test]
fn a_rejected_event_is_never_received_again_and_its_dead_letter_survives_a_restart() {
    let mut driver = Driver::new(QueuePolicy { dead_letter: Some(TWO_DAYS), ..pull() });
    driver.publish(1);
    let tokens = driver.receive(1);
    assert_eq!(driver.settle(SettleVerb::Reject, &tokens), [Ok(())]);
    driver.restart();
    assert_eq!(driver.receive(1), []);
    assert!(matches!(driver.effects[..], [Effect::DeadLetter { reason: DeadLetterReason::Rejected, .. }]));
    driver.input(Input::DeadLetterFailed { subscription: ONE, offset: Offset(0) });
    driver.effects.clear();
    driver.advance_to(at(10));
    assert!(matches!(driver.effects[..], [Effect::DeadLetter { .. }]), "tried again after 10 s");
}

#[test]
fn a_dead_letter_waits_for_its_delay_also_over_a_restart() {
    let mut driver = Driver::new(QueuePolicy { dead_letter: Some(TWO_DAYS), ..pull() });
    driver.dead_letter_delay = seconds(300);
    driver.restart();
    driver.publish(1);
    let tokens = driver.receive(1);
    assert_eq!(driver.settle(SettleVerb::Reject, &tokens), [Ok(())]);
    driver.effects.clear();
    driver.advance_to(at(200));
    driver.restart();
    driver.advance_to(at(299));
    assert_eq!(driver.effects, []);
    assert_eq!(driver.floor(), 0, "the event stays until its letter is written");
    driver.advance_to(at(300));
    assert!(matches!(driver.effects[..], [Effect::DeadLetter { reason: DeadLetterReason::Rejected, .. }]));
    driver.input(Input::DeadLetterWritten { subscription: ONE, offset: Offset(0) });
    assert_eq!(driver.totals().dead_lettered, 1);
}

#[test]
fn an_event_ends_with_its_time_to_live_wherever_it_waits() {
    let mut driver = Driver::new(QueuePolicy { time_to_live: seconds(100), ..pull() });
    driver.publish(2);
    let tokens = driver.receive(1);
    driver.settle(SettleVerb::Release { delay: seconds(3600) }, &tokens);
    driver.advance_to(at(99));
    assert_eq!(driver.totals().expired, 0);
    driver.advance_to(at(100));
    assert_eq!(driver.totals().expired, 2);
    assert_eq!(driver.floor(), 2);
}

#[test]
fn after_a_start_that_found_a_gap_in_time_nothing_expires_for_a_while_but_is_delivered() {
    let short = seconds(100);
    let mut pulled = Driver::new(QueuePolicy { time_to_live: short, ..pull() });
    pulled.publish(3);
    let released = pulled.receive(1);
    pulled.settle(SettleVerb::Release { delay: seconds(30) }, &released);
    let mut pushed = Driver::new(QueuePolicy { time_to_live: short, ..push() });
    pushed.publish(1);
    let two_days = at(2 * 24 * 3600);
    for driver in [&mut pulled, &mut pushed] {
        driver.now = two_days;
        driver.expiry_from = two_days + seconds(600);
        driver.restart();
    }
    pulled.advance_to(two_days + seconds(599));
    assert_eq!(pulled.totals().expired, 0);
    assert_eq!(offsets(&pulled.receive(2)), [0, 1], "released and never delivered ones alike");
    pulled.advance_to(two_days + seconds(600));
    assert_eq!(pulled.totals().expired, 1, "the one that nobody fetched");

    let (offset, _, id) = pushed.attempts()[0];
    pushed.outcome(offset, id, failed(500));
    pushed.advance_to(two_days + seconds(9));
    assert_eq!(pushed.attempts(), [], "its age does not hurry a retry");
    pushed.advance_to(two_days + seconds(10));
    assert_eq!(pushed.attempts().len(), 1);
}

#[test]
fn a_lock_that_is_valid_at_the_end_of_life_may_still_be_settled() {
    let mut driver = Driver::new(QueuePolicy { time_to_live: seconds(70), ..pull() });
    driver.publish(1);
    driver.advance_to(at(20));
    let tokens = driver.receive(1);
    driver.advance_to(at(75));
    assert_eq!(driver.settle(SettleVerb::Acknowledge, &tokens), [Ok(())]);
    assert_eq!(driver.totals(), Totals { delivered: 1, ..Totals::default() });
}

#[test]
fn locks_tokens_and_delays_are_the_same_after_a_restart() {
    for snapshot in [false, true] {
        let mut driver = Driver::new(pull());
        driver.publish(4);
        let tokens = driver.receive(2);
        let released = driver.receive(1);
        driver.settle(SettleVerb::Release { delay: seconds(30) }, &released);
        driver.settle(SettleVerb::Acknowledge, &tokens[..1]);
        if snapshot {
            driver.restart_from_snapshot();
        } else {
            driver.restart();
        }
        assert_eq!(offsets(&driver.receive(5)), [3], "only the one that nobody held");
        assert_eq!(driver.settle(SettleVerb::Acknowledge, &tokens), [Err(TokenError::Lost), Ok(())]);
        driver.advance_to(at(29));
        assert_eq!(driver.receive(5), []);
        driver.advance_to(at(30));
        let again = driver.receive(5);
        assert_eq!((again[0].offset, again[0].delivery), (Offset(2), 2));
    }
}

#[test]
fn a_failed_push_is_tried_again_when_it_is_due_also_after_a_restart() {
    let mut driver = Driver::new(push());
    driver.publish(1);
    let (offset, attempt, id) = driver.attempts()[0];
    assert_eq!(attempt, 1);
    driver.outcome(offset, id, failed(500));
    assert_eq!(driver.attempts(), []);
    driver.advance_to(at(5));
    driver.restart();
    assert_eq!(driver.attempts(), [], "not at once");
    driver.advance_to(at(9));
    assert_eq!(driver.attempts(), []);
    driver.advance_to(at(10));
    let (offset, attempt, id) = driver.attempts()[0];
    assert_eq!(attempt, 2);
    driver.outcome(offset, id, Outcome::Accepted);
    assert_eq!((driver.totals().delivered, driver.floor()), (1, 1));
}

#[test]
fn an_attempt_in_flight_is_repeated_uncounted_after_a_restart() {
    let mut driver = Driver::new(push());
    driver.publish(1);
    assert_eq!(driver.attempts()[0].1, 1);
    driver.restart();
    assert_eq!(driver.attempts()[0].1, 1);
}

#[test]
fn a_final_status_is_not_tried_again_and_a_late_outcome_is_ignored() {
    let mut driver = Driver::new(push());
    driver.publish(1);
    let (offset, _, id) = driver.attempts()[0];
    driver.outcome(offset, id + 1, Outcome::Accepted);
    assert_eq!(driver.totals(), Totals::default());
    driver.outcome(offset, id, failed(400));
    assert_eq!(driver.totals().dropped, 1);
    driver.outcome(offset, id, Outcome::Accepted);
    assert_eq!(driver.totals(), Totals { dropped: 1, ..Totals::default() });
}

#[test]
fn attempts_in_flight_are_bounded_and_the_backlog_stays_a_cursor() {
    let mut driver = Driver::new(push());
    for _ in 0..50 {
        driver.publish(100);
    }
    let attempts = driver.attempts();
    assert_eq!(attempts.len(), 64);
    assert!(driver.shard.status()[0].behind);
    assert!(driver.shard.status()[0].held <= 64 + limits::READY_MAX);
    assert_eq!(driver.shard.status()[0].pending, 5_000);
    let mut done = 0;
    let mut next = attempts;
    while !next.is_empty() {
        for (offset, _, id) in std::mem::take(&mut next) {
            driver.outcome(offset, id, Outcome::Accepted);
            done += 1;
        }
        next = driver.attempts();
    }
    assert_eq!((done, driver.totals().delivered, driver.floor()), (5000, 5000, 5000));
}

#[test]
fn one_answer_holds_a_bounded_number_of_bytes_but_at_least_one_event() {
    let mut driver = Driver::new(pull());
    let big = Position { offset: Offset(0), time: at(0), size: 3 << 20 };
    driver.publish(1);
    driver.receive(1);
    let queue = driver.shard.queues.get_mut(&ONE).unwrap();
    queue.offer(Position { offset: Offset(1), ..big });
    queue.offer(Position { offset: Offset(2), ..big });
    driver.shard.topics.get_mut(&TOPIC).unwrap().tail = 3;
    assert_eq!(offsets(&driver.receive(10)), [1]);
    assert_eq!(offsets(&driver.receive(10)), [2]);
}

#[test]
fn a_removed_subscription_answers_its_waiters_and_forgets_its_state() {
    let mut driver = Driver::new(pull());
    driver.input(Input::Receive { subscription: ONE, reply: ReplyId(100), max: 1, deadline: at(60) });
    driver.input(Input::Unsubscribe { subscription: ONE });
    assert_eq!(driver.effects, [Effect::Answer { reply: ReplyId(100), answer: Answer::Gone }]);
    assert_eq!(driver.shard.next_due(), Timestamp::MAX);
    driver.publish(1);
    driver.restart();
    assert_eq!(driver.receive(1), [], "a new subscription starts at the end");
}

/// The same inputs, with a crash after any of them, settle every event exactly once.
#[test]
fn random_histories_with_crashes_settle_every_event_once() {
    for seed in 0..200u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut roll = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut driver = Driver::new(QueuePolicy { attempts_max: 1_000, ..pull() });
        let mut held: Vec<LockToken> = Vec::new();
        let mut acknowledged = std::collections::BTreeSet::new();
        for _ in 0..120 {
            match roll(8) {
                0 | 1 => driver.publish(1 + usize::try_from(roll(5)).unwrap()),
                2 | 3 => {
                    let got = driver.receive(1 + u32::try_from(roll(4)).unwrap());
                    for token in &got {
                        assert!(
                            !acknowledged.contains(&token.offset),
                            "seed {seed}: received after acknowledge"
                        );
                    }
                    held.extend(got);
                }
                4 => {
                    let now = driver.now + seconds(roll(50));
                    driver.advance_to(now);
                }
                5 => driver.restart(),
                6 => {
                    let Some(token) = held.pop() else { continue };
                    driver.settle(SettleVerb::Release { delay: seconds(roll(20)) }, &[token]);
                }
                _ => {
                    let Some(token) = held.pop() else { continue };
                    if driver.settle(SettleVerb::Acknowledge, &[token]) == [Ok(())] {
                        assert!(acknowledged.insert(token.offset), "seed {seed}: acknowledged twice");
                    }
                }
            }
        }
        driver.check_books(&format!("seed {seed}"));
        driver.advance_to(driver.now + seconds(600));
        loop {
            let tokens = driver.receive(100);
            if tokens.is_empty() {
                break;
            }
            for result in driver.settle(SettleVerb::Acknowledge, &tokens) {
                assert_eq!(result, Ok(()));
            }
            acknowledged.extend(tokens.iter().map(|token| token.offset));
        }
        assert_eq!(acknowledged.len() as u64, driver.end(), "seed {seed}");
        assert_eq!(driver.floor(), driver.end(), "seed {seed}");
        driver.check_books(&format!("seed {seed}"));
        assert_eq!(driver.shard.status()[0].pending, 0, "seed {seed}");
    }
}

#[test]
fn frames_that_were_not_shown_are_found_by_a_scan() {
    let mut driver = Driver::new(pull());
    driver.publish(1);
    // Three events become durable without their frame being shown; the next frame is.
    for _ in 0..3 {
        driver.log.push((driver.end(), driver.now));
    }
    driver.publish(1);
    assert_eq!(offsets(&driver.receive(10)), [0, 1, 2, 3, 4]);
}

#[test]
fn only_the_holder_of_an_event_can_say_that_it_is_gone() {
    let mut driver = Driver::new(pull());
    driver.publish(1);
    let first = driver.receive(1);
    driver.advance_to(at(60));
    let second = driver.receive(1);
    let gone = |token: &LockToken| Input::Unreadable {
        subscription: ONE,
        offset: token.offset,
        id: Some(token.nonce),
    };
    driver.input(gone(&first[0]));
    assert_eq!(driver.totals().dropped, 0);
    driver.input(gone(&second[0]));
    assert_eq!((driver.totals().dropped, driver.floor()), (1, 1));
}

mod batches;
mod books;
mod damage;
mod last_attempt;
mod letters;
mod pace;
mod probation;
