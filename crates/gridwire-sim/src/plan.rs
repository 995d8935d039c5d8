//! What a seed decides before anything happens: who is there, what they do, and what goes wrong when.
//!
//! Every plan has at least three kinds of faults, among them always a kill, a power cut, trouble with the disk and
//! trouble with the network. Times are those of the simulated clock; events per seed are chosen so that three
//! hundred seeds take a few minutes.

use std::fmt;
use std::io;
use std::time::Duration;

use gridwire_core::event::{DeliverySchema, InputSchema};
use gridwire_core::filter::{AdvancedFilter, FilterSpec, Operator};
use gridwire_core::patience::DeadLetterPolicy;
use gridwire_core::routing::{Batching, TopicKind};
use gridwire_outside::memory::Call;
use gridwire_outside::{Rng, SeededRng};

use crate::disk::Outage;

/// When faults end and everything heals.
pub(crate) const STORM: Duration = Duration::from_secs(60);
/// What `preferredBatchSizeInKilobytes` is when it is left out.
pub(crate) const BATCH_KILOBYTES_DEFAULT: usize = 64;
/// Resources are made in fair weather; the first fault comes no sooner.
const CALM: u64 = 2_000;

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub(crate) shards: usize,
    pub(crate) segment_bytes: u64,
    pub(crate) block_bytes: u64,
    pub(crate) cache_bytes: usize,
    pub(crate) state_file_bytes: u64,
    pub(crate) snapshot_bytes: u64,
    pub(crate) settlements_are_flushed: bool,
    /// Locks and times to live are this much shorter than what was asked for.
    pub(crate) haste: u32,
    /// How long dead letters wait for a destination that is down.
    pub(crate) letters: DeadLetterPolicy,
    pub(crate) topics: Vec<TopicPlan>,
    pub(crate) subscriptions: Vec<SubscriptionPlan>,
    pub(crate) publishers: Vec<PublisherPlan>,
    pub(crate) faults: Vec<(Duration, Fault)>,
}

#[derive(Clone, Debug)]
pub(crate) struct TopicPlan {
    pub(crate) name: &'static str,
    pub(crate) kind: TopicKind,
    pub(crate) schema: InputSchema,
}

#[derive(Clone, Debug)]
pub(crate) struct SubscriptionPlan {
    pub(crate) name: String,
    /// Its place in [`Plan::topics`].
    pub(crate) topic: usize,
    pub(crate) mode: ModePlan,
    pub(crate) filter: FilterSpec,
    pub(crate) attempts_max: u32,
    pub(crate) time_to_live_minutes: u64,
    pub(crate) dead_letter: bool,
    /// Made so long after the beginning; before the storm if not given.
    pub(crate) begins: Option<Duration>,
    /// Removed then.
    pub(crate) ends: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModePlan {
    Pull {
        lock_seconds: u64,
        receivers: u64,
    },
    /// Webhooks with the same host share their connections.
    Push {
        schema: DeliverySchema,
        host: u8,
        batching: Option<Batching>,
    },
    /// Into the namespace topic [`ONWARD`], whose one subscription posts to that host.
    Forward {
        host: u8,
    },
}

/// The name of the topic that is forwarded to, and of both subscriptions on the way: nobody publishes there.
pub(crate) const ONWARD: &str = "onward";

#[derive(Clone, Debug)]
pub(crate) struct PublisherPlan {
    pub(crate) topic: usize,
    /// The longest pause between two calls, in milliseconds.
    pub(crate) pause: u64,
    pub(crate) batch_max: u64,
    /// Bytes that most events have at most, beside the rest.
    pub(crate) pad: u64,
}

/// Something that goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// `kill -9`, now or at that call to the disk from now.
    Kill {
        calls: Option<u64>,
    },
    PowerCut {
        calls: Option<u64>,
        seed: u64,
    },
    /// `kill -9` at once, and then for some starts at that call to the disk: most of them before it serves.
    KilledAgain {
        calls: Vec<u64>,
    },
    /// The same with power cuts.
    PowerFlickers {
        calls: Vec<u64>,
        seed: u64,
    },
    /// SIGTERM.
    Stop,
    /// The n-th call of this kind from now fails, or all from there on, until the process has ended.
    DiskError {
        call: Call,
        nth: u64,
        kind: io::ErrorKind,
        forever: bool,
    },
    /// So much space is left, for a while.
    DiskFull {
        left: u64,
        lasts: Duration,
    },
    /// Dead letters cannot be written. May last longer than the storm.
    LettersDown {
        outage: Outage,
        lasts: Duration,
    },
    ClientsCutOff {
        lasts: Duration,
    },
    WebhooksCutOff {
        lasts: Duration,
    },
    /// In a thousand messages so many are lost, and delays go up to so many milliseconds.
    BadNetwork {
        lost: u64,
        delay: u64,
        lasts: Duration,
    },
}

struct Maker {
    rng: SeededRng,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        let make = Maker { rng: SeededRng::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x9_1a2) };
        let topics = vec![
            TopicPlan { name: "orders", kind: TopicKind::Custom, schema: InputSchema::EventGrid },
            TopicPlan { name: "clouds", kind: TopicKind::Custom, schema: InputSchema::CloudEvent },
            TopicPlan { name: "north", kind: TopicKind::Namespace, schema: InputSchema::CloudEvent },
            TopicPlan { name: "south", kind: TopicKind::Namespace, schema: InputSchema::CloudEvent },
        ];
        let mut subscriptions = make.subscriptions();
        subscriptions.push(onward(seed));
        let mut plan = Self {
            seed,
            shards: make.index(1, 3),
            segment_bytes: make.number(2, 5) << 16,
            block_bytes: make.number(1, 4) << 13,
            cache_bytes: make.index(1, 32) << 13,
            state_file_bytes: make.number(2, 10) << 13,
            snapshot_bytes: make.number(2, 64) << 10,
            settlements_are_flushed: make.chance(250),
            haste: u32::try_from(make.number(5, 30)).unwrap_or(5),
            letters: DeadLetterPolicy { patience: Duration::from_secs(make.number(20, 120)) },
            publishers: (0..make.number(4, 6)).map(|number| make.publisher(number)).collect(),
            topics,
            subscriptions,
            faults: make.faults(),
        };
        // Drawn last: what else a seed stands for stays as it was.
        plan.subscriptions.extend(make.batching());
        plan
    }
}

/// Forwards all of one custom topic. Nothing is drawn for it, so that seeds mean what they meant before.
fn onward(seed: u64) -> SubscriptionPlan {
    SubscriptionPlan {
        name: ONWARD.to_owned(),
        topic: usize::from(seed % 2 == 1),
        mode: ModePlan::Forward { host: u8::try_from(seed % 4).unwrap_or(0) + 1 },
        filter: FilterSpec::default(),
        attempts_max: 10,
        time_to_live_minutes: 1440,
        dead_letter: false,
        begins: None,
        ends: None,
    }
}

impl Maker {
    fn number(&self, low: u64, high: u64) -> u64 {
        low + self.rng.below(high - low + 1)
    }

    fn index(&self, low: u64, high: u64) -> usize {
        usize::try_from(self.number(low, high)).unwrap_or(0)
    }

    fn chance(&self, share: u64) -> bool {
        self.rng.below(1000) < share
    }

    fn pick<T: Clone>(&self, from: &[T]) -> T {
        from[self.index(0, from.len() as u64 - 1)].clone()
    }

    fn publisher(&self, number: u64) -> PublisherPlan {
        // Each topic has one at least.
        let topic = usize::try_from(number % 4).unwrap_or(0);
        PublisherPlan { topic, pause: self.number(100, 500), batch_max: self.number(1, 12), pad: 60 }
    }

    fn subscriptions(&self) -> Vec<SubscriptionPlan> {
        let mut all = Vec::new();
        for (topic, pulls, pushes) in [
            (0, 0, self.number(1, 3)),
            (1, 0, self.number(1, 2)),
            (2, self.number(1, 3), self.number(0, 1)),
            (3, self.number(1, 2), 0),
        ] {
            for number in 0..pulls + pushes {
                all.push(self.subscription(topic, number, number < pulls));
            }
        }
        all
    }

    /// Webhooks whose events share requests: arrays of both schemas, and now and then of a namespace topic.
    fn batching(&self) -> Vec<SubscriptionPlan> {
        let mut all =
            vec![self.batched(0, DeliverySchema::EventGrid), self.batched(1, DeliverySchema::CloudEvent)];
        if self.chance(500) {
            all.push(self.batched(2, DeliverySchema::CloudEvent));
        }
        all
    }

    fn batched(&self, topic: usize, schema: DeliverySchema) -> SubscriptionPlan {
        let batching = Batching {
            events_max: u32::try_from(self.number(2, 30)).unwrap_or(2),
            // From hardly two events to more than ever wait.
            bytes_max: self.pick(&[1, 3, 8, BATCH_KILOBYTES_DEFAULT]) << 10,
        };
        SubscriptionPlan {
            name: format!("s{topic}b"),
            mode: ModePlan::Push { schema, host: self.host(), batching: Some(batching) },
            ..self.subscription(topic, self.number(0, 2), false)
        }
    }

    fn host(&self) -> u8 {
        u8::try_from(self.number(1, 4)).unwrap_or(1)
    }

    fn subscription(&self, topic: usize, number: u64, pull: bool) -> SubscriptionPlan {
        let custom = topic < 2;
        let mode = if pull {
            ModePlan::Pull { lock_seconds: self.number(60, 120), receivers: self.number(1, 3) }
        } else {
            let event_grid = topic == 0 && self.chance(500);
            let schema = if event_grid { DeliverySchema::EventGrid } else { DeliverySchema::CloudEvent };
            ModePlan::Push { schema, host: self.host(), batching: None }
        };
        let impatient = self.chance(300);
        let usual = if custom { 30 } else { 10 };
        SubscriptionPlan {
            name: format!("s{topic}{number}"),
            topic,
            mode,
            filter: self.filter(custom),
            attempts_max: if impatient { u32::try_from(self.number(2, 4)).unwrap_or(3) } else { usual },
            time_to_live_minutes: if impatient { self.number(5, 30) } else { 1440 },
            dead_letter: self.chance(500),
            begins: (number > 0 && self.chance(300)).then(|| self.moment()),
            ends: (number > 1 && self.chance(300)).then(|| self.moment()),
        }
    }

    fn moment(&self) -> Duration {
        Duration::from_millis(self.number(CALM, u64::try_from(STORM.as_millis()).unwrap_or(0)))
    }

    fn filter(&self, custom: bool) -> FilterSpec {
        let mut filter = FilterSpec { arrays: !custom, ..FilterSpec::default() };
        if self.chance(400) {
            filter.event_types = Some(vec![self.pick(&["t.a", "T.B", "t.c"]).to_owned(), "t.d".to_owned()]);
        }
        if custom && self.chance(300) {
            filter.subject_begins_with = self.pick(&["/x", "/X/", "/y/1"]).into();
            filter.subject_case_sensitive = self.chance(500);
        }
        if custom && self.chance(200) {
            filter.subject_ends_with = self.pick(&["1", "end", "2"]).into();
        }
        if self.chance(600) {
            filter.advanced.push(self.advanced());
        }
        filter
    }

    fn advanced(&self) -> AdvancedFilter {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let (key, operator) = self.pick(&[
            ("data.n", Operator::NumberIn(vec![1.0, 3.0, 5.0, 7.0, 9.0])),
            ("data.n", Operator::NumberNotIn(vec![2.0, 4.0, 6.0])),
            ("data.n", Operator::NumberLessThan(7.0)),
            ("data.n", Operator::NumberGreaterThan(2.0)),
            ("data.n", Operator::NumberLessThanOrEquals(5.0)),
            ("data.n", Operator::NumberGreaterThanOrEquals(5.0)),
            ("data.deep.v", Operator::NumberInRange(vec![(0.5, 2.5), (4.0, 5.0)])),
            ("data.deep.v", Operator::NumberNotInRange(vec![(1.0, 3.0)])),
            ("data.on", Operator::BoolEquals(true)),
            ("data.k", Operator::StringIn(texts(&["alpha", "Beta"]))),
            ("data.k", Operator::StringNotIn(texts(&["alpha"]))),
            ("data.k", Operator::StringContains(texts(&["et", "mm"]))),
            ("data.k", Operator::StringNotContains(texts(&["ph"]))),
            ("subject", Operator::StringBeginsWith(texts(&["/x", "/z"]))),
            ("subject", Operator::StringEndsWith(texts(&["1"]))),
            ("subject", Operator::StringNotEndsWith(texts(&["2"]))),
            ("data.none", Operator::IsNullOrUndefined),
            ("data.none", Operator::IsNotNull),
        ]);
        AdvancedFilter { key: key.to_owned(), operator }
    }

    fn faults(&self) -> Vec<(Duration, Fault)> {
        let mut faults = vec![
            Fault::Kill { calls: self.at_a_call() },
            self.power_cut(),
            if self.chance(300) { self.full() } else { self.disk_error() },
            self.network(),
        ];
        for _ in 0..self.number(2, 8) {
            let next = match self.number(0, 13) {
                12 | 13 => self.letters_down(),
                10 => Fault::KilledAgain { calls: self.starts() },
                11 => Fault::PowerFlickers { calls: self.starts(), seed: self.rng.next_u64() },
                0..=2 => Fault::Kill { calls: self.at_a_call() },
                3 | 4 => self.power_cut(),
                5 => self.disk_error(),
                6 => self.full(),
                7 => Fault::Stop,
                _ => self.network(),
            };
            faults.push(next);
        }
        let at = |fault| (self.moment(), fault);
        let mut faults: Vec<_> = faults.into_iter().map(at).collect();
        faults.sort_by_key(|(at, _)| *at);
        faults
    }

    fn at_a_call(&self) -> Option<u64> {
        self.chance(700).then(|| self.number(1, 60))
    }

    fn starts(&self) -> Vec<u64> {
        (0..self.number(1, 4)).map(|_| self.number(1, 150)).collect()
    }

    fn power_cut(&self) -> Fault {
        Fault::PowerCut { calls: self.at_a_call(), seed: self.rng.next_u64() }
    }

    fn disk_error(&self) -> Fault {
        let calls = [Call::Write, Call::Write, Call::Sync, Call::Sync, Call::Read, Call::SyncDir, Call::Any];
        let call = self.pick(&calls);
        let kind = if self.chance(800) { io::ErrorKind::Other } else { io::ErrorKind::Interrupted };
        Fault::DiskError { call, nth: self.number(1, 40), kind, forever: self.chance(300) }
    }

    fn full(&self) -> Fault {
        Fault::DiskFull { left: self.number(0, 96) << 10, lasts: self.lasts() }
    }

    fn network(&self) -> Fault {
        match self.number(0, 3) {
            0 => Fault::ClientsCutOff { lasts: self.lasts() },
            1 => Fault::WebhooksCutOff { lasts: self.lasts() },
            _ => Fault::BadNetwork {
                lost: self.number(10, 200),
                delay: self.number(10, 800),
                lasts: self.lasts(),
            },
        }
    }

    /// Half of them end with the storm or before, half go on for longer than any letter waits.
    fn letters_down(&self) -> Fault {
        let outage = self.pick(&[Outage::All, Outage::All, Outage::Names, Outage::Flushes]);
        let longest = if self.chance(500) { 30 } else { 240 };
        Fault::LettersDown { outage, lasts: Duration::from_secs(self.number(2, longest)) }
    }

    fn lasts(&self) -> Duration {
        Duration::from_millis(self.number(500, 8_000))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        writeln!(
            f,
            "  {} shards, segments of {}, blocks of {}, a cache of {}, state files of {}, snapshots after {} bytes, \
             settlements {}, haste {}, dead letters wait {:?}",
            self.shards,
            self.segment_bytes,
            self.block_bytes,
            self.cache_bytes,
            self.state_file_bytes,
            self.snapshot_bytes,
            if self.settlements_are_flushed { "flushed" } else { "written" },
            self.haste,
            self.letters.patience
        )?;
        for subscription in &self.subscriptions {
            let topic = self.topics[subscription.topic].name;
            let SubscriptionPlan {
                name, mode, filter, attempts_max, time_to_live_minutes, dead_letter, ..
            } = subscription;
            let when = match (subscription.begins, subscription.ends) {
                (None, None) => String::new(),
                (begins, ends) => format!(" (made at {begins:?}, removed at {ends:?})"),
            };
            writeln!(
                f,
                "  subscription {name} of {topic}{when}: {mode:?}, at most {attempts_max} deliveries in \
                 {time_to_live_minutes} min, dead letters {dead_letter}, {filter:?}"
            )?;
        }
        for PublisherPlan { topic, pause, batch_max, .. } in &self.publishers {
            let topic = self.topics[*topic].name;
            writeln!(f, "  publisher to {topic}: up to {batch_max} events every {pause} ms at most")?;
        }
        for (at, fault) in &self.faults {
            writeln!(f, "  at {:2}.{:03}: {fault:?}", at.as_secs(), at.subsec_millis())?;
        }
        Ok(())
    }
}
