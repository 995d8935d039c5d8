//! Sockets.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use gridwire_core::routing::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connected byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// The network. Names are resolved apart from connecting, so that addresses can be judged in between.
pub trait Net: Send + Sync + fmt::Debug + 'static {
    /// Port 0 picks a free one; [`Listener::local_addr`] tells.
    fn listen(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>>;
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// A listening socket.
pub trait Listener: Send + Sync + fmt::Debug {
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// The next connection and where it comes from. Cancel safe.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>>;
}
