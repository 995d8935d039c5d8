//! Publish: parse once, match once, append, and answer when it is durable.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::filter::MatchSet;
use gridwire_core::frame::FrameBuilder;
use gridwire_core::limits;
use gridwire_core::planted::planted;
use gridwire_core::publish::{self, PublishRequest};
use gridwire_core::routing::{TopicKind, TopicRoute};
use gridwire_http::{Body, Response};
use gridwire_store::AppendError;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;

use crate::broker::Broker;
use crate::metrics::Tally;

/// What a match set and the lengths around an event cost in a frame, about.
const FRAME_OVERHEAD: usize = 32;

pub(super) async fn events(
    broker: &Broker,
    topic: &Arc<TopicRoute>,
    parts: &Parts,
    body: Body,
) -> Result<Response, ApiError> {
    let counters = broker.outside().metrics.topic(topic.number);
    let accepted = accept(broker, topic, parts, body, counters.tally()).await;
    match &accepted {
        Ok((events, unmatched)) => {
            counters.accepted.fetch_add(*events, Ordering::Relaxed);
            counters.unmatched.fetch_add(*unmatched, Ordering::Relaxed);
        }
        Err(error) => counters.refuse(error.code),
    }
    accepted?;
    Ok(match topic.kind {
        // Python treats only an empty-bodied 200 alike everywhere; namespaces must answer JSON.
        TopicKind::Custom | TopicKind::Domain => gridwire_http::empty(StatusCode::OK),
        TopicKind::Namespace => gridwire_http::json(StatusCode::OK, Bytes::from_static(b"{}")),
    })
}

/// Returns how many events were accepted, and how many of them matched nobody; whom they matched is counted here.
async fn accept(
    broker: &Broker,
    topic: &Arc<TopicRoute>,
    parts: &Parts,
    body: Body,
    mut tally: Tally,
) -> Result<(u64, u64), ApiError> {
    identity_encoding(parts)?;
    let body = body.read(limits::REQUEST_BYTES_MAX).await?;
    let begun = broker.outside().clock.monotonic();
    let (draft, events, unmatched) = {
        let text = |value: &http::HeaderValue| value.to_str().ok().map(str::to_owned);
        let content_type = parts.headers.get(CONTENT_TYPE).map(|value| text(value).unwrap_or_default());
        let mut ce_headers = Vec::new();
        for (name, value) in &parts.headers {
            if name.as_str().starts_with("ce-") {
                let value = value.to_str().map_err(|_| {
                    let message = format!("The header {name} holds characters that must be percent-encoded.");
                    ApiError::new(ErrorCode::InvalidEvent, message).with_detail("InputJsonInvalid")
                })?;
                ce_headers.push((name.as_str(), value));
            }
        }
        let request = PublishRequest {
            kind: topic.kind,
            schema: topic.input_schema,
            mapping: topic.input_mapping.as_ref(),
            content_type: content_type.as_deref(),
            ce_headers: &ce_headers,
            body: &body,
            now: broker.now(),
        };
        let mut events = publish::parse(&request, &mut || broker.outside().rng.uuid())?;
        if topic.kind == TopicKind::Domain {
            publish::route_to_domain_topics(&mut events, &topic.resource_id)?;
        }
        let mut frame = FrameBuilder::new(topic.number, body.len() + events.len() * FRAME_OVERHEAD);
        let (mut matched, mut scratch) = (MatchSet::default(), MatchSet::default());
        let mut unmatched = 0;
        for event in &events {
            topic.matches(event, &mut matched, &mut scratch);
            if matched.is_empty() {
                unmatched += 1;
            } else {
                tally.add(&matched);
                frame.push(&matched, event);
            }
        }
        (frame.finish(), events.len() as u64, unmatched)
    };
    if let Some(mut draft) = draft {
        if planted("batch-in-two-frames") && draft.count > 1 {
            let rest = draft.split_off_first();
            let first = std::mem::replace(&mut draft, rest);
            broker.outside().log.append_events(first).await.map_err(refused)?;
        }
        broker.outside().log.append_events(draft).await.map_err(refused)?;
    }
    tally.count();
    broker
        .outside()
        .metrics
        .publish_seconds
        .observe(broker.outside().clock.monotonic().saturating_sub(begun));
    Ok((events, unmatched))
}

fn identity_encoding(parts: &Parts) -> Result<(), ApiError> {
    match parts.headers.get(CONTENT_ENCODING) {
        None => Ok(()),
        Some(encoding) if encoding.as_bytes().eq_ignore_ascii_case(b"identity") => Ok(()),
        Some(_) => Err(ApiError::new(ErrorCode::UnsupportedEncoding, "Content-Encoding is not supported.")),
    }
}

/// What a publisher is told when the log did not take its events. 503 with a short wait: clients come again.
pub(super) fn refused(error: AppendError) -> ApiError {
    let (code, message, wait) = match error {
        AppendError::Overloaded => (ErrorCode::Overloaded, "The server is busy. Try again.", 1),
        AppendError::StorageFull => {
            (ErrorCode::StorageFull, "The server's disk is full. Try again later.", 5)
        }
        AppendError::Failed | AppendError::Fenced => {
            (ErrorCode::Unavailable, "The server cannot store events right now. Try again.", 1)
        }
        AppendError::TooLarge { max } => {
            let message = format!("The events take more than {max} bytes.");
            return ApiError::new(ErrorCode::TooLarge, message);
        }
    };
    ApiError::new(code, message).with_retry_after(Duration::from_secs(wait))
}
