//! Saves to disk: the memories of lanes that changed, one save at a time. Pure.

use super::{RECEIVED_IN, SendStage, Session};
use crate::uplink::memory::{Held, HeldStage, Memory};

impl Session {
    /// The memories that changed, to be made durable together.
    pub(in crate::uplink) fn begin_save(&mut self) -> Vec<(usize, Memory)> {
        self.is_saving = true;
        self.being_saved = self.taken;
        self.changes = 0;
        self.next_save += 1;
        let dirty = std::mem::take(&mut self.dirty);
        dirty
            .iter()
            .enumerate()
            .filter(|(_, dirty)| **dirty)
            .map(|(queue, _)| (queue, self.memory(queue)))
            .collect()
    }

    /// The memories that [`Session::begin_save`] returned last are durable.
    pub(in crate::uplink) fn saved(&mut self) {
        self.is_saving = false;
        self.saved = self.next_save - 1;
        self.durably_taken = self.being_saved;
        while self
            .freed
            .front()
            .is_some_and(|(needs, _)| *needs <= self.saved)
        {
            if let Some((_, id)) = self.freed.pop_front() {
                self.used_ids.remove(&id);
            }
        }
    }

    fn memory(&self, queue: usize) -> Memory {
        let recovered = self
            .recovered
            .iter()
            .filter(|(place, _)| place.queue == queue);
        let mut held: Vec<Held> = recovered
            .map(|(place, (packet_id, stage))| Held {
                seq: place.seq,
                packet_id: *packet_id,
                stage: *stage,
            })
            .collect();
        for entry in self
            .in_flight
            .iter()
            .filter(|entry| entry.place().queue == queue && entry.is_exact())
        {
            let stage = if entry.stage == SendStage::Released {
                HeldStage::Released
            } else {
                HeldStage::Sent
            };
            held.extend(entry.packet_id().map(|packet_id| Held {
                seq: entry.place().seq,
                packet_id,
                stage,
            }));
        }
        if queue != RECEIVED_IN {
            return Memory {
                held,
                ..Memory::default()
            };
        }
        Memory {
            held,
            received: self.received.clone(),
            taken: self.taken,
            known: self.known.clone(),
            left_behind: self.left_behind.clone(),
            subscribed: self.subscribed.clone(),
        }
    }
}
