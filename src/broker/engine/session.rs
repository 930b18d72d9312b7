//! What the broker keeps for one client identifier, whether its client is connected or not.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytestring::ByteString;

use super::{ConnectionId, Limits, Ticket};
use crate::message::Message;
use crate::mqtt::{PacketId, QoS, TopicFilter};

/// What keeping a message takes besides its text, in bytes, about.
const OVERHEAD: usize = 200;

/// A message on its way to one client.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) message: Arc<Message>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
}

impl Delivery {
    /// Bytes it takes while it waits, about.
    pub(super) fn size(&self) -> usize {
        OVERHEAD + self.message.topic.as_str().len() + self.message.payload.len()
    }
}

/// A QoS 1 or 2 message that was sent and is not done.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) packet_id: PacketId,
    pub(super) delivery: Delivery,
    /// PUBREC arrived: PUBREL was sent.
    pub(super) released: bool,
}

/// A QoS 2 message from the client, from its PUBLISH to its PUBREL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Incoming {
    /// Some tap has not stored it yet.
    Held(Ticket),
    /// PUBREC was sent, or can be sent again.
    Received,
}

/// A will that waits.
#[derive(Debug)]
pub(super) struct PendingWill {
    pub(super) message: Arc<Message>,
    pub(super) delay: Duration,
    /// Set when the connection is gone.
    pub(super) due: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) client_id: ByteString,
    pub(super) connection: Option<ConnectionId>,
    /// How long it outlives its connection; `None` is for ever.
    pub(super) outlives: Option<Duration>,
    pub(super) expires_at: Option<Instant>,
    pub(super) subscriptions: HashSet<TopicFilter>,
    pub(super) queue: VecDeque<Delivery>,
    pub(super) queue_bytes: usize,
    pub(super) in_flight: VecDeque<InFlight>,
    pub(super) incoming: HashMap<PacketId, Incoming>,
    pub(super) will: Option<PendingWill>,
    last_packet_id: u16,
}

impl Session {
    pub(super) fn new(client_id: ByteString) -> Self {
        Self {
            client_id,
            connection: None,
            outlives: Some(Duration::ZERO),
            expires_at: None,
            subscriptions: HashSet::new(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            in_flight: VecDeque::new(),
            incoming: HashMap::new(),
            will: None,
            last_packet_id: 0,
        }
    }

    /// Lets a delivery wait. False if it had to be dropped: QoS 0 for somebody who is away, or the queue is full. What was
    /// retained is exempt: its number is bounded already, and a subscriber counts on getting all of it.
    pub(super) fn enqueue(&mut self, delivery: Delivery, limits: &Limits) -> bool {
        let wanted = self.connection.is_some() || delivery.qos != QoS::AtMostOnce;
        let size = delivery.size();
        let fits = self.queue.len() < limits.max_queued && self.queue_bytes + size <= limits.max_queued_bytes;
        if !wanted || !(fits || delivery.retain) {
            return false;
        }
        self.queue_bytes += size;
        self.queue.push_back(delivery);
        true
    }

    pub(super) fn dequeue(&mut self) -> Option<Delivery> {
        let delivery = self.queue.pop_front()?;
        self.queue_bytes = self.queue_bytes.saturating_sub(delivery.size());
        Some(delivery)
    }

    /// A packet identifier that is not in use [MQTT-2.2.1-4]. The window is far below 65,535, so there always is one.
    pub(super) fn next_packet_id(&mut self) -> PacketId {
        loop {
            self.last_packet_id = self.last_packet_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last_packet_id)
                && self.in_flight.iter().all(|sent| sent.packet_id != id)
            {
                return id;
            }
        }
    }

    /// Ends what is in flight under `packet_id`, if it is in the state `released` (PUBCOMP) or not (PUBACK, failed PUBREC).
    pub(super) fn complete(&mut self, packet_id: PacketId, released: bool) -> bool {
        let position = self.in_flight.iter().position(|sent| sent.packet_id == packet_id && sent.released == released);
        position.and_then(|position| self.in_flight.remove(position)).is_some()
    }
}
