//! What the broker keeps for one client identifier, whether its client is connected or not.
//!
//! Invariants:
//! * Deliveries at QoS 1 and 2 are numbered when they are queued, and the packet identifier follows from the number: after a crash
//!   it is the same again [MQTT-4.4.0-1].

use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytestring::ByteString;

use super::in_flight::InFlight;
use super::queue::Queue;
use super::{ByNumber, ConnectionId, Limits, Ticket};
use crate::broker::access::Rights;
use crate::message::{Message, Publisher};
use crate::mqtt::{PacketId, QoS, SubscribeOptions, TopicFilter};

/// What keeping a message takes besides its text, in bytes, about.
pub(super) const OVERHEAD: usize = 200;
/// Numbers that have packet identifiers of their own.
pub(super) const IDENTIFIERS: u64 = u16::MAX as u64;

/// A message that waits for somebody. While it does in queues, its bytes count once, however many they are.
#[derive(Debug)]
pub(super) struct Kept {
    message: Message,
    /// Names it in records.
    pub(super) id: u64,
    weight: usize,
    /// Queues it is in.
    queues: AtomicUsize,
    total: Arc<AtomicUsize>,
}

impl Kept {
    pub(super) fn new(message: &Message, id: u64, total: &Arc<AtomicUsize>) -> Arc<Self> {
        let message = message.detached();
        let weight = OVERHEAD + message.weight();
        Arc::new(Self { message, id, weight, queues: AtomicUsize::new(0), total: total.clone() })
    }

    pub(super) fn enters_queue(&self) {
        let weight = if self.queues.fetch_add(1, Ordering::Relaxed) == 0 { self.weight } else { 0 };
        self.total.fetch_add(OVERHEAD + weight, Ordering::Relaxed);
    }

    pub(super) fn leaves_queue(&self) {
        let weight = if self.queues.fetch_sub(1, Ordering::Relaxed) == 1 { self.weight } else { 0 };
        self.total.fetch_sub(OVERHEAD + weight, Ordering::Relaxed);
    }

    /// Bytes it takes, about.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }
}

impl Deref for Kept {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

/// A message on its way to one client.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) message: Arc<Kept>,
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

/// A QoS 2 message from the client, from its PUBLISH to its PUBREL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Incoming {
    pub(super) state: Exchange,
    /// Where it came last; 0 for one of an earlier run.
    pub(super) connection: ConnectionId,
}

/// How far a QoS 2 message from the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exchange {
    /// Some tap has not stored it yet.
    Held(Ticket),
    /// PUBREC was sent, or can be sent again.
    Received,
    /// Subscribers have it, these taps may not: a repetition is forwarded to them only.
    Refused {
        /// A bit each.
        taps: u64,
    },
}

/// A will that waits.
#[derive(Debug, Clone)]
pub(super) struct PendingWill {
    pub(super) message: Message,
    /// Message Expiry Interval, from when it is published.
    pub(super) expiry: Option<Duration>,
    pub(super) delay: Duration,
    /// Set when the connection is gone.
    pub(super) due: Option<Instant>,
}

/// One subscription of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Subscription {
    pub(super) options: SubscribeOptions,
    pub(super) identifier: Option<NonZeroU32>,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) client_id: ByteString,
    /// Names it in records.
    pub(super) number: u64,
    /// It is in the records: it survives the broker, or its will must.
    pub(super) is_recorded: bool,
    pub(super) user: Option<ByteString>,
    pub(super) rights: Arc<Rights>,
    pub(super) connection: Option<ConnectionId>,
    /// How long it outlives its connection; `None` is for ever.
    pub(super) outlives: Option<Duration>,
    pub(super) expires_at: Option<Instant>,
    /// When its connection ended.
    pub(super) away_since: Option<Instant>,
    /// In the order of their filters.
    subscriptions: Vec<(TopicFilter, Subscription)>,
    pub(super) queue: Queue,
    pub(super) in_flight: InFlight,
    pub(super) incoming: ByNumber<PacketId, Incoming>,
    pub(super) will: Option<Box<PendingWill>>,
    pub(super) last_number: u64,
}

impl Session {
    /// Who it is, for the log.
    pub(super) fn publisher(&self) -> Arc<Publisher> {
        Arc::new(Publisher { client_id: self.client_id.clone(), user: self.user.clone() })
    }

    pub(super) fn new(client_id: ByteString, number: u64) -> Self {
        Self {
            client_id,
            number,
            is_recorded: false,
            user: None,
            rights: Arc::default(),
            connection: None,
            outlives: Some(Duration::ZERO),
            expires_at: None,
            away_since: None,
            subscriptions: Vec::new(),
            queue: Queue::default(),
            in_flight: InFlight::default(),
            incoming: ByNumber::default(),
            will: None,
            last_number: 0,
        }
    }

    /// Its subscriptions, in the order of their filters.
    pub(super) fn subscriptions(&self) -> &[(TopicFilter, Subscription)] {
        &self.subscriptions
    }

    /// Bytes of their filters.
    pub(super) fn filter_bytes(&self) -> usize {
        self.subscriptions.iter().map(|(filter, _)| filter.as_str().len()).sum()
    }

    fn place_of(&self, filter: &TopicFilter) -> Result<usize, usize> {
        self.subscriptions.binary_search_by(|(known, _)| known.cmp(filter))
    }

    /// True if it has a subscription with this very filter.
    pub(super) fn has_subscription(&self, filter: &TopicFilter) -> bool {
        self.place_of(filter).is_ok()
    }

    /// Adds or replaces one.
    pub(super) fn subscribe(&mut self, filter: &TopicFilter, subscription: Subscription) {
        match self.place_of(filter) {
            Ok(place) => {
                if let Some((_, known)) = self.subscriptions.get_mut(place) {
                    *known = subscription;
                }
            }
            Err(place) => {
                if self.subscriptions.is_empty() {
                    // Most sessions have few.
                    self.subscriptions.reserve_exact(1);
                }
                self.subscriptions.insert(place, (filter.clone(), subscription));
            }
        }
    }

    /// True if there was one.
    pub(super) fn unsubscribe(&mut self, filter: &TopicFilter) -> bool {
        self.place_of(filter).map(|place| self.subscriptions.remove(place)).is_ok()
    }

    /// The number of the next delivery at QoS 1 or 2.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// True if the session outlives its connection.
    pub(super) fn is_persistent(&self) -> bool {
        self.outlives != Some(Duration::ZERO)
    }

    /// True if its deliveries survive the broker.
    pub(super) fn is_kept(&self) -> bool {
        self.is_recorded && self.is_persistent()
    }

    /// Deliveries that are not done.
    pub(super) fn load(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }

    /// True if one more message may be in flight, as far as its bytes go.
    pub(super) fn has_room_in_flight(&self, limits: &Limits) -> bool {
        self.in_flight.bytes() < limits.max_queued_bytes
    }
}
