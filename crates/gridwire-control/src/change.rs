//! One change, from its plan to the routing table in use.
//!
//! Changes take turns. A handshake does not hold the turn: the plan is made again when the turn has come, and
//! if it then asks for another consent than the one given, the change goes back for it. A change runs to its
//! end even when its client has gone, so the store, the memory and the broker never part half-way; if the
//! store fails in the middle, the next change reads everything anew before it begins.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::ids::{Slot, SubscriptionNumber, TopicNumber};
use gridwire_core::routing::{
    AccessKey, Consent, Handshake, HandshakeError, InstallError, TopicKind, Webhook,
};
use gridwire_core::time::Timestamp;
use gridwire_store::ResourceError;

use crate::address::Address;
use crate::by_hand;
use crate::compile::compile;
use crate::consent::{BY_HAND_WITHIN, Confirmation, Invitation, Standing, TokenDigest};
use crate::control::{Shared, load};
use crate::document::{Document, Entry, Numbers, Resources, not_found, parent_not_found};
use crate::format;
use crate::kinds::Numbering;
use crate::limits::{PLANS_MAX, RETRY_AFTER};
use crate::plan::{self, Judgement, Plan, Preconditions, Write, plan};
use crate::throttle;

/// What is to be done to a resource.
#[derive(Debug)]
pub(crate) struct Change {
    pub address: Address,
    pub operation: Operation,
    pub preconditions: Preconditions,
}

#[derive(Debug)]
pub(crate) enum Operation {
    Write(Write),
    Delete,
    /// The key's index.
    RegenerateKey(usize),
    /// Ask the endpoint for its consent again.
    Revalidate,
    /// Sign with a new key, and with the present ones for a while.
    RotateSigningKey(Duration),
    RemoveSigningKeys,
    Throttle(throttle::Decision),
    /// Somebody who was told the validation URL consents.
    Confirm(TokenDigest, Confirmation),
}

impl Operation {
    /// In the audit log.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Write(Write { patch: false, .. }) => "write",
            Self::Write(Write { patch: true, .. }) => "update",
            Self::Delete => "delete",
            Self::RegenerateKey(_) => "regenerateKey",
            Self::Revalidate => "revalidate",
            Self::RotateSigningKey(_) => "rotateSigningKey",
            Self::RemoveSigningKeys => "removeSigningKeys",
            Self::Throttle(throttle::Decision::Pause) => "pause",
            Self::Throttle(throttle::Decision::Resume) => "resume",
            Self::Throttle(throttle::Decision::Limit(_)) => "limitRate",
            Self::Confirm(..) => by_hand::CONFIRM,
        }
    }
}

/// An endpoint that was asked for its consent.
struct Asked {
    webhook: Webhook,
    consent: Consent,
    /// The way it was told to consent by hand.
    invitation: Option<Invitation>,
}

impl Asked {
    /// Whether what it said holds for `webhook` too.
    fn covers(&self, webhook: &Webhook) -> bool {
        self.webhook.asks_as(webhook)
    }

    /// How the subscription stands with it by what it said.
    fn standing(&self, now: Timestamp) -> Standing {
        match (self.consent, &self.invitation) {
            (Consent::Given { pace }, _) => Standing { allowed: pace, ..Standing::default() },
            (Consent::ByHand { pace }, invitation) => {
                let awaiting = Standing {
                    awaited_until: Some(now + BY_HAND_WITHIN),
                    allowed: pace,
                    token: invitation.as_ref().map(|invitation| invitation.digest),
                };
                match invitation.as_ref().and_then(Invitation::confirmation) {
                    Some(confirmation) => awaiting.confirmed(confirmation),
                    None => awaiting,
                }
            }
        }
    }
}

/// How a turn ended.
pub(crate) enum Turn {
    /// The resource as it is now; `None` when it is gone.
    Done(Option<Arc<Entry>>),
    /// The state has moved on: plan again.
    Again,
}

impl Shared {
    /// Makes the change. Not cancel safe: run it to its end.
    pub(crate) async fn make(&self, change: &Change) -> Result<Option<Arc<Entry>>, ApiError> {
        let mut asked: Option<Asked> = None;
        for _ in 0..PLANS_MAX {
            let wanted = match &change.operation {
                Operation::Write(write) => self.plan(change, write)?.handshake,
                Operation::Revalidate => Some(self.present_handshake(change)?),
                Operation::Delete
                | Operation::RegenerateKey(_)
                | Operation::RotateSigningKey(_)
                | Operation::RemoveSigningKeys
                | Operation::Throttle(_)
                | Operation::Confirm(..) => None,
            };
            if let Some(handshake) = wanted
                && !asked.as_ref().is_some_and(|asked| asked.covers(&handshake.webhook))
            {
                asked = Some(self.ask(change, handshake).await?);
            }
            match self.take_turn(change, asked.as_ref()).await? {
                Turn::Done(entry) => return self.confirm_meanwhile(entry, asked).await,
                Turn::Again => {}
            }
        }
        Err(ApiError::new(
            ErrorCode::Conflict,
            "The resource was changed by others at the same time. Read it again and repeat the change.",
        ))
    }

    /// Asks an endpoint for its consent.
    async fn ask(&self, change: &Change, mut handshake: Handshake) -> Result<Asked, ApiError> {
        let webhook = handshake.webhook.clone();
        let invitation = (handshake.topic_kind != TopicKind::Namespace).then(|| {
            let (public, now) = (&self.options.public, self.clock.now());
            Invitation::new(&change.address, &self.invitations, public, &*self.rng, now)
        });
        handshake.validation_url = invitation.as_ref().map(|invitation| invitation.url.clone());
        let consent = self.delivery.validate(handshake).await.map_err(|error| handshake_refusal(&error))?;
        Ok(Asked { webhook, consent, invitation })
    }

    /// The validation URL may have been opened while the change that made it was being stored.
    async fn confirm_meanwhile(
        &self,
        entry: Option<Arc<Entry>>,
        asked: Option<Asked>,
    ) -> Result<Option<Arc<Entry>>, ApiError> {
        let (Some(awaiting), Some(invitation)) = (&entry, asked.and_then(|asked| asked.invitation)) else {
            return Ok(entry);
        };
        let consent = &awaiting.document.consent;
        let is_ours = consent.token == Some(invitation.digest) && !consent.consented();
        let (Some(confirmation), true) = (invitation.confirmation(), is_ours) else { return Ok(entry) };
        let confirm = Change {
            address: awaiting.document.address.clone(),
            operation: Operation::Confirm(invitation.digest, confirmation),
            preconditions: Preconditions::default(),
        };
        for _ in 0..PLANS_MAX {
            match self.take_turn(&confirm, None).await {
                Ok(Turn::Done(confirmed)) => return Ok(confirmed),
                Ok(_) => {}
                // The change itself is made. Its URL is void, or can be opened again.
                Err(error) => {
                    tracing::warn!(%error, "failed to record a consent that came during the change");
                    return Ok(entry);
                }
            }
        }
        Ok(entry)
    }

    /// The handshake with the endpoint of a subscription that is there.
    fn present_handshake(&self, change: &Change) -> Result<Handshake, ApiError> {
        let state = self.state();
        let entry = state.resources.get(&change.address).ok_or_else(|| not_found(&change.address))?;
        let topic = state.resources.ground_of(&change.address).and_then(|topic| topic.facts().topic());
        let (Some(facts), Some(topic)) = (entry.facts().subscription(), topic) else {
            return Err(not_found(&change.address));
        };
        let webhook = facts.require_webhook()?;
        let webhook = Webhook { signing: entry.document.signing.clone(), ..webhook.clone() };
        Ok(plan::handshake(&entry.document.address, &webhook, topic.kind))
    }

    fn plan(&self, change: &Change, write: &Write) -> Result<Plan, ApiError> {
        let judgement = Judgement {
            now: self.clock.now(),
            allow_http_webhooks: self.options.allow_http_webhooks,
            token_issuer: self.options.token_issuer,
        };
        plan(&self.state().resources, &change.address, write, &change.preconditions, judgement)
    }

    async fn take_turn(&self, change: &Change, asked: Option<&Asked>) -> Result<Turn, ApiError> {
        let _turn = self.turn.lock().await;
        self.refresh().await?;
        let outcome = match &change.operation {
            Operation::Write(write) => self.write(change, write, asked).await,
            Operation::Delete => self.delete(change).await,
            Operation::RegenerateKey(index) => self.regenerate(change, *index).await,
            Operation::Revalidate => self.revalidated(change, asked).await,
            Operation::RotateSigningKey(overlap) => self.rotate_signing_key(change, *overlap).await,
            Operation::RemoveSigningKeys => self.remove_signing_keys(change).await,
            Operation::Throttle(decision) => self.throttle(change, *decision).await,
            Operation::Confirm(digest, confirmation) => self.confirmed(change, digest, *confirmation).await,
        };
        match outcome {
            Ok(turn) => Ok(turn),
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Store(error)) => {
                // Whatever it was, what is in memory may no longer be what is stored.
                self.stale.store(true, Ordering::Release);
                match error {
                    ResourceError::Exists { .. }
                    | ResourceError::Missing { .. }
                    | ResourceError::Changed { .. } => Ok(Turn::Again),
                    ResourceError::StorageFull => Err(storage_full()),
                    ResourceError::Failed(reason) => {
                        tracing::error!(%reason, "failed to store a resource");
                        Err(unavailable("The resource store failed."))
                    }
                }
            }
        }
    }

    /// Reads everything anew if the memory may differ from the store.
    async fn refresh(&self) -> Result<(), ApiError> {
        if !self.stale.load(Ordering::Acquire) {
            return Ok(());
        }
        let resources = load(&*self.store, &self.sealer).await.map_err(|error| {
            tracing::error!(%error, "failed to read the resources again");
            unavailable("The resource store failed.")
        })?;
        {
            let mut state = self.state_mut();
            state.resources = resources;
            state.table = compile(&state.resources, state.patience);
            state.installed = false;
        }
        self.stale.store(false, Ordering::Release);
        self.install().await
    }

    async fn write(&self, change: &Change, write: &Write, asked: Option<&Asked>) -> Result<Turn, Failure> {
        let Plan { mut document, replaces, changes, handshake, parent } = self.plan(change, write)?;
        let mut changes = changes;
        if let Some(handshake) = handshake {
            let Some(asked) = asked.filter(|asked| asked.covers(&handshake.webhook)) else {
                return Ok(Turn::Again);
            };
            let standing = asked.standing(self.clock.now());
            let before = self.state().resources.get(&document.address).cloned();
            let consented = before.filter(|entry| {
                let webhook = entry.facts().subscription().and_then(|facts| facts.webhook.as_ref());
                entry.document.consent.consented() && webhook.is_some_and(|it| it.is_to(&handshake.webhook))
            });
            // It was asked whether a session by new certificates works, and answered. Silence beyond that takes back
            // no consent that was given.
            let standing = match consented {
                Some(entry) if !standing.consented() => entry.document.consent.clone(),
                _ => standing,
            };
            changes |= document.consent != standing;
            document.consent = standing;
        }
        if !changes {
            // Nothing to keep; but an earlier change may still wait to be put in use.
            self.install_if_needed().await?;
            return Ok(Turn::Done(self.state().resources.get(&document.address).cloned()));
        }
        if let Some(parent) = parent {
            // First, and by itself: a child must never be stored without it, and it may stand alone.
            let key = parent.address.key();
            let revision = self.store.create(&key, format::write(&parent, &self.sealer, &*self.rng)).await?;
            self.state_mut().resources.insert(Entry { key, revision, document: parent });
        }
        let key = document.address.key();
        if replaces.is_none() {
            document.numbers = self.number(&document.address).await?;
            if document.address.kind.keys {
                document.keys = Some([self.new_key(), self.new_key()]);
            }
        }
        let value = format::write(&document, &self.sealer, &*self.rng);
        let revision = match replaces {
            Some(revision) => self.store.update(&key, value, revision).await?,
            None => self.store.create(&key, value).await?,
        };
        let entry = {
            let mut state = self.state_mut();
            let entry = state.resources.insert(Entry { key, revision, document });
            state.recompile([&entry.document.address]);
            entry
        };
        self.install_if_needed().await?;
        Ok(Turn::Done(Some(entry)))
    }

    async fn delete(&self, change: &Change) -> Result<Turn, Failure> {
        let keys = {
            let state = self.state();
            let existing = state.resources.get(&change.address);
            change.preconditions.check(existing.map(Arc::as_ref))?;
            match existing {
                Some(entry) => {
                    let mut keys = state.resources.subtree(&entry.key);
                    keys.extend(goes_too(&state.resources, &entry.document.address));
                    keys
                }
                None => Vec::new(),
            }
        };
        if keys.is_empty() {
            self.install_if_needed().await?;
            return Ok(Turn::Done(None));
        }
        self.store.delete(keys.clone()).await?;
        {
            let mut state = self.state_mut();
            let removed = state.resources.remove(&keys);
            state.recompile(&removed);
        }
        self.install_if_needed().await?;
        Ok(Turn::Done(None))
    }

    async fn regenerate(&self, change: &Change, index: usize) -> Result<Turn, Failure> {
        let existing = self.state().resources.get(&change.address).cloned();
        change.preconditions.check(existing.as_deref())?;
        let Some(existing) = existing else { return Err(not_found(&change.address).into()) };
        let mut document = existing.document.clone();
        if let Some(keys) = &mut document.keys
            && let Some(key) = keys.get_mut(index)
        {
            *key = self.new_key();
        }
        self.replace(&existing, document).await
    }

    /// The endpoint of a subscription that is there was asked again.
    async fn revalidated(&self, change: &Change, asked: Option<&Asked>) -> Result<Turn, Failure> {
        let existing = self.state().resources.get(&change.address).cloned();
        change.preconditions.check(existing.as_deref())?;
        let Some(existing) = existing else { return Err(not_found(&change.address).into()) };
        let webhook = existing.facts().subscription().and_then(|facts| facts.webhook.as_ref());
        let Some(asked) = asked.filter(|asked| webhook.is_some_and(|webhook| asked.covers(webhook))) else {
            return Ok(Turn::Again);
        };
        let standing = asked.standing(self.clock.now());
        if existing.document.consent.consented() && !standing.consented() {
            // Silence takes back no consent that was given.
            return Err(ApiError::new(
                ErrorCode::EndpointValidationFailed,
                "The endpoint did not answer the validation request with its consent. It consented before, so events are still delivered to it.",
            )
            .into());
        }
        if existing.document.consent == standing {
            self.install_if_needed().await?;
            return Ok(Turn::Done(Some(existing)));
        }
        let mut document = existing.document.clone();
        document.consent = standing;
        self.replace(&existing, document).await
    }

    /// Somebody opened the validation URL.
    async fn confirmed(
        &self,
        change: &Change,
        digest: &TokenDigest,
        confirmation: Confirmation,
    ) -> Result<Turn, Failure> {
        let existing = self.state().resources.get(&change.address).cloned();
        let Some(existing) = existing.filter(|entry| entry.document.consent.token == Some(*digest)) else {
            return Err(by_hand::not_valid().into());
        };
        let standing = &existing.document.consent;
        match standing.awaited_until {
            None => {
                self.install_if_needed().await?;
                return Ok(Turn::Done(Some(existing)));
            }
            Some(until) if until <= self.clock.now() => return Err(by_hand::too_late().into()),
            Some(_) => {}
        }
        let mut document = existing.document.clone();
        document.consent = standing.confirmed(confirmation);
        self.replace(&existing, document).await
    }

    /// Stores `document` in place of what is there, and puts it in use.
    pub(crate) async fn replace(&self, existing: &Entry, mut document: Document) -> Result<Turn, Failure> {
        document.modified_at = self.clock.now();
        let value = format::write(&document, &self.sealer, &*self.rng);
        let revision = self.store.update(&existing.key, value, existing.revision).await?;
        let entry = {
            let mut state = self.state_mut();
            let entry = state.resources.insert(Entry { key: existing.key.clone(), revision, document });
            state.recompile([&entry.document.address]);
            entry
        };
        self.install_if_needed().await?;
        Ok(Turn::Done(Some(entry)))
    }

    /// Reserves the numbers of a new resource.
    async fn number(&self, address: &Address) -> Result<Numbers, Failure> {
        match address.kind.numbering {
            Numbering::Nothing => Ok(Numbers::Nothing),
            Numbering::Topic => Ok(Numbers::Topic(TopicNumber(self.store.next_numbers("topic", 1).await?))),
            Numbering::Subscription => {
                let topic = self.state().resources.ground_of(address).map(|topic| topic.document.numbers);
                let Some(Numbers::Topic(topic)) = topic else {
                    return Err(parent_not_found(address).into());
                };
                let number = self.store.next_numbers("subscription", 1).await?;
                // The topic's number is never reused, so neither is a slot of it.
                let slot = self.store.next_numbers(&format!("slot/{topic}"), 1).await?;
                Ok(Numbers::Subscription { number: SubscriptionNumber(number), slot: Slot(slot) })
            }
        }
    }

    fn new_key(&self) -> AccessKey {
        let mut bytes = [0; 32];
        self.rng.fill(&mut bytes);
        AccessKey::new(STANDARD.encode(bytes))
    }

    /// Reads anew and installs, each only if it has to be.
    pub(crate) async fn catch_up(&self) -> Result<(), ApiError> {
        self.refresh().await?;
        self.install_if_needed().await
    }

    async fn install_if_needed(&self) -> Result<(), ApiError> {
        let installed = self.state().installed;
        if installed { Ok(()) } else { self.install().await }
    }

    /// Hands the latest table over and waits until it is in use.
    pub(crate) async fn install(&self) -> Result<(), ApiError> {
        self.install_table().await.map_err(|error| match error {
            InstallError::Stopping => unavailable("The broker is stopping."),
            InstallError::Damaged { what } => {
                tracing::error!(what, "the change is stored, but the broker could not put it in use");
                unavailable("The change is stored, but the broker could not put it in use.")
            }
        })
    }

    pub(crate) async fn install_table(&self) -> Result<(), InstallError> {
        let table = {
            let mut state = self.state_mut();
            state.installed = false;
            Arc::clone(&state.table)
        };
        self.changed.notify_one();
        self.delivery.install(table).await?;
        self.state_mut().installed = true;
        Ok(())
    }
}

/// The key of the parent that goes with its last child: a domain topic with its last subscription, unless the
/// domain says otherwise.
fn goes_too(resources: &Resources, address: &Address) -> Option<String> {
    let parent = resources.parent_of(address).filter(|parent| parent.kind().bare)?;
    let domain = resources.parent_of(&parent.document.address)?.facts().topic()?.domain?;
    (domain.auto_delete && resources.count_siblings(address) == 1).then(|| parent.key.clone())
}

/// Why a turn was not completed.
pub(crate) enum Failure {
    Refused(ApiError),
    Store(ResourceError),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl From<ResourceError> for Failure {
    fn from(error: ResourceError) -> Self {
        Self::Store(error)
    }
}

fn handshake_refusal(error: &HandshakeError) -> ApiError {
    let code = match error {
        HandshakeError::Forbidden { .. } => ErrorCode::EndpointForbidden,
        HandshakeError::Refused { .. } => ErrorCode::EndpointValidationFailed,
    };
    ApiError::new(code, error.to_string())
}

fn storage_full() -> ApiError {
    ApiError::new(ErrorCode::StorageFull, "There is no space left to record the change.")
        .with_retry_after(RETRY_AFTER)
}

pub(crate) fn unavailable(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, message).with_retry_after(RETRY_AFTER)
}
