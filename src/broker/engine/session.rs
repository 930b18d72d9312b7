//! What the broker keeps for one client identifier, whether its client is connected or not.
//!
//! Invariants:
//! * Deliveries at QoS 1 and 2 are numbered when they are queued, and the packet identifier follows from the number: after a crash
//!   it is the same again [MQTT-4.4.0-1].
//! * `in_flight` is in the order of the numbers; `unsent` of its entries were not written on this connection, and `window` count
//!   against what the client takes: a PUBREL of an earlier connection does not.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytestring::ByteString;

use super::{ByNumber, ConnectionId, Limits, QueueFull, Ticket};
use crate::broker::access::Rights;
use crate::message::Message;
use crate::mqtt::{PacketId, QoS, SubscribeOptions, TopicFilter};

/// What keeping a message takes besides its text, in bytes, about.
const OVERHEAD: usize = 200;
/// Numbers that have packet identifiers of their own.
const IDENTIFIERS: u64 = u16::MAX as u64;

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

    fn enters_queue(&self) {
        let weight = if self.queues.fetch_add(1, Ordering::Relaxed) == 0 { self.weight } else { 0 };
        self.total.fetch_add(OVERHEAD + weight, Ordering::Relaxed);
    }

    fn leaves_queue(&self) {
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

/// Bytes a delivery counts in its queue.
fn size(delivery: &Delivery) -> usize {
    OVERHEAD + delivery.message.weight()
}

/// A QoS 1 or 2 message that was sent and is not done.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) delivery: Delivery,
    /// PUBREC arrived: PUBREL is what goes out.
    pub(super) released: bool,
    /// Written on an earlier connection.
    pub(super) is_repeated: bool,
    /// Written on this one.
    pub(super) is_sent: bool,
    /// As a PUBLISH: it counts until it is done [MQTT-4.9.0-2].
    pub(super) is_in_window: bool,
}

impl InFlight {
    /// A PUBLISH that was just written for the first time.
    pub(super) fn new(delivery: Delivery) -> Self {
        Self { delivery, released: false, is_repeated: false, is_sent: true, is_in_window: true }
    }
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
    /// Changed by the functions below only: its bytes are counted.
    pub(super) queue: VecDeque<Delivery>,
    queue_bytes: usize,
    /// The same with replays.
    held_bytes: usize,
    /// Replays in the queue.
    replays: usize,
    /// Nothing in the queue expires before.
    first_expiry: Option<Instant>,
    pub(super) in_flight: VecDeque<InFlight>,
    pub(super) unsent: usize,
    pub(super) window: usize,
    in_flight_bytes: usize,
    pub(super) incoming: ByNumber<PacketId, Incoming>,
    pub(super) will: Option<Box<PendingWill>>,
    pub(super) last_number: u64,
}

/// A delivery that left its queue without having been sent.
#[derive(Debug)]
pub(super) struct Dropped {
    pub(super) delivery: Delivery,
    /// It was too late for it; otherwise another one needed its room.
    pub(super) is_expired: bool,
}

impl Session {
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
            queue: VecDeque::new(),
            queue_bytes: 0,
            held_bytes: 0,
            in_flight_bytes: 0,
            replays: 0,
            first_expiry: None,
            in_flight: VecDeque::new(),
            unsent: 0,
            window: 0,
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

    /// Bytes in the queue, about.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// True if one more message may be in flight, as far as its bytes go.
    pub(super) fn has_room_in_flight(&self, limits: &Limits) -> bool {
        self.in_flight_bytes < limits.max_queued_bytes
    }

    /// Lets a delivery wait; false if there is no room for it. What had to go for it is added to `dropped`. Replays of retained
    /// messages have a bound of their own: a subscriber counts on getting all of them, and they must not push out what is new.
    pub(super) fn enqueue(&mut self, delivery: Delivery, limits: &Limits, now: Instant, dropped: &mut Vec<Dropped>) -> bool {
        if delivery.is_replay {
            let fits = self.replays < limits.max_retained;
            if fits {
                self.push(delivery);
            }
            return fits;
        }
        let size = size(&delivery);
        if !self.has_room(size, limits) {
            self.drop_expired(now, dropped);
        }
        while !self.has_room(size, limits) {
            let oldest = if limits.queue_full == QueueFull::DropOldest { self.dequeue_counted() } else { None };
            let Some(delivery) = oldest else { return false };
            dropped.push(Dropped { delivery, is_expired: false });
        }
        self.push(delivery);
        true
    }

    fn has_room(&self, size: usize, limits: &Limits) -> bool {
        let few = self.queue.len() - self.replays < limits.max_queued;
        self.queue.is_empty() || (few && self.queue_bytes + size <= limits.max_queued_bytes)
    }

    fn drop_expired(&mut self, now: Instant, dropped: &mut Vec<Dropped>) {
        if self.first_expiry.is_none_or(|at| at > now) {
            return;
        }
        for delivery in self.take_queue() {
            if delivery.message.is_expired(now) {
                dropped.push(Dropped { delivery, is_expired: true });
            } else {
                self.push(delivery);
            }
        }
    }

    /// Puts a delivery behind the others, whatever the limits say.
    pub(super) fn push(&mut self, delivery: Delivery) {
        if delivery.is_replay {
            self.replays += 1;
        } else {
            self.queue_bytes += size(&delivery);
        }
        self.held_bytes += size(&delivery);
        delivery.message.enters_queue();
        self.first_expiry = [self.first_expiry, delivery.message.expires_at].into_iter().flatten().min();
        self.queue.push_back(delivery);
    }

    /// Everything that waits, in its order.
    pub(super) fn take_queue(&mut self) -> Vec<Delivery> {
        let taken = std::iter::from_fn(|| self.dequeue()).collect();
        self.first_expiry = None;
        taken
    }

    /// QoS 0 is not kept for somebody who is away.
    pub(super) fn forget_qos_0(&mut self) {
        if self.queue.iter().any(|delivery| delivery.qos == QoS::AtMostOnce) {
            let kept = self.take_queue().into_iter().filter(|delivery| delivery.qos != QoS::AtMostOnce);
            kept.for_each(|delivery| self.push(delivery));
        }
    }

    /// What waits for a shared subscription.
    pub(super) fn take_shared(&mut self, filter: &TopicFilter) -> Vec<Delivery> {
        let is_of = |delivery: &Delivery| delivery.share.as_deref() == Some(filter);
        if !self.queue.iter().any(is_of) {
            return Vec::new();
        }
        let (shared, kept): (Vec<Delivery>, Vec<Delivery>) = self.take_queue().into_iter().partition(is_of);
        kept.into_iter().for_each(|delivery| self.push(delivery));
        shared
    }

    pub(super) fn dequeue(&mut self) -> Option<Delivery> {
        self.take_out(0)
    }

    /// The oldest that is no replay: those do not count.
    fn dequeue_counted(&mut self) -> Option<Delivery> {
        let place = self.queue.iter().position(|delivery| !delivery.is_replay)?;
        self.take_out(place)
    }

    fn take_out(&mut self, place: usize) -> Option<Delivery> {
        let delivery = self.queue.remove(place)?;
        if delivery.is_replay {
            self.replays -= 1;
        } else {
            self.queue_bytes -= size(&delivery);
        }
        self.held_bytes -= size(&delivery);
        delivery.message.leaves_queue();
        Some(delivery)
    }

    /// True if the packet identifier of a number is in use by an older delivery [MQTT-2.2.1-4].
    pub(super) fn is_identifier_in_use(&self, number: u64) -> bool {
        self.in_flight.front().is_some_and(|oldest| number - oldest.delivery.number >= IDENTIFIERS)
    }

    /// What was sent under `packet_id` on this connection and is not done.
    pub(super) fn sent_mut(&mut self, packet_id: PacketId) -> Option<&mut InFlight> {
        self.in_flight.iter_mut().find(|entry| entry.is_sent && entry.delivery.packet_id() == Some(packet_id))
    }

    /// Ends what is in flight under `packet_id`, if it is what the acknowledgement is for.
    pub(super) fn complete(&mut self, packet_id: PacketId, ends: impl Fn(&InFlight) -> bool) -> Option<Delivery> {
        let is_meant = |entry: &InFlight| entry.is_sent && entry.delivery.packet_id() == Some(packet_id) && ends(entry);
        let position = self.in_flight.iter().position(is_meant)?;
        let done = self.in_flight.remove(position)?;
        self.window -= usize::from(done.is_in_window);
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(done.delivery.message.weight());
        Some(done.delivery)
    }

    /// Notes a PUBLISH that was written for the first time.
    pub(super) fn put_in_flight(&mut self, delivery: Delivery) {
        self.in_flight_bytes += delivery.message.weight();
        self.in_flight.push_back(InFlight::new(delivery));
        self.window += 1;
    }

    /// A new connection: nothing in flight was written on it.
    pub(super) fn begin_again(&mut self) {
        self.window = 0;
        self.unsent = self.in_flight.len();
        for entry in &mut self.in_flight {
            (entry.is_sent, entry.is_in_window, entry.is_repeated) = (false, false, true);
        }
    }

    /// What is released on a new connection, in order; it counts as written.
    pub(super) fn releases(&mut self) -> Vec<PacketId> {
        let released = self.in_flight.iter_mut().filter(|entry| entry.released && !entry.is_sent);
        let ids: Vec<PacketId> = released
            .filter_map(|entry| {
                entry.is_sent = true;
                entry.delivery.packet_id()
            })
            .collect();
        self.unsent -= ids.len();
        ids
    }
}
