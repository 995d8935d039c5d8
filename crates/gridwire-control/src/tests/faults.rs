//! Refusing endpoints, failing stores, races and hang-ups.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use gridwire_core::event::DeliverySchema;
use gridwire_core::routing::{HandshakeError, InstallError};
use gridwire_outside::memory::Call;
use gridwire_outside::{Disk, MemoryDisk};
use gridwire_store::embedded::RedbResources;
use gridwire_store::{ResourceError, ResourceStore};

use super::*;

const PATH: &str = "~/topics/orders/eventSubscriptions/audit";

#[tokio::test]
async fn an_endpoint_that_refuses_leaves_nothing_and_changes_nothing() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    let refused =
        HandshakeError::Refused { endpoint: "https://a.example/in".into(), reason: "status 500".into() };
    let forbidden =
        HandshakeError::Forbidden { endpoint: "https://a.example/in".into(), reason: "private".into() };
    for (refusal, code, inner) in [
        (refused.clone(), "Url validation", "endpoint_validation_failed"),
        (forbidden, "InvalidRequest", "endpoint_forbidden"),
    ] {
        grid.port.refuse(Some(refusal.clone()));
        let answer = grid.call("PUT", PATH, webhook("https://a.example/in")).await.expect(400);
        assert_eq!((answer.code(), answer.inner()), (code, inner));
        assert_eq!(answer.message(), refusal.to_string());
        grid.get(PATH).await.expect(404);
    }
    grid.port.refuse(None);
    grid.put_subscription("orders", "audit").await;
    let (stored, installs) = (grid.store.dump(), grid.port.installs());
    grid.port.refuse(Some(refused));
    grid.call("PUT", PATH, webhook("https://b.example/in")).await.expect(400);
    let patch = json!({"eventDeliverySchema": "CloudEventSchemaV1_0", "labels": ["x"]});
    grid.call("PATCH", PATH, patch).await.expect(400);
    assert_eq!(grid.store.dump(), stored);
    assert_eq!(grid.port.installs(), installs);
    grid.call("PATCH", PATH, json!({"labels": ["x"]})).await.expect(201);
}

#[tokio::test]
async fn other_changes_do_not_wait_for_a_handshake_and_a_vanished_topic_ends_it() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    let gate = grid.port.close_gate();
    let slow = grid.call("PUT", PATH, webhook("https://a.example/in"));
    let meanwhile = async {
        grid.port.begun.acquire().await.unwrap().forget();
        grid.put_topic("other").await;
        grid.call("DELETE", "~/topics/orders", ()).await.expect(204);
        gate.0.add_permits(1);
    };
    let (answer, ()) = tokio::join!(slow, meanwhile);
    let answer = answer.expect(404);
    assert_eq!(answer.body["error"]["details"][0]["code"], "ParentResourceNotFound");
    assert_eq!(grid.control.counts(), crate::Counts { topics: 1, namespaces: 0, subscriptions: 0 });
}

#[tokio::test]
async fn a_change_that_was_overtaken_is_judged_again() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    let gate = grid.port.close_gate();
    let slow = grid.call("PUT", PATH, webhook("https://slow.example/"));
    let meanwhile = async {
        grid.port.begun.acquire().await.unwrap().forget();
        let fast = grid.call("PUT", PATH, webhook("https://fast.example/"));
        let open = async {
            grid.port.begun.acquire().await.unwrap().forget();
            gate.0.add_permits(2);
        };
        tokio::join!(fast, open).0.expect(201);
    };
    let (answer, ()) = tokio::join!(slow, meanwhile);
    answer.expect(201);
    let handshakes = grid.port.handshakes();
    assert_eq!(handshakes.len(), 2, "a consent that was given is not asked for twice");
    // Whichever came last is there whole.
    let url = grid.call("POST", &format!("{PATH}/getFullUrl"), ()).await.body["endpointUrl"].clone();
    let table = grid.port.latest();
    let topic = table.by_number.values().next().unwrap();
    assert_eq!(url, topic.subscriptions["audit"].webhook.as_ref().unwrap().url.as_str());
}

#[tokio::test]
async fn a_consent_counts_only_for_what_was_asked() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    let gate = grid.port.close_gate();
    let slow = grid.call("PUT", PATH, webhook("https://a.example/in"));
    let meanwhile = async {
        grid.port.begun.acquire().await.unwrap().forget();
        // The topic is another one now, whose events leave in another schema unless told otherwise.
        grid.call("DELETE", "~/topics/orders", ()).await.expect(204);
        let clouds = json!({"location": "local", "properties": {"inputSchema": "CloudEventSchemaV1_0"}});
        grid.call("PUT", "~/topics/orders", clouds).await.expect(201);
        gate.0.add_permits(2);
    };
    let (answer, ()) = tokio::join!(slow, meanwhile);
    assert_eq!(answer.expect(201).body["properties"]["eventDeliverySchema"], "CloudEventSchemaV1_0");
    let asked: Vec<_> = grid.port.handshakes().into_iter().map(|one| one.webhook.schema).collect();
    assert_eq!(asked, [DeliverySchema::EventGrid, DeliverySchema::CloudEvent]);
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_interrupt_its_change() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    let gate = grid.port.close_gate();
    {
        let call = grid.call("PUT", PATH, webhook("https://a.example/in"));
        let begun = grid.port.begun.acquire();
        tokio::pin!(call);
        tokio::select! {
            biased;
            _ = &mut call => panic!("the gate is closed"),
            permit = begun => permit.unwrap().forget(),
        }
    }
    gate.0.add_permits(1);
    grid.control.drain().await;
    grid.get(PATH).await.expect(200);
    assert_eq!(grid.port.latest().subscriptions().len(), 1);
    // After the drain no change begins.
    let late = grid.call("PUT", "~/topics/late", json!({"location": "local"})).await.expect(503);
    assert_ne!(late.header("retry-after"), "");
}

#[tokio::test]
async fn a_full_or_failing_store_answers_503_and_memory_stays_true() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    let body = json!({"location": "local", "tags": {"a": "b"}});
    grid.store.fail_next(ResourceError::StorageFull, false);
    let full = grid.call("PUT", "~/topics/orders", body.clone()).await.expect(503);
    assert_eq!(full.inner(), "storage_full");
    assert_eq!(full.header("retry-after"), "5");
    assert_eq!(grid.get("~/topics/orders").await.body["tags"], json!({}));

    // The store says that it failed, but has written: the next change finds out.
    grid.store.fail_next(ResourceError::Failed("lost connection".into()), true);
    let failed = grid.call("PUT", "~/topics/bills", json!({"location": "local"})).await.expect(503);
    assert_eq!(failed.inner(), "unavailable");
    assert!(!failed.message().contains("lost connection"));
    assert!(!grid.control.is_installed());
    grid.get("~/topics/bills").await.expect(404);
    assert!(grid.control.reconcile().await);
    assert!(grid.control.is_installed());
    grid.get("~/topics/bills").await.expect(200);
    assert_eq!(grid.port.latest().topics.len(), 2);
    assert_eq!(grid.store.dump().len(), 2);
}

#[tokio::test]
async fn a_change_by_another_process_is_read_and_built_upon() {
    let grid = Grid::new().await;
    let other = grid.restarted().await;
    grid.put_topic("orders").await;
    grid.put_topic("bills").await;
    // `other` does not know of them yet.
    let created = other
        .call("PUT", "~/topics/orders", json!({"location": "local", "tags": {"a": "b"}}))
        .await
        .expect(201);
    assert_eq!(created.body["tags"], json!({"a": "b"}));
    other.get("~/topics/bills").await.expect(200);
    let keys = |grid: &Grid| {
        let table = grid.port.latest();
        table.topics.values().map(|topic| topic.credentials.keys[0].clone()).next().unwrap()
    };
    assert_eq!(other.port.latest().topics.len(), 2);
    assert!(
        grid.port.latest().topics.values().any(|topic| topic.credentials.accept_key(keys(&other).reveal()))
    );
}

#[tokio::test]
async fn a_table_that_was_not_put_in_use_is_installed_by_the_next_change() {
    let grid = Grid::new().await;
    grid.port.fail_install(Some(InstallError::Stopping));
    let body = json!({"location": "local"});
    grid.call("PUT", "~/topics/orders", body.clone()).await.expect(503);
    assert!(!grid.control.is_installed());
    assert!(!grid.control.reconcile().await);
    grid.port.fail_install(None);
    grid.call("PUT", "~/topics/orders", body).await.expect(201);
    assert!(grid.control.is_installed());
    assert_eq!(grid.port.latest().topics.len(), 1);
}

#[tokio::test]
async fn a_store_that_cannot_be_understood_is_not_opened() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    let key = grid.store.dump()[0].key.clone();
    let open = |master| Grid::open(Arc::clone(&grid.store), Arc::clone(&grid.clock), options(), master);
    let wrong = open([8; 32]).await.err().expect("another master key opens nothing").to_string();
    assert!(wrong.contains(&key) && wrong.contains("does not open"), "{wrong}");
    let good: Value = serde_json::from_slice(&grid.store.dump()[0].value).unwrap();
    for (pointer, value, reason) in [
        ("/format", json!(2), "format 2"),
        ("/kind", json!("Microsoft.EventGrid/things"), "is not known"),
        ("/names", json!(["other"]), "another resource's key"),
        ("/names", json!(["a", "b"]), "too many or too few names"),
        ("/topicNumber", json!(null), "numbers of its kind"),
        ("/sealedKeys", json!(null), "access keys of its kind"),
        ("/properties/inputSchema", json!("Nonsense"), "inputSchema"),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        grid.store.overwrite(&key, bad.to_string().into_bytes());
        let error = open(MASTER).await.err().unwrap_or_else(|| panic!("{pointer} was accepted")).to_string();
        assert!(error.contains(reason), "{error}");
    }
    grid.store.overwrite(&key, b"{".to_vec());
    assert!(open(MASTER).await.is_err());
}

#[tokio::test]
async fn what_was_accepted_once_stays_when_rules_or_time_move_on() {
    let mut lenient = options();
    lenient.allow_http_webhooks = true;
    let grid = Grid::with(lenient).await;
    grid.put_topic("orders").await;
    let mut body = webhook("http://127.0.0.1:9000/in");
    body["properties"]["expirationTimeUtc"] = written_time(&grid, Duration::from_secs(60)).into();
    grid.call("PUT", PATH, body.clone()).await.expect(201);
    grid.pass(Duration::from_secs(120)).await;
    let strict = grid.restarted().await;
    strict.get(PATH).await.expect(200);
    strict.call("PATCH", PATH, json!({"labels": ["x"]})).await.expect(201);
    let other = webhook("http://127.0.0.1:9000/other")["properties"].clone();
    let refused = strict.call("PATCH", PATH, other).await.expect(400);
    assert_eq!(refused.inner(), "endpoint_forbidden");
}

#[tokio::test]
async fn a_topic_has_at_most_500_subscriptions() {
    let grid = Grid::new().await;
    grid.put_topic("orders").await;
    for index in 0..500 {
        grid.put_subscription("orders", &format!("sub-{index}")).await;
    }
    let refused = grid.call("PUT", PATH, webhook("https://a.example/in")).await.expect(409);
    assert_eq!(refused.inner(), "conflict");
    assert!(refused.message().starts_with("Quota limit reached"), "{}", refused.message());
    assert_eq!(grid.port.handshakes().len(), 500, "nobody is asked in vain");
    grid.put_subscription("orders", "sub-7").await;
    grid.call("DELETE", "~/topics/orders", ()).await.expect(204);
    assert!(grid.store.dump().is_empty());
}

/// The control plane over the program's own store.
async fn over(disk: &MemoryDisk) -> (Arc<Control>, Arc<RedbResources>) {
    let store = RedbResources::open_inline(Arc::new(disk.clone()), Path::new("/data/meta.redb")).unwrap();
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_795_465_178_000)));
    let (port, rng) = (RecordingPort::new(), Arc::new(TestRng));
    let opened = Control::open(store.clone(), Sealer::new(MASTER), port, clock, rng, options()).await;
    let control = opened.unwrap();
    control.install().await.unwrap();
    (control, store)
}

async fn ask(control: &Control, method: &str, path: &str, body: impl Into<Sent>) -> (u16, Value) {
    let peer = Peer { address: ([127, 0, 0, 1], 5000).into(), tls: false };
    let response = control.handle(request(method, path, body.into()), peer).await;
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn put(control: &Control, name: &str) -> u16 {
    ask(control, "PUT", &format!("~/topics/{name}"), json!({"location": "local"})).await.0
}

async fn names(control: &Control) -> BTreeSet<String> {
    let (_, list) = ask(control, "GET", "~/topics", ()).await;
    list["value"].as_array().unwrap().iter().map(|topic| topic["name"].as_str().unwrap().to_owned()).collect()
}

/// Whether the process is about to end, and with it everything that is refused.
fn is_ending(store: &RedbResources) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    store.failed().as_mut().poll(&mut context).is_ready()
}

#[tokio::test]
async fn after_a_call_that_the_disk_refused_the_next_change_is_made_or_the_process_ends() {
    let (mut went_on, mut ended) = (0, 0);
    for kind in [ErrorKind::StorageFull, ErrorKind::Other] {
        for call in [Call::Open, Call::Read, Call::Write, Call::Sync, Call::Allocate, Call::SetLen] {
            for n in 1..12 {
                let disk = MemoryDisk::new();
                disk.create_dir_all(Path::new("/data")).unwrap();
                disk.sync_dir(Path::new("/")).unwrap();
                let (mut control, mut store) = over(&disk).await;
                let mut made = BTreeSet::new();
                disk.fail_nth(call, n, kind, false);
                let mut refused = None;
                for number in 0..5 {
                    let name = format!("topic-{number}");
                    match put(&control, &name).await {
                        201 => drop(made.insert(name)),
                        503 => refused = Some(name),
                        status => panic!("{status}"),
                    }
                    if refused.is_some() {
                        break;
                    }
                }
                disk.heal();
                let Some(refused) = refused else { continue };
                let ends = is_ending(&store);
                if ends {
                    ended += 1;
                    drop((control, store));
                    disk.crash(n);
                    (control, store) = over(&disk).await;
                    // Nobody was told of it.
                    made.extend(names(&control).await.take(&refused));
                }
                went_on += u32::from(!ends);
                assert_eq!(put(&control, "later").await, 201, "{call:?} {n} {kind:?}");
                made.insert("later".to_owned());
                assert_eq!(names(&control).await, made, "{call:?} {n} {kind:?}");
                assert!(!is_ending(&store));
            }
        }
    }
    assert!(0 < went_on && 0 < ended, "{went_on} went on, {ended} ended");
}
