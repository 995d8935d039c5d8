//! The cases for a [`Log`].

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use gridwire_core::event::{Data, Event, InputSchema};
use gridwire_core::filter::MatchSet;
use gridwire_core::frame::{FrameBuilder, FrameDraft};
use gridwire_core::ids::{Lsn, Offset, ShardId, Slot, StateSeq, SubscriptionNumber, TopicNumber};
use gridwire_core::routing::BoxFuture;
use gridwire_core::time::Timestamp;

use super::OpenLog;
use crate::log::{AppendError, Appended, Frame, Log, Recovered, SegmentInfo, SnapshotPart};

const ORDERS: TopicNumber = TopicNumber(1);
const INVOICES: TopicNumber = TopicNumber(70_000);
const SHARD: ShardId = ShardId(0);
const PATIENCE: Duration = Duration::from_secs(5);

fn event(id: &str, data_bytes: usize) -> Event<'_> {
    Event {
        schema: InputSchema::CloudEvent,
        id: id.into(),
        event_type: "order.created".into(),
        source: "/shop".into(),
        subject: None,
        time: None,
        data_content_type: None,
        data_schema: None,
        extensions: Vec::new(),
        data: Data::Binary(vec![0xa5; data_bytes].into()),
    }
}

/// One publish call: for each event its id, and the slots it matched.
fn draft(topic: TopicNumber, events: &[(&str, &[u32])]) -> FrameDraft {
    draft_of_size(topic, events, 10)
}

fn draft_of_size(topic: TopicNumber, events: &[(&str, &[u32])], data_bytes: usize) -> FrameDraft {
    let mut frame = FrameBuilder::new(topic, 100);
    for (id, slots) in events {
        let mut matched = MatchSet::default();
        for slot in *slots {
            matched.push(Slot(*slot));
        }
        frame.push(&matched, &event(id, data_bytes));
    }
    frame.finish().expect("a case publishes at least one event")
}

async fn append(log: &dyn Log, topic: TopicNumber, events: &[(&str, &[u32])]) -> Appended {
    log.append_events(draft(topic, events)).await.expect("an open log takes events")
}

/// Every retained frame.
async fn read_all(log: &dyn Log) -> Vec<Frame> {
    let retained: u64 = [ORDERS, INVOICES].map(|topic| log.end(topic).0 - log.start(topic).0).iter().sum();
    let mut frames: Vec<Frame> = Vec::new();
    let (mut next, mut events) = (Lsn::ZERO, 0);
    // Counted by events: a log may have positions without a frame, also at its end.
    while events < retained {
        let read = log.read(next, 1 << 20).await.expect("what is there is readable");
        next = read.last().expect("a read shows at least one frame").lsn.next();
        events += read.iter().map(|frame| u64::from(frame.count)).sum::<u64>();
        frames.extend(read);
    }
    frames
}

/// The topic, offset and id of each event.
fn ids(frames: &[Frame]) -> Vec<(TopicNumber, u64, String)> {
    let mut ids = Vec::new();
    for frame in frames {
        for stored in frame.view().events() {
            let bytes = stored.event_bytes().expect("a stored event is whole");
            let event = Event::decode(bytes).expect("a stored event is an event");
            ids.push((frame.topic, stored.offset.0, event.id.into_owned()));
        }
    }
    ids
}

async fn close(log: Arc<dyn Log>) {
    log.close(PATIENCE).await;
}

/// Lets `future` run as far as it can now.
async fn poll_once<T>(future: &mut BoxFuture<'_, T>) -> Option<T> {
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Offsets are dense for each topic from 0, LSNs and times never step back, and topics do not disturb one
/// another.
pub(super) async fn offsets_are_dense_and_in_order(open: OpenLog) {
    let log = open();
    assert_eq!((log.start(ORDERS), log.end(ORDERS)), (Offset(0), Offset(0)), "an empty topic");
    let first = append(&*log, ORDERS, &[("a", &[0]), ("b", &[0])]).await;
    let other = append(&*log, INVOICES, &[("x", &[0])]).await;
    let second = append(&*log, ORDERS, &[("c", &[0])]).await;
    assert_eq!([first.first, other.first, second.first], [Offset(0), Offset(0), Offset(2)]);
    assert!(first.lsn < other.lsn && other.lsn < second.lsn, "LSNs rise");
    assert!(first.time <= other.time && other.time <= second.time, "time does not step back");
    assert_eq!((log.start(ORDERS), log.end(ORDERS)), (Offset(0), Offset(3)));
    assert_eq!(log.end(INVOICES), Offset(1));
    let (end, newest) = log.position();
    assert!(second.lsn < end && second.time <= newest);
    assert!(end.0 <= log.health().durable, "what is answered is durable");
    close(log).await;
}

/// A frame is read as it was written, wholly, with the place that its append was told.
pub(super) async fn a_batch_is_read_whole_and_unchanged(open: OpenLog) {
    let log = open();
    let batch = draft(ORDERS, &[("a", &[0, 3]), ("b", &[1]), ("c", &[0, 1, 500])]);
    let appended = log.append_events(batch.clone()).await.expect("an open log takes events");
    let frames = read_all(&*log).await;
    let [frame] = &frames[..] else { panic!("one frame was written, {} were read", frames.len()) };
    assert_eq!((frame.lsn, frame.first, frame.time), (appended.lsn, appended.first, appended.time));
    assert_eq!((frame.topic, frame.count), (ORDERS, 3));
    assert_eq!(frame.body[..], batch.body[..], "byte for byte");
    let slots: Vec<Vec<u32>> = frame
        .view()
        .events()
        .map(|event| event.matched().expect("a match set").iter().map(|slot| slot.0).collect())
        .collect();
    assert_eq!(slots, [vec![0, 3], vec![1], vec![0, 1, 500]]);
    close(log).await;
}

/// A read at the end is done when a frame is there, and not before.
pub(super) async fn a_read_waits_at_the_end(open: OpenLog) {
    let log = open();
    let (end, _) = log.position();
    let mut read = log.read(end, 1 << 20);
    assert!(poll_once(&mut read).await.is_none(), "there is nothing to read yet");
    let appended = append(&*log, ORDERS, &[("a", &[0])]).await;
    let frames = read.await.expect("what is there is readable");
    assert_eq!(frames.iter().map(|frame| frame.lsn).collect::<Vec<_>>(), [appended.lsn]);
    // A reader that gave up takes nothing along.
    let mut given_up = log.read(appended.lsn.next(), 1 << 20);
    assert!(poll_once(&mut given_up).await.is_none());
    drop(given_up);
    let next = append(&*log, ORDERS, &[("b", &[0])]).await;
    let frames = log.read(appended.lsn.next(), 1 << 20).await.expect("what is there is readable");
    assert_eq!(frames[0].lsn, next.lsn);
    close(log).await;

    // A restart may leave positions without a frame; a reader who comes to them waits as well.
    let log = open();
    let mut read = log.read(next.lsn.next(), 1 << 20);
    assert!(poll_once(&mut read).await.is_none(), "there is nothing to read yet");
    let appended = append(&*log, ORDERS, &[("c", &[0])]).await;
    let frames = read.await.expect("what is there is readable");
    assert_eq!(frames.iter().map(|frame| frame.lsn).collect::<Vec<_>>(), [appended.lsn]);
    close(log).await;
}

/// A read ends near the size asked for, but shows at least one frame however small that is.
pub(super) async fn a_read_is_about_as_large_as_asked(open: OpenLog) {
    let log = open();
    for id in ["a", "b", "c", "d"] {
        log.append_events(draft_of_size(ORDERS, &[(id, &[0])], 10_000))
            .await
            .expect("an open log takes events");
    }
    let one = log.read(Lsn::ZERO, 1).await.expect("what is there is readable");
    assert_eq!(one.len(), 1, "at least one");
    let some = log.read(Lsn::ZERO, 25_000).await.expect("what is there is readable");
    assert!((2..=3).contains(&some.len()), "about 25,000 bytes of frames of 10,000: {}", some.len());
    assert_eq!(ids(&read_all(&*log).await).len(), 4);
    close(log).await;
}

/// A scan finds exactly the matches of its slot, in order, and says how far it looked.
pub(super) async fn a_scan_finds_the_matches_of_a_slot(open: OpenLog) {
    let log = open();
    append(&*log, ORDERS, &[("0", &[1]), ("1", &[2]), ("2", &[1, 2])]).await;
    append(&*log, INVOICES, &[("x", &[1])]).await;
    append(&*log, ORDERS, &[("3", &[2]), ("4", &[1, 9])]).await;
    append(&*log, ORDERS, &[("5", &[2])]).await;
    let scan = async |slot, from, max| {
        let found = log.scan(ORDERS, Slot(slot), Offset(from), max).await.expect("what is there is readable");
        let offsets: Vec<u64> = found.matches.iter().map(|matched| matched.offset.0).collect();
        (offsets, found.next)
    };
    assert_eq!(scan(1, 0, 100).await, (vec![0, 2, 4], 6));
    assert_eq!(scan(2, 2, 100).await, (vec![2, 3, 5], 6));
    assert_eq!(scan(9, 0, 100).await, (vec![4], 6));
    assert_eq!(scan(7, 0, 100).await, (vec![], 6), "`next` advances also when nothing matched");
    assert_eq!(scan(1, 6, 100).await, (vec![], 6), "there is nothing at the end");
    let (offsets, next) = scan(1, 0, 2).await;
    assert_eq!(offsets, [0, 2], "no more than asked for");
    assert!((3..=4).contains(&next), "everything below {next} is covered, and offset 4 is not passed over");
    assert_eq!(scan(1, next, 2).await, (vec![4], 6));
    let none = log.scan(TopicNumber(5), Slot(1), Offset(0), 10).await.expect("an unknown topic is empty");
    assert_eq!((none.matches.len(), none.next), (0, 0));

    let found = log.scan(ORDERS, Slot(9), Offset(0), 1).await.expect("what is there is readable").matches[0];
    let fetched = log.fetch(ORDERS, vec![found.offset]).await.expect("what is there is readable");
    assert_eq!(found.size as usize, fetched[0].event.len(), "the size is that of the event's encoding");
    assert_eq!(found.time, fetched[0].time);
    close(log).await;
}

/// A fetch gives the bytes of each event asked for, in order, and leaves out what is not there.
pub(super) async fn a_fetch_gives_the_events_asked_for(open: OpenLog) {
    let log = open();
    append(&*log, ORDERS, &[("0", &[1]), ("1", &[2]), ("2", &[1])]).await;
    append(&*log, INVOICES, &[("x", &[1])]).await;
    append(&*log, ORDERS, &[("3", &[2])]).await;
    let fetch = async |topic, offsets: &[u64]| {
        let offsets = offsets.iter().copied().map(Offset).collect();
        let fetched = log.fetch(topic, offsets).await.expect("what is there is readable");
        let events = fetched.iter().map(|fetched| {
            let event = Event::decode(&fetched.event).expect("a stored event is an event");
            (fetched.offset.0, event.id.into_owned())
        });
        events.collect::<Vec<_>>()
    };
    let expected = |offsets: &[u64]| offsets.iter().map(|at| (*at, at.to_string())).collect::<Vec<_>>();
    assert_eq!(fetch(ORDERS, &[0, 1, 2, 3]).await, expected(&[0, 1, 2, 3]));
    assert_eq!(fetch(ORDERS, &[1, 3]).await, expected(&[1, 3]));
    assert_eq!(fetch(ORDERS, &[2, 4, 900]).await, expected(&[2]));
    assert_eq!(fetch(ORDERS, &[]).await, []);
    assert_eq!(fetch(INVOICES, &[0]).await, [(0, "x".to_owned())]);
    close(log).await;
}

/// What was appended is there after a restart, and numbers go on where they were.
pub(super) async fn events_outlive_a_restart(open: OpenLog) {
    let log = open();
    append(&*log, ORDERS, &[("0", &[1]), ("1", &[2])]).await;
    append(&*log, INVOICES, &[("0", &[1])]).await;
    let before = read_all(&*log).await;
    let newest = log.position().1;
    close(log).await;

    let log = open();
    assert_eq!(ids(&read_all(&*log).await), ids(&before));
    assert_eq!((log.start(ORDERS), log.end(ORDERS)), (Offset(0), Offset(2)));
    assert!(newest <= log.position().1, "the newest time is known again");
    let next = append(&*log, ORDERS, &[("2", &[2])]).await;
    assert_eq!(next.first, Offset(2));
    assert!(before.iter().all(|frame| frame.lsn < next.lsn && frame.time <= next.time));
    let found = log.scan(ORDERS, Slot(2), Offset(0), 10).await.expect("what is there is readable");
    assert_eq!(found.matches.iter().map(|matched| matched.offset.0).collect::<Vec<_>>(), [1, 2]);
    close(log).await;
}

/// What [`Log::recover`] showed: parts (subscription, at, state), groups (number, decisions), the last number.
type State = (Vec<(u32, u64, Vec<u8>)>, Vec<(u64, Vec<u8>)>, StateSeq);

fn recover(log: &dyn Log) -> State {
    let (mut parts, mut groups) = (Vec::new(), Vec::new());
    let mut times: Vec<Timestamp> = Vec::new();
    let last = log.recover(&mut |recovered| match recovered {
        Recovered::Part { subscription, at, state } => {
            assert!(groups.is_empty(), "the snapshot comes first");
            parts.push((subscription.0, at.0, state.to_vec()));
        }
        Recovered::Group { seq, time, decisions } => {
            groups.push((seq.0, decisions.to_vec()));
            times.push(time);
        }
    });
    assert!(times.is_sorted(), "time does not step back");
    assert!(groups.is_sorted_by(|a, b| a.0 < b.0), "groups come in order");
    (parts, groups, last.expect("what is there is readable"))
}

/// Recorded groups come back in their order, of whichever shard, and numbers go on where they were.
pub(super) async fn groups_are_recovered_in_order(open: OpenLog) {
    let log = open();
    let (parts, groups, last) = recover(&*log);
    assert!(parts.is_empty() && groups.is_empty(), "an empty log");
    let mut recorded = Vec::new();
    let mut last_by_shard = [last, last];
    for (shard, decisions) in
        [(0u16, b"a".to_vec()), (1, b"b".to_vec()), (0, vec![7; 70_000]), (0, b"d".to_vec())]
    {
        let previous = last_by_shard[usize::from(shard)];
        let seq =
            log.append_state(ShardId(shard), decisions.clone(), previous).await.expect("an open log records");
        assert!(last_by_shard.iter().all(|other| *other < seq), "numbers rise over all shards");
        last_by_shard[usize::from(shard)] = seq;
        recorded.push((seq.0, decisions));
    }
    log.flush_state().await.expect("an open log flushes");
    close(log).await;

    let log = open();
    let (parts, groups, last) = recover(&*log);
    assert!(parts.is_empty());
    assert_eq!(groups, recorded);
    assert!(recorded[3].0 <= last.0);
    let next =
        log.append_state(SHARD, b"e".to_vec(), last).await.expect("the last number is what is expected");
    assert!(last < next);
    close(log).await;
}

/// A snapshot takes the place of the groups that all its parts include, and of the snapshot before it.
pub(super) async fn a_snapshot_comes_before_the_groups_since(open: OpenLog) {
    let log = open();
    let (_, _, mut last) = recover(&*log);
    let mut recorded = Vec::new();
    for group in 0..6u8 {
        last = log.append_state(SHARD, vec![group; 20], last).await.expect("an open log records");
        recorded.push((last.0, vec![group; 20]));
        let part = |subscription, at, state: &[u8]| SnapshotPart {
            subscription: SubscriptionNumber(subscription),
            at: StateSeq(at),
            state: state.to_vec(),
        };
        let parts = match group {
            1 => vec![part(4, last.0, b"replaced later")],
            3 => vec![part(4, recorded[2].0, b"up to 2"), part(9, last.0, b"up to 3")],
            _ => continue,
        };
        log.snapshot(parts).await.expect("an open log takes a snapshot");
    }
    close(log).await;

    let log = open();
    let (parts, groups, last) = recover(&*log);
    let expected = [(4, recorded[2].0, b"up to 2".to_vec()), (9, recorded[3].0, b"up to 3".to_vec())];
    assert_eq!(parts, expected);
    // Groups that the parts include may be shown again; those since must be.
    let since: Vec<_> = groups.iter().filter(|(seq, _)| recorded[2].0 < *seq).cloned().collect();
    assert_eq!(since, recorded[3..]);
    assert!(groups.iter().all(|group| recorded.contains(group)));
    assert!(recorded[5].0 <= last.0);
    close(log).await;
}

/// Sealed segments go oldest first and whole; what is left is not changed; positions below are not served.
pub(super) async fn trimming_takes_whole_segments_from_the_front(open: OpenLog) {
    /// Enough to seal a segment of the smallest size that any backend has.
    const APPENDS_MAX: usize = 200;
    let log = open();
    append(&*log, INVOICES, &[("x", &[1])]).await;
    for id in 0..APPENDS_MAX {
        if log.segments().len() >= 2 {
            break;
        }
        let large = draft_of_size(ORDERS, &[(&id.to_string(), &[1])], 200_000);
        log.append_events(large).await.expect("an open log takes events");
    }
    let last = append(&*log, ORDERS, &[("last", &[1])]).await;
    let segments = log.segments();
    assert!(segments.len() >= 2, "40 MB fill two segments");
    assert!(segments.is_sorted_by(|a, b| a.number < b.number && a.end < b.end), "oldest first");
    let span = segments[0].topics.iter().find(|span| span.topic == ORDERS).expect("the segment has orders");
    assert_eq!(span.first, Offset(0));
    assert!(segments[0].topics.iter().any(|span| span.topic == INVOICES && span.last == Offset(0)));
    let kept_from = Offset(span.last.0 + 1);

    log.trim(Lsn(segments[0].end.0 - 1)).await.expect("an open log trims");
    assert_eq!(log.segments(), segments, "a segment with a frame at the position stays");
    log.trim(segments[0].end).await.expect("an open log trims");
    check_trimmed(&*log, &segments[1..], kept_from, last).await;
    close(log).await;

    let log = open();
    check_trimmed(&*log, &segments[1..], kept_from, last).await;
    assert_eq!(
        append(&*log, INVOICES, &[("y", &[1])]).await.first,
        Offset(1),
        "an offset is never given again"
    );
    close(log).await;
}

async fn check_trimmed(log: &dyn Log, segments: &[SegmentInfo], start: Offset, last: Appended) {
    let numbers = |segments: &[SegmentInfo]| segments.iter().map(|info| info.number).collect::<Vec<_>>();
    assert!(numbers(&log.segments()).starts_with(&numbers(segments)));
    assert_eq!((log.start(ORDERS), log.end(ORDERS)), (start, last.first.next()));
    assert_eq!((log.start(INVOICES), log.end(INVOICES)), (Offset(1), Offset(1)), "nothing retained");
    let frames = read_all(log).await;
    assert_eq!(frames[0].first, start, "a read from below starts at the oldest retained frame");
    assert_eq!(frames.last().map(|frame| frame.lsn), Some(last.lsn));
    let fetched = log.fetch(ORDERS, vec![Offset(0), start]).await.expect("what is there is readable");
    assert_eq!(fetched.iter().map(|event| event.offset).collect::<Vec<_>>(), [start]);
    let found = log.scan(ORDERS, Slot(1), Offset(0), 1).await.expect("what is there is readable");
    assert_eq!(found.matches[0].offset, start);
}

/// Many publishers at once: each answer names a place of its own, and that place holds that event.
pub(super) async fn concurrent_appends_are_all_there_once(open: OpenLog) {
    let log = open();
    let names: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    // All are under way before the first answer is awaited: a future may wait for its first poll.
    let mut appends = Vec::new();
    for id in &names {
        let mut append = log.append_events(draft(ORDERS, &[(id, &[1])]));
        appends.push(match poll_once(&mut append).await {
            Some(answer) => Box::pin(std::future::ready(answer)),
            None => append,
        });
    }
    let mut offsets = BTreeSet::new();
    let mut expected = Vec::new();
    for (append, id) in appends.into_iter().zip(&names) {
        let appended = append.await.expect("an open log takes events");
        assert!(offsets.insert(appended.first), "{} was given twice", appended.first);
        expected.push((ORDERS, appended.first.0, id.clone()));
    }
    expected.sort_by_key(|(_, offset, _)| *offset);
    assert_eq!(ids(&read_all(&*log).await), expected);
    close(log).await;
}

/// After `close` nothing is taken any more.
pub(super) async fn a_closed_log_refuses(open: OpenLog) {
    let log = open();
    let (_, _, last) = recover(&*log);
    append(&*log, ORDERS, &[("0", &[1])]).await;
    log.close(PATIENCE).await;
    assert_eq!(log.append_events(draft(ORDERS, &[("1", &[1])])).await, Err(AppendError::Failed));
    assert_eq!(log.append_state(SHARD, vec![1], last).await, Err(AppendError::Failed));
    drop(log);
    let log = open();
    assert_eq!(log.end(ORDERS), Offset(1));
    close(log).await;
}
