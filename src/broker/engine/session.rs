//! The session of one client identifier, whether its client is connected or not.
//!
//! Invariant: deliveries at QoS 1 and 2 are numbered when they are queued.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytestring::ByteString;

use super::budget::{Account, BudgetPart};
use super::delivery::Delivery;
use super::filters::Filters;
use super::in_flight::InFlight;
use super::qos_2_records::ReceivedProgress;
use super::queue::SessionQueue;
use super::rare::{Rare, Shareable};
use super::record::{Deadline, SessionRecord};
use super::replays::Replays;
use super::shared::MemberClass;
use super::{BrokerLimits, ByNumber, ConnectionId, SessionKey, Ticket};
use crate::broker::access::Rights;
use crate::log::Source;
use crate::message::{Message, Publisher};
use crate::mqtt::{PacketId, TopicFilter};

/// Bytes of a session besides its names, about: itself, its places among the sessions, the client
/// identifiers and the timers.
const SESSION_OVERHEAD: usize =
    size_of::<Session>() + size_of::<InFlight>() + size_of::<SessionQueue>() + 350;
/// Bytes of an identifier of a QoS 2 message, at most.
pub(super) const RECEIVED: usize = 96;
/// More places than this are given back when nothing is received any more.
const SPARE: usize = 64;
/// A QoS 2 message from the client, from its PUBLISH to its PUBREL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Incoming {
    pub(super) state: IncomingState,
    /// The connection it came on last; 0 for one of an earlier run.
    pub(super) connection: ConnectionId,
    /// By which outboxes know it, until all of them have it; 0 if they do not.
    pub(super) receipt: u64,
}

impl Incoming {
    /// On no connection: of a remote, or of an earlier run.
    pub(super) fn on_none(state: IncomingState, receipt: u64) -> Self {
        Self {
            state,
            connection: 0,
            receipt,
        }
    }

    /// As it is recorded.
    pub(super) fn progress(self) -> ReceivedProgress {
        ReceivedProgress {
            is_held: self.state != IncomingState::Received,
            is_delivered: !matches!(self.state, IncomingState::Partial(rest) if !rest.is_delivered),
            receipt: self.receipt,
        }
    }
}

/// The progress of a QoS 2 message from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IncomingState {
    /// Some destination has not stored it yet.
    Held(Ticket),
    /// PUBREC was sent, or can be sent again.
    Received,
    /// A repetition goes the rest of the way only.
    Partial(Rest),
}

/// The part of its way that a message has still to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rest {
    /// Destinations that may not have it, a bit each.
    pub(super) missing: u64,
    /// Subscribers have it.
    pub(super) is_delivered: bool,
}

impl Rest {
    /// Nobody has it.
    pub(super) const ALL: Self = Self {
        missing: u64::MAX,
        is_delivered: false,
    };

    /// Only these destinations may not have it.
    pub(super) fn to_destinations(missing: u64) -> Self {
        Self {
            missing,
            is_delivered: true,
        }
    }
}

impl Shareable for ByNumber<PacketId, Incoming> {
    fn none() -> &'static Self {
        static NONE: ByNumber<PacketId, Incoming> = HashMap::with_hasher(BuildHasherDefault::new());
        &NONE
    }
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
    /// By which outboxes know it, and the destinations that may not have it: after a crash in the
    /// middle of its publication; 0 and all otherwise.
    pub(super) receipt: u64,
    pub(super) missing: u64,
}

impl PendingWill {
    /// Bytes it takes, about.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.message.weight()
    }
}

/// Bytes a session takes by itself, about: with its names, and with rights that no other session
/// has.
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
    pub(super) queue: Rare<SessionQueue>,
    pub(super) in_flight: Rare<InFlight>,
    /// Taken out by [`Session::forget`].
    pub(super) incoming: Rare<ByNumber<PacketId, Incoming>>,
    pub(super) will: Option<Box<PendingWill>>,
    pub(super) last_number: u64,
    /// The bytes it holds of the budget.
    pub(super) account: Account,
}

impl Session {
    /// Its names, for the log.
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
            queue: Rare::default(),
            in_flight: Rare::default(),
            incoming: Rare::default(),
            will: None,
            last_number: 0,
            account,
        }
    }

    /// Forgets a QoS 2 message from the client; what was known of it.
    pub(super) fn forget(&mut self, packet_id: PacketId) -> Option<Incoming> {
        let incoming = self.incoming.known()?;
        let known = incoming.remove(&packet_id);
        if incoming.is_empty() && incoming.capacity() > SPARE {
            self.incoming = Rare::default();
        }
        known
    }

    /// The bytes that its collections hold, which its account must show.
    pub(super) fn weights(&self, aliases: usize) -> [(BudgetPart, usize); 6] {
        [
            (
                BudgetPart::Names,
                names_weight(&self.client_id, self.user.as_ref(), &self.rights),
            ),
            (BudgetPart::Filters, self.filters.bytes()),
            (
                BudgetPart::Will,
                self.will.as_deref().map_or(0, PendingWill::weight),
            ),
            (BudgetPart::Received, self.incoming.len() * RECEIVED),
            (BudgetPart::Aliases, aliases),
            (BudgetPart::Replays, self.replays.bytes()),
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

    /// The class of sessions that may read the same of a shared subscription.
    pub(super) fn class_for(&self, key: SessionKey, filter: &TopicFilter) -> MemberClass {
        if self.rights.read_by_client_id(filter) {
            MemberClass::Session(key)
        } else {
            MemberClass::User(self.user.clone())
        }
    }

    /// The session as it is recorded; `ends` is there while its client is away.
    pub(super) fn record(&self, ends: Option<Deadline>) -> SessionRecord {
        SessionRecord {
            number: self.number,
            client_id: self.client_id.clone(),
            user: self.user.clone(),
            outlives_ms: self
                .outlives
                .map(|outlives| u64::try_from(outlives.as_millis()).unwrap_or(u64::MAX)),
            ends,
            last_number: self.last_number,
        }
    }

    /// True if its deliveries survive the broker.
    pub(super) fn is_kept(&self) -> bool {
        self.is_recorded && self.is_persistent()
    }

    /// True if something waits to be sent, now or later.
    pub(super) fn has_more_to_send(&self) -> bool {
        !self.queue.is_empty() || self.in_flight.unsent() > 0 || self.replays.first().is_some()
    }

    /// Deliveries that are not done.
    pub(super) fn load(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }

    /// Bytes of the messages it holds, waiting and in flight.
    pub(super) fn held_bytes(&self) -> usize {
        self.queue.held_bytes() + self.in_flight.held_bytes()
    }

    /// Gives up the oldest message that waits; if none does, the oldest in flight that the client
    /// has not received: a client that acknowledges nothing holds the most.
    pub(super) fn give_up_oldest(&mut self) -> Option<Delivery> {
        let oldest = self.queue.known().and_then(SessionQueue::dequeue);
        oldest.or_else(|| self.in_flight.known()?.give_up_oldest())
    }

    /// True if one more message may be in flight, as far as its bytes go.
    pub(super) fn has_room_in_flight(&self, limits: &BrokerLimits) -> bool {
        self.in_flight.bytes() < limits.max_queued_bytes && !self.in_flight.has_many_released()
    }
}
