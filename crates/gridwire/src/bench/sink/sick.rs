//! Endpoints that fall ill below HTTP: they agree to their subscription over the first exchange, and whoever
//! connects later meets the illness.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::Sink;
use crate::bench::baseline;
use crate::bench::identity::Acceptors;

/// What an answer begins with that never gets to its end; a header's value follows for ever.
const TRICKLE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-patience: ";

/// How connections are treated once the endpoint has agreed.
#[derive(Clone)]
pub(super) enum Conduct {
    /// An answer byte by byte, one in each such time, without an end.
    Trickles(Duration),
    Resets,
    /// Over TLS all the time, but later as somebody else.
    Lies(Acceptors),
}

/// Accepts connections until `stop`.
pub(super) async fn serve(listener: TcpListener, conduct: Conduct, sink: Arc<Sink>, stop: CancellationToken) {
    let agreed = Arc::<AtomicBool>::default();
    let meet = |stream| {
        let (conduct, sink, agreed) = (conduct.clone(), Arc::clone(&sink), Arc::clone(&agreed));
        async move {
            if agreed.load(Ordering::Relaxed) {
                sink.asked();
                conduct.meet(stream, &sink).await;
            } else {
                agree(stream, conduct, sink, agreed).await;
            }
        }
    };
    baseline::accept(listener, stop, meet).await;
}

/// One exchange, and the end of the connection: the next must be a new one.
async fn agree(stream: TcpStream, conduct: Conduct, sink: Arc<Sink>, agreed: Arc<AtomicBool>) {
    let tls = match conduct {
        Conduct::Lies(acceptors) => Some(acceptors.honest),
        Conduct::Trickles(_) | Conduct::Resets => None,
    };
    let service = move |request| {
        let (sink, agreed) = (Arc::clone(&sink), Arc::clone(&agreed));
        async move {
            let mut answer = sink.answer(request, 0).await;
            agreed.fetch_or(answer.status().is_success(), Ordering::Relaxed);
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            answer
        }
    };
    baseline::speak(stream, tls, service).await;
}

impl Conduct {
    async fn meet(self, mut stream: TcpStream, sink: &Sink) {
        match self {
            Self::Trickles(pause) => {
                for byte in TRICKLE.iter().chain(std::iter::repeat(&b'.')) {
                    if stream.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
            }
            // Dropping it then tells the other side so, instead of closing in peace.
            Self::Resets => drop(stream.set_zero_linger()),
            Self::Lies(acceptors) => {
                // Only a client that has believed us comes to the end of this.
                if acceptors.lying.accept(stream).await.is_ok() {
                    sink.strayed();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bytes::Bytes;
    use http::Method;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::bench::args::Protocol;
    use crate::bench::connection::{Client, Failure, Target};
    use crate::bench::identity::Authority;
    use crate::bench::sink::Manner;

    /// Endpoints that have agreed to their subscriptions.
    async fn agreed(
        count: u32,
        manner: Manner,
        ca: Option<&Authority>,
    ) -> (Arc<Sink>, impl Drop, Vec<Target>) {
        let (sink, stop) = Sink::start_many(count, manner).await.unwrap();
        let mut targets = Vec::new();
        for url in sink.urls() {
            let ca = ca.map(|authority| authority.pem().as_bytes());
            let target = Target::resolve(&url, Protocol::Http1, ca).await.unwrap();
            let route = target.route(Method::OPTIONS, "/deliveries").unwrap();
            let route = route.with("webhook-request-origin", "gridwire").unwrap();
            Client::single(&target).send(route.request(Bytes::new())).await.unwrap();
            targets.push(target);
        }
        assert_eq!(sink.counted().requests, 0, "consent is no delivery");
        (sink, stop, targets)
    }

    async fn deliver(target: &Target, path: &str) -> Result<Bytes, Failure> {
        let route = target.route(Method::POST, path).unwrap();
        let sent = Client::single(target).send(route.request(Bytes::from_static(b"{}"))).await;
        sent.map_err(|failed| failed.failure)
    }

    fn address(sink: &Sink) -> SocketAddr {
        sink.addresses[0]
    }

    #[tokio::test]
    async fn an_endpoint_that_resets_agrees_first() {
        let (sink, _stop, targets) = agreed(1, Manner::Resets, None).await;
        let mut stream = TcpStream::connect(address(&sink)).await.unwrap();
        let error = stream.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert!(deliver(&targets[0], "/deliveries").await.is_err());
        assert_eq!((sink.counted().requests, sink.delivered()), (2, 0));
    }

    #[tokio::test]
    async fn an_answer_that_trickles_never_gets_to_the_end_of_its_head() {
        let (sink, _stop, _) = agreed(1, Manner::Trickles(Duration::from_millis(1)), None).await;
        let mut stream = TcpStream::connect(address(&sink)).await.unwrap();
        let mut answer = [0; 200];
        stream.read_exact(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer.to_vec()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.contains("\r\n\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn who_follows_a_redirect_is_counted() {
        let (sink, _stop, targets) = agreed(1, Manner::Redirects, None).await;
        assert_eq!(deliver(&targets[0], "/deliveries").await, Err(Failure::Status(302)));
        assert_eq!((sink.counted().requests, sink.counted().strayed), (1, 0));
        assert!(deliver(&targets[0], "/elsewhere").await.is_ok());
        assert_eq!((sink.counted().requests, sink.counted().strayed), (1, 1));
    }

    #[tokio::test]
    async fn a_liar_proves_itself_once_and_is_believed_only_by_those_who_believe_all() {
        let authority = Arc::new(Authority::make().unwrap());
        let (sink, _stop, targets) = agreed(2, Manner::Lies(Arc::clone(&authority)), Some(&authority)).await;
        for target in &targets {
            assert!(deliver(target, "/deliveries").await.is_err());
        }
        assert_eq!((sink.counted().requests, sink.counted().strayed), (2, 0));
        // Somebody who does not look at the name believes the first lie, though not the second.
        // One that is called by the name of the first lie gets through, so nothing else is wrong with it.
        let other = targets[0].clone().called("another.example", authority.pem().as_bytes());
        assert!(deliver(&other, "/deliveries").await.is_err(), "there is no answer in any case");
        assert_eq!((sink.counted().requests, sink.counted().strayed), (3, 1));
    }
}
