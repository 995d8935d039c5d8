//! One history of cuts: what is planned, what happened, and what the checker says of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gridwire_sim::checker::{Counts, Violation};

use crate::flushes::Flushes;
use crate::machine::Machine;
use crate::platter::{Loss, Moment, Survival};
use crate::storm::{End, World};
use crate::support::load::Chance;
use crate::support::outside::WallClock;
use crate::support::server::show;
use crate::support::time::pause;
use crate::support::{Launch, Server, program};

/// How far the wall clock is ahead at the last start, so that locks which nobody knows of have run out: as after a
/// longer time without power.
const NIGHT: Duration = Duration::from_secs(120);

/// How a failed `store check` is told.
pub(crate) const DAMAGED: &str = "the store is damaged";

/// What is wanted of one cut. The rest is up to the machine: a real process cannot be repeated to the instruction.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// `kill -9` and a start before: what the killed process left in the page cache is then the next one's.
    kill_after: Option<Duration>,
    cut_after: Duration,
    moment: Moment,
    survival: Survival,
    /// The power goes once more while the server starts.
    again: Option<(Duration, Moment, Survival)>,
}

impl Plan {
    fn new(chance: &mut Chance) -> Self {
        let millis =
            |least: u64, more: u64, chance: &mut Chance| Duration::from_millis(least + chance.below(more));
        Self {
            kill_after: (chance.below(4) == 0).then(|| millis(50, 400, chance)),
            cut_after: millis(50, 700, chance),
            moment: Moment::any(chance),
            survival: Survival::any(chance),
            again: (chance.below(4) == 0)
                .then(|| (millis(0, 150, chance), Moment::any(chance), Survival::any(chance))),
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) cuts: u32,
    pub(crate) kills: u32,
    pub(crate) loss: Loss,
    pub(crate) flushes: u64,
    /// What power cuts could take back of what was settled and locked, at most; zero where nobody watched.
    pub(crate) unflushed_for: Duration,
    pub(crate) slowest_start: Duration,
    pub(crate) counts: Counts,
    /// Deliveries that never came. The checker keeps only the first violations, and these are found last.
    pub(crate) lost: usize,
    pub(crate) violations: Vec<Violation>,
}

/// Cuts the power so often, at least, under a server that is started with these words in front of it; they are told
/// its data directory. No cut comes before `least` has passed since the start.
pub(crate) fn run(
    seed: u64,
    cuts: u32,
    least: Duration,
    before: impl FnOnce(&Path) -> Vec<OsString>,
) -> Story {
    show(&format!("history of {cuts} cuts, GRIDWIRE_POWER_SEED={seed}"));
    let mut chance = Chance(seed);
    let mut story = Story::default();
    let mut machine = Machine::new();
    let dir = machine.root().join("data");
    let data_dir = Some((dir.clone(), dir.clone()));
    // What is made before the load is made by a sound server.
    let mut server = Server::launch(Launch { data_dir: data_dir.clone(), ..Launch::default() });
    let world = World::new(&server);
    server.terminate();
    let words = before(&dir);
    let mut flushes = Flushes::new(&words, server.scratch(), &world.judge);
    server.launch.before = if words.is_empty() { flushes.before() } else { words };
    server.restart();
    flushes.serves(&world.judge);
    while story.cuts < cuts {
        let mut plan = Plan::new(&mut chance);
        plan.cut_after = plan.cut_after.max(least);
        if let Some(after) = plan.kill_after {
            let when = storm(&world, &mut server, after, &mut chance, |server| {
                server.end();
                world.judge.now()
            });
            world.ended(when, End::Killed);
            story.kills += 1;
            start(&world, &mut server, &mut story);
            flushes.serves(&world.judge);
        }
        let (chance_of_cut, pid) = (chance.split(), server.pid());
        let (when, loss) = storm(&world, &mut server, plan.cut_after, &mut chance, |server| {
            let loss = machine.cut(plan.moment, plan.survival, chance_of_cut);
            let when = world.judge.now();
            server.end();
            (when, loss)
        });
        let flushed = flushes.last(pid, when, &world.judge);
        world.ended(when, End::PowerCut(flushed));
        story.add(loss);
        machine.boot();
        if let Some((after, moment, survival)) = plan.again {
            server.begin();
            pause(after);
            let loss = machine.cut(moment, survival, chance.split());
            let when = world.judge.now();
            server.end();
            // What the first cut left unsure still is.
            world.ended(when, End::PowerCut(flushed));
            story.add(loss);
            machine.boot();
        }
        check_store(&dir);
        start(&world, &mut server, &mut story);
        flushes.serves(&world.judge);
        show(&format!("cut {}: {plan:?}; {loss:?}; ready after {:?}", story.cuts, server.ready_after));
    }
    let clock = last_start(&world, &mut server, &mut story, data_dir);
    story.lost = world.drain(&server);
    story.flushes = machine.flushes();
    story.unflushed_for = flushes.longest_ago;
    assert!(server.terminate().0.success(), "the server stops when asked to");
    drop(clock);
    check_store(&dir);
    machine.check_file_system();
    let checker = world.judge.checker();
    story.counts = checker.counts();
    story.violations = checker.violations().to_vec();
    drop(checker);
    story
}

/// Load for a while, and then whatever ends the server.
fn storm<T>(
    world: &World,
    server: &mut Server,
    after: Duration,
    chance: &mut Chance,
    end: impl FnOnce(&mut Server) -> T,
) -> T {
    let ending = AtomicBool::new(false);
    std::thread::scope(|scope| {
        world.load(scope, server.http, &ending, chance);
        pause(after);
        ending.store(true, Ordering::SeqCst);
        end(server)
    })
}

fn start(world: &World, server: &mut Server, story: &mut Story) {
    server.restart();
    world.judge.checker().serves();
    story.slowest_start = story.slowest_start.max(server.ready_after);
}

/// Starts the sound server once more, some time later by its wall clock, which is to be kept while it runs. Without the means to that the locks of lost
/// answers take their time.
fn last_start(
    world: &World,
    server: &mut Server,
    story: &mut Story,
    data_dir: Option<(PathBuf, PathBuf)>,
) -> Option<WallClock> {
    server.end();
    world.ended(world.judge.now(), End::Killed);
    let clock = WallClock::new();
    server.launch = Launch { data_dir, ..Launch::default() };
    if let Ok(clock) = &clock {
        clock.set(i64::try_from(NIGHT.as_secs()).expect("a short night"));
        server.launch.environment = clock.launch().environment;
        world.judge.put_ahead(NIGHT);
    }
    start(world, server, story);
    clock.ok()
}

/// What the log finds at its next start is what `store check` says, and neither finds damage after a power cut.
fn check_store(dir: &Path) {
    let output =
        program().args(["store", "check", "--data-dir"]).arg(dir).output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{DAMAGED}:\n{said}");
}

impl Story {
    fn add(&mut self, loss: Loss) {
        self.cuts += 1;
        self.loss.kept += loss.kept;
        self.loss.lost += loss.lost;
    }

    /// For people.
    pub(crate) fn told(&self) -> String {
        let Counts { accepted, unknown, deliveries, repeated, .. } = self.counts;
        format!(
            "{} cuts, {} kills, {} sectors kept of {} un-flushed, {} flushes; {accepted} events accepted, {unknown} \
             unknown, {deliveries} deliveries, {repeated} of them repeated; ready after {:?} at most; decisions flushed \
             {:?} before a cut at most",
            self.cuts,
            self.kills,
            self.loss.kept,
            self.loss.kept + self.loss.lost,
            self.flushes,
            self.slowest_start,
            self.unflushed_for
        )
    }
}
