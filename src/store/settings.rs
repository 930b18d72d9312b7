//! How a store is kept.

use std::time::Duration;

use serde::Deserialize;

/// The policy when a store has reached its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// Drop the oldest entries of the least important queue that has any.
    #[default]
    DropOldest,
    /// Number new entries, but drop them.
    DropNewest,
    /// Refuse new entries.
    Refuse,
}

/// How a store is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// How long an entry may wait for others to share its commit; readings of that time are lost in
    /// a power cut.
    pub save_every: Duration,
    /// Limit for all partitions of all queues together, in bytes.
    pub total_bytes: u64,
    /// Entries older than this are dropped.
    pub age: Option<Duration>,
    /// The policy at `total_bytes`.
    pub when_full: WhenFull,
}
