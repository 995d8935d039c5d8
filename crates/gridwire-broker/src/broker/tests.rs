//! Jobs on dead letters, from their start by a request to their end.

mod purge;

use std::io::ErrorKind;
use std::pin::pin;

use futures_util::FutureExt;
use gridwire_outside::MemoryDisk;
use gridwire_outside::memory::Call;

use super::*;
use crate::dead_letter::JobState;
use crate::dead_letter::tests::{new_disk, record};
use crate::push::testing::eventually;
use crate::testing;

const HOUR: Duration = Duration::from_secs(3600);

/// Letters are written by threads of their own, as in the program, and an hour late.
fn options() -> BrokerOptions {
    BrokerOptions { dead_letter_delay: HOUR, threads: true, ..testing::options() }
}

fn start(disk: &MemoryDisk) -> Arc<Broker> {
    testing::start(disk, &testing::new_clock(), options())
}

fn state(broker: &Broker, id: &str) -> Option<JobState> {
    broker.jobs().get(id).map(|job| job.record().state)
}

#[tokio::test]
async fn a_job_is_done_although_whoever_asked_for_it_hangs_up_before_it_is_recorded() {
    let disk = new_disk();
    let broker = start(&disk);
    assert!(pin!(broker.start_job(record("a", 1))).now_or_never().is_none(), "recording takes a thread");
    assert_eq!(state(&broker, "a"), None);
    // There is no such subscription, so its end comes with its first step.
    eventually(|| state(&broker, "a") == Some(JobState::Failed)).await;
    let found = start(&disk.fork()).jobs().get("a").expect("on file").record();
    assert_eq!(found.state, JobState::Failed);
    assert_eq!(found.problem.as_deref(), Some("the event subscription was deleted"));
}

#[tokio::test]
async fn whoever_asks_for_a_job_is_told_when_it_runs_and_why_it_does_not() {
    let disk = new_disk();
    let broker = start(&disk);
    // Its letters have no place, so it waits.
    let mut nowhere = record("a", 1);
    nowhere.destination.account = String::new();
    let job = broker.start_job(nowhere).await.expect("started");
    assert_eq!((job.record().id.as_str(), state(&broker, "a")), ("a", Some(JobState::Running)));
    eventually(|| job.to_json()["waitingFor"].is_string()).await;

    let refused = broker.start_job(record("b", 1)).await;
    assert!(matches!(refused, Err(StartJobError::Busy { id }) if id == "a"));
    assert_eq!(state(&broker, "b"), None, "one job at a time on the same letters");
    disk.fail_nth(Call::Any, 1, ErrorKind::Other, true);
    let refused = broker.start_job(record("c", 2)).await;
    disk.heal();
    assert!(matches!(refused, Err(StartJobError::Record(_))));
    assert_eq!(state(&broker, "c"), None, "what is not on file is not begun");
    broker.start_job(record("d", 2)).await.expect("others have letters of their own");

    job.cancel();
    eventually(|| state(&broker, "a") == Some(JobState::Cancelled)).await;
    broker.start_job(record("e", 1)).await.expect("its letters are free again");
}
