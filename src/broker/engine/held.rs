//! Messages that wait until their destinations inside the gateway have stored them.

use super::refusal::Refusal;
use super::{ByNumber, Lsn, SessionKey, Ticket};
use crate::message::{ExactInbound, Origin};
use crate::mqtt::{PacketId, ReasonCode};
use crate::outbox::Handover;

/// How a destination answers a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardAnswer {
    /// It has the message, or does not want it.
    Stored,
    /// It has no room for it now.
    Full,
    /// It can never take it: a `send` rule turns its topic into one that is not possible.
    BadTopic,
}

/// The destinations that did not take a message, a bit each.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ForwardRefusals {
    full: u64,
    bad_topic: u64,
}

impl ForwardRefusals {
    pub(super) fn note(&mut self, bit: u64, answer: ForwardAnswer) {
        match answer {
            ForwardAnswer::Stored => {}
            ForwardAnswer::Full => self.full |= bit,
            ForwardAnswer::BadTopic => self.bad_topic |= bit,
        }
    }

    /// All of them.
    pub(super) fn all(self) -> u64 {
        self.full | self.bad_topic
    }

    /// Those that may take it later.
    pub(super) fn full(self) -> u64 {
        self.full
    }

    /// The outcome for the sender.
    pub(super) fn outcome(self) -> Refusal {
        if self.full != 0 {
            Refusal::new(ReasonCode::QUOTA_EXCEEDED, "an outbox is full")
        } else if self.bad_topic != 0 {
            let why = "a `send` rule turns this topic into one that is too long, or no topic name";
            Refusal::new(ReasonCode::TOPIC_NAME_INVALID, why)
        } else {
            Refusal::new(ReasonCode::SUCCESS, "")
        }
    }
}

/// A message that destinations have not stored yet.
#[derive(Debug)]
struct HeldMessage {
    /// Waits until every destination has the message.
    waiter: HeldFor,
    /// Those that have not answered, a bit each.
    waiting: u64,
    refusals: ForwardRefusals,
}

/// The messages that destinations have not stored, by their tickets without the number of the
/// destination.
#[derive(Debug, Default)]
pub(super) struct HeldMessages {
    messages: ByNumber<Ticket, HeldMessage>,
    last: Ticket,
}

impl HeldMessages {
    /// Holds a message for its waiter until these destinations, a bit each, have answered.
    pub(super) fn hold(&mut self, waiter: HeldFor, destinations: u64) -> Ticket {
        self.last += 1;
        let held = HeldMessage {
            waiter,
            waiting: destinations,
            refusals: ForwardRefusals::default(),
        };
        self.messages.insert(self.last, held);
        self.last
    }

    /// Notes the answer of a destination. Returns the waiter with the last one.
    pub(super) fn note(
        &mut self,
        ticket: Ticket,
        bit: u64,
        answer: ForwardAnswer,
    ) -> Option<(HeldFor, ForwardRefusals)> {
        let held = self.messages.get_mut(&ticket)?;
        held.waiting &= !bit;
        held.refusals.note(bit, answer);
        if held.waiting != 0 {
            return None;
        }
        let HeldMessage {
            waiter, refusals, ..
        } = self.messages.remove(&ticket)?;
        Some((waiter, refusals))
    }

    /// What waits for a message that is held.
    pub(super) fn waiter_mut(&mut self, ticket: Ticket) -> Option<&mut HeldFor> {
        self.messages.get_mut(&ticket).map(|held| &mut held.waiter)
    }

    /// Messages that are held.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Panics if a message is held for nobody, or one of the tickets `used` by senders is none.
    /// For tests.
    pub(super) fn check_invariants(&self, mut used: impl Iterator<Item = Ticket>) {
        for (ticket, held) in &self.messages {
            assert_ne!(held.waiting, 0, "a message is held for a destination");
            assert!(*ticket <= self.last, "tickets that were drawn");
        }
        assert!(
            used.all(|ticket| self.messages.contains_key(&ticket)),
            "senders wait for messages that are held"
        );
    }
}

/// A PUBLISH that is acknowledged when every destination has its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeldPublish {
    /// The session of its client; the key may outlive it.
    pub(super) key: SessionKey,
    /// The number of that session.
    pub(super) number: u64,
    pub(super) packet_id: PacketId,
    pub(super) is_qos_2: bool,
    /// By which outboxes know its message: at QoS 2, if the session survives a crash.
    pub(super) handover: Option<Handover>,
}

/// A message of a remote that is safe when every destination has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeldInbound {
    /// Names it to the driver.
    pub(super) reply: u64,
    /// The batch it is in.
    pub(super) after: Lsn,
    pub(super) origin: Origin,
    pub(super) exact: Option<ExactInbound>,
    /// Of its content, at QoS 2.
    pub(super) digest: u32,
    pub(super) handover: Option<Handover>,
}

impl HeldInbound {
    pub(super) fn receipt(&self) -> Option<u64> {
        self.handover.map(|handover| handover.receipt)
    }
}

/// A will that is there until every destination has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeldWill {
    pub(super) number: u64,
    pub(super) handover: Option<Handover>,
}

/// The waiter for a message that not every destination has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldFor {
    Session(HeldPublish),
    Inbound(HeldInbound),
    Will(HeldWill),
}

impl HeldFor {
    /// By which outboxes know its message.
    pub(super) fn handover(&self) -> Option<Handover> {
        match self {
            Self::Session(publish) => publish.handover,
            Self::Inbound(inbound) => inbound.handover,
            Self::Will(will) => will.handover,
        }
    }
}
