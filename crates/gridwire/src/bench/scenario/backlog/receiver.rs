//! Receivers of one subscription, and the ledger of what came to it.
//!
//! Events are known by their numbers, a bit each, so that a ledger of a million events is 125 kB.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bench::body::stamps;
use crate::bench::connection::{Client, Failed, Target};
use crate::bench::load::{histogram, record};
use crate::bench::setup::Pull;
use crate::bench::stopwatch::Moment;
use crate::bench::wire::{Acknowledge, Received, Settled};

/// Wait after a failure; as in the load loop.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);
/// Between two looks at a ledger.
const LOOK: Duration = Duration::from_millis(2);
/// Numbers above the backlog that a ledger knows: what is published meanwhile, at most for hours.
const MORE_MAX: u64 = 1 << 24;

/// A set of event numbers that grows up to a bound.
#[derive(Debug)]
struct Numbers {
    words: Vec<u64>,
    end: u64,
}

/// Whether a number was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    New,
    Known,
    OutOfRange,
}

impl Numbers {
    fn new(end: u64) -> Self {
        Self { words: Vec::new(), end }
    }

    fn insert(&mut self, number: u64) -> Entry {
        let Some(word) = usize::try_from(number / 64).ok().filter(|_| number < self.end) else {
            return Entry::OutOfRange;
        };
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (number % 64);
        let known = self.words[word] & bit != 0;
        self.words[word] |= bit;
        if known { Entry::Known } else { Entry::New }
    }

    /// How many of the numbers below `end` are in the set.
    fn count_below(&self, end: u64) -> u64 {
        let whole = usize::try_from(end / 64).unwrap_or(usize::MAX);
        let full = self.words.iter().take(whole).map(|word| u64::from(word.count_ones())).sum::<u64>();
        let rest = self.words.get(whole).map_or(0, |word| word & ((1 << (end % 64)) - 1));
        full + u64::from(rest.count_ones())
    }
}

/// What came to one subscription.
#[derive(Debug)]
pub(super) struct Ledger {
    backlog: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    numbers: Numbers,
    counted: Counted,
    latency: Histogram<u64>,
    first_failure: Option<String>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    /// Different events received.
    pub(super) distinct: u64,
    /// Those of the backlog whose acknowledgement was answered with success.
    pub(super) acknowledged: u64,
    /// Events received that had been received before.
    pub(super) twice: u64,
    /// Events received whose number nobody published.
    pub(super) unknown: u64,
    /// Lock tokens that an acknowledgement was refused for.
    pub(super) refused: u64,
}

impl Ledger {
    pub(super) fn new(backlog: u64) -> Self {
        let numbers = Numbers::new(backlog.saturating_add(MORE_MAX));
        let state = State { numbers, counted: Counted::default(), latency: histogram(), first_failure: None };
        Self { backlog, state: Mutex::new(state) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while a ledger is held")
    }

    pub(super) fn counted(&self) -> Counted {
        self.state().counted
    }

    pub(super) fn first_failure(&self) -> Option<String> {
        self.state().first_failure.clone()
    }

    /// The latencies since the last call.
    pub(super) fn take_latency(&self) -> Histogram<u64> {
        std::mem::replace(&mut self.state().latency, histogram())
    }

    pub(super) fn missing_below(&self, end: u64) -> u64 {
        end - self.state().numbers.count_below(end)
    }

    /// Waits until so many different events have come in all. Tells whether they did in time.
    pub(super) async fn wait_for(&self, distinct: u64, patience: Duration) -> bool {
        let began = Moment::now();
        while self.counted().distinct < distinct {
            if began.elapsed() >= patience {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    /// Enters the answer of a receive, and tells how many of its events are new and of the backlog.
    fn enter(&self, answer: &[u8], received: &Received<'_>) -> u64 {
        let now = Moment::now();
        let mut state = self.state();
        let mut of_backlog = 0;
        for one in &received.value {
            let number = one.event.as_ref().and_then(|event| event.id.parse().ok()).unwrap_or(u64::MAX);
            match state.numbers.insert(number) {
                Entry::New => {
                    state.counted.distinct += 1;
                    of_backlog += u64::from(number < self.backlog);
                }
                Entry::Known => state.counted.twice += 1,
                Entry::OutOfRange => state.counted.unknown += 1,
            }
        }
        for sent in stamps(answer) {
            record(&mut state.latency, now.since(sent));
        }
        of_backlog
    }

    fn failed(&self, failed: &Failed) {
        self.state().first_failure.get_or_insert(failed.to_string());
    }
}

/// When receivers have done their work.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    /// Never.
    Forever,
    /// When so many of the backlog are acknowledged, or a few more; exchanges under way are finished, so
    /// that no locks are left.
    AtLeast(u64),
    /// When all of the backlog is acknowledged; waiting for more is given up.
    Backlog(u64),
}

/// Receivers of one subscription at work, until they are dropped.
pub(super) struct Receivers {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Receivers {
    /// Starts them on the threads of `runtime`.
    pub(super) fn start(
        runtime: &Handle,
        target: &Target,
        routes: &Pull,
        ledger: &Arc<Ledger>,
        receivers: u32,
        goal: Goal,
    ) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for client in Client::pool(target, receivers, 1) {
            let receiver = Receiver {
                client,
                routes: routes.clone(),
                ledger: Arc::clone(ledger),
                goal,
                stop: stop.clone(),
            };
            tasks.spawn_on(receiver.run(), runtime);
        }
        Self { tasks, stop }
    }

    /// Waits until the goal is reached.
    pub(super) async fn finish(self) {
        self.tasks.join_all().await;
    }

    /// Ends those that would go on for ever.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.finish().await;
    }
}

struct Receiver {
    client: Client,
    routes: Pull,
    ledger: Arc<Ledger>,
    goal: Goal,
    stop: CancellationToken,
}

impl Receiver {
    async fn run(mut self) {
        while !self.stop.is_cancelled() {
            if let Err(failed) = self.round().await {
                self.ledger.failed(&failed);
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }

    /// One receive and the acknowledgement of all it brought.
    async fn round(&mut self) -> Result<(), Failed> {
        let receive = self.client.send(self.routes.receive.request(Bytes::new()));
        let answer = if let Goal::AtLeast(_) = self.goal {
            receive.await?
        } else {
            let answer = tokio::select! {
                biased;
                () = self.stop.cancelled() => None,
                answer = receive => Some(answer?),
            };
            let Some(answer) = answer else {
                self.client.disconnect(); // Abandoned in the middle of an exchange.
                return Ok(());
            };
            answer
        };
        let received: Received<'_> = serde_json::from_slice(&answer).map_err(Failed::not_understood)?;
        if received.value.is_empty() {
            return Ok(());
        }
        let of_backlog = self.ledger.enter(&answer, &received);
        let lock_tokens = received.value.into_iter().map(|one| one.broker_properties.lock_token).collect();
        let body = serde_json::to_vec(&Acknowledge { lock_tokens }).map_err(Failed::not_understood)?;
        let answer = self.client.send(self.routes.acknowledge.request(body.into())).await?;
        let settled: Settled = serde_json::from_slice(&answer).map_err(Failed::not_understood)?;
        let refused = settled.failed.len() as u64;
        let acknowledged = {
            let mut state = self.ledger.state();
            state.counted.refused += refused;
            state.counted.acknowledged += of_backlog.saturating_sub(refused);
            state.counted.acknowledged
        };
        match self.goal {
            Goal::AtLeast(goal) | Goal::Backlog(goal) if acknowledged >= goal => self.stop.cancel(),
            _ => {}
        }
        if refused > 0 { Err(Failed::refused(String::from_utf8_lossy(&answer))) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_counted_once_and_up_to_a_bound() {
        let mut numbers = Numbers::new(200);
        for number in [0, 63, 64, 130, 199] {
            assert_eq!(numbers.insert(number), Entry::New, "{number}");
            assert_eq!(numbers.insert(number), Entry::Known, "{number}");
        }
        assert_eq!(numbers.insert(200), Entry::OutOfRange);
        assert_eq!(numbers.insert(u64::MAX), Entry::OutOfRange);
        for (end, count) in [(0, 0), (1, 1), (63, 1), (64, 2), (65, 3), (130, 3), (131, 4), (10_000, 5)] {
            assert_eq!(numbers.count_below(end), count, "{end}");
        }
    }

    #[test]
    fn a_ledger_tells_what_is_missing_twice_and_unknown() {
        let ledger = Ledger::new(3);
        let one = |id: &str| format!(r#"{{"brokerProperties":{{"lockToken":"t"}},"event":{{"id":"{id}"}}}}"#);
        let ids = ["0000", "0002", "0002", "0003", "x"].map(one).join(",");
        let answer = format!(r#"{{"value":[{ids}]}}"#);
        let received = serde_json::from_str(&answer).unwrap();
        assert_eq!(ledger.enter(answer.as_bytes(), &received), 2);
        let counted = ledger.counted();
        assert_eq!((counted.distinct, counted.twice, counted.unknown), (3, 1, 1));
        assert_eq!(ledger.missing_below(3), 1);
    }
}
