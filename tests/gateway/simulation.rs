//! Many clients on slow links in virtual time, from a seed: packets take their time in both
//! directions, links break with all that is on them, the disk is slow, the broker crashes, and an
//! outbox commits at other moments than the broker. In the end everybody has what they must have,
//! and in the right order.

mod outbox;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wellhead::broker::access::Access;
use wellhead::broker::engine::{BrokerLimits, Peer, Setup};
use wellhead::mqtt::{Packet, QoS, TopicFilter, TopicName};
use wellhead::route::{RouteTable, Routes, Rule};

use outbox::SimulatedOutbox;

use super::far_side::{FarSide, connect, subscribe};
use super::stage::Stage;

const CLIENTS: usize = 12;
const WINDOW: usize = 10;
/// How long things go wrong.
const STORM: Duration = Duration::from_secs(120);
/// How long it may take then until everybody has everything.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// What goes to an uplink as well.
const UPLINK: &str = "a/#";

fn routes() -> RouteTable {
    let send = vec![Rule::keep(TopicFilter::new(UPLINK).unwrap())];
    let uplink = Routes::new(send, Vec::new(), false, Arc::default());
    RouteTable::new(vec![Arc::new(uplink)], HashSet::new())
}

#[derive(Debug)]
enum Event {
    /// A packet reaches the broker, or a client, over a connection.
    ToBroker(usize, u64, Packet),
    ToClient(usize, u64, Packet),
    Publish(usize),
    Break(usize),
    Dial(usize),
    DiskSlow,
    DiskFast,
    /// The outbox commits a part of what waits.
    Store,
    Crash,
    Checkpoint,
}

struct Station {
    far: FarSide,
    filter: TopicFilter,
    qos: QoS,
    connection: Option<u64>,
    /// CONNACK has come, and SUBACK before that once.
    is_there: bool,
    is_subscribed: bool,
    /// When the last packet of each direction arrives: links keep the order.
    last: [Instant; 2],
    published: u64,
}

struct World {
    stage: Stage,
    /// Of an uplink that takes [`UPLINK`].
    outbox: SimulatedOutbox,
    random: fastrand::Rng,
    /// By time and a number that keeps the order of what happens at the same time.
    events: BTreeMap<(Instant, u64), Event>,
    count: u64,
    clients: Vec<Station>,
    /// Number, topic, QoS, publisher.
    messages: Vec<(u64, String, QoS, usize)>,
    end: Instant,
}

impl World {
    fn new(seed: u64) -> Self {
        let limits = BrokerLimits {
            receive_maximum: 16,
            send_window: 16,
            sys_every: Duration::ZERO,
            ..BrokerLimits::default()
        };
        let stage = Stage::new(Setup {
            limits,
            access: Arc::new(Access::open()),
            routes: Arc::new(routes()),
            is_durable: true,
            ..Setup::default()
        });
        let mut random = fastrand::Rng::with_seed(seed);
        let filters = ["#", "a/#", "a/+/x", "+/b/#", "b/b/y"];
        let mut client = || Station {
            far: FarSide::default(),
            filter: TopicFilter::new(filters[random.usize(..filters.len())]).unwrap(),
            qos: QoS::from_bits(random.u8(..3)).unwrap(),
            connection: None,
            is_there: false,
            is_subscribed: false,
            last: [stage.now; 2],
            published: 0,
        };
        let clients = (0..CLIENTS).map(|_| client()).collect();
        let end = stage.now + STORM;
        Self {
            stage,
            outbox: SimulatedOutbox::default(),
            random,
            events: BTreeMap::new(),
            count: 0,
            clients,
            messages: Vec::new(),
            end,
        }
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.count += 1;
        self.events.insert((at, self.count), event);
    }

    fn later(&mut self, most_ms: u64, event: Event) {
        let at = self.stage.now + Duration::from_millis(self.random.u64(1..most_ms));
        self.schedule(at, event);
    }

    /// When a packet that is sent now arrives.
    fn arrival(&mut self, index: usize, direction: usize) -> Instant {
        let at = self.stage.now + Duration::from_millis(self.random.u64(1..300));
        let last = &mut self.clients[index].last[direction];
        *last = at.max(*last);
        *last
    }

    fn send(&mut self, index: usize, packet: Packet) {
        let Some(connection) = self.clients[index].connection else {
            return;
        };
        let at = self.arrival(index, 0);
        self.schedule(at, Event::ToBroker(index, connection, packet));
    }

    /// What the broker has said travels.
    fn collect(&mut self) {
        for index in 0..CLIENTS {
            let Some(connection) = self.clients[index].connection else {
                continue;
            };
            while let Some(packet) = self.stage.next_packet(connection) {
                let at = self.arrival(index, 1);
                self.schedule(at, Event::ToClient(index, connection, packet));
            }
        }
    }

    fn dial(&mut self, index: usize) {
        if self.clients[index].connection.is_some() {
            return;
        }
        let id = self.stage.open(Peer::default());
        let client = &mut self.clients[index];
        client.connection = Some(id);
        client.is_there = false;
        client.last = [self.stage.now; 2];
        self.send(index, connect(&format!("client-{index}")));
    }

    fn hang_up(&mut self, index: usize) {
        if let Some(id) = self.clients[index].connection.take() {
            self.stage.drop_connection(id);
            self.clients[index].is_there = false;
            self.later(2000, Event::Dial(index));
        }
    }

    fn publish(&mut self, index: usize) {
        let client = &mut self.clients[index];
        // Everybody subscribes before anybody publishes, so that who gets what is clear.
        if client.is_there && client.far.in_flight() < WINDOW {
            let number = self.messages.len() as u64 + 1;
            let topic = format!(
                "{}/{}/{}",
                ["a", "b"][self.random.usize(..2)],
                ["a", "b"][self.random.usize(..2)],
                ["x", "y"][self.random.usize(..2)]
            );
            let qos = QoS::from_bits(self.random.u8(..3)).unwrap();
            let packet = client.far.publish(&topic, number, qos);
            client.published += 1;
            self.messages.push((number, topic, qos, index));
            self.send(index, packet);
        }
        if self.stage.now < self.end {
            self.later(400, Event::Publish(index));
        }
    }

    fn arrived(&mut self, index: usize, connection: u64, packet: Packet) {
        if self.clients[index].connection != Some(connection) {
            return;
        }
        let answers = match packet {
            Packet::ConnAck(connack) => {
                assert!(
                    connack.session_present || !self.clients[index].is_subscribed,
                    "a session is lost"
                );
                self.clients[index].is_there = true;
                let client = &self.clients[index];
                if client.is_subscribed {
                    client.far.resume()
                } else {
                    vec![subscribe(client.filter.as_str(), client.qos)]
                }
            }
            Packet::SubAck(_) => {
                self.clients[index].is_subscribed = true;
                Vec::new()
            }
            other => self.clients[index].far.take(other).into_iter().collect(),
        };
        for answer in answers {
            self.send(index, answer);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToBroker(index, connection, packet) => {
                if self.clients[index].connection == Some(connection) {
                    self.stage.send(connection, &packet);
                }
            }
            Event::ToClient(index, connection, packet) => self.arrived(index, connection, packet),
            Event::Publish(index) => self.publish(index),
            Event::Dial(index) => self.dial(index),
            Event::Break(index) => {
                self.hang_up(index);
                if self.stage.now < self.end {
                    self.later(20_000, Event::Break(index));
                }
            }
            Event::DiskSlow => {
                self.stage.is_disk_slow = true;
                self.later(500, Event::DiskFast);
            }
            Event::DiskFast => {
                self.stage.is_disk_slow = false;
                self.stage.commit();
                if self.stage.now < self.end {
                    self.later(1000, Event::DiskSlow);
                }
            }
            Event::Store => {
                let count = self.random.usize(..20);
                self.outbox.commit(&mut self.stage, count);
                if self.stage.now < self.end + SETTLED_WITHIN {
                    self.later(300, Event::Store);
                }
            }
            Event::Crash => {
                self.stage.found = vec![self.outbox.crash()];
                self.stage.crash();
                for index in 0..CLIENTS {
                    self.clients[index].connection = None;
                    self.clients[index].is_there = false;
                    self.later(2000, Event::Dial(index));
                }
                if self.stage.now < self.end {
                    self.later(30_000, Event::Crash);
                }
            }
            Event::Checkpoint => {
                self.stage.checkpoint();
                if self.stage.now < self.end {
                    self.later(20_000, Event::Checkpoint);
                }
            }
        }
        self.outbox.take(&mut self.stage);
        self.collect();
    }

    fn run_until(&mut self, is_over: impl Fn(&Self) -> bool) {
        while let Some(((at, _), event)) = self.events.pop_first() {
            let now = self.stage.now;
            self.stage.wait(at.saturating_duration_since(now));
            self.happen(event);
            if is_over(self) {
                return;
            }
        }
    }

    fn run(&mut self) {
        for index in 0..CLIENTS {
            self.later(100, Event::Dial(index));
        }
        self.run_until(|world| world.clients.iter().all(|client| client.is_subscribed));
        self.end = self.stage.now + STORM;
        for index in 0..CLIENTS {
            self.later(400, Event::Publish(index));
            self.later(20_000, Event::Break(index));
        }
        self.later(1000, Event::DiskSlow);
        self.later(300, Event::Store);
        self.later(30_000, Event::Crash);
        self.later(20_000, Event::Checkpoint);
        self.run_until(|_| false);
    }

    fn check(&self) {
        assert!(
            self.messages.len() > 1000,
            "{} messages",
            self.messages.len()
        );
        for (index, client) in self.clients.iter().enumerate() {
            assert!(client.far.is_done(), "client {index} waits for answers");
            let granted = |(number, topic, qos, publisher): &(u64, String, QoS, usize)| {
                let wants = client
                    .filter
                    .matches(&TopicName::new(topic.clone()).unwrap());
                wants.then_some((*number, (*qos).min(client.qos), *qos, *publisher))
            };
            let wanted: Vec<(u64, QoS, QoS, usize)> =
                self.messages.iter().filter_map(granted).collect();
            let sent_by: HashMap<u64, (QoS, usize)> = wanted
                .iter()
                .map(|(number, _, sent, from)| (*number, (*sent, *from)))
                .collect();
            let exact = client.far.numbers(QoS::ExactlyOnce);
            assert_eq!(
                exact.len(),
                client.far.got[2].len(),
                "client {index}: QoS 2 is doubled"
            );
            for (qos, got) in [
                (QoS::AtLeastOnce, client.far.numbers(QoS::AtLeastOnce)),
                (QoS::ExactlyOnce, exact),
            ] {
                let mut expected: Vec<u64> = wanted
                    .iter()
                    .filter(|(_, own, ..)| *own == qos)
                    .map(|(number, ..)| *number)
                    .collect();
                for publisher in 0..CLIENTS {
                    for sent in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
                        let is_of =
                            |number: &&u64| sent_by.get(*number) == Some(&(sent, publisher));
                        let order: Vec<&u64> = got.iter().filter(is_of).collect();
                        assert!(
                            order.is_sorted(),
                            "client {index}: {qos:?} of client {publisher} out of order: {order:?}"
                        );
                    }
                }
                let mut got = got;
                got.sort_unstable();
                expected.sort_unstable();
                assert_eq!(got, expected, "client {index}, {qos:?}");
            }
        }
    }
}

impl World {
    /// The outbox has each QoS 2 message once, each QoS 1 message at least once, and those of a
    /// publisher in order.
    fn check_outbox(&self) {
        let filter = TopicFilter::new(UPLINK).unwrap();
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for publisher in 0..CLIENTS {
                let is_of = |(_, topic, sent, from): &&(u64, String, QoS, usize)| {
                    *sent == qos
                        && *from == publisher
                        && filter.matches(&TopicName::new(topic.clone()).unwrap())
                };
                let wanted: Vec<u64> = self.messages.iter().filter(is_of).map(|m| m.0).collect();
                let got = self.outbox.got.iter().map(|(number, _)| *number);
                let mut got: Vec<u64> = got.filter(|number| wanted.contains(number)).collect();
                if qos == QoS::AtLeastOnce {
                    got.sort_unstable();
                    got.dedup();
                }
                assert_eq!(got, wanted, "{qos:?} of client {publisher} in the outbox");
            }
        }
    }
}

#[test]
fn many_clients_on_bad_links_get_what_they_must() {
    let seeds = if std::env::var_os("WELLHEAD_LONG").is_some() {
        200
    } else {
        4
    };
    for seed in 0..seeds {
        println!("seed {seed}");
        let mut world = World::new(seed);
        world.run();
        world.check();
        world.check_outbox();
    }
}
