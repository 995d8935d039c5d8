//! Clients that are slow on purpose (`reliability` section 4.4, S5): each is let go in time, and nobody else notices.

mod support;

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use support::arm::Namespace;
use support::pull::Queue;
use support::server::show;
use support::time::pause;
use support::{Arm, Client, Server, events, now, wait_for};

/// Slow clients of each kind, 500 together.
const HEADS: usize = 170;
const BODIES: usize = 170;
const SILENT: usize = 148;
/// Few, for each must be owed more than the kernel takes off the server's hands.
const NOT_READING: usize = 12;
const SLOW: usize = HEADS + BODIES + SILENT + NOT_READING;
/// Answers that each of the latter asks for, and about the bytes of each.
const ANSWERS: usize = 8;
const ANSWER_BYTES: usize = 900 << 10;
/// From when the last of them began.
const GONE_WITHIN: Duration = Duration::from_secs(15);
/// How long it is measured what a healthy client has to wait, with nobody else there.
const ALONE: Duration = Duration::from_secs(4);
/// Twice as long is allowed with slow clients, or this, where scheduling is all that is measured.
const SLOWER_MAX: u32 = 2;
const NOISE: Duration = Duration::from_millis(25);

struct World {
    server: Server,
    namespace: Namespace,
}

/// One slow client, and what it sends of its request in each second.
struct Slow {
    stream: TcpStream,
    trickle: &'static [u8],
}

impl World {
    fn new() -> Self {
        let server = Server::start();
        let arm = Arm::new(&server);
        let namespace = arm.namespace("spaces");
        for topic in ["orders", "large"] {
            arm.namespace_topic(&namespace, topic);
            arm.queue(&namespace, topic, "pulled", &json!({}), &json!({}));
        }
        let mut client = Client::new(server.http);
        let padding = "x".repeat(ANSWER_BYTES);
        for number in 0..NOT_READING * ANSWERS {
            let mut event = events::cloud_event(&format!("large-{number}"));
            event["data"] = json!({ "padding": padding });
            client.send(&namespace.publish("large", &json!([event]))).expect("an answer").expect(200);
        }
        Self { server, namespace }
    }

    /// Publishes, receives and acknowledges for as long as `goes_on` says; the answer is the 99th percentile of the
    /// time that takes, and how often it was done.
    fn work(&self, goes_on: impl Fn() -> bool) -> (Duration, usize) {
        let mut client = Client::new(self.server.http);
        let queue = Queue::new(&self.namespace, "orders", "pulled");
        let mut times = Vec::new();
        while goes_on() {
            let begun = now();
            let event = json!([events::cloud_event(&format!("small-{}", times.len()))]);
            client.send(&self.namespace.publish("orders", &event)).expect("an answer").expect(200);
            let received = queue.receive(&mut client, 1).expect("an answer");
            let token = received.first().expect("what was published").token.as_str();
            let settled = queue.settle(&mut client, "acknowledge", "", &[token]).expect("an answer");
            assert_eq!(settled.succeeded, [token]);
            times.push(begun.elapsed());
            pause(Duration::from_millis(2));
        }
        times.sort_unstable();
        (times[times.len() * 99 / 100], times.len())
    }

    fn slow(&self, number: usize) -> Slow {
        let mut stream = TcpStream::connect(self.server.http).expect("the server accepts");
        stream.set_write_timeout(Some(Duration::from_millis(100))).expect("an option of a socket");
        let mut send = |text: &str| stream.write_all(text.as_bytes()).expect("a slow client begins");
        let publish = self.namespace.request("topics/orders:publish", "");
        let authorization = self.namespace.authorization();
        let head = |path: &str, length: usize| {
            format!(
                "POST {path} HTTP/1.1\r\nhost: h\r\nauthorization: {authorization}\r\n\
                 content-type: {}\r\ncontent-length: {length}\r\n\r\n",
                events::BATCH
            )
        };
        let trickle: &[u8] = if number < HEADS {
            send("POST /a HTTP/1.1\r\nx: ");
            if number.is_multiple_of(2) { b"x" } else { b"" }
        } else if number < HEADS + BODIES {
            send(&head(&publish.path, 500_000));
            // Some begin well.
            if number.is_multiple_of(3) {
                send(&" ".repeat(100_000));
            }
            if number.is_multiple_of(2) { &[b' '; 100] } else { b"" }
        } else if number < HEADS + BODIES + SILENT {
            b""
        } else {
            let receive = Queue::new(&self.namespace, "large", "pulled").receive_request(1);
            send(&head(&receive.path, 0).repeat(ANSWERS));
            b""
        };
        Slow { stream, trickle }
    }

    /// The server's open sockets.
    fn sockets(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.server.pid())).expect("the server runs");
        let target = |file: fs::DirEntry| fs::read_link(file.path()).ok();
        files
            .filter_map(|file| target(file.ok()?))
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }
}

#[test]
fn slow_clients_are_let_go_and_nobody_else_notices() {
    let world = World::new();
    let alone = || {
        let begun = now();
        world.work(|| begun.elapsed() < ALONE).0
    };
    let before = alone();
    let sockets = wait_for("the connections of the beginning to end", Duration::from_secs(10), || {
        let count = world.sockets();
        (count < 10).then_some(count)
    });
    let over = AtomicBool::new(false);
    let ((beside, times), gone) = std::thread::scope(|scope| {
        let healthy = scope.spawn(|| world.work(|| !over.load(Ordering::Relaxed)));
        let mut slow: Vec<Slow> = (0..SLOW).map(|number| world.slow(number)).collect();
        let begun = now();
        wait_for("all of them to be there at once", Duration::from_secs(5), || {
            (world.sockets() >= sockets + SLOW).then_some(())
        });
        let trickling = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for Slow { stream, trickle } in &mut slow {
                    // The server may have let it go.
                    let _ = stream.write_all(trickle);
                }
                pause(Duration::from_secs(1));
            }
            slow
        });
        let end = || {
            let left = world.sockets().saturating_sub(sockets + 1);
            (left == 0 || begun.elapsed() > GONE_WITHIN).then_some(left)
        };
        let left = wait_for("slow clients to be let go", 2 * GONE_WITHIN, end);
        let gone = begun.elapsed();
        over.store(true, Ordering::Relaxed);
        drop(trickling.join());
        let healthy = healthy.join().expect("a healthy client is served");
        assert_eq!(left, 0, "slow clients are still there after {gone:?}");
        (healthy, gone)
    });
    let alone = before.max(alone());
    show(&format!(
        "99 of 100 healthy rounds took at most {alone:?} alone and {beside:?} beside {SLOW} slow clients ({times} \
         rounds); those were gone after {gone:?}"
    ));
    assert!(beside <= (SLOWER_MAX * alone).max(NOISE), "{beside:?} beside slow clients, {alone:?} alone");
}
