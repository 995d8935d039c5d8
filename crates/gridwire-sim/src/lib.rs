//! The whole broker of one machine in one thread, in bad weather, judged by a checker. Never shipped.
//!
//! A seed decides everything: [`plan`] is what it wants, [`run()`] lets it happen. What runs is the real code: the
//! data plane's handlers, control with its resources in redb, the shards and their drivers, the push dispatcher
//! with hyper, and the embedded log, on a disk in memory that loses and refuses. Ours are the clock ([`clock`]),
//! the disk's moods ([`disk`]), the network ([`net`], [`link`]), and everybody outside: publishers, receivers,
//! webhooks, the nemesis. [`machine`] and [`process`] say how a process can die at any moment; [`checker`] says
//! what it must not have broken by that.
//!
//! Two runs of one seed write the same trace, byte for byte.

mod audits;
pub mod checker;
mod clock;
mod disk;
mod hurried;
mod letters;
mod link;
mod machine;
mod nemesis;
mod net;
mod plan;
mod planted;
mod process;
mod publishers;
mod receivers;
mod report;
#[cfg(test)]
mod retention;
mod run;
mod setup;
mod slow_log;
pub mod texts;
mod webhooks;
mod world;

pub use plan::Plan;
pub use planted::{PLANTED, can_plant, found_as, plant};
pub use report::{Report, Sum};
pub use run::run;
pub use world::Tally;
