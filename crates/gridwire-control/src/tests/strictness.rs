//! What a client is told of members that no resource has, when it asks.

use super::*;

impl Grid {
    /// A PUT with `Prefer: handling=strict`.
    async fn put_strictly(&self, path: &str, body: Value) -> Answer {
        let mut request = request("PUT", path, body.into());
        request.headers_mut().insert("prefer", "handling=strict".parse().unwrap());
        self.send(request).await
    }
}

#[tokio::test]
async fn a_misspelled_filter_is_refused_when_strictness_is_asked_for() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    let path = "~/topics/orders/eventSubscriptions/billing";
    let mut body = webhook("https://a.example/in");
    body["properties"]["filter"] = json!({ "includedEventTypess": ["paid"] });
    let before = grid.store.dump().len();
    let refused = grid.put_strictly(path, body.clone()).await.expect(400);
    assert_eq!(refused.message(), "This resource has no property `properties.filter.includedEventTypess`.");
    assert_eq!(grid.store.dump().len(), before);
    assert!(grid.port.handshakes().is_empty(), "nobody is asked for what is not kept");
    // As Resource Manager does, for everybody else.
    grid.call("PUT", path, body).await.expect(201);
}

#[tokio::test]
async fn what_a_resource_shows_can_be_put_back_strictly() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    grid.put_namespace().await;
    let queue = "~/namespaces/ns1/topics/jobs/eventSubscriptions/workers";
    let mut body = queue_with_everything();
    grid.put_strictly(queue, body.clone()).await.expect(201);
    let push = "~/topics/orders/eventSubscriptions/billing";
    grid.put_strictly(push, webhook_with_everything()).await.expect(201);
    for path in ["~/topics/orders", "~/namespaces/ns1", "~/namespaces/ns1/topics/jobs", queue, push] {
        body = grid.get(path).await.expect(200).body;
        if path == push {
            body["properties"]["destination"]["properties"]["endpointUrl"] = "https://a.example/in".into();
        }
        grid.put_strictly(path, body.clone()).await.expect(201);
    }
}

fn queue_with_everything() -> Value {
    json!({ "properties": {
        "eventDeliverySchema": "CloudEventSchemaV1_0",
        "deliveryConfiguration": { "deliveryMode": "Queue", "queue": {
            "receiveLockDurationInSeconds": 120, "maxDeliveryCount": 3, "eventTimeToLive": "PT90M",
            "deadLetterDestinationWithResourceIdentity": {
                "identity": { "type": "SystemAssigned" },
                "deadLetterDestination": { "endpointType": "StorageBlob", "properties": {
                    "resourceId": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/letters",
                    "blobContainerName": "lost" } } } } },
        "filtersConfiguration": { "includedEventTypes": ["a"], "filters": [
            { "operatorType": "StringIn", "key": "data.a", "values": ["x"] },
            { "operatorType": "NumberGreaterThan", "key": "data.n", "value": 3 } ] },
    } })
}

fn webhook_with_everything() -> Value {
    json!({ "properties": {
        "destination": { "endpointType": "WebHook", "properties": {
            "endpointUrl": "https://a.example/in", "maxEventsPerBatch": 1, "preferredBatchSizeInKilobytes": 64,
            "minimumTlsVersionAllowed": "1.2",
            "deliveryAttributeMappings": [
                { "name": "X-One", "type": "Static", "properties": { "value": "v", "isSecret": false } },
                { "name": "X-Two", "type": "Dynamic", "properties": { "sourceField": "data.a" } } ] } },
        "filter": { "includedEventTypes": ["a"], "subjectBeginsWith": "/a", "subjectEndsWith": "z",
            "isSubjectCaseSensitive": true, "enableAdvancedFilteringOnArrays": true,
            "advancedFilters": [{ "operatorType": "BoolEquals", "key": "data.b", "value": true }] },
        "labels": ["x"], "eventDeliverySchema": "EventGridSchema",
        "retryPolicy": { "maxDeliveryAttempts": 5, "eventTimeToLiveInMinutes": 60 },
        "deadLetterDestination": { "endpointType": "StorageBlob", "properties": {
            "resourceId": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/letters",
            "blobContainerName": "lost" } },
    } })
}
