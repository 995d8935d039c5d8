//! The sick endpoints of a scenario, with their subscriptions.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio_util::sync::DropGuard;

use crate::bench::args::Schema;
use crate::bench::identity::Authority;
use crate::bench::illness::{Illness, SickArgs};
use crate::bench::report::{Cell, Report};
use crate::bench::setup::Management;
use crate::bench::sink::{Manner, Sink};

/// Between two bytes of those that trickle.
const TRICKLE: Duration = Duration::from_secs(1);
/// How often the sick were asked, one column for each illness.
pub(super) const ASKED: [(&str, &str); 6] = [
    ("hanging", "requests_to_hanging"),
    ("failing", "requests_to_failing"),
    ("trickling", "connections_to_trickling"),
    ("resetting", "connections_to_resetting"),
    ("redirecting", "requests_to_redirecting"),
    ("lying", "connections_to_lying"),
];

/// Where the sick come from.
#[derive(Debug)]
pub(super) struct Ward {
    numbers: [(Illness, u32); 6],
    hang: Duration,
    /// Whose word the liars agree by.
    authority: Arc<Authority>,
}

/// The sick of one run.
///
/// Each run has its own: a request that still hangs when its subscription is gone would burden the next run,
/// which may be one without. With its endpoint gone it ends.
pub(super) struct Patients {
    /// By illness.
    sinks: Vec<(Arc<Sink>, DropGuard)>,
    paths: Vec<String>,
}

/// What the sick of a run have seen.
pub(super) struct Seen {
    /// By illness.
    asked: Vec<u64>,
    strayed: u64,
}

impl Ward {
    pub(super) fn open(args: &SickArgs) -> anyhow::Result<Self> {
        Ok(Self { numbers: args.numbers(), hang: args.hang, authority: Arc::new(Authority::make()?) })
    }

    /// Whom the server has to trust before anybody falls ill, if anybody will lie.
    pub(super) fn authority(&self) -> Option<&Authority> {
        let lies = self.numbers.iter().any(|(illness, count)| *illness == Illness::Lying && *count > 0);
        lies.then_some(&self.authority)
    }

    pub(super) fn tell(&self, report: &mut Report) {
        const NAMES: [&str; 6] = [
            "hanging_endpoints",
            "failing_endpoints",
            "trickling_endpoints",
            "resetting_endpoints",
            "redirecting_endpoints",
            "lying_endpoints",
        ];
        for (name, (_, count)) in NAMES.into_iter().zip(self.numbers) {
            report.fact(name, count);
        }
        report.fact("hanging_seconds", self.hang.as_secs_f64());
    }

    fn manner(&self, illness: Illness) -> Manner {
        match illness {
            Illness::Hanging => Manner::Hangs(self.hang),
            Illness::Failing => Manner::Fails(StatusCode::INTERNAL_SERVER_ERROR),
            Illness::Trickling => Manner::Trickles(TRICKLE),
            Illness::Resetting => Manner::Resets,
            Illness::Redirecting => Manner::Redirects,
            Illness::Lying => Manner::Lies(Arc::clone(&self.authority)),
        }
    }

    /// Starts the endpoints and subscribes them to the custom topic at `topic`. They agree to that, and are sick
    /// from then on.
    pub(super) async fn fall_ill(
        &self,
        management: &mut Management,
        topic: &str,
    ) -> anyhow::Result<Patients> {
        let mut patients = Patients { sinks: Vec::new(), paths: Vec::new() };
        for (illness, count) in self.numbers {
            let (sink, stop) = Sink::start_many(count, self.manner(illness)).await?;
            for (number, url) in sink.urls().enumerate() {
                let name = format!("{}-{number}", illness.name());
                let path = management.subscribe(topic, &name, Schema::Cloudevents, &url, 1).await?;
                patients.paths.push(path);
            }
            patients.sinks.push((sink, stop));
        }
        Ok(patients)
    }
}

impl Patients {
    pub(super) fn seen(&self) -> Seen {
        let counted: Vec<_> = self.sinks.iter().map(|(sink, _)| sink.counted()).collect();
        Seen {
            asked: counted.iter().map(|counted| counted.requests).collect(),
            strayed: counted.iter().map(|counted| counted.strayed).sum(),
        }
    }

    /// Endpoints, and so subscriptions.
    pub(super) fn count(&self) -> usize {
        self.paths.len()
    }

    /// Ends the subscriptions, then the endpoints.
    pub(super) async fn leave(self, management: &mut Management) -> anyhow::Result<Seen> {
        for path in &self.paths {
            management.remove(path).await?;
        }
        Ok(self.seen())
    }
}

impl Seen {
    pub(super) fn cells(&self) -> Vec<Cell> {
        self.asked.iter().map(|count| Cell::Count(*count)).collect()
    }

    /// What the server did that it must not do.
    pub(super) fn fault(&self, run: &str) -> Option<String> {
        let strayed = self.strayed;
        (strayed > 0).then(|| format!("{run}: {strayed} times a redirect was followed or a lie believed"))
    }
}
