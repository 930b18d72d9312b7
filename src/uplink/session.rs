//! What is in flight to a remote broker: packet identifiers, order, repetition. Pure.
//!
//! Invariants:
//! * A packet identifier is given to another message only after the acknowledgement of the first.
//! * At most `window` messages are in flight; on a connection never more than the remote's Receive Maximum.
//! * After a reconnect the messages in flight are sent again first, in their order, with DUP set.

use std::collections::{HashSet, VecDeque};

use crate::mqtt::{PacketId, QoS, ReasonCode};
use crate::outbox::{Outgoing, Waiting};

/// Identifiers above it are left to packets that are no messages.
const LAST_PACKET_ID: u16 = u16::MAX - 1;

/// Bytes in flight; one message may exceed it.
const MAX_BYTES: usize = 4 << 20;

/// A message to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Send {
    pub(super) seq: u64,
    /// `None` for QoS 0.
    pub(super) packet_id: Option<PacketId>,
    pub(super) dup: bool,
    pub(super) message: Outgoing,
}

/// What an acknowledgement means for the message.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// It is at the remote.
    Delivered(u64),
    /// The remote does not want it, ever.
    Refused { seq: u64, reason: ReasonCode, topic: String },
    /// The remote cannot take it now; it stays in flight.
    Later(ReasonCode),
    /// Nothing is in flight under this identifier.
    Unknown,
}

#[derive(Debug)]
struct InFlight {
    waiting: Waiting,
    packet_id: Option<PacketId>,
    /// Written on an earlier connection.
    sent_before: bool,
}

#[derive(Debug)]
pub(super) struct Session {
    window: usize,
    /// `window`, or what the remote of this connection allows.
    allowed: usize,
    in_flight: VecDeque<InFlight>,
    /// The first so many of `in_flight` were written on this connection; the others were not.
    sent: usize,
    used_ids: HashSet<PacketId>,
    /// Bytes of the messages in flight.
    bytes: usize,
    last_packet_id: u16,
}

impl Session {
    pub(super) fn new(window: u16) -> Self {
        let window = usize::from(window.max(1));
        Self { window, allowed: window, in_flight: VecDeque::new(), sent: 0, used_ids: HashSet::new(), bytes: 0, last_packet_id: 0 }
    }

    /// A new connection stands. `receive_maximum` is the remote's.
    pub(super) fn connected(&mut self, receive_maximum: u16) {
        self.allowed = self.window.min(usize::from(receive_maximum.max(1)));
        for entry in self.in_flight.iter_mut().take(self.sent) {
            entry.sent_before = true;
        }
        self.sent = 0;
    }

    /// How many more messages it takes; after each the question is to be asked again, because of their bytes.
    pub(super) fn room(&self) -> usize {
        if self.bytes >= MAX_BYTES { 0 } else { self.window.saturating_sub(self.in_flight.len()) }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Takes the next message of the outbox.
    pub(super) fn offer(&mut self, waiting: Waiting) {
        let packet_id = (waiting.message.qos != QoS::AtMostOnce).then(|| self.free_packet_id());
        self.bytes += waiting.message.weight();
        self.in_flight.push_back(InFlight { waiting, packet_id, sent_before: false });
    }

    /// The next message to be written, if the remote may get one. QoS 0 messages are out of here with that.
    pub(super) fn next(&mut self) -> Option<Send> {
        let entry = self.in_flight.get(self.sent)?;
        let (seq, packet_id, dup) = (entry.waiting.seq, entry.packet_id, entry.sent_before);
        if packet_id.is_none() {
            let message = self.remove(self.sent)?.waiting.message;
            return Some(Send { seq, packet_id, dup: false, message });
        }
        if self.sent >= self.allowed {
            return None;
        }
        let message = entry.waiting.message.clone();
        self.sent += 1;
        Some(Send { seq, packet_id, dup, message })
    }

    /// PUBACK.
    pub(super) fn acknowledged(&mut self, packet_id: PacketId, reason: ReasonCode) -> Verdict {
        let Some(index) = self.in_flight.iter().take(self.sent).position(|entry| entry.packet_id == Some(packet_id)) else {
            return Verdict::Unknown;
        };
        if matches!(
            reason,
            ReasonCode::QUOTA_EXCEEDED
                | ReasonCode::IMPLEMENTATION_SPECIFIC
                | ReasonCode::UNSPECIFIED
                | ReasonCode::PACKET_IDENTIFIER_IN_USE
        ) {
            return Verdict::Later(reason);
        }
        match self.remove(index) {
            Some(entry) if reason.is_error() => {
                Verdict::Refused { seq: entry.waiting.seq, reason, topic: entry.waiting.message.topic.to_string() }
            }
            Some(entry) => Verdict::Delivered(entry.waiting.seq),
            None => Verdict::Unknown,
        }
    }

    /// Gives up a message that was taken from [`Session::next`] but cannot be written.
    pub(super) fn forget(&mut self, seq: u64) {
        if let Some(index) = self.in_flight.iter().position(|entry| entry.waiting.seq == seq) {
            self.remove(index);
        }
    }

    fn remove(&mut self, index: usize) -> Option<InFlight> {
        let entry = self.in_flight.remove(index)?;
        self.bytes -= entry.waiting.message.weight();
        if index < self.sent {
            self.sent -= 1;
        }
        if let Some(id) = entry.packet_id {
            self.used_ids.remove(&id);
        }
        Some(entry)
    }

    /// Identifiers rotate, so that a late acknowledgement does not meet a new message.
    fn free_packet_id(&mut self) -> PacketId {
        loop {
            self.last_packet_id = if self.last_packet_id >= LAST_PACKET_ID { 1 } else { self.last_packet_id + 1 };
            if let Some(id) = PacketId::new(self.last_packet_id)
                && self.used_ids.insert(id)
            {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{Properties, TopicName};
    use crate::reading::Timestamp;
    use proptest::prelude::*;

    fn waiting(seq: u64, qos: QoS) -> Waiting {
        let message = Outgoing {
            topic: TopicName::new("t").unwrap(),
            qos,
            retain: false,
            enqueued: Timestamp::at(0),
            properties: Properties::default(),
            payload: bytes::Bytes::new(),
        };
        Waiting { seq, message }
    }

    fn sent(session: &mut Session) -> Vec<(u64, bool)> {
        std::iter::from_fn(|| session.next()).map(|send| (send.seq, send.dup)).collect()
    }

    #[test]
    fn what_was_in_flight_goes_first_and_marked_after_a_reconnect() {
        let mut session = Session::new(10);
        session.connected(65535);
        for seq in 1..=3 {
            session.offer(waiting(seq, QoS::AtLeastOnce));
        }
        assert_eq!(sent(&mut session), [(1, false), (2, false), (3, false)]);
        assert_eq!(session.acknowledged(PacketId::new(2).unwrap(), ReasonCode::SUCCESS), Verdict::Delivered(2));
        session.connected(1);
        session.offer(waiting(4, QoS::AtLeastOnce));
        assert_eq!(sent(&mut session), [(1, true)], "the remote allows one at a time");
        assert_eq!(session.acknowledged(PacketId::new(1).unwrap(), ReasonCode::SUCCESS), Verdict::Delivered(1));
        assert_eq!(sent(&mut session), [(3, true)]);
    }

    #[test]
    fn qos_0_is_done_when_it_is_handed_out_and_keeps_its_place() {
        let mut session = Session::new(10);
        session.connected(1);
        session.offer(waiting(1, QoS::AtLeastOnce));
        session.offer(waiting(2, QoS::AtMostOnce));
        session.offer(waiting(3, QoS::AtLeastOnce));
        assert_eq!(sent(&mut session), [(1, false), (2, false)]);
        assert_eq!(session.in_flight(), 2);
    }

    #[test]
    fn a_refusal_tells_later_from_never() {
        let mut session = Session::new(10);
        session.connected(10);
        session.offer(waiting(1, QoS::AtLeastOnce));
        session.offer(waiting(2, QoS::AtLeastOnce));
        sent(&mut session);
        let first = PacketId::new(1).unwrap();
        assert_eq!(session.acknowledged(first, ReasonCode::QUOTA_EXCEEDED), Verdict::Later(ReasonCode::QUOTA_EXCEEDED));
        assert_eq!(session.in_flight(), 2);
        let verdict = session.acknowledged(first, ReasonCode::NOT_AUTHORIZED);
        assert_eq!(verdict, Verdict::Refused { seq: 1, reason: ReasonCode::NOT_AUTHORIZED, topic: "t".to_owned() });
        assert_eq!(session.acknowledged(first, ReasonCode::SUCCESS), Verdict::Unknown);
    }

    proptest! {
        /// Random acknowledgements and cuts: everything arrives, in order of first arrival, and no identifier is in use twice.
        #[test]
        fn nothing_is_lost_and_first_arrivals_are_in_order(window in 1_u16..8, maxima in prop::collection::vec(1_u16..8, 1..20), choices in prop::collection::vec(0_usize..8, 50..200)) {
            let mut session = Session::new(window);
            session.connected(maxima[0]);
            let (mut next_seq, mut arrived, mut delivered) = (1, Vec::new(), Vec::new());
            let mut on_wire: Vec<(u64, PacketId)> = Vec::new();
            let mut cuts = maxima.iter().cycle();
            for choice in choices {
                while session.room() > 0 {
                    session.offer(waiting(next_seq, QoS::AtLeastOnce));
                    next_seq += 1;
                }
                while let Some(send) = session.next() {
                    let id = send.packet_id.unwrap();
                    prop_assert!(on_wire.iter().all(|(_, used)| *used != id));
                    on_wire.push((send.seq, id));
                    if !arrived.contains(&send.seq) {
                        arrived.push(send.seq);
                    }
                }
                if choice == 0 || on_wire.is_empty() {
                    on_wire.clear();
                    session.connected(*cuts.next().unwrap());
                } else {
                    let (seq, id) = on_wire.remove(choice % on_wire.len());
                    prop_assert_eq!(session.acknowledged(id, ReasonCode::SUCCESS), Verdict::Delivered(seq));
                    delivered.push(seq);
                }
            }
            prop_assert!(arrived.windows(2).all(|pair| pair[1] == pair[0] + 1));
            delivered.sort_unstable();
            delivered.dedup();
            prop_assert_eq!(delivered.len() + session.in_flight(), usize::try_from(next_seq - 1).unwrap());
        }
    }
}
