//! Where on a connection each request begins and ends, and whether its head is one that every reader takes alike.
//!
//! Pure: bytes go in as they arrive, in any pieces; out comes how many of them may be handed on. A head is handed on
//! when all of it has come and it is sound, so what reads behind the scanner never sees half of one, or a bad one. It
//! is stricter than the HTTP library (`reliability` section 3.1): a bare line feed, a length together with an encoding,
//! or two hosts may be read differently by whatever stands in front of us, and what one takes for a body the other
//! takes for a request. Bodies are followed, not read: a request that comes with the end of the one before it
//! (pipelining) is looked at like every other.

mod chunks;
mod head;

use gridwire_core::api_error::{ApiError, ErrorCode};

use chunks::Chunks;
use head::{Body, Head};

/// Bytes of a request's head; more is answered 431.
pub(crate) const HEAD_BYTES_MAX: usize = 32 << 10;
/// Headers of a request; more are answered 431.
pub(crate) const HEADERS_MAX: usize = 100;
/// Bytes of a request's target, query included; more is answered 414.
pub(crate) const TARGET_BYTES_MAX: usize = 8 << 10;

/// How a connection that speaks only HTTP/2 begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Why no more requests are taken from a connection. Each is answered, once, and ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// With what is wrong, as a sentence.
    Malformed(&'static str),
    HeadTooLarge,
    TooManyHeaders,
    TargetTooLong,
    LengthTooLarge,
    /// The head did not come in time. The scanner has no clock; its owner says so.
    TooSlow,
}

impl Fault {
    pub(crate) fn to_error(self) -> ApiError {
        let (code, message) = match self {
            Self::Malformed(message) => (ErrorCode::InvalidRequest, message.to_owned()),
            Self::HeadTooLarge => {
                let message = format!("The request's head is larger than {HEAD_BYTES_MAX} bytes.");
                (ErrorCode::HeadersTooLarge, message)
            }
            Self::TooManyHeaders => {
                (ErrorCode::HeadersTooLarge, format!("The request has more than {HEADERS_MAX} headers."))
            }
            Self::TargetTooLong => {
                let message =
                    format!("The request's path and query are longer than {TARGET_BYTES_MAX} bytes.");
                (ErrorCode::UriTooLong, message)
            }
            Self::LengthTooLarge => {
                (ErrorCode::TooLarge, "The request's length is more than can be counted.".to_owned())
            }
            Self::TooSlow => (ErrorCode::RequestTimeout, "The request's headers came too slowly.".to_owned()),
        };
        ApiError::new(code, message)
    }
}

/// What is to be done with bytes that were scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// So many of them may be handed on, after all that was held back before. The rest belongs to a head that has not
    /// ended, or to nothing.
    pub(crate) pass: usize,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Sound,
    /// A head that is none, and with it the end of what can be understood.
    Fault(Fault),
    /// Chunks that are none: the body ends here, unfinished.
    Broken,
}

/// The bytes of one connection, as far as they have come.
#[derive(Debug)]
pub(crate) struct Scanner {
    at: At,
    /// Heads that were handed on.
    heads: u64,
}

#[derive(Debug)]
enum At {
    /// So many bytes were those of the preface of HTTP/2.
    Preface(usize),
    Head(Head),
    /// So many bytes of a body are to come.
    Body(u64),
    Chunks(Chunks),
    /// HTTP/2, whose frames are the library's.
    Frames,
    /// After a fault.
    Over,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { at: At::Preface(0), heads: 0 }
    }
}

impl Scanner {
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.at, At::Frames)
    }

    /// Whether a head has begun and not ended. Empty lines in front of one do not begin it: some clients send one
    /// after a body.
    pub(crate) fn is_in_head(&self) -> bool {
        match &self.at {
            At::Preface(seen) => *seen > 0,
            At::Head(head) => head.has_begun(),
            At::Body(_) | At::Chunks(_) | At::Frames | At::Over => false,
        }
    }

    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let (mut at, mut pass) = (0, 0);
        while at < bytes.len() {
            let rest = &bytes[at..];
            let verdict = match &mut self.at {
                At::Preface(seen) => {
                    let wanted = &PREFACE[*seen..];
                    let common = wanted.iter().zip(rest).take_while(|(one, other)| one == other).count();
                    if common == rest.len().min(wanted.len()) {
                        *seen += common;
                        if *seen < PREFACE.len() {
                            break;
                        }
                        self.at = At::Frames;
                        continue;
                    }
                    let mut head = Head::default();
                    match head.take(&PREFACE[..*seen]) {
                        Ok(_) => {
                            self.at = At::Head(head);
                            continue;
                        }
                        Err(fault) => Verdict::Fault(fault),
                    }
                }
                At::Head(head) => match head.take(rest) {
                    Ok(None) => break,
                    Ok(Some((taken, body))) => {
                        at += taken;
                        pass = at;
                        self.heads += 1;
                        self.at = match body {
                            Body::Length(0) => At::Head(Head::default()),
                            Body::Length(length) => At::Body(length),
                            Body::Chunked => At::Chunks(Chunks::default()),
                        };
                        continue;
                    }
                    Err(fault) => Verdict::Fault(fault),
                },
                At::Body(left) => {
                    let taken = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    at += taken;
                    pass = at;
                    if *left == 0 {
                        self.at = At::Head(Head::default());
                    }
                    continue;
                }
                At::Chunks(chunks) => {
                    let (taken, progress) = chunks.take(rest);
                    at += taken;
                    pass = at;
                    match progress {
                        chunks::Progress::More => continue,
                        chunks::Progress::Ended => {
                            self.at = At::Head(Head::default());
                            continue;
                        }
                        chunks::Progress::Broken => Verdict::Broken,
                    }
                }
                At::Frames => return Scanned { pass: bytes.len(), verdict: Verdict::Sound },
                At::Over => break,
            };
            self.at = At::Over;
            return Scanned { pass, verdict };
        }
        Scanned { pass, verdict: Verdict::Sound }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How `text` is taken, however it is cut: how much of it is handed on, of how many heads, and the verdict.
    fn check(text: &str, pass: usize, heads: u64, verdict: Verdict) {
        for size in [1, 2, 3, 7, text.len()] {
            let mut scanner = Scanner::default();
            let (mut passed, mut taken, mut last) = (0, 0, Verdict::Sound);
            for piece in text.as_bytes().chunks(size) {
                let scanned = scanner.scan(piece);
                if scanned.pass > 0 {
                    passed = taken + scanned.pass;
                }
                taken += piece.len();
                if scanned.verdict != Verdict::Sound {
                    last = scanned.verdict;
                    break;
                }
            }
            assert_eq!(
                (passed, scanner.heads(), last),
                (pass, heads, verdict),
                "{text:?} in pieces of {size}"
            );
        }
    }

    fn sound(text: &str, heads: u64) {
        check(text, text.len(), heads, Verdict::Sound);
    }

    /// The first part is handed on, the second is a fault.
    fn faulty(good: &str, bad: &str, heads: u64, fault: Fault) {
        check(&format!("{good}{bad}"), good.len(), heads, Verdict::Fault(fault));
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const BARE: Fault = Fault::Malformed("A line of the request's head ends with a bare line feed.");
    const TWICE: Fault = Fault::Malformed(
        "The request has both a Content-Length and a Transfer-Encoding, or two of one of them.",
    );

    #[test]
    fn requests_follow_each_other() {
        sound(GET, 1);
        sound(&GET.repeat(3), 3);
        sound(&format!("\r\n\r\n{GET}"), 1);
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n\n\nGET\n\0\r\n\n";
        sound(&format!("{post}{GET}"), 2);
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\ntransfer-Encoding: Chunked \r\n\r\n";
        sound(&format!("{chunked}5;a=b\r\n\n\nabc\r\nA \r\n0123456789\r\n0\r\nx: y\r\n\r\n{GET}"), 2);
        sound(&format!("{chunked}0\r\n\r\n{GET}"), 2);
    }

    #[test]
    fn half_a_head_is_held_back() {
        check(&format!("{GET}GET / HTTP/1.1\r\nHost:"), GET.len(), 1, Verdict::Sound);
        check("PRI * HT", 0, 0, Verdict::Sound);
        check("\r\n", 0, 0, Verdict::Sound);
    }

    #[test]
    fn a_head_has_begun_with_its_first_byte() {
        let begun = |text: &str| {
            let mut scanner = Scanner::default();
            scanner.scan(text.as_bytes());
            scanner.is_in_head()
        };
        for (text, expected) in [("", false), ("\r\n", false), ("G", true), ("P", true), (GET, false)] {
            assert_eq!(begun(text), expected, "{text:?}");
        }
    }

    #[test]
    fn frames_of_http_2_are_not_looked_at() {
        let text = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n\0GET / HTTP/1.1\n\n";
        check(text, text.len(), 0, Verdict::Sound);
        let version = Fault::Malformed("The request is not one of HTTP/1.0 or HTTP/1.1.");
        faulty("", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 0, version);
    }

    #[test]
    fn what_two_readers_may_take_differently_is_a_fault() {
        faulty("", "GET / HTTP/1.1\nHost: a\r\n\r\n", 0, BARE);
        faulty("", "GET / HTTP/1.1\r\nHost: a\n\r\n", 0, BARE);
        faulty("", "GET / HTTP/1.1\r\nHost: a\r\n\n", 0, BARE);
        faulty("", &format!("\n{GET}"), 0, BARE);
        let both = "Content-Length: 5\r\nTRANSFER-ENCODING:chunked\r\n\r\n";
        faulty("", &format!("POST / HTTP/1.1\r\nHost: a\r\n{both}"), 0, TWICE);
        // Also behind another request, in the same write.
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        faulty(post, &format!("POST / HTTP/1.1\r\nHost: a\r\n{both}"), 1, TWICE);
        faulty(post, "GET / HTTP/1.1\nHost: a\r\n\r\n", 1, BARE);
        let chunks = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
        faulty(chunks, "GET / HTTP/1.1\r\nHost: a\n\r\n", 1, BARE);
    }

    #[test]
    fn a_body_ends_where_its_chunks_break() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (good, bad) in [
            ("", "zz\r\n"),
            ("", "-1\r\n"),
            ("", "\r\n"),
            ("5", "\nhello"),
            ("5\r", "hello"),
            ("2\r\nab", "cd\r\n"),
            ("2\r\nab\r", "0"),
            ("0\r\n", "\nGET"),
            ("0\r\nx: y", "\n"),
            ("0123456789abcdef", "0\r\n"),
        ] {
            check(&format!("{head}{good}{bad}"), head.len() + good.len(), 1, Verdict::Broken);
        }
    }

    #[test]
    fn nothing_follows_a_fault() {
        let mut scanner = Scanner::default();
        assert_ne!(scanner.scan(b"GET / HTTP/1.1\n").verdict, Verdict::Sound);
        assert_eq!(scanner.scan(GET.as_bytes()), Scanned { pass: 0, verdict: Verdict::Sound });
    }
}
