//! The control plane itself: what it holds, and how a request is answered.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::routing::{DeliveryPort, InstallError, RoutingTable};
use gridwire_http::{Guard, Peer, Request, Response, empty, error, json};
use gridwire_outside::{Clock, Rng};
use gridwire_store::{ResourceError, ResourceStore};
use http::header::{AUTHORIZATION, ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::Value;
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio_util::task::TaskTracker;

use crate::address::{Address, Form, ROOT};
use crate::audit::RequestIds;
use crate::body;
use crate::change::{Change, Operation, unavailable};
use crate::compile::{compile, recompile};
use crate::consent::Invitations;
use crate::document::{Entry, Resources, not_found};
use crate::facts::Facts;
use crate::format;
use crate::kinds::Action;
use crate::limits::{CHANGES_MAX, REFUSED_AUDIT_INTERVAL, RETRY_AFTER};
use crate::list::{List, Via};
use crate::members::Members;
use crate::options::{ControlOptions, DeadLetterPatience};
use crate::plan::{Preconditions, Write};
use crate::provider;
use crate::request::{self, Query, Target};
use crate::sealer::Sealer;
use crate::signing;
use crate::strict;
use crate::throttle;

/// What wrong management tokens are counted for.
const MANAGEMENT: &str = "management";

/// Why the control plane could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("failed to read the resources")]
    Store(#[source] ResourceError),
    #[error("failed to read the resource `{key}`: {reason}")]
    Resource { key: String, reason: String },
}

/// How much there is, for readiness and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Custom topics, domains and namespace topics.
    pub topics: usize,
    pub namespaces: usize,
    /// Event subscriptions of any kind of topic.
    pub subscriptions: usize,
}

/// The control plane.
#[derive(Debug)]
pub struct Control {
    shared: Arc<Shared>,
    /// The changes under way: they run to their end whether or not their clients wait.
    changes: TaskTracker,
    /// How many there may be; more are answered 503.
    places: Arc<Semaphore>,
}

/// What requests and changes share.
pub(crate) struct Shared {
    pub store: Arc<dyn ResourceStore>,
    pub sealer: Sealer,
    pub delivery: Arc<dyn DeliveryPort>,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
    pub options: ControlOptions,
    /// Held while a change is stored and put in use.
    pub turn: Mutex<()>,
    /// Set when the memory may differ from the store.
    pub stale: AtomicBool,
    /// Told after every change, for reconcilers.
    pub changed: Notify,
    state: RwLock<State>,
    /// Against guesses at the management token.
    guard: Guard,
    /// Monotonic time of the last refused login that was audited, in milliseconds.
    refused_at: AtomicU64,
    /// Ways to consent by hand that endpoints are being told of.
    pub invitations: Arc<Invitations>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}

/// All resources and what they compile to.
#[derive(Debug)]
pub(crate) struct State {
    pub resources: Resources,
    pub table: Arc<RoutingTable>,
    /// The same for every table of a process.
    pub patience: DeadLetterPatience,
    /// Whether the delivery port has the latest table.
    pub installed: bool,
}

impl State {
    /// Compiles what hangs on the resources at `changed` anew.
    pub(crate) fn recompile<'a>(&mut self, changed: impl IntoIterator<Item = &'a Address>) {
        let table = recompile(&self.resources, &self.table, self.patience, changed);
        if !Arc::ptr_eq(&table, &self.table) {
            self.table = table;
            self.installed = false;
        }
    }
}

/// Reads every resource of the store.
pub(crate) async fn load(store: &dyn ResourceStore, sealer: &Sealer) -> Result<Resources, ControlError> {
    let mut resources = Resources::default();
    // In order of key, so parents come before their children.
    for resource in store.list(ROOT).await.map_err(ControlError::Store)? {
        let key = resource.key.clone();
        let entry = format::read(resource, sealer, &resources)
            .map_err(|error| ControlError::Resource { key, reason: error.to_string() })?;
        resources.insert(entry);
    }
    Ok(resources)
}

/// The routing table of a store that no server uses.
///
/// # Errors
///
/// The resources cannot be read, or not with these keys.
pub async fn read_table(
    store: &dyn ResourceStore,
    sealer: &Sealer,
) -> Result<Arc<RoutingTable>, ControlError> {
    let resources = load(store, sealer).await?;
    Ok(compile(&resources, DeadLetterPatience::default()))
}

/// The token of an `Authorization` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

impl Shared {
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("no panic while the resources are held")
    }

    pub(crate) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("no panic while the resources are held")
    }
}

impl Control {
    /// Reads all resources and compiles the routing table. Does not install it: the broker may not run yet.
    pub async fn open(
        store: Arc<dyn ResourceStore>,
        sealer: Sealer,
        delivery: Arc<dyn DeliveryPort>,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        options: ControlOptions,
    ) -> Result<Arc<Self>, ControlError> {
        let resources = load(&*store, &sealer).await?;
        let patience = options.dead_letter_patience;
        let table = compile(&resources, patience);
        let state = State { resources, table, patience, installed: false };
        let guard = Guard::new(options.auth_failures_max, Arc::clone(&clock));
        let shared = Shared {
            store,
            sealer,
            delivery,
            clock,
            rng,
            options,
            turn: Mutex::new(()),
            stale: AtomicBool::new(false),
            changed: Notify::new(),
            state: RwLock::new(state),
            guard,
            refused_at: AtomicU64::new(u64::MAX),
            invitations: Arc::default(),
        };
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
            changes: TaskTracker::new(),
            places: Arc::new(Semaphore::new(CHANGES_MAX)),
        }))
    }

    /// The latest compiled table; not necessarily installed yet.
    pub fn table(&self) -> Arc<RoutingTable> {
        Arc::clone(&self.shared.state().table)
    }

    /// Hands the table to the delivery port and waits until it is in use. Called once, at the start.
    ///
    /// # Cancel safety
    ///
    /// May be dropped; the table then counts as not installed and the next change installs it.
    pub async fn install(&self) -> Result<(), InstallError> {
        let _turn = self.shared.turn.lock().await;
        self.shared.install_table().await
    }

    /// Brings memory and delivery port up to date after a change that failed half-way, and tells whether they
    /// are. The next change does the same; this is for whoever sees [`Control::is_installed`] false and does
    /// not want to wait for one.
    pub async fn reconcile(&self) -> bool {
        let _turn = self.shared.turn.lock().await;
        // Failures are logged where they happen.
        self.shared.catch_up().await.is_ok()
    }

    /// Whether the delivery port has the latest table: part of readiness.
    pub fn is_installed(&self) -> bool {
        self.shared.state().installed && !self.shared.stale.load(Ordering::Acquire)
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for entry in self.shared.state().resources.iter() {
            match entry.facts() {
                Facts::Topic(_) => counts.topics += 1,
                Facts::Namespace => counts.namespaces += 1,
                // As many as 100,000, and nothing hangs on them.
                Facts::DomainTopic => {}
                Facts::Subscription(_) => counts.subscriptions += 1,
            }
        }
        counts
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn changes(&self) -> &TaskTracker {
        &self.changes
    }

    /// Waits for the changes under way; for a drain, once no new requests come.
    pub async fn drain(&self) {
        self.changes.close();
        self.changes.wait().await;
    }

    /// Whether a path is the control plane's: `/subscriptions/…` and `/providers/…`, in any case.
    pub fn is_management_path(path: &str) -> bool {
        request::is_management_path(path)
    }

    /// Answers a request.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: a change whose body was read runs on to its end.
    pub async fn handle(&self, request: Request, peer: Peer) -> Response {
        let ids = RequestIds::of(request.headers(), &*self.shared.rng);
        let mut response = match self.answer(request, peer, &ids).await {
            Ok(response) => response,
            Err(refusal) => error(&refusal),
        };
        ids.stamp(response.headers_mut());
        response
    }

    async fn answer(&self, request: Request, peer: Peer, ids: &RequestIds) -> Result<Response, ApiError> {
        self.authorize(request.headers(), peer, ids)?;
        let query = Query::parse(request.uri().query().unwrap_or_default())?;
        let target = Target::parse(request.uri().path())?;
        if let Target::Resource { address, form } = target {
            return self.answer_resource(request, peer, ids, address, form).await;
        }
        if let Target::Action { address, form, action } = target {
            only(&request, &Method::POST, "POST")?;
            if action == Action::Revalidate {
                let operation = Operation::Revalidate;
                let change = Change { address, operation, preconditions: preconditions(request.headers()) };
                let entry = self.change(change, StatusCode::OK, peer, ids).await?.ok_or_else(internal)?;
                return self.show(&entry, form, StatusCode::OK);
            }
            return self.act(request, peer, ids, address, action).await;
        }
        only(&request, &Method::GET, "GET")?;
        let origin = request::origin(&request, peer);
        let public = &self.shared.options.public;
        let via = Via {
            origin: origin.as_deref().unwrap_or_else(|| public.preferred()),
            path: request.uri().path(),
            public,
            now: self.shared.clock.now(),
        };
        let list = |list: List<'_>| list.page(&self.shared.state().resources, &query, via);
        let value = match &target {
            Target::Collection { scope, kind, form } => {
                list(List { kinds: &[*kind], scope, form: *form, location: None, topic_type: None })?
            }
            Target::EventSubscriptions { scope, location, topic_type } => {
                list(List::by_place(scope, location.as_deref(), topic_type.as_deref()))?
            }
            Target::EventTypes => serde_json::json!({ "value": [] }),
            Target::Operations => provider::operations(),
            Target::TopicTypes => provider::topic_types(),
            Target::TopicType { name } => provider::topic_type(name)?,
            Target::TopicTypeEventTypes { name } => provider::event_types_of(name)?,
            Target::Resource { .. } | Target::Action { .. } => return Err(internal()),
        };
        Ok(json(StatusCode::OK, value.to_string()))
    }

    /// Whether a request may do what only the management token allows.
    ///
    /// # Errors
    ///
    /// 401 with one message for everything that is wrong, so that it tells nothing; 429 after too many wrong tokens.
    pub fn admit(&self, headers: &HeaderMap, peer: Peer) -> Result<(), ApiError> {
        let refusal = || {
            let message = "The request needs a valid management token as its bearer token.";
            ApiError::new(ErrorCode::Unauthorized, message)
        };
        // None at all is no guess.
        let presented = bearer(headers).ok_or_else(refusal)?;
        let is_right = || self.shared.options.management_token.matches(presented);
        self.shared.guard.judge(MANAGEMENT, peer, || is_right().then_some(()).ok_or_else(refusal))
    }

    /// The same, with an entry in the audit log now and then for those that are refused.
    fn authorize(&self, headers: &HeaderMap, peer: Peer, ids: &RequestIds) -> Result<(), ApiError> {
        let admitted = self.admit(headers, peer);
        if let Err(refusal) = &admitted
            && self.may_audit_refusal()
        {
            ids.record(peer, "login", "", Err(refusal));
        }
        admitted
    }

    /// Whether enough time has passed since the last refused login in the audit log.
    fn may_audit_refusal(&self) -> bool {
        let now = u64::try_from(self.shared.clock.monotonic().as_millis()).unwrap_or(u64::MAX - 1);
        let interval = u64::try_from(REFUSED_AUDIT_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        let last = self.shared.refused_at.load(Ordering::Relaxed);
        let due = last == u64::MAX || now.saturating_sub(last) >= interval;
        due && self
            .shared
            .refused_at
            .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    async fn answer_resource(
        &self,
        request: Request,
        peer: Peer,
        ids: &RequestIds,
        address: Address,
        form: Form,
    ) -> Result<Response, ApiError> {
        let preconditions = preconditions(request.headers());
        let kind = address.kind;
        match *request.method() {
            Method::GET => {
                let entry = self.find(&address)?;
                self.show(&entry, form, StatusCode::OK)
            }
            Method::PATCH if kind.patch.members.is_empty() => Err(wrong_method("GET, PUT, DELETE")),
            Method::PUT | Method::PATCH => {
                let patch = request.method() == Method::PATCH;
                let (head, body) = request.into_parts();
                let body = if kind.bare {
                    body::read_optional(&head.headers, body).await?
                } else {
                    body::read(&head.headers, body).await?
                };
                let strict = strict::is_asked_for(&head.headers);
                let operation = Operation::Write(Write { patch, strict, body });
                let status = if patch { kind.patch.status } else { StatusCode::CREATED.as_u16() };
                let status = StatusCode::from_u16(status).map_err(|_| internal())?;
                let change = Change { address, operation, preconditions };
                let entry = self.change(change, status, peer, ids).await?.ok_or_else(internal)?;
                self.show(&entry, form, status)
            }
            Method::DELETE => {
                let change = Change { address, operation: Operation::Delete, preconditions };
                self.change(change, StatusCode::NO_CONTENT, peer, ids).await?;
                Ok(empty(StatusCode::NO_CONTENT))
            }
            _ => Err(wrong_method("GET, PUT, PATCH, DELETE")),
        }
    }

    async fn act(
        &self,
        request: Request,
        peer: Peer,
        ids: &RequestIds,
        address: Address,
        action: Action,
    ) -> Result<Response, ApiError> {
        if action == Action::RegenerateKey {
            let preconditions = preconditions(request.headers());
            let (head, body) = request.into_parts();
            let body = body::read(&head.headers, body).await?;
            let index = Members::new(&body, "").choice("keyName", &[("key1", 0), ("key2", 1)])?;
            let Some(index) = index else {
                let message = "The property `keyName` must be `key1` or `key2`.";
                return Err(ApiError::new(ErrorCode::InvalidResource, message));
            };
            let operation = Operation::RegenerateKey(index);
            let change = Change { address, operation, preconditions };
            let entry = self.change(change, StatusCode::OK, peer, ids).await?.ok_or_else(internal)?;
            return keys(&entry);
        }
        if action == Action::RotateSigningKey {
            let (head, body) = request.into_parts();
            let body = body::read_optional(&head.headers, body).await?;
            let operation = Operation::RotateSigningKey(signing::read_overlap(&body)?);
            return self.sign(address, operation, &head.headers, peer, ids).await;
        }
        if action == Action::RemoveSigningKeys {
            return self.sign(address, Operation::RemoveSigningKeys, request.headers(), peer, ids).await;
        }
        if matches!(action, Action::Pause | Action::Resume | Action::LimitRate) {
            return self.throttle(request, peer, ids, address, action).await;
        }
        let answer = self.find(&address).and_then(|entry| match action {
            Action::ListKeys | Action::RegenerateKey => keys(&entry),
            Action::GetFullUrl => full_url(&entry),
            Action::GetDeliveryAttributes => delivery_attributes(&entry),
            Action::ListSigningKeys => Ok(self.signing_keys(&entry)),
            // Dealt with before.
            Action::Revalidate
            | Action::RotateSigningKey
            | Action::RemoveSigningKeys
            | Action::Pause
            | Action::Resume
            | Action::LimitRate => Err(internal()),
        });
        ids.record(peer, action.name(), &address.id(Form::Nested), answer.as_ref().map(Response::status));
        answer
    }

    /// Changes a subscription's signing keys and answers with those that sign now.
    async fn sign(
        &self,
        address: Address,
        operation: Operation,
        headers: &HeaderMap,
        peer: Peer,
        ids: &RequestIds,
    ) -> Result<Response, ApiError> {
        let change = Change { address, operation, preconditions: preconditions(headers) };
        let entry = self.change(change, StatusCode::OK, peer, ids).await?.ok_or_else(internal)?;
        Ok(self.signing_keys(&entry))
    }

    /// Pauses, resumes or limits a subscription's deliveries and answers with what holds now.
    async fn throttle(
        &self,
        request: Request,
        peer: Peer,
        ids: &RequestIds,
        address: Address,
        action: Action,
    ) -> Result<Response, ApiError> {
        let (head, body) = request.into_parts();
        let decision = match action {
            Action::LimitRate => throttle::read_limit(&body::read(&head.headers, body).await?)?,
            Action::Pause => throttle::Decision::Pause,
            _ => throttle::Decision::Resume,
        };
        let operation = Operation::Throttle(decision);
        let change = Change { address, operation, preconditions: preconditions(&head.headers) };
        let entry = self.change(change, StatusCode::OK, peer, ids).await?.ok_or_else(internal)?;
        Ok(json(StatusCode::OK, entry.document.throttle.show().to_string()))
    }

    fn signing_keys(&self, entry: &Entry) -> Response {
        json(StatusCode::OK, signing::list(&entry.document.signing, self.shared.clock.now()).to_string())
    }

    fn find(&self, address: &Address) -> Result<Arc<Entry>, ApiError> {
        self.shared.state().resources.get(address).cloned().ok_or_else(|| not_found(address))
    }

    fn show(&self, entry: &Entry, form: Form, status: StatusCode) -> Result<Response, ApiError> {
        let now = self.shared.clock.now();
        let body = self.shared.state().resources.show(entry, form, &self.shared.options.public, now);
        let mut response = json(status, body.to_string());
        let etag = HeaderValue::from_str(&entry.etag()).map_err(|_| internal())?;
        response.headers_mut().insert(ETAG, etag);
        Ok(response)
    }

    /// Runs a change to its end, on its own task, and writes it to the audit log with the status it is answered
    /// with: `success`, unless it is refused.
    pub(crate) async fn change(
        &self,
        change: Change,
        success: StatusCode,
        peer: Peer,
        ids: &RequestIds,
    ) -> Result<Option<Arc<Entry>>, ApiError> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(ApiError::new(ErrorCode::Overloaded, "Too many changes are under way.")
                .with_retry_after(RETRY_AFTER));
        };
        if self.changes.is_closed() {
            return Err(unavailable("The broker is stopping."));
        }
        let shared = Arc::clone(&self.shared);
        let ids = ids.clone();
        let task = self.changes.spawn(async move {
            let _place = place;
            let outcome = shared.make(&change).await;
            let status = outcome.as_ref().map(|_| success);
            ids.record(peer, change.operation.name(), &change.address.id(Form::Nested), status);
            outcome
        });
        match task.await {
            Ok(outcome) => outcome,
            Err(failure) => {
                tracing::error!(%failure, "a change ended by a panic");
                Err(internal())
            }
        }
    }
}

fn only(request: &Request, method: &Method, allow: &'static str) -> Result<(), ApiError> {
    if request.method() == method { Ok(()) } else { Err(wrong_method(allow)) }
}

fn wrong_method(allow: &'static str) -> ApiError {
    ApiError::new(ErrorCode::MethodNotAllowed, format!("The method is not allowed here; these are: {allow}."))
        .with_allow(allow)
}

fn internal() -> ApiError {
    ApiError::new(ErrorCode::Internal, "The request failed for an internal reason.")
}

fn preconditions(headers: &HeaderMap) -> Preconditions {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    Preconditions {
        if_match: text(IF_MATCH).map(str::to_owned),
        if_absent: text(IF_NONE_MATCH).is_some_and(|value| value.trim() == "*"),
    }
}

fn keys(entry: &Entry) -> Result<Response, ApiError> {
    let [first, second] = entry.document.keys.as_ref().ok_or_else(internal)?;
    let body = serde_json::json!({ "key1": first.reveal(), "key2": second.reveal() });
    Ok(json(StatusCode::OK, body.to_string()))
}

fn full_url(entry: &Entry) -> Result<Response, ApiError> {
    let facts = entry.facts().subscription().ok_or_else(internal)?;
    let body = serde_json::json!({ "endpointUrl": facts.require_webhook()?.url });
    Ok(json(StatusCode::OK, body.to_string()))
}

fn delivery_attributes(entry: &Entry) -> Result<Response, ApiError> {
    let facts = entry.facts().subscription().ok_or_else(internal)?;
    let body = serde_json::json!({ "value": Value::from(facts.delivery_attributes.clone()) });
    Ok(json(StatusCode::OK, body.to_string()))
}
