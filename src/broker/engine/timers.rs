//! What happens when time passes: the earliest first.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{ConnectionId, SessionKey};

/// Something that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Connect(ConnectionId),
    KeepAlive(ConnectionId),
    Will(SessionKey),
    SessionExpiry(SessionKey),
    /// A will that some destinations had no room for.
    LateWill {
        number: u64,
        refused: u64,
    },
    Sys,
}

/// The timers of an engine. Each is named by when it is due and what for.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, Timer)>);

impl Timers {
    pub(super) fn set(&mut self, due: Instant, timer: Timer) {
        self.0.insert((due, timer));
    }

    /// Takes a timer back, if it is there.
    pub(super) fn cancel(&mut self, due: Instant, timer: Timer) {
        self.0.remove(&(due, timer));
    }

    /// The next one that is due, which is gone then.
    pub(super) fn next_due(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        let next = self.0.first().copied().filter(|(due, _)| *due <= now)?;
        self.0.remove(&next);
        Some(next)
    }

    /// When the next one is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.first().map(|(due, _)| *due)
    }

    /// Panics unless exactly the `wanted` ones of connections and sessions are there. For tests.
    pub(super) fn check_invariants(&self, wanted: impl Iterator<Item = (Instant, Timer)>) {
        let wanted: BTreeSet<_> = wanted.collect();
        let own = |(_, timer): &&(Instant, Timer)| match timer {
            Timer::LateWill { .. } | Timer::Sys => false,
            Timer::Connect(_) | Timer::KeepAlive(_) | Timer::Will(_) | Timer::SessionExpiry(_) => {
                true
            }
        };
        assert!(
            self.0.iter().filter(own).eq(&wanted),
            "timers of connections and sessions: {self:?}, wanted {wanted:?}"
        );
    }
}
