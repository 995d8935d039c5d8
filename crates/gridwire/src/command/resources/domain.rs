//! `gridwire domain`: domains and their topics.

use anyhow::{Context, ensure};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{Done, InputSchema, change, delete, endpoints, explained, keys, list, show, tell, text};
use crate::arm::{self, Topic};
use crate::command::hint;
use crate::output::Output;
use crate::target::{Target, TargetArgs};

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum DomainCommand {
    /// Create a domain or one of its topics, or change what is named of a domain that is there
    #[command(after_help = "\
Examples:
  gridwire domain create malls                           a domain: one endpoint and one pair of keys
  gridwire domain create malls/north                     a topic of it; its first subscription makes it too
  gridwire subscription create domain:malls/north/billing --webhook https://billing.example.com/hook
  gridwire subscription create domain:malls/audit --webhook https://audit.example.com/hook
  gridwire publish domain:malls/north '{\"id\": 7}' --type order.paid")]
    Create {
        /// `malls`, or its topic `malls/north`
        domain: String,
        /// What a domain's events look like [default: cloud-events]
        #[arg(long, value_enum)]
        schema: Option<InputSchema>,
        /// A subscription to a topic that is not there is refused, instead of making the topic
        #[arg(long)]
        no_auto_create: bool,
        /// A topic stays when its last subscription is deleted
        #[arg(long)]
        no_auto_delete: bool,
    },
    /// List domains, or with a name the topics of that domain
    List {
        /// Such as `malls`; without it, domains are listed
        domain: Option<String>,
    },
    /// Show a domain or domain topic as the management API does
    Show {
        /// `malls`, or its topic `malls/north`
        domain: String,
    },
    /// Show the access keys to publish with
    Keys {
        /// Such as `malls`
        domain: String,
    },
    /// Delete a domain or one of its topics, with their event subscriptions and undelivered events
    Delete {
        /// `malls`, or its topic `malls/north`
        domain: String,
    },
}

pub(crate) async fn domain(
    command: &DomainCommand,
    target: &TargetArgs,
    output: Output,
) -> anyhow::Result<()> {
    let target = target.find()?;
    let (management, scope) = (&target.management, &target.scope);
    match command {
        DomainCommand::Create { domain, schema, no_auto_create, no_auto_delete } => {
            let domain = arm::domain(domain)?;
            let noun = if let Topic::InDomain { .. } = domain { "topic" } else { "domain" };
            let mut asked = json!({});
            if let Some(schema) = schema {
                asked["inputSchema"] = schema.arm().into();
            }
            for (name, off) in [
                ("autoCreateTopicWithFirstSubscription", no_auto_create),
                ("autoDeleteTopicWithLastSubscription", no_auto_delete),
            ] {
                if *off {
                    asked[name] = false.into();
                }
            }
            let created = create(&domain, asked, &target).await;
            let created = created.with_context(|| format!("failed to create the {noun} `{domain}`"));
            let missing = async {
                match domain {
                    // A domain stands on nothing that could be missing.
                    Topic::InDomain { .. } => hint::missing_topic(&domain, &target).await,
                    Topic::Domain { .. } | Topic::Custom { .. } | Topic::Namespace { .. } => None,
                }
            };
            let (done, resource) = explained(created, missing).await?;
            let next = format!("gridwire subscription create {domain}/NAME --webhook URL");
            let path = domain.publish_path(scope);
            let endpoints = match &domain {
                Topic::Domain { .. } => endpoints(
                    text(&resource, "/properties/endpoint"),
                    path.split('?').next().unwrap_or_default(),
                    &target,
                ),
                Topic::InDomain { .. } | Topic::Custom { .. } | Topic::Namespace { .. } => Vec::new(),
            };
            tell(done, &resource, &format!("{noun} {domain}"), &endpoints, &next, &target, output)
        }
        DomainCommand::List { domain: None } => {
            let domains = management.list(&arm::list_in_group(scope, "domains")).await?;
            let row = |domain: &Value| {
                vec![
                    text(domain, "/name"),
                    text(domain, "/properties/inputSchema"),
                    text(domain, "/properties/endpoint"),
                ]
            };
            list(&domains, &["name", "schema", "endpoint"], row, output)
        }
        DomainCommand::List { domain: Some(name) } => {
            let domain = arm::domain(name)?;
            ensure!(matches!(domain, Topic::Domain { .. }), "`{name}` is no domain but a topic of one");
            let topics = management.list(&format!("{}/topics", domain.id(scope))).await.map_err(Into::into);
            let topics = explained(topics, hint::missing_topic(&domain, &target)).await?;
            list(&topics, &["name"], |topic| vec![format!("{domain}/{}", text(topic, "/name"))], output)
        }
        DomainCommand::Show { domain } => {
            let parsed = arm::domain(domain)?;
            let shown = show(&parsed.id(scope), domain, &target, output).await;
            explained(shown, hint::missing_topic(&parsed, &target)).await
        }
        DomainCommand::Keys { domain } => {
            let parsed = arm::domain(domain)?;
            let shown = keys(&parsed.key_holder(scope), &target, output).await;
            explained(shown, hint::missing_topic(&parsed, &target)).await
        }
        DomainCommand::Delete { domain } => {
            delete(&arm::domain(domain)?.id(scope), domain, &target, output).await
        }
    }
}

/// Creates the domain or domain topic, or changes of an existing one what was `asked` for and nothing else.
async fn create(domain: &Topic, mut asked: Value, target: &Target) -> anyhow::Result<(Done, Value)> {
    let id = domain.id(&target.scope);
    let is_topic = matches!(domain, Topic::InDomain { .. });
    ensure!(!is_topic || asked == json!({}), "a topic of a domain has no settings; the domain has them");
    if let Some(existing) = target.management.get(&id).await? {
        return change(&id, existing, &asked, target).await;
    }
    let body = if is_topic {
        json!({})
    } else {
        if asked.get("inputSchema").is_none() {
            asked["inputSchema"] = InputSchema::CloudEvents.arm().into();
        }
        json!({ "location": "local", "properties": asked })
    };
    Ok((Done::Created, target.management.put(&id, &body).await?))
}
