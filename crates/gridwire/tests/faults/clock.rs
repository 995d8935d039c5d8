//! Steps of the wall clock, while the server runs and over a restart (`reliability` section 2: wall clock jumps).

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::arm::Namespace;
use crate::support::outside::{WallClock, skip};
use crate::support::pull::{Queue, Received};
use crate::support::server::show;
use crate::support::{Arm, Client, Reply, Server, Sink, events, metrics, now, wait_for};

const HOUR: i64 = 3600;
const STEPS: [i64; 4] = [HOUR, -HOUR, 48 * HOUR, -48 * HOUR];
/// A retry's wait of 10 s with its jitter of a tenth, and what a busy machine adds. Broker time follows a wall
/// clock that differs at 1 part in 20.
const RETRY: std::ops::Range<Duration> = Duration::from_millis(9_400)..Duration::from_secs(16);

/// Before the step: a failed post, an event that is locked, and two that wait, with a minute to live.
struct World {
    server: Server,
    clock: WallClock,
    sink: Sink,
    namespace: Namespace,
    locked: Received,
    /// When the first post came, which failed.
    first: Instant,
}

impl World {
    fn new() -> Result<Self, String> {
        let clock = WallClock::new()?;
        let server = Server::launch(clock.launch());
        let sink = Sink::scripted(|_, before| Reply::Status(if before == 0 { 500 } else { 200 }));
        let arm = Arm::new(&server);
        let namespace = arm.namespace("spaces");
        arm.namespace_topic(&namespace, "orders");
        let queue = json!({ "receiveLockDurationInSeconds": 60, "eventTimeToLive": "PT1M" });
        arm.queue(&namespace, "orders", "workers", &queue, &json!({}));
        arm.push(&namespace, "orders", "hook", &sink.url("/hook"), &json!({}));
        server.send(&namespace.publish("orders", &json!([events::cloud_event("a")]))).expect(200);
        let locked = receive(&server, &namespace, 1).remove(0);
        let first = sink.wait_at("/hook", 1, Duration::from_secs(10))[0].at;
        for id in ["b", "c"] {
            server.send(&namespace.publish("orders", &json!([events::cloud_event(id)]))).expect(200);
        }
        sink.wait_at("/hook", 3, Duration::from_secs(10));
        // The outcome is recorded.
        wait_for("the failed post to be recorded", Duration::from_secs(5), || {
            let returned = metrics::family(&server.metrics(), &["gridwire_delivery_events_returned_total{"]);
            returned.iter().any(|line| line.contains("\"hook\"") && line.ends_with(" 1")).then_some(())
        });
        Ok(Self { server, clock, sink, namespace, locked, first })
    }

    #[track_caller]
    fn acknowledge(&self, received: &Received) -> bool {
        let queue = Queue::new(&self.namespace, "orders", "workers");
        let mut client = Client::new(self.server.http);
        let settled = queue.settle(&mut client, "acknowledge", "", &[&received.token]).expect("an answer");
        settled.failed.is_empty()
    }

    /// How long after the failure the retry came.
    #[track_caller]
    fn retried_after(&self) -> Duration {
        // A kill may repeat what was taken, so it is looked for by its id.
        let retry = self.sink.wait("the retry", Duration::from_secs(30), |posts| {
            posts.iter().filter(|post| post.ids("id") == ["a"]).nth(1).cloned()
        });
        retry.at.duration_since(self.first)
    }
}

/// Receives this many events, in as many answers as it takes: after a start, what is known from the state log is
/// there before what must be looked up.
#[track_caller]
fn receive(server: &Server, namespace: &Namespace, count: usize) -> Vec<Received> {
    let queue = Queue::new(namespace, "orders", "workers");
    let mut client = Client::new(server.http);
    let mut received: Vec<Received> = Vec::new();
    while received.len() < count {
        let more = queue.receive(&mut client, 10).expect("an answer");
        assert!(!more.is_empty(), "of {count} events there are only {:?}", ids(&received));
        received.extend(more);
    }
    received
}

fn ids(received: &[Received]) -> Vec<&str> {
    received.iter().map(|one| one.id.as_str()).collect()
}

/// The wall clock steps under a running server: locks, retries and times to live do not notice.
fn check_live(step: i64) {
    let world = World::new().expect("asked before");
    world.clock.set(step);
    wait_for("the server to notice", Duration::from_secs(10), || {
        world.server.log().contains("the wall clock differs from broker time").then_some(())
    });
    assert_eq!(ids(&receive(&world.server, &world.namespace, 2)), ["b", "c"], "{step}: nothing has expired");
    let wait = world.retried_after();
    assert!(RETRY.contains(&wait), "{step}: the retry came {wait:?} after the failure");
    assert!(world.acknowledge(&world.locked), "{step}: the lock still holds");
    show(&format!("wall clock stepped {step:+} s: retry after {wait:?}"));
}

/// The wall clock steps while the server is down.
fn check_over_restart(step: i64) {
    let mut world = World::new().expect("asked before");
    world.server.kill9();
    world.clock.set(step);
    let down = now();
    world.server.restart();
    let wait = world.retried_after();
    let told = world.server.log().contains("nothing expires in the next ten minutes");
    if step < 0 {
        // No time has passed, as far as anybody can tell.
        assert!(world.acknowledge(&world.locked), "{step}: the lock still holds");
        assert_eq!(ids(&receive(&world.server, &world.namespace, 2)), ["b", "c"], "{step}");
        assert!(RETRY.contains(&wait), "{step}: the retry came {wait:?} after the failure");
        assert!(!told, "{step}: {}", world.server.log());
    } else {
        // As after a long downtime: locks have run out and retries are due, but nothing expires yet.
        let late = down.elapsed();
        assert!(late < Duration::from_secs(8), "{step}: the retry came {late:?} after the start");
        let again = receive(&world.server, &world.namespace, 3);
        assert_eq!(ids(&again), ["a", "b", "c"], "{step}: nothing has expired");
        assert!(!world.acknowledge(&world.locked), "{step}: the lock has run out");
        assert!(again.iter().all(|one| world.acknowledge(one)), "{step}");
        assert!(told, "{step}: {}", world.server.log());
    }
    show(&format!("wall clock stepped {step:+} s over a restart: retry after {wait:?}"));
}

/// Everything at once: most of it is waiting.
#[test]
fn steps_of_the_wall_clock_move_no_lock_and_no_retry_and_expire_nothing() {
    if let Err(reason) = WallClock::new() {
        return skip(&reason);
    }
    std::thread::scope(|scope| {
        for step in STEPS {
            scope.spawn(move || check_live(step));
            scope.spawn(move || check_over_restart(step));
        }
    });
}
