//! More than the server can take (`reliability` section 2: 10x overload, 10k idle connections; promise 10).
//!
//! In a control group with 512 MiB, on a disk whose flushes take long, so that what it takes is little and known.
//! Load above that is refused, what is taken goes on as before, and memory stays bounded.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use support::arm::Topic;
use support::outside::{Injection, SmallMemory, peak_memory, resident_memory, skip, slow_flushes};
use support::server::show;
use support::time::pause;
use support::{Answer, Arm, Client, Launch, Request, Server, events, now, wait_for};

const MEMORY: u64 = 512 << 20;
/// What the server may use of it.
const PEAK_MAX: u64 = 400 << 20;
/// A group of the log holds 4 MiB, 8 large events. Slow enough that ten times as much is not too much for the clients,
/// and quick enough that all the server may hold when the flood ends, 64 MiB, is written before it must be normal.
const FLUSH: Duration = Duration::from_millis(125);
const LARGE: usize = 500 << 10;
/// How many publish at once to find out how much the server takes, and for how long.
const PUBLISHERS: usize = 16;
const PEAK_TIME: Duration = Duration::from_secs(5);
/// The flood: so many, each of whom asks again this soon after a refusal. Those whose events were taken, 130 of
/// them, wait for the disk; the others must be many enough to ask ten times as often as is taken.
const FLOODERS: usize = 450;
/// For this long, or for as many seconds as the variable says.
const FLOOD_TIME: Duration = Duration::from_secs(6);
/// Segments of the event log that a flood can fill.
const SEGMENTS_MAX: u32 = 60;
const FLOOD_TIME_FROM: &str = "GRIDWIRE_FLOOD_SECONDS";
const IMPATIENCE: Duration = Duration::from_millis(400);
const OFFERED_MIN: f64 = 10.0;
const GOODPUT_MIN: f64 = 0.8;
const NORMAL_WITHIN: Duration = Duration::from_secs(5);
/// A listener takes 10,000 connections; below that others still come in.
const IDLE: usize = 9_900;
/// The HTTP library's buffers are most of it.
const IDLE_BYTES_MAX: u64 = 40 << 10;
/// Bodies that are sent but for their last byte.
const UNFINISHED: usize = 500;
/// Files that this process and the server may have open each.
const FILES: u64 = 12_000;

struct World {
    server: Server,
    topic: Topic,
    large: Request,
    small: Request,
}

#[derive(Debug, Default)]
struct Tally {
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl Tally {
    fn count(&self, answer: &Answer) {
        if answer.status == 200 {
            self.accepted.fetch_add(1, Ordering::Relaxed);
        } else {
            refused(answer);
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Per second.
    fn rates(&self, time: Duration) -> (f64, f64) {
        let rate = |count: &AtomicU64| {
            let count = u32::try_from(count.load(Ordering::Relaxed)).expect("a few thousand");
            f64::from(count) / time.as_secs_f64()
        };
        (rate(&self.accepted), rate(&self.refused))
    }
}

#[track_caller]
fn refused(answer: &Answer) {
    let documented = matches!((answer.status, answer.error().1.as_str()), (503, "overloaded") | (429, _));
    assert!(documented, "{}: {}", answer.status, answer.text());
    let wait = answer.header("retry-after").and_then(|text| text.parse::<u32>().ok());
    assert!(wait.is_some_and(|seconds| seconds >= 1), "no time to wait: {answer:?}");
}

impl World {
    fn address(&self) -> SocketAddr {
        self.server.http
    }

    /// Lets so many publish large events; each waits for its answer, and after a refusal a moment longer. When they
    /// begin no more, and while the last of them still wait, does what comes `then`.
    fn publish<T>(&self, publishers: usize, time: Duration, then: impl FnOnce() -> T) -> (Tally, T) {
        let (tally, ending) = (Tally::default(), AtomicBool::new(false));
        let bytes = self.large.wire(self.address());
        let then = std::thread::scope(|scope| {
            for number in 0..publishers {
                let (tally, ending, bytes) = (&tally, &ending, &bytes);
                scope.spawn(move || {
                    // They don't come all at once.
                    pause(IMPATIENCE.mul_f64(number as f64 / publishers as f64));
                    let mut client = Client::new(self.address());
                    while !ending.load(Ordering::Relaxed) {
                        let answer = client.send_wire(bytes, "POST").expect("an answer, if only a refusal");
                        if ending.load(Ordering::Relaxed) {
                            return;
                        }
                        tally.count(&answer);
                        if answer.status != 200 {
                            pause(IMPATIENCE);
                        }
                    }
                });
            }
            pause(time);
            ending.store(true, Ordering::Relaxed);
            then()
        });
        (tally, then)
    }

    /// Connections that have been used once and stay.
    fn idle(&self) -> Vec<TcpStream> {
        let request = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";
        let mut answer = vec![0; 4096];
        (0..IDLE)
            .map(|number| {
                let mut stream = TcpStream::connect(self.address()).expect("a connection for an idler");
                stream.set_read_timeout(Some(Duration::from_secs(20))).expect("an option of a socket");
                stream.write_all(request).expect("an idler's request");
                let count = stream.read(&mut answer).expect("an idler's answer");
                assert!(answer[..count].starts_with(b"HTTP/1.1 200"), "connection {number}");
                stream
            })
            .collect()
    }

    /// Bodies of a MiB whose last byte never comes.
    fn unfinished(&self) -> Vec<TcpStream> {
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: h\r\naeg-sas-key: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            self.topic.path,
            self.topic.key,
            1 << 20
        );
        let body = vec![b'['; (1 << 20) - 1];
        (0..UNFINISHED)
            .map(|_| {
                let mut stream = TcpStream::connect(self.address()).expect("a connection");
                stream.set_write_timeout(Some(Duration::from_secs(20))).expect("an option of a socket");
                stream.write_all(head.as_bytes()).expect("a head");
                // One that was refused may be closed before it has sent all.
                let _ = stream.write_all(&body);
                stream
            })
            .collect()
    }

    /// How long it takes until a large publish is taken at once again.
    fn normal_after(&self) -> Duration {
        let begun = now();
        wait_for("a large publish to be taken as before", NORMAL_WITHIN, || {
            let asked = now();
            let answer = self.server.send(&self.large);
            if answer.status != 200 {
                refused(&answer);
            }
            (answer.status == 200 && asked.elapsed() < 3 * FLUSH).then_some(())
        });
        begun.elapsed()
    }

    fn megabytes(&self) -> u64 {
        resident_memory(self.server.pid()) >> 20
    }
}

/// Makes room for connections, here and in the server.
fn allow_files() -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < FILES) {
        return Err(format!("{FILES} open files are needed, and {:?} are allowed", limit.maximum));
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .map_err(|error| format!("failed to allow {FILES} open files: {error}"))
}

#[test]
fn ten_times_too_much_is_refused_within_bounds_and_what_is_taken_goes_on() {
    let prepared = allow_files().and_then(|()| Injection::unavailable().map_or(Ok(()), Err));
    if let Err(reason) = prepared {
        return skip(&reason);
    }
    let memory = match SmallMemory::new(MEMORY) {
        Ok(memory) => Some(memory),
        // The peak is looked at in any case.
        Err(reason) => {
            skip(&reason);
            None
        }
    };
    let place = tempfile::tempdir().expect("a directory for the data");
    let dir = place.path().join("data");
    let mut before = memory.as_ref().map(SmallMemory::before).unwrap_or_default();
    let segments: Vec<_> =
        (1..=SEGMENTS_MAX).map(|number| dir.join(format!("log/{number:020}.seg"))).collect();
    before.extend(slow_flushes(&segments, FLUSH));
    let server = Server::launch(Launch { before, data_dir: Some((dir.clone(), dir)), ..Launch::default() });
    let arm = Arm::new(&server);
    let topic = arm.topic("grid", &json!({}));
    let mut event = events::grid_event("a");
    let small = topic.publish(events::JSON, &json!([event]));
    event["data"] = json!({ "padding": "x".repeat(LARGE) });
    let large = topic.publish(events::JSON, &json!([event]));
    let world = World { server, topic, large, small };
    // What matches nobody is not stored.
    let sink = support::Sink::start();
    Arm::new(&world.server).webhook(&world.topic, "hook", &sink.url("/hook"), &json!({}));

    let (peak, ()) = world.publish(PUBLISHERS, PEAK_TIME, || ());
    let (peak, _) = peak.rates(PEAK_TIME);

    let unfinished = world.unfinished();
    let with_unfinished = world.megabytes();
    world.server.send(&world.small).expect(200);
    refused(&world.server.send(&world.large));
    drop(unfinished);
    let freed = world.normal_after();

    let time = std::env::var(FLOOD_TIME_FROM).ok();
    let time =
        time.map_or(FLOOD_TIME, |text| Duration::from_secs(text.parse().expect("seconds of the flood")));
    let (flood, normal) = world.publish(FLOODERS, time, || world.normal_after());
    let (goodput, refusals) = flood.rates(time);
    let used = peak_memory(world.server.pid());
    show(&format!(
        "peak {peak:.1}/s; flood of {time:?}: {goodput:.1}/s taken, {refusals:.1}/s refused, {:.1} times the peak offered; \
         normal {freed:?} after unfinished bodies, {normal:?} after the flood; {with_unfinished} MiB with \
         {UNFINISHED} unfinished bodies, {} MiB at most",
        (goodput + refusals) / peak,
        used >> 20
    ));
    assert!(goodput >= GOODPUT_MIN * peak, "{goodput:.1} of {peak:.1} events a second");
    assert!(
        goodput + refusals >= OFFERED_MIN * peak,
        "only {:.1} times the peak",
        (goodput + refusals) / peak
    );
    assert!(used <= PEAK_MAX, "{} MiB", used >> 20);
    check_idle(&world);
}

/// As many connections as a listener takes, nearly, that ask once and stay: each costs little, and nobody notices.
fn check_idle(world: &World) {
    let before = resident_memory(world.server.pid());
    let mut idle = world.idle();
    let each =
        resident_memory(world.server.pid()).saturating_sub(before) / u64::try_from(IDLE).expect("it fits");
    let asked = now();
    world.server.send(&world.small).expect(200);
    let took = asked.elapsed();
    show(&format!("{IDLE} idle connections: {each} bytes each; a publish beside them took {took:?}"));
    assert!(each <= IDLE_BYTES_MAX, "{each} bytes for an idle connection");
    assert!(took < 4 * FLUSH, "a publish beside idle connections took {took:?}");
    for stream in idle.iter_mut().step_by(100) {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").expect("an idler asks again");
        let mut answer = [0; 64];
        let count = stream.read(&mut answer).expect("an idler is answered");
        assert!(answer[..count].starts_with(b"HTTP/1.1 200"), "an idler's connection was closed");
    }
}
