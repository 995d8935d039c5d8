//! What the provider says about itself: its operations and topic types.

use gridwire_core::api_error::{ApiError, ErrorCode};
use serde_json::{Value, json};

use crate::kinds::{DOMAIN, KINDS, Kind};

/// A source of event subscriptions that is served.
struct TopicType {
    name: &'static str,
    display_name: &'static str,
    description: &'static str,
    /// Behind the provider's id.
    source: &'static str,
}

const TOPIC_TYPES: [TopicType; 2] = [
    TopicType {
        name: "Microsoft.EventGrid.Topics",
        display_name: "Event Grid Topics",
        description: "Custom topics, which take events of any type.",
        source: "topics/{topicName}",
    },
    TopicType {
        name: "Microsoft.EventGrid.Domains",
        display_name: "Event Grid Domains",
        description: "Domains, which take events of any type for many topics.",
        source: "domains/{domainName}",
    },
];

/// The topic type that event subscriptions of this kind hang on.
pub(crate) fn topic_type_of(kind: &'static Kind) -> &'static str {
    let [topics, domains] = &TOPIC_TYPES;
    if kind.lineage().contains(&&DOMAIN) { domains.name } else { topics.name }
}

/// `GET /providers/Microsoft.EventGrid/operations`
pub(crate) fn operations() -> Value {
    let mut operations = Vec::new();
    for kind in KINDS {
        for (verb, words) in [("read", "Read"), ("write", "Create or change"), ("delete", "Delete")] {
            operations.push(operation(kind, verb, words));
        }
        for action in kind.actions {
            operations.push(operation(kind, &format!("{}/action", action.name()), action.name()));
        }
    }
    json!({ "value": operations })
}

fn operation(kind: &Kind, verb: &str, words: &str) -> Value {
    json!({
        "name": format!("{}/{verb}", kind.type_name),
        "display": {
            "provider": "Microsoft Event Grid",
            "resource": kind.noun,
            "operation": words,
            "description": format!("{words}: {}", kind.noun),
        },
        "origin": "user,system",
        "isDataAction": false,
    })
}

/// `GET /providers/Microsoft.EventGrid/topicTypes`
pub(crate) fn topic_types() -> Value {
    json!({ "value": TOPIC_TYPES.iter().map(TopicType::show).collect::<Vec<_>>() })
}

/// `GET /providers/Microsoft.EventGrid/topicTypes/{name}`
pub(crate) fn topic_type(name: &str) -> Result<Value, ApiError> {
    Ok(find(name)?.show())
}

/// `GET /providers/Microsoft.EventGrid/topicTypes/{name}/eventTypes`: topics and domains take any type.
pub(crate) fn event_types_of(name: &str) -> Result<Value, ApiError> {
    find(name).map(|_| json!({ "value": [] }))
}

fn find(name: &str) -> Result<&'static TopicType, ApiError> {
    TOPIC_TYPES
        .iter()
        .find(|one| one.name.eq_ignore_ascii_case(name))
        .ok_or_else(|| ApiError::new(ErrorCode::NotFound, format!("The topic type `{name}` is not known.")))
}

impl TopicType {
    fn show(&self) -> Value {
        let Self { name, display_name, description, source } = self;
        let provider = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.EventGrid";
        json!({
            "id": format!("providers/Microsoft.EventGrid/topicTypes/{name}"),
            "name": name,
            "type": "Microsoft.EventGrid/topicTypes",
            "properties": {
                "provider": "Microsoft.EventGrid",
                "displayName": display_name,
                "description": description,
                "resourceRegionType": "RegionalResource",
                "provisioningState": "Succeeded",
                "supportedLocations": [],
                "supportedScopesForSource": ["Resource"],
                "sourceResourceFormat": format!("{provider}/{source}"),
            },
        })
    }
}
