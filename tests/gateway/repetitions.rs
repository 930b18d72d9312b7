//! QoS 2 messages that a client or a remote repeats, or seems to repeat: by what the broker tells
//! a repetition from a new message, step by step.

use std::sync::Arc;

use wellhead::broker::engine::{ForwardAnswer, Input, Peer, Setup, Ticket};
use wellhead::message::{ExactInbound, Message, Origin};
use wellhead::mqtt::{
    Ack, Packet, PacketId, Properties, Publish, QoS, ReasonCode, TopicFilter, TopicName, Version,
};
use wellhead::outbox::Handover;
use wellhead::route::{RouteTable, Routes, Rule};

use super::far_side::connect_as;
use super::stage::{Stage, setup};

/// The first uplink takes everything, from clients and from the second one.
fn two_uplinks() -> Setup {
    let north = vec![Rule::keep(TopicFilter::new("north/#").unwrap())];
    let routes = [north, Vec::new()]
        .map(|send| Arc::new(Routes::new(send, Vec::new(), false, Arc::default())));
    Setup {
        routes: Arc::new(RouteTable::new(routes.to_vec(), Default::default())),
        remotes: vec![1 << 48, (1 << 48) + 1],
        ..setup()
    }
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

/// A message of the second remote.
fn inbound(stage: &mut Stage, reply: u64, exact: ExactInbound, text: &'static str) {
    let topic = TopicName::new("north/x").unwrap();
    let message = Message {
        qos: QoS::ExactlyOnce,
        ..Message::new(topic, text, Origin::Uplink(1))
    };
    let exact = Some(exact);
    stage.input(Input::Inbound {
        reply,
        message,
        exact,
    });
}

fn fresh(packet_id: u16, number: u64) -> ExactInbound {
    ExactInbound {
        packet_id: id(packet_id),
        number,
        known: 0,
        is_repeated: false,
    }
}

fn repeated(packet_id: u16, number: u64) -> ExactInbound {
    ExactInbound {
        is_repeated: true,
        ..fresh(packet_id, number)
    }
}

/// The only message that is on its way to the first remote.
fn forwarded(stage: &mut Stage) -> (String, Ticket, Handover) {
    let (message, ticket) = stage.forwarded.pop_front().unwrap();
    assert!(stage.forwarded.is_empty());
    let ticket = ticket.unwrap();
    let text = String::from_utf8(message.payload.to_vec()).unwrap();
    (text, ticket, stage.handovers.remove(&ticket).unwrap())
}

fn answer(stage: &mut Stage, ticket: Ticket, answer: ForwardAnswer) {
    stage.input(Input::Stored { ticket, answer });
}

/// Takes a message as the outbox does.
fn store(stage: &mut Stage) -> (String, Handover) {
    let (text, ticket, handover) = forwarded(stage);
    answer(stage, ticket, ForwardAnswer::Stored);
    (text, handover)
}

fn connect(stage: &mut Stage, name: &str) -> u64 {
    let connection = stage.open(Peer::default());
    let properties = Properties::default();
    stage.send(connection, &connect_as(name, Version::V311, properties));
    connection
}

fn publish(stage: &mut Stage, connection: u64, dup: bool, text: &'static str) {
    stage.send(
        connection,
        &Packet::Publish(Publish {
            dup,
            qos: QoS::ExactlyOnce,
            retain: false,
            topic: Some(TopicName::new("north/x").unwrap()),
            packet_id: Some(id(7)),
            properties: Properties::default(),
            payload: text.into(),
        }),
    );
}

fn is_received(stage: &mut Stage, connection: u64) -> bool {
    let mut packets = std::iter::from_fn(|| stage.next_packet(connection));
    packets.any(|packet| matches!(packet, Packet::PubRec(_)))
}

#[test]
fn an_identifier_that_a_remote_uses_again_at_once_is_another_message() {
    let mut stage = Stage::new(two_uplinks());
    inbound(&mut stage, 1, fresh(5, 1), "first");
    let (text, first) = store(&mut stage);
    assert_eq!((text.as_str(), &stage.safe[..]), ("first", &[1][..]));
    // The uplink has not yet said that it knows the first one.
    inbound(&mut stage, 2, fresh(5, 2), "second");
    let (text, second) = store(&mut stage);
    assert_eq!((text.as_str(), &stage.safe[..]), ("second", &[1, 2][..]));
    assert!(first.receipt < second.receipt, "a message of its own");
    assert_eq!(stage.ended, [first.receipt, second.receipt]);
    // The outbox forgets late.
    stage.found = vec![vec![first, second], Vec::new()];
    stage.crash();
    inbound(&mut stage, 3, repeated(5, 3), "second");
    assert_eq!((stage.safe.last(), stage.forwarded.len()), (Some(&3), 0));
}

#[test]
fn a_message_of_a_remote_that_found_no_room_is_missed_until_it_is_repeated() {
    let mut stage = Stage::new(two_uplinks());
    inbound(&mut stage, 1, fresh(5, 1), "refused");
    let (_, ticket, refused) = forwarded(&mut stage);
    answer(&mut stage, ticket, ForwardAnswer::Full);
    inbound(&mut stage, 2, fresh(6, 2), "later");
    let (_, later) = store(&mut stage);
    assert_eq!(stage.safe, [2]);
    // The uplink knows both of those numbers, and took one message.
    let exact = ExactInbound {
        known: 2,
        ..fresh(7, 3)
    };
    inbound(&mut stage, 3, exact, "last");
    store(&mut stage);
    stage.found = vec![vec![later], Vec::new()];
    for is_after_crash in [false, true] {
        if is_after_crash {
            stage.crash();
        }
        inbound(&mut stage, 4, repeated(5, 4), "refused");
        let (text, ticket, again) = forwarded(&mut stage);
        assert_eq!((text.as_str(), again), ("refused", refused));
        let room = if is_after_crash {
            ForwardAnswer::Stored
        } else {
            ForwardAnswer::Full
        };
        answer(&mut stage, ticket, room);
    }
    assert_eq!(stage.safe.last(), Some(&4));
}

#[test]
fn messages_that_only_an_outbox_has_are_known_after_half_a_checkpoint() {
    let mut stage = Stage::new(two_uplinks());
    // One is as much as a turn of the checkpoint writes.
    let names = ["a", "b"].map(|name| name.repeat(100));
    let clients = [0, 1].map(|client: usize| connect(&mut stage, &names[client]));
    // The disk refuses: the batches are given up, the outbox has another disk.
    stage.is_disk_slow = true;
    let handovers = clients.map(|client| {
        publish(&mut stage, client, false, "once");
        // It is there, but its answer is late.
        forwarded(&mut stage).2
    });
    assert!(clients.map(|client| is_received(&mut stage, client)) == [false; 2]);
    stage.lose_batches();
    stage.begin_checkpoint();
    stage.commit();
    stage.found = vec![handovers.to_vec(), Vec::new()];
    stage.is_disk_slow = false;
    stage.crash();
    for name in &names {
        let client = connect(&mut stage, name);
        publish(&mut stage, client, true, "once");
        assert_eq!(stage.forwarded.len(), 0, "{name} is doubled");
        assert!(is_received(&mut stage, client));
    }
}

#[test]
fn an_identifier_whose_release_a_damaged_journal_lacks_is_free() {
    for (is_damaged, dup) in [(false, false), (true, true), (true, false)] {
        let mut stage = Stage::new(two_uplinks());
        let client = connect(&mut stage, "pump");
        publish(&mut stage, client, false, "first");
        store(&mut stage);
        // Damage stands for the lost record, a slow disk for one that was never written.
        stage.is_disk_slow = true;
        let released = Ack {
            packet_id: id(7),
            reason: ReasonCode::SUCCESS,
            properties: Properties::default(),
        };
        stage.send(client, &Packet::PubRel(released));
        stage.is_journal_damaged = is_damaged;
        stage.is_disk_slow = false;
        stage.crash();
        let client = connect(&mut stage, "pump");
        publish(&mut stage, client, dup, "second");
        let is_new = is_damaged && !dup;
        assert_eq!(
            stage.forwarded.len(),
            usize::from(is_new),
            "{is_damaged} {dup}"
        );
        if is_new {
            store(&mut stage);
        }
        assert!(is_received(&mut stage, client));
    }
}
