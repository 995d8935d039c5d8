//! What to tell somebody who named what is not there: which name is missing, and the line that makes it.

use crate::arm::{Subscription, Topic, namespace_id};
use crate::target::Target;

/// `error`, or why it had to come to it: a missing name explains a failure better than its status.
pub(crate) fn explain(error: anyhow::Error, missing: Option<String>) -> anyhow::Error {
    match missing {
        Some(missing) => anyhow::anyhow!(missing),
        None => error,
    }
}

/// What is missing of a topic's path; `None` when it is all there, or cannot be asked for.
pub(crate) async fn missing_topic(topic: &Topic, target: &Target) -> Option<String> {
    let flags = &target.flags;
    if let Topic::Domain { domain } | Topic::InDomain { domain, .. } = topic {
        // A topic of a domain that is not there takes events and subscriptions all the same.
        if exists(&topic.key_holder(&target.scope), target).await? {
            return None;
        }
        return Some(format!(
            "there is no domain `{domain}`; create it with `gridwire domain create {domain}{flags}`"
        ));
    }
    if exists(&topic.id(&target.scope), target).await? {
        return None;
    }
    if let Topic::Custom { topic } = topic
        && exists(&Topic::Domain { domain: topic.clone() }.id(&target.scope), target).await?
    {
        return Some(format!("`{topic}` is a domain: say so, as in `domain:{topic}`"));
    }
    if let Topic::Custom { topic } = topic
        && exists(&namespace_id(&target.scope, topic), target).await?
    {
        return Some(format!("`{topic}` is a namespace: name one of its topics, such as `{topic}/jobs`"));
    }
    if let Some(missing) = missing_namespace(topic, target).await {
        return Some(missing);
    }
    Some(format!("there is no topic `{topic}`; create it with `gridwire topic create {topic}{flags}`"))
}

/// What is to be said of a topic's namespace when that is missing; `None` for custom topics.
pub(crate) async fn missing_namespace(topic: &Topic, target: &Target) -> Option<String> {
    let Topic::Namespace { namespace, .. } = topic else { return None };
    if exists(&namespace_id(&target.scope, namespace), target).await? {
        return None;
    }
    let custom = Topic::Custom { topic: namespace.clone() };
    if exists(&custom.id(&target.scope), target).await? {
        return Some(format!("`{namespace}` is a custom topic, not a namespace"));
    }
    let flags = &target.flags;
    Some(format!(
        "there is no namespace `{namespace}`; create it with `gridwire namespace create {namespace}{flags}`"
    ))
}

/// What is missing of an event subscription's path.
pub(crate) async fn missing_subscription(subscription: &Subscription, target: &Target) -> Option<String> {
    if exists(&subscription.id(&target.scope), target).await? {
        return None;
    }
    let Subscription { topic, name } = subscription;
    // `shop/jobs` reads like the subscription `jobs` of a custom topic `shop`.
    if let Topic::Custom { topic: first } = topic
        && exists(&namespace_id(&target.scope, first), target).await?
        && !exists(&topic.id(&target.scope), target).await?
    {
        return Some(format!(
            "`{first}` is a namespace: name topic and event subscription, such as `{first}/{name}/workers`"
        ));
    }
    if let Some(missing) = missing_topic(topic, target).await {
        return Some(missing);
    }
    // Only a namespace's topic can be received from; others have to be told where to push.
    let to = if topic.is_namespace() { "" } else { " --webhook URL" };
    Some(format!(
        "there is no event subscription `{subscription}`; create it with `gridwire subscription create \
         {subscription}{to}{}`",
        target.flags
    ))
}

async fn exists(id: &str, target: &Target) -> Option<bool> {
    target.management.get(id).await.ok().map(|found| found.is_some())
}
