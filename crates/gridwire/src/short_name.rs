//! Resources as people call them, from the ids that the server answers: the way back of [`crate::arm`].

use crate::arm::{Scope, Subscription, Topic};
use crate::output::printable;

/// `orders`, `orders/billing`, `shop/jobs/workers`, `domain:malls/north/billing`. Of another scope, where that name
/// would mean something else, and of what has no such name, the id.
pub(crate) fn short_name(id: &str, scope: &Scope) -> String {
    named(id, scope).unwrap_or_else(|| printable(id))
}

fn named(id: &str, scope: &Scope) -> Option<String> {
    let provider = scope.provider();
    let inside = id.get(..provider.len()).is_some_and(|start| start.eq_ignore_ascii_case(&provider));
    let rest = id.get(provider.len()..).filter(|_| inside)?.strip_prefix('/')?;
    let words: Vec<&str> = rest.split('/').collect();
    // Every other word is a kind, in the case that somebody wrote.
    let kinds: Vec<String> = words.iter().step_by(2).map(|kind| kind.to_ascii_lowercase()).collect();
    let names: Vec<String> = words.iter().skip(1).step_by(2).map(|name| (*name).to_owned()).collect();
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let (above, subscription) = match kinds.split_last() {
        Some((&"eventsubscriptions", above)) => (above, names.get(above.len())),
        _ => (kinds.as_slice(), None),
    };
    let topic = match (above, names.as_slice()) {
        (["topics"], [topic, ..]) => Topic::Custom { topic: topic.clone() },
        (["domains"], [domain, ..]) => Topic::Domain { domain: domain.clone() },
        (["domains", "topics"], [domain, topic, ..]) => {
            Topic::InDomain { domain: domain.clone(), topic: topic.clone() }
        }
        (["namespaces", "topics"], [namespace, topic, ..]) => {
            Topic::Namespace { namespace: namespace.clone(), topic: topic.clone() }
        }
        _ => return None,
    };
    let name = match subscription {
        Some(name) => Subscription { topic, name: name.clone() }.to_string(),
        None => topic.to_string(),
    };
    Some(printable(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_leads_where_the_name_came_from() {
        let scope = Scope::default();
        for name in
            ["orders/billing", "shop/jobs/workers", "domain:malls/audit", "domain:malls/north/billing"]
        {
            let id = Subscription::parse(name).unwrap().id(&scope);
            assert_eq!(short_name(&id, &scope), name);
            assert_eq!(
                short_name(&id.to_uppercase(), &scope),
                name.to_uppercase().replace("DOMAIN", "domain")
            );
        }
        for name in ["orders", "shop/jobs", "domain:malls/north"] {
            assert_eq!(short_name(&Topic::parse(name).unwrap().id(&scope), &scope), name);
        }
    }

    #[test]
    fn what_has_no_short_name_here_keeps_its_id() {
        let scope = Scope::default();
        let other = Scope { resource_group: "other".to_owned(), ..Scope::default() };
        let id = Subscription::parse("orders/billing").unwrap().id(&other);
        for id in [id.as_str(), "", "/", "17", &format!("{}/things/a", scope.provider())] {
            assert_eq!(short_name(id, &scope), id);
        }
    }
}
