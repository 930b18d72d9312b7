//! The acknowledgements that one connection is owed, in the order of its PUBLISH packets
//! [MQTT-4.6.0-2].
//!
//! Invariant: `waiting` has the place of each acknowledgement that waits for a destination, by its
//! ticket; no two wait for the same one.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use super::rare::Shareable;
use super::refusal::Refusal;
use super::{ByNumber, Lsn, Ticket};
use crate::mqtt::{PacketId, ReasonCode};

/// An acknowledgement that waits for a destination, or for one that does.
#[derive(Debug)]
pub(super) struct HeldAck {
    pub(super) packet_id: PacketId,
    pub(super) is_qos_2: bool,
    pub(super) state: AckState,
    /// The batch its message is in.
    pub(super) after: Lsn,
    pub(super) bytes: usize,
    /// For a person, if it is bad news.
    pub(super) why: &'static str,
    /// A destination could not take the message.
    pub(super) is_refused_by_destination: bool,
}

/// Whether an acknowledgement can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckState {
    /// A destination has not stored its message yet.
    Waiting(Ticket),
    /// With this reason code.
    Ready(ReasonCode),
}

/// The acknowledgements that one connection is owed.
#[derive(Debug, Default)]
pub(super) struct OwedAcks {
    acks: VecDeque<HeldAck>,
    /// The place of the first one, counted from the first that ever was.
    first: u64,
    waiting: ByNumber<Ticket, u64>,
}

impl Shareable for OwedAcks {
    fn none() -> &'static Self {
        static NONE: OwedAcks = OwedAcks::new();
        &NONE
    }
}

impl OwedAcks {
    const fn new() -> Self {
        Self {
            acks: VecDeque::new(),
            first: 0,
            waiting: HashMap::with_hasher(BuildHasherDefault::new()),
        }
    }

    /// Adds the acknowledgement of the newest PUBLISH.
    pub(super) fn push(&mut self, ack: HeldAck) {
        if let AckState::Waiting(ticket) = ack.state {
            let replaced = self
                .waiting
                .insert(ticket, self.first + self.acks.len() as u64);
            debug_assert_eq!(replaced, None, "a message is acknowledged once");
        }
        self.acks.push_back(ack);
    }

    /// The destination that an acknowledgement waits for has its message, or refused it.
    pub(super) fn ready(&mut self, ticket: Ticket, outcome: Refusal, after: Lsn) {
        let place = self
            .waiting
            .remove(&ticket)
            .and_then(|place| usize::try_from(place - self.first).ok());
        let Some(ack) = place.and_then(|place| self.acks.get_mut(place)) else {
            return;
        };
        ack.state = AckState::Ready(outcome.reason);
        ack.after = ack.after.max(after);
        ack.why = outcome.why;
        ack.is_refused_by_destination = outcome.reason.is_error();
    }

    /// The reason code of the oldest one, if it can be sent, and whether it comes from a
    /// destination.
    pub(super) fn next_ready(&self) -> Option<(ReasonCode, bool)> {
        let ack = self.acks.front()?;
        match ack.state {
            AckState::Ready(reason) => Some((reason, ack.is_refused_by_destination)),
            AckState::Waiting(_) => None,
        }
    }

    /// Takes the oldest one if it can be sent.
    pub(super) fn pop_ready(&mut self) -> Option<HeldAck> {
        let ack = self
            .acks
            .pop_front_if(|ack| matches!(ack.state, AckState::Ready(_)))?;
        self.first += 1;
        Some(ack)
    }

    /// From the oldest to the newest.
    pub(super) fn iter(&self) -> impl Iterator<Item = &HeldAck> {
        self.acks.iter()
    }

    /// Panics if a ticket is not where it is said to be. For tests.
    pub(super) fn check_invariants(&self) {
        let waiting = self
            .acks
            .iter()
            .zip(self.first..)
            .filter_map(|(ack, place)| match ack.state {
                AckState::Waiting(ticket) => Some((ticket, place)),
                AckState::Ready(_) => None,
            });
        assert_eq!(
            self.waiting,
            waiting.collect(),
            "acknowledgements that wait for destinations"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn acknowledgements_leave_in_the_order_of_their_messages(steps in prop::collection::vec((0_u8..3, 0_u64..40), 1..120)) {
            let (mut owed, mut model) = (OwedAcks::default(), VecDeque::<(u64, Option<Ticket>)>::new());
            let mut number = 0;
            for (kind, ticket) in steps {
                match kind {
                    0 => {
                        number += 1;
                        let state = if ticket % 3 == 0 { AckState::Ready(ReasonCode::SUCCESS) } else { AckState::Waiting(number) };
                        model.push_back((number, (ticket % 3 != 0).then_some(number)));
                        let packet_id = PacketId::new(1).unwrap();
                        owed.push(HeldAck { packet_id, is_qos_2: false, state, after: number, bytes: 0, why: "", is_refused_by_destination: false });
                    }
                    1 => {
                        owed.ready(ticket, Refusal::new(ReasonCode::SUCCESS, ""), 0);
                        model.iter_mut().filter(|(_, waits)| *waits == Some(ticket)).for_each(|(_, waits)| *waits = None);
                    }
                    _ => {
                        let expected = model.pop_front_if(|(_, waits)| waits.is_none()).map(|(number, _)| number);
                        prop_assert_eq!(owed.next_ready().is_some(), expected.is_some());
                        prop_assert_eq!(owed.pop_ready().map(|ack| ack.after), expected);
                    }
                }
                owed.check_invariants();
                prop_assert!(owed.iter().map(|ack| ack.after).eq(model.iter().map(|(number, _)| *number)));
            }
        }
    }
}
