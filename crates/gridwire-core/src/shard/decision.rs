//! What a shard decides, and how it is written to the state log.
//!
//! A decision is absolute (delivery 3, due at t), so applying one twice changes nothing but counters, and
//! recovery never applies one twice: a snapshot's entry says which groups it includes.
//!
//! On disk a group is its decisions back to back: a kind byte, the subscription, then varints. Offsets are
//! written as differences, settled ones as runs.

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
        status: Option<u16>,
    },
    /// The event is given up and waits for its dead letter to be written.
    Condemned {
        subscription: SubscriptionNumber,
        held: Held,
        since: Timestamp,
        reason: DeadLetterReason,
        status: Option<u16>,
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
            Self::Returned { .. } => 5,
            Self::Condemned { .. } => 6,
            Self::Settled { .. } => 7,
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
            Self::Returned { held, due, reason, status, .. } => {
                held.encode(Held::FIRST, out);
                put(out, due.as_millis());
                out.push(match reason {
                    Return::Released => 0,
                    Return::LockExpired => 1,
                    Return::Failed => 2,
                });
                StoredStatus::put(*status, out);
            }
            Self::Condemned { held, since, reason, status, .. } => {
                held.encode(Held::FIRST, out);
                put(out, since.as_millis());
                out.push(reason.code());
                StoredStatus::put(*status, out);
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
            5 => Self::Returned {
                subscription,
                held: Held::decode(Held::FIRST, input)?,
                due: take_time(input)?,
                reason: match take_byte(input)? {
                    0 => Return::Released,
                    1 => Return::LockExpired,
                    2 => Return::Failed,
                    _ => return None,
                },
                status: StoredStatus::take(input)?.get(),
            },
            6 => Self::Condemned {
                subscription,
                held: Held::decode(Held::FIRST, input)?,
                since: take_time(input)?,
                reason: DeadLetterReason::from_code(take_byte(input)?)?,
                status: StoredStatus::take(input)?.get(),
            },
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

/// The HTTP status that an outcome carried, if it was an answer.
pub(super) fn status_of(outcome: Outcome) -> Option<u16> {
    match outcome {
        Outcome::Answered { status, .. } => Some(status),
        _ => None,
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

/// A status as it is stored: 0 for none.
#[derive(Clone, Copy)]
pub(super) struct StoredStatus(u16);

impl StoredStatus {
    pub(super) fn put(status: Option<u16>, out: &mut Vec<u8>) {
        put(out, u64::from(status.unwrap_or(0)));
    }

    pub(super) fn take(input: &mut &[u8]) -> Option<Self> {
        u16::try_from(take(input)?).ok().map(Self)
    }

    pub(super) fn get(self) -> Option<u16> {
        (self.0 != 0).then_some(self.0)
    }
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
                status: Some(503),
            },
            Decision::Condemned {
                subscription,
                held,
                since: Timestamp::ZERO,
                reason: DeadLetterReason::Rejected,
                status: None,
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

    #[test]
    fn bytes_that_are_no_decision_are_refused() {
        for bytes in
            [&[][..], &[0, 1], &[9, 1], &[7, 1, 99, 0, 0], &[7, 1, 0, 0, 1, 0, 255, 255, 255, 255, 127]]
        {
            assert_eq!(Decision::decode(&mut &bytes[..]), None, "{bytes:?}");
        }
    }
}
