//! Consumers inside the gateway, and the messages that they have not stored yet.

use super::refusal::Refusal;
use super::{Lsn, SessionKey};
use crate::message::Origin;
use crate::mqtt::{PacketId, ReasonCode, TopicFilter};

/// A consumer inside the gateway that stores the messages of some topics: an outbox.
#[derive(Debug, Clone)]
pub struct Tap {
    /// The topics it wants.
    pub filters: Vec<TopicFilter>,
    /// Messages from there are not for it, so that nothing goes round in circles.
    pub not_from: Origin,
}

/// How a tap answers a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapAnswer {
    /// It has the message, or does not want it.
    Stored,
    /// It has no room for it now.
    Full,
    /// It can never take it: a `send` rule turns its topic into one that is not possible.
    BadTopic,
}

/// The taps that did not take a message, a bit each.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TapRefusals {
    full: u64,
    bad_topic: u64,
}

impl TapRefusals {
    pub(super) fn note(&mut self, bit: u64, answer: TapAnswer) {
        match answer {
            TapAnswer::Stored => {}
            TapAnswer::Full => self.full |= bit,
            TapAnswer::BadTopic => self.bad_topic |= bit,
        }
    }

    /// All of them.
    pub(super) fn taps(self) -> u64 {
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

/// A message that taps have not stored yet.
#[derive(Debug)]
pub(super) struct HeldMessage {
    /// Waits until every tap has the message.
    pub(super) waiter: HeldFor,
    /// Those that have not answered, a bit each.
    pub(super) waiting: u64,
    pub(super) refusals: TapRefusals,
}

/// Bits of a ticket that name a tap.
pub(super) const TAP_BITS: u32 = 6;

/// Taps that an engine may have: each has a bit of its own.
pub const MOST_TAPS: usize = 1 << TAP_BITS;

/// The bit of a tap.
pub(super) fn tap_bit(tap: usize) -> u64 {
    debug_assert!(tap < MOST_TAPS, "every tap has a bit of its own");
    1 << tap.min(MOST_TAPS - 1)
}

/// A PUBLISH that is acknowledged when every tap has its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeldPublish {
    /// The session of its client; the key may outlive it.
    pub(super) key: SessionKey,
    /// The number of that session.
    pub(super) number: u64,
    pub(super) packet_id: PacketId,
    pub(super) is_qos_2: bool,
}

/// The waiter for a message that not every tap has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldFor {
    Session(HeldPublish),
    Inbound { receipt: u64, after: Lsn },
    Will { number: u64 },
}
