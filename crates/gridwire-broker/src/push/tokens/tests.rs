//! Tokens that are fetched, kept, refused and not to be had.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gridwire_core::event::DeliverySchema;
use gridwire_core::retry::Outcome;
use gridwire_core::routing::{SubscriptionRoute, TokenAudience, Webhook};
use gridwire_core::secret::Secret;
use gridwire_outside::system::SystemNet;
use tokio::sync::watch;

use super::read_answer;
use crate::push::testing::{OK, Rig, TestServer, eventually, local_options, subscription};
use crate::push::{PushOptions, Report, TokenIssuer};

const UNAUTHORIZED: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";

type Log = Arc<Mutex<Vec<String>>>;

/// An issuer whose tokens are `t1`, `t2`, … and good for an hour; and what it was asked.
async fn issuer() -> (TestServer, Log) {
    let log = Log::default();
    let asked = Arc::clone(&log);
    let server = TestServer::start(move |mut peer| {
        let asked = Arc::clone(&asked);
        async move {
            while let Some(request) = peer.request().await {
                let number = {
                    let mut asked = asked.lock().expect("no panic");
                    asked.push(request);
                    asked.len()
                };
                let body = format!("{{\"access_token\":\"t{number}\",\"expires_in\":3600}}");
                peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
            }
        }
    })
    .await;
    (server, log)
}

/// An endpoint that takes every token but `refused`.
async fn endpoint(refused: &'static str) -> (TestServer, Log) {
    let log = Log::default();
    let came = Arc::clone(&log);
    let server = TestServer::start(move |mut peer| {
        let came = Arc::clone(&came);
        async move {
            while let Some(request) = peer.request().await {
                let bearer = request.split("\r\n").find_map(|line| line.strip_prefix("authorization: "));
                let bearer = bearer.unwrap_or("none").to_owned();
                let answer = if bearer.ends_with(refused) { UNAUTHORIZED } else { OK };
                came.lock().expect("no panic").push(bearer);
                peer.write(answer).await;
            }
        }
    })
    .await;
    (server, log)
}

fn rig(issuer: &str) -> Rig {
    let token_issuer = TokenIssuer {
        endpoint: issuer.to_owned(),
        client_id: "gridwire".to_owned(),
        client_secret: Secret::new("p&ss"),
    };
    let options = PushOptions { token_issuer: Some(token_issuer), ..local_options() };
    Rig::with(options, Arc::new(SystemNet))
}

fn protected(url: &str) -> Arc<SubscriptionRoute> {
    let mut route = Arc::into_inner(subscription(1, url, DeliverySchema::EventGrid)).expect("ours alone");
    let token = TokenAudience { tenant: "contoso".to_owned(), application: "api://billing".to_owned() };
    route.webhook = route.webhook.map(|webhook| Webhook { token: Some(token), ..webhook });
    Arc::new(route)
}

impl Rig {
    async fn deliver(&mut self, route: &Arc<SubscriptionRoute>) -> Outcome {
        self.start(route);
        self.finished().await.outcome
    }
}

fn taken(log: &Log) -> Vec<String> {
    log.lock().expect("no panic").clone()
}

#[tokio::test]
async fn a_token_is_fetched_once_and_again_before_it_expires() {
    let ((issuer, asked), (endpoint, came)) = (issuer().await, endpoint("nothing").await);
    let mut rig = rig(&format!("http://{}/{{tenant}}/token", issuer.address));
    let route = protected(&endpoint.url());
    for _ in 0..3 {
        assert_eq!(rig.deliver(&route).await, Outcome::Accepted);
    }
    assert_eq!(taken(&came), ["Bearer t1"; 3]);
    let request = taken(&asked).remove(0);
    assert!(request.starts_with("POST /contoso/token HTTP/1.1\r\n"), "{request}");
    assert!(
        request.ends_with(
            "grant_type=client_credentials&client_id=gridwire&client_secret=p%26ss&scope=api%3A%2F%2Fbilling%2F.default"
        ),
        "{request}"
    );
    rig.clock.advance(Duration::from_secs(3299));
    assert_eq!(rig.deliver(&route).await, Outcome::Accepted);
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(rig.deliver(&route).await, Outcome::Accepted);
    assert_eq!(taken(&came)[3..], ["Bearer t1", "Bearer t2"]);
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_unless_it_is_fresh() {
    let ((issuer, asked), (endpoint, came)) = (issuer().await, endpoint("t1").await);
    let mut rig = rig(&format!("http://{}/token", issuer.address));
    let route = protected(&endpoint.url());
    let refused = Outcome::Answered { status: 401, retry_after: None };
    assert_eq!(rig.deliver(&route).await, refused, "it was issued just now");
    rig.clock.advance(Duration::from_secs(60));
    assert_eq!(rig.deliver(&route).await, Outcome::Accepted);
    assert_eq!(taken(&came), ["Bearer t1", "Bearer t1", "Bearer t2"]);
    assert_eq!(taken(&asked).len(), 2);

    // Who refuses every token is not asked for ever.
    let (endpoint, came) = self::endpoint("").await;
    let route = protected(&endpoint.url());
    rig.clock.advance(Duration::from_secs(60));
    assert_eq!(rig.deliver(&route).await, refused);
    assert_eq!(taken(&came), ["Bearer t2", "Bearer t3"]);
}

#[tokio::test]
async fn without_a_token_nothing_is_sent_and_the_issuer_is_left_alone_for_a_while() {
    let (endpoint, came) = endpoint("nothing").await;
    let issuer = TestServer::answering("HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n").await;
    let mut rig = rig(&format!("http://{}/token", issuer.address));
    let route = protected(&endpoint.url());
    for expected in [1, 1, 2] {
        assert_eq!(rig.deliver(&route).await, Outcome::NoToken);
        assert_eq!(issuer.connections(), expected);
        rig.clock.advance(Duration::from_secs(5));
    }
    assert_eq!(taken(&came), Vec::<String>::new());
}

#[tokio::test]
async fn an_issuer_has_five_seconds_and_whoever_waits_for_its_answer_no_more() {
    let (endpoint, came) = endpoint("nothing").await;
    let issuer = TestServer::hanging().await;
    let mut rig = rig(&format!("http://{}/token", issuer.address));
    let route = protected(&endpoint.url());
    let begun = [rig.start(&route), rig.start(&route)];
    eventually(|| issuer.connections() == 1).await;
    rig.clock.advance(Duration::from_millis(4_999));
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.try_report(), None, "it gave up too early");
    rig.clock.advance(Duration::from_millis(1));
    for _ in &begun {
        let finished = rig.finished().await;
        assert!(begun.contains(&finished.key));
        assert_eq!((finished.outcome, finished.latency), (Outcome::NoToken, Duration::from_secs(5)));
    }
    assert_eq!((issuer.connections(), taken(&came)), (1, Vec::new()));
}

#[tokio::test]
async fn a_token_that_comes_after_the_pause_is_not_used() {
    let (endpoint, came) = endpoint("nothing").await;
    let (let_go, held) = watch::channel(false);
    let issuer = TestServer::start(move |mut peer| {
        let mut held = held.clone();
        async move {
            peer.request().await;
            held.wait_for(|go| *go).await.expect("the test holds the other end");
            peer.write("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"access_token\":\"a\"}").await;
        }
    })
    .await;
    let mut rig = rig(&format!("http://{}/token", issuer.address));
    let route = protected(&endpoint.url());
    let key = rig.start(&route);
    eventually(|| issuer.connections() == 1).await;
    rig.dispatcher.set_paused(route.number, true);
    let_go.send_replace(true);
    assert_eq!(rig.report().await, Report::Recalled(key));
    assert_eq!(taken(&came), Vec::<String>::new());
    rig.dispatcher.set_paused(route.number, false);
    assert_eq!(rig.deliver(&route).await, Outcome::Accepted);
}

#[tokio::test]
async fn a_refusal_stays_the_outcome_when_the_pause_comes_before_another_token() {
    let (endpoint, came) = endpoint("t1").await;
    let (let_go, held) = watch::channel(true);
    let issuer = TestServer::start(move |mut peer| {
        let mut held = held.clone();
        async move {
            peer.request().await;
            held.wait_for(|go| *go).await.expect("the test holds the other end");
            let body = format!("{{\"access_token\":\"t{}\"}}", peer.number);
            peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        }
    })
    .await;
    let mut rig = rig(&format!("http://{}/token", issuer.address));
    let route = protected(&endpoint.url());
    rig.deliver(&route).await;
    rig.clock.advance(Duration::from_secs(60));
    let_go.send_replace(false);
    rig.start(&route);
    eventually(|| issuer.connections() == 2).await;
    rig.dispatcher.set_paused(route.number, true);
    let_go.send_replace(true);
    let finished = rig.finished().await;
    let refused = Outcome::Answered { status: 401, retry_after: None };
    assert_eq!((finished.outcome, finished.status), (refused, Some(401)));
    assert_eq!(taken(&came), ["Bearer t1", "Bearer t1"]);
}

#[tokio::test]
async fn an_issuer_in_a_private_network_is_judged_like_any_endpoint() {
    let (endpoint, came) = endpoint("nothing").await;
    let mut rig = rig("http://10.0.0.1/token");
    assert_eq!(rig.deliver(&protected(&endpoint.url())).await, Outcome::NoToken);
    assert_eq!(taken(&came), Vec::<String>::new());
}

#[test]
fn an_answer_holds_a_token_and_its_life() {
    let check = |body: &str, expect: Option<(&str, u64)>| {
        let read = read_answer(body.as_bytes());
        let read = read.as_ref().map(|(bearer, life)| (bearer.to_str().expect("ASCII"), life.as_secs()));
        assert_eq!(read, expect, "{body}");
    };
    check(r#"{"access_token":"a","expires_in":60}"#, Some(("Bearer a", 60)));
    check(r#"{"access_token":"a","expires_in":"60"}"#, Some(("Bearer a", 60)));
    check(r#"{"access_token":"a"}"#, Some(("Bearer a", 300)));
    check(r#"{"access_token":"a","expires_in":999999999}"#, Some(("Bearer a", 86_400)));
    for nothing in ["", "[]", r#"{"access_token":""}"#, r#"{"access_token":1}"#, r#"{"access_token":"a\nb"}"#]
    {
        check(nothing, None);
    }
}
