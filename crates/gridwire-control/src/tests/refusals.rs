//! Everything that is refused, as data; after each refusal nothing has changed.

use super::*;

/// Method, path, body, status, public code, own code.
type Case = (&'static str, &'static str, Sent, u16, &'static str, &'static str);

async fn stocked() -> Grid {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    grid.call(
        "PUT",
        "~/topics/clouds",
        json!({"location": "local", "properties": {"inputSchema": "CloudEventSchemaV1_0"}}),
    )
    .await
    .expect(201);
    grid.put_subscription("orders", "audit").await;
    let by_hand = json!({"location": "local", "properties": {"autoCreateTopicWithFirstSubscription": false}});
    grid.call("PUT", "~/domains/malls", json!({"location": "local"})).await.expect(201);
    grid.call("PUT", "~/domains/hands", by_hand).await.expect(201);
    grid.call("PUT", "~/domains/malls/topics/north", ()).await.expect(201);
    grid.put_namespace().await;
    grid.call("PUT", "~/namespaces/ns1/topics/jobs/eventSubscriptions/work", json!({})).await.expect(201);
    grid
}

async fn check(cases: Vec<Case>) {
    let grid = stocked().await;
    let before = grid.store.dump();
    let installs = grid.port.installs();
    let handshakes = grid.port.handshakes().len();
    for (method, path, body, status, code, inner) in cases {
        let shown = match &body {
            Sent::Nothing => String::new(),
            Sent::Json(text) => text.chars().take(300).collect(),
        };
        let what = format!("{method} {path} {shown}");
        let answer = grid.call(method, path, body).await;
        assert_eq!(
            (answer.status, answer.code(), answer.inner()),
            (status, code, inner),
            "{what}: {}",
            answer.body
        );
        assert!(!answer.message().is_empty(), "{what}");
        assert_eq!(answer.header("x-ms-error-code"), code, "{what}");
        assert_eq!(answer.header("x-ms-request-id").len(), 36, "{what}");
        assert_eq!(grid.store.dump(), before, "{what} changed what is stored");
        assert_eq!(grid.port.installs(), installs, "{what} installed a table");
        assert_eq!(grid.port.handshakes().len(), handshakes, "{what} asked an endpoint");
    }
}

fn bad(method: &'static str, path: &'static str, body: impl Into<Sent>) -> Case {
    (method, path, body.into(), 400, "InvalidRequest", "invalid_resource")
}

const NEW: &str = "~/topics/new-topic";
const SUBSCRIPTION: &str = "~/topics/orders/eventSubscriptions/new-one";
const DOMAIN: &str = "~/domains/new-domain";
const PULL: &str = "~/namespaces/ns1/topics/jobs/eventSubscriptions/new-one";

#[tokio::test]
async fn bad_topics_are_refused() {
    let topic = |properties: Value| json!({"location": "local", "properties": properties});
    let many_tags: serde_json::Map<_, _> = (0..51).map(|n| (format!("t{n}"), json!("v"))).collect();
    check(vec![
        bad("PUT", "~/topics/ab", json!({"location": "local"})),
        bad("PUT", "~/topics/a_b", json!({"location": "local"})),
        bad("PUT", "~/topics/a%20b", json!({"location": "local"})),
        bad("PUT", "~/topics/System-a", json!({"location": "local"})),
        bad("PUT", "~/topics/EventGridThing", json!({"location": "local"})),
        bad(
            "PUT",
            "~/topics/x123456789x123456789x123456789x123456789x123456789x",
            json!({"location": "local"}),
        ),
        bad("PUT", NEW, json!({})),
        bad("PUT", NEW, json!({"location": 7})),
        bad("PUT", NEW, json!({"location": ""})),
        bad("PUT", NEW, json!({"location": "a\nb"})),
        bad("PUT", NEW, json!({"location": "local", "tags": []})),
        bad("PUT", NEW, json!({"location": "local", "tags": {"a": 1}})),
        bad("PUT", NEW, json!({"location": "local", "tags": {"": "x"}})),
        bad("PUT", NEW, json!({"location": "local", "tags": many_tags})),
        bad("PUT", NEW, json!({"location": "local", "tags": {"a": "x".repeat(257)}})),
        bad("PUT", NEW, json!({"location": "local", "identity": {"type": "Other"}})),
        bad("PUT", NEW, json!({"location": "local", "properties": []})),
        bad("PUT", NEW, topic(json!({"inputSchema": "Nonsense"}))),
        bad("PUT", NEW, topic(json!({"inputSchema": 1}))),
        bad("PUT", NEW, topic(json!({"inputSchema": "CustomEventSchema", "inputSchemaMapping": {}}))),
        bad("PUT", NEW, topic(json!({"inputSchemaMapping": {"inputSchemaMappingType": "Json"}}))),
        bad("PUT", NEW, topic(json!({"disableLocalAuth": "yes"}))),
        bad("PUT", NEW, topic(json!({"publicNetworkAccess": "Disabled"}))),
        bad("PUT", NEW, topic(json!({"inboundIpRules": [{"ipMask": "10.0.0.0/8", "action": "Allow"}]}))),
        bad("PUT", NEW, topic(json!({"minimumTlsVersionAllowed": "0.9"}))),
        bad("PUT", NEW, topic(json!({"dataResidencyBoundary": "Nowhere"}))),
        bad("PUT", NEW, topic(json!({"eventTypeInfo": {"kind": "Inline", "inlineEventTypes": {"a": 1}}}))),
        bad("PUT", "~/topics/orders", topic(json!({"inputSchema": "CloudEventSchemaV1_0"}))),
        bad("PATCH", "~/topics/orders", json!({"tags": 1})),
        bad("PATCH", "~/topics/orders", json!({"properties": {"disableLocalAuth": 1}})),
        bad("POST", "~/topics/orders/regenerateKey", json!({})),
        bad("POST", "~/topics/orders/regenerateKey", json!({"keyName": "key3"})),
        ("PUT", "~/topics/orders", json!({"location": "moon"}).into(), 409, "Conflict", "conflict"),
        ("PATCH", NEW, json!({"tags": {}}).into(), 404, "ResourceNotFound", "not_found"),
        ("POST", "~/topics/none/listKeys", ().into(), 404, "ResourceNotFound", "not_found"),
        (
            "POST",
            "~/topics/none/regenerateKey",
            json!({"keyName": "key1"}).into(),
            404,
            "ResourceNotFound",
            "not_found",
        ),
    ])
    .await;
}

#[tokio::test]
async fn bad_domains_are_refused() {
    let domain = |properties: Value| json!({"location": "local", "properties": properties});
    let mapping = |properties: Value| {
        domain(json!({"inputSchema": "CustomEventSchema",
            "inputSchemaMapping": {"inputSchemaMappingType": "Json", "properties": properties}}))
    };
    let hook = || webhook("https://a.example/in");
    let missing = |method: &'static str, path: &'static str, body: Sent| -> Case {
        (method, path, body, 404, "ResourceNotFound", "not_found")
    };
    check(vec![
        bad("PUT", "~/domains/ab", json!({"location": "local"})),
        bad("PUT", "~/domains/a_b", json!({"location": "local"})),
        bad("PUT", "~/domains/Microsoft-a", json!({"location": "local"})),
        bad("PUT", DOMAIN, json!({})),
        bad("PUT", DOMAIN, domain(json!({"inputSchema": "Nonsense"}))),
        bad("PUT", DOMAIN, domain(json!({"autoCreateTopicWithFirstSubscription": "yes"}))),
        bad("PUT", DOMAIN, domain(json!({"autoDeleteTopicWithLastSubscription": 1}))),
        bad("PUT", DOMAIN, domain(json!({"publicNetworkAccess": "Disabled"}))),
        bad("PUT", DOMAIN, mapping(json!({"id": {"sourceField": "id"}}))),
        bad("PUT", "~/domains/malls", domain(json!({"inputSchema": "CloudEventSchemaV1_0"}))),
        bad("PATCH", "~/domains/malls", json!({"properties": {"autoDeleteTopicWithLastSubscription": []}})),
        bad("POST", "~/domains/malls/regenerateKey", json!({"keyName": "key3"})),
        bad("PUT", "~/domains/malls/topics/ab", ()),
        bad("PUT", "~/domains/malls/topics/a_b", ()),
        bad("PUT", "~/domains/malls/eventSubscriptions/new-one", json!({})),
        bad("PUT", "~/domains/malls/topics/north/eventSubscriptions/ab", hook()),
        bad("PUT", "~/domains/malls/topics/a_b/eventSubscriptions/new-one", hook()),
        bad("PUT", "~/domains/malls/topics/north/eventSubscriptions/new-one", json!({"properties": {}})),
        bad(
            "PUT",
            "~/domains/malls/topics/north/eventSubscriptions/new-one",
            webhook_with(&json!({"eventDeliverySchema": "CustomInputSchema"})),
        ),
        (
            "PATCH",
            "~/domains/malls/topics/north",
            json!({}).into(),
            405,
            "MethodNotAllowed",
            "method_not_allowed",
        ),
        missing("PATCH", DOMAIN, json!({"tags": {}}).into()),
        missing("PUT", "~/domains/none/topics/north", ().into()),
        missing("PUT", "~/domains/none/eventSubscriptions/new-one", hook().into()),
        missing("PUT", "~/domains/none/topics/north/eventSubscriptions/new-one", hook().into()),
        missing("PUT", "~/domains/hands/topics/north/eventSubscriptions/new-one", hook().into()),
        missing("PATCH", "~/domains/malls/topics/new-one/eventSubscriptions/new-one", json!({}).into()),
        missing("POST", "~/domains/none/listKeys", ().into()),
        missing("POST", "~/domains/malls/topics/north/listKeys", ().into()),
    ])
    .await;
}

/// A webhook subscription with more in its destination.
fn hook(properties: &Value) -> Value {
    let mut body = webhook("https://a.example/in");
    for (name, value) in properties.as_object().unwrap() {
        body["properties"]["destination"]["properties"][name] = value.clone();
    }
    body
}

#[tokio::test]
async fn bad_destinations_are_refused() {
    let other = |kind: &str| json!({"properties": {"destination": {"endpointType": kind, "properties": {"resourceId": "/x"}}}});
    let forbidden = |url: &str| -> Case {
        ("PUT", SUBSCRIPTION, webhook(url).into(), 400, "InvalidRequest", "endpoint_forbidden")
    };
    check(vec![
        bad("PUT", SUBSCRIPTION, json!({})),
        bad("PUT", SUBSCRIPTION, json!({"properties": {}})),
        bad("PUT", SUBSCRIPTION, json!({"properties": {"destination": null}})),
        bad("PUT", SUBSCRIPTION, json!({"properties": {"destination": "https://a.example"}})),
        bad("PUT", SUBSCRIPTION, json!({"properties": {"destination": {}}})),
        bad("PUT", SUBSCRIPTION, json!({"properties": {"destination": {"endpointType": "WebHook"}}})),
        bad(
            "PUT",
            SUBSCRIPTION,
            json!({"properties": {"destination": {"endpointType": "WebHook", "properties": {}}}}),
        ),
        bad("PUT", SUBSCRIPTION, other("EventHub")),
        bad("PUT", SUBSCRIPTION, other("storageQueue")),
        bad("PUT", SUBSCRIPTION, other("ServiceBusQueue")),
        bad("PUT", SUBSCRIPTION, other("Pigeon")),
        bad("PUT", SUBSCRIPTION, webhook("a.example/in")),
        bad("PUT", SUBSCRIPTION, webhook("https://")),
        bad("PUT", SUBSCRIPTION, webhook("https://a.example/a b")),
        bad("PUT", SUBSCRIPTION, webhook("https://a.exa\tmple/")),
        bad("PUT", SUBSCRIPTION, webhook(&format!("https://a.example/{}", "x".repeat(4096)))),
        forbidden("http://a.example/in"),
        forbidden("ftp://a.example/in"),
        forbidden("https://user:pass@a.example/in"),
        forbidden("https://user@a.example/in"),
        forbidden("https://a.example/in#part"),
        forbidden("https://a.example:22/in"),
        forbidden("https://a.example:6000/in"),
        bad("PUT", SUBSCRIPTION, hook(&json!({"maxEventsPerBatch": 0}))),
        bad("PUT", SUBSCRIPTION, hook(&json!({"maxEventsPerBatch": 5001}))),
        bad("PUT", SUBSCRIPTION, hook(&json!({"preferredBatchSizeInKilobytes": 1025}))),
        bad("PUT", SUBSCRIPTION, hook(&json!({"azureActiveDirectoryTenantId": "t"}))),
    ])
    .await;
}

#[tokio::test]
async fn bad_headers_and_dead_letter_destinations_are_refused() {
    let with = webhook_with;
    let attribute = |mapping: Value| hook(&json!({"deliveryAttributeMappings": [mapping]}));
    let named = |name: &str| attribute(json!({"name": name, "type": "Static", "properties": {"value": "v"}}));
    let dead = |account: &str, container: &str| {
        with(&json!({"deadLetterDestination": {"endpointType": "StorageBlob",
            "properties": {"resourceId": account, "blobContainerName": container}}}))
    };
    let attributes: Vec<_> = (0..11)
        .map(|n| json!({"name": format!("x-{n}"), "type": "Static", "properties": {"value": "v"}}))
        .collect();
    check(vec![
        bad("PUT", SUBSCRIPTION, hook(&json!({"deliveryAttributeMappings": attributes}))),
        bad("PUT", SUBSCRIPTION, named("aeg-thing")),
        bad("PUT", SUBSCRIPTION, named("Content-Type")),
        bad("PUT", SUBSCRIPTION, named("Host")),
        bad("PUT", SUBSCRIPTION, named("ce-id")),
        bad("PUT", SUBSCRIPTION, named("Webhook-Id")),
        bad("PUT", SUBSCRIPTION, named("proxy-authorization")),
        bad("PUT", SUBSCRIPTION, named("Transfer-Encoding")),
        bad("PUT", SUBSCRIPTION, named("a b")),
        bad("PUT", SUBSCRIPTION, named("")),
        bad(
            "PUT",
            SUBSCRIPTION,
            attribute(json!({"name": "x", "type": "Other", "properties": {"value": "v"}})),
        ),
        bad(
            "PUT",
            SUBSCRIPTION,
            attribute(json!({"name": "x", "type": "Static", "properties": {"value": "a\r\nb: c"}})),
        ),
        bad(
            "PUT",
            SUBSCRIPTION,
            attribute(json!({"name": "x", "type": "Static", "properties": {"value": "v".repeat(4097)}})),
        ),
        bad("PUT", SUBSCRIPTION, attribute(json!({"name": "x", "type": "Dynamic", "properties": {}}))),
        bad("PUT", SUBSCRIPTION, attribute(json!("x"))),
        bad("PUT", SUBSCRIPTION, dead("dead01", "letters")),
        bad(
            "PUT",
            SUBSCRIPTION,
            dead(
                "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/..",
                "letters",
            ),
        ),
        bad("PUT", SUBSCRIPTION, dead(STORAGE, "..")),
        bad("PUT", SUBSCRIPTION, dead(STORAGE, "Letters")),
        bad("PUT", SUBSCRIPTION, with(&json!({"deadLetterDestination": {"endpointType": "Other"}}))),
        bad(
            "PUT",
            SUBSCRIPTION,
            with(&json!({"deadLetterWithResourceIdentity": {"identity": {"type": "SystemAssigned"}}})),
        ),
    ])
    .await;
}

/// A webhook with one property more.
fn batching(name: &str, value: Value) -> Value {
    let mut properties = json!({"endpointUrl": "https://a.example/"});
    properties[name] = value;
    json!({"destination": {"endpointType": "WebHook", "properties": properties}})
}

#[tokio::test]
async fn bad_event_subscriptions_are_refused() {
    let with = webhook_with;
    let filter = |filter: Value, inner| -> Case {
        ("PUT", SUBSCRIPTION, webhook_with(&json!({"filter": filter})).into(), 400, "InvalidRequest", inner)
    };
    let many: Vec<_> = (0..26)
        .map(|n| json!({"operatorType": "StringIn", "key": "data.a", "values": [n.to_string()]}))
        .collect();
    check(vec![
        bad("PUT", "~/topics/orders/eventSubscriptions/ab", webhook("https://a.example/")),
        bad("PUT", "~/topics/orders/eventSubscriptions/a.b.c", webhook("https://a.example/")),
        bad(
            "PUT",
            SUBSCRIPTION,
            with(&json!({"deliveryWithResourceIdentity": {"identity": {"type": "SystemAssigned"}}})),
        ),
        bad("PUT", SUBSCRIPTION, with(&json!({"retryPolicy": {"maxDeliveryAttempts": 0}}))),
        bad("PUT", SUBSCRIPTION, with(&json!({"retryPolicy": {"maxDeliveryAttempts": 31}}))),
        bad("PUT", SUBSCRIPTION, with(&json!({"retryPolicy": {"maxDeliveryAttempts": 1.5}}))),
        bad("PUT", SUBSCRIPTION, with(&json!({"retryPolicy": {"maxDeliveryAttempts": "3"}}))),
        bad("PUT", SUBSCRIPTION, with(&json!({"retryPolicy": {"eventTimeToLiveInMinutes": 0}}))),
        bad("PUT", SUBSCRIPTION, with(&json!({"retryPolicy": {"eventTimeToLiveInMinutes": 1441}}))),
        bad("PUT", SUBSCRIPTION, with(&json!({"retryPolicy": []}))),
        bad("PUT", SUBSCRIPTION, with(&batching("maxEventsPerBatch", json!(0)))),
        bad("PUT", SUBSCRIPTION, with(&batching("maxEventsPerBatch", json!(5_001)))),
        bad("PUT", SUBSCRIPTION, with(&batching("maxEventsPerBatch", json!(1.5)))),
        bad("PUT", SUBSCRIPTION, with(&batching("maxEventsPerBatch", json!("2")))),
        bad("PUT", SUBSCRIPTION, with(&batching("preferredBatchSizeInKilobytes", json!(0)))),
        bad("PUT", SUBSCRIPTION, with(&batching("preferredBatchSizeInKilobytes", json!(1_025)))),
        bad("PUT", SUBSCRIPTION, with(&json!({"labels": "x"}))),
        bad("PUT", SUBSCRIPTION, with(&json!({"labels": [1]}))),
        bad("PUT", SUBSCRIPTION, with(&json!({"eventDeliverySchema": "CustomInputSchema"}))),
        bad("PUT", SUBSCRIPTION, with(&json!({"eventDeliverySchema": "Nonsense"}))),
        bad(
            "PUT",
            "~/topics/clouds/eventSubscriptions/new-one",
            with(&json!({"eventDeliverySchema": "EventGridSchema"})),
        ),
        bad(
            "PUT",
            "~/topics/clouds/eventSubscriptions/new-one",
            with(&json!({"eventDeliverySchema": "CustomInputSchema"})),
        ),
        bad("PUT", SUBSCRIPTION, with(&json!({"expirationTimeUtc": "2020-01-01T00:00:00Z"}))),
        bad("PUT", SUBSCRIPTION, with(&json!({"expirationTimeUtc": "2020-01-01"}))),
        bad("PUT", SUBSCRIPTION, with(&json!({"expirationTimeUtc": "tomorrow"}))),
        bad(
            "PATCH",
            "~/topics/orders/eventSubscriptions/audit",
            json!({"retryPolicy": {"maxDeliveryAttempts": 99}}),
        ),
        bad(
            "PATCH",
            "~/topics/orders/eventSubscriptions/audit",
            json!({"eventDeliverySchema": "CustomInputSchema"}),
        ),
        filter(
            json!({"advancedFilters": [{"operatorType": "Nonsense", "key": "data.a", "values": ["1"]}]}),
            "invalid_filter",
        ),
        filter(json!([]), "invalid_filter"),
        filter(json!({"includedEventTypes": "All"}), "invalid_filter"),
        filter(json!({"advancedFilters": many}), "filter_too_complex"),
        (
            "PUT",
            "~/topics/none/eventSubscriptions/new-one",
            webhook("https://a.example/").into(),
            404,
            "ResourceNotFound",
            "not_found",
        ),
        ("PATCH", SUBSCRIPTION, json!({"labels": []}).into(), 404, "ResourceNotFound", "not_found"),
        (
            "POST",
            "~/topics/orders/eventSubscriptions/none/getFullUrl",
            ().into(),
            404,
            "ResourceNotFound",
            "not_found",
        ),
    ])
    .await;
}

#[tokio::test]
async fn bad_namespaces_are_refused() {
    let namespace = |properties: Value| json!({"location": "local", "properties": properties});
    let topic = |properties: Value| json!({"properties": properties});
    let push = |push: Value| json!({"properties": {"deliveryConfiguration": {"deliveryMode": "Push", "push": push}}});
    let existing = "~/namespaces/ns1/topics/jobs/eventSubscriptions/work";
    let destination = webhook("http://a.example/in")["properties"]["destination"].clone();
    check(vec![
        bad("PUT", "~/namespaces/n", json!({"location": "local"})),
        bad("PUT", "~/namespaces/new", json!({})),
        bad("PUT", "~/namespaces/new", json!({"location": "local", "sku": {"name": "Free"}})),
        bad("PUT", "~/namespaces/new", json!({"location": "local", "sku": {"capacity": 0}})),
        bad("PUT", "~/namespaces/new", json!({"location": "local", "sku": {"capacity": 41}})),
        bad("PUT", "~/namespaces/new", namespace(json!({"topicSpacesConfiguration": {"state": "Enabled"}}))),
        bad("PUT", "~/namespaces/new", namespace(json!({"topicSpacesConfiguration": {"maximumSessionExpiryInHours": 9}}))),
        bad("PUT", "~/namespaces/new", namespace(json!({"minimumTlsVersionAllowed": "1.0"}))),
        bad("PUT", "~/namespaces/new", namespace(json!({"publicNetworkAccess": "Disabled"}))),
        bad("PUT", "~/namespaces/new", namespace(json!({"topicsConfiguration": {"customDomains": [{}]}}))),
        bad("PUT", "~/namespaces/ns1/topics/ab", json!({})),
        bad("PUT", "~/namespaces/ns1/topics/new", topic(json!({"eventRetentionInDays": 0}))),
        bad("PUT", "~/namespaces/ns1/topics/new", topic(json!({"eventRetentionInDays": 8}))),
        bad("PUT", "~/namespaces/ns1/topics/new", topic(json!({"eventRetentionInDays": 1.5}))),
        bad("PUT", "~/namespaces/ns1/topics/new", topic(json!({"inputSchema": "EventGridSchema"}))),
        bad("PUT", "~/namespaces/ns1/topics/new", topic(json!({"publisherType": "Partner"}))),
        bad("PATCH", "~/namespaces/ns1/topics/jobs", topic(json!({"eventRetentionInDays": -1}))),
        bad("PUT", PULL, queue(&json!({"receiveLockDurationInSeconds": 59}))),
        bad("PUT", PULL, queue(&json!({"receiveLockDurationInSeconds": 301}))),
        bad("PUT", PULL, queue(&json!({"maxDeliveryCount": 0}))),
        bad("PUT", PULL, queue(&json!({"maxDeliveryCount": 11}))),
        bad("PUT", PULL, queue(&json!({"eventTimeToLive": "PT59S"}))),
        bad("PUT", PULL, queue(&json!({"eventTimeToLive": "P2D"}))),
        bad("PUT", PULL, queue(&json!({"eventTimeToLive": "P1M"}))),
        bad("PUT", PULL, queue(&json!({"eventTimeToLive": 60}))),
        bad("PUT", PULL, json!({"properties": {"deliveryConfiguration": {"deliveryMode": "Carrier"}}})),
        bad("PUT", PULL, json!({"properties": {"deliveryConfiguration": {"deliveryMode": "Queue", "push": {}}}})),
        bad("PUT", PULL, json!({"properties": {"deliveryConfiguration": []}})),
        bad("PUT", PULL, json!({"properties": {"eventDeliverySchema": "EventGridSchema"}})),
        bad("PUT", PULL, json!({"properties": {"expirationTimeUtc": "2020-01-01T00:00:00Z"}})),
        bad("PUT", PULL, push(json!({}))),
        bad("PUT", PULL, push(json!({"destination": {"endpointType": "EventHub", "properties": {}}}))),
        bad("PUT", existing, push(json!({"destination": webhook("https://a.example/")["properties"]["destination"]}))),
        bad("PATCH", existing, json!({"properties": {"deliveryConfiguration": {"queue": {"maxDeliveryCount": 11}}}})),
        ("PUT", PULL, push(json!({"destination": destination})).into(), 400, "InvalidRequest", "endpoint_forbidden"),
        ("PUT", PULL, json!({"properties": {"filtersConfiguration": {"filters": [{"operatorType": "Nonsense", "key": "a"}]}}}).into(), 400, "InvalidRequest", "invalid_filter"),
        ("PUT", "~/namespaces/none/topics/jobs", json!({}).into(), 404, "ResourceNotFound", "not_found"),
        ("PUT", "~/namespaces/ns1/topics/none/eventSubscriptions/new-one", json!({}).into(), 404, "ResourceNotFound", "not_found"),
        ("PATCH", "~/namespaces/none", json!({"tags": {}}).into(), 404, "ResourceNotFound", "not_found"),
    ])
    .await;
}

#[tokio::test]
async fn bad_requests_are_refused_before_any_resource_is_touched() {
    let version =
        |path| -> Case { ("GET", path, ().into(), 400, "InvalidApiVersionParameter", "invalid_api_version") };
    let request = |path| -> Case { ("GET", path, ().into(), 400, "BadRequest", "invalid_request") };
    let missing = |method, path| -> Case { (method, path, ().into(), 404, "ResourceNotFound", "not_found") };
    let method =
        |method, path| -> Case { (method, path, ().into(), 405, "MethodNotAllowed", "method_not_allowed") };
    let body = |text: &str, inner| -> Case { ("PUT", NEW, text.into(), 400, "BadRequest", inner) };
    check(vec![
        version("~/topics/orders?"),
        version("~/topics/orders?api-version="),
        version("~/topics/orders?api-version=2018-01-01"),
        version("~/topics/orders?api-version=2025-02-30"),
        version("~/topics/orders?api-version=2025-02-15-beta"),
        request("/subscriptions/nonsense/resourceGroups/rg/providers/Microsoft.EventGrid/topics"),
        request("/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/r%20g/providers/Microsoft.EventGrid/topics"),
        request("/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg./providers/Microsoft.EventGrid/topics"),
        request("~/topics/a%2Fb"),
        request("~/topics/%2e%2e"),
        request("~/topics/a%00b"),
        request("~/topics?$top=0"),
        request("~/topics?$top=101"),
        request("~/topics?$top=many"),
        request("~/topics?$filter=location%20eq%20%27local%27"),
        request("~/topics?$filter=name%20eq"),
        request("~/topics?$skiptoken=%21%21"),
        request("~/topics?$skiptoken=L290aGVy"),
        missing("GET", "/subscriptions"),
        missing("GET", "/subscriptions/11111111-2222-3333-4444-555555555555"),
        missing("GET", "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg"),
        missing("GET", "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg/providers/Microsoft.Other/topics"),
        missing("GET", "~"),
        missing("GET", "~/systemTopics"),
        missing("PUT", "~/eventSubscriptions/new-one"),
        missing("PUT", "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg/providers/Microsoft.Storage/storageAccounts/s/providers/Microsoft.EventGrid/eventSubscriptions/e"),
        missing("GET", "~/topics/none"),
        missing("GET", "~/topics/orders/eventSubscriptions/none"),
        missing("GET", "~/namespaces/ns1/topics/none"),
        missing("POST", "~/topics/orders/explode"),
        missing("POST", "~/namespaces/ns1/topics/jobs/eventSubscriptions/work/listKeys"),
        method("POST", "~/topics/orders"),
        method("HEAD", "~/topics/orders"),
        method("PUT", "~/topics"),
        method("DELETE", "~/topics/orders/eventSubscriptions"),
        method("GET", "~/topics/orders/listKeys"),
        method("PUT", "/providers/Microsoft.EventGrid/operations"),
        body("", "invalid_json"),
        body("{", "invalid_json"),
        body("[]", "invalid_json"),
        body("\"text\"", "invalid_json"),
        body("{\"location\": \"local\"} x", "invalid_json"),
        body("{\"location\": NaN}", "invalid_json"),
        body(&format!("{{\"a\": {}{}}}", "[".repeat(80), "]".repeat(80)), "too_complex"),
        ("PUT", NEW, Sent::Json(" ".repeat((1 << 20) + 1)), 413, "RequestEntityTooLarge", "too_large"),
    ])
    .await;
}

#[tokio::test]
async fn a_body_that_is_not_json_by_its_headers_is_refused() {
    let grid = stocked().await;
    for (name, value, inner) in [
        ("content-type", "application/xml", "unsupported_media_type"),
        ("content-type", "application/x-www-form-urlencoded", "unsupported_media_type"),
        ("content-encoding", "gzip", "unsupported_encoding"),
    ] {
        let mut request = request("PUT", NEW, json!({"location": "local"}).into());
        request.headers_mut().insert(name, value.parse().unwrap());
        let answer = grid.send(request).await.expect(415);
        assert_eq!(answer.inner(), inner);
    }
    let mut request = request("PUT", NEW, json!({"location": "local"}).into());
    request.headers_mut().insert("content-type", "Application/JSON; charset=utf-8".parse().unwrap());
    grid.send(request).await.expect(201);
}

#[tokio::test]
async fn without_the_token_nothing_is_told() {
    let grid = stocked().await;
    for authorization in
        ["", "Bearer", "Bearer ", "Bearer wrong", "Basic management-secret", "management-secret"]
    {
        // The path does not exist, the version is missing and the body is bad: the token is judged before all that.
        for path in ["~/topics/orders", "~/nonsense/x?"] {
            let mut request = request("PUT", path, "{".into());
            if authorization.is_empty() {
                request.headers_mut().remove("authorization");
            } else {
                request.headers_mut().insert("authorization", authorization.parse().unwrap());
            }
            let answer = grid.send(request).await.expect(401);
            assert_eq!((answer.code(), answer.inner()), ("Unauthorized", "unauthorized"));
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    let mut request = request("GET", "~/topics", Sent::Nothing);
    request.headers_mut().insert("authorization", format!("bearer {TOKEN}").parse().unwrap());
    grid.send(request).await.expect(200);
}

#[tokio::test]
async fn after_too_many_wrong_tokens_an_address_waits_and_no_other() {
    let mut grid = Grid::with(ControlOptions { auth_failures_max: 2, ..options() }).await;
    let ask = |token: &str| {
        let mut request = request("GET", "~/topics", Sent::Nothing);
        request.headers_mut().remove("authorization");
        if !token.is_empty() {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    };
    for _ in 0..3 {
        // No token is no guess.
        grid.send(ask("")).await.expect(401);
    }
    for _ in 0..2 {
        grid.send(ask("wrong")).await.expect(401);
    }
    let answer = grid.send(ask(TOKEN)).await.expect(429);
    assert_eq!((answer.inner(), answer.header("retry-after")), ("quota_exceeded", "60"));
    grid.client = ([127, 0, 0, 2], 5000).into();
    grid.send(ask(TOKEN)).await.expect(200);
    grid.client = ([127, 0, 0, 1], 5001).into();
    grid.send(ask(TOKEN)).await.expect(429);
    grid.clock.advance(Duration::from_secs(60));
    grid.send(ask(TOKEN)).await.expect(200);
}

#[tokio::test]
async fn refusals_use_the_services_words_and_name_what_is_wrong() {
    let grid = stocked().await;
    for (method, path, body, message) in [
        (
            "PUT",
            "~/topics/ab",
            json!({"location": "l"}),
            "Topic name must be between 3 and 50 characters in length.",
        ),
        (
            "PUT",
            SUBSCRIPTION,
            json!({"properties": {"destination": {"endpointType": "eventhub"}}}),
            "The destination type `EventHub` is not supported; the supported types are `WebHook` and `NamespaceTopic`.",
        ),
        (
            "PUT",
            SUBSCRIPTION,
            webhook_with(&json!({"retryPolicy": {"maxDeliveryAttempts": 31}})),
            "The property `properties.retryPolicy.maxDeliveryAttempts` must be a whole number between 1 and 30.",
        ),
        (
            "PATCH",
            "~/topics/orders/eventSubscriptions/audit",
            json!({"retryPolicy": {"maxDeliveryAttempts": 31}}),
            "The property `retryPolicy.maxDeliveryAttempts` must be a whole number between 1 and 30.",
        ),
        (
            "PUT",
            "~/topics/clouds/eventSubscriptions/new-one",
            webhook_with(&json!({"eventDeliverySchema": "EventGridSchema"})),
            "The event delivery schema `EventGridSchema` is not supported for a topic whose input schema is `CloudEventSchemaV1_0`.",
        ),
        (
            "PUT",
            SUBSCRIPTION,
            webhook_with(&json!({"expirationTimeUtc": "2020-01-01T00:00:00Z"})),
            "Invalid expiration time. The expiration time must be in the future.",
        ),
        (
            "PUT",
            "~/topics/None/eventSubscriptions/new-one",
            webhook("https://a.example/"),
            "The parent resource is missing. The topic `None` was not found in resource group `rg`.",
        ),
    ] {
        let answer = grid.call(method, path, body).await;
        assert_eq!(answer.message(), message, "{path}");
    }
    let answer = grid.call("POST", "~/topics/orders", ()).await.expect(405);
    assert_eq!(answer.header("allow"), "GET, PUT, PATCH, DELETE");
    let answer = grid.get("~/topics?").await.expect(400);
    assert_eq!(answer.body["error"]["details"][0]["code"], "MissingApiVersionParameter");
}
