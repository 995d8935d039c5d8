//! Ends event subscriptions at their `expirationTimeUtc`.
//!
//! A reconciler: a pass takes no input, looks for subscriptions whose time has come, and removes them as their
//! owner would, in use and all. It is woken by the clock at the next such time, by every change of the
//! resources, and after a failure by a pause. The pass at the start removes what expired meanwhile.

use std::sync::Arc;
use std::time::Duration;

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::time::Timestamp;
use http::StatusCode;
use tokio_util::sync::CancellationToken;

use crate::address::{Address, Form};
use crate::change::{Change, Operation};
use crate::control::{Control, Shared};
use crate::plan::Preconditions;

/// Before a removal that failed is tried again, in real time.
const RETRY: Duration = Duration::from_secs(5);

/// What a pass came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    pub removed: usize,
    /// Subscriptions that should be gone and are not.
    pub failed: usize,
    /// When the next of the others expires; [`Timestamp::MAX`] for never.
    pub next: Timestamp,
}

impl Control {
    /// Removes the event subscriptions whose time has come.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: the removals go on.
    pub async fn expire(&self) -> Expiry {
        let shared = Arc::clone(self.shared());
        if self.changes().is_closed() {
            return Expiry { removed: 0, failed: 0, next: shared.next_expiration(shared.clock.now()) };
        }
        let pass = self.changes().spawn(async move { shared.expire().await });
        pass.await.unwrap_or_else(|failure| {
            tracing::error!(%failure, "the removal of expired subscriptions ended by a panic");
            Expiry { removed: 0, failed: 1, next: Timestamp::MAX }
        })
    }

    /// When the next event subscription expires, apart from those that should be gone already.
    pub fn next_expiration(&self) -> Timestamp {
        self.shared().next_expiration(self.shared().clock.now())
    }

    /// Runs passes until `stop`.
    pub async fn keep_expiring(self: Arc<Self>, stop: CancellationToken) {
        let shared = Arc::clone(self.shared());
        loop {
            let Expiry { failed, next, .. } = self.expire().await;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = shared.changed.notified() => {}
                () = shared.clock.sleep_until(next), if next != Timestamp::MAX => {}
                () = shared.clock.sleep(RETRY), if 0 < failed => {}
            }
        }
    }
}

impl Shared {
    async fn expire(&self) -> Expiry {
        let now = self.clock.now();
        let (mut removed, mut failed) = (0, 0);
        for (address, etag) in self.expired(now) {
            let id = address.id(Form::Nested);
            // Its owner may give it more time while we are at it.
            let preconditions = Preconditions { if_match: Some(etag), if_absent: false };
            let outcome = self.make(&Change { address, operation: Operation::Delete, preconditions }).await;
            match &outcome {
                Ok(_) => removed += 1,
                Err(ApiError { code: ErrorCode::PreconditionFailed, .. }) => continue,
                Err(error) => {
                    tracing::warn!(resource = id, %error, "an expired subscription could not be removed yet");
                    failed += 1;
                }
            }
            gridwire_http::audit_own("expire", &id, outcome.as_ref().map(|_| StatusCode::OK));
        }
        Expiry { removed, failed, next: self.next_expiration(now) }
    }

    /// Event subscriptions whose time has come, each with its entity tag.
    fn expired(&self, now: Timestamp) -> Vec<(Address, String)> {
        let state = self.state();
        let expired = state.resources.expired(now);
        expired.map(|entry| (entry.document.address.clone(), entry.etag())).collect()
    }

    /// The earliest expiration after `now`.
    fn next_expiration(&self, now: Timestamp) -> Timestamp {
        self.state().resources.next_expiration(now).unwrap_or(Timestamp::MAX)
    }
}
