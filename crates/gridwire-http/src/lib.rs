//! HTTP as Gridwire speaks it: one server loop with its limits, one way to read a body, one error body.
//!
//! `broker` and `control` never meet, but both answer requests; what they share of HTTP is here. Paths are
//! ARM-shaped (case-insensitive, any scope in front) or end in `name:verb`, which no common router expresses,
//! so services match segments themselves and this crate stays below them.

mod body;
mod respond;
mod server;
mod watch;

pub use body::{Body, BodyBudget, Request};
pub use respond::{Response, empty, error, json, text};
pub use server::{Peer, Server, ServerOptions, Service, TlsAcceptor};
