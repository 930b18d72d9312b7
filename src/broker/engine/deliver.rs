//! Messages to clients: who gets one, at which QoS, and how many at a time.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

use super::session::{Delivery, InFlight};
use super::{ConnectionId, Engine, SessionKey};
use crate::message::Message;
use crate::mqtt::{Ack, Packet, PacketId, Publish, QoS, ReasonCode, Version, encode_properties};

/// What a PUBLISH takes besides topic, payload and properties: fixed header, topic length, packet identifier.
const PUBLISH_OVERHEAD: usize = 8;

impl Engine {
    /// Hands a new message to every session that subscribed to it: one copy each, at the highest QoS granted [MQTT-3.3.5-1].
    pub(super) fn deliver(&mut self, message: &Arc<Message>, from: Option<SessionKey>, now: Instant) {
        for wanted in self.subscriptions.subscribers(&message.topic, from) {
            let delivery = Delivery {
                message: message.clone(),
                qos: message.qos.min(wanted.qos),
                retain: message.retain && wanted.retain_as_published,
                is_replay: false,
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

    /// Sends to a session as much as its connection and its window allow: first what is in flight and was not written on this
    /// connection, in order [MQTT-4.4.0-1], then what waits.
    pub(super) fn pump(&mut self, key: SessionKey, now: Instant) {
        let Some(id) = self.connection_of(key) else { return };
        while let (Some(session), Some(connection)) = (self.sessions.get_mut(key), self.connections.get_mut(&id)) {
            let unacknowledged = session.in_flight.iter().filter(|sent| sent.sent).count();
            let window_full = unacknowledged >= usize::from(connection.receive_maximum);
            if connection.credit == 0 {
                return;
            }
            if let Some(index) = session.in_flight.iter().position(|sent| !sent.sent) {
                if window_full {
                    return;
                }
                let Some(again) = session.in_flight.get_mut(index) else { return };
                again.sent = true;
                let packet = if again.released {
                    Packet::PubRel(Ack::new(again.packet_id, ReasonCode::SUCCESS))
                } else {
                    connection.credit -= 1;
                    publish_packet(&again.delivery, Some(again.packet_id), true, connection.version, now)
                };
                self.send(id, packet);
                continue;
            }
            let Some(next) = session.queue.front() else { return };
            if next.qos != QoS::AtMostOnce && window_full {
                return;
            }
            let Some(delivery) = session.dequeue() else { return };
            if delivery.message.is_expired(now) || size(&delivery.message) > connection.max_packet {
                self.traffic.dropped += 1; // [MQTT-3.3.2-5], [MQTT-3.1.2-25]
                continue;
            }
            connection.credit -= 1;
            let packet_id = (delivery.qos != QoS::AtMostOnce).then(|| session.next_packet_id());
            let packet = publish_packet(&delivery, packet_id, false, connection.version, now);
            if let Some(packet_id) = packet_id {
                session.in_flight.push_back(InFlight { packet_id, delivery, released: false, sent: true });
            }
            self.traffic.publishes_sent += 1;
            self.send(id, packet);
        }
    }

    /// After a reconnect everything in flight is to be sent again, unless it is more than this client takes now.
    pub(super) fn resume(&mut self, id: ConnectionId, key: SessionKey, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(max_packet) = self.connections.get(&id).map(|connection| connection.max_packet) else { return };
        session.in_flight.retain(|sent| sent.released || size(&sent.delivery.message) <= max_packet);
        for sent in &mut session.in_flight {
            sent.sent = false;
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

/// What a PUBLISH of this message takes in MQTT 5, in bytes; one or two too many for its shortest forms.
fn size(message: &Message) -> usize {
    let mut properties = BytesMut::new();
    encode_properties(&message.properties, &mut properties);
    let expiry = if message.expires_at.is_some() { 5 } else { 0 };
    PUBLISH_OVERHEAD + message.topic.as_str().len() + properties.len() + expiry + message.payload.len()
}

fn publish_packet(delivery: &Delivery, packet_id: Option<PacketId>, dup: bool, version: Version, now: Instant) -> Packet {
    let message = &delivery.message;
    let mut properties = Default::default();
    if version == Version::V5 {
        properties = message.properties.clone();
        if let Some(seconds) = message.seconds_left(now) {
            properties.edit().message_expiry = Some(seconds);
        }
    }
    Packet::Publish(Publish {
        dup,
        qos: delivery.qos,
        retain: delivery.retain,
        topic: Some(message.topic.clone()),
        packet_id,
        properties,
        payload: message.payload.clone(),
    })
}
