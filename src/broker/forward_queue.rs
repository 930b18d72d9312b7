//! The queues from the broker to destinations inside the gateway, bounded in messages and in bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::engine::Ticket;
use crate::message::Message;
use crate::metrics::Counter;
use crate::mqtt::QoS;
use crate::outbox::{Handover, HandoverBook};
use crate::route::{Destination, RouteTarget};

/// Bytes of messages that may wait for one destination.
const FORWARD_BYTES: usize = 8 << 20;

/// A message for a destination, in the order the broker accepted it.
#[derive(Debug)]
pub struct Forward {
    /// The message.
    pub message: Arc<Message>,
    /// Where it goes, and how.
    pub target: RouteTarget,
    /// To be reported with [`super::Broker::stored`].
    pub ticket: Option<Ticket>,
    /// Its share of the bytes that may be on the way.
    _room: OwnedSemaphorePermit,
}

/// The broker's end of the queue to a destination.
#[derive(Debug, Clone)]
pub struct ForwardSender {
    /// Takes the messages that the destination is to store.
    pub sender: mpsc::Sender<Forward>,
    /// Counts QoS 0 messages that found no room.
    pub dropped: Arc<Counter>,
    /// The messages that an outbox knows after a crash.
    pub handovers: Option<HandoverBook>,
}

/// The ways from the broker to destinations inside the gateway.
#[derive(Debug, Clone)]
pub struct ForwardSenders {
    /// To the outboxes, by uplink.
    pub uplinks: Vec<ForwardSender>,
    /// To the service that writes to instruments.
    pub writes: ForwardSender,
}

impl ForwardSenders {
    /// What the outboxes have taken of messages that their senders may repeat, by uplink.
    pub fn handovers(&self) -> Vec<Vec<Handover>> {
        let books = self.uplinks.iter().map(|uplink| uplink.handovers.as_ref());
        books
            .map(|book| book.map_or_else(Vec::new, HandoverBook::list))
            .collect()
    }

    /// Forgets them: no sender is known from an earlier run.
    pub fn forget_handovers(&self) {
        for book in self
            .uplinks
            .iter()
            .filter_map(|uplink| uplink.handovers.as_ref())
        {
            let mut receipts: Vec<u64> = book.list().iter().map(|found| found.receipt).collect();
            book.forget(&mut receipts);
        }
    }
}

/// The queue to one destination, bounded in messages and in bytes.
#[derive(Debug)]
pub(super) struct ForwardQueue {
    sender: mpsc::Sender<Forward>,
    /// Counts QoS 0 messages that found no room.
    pub(super) dropped: Arc<Counter>,
    room: Arc<Semaphore>,
    handovers: Option<HandoverBook>,
}

impl ForwardQueue {
    fn new(destination: ForwardSender) -> Self {
        let ForwardSender {
            sender,
            dropped,
            handovers,
        } = destination;
        Self {
            sender,
            dropped,
            handovers,
            room: Arc::new(Semaphore::new(FORWARD_BYTES)),
        }
    }

    /// False if there is no room. QoS 0 may use half of the queue only: it must never take the
    /// place of a message that is acknowledged.
    pub(super) fn offer(
        &self,
        message: Arc<Message>,
        target: RouteTarget,
        ticket: Option<Ticket>,
    ) -> bool {
        let may_be_lost = ticket.is_none() && message.qos == QoS::AtMostOnce;
        if may_be_lost
            && (self.sender.capacity() < self.sender.max_capacity() / 2
                || self.room.available_permits() < FORWARD_BYTES / 2)
        {
            return false;
        }
        let size = message.weight().clamp(1, FORWARD_BYTES / 2);
        let Ok(room) = self
            .room
            .clone()
            .try_acquire_many_owned(u32::try_from(size).unwrap_or(u32::MAX))
        else {
            return false;
        };
        self.sender
            .try_send(Forward {
                message,
                target,
                ticket,
                _room: room,
            })
            .is_ok()
    }
}

/// The queues to all destinations.
#[derive(Debug)]
pub(super) struct ForwardQueues {
    uplinks: Vec<ForwardQueue>,
    writes: ForwardQueue,
}

impl ForwardQueues {
    pub(super) fn new(senders: ForwardSenders) -> Self {
        Self {
            uplinks: senders.uplinks.into_iter().map(ForwardQueue::new).collect(),
            writes: ForwardQueue::new(senders.writes),
        }
    }

    /// The senders of messages with these receipts will not repeat them.
    pub(super) fn forget(&self, receipts: &mut [u64]) {
        let books = self
            .uplinks
            .iter()
            .filter_map(|queue| queue.handovers.as_ref());
        books.for_each(|book| book.forget(receipts));
    }

    pub(super) fn to(&self, destination: Destination) -> Option<&ForwardQueue> {
        match destination {
            Destination::Writes => Some(&self.writes),
            Destination::Uplink(index) => self.uplinks.get(index),
        }
    }
}
