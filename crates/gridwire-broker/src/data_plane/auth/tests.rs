//! Which credential counts, and what it opens: the same rule for custom topics and namespaces.

use std::collections::HashMap;
use std::time::Duration;

use gridwire_core::event::InputSchema;
use gridwire_core::ids::TopicNumber;
use gridwire_core::routing::{AccessKey, DomainTopics, TopicKind};

use super::*;

const HOST: &str = "spaces.example";
const PUBLISH: &str = "/topics/orders:publish";
const RECEIVE: &str = "/topics/orders/eventsubscriptions/pulled:receive";

/// Base64, as keys are.
fn key(name: &str) -> AccessKey {
    AccessKey::new(name.repeat(8))
}

fn credentials(name: &str, local_auth: bool) -> Credentials {
    Credentials { keys: [key(name), key(&format!("{name}{name}"))], local_auth }
}

fn topic_of(kind: TopicKind, credentials: Credentials) -> TopicRoute {
    TopicRoute {
        number: TopicNumber(1),
        kind,
        name: "orders".to_owned(),
        resource_id: "/topics/orders".to_owned(),
        input_schema: InputSchema::CloudEvent,
        input_mapping: None,
        credentials,
        retention: Duration::from_secs(60),
        matcher: Arc::default(),
        subscriptions: HashMap::new(),
        domain_topics: DomainTopics::default(),
    }
}

fn spaces(local_auth: bool) -> NamespaceRoute {
    let topics = ["orders", "returns"].map(|name| {
        let route = topic_of(TopicKind::Namespace, credentials(&name.to_uppercase()[..4], local_auth));
        (name.to_owned(), Arc::new(route))
    });
    NamespaceRoute {
        name: "spaces".to_owned(),
        resource_id: String::new(),
        credentials: credentials("SPAC", local_auth),
        topics: topics.into(),
    }
}

fn token(resource: &str, name: &str) -> String {
    sas::sign(resource, "6/15/2099 6:20:15 PM", &key(name))
}

fn parts(path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::post(path).header("host", HOST);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// The status of the answer, 200 for none.
fn status(namespace_topic: &str, parts: &Parts, local_auth: bool) -> u16 {
    let credential = Credential::of(parts);
    match namespace(&spaces(local_auth), namespace_topic, credential.as_ref(), parts, Timestamp::ZERO) {
        Ok(_) => 200,
        Err(error) => error.status(),
    }
}

#[test]
fn a_token_opens_what_its_resource_covers_and_its_key_may_use() {
    let base = format!("https://{HOST}");
    for (resource, name, path, expected) in [
        (base.clone(), "SPAC", PUBLISH, 200),
        (base.clone(), "SPACSPAC", RECEIVE, 200),
        (format!("{base}/topics/orders"), "SPAC", PUBLISH, 200),
        (format!("{base}/topics/orders"), "ORDE", RECEIVE, 200),
        (format!("{base}{PUBLISH}"), "ORDE", PUBLISH, 200),
        (format!("{base}{PUBLISH}?api-version=2024-06-01"), "ORDE", PUBLISH, 200),
        (format!("{base}{PUBLISH}"), "ORDE", RECEIVE, 401),
        (format!("{base}{RECEIVE}"), "SPAC", RECEIVE, 200),
        (format!("{base}{RECEIVE}"), "SPAC", "/topics/orders/eventsubscriptions/pulled:acknowledge", 401),
        (format!("{base}/topics/returns"), "SPAC", PUBLISH, 401),
        (format!("{base}/topics/order"), "SPAC", PUBLISH, 401),
        ("https://elsewhere.example".to_owned(), "SPAC", PUBLISH, 401),
        (base.clone(), "RETU", PUBLISH, 401),
        (base.clone(), "OTHE", PUBLISH, 401),
    ] {
        let token = token(&resource, name);
        let authorization = format!("SharedAccessSignature {token}");
        for header in [("authorization", authorization.as_str()), ("aeg-sas-token", token.as_str())] {
            let parts = parts(path, &[header]);
            assert_eq!(status("orders", &parts, true), expected, "{resource} by {name} for {path}");
            assert_eq!(status("orders", &parts, false), 401, "without local authentication");
        }
    }
}

#[test]
fn a_broken_token_is_told_so_and_a_good_one_that_the_topic_is_unknown() {
    let broken = parts(PUBLISH, &[("aeg-sas-token", "let me in")]);
    assert_eq!(status("orders", &broken, true), 400);
    let of_namespace = token(&format!("https://{HOST}"), "SPAC");
    let path = "/topics/nobody:publish";
    assert_eq!(status("nobody", &parts(path, &[("aeg-sas-token", &of_namespace)]), true), 404);
    let of_topic = token(&format!("https://{HOST}"), "ORDE");
    assert_eq!(status("nobody", &parts(path, &[("aeg-sas-token", &of_topic)]), true), 401);
    let in_query = parts(&format!("{PUBLISH}?aeg-sas-key=x"), &[("aeg-sas-token", &of_namespace)]);
    assert_eq!(status("orders", &in_query, true), 400, "only custom topics take a key in the query");
}

#[test]
fn the_first_credential_counts_for_topics_and_namespaces_alike() {
    let basic = topic_of(TopicKind::Custom, credentials("SPAC", true));
    let (good, bad) = (key("SPAC"), key("OTHE"));
    let base = format!("https://{HOST}");
    let (good_token, bad_token) = (token(&base, "SPAC"), token(&base, "OTHE"));
    // In order; each pair is the right and the wrong one.
    let ranked = [
        ("aeg-sas-key", good.reveal().to_owned(), bad.reveal().to_owned()),
        ("aeg-sas-token", good_token.clone(), bad_token.clone()),
        (
            "authorization",
            format!("SharedAccessKey {}", good.reveal()),
            format!("SharedAccessKey {}", bad.reveal()),
        ),
        (
            "authorization",
            format!("SharedAccessSignature {good_token}"),
            format!("SharedAccessSignature {bad_token}"),
        ),
    ];
    for (rank, (first, right, wrong)) in ranked.iter().enumerate() {
        for (second, other_right, other_wrong) in &ranked[rank + 1..] {
            if first == second {
                continue;
            }
            for (headers, expected) in [
                ([(*first, right.as_str()), (*second, other_wrong.as_str())], 200),
                ([(*first, wrong.as_str()), (*second, other_right.as_str())], 401),
            ] {
                let parts = parts(PUBLISH, &headers);
                assert_eq!(status("orders", &parts, true), expected, "namespace: {first} before {second}");
                let basic = topic(&basic, Credential::of(&parts).as_ref(), &parts, Timestamp::ZERO)
                    .map_or_else(|error| error.status(), |()| 200);
                assert_eq!(basic, expected, "custom topic: {first} before {second}");
            }
        }
    }
}

#[test]
fn a_token_finds_its_namespace() {
    let namespace = spaces(true);
    let belongs = |name: &str| {
        let token = token(&format!("https://{HOST}/topics/orders"), name);
        let parts = parts(PUBLISH, &[("aeg-sas-token", &token)]);
        Credential::of(&parts).unwrap().belongs_to(&namespace, "Orders", &parts, Timestamp::ZERO)
    };
    assert_eq!(["SPAC", "ORDE", "RETU", "OTHE"].map(belongs), [true, true, false, false]);
}
