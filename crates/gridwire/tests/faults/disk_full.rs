//! A disk without space refuses new events and nothing else (`reliability` section 2: disk full).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::arm::{Namespace, Topic};
use crate::support::outside::{SmallDisk, skip};
use crate::support::pull::{Queue, Received};
use crate::support::server::show;
use crate::support::{Answer, Arm, Client, Reply, Server, Sink, events, now, wait_for};

/// Ballast and state log take 128 MiB of it; the event log takes 16 MiB at a time.
const DISK_MEGABYTES: u32 = 192;
/// More than the event log can have reserved.
const LARGE_EVENTS_MAX: usize = 40;
const LARGE_BYTES: usize = 700 << 10;
const NORMAL_WITHIN: Duration = Duration::from_secs(5);

struct World {
    server: Server,
    topic: Topic,
    namespace: Namespace,
    published: BTreeSet<String>,
    received: BTreeSet<String>,
}

impl World {
    fn publish(&self, id: &str, padding: usize) -> Answer {
        let mut event = events::cloud_event(id);
        event["data"] = json!({ "padding": "x".repeat(padding) });
        self.server.send(&self.namespace.publish("orders", &json!([event])))
    }

    /// Publishes until there is no space any more.
    #[track_caller]
    fn publish_until_full(&mut self, prefix: &str) {
        for n in 0..LARGE_EVENTS_MAX {
            let id = format!("{prefix}-{n}");
            let answer = self.publish(&id, LARGE_BYTES);
            if answer.status != 200 {
                return refused(&answer);
            }
            self.published.insert(id);
        }
        panic!("{LARGE_EVENTS_MAX} events of {LARGE_BYTES} bytes found space on a full disk");
    }

    /// Receives up to `max` and acknowledges them.
    fn work(&mut self, max: u32) -> Vec<Received> {
        let queue = Queue::new(&self.namespace, "orders", "workers");
        let mut client = Client::new(self.server.http);
        let received = queue.receive(&mut client, max).expect("receiving goes on");
        let tokens: Vec<&str> = received.iter().map(|one| one.token.as_str()).collect();
        let settled = queue.settle(&mut client, "acknowledge", "", &tokens).expect("acknowledging goes on");
        assert_eq!(settled.succeeded.len(), tokens.len(), "{settled:?}");
        for one in &received {
            assert!(
                self.received.insert(one.id.clone()),
                "`{}` came again after its acknowledgement",
                one.id
            );
        }
        received
    }
}

#[track_caller]
fn refused(answer: &Answer) {
    assert_eq!((answer.status, answer.error().1.as_str()), (503, "storage_full"), "{}", answer.text());
    let wait: u32 = answer.header("retry-after").and_then(|text| text.parse().ok()).expect("a time to wait");
    assert!((1..=60).contains(&wait), "Retry-After: {wait}");
}

/// Takes all the space that is left.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file that takes the space");
    let mut size = 1 << 20;
    while size >= 1 {
        if file.write_all(&vec![1; size]).is_err() {
            size /= 2;
        }
    }
}

#[test]
fn a_full_disk_refuses_new_events_and_nothing_else() {
    let disk = match SmallDisk::new(DISK_MEGABYTES) {
        Ok(disk) => disk,
        Err(reason) => return skip(&reason),
    };
    let filler = disk.seen_by_us().join("filler");
    let server = Server::launch(disk.launch());
    // The first posts fail, so that their retries fall due on the full disk.
    let sink = Sink::scripted(|_, before| Reply::Status(if before < 20 { 500 } else { 200 }));
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({}));
    arm.webhook(&topic, "hook", &sink.url("/grid"), &json!({}));
    arm.webhook(&topic, "doomed", &sink.url("/doomed"), &json!({}));
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    arm.queue(&namespace, "orders", "workers", &json!({}), &json!({}));
    let mut world = World { server, topic, namespace, published: BTreeSet::new(), received: BTreeSet::new() };

    let batch: Vec<Value> = (0..20).map(|n| events::grid_event(&format!("g-{n}"))).collect();
    world.server.send(&world.topic.publish(events::JSON, &json!(batch))).expect(200);
    for n in 0..100 {
        let id = format!("small-{n}");
        world.publish(&id, 10).expect(200);
        world.published.insert(id);
    }
    sink.wait_at("/grid", 20, Duration::from_secs(15));
    fill(&filler);
    world.publish_until_full("before");

    // What was accepted is delivered: to receivers, and to webhooks that had refused it.
    assert_eq!(world.work(40).len(), 40);
    let done = sink.wait_at("/grid", 40, Duration::from_secs(20));
    let taken: BTreeSet<String> = done[20..].iter().flat_map(|delivery| delivery.ids("id")).collect();
    assert_eq!(taken.len(), 20, "each retry was made once: {taken:?}");
    Arm::new(&world.server).call("DELETE", "topics/grid/eventSubscriptions/doomed", None).expect(204);
    refused(&world.publish("refused-1", LARGE_BYTES));

    // The same after a start on the full disk.
    world.server.kill9();
    world.server.restart();
    assert_eq!(world.work(40).len(), 40);
    world.publish_until_full("again");

    fs::remove_file(&filler).expect("the space comes back");
    let freed = now();
    let answer = wait_for("a publish to succeed", NORMAL_WITHIN, || {
        let answer = world.publish("after", LARGE_BYTES);
        (answer.status == 200).then_some(answer)
    });
    show(&format!("published again {:?} after the space came back", freed.elapsed()));
    assert!(answer.status == 200 && freed.elapsed() < NORMAL_WITHIN, "{:?}", freed.elapsed());
    world.published.insert("after".to_owned());
    while world.received.len() < world.published.len() {
        assert!(!world.work(100).is_empty(), "lost: {:?}", &world.published - &world.received);
    }
    assert_eq!(world.received, world.published, "received exactly what was answered with success");
}
