//! Refusals of the remote, for now or for ever.
#![cfg(test)]

use super::*;
use crate::time;
use crate::uplink::pace::LinkPace;

#[test]
fn a_refusal_tells_later_from_never() {
    let mut session = connected(10, 10);
    session.offer(waiting(1, QoS::AtLeastOnce));
    session.offer(waiting(2, QoS::ExactlyOnce));
    save(&mut session);
    written(&mut session);
    assert_eq!(
        session.acknowledged(id(1), ReasonCode::QUOTA_EXCEEDED),
        AckOutcome::Later(place(1), ReasonCode::QUOTA_EXCEEDED)
    );
    assert_eq!(
        session.received(id(2), ReasonCode::QUOTA_EXCEEDED),
        AckOutcome::Later(place(2), ReasonCode::QUOTA_EXCEEDED)
    );
    save(&mut session);
    assert_eq!(
        written(&mut session).len(),
        2,
        "both once more, under new identifiers"
    );
    let verdict = session.acknowledged(id(3), ReasonCode::NOT_AUTHORIZED);
    assert!(
        matches!(verdict, AckOutcome::Refused { place, reason: ReasonCode::NOT_AUTHORIZED, message: Some(_) } if place.seq == 1)
    );
    assert_eq!(
        session.acknowledged(id(3), ReasonCode::SUCCESS),
        AckOutcome::Unknown
    );
    assert!(matches!(
        session.received(id(4), ReasonCode::NOT_AUTHORIZED),
        AckOutcome::Refused { .. }
    ));
    assert_eq!(session.in_flight(), 0);
}

#[test]
fn what_is_refused_for_now_goes_before_what_stood_behind_it() {
    let mut session = on_its_way(4);
    assert_eq!(
        session.received(id(1), ReasonCode::SUCCESS),
        AckOutcome::AwaitingPubcomp
    );
    assert_eq!(
        session.received(id(2), ReasonCode::QUOTA_EXCEEDED),
        AckOutcome::Later(place(2), ReasonCode::QUOTA_EXCEEDED)
    );
    assert_eq!(
        session.received(id(3), ReasonCode::QUOTA_EXCEEDED),
        AckOutcome::Later(place(3), ReasonCode::QUOTA_EXCEEDED)
    );
    assert_eq!(session.oldest_unanswered(), Some(place(4)));
    save(&mut session);
    assert_eq!(written(&mut session), ["release 1", "2", "3"]);
    assert_eq!(
        session.received(id(5), ReasonCode::QUOTA_EXCEEDED),
        AckOutcome::Later(place(2), ReasonCode::QUOTA_EXCEEDED)
    );
    save(&mut session);
    session.connected(true, 10, QoS::ExactlyOnce);
    assert_eq!(
        written(&mut session),
        ["release 1", "2", "3 again", "4 again"]
    );
}

#[test]
fn identifier_in_use_means_that_a_repetition_has_arrived_and_that_a_new_message_needs_another() {
    let mut session = connected(10, 10);
    session.offer(waiting(1, QoS::ExactlyOnce));
    save(&mut session);
    assert_eq!(written(&mut session), ["1"]);
    assert_eq!(
        session.received(id(1), ReasonCode::PACKET_IDENTIFIER_IN_USE),
        AckOutcome::Later(place(1), ReasonCode::PACKET_IDENTIFIER_IN_USE)
    );
    save(&mut session);
    assert_eq!(written(&mut session), ["1"], "under identifier 2");
    session.connected(true, 10, QoS::ExactlyOnce);
    assert_eq!(written(&mut session), ["1 again"]);
    assert_eq!(
        session.received(id(2), ReasonCode::PACKET_IDENTIFIER_IN_USE),
        AckOutcome::AwaitingPubcomp
    );
    save(&mut session);
    assert_eq!(written(&mut session), ["release 2"]);
}

#[test]
fn an_error_after_a_receipt_changes_nothing() {
    let mut session = on_its_way(1);
    session.received(id(1), ReasonCode::SUCCESS);
    assert_eq!(
        session.received(id(1), ReasonCode::QUOTA_EXCEEDED),
        AckOutcome::AwaitingPubcomp
    );
    save(&mut session);
    assert_eq!(written(&mut session), ["release 1", "release 1"]);
    assert_eq!(session.completed(id(1)), AckOutcome::Delivered(place(1)));
}

#[test]
fn what_is_refused_without_a_promise_is_given_up_in_the_end() {
    let mut session = connected(10, 10);
    session.offer(waiting(1, QoS::AtLeastOnce));
    let mut refusals = 0;
    let refused = loop {
        let Some(SendAction::Publish(send)) = session.next() else {
            panic!("it is offered again")
        };
        match session.acknowledged(send.packet_id.unwrap(), ReasonCode::IMPLEMENTATION_SPECIFIC) {
            AckOutcome::Later(..) => refusals += 1,
            verdict => break verdict,
        }
    };
    assert!(
        matches!(refused, AckOutcome::Refused { .. }) && refusals == 5,
        "{refusals}"
    );
}

fn some_reason(which: u64) -> ReasonCode {
    match which {
        1 => ReasonCode::QUOTA_EXCEEDED,
        2 => ReasonCode::NOT_AUTHORIZED,
        _ => ReasonCode::SUCCESS,
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(256, module_path!()))]
    /// Refusals, removals, cuts: what is not on the wire any more takes no room on the link.
    #[test]
    fn no_byte_is_on_its_way_when_nothing_is_on_the_wire(choices in prop::collection::vec((0_u8..8, 0_u64..4), 20..200)) {
        let (mut session, mut pace, at) = (connected(4, 4), LinkPace::default(), time::now());
        let (mut next_seq, mut end) = (1, 0);
        for (choice, which) in choices {
            let first = session.oldest_unanswered();
            let oldest = first.and_then(|place| session.in_flight.index_of(place)).and_then(|index| session.in_flight.get(index)?.packet_id());
            match (choice, oldest) {
                (0, _) => {
                    session.connected(which > 0, 4, QoS::ExactlyOnce);
                    pace.begin(std::time::Duration::from_millis(100));
                }
                (1, _) if session.room() > 0 => {
                    session.offer(waiting(next_seq, if which == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce }));
                    next_seq += 1;
                }
                (2, Some(id)) => {
                    pace.answered(&session.acknowledged(id, some_reason(which)), at);
                }
                (3, Some(id)) => {
                    pace.answered(&session.received(id, some_reason(which)), at);
                }
                (4, Some(id)) => pace.answered(&session.completed(id), at),
                (5, _) => {
                    let place = first.unwrap_or(place(next_seq.saturating_sub(which)));
                    if !session.purge(place) {
                        pace.gone(place);
                    }
                }
                _ => {
                    save(&mut session);
                    while let Some(step) = session.next() {
                        if let SendAction::Publish(Send { place, .. }) = step {
                            pace.sent(place, end..end + 100, at);
                            end += 100;
                        }
                    }
                }
            }
            prop_assert!(session.on_wire() > 0 || pace.on_way() == 0, "{} bytes are counted although nothing is on the wire", pace.on_way());
        }
    }
}
