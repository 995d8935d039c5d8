//! Where an event subscription's events go: to a webhook, or on into a topic of a namespace. Given as
//! `destination`, plain or in a `deliveryWithResourceIdentity`.

use gridwire_core::api_error::ApiError;
use gridwire_core::event::DeliverySchema;
use gridwire_core::routing::{Batching, ForwardTarget, Webhook};
use serde_json::{Map, Value};

use super::Identity;
use super::forward::TopicDestination;
use super::webhook::WebhookDestination;
use crate::kinds::Admission;
use crate::members::{Members, invalid};

/// Destinations of the hosted service that Gridwire does not deliver to; refused by name.
const UNSUPPORTED: &[&str] = &[
    "AzureFunction",
    "EventHub",
    "HybridConnection",
    "ServiceBusQueue",
    "ServiceBusTopic",
    "StorageQueue",
    "MonitorAlert",
    "PartnerDestination",
];
const WEBHOOK: &str = "WebHook";
const NAMESPACE_TOPIC: &str = "NamespaceTopic";

/// A destination as it was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Webhook(WebhookDestination),
    Topic(TopicDestination),
}

impl Destination {
    /// Reads the destination of `owner`, a subscription of a custom topic, a domain or a domain topic.
    pub(crate) fn read(owner: &Members<'_>) -> Result<Option<Self>, ApiError> {
        let supported = "the supported types are `WebHook` and `NamespaceTopic`";
        read(owner, supported, |endpoint_type, destination, identity| {
            if endpoint_type.eq_ignore_ascii_case(NAMESPACE_TOPIC) {
                return TopicDestination::read(destination, identity).map(Self::Topic);
            }
            webhook(endpoint_type, destination, identity).map(Self::Webhook)
        })
    }

    /// Reads the destination of `owner`, a subscription of a namespace topic. What was forwarded is not forwarded
    /// again, so no ring of subscriptions can be made.
    pub(crate) fn read_webhook(owner: &Members<'_>) -> Result<Option<WebhookDestination>, ApiError> {
        read(owner, "the supported type is `WebHook`", |endpoint_type, destination, identity| {
            if endpoint_type.eq_ignore_ascii_case(NAMESPACE_TOPIC) {
                return Err(invalid(
                    "The destination type `NamespaceTopic` is for event subscriptions of topics and domains; one of a namespace topic cannot forward to another.",
                ));
            }
            webhook(endpoint_type, destination, identity)
        })
    }

    pub(crate) fn as_webhook(&self) -> Option<&WebhookDestination> {
        match self {
            Self::Webhook(webhook) => Some(webhook),
            Self::Topic(_) => None,
        }
    }

    /// What the broker needs to know of it.
    pub(crate) fn webhook(&self, schema: DeliverySchema) -> Option<Webhook> {
        self.as_webhook().map(|webhook| webhook.webhook(schema))
    }

    pub(crate) fn forward(&self) -> Option<ForwardTarget> {
        match self {
            Self::Webhook(_) => None,
            Self::Topic(topic) => Some(topic.target()),
        }
    }

    pub(crate) fn batching(&self) -> Option<Batching> {
        self.as_webhook().and_then(WebhookDestination::batching)
    }

    pub(crate) fn admit(&self, schema: DeliverySchema, admission: Admission<'_>) -> Result<(), ApiError> {
        match self {
            Self::Webhook(webhook) => webhook.admit(admission),
            Self::Topic(topic) => topic.admit(schema, admission),
        }
    }

    /// The member of the owner that this is, its secrets shown or not.
    pub(crate) fn put(&self, owner: &mut Map<String, Value>, secrets: bool) {
        match self {
            Self::Webhook(webhook) => webhook.put(owner, secrets),
            Self::Topic(topic) => topic.put(owner),
        }
    }
}

fn webhook(
    endpoint_type: &str,
    destination: &Members<'_>,
    identity: Option<Identity>,
) -> Result<WebhookDestination, ApiError> {
    if endpoint_type.eq_ignore_ascii_case(WEBHOOK) {
        return WebhookDestination::read(destination, identity);
    }
    Err(destination.wrong("endpointType", "a supported destination type, such as `WebHook`"))
}

/// Finds the destination and has it read by `each`, which is told its type and the identity around it.
fn read<T>(
    owner: &Members<'_>,
    supported: &str,
    each: impl FnOnce(&str, &Members<'_>, Option<Identity>) -> Result<T, ApiError>,
) -> Result<Option<T>, ApiError> {
    let plain = owner.object("destination")?;
    let (destination, identity) = match (plain, owner.object("deliveryWithResourceIdentity")?) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(owner.wrong("destination", "left out when `deliveryWithResourceIdentity` is given"));
        }
        (Some(destination), None) => (destination, None),
        (None, Some(wrapper)) => {
            let identity = Identity::read(&wrapper)?;
            match wrapper.object("destination")? {
                None => return Err(wrapper.wrong("destination", "given")),
                Some(destination) => (destination, Some(identity)),
            }
        }
    };
    let Some(endpoint_type) = destination.text("endpointType")? else {
        return Err(destination.wrong("endpointType", &format!("given; {supported}")));
    };
    if let Some(name) = UNSUPPORTED.iter().find(|name| name.eq_ignore_ascii_case(endpoint_type)) {
        return Err(invalid(format!("The destination type `{name}` is not supported; {supported}.")));
    }
    each(endpoint_type, &destination, identity).map(Some)
}
