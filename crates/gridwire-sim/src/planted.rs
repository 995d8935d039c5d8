//! The bugs that can be planted, each a place in the real code that asks `gridwire_core::planted::planted`.

/// Their names.
pub const PLANTED: &[&str] = &[];

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
