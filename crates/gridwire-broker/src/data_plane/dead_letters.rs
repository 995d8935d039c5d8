//! Dead letters over HTTP, with the management token: list, show, redrive, purge, and the jobs that do the
//! latter two.
//!
//! Below `/gridwire/v1/subscriptions/{number or resource id}`: `GET /dead-letters` (a page), `GET
//! /dead-letters/{id}` (one), `POST /dead-letters:redrive`, `POST /dead-letters:purge`. The latter two take which
//! letters in their body, and start a job unless it says `dryRun`. `GET /gridwire/v1/dead-letter-jobs` lists
//! jobs, `GET …/{id}` shows one, `POST …/{id}:cancel` ends it.

use std::sync::Arc;
use std::time::Duration;

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::dead_letter::{self, Letter, LetterKey, ReasonFilter, Selection};
use gridwire_core::routing::{RoutingTable, SubscriptionRoute, TopicKind, TopicRoute};
use gridwire_core::time::Timestamp;
use gridwire_http::{Asked, Body, Peer, REQUEST_ID, Response};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::dead_letter::{JobState, Kind, LetterState, Record, Shelf, StartJobError};

/// Letters in one page.
const PAGE_MAX: usize = 1_000;
const PAGE_DEFAULT: usize = 100;
/// Letters that one request reads at most, whether it takes them or not; the answer says where to go on.
const READ_MAX: usize = 10_000;
/// Letters and time that a dry run looks through; beyond it the answer says that there may be more.
const DRY_RUN_MAX: u64 = 1_000_000;
const DRY_RUN_PATIENCE: Duration = Duration::from_secs(20);
/// Letters that a dry run shows.
const SAMPLE: usize = 10;
/// Bytes of the body of a redrive or a purge.
const ORDER_BYTES_MAX: usize = 64 << 10;
/// Keys looked up, and bytes of letters read, at once.
const STEP: usize = 256;
const STEP_BYTES: usize = 8 << 20;
/// Events redriven in a second: what is allowed, and what is done when nothing is said. A queue that could not
/// be delivered before is best filled slowly.
const RATE_MAX: u64 = 100_000;
const RATE_DEFAULT: u64 = 100;

/// What a request line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    List { subscription: String },
    Show { subscription: String, id: String },
    Redrive { subscription: String },
    Purge { subscription: String },
    Jobs,
    Job { id: String },
    Cancel { id: String },
}

impl Operation {
    /// Understands what follows `/gridwire/v1`.
    pub(super) fn parse(segments: &[&str]) -> Option<Self> {
        let is = |segment: &str, word: &str| segment.eq_ignore_ascii_case(word);
        let join = |id: &[&str]| (!id.is_empty()).then(|| id.join("/"));
        match segments {
            [jobs] if is(jobs, "dead-letter-jobs") => Some(Self::Jobs),
            [jobs, id] if is(jobs, "dead-letter-jobs") => Some(match id.split_once(':') {
                Some((id, verb)) if is(verb, "cancel") => Self::Cancel { id: id.to_owned() },
                Some(_) => return None,
                None => Self::Job { id: (*id).to_owned() },
            }),
            [subscriptions, id @ .., last]
                if is(subscriptions, "subscriptions") && is(last, "dead-letters") =>
            {
                Some(Self::List { subscription: join(id)? })
            }
            [subscriptions, id @ .., last]
                if is(subscriptions, "subscriptions") && is(last, "dead-letters:redrive") =>
            {
                Some(Self::Redrive { subscription: join(id)? })
            }
            [subscriptions, id @ .., last]
                if is(subscriptions, "subscriptions") && is(last, "dead-letters:purge") =>
            {
                Some(Self::Purge { subscription: join(id)? })
            }
            [subscriptions, id @ .., letters, letter]
                if is(subscriptions, "subscriptions") && is(letters, "dead-letters") =>
            {
                Some(Self::Show { subscription: join(id)?, id: (*letter).to_owned() })
            }
            _ => None,
        }
    }

    /// What the audit log calls it; `None` for what only looks.
    fn audited(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Redrive { subscription } => Some(("dead-letters/redrive", subscription)),
            Self::Purge { subscription } => Some(("dead-letters/purge", subscription)),
            Self::Cancel { id } => Some(("dead-letter-jobs/cancel", id)),
            // A letter holds an event's data.
            Self::Show { subscription, .. } => Some(("dead-letters/read", subscription)),
            Self::List { .. } | Self::Jobs | Self::Job { .. } => None,
        }
    }
}

/// Answers, and writes to the audit log who asked for what.
pub(super) async fn answer(
    broker: &Broker,
    table: &RoutingTable,
    operation: &Operation,
    parts: &Parts,
    body: Body,
    peer: Peer,
) -> Result<Response, ApiError> {
    let answer = carry_out(broker, table, operation, parts, body).await;
    let Some((operation, resource)) = operation.audited() else { return answer };
    let request_id = broker.outside().rng.uuid();
    let asked = Asked { peer, operation, resource, request_id: &request_id };
    gridwire_http::audit(asked, answer.as_ref().map(Response::status));
    let mut response = answer.unwrap_or_else(|refusal| gridwire_http::error(&refusal));
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    Ok(response)
}

async fn carry_out(
    broker: &Broker,
    table: &RoutingTable,
    operation: &Operation,
    parts: &Parts,
    body: Body,
) -> Result<Response, ApiError> {
    match operation {
        Operation::List { subscription } => {
            only(parts, &Method::GET, "GET")?;
            list(broker, &Found::by_id(broker, table, subscription)?, parts).await
        }
        Operation::Show { subscription, id } => {
            only(parts, &Method::GET, "GET")?;
            show(&Found::by_id(broker, table, subscription)?, id).await
        }
        Operation::Redrive { subscription } => {
            only(parts, &Method::POST, "POST")?;
            let order = Order::parse(body, Verb::Redrive).await?;
            let kind = Kind::Redrive { rate: order.rate()? };
            start(broker, &Found::by_id(broker, table, subscription)?, kind, order).await
        }
        Operation::Purge { subscription } => {
            only(parts, &Method::POST, "POST")?;
            let order = Order::parse(body, Verb::Purge).await?;
            let kind = Kind::Purge { redriven: order.redriven };
            start(broker, &Found::by_id(broker, table, subscription)?, kind, order).await
        }
        Operation::Jobs => {
            only(parts, &Method::GET, "GET")?;
            let jobs: Vec<Value> = broker.jobs().all().iter().map(|job| job.to_json()).collect();
            Ok(json_response(StatusCode::OK, &json!({ "jobs": jobs })))
        }
        Operation::Job { id } => {
            only(parts, &Method::GET, "GET")?;
            let job = broker.jobs().get(id).ok_or_else(no_job)?;
            Ok(json_response(StatusCode::OK, &job.to_json()))
        }
        Operation::Cancel { id } => {
            only(parts, &Method::POST, "POST")?;
            let job = broker.jobs().get(id).ok_or_else(no_job)?;
            job.cancel();
            Ok(json_response(StatusCode::ACCEPTED, &job.to_json()))
        }
    }
}

fn no_job() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "There is no such job on dead letters (any more).")
}

fn only(parts: &Parts, method: &Method, allow: &'static str) -> Result<(), ApiError> {
    if parts.method == *method {
        return Ok(());
    }
    let message = format!("Only {allow} is supported here.");
    Err(ApiError::new(ErrorCode::MethodNotAllowed, message).with_allow(allow))
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, message)
}

fn unreadable(error: &std::io::Error) -> ApiError {
    tracing::warn!(%error, "failed to read dead letters");
    ApiError::new(ErrorCode::Unavailable, "The dead letters cannot be read right now. Try again.")
        .with_retry_after(Duration::from_secs(5))
}

fn json_response(status: StatusCode, value: &Value) -> Response {
    gridwire_http::json(status, value.to_string())
}

/// The subscription that a request names, with its letters.
struct Found {
    topic: Arc<TopicRoute>,
    route: Arc<SubscriptionRoute>,
    shelf: Shelf,
}

impl Found {
    fn by_id(broker: &Broker, table: &RoutingTable, id: &str) -> Result<Self, ApiError> {
        let missing = || ApiError::new(ErrorCode::NotFound, "The event subscription was not found.");
        let route = broker.subscription(id).ok_or_else(missing)?;
        let topic = table.by_number.get(&route.topic).cloned().ok_or_else(missing)?;
        let shelf = Shelf::of(&broker.outside().dead_letters, &route).ok_or_else(|| {
            ApiError::new(ErrorCode::NotFound, "The event subscription has no dead-letter destination.")
        })?;
        Ok(Self { topic, route, shelf })
    }

    fn read<'a>(&self, content: &'a [u8]) -> Option<Letter<'a>> {
        dead_letter::read(content, self.topic.kind, self.topic.input_schema)
    }
}

/// What is done, and with it what may be said of how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Redrive,
    Purge,
}

/// What a redrive or a purge is asked for.
struct Order {
    selection: Selection,
    rate: u64,
    redriven: bool,
    dry_run: bool,
}

impl Order {
    /// The body, a JSON object; none at all means everything.
    async fn parse(body: Body, verb: Verb) -> Result<Self, ApiError> {
        let body = body.read(ORDER_BYTES_MAX).await?;
        let value: Value = if body.is_empty() {
            json!({})
        } else {
            serde_json::from_slice(&body).map_err(|error| {
                ApiError::new(ErrorCode::InvalidJson, format!("The body is not JSON: {error}."))
            })?
        };
        let members = value.as_object().ok_or_else(|| invalid("The body must be a JSON object."))?;
        let mut order =
            Self { selection: Selection::default(), rate: RATE_DEFAULT, redriven: false, dry_run: false };
        for (name, value) in members {
            let wrong = |expected: &str| invalid(format!("`{name}` must be {expected}."));
            let switch = || value.as_bool().ok_or_else(|| wrong("true or false"));
            match name.as_str() {
                // Taken by the other, they would be taken for more than they are.
                "eventsPerSecond" if verb == Verb::Redrive => {
                    order.rate = value.as_u64().ok_or_else(|| wrong("a whole number"))?;
                }
                "redriven" if verb == Verb::Purge => order.redriven = switch()?,
                "dryRun" => order.dry_run = switch()?,
                "reason" | "status" | "type" | "since" | "until" => {
                    let text = match value {
                        Value::String(text) => text.clone(),
                        Value::Number(number) if name == "status" => number.to_string(),
                        _ if name == "status" => return Err(wrong("an HTTP status")),
                        _ => return Err(wrong("a text")),
                    };
                    select(&mut order.selection, name, &text)?;
                }
                _ => return Err(invalid(format!("`{}` is not known here.", shown(name)))),
            }
        }
        Ok(order)
    }

    fn rate(&self) -> Result<u32, ApiError> {
        let allowed = (1..=RATE_MAX).contains(&self.rate);
        let rate = u32::try_from(self.rate).ok().filter(|_| allowed);
        rate.ok_or_else(|| invalid(format!("`eventsPerSecond` must be from 1 to {RATE_MAX}.")))
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

/// Refuses conditions that no letter can meet: they are a slip, and to find no letter would hide it.
fn check(selection: &Selection, kind: TopicKind) -> Result<(), ApiError> {
    if let (Some(since), Some(until)) = (selection.since, selection.until)
        && until <= since
    {
        return Err(invalid("`since` must be before `until`."));
    }
    if kind == TopicKind::Namespace && selection.status.is_some() {
        return Err(invalid(
            "The dead letters of namespaces tell no `status`. Select by `reason` or `type`.",
        ));
    }
    Ok(())
}

/// One condition, as a query or a body gives it.
fn select(selection: &mut Selection, name: &str, text: &str) -> Result<(), ApiError> {
    let time = || {
        Timestamp::parse_rfc3339(text)
            .map(Some)
            .ok_or_else(|| invalid(format!("`{name}` must be a time such as 2026-11-28T09:00:00Z.")))
    };
    match name {
        "reason" => {
            let reason = ReasonFilter::parse(text).ok_or_else(|| {
                let names = ReasonFilter::names().join(", ");
                invalid(format!("`reason` must be one of {names}, or as a letter writes it."))
            })?;
            selection.reason = Some(reason);
        }
        "status" => {
            let status = text.parse().ok().filter(|status| (100..=999).contains(status));
            selection.status = Some(status.ok_or_else(|| invalid("`status` must be an HTTP status."))?);
        }
        "type" => selection.event_type = Some(text.to_owned()),
        "since" => selection.since = time()?,
        "until" => selection.until = time()?,
        _ => return Err(invalid(format!("`{}` is not known here.", shown(name)))),
    }
    Ok(())
}

/// One page: letters that the query selects, behind `after`.
async fn list(broker: &Broker, found: &Found, parts: &Parts) -> Result<Response, ApiError> {
    let (mut selection, mut after, mut max, mut state) =
        (Selection::default(), None, PAGE_DEFAULT, LetterState::Waiting);
    for (name, value) in url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
        match &*name {
            "after" => {
                let key: LetterKey =
                    value.parse().map_err(|error| invalid(format!("`after` is {error}.")))?;
                after = Some(key);
            }
            "max" => {
                max = value
                    .parse()
                    .ok()
                    .filter(|max| (1..=PAGE_MAX).contains(max))
                    .ok_or_else(|| invalid(format!("`max` must be from 1 to {PAGE_MAX}.")))?;
            }
            "redriven" if value == "true" => state = LetterState::Redriven,
            "redriven" if value == "false" => {}
            _ => select(&mut selection, &name, &value)?,
        }
    }
    check(&selection, found.topic.kind)?;
    let mut walk = Walk { found, selection: &selection, state, after, ended: false };
    let (mut letters, mut read) = (Vec::new(), 0);
    while letters.len() < max && read < READ_MAX && !walk.ended && !broker.is_stopping() {
        let contents = walk.step(max - letters.len()).await.map_err(|error| unreadable(&error))?;
        read += contents.len();
        for (key, content) in contents {
            match judge(found, &selection, &content) {
                Judged::Taken(letter) => letters.push(summary(found, key, state, Some(&letter))),
                Judged::Unusable => letters.push(summary(found, key, state, None)),
                Judged::Left => {}
            }
        }
    }
    let next = walk.after.filter(|_| !walk.ended).map(|key| key.to_string());
    Ok(json_response(StatusCode::OK, &json!({ "deadLetters": letters, "next": next })))
}

/// What a selection makes of a letter.
enum Judged<'a> {
    Taken(Box<Letter<'a>>),
    Left,
    /// It cannot be understood, and may be one of those that are meant. It is shown, and never redriven.
    Unusable,
}

fn judge<'a>(found: &Found, selection: &Selection, content: &'a [u8]) -> Judged<'a> {
    match found.read(content) {
        Some(letter) if selection.takes(&letter) => Judged::Taken(Box::new(letter)),
        None if selection.is_everything() => Judged::Unusable,
        Some(_) | None => Judged::Left,
    }
}

fn summary(found: &Found, key: LetterKey, state: LetterState, letter: Option<&Letter<'_>>) -> Value {
    let path = found.shelf.path(key, state);
    let Some(Letter { story, event }) = letter else {
        return json!({ "id": key.to_string(), "path": path, "unusable": true });
    };
    json!({
        "id": key.to_string(),
        "path": path,
        "eventId": event.id,
        "type": event.event_type,
        "subject": event.subject,
        "reason": story.reason,
        "status": story.status,
        "attempts": story.attempts,
        "outcome": story.outcome,
        "published": story.published.map(|time| time.to_string()),
        "lastAttempt": story.last_attempt.map(|time| time.to_string()),
    })
}

/// Goes through the letters of a subscription, a bounded number at a time.
struct Walk<'a> {
    found: &'a Found,
    selection: &'a Selection,
    state: LetterState,
    after: Option<LetterKey>,
    ended: bool,
}

impl Walk<'_> {
    /// The next letters, at most `max`.
    async fn step(&mut self, max: usize) -> std::io::Result<Vec<(LetterKey, Vec<u8>)>> {
        let shelf = &self.found.shelf;
        let keys = shelf.next(self.selection, self.state, self.after, max.min(STEP)).await?;
        self.ended = keys.is_empty();
        let paths = keys.iter().map(|key| shelf.path(*key, self.state)).collect();
        let contents = shelf.container.read(paths, STEP_BYTES).await?;
        // Not all may have been read at once.
        self.after = keys.get(contents.len().wrapping_sub(1)).copied().or(self.after);
        Ok(keys.into_iter().zip(contents).filter_map(|(key, content)| Some((key, content?))).collect())
    }
}

async fn show(found: &Found, id: &str) -> Result<Response, ApiError> {
    let missing = || ApiError::new(ErrorCode::NotFound, "The dead letter was not found.");
    let key: LetterKey = id.parse().map_err(|error| invalid(format!("The id is {error}.")))?;
    if !found.shelf.owns(key) {
        return Err(missing());
    }
    for state in [LetterState::Waiting, LetterState::Redriven] {
        let paths = vec![found.shelf.path(key, state)];
        let mut contents =
            found.shelf.container.read(paths, STEP_BYTES).await.map_err(|error| unreadable(&error))?;
        let Some(content) = contents.pop().flatten() else { continue };
        let mut answer = summary(found, key, state, found.read(&content).as_ref());
        answer["redriven"] = json!(state == LetterState::Redriven);
        // As it is stored, byte for byte.
        let Ok(raw) = serde_json::from_slice::<&RawValue>(&content) else {
            return Ok(json_response(StatusCode::OK, &answer));
        };
        let mut text = answer.to_string();
        text.truncate(text.len() - 1);
        return Ok(gridwire_http::json(StatusCode::OK, format!("{text},\"letter\":{}}}", raw.get())));
    }
    Err(missing())
}

/// Says what would be taken, or starts the job that takes it.
async fn start(broker: &Broker, found: &Found, kind: Kind, order: Order) -> Result<Response, ApiError> {
    check(&order.selection, found.topic.kind)?;
    let state = match kind {
        Kind::Purge { redriven: true } => LetterState::Redriven,
        Kind::Purge { redriven: false } | Kind::Redrive { .. } => LetterState::Waiting,
    };
    if order.dry_run {
        return dry_run(broker, found, state, &order.selection).await;
    }
    let destination = found.route.dead_letter.clone().expect("there is no shelf without one");
    let record = Record {
        id: broker.outside().rng.uuid(),
        kind,
        subscription: found.route.number,
        resource: found.route.resource_id.clone(),
        place: Some(broker.outside().dead_letters.place(&destination)),
        destination,
        prefix: found.shelf.prefix().to_owned(),
        selection: order.selection,
        created: broker.now(),
        state: JobState::Running,
        ended: None,
        cursor: None,
        // No frame of this job is older.
        checkpoint: broker.outside().log.position().0,
        taken: 0,
        unusable: 0,
        problem: None,
    };
    let job = broker.start_job(record).await.map_err(|error| match error {
        StartJobError::Busy { id } => ApiError::new(
            ErrorCode::Conflict,
            format!("The job {id} still runs on the dead letters of this event subscription."),
        ),
        StartJobError::TooMany => {
            ApiError::new(ErrorCode::QuotaExceeded, "Too many jobs are running. Try again later.")
                .with_retry_after(Duration::from_secs(30))
        }
        StartJobError::Record(error) => unreadable(&error),
    })?;
    Ok(json_response(StatusCode::ACCEPTED, &job.to_json()))
}

async fn dry_run(
    broker: &Broker,
    found: &Found,
    state: LetterState,
    selection: &Selection,
) -> Result<Response, ApiError> {
    let begun = broker.outside().clock.monotonic();
    let mut walk = Walk { found, selection, state, after: None, ended: false };
    let (mut read, mut count, mut unusable) = (0, 0u64, 0u64);
    let mut sample = Vec::new();
    while !walk.ended && read < DRY_RUN_MAX && !broker.is_stopping() {
        if DRY_RUN_PATIENCE < broker.outside().clock.monotonic().saturating_sub(begun) {
            break;
        }
        let contents = walk.step(STEP).await.map_err(|error| unreadable(&error))?;
        read += contents.len() as u64;
        for (key, content) in contents {
            match judge(found, selection, &content) {
                Judged::Taken(letter) => {
                    count += 1;
                    if sample.len() < SAMPLE {
                        sample.push(summary(found, key, state, Some(&letter)));
                    }
                }
                Judged::Unusable => unusable += 1,
                Judged::Left => {}
            }
        }
    }
    let answer = json!({
        "dryRun": true, "count": count, "unusable": unusable, "complete": walk.ended, "sample": sample,
    });
    Ok(json_response(StatusCode::OK, &answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_one_operation() {
        let check = |path: &str, expect: Option<Operation>| {
            let segments: Vec<&str> = path.split('/').collect();
            assert_eq!(Operation::parse(&segments), expect, "{path}");
        };
        let subscription = || "7".to_owned();
        check("subscriptions/7/dead-letters", Some(Operation::List { subscription: subscription() }));
        check("subscriptions/a/b/Dead-Letters", Some(Operation::List { subscription: "a/b".to_owned() }));
        check(
            "subscriptions/7/dead-letters/x",
            Some(Operation::Show { subscription: subscription(), id: "x".to_owned() }),
        );
        check(
            "subscriptions/7/dead-letters:redrive",
            Some(Operation::Redrive { subscription: subscription() }),
        );
        check("subscriptions/7/dead-letters:purge", Some(Operation::Purge { subscription: subscription() }));
        check("dead-letter-jobs", Some(Operation::Jobs));
        check("dead-letter-jobs/x", Some(Operation::Job { id: "x".to_owned() }));
        check("dead-letter-jobs/x:cancel", Some(Operation::Cancel { id: "x".to_owned() }));
        for path in [
            "",
            "subscriptions/dead-letters",
            "subscriptions/7/dead-letters:burn",
            "dead-letter-jobs/x:y",
            "jobs",
        ] {
            check(path, None);
        }
    }
}
