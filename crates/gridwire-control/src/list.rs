//! Lists: filtered by name, in pages, with an absolute link to the next.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::time::Timestamp;
use serde_json::{Value, json};

use crate::address::{Address, Form, ROOT, group_prefix};
use crate::document::{Entry, Resources, not_found};
use crate::kinds::Kind;
use crate::options::PublicAddresses;
use crate::provider::topic_type_of as topic_type;
use crate::request::{LISTED_BY_PLACE, Query, Scope};

/// What a list asks for.
#[derive(Debug)]
pub(crate) struct List<'a> {
    pub kinds: &'a [&'static Kind],
    pub scope: &'a Scope,
    pub form: Form,
    /// Only what belongs to a resource at this location.
    pub location: Option<&'a str>,
    pub topic_type: Option<&'a str>,
}

/// How the request reached us, for the link to the next page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Via<'a> {
    pub origin: &'a str,
    pub path: &'a str,
    pub public: &'a PublicAddresses,
    pub now: Timestamp,
}

impl List<'_> {
    pub(crate) fn by_place<'a>(
        scope: &'a Scope,
        location: Option<&'a str>,
        topic_type: Option<&'a str>,
    ) -> List<'a> {
        List { kinds: LISTED_BY_PLACE, scope, form: Form::Scope, location, topic_type }
    }

    /// One page. The token of the next one is the key of this one's last resource, so that resources that come
    /// and go in between neither repeat nor hide others.
    pub(crate) fn page(&self, resources: &Resources, query: &Query, via: Via<'_>) -> Result<Value, ApiError> {
        let prefix = match self.scope {
            Scope::Subscription { subscription } => {
                format!("{ROOT}{}/", subscription.to_ascii_lowercase())
            }
            Scope::ResourceGroup { subscription, resource_group } => {
                format!("{}/", group_prefix(subscription, resource_group))
            }
            Scope::Parent(parent) => below_parent(resources, parent, self.kinds)?,
        };
        let after = query.skip_token.as_deref().map(|token| read_token(token, &prefix)).transpose()?;
        let mut found = resources
            .below(&prefix, after.as_deref())
            .filter(|entry| self.kinds.contains(&entry.kind()))
            .filter(|entry| self.wants(resources, entry))
            .filter(|entry| {
                let name = entry.document.address.name();
                query.filter.as_ref().is_none_or(|filter| filter.matches(name))
            });
        let mut value = Vec::new();
        let mut last = None;
        for entry in found.by_ref().take(query.top) {
            value.push(resources.show(entry, self.form, via.public, via.now));
            last = Some(entry);
        }
        let mut page = json!({ "value": value });
        if let (Some(last), Some(_)) = (last, found.next()) {
            page["nextLink"] = next_link(via, query, &last.key).into();
        }
        Ok(page)
    }

    fn wants(&self, resources: &Resources, entry: &Entry) -> bool {
        if self.topic_type.is_some_and(|wanted| !wanted.eq_ignore_ascii_case(topic_type(entry.kind()))) {
            return false;
        }
        let Some(wanted) = self.location else { return true };
        let location = resources
            .ground_of(&entry.document.address)
            .and_then(|parent| parent.document.envelope.location.as_deref())
            .unwrap_or_default();
        plain(location) == plain(wanted)
    }
}

/// Locations are the same with and without spaces: `West US`, `westus`.
fn plain(location: &str) -> String {
    location.replace(' ', "").to_ascii_lowercase()
}

fn below_parent(resources: &Resources, parent: &Address, kinds: &[&Kind]) -> Result<String, ApiError> {
    if resources.get(parent).is_none() {
        return Err(not_found(parent));
    }
    // Kinds of one list stand at one segment.
    let segment = kinds.first().map_or_else(String::new, |kind| kind.segment.to_ascii_lowercase());
    Ok(format!("{}/{segment}/", parent.key()))
}

fn read_token(token: &str, prefix: &str) -> Result<String, ApiError> {
    URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|key| key.starts_with(prefix))
        .ok_or_else(|| {
            ApiError::new(
                ErrorCode::InvalidRequest,
                "The query parameter `$skiptoken` is not one that this list gave out.",
            )
        })
}

fn next_link(via: Via<'_>, query: &Query, last: &str) -> String {
    let mut parameters = url::form_urlencoded::Serializer::new(String::new());
    parameters.append_pair("api-version", &query.api_version);
    if let Some(filter) = &query.filter_text {
        parameters.append_pair("$filter", filter);
    }
    parameters.append_pair("$top", &query.top.to_string());
    parameters.append_pair("$skiptoken", &URL_SAFE_NO_PAD.encode(last));
    format!("{}{}?{}", via.origin, via.path, parameters.finish())
}
