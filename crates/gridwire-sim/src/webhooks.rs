//! The endpoints that the broker posts to: mostly well, at times sick in every way an endpoint can be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gridwire_outside::Clock;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::checker::{Answer, DeliveryId};
use crate::net::Cut;
use crate::world::World;

/// How long an endpoint stays sick or well.
const MOOD: u64 = 7_000;

/// What an endpoint does with one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Accept {
        after: Duration,
    },
    Status {
        status: u16,
        retry_after: u64,
    },
    /// Never answers.
    Hang,
    Reset,
    Close,
    /// All of a 200, then a reset.
    AcceptThenReset,
    /// A part of a 200's head, then the end.
    HalfAHead,
    /// A 200 whose body comes byte by byte and never ends.
    Trickle,
}

/// One connection, and what was read of it.
struct Connection {
    world: Arc<World>,
    host: u8,
    pipe: DuplexStream,
    cut: Cut,
    read: Vec<u8>,
}

struct Arrival {
    method: String,
    subscription: String,
    head: String,
    body: Vec<u8>,
}

/// Serves a connection that the broker made.
pub(crate) fn accept(world: &Arc<World>, to: SocketAddr, pipe: DuplexStream, cut: Cut) {
    let host = match to {
        SocketAddr::V4(v4) => v4.ip().octets()[3],
        SocketAddr::V6(_) => 0,
    };
    let connection = Connection { world: Arc::clone(world), host, pipe, cut, read: Vec::new() };
    // Ends with the connection, at the latest with the world.
    drop(world.tasks.spawn(connection.serve()));
}

impl Connection {
    async fn serve(mut self) {
        while let Some(request) = self.next().await {
            if !self.answer(request).await {
                return;
            }
        }
    }

    async fn next(&mut self) -> Option<Arrival> {
        loop {
            if let Some(request) = take_request(&mut self.read) {
                return Some(request);
            }
            if self.pipe.read_buf(&mut self.read).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Whether the connection can be used again.
    async fn answer(&mut self, request: Arrival) -> bool {
        if request.method == "OPTIONS" {
            let consent = "HTTP/1.1 200 OK\r\nwebhook-allowed-origin: *\r\ncontent-length: 0\r\n\r\n";
            return self.write(consent).await;
        }
        if request.head.contains("aeg-event-type: SubscriptionValidation") {
            return self.validate(&request.body).await;
        }
        let act = self.choose();
        let world = Arc::clone(&self.world);
        let delivery = world.checker().delivered(&request.subscription, &request.body, world.now());
        let ids = event_ids(&request.body);
        world.note(format_args!("webhook {}: {ids} -> {act:?}", request.subscription));
        if !matches!(act, Act::Accept { .. }) {
            world.tally().webhook_failures += 1;
        }
        self.act(act, delivery).await
    }

    async fn act(&mut self, act: Act, delivery: DeliveryId) -> bool {
        let world = Arc::clone(&self.world);
        let answered = |answer| world.checker().answered(delivery, answer, world.now());
        match act {
            Act::Accept { after } => {
                world.pause(after).await;
                let written = !world.weather().webhooks_are_cut_off() && self.write(&head(200, 0)).await;
                answered(if written { Answer::Accepted } else { Answer::Unclear { accepted: false } });
                if !written {
                    self.cut.reset();
                }
                written
            }
            Act::Status { status, retry_after } => {
                let written = self.write(&head(status, retry_after)).await;
                let retry_after = Duration::from_secs(retry_after);
                answered(if written {
                    Answer::Status { status, retry_after }
                } else {
                    Answer::Unclear { accepted: false }
                });
                written
            }
            Act::Hang => {
                answered(Answer::Unclear { accepted: false });
                while self.pipe.read_buf(&mut self.read).await.is_ok_and(|count| count > 0) {}
                false
            }
            Act::Reset => {
                answered(Answer::Unclear { accepted: false });
                self.cut.reset();
                false
            }
            Act::Close => {
                answered(Answer::Unclear { accepted: false });
                false
            }
            Act::AcceptThenReset => {
                self.write(&head(200, 0)).await;
                answered(Answer::Unclear { accepted: true });
                self.cut.reset();
                false
            }
            Act::HalfAHead => {
                self.write("HTTP/1.1 200 OK\r\ncontent-le").await;
                answered(Answer::Unclear { accepted: false });
                false
            }
            Act::Trickle => {
                let begun = self.write("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
                answered(if begun { Answer::Accepted } else { Answer::Unclear { accepted: false } });
                while self.write("x").await {
                    world.clock.sleep(Duration::from_secs(1)).await;
                }
                false
            }
        }
    }

    fn choose(&self) -> Act {
        let world = &self.world;
        if world.weather_mut().fair {
            return Act::Accept { after: Duration::ZERO };
        }
        let mood =
            (world.now().as_millis() / MOOD).wrapping_mul(31) + u64::from(self.host) * 17 + world.plan.seed;
        let failing = if mood.is_multiple_of(4) { 600 } else { 40 };
        if !world.chance(failing) {
            let slow = world.chance(100);
            let after = if slow { world.rng.below(4_000) } else { world.rng.below(20) };
            return Act::Accept { after: Duration::from_millis(after) };
        }
        match world.rng.below(100) {
            0..=9 => Act::Hang,
            10..=24 => Act::Reset,
            25..=34 => Act::Close,
            35..=39 => Act::AcceptThenReset,
            40..=49 => Act::HalfAHead,
            50..=54 => Act::Trickle,
            55..=69 => Act::Status { status: 500, retry_after: 0 },
            70..=79 => Act::Status { status: 503, retry_after: world.rng.below(40) },
            80..=89 => Act::Status { status: 429, retry_after: world.rng.below(20) },
            90..=93 => Act::Status { status: 302, retry_after: 0 },
            94 => Act::Status { status: 404, retry_after: 0 },
            95 => Act::Status { status: 408, retry_after: 0 },
            96 | 97 => Act::Status { status: 413, retry_after: 0 },
            _ => Act::Status { status: 400, retry_after: 0 },
        }
    }

    async fn write(&mut self, text: impl AsRef<[u8]>) -> bool {
        self.pipe.write_all(text.as_ref()).await.is_ok()
    }

    /// Returns the code that it was sent, as an endpoint of the Event Grid schema must.
    async fn validate(&mut self, body: &[u8]) -> bool {
        let events: Value = serde_json::from_slice(body).unwrap_or_default();
        let answer =
            serde_json::json!({ "validationResponse": events[0]["data"]["validationCode"] }).to_string();
        let length = answer.len();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        self.write(format!("{head}{answer}")).await
    }
}

fn head(status: u16, retry_after: u64) -> String {
    let more = if retry_after > 0 { format!("retry-after: {retry_after}\r\n") } else { String::new() };
    format!("HTTP/1.1 {status} Told\r\n{more}content-length: 0\r\n\r\n")
}

/// For the trace; the checker finds out for itself.
fn event_ids(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let events = value.as_array().map_or(std::slice::from_ref(&value), Vec::as_slice);
    let ids: Vec<&str> = events.iter().map(|event| event["id"].as_str().unwrap_or("?")).collect();
    ids.join(",")
}

/// The first request in `read`, once all of it is there.
fn take_request(read: &mut Vec<u8>) -> Option<Arrival> {
    let end = read.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    let length = head
        .split("\r\n")
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let length: usize = length.unwrap_or(0);
    if read.len() < end + length {
        return None;
    }
    let mut words = head.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?);
    let subscription = path.trim_start_matches('/').to_owned();
    let rest = read.split_off(end + length);
    let body = std::mem::replace(read, rest).split_off(end);
    Some(Arrival { method, subscription, head, body })
}
