//! Messages from clients, and the acknowledgements both ways.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::session::{InFlight, Incoming};
use super::{AckState, ConnectionId, Engine, HeldAck, HeldMessage, Output, SessionKey, Ticket, connect::End};
use crate::message::{Class, Message, Origin};
use crate::mqtt::{Ack, Packet, PacketId, Publish, QoS, ReasonCode, TopicName, Version};

/// Bytes of one client that may wait for a tap before it is read no further.
const HELD_BYTES: usize = 1 << 20;

impl Engine {
    pub(super) fn publish(&mut self, id: ConnectionId, session: SessionKey, publish: Publish, now: Instant) {
        // Aliases were not offered (CONNACK has no Topic Alias Maximum); identifiers only go from server to client.
        let Some(topic) = publish.topic.clone().filter(|_| publish.properties.topic_alias.is_none()) else {
            self.refuse(id, ReasonCode::TOPIC_ALIAS_INVALID, now);
            return;
        };
        if !publish.properties.subscription_identifiers.is_empty() {
            self.refuse(id, ReasonCode::PROTOCOL_ERROR, now); // [MQTT-3.3.4-6]
            return;
        }
        self.traffic.publishes_received += 1;
        let Some(packet_id) = publish.packet_id else {
            if !topic.is_reserved() {
                self.accept(&Arc::new(message(topic, publish, now)), Some((session, None)), now);
            }
            return;
        };
        if self.exceeds_receive_maximum(id, packet_id) {
            self.refuse(id, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED, now); // [MQTT-3.3.4-9]
            return;
        }
        let bytes = publish.payload.len();
        let (state, is_qos_2) = self.acceptance(session, packet_id, topic, publish, now);
        if let Some(connection) = self.connections.get_mut(&id) {
            if is_qos_2 {
                connection.unreleased.insert(packet_id);
            }
            let waits_already = matches!(state, AckState::Waiting(_)) && connection.acks.iter().any(|ack| ack.state == state);
            if !waits_already {
                connection.held_bytes += bytes;
                connection.acks.push_back(HeldAck { packet_id, is_qos_2, state, bytes });
            }
        }
        self.send_ready_acks(id, now);
        self.pace(id, now);
    }

    /// Stops reading a client of whom too much waits for a tap, and goes on when it is less: the sender waits, nobody else.
    fn pace(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let most = usize::from(self.limits.receive_maximum);
        let much = connection.acks.len() >= most || connection.held_bytes > HELD_BYTES;
        let little = connection.acks.len() <= most / 2 && connection.held_bytes <= HELD_BYTES / 2;
        if much && !connection.is_paused {
            connection.is_paused = true;
            self.outputs.push(Output::Pause(id));
        } else if little && connection.is_paused {
            connection.is_paused = false;
            connection.last_heard = now;
            self.outputs.push(Output::Resume(id));
        }
    }

    /// What to answer to a QoS 1 or 2 PUBLISH, and whether it is QoS 2. A repeated QoS 2 message is not accepted twice.
    fn acceptance(
        &mut self,
        session: SessionKey,
        packet_id: PacketId,
        topic: TopicName,
        publish: Publish,
        now: Instant,
    ) -> (AckState, bool) {
        let is_qos_2 = publish.qos == QoS::ExactlyOnce;
        if is_qos_2 {
            match self.sessions.get(session).and_then(|session| session.incoming.get(&packet_id)) {
                Some(Incoming::Held(ticket)) => return (AckState::Waiting(*ticket), true),
                Some(Incoming::Received) => return (AckState::Ready(ReasonCode::SUCCESS), true),
                Some(Incoming::Refused) => return (self.forward_again(session, packet_id, topic, publish, now), true),
                None => {}
            }
        }
        if topic.is_reserved() {
            return (AckState::Ready(ReasonCode::NOT_AUTHORIZED), is_qos_2);
        }
        let message = Arc::new(message(topic, publish, now));
        let ticket = self.accept(&message, Some((session, Some(packet_id))), now);
        if is_qos_2 && let Some(session) = self.sessions.get_mut(session) {
            session.incoming.insert(packet_id, ticket.map_or(Incoming::Received, Incoming::Held));
        }
        (ticket.map_or(AckState::Ready(ReasonCode::SUCCESS), AckState::Waiting), is_qos_2)
    }

    /// A QoS 2 message that subscribers have and a tap could not take before.
    fn forward_again(&mut self, session: SessionKey, packet_id: PacketId, topic: TopicName, publish: Publish, now: Instant) -> AckState {
        let ticket = self.forward(&Arc::new(message(topic, publish, now)), Some((session, Some(packet_id))));
        if let Some(session) = self.sessions.get_mut(session) {
            session.incoming.insert(packet_id, ticket.map_or(Incoming::Received, Incoming::Held));
        }
        ticket.map_or(AckState::Ready(ReasonCode::SUCCESS), AckState::Waiting)
    }

    /// MQTT 5 clients were told how many messages may be unacknowledged; older ones cannot be told. What earlier connections of
    /// the session left does not count.
    fn exceeds_receive_maximum(&self, id: ConnectionId, packet_id: PacketId) -> bool {
        let Some(connection) = self.connections.get(&id).filter(|c| c.version == Version::V5) else { return false };
        let unacknowledged = connection.acks.iter().filter(|ack| !ack.is_qos_2).count();
        let known = connection.unreleased.contains(&packet_id);
        !known && unacknowledged + connection.unreleased.len() >= usize::from(self.limits.receive_maximum)
    }

    /// Takes a message in: keeps it if it is to be retained, hands it to subscribers and taps. Returns a ticket if its
    /// acknowledgement must wait for a tap. `from` is the publishing session and the packet identifier.
    pub(super) fn accept(&mut self, message: &Arc<Message>, from: Option<(SessionKey, Option<PacketId>)>, now: Instant) -> Option<Ticket> {
        if message.retain && !self.retained.keep(message, now) {
            self.traffic.dropped += 1;
        }
        let ticket = self.forward(message, from);
        self.deliver(message, from.map(|(session, _)| session), now);
        ticket
    }

    fn forward(&mut self, message: &Arc<Message>, from: Option<(SessionKey, Option<PacketId>)>) -> Option<Ticket> {
        if message.topic.is_reserved() {
            return None;
        }
        let wants = |tap: &super::Tap| tap.not_from != message.origin && tap.filters.iter().any(|filter| filter.matches(&message.topic));
        let taps: Vec<usize> = self.taps.iter().enumerate().filter(|(_, tap)| wants(tap)).map(|(index, _)| index).collect();
        // Field readings reach the outbox on their own way; only what clients publish is forwarded here.
        if taps.is_empty() || message.origin == Origin::Field {
            return None;
        }
        let ticket = match from {
            Some((session, Some(packet_id))) => {
                self.next_ticket += 1;
                let held =
                    HeldMessage { session, packet_id, is_qos_2: message.qos == QoS::ExactlyOnce, taps_left: taps.len(), refused: false };
                self.held.insert(self.next_ticket, held);
                Some(self.next_ticket)
            }
            _ => None,
        };
        for tap in taps {
            self.outputs.push(Output::Forward { tap, message: message.clone(), ticket });
        }
        ticket
    }

    /// A tap has stored a message, or refused it.
    pub(super) fn stored(&mut self, ticket: Ticket, accepted: bool, now: Instant) {
        let Some(held) = self.held.get_mut(&ticket) else { return };
        held.taps_left = held.taps_left.saturating_sub(1);
        held.refused |= !accepted;
        if held.taps_left > 0 {
            return;
        }
        let (session, packet_id, is_qos_2, refused) = (held.session, held.packet_id, held.is_qos_2, held.refused);
        self.held.remove(&ticket);
        if is_qos_2 && let Some(session) = self.sessions.get_mut(session) {
            session.incoming.insert(packet_id, if refused { Incoming::Refused } else { Incoming::Received });
        }
        let Some(id) = self.connection_of(session) else { return };
        let reason = if refused { ReasonCode::QUOTA_EXCEEDED } else { ReasonCode::SUCCESS };
        if let Some(connection) = self.connections.get_mut(&id) {
            for ack in connection.acks.iter_mut().filter(|ack| ack.state == AckState::Waiting(ticket)) {
                ack.state = AckState::Ready(reason);
            }
        }
        self.send_ready_acks(id, now);
        self.pace(id, now);
    }

    /// Sends the acknowledgements whose turn has come [MQTT-4.6.0-2], [MQTT-4.6.0-3].
    fn send_ready_acks(&mut self, id: ConnectionId, now: Instant) {
        while let Some(connection) = self.connections.get_mut(&id) {
            let Some(ack) = connection.acks.front() else { return };
            let (packet_id, is_qos_2, bytes) = (ack.packet_id, ack.is_qos_2, ack.bytes);
            let AckState::Ready(reason) = ack.state else { return };
            // Before MQTT 5 an acknowledgement cannot say no. What the disk could not take is not acknowledged at all.
            if reason == ReasonCode::QUOTA_EXCEEDED && connection.version != Version::V5 {
                self.close(id, End::Lost, now);
                return;
            }
            connection.acks.pop_front();
            connection.held_bytes -= bytes;
            if reason.is_error() {
                connection.unreleased.remove(&packet_id);
            }
            let ack = Ack::new(packet_id, reason);
            self.send(id, if is_qos_2 { Packet::PubRec(ack) } else { Packet::PubAck(ack) });
        }
    }

    pub(super) fn pubrel(&mut self, id: ConnectionId, session: SessionKey, ack: &Ack, now: Instant) {
        let Some(state) = self.sessions.get_mut(session).map(|session| session.incoming.get(&ack.packet_id).copied()) else { return };
        let reason = match state {
            Some(Incoming::Held(_)) => {
                self.refuse(id, ReasonCode::PROTOCOL_ERROR, now); // PUBREL before PUBREC
                return;
            }
            Some(Incoming::Received | Incoming::Refused) => ReasonCode::SUCCESS,
            None => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        };
        if let Some(session) = self.sessions.get_mut(session) {
            session.incoming.remove(&ack.packet_id);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.unreleased.remove(&ack.packet_id);
        }
        self.send(id, Packet::PubComp(Ack::new(ack.packet_id, reason)));
    }

    pub(super) fn puback(&mut self, session: SessionKey, ack: &Ack, now: Instant) {
        self.complete(session, ack.packet_id, |sent| sent.delivery.qos == QoS::AtLeastOnce, now);
    }

    pub(super) fn pubcomp(&mut self, session: SessionKey, ack: &Ack, now: Instant) {
        self.complete(session, ack.packet_id, |sent| sent.released, now);
    }

    fn complete(&mut self, session: SessionKey, packet_id: PacketId, ends: impl Fn(&InFlight) -> bool, now: Instant) {
        if self.sessions.get_mut(session).is_some_and(|session| session.complete(packet_id, ends)) {
            self.pump(session, now);
        }
    }

    pub(super) fn pubrec(&mut self, id: ConnectionId, session: SessionKey, ack: &Ack, now: Instant) {
        if ack.reason.is_error() {
            self.complete(session, ack.packet_id, |sent| sent.delivery.qos == QoS::ExactlyOnce && !sent.released, now);
            return;
        }
        let Some(state) = self.sessions.get_mut(session) else { return };
        let sent = state.in_flight.iter_mut().find(|sent| sent.packet_id == ack.packet_id && sent.delivery.qos == QoS::ExactlyOnce);
        let reason = match sent {
            Some(sent) => {
                sent.released = true;
                ReasonCode::SUCCESS
            }
            None => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        };
        self.send(id, Packet::PubRel(Ack::new(ack.packet_id, reason)));
    }
}

fn message(topic: TopicName, publish: Publish, now: Instant) -> Message {
    let mut properties = publish.properties;
    let expires_at = properties.message_expiry.map(|seconds| now + Duration::from_secs(u64::from(seconds)));
    if expires_at.is_some() {
        properties.edit().message_expiry = None;
    }
    Message {
        topic,
        payload: publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        properties,
        expires_at,
        origin: Origin::Client,
        class: Class::default(),
    }
}
