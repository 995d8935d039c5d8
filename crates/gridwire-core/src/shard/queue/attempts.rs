//! Starting push attempts: which events go out now, and which of them together.
//!
//! Without batching each event has a request of its own. With it, what waits when a request may start shares the
//! request, up to the subscription's limits; nothing is held back to fill one. Events of one request were tried
//! equally often, so that what its head says of attempts holds for each of them, and they share its outcome.

use std::collections::BTreeMap;

use super::Queue;
use crate::endpoint::EndpointHealth;
use crate::routing::{Batching, QueuePolicy};
use crate::shard::decision::Held;
use crate::shard::{Effect, Output};
use crate::time::Timestamp;

/// Requests of one push subscription at once, as long as its endpoint copes with them. Twice the connections to its
/// endpoint, so that the next one is always at hand, and no more, because a crash repeats those in flight.
const REQUESTS_IN_FLIGHT_MAX: u32 = 64;
/// The same with batching. As many as there are connections: what waits here may still share a request, what waits
/// for a connection may not.
const BATCHES_IN_FLIGHT_MAX: u32 = 32;
/// Events in all those requests, at which no other is started: two of the largest batches. A crash repeats them.
const EVENTS_IN_FLIGHT_MAX: usize = 10_000;
/// About what an event weighs in a body beside what is stored of it: names of members and the topic's id. Whoever
/// writes the body knows exactly, and may cut a batch once more.
const ENVELOPE_BYTES: usize = 256;

/// Push attempts in flight; not recorded, so a crash repeats them, uncounted.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    events: BTreeMap<u64, Flight>,
    /// Events of each request that have not ended.
    requests: BTreeMap<u64, usize>,
    last_id: u64,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    held: Held,
    /// Of the request.
    id: u64,
}

impl InFlight {
    /// A new request's id.
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn begin(&mut self, held: Held, id: u64) {
        self.events.insert(held.offset.0, Flight { held, id });
        *self.requests.entry(id).or_default() += 1;
    }

    /// Takes an event out, and tells whether its request has ended with it. `None` when it is not in flight in this
    /// request.
    pub(super) fn end(&mut self, offset: u64, id: u64) -> Option<(Held, bool)> {
        let flight = self.events.get(&offset).filter(|flight| flight.id == id)?;
        let held = flight.held;
        self.events.remove(&offset);
        let left = self.requests.get_mut(&id).expect("a request as long as it has an event");
        *left -= 1;
        let ends_request = *left == 0;
        if ends_request {
            self.requests.remove(&id);
        }
        Some((held, ends_request))
    }

    /// The lowest offset.
    pub(super) fn first(&self) -> Option<u64> {
        self.events.keys().next().copied()
    }

    pub(super) fn offsets(&self) -> impl Iterator<Item = u64> + '_ {
        self.events.keys().copied()
    }

    /// Events.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.len()
    }

    /// The newest request.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// The request an event is in.
    #[cfg(test)]
    pub(super) fn id_of(&self, offset: u64) -> u64 {
        self.events[&offset].id
    }
}

/// A good opinion of an endpoint.
pub(super) fn trusted(policy: &QueuePolicy) -> EndpointHealth {
    let requests_max =
        if policy.batching().is_some() { BATCHES_IN_FLIGHT_MAX } else { REQUESTS_IN_FLIGHT_MAX };
    EndpointHealth::new(requests_max)
}

impl Queue {
    pub(super) fn start_attempts(&mut self, tail: u64, now: Timestamp, out: &mut Output) {
        let batching = self.policy.batching();
        while self.has_room() && self.pacer.may_start(now) {
            let Some(first) = self.next_attempt(tail, now, out) else { break };
            self.pacer.started(now);
            let id = self.in_flight.next_id();
            self.start(first, id, out);
            let Some(Batching { events_max, bytes_max }) = batching else { continue };
            let (mut events, mut bytes) = (1, weight(&first));
            while events < events_max {
                let Some(next) = self.next_attempt(tail, now, out) else { break };
                bytes += weight(&next);
                if next.attempts != first.attempts || bytes_max < bytes {
                    break;
                }
                self.start(next, id, out);
                events += 1;
            }
        }
    }

    /// Whether another request may be in flight, if its pace lets it.
    pub(super) fn has_room(&self) -> bool {
        self.endpoint.has_room(self.in_flight.requests()) && self.in_flight.len() < EVENTS_IN_FLIGHT_MAX
    }

    /// What would be attempted next, already counted. What may no longer be attempted is given up on the way.
    fn next_attempt(&mut self, tail: u64, now: Timestamp, out: &mut Output) -> Option<Held> {
        loop {
            let held = self.peek_next()?;
            if held.attempts <= self.policy.attempts_max {
                return Some(held);
            }
            self.take_next();
            self.give_up_undelivered(held, tail, now, out);
        }
    }

    /// Starts what [`Queue::next_attempt`] found, as a part of request `id`.
    fn start(&mut self, held: Held, id: u64, out: &mut Output) {
        self.take_next();
        self.in_flight.begin(held, id);
        out.effects.push(Effect::Attempt {
            subscription: self.number,
            topic: self.topic,
            offset: held.offset,
            attempt: held.attempts,
            id,
        });
    }
}

fn weight(held: &Held) -> usize {
    held.size as usize + ENVELOPE_BYTES
}
