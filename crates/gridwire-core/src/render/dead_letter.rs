//! Dead letters: an event that was given up, with the reason, and where it is put (`push-delivery` contract,
//! section 9).

use crate::dead_letter::Hour;
use crate::event::{DeliverySchema, Event};
use crate::render::object::Object;
use crate::render::{DeliveryContext, envelope, possible};
use crate::routing::TopicKind;
use crate::shard::DeadLetterReason;
use crate::time::Timestamp;

/// What is told about an event that was given up.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetterInfo<'a> {
    pub reason: DeadLetterReason,
    /// Deliveries made, of push and pull alike.
    pub attempts: u32,
    /// How the last of them ended, if there was any: [`crate::retry::Outcome::as_str`] for a push, and for
    /// pull a sentence such as [`DeadLetterInfo::NOT_SETTLED`].
    pub last_outcome: Option<&'a str>,
    pub last_attempt: Option<Timestamp>,
    /// The status of the last answer, if there was one.
    pub last_http_status: Option<u16>,
    /// The delivery attributes a namespace's subscription adds, without secret ones.
    pub custom_properties: &'a [(&'a str, String)],
}

impl DeadLetterInfo<'_> {
    /// The documented result of a pull delivery whose lock ran out.
    pub const NOT_SETTLED: &'static str = "Event was not acknowledged nor rejected.";
    /// The result of a pull delivery that ended by reject.
    pub const REJECTED: &'static str = "Event was rejected.";
}

/// `deadLetterReason` of a custom topic's dead letter. The status of an undeliverable one goes by the name
/// that .NET gives it.
pub(crate) fn reason_name(reason: DeadLetterReason, status: Option<u16>) -> String {
    let name = match reason {
        DeadLetterReason::MaxDeliveryAttempts => "MaxDeliveryAttemptsExceeded",
        DeadLetterReason::TimeToLive => "TimeToLiveExceeded",
        DeadLetterReason::Rejected => "Rejected",
        DeadLetterReason::Undeliverable => match status {
            Some(400) => "UndeliverableDueToHttpBadRequest",
            Some(401) => "UndeliverableDueToHttpUnauthorized",
            Some(403) => "UndeliverableDueToHttpForbidden",
            Some(404) => "UndeliverableDueToHttpNotFound",
            Some(413) => "UndeliverableDueToHttpRequestEntityTooLarge",
            Some(414) => "UndeliverableDueToHttpRequestUriTooLong",
            Some(other) => return format!("UndeliverableDueToHttp{other}"),
            None => "Undeliverable",
        },
    };
    name.to_owned()
}

/// `deadletterreason` of a namespace's dead letter.
pub(crate) fn reason_sentence(reason: DeadLetterReason) -> &'static str {
    match reason {
        DeadLetterReason::MaxDeliveryAttempts => "Maximum delivery attempts was exceeded.",
        DeadLetterReason::TimeToLive => "Time to live was exceeded.",
        DeadLetterReason::Undeliverable => "Undeliverable due to client error",
        DeadLetterReason::Rejected => "Event was rejected by the receiver.",
    }
}

/// The names under which a custom topic's dead letter tells its story: Event Grid's and `CloudEvents`'.
pub(crate) struct Names {
    pub(crate) reason: &'static str,
    pub(crate) attempts: &'static str,
    pub(crate) outcome: &'static str,
    pub(crate) status: &'static str,
    pub(crate) published: &'static str,
    pub(crate) last_attempt: &'static str,
}

pub(crate) const EVENT_GRID: Names = Names {
    reason: "deadLetterReason",
    attempts: "deliveryAttempts",
    outcome: "lastDeliveryOutcome",
    status: "lastHttpStatusCode",
    published: "publishTime",
    last_attempt: "lastDeliveryAttemptTime",
};

pub(crate) const CLOUD_EVENT: Names = Names {
    reason: "deadletterreason",
    attempts: "deliveryattempts",
    outcome: "lastdeliveryoutcome",
    status: "lasthttpstatuscode",
    published: "publishtime",
    last_attempt: "lastdeliveryattempttime",
};

impl Names {
    pub(crate) fn all(&self) -> [&'static str; 6] {
        [self.reason, self.attempts, self.outcome, self.status, self.published, self.last_attempt]
    }
}

/// Appends the content of a dead-letter blob: a JSON array with this one event.
///
/// A custom topic's letter is in the subscription's schema, where that is a custom one in Event Grid's; a
/// namespace's wraps the event and ignores `schema`.
pub fn dead_letter(
    event: &Event<'_>,
    info: &DeadLetterInfo<'_>,
    kind: TopicKind,
    schema: DeliverySchema,
    context: DeliveryContext<'_>,
    out: &mut Vec<u8>,
) {
    out.push(b'[');
    let mut letter = Object::begin(out);
    match (kind, possible(event.schema, schema)) {
        (TopicKind::Namespace, _) => wrapped(event, info, context, &mut letter),
        (TopicKind::Custom | TopicKind::Domain, DeliverySchema::CloudEvent) => {
            // A letter that was published again has these attributes already; the new story replaces the old.
            envelope::cloud_event(event, context, &CLOUD_EVENT.all(), &mut letter);
            story(info, context, &CLOUD_EVENT, &mut letter);
        }
        (TopicKind::Custom | TopicKind::Domain, DeliverySchema::EventGrid | DeliverySchema::Custom) => {
            envelope::event_grid(event, context, &mut letter);
            story(info, context, &EVENT_GRID, &mut letter);
        }
    }
    letter.end();
    out.push(b']');
}

fn story(info: &DeadLetterInfo<'_>, context: DeliveryContext<'_>, names: &Names, letter: &mut Object<'_>) {
    letter.text(names.reason, &reason_name(info.reason, info.last_http_status));
    letter.number(names.attempts, info.attempts);
    if let Some(outcome) = info.last_outcome {
        letter.text(names.outcome, outcome);
    }
    if let Some(status) = info.last_http_status {
        letter.number(names.status, u32::from(status));
    }
    letter.text(names.published, &context.published.to_string());
    if let Some(time) = info.last_attempt {
        letter.text(names.last_attempt, &time.to_string());
    }
}

/// The form of namespaces: the story beside the event.
fn wrapped(
    event: &Event<'_>,
    info: &DeadLetterInfo<'_>,
    context: DeliveryContext<'_>,
    letter: &mut Object<'_>,
) {
    let mut properties = letter.object("deadLetterProperties");
    properties.text("deadletterreason", reason_sentence(info.reason));
    properties.number("deliveryattempts", info.attempts);
    if let Some(outcome) = info.last_outcome {
        properties.text("deliveryresult", outcome);
    }
    properties.text("publishutc", &context.published.to_string());
    if let Some(time) = info.last_attempt {
        properties.text("deliveryattemptutc", &time.to_string());
    }
    properties.end();
    let mut custom = letter.object("customDeliveryProperties");
    for (name, value) in info.custom_properties {
        custom.text(name, value);
    }
    custom.end();
    let mut inner = letter.object("event");
    envelope::cloud_event(event, context, &[], &mut inner);
    inner.end();
}

/// Whose dead letters they are.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetterPlace<'a> {
    pub kind: TopicKind,
    /// Used for a topic of a namespace only.
    pub namespace: &'a str,
    pub topic: &'a str,
    pub subscription: &'a str,
}

/// The blob's name in its container. `when` is the time of publishing, by the hour in UTC without padding.
pub fn dead_letter_path(place: &DeadLetterPlace<'_>, when: Timestamp, guid: &str) -> String {
    format!("{}/{}/{guid}.json", dead_letter_prefix(place), Hour::of(when).path())
}

/// Where in its container all letters of a subscription are.
pub fn dead_letter_prefix(place: &DeadLetterPlace<'_>) -> String {
    match place.kind {
        TopicKind::Custom | TopicKind::Domain => place.subscription.to_uppercase(),
        TopicKind::Namespace => format!("{}/{}/{}", place.namespace, place.topic, place.subscription),
    }
}
