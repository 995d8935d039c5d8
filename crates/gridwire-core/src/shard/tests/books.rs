//! The conservation law, and who is told when it is broken.

use super::*;
use crate::audit::{Audit, Finding, Report};

impl Driver {
    fn audit(&self) -> Report {
        self.audit_since(0)
    }

    /// With a log that begins at `start`.
    fn audit_since(&self, start: u64) -> Report {
        let mut audit = Audit::new(self.shard.books(ONE).expect("the subscription is there"));
        while let Some(next) = audit.next() {
            let (matches, lost, next) = self.scan(Offset(next.max(start)), 7);
            audit.found(matches.iter().map(|position| position.offset.0), &lost, next);
        }
        audit.finish(start)
    }

    /// Everything that was published is in one place, and the audit finds nothing.
    pub(super) fn check_books(&self, when: &str) {
        let status = self.shard.status()[0];
        let totals = status.totals;
        let ended = totals.delivered + totals.dead_lettered + totals.expired + totals.dropped;
        assert_eq!(status.matched, Some(self.end()), "{when}");
        assert_eq!(ended + status.pending, self.end(), "{when}");
        assert_eq!(self.audit().findings, [], "{when}");
    }

    fn receive_all(&mut self) -> Vec<LockToken> {
        let mut all = Vec::new();
        loop {
            let tokens = self.receive(1_000);
            if tokens.is_empty() {
                return all;
            }
            all.extend(tokens);
        }
    }

    /// As if events had been settled that were not.
    fn forget(&mut self, offsets: &[u64]) {
        let books = self.shard.books(ONE).expect("the subscription is there");
        let before = (books.ledger, books.totals);
        let tokens: Vec<LockToken> = self.receive_all();
        self.settle(SettleVerb::Acknowledge, &tokens);
        let mut state = self.shard.queues[&ONE].state.clone();
        (state.ledger, state.totals) = before;
        let settled: Vec<u64> =
            tokens.iter().map(|token| token.offset.0).filter(|offset| !offsets.contains(offset)).collect();
        for offset in &settled {
            state.ledger.settle(*offset, *offset);
        }
        state.totals.delivered += settled.len() as u64;
        self.shard.queues.get_mut(&ONE).expect("the subscription is there").state = state;
    }
}

#[test]
fn what_matched_is_what_ended_and_what_is_pending_also_after_restarts() {
    let mut driver = Driver::new(QueuePolicy { dead_letter: Some(TWO_DAYS), ..pull() });
    driver.publish(3);
    driver.check_books("all wait");
    let tokens = driver.receive(2);
    driver.settle(SettleVerb::Acknowledge, &tokens[1..]);
    driver.settle(SettleVerb::Reject, &tokens[..1]);
    driver.check_books("one is settled, one waits for its letter");
    driver.restart();
    driver.check_books("after a restart");
    driver.publish(2 * limits::READY_MAX);
    driver.check_books("the backlog is a cursor");
    driver.restart_from_snapshot();
    driver.check_books("after a restart from a snapshot");
    driver.input(Input::DeadLetterWritten { subscription: ONE, offset: Offset(0) });
    let tokens = driver.receive_all();
    driver.settle(SettleVerb::Acknowledge, &tokens);
    driver.check_books("all are settled");
    let status = driver.shard.status()[0];
    let delivered = 2 + 2 * limits::READY_MAX as u64;
    assert_eq!((status.totals.delivered, status.totals.dead_lettered), (delivered, 1));
}

#[test]
fn damaged_events_count_as_matched_once_they_are_dropped() {
    let mut driver = Driver::new(pull());
    driver.publish(4);
    let held = driver.receive(1);
    driver.lost = vec![0..1, 2..3];
    driver.restart();
    // 2 is found damaged, 0 is held: it was a match.
    let status = driver.shard.status()[0];
    assert_eq!((status.matched, status.pending, status.totals.dropped), (Some(4), 3, 1));
    driver.settle(SettleVerb::Acknowledge, &held);
    let rest = driver.receive_all();
    driver.settle(SettleVerb::Acknowledge, &rest);
    let status = driver.shard.status()[0];
    assert_eq!((status.matched, status.pending, status.totals.delivered), (Some(4), 0, 3));
    let report = driver.audit();
    assert_eq!((report.findings, report.damaged), (Vec::new(), 2));
}

#[test]
fn nothing_is_counted_anew_for_a_held_event_whose_bytes_are_gone() {
    let mut driver = Driver::new(QueuePolicy { dead_letter: Some(TWO_DAYS), ..pull() });
    driver.publish(3 * limits::READY_MAX);
    let held = driver.receive(3);
    driver.settle(SettleVerb::Reject, &held[2..]);
    driver.counts.clear();
    driver.input(Input::Unreadable { subscription: ONE, offset: Offset(1), id: Some(held[1].nonce) });
    driver.input(Input::Unreadable { subscription: ONE, offset: Offset(2), id: None });
    let status = driver.shard.status()[0];
    assert_eq!((status.matched, status.totals.dropped), (Some(driver.end()), 2));
    assert!(driver.counts.is_empty(), "they matched, and were counted: {:?}", driver.counts);
    driver.lost.push(1..3);
    driver.check_books("after");
}

#[test]
fn a_new_count_begins_where_the_queue_has_not_looked_yet() {
    let mut driver = Driver::new(pull());
    driver.publish(500);
    let held = driver.receive(1);
    let tokens = driver.receive_all();
    driver.settle(SettleVerb::Acknowledge, &tokens);
    // Frames that were not shown, damaged at their beginning, and a longer backlog than the queue looks at.
    driver.lost.push(500..510);
    for _ in 0..2 * limits::READY_MAX {
        driver.log.push((driver.end(), driver.now));
    }
    driver.publish(1);
    let (status, books) = (driver.shard.status()[0], driver.shard.books(ONE).expect("it is there"));
    assert_eq!((status.floor, status.totals.dropped), (held[0].offset, 10));
    assert!(600 < books.cursor && books.cursor < driver.end(), "{}", books.cursor);
    assert_eq!(driver.counts.first(), Some(&books.cursor), "not at the floor");
    driver.check_books("damage in what was not shown");
    // At the tail nothing is left to be looked at.
    let tokens = driver.receive_all();
    driver.settle(SettleVerb::Acknowledge, &tokens);
    driver.counts.clear();
    driver.lost.push(driver.end()..driver.end() + 2);
    for _ in 0..4 {
        driver.log.push((driver.end(), driver.now));
    }
    driver.publish(1);
    assert_eq!((driver.totals().dropped, &driver.counts[..]), (12, &[][..]));
    driver.check_books("damage just before the tail");
}

#[test]
fn an_event_that_no_book_has_is_named_above_the_floor() {
    let mut driver = Driver::new(pull());
    driver.publish(10);
    driver.receive(3);
    let tokens = driver.receive(4);
    driver.settle(SettleVerb::Acknowledge, &tokens);
    driver.check_books("some are settled");
    let queue = driver.shard.queues.get_mut(&ONE).expect("the subscription is there");
    queue.state.leases.remove(&1);
    assert_eq!(driver.audit().findings, [Finding::Lost { offset: 1 }]);
}

#[test]
fn an_event_that_slipped_through_below_the_floor_is_named_by_the_difference() {
    let mut driver = Driver::new(pull());
    driver.publish(3_000);
    driver.forget(&[1_234]);
    assert_eq!(driver.audit().findings, [Finding::Lost { offset: 1_234 }]);
    // Nor is it forgotten by a restart, or when the log has let go what is before it.
    driver.restart_from_snapshot();
    assert_eq!(driver.audit().findings, [Finding::Lost { offset: 1_234 }]);
    assert_eq!(driver.audit_since(1_000).findings, [Finding::Lost { offset: 1_234 }]);
    let report = driver.audit_since(1_235);
    assert_eq!((report.is_balanced(), report.compared), (true, 1_280..3_000), "nobody can tell any more");
}

#[test]
fn what_the_log_lets_go_while_an_audit_reads_is_not_out_of_balance() {
    let mut driver = Driver::new(pull());
    driver.publish(100);
    // As of the books all are pending; by the time the log is read they were settled and let go up to here.
    let report = driver.audit_since(50);
    assert_eq!((report.findings, report.compared), (vec![], 50..100));
}

#[test]
fn of_several_in_one_block_the_block_is_named_and_few_candidates() {
    let mut driver = Driver::new(pull());
    driver.publish(10);
    driver.forget(&[2, 5]);
    let found = Finding::LostAmong { offsets: 0..64, count: 2, among: (0..10).collect() };
    assert_eq!(driver.audit().findings, [found]);
    assert_eq!(driver.audit().lost, 2);
}

#[test]
fn no_event_is_named_as_lost_that_did_not_match() {
    let mut driver = Driver::new(pull());
    driver.publish(40);
    driver.forget(&[]);
    // Every second event matched; 8 and 10 were never settled, and another one was, who knows why.
    let audit = |other: u64| {
        let mut books = driver.shard.books(ONE).expect("the subscription is there");
        (books.ledger, books.matched, books.totals.delivered) = (Ledger::starting_at(0), None, 19);
        for offset in (0..40).step_by(2).filter(|offset| ![8, 10].contains(offset)).chain([other]) {
            books.ledger.settle(offset, offset);
        }
        let mut audit = Audit::new(books);
        audit.found((0..40).step_by(2), &[], 40);
        audit.finish(0).findings
    };
    let among = (0..40).step_by(2).collect();
    assert_eq!(audit(1), [Finding::LostAmong { offsets: 0..64, count: 1, among }], "17 did not match");
    // A limit of so few numbers, and documented as one.
    assert_eq!(audit(4), [Finding::Lost { offset: 14 }], "it looks like this one");
}

#[test]
fn of_a_queue_that_matches_little_all_candidates_of_a_block_are_named() {
    let mut driver = Driver::new(pull());
    driver.publish(1);
    let mut books = driver.shard.books(ONE).expect("the subscription is there");
    let matches: Vec<u64> = (0..200).map(|number| number * 1_009).collect();
    (books.matched, books.ledger) = (None, Ledger::starting_at(0));
    (books.cursor, books.end, books.floor) = (201_800, 201_800, 201_800);
    books.held = roaring::RoaringTreemap::new();
    for offset in matches.iter().filter(|offset| ![100 * 1_009, 101 * 1_009].contains(*offset)) {
        books.ledger.settle(*offset, *offset);
    }
    books.totals.delivered = 198;
    let mut audit = Audit::new(books);
    audit.found(matches.iter().copied(), &[], 201_800);
    let findings = audit.finish(0).findings;
    let [Finding::LostAmong { count: 2, among, .. }] = &findings[..] else { panic!("{findings:?}") };
    assert!(among.contains(&(100 * 1_009)) && among.contains(&(101 * 1_009)), "{among:?}");
}

#[test]
fn what_is_settled_twice_or_did_not_match_is_named_too() {
    let mut driver = Driver::new(pull());
    driver.publish(100);
    driver.forget(&[]);
    assert!(driver.audit().is_balanced());
    let state = &mut driver.shard.queues.get_mut(&ONE).expect("the subscription is there").state;
    state.ledger.settle(70, 70);
    state.totals.delivered += 1;
    assert_eq!(driver.audit().findings, [Finding::Unexpected { offset: 70 }]);
    let state = &mut driver.shard.queues.get_mut(&ONE).expect("the subscription is there").state;
    state.totals.delivered += 1;
    let findings = driver.audit().findings;
    assert_eq!(findings[1..], [Finding::Totals { ended: 102, settled: 101 }]);
}

#[test]
fn a_wrong_count_of_what_is_pending_is_told() {
    let mut driver = Driver::new(pull());
    driver.publish(3 * limits::READY_MAX);
    let tokens = driver.receive(10);
    driver.settle(SettleVerb::Acknowledge, &tokens);
    let (report, all) = (driver.audit(), 3 * limits::READY_MAX as u64);
    assert_eq!((report.is_balanced(), report.matched), (true, all), "also what lies behind the cursor");
    driver.shard.queues.get_mut(&ONE).expect("the subscription is there").census.show();
    let wrong = Finding::Pending { counted: all - 9, found: all - 10 };
    assert_eq!(driver.audit().findings, [wrong]);
}

#[test]
fn damage_loosens_a_block_and_no_more_than_that() {
    let mut driver = Driver::new(pull());
    driver.publish(100);
    driver.forget(&[3]);
    driver.lost.push(10..12);
    // 98 matches are there, and two events that may have matched: 99 settled fit, and so would 98 to 100.
    let report = driver.audit();
    assert_eq!((report.is_balanced(), report.damaged), (true, 2));
    driver.lost[0] = 70..72;
    assert_eq!(driver.audit().findings, [Finding::Lost { offset: 3 }], "another block");
}

#[test]
fn ledgers_let_go_what_the_log_has_let_go() {
    let mut driver = Driver::new(pull());
    driver.publish(1_000);
    driver.forget(&[]);
    driver.shard.release(|_| Offset(640));
    let books = driver.shard.books(ONE).expect("the subscription is there");
    assert_eq!((books.ledger.from(), books.ledger.settled()), (640, 1_000));
    assert!(driver.audit_since(640).is_balanced());
    driver.restart_from_snapshot();
    assert!(driver.audit_since(640).is_balanced());
}
