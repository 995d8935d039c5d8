//! The network as the broker sees it: every name is a webhook of ours, a connection is a pipe in memory.
//!
//! Names resolve after a moment, connections take a moment, and both may fail as the world's weather says. The
//! other end of each connection is given to [`crate::webhooks`]. A connection can be reset: then whatever was
//! not read yet is gone, as with a real one. A process that has ended gets nothing out any more.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use gridwire_core::routing::BoxFuture;
use gridwire_outside::{Listener, Net, Stream};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::disk::Life;
use crate::webhooks;
use crate::world::World;

/// Bytes on their way in one direction.
const PIPE_BYTES: usize = 64 << 10;
/// All webhooks live in this block, which belongs to nobody special.
const NETWORK: [u8; 3] = [93, 184, 216];

/// The network of one process.
pub(crate) struct SimNet {
    pub(crate) world: Arc<World>,
    pub(crate) life: Life,
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimNet")
    }
}

/// Resets a connection from the far end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut(Arc<AtomicBool>);

impl Cut {
    /// Takes effect when the far end's pipe is dropped, which wakes the near one.
    pub(crate) fn reset(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_reset(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The broker's end of a connection.
struct SimStream {
    pipe: DuplexStream,
    cut: Cut,
    life: Life,
}

impl SimStream {
    fn check(&self) -> io::Result<()> {
        if self.cut.is_reset() || self.life.is_over() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let read = Pin::new(&mut self.pipe).poll_read(context, buffer);
        // The end of the pipe is what a reset looks like from here.
        if read.is_ready() {
            self.check()?;
        }
        read
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.pipe).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.pipe).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}

impl Net for SimNet {
    fn listen(&self, _at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        // Requests come to the process without a socket.
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            self.world.pause(self.world.weather().webhook_delay()).await;
            if self.world.weather().webhooks_are_cut_off() || self.life.is_over() {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            let cut = Cut::default();
            webhooks::accept(&self.world, to, far, cut.clone());
            Ok(Box::new(SimStream { pipe: near, cut, life: self.life.clone() }) as Box<dyn Stream>)
        })
    }

    /// `h7.example` is host number 7.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            if self.world.weather().webhooks_are_cut_off() {
                return Err(io::ErrorKind::NotFound.into());
            }
            let number = host.strip_prefix('h').and_then(|rest| rest.strip_suffix(".example"));
            let number: u8 = number.and_then(|number| number.parse().ok()).ok_or(io::ErrorKind::NotFound)?;
            let [a, b, c] = NETWORK;
            Ok(vec![SocketAddr::from((Ipv4Addr::new(a, b, c, number), port))])
        })
    }
}
