//! QoS 2 messages of the remote: taken once, remembered until they are released. Pure.

use super::{RECEIVED_IN, SendAction, Session};
use crate::message::ExactInbound;
use crate::mqtt::PacketId;

/// Each has a packet identifier of its own.
const MOST_ON_THE_WAY: u64 = 1 << 16;

impl Session {
    /// PUBLISH of the remote at QoS 2. False if it is a repetition; it is answered then.
    pub(in crate::uplink) fn is_new(&mut self, packet_id: PacketId) -> bool {
        if !self.received.contains(&packet_id.get()) {
            return true;
        }
        self.answers
            .push_back((self.newest_change(), SendAction::Received(packet_id)));
        false
    }

    /// Numbers go on behind all that were given before the start.
    pub(super) fn begin_inbound(&mut self, taken: u64) {
        self.taken = self.taken.max(taken);
        (self.being_saved, self.durably_taken) = (self.taken, self.taken);
        self.last_inbound = self.taken + MOST_ON_THE_WAY;
    }

    /// The remote has forgotten its messages: none is a repetition of an earlier one.
    pub(super) fn forget_inbound(&mut self) {
        self.is_inbound_forgotten = true;
        let has_memory = self.taken > 0 || !self.received.is_empty();
        self.received.clear();
        self.taken = self.last_inbound;
        if has_memory {
            self.change(RECEIVED_IN);
        }
    }

    /// The number of a QoS 2 message of the remote.
    fn number_inbound(&mut self) -> u64 {
        self.last_inbound += 1;
        self.last_inbound
    }

    /// By what the broker recognises a QoS 2 message of the remote.
    pub(in crate::uplink) fn inbound(
        &mut self,
        packet_id: PacketId,
        is_repeated: bool,
    ) -> ExactInbound {
        let is_forgotten = std::mem::take(&mut self.is_inbound_forgotten);
        ExactInbound {
            packet_id,
            number: self.number_inbound(),
            known: if is_forgotten {
                u64::MAX
            } else {
                self.durably_taken
            },
            is_repeated,
        }
    }

    /// A QoS 2 message of the remote is safe here.
    pub(in crate::uplink) fn taken(&mut self, packet_id: PacketId, number: u64) {
        self.received.insert(packet_id.get());
        self.taken = self.taken.max(number);
        self.answers
            .push_back((self.next_save, SendAction::Received(packet_id)));
        self.change(RECEIVED_IN);
    }

    /// PUBREL of the remote.
    pub(in crate::uplink) fn released(&mut self, packet_id: PacketId) {
        if self.received.remove(&packet_id.get()) {
            self.change(RECEIVED_IN);
            self.answers
                .push_back((self.next_save, SendAction::Complete(packet_id)));
        } else {
            // Forgotten already, but perhaps not durably so.
            self.answers
                .push_back((self.newest_change(), SendAction::Complete(packet_id)));
        }
    }

    /// The save that makes everything durable that has happened.
    fn newest_change(&self) -> u64 {
        self.next_save - u64::from(!self.has_changes())
    }
}
