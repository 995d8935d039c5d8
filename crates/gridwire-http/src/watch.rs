//! How long a connection may be without a request being answered, and how long an answer may wait to be taken.
//!
//! A [`Watch`] is told of a connection's bytes by its stream, which is below the HTTP library, and of its requests and
//! answers by the service above. It decides, by the clock and by the [`Scanner`], when patience has ended and which
//! request is refused; it does nothing itself.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use gridwire_outside::Clock;
use hyper::body::{Body, Frame, SizeHint};

use crate::pace::Pace;
use crate::scan::{Fault, Scanned, Scanner, Verdict};

/// After the last answer of a connection: long enough for a client to read it before the connection is gone, for what
/// it has sent and nobody read would take the answer with it.
const FAREWELL: Duration = Duration::from_secs(5);
/// An answer over HTTP/2 is given to the library in pieces of this size, so that one that is not taken shows.
const PIECE_BYTES: usize = 16 << 10;

/// How long a connection may be without a request being answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// From the first byte of a request, or from the start, to the end of its headers.
    pub(crate) headers: Duration,
    /// Between requests.
    pub(crate) idle: Duration,
}

/// What goes on on a connection, shared by its stream and its requests.
#[derive(Debug)]
pub(crate) struct Watch {
    clock: Arc<dyn Clock>,
    patience: Patience,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Since when, by the monotonic clock.
    since: Duration,
    scanner: Scanner,
    /// The requests that the library has given us.
    asked: u64,
    /// Why the request after the last sound head is refused.
    fault: Option<Fault>,
    /// While the client does not take what we write.
    writing: Option<Pace>,
    /// Answers over HTTP/2 that the library has not taken to their ends, and how fast it takes them.
    answers: u32,
    taking: Option<Pace>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No request has begun.
    Idle,
    /// A request has begun, or the first one is awaited.
    Head,
    /// So many requests are being answered.
    Busy(u32),
    /// Nothing is sent any more.
    Farewell,
}

/// Why a connection has been waited for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// There is nobody to tell.
    Silently,
    /// In the middle of a head: the request is refused now, which the library sees when it reads next.
    InHead,
}

impl Watch {
    pub(crate) fn new(clock: Arc<dyn Clock>, patience: Patience) -> Arc<Self> {
        let state = State {
            phase: Phase::Head,
            since: clock.monotonic(),
            scanner: Scanner::default(),
            asked: 0,
            fault: None,
            writing: None,
            answers: 0,
            taking: None,
        };
        Arc::new(Self { clock, patience, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at bytes that were just read.
    pub(crate) fn read(&self, bytes: &[u8]) -> Scanned {
        let mut state = self.state();
        let scanned = state.scanner.scan(bytes);
        if let Verdict::Fault(fault) = scanned.verdict {
            state.fault = Some(fault);
        }
        let (begun, http2) = (scanned.pass > 0 || state.scanner.is_in_head(), state.scanner.is_http2());
        match state.phase {
            Phase::Idle if begun && !http2 => state.turn(Phase::Head, &*self.clock),
            // What begins a request there is in the frames.
            Phase::Head if http2 => state.turn(Phase::Idle, &*self.clock),
            _ => {}
        }
        scanned
    }

    /// Whether the stream is to give the library a request to refuse, and nothing after it.
    pub(crate) fn refuses(&self) -> bool {
        self.state().fault.is_some()
    }

    /// Why the request that the library has given us last is refused, if it is.
    pub(crate) fn fault(&self) -> Option<Fault> {
        let state = self.state();
        state.fault.filter(|_| state.asked > state.scanner.heads())
    }

    /// A request's headers are complete.
    pub(crate) fn answering(self: &Arc<Self>) -> Answering {
        let mut state = self.state();
        state.asked += 1;
        state.phase = match state.phase {
            Phase::Busy(count) => Phase::Busy(count + 1),
            Phase::Idle | Phase::Head | Phase::Farewell => Phase::Busy(1),
        };
        Answering(Arc::clone(self))
    }

    /// Some of what we send was taken.
    pub(crate) fn wrote(&self, bytes: usize) {
        let mut state = self.state();
        if let Some(pace) = &mut state.writing {
            pace.moved(bytes, self.clock.monotonic());
        }
        if state.phase == Phase::Idle {
            // Nobody sleeps.
            state.since = self.clock.monotonic();
        }
    }

    /// The client does not take more just now.
    pub(crate) fn write_waits(&self) {
        let now = self.clock.monotonic();
        self.state().writing.get_or_insert_with(|| Pace::begin(now));
    }

    /// All was taken.
    pub(crate) fn flushed(&self) {
        self.state().writing = None;
    }

    /// We have sent our last.
    pub(crate) fn bids_farewell(&self) {
        let mut state = self.state();
        if state.phase != Phase::Farewell {
            state.turn(Phase::Farewell, &*self.clock);
        }
    }

    /// When patience ends if nothing happens before. While a request is being answered there is no end.
    fn deadline(&self) -> Option<Duration> {
        let state = self.state();
        let phase = match state.phase {
            Phase::Idle => Some(state.since + self.patience.idle),
            Phase::Head => Some(state.since + self.patience.headers),
            Phase::Farewell => Some(state.since + FAREWELL),
            Phase::Busy(_) => None,
        };
        let paces = [state.writing, state.taking].into_iter().flatten().map(Pace::ends);
        paces.chain(phase).min()
    }

    /// Done when the connection has been waited for long enough. Every patience that can begin is at least as long as
    /// the steps in which it looks, so that none is missed: waking with each request would cost more than it gains.
    /// Cancel safe.
    pub(crate) async fn patience_ends(&self) -> Ended {
        let step = FAREWELL.min(self.patience.headers);
        loop {
            let left = match self.deadline() {
                Some(deadline) => deadline.saturating_sub(self.clock.monotonic()),
                None => step,
            };
            if left.is_zero() {
                return self.state().give_up(&*self.clock);
            }
            self.clock.sleep(left.min(step)).await;
        }
    }
}

impl State {
    fn turn(&mut self, phase: Phase, clock: &dyn Clock) {
        (self.phase, self.since) = (phase, clock.monotonic());
    }

    fn give_up(&mut self, clock: &dyn Clock) -> Ended {
        let told = self.phase == Phase::Head && self.scanner.is_in_head() && self.writing.is_none();
        if !told || self.fault.is_some() {
            return Ended::Silently;
        }
        self.fault = Some(Fault::TooSlow);
        // The refusal has as long to be taken.
        self.turn(Phase::Head, clock);
        Ended::InHead
    }
}

/// A request that is being answered, until it is dropped.
#[derive(Debug)]
pub(crate) struct Answering(Arc<Watch>);

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.state();
        match state.phase {
            Phase::Busy(count) if count > 1 => state.phase = Phase::Busy(count - 1),
            Phase::Farewell => {}
            _ => {
                let phase = if state.scanner.is_in_head() { Phase::Head } else { Phase::Idle };
                state.turn(phase, &*self.0.clock);
            }
        }
    }
}

/// An answer's body on its way to the library.
#[derive(Debug)]
pub(crate) struct Answer {
    left: Bytes,
    /// Over HTTP/2, where each stream has a window of its own. Over HTTP/1 the library takes all of it at once, and a
    /// client that does not take it shows in the writes.
    taking: Option<Taking>,
}

impl Answer {
    pub(crate) fn new(body: Bytes, http2: bool, watch: &Arc<Watch>) -> Self {
        Self { left: body, taking: http2.then(|| Taking::begin(watch)) }
    }
}

/// An answer that the library has not taken to its end, until it is dropped.
#[derive(Debug)]
struct Taking(Arc<Watch>);

impl Taking {
    fn begin(watch: &Arc<Watch>) -> Self {
        let mut state = watch.state();
        state.answers += 1;
        state.taking.get_or_insert_with(|| Pace::begin(watch.clock.monotonic()));
        Self(Arc::clone(watch))
    }

    fn took(&self, bytes: usize) {
        if let Some(pace) = &mut self.0.state().taking {
            pace.moved(bytes, self.0.clock.monotonic());
        }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.answers -= 1;
        if state.answers == 0 {
            state.taking = None;
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let Some(taking) = &self.taking else {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.left)))));
        };
        let bytes = PIECE_BYTES.min(self.left.len());
        taking.took(bytes);
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use gridwire_core::time::Timestamp;
    use gridwire_outside::ManualClock;

    use super::*;

    const PATIENCE: Patience = Patience { headers: Duration::from_secs(10), idle: Duration::from_secs(75) };
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    /// Longer than anything is waited for.
    const EVER: u64 = 1000;

    fn clock() -> Arc<ManualClock> {
        Arc::new(ManualClock::new(Timestamp::from_millis(1)))
    }

    /// For how many seconds the connection is kept from now on, if only `each` happens in every second.
    async fn kept_for(watch: &Watch, clock: &ManualClock, each: impl Fn()) -> (u64, Ended) {
        let mut ends = std::pin::pin!(watch.patience_ends());
        for second in 0..EVER {
            tokio::select! {
                biased;
                ended = ends.as_mut() => return (second, ended),
                () = std::future::ready(()) => {}
            }
            clock.advance(Duration::from_secs(1));
            each();
        }
        (EVER, Ended::Silently)
    }

    #[tokio::test]
    async fn a_connection_is_kept_while_it_is_used_and_no_longer() {
        let clock = clock();
        let watch = || Watch::new(Arc::clone(&clock) as Arc<dyn Clock>, PATIENCE);
        let silently = |seconds| (seconds, Ended::Silently);
        assert_eq!(kept_for(&watch(), &clock, || ()).await, silently(10), "the first request is awaited");
        let asked = watch();
        asked.read(GET);
        drop(asked.answering());
        assert_eq!(kept_for(&asked, &clock, || ()).await, silently(75), "between requests");
        let asking = watch();
        asking.read(GET);
        let answering = asking.answering();
        assert_eq!(kept_for(&asking, &clock, || ()).await, silently(EVER), "a receiver waits for its answer");
        drop(answering);
        let http2 = watch();
        assert_eq!(http2.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").pass, 24);
        assert_eq!(kept_for(&http2, &clock, || ()).await, silently(75), "pings begin no request");
        let gone = watch();
        gone.bids_farewell();
        assert_eq!(
            kept_for(&gone, &clock, || gone.bids_farewell()).await,
            silently(5),
            "after the last answer"
        );
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_is_refused_and_the_refusal_has_an_end_too() {
        let clock = clock();
        let watch = Watch::new(Arc::clone(&clock) as Arc<dyn Clock>, PATIENCE);
        watch.read(GET);
        drop(watch.answering());
        clock.advance(Duration::from_secs(60));
        watch.read(b"GET /");
        let slowly = || assert_eq!(watch.read(b"/").pass, 0);
        assert_eq!(kept_for(&watch, &clock, slowly).await, (10, Ended::InHead));
        assert_eq!((watch.refuses(), watch.fault()), (true, None), "the library has not asked yet");
        let answering = watch.answering();
        assert_eq!(watch.fault(), Some(Fault::TooSlow));
        drop(answering);
        assert!(kept_for(&watch, &clock, || ()).await.0 <= 75);
    }

    #[tokio::test]
    async fn a_refusal_waits_for_the_answers_before_it() {
        let watch = Watch::new(clock(), PATIENCE);
        let scanned = watch.read(&[GET, GET, b"\n"].concat());
        assert_eq!(scanned.pass, 2 * GET.len());
        let requests = [watch.answering(), watch.answering()];
        assert_eq!(watch.fault(), None);
        let refused = watch.answering();
        assert!(matches!(watch.fault(), Some(Fault::Malformed(_))));
        drop((requests, refused));
    }

    #[tokio::test]
    async fn an_answer_that_is_not_taken_ends_the_connection() {
        let clock = clock();
        let watch = || Watch::new(Arc::clone(&clock) as Arc<dyn Clock>, PATIENCE);
        let stuck = watch();
        let answering = stuck.answering();
        stuck.write_waits();
        assert_eq!(kept_for(&stuck, &clock, || stuck.write_waits()).await, (10, Ended::Silently));
        let trickling = watch();
        let other = trickling.answering();
        trickling.write_waits();
        let slowly = || trickling.wrote(100);
        assert_eq!(kept_for(&trickling, &clock, slowly).await, (12, Ended::Silently));
        let steady = watch();
        let third = steady.answering();
        steady.write_waits();
        assert_eq!(kept_for(&steady, &clock, || steady.wrote(1024)).await.0, EVER);
        steady.flushed();
        assert_eq!(kept_for(&steady, &clock, || ()).await.0, EVER, "it took all");
        drop((answering, other, third));
        // The same where the library has a window of its own for each stream.
        let windowed = watch();
        windowed.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let answer = Answer::new(Bytes::from_static(b"abc"), true, &windowed);
        assert_eq!(kept_for(&windowed, &clock, || ()).await, (10, Ended::Silently));
        drop(answer);
        let ping = || windowed.wrote(17);
        assert_eq!(kept_for(&windowed, &clock, ping).await.0, EVER, "nothing is owed any more");
    }
}
