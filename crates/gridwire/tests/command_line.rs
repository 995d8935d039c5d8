//! The command line against a server: what it says it did is what it did.

mod support;

use std::path::Path;

use serde_json::{Value, json};

use support::{Server, Sink, program};

/// What a command printed, and whether it ended well.
struct Said {
    fine: bool,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn fine(self) -> Self {
        assert!(self.fine, "{}{}", self.out, self.err);
        self
    }

    #[track_caller]
    fn refused(self) -> Self {
        assert!(!self.fine, "{}{}", self.out, self.err);
        self
    }

    #[track_caller]
    fn says(self, part: &str) -> Self {
        assert!(
            self.out.contains(part) || self.err.contains(part),
            "no `{part}` in\n{}{}",
            self.out,
            self.err
        );
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

fn gridwire(dir: &Path, line: &str) -> Said {
    gridwire_with(dir, &line.split(' ').collect::<Vec<_>>())
}

fn gridwire_with(dir: &Path, arguments: &[&str]) -> Said {
    let output = program().args(arguments).arg("--data-dir").arg(dir).output().expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { fine: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
}

#[test]
fn a_create_that_is_pasted_again_resets_nothing() {
    let server = Server::start();
    let dir = server.data_dir();
    gridwire(&dir, "namespace create shop").fine().says("created namespace shop").says("/namespaces/shop");
    gridwire(&dir, "topic create shop/jobs --retention 5").fine().says("created topic shop/jobs");
    let again = gridwire(&dir, "topic create shop/jobs").fine().says("is there already");
    // The next line can be pasted as it is.
    again.says(&format!("subscription create shop/jobs/NAME --data-dir {}", dir.display()));
    let days = |dir: &Path| {
        gridwire(dir, "topic show shop/jobs").json()["properties"]["eventRetentionInDays"].clone()
    };
    assert_eq!(days(&dir), 5);
    gridwire(&dir, "topic create shop/jobs --retention 3").fine().says("changed topic shop/jobs");
    assert_eq!(days(&dir), 3);
    gridwire(&dir, "namespace create shop").fine().says("is there already");
    gridwire(&dir, "subscription create shop/jobs/workers --lock 120").fine().says("created subscription");
    gridwire(&dir, "subscription create shop/jobs/workers").fine().says("replaced subscription");

    let topic = gridwire(&dir, "topic keys shop/jobs --output json").fine().json();
    let namespace = gridwire(&dir, "namespace keys shop --output json").fine().json();
    assert_ne!(topic["key1"], namespace["key1"], "a topic has keys of its own");
}

#[test]
fn a_name_that_is_not_there_is_explained_by_the_line_that_makes_it() {
    let server = Server::start();
    let dir = server.data_dir();
    gridwire(&dir, "namespace create shop").fine();
    gridwire(&dir, "topic create shop/jobs").fine();
    gridwire(&dir, "topic create orders").fine();
    for (line, said) in [
        ("publish shop {}", "`shop` is a namespace: name one of its topics"),
        ("publish shop/nope {}", "gridwire topic create shop/nope"),
        ("publish nope/jobs {}", "gridwire namespace create nope"),
        ("publish nope {}", "gridwire topic create nope"),
        ("topic create nope/jobs", "gridwire namespace create nope"),
        ("topic show shop", "`shop` is a namespace"),
        ("receive shop/jobs/nope", "gridwire subscription create shop/jobs/nope"),
        ("receive nope/jobs/nope", "gridwire namespace create nope"),
        ("subscription create shop/nope/workers", "gridwire topic create shop/nope"),
        ("subscription show orders/nope", "gridwire subscription create orders/nope --webhook URL"),
        ("tail shop/jobs", "`shop` is a namespace: name topic and event subscription"),
    ] {
        gridwire(&dir, line).refused().says(said);
    }
}

#[test]
fn whoever_has_an_access_key_needs_no_management_token() {
    let server = Server::start();
    let sink = Sink::start();
    let dir = server.data_dir();
    let elsewhere = server.scratch().join("no-data-here");
    gridwire(&dir, "namespace create shop").fine();
    gridwire(&dir, "topic create shop/jobs").fine();
    gridwire(&dir, "subscription create shop/jobs/workers").fine();
    gridwire(&dir, "topic create orders").fine();
    gridwire(&dir, "topic create ledger --schema event-grid").fine();
    let hook = sink.url("/hook");
    gridwire(&dir, &format!("subscription create ledger/hook --webhook {hook}")).fine();
    let key = |line: &str| {
        let keys = gridwire(&dir, line).fine().json();
        keys["key1"].as_str().expect("a key").to_owned()
    };
    let (shop, orders, ledger) = (
        key("namespace keys shop --output json"),
        key("topic keys orders --output json"),
        key("topic keys ledger --output json"),
    );
    let with_key = |line: &str, key: &str| {
        gridwire(&elsewhere, &format!("{line} --server http://{} --key {key}", server.http))
    };
    with_key("publish shop/jobs {} --count 4", &shop).fine().says("published 4 events");
    let received = with_key("receive shop/jobs/workers --max 4 --output json", &shop).fine().json();
    let token = |index: usize| {
        received["value"][index]["brokerProperties"]["lockToken"].as_str().expect("a token").to_owned()
    };
    for (index, verb) in ["acknowledge", "release", "reject", "renew"].into_iter().enumerate() {
        with_key(&format!("{verb} shop/jobs/workers {}", token(index)), &shop).fine();
    }
    with_key("publish orders {}", &orders).fine();
    with_key("publish ledger {}", &ledger).refused().says("--schema");
    with_key("publish ledger {} --schema event-grid", &ledger).fine();
    // The directory that happens to be here is another server's, and its token is not sent: it would be refused, and
    // counted as a guess, of which ten a minute are too many.
    let here = server.scratch().join("here");
    std::fs::create_dir_all(here.join("gridwire-data")).expect("a directory");
    std::fs::write(here.join("gridwire-data/management.token"), "t".repeat(43)).expect("a token");
    for _ in 0..12 {
        let line = format!("publish orders {{}} --server http://{} --key {orders}", server.http);
        let output = program().args(line.split(' ')).current_dir(&here).output().expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("by the look of it"), "{said}");
    }
    // Without the key there is no way around the token.
    gridwire(&elsewhere, &format!("publish orders {{}} --server http://{}", server.http))
        .refused()
        .says("management token");
    for said in [
        with_key("publish orders {}", "bad"),
        gridwire(&dir, "publish orders {} --key bad"),
        gridwire(&dir, "receive shop/jobs/workers --key bad"),
    ] {
        let said = said.refused().says("access key").says("is not accepted");
        assert!(!said.err.contains("--data-dir"), "{}", said.err);
    }
}

#[test]
fn the_next_line_can_be_pasted() {
    let server = Server::start();
    let sink = Sink::start();
    let dir = server.data_dir();
    gridwire(&dir, "namespace create shop").fine();
    gridwire(&dir, "topic create shop/jobs").fine();
    gridwire(&dir, "topic create orders").fine();
    gridwire(&dir, "topic create ledger --schema event-grid").fine();
    gridwire(&dir, "domain create malls").fine();
    gridwire(&dir, "domain create plazas --schema event-grid").fine();
    let hook = format!("--webhook {}", sink.url("/hook"));
    for (subscription, to) in [
        ("orders/hook", hook.as_str()),
        ("orders/onward", "--forward shop/jobs"),
        ("ledger/hook", &hook),
        ("domain:malls/hook", &hook),
        ("domain:malls/north/hook", &hook),
        ("domain:plazas/hook", &hook),
        ("domain:plazas/north/hook", &hook),
        ("shop/jobs/hook", &hook),
    ] {
        let said = gridwire(&dir, &format!("subscription create {subscription} {to}")).fine();
        let next = said.err.split("next: gridwire ").nth(1).expect("a next line").trim();
        let next = next.split(" --data-dir").next().unwrap_or_default();
        let (command, data) = next.split_once(" '").expect("data in quotes");
        let mut line: Vec<&str> = command.split(' ').collect();
        line.push(data.trim_end_matches('\''));
        gridwire_with(&dir, &line).fine().says("published 1 event");
    }
}

#[test]
fn faults_are_refused_where_nothing_is_pushed() {
    let server = Server::start();
    let dir = server.data_dir();
    gridwire(&dir, "namespace create shop").fine();
    gridwire(&dir, "topic create shop/jobs").fine();
    gridwire(&dir, "topic create orders").fine();
    gridwire(&dir, "subscription create shop/jobs/workers").fine();
    gridwire(&dir, "subscription create orders/onward --forward shop/jobs").fine();
    gridwire(&dir, "dev faults set shop/jobs/workers 503").refused().says("has no endpoint");
    gridwire(&dir, "dev faults clear shop/jobs/workers").refused().says("has no endpoint");
    gridwire(&dir, "dev faults set orders/onward 503").fine();
}

#[test]
fn a_server_that_was_killed_is_said_not_to_run() {
    let mut server = Server::start();
    server.kill9();
    gridwire(&server.data_dir(), "topic list")
        .refused()
        .says("no server runs on the data directory")
        .says("gridwire serve");
}

#[test]
fn a_server_that_nobody_vouches_for_leads_to_its_authority() {
    let server = Server::start();
    let elsewhere = server.scratch().join("no-data-here");
    let line = format!("publish orders {{}} --key k --server https://localhost:{}", server.https.port());
    gridwire(&elsewhere, &line).refused().says("--ca FILE");
}

#[test]
fn applying_a_file_refuses_what_nobody_understands_and_sees_changed_secrets() {
    let server = Server::start();
    let sink = Sink::start();
    let dir = server.data_dir();
    let file = server.scratch().join("grid.json");
    let apply = |value: &Value, more: &[&str]| {
        std::fs::write(&file, value.to_string()).expect("it is written");
        let mut arguments = vec!["apply", "-f", file.to_str().expect("a plain path")];
        arguments.extend(more);
        gridwire_with(&dir, &arguments)
    };
    let url = sink.url("/hook?code=1");
    let grid = |filter: &str, secret: &str| {
        json!({ "topics": [{ "name": "orders", "eventSubscriptions": [{ "name": "hook", "properties": {
            "destination": { "endpointType": "WebHook", "properties": {
                "endpointUrl": url,
                "deliveryAttributeMappings": [{ "name": "X-Secret", "type": "Static",
                    "properties": { "value": secret, "isSecret": true } }] } },
            "filter": { filter: ["a"] } } }] }] })
    };
    apply(&grid("includedEventTypess", "v1"), &[]).refused().says("properties.filter.includedEventTypess");
    gridwire(&dir, "subscription show orders/hook").refused();
    apply(&grid("includedEventTypes", "v1"), &[]).fine().says("created    subscription orders/hook");
    apply(&grid("includedEventTypes", "v1"), &[]).fine().says("unchanged  subscription orders/hook");
    apply(&grid("includedEventTypes", "v1"), &["--dry-run"])
        .fine()
        .says("unchanged  subscription orders/hook");
    apply(&grid("includedEventTypes", "v2"), &["--dry-run"]).fine().says("deliveryAttributeMappings");
    apply(&grid("includedEventTypes", "v2"), &[]).fine().says("changed    subscription orders/hook");
    apply(&grid("includedEventTypes", "v2"), &[]).fine().says("unchanged  subscription orders/hook");
}

#[test]
fn tail_shows_what_becomes_of_received_events() {
    let server = Server::start();
    let dir = server.data_dir();
    gridwire(&dir, "namespace create shop").fine();
    gridwire(&dir, "topic create shop/jobs").fine();
    gridwire(&dir, "subscription create shop/jobs/workers").fine();
    gridwire(&dir, "publish shop/jobs {} --count 3").fine().says("published 3 events");
    let received = gridwire(&dir, "receive shop/jobs/workers --max 3 --output json").fine().json();
    let token = |index: usize| {
        received["value"][index]["brokerProperties"]["lockToken"].as_str().expect("a token").to_owned()
    };
    gridwire(&dir, &format!("acknowledge shop/jobs/workers {}", token(0))).fine();
    gridwire(&dir, &format!("release shop/jobs/workers {}", token(1))).fine();
    gridwire(&dir, &format!("reject shop/jobs/workers {}", token(2))).fine();
    // Without a dead-letter destination a rejected event is dropped.
    let shown = gridwire(&dir, "tail shop/jobs/workers --from-start --max 7 --output json").fine();
    let outcomes: Vec<String> = shown
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON")["outcome"].to_string())
        .collect();
    let expected = ["Received", "Received", "Received", "Acknowledged", "Released", "Dropped", "Rejected"];
    assert_eq!(outcomes, expected.map(|outcome| format!("\"{outcome}\"")));
}
