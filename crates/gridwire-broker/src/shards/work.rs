//! What the shards' drivers let out into the world: reads of the log, attempts, dead letters.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use gridwire_core::dead_letter::LetterGuid;
use gridwire_core::event::{DeliverySchema, Event};
use gridwire_core::ids::{Offset, Slot, SubscriptionNumber, TopicNumber};
use gridwire_core::planted::planted;
use gridwire_core::render;
use gridwire_core::routing::{SubscriptionRoute, TopicKind};
use gridwire_core::shard::{DeadLetterReason, LastAttempt, Position};
use gridwire_core::time::Timestamp;
use gridwire_outside::{Clock, Rng};
use gridwire_store::{Log, Matched, Matches};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::driver::Attempting;
use crate::dead_letter::DeadLetters;
use crate::deliveries::{Deliveries, Delivery};
use crate::metrics::Metrics;
use crate::push::{Attempt, AttemptKey, Dispatcher, Finished, Report};

/// A pause before a failed read is reported: the store is in trouble, and asking again at once would only
/// add to it.
const READ_RETRY: Duration = Duration::from_secs(1);
/// A mass expiry must not push everything else out of what is remembered.
const ENDS_SHOWN_MAX: usize = 100;
/// Neither must a few of the largest batches.
const BATCH_SHOWN_MAX: usize = 100;
/// How long the write of a dead letter may take: what hangs counts as down. The thread that hangs keeps its turn, so
/// there are no more of them than writes at a time.
const LETTER_TIMEOUT: Duration = Duration::from_secs(30);

/// Matches in one step of a count, and the pause before each: a count keeps a reader busy for a small part of the time,
/// and the shard for less.
const COUNT_MAX: usize = 4_096;
const COUNT_PAUSE: Duration = Duration::from_millis(5);

/// Everything around the shards that does something.
#[derive(Debug)]
pub(crate) struct Outside {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) dead_letters: DeadLetters,
    /// Whose dead letters could not be written, last we tried.
    pub(crate) missed: Missed,
    pub(crate) deliveries: Deliveries,
    pub(crate) metrics: Arc<Metrics>,
    /// How much of the jitter there may be is used, in `0.0..=1.0`.
    pub(crate) retry_jitter: f64,
    /// Cancelled when the broker cannot keep its promises any more: the process must end.
    pub(crate) fatal: CancellationToken,
}

/// How a piece of work ended.
pub(super) enum Done {
    Nothing,
    Scanned {
        subscription: SubscriptionNumber,
        from: Offset,
        positions: Vec<Position>,
        lost: Vec<Range<u64>>,
        next: u64,
    },
    ScanFailed {
        subscription: SubscriptionNumber,
    },
    /// A step of a count.
    Counted {
        subscription: SubscriptionNumber,
        from: Offset,
        positions: Vec<Position>,
        next: u64,
        start: Offset,
    },
    CountFailed {
        subscription: SubscriptionNumber,
    },
    /// Attempts that did not start: their events are no longer there, could not be read just now, or had no place in
    /// their request.
    Unstarted {
        subscription: SubscriptionNumber,
        gone: Vec<Attempting>,
        unread: Vec<Attempting>,
        not_sent: Vec<Attempting>,
    },
    /// The event of a dead letter is no longer there.
    LetterGone {
        subscription: SubscriptionNumber,
        offset: Offset,
    },
    /// The event of a dead letter could not be read just now.
    LetterUnread {
        subscription: SubscriptionNumber,
        offset: Offset,
    },
    DeadLetter {
        subscription: SubscriptionNumber,
        offset: Offset,
        written: bool,
    },
    /// Attempts that ended in a panic before they were under way. Some of them may be, and report for themselves.
    AttemptsPanicked {
        subscription: SubscriptionNumber,
        attempts: Vec<Attempting>,
    },
}

/// Work under way that a queue waits for: it does nothing more about that before it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    Scan(SubscriptionNumber),
    Count(SubscriptionNumber),
    Attempts(SubscriptionNumber, Vec<Attempting>),
    DeadLetter(SubscriptionNumber, Offset),
}

/// A scan for a count.
pub(super) struct CountAsked {
    pub(super) subscription: SubscriptionNumber,
    pub(super) topic: TopicNumber,
    pub(super) slot: Slot,
    pub(super) from: Offset,
}

/// A dead letter to be written.
pub(super) struct Letter {
    pub(super) topic: TopicNumber,
    pub(super) offset: Offset,
    pub(super) attempts: u32,
    pub(super) reason: DeadLetterReason,
    pub(super) last: LastAttempt,
}

impl Outside {
    pub(super) async fn scan(
        self: Arc<Self>,
        subscription: SubscriptionNumber,
        topic: TopicNumber,
        slot: Slot,
        from: Offset,
        max: usize,
    ) -> Done {
        match self.log.scan(topic, slot, from, max).await {
            Ok(found) => {
                let positions = positions(&found);
                Done::Scanned { subscription, from, positions, lost: found.lost, next: found.next }
            }
            Err(error) => {
                tracing::error!(%error, %subscription, %from, "failed to scan the log for a subscription");
                self.clock.sleep(READ_RETRY).await;
                Done::ScanFailed { subscription }
            }
        }
    }

    /// One step of a count. The start of the log is asked for after the scan, so that it says what that may have
    /// missed.
    pub(super) async fn count(self: Arc<Self>, asked: CountAsked) -> Done {
        let CountAsked { subscription, topic, slot, from } = asked;
        let found = loop {
            self.clock.sleep(COUNT_PAUSE).await;
            match self.log.scan_slice(topic, slot, from, COUNT_MAX).await {
                Ok(None) => {}
                Ok(Some(found)) => break Ok(found),
                Err(error) => break Err(error),
            }
        };
        match found {
            Ok(found) => {
                let start = self.log.start(topic);
                Done::Counted { subscription, from, positions: positions(&found), next: found.next, start }
            }
            Err(error) => {
                tracing::error!(%error, %subscription, %from, "failed to count a subscription's events");
                self.clock.sleep(READ_RETRY).await;
                Done::CountFailed { subscription }
            }
        }
    }

    /// What a queue waits for has failed for a reason that is our own fault. It is reported a while later: the same may
    /// happen again.
    pub(super) async fn after_panic(self: Arc<Self>, awaited: Awaited) -> Done {
        tracing::error!(?awaited, "a panic has ended a piece of work, which is made again");
        self.clock.sleep(READ_RETRY).await;
        match awaited {
            Awaited::Scan(subscription) => Done::ScanFailed { subscription },
            Awaited::Count(subscription) => Done::CountFailed { subscription },
            Awaited::Attempts(subscription, attempts) => Done::AttemptsPanicked { subscription, attempts },
            Awaited::DeadLetter(subscription, offset) => {
                Done::DeadLetter { subscription, offset, written: false }
            }
        }
    }

    /// Reads the events, renders them and hands them to the dispatcher.
    pub(super) async fn attempt(
        self: Arc<Self>,
        route: Arc<SubscriptionRoute>,
        attempts: Vec<Attempting>,
        reports: mpsc::Sender<Report>,
    ) -> Done {
        let subscription = route.number;
        if route.form().is_none() {
            return Done::Nothing;
        }
        let mut offsets: Vec<Offset> = attempts.iter().map(|attempt| attempt.offset).collect();
        offsets.sort_unstable();
        let fetched = match self.log.fetch(route.topic, offsets).await {
            Ok(fetched) => fetched,
            Err(error) => {
                // What is lost is left out of an answer; an error says nothing of any of them.
                tracing::error!(%error, %subscription, "failed to read events for delivery");
                self.clock.sleep(READ_RETRY).await;
                return Done::Unstarted {
                    subscription,
                    gone: Vec::new(),
                    unread: attempts,
                    not_sent: Vec::new(),
                };
            }
        };
        let (mut gone, mut not_sent) = (Vec::new(), Vec::new());
        // Events of one request follow each other.
        for together in attempts.chunk_by(|left, right| left.id == right.id) {
            let mut found = Vec::with_capacity(together.len());
            let mut events = Vec::with_capacity(together.len());
            for attempt in together {
                let place = fetched.binary_search_by_key(&attempt.offset, |event| event.offset);
                let event = place.ok().and_then(|place| {
                    let fetched = &fetched[place];
                    let mut event = Event::decode(&fetched.event)?;
                    if planted("retry-with-fresh-id") && attempt.attempt > 1 {
                        event.id = format!("{}-again", event.id).into();
                    }
                    Some((event, fetched.time))
                });
                match event {
                    Some(event) => {
                        found.push(*attempt);
                        events.push(event);
                    }
                    None => gone.push(*attempt),
                }
            }
            not_sent.extend(self.start_request(&route, &found, &events, &reports));
        }
        if gone.is_empty() && not_sent.is_empty() {
            return Done::Nothing;
        }
        Done::Unstarted { subscription, gone, unread: Vec::new(), not_sent }
    }

    /// Hands the dispatcher the request for events that the shard wants to travel together. Returns those that had no
    /// place in it: the shard counts one request, against its endpoint's pace and room, so there is one.
    fn start_request(
        &self,
        route: &Arc<SubscriptionRoute>,
        attempts: &[Attempting],
        events: &[(Event<'_>, Timestamp)],
        reports: &mpsc::Sender<Report>,
    ) -> Vec<Attempting> {
        let Some((schema, attributes)) = route.form() else { return Vec::new() };
        let shown: Vec<_> = events
            .iter()
            .map(|(event, published)| {
                let topic_resource_id = route.topic_of(event);
                (event, render::DeliveryContext { topic_resource_id, published: *published })
            })
            .collect();
        let batching = route.policy.batching();
        let Some(request) = render::delivery_request(&shown, schema, attributes, batching) else {
            return Vec::new();
        };
        // In ascending order, as they were given.
        let mut sent = request.events.iter().peekable();
        let has_no_place = |index: &usize| sent.next_if(|place| *place == index).is_none();
        let left = (0..attempts.len()).filter(has_no_place).map(|index| attempts[index]).collect();
        let first = attempts[request.events[0]];
        let event = &events[request.events[0]].0;
        // The service counts the attempts already made: 0 with the first.
        let made = first.attempt.saturating_sub(1);
        let own = render::delivery_headers(event, &route.name, made, schema);
        let mut headers: Vec<(Cow<'static, str>, String)> =
            own.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect();
        headers.extend(request.attributes.into_iter().map(|(name, value)| (Cow::Owned(name), value)));
        let key = AttemptKey {
            subscription: route.number,
            offsets: request.events.iter().map(|index| attempts[*index].offset).collect(),
            id: first.id,
            attempt: first.attempt,
        };
        let content_type = render::content_type(schema, batching.is_some());
        let body = Bytes::from(request.body);
        let attempt = Attempt { subscription: Arc::clone(route), key, body, content_type, headers };
        self.dispatcher.start(attempt, reports);
        left
    }

    pub(super) async fn dead_letter(self: Arc<Self>, route: Arc<SubscriptionRoute>, letter: Letter) -> Done {
        let subscription = route.number;
        let offset = letter.offset;
        let Some(destination) = &route.dead_letter else {
            // The destination was taken away after the event was given up: it counts as down.
            return Done::DeadLetter { subscription, offset, written: false };
        };
        let fetched = match self.log.fetch(letter.topic, vec![offset]).await {
            Ok(fetched) => fetched,
            Err(error) => {
                tracing::error!(%error, %subscription, "failed to read an event for its dead letter");
                self.clock.sleep(READ_RETRY).await;
                return Done::LetterUnread { subscription, offset };
            }
        };
        let Some((event, published)) =
            fetched.first().and_then(|fetched| Some((Event::decode(&fetched.event)?, fetched.time)))
        else {
            return Done::LetterGone { subscription, offset };
        };
        let context = render::DeliveryContext { topic_resource_id: route.topic_of(&event), published };
        let last_outcome = last_outcome(&route, &letter);
        let (schema, attributes) = route.form().unwrap_or((DeliverySchema::CloudEvent, &[]));
        let custom_properties = render::open_attributes(&event, attributes);
        let info = render::DeadLetterInfo {
            reason: letter.reason,
            attempts: letter.attempts,
            last_outcome,
            last_attempt: letter.last.at,
            last_http_status: letter.last.status,
            custom_properties: &custom_properties,
        };
        let mut content = Vec::new();
        render::dead_letter(&event, &info, route.topic_kind, schema, context, &mut content);
        let guid = LetterGuid::of(self.dead_letters.store(), subscription, offset).to_string();
        let place = render::DeadLetterPlace {
            kind: route.topic_kind,
            namespace: &route.namespace_name,
            topic: &route.topic_name,
            subscription: &route.name,
        };
        // By publish time, so that a repeat after a crash finds the same path and overwrites its own copy.
        let path = render::dead_letter_path(&place, published, &guid);
        let written = tokio::select! {
            biased;
            written = self.dead_letters.write(destination, &path, content) => written,
            () = self.clock.sleep(LETTER_TIMEOUT) => Err(io::ErrorKind::TimedOut.into()),
        };
        self.missed.tell(&route, &written);
        self.metrics.subscription(subscription).letter(letter.reason, written.is_ok());
        Done::DeadLetter { subscription, offset, written: written.is_ok() }
    }

    /// Remembers, for whoever watches, events that ended without delivery. Of many that end at once the last do.
    pub(super) fn note_ends(
        &self,
        subscription: SubscriptionNumber,
        offsets: &[Offset],
        outcome: &'static str,
    ) {
        let time = self.clock.now();
        let shown = &offsets[offsets.len().saturating_sub(ENDS_SHOWN_MAX)..];
        self.deliveries.extend(shown.iter().map(|&offset| Delivery {
            seq: 0,
            subscription,
            time,
            offset,
            attempt: 0,
            batch: 1,
            outcome,
            status: None,
            latency: Duration::ZERO,
        }));
    }

    /// Counts a finished attempt and remembers it for whoever watches. Of a large batch the first events are.
    pub(super) fn note_attempt(&self, finished: &Finished) {
        let key = &finished.key;
        let batch = key.offsets.len();
        self.metrics.subscription(key.subscription).attempted(finished.outcome, batch as u64);
        self.metrics.attempt_seconds.observe(finished.latency);
        let time = self.clock.now();
        self.deliveries.extend(key.offsets.iter().take(BATCH_SHOWN_MAX).map(|&offset| Delivery {
            seq: 0,
            subscription: key.subscription,
            time,
            offset,
            attempt: key.attempt,
            batch,
            outcome: finished.outcome.as_str(),
            status: finished.status,
            latency: finished.latency,
        }));
    }
}

fn positions(found: &Matches) -> Vec<Position> {
    let position =
        |matched: &Matched| Position { offset: matched.offset, time: matched.time, size: matched.size };
    found.matches.iter().map(position).collect()
}

/// The subscriptions whose dead letters could not be written, so that an outage is told of twice, when it begins and
/// when it ends, and not once for each of a hundred thousand letters.
#[derive(Debug, Default)]
pub(crate) struct Missed(Mutex<HashSet<SubscriptionNumber>>);

impl Missed {
    fn tell(&self, route: &SubscriptionRoute, written: &io::Result<()>) {
        let mut missed = self.0.lock().expect("no panic while the set is held");
        match written {
            Err(error) => {
                if missed.insert(route.number) {
                    tracing::warn!(
                        %error,
                        subscription = route.resource_id,
                        "failed to write a dead letter; all of this subscription wait and are tried again"
                    );
                }
            }
            Ok(()) => {
                if missed.remove(&route.number) {
                    tracing::info!(subscription = route.resource_id, "dead letters can be written again");
                }
            }
        }
    }

    pub(super) fn forget(&self, subscription: SubscriptionNumber) {
        self.0.lock().expect("no panic while the set is held").remove(&subscription);
    }
}

/// What is said of the last delivery: a push's outcome, or how a pull delivery ended.
fn last_outcome(route: &SubscriptionRoute, letter: &Letter) -> Option<&'static str> {
    if letter.attempts == 0 {
        return None;
    }
    if route.form().is_some() {
        return Some(letter.last.outcome().as_str());
    }
    Some(match (route.topic_kind, letter.reason) {
        (TopicKind::Custom | TopicKind::Domain | TopicKind::Namespace, DeadLetterReason::Rejected) => {
            render::DeadLetterInfo::REJECTED
        }
        _ => render::DeadLetterInfo::NOT_SETTLED,
    })
}
