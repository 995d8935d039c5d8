//! Which resource and which operation a request line means.
//!
//! Custom topics: `/{subscription}/{resourceGroup}/topics/{name}/api/events`, or `/api/events` with the topic
//! as the first label of the host. Domains: the same with `domains`. Namespaces: an optional `/{subscription}/{resourceGroup}/namespaces/{name}`
//! (or the host's first label), then `/topics/{t}:publish` or
//! `/topics/{t}/eventsubscriptions/{s}:{operation}`. Fixed words match in any case.

use std::borrow::Cow;
use std::sync::Arc;

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::routing::{NamespaceRoute, Place, RoutingTable, TopicRoute};
use http::header::HOST;
use http::request::Parts;
use percent_encoding::percent_decode_str;

use super::dead_letters;

/// A resource as a request names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// By its path: exactly one.
    Place(Place),
    /// By host name: the only one of this name.
    Name(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Acknowledge,
    Release,
    Reject,
    RenewLock,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Publish,
    Receive { subscription: String },
    Settle { subscription: String, verb: Verb },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Topic(Named),
    Domain(Place),
    Namespace {
        place: Option<Named>,
        topic: String,
        operation: Operation,
    },
    /// What a subscription does, by its number or resource id.
    Inspect {
        subscription: String,
        what: Inspected,
    },
    /// The counters of every subscription.
    Counters,
    /// What every topic has taken.
    TopicCounters,
    DeadLetters(dead_letters::Operation),
}

/// What can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inspected {
    /// Its latest deliveries.
    Deliveries,
    /// How its endpoint is treated.
    Endpoint,
    /// What became of its events, in numbers.
    Counters,
    /// Whether those are in balance with the log.
    Audit,
}

impl Inspected {
    fn parse(segment: &str) -> Option<Self> {
        let all = [
            ("deliveries", Self::Deliveries),
            ("endpoint", Self::Endpoint),
            ("counters", Self::Counters),
            ("audit", Self::Audit),
        ];
        all.into_iter().find_map(|(name, what)| segment.eq_ignore_ascii_case(name).then_some(what))
    }
}

fn not_found(parts: &Parts) -> ApiError {
    let path = parts.uri.path();
    ApiError::new(ErrorCode::NotFound, format!("There is nothing at {} {}.", parts.method, shown(path)))
}

/// A path for a message: bounded.
fn shown(path: &str) -> String {
    path.chars().take(200).collect()
}

pub(super) fn parse(parts: &Parts, base_domain: Option<&str>) -> Result<Target, ApiError> {
    let mut segments = Vec::with_capacity(8);
    for segment in parts.uri.path().split('/').skip(1) {
        let decoded = percent_decode_str(segment).decode_utf8().map_err(|_| not_found(parts))?;
        segments.push(decoded);
    }
    let segments: Vec<&str> = segments.iter().map(Cow::as_ref).collect();
    let is = |segment: &str, word: &str| segment.eq_ignore_ascii_case(word);
    match segments.as_slice() {
        [api, events] if is(api, "api") && is(events, "events") => {
            let name = host_label(parts, base_domain).ok_or_else(|| {
                ApiError::new(
                    ErrorCode::NotFound,
                    "The request does not say which topic it is for. Use the topic's endpoint, \
                     /{subscription}/{resourceGroup}/topics/{name}/api/events.",
                )
            })?;
            Ok(Target::Topic(Named::Name(name)))
        }
        [subscription, group, topics, name, api, events]
            if is(topics, "topics") && is(api, "api") && is(events, "events") =>
        {
            Ok(Target::Topic(Named::Place(Place::new(subscription, group, name))))
        }
        [subscription, group, domains, name, api, events]
            if is(domains, "domains") && is(api, "api") && is(events, "events") =>
        {
            Ok(Target::Domain(Place::new(subscription, group, name)))
        }
        [gridwire, v1, subscriptions, id @ .., what]
            if is(gridwire, "gridwire")
                && is(v1, "v1")
                && is(subscriptions, "subscriptions")
                && let Some(what) = Inspected::parse(what)
                && !id.is_empty() =>
        {
            Ok(Target::Inspect { subscription: id.join("/"), what })
        }
        [gridwire, v1, subscriptions]
            if is(gridwire, "gridwire") && is(v1, "v1") && is(subscriptions, "subscriptions") =>
        {
            Ok(Target::Counters)
        }
        [gridwire, v1, topics] if is(gridwire, "gridwire") && is(v1, "v1") && is(topics, "topics") => {
            Ok(Target::TopicCounters)
        }
        [gridwire, v1, rest @ ..] if is(gridwire, "gridwire") && is(v1, "v1") => {
            let operation = dead_letters::Operation::parse(rest).ok_or_else(|| not_found(parts))?;
            Ok(Target::DeadLetters(operation))
        }
        [subscription, group, namespaces, name, rest @ ..] if is(namespaces, "namespaces") => {
            let place = Named::Place(Place::new(subscription, group, name));
            namespace_operation(rest, Some(place)).ok_or_else(|| not_found(parts))
        }
        rest => {
            let place = host_label(parts, base_domain).map(Named::Name);
            namespace_operation(rest, place).ok_or_else(|| not_found(parts))
        }
    }
}

fn namespace_operation(rest: &[&str], place: Option<Named>) -> Option<Target> {
    let (topic, operation) = match *rest {
        [topics, last] if topics.eq_ignore_ascii_case("topics") => {
            let (topic, verb) = last.rsplit_once(':')?;
            if !verb.eq_ignore_ascii_case("publish") {
                return None;
            }
            (topic, Operation::Publish)
        }
        [topics, topic, subscriptions, last]
            if topics.eq_ignore_ascii_case("topics")
                && subscriptions.eq_ignore_ascii_case("eventsubscriptions") =>
        {
            let (subscription, verb) = last.rsplit_once(':')?;
            let subscription = subscription.to_owned();
            let operation = match verb.to_ascii_lowercase().as_str() {
                "receive" => Operation::Receive { subscription },
                "acknowledge" => Operation::Settle { subscription, verb: Verb::Acknowledge },
                "release" => Operation::Settle { subscription, verb: Verb::Release },
                "reject" => Operation::Settle { subscription, verb: Verb::Reject },
                "renewlock" => Operation::Settle { subscription, verb: Verb::RenewLock },
                _ => return None,
            };
            (topic, operation)
        }
        _ => return None,
    };
    Some(Target::Namespace { place, topic: topic.to_owned(), operation })
}

/// The host a request was sent to, without its port.
pub(super) fn host(parts: &Parts) -> Option<&str> {
    let host = match parts.uri.host() {
        Some(host) => host,
        None => parts.headers.get(HOST)?.to_str().ok()?,
    };
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(name),
        _ => Some(host),
    }
}

/// The first label of `{name}.{base-domain}`. `{name}.localhost` always counts, so that a laptop needs no
/// configuration.
fn host_label(parts: &Parts, base_domain: Option<&str>) -> Option<String> {
    let host = host(parts)?.to_ascii_lowercase();
    for domain in [base_domain, Some("localhost")].into_iter().flatten() {
        if let Some(label) =
            host.strip_suffix(&domain.to_ascii_lowercase()).and_then(|rest| rest.strip_suffix('.'))
            && !label.is_empty()
            && !label.contains('.')
        {
            return Some(label.to_owned());
        }
    }
    None
}

pub(super) fn topic(table: &RoutingTable, named: &Named) -> Result<Arc<TopicRoute>, ApiError> {
    let missing = |name: &str| {
        ApiError::new(ErrorCode::NotFound, format!("The topic '{}' was not found.", shown(name)))
    };
    match named {
        Named::Place(place) => table.topics.get(place).cloned().ok_or_else(|| missing(&place.name)),
        Named::Name(name) => only(table.topics_named(name), name, missing),
    }
}

pub(super) fn domain(table: &RoutingTable, place: &Place) -> Result<Arc<TopicRoute>, ApiError> {
    table.domains.get(place).cloned().ok_or_else(|| {
        let message = format!("The domain '{}' was not found.", shown(&place.name));
        ApiError::new(ErrorCode::NotFound, message)
    })
}

pub(super) fn namespace(table: &RoutingTable, named: &Named) -> Result<Arc<NamespaceRoute>, ApiError> {
    let missing = |name: &str| {
        ApiError::new(ErrorCode::NotFound, format!("The namespace '{}' was not found.", shown(name)))
    };
    match named {
        Named::Place(place) => table.namespaces.get(place).cloned().ok_or_else(|| missing(&place.name)),
        Named::Name(name) => only(table.namespaces_named(name), name, missing),
    }
}

fn only<'a, T: 'a>(
    mut found: impl Iterator<Item = &'a Arc<T>>,
    name: &str,
    missing: impl Fn(&str) -> ApiError,
) -> Result<Arc<T>, ApiError> {
    let first = found.next().ok_or_else(|| missing(name))?;
    if found.next().is_some() {
        return Err(ApiError::new(
            ErrorCode::NotFound,
            format!(
                "More than one resource is called '{name}': use the path with its subscription and resource group."
            ),
        ));
    }
    Ok(Arc::clone(first))
}

/// The values of one query parameter, decoded. Names match in any case.
pub(super) fn query(parts: &Parts, name: &str) -> Vec<String> {
    let query = parts.uri.query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes())
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.into_owned())
        .collect()
}

/// `YYYY-MM-DD`, optionally with `-preview`.
fn is_version(text: &str) -> bool {
    let date = text.strip_suffix("-preview").unwrap_or(text);
    let shape = date.len() == 10
        && date.bytes().enumerate().all(|(index, byte)| match index {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    shape && date.parse::<jiff::civil::Date>().is_ok()
}

/// `/api/events` takes any version and none: the documented curl line sends none.
pub(super) fn basic_api_version(parts: &Parts) -> Result<(), ApiError> {
    match query(parts, "api-version").as_slice() {
        [] => Ok(()),
        [version] if is_version(version) => Ok(()),
        _ => Err(ApiError::new(ErrorCode::InvalidApiVersion, "The api-version parameter is malformed.")),
    }
}

const NAMESPACE_VERSIONS: [&str; 5] =
    ["2023-06-01-preview", "2023-10-01-preview", "2023-11-01", "2024-06-01", "2024-12-15-preview"];

pub(super) fn namespace_api_version(parts: &Parts) -> Result<(), ApiError> {
    let wrong = match query(parts, "api-version").as_slice() {
        [version] if NAMESPACE_VERSIONS.contains(&version.as_str()) => return Ok(()),
        [] => "query parameter is required",
        _ => "is not supported",
    };
    let supported = NAMESPACE_VERSIONS.join(", ");
    let message = format!("The api-version {wrong}. Supported: {supported}.");
    Err(ApiError::new(ErrorCode::InvalidApiVersion, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, path: &str, expected: Option<&Target>) {
        let request = http::Request::post(path).header(HOST, host).body(()).unwrap();
        let (parts, ()) = request.into_parts();
        assert_eq!(parse(&parts, Some("events.example")).ok().as_ref(), expected, "{host} {path}");
    }

    fn place(name: &str) -> Named {
        Named::Place(Place::new("s", "g", name))
    }

    #[test]
    fn a_request_line_names_one_resource_and_operation() {
        let publish =
            |place| Some(Target::Namespace { place, topic: "t".into(), operation: Operation::Publish });
        check("h", "/S/G/topics/Orders/api/events", Some(&Target::Topic(place("orders"))));
        check("orders.localhost:8080", "/api/events", Some(&Target::Topic(Named::Name("orders".into()))));
        check("orders.Events.example", "/api/events?a=b", Some(&Target::Topic(Named::Name("orders".into()))));
        check("127.0.0.1:8080", "/api/events", None);
        check("a.b.localhost", "/api/events", None);
        check("h", "/topics/t:publish", publish(None).as_ref());
        check("h", "/topics/t%3Apublish", publish(None).as_ref());
        check("ns.localhost", "/topics/t:publish", publish(Some(Named::Name("ns".into()))).as_ref());
        check("h", "/s/g/namespaces/ns/topics/t:publish", publish(Some(place("ns"))).as_ref());
        check("h", "/topics/t:unpublish", None);
        check("h", "/topics/t", None);
        let settle = |verb| {
            Some(Target::Namespace {
                place: None,
                topic: "t".into(),
                operation: Operation::Settle { subscription: "s".into(), verb },
            })
        };
        check("h", "/topics/t/eventsubscriptions/s:acknowledge", settle(Verb::Acknowledge).as_ref());
        check("h", "/topics/t/eventSubscriptions/s:renewLock", settle(Verb::RenewLock).as_ref());
        check("h", "/topics/t/eventsubscriptions/s:lick", None);
        check("h", "/topics/t/eventsubscriptions/s", None);
        check("h", "/", None);
        check("h", "/%ff", None);
    }

    /// What the document of the data plane would call a target.
    fn operation_of(target: &Target) -> (&'static str, bool) {
        match target {
            Target::Topic(Named::Place(_)) => ("publishToTopic", true),
            Target::Topic(Named::Name(_)) => ("publishToTopicOfHost", true),
            Target::Domain(_) => ("publishToDomain", true),
            Target::Inspect { what: Inspected::Deliveries, .. } => ("latestDeliveries", true),
            Target::Inspect { what: Inspected::Endpoint, .. } => ("endpointStatus", true),
            Target::Inspect { what: Inspected::Counters, .. } => ("showCounters", true),
            Target::Inspect { what: Inspected::Audit, .. } => ("auditSubscription", true),
            Target::Counters => ("listCounters", true),
            Target::TopicCounters => ("listTopicCounters", true),
            Target::DeadLetters(operation) => {
                let name = match operation {
                    dead_letters::Operation::List { .. } => "listDeadLetters",
                    dead_letters::Operation::Show { .. } => "showDeadLetter",
                    dead_letters::Operation::Redrive { .. } => "redriveDeadLetters",
                    dead_letters::Operation::Purge { .. } => "purgeDeadLetters",
                    dead_letters::Operation::Jobs => "listDeadLetterJobs",
                    dead_letters::Operation::Job { .. } => "showDeadLetterJob",
                    dead_letters::Operation::Cancel { .. } => "cancelDeadLetterJob",
                };
                (name, true)
            }
            Target::Namespace { place, operation, .. } => {
                let name = match operation {
                    Operation::Publish => "publish",
                    Operation::Receive { .. } => "receive",
                    Operation::Settle { verb: Verb::Acknowledge, .. } => "acknowledge",
                    Operation::Settle { verb: Verb::Release, .. } => "release",
                    Operation::Settle { verb: Verb::Reject, .. } => "reject",
                    Operation::Settle { verb: Verb::RenewLock, .. } => "renewLock",
                };
                (name, place.is_some())
            }
        }
    }

    #[test]
    fn the_document_of_the_data_plane_has_every_operation_and_no_other() {
        let document: serde_json::Value =
            serde_json::from_str(include_str!("../../../../openapi/data-plane.json")).unwrap();
        let mut documented = std::collections::BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            let operations: Vec<_> = operations.as_object().unwrap().iter().collect();
            let [(method, operation)] = operations.as_slice() else { panic!("{path} has one operation") };
            let id = operation["operationId"].as_str().unwrap();
            if id == "welcome" {
                continue; // That of the front, which asks the data plane for the rest.
            }
            let filled: Vec<_> =
                path.split('{').map(|part| part.split_once('}').map_or(part, |(_, rest)| rest)).collect();
            let request =
                http::Request::post(filled.join("name")).header(HOST, "name.localhost").body(()).unwrap();
            let target = parse(&request.into_parts().0, None).unwrap();
            let (name, by_path) = operation_of(&target);
            let by_host = path.starts_with("/topics/") || path.starts_with("/api/");
            assert!(by_path, "{path} names its resource, or its host does");
            let suffix = if path.starts_with("/topics/") { "OfHost" } else { "" };
            assert_eq!(id, format!("{name}{suffix}"), "{path}");
            let reads = ["latest", "list", "show", "endpoint"].iter().any(|verb| name.starts_with(verb));
            assert_eq!(*method, if reads { "get" } else { "post" }, "{path}");
            documented.insert((name, by_host));
        }
        let mut expected: Vec<_> = ["publish", "receive", "acknowledge", "release", "reject", "renewLock"]
            .into_iter()
            .flat_map(|name| [(name, false), (name, true)])
            .collect();
        expected.extend([
            ("publishToTopic", false),
            ("publishToDomain", false),
            ("publishToTopicOfHost", true),
            ("latestDeliveries", false),
            ("listDeadLetters", false),
            ("showDeadLetter", false),
            ("redriveDeadLetters", false),
            ("purgeDeadLetters", false),
            ("listDeadLetterJobs", false),
            ("showDeadLetterJob", false),
            ("cancelDeadLetterJob", false),
            ("endpointStatus", false),
            ("listCounters", false),
            ("listTopicCounters", false),
            ("showCounters", false),
            ("auditSubscription", false),
        ]);
        assert_eq!(documented, expected.into_iter().collect());
    }

    #[test]
    fn versions_are_dates() {
        for (text, good) in [
            ("2018-01-01", true),
            ("2023-06-01-preview", true),
            ("2018-13-01", false),
            ("2018-1-1", false),
            ("latest", false),
            ("", false),
        ] {
            assert_eq!(is_version(text), good, "{text}");
        }
    }
}
