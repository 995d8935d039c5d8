//! Bringing a server's resources in line with a file.
//!
//! A file is a tree of resources in the shapes of the management API (`properties` as in ARM), in JSON or TOML:
//! topics with their event subscriptions, domains with theirs and with topics with event subscriptions, and
//! namespaces with topics with event subscriptions. What it does not name is left alone; nothing is deleted.
//! Applying it again changes nothing.

mod certificates;

use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::arm::{self, Management, ManagementError, Scope, Subscription, Topic};

/// A resource that should be there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) id: String,
    /// How a person names it: `topic orders`.
    pub(crate) label: String,
    body: Value,
    /// Event subscriptions keep secrets that a GET does not show.
    is_subscription: bool,
}

impl Wanted {
    /// Whether it is a subscription to a topic of a namespace, which has to be there first.
    fn forwards(&self) -> bool {
        let places = ["/properties/destination", "/properties/deliveryWithResourceIdentity/destination"];
        let kind = |place: &str| self.body.pointer(place)?.get("endpointType")?.as_str();
        places.into_iter().filter_map(kind).any(|kind| kind.eq_ignore_ascii_case("NamespaceTopic"))
    }
}

/// What is to be done about a resource, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Create,
    /// With the paths of the properties that differ.
    Update(Vec<String>),
    Nothing,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    subscription_id: Option<String>,
    resource_group: Option<String>,
    #[serde(default)]
    topics: Vec<TopicEntry>,
    #[serde(default)]
    domains: Vec<DomainEntry>,
    #[serde(default)]
    namespaces: Vec<NamespaceEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TopicEntry {
    name: String,
    location: Option<String>,
    tags: Option<Map<String, Value>>,
    properties: Option<Map<String, Value>>,
    #[serde(default)]
    event_subscriptions: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DomainEntry {
    name: String,
    location: Option<String>,
    tags: Option<Map<String, Value>>,
    properties: Option<Map<String, Value>>,
    #[serde(default)]
    event_subscriptions: Vec<Entry>,
    #[serde(default)]
    topics: Vec<DomainTopicEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DomainTopicEntry {
    name: String,
    #[serde(default)]
    event_subscriptions: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NamespaceEntry {
    name: String,
    location: Option<String>,
    tags: Option<Map<String, Value>>,
    sku: Option<Value>,
    properties: Option<Map<String, Value>>,
    #[serde(default)]
    topics: Vec<NamespaceTopicEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NamespaceTopicEntry {
    name: String,
    properties: Option<Map<String, Value>>,
    #[serde(default)]
    event_subscriptions: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: String,
    properties: Option<Map<String, Value>>,
}

/// Reads a file by its ending: `.json` or `.toml`.
pub(crate) fn read(path: &Path, scope: &Scope) -> anyhow::Result<Vec<Wanted>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("failed to read `{}`", path.display()))?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    parse(&text, ending, scope).with_context(|| format!("failed to understand `{}`", path.display()))
}

/// The resources of a file, parents before children and targets before what forwards to them.
fn parse(text: &str, ending: &str, scope: &Scope) -> anyhow::Result<Vec<Wanted>> {
    let file: File = match ending {
        "json" => serde_json::from_str(text)?,
        "toml" => toml::from_str(text)?,
        _ => bail!("its name must end in .json or .toml"),
    };
    let scope = Scope {
        subscription_id: file.subscription_id.unwrap_or_else(|| scope.subscription_id.clone()),
        resource_group: file.resource_group.unwrap_or_else(|| scope.resource_group.clone()),
    };
    let mut wanted = Vec::new();
    for entry in file.topics {
        let topic = Topic::Custom { topic: arm::name(&entry.name)? };
        let body = tracked(entry.location, entry.tags, None, entry.properties);
        wanted.push(Wanted {
            id: topic.id(&scope),
            label: format!("topic {topic}"),
            body,
            is_subscription: false,
        });
        add_subscriptions(&mut wanted, &scope, &topic, entry.event_subscriptions)?;
    }
    for entry in file.domains {
        let domain = Topic::Domain { domain: arm::name(&entry.name)? };
        wanted.push(Wanted {
            id: domain.id(&scope),
            label: format!("domain {}", entry.name),
            body: tracked(entry.location, entry.tags, None, entry.properties),
            is_subscription: false,
        });
        add_subscriptions(&mut wanted, &scope, &domain, entry.event_subscriptions)?;
        for topic in entry.topics {
            let topic_name = arm::name(&topic.name)?;
            let topic_of = Topic::InDomain { domain: entry.name.clone(), topic: topic_name };
            wanted.push(Wanted {
                id: topic_of.id(&scope),
                label: format!("topic {topic_of}"),
                body: json!({}),
                is_subscription: false,
            });
            add_subscriptions(&mut wanted, &scope, &topic_of, topic.event_subscriptions)?;
        }
    }
    for entry in file.namespaces {
        let namespace = arm::name(&entry.name)?;
        wanted.push(Wanted {
            id: arm::namespace_id(&scope, &namespace),
            label: format!("namespace {namespace}"),
            body: tracked(entry.location, entry.tags, entry.sku, entry.properties),
            is_subscription: false,
        });
        for entry in entry.topics {
            let topic = Topic::Namespace { namespace: namespace.clone(), topic: arm::name(&entry.name)? };
            wanted.push(Wanted {
                id: topic.id(&scope),
                label: format!("topic {topic}"),
                body: json!({ "properties": entry.properties.unwrap_or_default() }),
                is_subscription: false,
            });
            add_subscriptions(&mut wanted, &scope, &topic, entry.event_subscriptions)?;
        }
    }
    // What they forward to may be in the same file.
    wanted.sort_by_key(Wanted::forwards);
    let mut ids: Vec<String> = wanted.iter().map(|wanted| wanted.id.to_ascii_lowercase()).collect();
    ids.sort_unstable();
    if let Some((id, _)) = ids.iter().zip(ids.iter().skip(1)).find(|(id, next)| id == next) {
        bail!("`{id}` is there twice");
    }
    Ok(wanted)
}

fn add_subscriptions(
    wanted: &mut Vec<Wanted>,
    scope: &Scope,
    topic: &Topic,
    entries: Vec<Entry>,
) -> anyhow::Result<()> {
    for entry in entries {
        let subscription = Subscription { topic: topic.clone(), name: arm::name(&entry.name)? };
        wanted.push(Wanted {
            id: subscription.id(scope),
            label: format!("subscription {subscription}"),
            body: json!({ "properties": entry.properties.unwrap_or_default() }),
            is_subscription: true,
        });
    }
    Ok(())
}

fn tracked(
    location: Option<String>,
    tags: Option<Map<String, Value>>,
    sku: Option<Value>,
    properties: Option<Map<String, Value>>,
) -> Value {
    let mut body = json!({
        "location": location.unwrap_or_else(|| "local".to_owned()),
        "properties": properties.unwrap_or_default(),
    });
    if let Some(tags) = tags {
        body["tags"] = Value::Object(tags);
    }
    if let Some(sku) = sku {
        body["sku"] = sku;
    }
    body
}

/// What applying `wanted` would do; changes nothing.
pub(crate) async fn plan(wanted: &Wanted, management: &Management) -> Result<Change, ManagementError> {
    let Some(current) = management.get(&wanted.id).await? else { return Ok(Change::Create) };
    let differing = differences(&wanted.body, &with_secrets(wanted, current, management).await);
    Ok(if differing.is_empty() { Change::Nothing } else { Change::Update(differing) })
}

/// Makes the resource what it should be, and says what that took.
pub(crate) async fn apply(wanted: &Wanted, management: &Management) -> Result<Change, ManagementError> {
    let Some(before) = management.get(&wanted.id).await? else {
        management.put(&wanted.id, &wanted.body).await?;
        return Ok(Change::Create);
    };
    let differing = differences(&wanted.body, &with_secrets(wanted, before.clone(), management).await);
    if differing.is_empty() {
        return Ok(Change::Nothing);
    }
    let after = management.put(&wanted.id, &wanted.body).await?;
    // A default that is not known here looks like a difference until the server has judged it.
    let secret = differing.iter().any(|path| SECRETS.iter().any(|name| path.ends_with(name)));
    let same = ["properties", "tags", "sku"].iter().all(|part| before.get(part) == after.get(part));
    Ok(if same && !secret { Change::Nothing } else { Change::Update(differing) })
}

/// The resource as it is, with the secrets that are told only when asked for. What cannot be asked for stays
/// unknown, and then differs.
async fn with_secrets(wanted: &Wanted, mut current: Value, management: &Management) -> Value {
    for place in DESTINATIONS {
        if wanted.is_subscription
            && wanted.body.pointer(&format!("{place}/properties/endpointUrl")).is_some()
            && let Some(Value::Object(properties)) = current.pointer_mut(&format!("{place}/properties"))
            && let Ok(url) = management.act(&wanted.id, "getFullUrl").await
        {
            properties.insert("endpointUrl".to_owned(), url["endpointUrl"].clone());
        }
        if wanted.is_subscription
            && wanted.body.pointer(&format!("{place}/properties/{ATTRIBUTES}")).is_some()
            && let Some(Value::Object(properties)) = current.pointer_mut(&format!("{place}/properties"))
            && let Ok(attributes) = management.act(&wanted.id, "getDeliveryAttributes").await
        {
            properties.insert(ATTRIBUTES.to_owned(), attributes["value"].clone());
        }
        let at = format!("{place}/properties");
        if let (Some(Value::Object(wanted)), Some(Value::Object(current))) =
            (wanted.body.pointer(&at), current.pointer_mut(&at))
        {
            certificates::recognise(wanted, current);
        }
    }
    current
}

const ATTRIBUTES: &str = "deliveryAttributeMappings";

/// Members that a GET does not show whole: that two answers look alike does not say that nothing changed.
const SECRETS: [&str; 2] = ["endpointUrl", ATTRIBUTES];

/// Where an event subscription of either tier keeps its webhook.
const DESTINATIONS: [&str; 2] =
    ["/properties/destination", "/properties/deliveryConfiguration/push/destination"];

/// Members that only the server writes, at any depth.
const READ_ONLY: &[&str] = &[
    "provisioningState",
    "endpoint",
    "endpointBaseUrl",
    "hostname",
    "metricResourceId",
    "privateEndpointConnections",
    "topic",
    "validationState",
    "expectedTxtRecordName",
    "expectedTxtRecordValue",
];

/// What the server fills in where a resource says nothing.
const DEFAULTS: &[(&str, &str)] = &[
    ("inputSchema", r#""EventGridSchema""#),
    ("inputSchema", r#""CloudEventSchemaV1_0""#),
    ("eventDeliverySchema", r#""EventGridSchema""#),
    ("eventDeliverySchema", r#""CloudEventSchemaV1_0""#),
    ("publisherType", r#""Custom""#),
    ("publicNetworkAccess", r#""Enabled""#),
    ("autoCreateTopicWithFirstSubscription", "true"),
    ("autoDeleteTopicWithLastSubscription", "true"),
    ("disableLocalAuth", "false"),
    ("minimumTlsVersionAllowed", r#""1.2""#),
    ("isZoneRedundant", "false"),
    ("isZoneRedundant", "true"),
    ("dataResidencyBoundary", r#""WithinGeopair""#),
    ("eventRetentionInDays", "1"),
    ("eventRetentionInDays", "7"),
    ("maxEventsPerBatch", "1"),
    ("preferredBatchSizeInKilobytes", "64"),
    ("maxDeliveryAttempts", "30"),
    ("eventTimeToLiveInMinutes", "1440"),
    ("receiveLockDurationInSeconds", "60"),
    ("maxDeliveryCount", "10"),
    ("eventTimeToLive", r#""P1D""#),
    ("eventTimeToLive", r#""P7D""#),
    ("isSubjectCaseSensitive", "false"),
    ("enableAdvancedFilteringOnArrays", "false"),
    ("subjectBeginsWith", r#""""#),
    ("subjectEndsWith", r#""""#),
    ("name", r#""Standard""#),
    ("capacity", "1"),
    ("state", r#""Disabled""#),
    ("maximumSessionExpiryInHours", "1"),
    ("maximumClientSessionsPerAuthenticationName", "1"),
];

/// The paths at which a resource is not what it should be.
///
/// What the file says must be there. What the file does not say must be empty or the server's default: a
/// filter that was removed from the file is removed from the subscription.
fn differences(wanted: &Value, current: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    for part in ["properties", "tags", "sku"] {
        let nothing = Value::Null;
        let (wanted, current) = (wanted.get(part).unwrap_or(&nothing), current.get(part).unwrap_or(&nothing));
        // Tags and sku that the file does not name are left alone.
        if part == "properties" || !wanted.is_null() {
            compare(part, part, wanted, current, &mut paths);
        }
    }
    paths
}

fn compare(path: &str, name: &str, wanted: &Value, current: &Value, paths: &mut Vec<String>) {
    match (wanted, current) {
        (Value::Object(wanted_members), Value::Object(members)) => {
            for (name, wanted) in wanted_members {
                let current = members.get(name).unwrap_or(&Value::Null);
                compare(&format!("{path}.{name}"), name, wanted, current, paths);
            }
            for (name, current) in members.iter().filter(|(name, _)| !wanted_members.contains_key(*name)) {
                compare(&format!("{path}.{name}"), name, &Value::Null, current, paths);
            }
        }
        (Value::Null, Value::Object(members)) => {
            for (name, current) in members {
                compare(&format!("{path}.{name}"), name, &Value::Null, current, paths);
            }
        }
        _ if same(wanted, current) => {}
        (Value::Null, current) if is_servers_own(name, current) => {}
        _ => paths.push(path.strip_prefix("properties.").unwrap_or(path).to_owned()),
    }
}

fn same(wanted: &Value, current: &Value) -> bool {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    match (wanted, current) {
        _ if empty(wanted) && empty(current) => true,
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            let item = |(wanted, current): (&Value, &Value)| {
                let mut paths = Vec::new();
                compare("", "", wanted, current, &mut paths);
                paths.is_empty()
            };
            one.len() == other.len() && one.iter().zip(other).all(item)
        }
        _ => wanted == current,
    }
}

fn is_servers_own(name: &str, current: &Value) -> bool {
    let written = current.to_string();
    READ_ONLY.contains(&name) || DEFAULTS.contains(&(name, written.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [[topics]]
        name = "orders"
        properties.inputSchema = "CloudEventSchemaV1_0"

        [[topics.eventSubscriptions]]
        name = "billing"
        properties.destination.endpointType = "WebHook"
        properties.destination.properties.endpointUrl = "https://billing.example/hook"

        [[domains]]
        name = "malls"

        [[domains.eventSubscriptions]]
        name = "audit"
        properties.destination.endpointType = "WebHook"
        properties.destination.properties.endpointUrl = "https://audit.example/hook"

        [[domains.topics]]
        name = "north"

        [[domains.topics.eventSubscriptions]]
        name = "billing"
        properties.destination.endpointType = "WebHook"
        properties.destination.properties.endpointUrl = "https://north.example/hook"

        [[namespaces]]
        name = "shop"

        [[namespaces.topics]]
        name = "jobs"

        [[namespaces.topics.eventSubscriptions]]
        name = "workers"
        properties.deliveryConfiguration.deliveryMode = "Queue"
    "#;

    #[test]
    fn a_file_lists_parents_before_children() {
        let wanted = parse(FILE, "toml", &Scope::default()).unwrap();
        let labels: Vec<_> = wanted.iter().map(|wanted| wanted.label.as_str()).collect();
        let expect = [
            "topic orders",
            "subscription orders/billing",
            "domain malls",
            "subscription domain:malls/audit",
            "topic domain:malls/north",
            "subscription domain:malls/north/billing",
            "namespace shop",
            "topic shop/jobs",
            "subscription shop/jobs/workers",
        ];
        assert_eq!(labels, expect);
        assert_eq!(wanted[0].body["location"], "local");
    }

    #[test]
    fn json_and_toml_mean_the_same() {
        let value: Value = toml::from_str(FILE).unwrap();
        let json = parse(&value.to_string(), "json", &Scope::default()).unwrap();
        assert_eq!(json, parse(FILE, "toml", &Scope::default()).unwrap());
    }

    #[test]
    fn mistakes_in_a_file_are_refused() {
        let check = |text: &str, part: &str| {
            let error = format!("{:#}", parse(text, "json", &Scope::default()).unwrap_err());
            assert!(error.contains(part), "{error}");
        };
        check(r#"{"topcs":[]}"#, "topcs");
        check(r#"{"topics":[{"name":"a b"}]}"#, "a b");
        check(r#"{"topics":[{"name":"orders"},{"name":"Orders"}]}"#, "twice");
        assert!(parse("", "yaml", &Scope::default()).is_err());
    }

    #[expect(clippy::needless_pass_by_value, reason = "the callers' tables read better")]
    fn check(wanted: Value, current: Value, expect: &[&str]) {
        let (wanted, current) = (json!({ "properties": wanted }), json!({ "properties": current }));
        assert_eq!(differences(&wanted, &current), expect);
    }

    #[test]
    fn what_the_server_adds_is_no_difference() {
        check(
            json!({ "inputSchema": "CloudEventSchemaV1_0" }),
            json!({ "inputSchema": "CloudEventSchemaV1_0", "provisioningState": "Succeeded",
                    "publicNetworkAccess": "Enabled", "inboundIpRules": [],
                    "retryPolicy": { "maxDeliveryAttempts": 30, "eventTimeToLiveInMinutes": 1440 } }),
            &[],
        );
    }

    #[test]
    fn a_changed_value_is_a_difference() {
        check(
            json!({ "retryPolicy": { "maxDeliveryAttempts": 5 } }),
            json!({ "retryPolicy": { "maxDeliveryAttempts": 30, "eventTimeToLiveInMinutes": 1440 } }),
            &["retryPolicy.maxDeliveryAttempts"],
        );
        check(json!({ "labels": ["a"] }), json!({ "labels": ["a", "b"] }), &["labels"]);
    }

    #[test]
    fn what_was_removed_from_the_file_is_a_difference() {
        check(
            json!({ "filter": {} }),
            json!({ "filter": { "subjectBeginsWith": "/eu/", "isSubjectCaseSensitive": false } }),
            &["filter.subjectBeginsWith"],
        );
        check(
            json!({}),
            json!({ "filter": { "includedEventTypes": ["a"] } }),
            &["filter.includedEventTypes"],
        );
    }

    #[test]
    fn filters_that_the_server_completes_are_the_same_filters() {
        check(
            json!({ "filters": [{ "operatorType": "StringIn", "key": "a", "values": ["x"] }] }),
            json!({ "filters": [{ "operatorType": "StringIn", "key": "a", "values": ["x"], "value": null }] }),
            &[],
        );
    }
}
