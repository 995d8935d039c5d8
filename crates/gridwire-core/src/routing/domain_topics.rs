//! The domain topics of one domain that somebody subscribes to, by name.
//!
//! A table never changes under a reader, and a domain may have 100,000 topics: copying them all for each new
//! subscription would make a hundred thousand of them cost ten thousand million copies. So the names are spread
//! over buckets that tables share, and a change copies the one bucket it touches and the list of buckets.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::SubscriptionRoute;
use crate::filter::Matcher;

/// Buckets of one domain. At 100,000 topics a change copies about 100 entries and 1,024 pointers; more buckets
/// would make the list the dearer part, fewer the bucket.
const BUCKETS: usize = 1024;

/// A domain topic with its own subscriptions, ready to match.
#[derive(Debug)]
pub struct DomainTopicRoute {
    /// In the case the user wrote.
    pub name: String,
    /// The full ARM id.
    pub resource_id: String,
    pub matcher: Matcher,
    /// By lower-cased name.
    pub subscriptions: HashMap<String, Arc<SubscriptionRoute>>,
}

type Bucket = HashMap<String, Arc<DomainTopicRoute>>;

/// Domain topics by lower-cased name. A clone shares everything until it is changed.
#[derive(Clone, Debug, Default)]
pub struct DomainTopics {
    /// Empty until the first is inserted: other topics have none.
    buckets: Vec<Arc<Bucket>>,
}

impl DomainTopics {
    /// The topic of this name, in any case; `None` also when nobody subscribes to it.
    pub fn get(&self, name: &str) -> Option<&Arc<DomainTopicRoute>> {
        let name = folded(name);
        self.buckets.get(place(&name))?.get(&*name)
    }

    pub fn insert(&mut self, route: Arc<DomainTopicRoute>) {
        if self.buckets.is_empty() {
            self.buckets = vec![Arc::default(); BUCKETS];
        }
        let name = folded(&route.name).into_owned();
        Arc::make_mut(&mut self.buckets[place(&name)]).insert(name, route);
    }

    pub fn remove(&mut self, name: &str) {
        let name = folded(name);
        if let Some(bucket) = self.buckets.get_mut(place(&name))
            && bucket.contains_key(&*name)
        {
            Arc::make_mut(bucket).remove(&*name);
        }
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<DomainTopicRoute>> {
        self.buckets.iter().flat_map(|bucket| bucket.values())
    }

    /// Calls `each` with the topics that differ from `old`: as they were and as they are, `None` where there was
    /// or is none. Buckets that both share are passed over whole.
    pub(super) fn compare<'a>(
        &'a self,
        old: &'a Self,
        each: &mut dyn FnMut(Option<&'a Arc<DomainTopicRoute>>, Option<&'a Arc<DomainTopicRoute>>),
    ) {
        for at in 0..self.buckets.len().max(old.buckets.len()) {
            let (now, before) = (self.buckets.get(at), old.buckets.get(at));
            if let (Some(now), Some(before)) = (now, before)
                && Arc::ptr_eq(now, before)
            {
                continue;
            }
            for (name, route) in now.into_iter().flat_map(|bucket| bucket.iter()) {
                let was = before.and_then(|bucket| bucket.get(name));
                if was.is_none_or(|was| !Arc::ptr_eq(was, route)) {
                    each(was, Some(route));
                }
            }
            for (name, route) in before.into_iter().flat_map(|bucket| bucket.iter()) {
                if now.is_none_or(|bucket| !bucket.contains_key(name)) {
                    each(Some(route), None);
                }
            }
        }
    }
}

fn folded(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Owned(name.to_ascii_lowercase());
    }
    Cow::Borrowed(name)
}

/// The bucket of a folded name: FNV-1a, so that it is the same in every table and every process.
fn place(name: &str) -> usize {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits alone depend on little of a short name.
    usize::try_from((hash ^ (hash >> 32)) % BUCKETS as u64).expect("fewer buckets than fit in memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str) -> Arc<DomainTopicRoute> {
        Arc::new(DomainTopicRoute {
            name: name.to_owned(),
            resource_id: format!("/d/topics/{name}"),
            matcher: Matcher::default(),
            subscriptions: HashMap::new(),
        })
    }

    fn differences(new: &DomainTopics, old: &DomainTopics) -> Vec<(Option<String>, Option<String>)> {
        let mut found = Vec::new();
        let name = |route: Option<&Arc<DomainTopicRoute>>| route.map(|route| route.name.clone());
        new.compare(old, &mut |was, is| found.push((name(was), name(is))));
        found.sort();
        found
    }

    #[test]
    fn a_topic_is_found_in_any_case_until_it_is_removed() {
        let mut topics = DomainTopics::default();
        assert!(topics.get("blue").is_none());
        topics.insert(route("Blue"));
        topics.insert(route("red"));
        assert_eq!(topics.get("BLUE").unwrap().name, "Blue");
        assert_eq!(topics.iter().count(), 2);
        topics.remove("blue");
        topics.remove("green");
        assert!(topics.get("Blue").is_none());
        assert_eq!(topics.iter().count(), 1);
    }

    #[test]
    fn a_change_shares_all_other_buckets_and_is_found_again() {
        let mut old = DomainTopics::default();
        for number in 0..5_000 {
            old.insert(route(&format!("topic-{number}")));
        }
        let mut new = old.clone();
        new.insert(route("topic-7"));
        new.insert(route("more"));
        new.remove("topic-9");
        let shared = |(now, before): &(&Arc<Bucket>, &Arc<Bucket>)| Arc::ptr_eq(now, before);
        assert!(new.buckets.iter().zip(&old.buckets).filter(shared).count() >= BUCKETS - 3);
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(
            differences(&new, &old),
            [(None, name("more")), (name("topic-7"), name("topic-7")), (name("topic-9"), None)]
        );
        assert_eq!(differences(&new, &new.clone()), []);
        assert_eq!(differences(&DomainTopics::default(), &old).len(), 5_000);
        assert!(old.get("topic-9").is_some(), "the older table is as it was");
    }

    #[test]
    fn names_spread_over_the_buckets() {
        let mut counts = vec![0_u32; BUCKETS];
        for number in 0..100_000 {
            counts[place(&format!("topic-{number}"))] += 1;
        }
        let most = counts.iter().max().copied().unwrap();
        assert!(most < 250, "{most} of 100,000 names in one of {BUCKETS} buckets");
    }
}
