//! `gridwire subscription`: event subscriptions, and what the operator decides of their deliveries.

mod create;
mod filter;
mod signing;
mod throttle;

use anyhow::Context;
use clap::Subcommand;
use serde_json::Value;

use super::{delete, explained, list, show, tell, text};
use crate::arm::{Scope, Subscription, Topic};
use crate::command::{endpoint, hint};
use crate::output::Output;
use crate::short_name::short_name;
use crate::target::TargetArgs;

use create::{CreateArgs, create_subscription};
use signing::{SigningCommand, signing};

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
Requests that are being sent end, of which there are 32 at most; nothing else is sent. Events wait, retries too, and
their time to live goes on. A pause outlives restarts and PUTs of the subscription. While it lasts, `gridwire
subscription endpoint` shows the rule `paused`.")]
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
                format!("gridwire publish {} '{{\"hello\": \"world\"}}'", takes_data(&subscription.topic))
            } else {
                format!("gridwire receive {subscription} --ack")
            };
            let waits = awaits(&resource, &args.subscription, &target.flags).filter(|_| !output.is_json());
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
                    endpoint_of(entry, scope),
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
            let shown = endpoint::run(&parsed.id(scope), subscription, &target, output).await;
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
                output.line(awaits(&resource, subscription, &target.flags).unwrap_or(consented))?;
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

/// A topic that data alone can be published to: events of a whole domain have to name one of its topics.
fn takes_data(topic: &Topic) -> String {
    match topic {
        Topic::Domain { .. } => format!("{topic}/TOPIC"),
        Topic::Custom { .. } | Topic::InDomain { .. } | Topic::Namespace { .. } => topic.to_string(),
    }
}

fn endpoint_of(subscription: &Value, scope: &Scope) -> String {
    let forward = text(subscription, "/properties/destination/properties/resourceId");
    if !forward.is_empty() {
        return short_name(&forward, scope);
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

/// What is to be said of a subscription whose endpoint has not consented yet.
fn awaits(resource: &Value, name: &str, flags: &str) -> Option<String> {
    (text(resource, "/properties/provisioningState") == "AwaitingManualAction").then(|| {
        format!(
            "the endpoint answered neither yes nor no, and nothing is delivered to it yet: whoever runs it has to \
             open the validation URL that it was sent, within ten minutes\n\
             a new one: gridwire subscription revalidate {name}{flags}"
        )
    })
}
