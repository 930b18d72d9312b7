//! QoS 2 messages of the remote: taken once, remembered until they are released. Pure.

use super::{RECEIVED_IN, SendAction, Session};
use crate::mqtt::PacketId;

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

    /// A QoS 2 message of the remote is safe here.
    pub(in crate::uplink) fn taken(&mut self, packet_id: PacketId) {
        self.received.insert(packet_id.get());
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
