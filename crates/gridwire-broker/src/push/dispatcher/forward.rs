//! Forwarding: the attempts whose endpoint is a topic of a namespace of this broker.
//!
//! An event comes as it would be posted, a `CloudEvent` in JSON, and is taken as if it had been published to the
//! topic: read by the same reader with the same limits, matched by the same compiled filters, and appended. The
//! attempt has succeeded when the topic's frame is on stable storage, so what is settled in the source is in the
//! target; a crash between the two forwards it again, as it posts a webhook's event again. An attempt that fails
//! ends with the status that a publisher would be answered, and the rules for webhooks say what follows: 404 while
//! the topic is not there, 413 for what has become too large, 503 from a full or busy store. Nothing goes through
//! our own listeners, and nobody's key is needed.
//!
//! A subscription of a namespace topic forwards nothing, so there are no rings (`SubscriptionRoute::forward`).

use std::sync::Arc;

use arc_swap::ArcSwap;
use gridwire_core::event::DeliverySchema;
use gridwire_core::fault_script::Fault;
use gridwire_core::publish::{self, PublishRequest};
use gridwire_core::render;
use gridwire_core::retry::Outcome;
use gridwire_core::routing::{ForwardTarget, RoutingTable, TopicKind, TopicRoute};
use gridwire_outside::{Clock, Rng};
use gridwire_store::{AppendError, Log};
use tokio::sync::{mpsc, oneshot};

use super::gate::Gate;
use super::pool::{ReportPanic, Shared};
use super::{Attempt, Finished, Report};
use crate::intake::Intake;
use crate::metrics::Metrics;

/// What forwarding needs of the broker.
#[derive(Debug)]
pub(crate) struct Forwarder {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
    /// The latest table: an attempt goes by the one that is in use when it starts.
    pub(crate) table: Arc<ArcSwap<RoutingTable>>,
    /// Held while a table is put in use.
    pub(crate) installing: Arc<tokio::sync::Mutex<()>>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Forwarder {
    /// Puts an event into `target`, if the gate is open. Returns the status that a publisher would be answered.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time; the event may have been taken all the same.
    async fn forward(&self, target: &ForwardTarget, event: &[u8], gate: &Gate) -> Result<u16, NoStatus> {
        let topic = self.route_to(target).await;
        // Only now, for the table may have taken its time.
        if gate.is_closed() {
            return Err(NoStatus::Recalled);
        }
        let Some(topic) = topic else { return Ok(404) };
        let request = PublishRequest {
            kind: TopicKind::Namespace,
            schema: topic.input_schema,
            mapping: None,
            content_type: Some(render::content_type(DeliverySchema::CloudEvent, false)),
            ce_headers: &[],
            body: event,
            now: self.clock.now(),
        };
        let intake = match publish::parse(&request, &mut || self.rng.uuid()) {
            Ok(events) => Intake::of(&topic, &events, event.len(), self.metrics.topic(topic.number)),
            Err(error) => {
                tracing::debug!(topic = topic.resource_id, %error, "an event cannot be forwarded");
                return Ok(error.status());
            }
        };
        status_of(&intake.store(&*self.log).await)
    }

    /// Queues are awake before the table that they came with is in use, at a start long before: what the latest has
    /// no target for may find it in the one that is on its way.
    async fn route_to(&self, target: &ForwardTarget) -> Option<Arc<TopicRoute>> {
        let known = || self.table.load().forward_target(target).cloned();
        if let Some(topic) = known() {
            return Some(topic);
        }
        drop(self.installing.lock().await);
        known()
    }
}

/// Why an attempt has no status.
#[derive(Debug, PartialEq, Eq)]
enum NoStatus {
    /// The log has failed: the process ends, and whether the event is there is found out after the next start.
    LogFailed,
    /// The subscription was paused first.
    Recalled,
}

fn status_of(stored: &Result<(), AppendError>) -> Result<u16, NoStatus> {
    match stored {
        Ok(()) => Ok(200),
        Err(AppendError::Overloaded | AppendError::StorageFull) => Ok(503),
        Err(AppendError::TooLarge { .. }) => Ok(413),
        Err(AppendError::Failed | AppendError::Fenced) => Err(NoStatus::LogFailed),
    }
}

/// An attempt on its way, with the way back. What is under way at once is bounded by its subscription's shard.
pub(super) struct Forwarding {
    pub attempt: Attempt,
    pub target: ForwardTarget,
    /// As of a delivery to a webhook.
    pub gate: Arc<Gate>,
    pub done: mpsc::Sender<Report>,
    /// As of a delivery to a webhook.
    pub fault: Fault,
    /// Let go by being dropped.
    pub overtakes: Vec<oneshot::Sender<()>>,
}

impl Forwarding {
    /// Does the attempt and reports it, unless the broker stops first.
    pub(super) async fn run(self, shared: &Shared) {
        let Self { attempt, target, gate, done, fault, overtakes } = self;
        let key = attempt.key.clone();
        let guard = ReportPanic { key: key.clone(), shared, done: &done };
        let started = shared.clock.monotonic();
        let out_of_time = async {
            shared.stop.cancelled().await;
            shared.clock.sleep(shared.options.stop_grace).await;
        };
        let ended = tokio::select! {
            biased; // What is done counts.
            ended = exchange(shared, &target, &attempt.body, fault, &gate) => ended,
            () = out_of_time => return,
        };
        let (outcome, status) = match ended {
            Ok(ended) => ended,
            Err(NoStatus::LogFailed) => return,
            Err(NoStatus::Recalled) => {
                let _ = done.send(Report::Recalled(key)).await;
                return;
            }
        };
        let latency = shared.clock.monotonic().saturating_sub(started);
        let (name, event) = (&attempt.subscription.name, key.offsets[0]);
        tracing::debug!(subscription = %name, %event, ?outcome, ?latency, "attempt ended");
        // An error means that the shard is gone, and with it everybody who wants to know.
        let _ = done.send(Report::Finished(Finished { key, outcome, status, latency })).await;
        drop(guard);
        drop(overtakes);
    }
}

/// Forwards, despite what a fault script wants done with it. Our own log has no time in which it must have answered,
/// for what it takes late it has taken all the same, and would be given again.
async fn exchange(
    shared: &Shared,
    target: &ForwardTarget,
    event: &[u8],
    fault: Fault,
    gate: &Gate,
) -> Result<(Outcome, Option<u16>), NoStatus> {
    let forwarder = &shared.forwarder;
    let status = match fault {
        Fault::Slow { delay } => {
            let slow = shared.clock.sleep(delay);
            if shared.client.deadline().race(slow).await.is_none() {
                return Ok((Outcome::TimedOut, None));
            }
            forwarder.forward(target, event, gate).await?
        }
        Fault::Duplicate => {
            let first = forwarder.forward(target, event, gate).await?;
            match forwarder.forward(target, event, gate).await {
                Err(NoStatus::Recalled) => first,
                second => second?,
            }
        }
        // The others are dealt with before an attempt comes here.
        Fault::Pass | Fault::Status { .. } | Fault::Timeout | Fault::Reset | Fault::Reorder => {
            forwarder.forward(target, event, gate).await?
        }
    };
    let outcome = match status {
        200..=204 => Outcome::Accepted,
        _ => Outcome::Answered { status, retry_after: None },
    };
    Ok((outcome, Some(status)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use bytes::Bytes;
    use gridwire_core::event::{Event, InputSchema};
    use gridwire_core::fault_script::{FaultScript, Step};
    use gridwire_core::filter::{FilterSpec, Matcher};
    use gridwire_core::ids::{Lsn, Offset, Slot, SubscriptionNumber, TopicNumber};
    use gridwire_core::limits::REQUEST_BYTES_MAX;
    use gridwire_core::routing::{
        AccessKey, Credentials, DomainTopics, NamespaceRoute, Place, SubscriptionRoute, TopicRoute,
    };

    use super::*;
    use crate::push::dispatcher::AttemptKey;
    use crate::push::testing::{Rig, local_options, subscription};

    const TARGET: TopicNumber = TopicNumber(9);
    const SOURCE: SubscriptionNumber = SubscriptionNumber(1);

    fn target() -> ForwardTarget {
        ForwardTarget { namespace: Place::new("S", "G", "Shop"), topic: "jobs".to_owned() }
    }

    fn source() -> Arc<SubscriptionRoute> {
        let route = subscription(SOURCE.0, "", DeliverySchema::CloudEvent);
        let mut route = Arc::into_inner(route).expect("nobody else has it");
        (route.webhook, route.forward) = (None, Some(target()));
        Arc::new(route)
    }

    /// A table with the target, where slot 3 gets what is of type `order.paid`.
    fn table() -> RoutingTable {
        let credentials = Credentials { keys: [AccessKey::new("a"), AccessKey::new("b")], local_auth: true };
        let filter = FilterSpec { event_types: Some(vec!["order.paid".to_owned()]), ..FilterSpec::default() };
        let topic = Arc::new(TopicRoute {
            number: TARGET,
            kind: TopicKind::Namespace,
            name: "jobs".to_owned(),
            resource_id: "/namespaces/shop/topics/jobs".to_owned(),
            input_schema: InputSchema::CloudEvent,
            input_mapping: None,
            credentials: credentials.clone(),
            retention: Duration::from_secs(86_400),
            matcher: Arc::new(Matcher::compile(InputSchema::CloudEvent, &[(Slot(3), &filter)])),
            subscriptions: HashMap::new(),
            domain_topics: DomainTopics::default(),
        });
        let namespace = NamespaceRoute {
            name: "shop".to_owned(),
            resource_id: "/namespaces/shop".to_owned(),
            credentials,
            topics: HashMap::from([("jobs".to_owned(), Arc::clone(&topic))]),
        };
        let mut table = RoutingTable::default();
        table.namespaces.insert(target().namespace, Arc::new(namespace));
        table.by_number.insert(TARGET, topic);
        table
    }

    fn rig() -> Rig {
        let rig = Rig::with(
            crate::push::PushOptions { faults: true, ..local_options() },
            Arc::new(gridwire_outside::system::SystemNet),
        );
        rig.table.store(Arc::new(table()));
        rig
    }

    fn event(event_type: &str, pad: usize) -> String {
        let pad = "x".repeat(pad);
        format!(
            r#"{{"specversion":"1.0","id":"e-1","source":"/me","type":"{event_type}","time":"2026-01-02T03:04:05Z","traceparent":"00-ab-cd-01","data":{{"pad":"{pad}"}}}}"#
        )
    }

    /// Starts an attempt with this body.
    fn start(rig: &mut Rig, body: String) -> AttemptKey {
        let offsets = Arc::new([Offset(7)]);
        let key = AttemptKey { subscription: SOURCE, offsets, id: 1, attempt: 1 };
        let content_type = render::content_type(DeliverySchema::CloudEvent, false);
        let (subscription, body) = (source(), Bytes::from(body));
        rig.send(Attempt { subscription, key: key.clone(), body, content_type, headers: Vec::new() });
        key
    }

    /// One attempt with this body, and how it ended.
    async fn attempt(rig: &mut Rig, body: String) -> Finished {
        let key = start(rig, body);
        let finished = rig.finished().await;
        assert_eq!(finished.key, key);
        finished
    }

    /// What is in the target: the slots that are to get it, and the event.
    async fn taken(rig: &Rig) -> Vec<(Vec<Slot>, String)> {
        if rig.log.end(TARGET) == Offset(0) {
            return Vec::new();
        }
        let frames = rig.log.read(Lsn(0), 1 << 20).await.expect("readable");
        let mut all = Vec::new();
        for frame in &frames {
            for stored in frame.view().events() {
                let event = Event::decode(stored.event_bytes().expect("bytes")).expect("an event");
                let trace = event.extensions.first().map(|trace| trace.json.clone()).unwrap_or_default();
                let shown = format!("{} {} {trace}", event.id, event.source);
                all.push((stored.matched().expect("a set").iter().collect(), shown));
            }
        }
        all
    }

    #[tokio::test]
    async fn an_event_is_in_the_topic_with_its_identity_when_the_attempt_has_succeeded() {
        let mut rig = rig();
        let finished = attempt(&mut rig, event("order.paid", 0)).await;
        assert_eq!((finished.outcome, finished.status), (Outcome::Accepted, Some(200)));
        let expected = (vec![Slot(3)], "e-1 /me \"00-ab-cd-01\"".to_owned());
        assert_eq!(taken(&rig).await, [expected]);
    }

    #[tokio::test]
    async fn an_event_that_nobody_there_wants_is_taken_and_not_stored() {
        let mut rig = rig();
        assert_eq!(attempt(&mut rig, event("order.lost", 0)).await.outcome, Outcome::Accepted);
        assert_eq!(taken(&rig).await, []);
    }

    #[tokio::test]
    async fn a_failure_is_what_a_publisher_would_be_answered() {
        let mut rig = rig();
        let check = |finished: &Finished, status| {
            assert_eq!(finished.outcome, Outcome::Answered { status, retry_after: None });
            assert_eq!(finished.status, Some(status));
        };
        check(&attempt(&mut rig, event("order.paid", REQUEST_BYTES_MAX)).await, 413);
        check(&attempt(&mut rig, "{}".to_owned()).await, 400);
        rig.table.store(Arc::default());
        check(&attempt(&mut rig, event("order.paid", 0)).await, 404);
        rig.table.store(Arc::new(table()));
        assert_eq!(attempt(&mut rig, event("order.paid", 0)).await.outcome, Outcome::Accepted);
        assert_eq!(taken(&rig).await.len(), 1);
    }

    #[tokio::test]
    async fn an_attempt_without_a_target_waits_for_the_table_that_is_on_its_way() {
        let mut rig = rig();
        rig.table.store(Arc::default());
        let installing = Arc::clone(&rig.installing).lock_owned().await;
        start(&mut rig, event("order.paid", 0));
        for _ in 0..10 {
            tokio::task::yield_now().await; // It has looked, and found no target.
        }
        rig.table.store(Arc::new(table()));
        drop(installing);
        assert_eq!(rig.finished().await.outcome, Outcome::Accepted);
    }

    #[tokio::test]
    async fn what_still_looks_for_its_target_when_the_pause_comes_is_recalled() {
        let mut rig = rig();
        rig.table.store(Arc::default());
        let installing = Arc::clone(&rig.installing).lock_owned().await;
        let key = start(&mut rig, event("order.paid", 0));
        for _ in 0..10 {
            tokio::task::yield_now().await; // It has looked, and found no target.
        }
        rig.dispatcher.set_paused(SOURCE, true);
        rig.table.store(Arc::new(table()));
        drop(installing);
        assert_eq!(rig.report().await, Report::Recalled(key));
        assert_eq!(taken(&rig).await, []);
        rig.dispatcher.set_paused(SOURCE, false);
        assert_eq!(attempt(&mut rig, event("order.paid", 0)).await.outcome, Outcome::Accepted);
    }

    #[test]
    fn a_full_or_busy_store_is_busy_and_a_failed_one_says_nothing() {
        assert_eq!(status_of(&Ok(())), Ok(200));
        assert_eq!(status_of(&Err(AppendError::Overloaded)), Ok(503));
        assert_eq!(status_of(&Err(AppendError::StorageFull)), Ok(503));
        assert_eq!(status_of(&Err(AppendError::TooLarge { max: 1 })), Ok(413));
        assert_eq!(status_of(&Err(AppendError::Failed)), Err(NoStatus::LogFailed));
    }

    #[tokio::test]
    async fn fault_scripts_hold_for_forwarding() {
        let mut rig = rig();
        let steps = ["503", "timeout", "duplicate"].map(|word| Step::parse(word).expect("a step"));
        rig.dispatcher.set_faults(SOURCE, FaultScript::new(steps).expect("a script"));
        let mut outcomes = Vec::new();
        for _ in 0..4 {
            outcomes.push(attempt(&mut rig, event("order.paid", 0)).await.outcome);
        }
        let busy = Outcome::Answered { status: 503, retry_after: None };
        assert_eq!(outcomes, [busy, Outcome::TimedOut, Outcome::Accepted, Outcome::Accepted]);
        assert_eq!(taken(&rig).await.len(), 3, "one of them twice");
    }
}
