//! The judge: is told what was asked and answered, and says which promise was broken (`reliability` contract,
//! section 4.2).
//!
//! It does no I/O and knows nothing of the simulation: whoever drives a broker tells it of every publish, delivery,
//! receive and settlement, with the broker's time of both the question and the answer, and of every crash. Its own
//! model of the broker is a sum of facts per (event, subscription); who should get an event is the affair of
//! [`gridwire_core::filter::oracle`]. What may or may not have happened (a cut connection, a 503) only ever widens
//! what is allowed, so what it reports is broken for sure.
//!
//! The cast: [`Checker`] (this file: publishes, crashes, the end), `pull` and `push` (deliveries), `counts` (the broker's own figures), `forms` (what an
//! event must look like when it arrives).

mod counts;
mod forms;
mod pull;
mod push;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use gridwire_core::event::{DeliverySchema, Event};
use gridwire_core::filter::{FilterSpec, oracle};
use gridwire_core::routing::{Batching, TopicKind};
use gridwire_core::time::Timestamp;

pub use pull::{Received, TokenResult, Verb};
pub use push::{Answer, DeliveryId};

/// How long before a power cut a decision may have been recorded and still be taken back: the 100 ms of the
/// promise, and what answers and flushes take on their way.
const TAKEN_BACK: Duration = Duration::from_millis(250);
/// How long after an endpoint's answer a crash may still come before the outcome is recorded.
const RECORDED_WITHIN: Duration = Duration::from_secs(1);
/// How far apart two readings of one moment may be: a timer fires late when its shard is busy.
const SLACK: Duration = Duration::from_millis(100);
/// How long a process tries to write a dead letter at least: ten seconds, then sixty.
const LETTER_TRIES: Duration = Duration::from_secs(70);
/// Violations kept: the first tell the story.
const VIOLATIONS_MAX: usize = 20;

/// A topic as its publishers and subscribers know it.
#[derive(Clone, Debug)]
pub struct Topic {
    pub name: String,
    pub kind: TopicKind,
    pub resource_id: String,
}

/// A subscription as its owner means it.
#[derive(Clone, Debug)]
pub struct Subscription {
    pub name: String,
    pub topic: String,
    pub mode: Mode,
    pub filter: FilterSpec,
    pub attempts_max: u32,
    pub time_to_live: Duration,
    pub dead_letter: bool,
    /// It forwards, and what is seen of it are the deliveries of the one subscription behind the target. A crash may
    /// put an event there twice, and each copy is delivered for itself, as often as it takes.
    pub forwarded: bool,
}

/// How a subscription's events come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pull {
        lock: Duration,
    },
    /// With `batching` several events may share a request.
    Push {
        schema: DeliverySchema,
        batching: Option<Batching>,
    },
}

/// How a publish ended, as its caller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx.
    Accepted,
    /// 4xx: nothing of it may ever be seen.
    Refused,
    /// Anything else: it may have happened.
    Unknown,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// A name of the table in section 4.2.
    pub kind: &'static str,
    pub when: Timestamp,
    /// The event's id, where it is about one.
    pub event: String,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: event `{}` at {}: {}", self.kind, self.event, self.when, self.what)
    }
}

/// Figures of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events in accepted publishes.
    pub accepted: u64,
    /// Events in publishes that may have happened.
    pub unknown: u64,
    /// Deliveries seen by webhooks and receivers.
    pub deliveries: u64,
    /// Of them, those of an event that was accepted before.
    pub repeated: u64,
    pub dead_letters: u64,
    /// Requests to subscriptions whose events may share them, and the events in them.
    pub batches: u64,
    pub batched: u64,
    /// Of those requests, those with several events, and the most events of one.
    pub shared: u64,
    pub batch_most: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.unknown += other.unknown;
        self.deliveries += other.deliveries;
        self.repeated += other.repeated;
        self.dead_letters += other.dead_letters;
        self.batches += other.batches;
        self.batched += other.batched;
        self.shared += other.shared;
        self.batch_most = self.batch_most.max(other.batch_most);
    }
}

/// Names a publish call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(u64);

/// See the module.
#[derive(Debug, Default)]
pub struct Checker {
    topics: BTreeMap<String, Topic>,
    subscriptions: BTreeMap<String, Subscription>,
    calls: Vec<Call>,
    events: Vec<Published>,
    /// By topic and event id.
    ids: BTreeMap<(String, String), usize>,
    /// By (event, subscription); only where the subscription wants the event.
    items: BTreeMap<(usize, String), Item>,
    crashes: Vec<Crash>,
    down_since: Option<Timestamp>,
    /// While the disk was full, decisions waited.
    full: Vec<(Timestamp, Timestamp)>,
    /// When dead letters could not be written.
    letters_down: Vec<(Timestamp, Timestamp)>,
    tokens: BTreeMap<String, pull::Token>,
    pushes: Vec<push::Delivery>,
    unknown_receives: BTreeMap<String, u32>,
    /// Subscriptions that are being made, that are being removed or gone, and that are gone.
    coming: BTreeSet<String>,
    leaving: BTreeSet<String>,
    gone: BTreeSet<String>,
    /// Whether settlements are flushed before they are answered: then no power cut takes one back.
    pub settlements_are_flushed: bool,
    /// How much later than in good order a flush may be: a real machine may have no processor free for it.
    pub flushes_late_by: Duration,
    /// How long a dead letter waits for a destination that is down.
    pub letter_patience: Duration,
    violations: Vec<Violation>,
    counts: Counts,
}

#[derive(Debug)]
struct Call {
    began: Timestamp,
    outcome: Option<Outcome>,
    events: std::ops::Range<usize>,
    /// An event of it came out.
    seen: bool,
}

#[derive(Debug)]
struct Published {
    topic: String,
    call: usize,
    event: Event<'static>,
}

/// What is known of one event in one subscription.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own, and all pairs of them occur")]
struct Item {
    /// The subscription was not surely there when the publish began.
    optional: bool,
    /// Deliveries seen.
    seen: u32,
    /// The highest delivery count that was told, and when.
    count: u32,
    counted_at: Option<Timestamp>,
    /// Settled by a receiver or accepted by its endpoint, for sure.
    done: Option<(Timestamp, &'static str)>,
    /// May be settled: an answer got lost.
    perhaps_done: bool,
    /// The receiver rejected it, or the endpoint's status was final.
    given_up: bool,
    /// Not to be delivered before the first; known since the second.
    not_before: Option<(Timestamp, Timestamp)>,
    /// The latest lock that was handed out.
    token: Option<String>,
    dead_lettered: bool,
}

#[derive(Clone, Copy, Debug)]
struct Crash {
    when: Timestamp,
    power: bool,
    /// Since when nobody has served: what was not durable then is not yet.
    down_since: Timestamp,
    /// When the last flush of decisions that succeeded had begun, where that is known: what was answered before is
    /// durable.
    flushed: Option<Timestamp>,
}

impl Checker {
    pub fn topic(&mut self, topic: Topic) {
        self.topics.insert(topic.name.clone(), topic);
    }

    /// A subscription that exists before the first publish to its topic begins.
    pub fn subscription(&mut self, subscription: Subscription) {
        self.subscriptions.insert(subscription.name.clone(), subscription);
    }

    /// A subscription begins to be made: from now on it may be there.
    pub fn subscribing(&mut self, subscription: Subscription) {
        for (index, published) in self.events.iter().enumerate() {
            let perhaps = matches!(self.calls[published.call].outcome, None | Some(Outcome::Unknown));
            if published.topic == subscription.topic
                && perhaps
                && oracle::matches(&subscription.filter, &published.event)
            {
                let item = Item { optional: true, ..Item::default() };
                self.items.insert((index, subscription.name.clone()), item);
            }
        }
        self.coming.insert(subscription.name.clone());
        self.subscription(subscription);
    }

    /// It is there: every publish from now on meets it.
    pub fn subscribed(&mut self, name: &str) {
        self.coming.remove(name);
    }

    /// It begins to be removed: nothing has to come any more.
    pub fn unsubscribing(&mut self, name: &str) {
        self.leaving.insert(name.to_owned());
    }

    /// It is gone: no publish from now on meets it.
    pub fn unsubscribed(&mut self, name: &str) {
        self.gone.insert(name.to_owned());
    }

    // ---- publishing -------------------------------------------------------------------------------

    /// A publish call begins. Ids are unique in a topic.
    pub fn publishing(&mut self, topic: &str, events: Vec<Event<'static>>, now: Timestamp) -> CallId {
        let call = self.calls.len();
        let first = self.events.len();
        for event in events {
            let index = self.events.len();
            let wanted = self.subscriptions.values().filter(|subscription| {
                subscription.topic == topic
                    && !self.gone.contains(&subscription.name)
                    && oracle::matches(&subscription.filter, &event)
            });
            let wanted: Vec<String> = wanted.map(|subscription| subscription.name.clone()).collect();
            for name in wanted {
                let optional = self.coming.contains(&name);
                self.items.insert((index, name), Item { optional, ..Item::default() });
            }
            let before = self.ids.insert((topic.to_owned(), event.id.to_string()), index);
            assert!(before.is_none(), "event ids are unique");
            self.events.push(Published { topic: topic.to_owned(), call, event });
        }
        self.calls.push(Call { began: now, outcome: None, events: first..self.events.len(), seen: false });
        CallId(call as u64)
    }

    /// It ended.
    pub fn published(&mut self, call: CallId, outcome: Outcome, now: Timestamp) {
        let index = usize::try_from(call.0).expect("made by us");
        let call = &mut self.calls[index];
        call.outcome = Some(outcome);
        let events = call.events.len() as u64;
        match outcome {
            Outcome::Accepted => self.counts.accepted += events,
            Outcome::Unknown => self.counts.unknown += events,
            Outcome::Refused if call.seen => {
                let event = call.events.start;
                self.report("unexpected", event, now, "it was delivered, and its publish was refused");
            }
            Outcome::Refused => {}
        }
    }

    // ---- faults -----------------------------------------------------------------------------------

    /// The broker serves (again): whatever it found at its start it has made durable.
    pub fn serves(&mut self) {
        self.down_since = None;
    }

    pub fn killed(&mut self, now: Timestamp) {
        self.crashed(now, false, None);
    }

    pub fn power_cut(&mut self, now: Timestamp) {
        self.crashed(now, true, None);
    }

    /// The same where somebody has watched the flushes: the last one of decisions that succeeded had begun at `flushed`.
    pub fn power_cut_after_flush(&mut self, now: Timestamp, flushed: Timestamp) {
        self.crashed(now, true, Some(flushed));
    }

    fn crashed(&mut self, when: Timestamp, power: bool, flushed: Option<Timestamp>) {
        let down_since = *self.down_since.get_or_insert(when);
        self.crashes.push(Crash { when, power, down_since, flushed });
    }

    /// The disk had no space between these moments.
    pub fn disk_was_full(&mut self, from: Timestamp, to: Timestamp) {
        self.full.push((from, to));
    }

    /// Dead letters could not be written between these moments.
    pub fn letters_were_down(&mut self, from: Timestamp, to: Timestamp) {
        self.letters_down.push((from, to));
    }

    /// Whether the dead letter of an event published at `began` may have waited until its time was over: from its
    /// first failed try on, and not for less than every process gives a destination.
    fn letter_may_be_given_up(&self, began: Timestamp) -> bool {
        let since = self.letters_down.iter().filter(|(_, to)| began <= *to).map(|(from, _)| *from).min();
        let down_to = self.letters_down.iter().map(|(_, to)| *to).max();
        since
            .zip(down_to)
            .is_some_and(|(since, to)| (began + self.letter_patience).max(since + LETTER_TRIES) <= to + SLACK)
    }

    /// Whether a power cut may have taken back what was decided and answered between these moments.
    fn may_be_taken_back(&self, from: Timestamp, to: Timestamp) -> bool {
        let is_unsure = |crash: &Crash| match crash.flushed {
            Some(flushed) => flushed <= to,
            None => crash.down_since <= to + TAKEN_BACK + self.flushes_late_by,
        };
        let takes = |crash: &Crash| from <= crash.when && is_unsure(crash);
        !self.settlements_are_flushed && self.crashes.iter().any(|crash| crash.power && takes(crash))
    }

    /// Whether a crash may have come before what an endpoint answered then was recorded for good.
    fn may_be_unrecorded(&self, answered: Timestamp) -> bool {
        self.crashes.iter().any(|crash| {
            let waited = self.full.iter().any(|(from, to)| *from <= crash.when && answered <= *to);
            answered <= crash.when && (waited || crash.when <= answered + RECORDED_WITHIN)
        })
    }

    // ---- what arrives -----------------------------------------------------------------------------

    /// Finds out which event arrived, and whether it may: the item's key, or nothing when it may not.
    fn arrived(
        &mut self,
        subscription: &str,
        text: &[u8],
        is_letter: bool,
        now: Timestamp,
    ) -> Option<(usize, String)> {
        self.counts.deliveries += u64::from(!is_letter);
        let Some(owner) = self.subscriptions.get(subscription) else {
            self.report_other("unexpected", subscription, now, "no such subscription");
            return None;
        };
        let topic = &self.topics[&owner.topic];
        let shape = forms::Shape::of(owner, topic);
        let arrived = match forms::read(text) {
            Ok(arrived) => arrived,
            Err(why) => {
                let shown = String::from_utf8_lossy(text).into_owned();
                self.report_other("altered", subscription, now, &format!("{why}: {shown}"));
                return None;
            }
        };
        let key = (owner.topic.clone(), arrived.id.clone());
        let Some(&index) = self.ids.get(&key) else {
            let what = format!("it was never published, and came to `{subscription}`");
            self.report_other("unexpected", &arrived.id, now, &what);
            return None;
        };
        let published = &self.events[index];
        let call = published.call;
        if let Err(difference) = arrived.compare(&published.event, topic, shape) {
            self.report("altered", index, now, &format!("in `{subscription}`: {difference}"));
        }
        self.calls[call].seen = true;
        if self.calls[call].outcome == Some(Outcome::Refused) {
            self.report("unexpected", index, now, "its publish was refused");
        }
        let key = (index, subscription.to_owned());
        if !self.items.contains_key(&key) {
            let what = format!("`{subscription}` does not want it: {:?}", self.events[index].event);
            self.report("misrouted", index, now, &what);
            return None;
        }
        Some(key)
    }

    fn item(&mut self, key: &(usize, String)) -> &mut Item {
        self.items.get_mut(key).expect("it was found before")
    }

    // ---- the end ----------------------------------------------------------------------------------

    /// The content of a dead letter of this subscription.
    pub fn dead_letter(&mut self, subscription: &str, content: &[u8], now: Timestamp) {
        self.counts.dead_letters += 1;
        let Some(inner) = forms::unwrap_letter(content) else {
            self.report_other("altered", subscription, now, "the dead letter is no array of one event");
            return;
        };
        let Some(key) = self.arrived(subscription, &inner, true, now) else { return };
        let began = self.calls[self.events[key.0].call].began;
        let item = self.item(&key);
        item.dead_lettered = true;
        // What a power cut takes back of the decision to give it up does not take back its letter.
        if let Some((when, how)) = item.done
            && !self.may_be_unrecorded(when)
            && !self.may_be_taken_back(began, now)
        {
            self.report("zombie", key.0, now, &format!("`{subscription}` dead-lettered it, {how} at {when}"));
        }
    }

    /// Which events should still come to somebody, or be seen to be given up.
    pub fn outstanding(&self, now: Timestamp) -> Vec<(String, String)> {
        let due = self.items.iter().filter(|(key, item)| self.is_due(key, item, now));
        due.map(|((event, subscription), _)| (self.events[*event].event.id.to_string(), subscription.clone()))
            .collect()
    }

    fn is_due(&self, (event, subscription): &(usize, String), item: &Item, now: Timestamp) -> bool {
        let call = &self.calls[self.events[*event].call];
        if item.optional || self.leaving.contains(subscription) {
            return false;
        }
        let certain = call.outcome == Some(Outcome::Accepted) || call.seen;
        if !certain || call.outcome == Some(Outcome::Refused) || item.done.is_some() || item.perhaps_done {
            return false;
        }
        let owner = &self.subscriptions[subscription];
        if owner.dead_letter {
            return !item.dead_lettered && !self.letter_may_be_given_up(call.began);
        }
        let expired = call.began + owner.time_to_live <= now;
        !(item.given_up || expired || self.may_have_used_all_attempts(owner, item, call.began, now))
    }

    /// Attempts that nobody saw count too: an answer to receive that got lost, a connection refused.
    fn may_have_used_all_attempts(
        &self,
        owner: &Subscription,
        item: &Item,
        began: Timestamp,
        now: Timestamp,
    ) -> bool {
        let seen = item.seen.max(item.count);
        match owner.mode {
            Mode::Pull { .. } => {
                let unseen = self.unknown_receives.get(&owner.name).copied().unwrap_or(0);
                owner.attempts_max <= seen + unseen
            }
            Mode::Push { .. } => {
                owner.attempts_max <= seen || push::ladder(owner.attempts_max) <= now.since(began)
            }
        }
    }

    /// The end: everything that should have come has come, and every dead letter was told.
    pub fn finish(&mut self, now: Timestamp) {
        let missing: Vec<_> = self
            .items
            .iter()
            .filter(|(key, item)| self.is_due(key, item, now))
            .map(|(key, item)| (key.clone(), item.seen))
            .collect();
        for ((event, subscription), seen) in missing {
            let call = &self.calls[self.events[event].call];
            let kind = if call.outcome == Some(Outcome::Accepted) { "lost" } else { "torn_batch" };
            let what = format!("`{subscription}` did not get it to the end ({seen} deliveries seen)");
            self.report(kind, event, now, &what);
        }
        let wrong: Vec<_> = self
            .items
            .iter()
            .filter(|(key, item)| item.dead_lettered && !self.may_be_dead_lettered(key, item, now))
            .map(|(key, _)| key.clone())
            .collect();
        for (event, subscription) in wrong {
            let what = format!("`{subscription}` gave it up with no reason to");
            self.report("given_up", event, now, &what);
        }
    }

    fn may_be_dead_lettered(
        &self,
        (event, subscription): &(usize, String),
        item: &Item,
        now: Timestamp,
    ) -> bool {
        let owner = &self.subscriptions[subscription];
        let began = self.calls[self.events[*event].call].began;
        item.given_up
            || item.perhaps_done
            || began + owner.time_to_live <= now
            || self.may_have_used_all_attempts(owner, item, began, now)
    }

    /// Reports something that only the driver can see, such as a panic.
    pub fn report_other(&mut self, kind: &'static str, event: &str, when: Timestamp, what: &str) {
        if self.violations.len() < VIOLATIONS_MAX {
            let event = event.to_owned();
            self.violations.push(Violation { kind, when, event, what: what.to_owned() });
        }
    }

    fn report(&mut self, kind: &'static str, event: usize, when: Timestamp, what: &str) {
        let id = self.events[event].event.id.to_string();
        self.report_other(kind, &id, when, what);
    }

    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }
}

#[cfg(test)]
mod tests;
