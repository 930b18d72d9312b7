//! The orders to stop, and those who receive them.

use std::time::Duration;

use crate::tasks::{Stop, StopSwitch, stop_token};

/// How long a stop may take beyond the grace of the uplinks.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Gives the orders to stop.
pub(super) struct StopSwitches {
    pub(super) sources: StopSwitch,
    pub(super) uplinks: StopSwitch,
    pub(super) hurry: StopSwitch,
}

/// Receives the orders to stop.
pub(super) struct StopTokens {
    /// Of listeners and of the broker.
    pub(super) sources: Stop,
    pub(super) uplinks: Stop,
    /// When the grace is over: tasks that wait for a disk give up.
    pub(super) hurry: Stop,
}

/// Switches and their tokens.
pub(super) fn stop_tokens() -> (StopSwitches, StopTokens) {
    let (sources, sources_stop) = stop_token();
    let (uplinks, uplinks_stop) = stop_token();
    let (hurry, hurried) = stop_token();
    let switches = StopSwitches {
        sources,
        uplinks,
        hurry,
    };
    let tokens = StopTokens {
        sources: sources_stop,
        uplinks: uplinks_stop,
        hurry: hurried,
    };
    (switches, tokens)
}
