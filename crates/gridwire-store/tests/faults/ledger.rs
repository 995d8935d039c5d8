//! What was answered, and what must be there for it after a fault.
//!
//! The state of a subscription is worked out here anew, from the decisions that were recorded, one status for
//! each event: nothing of it is asked of the shard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gridwire_core::event::Event;
use gridwire_core::ids::{Lsn, Offset, Slot, StateSeq, SubscriptionNumber, TopicNumber};
use gridwire_core::shard::{Decision, Settlement};
use gridwire_core::time::Timestamp;
use gridwire_store::{Appended, Frame, Log};

use crate::node::{LOCK, Node, Sub, draft, now, read_all};

/// The most that a power cut may take back.
const FLUSH_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Settled(Settlement),
    Leased(Timestamp),
    Waits(Timestamp),
    Condemned,
}

#[derive(Clone, Debug)]
struct Stored {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// Acknowledged events.
    events: BTreeMap<(TopicNumber, Offset), Arc<Stored>>,
    /// Bodies of frames whose publish was begun: they may be there.
    begun: BTreeSet<Arc<[u8]>>,
    /// What readers were shown.
    seen: BTreeMap<Lsn, (TopicNumber, Offset, Arc<[u8]>)>,
    /// Recorded groups of decisions, with the time of their answer.
    groups: BTreeMap<StateSeq, (Timestamp, Arc<[u8]>)>,
    /// Groups whose recording was begun and not answered: they may be there.
    attempted: BTreeSet<Vec<u8>>,
    /// The last group that is known to be flushed, and the last that a kill must leave.
    flushed: u64,
    killed: u64,
    /// What the groups up to one that no fault can take back come to ([`Ledger::settle`]), and that one's number.
    settled: Arc<BTreeMap<SubscriptionNumber, BTreeMap<Offset, Status>>>,
    settled_to: u64,
    /// The first group that the latest start found.
    first_group: u64,
    /// What was there when this was last settled, and when it was the time before.
    there: There,
    there_before: There,
}

/// Where what a log holds begins.
#[derive(Clone, Debug, Default)]
struct There {
    starts: BTreeMap<TopicNumber, Offset>,
    first_group: u64,
}

impl Ledger {
    pub(crate) fn publishes(&mut self, topic: TopicNumber, events: &[Event<'_>], slots: &[Slot]) {
        self.begun.insert(draft(topic, events, slots).body.into());
    }

    pub(crate) fn published(
        &mut self,
        topic: TopicNumber,
        appended: Appended,
        events: &[Event<'_>],
        slots: &[Slot],
    ) {
        for (offset, event) in (appended.first.0..).map(Offset).zip(events) {
            let mut bytes = Vec::new();
            event.encode(&mut bytes);
            let before =
                self.events.insert((topic, offset), Arc::new(Stored { bytes, slots: slots.to_vec() }));
            assert!(before.is_none(), "an offset is given once");
        }
    }

    pub(crate) fn seen(&mut self, frame: &Frame) {
        self.seen.insert(frame.lsn, (frame.topic, frame.first, Arc::from(&*frame.body)));
    }

    pub(crate) fn attempts(&mut self, group: &[u8]) {
        self.attempted.insert(group.to_vec());
    }

    pub(crate) fn recorded(&mut self, seq: StateSeq, time: Timestamp, group: Vec<u8>) {
        assert!(self.groups.insert(seq, (time, group.into())).is_none(), "a number is given once");
    }

    pub(crate) fn flushed(&mut self, seq: StateSeq) {
        self.flushed = self.flushed.max(seq.0);
    }

    fn newest(&self) -> u64 {
        self.groups.last_key_value().map_or(self.settled_to, |(seq, _)| seq.0)
    }

    /// The process ends, the machine does not: all that was recorded is there at the next start.
    pub(crate) fn kill(&mut self) {
        self.killed = self.newest();
    }

    /// The power goes.
    pub(crate) fn cut(&mut self) {
        self.killed = 0;
    }

    /// Every answer waited for its flush.
    pub(crate) fn all_flushed(&mut self) {
        self.flushed = self.newest();
    }

    /// Compares what a start found with what was recorded before, and forgets what a cut took back.
    pub(crate) fn recovered(&mut self, last: StateSeq, groups: &[(StateSeq, Vec<u8>)]) {
        assert!(
            self.flushed <= last.0,
            "group {} was flushed, {last} is the last that is there",
            self.flushed
        );
        assert!(self.killed <= last.0, "group {} was written, {last} is the last that is there", self.killed);
        self.killed = 0;
        // A group is flushed by the one that comes 100 ms later, and that one may be what the cut interrupted.
        let times: Vec<(StateSeq, Timestamp)> = self.groups.iter().map(|(s, (t, _))| (*s, *t)).collect();
        if let [before @ .., (_, later), _] = &*times {
            let due = before.iter().rev().find(|(_, time)| *time + FLUSH_EVERY <= *later);
            assert!(due.is_none_or(|(due, _)| *due <= last), "{due:?} was due, {last} is the last");
        }
        for (seq, bytes) in groups {
            match self.groups.get(seq) {
                Some((_, recorded)) => assert_eq!(**recorded, **bytes, "group {seq}"),
                None => assert!(self.attempted.contains(bytes), "group {seq} is invented"),
            }
        }
        self.groups.retain(|seq, _| *seq <= last);
        for (seq, bytes) in groups {
            self.groups.entry(*seq).or_insert_with(|| (Timestamp::ZERO, bytes.as_slice().into()));
        }
        self.flushed = last.0;
        self.first_group = groups.first().map_or(last.0 + 1, |(seq, _)| seq.0);
        self.attempted.clear();
    }

    /// The status of every event of a subscription that has one, by the decisions recorded.
    pub(crate) fn statuses(&self, sub: SubscriptionNumber) -> BTreeMap<Offset, Status> {
        let mut statuses = self.settled.get(&sub).cloned().unwrap_or_default();
        for decision in self.groups.range(StateSeq(self.settled_to + 1)..).flat_map(decisions) {
            if decision.subscription() == sub {
                apply(&mut statuses, &decision);
            }
        }
        statuses
    }

    /// Works out once what all the worlds have in common that are forked from here on, and forgets what has been gone
    /// for at least a life: what is told in `starts` of each topic. Not the dead letters, which must be there for ever.
    pub(crate) fn settle(&mut self, subs: &[Sub], starts: BTreeMap<TopicNumber, Offset>) {
        let settled = Arc::make_mut(&mut self.settled);
        let more = StateSeq(self.settled_to + 1)..=StateSeq(self.flushed.max(self.settled_to));
        for decision in self.groups.range(more).flat_map(decisions) {
            apply(settled.entry(decision.subscription()).or_default(), &decision);
        }
        self.settled_to = self.flushed.max(self.settled_to);
        let there = There { starts, first_group: self.first_group };
        self.there_before = std::mem::replace(&mut self.there, there);
        self.forget(subs);
    }

    fn forget(&mut self, subs: &[Sub]) {
        let settled = Arc::make_mut(&mut self.settled);
        let gone = &self.there_before.starts;
        let is_gone =
            |topic: TopicNumber, offset: Offset| gone.get(&topic).is_some_and(|start| offset < *start);
        let is_over = |status: Option<&Status>| matches!(status, Some(Status::Settled(how)) if *how != Settlement::DeadLettered);
        self.events.retain(|(topic, offset), stored| {
            let mut wanted =
                subs.iter().filter(|sub| sub.topic == *topic && stored.slots.contains(&sub.slot));
            let is_over = |sub: &Sub| is_over(settled.get(&sub.number).and_then(|of| of.get(offset)));
            !(is_gone(*topic, *offset) && wanted.all(is_over))
        });
        for sub in subs {
            let Some(statuses) = settled.get_mut(&sub.number) else { continue };
            statuses.retain(|offset, status| {
                let is_needed = self.events.contains_key(&(sub.topic, *offset));
                is_needed || !is_gone(sub.topic, *offset) || !is_over(Some(status))
            });
        }
        let begun = &mut self.begun;
        self.seen.retain(|_, (topic, first, body)| {
            let is_gone = is_gone(*topic, *first);
            if is_gone {
                begun.remove(body);
            }
            !is_gone
        });
        let needed = self.there_before.first_group.min(self.settled_to + 1);
        self.groups = self.groups.split_off(&StateSeq(needed));
    }

    /// What a log must hold, read in every way there is.
    pub(crate) fn check_events(&self, log: &dyn Log) {
        let mut topics: BTreeMap<TopicNumber, Vec<(Offset, &Arc<Stored>)>> = BTreeMap::new();
        for ((topic, offset), stored) in &self.events {
            if log.start(*topic) <= *offset {
                topics.entry(*topic).or_default().push((*offset, stored));
            }
        }
        for (topic, events) in topics {
            let offsets = events.iter().map(|(offset, _)| *offset).collect();
            let fetched = now(log.fetch(topic, offsets)).expect("they are fetched");
            assert_eq!(fetched.len(), events.len(), "events of topic {topic} are missing");
            for (found, (offset, stored)) in fetched.iter().zip(&events) {
                assert_eq!(found.offset, *offset);
                assert_eq!(found.event, stored.bytes, "offset {offset} of topic {topic}");
            }
            let (_, last) = events.last().expect("it has events");
            for slot in &last.slots {
                let expected = events.iter().filter(|(_, stored)| stored.slots.contains(slot));
                let expected: BTreeSet<Offset> = expected.map(|(offset, _)| *offset).collect();
                let found = scan_all(log, topic, *slot);
                assert!(expected.is_subset(&found), "a scan for slot {slot} misses events");
            }
        }
    }

    /// No frame is there that nobody published, and those that were seen are what they were.
    pub(crate) fn check_frames(&self, frames: &[Frame]) {
        let mut there = BTreeMap::new();
        for frame in frames {
            assert!(self.begun.contains(&*frame.body), "frame {} is invented", frame.lsn);
            there.insert(frame.lsn, frame);
        }
        let oldest = frames.first().map_or(Lsn(u64::MAX), |frame| frame.lsn);
        for (lsn, (topic, first, body)) in self.seen.range(oldest..) {
            let frame = there.get(lsn).unwrap_or_else(|| panic!("frame {lsn} was seen and is gone"));
            assert_eq!((frame.topic, frame.first, &*frame.body), (*topic, *first, &**body), "frame {lsn}");
        }
    }

    /// What holds after every start, whatever happened before.
    pub(crate) fn check(&self, node: &Node, subs: &[Sub]) {
        self.check_events(&*node.log);
        self.check_frames(&read_all(&node.log).expect("it is read"));
        for sub in subs {
            let (start, end) = (node.log.start(sub.topic), node.log.end(sub.topic));
            let gone = self.there_before.starts.get(&sub.topic);
            assert!(
                gone.is_none_or(|gone| *gone <= start),
                "what was let go long ago is back: from {start} on"
            );
            let statuses = self.statuses(sub.number);
            for ((topic, offset), stored) in &self.events {
                let needed = *topic == sub.topic && stored.slots.contains(&sub.slot);
                if needed && *offset < start {
                    let is_settled = matches!(statuses.get(offset), Some(Status::Settled(_)));
                    assert!(is_settled, "offset {offset} was let go before {} had settled it", sub.number);
                }
            }
            for (offset, status) in &statuses {
                assert!(*offset < end, "{status:?} is recorded of offset {offset}, the end is {end}");
                if *status == Status::Settled(Settlement::DeadLettered) {
                    let letter = node.disk.contents(&Node::letter_path(sub.number, *offset));
                    let letter = letter.unwrap_or_else(|| panic!("the dead letter of {offset} is missing"));
                    if let Some(stored) = self.events.get(&(sub.topic, *offset)) {
                        assert_eq!(letter, stored.bytes, "the dead letter of {offset}");
                    }
                }
            }
        }
    }

    /// Receives all there is: at once what is due, within a lock's time what is locked, never what is settled.
    pub(crate) fn check_deliveries(node: &mut Node, subs: &[Sub]) {
        for sub in subs {
            let start = node.log.start(sub.topic);
            let now = node.time();
            let before = node.ledger.statuses(sub.number);
            let wanted: BTreeSet<Offset> = node
                .ledger
                .events
                .iter()
                .filter(|((topic, offset), stored)| {
                    *topic == sub.topic && start <= *offset && stored.slots.contains(&sub.slot)
                })
                .map(|((_, offset), _)| *offset)
                .collect();
            let due = |offset: &Offset, now: Timestamp| match before.get(offset) {
                None => true,
                Some(Status::Leased(until) | Status::Waits(until)) => *until <= now,
                Some(Status::Settled(_) | Status::Condemned) => false,
            };
            let first = receive_all(node, sub);
            for offset in &first {
                assert!(due(offset, now), "offset {offset} is {:?} at {now}", before.get(offset));
            }
            let at_once: BTreeSet<Offset> = wanted.iter().filter(|o| due(o, now)).copied().collect();
            assert!(at_once.is_subset(&first), "{} gets {first:?} of {at_once:?}", sub.number);
            node.advance(LOCK + Duration::from_secs(1)).expect("time passes");
            let later = receive_all(node, sub);
            let waits = node.time();
            let in_time = wanted.iter().filter(|o| due(o, waits) && !first.contains(o)).copied();
            let in_time: BTreeSet<Offset> = in_time.collect();
            // What was given up when its lock ran out for the last time does not come again.
            let after = node.ledger.statuses(sub.number);
            let came = |offset: &Offset| {
                later.contains(offset)
                    || matches!(after.get(offset), Some(Status::Settled(_) | Status::Condemned))
            };
            assert!(in_time.iter().all(came), "{} gets {later:?} of {in_time:?}", sub.number);
        }
    }
}

fn receive_all(node: &mut Node, sub: &Sub) -> BTreeSet<Offset> {
    let mut all = BTreeSet::new();
    loop {
        let received = node.receive(sub, 20).expect("it is received");
        if received.is_empty() {
            return all;
        }
        for (token, _) in received {
            assert!(all.insert(token.offset), "offset {} has two holders", token.offset);
        }
    }
}

pub(crate) fn scan_all(log: &dyn Log, topic: TopicNumber, slot: Slot) -> BTreeSet<Offset> {
    let (mut from, end) = (Offset(0), log.end(topic));
    let mut found = BTreeSet::new();
    while from < end {
        let scanned = now(log.scan(topic, slot, from, 7)).expect("it is scanned");
        assert!(from.0 < scanned.next, "a scan gets on");
        from = Offset(scanned.next);
        found.extend(scanned.matches.iter().map(|matched| matched.offset));
    }
    found
}

/// What was recorded in a group.
fn decisions((_, (_, group)): (&StateSeq, &(Timestamp, Arc<[u8]>))) -> Vec<Decision> {
    let (mut input, mut decisions) = (&**group, Vec::new());
    while !input.is_empty() {
        decisions.push(Decision::decode(&mut input).expect("a group is whole"));
    }
    decisions
}

fn apply(statuses: &mut BTreeMap<Offset, Status>, decision: &Decision) {
    match decision {
        Decision::Reset { .. } | Decision::Gone { .. } => statuses.clear(),
        Decision::Leased { deadline, events, .. } => {
            statuses.extend(events.iter().map(|held| (held.offset, Status::Leased(*deadline))));
        }
        Decision::Renewed { deadline, offsets, .. } => {
            for offset in offsets {
                if let Some(Status::Leased(until)) = statuses.get_mut(offset) {
                    *until = *deadline;
                }
            }
        }
        Decision::Returned { held, due, .. } => {
            statuses.insert(held.offset, Status::Waits(*due));
        }
        Decision::Condemned { held, .. } => {
            statuses.insert(held.offset, Status::Condemned);
        }
        Decision::Settled { how, offsets, .. } => {
            statuses.extend(offsets.iter().map(|offset| (*offset, Status::Settled(*how))));
        }
    }
}
