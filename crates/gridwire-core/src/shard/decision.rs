//! What a shard decides, and how it is written to the state log.
//!
//! A decision is absolute (delivery 3, due at t), so applying one twice changes nothing but counters, and
//! recovery never applies one twice: a snapshot's entry says which groups it includes.
//!
//! On disk a group is its decisions back to back: a kind byte, the subscription, then varints. Offsets are
//! written as differences, settled ones as runs. A kind that was ever written is read for ever; 5 and 6 say
//! nothing of a last attempt, 8 and 9 are the same with its time behind them.
//!
//! | kind | decision | after kind and subscription |
//! | --- | --- | --- |
//! | 1 | reset | floor |
//! | 2 | gone | |
//! | 3 | leased | seed (8 bytes), granted, deadline, count, then each event |
//! | 4 | renewed | deadline, runs of offsets |
//! | 5 | returned | event, due, reason (1 byte), answer |
//! | 6 | condemned | event, since, reason (1 byte), answer |
//! | 7 | settled | how (1 byte), floor, runs of offsets |
//! | 8 | returned | as 5, then how long before `due` the last attempt was |
//! | 9 | condemned | as 6, then how long before `since` the last attempt was |
//!
//! An answer is its HTTP status, or a number below 100 for why there was none; 0 says nothing.

use crate::ids::{Offset, SubscriptionNumber};
use crate::planted::planted;
use crate::retry::Outcome;
use crate::time::Timestamp;
use crate::varint::{put, take};

/// What is remembered of an event that is not simply waiting its first turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub offset: Offset,
    /// Publish time.
    pub time: Timestamp,
    /// Bytes of its encoding; what it weighs in an answer.
    pub size: u32,
    /// Deliveries so far; in a lease, including this one.
    pub attempts: u32,
}

/// What is known of an event's last delivery attempt, for its dead letter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastAttempt {
    /// When its outcome was known, or when a receiver got the event. `None` before the first attempt, and in
    /// what was recorded before this was.
    pub at: Option<Timestamp>,
    /// The HTTP status it was answered with.
    pub status: Option<u16>,
    /// Why a push was not answered. `None` also in what was recorded before this was.
    pub unanswered: Option<Unanswered>,
}

/// Why an endpoint's answer is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    TimedOut,
    Unreachable,
    Unresolved,
    TlsFailed,
    Forbidden,
    NoToken,
}

impl LastAttempt {
    /// A receiver got the event at `granted`.
    pub(super) fn received(granted: Timestamp) -> Self {
        Self { at: Some(granted), ..Self::default() }
    }

    /// A push came to this at `now`.
    pub(super) fn ended(outcome: Outcome, now: Timestamp) -> Self {
        let (status, unanswered) = match outcome {
            Outcome::Accepted => (None, None),
            Outcome::Answered { status, .. } => (Some(status), None),
            Outcome::TimedOut => (None, Some(Unanswered::TimedOut)),
            Outcome::Unreachable => (None, Some(Unanswered::Unreachable)),
            Outcome::Unresolved => (None, Some(Unanswered::Unresolved)),
            Outcome::TlsFailed => (None, Some(Unanswered::TlsFailed)),
            Outcome::Forbidden => (None, Some(Unanswered::Forbidden)),
            Outcome::NoToken => (None, Some(Unanswered::NoToken)),
        };
        Self { at: Some(now), status, unanswered }
    }

    /// What the push came to. One of which nothing is known, as earlier builds recorded all without an answer,
    /// counts as timed out.
    pub fn outcome(self) -> Outcome {
        match (self.status, self.unanswered) {
            (Some(status), _) => Outcome::Answered { status, retry_after: None },
            (None, None | Some(Unanswered::TimedOut)) => Outcome::TimedOut,
            (None, Some(Unanswered::Unreachable)) => Outcome::Unreachable,
            (None, Some(Unanswered::Unresolved)) => Outcome::Unresolved,
            (None, Some(Unanswered::TlsFailed)) => Outcome::TlsFailed,
            (None, Some(Unanswered::Forbidden)) => Outcome::Forbidden,
            (None, Some(Unanswered::NoToken)) => Outcome::NoToken,
        }
    }

    /// Writes all but its time, as one number.
    pub(super) fn put_answer(self, out: &mut Vec<u8>) {
        let number = match (self.status, self.unanswered) {
            (Some(status), _) => status,
            (None, None) => 0,
            (None, Some(Unanswered::TimedOut)) => 1,
            (None, Some(Unanswered::Unreachable)) => 2,
            (None, Some(Unanswered::Unresolved)) => 3,
            (None, Some(Unanswered::TlsFailed)) => 4,
            (None, Some(Unanswered::Forbidden)) => 5,
            (None, Some(Unanswered::NoToken)) => 6,
        };
        put(out, u64::from(number));
    }

    /// Reads what [`LastAttempt::put_answer`] has written; a reason that a later build gave says nothing.
    pub(super) fn take_answer(input: &mut &[u8]) -> Option<Self> {
        let number = u16::try_from(take(input)?).ok()?;
        let unanswered = match number {
            1 => Some(Unanswered::TimedOut),
            2 => Some(Unanswered::Unreachable),
            3 => Some(Unanswered::Unresolved),
            4 => Some(Unanswered::TlsFailed),
            5 => Some(Unanswered::Forbidden),
            6 => Some(Unanswered::NoToken),
            _ => None,
        };
        Some(Self { at: None, status: (STATUS_MIN <= number).then_some(number), unanswered })
    }
}

/// The least number that can be an HTTP status.
const STATUS_MIN: u16 = 100;

/// Why an event goes back to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    Released,
    LockExpired,
    Failed,
}

/// Why an event is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterReason {
    MaxDeliveryAttempts,
    TimeToLive,
    /// A receiver rejected it.
    Rejected,
    /// The endpoint answered a status that is never tried again.
    Undeliverable,
}

/// How an event was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    Delivered,
    DeadLettered,
    /// Given up with no dead-letter destination.
    Dropped(DeadLetterReason),
    /// Its dead-letter destination was down for too long.
    DeadLetterFailed,
    /// Its bytes could not be read.
    Damaged,
}

/// One change of a subscription's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The subscription starts (again) at `floor`, with nothing remembered.
    Reset { subscription: SubscriptionNumber, floor: Offset },
    /// The subscription is removed.
    Gone { subscription: SubscriptionNumber },
    /// Events were handed to a receiver until `deadline`. `seed` makes each lease's nonce.
    Leased {
        subscription: SubscriptionNumber,
        seed: u64,
        granted: Timestamp,
        deadline: Timestamp,
        events: Vec<Held>,
    },
    /// Locks now run until `deadline`.
    Renewed { subscription: SubscriptionNumber, deadline: Timestamp, offsets: Vec<Offset> },
    /// The event waits again, not before `due`.
    Returned {
        subscription: SubscriptionNumber,
        held: Held,
        due: Timestamp,
        reason: Return,
        last: LastAttempt,
    },
    /// The event is given up and waits for its dead letter to be written.
    Condemned {
        subscription: SubscriptionNumber,
        held: Held,
        since: Timestamp,
        reason: DeadLetterReason,
        last: LastAttempt,
    },
    /// Done with. Everything below `floor` that matched was settled before.
    Settled { subscription: SubscriptionNumber, how: Settlement, floor: Offset, offsets: Vec<Offset> },
}

impl Decision {
    pub fn subscription(&self) -> SubscriptionNumber {
        match *self {
            Self::Reset { subscription, .. }
            | Self::Gone { subscription }
            | Self::Leased { subscription, .. }
            | Self::Renewed { subscription, .. }
            | Self::Returned { subscription, .. }
            | Self::Condemned { subscription, .. }
            | Self::Settled { subscription, .. } => subscription,
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let kind = match self {
            Self::Reset { .. } => 1,
            Self::Gone { .. } => 2,
            Self::Leased { .. } => 3,
            Self::Renewed { .. } => 4,
            Self::Returned { last: LastAttempt { at: None, .. }, .. } => 5,
            Self::Condemned { last: LastAttempt { at: None, .. }, .. } => 6,
            Self::Settled { .. } => 7,
            Self::Returned { .. } => 8,
            Self::Condemned { .. } => 9,
        };
        out.push(kind);
        put(out, u64::from(self.subscription().0));
        match self {
            Self::Reset { floor, .. } => put(out, floor.0),
            Self::Gone { .. } => {}
            Self::Leased { seed, granted, deadline, events, .. } => {
                out.extend_from_slice(&seed.to_le_bytes());
                put(out, granted.as_millis());
                put(out, deadline.as_millis());
                put(out, events.len() as u64);
                let mut previous = Held::FIRST;
                for held in events {
                    held.encode(previous, out);
                    previous = *held;
                }
            }
            Self::Renewed { deadline, offsets, .. } => {
                put(out, deadline.as_millis());
                put_runs(out, offsets);
            }
            Self::Returned { held, due, reason, last, .. } => {
                held.encode(Held::FIRST, out);
                put(out, due.as_millis());
                out.push(match reason {
                    Return::Released => 0,
                    Return::LockExpired => 1,
                    Return::Failed => 2,
                });
                last.put_answer(out);
                put_before(last.at, *due, out);
            }
            Self::Condemned { held, since, reason, last, .. } => {
                held.encode(Held::FIRST, out);
                put(out, since.as_millis());
                out.push(reason.code());
                last.put_answer(out);
                put_before(last.at, *since, out);
            }
            Self::Settled { how, floor, offsets, .. } => {
                out.push(how.code());
                put(out, floor.0);
                let kept = if planted("settlement-half-recorded") {
                    offsets.len().div_ceil(2)
                } else {
                    offsets.len()
                };
                put_runs(out, &offsets[..kept]);
            }
        }
    }

    /// Takes one decision from the front of `input`; `None` when the bytes are not one.
    pub fn decode(input: &mut &[u8]) -> Option<Self> {
        let kind = take_byte(input)?;
        let subscription = SubscriptionNumber(u32::try_from(take(input)?).ok()?);
        Some(match kind {
            1 => Self::Reset { subscription, floor: Offset(take(input)?) },
            2 => Self::Gone { subscription },
            3 => {
                let (seed, rest) = input.split_first_chunk::<8>()?;
                *input = rest;
                let granted = take_time(input)?;
                let deadline = take_time(input)?;
                let count = take(input)?;
                let mut events = Vec::new();
                let mut previous = Held::FIRST;
                for _ in 0..count {
                    previous = Held::decode(previous, input)?;
                    events.push(previous);
                }
                Self::Leased { subscription, seed: u64::from_le_bytes(*seed), granted, deadline, events }
            }
            4 => Self::Renewed { subscription, deadline: take_time(input)?, offsets: take_runs(input)? },
            5 | 8 => {
                let held = Held::decode(Held::FIRST, input)?;
                let due = take_time(input)?;
                let reason = match take_byte(input)? {
                    0 => Return::Released,
                    1 => Return::LockExpired,
                    2 => Return::Failed,
                    _ => return None,
                };
                let answer = LastAttempt::take_answer(input)?;
                let at = if kind == 8 { Some(take_before(due, input)?) } else { None };
                Self::Returned { subscription, held, due, reason, last: LastAttempt { at, ..answer } }
            }
            6 | 9 => {
                let held = Held::decode(Held::FIRST, input)?;
                let since = take_time(input)?;
                let reason = DeadLetterReason::from_code(take_byte(input)?)?;
                let answer = LastAttempt::take_answer(input)?;
                let at = if kind == 9 { Some(take_before(since, input)?) } else { None };
                Self::Condemned { subscription, held, since, reason, last: LastAttempt { at, ..answer } }
            }
            7 => Self::Settled {
                subscription,
                how: Settlement::from_code(take_byte(input)?)?,
                floor: Offset(take(input)?),
                offsets: take_runs(input)?,
            },
            _ => return None,
        })
    }
}

impl Held {
    const FIRST: Self = Self { offset: Offset(0), time: Timestamp::ZERO, size: 0, attempts: 0 };

    /// `previous` saves bytes in a list: ascending offsets come with times close to each other.
    pub(super) fn encode(self, previous: Self, out: &mut Vec<u8>) {
        put(out, self.offset.0.wrapping_sub(previous.offset.0));
        put(out, self.time.as_millis().wrapping_sub(previous.time.as_millis()));
        put(out, u64::from(self.size));
        put(out, u64::from(self.attempts));
    }

    pub(super) fn decode(previous: Self, input: &mut &[u8]) -> Option<Self> {
        Some(Self {
            offset: Offset(previous.offset.0.wrapping_add(take(input)?)),
            time: Timestamp::from_millis(previous.time.as_millis().wrapping_add(take(input)?)),
            size: u32::try_from(take(input)?).ok()?,
            attempts: u32::try_from(take(input)?).ok()?,
        })
    }

    pub(super) fn list_start() -> Self {
        Self::FIRST
    }
}

impl DeadLetterReason {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::MaxDeliveryAttempts => 0,
            Self::TimeToLive => 1,
            Self::Rejected => 2,
            Self::Undeliverable => 3,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        [Self::MaxDeliveryAttempts, Self::TimeToLive, Self::Rejected, Self::Undeliverable]
            .into_iter()
            .find(|reason| reason.code() == code)
    }
}

impl Settlement {
    fn code(self) -> u8 {
        match self {
            Self::Delivered => 0,
            Self::DeadLettered => 1,
            Self::DeadLetterFailed => 2,
            Self::Damaged => 3,
            Self::Dropped(reason) => 0x10 + reason.code(),
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Delivered,
            1 => Self::DeadLettered,
            2 => Self::DeadLetterFailed,
            3 => Self::Damaged,
            0x10.. => Self::Dropped(DeadLetterReason::from_code(code - 0x10)?),
            _ => return None,
        })
    }
}

fn take_byte(input: &mut &[u8]) -> Option<u8> {
    let (&byte, rest) = input.split_first()?;
    *input = rest;
    Some(byte)
}

pub(super) fn take_time(input: &mut &[u8]) -> Option<Timestamp> {
    take(input).map(Timestamp::from_millis)
}

/// A time as its distance before `reference`; writes nothing for none.
pub(super) fn put_before(time: Option<Timestamp>, reference: Timestamp, out: &mut Vec<u8>) {
    if let Some(time) = time {
        put(out, reference.as_millis().wrapping_sub(time.as_millis()));
    }
}

pub(super) fn take_before(reference: Timestamp, input: &mut &[u8]) -> Option<Timestamp> {
    Some(Timestamp::from_millis(reference.as_millis().wrapping_sub(take(input)?)))
}

/// Offsets as runs: how many runs, then for each the gap from the end of the one before, and its length.
fn put_runs(out: &mut Vec<u8>, offsets: &[Offset]) {
    let mut sorted = Vec::new();
    let offsets = if offsets.is_sorted() {
        offsets
    } else {
        sorted.extend_from_slice(offsets);
        sorted.sort_unstable();
        &sorted[..]
    };
    let runs: Vec<&[Offset]> = offsets.chunk_by(|left, right| left.0 + 1 == right.0).collect();
    put(out, runs.len() as u64);
    let mut end = 0u64;
    for run in runs {
        put(out, run[0].0.wrapping_sub(end));
        put(out, run.len() as u64);
        end = run[0].0.wrapping_add(run.len() as u64);
    }
}

/// Offsets in one group are bounded by what a group can settle; more is not something we wrote.
const RUN_OFFSETS_MAX: u64 = 1 << 24;

fn take_runs(input: &mut &[u8]) -> Option<Vec<Offset>> {
    let runs = take(input)?;
    let mut offsets = Vec::new();
    let mut end = 0u64;
    for _ in 0..runs {
        let start = end.wrapping_add(take(input)?);
        let len = take(input)?;
        if len > RUN_OFFSETS_MAX || offsets.len() as u64 + len > RUN_OFFSETS_MAX {
            return None;
        }
        offsets.extend((0..len).map(|index| Offset(start.wrapping_add(index))));
        end = start.wrapping_add(len);
    }
    Some(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decision_survives_being_recorded() {
        let subscription = SubscriptionNumber(300);
        let held = Held { offset: Offset(9), time: Timestamp::from_millis(77), size: 1024, attempts: 2 };
        let decisions = [
            Decision::Reset { subscription, floor: Offset(1 << 40) },
            Decision::Gone { subscription },
            Decision::Leased {
                subscription,
                seed: u64::MAX,
                granted: Timestamp::from_millis(4),
                deadline: Timestamp::from_millis(5),
                events: vec![held, Held { offset: Offset(3), ..held }],
            },
            Decision::Renewed {
                subscription,
                deadline: Timestamp::MAX,
                offsets: vec![Offset(1), Offset(2), Offset(9)],
            },
            Decision::Returned {
                subscription,
                held,
                due: Timestamp::from_millis(8),
                reason: Return::Failed,
                last: LastAttempt { status: Some(503), ..LastAttempt::default() },
            },
            Decision::Returned {
                subscription,
                held,
                due: Timestamp::from_millis(90_000),
                reason: Return::LockExpired,
                last: LastAttempt::received(Timestamp::from_millis(60_000)),
            },
            Decision::Condemned {
                subscription,
                held,
                since: Timestamp::ZERO,
                reason: DeadLetterReason::Rejected,
                last: LastAttempt::default(),
            },
            Decision::Condemned {
                subscription,
                held,
                since: Timestamp::from_millis(7),
                reason: DeadLetterReason::TimeToLive,
                // Later than `since`, as no shard decides it: bytes may say so all the same.
                last: LastAttempt {
                    at: Some(Timestamp::from_millis(8)),
                    status: Some(404),
                    unanswered: None,
                },
            },
            Decision::Settled {
                subscription,
                how: Settlement::Dropped(DeadLetterReason::TimeToLive),
                floor: Offset(7),
                offsets: vec![Offset(7), Offset(8), Offset(10), Offset(11)],
            },
        ];
        let mut bytes = Vec::new();
        for decision in &decisions {
            decision.encode(&mut bytes);
        }
        let mut input = bytes.as_slice();
        for decision in &decisions {
            assert_eq!(Decision::decode(&mut input).as_ref(), Some(decision));
        }
        assert!(input.is_empty());
    }

    /// These bytes are in stores that exist: they are never changed.
    #[test]
    fn what_was_recorded_without_a_last_attempt_is_still_read() {
        let subscription = SubscriptionNumber(300);
        let held = Held { offset: Offset(9), time: Timestamp::from_millis(77), size: 1024, attempts: 2 };
        let last = LastAttempt { status: Some(503), ..LastAttempt::default() };
        for (bytes, expected) in [
            (
                &[5, 172, 2, 9, 77, 128, 8, 2, 8, 2, 247, 3][..],
                Decision::Returned {
                    subscription,
                    held,
                    due: Timestamp::from_millis(8),
                    reason: Return::Failed,
                    last,
                },
            ),
            (
                &[6, 172, 2, 9, 77, 128, 8, 2, 8, 3, 247, 3][..],
                Decision::Condemned {
                    subscription,
                    held,
                    since: Timestamp::from_millis(8),
                    reason: DeadLetterReason::Undeliverable,
                    last,
                },
            ),
        ] {
            let mut input = bytes;
            assert_eq!(Decision::decode(&mut input), Some(expected));
            assert!(input.is_empty());
        }
    }

    #[test]
    fn bytes_that_are_no_decision_are_refused() {
        for bytes in [
            &[][..],
            &[0, 1],
            &[10, 1],
            &[9, 1],
            &[7, 1, 99, 0, 0],
            &[7, 1, 0, 0, 1, 0, 255, 255, 255, 255, 127],
        ] {
            assert_eq!(Decision::decode(&mut &bytes[..]), None, "{bytes:?}");
        }
    }
}
