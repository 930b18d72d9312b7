//! Where a session goes on: after a restart, and when the remote has forgotten it. Pure.

use super::{Forgotten, InFlight, RECEIVED_IN, Session, Stage};
use crate::message::SessionLost;
use crate::outbox::Place;
use crate::uplink::memory::Held;

impl Session {
    pub(super) fn recover(&mut self, place: Place, held: Held) {
        self.used_ids.insert(held.packet_id);
        self.last_packet_id = held.packet_id.get();
        self.exact += 1;
        if held.is_released {
            let (message, stage) = (None, Stage::Released);
            let packet_id = Some(held.packet_id);
            self.in_flight.push_back(InFlight { place, message, packet_id, is_exact: true, stage, needs: 0, is_written: false });
        } else {
            self.recovered.insert(place, held.packet_id);
        }
    }

    /// The remote has no memory of this gateway.
    pub(super) fn forgotten(&mut self) -> Forgotten {
        let mut told = Forgotten::default();
        if !self.received.is_empty() {
            self.received.clear();
            self.change(RECEIVED_IN);
        }
        self.recovered_is_lost = true;
        let mut index = 0;
        while let Some(entry) = self.in_flight.get_mut(index) {
            let never_twice = entry.message.as_ref().is_some_and(|message| message.if_session_lost == SessionLost::Drop);
            match entry.stage {
                Stage::Released => told.presumed.extend(self.remove(index).map(|entry| entry.place)),
                Stage::Sent if never_twice => told.dropped.extend(self.remove(index).map(|entry| (entry.place, entry.message))),
                Stage::Sent => {
                    // To this session it is a new message.
                    entry.stage = Stage::Unsent;
                    told.resent += 1;
                    index += 1;
                }
                Stage::Unsent => index += 1,
            }
        }
        if self.has_changes() {
            // What was decided is durable before anything is sent.
            for entry in &mut self.in_flight {
                entry.needs = self.next_save;
            }
        }
        told
    }
}
