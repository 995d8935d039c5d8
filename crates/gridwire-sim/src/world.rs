//! What everybody in a simulation shares: time, chance, the disk, the weather, the checker, the trace.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gridwire_core::time::Timestamp;
use gridwire_outside::{Clock, MemoryDisk, SeededRng};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};

use crate::checker::Checker;
use crate::clock::SimClock;
use crate::disk::{End, LettersDisk, Life};
use crate::plan::Plan;
use crate::process::{Call, Replies};

/// Broker time when a simulation begins: 2026-11-23T20:19:38Z.
const START: Timestamp = Timestamp::from_millis(1_795_465_178_000);

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) rng: SeededRng,
    pub(crate) disk: MemoryDisk,
    pub(crate) letters_disk: LettersDisk,
    /// Where tasks of the world run.
    pub(crate) tasks: Handle,
    weather: Mutex<Weather>,
    checker: Mutex<Checker>,
    trace: Mutex<String>,
    stage: Mutex<Stage>,
    /// Told when a process has ended, and when one has opened its door.
    pub(crate) stage_changed: Notify,
    pub(crate) tally: Mutex<Tally>,
    replies: Mutex<Replies>,
}

/// Which process there is.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    /// The one that runs, and the way in once it serves.
    pub(crate) life: Option<Life>,
    pub(crate) door: Option<mpsc::Sender<Call>>,
    /// Somebody wants a new one.
    pub(crate) wanted: bool,
    pub(crate) ended: Option<End>,
    /// How the next ones end: at which call to the disk, and by what.
    pub(crate) fuses: VecDeque<(u64, End)>,
    /// The disk fails some calls at the moment.
    pub(crate) disk_errs: bool,
}

/// The network's state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weather {
    /// Faults are over: every webhook is well, every client behaves.
    pub(crate) fair: bool,
    pub(crate) clients_cut_off: bool,
    pub(crate) webhooks_cut_off: bool,
    /// In a thousand: requests, answers, and connections in use that are lost.
    pub(crate) lost: u64,
    /// The longest delay of a message, in milliseconds.
    pub(crate) delay: u64,
    /// A number drawn anew for each message.
    draw: u64,
}

impl Weather {
    pub(crate) fn fair() -> Self {
        Self { fair: true, delay: 2, ..Self::default() }
    }

    pub(crate) fn webhooks_are_cut_off(&self) -> bool {
        self.webhooks_cut_off
    }

    pub(crate) fn webhook_delay(&self) -> Duration {
        Duration::from_millis(self.draw % (1 + self.delay))
    }
}

/// Faults that came to pass, by kind, and what else is worth a figure.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub kills: u64,
    pub power_cuts: u64,
    pub stops: u64,
    /// Processes that ended themselves, as they should when the disk fails.
    pub fail_stops: u64,
    pub disk_errors: u64,
    pub disk_full: u64,
    pub network: u64,
    /// Outages of the place for dead letters.
    pub letters_down: u64,
    /// Dead letters that waited for too long, and events whose time to live ended without one.
    pub letters_given_up: u64,
    pub expired: u64,
    /// Lock tokens asked for, settled and renewed.
    pub lease_operations: u64,
    pub snapshots: u64,
    pub segments_trimmed: u64,
    /// Sealed segments at once, and at the end.
    pub segments_most: u64,
    pub segments_left: u64,
    /// Attempts that webhooks did not simply accept.
    pub webhook_failures: u64,
    /// Requests that got no answer or a 5xx.
    pub unanswered: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.stops += other.stops;
        self.fail_stops += other.fail_stops;
        self.disk_errors += other.disk_errors;
        self.disk_full += other.disk_full;
        self.network += other.network;
        self.letters_down += other.letters_down;
        self.letters_given_up += other.letters_given_up;
        self.expired += other.expired;
        self.lease_operations += other.lease_operations;
        self.snapshots += other.snapshots;
        self.segments_trimmed += other.segments_trimmed;
        self.segments_most = self.segments_most.max(other.segments_most);
        self.segments_left = self.segments_left.max(other.segments_left);
        self.webhook_failures += other.webhook_failures;
        self.unanswered += other.unanswered;
    }
}

impl World {
    pub(crate) fn new(plan: Plan, tasks: Handle) -> Arc<Self> {
        let mut checker = Checker::default();
        checker.settlements_are_flushed = plan.settlements_are_flushed;
        checker.letter_patience = plan.letters.patience;
        Arc::new(Self {
            clock: Arc::new(SimClock::new(START)),
            rng: SeededRng::new(plan.seed ^ 0x0005_7a9e),
            disk: MemoryDisk::new(),
            letters_disk: LettersDisk::default(),
            tasks,
            weather: Mutex::new(Weather::fair()),
            checker: Mutex::new(checker),
            trace: Mutex::default(),
            stage: Mutex::default(),
            stage_changed: Notify::new(),
            tally: Mutex::default(),
            replies: Mutex::default(),
            plan,
        })
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) async fn pause(&self, wait: Duration) {
        if !wait.is_zero() {
            self.clock.sleep(wait).await;
        }
    }

    /// The network as it is for one message.
    pub(crate) fn weather(&self) -> Weather {
        Weather { draw: self.rng.below(1 << 32), ..self.weather_mut().clone() }
    }

    pub(crate) fn weather_mut(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().expect("no panic while the weather is held")
    }

    pub(crate) fn checker(&self) -> MutexGuard<'_, Checker> {
        self.checker.lock().expect("no panic while the checker is held")
    }

    pub(crate) fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().expect("no panic while the stage is held")
    }

    pub(crate) fn replies(&self) -> MutexGuard<'_, Replies> {
        self.replies.lock().expect("no panic while the replies are held")
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("no panic while the tally is held")
    }

    /// Writes a line of what happens.
    pub(crate) fn note(&self, line: impl std::fmt::Display) {
        let now = self.clock.monotonic();
        let mut trace = self.trace.lock().expect("no panic while the trace is held");
        // A string takes everything.
        let _ = writeln!(trace, "{:4}.{:03} {line}", now.as_secs(), now.subsec_millis());
    }

    pub(crate) fn take_trace(&self) -> String {
        std::mem::take(&mut self.trace.lock().expect("no panic while the trace is held"))
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        low + self.rng.below(high - low + 1)
    }

    /// True `share` times in a thousand.
    pub(crate) fn chance(&self, share: u64) -> bool {
        self.rng.below(1000) < share
    }
}
