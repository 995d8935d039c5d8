//! Reading a request's body, within a limit; and reading past what nobody wanted.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use gridwire_core::api_error::{ApiError, ErrorCode};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

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
    pub(crate) fn watch(incoming: Incoming) -> (Body, Self) {
        let unread = Self::default();
        (Body::Incoming(Arriving { incoming: Some(incoming), unread: unread.clone() }), unread)
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
    /// The whole body, or 413 as soon as more than `max` bytes are declared or counted.
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
        let mut first: Option<Bytes> = None;
        let mut rest = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|_| {
                ApiError::new(ErrorCode::InvalidRequest, "The request body ended early or is badly framed.")
            })?;
            let Ok(data) = frame.into_data() else { continue };
            let so_far = first.as_ref().map_or(0, Bytes::len) + rest.len();
            if so_far + data.len() > max {
                return Err(too_large());
            }
            match &first {
                None => first = Some(data),
                Some(start) => {
                    if rest.is_empty() {
                        let expected =
                            usize::try_from(declared.lower()).unwrap_or(0).saturating_sub(start.len());
                        rest.reserve(expected.max(data.len()));
                    }
                    rest.extend_from_slice(&data);
                }
            }
        }
        // The usual body arrives in one piece and is not copied.
        match first {
            None => Ok(Bytes::new()),
            Some(first) if rest.is_empty() => Ok(first),
            Some(first) => {
                let mut whole = BytesMut::with_capacity(first.len() + rest.len());
                whole.extend_from_slice(&first);
                whole.extend_from_slice(&rest);
                Ok(whole.freeze())
            }
        }
    }
}
