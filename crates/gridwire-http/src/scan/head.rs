//! The head of an HTTP/1 request, byte by byte.

use super::{Fault, HEAD_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX};

/// Longer than the names and values that are looked at here, blanks not counted.
const TEXT_BYTES_MAX: usize = 32;
/// The HTTP library counts no further: it keeps the last two numbers for itself.
const LENGTH_MAX: u64 = u64::MAX - 2;
const VERSION: &[u8] = b"HTTP/1.";

const BARE: Fault = Fault::Malformed("A line of the request's head ends with a bare line feed.");
const LINE: Fault = Fault::Malformed("The request line is malformed.");
const OTHER_VERSION: Fault = Fault::Malformed("The request is not one of HTTP/1.0 or HTTP/1.1.");
const NAME: Fault = Fault::Malformed("A header's name is malformed.");
const FOLDED: Fault = Fault::Malformed("A header is folded over several lines.");
const VALUE: Fault = Fault::Malformed("A header's value holds a control character.");
const HOST: Fault = Fault::Malformed("The request must have one Host header.");
const LENGTH: Fault = Fault::Malformed("The Content-Length is no number.");
const ENCODING: Fault = Fault::Malformed("The only transfer encoding is `chunked`, of HTTP/1.1.");
const TWICE: Fault =
    Fault::Malformed("The request has both a Content-Length and a Transfer-Encoding, or two of one of them.");

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Length(u64),
    Chunked,
}

/// The head of a request, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Head {
    at: At,
    /// All of it so far, empty lines in front included.
    bytes: usize,
    target_bytes: usize,
    in_query: bool,
    /// Of HTTP/1.x.
    minor: u8,
    headers: usize,
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    name: Text,
    value: Text,
    /// What the current header's value is collected for.
    wanted: Wanted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before the request line, and after the carriage return of an empty line there.
    #[default]
    Before,
    BeforeLineFeed,
    Method,
    Target,
    /// So many bytes of the version have come.
    Version(usize),
    LineEnd,
    LineFeed,
    /// The beginning of a line after the first.
    Line,
    Name,
    Value,
    ValueLineFeed,
    EndLineFeed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    Nothing,
    Length,
    Encoding,
}

/// A short text without the blanks around it; of a long one only that it is too long.
#[derive(Clone, Copy, Debug)]
struct Text {
    bytes: [u8; TEXT_BYTES_MAX],
    count: usize,
    /// Blanks since the last byte that is none.
    blanks: usize,
    too_long: bool,
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; TEXT_BYTES_MAX], count: 0, blanks: 0, too_long: false }
    }
}

impl Text {
    fn clear(&mut self) {
        (self.count, self.blanks, self.too_long) = (0, 0, false);
    }

    fn push(&mut self, byte: u8) {
        if matches!(byte, b' ' | b'\t') {
            self.blanks += usize::from(self.count > 0);
            return;
        }
        if self.count + self.blanks >= TEXT_BYTES_MAX {
            self.too_long = true;
            return;
        }
        self.bytes[self.count..self.count + self.blanks].fill(b' ');
        self.count += self.blanks;
        self.bytes[self.count] = byte.to_ascii_lowercase();
        self.count += 1;
        self.blanks = 0;
    }

    /// The same as pushing bytes that are no blanks, one by one.
    fn extend(&mut self, bytes: &[u8]) {
        if self.too_long || self.count + self.blanks + bytes.len() > TEXT_BYTES_MAX {
            return bytes.iter().for_each(|byte| self.push(*byte));
        }
        self.bytes[self.count..self.count + self.blanks].fill(b' ');
        self.count += self.blanks;
        self.blanks = 0;
        let into = &mut self.bytes[self.count..self.count + bytes.len()];
        into.copy_from_slice(bytes);
        into.make_ascii_lowercase();
        self.count += bytes.len();
    }

    fn get(&self) -> Option<&[u8]> {
        (!self.too_long).then(|| &self.bytes[..self.count])
    }
}

impl Head {
    pub(super) fn has_begun(&self) -> bool {
        !matches!(self.at, At::Before | At::BeforeLineFeed)
    }

    /// Reads on; the answer at the head's end is how many of the bytes were its own, and what follows.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Option<(usize, Body)>, Fault> {
        let mut at = 0;
        while at < bytes.len() {
            let plain = self.run(&bytes[at..]);
            self.bytes += plain;
            at += plain;
            if self.bytes >= HEAD_BYTES_MAX {
                return Err(Fault::HeadTooLarge);
            }
            let Some(&byte) = bytes.get(at) else { break };
            at += 1;
            self.bytes += 1;
            if self.at == At::EndLineFeed && byte == b'\n' {
                return Ok(Some((at, self.end()?)));
            }
            self.at = self.step(byte)?;
        }
        Ok(None)
    }

    /// Takes the bytes that leave everything as it is but for being counted or collected; the answer is how many. Most
    /// bytes of a head are such, and stepping through each of them is felt in every request.
    fn run(&mut self, bytes: &[u8]) -> usize {
        match self.at {
            At::Method => run_of(TOKEN_BYTE, bytes),
            At::Target => {
                let room = bytes.len().min(TARGET_BYTES_MAX - self.target_bytes);
                let count = run_of(if self.in_query { QUERY_BYTE } else { PATH_BYTE }, &bytes[..room]);
                self.target_bytes += count;
                count
            }
            At::Name => {
                let count = run_of(TOKEN_BYTE, bytes);
                self.name.extend(&bytes[..count]);
                count
            }
            At::Value if self.wanted == Wanted::Nothing => run_of(VALUE_BYTE, bytes),
            _ => 0,
        }
    }

    fn step(&mut self, byte: u8) -> Result<At, Fault> {
        Ok(match (self.at, byte) {
            (At::Before, b'\r') => At::BeforeLineFeed,
            (At::BeforeLineFeed, b'\n') => At::Before,
            (At::LineFeed | At::ValueLineFeed, b'\n') => {
                if self.at == At::ValueLineFeed {
                    self.end_header()?;
                }
                At::Line
            }
            (At::Line, b'\r') => At::EndLineFeed,
            (At::Value, b'\r') => At::ValueLineFeed,
            (_, b'\n') => return Err(BARE),
            (At::Before | At::Method, byte) if is(TOKEN_BYTE, byte) => At::Method,
            (At::Method, b' ') => At::Target,
            (At::Target, b' ') if self.target_bytes > 0 => At::Version(0),
            (At::Target, byte)
                if byte == b'?' || is(if self.in_query { QUERY_BYTE } else { PATH_BYTE }, byte) =>
            {
                self.target_bytes += 1;
                if self.target_bytes > TARGET_BYTES_MAX {
                    return Err(Fault::TargetTooLong);
                }
                self.in_query |= byte == b'?';
                At::Target
            }
            (At::Version(seen), byte) if VERSION.get(seen) == Some(&byte) => At::Version(seen + 1),
            (At::Version(seen), b'0' | b'1') if seen == VERSION.len() => {
                self.minor = byte - b'0';
                At::LineEnd
            }
            (At::LineEnd, b'\r') => At::LineFeed,
            (At::Version(_) | At::LineEnd, _) => return Err(OTHER_VERSION),
            (At::Line, b' ' | b'\t') => return Err(FOLDED),
            (At::Line, byte) if is(TOKEN_BYTE, byte) => {
                self.name.clear();
                self.name.push(byte);
                At::Name
            }
            (At::Name, byte) if is(TOKEN_BYTE, byte) => {
                self.name.push(byte);
                At::Name
            }
            (At::Name, b':') => {
                self.begin_value();
                At::Value
            }
            (At::Value, byte) if is(VALUE_BYTE, byte) => {
                self.value.push(byte);
                At::Value
            }
            (At::Line | At::Name, _) => return Err(NAME),
            (At::Value, _) => return Err(VALUE),
            (At::ValueLineFeed | At::LineFeed | At::EndLineFeed | At::BeforeLineFeed, _) => {
                return Err(Fault::Malformed("A carriage return of the request's head ends no line."));
            }
            (At::Before | At::Method | At::Target, _) => return Err(LINE),
        })
    }

    fn begin_value(&mut self) {
        self.value.clear();
        self.wanted = match self.name.get() {
            Some(b"content-length") => Wanted::Length,
            Some(b"transfer-encoding") => Wanted::Encoding,
            Some(b"host") => {
                self.hosts += 1;
                Wanted::Nothing
            }
            _ => Wanted::Nothing,
        };
    }

    fn end_header(&mut self) -> Result<(), Fault> {
        self.headers += 1;
        if self.headers > HEADERS_MAX {
            return Err(Fault::TooManyHeaders);
        }
        match self.wanted {
            Wanted::Nothing => {}
            Wanted::Length => {
                let length = length(self.value.get().ok_or(LENGTH)?)?;
                // The same one again says nothing new.
                if self.length.is_some_and(|other| other != length) {
                    return Err(TWICE);
                }
                self.length = Some(length);
            }
            Wanted::Encoding if self.chunked => return Err(TWICE),
            Wanted::Encoding if self.value.get() == Some(b"chunked") && self.minor == 1 => {
                self.chunked = true;
            }
            Wanted::Encoding => return Err(ENCODING),
        }
        if self.chunked && self.length.is_some() { Err(TWICE) } else { Ok(()) }
    }

    /// Judges the whole.
    fn end(&self) -> Result<Body, Fault> {
        // HTTP/1.0 knows no hosts.
        if self.hosts > 1 || (self.hosts == 0 && self.minor == 1) {
            return Err(HOST);
        }
        match self.length {
            _ if self.chunked => Ok(Body::Chunked),
            Some(length) if length > LENGTH_MAX => Err(Fault::LengthTooLarge),
            Some(length) => Ok(Body::Length(length)),
            None => Ok(Body::Length(0)),
        }
    }
}

/// A number of any size; above 64 bits it is too large, whatever it is.
fn length(digits: &[u8]) -> Result<u64, Fault> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(LENGTH);
    }
    let number = digits
        .iter()
        .try_fold(0_u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')));
    number.ok_or(Fault::LengthTooLarge)
}

/// What a byte may be part of. A target is what the HTTP library takes for one: beyond what a URI may hold that is quotes,
/// braces and the like, which some clients do not escape.
const TOKEN_BYTE: u8 = 1;
/// Of a target before its query, the question mark left out.
const PATH_BYTE: u8 = 1 << 1;
const QUERY_BYTE: u8 = 1 << 2;
const VALUE_BYTE: u8 = 1 << 3;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0_u8;
    loop {
        classes[byte as usize] = classes_of(byte);
        if byte == u8::MAX {
            break;
        }
        byte += 1;
    }
    classes
};

const fn classes_of(byte: u8) -> u8 {
    let mut classes = 0;
    if byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
    {
        classes |= TOKEN_BYTE;
    }
    if byte == b'\t' || (byte >= b' ' && byte != 0x7f) {
        classes |= VALUE_BYTE;
    }
    if byte > b' ' && byte != 0x7f {
        if !matches!(byte, b'<' | b'>' | b'`' | b'?') {
            classes |= PATH_BYTE;
        }
        if !matches!(byte, b'"' | b'<') {
            classes |= QUERY_BYTE;
        }
    }
    classes
}

fn is(class: u8, byte: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// How many bytes at the beginning are of a class.
fn run_of(class: u8, bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !is(class, *byte)).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &str, expected: Result<Body, Fault>) {
        for size in [1, 5, lines.len()] {
            let mut head = Head::default();
            let mut found = Ok(None);
            for piece in lines.as_bytes().chunks(size) {
                found = head.take(piece);
                if found != Ok(None) {
                    break;
                }
            }
            let found = found.map(|end| end.map(|(_, body)| body));
            assert_eq!(found, expected.map(Some), "{lines:.200?} in pieces of {size}");
        }
    }

    fn post(headers: &str, expected: Result<Body, Fault>) {
        check(&format!("POST /a?b HTTP/1.1\r\nhost: h\r\n{headers}\r\n"), expected);
    }

    #[test]
    fn a_head_says_what_follows_it() {
        check("GET / HTTP/1.0\r\n\r\n", Ok(Body::Length(0)));
        post("", Ok(Body::Length(0)));
        post("Content-Length:  17\t \r\n", Ok(Body::Length(17)));
        post("Content-Length: 5\r\ncontent-length: 005\r\n", Ok(Body::Length(5)));
        post("X-Content-Length: 5\r\nX: content-length: 6\r\n", Ok(Body::Length(0)));
        post("TRANSFER-encoding:\tchunKED\r\n", Ok(Body::Chunked));
        post("x:\r\ny: \u{e9}\t\"\r\n", Ok(Body::Length(0)));
    }

    #[test]
    fn a_body_of_two_ends_is_none() {
        post("content-length: 5\r\ncontent-length: 6\r\n", Err(TWICE));
        post("content-length: 5\r\ntransfer-encoding: chunked\r\n", Err(TWICE));
        post("transfer-encoding: chunked\r\ncontent-length: 5\r\n", Err(TWICE));
        post("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", Err(TWICE));
        for encoding in ["gzip", "chunked, gzip", "gzip, chunked", "chunked chunked", "", "xchunked"] {
            post(&format!("transfer-encoding: {encoding}\r\n"), Err(ENCODING));
        }
        check("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", Err(ENCODING));
        for length in ["", "+5", "-5", "5, 5", "5 5", "0x5", "5.0"] {
            post(&format!("content-length: {length}\r\n"), Err(LENGTH));
        }
        post("content-length: 18446744073709551613\r\n", Ok(Body::Length(LENGTH_MAX)));
        for length in ["18446744073709551614", "18446744073709551615", "99999999999999999999"] {
            post(&format!("content-length: {length}\r\n"), Err(Fault::LengthTooLarge));
        }
    }

    #[test]
    fn lines_are_what_the_standard_says() {
        for line in
            ["GET  / HTTP/1.1", "G(T / HTTP/1.1", " / HTTP/1.1", "GET\t/ HTTP/1.1", "GET /<a> HTTP/1.1"]
        {
            check(&format!("{line}\r\n\r\n"), Err(LINE));
        }
        for line in
            ["GET / HTTP/1.2", "GET / HTTP/2.0", "GET / http/1.1", "GET / HTTP/1.10", "GET / HTTP/1.1 "]
        {
            check(&format!("{line}\r\n\r\n"), Err(OTHER_VERSION));
        }
        post("x : a\r\n", Err(NAME));
        post(": a\r\n", Err(NAME));
        post("x\r\n", Err(NAME));
        post("x: a\r\n b\r\n", Err(FOLDED));
        post("x: a\0\r\n", Err(VALUE));
        post("x: a\x7f\r\n", Err(VALUE));
        post("host: h\r\n", Err(HOST));
        check("GET / HTTP/1.1\r\n\r\n", Err(HOST));
    }

    #[test]
    fn heads_are_bounded() {
        let target = |bytes: usize| format!("GET /{} HTTP/1.1\r\nhost: h\r\n\r\n", "a".repeat(bytes));
        check(&target(TARGET_BYTES_MAX - 1), Ok(Body::Length(0)));
        check(&target(TARGET_BYTES_MAX), Err(Fault::TargetTooLong));
        // Whether or not it ever ends.
        check(&format!("GET /{}", "a".repeat(TARGET_BYTES_MAX)), Err(Fault::TargetTooLong));
        post(&"x: a\r\n".repeat(HEADERS_MAX - 1), Ok(Body::Length(0)));
        post(&"x: a\r\n".repeat(HEADERS_MAX), Err(Fault::TooManyHeaders));
        post(&format!("x: {}", "a".repeat(HEAD_BYTES_MAX)), Err(Fault::HeadTooLarge));
        check(&"A".repeat(HEAD_BYTES_MAX + 1), Err(Fault::HeadTooLarge));
        check(&"\r\n".repeat(HEAD_BYTES_MAX), Err(Fault::HeadTooLarge));
    }
}
