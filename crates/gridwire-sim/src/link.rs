//! The way from a client to the broker and back: late, lossy, sometimes cut.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gridwire_outside::Clock;
use http::{HeaderName, Request, Response};
use tokio::sync::oneshot;

use crate::process::Call;
use crate::world::World;

/// Why there is no answer. Whether the request was carried out, nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoAnswer(pub(crate) &'static str);

/// A POST or PUT that has all its headers as pairs.
pub(crate) fn request(
    method: &str,
    target: &str,
    headers: &[(&'static str, &str)],
    body: impl Into<Bytes>,
) -> Request<Bytes> {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(HeaderName::from_static(name), *value);
    }
    request.body(body.into()).expect("the simulation's requests are well formed")
}

/// Sends a request and waits for its answer, at most for `patience`.
pub(crate) async fn call(
    world: &Arc<World>,
    request: Request<Bytes>,
    patience: Duration,
) -> Result<Response<Bytes>, NoAnswer> {
    let answer = tokio::select! {
        biased;
        answer = exchange(world, request) => answer,
        () = world.clock.sleep(patience) => Err(NoAnswer("timeout")),
    };
    if answer.as_ref().map_or(true, |answer| answer.status().is_server_error()) {
        world.tally().unanswered += 1;
    }
    answer
}

async fn exchange(world: &Arc<World>, request: Request<Bytes>) -> Result<Response<Bytes>, NoAnswer> {
    let weather = world.weather();
    if weather.clients_cut_off || world.chance(weather.lost) {
        return lost(world).await;
    }
    world.pause(weather.webhook_delay()).await;
    let door = world.stage().door.clone();
    let Some(door) = door else { return Err(NoAnswer("refused")) };
    let (number, mut answer) = world.replies().wait();
    // Dropped when this is.
    let (_connection, hung_up) = oneshot::channel();
    // Gone: the connection is reset.
    door.send(Call::Request(Box::new(request), number, hung_up)).await.map_err(|_| NoAnswer("reset"))?;
    let weather = world.weather();
    if world.chance(weather.lost) {
        // The client goes away before or after the answer was made.
        let patience = Duration::from_millis(world.rng.below(20));
        tokio::select! {
            biased;
            () = world.pause(patience) => {}
            _ = &mut answer => {}
        }
        return Err(NoAnswer("reset under way"));
    }
    let answer = answer.await.map_err(|_| NoAnswer("reset"))?;
    world.pause(weather.webhook_delay()).await;
    if world.weather().clients_cut_off {
        return lost(world).await;
    }
    Ok(answer)
}

/// A message that got lost is noticed by nobody, or as a reset.
async fn lost(world: &Arc<World>) -> Result<Response<Bytes>, NoAnswer> {
    if world.chance(500) {
        std::future::pending::<()>().await;
    }
    Err(NoAnswer("reset"))
}
