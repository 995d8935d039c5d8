//! HTTP as Gridwire speaks it: one server loop with its limits, one way to read a body, one error body.
//!
//! A connection's bytes pass [`scan`], which finds where requests begin and end and refuses bad heads, then the HTTP
//! library, then a [`Service`]. [`watch`] knows what goes on on the connection and when it has been waited for long
//! enough; [`pace`] is how slow a transfer may be. [`guard`] counts wrong credentials, for whoever judges them;
//! [`mod@audit`] writes down what was changed.
//!
//! `broker` and `control` never meet, but both answer requests; what they share of HTTP is here. Paths are
//! ARM-shaped (case-insensitive, any scope in front) or end in `name:verb`, which no common router expresses,
//! so services match segments themselves and this crate stays below them.

mod audit;
mod body;
mod guard;
mod pace;
mod respond;
mod scan;
mod server;
mod watch;
mod watched;

pub use audit::{Asked, REQUEST_ID, audit, audit_own};
pub use body::{Body, BodyBudget, Request};
pub use guard::Guard;
pub use respond::{Response, empty, error, json, text};
pub use server::{Peer, Server, ServerOptions, Service, TlsAcceptor};
