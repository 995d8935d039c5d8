//! The store of one machine: files in a data directory.

#[allow(dead_code, reason = "used by the embedded log")]
mod bytes;
mod error;
mod resources;
#[allow(dead_code, reason = "driven by the embedded log")]
mod state;

pub use error::{Damage, OpenError};
pub use resources::RedbResources;
pub use state::SettleDurability;
