//! Messages in flight to a remote broker: packet identifiers, order, repetition, exactly once.
//! Pure.
//!
//! Invariants:
//! * A QoS 2 message is sent only after its packet identifier is durable, released (PUBREL) only
//!   after that the remote has it (PUBREC) is durable, and its identifier is given out again only
//!   after its end (PUBCOMP) is durable. So is an identifier of the remote: known before PUBREC,
//!   forgotten before PUBCOMP.
//! * QoS 1 needs no memory: a message that was sent before a crash is sent again under another
//!   identifier, which may double it, as QoS 1 may; the remote keeps no state for the old
//!   identifier.
//! * At most `window` messages are in flight, on a connection never more than the remote's Receive
//!   Maximum.
//! * After a reconnect what was in flight goes first, in its order, with DUP set.
//!
//! Durable is what was in a memory of [`Session::begin_save`] for which [`Session::saved`] was
//! called; until then what depends on it is held back, and everything behind it, so that the order
//! is kept.

mod alone;
mod answers;
mod incoming;
mod limits;
mod packet_ids;
mod resume;
mod saving;
mod window;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use super::memory::{HeldStage, MAX_EXACT, Memory};
use crate::message::SessionLost;
use crate::mqtt::{PacketId, QoS, ReasonCode};
use crate::outbox::{EntryId, LANES, Outgoing, Waiting};
use window::{InFlight, SendStage, Window};

/// The highest identifiers are left to packets that are no messages.
pub(super) const OTHER_IDS: u16 = 128;
/// That of the state of this gateway, which is none of the messages of an outbox.
pub(super) const STATE_ID: PacketId = PacketId::MIN.saturating_add(u16::MAX - OTHER_IDS - 1);
/// That of the schemas of packed frames.
pub(super) const SCHEMA_ID: PacketId = PacketId::MIN.saturating_add(u16::MAX - OTHER_IDS - 2);
/// Bytes in flight; one message may exceed it.
const MAX_BYTES: usize = 4 << 20;

/// A message to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Send {
    pub(super) place: EntryId,
    /// `None` for QoS 0.
    pub(super) packet_id: Option<PacketId>,
    pub(super) dup: bool,
    /// The remote may have it from a session that it has forgotten.
    pub(super) is_resent: bool,
    pub(super) message: Outgoing,
}

/// A packet to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum SendAction {
    Publish(Send),
    Release(PacketId),
    /// Answers to messages of the remote.
    Received(PacketId),
    Complete(PacketId),
}

/// The outcome of an answer of the remote, for its message.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum AckOutcome {
    /// It is at the remote.
    Delivered(EntryId),
    /// The remote does not want it, ever.
    Refused {
        place: EntryId,
        reason: ReasonCode,
        message: Option<Outgoing>,
    },
    /// The remote cannot take it now; it will be sent once more.
    Later(EntryId, ReasonCode),
    /// Half of the way.
    AwaitingPubcomp,
    /// Nothing is in flight under this identifier.
    Unknown,
}

/// The fate of messages whose session the remote has lost.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Forgotten {
    /// Sent again, perhaps twice.
    pub(super) resent: usize,
    /// Given up by their class.
    pub(super) dropped: Vec<(EntryId, Option<Outgoing>)>,
    /// The remote had confirmed to have them: taken for delivered.
    pub(super) presumed: Vec<EntryId>,
}

#[derive(Debug)]
pub(super) struct Session {
    window: usize,
    /// Limit of the remote of this connection.
    receive_maximum: usize,
    /// `window`, or what the remote leaves for messages.
    allowed: usize,
    /// How many of those that the remote allows are left to messages that are not from here.
    reserved: usize,
    /// QoS 2 messages that may be in flight.
    max_exact: usize,
    max_qos: QoS,
    in_flight: Window,
    /// Sent when everything before it was answered, and the remote has shown that it reads; nothing
    /// is sent beside it.
    alone: Option<EntryId>,
    /// The remote has shown that on this connection.
    may_try: bool,
    /// The message that was first when the remote answered one behind it, on this connection.
    overtaken: Option<EntryId>,
    /// The remote has answered a QoS 2 message as if it were one of QoS 1.
    lacks_qos_2: bool,
    used_ids: HashSet<PacketId>,
    /// Identifiers that are free when a save is done.
    freed: VecDeque<(u64, PacketId)>,
    last_packet_id: u16,
    /// QoS 2 messages of an earlier run that may be at the remote, until the outbox brings them.
    recovered: BTreeMap<EntryId, (PacketId, HeldStage)>,
    /// The highest number taken, by lane.
    offered: [u64; LANES.len()],
    /// Known from an earlier run and done with before the outbox has offered them: it may have read
    /// them before.
    finished: BTreeSet<EntryId>,
    /// Remotes whose session is this one, and remotes that may keep one that was given up.
    known: BTreeSet<u32>,
    left_behind: BTreeSet<u32>,
    /// Filters the remote was asked for.
    subscribed: Vec<String>,
    /// Identifiers of QoS 2 messages of the remote.
    received: BTreeSet<u16>,
    /// The last number that was given to a QoS 2 message of the remote.
    last_inbound: u64,
    /// The messages up to this number are safe here; `being_saved` is as of the save under way,
    /// and `durably_taken` as of the last one that is done.
    taken: u64,
    being_saved: u64,
    durably_taken: u64,
    /// The remote has forgotten all its messages, and the broker does not know yet.
    is_inbound_forgotten: bool,
    /// Packets that wait for a save.
    answers: VecDeque<(u64, SendAction)>,
    /// The save that has begun or will begin next carries this number; `saved` is the last one that
    /// is done.
    next_save: u64,
    saved: u64,
    is_saving: bool,
    dirty: [bool; LANES.len()],
    changes: usize,
}

/// The lane whose memory keeps what the remote sends.
const RECEIVED_IN: usize = 1;

impl Session {
    /// `memories` are those of the lanes, in their order.
    pub(super) fn new(window: u16, memories: Vec<Memory>) -> Self {
        let window = usize::from(window.max(1));
        let mut session = Self {
            window,
            receive_maximum: window,
            allowed: window,
            reserved: 0,
            max_exact: MAX_EXACT,
            max_qos: QoS::ExactlyOnce,
            in_flight: Window::default(),
            alone: None,
            may_try: false,
            overtaken: None,
            lacks_qos_2: false,
            used_ids: HashSet::new(),
            freed: VecDeque::new(),
            last_packet_id: 0,
            recovered: BTreeMap::new(),
            offered: [0; LANES.len()],
            finished: BTreeSet::new(),
            known: BTreeSet::new(),
            left_behind: BTreeSet::new(),
            subscribed: Vec::new(),
            received: BTreeSet::new(),
            last_inbound: 0,
            taken: 0,
            being_saved: 0,
            durably_taken: 0,
            is_inbound_forgotten: false,
            answers: VecDeque::new(),
            next_save: 1,
            saved: 0,
            is_saving: false,
            dirty: [false; LANES.len()],
            changes: 0,
        };
        for (queue, memory) in memories.into_iter().enumerate() {
            session.received.extend(memory.received);
            session.begin_inbound(memory.taken);
            session.known.extend(memory.known);
            session.left_behind.extend(memory.left_behind);
            session.subscribed.extend(memory.subscribed);
            for held in memory.held {
                session.recover(
                    EntryId {
                        queue,
                        seq: held.seq,
                    },
                    held,
                );
            }
        }
        session
    }

    /// A new connection is up, on a session that the remote knows or not. `receive_maximum` and
    /// `max_qos` are the remote's.
    pub(super) fn connected(
        &mut self,
        is_known: bool,
        receive_maximum: u16,
        max_qos: QoS,
    ) -> Forgotten {
        self.receive_maximum = usize::from(receive_maximum.max(1));
        self.reserved = 0;
        self.allow();
        self.max_qos = max_qos;
        self.alone = None;
        self.may_try = false;
        self.overtaken = None;
        self.lacks_qos_2 = false;
        self.answers.clear();
        self.in_flight.begin_again();
        let told = if is_known {
            Forgotten::default()
        } else {
            self.forgotten()
        };
        self.lower_qos();
        if self.has_changes() {
            // What was decided is durable before anything is sent.
            for entry in self.in_flight.iter_mut() {
                entry.needs = self.next_save;
            }
        }
        told
    }

    /// Leaves one more place of what the remote allows to a message that is not from here.
    pub(super) fn reserve(&mut self) {
        self.reserved += 1;
        self.allow();
    }

    /// Such a message was answered.
    pub(super) fn give_back(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
        self.allow();
    }

    fn allow(&mut self) {
        let left = self.receive_maximum.saturating_sub(self.reserved);
        self.allowed = self.window.min(left);
    }

    /// True if the remote takes one more message at this moment, of whatever kind.
    pub(super) fn has_place(&self) -> bool {
        self.in_flight.on_wire() + self.reserved < self.receive_maximum
    }

    /// True if what is reserved leaves nothing for messages.
    pub(super) fn is_blocked(&self) -> bool {
        self.allowed == 0
    }

    /// How many messages may be in flight from the next connection on.
    pub(super) fn set_window(&mut self, window: u16) {
        self.window = usize::from(window.max(1));
    }

    /// How many more messages it takes; after each the question is to be asked again, because of
    /// their bytes.
    pub(super) fn room(&self) -> usize {
        if self.in_flight.bytes() >= MAX_BYTES {
            0
        } else {
            self.allowed.saturating_sub(self.in_flight.len())
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len() + self.recovered.len()
    }

    /// Messages that were taken and are not sent yet on this connection: their number and bytes.
    pub(super) fn unwritten(&self) -> (usize, usize) {
        self.in_flight.unwritten_messages()
    }

    /// True if a message is in flight, or may be.
    pub(super) fn holds(&self, place: EntryId) -> bool {
        self.recovered.contains_key(&place) || self.in_flight.index_of(place).is_some()
    }

    /// True if a message was taken in this run and has no end yet.
    pub(super) fn is_in_flight(&self, place: EntryId) -> bool {
        self.in_flight.index_of(place).is_some()
    }

    /// True if a message of an earlier run may be at the remote, and was not taken since.
    pub(super) fn is_recovered(&self, place: EntryId) -> bool {
        self.recovered.contains_key(&place)
    }

    /// The lane whose messages are to be taken first: those of an earlier run that may be at the
    /// remote. It counts them against its Receive Maximum, and they go before anything new.
    pub(super) fn continues(&self) -> Option<usize> {
        self.recovered.keys().next().map(|place| place.queue)
    }

    /// Takes the next message of its lane. Returns it if it is given up: it may be at the remote
    /// already, and must not come twice.
    pub(super) fn offer(&mut self, waiting: Waiting) -> Option<Waiting> {
        let place = waiting.place();
        let is_finished = self.finished.remove(&place);
        self.finished
            .retain(|other| other.queue != place.queue || other.seq > place.seq);
        if is_finished {
            return None;
        }
        self.release_recovered(|other| other.queue == place.queue && other.seq < place.seq);
        if self.in_flight.index_of(place).is_some() {
            return None;
        }
        if let Some(offered) = self.offered.get_mut(place.queue) {
            *offered = (*offered).max(place.seq);
        }
        if let Some((packet_id, stage)) = self.recovered.remove(&place) {
            return self.take_recovered(waiting, packet_id, stage);
        }
        let qos = waiting.message.qos.min(self.max_qos);
        let message = Outgoing {
            qos,
            ..waiting.message
        };
        let index = self.in_flight.push(InFlight::new(place, message));
        self.number(index);
        None
    }

    /// Takes a QoS 2 message of an earlier run, which keeps its identifier.
    fn take_recovered(
        &mut self,
        waiting: Waiting,
        packet_id: PacketId,
        stage: HeldStage,
    ) -> Option<Waiting> {
        let place = waiting.place();
        let is_lost = stage == HeldStage::Lost;
        if is_lost && waiting.message.if_session_lost == SessionLost::Drop {
            self.free(packet_id, true);
            self.change(place.queue);
            return Some(waiting);
        }
        let stage = if is_lost {
            SendStage::Unsent
        } else {
            SendStage::Sent
        };
        let message = Outgoing {
            qos: QoS::ExactlyOnce,
            ..waiting.message
        };
        let mut entry = InFlight::known(place, Some(message), packet_id, stage);
        entry.is_resent = is_lost;
        self.in_flight.push(entry);
        self.lower_qos();
        None
    }

    /// A recovered message that is not in the outbox any more cannot be sent again; whether it is
    /// at the remote or not, PUBREL ends it.
    pub(super) fn nothing_more_waits(&mut self, queue: usize) {
        self.release_recovered(|place| place.queue == queue);
    }

    fn release_recovered(&mut self, is_gone: impl Fn(&EntryId) -> bool) {
        if self.recovered.is_empty() {
            return;
        }
        let gone: Vec<EntryId> = self
            .recovered
            .keys()
            .filter(|place| is_gone(place))
            .copied()
            .collect();
        for place in gone {
            self.release_one(place);
        }
    }

    /// A recovered message continues as if the remote had it.
    fn release_one(&mut self, place: EntryId) {
        if let Some((packet_id, _)) = self.recovered.remove(&place) {
            let mut entry = InFlight::known(place, None, packet_id, SendStage::Released);
            entry.needs = self.next_save;
            self.in_flight.push(entry);
            self.change(place.queue);
        }
    }

    /// The next packet that answers the remote.
    pub(super) fn next_answer(&mut self) -> Option<SendAction> {
        let is_ready = self
            .answers
            .front()
            .is_some_and(|(needs, _)| *needs <= self.saved);
        if is_ready {
            self.answers.pop_front().map(|(_, step)| step)
        } else {
            None
        }
    }

    /// The next packet to be written. QoS 0 messages are out of here with that.
    pub(super) fn next(&mut self) -> Option<SendAction> {
        if let Some(answer) = self.next_answer() {
            return Some(answer);
        }
        let index = self.in_flight.next_unwritten()?;
        if self.must_wait_for_another(index) {
            return None;
        }
        let (allowed, saved) = (self.allowed, self.saved);
        let is_full = self.in_flight.on_wire() >= allowed || self.has_too_many_exact(index);
        let entry = self
            .in_flight
            .get_mut(index)
            .filter(|entry| entry.needs <= saved)?;
        let Some(packet_id) = entry.packet_id() else {
            let entry = self.remove(index)?;
            return Some(SendAction::Publish(Send {
                place: entry.place(),
                packet_id: None,
                dup: false,
                is_resent: entry.is_resent,
                message: entry.into_message()?,
            }));
        };
        // PUBREL does not count against the limits of the remote: without it nothing ends.
        if entry.stage != SendStage::Released && is_full {
            return None;
        }
        let place = entry.place();
        let step = match (entry.message().cloned(), entry.stage) {
            (Some(message), SendStage::Unsent | SendStage::Sent) => {
                let dup = entry.stage == SendStage::Sent;
                entry.stage = SendStage::Sent;
                entry.is_repeated = dup;
                let is_resent = std::mem::take(&mut entry.is_resent);
                SendAction::Publish(Send {
                    place,
                    packet_id: Some(packet_id),
                    dup,
                    is_resent,
                    message,
                })
            }
            _ => SendAction::Release(packet_id),
        };
        self.in_flight.wrote(index);
        Some(step)
    }

    /// Gives up a message that was taken from [`Session::next`] but was not written.
    pub(super) fn forget(&mut self, place: EntryId) {
        if let Some(index) = self.in_flight.index_of(place) {
            self.remove(index);
        }
    }

    /// Takes a message out that the remote cannot bear, and returns it.
    pub(super) fn give_up(&mut self, place: EntryId) -> Option<Outgoing> {
        let index = self.in_flight.index_of(place)?;
        self.remove(index)?.into_message()
    }

    /// Ends a QoS 2 message that cannot be repeated but may have arrived before: PUBREL instead of
    /// PUBLISH.
    pub(super) fn release_instead(&mut self, place: EntryId) {
        let Some(index) = self.in_flight.index_of(place) else {
            return;
        };
        self.release(index);
        self.in_flight.drop_message(index);
        let packet_id = self.in_flight.get(index).and_then(InFlight::packet_id);
        self.answers
            .extend(packet_id.map(|id| (self.next_save, SendAction::Release(id))));
    }

    /// The remote has a message: from here on PUBREL is what goes out for it.
    fn release(&mut self, index: usize) {
        self.in_flight.release(index);
        let next_save = self.next_save;
        let Some(entry) = self.in_flight.get_mut(index) else {
            return;
        };
        entry.needs = next_save;
        let queue = entry.place().queue;
        self.change(queue);
    }

    fn remove(&mut self, index: usize) -> Option<InFlight> {
        let entry = self.in_flight.remove(index)?;
        let place = entry.place();
        self.alone = self.alone.filter(|alone| *alone != place);
        if place.seq > self.offered.get(place.queue).copied().unwrap_or(0) {
            self.finished.insert(place);
        }
        if let Some(id) = entry.packet_id() {
            self.free(id, entry.is_noted());
            if entry.is_noted() {
                self.change(place.queue);
            }
        }
        Some(entry)
    }

    fn change(&mut self, queue: usize) {
        if let Some(dirty) = self.dirty.get_mut(queue) {
            *dirty = true;
        }
        self.changes += 1;
    }

    fn has_changes(&self) -> bool {
        self.changes > 0
    }

    /// Steps that wait to become durable; none while a save is under way.
    pub(super) fn unsaved(&self) -> usize {
        if self.is_saving { 0 } else { self.changes }
    }

    /// True if a message waits for another attempt.
    pub(super) fn has_refused(&self) -> bool {
        self.in_flight.refused() > 0
    }

    /// The message that has waited longest for an answer of the remote.
    pub(super) fn oldest_unanswered(&self) -> Option<EntryId> {
        self.in_flight
            .iter()
            .find(|entry| entry.is_written() && entry.needs <= self.saved)
            .map(InFlight::place)
    }

    /// Messages that were written on this connection, and that the remote is not known to have.
    pub(super) fn unanswered_messages(&self) -> impl Iterator<Item = EntryId> {
        self.in_flight
            .iter()
            .filter(|entry| entry.is_written() && entry.stage != SendStage::Released)
            .map(InFlight::place)
    }

    /// Messages that were written on this connection and wait for their end.
    pub(super) fn on_wire(&self) -> usize {
        self.in_flight.on_wire()
    }

    /// True if nothing that was written on this connection waits for its end, and no answer to the
    /// remote waits to be written.
    pub(super) fn is_settled(&self) -> bool {
        self.in_flight.on_wire() == 0 && self.answers.is_empty()
    }

    /// About how large a message in flight is, in bytes.
    pub(super) fn bytes_of(&self, place: EntryId) -> u64 {
        let entry = self
            .in_flight
            .index_of(place)
            .and_then(|index| self.in_flight.get(index));
        entry.map_or(0, |entry| entry.weight() as u64)
    }

    /// True if the remote owes an answer that would come whatever the disk does.
    pub(super) fn awaits_answers(&self) -> bool {
        self.oldest_unanswered().is_some()
    }
}

#[cfg(test)]
mod tests;
