//! An audit of one subscription: its books as of one moment, compared with the log step by step.
//!
//! What is compared is `gridwire-core`'s affair. Here the log is read, in turns as those who catch up read it and with
//! pauses, and the events found are looked up so that whoever asked knows them by more than a number. There is one
//! audit at a time: it reads all that the log has of a topic, and remembers which of it matched.

use std::collections::BTreeSet;
use std::time::Duration;

use gridwire_core::audit::{Audit, Finding, Report};
use gridwire_core::event::Event;
use gridwire_core::ids::Offset;
use gridwire_core::routing::SubscriptionRoute;
use gridwire_core::time::Timestamp;
use gridwire_store::ReadError;

use crate::broker::Broker;
use crate::shards;

/// Matches in one step: a millisecond or two of a reader, and then it is somebody else's turn.
const STEP_MAX: usize = 4_096;
/// Between two steps: most of the time the readers are there for those who deliver.
const PAUSE: Duration = Duration::from_millis(5);
/// Events that are read at once to be named. They may be of a mebibyte each.
const NAMED_AT_ONCE: usize = 16;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("there is no such event subscription")]
    NotFound,
    #[error("another audit is under way")]
    Busy,
    #[error("the broker is starting or stopping")]
    Unavailable,
    #[error("failed to read the log for an audit")]
    Read(#[from] ReadError),
}

/// An event that a finding speaks of, as far as the log still has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditedEvent {
    pub offset: Offset,
    pub id: String,
    pub source: String,
    pub event_type: String,
    pub published: Timestamp,
}

/// A report with the events it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    pub report: Report,
    /// Ascending.
    pub events: Vec<AuditedEvent>,
}

impl Broker {
    /// Compares what a subscription (number or resource id) has on its books with the log. Cancel safe: an audit that
    /// nobody waits for ends.
    pub async fn audit(&self, subscription: &str) -> Result<Audited, AuditError> {
        let route = self.subscription(subscription).ok_or(AuditError::NotFound)?;
        let _only = self.only_audit().ok_or(AuditError::Busy)?;
        let shards = self.shards().ok_or(AuditError::Unavailable)?;
        let books = shards::books(&shards, &route).await.ok_or(AuditError::Unavailable)?;
        let mut audit = Audit::new(books.ok_or(AuditError::NotFound)?);
        let log = &*self.outside().log;
        while let Some(from) = audit.next() {
            if self.is_stopping() {
                return Err(AuditError::Unavailable);
            }
            let start = log.start(route.topic).0;
            if from < start {
                // Not retained: a scan would find nothing there, and where all is gone not even an end.
                audit.found(std::iter::empty(), &[], start);
                continue;
            }
            let found = {
                let _turn = self.turn_of_those_behind().await;
                log.scan_slice(route.topic, route.slot, Offset(from), STEP_MAX).await?
            };
            self.outside().clock.sleep(PAUSE).await;
            let Some(found) = found else { continue };
            if found.next <= from {
                if from < log.start(route.topic).0 {
                    continue; // It was let go just now.
                }
                let what = format!("its topic's log can't be read on from offset {from}");
                return Err(ReadError::Damaged { what }.into());
            }
            audit.found(found.matches.iter().map(|matched| matched.offset.0), &found.lost, found.next);
        }
        // Last: what was let go meanwhile may have been missed.
        let report = audit.finish(log.start(route.topic).0);
        let events = self.named(&route, &report).await?;
        Ok(Audited { report, events })
    }

    async fn named(
        &self,
        route: &SubscriptionRoute,
        report: &Report,
    ) -> Result<Vec<AuditedEvent>, ReadError> {
        let offsets: BTreeSet<Offset> = report.findings.iter().flat_map(named_by).map(Offset).collect();
        let offsets: Vec<Offset> = offsets.into_iter().collect();
        let mut named = Vec::new();
        for some in offsets.chunks(NAMED_AT_ONCE) {
            let _turn = self.turn_of_those_behind().await;
            let fetched = self.outside().log.fetch(route.topic, some.to_vec()).await?;
            named.extend(fetched.iter().filter_map(audited));
        }
        Ok(named)
    }
}

fn audited(fetched: &gridwire_store::Fetched) -> Option<AuditedEvent> {
    let event = Event::decode(&fetched.event)?;
    Some(AuditedEvent {
        offset: fetched.offset,
        id: event.id.into_owned(),
        source: event.source.into_owned(),
        event_type: event.event_type.into_owned(),
        published: fetched.time,
    })
}

fn named_by(finding: &Finding) -> Vec<u64> {
    match finding {
        Finding::Lost { offset } | Finding::Unexpected { offset } => vec![*offset],
        Finding::LostAmong { among, .. } => among.clone(),
        Finding::UnexpectedAmong { .. } | Finding::Totals { .. } | Finding::Pending { .. } => Vec::new(),
    }
}
