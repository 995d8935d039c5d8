//! The dead letters of one subscription, in order.

use std::io;

use gridwire_core::dead_letter::{Hour, LetterGuid, LetterKey, Selection, StoreTag};
use gridwire_core::ids::SubscriptionNumber;
use gridwire_core::render::{DeadLetterPlace, dead_letter_prefix};
use gridwire_core::routing::SubscriptionRoute;

use super::DeadLetters;
use super::container::{Container, Names};

/// What has become of a letter; a part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LetterState {
    /// `{guid}.json`
    Waiting,
    /// `{guid}.redriven`: its event is in the queue again. It stays until it is purged, so that the same letter,
    /// should it be written once more after a crash, is known to be done with.
    Redriven,
}

impl LetterState {
    fn suffix(self) -> &'static str {
        match self {
            Self::Waiting => ".json",
            Self::Redriven => ".redriven",
        }
    }
}

/// Where a subscription's letters are. Others' letters may be beside them.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    pub(crate) container: Container,
    prefix: String,
    store: StoreTag,
    subscription: SubscriptionNumber,
}

impl Shelf {
    /// `None` for a subscription without a destination.
    pub(crate) fn of(letters: &DeadLetters, route: &SubscriptionRoute) -> Option<Self> {
        let container = letters.container(route.dead_letter.as_ref()?)?;
        let place = DeadLetterPlace {
            kind: route.topic_kind,
            namespace: &route.namespace_name,
            topic: &route.topic_name,
            subscription: &route.name,
        };
        Some(Self::new(container, dead_letter_prefix(&place), letters.store(), route.number))
    }

    pub(crate) fn new(
        container: Container,
        prefix: String,
        store: StoreTag,
        subscription: SubscriptionNumber,
    ) -> Self {
        Self { container, prefix, store, subscription }
    }

    /// Whether a letter on it is of its subscription.
    pub(crate) fn owns(&self, key: LetterKey) -> bool {
        key.guid.is_of(self.store, self.subscription)
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A letter's path in its container.
    pub(crate) fn path(&self, key: LetterKey, state: LetterState) -> String {
        format!("{}/{}/{}{}", self.prefix, key.hour.path(), key.guid, state.suffix())
    }

    /// The next letters after `after`, at most `max`; none when there are no more. Only the hours of `selection`
    /// are looked into; the rest of it has to be judged by what the letters say.
    pub(crate) async fn next(
        &self,
        selection: &Selection,
        state: LetterState,
        after: Option<LetterKey>,
        max: usize,
    ) -> io::Result<Vec<LetterKey>> {
        let first = Hour { year: 0, month: 0, day: 0, hour: 0 };
        let since = selection.since.map_or(first, Hour::of);
        let mut from = after.map_or(first, |after| after.hour).max(since);
        let mut keys = Vec::new();
        while keys.len() < max {
            let Some(hour) = self.hour_from(from).await? else { break };
            if !selection.reaches(hour) {
                break; // Hours ascend, so the end of the selection is behind us.
            }
            let names = Names {
                prefix: LetterGuid::prefix(self.store, self.subscription),
                suffix: state.suffix(),
                after: after
                    .filter(|after| after.hour == hour)
                    .map(|after| format!("{}{}", after.guid, state.suffix())),
                max: max - keys.len(),
            };
            let names = self.container.names(&format!("{}/{}", self.prefix, hour.path()), names).await?;
            let guid = |name: &String| name.strip_suffix(state.suffix())?.parse::<LetterGuid>().ok();
            keys.extend(names.iter().filter_map(guid).map(|guid| LetterKey { hour, guid }));
            from = Hour { hour: hour.hour + 1, ..hour };
        }
        Ok(keys)
    }

    /// The first hour from `from` on that has a directory.
    async fn hour_from(&self, from: Hour) -> io::Result<Option<Hour>> {
        let small = |number: u16| u8::try_from(number).ok();
        for year in self.container.numbers(&self.prefix).await? {
            if year < from.year {
                continue;
            }
            let months = self.container.numbers(&format!("{}/{year}", self.prefix)).await?;
            for month in months.into_iter().filter_map(small) {
                if (year, month) < (from.year, from.month) {
                    continue;
                }
                let days = self.container.numbers(&format!("{}/{year}/{month}", self.prefix)).await?;
                for day in days.into_iter().filter_map(small) {
                    if (year, month, day) < (from.year, from.month, from.day) {
                        continue;
                    }
                    let hours =
                        self.container.numbers(&format!("{}/{year}/{month}/{day}", self.prefix)).await?;
                    let hours = hours.into_iter().filter_map(small).filter(|hour| *hour < 24);
                    let mut hours = hours.map(|hour| Hour { year, month, day, hour });
                    if let Some(hour) = hours.find(|hour| from <= *hour) {
                        return Ok(Some(hour));
                    }
                }
            }
        }
        Ok(None)
    }
}
