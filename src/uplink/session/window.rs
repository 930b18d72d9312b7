//! The messages in flight to a remote broker, in the order in which they are sent, together with
//! their totals. Pure.
//!
//! Invariants:
//! * `bytes` is what the messages of all entries weigh, `exact` of them are QoS 2, `on_wire` were
//!   written on this connection, and `refused` wait for another attempt.
//! * `by_place` and `by_id` name each entry by its ordinal; ordinals grow along the entries, so a
//!   look-up is a binary search.
//! * Everything before `written` was written on this connection.

use std::collections::{HashMap, VecDeque};

use crate::mqtt::{PacketId, QoS};
use crate::outbox::{EntryId, Outgoing};

/// How far a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendStage {
    /// Not written on any connection.
    Unsent,
    /// Perhaps at the remote.
    Sent,
    /// At the remote for sure (QoS 2).
    Released,
}

/// A message in flight. What the totals depend on is changed by [`Window`] alone.
#[derive(Debug)]
pub(super) struct InFlight {
    place: EntryId,
    /// `None` if it cannot be sent again. Once the remote has it, it is kept for
    /// [`Window::send_again`] only.
    message: Option<Outgoing>,
    packet_id: Option<PacketId>,
    is_exact: bool,
    /// It was to go exactly once, and its identifier may be in a durable memory.
    is_lowered: bool,
    /// Its step was written on this connection.
    is_written: bool,
    /// How often the remote could not take it.
    refusals: u8,
    ordinal: u64,
    pub(super) stage: SendStage,
    /// The save that makes its newest step durable.
    pub(super) needs: u64,
    /// It was written with DUP on this session.
    pub(super) is_repeated: bool,
    /// The remote may have it from a session that it has forgotten.
    pub(super) is_resent: bool,
}

impl InFlight {
    /// A message that has no packet identifier.
    pub(super) fn new(place: EntryId, message: Outgoing) -> Self {
        let is_exact = message.qos == QoS::ExactlyOnce;
        Self::with(place, Some(message), None, is_exact, SendStage::Unsent)
    }

    /// A QoS 2 message of an earlier run; without `message` the remote has it.
    pub(super) fn known(
        place: EntryId,
        message: Option<Outgoing>,
        packet_id: PacketId,
        stage: SendStage,
    ) -> Self {
        Self::with(place, message, Some(packet_id), true, stage)
    }

    fn with(
        place: EntryId,
        message: Option<Outgoing>,
        packet_id: Option<PacketId>,
        is_exact: bool,
        stage: SendStage,
    ) -> Self {
        Self {
            place,
            message,
            packet_id,
            is_exact,
            is_lowered: false,
            is_written: false,
            refusals: 0,
            ordinal: 0,
            stage,
            needs: 0,
            is_repeated: false,
            is_resent: false,
        }
    }

    pub(super) fn place(&self) -> EntryId {
        self.place
    }

    pub(super) fn message(&self) -> Option<&Outgoing> {
        self.message.as_ref()
    }

    pub(super) fn into_message(self) -> Option<Outgoing> {
        self.message
    }

    pub(super) fn packet_id(&self) -> Option<PacketId> {
        self.packet_id
    }

    pub(super) fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// True if its identifier is free only when its end is durable.
    pub(super) fn is_noted(&self) -> bool {
        self.is_exact || self.is_lowered
    }

    pub(super) fn is_written(&self) -> bool {
        self.is_written
    }

    pub(super) fn refusals(&self) -> u8 {
        self.refusals
    }

    /// In bytes.
    pub(super) fn weight(&self) -> usize {
        self.message.as_ref().map_or(0, Outgoing::weight)
    }
}

/// All messages in flight.
#[derive(Debug, Default)]
pub(super) struct Window {
    entries: VecDeque<InFlight>,
    next_ordinal: u64,
    by_place: HashMap<EntryId, u64>,
    by_id: HashMap<PacketId, u64>,
    written: usize,
    bytes: usize,
    exact: usize,
    on_wire: usize,
    refused: usize,
}

impl Window {
    /// Messages.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Weight of all messages, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// QoS 2 messages.
    pub(super) fn exact(&self) -> usize {
        self.exact
    }

    /// Messages that were written on this connection.
    pub(super) fn on_wire(&self) -> usize {
        self.on_wire
    }

    /// Messages that wait for another attempt.
    pub(super) fn refused(&self) -> usize {
        self.refused
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &InFlight> {
        self.entries.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut InFlight> {
        self.entries.iter_mut()
    }

    pub(super) fn get(&self, index: usize) -> Option<&InFlight> {
        self.entries.get(index)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut InFlight> {
        self.entries.get_mut(index)
    }

    /// Where the message of a place is.
    pub(super) fn index_of(&self, place: EntryId) -> Option<usize> {
        self.by_place
            .get(&place)
            .and_then(|ordinal| self.index(*ordinal))
    }

    /// Where the message with an identifier is.
    pub(super) fn index_of_id(&self, packet_id: PacketId) -> Option<usize> {
        self.by_id
            .get(&packet_id)
            .and_then(|ordinal| self.index(*ordinal))
    }

    fn index(&self, ordinal: u64) -> Option<usize> {
        self.entries
            .binary_search_by_key(&ordinal, |entry| entry.ordinal)
            .ok()
    }

    /// The first entry that was not written on this connection.
    pub(super) fn next_unwritten(&mut self) -> Option<usize> {
        while self.entries.get(self.written)?.is_written {
            self.written += 1;
        }
        Some(self.written)
    }

    fn unwritten(&self) -> impl Iterator<Item = (usize, &InFlight)> {
        self.entries
            .iter()
            .enumerate()
            .skip(self.written)
            .filter(|(_, entry)| !entry.is_written)
    }

    /// The first entry of a stage that was not written on this connection.
    pub(super) fn next_unwritten_in(&self, stage: SendStage) -> Option<usize> {
        self.unwritten()
            .find(|(_, entry)| entry.stage == stage)
            .map(|(index, _)| index)
    }

    /// Messages that were not written on this connection and will be: their number, and what they
    /// weigh in bytes.
    pub(super) fn unwritten_messages(&self) -> (usize, usize) {
        let messages = self
            .unwritten()
            .filter(|(_, entry)| entry.stage != SendStage::Released);
        messages.fold((0, 0), |(count, bytes), (_, entry)| {
            (count + 1, bytes + entry.weight())
        })
    }

    /// Adds a message behind the others. Returns where it is.
    pub(super) fn push(&mut self, mut entry: InFlight) -> usize {
        debug_assert!(
            !self.by_place.contains_key(&entry.place),
            "a message is in flight once"
        );
        entry.ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        self.bytes += entry.weight();
        self.exact += usize::from(entry.is_exact);
        self.by_place.insert(entry.place, entry.ordinal);
        self.by_id
            .extend(entry.packet_id.map(|id| (id, entry.ordinal)));
        self.entries.push_back(entry);
        self.entries.len() - 1
    }

    /// Takes a message out.
    pub(super) fn remove(&mut self, index: usize) -> Option<InFlight> {
        let entry = self.entries.remove(index)?;
        self.bytes -= entry.weight();
        self.exact -= usize::from(entry.is_exact);
        self.on_wire -= usize::from(entry.is_written);
        self.refused -= usize::from(entry.refusals > 0);
        self.written -= usize::from(index < self.written);
        self.by_place.remove(&entry.place);
        entry.packet_id.map(|id| self.by_id.remove(&id));
        Some(entry)
    }

    /// Gives a message an identifier, or takes it away. Returns the one it had.
    pub(super) fn set_packet_id(
        &mut self,
        index: usize,
        packet_id: Option<PacketId>,
    ) -> Option<PacketId> {
        let entry = self.entries.get_mut(index)?;
        let before = std::mem::replace(&mut entry.packet_id, packet_id);
        before.map(|id| self.by_id.remove(&id));
        self.by_id.extend(packet_id.map(|id| (id, entry.ordinal)));
        before
    }

    /// The next step of a message was written.
    pub(super) fn wrote(&mut self, index: usize) {
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        debug_assert!(!entry.is_written, "each step is written once a connection");
        entry.is_written = true;
        self.on_wire += 1;
    }

    /// The remote could not take a message; it keeps its place and is the next to be written.
    pub(super) fn take_back(&mut self, index: usize) {
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        self.on_wire -= usize::from(entry.is_written);
        self.refused += usize::from(entry.refusals == 0);
        entry.stage = SendStage::Unsent;
        entry.is_written = false;
        entry.refusals = entry.refusals.saturating_add(1);
        self.written = self.written.min(index);
    }

    /// The remote has a QoS 2 message: what goes out for it from here on is its identifier.
    pub(super) fn release(&mut self, index: usize) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.stage = SendStage::Released;
        }
    }

    /// A message is not sent again, whatever happens.
    pub(super) fn drop_message(&mut self, index: usize) {
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        self.bytes -= entry.weight();
        entry.message = None;
    }

    /// A message that the remote had is sent once more. False if it cannot be.
    pub(super) fn send_again(&mut self, index: usize) -> bool {
        let Some(entry) = self
            .entries
            .get_mut(index)
            .filter(|entry| entry.stage == SendStage::Released && entry.message.is_some())
        else {
            return false;
        };
        entry.stage = SendStage::Sent;
        true
    }

    /// Messages of higher lanes than `queue` go first; otherwise the order stays. Before anything
    /// is written.
    pub(super) fn put_higher_lanes_first(&mut self, queue: usize) {
        debug_assert!(self.on_wire == 0, "the order is that of the wire");
        self.entries
            .make_contiguous()
            .sort_by_key(|entry| entry.place.queue >= queue);
        self.written = 0;
        for entry in &mut self.entries {
            entry.ordinal = self.next_ordinal;
            self.next_ordinal += 1;
            self.by_place.insert(entry.place, entry.ordinal);
            self.by_id
                .extend(entry.packet_id.map(|id| (id, entry.ordinal)));
        }
    }

    /// A message goes with at most this QoS. True if it was to go with a higher one.
    pub(super) fn lower_qos(&mut self, index: usize, most: QoS) -> bool {
        let Some(entry) = self.entries.get_mut(index) else {
            return false;
        };
        let Some(message) = entry.message.as_mut().filter(|message| message.qos > most) else {
            return false;
        };
        message.qos = most;
        if entry.is_exact {
            entry.is_exact = false;
            entry.is_lowered = true;
            self.exact -= 1;
        }
        true
    }

    /// Nothing was written on a new connection.
    pub(super) fn begin_again(&mut self) {
        (self.written, self.on_wire) = (0, 0);
        self.entries
            .iter_mut()
            .for_each(|entry| entry.is_written = false);
    }

    /// Panics if a total or an index is not what the entries say. For tests.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        let count =
            |is: fn(&InFlight) -> bool| self.entries.iter().filter(|entry| is(entry)).count();
        assert_eq!(
            self.bytes,
            self.entries.iter().map(InFlight::weight).sum::<usize>(),
            "bytes in flight"
        );
        assert_eq!(self.exact, count(|entry| entry.is_exact), "QoS 2 messages");
        assert_eq!(
            self.on_wire,
            count(|entry| entry.is_written),
            "messages written on this connection"
        );
        assert_eq!(
            self.refused,
            count(|entry| entry.refusals > 0),
            "messages that wait for another attempt"
        );
        assert!(
            self.entries
                .iter()
                .take(self.written)
                .all(|entry| entry.is_written),
            "what is written"
        );
        assert!(
            self.entries
                .iter()
                .is_sorted_by(|one, next| one.ordinal < next.ordinal),
            "the order"
        );
        assert_eq!(
            self.by_place.len(),
            self.entries.len(),
            "an entry for each place"
        );
        assert_eq!(
            self.by_id.len(),
            count(|entry| entry.packet_id.is_some()),
            "an entry for each identifier"
        );
        for (index, entry) in self.entries.iter().enumerate() {
            assert_eq!(
                self.index_of(entry.place),
                Some(index),
                "where a message is"
            );
            assert!(
                entry
                    .packet_id
                    .is_none_or(|id| self.index_of_id(id) == Some(index)),
                "where an identifier is"
            );
        }
    }
}
