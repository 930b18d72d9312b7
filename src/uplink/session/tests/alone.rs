//! Messages that the remote may not bear, and remotes without QoS 2.
#![cfg(test)]

use super::*;

fn waiting_in(lane: Lane, seq: u64) -> Waiting {
    Waiting {
        lane,
        ..waiting(seq, QoS::AtLeastOnce)
    }
}

#[test]
fn a_suspect_goes_alone_and_after_what_is_more_urgent() {
    let mut session = connected(10, 10);
    for seq in 1..=3 {
        session.offer(waiting(seq, QoS::AtLeastOnce));
    }
    assert_eq!(written(&mut session), ["1", "2", "3"]);
    assert_eq!(session.first_unanswered_message(), Some(place(1)));
    session.connected(true, 10, QoS::ExactlyOnce);
    session.offer(waiting_in(Lane::Alarm, 9));
    assert!(session.isolate(place(1)));
    session.in_flight.check_invariants();
    assert_eq!(
        written(&mut session),
        ["9"],
        "the alarm is answered before the suspect is sent"
    );
    assert!(matches!(
        session.acknowledged(id(4), ReasonCode::SUCCESS),
        AckOutcome::Delivered(_)
    ));
    assert!(
        written(&mut session).is_empty(),
        "the remote has not shown that it reads"
    );
    session.may_try_alone();
    assert_eq!(written(&mut session), ["1 again"]);
    session.offer(waiting(4, QoS::AtLeastOnce));
    assert!(written(&mut session).is_empty(), "nothing goes beside it");
    assert_eq!(
        session.acknowledged(id(1), ReasonCode::SUCCESS),
        AckOutcome::Delivered(place(1))
    );
    assert_eq!(written(&mut session), ["2 again", "3 again", "4"]);
}

#[test]
fn what_stands_behind_a_suspect_goes_on_when_that_is_given_up() {
    let mut session = on_its_way(3);
    session.connected(true, 10, QoS::ExactlyOnce);
    assert!(session.isolate(place(1)));
    session.may_try_alone();
    assert_eq!(written(&mut session), ["1 again"]);
    assert!(session.give_up(place(1)).is_some());
    session.in_flight.check_invariants();
    assert_eq!(written(&mut session), ["2 again", "3 again"]);
}

#[test]
fn a_release_is_no_suspect() {
    let mut session = on_its_way(2);
    session.received(id(1), ReasonCode::SUCCESS);
    save(&mut session);
    assert_eq!(
        session.first_unanswered_message(),
        None,
        "the remote has it"
    );
}

#[test]
fn puback_for_qos_2_settles_the_message_and_the_next_ones_go_with_qos_1() {
    let mut session = on_its_way(2);
    session.offer(waiting(3, QoS::ExactlyOnce));
    assert!(!session.lacks_qos_2());
    assert_eq!(
        session.acknowledged(id(1), ReasonCode::SUCCESS),
        AckOutcome::Delivered(place(1))
    );
    assert!(session.lacks_qos_2());
    assert_eq!(
        session.acknowledged(id(2), ReasonCode::SUCCESS),
        AckOutcome::Delivered(place(2))
    );
    session.offer(waiting(4, QoS::ExactlyOnce));
    save(&mut session);
    let qos = |session: &mut Session| match session.next() {
        Some(SendAction::Publish(send)) => (send.place.seq, send.message.qos),
        other => panic!("{other:?}"),
    };
    assert_eq!(qos(&mut session), (3, QoS::AtLeastOnce));
    assert_eq!(qos(&mut session), (4, QoS::AtLeastOnce));
    assert_eq!(
        session.acknowledged(id(3), ReasonCode::SUCCESS),
        AckOutcome::Delivered(place(3))
    );
    assert_eq!(
        session.acknowledged(id(4), ReasonCode::SUCCESS),
        AckOutcome::Delivered(place(4))
    );
    session.in_flight.check_invariants();
    assert_eq!(save(&mut session), Memory::default());
}

#[test]
fn puback_for_a_release_changes_nothing() {
    let mut session = on_its_way(1);
    session.received(id(1), ReasonCode::SUCCESS);
    assert_eq!(
        session.acknowledged(id(1), ReasonCode::SUCCESS),
        AckOutcome::Unknown
    );
    assert!(!session.lacks_qos_2());
}

#[test]
fn subscriptions_that_were_granted_are_known_after_a_restart() {
    let receive = |filter: &str| crate::uplink::Receive {
        filter: crate::mqtt::TopicFilter::new(filter.to_owned()).unwrap(),
        qos: QoS::AtLeastOnce,
    };
    let mut session = connected(10, 10);
    session.subscribe("a");
    session.subscribe("b");
    session.granted(&receive("a"));
    let mut session = restarted(save(&mut session));
    assert!(session.is_granted(&receive("a")) && !session.is_granted(&receive("b")));
    assert_eq!(
        session.unsubscribe(|filter| filter != "c"),
        ["a", "b"],
        "what was asked for may be there"
    );
    session.connected(false, 10, QoS::ExactlyOnce);
    assert!(
        !session.is_granted(&receive("a")),
        "the session is another one"
    );
}

#[test]
fn subscriptions_in_doubt_are_not_granted_after_a_restart_either() {
    let receive = crate::uplink::Receive {
        filter: crate::mqtt::TopicFilter::new("a").unwrap(),
        qos: QoS::AtLeastOnce,
    };
    let mut session = connected(10, 10);
    session.subscribe("a");
    session.granted(&receive);
    let mut session = restarted(save(&mut session));
    assert!(session.is_granted(&receive) && session.doubt_subscriptions());
    let mut session = restarted(save(&mut session));
    assert!(!session.is_granted(&receive) && !session.doubt_subscriptions());
    assert_eq!(session.unsubscribe(|_| true), ["a"], "it may be there");
}

#[test]
fn a_session_that_was_ended_is_not_ended_again_after_a_restart() {
    let mut session = Session::new(10, Vec::new());
    assert!(session.is_strange_to(1));
    session.cleaned(1);
    let session = restarted(save(&mut session));
    assert!(!session.is_strange_to(1));
}

#[test]
fn a_message_that_must_not_come_twice_is_not_sent_again_with_qos_1() {
    let mut session = connected(10, 10);
    let once = Outgoing {
        if_session_lost: SessionLost::Drop,
        ..waiting(1, QoS::ExactlyOnce).message
    };
    session.offer(Waiting {
        message: once,
        ..waiting(1, QoS::ExactlyOnce)
    });
    session.offer(waiting(2, QoS::ExactlyOnce));
    save(&mut session);
    written(&mut session);
    assert!(!session.resend_with_qos_1(place(1)));
    assert!(session.resend_with_qos_1(place(2)));
    session.connected(true, 10, QoS::AtLeastOnce);
    save(&mut session);
    assert_eq!(written(&mut session), ["1 again", "2"]);
}

#[test]
fn the_identifier_of_a_lowered_message_is_free_only_when_its_end_is_durable() {
    let mut session = connected(10, 1);
    [1, 2]
        .into_iter()
        .for_each(|seq| drop(session.offer(waiting(seq, QoS::ExactlyOnce))));
    save(&mut session);
    assert_eq!(written(&mut session), ["1"]);
    // PUBACK: this remote has no QoS 2.
    assert_eq!(
        session.acknowledged(id(1), ReasonCode::SUCCESS),
        AckOutcome::Delivered(place(1))
    );
    assert_eq!(written(&mut session), ["2"]);
    assert_eq!(
        session.acknowledged(id(2), ReasonCode::SUCCESS),
        AckOutcome::Delivered(place(2))
    );
    assert!(
        session.used_ids.contains(&id(2)),
        "the disk still says that a QoS 2 message has it"
    );
    save(&mut session);
    assert!(session.used_ids.is_empty());
}

#[test]
fn a_remote_that_takes_qos_0_only_gets_what_was_not_sent_before_without_an_identifier() {
    for (qos, is_noted) in [(QoS::ExactlyOnce, true), (QoS::AtLeastOnce, false)] {
        let mut session = connected(10, 10);
        session.offer(waiting(1, qos));
        save(&mut session);
        session.connected(true, 1, QoS::AtMostOnce);
        assert_eq!(
            session.used_ids.contains(&id(1)),
            is_noted,
            "the disk may still say that a QoS 2 message has it"
        );
        save(&mut session);
        assert!(session.used_ids.is_empty());
        let Some(SendAction::Publish(send)) = session.next() else {
            panic!("the message")
        };
        assert_eq!((send.packet_id, send.message.qos), (None, QoS::AtMostOnce));
    }
}
