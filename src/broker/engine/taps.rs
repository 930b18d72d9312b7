//! Consumers inside the gateway, and the messages that they have not stored yet.

use super::{Position, SessionKey};
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
pub(super) struct Refusals {
    full: u64,
    bad_topic: u64,
}

impl Refusals {
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

    /// The reason code for the sender, and a sentence if it is bad news.
    pub(super) fn reason(self) -> (ReasonCode, &'static str) {
        if self.full != 0 {
            (ReasonCode::QUOTA_EXCEEDED, "an outbox is full")
        } else if self.bad_topic != 0 {
            (
                ReasonCode::TOPIC_NAME_INVALID,
                "a `send` rule turns this topic into one that is too long, or no topic name",
            )
        } else {
            (ReasonCode::SUCCESS, "")
        }
    }
}

/// A message that taps have not stored yet.
#[derive(Debug)]
pub(super) struct HeldMessage {
    /// Who waits for the taps.
    pub(super) from: HeldFor,
    /// Those that have not answered, a bit each.
    pub(super) waiting: u64,
    pub(super) refusals: Refusals,
}

/// Which tap of a message a ticket is for.
pub(super) const TAP_BITS: u32 = 6;

/// Taps that an engine may have: each has a bit of its own.
pub const MOST_TAPS: usize = 1 << TAP_BITS;

/// The bit of a tap.
pub(super) fn tap_bit(tap: usize) -> u64 {
    debug_assert!(tap < MOST_TAPS, "every tap has a bit of its own");
    1 << tap.min(MOST_TAPS - 1)
}

/// Whoever waits until every tap has a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldFor {
    /// The session with this number, which its key may outlive.
    Session {
        key: SessionKey,
        number: u64,
        packet_id: PacketId,
        is_qos_2: bool,
    },
    Inbound {
        receipt: u64,
        after: Position,
    },
    Will {
        number: u64,
    },
}
