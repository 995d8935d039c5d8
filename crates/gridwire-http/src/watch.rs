//! What the HTTP library leaves open on a connection: how long nothing may come, and what of a request's framing
//! it forgives.
//!
//! A [`Watched`] stream sits below the library and sees its reads; a [`Watch`] is told of requests being answered,
//! and so knows whether bytes begin a request. Framing (`reliability` section 3.1): a head with a bare line feed,
//! or with both a length and an encoding, may be read differently by whatever stands in front of us, and what one
//! takes for a body the other takes for a request. The library forgives both. Here the bytes from the fault on are
//! made zeros, which no head may contain, and the head is ended: the library answers 400 and closes. A head that comes together with the
//! end of an earlier request (pipelining) is not looked at.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use gridwire_outside::Clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How a connection that only HTTP/2 begins so begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
const HEAD_END: &[u8] = b"\r\n\r\n";
/// Longer than every header name that matters here.
const NAME_BYTES_MAX: usize = 24;

/// How long a connection may be without a request being answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// From the first byte of a request, or from the start, to the end of its headers.
    pub(crate) headers: Duration,
    /// Between requests.
    pub(crate) idle: Duration,
}

/// What goes on on a connection, shared by its stream and its requests.
#[derive(Debug)]
pub(crate) struct Watch {
    clock: Arc<dyn Clock>,
    patience: Patience,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Since when, by the monotonic clock.
    since: Duration,
    head: Head,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No request has begun.
    Idle,
    /// A request has begun, or the first one is awaited.
    Head,
    /// So many requests are being answered.
    Busy(u32),
}

/// A request that is being answered, until it is dropped.
#[derive(Debug)]
pub(crate) struct Answering(Arc<Watch>);

impl Watch {
    pub(crate) fn new(clock: Arc<dyn Clock>, patience: Patience) -> Arc<Self> {
        let state = State { phase: Phase::Head, since: clock.monotonic(), head: Head::default() };
        Arc::new(Self { clock, patience, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request's headers are complete.
    pub(crate) fn answering(self: &Arc<Self>) -> Answering {
        let mut state = self.state();
        state.phase = match state.phase {
            Phase::Busy(count) => Phase::Busy(count + 1),
            Phase::Idle | Phase::Head => Phase::Busy(1),
        };
        Answering(Arc::clone(self))
    }

    /// When the connection has been without a request for too long; `None` while one is being answered.
    fn deadline(&self) -> Option<Duration> {
        let state = self.state();
        match state.phase {
            Phase::Idle => Some(state.since + self.patience.idle),
            Phase::Head => Some(state.since + self.patience.headers),
            Phase::Busy(_) => None,
        }
    }

    /// Done when the connection has been without a request for too long, and at most half of the patience with
    /// headers later: waking with each request would cost more than it gains. Cancel safe.
    pub(crate) async fn patience_ends(&self) {
        let step = self.patience.headers / 2;
        loop {
            let left = match self.deadline() {
                Some(deadline) => deadline.saturating_sub(self.clock.monotonic()),
                None => step,
            };
            if left.is_zero() {
                return;
            }
            self.clock.sleep(left.min(step)).await;
        }
    }

    /// An answer is being taken: nobody sleeps.
    fn wrote(&self) {
        let mut state = self.state();
        if state.phase == Phase::Idle {
            state.since = self.clock.monotonic();
        }
    }

    /// Looks at bytes that were just read. `true` after a fault: the bytes from there on are zeros then.
    fn read(&self, bytes: &mut [u8]) -> bool {
        let mut state = self.state();
        match state.phase {
            Phase::Busy(_) => return false,
            Phase::Idle if state.head.kind != Kind::Http2 => {
                state.phase = Phase::Head;
                state.since = self.clock.monotonic();
            }
            Phase::Idle | Phase::Head => {}
        }
        if let Some(fault) = state.head.take(bytes) {
            bytes[fault..].fill(0);
            return true;
        }
        if state.head.kind == Kind::Http2 && state.phase == Phase::Head {
            state.phase = Phase::Idle;
            state.since = self.clock.monotonic();
        }
        false
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.state();
        match state.phase {
            Phase::Busy(count) if count > 1 => state.phase = Phase::Busy(count - 1),
            _ => {
                state.phase = Phase::Idle;
                state.since = self.0.clock.monotonic();
                state.head.restart();
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// The first bytes are still those of either.
    #[default]
    Unknown,
    Http1,
    Http2,
}

/// The head of a request, as far as it has been read.
#[derive(Debug, Default)]
struct Head {
    kind: Kind,
    /// Bytes of the connection seen while the kind is not known.
    seen: usize,
    ended: bool,
    /// Of the current line: its bytes so far, the last of them, the name before its colon.
    line_bytes: usize,
    last: u8,
    name: [u8; NAME_BYTES_MAX],
    /// `None` once the name is over.
    name_bytes: Option<usize>,
    /// Lines so far; empty ones before the first do not count.
    lines: u32,
    has_length: bool,
    has_encoding: bool,
}

impl Head {
    /// Forgets all but the connection's kind.
    fn restart(&mut self) {
        *self = Self { kind: self.kind, ..Self::default() };
    }

    /// Reads on; the answer is where in `bytes` a fault shows.
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.kind == Kind::Unknown {
            self.decide(bytes);
        }
        if self.kind == Kind::Http2 {
            return None;
        }
        for (index, &byte) in bytes.iter().enumerate() {
            if self.ended {
                return None;
            }
            if byte == b'\n' {
                if self.last != b'\r' || self.end_line() {
                    return Some(index);
                }
                continue;
            }
            self.line_bytes += 1;
            self.last = byte;
            match self.name_bytes {
                _ if self.line_bytes == 1 && byte != b'\r' => self.begin_name(byte),
                Some(_) if byte == b':' => self.end_name(),
                Some(count) if count < NAME_BYTES_MAX => {
                    self.name[count] = byte.to_ascii_lowercase();
                    self.name_bytes = Some(count + 1);
                }
                _ => self.name_bytes = None,
            }
        }
        None
    }

    /// Which protocol the connection speaks; HTTP/1 until the whole preface has come.
    fn decide(&mut self, bytes: &[u8]) {
        let rest = &PREFACE[self.seen..];
        let common = rest.len().min(bytes.len());
        if bytes[..common] != rest[..common] {
            self.kind = Kind::Http1;
        } else if common == rest.len() {
            self.kind = Kind::Http2;
        } else {
            self.seen += common;
        }
    }

    fn begin_name(&mut self, byte: u8) {
        self.name[0] = byte.to_ascii_lowercase();
        // The first line is no header.
        self.name_bytes = (self.lines > 0).then_some(1);
    }

    fn end_name(&mut self) {
        if let Some(count) = self.name_bytes.take() {
            match &self.name[..count] {
                b"content-length" => self.has_length = true,
                b"transfer-encoding" => self.has_encoding = true,
                _ => {}
            }
        }
    }

    /// At a line's proper end; the answer is whether the head that it ends is faulty.
    fn end_line(&mut self) -> bool {
        let empty = self.line_bytes == 1;
        (self.line_bytes, self.last, self.name_bytes) = (0, 0, None);
        if !empty {
            self.lines += 1;
        } else if self.lines > 0 {
            self.ended = true;
            return self.has_length && self.has_encoding;
        }
        false
    }
}

/// A stream whose reads are looked at.
pub(crate) struct Watched<S> {
    stream: S,
    watch: Arc<Watch>,
    /// To be read next, after a fault.
    owed: &'static [u8],
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, watch: Arc<Watch>) -> Self {
        Self { stream, watch, owed: &[] }
    }
}

impl<S> fmt::Debug for Watched<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("watch", &self.watch).finish_non_exhaustive()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.owed.is_empty() {
            let (now, later) = self.owed.split_at(self.owed.len().min(buf.remaining()));
            buf.put_slice(now);
            self.owed = later;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let new = &mut buf.filled_mut()[before..];
        if !new.is_empty() && self.watch.read(new) {
            // The library looks at a head when it has ended.
            self.owed = HEAD_END;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        self.watch.wrote();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        self.watch.wrote();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the head is faulty, however it is cut into reads.
    fn check(head: &str, faulty: bool) {
        for size in [1, 2, 3, 7, head.len()] {
            let mut read = Head::default();
            let found = head.as_bytes().chunks(size).any(|piece| read.take(piece).is_some());
            assert_eq!(found, faulty, "{head:?} in pieces of {size}");
        }
    }

    #[test]
    fn proper_heads_are_left_alone() {
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", false);
        check("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", false);
        check("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\na\nb\nc", false);
        check("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\n\n", false);
        check("POST / HTTP/1.1\r\nX-Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", false);
        check("POST / HTTP/1.1\r\nX: content-length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", false);
        check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n\n", false);
        check(&format!("GET / HTTP/1.1\r\n{}: a\r\n\r\n", "x".repeat(1000)), false);
    }

    #[test]
    fn bare_line_feeds_are_faults() {
        check("GET / HTTP/1.1\nHost: a\r\n\r\n", true);
        check("GET / HTTP/1.1\r\nHost: a\n\r\n", true);
        check("GET / HTTP/1.1\r\nHost: a\r\n\n", true);
        check("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", true);
        check("PRI * HTTP/2.0\n", true);
    }

    #[test]
    fn a_length_and_an_encoding_together_are_a_fault() {
        check("POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", true);
        check("POST / HTTP/1.1\r\nTRANSFER-ENCODING:chunked\r\ncontent-length:5\r\n\r\n", true);
    }

    const PATIENCE: Patience = Patience { headers: Duration::from_secs(10), idle: Duration::from_secs(75) };

    /// For how many seconds the connection is kept from now on, if nothing happens any more.
    async fn kept_for(watch: &Watch, clock: &gridwire_outside::ManualClock) -> u64 {
        let mut ends = std::pin::pin!(watch.patience_ends());
        for second in 0..1000 {
            tokio::select! {
                biased;
                () = ends.as_mut() => return second,
                () = std::future::ready(()) => {}
            }
            clock.advance(Duration::from_secs(1));
        }
        1000
    }

    #[tokio::test]
    async fn a_connection_is_kept_while_it_is_used_and_no_longer() {
        let start = gridwire_core::time::Timestamp::from_millis(1);
        let clock = Arc::new(gridwire_outside::ManualClock::new(start));
        let watch = || Watch::new(Arc::clone(&clock) as Arc<dyn Clock>, PATIENCE);
        assert_eq!(kept_for(&watch(), &clock).await, 10, "the first request is awaited");
        let asked = watch();
        drop(asked.answering());
        assert_eq!(kept_for(&asked, &clock).await, 75, "between requests");
        let begun = watch();
        drop(begun.answering());
        clock.advance(Duration::from_secs(60));
        assert!(!begun.read(&mut b"GET".to_owned()));
        assert_eq!(kept_for(&begun, &clock).await, 10, "a request has begun");
        let asking = watch();
        let answering = asking.answering();
        assert_eq!(kept_for(&asking, &clock).await, 1000, "a receiver waits for its answer");
        drop(answering);
        let http2 = watch();
        assert!(!http2.read(&mut PREFACE.to_owned()));
        assert_eq!(kept_for(&http2, &clock).await, 75, "pings begin no request");
    }

    #[test]
    fn what_follows_a_fault_is_made_unreadable() {
        let clock = gridwire_outside::ManualClock::new(gridwire_core::time::Timestamp::from_millis(1));
        let watch = Watch::new(Arc::new(clock), PATIENCE);
        let mut bytes = b"GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned();
        assert!(watch.read(&mut bytes));
        assert_eq!(bytes[..14], *b"GET / HTTP/1.1");
        assert!(bytes[14..].iter().all(|byte| *byte == 0));
    }
}
