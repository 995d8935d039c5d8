//! Lists, their pages and filters, and what the provider says about itself.

use super::*;

fn names(answer: &Answer) -> Vec<&str> {
    answer.body["value"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
}

/// The path and query of a link, which must be absolute.
fn follow<'a>(answer: &'a Answer, origin: &str) -> &'a str {
    let link = answer.body["nextLink"].as_str().expect("there is a next page");
    link.strip_prefix(origin).unwrap_or_else(|| panic!("{link} does not begin with {origin}"))
}

#[tokio::test]
async fn topics_are_listed_by_group_and_by_subscription() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    grid.put_subscription("orders", "audit").await;
    grid.put_namespace().await;
    let other = "~/topics/bills"
        .replace('~', &full_path("~").replace("/rg/", "/other/").replace("?api-version=2025-02-15", ""));
    grid.call("PUT", &other, json!({"location": "local"})).await.expect(201);
    assert_eq!(names(&grid.get("~/topics").await.expect(200)), ["orders"]);
    assert_eq!(names(&grid.get("~sub/topics").await.expect(200)), ["bills", "orders"]);
    assert_eq!(names(&grid.get("~sub/namespaces").await.expect(200)), ["ns1"]);
    assert_eq!(names(&grid.get("~/namespaces/ns1/topics").await.expect(200)), ["jobs"]);
    assert_eq!(
        grid.get("~/namespaces/ns1/topics/jobs/eventSubscriptions").await.expect(200).body,
        json!({"value": []})
    );
    grid.get("~/namespaces/none/topics").await.expect(404);
}

#[tokio::test]
async fn event_subscriptions_are_listed_in_every_form() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    grid.put_topic("orders-2").await;
    grid.put_subscription("orders", "one").await;
    grid.put_subscription("orders-2", "two").await;
    let nested = grid.get("~/topics/orders/eventSubscriptions").await.expect(200);
    assert_eq!(nested.body["value"][0]["type"], "Microsoft.EventGrid/topics/eventSubscriptions");
    let scope =
        grid.get("~/topics/orders/providers/Microsoft.EventGrid/eventSubscriptions").await.expect(200);
    assert_eq!(scope.body["value"][0]["type"], "Microsoft.EventGrid/eventSubscriptions");
    assert_eq!((names(&nested), names(&scope)), (vec!["one"], vec!["one"]));
    for (path, expected) in [
        ("~/eventSubscriptions", vec!["two", "one"]),
        ("~sub/eventSubscriptions", vec!["two", "one"]),
        ("~sub/locations/LOCAL/eventSubscriptions", vec!["two", "one"]),
        ("~sub/locations/elsewhere/eventSubscriptions", vec![]),
        ("~/topicTypes/Microsoft.EventGrid.Topics/eventSubscriptions", vec!["two", "one"]),
        ("~/locations/local/topicTypes/Microsoft.Storage/eventSubscriptions", vec![]),
    ] {
        assert_eq!(names(&grid.get(path).await.expect(200)), expected, "{path}");
    }
    grid.get("~/topics/none/eventSubscriptions").await.expect(404);
    assert_eq!(
        grid.get("~/topics/orders/providers/Microsoft.EventGrid/eventTypes").await.expect(200).body,
        json!({"value": []})
    );
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let grid = Grid::new().await;
    for index in 0..25 {
        grid.put_topic(&format!("topic-{index:02}")).await;
    }
    let first = grid.get("~/topics").await.expect(200);
    assert_eq!(names(&first).len(), 20);
    let next = follow(&first, "http://127.0.0.1:8080").to_owned();
    // A resource that goes in between neither hides nor repeats another.
    grid.call("DELETE", "~/topics/topic-19", ()).await.expect(204);
    let second = grid.get(&next).await.expect(200);
    assert_eq!(names(&second), ["topic-20", "topic-21", "topic-22", "topic-23", "topic-24"]);
    assert_eq!(second.body["nextLink"], Value::Null);

    let mut path = "~/topics?$top=2&$filter=contains(name,'-2')".replace("'-2'", "%27-2%27");
    let mut found = Vec::new();
    let mut pages = 0;
    loop {
        let page = grid.get(&path).await.expect(200);
        found.extend(names(&page).into_iter().map(str::to_owned));
        pages += 1;
        if page.body["nextLink"].is_null() {
            break;
        }
        // Clients add their own version to a link that has one.
        path = format!("{}&api-version=2022-06-15", follow(&page, "http://127.0.0.1:8080"));
    }
    assert_eq!(found, ["topic-20", "topic-21", "topic-22", "topic-23", "topic-24"]);
    assert_eq!(pages, 3);
    assert_eq!(names(&grid.get("~/topics?%24top=100").await.expect(200)).len(), 24);
}

#[tokio::test]
async fn a_link_leads_back_by_the_listener_the_request_came_by() {
    let grid = Grid::new().await;
    grid.put_topic("one").await.expect(201);
    grid.put_topic("two").await.expect(201);
    let mut request = request("GET", "~/topics?$top=1", Sent::Nothing);
    request.headers_mut().insert("host", "grid.example:8443".parse().unwrap());
    let page = grid.send_by(request, true).await.expect(200);
    let next = follow(&page, "https://grid.example:8443");
    assert_eq!(names(&grid.get(next).await.expect(200)), ["two"]);
    // A host that is none is not believed.
    let mut request = super::request("GET", "~/topics?$top=1", Sent::Nothing);
    request.headers_mut().insert("host", "user@evil.example".parse().unwrap());
    follow(&grid.send(request).await.expect(200), "http://127.0.0.1:8080");
}

#[tokio::test]
async fn the_provider_tells_its_operations_and_topic_types() {
    let grid = Grid::new().await;
    let operations = grid.get("/providers/Microsoft.EventGrid/operations").await.expect(200);
    assert!(names(&operations).contains(&"Microsoft.EventGrid/topics/listKeys/action"));
    let types = grid.get("/providers/microsoft.eventgrid/topicTypes").await.expect(200);
    assert_eq!(names(&types), ["Microsoft.EventGrid.Topics", "Microsoft.EventGrid.Domains"]);
    let one = "/providers/Microsoft.EventGrid/topicTypes/microsoft.eventgrid.topics";
    assert_eq!(grid.get(one).await.expect(200).body, types.body["value"][0]);
    assert_eq!(grid.get(&format!("{one}/eventTypes")).await.expect(200).body, json!({"value": []}));
    grid.get("/providers/Microsoft.EventGrid/topicTypes/none").await.expect(404);
    grid.get("/providers/Microsoft.EventGrid/verifiedPartners").await.expect(404);
}
