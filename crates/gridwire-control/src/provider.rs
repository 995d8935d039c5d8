//! What the provider says about itself: its operations and topic types.

use gridwire_core::api_error::{ApiError, ErrorCode};
use serde_json::{Value, json};

use crate::kinds::{KINDS, Kind};

/// The topic type of custom topics, the only source of event subscriptions that is served.
pub(crate) const TOPIC_TYPE: &str = "Microsoft.EventGrid.Topics";

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
    json!({ "value": [topics_type()] })
}

/// `GET /providers/Microsoft.EventGrid/topicTypes/{name}`
pub(crate) fn topic_type(name: &str) -> Result<Value, ApiError> {
    if name.eq_ignore_ascii_case(TOPIC_TYPE) { Ok(topics_type()) } else { Err(unknown(name)) }
}

/// `GET /providers/Microsoft.EventGrid/topicTypes/{name}/eventTypes`: custom topics take any type.
pub(crate) fn event_types_of(name: &str) -> Result<Value, ApiError> {
    if name.eq_ignore_ascii_case(TOPIC_TYPE) { Ok(json!({ "value": [] })) } else { Err(unknown(name)) }
}

fn unknown(name: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("The topic type `{name}` is not known."))
}

fn topics_type() -> Value {
    json!({
        "id": format!("providers/Microsoft.EventGrid/topicTypes/{TOPIC_TYPE}"),
        "name": TOPIC_TYPE,
        "type": "Microsoft.EventGrid/topicTypes",
        "properties": {
            "provider": "Microsoft.EventGrid",
            "displayName": "Event Grid Topics",
            "description": "Custom topics, which take events of any type.",
            "resourceRegionType": "RegionalResource",
            "provisioningState": "Succeeded",
            "supportedLocations": [],
            "supportedScopesForSource": ["Resource"],
            "sourceResourceFormat": "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.EventGrid/topics/{topicName}",
        },
    })
}
