//! Finds the session that holds the most bytes in its queue. Pure.
//!
//! Invariants:
//! * Each session is noted with a size class that is not below the one of its queue: growth is
//!   noted at once, shrinking when the fullest asks. So a queue that fills and empties costs
//!   nothing.
//! * A class spans an eighth of its size, so the session that is named holds at least eight ninths
//!   of the fullest queue.

use std::collections::BTreeSet;

use super::SessionKey;

/// Steps in which a size doubles.
const STEPS: usize = 8;

/// The size class of a queue; 0 for an empty one.
fn class_of(bytes: usize) -> usize {
    let Some(log) = bytes.checked_ilog2() else {
        return 0;
    };
    // The three bits behind the first one.
    let below = if log >= 3 {
        bytes >> (log - 3)
    } else {
        bytes << (3 - log)
    };
    log as usize * STEPS + below % STEPS + 1
}

/// The sessions whose queues hold something, by their size classes.
#[derive(Debug, Default)]
pub(super) struct Fullest {
    order: BTreeSet<(usize, SessionKey)>,
    /// By session; 0 for those that are not in `order`.
    noted: Vec<usize>,
}

impl Fullest {
    /// A queue has grown to `bytes`. Costs nothing while its class stays.
    pub(super) fn grew(&mut self, key: SessionKey, bytes: usize) {
        let class = class_of(bytes);
        if class > self.noted.get(key).copied().unwrap_or(0) {
            self.note(key, class);
        }
    }

    /// A session is gone.
    pub(super) fn forget(&mut self, key: SessionKey) {
        self.note(key, 0);
    }

    /// The session with the fullest queue; `held` says how many bytes a session holds in truth.
    pub(super) fn find(&mut self, held: impl Fn(SessionKey) -> usize) -> Option<SessionKey> {
        while let Some((class, key)) = self.order.last().copied() {
            let is = class_of(held(key));
            if is >= class {
                return Some(key);
            }
            self.note(key, is);
        }
        None
    }

    fn note(&mut self, key: SessionKey, class: usize) {
        if self.noted.len() <= key {
            self.noted.resize(key + 1, 0);
        }
        let Some(noted) = self.noted.get_mut(key) else {
            return;
        };
        if *noted > 0 {
            self.order.remove(&(*noted, key));
        }
        *noted = class;
        if class > 0 {
            self.order.insert((class, key));
        }
    }

    /// Panics if a session is noted with less than it holds. For tests.
    pub(super) fn check_invariants(&self, held: impl Iterator<Item = (SessionKey, usize)>) {
        for (key, bytes) in held {
            let noted = self.noted.get(key).copied().unwrap_or(0);
            assert!(
                noted >= class_of(bytes),
                "session {key} holds {bytes} bytes and is noted as class {noted}"
            );
        }
        let noted = self
            .noted
            .iter()
            .enumerate()
            .filter(|(_, class)| **class > 0)
            .map(|(key, class)| (*class, key));
        assert_eq!(self.order, noted.collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn classes_grow_with_sizes_and_span_an_eighth() {
        let mut last = 0;
        for bytes in 0..100_000_usize {
            let class = class_of(bytes);
            assert!(class >= last, "{bytes}");
            last = class;
            if bytes >= 8 {
                assert!(class_of(bytes + bytes / 8 + 1) > class, "{bytes}");
            }
        }
        assert!(class_of(usize::MAX) > last);
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn the_fullest_queue_is_found_to_an_eighth(steps in prop::collection::vec((0_usize..6, 0_usize..5000), 1..200)) {
            let mut fullest = Fullest::default();
            let mut held = [0_usize; 6];
            for (key, bytes) in steps {
                let before = held[key];
                held[key] = bytes;
                if bytes > before {
                    fullest.grew(key, bytes);
                }
                fullest.check_invariants(held.iter().copied().enumerate());
                let most = held.iter().copied().max().unwrap();
                match fullest.find(|key| held[key]) {
                    Some(found) => prop_assert!(held[found] * 9 + 9 >= most * 8, "{} of {most}", held[found]),
                    None => prop_assert_eq!(most, 0),
                }
                if bytes % 50 == 0 {
                    held[key] = 0;
                    fullest.forget(key);
                }
            }
        }
    }
}
