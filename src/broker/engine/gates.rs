//! What waits until batches of records are durable: connections with bytes, and messages of
//! remotes.
//!
//! Invariant: whatever waits, waits for a batch that is not durable, in the order of the batches.

use std::collections::VecDeque;

use super::{ConnectionId, Lsn};

/// The batches that are durable, and what waits for others.
#[derive(Debug, Default)]
pub(super) struct DurabilityGate {
    durable: Lsn,
    /// With bytes that wait.
    connections: VecDeque<(Lsn, ConnectionId)>,
    /// Messages of remotes, by what names them to the driver.
    replies: VecDeque<(Lsn, u64)>,
}

impl DurabilityGate {
    /// The last batch that is durable.
    pub(super) fn durable(&self) -> Lsn {
        self.durable
    }

    /// The batches up to `position` are durable.
    pub(super) fn advance(&mut self, position: Lsn) {
        self.durable = self.durable.max(position);
    }

    /// A connection has bytes that wait for the batch `after`, which is not durable.
    pub(super) fn hold_connection(&mut self, after: Lsn, id: ConnectionId) {
        put(&mut self.connections, after, id);
    }

    /// A message of a remote is safe when the batch `after` is durable. False if it is.
    pub(super) fn hold_reply(&mut self, after: Lsn, reply: u64) -> bool {
        let waits = after > self.durable;
        if waits {
            put(&mut self.replies, after, reply);
        }
        waits
    }

    /// The next connection that waits no longer.
    pub(super) fn next_connection(&mut self) -> Option<ConnectionId> {
        next(&mut self.connections, self.durable)
    }

    /// The next message of a remote that waits no longer.
    pub(super) fn next_reply(&mut self) -> Option<u64> {
        next(&mut self.replies, self.durable)
    }

    /// True if nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.replies.is_empty()
    }

    /// Panics if something waits that need not, or out of its order. For tests.
    pub(super) fn check_invariants(&self) {
        for queue in [&self.connections, &self.replies] {
            let first = queue.front().map(|(after, _)| *after);
            assert!(first.is_none_or(|after| after > self.durable), "{self:?}");
            assert!(
                queue.iter().is_sorted_by_key(|(after, _)| *after),
                "{self:?}"
            );
        }
    }
}

fn put(queue: &mut VecDeque<(Lsn, u64)>, after: Lsn, what: u64) {
    let place = queue.partition_point(|(other, _)| *other <= after);
    queue.insert(place, (after, what));
}

fn next(queue: &mut VecDeque<(Lsn, u64)>, durable: Lsn) -> Option<u64> {
    let (_, what) = queue.pop_front_if(|(after, _)| *after <= durable)?;
    Some(what)
}
