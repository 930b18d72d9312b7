//! What all queues may take together: the fullest gives room, in flight or not, and everything is
//! given back.

use std::collections::VecDeque;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use wellhead::broker::access::Access;
use wellhead::broker::engine::{BrokerLimits, Peer, Setup};
use wellhead::mqtt::{Ack, Packet, PacketId, Properties, QoS, ReasonCode, Version};

use super::far_side::{FarSide, connect, connect_as, subscribe};
use super::stage::Stage;

fn stage() -> Stage {
    let limits = BrokerLimits {
        max_queued_total: 20_000,
        receive_maximum: 64,
        send_window: 64,
        sys_every: Duration::ZERO,
        ..BrokerLimits::default()
    };
    Stage::new(Setup {
        limits,
        access: Arc::new(Access::open()),
        is_durable: true,
        ..Setup::default()
    })
}

fn enter(stage: &mut Stage, name: &str) -> u64 {
    let id = stage.open(Peer::default());
    stage.send(id, &connect(name));
    assert!(matches!(stage.next_packet(id), Some(Packet::ConnAck(_))));
    id
}

fn away(stage: &mut Stage, name: &str, filter: &str) {
    let id = enter(stage, name);
    stage.send(id, &subscribe(filter, QoS::AtLeastOnce));
    stage.drop_connection(id);
}

/// The numbers that wait for a client.
fn waiting(stage: &mut Stage, name: &str) -> Vec<u64> {
    let (id, mut far) = (enter(stage, name), FarSide::default());
    while let Some(packet) = stage.next_packet(id) {
        if let Some(answer) = far.take(packet) {
            stage.send(id, &answer);
        }
    }
    stage.drop_connection(id);
    far.numbers(QoS::AtLeastOnce)
}

#[test]
fn the_fullest_queue_gives_room_to_the_others() {
    let mut stage = stage();
    away(&mut stage, "full", "full/#");
    away(&mut stage, "new", "new/#");
    let (publisher, mut far) = (enter(&mut stage, "publisher"), FarSide::default());
    let mut publish = |stage: &mut Stage, topic: &str, number: u64| {
        let packet = far.publish(topic, number, QoS::AtLeastOnce);
        stage.send(publisher, &packet);
        let answer = stage.next_packet(publisher).unwrap();
        far.take(answer);
    };
    for number in 1..=100 {
        publish(&mut stage, "full/x", number);
    }
    for number in 101..=105 {
        publish(&mut stage, "new/x", number);
    }
    assert_eq!(
        waiting(&mut stage, "new"),
        (101..=105).collect::<Vec<u64>>()
    );
    let left = waiting(&mut stage, "full");
    assert!(
        left.len() > 30 && left.len() < 100 && left[0] > 1,
        "{left:?}"
    );
    // Everything was given back: as much fits as before.
    for number in 201..=300 {
        publish(&mut stage, "full/x", number);
    }
    let again = waiting(&mut stage, "full");
    assert!(again.len() >= left.len() && again[0] == 201, "{again:?}");
}

#[test]
fn what_is_in_flight_takes_nothing_from_queues() {
    let mut stage = stage();
    away(&mut stage, "away", "t/#");
    // Reads, and never acknowledges.
    let mute = enter(&mut stage, "mute");
    stage.send(mute, &subscribe("big/#", QoS::AtLeastOnce));
    let (publisher, mut far) = (enter(&mut stage, "publisher"), FarSide::default());
    for number in 1..=20 {
        let packet = far.publish("t/x", number, QoS::AtLeastOnce);
        stage.send(publisher, &packet);
    }
    for number in 101..=140 {
        let long = format!("big/{}", "x".repeat(2000));
        let packet = far.publish(&long, number, QoS::AtLeastOnce);
        stage.send(publisher, &packet);
    }
    assert_eq!(waiting(&mut stage, "away"), (1..=20).collect::<Vec<u64>>());
}

#[test]
fn retained_messages_come_in_pieces_and_whole() {
    let limits = BrokerLimits {
        max_retained: 20_000,
        sys_every: Duration::ZERO,
        ..BrokerLimits::default()
    };
    let mut stage = Stage::new(Setup {
        limits,
        access: Arc::new(Access::open()),
        is_durable: true,
        ..Setup::default()
    });
    let (publisher, mut far) = (enter(&mut stage, "publisher"), FarSide::default());
    for number in 1..=9_000_u64 {
        // Numbers that can be divided by ten are retained.
        let packet = far.publish(&format!("kept/{number}/x"), number * 10, QoS::AtMostOnce);
        stage.send(publisher, &packet);
    }
    let (id, mut got) = (enter(&mut stage, "late"), FarSide::default());
    stage.send(id, &subscribe("kept/+/x", QoS::AtMostOnce));
    while let Some(packet) = stage.next_packet(id) {
        got.take(packet);
    }
    assert_eq!(got.numbers(QoS::AtMostOnce).len(), 9_000);
}

/// What the client gets now, without answering anything.
fn arrived(stage: &mut Stage, id: u64) -> usize {
    std::iter::from_fn(|| stage.next_packet(id))
        .filter(|packet| matches!(packet, Packet::Publish(_)))
        .count()
}

#[test]
fn what_a_client_cannot_take_any_more_leaves_room_for_what_it_can() {
    let limits = BrokerLimits {
        max_queued_bytes: 10_000,
        receive_maximum: 64,
        send_window: 64,
        sys_every: Duration::ZERO,
        ..BrokerLimits::default()
    };
    let mut stage = Stage::new(Setup {
        limits,
        access: Arc::new(Access::open()),
        is_durable: true,
        ..Setup::default()
    });
    let (publisher, mut far) = (enter(&mut stage, "publisher"), FarSide::default());
    let reader = enter(&mut stage, "reader");
    stage.send(reader, &subscribe("#", QoS::AtLeastOnce));
    let mut publish = |stage: &mut Stage, topic: &str, number: u64| {
        let packet = far.publish(topic, number, QoS::AtLeastOnce);
        stage.send(publisher, &packet);
        let answer = stage.next_packet(publisher).unwrap();
        far.take(answer);
    };
    let long = "l".repeat(4000);
    (1..=3).for_each(|number| publish(&mut stage, &long, number));
    assert_eq!(arrived(&mut stage, reader), 3, "all that fits is under way");
    stage.drop_connection(reader);

    let mut properties = Properties::default();
    properties.edit().session_expiry = Some(100_000);
    properties.edit().maximum_packet_size = NonZeroU32::new(1000);
    let reader = stage.open(Peer::default());
    stage.send(reader, &connect_as("reader", Version::V5, properties));
    assert_eq!(
        arrived(&mut stage, reader),
        0,
        "the client takes no packet of this size"
    );
    (11..=15).for_each(|number| publish(&mut stage, "short", number));
    assert_eq!(
        arrived(&mut stage, reader),
        5,
        "messages that were given up count no more"
    );
}

#[test]
fn what_is_in_flight_counts_after_a_restart() {
    let limits = BrokerLimits {
        max_queued_bytes: 10_000,
        receive_maximum: 64,
        send_window: 64,
        sys_every: Duration::ZERO,
        ..BrokerLimits::default()
    };
    let mut stage = Stage::new(Setup {
        limits,
        access: Arc::new(Access::open()),
        is_durable: true,
        ..Setup::default()
    });
    let mut far = FarSide::default();
    let reader = enter(&mut stage, "reader");
    stage.send(reader, &subscribe("#", QoS::AtLeastOnce));
    let long = "l".repeat(4000);
    let publisher = enter(&mut stage, "publisher");
    for number in 1..=4 {
        let packet = far.publish(&long, number, QoS::AtLeastOnce);
        stage.send(publisher, &packet);
    }
    assert_eq!(
        arrived(&mut stage, reader),
        3,
        "as many as `max_queued_bytes` allows"
    );
    stage.crash();
    let reader = stage.open(Peer::default());
    stage.send(reader, &connect("reader"));
    assert_eq!(
        arrived(&mut stage, reader),
        3,
        "the bound is the same after a restart"
    );
}

/// What a client that answers late does with a packet: it answers everything but PUBLISH at once.
fn keep_unanswered(stage: &mut Stage, id: u64, unanswered: &mut VecDeque<(PacketId, QoS)>) {
    while let Some(packet) = stage.next_packet(id) {
        match packet {
            Packet::Publish(publish) => {
                unanswered.push_back((publish.packet_id.unwrap(), publish.qos));
            }
            Packet::PubRel(ack) => stage.send(
                id,
                &Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::SUCCESS)),
            ),
            _ => {}
        }
    }
}

/// A message of about this size, and what its acknowledgement brings.
fn publish_sized(stage: &mut Stage, far: &mut (u64, FarSide), topic: &str, qos: QoS) {
    let number = far.1.acknowledged.last().copied().unwrap_or(0) + 1;
    let packet = far.1.publish(topic, number, qos);
    stage.send(far.0, &packet);
    while let Some(packet) = stage.next_packet(far.0) {
        if let Some(answer) = far.1.take(packet) {
            stage.send(far.0, &answer);
        }
    }
}

/// Sessions that are away, with a message of about 1200 bytes each.
fn crowd(stage: &mut Stage, far: &mut (u64, FarSide), number: usize) {
    let topic = format!("away/{number}/{}", "x".repeat(1000));
    away(stage, &format!("away-{number}"), &topic);
    publish_sized(stage, far, &topic, QoS::AtLeastOnce);
}

#[test]
fn a_client_that_acknowledges_nothing_never_gets_more_than_its_receive_maximum() {
    for (qos, refuses) in [
        (QoS::AtLeastOnce, false),
        (QoS::ExactlyOnce, false),
        (QoS::ExactlyOnce, true),
    ] {
        let limits = BrokerLimits {
            max_queued_total: 40_000,
            sys_every: Duration::ZERO,
            ..BrokerLimits::default()
        };
        let mut stage = Stage::new(Setup {
            limits,
            access: Arc::new(Access::open()),
            is_durable: true,
            ..Setup::default()
        });
        let mut properties = Properties::default();
        properties.edit().session_expiry = Some(100_000);
        properties.edit().receive_maximum = NonZeroU16::new(6);
        let mute = stage.open(Peer::default());
        stage.send(mute, &connect_as("mute", Version::V5, properties));
        stage.send(mute, &subscribe("big/#", qos));
        let mut far = (enter(&mut stage, "publisher"), FarSide::default());
        while stage.next_packet(far.0).is_some() {}
        let (mut unanswered, long) = (VecDeque::new(), format!("big/{}", "x".repeat(4000)));
        for number in 0..24 {
            publish_sized(&mut stage, &mut far, &long, qos);
            crowd(&mut stage, &mut far, number);
            keep_unanswered(&mut stage, mute, &mut unanswered);
            assert!(
                unanswered.len() <= 6,
                "{qos:?}: {} unacknowledged messages are under way to a client",
                unanswered.len()
            );
        }
        let given_up = stage.engine.traffic().dropped_full;
        assert!(given_up > 0, "messages in flight were given up");
        assert_eq!(unanswered.len(), 6);
        // Its acknowledgements are taken, also for what was given up; then there is room for new
        // messages.
        for (packet_id, _) in unanswered.drain(..) {
            let ack = Ack::new(
                packet_id,
                if refuses {
                    ReasonCode::UNSPECIFIED
                } else {
                    ReasonCode::SUCCESS
                },
            );
            stage.send(
                mute,
                &if qos == QoS::ExactlyOnce {
                    Packet::PubRec(ack)
                } else {
                    Packet::PubAck(ack)
                },
            );
        }
        let mut more = VecDeque::new();
        keep_unanswered(&mut stage, mute, &mut more);
        (0..12).for_each(|_| publish_sized(&mut stage, &mut far, "big/x", qos));
        keep_unanswered(&mut stage, mute, &mut more);
        assert!(
            !stage.is_closed(mute) && more.len() == 6,
            "{qos:?}: {} came afterwards",
            more.len()
        );
    }
}

#[test]
fn a_message_in_flight_is_given_up_for_others_and_not_sent_again() {
    let mut stage = stage();
    let mute = enter(&mut stage, "mute");
    stage.send(mute, &subscribe("big/#", QoS::AtLeastOnce));
    let mut far = (enter(&mut stage, "publisher"), FarSide::default());
    let long = format!("big/{}", "x".repeat(4000));
    (0..4).for_each(|_| publish_sized(&mut stage, &mut far, &long, QoS::AtLeastOnce));
    assert_eq!(arrived(&mut stage, mute), 4, "all fit into the window");
    (0..10).for_each(|number| crowd(&mut stage, &mut far, number));
    assert!(stage.engine.traffic().dropped_full >= 2);
    stage.drop_connection(mute);
    let again = waiting(&mut stage, "mute");
    assert!(again.len() <= 2 && again.last() == Some(&4), "{again:?}");
    assert!(
        (0..10).all(|number| waiting(&mut stage, &format!("away-{number}")).len() == 1),
        "the others have their messages"
    );
}

#[test]
fn what_was_in_flight_is_within_smaller_limits_after_a_restart() {
    let limits = BrokerLimits {
        sys_every: Duration::ZERO,
        ..BrokerLimits::default()
    };
    for (total, own) in [(20_000, 4 << 20), (64 << 20, 20_000)] {
        let mut stage = Stage::new(Setup {
            limits: limits.clone(),
            access: Arc::new(Access::open()),
            is_durable: true,
            ..Setup::default()
        });
        for name in ["one", "two"] {
            let mute = enter(&mut stage, name);
            stage.send(mute, &subscribe("big/#", QoS::AtLeastOnce));
        }
        let (publisher, mut far) = (enter(&mut stage, "publisher"), FarSide::default());
        for number in 1..=20 {
            let packet = far.publish(
                &format!("big/{number}/{}", "x".repeat(4000)),
                number,
                QoS::AtLeastOnce,
            );
            stage.send(publisher, &packet);
        }
        stage.setup.limits = BrokerLimits {
            max_queued_total: total,
            max_queued_bytes: own,
            ..limits.clone()
        };
        stage.crash();
        stage.engine.check_invariants();
        let left_out = stage.left_out.deliveries;
        assert!(
            (20..=36).contains(&left_out),
            "{left_out} of 40 deliveries are left out"
        );
        let kept = waiting(&mut stage, "one").len() + waiting(&mut stage, "two").len();
        assert_eq!(kept as u64, 40 - left_out);
    }
}

/// What a client gets after it has come back, without answering.
fn come_back(stage: &mut Stage, name: &str) -> Vec<Packet> {
    let id = enter(stage, name);
    let got = std::iter::from_fn(|| stage.next_packet(id)).collect();
    stage.drop_connection(id);
    got
}

#[test]
fn a_released_message_is_not_given_up_whatever_the_others_need() {
    for (checkpoints, crashes) in [(false, false), (false, true), (true, true)] {
        let mut stage = stage();
        let mute = enter(&mut stage, "mute");
        stage.send(mute, &subscribe("big/#", QoS::ExactlyOnce));
        let mut far = (enter(&mut stage, "publisher"), FarSide::default());
        (0..4).for_each(|number| {
            publish_sized(
                &mut stage,
                &mut far,
                &format!("big/{number}/{}", "x".repeat(3500)),
                QoS::ExactlyOnce,
            );
        });
        assert_eq!(arrived(&mut stage, mute), 4, "all fit into the window");
        let ids: Vec<PacketId> = [1, 3].into_iter().filter_map(PacketId::new).collect();
        for id in &ids {
            stage.send(mute, &Packet::PubRec(Ack::new(*id, ReasonCode::SUCCESS)));
        }
        (0..20).for_each(|number| crowd(&mut stage, &mut far, number));
        assert!(
            stage.engine.traffic().dropped_full >= 2,
            "the others need the room"
        );
        stage.drop_connection(mute);
        (20..30).for_each(|number| crowd(&mut stage, &mut far, number));
        if checkpoints {
            stage.checkpoint();
        }
        if crashes {
            stage.crash();
        }
        let released = |packet: &Packet| {
            if let Packet::PubRel(ack) = packet {
                Some(ack.packet_id)
            } else {
                None
            }
        };
        for _ in 0..2 {
            let again: Vec<PacketId> = come_back(&mut stage, "mute")
                .iter()
                .filter_map(released)
                .collect();
            assert_eq!(
                again, ids,
                "PUBREL is sent until PUBCOMP comes: {checkpoints} {crashes}"
            );
        }
        let id = enter(&mut stage, "mute");
        ids.iter().for_each(|packet_id| {
            stage.send(
                id,
                &Packet::PubComp(Ack::new(*packet_id, ReasonCode::SUCCESS)),
            );
        });
        stage.drop_connection(id);
        stage.crash();
        assert!(
            come_back(&mut stage, "mute")
                .iter()
                .all(|packet| released(packet).is_none()),
            "they are done"
        );
    }
}

#[test]
fn the_content_of_a_message_survives_for_others_when_one_has_received_it() {
    let mut stage = stage();
    let mute = enter(&mut stage, "mute");
    stage.send(mute, &subscribe("big/#", QoS::ExactlyOnce));
    away(&mut stage, "later", "big/#");
    let mut far = (enter(&mut stage, "publisher"), FarSide::default());
    publish_sized(&mut stage, &mut far, "big/x", QoS::ExactlyOnce);
    stage.engine.begin_checkpoint();
    stage.send(
        mute,
        &Packet::PubRec(Ack::new(PacketId::new(1).unwrap(), ReasonCode::SUCCESS)),
    );
    stage.checkpoint();
    stage.crash();
    assert_eq!(waiting(&mut stage, "later").len(), 1);
    let again = come_back(&mut stage, "mute");
    assert!(matches!(again.as_slice(), [Packet::PubRel(_)]), "{again:?}");
}
