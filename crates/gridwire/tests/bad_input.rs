//! What the server refuses, and that a refusal leaves no trace: a table of requests in `bad_input/*.json`.
//!
//! A file is a list of groups: a request, what is expected of it, and rows that each spoil it in one way.
//! `set` and `remove` change `base` by JSON pointers; `body`, `base64`, `parts` (with repeats) and `raw` are
//! bodies of other kinds; `for` makes one row of each of its targets. `${name}` is filled in by the test,
//! `${x*9}` is nine times `x`.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use support::arm::{GROUP, Namespace, SUBSCRIPTION, Topic, VERSION, group_path, webhook_body};
use support::client::{send_once, send_raw};
use support::pull::Queue;
use support::{Answer, Arm, Client, Launch, Request, Server, Sink, events, metrics, wait_for};

/// Every table. Fewer rows than this, and one was lost.
const TABLES: [(&str, &str); 10] = [
    ("cloud_events", include_str!("bad_input/cloud_events.json")),
    ("credentials", include_str!("bad_input/credentials.json")),
    ("custom", include_str!("bad_input/custom.json")),
    ("domains", include_str!("bad_input/domains.json")),
    ("event_grid", include_str!("bad_input/event_grid.json")),
    ("filters", include_str!("bad_input/filters.json")),
    ("http", include_str!("bad_input/http.json")),
    ("management", include_str!("bad_input/management.json")),
    ("publish_json", include_str!("bad_input/publish_json.json")),
    ("pull", include_str!("bad_input/pull.json")),
];
const ROWS_MIN: usize = 500;

/// What stands around the rows: resources of each kind, with events waiting, locked and settled.
struct World {
    server: Server,
    sink: Sink,
    names: BTreeMap<String, String>,
    grid: Topic,
    cloud: Topic,
    custom: Topic,
    namespace: Namespace,
}

/// One request and what is expected of it.
#[derive(Debug)]
struct Row {
    name: String,
    request: Request,
    /// These bytes instead of a request of ours.
    raw: Option<Vec<u8>>,
    /// Nothing is sent after `raw`, not even a wait for the answer.
    half: bool,
    status: u16,
    /// `error.code`.
    code: Option<String>,
    /// `error.innererror.code`.
    inner: Option<String>,
    /// `error.details[0].code`.
    detail: Option<String>,
    /// The error of each lock token, in an answer that is no refusal.
    failed: Option<String>,
    allow: Option<String>,
}

impl World {
    fn new() -> Self {
        // Each row is judged by itself, however many wrong keys came before it.
        let environment = vec![("GRIDWIRE_AUTH_FAILURES_PER_MINUTE", "0".into())];
        let server = Server::launch(Launch { environment, ..Launch::default() });
        let sink = Sink::start();
        let arm = Arm::new(&server);
        let grid = arm.topic("grid", &json!({}));
        let cloud = arm.topic("cloud", &json!({ "inputSchema": "CloudEventSchemaV1_0" }));
        let schema = json!({ "inputSchema": "CustomEventSchema", "inputSchemaMapping": events::mapping() });
        let custom = arm.topic("custom", &schema);
        let locked = arm.topic("locked", &json!({ "disableLocalAuth": true }));
        for topic in [&grid, &cloud, &custom, &locked] {
            arm.webhook(topic, "hook", &sink.url(&format!("/{}", topic.resource)), &json!({}));
        }
        for (name, schema) in [("malls", "EventGridSchema"), ("clouds", "CloudEventSchemaV1_0")] {
            let properties = json!({ "inputSchema": schema, "autoCreateTopicWithFirstSubscription": false });
            arm.put(&format!("domains/{name}"), &json!({ "location": "local", "properties": properties }));
            let hook = webhook_body(&sink.url(&format!("/{name}")), &json!({}));
            arm.put(&format!("domains/{name}/eventSubscriptions/all"), &hook);
        }
        arm.put("domains/malls/topics/north", &json!({}));
        let hook = webhook_body(&sink.url("/north"), &json!({}));
        arm.put("domains/malls/topics/north/eventSubscriptions/own", &hook);
        let namespace = arm.namespace("spaces");
        let other = arm.namespace("others");
        arm.namespace_topic(&namespace, "orders");
        arm.namespace_topic(&namespace, "returns");
        let queue = json!({ "receiveLockDurationInSeconds": 300 });
        arm.queue(&namespace, "orders", "pulled", &queue, &json!({}));
        arm.queue(&namespace, "orders", "other", &queue, &json!({}));
        arm.push(&namespace, "orders", "pushed", &sink.url("/pushed"), &json!({}));

        let batch: Vec<Value> = ["a", "b", "c"].map(events::cloud_event).into();
        server.send(&namespace.publish("orders", &json!(batch))).expect(200);
        sink.wait_at("/pushed", 3, Duration::from_secs(20));
        let mut client = Client::new(server.http);
        let mut token = |subscription: &str| {
            let queue = Queue::new(&namespace, "orders", subscription);
            let mut received = queue.receive(&mut client, 1).expect("an answer");
            assert_eq!(received.len(), 1, "one event was asked for and is there");
            received.remove(0).token
        };
        let (settled, lock, of_other) = (token("pulled"), token("pulled"), token("other"));
        let done =
            Queue::new(&namespace, "orders", "pulled").settle(&mut client, "acknowledge", "", &[&settled]);
        assert_eq!(done.expect("an answer").succeeded, std::slice::from_ref(&settled));

        let tokens = [
            ("token", server.token.clone()),
            ("sub", SUBSCRIPTION.to_owned()),
            ("group", GROUP.to_owned()),
            ("arm", group_path()),
            ("eg", format!("/{SUBSCRIPTION}/{GROUP}/topics/grid")),
            ("ce", format!("/{SUBSCRIPTION}/{GROUP}/topics/cloud")),
            ("cu", format!("/{SUBSCRIPTION}/{GROUP}/topics/custom")),
            ("locked", format!("/{SUBSCRIPTION}/{GROUP}/topics/locked")),
            ("ns", namespace.prefix.clone()),
            ("do", format!("/{SUBSCRIPTION}/{GROUP}/domains/malls")),
            ("dc", format!("/{SUBSCRIPTION}/{GROUP}/domains/clouds")),
            ("do.key", arm.key("domains/malls")),
            ("dc.key", arm.key("domains/clouds")),
            ("eg.key", grid.key.clone()),
            ("ce.key", cloud.key.clone()),
            ("cu.key", custom.key.clone()),
            ("locked.key", locked.key.clone()),
            ("ns.key", namespace.key.clone()),
            ("ns2.key", other.key),
            ("tq.key", arm.key("namespaces/spaces/topics/returns")),
            ("sink", sink.url("")),
            ("lock.changed", changed(&lock)),
            ("lock.cut", lock[..lock.len() / 2].to_owned()),
            ("lock", lock),
            ("lock.settled", settled),
            ("lock.other", of_other),
        ];
        let mut names: BTreeMap<String, String> =
            tokens.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let host = server.http.to_string();
        names.extend(
            signatures(&host, &grid, &cloud, &locked).into_iter().map(|(k, v)| (format!("sas.{k}"), v)),
        );
        Self { server, sink, names, grid, cloud, custom, namespace }
    }

    /// All that a refused request must leave as it is.
    fn state(&self, client: &mut Client) -> Vec<String> {
        let mut state = metrics::family(
            &self.server.metrics(),
            &[
                "gridwire_delivery_",
                "gridwire_log_durable_lsn ",
                "gridwire_log_events_total ",
                "gridwire_publish_events_",
            ],
        );
        // A topic's series appear, as zeros, with the first request that is counted at all.
        state.retain(|line| !line.ends_with(" 0"));
        let topics = ["grid", "cloud", "custom", "locked"].map(|name| format!("topics/{name}"));
        let domains = ["malls", "clouds"].map(|name| format!("domains/{name}"));
        let of_domain = ["domains/malls/topics/north".to_owned()];
        let namespaces = ["spaces", "others"].map(|name| format!("namespaces/{name}"));
        let of_namespace = ["orders", "returns"].map(|name| format!("namespaces/spaces/topics/{name}"));
        let mut reads: Vec<(&str, String)> =
            ["topics", "domains", "namespaces"].map(|kind| ("GET", kind.to_owned())).into();
        reads.extend(domains.iter().chain(&namespaces).map(|owner| ("GET", format!("{owner}/topics"))));
        for owner in topics.iter().chain(&domains).chain(&of_domain).chain(&of_namespace) {
            reads.push(("GET", format!("{owner}/eventSubscriptions")));
        }
        for owner in topics.iter().chain(&domains).chain(&namespaces).chain(&of_namespace) {
            reads.push(("POST", format!("{owner}/listKeys")));
        }
        // What only an action shows: secrets in a webhook's URL and in its headers.
        let hooks = topics.iter().map(|topic| format!("{topic}/eventSubscriptions/hook"));
        let of_domains = ["malls/eventSubscriptions/all", "clouds/eventSubscriptions/all"]
            .into_iter()
            .chain(["malls/topics/north/eventSubscriptions/own"])
            .map(|hook| format!("domains/{hook}"));
        for owner in hooks.chain(of_domains) {
            reads.push(("POST", format!("{owner}/getFullUrl")));
        }
        for (method, resource) in reads {
            let request = Request::new(method, format!("{}/{resource}?api-version={VERSION}", group_path()))
                .with("authorization", format!("Bearer {}", self.server.token));
            let answer = client.send(&request).expect("an answer to a management call").expect(200);
            state.push(format!("{resource}: {}", answer.text()));
        }
        state
    }

    fn fill(&self, table: &str) -> String {
        let mut filled = String::with_capacity(table.len() * 2);
        let mut rest = table;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').expect("a name in a table ends with a brace");
            filled.push_str(before);
            match name.split_once('*') {
                Some((text, times)) => {
                    filled.push_str(&text.repeat(times.parse().expect("a number of times")));
                }
                None => filled.push_str(self.names.get(name).unwrap_or_else(|| panic!("who is `{name}`?"))),
            }
            rest = after;
        }
        filled + rest
    }

    fn groups(&self) -> Vec<(&'static str, Value)> {
        let mut groups = Vec::new();
        for (file, table) in TABLES {
            let table: Vec<Value> =
                serde_json::from_str(&self.fill(table)).unwrap_or_else(|e| panic!("{file}: {e}"));
            groups.extend(table.into_iter().map(|group| (file, group)));
        }
        groups
    }
}

/// A token that differs in one character that matters.
fn changed(token: &str) -> String {
    let middle = token.len() / 2;
    let other = if token.as_bytes()[middle] == b'A' { "B" } else { "A" };
    format!("{}{other}{}", &token[..middle], &token[middle + 1..])
}

/// Shared access signatures, one right and the others wrong in one way each.
fn signatures(host: &str, grid: &Topic, cloud: &Topic, locked: &Topic) -> Vec<(&'static str, String)> {
    const FUTURE: &str = "6/15/2099 6:20:15 PM";
    let url = |topic: &Topic| {
        format!("http://{host}{}", topic.path.split('?').next().expect("a path before the query"))
    };
    let right = sign(&[("r", &url(grid)), ("e", FUTURE)], &grid.key);
    let signature_of = |token: &str| token.rsplit_once("&s=").expect("a signature").1.to_owned();
    let short = STANDARD.encode([7; 16]);
    vec![
        ("expired", sign(&[("r", &url(grid)), ("e", "6/15/2017 6:20:15 PM")], &grid.key)),
        ("other-key", sign(&[("r", &url(grid)), ("e", FUTURE)], &cloud.key)),
        ("other-topic", sign(&[("r", &url(cloud)), ("e", FUTURE)], &grid.key)),
        (
            "border",
            sign(
                &[("r", &format!("http://{host}/{SUBSCRIPTION}/{GROUP}/topics/gri")), ("e", FUTURE)],
                &grid.key,
            ),
        ),
        (
            "other-host",
            sign(&[("r", &url(grid).replace(host, "elsewhere.example")), ("e", FUTURE)], &grid.key),
        ),
        ("odd-expiry", sign(&[("r", &url(grid)), ("e", "next summer")], &grid.key)),
        ("changed", right.replace("2099", "2098")),
        ("short", format!("r=a&e={FUTURE}&s={}", encode(&short)).replace(' ', "%20")),
        ("not-base64", right.replace(&signature_of(&right), "%21%21%21")),
        ("no-expiry", sign(&[("r", &url(grid))], &grid.key)),
        ("two-expiries", sign(&[("r", &url(grid)), ("e", FUTURE), ("e", FUTURE)], &grid.key)),
        ("extra", sign(&[("r", &url(grid)), ("e", FUTURE), ("x", "1")], &grid.key)),
        ("locked", sign(&[("r", &url(locked)), ("e", FUTURE)], &locked.key)),
        ("good", right),
    ]
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn sign(fields: &[(&str, &str)], key: &str) -> String {
    let signed: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let signed = signed.join("&");
    let key = STANDARD.decode(key).expect("a key is base64");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let signature = STANDARD.encode(ring::hmac::sign(&key, signed.as_bytes()));
    format!("{signed}&s={}", encode(&signature))
}

/// The rows of a group, each made for each of its targets.
fn rows(file: &str, group: &Value) -> Vec<Row> {
    let about = group["about"].as_str().expect("a group says what it is about");
    let nothing = json!({});
    let targets: Vec<&Value> = match group["for"].as_array() {
        Some(targets) => targets.iter().collect(),
        None => vec![&nothing],
    };
    let mut rows = Vec::new();
    for row in group["rows"].as_array().expect("a group has rows") {
        for target in &targets {
            let mut merged = Map::new();
            for part in [&group["expect"], group, target, row] {
                overlay(&mut merged, part);
            }
            let name = row["name"].as_str().expect("a row has a name");
            let to = target["name"].as_str().map(|name| format!(" ({name})")).unwrap_or_default();
            rows.push(build(format!("{file}: {about}: {name}{to}"), &Value::Object(merged)));
        }
    }
    rows
}

/// Puts the members of `part` over what is there; headers one by one.
fn overlay(into: &mut Map<String, Value>, part: &Value) {
    for (name, value) in part.as_object().into_iter().flatten() {
        match (into.get_mut(name), value) {
            (Some(Value::Object(into)), Value::Object(value)) if name == "headers" => {
                into.extend(value.clone());
            }
            _ => {
                into.insert(name.clone(), value.clone());
            }
        }
    }
}

fn build(name: String, row: &Value) -> Row {
    let text = |member: &str| row[member].as_str().map(str::to_owned);
    let mut request =
        Request::new(row["method"].as_str().unwrap_or("POST"), text("path").unwrap_or_default());
    for (header, value) in row["headers"].as_object().into_iter().flatten() {
        match value {
            Value::Null => {}
            Value::Array(values) => {
                for value in values {
                    request = request.with(header, value.as_str().expect("a header's value"));
                }
            }
            value => request = request.with(header, value.as_str().expect("a header's value")),
        }
    }
    request.body = body(row);
    if row["chunked"] == true {
        let mut chunked = format!("{:x}\r\n", request.body.len()).into_bytes();
        chunked.append(&mut request.body);
        chunked.extend_from_slice(b"\r\n0\r\n\r\n");
        request = request.with("transfer-encoding", "chunked").body(chunked);
    }
    Row {
        name,
        request,
        raw: text("raw").map(String::into_bytes),
        half: row["half"] == true,
        status: row["status"].as_u64().and_then(|status| u16::try_from(status).ok()).expect("a status"),
        code: text("code"),
        inner: text("inner"),
        detail: text("detail"),
        failed: text("failed"),
        allow: text("allow"),
    }
}

fn body(row: &Value) -> Vec<u8> {
    if let Some(parts) = row["parts"].as_array() {
        return parts
            .iter()
            .map(|part| {
                if let Some(text) = part.as_str() {
                    return text.to_owned();
                }
                let times = part["times"].as_u64().and_then(|times| usize::try_from(times).ok());
                let text = part["repeat"].as_str().expect("a text to repeat");
                repeat(text, times.expect("a number of times"))
            })
            .collect::<String>()
            .into_bytes();
    }
    if let Some(text) = row["base64"].as_str() {
        return STANDARD.decode(text).expect("the row's base64");
    }
    // A row's own body wins over a base that its group has.
    if let Some(text) = row["body"].as_str() {
        return text.as_bytes().to_vec();
    }
    let mut base = row["base"].clone();
    for pointer in row["remove"].as_array().into_iter().flatten() {
        remove(&mut base, pointer.as_str().expect("a pointer"));
    }
    for (pointer, value) in row["set"].as_object().into_iter().flatten() {
        set(&mut base, pointer, value.clone());
    }
    if let Some(at) = row["at"].as_str().filter(|_| !row["place"].is_null()) {
        set(&mut base, at, row["place"].clone());
    }
    if base.is_null() { Vec::new() } else { base.to_string().into_bytes() }
}

/// `#` in a repeated text is the number of the repeat, so that names can differ.
fn repeat(text: &str, times: usize) -> String {
    if text.contains('#') {
        return (0..times).map(|number| text.replace('#', &number.to_string())).collect();
    }
    text.repeat(times)
}

/// Sets a place, making the objects on the way to it.
fn set(root: &mut Value, pointer: &str, value: Value) {
    let mut place = root;
    for step in pointer.split('/').skip(1) {
        place = match place {
            Value::Array(items) => {
                let index: usize = step.parse().expect("an index into an array");
                &mut items[index]
            }
            Value::Object(members) => members.entry(step).or_insert(Value::Null),
            other => {
                *other = json!({});
                other.as_object_mut().expect("it was just made one").entry(step).or_insert(Value::Null)
            }
        };
    }
    *place = value;
}

fn remove(root: &mut Value, pointer: &str) {
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer has a slash");
    let parent = root.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object to remove from");
    assert!(parent.remove(name).is_some(), "{pointer} is not there to be removed");
}

/// What is wrong with the answer to a row.
fn judge(row: &Row, answer: &Answer) -> Vec<String> {
    let mut problems = Vec::new();
    let mut compare = |what: &str, expected: Option<&str>, found: &str| {
        if let Some(expected) = expected
            && expected != found
        {
            problems.push(format!("{what} is `{found}`, not `{expected}`"));
        }
    };
    let (code, inner) = answer.error();
    let body = answer.json();
    let detail = body.pointer("/error/details/0/code").and_then(Value::as_str).unwrap_or_default();
    compare("the status", Some(&row.status.to_string()), &answer.status.to_string());
    compare("error.code", row.code.as_deref(), &code);
    compare("innererror.code", row.inner.as_deref(), &inner);
    compare("details[0].code", row.detail.as_deref(), detail);
    compare("Allow", row.allow.as_deref(), answer.header("allow").unwrap_or_default());
    if row.code.is_some() {
        compare("x-ms-error-code", row.code.as_deref(), answer.header("x-ms-error-code").unwrap_or_default());
        compare(
            "the type",
            Some("application/json; charset=utf-8"),
            answer.header("content-type").unwrap_or_default(),
        );
    }
    if let Some(failed) = &row.failed {
        let settled = body["succeededLockTokens"].as_array().map_or(usize::MAX, Vec::len);
        compare("the number of settled tokens", Some("0"), &settled.to_string());
        let found = body["failedLockTokens"][0]["error"]["code"].as_str().unwrap_or_default();
        compare("the token's error", Some(failed), found);
    }
    if matches!(answer.status, 400..=499) && answer.status != 429 && answer.header("retry-after").is_some() {
        problems.push("a refusal has Retry-After, and clients would repeat it".to_owned());
    }
    if !problems.is_empty() {
        let text: String = answer.text().chars().take(300).collect();
        problems.push(format!("it says: {text}"));
    }
    problems
}

#[test]
fn every_bad_request_is_refused_as_documented_and_changes_nothing() {
    let world = World::new();
    let mut client = Client::new(world.server.http);
    let mut before = world.state(&mut client);
    let (mut count, mut failures) = (0, Vec::new());
    for (file, group) in world.groups() {
        count += group["rows"].as_array().map_or(0, Vec::len);
        for row in rows(file, &group) {
            let answer = match &row.raw {
                Some(raw) => send_raw(world.server.http, raw, "POST", row.half),
                None => send_once(world.server.http, &row.request),
            };
            let mut problems = match answer {
                Ok(answer) => judge(&row, &answer),
                Err(error) => vec![format!("no answer: {error}")],
            };
            let after = world.state(&mut client);
            if after != before {
                problems.push(format!("something changed: {}", difference(&before, &after)));
                before = after;
            }
            if !problems.is_empty() {
                failures.push(format!("{}\n      {}", row.name, problems.join("\n      ")));
            }
        }
    }
    assert!(count >= ROWS_MIN, "only {count} rows");
    assert!(failures.is_empty(), "{} rows of {count} fail:\n  {}", failures.len(), failures.join("\n  "));
    assert_eq!(world.sink.deliveries().len(), 3, "the events of the beginning, and no others");
}

fn difference(before: &[String], after: &[String]) -> String {
    let lost = before.iter().filter(|line| !after.contains(line)).map(|line| format!("- {line}"));
    let new = after.iter().filter(|line| !before.contains(line)).map(|line| format!("+ {line}"));
    let lines: Vec<String> = lost.chain(new).map(|line| line.chars().take(400).collect()).collect();
    lines.join("; ")
}

/// Without this, a row could be refused for a mistake in its template.
#[test]
fn what_the_rows_spoil_is_accepted_unspoilt() {
    let world = World::new();
    let nothing = json!({});
    let mut tried = 0;
    for (file, group) in world.groups() {
        let targets: Vec<Value> = group["for"].as_array().cloned().unwrap_or_else(|| vec![nothing.clone()]);
        for target in targets {
            let mut merged = Map::new();
            for part in [&group["expect"], &group, &target] {
                overlay(&mut merged, part);
            }
            if !merged.contains_key("path") || !merged.contains_key("base") {
                continue;
            }
            let row = build(format!("{file}: {}", group["about"]), &Value::Object(merged));
            let answer = world.server.send(&row.request);
            let fine = if row.request.method == "PUT" { 201 } else { 200 };
            assert_eq!(answer.status, fine, "{}: {}", row.name, answer.text());
            tried += 1;
            if row.request.method == "PUT" {
                let delete = Request::new("DELETE", row.request.path.clone())
                    .with("authorization", format!("Bearer {}", world.server.token));
                world.server.send(&delete).expect(204);
            }
        }
    }
    assert!(tried >= 10, "only {tried} templates were tried");
}

/// Of a schema: its name, how to make an event, what to leave out of one, its id's name, where it is delivered.
type Case = (&'static str, fn(&str) -> Value, &'static str, &'static str, &'static str);

#[test]
fn a_batch_whose_last_event_is_bad_stores_nothing() {
    let world = World::new();
    let count = |name: &str| metrics::value(&world.server.metrics(), name);
    let position = || (count("gridwire_log_durable_lsn"), count("gridwire_log_events_total"));
    let batch = |make: fn(&str) -> Value, good: usize, spoil: Option<&str>| {
        let mut events: Vec<Value> = (0..good).map(|number| make(&format!("batch-{number}"))).collect();
        if let (Some(member), Some(last)) = (spoil, events.last_mut()) {
            last.as_object_mut().expect("an event is an object").remove(member);
        }
        json!(events)
    };
    let publish = |schema: &str, events: &Value| match schema {
        "eg" => world.grid.publish(events::JSON, events),
        "ce" => world.cloud.publish(events::BATCH, events),
        "cu" => world.custom.publish(events::JSON, events),
        _ => world.namespace.publish("orders", events),
    };
    let cases: [Case; 4] = [
        ("eg", events::grid_event, "eventTime", "id", "/topics/grid"),
        ("ce", events::cloud_event, "source", "id", "/topics/cloud"),
        ("cu", events::custom_event, "kind", "orderId", "/topics/custom"),
        ("namespace", events::cloud_event, "type", "id", "/pushed"),
    ];
    for (schema, make, member, id, path) in cases {
        let before = position();
        let sent = world.sink.at(path).len();
        let answer = world.server.send(&publish(schema, &batch(make, 100, Some(member)))).expect(400);
        assert_eq!(answer.error().1, "invalid_event", "{schema}: {}", answer.text());
        assert_eq!(position(), before, "{schema}: the log grew");
        // What is accepted afterwards comes alone: had the batch been kept, it would come first.
        world.server.send(&publish(schema, &json!([make("afterwards")]))).expect(200);
        let deliveries = world.sink.wait_at(path, sent + 1, Duration::from_secs(20));
        let ids: Vec<String> = deliveries[sent..].iter().flat_map(|delivery| delivery.ids(id)).collect();
        assert_eq!(ids, ["afterwards"], "{schema}");
        let after = wait_for("the log to count the event", Duration::from_secs(5), || {
            Some(position()).filter(|after| *after != before)
        });
        assert_eq!(after.1, before.1.map(|count| count + 1.0), "{schema}");
    }
}
