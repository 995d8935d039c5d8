//! Reading a request's body, within a limit; and reading past what nobody wanted.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_outside::Clock;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::pace::Pace;

/// A body up to this size is always read: small publishes go on while large ones fill the budget. Times the
/// connections that there may be, it is as much again.
const BYTES_FREE: usize = 8 << 10;
/// Taken from the budget at a time by a body that does not say its length.
const BYTES_STEP: usize = 64 << 10;

/// Memory for the bodies of all requests that are being read or answered. More are refused, not waited for:
/// whoever waits would hold what it has so far.
#[derive(Clone, Debug)]
pub struct BodyBudget(Arc<Semaphore>);

impl BodyBudget {
    pub fn new(bytes: u32) -> Self {
        Self(Arc::new(Semaphore::new(bytes as usize)))
    }

    /// Takes so many bytes of it, or refuses.
    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(&self.0).try_acquire_many_owned(count).map_err(|_| {
            ApiError::new(ErrorCode::Overloaded, "The server is busy with large requests. Try again.")
                .with_retry_after(OVERLOAD_WAIT)
        })
    }
}

/// Until the bodies of now are answered, or nearly.
const OVERLOAD_WAIT: Duration = Duration::from_secs(1);

/// A request whose body has not been read: who may not send it is refused before.
pub type Request = http::Request<Body>;

/// A request body: on its way from a client, or made by a test.
#[derive(Debug)]
pub enum Body {
    Incoming(Arriving),
    Ready(Bytes),
}

/// A body on its way. What its owner does not read is kept for [`Unread`].
#[derive(Debug)]
pub struct Arriving {
    /// `None` when nothing can come any more.
    incoming: Option<Incoming>,
    unread: Unread,
    budget: BodyBudget,
    clock: Arc<dyn Clock>,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let Some(incoming) = self.incoming.take() else { return };
        if !incoming.is_end_stream() {
            self.unread.rest().body = Some(incoming);
        }
    }
}

/// What a refused request's sender still wants to send.
///
/// Most clients write the whole body before they look for the answer. Were the connection closed on them, they
/// would report a broken pipe and try again, instead of the 401 or 413 that waits for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unread(Arc<Mutex<Rest>>);

/// What outlives a body that was given to a service.
#[derive(Debug, Default)]
struct Rest {
    body: Option<Incoming>,
    /// What the body has of the budget, until the request is answered.
    held: Option<OwnedSemaphorePermit>,
}

impl Unread {
    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, more: OwnedSemaphorePermit) {
        match &mut self.rest().held {
            Some(held) => held.merge(more),
            held => *held = Some(more),
        }
    }

    /// The body to give to a service, and what will be left of it.
    pub(crate) fn watch(incoming: Incoming, budget: BodyBudget, clock: Arc<dyn Clock>) -> (Body, Self) {
        let unread = Self::default();
        let arriving = Arriving { incoming: Some(incoming), unread: unread.clone(), budget, clock };
        (Body::Incoming(arriving), unread)
    }

    /// Whether the body was given up before its end. Usually not: then there is nothing to wait for.
    pub(crate) fn is_there(&self) -> bool {
        self.rest().body.is_some()
    }

    /// Reads and drops what is left, once the body itself is gone; ends early after `max` bytes.
    pub(crate) async fn discard(self, max: u64) {
        let left = self.rest().body.take();
        let Some(mut incoming) = left else { return };
        if incoming.size_hint().lower() > max {
            return; // It could not be read to its end.
        }
        let mut dropped = 0;
        while let Some(Ok(frame)) = incoming.frame().await {
            dropped += frame.data_ref().map_or(0, |data| data.len() as u64);
            if dropped > max {
                return;
            }
        }
    }
}

/// The next frame, when it need not be waited for: the usual body has come with its head, and costs no timer.
async fn at_hand(incoming: &mut Incoming) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *incoming).poll_frame(context))).await
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Ready(bytes)
    }
}

impl Body {
    /// The whole body; 413 as soon as more than `max` bytes are declared or counted, 408 when it comes too slowly,
    /// 503 when too many bytes of other bodies are under way.
    pub async fn read(self, max: usize) -> Result<Bytes, ApiError> {
        let too_large =
            || ApiError::new(ErrorCode::TooLarge, format!("The request is larger than {max} bytes."));
        let mut arriving = match self {
            Self::Ready(bytes) if bytes.len() > max => return Err(too_large()),
            Self::Ready(bytes) => return Ok(bytes),
            Self::Incoming(arriving) => arriving,
        };
        let Some(incoming) = arriving.incoming.as_mut() else { return Ok(Bytes::new()) };
        let declared = incoming.size_hint();
        if declared.lower() > max as u64 {
            return Err(too_large());
        }
        let mut allowed_bytes = BYTES_FREE;
        if declared.lower() > BYTES_FREE as u64 {
            allowed_bytes = usize::try_from(declared.lower()).unwrap_or(max);
            arriving.unread.hold(arriving.budget.take(allowed_bytes)?);
        }
        let mut pace = Pace::begin(arriving.clock.monotonic());
        // The usual body arrives in one piece and is not copied.
        let mut first = Bytes::new();
        let mut whole = BytesMut::new();
        loop {
            let so_far = first.len().max(whole.len());
            let frame = match at_hand(incoming).await {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let left = pace.ends().saturating_sub(arriving.clock.monotonic());
                    tokio::select! {
                        biased;
                        frame = incoming.frame() => frame,
                        () = arriving.clock.sleep(left) => {
                            // Nothing more is read of it: the connection ends with the answer.
                            arriving.incoming = None;
                            let message = "The request body came too slowly.";
                            return Err(ApiError::new(ErrorCode::RequestTimeout, message));
                        }
                    }
                }
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| {
                ApiError::new(ErrorCode::InvalidRequest, "The request body ended early or is badly framed.")
            })?;
            let Ok(data) = frame.into_data() else { continue };
            pace.moved(data.len(), arriving.clock.monotonic());
            if so_far + data.len() > max {
                return Err(too_large());
            }
            if so_far + data.len() > allowed_bytes {
                let more = BYTES_STEP.max(so_far + data.len() - allowed_bytes);
                arriving.unread.hold(arriving.budget.take(more)?);
                allowed_bytes += more;
            }
            if so_far == 0 {
                first = data;
                continue;
            }
            if whole.is_empty() {
                let expected = usize::try_from(declared.lower()).unwrap_or(0);
                whole.reserve(expected.clamp(so_far + data.len(), max));
                whole.extend_from_slice(&first);
            }
            whole.extend_from_slice(&data);
        }
        Ok(if whole.is_empty() { first } else { whole.freeze() })
    }
}
