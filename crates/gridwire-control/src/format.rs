//! How a resource is kept in the resource store: one JSON object, its secrets sealed.
//!
//! `properties` is what a PUT was accepted with. The objects that may hold secrets (a kind's `sealed`) are
//! replaced by `{"sealed": text}`, and the access keys are sealed one by one. Each is bound to the resource's
//! key and its own place in the document. An unknown member is an error: this is our own file.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gridwire_core::ids::{Slot, SubscriptionNumber, TopicNumber};
use gridwire_core::pace::Pace;
use gridwire_core::routing::AccessKey;
use gridwire_core::signing::SigningKey;
use gridwire_core::time::Timestamp;
use gridwire_outside::Rng;
use gridwire_store::Resource;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::address::Address;
use crate::consent::Standing;
use crate::document::{Document, Entry, Envelope, Identity, Numbers, Resources};
use crate::kinds::{Ground, Kind, Numbering};
use crate::members::Members;
use crate::sealer::{SealError, Sealer};
use crate::throttle::Throttle;

/// The version of this format.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stored {
    format: u32,
    kind: String,
    subscription: String,
    resource_group: String,
    names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<StoredIdentity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity: Option<u32>,
    /// Milliseconds since the Unix epoch, as the next.
    created_at: u64,
    modified_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic_number: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_number: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed_keys: Option<[String; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consent: Option<StoredConsent>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    signing_keys: Vec<StoredSigningKey>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    paused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_second: Option<NonZeroU32>,
    properties: Value,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StoredIdentity {
    kind: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    user_assigned: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StoredSigningKey {
    sealed: String,
    /// Milliseconds since the Unix epoch, as the next.
    created_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
}

/// How a subscription stands with its endpoint, unless that is the default.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StoredConsent {
    /// Milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    awaited_until: Option<u64>,
    /// Requests a minute; 0 for none at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_rate: Option<u32>,
    /// In base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_digest: Option<String>,
}

impl StoredConsent {
    fn of(standing: &Standing) -> Option<Self> {
        (*standing != Standing::default()).then(|| Self {
            awaited_until: standing.awaited_until.map(Timestamp::as_millis),
            allowed_rate: match standing.allowed {
                Pace::Free => None,
                Pace::Paused => Some(0),
                Pace::PerMinute(rate) => Some(rate.get()),
            },
            token_digest: standing.token.map(|digest| STANDARD.encode(digest)),
        })
    }

    fn read(self) -> Option<Standing> {
        let token = match self.token_digest {
            None => None,
            Some(text) => Some(STANDARD.decode(text).ok()?.try_into().ok()?),
        };
        Some(Standing {
            awaited_until: self.awaited_until.map(Timestamp::from_millis),
            allowed: self.allowed_rate.map_or(Pace::Free, Pace::per_minute),
            token,
        })
    }
}

/// Why a stored resource could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("it is not a resource document: {0}")]
    Json(#[source] serde_json::Error),
    #[error("it has format {0}, which this version does not know")]
    Version(u32),
    #[error("{0}")]
    Content(String),
    #[error("a secret of it does not open")]
    Seal(#[from] SealError),
}

fn content(message: impl Into<String>) -> FormatError {
    FormatError::Content(message.into())
}

/// The stored form of `document`.
pub(crate) fn write(document: &Document, sealer: &Sealer, rng: &dyn Rng) -> Vec<u8> {
    let key = document.address.key();
    let mut properties = Value::Object(document.spec.properties());
    for pointer in document.address.kind.sealed {
        if let Some(secret) = properties.pointer_mut(pointer) {
            let text = sealer.seal(rng, &format!("{key}#{pointer}"), secret.to_string().as_bytes());
            *secret = json!({ "sealed": text });
        }
    }
    let seal_key = |index: usize, access: &AccessKey| {
        sealer.seal(rng, &key_place(&key, index), access.reveal().as_bytes())
    };
    let (topic_number, subscription_number, slot) = match document.numbers {
        Numbers::Nothing => (None, None, None),
        Numbers::Topic(number) => (Some(number.0), None, None),
        Numbers::Subscription { number, slot } => (None, Some(number.0), Some(slot.0)),
    };
    let stored = Stored {
        format: FORMAT,
        kind: document.address.kind.type_name.to_owned(),
        subscription: document.address.subscription.clone(),
        resource_group: document.address.resource_group.clone(),
        names: document.address.names.clone(),
        location: document.envelope.location.clone(),
        tags: document.envelope.tags.clone(),
        identity: document.envelope.identity.as_ref().map(|identity| StoredIdentity {
            kind: identity.kind.to_owned(),
            user_assigned: identity.user_assigned.clone(),
        }),
        capacity: document.envelope.capacity,
        created_at: document.created_at.as_millis(),
        modified_at: document.modified_at.as_millis(),
        topic_number,
        subscription_number,
        slot,
        sealed_keys: document.keys.as_ref().map(|[first, second]| [seal_key(0, first), seal_key(1, second)]),
        consent: StoredConsent::of(&document.consent),
        signing_keys: document
            .signing
            .iter()
            .enumerate()
            .map(|(index, signing)| StoredSigningKey {
                sealed: sealer.seal(rng, &signing_place(&key, index), signing.reveal().as_bytes()),
                created_at: signing.created_at.as_millis(),
                until: signing.until.map(Timestamp::as_millis),
            })
            .collect(),
        paused: document.throttle.paused,
        requests_per_second: document.throttle.per_second,
        properties,
    };
    serde_json::to_vec(&stored).expect("maps with text keys and plain values are always JSON")
}

/// Reads a stored resource. Its parent must be among `resources` already.
pub(crate) fn read(resource: Resource, sealer: &Sealer, resources: &Resources) -> Result<Entry, FormatError> {
    let Resource { key, revision, value } = resource;
    let stored: Stored = serde_json::from_slice(&value).map_err(FormatError::Json)?;
    if stored.format != FORMAT {
        return Err(FormatError::Version(stored.format));
    }
    let kind = Kind::by_type_name(&stored.kind)
        .ok_or_else(|| content(format!("its kind `{}` is not known", stored.kind)))?;
    if stored.names.len() != kind.lineage().len() {
        return Err(content("it has too many or too few names for its kind"));
    }
    let address = Address {
        subscription: stored.subscription,
        resource_group: stored.resource_group,
        kind,
        names: stored.names,
    };
    if address.key() != key {
        return Err(content("it is stored under another resource's key"));
    }
    if kind.parent.is_some() && resources.parent_of(&address).is_none() {
        return Err(content("its parent is missing"));
    }
    let parent = resources.ground_of(&address);
    let mut properties = stored.properties;
    for pointer in kind.sealed {
        let Some(secret) = properties.pointer_mut(pointer) else { continue };
        let text = secret["sealed"].as_str().ok_or_else(|| content("a secret of it is not sealed"))?;
        let opened = sealer.open(&format!("{key}#{pointer}"), text)?;
        *secret = serde_json::from_slice(&opened).map_err(FormatError::Json)?;
    }
    let ground = Ground { parent: parent.map(|parent| parent.facts()), existing: None };
    let members = Members::of(&properties, "properties").map_err(|error| content(error.message))?;
    let spec = (kind.read)(&members, ground).map_err(|error| content(error.message))?;
    let numbers = match (kind.numbering, stored.topic_number, stored.subscription_number, stored.slot) {
        (Numbering::Nothing, None, None, None) => Numbers::Nothing,
        (Numbering::Topic, Some(number), None, None) => Numbers::Topic(TopicNumber(number)),
        (Numbering::Subscription, None, Some(number), Some(slot)) => {
            Numbers::Subscription { number: SubscriptionNumber(number), slot: Slot(slot) }
        }
        _ => return Err(content("it does not have the numbers of its kind")),
    };
    let keys = match stored.sealed_keys {
        None => None,
        Some([first, second]) => {
            Some([open_key(sealer, &key, 0, &first)?, open_key(sealer, &key, 1, &second)?])
        }
    };
    if keys.is_some() != kind.keys {
        return Err(content("it does not have the access keys of its kind"));
    }
    let identity = match stored.identity {
        None => None,
        Some(StoredIdentity { kind, user_assigned }) => Some(
            Identity::from_stored(&kind, user_assigned)
                .ok_or_else(|| content(format!("its identity type `{kind}` is not known")))?,
        ),
    };
    let consent = match stored.consent {
        None => Standing::default(),
        Some(stored) => stored.read().ok_or_else(|| content("its consent is not well formed"))?,
    };
    let mut signing = Vec::with_capacity(stored.signing_keys.len());
    for (index, stored) in stored.signing_keys.iter().enumerate() {
        signing.push(open_signing_key(sealer, &signing_place(&key, index), stored)?);
    }
    let document = Document {
        address,
        envelope: Envelope {
            location: stored.location,
            tags: stored.tags,
            identity,
            capacity: stored.capacity,
        },
        created_at: Timestamp::from_millis(stored.created_at),
        modified_at: Timestamp::from_millis(stored.modified_at),
        numbers,
        keys,
        consent,
        signing,
        throttle: Throttle { paused: stored.paused, per_second: stored.requests_per_second },
        spec: Arc::from(spec),
    };
    Ok(Entry { key, revision, document })
}

fn key_place(key: &str, index: usize) -> String {
    format!("{key}#key{}", index + 1)
}

fn signing_place(key: &str, index: usize) -> String {
    format!("{key}#signing{}", index + 1)
}

fn open_signing_key(
    sealer: &Sealer,
    place: &str,
    stored: &StoredSigningKey,
) -> Result<SigningKey, FormatError> {
    let opened = sealer.open(place, &stored.sealed)?;
    let until = stored.until.map(Timestamp::from_millis);
    std::str::from_utf8(&opened)
        .ok()
        .and_then(|text| SigningKey::parse(text, Timestamp::from_millis(stored.created_at), until))
        .ok_or_else(|| content("a signing key of it is not one"))
}

fn open_key(sealer: &Sealer, key: &str, index: usize, text: &str) -> Result<AccessKey, FormatError> {
    let opened = sealer.open(&key_place(key, index), text)?;
    let text = String::from_utf8(opened).map_err(|_| content("an access key of it is not text"))?;
    Ok(AccessKey::new(text))
}
