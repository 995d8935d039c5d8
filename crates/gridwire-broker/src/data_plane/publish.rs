//! Publish: parse once, match once, append, and answer when it is durable.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gridwire_core::api_error::{ApiError, ErrorCode};
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
use crate::intake::Intake;
use crate::metrics::TopicCounters;

pub(super) async fn events(
    broker: &Broker,
    topic: &Arc<TopicRoute>,
    parts: &Parts,
    body: Body,
) -> Result<Response, ApiError> {
    let counters = broker.outside().metrics.topic(topic.number);
    if let Err(error) = accept(broker, topic, parts, body, Arc::clone(&counters)).await {
        counters.refuse(error.code);
        return Err(error);
    }
    Ok(match topic.kind {
        // Python treats only an empty-bodied 200 alike everywhere; namespaces must answer JSON.
        TopicKind::Custom | TopicKind::Domain => gridwire_http::empty(StatusCode::OK),
        TopicKind::Namespace => gridwire_http::json(StatusCode::OK, Bytes::from_static(b"{}")),
    })
}

/// Returns when the events are durable and counted.
async fn accept(
    broker: &Broker,
    topic: &Arc<TopicRoute>,
    parts: &Parts,
    body: Body,
    counters: Arc<TopicCounters>,
) -> Result<(), ApiError> {
    identity_encoding(parts)?;
    let body = body.read(limits::REQUEST_BYTES_MAX).await?;
    let begun = broker.outside().clock.monotonic();
    let mut intake = {
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
        Intake::of(topic, &events, body.len(), counters)
    };
    if planted("batch-in-two-frames")
        && let Some(draft) = intake.draft.as_mut().filter(|draft| draft.count > 1)
    {
        let rest = draft.split_off_first();
        let first = std::mem::replace(draft, rest);
        broker.outside().log.append_events(first).await.map_err(refused)?;
    }
    intake.store(&*broker.outside().log).await.map_err(refused)?;
    broker
        .outside()
        .metrics
        .publish_seconds
        .observe(broker.outside().clock.monotonic().saturating_sub(begun));
    Ok(())
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
