//! Retained messages on their way to a new subscription: few of them wait for one client, whatever
//! is retained and whoever does not read, and all of them arrive, each once and in the order of the
//! topics, whatever happens meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use wellhead::broker::access::Access;
use wellhead::broker::engine::{BrokerLimits, Input, NoticeKind, Peer, QueueFull, Setup};
use wellhead::message::{Message, Origin};
use wellhead::mqtt::{
    Ack, Packet, PacketId, Properties, Publish, QoS, ReasonCode, Subscribe, SubscribeOptions,
    TopicFilter, TopicName, Unsubscribe, Version,
};

use super::far_side::{connect, connect_as, subscribe};
use super::stage::{Stage, tight_limits};
use super::support::client::bytes_of;

const TOPICS: usize = 300;
const FILTERS: [&str; 4] = ["#", "a/#", "+/+", "b/+"];

fn topic_of(number: usize) -> TopicName {
    TopicName::new(format!(
        "{}/{number:03}",
        if number.is_multiple_of(3) { "b" } else { "a" }
    ))
    .unwrap()
}

fn setup(limits: BrokerLimits) -> Setup {
    Setup {
        limits,
        access: Arc::new(Access::open()),
        is_durable: true,
        ..Setup::default()
    }
}

fn retain(stage: &mut Stage, topic: TopicName, payload: String, qos: QoS) {
    let message = Message {
        qos,
        ..Message::new(topic, payload, Origin::Client).retained()
    };
    stage.input(Input::Publish(message));
}

#[derive(Debug, Clone)]
enum Step {
    Subscribe(usize),
    Unsubscribe(usize),
    Set(usize),
    Clear(usize),
    /// The client reads so many packets.
    Read(usize),
    /// The client sends so many of the answers it owes.
    Answer(usize),
    Drop,
    /// A second connection with the same client identifier.
    TakeOver,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let filter = 0..FILTERS.len();
    let step = prop_oneof![
        2 => filter.clone().prop_map(Step::Subscribe),
        1 => filter.prop_map(Step::Unsubscribe),
        3 => (0..TOPICS).prop_map(Step::Set),
        2 => (0..TOPICS).prop_map(Step::Clear),
        6 => (1_usize..40).prop_map(Step::Read),
        6 => (1_usize..40).prop_map(Step::Answer),
        1 => Just(Step::Drop),
        1 => Just(Step::TakeOver),
    ];
    prop::collection::vec(step, 1..80)
}

/// One subscription, from its SUBSCRIBE to the next one with the same filter, or to its
/// UNSUBSCRIBE.
#[derive(Debug, Default)]
struct Epoch {
    /// What was retained when it began.
    expected: BTreeMap<String, u64>,
    /// Topics that were set or cleared since then.
    changed: HashSet<String>,
    got: Vec<(String, u64)>,
    is_over: bool,
}

struct World {
    stage: Stage,
    qos: QoS,
    connection: Option<u64>,
    published: u64,
    retained: BTreeMap<String, u64>,
    epochs: Vec<Epoch>,
    /// The epoch of each filter that is subscribed to.
    current: HashMap<usize, usize>,
    owed: VecDeque<Packet>,
    open: HashSet<PacketId>,
    /// Live messages: those that must come and those that did.
    live: Vec<u64>,
    live_got: Vec<u64>,
}

impl World {
    fn new(qos: QoS, output_bytes: usize) -> Self {
        let limits = BrokerLimits {
            receive_maximum: 7,
            send_window: 7,
            output_bytes,
            sys_every: Duration::ZERO,
            ..BrokerLimits::default()
        };
        let mut world = Self {
            stage: Stage::new(setup(limits)),
            qos,
            connection: None,
            published: 0,
            retained: BTreeMap::new(),
            epochs: Vec::new(),
            current: HashMap::new(),
            owed: VecDeque::new(),
            open: HashSet::new(),
            live: Vec::new(),
            live_got: Vec::new(),
        };
        (0..TOPICS).for_each(|topic| world.set(topic));
        world
    }

    /// A message at QoS 0 is lost with its connection: those worlds keep theirs.
    fn may_drop(&self) -> bool {
        self.qos != QoS::AtMostOnce
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Subscribe(filter) => self.subscribe(filter),
            Step::Unsubscribe(filter) => self.unsubscribe(filter),
            Step::Set(topic) => self.set(topic),
            Step::Clear(topic) => self.clear(topic),
            Step::Read(count) => self.read(count),
            Step::Answer(count) => self.answer(count),
            Step::Drop if self.may_drop() => {
                if let Some(id) = self.connection.take() {
                    self.owed.clear();
                    self.stage.drop_connection(id);
                }
            }
            Step::TakeOver if self.may_drop() => {
                self.owed.clear();
                self.connection = None;
                self.connect();
            }
            Step::Drop | Step::TakeOver => {}
        }
    }

    fn connect(&mut self) -> u64 {
        if let Some(id) = self.connection {
            return id;
        }
        let id = self.stage.open(Peer::default());
        self.stage.is_deaf.insert(id);
        self.connection = Some(id);
        let mut properties = Properties::default();
        properties.edit().session_expiry = Some(100_000);
        properties.edit().receive_maximum = NonZeroU16::new(5);
        self.stage
            .send(id, &connect_as("reader", Version::V5, properties));
        id
    }

    fn subscribe(&mut self, filter: usize) {
        let id = self.connect();
        let text = TopicFilter::new(FILTERS[filter]).unwrap();
        let matches = |topic: &String| text.matches(&TopicName::new(topic.clone()).unwrap());
        let expected = self
            .retained
            .iter()
            .filter(|(topic, _)| matches(topic))
            .map(|(topic, number)| (topic.clone(), *number));
        self.epochs.push(Epoch {
            expected: expected.collect(),
            ..Epoch::default()
        });
        let epoch = self.epochs.len() - 1;
        if let Some(old) = self.current.insert(filter, epoch) {
            self.epochs[old].is_over = true;
        }
        let mut properties = Properties::default();
        properties
            .edit()
            .subscription_identifiers
            .extend(NonZeroU32::new(u32::try_from(epoch + 1).unwrap()));
        let filters = vec![(
            text,
            SubscribeOptions {
                qos: self.qos,
                ..SubscribeOptions::default()
            },
        )];
        self.stage.send(
            id,
            &Packet::Subscribe(Subscribe {
                packet_id: PacketId::new(60_000).unwrap(),
                filters,
                properties,
            }),
        );
    }

    fn unsubscribe(&mut self, filter: usize) {
        let id = self.connect();
        if let Some(epoch) = self.current.remove(&filter) {
            self.epochs[epoch].is_over = true;
        }
        let filters = vec![TopicFilter::new(FILTERS[filter]).unwrap()];
        let packet_id = PacketId::new(60_001).unwrap();
        self.stage.send(
            id,
            &Packet::Unsubscribe(Unsubscribe {
                packet_id,
                filters,
                properties: Properties::default(),
            }),
        );
    }

    fn changed(&mut self, topic: &TopicName) {
        let epochs = self.current.values();
        for epoch in epochs {
            self.epochs[*epoch].changed.insert(topic.to_string());
        }
    }

    fn set(&mut self, number: usize) {
        let topic = topic_of(number);
        self.published += 1;
        self.changed(&topic);
        self.retained.insert(topic.to_string(), self.published);
        let wants = |filter: &usize| TopicFilter::new(FILTERS[*filter]).unwrap().matches(&topic);
        if self.current.keys().any(wants) {
            self.live.push(self.published);
        }
        retain(&mut self.stage, topic, self.published.to_string(), self.qos);
    }

    fn clear(&mut self, number: usize) {
        let topic = topic_of(number);
        self.changed(&topic);
        self.retained.remove(topic.as_str());
        retain(&mut self.stage, topic, String::new(), self.qos);
    }

    fn read(&mut self, count: usize) {
        let Some(id) = self.connection else { return };
        for _ in 0..count {
            let Some(packet) = self.stage.next_packet(id) else {
                return;
            };
            self.stage
                .input(Input::Written(id, bytes_of(&packet, Version::V5).len()));
            self.take(packet);
        }
    }

    fn answer(&mut self, count: usize) {
        let Some(id) = self.connection else { return };
        for _ in 0..count {
            let Some(answer) = self.owed.pop_front() else {
                return;
            };
            self.stage.send(id, &answer);
        }
    }

    fn take(&mut self, packet: Packet) {
        match packet {
            Packet::Publish(publish) => {
                let id = publish.packet_id;
                let is_known = publish.qos == QoS::ExactlyOnce && !self.open.insert(id.unwrap());
                if !is_known {
                    self.take_message(&publish);
                }
                let ack = id.map(|id| Ack::new(id, ReasonCode::SUCCESS));
                self.owed.extend(ack.map(|ack| {
                    if publish.qos == QoS::ExactlyOnce {
                        Packet::PubRec(ack)
                    } else {
                        Packet::PubAck(ack)
                    }
                }));
            }
            Packet::PubRel(ack) => {
                self.open.remove(&ack.packet_id);
                self.owed.push_back(Packet::PubComp(Ack::new(
                    ack.packet_id,
                    ReasonCode::SUCCESS,
                )));
            }
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn take_message(&mut self, publish: &Publish) {
        if publish.payload.is_empty() {
            return;
        }
        let number: u64 = std::str::from_utf8(&publish.payload)
            .unwrap()
            .parse()
            .unwrap();
        let topic = publish.topic.as_ref().unwrap().to_string();
        if !publish.retain {
            assert!(
                publish.dup || !self.live_got.contains(&number),
                "{number} came twice"
            );
            self.live_got.push(number);
            return;
        }
        let [identifier] = publish.properties.subscription_identifiers.as_slice() else {
            panic!("one subscription: {publish:?}")
        };
        let epoch = &mut self.epochs[identifier.get() as usize - 1];
        let is_repeated = publish.dup && epoch.got.iter().any(|(known, _)| *known == topic);
        if !is_repeated {
            epoch.got.push((topic, number));
        }
    }

    fn settle(&mut self) {
        loop {
            let id = self.connect();
            if !self.stage.has_packets(id) && self.owed.is_empty() {
                return;
            }
            self.read(1000);
            self.answer(1000);
        }
    }

    fn check(&self) {
        for (number, epoch) in self.epochs.iter().enumerate() {
            assert!(
                epoch.got.is_sorted_by(|one, next| one.0 < next.0),
                "epoch {number}: each once, in order: {:?}",
                epoch.got
            );
            for (topic, value) in &epoch.got {
                assert_eq!(
                    epoch.expected.get(topic),
                    Some(value),
                    "epoch {number}: {topic} was not retained at its SUBSCRIBE"
                );
            }
            let got: HashSet<&String> = epoch.got.iter().map(|(topic, _)| topic).collect();
            let is_missing = |topic: &&String| {
                !epoch.is_over && !epoch.changed.contains(*topic) && !got.contains(topic)
            };
            let missing: Vec<_> = epoch.expected.keys().filter(is_missing).collect();
            assert!(missing.is_empty(), "epoch {number} misses {missing:?}");
        }
        let mut seen = HashSet::new();
        let live: Vec<u64> = self
            .live_got
            .iter()
            .copied()
            .filter(|number| seen.insert(*number))
            .collect();
        assert_eq!(live, self.live, "live messages");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn everything_retained_arrives_once_and_in_order_whatever_happens_meanwhile(
        qos in 0_u8..3,
        output_bytes in prop::sample::select(vec![200_usize, 1_000, 100_000]),
        steps in steps(),
    ) {
        let mut world = World::new(QoS::from_bits(qos).unwrap(), output_bytes);
        steps.into_iter().for_each(|step| world.play(step));
        world.settle();
        world.check();
    }
}

/// A client that reads and answers everything; what came as a retained message, by topic.
fn read_all(stage: &mut Stage, id: u64) -> Vec<(String, QoS)> {
    let mut got = Vec::new();
    while let Some(packet) = stage.next_packet(id) {
        match packet {
            Packet::Publish(publish) => {
                got.extend(
                    publish
                        .topic
                        .filter(|_| publish.retain)
                        .map(|topic| (topic.to_string(), publish.qos)),
                );
                let ack = publish
                    .packet_id
                    .map(|id| Ack::new(id, ReasonCode::SUCCESS));
                let answer = ack.map(|ack| {
                    if publish.qos == QoS::ExactlyOnce {
                        Packet::PubRec(ack)
                    } else {
                        Packet::PubAck(ack)
                    }
                });
                answer.iter().for_each(|answer| stage.send(id, answer));
            }
            Packet::PubRel(ack) => stage.send(
                id,
                &Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::SUCCESS)),
            ),
            _ => {}
        }
    }
    got
}

fn enter(stage: &mut Stage, name: &str) -> u64 {
    let id = stage.open(Peer::default());
    stage.send(id, &connect(name));
    id
}

fn stage_with(count: usize, payload: usize) -> Stage {
    let limits = BrokerLimits {
        sys_every: Duration::ZERO,
        ..BrokerLimits::default()
    };
    let mut stage = Stage::new(setup(limits));
    for number in 0..count {
        let topic = TopicName::new(format!("kept/{number:04}")).unwrap();
        retain(&mut stage, topic, "x".repeat(payload), QoS::AtLeastOnce);
    }
    stage
}

#[test]
fn clients_that_do_not_read_cost_the_journal_little() {
    let mut stage = stage_with(2_000, 500);
    let before = stage.journal_bytes();
    for number in 0..20 {
        let id = enter(&mut stage, &format!("mute-{number}"));
        stage.send(id, &subscribe("#", QoS::AtLeastOnce));
    }
    let written = stage.journal_bytes() - before;
    assert!(
        written < 20 * 200 * 700,
        "{written} bytes for 20 clients that read nothing"
    );
    stage.checkpoint();
    assert!(
        stage.journal_bytes() < 2_000 * 700 + 20 * 200 * 700,
        "{} bytes in a checkpoint",
        stage.journal_bytes()
    );
}

#[test]
fn what_is_parked_goes_on_after_an_absence_and_after_a_restart() {
    for (crashes, checkpoints) in [(false, false), (true, false), (true, true)] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut stage = stage_with(0, 0);
            for number in 0..500 {
                retain(
                    &mut stage,
                    TopicName::new(format!("kept/{number:04}")).unwrap(),
                    "x".repeat(500),
                    qos,
                );
            }
            let id = enter(&mut stage, "reader");
            stage.is_deaf.insert(id);
            stage.send(id, &subscribe("kept/+", qos));
            let first = std::iter::from_fn(|| stage.next_packet(id))
                .filter(|packet| matches!(packet, Packet::Publish(_)))
                .count();
            assert!(first < 200, "{first} came at once");
            stage.drop_connection(id);
            if checkpoints {
                stage.checkpoint();
            }
            if crashes {
                stage.crash();
            }
            let id = enter(&mut stage, "reader");
            let topics: Vec<String> = read_all(&mut stage, id)
                .into_iter()
                .map(|(topic, _)| topic)
                .collect();
            let most = if qos == QoS::AtMostOnce { first } else { 0 };
            // What was sent at QoS 0 is lost with the connection; what waited comes again.
            assert!(
                topics.len() + most >= 500,
                "{qos:?}: {} after {first}",
                topics.len()
            );
            assert!(
                qos == QoS::AtMostOnce || topics.len() == 500,
                "{qos:?}: {} of 500",
                topics.len()
            );
            assert!(
                topics.is_sorted_by(|one, next| one < next),
                "{qos:?}: each once, in order"
            );
            assert_eq!(topics.last().map(String::as_str), Some("kept/0499"));
            // It is over: another restart brings nothing again.
            stage.drop_connection(id);
            stage.crash();
            let id = enter(&mut stage, "reader");
            assert_eq!(read_all(&mut stage, id), [], "{qos:?}");
        }
    }
}

#[test]
fn values_that_changed_during_an_absence_come_as_they_are() {
    let mut stage = stage_with(500, 10);
    let id = enter(&mut stage, "reader");
    stage.is_deaf.insert(id);
    stage.send(id, &subscribe("kept/+", QoS::AtLeastOnce));
    stage.drop_connection(id);
    // A reading at QoS 0 is not kept for somebody who is away.
    retain(
        &mut stage,
        TopicName::new("kept/0450").unwrap(),
        "new".into(),
        QoS::AtMostOnce,
    );
    let id = enter(&mut stage, "reader");
    let topics = read_all(&mut stage, id);
    assert_eq!(
        topics
            .iter()
            .filter(|(topic, qos)| topic == "kept/0450" && *qos == QoS::AtMostOnce)
            .count(),
        1
    );
    assert_eq!(topics.len(), 500);
}

#[test]
fn messages_that_are_too_large_for_the_client_hold_nothing_up() {
    let mut stage = stage_with(300, 10);
    for number in 0..300 {
        retain(
            &mut stage,
            TopicName::new(format!("kept/{number:04}/long")).unwrap(),
            "x".repeat(500),
            QoS::AtLeastOnce,
        );
    }
    let mut properties = Properties::default();
    properties.edit().session_expiry = Some(100_000);
    properties.edit().maximum_packet_size = NonZeroU32::new(200);
    let id = stage.open(Peer::default());
    stage.send(id, &connect_as("small", Version::V5, properties));
    stage.send(id, &subscribe("kept/#", QoS::AtLeastOnce));
    assert_eq!(read_all(&mut stage, id).len(), 300);
}

#[test]
fn a_full_total_slows_retained_messages_and_stops_none() {
    let limits = BrokerLimits {
        max_queued_total: 60_000,
        sys_every: Duration::ZERO,
        ..BrokerLimits::default()
    };
    let mut stage = Stage::new(setup(limits));
    for number in 0..200 {
        retain(
            &mut stage,
            TopicName::new(format!("kept/{number:04}")).unwrap(),
            "x".repeat(300),
            QoS::AtLeastOnce,
        );
    }
    // Somebody who is away holds all that there is.
    let away = enter(&mut stage, "away");
    stage.send(away, &subscribe("live/#", QoS::AtLeastOnce));
    stage.drop_connection(away);
    for _ in 0..200 {
        let message = Message {
            qos: QoS::AtLeastOnce,
            ..Message::new(
                TopicName::new("live/x").unwrap(),
                "x".repeat(300),
                Origin::Client,
            )
        };
        stage.input(Input::Publish(message));
    }
    let id = enter(&mut stage, "reader");
    stage.send(id, &subscribe("kept/#", QoS::AtLeastOnce));
    assert_eq!(read_all(&mut stage, id).len(), 200);
}

/// The payloads that a client gets, by topic, while it reads and answers everything.
fn payloads(stage: &mut Stage, id: u64) -> HashMap<String, Vec<String>> {
    let mut got: HashMap<String, Vec<String>> = HashMap::new();
    while let Some(packet) = stage.next_packet(id) {
        let Packet::Publish(publish) = packet else {
            continue;
        };
        let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
        got.entry(publish.topic.unwrap().to_string())
            .or_default()
            .push(payload);
        if let Some(packet_id) = publish.packet_id {
            stage.send(
                id,
                &Packet::PubAck(Ack::new(packet_id, ReasonCode::SUCCESS)),
            );
        }
    }
    got
}

#[test]
fn a_new_value_that_finds_no_room_comes_as_a_retained_message() {
    let small = BrokerLimits {
        sys_every: Duration::ZERO,
        max_queued: 5,
        ..BrokerLimits::default()
    };
    let total = BrokerLimits {
        sys_every: Duration::ZERO,
        max_queued_total: 100_000,
        ..BrokerLimits::default()
    };
    for (limits, queue_full) in [&small, &total]
        .into_iter()
        .flat_map(|one| [(one, QueueFull::DropNewest), (one, QueueFull::DropOldest)])
    {
        for qos in [QoS::AtLeastOnce, QoS::AtMostOnce] {
            let mut stage = Stage::new(setup(BrokerLimits {
                queue_full,
                output_bytes: 5_000,
                ..limits.clone()
            }));
            let topics: Vec<TopicName> = (0..300)
                .map(|number| TopicName::new(format!("kept/{number:04}")).unwrap())
                .collect();
            topics
                .iter()
                .for_each(|topic| retain(&mut stage, topic.clone(), "x".repeat(500), qos));
            let id = enter(&mut stage, "reader");
            stage.is_deaf.insert(id);
            stage.send(id, &subscribe("kept/+", qos));
            for topic in &topics[285..] {
                retain(
                    &mut stage,
                    topic.clone(),
                    format!("new{}", "y".repeat(8_000)),
                    qos,
                );
            }
            assert!(
                stage.engine.traffic().dropped_full > 0,
                "some found no room"
            );
            stage.is_deaf.remove(&id);
            stage.input(Input::Written(id, 1 << 20));
            let got = payloads(&mut stage, id);
            for topic in &topics[285..] {
                let values = got
                    .get(topic.as_str())
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                assert!(
                    values.iter().any(|value| value.starts_with("new")),
                    "{qos:?} {queue_full:?}: {topic} is not up to date"
                );
            }
        }
    }
}

#[test]
fn long_topics_wait_for_the_memory_that_others_use_and_are_not_given_up() {
    let mut stage = Stage::new(setup(tight_limits()));
    for number in 0..200 {
        retain(
            &mut stage,
            TopicName::new(format!("kept/a/{number:04}")).unwrap(),
            "short".into(),
            QoS::AtLeastOnce,
        );
        let long = format!("kept/b/{number:04}/{}", "x".repeat(12_000));
        retain(
            &mut stage,
            TopicName::new(long).unwrap(),
            "long".into(),
            QoS::AtLeastOnce,
        );
    }
    let mut greedy = Vec::new();
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        let id = stage.open(Peer {
            address: address.parse().ok(),
            certificate: None,
        });
        stage.send(
            id,
            &connect_as(
                &format!("greedy at {address}"),
                Version::V5,
                Properties::default(),
            ),
        );
        for number in 0..40 {
            stage.send(
                id,
                &subscribe(&format!("{number}/{}", "y".repeat(800)), QoS::AtMostOnce),
            );
        }
        greedy.push(id);
    }
    let id = enter(&mut stage, "reader");
    stage.send(id, &subscribe("kept/#", QoS::AtLeastOnce));
    let short = read_all(&mut stage, id);
    assert_eq!(
        short.len(),
        200,
        "places in short topics need nothing that others can take"
    );
    assert!(
        stage
            .notices
            .iter()
            .any(|notice| notice.kind == NoticeKind::ReplayWaits
                && notice.client_id.as_deref() == Some("reader"))
    );
    assert!(
        !stage
            .notices
            .iter()
            .any(|notice| notice.kind == NoticeKind::FullQueue),
        "no queue is full"
    );
    greedy.into_iter().for_each(|id| stage.drop_connection(id));
    stage.settle();
    let long = read_all(&mut stage, id);
    assert_eq!(long.len(), 200);
    assert!(
        long.is_sorted_by(|one, next| one.0 < next.0),
        "each once, in order"
    );
}

#[test]
fn a_subscription_looks_at_a_few_topics_within_its_packet() {
    let mut stage = Stage::new(super::stage::setup());
    for number in 0..5_000 {
        // Not for whoever subscribes: each is looked at and none is sent.
        retain(
            &mut stage,
            TopicName::new(format!("plant/secret/{number:05}")).unwrap(),
            "x".into(),
            QoS::AtMostOnce,
        );
    }
    retain(
        &mut stage,
        TopicName::new("plant/z").unwrap(),
        "open".into(),
        QoS::AtMostOnce,
    );
    let id = stage.open(Peer::default());
    let Packet::Connect(mut hello) = connect("reader") else {
        panic!("CONNECT")
    };
    (hello.username, hello.password) = (Some("anna".into()), Some("secret".into()));
    stage.send(id, &Packet::Connect(hello));
    stage.engine.handle(
        Input::Packet(id, subscribe("plant/#", QoS::AtMostOnce)),
        stage.now,
    );
    assert_eq!(
        stage.engine.traffic().publishes_sent,
        0,
        "what is behind many topics comes in a later turn"
    );
    stage.settle();
    let got: Vec<String> = read_all(&mut stage, id)
        .into_iter()
        .map(|(topic, _)| topic)
        .collect();
    assert_eq!(got, ["plant/z"]);
}

#[test]
fn what_waits_at_qos_0_is_sent_again_after_an_absence() {
    for count in [3, 20, 60, 100, 300] {
        for filters in [&["kept/+"][..], &["kept/+", "kept/#"]] {
            let limits = BrokerLimits {
                sys_every: Duration::ZERO,
                output_bytes: 1_500,
                ..BrokerLimits::default()
            };
            let mut stage = Stage::new(setup(limits));
            for number in 0..count {
                retain(
                    &mut stage,
                    TopicName::new(format!("kept/{number:04}")).unwrap(),
                    "x".repeat(100),
                    QoS::AtMostOnce,
                );
            }
            let id = enter(&mut stage, "reader");
            stage.is_deaf.insert(id);
            filters
                .iter()
                .for_each(|filter| stage.send(id, &subscribe(filter, QoS::AtMostOnce)));
            let mut got = HashSet::new();
            for _ in 0..4 {
                got.extend(read_all(&mut stage, id).into_iter().map(|(topic, _)| topic));
                stage.input(Input::Written(id, 700));
            }
            got.extend(read_all(&mut stage, id).into_iter().map(|(topic, _)| topic));
            stage.drop_connection(id);
            let id = enter(&mut stage, "reader");
            got.extend(read_all(&mut stage, id).into_iter().map(|(topic, _)| topic));
            assert_eq!(
                got.len(),
                count,
                "{filters:?}: what waited at the end of the connection comes again"
            );
            stage.drop_connection(id);
            let id = enter(&mut stage, "reader");
            assert_eq!(
                read_all(&mut stage, id),
                [],
                "{filters:?}: everything has come"
            );
        }
    }
}
