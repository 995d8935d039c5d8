//! One thread, two runtimes: the world's, with clients and webhooks, and the broker process's.
//!
//! A process must be able to die at any moment with everything in it, which is why it has a runtime of its own:
//! dropping that is `kill -9`. Neither runtime has timers or sockets. They take turns until nobody has anything
//! to do; only then does time move.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use tokio::runtime::{Builder, Handle, Runtime};

/// A runtime that can be run until it has nothing to do.
#[derive(Debug)]
pub(crate) struct Turns {
    runtime: Runtime,
    idle: Arc<Idle>,
}

/// Told by the runtime when it would sleep.
#[derive(Debug, Default)]
struct Idle {
    state: Mutex<(bool, Option<Waker>)>,
}

impl Idle {
    fn state(&self) -> std::sync::MutexGuard<'_, (bool, Option<Waker>)> {
        self.state.lock().expect("no panic while it is held")
    }
}

impl Turns {
    pub(crate) fn new() -> Self {
        let idle = Arc::new(Idle::default());
        let told = Arc::clone(&idle);
        let parked = move || {
            let mut state = told.state();
            state.0 = true;
            if let Some(waker) = state.1.take() {
                waker.wake();
            }
        };
        let runtime = Builder::new_current_thread().on_thread_park(parked).build();
        Self { runtime: runtime.expect("a runtime without drivers takes nothing from the system"), idle }
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    /// Whether somebody outside has woken one of its tasks since it last ran.
    pub(crate) fn is_wanted(&self) -> bool {
        self.runtime.metrics().global_queue_depth() > 0
    }

    /// Runs until every task waits.
    pub(crate) fn run(&self) {
        self.idle.state().0 = false;
        self.runtime.block_on(poll_fn(|context| {
            let mut state = self.idle.state();
            if state.0 {
                return Poll::Ready(());
            }
            state.1 = Some(context.waker().clone());
            Poll::Pending
        }));
    }
}
