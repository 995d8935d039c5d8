//! `gridwire namespace`.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Done, delete, endpoints, keys, list, show, tell, text};
use crate::arm;
use crate::output::Output;
use crate::target::TargetArgs;

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

/// The base address that SDKs take for a namespace.
fn namespace_endpoint(resource: &Value, path: &str) -> String {
    let hostname = text(resource, "/properties/topicsConfiguration/hostname");
    if hostname.is_empty() { String::new() } else { format!("https://{hostname}{path}") }
}
