//! Everything that is parsed from a network or a disk, fed with anything (`cargo xtask fuzz`).
//!
//! Each target is a function of bytes that must return. Beyond that it says what must hold of what was understood:
//! written down again it is the same, and a second reader agrees.

mod arm;
mod filter;
mod headers;
mod log;
mod publish;
mod records;
mod tokens;

pub use arm::arm;
pub use filter::filter;
pub use headers::headers;
pub use log::log;
pub use publish::publish;
pub use records::records;
pub use tokens::{lock_token, sas};
