//! The bytes of each form, and the way there and back.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::event::{Data, Extension};
use crate::publish::{self, PublishRequest};
use crate::routing::{Batching, TopicKind};
use crate::shard::DeadLetterReason;

const TOPIC: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.EventGrid/topics/orders";

fn context() -> DeliveryContext<'static> {
    let published = Timestamp::parse_rfc3339("2026-11-22T20:19:38.054Z").unwrap();
    DeliveryContext { topic_resource_id: TOPIC, published }
}

fn cloud() -> Event<'static> {
    Event {
        schema: InputSchema::CloudEvent,
        id: "1".into(),
        event_type: "order.created".into(),
        source: "/shop".into(),
        subject: None,
        time: None,
        data_content_type: None,
        data_schema: None,
        extensions: vec![],
        data: Data::Absent,
    }
}

fn grid() -> Event<'static> {
    Event {
        schema: InputSchema::EventGrid,
        source: "".into(),
        subject: Some("orders/1".into()),
        time: Some("2026-11-22T20:19:38+0000".into()),
        data_schema: Some("1 0".into()),
        data: Data::Json(r#"{"a" : 1.0}"#.into()),
        ..cloud()
    }
}

fn custom() -> Event<'static> {
    Event {
        schema: InputSchema::Custom,
        subject: Some("".into()),
        time: Some("2026-01-01T00:00:00Z".into()),
        data_schema: Some("".into()),
        data: Data::Json(r#"{ "kind":"order.created","n":1 }"#.into()),
        ..cloud()
    }
}

/// The body of the one request for these events.
fn body(events: &[(&Event<'_>, DeliveryContext<'_>)], schema: DeliverySchema, batched: bool) -> Vec<u8> {
    let batching = batched.then_some(Batching { events_max: 100, bytes_max: 1 << 20 });
    let request = delivery_request(events, schema, &[], batching).expect("there are events");
    assert_eq!(request.events.len(), events.len());
    request.body
}

fn text(render: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = b"before ".to_vec();
    render(&mut out);
    String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned()
}

#[track_caller]
fn check(event: &Event<'_>, schema: DeliverySchema, expected: &str) {
    assert_eq!(text(|out| delivery(event, schema, context(), out)), expected);
}

#[test]
fn each_schema_pair_has_its_envelope() {
    let (to_grid, to_cloud, to_custom) =
        (DeliverySchema::EventGrid, DeliverySchema::CloudEvent, DeliverySchema::Custom);
    let topic = format!(r#""topic":"{TOPIC}""#);
    let source = format!(r#""specversion":"1.0","id":"1","source":"{TOPIC}","type":"order.created""#);
    let grid_out = format!(
        r#"{{"id":"1",{topic},"subject":"orders/1","eventType":"order.created","eventTime":"2026-11-22T20:19:38+0000","data":{{"a" : 1.0}},"dataVersion":"1 0","metadataVersion":"1"}}"#
    );
    let cloud_out = r#"{"specversion":"1.0","id":"1","source":"/shop","type":"order.created"}"#;
    check(&grid(), to_grid, &grid_out);
    check(&grid(), to_custom, &grid_out);
    check(
        &grid(),
        to_cloud,
        &format!(
            r##"{{{source},"subject":"orders/1","time":"2026-11-22T20:19:38+00:00","dataschema":"#1%200","data":{{"a" : 1.0}}}}"##
        ),
    );
    check(&cloud(), to_cloud, cloud_out);
    check(&cloud(), to_grid, cloud_out);
    check(&cloud(), to_custom, cloud_out);
    check(&custom(), to_custom, r#"{ "kind":"order.created","n":1 }"#);
    check(
        &custom(),
        to_grid,
        &format!(
            r#"{{"id":"1",{topic},"subject":"","eventType":"order.created","eventTime":"2026-01-01T00:00:00Z","data":{{ "kind":"order.created","n":1 }},"dataVersion":"","metadataVersion":"1"}}"#
        ),
    );
    check(
        &custom(),
        to_cloud,
        &format!(r#"{{{source},"time":"2026-01-01T00:00:00Z","data":{{ "kind":"order.created","n":1 }}}}"#),
    );
    let bare = Event { subject: None, time: None, data_schema: None, data: Data::Absent, ..grid() };
    check(
        &bare,
        to_grid,
        &format!(
            r#"{{"id":"1",{topic},"subject":"","eventType":"order.created","eventTime":"2026-11-22T20:19:38.054Z","dataVersion":"","metadataVersion":"1"}}"#
        ),
    );
}

#[test]
fn only_an_offset_without_colon_is_rewritten() {
    for (sent, shown) in [
        ("2026-11-22T20:19:38-0130", "2026-11-22T20:19:38-01:30"),
        ("2026-11-22T20:19:38-01:30", "2026-11-22T20:19:38-01:30"),
        ("2026-11-22T20:19:38Z", "2026-11-22T20:19:38Z"),
        ("2026-11-22T20:19:38.5z", "2026-11-22T20:19:38.5z"),
    ] {
        let event = Event { time: Some(sent.into()), ..grid() };
        let out = text(|out| delivery(&event, DeliverySchema::CloudEvent, context(), out));
        assert!(out.contains(&format!(r#""time":"{shown}""#)), "{out}");
    }
}

#[test]
fn a_received_event_has_no_member_that_was_not_sent() {
    let out = text(|out| pull_event(&cloud(), out));
    assert_eq!(out, r#"{"specversion":"1.0","id":"1","source":"/shop","type":"order.created"}"#);
    let full = Event {
        subject: Some("a\"b\\c\u{1f600}".into()),
        time: Some("2026-11-22T20:19:38Z".into()),
        data_content_type: Some("image/png".into()),
        data_schema: Some("urn:x".into()),
        extensions: vec![
            Extension { name: "tenant".into(), json: r#""\u0061""#.into() },
            Extension { name: "n".into(), json: "1.50".into() },
        ],
        data: Data::Binary(vec![0, 255, 1, 2].into()),
        ..cloud()
    };
    assert_eq!(
        text(|out| pull_event(&full, out)),
        r#"{"specversion":"1.0","id":"1","source":"/shop","type":"order.created","subject":"a\"b\\c😀","time":"2026-11-22T20:19:38Z","datacontenttype":"image/png","dataschema":"urn:x","tenant":"\u0061","n":1.50,"data_base64":"AP8BAg=="}"#
    );
}

#[test]
fn a_body_is_an_array_unless_it_is_one_cloud_event() {
    for (event, schema, batched, count, start, end) in [
        (grid(), DeliverySchema::EventGrid, false, 1, "[{", "}]"),
        (grid(), DeliverySchema::EventGrid, true, 2, "[{", "}]"),
        (custom(), DeliverySchema::Custom, true, 3, "[{", "}]"),
        (custom(), DeliverySchema::Custom, false, 1, "[{", "}]"),
        (cloud(), DeliverySchema::CloudEvent, false, 1, "{\"", "\"}"),
        (cloud(), DeliverySchema::CloudEvent, true, 1, "[{", "}]"),
        (cloud(), DeliverySchema::CloudEvent, true, 3, "[{", "}]"),
    ] {
        let events = vec![(&event, context()); count];
        let out = text(|out| out.extend(body(&events, schema, batched)));
        assert!(out.starts_with(start) && out.ends_with(end), "{out}");
        let value: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value.as_array().map_or(1, Vec::len), count);
        let kind = content_type(schema, batched);
        assert_eq!(kind.contains("cloudevents"), schema == DeliverySchema::CloudEvent);
        assert_eq!(kind.contains("batch"), schema == DeliverySchema::CloudEvent && batched);
        assert!(kind.ends_with("; charset=utf-8"));
    }
}

#[test]
fn headers_tell_the_delivery_and_cannot_be_broken_out_of() {
    let event = Event { id: "a\r\nEvil: 1 é%".into(), data_schema: Some("1\0".into()), ..grid() };
    for (schema, metadata, data) in [
        (DeliverySchema::EventGrid, "1", "1%00"),
        (DeliverySchema::Custom, "1", "1%00"),
        (DeliverySchema::CloudEvent, "1.0", ""),
    ] {
        let headers = delivery_headers(&event, "sub-1", 3, schema);
        let expected = [
            ("aeg-subscription-name", "sub-1"),
            ("aeg-delivery-count", "3"),
            ("aeg-event-type", "Notification"),
            ("aeg-metadata-version", metadata),
            ("aeg-data-version", data),
            ("aeg-output-event-id", "a%0D%0AEvil:%201%20%C3%A9%25"),
        ];
        assert_eq!(headers.iter().map(|(name, value)| (*name, &**value)).collect::<Vec<_>>(), expected);
    }
    assert!(validation_headers("s", "1").contains(&("aeg-event-type", "SubscriptionValidation".to_owned())));
}

#[test]
fn a_validation_event_asks_as_documented() {
    let validation = ValidationEvent {
        id: "g",
        topic_resource_id: TOPIC,
        code: "512d",
        url: Some("https://h/validate?id=1&t=2"),
        time: context().published,
    };
    let silent = ValidationEvent { url: None, ..validation };
    assert!(!text(|out| validation_event(&silent, out)).contains("validationUrl"));
    let value: Value = serde_json::from_str(&text(|out| validation_event(&validation, out))).unwrap();
    assert_eq!(
        value,
        json!([{
            "id": "g", "topic": TOPIC, "subject": "",
            "data": { "validationCode": "512d", "validationUrl": "https://h/validate?id=1&t=2" },
            "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
            "eventTime": "2026-11-22T20:19:38.054Z", "metadataVersion": "1", "dataVersion": "1",
        }])
    );
}

fn info(reason: DeadLetterReason) -> DeadLetterInfo<'static> {
    DeadLetterInfo {
        reason,
        attempts: 2,
        last_outcome: Some("NotFound"),
        last_attempt: Some(context().published),
        last_http_status: Some(404),
        custom_properties: &[],
    }
}

fn letter(event: &Event<'_>, info: &DeadLetterInfo<'_>, kind: TopicKind, schema: DeliverySchema) -> Value {
    let out = text(|out| dead_letter(event, info, kind, schema, context(), out));
    let mut value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value.as_array().map(Vec::len), Some(1), "{out}");
    value[0].take()
}

#[test]
fn a_dead_letter_is_the_event_and_its_story() {
    let story = info(DeadLetterReason::MaxDeliveryAttempts);
    let expected = json!({
        "id": "1", "topic": TOPIC, "subject": "orders/1", "eventType": "order.created",
        "eventTime": "2026-11-22T20:19:38+0000", "data": { "a": 1.0 }, "dataVersion": "1 0",
        "metadataVersion": "1", "deadLetterReason": "MaxDeliveryAttemptsExceeded", "deliveryAttempts": 2,
        "lastDeliveryOutcome": "NotFound", "lastHttpStatusCode": 404,
        "publishTime": "2026-11-22T20:19:38.054Z", "lastDeliveryAttemptTime": "2026-11-22T20:19:38.054Z",
    });
    assert_eq!(letter(&grid(), &story, TopicKind::Custom, DeliverySchema::EventGrid), expected);

    let again = Event {
        extensions: vec![
            Extension { name: "deliveryattempts".into(), json: "30".into() },
            Extension { name: "tenant".into(), json: "\"a\"".into() },
        ],
        ..cloud()
    };
    let never = DeadLetterInfo {
        attempts: 0,
        last_outcome: None,
        last_attempt: None,
        last_http_status: None,
        ..info(DeadLetterReason::TimeToLive)
    };
    let expected = json!({
        "specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created", "tenant": "a",
        "deadletterreason": "TimeToLiveExceeded", "deliveryattempts": 0,
        "publishtime": "2026-11-22T20:19:38.054Z",
    });
    assert_eq!(letter(&again, &never, TopicKind::Custom, DeliverySchema::CloudEvent), expected);
    let out = text(|out| {
        dead_letter(&again, &never, TopicKind::Custom, DeliverySchema::CloudEvent, context(), out);
    });
    assert_eq!(out.matches("deliveryattempts").count(), 1, "{out}");

    let custom = letter(&custom(), &story, TopicKind::Custom, DeliverySchema::Custom);
    assert_eq!(custom["data"], json!({ "kind": "order.created", "n": 1 }));
    assert_eq!(custom["eventType"], "order.created");
    assert_eq!(custom["deadLetterReason"], "MaxDeliveryAttemptsExceeded");
}

#[test]
fn a_namespaces_dead_letter_wraps_the_event() {
    let story = DeadLetterInfo {
        last_outcome: Some(DeadLetterInfo::NOT_SETTLED),
        custom_properties: &[("custom-header-1", "value1".to_owned())],
        ..info(DeadLetterReason::MaxDeliveryAttempts)
    };
    let event = Event { data: Data::Binary(vec![1].into()), ..cloud() };
    assert_eq!(
        letter(&event, &story, TopicKind::Namespace, DeliverySchema::EventGrid),
        json!({
            "deadLetterProperties": {
                "deadletterreason": "Maximum delivery attempts was exceeded.", "deliveryattempts": 2,
                "deliveryresult": "Event was not acknowledged nor rejected.",
                "publishutc": "2026-11-22T20:19:38.054Z", "deliveryattemptutc": "2026-11-22T20:19:38.054Z",
            },
            "customDeliveryProperties": { "custom-header-1": "value1" },
            "event": {
                "specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created",
                "data_base64": "AQ==",
            },
        })
    );
}

#[test]
fn each_reason_has_its_words() {
    use DeadLetterReason::{MaxDeliveryAttempts, Rejected, TimeToLive, Undeliverable};
    let client_error = "Undeliverable due to client error";
    for (reason, status, basic, namespace) in [
        (
            MaxDeliveryAttempts,
            Some(400),
            "MaxDeliveryAttemptsExceeded",
            "Maximum delivery attempts was exceeded.",
        ),
        (TimeToLive, None, "TimeToLiveExceeded", "Time to live was exceeded."),
        (Rejected, None, "Rejected", "Event was rejected by the receiver."),
        (Undeliverable, Some(400), "UndeliverableDueToHttpBadRequest", client_error),
        (Undeliverable, Some(401), "UndeliverableDueToHttpUnauthorized", client_error),
        (Undeliverable, Some(403), "UndeliverableDueToHttpForbidden", client_error),
        (Undeliverable, Some(404), "UndeliverableDueToHttpNotFound", client_error),
        (Undeliverable, Some(413), "UndeliverableDueToHttpRequestEntityTooLarge", client_error),
        (Undeliverable, Some(414), "UndeliverableDueToHttpRequestUriTooLong", client_error),
        (Undeliverable, Some(418), "UndeliverableDueToHttp418", client_error),
        (Undeliverable, None, "Undeliverable", client_error),
    ] {
        let story = DeadLetterInfo { last_http_status: status, ..info(reason) };
        let shown = letter(&grid(), &story, TopicKind::Custom, DeliverySchema::EventGrid);
        assert_eq!(shown["deadLetterReason"], basic);
        let shown = letter(&cloud(), &story, TopicKind::Namespace, DeliverySchema::CloudEvent);
        assert_eq!(shown["deadLetterProperties"]["deadletterreason"], namespace);
    }
}

#[test]
fn a_dead_letter_lies_in_its_hour() {
    for (kind, when, expected) in [
        (TopicKind::Custom, "2026-01-02T03:04:05Z", "SUB-A/2026/1/2/3/g.json"),
        (TopicKind::Custom, "2026-11-22T23:59:59.999Z", "SUB-A/2026/11/22/23/g.json"),
        (TopicKind::Namespace, "2026-01-02T00:04:05+01:00", "Ns/Topic/sub-a/2026/1/1/23/g.json"),
    ] {
        let place = DeadLetterPlace { kind, namespace: "Ns", topic: "Topic", subscription: "sub-a" };
        assert_eq!(dead_letter_path(&place, Timestamp::parse_rfc3339(when).unwrap(), "g"), expected);
        assert!(dead_letter_path(&place, Timestamp::MAX, "g").contains("9999/12/31/23"));
    }
}

/// Texts as publishers write them: no control characters, everything else.
fn attribute() -> impl Strategy<Value = String> {
    any::<String>().prop_map(|text| {
        let plain: String = text.chars().filter(|character| !character.is_control()).collect();
        format!("x{plain}")
    })
}

fn any_data() -> impl Strategy<Value = Data<'static>> {
    prop_oneof![
        Just(Data::Absent),
        proptest::collection::vec(any::<u8>(), 0..64).prop_map(|bytes| Data::Binary(bytes.into())),
        any::<String>().prop_map(|text| Data::Json(json!({ "t": [text, 1.5, null] }).to_string().into())),
        any::<f64>().prop_map(|number| Data::Json(json!(number).to_string().into())),
    ]
}

prop_compose! {
    fn any_cloud_event()(
        id in attribute(),
        event_type in attribute(),
        subject in proptest::option::of(attribute()),
        time in proptest::option::of(Just("2026-11-22T20:19:38.5+01:00")),
        data_content_type in proptest::option::of(attribute()),
        tenant in proptest::option::of(attribute()),
        data in any_data(),
    ) -> Event<'static> {
        let extensions = tenant
            .map(|tenant| Extension { name: "tenant".into(), json: json!(tenant).to_string().into() })
            .into_iter()
            .chain([Extension { name: "n".into(), json: "-1.50".into() }])
            .collect();
        Event {
            id: id.into(),
            event_type: event_type.into(),
            subject: subject.map(Into::into),
            time: time.map(Into::into),
            data_content_type: data_content_type.map(Into::into),
            data_schema: Some("urn:s".into()),
            extensions,
            data,
            ..cloud()
        }
    }
}

fn parsed(schema: InputSchema, content_type: &str, body: &[u8]) -> Event<'static> {
    let request = PublishRequest {
        kind: TopicKind::Custom,
        schema,
        mapping: None,
        content_type: Some(content_type),
        ce_headers: &[],
        body,
        now: Timestamp::ZERO,
    };
    let events = publish::parse(&request, &mut String::new).unwrap();
    let [event] = <[Event<'_>; 1]>::try_from(events).unwrap();
    let mut stored = Vec::new();
    event.encode(&mut stored);
    Event::decode(stored.leak()).unwrap()
}

proptest! {
    #[test]
    fn a_cloud_event_is_the_same_after_delivery_and_publishing_again(event in any_cloud_event()) {
        let mut single = Vec::new();
        pull_event(&event, &mut single);
        prop_assert_eq!(&parsed(InputSchema::CloudEvent, "application/cloudevents+json", &single), &event);

        let batch = body(&[(&event, context())], DeliverySchema::CloudEvent, true);
        let again = parsed(InputSchema::CloudEvent, content_type(DeliverySchema::CloudEvent, true), &batch);
        prop_assert_eq!(&again, &event);
    }

    #[test]
    fn an_event_grid_event_is_the_same_but_for_its_topic(
        id in attribute(),
        subject in attribute(),
        version in attribute(),
        data in any_data(),
    ) {
        let data = if matches!(data, Data::Binary(_)) { Data::Absent } else { data };
        let event = Event {
            id: id.into(), subject: Some(subject.into()), data_schema: Some(version.into()), data, ..grid()
        };
        let out = body(&[(&event, context())], DeliverySchema::EventGrid, false);
        let again = parsed(InputSchema::EventGrid, "application/json", &out);
        prop_assert_eq!(again, Event { source: TOPIC.into(), ..event });
    }

    #[test]
    fn a_custom_event_is_the_same_text(value in any::<String>()) {
        let object = json!({ "eventType": "t", "value": value }).to_string();
        let event = Event { data: Data::Json(object.clone().into()), ..custom() };
        let out = body(&[(&event, context())], DeliverySchema::Custom, false);
        prop_assert_eq!(parsed(InputSchema::Custom, "", &out).data, Data::Json(object.into()));
    }
}
