//! Only what a filter lets through is delivered.

use serde_json::{Value, json};

use crate::SOON;
use crate::support::pull::Queue;
use crate::support::{Arm, Client, Server, Sink, events};

#[test]
fn filters_deliver_only_what_matches_and_a_new_one_holds_for_the_next_publish() {
    let server = Server::start();
    let sink = Sink::start();
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({}));
    let filters = [
        ("by-type", json!({ "includedEventTypes": ["shop.paid"] })),
        ("by-subject", json!({ "subjectBeginsWith": "/EU/", "subjectEndsWith": ".jpg" })),
        ("by-case", json!({ "subjectBeginsWith": "/EU/", "isSubjectCaseSensitive": true })),
        (
            "by-data",
            json!({ "advancedFilters": [
            { "operatorType": "NumberGreaterThan", "key": "data.amount", "value": 10 },
            { "operatorType": "StringIn", "key": "data.city", "values": ["ULM", "bonn"] },
        ] }),
        ),
        (
            "by-absence",
            json!({ "advancedFilters": [{ "operatorType": "IsNullOrUndefined", "key": "data.city" }] }),
        ),
        (
            "by-array",
            json!({ "enableAdvancedFilteringOnArrays": true, "advancedFilters": [
            { "operatorType": "StringContains", "key": "data.tags", "values": ["fra"] },
        ] }),
        ),
        ("everything", json!({})),
    ];
    for (name, filter) in &filters {
        arm.webhook(&topic, name, &sink.url(&format!("/{name}")), &json!({ "filter": filter }));
    }
    let event = |id: &str, subject: &str, kind: &str, data: Value| {
        json!({ "id": id, "subject": subject, "eventType": kind, "eventTime": "2026-03-01T12:00:00Z",
                "dataVersion": "1", "data": data })
    };
    let batch = json!([
        event("paid", "/us/1", "Shop.Paid", json!({ "amount": 5, "city": "Ulm" })),
        event("photo", "/eu/1.JPG", "Shop.Sent", json!({ "amount": 10.01, "city": "Bonn" })),
        event(
            "large",
            "/EU/2",
            "Shop.Sent",
            json!({ "amount": 50, "city": "ulm", "tags": ["x", "Fragile"] })
        ),
        event("bare", "/us/2", "Shop.Sent", json!({})),
    ]);
    server.send(&topic.publish(events::JSON, &batch)).expect(200);
    let expected: [(&str, &[&str]); 7] = [
        ("by-type", &["paid"]),
        ("by-subject", &["photo"]),
        ("by-case", &["large"]),
        ("by-data", &["large", "photo"]),
        ("by-absence", &["bare"]),
        ("by-array", &["large"]),
        ("everything", &["bare", "large", "paid", "photo"]),
    ];
    let ids_at = |name: &str| {
        let mut ids: Vec<String> =
            sink.at(&format!("/{name}")).iter().flat_map(|delivery| delivery.ids("id")).collect();
        ids.sort();
        ids
    };
    for (name, ids) in expected {
        sink.wait_at(&format!("/{name}"), ids.len(), SOON);
    }

    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    let filter = json!({ "includedEventTypes": ["A"], "filters": [
        { "operatorType": "StringNotIn", "key": "subject", "values": ["no"] },
        { "operatorType": "NumberInRange", "key": "data.n", "values": [[1, 2]] },
    ] });
    arm.queue(&namespace, "orders", "some", &json!({}), &filter);
    let cloud = |id: &str, kind: &str, subject: &str, n: f64| json!({ "specversion": "1.0", "id": id, "source": "/s", "type": kind, "subject": subject, "data": { "n": n } });
    let some = Queue::new(&namespace, "orders", "some");
    let mut client = Client::new(server.http);
    let batch = [cloud("1", "A", "yes", 2.0), cloud("2", "B", "yes", 2.0), cloud("3", "A", "no", 2.0)];
    server.send(&namespace.publish("orders", &json!(batch))).expect(200);
    server.send(&namespace.publish("orders", &json!([cloud("4", "A", "yes", 2.5)]))).expect(200);
    let received = some.receive(&mut client, 100).expect("an answer");
    assert_eq!(received.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["1"]);

    // The answer to the change means: from the next publish on.
    let resource = "namespaces/spaces/topics/orders/eventSubscriptions/some";
    let change = json!({ "properties": { "filtersConfiguration": { "includedEventTypes": ["B"] } } });
    arm.call("PATCH", resource, Some(&change)).expect(200);
    let batch = [cloud("5", "A", "yes", 2.0), cloud("6", "B", "yes", 9.0)];
    server.send(&namespace.publish("orders", &json!(batch))).expect(200);
    let received = some.receive(&mut client, 100).expect("an answer");
    assert_eq!(received.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["6"]);

    let change = json!({ "filter": { "includedEventTypes": ["Shop.New"] } });
    arm.call("PATCH", "topics/grid/eventSubscriptions/by-type", Some(&change)).expect(201);
    let batch = json!([
        event("old-type", "s", "Shop.Paid", json!({ "city": 1 })),
        event("new-type", "s", "Shop.New", json!({ "city": 1 })),
    ]);
    server.send(&topic.publish(events::JSON, &batch)).expect(200);
    sink.wait_at("/by-type", 2, SOON);
    sink.wait_at("/everything", 6, SOON);
    for (name, ids) in expected.iter().take(6).skip(1) {
        assert_eq!(ids_at(name), *ids, "{name}");
    }
    assert_eq!(ids_at("by-type"), ["new-type", "paid"]);
}
