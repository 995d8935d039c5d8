//! The embedded log under faults: the storage contract's "Invariants to test", on a disk in memory.
//!
//! [`node`] is a broker in small: shards, leases and settlements over the real log, all in the caller's thread.
//! [`ledger`] writes down what was answered and works out, independently, what must be there after a fault.
//! [`history`] makes both do random things from a seed. The tests then cut the power at every call, fail every
//! call, fill the disk, flip bytes, and compare. A failing test prints its seed and its place.
//!
//! `GRIDWIRE_FAULTS=10` makes every test do ten times as much. `GRIDWIRE_FLIPS=N` flips every bit of one store after
//! another until it has flipped N; `GRIDWIRE_OPERATIONS=N` fails every call of a history of N operations.

mod crash;
mod damage;
mod flips;
mod history;
mod io;
mod ledger;
mod node;
mod segments;
mod tools;

/// Shown with the output of a failed test, or with `--nocapture`.
#[allow(clippy::print_stdout, reason = "the test harness keeps it until it is wanted")]
fn say(text: &str) {
    println!("{text}");
}

/// How much more than on every change is wanted.
fn effort() -> u64 {
    knob("GRIDWIRE_FAULTS").unwrap_or(1)
}

/// A wish for more than a quick run. Nothing of the product reads these.
fn knob(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("it is a number"))
}
