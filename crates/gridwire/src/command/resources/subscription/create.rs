//! What `gridwire subscription create` is given, and the subscription that it makes of it.

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::filter::filter;
use crate::arm::{Scope, Subscription, Topic};
use crate::command::resources::{Done, topic_resource};
use crate::target::Target;

#[derive(Clone, Debug, Args)]
pub(crate) struct CreateArgs {
    /// `orders/billing`, `shop/jobs/workers` in a namespace, `domain:malls/audit` or
    /// `domain:malls/north/billing` in a domain
    pub(super) subscription: String,
    /// Push events to this URL; without it, a subscription in a namespace is for receiving (pull)
    #[arg(long, value_name = "URL")]
    pub(super) webhook: Option<String>,
    /// Forward events into this topic of a namespace, such as `shop/jobs`, or one with this resource id, as
    /// `CloudEvents`: not in a namespace
    #[arg(long, value_name = "TOPIC", conflicts_with_all = ["webhook", "schema"])]
    pub(super) forward: Option<String>,
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
pub(crate) enum DeliverySchema {
    CloudEvents,
    EventGrid,
    /// As published, for topics with a custom schema
    Custom,
}

pub(super) async fn create_subscription(
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
