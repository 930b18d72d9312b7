//! The QoS 1 and 2 messages that were sent to one client and are not acknowledged, together with
//! their totals.
//!
//! Invariants:
//! * Entries are in the order of their numbers, and no two of them have the same packet identifier.
//! * `bytes` is what all entries weigh that are not released, `replays` of these are retained
//!   messages, `released` are released, `unsent` of all were not written on this connection, and
//!   `in_window` count against the client's Receive Maximum: a PUBREL of an earlier connection does
//!   not.
//! * A message that is given up after it was sent keeps its packet identifier and its place in the
//!   window until it is acknowledged or the connection ends [MQTT-3.3.4-9], [MQTT-2.2.1-4]: it is
//!   in `spent`, in the order of the numbers, and in no entry.
//! * Of a QoS 2 message that is released, only the number is kept, and that is never given up:
//!   PUBREL goes out on every connection until PUBCOMP comes [MQTT-4.4.0-1]. It weighs nothing in
//!   the queues; there are about [`MOST_RELEASED`] of them at most.
//! * Everything before `written` was written on this connection, so that sending all of it again is
//!   not a search for each.

use std::collections::VecDeque;
use std::sync::Arc;

use super::delivery::{Delivery, IDENTIFIERS, OVERHEAD, SharedMessage};
use super::rare::Shareable;
use crate::mqtt::{PacketId, QoS};

/// More places than this are given back when the list is empty.
const SPARE: usize = 64;

/// With more QoS 2 messages released and not done, nothing more is sent.
const MOST_RELEASED: usize = 10_000;

/// A QoS 1 or 2 message that was sent and is not done.
#[derive(Debug)]
pub(super) struct InFlightEntry {
    pub(super) delivery: Delivery,
    /// PUBREC arrived: PUBREL is what goes out.
    released: bool,
    /// Written on an earlier connection.
    is_repeated: bool,
    /// Written on this one.
    is_sent: bool,
    /// As a PUBLISH: it counts until it is done [MQTT-4.9.0-2].
    is_in_window: bool,
}

impl InFlightEntry {
    /// True if PUBREC arrived.
    pub(super) fn is_released(&self) -> bool {
        self.released
    }

    /// True if it was written on an earlier connection [MQTT-3.3.1-1].
    pub(super) fn is_repeated(&self) -> bool {
        self.is_repeated
    }

    /// A retained message that the client may not have.
    fn is_replay(&self) -> bool {
        self.delivery.is_replay && !self.released
    }

    fn weight(&self) -> usize {
        if self.released {
            0
        } else {
            self.delivery.message.weight()
        }
    }

    /// Its content is let go: the client has it.
    fn release(&mut self, hollow: &Arc<SharedMessage>) -> Arc<SharedMessage> {
        self.released = true;
        std::mem::replace(&mut self.delivery.message, hollow.clone())
    }
}

/// The remainder of a message that was given up after it was sent.
#[derive(Debug)]
struct Spent {
    number: u64,
    qos: QoS,
    released: bool,
}

/// An acknowledgement that ends the delivery of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// PUBACK.
    Accepted,
    /// PUBREC with an error.
    Refused,
    /// PUBCOMP.
    Completed,
}

impl Ending {
    fn is_for(self, qos: QoS, released: bool) -> bool {
        match self {
            Self::Accepted => qos == QoS::AtLeastOnce,
            Self::Refused => qos == QoS::ExactlyOnce && !released,
            Self::Completed => qos == QoS::ExactlyOnce && released,
        }
    }
}

/// The meaning of an acknowledgement of a client.
#[derive(Debug)]
pub(super) enum Acknowledged<T> {
    /// It is for this message.
    Message(T),
    /// It is for a message that was given up meanwhile.
    Spent,
    /// The message it is for asks for another kind.
    WrongKind,
    /// Nothing was sent on this connection that it could be for.
    Unknown,
}

/// The messages that one session has in flight.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    entries: VecDeque<InFlightEntry>,
    spent: VecDeque<Spent>,
    bytes: usize,
    released: usize,
    replays: usize,
    /// Stands in for released messages.
    hollow: Option<Arc<SharedMessage>>,
    unsent: usize,
    in_window: usize,
    /// Everything before this place was written on this connection.
    written: usize,
}

impl Shareable for InFlight {
    fn none() -> &'static Self {
        static NONE: InFlight = InFlight::new();
        &NONE
    }
}

impl InFlight {
    const fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            spent: VecDeque::new(),
            bytes: 0,
            released: 0,
            replays: 0,
            hollow: None,
            unsent: 0,
            in_window: 0,
            written: 0,
        }
    }

    /// Messages.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Their bytes, with the overhead of keeping them.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes + OVERHEAD * (self.entries.len() - self.released)
    }

    /// Retained messages among them, sent because of a new subscription.
    pub(super) fn replays(&self) -> usize {
        self.replays
    }

    /// True if too many messages are released to send more.
    pub(super) fn has_many_released(&self) -> bool {
        self.released >= MOST_RELEASED
    }

    /// Messages that were not written on this connection.
    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    /// Messages that count against the client's Receive Maximum.
    pub(super) fn in_window(&self) -> usize {
        self.in_window
    }

    /// In the order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = &InFlightEntry> {
        self.entries.iter()
    }

    /// True if the packet identifier of a number is in use by an older message [MQTT-2.2.1-4].
    pub(super) fn is_identifier_in_use(&self, number: u64) -> bool {
        self.oldest()
            .is_some_and(|oldest| number.saturating_sub(oldest) >= IDENTIFIERS)
    }

    /// Notes a PUBLISH that was just written for the first time.
    pub(super) fn push(&mut self, delivery: Delivery) {
        self.in_window += 1;
        self.put(InFlightEntry {
            delivery,
            released: false,
            is_repeated: false,
            is_sent: true,
            is_in_window: true,
        });
    }

    /// Puts back what was in flight when the broker stopped.
    pub(super) fn restore(&mut self, delivery: Delivery, released: bool) {
        self.unsent += 1;
        let mut entry = InFlightEntry {
            delivery,
            released: false,
            is_repeated: true,
            is_sent: false,
            is_in_window: false,
        };
        if released {
            entry.release(
                self.hollow
                    .get_or_insert_with(|| SharedMessage::hollow(&entry.delivery.message)),
            );
        }
        self.put(entry);
    }

    fn put(&mut self, entry: InFlightEntry) {
        debug_assert!(entry.delivery.number > 0, "QoS 0 is never in flight");
        debug_assert!(
            self.entries
                .back()
                .is_none_or(|last| last.delivery.number < entry.delivery.number),
            "in the order of the numbers"
        );
        self.bytes += entry.weight();
        self.released += usize::from(entry.released);
        self.replays += usize::from(entry.is_replay());
        if !entry.released {
            entry.delivery.message.hold();
        }
        self.entries.push_back(entry);
    }

    /// A new connection: nothing in flight was written on it.
    pub(super) fn begin_again(&mut self) {
        (self.in_window, self.written) = (0, 0);
        self.spent = VecDeque::new();
        self.unsent = self.entries.len();
        for entry in &mut self.entries {
            (entry.is_sent, entry.is_in_window, entry.is_repeated) = (false, false, true);
        }
    }

    /// The released messages on a new connection, in order; they count as written.
    pub(super) fn releases(&mut self) -> Vec<PacketId> {
        let released = self
            .entries
            .iter_mut()
            .filter(|entry| entry.released && !entry.is_sent);
        let ids: Vec<PacketId> = released
            .filter_map(|entry| {
                entry.is_sent = true;
                entry.delivery.packet_id()
            })
            .collect();
        self.unsent -= ids.len();
        ids
    }

    /// The first message that was not written on this connection, and its place.
    pub(super) fn next_unsent(&self) -> Option<(usize, &InFlightEntry)> {
        self.entries
            .iter()
            .enumerate()
            .skip(self.written)
            .find(|(_, entry)| !entry.is_sent)
    }

    /// Notes that the message at a place was written again, as a PUBLISH.
    pub(super) fn sent_again(&mut self, place: usize) {
        let Some(entry) = self.entries.get_mut(place) else {
            return;
        };
        debug_assert!(
            !entry.is_sent && !entry.is_in_window,
            "it is written once a connection"
        );
        (entry.is_sent, entry.is_in_window) = (true, true);
        // It was the first one that was not written.
        self.written = place + 1;
        self.unsent -= 1;
        self.in_window += 1;
    }

    /// PUBREC for a QoS 2 message that was sent on this connection; its number, and the message
    /// unless it was released before.
    pub(super) fn release(
        &mut self,
        packet_id: PacketId,
    ) -> Acknowledged<(u64, Option<Arc<SharedMessage>>)> {
        let spent = self
            .spent_place_of(packet_id)
            .and_then(|place| self.spent.get_mut(place));
        if let Some(spent) = spent {
            spent.released |= spent.qos == QoS::ExactlyOnce;
            return if spent.released {
                Acknowledged::Spent
            } else {
                Acknowledged::WrongKind
            };
        }
        let entry = self
            .place_of(packet_id)
            .and_then(|place| self.entries.get_mut(place))
            .filter(|entry| entry.is_sent);
        let Some(entry) = entry else {
            return Acknowledged::Unknown;
        };
        if entry.delivery.qos != QoS::ExactlyOnce {
            return Acknowledged::WrongKind;
        }
        let number = entry.delivery.number;
        if entry.released {
            return Acknowledged::Message((number, None));
        }
        self.bytes -= entry.weight();
        self.replays -= usize::from(entry.is_replay());
        self.released += 1;
        let message = entry.release(
            self.hollow
                .get_or_insert_with(|| SharedMessage::hollow(&entry.delivery.message)),
        );
        message.let_go();
        Acknowledged::Message((number, Some(message)))
    }

    /// Ends what was sent under `packet_id` on this connection, if it is what the acknowledgement
    /// is for.
    pub(super) fn complete(
        &mut self,
        packet_id: PacketId,
        ending: Ending,
    ) -> Acknowledged<Delivery> {
        if let Some(place) = self.spent_place_of(packet_id) {
            if !self
                .spent
                .get(place)
                .is_some_and(|spent| ending.is_for(spent.qos, spent.released))
            {
                return Acknowledged::WrongKind;
            }
            self.spent.remove(place);
            self.in_window -= 1;
            return Acknowledged::Spent;
        }
        let place = self.place_of(packet_id);
        let entry = place
            .and_then(|place| self.entries.get(place))
            .filter(|entry| entry.is_sent);
        match (place, entry) {
            (Some(place), Some(entry)) if ending.is_for(entry.delivery.qos, entry.released) => self
                .remove(place)
                .map_or(Acknowledged::Unknown, Acknowledged::Message),
            (_, Some(_)) => Acknowledged::WrongKind,
            (_, None) => Acknowledged::Unknown,
        }
    }

    /// Gives up the oldest message that is not released. If it was sent, the client can still
    /// acknowledge it, and no other one is sent in its place before.
    pub(super) fn give_up_oldest(&mut self) -> Option<Delivery> {
        let (place, oldest) = self
            .entries
            .iter()
            .enumerate()
            .find(|(_, entry)| !entry.released)?;
        let (is_in_window, number) = (oldest.is_in_window, oldest.delivery.number);
        let gone = self.remove(place)?;
        if is_in_window {
            // All before it are released, and stay so: the numbers in `spent` are in order.
            self.spent.push_back(Spent {
                number,
                qos: gone.qos,
                released: false,
            });
            self.in_window += 1;
        }
        Some(gone)
    }

    /// Takes the message at a place out.
    pub(super) fn remove(&mut self, place: usize) -> Option<Delivery> {
        let gone = self.entries.remove(place)?;
        self.bytes -= gone.weight();
        self.released -= usize::from(gone.released);
        self.replays -= usize::from(gone.is_replay());
        if !gone.released {
            gone.delivery.message.let_go();
        }
        self.unsent -= usize::from(!gone.is_sent);
        self.in_window -= usize::from(gone.is_in_window);
        self.written -= usize::from(place < self.written);
        if self.entries.is_empty() && self.entries.capacity() > SPARE {
            self.entries = VecDeque::new();
        }
        Some(gone.delivery)
    }

    /// Every message, in order; nothing is left.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Delivery> + use<> {
        std::mem::take(self).entries.into_iter().map(|entry| {
            if !entry.released {
                entry.delivery.message.let_go();
            }
            entry.delivery
        })
    }

    /// The smallest number whose packet identifier is in use.
    fn oldest(&self) -> Option<u64> {
        let spent = self.spent.front().map(|spent| spent.number);
        [
            spent,
            self.entries.front().map(|entry| entry.delivery.number),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Numbers are in order and within one round of the identifiers, so that an identifier means
    /// one number.
    fn number_of(&self, packet_id: PacketId) -> Option<u64> {
        let oldest = self.oldest()?;
        let first = u64::from(packet_id.get());
        Some(oldest + (first + IDENTIFIERS - 1 - (oldest - 1) % IDENTIFIERS) % IDENTIFIERS)
    }

    fn place_of(&self, packet_id: PacketId) -> Option<usize> {
        let number = self.number_of(packet_id)?;
        // Without gaps its place follows from its number.
        let first = self.entries.front()?.delivery.number;
        let likely = usize::try_from(number.checked_sub(first)?).ok()?;
        let is_there = |entry: &InFlightEntry| entry.delivery.number == number;
        if self.entries.get(likely).is_some_and(is_there) {
            return Some(likely);
        }
        self.entries
            .binary_search_by_key(&number, |entry| entry.delivery.number)
            .ok()
    }

    fn spent_place_of(&self, packet_id: PacketId) -> Option<usize> {
        if self.spent.is_empty() {
            return None;
        }
        let number = self.number_of(packet_id)?;
        self.spent
            .binary_search_by_key(&number, |spent| spent.number)
            .ok()
    }

    /// Panics if a total is not what the entries say. For tests.
    pub(super) fn check_invariants(&self) {
        let count =
            |is: fn(&InFlightEntry) -> bool| self.entries.iter().filter(|entry| is(entry)).count();
        assert_eq!(
            self.bytes,
            self.entries
                .iter()
                .map(InFlightEntry::weight)
                .sum::<usize>(),
            "bytes in flight"
        );
        assert_eq!(
            self.unsent,
            count(|entry| !entry.is_sent),
            "messages that were not written on this connection"
        );
        assert_eq!(
            self.in_window,
            count(|entry| entry.is_in_window) + self.spent.len(),
            "messages in the window"
        );
        assert_eq!(
            self.released,
            count(|entry| entry.released),
            "released messages"
        );
        assert_eq!(
            self.replays,
            count(InFlightEntry::is_replay),
            "retained messages in flight"
        );
        self.check_numbers();
        assert!(
            self.entries
                .iter()
                .take(self.written)
                .all(|entry| entry.is_sent),
            "what was written on this connection"
        );
    }

    /// Panics if numbers are out of order, or two messages have the same packet identifier.
    fn check_numbers(&self) {
        assert!(
            self.spent
                .iter()
                .map(|spent| spent.number)
                .is_sorted_by(|one, next| one < next),
            "what is spent"
        );
        let is_spent = |entry: &InFlightEntry| {
            self.spent
                .iter()
                .any(|spent| spent.number == entry.delivery.number)
        };
        assert!(
            !self.entries.iter().any(is_spent),
            "a message is either spent or in flight"
        );
        assert!(
            self.entries
                .iter()
                .is_sorted_by(|one, next| one.delivery.number < next.delivery.number),
            "the order of the numbers"
        );
        let last = self
            .entries
            .back()
            .map(|entry| entry.delivery.number)
            .max(self.spent.back().map(|spent| spent.number));
        let span = last
            .zip(self.oldest())
            .map_or(0, |(last, first)| last - first);
        assert!(
            span < IDENTIFIERS,
            "two messages with the same packet identifier"
        );
    }
}
