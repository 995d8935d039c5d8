//! The stream below the HTTP library, which sees only heads that are complete and sound.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::scan::Verdict;
use crate::watch::Watch;

/// What the library reads instead of a head that is refused: a request like any other, which is answered in its turn,
/// with the refusal.
const REFUSED: &[u8] = b"GET /refused HTTP/1.1\r\nhost: refused\r\n\r\n";

/// A stream whose reads are looked at.
pub(crate) struct Watched<S> {
    stream: S,
    watch: Arc<Watch>,
    /// The beginning of a head: at most as long as one may be, and one read.
    held: BytesMut,
    /// To be read next.
    ready: BytesMut,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    NotYet,
    /// The request to be refused has been given; what comes is dropped.
    Refused,
    /// In the middle of a body that is none.
    Broken,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, watch: Arc<Watch>) -> Self {
        Self { stream, watch, held: BytesMut::new(), ready: BytesMut::new(), end: End::NotYet }
    }

    /// Sorts what was just read into `buf`, behind its first `before` bytes.
    fn sort(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        if self.end != End::NotYet {
            buf.set_filled(before);
            return;
        }
        let new = &buf.filled()[before..];
        let scanned = self.watch.read(new);
        let (pass, rest) = new.split_at(scanned.pass);
        if self.held.is_empty() || pass.is_empty() {
            self.held.extend_from_slice(rest);
            buf.set_filled(before + scanned.pass);
        } else {
            self.ready = std::mem::take(&mut self.held);
            self.ready.extend_from_slice(pass);
            self.held.extend_from_slice(rest);
            buf.set_filled(before);
        }
        match scanned.verdict {
            Verdict::Sound => {}
            Verdict::Fault(_) => self.refuse(),
            Verdict::Broken => self.end = End::Broken,
        }
    }

    fn refuse(&mut self) {
        self.held = BytesMut::new();
        self.ready.extend_from_slice(REFUSED);
        self.end = End::Refused;
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
        loop {
            if !self.ready.is_empty() {
                let count = self.ready.len().min(buf.remaining());
                buf.put_slice(&self.ready[..count]);
                self.ready.advance(count);
                return Poll::Ready(Ok(()));
            }
            if self.end == End::Broken {
                return Poll::Ready(Ok(()));
            }
            if self.end == End::NotYet && self.watch.refuses() {
                self.refuse();
                continue;
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            self.sort(buf, before);
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Watched<S> {
    /// Tells the watch what became of a write.
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.watch.wrote(*bytes),
            Poll::Pending => self.watch.write_waits(),
            Poll::Ready(Err(_)) => {}
        }
        written
    }

    /// Reads and drops what the client still sends until it closes too: were it left unread, the connection would be
    /// reset, and the answer lost with it.
    fn poll_client_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut space);
            // One that is gone already has ended as well.
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Pending => {
                self.watch.write_waits();
                Poll::Pending
            }
            flushed @ Poll::Ready(_) => {
                self.watch.flushed();
                flushed
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch.bids_farewell();
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        if self.end == End::Refused { self.poll_client_end(cx) } else { Poll::Ready(Ok(())) }
    }
}
