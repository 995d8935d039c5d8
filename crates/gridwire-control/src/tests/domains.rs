//! Domains, their topics, and subscriptions to either.

use gridwire_core::event::{Data, Event, InputSchema};
use gridwire_core::filter::MatchSet;
use gridwire_core::ids::Slot;
use gridwire_core::routing::{HandshakeError, Place, RoutingTable, TopicKind, TopicRoute};

use super::*;

const DOMAIN: &str = "~/domains/malls";
const HOOK: &str = "https://a.example/in";

fn domain(properties: &Value) -> Value {
    json!({"location": "local", "properties": properties})
}

async fn with_domain(properties: &Value) -> Grid {
    let grid = Grid::new().await;
    grid.call("PUT", DOMAIN, domain(properties)).await.expect(201);
    grid
}

fn route(grid: &Grid) -> Arc<TopicRoute> {
    Arc::clone(&grid.port.latest().domains[&Place::new(SUB, "rg", "malls")])
}

fn id(tail: &str) -> String {
    full_path(&format!("~/{tail}?")).trim_end_matches('?').to_owned()
}

/// Who gets an event for a domain topic, by slot.
fn takers(route: &TopicRoute, topic: &str, event_type: &str) -> Vec<Slot> {
    let event = Event {
        schema: InputSchema::EventGrid,
        id: "1".into(),
        event_type: event_type.into(),
        source: topic.into(),
        subject: None,
        time: None,
        data_content_type: None,
        data_schema: None,
        extensions: Vec::new(),
        data: Data::Absent,
    };
    let (mut matched, mut scratch) = (MatchSet::default(), MatchSet::default());
    route.matches(&event, &mut matched, &mut scratch);
    matched.iter().collect()
}

#[tokio::test]
async fn a_domain_is_made_shown_changed_and_deleted() {
    let grid = Grid::new().await;
    let made = grid.call("PUT", "~/domains/Malls", domain(&json!({}))).await.expect(201);
    assert_eq!(made.body["type"], "Microsoft.EventGrid/domains");
    assert_eq!(made.body["id"], id("domains/Malls"));
    let properties = &made.body["properties"];
    assert_eq!(properties["endpoint"], format!("http://127.0.0.1:8080/{SUB}/rg/domains/Malls/api/events"));
    assert_eq!(properties["inputSchema"], "EventGridSchema");
    assert_eq!(properties["autoCreateTopicWithFirstSubscription"], true);
    assert_eq!(properties["autoDeleteTopicWithLastSubscription"], true);
    assert_eq!(properties["provisioningState"], "Succeeded");
    let change = json!({"tags": {"a": "b"}, "properties": {"autoDeleteTopicWithLastSubscription": false}});
    let changed = grid.call("PATCH", DOMAIN, change).await.expect(200);
    assert_eq!(changed.body["properties"]["autoDeleteTopicWithLastSubscription"], false);
    assert_eq!(changed.body["properties"]["autoCreateTopicWithFirstSubscription"], true);
    let route = route(&grid);
    assert_eq!((route.kind, route.name.as_str()), (TopicKind::Domain, "Malls"));
    let keys = grid.call("POST", "~/domains/malls/listKeys", ()).await.expect(200).body;
    assert!(route.credentials.accept_key(keys["key1"].as_str().unwrap()));
    let new =
        grid.call("POST", "~/domains/malls/regenerateKey", json!({"keyName": "key1"})).await.expect(200);
    assert_ne!(new.body["key1"], keys["key1"]);
    assert_eq!(new.body["key2"], keys["key2"]);
    grid.call("DELETE", DOMAIN, ()).await.expect(204);
    grid.call("DELETE", DOMAIN, ()).await.expect(204);
    let table = grid.port.latest();
    assert!(table.domains.is_empty() && table.by_number.is_empty());
}

#[tokio::test]
async fn a_domain_topic_has_nothing_but_a_name() {
    let grid = with_domain(&json!({})).await;
    let installs = grid.port.installs();
    let made = grid.call("PUT", "~/domains/malls/topics/North", ()).await.expect(201);
    assert_eq!(made.body["type"], "Microsoft.EventGrid/domains/topics");
    assert_eq!(made.body["id"], id("domains/malls/topics/North"));
    assert_eq!(made.body["properties"], json!({"provisioningState": "Succeeded"}));
    grid.call("PUT", "~/domains/malls/topics/south", json!({})).await.expect(201);
    grid.call("PUT", "~/domains/malls/topics/south", ()).await.expect(201);
    let patched = grid.call("PATCH", "~/domains/malls/topics/south", json!({})).await.expect(405);
    assert_eq!(patched.header("allow"), "GET, PUT, DELETE");
    let list = grid.get("~/domains/malls/topics").await.expect(200).body;
    let names: Vec<_> = list["value"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["North", "south"]);
    assert_eq!(grid.port.installs(), installs, "events meet a domain topic by its subscriptions only");
    grid.call("DELETE", "~/domains/malls/topics/north", ()).await.expect(204);
    grid.get("~/domains/malls/topics/north").await.expect(404);
}

#[tokio::test]
async fn the_first_subscription_makes_a_topic_and_the_last_takes_it_away() {
    let grid = with_domain(&json!({})).await;
    let path = "~/domains/malls/topics/North/eventSubscriptions/billing";
    let made = grid.call("PUT", path, webhook(HOOK)).await.expect(201);
    assert_eq!(made.body["properties"]["topic"], id("domains/malls/topics/North"));
    assert_eq!(made.body["type"], "Microsoft.EventGrid/domains/topics/eventSubscriptions");
    assert_eq!(grid.port.handshakes()[0].topic_resource_id, id("domains/malls/topics/North"));
    assert_eq!(grid.get("~/domains/malls/topics/north").await.expect(200).body["name"], "North");
    let second = "~/domains/malls/topics/north/providers/Microsoft.EventGrid/eventSubscriptions/audit";
    let scope = grid.call("PUT", second, webhook(HOOK)).await.expect(201);
    assert_eq!(scope.body["type"], "Microsoft.EventGrid/eventSubscriptions");
    assert_eq!(
        scope.body["id"],
        id("domains/malls/topics/North/providers/Microsoft.EventGrid/eventSubscriptions/audit")
    );
    let grid = grid.restarted().await;
    grid.call("DELETE", path, ()).await.expect(204);
    grid.get("~/domains/malls/topics/north").await.expect(200);
    grid.call("DELETE", second, ()).await.expect(204);
    grid.get("~/domains/malls/topics/north").await.expect(404);
    assert_eq!(route(&grid).all_subscriptions().count(), 0);
    assert!(grid.restarted().await.get("~/domains/malls/topics/north").await.status == 404);
}

#[tokio::test]
async fn a_domain_may_want_its_topics_made_and_kept_by_hand() {
    let kept =
        json!({"autoCreateTopicWithFirstSubscription": false, "autoDeleteTopicWithLastSubscription": false});
    let grid = with_domain(&kept).await;
    let path = "~/domains/malls/topics/north/eventSubscriptions/billing";
    let refused = grid.call("PUT", path, webhook(HOOK)).await.expect(404);
    assert_eq!(refused.body["error"]["details"][0]["code"], "ParentResourceNotFound");
    assert!(grid.port.handshakes().is_empty(), "no endpoint is asked in vain");
    grid.call("PUT", "~/domains/malls/topics/north", ()).await.expect(201);
    grid.call("PUT", path, webhook(HOOK)).await.expect(201);
    grid.call("DELETE", path, ()).await.expect(204);
    grid.get("~/domains/malls/topics/north").await.expect(200);
}

#[tokio::test]
async fn a_refused_consent_makes_no_topic() {
    let grid = with_domain(&json!({})).await;
    let refusal = HandshakeError::Refused { endpoint: HOOK.into(), reason: "it answered 500".into() };
    grid.port.refuse(Some(refusal));
    let path = "~/domains/malls/topics/north/eventSubscriptions/billing";
    grid.call("PUT", path, webhook(HOOK)).await.expect(400);
    grid.get("~/domains/malls/topics/north").await.expect(404);
}

#[tokio::test]
async fn subscriptions_to_all_and_to_one_topic_are_routed_and_listed() {
    let grid = with_domain(&json!({})).await;
    let put = async |path: &str| grid.call("PUT", path, webhook(HOOK)).await.expect(201);
    put("~/domains/malls/eventSubscriptions/all").await;
    put("~/domains/malls/topics/North/eventSubscriptions/one").await;
    put("~/domains/malls/topics/south/eventSubscriptions/one").await;
    grid.put_topic("orders").await;
    grid.put_subscription("orders", "two").await;
    let only_paid = webhook_with(&json!({"filter": {"includedEventTypes": ["paid"]}}));
    grid.call("PUT", "~/domains/malls/topics/north/eventSubscriptions/paid", only_paid).await.expect(201);

    let route = route(&grid);
    let north = Arc::clone(route.domain_topics.get("NORTH").unwrap());
    let (all, one) = (&route.subscriptions["all"], &north.subscriptions["one"]);
    let paid = &north.subscriptions["paid"];
    assert_eq!(
        (one.topic, one.topic_kind, one.topic_name.as_str()),
        (route.number, TopicKind::Domain, "North")
    );
    assert_eq!(one.topic_resource_id, id("domains/malls/topics/North"));
    assert_eq!(takers(&route, "north", "made"), [all.slot, one.slot]);
    assert_eq!(takers(&route, &id("domains/MALLS/topics/NORTH"), "paid"), [all.slot, one.slot, paid.slot]);
    assert_eq!(takers(&route, "south", "paid").len(), 2);
    assert_eq!(takers(&route, "nowhere", "paid"), [all.slot]);

    let names = async |path: &str| {
        let list = grid.get(path).await.expect(200).body;
        let names =
            list["value"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names("~/domains/malls/eventSubscriptions").await, ["all"]);
    assert_eq!(names("~/domains/malls/topics/north/eventSubscriptions").await, ["one", "paid"]);
    assert_eq!(names("~/domains/malls/topics").await, ["North", "south"]);
    assert_eq!(names("~sub/eventSubscriptions").await, ["all", "one", "paid", "one", "two"]);
    assert_eq!(names("~/topicTypes/Microsoft.EventGrid.Domains/eventSubscriptions").await.len(), 4);
    assert_eq!(names("~/topicTypes/Microsoft.EventGrid.Topics/eventSubscriptions").await, ["two"]);
    assert_eq!(names("~/locations/local/eventSubscriptions").await.len(), 5);
    assert_eq!(names("~sub/domains").await, ["malls"]);

    let path = "~/domains/malls/topics/north/eventSubscriptions/one";
    let url = grid.call("POST", &format!("{path}/getFullUrl"), ()).await.expect(200);
    assert_eq!(url.body["endpointUrl"], HOOK);
    grid.call("POST", &format!("{path}/getDeliveryAttributes"), ()).await.expect(200);
    let patched = grid.call("PATCH", path, json!({"labels": ["x"]})).await.expect(201);
    assert_eq!(patched.body["properties"]["labels"], json!(["x"]));

    grid.call("DELETE", "~/domains/malls/topics/north", ()).await.expect(204);
    assert_eq!(takers(&self::route(&grid), "north", "paid"), [all.slot]);
    assert_eq!(grid.port.latest().subscriptions().len(), 3);
}

#[tokio::test]
async fn a_topic_and_a_domain_may_share_a_name() {
    let grid = with_domain(&json!({})).await;
    grid.put_topic("malls").await;
    let table = grid.port.latest();
    assert_eq!(table.by_number.len(), 2);
    assert_eq!(table.topics_named("MALLS").count(), 2);
    grid.call("DELETE", "~/topics/malls", ()).await.expect(204);
    assert_eq!(grid.port.latest().topics_named("malls").next().unwrap().kind, TopicKind::Domain);
}

/// What a table says, in an order of its own.
fn told(table: &RoutingTable) -> Vec<String> {
    let mut told: Vec<String> = table.subscriptions().iter().map(|route| format!("{route:?}")).collect();
    for (place, topic) in table.topics.iter().chain(&table.domains) {
        assert!(Arc::ptr_eq(topic, &table.by_number[&topic.number]), "{place:?}");
        told.push(format!("{place:?} {} {:?}", topic.number, topic.matcher));
        let below = topic.domain_topics.iter();
        told.extend(below.map(|one| format!("{place:?} {} {:?}", one.name, one.matcher)));
    }
    for (place, namespace) in &table.namespaces {
        for (name, topic) in &namespace.topics {
            assert!(Arc::ptr_eq(topic, &table.by_number[&topic.number]), "{place:?}");
            told.push(format!("{place:?} {name} {}", topic.number));
        }
    }
    told.push(format!("{} topics", table.by_number.len()));
    told.sort();
    told
}

#[tokio::test]
async fn a_table_made_by_changes_is_the_one_made_from_all() {
    let grid = with_domain(&json!({})).await;
    let steps: &[(&str, &str)] = &[
        ("PUT", "~/domains/malls/topics/north/eventSubscriptions/one"),
        ("PUT", "~/domains/malls/topics/north/eventSubscriptions/two"),
        ("PUT", "~/domains/malls/topics/south/eventSubscriptions/one"),
        ("PUT", "~/domains/malls/eventSubscriptions/all"),
        ("TOPIC", "orders"),
        ("PUT", "~/topics/orders/eventSubscriptions/audit"),
        ("NAMESPACE", ""),
        ("DELETE", "~/domains/malls/topics/north/eventSubscriptions/one"),
        ("DELETE", "~/domains/malls/topics/south"),
        ("KEY", "~/domains/malls"),
        ("PUT", "~/domains/malls/topics/South/eventSubscriptions/one"),
        ("DELETE", "~/domains/malls/eventSubscriptions/all"),
        ("DELETE", "~/namespaces/ns1/topics/jobs"),
        ("DELETE", "~/topics/orders"),
        ("DELETE", "~/namespaces/ns1"),
        ("DELETE", "~/domains/malls"),
        ("TOPIC", "again"),
    ];
    for (what, path) in steps {
        match *what {
            "TOPIC" => drop(grid.put_topic(path).await),
            "NAMESPACE" => grid.put_namespace().await,
            "KEY" => {
                let body = json!({"keyName": "key2"});
                grid.call("POST", &format!("{path}/regenerateKey"), body).await.expect(200);
            }
            "PUT" => drop(grid.call("PUT", path, webhook(HOOK)).await.expect(201)),
            method => drop(grid.call(method, path, ()).await.expect(204)),
        }
        let anew = grid.restarted().await;
        assert_eq!(told(&grid.port.latest()), told(&anew.port.latest()), "after {what} {path}");
    }
}

#[tokio::test]
async fn a_change_in_one_domain_topic_shares_all_others() {
    let grid = with_domain(&json!({})).await;
    for topic in ["north", "south"] {
        let path = format!("~/domains/malls/topics/{topic}/eventSubscriptions/one");
        grid.call("PUT", &path, webhook(HOOK)).await.expect(201);
    }
    let before = grid.port.latest();
    grid.call("PUT", "~/domains/malls/topics/north/eventSubscriptions/two", webhook(HOOK)).await.expect(201);
    let after = grid.port.latest();
    let of = |table: &RoutingTable, topic| {
        let domain = &table.domains[&Place::new(SUB, "rg", "malls")];
        Arc::clone(domain.domain_topics.get(topic).unwrap())
    };
    assert!(Arc::ptr_eq(&of(&before, "south"), &of(&after, "south")));
    let change = after.since(&before);
    let put: Vec<_> = change.put.iter().map(|(was, is)| (was.is_some(), is.name.as_str())).collect();
    // The other subscription to this topic is a new value that says the same.
    assert_eq!(put, [(true, "one"), (false, "two")]);
    assert!(change.gone.is_empty());
    let back = before.since(&after);
    assert_eq!(back.gone.iter().map(|route| route.name.as_str()).collect::<Vec<_>>(), ["two"]);
}

#[tokio::test]
async fn limits_count_siblings_and_not_what_is_below_them() {
    let grid = with_domain(&json!({})).await;
    for number in 0..50 {
        let all = format!("~/domains/malls/eventSubscriptions/all-{number}");
        grid.call("PUT", &all, webhook(HOOK)).await.expect(201);
    }
    let refused =
        grid.call("PUT", "~/domains/malls/eventSubscriptions/more", webhook(HOOK)).await.expect(409);
    assert_eq!(
        refused.message(),
        "Quota limit reached: the domain `malls` has 50 event subscriptions, the most it can have."
    );
    grid.call("PUT", "~/domains/malls/topics/north/eventSubscriptions/more", webhook(HOOK)).await.expect(201);
    grid.call("DELETE", "~/domains/malls/eventSubscriptions/all-7", ()).await.expect(204);
    grid.call("PUT", "~/domains/malls/eventSubscriptions/more", webhook(HOOK)).await.expect(201);
}
