//! Every endpoint's queue and connections.
//!
//! The shard driver hands over attempts ([`Dispatcher::start`]) and gets each one's [`Report`] back on a
//! channel of its own. Between the two stands a [`pool`] for each endpoint: what one of them does to its
//! attempts, hang, trickle or crash, happens to its own queue and its own connections only. The one thing all
//! share is the map that finds the pool, held for a look-up. Subscriptions that forward have no pool: their attempts
//! end in our own log ([`forward`]). What a pause finds not sent yet goes back ([`gate`]).

mod forward;
mod gate;
mod pool;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use gridwire_core::event::DeliverySchema;
use gridwire_core::fault_script::FaultScript;
use gridwire_core::ids::{Offset, SubscriptionNumber};
use gridwire_core::retry::Outcome;
use gridwire_core::routing::{Consent, ForwardTarget, Handshake, HandshakeError, SubscriptionRoute};
use gridwire_core::tls_identity::TlsIdentity;
use gridwire_outside::{Clock, Net, Rng};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::forward::Forwarder;
use self::forward::Forwarding;
use self::gate::Gates;
use self::pool::{Delivery, Pool, Shared};
use super::PushOptions;
use super::client::Client;
use super::endpoint::{Endpoint, EndpointKey};
use super::faults::{Faults, Met, REORDER_PATIENCE};
use super::handshake::{Handshakes, origin_header};
use super::tls::Terms;
use super::tokens::Tokens;

/// Subscriptions that are remembered before the first look for removed ones.
const PRUNE_AT_LEAST: usize = 1024;

/// Which deliveries an attempt belongs to; given back as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttemptKey {
    pub subscription: SubscriptionNumber,
    /// Of the events that travel in one request, and share its outcome.
    pub offsets: Arc<[Offset]>,
    pub id: u64,
    /// Which attempt at each of the events it is; the first is 1.
    pub attempt: u32,
}

/// One request to send.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub subscription: Arc<SubscriptionRoute>,
    pub key: AttemptKey,
    pub body: Bytes,
    pub content_type: &'static str,
    /// What is sent besides the headers that every request has. Values may be anybody's text.
    pub headers: Vec<(Cow<'static, str>, String)>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    pub key: AttemptKey,
    pub outcome: Outcome,
    /// The answer's, when there was one.
    pub status: Option<u16>,
    /// From the start of sending, connecting included, to the head of the answer or the failure.
    pub latency: Duration,
}

impl Finished {
    /// An attempt that has ended without anything being sent.
    pub(crate) const fn unsent(key: AttemptKey, outcome: Outcome, status: Option<u16>) -> Self {
        Self { key, outcome, status, latency: Duration::ZERO }
    }
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    Finished(Finished),
    /// Nothing of it was sent, nor will be: its subscription was paused first.
    Recalled(AttemptKey),
}

impl Report {
    pub(crate) fn key(&self) -> &AttemptKey {
        match self {
            Self::Finished(finished) => &finished.key,
            Self::Recalled(key) => key,
        }
    }
}

/// Why an attempt has no answer.
enum NoAnswer {
    Ended(Outcome),
    Recalled,
}

impl From<Outcome> for NoAnswer {
    fn from(outcome: Outcome) -> Self {
        Self::Ended(outcome)
    }
}

/// What an endpoint is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointStatus {
    /// `https://host:port`.
    pub endpoint: String,
    pub in_flight: usize,
    pub queued: usize,
    pub last_outcome: Option<Outcome>,
}

/// Sends attempts, each to its subscription's endpoint.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    shared: Arc<Shared>,
    handshakes: Handshakes,
    routes: Mutex<Routes>,
    gates: Gates,
    /// Only in development mode.
    faults: Option<Faults>,
}

/// Who shares connections: those who call the same endpoint and have the same terms for it.
type PoolKey = (EndpointKey, Option<Arc<TlsIdentity>>);

#[derive(Debug)]
struct Routes {
    by_subscription: HashMap<SubscriptionNumber, Known>,
    pools: HashMap<PoolKey, Weak<Pool>>,
    /// When this many subscriptions or pools are known, those that are gone are forgotten.
    prune_at: usize,
}

/// What is known of one subscription, as long as the routing table it came with is in use.
#[derive(Debug)]
struct Known {
    subscription: Weak<SubscriptionRoute>,
    /// `None` when its endpoint may not be called.
    route: Option<Arc<Route>>,
}

/// Where a subscription's attempts go.
pub(crate) struct Route {
    pool: Arc<Pool>,
    target: PathAndQuery,
    /// Each delivery says who sends it: the endpoint has consented to that name.
    signs_origin: bool,
}

/// What an attempt takes.
enum Way {
    Post(Arc<Route>),
    Forward(ForwardTarget),
}

/// An attempt that nothing holds back.
enum Outgoing {
    Post(Delivery),
    Forward(Forwarding),
}

impl Dispatcher {
    /// On `stop`, attempts in flight have [`PushOptions::stop_grace`] to end; what was not started is dropped
    /// without a report, to be repeated after the next start. `tasks` joins the connections' tasks.
    pub(crate) fn new(
        net: Arc<dyn Net>,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        options: PushOptions,
        forwarder: Forwarder,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let options = Arc::new(options);
        let client = Arc::new(Client::new(net, Arc::clone(&clock), Arc::clone(&options)));
        let origin = origin_header(&options);
        let tokens = Arc::new(Tokens::new(Arc::clone(&client), Arc::clone(&clock), Arc::clone(&options)));
        let handshakes = Handshakes::new(
            Arc::clone(&client),
            Arc::clone(&clock),
            rng,
            origin.clone(),
            Arc::clone(&options),
            Arc::clone(&tokens),
        );
        let routes =
            Routes { by_subscription: HashMap::new(), pools: HashMap::new(), prune_at: PRUNE_AT_LEAST };
        let faults = options.faults.then(Faults::default);
        let shared = Arc::new(Shared { client, clock, options, origin, tokens, forwarder, tasks, stop });
        Arc::new(Self { shared, handshakes, routes: Mutex::new(routes), gates: Gates::default(), faults })
    }

    /// Sends `attempt` as soon as its endpoint has a connection free, and reports to `done`. Never blocks.
    ///
    /// The caller keeps the number of outstanding attempts of each subscription bounded
    /// ([`PushOptions::attempts_per_subscription_max`]); an attempt above that is reported
    /// [`Outcome::Unreachable`] at once. `done` should have room for all outstanding attempts of its owner:
    /// connections wait for it.
    pub(crate) fn start(&self, attempt: Attempt, done: &mpsc::Sender<Report>) {
        if self.shared.stop.is_cancelled() {
            return;
        }
        let gate = self.gates.of(attempt.subscription.number);
        if gate.is_closed() {
            return self.shared.report_at_once(Report::Recalled(attempt.key), done);
        }
        let way = match &attempt.subscription.forward {
            Some(target) => Some(Way::Forward(target.clone())),
            None => self.route(&attempt.subscription).map(Way::Post),
        };
        let Some(way) = way else {
            return self.shared.report_unsent(attempt.key, Outcome::Forbidden, None, done);
        };
        let Met { fault, overtakes, held } = match &self.faults {
            Some(faults) => faults.next(attempt.key.subscription),
            None => Met::default(),
        };
        if let Some((outcome, status)) = Met::instead(fault) {
            return self.shared.report_unsent(attempt.key, outcome, status, done);
        }
        let done = done.clone();
        let outgoing = match way {
            Way::Post(route) => Outgoing::Post(Delivery { attempt, route, gate, done, fault, overtakes }),
            Way::Forward(target) => {
                Outgoing::Forward(Forwarding { attempt, target, gate, done, fault, overtakes })
            }
        };
        let Some(held) = held else { return self.shared.let_go(outgoing) };
        let shared = Arc::clone(&self.shared);
        // Bounded by what the caller has outstanding.
        self.shared.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => return,
                // An error, because nobody says a word: the other attempt has let go of its end.
                _ = held => {}
                () = shared.clock.sleep(REORDER_PATIENCE) => {}
            }
            shared.let_go(outgoing);
        });
    }

    /// What the subscription's next attempts shall meet, in place of what was said before. `false` when there are
    /// no faults here.
    pub(crate) fn set_faults(&self, subscription: SubscriptionNumber, script: FaultScript) -> bool {
        self.faults.as_ref().is_some_and(|faults| {
            faults.set(subscription, script);
            true
        })
    }

    /// What is left of the subscription's script.
    pub(crate) fn faults(&self, subscription: SubscriptionNumber) -> FaultScript {
        self.faults.as_ref().map(|faults| faults.left(subscription)).unwrap_or_default()
    }

    /// From now on no request of the subscription begins to be sent while it is `paused`. What waits to be sent is
    /// reported as recalled, what waits for a connection at once; what is being sent goes on.
    pub(crate) fn set_paused(&self, subscription: SubscriptionNumber, paused: bool) {
        self.gates.set_closed(subscription, paused);
        if !paused {
            return;
        }
        let route = {
            let routes = self.routes.lock().expect("no panic while the routes are held");
            routes.by_subscription.get(&subscription).and_then(|known| known.route.clone())
        };
        let Some(route) = route else { return };
        for Delivery { attempt, done, .. } in route.pool.take(subscription) {
            self.shared.report_at_once(Report::Recalled(attempt.key), &done);
        }
    }

    /// Drops what still waits to be sent on behalf of a subscription that was removed. What is being sent goes on.
    pub(crate) fn forget(&self, subscription: SubscriptionNumber) {
        self.gates.forget(subscription);
        if let Some(faults) = &self.faults {
            faults.set(subscription, FaultScript::default());
        }
        let known = {
            let mut routes = self.routes.lock().expect("no panic while the routes are held");
            routes.by_subscription.remove(&subscription)
        };
        if let Some(route) = known.and_then(|known| known.route) {
            // Nobody wants to know of them.
            drop(route.pool.take(subscription));
        }
    }

    /// Asks the endpoint for its consent (`push-delivery` contract, section 2).
    ///
    /// # Cancel safety
    ///
    /// Can be dropped at any time; the endpoint may have been asked.
    pub(crate) async fn validate(&self, handshake: Handshake) -> Result<Consent, HandshakeError> {
        tokio::select! {
            biased;
            result = self.handshakes.validate(&handshake) => result,
            () = self.shared.stop.cancelled() => Err(HandshakeError::Refused {
                endpoint: Endpoint::shown(&handshake.webhook.url),
                reason: "the broker is stopping".to_owned(),
            }),
        }
    }

    /// The endpoints of all subscriptions that had an attempt, in order of their names.
    #[cfg_attr(not(test), expect(dead_code, reason = "the metrics page does not show endpoints yet"))]
    pub(crate) fn endpoints(&self) -> Vec<EndpointStatus> {
        let pools: Vec<_> = {
            let mut routes = self.routes.lock().expect("no panic while the routes are held");
            routes.prune();
            routes.pools.values().filter_map(Weak::upgrade).collect()
        };
        let mut all: Vec<_> = pools.iter().map(|pool| pool.status()).collect();
        all.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        all
    }

    /// Where the subscription's attempts go; remembered for as long as its route is the same.
    fn route(&self, subscription: &Arc<SubscriptionRoute>) -> Option<Arc<Route>> {
        let mut routes = self.routes.lock().expect("no panic while the routes are held");
        if let Some(known) = routes.by_subscription.get(&subscription.number)
            && std::ptr::eq(known.subscription.as_ptr(), Arc::as_ptr(subscription))
        {
            return known.route.clone();
        }
        // An endpoint or an identity that was exchanged leaves a pool behind and no subscription.
        if routes.prune_at <= routes.by_subscription.len().max(routes.pools.len()) {
            routes.prune();
        }
        let route = self.new_route(&mut routes, subscription).map(Arc::new);
        let known = Known { subscription: Arc::downgrade(subscription), route: route.clone() };
        routes.by_subscription.insert(subscription.number, known);
        route
    }

    fn new_route(&self, routes: &mut Routes, subscription: &SubscriptionRoute) -> Option<Route> {
        let webhook = subscription.webhook.as_ref()?;
        let endpoint = match Endpoint::parse(&webhook.url, self.shared.options.allow_http) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                tracing::warn!(subscription = %subscription.name, %error, "the endpoint may not be called");
                return None;
            }
        };
        let key = (endpoint.key, webhook.tls.clone());
        let pool = routes.pools.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let terms = Terms::of(key.1.clone());
            let pool = Arc::new(Pool::new(key.0.clone(), terms, Arc::clone(&self.shared)));
            routes.pools.insert(key, Arc::downgrade(&pool));
            pool
        });
        pool.join();
        let signs_origin = webhook.schema == DeliverySchema::CloudEvent;
        Some(Route { pool, target: endpoint.path_and_query, signs_origin })
    }
}

impl Shared {
    fn let_go(self: &Arc<Self>, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Post(delivery) => self.offer(delivery),
            Outgoing::Forward(forwarding) => {
                let shared = Arc::clone(self);
                // Bounded by what the caller has outstanding.
                self.tasks.spawn(async move { forwarding.run(&shared).await });
            }
        }
    }

    fn offer(&self, delivery: Delivery) {
        let pool = Arc::clone(&delivery.route.pool);
        if let Err(delivery) = pool.offer(delivery) {
            let Delivery { attempt: Attempt { key, .. }, done, .. } = *delivery;
            tracing::warn!(endpoint = %pool.key(), "more attempts are outstanding than was agreed");
            self.report_unsent(key, Outcome::Unreachable, None, &done);
        }
    }

    /// Reports an attempt that has ended without anything being sent.
    fn report_unsent(
        &self,
        key: AttemptKey,
        outcome: Outcome,
        status: Option<u16>,
        done: &mpsc::Sender<Report>,
    ) {
        self.report_at_once(Report::Finished(Finished::unsent(key, outcome, status)), done);
    }

    fn report_at_once(&self, report: Report, done: &mpsc::Sender<Report>) {
        if let Err(mpsc::error::TrySendError::Full(report)) = done.try_send(report) {
            let done = done.clone();
            // Bounded by what the caller has outstanding.
            self.tasks.spawn(async move {
                // Nobody waits for it any more: then nobody needs it.
                let _ = done.send(report).await;
            });
        }
    }
}

impl Routes {
    /// Forgets subscriptions whose routes are no longer in use, and then endpoints nobody needs.
    fn prune(&mut self) {
        self.by_subscription.retain(|_, known| 0 < known.subscription.strong_count());
        self.pools.retain(|_, pool| 0 < pool.strong_count());
        self.prune_at = PRUNE_AT_LEAST.max(2 * self.by_subscription.len().max(self.pools.len()));
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        self.pool.leave();
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("endpoint", self.pool.key()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
