//! One seed from its plan to its verdict.
//!
//! The director makes the resources in calm weather, lets publishers, receivers and faults loose for a simulated
//! minute, ends all faults, and waits for the queues to drain. Beneath it the two runtimes take turns and time
//! moves when both wait.

use std::cell::RefCell;
use std::sync::{Arc, Once};
use std::time::Duration;

use gridwire_outside::Clock;
use tokio::sync::oneshot;

use crate::audits;
use crate::disk::End;
use crate::letters::Letters;
use crate::machine::Turns;
use crate::nemesis;
use crate::plan::{ModePlan, Plan, STORM, SubscriptionPlan};
use crate::process::{Call, Process};
use crate::publishers::Publisher;
use crate::receivers::Receiver;
use crate::report::Report;
use crate::setup::{self, Place};
use crate::world::{Weather, World};

/// Longest wait for the queues to drain: the longest documented wait after a failure (five minutes after a 404, with
/// jitter), and then some.
const DRAIN: Duration = Duration::from_secs(480);
/// Shortest: what nobody waits for may still come.
const DRAIN_MIN: Duration = Duration::from_secs(30);
/// Turns at one moment: beyond it somebody spins.
const TURNS_MAX: u64 = 200_000;

thread_local! {
    /// What panicked; `None` while this thread simulates nothing.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Keeps panics for the report: tokio ends only the task.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let kept = PANICS.try_with(|panics| {
                let mut panics = panics.try_borrow_mut().ok()?;
                panics.as_mut().map(|panics| panics.push(info.to_string()))
            });
            if !matches!(kept, Ok(Some(()))) {
                before(info);
            }
        }));
    });
}

/// Runs a seed.
pub fn run(seed: u64) -> Report {
    run_plan(Plan::new(seed))
}

/// Lets a plan happen.
pub(crate) fn run_plan(plan: Plan) -> Report {
    catch_panics();
    PANICS.set(Some(Vec::new()));
    let turns = Turns::new();
    let world = World::new(plan, turns.handle().clone());
    let directed = turns.handle().spawn(direct(Arc::clone(&world)));
    let mut process: Option<Process> = None;
    let mut turns_now = 0;
    loop {
        turns_now += 1;
        if turns_now > TURNS_MAX {
            world.checker().report_other("livelock", "", world.now(), "nobody waits any more");
            break;
        }
        if turns.is_wanted() {
            turns.run();
        }
        report_panics(&world);
        if let Some(running) = process.take_if(|process| process.life.is_over()) {
            reap(&world, running);
        }
        let wanted = std::mem::take(&mut world.stage().wanted);
        if wanted && process.is_none() {
            let started = Process::start(&world);
            let mut stage = world.stage();
            if let Some((calls, end)) = stage.fuses.pop_front() {
                started.life.set_fuse(calls, end);
            }
            stage.life = Some(started.life.clone());
            drop(stage);
            process = Some(started);
        }
        if directed.is_finished() {
            break;
        }
        match &process {
            Some(process) if process.turns.is_wanted() => process.turns.run(),
            _ if turns.is_wanted() => {}
            _ => {
                turns_now = 0;
                if !world.clock.advance() {
                    world.checker().report_other("deadlock", "", world.now(), "nobody waits for a time");
                    break;
                }
            }
        }
    }
    if let Some(running) = process {
        running.life.end(End::Killed);
    }
    drop(turns);
    report_panics(&world);
    PANICS.set(None);
    let checker = world.checker();
    let (violations, counts) = (checker.violations().to_vec(), checker.counts());
    let tally = *world.tally();
    Report { plan: world.plan.clone(), violations, counts, tally, trace: world.take_trace() }
}

fn report_panics(world: &World) {
    for panic in PANICS.replace(Some(Vec::new())).unwrap_or_default() {
        world.note(format_args!("panic: {panic}"));
        world.checker().report_other("panic", "", world.now(), &panic);
    }
}

/// Buries a process, and judges whether it should have ended.
fn reap(world: &World, process: Process) {
    let end = process.life.how_it_ended().expect("it is over");
    world.note(format_args!("process: {end:?}"));
    {
        let mut stage = world.stage();
        stage.life = None;
        stage.door = None;
        stage.ended = Some(end.clone());
    }
    let now = world.now();
    let mut tally = world.tally();
    match &end {
        End::Killed => {
            tally.kills += 1;
            world.checker().killed(now);
        }
        End::PowerCut(_) => {
            tally.power_cuts += 1;
            world.checker().power_cut(now);
        }
        End::Stopped => {
            tally.stops += 1;
            world.checker().killed(now);
        }
        End::Failed(why) => {
            tally.fail_stops += 1;
            world.checker().killed(now);
            if !world.stage().disk_errs {
                world.checker().report_other("failed", "", now, why);
            }
        }
    }
    drop(tally);
    world.replies().reset_all();
    drop(process);
    report_panics(world);
    world.stage_changed.notify_waiters();
}

async fn door_opens(world: &World) {
    loop {
        let changed = world.stage_changed.notified();
        if world.stage().door.is_some() {
            return;
        }
        changed.await;
    }
}

async fn direct(world: Arc<World>) {
    world.stage().wanted = true;
    door_opens(&world).await;
    let places = setup::setup(&world).await;
    world.note("storm: begins");
    world.weather_mut().fair = false;
    let tasks = &world.tasks;
    drop(tasks.spawn(nemesis::supervise(Arc::clone(&world))));
    for (number, plan) in world.plan.publishers.iter().enumerate() {
        let place = places[plan.topic].clone();
        let publisher = Publisher { world: Arc::clone(&world), number, plan: plan.clone(), place };
        drop(tasks.spawn(publisher.run()));
    }
    for plan in &world.plan.subscriptions {
        let (own, plan, place) = (Arc::clone(&world), plan.clone(), places[plan.topic].clone());
        drop(tasks.spawn(subscription(own, plan, place)));
    }
    let mut faults = Vec::new();
    for (at, fault) in &world.plan.faults {
        faults.push(tasks.spawn(nemesis::strike(Arc::clone(&world), *at, fault.clone())));
    }
    world.clock.sleep(STORM.saturating_sub(world.clock.monotonic())).await;
    for fault in faults {
        fault.abort();
    }
    heal(&world);
    drain(&world).await;
}

/// The life of one subscription: made, if it is not there yet, received from, and perhaps removed.
async fn subscription(world: Arc<World>, plan: SubscriptionPlan, place: Place) {
    if let Some(begins) = plan.begins {
        world.clock.sleep(begins.saturating_sub(world.clock.monotonic())).await;
        setup::subscribe_in_the_storm(&world, &plan).await;
    }
    if let ModePlan::Pull { lock_seconds, receivers } = plan.mode {
        for _ in 0..receivers {
            let receiver = Receiver {
                world: Arc::clone(&world),
                subscription: plan.name.clone(),
                place: place.clone(),
                lock: Duration::from_secs(lock_seconds) / world.plan.haste,
                may_end: plan.ends.is_some(),
            };
            drop(world.tasks.spawn(receiver.run()));
        }
    }
    if let Some(ends) = plan.ends {
        world.clock.sleep(ends.saturating_sub(world.clock.monotonic())).await;
        setup::unsubscribe_in_the_storm(&world, &plan).await;
    }
}

fn heal(world: &World) {
    world.note("storm: is over");
    world.disk.heal();
    world.disk.set_capacity(None);
    *world.weather_mut() = Weather::fair();
    let mut stage = world.stage();
    if let Some(life) = &stage.life {
        life.clear_fuse();
    }
    stage.fuses.clear();
    stage.disk_errs = false;
}

async fn drain(world: &Arc<World>) {
    let mut letters = Letters::default();
    let begun = world.clock.monotonic();
    loop {
        world.clock.sleep(Duration::from_secs(3)).await;
        letters.look(world);
        let waited = world.clock.monotonic().saturating_sub(begun);
        let outstanding = world.checker().outstanding(world.now());
        let over = DRAIN < waited;
        if !over && (waited < DRAIN_MIN || !outstanding.is_empty()) {
            continue;
        }
        let pending = pending(world).await;
        if !over && pending != Some(0) {
            continue;
        }
        // What the last settlements free goes with the next look at it.
        world.clock.sleep(Duration::from_secs(2)).await;
        count(world).await;
        audits::audit(world).await;
        let mut checker = world.checker();
        if pending != Some(0) {
            let what = format!("queues still hold {pending:?} events; outstanding: {outstanding:?}");
            checker.report_other("stuck", "", world.now(), &what);
        }
        checker.finish(world.now());
        return;
    }
}

/// The broker's metrics page.
async fn metrics(world: &World) -> Option<String> {
    let door = world.stage().door.clone()?;
    let (reply, answer) = oneshot::channel();
    door.send(Call::Metrics(reply)).await.ok()?;
    answer.await.ok()
}

/// Events that the broker's queues still hold.
async fn pending(world: &World) -> Option<u64> {
    let page = metrics(world).await?;
    figures(&page, "pending_events").map(|(_, figure)| figure).reduce(|sum, figure| sum + figure)
}

/// Each subscription's figure of this name.
fn figures<'p>(page: &'p str, name: &str) -> impl Iterator<Item = (&'p str, u64)> {
    let series = format!("gridwire_delivery_{name}{{");
    page.lines().filter(move |line| line.starts_with(&series)).filter_map(|line| {
        let (series, figure) = line.rsplit_once(' ')?;
        let (_, rest) = series.split_once("subscription=\"")?;
        Some((rest.split_once('"')?.0, figure.parse().ok()?))
    })
}

/// Shows the checker what the broker counted.
async fn count(world: &World) {
    let Some(page) = metrics(world).await else { return };
    let settled = ["delivered_total", "dead_lettered_total", "expired_total", "dropped_total"];
    // What is forwarded is counted in two queues, and once more for each copy that a crash has made.
    let counted = |subscription: &&SubscriptionPlan| !matches!(subscription.mode, ModePlan::Forward { .. });
    for subscription in world.plan.subscriptions.iter().filter(counted) {
        let name = subscription.name.as_str();
        let of = |kind: &&str| {
            let kind = format!("events_{kind}");
            figures(&page, &kind).filter(|(owner, _)| *owner == name).map(|(_, figure)| figure).sum::<u64>()
        };
        let total = settled.iter().map(of).sum();
        world.checker().counted(name, total, world.now());
        if let Some(matched) = figures(&page, "events_matched_total").find(|(owner, _)| *owner == name) {
            world.checker().matched(name, matched.1, total, world.now());
        } else if figures(&page, "pending_events").any(|(owner, _)| owner == name) {
            // It is there. One that was to be made or removed in the storm may not be.
            world.checker().report_other("uncounted", "", world.now(), name);
        }
        let dropped = of(&"dropped_total");
        world.checker().dropped(name, dropped, world.now());
        let mut tally = world.tally();
        tally.expired += of(&"expired_total");
        tally.letters_given_up += if subscription.dead_letter { dropped } else { 0 };
    }
}
