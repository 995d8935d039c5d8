//! What Gridwire means, without anything that touches the world.
//!
//! Domain types, schemas, filters, the retry policy and the shard: the state machine between the log of
//! events and the log of decisions. Nothing here waits, opens a socket or a file, asks for the time or
//! rolls dice: all of that comes in as arguments and goes out as values, so that a simulation can run it.
//!
//! Reading order: [`event`] (what a publisher sends), [`publish`] (how it is parsed), [`filter`] (who wants
//! it), [`frame`] (how it is stored), [`routing`] (who is there), [`shard`] (what happens to it), [`render`]
//! (how it is delivered).

pub mod api_error;
pub mod audit;
pub mod dead_letter;
pub mod endpoint;
pub mod event;
pub mod fault_script;
pub mod filter;
pub mod frame;
pub mod ids;
pub mod limits;
pub mod lock_token;
pub mod pace;
pub mod patience;
mod percent;
pub mod planted;
pub mod publish;
pub mod render;
pub mod retry;
pub mod routing;
pub mod sas;
pub mod secret;
pub mod shard;
pub mod signing;
pub mod time;
pub mod tls_identity;
mod varint;
