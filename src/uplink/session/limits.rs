//! How many QoS 2 messages may be at the remote at a time. Pure.

use super::{InFlight, MAX_EXACT, SendStage, Session};

impl Session {
    /// How many QoS 2 messages the remote takes at a time. To be called before
    /// [`Session::connected`].
    pub(in crate::uplink) fn limit_exact(&mut self, most: usize) {
        self.max_exact = most.clamp(1, MAX_EXACT);
    }

    /// True if it takes one more QoS 2 message.
    pub(in crate::uplink) fn takes_exact(&self) -> bool {
        // What was recovered has its place already.
        self.in_flight.exact() < self.max_exact
    }

    /// True if the message at `index` would be one QoS 2 message too many for the remote.
    pub(super) fn has_too_many_exact(&self, index: usize) -> bool {
        let is_new = self
            .in_flight
            .get(index)
            .is_some_and(|entry| entry.is_exact() && entry.stage == SendStage::Unsent);
        is_new && self.in_flight.exact() > self.max_exact && {
            let is_at_remote =
                |entry: &&InFlight| entry.is_exact() && entry.stage != SendStage::Unsent;
            self.in_flight.iter().filter(is_at_remote).count() >= self.max_exact
        }
    }
}
