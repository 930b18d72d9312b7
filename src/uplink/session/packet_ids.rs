//! Packet identifiers of messages: each is in use until the end of its message, for QoS 2 until
//! that is durable. Pure.

use super::{InFlight, OTHER_IDS, Session};
use crate::mqtt::{PacketId, QoS};

pub(super) const LAST_PACKET_ID: u16 = u16::MAX - OTHER_IDS - 2;

impl Session {
    /// Gives an identifier to a message that needs one.
    pub(super) fn number(&mut self, index: usize) {
        let needs_one = self
            .in_flight
            .get(index)
            .and_then(InFlight::message)
            .is_some_and(|m| m.qos != QoS::AtMostOnce);
        let packet_id = needs_one.then(|| self.free_packet_id());
        self.in_flight.set_packet_id(index, packet_id);
        let next_save = self.next_save;
        let Some(entry) = self
            .in_flight
            .get_mut(index)
            .filter(|entry| entry.is_exact())
        else {
            return;
        };
        entry.needs = next_save;
        let queue = entry.place().queue;
        self.change(queue);
    }

    pub(super) fn free(&mut self, id: PacketId, is_exact: bool) {
        if is_exact {
            self.freed.push_back((self.next_save, id));
        } else {
            self.used_ids.remove(&id);
        }
    }

    /// Identifiers rotate, so that a late acknowledgement does not meet a new message.
    fn free_packet_id(&mut self) -> PacketId {
        loop {
            self.last_packet_id = if self.last_packet_id >= LAST_PACKET_ID {
                1
            } else {
                self.last_packet_id + 1
            };
            if let Some(id) = PacketId::new(self.last_packet_id)
                && self.used_ids.insert(id)
            {
                return id;
            }
        }
    }
}
