//! Consumers inside the gateway, and the messages that they have not stored yet.

use super::{Position, SessionKey};
use crate::message::Origin;
use crate::mqtt::{PacketId, TopicFilter};

/// A consumer inside the gateway that stores the messages of some topics: an outbox.
#[derive(Debug, Clone)]
pub struct Tap {
    /// The topics it wants.
    pub filters: Vec<TopicFilter>,
    /// Messages from there are not for it, so that nothing goes round in circles.
    pub not_from: Origin,
}

/// A message that taps have not stored yet.
#[derive(Debug)]
pub(super) struct HeldMessage {
    /// Who waits for the taps.
    pub(super) from: HeldFor,
    /// Those that have not answered, a bit each.
    pub(super) waiting: u64,
    /// Those that could not take it.
    pub(super) refused: u64,
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
