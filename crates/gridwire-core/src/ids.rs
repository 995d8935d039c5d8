//! Numbers that name things inside one data directory. Names that users see live in [`crate::routing`].

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

number!(
    /// A topic (custom topic, domain or namespace topic); given at creation and never reused.
    TopicNumber(u32)
);
number!(
    /// An event subscription, unique in the data directory; given at creation and never reused.
    SubscriptionNumber(u32)
);
number!(
    /// A subscription's place in its topic's match sets; given at creation and never reused in that topic.
    Slot(u32)
);
number!(
    /// The position of a frame in the event log: frames before it, from the beginning of time.
    Lsn(u64)
);
number!(
    /// The position of an event in its topic: dense, from 0.
    Offset(u64)
);
number!(
    /// The number of a group of decisions in the state log; the first is 1, 0 means "none yet".
    StateSeq(u64)
);
number!(
    /// Which shard of this process; a matter of the running process, never stored.
    ShardId(u16)
);

impl Offset {
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Lsn {
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
