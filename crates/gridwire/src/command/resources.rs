//! `gridwire topic`, `domain`, `namespace` and `subscription`: the resources, one at a time.

mod domain;
mod signing;
mod throttle;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::hint;
use crate::arm::{self, Scope, Subscription, Topic};
use crate::output::Output;
use crate::target::{Target, TargetArgs};

pub(crate) use domain::{DomainCommand, domain};
use signing::{SigningCommand, signing};

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Create a topic, or change what is named of one that is there
    #[command(after_help = "\
Examples:
  gridwire topic create orders --schema cloud-events     a custom topic: pushes to webhooks
  gridwire topic create shop/jobs                        a topic of the namespace `shop`: pull or push")]
    Create {
        /// `orders`, or `shop/jobs` in a namespace
        topic: String,
        /// What its events look like; topics of a namespace take `CloudEvents` only
        /// [default: cloud-events]
        #[arg(long, value_enum)]
        schema: Option<InputSchema>,
        /// Days that undelivered events are kept; topics of a namespace only
        #[arg(long, value_name = "DAYS")]
        retention: Option<u32>,
    },
    /// List custom topics, or with a name the topics of that namespace
    List {
        /// Such as `shop`; without it, custom topics are listed
        namespace: Option<String>,
    },
    /// Show a topic as the management API does
    Show {
        /// `orders`, or `shop/jobs` in a namespace
        topic: String,
    },
    /// Show the topic's own access keys
    Keys {
        /// `orders`, or `shop/jobs` in a namespace
        topic: String,
    },
    /// Delete a topic with its event subscriptions and their undelivered events
    Delete {
        /// `orders`, or `shop/jobs` in a namespace
        topic: String,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum NamespaceCommand {
    /// Create a namespace; one that is there stays as it is
    #[command(after_help = "Example:\n  gridwire namespace create shop && gridwire topic create shop/jobs")]
    Create {
        /// Its name: 3 to 50 letters, digits and hyphens, such as `shop`
        namespace: String,
    },
    /// List namespaces
    List,
    /// Show a namespace as the management API does
    Show {
        /// Such as `shop`
        namespace: String,
    },
    /// Show the access keys to publish and receive with
    Keys {
        /// Such as `shop`
        namespace: String,
    },
    /// Delete a namespace with its topics and all that is in them
    Delete {
        /// Such as `shop`
        namespace: String,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum SubscriptionCommand {
    /// Create an event subscription, or replace it: it gets exactly these settings
    #[command(after_help = "\
Examples:
  gridwire subscription create orders/billing --webhook https://billing.example.com/hook
  gridwire subscription create orders/europe --webhook https://eu.example.com/hook --type order.paid \\
      --filter 'data.amount NumberGreaterThan 100' --filter 'subject StringBeginsWith /eu/,/uk/'
  gridwire subscription create shop/jobs/workers --lock 120        to receive from (pull)
  gridwire subscription create domain:malls/north/billing --webhook https://billing.example.com/hook
  gridwire subscription create orders/onward --forward shop/jobs    into a topic of a namespace

  gridwire subscription create shop/jobs/audits --dead-letter-account letters --dead-letter-container audits
                                                                     to find in deadletter/letters/audits

Names are 3 to 64 characters long, 3 to 50 in a namespace.

A filter is KEY OPERATOR VALUE,VALUE...: StringIn, StringNotIn, StringContains, StringNotContains,
StringBeginsWith, StringNotBeginsWith, StringEndsWith, StringNotEndsWith, NumberIn, NumberNotIn,
NumberLessThan, NumberGreaterThan, NumberLessThanOrEquals, NumberGreaterThanOrEquals, NumberInRange,
NumberNotInRange, BoolEquals, IsNullOrUndefined, IsNotNull")]
    Create(CreateArgs),
    /// List the event subscriptions of a topic, domain or domain topic
    List {
        /// `orders`, `shop/jobs` in a namespace, `domain:malls` or `domain:malls/north`
        topic: String,
    },
    /// Show an event subscription as the management API does
    Show {
        /// `orders/billing`, `shop/jobs/workers` in a namespace, or `domain:malls/north/billing`
        subscription: String,
    },
    /// Show how the endpoint of a push subscription is treated, and by which rule
    Endpoint {
        /// `orders/billing`, `shop/jobs/workers` in a namespace, or `domain:malls/north/billing`
        subscription: String,
    },
    /// Ask the endpoint for its consent again, such as when it failed to give it in time
    #[command(after_help = "\
An endpoint that answers neither yes nor no is sent a validation URL; nothing is delivered to it until that is
opened, within ten minutes. This sends it a new one. A rate that it allows is asked for anew as well.")]
    Revalidate {
        /// `orders/billing`, `shop/jobs/push` in a namespace, or `domain:malls/north/billing`
        subscription: String,
    },
    /// Start no delivery to the endpoint any more, until it is resumed
    #[command(after_help = "\
Attempts in flight end, of which there are 64 at most; events wait, retries too, and their time to live goes on. A pause outlives restarts and PUTs of
the subscription. While it lasts, `gridwire subscription endpoint` shows the rule `paused`.")]
    Pause {
        /// `orders/billing`, `shop/jobs/push` in a namespace, or `domain:malls/north/billing`
        subscription: String,
    },
    /// End a pause: everything whose time has come is delivered
    Resume {
        /// `orders/billing`, `shop/jobs/push` in a namespace, or `domain:malls/north/billing`
        subscription: String,
    },
    /// Cap the requests to the endpoint
    #[command(after_help = "\
Examples:
  gridwire subscription rate orders/billing --per-second 20
  gridwire subscription rate orders/billing --per-second none

Requests are counted, not events: with batching each carries several. They are spaced evenly. A rate that the endpoint
allowed when it consented goes on to hold; the lower of the two is kept to. A cap outlives restarts and PUTs of the
subscription.")]
    Rate {
        /// `orders/billing`, `shop/jobs/push` in a namespace, or `domain:malls/north/billing`
        subscription: String,
        /// A whole number up to 100000, or `none` to lift the cap
        #[arg(long, value_name = "N", value_parser = throttle::parse_rate)]
        per_second: throttle::Rate,
    },
    /// List, rotate and remove the keys that deliveries are signed with (Standard Webhooks)
    #[command(subcommand)]
    Signing(SigningCommand),
    /// Delete an event subscription and its undelivered events
    Delete {
        /// `orders/billing`, `shop/jobs/workers` in a namespace, or `domain:malls/north/billing`
        subscription: String,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CreateArgs {
    /// `orders/billing`, `shop/jobs/workers` in a namespace, `domain:malls/audit` or
    /// `domain:malls/north/billing` in a domain
    subscription: String,
    /// Push events to this URL; without it, a subscription in a namespace is for receiving (pull)
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// Forward events into this topic of a namespace, such as `shop/jobs`, or one with this resource id, as
    /// `CloudEvents`: not in a namespace
    #[arg(long, value_name = "TOPIC", conflicts_with_all = ["webhook", "schema"])]
    forward: Option<String>,
    /// What is pushed: not in a namespace [default: the topic's schema]
    #[arg(long, value_enum)]
    schema: Option<DeliverySchema>,
    /// Only events of this type; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only events whose subject begins with this: not in a namespace
    #[arg(long, value_name = "TEXT")]
    subject_begins_with: Option<String>,
    /// Only events whose subject ends with this: not in a namespace
    #[arg(long, value_name = "TEXT")]
    subject_ends_with: Option<String>,
    /// Only events that pass: KEY OPERATOR VALUE,VALUE...; may be repeated, and all must pass
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Seconds that received events stay locked, 60 to 300: pull only
    #[arg(long, value_name = "SECONDS")]
    lock: Option<u32>,
    /// Deliveries of one event before it is given up
    #[arg(long, value_name = "COUNT")]
    max_deliveries: Option<u32>,
    /// Minutes until an undelivered event is given up
    #[arg(long, value_name = "MINUTES")]
    time_to_live: Option<u32>,
    /// Keep events that were given up: a storage account's name or resource id. One that `serve` is not
    /// configured for is the directory deadletter/ACCOUNT/CONTAINER of its data directory
    #[arg(long, value_name = "ACCOUNT", requires = "dead_letter_container")]
    dead_letter_account: Option<String>,
    /// Container for events that were given up
    #[arg(long, value_name = "NAME", requires = "dead_letter_account")]
    dead_letter_container: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputSchema {
    /// `CloudEvents` 1.0
    CloudEvents,
    /// The Event Grid event schema
    EventGrid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeliverySchema {
    CloudEvents,
    EventGrid,
    /// As published, for topics with a custom schema
    Custom,
}

impl InputSchema {
    /// As the management API writes it.
    fn arm(self) -> &'static str {
        match self {
            Self::CloudEvents => "CloudEventSchemaV1_0",
            Self::EventGrid => "EventGridSchema",
        }
    }
}

pub(crate) async fn topic(command: &TopicCommand, target: &TargetArgs, output: Output) -> anyhow::Result<()> {
    let target = target.find()?;
    let (management, scope) = (&target.management, &target.scope);
    match command {
        TopicCommand::Create { topic, schema, retention } => {
            let topic = Topic::parse(topic)?;
            let existing = management.get(&topic.id(scope)).await?;
            let (done, resource) = create_topic(&topic, existing, *schema, *retention, &target).await?;
            let next = if topic.is_namespace() {
                format!("gridwire subscription create {topic}/NAME")
            } else {
                format!("gridwire subscription create {topic}/NAME --webhook URL")
            };
            let endpoints = match &topic {
                Topic::Custom { .. } => endpoints(
                    text(&resource, "/properties/endpoint"),
                    topic.publish_path(scope).split('?').next().unwrap_or_default(),
                    &target,
                ),
                // Those of a domain are refused above.
                Topic::Namespace { .. } | Topic::Domain { .. } | Topic::InDomain { .. } => Vec::new(),
            };
            tell(done, &resource, &format!("topic {topic}"), &endpoints, &next, &target, output)
        }
        TopicCommand::List { namespace: None } => {
            let topics = management.list(&arm::list_in_group(scope, "topics")).await?;
            let row = |topic: &Value| {
                vec![
                    text(topic, "/name"),
                    text(topic, "/properties/inputSchema"),
                    text(topic, "/properties/endpoint"),
                ]
            };
            list(&topics, &["name", "schema", "endpoint"], row, output)
        }
        TopicCommand::List { namespace: Some(namespace) } => {
            let id = arm::namespace_id(scope, &arm::name(namespace)?);
            let topics = management.list(&format!("{id}/topics")).await?;
            let row = |topic: &Value| {
                vec![
                    format!("{namespace}/{}", text(topic, "/name")),
                    text(topic, "/properties/eventRetentionInDays"),
                ]
            };
            list(&topics, &["name", "retention days"], row, output)
        }
        TopicCommand::Show { topic } => {
            let parsed = Topic::parse(topic)?;
            let shown = show(&parsed.id(scope), topic, &target, output).await;
            explained(shown, hint::missing_topic(&parsed, &target)).await
        }
        TopicCommand::Keys { topic } => {
            let parsed = Topic::parse(topic)?;
            let shown = keys(&parsed.id(scope), &target, output).await;
            explained(shown, hint::missing_topic(&parsed, &target)).await
        }
        TopicCommand::Delete { topic } => {
            delete(&Topic::parse(topic)?.id(scope), topic, &target, output).await
        }
    }
}

pub(crate) async fn namespace(
    command: &NamespaceCommand,
    target: &TargetArgs,
    output: Output,
) -> anyhow::Result<()> {
    let target = target.find()?;
    let scope = &target.scope;
    let id = |name: &str| anyhow::Ok(arm::namespace_id(scope, &arm::name(name)?));
    match command {
        NamespaceCommand::Create { namespace } => {
            let id = id(namespace)?;
            let (done, resource) = if let Some(existing) = target.management.get(&id).await? {
                (Done::Nothing, existing)
            } else {
                let body = json!({ "location": "local", "properties": {} });
                (Done::Created, target.management.put(&id, &body).await?)
            };
            let path = arm::namespace_path(scope, namespace);
            let endpoints = endpoints(namespace_endpoint(&resource, &path), &path, &target);
            let next = format!("gridwire topic create {namespace}/TOPIC");
            tell(done, &resource, &format!("namespace {namespace}"), &endpoints, &next, &target, output)
        }
        NamespaceCommand::List => {
            let namespaces = target.management.list(&arm::list_in_group(scope, "namespaces")).await?;
            let row = |entry: &Value| {
                let name = text(entry, "/name");
                let endpoint = namespace_endpoint(entry, &arm::namespace_path(scope, &name));
                vec![name, endpoint]
            };
            list(&namespaces, &["name", "endpoint"], row, output)
        }
        NamespaceCommand::Show { namespace } => show(&id(namespace)?, namespace, &target, output).await,
        NamespaceCommand::Keys { namespace } => keys(&id(namespace)?, &target, output).await,
        NamespaceCommand::Delete { namespace } => delete(&id(namespace)?, namespace, &target, output).await,
    }
}

pub(crate) async fn subscription(
    command: &SubscriptionCommand,
    target: &TargetArgs,
    output: Output,
) -> anyhow::Result<()> {
    let target = target.find()?;
    let scope = &target.scope;
    match command {
        SubscriptionCommand::Create(args) => {
            let subscription = Subscription::parse(&args.subscription)?;
            let made = create_subscription(args, &subscription, &target).await;
            let missing = async {
                // Without its topic it can't be made; that it is not there itself is no reason.
                hint::missing_topic(&subscription.topic, &target).await
            };
            let (done, resource) = explained(made, missing).await?;
            let next = if args.webhook.is_some() || args.forward.is_some() {
                format!("gridwire publish {} '{{\"hello\": \"world\"}}'", subscription.topic)
            } else {
                format!("gridwire receive {subscription} --ack")
            };
            let waits = awaits(&resource, &args.subscription).filter(|_| !output.is_json());
            tell(done, &resource, &format!("subscription {subscription}"), &[], &next, &target, output)?;
            if let Some(notice) = waits {
                output.line(format_args!("{notice}"))?;
            }
            Ok(())
        }
        SubscriptionCommand::List { topic } => {
            let id = Topic::parse(topic)?.id(scope);
            let all = target.management.list(&format!("{id}/eventSubscriptions")).await?;
            let row = |entry: &Value| {
                let mode = text(entry, "/properties/deliveryConfiguration/deliveryMode");
                vec![
                    format!("{topic}/{}", text(entry, "/name")),
                    if mode.is_empty() { "Push".to_owned() } else { mode },
                    endpoint_of(entry),
                    text(entry, "/properties/provisioningState"),
                ]
            };
            list(&all, &["name", "mode", "endpoint", "state"], row, output)
        }
        SubscriptionCommand::Show { subscription } => {
            let parsed = Subscription::parse(subscription)?;
            let shown = show(&parsed.id(scope), subscription, &target, output).await;
            explained(shown, hint::missing_subscription(&parsed, &target)).await
        }
        SubscriptionCommand::Endpoint { subscription } => {
            let parsed = Subscription::parse(subscription)?;
            let shown = super::endpoint::run(&parsed.id(scope), subscription, &target, output).await;
            explained(shown, hint::missing_subscription(&parsed, &target)).await
        }
        SubscriptionCommand::Revalidate { subscription } => {
            let parsed = Subscription::parse(subscription)?;
            let asked = target.management.revalidate(&parsed.id(scope)).await;
            let asked = asked.with_context(|| format!("failed to validate the endpoint of `{subscription}`"));
            let resource = explained(asked, hint::missing_subscription(&parsed, &target)).await?;
            if output.is_json() {
                output.json(&resource)?;
            } else {
                let consented = format!("the endpoint of {subscription} consented");
                output.line(awaits(&resource, subscription).unwrap_or(consented))?;
            }
            Ok(())
        }
        SubscriptionCommand::Pause { subscription } => {
            throttle::run(subscription, "pause", None, &target, output).await
        }
        SubscriptionCommand::Resume { subscription } => {
            throttle::run(subscription, "resume", None, &target, output).await
        }
        SubscriptionCommand::Rate { subscription, per_second } => {
            throttle::run(subscription, "limitRate", Some(*per_second), &target, output).await
        }
        SubscriptionCommand::Signing(command) => signing(command, &target, output).await,
        SubscriptionCommand::Delete { subscription } => {
            delete(&Subscription::parse(subscription)?.id(scope), subscription, &target, output).await
        }
    }
}

/// The member at a JSON pointer as text, empty when it is not there.
fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn endpoint_of(subscription: &Value) -> String {
    let forward = text(subscription, "/properties/destination/properties/resourceId");
    if !forward.is_empty() {
        return forward;
    }
    let basic = text(subscription, "/properties/destination/properties/endpointBaseUrl");
    if basic.is_empty() {
        return text(
            subscription,
            "/properties/deliveryConfiguration/push/destination/properties/endpointBaseUrl",
        );
    }
    basic
}

/// What a create did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Created,
    Changed,
    Replaced,
    Nothing,
}

/// Creates the topic, or changes of an existing one what was asked for and nothing else: a line that is
/// pasted again must not reset what somebody has set since.
async fn create_topic(
    topic: &Topic,
    existing: Option<Value>,
    schema: Option<InputSchema>,
    retention: Option<u32>,
    target: &Target,
) -> anyhow::Result<(Done, Value)> {
    let id = topic.id(&target.scope);
    let wanted = topic_body(topic, schema, retention)?;
    let Some(existing) = existing else {
        let created = target.management.put(&id, &wanted).await;
        let created = created.with_context(|| format!("failed to create the topic `{topic}`"));
        let missing = async {
            match topic {
                // Only its namespace can be missing.
                Topic::Namespace { .. } => hint::missing_namespace(topic, target).await,
                Topic::Custom { .. } | Topic::Domain { .. } | Topic::InDomain { .. } => None,
            }
        };
        return Ok((Done::Created, explained(created, missing).await?));
    };
    if schema.is_none() && retention.is_none() {
        return Ok((Done::Nothing, existing));
    }
    let changed = change(&id, existing, &wanted["properties"], target).await;
    changed.with_context(|| format!("failed to change the topic `{topic}`"))
}

/// Changes the `asked` properties of what is there, and no other.
async fn change(id: &str, existing: Value, asked: &Value, target: &Target) -> anyhow::Result<(Done, Value)> {
    let asked = asked.as_object().context("properties are an object")?;
    if asked.iter().all(|(name, value)| existing["properties"][name.as_str()] == *value) {
        return Ok((Done::Nothing, existing));
    }
    let mut body = existing;
    for (name, value) in asked {
        body["properties"][name.as_str()] = value.clone();
    }
    Ok((Done::Changed, target.management.put(id, &body).await?))
}

async fn create_subscription(
    args: &CreateArgs,
    subscription: &Subscription,
    target: &Target,
) -> anyhow::Result<(Done, Value)> {
    let id = subscription.id(&target.scope);
    let schema = delivery_schema(args, subscription, target).await?;
    let body = subscription_body(args, subscription, schema, &target.scope)?;
    let was_there = target.management.get(&id).await?.is_some();
    let resource = target.management.put(&id, &body).await;
    let resource = resource.with_context(|| format!("failed to create the subscription `{subscription}`"))?;
    Ok((if was_there { Done::Replaced } else { Done::Created }, resource))
}

/// What is to be said of a subscription whose endpoint has not consented yet.
fn awaits(resource: &Value, name: &str) -> Option<String> {
    (text(resource, "/properties/provisioningState") == "AwaitingManualAction").then(|| {
        format!(
            "the endpoint answered neither yes nor no, and nothing is delivered to it yet: whoever runs it has to \
             open the validation URL that it was sent, within ten minutes\n\
             a new one: gridwire subscription revalidate {name}"
        )
    })
}

/// An error is explained by what is missing, which is looked for only then.
async fn explained<T>(
    result: anyhow::Result<T>,
    missing: impl Future<Output = Option<String>>,
) -> anyhow::Result<T> {
    match result {
        Ok(value) => Ok(value),
        Err(error) => Err(hint::explain(error, missing.await)),
    }
}

/// The base address that SDKs take for a namespace.
fn namespace_endpoint(resource: &Value, path: &str) -> String {
    let hostname = text(resource, "/properties/topicsConfiguration/hostname");
    if hostname.is_empty() { String::new() } else { format!("https://{hostname}{path}") }
}

/// Where a resource takes requests, each with what to call it.
fn endpoints(https: String, path: &str, target: &Target) -> Vec<(&'static str, String)> {
    let mut endpoints = Vec::new();
    if !https.is_empty() {
        endpoints.push(("endpoint", https));
    }
    if let Some(http) = &target.http {
        endpoints.push(("plain http", format!("{http}{path}")));
    }
    endpoints
}

fn tell(
    done: Done,
    resource: &Value,
    label: &str,
    endpoints: &[(&str, String)],
    next: &str,
    target: &Target,
    output: Output,
) -> anyhow::Result<()> {
    if output.is_json() {
        output.json(resource)?;
        return Ok(());
    }
    match done {
        Done::Created => output.line(format_args!("created {label}"))?,
        Done::Changed => output.line(format_args!("changed {label}"))?,
        Done::Replaced => output.line(format_args!("replaced {label}: it has exactly these settings now"))?,
        Done::Nothing => output.line(format_args!("{label} is there already; nothing was changed"))?,
    }
    for (name, value) in endpoints {
        output.line(format_args!("  {name:<10}  {value}"))?;
    }
    output.remark(format_args!("next: {next}{}", target.flags));
    Ok(())
}

fn list(
    entries: &[Value],
    headings: &[&str],
    row: impl Fn(&Value) -> Vec<String>,
    output: Output,
) -> anyhow::Result<()> {
    if output.is_json() {
        output.json(&Value::from(entries))?;
    } else if entries.is_empty() {
        output.remark("there are none yet");
    } else {
        output.table(headings, &entries.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(())
}

async fn show(id: &str, name: &str, target: &Target, output: Output) -> anyhow::Result<()> {
    let resource =
        target.management.get(id).await?.with_context(|| format!("there is no `{name}` (looked at {id})"))?;
    Ok(output.json(&resource)?)
}

async fn keys(id: &str, target: &Target, output: Output) -> anyhow::Result<()> {
    let keys = target.management.act(id, "listKeys").await?;
    if output.is_json() {
        return Ok(output.json(&keys)?);
    }
    for name in ["key1", "key2"] {
        output.line(format_args!("{name}  {}", keys[name].as_str().unwrap_or_default()))?;
    }
    Ok(())
}

async fn delete(id: &str, name: &str, target: &Target, output: Output) -> anyhow::Result<()> {
    let was_there = target.management.get(id).await?.is_some();
    target.management.delete(id).await.with_context(|| format!("failed to delete `{name}`"))?;
    if output.is_json() {
        output.json(&json!({ "id": id, "deleted": was_there }))?;
    } else {
        let done = if was_there { "deleted" } else { "was not there:" };
        output.line(format_args!("{done} {name}"))?;
    }
    Ok(())
}

/// The topic as it is created; what is not said gets its default.
fn topic_body(topic: &Topic, schema: Option<InputSchema>, retention: Option<u32>) -> anyhow::Result<Value> {
    let schema = schema.unwrap_or(InputSchema::CloudEvents);
    if topic.is_namespace() {
        ensure!(schema == InputSchema::CloudEvents, "topics of a namespace take CloudEvents only");
        let mut properties = json!({ "publisherType": "Custom", "inputSchema": "CloudEventSchemaV1_0" });
        if let Some(days) = retention {
            properties["eventRetentionInDays"] = days.into();
        }
        return Ok(json!({ "properties": properties }));
    }
    ensure!(
        matches!(topic, Topic::Custom { .. }),
        "`{topic}` belongs to a domain: use `gridwire domain create`"
    );
    ensure!(
        retention.is_none(),
        "--retention is for topics of a namespace; custom topics keep events for a day"
    );
    Ok(json!({ "location": "local", "properties": { "inputSchema": schema.arm() } }))
}

/// What a push subscription of a custom topic or domain delivers: what was asked for, or what that takes.
async fn delivery_schema(
    args: &CreateArgs,
    subscription: &Subscription,
    target: &Target,
) -> anyhow::Result<Option<&'static str>> {
    if subscription.topic.is_namespace() {
        ensure!(
            args.schema.is_none(),
            "--schema is for custom topics and domains; namespaces deliver CloudEvents"
        );
        return Ok(None);
    }
    if args.forward.is_some() {
        return Ok(Some("CloudEventSchemaV1_0"));
    }
    if let Some(schema) = args.schema {
        return Ok(Some(match schema {
            DeliverySchema::CloudEvents => "CloudEventSchemaV1_0",
            DeliverySchema::EventGrid => "EventGridSchema",
            DeliverySchema::Custom => "CustomInputSchema",
        }));
    }
    let topic = &subscription.topic;
    let resource = topic_resource(topic, target).await?;
    Ok(Some(match resource["properties"]["inputSchema"].as_str() {
        Some("CloudEventSchemaV1_0") => "CloudEventSchemaV1_0",
        Some("CustomEventSchema") => "CustomInputSchema",
        _ => "EventGridSchema",
    }))
}

/// What holds the topic's keys and says what it takes: the topic, or the domain that it is of.
pub(crate) async fn topic_resource(topic: &Topic, target: &Target) -> anyhow::Result<Value> {
    let found = target.management.get(&topic.key_holder(&target.scope)).await?;
    found.with_context(|| format!("there is no topic `{topic}`"))
}

fn subscription_body(
    args: &CreateArgs,
    subscription: &Subscription,
    schema: Option<&str>,
    scope: &Scope,
) -> anyhow::Result<Value> {
    let filters = args.filters.iter().map(|text| filter(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let dead_letter = args.dead_letter_account.as_ref().zip(args.dead_letter_container.as_ref()).map(
        |(account, container)| {
            // Nobody has a storage account on a laptop: a name is enough.
            let id = if account.contains('/') {
                account.clone()
            } else {
                let scope = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/default";
                format!("{scope}/providers/Microsoft.Storage/storageAccounts/{account}")
            };
            json!({
                "endpointType": "StorageBlob",
                "properties": { "resourceId": id, "blobContainerName": container },
            })
        },
    );
    let destination = args
        .webhook
        .as_ref()
        .map(|url| json!({ "endpointType": "WebHook", "properties": { "endpointUrl": url } }));
    let destination = match &args.forward {
        Some(topic) => Some(json!({
            "endpointType": "NamespaceTopic",
            "properties": { "resourceId": namespace_topic_id(topic, scope)? },
        })),
        None => destination,
    };
    let properties = if subscription.topic.is_namespace() {
        ensure!(
            args.forward.is_none(),
            "--forward is for custom topics and domains; a namespace's topics are its end"
        );
        namespace_properties(args, filters, dead_letter, destination)?
    } else {
        let Some(destination) = destination else {
            bail!(
                "`{subscription}` belongs to a custom topic or domain, which push: say where to with --webhook URL; \
                 to receive instead, forward to a topic in a namespace with --forward NAMESPACE/TOPIC"
            );
        };
        basic_properties(args, filters, dead_letter, &destination, schema)?
    };
    Ok(json!({ "properties": properties }))
}

/// The resource id of `shop/jobs`; one that is a resource id already stays as it is.
fn namespace_topic_id(topic: &str, scope: &Scope) -> anyhow::Result<String> {
    if topic.starts_with('/') {
        return Ok(topic.to_owned());
    }
    let topic = Topic::parse(topic)?;
    ensure!(
        topic.is_namespace(),
        "`{topic}` is no topic of a namespace; --forward takes one, such as shop/jobs"
    );
    Ok(topic.id(scope))
}

fn basic_properties(
    args: &CreateArgs,
    filters: Vec<Value>,
    dead_letter: Option<Value>,
    destination: &Value,
    schema: Option<&str>,
) -> anyhow::Result<Value> {
    ensure!(args.lock.is_none(), "--lock is for subscriptions to receive from, in a namespace");
    let mut filter = json!({});
    if !args.types.is_empty() {
        filter["includedEventTypes"] = args.types.clone().into();
    }
    for (name, value) in
        [("subjectBeginsWith", &args.subject_begins_with), ("subjectEndsWith", &args.subject_ends_with)]
    {
        if let Some(value) = value {
            filter[name] = value.clone().into();
        }
    }
    if !filters.is_empty() {
        filter["advancedFilters"] = filters.into();
    }
    let mut properties = json!({ "destination": destination, "filter": filter });
    if let Some(schema) = schema {
        properties["eventDeliverySchema"] = schema.into();
    }
    if let Some(count) = args.max_deliveries {
        properties["retryPolicy"]["maxDeliveryAttempts"] = count.into();
    }
    if let Some(minutes) = args.time_to_live {
        properties["retryPolicy"]["eventTimeToLiveInMinutes"] = minutes.into();
    }
    if let Some(dead_letter) = dead_letter {
        properties["deadLetterDestination"] = dead_letter;
    }
    Ok(properties)
}

fn namespace_properties(
    args: &CreateArgs,
    filters: Vec<Value>,
    dead_letter: Option<Value>,
    destination: Option<Value>,
) -> anyhow::Result<Value> {
    ensure!(
        args.subject_begins_with.is_none() && args.subject_ends_with.is_none(),
        "in a namespace, filter the subject with --filter 'subject StringBeginsWith TEXT'"
    );
    let mut delivery = json!({});
    if let Some(count) = args.max_deliveries {
        delivery["maxDeliveryCount"] = count.into();
    }
    if let Some(minutes) = args.time_to_live {
        delivery["eventTimeToLive"] = format!("PT{minutes}M").into();
    }
    if let Some(dead_letter) = dead_letter {
        delivery["deadLetterDestinationWithResourceIdentity"] =
            json!({ "identity": { "type": "SystemAssigned" }, "deadLetterDestination": dead_letter });
    }
    let configuration = if let Some(destination) = destination {
        ensure!(args.lock.is_none(), "--lock is for subscriptions to receive from, and --webhook pushes");
        delivery["destination"] = destination;
        json!({ "deliveryMode": "Push", "push": delivery })
    } else {
        delivery["receiveLockDurationInSeconds"] = args.lock.unwrap_or(60).into();
        json!({ "deliveryMode": "Queue", "queue": delivery })
    };
    let mut filter = json!({});
    if !args.types.is_empty() {
        filter["includedEventTypes"] = args.types.clone().into();
    }
    if !filters.is_empty() {
        filter["filters"] = filters.into();
    }
    Ok(json!({
        "deliveryConfiguration": configuration,
        "eventDeliverySchema": "CloudEventSchemaV1_0",
        "filtersConfiguration": filter,
    }))
}

/// `data.amount NumberGreaterThan 100` as the `filters` contract writes it.
fn filter(text: &str) -> anyhow::Result<Value> {
    let mut parts = text.trim().splitn(3, char::is_whitespace);
    let (Some(key), Some(operator)) = (parts.next(), parts.next()) else {
        bail!("the filter `{text}` is not KEY OPERATOR VALUE, such as 'data.amount NumberGreaterThan 100'");
    };
    let values = parts.next().map(str::trim).unwrap_or_default();
    let mut filter = json!({ "operatorType": operator, "key": key });
    if operator.starts_with("Is") {
        ensure!(values.is_empty(), "the filter `{text}` takes no value");
        return Ok(filter);
    }
    ensure!(!values.is_empty(), "the filter `{text}` has no value");
    let number = |text: &str| {
        text.trim().parse::<serde_json::Number>().with_context(|| format!("`{text}` is not a number"))
    };
    if let Some(kind) = operator.strip_prefix("Number") {
        if kind.ends_with("Range") {
            let range = |text: &str| {
                let (low, high) =
                    text.split_once("..").with_context(|| format!("`{text}` is not a range such as 1..5"))?;
                anyhow::Ok(json!([number(low)?, number(high)?]))
            };
            filter["values"] = values.split(',').map(range).collect::<anyhow::Result<Value>>()?;
        } else if kind.ends_with("In") {
            filter["values"] = values
                .split(',')
                .map(|text| Ok(number(text)?.into()))
                .collect::<anyhow::Result<Vec<Value>>>()?
                .into();
        } else {
            filter["value"] = number(values)?.into();
        }
    } else if operator.starts_with("Bool") {
        filter["value"] =
            values.parse::<bool>().with_context(|| format!("`{values}` is not true or false"))?.into();
    } else {
        filter["values"] = values.split(',').map(|text| Value::from(text.trim())).collect();
    }
    Ok(filter)
}

/// What a person would type to see this subscription's resource id used elsewhere.
pub(crate) fn subscription_id(text: &str, scope: &Scope) -> anyhow::Result<String> {
    Ok(Subscription::parse(text)?.id(scope))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: CreateArgs,
    }

    fn body(line: &str) -> anyhow::Result<Value> {
        let args = Only::parse_from(line.split(' ')).args;
        let subscription = Subscription::parse(&args.subscription)?;
        let scope = Scope { subscription_id: "s".to_owned(), resource_group: "g".to_owned() };
        let body = subscription_body(&args, &subscription, Some("CloudEventSchemaV1_0"), &scope)?;
        Ok(body["properties"].clone())
    }

    #[test]
    fn a_filter_is_a_key_an_operator_and_values() {
        let check = |text: &str, expect: Option<Value>| assert_eq!(filter(text).ok(), expect, "{text}");
        check(
            "data.a StringIn x, y",
            Some(json!({ "operatorType": "StringIn", "key": "data.a", "values": ["x", "y"] })),
        );
        check(
            "data.n NumberGreaterThan 1.5",
            Some(json!({ "operatorType": "NumberGreaterThan", "key": "data.n", "value": 1.5 })),
        );
        check(
            "data.n NumberIn 1,2",
            Some(json!({ "operatorType": "NumberIn", "key": "data.n", "values": [1, 2] })),
        );
        check(
            "data.n NumberInRange 1..5,7..9",
            Some(json!({ "operatorType": "NumberInRange", "key": "data.n", "values": [[1, 5], [7, 9]] })),
        );
        check(
            "data.b BoolEquals true",
            Some(json!({ "operatorType": "BoolEquals", "key": "data.b", "value": true })),
        );
        check("data.b IsNotNull", Some(json!({ "operatorType": "IsNotNull", "key": "data.b" })));
        check("data.b BoolEquals maybe", None);
        check("data.n NumberIn one", None);
        check("data.n", None);
        check("data.n StringIn", None);
    }

    #[test]
    fn a_custom_topic_pushes_to_a_webhook() {
        let properties =
            body("create orders/billing --webhook https://x.example/ --type a --max-deliveries 5").unwrap();
        assert_eq!(properties["destination"]["properties"]["endpointUrl"], "https://x.example/");
        assert_eq!(properties["filter"]["includedEventTypes"], json!(["a"]));
        assert_eq!(properties["retryPolicy"]["maxDeliveryAttempts"], 5);
        assert_eq!(properties["eventDeliverySchema"], "CloudEventSchemaV1_0");
        assert!(body("create orders/billing").unwrap_err().to_string().contains("--webhook"));
    }

    #[test]
    fn a_custom_topic_forwards_to_a_namespace_topic() {
        let id =
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.EventGrid/namespaces/shop/topics/jobs";
        for target in ["shop/jobs", id] {
            let properties = body(&format!("create orders/onward --forward {target}")).unwrap();
            assert_eq!(properties["destination"]["endpointType"], "NamespaceTopic");
            assert_eq!(properties["destination"]["properties"]["resourceId"], id);
        }
        assert!(body("create orders/onward --forward orders").is_err());
        assert!(body("create shop/jobs/onward --forward shop/others").is_err());
    }

    #[test]
    fn a_namespace_topic_is_pulled_from_unless_there_is_a_webhook() {
        let properties = body("create shop/jobs/workers --lock 120 --time-to-live 90").unwrap();
        let queue = json!({ "receiveLockDurationInSeconds": 120, "eventTimeToLive": "PT90M" });
        assert_eq!(properties["deliveryConfiguration"], json!({ "deliveryMode": "Queue", "queue": queue }));
        let properties = body("create shop/jobs/hook --webhook https://x.example/").unwrap();
        assert_eq!(properties["deliveryConfiguration"]["deliveryMode"], "Push");
        assert!(body("create shop/jobs/hook --webhook https://x.example/ --lock 60").is_err());
    }
}
