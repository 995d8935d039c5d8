//! The bugs that can be planted, each a place in the real code that asks `gridwire_core::planted::planted`.

/// Their names.
pub const PLANTED: &[&str] = &[
    "answer-before-record",
    "any-holder-settles",
    "batch-in-two-frames",
    "batch-retried-in-part",
    "dead-letter-after-record",
    "entry-replayed-twice",
    "failure-counts-as-delivered",
    "filter-off-by-one",
    "lease-forgotten-by-kill",
    "letter-given-up-early",
    "lock-never-expires",
    "missing-flush",
    "missing-state-flush",
    "recovery-differs",
    "retry-lost-at-restart",
    "retry-with-fresh-id",
    "scan-skips-a-match",
    "settlement-half-recorded",
    "trim-too-early",
];

/// The kind of violation that a bug has to be found by; for most any will do. That an event did not arrive, whoever
/// waits for it sees; which one it was the broker's own audit has to say.
pub fn found_as(name: &str) -> Option<&'static str> {
    (name == "scan-skips-a-match").then_some("unbalanced")
}

/// Whether this build has them.
pub const fn can_plant() -> bool {
    cfg!(feature = "planted")
}

/// Plants a bug for the seeds that this thread runs from now on, or none.
#[cfg(feature = "planted")]
pub fn plant(name: Option<&'static str>) {
    gridwire_core::planted::plant(name);
}

/// There is nothing to plant in this build.
#[cfg(not(feature = "planted"))]
pub fn plant(_name: Option<&'static str>) {}
