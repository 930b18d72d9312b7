//! Entries that were accepted and will not be delivered: which numbers, from when, and why. Pure.

use serde::Serialize;

/// Why entries are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The journal has reached its size: the oldest went.
    Full,
    /// The journal has reached its size: the newest was not taken.
    FullNewest,
    /// Older than the journal keeps entries.
    Age,
    /// The disk damaged them.
    Damage,
    /// The last write before an unclean shutdown is incomplete. After a power cut the missing
    /// entries were never acknowledged.
    Unfinished,
    /// The user gave them up: expired before they could be sent.
    Expired,
    /// The user gave them up: the remote lost the session, and the class says not to send twice.
    SessionLost,
    /// A person removed them.
    Purged,
}

/// A run of numbers that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// First number.
    pub first: u64,
    /// Last number. Between the two, only [`Gap::count`] entries were waiting.
    pub last: u64,
    /// How many entries, as far as they can be counted; 0 if that is unknown, see
    /// [`Gap::known_count`].
    pub count: u64,
    /// None of them is older than this, by the wall clock.
    pub from_ms: i64,
    /// None of them is younger than this, as far as is known.
    pub until_ms: i64,
    /// Why.
    pub reason: Reason,
}

impl Gap {
    /// A single entry, which was appended at `unix_ms` by the wall clock.
    pub fn of_one(seq: u64, unix_ms: i64, reason: Reason) -> Self {
        Self {
            first: seq,
            last: seq,
            count: 1,
            from_ms: unix_ms,
            until_ms: unix_ms,
            reason,
        }
    }

    /// How many entries; `None` if the database that held them is damaged and nothing else has the
    /// count.
    pub fn known_count(&self) -> Option<u64> {
        Some(self.count).filter(|count| *count > 0)
    }

    /// Takes `next` in if it follows for the same reason; false if it does not.
    pub fn absorb(&mut self, next: &Self) -> bool {
        // A number that is known says nothing beside one that is not.
        let is_known = self.known_count().is_some() == next.known_count().is_some();
        if self.reason != next.reason || next.first < self.first || !is_known {
            return false;
        }
        self.last = self.last.max(next.last);
        self.count += next.count;
        self.from_ms = self.from_ms.min(next.from_ms);
        self.until_ms = self.until_ms.max(next.until_ms);
        true
    }
}
