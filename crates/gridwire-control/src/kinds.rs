//! The kinds of resources: a table of what they are called, and for each the properties it has.
//!
//! To add a kind: write its module (a [`Spec`] and a function that reads one), add its row here and to
//! [`KINDS`]. Paths, lists, actions, keys, audit and storage follow from the row.

mod domain_topic;
mod event_subscription;
mod namespace;
mod namespace_subscription;
mod namespace_topic;
mod network;
mod parts;
mod topic;

use std::fmt;

use gridwire_core::api_error::ApiError;
use gridwire_core::limits::{DOMAIN_SUBSCRIPTIONS_MAX, DOMAIN_TOPICS_MAX, SUBSCRIPTIONS_PER_TOPIC_MAX};
use gridwire_core::time::Timestamp;
use serde_json::{Map, Value};

use crate::address::Address;
use crate::document::Resources;
use crate::facts::Facts;
use crate::members::{Members, invalid};
use crate::options::PublicAddresses;

/// What can be posted to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    ListKeys,
    RegenerateKey,
    GetFullUrl,
    GetDeliveryAttributes,
    /// Gridwire's own: asks the endpoint for its consent again.
    Revalidate,
    /// Of our own too, as the next two: the keys that deliveries are signed with.
    ListSigningKeys,
    RotateSigningKey,
    RemoveSigningKeys,
    /// Of our own, as the next two: what the operator decides of deliveries.
    Pause,
    Resume,
    LimitRate,
}

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ListKeys => "listKeys",
            Self::RegenerateKey => "regenerateKey",
            Self::GetFullUrl => "getFullUrl",
            Self::GetDeliveryAttributes => "getDeliveryAttributes",
            Self::Revalidate => "revalidate",
            Self::ListSigningKeys => "listSigningKeys",
            Self::RotateSigningKey => "rotateSigningKey",
            Self::RemoveSigningKeys => "removeSigningKeys",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::LimitRate => "limitRate",
        }
    }
}

/// Which numbers a resource is given when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbering {
    Nothing,
    Topic,
    /// A subscription number and a slot of its topic.
    Subscription,
}

/// How a PATCH treats one member of the properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patch {
    /// The new value takes the old one's place: what the service's own tools send is complete.
    Replace,
    /// As [`Patch::Replace`], and the other writing of the same thing goes.
    InsteadOf(&'static str),
    /// The members of the new object are merged into the old one (RFC 7396), because a `GET` does not show
    /// all that a complete object needs.
    Merge,
}

/// What a PATCH can do to a kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PatchRule {
    /// Of the answer.
    pub status: u16,
    /// Whether the body has the properties at its top.
    pub flat: bool,
    /// The properties that can be patched; a kind without any takes no PATCH.
    pub members: &'static [(&'static str, Patch)],
}

/// What a kind has beside its properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    Nothing,
    /// `location`, `tags` and `identity`.
    Tracked,
    /// And `sku`.
    TrackedWithSku,
}

/// Reads the properties of a kind.
type Read = fn(&Members<'_>, Ground<'_>) -> Result<Box<dyn Spec>, ApiError>;

/// A rule for names, with the hosted service's way of refusing one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameRule {
    pub subject: &'static str,
    pub chars_max: usize,
    pub reserved: &'static [&'static str],
}

const NAME_CHARS_MIN: usize = 3;

impl NameRule {
    pub(crate) fn check(&self, name: &str) -> Result<(), ApiError> {
        let Self { subject, chars_max, reserved } = self;
        if !(NAME_CHARS_MIN..=*chars_max).contains(&name.chars().count()) {
            return Err(invalid(format!(
                "{subject} name must be between {NAME_CHARS_MIN} and {chars_max} characters in length."
            )));
        }
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(invalid(format!(
                "{subject} name may hold only the letters A to Z, digits and hyphens."
            )));
        }
        let begins =
            |prefix: &&&str| name.get(..prefix.len()).is_some_and(|b| b.eq_ignore_ascii_case(prefix));
        match reserved.iter().find(begins) {
            Some(prefix) => Err(invalid(format!("{subject} name must not begin with `{prefix}`."))),
            None => Ok(()),
        }
    }
}

/// One row of the table.
pub(crate) struct Kind {
    /// In paths, after the parent.
    pub segment: &'static str,
    pub parent: Option<&'static Kind>,
    pub type_name: &'static str,
    /// In messages: "the {noun} `orders`".
    pub noun: &'static str,
    pub name: NameRule,
    pub envelope: Beside,
    /// Whether it can also be addressed as an extension of its parent.
    pub extension: bool,
    /// Whether it has nothing but a name: a PUT needs no body, and it may come with its first child and go
    /// with its last, if the resource above it says so.
    pub bare: bool,
    pub patch: PatchRule,
    pub actions: &'static [Action],
    pub keys: bool,
    pub numbering: Numbering,
    /// Properties that hold secrets: JSON pointers to objects that are stored sealed.
    pub sealed: &'static [&'static str],
    /// How many there may be of one parent.
    pub siblings_max: Option<usize>,
    pub read: Read,
}

impl Kind {
    /// From the outermost kind to this one.
    pub(crate) fn lineage(&'static self) -> Vec<&'static Kind> {
        let mut lineage: Vec<_> = std::iter::successors(Some(self), |kind| kind.parent).collect();
        lineage.reverse();
        lineage
    }

    /// The kind that stands at `segment` below `parent`.
    pub(crate) fn below(parent: Option<&'static Kind>, segment: &str) -> Option<&'static Kind> {
        KINDS.iter().copied().find(|kind| kind.parent == parent && kind.segment.eq_ignore_ascii_case(segment))
    }

    pub(crate) fn by_type_name(type_name: &str) -> Option<&'static Kind> {
        KINDS.iter().copied().find(|kind| kind.type_name == type_name)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.type_name == other.type_name
    }
}

impl Eq for Kind {}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_name)
    }
}

/// What is known around a resource while its properties are read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ground<'a> {
    pub parent: Option<Facts<'a>>,
    /// The same resource before the change.
    pub existing: Option<Facts<'a>>,
}

/// What a change is judged by, beyond the properties alone. Not asked of resources that are loaded: what
/// was once accepted stays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admission<'a> {
    pub ground: Ground<'a>,
    pub now: Timestamp,
    pub allow_http_webhooks: bool,
    pub token_issuer: bool,
    /// All there are.
    pub resources: &'a Resources,
}

/// What read-only properties are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    pub address: &'a Address,
    pub parent: Option<Facts<'a>>,
    pub public: &'a PublicAddresses,
}

/// The properties of one resource, checked.
pub(crate) trait Spec: fmt::Debug + Send + Sync {
    /// All that was accepted, in the shape of a PUT, secrets included: what is stored, and what a PATCH
    /// starts from.
    fn properties(&self) -> Map<String, Value>;

    /// What a GET shows: without secrets, with the read-only properties.
    fn shown(&self, surroundings: Surroundings<'_>) -> Map<String, Value>;

    fn facts(&self) -> Facts<'_>;

    /// Whether the change may be made.
    fn admit(&self, admission: Admission<'_>) -> Result<(), ApiError>;
}

/// Every kind; parents before their children.
pub(crate) static KINDS: &[&Kind] = &[
    &TOPIC,
    &TOPIC_SUBSCRIPTION,
    &DOMAIN,
    &DOMAIN_SUBSCRIPTION,
    &DOMAIN_TOPIC,
    &DOMAIN_TOPIC_SUBSCRIPTION,
    &NAMESPACE,
    &NAMESPACE_TOPIC,
    &NAMESPACE_SUBSCRIPTION,
];

/// In the paths of event subscriptions of every kind.
pub(crate) const SUBSCRIPTIONS_SEGMENT: &str = "eventSubscriptions";

/// What can be posted to an event subscription of any kind.
const SUBSCRIPTION_ACTIONS: &[Action] = &[
    Action::GetFullUrl,
    Action::GetDeliveryAttributes,
    Action::Revalidate,
    Action::ListSigningKeys,
    Action::RotateSigningKey,
    Action::RemoveSigningKeys,
    Action::Pause,
    Action::Resume,
    Action::LimitRate,
];

const RESERVED: &[&str] = &["Microsoft", "EventGrid", "System"];

/// What can be patched of an event subscription of a topic or domain.
const SUBSCRIPTION_PATCH: PatchRule = PatchRule {
    status: 201,
    flat: true,
    members: &[
        ("destination", Patch::InsteadOf("deliveryWithResourceIdentity")),
        ("deliveryWithResourceIdentity", Patch::InsteadOf("destination")),
        ("filter", Patch::Replace),
        ("labels", Patch::Replace),
        ("expirationTimeUtc", Patch::Replace),
        ("eventDeliverySchema", Patch::Replace),
        ("retryPolicy", Patch::Merge),
        ("deadLetterDestination", Patch::InsteadOf("deadLetterWithResourceIdentity")),
        ("deadLetterWithResourceIdentity", Patch::InsteadOf("deadLetterDestination")),
    ],
};

pub(crate) static TOPIC: Kind = Kind {
    segment: "topics",
    parent: None,
    type_name: "Microsoft.EventGrid/topics",
    noun: "topic",
    name: NameRule { subject: "Topic", chars_max: 50, reserved: RESERVED },
    envelope: Beside::Tracked,
    extension: false,
    bare: false,
    patch: PatchRule {
        status: 200,
        flat: false,
        members: &[
            ("publicNetworkAccess", Patch::Replace),
            ("inboundIpRules", Patch::Replace),
            ("minimumTlsVersionAllowed", Patch::Replace),
            ("disableLocalAuth", Patch::Replace),
            ("dataResidencyBoundary", Patch::Replace),
            ("eventTypeInfo", Patch::Replace),
        ],
    },
    actions: &[Action::ListKeys, Action::RegenerateKey],
    keys: true,
    numbering: Numbering::Topic,
    sealed: &[],
    siblings_max: None,
    read: topic::read,
};

const SUBSCRIPTION_SEALED: &[&str] = &["/destination", "/deliveryWithResourceIdentity/destination"];

pub(crate) static TOPIC_SUBSCRIPTION: Kind = Kind {
    segment: SUBSCRIPTIONS_SEGMENT,
    parent: Some(&TOPIC),
    type_name: "Microsoft.EventGrid/topics/eventSubscriptions",
    noun: "event subscription",
    name: NameRule { subject: "Event subscription", chars_max: 64, reserved: &[] },
    envelope: Beside::Nothing,
    extension: true,
    bare: false,
    patch: SUBSCRIPTION_PATCH,
    actions: SUBSCRIPTION_ACTIONS,
    keys: false,
    numbering: Numbering::Subscription,
    sealed: SUBSCRIPTION_SEALED,
    siblings_max: Some(SUBSCRIPTIONS_PER_TOPIC_MAX),
    read: event_subscription::read,
};

pub(crate) static DOMAIN: Kind = Kind {
    segment: "domains",
    parent: None,
    type_name: "Microsoft.EventGrid/domains",
    noun: "domain",
    name: NameRule { subject: "Domain", chars_max: 50, reserved: RESERVED },
    envelope: Beside::Tracked,
    extension: false,
    bare: false,
    patch: PatchRule {
        status: 200,
        flat: false,
        members: &[
            ("publicNetworkAccess", Patch::Replace),
            ("inboundIpRules", Patch::Replace),
            ("minimumTlsVersionAllowed", Patch::Replace),
            ("disableLocalAuth", Patch::Replace),
            ("dataResidencyBoundary", Patch::Replace),
            ("eventTypeInfo", Patch::Replace),
            ("autoCreateTopicWithFirstSubscription", Patch::Replace),
            ("autoDeleteTopicWithLastSubscription", Patch::Replace),
        ],
    },
    actions: &[Action::ListKeys, Action::RegenerateKey],
    keys: true,
    numbering: Numbering::Topic,
    sealed: &[],
    siblings_max: None,
    read: topic::read_domain,
};

pub(crate) static DOMAIN_SUBSCRIPTION: Kind = Kind {
    segment: SUBSCRIPTIONS_SEGMENT,
    parent: Some(&DOMAIN),
    type_name: "Microsoft.EventGrid/domains/eventSubscriptions",
    noun: "event subscription",
    name: NameRule { subject: "Event subscription", chars_max: 64, reserved: &[] },
    envelope: Beside::Nothing,
    extension: true,
    bare: false,
    patch: SUBSCRIPTION_PATCH,
    actions: SUBSCRIPTION_ACTIONS,
    keys: false,
    numbering: Numbering::Subscription,
    sealed: SUBSCRIPTION_SEALED,
    siblings_max: Some(DOMAIN_SUBSCRIPTIONS_MAX),
    read: event_subscription::read,
};

pub(crate) static DOMAIN_TOPIC: Kind = Kind {
    segment: "topics",
    parent: Some(&DOMAIN),
    type_name: "Microsoft.EventGrid/domains/topics",
    noun: "domain topic",
    name: NameRule { subject: "Domain topic", chars_max: 50, reserved: &[] },
    envelope: Beside::Nothing,
    extension: false,
    bare: true,
    patch: PatchRule { status: 200, flat: false, members: &[] },
    actions: &[],
    keys: false,
    numbering: Numbering::Nothing,
    sealed: &[],
    siblings_max: Some(DOMAIN_TOPICS_MAX),
    read: domain_topic::read,
};

pub(crate) static DOMAIN_TOPIC_SUBSCRIPTION: Kind = Kind {
    segment: SUBSCRIPTIONS_SEGMENT,
    parent: Some(&DOMAIN_TOPIC),
    type_name: "Microsoft.EventGrid/domains/topics/eventSubscriptions",
    noun: "event subscription",
    name: NameRule { subject: "Event subscription", chars_max: 64, reserved: &[] },
    envelope: Beside::Nothing,
    extension: true,
    bare: false,
    patch: SUBSCRIPTION_PATCH,
    actions: SUBSCRIPTION_ACTIONS,
    keys: false,
    numbering: Numbering::Subscription,
    sealed: SUBSCRIPTION_SEALED,
    siblings_max: Some(SUBSCRIPTIONS_PER_TOPIC_MAX),
    read: event_subscription::read,
};

pub(crate) static NAMESPACE: Kind = Kind {
    segment: "namespaces",
    parent: None,
    type_name: "Microsoft.EventGrid/namespaces",
    noun: "namespace",
    name: NameRule { subject: "Namespace", chars_max: 50, reserved: &[] },
    envelope: Beside::TrackedWithSku,
    extension: false,
    bare: false,
    patch: PatchRule {
        status: 200,
        flat: false,
        members: &[
            ("topicSpacesConfiguration", Patch::Merge),
            ("topicsConfiguration", Patch::Merge),
            ("publicNetworkAccess", Patch::Replace),
            ("inboundIpRules", Patch::Replace),
        ],
    },
    actions: &[Action::ListKeys, Action::RegenerateKey],
    keys: true,
    numbering: Numbering::Nothing,
    sealed: &[],
    siblings_max: None,
    read: namespace::read,
};

pub(crate) static NAMESPACE_TOPIC: Kind = Kind {
    segment: "topics",
    parent: Some(&NAMESPACE),
    type_name: "Microsoft.EventGrid/namespaces/topics",
    noun: "namespace topic",
    name: NameRule { subject: "Namespace topic", chars_max: 50, reserved: &[] },
    envelope: Beside::Nothing,
    extension: false,
    bare: false,
    patch: PatchRule { status: 200, flat: false, members: &[("eventRetentionInDays", Patch::Replace)] },
    actions: &[Action::ListKeys, Action::RegenerateKey],
    keys: true,
    numbering: Numbering::Topic,
    sealed: &[],
    siblings_max: None,
    read: namespace_topic::read,
};

pub(crate) static NAMESPACE_SUBSCRIPTION: Kind = Kind {
    segment: SUBSCRIPTIONS_SEGMENT,
    parent: Some(&NAMESPACE_TOPIC),
    type_name: "Microsoft.EventGrid/namespaces/topics/eventSubscriptions",
    noun: "event subscription",
    name: NameRule { subject: "Event subscription", chars_max: 50, reserved: &[] },
    envelope: Beside::Nothing,
    extension: false,
    bare: false,
    patch: PatchRule {
        status: 200,
        flat: false,
        members: &[
            ("deliveryConfiguration", Patch::Merge),
            ("eventDeliverySchema", Patch::Replace),
            ("filtersConfiguration", Patch::Replace),
            ("expirationTimeUtc", Patch::Replace),
        ],
    },
    actions: SUBSCRIPTION_ACTIONS,
    keys: false,
    numbering: Numbering::Subscription,
    sealed: &[
        "/deliveryConfiguration/push/destination",
        "/deliveryConfiguration/push/deliveryWithResourceIdentity/destination",
    ],
    siblings_max: Some(SUBSCRIPTIONS_PER_TOPIC_MAX),
    read: namespace_subscription::read,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: Option<&str>) {
        let refused = TOPIC.name.check(name).err().map(|error| error.message);
        assert_eq!(refused.as_deref(), expected, "{name}");
    }

    #[test]
    fn names_are_refused_in_the_services_words() {
        check("abc", None);
        check("Orders-2", None);
        check("ab", Some("Topic name must be between 3 and 50 characters in length."));
        check(&"a".repeat(51), Some("Topic name must be between 3 and 50 characters in length."));
        check("a_b", Some("Topic name may hold only the letters A to Z, digits and hyphens."));
        check("naïve", Some("Topic name may hold only the letters A to Z, digits and hyphens."));
        check("microsoftthing", Some("Topic name must not begin with `Microsoft`."));
        check("SYSTEM-a", Some("Topic name must not begin with `System`."));
    }

    #[test]
    fn a_kind_is_found_by_its_segment_below_its_parent() {
        assert_eq!(Kind::below(None, "TOPICS"), Some(&TOPIC));
        assert_eq!(Kind::below(Some(&NAMESPACE), "topics"), Some(&NAMESPACE_TOPIC));
        assert_eq!(Kind::below(Some(&NAMESPACE), "eventSubscriptions"), None);
        assert_eq!(NAMESPACE_SUBSCRIPTION.lineage(), [&NAMESPACE, &NAMESPACE_TOPIC, &NAMESPACE_SUBSCRIPTION]);
        for kind in KINDS {
            assert_eq!(Kind::by_type_name(kind.type_name), Some(*kind));
        }
    }
}
