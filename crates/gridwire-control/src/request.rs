//! A request's head: what is asked of which resource. Nothing here reads a body.

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_http::{Peer, Request};
use http::header::HOST;
use http::uri::Authority;
use percent_encoding::percent_decode_str;

use crate::address::{Address, Form};
use crate::kinds::{Action, DOMAIN_SUBSCRIPTION, DOMAIN_TOPIC_SUBSCRIPTION, Kind, TOPIC_SUBSCRIPTION};
use crate::limits::{RESOURCE_GROUP_CHARS_MAX, TARGET_BYTES_MAX, TOP, TOP_DEFAULT};
use crate::name_filter::NameFilter;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Resource {
        address: Address,
        form: Form,
    },
    Action {
        address: Address,
        form: Form,
        action: Action,
    },
    Collection {
        scope: Scope,
        kind: &'static Kind,
        form: Form,
    },
    /// Event subscriptions wherever they hang, by place and by the type of their source.
    EventSubscriptions {
        scope: Scope,
        location: Option<String>,
        topic_type: Option<String>,
    },
    /// The event types of a resource.
    EventTypes,
    Operations,
    TopicTypes,
    TopicType {
        name: String,
    },
    TopicTypeEventTypes {
        name: String,
    },
}

/// Where a list looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Subscription { subscription: String },
    ResourceGroup { subscription: String, resource_group: String },
    Parent(Address),
}

/// The query of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    pub api_version: String,
    /// As it was sent, for the next page's link.
    pub filter_text: Option<String>,
    pub filter: Option<NameFilter>,
    pub top: usize,
    pub skip_token: Option<String>,
}

/// The oldest api-version that is taken; every later date is.
const API_VERSION_MIN: &str = "2021-10-15";
const PROVIDER: &str = "Microsoft.EventGrid";

/// Whether a path is the control plane's.
pub(crate) fn is_management_path(path: &str) -> bool {
    let path = path.trim_start_matches('/');
    let first = path.split('/').next().unwrap_or_default();
    first.eq_ignore_ascii_case("subscriptions") || first.eq_ignore_ascii_case("providers")
}

/// Scheme and authority by which the client reached us, for absolute links.
pub(crate) fn origin(request: &Request, peer: Peer) -> Option<String> {
    let host = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(HOST)?.to_str().ok()?,
    };
    let authority: Authority = host.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let scheme = if peer.tls { "https" } else { "http" };
    Some(format!("{scheme}://{authority}"))
}

impl Query {
    /// Reads the query. Unknown parameters are ignored.
    pub(crate) fn parse(query: &str) -> Result<Self, ApiError> {
        let mut api_version = None;
        let (mut filter_text, mut top, mut skip_token) = (None, None, None);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let slot = match name.to_ascii_lowercase().as_str() {
                "api-version" => &mut api_version,
                "$filter" => &mut filter_text,
                "$top" => &mut top,
                "$skiptoken" => &mut skip_token,
                _ => continue,
            };
            // The first one counts: a client that follows a link may add its own after it.
            slot.get_or_insert_with(|| value.into_owned());
        }
        let api_version = check_api_version(api_version)?;
        let filter_text = filter_text.filter(|text| !text.trim().is_empty());
        Ok(Self {
            api_version,
            filter: filter_text.as_deref().map(NameFilter::parse).transpose()?,
            filter_text,
            top: check_top(top.as_deref())?,
            skip_token,
        })
    }
}

fn check_api_version(version: Option<String>) -> Result<String, ApiError> {
    let Some(version) = version.filter(|version| !version.is_empty()) else {
        return Err(ApiError::new(
            ErrorCode::InvalidApiVersion,
            "The `api-version` query parameter is required for all requests.",
        )
        .with_detail("MissingApiVersionParameter"));
    };
    let lower = version.to_ascii_lowercase();
    let date = lower.strip_suffix("-preview").unwrap_or(&lower);
    let well_formed = date.len() == API_VERSION_MIN.len() && date.parse::<jiff::civil::Date>().is_ok();
    if !well_formed || date < API_VERSION_MIN {
        let shown: String = version.chars().filter(|c| !c.is_control()).take(40).collect();
        return Err(ApiError::new(
            ErrorCode::InvalidApiVersion,
            format!(
                "The api-version `{shown}` is invalid. Versions are dates, `YYYY-MM-DD` or `YYYY-MM-DD-preview`, from {API_VERSION_MIN}-preview on."
            ),
        ));
    }
    Ok(version)
}

fn check_top(top: Option<&str>) -> Result<usize, ApiError> {
    let Some(text) = top else { return Ok(TOP_DEFAULT) };
    let number = text.parse::<i64>().ok().filter(|number| TOP.contains(number));
    number.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| {
        ApiError::new(
            ErrorCode::InvalidRequest,
            format!("The query parameter `$top` must be a number between {} and {}.", TOP.start(), TOP.end()),
        )
    })
}

fn unknown_path() -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        format!(
            "There is no resource of {PROVIDER} at this path. Event subscriptions belong to topics, domains, domain topics and namespace topics."
        ),
    )
}

impl Target {
    /// Takes a path apart.
    pub(crate) fn parse(path: &str) -> Result<Self, ApiError> {
        if path.len() > TARGET_BYTES_MAX {
            return Err(ApiError::new(ErrorCode::UriTooLong, "The request's path is too long."));
        }
        let path = path.trim_start_matches('/');
        let path = path.strip_suffix('/').unwrap_or(path);
        let segments = path.split('/').map(decode).collect::<Result<Vec<_>, _>>()?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            [providers, provider, rest @ ..] if is_provider(providers, provider) => provider_target(rest),
            [root, subscription, rest @ ..] if root.eq_ignore_ascii_case("subscriptions") => {
                check_subscription(subscription)?;
                subscription_target(subscription, rest)
            }
            _ => Err(unknown_path()),
        }
    }
}

/// Decodes a segment. One that could be taken for several, or for a step up, is refused.
fn decode(segment: &str) -> Result<String, ApiError> {
    let refused = || ApiError::new(ErrorCode::InvalidRequest, "The request's path is malformed.");
    let decoded = percent_decode_str(segment).decode_utf8().map_err(|_| refused())?;
    if matches!(&*decoded, "." | "..") || decoded.contains('/') || decoded.chars().any(char::is_control) {
        return Err(refused());
    }
    Ok(decoded.into_owned())
}

fn is_provider(providers: &str, provider: &str) -> bool {
    providers.eq_ignore_ascii_case("providers") && provider.eq_ignore_ascii_case(PROVIDER)
}

fn check_subscription(id: &str) -> Result<(), ApiError> {
    let well_formed = id.len() == 36
        && id.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if well_formed {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::InvalidRequest,
        "The subscription identifier in the path is malformed: it must be a GUID.",
    ))
}

fn check_resource_group(name: &str) -> Result<(), ApiError> {
    let well_formed = (1..=RESOURCE_GROUP_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.()".contains(&byte))
        && !name.ends_with('.');
    if well_formed {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::InvalidRequest,
        "The resource group's name in the path is invalid: letters, digits and `-_.()`, at most 90, no `.` at the end.",
    ))
}

fn provider_target(rest: &[&str]) -> Result<Target, ApiError> {
    let is = |segment: &str, name: &str| segment.eq_ignore_ascii_case(name);
    match rest {
        [operations] if is(operations, "operations") => Ok(Target::Operations),
        [types] if is(types, "topicTypes") => Ok(Target::TopicTypes),
        [types, name] if is(types, "topicTypes") => Ok(Target::TopicType { name: (*name).into() }),
        [types, name, events] if is(types, "topicTypes") && is(events, "eventTypes") => {
            Ok(Target::TopicTypeEventTypes { name: (*name).into() })
        }
        _ => Err(unknown_path()),
    }
}

fn subscription_target(subscription: &str, rest: &[&str]) -> Result<Target, ApiError> {
    let subscription = subscription.to_owned();
    match rest {
        [providers, provider, rest @ ..] if is_provider(providers, provider) => match rest {
            [segment] if Kind::below(None, segment).is_some() => {
                let kind = Kind::below(None, segment).ok_or_else(unknown_path)?;
                let scope = Scope::Subscription { subscription };
                Ok(Target::Collection { scope, kind, form: Form::Nested })
            }
            rest => by_place(Scope::Subscription { subscription }, rest),
        },
        [groups, group, providers, provider, rest @ ..]
            if groups.eq_ignore_ascii_case("resourceGroups") && is_provider(providers, provider) =>
        {
            check_resource_group(group)?;
            group_target(subscription, (*group).to_owned(), rest)
        }
        _ => Err(unknown_path()),
    }
}

/// `[locations/{l}/][topicTypes/{t}/]eventSubscriptions`
fn by_place(scope: Scope, rest: &[&str]) -> Result<Target, ApiError> {
    let (mut location, mut topic_type) = (None, None);
    let mut rest = rest;
    if let [name, value, more @ ..] = rest
        && name.eq_ignore_ascii_case("locations")
    {
        location = Some((*value).to_owned());
        rest = more;
    }
    if let [name, value, more @ ..] = rest
        && name.eq_ignore_ascii_case("topicTypes")
    {
        topic_type = Some((*value).to_owned());
        rest = more;
    }
    match rest {
        [last] if last.eq_ignore_ascii_case("eventSubscriptions") => {
            Ok(Target::EventSubscriptions { scope, location, topic_type })
        }
        _ => Err(unknown_path()),
    }
}

/// What stands below a resource group's provider: pairs of a kind's segment and a name, by the kinds' table.
fn group_target(subscription: String, resource_group: String, rest: &[&str]) -> Result<Target, ApiError> {
    let address = |kind, names| Address {
        subscription: subscription.clone(),
        resource_group: resource_group.clone(),
        kind,
        names,
    };
    let mut parent: Option<&'static Kind> = None;
    let mut names: Vec<String> = Vec::new();
    let mut form = Form::Nested;
    let mut rest = rest;
    loop {
        if let (Some(above), [providers, provider, segment, ..]) = (parent, rest)
            && is_provider(providers, provider)
        {
            if segment.eq_ignore_ascii_case("eventTypes") && rest.len() == 3 {
                return Ok(Target::EventTypes);
            }
            if !Kind::below(Some(above), segment).is_some_and(|kind| kind.extension) {
                return Err(unknown_path());
            }
            form = Form::Scope;
            rest = &rest[2..];
        }
        let [segment, more @ ..] = rest else { return Err(unknown_path()) };
        let Some(kind) = Kind::below(parent, segment) else {
            if let (Some(kind), [verb]) = (parent, rest)
                && let Some(action) =
                    kind.actions.iter().find(|action| action.name().eq_ignore_ascii_case(verb))
            {
                return Ok(Target::Action { address: address(kind, names), form, action: *action });
            }
            if parent.is_none() {
                return by_place(Scope::ResourceGroup { subscription, resource_group }, rest);
            }
            return Err(unknown_path());
        };
        let [name, more @ ..] = more else {
            let scope = match parent {
                Some(parent) => Scope::Parent(address(parent, names)),
                None => Scope::ResourceGroup { subscription, resource_group },
            };
            return Ok(Target::Collection { scope, kind, form });
        };
        if name.is_empty() {
            return Err(unknown_path());
        }
        names.push((*name).to_owned());
        if more.is_empty() {
            return Ok(Target::Resource { address: address(kind, names), form });
        }
        parent = Some(kind);
        rest = more;
    }
}

/// The kinds that lists of event subscriptions by place show.
pub(crate) const LISTED_BY_PLACE: &[&Kind] =
    &[&TOPIC_SUBSCRIPTION, &DOMAIN_SUBSCRIPTION, &DOMAIN_TOPIC_SUBSCRIPTION];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{DOMAIN, DOMAIN_TOPIC, NAMESPACE_SUBSCRIPTION, NAMESPACE_TOPIC, TOPIC};

    const SUB: &str = "00000000-0000-0000-0000-000000000001";

    fn target(tail: &str) -> Result<Target, ErrorCode> {
        let path = format!("/subscriptions/{SUB}/resourceGroups/rg/providers/Microsoft.EventGrid/{tail}");
        Target::parse(&path).map_err(|error| error.code)
    }

    fn check_resource(tail: &str, kind: &'static Kind, names: &[&str], expected: Form) {
        let Ok(Target::Resource { address, form }) = target(tail) else { panic!("{tail} is no resource") };
        assert_eq!((address.kind, form), (kind, expected), "{tail}");
        assert_eq!(address.names, names, "{tail}");
    }

    #[test]
    fn resources_are_found_in_any_case_and_either_form() {
        check_resource("topics/Orders", &TOPIC, &["Orders"], Form::Nested);
        check_resource("TOPICS/o/EVENTSUBSCRIPTIONS/e/", &TOPIC_SUBSCRIPTION, &["o", "e"], Form::Nested);
        check_resource(
            "topics/o/providers/microsoft.eventgrid/eventSubscriptions/e",
            &TOPIC_SUBSCRIPTION,
            &["o", "e"],
            Form::Scope,
        );
        check_resource("domains/Shops", &DOMAIN, &["Shops"], Form::Nested);
        check_resource("domains/d/topics/t", &DOMAIN_TOPIC, &["d", "t"], Form::Nested);
        for (between, form) in [("", Form::Nested), ("providers/Microsoft.EventGrid/", Form::Scope)] {
            let (all, one) = (&DOMAIN_SUBSCRIPTION, &DOMAIN_TOPIC_SUBSCRIPTION);
            check_resource(&format!("domains/d/{between}eventSubscriptions/e"), all, &["d", "e"], form);
            let path = format!("domains/d/topics/t/{between}eventSubscriptions/e");
            check_resource(&path, one, &["d", "t", "e"], form);
        }
        check_resource("namespaces/n/topics/t", &NAMESPACE_TOPIC, &["n", "t"], Form::Nested);
        check_resource(
            "namespaces/n/topics/t/eventSubscriptions/e",
            &NAMESPACE_SUBSCRIPTION,
            &["n", "t", "e"],
            Form::Nested,
        );
    }

    #[test]
    fn what_is_no_resource_is_not_found() {
        for tail in [
            "",
            "things",
            "things/a",
            "topics/a/b",
            "topics/a/listKeys/b",
            "domains/d/topics/t/listKeys",
            "domains/d/topics/t/topics/u",
            "domains/d/providers/Microsoft.EventGrid/topics/t",
            "topics/a/getFullUrl",
            "topics//listKeys",
            "namespaces/n/eventSubscriptions/e",
            "namespaces/n/topics/t/providers/Microsoft.EventGrid/eventSubscriptions/e",
            "topics/a/providers/Microsoft.Other/eventSubscriptions/e",
            "eventSubscriptions/e",
        ] {
            assert_eq!(target(tail), Err(ErrorCode::NotFound), "{tail}");
        }
        for tail in ["topics/..", "topics/%2e%2e", "topics/a%2fb", "topics/a%00", "topics/%ff"] {
            assert_eq!(target(tail), Err(ErrorCode::InvalidRequest), "{tail}");
        }
    }

    #[test]
    fn management_paths_are_told_from_the_data_planes() {
        for (path, expected) in [
            ("/subscriptions/x/resourceGroups/rg/providers/Microsoft.EventGrid/topics", true),
            ("//Subscriptions/x", true),
            ("/providers/Microsoft.EventGrid/operations", true),
            ("/", false),
            ("/00000000-0000-0000-0000-000000000001/rg/topics/t/api/events", false),
            ("/topics/t/eventsubscriptions/s:receive", false),
            ("/api/events", false),
        ] {
            assert_eq!(is_management_path(path), expected, "{path}");
        }
    }

    #[test]
    fn api_versions_are_dates_from_the_oldest_clients_on() {
        for (query, accepted) in [
            ("api-version=2025-02-15", true),
            ("API-Version=2021-10-15-preview", true),
            ("api-version=2031-01-01-Preview&x=y", true),
            ("api-version=2021-10-14", false),
            ("api-version=2018-01-01", false),
            ("api-version=2025-2-15", false),
            ("api-version=2025-13-01", false),
            ("api-version=latest", false),
            ("api-version=", false),
            ("", false),
        ] {
            assert_eq!(Query::parse(query).is_ok(), accepted, "{query}");
        }
    }
}
