//! Events to publish.

use serde_json::{Value, json};

pub(crate) const ONE: &str = "application/cloudevents+json; charset=utf-8";
pub(crate) const BATCH: &str = "application/cloudevents-batch+json; charset=utf-8";
pub(crate) const JSON: &str = "application/json; charset=utf-8";

pub(crate) fn cloud_event(id: &str) -> Value {
    json!({
        "specversion": "1.0",
        "id": id,
        "source": "/shop/7",
        "type": "Shop.OrderPlaced",
        "subject": "orders/42",
        "time": "2026-03-01T12:00:00.5Z",
        "datacontenttype": "application/json",
        "comexample": "kept",
        "data": { "amount": 12.50, "lines": [1, 2], "note": "Gr\u{fc}\u{df}e" },
    })
}

pub(crate) fn grid_event(id: &str) -> Value {
    json!({
        "id": id,
        "subject": "orders/42",
        "eventType": "Shop.OrderPlaced",
        "eventTime": "2026-03-01T12:00:00.5Z",
        "dataVersion": "2.1",
        "data": { "amount": 12.50, "lines": [1, 2], "note": "Gr\u{fc}\u{df}e" },
    })
}

/// An event of a custom schema, as [`mapping`] reads it.
pub(crate) fn custom_event(id: &str) -> Value {
    json!({
        "orderId": id,
        "kind": "Shop.OrderPlaced",
        "about": "orders/42",
        "at": "2026-03-01T12:00:00.5Z",
        "amount": 12.50,
    })
}

/// `inputSchemaMapping` for [`custom_event`].
pub(crate) fn mapping() -> Value {
    json!({ "inputSchemaMappingType": "Json", "properties": {
        "id": { "sourceField": "orderId" },
        "eventTime": { "sourceField": "at" },
        "eventType": { "sourceField": "kind" },
        "subject": { "sourceField": "about", "defaultValue": "none" },
        "dataVersion": { "sourceField": "version", "defaultValue": "1.0" },
    } })
}
