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
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

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
    /// Bounded by the largest packet.
    weight: u32,
    /// Queues it is in, and sessions it is in flight to. Only the engine changes it.
    holders: AtomicU32,
    /// Of all messages that are held. Only the engine changes it.
    total: Arc<AtomicUsize>,
}

impl SharedMessage {
    /// `message` keeps no read buffer alive.
    pub(super) fn new(message: Message, id: u64, total: &Arc<AtomicUsize>) -> Arc<Self> {
        let weight = OVERHEAD + message.weight();
        Arc::new(Self {
            message,
            id,
            weight: u32::try_from(weight).unwrap_or(u32::MAX),
            holders: AtomicU32::new(0),
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
            holders: AtomicU32::new(0),
            total: Arc::default(),
        })
    }

    /// One more session holds it.
    pub(super) fn hold(&self) {
        let holders = self.holders.load(Ordering::Relaxed);
        self.holders.store(holders + 1, Ordering::Relaxed);
        let more = OVERHEAD + if holders == 0 { self.weight() } else { 0 };
        let total = self.total.load(Ordering::Relaxed);
        self.total.store(total + more, Ordering::Relaxed);
    }

    /// One session less holds it.
    pub(super) fn let_go(&self) {
        let holders = self.holders.load(Ordering::Relaxed);
        debug_assert!(holders > 0, "what is let go was held");
        self.holders.store(holders - 1, Ordering::Relaxed);
        let less = OVERHEAD + if holders == 1 { self.weight() } else { 0 };
        let total = self.total.load(Ordering::Relaxed);
        self.total.store(total - less, Ordering::Relaxed);
    }

    /// Bytes it takes, about.
    pub(super) fn weight(&self) -> usize {
        self.weight as usize
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
    pub(super) grounds: Grounds,
}

/// What a delivery has to name of the subscriptions it is for; most have nothing, and take a
/// pointer.
#[derive(Debug, Clone, Default)]
pub(super) struct Grounds(Option<Box<NamedGrounds>>);

#[derive(Debug, Clone)]
struct NamedGrounds {
    identifiers: Box<[NonZeroU32]>,
    share: Option<Arc<TopicFilter>>,
}

impl Grounds {
    /// The identifiers of the subscriptions, and the shared one that chose the session.
    pub(super) fn new(
        identifiers: impl IntoIterator<Item = NonZeroU32>,
        share: Option<&Arc<TopicFilter>>,
    ) -> Self {
        let identifiers: Box<[NonZeroU32]> = identifiers.into_iter().collect();
        let is_named = share.is_some() || !identifiers.is_empty();
        Self(is_named.then(|| {
            let share = share.cloned();
            Box::new(NamedGrounds { identifiers, share })
        }))
    }

    /// Those of the subscriptions.
    pub(super) fn identifiers(&self) -> &[NonZeroU32] {
        self.0.as_ref().map_or(&[], |named| &named.identifiers)
    }

    /// The shared subscription that chose the session.
    pub(super) fn share(&self) -> Option<&Arc<TopicFilter>> {
        self.0.as_ref()?.share.as_ref()
    }
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
