//! Has the broker audit itself when all is over: every event is accounted for, whatever faults there were.

use std::sync::Arc;

use gridwire_broker::{AuditError, Audited};
use gridwire_core::audit::Finding;
use tokio::sync::oneshot;

use crate::process::Call;
use crate::setup;
use crate::world::World;

/// Shows the checker what is out of balance, event by event.
pub(crate) async fn audit(world: &Arc<World>) {
    for plan in &world.plan.subscriptions {
        match ask(world, setup::id_of(world, plan)).await {
            Some(Ok(audited)) => tell(world, &plan.name, &audited),
            // It is made or removed in the storm, and whether that came about is the checker's affair.
            Some(Err(AuditError::NotFound)) if plan.begins.is_some() || plan.ends.is_some() => {}
            failed => {
                let what = format!("`{}` was not audited: {failed:?}", plan.name);
                world.checker().report_other("unaudited", "", world.now(), &what);
            }
        }
    }
}

async fn ask(world: &World, subscription: String) -> Option<Result<Audited, AuditError>> {
    let door = world.stage().door.clone()?;
    let (reply, answer) = oneshot::channel();
    door.send(Call::Audit(subscription, reply)).await.ok()?;
    answer.await.ok()
}

fn tell(world: &World, subscription: &str, audited: &Audited) {
    let report = &audited.report;
    let (events, damaged) = (report.matched, report.damaged);
    world.note(format_args!("audit: `{subscription}`, {events} events, {damaged} damaged"));
    for finding in &report.findings {
        let offsets = match finding {
            Finding::Lost { offset } | Finding::Unexpected { offset } => vec![*offset],
            Finding::LostAmong { among, .. } => among.clone(),
            Finding::UnexpectedAmong { .. } | Finding::Totals { .. } | Finding::Pending { .. } => Vec::new(),
        };
        let named = audited.events.iter().filter(|event| offsets.contains(&event.offset.0));
        let ids: Vec<&str> = named.map(|event| event.id.as_str()).collect();
        let what = format!("`{subscription}`: {finding:?}, events {ids:?}");
        let event = if let [id] = ids.as_slice() { *id } else { "" };
        world.checker().report_other("unbalanced", event, world.now(), &what);
    }
}

#[cfg(all(test, feature = "planted"))]
mod tests {
    use crate::run::run;

    /// The checker, which saw what was published and what arrived, and the audit, which saw only the broker's own
    /// books, name the same event.
    #[test]
    fn an_event_that_a_scan_skips_is_named_by_the_audit() {
        crate::plant(Some("scan-skips-a-match"));
        let named = (1..50).find_map(|seed| {
            let report = run(seed);
            let unbalanced: Vec<_> =
                report.violations.iter().filter(|violation| violation.kind == "unbalanced").collect();
            let lost: Vec<_> =
                report.violations.iter().filter(|violation| violation.kind == "lost").collect();
            let one = unbalanced.first()?;
            assert!(!one.event.is_empty(), "seed {seed}: {one:?} names its event");
            Some((one.event.clone(), lost.iter().any(|lost| lost.event == one.event), seed))
        });
        crate::plant(None);
        let (event, is_lost, seed) = named.expect("some seed has a scan with two matches");
        assert!(is_lost, "seed {seed}: `{event}` never arrived");
    }
}
