//! The outside, by four traits: [`Clock`], [`Rng`], [`Disk`] and [`Net`].
//!
//! Nothing else in Gridwire asks for the time, rolls dice, or touches a file or a socket; the binary passes
//! the real ones ([`system`]) to `App::build`, tests and the simulator pass their own ([`memory`],
//! [`ManualClock`]). That is what makes a run repeatable from its seed, and it is checkable: the lints of
//! `clippy.toml` ban the ambient ways, and only this crate is allowed to use them.

pub mod clock;
pub mod disk;
pub mod memory;
pub mod net;
pub mod rng;
pub mod system;
pub mod virtual_clock;

pub use clock::{Clock, ManualClock};
pub use disk::{Disk, DiskFile, OpenMode};
pub use memory::MemoryDisk;
pub use net::{Listener, Net, Stream};
pub use rng::{Rng, SeededRng};
pub use virtual_clock::VirtualClock;
