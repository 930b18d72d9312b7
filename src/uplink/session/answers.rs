//! Answers of the remote to messages of this side: PUBACK, PUBREC, PUBCOMP. Pure.

use super::{AckOutcome, InFlight, SendAction, SendStage, Session};
use crate::mqtt::{PacketId, ReasonCode};
use crate::outbox::EntryId;

/// Refusals "for now" without a promise that it will be better, after which a message is given up.
const MAX_REFUSALS: u8 = 5;

impl Session {
    /// The message with an identifier, if it is one that `is_meant`.
    fn find(&self, packet_id: PacketId, is_meant: impl Fn(&InFlight) -> bool) -> Option<usize> {
        let index = self.in_flight.index_of_id(packet_id)?;
        self.in_flight
            .get(index)
            .is_some_and(is_meant)
            .then_some(index)
    }

    /// The next packet that is no message: an answer, or the end of a message that the remote has
    /// (PUBREL). It frees what the remote keeps for it, so it does not wait where messages have to.
    pub(in crate::uplink) fn next_end(&mut self) -> Option<SendAction> {
        if let Some(answer) = self.next_answer() {
            return Some(answer);
        }
        let index = self.in_flight.next_unwritten_in(SendStage::Released)?;
        if self.must_wait_for_another(index) {
            return None;
        }
        // In the order in which the remote has confirmed them [MQTT-4.6.0-4].
        let saved = self.saved;
        let packet_id = self
            .in_flight
            .get(index)
            .filter(|entry| entry.needs <= saved)
            .and_then(InFlight::packet_id)?;
        self.in_flight.wrote(index);
        Some(SendAction::Release(packet_id))
    }

    /// PUBACK.
    pub(in crate::uplink) fn acknowledged(
        &mut self,
        packet_id: PacketId,
        reason: ReasonCode,
    ) -> AckOutcome {
        let Some(index) = self.find(packet_id, |entry| {
            entry.is_written() && entry.stage != SendStage::Released
        }) else {
            return AckOutcome::Unknown;
        };
        self.note_overtaken(index);
        // Some remotes have no QoS 2, and answer as if it were QoS 1: they have the message.
        let is_exact = self.in_flight.get(index).is_some_and(InFlight::is_exact);
        let verdict = self.end(index, reason);
        if is_exact && !reason.is_error() {
            self.lower_to_qos_1();
        }
        verdict
    }

    /// PUBREC.
    pub(in crate::uplink) fn received(
        &mut self,
        packet_id: PacketId,
        reason: ReasonCode,
    ) -> AckOutcome {
        if let Some(place) = self
            .recovered
            .iter()
            .find(|(_, (id, _))| *id == packet_id)
            .map(|(place, _)| *place)
        {
            // Before the message was repeated: the remote remembers it by itself.
            self.release_one(place);
            return AckOutcome::AwaitingPubcomp;
        }
        let Some(index) = self.find(packet_id, |entry| {
            entry.is_written() || entry.stage != SendStage::Unsent
        }) else {
            // The remote holds something that is not known here any more; PUBREL ends it.
            self.answers.push_back((0, SendAction::Release(packet_id)));
            return AckOutcome::Unknown;
        };
        self.note_overtaken(index);
        let Some(entry) = self.in_flight.get(index).filter(|entry| entry.is_exact()) else {
            return AckOutcome::Unknown;
        };
        // To a repetition "identifier in use" says that the remote has the message.
        let has_it = !reason.is_error()
            || (entry.is_repeated && reason == ReasonCode::PACKET_IDENTIFIER_IN_USE);
        let (is_written, is_released) = (entry.is_written(), entry.stage == SendStage::Released);
        if !is_released && !has_it {
            return self.end(index, reason);
        }
        if !is_released {
            self.release(index);
        }
        let needs = self.in_flight.get(index).map_or(0, |entry| entry.needs);
        // What is not written on this connection is released in its turn.
        if is_written {
            self.answers
                .push_back((needs, SendAction::Release(packet_id)));
        }
        AckOutcome::AwaitingPubcomp
    }

    /// PUBCOMP, with any reason: the remote has nothing under this identifier any more.
    pub(in crate::uplink) fn completed(&mut self, packet_id: PacketId) -> AckOutcome {
        match self.find(packet_id, |entry| {
            entry.stage == SendStage::Released && entry.is_written()
        }) {
            Some(index) => self.end(index, ReasonCode::SUCCESS),
            None => AckOutcome::Unknown,
        }
    }

    fn end(&mut self, index: usize, reason: ReasonCode) -> AckOutcome {
        let refusals = self.in_flight.get(index).map_or(0, InFlight::refusals);
        if is_for_later(reason) && (refusals < MAX_REFUSALS || promises_more(reason)) {
            let place = self.take_back(index);
            return place.map_or(AckOutcome::Unknown, |place| {
                AckOutcome::Later(place, reason)
            });
        }
        match self.remove(index) {
            Some(entry) if reason.is_error() => AckOutcome::Refused {
                place: entry.place(),
                reason,
                message: entry.into_message(),
            },
            Some(entry) => AckOutcome::Delivered(entry.place()),
            None => AckOutcome::Unknown,
        }
    }

    /// A message that was not taken keeps its place and is the next to be written, under a new
    /// identifier: what was behind it and was not taken either follows it again, in order. Returns
    /// its place.
    pub(super) fn take_back(&mut self, index: usize) -> Option<EntryId> {
        let place = self.in_flight.get(index).map(InFlight::place);
        let is_noted = self.in_flight.get(index).is_some_and(InFlight::is_noted);
        self.in_flight.take_back(index);
        if let Some(packet_id) = self.in_flight.set_packet_id(index, None) {
            self.free(packet_id, is_noted);
        }
        self.number(index);
        place
    }
}

/// A remote that says so will take the message some time.
fn promises_more(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::QUOTA_EXCEEDED | ReasonCode::PACKET_IDENTIFIER_IN_USE
    )
}

/// Codes that say "not now": what is refused with them is offered again later.
fn is_for_later(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::QUOTA_EXCEEDED
            | ReasonCode::IMPLEMENTATION_SPECIFIC
            | ReasonCode::UNSPECIFIED
            | ReasonCode::PACKET_IDENTIFIER_IN_USE
    )
}
