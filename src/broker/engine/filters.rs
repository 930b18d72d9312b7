//! The subscriptions of one session.
//!
//! Invariants: they are in the order of their filters, each filter once; `bytes` is what all of
//! them take, here and in the tree.

use super::delivery::Subscription;
use super::replays::Replay;
use super::tree::FILTER_OVERHEAD;
use crate::mqtt::TopicFilter;

/// Bytes of a group of a shared subscription besides its text, about.
const GROUP_OVERHEAD: usize = 500;

/// Bytes of a subscription, about: its text here and in the tree, of a shared one in its group, and
/// its replay.
pub(super) fn cost(filter: &TopicFilter) -> usize {
    let text = filter.as_str().len();
    let group = if filter.is_shared() {
        GROUP_OVERHEAD + text
    } else {
        0
    };
    2 * (text + size_of::<(TopicFilter, Subscription)>())
        + FILTER_OVERHEAD
        + group
        + size_of::<Replay>()
}

/// The subscriptions of one session.
#[derive(Debug, Default)]
pub(super) struct Filters {
    list: Vec<(TopicFilter, Subscription)>,
    bytes: usize,
}

impl Filters {
    /// In the order of their filters.
    pub(super) fn list(&self) -> &[(TopicFilter, Subscription)] {
        &self.list
    }

    /// Those of shared subscriptions.
    pub(super) fn shared(&self) -> impl Iterator<Item = &TopicFilter> {
        self.list
            .iter()
            .map(|(filter, _)| filter)
            .filter(|filter| filter.is_shared())
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn place_of(&self, filter: &TopicFilter) -> Result<usize, usize> {
        self.list.binary_search_by(|(known, _)| known.cmp(filter))
    }

    /// True if there is a subscription with this very filter.
    pub(super) fn contains(&self, filter: &TopicFilter) -> bool {
        self.place_of(filter).is_ok()
    }

    /// The subscription with this very filter, and the filter as it is kept here.
    pub(super) fn get(&self, filter: &TopicFilter) -> Option<&(TopicFilter, Subscription)> {
        self.list.get(self.place_of(filter).ok()?)
    }

    /// Adds or replaces one.
    pub(super) fn insert(&mut self, filter: &TopicFilter, subscription: Subscription) {
        match self.place_of(filter) {
            Ok(place) => {
                if let Some((_, known)) = self.list.get_mut(place) {
                    *known = subscription;
                }
            }
            Err(place) => {
                if self.list.is_empty() {
                    // Most sessions have few.
                    self.list.reserve_exact(1);
                }
                self.bytes += cost(filter);
                // A copy: the packet it came in is not to be kept for it.
                self.list.insert(place, (filter.detached(), subscription));
            }
        }
    }

    /// True if there was one.
    pub(super) fn remove(&mut self, filter: &TopicFilter) -> bool {
        let Ok(place) = self.place_of(filter) else {
            return false;
        };
        let (gone, _) = self.list.remove(place);
        self.bytes -= cost(&gone);
        if self.list.capacity() > 4 * self.list.len() {
            self.list.shrink_to_fit();
        }
        true
    }

    /// Panics if the total is not what the filters say. For tests.
    pub(super) fn check_invariants(&self) {
        assert_eq!(
            self.bytes,
            self.list
                .iter()
                .map(|(filter, _)| cost(filter))
                .sum::<usize>(),
            "bytes of subscriptions"
        );
        assert!(
            self.list.is_sorted_by(|one, next| one.0 < next.0),
            "the order of the filters"
        );
    }
}
