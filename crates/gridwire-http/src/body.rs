//! Reading a request's body, within a limit.

use bytes::{Bytes, BytesMut};
use gridwire_core::api_error::{ApiError, ErrorCode};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

/// A request whose body has not been read: who may not send it is refused before.
pub type Request = http::Request<Body>;

/// A request body: on its way from a client, or made by a test.
#[derive(Debug)]
pub enum Body {
    Incoming(Incoming),
    Ready(Bytes),
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
        let mut incoming = match self {
            Self::Ready(bytes) if bytes.len() > max => return Err(too_large()),
            Self::Ready(bytes) => return Ok(bytes),
            Self::Incoming(incoming) => incoming,
        };
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
