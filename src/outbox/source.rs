//! Where a reading comes from: its format at the remote needs that when the reading is sent.

use crate::mqtt::TopicName;

/// The local topic of a reading, and the `send` rule that took it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReadingSource {
    /// Its topic here.
    pub topic: TopicName,
    /// The identifier of the rule.
    pub rule: u32,
}
