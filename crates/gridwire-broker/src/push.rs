//! temporary
use bytes::Bytes;
use gridwire_core::{ids::*, retry::Outcome, routing::*};
use gridwire_outside::*;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
#[derive(Clone, Debug, Default)]
pub struct PushOptions {}
pub(crate) struct Attempt {
    pub(crate) subscription: Arc<SubscriptionRoute>,
    pub(crate) key: AttemptKey,
    pub(crate) body: Bytes,
    pub(crate) content_type: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
}
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptKey {
    pub(crate) subscription: SubscriptionNumber,
    pub(crate) offset: Offset,
    pub(crate) id: u64,
    pub(crate) attempt: u32,
}
pub(crate) struct Finished {
    pub(crate) key: AttemptKey,
    pub(crate) outcome: Outcome,
    pub(crate) status: Option<u16>,
    pub(crate) latency: Duration,
}
#[derive(Debug)]
pub(crate) struct Dispatcher {}
impl Dispatcher {
    pub(crate) fn new(
        _net: Arc<dyn Net>,
        _clock: Arc<dyn Clock>,
        _rng: Arc<dyn Rng>,
        _options: PushOptions,
        _tasks: TaskTracker,
        _stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {})
    }
    pub(crate) fn start(&self, _attempt: Attempt, _done: &tokio::sync::mpsc::Sender<Finished>) {}
    pub(crate) async fn validate(&self, _handshake: Handshake) -> Result<(), HandshakeError> {
        Ok(())
    }
}
pub mod judge {}
