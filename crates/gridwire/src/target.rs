//! Which server a command means, and how to reach it.
//!
//! By default the one that runs on the data directory: its `addresses.json`, `management.token` and
//! `tls/ca.pem` say where it is, who we are and whom to believe. `--server`, `--ca` and
//! `GRIDWIRE_MANAGEMENT_TOKEN` say it for a server elsewhere.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use gridwire_outside::system::{SystemClock, SystemNet};

use crate::arm::{Management, Scope};
use crate::client::{Base, Client, Reach, Trust};
use crate::data_dir::{self, Addresses, DataDir};

/// Where the server is, and whose resources are meant.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Which server")]
pub(crate) struct TargetArgs {
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help = "Data directory of the server: tells its addresses, token and certificate authority \
                [default: ./gridwire-data] [env: GRIDWIRE_DATA_DIR]"
    )]
    pub(crate) data_dir: Option<PathBuf>,

    /// A server elsewhere, such as <https://grid.example.com:8443>
    #[arg(long, global = true, value_name = "URL", env = "GRIDWIRE_SERVER", hide_env_values = true)]
    pub(crate) server: Option<String>,

    /// PEM file of the authority to believe [default: tls/ca.pem of the data directory]
    #[arg(long, global = true, value_name = "FILE", env = "GRIDWIRE_CA", hide_env_values = true)]
    pub(crate) ca: Option<PathBuf>,

    /// Subscription id of the resources' ids; any UUID will do
    #[arg(
        long,
        global = true,
        value_name = "UUID",
        env = "GRIDWIRE_SUBSCRIPTION_ID",
        default_value = Scope::DEFAULT_SUBSCRIPTION,
        hide_env_values = true
    )]
    pub(crate) subscription_id: String,

    /// Resource group of the resources' ids; any name will do
    #[arg(
        long,
        global = true,
        short = 'g',
        value_name = "NAME",
        env = "GRIDWIRE_RESOURCE_GROUP",
        default_value = Scope::DEFAULT_GROUP,
        hide_env_values = true
    )]
    pub(crate) resource_group: String,
}

/// A server, ready to be asked.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) scope: Scope,
    pub(crate) reach: Reach,
    pub(crate) management: Management,
    /// What a command must carry to mean this server and scope: empty, or flags with a space before each.
    pub(crate) flags: String,
    /// Where the server takes plain http, when that is known.
    pub(crate) http: Option<Base>,
}

/// A management token by itself, before any data directory's.
pub(crate) const TOKEN_VARIABLE: &str = "GRIDWIRE_MANAGEMENT_TOKEN";

/// The real network and time.
pub(crate) fn real_reach() -> Reach {
    Reach { net: Arc::new(SystemNet), clock: Arc::new(SystemClock::start()) }
}

/// By hand: a flag would show the token in the process list.
fn variable_token() -> Option<String> {
    std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty())
}

impl TargetArgs {
    pub(crate) fn data_dir(&self) -> DataDir {
        // The variable by hand, because `serve` tells flag from variable when it reports a problem.
        let variable =
            || std::env::var_os("GRIDWIRE_DATA_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        DataDir::at(self.data_dir.clone().or_else(variable).unwrap_or_else(|| data_dir::DEFAULT.into()))
    }

    pub(crate) fn scope(&self) -> anyhow::Result<Scope> {
        let plain = |text: &str| {
            (1..=90).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if !plain(&self.subscription_id) {
            bail!("--subscription-id `{}` is not a UUID", self.subscription_id);
        }
        if !plain(&self.resource_group) {
            bail!(
                "--resource-group `{}` may hold letters, digits, `-`, `_` and `.` only",
                self.resource_group
            );
        }
        Ok(Scope {
            subscription_id: self.subscription_id.clone(),
            resource_group: self.resource_group.clone(),
        })
    }

    /// Finds the server. Nothing is connected yet.
    pub(crate) fn find(&self) -> anyhow::Result<Target> {
        let base = self.base()?;
        self.reached(base, Some(self.token()?))
    }

    /// The same for what an access key allows. Whoever has one needs no management token; without that, nothing
    /// of the management API can be asked.
    pub(crate) fn find_with(&self, key: Option<&String>) -> anyhow::Result<Target> {
        let base = self.base()?;
        let token = match key {
            None => Some(self.token()?),
            // The directory that happens to be here may be another server's, and its token is not for this one.
            Some(_) if self.server.is_some() && self.data_dir.is_none() => variable_token(),
            Some(_) => self.token().ok(),
        };
        self.reached(base, token)
    }

    fn reached(&self, base: Base, token: Option<String>) -> anyhow::Result<Target> {
        let reach = real_reach();
        // A server that was killed leaves its addresses behind.
        let advice = self.server.is_none().then(|| self.nobody());
        let client = Client::new(base, &self.trust(), reach.clone())?.advised(advice);
        Ok(Target {
            scope: self.scope()?,
            reach,
            management: Management::new(client, token),
            flags: self.flags(),
            http: self.http(),
        })
    }

    fn http(&self) -> Option<Base> {
        if self.server.is_some() {
            return None;
        }
        Base::local(false, &self.addresses().ok()?.http).ok()
    }

    /// The flags that were given, for a line that a person can paste.
    fn flags(&self) -> String {
        let mut flags = String::new();
        let mut add = |name: &str, value: &str| {
            let plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:".contains(&byte));
            let value = if plain { value.to_owned() } else { format!("'{}'", value.replace('\'', "'\\''")) };
            flags.extend([" ", name, " ", &value]);
        };
        if let Some(dir) = &self.data_dir {
            add("--data-dir", &dir.display().to_string());
        }
        if let Some(server) = &self.server {
            add("--server", server);
        }
        if let Some(ca) = &self.ca {
            add("--ca", &ca.display().to_string());
        }
        if self.subscription_id != Scope::DEFAULT_SUBSCRIPTION {
            add("--subscription-id", &self.subscription_id);
        }
        if self.resource_group != Scope::DEFAULT_GROUP {
            add("-g", &self.resource_group);
        }
        flags
    }

    pub(crate) fn addresses(&self) -> anyhow::Result<Addresses> {
        self.data_dir().read_addresses()?.with_context(|| self.nobody())
    }

    fn nobody(&self) -> String {
        format!(
            "no server runs on the data directory `{}`\n\
             start one with `gridwire serve --data-dir {0}`, or name a running one with --data-dir or --server",
            self.data_dir().root().display()
        )
    }

    fn base(&self) -> anyhow::Result<Base> {
        match &self.server {
            Some(server) => Ok(server.parse()?),
            None => Ok(Base::local(true, &self.addresses()?.https)?),
        }
    }

    pub(crate) fn token(&self) -> anyhow::Result<String> {
        if let Some(token) = variable_token() {
            return Ok(token);
        }
        self.data_dir().read_token()?.with_context(|| {
            format!(
                "there is no management token in `{}`\n\
                 set GRIDWIRE_MANAGEMENT_TOKEN, or name the server's data directory with --data-dir",
                self.data_dir().root().display()
            )
        })
    }

    pub(crate) fn trust(&self) -> Trust {
        match &self.ca {
            Some(file) => Trust::File(file.clone()),
            None if self.data_dir().ca_file().exists() => Trust::File(self.data_dir().ca_file()),
            None => Trust::System,
        }
    }
}
