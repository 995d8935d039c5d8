//! Whoever asks for events and settles them: mostly at once, at times late, twice, or never.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gridwire_outside::Clock;
use http::Response;
use serde_json::{Value, json};

use crate::checker::{Received, TokenResult, Verb};
use crate::link;
use crate::setup::Place;
use crate::texts::{read_received, read_results};
use crate::world::World;

const RECEIVE_PATIENCE: Duration = Duration::from_secs(16);
const SETTLE_PATIENCE: Duration = Duration::from_secs(8);

#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) world: Arc<World>,
    pub(crate) subscription: String,
    pub(crate) place: Place,
    pub(crate) lock: Duration,
    /// The subscription is removed one day; then there is nothing more to do.
    pub(crate) may_end: bool,
}

/// What a receiver does with one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    Acknowledge,
    Release {
        delay: Duration,
    },
    Reject,
    RenewThenAcknowledge,
    /// Uses the token when its lock is over.
    Late,
    /// Acknowledges, then uses the token again.
    Twice,
    Forget,
}

impl Receiver {
    /// Receives for ever.
    pub(crate) async fn run(self) {
        loop {
            let fair = self.world.weather_mut().fair;
            let think = if fair { 100 } else { self.world.between(1, 1_500) };
            self.world.pause(Duration::from_millis(think)).await;
            let max = if fair { 100 } else { self.world.between(1, 40) };
            if let Some(tokens) = self.receive(max).await {
                self.work_on(tokens, fair).await;
            }
        }
    }

    fn target(&self, verb: &str, query: &str) -> String {
        let Self { place, subscription, .. } = self;
        format!("{}/eventsubscriptions/{subscription}:{verb}?api-version=2024-06-01{query}", place.path)
    }

    async fn post(&self, target: &str, body: String, patience: Duration) -> Option<Response<Bytes>> {
        let key = format!("SharedAccessKey {}", self.place.key);
        let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
        let answer = link::call(&self.world, link::request("POST", target, &headers, body), patience).await;
        let answer = answer.ok()?;
        let is_gone = self.may_end && answer.status() == http::StatusCode::NOT_FOUND;
        if answer.status().is_client_error() && !is_gone {
            let text = String::from_utf8_lossy(answer.body()).into_owned();
            let what = format!("{target}: {} {text}", answer.status());
            self.world.checker().report_other("misjudged", "", self.world.now(), &what);
        }
        answer.status().is_success().then_some(answer)
    }

    async fn receive(&self, max: u64) -> Option<Vec<String>> {
        let world = &self.world;
        let asked = world.now();
        let target = self.target("receive", &format!("&maxEvents={max}&maxWaitTime=10"));
        let answer = self.post(&target, String::new(), RECEIVE_PATIENCE).await;
        let Some(answer) = answer else {
            world.checker().not_received(&self.subscription);
            world.note(format_args!("receive {}: no answer", self.subscription));
            return None;
        };
        let events = read_received(answer.body()).unwrap_or_else(|| {
            let text = String::from_utf8_lossy(answer.body()).into_owned();
            world.checker().report_other(
                "altered",
                "",
                world.now(),
                &format!("an answer to receive: {text}"),
            );
            Vec::new()
        });
        let tokens: Vec<String> = events.iter().map(|event| event.token.clone()).collect();
        world.tally().lease_operations += tokens.len() as u64;
        if !events.is_empty() {
            let shown: Vec<String> = events.iter().map(shown).collect();
            world.note(format_args!("receive {}: {}", self.subscription, shown.join(" ")));
        }
        world.checker().received(&self.subscription, events, asked, world.now());
        Some(tokens)
    }

    async fn work_on(&self, tokens: Vec<String>, fair: bool) {
        let mut by_intent: Vec<(Intent, Vec<String>)> = Vec::new();
        for token in tokens {
            let intent = if fair { Intent::Acknowledge } else { self.intend() };
            match by_intent.iter_mut().find(|(same, _)| *same == intent) {
                Some((_, list)) => list.push(token),
                None => by_intent.push((intent, vec![token])),
            }
        }
        for (intent, tokens) in by_intent {
            match intent {
                Intent::Acknowledge => self.settle(Verb::Acknowledge, tokens).await,
                Intent::Release { delay } => self.settle(Verb::Release { delay }, tokens).await,
                Intent::Reject => self.settle(Verb::Reject, tokens).await,
                Intent::Forget => {}
                Intent::RenewThenAcknowledge | Intent::Late | Intent::Twice => {
                    let own = self.clone();
                    // Takes longer than the next receive waits for; ends with the world.
                    drop(self.world.tasks.spawn(async move { own.take_time(intent, tokens).await }));
                }
            }
        }
    }

    async fn take_time(&self, intent: Intent, tokens: Vec<String>) {
        match intent {
            Intent::RenewThenAcknowledge => {
                self.world.clock.sleep(self.lock.mul_f64(0.7)).await;
                self.settle(Verb::Renew, tokens.clone()).await;
                self.world.clock.sleep(self.lock.mul_f64(0.6)).await;
            }
            Intent::Late => self.world.clock.sleep(self.lock + Duration::from_secs(1)).await,
            Intent::Twice => self.settle(Verb::Acknowledge, tokens.clone()).await,
            _ => {}
        }
        self.settle(Verb::Acknowledge, tokens).await;
    }

    fn intend(&self) -> Intent {
        match self.world.rng.below(100) {
            0..=69 => Intent::Acknowledge,
            70..=75 => Intent::Release { delay: Duration::ZERO },
            76..=78 => Intent::Release { delay: Duration::from_secs(10) },
            79 | 80 => Intent::Reject,
            81..=85 => Intent::RenewThenAcknowledge,
            86..=90 => Intent::Late,
            91..=93 => Intent::Twice,
            _ => Intent::Forget,
        }
    }

    async fn settle(&self, verb: Verb, tokens: Vec<String>) {
        let world = &self.world;
        let (name, query) = match verb {
            Verb::Acknowledge => ("acknowledge", String::new()),
            Verb::Release { delay } => ("release", format!("&releaseDelayInSeconds={}", delay.as_secs())),
            Verb::Reject => ("reject", String::new()),
            Verb::Renew => ("renewLock", String::new()),
        };
        let asked = world.now();
        world.tally().lease_operations += tokens.len() as u64;
        world.checker().settling(verb, &tokens);
        let body = json!({ "lockTokens": tokens }).to_string();
        let answer = self.post(&self.target(name, &query), body, SETTLE_PATIENCE).await;
        let results = answer.as_ref().and_then(|answer| read_results(answer.body()));
        let shown: Vec<String> = tokens
            .iter()
            .map(|token| match results.iter().flatten().find(|result| result.token == *token) {
                Some(TokenResult { error: Some(code), .. }) => format!("{}={code}", short(token)),
                Some(_) => short(token).to_owned(),
                None => format!("{}=?", short(token)),
            })
            .collect();
        world.note(format_args!("{name} {}: {}", self.subscription, shown.join(" ")));
        world.checker().settled(verb, &tokens, results.as_deref(), asked, world.now());
    }
}

/// What tells one token from another.
fn short(token: &str) -> &str {
    token.get(token.len().saturating_sub(6)..).unwrap_or(token)
}

fn shown(received: &Received) -> String {
    let event: Value = serde_json::from_slice(&received.event).unwrap_or_default();
    let id = event["id"].as_str().unwrap_or("?");
    format!("{id}#{}({})", received.delivery_count, short(&received.token))
}
