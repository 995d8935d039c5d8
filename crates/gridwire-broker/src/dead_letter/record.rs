//! What is written down of a job: what it was asked, and how far it has come.
//!
//! One JSON file for each job, `DIR/deadletter/.jobs/{id}.json`, replaced whole. A job that was cut off goes on
//! from its record: letters up to `cursor` are done with, and whatever it put back after that is in frames from
//! `checkpoint` on.

use gridwire_core::dead_letter::{LetterKey, ReasonFilter, Selection};
use gridwire_core::ids::{Lsn, SubscriptionNumber};
use gridwire_core::routing::DeadLetterDestination;
use gridwire_core::time::Timestamp;
use serde_json::{Value, json};

/// What is done with the letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Their events go back into their subscription's queue, at most so many in a second.
    Redrive { rate: u32 },
    /// They are removed; those that wait, or those that were redriven.
    Purge { redriven: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobState {
    Running,
    Done,
    Cancelled,
    Failed,
}

impl JobState {
    const ALL: [Self; 4] = [Self::Running, Self::Done, Self::Cancelled, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) subscription: SubscriptionNumber,
    /// The subscription's resource id.
    pub(crate) resource: String,
    pub(crate) destination: DeadLetterDestination,
    /// Where the destination was when the job began ([`super::DeadLetters::place`]). Records of earlier builds do not
    /// say.
    pub(crate) place: Option<String>,
    /// Where in the container the subscription's letters are.
    pub(crate) prefix: String,
    pub(crate) selection: Selection,
    pub(crate) created: Timestamp,
    pub(crate) state: JobState,
    pub(crate) ended: Option<Timestamp>,
    /// The last letter that is done with.
    pub(crate) cursor: Option<LetterKey>,
    /// Frames with letters behind `cursor` are here or later.
    pub(crate) checkpoint: Lsn,
    /// Letters redriven or removed.
    pub(crate) taken: u64,
    /// Letters that could not be understood, or whose event is too large to be stored. They stay.
    pub(crate) unusable: u64,
    /// Why it failed.
    pub(crate) problem: Option<String>,
}

impl Record {
    /// As stored, and as answered.
    pub(crate) fn to_json(&self) -> Value {
        let (kind, rate, redriven) = match self.kind {
            Kind::Redrive { rate } => ("redrive", Some(rate), None),
            Kind::Purge { redriven } => ("purge", None, Some(redriven)),
        };
        json!({
            "version": 1,
            "id": self.id,
            "kind": kind,
            "eventsPerSecond": rate,
            "redriven": redriven,
            "subscription": self.subscription.0,
            "resource": self.resource,
            "account": self.destination.account,
            "container": self.destination.container,
            "place": self.place,
            "prefix": self.prefix,
            "selection": {
                "reason": self.selection.reason.as_ref().map(ReasonFilter::as_str),
                "status": self.selection.status,
                "type": self.selection.event_type,
                "since": self.selection.since.map(|time| time.to_string()),
                "until": self.selection.until.map(|time| time.to_string()),
            },
            "created": self.created.to_string(),
            "state": self.state.as_str(),
            "ended": self.ended.map(|time| time.to_string()),
            "cursor": self.cursor.map(|key| key.to_string()),
            "checkpoint": self.checkpoint.0,
            "taken": self.taken,
            "unusable": self.unusable,
            "problem": self.problem,
        })
    }

    /// Reads what [`Record::to_json`] made; `None` when it is not that.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        if value["version"] != 1 {
            return None;
        }
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let number = |name: &str| value[name].as_u64();
        let time = |value: &Value| value.as_str().map(|text| Timestamp::parse_rfc3339(text).ok_or(()));
        let selection = &value["selection"];
        let kind = match value["kind"].as_str()? {
            "redrive" => Kind::Redrive { rate: u32::try_from(number("eventsPerSecond")?).ok()? },
            "purge" => Kind::Purge { redriven: value["redriven"].as_bool()? },
            _ => return None,
        };
        let status = selection["status"].as_u64().map(u16::try_from).transpose().ok()?;
        Some(Self {
            id: text("id")?,
            kind,
            subscription: SubscriptionNumber(u32::try_from(number("subscription")?).ok()?),
            resource: text("resource")?,
            destination: DeadLetterDestination { account: text("account")?, container: text("container")? },
            place: text("place"),
            prefix: text("prefix")?,
            selection: Selection {
                reason: selection["reason"].as_str().map(ReasonFilter::new),
                status,
                event_type: selection["type"].as_str().map(str::to_owned),
                since: time(&selection["since"]).transpose().ok()?,
                until: time(&selection["until"]).transpose().ok()?,
            },
            created: time(&value["created"])?.ok()?,
            state: JobState::ALL.into_iter().find(|state| value["state"] == state.as_str())?,
            ended: time(&value["ended"]).transpose().ok()?,
            cursor: text("cursor").map(|text| text.parse()).transpose().ok()?,
            checkpoint: Lsn(number("checkpoint")?),
            taken: number("taken")?,
            unusable: number("unusable")?,
            problem: text("problem"),
        })
    }
}

#[cfg(test)]
mod tests {
    use gridwire_core::ids::Offset;

    use super::*;

    #[test]
    fn a_record_survives_being_stored() {
        let time = Timestamp::from_millis(1_795_465_178_054);
        let subscription = SubscriptionNumber(7);
        let mut record = Record {
            id: "1".to_owned(),
            kind: Kind::Redrive { rate: 100 },
            subscription,
            resource: "/subscriptions/s".to_owned(),
            destination: DeadLetterDestination { account: "a".to_owned(), container: "c".to_owned() },
            place: Some("directory".to_owned()),
            prefix: "BILLING".to_owned(),
            selection: Selection {
                reason: Some(ReasonFilter::new("TimeToLive")),
                status: Some(404),
                event_type: Some("order.paid".to_owned()),
                since: Some(time),
                until: None,
            },
            created: time,
            state: JobState::Running,
            ended: None,
            cursor: Some(LetterKey::of(
                gridwire_core::dead_letter::StoreTag::default(),
                subscription,
                Offset(1),
                time,
            )),
            checkpoint: Lsn(12),
            taken: 3,
            unusable: 1,
            problem: None,
        };
        assert_eq!(Record::from_json(&record.to_json()).as_ref(), Some(&record));
        record.kind = Kind::Purge { redriven: true };
        record.state = JobState::Failed;
        record.ended = Some(time);
        record.problem = Some("it went wrong".to_owned());
        record.selection = Selection::default();
        record.cursor = None;
        record.place = None;
        assert_eq!(Record::from_json(&record.to_json()).as_ref(), Some(&record));
        for (name, wrong) in
            [("version", json!(2)), ("kind", json!("x")), ("state", json!("x")), ("cursor", json!("x"))]
        {
            let mut value = record.to_json();
            value[name] = wrong;
            assert_eq!(Record::from_json(&value), None, "{name}");
        }
    }
}
