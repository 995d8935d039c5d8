//! Guessing at keys (`reliability` section 3.4): who presents too many wrong ones has to wait, and nobody else.

mod support;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpSocket;

use support::arm::{self, Topic};
use support::client::read_answers;
use support::{Answer, Arm, Launch, Request, Server, events, metrics};

/// What the configuration allows when it says nothing.
const FAILURES_MAX: usize = 10;
/// From one minute's first failure on, and what is added so that not all come back at once.
const WAIT_MAX: u64 = 60 + 30;
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Other clients' addresses.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const ANYWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// A connection to the server from an address of this machine.
fn connect(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((IpAddr::V4(from), 0).into()).expect("every 127.x.x.x is an address of this machine");
        socket.connect(to).await.expect("a connection")
    });
    let stream = stream.into_std().expect("a plain socket");
    stream.set_nonblocking(false).expect("an option of a socket");
    stream
}

fn send(server: &Server, from: Ipv4Addr, request: &Request) -> Answer {
    let mut stream = connect(from, server.http);
    stream.write_all(&request.wire(server.http)).expect("the request goes out");
    let (mut answers, _) =
        read_answers(&stream, |so_far| Duration::from_secs(if so_far == 0 { 20 } else { 0 }));
    answers.pop().expect("an answer")
}

fn publish(topic: &Topic, key: &str) -> Request {
    Request::post(&topic.path).with("aeg-sas-key", key).json(&json!([events::grid_event("a")]))
}

/// Ten are told that they are wrong, the next that they have to wait.
#[track_caller]
fn guess(server: &Server, from: Ipv4Addr, wrong: &Request) {
    for _ in 0..FAILURES_MAX {
        send(server, from, wrong).expect(401);
    }
    let answer = send(server, from, wrong).expect(429);
    assert_eq!(answer.error(), ("TooManyRequests".to_owned(), "quota_exceeded".to_owned()));
    let wait = answer.header("retry-after").and_then(|text| text.parse::<u64>().ok());
    assert!(wait.is_some_and(|wait| (1..=WAIT_MAX).contains(&wait)), "{wait:?}");
}

#[test]
fn who_guesses_keys_has_to_wait_at_that_topic_and_others_do_not() {
    let server = Server::start();
    let arm = Arm::new(&server);
    let (topic, other) = (arm.topic("orders", &json!({})), arm.topic("bills", &json!({})));
    guess(&server, HERE, &publish(&topic, "d3Jvbmc="));
    let right = publish(&topic, &topic.key);
    send(&server, HERE, &right).expect(429);
    send(&server, ELSEWHERE, &right).expect(200);
    send(&server, HERE, &publish(&other, &other.key)).expect(200);
    assert_eq!(metrics::value(&server.metrics(), "gridwire_auth_refused_total"), Some(10.0));
    assert_eq!(metrics::value(&server.metrics(), "gridwire_auth_blocked_total"), Some(2.0));

    // A namespace has keys of its own.
    let namespace = arm.namespace("spaces");
    arm.namespace_topic(&namespace, "orders");
    let right = namespace.publish("orders", &json!([events::cloud_event("a")]));
    let mut wrong = right.clone();
    wrong.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
    let wrong = wrong.with("authorization", "SharedAccessKey d3Jvbmc=");
    guess(&server, HERE, &wrong);
    // The same namespace, found by its key.
    let nameless = |request: &Request| {
        let path = request.path.strip_prefix(&namespace.prefix).expect("it names its namespace").to_owned();
        Request { path, ..request.clone() }
    };
    for right in [&right, &nameless(&right)] {
        send(&server, HERE, right).expect(429);
        send(&server, ELSEWHERE, right).expect(200);
    }
    guess(&server, ANYWHERE, &nameless(&wrong));
}

#[test]
fn who_guesses_the_management_token_has_to_wait_and_publishers_do_not() {
    let server = Server::start();
    let topic = Arm::new(&server).topic("orders", &json!({}));
    let topics = format!("{}/topics?api-version=2025-02-15", arm::group_path());
    let with = |token: &str| Request::get(&topics).with("authorization", format!("Bearer {token}"));
    guess(&server, HERE, &with("wrong"));
    send(&server, HERE, &with(&server.token)).expect(429);
    // The same token opens this, so guesses there are the same guesses.
    let inspect = Request::get("/gridwire/v1/subscriptions/1/deliveries");
    let inspect = inspect.with("authorization", format!("Bearer {}", server.token));
    send(&server, HERE, &inspect).expect(429);
    send(&server, ELSEWHERE, &with(&server.token)).expect(200);
    send(&server, HERE, &publish(&topic, &topic.key)).expect(200);
}

#[test]
fn the_limit_can_be_taken_away() {
    let environment = vec![("GRIDWIRE_AUTH_FAILURES_PER_MINUTE", "0".into())];
    let server = Server::launch(Launch { environment, ..Launch::default() });
    let topic = Arm::new(&server).topic("orders", &json!({}));
    for _ in 0..3 * FAILURES_MAX {
        send(&server, HERE, &publish(&topic, "d3Jvbmc=")).expect(401);
    }
    send(&server, HERE, &publish(&topic, &topic.key)).expect(200);
}
