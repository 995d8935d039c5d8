//! The commands: those that talk to a server, and those for a data directory that no server uses.

pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod config;
pub(crate) mod dead_letter;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod endpoint;
pub(crate) mod hint;
pub(crate) mod publish;
pub(crate) mod pull;
pub(crate) mod resources;
pub(crate) mod store;
pub(crate) mod tail;
