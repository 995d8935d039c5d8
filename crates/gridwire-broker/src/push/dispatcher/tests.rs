//! The dispatcher against endpoints that hang, reset, trickle and lie.

mod pause;
mod terms;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use gridwire_core::event::DeliverySchema;
use gridwire_core::retry::Outcome;
use gridwire_outside::Net;
use gridwire_outside::system::SystemNet;

use tokio_rustls::TlsAcceptor;

use super::EndpointStatus;
use crate::push::testing::{
    Authority, OK, Peer, Rig, TableNet, TestServer, TlsVersions, eventually, local_options, subscription,
};

fn answered(status: u16, retry_after: Option<u64>) -> Outcome {
    Outcome::Answered { status, retry_after: retry_after.map(Duration::from_secs) }
}

/// A server that answers every request with `answer` and then closes the connection.
async fn closing_after(answer: &'static str) -> TestServer {
    TestServer::start(move |mut peer| async move {
        peer.request().await;
        peer.write(answer).await;
    })
    .await
}

/// One attempt at a server that answers with exactly these bytes, then closes.
async fn check_answer(answer: &'static str, outcome: Outcome) {
    let server = closing_after(answer).await;
    let finished = Rig::new().attempt(&server.url()).await;
    assert_eq!(finished.outcome, outcome, "{answer:?}");
    let status = match outcome {
        Outcome::Answered { status, .. } => Some(status),
        Outcome::Accepted => finished.status.filter(|status| (200..=204).contains(status)),
        _ => None,
    };
    assert_eq!(finished.status, status, "{answer:?}");
}

#[tokio::test]
async fn the_answers_head_decides() {
    for (answer, outcome) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Outcome::Accepted),
        ("HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok", Outcome::Accepted),
        ("HTTP/1.1 204 No Content\r\n\r\n", Outcome::Accepted),
        ("HTTP/1.0 200 OK\r\n\r\nuntil the end", Outcome::Accepted),
        ("HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", answered(205, None)),
        ("HTTP/1.1 206 Partial Content\r\nContent-Length: 0\r\n\r\n", answered(206, None)),
        ("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", answered(400, None)),
        ("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", answered(500, None)),
        ("HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n", answered(503, Some(120))),
        ("HTTP/1.1 429 Slow\r\nretry-after: Sun, 06 Nov 1994 08:50:37 GMT\r\n\r\n", answered(429, Some(60))),
        ("HTTP/1.1 503 Busy\r\nRetry-After: 315360000\r\n\r\n", answered(503, Some(3600))),
        ("HTTP/1.1 503 Busy\r\nRetry-After: never\r\n\r\n", answered(503, None)),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            answered(101, None),
        ),
    ] {
        check_answer(answer, outcome).await;
    }
}

#[tokio::test]
async fn a_complete_success_head_counts_whatever_follows_it() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut off",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnonsense",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    ] {
        check_answer(answer, Outcome::Accepted).await;
    }
}

#[tokio::test]
async fn what_is_not_a_complete_head_is_no_answer() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 20\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "\0\0\0\0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nBad Header : x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        check_answer(answer, Outcome::Unreachable).await;
    }
}

#[tokio::test]
async fn informational_answers_are_passed_over() {
    let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
                  HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
    check_answer(answer, Outcome::Accepted).await;
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_not_followed() {
    let elsewhere = TestServer::answering(OK).await;
    let redirect =
        format!("HTTP/1.1 307 Over there\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", elsewhere.url());
    let server = TestServer::answering(redirect).await;
    assert_eq!(Rig::new().attempt(&server.url()).await.outcome, answered(307, None));
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_head_without_end_is_cut_off() {
    let server = TestServer::start(|mut peer| async move {
        peer.request().await;
        peer.write("HTTP/1.1 200 OK\r\n").await;
        let mut number = 0_u64;
        while peer.write(format!("X-{number}: {}\r\n", "a".repeat(1000))).await {
            number += 1;
        }
    })
    .await;
    assert_eq!(Rig::new().attempt(&server.url()).await.outcome, Outcome::Unreachable);
}

#[tokio::test]
async fn an_endpoint_that_hangs_times_out() {
    let asked = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&asked);
    let server = TestServer::start(move |mut peer| {
        let seen = Arc::clone(&seen);
        async move {
            peer.request().await;
            seen.store(true, Ordering::SeqCst);
            peer.hang().await;
        }
    })
    .await;
    let finished = Rig::new().attempt_until_timeout(&server.url(), || asked.load(Ordering::SeqCst)).await;
    assert_eq!(finished.outcome, Outcome::TimedOut);
    assert_eq!((finished.status, finished.latency), (None, Duration::from_secs(30)));
}

/// One attempt at a server that sends `start` and then `more` again and again.
async fn check_trickle(start: &'static str, more: &'static str) {
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let server = TestServer::start(move |mut peer| {
        let counter = Arc::clone(&counter);
        async move {
            peer.request().await;
            peer.write(start).await;
            while peer.write(more).await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    })
    .await;
    let finished =
        Rig::new().attempt_until_timeout(&server.url(), || 5 < written.load(Ordering::SeqCst)).await;
    assert_eq!(finished.outcome, Outcome::TimedOut, "{more:?}");
}

#[tokio::test]
async fn an_endpoint_that_trickles_its_head_times_out() {
    check_trickle("HTTP/1.1 200 OK\r\nX-Slow: ", "a").await;
}

#[tokio::test]
async fn an_endpoint_that_only_says_it_goes_on_times_out() {
    check_trickle("", "HTTP/1.1 102 Processing\r\n\r\n").await;
}

#[tokio::test]
async fn a_flood_of_informational_answers_does_not_outlive_the_timeout() {
    let server = TestServer::start(|mut peer| async move {
        peer.request().await;
        while peer.write("HTTP/1.1 100 Continue\r\n\r\n".repeat(100)).await {}
    })
    .await;
    let finished = Rig::new().attempt_until_timeout(&server.url(), || 0 < server.connections()).await;
    assert_eq!(finished.outcome, Outcome::TimedOut);
}

#[tokio::test]
async fn an_endpoint_that_resets_is_unreachable() {
    // Closing with unread input resets the connection.
    let server = TestServer::start(|_peer| async {}).await;
    assert_eq!(Rig::new().attempt(&server.url()).await.outcome, Outcome::Unreachable);
    let refused = server.url();
    drop(server);
    assert_eq!(Rig::new().attempt(&refused).await.outcome, Outcome::Unreachable);
}

#[tokio::test]
async fn a_connection_is_used_again() {
    for answer in [
        OK,
        "HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nsad",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let server = TestServer::answering(answer).await;
        let mut rig = Rig::new();
        for _ in 0..5 {
            rig.attempt(&server.url()).await;
            eventually(|| rig.dispatcher.endpoints().iter().all(|endpoint| endpoint.in_flight == 0)).await;
        }
        assert_eq!(server.connections(), 1, "{answer:?}");
    }
}

#[tokio::test]
async fn a_connection_is_not_used_again_when_its_answer_is_too_long_or_says_so() {
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n{}", "a".repeat(70_000));
    let chunk = format!("8000\r\n{}\r\n", "a".repeat(0x8000));
    let chunked =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(3));
    let close = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned();
    for answer in [long, chunked, close] {
        let server = TestServer::answering(answer).await;
        let mut rig = Rig::new();
        for _ in 0..3 {
            assert_eq!(rig.attempt(&server.url()).await.outcome, Outcome::Accepted);
            eventually(|| rig.dispatcher.endpoints().iter().all(|endpoint| endpoint.in_flight == 0)).await;
        }
        assert_eq!(server.connections(), 3);
    }
}

#[tokio::test]
async fn a_body_without_end_does_not_hold_its_connection() {
    let server = TestServer::start(|mut peer| async move {
        peer.request().await;
        peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        peer.hang().await;
    })
    .await;
    let mut rig = Rig::new();
    assert_eq!(rig.attempt(&server.url()).await.outcome, Outcome::Accepted);
    let endpoints = || rig.dispatcher.endpoints();
    assert_eq!(endpoints()[0].in_flight, 1);
    // Only to keep the connection is it waited for, so not for long.
    eventually(|| {
        rig.clock.advance(Duration::from_secs(2));
        endpoints()[0].in_flight == 0
    })
    .await;
    assert_eq!(rig.attempt(&server.url()).await.outcome, Outcome::Accepted);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_connection_closed_while_idle_costs_no_attempt() {
    let closed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&closed);
    let server = TestServer::start(move |mut peer| {
        let counter = Arc::clone(&counter);
        async move {
            peer.request().await;
            peer.write(OK).await;
            drop(peer);
            counter.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let mut rig = Rig::new();
    for number in 1..=20 {
        assert_eq!(rig.attempt(&server.url()).await.outcome, Outcome::Accepted);
        eventually(|| closed.load(Ordering::SeqCst) == number).await;
        eventually(|| rig.dispatcher.endpoints().iter().all(|endpoint| endpoint.in_flight == 0)).await;
    }
    assert_eq!(server.connections(), 20);
}

#[tokio::test]
async fn a_connection_that_the_endpoint_closes_is_closed_while_it_is_idle() {
    let left = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&left);
    let server = TestServer::start(move |mut peer| {
        let seen = Arc::clone(&seen);
        async move {
            peer.request().await;
            peer.write(OK).await;
            peer.shut_down().await;
            peer.hang().await;
            seen.store(true, Ordering::SeqCst);
        }
    })
    .await;
    let mut rig = Rig::new();
    rig.attempt(&server.url()).await;
    // The clock stands still: it is not the idle timeout that ends it.
    eventually(|| left.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn an_old_connection_is_replaced() {
    let server = TestServer::answering(OK).await;
    let options = super::PushOptions { idle_timeout: Duration::from_secs(3600), ..local_options() };
    let mut rig = Rig::with(options, Arc::new(SystemNet));
    for seconds in [0, 299, 2] {
        rig.clock.advance(Duration::from_secs(seconds));
        rig.attempt(&server.url()).await;
        eventually(|| rig.dispatcher.endpoints().iter().all(|endpoint| endpoint.in_flight == 0)).await;
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_a_while() {
    let left = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&left);
    let server = TestServer::start(move |mut peer| {
        let seen = Arc::clone(&seen);
        async move {
            while peer.request().await.is_some() {
                peer.write(OK).await;
            }
            seen.store(true, Ordering::SeqCst);
        }
    })
    .await;
    let mut rig = Rig::new();
    rig.attempt(&server.url()).await;
    eventually(|| {
        rig.clock.advance(Duration::from_secs(60));
        left.load(Ordering::SeqCst) && rig.tasks.is_empty()
    })
    .await;
    rig.attempt(&server.url()).await;
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_request_carries_what_the_contract_says() {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&requests);
    let server = TestServer::start(move |mut peer| {
        let log = Arc::clone(&log);
        async move {
            while let Some(request) = peer.request().await {
                log.lock().expect("no panic").push(request);
                peer.write(OK).await;
            }
        }
    })
    .await;
    let mut rig = Rig::new();
    let url = format!("{}?code=a%20b&x=1", server.url());
    let headers =
        vec![("aeg-output-event-id", "1\r\nX-Smuggled: 1".to_owned()), ("host", "other".to_owned())];
    rig.start_with(&subscription(1, &url, DeliverySchema::EventGrid), headers.clone());
    rig.finished().await;
    rig.start_with(&subscription(2, &url, DeliverySchema::CloudEvent), headers);
    rig.finished().await;
    let requests = requests.lock().expect("no panic");
    let lines: Vec<_> = requests[0].split("\r\n").collect();
    assert_eq!(lines[0], "POST /hook?code=a%20b&x=1 HTTP/1.1");
    assert!(lines.contains(&format!("host: {}", server.address).as_str()), "{lines:?}");
    assert!(lines.contains(&"content-type: application/json; charset=utf-8"), "{lines:?}");
    assert!(lines.contains(&"aeg-output-event-id: 1%0D%0AX-Smuggled: 1"), "{lines:?}");
    assert!(lines.contains(&"content-length: 12"), "{lines:?}");
    assert!(!requests[0].contains("origin") && !requests[0].contains("accept-encoding"), "{lines:?}");
    assert_eq!(*lines.last().expect("a body"), "[{\"id\":\"1\"}]");
    let signed: Vec<_> = requests[1].split("\r\n").filter(|line| line.contains("origin: ")).collect();
    assert_eq!(signed, ["origin: eventgrid.azure.net", "webhook-request-origin: eventgrid.azure.net"]);
}

#[tokio::test]
async fn a_hanging_endpoint_does_not_delay_a_healthy_one() {
    let hanging = TestServer::start(|mut peer| async move { peer.hang().await }).await;
    let healthy = TestServer::answering(OK).await;
    let mut rig = Rig::new();
    let bad = subscription(1, &hanging.url(), DeliverySchema::EventGrid);
    let good = subscription(2, &healthy.url(), DeliverySchema::EventGrid);
    for _ in 0..500 {
        rig.start(&bad);
        rig.start(&good);
    }
    // The clock stands still, so nothing of the bad one can end: every report is the good one's.
    for _ in 0..500 {
        let finished = rig.finished().await;
        assert_eq!((finished.key.subscription, finished.outcome), (good.number, Outcome::Accepted));
    }
    eventually(|| hanging.connections() == 32).await;
    let of_bad = EndpointStatus {
        endpoint: format!("http://{}", hanging.address),
        in_flight: 32,
        queued: 468,
        last_outcome: None,
    };
    assert!(rig.dispatcher.endpoints().contains(&of_bad), "{:?}", rig.dispatcher.endpoints());
    assert!(healthy.connections() <= 32);
}

#[tokio::test]
async fn every_attempt_is_reported_once_in_spite_of_idle_and_busy_connections() {
    let server = TestServer::start(|mut peer| async move {
        // Drops every connection after a few answers.
        for _ in 0..=(peer.number % 7) {
            peer.request().await;
            peer.write(OK).await;
        }
    })
    .await;
    let mut rig =
        Rig::with(super::PushOptions { connections_per_endpoint: 3, ..local_options() }, Arc::new(SystemNet));
    let subscription = subscription(1, &server.url(), DeliverySchema::EventGrid);
    let mut open: Vec<_> = (0..300).map(|_| rig.start(&subscription)).collect();
    while !open.is_empty() {
        let finished = rig.finished().await;
        let place = open.iter().position(|key| *key == finished.key).expect("reported once");
        open.swap_remove(place);
    }
    assert_eq!(rig.try_report(), None);
}

#[tokio::test]
async fn what_waits_for_a_removed_subscription_is_dropped() {
    let server = TestServer::start(|mut peer| async move { peer.hang().await }).await;
    let options = super::PushOptions { connections_per_endpoint: 1, ..local_options() };
    let mut rig = Rig::with(options, Arc::new(SystemNet));
    let removed = subscription(1, &server.url(), DeliverySchema::EventGrid);
    let kept = subscription(2, &server.url(), DeliverySchema::EventGrid);
    rig.start(&kept);
    for _ in 0..3 {
        rig.start(&removed);
    }
    rig.start(&kept);
    assert_eq!(rig.dispatcher.endpoints()[0].queued, 4);
    rig.dispatcher.forget(removed.number);
    assert_eq!(rig.dispatcher.endpoints()[0].queued, 1);
}

#[tokio::test]
async fn attempts_above_the_agreed_number_are_failed_at_once() {
    let server = TestServer::start(|mut peer| async move { peer.hang().await }).await;
    let options = super::PushOptions {
        connections_per_endpoint: 1,
        attempts_per_subscription_max: 2,
        ..local_options()
    };
    let mut rig = Rig::with(options, Arc::new(SystemNet));
    let first = subscription(1, &server.url(), DeliverySchema::EventGrid);
    let second = subscription(2, &server.url(), DeliverySchema::EventGrid);
    for _ in 0..3 {
        rig.start(&first); // One in flight, two queued.
    }
    let refused = rig.start(&first);
    let finished = rig.finished().await;
    assert_eq!((finished.key, finished.outcome), (refused, Outcome::Unreachable));
    rig.start(&second); // Brings its own share of the queue.
    rig.start(&second);
    assert_eq!(rig.try_report(), None);
    rig.start(&second);
    assert_eq!(rig.finished().await.outcome, Outcome::Unreachable);
}

#[tokio::test]
async fn an_attempt_that_panics_is_reported_and_those_that_wait_behind_it_are_made() {
    let server = TestServer::answering(OK).await;
    let port = server.address.port();
    let net = TableNet::new([("panics.example", vec![server.address])]);
    let options = super::PushOptions { connections_per_endpoint: 1, ..local_options() };
    let mut rig = Rig::with(options, net);
    let url = format!("http://panics.example:{port}/");
    let subscription = subscription(1, &url, DeliverySchema::EventGrid);
    let keys = [(); 3].map(|()| rig.start(&subscription));
    for (place, key) in keys.into_iter().enumerate() {
        let finished = rig.finished().await;
        let expected = if place == 0 { Outcome::Unreachable } else { Outcome::Accepted };
        assert_eq!((finished.key, finished.outcome), (key, expected));
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn endpoints_that_may_not_be_called_are_not_called() {
    let server = TestServer::answering(OK).await;
    let port = server.address.port();
    let names = TableNet::new([
        ("inside.example", vec![server.address]),
        ("mixed.example", vec![([93, 184, 215, 14], port).into(), server.address]),
        ("metadata.example", vec![([169, 254, 169, 254], port).into()]),
    ]);
    let options = super::PushOptions { allow_http: true, ..super::PushOptions::default() };
    let mut rig = Rig::with(options, names);
    for host in [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0",
        "inside.example",
        "mixed.example",
        "metadata.example",
    ] {
        let finished = rig.attempt(&format!("http://{host}:{port}/")).await;
        assert_eq!(finished.outcome, Outcome::Forbidden, "{host}");
    }
    for url in ["ftp://127.0.0.1/", "http://user@127.0.0.1/", "http://127.0.0.1:25/", "nonsense"] {
        assert_eq!(rig.attempt(url).await.outcome, Outcome::Forbidden, "{url}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn our_own_listener_is_not_called_even_when_loopback_is_allowed() {
    let server = TestServer::answering(OK).await;
    let options = super::PushOptions { own_addresses: vec![server.address], ..local_options() };
    let mut rig = Rig::with(options, Arc::new(SystemNet));
    assert_eq!(rig.attempt(&server.url()).await.outcome, Outcome::Forbidden);
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn names_that_lead_nowhere_are_unresolved() {
    let names = TableNet::new([("empty.example", Vec::new())]);
    let mut rig = Rig::with(local_options(), Arc::clone(&names) as Arc<dyn Net>);
    assert_eq!(rig.attempt("http://empty.example/").await.outcome, Outcome::Unresolved);
    assert_eq!(rig.attempt("http://missing.example/").await.outcome, Outcome::Unresolved);
    let finished = rig.attempt_until_timeout("http://hangs.example/", || names.lookups() == 3).await;
    assert_eq!(finished.outcome, Outcome::Unresolved);
}

#[tokio::test]
async fn the_next_address_is_tried_but_not_for_ever() {
    let server = TestServer::answering(OK).await;
    let dead = TestServer::answering(OK).await;
    let nowhere: SocketAddr = dead.address;
    drop(dead);
    let after = |dead: usize| std::iter::repeat_n(nowhere, dead).chain([server.address]).collect();
    let names = TableNet::new([("near.example", after(15)), ("far.example", after(16))]);
    let mut rig = Rig::with(local_options(), names);
    assert_eq!(rig.attempt("http://near.example/").await.outcome, Outcome::Accepted);
    assert_eq!(rig.attempt("http://far.example/").await.outcome, Outcome::Unreachable);
}

/// One attempt over TLS, at `hook.example`.
async fn check_tls(acceptor: TlsAcceptor, trusted: Option<&Authority>, outcome: Outcome) {
    let serve = |mut peer: Peer| async move {
        while let Some(request) = peer.request().await {
            assert!(request.contains("host: hook.example:"), "{request}");
            peer.write(OK).await;
        }
    };
    let server = TestServer::start_with(Some(acceptor), serve).await;
    let extra_roots = trusted.map(|authority| authority.certificate.clone()).into_iter().collect();
    let options = super::PushOptions { extra_roots, ..local_options() };
    let names = TableNet::new([("hook.example", vec![server.address])]);
    let mut rig = Rig::with(options, names);
    let finished = rig.attempt(&format!("https://hook.example:{}/", server.address.port())).await;
    assert_eq!(finished.outcome, outcome);
}

#[tokio::test]
async fn only_a_valid_trusted_certificate_for_the_name_will_do() {
    const BOTH: TlsVersions = &[&rustls::version::TLS12, &rustls::version::TLS13];
    const OLD: TlsVersions = &[&rustls::version::TLS12];
    let ours = Authority::new();
    let acceptor = |name, versions, expired| ours.acceptor(name, versions, expired);
    check_tls(acceptor("hook.example", BOTH, false), Some(&ours), Outcome::Accepted).await;
    check_tls(acceptor("hook.example", OLD, false), Some(&ours), Outcome::Accepted).await;
    check_tls(acceptor("other.example", BOTH, false), Some(&ours), Outcome::TlsFailed).await;
    check_tls(acceptor("hook.example", BOTH, true), Some(&ours), Outcome::TlsFailed).await;
    check_tls(acceptor("hook.example", BOTH, false), None, Outcome::TlsFailed).await;
    check_tls(acceptor("hook.example", BOTH, false), Some(&Authority::new()), Outcome::TlsFailed).await;
}

#[tokio::test]
async fn an_endpoint_that_does_not_speak_tls_fails() {
    let server = TestServer::start(|mut peer| async move {
        peer.write("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let url = format!("https://{}/", server.address);
    assert_eq!(Rig::new().attempt(&url).await.outcome, Outcome::TlsFailed);
    let silent = TestServer::start(|mut peer| async move { peer.hang().await }).await;
    let url = format!("https://{}/", silent.address);
    let finished = Rig::new().attempt_until_timeout(&url, || 0 < silent.connections()).await;
    assert_eq!(finished.outcome, Outcome::TlsFailed);
}

#[tokio::test]
async fn stopping_lets_attempts_in_flight_end_and_drops_the_others() {
    let (let_go, wait) = tokio::sync::watch::channel(false);
    let server = TestServer::start(move |mut peer| {
        let mut wait = wait.clone();
        async move {
            peer.request().await;
            wait.wait_for(|go| *go).await.expect("the test lives");
            peer.write(OK).await;
        }
    })
    .await;
    let options = super::PushOptions { connections_per_endpoint: 1, ..local_options() };
    let mut rig = Rig::with(options, Arc::new(SystemNet));
    let subscription = subscription(1, &server.url(), DeliverySchema::EventGrid);
    let first = rig.start(&subscription);
    rig.start(&subscription);
    eventually(|| server.connections() == 1).await;
    rig.stop.cancel();
    rig.start(&subscription);
    let_go.send_replace(true);
    let finished = rig.finished().await;
    assert_eq!((finished.key, finished.outcome), (first, Outcome::Accepted));
    rig.tasks.close();
    rig.tasks.wait().await;
    assert_eq!(rig.try_report(), None);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let server = TestServer::start(|mut peer| async move { peer.hang().await }).await;
    let mut rig = Rig::new();
    rig.start(&subscription(1, &server.url(), DeliverySchema::EventGrid));
    eventually(|| server.connections() == 1).await;
    rig.stop.cancel();
    rig.tasks.close();
    eventually(|| {
        rig.clock.advance(Duration::from_secs(1));
        rig.tasks.is_empty()
    })
    .await;
    assert_eq!(rig.try_report(), None);
}

#[tokio::test]
async fn endpoints_of_removed_subscriptions_are_forgotten() {
    let server = TestServer::answering(OK).await;
    let mut rig = Rig::new();
    rig.attempt(&server.url()).await;
    assert_eq!(rig.dispatcher.endpoints().len(), 1);
    eventually(|| {
        rig.clock.advance(Duration::from_secs(60)); // Its idle connection ends first.
        rig.dispatcher.endpoints().is_empty()
    })
    .await;
}
