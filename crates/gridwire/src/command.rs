//! The commands that talk to a server.

pub(crate) mod apply;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod publish;
pub(crate) mod pull;
pub(crate) mod resources;
pub(crate) mod tail;
