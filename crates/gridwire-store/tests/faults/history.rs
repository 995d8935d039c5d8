//! Random things that publishers, receivers and the broker do.

use std::sync::Arc;
use std::time::Duration;

use gridwire_core::ids::{Slot, TopicNumber};
use gridwire_core::lock_token::LockToken;
use gridwire_core::shard::SettleVerb;
use gridwire_outside::{ManualClock, MemoryDisk, SeededRng};
use gridwire_store::AppendError;
use gridwire_store::embedded::EmbeddedOptions;

use crate::ledger::Ledger;
use crate::node::{LOCK, Node, Stopped, Sub, clock, event, options};

/// A store with what was promised of it.
pub(crate) struct World {
    pub(crate) disk: MemoryDisk,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) subs: Vec<Sub>,
    pub(crate) options: EmbeddedOptions,
    pub(crate) ledger: Ledger,
    pub(crate) rng: SeededRng,
    names: u64,
    held: Vec<(usize, LockToken)>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            disk: MemoryDisk::new(),
            clock: clock(),
            // Two topics; the second subscription of the first falls behind, the third has dead letters.
            subs: vec![Sub::new(1, 1, false), Sub::new(2, 1, false), Sub::new(3, 2, true)],
            options: options(),
            ledger: Ledger::default(),
            rng: SeededRng::new(seed),
            names: 0,
            held: Vec::new(),
        }
    }

    /// Another world that shares this one's past.
    pub(crate) fn fork(&self) -> Self {
        use gridwire_outside::Clock;
        Self {
            disk: self.disk.fork(),
            clock: Arc::new(ManualClock::new(self.clock.now())),
            subs: self.subs.clone(),
            options: self.options.clone(),
            ledger: self.ledger.clone(),
            rng: SeededRng::new(self.names),
            names: self.names,
            held: self.held.clone(),
        }
    }

    pub(crate) fn open(&mut self, shards: usize) -> Result<Node, Stopped> {
        let ledger = std::mem::take(&mut self.ledger);
        Node::open(&self.disk, &self.clock, &self.subs, shards, self.options.clone(), ledger).map_err(
            |ended| {
                let (stopped, ledger) = *ended;
                self.ledger = ledger;
                stopped
            },
        )
    }

    /// Opens and is gone again.
    pub(crate) fn open_only(&mut self) -> Result<(), Stopped> {
        let mut node = self.open(1)?;
        self.ledger = std::mem::take(&mut node.ledger);
        Ok(())
    }

    pub(crate) fn crash(&mut self, seed: u64) {
        self.ledger.cut();
        self.disk.crash(seed);
    }

    pub(crate) fn kill(&mut self) {
        self.ledger.kill();
        self.disk.kill();
    }

    /// Opens, does `steps` things and stops, in order or as a process that dies does.
    pub(crate) fn run(&mut self, steps: u64, shards: usize) -> Result<(), Stopped> {
        let mut node = self.open(shards)?;
        let ended = (0..steps).try_for_each(|_| self.step(&mut node));
        self.ledger = std::mem::take(&mut node.ledger);
        ended
    }

    /// How often segments are let go in such a history.
    pub(crate) fn trims_of(mut self, steps: u64) -> u64 {
        let mut node = self.open(1).expect("it opens");
        (0..steps).for_each(|_| self.step(&mut node).expect("nothing goes wrong"));
        node.trims
    }

    /// Opens, checks everything, and lets receivers have what is theirs.
    pub(crate) fn check(&mut self, shards: usize) {
        let mut node = self.open(shards).expect("it opens");
        node.ledger.check(&node, &self.subs);
        Ledger::check_deliveries(&mut node, &self.subs);
        self.ledger = std::mem::take(&mut node.ledger);
    }

    pub(crate) fn publish(&mut self, node: &mut Node) -> Result<Result<(), AppendError>, Stopped> {
        let topic = TopicNumber(u32::try_from(1 + self.rng.below(2)).expect("it is small"));
        let count = 1 + self.rng.below(3);
        let size = usize::try_from(300 + self.rng.below(950)).expect("it is small");
        let names: Vec<String> = (0..count).map(|index| format!("{}-{index}", self.names)).collect();
        self.names += 1;
        let events: Vec<_> = names.iter().map(|name| event(name, vec![7; size])).collect();
        // Now and then an event is for one of them only.
        let of_topic = self.subs.iter().filter(|sub| sub.topic == topic).map(|sub| sub.slot);
        let mut slots: Vec<Slot> = of_topic.collect();
        if self.rng.below(4) == 0 {
            slots.truncate(1);
        }
        Ok(node.publish(topic, &events, &slots)?.map(drop))
    }

    pub(crate) fn step(&mut self, node: &mut Node) -> Result<(), Stopped> {
        let millis = self.rng.below(80);
        match self.rng.below(18) {
            0..=6 => {
                for _ in 0..3 {
                    if self.publish(node)? == Err(AppendError::Failed) {
                        return Err(Stopped("the log has failed".into()));
                    }
                }
                return Ok(());
            }
            7..=9 => {
                // The second subscription seldom asks, and so keeps what the others have settled.
                let which = [0, 0, 2, 2, 1][usize::try_from(self.rng.below(5)).expect("it is small")];
                let max = u32::try_from(1 + self.rng.below(6)).expect("it is small");
                let received = node.receive(&self.subs[which], max)?;
                self.held.extend(received.into_iter().map(|(token, _)| (which, token)));
            }
            10..=12 => {
                let Some(place) = self.rng.below(self.held.len() as u64 + 1).checked_sub(1) else {
                    return Ok(());
                };
                let (which, token) = self.held.swap_remove(usize::try_from(place).expect("it is small"));
                let verb = match self.rng.below(6) {
                    0 => SettleVerb::Release { delay: Duration::from_secs(10) },
                    1 => SettleVerb::Reject,
                    2 => SettleVerb::RenewLock,
                    _ => SettleVerb::Acknowledge,
                };
                node.settle(&self.subs[which], verb, &[token])?;
                if verb == SettleVerb::RenewLock {
                    self.held.push((which, token));
                }
            }
            13 => node.advance(Duration::from_secs(self.rng.below(70)))?,
            14 if self.rng.below(2) == 0 => node.flush()?,
            14 => match node.snapshot() {
                Ok(()) | Err(AppendError::StorageFull) => {}
                Err(error) => return Err(Stopped(error.to_string())),
            },
            15 => node.trim()?,
            _ => self.settle_all(node)?,
        }
        node.advance(Duration::from_millis(millis))
    }

    /// Everybody takes and acknowledges what there is, so that segments can go.
    fn settle_all(&mut self, node: &mut Node) -> Result<(), Stopped> {
        node.advance(LOCK + Duration::from_secs(1))?;
        self.held.clear();
        for sub in self.subs.clone() {
            loop {
                let tokens: Vec<LockToken> =
                    node.receive(&sub, 50)?.into_iter().map(|(token, _)| token).collect();
                if tokens.is_empty() {
                    break;
                }
                node.settle(&sub, SettleVerb::Acknowledge, &tokens)?;
            }
        }
        node.trim()
    }
}
