//! What receivers ask of a queue: events, and to settle those they hold.

use super::{Queue, Receiver};
use crate::ids::Offset;
use crate::limits;
use crate::lock_token::LockToken;
use crate::planted::planted;
use crate::routing::DeliveryMode;
use crate::shard::decision::{DeadLetterReason, Decision, Return, Settlement};
use crate::shard::state::Lease;
use crate::shard::{Answer, Effect, Output, ReplyId, SettleVerb, TokenError};
use crate::time::Timestamp;

impl Queue {
    pub(in crate::shard) fn receive(
        &mut self,
        reply: ReplyId,
        max: u32,
        deadline: Timestamp,
        out: &mut Output,
    ) {
        if matches!(self.policy.mode, DeliveryMode::Push { .. }) {
            out.effects.push(Effect::Answer { reply, answer: Answer::NotPull });
        } else if self.receivers.len() >= limits::RECEIVERS_WAITING_MAX {
            out.effects.push(Effect::Answer { reply, answer: Answer::TooManyReceivers });
        } else {
            self.receivers.insert(reply, Receiver { max, deadline });
            self.receiver_deadlines.insert((deadline, reply));
        }
    }

    /// The client hung up before it was answered.
    pub(in crate::shard) fn cancel_receive(&mut self, reply: ReplyId) {
        if let Some(receiver) = self.receivers.remove(&reply) {
            self.receiver_deadlines.remove(&(receiver.deadline, reply));
        }
    }

    /// Settles or renews by lock tokens; each token gets its own result.
    pub(in crate::shard) fn settle(
        &mut self,
        reply: ReplyId,
        verb: SettleVerb,
        tokens: &[LockToken],
        tail: u64,
        now: Timestamp,
        out: &mut Output,
    ) {
        let DeliveryMode::Pull { lock } = self.policy.mode else {
            out.effects.push(Effect::Answer { reply, answer: Answer::NotPull });
            return;
        };
        let mut results = Vec::with_capacity(tokens.len());
        let mut together = Vec::new();
        for token in tokens {
            let lease = match self.holder(token, now) {
                // The same token twice in one request: the first use settles it.
                // Tokens usually come in the order they were handed out, so there is nothing to look through.
                Ok(_)
                    if verb != SettleVerb::RenewLock
                        && together.last().is_some_and(|last| token.offset <= *last)
                        && together.contains(&token.offset) =>
                {
                    results.push(Err(TokenError::Lost));
                    continue;
                }
                Ok(lease) => lease,
                Err(error) => {
                    results.push(Err(error));
                    continue;
                }
            };
            let (held, last) = (lease.held, lease.attempt());
            match verb {
                SettleVerb::Acknowledge => together.push(token.offset),
                SettleVerb::RenewLock => {
                    if now > lease.first_granted + limits::LOCK_RENEWAL_WINDOW {
                        results.push(Err(TokenError::RenewedTooLong));
                        continue;
                    }
                    together.push(token.offset);
                }
                SettleVerb::Release { delay } => {
                    if held.attempts >= self.policy.attempts_max {
                        self.give_up(held, DeadLetterReason::MaxDeliveryAttempts, last, tail, now, out);
                    } else {
                        let due = crate::retry::next_look(now, delay, self.end_of(&held));
                        self.give_back(held, due, Return::Released, last, out);
                    }
                }
                SettleVerb::Reject => self.give_up(held, DeadLetterReason::Rejected, last, tail, now, out),
            }
            results.push(Ok(()));
        }
        if !together.is_empty() {
            together.sort_unstable();
            together.dedup();
            let subscription = self.number;
            let decision = if verb == SettleVerb::RenewLock {
                Decision::Renewed { subscription, deadline: now + lock, offsets: together }
            } else {
                let floor = Offset(self.floor(tail));
                Decision::Settled { subscription, how: Settlement::Delivered, floor, offsets: together }
            };
            self.record(decision, out);
        }
        out.effects.push(Effect::Answer { reply, answer: Answer::Settled(results) });
    }

    /// The current lease that `token` belongs to.
    fn holder(&self, token: &LockToken, now: Timestamp) -> Result<Lease, TokenError> {
        let lease = self.state.leases.get(&token.offset.0).ok_or(TokenError::Lost)?;
        let current = lease.nonce == token.nonce && lease.held.attempts == token.delivery
            || planted("any-holder-settles");
        if current && now < lease.deadline { Ok(*lease) } else { Err(TokenError::Lost) }
    }
}
