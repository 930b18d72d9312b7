//! kill -9 of the broker in the middle of traffic, again and again: what was acknowledged arrives, QoS 2 once, sessions and retained
//! values are as promised.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use wellhead::mqtt::{
    Ack, Connect, Decoder, Packet, PacketId, Progress, Properties, Publish, QoS, ReasonCode, Subscribe, SubscribeOptions, TopicFilter,
    TopicName, Version,
};

use super::stage::bytes_of;
use super::support::{Gateway, free_port};

const WINDOW: usize = 20;

/// A client that keeps its session over connections.
struct Peer {
    name: &'static str,
    port: u16,
    stream: Option<TcpStream>,
    input: BytesMut,
    was_here: bool,
    /// Packets that came after CONNACK.
    packets: VecDeque<Packet>,
}

impl Peer {
    fn new(name: &'static str, port: u16) -> Self {
        Self { name, port, stream: None, input: BytesMut::new(), was_here: false, packets: VecDeque::new() }
    }

    /// True if there is a connection with a session now; `is_new` if it was just made.
    fn connect(&mut self) -> Option<bool> {
        if self.stream.is_some() {
            return Some(false);
        }
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let mut properties = Properties::default();
        properties.edit().session_expiry = Some(3600);
        let connect = Connect {
            version: Version::V5,
            is_bridge: false,
            clean_start: false,
            keep_alive: 0,
            client_id: self.name.into(),
            will: None,
            username: None,
            password: None,
            properties,
        };
        stream.write_all(&bytes_of(&Packet::Connect(Box::new(connect)), Version::V5)).ok()?;
        self.input.clear();
        self.packets.clear();
        let connack = loop {
            if let Ok(Progress::Packet(packet)) = Decoder::client(Version::V5, 1 << 20).decode(&mut self.input) {
                break packet;
            }
            let mut space = [0; 4096];
            let count = stream.read(&mut space).ok().filter(|count| *count > 0)?;
            self.input.extend_from_slice(&space[..count]);
        };
        let Packet::ConnAck(connack) = connack else { panic!("{connack:?}") };
        assert_eq!(connack.reason, ReasonCode::SUCCESS);
        assert!(connack.session_present || !self.was_here, "{} has lost its session", self.name);
        self.was_here = true;
        stream.set_nonblocking(true).ok()?;
        self.stream = Some(stream);
        Some(true)
    }

    fn send(&mut self, packet: &Packet) {
        let bytes = bytes_of(packet, Version::V5);
        let Some(stream) = &mut self.stream else { return };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(_) => return self.stream = None,
            }
        }
    }

    /// Reads what is there.
    fn read(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let mut space = [0; 16 * 1024];
        match stream.read(&mut space) {
            Ok(0) => self.stream = None,
            Ok(count) => self.input.extend_from_slice(&space[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_micros(100)),
            Err(_) => self.stream = None,
        }
        while let Progress::Packet(packet) = Decoder::client(Version::V5, 1 << 20).decode(&mut self.input).unwrap() {
            self.packets.push_back(packet);
        }
    }
}

#[derive(Clone, Copy)]
struct Sent {
    number: u64,
    qos: QoS,
    released: bool,
}

/// Publishes numbers: even ones at QoS 2, odd ones at QoS 1, every tenth one retained.
struct Publisher {
    peer: Peer,
    next: u64,
    in_flight: BTreeMap<PacketId, Sent>,
    acknowledged: BTreeSet<u64>,
}

fn message(number: u64, qos: QoS, packet_id: PacketId, dup: bool) -> Packet {
    Packet::Publish(Publish {
        dup,
        qos,
        retain: number % 10 == 0,
        topic: Some(TopicName::new(format!("numbers/{}", number % 5)).unwrap()),
        packet_id: Some(packet_id),
        properties: Properties::default(),
        payload: Bytes::from(number.to_string()),
    })
}

impl Publisher {
    fn turn(&mut self, may_begin: bool) {
        match self.peer.connect() {
            None => return,
            Some(true) => self.repeat(),
            Some(false) => {}
        }
        while may_begin && self.in_flight.len() < WINDOW && self.peer.stream.is_some() {
            let id = (1..).find_map(|id| PacketId::new(id).filter(|id| !self.in_flight.contains_key(id))).unwrap();
            let qos = if self.next % 2 == 0 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
            self.in_flight.insert(id, Sent { number: self.next, qos, released: false });
            self.peer.send(&message(self.next, qos, id, false));
            self.next += 1;
        }
        self.peer.read();
        while let Some(packet) = self.peer.packets.pop_front() {
            match packet {
                Packet::PubAck(ack) | Packet::PubComp(ack) => {
                    let done = self.in_flight.remove(&ack.packet_id).unwrap();
                    self.acknowledged.insert(done.number);
                }
                Packet::PubRec(ack) => {
                    let sent = self.in_flight.get_mut(&ack.packet_id).unwrap();
                    sent.released = true;
                    self.acknowledged.insert(sent.number);
                    self.peer.send(&Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::SUCCESS)));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn repeat(&mut self) {
        let mut again: Vec<(PacketId, Sent)> = self.in_flight.iter().map(|(id, sent)| (*id, *sent)).collect();
        again.sort_by_key(|(_, sent)| sent.number);
        for (id, sent) in again {
            let release = Packet::PubRel(Ack::new(id, ReasonCode::SUCCESS));
            self.peer.send(&if sent.released { release } else { message(sent.number, sent.qos, id, true) });
        }
    }
}

/// Subscribes to all of them at QoS 2.
struct Subscriber {
    peer: Peer,
    open: HashSet<PacketId>,
    exact: Vec<u64>,
    at_least: Vec<u64>,
}

impl Subscriber {
    fn subscribe(&mut self) {
        while self.peer.connect().is_none() {}
        let options = SubscribeOptions { qos: QoS::ExactlyOnce, ..SubscribeOptions::default() };
        let filters = vec![(TopicFilter::new("numbers/#").unwrap(), options)];
        let packet_id = PacketId::new(1).unwrap();
        self.peer.send(&Packet::Subscribe(Subscribe { packet_id, filters, properties: Properties::default() }));
        while self.peer.packets.pop_front().is_none() {
            self.peer.read();
        }
    }

    fn turn(&mut self) {
        if self.peer.connect().is_none() {
            return;
        }
        self.peer.read();
        while let Some(packet) = self.peer.packets.pop_front() {
            match packet {
                Packet::Publish(publish) => {
                    let number: u64 = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
                    let id = publish.packet_id.unwrap();
                    let ack = Ack::new(id, ReasonCode::SUCCESS);
                    if publish.qos == QoS::AtLeastOnce {
                        self.at_least.push(number);
                        self.peer.send(&Packet::PubAck(ack));
                    } else {
                        if self.open.insert(id) {
                            self.exact.push(number);
                        }
                        self.peer.send(&Packet::PubRec(ack));
                    }
                }
                Packet::PubRel(ack) => {
                    self.open.remove(&ack.packet_id);
                    self.peer.send(&Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::SUCCESS)));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn kill_9_in_the_middle_of_traffic_loses_nothing_acknowledged_and_doubles_no_qos_2() {
    let rounds = if std::env::var_os("WELLHEAD_LONG").is_some() { 250 } else { 12 };
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let limits = "max_queued: 1000000, max_queued_size: 100MB, max_queued_total: 200MB";
    let mut gateway = Gateway::start(folder.path(), &format!("broker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ], {limits} }}\n"));
    let mut publisher =
        Publisher { peer: Peer::new("publisher", port), next: 1, in_flight: BTreeMap::new(), acknowledged: BTreeSet::new() };
    let mut subscriber = Subscriber { peer: Peer::new("subscriber", port), open: HashSet::new(), exact: Vec::new(), at_least: Vec::new() };
    subscriber.subscribe();
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..rounds {
        let end = Instant::now() + Duration::from_millis(random.u64(20..250));
        // Some rounds long the subscriber is away, so that queues grow.
        let is_away = round % 4 == 3;
        if is_away {
            subscriber.peer.stream = None;
        }
        while Instant::now() < end {
            publisher.turn(true);
            if !is_away {
                subscriber.turn();
            }
        }
        gateway = gateway.kill_and_restart();
        publisher.peer.stream = None;
        subscriber.peer.stream = None;
    }
    let end = Instant::now() + Duration::from_secs(60);
    let wanted = |publisher: &Publisher, odd: u64| (1..publisher.next).filter(|number| number % 2 == odd).collect::<Vec<u64>>();
    while Instant::now() < end {
        publisher.turn(false);
        subscriber.turn();
        let has_all = subscriber.exact.len() >= wanted(&publisher, 0).len()
            && subscriber.at_least.iter().collect::<HashSet<_>>().len() >= wanted(&publisher, 1).len();
        if publisher.in_flight.is_empty() && has_all {
            break;
        }
    }
    assert_eq!(publisher.acknowledged.len() as u64, publisher.next - 1, "everything is acknowledged in the end");
    assert_eq!(subscriber.exact, wanted(&publisher, 0), "QoS 2: each once, in order");
    let mut seen = HashSet::new();
    let first: Vec<u64> = subscriber.at_least.iter().copied().filter(|number| seen.insert(*number)).collect();
    let lost: Vec<u64> = wanted(&publisher, 1).into_iter().filter(|number| !seen.contains(number)).collect();
    assert!(lost.is_empty(), "QoS 1: {lost:?} never came");
    assert!(first.is_sorted(), "QoS 1: in order of first arrival");
    let newest: u64 = (1..publisher.next).rev().find(|number| number % 10 == 0).unwrap();
    let (_, kept, _) = super::support::run(std::process::Command::new("mosquitto_sub").args([
        "-p",
        &port.to_string(),
        "-t",
        "numbers/#",
        "-C",
        "1",
        "-W",
        "10",
    ]));
    assert_eq!(kept.trim(), newest.to_string(), "the last retained value");
    println!(
        "{} messages, {rounds} kills: 0 lost, 0 doubled, {} repeated at QoS 1",
        publisher.next - 1,
        subscriber.at_least.len() - seen.len()
    );
}
