//! Configuration of `serve`: defaults < file < environment < flags.
//!
//! [`KEYS`] is the whole of it, and the reference that `gridwire config schema` prints. Every problem is
//! found before the first is reported, each with its key, where it was written, what was found there and
//! what is allowed. Nothing here reads the environment or a file: [`Sources`] brings them.

mod accounts;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use gridwire_broker::{AccountOptions, TokenIssuer};
use gridwire_control::DeadLetterPatience;
use gridwire_core::retry::JITTER_SHARE;
use gridwire_core::secret::Secret;
use serde_json::json;
use toml::de::{DeTable, DeValue};

use crate::client::Base;
use crate::data_dir::{self, check_token};

pub(crate) use accounts::ACCOUNT_KEYS;
use accounts::Accounts;

/// One key of the configuration.
#[derive(Debug)]
pub(crate) struct Key {
    /// As in the file: `section.key`. The variable is `GRIDWIRE_SECTION_KEY`.
    pub(crate) name: &'static str,
    pub(crate) flag: Option<&'static str>,
    /// As it would be written; empty for "none".
    pub(crate) default: &'static str,
    pub(crate) allowed: &'static str,
    pub(crate) about: &'static str,
    /// Never shown.
    secret: bool,
}

impl Key {
    pub(crate) fn variable(&self) -> String {
        format!("GRIDWIRE_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }
}

const fn key(
    name: &'static str,
    flag: Option<&'static str>,
    default: &'static str,
    allowed: &'static str,
    about: &'static str,
) -> Key {
    Key { name, flag, default, allowed, about, secret: false }
}

const ADDRESS: &str = "an address with a port, such as 127.0.0.1:8080 or [::]:8080; port 0 picks a free one";
const DURATION: &str = "a duration such as 90s, 10m or 4h, at most 168h";
const SWITCH: &str = "true or false";

/// Every key there is.
pub(crate) const KEYS: &[Key] = &[
    key("data_dir", Some("--data-dir"), data_dir::DEFAULT, "a directory", "Where everything is kept."),
    key(
        "dev",
        Some("--dev"),
        "false",
        SWITCH,
        "Development mode: webhooks may be plain http and on this machine, and `gridwire dev` can move the clock and \
         script failures. Never in production.",
    ),
    key(
        "require_durable_fs",
        Some("--require-durable-fs"),
        "false",
        SWITCH,
        "Refuse to start where a flush cannot be depended on (tmpfs, network file systems); else only warn.",
    ),
    key("listen.http", Some("--http"), "127.0.0.1:8080", ADDRESS, "Plain HTTP: events and management."),
    key("listen.https", Some("--https"), "127.0.0.1:8443", ADDRESS, "HTTPS: events and management."),
    key(
        "listen.admin",
        Some("--admin"),
        "127.0.0.1:9090",
        ADDRESS,
        "Health and metrics, without a password: keep it private.",
    ),
    key(
        "base_domain",
        Some("--base-domain"),
        "",
        "a domain name, such as grid.example.com",
        "Topics and namespaces are then also met at {name}.{base_domain}.",
    ),
    key(
        "apply",
        Some("--apply"),
        "",
        "a .json or .toml file",
        "Topics, namespaces and subscriptions to have at start, as for `gridwire apply`.",
    ),
    key(
        "shards",
        None,
        "0",
        "a number from 0 to 256",
        "How many shards deliver in parallel; 0 means one for each processor. May change at every start.",
    ),
    key(
        "grace_period",
        None,
        "10s",
        "a duration such as 500ms, 10s or 2m",
        "How long requests in flight may take after a stop signal.",
    ),
    Key {
        name: "management_token",
        flag: None,
        default: "",
        allowed: "at least 16 visible ASCII characters",
        about: "The token of the management API; without it, one is made and kept in management.token.",
        secret: true,
    },
    key(
        "auth.failures_per_minute",
        None,
        "10",
        "a number from 0 to 1000000; 0 for no limit",
        "Wrong credentials that one address may present in a minute for one topic or namespace, or for the management \
         API, before it has to wait (429). Behind a proxy, where all clients have its address, leave this to the proxy.",
    ),
    key(
        "tls.names",
        None,
        "",
        "names and addresses, separated by commas",
        "More names for the certificate that Gridwire makes itself.",
    ),
    key(
        "public.http",
        None,
        "",
        "a URL such as http://grid.example.com:8080",
        "How clients reach the http listener, when that is not its own address.",
    ),
    key(
        "public.https",
        None,
        "",
        "a URL such as https://grid.example.com:8443",
        "How clients reach the https listener, when that is not its own address.",
    ),
    key("tls.certificate", None, "", "a PEM file", "Your own certificate chain, instead of a local one."),
    key("tls.key", None, "", "a PEM file", "The key of tls.certificate."),
    key("delivery.allow_http", None, "false", SWITCH, "Webhooks may be plain http."),
    key("delivery.allow_loopback", None, "false", SWITCH, "Webhooks may be on this machine."),
    key(
        "delivery.allow_networks",
        None,
        "",
        "networks such as 10.0.0.0/8, separated by commas",
        "Private networks that webhooks may be in.",
    ),
    key(
        "delivery.request_rate",
        None,
        "",
        "a number of requests a minute from 1 to 4294967295",
        "The rate that webhooks of the CloudEvents schema are asked to allow; what they allow is kept to, asked or not.",
    ),
    key(
        "delivery.token_endpoint",
        None,
        "",
        "a URL such as https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token",
        "Where bearer tokens for protected webhooks are issued; {tenant} stands for the destination's tenant.",
    ),
    key(
        "delivery.token_client_id",
        None,
        "",
        "a text",
        "Who asks for those tokens. Whoever manages subscriptions can have its tokens sent to any endpoint: give it few rights.",
    ),
    Key {
        name: "delivery.token_client_secret",
        flag: None,
        default: "",
        allowed: "a text",
        about: "The secret of delivery.token_client_id.",
        secret: true,
    },
    key(
        "delivery.dead_letter_patience_custom",
        None,
        "4h",
        DURATION,
        "How long an event of a custom topic waits for a dead-letter destination that is down; then it is dropped.",
    ),
    key(
        "delivery.dead_letter_patience_namespace",
        None,
        "48h",
        DURATION,
        "The same for topics of namespaces.",
    ),
    key(
        "delivery.retry_jitter",
        None,
        "10%",
        "a percentage from 0% to 10%",
        "How much longer than documented a wait before a retry may be, by chance, so that bursts spread out.",
    ),
    key(
        "dead_letter.delay",
        None,
        "0s",
        "a duration such as 500ms, 10s or 5m",
        "How long an event that is given up waits before its dead letter is written; the hosted service waits 5m.",
    ),
    key("log.format", Some("--log-format"), "plain", "plain or json", "How log lines are written."),
    key(
        "log.filter",
        Some("--log-filter"),
        "info",
        "levels such as info, or info,gridwire_broker=debug",
        "Which log lines are written.",
    ),
];

/// Variables that belong to other commands.
const OTHER_VARIABLES: &[&str] = &[
    "GRIDWIRE_CONFIG",
    "GRIDWIRE_SERVER",
    "GRIDWIRE_CA",
    "GRIDWIRE_SUBSCRIPTION_ID",
    "GRIDWIRE_RESOURCE_GROUP",
    "GRIDWIRE_OUTPUT",
];

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

/// Where values come from.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// Name and text of the configuration file.
    pub(crate) file: Option<(String, String)>,
    /// The variables that begin with `GRIDWIRE_`.
    pub(crate) environment: BTreeMap<String, String>,
    /// Values by key, as given by flags.
    pub(crate) flags: Vec<(&'static str, String)>,
}

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) key: String,
    pub(crate) place: String,
    /// `None` where the value does not matter or must not be shown.
    pub(crate) found: Option<String>,
    pub(crate) allowed: String,
}

/// Everything wrong with the configuration, at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report(pub(crate) Vec<Problem>);

impl std::error::Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the configuration has {count} problem{}:", if count == 1 { "" } else { "s" })?;
        for Problem { key, place, found, allowed } in &self.0 {
            write!(f, "\n\n  {key}")?;
            if let Some(found) = found {
                write!(f, " = {found:?}")?;
            }
            write!(f, "  ({place})\n      {allowed}")?;
        }
        Ok(())
    }
}

/// A value as written, and where.
#[derive(Clone, Debug)]
struct Raw {
    text: String,
    place: String,
}

/// The values that win, before they are understood.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    values: BTreeMap<&'static str, Raw>,
    accounts: Accounts,
    problems: Vec<Problem>,
}

impl Layers {
    /// Lays the sources over one another.
    pub(crate) fn new(sources: &Sources) -> Self {
        let mut layers = Self::default();
        if let Some((name, text)) = &sources.file {
            layers.add_file(name, text);
        }
        for (variable, text) in &sources.environment {
            if let Some(key) = KEYS.iter().find(|key| key.variable() == *variable) {
                // An empty variable is how many tools write "not set".
                if !text.is_empty() {
                    layers.put(key, text.clone(), format!("variable {variable}"));
                }
            } else if let Some((account, member)) =
                variable.strip_prefix(accounts::VARIABLE).and_then(accounts::variable)
            {
                if !text.is_empty() {
                    let raw = Raw { text: text.clone(), place: format!("variable {variable}") };
                    layers.accounts.put(&account, member, raw);
                }
            } else if !OTHER_VARIABLES.contains(&variable.as_str()) && !is_service_link(variable) {
                layers.unknown(variable, "environment", KEYS.iter().map(Key::variable));
            }
        }
        for (name, text) in &sources.flags {
            if let Some(key) = KEYS.iter().find(|key| key.name == *name) {
                layers.put(key, text.clone(), format!("flag {}", key.flag.unwrap_or(name)));
            }
        }
        layers
    }

    fn put(&mut self, key: &'static Key, text: String, place: String) {
        self.values.insert(key.name, Raw { text, place });
    }

    fn add_file(&mut self, name: &str, text: &str) {
        match DeTable::parse(text) {
            Ok(table) => self.add_table(name, text, "", table.get_ref()),
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(text, span.start));
                self.problems.push(Problem {
                    key: "the file".to_owned(),
                    place: format!("{name}:{line}"),
                    found: None,
                    allowed: format!("must be TOML: {}", error.message()),
                });
            }
        }
    }

    fn add_table(&mut self, file: &str, text: &str, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let full = format!("{prefix}{}", name.get_ref());
            let place = format!("{file}:{}", line_of(text, name.span().start));
            let section = format!("{full}.");
            if let DeValue::Table(inner) = value.get_ref()
                && full == accounts::SECTION
            {
                self.add_accounts(file, text, inner);
                continue;
            }
            if let DeValue::Table(inner) = value.get_ref()
                && KEYS.iter().any(|key| key.name.starts_with(&section))
            {
                self.add_table(file, text, &section, inner);
                continue;
            }
            let Some(key) = KEYS.iter().find(|key| key.name == full) else {
                self.unknown(&full, &place, KEYS.iter().map(|key| key.name.to_owned()));
                continue;
            };
            match scalar(value.get_ref()) {
                Some(text) => self.put(key, text, place),
                None => self.problems.push(Problem {
                    key: full,
                    place,
                    found: None,
                    allowed: format!("allowed: {}", key.allowed),
                }),
            }
        }
    }

    fn add_accounts(&mut self, file: &str, text: &str, accounts: &DeTable<'_>) {
        for (account, members) in accounts {
            let account_place = format!("{file}:{}", line_of(text, account.span().start));
            let prefix = format!("{}.{}", accounts::SECTION, account.get_ref());
            let DeValue::Table(members) = members.get_ref() else {
                let allowed = "a table with `url` and `key` or `key_file`".to_owned();
                self.problems.push(Problem { key: prefix, place: account_place, found: None, allowed });
                continue;
            };
            for (name, value) in members {
                let key = format!("{prefix}.{}", name.get_ref());
                let place = format!("{file}:{}", line_of(text, name.span().start));
                let Some(member) = accounts::member(name.get_ref()) else {
                    let known = ACCOUNT_KEYS.iter().filter_map(|known| known.name.rsplit('.').next());
                    self.unknown(&key, &place, known.map(|known| format!("{prefix}.{known}")));
                    continue;
                };
                if let Some(text) = scalar(value.get_ref()) {
                    self.accounts.put(account.get_ref(), member, Raw { text, place });
                } else {
                    let allowed = "allowed: a text".to_owned();
                    self.problems.push(Problem { key, place, found: None, allowed });
                }
            }
        }
    }

    /// Key, value and place of what is written of storage accounts, for `config print`.
    pub(crate) fn accounts_in_force(&self) -> Vec<[String; 3]> {
        self.accounts.in_force()
    }

    fn unknown(&mut self, name: &str, place: &str, known: impl Iterator<Item = String>) {
        let near = known.map(|known| (distance(name, &known), known)).min();
        let allowed = match near {
            Some((steps, known)) if steps <= 3 => format!("unknown; did you mean `{known}`?"),
            _ => "unknown; `gridwire config schema` lists every key".to_owned(),
        };
        self.problems.push(Problem { key: name.to_owned(), place: place.to_owned(), found: None, allowed });
    }

    /// What is in force for `key` and where that was written, for `config print`. Secrets are not shown.
    pub(crate) fn in_force(&self, key: &Key) -> (String, String) {
        match self.values.get(key.name) {
            Some(_) if key.secret => ("***".to_owned(), self.values[key.name].place.clone()),
            Some(raw) => (raw.text.clone(), raw.place.clone()),
            None => (key.default.to_owned(), "default".to_owned()),
        }
    }

    /// Understands the winning value of `name`, or the default after noting the problem.
    /// All three keys of it, or none.
    fn token_issuer(&mut self) -> Option<TokenIssuer> {
        let some = |text: &str| Some((!text.is_empty()).then(|| text.to_owned()));
        let endpoint = self.value("delivery.token_endpoint", |text| {
            let filled = text.replace("{tenant}", "tenant");
            if text.is_empty() {
                Some(None)
            } else {
                url::Url::parse(&filled).ok().map(|_| Some(text.to_owned()))
            }
        });
        let client_id = self.value("delivery.token_client_id", some);
        let client_secret = self.value("delivery.token_client_secret", some);
        let (Some(endpoint), Some(client_id), Some(client_secret)) = (&endpoint, &client_id, &client_secret)
        else {
            let names =
                ["delivery.token_endpoint", "delivery.token_client_id", "delivery.token_client_secret"];
            for (name, there) in names.into_iter().zip([&endpoint, &client_id, &client_secret]) {
                if there.is_some() {
                    let place = self.values.get(name).map_or_else(String::new, |raw| raw.place.clone());
                    let allowed = format!("needs all of {} beside it", names.join(", "));
                    self.problems.push(Problem { key: name.to_owned(), place, found: None, allowed });
                }
            }
            return None;
        };
        Some(TokenIssuer {
            endpoint: endpoint.clone(),
            client_id: client_id.clone(),
            client_secret: Secret::new(client_secret.clone()),
        })
    }

    fn value<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Option<T>) -> T {
        let key = KEYS.iter().find(|key| key.name == name).expect("every key that is read is in KEYS");
        if let Some(raw) = self.values.get(name) {
            if let Some(value) = parse(&raw.text) {
                return value;
            }
            self.problems.push(Problem {
                key: name.to_owned(),
                place: raw.place.clone(),
                found: (!key.secret).then(|| raw.text.clone()),
                allowed: format!("allowed: {}", key.allowed),
            });
        }
        parse(key.default).expect("every default is allowed")
    }

    /// Every value understood, or everything that is wrong.
    pub(crate) fn settle(mut self) -> Result<Settings, Report> {
        let certificate = self.value("tls.certificate", |text| Some(path(text)));
        let key = self.value("tls.key", |text| Some(path(text)));
        let settings = Settings {
            data_dir: self.value("data_dir", path),
            dev: self.value("dev", switch),
            require_durable_fs: self.value("require_durable_fs", switch),
            http: self.value("listen.http", |text| text.parse().ok()),
            https: self.value("listen.https", |text| text.parse().ok()),
            admin: self.value("listen.admin", |text| text.parse().ok()),
            base_domain: self.value("base_domain", domain),
            apply: self.value("apply", |text| Some(path(text))),
            shards: self.value("shards", |text| text.parse().ok().filter(|count| *count <= 256)),
            grace_period: self.value("grace_period", duration),
            management_token: self.value("management_token", |text| {
                if text.is_empty() {
                    return Some(None);
                }
                check_token(text).ok().map(|()| Some(ManagementToken(text.to_owned())))
            }),
            auth_failures_max: self.value("auth.failures_per_minute", |text| {
                text.parse().ok().filter(|count| *count <= 1_000_000)
            }),
            tls_names: self.value("tls.names", |text| {
                let names = list(text);
                names.iter().all(|name| is_name(name)).then_some(names)
            }),
            tls_files: certificate.clone().zip(key.clone()),
            allow_http: self.value("delivery.allow_http", switch),
            allow_loopback: self.value("delivery.allow_loopback", switch),
            request_rate: self.value("delivery.request_rate", |text| {
                if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
            }),
            token_issuer: self.token_issuer(),
            allow_networks: self.value("delivery.allow_networks", |text| {
                let networks = list(text);
                networks.iter().all(|network| is_network(network)).then_some(networks)
            }),
            dead_letter_patience: DeadLetterPatience {
                custom: self.value("delivery.dead_letter_patience_custom", week),
                namespace: self.value("delivery.dead_letter_patience_namespace", week),
            },
            retry_jitter: self.value("delivery.retry_jitter", |text| {
                let percent: f64 = text.strip_suffix('%')?.parse().ok()?;
                (0.0..=100.0 * JITTER_SHARE).contains(&percent).then_some(percent)
            }),
            public_http: self.value("public.http", |text| public(text, false)),
            public_https: self.value("public.https", |text| public(text, true)),
            dead_letter_delay: self.value("dead_letter.delay", duration),
            dead_letter_accounts: self.accounts.settle(&mut self.problems),
            log_format: self.value("log.format", |text| match text {
                "plain" => Some(LogFormat::Plain),
                "json" => Some(LogFormat::Json),
                _ => None,
            }),
            log_filter: self.value("log.filter", |text| {
                let filter = tracing_subscriber::EnvFilter::builder().parse(text);
                filter.ok().map(|_| text.to_owned())
            }),
        };
        for (there, name, other) in
            [(&certificate, "tls.certificate", "tls.key"), (&key, "tls.key", "tls.certificate")]
        {
            if there.is_some() && settings.tls_files.is_none() {
                let place = self.values.get(name).map_or_else(String::new, |raw| raw.place.clone());
                let allowed = format!("needs `{other}` beside it");
                self.problems.push(Problem { key: name.to_owned(), place, found: None, allowed });
            }
        }
        if self.problems.is_empty() { Ok(settings) } else { Err(Report(self.problems)) }
    }
}

/// The reference of every key, for a program.
pub(crate) fn schema() -> serde_json::Value {
    let entry = |key: &Key| {
        json!({
            "key": key.name, "variable": key.variable(), "flag": key.flag,
            "default": key.default, "allowed": key.allowed, "about": key.about,
        })
    };
    KEYS.iter().chain(ACCOUNT_KEYS).map(entry).collect()
}

fn switch(text: &str) -> Option<bool> {
    text.parse().ok()
}

/// Empty means none.
fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

#[expect(clippy::option_option, reason = "the outer is whether the text is allowed, the inner the value")]
fn domain(text: &str) -> Option<Option<String>> {
    if text.is_empty() {
        return Some(None);
    }
    (is_name(text) && !text.starts_with('*')).then(|| Some(text.to_ascii_lowercase()))
}

/// The base URL of a listener with this scheme.
#[expect(clippy::option_option, reason = "the outer is whether the text is allowed, the inner the value")]
fn public(text: &str, tls: bool) -> Option<Option<Base>> {
    if text.is_empty() {
        return Some(None);
    }
    text.parse::<Base>().ok().filter(|base| base.tls == tls).map(Some)
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// `10.0.0.0/8`, `fd00::/8`, or one address.
fn is_network(text: &str) -> bool {
    let (address, prefix) =
        text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let Ok(address) = address.parse::<std::net::IpAddr>() else { return false };
    let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
    prefix.is_none_or(|prefix| prefix.parse::<u8>().is_ok_and(|prefix| prefix <= bits))
}

/// A DNS name, perhaps with a leading `*.`, or an IP address.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let name = text.strip_prefix("*.").unwrap_or(text);
    text.parse::<std::net::IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(label))
}

/// `500ms`, `10s`, `2m`, `4h`; at most a day.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    week(text).filter(|duration| *duration <= Duration::from_secs(24 * 3600))
}

/// The same, at most a week: longer than that no event is kept.
fn week(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => number,
        "s" => number.checked_mul(1000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        _ => return None,
    };
    (millis <= 7 * 24 * 3_600_000).then(|| Duration::from_millis(millis))
}

/// The text of a TOML value that stands for one value here; a list of strings is joined by commas.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Boolean(switch) => Some(switch.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => None,
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.get(..at).map_or(0, |before| before.matches('\n').count())
}

/// What an orchestrator sets for every service it knows: `{SERVICE}_SERVICE_HOST`, `{SERVICE}_PORT_80_TCP`.
/// One called `gridwire` must not stop us from starting.
fn is_service_link(variable: &str) -> bool {
    variable.contains("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || variable.contains("_PORT_")
        || variable.ends_with("_PORT")
}

/// How many single-character edits lie between two names.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, character) in one.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, against) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(character != *against);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(
        file: &str,
        environment: &[(&str, &str)],
        flags: &[(&'static str, &str)],
    ) -> Result<Settings, Report> {
        Layers::new(&Sources {
            file: Some(("g.toml".to_owned(), file.to_owned())),
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            flags: flags.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
        })
        .settle()
    }

    /// Expects exactly these problems: key, place, and a part of what is allowed.
    fn check(file: &str, environment: &[(&str, &str)], expect: &[(&str, &str, &str)]) {
        let problems = settle(file, environment, &[]).map_or_else(|report| report.0, |_| Vec::new());
        assert_eq!(problems.len(), expect.len(), "{problems:#?}");
        for (key, place, allowed) in expect {
            let problem = problems.iter().find(|problem| problem.key == *key).expect(key);
            assert_eq!(problem.place, *place);
            assert!(problem.allowed.contains(allowed), "{problem:?}");
        }
    }

    #[test]
    fn nothing_needs_to_be_configured() {
        let settings = settle("", &[], &[]).unwrap();
        assert_eq!(settings.http.to_string(), "127.0.0.1:8080");
        assert_eq!(settings.data_dir, PathBuf::from("./gridwire-data"));
        assert!(!settings.dev);
        assert_eq!(settings.grace_period, Duration::from_secs(10));
    }

    #[test]
    fn flags_win_over_the_environment_over_the_file_over_defaults() {
        let file = "[listen]\nhttp = \"127.0.0.1:1\"\nhttps = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:1\"";
        let environment =
            [("GRIDWIRE_LISTEN_HTTPS", "127.0.0.1:2"), ("GRIDWIRE_LISTEN_ADMIN", "127.0.0.1:2")];
        let settings = settle(file, &environment, &[("listen.admin", "127.0.0.1:3")]).unwrap();
        let ports = [settings.http.port(), settings.https.port(), settings.admin.port()];
        assert_eq!(ports, [1, 2, 3]);
    }

    #[test]
    fn all_problems_are_reported_together() {
        let file = "shards = 1000\n[listen]\nhttp = \"somewhere\"\nhtps = \"127.0.0.1:0\"\n";
        check(
            file,
            &[("GRIDWIRE_GRACE_PERIOD", "soon"), ("GRIDWIRE_NONSENSE", "1")],
            &[
                ("shards", "g.toml:1", "0 to 256"),
                ("listen.http", "g.toml:3", "port 0 picks"),
                ("listen.htps", "g.toml:4", "did you mean `listen.http"),
                ("grace_period", "variable GRIDWIRE_GRACE_PERIOD", "10s"),
                ("GRIDWIRE_NONSENSE", "environment", "config schema"),
            ],
        );
    }

    #[test]
    fn a_file_that_is_no_toml_says_where() {
        check("dev = true\nlisten = [", &[], &[("the file", "g.toml:2", "must be TOML")]);
    }

    #[test]
    fn a_certificate_needs_its_key() {
        check("tls.certificate = \"a.pem\"", &[], &[("tls.certificate", "g.toml:1", "needs `tls.key`")]);
    }

    #[test]
    fn a_secret_is_not_shown_when_it_is_refused() {
        let report = settle("management_token = \"hunter2\"", &[], &[]).unwrap_err();
        assert!(!report.to_string().contains("hunter2"), "{report}");
    }

    #[test]
    fn storage_accounts_come_from_the_file_and_from_variables() {
        let file = "[dead_letter]\ndelay = \"5m\"\n[dead_letter.accounts.letters1]\nurl = \"https://l.example/\"\n\
                    [dead_letter.accounts.letters2]\nkind = \"s3\"\nurl = \"https://s3.example\"\nkey = \"id:secret\"";
        let environment = [("GRIDWIRE_DEAD_LETTER_ACCOUNTS_LETTERS1_KEY", "a2V5")];
        let settings = settle(file, &environment, &[]).unwrap();
        assert_eq!(settings.dead_letter_delay, Duration::from_secs(300));
        let [one, two] = &settings.dead_letter_accounts[..] else { panic!("two accounts") };
        assert_eq!((one.name.as_str(), one.url.as_str()), ("letters1", "https://l.example"));
        assert_eq!(one.kind, gridwire_broker::AccountKind::AzureKey("a2V5".to_owned()));
        assert!(matches!(&two.kind, gridwire_broker::AccountKind::S3 { secret, .. } if secret == "secret"));
        assert!(!format!("{settings:?}").contains("a2V5"));
    }

    #[test]
    fn what_is_wrong_with_a_storage_account_is_said() {
        let table = |lines: &str| format!("[dead_letter.accounts.letters1]\n{lines}");
        let check = |lines: &str, key: &str, place: &str, allowed: &str| {
            let key = format!("dead_letter.accounts.letters1.{key}");
            check(&table(lines), &[], &[(key.as_str(), place, allowed)]);
        };
        let url = "url = \"https://l.example\"";
        check("key = \"x\"", "url", "g.toml:2", "https://letters1");
        check("url = \"https://l.example?sig=x\"\nkey = \"x\"", "url", "g.toml:2", "https://letters1");
        check(url, "key", "g.toml:2", "key_file");
        check(&format!("{url}\nkey_file = \"/none/such\""), "key_file", "g.toml:3", "cannot be read");
        check(&format!("{url}\nkey = \"no base64\""), "key", "g.toml:3", "an access key");
        check(&format!("{url}\nkey = \"x\"\nkind = \"s3\""), "key", "g.toml:3", "SECRET");
        check(&format!("{url}\nkey = \"x\"\nkind = \"gcs\""), "kind", "g.toml:4", "azure or s3");
        check(&format!("{url}\nkey = \"a2V5\"\nkeyfile = \"x\""), "keyfile", "g.toml:4", "did you mean");
    }

    #[test]
    fn what_an_orchestrator_sets_is_not_ours() {
        check(
            "",
            &[("GRIDWIRE_PORT_8080_TCP", "tcp://10.0.0.1:8080"), ("GRIDWIRE_SERVICE_HOST", "10.0.0.1")],
            &[],
        );
    }

    #[test]
    fn every_default_is_allowed_and_every_variable_is_unique() {
        settle("", &[], &[]).unwrap();
        let mut variables: Vec<_> = KEYS.iter().map(Key::variable).collect();
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), KEYS.len());
    }

    #[test]
    fn durations_have_units() {
        for (text, expect) in [
            ("500ms", Some(500)),
            ("2m", Some(120_000)),
            ("25h", None),
            ("10", None),
            ("99999h", None),
            ("", None),
        ] {
            assert_eq!(duration(text).map(|duration| duration.as_millis()), expect, "{text}");
        }
        assert_eq!([week("168h"), week("169h")], [Some(Duration::from_secs(7 * 86_400)), None]);
    }
}
