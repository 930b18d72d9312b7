//! One client after the other takes as much memory as it gets, against the program as it runs: the
//! memory of the process stays within the budget of sessions and some room for the allocator, after
//! a kill and a restart as well, and somebody else notices nothing.
//! `cargo test --test gateway attack -- --nocapture` prints the table.

use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use wellhead::broker::engine::BrokerLimits;
use wellhead::mqtt::{
    Connect, Disconnect, Packet, Properties, Publish, QoS, ReasonCode, TopicName, Version, Will,
};

use super::hostile::resident;
use super::support::Gateway;
use super::support::client::{Client, hello, message};

/// What buffers, the journal's queue and the allocator may take besides the budget, in KiB.
const ROOM: u64 = 40 << 10;

/// A session that is kept.
fn kept(name: &str, version: Version, will: Option<Will>) -> Connect {
    let mut properties = Properties::default();
    if version == Version::V5 {
        properties.edit().session_expiry = Some(1_000_000);
    }
    Connect {
        clean_start: false,
        will,
        properties,
        ..hello(version, name)
    }
}

/// A client whose CONNECT is answered, whatever the answer.
fn connect(port: u16, name: &str, version: Version, will: Option<Will>) -> Client {
    Client::connect(port, kept(name, version, will)).unwrap().0
}

/// Holds connections open.
type Held = Vec<Client>;

const RETAINED: usize = 9_900;

/// Retained messages of 500 bytes, as many as there may be about.
fn retain_many(port: u16) {
    let mut client = connect(port, "keeper", Version::V311, None);
    for number in 0..RETAINED {
        let topic = format!("plant/{number}/value");
        client.publish(Publish {
            retain: true,
            ..message(&topic, QoS::AtLeastOnce, vec![b'r'; 500])
        });
        if number % 60 == 59 {
            (0..60).for_each(|_| client.await_puback());
        }
    }
}

/// Clients that subscribe to everything that is retained, and do not read what comes.
fn mute_readers(port: u16) -> Held {
    let attack = |number: usize| {
        let mut client = connect(port, &format!("mute-{number}"), Version::V311, None);
        client.subscribe(&["plant/#"], QoS::AtLeastOnce);
        client
    };
    (0..40).map(attack).collect()
}

/// How long so many messages take that wait for somebody who is away.
fn time_of_publishes(port: u16, count: u16) -> Duration {
    let mut client = connect(port, "away", Version::V311, None);
    client.subscribe(&["live/#"], QoS::AtMostOnce);
    drop(client);
    let mut client = connect(port, "honest", Version::V311, None);
    let begin = std::time::Instant::now();
    for _ in 0..count {
        client.publish(message("live/x", QoS::AtLeastOnce, ""));
        assert!(matches!(client.read_packet(), Some(Packet::PubAck(_))));
    }
    begin.elapsed()
}

/// Bytes a process has written so far.
fn written(process: i32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap();
    io.lines()
        .find_map(|line| line.strip_prefix("wchar: "))
        .unwrap()
        .parse()
        .unwrap()
}

fn deep_filters(port: u16) -> Held {
    let attack = |session: usize| {
        let mut client = connect(port, &format!("filters-{session}"), Version::V311, None);
        for packet in 0..20 {
            let filter = |number| format!("{session}-{packet}-{number}{}/y", "/x".repeat(100));
            let filters: Vec<String> = (0..50).map(filter).collect();
            client.subscribe(&filters, QoS::AtMostOnce);
        }
        client
    };
    (0..12).map(attack).collect()
}

fn long_aliases(port: u16) -> Held {
    let attack = |connection: usize| {
        let mut client = connect(port, &format!("aliases-{connection}"), Version::V5, None);
        for alias in 1..=16 {
            let topic = format!("{alias}/{}", "a".repeat(65_000));
            let mut message = message(&topic, QoS::AtMostOnce, "");
            message.properties.edit().topic_alias = NonZeroU16::new(alias);
            client.publish(message);
        }
        // Whatever was taken before an answer to it was.
        client.send(&Packet::PingReq);
        client.read_packet();
        client
    };
    (0..240).map(attack).collect()
}

fn large_wills(port: u16) -> Held {
    for number in 0..2000 {
        let mut properties = Properties::default();
        properties.edit().will_delay = Some(1_000_000);
        let payload = Bytes::from(vec![b'w'; 64_000]);
        let will = Will {
            topic: TopicName::new("will").unwrap(),
            payload,
            qos: QoS::AtMostOnce,
            retain: false,
            properties,
        };
        connect(port, &format!("wills-{number}"), Version::V5, Some(will));
    }
    Held::new()
}

fn long_identifiers(port: u16) -> Held {
    for number in 0..2000 {
        let name = format!("{number}-{}", "i".repeat(64_000));
        connect(port, &name, Version::V311, None);
    }
    Held::new()
}

fn unfinished_qos_2(port: u16) -> Held {
    let attack = |session: usize| {
        let mut client = connect(port, &format!("qos-2-{session}"), Version::V311, None);
        for _ in (1..=u16::MAX - 255).step_by(255) {
            (0..255).for_each(|_| client.publish(message("t", QoS::ExactlyOnce, "")));
            if !(0..255).all(|_| client.read_packet().is_some()) {
                break;
            }
        }
        client
    };
    (0..20).map(attack).collect()
}

/// Somebody at another address: a session with a will and subscriptions.
fn is_served(port: u16, name: &str) -> bool {
    let will = Will {
        topic: TopicName::new("will/honest").unwrap(),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: Properties::default(),
    };
    let (mut client, answer) =
        Client::connect(port, kept(name, Version::V311, Some(will))).unwrap();
    let filters = (0..5).map(|number| format!("plant/{name}/{number}/+"));
    let granted = client.subscribe(&filters.collect::<Vec<_>>(), QoS::AtMostOnce);
    client.publish(message("plant/x", QoS::ExactlyOnce, ""));
    let received = matches!(client.read_packet(), Some(Packet::PubRec(_)));
    client.send(&Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS)));
    answer.reason == ReasonCode::SUCCESS
        && received
        && granted.iter().all(|reason| !reason.is_error())
}

fn check(name: &str, attack: fn(u16) -> Held) {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "broker: { listen: [ 'mqtt://127.0.0.1:0' ], connection_rate: 100000, max_connections: 1000, max_sessions: 2000 }\n";
    let gateway = Gateway::start(folder.path(), yaml);
    let port = gateway.port();
    assert!(is_served(port, "before"));
    let before = resident(gateway.process.id());
    let held = attack(port);
    let during = resident(gateway.process.id());
    assert!(
        is_served(port, "while"),
        "{name}: a small session is refused"
    );
    drop(held);
    let after = resident(gateway.process.id());
    let gateway = gateway.kill_and_restart();
    let restarted = resident(gateway.process.id());
    assert!(
        is_served(gateway.port(), "before"),
        "{name}: a session from before is refused after a restart"
    );
    println!(
        "| {name} | {} | {} | {} | {} |",
        before / 1024,
        during / 1024,
        after / 1024,
        restarted / 1024
    );
    let budget = BrokerLimits::default().max_sessions_bytes as u64 / 1024;
    for (when, memory) in [
        ("during", during),
        ("after", after),
        ("after a restart", restarted),
    ] {
        let grown = memory.saturating_sub(before);
        assert!(grown < budget + ROOM, "{name}: {grown} KiB more {when} it");
    }
}

#[test]
fn deep_filters_stay_within_the_budget() {
    check("12 sessions x 1,000 filters x 102 levels", deep_filters);
}

#[test]
fn long_topic_aliases_stay_within_the_budget() {
    check("240 connections x 16 aliases x 65 kB", long_aliases);
}

#[test]
fn large_wills_stay_within_the_budget() {
    check("2,000 wills of 64 kB", large_wills);
}

#[test]
fn long_client_identifiers_stay_within_the_budget() {
    check("2,000 identifiers of 64 kB", long_identifiers);
}

#[test]
fn unfinished_qos_2_stays_within_the_budget() {
    check("20 sessions x 65,535 unfinished QoS 2", unfinished_qos_2);
}

#[test]
fn retained_messages_for_clients_that_do_not_read_take_little() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "broker: { listen: [ 'mqtt://127.0.0.1:0' ], connection_rate: 100000, max_connections: 1000 }\n";
    let gateway = Gateway::start(folder.path(), yaml);
    let port = gateway.port();
    retain_many(port);
    let calm = time_of_publishes(port, 300);
    let (before, written_before) = (
        resident(gateway.process.id()),
        written(gateway.process.id()),
    );
    let held = mute_readers(port);
    let stormy = time_of_publishes(port, 300);
    let (during, written_during) = (
        resident(gateway.process.id()),
        written(gateway.process.id()) - written_before,
    );
    assert!(is_served(port, "while"), "a small session is refused");
    drop(held);
    let gateway = gateway.kill_and_restart();
    let restarted = resident(gateway.process.id());
    let [before, during, restarted] = [before, during, restarted].map(|kib| kib / 1024);
    println!("| 40 clients x {RETAINED} retained | {before} | {during} | - | {restarted} |");
    println!(
        "300 PUBACKs took {calm:?} before and {stormy:?} meanwhile; {} kB were written",
        written_during / 1024
    );
    assert!(
        during < before + ROOM / 1024,
        "{during} MiB, {before} before it"
    );
    assert!(
        restarted < before + ROOM / 1024,
        "{restarted} MiB after a restart, {before} before it"
    );
    assert!(
        written_during < 60 << 20,
        "{} kB written",
        written_during / 1024
    );
    assert!(
        stormy < calm * 8,
        "300 PUBACKs took {calm:?} before and {stormy:?} meanwhile"
    );
}
