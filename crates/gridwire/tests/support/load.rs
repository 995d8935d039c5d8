//! A load whose every answer is written down, and the judge of what was written (`reliability` promises 1 to 5).
//!
//! Publishers, receivers and webhooks work until the server is gone; what a lost answer leaves unknown is judged
//! as either.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::arm::{Namespace, Topic};
use super::pull::{Queue, Received};
use super::time::pause;
use super::{Client, Request, Sink, events, now};

pub(crate) const LOCK: Duration = Duration::from_secs(60);
/// A lock is granted a little later than it was asked for, and ends by the server's clock, not by ours.
const LOCK_SLACK: Duration = Duration::from_millis(500);
/// Held over the end of each round, by each receiver.
const HELD_MAX: usize = 8;

/// A small generator whose whole state is the seed that a failed run prints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Another one, for another thread.
    pub(crate) fn split(&mut self) -> Self {
        Self(self.below(u64::MAX) | 1)
    }
}

/// One received event in somebody's hands.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) received: Received,
    /// When its settlement was asked for: from then on it may be anybody's again.
    pub(crate) settling: Option<Instant>,
    /// When its acknowledgement was answered with success.
    pub(crate) acknowledged: Option<Instant>,
}

/// All that was asked and answered.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) attempted: HashSet<String>,
    /// Answered with success.
    pub(crate) published: HashSet<String>,
    /// By queue.
    pub(crate) holds: HashMap<&'static str, Vec<Hold>>,
    /// When the latest request that was answered with success was begun.
    pub(crate) latest: Option<Instant>,
    pub(crate) problems: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Load<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) namespace: &'a Namespace,
    pub(crate) topic: &'a Topic,
    pub(crate) journal: &'a Mutex<Journal>,
    /// Numbers the events of the whole test.
    pub(crate) next: &'a AtomicU64,
    pub(crate) ending: &'a AtomicBool,
}

impl Load<'_> {
    pub(crate) fn journal(&self) -> std::sync::MutexGuard<'_, Journal> {
        self.journal.lock().expect("no panic while the journal is held")
    }

    /// Whether to go on after a call; a failure before the end of the round is a problem.
    fn goes_on<T>(&self, what: &str, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if !self.ending.load(Ordering::SeqCst) {
                    self.journal().problems.push(format!("{what} failed on a running server: {error}"));
                }
                None
            }
        }
    }

    /// Publishes batches until the server is gone.
    pub(crate) fn publish(&self, prefix: &str, chance: &mut Chance) {
        let mut client = Client::new(self.address);
        loop {
            let count = 1 + chance.below(5);
            let ids: Vec<String> = (0..count)
                .map(|_| format!("{prefix}-{}", self.next.fetch_add(1, Ordering::Relaxed)))
                .collect();
            let request = self.request(prefix, &ids);
            self.journal().attempted.extend(ids.iter().cloned());
            let asked = now();
            let Some(answer) = self.goes_on("a publish", client.send(&request)) else { return };
            match answer.status {
                200 => {
                    let mut journal = self.journal();
                    journal.published.extend(ids);
                    journal.latest = journal.latest.max(Some(asked));
                }
                // A server on its way down says so; whether it took the events is then unknown.
                503 if self.ending.load(Ordering::SeqCst) => return,
                status => {
                    self.journal()
                        .problems
                        .push(format!("a publish was answered {status}: {}", answer.text()));
                    return;
                }
            }
            pause(Duration::from_millis(chance.below(8)));
        }
    }

    fn request(&self, prefix: &str, ids: &[String]) -> Request {
        if prefix == "grid" {
            let events: Vec<Value> = ids.iter().map(|id| events::grid_event(id)).collect();
            return self.topic.publish(events::JSON, &json!(events));
        }
        let events: Vec<Value> = ids.iter().map(|id| events::cloud_event(id)).collect();
        self.namespace.publish("orders", &json!(events))
    }

    /// Receives and settles until the server is gone; of what it received it keeps some unsettled.
    pub(crate) fn receive(&self, name: &'static str, chance: &mut Chance) {
        let queue = Queue::new(self.namespace, "orders", name);
        let mut client = Client::new(self.address);
        let mut kept = 0;
        loop {
            let max = u32::try_from(1 + chance.below(40)).expect("a small number");
            let Some(received) = self.goes_on("a receive", queue.receive(&mut client, max)) else { return };
            let (mut acknowledge, mut release) = (Vec::new(), Vec::new());
            for one in received {
                match chance.below(10) {
                    0 if kept < HELD_MAX => kept += 1,
                    1 if one.delivery_count < 4 => release.push(one.token.clone()),
                    _ => acknowledge.push(one.token.clone()),
                }
                let hold = Hold { received: one, settling: None, acknowledged: None };
                self.journal().holds.entry(name).or_default().push(hold);
            }
            for (verb, tokens) in [("acknowledge", acknowledge), ("release", release)] {
                if !tokens.is_empty() && self.settle(name, &mut client, verb, &tokens).is_none() {
                    return;
                }
            }
        }
    }

    /// Settles tokens that must still be good, and writes it down.
    pub(crate) fn settle(
        &self,
        name: &'static str,
        client: &mut Client,
        verb: &str,
        tokens: &[String],
    ) -> Option<()> {
        let each = |done: &mut dyn FnMut(&mut Hold)| {
            let mut journal = self.journal();
            for hold in journal.holds.entry(name).or_default() {
                if tokens.contains(&hold.received.token) {
                    done(hold);
                }
            }
        };
        let asked = now();
        each(&mut |hold| hold.settling = Some(asked));
        let texts: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let queue = Queue::new(self.namespace, "orders", name);
        let settled = self.goes_on("a settlement", queue.settle(client, verb, "", &texts))?;
        let answered = now();
        {
            let mut journal = self.journal();
            journal.latest = journal.latest.max(Some(asked));
        }
        if verb == "acknowledge" {
            each(&mut |hold| {
                if settled.succeeded.contains(&hold.received.token) {
                    hold.acknowledged = Some(answered);
                }
            });
        }
        if !settled.failed.is_empty() {
            let codes: Vec<&str> = settled.failed.iter().map(|(_, code)| code.as_str()).collect();
            self.journal().problems.push(format!("{verb} in `{name}` failed for good tokens: {codes:?}"));
        }
        Some(())
    }

    /// Acknowledges what was kept from before the restart, one by one, and counts what was answered.
    pub(crate) fn acknowledge_kept(&self, kept: &[(&'static str, String)], chance: &mut Chance) -> usize {
        let mut client = Client::new(self.address);
        for (done, (name, token)) in kept.iter().enumerate() {
            pause(Duration::from_millis(chance.below(20)));
            if self.settle(name, &mut client, "acknowledge", std::slice::from_ref(token)).is_none() {
                return done;
            }
        }
        kept.len()
    }
}

impl Journal {
    /// What is held and not settled, and sure to be locked still.
    pub(crate) fn kept(&self) -> Vec<(&'static str, String)> {
        let fresh = |hold: &&Hold| hold.settling.is_none() && hold.received.asked.elapsed() < LOCK / 2;
        self.holds
            .iter()
            .flat_map(|(name, holds)| {
                holds.iter().filter(fresh).map(|hold| (*name, hold.received.token.clone()))
            })
            .collect()
    }

    /// Judges one queue.
    pub(crate) fn judge_queue(&mut self, name: &'static str) {
        let mut problems = Vec::new();
        let mut by_event: HashMap<&str, Vec<&Hold>> = HashMap::new();
        for hold in self.holds.get(name).into_iter().flatten() {
            by_event.entry(&hold.received.id).or_default().push(hold);
        }
        for (id, holds) in &mut by_event {
            holds.sort_by_key(|hold| hold.received.arrived);
            if !self.attempted.contains(*id) {
                problems.push(format!("`{name}` got `{id}`, which nobody published"));
            }
            for (index, one) in holds.iter().enumerate() {
                let runs_out = one.received.asked + LOCK.saturating_sub(LOCK_SLACK);
                let free = one.settling.map_or(runs_out, |settling| settling.min(runs_out));
                for other in &holds[index + 1..] {
                    if other.received.arrived < free {
                        problems
                            .push(format!("`{name}` has two locks of `{id}` at once: {one:?} and {other:?}"));
                    }
                    if one.acknowledged.is_some_and(|at| at < other.received.arrived) {
                        problems.push(format!("`{name}` got `{id}` after it was acknowledged: {other:?}"));
                    }
                    if other.received.delivery_count <= one.received.delivery_count {
                        problems.push(format!("the delivery count of `{id}` in `{name}` does not grow"));
                    }
                }
            }
        }
        self.problems.extend(problems);
    }

    /// Judges that a queue, drained, gave out everything.
    pub(crate) fn judge_complete(&mut self, name: &'static str) {
        let holds = self.holds.get(name).map_or(&[][..], Vec::as_slice);
        let seen: HashSet<&str> = holds.iter().map(|hold| hold.received.id.as_str()).collect();
        for id in &self.published {
            if id.starts_with("spaces") && !seen.contains(id.as_str()) {
                self.problems.push(format!("`{name}` never got `{id}`"));
            }
        }
    }

    /// Judges what webhooks got.
    pub(crate) fn judge_pushes(&mut self, sink: &Sink) {
        for prefix in ["grid", "spaces"] {
            let mut seen = HashSet::new();
            for id in sink.at(&format!("/{prefix}")).iter().flat_map(|delivery| delivery.ids("id")) {
                if !self.attempted.contains(&id) {
                    self.problems.push(format!("`{prefix}` was posted `{id}`, which nobody published"));
                }
                seen.insert(id);
            }
            let missing = self.published.iter().filter(|id| id.starts_with(prefix) && !seen.contains(*id));
            self.problems.extend(missing.map(|id| format!("`{id}` was never posted")));
        }
    }
}

/// The first few problems of each kind: texts that differ only in their names are of one kind.
pub(crate) fn some_of_each(problems: &[String]) -> Vec<&str> {
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut few = |problem: &&String| {
        let kind: String = problem.split('`').step_by(2).take(3).collect();
        let count = seen.entry(kind.chars().take(40).collect()).or_default();
        *count += 1;
        *count <= 5
    };
    problems.iter().filter(|problem| few(problem)).map(String::as_str).collect()
}
