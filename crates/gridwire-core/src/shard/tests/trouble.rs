//! What the bound on events in trouble holds up, and for whom.

use super::*;

#[test]
fn nothing_new_is_delivered_while_the_shard_is_full_of_trouble() {
    let mut driver = Driver::new(pull());
    driver.shard.trouble = TroubleBudget::of(5);
    driver.publish(20);
    let tokens = driver.receive(5);
    driver.settle(SettleVerb::Release { delay: seconds(600) }, &tokens);
    assert_eq!(driver.receive(1), []);
    driver.advance_to(at(600));
    let again = driver.receive(20);
    assert_eq!(again.iter().map(|token| token.delivery).collect::<Vec<_>>(), [2; 5], "first what comes back");
    driver.settle(SettleVerb::Acknowledge, &again);
    assert_eq!(driver.receive(20).len(), 15);
}

#[test]
fn who_waits_for_the_trouble_of_others_goes_on_when_it_has_ended() {
    let mut driver = Driver::new(pull());
    let two = SubscriptionNumber(2);
    let input = SubscribeInput {
        number: two,
        slot: Slot(1),
        topic: TOPIC,
        policy: pull(),
        end: Offset(0),
        start: Offset(0),
        existed: false,
    };
    driver.input(Input::Subscribe(input));
    driver.shard.trouble = TroubleBudget::of(6);
    driver.publish(6);
    let tokens = driver.receive(6);
    driver.settle(SettleVerb::Release { delay: seconds(3600) }, &tokens);
    // The other has less than its share, so it goes on.
    driver.publish_for(&[1], 4);
    let receive =
        |reply, max| Input::Receive { subscription: two, reply: ReplyId(reply), max, deadline: at(1_000) };
    driver.input(receive(901, 3));
    let effect = driver.effects.remove(0);
    let Effect::Answer { answer: Answer::Received(events), .. } = effect else { panic!("{effect:?}") };
    let token = |event: &LeasedEvent| LockToken {
        subscription: two,
        offset: event.offset,
        delivery: event.delivery,
        nonce: event.nonce,
    };
    let tokens: Vec<_> = events.iter().map(token).collect();
    let verb = SettleVerb::Release { delay: seconds(3600) };
    driver.input(Input::Settle { subscription: two, reply: ReplyId(902), verb, tokens: &tokens });
    driver.effects.clear();
    driver.input(receive(903, 1));
    assert_eq!(driver.effects, [], "it has its share");
    driver.input(Input::Unsubscribe { subscription: ONE });
    driver.advance_to(driver.now);
    assert!(
        matches!(&driver.effects[..], [Effect::Answer { reply: ReplyId(903), answer: Answer::Received(one) }] if one.len() == 1),
        "{:?}",
        driver.effects
    );
}
