//! Configuration of `serve`: defaults < file < environment < flags.
//!
//! [`KEYS`] is the whole of it, and the reference that `gridwire config schema` prints. Every problem is
//! found before the first is reported, each with its key, where it was written, what was found there and
//! what is allowed. Nothing here reads the environment or a file: [`Sources`] brings them.

mod accounts;
mod keys;
mod layers;
mod parse;
mod report;
mod settle;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use gridwire_broker::{AccountOptions, TokenIssuer};
use gridwire_control::DeadLetterPatience;

use crate::client::Base;

pub(crate) use accounts::ACCOUNT_KEYS;
pub(crate) use keys::{KEYS, Key, schema};
pub(crate) use layers::{Layers, Sources};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Plain,
    Json,
}

/// The configuration, every value checked.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(crate) struct Settings {
    pub(crate) data_dir: PathBuf,
    pub(crate) dev: bool,
    pub(crate) require_durable_fs: bool,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) base_domain: Option<String>,
    pub(crate) apply: Option<PathBuf>,
    /// 0: one for each processor.
    pub(crate) shards: usize,
    pub(crate) grace_period: Duration,
    pub(crate) management_token: Option<ManagementToken>,
    /// 0: as many as come.
    pub(crate) auth_failures_max: u32,
    pub(crate) tls_names: Vec<String>,
    /// Certificate chain and key.
    pub(crate) tls_files: Option<(PathBuf, PathBuf)>,
    pub(crate) allow_http: bool,
    pub(crate) allow_loopback: bool,
    /// Each is an address, or one with a prefix length.
    pub(crate) allow_networks: Vec<String>,
    /// Requests a minute.
    pub(crate) request_rate: Option<NonZeroU32>,
    pub(crate) token_issuer: Option<TokenIssuer>,
    pub(crate) dead_letter_patience: DeadLetterPatience,
    /// In percent.
    pub(crate) retry_jitter: f64,
    pub(crate) public_http: Option<Base>,
    pub(crate) public_https: Option<Base>,
    pub(crate) dead_letter_delay: Duration,
    pub(crate) dead_letter_accounts: Vec<AccountOptions>,
    pub(crate) log_format: LogFormat,
    pub(crate) log_filter: String,
}

/// A management token that was configured; never printed.
#[derive(Clone)]
pub(crate) struct ManagementToken(pub(crate) String);

impl fmt::Debug for ManagementToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
