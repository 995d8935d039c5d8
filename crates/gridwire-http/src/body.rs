//! Reading a request's body, within a limit; and reading past what nobody wanted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_outside::Clock;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

/// How long a body may take, and how much more time each second's worth of bytes gives (`reliability`, 3.1).
const PATIENCE: Duration = Duration::from_secs(10);
const BYTES_PER_SECOND_MIN: u64 = 1024;

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
    clock: Arc<dyn Clock>,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let Some(incoming) = self.incoming.take() else { return };
        if !incoming.is_end_stream() {
            *self.unread.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(incoming);
        }
    }
}

/// What a refused request's sender still wants to send.
///
/// Most clients write the whole body before they look for the answer. Were the connection closed on them, they
/// would report a broken pipe and try again, instead of the 401 or 413 that waits for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unread(Arc<Mutex<Option<Incoming>>>);

impl Unread {
    /// The body to give to a service, and what will be left of it.
    pub(crate) fn watch(incoming: Incoming, clock: Arc<dyn Clock>) -> (Body, Self) {
        let unread = Self::default();
        (Body::Incoming(Arriving { incoming: Some(incoming), unread: unread.clone(), clock }), unread)
    }

    /// Whether the body was given up before its end. Usually not: then there is nothing to wait for.
    pub(crate) fn is_there(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Reads and drops what is left, once the body itself is gone; ends early after `max` bytes.
    pub(crate) async fn discard(self, max: u64) {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
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

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Ready(bytes)
    }
}

impl Body {
    /// The whole body; 413 as soon as more than `max` bytes are declared or counted, 408 when it comes too slowly.
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
        let begun = arriving.clock.monotonic();
        // The usual body arrives in one piece and is not copied.
        let mut first = Bytes::new();
        let mut whole = BytesMut::new();
        loop {
            let so_far = first.len().max(whole.len());
            let allowed = PATIENCE + Duration::from_secs(so_far as u64 / BYTES_PER_SECOND_MIN);
            let waited = arriving.clock.monotonic().saturating_sub(begun);
            let frame = tokio::select! {
                biased;
                frame = incoming.frame() => frame,
                () = arriving.clock.sleep(allowed.saturating_sub(waited)) => {
                    // Nothing more is read of it: the connection ends with the answer.
                    arriving.incoming = None;
                    return Err(ApiError::new(ErrorCode::RequestTimeout, "The request body came too slowly."));
                }
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| {
                ApiError::new(ErrorCode::InvalidRequest, "The request body ended early or is badly framed.")
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if so_far + data.len() > max {
                return Err(too_large());
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
