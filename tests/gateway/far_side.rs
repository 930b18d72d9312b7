//! A client that keeps its session: what it must send again after a reconnect, what it has seen
//! already. No sockets, no clock.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use wellhead::mqtt::{
    Ack, Connect, Packet, PacketId, Properties, Publish, QoS, ReasonCode, Subscribe,
    SubscribeOptions, TopicFilter, TopicName, Version,
};

use super::support::client::hello;

#[derive(Debug, Clone)]
struct Sent {
    number: u64,
    topic: String,
    qos: QoS,
    is_retained: bool,
    released: bool,
}

/// Publishes numbers and remembers those it gets.
#[derive(Debug, Default)]
pub struct FarSide {
    in_flight: BTreeMap<PacketId, Sent>,
    pub acknowledged: BTreeSet<u64>,
    /// QoS 2 identifiers between PUBLISH and PUBREL.
    open: HashSet<PacketId>,
    /// Topic and number, by the QoS they came with: QoS 2 without repetitions.
    pub got: [Vec<(String, u64)>; 3],
}

pub fn connect(name: &str) -> Packet {
    let mut properties = Properties::default();
    properties.edit().session_expiry = Some(100_000);
    connect_as(name, Version::V5, properties)
}

/// A session that is kept.
pub fn connect_as(name: &str, version: Version, properties: Properties) -> Packet {
    Packet::Connect(Box::new(Connect {
        clean_start: false,
        properties,
        ..hello(version, name)
    }))
}

pub fn subscribe(filter: &str, qos: QoS) -> Packet {
    let filters = vec![(
        TopicFilter::new(filter.to_owned()).unwrap(),
        SubscribeOptions {
            qos,
            ..SubscribeOptions::default()
        },
    )];
    Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(60_000).unwrap(),
        filters,
        properties: Properties::default(),
    })
}

impl FarSide {
    /// Nothing it has sent waits for an answer.
    pub fn is_done(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// A new message, retained if its number can be divided by ten.
    pub fn publish(&mut self, topic: &str, number: u64, qos: QoS) -> Packet {
        let sent = Sent {
            number,
            topic: topic.to_owned(),
            qos,
            is_retained: number.is_multiple_of(10),
            released: false,
        };
        self.publish_as(sent)
    }

    /// A new message that is to arrive exactly once, and is not retained.
    pub fn publish_exact(&mut self, topic: &str, number: u64) -> Packet {
        let sent = Sent {
            number,
            topic: topic.to_owned(),
            qos: QoS::ExactlyOnce,
            is_retained: false,
            released: false,
        };
        self.publish_as(sent)
    }

    /// Under the lowest identifier that is free, if it needs one.
    fn publish_as(&mut self, sent: Sent) -> Packet {
        let free =
            (1..).find_map(|id| PacketId::new(id).filter(|id| !self.in_flight.contains_key(id)));
        let packet_id = free.filter(|_| sent.qos != QoS::AtMostOnce);
        let packet = message(&sent, packet_id, false);
        packet_id.map(|id| self.in_flight.insert(id, sent));
        packet
    }

    /// What must be said first on a new connection.
    pub fn resume(&self) -> Vec<Packet> {
        let mut again: Vec<(&PacketId, &Sent)> = self.in_flight.iter().collect();
        again.sort_by_key(|(_, sent)| sent.number);
        let packet = |(id, sent): (&PacketId, &Sent)| {
            if sent.released {
                release(*id)
            } else {
                message(sent, Some(*id), true)
            }
        };
        again.into_iter().map(packet).collect()
    }

    /// Takes a packet of the broker; the answer, if it needs one.
    pub fn take(&mut self, packet: Packet) -> Option<Packet> {
        match packet {
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                let done = self.in_flight.remove(&ack.packet_id).unwrap();
                self.acknowledged.insert(done.number);
                None
            }
            Packet::PubRec(ack) => {
                assert!(
                    !ack.reason.is_error(),
                    "a message was refused: {}",
                    ack.reason
                );
                let sent = self.in_flight.get_mut(&ack.packet_id).unwrap();
                sent.released = true;
                self.acknowledged.insert(sent.number);
                Some(release(ack.packet_id))
            }
            Packet::Publish(publish) => self.take_message(&publish),
            Packet::PubRel(ack) => {
                self.open.remove(&ack.packet_id);
                Some(Packet::PubComp(Ack::new(
                    ack.packet_id,
                    ReasonCode::SUCCESS,
                )))
            }
            Packet::SubAck(_) => None,
            other => panic!("{other:?}"),
        }
    }

    fn take_message(&mut self, publish: &Publish) -> Option<Packet> {
        let number: u64 = std::str::from_utf8(&publish.payload)
            .unwrap()
            .parse()
            .unwrap();
        let topic = publish.topic.as_ref().unwrap().to_string();
        let ack = publish
            .packet_id
            .map(|id| Ack::new(id, ReasonCode::SUCCESS));
        if publish.qos != QoS::ExactlyOnce || self.open.insert(publish.packet_id.unwrap()) {
            self.got[publish.qos as usize].push((topic, number));
        }
        match publish.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => ack.map(Packet::PubAck),
            QoS::ExactlyOnce => ack.map(Packet::PubRec),
        }
    }

    /// The numbers that came with a QoS, each once, in the order in which they came first.
    pub fn numbers(&self, qos: QoS) -> Vec<u64> {
        let mut seen = HashSet::new();
        self.got[qos as usize]
            .iter()
            .map(|(_, number)| *number)
            .filter(|number| seen.insert(*number))
            .collect()
    }
}

fn release(id: PacketId) -> Packet {
    Packet::PubRel(Ack::new(id, ReasonCode::SUCCESS))
}

fn message(sent: &Sent, packet_id: Option<PacketId>, dup: bool) -> Packet {
    Packet::Publish(Publish {
        dup,
        qos: sent.qos,
        retain: sent.is_retained,
        topic: Some(TopicName::new(sent.topic.clone()).unwrap()),
        packet_id,
        properties: Properties::default(),
        payload: Bytes::from(sent.number.to_string()),
    })
}
