//! What the broker takes and does not use as its sender meant is told in the log, once for each
//! kind of fault and not for each packet.

use wellhead::broker::engine::{Input, NoticeKind, Peer};
use wellhead::message::{Message, Origin};
use wellhead::mqtt::{Ack, Connect, Properties, ReasonCode, Subscribe, Will};
use wellhead::mqtt::{Packet, Publish, QoS, SubscribeOptions, TopicFilter, TopicName, Version};

use super::stage::{Stage, setup};

fn topic(text: &str) -> TopicName {
    TopicName::of_any_depth(text.to_owned()).unwrap()
}

fn connect(stage: &mut Stage, id: &str, will: Option<(&str, bool)>) -> u64 {
    connect_from(stage, None, id, will)
}

fn connect_from(
    stage: &mut Stage,
    address: Option<&str>,
    id: &str,
    will: Option<(&str, bool)>,
) -> u64 {
    let connection = stage.open(Peer {
        address: address.map(|address| address.parse().unwrap()),
        certificate: None,
    });
    let will = will.map(|(text, retain)| Will {
        topic: topic(text),
        payload: "gone".into(),
        qos: QoS::AtMostOnce,
        retain,
        properties: Properties::default(),
    });
    stage.send(
        connection,
        &Packet::Connect(Box::new(Connect {
            version: Version::V311,
            is_bridge: false,
            clean_start: true,
            keep_alive: 0,
            client_id: id.into(),
            will,
            username: Some("anna".into()),
            password: Some("secret".into()),
            properties: Properties::default(),
        })),
    );
    connection
}

fn publish(stage: &mut Stage, connection: u64, text: &str, retain: bool) {
    stage.send(
        connection,
        &Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain,
            topic: Some(topic(text)),
            packet_id: Some(1.try_into().unwrap()),
            properties: Properties::default(),
            payload: "1".into(),
        }),
    );
}

fn check(act: impl FnOnce(&mut Stage), kind: NoticeKind, about: &str) {
    let mut stage = Stage::new(setup());
    act(&mut stage);
    assert!(!stage.notices.is_empty(), "{kind:?} of {about} is not told");
    for notice in &stage.notices {
        assert_eq!(notice.kind, kind, "{notice:?}");
        let named = notice
            .topic
            .as_ref()
            .map(ToString::to_string)
            .or(notice.client_id.as_ref().map(ToString::to_string));
        assert_eq!(named.as_deref(), Some(about), "{notice:?}");
    }
}

#[test]
fn a_message_that_is_acknowledged_and_dropped_is_told() {
    let deep = "a/".repeat(201);
    let [own, other] = ["pump", "else"].map(|id| format!("$SYS/broker/connection/{id}/state"));
    for text in [
        "other",
        "plant/fixed",
        "$SYS/broker/uptime",
        &own,
        &other,
        "$other",
        &deep,
    ] {
        let refused = |stage: &mut Stage| {
            let connection = connect(stage, "pump", None);
            publish(stage, connection, text, false);
            assert_eq!(stage.engine.traffic().refused, 1);
        };
        check(refused, NoticeKind::RefusedMessage, text);
    }
}

#[test]
fn a_will_that_is_dropped_is_told() {
    // The last one is a bridge's own, but not what a bridge says.
    for text in [
        "other",
        "$SYS/broker/connection/else/state",
        "$SYS/broker/connection/far.pump/state",
    ] {
        let lost = |stage: &mut Stage| {
            let connection = connect(stage, "pump", Some((text, false)));
            stage.drop_connection(connection);
            assert_eq!(stage.engine.traffic().refused, 1);
        };
        check(lost, NoticeKind::RefusedWill, text);
    }
}

#[test]
fn a_retained_command_is_told_wherever_it_comes_from() {
    let set = "plant/pump/set";
    let published = |stage: &mut Stage| {
        let connection = connect(stage, "pump", None);
        publish(stage, connection, set, true);
    };
    check(published, NoticeKind::RetainedCommand, set);
    let lost = |stage: &mut Stage| {
        let connection = connect(stage, "pump", Some((set, true)));
        stage.drop_connection(connection);
    };
    check(lost, NoticeKind::RetainedCommand, set);
    let sent_by_a_remote = |stage: &mut Stage| {
        let message = Message {
            origin: Origin::Uplink(0),
            ..Message::new(topic(set), "1", Origin::Uplink(0))
        };
        stage.input(Input::Inbound {
            reply: 1,
            message: message.retained(),
            exact: None,
        });
        assert_eq!(stage.safe, [1]);
        let reader = connect(stage, "pump", None);
        let filters = vec![(TopicFilter::new(set).unwrap(), SubscribeOptions::default())];
        let packet_id = 1.try_into().unwrap();
        stage.send(
            reader,
            &Packet::Subscribe(Subscribe {
                packet_id,
                filters,
                properties: Properties::default(),
            }),
        );
        let got: Vec<Packet> = std::iter::from_fn(|| stage.next_packet(reader)).collect();
        assert!(
            matches!(got[..], [Packet::ConnAck(_), Packet::SubAck(_)]),
            "{got:?}"
        );
    };
    check(sent_by_a_remote, NoticeKind::RetainedCommand, set);
}

#[test]
fn what_finds_no_room_is_told() {
    let mut tight = setup();
    tight.limits.max_retained = 0;
    let mut stage = Stage::new(tight);
    let connection = connect(&mut stage, "pump", None);
    publish(&mut stage, connection, "plant/a", true);
    assert_eq!(
        stage
            .notices
            .iter()
            .map(|notice| notice.kind)
            .collect::<Vec<_>>(),
        [NoticeKind::NotRetained]
    );

    let mut stage = Stage::new(setup());
    let slow = connect(&mut stage, "slow", None);
    let options = SubscribeOptions {
        qos: QoS::AtLeastOnce,
        ..SubscribeOptions::default()
    };
    let filters = vec![(TopicFilter::new("plant/#").unwrap(), options)];
    let packet_id = 1.try_into().unwrap();
    stage.send(
        slow,
        &Packet::Subscribe(Subscribe {
            packet_id,
            filters,
            properties: Properties::default(),
        }),
    );
    let loud = connect(&mut stage, "loud", None);
    // Four are in flight, five wait, the tenth has no room.
    for _ in 0..10 {
        publish(&mut stage, loud, "plant/a", false);
    }
    let told: Vec<_> = stage
        .notices
        .iter()
        .map(|notice| (notice.kind, notice.client_id.as_deref()))
        .collect();
    assert_eq!(told, [(NoticeKind::FullQueue, Some("slow"))]);
}

#[test]
fn a_flood_of_refused_messages_is_a_few_lines() {
    let mut stage = Stage::new(setup());
    let connection = connect(&mut stage, "pump", None);
    for _ in 0..1000 {
        publish(&mut stage, connection, "other", false);
    }
    assert!(stage.notices.len() < 20, "{} lines", stage.notices.len());
    assert_eq!(stage.engine.traffic().refused, 1000);
    stage.wait(std::time::Duration::from_secs(60));
    publish(&mut stage, connection, "other", false);
    let told: u64 = stage.notices.iter().map(|notice| 1 + notice.left_out).sum();
    assert_eq!(told, 1001, "those left out are counted");
}

/// A thousand clients, each of which publishes what is refused, at addresses made from their
/// numbers.
fn flood(address: impl Fn(usize) -> String) -> (Stage, usize) {
    let mut stage = Stage::new(setup());
    for number in 0..1000 {
        let connection = connect_from(
            &mut stage,
            Some(&address(number)),
            &format!("pump-{number}"),
            None,
        );
        publish(&mut stage, connection, "other", false);
        stage.drop_connection(connection);
    }
    let lines = stage.notices.len();
    assert_eq!(stage.engine.traffic().refused, 1000);
    stage.wait(std::time::Duration::from_secs(60));
    stage.engine.settle_notices(stage.now);
    stage.settle();
    (stage, lines)
}

fn check_suppressed(stage: &Stage) {
    let told: u64 = stage.notices.iter().map(|notice| 1 + notice.left_out).sum();
    let [(event, left_out)] = stage.suppressed[..] else {
        panic!("{:?}", stage.suppressed)
    };
    assert_eq!(
        (event, told + left_out),
        ("broker.message_refused", 1000),
        "every one is counted, in one line"
    );
}

#[test]
fn one_address_with_a_thousand_client_identifiers_causes_a_few_lines() {
    for address in ["192.0.2.1", "127.0.0.1"] {
        let (stage, lines) = flood(|_| address.to_owned());
        assert_eq!(lines, 10, "{address}");
        check_suppressed(&stage);
    }
    let (stage, lines) = flood(|number| format!("2001:db8::{number:x}"));
    assert_eq!(lines, 10, "the addresses of one network");
    check_suppressed(&stage);
}

#[test]
fn a_thousand_addresses_cause_a_few_lines_and_hide_no_other_kind() {
    let (mut stage, lines) =
        flood(|number| format!("198.51.{}.{}", 100 + number / 250, number % 250));
    assert!(
        lines <= 50,
        "{lines} lines: those of all sources, and the reserve"
    );
    check_suppressed(&stage);
    for number in 0..1000 {
        let connection = connect_from(
            &mut stage,
            Some(&format!("203.0.{}.{}", number / 250, number % 250)),
            "pump",
            None,
        );
        publish(&mut stage, connection, "other", false);
    }
    let connection = connect_from(&mut stage, Some("192.0.2.1"), "hmi", None);
    publish(&mut stage, connection, "plant/pump/set", true);
    let last = stage
        .notices
        .last()
        .map(|notice| (notice.kind, notice.client_id.as_deref()));
    assert_eq!(last, Some((NoticeKind::RetainedCommand, Some("hmi"))));
}

#[test]
fn an_acknowledgement_of_the_wrong_kind_is_told() {
    let wrong = |stage: &mut Stage| {
        let reader = connect(stage, "pump", None);
        let options = SubscribeOptions {
            qos: QoS::AtLeastOnce,
            ..SubscribeOptions::default()
        };
        let filters = vec![(TopicFilter::new("plant/a").unwrap(), options)];
        let packet_id = 1.try_into().unwrap();
        stage.send(
            reader,
            &Packet::Subscribe(Subscribe {
                packet_id,
                filters,
                properties: Properties::default(),
            }),
        );
        publish(stage, reader, "plant/a", false);
        stage.send(
            reader,
            &Packet::PubComp(Ack::new(packet_id, ReasonCode::SUCCESS)),
        );
        assert!(stage.is_closed(reader));
    };
    check(wrong, NoticeKind::WrongAcknowledgement, "pump");
}

#[test]
fn reasons_name_the_packet_the_rule_and_the_setting() {
    for (qos, wrong, why) in [
        (
            QoS::ExactlyOnce,
            Packet::PubAck as fn(Ack) -> Packet,
            "PUBACK for a QoS 2 message",
        ),
        (
            QoS::AtLeastOnce,
            Packet::PubRec,
            "PUBREC for a QoS 1 message",
        ),
    ] {
        let mut stage = Stage::new(setup());
        let reader = connect(&mut stage, "pump", None);
        let options = SubscribeOptions {
            qos,
            ..SubscribeOptions::default()
        };
        let filters = vec![(TopicFilter::new("plant/a").unwrap(), options)];
        let packet_id = 1.try_into().unwrap();
        stage.send(
            reader,
            &Packet::Subscribe(Subscribe {
                packet_id,
                filters,
                properties: Properties::default(),
            }),
        );
        let message = Message {
            qos,
            ..Message::new(topic("plant/a"), "1", Origin::Client)
        };
        stage.input(Input::Publish(message));
        stage.send(reader, &wrong(Ack::new(packet_id, ReasonCode::SUCCESS)));
        assert_eq!(stage.notices.last().map(|notice| notice.why), Some(why));
    }
    let mut stage = Stage::new(setup());
    connect(&mut stage, "pump/1", None);
    let why = "a rule of this user uses %c, so the client identifier must not be empty or contain +, # or /";
    assert_eq!(stage.notes.last().map(|note| note.why), Some(why));
}
