//! Handshakes with endpoints that agree, refuse and misbehave.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gridwire_core::event::DeliverySchema;
use gridwire_core::pace::Pace;
use gridwire_core::routing::{Consent, Handshake, HandshakeError, TopicKind, Webhook};
use gridwire_core::secret::Secret;
use gridwire_outside::system::SystemNet;

use crate::push::PushOptions;
use crate::push::testing::{OK, Rig, TestServer, eventually, local_options};

fn handshake(url: &str, schema: DeliverySchema) -> Handshake {
    Handshake {
        webhook: Webhook {
            url: url.to_owned(),
            schema,
            attributes: Vec::new(),
            signing: Vec::new(),
            token: None,
            tls: None,
        },
        topic_resource_id: "/subscriptions/s/topics/orders".to_owned(),
        subscription_name: "billing".to_owned(),
        topic_kind: TopicKind::Custom,
        validation_url: None,
    }
}

/// The same with a way to consent by hand.
fn handshake_by_hand(url: &str, schema: DeliverySchema) -> Handshake {
    let validation_url = Some(Secret::new("https://grid.example/validate?id=%2Fs&token=abc"));
    Handshake { validation_url, ..handshake(url, schema) }
}

/// Why there was no consent; a consent is at full pace.
fn reason(result: Result<Consent, HandshakeError>) -> Option<String> {
    match result {
        Ok(consent) => {
            assert_eq!(consent, Consent::Given { pace: Pace::Free });
            None
        }
        Err(HandshakeError::Refused { reason, .. }) => Some(reason),
        Err(error @ HandshakeError::Forbidden { .. }) => panic!("{error}"),
    }
}

/// Answers a handshake with a head and body in which `CODE` stands for the code that was sent.
async fn check(schema: DeliverySchema, answer: &'static str, refused: Option<&str>) {
    let result = answered(answer, |url| handshake(url, schema)).await;
    assert_eq!(reason(result).as_deref(), refused, "{answer}");
}

/// What a handshake comes to that is answered so.
async fn answered(
    answer: &'static str,
    handshake: impl Fn(&str) -> Handshake,
) -> Result<Consent, HandshakeError> {
    let server = TestServer::start(move |mut peer| async move {
        let request = peer.request().await.expect("a request");
        let code = request.split("\"validationCode\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let (head, body) = answer.split_once("\n\n").unwrap_or((answer, ""));
        let body = body.replace("CODE", code.unwrap_or("none"));
        let head = head.replace('\n', "\r\n");
        peer.write(format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    })
    .await;
    let rig = Rig::new();
    rig.dispatcher.validate(handshake(&server.url())).await
}

#[tokio::test]
async fn an_event_grid_endpoint_returns_the_code() {
    let no_response = Some("its answer has no `validationResponse`");
    let wrong = Some("its `validationResponse` is not the code it was sent");
    for schema in [DeliverySchema::EventGrid, DeliverySchema::Custom] {
        check(schema, "200 OK\n\n{\"validationResponse\":\"CODE\"}", None).await;
        check(schema, "200 OK\n\n{ \"x\": 1, \"validationResponse\": \"CODE\" }", None).await;
        check(schema, "200 OK\n\n{\"ValidationResponse\":\"CODE\"}", no_response).await;
        check(schema, "200 OK\n\n{\"validationResponse\":\"code\"}", wrong).await;
        check(schema, "200 OK\n\n{\"validationResponse\":1}", wrong).await;
        check(schema, "200 OK\n\n[\"CODE\"]", no_response).await;
        check(schema, "200 OK\n\nCODE", no_response).await;
        check(schema, "200 OK", no_response).await;
    }
}

#[tokio::test]
async fn an_event_grid_endpoint_answers_with_200_and_nothing_else() {
    for (answer, status) in [
        ("202 Accepted\n\n{\"validationResponse\":\"CODE\"}", 202),
        ("201 Created\n\n{\"validationResponse\":\"CODE\"}", 201),
        ("302 Found\nLocation: /\n\n{\"validationResponse\":\"CODE\"}", 302),
        ("404 Not Found\n\n{\"validationResponse\":\"CODE\"}", 404),
        ("500 Oh\n\n{\"validationResponse\":\"CODE\"}", 500),
    ] {
        let refused = format!("it answered with status {status} instead of 200");
        check(DeliverySchema::EventGrid, answer, Some(&refused)).await;
    }
}

#[tokio::test]
async fn a_cloud_events_endpoint_names_our_origin() {
    let schema = DeliverySchema::CloudEvent;
    for answer in [
        "200 OK\nWebHook-Allowed-Origin: eventgrid.azure.net",
        "200 OK\nwebhook-allowed-origin: EventGrid.Azure.Net",
        "200 OK\nWebHook-Allowed-Origin: *",
        "200 OK\nWebHook-Allowed-Origin: *\nWebHook-Allowed-Rate: *",
        "200 OK\nWebHook-Allowed-Origin: other.example\nWebHook-Allowed-Origin: *",
        "204 No Content\nWebHook-Allowed-Origin: *",
        "405 Not Allowed\nWebHook-Allowed-Origin: *",
    ] {
        check(schema, answer, None).await;
    }
    let other = Some("its `WebHook-Allowed-Origin` names somebody else");
    check(schema, "200 OK\nWebHook-Allowed-Origin: other.example", other).await;
    check(schema, "200 OK\nWebHook-Allowed-Origin: eventgrid.azure.net.other.example", other).await;
    check(schema, "200 OK\nWebHook-Allowed-Origin:", other).await;
    let none = "it answered with status 200 and without `WebHook-Allowed-Origin`";
    check(schema, "200 OK", Some(none)).await;
    check(schema, "200 OK\nAccess-Control-Allow-Origin: *", Some(none)).await;
}

#[tokio::test]
async fn a_cloud_events_endpoint_says_how_fast_it_may_be_posted_to() {
    for (answer, pace) in [
        ("200 OK\nWebHook-Allowed-Origin: *\nWebHook-Allowed-Rate: 120\nAllow: POST", Pace::per_minute(120)),
        ("200 OK\nWebHook-Allowed-Origin: *\nWebHook-Allowed-Rate: 0", Pace::Paused),
        ("200 OK\nWebHook-Allowed-Origin: *\nWebHook-Allowed-Rate: 00", Pace::Paused),
        (
            "200 OK\nWebHook-Allowed-Origin: *\nWebHook-Allowed-Rate: 9\nWebHook-Allowed-Rate: 5",
            Pace::per_minute(5),
        ),
        ("200 OK\nWebHook-Allowed-Origin: *\nWebHook-Allowed-Rate: soon", Pace::Free),
    ] {
        let basic = answered(answer, |url| handshake(url, DeliverySchema::CloudEvent)).await;
        assert_eq!(basic, Ok(Consent::Given { pace }), "{answer}");
        let of_namespace = |url: &str| Handshake {
            topic_kind: TopicKind::Namespace,
            ..handshake(url, DeliverySchema::CloudEvent)
        };
        assert_eq!(reason(answered(answer, of_namespace).await), None, "a namespace ignores it: {answer}");
    }
}

#[tokio::test]
async fn an_endpoint_that_says_neither_yes_nor_no_is_validated_by_hand() {
    let check = async |schema, answer, expect: Result<Pace, &str>| {
        let result = answered(answer, |url| handshake_by_hand(url, schema)).await;
        match expect {
            Ok(pace) => assert_eq!(result, Ok(Consent::ByHand { pace }), "{answer}"),
            Err(why) => assert_eq!(reason(result).as_deref(), Some(why), "{answer}"),
        }
    };
    for schema in [DeliverySchema::EventGrid, DeliverySchema::Custom] {
        check(schema, "200 OK", Ok(Pace::Free)).await;
        check(schema, "200 OK\n\n<html>thank you</html>", Ok(Pace::Free)).await;
        check(schema, "200 OK\n\n{\"validationResponse\":\"code\"}", Ok(Pace::Free)).await;
        for (answer, status) in
            [("202 Accepted", 202), ("204 No Content", 204), ("404 Not Found", 404), ("500 Oh", 500)]
        {
            let declined = format!("it answered with status {status} instead of 200");
            check(schema, answer, Err(&declined)).await;
        }
    }
    let schema = DeliverySchema::CloudEvent;
    for answer in ["200 OK", "202 Accepted", "204 No Content", "404 Not Found", "405 Not Allowed", "501 What"]
    {
        check(schema, answer, Ok(Pace::Free)).await;
    }
    check(schema, "200 OK\nWebHook-Allowed-Rate: 30", Ok(Pace::per_minute(30))).await;
    for (answer, status) in
        [("302 Found", 302), ("401 Who", 401), ("403 No", 403), ("410 Gone", 410), ("500 Oh", 500)]
    {
        let declined = format!("it answered with status {status} and without `WebHook-Allowed-Origin`");
        check(schema, answer, Err(&declined)).await;
    }
    let other = "its `WebHook-Allowed-Origin` names somebody else";
    check(schema, "200 OK\nWebHook-Allowed-Origin: other.example", Err(other)).await;
}

#[tokio::test]
async fn the_requests_are_those_of_the_contract() {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&requests);
    let server = TestServer::start(move |mut peer| {
        let log = Arc::clone(&log);
        async move {
            let request = peer.request().await.expect("a request");
            log.lock().expect("no panic").push(request);
            peer.write("HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: my.example\r\nContent-Length: 0\r\n\r\n")
                .await;
        }
    })
    .await;
    let request_rate = NonZeroU32::new(600);
    let options = PushOptions { origin: "my.example".to_owned(), request_rate, ..local_options() };
    let rig = Rig::with(options, Arc::new(SystemNet));
    let url = format!("{}?code=s3cret", server.url());
    rig.dispatcher.validate(handshake(&url, DeliverySchema::CloudEvent)).await.expect("consent");
    let error =
        rig.dispatcher.validate(handshake(&url, DeliverySchema::EventGrid)).await.expect_err("no code");
    assert!(!error.to_string().contains("s3cret") && error.to_string().contains(&server.url()), "{error}");
    let namespace =
        Handshake { topic_kind: TopicKind::Namespace, ..handshake(&url, DeliverySchema::CloudEvent) };
    rig.dispatcher.validate(namespace).await.expect("consent");
    let requests = requests.lock().expect("no panic");
    assert!(requests[0].starts_with("OPTIONS /hook?code=s3cret HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[0].contains("\r\nwebhook-request-origin: my.example\r\n"), "{}", requests[0]);
    assert!(requests[1].starts_with("POST /hook?code=s3cret HTTP/1.1\r\n"), "{}", requests[1]);
    for header in [
        "aeg-event-type: SubscriptionValidation",
        "aeg-subscription-name: billing",
        "content-type: application/json",
    ] {
        assert!(requests[1].contains(&format!("\r\n{header}")), "{}", requests[1]);
    }
    let body = requests[1].split("\r\n\r\n").nth(1).expect("a body");
    let events: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(events.as_array().map(Vec::len), Some(1));
    assert_eq!(events[0]["eventType"], "Microsoft.EventGrid.SubscriptionValidationEvent");
    assert_eq!(events[0]["topic"], "/subscriptions/s/topics/orders");
    assert_eq!(events[0]["eventTime"], "1994-11-06T08:49:37.000Z");
    assert_eq!(events[0]["data"]["validationCode"].as_str().map(str::len), Some(36));
    assert_eq!(events[0]["data"].get("validationUrl"), None);
    assert!(!requests[0].contains("webhook-request-callback"), "{}", requests[0]);
    assert!(requests[0].contains("\r\nwebhook-request-rate: 600\r\n"), "{}", requests[0]);
    assert!(requests[2].contains("\r\nwebhook-request-origin: my.example\r\n"), "{}", requests[2]);
    assert!(!requests[2].contains("webhook-request-rate"), "a namespace asks for none: {}", requests[2]);
}

#[tokio::test]
async fn whoever_runs_the_endpoint_is_told_where_to_consent_by_hand() {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&requests);
    let server = TestServer::start(move |mut peer| {
        let log = Arc::clone(&log);
        async move {
            let request = peer.request().await.expect("a request");
            log.lock().expect("no panic").push(request);
            peer.write(OK).await;
        }
    })
    .await;
    let rig = Rig::new();
    for schema in [DeliverySchema::CloudEvent, DeliverySchema::EventGrid] {
        let asked = handshake_by_hand(&server.url(), schema);
        assert!(!format!("{asked:?}").contains("token=abc"), "{asked:?}");
        rig.dispatcher.validate(asked).await.expect("silence");
    }
    let url = "https://grid.example/validate?id=%2Fs&token=abc";
    let requests = requests.lock().expect("no panic");
    assert!(requests[0].contains(&format!("\r\nwebhook-request-callback: {url}\r\n")), "{}", requests[0]);
    assert!(!requests[0].contains("webhook-request-rate"), "{}", requests[0]);
    let body = requests[1].split("\r\n\r\n").nth(1).expect("a body");
    let events: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(events[0]["data"]["validationUrl"], url);
}

#[tokio::test]
async fn silence_is_asked_again_and_then_refused() {
    for (answer_from, reason_wanted) in [(3, None), (4, Some("it did not answer within 30 seconds"))] {
        let server = TestServer::start(move |mut peer| async move {
            peer.request().await;
            if peer.number < answer_from {
                peer.hang().await;
            } else {
                peer.write("HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: *\r\nContent-Length: 0\r\n\r\n").await;
            }
        })
        .await;
        let rig = Rig::new();
        let validating = rig.dispatcher.validate(handshake(&server.url(), DeliverySchema::CloudEvent));
        tokio::pin!(validating);
        let mut passed = 0;
        let result = loop {
            tokio::select! {
                result = &mut validating => break result,
                () = tokio::time::sleep(Duration::from_millis(2)) => {
                    rig.clock.advance(Duration::from_secs(1));
                    passed += 1;
                }
            }
        };
        assert_eq!(reason(result).as_deref(), reason_wanted);
        if reason_wanted.is_some() {
            assert_eq!(passed, 30 + 5 + 30 + 5 + 30, "seconds, with five between the tries");
        }
        assert_eq!(server.connections(), 3);
    }
}

#[test]
fn a_refusal_has_the_services_words_and_says_why() {
    let refused = HandshakeError::Refused { endpoint: "https://a.example/in".into(), reason: "no".into() };
    assert_eq!(
        refused.to_string(),
        "The attempt to validate the provided endpoint https://a.example/in failed: no. For more details, visit https://aka.ms/esvalidation"
    );
}

#[tokio::test]
async fn an_endpoint_that_may_not_be_called_is_forbidden() {
    let rig = Rig::with(PushOptions::default(), Arc::new(SystemNet));
    for (url, shown) in [
        ("https://10.0.0.1/hook?code=s3cret", "https://10.0.0.1/hook"),
        ("https://0x7f.1/hook", "https://127.0.0.1/hook"),
        ("http://example.com/hook", "http://example.com/hook"),
        ("https://user:s3cret@example.com/", "https://example.com/"),
        ("https://example.com:6667/", "https://example.com:6667/"),
        ("s3cret", "endpointUrl"),
    ] {
        match rig.dispatcher.validate(handshake(url, DeliverySchema::EventGrid)).await {
            Err(HandshakeError::Forbidden { endpoint, .. }) => assert_eq!(endpoint, shown),
            other => panic!("{url}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_host_that_agrees_may_be_asked_as_often_as_needed() {
    let answer = "HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: *\r\nContent-Length: 0\r\n\r\n";
    let server = TestServer::answering(answer).await;
    let rig = Rig::new();
    for number in 0..30 {
        let url = format!("{}/{number}", server.url());
        let result = rig.dispatcher.validate(handshake(&url, DeliverySchema::CloudEvent)).await;
        assert_eq!(reason(result), None, "{number}");
    }
}

#[tokio::test]
async fn a_host_that_does_not_agree_is_asked_ten_times_a_minute_at_most() {
    let server = TestServer::answering(OK).await;
    let rig = Rig::new();
    let refused = Some("its host was asked 10 times in the last minute");
    for number in 0..12 {
        let url = format!("{}/{number}", server.url());
        let result = reason(rig.dispatcher.validate(handshake(&url, DeliverySchema::CloudEvent)).await);
        assert_eq!(result.as_deref() == refused, 10 <= number, "{number}: {result:?}");
    }
    assert_eq!(server.connections(), 10);
    rig.clock.advance(Duration::from_secs(60));
    rig.dispatcher
        .validate(handshake(&server.url(), DeliverySchema::CloudEvent))
        .await
        .expect_err("no consent");
    assert_eq!(server.connections(), 11);
}

#[tokio::test]
async fn stopping_ends_a_handshake() {
    let server = TestServer::start(|mut peer| async move { peer.hang().await }).await;
    let rig = Rig::new();
    let validating = rig.dispatcher.validate(handshake(&server.url(), DeliverySchema::CloudEvent));
    let stopping = async {
        eventually(|| server.connections() == 1).await;
        rig.stop.cancel();
    };
    let (result, ()) = tokio::join!(validating, stopping);
    assert_eq!(reason(result).as_deref(), Some("the broker is stopping"));
}
