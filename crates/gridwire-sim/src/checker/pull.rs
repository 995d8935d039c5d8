//! Receives, locks and settlements.
//!
//! When exactly a lock was granted nobody outside knows: after the receive was asked for and before its answer
//! came. So a lock has two ends, the earliest and the latest there can be, and only what contradicts both is
//! reported.

use std::time::Duration;

use gridwire_core::time::Timestamp;

use super::{Checker, Mode, SLACK, TAKEN_BACK};

/// One event of an answer to receive.
#[derive(Clone, Debug)]
pub struct Received {
    pub token: String,
    pub delivery_count: u32,
    /// The `event` member.
    pub event: Vec<u8>,
}

/// What a receiver asks for with its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Acknowledge,
    Release { delay: Duration },
    Reject,
    Renew,
}

/// What one token was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenResult {
    pub token: String,
    /// The error's code.
    pub error: Option<String>,
}

/// A lock that was handed out.
#[derive(Debug)]
pub(super) struct Token {
    key: (usize, String),
    asked: Timestamp,
    answered: Timestamp,
    /// The grant and each renewal: asked, answered, and until when it held at least.
    grants: Vec<(Timestamp, Timestamp, Timestamp)>,
    /// It held at most until then.
    gone_at: Timestamp,
    ended: Ended,
    /// Requests under way that use it.
    pending: u32,
    /// A request that used it got no answer.
    unanswered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    No,
    /// A request that would end it got no answer, or a failure that a crash explains.
    Perhaps,
    Yes(Timestamp),
}

impl Checker {
    /// A receive was answered, from `asked` to `now`.
    pub fn received(&mut self, subscription: &str, events: Vec<Received>, asked: Timestamp, now: Timestamp) {
        for received in events {
            let Some(key) = self.arrived(subscription, &received.event, false, now) else { continue };
            self.judge_lock(&key, &received, now);
            let Mode::Pull { lock } = self.subscriptions[subscription].mode else {
                self.report("misrouted", key.0, now, "it was received from a push subscription");
                continue;
            };
            let item = self.item(&key);
            item.seen += 1;
            item.count = received.delivery_count;
            item.counted_at = Some(now);
            item.token = Some(received.token.clone());
            item.not_before = None;
            let token = Token {
                key,
                asked,
                answered: now,
                grants: vec![(asked, now, asked + lock)],
                gone_at: now + lock,
                ended: Ended::No,
                pending: 0,
                unanswered: false,
            };
            if let Some(twice) = self.tokens.insert(received.token, token) {
                self.report("double_lease", twice.key.0, now, "its token was handed out twice");
            }
        }
    }

    /// A receive got no answer: events may have been locked for nobody.
    pub fn not_received(&mut self, subscription: &str) {
        *self.unknown_receives.entry(subscription.to_owned()).or_default() += 1;
    }

    fn judge_lock(&mut self, key: &(usize, String), received: &Received, now: Timestamp) {
        let subscription = &key.1;
        let item = &self.items[key];
        if let Some((when, how)) = item.done {
            self.counts.repeated += 1;
            if !self.may_be_taken_back(back(when), when) {
                let what = format!("`{subscription}` handed it out again, {how} at {when}");
                self.report("zombie", key.0, now, &what);
            }
            return;
        }
        if let Some((due, since)) = item.not_before
            && now + SLACK < due
            && !self.may_be_taken_back(back(since), since)
        {
            self.report("early", key.0, now, &format!("`{subscription}` handed it out before {due}"));
            return;
        }
        if let Some(told) = item.counted_at
            && received.delivery_count <= item.count
            && !self.may_be_taken_back(back(told), told)
        {
            let (count, before) = (received.delivery_count, item.count);
            let what = format!("`{subscription}` counts it as delivery {count}, after {before}");
            self.report("miscounted", key.0, now, &what);
            return;
        }
        let Some(before) = item.token.as_ref().and_then(|token| self.tokens.get(token)) else { return };
        let held_until = self.held_until(before);
        if before.ended == Ended::No && now < held_until {
            let what = format!("`{subscription}` handed it out, locked until {held_until} at least");
            self.report("double_lease", key.0, now, &what);
        }
    }

    /// How long a lock held at least: by its grant and its renewals, as far as no power cut took them back.
    fn held_until(&self, token: &Token) -> Timestamp {
        let kept =
            token.grants.iter().filter(|(asked, answered, _)| !self.may_be_taken_back(*asked, *answered));
        kept.map(|(_, _, until)| *until).max().unwrap_or(Timestamp::ZERO)
    }

    /// A receiver is about to use these tokens, each once.
    pub fn settling(&mut self, verb: Verb, tokens: &[String]) {
        for name in tokens {
            let Some(token) = self.tokens.get_mut(name) else { continue };
            token.pending += 1;
            if verb == Verb::Renew {
                // Until it is answered nobody knows how long it holds.
                token.gone_at = Timestamp::MAX;
            } else if token.ended == Ended::No {
                token.ended = Ended::Perhaps;
            }
        }
    }

    /// What the tokens were told; `None` when no answer came.
    pub fn settled(
        &mut self,
        verb: Verb,
        tokens: &[String],
        results: Option<&[TokenResult]>,
        asked: Timestamp,
        now: Timestamp,
    ) {
        for name in tokens {
            let Some(token) = self.tokens.get_mut(name) else { continue };
            token.pending -= 1;
            let Some(results) = results else {
                token.unanswered = true;
                let key = token.key.clone();
                let item = self.item(&key);
                match verb {
                    Verb::Acknowledge => item.perhaps_done = true,
                    Verb::Reject => item.given_up = true,
                    Verb::Release { .. } | Verb::Renew => {}
                }
                continue;
            };
            match results.iter().find(|result| result.token == *name) {
                None => {
                    let event = token.key.0;
                    self.report("zombie", event, now, "its token was not answered for");
                }
                Some(TokenResult { error: None, .. }) => self.token_accepted(verb, name, asked, now),
                Some(TokenResult { error: Some(code), .. }) => {
                    let code = code.clone();
                    self.token_refused(verb, name, &code, now);
                }
            }
        }
    }

    fn token_accepted(&mut self, verb: Verb, name: &str, asked: Timestamp, now: Timestamp) {
        let token = &self.tokens[name];
        let (key, answered) = (token.key.clone(), token.answered);
        let item = &self.items[&key];
        let stale = match token.ended {
            Ended::Yes(when) if when < asked && !self.may_be_taken_back(back(when), when) => {
                Some(format!("its lock ended at {when}"))
            }
            _ if token.gone_at + SLACK < asked => Some(format!("its lock ran out by {}", token.gone_at)),
            _ => self.newer_lock(item, name, answered, asked),
        };
        if let Some(why) = stale {
            let what = format!("`{}` took a stale token ({verb:?}): {why}", key.1);
            self.report("zombie", key.0, now, &what);
        }
        let Mode::Pull { lock } = self.subscriptions[&key.1].mode else { return };
        let token = self.tokens.get_mut(name).expect("it was there");
        match verb {
            Verb::Renew => {
                token.grants.push((asked, now, asked + lock));
                token.gone_at = now + lock;
            }
            Verb::Acknowledge | Verb::Release { .. } | Verb::Reject => token.ended = Ended::Yes(now),
        }
        let item = self.item(&key);
        match verb {
            Verb::Acknowledge => drop(item.done.get_or_insert((now, "acknowledged"))),
            Verb::Reject => item.given_up = true,
            Verb::Release { delay } if !delay.is_zero() && item.token.as_deref() == Some(name) => {
                item.not_before = Some((asked + delay, now));
            }
            Verb::Release { .. } | Verb::Renew => {}
        }
    }

    /// A later lock of the same event that was granted before this token was used.
    fn newer_lock(
        &self,
        item: &super::Item,
        name: &str,
        answered: Timestamp,
        asked: Timestamp,
    ) -> Option<String> {
        let newest = item.token.as_deref().filter(|newest| *newest != name)?;
        let lock = &self.tokens[newest];
        let surely_later = answered < lock.asked && lock.answered < asked;
        (surely_later && !self.may_be_taken_back(lock.asked, lock.answered))
            .then(|| format!("another holder had it since {}", lock.answered))
    }

    fn token_refused(&mut self, verb: Verb, name: &str, code: &str, now: Timestamp) {
        let token = &self.tokens[name];
        let key = token.key.clone();
        let (pending, held_until, ended) = (token.pending, self.held_until(token), token.ended);
        let excused = self.may_be_taken_back(token.asked, token.answered);
        let held = matches!(ended, Ended::No)
            || (ended == Ended::Perhaps && verb != Verb::Renew && !token.unanswered);
        if code != "TokenLost" {
            let what = format!("`{}` said {code} to its token", key.1);
            self.report("zombie", key.0, now, &what);
        } else if held && pending == 0 && now + SLACK < held_until && !excused {
            let what = format!("`{}` lost a lock that held until {held_until} ({verb:?})", key.1);
            self.report("lost_lock", key.0, now, &what);
        }
        let token = self.tokens.get_mut(name).expect("it was there");
        if !matches!(token.ended, Ended::Yes(_)) {
            token.ended = Ended::Perhaps;
        }
        if verb == Verb::Renew && token.gone_at == Timestamp::MAX {
            // A renewal that failed changed nothing.
            token.gone_at = now;
        }
    }
}

/// When what was answered at `when` may have been decided at the earliest.
fn back(when: Timestamp) -> Timestamp {
    Timestamp::from_millis(
        when.as_millis().saturating_sub(10 * u64::try_from(TAKEN_BACK.as_millis()).unwrap_or(0)),
    )
}
