//! From a request's body and the present state to the resource that would be kept.
//!
//! Pure and quick, because it is done twice: before a webhook is asked for its consent, and again when the
//! change's turn has come, on whatever the state is then.

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::routing::{Handshake, TopicKind, Webhook};
use gridwire_core::time::Timestamp;
use gridwire_store::Revision;
use serde_json::{Map, Value};
use std::sync::Arc;

use crate::address::{Address, Form};
use crate::consent::Standing;
use crate::document::{Document, Entry, Envelope, Numbers, Resources, not_found, parent_not_found};
use crate::kinds::{Admission, Ground, Kind, Patch};
use crate::members::Members;
use crate::strict;
use crate::throttle::Throttle;

/// Conditions of a request about the resource's revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preconditions {
    /// `If-Match`, as it was sent.
    pub if_match: Option<String>,
    /// `If-None-Match: *`.
    pub if_absent: bool,
}

impl Preconditions {
    pub(crate) fn check(&self, existing: Option<&Entry>) -> Result<(), ApiError> {
        let failed = |message: &str| Err(ApiError::new(ErrorCode::PreconditionFailed, message));
        if let Some(wanted) = &self.if_match {
            let Some(entry) = existing else {
                return failed("The resource does not exist, so it does not match `If-Match`.");
            };
            let etag = entry.etag();
            if !wanted.split(',').map(str::trim).any(|one| one == "*" || one == etag) {
                return failed("The resource has changed: its `ETag` does not match `If-Match`.");
            }
        }
        if self.if_absent && existing.is_some() {
            return failed("The resource exists, and `If-None-Match: *` was sent.");
        }
        Ok(())
    }
}

/// A PUT or PATCH.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub patch: bool,
    /// Refuse what is not understood ([`strict`]); of a PUT only.
    pub strict: bool,
    pub body: Map<String, Value>,
}

/// What plans are judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judgement {
    pub now: Timestamp,
    pub allow_http_webhooks: bool,
    pub token_issuer: bool,
}

/// A change that may be made.
#[derive(Debug)]
pub(crate) struct Plan {
    pub document: Document,
    /// The revision to replace; `None` creates the resource.
    pub replaces: Option<Revision>,
    /// Whether the document differs from the stored one.
    pub changes: bool,
    /// What the endpoint has to agree to first.
    pub handshake: Option<Handshake>,
    /// The parent that is to be created first.
    pub parent: Option<Document>,
}

/// Plans a PUT or PATCH of `address`.
pub(crate) fn plan(
    resources: &Resources,
    address: &Address,
    write: &Write,
    preconditions: &Preconditions,
    judgement: Judgement,
) -> Result<Plan, ApiError> {
    let kind = address.kind;
    let existing = resources.get(address).map(Arc::as_ref);
    preconditions.check(existing)?;
    let new_parent = match kind.parent {
        Some(_) if resources.parent_of(address).is_none() => {
            Some(plan_parent(resources, address, write, judgement)?)
        }
        _ => None,
    };
    let above = match &new_parent {
        Some(parent) => Some(&parent.address),
        None => resources.parent_of(address).map(|parent| &parent.document.address),
    };
    let address = settle(address, existing, above);
    let parent = resources.ground_of(&address);
    if existing.is_none() {
        if write.patch {
            return Err(not_found(&address));
        }
        kind.name.check(address.name())?;
        check_siblings(resources, &address)?;
    }

    let body = Members::new(&write.body, "");
    let base = existing.map(|entry| entry.document.envelope.clone()).unwrap_or_default();
    let envelope = read_envelope(kind, &body, &base, write.patch)?;
    let properties = match existing.filter(|_| write.patch) {
        Some(entry) => patched(kind, entry.document.spec.properties(), &write.body)?,
        None => match body.object("properties")? {
            // Absent is the same as empty: most kinds have a default for everything.
            None => Map::new(),
            Some(_) => write.body["properties"].as_object().cloned().unwrap_or_default(),
        },
    };
    let ground = Ground { parent: parent.map(|parent| parent.facts()), existing: existing.map(Entry::facts) };
    let at = if write.patch && kind.patch.flat { "" } else { "properties" };
    let spec = (kind.read)(&Members::new(&properties, at), ground)?;
    let Judgement { now, allow_http_webhooks, token_issuer } = judgement;
    if write.strict && !write.patch {
        strict::check(&write.body, &spec.properties())?;
    }
    spec.admit(Admission { ground, now, allow_http_webhooks, token_issuer, resources })?;

    let webhook = spec.facts().subscription().and_then(|facts| facts.webhook.clone());
    let agreed = existing
        .filter(|entry| entry.document.consent.consented())
        .and_then(|entry| entry.facts().subscription()?.webhook.as_ref());
    let handshake = match (&webhook, parent) {
        (Some(webhook), Some(parent)) if !agreed.is_some_and(|agreed| agreed.asks_as(webhook)) => {
            // The keys are no property, but its validation is signed with them as each delivery is.
            let signing = existing.map(|entry| entry.document.signing.clone()).unwrap_or_default();
            let webhook = Webhook { signing, ..webhook.clone() };
            parent.facts().topic().map(|topic| handshake(&address, &webhook, topic.kind))
        }
        _ => None,
    };
    // Without an endpoint there is nothing to consent to.
    let consent = existing.filter(|_| webhook.is_some()).map(|entry| entry.document.consent.clone());
    let document = Document {
        address,
        envelope,
        created_at: existing.map_or(now, |entry| entry.document.created_at),
        modified_at: now,
        numbers: existing.map_or(Numbers::Nothing, |entry| entry.document.numbers),
        keys: existing.and_then(|entry| entry.document.keys.clone()),
        consent: consent.unwrap_or_default(),
        signing: existing.map(|entry| entry.document.signing.clone()).unwrap_or_default(),
        throttle: existing.map(|entry| entry.document.throttle).unwrap_or_default(),
        spec: Arc::from(spec),
    };
    Ok(Plan {
        changes: existing.is_none_or(|entry| !entry.document.says_the_same(&document)),
        replaces: existing.map(|entry| entry.revision),
        document,
        handshake,
        parent: new_parent,
    })
}

/// What the endpoint of the subscription at `address` is to be asked.
pub(crate) fn handshake(address: &Address, webhook: &Webhook, topic_kind: TopicKind) -> Handshake {
    Handshake {
        webhook: webhook.clone(),
        topic_resource_id: address.parent().unwrap_or_else(|| address.clone()).id(Form::Nested),
        subscription_name: address.name().to_owned(),
        topic_kind,
        validation_url: None,
    }
}

/// The missing parent of `address`, if it comes with its first child: a domain topic with its first
/// subscription.
fn plan_parent(
    resources: &Resources,
    address: &Address,
    write: &Write,
    judgement: Judgement,
) -> Result<Document, ApiError> {
    let missing = || parent_not_found(address);
    let parent = address.parent().ok_or_else(missing)?;
    let above = resources.parent_of(&parent).ok_or_else(missing)?;
    let wanted =
        above.facts().topic().and_then(|topic| topic.domain).is_some_and(|domain| domain.auto_create);
    if write.patch || !parent.kind.bare || !wanted {
        return Err(missing());
    }
    let parent = settle(&parent, None, Some(&above.document.address));
    parent.kind.name.check(parent.name())?;
    check_siblings(resources, &parent)?;
    let spec = (parent.kind.read)(&Members::new(&Map::new(), ""), Ground::default())?;
    Ok(Document {
        address: parent,
        envelope: Envelope::default(),
        created_at: judgement.now,
        modified_at: judgement.now,
        numbers: Numbers::Nothing,
        keys: None,
        consent: Standing::default(),
        signing: Vec::new(),
        throttle: Throttle::default(),
        spec: Arc::from(spec),
    })
}

/// The address in the case that is kept: a resource's own from when it was created, above it its parent's.
fn settle(address: &Address, existing: Option<&Entry>, above: Option<&Address>) -> Address {
    if let Some(entry) = existing {
        return entry.document.address.clone();
    }
    let mut address = address.clone();
    if let Some(above) = above {
        address.subscription.clone_from(&above.subscription);
        address.resource_group.clone_from(&above.resource_group);
        address.names.splice(..above.names.len(), above.names.iter().cloned());
    }
    address
}

fn check_siblings(resources: &Resources, address: &Address) -> Result<(), ApiError> {
    let (Some(max), Some(parent)) = (address.kind.siblings_max, address.parent()) else { return Ok(()) };
    if resources.count_siblings(address) < max {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::Conflict,
        format!(
            "Quota limit reached: the {} `{}` has {max} {}s, the most it can have.",
            parent.kind.noun,
            parent.names.join("/"),
            address.kind.noun
        ),
    ))
}

/// A PUT states the envelope anew, a PATCH changes what it names; where a resource is cannot be changed.
fn read_envelope(
    kind: &Kind,
    body: &Members<'_>,
    base: &Envelope,
    patch: bool,
) -> Result<Envelope, ApiError> {
    if patch {
        let mut envelope = Envelope::read(kind, body, base)?;
        envelope.location.clone_from(&base.location);
        return Ok(envelope);
    }
    let envelope = Envelope::read(kind, body, &Envelope::default())?;
    let plain = |location: &Option<String>| {
        location.as_deref().unwrap_or_default().replace(' ', "").to_ascii_lowercase()
    };
    if base.location.is_some() && plain(&base.location) != plain(&envelope.location) {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!(
                "The resource exists in location `{}`; it cannot be moved.",
                base.location.as_deref().unwrap_or_default()
            ),
        ));
    }
    Ok(Envelope { location: base.location.clone().or(envelope.location), ..envelope })
}

/// The properties after a PATCH. Only the members that a kind lists can be patched; others are ignored, as
/// the service does.
fn patched(
    kind: &Kind,
    mut properties: Map<String, Value>,
    body: &Map<String, Value>,
) -> Result<Map<String, Value>, ApiError> {
    let top = Members::new(body, "");
    let wrapped = top.object("properties")?.is_some();
    let named = kind.patch.members.iter().any(|(name, _)| body.contains_key(*name));
    // A flat PATCH that was wrapped after all is understood, rather than silently without effect.
    let source = if kind.patch.flat && (named || !wrapped) {
        body
    } else {
        match body.get("properties").and_then(Value::as_object) {
            Some(properties) => properties,
            None => return Ok(properties),
        }
    };
    for (name, how) in kind.patch.members {
        let Some(new) = source.get(*name) else { continue };
        match how {
            Patch::InsteadOf(other) if !new.is_null() => {
                properties.remove(*other);
                properties.insert((*name).into(), new.clone());
            }
            Patch::Replace if !new.is_null() => {
                properties.insert((*name).into(), new.clone());
            }
            Patch::Merge => merge(properties.entry(*name).or_insert(Value::Null), new),
            // `null` returns a property to its default.
            Patch::Replace | Patch::InsteadOf(_) => {
                properties.remove(*name);
            }
        }
    }
    Ok(properties)
}

/// RFC 7396. The depth is bounded by that of the body.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            members.remove(name);
        } else {
            merge(members.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}
