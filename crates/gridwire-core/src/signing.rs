//! Signatures of deliveries as Standard Webhooks has them (`reliability` contract section 3.5).
//!
//! A delivery says which message it is (`webhook-id`, the same over its retries), when it was sent
//! (`webhook-timestamp`, fresh with each), and proves both and its body with each key that is live
//! (`webhook-signature`). While one key takes another's place both sign, so a receiver can change over at its own
//! pace.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;

use crate::ids::{Offset, SubscriptionNumber};
use crate::time::Timestamp;

/// What the text of a key begins with.
const PREFIX: &str = "whsec_";
const KEY_BYTES: usize = 32;

/// One key that deliveries are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    key: [u8; KEY_BYTES],
    pub created_at: Timestamp,
    /// When it stops to sign, once another has taken its place.
    pub until: Option<Timestamp>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("until", &self.until).finish_non_exhaustive()
    }
}

impl SigningKey {
    pub fn new(key: [u8; KEY_BYTES], created_at: Timestamp) -> Self {
        Self { key, created_at, until: None }
    }

    /// The same key, that stops to sign then.
    #[must_use]
    pub fn ending(self, until: Timestamp) -> Self {
        Self { until: Some(until), ..self }
    }

    /// As receivers are given it.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(self.key))
    }

    /// Reads what [`SigningKey::reveal`] wrote.
    pub fn parse(text: &str, created_at: Timestamp, until: Option<Timestamp>) -> Option<Self> {
        let key = STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?.try_into().ok()?;
        Some(Self { key, created_at, until })
    }

    pub fn is_live(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// The headers that sign one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// `webhook-timestamp`.
    pub timestamp: String,
    /// `webhook-signature`.
    pub signature: String,
}

/// The `webhook-id` of the events of one request for a subscription: the same for every attempt at them, before and
/// after a restart, and never the same for others. Receivers drop repeats by it, so it is of all the events: a batch
/// that comes back with another one in it must not be taken for the one before.
pub fn message_id(subscription: SubscriptionNumber, offsets: &[Offset]) -> String {
    let first = offsets.first().map_or(0, |offset| offset.0);
    let mut id = format!("msg_{}_{first}", subscription.0);
    if offsets.len() > 1 {
        let mut all = ring::digest::Context::new(&ring::digest::SHA256);
        for offset in offsets {
            all.update(&offset.0.to_le_bytes());
        }
        id.push('_');
        id.push_str(&URL_SAFE_NO_PAD.encode(&all.finish().as_ref()[..18]));
    }
    id
}

/// Signs a request that is sent now with every key that is live; `None` when there is none. Keys live by broker time,
/// `now`; `wall` is what the wall clock shows, for receivers refuse what is minutes away from theirs, and broker time
/// may be ahead of everybody's.
pub fn sign(keys: &[SigningKey], id: &str, body: &[u8], now: Timestamp, wall: Timestamp) -> Option<Signed> {
    let timestamp = (wall.as_millis() / 1000).to_string();
    let mut signature = String::new();
    for key in keys.iter().filter(|key| key.is_live(now)) {
        if !signature.is_empty() {
            signature.push(' ');
        }
        signature.push_str(&sign_with(&key.key, id, &timestamp, body));
    }
    (!signature.is_empty()).then_some(Signed { timestamp, signature })
}

fn sign_with(key: &[u8], id: &str, timestamp: &str, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        context.update(part);
    }
    format!("v1,{}", STANDARD.encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_614_265_330_999);

    #[test]
    fn a_message_is_known_by_all_its_events() {
        let id = |offsets: &[u64]| {
            let offsets: Vec<_> = offsets.iter().copied().map(Offset).collect();
            message_id(SubscriptionNumber(7), &offsets)
        };
        assert_eq!(id(&[12]), "msg_7_12");
        assert_eq!(id(&[12, 13, 14]), id(&[12, 13, 14]));
        let different = [id(&[12]), id(&[12, 13]), id(&[12, 13, 14]), id(&[12, 14, 15])];
        let distinct: std::collections::BTreeSet<_> = different.iter().collect();
        assert_eq!(distinct.len(), different.len(), "{different:?}");
    }

    #[test]
    fn the_example_of_the_specifications_libraries_has_its_signature() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(
            sign_with(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn every_live_key_signs_and_no_other() {
        let old = SigningKey { until: Some(NOW), ..SigningKey::new([1; 32], NOW) };
        let new = SigningKey::new([2; 32], NOW);
        let keys = [old, new.clone()];
        let before = Timestamp::from_millis(NOW.as_millis() - 1);
        let both = sign(&keys, "msg_1_2", b"{}", before, before).unwrap();
        assert_eq!(both.timestamp, "1614265330");
        let signatures: Vec<&str> = both.signature.split(' ').collect();
        assert_eq!(signatures.len(), 2);
        let one = sign(&keys, "msg_1_2", b"{}", NOW, NOW).unwrap();
        assert_eq!(one.signature, signatures[1]);
        assert_eq!(sign(&keys[..1], "msg_1_2", b"{}", NOW, NOW), None);
        // Keys end by broker time; what is written into the request is the wall clock's.
        let hour = std::time::Duration::from_secs(3600);
        let ahead = sign(&keys, "msg_1_2", b"{}", NOW + hour, NOW).unwrap();
        assert_eq!(ahead, one);
        for (id, body, now) in [
            ("msg_1_3", &b"{}"[..], NOW),
            ("msg_1_2", b"{ }", NOW),
            ("msg_1_2", b"{}", NOW + std::time::Duration::from_secs(1)),
        ] {
            assert_ne!(
                sign(std::slice::from_ref(&new), id, body, now, now).unwrap().signature,
                one.signature
            );
        }
    }

    #[test]
    fn a_key_is_read_as_it_was_written_and_never_printed() {
        let key = SigningKey::new([7; 32], NOW);
        let text = key.reveal();
        assert!(text.starts_with("whsec_"), "{text}");
        assert_eq!(SigningKey::parse(&text, NOW, None), Some(key.clone()));
        assert!(!format!("{key:?}").contains(&text[6..]));
        for wrong in ["", "whsec_", "BwcH", "whsec_BwcH", "whsec_!"] {
            assert_eq!(SigningKey::parse(wrong, NOW, None), None, "{wrong}");
        }
    }
}
