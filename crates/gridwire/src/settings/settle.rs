//! The values that won, understood: [`Settings`], or everything that is wrong with them.

use gridwire_broker::TokenIssuer;
use gridwire_control::DeadLetterPatience;
use gridwire_core::retry::JITTER_SHARE;
use gridwire_core::secret::Secret;

use super::layers::Layers;
use super::parse::{domain, duration, is_name, is_network, list, path, public, switch, week};
use super::report::{Problem, Report};
use super::{KEYS, LogFormat, ManagementToken, Settings};
use crate::data_dir::check_token;

impl Layers {
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

    /// Understands the winning value of `name`, or the default after noting the problem.
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
}
