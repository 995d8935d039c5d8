//! Each thing the checker reports, on a history written by hand; and what it must not report.

use gridwire_core::event::{Data, InputSchema};

use super::*;

const LOCK: Duration = Duration::from_secs(10);

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + millis)
}

fn event(id: &str, event_type: &'static str) -> Event<'static> {
    Event {
        schema: InputSchema::CloudEvent,
        id: id.to_owned().into(),
        event_type: event_type.into(),
        source: "/s".into(),
        subject: None,
        time: Some("2026-11-23T20:00:00Z".into()),
        data_content_type: None,
        data_schema: None,
        extensions: Vec::new(),
        data: Data::Json("{\"n\": 1}".into()),
    }
}

/// How the event of that name arrives.
fn arrives(id: &str) -> Vec<u8> {
    format!(
        "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"/s\",\"type\":\"t\",\
         \"time\":\"2026-11-23T20:00:00Z\",\"data\":{{\"n\": 1}}}}"
    )
    .into_bytes()
}

fn push(batching: Option<Batching>) -> Mode {
    Mode::Push { schema: DeliverySchema::CloudEvent, batching }
}

/// A namespace topic with a pull subscription and a push one, both for events of type `t`, and one published
/// batch: `a` and `b`, accepted.
fn checker() -> Checker {
    let mut checker = with_batch(Outcome::Accepted);
    checker.settlements_are_flushed = false;
    checker
}

fn with_batch(outcome: Outcome) -> Checker {
    let mut checker = Checker::default();
    checker.topic(Topic { name: "topic".into(), kind: TopicKind::Namespace, resource_id: "/id".into() });
    for (name, mode) in [("pull", Mode::Pull { lock: LOCK }), ("push", push(None))] {
        checker.subscription(Subscription {
            name: name.into(),
            topic: "topic".into(),
            mode,
            filter: FilterSpec { event_types: Some(vec!["t".into()]), ..FilterSpec::default() },
            attempts_max: 10,
            time_to_live: Duration::from_secs(3600),
            dead_letter: false,
            forwarded: false,
        });
    }
    let call = checker.publishing("topic", vec![event("a", "t"), event("b", "t")], at(0));
    checker.published(call, outcome, at(5));
    checker
}

fn receive(checker: &mut Checker, id: &str, token: &str, count: u32, asked: u64, answered: u64) {
    let received = Received { token: token.into(), delivery_count: count, event: arrives(id) };
    checker.received("pull", vec![received], at(asked), at(answered));
}

fn settle(checker: &mut Checker, verb: Verb, token: &str, error: Option<&str>, asked: u64, answered: u64) {
    let tokens = [token.to_owned()];
    checker.settling(verb, &tokens);
    let result = TokenResult { token: token.into(), error: error.map(str::to_owned) };
    checker.settled(verb, &tokens, Some(&[result]), at(asked), at(answered));
}

fn post(checker: &mut Checker, id: &str, answer: Answer, when: u64) {
    let delivery = checker.delivered("push", &arrives(id), at(when));
    checker.answered(delivery, answer, at(when));
}

/// Everything that is left comes as it should.
fn the_rest_comes(checker: &mut Checker) {
    for (id, subscription) in checker.outstanding(at(60_000)) {
        if subscription == "push" {
            post(checker, &id, Answer::Accepted, 60_000);
        } else {
            let token = format!("rest-{id}");
            receive(checker, &id, &token, 9, 60_000, 60_001);
            settle(checker, Verb::Acknowledge, &token, None, 60_002, 60_003);
        }
    }
}

/// That a history is reported as `kinds`, each once or more, in order of the first.
#[track_caller]
fn check(mut checker: Checker, kinds: &[&str]) {
    checker.finish(at(70_000));
    let mut found: Vec<&str> = checker.violations().iter().map(|violation| violation.kind).collect();
    found.dedup();
    assert_eq!(found, kinds, "{:?}", checker.violations());
}

/// A history after which the rest comes as it should.
#[track_caller]
fn check_history(history: impl FnOnce(&mut Checker), kinds: &[&str]) {
    let mut checker = checker();
    history(&mut checker);
    the_rest_comes(&mut checker);
    check(checker, kinds);
}

#[test]
fn a_sound_history_is_fine() {
    check_history(|_| {}, &[]);
}

#[test]
fn what_does_not_come_is_lost() {
    check(checker(), &["lost"]);
    check(with_batch(Outcome::Unknown), &[]);
    check(with_batch(Outcome::Refused), &[]);
}

#[test]
fn a_part_of_an_unanswered_batch_is_a_torn_batch() {
    let mut checker = with_batch(Outcome::Unknown);
    post(&mut checker, "a", Answer::Accepted, 10);
    check(checker, &["torn_batch"]);
}

#[test]
fn what_nobody_published_is_unexpected() {
    let unknown = |checker: &mut Checker| {
        checker.delivered("push", &arrives("c"), at(10));
    };
    check_history(unknown, &["unexpected"]);
    let mut refused = with_batch(Outcome::Refused);
    refused.delivered("push", &arrives("a"), at(10));
    check(refused, &["unexpected"]);
}

#[test]
fn changed_bytes_are_altered() {
    for (from, to) in
        [("{\"n\": 1}", "{\"n\":1}"), ("/s", "/t"), ("\"time\":", "\"tame\":"), ("}}", "},\"x\":1}")]
    {
        let body = String::from_utf8(arrives("a")).unwrap().replace(from, to);
        let changed = |checker: &mut Checker| {
            checker.delivered("push", body.as_bytes(), at(10));
        };
        check_history(changed, &["altered"]);
    }
}

#[test]
fn what_the_filter_keeps_out_is_misrouted() {
    let mut checker = checker();
    let call = checker.publishing("topic", vec![event("c", "other")], at(10));
    checker.published(call, Outcome::Accepted, at(11));
    let body = String::from_utf8(arrives("c")).unwrap().replace("\"t\"", "\"other\"");
    checker.delivered("push", body.as_bytes(), at(12));
    the_rest_comes(&mut checker);
    check(checker, &["misrouted"]);
}

#[test]
fn a_webhook_that_accepted_gets_it_again_only_after_a_crash() {
    let twice = |checker: &mut Checker, crash: Option<u64>| {
        post(checker, "a", Answer::Accepted, 100);
        if let Some(when) = crash {
            checker.killed(at(when));
        }
        post(checker, "a", Answer::Accepted, 9_000);
    };
    check_history(|checker| twice(checker, None), &["duplicated"]);
    check_history(|checker| twice(checker, Some(150)), &[]);
    check_history(|checker| twice(checker, Some(5_000)), &["duplicated"]);
    check_history(|checker| twice(checker, Some(50)), &["duplicated"]);
    check_history(
        |checker| {
            post(checker, "a", Answer::Unclear { accepted: true }, 100);
            post(checker, "a", Answer::Accepted, 9_000);
        },
        &[],
    );
}

#[test]
fn a_failed_delivery_is_not_repeated_too_soon() {
    let failed = Answer::Status { status: 500, retry_after: Duration::ZERO };
    let again = |when| {
        move |checker: &mut Checker| {
            post(checker, "a", failed, 0);
            post(checker, "a", Answer::Accepted, when);
        }
    };
    check_history(again(9_000), &["early"]);
    check_history(again(10_000), &[]);
}

/// A history of a subscription that takes up to three events in 400 bytes.
#[track_caller]
fn check_batches(history: impl FnOnce(&mut Checker), kinds: &[&str]) {
    let mut checker = checker();
    let batching = Batching { events_max: 3, bytes_max: 400 };
    checker.subscriptions.get_mut("push").expect("it is there").mode = push(Some(batching));
    let call = checker.publishing("topic", ["c", "d"].map(|id| event(id, "t")).to_vec(), at(6));
    checker.published(call, Outcome::Accepted, at(7));
    history(&mut checker);
    for (id, subscription) in checker.outstanding(at(60_000)) {
        if subscription == "push" {
            post_batch(&mut checker, &[&id], Answer::Accepted, 60_000);
        }
    }
    checker.items.retain(|(_, owner), _| owner == "push");
    check(checker, kinds);
}

fn post_batch(checker: &mut Checker, ids: &[&str], answer: Answer, when: u64) {
    let events: Vec<String> =
        ids.iter().map(|id| String::from_utf8(arrives(id)).expect("it is text")).collect();
    let delivery = checker.delivered("push", format!("[{}]", events.join(",")).as_bytes(), at(when));
    checker.answered(delivery, answer, at(when));
}

#[test]
fn the_events_of_a_request_share_its_answer() {
    let failed = Answer::Status { status: 500, retry_after: Duration::ZERO };
    let twice = |answer, again: &'static [&'static str], when| {
        move |checker: &mut Checker| {
            post_batch(checker, &["a", "b", "c"], answer, 100);
            post_batch(checker, again, Answer::Accepted, when);
        }
    };
    check_batches(twice(Answer::Accepted, &["d"], 200), &[]);
    check_batches(twice(Answer::Accepted, &["d", "c"], 20_000), &["duplicated"]);
    check_batches(twice(failed, &["b"], 20_000), &[]);
    check_batches(twice(failed, &["d", "b"], 9_000), &["early"]);
    // What failed is not done: each of them is outstanding, whoever of them came again.
    let mut checker = checker();
    checker.subscriptions.get_mut("push").expect("it is there").mode =
        push(Some(Batching { events_max: 3, bytes_max: 4_000 }));
    checker.items.retain(|(_, owner), _| owner == "push");
    post_batch(&mut checker, &["a", "b"], failed, 100);
    assert_eq!(checker.outstanding(at(200)).len(), 2);
    post_batch(&mut checker, &["a"], Answer::Accepted, 20_000);
    check(checker, &["lost"]);
}

#[test]
fn a_request_keeps_to_its_subscription_s_limits() {
    let post = |ids: &'static [&'static str]| {
        |checker: &mut Checker| post_batch(checker, ids, Answer::Accepted, 100)
    };
    check_batches(post(&["a", "b", "c"]), &[]);
    check_batches(post(&["a", "b", "c", "d"]), &["overfull"]);
    check_batches(post(&["a", "a"]), &["duplicated"]);
    check_batches(post(&[]), &["altered"]);
    // 300 blanks make it too large for two, not for one.
    let blanks = " ".repeat(300);
    let large = |ids: &'static [&'static str]| {
        let events: Vec<Vec<u8>> = ids.iter().map(|id| arrives(id)).collect();
        let body = [b"[", blanks.as_bytes(), &events.join(&b','), b"]"].concat();
        move |checker: &mut Checker| {
            checker.delivered("push", &body, at(100));
        }
    };
    check_batches(large(&["a"]), &[]);
    check_batches(large(&["a", "b"]), &["overfull"]);
    // A lone object where arrays are asked for, and an array where they are not.
    check_batches(
        |checker| {
            checker.delivered("push", &arrives("a"), at(100));
        },
        &["altered"],
    );
    check_history(|checker| post_batch(checker, &["a"], Answer::Accepted, 100), &["altered"]);
}

#[test]
fn a_lock_has_one_holder() {
    let two = |asked, cut: Option<u64>| {
        move |checker: &mut Checker| {
            receive(checker, "a", "first", 1, 10, 20);
            if let Some(cut) = cut {
                checker.power_cut(at(cut));
            }
            receive(checker, "a", "second", 2, asked, asked + 10);
        }
    };
    check_history(two(5_000, None), &["double_lease"]);
    check_history(two(10_100, None), &[]);
    check_history(two(5_000, Some(100)), &[]);
    check_history(two(5_000, Some(4_000)), &["double_lease"]);
    // A kill takes nothing back.
    check_history(
        |checker| {
            receive(checker, "a", "first", 1, 10, 20);
            checker.killed(at(30));
            receive(checker, "a", "second", 2, 5_000, 5_001);
        },
        &["double_lease"],
    );
}

#[test]
fn a_renewal_lengthens_a_lock() {
    let renewed = |again, cut: Option<u64>| {
        move |checker: &mut Checker| {
            receive(checker, "a", "first", 1, 10, 20);
            settle(checker, Verb::Renew, "first", None, 8_000, 8_010);
            if let Some(cut) = cut {
                checker.power_cut(at(cut));
            }
            receive(checker, "a", "second", 2, again, again + 10);
        }
    };
    check_history(renewed(15_000, None), &["double_lease"]);
    check_history(renewed(15_000, Some(8_050)), &[]);
    check_history(renewed(18_100, None), &[]);
}

#[test]
fn a_cut_takes_back_what_was_answered_after_the_last_flush_began_and_no_more() {
    let again = |cut, flushed| {
        move |checker: &mut Checker| {
            receive(checker, "a", "first", 1, 10, 20);
            settle(checker, Verb::Acknowledge, "first", None, 30, 40);
            checker.power_cut_after_flush(at(cut), at(flushed));
            receive(checker, "a", "second", 2, 12_000, 12_001);
        }
    };
    check_history(again(60, 40), &[]);
    check_history(again(60, 41), &["zombie"]);
    check_history(again(5_000, 40), &[]);
    check_history(again(5_000, 4_900), &["zombie"]);
}

#[test]
fn what_was_acknowledged_stays_away() {
    let again = |cut: Option<u64>, flushed| {
        move |checker: &mut Checker| {
            checker.settlements_are_flushed = flushed;
            receive(checker, "a", "first", 1, 10, 20);
            settle(checker, Verb::Acknowledge, "first", None, 30, 40);
            if let Some(cut) = cut {
                checker.power_cut(at(cut));
            }
            receive(checker, "a", "second", 2, 12_000, 12_001);
        }
    };
    check_history(again(None, false), &["zombie"]);
    check_history(again(Some(100), false), &[]);
    check_history(again(Some(100), true), &["zombie"]);
    check_history(again(Some(5_000), false), &["zombie"]);
}

#[test]
fn a_stale_token_is_refused_and_a_live_one_is_not() {
    let late = |error| {
        move |checker: &mut Checker| {
            receive(checker, "a", "first", 1, 10, 20);
            settle(checker, Verb::Acknowledge, "first", error, 11_000, 11_010);
        }
    };
    check_history(late(None), &["zombie"]);
    check_history(late(Some("TokenLost")), &[]);
    check_history(late(Some("BadToken")), &["zombie"]);
    let live = |checker: &mut Checker| {
        receive(checker, "a", "first", 1, 10, 20);
        settle(checker, Verb::Acknowledge, "first", Some("TokenLost"), 30, 40);
    };
    check_history(live, &["lost_lock"]);
    let of_another = |checker: &mut Checker| {
        receive(checker, "a", "first", 1, 10, 20);
        settle(checker, Verb::Release { delay: Duration::ZERO }, "first", None, 30, 40);
        receive(checker, "a", "second", 2, 50, 60);
        settle(checker, Verb::Acknowledge, "first", None, 70, 80);
    };
    check_history(of_another, &["zombie"]);
}

#[test]
fn delivery_counts_go_up() {
    let again = |count| {
        move |checker: &mut Checker| {
            receive(checker, "a", "first", 1, 10, 20);
            receive(checker, "a", "second", count, 10_100, 10_110);
        }
    };
    check_history(again(1), &["miscounted"]);
    check_history(again(2), &[]);
    check_history(again(3), &[]);
}

#[test]
fn a_release_with_a_delay_keeps_it_away_for_so_long() {
    let again = |when| {
        move |checker: &mut Checker| {
            receive(checker, "a", "first", 1, 10, 20);
            settle(checker, Verb::Release { delay: Duration::from_secs(10) }, "first", None, 30, 40);
            receive(checker, "a", "second", 2, when, when + 10);
        }
    };
    check_history(again(5_000), &["early"]);
    check_history(again(10_030), &[]);
}

#[test]
fn every_event_counts_once() {
    check_history(|checker| checker.counted("pull", 2, at(60_000)), &[]);
    for wrong in [1, 3] {
        check_history(|checker| checker.counted("pull", wrong, at(60_000)), &["miscounted"]);
    }
}

#[test]
fn a_dead_letter_needs_a_reason() {
    let mut letter = b"[".to_vec();
    letter.extend(arrives("a"));
    letter.push(b']');
    check_history(|checker| checker.dead_letter("push", &letter, at(10)), &["given_up"]);
    check_history(
        |checker| {
            post(checker, "a", Answer::Status { status: 400, retry_after: Duration::ZERO }, 5);
            checker.dead_letter("push", &letter, at(10));
        },
        &[],
    );
    check_history(
        |checker| {
            post(checker, "a", Answer::Accepted, 5);
            checker.dead_letter("push", &letter, at(10));
        },
        &["zombie", "given_up"],
    );
}

/// Ten minutes after both events were published to a subscription with dead letters and none came out, with the
/// letters' place down for so many seconds and so many events counted as dropped.
fn unwritten(down: u64, dropped: u64, kinds: &[&str]) {
    let mut checker = with_batch(Outcome::Accepted);
    checker.letter_patience = Duration::from_secs(100);
    checker.subscriptions.remove("push");
    checker.items.retain(|(_, owner), _| owner == "pull");
    let pull = checker.subscriptions.get_mut("pull").expect("it is there");
    pull.dead_letter = true;
    checker.letters_were_down(at(1_000), at(1_000 * (1 + down)));
    checker.dropped("pull", dropped, at(600_000));
    check(checker, kinds);
}

#[test]
fn a_dead_letter_is_given_up_only_after_its_time_and_is_counted() {
    unwritten(100, 2, &[]);
    unwritten(90, 2, &["lost"]);
    unwritten(100, 1, &["miscounted"]);
}

#[test]
fn a_power_cut_before_the_next_start_takes_what_the_kill_left_in_the_page_cache() {
    let again = |serves| {
        move |checker: &mut Checker| {
            receive(checker, "a", "first", 1, 10, 20);
            settle(checker, Verb::Acknowledge, "first", None, 30, 40);
            checker.killed(at(60));
            if serves {
                checker.serves();
            }
            checker.power_cut(at(2_000));
            receive(checker, "a", "second", 1, 12_000, 12_001);
        }
    };
    check_history(again(false), &[]);
    check_history(again(true), &["zombie"]);
}

#[test]
fn a_forwarded_event_may_come_twice_and_must_come_once() {
    let forwarding = |mut checker: Checker| {
        checker.subscriptions.get_mut("push").unwrap().forwarded = true;
        checker
    };
    let mut checker = forwarding(checker());
    for (id, when) in [("a", 100), ("a", 200), ("b", 300)] {
        let delivery = checker.delivered("push", &arrives(id), at(when));
        checker.answered(delivery, Answer::Accepted, at(when));
    }
    let outstanding = |checker: &Checker| {
        let all = checker.outstanding(at(1_000));
        all.into_iter()
            .filter(|(_, subscription)| subscription == "push")
            .map(|(id, _)| id)
            .collect::<Vec<_>>()
    };
    assert_eq!((checker.violations().len(), outstanding(&checker)), (0, Vec::new()));
    let mut checker = forwarding(with_batch(Outcome::Accepted));
    let delivery = checker.delivered("push", &arrives("a"), at(100));
    checker.answered(delivery, Answer::Accepted, at(100));
    assert_eq!(outstanding(&checker), ["b"]);
}
