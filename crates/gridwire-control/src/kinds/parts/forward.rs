//! Destinations that are topics of namespaces: events are forwarded there instead of being posted anywhere.

use gridwire_core::api_error::ApiError;
use gridwire_core::event::DeliverySchema;
use gridwire_core::routing::{ForwardTarget, Place};
use serde_json::{Map, Value, json};

use super::Identity;
use crate::address::Address;
use crate::kinds::{Admission, NAMESPACE_TOPIC};
use crate::limits::RESOURCE_ID_BYTES_MAX;
use crate::members::{Members, invalid};

/// A namespace topic as a destination, as it was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicDestination {
    identity: Option<Identity>,
    /// As the user wrote it.
    resource_id: String,
    topic: Address,
}

impl TopicDestination {
    pub(super) fn read(destination: &Members<'_>, identity: Option<Identity>) -> Result<Self, ApiError> {
        let Some(properties) = destination.object("properties")? else {
            return Err(destination.wrong("properties", "given"));
        };
        let resource_id = properties.text("resourceId")?.unwrap_or_default();
        let Some(topic) = namespace_topic(resource_id) else {
            return Err(properties.wrong("resourceId", "the resource id of a namespace topic"));
        };
        Ok(Self { identity, resource_id: resource_id.to_owned(), topic })
    }

    /// What the broker needs to know of it.
    pub(super) fn target(&self) -> ForwardTarget {
        let Address { subscription, resource_group, names, .. } = &self.topic;
        ForwardTarget {
            namespace: Place::new(subscription, resource_group, &names[0]),
            topic: self.topic.name().to_ascii_lowercase(),
        }
    }

    /// A topic has to be there when it becomes the destination. It may be deleted later: then deliveries fail,
    /// and whoever changes anything else of the subscription is not held up by that.
    pub(super) fn admit(&self, schema: DeliverySchema, admission: Admission<'_>) -> Result<(), ApiError> {
        if schema != DeliverySchema::CloudEvent {
            return Err(invalid(
                "The event delivery schema must be `CloudEventSchemaV1_0` when the destination is a namespace topic, which takes no other.",
            ));
        }
        let existing = admission.ground.existing.and_then(crate::facts::Facts::subscription);
        let unchanged = existing.is_some_and(|facts| facts.forward.as_ref() == Some(&self.target()));
        if unchanged || admission.resources.get(&self.topic).is_some() {
            return Ok(());
        }
        Err(invalid(format!(
            "The destination does not exist: there is no namespace topic `{}`.",
            self.resource_id
        )))
    }

    /// The member of the owner that this is.
    pub(super) fn put(&self, owner: &mut Map<String, Value>) {
        let properties = json!({ "resourceId": self.resource_id });
        let destination = json!({ "endpointType": "NamespaceTopic", "properties": properties });
        match &self.identity {
            None => owner.insert("destination".into(), destination),
            Some(identity) => {
                owner.insert("deliveryWithResourceIdentity".into(), identity.wrap("destination", destination))
            }
        };
    }
}

/// The address in a namespace topic's resource id; `None` for the id of anything else.
fn namespace_topic(resource_id: &str) -> Option<Address> {
    if RESOURCE_ID_BYTES_MAX < resource_id.len() || resource_id.chars().any(char::is_control) {
        return None;
    }
    let segments: Vec<&str> = resource_id.strip_prefix('/')?.split('/').collect();
    let [
        subscriptions,
        subscription,
        groups,
        group,
        providers,
        provider,
        namespaces,
        namespace,
        topics,
        topic,
    ] = segments[..]
    else {
        return None;
    };
    let fixed = [
        (subscriptions, "subscriptions"),
        (groups, "resourceGroups"),
        (providers, "providers"),
        (provider, "Microsoft.EventGrid"),
        (namespaces, "namespaces"),
        (topics, "topics"),
    ];
    let is_one = fixed.iter().all(|(given, known)| given.eq_ignore_ascii_case(known));
    let named = [subscription, group, namespace, topic].iter().all(|name| !name.is_empty());
    (is_one && named).then(|| Address {
        subscription: subscription.to_owned(),
        resource_group: group.to_owned(),
        kind: &NAMESPACE_TOPIC,
        names: vec![namespace.to_owned(), topic.to_owned()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_id_of_a_namespace_topic_is_one() {
        let group = "/subscriptions/S/resourceGroups/G/providers/Microsoft.EventGrid";
        let check = |id: &str, is_one: bool| assert_eq!(namespace_topic(id).is_some(), is_one, "{id}");
        check(&format!("{group}/namespaces/shop/topics/jobs"), true);
        check(&format!("{}/NAMESPACES/shop/Topics/jobs", group.to_ascii_uppercase()), true);
        check(&format!("{group}/topics/orders"), false);
        check(&format!("{group}/domains/malls/topics/north"), false);
        check(&format!("{group}/namespaces/shop"), false);
        check(&format!("{group}/namespaces/shop/topics/"), false);
        check(&format!("{group}/namespaces/shop/topics/jobs/eventSubscriptions/all"), false);
        check(&format!("{group}/namespaces/shop/topics/jobs\n"), false);
        check("", false);
        let address = namespace_topic(&format!("{group}/namespaces/Shop/topics/Jobs")).unwrap();
        assert_eq!(address.key(), "/subscriptions/s/resourcegroups/g/namespaces/shop/topics/jobs");
    }
}
