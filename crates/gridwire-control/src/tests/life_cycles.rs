//! Each kind from its creation to its end.

use super::*;

#[tokio::test]
async fn a_topic_lives_from_put_to_delete() {
    let grid = Grid::new().await;
    let body = json!({
        "location": "West US", "tags": {"a": "b"}, "kind": "Azure", "sku": {"name": "Basic"},
        "identity": {"type": "None"},
        "properties": {"inputSchema": "cloudEventSchemaV1_0", "unknown": 1, "endpoint": "http://mine"},
    });
    let created = grid.call("PUT", "~/topics/Orders", body).await.expect(201);
    let id = format!("/subscriptions/{SUB}/resourceGroups/rg/providers/Microsoft.EventGrid/topics/Orders");
    let time = written_time(&grid, Duration::ZERO);
    let expected = json!({
        "id": id, "name": "Orders", "type": "Microsoft.EventGrid/topics", "location": "West US",
        "tags": {"a": "b"}, "identity": {"type": "None"},
        "systemData": {"createdAt": time, "lastModifiedAt": time},
        "properties": {
            "provisioningState": "Succeeded",
            "endpoint": format!("http://127.0.0.1:8080/{SUB}/rg/topics/Orders/api/events"),
            "inputSchema": "CloudEventSchemaV1_0", "publicNetworkAccess": "Enabled", "disableLocalAuth": false,
        },
    });
    assert_eq!(created.body, expected);
    for header in ["location", "azure-asyncoperation", "retry-after"] {
        assert_eq!(created.header(header), "", "a finished resource needs no polling");
    }

    let path = "~/topics/orders";
    assert_eq!(grid.get(path).await.expect(200).body, expected);
    grid.pass(Duration::from_secs(1)).await;
    let change =
        json!({"tags": {"c": "d"}, "properties": {"disableLocalAuth": true, "inputSchema": "Nonsense"}});
    let patched = grid.call("PATCH", path, change).await.expect(200);
    assert_eq!(patched.body["properties"]["disableLocalAuth"], true);
    assert_eq!(patched.body["tags"], json!({"c": "d"}));
    assert_eq!(patched.body["systemData"]["createdAt"], time);
    assert_eq!(patched.body["systemData"]["lastModifiedAt"], written_time(&grid, Duration::ZERO));

    // A PUT states everything anew, but for the schema, which cannot change.
    let again = grid.call("PUT", path, json!({"location": "westus"})).await.expect(201);
    assert_eq!(again.body["name"], "Orders");
    assert_eq!(again.body["tags"], json!({}));
    assert_eq!(again.body["properties"]["inputSchema"], "CloudEventSchemaV1_0");
    assert_eq!(again.body["properties"]["disableLocalAuth"], false);

    assert_eq!(grid.call("DELETE", path, ()).await.expect(204).body, Value::Null);
    grid.call("DELETE", path, ()).await.expect(204);
    let missing = grid.get(path).await.expect(404);
    assert_eq!(missing.body["error"]["code"], "ResourceNotFound");
    assert!(grid.store.dump().is_empty());
}

#[tokio::test]
async fn a_custom_schema_topic_keeps_its_mapping() {
    let grid = Grid::new().await;
    let mapping = json!({"inputSchemaMappingType": "Json", "properties": {
        "eventType": {"sourceField": "kind", "defaultValue": "none"}, "id": {"sourceField": "key"}}});
    let body = json!({"location": "local", "properties": {
        "inputSchema": "CustomEventSchema", "inputSchemaMapping": mapping}});
    let created = grid.call("PUT", "~/topics/orders", body.clone()).await.expect(201);
    assert_eq!(created.body["properties"]["inputSchemaMapping"], mapping);
    let again = grid.call("PUT", "~/topics/orders", json!({"location": "local"})).await.expect(201);
    assert_eq!(again.body["properties"]["inputSchemaMapping"], mapping);
    let mut other = body;
    other["properties"]["inputSchemaMapping"]["properties"]["id"]["sourceField"] = "other".into();
    let refused = grid.call("PUT", "~/topics/orders", other).await.expect(400);
    assert!(refused.message().contains("`inputSchemaMapping` cannot be updated"), "{}", refused.message());
    // Without being told otherwise, custom events leave as they came.
    let subscription = grid.put_subscription("orders", "all").await;
    assert_eq!(subscription.body["properties"]["eventDeliverySchema"], "CustomInputSchema");
}

#[tokio::test]
async fn an_event_subscription_is_one_resource_in_both_forms() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    let topic = format!("/subscriptions/{SUB}/resourceGroups/rg/providers/Microsoft.EventGrid/topics/orders");
    let nested = "~/topics/orders/eventSubscriptions/audit";
    let scope = "~/topics/orders/providers/Microsoft.EventGrid/eventSubscriptions/audit";

    let body = webhook_with(&json!({"labels": ["x"], "filter": {"subjectBeginsWith": "a/"}}));
    let created = grid.call("PUT", scope, body).await.expect(201);
    assert_eq!(created.body["id"], format!("{topic}/providers/Microsoft.EventGrid/eventSubscriptions/audit"));
    assert_eq!(created.body["type"], "Microsoft.EventGrid/eventSubscriptions");
    let read = grid.get(nested).await.expect(200);
    assert_eq!(read.body["id"], format!("{topic}/eventSubscriptions/audit"));
    assert_eq!(read.body["type"], "Microsoft.EventGrid/topics/eventSubscriptions");
    assert_eq!(read.body["properties"], created.body["properties"]);
    assert_eq!(read.body["location"], Value::Null);
    let properties = &read.body["properties"];
    assert_eq!(properties["topic"], topic);
    assert_eq!(properties["provisioningState"], "Succeeded");
    assert_eq!(properties["eventDeliverySchema"], "EventGridSchema");
    assert_eq!(properties["labels"], json!(["x"]));
    assert_eq!(properties["filter"]["subjectBeginsWith"], "a/");
    assert_eq!(
        properties["retryPolicy"],
        json!({"maxDeliveryAttempts": 30, "eventTimeToLiveInMinutes": 1440})
    );
    let expected = json!({"endpointType": "WebHook", "properties": {
        "endpointBaseUrl": "https://a.example/in", "maxEventsPerBatch": 1, "preferredBatchSizeInKilobytes": 64}});
    assert_eq!(properties["destination"], expected);

    // A flat PATCH changes what it names and asks the endpoint only when it is another.
    let change = json!({"retryPolicy": {"maxDeliveryAttempts": 5}, "labels": ["y"]});
    let patched = grid.call("PATCH", nested, change).await.expect(201);
    assert_eq!(
        patched.body["properties"]["retryPolicy"],
        json!({"maxDeliveryAttempts": 5, "eventTimeToLiveInMinutes": 1440})
    );
    assert_eq!(patched.body["properties"]["filter"]["subjectBeginsWith"], "a/");
    assert_eq!(grid.port.handshakes().len(), 1);
    let wrapped = json!({"properties": {"labels": ["z"]}});
    let patched = grid.call("PATCH", scope, wrapped).await.expect(201);
    assert_eq!(patched.body["properties"]["labels"], json!(["z"]));
    grid.call("PATCH", scope, json!({"filter": null})).await.expect(201);
    assert_eq!(grid.get(nested).await.body["properties"]["filter"]["subjectBeginsWith"], "");

    grid.call("DELETE", scope, ()).await.expect(204);
    grid.get(nested).await.expect(404);
    grid.call("DELETE", nested, ()).await.expect(204);
}

#[tokio::test]
async fn an_endpoint_is_asked_when_it_is_new_and_its_secrets_are_not_shown() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    let path = "~/topics/orders/eventSubscriptions/audit";
    let mut body = webhook("https://A.example:8443/in?code=SECRET");
    body["properties"]["destination"]["properties"]["deliveryAttributeMappings"] = json!([
        {"name": "x-static", "type": "Static", "properties": {"value": "v", "isSecret": false}},
        {"name": "Authorization", "type": "Static", "properties": {"value": "TOPSECRET", "isSecret": true}},
        {"name": "x-dynamic", "type": "Dynamic", "properties": {"sourceField": "data.key"}},
    ]);
    let created = grid.call("PUT", path, body.clone()).await.expect(201);
    let shown = created.body.to_string();
    assert!(!shown.contains("SECRET"), "{shown}");
    assert_eq!(
        created.body["properties"]["destination"]["properties"]["endpointBaseUrl"],
        "https://a.example:8443/in"
    );
    let handshakes = grid.port.handshakes();
    assert_eq!(handshakes.len(), 1);
    assert_eq!(handshakes[0].webhook.url, "https://A.example:8443/in?code=SECRET");
    assert_eq!(handshakes[0].subscription_name, "audit");
    assert!(handshakes[0].topic_resource_id.ends_with("/topics/orders"));
    for stored in grid.store.dump() {
        assert!(!String::from_utf8(stored.value).unwrap().contains("SECRET"), "stored in the clear");
    }

    let full = grid.call("POST", &format!("{path}/getFullUrl"), ()).await.expect(200);
    assert_eq!(full.body, json!({"endpointUrl": "https://A.example:8443/in?code=SECRET"}));
    let attributes = grid.call("POST", &format!("{path}/getDeliveryAttributes"), ()).await.expect(200);
    assert_eq!(attributes.body["value"][1]["properties"], json!({"value": "TOPSECRET", "isSecret": true}));
    assert_eq!(attributes.body["value"].as_array().unwrap().len(), 3);

    // The same again asks nobody; another URL or schema does.
    grid.call("PUT", path, body.clone()).await.expect(201);
    assert_eq!(grid.port.handshakes().len(), 1);
    grid.call("PATCH", path, json!({"eventDeliverySchema": "CloudEventSchemaV1_0"})).await.expect(201);
    assert_eq!(grid.port.handshakes().len(), 2);
    grid.call("PATCH", path, webhook("https://b.example/")["properties"].clone()).await.expect(201);
    assert_eq!(grid.port.handshakes().len(), 3);
    assert_eq!(
        grid.call("POST", &format!("{path}/getDeliveryAttributes"), ()).await.body["value"],
        json!([])
    );
}

/// A dead-letter destination as it is shown: with the place of its letters.
fn located(destination: &Value, location: &str) -> Value {
    let mut destination = destination.clone();
    destination["properties"]["lettersAt"] = location.into();
    destination
}

#[tokio::test]
async fn a_destination_with_an_identity_and_one_without_take_each_others_place() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    let path = "~/topics/orders/eventSubscriptions/audit";
    let dead = json!({"endpointType": "StorageBlob",
        "properties": {"resourceId": STORAGE, "blobContainerName": "letters"}});
    let shown = located(&dead, "deadletter/dead01/letters in the data directory");
    let identity = json!({"type": "SystemAssigned"});
    let destination = webhook("https://a.example/in")["properties"]["destination"].clone();
    let body = json!({"properties": {
        "deliveryWithResourceIdentity": {"identity": identity, "destination": destination},
        "deadLetterWithResourceIdentity": {"identity": identity, "deadLetterDestination": dead}}});
    let created = grid.call("PUT", path, body).await.expect(201);
    let properties = &created.body["properties"];
    assert_eq!(properties["deliveryWithResourceIdentity"]["identity"], identity);
    assert_eq!(properties["deadLetterWithResourceIdentity"]["deadLetterDestination"], shown);
    assert_eq!(properties["destination"], Value::Null);
    let stored = grid.restarted().await.get(path).await.expect(200);
    assert_eq!(stored.body, created.body);

    // The model has the identity optional.
    let bare = json!({"properties": {
        "deliveryWithResourceIdentity": {"destination": destination},
        "deadLetterWithResourceIdentity": {"deadLetterDestination": dead}}});
    let created = grid.call("PUT", path, bare).await.expect(201);
    let properties = &created.body["properties"];
    assert_eq!(properties["deliveryWithResourceIdentity"].get("identity"), None);
    assert_eq!(properties["deadLetterWithResourceIdentity"], json!({"deadLetterDestination": shown}));
    let stored = grid.restarted().await.get(path).await.expect(200);
    assert_eq!(stored.body, created.body);

    let change = json!({"destination": destination, "deadLetterDestination": dead});
    let patched = grid.call("PATCH", path, change).await.expect(201);
    let properties = &patched.body["properties"];
    assert_eq!(properties["deliveryWithResourceIdentity"], Value::Null);
    assert_eq!(properties["deadLetterWithResourceIdentity"], Value::Null);
    assert_eq!(properties["deadLetterDestination"], shown);
    assert_eq!(grid.port.handshakes().len(), 1, "the endpoint is the same");
}

#[tokio::test]
async fn a_namespace_and_what_is_in_it_live_from_put_to_delete() {
    let grid = Grid::new().await;
    let body = json!({"location": "local", "sku": {"name": "Standard", "capacity": 2}});
    let created = grid.call("PUT", "~/namespaces/ns1", body).await.expect(201);
    assert_eq!(created.body["type"], "Microsoft.EventGrid/namespaces");
    assert_eq!(created.body["sku"], json!({"name": "Standard", "capacity": 2}));
    assert_eq!(created.body["properties"]["topicsConfiguration"], json!({"hostname": "127.0.0.1:8080"}));
    assert_eq!(created.body["properties"]["topicSpacesConfiguration"]["state"], "Disabled");
    let patched = grid.call("PATCH", "~/namespaces/ns1", json!({"tags": {"a": "b"}})).await.expect(200);
    assert_eq!(patched.body["sku"]["capacity"], 2);

    let topic = "~/namespaces/ns1/topics/jobs";
    let created =
        grid.call("PUT", topic, json!({"properties": {"eventRetentionInDays": 3}})).await.expect(201);
    assert_eq!(
        created.body["properties"],
        json!({"provisioningState": "Succeeded", "publisherType": "Custom",
            "inputSchema": "CloudEventSchemaV1_0", "eventRetentionInDays": 3})
    );
    let change = json!({"properties": {"eventRetentionInDays": 2}});
    let patched = grid.call("PATCH", topic, change).await.expect(200);
    assert_eq!(patched.body["properties"]["eventRetentionInDays"], 2);

    let path = "~/namespaces/ns1/topics/jobs/eventSubscriptions/work";
    let created = grid.call("PUT", path, json!({})).await.expect(201);
    assert_eq!(created.body["type"], "Microsoft.EventGrid/namespaces/topics/eventSubscriptions");
    assert_eq!(
        created.body["properties"]["deliveryConfiguration"],
        json!({"deliveryMode": "Queue", "queue": {
            "receiveLockDurationInSeconds": 60, "maxDeliveryCount": 10, "eventTimeToLive": "P2D"}})
    );
    let change = json!({"properties": {"deliveryConfiguration": {"queue": {
        "maxDeliveryCount": 3, "eventTimeToLive": "PT90M"}}}});
    let patched = grid.call("PATCH", path, change).await.expect(200);
    assert_eq!(
        patched.body["properties"]["deliveryConfiguration"]["queue"],
        json!({"receiveLockDurationInSeconds": 60, "maxDeliveryCount": 3, "eventTimeToLive": "PT90M"})
    );
    let refused = grid.call("POST", &format!("{path}/getFullUrl"), ()).await.expect(400);
    assert!(refused.message().contains("has no endpoint"), "{}", refused.message());
    assert_eq!(
        grid.call("POST", &format!("{path}/getDeliveryAttributes"), ()).await.expect(200).body,
        json!({"value": []})
    );

    grid.call("DELETE", "~/namespaces/ns1", ()).await.expect(204);
    grid.get(path).await.expect(404);
    assert!(grid.store.dump().is_empty());
}

#[tokio::test]
async fn a_namespace_topic_pushes_in_cloud_events() {
    let grid = Grid::new().await;
    grid.put_namespace().await;
    let path = "~/namespaces/ns1/topics/jobs/eventSubscriptions/push";
    let destination = webhook("https://a.example/in?k=SECRET")["properties"]["destination"].clone();
    let dead = json!({"identity": {"type": "UserAssigned", "userAssignedIdentity": "/u/1"},
        "deadLetterDestination": {"endpointType": "StorageBlob",
            "properties": {"resourceId": STORAGE, "blobContainerName": "letters"}}});
    let body = json!({"properties": {"deliveryConfiguration": {"deliveryMode": "Push", "push": {
        "maxDeliveryCount": 4, "eventTimeToLive": "PT1H", "destination": destination,
        "deadLetterDestinationWithResourceIdentity": dead}}}});
    let created = grid.call("PUT", path, body).await.expect(201);
    let push = &created.body["properties"]["deliveryConfiguration"]["push"];
    assert_eq!(push["destination"]["properties"]["endpointBaseUrl"], "https://a.example/in");
    let shown = located(&dead["deadLetterDestination"], "deadletter/dead01/letters in the data directory");
    assert_eq!(push["deadLetterDestinationWithResourceIdentity"]["deadLetterDestination"], shown);
    assert_eq!(push["deadLetterDestinationWithResourceIdentity"]["identity"], dead["identity"]);
    assert!(!created.body.to_string().contains("SECRET"));
    let change = json!({"properties": {"deliveryConfiguration": {"push": {"maxDeliveryCount": 2}}}});
    let patched = grid.call("PATCH", path, change).await.expect(200);
    let push = &patched.body["properties"]["deliveryConfiguration"]["push"];
    assert_eq!(push["maxDeliveryCount"], 2);
    assert_eq!(push["eventTimeToLive"], "PT1H");
    assert_eq!(grid.port.handshakes().len(), 1);
    let full = grid.call("POST", &format!("{path}/getFullUrl"), ()).await.expect(200);
    assert_eq!(full.body["endpointUrl"], "https://a.example/in?k=SECRET");
    let queue = queue(&json!({}));
    let refused = grid.call("PUT", path, queue).await.expect(400);
    assert!(refused.message().contains("deliveryMode` cannot be updated"), "{}", refused.message());
}

#[tokio::test]
async fn keys_are_two_random_secrets_exchanged_one_at_a_time() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    grid.put_namespace().await;
    for path in ["~/topics/orders", "~/namespaces/ns1", "~/namespaces/ns1/topics/jobs"] {
        let first = grid.call("POST", &format!("{path}/listKeys"), ()).await.expect(200).body;
        let text = first["key1"].as_str().unwrap();
        assert_eq!(text.len(), 44, "32 bytes in base64");
        assert_ne!(first["key1"], first["key2"]);
        let regenerate = format!("{path}/regenerateKey");
        let second = grid.call("POST", &regenerate, json!({"keyName": "key1"})).await.expect(200).body;
        assert_ne!(second["key1"], first["key1"]);
        assert_eq!(second["key2"], first["key2"]);
        let third = grid.call("POST", &regenerate, json!({"keyName": "key2"})).await.expect(200).body;
        assert_eq!(third["key1"], second["key1"]);
        assert_ne!(third["key2"], second["key2"]);
        for stored in grid.store.dump() {
            assert!(!String::from_utf8(stored.value).unwrap().contains(third["key1"].as_str().unwrap()));
        }
        let restarted = grid.restarted().await;
        let kept = restarted.call("POST", &format!("{path}/listKeys"), ()).await.expect(200).body;
        assert_eq!(kept, third);
    }
    // A PUT of an existing topic keeps its keys.
    let before = grid.call("POST", "~/topics/orders/listKeys", ()).await.body;
    grid.call("PUT", "~/topics/orders", json!({"location": "local", "tags": {"a": "b"}})).await.expect(201);
    assert_eq!(grid.call("POST", "~/topics/orders/listKeys", ()).await.body, before);
}

#[tokio::test]
async fn everything_is_the_same_after_a_restart() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    grid.put_subscription("orders", "audit").await;
    grid.put_namespace().await;
    let pull = "~/namespaces/ns1/topics/jobs/eventSubscriptions/work";
    grid.call("PUT", pull, queue(&json!({"receiveLockDurationInSeconds": 120}))).await.expect(201);
    let restarted = grid.restarted().await;
    assert_eq!(restarted.control.counts(), grid.control.counts());
    for path in [
        "~/topics/orders",
        "~/topics/orders/eventSubscriptions/audit",
        "~/namespaces/ns1",
        "~/namespaces/ns1/topics/jobs",
        pull,
    ] {
        let (before, after) = (grid.get(path).await.expect(200), restarted.get(path).await.expect(200));
        assert_eq!(after.body, before.body);
        assert_eq!(after.header("etag"), before.header("etag"));
    }
    assert_eq!(restarted.port.installs(), 1);
}

#[tokio::test]
async fn an_etag_guards_against_lost_updates() {
    let grid = Grid::new().await;
    let created = grid.put_topic("orders").await;
    let etag = created.header("etag").to_owned();
    let conditional = |method: &str, name: &str, value: &str| {
        let mut request =
            request(method, "~/topics/orders", json!({"location": "local", "tags": {"a": "1"}}).into());
        request
            .headers_mut()
            .insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        request
    };
    grid.send(conditional("PUT", "if-none-match", "*")).await.expect(412);
    grid.send(conditional("PUT", "if-match", &etag)).await.expect(201);
    assert_ne!(grid.get("~/topics/orders").await.header("etag"), etag);
    for method in ["PUT", "PATCH", "DELETE"] {
        let refused = grid.send(conditional(method, "if-match", &etag)).await.expect(412);
        assert_eq!((refused.code(), refused.inner()), ("PreconditionFailed", "precondition_failed"));
    }
    grid.send(conditional("DELETE", "if-match", "\"0\", *")).await.expect(204);
    grid.send(conditional("DELETE", "if-match", "*")).await.expect(412);
    grid.send(conditional("PUT", "if-none-match", "*")).await.expect(201);
}

#[tokio::test]
async fn requests_carry_their_ids_back() {
    let grid = Grid::new().await;
    let mut request = request("GET", "~/topics", Sent::Nothing);
    request.headers_mut().insert("x-ms-client-request-id", "mine".parse().unwrap());
    request.headers_mut().insert("x-ms-correlation-request-id", "chain".parse().unwrap());
    let answer = grid.send(request).await.expect(200);
    assert_eq!(answer.header("x-ms-client-request-id"), "mine");
    assert_eq!(answer.header("x-ms-correlation-request-id"), "chain");
    assert_eq!(answer.header("x-ms-request-id").len(), 36);
    let answer = grid.get("~/topics/none").await.expect(404);
    assert_eq!(answer.header("x-ms-correlation-request-id"), answer.header("x-ms-request-id"));
    assert_eq!(answer.header("x-ms-client-request-id"), "");
}

#[tokio::test]
async fn addresses_follow_the_listeners_and_the_base_domain() {
    let mut options = options();
    options.public.https = Some("https://127.0.0.1:8443".into());
    let grid = Grid::with(options.clone()).await;
    assert_eq!(
        grid.put_topic("orders").await.body["properties"]["endpoint"],
        format!("https://127.0.0.1:8443/{SUB}/rg/topics/orders/api/events")
    );
    options.public.base_domain = Some("grid.example".into());
    let grid = Grid::with(options).await;
    assert_eq!(
        grid.put_topic("Orders").await.body["properties"]["endpoint"],
        "https://orders.grid.example:8443/api/events"
    );
    grid.put_namespace().await;
    let namespace = grid.get("~/namespaces/ns1").await;
    assert_eq!(namespace.body["properties"]["topicsConfiguration"]["hostname"], "ns1.grid.example:8443");
}
