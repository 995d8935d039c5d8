//! The counters of a topic's subscriptions by slot.
//!
//! A publish reads them without a lock, so a change replaces them as a whole. A domain may have 100,000
//! subscriptions: their slots are kept in pages, and a change copies the page it touches and the list of pages.

use std::sync::Arc;

use gridwire_core::ids::Slot;

use super::counters::SubscriptionCounters;

/// Slots of one page. At 100,000 subscriptions the list is about as long as a page.
const PAGE: usize = 256;

type Page = Vec<Option<Arc<SubscriptionCounters>>>;

/// A clone shares every page until it is changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots(Vec<Arc<Page>>);

impl Slots {
    pub(super) fn get(&self, slot: Slot) -> Option<&Arc<SubscriptionCounters>> {
        let index = slot.0 as usize;
        self.0.get(index / PAGE)?.get(index % PAGE)?.as_ref()
    }

    pub(super) fn set(&mut self, slot: Slot, counters: Option<Arc<SubscriptionCounters>>) {
        let index = slot.0 as usize;
        let (page, index) = (index / PAGE, index % PAGE);
        if self.0.len() <= page {
            self.0.resize_with(page + 1, Arc::default);
        }
        let page = Arc::make_mut(&mut self.0[page]);
        if page.len() <= index {
            page.resize(index + 1, None);
        }
        page[index] = counters;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_copies_one_page_and_leaves_readers_theirs() {
        let mut old = Slots::default();
        for slot in 0..1_000 {
            old.set(Slot(slot), Some(Arc::default()));
        }
        let mut new = old.clone();
        new.set(Slot(300), None);
        let same = |slot| match (new.get(Slot(slot)), old.get(Slot(slot))) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            _ => false,
        };
        assert!((0..1_000).filter(|slot| *slot != 300).all(same));
        assert!(new.get(Slot(300)).is_none() && old.get(Slot(300)).is_some());
        assert!(new.get(Slot(1_000)).is_none() && new.get(Slot(70_000)).is_none());
        let copied = new.0.iter().zip(&old.0).filter(|(now, before)| !Arc::ptr_eq(now, before)).count();
        assert_eq!(copied, 1);
    }
}
