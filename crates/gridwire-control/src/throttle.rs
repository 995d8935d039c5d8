//! What the operator decides of a push subscription's deliveries: that there are none for now, or how many requests
//! there may be.
//!
//! Neither is a property of the subscription: whoever operates the server decides it, often in a hurry, and a PUT by a
//! program that knows nothing of it must not undo it. It holds until it is ended here, or the subscription is deleted.

use std::num::NonZeroU32;
use std::sync::Arc;

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::pace::{Pace, PaceSource, Pacing};
use gridwire_core::routing::DeliveryMode;
use serde_json::{Map, Value, json};

use crate::change::{Change, Failure, Turn};
use crate::control::Shared;
use crate::document::{Entry, not_found};
use crate::members::Members;

/// The highest cap that can be asked for: far above what one subscription is delivered, so none that anybody misses.
const PER_SECOND_MAX: u32 = 100_000;
const PER_SECOND: &str = "requestsPerSecond";

/// What holds now. The default is that nothing does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Throttle {
    pub paused: bool,
    /// Requests to the endpoint in a second at most; with batching a request carries several events.
    pub per_second: Option<NonZeroU32>,
}

/// One decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Pause,
    Resume,
    Limit(Option<NonZeroU32>),
}

impl Throttle {
    pub(crate) fn pacing(self) -> Pacing {
        let pace = match self.per_second {
            _ if self.paused => Pace::Paused,
            Some(rate) => Pace::per_minute(rate.get().saturating_mul(60)),
            None => Pace::Free,
        };
        Pacing::by(pace, PaceSource::Operator)
    }

    fn after(self, decision: Decision) -> Self {
        match decision {
            Decision::Pause => Self { paused: true, ..self },
            Decision::Resume => Self { paused: false, ..self },
            Decision::Limit(per_second) => Self { per_second, ..self },
        }
    }

    /// As the actions answer.
    pub(crate) fn show(self) -> Value {
        json!({ "paused": self.paused, PER_SECOND: self.per_second })
    }
}

/// Reads the body of `limitRate`. The rate must be there, if only as `null`: an empty body that lifted the cap would be
/// a trap.
pub(crate) fn read_limit(body: &Map<String, Value>) -> Result<Decision, ApiError> {
    let members = Members::new(body, "");
    let must = format!("a number between 1 and {PER_SECOND_MAX}, or null for no limit");
    match body.get(PER_SECOND) {
        Some(Value::Null) => Ok(Decision::Limit(None)),
        Some(value) => {
            let rate = value.as_u64().and_then(|rate| u32::try_from(rate).ok());
            let rate = rate.filter(|rate| *rate <= PER_SECOND_MAX).and_then(NonZeroU32::new);
            rate.map(|rate| Decision::Limit(Some(rate))).ok_or_else(|| members.wrong(PER_SECOND, &must))
        }
        None => Err(members.wrong(PER_SECOND, &must)),
    }
}

impl Shared {
    /// Keeps the decision and puts it in use.
    pub(crate) async fn throttle(&self, change: &Change, decision: Decision) -> Result<Turn, Failure> {
        let existing = self.pushed(change)?;
        let throttle = existing.document.throttle.after(decision);
        if throttle == existing.document.throttle {
            self.catch_up().await?;
            return Ok(Turn::Done(Some(existing)));
        }
        let mut document = existing.document.clone();
        document.throttle = throttle;
        self.replace(&existing, document).await
    }

    /// The subscription, if its events are sent.
    fn pushed(&self, change: &Change) -> Result<Arc<Entry>, ApiError> {
        let existing = self.state().resources.get(&change.address).cloned();
        change.preconditions.check(existing.as_deref())?;
        let existing = existing.ok_or_else(|| not_found(&change.address))?;
        let mode = existing.facts().subscription().map(|facts| &facts.mode);
        if matches!(mode, Some(DeliveryMode::Push { .. })) {
            return Ok(existing);
        }
        let message = "Only event subscriptions that push can be paused or limited. The events of this one are received: whoever receives them decides when.";
        Err(ApiError::new(ErrorCode::InvalidRequest, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(rate: u32) -> Decision {
        Decision::Limit(NonZeroU32::new(rate))
    }

    #[test]
    fn a_cap_outlives_a_pause() {
        let by_operator = |pace| Pacing::by(pace, PaceSource::Operator);
        let mut throttle = Throttle::default();
        for (decision, pace) in [
            (Decision::Resume, Pace::Free),
            (limit(5), Pace::per_minute(300)),
            (Decision::Pause, Pace::Paused),
            (limit(7), Pace::Paused),
            (Decision::Resume, Pace::per_minute(420)),
            (Decision::Limit(None), Pace::Free),
        ] {
            throttle = throttle.after(decision);
            assert_eq!(throttle.pacing(), by_operator(pace), "{decision:?}");
        }
        assert_eq!(throttle, Throttle::default());
    }

    #[test]
    fn a_cap_is_a_whole_number_of_requests_or_expressly_none() {
        let read = |body: Value| read_limit(body.as_object().unwrap()).ok();
        assert_eq!(read(json!({ "requestsPerSecond": 1 })), Some(limit(1)));
        assert_eq!(read(json!({ "requestsPerSecond": PER_SECOND_MAX })), Some(limit(PER_SECOND_MAX)));
        assert_eq!(read(json!({ "requestsPerSecond": null })), Some(Decision::Limit(None)));
        for wrong in [json!(0), json!(-1), json!(1.5), json!("5"), json!(PER_SECOND_MAX + 1), json!([1])] {
            assert_eq!(read(json!({ "requestsPerSecond": wrong })), None, "{wrong}");
        }
        assert_eq!(read(json!({})), None);
        assert_eq!(read(json!({ "perSecond": 5 })), None);
    }
}
