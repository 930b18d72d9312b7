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
    /// A retained message sent because of a new subscription.
    pub(super) is_replay: bool,
}

impl Delivery {
    /// Bytes it takes while it waits, about.
    pub(super) fn size(&self) -> usize {
        OVERHEAD + self.message.weight()
    }
}

/// A QoS 1 or 2 message that was sent and is not done.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) packet_id: PacketId,
    pub(super) delivery: Delivery,
    /// PUBREC arrived: PUBREL is what goes out.
    pub(super) released: bool,
    /// Written on this connection.
    pub(super) sent: bool,
}

/// A QoS 2 message from the client, from its PUBLISH to its PUBREL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Incoming {
    /// Some tap has not stored it yet.
    Held(Ticket),
    /// PUBREC was sent, or can be sent again.
    Received,
    /// Subscribers have it, a tap could not take it: a repetition is only forwarded.
    Refused,
}

/// A will that waits.
#[derive(Debug)]
pub(super) struct PendingWill {
    pub(super) message: Message,
    /// Message Expiry Interval, from when it is published.
    pub(super) expiry: Option<Duration>,
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
    /// When its connection ended.
    pub(super) away_since: Option<Instant>,
    pub(super) subscriptions: HashSet<TopicFilter>,
    pub(super) queue: VecDeque<Delivery>,
    queue_bytes: usize,
    /// Replays in the queue.
    replays: usize,
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
            away_since: None,
            subscriptions: HashSet::new(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            replays: 0,
            in_flight: VecDeque::new(),
            incoming: HashMap::new(),
            will: None,
            last_packet_id: 0,
        }
    }

    /// Lets a delivery wait. False if it had to be dropped: QoS 0 for somebody who is away, or the queue is full. Replays of
    /// retained messages have a bound of their own: a subscriber counts on getting all of them, and they must not push out
    /// what is new.
    pub(super) fn enqueue(&mut self, delivery: Delivery, limits: &Limits) -> bool {
        let wanted = self.connection.is_some() || delivery.qos != QoS::AtMostOnce;
        let size = delivery.size();
        let fits = if delivery.is_replay {
            self.replays < limits.max_retained
        } else {
            let few = self.queue.len() - self.replays < limits.max_queued;
            self.queue.is_empty() || (few && self.queue_bytes + size <= limits.max_queued_bytes)
        };
        if !wanted || !fits {
            return false;
        }
        if delivery.is_replay {
            self.replays += 1;
        } else {
            self.queue_bytes += size;
        }
        self.queue.push_back(delivery);
        true
    }

    /// QoS 0 is not kept for somebody who is away.
    pub(super) fn forget_qos_0(&mut self) {
        self.queue.retain(|delivery| delivery.qos != QoS::AtMostOnce);
        self.replays = self.queue.iter().filter(|delivery| delivery.is_replay).count();
        self.queue_bytes = self.queue.iter().filter(|delivery| !delivery.is_replay).map(Delivery::size).sum();
    }

    pub(super) fn dequeue(&mut self) -> Option<Delivery> {
        let delivery = self.queue.pop_front()?;
        if delivery.is_replay {
            self.replays -= 1;
        } else {
            self.queue_bytes -= delivery.size();
        }
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

    /// Ends what is in flight under `packet_id`, if it is what the acknowledgement is for.
    pub(super) fn complete(&mut self, packet_id: PacketId, ends: impl Fn(&InFlight) -> bool) -> bool {
        let position = self.in_flight.iter().position(|sent| sent.packet_id == packet_id && ends(sent));
        position.and_then(|position| self.in_flight.remove(position)).is_some()
    }
}
