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

use super::budget::{Account, Part};
use super::filters::Filters;
use super::in_flight::InFlight;
use super::queue::Queue;
use super::replays::Replays;
use super::shared::Class;
use super::{ByNumber, ConnectionId, Limits, SessionKey, Ticket};
use crate::broker::access::Rights;
use crate::log::Source;
use crate::message::{Message, Origin, Publisher};
use crate::mqtt::{PacketId, QoS, SubscribeOptions, TopicFilter, TopicName};

/// What keeping a message takes besides its text, in bytes, about.
pub(super) const OVERHEAD: usize = 200;
/// What a session takes besides its names, in bytes, about: itself, its places among the sessions, the client identifiers and the timers.
const SESSION_OVERHEAD: usize = size_of::<Session>() + 300;
/// What an identifier of a QoS 2 message takes, in bytes, at most.
pub(super) const RECEIVED: usize = 96;
/// More places than this are given back when nothing is received any more.
const SPARE: usize = 64;
/// Numbers that have packet identifiers of their own.
pub(super) const IDENTIFIERS: u64 = u16::MAX as u64;

/// A message that waits for somebody. While it is in queues or in flight, its bytes count once, however many sessions hold it.
#[derive(Debug)]
pub(super) struct Kept {
    message: Message,
    /// Names it in records.
    pub(super) id: u64,
    weight: usize,
    /// Queues it is in, and sessions it is in flight to.
    holders: AtomicUsize,
    total: Arc<AtomicUsize>,
}

impl Kept {
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

    /// What is there in place of a message whose content nobody needs any more. It counts nowhere; all have the number 0 in records, which
    /// no other message has.
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

impl PendingWill {
    /// Bytes it takes, about.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.message.weight()
    }
}

/// Bytes a session takes by itself, about: with its names, and with rights that nobody else has.
pub(super) fn names_weight(
    client_id: &ByteString,
    user: Option<&ByteString>,
    rights: &Arc<Rights>,
) -> usize {
    SESSION_OVERHEAD
        + client_id.len()
        + user.map_or(0, |user| user.len())
        + rights.personal_weight()
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
    pub(super) filters: Filters,
    /// Retained messages that are still to come for some of them.
    pub(super) replays: Replays,
    pub(super) queue: Queue,
    pub(super) in_flight: InFlight,
    /// Changed by [`Session::receive`] and [`Session::forget`].
    pub(super) incoming: ByNumber<PacketId, Incoming>,
    pub(super) will: Option<Box<PendingWill>>,
    pub(super) last_number: u64,
    /// What it holds of the budget.
    pub(super) account: Account,
}

impl Session {
    /// Who it is, for the log.
    pub(super) fn publisher(&self, source: Source) -> Arc<Publisher> {
        Arc::new(Publisher {
            client_id: self.client_id.clone(),
            user: self.user.clone(),
            source,
        })
    }

    pub(super) fn new(client_id: &ByteString, number: u64, account: Account) -> Self {
        Self {
            // A copy: the packet it came in is not to be kept for it.
            client_id: ByteString::from(&**client_id),
            number,
            is_recorded: false,
            user: None,
            rights: Arc::default(),
            connection: None,
            outlives: Some(Duration::ZERO),
            expires_at: None,
            away_since: None,
            filters: Filters::default(),
            replays: Replays::default(),
            queue: Queue::default(),
            in_flight: InFlight::default(),
            incoming: ByNumber::default(),
            will: None,
            last_number: 0,
            account,
        }
    }

    /// Forgets a QoS 2 message from the client; what was known of it.
    pub(super) fn forget(&mut self, packet_id: PacketId) -> Option<Incoming> {
        let known = self.incoming.remove(&packet_id);
        if self.incoming.is_empty() && self.incoming.capacity() > SPARE {
            self.incoming = ByNumber::default();
        }
        known
    }

    /// What it holds, from its collections: what its account must show.
    pub(super) fn weights(&self, aliases: usize) -> [(Part, usize); 6] {
        [
            (
                Part::Names,
                names_weight(&self.client_id, self.user.as_ref(), &self.rights),
            ),
            (Part::Filters, self.filters.bytes()),
            (
                Part::Will,
                self.will.as_deref().map_or(0, PendingWill::weight),
            ),
            (Part::Received, self.incoming.len() * RECEIVED),
            (Part::Aliases, aliases),
            (Part::Replays, self.replays.bytes()),
        ]
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

    /// Whose sessions may read the same of a shared subscription as this one.
    pub(super) fn class_for(&self, key: SessionKey, filter: &TopicFilter) -> Class {
        if self.rights.read_by_client_id(filter) {
            Class::Session(key)
        } else {
            Class::User(self.user.clone())
        }
    }

    /// True if its deliveries survive the broker.
    pub(super) fn is_kept(&self) -> bool {
        self.is_recorded && self.is_persistent()
    }

    /// Deliveries that are not done.
    pub(super) fn load(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }

    /// Bytes of the messages it holds, waiting and in flight.
    pub(super) fn held_bytes(&self) -> usize {
        self.queue.held_bytes() + self.in_flight.held_bytes()
    }

    /// Gives up the oldest message that waits; if none does, the oldest in flight that the client has not received: whoever
    /// acknowledges nothing holds the most.
    pub(super) fn give_up_oldest(&mut self) -> Option<Delivery> {
        self.queue
            .dequeue()
            .or_else(|| self.in_flight.give_up_oldest())
    }

    /// True if one more message may be in flight, as far as its bytes go.
    pub(super) fn has_room_in_flight(&self, limits: &Limits) -> bool {
        self.in_flight.bytes() < limits.max_queued_bytes && !self.in_flight.has_many_released()
    }
}
