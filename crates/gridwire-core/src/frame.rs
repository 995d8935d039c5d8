//! One publish call to one topic, as it is stored: each event with the set of subscriptions it matched.
//!
//! The log numbers and checksums frames; this module owns the bytes between. A body holds, for each event:
//! its length (varint, of all that follows for this event), its match set, its [`Event`] encoding.
//!
//! A frame that puts a dead letter's event back carries that letter's key behind its event: a tag byte and the
//! key's bytes. Readers of events stop before it. A redrive that was cut off finds by it what it had done.

use crate::dead_letter::LetterKey;
use crate::event::Event;
use crate::filter::MatchSet;
use crate::ids::{Lsn, Offset, Slot, TopicNumber};
use crate::time::Timestamp;
use crate::varint;

/// The part of a body's length that may be left over as room in it.
const ROOM_KEPT: usize = 8;

/// A frame before the log has numbered it.
#[derive(Clone, Debug)]
pub struct FrameDraft {
    pub topic: TopicNumber,
    /// Events in `body`; never 0.
    pub count: u32,
    pub body: Vec<u8>,
}

impl FrameDraft {
    /// Leaves the first event in this frame and returns one with the rest: the bug that a frame is there to rule
    /// out.
    #[doc(hidden)]
    #[must_use]
    pub fn split_off_first(&mut self) -> Self {
        let mut rest = self.body.as_slice();
        let first = varint::take_bytes(&mut rest).map_or(0, <[u8]>::len);
        let body = rest.to_vec();
        debug_assert!(first > 0, "a draft has an event");
        self.body.truncate(self.body.len() - body.len());
        let count = std::mem::replace(&mut self.count, 1) - 1;
        Self { topic: self.topic, count, body }
    }
}

/// Collects the events of one publish call that matched somebody.
#[derive(Debug)]
pub struct FrameBuilder {
    topic: TopicNumber,
    count: u32,
    body: Vec<u8>,
    scratch: Vec<u8>,
}

/// An event of usual size is written without growing on the way.
const SCRATCH_BYTES: usize = 4 << 10;

impl FrameBuilder {
    /// `bytes` is how large the body will be, about; it saves growing.
    pub fn new(topic: TopicNumber, bytes: usize) -> Self {
        let scratch = Vec::with_capacity(bytes.min(SCRATCH_BYTES));
        Self { topic, count: 0, body: Vec::with_capacity(bytes), scratch }
    }

    pub fn push(&mut self, matched: &MatchSet, event: &Event<'_>) {
        self.scratch.clear();
        matched.encode(&mut self.scratch);
        event.encode(&mut self.scratch);
        varint::put_bytes(&mut self.body, &self.scratch);
        self.count += 1;
    }

    /// `None` when no event was pushed: there is nothing to store.
    pub fn finish(self) -> Option<FrameDraft> {
        let Self { topic, count, mut body, .. } = self;
        // The log keeps the newest frames in memory and counts their lengths. An allocator that shrinks may
        // well leave a block where it is, so what is much too large is copied.
        if body.capacity() > body.len() + body.len() / ROOM_KEPT {
            body = body.as_slice().to_vec();
        }
        (count > 0).then_some(FrameDraft { topic, count, body })
    }
}

/// Marks the key of a redriven letter behind a frame's events.
const REDRIVEN: u8 = 1;

impl FrameDraft {
    /// The event of a dead letter, for the one subscription whose letter it is, whatever its filter says now.
    pub fn redriven(topic: TopicNumber, own: Slot, event: &Event<'_>, letter: LetterKey) -> Self {
        let mut matched = MatchSet::default();
        matched.push(own);
        let mut frame = FrameBuilder::new(topic, 512);
        frame.push(&matched, event);
        let mut body = frame.body;
        body.push(REDRIVEN);
        body.extend_from_slice(&letter.to_bytes());
        Self { topic, count: 1, body }
    }
}

/// A frame as the log gives it back.
#[derive(Clone, Copy, Debug)]
pub struct FrameView<'a> {
    pub lsn: Lsn,
    pub topic: TopicNumber,
    /// Offset of the first event; the rest follow on.
    pub first: Offset,
    pub count: u32,
    /// Publish time.
    pub time: Timestamp,
    pub body: &'a [u8],
}

/// One event of a stored frame.
#[derive(Clone, Copy, Debug)]
pub struct StoredEvent<'a> {
    pub offset: Offset,
    /// The match set's encoding, for [`MatchSet::decode`].
    matched_and_event: &'a [u8],
}

impl<'a> FrameView<'a> {
    /// The events in order. Stops early on a malformed body, which the frame's checksum rules out.
    pub fn events(&self) -> impl Iterator<Item = StoredEvent<'a>> + use<'a> {
        let mut rest = self.body;
        let first = self.first.0;
        (0..u64::from(self.count)).map_while(move |index| {
            let bytes = varint::take_bytes(&mut rest)?;
            Some(StoredEvent { offset: Offset(first + index), matched_and_event: bytes })
        })
    }
}

impl FrameView<'_> {
    /// The dead letter whose event this is, if it was put back by a redrive.
    pub fn redriven(&self) -> Option<LetterKey> {
        let mut rest = self.body;
        for _ in 0..self.count {
            varint::take_bytes(&mut rest)?;
        }
        let (&tag, key) = rest.split_first()?;
        if tag == REDRIVEN { LetterKey::from_bytes(key) } else { None }
    }
}

impl<'a> StoredEvent<'a> {
    /// The subscriptions the event matched.
    pub fn matched(&self) -> Option<MatchSet> {
        let mut input = self.matched_and_event;
        MatchSet::decode(&mut input)
    }

    /// Both at once, without allocating: the match set into `matched`, the event's encoding returned.
    pub fn split_into(&self, matched: &mut MatchSet) -> Option<&'a [u8]> {
        let mut input = self.matched_and_event;
        MatchSet::decode_into(&mut input, matched)?;
        Some(input)
    }

    /// The event's encoding, for [`Event::decode`]; its length is what a delivery weighs.
    pub fn event_bytes(&self) -> Option<&'a [u8]> {
        let mut input = self.matched_and_event;
        MatchSet::skip(&mut input)?;
        Some(input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Data, InputSchema};
    use crate::ids::{Slot, SubscriptionNumber};

    #[test]
    fn a_draft_keeps_little_room_beyond_its_length() {
        let event = Event {
            schema: InputSchema::CloudEvent,
            id: "1".into(),
            event_type: "order.created".into(),
            source: "/shop".into(),
            subject: None,
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: Vec::new(),
            data: Data::Json("{}".into()),
        };
        let mut matched = MatchSet::default();
        matched.push(Slot(1));
        let mut builder = FrameBuilder::new(TopicNumber(1), 10_000);
        for _ in 0..100 {
            builder.push(&matched, &event);
        }
        let body = builder.finish().unwrap().body;
        assert!(body.capacity() <= body.len() + body.len() / ROOM_KEPT, "{} {}", body.len(), body.capacity());
        assert!(FrameBuilder::new(TopicNumber(1), 10_000).finish().is_none());
    }

    #[test]
    fn a_redriven_event_names_its_letter_and_matches_one_subscription() {
        fn view(body: &[u8]) -> FrameView<'_> {
            let (topic, first) = (TopicNumber(3), Offset(10));
            FrameView { lsn: Lsn(1), topic, first, count: 1, time: Timestamp::ZERO, body }
        }

        let event = Event::decode(b"\x01\x011\x01t\x01s\x00").expect("an event");
        let letter = LetterKey::of(
            crate::dead_letter::StoreTag::default(),
            SubscriptionNumber(7),
            Offset(9),
            Timestamp::from_millis(1_795_465_178_054),
        );
        let draft = FrameDraft::redriven(TopicNumber(3), Slot(5), &event, letter);
        let frame = view(&draft.body);
        assert_eq!(frame.redriven(), Some(letter));
        let stored: Vec<_> = frame.events().collect();
        assert_eq!(stored.len(), 1);
        let matched = stored[0].matched().expect("a match set");
        assert_eq!(matched.iter().collect::<Vec<_>>(), [Slot(5)]);
        assert_eq!(stored[0].event_bytes().and_then(Event::decode), Some(event.clone()));
        // A published event is nobody's letter.
        let mut plain = FrameBuilder::new(TopicNumber(3), 64);
        plain.push(&matched, &event);
        assert_eq!(view(&plain.finish().expect("one event").body).redriven(), None);
        assert_eq!(view(&draft.body[..draft.body.len() - 1]).redriven(), None);
    }
}
