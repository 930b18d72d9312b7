//! Random conversations with the engine beside a small model: who must get which message, how often, in which order, over lost
//! connections and answers that come late.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use wellhead::broker::engine::{Engine, Input, Limits, Output};
use wellhead::mqtt::{
    Ack, Connect, Packet, PacketId, Properties, Publish, QoS, ReasonCode, Subscribe, SubscribeOptions, TopicFilter, TopicName, Version,
};

const CLIENTS: usize = 3;
const TOPICS: [&str; 3] = ["a/x", "a/y", "b"];
const FILTERS: [&str; 4] = ["a/#", "+/x", "b", "#"];
const PUBLISHER: u64 = 1;

#[derive(Debug, Clone)]
enum Step {
    Connect(usize),
    Drop(usize),
    Subscribe(usize, usize, u8),
    Publish(usize, u8),
    /// The client reads so many packets.
    Read(usize, usize),
    /// The client sends so many of the answers it owes.
    Answer(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..CLIENTS;
    let step = prop_oneof![
        1 => client.clone().prop_map(Step::Connect),
        1 => client.clone().prop_map(Step::Drop),
        1 => (client.clone(), 0..FILTERS.len(), 0_u8..3).prop_map(|(client, filter, qos)| Step::Subscribe(client, filter, qos)),
        4 => (0..TOPICS.len(), 0_u8..3).prop_map(|(topic, qos)| Step::Publish(topic, qos)),
        4 => (client.clone(), 1_usize..4).prop_map(|(client, count)| Step::Read(client, count)),
        4 => (client, 1_usize..4).prop_map(|(client, count)| Step::Answer(client, count)),
    ];
    prop::collection::vec(step, 1..150)
}

/// What the far side of a session keeps and has seen.
#[derive(Default)]
struct Client {
    connection: Option<u64>,
    known: bool,
    inbox: VecDeque<Packet>,
    owed: VecDeque<Packet>,
    /// QoS 2 identifiers between PUBLISH and PUBREL.
    open: HashSet<PacketId>,
    /// Number and QoS, as accepted.
    accepted: Vec<(u64, QoS)>,
    subscriptions: HashMap<usize, QoS>,
    /// The model: what it must get.
    expected: Vec<(u64, QoS)>,
}

struct World {
    engine: Engine,
    now: Instant,
    clients: Vec<Client>,
    next_connection: u64,
    published: u64,
    subscribes: u16,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let limits = Limits { receive_maximum: 3, credits: 4, sys_every: Duration::from_secs(1_000_000), ..Limits::default() };
        let mut world = Self {
            engine: Engine::new(limits, Vec::new(), 1, now),
            now,
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            next_connection: PUBLISHER,
            published: 0,
            subscribes: 0,
        };
        world.input(Input::Opened(PUBLISHER));
        world.input(Input::Packet(PUBLISHER, hello("publisher")));
        world
    }

    fn input(&mut self, input: Input) {
        self.engine.handle(input, self.now);
        self.engine.tick(self.now);
        let outputs: Vec<Output> = self.engine.take_outputs().collect();
        for output in outputs {
            match output {
                Output::Send(id, packet) => {
                    if let Some(client) = self.clients.iter_mut().find(|client| client.connection == Some(id)) {
                        client.inbox.push_back(packet);
                    }
                }
                Output::Close(id) => assert!(self.clients.iter().all(|client| client.connection != Some(id)), "an honest client is closed"),
                other => panic!("{other:?}"),
            }
        }
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Connect(index) => self.connect(index),
            Step::Drop(index) => {
                if let Some(id) = self.clients[index].connection.take() {
                    self.clients[index].inbox.clear();
                    self.clients[index].owed.clear();
                    self.input(Input::Closed(id));
                }
            }
            Step::Subscribe(index, filter, qos) => {
                if let Some(id) = self.clients[index].connection {
                    let qos = QoS::from_bits(qos).unwrap();
                    self.subscribes += 1;
                    let filters =
                        vec![(TopicFilter::new(FILTERS[filter]).unwrap(), SubscribeOptions { qos, ..SubscribeOptions::default() })];
                    let subscribe =
                        Subscribe { packet_id: PacketId::new(self.subscribes).unwrap(), filters, properties: Properties::default() };
                    self.input(Input::Packet(id, Packet::Subscribe(subscribe)));
                    self.clients[index].subscriptions.insert(filter, qos);
                }
            }
            Step::Publish(topic, qos) => self.publish(topic, QoS::from_bits(qos).unwrap()),
            Step::Read(index, count) => self.read(index, count),
            Step::Answer(index, count) => self.answer(index, count),
        }
    }

    fn connect(&mut self, index: usize) {
        if self.clients[index].connection.is_some() {
            return;
        }
        self.next_connection += 1;
        let id = self.next_connection;
        self.clients[index].connection = Some(id);
        self.input(Input::Opened(id));
        self.input(Input::Packet(id, hello(&format!("client-{index}"))));
        let first = self.clients[index].inbox.pop_front();
        let present = self.clients[index].known;
        assert!(matches!(first, Some(Packet::ConnAck(connack)) if connack.session_present == present));
        self.clients[index].known = true;
    }

    fn publish(&mut self, topic: usize, qos: QoS) {
        self.published += 1;
        let name = TopicName::new(TOPICS[topic]).unwrap();
        for client in &mut self.clients {
            let granted = client.subscriptions.iter().filter(|(filter, _)| TopicFilter::new(FILTERS[**filter]).unwrap().matches(&name));
            if let Some(granted) = granted.map(|(_, qos)| *qos).max() {
                client.expected.push((self.published, qos.min(granted)));
            }
        }
        let packet_id = (qos != QoS::AtMostOnce).then(|| PacketId::new(1).unwrap());
        let payload = Bytes::from(self.published.to_string());
        let publish = Publish { dup: false, qos, retain: false, topic: Some(name), packet_id, properties: Properties::default(), payload };
        self.input(Input::Packet(PUBLISHER, Packet::Publish(publish)));
        if qos == QoS::ExactlyOnce {
            self.input(Input::Packet(PUBLISHER, Packet::PubRel(Ack::new(packet_id.unwrap(), ReasonCode::SUCCESS))));
        }
    }

    fn read(&mut self, index: usize, count: usize) {
        for _ in 0..count {
            let Some(packet) = self.clients[index].inbox.pop_front() else { return };
            if matches!(packet, Packet::Publish(_)) {
                let id = self.clients[index].connection.unwrap();
                self.input(Input::Written(id, 1));
            }
            self.clients[index].take(packet);
        }
    }

    fn answer(&mut self, index: usize, count: usize) {
        for _ in 0..count {
            let Some(answer) = self.clients[index].owed.pop_front() else { return };
            let id = self.clients[index].connection.unwrap();
            self.input(Input::Packet(id, answer));
        }
    }

    /// Everybody is there and answers until nothing is left to say.
    fn settle(&mut self) {
        for index in 0..CLIENTS {
            self.connect(index);
            while !(self.clients[index].inbox.is_empty() && self.clients[index].owed.is_empty()) {
                self.read(index, 100);
                self.answer(index, 100);
            }
        }
    }
}

impl Client {
    fn take(&mut self, packet: Packet) {
        match packet {
            Packet::Publish(publish) => {
                let number: u64 = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
                let seen = self.accepted.iter().any(|(accepted, _)| *accepted == number);
                assert!(!seen || publish.dup, "{number} comes again without DUP");
                match (publish.qos, publish.packet_id) {
                    (QoS::AtMostOnce, None) => self.accepted.push((number, publish.qos)),
                    (QoS::AtLeastOnce, Some(id)) => {
                        self.accepted.push((number, publish.qos));
                        self.owed.push_back(Packet::PubAck(Ack::new(id, ReasonCode::SUCCESS)));
                    }
                    (QoS::ExactlyOnce, Some(id)) => {
                        if self.open.insert(id) {
                            self.accepted.push((number, publish.qos));
                        }
                        self.owed.push_back(Packet::PubRec(Ack::new(id, ReasonCode::SUCCESS)));
                    }
                    other => panic!("{other:?}"),
                }
            }
            Packet::PubRel(ack) => {
                self.open.remove(&ack.packet_id);
                self.owed.push_back(Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::SUCCESS)));
            }
            Packet::SubAck(_) => {}
            other => panic!("a client does not get {other:?}"),
        }
    }

    fn numbers(list: &[(u64, QoS)], qos: QoS) -> Vec<u64> {
        list.iter().filter(|(_, own)| *own == qos).map(|(number, _)| *number).collect()
    }

    fn check(&self) {
        let got = |qos| Self::numbers(&self.accepted, qos);
        let expected = |qos| Self::numbers(&self.expected, qos);
        assert_eq!(got(QoS::ExactlyOnce), expected(QoS::ExactlyOnce), "exactly once, in order");
        let mut first = got(QoS::AtLeastOnce);
        let mut seen = HashSet::new();
        first.retain(|number| seen.insert(*number));
        assert_eq!(first, expected(QoS::AtLeastOnce), "at least once, in order of first arrival");
        let at_most = got(QoS::AtMostOnce);
        assert!(at_most.windows(2).all(|pair| pair[0] < pair[1]), "at most once, in order: {at_most:?}");
        let wanted: HashSet<u64> = expected(QoS::AtMostOnce).into_iter().collect();
        assert!(at_most.iter().all(|number| wanted.contains(number)));
    }
}

fn hello(name: &str) -> Packet {
    Packet::Connect(Box::new(Connect {
        version: Version::V311,
        clean_start: false,
        keep_alive: 0,
        client_id: name.into(),
        will: None,
        username: None,
        password: None,
        properties: Properties::default(),
    }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn every_session_gets_what_it_must_whatever_happens_to_its_connections(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.play(step);
        }
        world.settle();
        for client in &world.clients {
            client.check();
        }
    }
}
