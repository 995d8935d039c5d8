//! Makes the plan's faults come true, and starts the broker again after each end.

use std::sync::Arc;
use std::time::Duration;

use gridwire_outside::Clock;

use crate::disk::{End, Outage};
use crate::plan::Fault;
use crate::process::Call;
use crate::world::World;

/// How long a disk keeps failing.
const DISK_ERRORS_LAST: Duration = Duration::from_secs(4);

/// One fault, from its beginning to its end.
pub(crate) async fn strike(world: Arc<World>, at: Duration, fault: Fault) {
    world.clock.sleep(at.saturating_sub(world.clock.monotonic())).await;
    world.note(format_args!("fault: {fault:?}"));
    match fault {
        Fault::Kill { calls } => end(&world, calls, &End::Killed),
        Fault::PowerCut { calls, seed } => end(&world, calls, &End::PowerCut(seed)),
        Fault::KilledAgain { calls } => {
            world.stage().fuses = calls.into_iter().map(|calls| (calls, End::Killed)).collect();
            end(&world, None, &End::Killed);
        }
        Fault::PowerFlickers { calls, seed } => {
            let cut = |(number, calls)| (calls, End::PowerCut(seed ^ number));
            world.stage().fuses = (1..).zip(calls).map(cut).collect();
            end(&world, None, &End::PowerCut(seed));
        }
        Fault::Stop => {
            let door = world.stage().door.clone();
            if let Some(door) = door {
                // Gone meanwhile is as good.
                let _ = door.send(Call::Stop).await;
            }
        }
        Fault::DiskError { call, nth, kind, forever } => {
            world.tally().disk_errors += 1;
            world.stage().disk_errs = true;
            world.disk.fail_nth(call, nth, kind, forever);
            world.clock.sleep(DISK_ERRORS_LAST).await;
            world.disk.heal();
            world.stage().disk_errs = false;
        }
        Fault::DiskFull { left, lasts } => {
            world.tally().disk_full += 1;
            let now = world.now();
            world.checker().disk_was_full(now, now + lasts);
            world.disk.set_capacity(Some(world.disk.used() + left));
            world.clock.sleep(lasts).await;
            world.disk.set_capacity(None);
        }
        Fault::LettersDown { outage, lasts } => {
            world.tally().letters_down += 1;
            let now = world.now();
            world.checker().letters_were_down(now, now + lasts);
            world.letters_disk.set(outage);
            // Its end is its own, not the storm's.
            let own = Arc::clone(&world);
            let end = async move {
                own.clock.sleep(lasts).await;
                own.letters_disk.set(Outage::None);
            };
            drop(world.tasks.spawn(end));
        }
        Fault::ClientsCutOff { lasts } => {
            during(&world, lasts, |weather, on| weather.clients_cut_off = on).await;
        }
        Fault::WebhooksCutOff { lasts } => {
            during(&world, lasts, |weather, on| weather.webhooks_cut_off = on).await;
        }
        Fault::BadNetwork { lost, delay, lasts } => {
            during(&world, lasts, |weather, on| {
                weather.lost = if on { lost } else { 0 };
                weather.delay = if on { delay } else { 2 };
            })
            .await;
        }
    }
}

async fn during(world: &World, lasts: Duration, set: impl Fn(&mut crate::world::Weather, bool)) {
    world.tally().network += 1;
    set(&mut world.weather_mut(), true);
    world.clock.sleep(lasts).await;
    set(&mut world.weather_mut(), false);
}

fn end(world: &World, calls: Option<u64>, end: &End) {
    let life = world.stage().life.clone();
    let Some(life) = life else { return };
    match calls {
        Some(calls) => life.set_fuse(calls, end.clone()),
        None => life.end(end.clone()),
    }
}

/// Starts the broker again, a while after each end.
pub(crate) async fn supervise(world: Arc<World>) {
    loop {
        let ended = world.stage().ended.take();
        let Some(end) = ended else {
            world.stage_changed.notified().await;
            continue;
        };
        let wait = match end {
            End::Failed(_) => 1_000,
            _ => world.between(20, 1_500),
        };
        world.clock.sleep(Duration::from_millis(wait)).await;
        world.stage().wanted = true;
    }
}
