//! Webhooks with authorities and client certificates of their own.

use gridwire_core::pace::Pace;
use gridwire_core::routing::{Consent, HandshakeError};
use gridwire_core::tls_identity::TlsIdentity;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::*;

const PATH: &str = "~/topics/orders/eventSubscriptions/billing";
const NAMESPACE_PATH: &str = "~/namespaces/ns1/topics/jobs/eventSubscriptions/push";

/// A certificate that ends in this year, and its key, both PEM.
fn certificate(year: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// A destination with more properties.
fn destination(more: &Value) -> Value {
    let mut destination = webhook("https://a.example/in")["properties"]["destination"].clone();
    for (name, value) in more.as_object().unwrap() {
        destination["properties"][name] = value.clone();
    }
    destination
}

fn subscription(more: &Value) -> Value {
    json!({"properties": {"destination": destination(more)}})
}

impl Grid {
    /// What the broker was told of the connections of the newest subscription.
    fn tls(&self) -> Option<TlsIdentity> {
        let route = self.port.latest().subscriptions().pop().unwrap();
        route.webhook.as_ref().unwrap().tls.as_deref().cloned()
    }
}

/// The text between the lines of a PEM, which so is in no message, list or file.
fn kernel(pem: &str) -> &str {
    pem.lines().nth(1).unwrap()
}

#[tokio::test]
async fn what_is_given_is_used_sealed_and_shown_by_its_fingerprint() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    let ((authority, _), (client, key)) = (certificate(2049), certificate(2048));
    let bundle = format!("# ours\n{authority}{}", certificate(2047).0);
    let all = json!({ "caCertificates": bundle, "clientCertificate": client, "clientKey": key });
    let created = grid.call("PUT", PATH, subscription(&all)).await.expect(201);
    let shown = &created.body["properties"]["destination"]["properties"];
    let ends = |member: &str| {
        let list = shown["tls"][member].as_array().unwrap();
        assert!(list.iter().all(|one| one["sha256"].as_str().is_some_and(|text| text.len() == 64)));
        list.iter().map(|one| one["notAfter"].as_str().unwrap()[..4].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (ends("caCertificates"), ends("clientCertificate")),
        (vec!["2049".into(), "2047".into()], vec!["2048".into()])
    );
    let identity = grid.tls().unwrap();
    assert_eq!((identity.authorities().len(), identity.client().unwrap().chain.len()), (2, 1));
    assert_eq!(grid.port.handshakes()[0].webhook.tls.as_deref(), Some(&identity), "asked on the same terms");
    let url = grid.call("POST", &format!("{PATH}/getFullUrl"), ()).await.expect(200);
    for text in [&authority, &client, &key] {
        for told in [&created.body, &grid.get(PATH).await.expect(200).body, &url.body] {
            assert!(
                !told.to_string().contains(kernel(text)) && !told.to_string().contains("BEGIN"),
                "{told}"
            );
        }
        for resource in grid.store.dump() {
            assert!(!String::from_utf8_lossy(&resource.value).contains(kernel(text)), "{}", resource.key);
        }
    }

    // The same again is no change, and what a GET showed is no obstacle.
    let etag = created.header("etag").to_owned();
    let again = json!({ "caCertificates": bundle, "clientCertificate": client, "clientKey": key, "tls": shown["tls"] });
    assert_eq!(grid.call("PUT", PATH, subscription(&again)).await.expect(201).header("etag"), etag);
    assert_eq!(grid.port.handshakes().len(), 1);

    let grid = grid.restarted().await;
    assert_eq!(grid.tls(), Some(identity.clone()));
    // A PATCH of something else keeps it, one of the destination is complete, as is a PUT.
    grid.call("PATCH", PATH, json!({ "labels": ["x"] })).await.expect(201);
    assert_eq!((grid.tls(), grid.port.handshakes().len()), (Some(identity), 0));
    grid.call("PATCH", PATH, json!({ "destination": destination(&json!({})) })).await.expect(201);
    assert_eq!(
        (grid.tls(), grid.port.handshakes().len()),
        (None, 1),
        "another endpoint, as far as we can tell"
    );
    grid.call("PUT", PATH, subscription(&all)).await.expect(201);
    assert!(grid.tls().is_some());
    grid.put_subscription("orders", "billing").await;
    assert_eq!(grid.tls(), None);
    let shown = grid.get(PATH).await.expect(200);
    assert!(shown.body["properties"]["destination"]["properties"].get("tls").is_none());
}

#[tokio::test]
async fn a_new_certificate_is_tried_before_it_takes_the_old_ones_place() {
    let grid = Grid::new().await;
    grid.put_namespace().await;
    let push = |more: &Value| {
        json!({"properties": {"deliveryConfiguration":
            {"deliveryMode": "Push", "push": {"destination": destination(more)}}}})
    };
    let ((client, key), (new_client, new_key)) = (certificate(2048), certificate(2049));
    let first = json!({ "clientCertificate": client, "clientKey": key });
    grid.call("PUT", NAMESPACE_PATH, push(&first)).await.expect(201);
    let before = grid.tls();
    let second = json!({ "clientCertificate": new_client, "clientKey": new_key });
    let reason = "it has no TLS session".to_owned();
    grid.port.refuse(Some(HandshakeError::Refused { endpoint: "https://a.example/in".into(), reason }));
    let refused = grid.call("PUT", NAMESPACE_PATH, push(&second)).await.expect(400);
    assert_eq!((refused.inner(), grid.tls() == before), ("endpoint_validation_failed", true));
    grid.port.refuse(None);
    // Of a namespace a PATCH is merged, so both of a pair are named.
    let change = push(&second);
    grid.call("PATCH", NAMESPACE_PATH, change).await.expect(200);
    let after = grid.tls();
    assert!(after.is_some() && after != before);
    let change = json!({"properties": {"deliveryConfiguration": {"push": {"maxDeliveryCount": 3}}}});
    grid.call("PATCH", NAMESPACE_PATH, change).await.expect(200);
    assert_eq!(grid.tls(), after);
}

#[tokio::test]
async fn an_exchange_of_certificates_takes_back_no_consent() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    let exchange = || {
        let (client, key) = certificate(2048);
        json!({ "clientCertificate": client, "clientKey": key })
    };
    let state = |answer: &Answer| answer.body["properties"]["provisioningState"].clone();
    grid.port.answer(Consent::Given { pace: Pace::per_minute(7) });
    let created = grid.call("PUT", PATH, subscription(&exchange())).await.expect(201);
    assert_eq!(state(&created), "Succeeded");
    let before = grid.tls();
    // It answers, which shows that the session works, and says neither yes nor no.
    grid.port.answer(Consent::ByHand { pace: Pace::Free });
    let exchanged = grid.call("PUT", PATH, subscription(&exchange())).await.expect(201);
    assert_eq!((state(&exchanged), grid.tls() != before), (json!("Succeeded"), true));
    let route = grid.port.latest().subscriptions().pop().unwrap();
    assert_eq!(route.policy.pacing.pace, Pace::per_minute(7));
    let elsewhere = grid.call("PUT", PATH, webhook("https://a.example/other")).await.expect(201);
    assert_eq!(state(&elsewhere), "AwaitingManualAction");
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_by_name_and_changes_nothing() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    grid.put_subscription("orders", "billing").await;
    let ((good, key), (other, _), (expired, expired_key)) =
        (certificate(2049), certificate(2049), certificate(1971));
    let damaged = good.replace(kernel(&good), "AAAA");
    let long = good.repeat(64 * 1024 / good.len() + 1);
    for (more, member) in [
        (json!({ "caCertificates": "no PEM" }), "caCertificates"),
        (json!({ "caCertificates": damaged }), "caCertificates"),
        (json!({ "caCertificates": key }), "caCertificates"),
        (json!({ "caCertificates": good.repeat(33) }), "caCertificates"),
        (json!({ "caCertificates": long }), "caCertificates"),
        (json!({ "caCertificates": [good] }), "caCertificates"),
        (json!({ "caCertificates": format!("{good}{expired}") }), "caCertificates"),
        (json!({ "clientCertificate": good }), "clientKey"),
        (json!({ "clientKey": key }), "clientCertificate"),
        (json!({ "clientCertificate": "x", "clientKey": key }), "clientCertificate"),
        (json!({ "clientCertificate": good, "clientKey": "x" }), "clientKey"),
        (json!({ "clientCertificate": good, "clientKey": good }), "clientKey"),
        (json!({ "clientCertificate": other, "clientKey": key }), "clientKey"),
        (json!({ "clientCertificate": expired, "clientKey": expired_key }), "clientCertificate"),
        (json!({ "endpointUrl": "http://a.example/in", "caCertificates": good }), "caCertificates"),
    ] {
        let refused = grid.call("PUT", PATH, subscription(&more)).await.expect(400);
        assert_eq!(refused.inner(), "invalid_resource", "{more}");
        let message = refused.message();
        assert!(message.contains(&format!("{member}` ")), "{more}: {message}");
        assert!(!message.contains(kernel(&key)) && !message.contains(kernel(&expired_key)), "{message}");
    }
    assert_eq!((grid.tls(), grid.port.handshakes().len()), (None, 1));
    // What was good once is kept: a label can be changed on the day after.
    let all = json!({ "clientCertificate": good, "clientKey": key });
    grid.call("PUT", PATH, subscription(&all)).await.expect(201);
    grid.clock.advance(Duration::from_secs(100 * 366 * 24 * 3600));
    grid.call("PATCH", PATH, json!({ "labels": ["x"] })).await.expect(201);
    assert!(grid.restarted().await.tls().is_some());
}
