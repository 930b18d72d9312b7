//! Packets to clients that are no messages, and the batches that they wait for.

use std::time::Instant;

use super::connection::DurabilityBarrier;
use super::{ConnectionId, Engine, Lsn, Output};
use crate::mqtt::Packet;

impl Engine {
    /// A packet that leaves when the batch `after` is durable.
    pub(super) fn barrier(&self, after: Lsn) -> DurabilityBarrier {
        DurabilityBarrier {
            after,
            durable: self.gate.durable(),
        }
    }

    /// Writes a packet when the batch `after` is durable; 0 is at once. False if it is more than
    /// the client takes.
    pub(super) fn send(&mut self, id: ConnectionId, packet: &Packet, after: Lsn) -> bool {
        let barrier = self.barrier(after);
        let Some(connection) = self.connections.get_mut(&id) else {
            return false;
        };
        match connection.write(packet, barrier) {
            Some(length) => {
                self.traffic.packets_sent += 1;
                self.traffic.bytes_sent += length as u64;
                self.mark_dirty(id);
                true
            }
            // Not even without everything optional it is as small as the client wants
            // [MQTT-3.1.2-24].
            None => {
                self.traffic.dropped += 1;
                false
            }
        }
    }

    /// Notes that a connection got bytes to write, now or when a batch is durable.
    pub(super) fn mark_dirty(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.out.becomes_dirty() {
            self.dirty.push_back(id);
        }
        if let Some(position) = connection.out.take_new_gate() {
            self.gate.hold_connection(position, id);
        }
    }

    /// Records are durable: what waited for them goes out.
    pub(super) fn durable(&mut self, position: Lsn, now: Instant) {
        self.gate.advance(position);
        self.receipts.durable(position);
        while let Some(id) = self.gate.next_connection() {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            let opened = connection.out.open(position);
            connection.settle(opened);
            self.mark_dirty(id);
            self.pace(id, now);
        }
        while let Some(reply) = self.gate.next_reply() {
            self.outputs.push(Output::Safe(reply));
        }
    }
}
