//! What no proper client sends, byte for byte (`reliability` section 3.1): the tables in `attacks/*.json`.
//!
//! Each row has a connection of its own, and says what is sent on it and what must come back. Meanwhile somebody
//! publishes properly and must not notice, and of all the events in the rows only those are kept that were
//! answered with success.
//!
//! A row's `send` is a list of pieces: texts, with `${name}` filled in; `hex`; `repeat` with `times` (`#` is the
//! number of the repeat); `repeat_chunk`, a chunk of so many bytes; `pause_ms`.

#[path = "attacks/http2.rs"]
mod http2;
mod support;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use support::client::read_answers;
use support::server::show;
use support::time::pause;
use support::{Answer, Arm, Client, Request, Server, events, metrics, now};

const HTTP1: &str = include_str!("attacks/http1.json");
/// Fewer rows than this, and some were lost.
const ROWS_MIN: usize = 160;
/// What a row may take unless it says otherwise.
const WITHIN: u64 = 5_000;
/// How long a connection that should stay is watched.
const STAYS: Duration = Duration::from_millis(300);
/// Rows at once; those that take seconds have threads of their own.
const WORKERS: usize = 8;
/// What a proper client may have to wait while others misbehave, on a machine with two processors.
const BYSTANDER_WAIT_MAX: Duration = Duration::from_secs(2);

/// A server, and what the rows need to know of it.
struct World {
    server: Server,
    names: BTreeMap<&'static str, String>,
    /// A proper request.
    publish: Request,
}

impl World {
    fn new() -> Self {
        let server = Server::start();
        let arm = Arm::new(&server);
        let topic = arm.topic("grid", &json!({}));
        let body = json!([events::grid_event("a")]);
        let event = body.to_string();
        let names = BTreeMap::from([
            ("path", topic.path.clone()),
            ("key", topic.key.clone()),
            ("event.length", event.len().to_string()),
            ("event.hex", format!("{:x}", event.len())),
            ("event", event),
        ]);
        Self { publish: topic.publish(events::JSON, &body), server, names }
    }

    fn fill(&self, text: &str) -> String {
        self.names
            .iter()
            .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value))
    }

    /// Events accepted so far.
    fn accepted(&self) -> f64 {
        let page = self.server.metrics();
        let lines = metrics::family(&page, &["gridwire_publish_events_total{"]);
        lines.iter().filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Publishes properly until told to stop; the answer is how often, and the longest wait for an answer.
    fn bystand(&self, stop: &AtomicBool) -> (u32, Duration) {
        let mut client = Client::new(self.server.http);
        let (mut count, mut longest) = (0, Duration::ZERO);
        while !stop.load(Ordering::SeqCst) {
            let asked = now();
            client.send(&self.publish).expect("a proper client is served").expect(200);
            longest = longest.max(asked.elapsed());
            count += 1;
            pause(Duration::from_millis(10));
        }
        (count, longest)
    }

    /// Works through rows with a bystander; the answer is what went wrong.
    fn run(&self, rows: Vec<Value>, attack: impl Fn(&Value) -> Result<u32, String> + Sync) {
        let count = rows.len();
        let (slow, quick): (Vec<Value>, Vec<Value>) =
            rows.into_iter().partition(|row| row["within_ms"].as_u64().is_some());
        let queue = Mutex::new(VecDeque::from(quick));
        let (failures, accepted) = (Mutex::new(Vec::new()), Mutex::new(0));
        let before = self.accepted();
        let done = AtomicBool::new(false);
        let try_row = |row: &Value| match attack(row) {
            Ok(kept) => *accepted.lock().expect("no panic while it is held") += kept,
            Err(problem) => {
                let line = format!("{}: {problem}", row["name"].as_str().unwrap_or("a row without a name"));
                failures.lock().expect("no panic while it is held").push(line);
            }
        };
        let (published, longest) = std::thread::scope(|scope| {
            let bystander = scope.spawn(|| self.bystand(&done));
            let mut workers: Vec<_> = slow.iter().map(|row| scope.spawn(|| try_row(row))).collect();
            workers.extend((0..WORKERS).map(|_| {
                scope.spawn(|| {
                    while let Some(row) = { queue.lock().expect("no panic while it is held").pop_front() } {
                        try_row(&row);
                    }
                })
            }));
            for worker in workers {
                worker.join().expect("a worker ends");
            }
            done.store(true, Ordering::SeqCst);
            bystander.join().expect("a proper client is served")
        });
        let failures = failures.into_inner().expect("no panic while it is held");
        show(&format!("{count} rows; meanwhile {published} proper publishes, {longest:?} at most"));
        assert!(failures.is_empty(), "{} of {count} fail:\n  {}", failures.len(), failures.join("\n  "));
        assert!(longest < BYSTANDER_WAIT_MAX, "a proper client waited {longest:?}");
        let kept = accepted.into_inner().expect("no panic while it is held");
        let grown = self.accepted() - before;
        assert!(
            (grown - f64::from(published + kept)).abs() < 0.5,
            "{grown} events kept of {published} and {kept}"
        );
        assert!(!self.server.log().contains("panicked"), "{}", self.server.log());
    }
}

/// The rows of a table.
fn rows(table: &str) -> Vec<Value> {
    let groups: Vec<Value> = serde_json::from_str(table).expect("a table");
    let mut rows = Vec::new();
    for group in groups {
        let about = group["about"].as_str().expect("a group says what it is about");
        for row in group["rows"].as_array().expect("a group has rows") {
            let mut row = row.clone();
            let name = row["name"].as_str().expect("a row has a name");
            row["name"] = format!("{about}: {name}").into();
            rows.push(row);
        }
    }
    rows
}

/// The bytes of one piece.
fn bytes(world: &World, piece: &Value) -> Vec<u8> {
    if let Some(text) = piece.as_str() {
        return world.fill(text).into_bytes();
    }
    if let Some(hex) = piece["hex"].as_str() {
        return from_hex(hex);
    }
    let times =
        piece["times"].as_u64().and_then(|times| usize::try_from(times).ok()).expect("a number of times");
    if let Some(size) = piece["repeat_chunk"].as_u64().and_then(|size| usize::try_from(size).ok()) {
        return format!("{size:x}\r\n{}\r\n", "a".repeat(size)).repeat(times).into_bytes();
    }
    let text = world.fill(piece["repeat"].as_str().expect("a text to repeat"));
    if text.contains('#') {
        return (0..times)
            .map(|number| text.replace('#', &number.to_string()))
            .collect::<String>()
            .into_bytes();
    }
    text.repeat(times).into_bytes()
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).expect("the server accepts");
    stream.set_nodelay(true).expect("an option of a socket");
    stream
}

/// Sends the pieces. The server may refuse, and close, before it has them all.
fn write(world: &World, stream: &mut TcpStream, pieces: &[Value]) -> io::Result<()> {
    for piece in pieces {
        match piece["pause_ms"].as_u64() {
            Some(millis) => pause(Duration::from_millis(millis)),
            None => stream.write_all(&bytes(world, piece))?,
        }
    }
    Ok(())
}

/// Whether a refusal has the documented body, also where the request could not be understood.
fn says_why(answer: &Answer) -> bool {
    let (code, inner) = answer.error();
    !inner.is_empty()
        && answer.header("x-ms-error-code") == Some(&code)
        && answer.header("x-ms-request-id").is_some()
}

/// One row: the answer is how many events it should have stored.
fn attack(world: &World, row: &Value) -> Result<u32, String> {
    let pieces = row["send"].as_array().expect("a row sends something");
    let expected: Vec<u64> = match row["answers"].as_array() {
        Some(answers) => answers.iter().filter_map(Value::as_u64).collect(),
        None => vec![400],
    };
    let stays = row["end"] == "open";
    let within = Duration::from_millis(row["within_ms"].as_u64().unwrap_or(WITHIN));
    let begun = now();
    let stream = connect(world.server.http);
    let mut writer = stream.try_clone().expect("a second handle");
    let (answers, closed) = std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = write(world, &mut writer, pieces);
        });
        // One that should stay is watched for a moment after its last answer.
        let wait = |count: usize| {
            if stays && count >= expected.len() { STAYS } else { within.saturating_sub(begun.elapsed()) }
        };
        let read = read_answers(&stream, wait);
        let _ = stream.shutdown(Shutdown::Both);
        read
    });
    let found: Vec<u64> = answers.iter().map(|answer| u64::from(answer.status)).collect();
    if found != expected {
        return Err(format!("answered {found:?}, not {expected:?}"));
    }
    if let Some(bare) = answers.iter().find(|answer| answer.status >= 400 && !says_why(answer)) {
        return Err(format!("a refusal without the error body: {bare:?}"));
    }
    match (stays, closed) {
        (true, true) => Err("closed, though it should stay".to_owned()),
        (false, false) => Err(format!("still open after {:?}", begun.elapsed())),
        _ => {
            let stored = pieces.iter().filter_map(Value::as_str).any(|piece| piece.contains("${path}"));
            let kept = found.iter().filter(|status| stored && **status == 200).count();
            Ok(u32::try_from(kept).expect("a few"))
        }
    }
}

#[test]
fn every_attack_on_http_1_is_answered_as_documented_and_others_stay_served() {
    let world = World::new();
    let rows = rows(HTTP1);
    assert!(rows.len() >= ROWS_MIN, "only {} rows", rows.len());
    world.run(rows, |row| attack(&world, row));
}
