//! Packets to clients that are no messages, and what waits for the disk before it may leave.

use std::time::Instant;

use bytestring::ByteString;

use super::connect::End;
use super::note::Noted;
use super::{ConnectionId, Engine, Output, Position};
use crate::mqtt::{Disconnect, Packet, ReasonCode, Version};

impl Engine {
    /// Ends a connection for a fault of its peer.
    pub(super) fn refuse(&mut self, id: ConnectionId, reason: ReasonCode, now: Instant) {
        self.refuse_because(id, reason, reason.name(), now);
    }

    /// The same, with a sentence for a person.
    pub(super) fn refuse_because(
        &mut self,
        id: ConnectionId,
        reason: ReasonCode,
        why: &'static str,
        now: Instant,
    ) {
        self.say_goodbye(id, reason, why);
        self.close(id, End::Lost, now);
    }

    /// DISCONNECT from a server exists in MQTT 5 only, and only after CONNECT. What still waits for the disk is not sent any more.
    pub(super) fn say_goodbye(&mut self, id: ConnectionId, reason: ReasonCode, why: &'static str) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let what = if connection.session.is_some() {
            Noted::Dropped
        } else {
            Noted::Refused
        };
        if reason != ReasonCode::SERVER_SHUTTING_DOWN {
            self.note(id, what, reason, why);
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        // [MQTT-3.14.0-1]
        let is_greeted = connection.session.is_some() && connection.out.is_greeted(self.durable);
        if connection.version == Version::V5 && is_greeted {
            let mut end = Disconnect::new(reason);
            end.properties.edit().reason_string = Some(ByteString::from_static(why));
            connection.out.drop_gated();
            self.send(id, &Packet::Disconnect(end), 0);
        }
    }

    /// Writes a packet when the batch `after` is durable; 0 is at once. False if it is more than the client takes.
    pub(super) fn send(&mut self, id: ConnectionId, packet: &Packet, after: Position) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else {
            return false;
        };
        match connection.write(packet, after, self.durable) {
            Some(length) => {
                self.traffic.packets_sent += 1;
                self.traffic.bytes_sent += length as u64;
                self.mark(id);
                true
            }
            // Not even without everything optional it is as small as the client wants [MQTT-3.1.2-24].
            None => {
                self.traffic.dropped += 1;
                false
            }
        }
    }

    /// Notes that a connection got bytes to write, now or when a batch is durable.
    pub(super) fn mark(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.out.becomes_dirty() {
            self.dirty.push(id);
        }
        if let Some(position) = connection.out.take_new_gate() {
            self.gates.push_back((position, id));
        }
    }

    /// Records are durable: what waited for them goes out.
    pub(super) fn durable(&mut self, position: Position, now: Instant) {
        self.durable = self.durable.max(position);
        while let Some((_, id)) = self.gates.pop_front_if(|(gate, _)| *gate <= position) {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            let opened = connection.out.open(position);
            connection.settle(opened);
            self.mark(id);
            self.pace(id, now);
        }
        while let Some((_, receipt)) = self.inbound.pop_front_if(|(gate, _)| *gate <= position) {
            self.outputs.push(Output::Safe(receipt));
        }
    }
}
