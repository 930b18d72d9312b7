//! Why a client does not get what it asked for: a reason code, and a sentence for a person.

use super::budget::Over;
use crate::mqtt::ReasonCode;

/// Why something is refused. MQTT 5 clients get both; older ones see their connection end, or
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: ReasonCode,
    pub(super) why: &'static str,
}

impl Refusal {
    pub(super) const fn new(reason: ReasonCode, why: &'static str) -> Self {
        Self { reason, why }
    }

    pub(super) const fn protocol_error(why: &'static str) -> Self {
        Self::new(ReasonCode::PROTOCOL_ERROR, why)
    }
}

impl From<Over> for Refusal {
    fn from(over: Over) -> Self {
        Self::new(ReasonCode::QUOTA_EXCEEDED, over.why())
    }
}
