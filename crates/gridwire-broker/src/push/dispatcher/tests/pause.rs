//! Attempts that a pause finds on their way: nothing of them is sent any more.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gridwire_core::event::DeliverySchema;
use gridwire_core::retry::Outcome;
use gridwire_core::routing::BoxFuture;
use gridwire_outside::system::SystemNet;
use gridwire_outside::{Listener, Net, Stream};
use tokio::sync::watch;

use crate::push::dispatcher::Report;
use crate::push::testing::{OK, Rig, TestServer, eventually, local_options, subscription};

/// A server that answers what it was asked once it is let go, and counts what it was asked.
async fn held_back() -> (TestServer, Arc<AtomicUsize>, watch::Sender<bool>) {
    let (let_go, held) = watch::channel(false);
    let asked = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&asked);
    let server = TestServer::start(move |mut peer| {
        let (mut held, counter) = (held.clone(), Arc::clone(&counter));
        async move {
            while peer.request().await.is_some() {
                counter.fetch_add(1, Ordering::SeqCst);
                held.wait_for(|go| *go).await.expect("the test holds the other end");
                peer.write(OK).await;
            }
        }
    })
    .await;
    (server, asked, let_go)
}

/// A network that connects once it is let go, or then refuses.
struct SlowNet {
    connecting: AtomicUsize,
    held: watch::Receiver<bool>,
    refuses: bool,
}

impl fmt::Debug for SlowNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SlowNet")
    }
}

impl Net for SlowNet {
    fn listen(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move { SystemNet.listen(at).await })
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            self.connecting.fetch_add(1, Ordering::SeqCst);
            let mut held = self.held.clone();
            held.wait_for(|go| *go).await.expect("the test holds the other end");
            if self.refuses {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            SystemNet.connect(to).await
        })
    }

    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async { Err(io::ErrorKind::NotFound.into()) })
    }
}

#[tokio::test]
async fn what_waits_for_a_connection_comes_back_and_what_is_being_sent_ends() {
    let (server, asked, let_go) = held_back().await;
    let options = crate::push::PushOptions { connections_per_endpoint: 1, ..local_options() };
    let mut rig = Rig::with(options, Arc::new(SystemNet));
    let paused = subscription(1, &server.url(), DeliverySchema::EventGrid);
    let other = subscription(2, &server.url(), DeliverySchema::EventGrid);
    let sent = rig.start(&paused);
    eventually(|| asked.load(Ordering::SeqCst) == 1).await;
    let waiting = [rig.start(&paused), rig.start(&paused)];
    let of_other = rig.start(&other);

    rig.dispatcher.set_paused(paused.number, true);
    for key in waiting {
        assert_eq!(rig.try_report(), Some(Report::Recalled(key)), "at once");
    }
    let late = rig.start(&paused);
    assert_eq!(rig.try_report(), Some(Report::Recalled(late)));
    let_go.send_replace(true);
    for key in [sent, of_other] {
        let finished = rig.finished().await;
        assert_eq!((finished.key, finished.outcome), (key, Outcome::Accepted));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);

    rig.dispatcher.set_paused(paused.number, false);
    let resumed = rig.start(&paused);
    let finished = rig.finished().await;
    assert_eq!((finished.key, finished.outcome), (resumed, Outcome::Accepted));
}

#[tokio::test]
async fn a_connection_that_is_there_after_the_pause_carries_nothing_and_one_that_fails_counts_for_nothing() {
    for refuses in [false, true] {
        let (server, asked, answers) = held_back().await;
        answers.send_replace(true);
        let (let_go, held) = watch::channel(false);
        let net = Arc::new(SlowNet { connecting: AtomicUsize::new(0), held, refuses });
        let mut rig = Rig::with(local_options(), net.clone());
        let paused = subscription(1, &server.url(), DeliverySchema::EventGrid);
        let key = rig.start(&paused);
        eventually(|| net.connecting.load(Ordering::SeqCst) == 1).await;
        rig.dispatcher.set_paused(paused.number, true);
        let_go.send_replace(true);
        assert_eq!(rig.report().await, Report::Recalled(key));
        assert_eq!(asked.load(Ordering::SeqCst), 0);

        rig.dispatcher.set_paused(paused.number, false);
        rig.start(&paused);
        let outcome = if refuses { Outcome::Unreachable } else { Outcome::Accepted };
        assert_eq!(rig.finished().await.outcome, outcome);
    }
}
