//! A session that another client with the same identifier has used.
#![cfg(test)]

use super::*;

#[test]
fn after_another_client_used_the_session_what_was_released_is_sent_once_more() {
    for (is_known, expected) in [(true, ["1 again", "2 again"]), (false, ["1", "2"])] {
        let mut session = on_its_way(2);
        session.received(id(1), ReasonCode::SUCCESS);
        save(&mut session);
        session.distrust();
        let told = session.connected(is_known, 10, QoS::ExactlyOnce);
        assert!(told.presumed.is_empty(), "nothing is taken for delivered");
        assert!(
            written(&mut session).is_empty(),
            "that it goes once more is not durable"
        );
        assert_eq!(
            save(&mut session)
                .held
                .iter()
                .map(|held| held.stage)
                .collect::<Vec<_>>(),
            [HeldStage::Sent; 2]
        );
        assert_eq!(written(&mut session), expected);
        session.in_flight.check_invariants();
    }
}

#[test]
fn what_is_not_to_come_twice_is_not_sent_again_whoever_used_the_session() {
    let mut session = connected(10, 10);
    let mut only_once = waiting(1, QoS::ExactlyOnce);
    only_once.message.if_session_lost = SessionLost::Drop;
    session.offer(only_once);
    save(&mut session);
    written(&mut session);
    session.received(id(1), ReasonCode::SUCCESS);
    session.distrust();
    session.connected(true, 10, QoS::ExactlyOnce);
    save(&mut session);
    assert_eq!(written(&mut session), ["release 1"]);
}

#[test]
fn no_more_qos_2_messages_are_at_the_remote_than_it_takes() {
    let mut session = connected(10, 100);
    session.limit_exact(2);
    for seq in 1..=5 {
        session.offer(waiting(seq, QoS::ExactlyOnce));
    }
    assert!(!session.takes_exact());
    assert_eq!(session.room(), 5, "there is room for others");
    save(&mut session);
    assert_eq!(written(&mut session), ["1", "2"]);
    session.received(id(1), ReasonCode::SUCCESS);
    save(&mut session);
    assert_eq!(
        written(&mut session),
        ["release 1"],
        "it counts until its end"
    );
    session.completed(id(1));
    save(&mut session);
    assert_eq!(written(&mut session), ["3"]);
}
