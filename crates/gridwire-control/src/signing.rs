//! The keys that a subscription's deliveries are signed with: listed, rotated, removed.
//!
//! They are no property of the subscription, so a PUT by somebody who does not know of them changes none. The first
//! rotation makes a first key, and from then on deliveries are signed. Each further one makes a new key, and those
//! that sign now go on for an overlap, in which receivers change over.

use std::sync::Arc;
use std::time::Duration;

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::signing::SigningKey;
use gridwire_core::time::Timestamp;
use gridwire_outside::Rng;
use serde_json::{Map, Value, json};

use crate::change::{Change, Failure, Turn};
use crate::control::Shared;
use crate::document::{Entry, not_found};
use crate::iso_duration;
use crate::members::{Members, invalid};

/// How long an earlier key signs beside the new one, unless told otherwise (`reliability` contract section 3.5), and
/// the longest that can be asked for: a key that is never retired is no rotation.
const OVERLAP: Duration = Duration::from_secs(24 * 3600);
const OVERLAP_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Keys that sign at once; each costs every delivery a signature and a header its length.
const LIVE_MAX: usize = 4;

/// Reads the body of a rotation.
pub(crate) fn read_overlap(body: &Map<String, Value>) -> Result<Duration, ApiError> {
    let members = Members::new(body, "");
    let Some(text) = members.text("overlap")? else { return Ok(OVERLAP) };
    iso_duration::parse(text).filter(|overlap| *overlap <= OVERLAP_MAX).ok_or_else(|| {
        invalid("The property `overlap` must be an ISO 8601 duration of at most 30 days, such as `PT24H` or `PT0S`.")
    })
}

/// The keys that sign now, the newest last, with their secrets.
pub(crate) fn list(keys: &[SigningKey], now: Timestamp) -> Value {
    let live = keys.iter().filter(|key| key.is_live(now)).map(|key| {
        let mut shown = json!({ "key": key.reveal(), "createdAt": key.created_at.to_string() });
        if let Some(until) = key.until {
            shown["signsUntil"] = until.to_string().into();
        }
        shown
    });
    json!({ "value": live.collect::<Vec<_>>() })
}

/// The keys after a rotation now; `None` when too many would sign.
fn rotated(keys: &[SigningKey], overlap: Duration, rng: &dyn Rng, now: Timestamp) -> Option<Vec<SigningKey>> {
    let end = now + overlap;
    let earlier = keys.iter().map(|key| {
        // One that ends sooner by an earlier rotation still does.
        let until = key.until.map_or(end, |until| until.min(end));
        key.clone().ending(until)
    });
    let mut keys: Vec<SigningKey> = earlier.filter(|key| key.is_live(now)).collect();
    let mut bytes = [0; 32];
    rng.fill(&mut bytes);
    keys.push(SigningKey::new(bytes, now));
    (keys.len() <= LIVE_MAX).then_some(keys)
}

impl Shared {
    /// Makes a new key, and lets the others sign for `overlap` more.
    pub(crate) async fn rotate_signing_key(
        &self,
        change: &Change,
        overlap: Duration,
    ) -> Result<Turn, Failure> {
        let existing = self.signer(change)?;
        let now = self.clock.now();
        let Some(keys) = rotated(&existing.document.signing, overlap, &*self.rng, now) else {
            let message = format!(
                "{LIVE_MAX} signing keys sign already. Wait until one of them ends, or rotate with a shorter `overlap`."
            );
            return Err(ApiError::new(ErrorCode::Conflict, message).into());
        };
        let mut document = existing.document.clone();
        document.signing = keys;
        self.replace(&existing, document).await
    }

    /// Deliveries are not signed any more.
    pub(crate) async fn remove_signing_keys(&self, change: &Change) -> Result<Turn, Failure> {
        let existing = self.signer(change)?;
        let mut document = existing.document.clone();
        document.signing.clear();
        self.replace(&existing, document).await
    }

    /// The subscription, if it delivers anything that could be signed.
    fn signer(&self, change: &Change) -> Result<Arc<Entry>, ApiError> {
        let existing = self.state().resources.get(&change.address).cloned();
        change.preconditions.check(existing.as_deref())?;
        let existing = existing.ok_or_else(|| not_found(&change.address))?;
        existing.facts().subscription().ok_or_else(|| not_found(&change.address))?.require_webhook()?;
        Ok(existing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestRng;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn an_earlier_key_signs_for_the_overlap_and_no_key_longer_than_it_was_told_to() {
        let rotate = |keys: &[SigningKey], overlap, now| rotated(keys, overlap, &TestRng, now);
        let first = rotate(&[], OVERLAP, NOW).unwrap();
        assert_eq!(first.iter().map(|key| key.until).collect::<Vec<_>>(), [None]);
        let second = rotate(&first, 2 * HOUR, NOW + HOUR).unwrap();
        assert_eq!(second[0].until, Some(NOW + 3 * HOUR));
        let third = rotate(&second, 24 * HOUR, NOW + 2 * HOUR).unwrap();
        let ends: Vec<_> = third.iter().map(|key| key.until).collect();
        assert_eq!(ends, [Some(NOW + 3 * HOUR), Some(NOW + 26 * HOUR), None]);
        let fourth = rotate(&third, HOUR, NOW + 3 * HOUR).unwrap();
        assert_eq!(fourth.len(), 3, "the first has ended");
        // After a leak: from now on only the new one.
        let alone = rotate(&fourth, Duration::ZERO, NOW + 3 * HOUR).unwrap();
        assert_eq!(alone.iter().map(|key| key.until).collect::<Vec<_>>(), [None]);
        let mut keys = Vec::new();
        for _ in 0..LIVE_MAX {
            keys = rotate(&keys, HOUR, NOW).unwrap();
        }
        assert_eq!(rotate(&keys, HOUR, NOW), None);
    }
}
