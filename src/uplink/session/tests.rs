//! The session alone, and beside a small model of a remote: crashes, cuts, late answers, forgotten
//! sessions.

mod alone;
mod refusals;
mod shared;

use std::collections::{HashMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::message::Lane;
use crate::mqtt::{Properties, TopicName};
use crate::reading::Timestamp;
use crate::uplink::memory::Held;

fn waiting(seq: u64, qos: QoS) -> Waiting {
    let message = Outgoing {
        topic: TopicName::new("t").unwrap(),
        qos,
        retain: false,
        if_session_lost: SessionLost::Resend,
        enqueued: Timestamp::at(0),
        properties: Properties::default(),
        payload: bytes::Bytes::new().into(),
        rated: None,
        source: None,
    };
    Waiting {
        lane: Lane::Live,
        seq,
        message,
    }
}

fn place(seq: u64) -> EntryId {
    EntryId { queue: 1, seq }
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

fn connected(window: u16, receive_maximum: u16) -> Session {
    let mut session = Session::new(window, Vec::new());
    session.connected(false, receive_maximum, QoS::ExactlyOnce);
    session
}

/// Everything that may be written now: number and DUP of messages, identifiers of releases.
fn written(session: &mut Session) -> Vec<String> {
    std::iter::from_fn(|| session.next())
        .map(|step| match step {
            SendAction::Publish(send) => {
                format!("{}{}", send.place.seq, if send.dup { " again" } else { "" })
            }
            SendAction::Release(id) => format!("release {id}"),
            SendAction::Received(id) => format!("received {id}"),
            SendAction::Complete(id) => format!("complete {id}"),
        })
        .collect()
}

fn save(session: &mut Session) -> Memory {
    let memories = session.begin_save();
    session.saved();
    memories
        .into_iter()
        .find(|(queue, _)| *queue == 1)
        .map(|(_, memory)| memory)
        .unwrap_or_default()
}

fn restarted(memory: Memory) -> Session {
    Session::new(10, vec![Memory::default(), memory, Memory::default()])
}

/// A number of QoS 2 messages were sent and not answered.
fn on_its_way(count: u64) -> Session {
    let mut session = connected(10, 10);
    for seq in 1..=count {
        session.offer(waiting(seq, QoS::ExactlyOnce));
    }
    save(&mut session);
    written(&mut session);
    session
}

/// A number of QoS 2 messages were on their way, the first of them released; then came a crash, and
/// the remote is there again.
fn crashed_after_release(count: u64) -> Session {
    let mut session = on_its_way(count);
    session.received(id(1), ReasonCode::SUCCESS);
    let mut session = restarted(save(&mut session));
    session.connected(true, 10, QoS::ExactlyOnce);
    session
}

#[test]
fn what_was_in_flight_goes_first_and_marked_after_a_reconnect() {
    let mut session = connected(10, 65535);
    for seq in 1..=3 {
        session.offer(waiting(seq, QoS::AtLeastOnce));
    }
    assert_eq!(written(&mut session), ["1", "2", "3"]);
    assert_eq!(
        session.acknowledged(id(2), ReasonCode::SUCCESS),
        AckOutcome::Delivered(place(2))
    );
    session.connected(true, 1, QoS::ExactlyOnce);
    session.offer(waiting(4, QoS::AtLeastOnce));
    assert_eq!(
        written(&mut session),
        ["1 again"],
        "the remote allows one at a time"
    );
    assert_eq!(
        session.acknowledged(id(1), ReasonCode::SUCCESS),
        AckOutcome::Delivered(place(1))
    );
    assert_eq!(written(&mut session), ["3 again"]);
}

#[test]
fn qos_0_is_done_when_it_is_handed_out_and_keeps_its_place() {
    let mut session = connected(10, 1);
    session.offer(waiting(1, QoS::AtLeastOnce));
    session.offer(waiting(2, QoS::AtMostOnce));
    session.offer(waiting(3, QoS::AtLeastOnce));
    assert_eq!(written(&mut session), ["1", "2"]);
    assert_eq!(session.in_flight(), 2);
}

#[test]
fn qos_2_waits_for_the_disk_at_every_step() {
    let mut session = connected(10, 10);
    session.offer(waiting(1, QoS::ExactlyOnce));
    session.offer(waiting(2, QoS::AtLeastOnce));
    assert!(
        written(&mut session).is_empty(),
        "the identifier is not durable, and what is behind it keeps its order"
    );
    let memory = save(&mut session);
    assert_eq!(
        memory.held,
        [Held {
            seq: 1,
            packet_id: id(1),
            stage: HeldStage::Sent
        }]
    );
    assert_eq!(written(&mut session), ["1", "2"]);
    assert_eq!(
        session.received(id(1), ReasonCode::SUCCESS),
        AckOutcome::AwaitingPubcomp
    );
    assert!(
        written(&mut session).is_empty(),
        "PUBREL waits for the PUBREC to be durable"
    );
    assert_eq!(
        save(&mut session).held,
        [Held {
            seq: 1,
            packet_id: id(1),
            stage: HeldStage::Released
        }]
    );
    assert_eq!(written(&mut session), ["release 1"]);
    assert_eq!(session.completed(id(1)), AckOutcome::Delivered(place(1)));
    assert!(
        session.used_ids.contains(&id(1)),
        "the identifier is free only when that is durable"
    );
    assert_eq!(save(&mut session), Memory::default());
    assert!(!session.used_ids.contains(&id(1)));
}

#[test]
fn a_save_covers_only_what_happened_before_it() {
    let mut session = connected(10, 10);
    session.offer(waiting(1, QoS::ExactlyOnce));
    session.begin_save();
    session.offer(waiting(2, QoS::ExactlyOnce));
    assert_eq!(session.unsaved(), 0, "one save at a time");
    session.saved();
    assert_eq!(written(&mut session), ["1"]);
    assert_eq!(session.unsaved(), 1);
    save(&mut session);
    assert_eq!(written(&mut session), ["2"]);
}

#[test]
fn what_is_done_before_the_outbox_offers_it_is_not_sent_again() {
    let mut session = crashed_after_release(2);
    assert_eq!(written(&mut session), ["release 1"]);
    // The outbox has read 1 to 3 by now; the answer comes before they are offered.
    assert_eq!(session.completed(id(1)), AckOutcome::Delivered(place(1)));
    for seq in 1..=3 {
        assert!(session.offer(waiting(seq, QoS::ExactlyOnce)).is_none());
    }
    save(&mut session);
    assert_eq!(written(&mut session), ["2 again", "3"]);
}

#[test]
fn after_a_crash_messages_go_on_where_the_disk_knows_them() {
    let mut session = crashed_after_release(3);
    assert_eq!(written(&mut session), ["release 1"]);
    // Number 2 is gone from the outbox: whatever the remote has of it is ended. Number 1 is not
    // sent again.
    for seq in [1, 3, 4] {
        assert!(session.offer(waiting(seq, QoS::ExactlyOnce)).is_none());
    }
    save(&mut session);
    assert_eq!(written(&mut session), ["release 2", "3 again", "4"]);
    assert_eq!(session.completed(id(1)), AckOutcome::Delivered(place(1)));
    assert_eq!(session.completed(id(2)), AckOutcome::Delivered(place(2)));
}

#[test]
fn a_forgotten_session_follows_the_class() {
    let mut session = connected(10, 10);
    let dropped = Outgoing {
        if_session_lost: SessionLost::Drop,
        ..waiting(2, QoS::ExactlyOnce).message
    };
    session.offer(waiting(1, QoS::ExactlyOnce));
    session.offer(Waiting {
        message: dropped,
        ..waiting(2, QoS::ExactlyOnce)
    });
    session.offer(waiting(3, QoS::ExactlyOnce));
    session.offer(waiting(4, QoS::AtLeastOnce));
    save(&mut session);
    written(&mut session);
    session.received(id(3), ReasonCode::SUCCESS);
    save(&mut session);
    let told = session.connected(false, 10, QoS::ExactlyOnce);
    assert_eq!(
        (told.resent, told.dropped.len(), told.presumed),
        (2, 1, vec![place(3)])
    );
    assert!(
        written(&mut session).is_empty(),
        "what was decided is durable before anything is sent"
    );
    save(&mut session);
    assert_eq!(
        written(&mut session),
        ["1", "4"],
        "to a new session they are new"
    );
}

#[test]
fn messages_of_an_earlier_run_go_before_new_ones_of_higher_lanes() {
    let mut session = crashed_after_release(4);
    session.offer(waiting(2, QoS::ExactlyOnce));
    assert_eq!(session.continues(), Some(1), "two are missing");
    session.offer(waiting(3, QoS::ExactlyOnce));
    assert_eq!(session.continues(), Some(1), "one is missing");
    session.nothing_more_waits(1);
    assert_eq!(session.continues(), None);
}

#[test]
fn a_receipt_for_something_unknown_is_released() {
    let mut session = connected(10, 10);
    assert_eq!(
        session.received(id(77), ReasonCode::SUCCESS),
        AckOutcome::Unknown
    );
    assert_eq!(written(&mut session), ["release 77"]);
}

#[test]
fn a_remote_without_qos_2_gets_what_it_can_take() {
    let mut session = Session::new(10, Vec::new());
    session.connected(false, 10, QoS::AtLeastOnce);
    session.offer(waiting(1, QoS::ExactlyOnce));
    assert_eq!(written(&mut session), ["1"]);
    assert_eq!(
        session.acknowledged(id(1), ReasonCode::SUCCESS),
        AckOutcome::Delivered(place(1))
    );
}

#[test]
fn messages_of_the_remote_are_recognised_across_a_restart() {
    let mut session = connected(10, 10);
    assert!(session.is_new(id(9)));
    session.taken(id(9), 1);
    assert!(
        written(&mut session).is_empty(),
        "PUBREC waits for the disk"
    );
    let memory = save(&mut session);
    assert_eq!(written(&mut session), ["received 9"]);
    let mut session = restarted(memory);
    session.connected(true, 10, QoS::ExactlyOnce);
    assert!(!session.is_new(id(9)), "it is here already");
    assert_eq!(written(&mut session), ["received 9"]);
    session.released(id(9));
    assert!(
        written(&mut session).is_empty(),
        "it is forgotten only when that is durable"
    );
    let number_only = Memory {
        taken: 1,
        ..Memory::default()
    };
    assert_eq!(save(&mut session), number_only);
    assert_eq!(written(&mut session), ["complete 9"]);
    assert!(session.is_new(id(9)));
}

#[test]
fn the_broker_is_told_which_messages_of_the_remote_are_remembered_here() {
    let mut session = connected(10, 10);
    let first = session.inbound(id(9), false);
    assert_eq!(first.known, u64::MAX, "the remote began anew");
    session.taken(id(9), first.number);
    let second = session.inbound(id(10), false);
    assert!(second.known < first.number, "nothing is durable yet");
    let memory = save(&mut session);
    assert_eq!(session.inbound(id(12), true).known, first.number);
    let mut session = restarted(memory);
    session.connected(true, 10, QoS::ExactlyOnce);
    let again = session.inbound(id(10), true);
    assert_eq!(again.known, first.number);
    assert!(again.number > second.number + 1, "no number comes twice");
    session.taken(id(10), again.number);
    session.connected(false, 10, QoS::ExactlyOnce);
    save(&mut session);
    let new = session.inbound(id(10), false);
    assert!(
        new.known > again.number,
        "all earlier messages are forgotten"
    );
}

#[test]
fn a_receipt_that_comes_before_the_repetition_is_taken_and_ends_in_its_turn() {
    let mut session = connected(10, 10);
    session.offer(waiting(1, QoS::ExactlyOnce));
    session.offer(waiting(2, QoS::ExactlyOnce));
    let memory = save(&mut session);
    written(&mut session);
    // On the next connection, before anything was repeated.
    session.connected(true, 10, QoS::ExactlyOnce);
    assert_eq!(
        session.received(id(1), ReasonCode::SUCCESS),
        AckOutcome::AwaitingPubcomp
    );
    assert!(
        written(&mut session).is_empty(),
        "not before that is durable"
    );
    save(&mut session);
    assert_eq!(written(&mut session), ["release 1", "2 again"]);
    // And after a restart, before the outbox has brought it.
    let mut session = restarted(memory);
    session.connected(true, 10, QoS::ExactlyOnce);
    assert_eq!(
        session.received(id(1), ReasonCode::SUCCESS),
        AckOutcome::AwaitingPubcomp
    );
    assert!(session.offer(waiting(1, QoS::ExactlyOnce)).is_none());
    session.offer(waiting(2, QoS::ExactlyOnce));
    save(&mut session);
    assert_eq!(written(&mut session), ["release 1", "2 again"]);
}

#[test]
fn a_message_in_flight_is_not_taken_a_second_time() {
    let mut session = on_its_way(1);
    session.connected(true, 10, QoS::ExactlyOnce);
    assert!(session.offer(waiting(1, QoS::ExactlyOnce)).is_none());
    assert_eq!(written(&mut session), ["1 again"]);
    assert_eq!(session.in_flight(), 1);
}

#[test]
fn a_forgotten_session_stays_forgotten_over_a_restart() {
    let mut session = connected(10, 10);
    let once = |seq| Waiting {
        message: Outgoing {
            if_session_lost: SessionLost::Drop,
            ..waiting(seq, QoS::ExactlyOnce).message
        },
        ..waiting(seq, QoS::ExactlyOnce)
    };
    session.offer(once(1));
    let mut session = restarted(save(&mut session));
    session.connected(false, 10, QoS::ExactlyOnce);
    let mut session = restarted(save(&mut session));
    session.connected(true, 10, QoS::ExactlyOnce);
    assert_eq!(
        session.offer(once(1)),
        Some(once(1)),
        "it may have arrived before the session was forgotten"
    );
}

#[test]
fn a_session_of_another_life_or_of_another_remote_is_not_wanted() {
    let (a, b) = (1, 2);
    let mut session = Session::new(10, Vec::new());
    assert!(session.is_strange_to(a), "this outbox knows of no session");
    session.reached(a, false);
    session.connected(false, 10, QoS::ExactlyOnce);
    assert!(
        !session.is_strange_to(a) && !session.is_strange_to(b),
        "b may be another address of a"
    );
    session.reached(b, false);
    session.connected(false, 10, QoS::ExactlyOnce);
    let session = restarted(save(&mut session));
    assert!(session.is_strange_to(a), "what it holds was given up for b");
    assert!(!session.is_strange_to(b));
}

#[test]
fn a_full_memory_drains_after_a_restart() {
    let held = (1..=1280)
        .map(|n| Held {
            seq: n,
            packet_id: id(u16::try_from(n).unwrap()),
            stage: HeldStage::Sent,
        })
        .collect();
    let mut session = Session::new(
        2000,
        vec![
            Memory::default(),
            Memory {
                held,
                ..Memory::default()
            },
        ],
    );
    session.connected(true, 2000, QoS::ExactlyOnce);
    assert!(session.room() > 0);
    session.offer(waiting(1, QoS::ExactlyOnce));
    assert_eq!(written(&mut session), ["1 again"]);
}

#[test]
fn what_has_not_been_sent_follows_the_qos_of_a_new_remote() {
    let mut session = on_its_way(1);
    session.connected(false, 10, QoS::AtLeastOnce);
    assert_eq!(save(&mut session), Memory::default());
    assert_eq!(written(&mut session), ["1"]);
    assert_eq!(
        session.acknowledged(id(1), ReasonCode::SUCCESS),
        AckOutcome::Delivered(place(1))
    );
}

#[test]
fn totals_follow_refusals_lower_qos_and_messages_that_are_given_up() {
    let mut session = on_its_way(4);
    session.offer(waiting(5, QoS::AtLeastOnce));
    assert_eq!(
        session.received(id(1), ReasonCode::SUCCESS),
        AckOutcome::AwaitingPubcomp
    );
    assert!(matches!(
        session.received(id(2), ReasonCode::QUOTA_EXCEEDED),
        AckOutcome::Later(..)
    ));
    session.in_flight.check_invariants();
    assert!(session.has_refused());
    session.release_instead(place(3));
    session.give_up(place(4));
    session.in_flight.check_invariants();
    session.connected(false, 10, QoS::AtMostOnce);
    session.in_flight.check_invariants();
    assert_eq!(save(&mut session), Memory::default());
    assert_eq!(written(&mut session).last().map(String::as_str), Some("5"));
    session.in_flight.check_invariants();
    assert!(!session.has_refused());
}

#[test]
fn a_repeated_release_waits_for_the_disk_too() {
    let mut session = connected(10, 10);
    session.taken(id(9), 1);
    save(&mut session);
    written(&mut session);
    session.released(id(9));
    // The save is under way when the link breaks, and the remote repeats itself.
    session.begin_save();
    session.connected(true, 10, QoS::ExactlyOnce);
    session.released(id(9));
    assert!(
        written(&mut session).is_empty(),
        "it is not forgotten durably"
    );
    session.saved();
    assert_eq!(written(&mut session), ["complete 9"]);
}

/// A save that has begun, and what was settled until then.
type Save = (Vec<(usize, Memory)>, HashSet<u64>);

/// A remote that keeps to the letter of the standard: what arrived, and which identifiers it holds.
#[derive(Default)]
struct Remote {
    held: HashSet<PacketId>,
    arrived: Vec<u64>,
    answers: VecDeque<(char, PacketId)>,
}

impl Remote {
    fn take(&mut self, step: SendAction) {
        match step {
            SendAction::Publish(Send {
                packet_id: Some(packet_id),
                place,
                message,
                ..
            }) => {
                if message.qos == QoS::AtLeastOnce {
                    self.arrived.push(place.seq);
                    self.answers.push_back(('a', packet_id));
                } else {
                    if self.held.insert(packet_id) {
                        self.arrived.push(place.seq);
                    }
                    self.answers.push_back(('r', packet_id));
                }
            }
            SendAction::Release(packet_id) => {
                self.held.remove(&packet_id);
                self.answers.push_back(('c', packet_id));
            }
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(400, module_path!()))]
    /// Crashes, cuts, saves that come late, small windows: QoS 2 arrives exactly once and in order,
    /// QoS 1 at least once.
    #[test]
    fn nothing_is_lost_and_nothing_exact_doubled(qos_2 in any::<bool>(), window in 1_u16..8, maximum in 1_u16..8, choices in prop::collection::vec(0_u8..12, 40..250)) {
        let qos = if qos_2 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
        let mut session = connected(window, maximum);
        let mut remote = Remote::default();
        let mut disk: HashMap<usize, Memory> = HashMap::new();
        let mut under_way: Option<Save> = None;
        let (mut settled, mut settled_on_disk) = (HashSet::new(), HashSet::new());
        let mut next_seq = 1;
        let mut last_acked = 0;
        for choice in choices.into_iter().chain(std::iter::repeat_n([3, 5, 6, 7], 600).flatten()) {
            let draining = last_acked > 0;
            match choice {
                // A crash: what was not saved is forgotten, and reading begins at the first
                // unsettled message again.
                0 if !draining => {
                    under_way = None;
                    settled = settled_on_disk.clone();
                    remote.answers.clear();
                    session = Session::new(window, (0..3).map(|queue| disk.get(&queue).cloned().unwrap_or_default()).collect());
                    session.connected(true, maximum, QoS::ExactlyOnce);
                    next_seq = 1;
                }
                1 if !draining => {
                    remote.answers.clear();
                    session.connected(true, maximum, QoS::ExactlyOnce);
                }
                2 | 3 => {
                    while session.room() > 0 && next_seq <= 60 {
                        if !settled.contains(&next_seq) {
                            prop_assert!(session.offer(waiting(next_seq, qos)).is_none());
                        }
                        next_seq += 1;
                    }
                    if next_seq > 60 {
                        session.nothing_more_waits(1);
                    }
                }
                4 | 5 => {
                    while let Some(step) = session.next() {
                        remote.take(step);
                    }
                }
                6 | 8 | 9 => {
                    for _ in 0..3 {
                        let Some((kind, packet_id)) = remote.answers.pop_front() else { break };
                        let verdict = match kind {
                            'a' => session.acknowledged(packet_id, ReasonCode::SUCCESS),
                            'r' => session.received(packet_id, ReasonCode::SUCCESS),
                            _ => session.completed(packet_id),
                        };
                        if let AckOutcome::Delivered(place) = verdict {
                            settled.insert(place.seq);
                        }
                    }
                }
                // The disk: one save at a time, begun and done at moments of their own, with what
                // was settled until then.
                _ => match under_way.take() {
                    Some((memories, settled_then)) => {
                        disk.extend(memories);
                        settled_on_disk = settled_then;
                        session.saved();
                    }
                    None if session.unsaved() > 0 => under_way = Some((session.begin_save(), settled.clone())),
                    None => {}
                },
            }
            session.in_flight.check_invariants();
            if next_seq > 60 && choice == 7 {
                last_acked = 1;
            }
        }
        let mut firsts = Vec::new();
        for seq in &remote.arrived {
            if !firsts.contains(seq) {
                firsts.push(*seq);
            }
        }
        prop_assert_eq!(&firsts, &(1..=60).collect::<Vec<u64>>(), "all, in order");
        if qos_2 {
            prop_assert_eq!(remote.arrived.len(), 60, "once");
        }
        prop_assert_eq!((settled.len(), session.in_flight()), (60, 0));
    }
}
