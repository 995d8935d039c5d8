//! Bugs on purpose, to show that the checkers would see them.
//!
//! A few places in the broker ask [`planted`] for a bug by its name. Without the cargo feature `planted`, that is
//! in every build but the simulation's, the answer is a constant `false` and the place compiles to nothing. With
//! it, at most one bug is chosen at run time, for the calling thread: a simulation runs in one.

#[cfg(feature = "planted")]
mod chosen {
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Plants a bug in what this thread does from now on, or none.
    pub fn plant(name: Option<&'static str>) {
        CHOSEN.set(name);
    }

    /// Whether this bug was planted.
    pub fn planted(name: &str) -> bool {
        CHOSEN.get() == Some(name)
    }
}

#[cfg(feature = "planted")]
pub use chosen::{plant, planted};

/// Whether this bug was planted: never, in this build.
#[cfg(not(feature = "planted"))]
#[inline]
pub const fn planted(_name: &str) -> bool {
    false
}
