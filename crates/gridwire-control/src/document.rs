//! One resource as control holds it, and all of them together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::ids::{Slot, SubscriptionNumber, TopicNumber};
use gridwire_core::routing::AccessKey;
use gridwire_core::signing::SigningKey;
use gridwire_core::time::Timestamp;
use gridwire_store::Revision;
use serde_json::{Map, Value, json};

use crate::address::{Address, Form};
use crate::consent::Standing;
use crate::facts::Facts;
use crate::kinds::{Beside, Kind, Spec, Surroundings};
use crate::limits::{
    LOCATION_CHARS_MAX, RESOURCE_ID_BYTES_MAX, TAG_NAME_BYTES_MAX, TAG_VALUE_BYTES_MAX, TAGS_MAX,
};
use crate::members::{Members, invalid, without_controls};
use crate::options::PublicAddresses;
use crate::throttle::Throttle;

/// The numbers a resource was given when it was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbers {
    Nothing,
    Topic(TopicNumber),
    Subscription { number: SubscriptionNumber, slot: Slot },
}

/// A resource.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub address: Address,
    pub envelope: Envelope,
    pub created_at: Timestamp,
    pub modified_at: Timestamp,
    pub numbers: Numbers,
    pub keys: Option<[AccessKey; 2]>,
    /// Of a subscription.
    pub consent: Standing,
    /// Of a subscription that signs what it delivers; the newest last.
    pub signing: Vec<SigningKey>,
    /// Of a subscription that pushes.
    pub throttle: Throttle,
    pub spec: Arc<dyn Spec>,
}

impl Document {
    /// Whether `other` says the same; when it was written does not count.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.address == other.address
            && self.envelope == other.envelope
            && self.keys == other.keys
            && self.consent == other.consent
            && self.signing == other.signing
            && self.throttle == other.throttle
            && self.spec.properties() == other.spec.properties()
    }
}

/// What stands beside the properties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub location: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub identity: Option<Identity>,
    pub capacity: Option<u32>,
}

/// The identity a resource was declared to have: kept for templates, without effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub kind: &'static str,
    pub user_assigned: Vec<String>,
}

const IDENTITY_KINDS: &[(&str, &str)] = &[
    ("None", "None"),
    ("SystemAssigned", "SystemAssigned"),
    ("UserAssigned", "UserAssigned"),
    ("SystemAssigned, UserAssigned", "SystemAssigned, UserAssigned"),
    ("SystemAssigned,UserAssigned", "SystemAssigned, UserAssigned"),
];
const IDENTITIES_MAX: usize = 100;
const CAPACITY_MAX: u32 = 40;

impl Envelope {
    /// Reads what `kind` has of it; what the body leaves out is taken from `base` (the old one in a PATCH).
    pub(crate) fn read(kind: &Kind, body: &Members<'_>, base: &Self) -> Result<Self, ApiError> {
        let mut envelope = base.clone();
        if kind.envelope == Beside::Nothing {
            return Ok(envelope);
        }
        if let Some(location) = body.text("location")? {
            let count = location.chars().count();
            if !(1..=LOCATION_CHARS_MAX).contains(&count) {
                return Err(body.wrong("location", &format!("between 1 and {LOCATION_CHARS_MAX} characters")));
            }
            without_controls(body, "location", location)?;
            envelope.location = Some(location.to_owned());
        }
        if envelope.location.is_none() {
            return Err(invalid("The property `location` is required for this resource."));
        }
        if let Some(tags) = body.value("tags") {
            envelope.tags = read_tags(body, tags)?;
        }
        if let Some(identity) = body.object("identity")? {
            envelope.identity = Some(read_identity(&identity)?);
        }
        if kind.envelope == Beside::TrackedWithSku {
            let sku = body.object("sku")?;
            let mut capacity = None;
            if let Some(sku) = sku {
                sku.choice("name", &[("Standard", ())])?;
                capacity = sku.integer("capacity", 1..=CAPACITY_MAX)?;
            }
            envelope.capacity = capacity.or(base.capacity).or(Some(1));
        }
        Ok(envelope)
    }

    fn show(&self, kind: &Kind, resource: &mut Map<String, Value>) {
        if kind.envelope == Beside::Nothing {
            return;
        }
        resource.insert("location".into(), json!(self.location));
        resource.insert("tags".into(), json!(self.tags));
        if let Some(capacity) = self.capacity {
            resource.insert("sku".into(), json!({ "name": "Standard", "capacity": capacity }));
        }
        if let Some(identity) = &self.identity {
            let mut shown = json!({ "type": identity.kind });
            if !identity.user_assigned.is_empty() {
                let ids = identity.user_assigned.iter().map(|id| (id.clone(), json!({})));
                shown["userAssignedIdentities"] = Value::Object(ids.collect());
            }
            resource.insert("identity".into(), shown);
        }
    }
}

fn read_tags(body: &Members<'_>, tags: &Value) -> Result<BTreeMap<String, String>, ApiError> {
    let Value::Object(tags) = tags else { return Err(body.wrong("tags", "a JSON object")) };
    if tags.len() > TAGS_MAX {
        return Err(body.wrong("tags", &format!("at most {TAGS_MAX} tags")));
    }
    let mut kept = BTreeMap::new();
    for (name, value) in tags {
        let value = match value {
            Value::Null => "",
            Value::String(text) => text,
            _ => return Err(body.wrong("tags", "an object of strings")),
        };
        if name.is_empty() || name.len() > TAG_NAME_BYTES_MAX || value.len() > TAG_VALUE_BYTES_MAX {
            let must = format!(
                "an object with names of 1 to {TAG_NAME_BYTES_MAX} bytes and values of at most {TAG_VALUE_BYTES_MAX}"
            );
            return Err(body.wrong("tags", &must));
        }
        without_controls(body, "tags", name)?;
        without_controls(body, "tags", value)?;
        kept.insert(name.clone(), value.to_owned());
    }
    Ok(kept)
}

fn read_identity(identity: &Members<'_>) -> Result<Identity, ApiError> {
    let kind = identity.choice("type", IDENTITY_KINDS)?.unwrap_or("None");
    let mut user_assigned = Vec::new();
    if let Some(ids) = identity.value("userAssignedIdentities") {
        let Value::Object(ids) = ids else {
            return Err(identity.wrong("userAssignedIdentities", "a JSON object"));
        };
        if ids.len() > IDENTITIES_MAX || ids.keys().any(|id| id.len() > RESOURCE_ID_BYTES_MAX) {
            return Err(identity.wrong("userAssignedIdentities", "a short object of resource ids"));
        }
        for id in ids.keys() {
            without_controls(identity, "userAssignedIdentities", id)?;
            user_assigned.push(id.clone());
        }
    }
    Ok(Identity { kind, user_assigned })
}

impl Identity {
    /// An identity as it was stored.
    pub(crate) fn from_stored(kind: &str, user_assigned: Vec<String>) -> Option<Self> {
        let (_, kind) = IDENTITY_KINDS.iter().find(|(known, _)| *known == kind)?;
        Some(Self { kind, user_assigned })
    }
}

/// A stored resource.
#[derive(Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub revision: Revision,
    pub document: Document,
}

impl Entry {
    pub(crate) fn facts(&self) -> Facts<'_> {
        self.document.spec.facts()
    }

    pub(crate) fn kind(&self) -> &'static Kind {
        self.document.address.kind
    }

    /// When it ends, of an event subscription that does.
    fn expires_at(&self) -> Option<Timestamp> {
        self.facts().subscription()?.expires_at
    }

    pub(crate) fn etag(&self) -> String {
        format!("\"{}\"", self.revision.0)
    }
}

/// Every resource, by key. A parent's key is the beginning of its children's.
#[derive(Default)]
pub(crate) struct Resources {
    entries: BTreeMap<String, Arc<Entry>>,
    /// How many there are of each kind below each parent, by what their keys begin with: a limit must not be
    /// a walk over 100,000 siblings.
    counts: HashMap<String, usize>,
    /// The event subscriptions that expire, by when, with their keys: looked at after every change.
    expirations: BTreeSet<(Timestamp, String)>,
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

impl Resources {
    pub(crate) fn insert(&mut self, entry: Entry) -> Arc<Entry> {
        let entry = Arc::new(entry);
        match self.entries.insert(entry.key.clone(), Arc::clone(&entry)) {
            Some(replaced) => self.forget_expiration(&replaced),
            None => *self.counts.entry(entry.document.address.siblings()).or_default() += 1,
        }
        if let Some(time) = entry.expires_at() {
            self.expirations.insert((time, entry.key.clone()));
        }
        entry
    }

    fn forget_expiration(&mut self, entry: &Entry) {
        if let Some(time) = entry.expires_at() {
            self.expirations.remove(&(time, entry.key.clone()));
        }
    }

    /// Removes them and says where they were.
    pub(crate) fn remove(&mut self, keys: &[String]) -> Vec<Address> {
        let mut removed = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(entry) = self.entries.remove(key) else { continue };
            self.forget_expiration(&entry);
            let siblings = entry.document.address.siblings();
            if let Some(count) = self.counts.get_mut(&siblings) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&siblings);
                }
            }
            removed.push(entry.document.address.clone());
        }
        removed
    }

    /// How many resources there are of the kind of `address` below its parent.
    pub(crate) fn count_siblings(&self, address: &Address) -> usize {
        self.counts.get(&address.siblings()).copied().unwrap_or(0)
    }

    pub(crate) fn get(&self, address: &Address) -> Option<&Arc<Entry>> {
        self.by_key(&address.key())
    }

    pub(crate) fn by_key(&self, key: &str) -> Option<&Arc<Entry>> {
        self.entries.get(key)
    }

    pub(crate) fn parent_of(&self, address: &Address) -> Option<&Arc<Entry>> {
        self.get(&address.parent()?)
    }

    /// The nearest resource above `address` that has properties of its own.
    pub(crate) fn ground_of(&self, address: &Address) -> Option<&Arc<Entry>> {
        self.get(&address.ground()?)
    }

    /// The event subscriptions whose time has come by `now`, the longest over first.
    pub(crate) fn expired(&self, now: Timestamp) -> impl Iterator<Item = &Arc<Entry>> {
        let over = self.expirations.iter().take_while(move |(time, _)| *time <= now);
        over.filter_map(|(_, key)| self.entries.get(key))
    }

    /// The earliest expiration after `now`.
    pub(crate) fn next_expiration(&self, now: Timestamp) -> Option<Timestamp> {
        let (time, _) = self.expirations.iter().find(|(time, _)| now < *time)?;
        Some(*time)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// Those whose key begins with `prefix` and comes after `after`, in order of key.
    pub(crate) fn below<'a, 'p>(
        &'a self,
        prefix: &'p str,
        after: Option<&'p str>,
    ) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a, 'p> {
        let start = match after.filter(|after| prefix <= *after) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        self.entries
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| entry)
    }

    /// The keys of a resource and of everything below it.
    pub(crate) fn subtree(&self, key: &str) -> Vec<String> {
        let below = format!("{key}/");
        let own = self.entries.get(key).map(|entry| entry.key.clone());
        own.into_iter().chain(self.below(&below, None).map(|entry| entry.key.clone())).collect()
    }

    /// The resource as a GET shows it.
    pub(crate) fn show(&self, entry: &Entry, form: Form, public: &PublicAddresses, now: Timestamp) -> Value {
        let Document { address, envelope, created_at, modified_at, consent, spec, .. } = &entry.document;
        let parent = self.ground_of(address).map(|parent| parent.facts());
        let mut properties = spec.shown(Surroundings { address, parent, public });
        properties.insert("provisioningState".into(), consent.provisioning_state(now).into());
        let mut resource = Map::new();
        resource.insert("id".into(), address.id(form).into());
        resource.insert("name".into(), address.name().into());
        resource.insert("type".into(), address.type_name(form).into());
        envelope.show(address.kind, &mut resource);
        let system_data = json!({
            "createdAt": created_at.to_string(),
            "lastModifiedAt": modified_at.to_string(),
        });
        resource.insert("systemData".into(), system_data);
        resource.insert("properties".into(), properties.into());
        Value::Object(resource)
    }
}

/// The refusal for a resource that is not there.
pub(crate) fn not_found(address: &Address) -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        format!(
            "The {} `{}` was not found in resource group `{}`.",
            address.kind.noun,
            address.names.join("/"),
            address.resource_group
        ),
    )
}

/// The refusal for a resource whose parent is not there.
pub(crate) fn parent_not_found(address: &Address) -> ApiError {
    let Some(parent) = address.parent() else { return not_found(address) };
    let error = not_found(&parent);
    ApiError::new(ErrorCode::NotFound, format!("The parent resource is missing. {}", error.message))
        .with_detail("ParentResourceNotFound")
}
