//! Random conversations with the engine beside a small model: who must get which message, how
//! often, in which order, over lost connections, answers that come late, a slow disk, crashes and
//! checkpoints.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use wellhead::broker::access::Access;
use wellhead::broker::engine::{BrokerLimits, Input, Peer, Setup};
use wellhead::mqtt::{
    Ack, Packet, PacketId, Properties, Publish, QoS, ReasonCode, Subscribe, SubscribeOptions,
    TopicFilter, TopicName, Version,
};

use super::far_side::connect_as;
use super::stage::Stage;

const CLIENTS: usize = 3;
const TOPICS: [&str; 3] = ["a/x", "a/y", "b"];
const FILTERS: [&str; 4] = ["a/#", "+/x", "b", "#"];
/// Messages the publisher may have unacknowledged.
const WINDOW: usize = 3;

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
    PublisherReads,
    PublisherDrops,
    DiskSlow,
    Commit,
    Crash,
    Checkpoint,
}

fn calm() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    prop_oneof![
        1 => client.clone().prop_map(Step::Connect),
        1 => client.clone().prop_map(Step::Drop),
        4 => (0..TOPICS.len(), 0_u8..3).prop_map(|(topic, qos)| Step::Publish(topic, qos)),
        4 => (client.clone(), 1_usize..4).prop_map(|(client, count)| Step::Read(client, count)),
        4 => (client, 1_usize..4).prop_map(|(client, count)| Step::Answer(client, count)),
        3 => Just(Step::PublisherReads),
    ]
}

/// With subscriptions that change.
fn moving() -> impl Strategy<Value = Vec<Step>> {
    let subscribe = (0..CLIENTS, 0..FILTERS.len(), 0_u8..3)
        .prop_map(|(client, filter, qos)| Step::Subscribe(client, filter, qos));
    prop::collection::vec(prop_oneof![16 => calm(), 1 => subscribe], 1..150)
}

/// With subscriptions that stand, and everything that can go wrong.
fn stormy() -> impl Strategy<Value = Vec<Step>> {
    let trouble = prop_oneof![
        Just(Step::PublisherDrops),
        Just(Step::DiskSlow),
        Just(Step::DiskSlow),
        Just(Step::Commit),
        Just(Step::Crash),
        Just(Step::Checkpoint),
    ];
    prop::collection::vec(prop_oneof![6 => calm(), 1 => trouble], 1..200)
}

/// What the far side of a session keeps and has seen.
#[derive(Default)]
struct Reader {
    connection: Option<u64>,
    known: bool,
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
    stage: Stage,
    clients: Vec<Reader>,
    publisher: Option<u64>,
    /// What the publisher has not seen acknowledged: number, topic, QoS, whether PUBREC came.
    unanswered: BTreeMap<PacketId, (u64, usize, QoS, bool)>,
    next_id: u16,
    published: u64,
    subscribes: u16,
    /// The publisher has repeated what was not acknowledged: to the broker that is a new message,
    /// at QoS 1.
    may_repeat: bool,
}

impl World {
    fn new() -> Self {
        let limits = BrokerLimits {
            receive_maximum: 3,
            send_window: 3,
            output_bytes: 40,
            sys_every: Duration::ZERO,
            ..BrokerLimits::default()
        };
        let setup = Setup {
            limits,
            access: Arc::new(Access::open()),
            is_durable: true,
            ..Setup::default()
        };
        Self {
            stage: Stage::new(setup),
            clients: (0..CLIENTS).map(|_| Reader::default()).collect(),
            publisher: None,
            unanswered: BTreeMap::new(),
            next_id: 0,
            published: 0,
            subscribes: 0,
            may_repeat: false,
        }
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Connect(index) => self.connect(index),
            Step::Drop(index) => {
                if let Some(id) = self.clients[index].connection.take() {
                    self.clients[index].owed.clear();
                    self.stage.drop_connection(id);
                }
            }
            Step::Subscribe(index, filter, qos) => {
                self.subscribe(index, filter, QoS::from_bits(qos).unwrap());
            }
            Step::Publish(topic, qos) => self.publish(topic, QoS::from_bits(qos).unwrap()),
            Step::Read(index, count) => self.read(index, count),
            Step::Answer(index, count) => self.answer(index, count),
            Step::PublisherReads => self.publisher_reads(),
            Step::PublisherDrops => {
                if let Some(id) = self.publisher.take() {
                    self.may_repeat = true;
                    self.stage.drop_connection(id);
                }
            }
            Step::DiskSlow => self.stage.is_disk_slow = true,
            Step::Commit => self.commit(),
            Step::Crash => {
                self.stage.crash();
                self.may_repeat = true;
                self.publisher = None;
                for client in &mut self.clients {
                    client.connection = None;
                    client.owed.clear();
                }
            }
            Step::Checkpoint => self.stage.checkpoint(),
        }
    }

    fn commit(&mut self) {
        self.stage.is_disk_slow = false;
        self.stage.commit();
    }

    fn connect(&mut self, index: usize) {
        if self.clients[index].connection.is_some() {
            return;
        }
        // The answer comes when the disk has what it promises.
        self.commit();
        let id = self.stage.open(Peer::default());
        self.stage.is_deaf.insert(id);
        self.clients[index].connection = Some(id);
        self.stage.send(id, &hello(&format!("client-{index}")));
        let first = self.stage.next_packet(id);
        let present = self.clients[index].known;
        assert!(
            matches!(first, Some(Packet::ConnAck(connack)) if connack.session_present == present)
        );
        self.clients[index].known = true;
        self.stage.input(Input::Written(id, 4));
    }

    fn subscribe(&mut self, index: usize, filter: usize, qos: QoS) {
        let Some(id) = self.clients[index].connection else {
            return;
        };
        self.commit();
        self.subscribes += 1;
        let filters = vec![(
            TopicFilter::new(FILTERS[filter]).unwrap(),
            SubscribeOptions {
                qos,
                ..SubscribeOptions::default()
            },
        )];
        let packet_id = PacketId::new(self.subscribes).unwrap();
        self.stage.send(
            id,
            &Packet::Subscribe(Subscribe {
                packet_id,
                filters,
                properties: Properties::default(),
            }),
        );
        self.clients[index].subscriptions.insert(filter, qos);
    }

    /// A persistent session that repeats what is not acknowledged.
    fn publisher(&mut self) -> u64 {
        if let Some(id) = self.publisher {
            return id;
        }
        let id = self.stage.open(Peer::default());
        self.publisher = Some(id);
        self.stage.send(id, &hello("publisher"));
        let mut again: Vec<(PacketId, (u64, usize, QoS, bool))> = self
            .unanswered
            .iter()
            .map(|(id, what)| (*id, *what))
            .collect();
        again.sort_by_key(|(_, (number, ..))| *number);
        for (packet_id, (number, topic, qos, received)) in again {
            if received {
                self.stage.send(
                    id,
                    &Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS)),
                );
            } else {
                self.stage
                    .send(id, &message(number, topic, qos, Some(packet_id), true));
            }
        }
        id
    }

    fn publish(&mut self, topic: usize, qos: QoS) {
        let id = self.publisher();
        if qos != QoS::AtMostOnce && self.unanswered.len() >= WINDOW {
            return;
        }
        self.published += 1;
        let name = TopicName::new(TOPICS[topic]).unwrap();
        for client in &mut self.clients {
            let granted = client
                .subscriptions
                .iter()
                .filter(|(filter, _)| TopicFilter::new(FILTERS[**filter]).unwrap().matches(&name));
            if let Some(granted) = granted.map(|(_, qos)| *qos).max() {
                client.expected.push((self.published, qos.min(granted)));
            }
        }
        let mut packet_id = None;
        if qos != QoS::AtMostOnce {
            // Identifiers are used again as soon as they are free: that is where brokers go wrong.
            let free = (1..)
                .map(|step| (self.next_id + step) % 5 + 1)
                .find_map(|id| PacketId::new(id).filter(|id| !self.unanswered.contains_key(id)));
            self.next_id += 1;
            packet_id = free;
            self.unanswered
                .insert(packet_id.unwrap(), (self.published, topic, qos, false));
        }
        self.stage
            .send(id, &message(self.published, topic, qos, packet_id, false));
    }

    fn publisher_reads(&mut self) {
        let id = self.publisher();
        while let Some(packet) = self.stage.next_packet(id) {
            match packet {
                Packet::PubAck(ack) | Packet::PubComp(ack) => {
                    self.unanswered.remove(&ack.packet_id);
                }
                Packet::PubRec(ack) => {
                    if let Some(what) = self.unanswered.get_mut(&ack.packet_id) {
                        what.3 = true;
                        self.stage.send(
                            id,
                            &Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::SUCCESS)),
                        );
                    }
                }
                _ => {}
            }
        }
    }

    fn read(&mut self, index: usize, count: usize) {
        let Some(id) = self.clients[index].connection else {
            return;
        };
        for _ in 0..count {
            let Some(packet) = self.stage.next_packet(id) else {
                return;
            };
            self.stage.input(Input::Written(
                id,
                super::support::client::bytes_of(&packet, Version::V311).len(),
            ));
            self.clients[index].take(packet, self.may_repeat);
        }
    }

    fn answer(&mut self, index: usize, count: usize) {
        for _ in 0..count {
            let Some(answer) = self.clients[index].owed.pop_front() else {
                return;
            };
            let id = self.clients[index].connection.unwrap();
            self.stage.send(id, &answer);
        }
    }

    /// Everybody is there and answers until nothing is left to say.
    fn settle(&mut self) {
        self.commit();
        loop {
            self.publisher_reads();
            let mut is_over = self.unanswered.is_empty();
            for index in 0..CLIENTS {
                self.connect(index);
                let id = self.clients[index].connection.unwrap();
                while self.stage.has_packets(id) || !self.clients[index].owed.is_empty() {
                    is_over = false;
                    self.read(index, 100);
                    self.answer(index, 100);
                }
            }
            if is_over {
                return;
            }
        }
    }
}

impl Reader {
    fn take(&mut self, packet: Packet, may_repeat: bool) {
        match packet {
            Packet::Publish(publish) => {
                let number: u64 = std::str::from_utf8(&publish.payload)
                    .unwrap()
                    .parse()
                    .unwrap();
                let seen = self
                    .accepted
                    .iter()
                    .any(|(accepted, _)| *accepted == number);
                assert!(
                    !seen || publish.dup || may_repeat,
                    "{number} comes again without DUP"
                );
                match (publish.qos, publish.packet_id) {
                    (QoS::AtMostOnce, None) => self.accepted.push((number, publish.qos)),
                    (QoS::AtLeastOnce, Some(id)) => {
                        self.accepted.push((number, publish.qos));
                        self.owed
                            .push_back(Packet::PubAck(Ack::new(id, ReasonCode::SUCCESS)));
                    }
                    (QoS::ExactlyOnce, Some(id)) => {
                        if self.open.insert(id) {
                            self.accepted.push((number, publish.qos));
                        }
                        self.owed
                            .push_back(Packet::PubRec(Ack::new(id, ReasonCode::SUCCESS)));
                    }
                    other => panic!("{other:?}"),
                }
            }
            Packet::PubRel(ack) => {
                self.open.remove(&ack.packet_id);
                self.owed.push_back(Packet::PubComp(Ack::new(
                    ack.packet_id,
                    ReasonCode::SUCCESS,
                )));
            }
            Packet::SubAck(_) => {}
            other => panic!("a client does not get {other:?}"),
        }
    }

    fn numbers(list: &[(u64, QoS)], qos: QoS) -> Vec<u64> {
        list.iter()
            .filter(|(_, own)| *own == qos)
            .map(|(number, _)| *number)
            .collect()
    }

    fn check(&self, may_repeat: bool) {
        let got = |qos| Self::numbers(&self.accepted, qos);
        let expected = |qos| Self::numbers(&self.expected, qos);
        assert_eq!(
            got(QoS::ExactlyOnce),
            expected(QoS::ExactlyOnce),
            "exactly once, in order"
        );
        let mut first = got(QoS::AtLeastOnce);
        let mut seen = HashSet::new();
        first.retain(|number| seen.insert(*number));
        assert_eq!(
            first,
            expected(QoS::AtLeastOnce),
            "at least once, in order of first arrival"
        );
        let at_most = got(QoS::AtMostOnce);
        // What the publisher repeats comes behind what it does not.
        assert!(
            may_repeat || at_most.windows(2).all(|pair| pair[0] < pair[1]),
            "at most once, in order: {at_most:?}"
        );
        let wanted: HashSet<u64> = expected(QoS::AtMostOnce).into_iter().collect();
        assert!(at_most.iter().all(|number| wanted.contains(number)));
    }
}

fn message(number: u64, topic: usize, qos: QoS, packet_id: Option<PacketId>, dup: bool) -> Packet {
    let topic = Some(TopicName::new(TOPICS[topic]).unwrap());
    let payload = Bytes::from(number.to_string());
    Packet::Publish(Publish {
        dup,
        qos,
        retain: false,
        topic,
        packet_id,
        properties: Properties::default(),
        payload,
    })
}

fn hello(name: &str) -> Packet {
    connect_as(name, Version::V311, Properties::default())
}

fn check(mut world: World, steps: Vec<Step>) {
    for step in steps {
        world.play(step);
    }
    world.settle();
    for client in &world.clients {
        client.check(world.may_repeat);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn every_session_gets_what_it_must_whatever_happens_to_its_connections(steps in moving()) {
        check(World::new(), steps);
    }

    #[test]
    fn every_session_gets_what_it_must_over_crashes_and_a_slow_disk(
        filters in prop::collection::vec((0..FILTERS.len(), 0_u8..3), CLIENTS),
        steps in stormy(),
    ) {
        let mut world = World::new();
        for (index, (filter, qos)) in filters.into_iter().enumerate() {
            world.connect(index);
            world.subscribe(index, filter, QoS::from_bits(qos).unwrap());
        }
        check(world, steps);
    }
}
