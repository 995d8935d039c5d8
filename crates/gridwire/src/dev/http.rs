//! The requests of development mode, below [`ROOT`] on the http and https listeners, with the management token:
//!
//! * `GET clock`, `POST clock` with `{"advance": "PT1H", "jump": false, "timeout": "30s"}`
//! * `POST drain`, perhaps with `{"timeout": "30s"}`
//! * `GET`, `PUT`, `DELETE faults/{subscription}`, with `{"steps": ["503*3", "timeout", "slow:2s"]}`; the
//!   subscription is a number, or its resource id as one escaped segment

use std::time::Duration;

use gridwire_broker::{NoSubscription, Remainder, SetFaultsError};
use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::endpoint::Rule;
use gridwire_core::fault_script::{FaultScript, Step};
use gridwire_core::shard::{Waiting, Why};
use gridwire_core::time::Timestamp;
use gridwire_http::{Request, Response, error, json};
use gridwire_outside::Clock;
use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::{Advance, AdvanceError, Dev, iso, span};

/// What the paths begin with.
pub(crate) const ROOT: &str = "/gridwire/v1/dev/";

/// A script of a hundred steps is far below.
const BODY_BYTES_MAX: usize = 64 << 10;
/// How long a drain or an advance waits unless told otherwise: as long as an attempt can take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest that it waits, so that a forgotten request ends.
const PATIENCE_MAX: Duration = Duration::from_secs(600);

/// What a path below [`ROOT`] is about.
#[derive(Clone, Copy, Debug)]
enum Place<'a> {
    Clock,
    Drain,
    /// The subscription as the path has it, escaped.
    Faults {
        subscription: &'a str,
    },
}

impl<'a> Place<'a> {
    fn at(path: &'a str) -> Option<Self> {
        match path.split_once('/') {
            None if path == "clock" => Some(Self::Clock),
            None if path == "drain" => Some(Self::Drain),
            Some(("faults", subscription)) => Some(Self::Faults { subscription }),
            _ => None,
        }
    }

    /// As `Allow` lists them.
    fn methods(self) -> &'static str {
        match self {
            Self::Clock => "GET, POST",
            Self::Drain => "POST",
            Self::Faults { .. } => "GET, PUT, DELETE",
        }
    }
}

impl Dev {
    /// Answers a request for what is below [`ROOT`].
    pub(crate) async fn handle(&self, path: &str, request: Request) -> Response {
        match self.answer(path, request).await {
            Ok(value) => json(StatusCode::OK, value.to_string()),
            Err(refusal) => error(&refusal),
        }
    }

    async fn answer(&self, path: &str, request: Request) -> Result<Value, ApiError> {
        let (head, body) = request.into_parts();
        let bytes = body.read(BODY_BYTES_MAX).await?;
        let body = members(&bytes)?;
        let place = Place::at(path).ok_or_else(|| {
            ApiError::new(
                ErrorCode::NotFound,
                "Development mode has `clock`, `drain` and `faults/{subscription}`.",
            )
        })?;
        match (place, &head.method) {
            (Place::Clock, &Method::GET) => Ok(self.clock_shown()),
            (Place::Clock, &Method::POST) => self.advance_clock(&body).await,
            (Place::Drain, &Method::POST) => {
                let outlook = self.drain(patience(&body)?).await.map_err(|error| refusal(&error))?;
                let subscriptions: Vec<Value> = outlook.remainders.iter().map(remainder).collect();
                Ok(serde_json::json!({
                    "drained": outlook.still,
                    "now": self.clock.now().to_string(),
                    "nextDue": written(outlook.next_due()),
                    "subscriptions": subscriptions,
                }))
            }
            (Place::Faults { subscription }, method @ (&Method::GET | &Method::PUT | &Method::DELETE)) => {
                let subscription = percent_decode_str(subscription).decode_utf8_lossy();
                self.faults(method, &subscription, &body)
            }
            (place, _) => Err(wrong_method(place.methods())),
        }
    }

    fn clock_shown(&self) -> Value {
        serde_json::json!({ "now": self.clock.now().to_string(), "ahead": iso(self.clock.ahead()) })
    }

    async fn advance_clock(&self, body: &Map<String, Value>) -> Result<Value, ApiError> {
        let by = body.get("advance").and_then(Value::as_str).and_then(span);
        let by = by.ok_or_else(|| invalid("`advance` must be a span of time such as `PT1H` or `90s`."))?;
        let jump = match body.get("jump") {
            None => false,
            Some(jump) => jump.as_bool().ok_or_else(|| invalid("`jump` must be true or false."))?,
        };
        let advance = Advance { by, jump, patience: patience(body)? };
        let advanced = self.advance(advance).await.map_err(|error| refusal(&error))?;
        let mut shown = self.clock_shown();
        shown["advanced"] = iso(advanced.by).into();
        shown["complete"] = advanced.complete.into();
        Ok(shown)
    }

    fn faults(
        &self,
        method: &Method,
        subscription: &str,
        body: &Map<String, Value>,
    ) -> Result<Value, ApiError> {
        let script = match *method {
            Method::GET => None,
            Method::PUT => Some(script(body)?),
            _ => Some(FaultScript::default()),
        };
        let not_found =
            |_: NoSubscription| ApiError::new(ErrorCode::NotFound, "The event subscription was not found.");
        if let Some(script) = script {
            self.broker.set_faults(subscription, script).map_err(|error| match error {
                SetFaultsError::NotFound(error) => not_found(error),
                SetFaultsError::Pull => {
                    invalid("The event subscription has no endpoint: its events are received, not pushed.")
                }
            })?;
        }
        let left = self.broker.faults(subscription).map_err(not_found)?;
        let steps: Vec<String> = left.steps().map(ToString::to_string).collect();
        Ok(serde_json::json!({ "steps": steps }))
    }
}

fn members(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(bytes).map_err(|_| invalid("The body must be a JSON object."))
}

fn patience(body: &Map<String, Value>) -> Result<Duration, ApiError> {
    let Some(timeout) = body.get("timeout") else { return Ok(PATIENCE) };
    let timeout = timeout.as_str().and_then(span).filter(|timeout| *timeout <= PATIENCE_MAX);
    timeout.ok_or_else(|| invalid("`timeout` must be a span of time of at most ten minutes, such as `30s`."))
}

fn script(body: &Map<String, Value>) -> Result<FaultScript, ApiError> {
    let steps = body.get("steps").and_then(Value::as_array);
    let steps = steps.ok_or_else(|| invalid("`steps` must be an array of faults such as `503*3`."))?;
    let steps: Result<Vec<Step>, _> =
        steps.iter().map(|step| Step::parse(step.as_str().unwrap_or_default())).collect();
    steps.and_then(FaultScript::new).map_err(|error| invalid(format!("{error}.")))
}

fn remainder(remainder: &Remainder) -> Value {
    let Remainder { subscription, queue, event_ids } = remainder;
    let totals = queue.totals;
    let events: Vec<Value> =
        queue.soonest.iter().zip(event_ids).map(|(waiting, id)| waiting_event(waiting, id)).collect();
    serde_json::json!({
        "id": subscription.resource_id,
        "drained": !queue.moving,
        "delivered": totals.delivered,
        "deadLettered": totals.dead_lettered,
        "expired": totals.expired,
        "dropped": totals.dropped,
        "underWay": queue.under_way,
        "available": queue.available,
        "heldBy": queue.held_by.map(Rule::as_str),
        "detail": queue.held_by.map(Rule::detail),
        "moreBehind": queue.behind,
        "waiting": queue.waiting,
        "nextDue": written(queue.next_due),
        "events": events,
    })
}

fn waiting_event(waiting: &Waiting, id: &str) -> Value {
    let (why, detail) = match waiting.why {
        Why::Retry { status: Some(status) } => ("retry", format!("the endpoint answered {status}")),
        Why::Retry { status: None } => ("retry", "the endpoint did not answer".to_owned()),
        Why::Released => ("released", "a receiver gave it back, or its lock ran out".to_owned()),
        Why::Probation { outcome } => (
            "probation",
            format!("its endpoint failed ten times in a row, the last time with {outcome}: nothing is sent"),
        ),
        Why::Locked => ("locked", "a receiver holds it".to_owned()),
        Why::DeadLetter { reason } => {
            ("deadLetter", format!("the dead letter is not written yet: {}", format_args!("{reason:?}")))
        }
    };
    serde_json::json!({
        "eventId": id,
        "offset": waiting.offset.0,
        "attempts": waiting.attempts,
        "until": waiting.until.to_string(),
        "why": why,
        "detail": detail,
    })
}

/// Null for never.
fn written(time: Timestamp) -> Value {
    if time == Timestamp::MAX { Value::Null } else { time.to_string().into() }
}

fn refusal(error: &AdvanceError) -> ApiError {
    match error {
        AdvanceError::TooFar => invalid(error.to_string()),
        AdvanceError::Stopping => {
            ApiError::new(ErrorCode::Unavailable, error.to_string()).with_retry_after(Duration::from_secs(1))
        }
        AdvanceError::File(source) => {
            tracing::error!(error = format!("{source:#}"), "the clock could not be put forward");
            ApiError::new(ErrorCode::Internal, error.to_string())
        }
    }
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, message)
}

fn wrong_method(allow: &'static str) -> ApiError {
    let message = format!("The method is not allowed here; these are: {allow}.");
    ApiError::new(ErrorCode::MethodNotAllowed, message).with_allow(allow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_of_development_mode_has_every_path_and_method_and_no_other() {
        let document: Value =
            serde_json::from_str(include_str!("../../../../openapi/development.json")).unwrap();
        let mut documented: Vec<(&str, Vec<String>)> = Vec::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            let path = path.strip_prefix(ROOT).unwrap();
            documented.push((path, operations.as_object().unwrap().keys().cloned().collect()));
        }
        let all = [Place::Clock, Place::Drain, Place::Faults { subscription: "{subscription}" }];
        let expected = all.map(|place| match place {
            Place::Clock => "clock",
            Place::Drain => "drain",
            Place::Faults { .. } => "faults/{subscription}",
        });
        assert!(documented.iter().map(|(path, _)| *path).eq(expected));
        for (path, methods) in documented {
            let mut allowed: Vec<String> =
                Place::at(path).unwrap().methods().split(", ").map(str::to_lowercase).collect();
            let mut methods = methods;
            allowed.sort_unstable();
            methods.sort_unstable();
            assert_eq!(methods, allowed, "{path}");
        }
    }
}
