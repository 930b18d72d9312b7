//! Messages to clients: who gets one, at which QoS, and how many at a time.

use std::sync::Arc;
use std::time::Instant;

use super::session::{Delivery, InFlight};
use super::{ConnectionId, Engine, SessionKey};
use crate::message::Message;
use crate::mqtt::{Ack, Packet, PacketId, Publish, QoS, ReasonCode, Version};

/// What a PUBLISH takes besides topic, payload and properties: fixed header, topic length, packet identifier.
const PUBLISH_OVERHEAD: usize = 9;

impl Engine {
    /// Hands a new message to every session that subscribed to it: one copy each, at the highest QoS granted [MQTT-3.3.5-1].
    pub(super) fn deliver(&mut self, message: &Arc<Message>, from: Option<SessionKey>, now: Instant) {
        for wanted in self.subscriptions.subscribers(&message.topic, from) {
            let delivery = Delivery {
                message: message.clone(),
                qos: message.qos.min(wanted.qos),
                retain: message.retain && wanted.retain_as_published,
            };
            self.hand_over(wanted.session, delivery);
            self.pump(wanted.session, now);
        }
    }

    pub(super) fn hand_over(&mut self, session: SessionKey, delivery: Delivery) {
        let taken = self.sessions.get_mut(session).is_some_and(|session| session.enqueue(delivery, &self.limits));
        if !taken {
            self.traffic.dropped += 1;
        }
    }

    /// Sends from the queue of a session as much as its connection and its window allow.
    pub(super) fn pump(&mut self, key: SessionKey, now: Instant) {
        let Some(id) = self.connection_of(key) else { return };
        while let (Some(session), Some(connection)) = (self.sessions.get_mut(key), self.connections.get_mut(&id)) {
            let Some(next) = session.queue.front() else { return };
            let window_full = next.qos != QoS::AtMostOnce && session.in_flight.len() >= usize::from(connection.receive_maximum);
            if connection.credit == 0 || window_full {
                return;
            }
            let Some(delivery) = session.dequeue() else { return };
            if delivery.message.is_expired(now) || size(&delivery.message) > connection.max_packet {
                self.traffic.dropped += 1; // [MQTT-3.3.2-5], [MQTT-3.1.2-25]
                continue;
            }
            connection.credit -= 1;
            let packet_id = (delivery.qos != QoS::AtMostOnce).then(|| session.next_packet_id());
            let packet = publish_packet(&delivery, packet_id, connection.version, now);
            if let Some(packet_id) = packet_id {
                session.in_flight.push_back(InFlight { packet_id, delivery, released: false });
            }
            self.traffic.publishes_sent += 1;
            self.send(id, packet);
        }
    }

    /// After a reconnect: what was in flight goes out again, in order [MQTT-4.4.0-1], then what waited.
    pub(super) fn resume(&mut self, id: ConnectionId, key: SessionKey, now: Instant) {
        let Some(session) = self.sessions.get(key) else { return };
        let Some(version) = self.connections.get(&id).map(|connection| connection.version) else { return };
        let again: Vec<Packet> = session
            .in_flight
            .iter()
            .map(|sent| {
                if sent.released {
                    return Packet::PubRel(Ack::new(sent.packet_id, ReasonCode::SUCCESS));
                }
                match publish_packet(&sent.delivery, Some(sent.packet_id), version, now) {
                    Packet::Publish(publish) => Packet::Publish(Publish { dup: true, ..publish }),
                    other => other,
                }
            })
            .collect();
        if let Some(connection) = self.connections.get_mut(&id) {
            let publishes = again.iter().filter(|packet| matches!(packet, Packet::Publish(_))).count();
            connection.credit = connection.credit.saturating_sub(u32::try_from(publishes).unwrap_or(u32::MAX));
        }
        for packet in again {
            self.send(id, packet);
        }
        self.pump(key, now);
    }

    /// The connection has written PUBLISH packets and can take as many again.
    pub(super) fn written(&mut self, id: ConnectionId, packets: u32, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.credit = connection.credit.saturating_add(packets).min(self.limits.credits);
        if let Some(session) = connection.session {
            self.pump(session, now);
        }
    }
}

fn size(message: &Message) -> usize {
    let properties = &message.properties;
    let user: usize = properties.user.iter().map(|(name, value)| 5 + name.len() + value.len()).sum();
    let data = properties.correlation_data.as_ref().map_or(0, |data| 3 + data.len());
    let texts = properties.content_type.as_ref().map_or(0, |text| 3 + text.len())
        + properties.response_topic.as_ref().map_or(0, |topic| 3 + topic.as_str().len());
    PUBLISH_OVERHEAD + 12 + message.topic.as_str().len() + message.payload.len() + user + data + texts
}

fn publish_packet(delivery: &Delivery, packet_id: Option<PacketId>, version: Version, now: Instant) -> Packet {
    let message = &delivery.message;
    let mut properties = Default::default();
    if version == Version::V5 {
        properties = message.properties.clone();
        if let Some(seconds) = message.seconds_left(now) {
            properties.edit().message_expiry = Some(seconds);
        }
    }
    Packet::Publish(Publish {
        dup: false,
        qos: delivery.qos,
        retain: delivery.retain,
        topic: Some(message.topic.clone()),
        packet_id,
        properties,
        payload: message.payload.clone(),
    })
}
