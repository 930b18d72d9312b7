//! Messages that wait until their destinations inside the gateway have stored them.

use super::refusal::Refusal;
use super::{Lsn, SessionKey};
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
pub(super) struct HeldMessage {
    /// Waits until every destination has the message.
    pub(super) waiter: HeldFor,
    /// Those that have not answered, a bit each.
    pub(super) waiting: u64,
    pub(super) refusals: ForwardRefusals,
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
