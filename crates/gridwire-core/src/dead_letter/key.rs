//! The names of dead letters.

use std::fmt;
use std::str::FromStr;

use crate::ids::{Offset, SubscriptionNumber};
use crate::time::Timestamp;

/// Says which store a dead letter is of, in 28 bits. Subscriptions and offsets are counted anew in each store, and
/// several may share a container: they must neither replace nor take each other's letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreTag(u32);

impl StoreTag {
    /// Of something that only this store has, which it does not tell.
    pub fn of(own: &[u8]) -> Self {
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        hash.update(b"gridwire dead letters of a store\0");
        hash.update(own);
        let hash = hash.finish();
        let (first, _) = hash.as_ref().split_first_chunk().expect("SHA-256 has 32 bytes");
        Self(u32::from_be_bytes(*first) >> 4)
    }
}

/// The `{guid}` in a dead letter's path: the same whenever one event of one subscription is dead-lettered, so
/// that writing it again finds the same file. Shaped as a version 8 UUID: 32 bits of the subscription's number, 28
/// of its store, 62 of the event's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterGuid([u8; 16]);

impl LetterGuid {
    pub fn of(store: StoreTag, subscription: SubscriptionNumber, offset: Offset) -> Self {
        // No store lives to see 2^62 events of one topic.
        let event = (offset.0 & (u64::MAX >> 2)) | 1 << 63;
        Self((Self::owner(store, subscription) | u128::from(event)).to_be_bytes())
    }

    /// What all letters of a subscription have in common.
    fn owner(store: StoreTag, subscription: SubscriptionNumber) -> u128 {
        let store = (store.0 >> 12 << 16) | 0x8000 | (store.0 & 0xfff);
        u128::from(subscription.0) << 96 | u128::from(store) << 64
    }

    /// Whether it is a letter of this subscription of this store.
    pub fn is_of(self, store: StoreTag, subscription: SubscriptionNumber) -> bool {
        u128::from_be_bytes(self.0) >> 64 << 64 == Self::owner(store, subscription)
    }

    /// Its event's.
    pub fn offset(self) -> Offset {
        let event = u128::from_be_bytes(self.0) & u128::from(u64::MAX >> 2);
        Offset(u64::try_from(event).expect("62 bits are left of it"))
    }

    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// How the GUIDs of a subscription's letters begin.
    pub fn prefix(store: StoreTag, subscription: SubscriptionNumber) -> String {
        let mut text = Self((Self::owner(store, subscription)).to_be_bytes()).to_string();
        text.truncate("00000000-0000-0000-".len());
        text
    }
}

impl fmt::Display for LetterGuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = u128::from_be_bytes(self.0);
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            number >> 96,
            (number >> 80) & 0xffff,
            (number >> 64) & 0xffff,
            (number >> 48) & 0xffff,
            number & 0xffff_ffff_ffff
        )
    }
}

/// A text that names no dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a dead letter, such as 2026112809-0000002a-58f1-8d2a-9a67-0f3c61d0b4e2")]
pub struct NotALetter;

impl FromStr for LetterGuid {
    type Err = NotALetter;

    fn from_str(text: &str) -> Result<Self, NotALetter> {
        let bytes = text.as_bytes();
        let shaped = bytes.len() == 36
            && bytes.iter().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => *byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            });
        if !shaped {
            return Err(NotALetter);
        }
        let digits = text.replace('-', "");
        let number = u128::from_str_radix(&digits, 16).map_err(|_| NotALetter)?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// An hour of the calendar in UTC: the directory a dead letter is in, by the time its event was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour {
    pub year: u16,
    pub month: u8,
    pub day: u8,
    pub hour: u8,
}

impl Hour {
    /// Past the year 9999 there is no calendar; what comes later shares one hour.
    pub const LAST: Self = Self { year: 9999, month: 12, day: 31, hour: 23 };

    pub fn of(time: Timestamp) -> Self {
        let Some(civil) = time.to_civil() else { return Self::LAST };
        let small = |part: i8| u8::try_from(part).unwrap_or(0);
        Self {
            year: u16::try_from(civil.year()).unwrap_or(0),
            month: small(civil.month()),
            day: small(civil.day()),
            hour: small(civil.hour()),
        }
    }

    /// `{yyyy}/{M}/{d}/{H}`, without padding.
    pub fn path(self) -> String {
        format!("{}/{}/{}/{}", self.year, self.month, self.day, self.hour)
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}{:02}{:02}{:02}", self.year, self.month, self.day, self.hour)
    }
}

impl FromStr for Hour {
    type Err = NotALetter;

    fn from_str(text: &str) -> Result<Self, NotALetter> {
        if text.len() != 10 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NotALetter);
        }
        let part = |at: usize| text[at..at + 2].parse().map_err(|_| NotALetter);
        Ok(Self {
            year: text[..4].parse().map_err(|_| NotALetter)?,
            month: part(4)?,
            day: part(6)?,
            hour: part(8)?,
        })
    }
}

/// A dead letter of a subscription. Keys ascend in the order in which letters are listed, and their text does
/// too: `2026112809-{guid}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterKey {
    pub hour: Hour,
    pub guid: LetterGuid,
}

impl LetterKey {
    /// The letter of an event of a subscription. By the time it was published, so that a repeat after a crash
    /// finds the same path and overwrites its own copy.
    pub fn of(
        store: StoreTag,
        subscription: SubscriptionNumber,
        offset: Offset,
        published: Timestamp,
    ) -> Self {
        Self { hour: Hour::of(published), guid: LetterGuid::of(store, subscription, offset) }
    }

    /// As it is stored: year in two bytes, little-endian; month, day, hour; GUID.
    pub fn to_bytes(self) -> [u8; 21] {
        let Hour { year, month, day, hour } = self.hour;
        let [low, high] = year.to_le_bytes();
        let mut bytes = [0; 21];
        bytes[..5].copy_from_slice(&[low, high, month, day, hour]);
        bytes[5..].copy_from_slice(&self.guid.to_bytes());
        bytes
    }

    /// Reads what [`LetterKey::to_bytes`] made; `None` when the bytes are not that.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&[low, high, month, day, hour], guid) = bytes.split_first_chunk()?;
        let hour = Hour { year: u16::from_le_bytes([low, high]), month, day, hour };
        Some(Self { hour, guid: LetterGuid::from_bytes(guid.try_into().ok()?) })
    }
}

impl fmt::Display for LetterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.hour, self.guid)
    }
}

impl FromStr for LetterKey {
    type Err = NotALetter;

    fn from_str(text: &str) -> Result<Self, NotALetter> {
        let (hour, guid) = text.split_once('-').ok_or(NotALetter)?;
        Ok(Self { hour: hour.parse()?, guid: guid.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_says_whose_letter_it_is_and_differs_by_event_and_store() {
        let (here, there) = (StoreTag::of(b"here"), StoreTag::of(b"there"));
        let guid = |store, subscription, offset| {
            LetterGuid::of(store, SubscriptionNumber(subscription), Offset(offset))
        };
        let one = guid(here, 42, 7);
        assert_eq!(one, guid(here, 42, 7));
        let text = one.to_string();
        assert!(text.starts_with(&LetterGuid::prefix(here, SubscriptionNumber(42))), "{text}");
        assert!(!text.starts_with(&LetterGuid::prefix(there, SubscriptionNumber(42))), "{text}");
        assert_eq!((text.len(), &text[14..15]), (36, "8"), "{text}");
        assert!("89ab".contains(&text[19..20]), "{text}");
        assert_eq!(text.parse(), Ok(one));
        assert_eq!((one.offset(), guid(here, 42, 1 << 61).offset()), (Offset(7), Offset(1 << 61)));
        assert!(one.is_of(here, SubscriptionNumber(42)));
        assert!(!one.is_of(there, SubscriptionNumber(42)) && !one.is_of(here, SubscriptionNumber(7)));
        for other in [guid(here, 42, 8), guid(here, 43, 7), guid(here, 7, 42), guid(there, 42, 7)] {
            assert_ne!(one, other);
        }
        assert!(one.to_string() < guid(here, 42, 8).to_string(), "in the order of their events");
    }

    #[test]
    fn keys_and_their_texts_ascend_together() {
        let guid = LetterGuid::of(StoreTag::default(), SubscriptionNumber(1), Offset(1));
        let key = |text: &str| LetterKey { hour: Hour::of(Timestamp::parse_rfc3339(text).unwrap()), guid };
        let keys = [key("2026-09-30T23:59:59Z"), key("2026-10-01T00:00:00Z"), key("2026-10-01T10:00:00Z")];
        assert!(keys.is_sorted());
        assert!(keys.map(|key| key.to_string()).is_sorted());
        assert_eq!(keys[1].hour.path(), "2026/10/1/0");
        for key in keys {
            assert_eq!(key.to_string().parse(), Ok(key));
        }
        assert_eq!(Hour::of(Timestamp::MAX), Hour::LAST);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            "x",
            "2026-1",
            "2026112809",
            "2026112809-",
            "20261128091-0000002a-58f1-8d2a-9a67-0f3c61d0b4e2",
            "2026112809-0000002A-58f1-8d2a-9a67-0f3c61d0b4e2",
            "2026112809-0000002a-58f1-8d2a-9a67-0f3c61d0b4é2",
        ] {
            assert_eq!(text.parse::<LetterKey>(), Err(NotALetter), "{text}");
        }
    }
}
