//! The `send` rule that took a message, where the message has to wait for its rate.

/// A `send` rule with a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RatedRule {
    /// Its identifier.
    Known(u32),
    /// An early version did not note which one it was.
    Unknown,
}

impl RatedRule {
    /// Its identifier, if it was noted.
    pub(super) fn id(self) -> Option<u32> {
        match self {
            Self::Known(id) => Some(id),
            Self::Unknown => None,
        }
    }
}
