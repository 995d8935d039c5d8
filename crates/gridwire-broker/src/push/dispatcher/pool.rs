//! One endpoint: its queue, and the workers that send from it.
//!
//! A worker is a task with at most one connection. It takes the next attempt, sends it, reports, and looks
//! for another; with none queued it waits, watching its connection, and after a while ends. An attempt goes
//! to the worker that became idle last, else to a new worker, else into the queue: so the endpoint sees no
//! more connections than its load needs, and the others fall idle and end.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gridwire_core::fault_script::Fault;
use gridwire_core::ids::SubscriptionNumber;
use gridwire_core::retry::Outcome;
use gridwire_core::routing::TokenAudience;
use gridwire_core::signing;
use gridwire_outside::Clock;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gate::Gate;
use super::{Attempt, AttemptKey, EndpointStatus, Finished, Forwarder, NoAnswer, Report, Route};
use crate::push::PushOptions;
use crate::push::answer;
use crate::push::client::{Client, Connection, Deadline, LOOKUPS_MAX, SendFailure};
use crate::push::endpoint::EndpointKey;
use crate::push::request::{self, Outgoing};
use crate::push::tls::Terms;
use crate::push::tokens::Tokens;

/// A connection is not used beyond this age, so that a change of the endpoint's addresses is followed even
/// under constant load.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(300);

/// What all pools use.
#[derive(Debug)]
pub(super) struct Shared {
    pub client: Arc<Client>,
    pub clock: Arc<dyn Clock>,
    pub options: Arc<PushOptions>,
    pub origin: HeaderValue,
    pub tokens: Arc<Tokens>,
    pub forwarder: Forwarder,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

/// An attempt, with the way there and the way back.
pub(super) struct Delivery {
    pub attempt: Attempt,
    pub route: Arc<Route>,
    /// Has to be open when it is sent.
    pub gate: Arc<Gate>,
    pub done: mpsc::Sender<Report>,
    /// What it meets on its way; always [`Fault::Pass`] outside development mode.
    pub fault: Fault,
    /// Attempts that are held back until this one has ended; let go by being dropped.
    pub overtakes: Vec<oneshot::Sender<()>>,
}

/// One endpoint, on one set of terms.
pub(super) struct Pool {
    key: EndpointKey,
    host: HeaderValue,
    shared: Arc<Shared>,
    terms: Terms,
    lookups: Semaphore,
    /// Routes that lead here; they set how long the queue may get.
    routes: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// At most [`PushOptions::attempts_per_subscription_max`] for each route; what is above is refused.
    queue: VecDeque<Delivery>,
    /// At most [`PushOptions::connections_per_endpoint`].
    workers: usize,
    /// Those of the workers that wait, the one that waits longest first.
    idle: Vec<Idle>,
    workers_ever: u64,
    last_outcome: Option<Outcome>,
}

/// The head of an answer, and the connection that has the rest of it.
type Answered = (Connection, Response<Incoming>);

struct Idle {
    worker: u64,
    hand_over: oneshot::Sender<Delivery>,
}

struct Worker {
    pool: Arc<Pool>,
    number: u64,
    connection: Option<Connection>,
    last_outcome: Option<Outcome>,
    /// Whether it is one of [`State::workers`].
    counted: bool,
}

impl Pool {
    pub(super) fn new(key: EndpointKey, terms: Terms, shared: Arc<Shared>) -> Self {
        Self {
            host: key.host_header(),
            key,
            shared,
            terms,
            lookups: Semaphore::new(LOOKUPS_MAX),
            routes: AtomicUsize::new(0),
            state: Mutex::default(),
        }
    }

    /// Takes the queued deliveries of one subscription out. Not dropped in here: what a delivery holds may look at
    /// the pool when it goes.
    #[must_use]
    pub(super) fn take(&self, subscription: SubscriptionNumber) -> VecDeque<Delivery> {
        let mut state = self.state();
        let (taken, kept) = std::mem::take(&mut state.queue)
            .into_iter()
            .partition(|delivery| delivery.attempt.key.subscription == subscription);
        state.queue = kept;
        taken
    }

    pub(super) fn key(&self) -> &EndpointKey {
        &self.key
    }

    pub(super) fn join(&self) {
        self.routes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.routes.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a delivery, or gives it back when the queue is full.
    pub(super) fn offer(self: &Arc<Self>, mut delivery: Delivery) -> Result<(), Box<Delivery>> {
        let mut state = self.state();
        while let Some(idle) = state.idle.pop() {
            match idle.hand_over.send(delivery) {
                Ok(()) => return Ok(()),
                // It was dropped while it waited, with the runtime it ran on.
                Err(back) => delivery = back,
            }
        }
        if state.workers < self.shared.options.connections_per_endpoint.max(1) {
            state.workers += 1;
            state.workers_ever += 1;
            let number = state.workers_ever;
            drop(state);
            let pool = Arc::clone(self);
            let worker = Worker { pool, number, connection: None, last_outcome: None, counted: true };
            self.shared.tasks.spawn(worker.run(delivery));
            return Ok(());
        }
        let routes = self.routes.load(Ordering::Relaxed);
        let queue_max = routes.saturating_mul(self.shared.options.attempts_per_subscription_max);
        if queue_max <= state.queue.len() {
            return Err(Box::new(delivery));
        }
        state.queue.push_back(delivery);
        Ok(())
    }

    pub(super) fn status(&self) -> EndpointStatus {
        let state = self.state();
        EndpointStatus {
            endpoint: self.key.to_string(),
            in_flight: state.workers - state.idle.len().min(state.workers),
            queued: state.queue.len(),
            last_outcome: state.last_outcome,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the queue is held")
    }
}

impl Worker {
    async fn run(mut self, first: Delivery) {
        let shared = Arc::clone(&self.pool.shared);
        let out_of_time = async {
            shared.stop.cancelled().await;
            shared.clock.sleep(shared.options.stop_grace).await;
        };
        tokio::pin!(out_of_time);
        let mut next = Some(first);
        while let Some(delivery) = next {
            tokio::select! {
                biased; // What is done counts.
                () = self.deliver(delivery) => {}
                () = &mut out_of_time => return,
            }
            next = self.next().await;
        }
    }

    /// The next delivery; `None` when it is time to end.
    async fn next(&mut self) -> Option<Delivery> {
        let shared = Arc::clone(&self.pool.shared);
        let mut handed = {
            let mut state = self.pool.state();
            state.last_outcome = self.last_outcome;
            if shared.stop.is_cancelled() {
                state.queue.clear();
                return None;
            }
            if let Some(delivery) = state.queue.pop_front() {
                return Some(delivery);
            }
            let (hand_over, handed) = oneshot::channel();
            state.idle.push(Idle { worker: self.number, hand_over });
            handed
        };
        let idle_for = shared.clock.sleep(shared.options.idle_timeout);
        tokio::pin!(idle_for);
        loop {
            tokio::select! {
                biased; // A delivery first: it is ours already.
                delivery = &mut handed => return delivery.ok(),
                () = shared.stop.cancelled() => break,
                () = closed(&mut self.connection) => self.connection = None,
                () = &mut idle_for => break,
            }
        }
        let mut state = self.pool.state();
        if let Some(place) = state.idle.iter().position(|idle| idle.worker == self.number) {
            // In one step, so that nobody counts on a worker that will never look at the queue again.
            state.idle.remove(place);
            state.workers -= 1;
            self.counted = false;
            return None;
        }
        drop(state);
        // Handed over just before we left.
        handed.try_recv().ok().filter(|_| !shared.stop.is_cancelled())
    }

    /// Does one attempt and reports it; then readies the connection for the next.
    async fn deliver(&mut self, delivery: Delivery) {
        let shared = Arc::clone(&self.pool.shared);
        let Delivery { attempt, route, gate, done, fault, overtakes } = delivery;
        let key = attempt.key.clone();
        let name = Arc::clone(&attempt.subscription);
        let guard = ReportPanic { key: key.clone(), shared: &shared, done: &done };
        let started = shared.clock.monotonic();
        let request = self.request(attempt, &route);
        let audience = name.webhook.as_ref().and_then(|webhook| webhook.token.as_ref());
        let answered = self.exchange_authorized(audience, fault, request, &gate).await;
        let latency = shared.clock.monotonic().saturating_sub(started);
        let (outcome, status, rest) = match answered {
            Ok((connection, response)) => {
                let status = response.status();
                let outcome = answer::outcome(status, response.headers(), shared.clock.wall());
                (outcome, Some(status.as_u16()), Some((connection, response.into_body())))
            }
            Err(NoAnswer::Ended(outcome)) => {
                let status = match outcome {
                    Outcome::Answered { status, .. } => Some(status),
                    _ => None,
                };
                (outcome, status, None)
            }
            Err(NoAnswer::Recalled) => {
                let _ = done.send(Report::Recalled(key)).await;
                return;
            }
        };
        let (event, events) = (key.offsets[0], key.offsets.len());
        tracing::debug!(subscription = %name.name, %event, events, ?outcome, ?latency, "attempt ended");
        self.last_outcome = Some(outcome);
        // An error means that the shard is gone, and with it everybody who wants to know.
        let _ = done.send(Report::Finished(Finished { key, outcome, status, latency })).await;
        drop(guard);
        drop(overtakes);
        if let Some((connection, body)) = rest {
            self.connection = shared.client.finish(connection, body).await;
        }
    }

    fn request(&self, attempt: Attempt, route: &Route) -> Outgoing {
        let keys = attempt.subscription.webhook.as_ref().map_or(&[][..], |webhook| &webhook.signing);
        let signed = if keys.is_empty() {
            None
        } else {
            let id = signing::message_id(attempt.key.subscription, &attempt.key.offsets);
            // Now, and not when the attempt was made: it may have waited for a connection.
            let clock = &self.pool.shared.clock;
            let signed = signing::sign(keys, &id, &attempt.body, clock.now(), clock.wall());
            signed.map(|signed| (id, signed))
        };
        let mut request = request::post(&self.pool.host, &route.target, attempt.content_type, attempt.body);
        if let Some((id, signed)) = signed {
            request::add_signature(request.headers_mut(), &id, &signed);
        }
        for (name, value) in attempt.headers {
            request::add_header(request.headers_mut(), name, value);
        }
        if route.signs_origin {
            request::sign_origin(request.headers_mut(), &self.pool.shared.origin);
        }
        request
    }

    /// Does the exchange with the bearer token that the endpoint wants. One that it refuses may have been revoked
    /// before its time, so a new one is tried, once.
    async fn exchange_authorized(
        &mut self,
        audience: Option<&TokenAudience>,
        fault: Fault,
        request: Outgoing,
        gate: &Gate,
    ) -> Result<Answered, NoAnswer> {
        let shared = Arc::clone(&self.pool.shared);
        if gate.is_closed() {
            return Err(NoAnswer::Recalled);
        }
        let Some(audience) = audience else {
            return self.exchange_despite(fault, request, &mut shared.client.deadline(), gate).await;
        };
        let bearer = shared.tokens.bearer(audience).await.map_err(|outcome| gate.unsent(outcome))?;
        // The endpoint has all of its time, however long the issuer took.
        let deadline = &mut shared.client.deadline();
        let authorized = |bearer: HeaderValue| {
            let mut request = request.clone();
            request.headers_mut().insert(AUTHORIZATION, bearer);
            request
        };
        let (connection, response) =
            self.exchange_despite(fault, authorized(bearer.clone()), deadline, gate).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !shared.tokens.refuse(audience, &bearer).await {
            return Ok((connection, response));
        }
        let refused = answer::outcome(response.status(), response.headers(), shared.clock.now());
        self.connection = shared.client.finish(connection, response.into_body()).await;
        let bearer = shared.tokens.bearer(audience).await?;
        self.exchange_again(refused, authorized(bearer), deadline, gate).await
    }

    /// Does the exchange, and what a fault script wants done with it.
    async fn exchange_despite(
        &mut self,
        fault: Fault,
        request: Outgoing,
        deadline: &mut Deadline<'_>,
        gate: &Gate,
    ) -> Result<Answered, NoAnswer> {
        match fault {
            Fault::Slow { delay } => {
                let shared = Arc::clone(&self.pool.shared);
                let slow = deadline.race(shared.clock.sleep(delay)).await;
                slow.ok_or_else(|| gate.unsent(Outcome::TimedOut))?;
            }
            Fault::Duplicate => {
                let shared = Arc::clone(&self.pool.shared);
                let first = match self.exchange(request.clone(), deadline, gate).await {
                    Ok((connection, response)) => {
                        let status = response.status();
                        let first = answer::outcome(status, response.headers(), shared.clock.wall());
                        self.connection = shared.client.finish(connection, response.into_body()).await;
                        first
                    }
                    Err(NoAnswer::Ended(first)) => first,
                    Err(NoAnswer::Recalled) => return Err(NoAnswer::Recalled),
                };
                return self.exchange_again(first, request, deadline, gate).await;
            }
            // The others are dealt with before an attempt comes here.
            Fault::Pass | Fault::Status { .. } | Fault::Timeout | Fault::Reset | Fault::Reorder => {}
        }
        self.exchange(request, deadline, gate).await
    }

    /// Sends what was sent already and came to `before`: with a pause in between it is left at that.
    async fn exchange_again(
        &mut self,
        before: Outcome,
        request: Outgoing,
        deadline: &mut Deadline<'_>,
        gate: &Gate,
    ) -> Result<Answered, NoAnswer> {
        match self.exchange(request, deadline, gate).await {
            Err(NoAnswer::Recalled) => Err(NoAnswer::Ended(before)),
            exchanged => exchanged,
        }
    }

    /// Sends on our connection, or on a new one.
    ///
    /// A connection that was closed while it was idle is the one failure that is not the attempt's: when
    /// nothing of the request was written, it goes out again on a new connection, once.
    async fn exchange(
        &mut self,
        mut request: Outgoing,
        deadline: &mut Deadline<'_>,
        gate: &Gate,
    ) -> Result<Answered, NoAnswer> {
        loop {
            let kept = self.take_connection().await;
            let is_kept = kept.is_some();
            let mut connection = if let Some(connection) = kept {
                connection
            } else {
                let client = &self.pool.shared.client;
                let pool = &self.pool;
                let connected = client.connect(&pool.key, &pool.terms, &pool.lookups, deadline).await;
                connected.map_err(|outcome| gate.unsent(outcome))?
            };
            // Only now, for a connection may have taken its time.
            if gate.is_closed() {
                self.connection = Some(connection);
                return Err(NoAnswer::Recalled);
            }
            match deadline.race(connection.send(request)).await {
                None => return Err(Outcome::TimedOut.into()),
                Some(Ok(response)) => return Ok((connection, response)),
                Some(Err(SendFailure::NotSent(back))) if is_kept => request = *back,
                Some(Err(failure)) => return Err(failure.outcome().into()),
            }
        }
    }

    /// The connection of the attempt before, if it is still good.
    async fn take_connection(&mut self) -> Option<Connection> {
        let mut connection = self.connection.take()?;
        let age = self.pool.shared.clock.monotonic().saturating_sub(connection.opened());
        (age < CONNECTION_AGE_MAX && connection.is_ready().await).then_some(connection)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.counted {
            return;
        }
        let left = {
            let mut state = self.pool.state();
            state.workers -= 1;
            // It may have been the last: somebody else takes over what waits.
            if std::thread::panicking() { state.queue.pop_front() } else { None }
        };
        if let Some(delivery) = left {
            // There is room for a worker, so it is not refused.
            let _ = self.pool.offer(delivery);
        }
    }
}

/// Waits until the connection is closed; for ever without one.
async fn closed(connection: &mut Option<Connection>) {
    match connection {
        Some(connection) => connection.closed().await,
        None => std::future::pending().await,
    }
}

/// Reports an attempt that ended in a panic: its delivery would be in flight for ever.
pub(super) struct ReportPanic<'a> {
    pub(super) key: AttemptKey,
    pub(super) shared: &'a Shared,
    pub(super) done: &'a mpsc::Sender<Report>,
}

impl Drop for ReportPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.report_unsent(self.key.clone(), Outcome::Unreachable, None, self.done);
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("key", &self.key).finish_non_exhaustive()
    }
}
