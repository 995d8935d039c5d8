//! The same for HTTP/2: rows of frames, in `http2.json`.
//!
//! A frame has `flags`, a `stream` (a number, `next` or `last`) and a payload: `fields`, a header block without any
//! compression, perhaps `cut` after so many bytes into a continuation; `hex`; or `text`. `times` repeats `each`.
//! `outcome` lists what may come back: a frame that ends the stream or the connection, with its reason, or `HEADERS`,
//! perhaps with a status.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::now;
use crate::{World, bytes, connect, from_hex, rows};

const HTTP2: &str = include_str!("http2.json");
const ROWS_MIN: usize = 65;
const WITHIN: Duration = Duration::from_secs(5);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TYPES: [&str; 10] = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
];
const REASONS: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];
const END_HEADERS: u8 = 4;

/// A row's frames as bytes.
struct Script<'a> {
    world: &'a World,
    last_stream: u32,
    out: Vec<u8>,
}

impl Script<'_> {
    fn add(&mut self, step: &Value) {
        if let Some(times) = step["times"].as_u64().filter(|_| step["each"].is_array()) {
            for _ in 0..times {
                for each in step["each"].as_array().expect("it is a list") {
                    self.add(each);
                }
            }
            return;
        }
        let Some(name) = step["frame"].as_str() else {
            self.out.extend(bytes(self.world, &step["text"]));
            return;
        };
        let kind =
            TYPES.iter().position(|of| *of == name).and_then(|at| u8::try_from(at).ok()).expect("a type");
        let flags = step["flags"].as_u64().and_then(|flags| u8::try_from(flags).ok()).expect("flags");
        let stream = match &step["stream"] {
            Value::String(word) if word == "next" => {
                // Clients number their streams 1, 3, 5, ...
                self.last_stream = if self.last_stream == 0 { 1 } else { self.last_stream + 2 };
                self.last_stream
            }
            Value::String(_) => self.last_stream,
            number => number.as_u64().and_then(|number| u32::try_from(number).ok()).expect("a stream"),
        };
        let payload = self.payload(step);
        match step["cut"].as_u64().and_then(|at| usize::try_from(at).ok()) {
            Some(at) => {
                self.frame(kind, flags, stream, &payload[..at]);
                let mut rest = payload[at..].chunks(at).peekable();
                while let Some(piece) = rest.next() {
                    let flags = if rest.peek().is_none() { END_HEADERS } else { 0 };
                    self.frame(9, flags, stream, piece);
                }
            }
            None => self.frame(kind, flags, stream, &payload),
        }
    }

    fn payload(&self, step: &Value) -> Vec<u8> {
        let mut payload = step["prefix"].as_str().map(from_hex).unwrap_or_default();
        if let Some(fields) = step["fields"].as_array() {
            for field in fields {
                payload.push(0); // Literal, never to be indexed.
                for part in [&field[0], &field[1]] {
                    let text = bytes(self.world, part);
                    integer(&mut payload, 0, 7, text.len());
                    payload.extend(text);
                }
            }
        } else if step["bomb"] == true {
            bomb(&mut payload);
        } else if let Some(hex) = step["hex"].as_str() {
            payload.extend(from_hex(hex));
        } else {
            payload.extend(bytes(self.world, &step["text"]));
        }
        payload
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a frame of a test is small");
        self.out.extend(&length.to_be_bytes()[1..]);
        self.out.extend([kind, flags]);
        self.out.extend(stream.to_be_bytes());
        self.out.extend(payload);
    }
}

/// An integer in the header compression's form, after `prefix` in its first byte, of which it has `bits`.
fn integer(out: &mut Vec<u8>, prefix: u8, bits: u32, mut value: usize) {
    let max = (1 << bits) - 1;
    if value < max {
        out.push(prefix | u8::try_from(value).expect("below the maximum"));
        return;
    }
    out.push(prefix | u8::try_from(max).expect("at most 255"));
    value -= max;
    while value >= 128 {
        out.push(u8::try_from(value % 128 + 128).expect("a byte"));
        value /= 128;
    }
    out.push(u8::try_from(value).expect("a byte"));
}

/// A request, then one entry of 4,000 bytes for the table and thousands of references to it: a few KiB that stand
/// for megabytes.
fn bomb(out: &mut Vec<u8>) {
    out.extend([0x82, 0x86, 0x84]); // GET, http, /
    out.push(0x40); // Literal, to be indexed.
    integer(out, 0, 7, 1);
    out.push(b'x');
    integer(out, 0, 7, 4_000);
    out.extend(std::iter::repeat_n(b'a', 4_000));
    out.extend(std::iter::repeat_n(0xbe, 8_000));
}

/// What a frame of the server says, as far as rows ask.
fn meaning(kind: u8, payload: &[u8]) -> Option<String> {
    let reason = |at: usize| {
        let code = payload.get(at..at + 4)?;
        let code = u32::from_be_bytes(code.try_into().expect("four bytes"));
        Some(
            REASONS
                .get(usize::try_from(code).ok()?)
                .map_or_else(|| code.to_string(), |name| (*name).to_owned()),
        )
    };
    match kind {
        1 => Some(format!("HEADERS {}", status(payload).unwrap_or_default())),
        3 => Some(format!("RST_STREAM {}", reason(0)?)),
        7 => Some(format!("GOAWAY {}", reason(4)?)),
        _ => None,
    }
}

/// The status, which comes first in a header block: from the static table, or a literal, perhaps compressed.
fn status(block: &[u8]) -> Option<String> {
    let known = ["200", "204", "206", "304", "400", "404", "500"];
    let first = *block.first()?;
    if let Some(index) = first.checked_sub(0x88).filter(|index| *index < 7) {
        return Some(known[usize::from(index)].to_owned());
    }
    let (length, text) = (*block.get(1)?, &block[2..]);
    if length & 0x80 == 0 {
        return Some(String::from_utf8_lossy(text.get(..usize::from(length))?).into_owned());
    }
    // In the code of header compression 0, 1 and 2 have five bits, the other digits six.
    let packed = text.get(..usize::from(length & 0x7f))?;
    let bits: String = packed
        .iter()
        .flat_map(|byte| (0..8).map(move |at| byte << at & 0x80))
        .map(|bit| if bit == 0 { '0' } else { '1' })
        .collect();
    let (mut rest, mut digits) = (bits.as_str(), String::new());
    while digits.len() < 3 {
        let five = u8::from_str_radix(rest.get(..5)?, 2).ok()?;
        if five < 3 {
            digits.push(char::from(b'0' + five));
            rest = &rest[5..];
        } else {
            let six = u8::from_str_radix(rest.get(..6)?, 2).ok()?;
            digits.push(char::from(b'3' + six.checked_sub(0b01_1001)?));
            rest = &rest[6..];
        }
    }
    Some(digits)
}

/// Reads frames until one of those expected, or the end; the answer is what was told.
fn read(stream: &mut TcpStream, expected: &[&str], begun: Instant) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        let left = WITHIN.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
        let mut head = [0; 9];
        if stream.set_read_timeout(Some(left)).is_err() || stream.read_exact(&mut head).is_err() {
            return told;
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).is_err() {
            return told;
        }
        if let Some(meaning) = meaning(head[3], &payload) {
            let done = expected.iter().any(|one| meaning.starts_with(one));
            told.push(meaning);
            if done {
                return told;
            }
        }
    }
}

fn attack(world: &World, row: &Value) -> Result<u32, String> {
    let expected: Vec<&str> = row["outcome"]
        .as_array()
        .expect("a row says what comes of it")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let mut script = Script { world, last_stream: 0, out: PREFACE.to_vec() };
    if row["settings"] != json!(false) {
        script.frame(4, 0, 0, &[]);
    }
    for step in row["send"].as_array().expect("a row sends something") {
        script.add(step);
    }
    let mut stream = connect(world.server.http);
    let mut writer = stream.try_clone().expect("a second handle");
    let begun = now();
    let told = std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = writer.write_all(&script.out);
        });
        let told = read(&mut stream, &expected, begun);
        let _ = stream.shutdown(Shutdown::Both);
        told
    });
    match told.last() {
        Some(last) if expected.iter().any(|one| last.starts_with(one)) => Ok(0),
        _ => Err(format!("told {told:?} in {:?}, not one of {expected:?}", begun.elapsed())),
    }
}

#[test]
fn every_attack_on_http_2_ends_as_documented_and_others_stay_served() {
    let world = World::new();
    let rows = rows(HTTP2);
    assert!(rows.len() >= ROWS_MIN, "only {} rows", rows.len());
    world.run(rows, |row| attack(&world, row));
}
