//! One client after the other takes as much memory as it gets, against the program as it runs: the
//! memory of the process stays within the budget of sessions and some room for the allocator, after
//! a kill and a restart as well, and somebody else notices nothing.
//! `cargo test --test gateway attack -- --nocapture` prints the table.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use wellhead::broker::engine::BrokerLimits;
use wellhead::mqtt::{
    Connect, Packet, PacketId, Properties, Publish, QoS, Subscribe, SubscribeOptions, TopicFilter,
    TopicName, Version, Will, encode,
};

use super::hostile::resident;
use super::support::{Gateway, free_port};

/// What buffers, the journal's queue and the allocator may take besides the budget, in KiB.
const ROOM: u64 = 40 << 10;

struct Peer {
    stream: TcpStream,
    version: Version,
}

impl Peer {
    fn connect(port: u16, name: &str, version: Version, will: Option<Will>) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut peer = Self { stream, version };
        let mut properties = Properties::default();
        if version == Version::V5 {
            properties.edit().session_expiry = Some(1_000_000);
        }
        peer.send(&Packet::Connect(Box::new(Connect {
            version,
            is_bridge: false,
            clean_start: false,
            keep_alive: 0,
            client_id: name.to_owned().into(),
            will,
            username: None,
            password: None,
            properties,
        })));
        peer
    }

    /// A connection that was closed tells so when it is read.
    fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        encode(packet, self.version, &mut bytes);
        let _ = self.stream.write_all(&bytes);
    }

    /// The next packet as bytes, its fixed header without the length first; `None` if the
    /// connection was closed.
    fn answer(&mut self) -> Option<Vec<u8>> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).ok()?;
        let (mut length, mut shift) = (usize::from(head[1] & 0x7F), 7);
        let mut last = head[1];
        while last & 0x80 != 0 {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).ok()?;
            last = byte[0];
            length |= usize::from(last & 0x7F) << shift;
            shift += 7;
        }
        let mut packet = vec![0; length + 1];
        packet[0] = head[0];
        self.stream.read_exact(&mut packet[1..]).ok()?;
        Some(packet)
    }

    fn subscribe(&mut self, filters: impl Iterator<Item = String>) -> Vec<u8> {
        let filters = filters
            .map(|text| (TopicFilter::new(text).unwrap(), SubscribeOptions::default()))
            .collect();
        self.send(&Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(1).unwrap(),
            filters,
            properties: Properties::default(),
        }));
        self.answer().unwrap()
    }

    fn publish(&mut self, topic: &str, qos: QoS, id: u16, alias: u16) {
        let mut properties = Properties::default();
        if alias > 0 {
            properties.edit().topic_alias = NonZeroU16::new(alias);
        }
        let topic = Some(TopicName::new(topic.to_owned()).unwrap());
        self.send(&Packet::Publish(Publish {
            dup: false,
            qos,
            retain: false,
            topic,
            packet_id: PacketId::new(id),
            properties,
            payload: Bytes::new(),
        }));
    }
}

/// Holds connections open.
type Held = Vec<Peer>;

const RETAINED: usize = 9_900;

/// Retained messages of 500 bytes, as many as there may be about.
fn retain_many(port: u16) {
    let mut peer = Peer::connect(port, "keeper", Version::V311, None);
    peer.answer();
    for number in 0..RETAINED {
        let packet_id = PacketId::new(u16::try_from(number % 60 + 1).unwrap());
        let topic = Some(TopicName::new(format!("plant/{number}/value")).unwrap());
        let (dup, payload, properties) =
            (false, Bytes::from(vec![b'r'; 500]), Properties::default());
        peer.send(&Packet::Publish(Publish {
            dup,
            qos: QoS::AtLeastOnce,
            retain: true,
            topic,
            packet_id,
            properties,
            payload,
        }));
        if number % 60 == 59 {
            (0..60).for_each(|_| drop(peer.answer().unwrap()));
        }
    }
}

/// Clients that subscribe to everything that is retained, and do not read what comes.
fn mute_readers(port: u16) -> Held {
    let attack = |number: usize| {
        let mut peer = Peer::connect(port, &format!("mute-{number}"), Version::V311, None);
        peer.answer();
        let options = SubscribeOptions {
            qos: QoS::AtLeastOnce,
            ..SubscribeOptions::default()
        };
        let filters = vec![(TopicFilter::new("plant/#").unwrap(), options)];
        peer.send(&Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(1).unwrap(),
            filters,
            properties: Properties::default(),
        }));
        peer.answer();
        peer
    };
    (0..40).map(attack).collect()
}

/// How long so many messages take that wait for somebody who is away.
fn time_of_publishes(port: u16, count: u16) -> Duration {
    let mut peer = Peer::connect(port, "away", Version::V311, None);
    peer.answer();
    peer.subscribe(std::iter::once("live/#".to_owned()));
    drop(peer);
    let mut peer = Peer::connect(port, "honest", Version::V311, None);
    peer.answer();
    let begin = std::time::Instant::now();
    for id in 1..=count {
        peer.publish("live/x", QoS::AtLeastOnce, id, 0);
        assert!(peer.answer().is_some_and(|ack| ack[0] == 0x40));
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
        let mut peer = Peer::connect(port, &format!("filters-{session}"), Version::V311, None);
        peer.answer().unwrap();
        for packet in 0..20 {
            peer.subscribe(
                (0..50).map(|number| format!("{session}-{packet}-{number}{}/y", "/x".repeat(100))),
            );
        }
        peer
    };
    (0..12).map(attack).collect()
}

fn long_aliases(port: u16) -> Held {
    let attack = |connection: usize| {
        let mut peer = Peer::connect(port, &format!("aliases-{connection}"), Version::V5, None);
        peer.answer();
        for alias in 1..=16 {
            peer.publish(
                &format!("{alias}/{}", "a".repeat(65_000)),
                QoS::AtMostOnce,
                0,
                alias,
            );
        }
        // Whatever was taken before an answer to it was.
        peer.send(&Packet::PingReq);
        peer.answer();
        peer
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
        Peer::connect(port, &format!("wills-{number}"), Version::V5, Some(will)).answer();
    }
    Held::new()
}

fn long_identifiers(port: u16) -> Held {
    for number in 0..2000 {
        Peer::connect(
            port,
            &format!("{number}-{}", "i".repeat(64_000)),
            Version::V311,
            None,
        )
        .answer();
    }
    Held::new()
}

fn unfinished_qos_2(port: u16) -> Held {
    let attack = |session: usize| {
        let mut peer = Peer::connect(port, &format!("qos-2-{session}"), Version::V311, None);
        peer.answer();
        for first in (1..=u16::MAX - 255).step_by(255) {
            (first..first + 255).for_each(|id| peer.publish("t", QoS::ExactlyOnce, id, 0));
            if !(0..255).all(|_| peer.answer().is_some()) {
                break;
            }
        }
        peer
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
    let mut peer = Peer::connect(port, name, Version::V311, Some(will));
    let is_in = peer.answer().is_some_and(|connack| connack[2] == 0);
    let granted = peer.subscribe((0..5).map(|number| format!("plant/{name}/{number}/+")));
    peer.publish("plant/x", QoS::ExactlyOnce, 7, 0);
    let received = peer.answer().is_some_and(|pubrec| pubrec[0] == 0x50);
    peer.send(&Packet::Disconnect(wellhead::mqtt::Disconnect::new(
        wellhead::mqtt::ReasonCode::SUCCESS,
    )));
    is_in && received && granted[3..].iter().all(|reason| *reason < 3)
}

fn check(name: &str, attack: fn(u16) -> Held) {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let yaml = format!(
        "broker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ], connection_rate: 100000, max_connections: 1000, max_sessions: 2000 }}\n"
    );
    let gateway = Gateway::start(folder.path(), &yaml);
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
        is_served(port, "before"),
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
    let port = free_port();
    let yaml = format!(
        "broker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ], connection_rate: 100000, max_connections: 1000 }}\n"
    );
    let gateway = Gateway::start(folder.path(), &yaml);
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
