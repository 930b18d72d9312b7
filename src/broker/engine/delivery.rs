//! Messages on their way to clients: the content, kept once, and a delivery for each client that is
//! to get it.
//!
//! Invariants:
//! * The packet identifier of a delivery follows from its number: after a crash it is the same
//!   again [MQTT-4.4.0-1].
//! * While a message is in queues or in flight, its bytes count once in the total, however many
//!   sessions hold it.

use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::message::{Message, Origin};
use crate::mqtt::{PacketId, QoS, SubscribeOptions, TopicFilter, TopicName};

/// Bytes of a kept message besides its text, about.
pub(super) const OVERHEAD: usize = 200;
/// Numbers that have packet identifiers of their own.
pub(super) const IDENTIFIERS: u64 = u16::MAX as u64;

/// A message that is kept for clients. While it is in queues or in flight, its bytes count once,
/// however many sessions hold it.
#[derive(Debug)]
pub(super) struct SharedMessage {
    message: Message,
    /// Names it in records.
    pub(super) id: u64,
    weight: usize,
    /// Queues it is in, and sessions it is in flight to.
    holders: AtomicUsize,
    total: Arc<AtomicUsize>,
}

impl SharedMessage {
    pub(super) fn new(message: &Message, id: u64, total: &Arc<AtomicUsize>) -> Arc<Self> {
        let message = message.detached();
        let weight = OVERHEAD + message.weight();
        Arc::new(Self {
            message,
            id,
            weight,
            holders: AtomicUsize::new(0),
            total: total.clone(),
        })
    }

    /// Stands in for a message whose content is not needed any more. It counts nowhere; all have
    /// the number 0 in records, which no other message has.
    pub(super) fn hollow(message: &Message) -> Arc<Self> {
        let topic = TopicName::new("-").unwrap_or_else(|_| message.topic.detached());
        let message = Message::new(topic, "", Origin::Client);
        Arc::new(Self {
            message,
            id: 0,
            weight: 0,
            holders: AtomicUsize::new(0),
            total: Arc::default(),
        })
    }

    /// One more session holds it.
    pub(super) fn hold(&self) {
        let weight = if self.holders.fetch_add(1, Ordering::Relaxed) == 0 {
            self.weight
        } else {
            0
        };
        self.total.fetch_add(OVERHEAD + weight, Ordering::Relaxed);
    }

    /// One session less holds it.
    pub(super) fn let_go(&self) {
        let weight = if self.holders.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.weight
        } else {
            0
        };
        self.total.fetch_sub(OVERHEAD + weight, Ordering::Relaxed);
    }

    /// Bytes it takes, about.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }
}

impl Deref for SharedMessage {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

/// A message on its way to one client.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) message: Arc<SharedMessage>,
    /// Counts the deliveries of the session at QoS 1 and 2 from one; 0 at QoS 0.
    pub(super) number: u64,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// A retained message sent because of a new subscription.
    pub(super) is_replay: bool,
    /// Those of the subscriptions it is for.
    pub(super) identifiers: Box<[NonZeroU32]>,
    /// The shared subscription it was chosen for.
    pub(super) share: Option<Arc<TopicFilter>>,
}

impl Delivery {
    /// Present at QoS 1 and 2.
    pub(super) fn packet_id(&self) -> Option<PacketId> {
        packet_id(self.number)
    }
}

pub(super) fn packet_id(number: u64) -> Option<PacketId> {
    let id = number.checked_sub(1)? % IDENTIFIERS + 1;
    u16::try_from(id).ok().and_then(PacketId::new)
}

/// One subscription of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Subscription {
    pub(super) options: SubscribeOptions,
    pub(super) identifier: Option<NonZeroU32>,
}

impl Subscription {
    pub(super) fn new(options: SubscribeOptions, identifier: Option<NonZeroU32>) -> Self {
        Self {
            options,
            identifier,
        }
    }
}
