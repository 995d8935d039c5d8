//! What is taken and what is refused, as tables.

use proptest::prelude::*;

use super::*;
use crate::event::{Data, Extension};
use crate::limits::{ATTRIBUTE_BYTES_MAX, ENVELOPE_MEMBERS_MAX, JSON_DEPTH_MAX};
use ErrorCode::{
    DuplicateAttribute, EmptyBatch, InvalidEvent, InvalidJson, TooComplex, TooLarge, TooManyEvents,
    UnsupportedMediaType,
};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json; charset=utf-8";
const BASE: &str = r#""specversion":"1.0","id":"1","source":"/s","type":"t""#;

/// The number of events, or the refusal's code and a part of its message.
type Expected<'a> = Result<usize, (ErrorCode, &'a str)>;

fn request<'a>(schema: InputSchema, content_type: &'a str, body: &'a [u8]) -> PublishRequest<'a> {
    PublishRequest {
        kind: TopicKind::Custom,
        schema,
        mapping: None,
        content_type: (!content_type.is_empty()).then_some(content_type),
        ce_headers: &[],
        body,
        now: Timestamp::from_millis(1_795_465_178_054),
    }
}

fn parsed<'a>(request: &PublishRequest<'a>) -> Result<Vec<Event<'a>>, ApiError> {
    let mut count = 0;
    parse(request, &mut || {
        count += 1;
        format!("new-{count}")
    })
}

#[track_caller]
fn check(request: &PublishRequest<'_>, expected: Expected<'_>) {
    let body = String::from_utf8_lossy(&request.body[..request.body.len().min(200)]);
    match (parsed(request), expected) {
        (Ok(events), Ok(count)) => assert_eq!(events.len(), count, "{body}"),
        (Err(error), Err((code, part))) => {
            assert_eq!(error.code, code, "{error} for {body}");
            assert!(error.message.contains(part), "{error} for {body}");
            assert!(error.message.len() < 512, "{error}");
            let expects_detail = error.status() == 400;
            assert_eq!(error.detail, expects_detail.then_some("InputJsonInvalid"), "{error}");
        }
        (outcome, expected) => panic!("{outcome:?} instead of {expected:?} for {body}"),
    }
}

#[track_caller]
fn check_structured(body: &str, expected: Expected<'_>) {
    check(&request(InputSchema::CloudEvent, STRUCTURED, body.as_bytes()), expected);
    let namespace = PublishRequest {
        kind: TopicKind::Namespace,
        ..request(InputSchema::EventGrid, STRUCTURED, body.as_bytes())
    };
    check(&namespace, expected);
}

/// An Event Grid event with `members` in place of, or beside, the usual ones.
fn grid(members: &str) -> String {
    let mut event = String::from("[{");
    for (name, value) in [
        ("id", r#""1""#),
        ("subject", r#""s""#),
        ("eventType", r#""t""#),
        ("eventTime", r#""2026-11-22T20:19:38Z""#),
    ] {
        if !members.contains(&format!("\"{name}\":")) {
            event.extend(["\"", name, "\":", value, ","]);
        }
    }
    event + members + "}]"
}

#[track_caller]
fn check_grid(members: &str, expected: Expected<'_>) {
    let body = grid(members);
    check(&request(InputSchema::EventGrid, "application/json", body.as_bytes()), expected);
}

#[test]
fn an_event_of_the_other_schema_is_called_so() {
    let says = |schema, content_type, body: &str| {
        let error = parsed(&request(schema, content_type, body.as_bytes())).expect_err(body);
        assert_eq!(error.code, InvalidEvent, "{error}");
        error.message.contains("This topic takes").then_some(error.message)
    };
    let (cloud, event_grid) = (InputSchema::CloudEvent, InputSchema::EventGrid);
    let one = format!("{{{BASE}}}");
    for body in [one.clone(), format!(" [{one}]")] {
        let said = says(event_grid, STRUCTURED, &body).expect(&body);
        assert!(said.contains("looks like CloudEvents"), "{said}");
    }
    let said = says(cloud, BATCH, &grid(r#""dataVersion":"1""#)).expect("a remark");
    assert!(said.contains("looks like events of the Event Grid schema"), "{said}");
    // What is merely wrong is not called something else.
    for (schema, body) in [
        (event_grid, grid(r#""id":7"#)),
        (event_grid, grid(r#""id":7,"specversion":"1.0""#)),
        (event_grid, "7".to_owned()),
        (event_grid, "[7]".to_owned()),
        (cloud, "[{}]".to_owned()),
        (cloud, format!("[{{{BASE},\"eventType\":\"t\",\"eventTime\":\"x\"}}]")),
    ] {
        assert_eq!(says(schema, BATCH, &body), None, "{body}");
    }
}

#[test]
fn the_content_type_decides_the_mode() {
    let one = format!("{{{BASE}}}");
    let many = format!("[{{{BASE}}},{{{BASE}}}]");
    let (custom, namespace) = (TopicKind::Custom, TopicKind::Namespace);
    let rows: &[(TopicKind, &str, &str, Expected<'_>)] = &[
        (custom, STRUCTURED, &one, Ok(1)),
        (namespace, STRUCTURED, &one, Ok(1)),
        (custom, "APPLICATION/CloudEvents+JSON ; charset=\"UTF-8\"", &one, Ok(1)),
        (namespace, BATCH, &many, Ok(2)),
        (custom, BATCH, &many, Ok(2)),
        (custom, "application/json", &one, Ok(1)),
        (custom, "application/json; charset=utf-8", &many, Ok(2)),
        (custom, "application/json", "7", Err((InvalidEvent, "array"))),
        (namespace, "application/json", &one, Err((UnsupportedMediaType, "content type"))),
        (custom, "text/plain", &one, Err((UnsupportedMediaType, ""))),
        (custom, "application/x-www-form-urlencoded", &one, Err((UnsupportedMediaType, ""))),
        (custom, "", &one, Err((UnsupportedMediaType, ""))),
        (namespace, "", &one, Err((UnsupportedMediaType, ""))),
        (custom, "application/cloudevents+avro", &one, Err((UnsupportedMediaType, ""))),
        (custom, "application/cloudevents", &one, Err((UnsupportedMediaType, ""))),
        (custom, "é", &one, Err((UnsupportedMediaType, ""))),
        (
            custom,
            "application/cloudevents+json; charset=iso-8859-1",
            &one,
            Err((UnsupportedMediaType, "charset")),
        ),
        (
            namespace,
            "application/cloudevents-batch+json;charset=utf-16",
            &many,
            Err((UnsupportedMediaType, "")),
        ),
        (custom, STRUCTURED, &many, Err((InvalidEvent, "object"))),
        (custom, BATCH, &one, Err((InvalidEvent, "array"))),
        (custom, BATCH, "[]", Err((EmptyBatch, ""))),
        (custom, BATCH, " [ ] ", Err((EmptyBatch, ""))),
    ];
    for &(kind, content_type, body, expected) in rows {
        check(
            &PublishRequest { kind, ..request(InputSchema::CloudEvent, content_type, body.as_bytes()) },
            expected,
        );
    }
}

#[test]
fn broken_json_is_refused() {
    let rows: &[&[u8]] = &[
        b"",
        b" ",
        b"nonsense",
        b"{",
        b"[",
        b"[{]",
        b"[{}",
        b"{}{}",
        b"[]x",
        b"[{},]",
        b"{\"a\":1,}",
        b"{a:1}",
        b"{'a':1}",
        b"{\"a\":NaN}",
        b"{\"a\":Infinity}",
        b"{\"a\":-Infinity}",
        b"{\"a\":01}",
        b"{\"a\":1.}",
        b"{\"a\":+1}",
        b"{\"a\":tru}",
        b"{\"a\":\"\\x\"}",
        b"{\"a\":\"\\u12g4\"}",
        b"{\"a\":\"\\ud83d\"}",
        b"{\"\\ud83d\":1}",
        b"{\"data\":{\"x\":[\"\\ude00\"]}}",
        b"{\"data\":\"line\nbreak\"}",
        b"{\"data\":\"nul\0\"}",
        b"{\"data\":\"\xff\"}",
        b"{\"data\":\"\xed\xa0\x80\"}",
        b"\xef\xbb\xbf{}",
        b"{\"data\" 1}",
        b"// a comment\n{}",
    ];
    for body in rows {
        for (schema, content_type) in [
            (InputSchema::CloudEvent, STRUCTURED),
            (InputSchema::CloudEvent, BATCH),
            (InputSchema::EventGrid, "application/json"),
            (InputSchema::Custom, "application/json"),
        ] {
            match parsed(&request(schema, content_type, body)) {
                Ok(events) => panic!("{events:?}"),
                // A body of the wrong outer shape may be refused for that.
                Err(error) => assert!(
                    [InvalidJson, InvalidEvent].contains(&error.code) && error.status() == 400,
                    "{error}"
                ),
            }
        }
        let in_array = [b"[", *body, b"]"].concat();
        if body.starts_with(b"{\"") {
            check(&request(InputSchema::EventGrid, "", &in_array), Err((InvalidJson, "")));
            check(&request(InputSchema::Custom, "", &in_array), Err((InvalidJson, "")));
            // An attribute's name is judged as it comes, so a bad one may be met before the bad JSON.
            check(&request(InputSchema::CloudEvent, STRUCTURED, body), Err((InvalidJson, "")));
        }
    }
    check_structured(&format!("{{{BASE}}} x"), Err((InvalidJson, "trailing")));
}

#[test]
fn a_cloud_event_must_be_whole() {
    let rows: &[(&str, Expected<'_>)] = &[
        (
            r#"{"specversion":"1.0","source":"/s","type":"t"}"#,
            Err((InvalidEvent, "'id' of the event at index 0")),
        ),
        (r#"{"specversion":"1.0","id":"","source":"/s","type":"t"}"#, Err((InvalidEvent, "'id'"))),
        (r#"{"specversion":"1.0","id":null,"source":"/s","type":"t"}"#, Err((InvalidEvent, "'id'"))),
        (r#"{"specversion":"1.0","id":1,"source":"/s","type":"t"}"#, Err((InvalidEvent, "'id'"))),
        (r#"{"specversion":"1.0","id":["1"],"source":"/s","type":"t"}"#, Err((InvalidEvent, "'id'"))),
        (r#"{"specversion":"1.0","id":"1","type":"t"}"#, Err((InvalidEvent, "'source'"))),
        (r#"{"specversion":"1.0","id":"1","source":"","type":"t"}"#, Err((InvalidEvent, "'source'"))),
        (r#"{"specversion":"1.0","id":"1","source":"a b","type":"t"}"#, Err((InvalidEvent, "URI"))),
        (r#"{"specversion":"1.0","id":"1","source":"a%4","type":"t"}"#, Err((InvalidEvent, "URI"))),
        (r#"{"specversion":"1.0","id":"1","source":"/s"}"#, Err((InvalidEvent, "'type'"))),
        (r#"{"specversion":"1.0","id":"1","source":"/s","type":""}"#, Err((InvalidEvent, "'type'"))),
        (r#"{"id":"1","source":"/s","type":"t"}"#, Err((InvalidEvent, "'specversion'"))),
        (r#"{"specversion":"0.3","id":"1","source":"/s","type":"t"}"#, Err((InvalidEvent, "'specversion'"))),
        (r#"{"specversion":1.0,"id":"1","source":"/s","type":"t"}"#, Err((InvalidEvent, "'specversion'"))),
        ("{}", Err((InvalidEvent, "'specversion'"))),
    ];
    for &(body, expected) in rows {
        check_structured(body, expected);
    }
}

#[test]
fn cloud_event_members_are_judged_one_by_one() {
    let long = "x".repeat(ATTRIBUTE_BYTES_MAX);
    let longer = format!("x{long}");
    let digits = "1".repeat(ATTRIBUTE_BYTES_MAX + 1);
    let name = "n".repeat(64);
    let rows: Vec<(String, Expected<'_>)> = [
        (r#""time":"2026-11-22T20:19:38Z""#, Ok(1)),
        (r#""time":null"#, Ok(1)),
        (r#""time":"""#, Err((InvalidEvent, "'time'"))),
        (r#""time":"yesterday""#, Err((InvalidEvent, "'time'"))),
        (r#""time":"2026-11-22T20:19:38""#, Err((InvalidEvent, "'time'"))),
        (r#""time":"2026-11-22T20:19:38+0000""#, Err((InvalidEvent, "'time'"))),
        (r#""time":1795465178"#, Err((InvalidEvent, "'time'"))),
        (r#""subject":"""#, Ok(1)),
        (r#""subject":"a\nb""#, Err((InvalidEvent, "control"))),
        (r#""subject":"a\u0000b""#, Err((InvalidEvent, "control"))),
        ("\"subject\":\"a\u{7f}b\"", Err((InvalidEvent, "control"))),
        ("\"subject\":\"a\u{85}b\"", Err((InvalidEvent, "control"))),
        (r#""subject":"a\u00e9\ud83d\ude00""#, Ok(1)),
        (r#""dataschema":"https://s/1#a""#, Ok(1)),
        (r#""dataschema":"""#, Err((InvalidEvent, "'dataschema'"))),
        (r#""dataschema":"a b""#, Err((InvalidEvent, "'dataschema'"))),
        (r#""datacontenttype":"application/cloudevents+json; charset=utf-8","data":{}"#, Ok(1)),
        (r#""datacontenttype":{}"#, Err((InvalidEvent, "'datacontenttype'"))),
        (r#""tenant":"a""#, Ok(1)),
        (r#""tenant":5"#, Ok(1)),
        (r#""tenant":true"#, Ok(1)),
        (r#""tenant":null"#, Ok(1)),
        (r#""tenant":"""#, Ok(1)),
        (r#""tenant":{}"#, Err((InvalidEvent, "'tenant'"))),
        (r#""tenant":[1]"#, Err((InvalidEvent, "'tenant'"))),
        (r#""tenant":"a\tb""#, Err((InvalidEvent, "'tenant'"))),
        (r#""Tenant":"a""#, Err((InvalidEvent, "'Tenant'"))),
        (r#""my-tenant":"a""#, Err((InvalidEvent, "'my-tenant'"))),
        (r#""my_tenant":null"#, Err((InvalidEvent, "'my_tenant'"))),
        (r#""größe":1"#, Err((InvalidEvent, "'größe'"))),
        (r#""":1"#, Err((InvalidEvent, "''"))),
        (r#""id":"2""#, Err((DuplicateAttribute, "'id'"))),
        (r#""\u0069d":"2""#, Err((DuplicateAttribute, "'id'"))),
        (r#""id":null"#, Err((DuplicateAttribute, "'id'"))),
        (r#""a":1,"a":1"#, Err((DuplicateAttribute, "'a'"))),
        (r#""a":null,"a":1"#, Err((DuplicateAttribute, "'a'"))),
        (r#""data":1,"data":2"#, Err((DuplicateAttribute, "'data'"))),
        (r#""data_base64":"","data_base64":"""#, Err((DuplicateAttribute, "'data_base64'"))),
        (r#""data":{"a":1,"a":2}"#, Ok(1)),
        (r#""data":1,"data_base64":"AA==""#, Err((InvalidEvent, "'data_base64'"))),
        (r#""data":null,"data_base64":"AA==""#, Ok(1)),
        (r#""data":1,"data_base64":null"#, Ok(1)),
        (r#""data_base64":"AA""#, Err((InvalidEvent, "base64"))),
        (r#""data_base64":"AB==""#, Err((InvalidEvent, "base64"))),
        (r#""data_base64":"A-_A""#, Err((InvalidEvent, "base64"))),
        (r#""data_base64":"AA ==""#, Err((InvalidEvent, "base64"))),
        (r#""data_base64":7"#, Err((InvalidEvent, "string"))),
    ]
    .map(|(members, expected)| (members.to_owned(), expected))
    .into_iter()
    .chain([
        (format!("\"subject\":\"{long}\""), Ok(1)),
        (format!("\"subject\":\"{longer}\""), Err((InvalidEvent, "4096"))),
        (format!("\"tenant\":\"{long}\""), Ok(1)),
        (format!("\"tenant\":\"{longer}\""), Err((InvalidEvent, "4096"))),
        (format!("\"tenant\":{digits}"), Err((InvalidEvent, "4096"))),
        (format!("\"{name}\":1"), Ok(1)),
        (format!("\"{name}n\":1"), Err((InvalidEvent, "nnn"))),
    ])
    .collect();
    for (members, expected) in rows {
        check_structured(&format!("{{{BASE},{members}}}"), expected);
    }
}

#[test]
fn an_event_grid_event_must_be_whole() {
    let rows: &[(&str, Expected<'_>)] = &[
        (r#""data":{"a":1},"dataVersion":"1.0""#, Ok(1)),
        (r#""data":null"#, Ok(1)),
        (r#""dataVersion":"""#, Ok(1)),
        (r#""dataVersion":null"#, Ok(1)),
        (r#""dataVersion":1"#, Err((InvalidEvent, "'dataVersion'"))),
        (r#""metadataVersion":"1""#, Ok(1)),
        (r#""metadataVersion":null"#, Ok(1)),
        (r#""metadataVersion":"2""#, Err((InvalidEvent, "'metadataVersion'"))),
        (r#""metadataVersion":1"#, Err((InvalidEvent, "'metadataVersion'"))),
        (r#""topic":null"#, Ok(1)),
        (r#""topic":"""#, Ok(1)),
        (r#""topic":"/subscriptions/x""#, Ok(1)),
        (r#""topic":5"#, Err((InvalidEvent, "'topic'"))),
        (r#""extra":{"deep":[1,2]}"#, Ok(1)),
        (r#""extra":1,"extra":2"#, Err((DuplicateAttribute, "'extra'"))),
        (r#""id":"""#, Err((InvalidEvent, "'id' of the event at index 0 is required"))),
        (r#""id":null"#, Err((InvalidEvent, "'id'"))),
        (r#""id":7"#, Err((InvalidEvent, "'id'"))),
        (r#""id":"1","id":"1""#, Err((DuplicateAttribute, "'id'"))),
        (r#""subject":"""#, Err((InvalidEvent, "'subject'"))),
        (r#""subject":"a\rb""#, Err((InvalidEvent, "'subject'"))),
        (r#""eventType":"""#, Err((InvalidEvent, "'eventType'"))),
        (r#""eventType":{}"#, Err((InvalidEvent, "'eventType'"))),
        (r#""eventTime":"""#, Err((InvalidEvent, "'eventTime'"))),
        (r#""eventTime":"2026-11-22T20:19:38+0000""#, Ok(1)),
        (r#""eventTime":"2026-11-22T20:19:38.1234567+00:00""#, Ok(1)),
        (r#""eventTime":"2026-11-22T20:19:38""#, Err((InvalidEvent, "'eventTime'"))),
        (r#""eventTime":"11/22/2026""#, Err((InvalidEvent, "'eventTime'"))),
        (r#""eventTime":1795465178"#, Err((InvalidEvent, "'eventTime'"))),
        (r#""data":1,"data":1"#, Err((DuplicateAttribute, "'data'"))),
    ];
    for &(members, expected) in rows {
        check_grid(members, expected);
    }
    let whole = grid(r#""data":{}"#);
    let object = whole.trim_matches(['[', ']']);
    for name in ["id", "subject", "eventType", "eventTime"] {
        let without = format!("[{object},{}]", object.replace(name, "other"));
        let part = format!("'{name}' of the event at index 1");
        check(&request(InputSchema::EventGrid, "", without.as_bytes()), Err((InvalidEvent, &part)));
    }
}

#[test]
fn event_grid_and_custom_topics_take_an_array_of_any_type_of_content() {
    let array = grid(r#""data":{}"#);
    let one = array.trim_matches(['[', ']']).to_owned();
    for schema in [InputSchema::EventGrid, InputSchema::Custom] {
        for (content_type, body, expected) in [
            ("application/json", &*array, Ok(1)),
            ("", &array, Ok(1)),
            ("application/x-www-form-urlencoded", &array, Ok(1)),
            (STRUCTURED, &array, Ok(1)),
            ("application/json; charset=latin1", &array, Err((UnsupportedMediaType, "charset"))),
            ("application/json", &one, Err((InvalidEvent, "array"))),
            ("application/json", "[]", Err((EmptyBatch, ""))),
            ("application/json", "[1]", Err((InvalidEvent, "index 0 must be a JSON object"))),
            ("application/json", "[[]]", Err((InvalidEvent, "index 0 must be a JSON object"))),
            ("application/json", "[null]", Err((InvalidEvent, "index 0 must be a JSON object"))),
            ("application/json", "\"text\"", Err((InvalidEvent, "array"))),
            ("application/json", "", Err((InvalidJson, ""))),
        ] {
            check(&request(schema, content_type, body.as_bytes()), expected);
        }
        let headers = [("ce-id", "1")];
        let both =
            PublishRequest { ce_headers: &headers, ..request(schema, "application/json", array.as_bytes()) };
        check(&both, Err((UnsupportedMediaType, "CloudEvents")));
    }
    let second = format!("[{one},\"x\"]");
    check(
        &request(InputSchema::EventGrid, "", second.as_bytes()),
        Err((InvalidEvent, "index 1 must be a JSON")),
    );
}

#[test]
fn requests_are_bounded() {
    let batch = |count: usize| format!("[{}]", vec![format!("{{{BASE}}}"); count].join(","));
    let cloud = |body: &str, kind, expected| {
        check(&PublishRequest { kind, ..request(InputSchema::CloudEvent, BATCH, body.as_bytes()) }, expected);
    };
    cloud(&batch(BASIC_EVENTS_MAX), TopicKind::Custom, Ok(BASIC_EVENTS_MAX));
    cloud(&batch(BASIC_EVENTS_MAX + 1), TopicKind::Custom, Err((TooManyEvents, "5000")));
    cloud(&batch(NAMESPACE_EVENTS_MAX), TopicKind::Namespace, Ok(NAMESPACE_EVENTS_MAX));
    cloud(&batch(NAMESPACE_EVENTS_MAX + 1), TopicKind::Namespace, Err((TooManyEvents, "1000")));
    let custom = format!("[{}]", vec![r#"{"eventType":"t"}"#; BASIC_EVENTS_MAX + 1].join(","));
    check(&request(InputSchema::Custom, "", custom.as_bytes()), Err((TooManyEvents, "5000")));

    let filling = REQUEST_BYTES_MAX - grid(r#""data":"""#).len();
    check_grid(&format!(r#""data":"{}""#, "x".repeat(filling)), Ok(1));
    check_grid(&format!(r#""data":"{}""#, "x".repeat(filling + 1)), Err((TooLarge, "")));

    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    check_grid(&format!(r#""data":{}"#, nested(JSON_DEPTH_MAX - 2)), Ok(1));
    check_grid(&format!(r#""data":{}"#, nested(JSON_DEPTH_MAX - 1)), Err((TooComplex, "64")));
    check_grid(&format!(r#""extra":{}"#, nested(JSON_DEPTH_MAX)), Err((TooComplex, "64")));
    check_grid(&format!(r#""data":{}"#, nested(100_000)), Err((TooComplex, "64")));
    check_grid(&format!(r#""data":{}"#, "[".repeat(100_000)), Err((InvalidJson, "")));
    check_structured(&format!(r#"{{{BASE},"data":{}}}"#, nested(JSON_DEPTH_MAX - 1)), Ok(1));
    check_structured(&format!(r#"{{{BASE},"data":{}}}"#, nested(JSON_DEPTH_MAX)), Err((TooComplex, "64")));
    let deep = format!(r#"[{{"eventType":"t","a":{}}}]"#, nested(JSON_DEPTH_MAX));
    check(&request(InputSchema::Custom, "", deep.as_bytes()), Err((TooComplex, "64")));

    let members = |count: usize| {
        (0..count).flat_map(|n| [",\"a".to_owned(), n.to_string(), "\":1".to_owned()]).collect::<String>()
    };
    let many = members(ENVELOPE_MEMBERS_MAX);
    check_structured(&format!("{{{BASE}{many}}}"), Err((TooComplex, "10000")));
    check_grid(&many[1..], Err((TooComplex, "10000")));
    let custom = format!(r#"[{{"eventType":"t"{many}}}]"#);
    check(&request(InputSchema::Custom, "", custom.as_bytes()), Err((TooComplex, "10000")));
    let fewer = members(5_000);
    check_structured(&format!("{{{BASE}{fewer}}}"), Ok(1));
    check_structured(&format!("{{{BASE}{fewer},\"a4321\":1}}"), Err((DuplicateAttribute, "'a4321'")));
}

/// One row of the binary-mode table: what is added to the required headers, the content type, the body, and
/// the data they make or the refusal.
type BinaryRow<'a> =
    (&'a [(&'a str, &'a str)], &'a str, &'a [u8], Result<Data<'static>, (ErrorCode, &'a str)>);

fn json(text: &'static str) -> Data<'static> {
    Data::Json(text.into())
}

fn bytes(bytes: &'static [u8]) -> Data<'static> {
    Data::Binary(bytes.into())
}

#[test]
fn binary_mode_puts_attributes_in_headers() {
    let rows: &[BinaryRow<'_>] = &[
        (&[], "application/json", b"{\"a\": 1}", Ok(json("{\"a\": 1}"))),
        (&[], "application/json; charset=utf-8", b" [1] ", Ok(json("[1]"))),
        (&[], "application/vnd.x+json", b"1", Ok(json("1"))),
        (&[], "text/json", b"1", Ok(json("1"))),
        (&[], "text/plain", b"say \"hi\"\n", Ok(json("\"say \\\"hi\\\"\\n\""))),
        (&[], "text/plain; charset=utf-8", "é".as_bytes(), Ok(json("\"é\""))),
        (&[], "application/octet-stream", b"\x00\xff", Ok(bytes(b"\x00\xff"))),
        (&[], "application/xml", b"<a/>", Ok(bytes(b"<a/>"))),
        (&[], "image/png; charset=x", b"p", Ok(bytes(b"p"))),
        (&[], "", b"p", Ok(bytes(b"p"))),
        (&[], "application/json", b"", Ok(Data::Absent)),
        (&[], "", b"", Ok(Data::Absent)),
        (&[("ce-tenant", "a%20b")], "text/plain", b"x", Ok(json("\"x\""))),
        (&[("ce-subject", "\"a \\\"b\\\" %e2%82%ac\"")], "", b"", Ok(Data::Absent)),
        (&[("ce-time", "2026-11-22T20:19:38Z")], "", b"", Ok(Data::Absent)),
        (&[], "application/json", b"{", Err((InvalidJson, ""))),
        (&[], "application/json", b"1 2", Err((InvalidJson, ""))),
        (&[], "application/json", b"\"\\ud83d\"", Err((InvalidJson, "surrogate"))),
        (&[], "application/json", b"\xff", Err((InvalidJson, "UTF-8"))),
        (&[], "text/plain", b"\xff", Err((InvalidJson, "UTF-8"))),
        (&[], "application/json; charset=latin1", b"1", Err((UnsupportedMediaType, "charset"))),
        (&[], "text/plain; charset=latin1", b"x", Err((UnsupportedMediaType, "charset"))),
        (&[], STRUCTURED, b"{}", Err((InvalidEvent, "structured"))),
        (&[], BATCH, b"[]", Err((InvalidEvent, "structured"))),
        (&[], "application/cloudevents+avro", b"", Err((InvalidEvent, "structured"))),
        (&[("ce-id", "2")], "", b"", Err((DuplicateAttribute, "'ce-id'"))),
        (&[("ce-a", "1"), ("ce-a", "1")], "", b"", Err((DuplicateAttribute, "'ce-a'"))),
        (&[("ce-datacontenttype", "text/plain")], "", b"", Err((InvalidEvent, "'ce-datacontenttype'"))),
        (&[("ce-data", "1")], "", b"", Err((InvalidEvent, "'ce-data'"))),
        (&[("ce-data_base64", "AA==")], "", b"", Err((InvalidEvent, "'ce-data_base64'"))),
        (&[("ce-", "1")], "", b"", Err((InvalidEvent, "'ce-'"))),
        (&[("ce-a-b", "1")], "", b"", Err((InvalidEvent, "'ce-a-b'"))),
        (&[("ce-aaaaabbbbbcccccddddd", "1")], "", b"", Ok(Data::Absent)),
        (&[("ce-aaaaabbbbbcccccddddde", "1")], "", b"", Err((InvalidEvent, "1 to 20"))),
        (&[("ce-tenant", "50%")], "", b"", Err((InvalidEvent, "percent"))),
        (&[("ce-tenant", "%zz")], "", b"", Err((InvalidEvent, "percent"))),
        (&[("ce-tenant", "%ff")], "", b"", Err((InvalidEvent, "percent"))),
        (&[("ce-tenant", "\"a\"b\"")], "", b"", Err((InvalidEvent, "percent"))),
        (&[("ce-tenant", "\"a\\\"")], "", b"", Err((InvalidEvent, "percent"))),
        (&[("ce-tenant", "a%0d%0ab")], "", b"", Err((InvalidEvent, "control"))),
        (&[("ce-subject", "a%00b")], "", b"", Err((InvalidEvent, "control"))),
        (&[("ce-time", "today")], "", b"", Err((InvalidEvent, "'time'"))),
        (&[("ce-dataschema", "a%20b")], "", b"", Err((InvalidEvent, "'dataschema'"))),
    ];
    let base = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
    for (more, content_type, body, expected) in rows {
        let headers = [&base, *more].concat();
        for kind in [TopicKind::Custom, TopicKind::Namespace] {
            let request = PublishRequest {
                kind,
                ce_headers: &headers,
                ..request(InputSchema::CloudEvent, content_type, body)
            };
            match expected {
                Ok(data) => {
                    let events = parsed(&request).unwrap();
                    assert_eq!(&events[0].data, data, "{content_type}");
                    assert_eq!(events[0].data_content_type.as_deref(), request.content_type);
                }
                Err(expected) => check(&request, Err(*expected)),
            }
        }
    }
    for missing in 0..base.len() {
        let mut headers = base.to_vec();
        let (name, _) = headers.remove(missing);
        let request =
            PublishRequest { ce_headers: &headers, ..request(InputSchema::CloudEvent, "text/plain", b"x") };
        let part = format!("'{}'", name.trim_start_matches("ce-"));
        check(&request, Err((InvalidEvent, &part)));
    }
}

#[test]
fn binary_attributes_are_decoded_once() {
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "a%2520b"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("ce-tenant", "\"Euro \\\\ %E2%82%AC\""),
    ];
    let events =
        parsed(&PublishRequest { ce_headers: &headers, ..request(InputSchema::CloudEvent, "", b"") });
    let event = &events.unwrap()[0];
    assert_eq!(event.id, "a%20b");
    assert_eq!(event.extensions, [Extension { name: "tenant".into(), json: r#""Euro \\ €""#.into() }]);
}

#[test]
fn a_parsed_event_borrows_what_it_can() {
    let body = format!(r#"{{{BASE},"subject":"a\u0062","tenant" : 1.0 ,"data": {{"a" : [ 1 ]}} }}"#);
    let events = parsed(&request(InputSchema::CloudEvent, STRUCTURED, body.as_bytes())).unwrap();
    let event = &events[0];
    assert!(matches!(event.id, std::borrow::Cow::Borrowed("1")));
    assert_eq!(event.subject.as_deref(), Some("ab"));
    assert_eq!(event.extensions, [Extension { name: "tenant".into(), json: "1.0".into() }]);
    assert!(matches!(&event.data, Data::Json(std::borrow::Cow::Borrowed(r#"{"a" : [ 1 ]}"#))));
}

/// An event, and its id, type, subject and time, or the refusal.
type CustomRow<'a> = (&'a str, Result<[&'a str; 4], (ErrorCode, &'a str)>);

#[test]
fn a_mapping_finds_the_envelope_in_any_object() {
    let arm = serde_json::json!({ "inputSchemaMappingType": "Json", "properties": {
        "id": { "sourceField": "order.id" },
        "topic": { "sourceField": "shop" },
        "eventTime": { "sourceField": "at" },
        "eventType": { "sourceField": "kind", "defaultValue": "order" },
        "subject": { "sourceField": "a.b", "defaultValue": "orders" },
        "dataVersion": { "defaultValue": "2" },
    }});
    let mapping = InputMapping::from_arm(&arm).unwrap();
    let now = "2026-11-23T20:19:38.054Z";
    let rows: &[CustomRow<'_>] = &[
        ("{}", Ok(["new-1", "order", "orders", now])),
        (r#"{"order":{"id":7},"kind":"k","a":{"b":"s"}}"#, Ok(["7", "k", "s", now])),
        (r#"{"a":{"b":"walked"},"a.b":"whole"}"#, Ok(["new-1", "order", "whole", now])),
        (r#"{"order":{"id":"1","id":"2"}}"#, Ok(["2", "order", "orders", now])),
        (r#"{"order":{"id":true},"a":null}"#, Ok(["true", "order", "orders", now])),
        (r#"{"order":5,"a":[{"b":1}],"kind":""}"#, Ok(["new-1", "order", "orders", now])),
        (r#"{"order":{"id":""},"kind":null}"#, Ok(["new-1", "order", "orders", now])),
        (r#"{"at":"2026-01-01T00:00:00Z"}"#, Ok(["new-1", "order", "orders", "2026-01-01T00:00:00Z"])),
        (r#"{"at":"soon"}"#, Err((InvalidEvent, "'at' of the event at index 0"))),
        (r#"{"kind":{}}"#, Err((InvalidEvent, "'kind'"))),
        (r#"{"order":{"id":[]}}"#, Err((InvalidEvent, "'order.id'"))),
        (r#"{"kind":"a\nb"}"#, Err((InvalidEvent, "control"))),
        (r#"{"kind":"a","kind":"b"}"#, Err((DuplicateAttribute, "'kind'"))),
        (r#"{"other":"a","other":"b"}"#, Ok(["new-1", "order", "orders", now])),
    ];
    for &(event, expected) in rows {
        let body = format!("[{event}]");
        let request =
            PublishRequest { mapping: Some(&mapping), ..request(InputSchema::Custom, "", body.as_bytes()) };
        let [id, event_type, subject, time] = match expected {
            Err(expected) => {
                check(&request, Err(expected));
                continue;
            }
            Ok(texts) => texts,
        };
        let events = parsed(&request).unwrap();
        assert_eq!(events[0].id, id, "{event}");
        assert_eq!(events[0].event_type, event_type, "{event}");
        assert_eq!(events[0].subject.as_deref(), Some(subject), "{event}");
        assert_eq!(events[0].time.as_deref(), Some(time), "{event}");
        assert_eq!(events[0].data_schema.as_deref(), Some("2"), "{event}");
        assert_eq!(events[0].data, Data::Json(event.into()));
    }
}

#[test]
fn a_custom_event_without_a_type_is_refused() {
    let untyped = InputMapping::default();
    for (mapping, body, expected) in [
        (None, r#"[{"eventType":"t"}]"#, Ok(1)),
        (
            None,
            r#"[{"eventType":"t"},{"id":"1"}]"#,
            Err((InvalidEvent, "'eventType' of the event at index 1")),
        ),
        (None, r#"[{"eventType":"t","id":{}}]"#, Err((InvalidEvent, "'id'"))),
        (Some(&untyped), r#"[{"eventType":"t"}]"#, Err((InvalidEvent, "'eventType'"))),
    ] {
        check(&PublishRequest { mapping, ..request(InputSchema::Custom, "", body.as_bytes()) }, expected);
    }
}

proptest! {
    #[test]
    fn no_body_makes_the_parser_panic(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        schema in 0..3usize,
    ) {
        let schema = [InputSchema::EventGrid, InputSchema::CloudEvent, InputSchema::Custom][schema];
        for content_type in [STRUCTURED, BATCH, "application/json"] {
            let _ = parsed(&request(schema, content_type, &body));
        }
    }

    #[test]
    fn no_change_of_a_good_body_makes_the_parser_panic(
        at in 0..200usize,
        with in any::<u8>(),
        cut in 0..200usize,
    ) {
        let mut body = format!(r#"[{{{BASE},"a":"\ud83d\ude00","data":{{"x":[1,"\\"]}}}}]"#).into_bytes();
        if let Some(byte) = body.get_mut(at) {
            *byte = with;
        }
        body.truncate(cut);
        let _ = parsed(&request(InputSchema::CloudEvent, BATCH, &body));
        let _ = parsed(&request(InputSchema::Custom, "", &body));
    }
}
