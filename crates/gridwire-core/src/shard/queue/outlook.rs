//! What is left of the events that were published before some moment: which are under way, and which wait,
//! for what and until when. This is how a test knows that nothing more will happen by itself.

use super::{Cursor, DeadLetterReason, Held, Queue};
use crate::endpoint::{Rest, Rule};
use crate::ids::{Offset, SubscriptionNumber, TopicNumber};
use crate::routing::DeliveryMode;
use crate::shard::state::{Totals, Trouble};
use crate::time::Timestamp;

/// Waiting events that are named one by one; the others are only counted.
const NAMED_MAX: usize = 100;

/// Why an event waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its last attempt failed; with this status, if there was an answer.
    Retry { status: Option<u16> },
    /// It was given back, or its lock ran out.
    Released,
    /// The endpoint is on probation; the last attempt at it ended so.
    Probation { outcome: &'static str },
    /// A receiver holds it.
    Locked,
    /// It is given up, and its dead letter is not written yet: it waits for its delay, or could not be.
    DeadLetter { reason: DeadLetterReason },
}

/// One event that waits for a later time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub offset: Offset,
    /// Attempts or deliveries so far.
    pub attempts: u32,
    pub until: Timestamp,
    pub why: Why,
}

/// What became of one subscription's events, and what is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueOutlook {
    pub subscription: SubscriptionNumber,
    pub topic: TopicNumber,
    /// All that was settled since the subscription exists.
    pub totals: Totals,
    /// Something goes on by itself, now: attempts, scans, dead letters, or what is due.
    pub moving: bool,
    /// Events whose attempt or dead letter is under way.
    pub under_way: usize,
    /// Events that wait for no time of their own but for somebody: a receiver, room among the events in trouble, their
    /// turn at the endpoint's pace, or whoever ends its pause.
    pub available: usize,
    /// What holds the endpoint's events back, if anything does.
    pub held_by: Option<Rule>,
    /// There may be more of those behind the cursor.
    pub behind: bool,
    /// Events that wait for a later time.
    pub waiting: usize,
    /// Those that wait shortest; at most [`NAMED_MAX`].
    pub soonest: Vec<Waiting>,
    /// When something happens to an event by itself next: also the end of its time to live, but not the end of a
    /// receiver's wait. [`Timestamp::MAX`] for never.
    pub next_due: Timestamp,
}

impl Queue {
    /// Looks at the events before `end`; `tail` is the end of the topic as the shard knows it.
    pub(in crate::shard) fn outlook(&self, end: u64, tail: u64, now: Timestamp) -> QueueOutlook {
        let soonest = self.soonest(end, now);
        let waiting = soonest.len();
        let available = if self.resting(now).is_some() { 0 } else { self.available(end, now) };
        let behind = matches!(self.cursor, Cursor::Behind(from) if from < end);
        QueueOutlook {
            subscription: self.number,
            topic: self.topic,
            totals: self.state.totals,
            moving: self.moves(end, tail, now),
            under_way: self.in_flight.offsets().take_while(|&offset| offset < end).count()
                + self.letters.in_flight_before(end),
            available,
            held_by: self.endpoint().map(|endpoint| endpoint.rule).filter(|rule| *rule != Rule::Free),
            behind,
            waiting,
            soonest: soonest.into_iter().take(NAMED_MAX).collect(),
            next_due: self.events_due(),
        }
    }

    /// Whether something goes on by itself with events before `end`; [`QueueOutlook::moving`] without the rest.
    pub(in crate::shard) fn moves(&self, end: u64, tail: u64, now: Timestamp) -> bool {
        let before = |offset: Option<u64>| offset.is_some_and(|offset| offset < end);
        let pushes = matches!(self.policy.mode, DeliveryMode::Push { .. });
        // A push queue starts nothing while its endpoint is on probation or its pace says no, and nothing new while it is full of trouble.
        let starts = pushes && self.resting(now).is_none() && self.pacer.may_start(now);
        let starts_new = starts && self.state.trouble.len() < self.trouble_max;
        // What has not been shown to us may be anything.
        tail < end
            || self.next_due() <= now
            || before(self.in_flight.first())
            || before(self.letters.first_in_flight())
            || matches!(self.cursor, Cursor::Behind(from) if from < end && (self.scanning || starts_new))
            || starts && before(self.again.first().copied())
            || starts_new && before(self.ready.front().map(|position| position.offset.0))
    }

    /// The rest of an endpoint that is on probation.
    fn resting(&self, now: Timestamp) -> Option<Rest> {
        let pushes = matches!(self.policy.mode, DeliveryMode::Push { .. });
        self.endpoint.rest().filter(|rest| pushes && now < rest.until)
    }

    /// Events before `end` that could be delivered, were it not for somebody. A retry whose time has come is one of
    /// them while the pace is all it waits for.
    fn available(&self, end: u64, now: Timestamp) -> usize {
        let pushes = matches!(self.policy.mode, DeliveryMode::Push { .. });
        let retries = if pushes && !self.pacer.may_start(now) { self.again.range(..end).count() } else { 0 };
        self.ready_before(end) + retries
    }

    fn ready_before(&self, end: u64) -> usize {
        self.ready.partition_point(|position| position.offset.0 < end)
    }

    /// Every event before `end` that waits for a time, that of the next first.
    fn soonest(&self, end: u64, now: Timestamp) -> Vec<Waiting> {
        let mut all: Vec<Waiting> =
            self.state.trouble.range(..end).filter_map(|(_, trouble)| self.troubled(trouble)).collect();
        let letters = self.letters.waiting().filter(|&(_, offset)| offset < end);
        all.extend(letters.filter_map(|(until, offset)| {
            let trouble = self.state.trouble.get(&offset)?;
            let (_, reason) = trouble.condemned?;
            let attempts = trouble.held.attempts;
            Some(Waiting { offset: Offset(offset), attempts, until, why: Why::DeadLetter { reason } })
        }));
        all.extend(self.state.leases.range(..end).map(|(&offset, lease)| Waiting {
            offset: Offset(offset),
            attempts: lease.held.attempts,
            until: lease.deadline,
            why: Why::Locked,
        }));
        if let Some(Rest { until, outcome }) = self.resting(now) {
            let why = Why::Probation { outcome };
            let again = self.again.range(..end).filter_map(|offset| self.state.trouble.get(offset));
            all.extend(again.map(|trouble| {
                let Held { offset, attempts, .. } = trouble.held;
                Waiting { offset, attempts, until, why }
            }));
            let ready = self.ready.iter().take(self.ready_before(end));
            all.extend(ready.map(|position| Waiting { offset: position.offset, attempts: 0, until, why }));
        }
        all.sort_by_key(|waiting| (waiting.until, waiting.offset));
        all
    }

    /// A troubled event that is neither given up nor back in line.
    fn troubled(&self, trouble: &Trouble) -> Option<Waiting> {
        let offset = trouble.held.offset;
        let comes_later = self.state.due.contains(&(trouble.due, offset.0));
        if trouble.condemned.is_some() || !comes_later {
            return None;
        }
        let why = match self.policy.mode {
            DeliveryMode::Push { .. } => Why::Retry { status: trouble.last.status },
            DeliveryMode::Pull { .. } => Why::Released,
        };
        Some(Waiting { offset, attempts: trouble.held.attempts, until: trouble.due, why })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{QueueState, SubscribeInput};
    use super::*;
    use crate::ids::Slot;
    use crate::pace::Pacing;
    use crate::patience::DeadLetterPolicy;
    use crate::retry::{Outcome, RetryPolicy, Tier};
    use crate::routing::QueuePolicy;
    use crate::shard::queue::FinishedAttempt;
    use crate::shard::{Output, Position, ReplyId};

    const START: Timestamp = Timestamp::from_millis(1_000_000);
    const PUSH: DeliveryMode =
        DeliveryMode::Push { retry: RetryPolicy { tier: Tier::Basic }, batching: None };
    const PULL: DeliveryMode = DeliveryMode::Pull { lock: Duration::from_secs(60) };

    struct Rig {
        queue: Queue,
        out: Output,
        now: Timestamp,
        tail: u64,
    }

    impl Rig {
        fn new(mode: DeliveryMode) -> Self {
            let policy = QueuePolicy {
                mode,
                attempts_max: 30,
                time_to_live: Duration::from_secs(86_400),
                dead_letter: Some(DeadLetterPolicy::documented(Tier::Basic)),
                pacing: Pacing::FREE,
            };
            let input = SubscribeInput {
                number: SubscriptionNumber(1),
                slot: Slot(0),
                topic: TopicNumber(1),
                policy,
                end: Offset(0),
                start: Offset(0),
                existed: false,
            };
            let queue = Queue::new(input, QueueState::default(), 0, Timestamp::ZERO, Duration::ZERO);
            Self { queue, out: Output::default(), now: START, tail: 0 }
        }

        fn publish(&mut self) {
            self.queue.offer(Position { offset: Offset(self.tail), time: self.now, size: 10 });
            self.tail += 1;
            self.pump();
        }

        fn pump(&mut self) {
            self.queue.pump(self.tail, self.now, &mut || 7, &mut self.out);
        }

        fn end_attempt(&mut self, offset: u64, outcome: Outcome) {
            let id = self.queue.in_flight.id_of(offset);
            let attempt = FinishedAttempt { offset: Offset(offset), id, outcome, jitter: 0.0 };
            self.queue.attempted(attempt, self.tail, self.now, &mut self.out);
            self.pump();
        }

        fn outlook(&self) -> QueueOutlook {
            self.queue.outlook(self.tail, self.tail, self.now)
        }
    }

    fn answered(status: u16) -> Outcome {
        Outcome::Answered { status, retry_after: None }
    }

    #[test]
    fn a_push_moves_until_its_outcome_is_in_and_then_waits_for_its_retry() {
        let mut rig = Rig::new(PUSH);
        assert!(!rig.outlook().moving, "nothing was published");
        rig.publish();
        assert!(rig.outlook().moving, "it is in flight");
        assert_eq!((rig.outlook().under_way, rig.queue.outlook(0, rig.tail, rig.now).under_way), (1, 0));
        rig.end_attempt(0, answered(500));
        let until = START + Duration::from_secs(10);
        let why = Why::Retry { status: Some(500) };
        let outlook = rig.outlook();
        assert_eq!((outlook.moving, outlook.under_way), (false, 0));
        assert_eq!(outlook.soonest, [Waiting { offset: Offset(0), attempts: 1, until, why }]);
        assert_eq!((outlook.waiting, outlook.next_due), (1, until));

        rig.now = until;
        assert!(rig.outlook().moving, "it is due, whether or not that was noticed");
        rig.pump();
        assert!(rig.outlook().moving, "it is in flight again");
        rig.end_attempt(0, Outcome::Accepted);
        let outlook = rig.outlook();
        assert_eq!((outlook.moving, outlook.waiting, outlook.totals.delivered), (false, 0, 1));
    }

    #[test]
    fn events_published_later_are_not_waited_for() {
        let mut rig = Rig::new(PUSH);
        rig.publish();
        let end = rig.tail;
        rig.publish();
        rig.end_attempt(0, Outcome::Accepted);
        assert!(!rig.queue.outlook(end, rig.tail, rig.now).moving);
        assert!(rig.outlook().moving);
    }

    #[test]
    fn what_the_queue_was_not_shown_yet_is_waited_for() {
        let rig = Rig::new(PULL);
        assert!(rig.queue.outlook(1, 0, START).moving);
    }

    #[test]
    fn a_pulled_event_waits_for_a_receiver_and_then_for_its_lock() {
        let mut rig = Rig::new(PULL);
        rig.publish();
        rig.publish();
        let outlook = rig.outlook();
        assert_eq!((outlook.moving, outlook.available, outlook.waiting), (false, 2, 0));
        rig.queue.receive(ReplyId(1), 1, START, &mut rig.out);
        rig.pump();
        let outlook = rig.outlook();
        let until = START + Duration::from_secs(60);
        let locked = Waiting { offset: Offset(0), attempts: 1, until, why: Why::Locked };
        assert_eq!((outlook.available, outlook.soonest), (1, vec![locked]));
    }

    #[test]
    fn a_dead_letter_moves_until_it_is_written_and_waits_while_its_destination_is_down() {
        let mut rig = Rig::new(PUSH);
        rig.publish();
        rig.end_attempt(0, answered(400));
        assert!(rig.outlook().moving, "its dead letter is being written");
        assert_eq!(rig.outlook().under_way, 1);
        rig.queue.dead_letter_failed(Offset(0), rig.tail, rig.now, &mut rig.out);
        rig.pump();
        let outlook = rig.outlook();
        let why = Why::DeadLetter { reason: DeadLetterReason::Undeliverable };
        let until = START + Duration::from_secs(10);
        assert_eq!(outlook.soonest, [Waiting { offset: Offset(0), attempts: 1, until, why }]);
        assert!(!outlook.moving);
        rig.now = until;
        rig.pump();
        rig.queue.dead_letter_written(Offset(0), rig.tail, &mut rig.out);
        assert_eq!((rig.outlook().waiting, rig.outlook().totals.dead_lettered), (0, 1));
    }
}
