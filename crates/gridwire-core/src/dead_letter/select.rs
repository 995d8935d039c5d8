//! Which dead letters are meant.

use super::key::Hour;
use super::read::Letter;
use crate::render::{reason_name, reason_sentence};
use crate::shard::DeadLetterReason;
use crate::time::Timestamp;

/// Which reason: one of ours, or the words of a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReasonFilter(String);

impl ReasonFilter {
    /// A reason as it was stored; a text that is none meets no letter.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// A reason as somebody asks for it. `None` for what no letter says: a slip in it would otherwise look as if
    /// there were no such letters.
    pub fn parse(text: &str) -> Option<Self> {
        let is = |known: &str| known.eq_ignore_ascii_case(text);
        let known = ALL
            .into_iter()
            .any(|reason| is(name(reason)) || is(&reason_name(reason, None)) || is(reason_sentence(reason)));
        let by_status =
            text.get(..BY_STATUS.len()).is_some_and(|start| start.eq_ignore_ascii_case(BY_STATUS));
        (known || by_status).then(|| Self::new(text))
    }

    /// The short names, for whoever asks for another.
    pub fn names() -> [&'static str; 4] {
        ALL.map(name)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn matches(&self, words: &str) -> bool {
        let same = self.0.eq_ignore_ascii_case(words);
        same || class(words).is_some_and(|reason| name(reason).eq_ignore_ascii_case(&self.0))
    }
}

const ALL: [DeadLetterReason; 4] = [
    DeadLetterReason::MaxDeliveryAttempts,
    DeadLetterReason::TimeToLive,
    DeadLetterReason::Rejected,
    DeadLetterReason::Undeliverable,
];

/// How the words of a refusal begin; the status follows, by one name or another.
const BY_STATUS: &str = "UndeliverableDueToHttp";

/// The reason's name, short for all its writings.
fn name(reason: DeadLetterReason) -> &'static str {
    match reason {
        DeadLetterReason::MaxDeliveryAttempts => "MaxDeliveryAttempts",
        DeadLetterReason::TimeToLive => "TimeToLive",
        DeadLetterReason::Rejected => "Rejected",
        DeadLetterReason::Undeliverable => "Undeliverable",
    }
}

/// What a letter's words mean, in either tier's writing.
fn class(words: &str) -> Option<DeadLetterReason> {
    [
        ("Max", DeadLetterReason::MaxDeliveryAttempts),
        ("Time", DeadLetterReason::TimeToLive),
        ("Undeliverable", DeadLetterReason::Undeliverable),
        ("Rejected", DeadLetterReason::Rejected),
        ("Event was rejected", DeadLetterReason::Rejected),
    ]
    .into_iter()
    .find(|(start, _)| words.starts_with(start))
    .map(|(_, reason)| reason)
}

/// Dead letters of one subscription; every part that is given must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub reason: Option<ReasonFilter>,
    /// The status of the last answer.
    pub status: Option<u16>,
    /// The event's type, in any case.
    pub event_type: Option<String>,
    /// Published then or later.
    pub since: Option<Timestamp>,
    /// Published before.
    pub until: Option<Timestamp>,
}

impl Selection {
    pub fn takes(&self, letter: &Letter<'_>) -> bool {
        let story = &letter.story;
        let time = story.published.unwrap_or(Timestamp::ZERO);
        self.reason.as_ref().is_none_or(|reason| reason.matches(&story.reason))
            && self.status.is_none_or(|status| story.status == Some(status))
            && self
                .event_type
                .as_ref()
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(&letter.event.event_type))
            && self.since.is_none_or(|since| since <= time)
            && self.until.is_none_or(|until| time < until)
    }

    /// Whether letters of this hour may be among them.
    pub fn reaches(&self, hour: Hour) -> bool {
        self.since.is_none_or(|since| Hour::of(since) <= hour)
            && self.until.is_none_or(|until| hour <= Hour::of(until))
    }

    /// Whether a letter has to be read to know.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::Story;
    use crate::event::{Data, Event, InputSchema};

    fn letter(reason: &str, status: Option<u16>) -> Letter<'static> {
        let published = Some(Timestamp::from_millis(7_200_000));
        let story = Story { reason: reason.to_owned(), status, published, ..Story::default() };
        let event = Event {
            schema: InputSchema::CloudEvent,
            id: "1".into(),
            event_type: "order.paid".into(),
            source: "/".into(),
            subject: None,
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: Vec::new(),
            data: Data::Absent,
        };
        Letter { story, event }
    }

    #[test]
    fn a_reason_is_met_by_its_name_and_by_the_words_of_a_letter() {
        let takes = |wanted: &str, words: &str| {
            let reason = Some(ReasonFilter::new(wanted));
            Selection { reason, ..Selection::default() }.takes(&letter(words, None))
        };
        assert!(takes("maxdeliveryattempts", "MaxDeliveryAttemptsExceeded"));
        assert!(takes("MaxDeliveryAttempts", "Maximum delivery attempts was exceeded."));
        assert!(takes("TimeToLive", "Time to live was exceeded."));
        assert!(takes("rejected", "Event was rejected by the receiver."));
        assert!(takes("undeliverable", "UndeliverableDueToHttpNotFound"));
        assert!(takes("UndeliverableDueToHttpNotFound", "UndeliverableDueToHttpNotFound"));
        assert!(!takes("UndeliverableDueToHttpNotFound", "UndeliverableDueToHttpForbidden"));
        assert!(!takes("TimeToLive", "Rejected"));
    }

    #[test]
    fn a_reason_that_no_letter_gives_is_refused() {
        for known in ReasonFilter::names().into_iter().chain([
            "maxdeliveryattempts",
            "MaxDeliveryAttemptsExceeded",
            "Maximum delivery attempts was exceeded.",
            "UndeliverableDueToHttpNotFound",
            "undeliverableduetohttp410",
            "Event was rejected by the receiver.",
        ]) {
            assert_eq!(ReasonFilter::parse(known), Some(ReasonFilter::new(known)), "{known}");
        }
        for unknown in ["", "MaxDeliveryAttemps", "Max", "ttl", "Undeliverabl\u{e9}DueToHttp", "404"] {
            assert_eq!(ReasonFilter::parse(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn every_part_must_fit() {
        let at = Timestamp::from_millis;
        let letter = letter("Rejected", Some(404));
        let check = |selection: Selection, expect: bool| {
            assert_eq!(selection.takes(&letter), expect, "{selection:?}");
        };
        let all = Selection::default;
        check(all(), true);
        check(Selection { status: Some(404), event_type: Some("Order.Paid".into()), ..all() }, true);
        check(Selection { status: Some(500), ..all() }, false);
        check(Selection { event_type: Some("order".into()), ..all() }, false);
        check(Selection { since: Some(at(7_200_000)), until: Some(at(7_200_001)), ..all() }, true);
        check(Selection { since: Some(at(7_200_001)), ..all() }, false);
        check(Selection { until: Some(at(7_200_000)), ..all() }, false);
        let hour = Hour::of(at(7_200_000));
        assert!(Selection { since: Some(at(7_300_000)), ..all() }.reaches(hour));
        assert!(!Selection { since: Some(at(3_600_000 * 3)), ..all() }.reaches(hour));
        assert!(!Selection { until: Some(at(7_199_999)), ..all() }.reaches(hour));
    }
}
