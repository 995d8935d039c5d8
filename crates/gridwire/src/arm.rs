//! Resources as the management API names them: scopes, ids and the verbs on them.
//!
//! On the command line a resource is named by a path of names: `orders` (a custom topic), `orders/billing` (its
//! event subscription), `shop/jobs` (a topic of the namespace `shop`), `shop/jobs/workers` (its event
//! subscription). `orders/billing` and `shop/jobs` look the same; what is asked for tells them apart. What belongs
//! to a domain would look the same again, so it says so: `domain:malls`, `domain:malls/audit`,
//! `domain:malls/north` (a topic of it), `domain:malls/north/billing`.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use serde_json::Value;

use crate::client::{ANSWER_TIMEOUT, Answer, Client, ClientError};
use crate::target::TOKEN_VARIABLE;

/// The version of the contract that is spoken here.
const API_VERSION: &str = "2025-02-15";
/// A webhook may take this long to prove itself before its subscription is answered.
const PUT_TIMEOUT: Duration = Duration::from_secs(120);
/// Pages of one list; more means that the server sends us in circles.
const PAGES_MAX: usize = 10_000;

/// Where resources are: any subscription id and any group name will do, nothing must be created first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) subscription_id: String,
    pub(crate) resource_group: String,
}

impl Scope {
    pub(crate) const DEFAULT_SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000000";
    pub(crate) const DEFAULT_GROUP: &str = "default";

    /// The id of the provider in this scope; every resource id begins with it.
    pub(crate) fn provider(&self) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.EventGrid",
            self.subscription_id, self.resource_group
        )
    }

    /// The prefix of data-plane paths.
    fn prefix(&self) -> String {
        format!("/{}/{}", self.subscription_id, self.resource_group)
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self {
            subscription_id: Self::DEFAULT_SUBSCRIPTION.to_owned(),
            resource_group: Self::DEFAULT_GROUP.to_owned(),
        }
    }
}

/// A topic of any kind; a domain is one too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    Custom { topic: String },
    Domain { domain: String },
    InDomain { domain: String, topic: String },
    Namespace { namespace: String, topic: String },
}

/// An event subscription of any kind of topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) topic: Topic,
    pub(crate) name: String,
}

/// A name that cannot be part of an id.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not {what}: names hold letters, digits and hyphens, for example {example}")]
pub(crate) struct NameError {
    text: String,
    what: &'static str,
    example: &'static str,
}

fn names<const N: usize>(text: &str) -> Option<[&str; N]> {
    let parts: Vec<&str> = text.split('/').collect();
    let fine = |name: &&str| -> bool {
        (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    <[&str; N]>::try_from(parts).ok().filter(|parts| parts.iter().all(fine))
}

/// A plain name, such as a namespace's.
pub(crate) fn name(text: &str) -> Result<String, NameError> {
    let [name] = names(text).ok_or(NameError { text: text.to_owned(), what: "a name", example: "shop" })?;
    Ok(name.to_owned())
}

/// What stands in front of the names of domains.
const DOMAIN: &str = "domain:";

/// A domain or a topic of it, with or without `domain:`.
pub(crate) fn domain(text: &str) -> Result<Topic, NameError> {
    let plain = text.strip_prefix(DOMAIN).unwrap_or(text);
    if let Some([domain]) = names(plain) {
        return Ok(Topic::Domain { domain: domain.to_owned() });
    }
    if let Some([domain, topic]) = names(plain) {
        return Ok(Topic::InDomain { domain: domain.to_owned(), topic: topic.to_owned() });
    }
    Err(NameError { text: text.to_owned(), what: "a domain", example: "`malls`, or its topic `malls/north`" })
}

impl Topic {
    /// `orders`, `shop/jobs`, `domain:malls` or `domain:malls/north`.
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        if text.starts_with(DOMAIN) {
            return domain(text);
        }
        if let Some([topic]) = names(text) {
            return Ok(Self::Custom { topic: topic.to_owned() });
        }
        if let Some([namespace, topic]) = names(text) {
            return Ok(Self::Namespace { namespace: namespace.to_owned(), topic: topic.to_owned() });
        }
        Err(NameError {
            text: text.to_owned(),
            what: "a topic",
            example: "`orders`, `shop/jobs` in a namespace, or `domain:malls/north` in a domain",
        })
    }

    pub(crate) fn id(&self, scope: &Scope) -> String {
        match self {
            Self::Custom { topic } => format!("{}/topics/{topic}", scope.provider()),
            Self::Domain { domain } => domain_id(scope, domain),
            Self::InDomain { domain, topic } => format!("{}/topics/{topic}", domain_id(scope, domain)),
            Self::Namespace { namespace, topic } => {
                format!("{}/topics/{topic}", namespace_id(scope, namespace))
            }
        }
    }

    /// Whoever holds the keys to publish with: the topic itself, its domain or its namespace.
    pub(crate) fn key_holder(&self, scope: &Scope) -> String {
        match self {
            Self::Custom { .. } | Self::Domain { .. } => self.id(scope),
            Self::InDomain { domain, .. } => domain_id(scope, domain),
            Self::Namespace { namespace, .. } => namespace_id(scope, namespace),
        }
    }

    /// Path and query to publish to.
    pub(crate) fn publish_path(&self, scope: &Scope) -> String {
        match self {
            Self::Custom { topic } => {
                format!("{}/topics/{topic}/api/events?api-version=2018-01-01", scope.prefix())
            }
            Self::Domain { domain } | Self::InDomain { domain, .. } => {
                format!("{}/domains/{domain}/api/events?api-version=2018-01-01", scope.prefix())
            }
            Self::Namespace { namespace, topic } => format!(
                "{}/namespaces/{namespace}/topics/{topic}:publish?api-version=2024-06-01",
                scope.prefix()
            ),
        }
    }

    pub(crate) fn is_namespace(&self) -> bool {
        matches!(self, Self::Namespace { .. })
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Custom { topic } => f.write_str(topic),
            Self::Domain { domain } => write!(f, "{DOMAIN}{domain}"),
            Self::InDomain { domain, topic } => write!(f, "{DOMAIN}{domain}/{topic}"),
            Self::Namespace { namespace, topic } => write!(f, "{namespace}/{topic}"),
        }
    }
}

impl Subscription {
    /// `orders/billing`, `shop/jobs/workers`, `domain:malls/audit` or `domain:malls/north/billing`.
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        if let Some((above, name)) = text.rsplit_once('/').filter(|_| text.starts_with(DOMAIN))
            && let (Ok(topic), Some([name])) = (domain(above), names(name))
        {
            return Ok(Self { topic, name: name.to_owned() });
        }
        if let Some([topic, name]) = names(text) {
            return Ok(Self { topic: Topic::Custom { topic: topic.to_owned() }, name: name.to_owned() });
        }
        if let Some([namespace, topic, name]) = names(text) {
            let topic = Topic::Namespace { namespace: namespace.to_owned(), topic: topic.to_owned() };
            return Ok(Self { topic, name: name.to_owned() });
        }
        Err(NameError {
            text: text.to_owned(),
            what: "an event subscription",
            example: "`orders/billing`, `shop/jobs/workers` in a namespace, or `domain:malls/north/billing`",
        })
    }

    pub(crate) fn id(&self, scope: &Scope) -> String {
        format!("{}/eventSubscriptions/{}", self.topic.id(scope), self.name)
    }

    /// Path of a pull operation (`receive`, `acknowledge`, …); `None` for what only pushes.
    pub(crate) fn pull_path(&self, scope: &Scope, operation: &str) -> Option<String> {
        let Topic::Namespace { namespace, topic } = &self.topic else { return None };
        Some(format!(
            "{}/namespaces/{namespace}/topics/{topic}/eventsubscriptions/{}:{operation}?api-version=2024-06-01",
            scope.prefix(),
            self.name
        ))
    }
}

impl fmt::Display for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.name)
    }
}

pub(crate) fn namespace_id(scope: &Scope, namespace: &str) -> String {
    format!("{}/namespaces/{namespace}", scope.provider())
}

/// Where the data plane takes requests for a namespace: the base address of SDKs, without scheme and host.
pub(crate) fn namespace_path(scope: &Scope, namespace: &str) -> String {
    format!("{}/namespaces/{namespace}", scope.prefix())
}

fn domain_id(scope: &Scope, domain: &str) -> String {
    format!("{}/domains/{domain}", scope.provider())
}

/// The path of a list: `topics`, `namespaces`, or children of a resource.
pub(crate) fn list_in_group(scope: &Scope, kind: &str) -> String {
    format!("{}/{kind}", scope.provider())
}

/// Why a management call did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManagementError {
    #[error("the server could not be asked")]
    Client(#[from] ClientError),
    #[error("failed to write a request")]
    Request(#[from] http::Error),
    #[error("{refusal}{remark}", refusal = .0, remark = .0.about_token())]
    Refused(Refusal),
    #[error("the server's answer to {method} {path} is not JSON")]
    NotJson { method: Method, path: String, source: serde_json::Error },
    #[error("the list {path} does not end")]
    Endless { path: String },
}

/// An answer that says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: String,
    pub(crate) message: String,
    /// When to ask again, where the server says that this helps.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    /// Reads the error body, as far as there is one.
    pub(crate) fn of(answer: &Answer) -> Self {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let text = |member: &str| body["error"][member].as_str().map(str::to_owned);
        let seconds =
            answer.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Self {
            status: answer.status,
            retry_after: seconds.map(Duration::from_secs),
            code: text("code").unwrap_or_default(),
            message: text("message")
                .unwrap_or_else(|| String::from_utf8_lossy(&answer.body).chars().take(500).collect()),
        }
    }

    fn is_unauthorized(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    /// What to say behind it when the call carried an access key.
    pub(crate) fn about_key(&self) -> &'static str {
        if self.is_unauthorized() { " (the access key is not accepted there)" } else { "" }
    }

    /// What to say behind it when the call carried the management token.
    fn about_token(&self) -> &'static str {
        if !self.is_unauthorized() {
            ""
        } else if std::env::var_os(TOKEN_VARIABLE).is_some_and(|token| !token.is_empty()) {
            " (is the token in GRIDWIRE_MANAGEMENT_TOKEN this server's?)"
        } else {
            " (is this server's data directory the one given by --data-dir?)"
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {}", self.status.as_u16())?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", crate::output::printable(&self.message))?;
        }
        if let Some(wait) = self.retry_after {
            write!(f, " (try again in {} s)", wait.as_secs())?;
        }
        Ok(())
    }
}

/// The management API of one server.
#[derive(Debug)]
pub(crate) struct Management {
    client: Client,
    token: Option<Token>,
    requests: AtomicU64,
}

struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Management {
    /// Without a token, the server refuses every call.
    pub(crate) fn new(client: Client, token: impl Into<Option<String>>) -> Self {
        Self { client, token: token.into().map(Token), requests: AtomicU64::new(0) }
    }

    /// The connection below, for the data plane of the same server.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The resource; `None` when there is none.
    pub(crate) async fn get(&self, id: &str) -> Result<Option<Value>, ManagementError> {
        match self.call(Method::GET, &versioned(id), None, ANSWER_TIMEOUT).await {
            Err(ManagementError::Refused(refusal)) if refusal.status == StatusCode::NOT_FOUND => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Creates the resource or replaces it. Members that the server does not understand are refused: a
    /// misspelled filter would deliver everything.
    pub(crate) async fn put(&self, id: &str, body: &Value) -> Result<Value, ManagementError> {
        self.call(Method::PUT, &versioned(id), Some(body), PUT_TIMEOUT).await
    }

    pub(crate) async fn delete(&self, id: &str) -> Result<(), ManagementError> {
        self.call(Method::DELETE, &versioned(id), None, ANSWER_TIMEOUT).await.map(drop)
    }

    /// An action of a resource, such as `listKeys`.
    pub(crate) async fn act(&self, id: &str, action: &str) -> Result<Value, ManagementError> {
        self.act_with(id, action, None).await
    }

    /// The same with a body.
    pub(crate) async fn act_with(
        &self,
        id: &str,
        action: &str,
        body: Option<&Value>,
    ) -> Result<Value, ManagementError> {
        self.call(Method::POST, &versioned(&format!("{id}/{action}")), body, ANSWER_TIMEOUT).await
    }

    /// Asks a subscription's endpoint for its consent again, which takes as long as when it is created.
    pub(crate) async fn revalidate(&self, id: &str) -> Result<Value, ManagementError> {
        self.call(Method::POST, &versioned(&format!("{id}/revalidate")), None, PUT_TIMEOUT).await
    }

    /// Every entry of a list, over all its pages.
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<Value>, ManagementError> {
        let mut next = format!("{}&$top=100", versioned(path));
        let mut all = Vec::new();
        for _ in 0..PAGES_MAX {
            let mut page = self.call(Method::GET, &next, None, ANSWER_TIMEOUT).await?;
            if let Value::Array(mut entries) = page["value"].take() {
                all.append(&mut entries);
            }
            // It names the public address; we stay on the connection that we have.
            let link = page["nextLink"].as_str().and_then(|link| url::Url::parse(link).ok());
            let Some(link) = link else { return Ok(all) };
            next = format!("{}?{}", link.path(), link.query().unwrap_or_default());
        }
        Err(ManagementError::Endless { path: path.to_owned() })
    }

    /// A GET outside the resource model, path and query as given.
    pub(crate) async fn read(&self, path: &str) -> Result<Value, ManagementError> {
        self.call(Method::GET, path, None, ANSWER_TIMEOUT).await
    }

    /// Any other call outside the resource model, for one that may take long.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Value, ManagementError> {
        self.call(method, path, body, patience).await
    }

    /// A POST outside the resource model. It may look through much before it answers.
    pub(crate) async fn order(&self, path: &str, body: &Value) -> Result<Value, ManagementError> {
        self.call(Method::POST, path, Some(body), PUT_TIMEOUT).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Value, ManagementError> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let mut request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(header::ACCEPT, "application/json")
            .header("x-ms-client-request-id", format!("cli-{}-{number}", std::process::id()));
        if let Some(Token(token)) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request =
                request.header(header::CONTENT_TYPE, "application/json").header("prefer", "handling=strict");
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let answer = self.client.send(request.body(body)?, patience).await?;
        if !answer.status.is_success() {
            return Err(ManagementError::Refused(Refusal::of(&answer)));
        }
        if answer.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer.body).map_err(|source| ManagementError::NotJson {
            method,
            path: path.to_owned(),
            source,
        })
    }
}

fn versioned(path: &str) -> String {
    format!("{path}?api-version={API_VERSION}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROVIDER: &str = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/default\
                            /providers/Microsoft.EventGrid";

    #[test]
    fn a_topic_is_one_name_or_two() {
        let check = |text: &str, expect: Option<&str>| {
            let id = Topic::parse(text).ok().map(|topic| topic.id(&Scope::default()));
            assert_eq!(id, expect.map(|rest| format!("{PROVIDER}{rest}")), "{text}");
        };
        check("orders", Some("/topics/orders"));
        check("shop/jobs", Some("/namespaces/shop/topics/jobs"));
        check("domain:malls", Some("/domains/malls"));
        check("domain:malls/north", Some("/domains/malls/topics/north"));
        check("domain:", None);
        check("domain:a/b/c", None);
        check("mall:a", None);
        check("a/b/c", None);
        check("", None);
        check("or ders", None);
        check("../x", None);
    }

    #[test]
    fn a_subscription_is_a_topic_and_a_name() {
        let check = |text: &str, expect: Option<&str>| {
            let id = Subscription::parse(text).ok().map(|subscription| subscription.id(&Scope::default()));
            assert_eq!(id, expect.map(|rest| format!("{PROVIDER}{rest}")), "{text}");
        };
        check("orders/billing", Some("/topics/orders/eventSubscriptions/billing"));
        check("shop/jobs/workers", Some("/namespaces/shop/topics/jobs/eventSubscriptions/workers"));
        check("domain:malls/audit", Some("/domains/malls/eventSubscriptions/audit"));
        check("domain:malls/north/billing", Some("/domains/malls/topics/north/eventSubscriptions/billing"));
        check("domain:malls", None);
        check("domain:a/b/c/d", None);
        check("orders", None);
        check("a/b/c/d", None);
    }

    #[test]
    fn data_plane_paths_carry_the_scope() {
        let topic = Topic::parse("shop/jobs").unwrap();
        assert_eq!(
            topic.publish_path(&Scope::default()),
            "/00000000-0000-0000-0000-000000000000/default/namespaces/shop/topics/jobs:publish?api-version=2024-06-01"
        );
        let topic = Topic::parse("domain:malls/north").unwrap();
        assert_eq!(
            topic.publish_path(&Scope::default()),
            "/00000000-0000-0000-0000-000000000000/default/domains/malls/api/events?api-version=2018-01-01"
        );
        let subscription = Subscription::parse("orders/billing").unwrap();
        assert_eq!(subscription.pull_path(&Scope::default(), "receive"), None);
    }
}
