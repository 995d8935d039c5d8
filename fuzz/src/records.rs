//! The encodings inside frames and groups: decisions, match sets, events, a subscription's state. The first byte
//! chooses which.

use gridwire_core::event::Event;
use gridwire_core::filter::MatchSet;
use gridwire_core::frame::FrameView;
use gridwire_core::ids::{Lsn, Offset, SubscriptionNumber, TopicNumber};
use gridwire_core::shard::{Decision, Shard};
use gridwire_core::time::Timestamp;

/// Of a run that is written again.
const RUN_MAX: usize = 1 << 16;

pub fn records(data: &[u8]) {
    let Some((kind, mut input)) = data.split_first() else { return };
    match kind % 5 {
        0 => {
            let mut shard = Shard::new();
            while let Some(decision) = Decision::decode(&mut input) {
                // A few bytes may stand for a run of millions, up to a bound; reading it is enough.
                if run_of(&decision) > RUN_MAX {
                    continue;
                }
                let mut written = Vec::new();
                decision.encode(&mut written);
                let again = Decision::decode(&mut written.as_slice()).expect("what we wrote");
                check_same(again, &decision);
                shard.recover_decision(&decision);
            }
        }
        1 => {
            if let Some(set) = MatchSet::decode(&mut input) {
                let mut written = Vec::new();
                set.encode(&mut written);
                let again = MatchSet::decode(&mut written.as_slice()).expect("what we wrote");
                assert_eq!(again.iter().collect::<Vec<_>>(), set.iter().collect::<Vec<_>>());
            }
        }
        2 => {
            if let Some(event) = Event::decode(input) {
                let mut written = Vec::new();
                event.encode(&mut written);
                let again = Event::decode(&written).expect("what we wrote");
                assert_eq!(format!("{again:?}"), format!("{event:?}"));
            }
        }
        3 => {
            let view = FrameView {
                lsn: Lsn(1),
                topic: TopicNumber(1),
                first: Offset(0),
                count: u32::MAX,
                time: Timestamp::from_millis(1),
                body: input,
            };
            let mut matched = MatchSet::default();
            for event in view.events() {
                if let Some(bytes) = event.split_into(&mut matched) {
                    let _ = Event::decode(bytes);
                }
            }
        }
        _ => {
            let _ = Shard::new().recover_part(SubscriptionNumber(1), input);
        }
    }
}

fn run_of(decision: &Decision) -> usize {
    match decision {
        Decision::Settled { offsets, .. } | Decision::Renewed { offsets, .. } => offsets.len(),
        _ => 0,
    }
}

/// Runs are written in order, whatever order they came in.
fn check_same(mut again: Decision, decision: &Decision) {
    let mut decision = decision.clone();
    for decision in [&mut again, &mut decision] {
        if let Decision::Settled { offsets, .. } | Decision::Renewed { offsets, .. } = decision {
            offsets.sort_unstable();
        }
    }
    assert_eq!(again, decision);
}
