//! What every [`Log`] and every [`ResourceStore`] must do, as tests that take any of them.
//!
//! The suites are the law of the two traits: the in-memory model, the embedded store and any other backend run
//! them unchanged. Each case gets an empty store by an [`OpenLog`] (or a [`ResourceStore`]) and panics with what
//! is wrong. Faults of disks and networks are each backend's own to test.

mod log;
mod resources;

use std::sync::Arc;

use crate::log::Log;
use crate::resources::ResourceStore;

/// Opens one store: the first time empty, then again with what was put in. It is called only when the log
/// opened before has been closed and dropped.
pub type OpenLog = Box<dyn Fn() -> Arc<dyn Log>>;

/// As [`OpenLog`], for resources.
pub type OpenResources = Box<dyn Fn() -> Arc<dyn ResourceStore>>;

/// Runs every case against a store of its own, made by `new_store`.
pub async fn log_suite(new_store: &dyn Fn() -> OpenLog) {
    log::offsets_are_dense_and_in_order(new_store()).await;
    log::a_batch_is_read_whole_and_unchanged(new_store()).await;
    log::a_read_waits_at_the_end(new_store()).await;
    log::a_read_is_about_as_large_as_asked(new_store()).await;
    log::a_scan_finds_the_matches_of_a_slot(new_store()).await;
    log::a_fetch_gives_the_events_asked_for(new_store()).await;
    log::events_outlive_a_restart(new_store()).await;
    log::groups_are_recovered_in_order(new_store()).await;
    log::a_snapshot_comes_before_the_groups_since(new_store()).await;
    log::trimming_takes_whole_segments_from_the_front(new_store()).await;
    log::concurrent_appends_are_all_there_once(new_store()).await;
    log::a_closed_log_refuses(new_store()).await;
}

/// Runs every case against a store of its own, made by `new_store`.
pub async fn resource_suite(new_store: &dyn Fn() -> OpenResources) {
    resources::a_resource_is_created_once(new_store()).await;
    resources::an_update_needs_the_current_revision(new_store()).await;
    resources::revisions_rise_over_the_whole_store(new_store()).await;
    resources::many_are_deleted_in_one_step(new_store()).await;
    resources::a_prefix_lists_in_order_of_key(new_store()).await;
    resources::numbers_are_never_given_twice(new_store()).await;
    resources::a_watcher_sees_each_write(new_store()).await;
}
