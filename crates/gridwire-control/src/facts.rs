//! What the rest of control needs to know of a resource, whatever kind it is.
//!
//! A kind gives these out and nothing else looks into its properties: so a new kind that is, say, a sort of
//! topic is routed by giving [`TopicFacts`].

use std::sync::Arc;
use std::time::Duration;

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::event::InputSchema;
use gridwire_core::filter::FilterSpec;
use gridwire_core::publish::InputMapping;
use gridwire_core::routing::{DeadLetterDestination, DeliveryMode, ForwardTarget, TopicKind, Webhook};
use gridwire_core::time::Timestamp;
use serde_json::Value;

/// What a resource means to routing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Facts<'a> {
    Topic(&'a TopicFacts),
    /// One of the topics of a domain. What it takes is the domain's affair.
    DomainTopic,
    /// Holds topics and keys.
    Namespace,
    Subscription(&'a SubscriptionFacts),
}

impl<'a> Facts<'a> {
    pub(crate) fn topic(self) -> Option<&'a TopicFacts> {
        match self {
            Self::Topic(facts) => Some(facts),
            Self::Namespace | Self::DomainTopic | Self::Subscription(_) => None,
        }
    }

    pub(crate) fn subscription(self) -> Option<&'a SubscriptionFacts> {
        match self {
            Self::Subscription(facts) => Some(facts),
            Self::Namespace | Self::DomainTopic | Self::Topic(_) => None,
        }
    }
}

/// What takes events.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TopicFacts {
    pub kind: TopicKind,
    pub input_schema: InputSchema,
    pub input_mapping: Option<InputMapping>,
    pub local_auth: bool,
    pub retention: Duration,
    /// Only of a domain.
    pub domain: Option<DomainFacts>,
}

/// What becomes of a domain's topics by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DomainFacts {
    /// The first subscription to a domain topic makes the topic.
    pub auto_create: bool,
    /// Deleting the last subscription to a domain topic deletes the topic.
    pub auto_delete: bool,
}

/// Who is given events.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SubscriptionFacts {
    pub mode: DeliveryMode,
    pub attempts_max: u32,
    /// `None`: as long as the topic keeps events. Never longer than that in any case.
    pub time_to_live: Option<Duration>,
    pub webhook: Option<Webhook>,
    /// The least version of TLS that the webhook's owner wrote. Kept and shown; connections do not ask for it.
    pub minimum_tls: Option<&'static str>,
    /// Instead of a webhook.
    pub forward: Option<ForwardTarget>,
    pub dead_letter: Option<DeadLetterDestination>,
    pub filter: Arc<FilterSpec>,
    pub expires_at: Option<Timestamp>,
    /// The delivery attribute mappings in full, secret values included.
    pub delivery_attributes: Vec<Value>,
}

impl SubscriptionFacts {
    /// The webhook, for what can be done only with one.
    pub(crate) fn require_webhook(&self) -> Result<&Webhook, ApiError> {
        let how =
            if self.forward.is_some() { "forwarded to a namespace topic" } else { "received, not pushed" };
        self.webhook.as_ref().ok_or_else(|| {
            let message = format!("The event subscription has no endpoint: its events are {how}.");
            ApiError::new(ErrorCode::InvalidRequest, message)
        })
    }
}
