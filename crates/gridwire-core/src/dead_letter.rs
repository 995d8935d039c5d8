//! Dead letters that are read again: what they are called, what they say, and which of them are meant.
//!
//! [`crate::render`] writes a letter; here it is taken apart, so that it can be listed, selected, and its event
//! put back into its subscription's queue. A letter is found by its **key**: the hour in its path and its
//! **GUID**. The GUID begins with the subscription's number, for a path names a subscription by a name that
//! others may share, or may have had before; so a letter goes back to its own subscription and to no other.

mod key;
mod read;
mod select;

pub use key::{Hour, LetterGuid, LetterKey, StoreTag};
pub use read::{Letter, Story, read};
pub use select::{ReasonFilter, Selection};
