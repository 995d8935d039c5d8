//! `gridwire topic`: custom topics, and topics of namespaces.

use anyhow::{Context, ensure};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{Done, InputSchema, change, delete, endpoints, explained, keys, list, show, tell, text};
use crate::arm::{self, Topic};
use crate::command::hint;
use crate::output::Output;
use crate::target::{Target, TargetArgs};

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
