//! Wrong passwords, counted: who has had too many within a minute is locked for a minute. Pure.
//!
//! Invariants: what is remembered is bounded; a lock is never forgotten before its time. Where
//! [`MOST_KNOWN`] are locked, every other comes is neither counted nor locked: each lock has cost
//! many comparisons of a password, which are slow.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How long wrong passwords count, and how long a lock lasts.
pub(super) const MEMORY: Duration = Duration::from_secs(60);
/// Keys that are remembered; each takes a few dozen bytes.
const MOST_KNOWN: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Count {
    failures: u32,
    /// The first of them; once there are too many, the one that was too many.
    since: Instant,
}

/// Wrong passwords by whatever they are counted by: an address, a network, an address with a user
/// name.
#[derive(Debug)]
pub(super) struct Lockout<K> {
    limit: u32,
    known: HashMap<K, Count>,
}

impl<K: Copy + Eq + Hash> Lockout<K> {
    /// Locks after `limit` wrong passwords within a minute.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit: limit.max(1),
            known: HashMap::new(),
        }
    }

    /// True for a minute after too many wrong passwords.
    pub(super) fn is_locked(&self, key: &K, now: Instant) -> bool {
        self.known
            .get(key)
            .is_some_and(|count| count.failures >= self.limit && now < count.since + MEMORY)
    }

    /// One more. True if it is the one that locks.
    pub(super) fn count(&mut self, key: K, now: Instant) -> bool {
        if !self.make_room(&key, now) {
            return false;
        }
        let count = self.known.entry(key).or_insert(Count {
            failures: 0,
            since: now,
        });
        if now >= count.since + MEMORY {
            *count = Count {
                failures: 0,
                since: now,
            };
        }
        count.failures = count.failures.saturating_add(1);
        let locks = count.failures == self.limit;
        if locks {
            count.since = now;
        }
        debug_assert!(self.known.len() <= MOST_KNOWN);
        locks
    }

    /// False if all that is remembered are locks.
    fn make_room(&mut self, key: &K, now: Instant) -> bool {
        if self.known.len() < MOST_KNOWN || self.known.contains_key(key) {
            return true;
        }
        self.known.retain(|_, count| now < count.since + MEMORY);
        if self.known.len() < MOST_KNOWN {
            return true;
        }
        let open = self
            .known
            .iter()
            .filter(|(_, count)| count.failures < self.limit);
        let least = open
            .min_by_key(|(_, count)| (count.failures, count.since))
            .map(|(key, _)| *key);
        least.is_some_and(|key| self.known.remove(&key).is_some())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_lock_lasts_a_minute_and_failures_count_for_one() {
        let (mut lockout, now) = (Lockout::new(3), crate::time::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        assert!(
            !lockout.count("anna", now)
                && !lockout.count("anna", after(10))
                && !lockout.is_locked(&"anna", after(10))
        );
        assert!(
            lockout.count("anna", after(20))
                && lockout.is_locked(&"anna", after(79))
                && !lockout.is_locked(&"berta", after(20))
        );
        assert!(!lockout.count("anna", after(21)), "it is locked already");
        assert!(!lockout.is_locked(&"anna", after(80)));
        assert!(
            !lockout.count("anna", after(80))
                && !lockout.count("anna", after(81))
                && !lockout.count("anna", after(141))
        );
    }

    #[test]
    fn a_table_full_of_locks_keeps_them_and_locks_nobody_else() {
        let (mut lockout, now) = (Lockout::new(2), crate::time::now());
        for name in 0..MOST_KNOWN {
            lockout.count(name, now);
            lockout.count(name, now);
        }
        let later = now + Duration::from_secs(30);
        for newcomer in MOST_KNOWN..2 * MOST_KNOWN {
            for _ in 0..5 {
                lockout.count(newcomer, later);
            }
            assert!(!lockout.is_locked(&newcomer, later));
        }
        assert!(
            (0..MOST_KNOWN).all(|name| lockout.is_locked(&name, later)),
            "no lock is pushed out"
        );
        let over = now + MEMORY;
        assert!(
            !lockout.count(MOST_KNOWN, over) && lockout.count(MOST_KNOWN, over),
            "there is room again"
        );
        assert!(lockout.known.len() <= MOST_KNOWN);
    }

    proptest! {
        #![proptest_config(crate::testing::cases(8, module_path!()))]

        /// However many names a client tries, the table stays bounded and a lock holds.
        #[test]
        fn names_without_end_neither_grow_the_table_nor_open_a_lock(seed in any::<u64>()) {
            let (mut lockout, now) = (Lockout::new(2), crate::time::now());
            lockout.count(seed, now);
            lockout.count(seed, now);
            for name in 1..MOST_KNOWN as u64 + 100 {
                lockout.count(seed.wrapping_add(name), now);
            }
            prop_assert!(lockout.known.len() <= MOST_KNOWN && lockout.is_locked(&seed, now));
        }
    }
}
