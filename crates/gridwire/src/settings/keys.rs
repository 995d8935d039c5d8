//! The keys of the configuration, and the reference of them all.

use serde_json::json;

use super::accounts::ACCOUNT_KEYS;
use crate::data_dir;

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
    pub(super) secret: bool,
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
