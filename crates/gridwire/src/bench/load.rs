//! The load loop: clients that send body after body, paced by the answers, by the clock or by a window.
//!
//! Every run ends: at its time or at its number of requests, whichever comes first.
#![allow(clippy::disallowed_methods, reason = "the pacing thread must sleep finer than the runtime's timer")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::body::Template;
use super::connection::{Client, Failed, Failure, Route};
use super::numbers::{float, whole};
use super::progress::Progress;
use super::sink::Sink;
use super::stopwatch::Moment;

/// Wait after a failure, so that a server that refuses everything is asked a hundred times a second by each
/// client and not a hundred thousand times.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);
/// How long an open loop may go on after its end to send what was due before.
const OVERRUN_MAX: Duration = Duration::from_secs(10);
/// Between two looks at a full window.
const WINDOW_LOOK: Duration = Duration::from_millis(1);

/// A histogram of microseconds, up to an hour, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(3_600_000_000, 3).expect("an hour in microseconds and three digits are in range")
}

/// Records a latency; anything above an hour counts as an hour.
pub(crate) fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
}

/// What a run of the loop came to.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Requests and events that succeeded, and the bytes of their bodies.
    pub(crate) requests: u64,
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) failures: BTreeMap<Failure, u64>,
    /// What the first failure said.
    pub(crate) sample: Option<String>,
    /// From the intended sending to the end of the answer, of what succeeded.
    pub(crate) latency: Histogram<u64>,
    /// From the start to the last answer.
    pub(crate) elapsed: Duration,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            requests: 0,
            events: 0,
            bytes: 0,
            failures: BTreeMap::new(),
            sample: None,
            latency: histogram(),
            elapsed: Duration::ZERO,
        }
    }

    pub(crate) fn succeeded(&mut self, events: u64, bytes: usize, latency: Duration) {
        self.requests += 1;
        self.events += events;
        self.bytes += bytes as u64;
        record(&mut self.latency, latency);
    }

    pub(crate) fn failed(&mut self, failed: &Failed) {
        *self.failures.entry(failed.failure).or_default() += 1;
        self.sample.get_or_insert(failed.to_string());
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.events += other.events;
        self.bytes += other.bytes;
        for (&failure, count) in &other.failures {
            *self.failures.entry(failure).or_default() += count;
        }
        self.sample = self.sample.take().or_else(|| other.sample.clone());
        self.latency.add(&other.latency).expect("all have the same bounds");
        self.elapsed = self.elapsed.max(other.elapsed);
    }
}

/// When the next request is sent.
#[derive(Clone, Debug)]
pub(crate) enum Pacing {
    /// When the last one was answered.
    Closed,
    /// By the clock.
    Open { requests_per_second: f64 },
    /// When the last one was answered and few enough deliveries are outstanding.
    Window(Arc<Window>),
}

/// How far publishing may run ahead of delivery.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) deliveries_max: u64,
    /// Deliveries of each event.
    pub(crate) copies: u64,
    pub(crate) sink: Arc<Sink>,
    published: AtomicU64,
}

impl Window {
    pub(crate) fn new(deliveries_max: u64, copies: u64, sink: Arc<Sink>) -> Self {
        Self { deliveries_max, copies, sink, published: AtomicU64::new(0) }
    }

    fn outstanding(&self) -> u64 {
        (self.published.load(Ordering::Relaxed) * self.copies).saturating_sub(self.sink.delivered())
    }
}

/// One run of the loop.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) template: Arc<Template>,
    /// Taken in turn.
    pub(crate) routes: Arc<[Route]>,
    pub(crate) pacing: Pacing,
    pub(crate) duration: Duration,
    pub(crate) requests_max: Option<u64>,
    /// Numbers events across runs.
    pub(crate) sequence: Arc<AtomicU64>,
    pub(crate) progress: Arc<Progress>,
}

struct Run {
    load: Load,
    start: Moment,
    end: Moment,
    tickets: AtomicU64,
    tickets_max: u64,
    /// Open loop: one permit for each request that is due.
    due: Semaphore,
    abandoned: AtomicBool,
}

impl Load {
    /// Drives all of `clients` until the end and leaves them connected.
    pub(crate) async fn drive(&self, clients: &mut Vec<Client>) -> Tally {
        let start = Moment::now();
        let mut tickets_max = self.requests_max.unwrap_or(u64::MAX);
        if let Pacing::Open { requests_per_second } = self.pacing {
            let due = whole((self.duration.as_secs_f64() * requests_per_second).round());
            tickets_max = tickets_max.min(due);
        }
        let run = Arc::new(Run {
            load: self.clone(),
            start,
            end: start + self.duration,
            tickets: AtomicU64::new(0),
            tickets_max,
            due: Semaphore::new(0),
            abandoned: AtomicBool::new(false),
        });
        let abandon = AbandonOnDrop(Arc::clone(&run));
        if let Pacing::Open { requests_per_second } = self.pacing {
            let run = Arc::clone(&run);
            std::thread::spawn(move || run.pace(requests_per_second));
        }
        let mut workers = JoinSet::new();
        for (worker, client) in clients.drain(..).enumerate() {
            workers.spawn(Arc::clone(&run).work(worker, client));
        }
        let mut total = Tally::new();
        while let Some(ended) = workers.join_next().await {
            let (client, tally) = ended.expect("a worker neither panics nor is aborted while it is awaited");
            clients.push(client);
            total.add(&tally);
        }
        drop(abandon);
        if let Pacing::Open { .. } = self.pacing {
            let sent = run.tickets.load(Ordering::Relaxed).min(tickets_max);
            if sent < tickets_max {
                *total.failures.entry(Failure::NotSent).or_default() += tickets_max - sent;
            }
        }
        total
    }
}

/// Ends the pacing thread also when the run is cancelled.
struct AbandonOnDrop(Arc<Run>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::Relaxed);
        self.0.due.close();
    }
}

impl Run {
    async fn work(self: Arc<Self>, worker: usize, mut client: Client) -> (Client, Tally) {
        let load = &self.load;
        let events = load.template.events();
        let mut tally = Tally::new();
        let mut turn = worker;
        while let Some(intended) = self.next().await {
            let first = load.sequence.fetch_add(events, Ordering::Relaxed);
            let body = load.template.render(first, intended);
            let request = load.routes[turn % load.routes.len()].request(body);
            turn += 1;
            match client.send(request).await {
                Ok(_) => {
                    tally.succeeded(events, load.template.len(), intended.elapsed());
                    load.progress.add(events);
                }
                Err(failed) => {
                    if let Pacing::Window(window) = &load.pacing {
                        window.published.fetch_sub(events, Ordering::Relaxed);
                    }
                    tally.failed(&failed);
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
        tally.elapsed = self.start.elapsed();
        (client, tally)
    }

    /// Waits for the next request's turn and tells when it was meant to be sent; `None` at the end.
    async fn next(&self) -> Option<Moment> {
        match &self.load.pacing {
            Pacing::Closed => self.ticket_until_end(),
            Pacing::Open { requests_per_second } => {
                let give_up = self.end + OVERRUN_MAX;
                let left = give_up.since(Moment::now());
                let permit = tokio::time::timeout(left, self.due.acquire()).await.ok()?.ok()?;
                permit.forget();
                if Moment::now() >= give_up {
                    return None;
                }
                let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
                if ticket + 1 >= self.tickets_max {
                    self.due.close(); // Nothing more will be due: the other workers need not wait for it.
                }
                Some(self.due_at(ticket, *requests_per_second))
            }
            Pacing::Window(window) => {
                while window.outstanding() >= window.deliveries_max {
                    if Moment::now() >= self.end {
                        return None;
                    }
                    tokio::time::sleep(WINDOW_LOOK).await;
                }
                let intended = self.ticket_until_end()?;
                window.published.fetch_add(self.load.template.events(), Ordering::Relaxed);
                Some(intended)
            }
        }
    }

    fn ticket_until_end(&self) -> Option<Moment> {
        let now = Moment::now();
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        (now < self.end && ticket < self.tickets_max).then_some(now)
    }

    fn due_at(&self, ticket: u64, requests_per_second: f64) -> Moment {
        self.start + Duration::from_secs_f64(float(ticket) / requests_per_second)
    }

    /// Lets one request go at each moment that one is due. A thread of its own: the runtime's timer is too
    /// coarse, and a busy runtime would send late without anybody noticing.
    fn pace(&self, requests_per_second: f64) {
        let mut released = 0;
        while released < self.tickets_max && !self.abandoned.load(Ordering::Relaxed) {
            let due = self.due_at(released, requests_per_second);
            let now = Moment::now();
            if now < due {
                // In short steps, so that a cancelled run does not keep the thread.
                std::thread::sleep(due.since(now).min(Duration::from_millis(100)));
                continue;
            }
            let passed = now.since(self.start).as_secs_f64() * requests_per_second;
            let target = (whole(passed) + 1).clamp(released + 1, self.tickets_max);
            let more = usize::try_from(target - released).unwrap_or(usize::MAX);
            self.due.add_permits(more.min(Semaphore::MAX_PERMITS / 2));
            released = target;
        }
        if self.tickets_max == 0 {
            self.due.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::args::{Protocol, Schema};
    use crate::bench::baseline::{Bare, Behaviour};
    use crate::bench::connection::Target;

    async fn load(
        bare: &Bare,
        protocol: Protocol,
        pacing: Pacing,
        requests_max: Option<u64>,
    ) -> (Load, Target) {
        let target = Target::resolve(&bare.url(), protocol, bare.ca()).await.unwrap();
        let route = target.route(http::Method::POST, "/events").unwrap();
        let load = Load {
            template: Arc::new(Template::new(Schema::Cloudevents, 2, 512)),
            routes: Arc::from([route]),
            pacing,
            duration: Duration::from_secs(20),
            requests_max,
            sequence: Arc::default(),
            progress: Progress::silent(),
        };
        (load, target)
    }

    async fn check_counts(protocol: Protocol, tls: bool) {
        let bare = Bare::start(tls, Behaviour::default()).await.unwrap();
        let (load, target) = load(&bare, protocol, Pacing::Closed, Some(100)).await;
        let mut clients = Client::pool(&target, 2, 3);
        for round in 1..=2 {
            let tally = load.drive(&mut clients).await;
            assert_eq!((tally.requests, tally.events, tally.latency.len()), (100, 200, 100));
            assert_eq!(tally.bytes, 100 * load.template.len() as u64);
            assert!(tally.failures.is_empty(), "{tally:?}");
            assert_eq!(load.sequence.load(Ordering::Relaxed), round * 200);
        }
        assert_eq!(bare.requests(), 200);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_closed_loop_sends_exactly_what_it_was_asked_for() {
        check_counts(Protocol::Http1, false).await;
        check_counts(Protocol::Http2, false).await;
        check_counts(Protocol::Http1, true).await;
        check_counts(Protocol::Http2, true).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn answers_that_are_no_success_are_counted_by_status_and_not_as_events() {
        let bare = Bare::start(false, Behaviour { status: 503, ..Behaviour::default() }).await.unwrap();
        let (load, target) = load(&bare, Protocol::Http1, Pacing::Closed, Some(5)).await;
        let tally = load.drive(&mut Client::pool(&target, 1, 1)).await;
        assert_eq!((tally.requests, tally.events, tally.latency.len()), (0, 0, 0));
        assert_eq!(tally.failures, BTreeMap::from([(Failure::Status(503), 5)]));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_is_gone_costs_errors_and_not_the_run() {
        let bare = Bare::start(false, Behaviour::default()).await.unwrap();
        let (load, target) = load(&bare, Protocol::Http1, Pacing::Closed, Some(3)).await;
        bare.stop().await;
        let tally = load.drive(&mut Client::pool(&target, 1, 1)).await;
        assert_eq!(tally.failures, BTreeMap::from([(Failure::Connect, 3)]));
        assert!(tally.sample.is_some());
    }

    /// A hundred requests due within 100 ms on one connection to a server that takes `answer_time` for each.
    async fn open_loop(answer_time: Duration) -> Tally {
        let bare =
            Bare::start(false, Behaviour { delay: answer_time, ..Behaviour::default() }).await.unwrap();
        let pacing = Pacing::Open { requests_per_second: 1000.0 };
        let (mut load, target) = load(&bare, Protocol::Http1, pacing, None).await;
        load.duration = Duration::from_millis(100);
        load.drive(&mut Client::pool(&target, 1, 1)).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_open_loop_charges_a_slow_server_for_every_request_that_had_to_wait() {
        let tally = open_loop(Duration::from_millis(5)).await;
        assert_eq!(tally.requests, 100);
        // Each exchange takes 5 ms; the last was due at 99 ms and is answered after 500 ms.
        assert!(tally.latency.max() >= 400_000, "{}", tally.latency.max());
        assert!(tally.latency.value_at_quantile(0.5) >= 150_000, "{}", tally.latency.value_at_quantile(0.5));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_open_loop_keeps_its_rate() {
        let tally = open_loop(Duration::ZERO).await;
        assert_eq!(tally.requests, 100);
        assert!(tally.elapsed >= Duration::from_millis(99), "{:?}", tally.elapsed);
    }
}
