//! What sessions may hold: a client that asks for more is told so in the words of its protocol
//! version, and nobody else notices; a restart keeps to it as well.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use wellhead::broker::access::{Access, AccessRules, Hash, User};
use wellhead::broker::engine::{BrokerLimits, LeftOut, Peer, Setup};
use wellhead::mqtt::{
    Connect, Packet, PacketId, Properties, Publish, QoS, ReasonCode, TopicName, Version, Will,
};

use super::far_side::{connect_as, subscribe};
use super::stage::{SECRET, Stage, tight_limits as limits};

fn stage() -> Stage {
    let everything = || AccessRules {
        allows_all: true,
        ..AccessRules::default()
    };
    let user = || User {
        hash: Some(Hash::new(SECRET).unwrap()),
        rules: everything(),
        ..User::default()
    };
    let access = Access::new(
        HashMap::from([("anna".into(), user()), ("mallory".into(), user())]),
        Some(everything()),
    );
    Stage::new(Setup {
        limits: limits(),
        access: Arc::new(access),
        is_durable: true,
        ..Setup::default()
    })
}

fn hello(name: &str, user: &str, version: Version, will: usize) -> Packet {
    let mut properties = Properties::default();
    if version == Version::V5 {
        properties.edit().session_expiry = Some(100_000);
    }
    let Packet::Connect(connect) = connect_as(name, version, properties) else {
        panic!("CONNECT")
    };
    let topic = TopicName::new("will").unwrap();
    let will = (will > 0).then(|| Will {
        topic,
        payload: Bytes::from(vec![b'w'; will]),
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: Properties::default(),
    });
    Packet::Connect(Box::new(Connect {
        will,
        username: Some(user.to_owned().into()),
        password: Some("secret".into()),
        ..*connect
    }))
}

/// The connection, and what CONNACK says.
fn enter(stage: &mut Stage, hello: &Packet) -> (u64, ReasonCode) {
    let id = stage.open(Peer::default());
    stage.send(id, hello);
    let Some(Packet::ConnAck(answer)) = stage.next_packet(id) else {
        panic!("no CONNACK")
    };
    (id, answer.reason)
}

fn granted(stage: &mut Stage, id: u64, filter: &str) -> ReasonCode {
    stage.send(id, &subscribe(filter, QoS::AtLeastOnce));
    let Some(Packet::SubAck(answer)) = stage.next_packet(id) else {
        panic!("no SUBACK")
    };
    answer.reasons[0]
}

fn publish(topic: &str, qos: QoS, id: u16, alias: u16) -> Packet {
    let mut properties = Properties::default();
    if alias > 0 {
        properties.edit().topic_alias = NonZeroU16::new(alias);
    }
    let topic = Some(TopicName::new(topic.to_owned()).unwrap());
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id: PacketId::new(id),
        properties,
        payload: Bytes::new(),
    })
}

#[test]
fn a_will_that_is_too_much_is_refused_and_the_session_stays() {
    let mut stage = stage();
    let (first, reason) = enter(&mut stage, &hello("pump", "anna", Version::V5, 0));
    assert_eq!(reason, ReasonCode::SUCCESS);
    let (_, reason) = enter(&mut stage, &hello("pump", "anna", Version::V5, 20_000));
    assert_eq!(reason, ReasonCode::QUOTA_EXCEEDED);
    assert!(
        !stage.is_closed(first),
        "a refused CONNECT takes nothing over"
    );
    let (_, reason) = enter(&mut stage, &hello("old", "anna", Version::V311, 20_000));
    assert_eq!(
        reason,
        ReasonCode::SERVER_UNAVAILABLE,
        "before MQTT 5 there is no word for a quota"
    );
}

#[test]
fn filters_beyond_the_budget_are_refused_one_by_one() {
    let mut stage = stage();
    for (name, version, refusal) in [
        ("new", Version::V5, ReasonCode::QUOTA_EXCEEDED),
        ("old", Version::V311, ReasonCode(0x80)),
    ] {
        let (id, _) = enter(&mut stage, &hello(name, "anna", version, 0));
        let long = format!("{name}/{}", "x".repeat(3000));
        let answers: Vec<ReasonCode> = (0..6)
            .map(|number| granted(&mut stage, id, &format!("{long}/{number}")))
            .collect();
        assert_eq!(answers[0], ReasonCode(1));
        assert_eq!(answers[5], refusal);
        assert!(!stage.is_closed(id));
        // What is given back can be used again.
        assert_eq!(
            granted(&mut stage, id, &format!("{long}/0")),
            ReasonCode(1),
            "a subscription that is there can be replaced"
        );
        stage.send(
            id,
            &Packet::Disconnect(wellhead::mqtt::Disconnect::new(ReasonCode::SUCCESS)),
        );
    }
}

#[test]
fn topic_aliases_beyond_the_budget_end_the_connection() {
    let mut stage = stage();
    let (id, _) = enter(&mut stage, &hello("pump", "anna", Version::V5, 0));
    for alias in 1..=8 {
        if !stage.is_closed(id) {
            stage.send(
                id,
                &publish(
                    &format!("{alias}/{}", "x".repeat(4000)),
                    QoS::AtMostOnce,
                    0,
                    alias,
                ),
            );
        }
    }
    let Some(Packet::Disconnect(end)) = stage.next_packet(id) else {
        panic!("no DISCONNECT")
    };
    assert_eq!(end.reason, ReasonCode::QUOTA_EXCEEDED);
    let (id, reason) = enter(&mut stage, &hello("pump", "anna", Version::V5, 0));
    assert_eq!(
        (reason, granted(&mut stage, id, &"y".repeat(5000))),
        (ReasonCode::SUCCESS, ReasonCode(1)),
        "aliases go with their connection"
    );
}

#[test]
fn unfinished_qos_2_is_bounded_in_every_version() {
    let mut stage = stage();
    for (name, version) in [("new", Version::V5), ("old", Version::V311)] {
        let (mut id, mut held) = (enter(&mut stage, &hello(name, "anna", version, 0)).0, 0);
        let refused = (1..=u16::MAX).find(|number| {
            if version == Version::V5 && number % 60 == 0 {
                // Its Receive Maximum counts for one connection.
                stage.drop_connection(id);
                id = enter(&mut stage, &hello(name, "anna", version, 0)).0;
            }
            stage.send(id, &publish("t", QoS::ExactlyOnce, *number, 0));
            held += 1;
            match stage.next_packet(id) {
                Some(Packet::PubRec(answer)) => answer.reason == ReasonCode::QUOTA_EXCEEDED,
                None => stage.is_closed(id),
                other => panic!("{other:?}"),
            }
        });
        assert!(refused.is_some() && held < 1000, "{held} identifiers");
        assert_eq!(
            stage.is_closed(id),
            version != Version::V5,
            "only MQTT 5 can say no in PUBREC"
        );
    }
}

#[test]
fn a_user_who_takes_everything_disturbs_nobody() {
    let mut stage = stage();
    let mut enter_mallory = |number| {
        enter(
            &mut stage,
            &hello(&format!("mallory-{number}"), "mallory", Version::V5, 16_500),
        )
        .1
    };
    let answers: Vec<ReasonCode> = (0..4).map(&mut enter_mallory).collect();
    let expected = [
        ReasonCode::SUCCESS,
        ReasonCode::SUCCESS,
        ReasonCode::QUOTA_EXCEEDED,
        ReasonCode::QUOTA_EXCEEDED,
    ];
    assert_eq!(answers, expected, "no more than a user may have");
    let (id, reason) = enter(&mut stage, &hello("pump", "anna", Version::V5, 1000));
    assert_eq!(reason, ReasonCode::SUCCESS);
    assert_eq!(granted(&mut stage, id, "plant/#"), ReasonCode(1));
    stage.crash();
    assert_eq!(
        stage.left_out,
        LeftOut::default(),
        "what was within the budget is so after a restart"
    );
    let (id, reason) = enter(&mut stage, &hello("pump", "anna", Version::V5, 1000));
    assert_eq!(
        (reason, granted(&mut stage, id, "plant/+")),
        (ReasonCode::SUCCESS, ReasonCode(1))
    );
}

#[test]
fn a_user_who_takes_every_session_makes_room_for_others() {
    let mut stage = stage();
    for number in 0..5 {
        let (id, reason) = enter(
            &mut stage,
            &hello(&format!("mallory-{number}"), "mallory", Version::V5, 0),
        );
        assert_eq!(reason, ReasonCode::SUCCESS);
        stage.drop_connection(id);
    }
    assert_eq!(
        enter(&mut stage, &hello("mallory-5", "mallory", Version::V5, 0)).1,
        ReasonCode::QUOTA_EXCEEDED
    );
    assert_eq!(
        enter(&mut stage, &hello("pump", "anna", Version::V5, 0)).1,
        ReasonCode::SUCCESS
    );
    assert_eq!(
        enter(&mut stage, &hello("mallory-5", "mallory", Version::V5, 0)).1,
        ReasonCode::QUOTA_EXCEEDED
    );
}

#[test]
fn a_restart_with_a_smaller_budget_leaves_out_what_is_too_much() {
    let mut stage = stage();
    for name in ["a", "b", "c"] {
        let (id, reason) = enter(
            &mut stage,
            &hello(
                name,
                if name == "a" { "anna" } else { "mallory" },
                Version::V5,
                5000,
            ),
        );
        assert_eq!(reason, ReasonCode::SUCCESS);
        for number in 0..4 {
            assert_eq!(
                granted(&mut stage, id, &format!("{number}/{}", "x".repeat(500))),
                ReasonCode(1)
            );
        }
        (1..=10).for_each(|number| stage.send(id, &publish("t", QoS::ExactlyOnce, number, 0)));
        while stage.next_packet(id).is_some() {}
    }
    stage.setup.limits = BrokerLimits {
        max_sessions: 2,
        max_session_bytes: 5000,
        max_user_bytes: 4000,
        max_sessions_bytes: 12_000,
        ..limits()
    };
    stage.crash();
    stage.engine.check_invariants();
    let LeftOut {
        sessions,
        subscriptions,
        wills,
        received,
        ..
    } = stage.left_out;
    assert_eq!((sessions, wills), (1, 2), "{:?}", stage.left_out);
    assert!(subscriptions > 0 && received <= 20, "{:?}", stage.left_out);
    let left_out = stage.left_out;
    stage.crash();
    assert_eq!(stage.left_out, left_out, "the journal is the same");
    stage.checkpoint();
    stage.crash();
    assert_eq!(
        stage.left_out,
        LeftOut::default(),
        "a checkpoint holds what was restored"
    );
}

/// With a will that its session keeps for long after the connection.
fn big(name: &str, user: &str) -> Packet {
    let Packet::Connect(mut connect) = hello(name, user, Version::V5, 14_500) else {
        panic!("CONNECT")
    };
    connect.will.as_mut().unwrap().properties.edit().will_delay = Some(100_000);
    Packet::Connect(connect)
}

/// Sessions of `mallory` that hold much and are away, one second after the other.
fn big_and_away(stage: &mut Stage, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let (id, reason) = enter(stage, &big(&format!("mallory-{number}"), "mallory"));
        assert_eq!(reason, ReasonCode::SUCCESS);
        stage.drop_connection(id);
        stage.wait(Duration::from_secs(1));
    }
}

fn is_present(stage: &mut Stage, name: &str, user: &str) -> bool {
    let id = stage.open(Peer::default());
    stage.send(id, &hello(name, user, Version::V5, 0));
    let Some(Packet::ConnAck(answer)) = stage.next_packet(id) else {
        panic!("no CONNACK")
    };
    answer.session_present
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_session_that_holds_much_goes_for_a_new_one_of_its_user_after_a_long_absence() {
    let mut stage = stage();
    // It holds little: it would give no room.
    let (id, _) = enter(
        &mut stage,
        &hello("mallory-small", "mallory", Version::V5, 0),
    );
    stage.drop_connection(id);
    stage.wait(Duration::from_secs(1));
    big_and_away(&mut stage, 0..3);
    let next = big("mallory-next", "mallory");
    stage.wait(HOUR - Duration::from_secs(5));
    assert_eq!(
        enter(&mut stage, &next).1,
        ReasonCode::QUOTA_EXCEEDED,
        "nobody is away for long"
    );
    stage.wait(Duration::from_secs(3));
    assert_eq!(enter(&mut stage, &next).1, ReasonCode::SUCCESS);
    assert_eq!(stage.engine.traffic().evicted_sessions, 1);
    assert!(
        !is_present(&mut stage, "mallory-0", "mallory"),
        "the one that was away for longest is gone"
    );
    assert!(
        is_present(&mut stage, "mallory-1", "mallory")
            && is_present(&mut stage, "mallory-2", "mallory")
    );
    assert!(is_present(&mut stage, "mallory-small", "mallory"));
}

#[test]
fn the_session_of_another_user_goes_when_all_hold_too_much_and_not_before() {
    let mut stage = stage();
    stage.setup.limits = BrokerLimits {
        max_user_bytes: 60_000,
        ..limits()
    };
    let mut stage = Stage::new(stage.setup.clone());
    big_and_away(&mut stage, 0..3);
    let next = big("pump", "anna");
    assert_eq!(enter(&mut stage, &next).1, ReasonCode::QUOTA_EXCEEDED);
    stage.wait(HOUR);
    assert_eq!(enter(&mut stage, &next).1, ReasonCode::SUCCESS);
    assert_eq!(stage.engine.traffic().evicted_sessions, 1);
    assert!(
        !is_present(&mut stage, "mallory-0", "mallory")
            && is_present(&mut stage, "mallory-1", "mallory")
    );
}

#[test]
fn a_session_that_came_back_is_not_away() {
    let mut stage = stage();
    big_and_away(&mut stage, 0..3);
    stage.wait(HOUR);
    let (_, reason) = enter(&mut stage, &big("mallory-0", "mallory"));
    assert_eq!(reason, ReasonCode::SUCCESS);
    assert_eq!(
        enter(&mut stage, &big("mallory-next", "mallory")).1,
        ReasonCode::SUCCESS
    );
    assert!(
        is_present(&mut stage, "mallory-0", "mallory"),
        "it is there"
    );
    assert!(
        !is_present(&mut stage, "mallory-1", "mallory"),
        "the next one in turn went"
    );
}

#[test]
fn states_of_bridges_have_a_few_places_of_their_own() {
    let limits = BrokerLimits {
        max_retained: 50,
        sys_every: Duration::ZERO,
        ..BrokerLimits::default()
    };
    let mut stage = Stage::new(Setup {
        limits,
        access: Arc::new(Access::open()),
        is_durable: true,
        ..Setup::default()
    });
    let mut state = |version: Version, number: usize, payload: &'static str| {
        let name = format!("bridge-{number}");
        let (id, _) = enter(
            &mut stage,
            &connect_as(&name, version, Properties::default()),
        );
        let topic = TopicName::new(format!("$SYS/broker/connection/{name}/state")).unwrap();
        let packet_id = PacketId::new(1);
        let (properties, payload) = (Properties::default(), payload.into());
        let qos = QoS::AtLeastOnce;
        stage.send(
            id,
            &Packet::Publish(Publish {
                dup: false,
                qos,
                retain: true,
                topic: Some(topic),
                packet_id,
                properties,
                payload,
            }),
        );
        let Some(Packet::PubAck(ack)) = stage.next_packet(id) else {
            panic!("no PUBACK")
        };
        (ack.reason, stage.engine.traffic().refused)
    };
    let answers: Vec<ReasonCode> = (0..7)
        .map(|number| state(Version::V5, number, "1").0)
        .collect();
    assert!(
        answers[..5].iter().all(|reason| !reason.is_error()),
        "{answers:?}: a tenth of what may be retained"
    );
    assert_eq!(answers[5..], [ReasonCode::QUOTA_EXCEEDED; 2]);
    assert!(
        !state(Version::V5, 0, "0").0.is_error(),
        "a state that is there can change"
    );
    assert!(
        !state(Version::V311, 7, "1").0.is_error(),
        "before MQTT 5 it is delivered, and not retained"
    );
    assert!(!state(Version::V5, 3, "").0.is_error(), "and be removed");
    assert!(!state(Version::V5, 5, "1").0.is_error(), "which makes room");
    assert_eq!(state(Version::V5, 6, "1").0, ReasonCode::QUOTA_EXCEEDED);
}
