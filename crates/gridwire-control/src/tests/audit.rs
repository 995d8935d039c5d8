//! What the audit log says.

use std::fmt::Write as _;
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::*;

/// Keeps the lines of the target `audit`.
#[derive(Clone, Default)]
struct AuditLog(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

impl Subscriber for AuditLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "audit"
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn each_change_and_each_look_at_a_secret_is_written_down_without_the_secret() {
    let log = AuditLog::default();
    // For all threads: one of its own would not see a call site that another thread met first. This test's
    // lines are told from the others' by their client.
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let mut grid = Grid::new().await;
    grid.client.set_port(5999);
    tracing::callsite::rebuild_interest_cache();
    let path = "~/topics/orders/eventSubscriptions/audit";
    let mut secrets = vec!["SECRET".to_owned(), TOKEN.to_owned()];

    grid.put_topic("orders").await;
    grid.call("PUT", path, webhook("https://a.example/in?code=SECRET")).await.expect(201);
    grid.call("PATCH", path, json!({"labels": ["x"]})).await.expect(201);
    grid.call("PUT", "~/topics/ab", json!({"location": "local"})).await.expect(400);
    let keys = grid.call("POST", "~/topics/orders/listKeys", ()).await.expect(200).body;
    let new =
        grid.call("POST", "~/topics/orders/regenerateKey", json!({"keyName": "key1"})).await.expect(200);
    grid.call("POST", &format!("{path}/getFullUrl"), ()).await.expect(200);
    grid.call("POST", &format!("{path}/getDeliveryAttributes"), ()).await.expect(200);
    grid.call("DELETE", "~/topics/orders", ()).await.expect(204);
    grid.get("~/topics").await.expect(200);
    for body in [&keys, &new.body] {
        secrets.push(body["key1"].as_str().unwrap().to_owned());
    }
    // Of many refused logins in a moment, one.
    for _ in 0..5 {
        let mut request = request("GET", "~/topics", Sent::Nothing);
        request.headers_mut().insert("authorization", "Bearer WRONG".parse().unwrap());
        grid.send(request).await.expect(401);
    }

    let mut lines = log.0.lock().unwrap().clone();
    lines.retain(|line| line.contains("127.0.0.1:5999 "));
    let expected = [
        ("write", "/topics/orders", 201, ""),
        ("write", "/topics/orders/eventSubscriptions/audit", 201, ""),
        ("update", "/topics/orders/eventSubscriptions/audit", 201, ""),
        ("write", "/topics/ab", 400, "invalid_resource"),
        ("listKeys", "/topics/orders", 200, ""),
        ("regenerateKey", "/topics/orders", 200, ""),
        ("getFullUrl", "/topics/orders/eventSubscriptions/audit", 200, ""),
        ("getDeliveryAttributes", "/topics/orders/eventSubscriptions/audit", 200, ""),
        ("delete", "/topics/orders", 204, ""),
        ("login", "", 401, "unauthorized"),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, (operation, resource, status, code)) in lines.iter().zip(expected) {
        for part in [
            "peer=127.0.0.1:5999 ".to_owned(),
            format!("operation=\"{operation}\" "),
            format!("{resource}\" "),
            format!("status={status} "),
            format!("code=\"{code}\" "),
        ] {
            assert!(line.contains(&part), "{part} is not in {line}");
        }
        for secret in secrets.iter().map(String::as_str).chain(["WRONG"]) {
            assert!(!line.contains(secret), "{line}");
        }
    }
    let options = format!("{:?}", grid.control);
    assert!(!options.contains(TOKEN), "{options}");
}
