//! All subscriptions, of sessions and shared subscriptions alike, by their filters.
//!
//! Invariants: `count` and `shared` are how many subscriptions sessions have, and how many of these
//! are shared; a group has members.

use std::collections::HashMap;

use slab::Slab;

use super::SessionKey;
use super::delivery::Subscription;
use super::shared::{Group, MemberClass};
use super::tree::{FilterMatch, GroupKey, SubscriptionTarget, Tree};
use crate::mqtt::{TopicFilter, TopicName};

/// Every subscription of every session.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    tree: Tree,
    groups: Slab<Group>,
    by_filter: HashMap<TopicFilter, GroupKey>,
    count: usize,
    shared: usize,
}

impl Subscriptions {
    /// Subscriptions of sessions, shared ones included.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Memberships in shared subscriptions.
    pub(super) fn shared(&self) -> usize {
        self.shared
    }

    /// Adds or replaces a subscription. For a shared one, [`Subscriptions::classify`] must follow
    /// with the class of the member.
    pub(super) fn insert(
        &mut self,
        filter: &TopicFilter,
        session: SessionKey,
        subscription: Subscription,
    ) {
        if !filter.is_shared() {
            self.count += usize::from(self.tree.put(
                filter,
                SubscriptionTarget::Session(session),
                subscription,
            ));
            return;
        }
        let key = match self.by_filter.get(filter) {
            Some(key) => *key,
            None => {
                // A copy: the packet it came in is not to be kept for it.
                let filter = filter.detached();
                let key = self.groups.insert(Group::new(filter.clone()));
                self.by_filter.insert(filter.clone(), key);
                self.tree.put(
                    &filter,
                    SubscriptionTarget::Group(key),
                    Subscription::default(),
                );
                key
            }
        };
        let Some(group) = self.groups.get_mut(key) else {
            return;
        };
        let is_new = usize::from(group.join(session, MemberClass::Session(session), subscription));
        self.count += is_new;
        self.shared += is_new;
    }

    pub(super) fn remove(&mut self, filter: &TopicFilter, session: SessionKey) {
        if !filter.is_shared() {
            self.count -= usize::from(
                self.tree
                    .take_out(filter, SubscriptionTarget::Session(session)),
            );
            return;
        }
        let Some(key) = self.by_filter.get(filter).copied() else {
            return;
        };
        let Some(group) = self.groups.get_mut(key) else {
            return;
        };
        let left = usize::from(group.leave(session));
        self.count -= left;
        self.shared -= left;
        if group.is_empty() {
            self.groups.remove(key);
            self.by_filter.remove(filter);
            self.tree.take_out(filter, SubscriptionTarget::Group(key));
        }
    }

    /// A session has connected: its shared subscriptions prefer it.
    pub(super) fn connected(&mut self, filter: &TopicFilter, session: SessionKey) {
        if let Some(group) = self
            .by_filter
            .get(filter)
            .and_then(|key| self.groups.get_mut(*key))
        {
            group.connected(session);
        }
    }

    /// Puts a member of a shared subscription among those that may read the same topics.
    pub(super) fn classify(
        &mut self,
        filter: &TopicFilter,
        session: SessionKey,
        class: MemberClass,
    ) {
        if let Some(group) = self
            .by_filter
            .get(filter)
            .and_then(|key| self.groups.get_mut(*key))
        {
            group.classify(session, class);
        }
    }

    /// A shared subscription.
    pub(super) fn group_mut(&mut self, key: GroupKey) -> Option<&mut Group> {
        self.groups.get_mut(key)
    }

    /// The group of a `$share` filter.
    pub(super) fn group_of(&self, filter: &TopicFilter) -> Option<GroupKey> {
        self.by_filter.get(filter).copied()
    }

    /// Adds every subscription that matches `topic` to `found`, sorted by target; a target is there
    /// once for each of its filters.
    pub(super) fn find(&self, topic: &TopicName, found: &mut Vec<FilterMatch>) {
        let before = found.len();
        let lists = self.tree.find(topic, found);
        // Each list is sorted.
        if lists > 1
            && let Some(new) = found.get_mut(before..)
        {
            new.sort_unstable_by_key(|one| one.target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(
        levels: &'static [&'static str],
        longest: usize,
        most: usize,
    ) -> impl Strategy<Value = Vec<String>> {
        let text = prop::collection::vec(prop::sample::select(levels), 1..longest)
            .prop_map(|levels| levels.join("/"));
        prop::collection::vec(text, 1..most)
    }

    fn targets(tree: &Subscriptions, name: &TopicName) -> Vec<SubscriptionTarget> {
        let mut found = Vec::new();
        tree.find(name, &mut found);
        assert!(
            found.is_sorted_by_key(|one| one.target),
            "the order of the targets"
        );
        found.iter().map(|one| one.target).collect()
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn the_tree_finds_what_matching_one_by_one_finds(
            filters in texts(&["a", "b", "ab", "", "+", "#", "$x"], 7, 24),
            names in texts(&["a", "b", "ab", "", "$x"], 7, 8),
            remove in prop::collection::vec(any::<bool>(), 24),
        ) {
            let filters: Vec<TopicFilter> = filters.into_iter().filter_map(|text| TopicFilter::new(text).ok()).collect();
            let names: Vec<TopicName> = names.into_iter().filter_map(|text| TopicName::new(text).ok()).collect();
            let mut tree = Subscriptions::default();
            for (key, filter) in filters.iter().enumerate() {
                tree.insert(filter, key, Subscription::default());
                tree.tree.check_invariants();
            }
            for (key, filter) in filters.iter().enumerate().filter(|(key, _)| remove[*key]) {
                tree.remove(filter, key);
                tree.tree.check_invariants();
            }
            for name in &names {
                let expected: Vec<SubscriptionTarget> =
                    (0..filters.len()).filter(|key| !remove[*key] && filters[*key].matches(name)).map(SubscriptionTarget::Session).collect();
                prop_assert_eq!(targets(&tree, name), expected, "{}", name);
            }
            for (key, filter) in filters.iter().enumerate() {
                tree.remove(filter, key);
                tree.tree.check_invariants();
            }
            prop_assert!(tree.tree.is_empty());
            prop_assert_eq!(tree.count(), 0);
        }
    }

    #[test]
    fn many_children_of_one_node_are_found_and_go() {
        let mut tree = Subscriptions::default();
        let filters: Vec<TopicFilter> = (0..100)
            .map(|child| TopicFilter::new(format!("a/{child}/x/y")).unwrap())
            .collect();
        for (key, filter) in filters.iter().enumerate() {
            tree.insert(filter, key, Subscription::default());
        }
        for (key, filter) in filters.iter().enumerate() {
            let name = TopicName::new(filter.as_str().to_owned()).unwrap();
            assert_eq!(targets(&tree, &name), [SubscriptionTarget::Session(key)]);
            tree.remove(filter, key);
            assert_eq!(targets(&tree, &name), []);
            assert_eq!(tree.tree.check_invariants(), nodes(99 - key));
        }
        assert!(tree.tree.is_empty());
    }

    /// The root, one for each filter, and the one they part at.
    fn nodes(filters: usize) -> usize {
        1 + filters + usize::from(filters > 1)
    }

    #[test]
    fn a_deep_filter_takes_one_node() {
        let mut tree = Subscriptions::default();
        let deep = |last: &str| TopicFilter::new(format!("{}{last}", "a/+/".repeat(50))).unwrap();
        for (key, last) in ["x/y", "x/z", "#"].into_iter().enumerate() {
            tree.insert(&deep(last), key, Subscription::default());
        }
        // The root, where `#` is and where `x` begins, where `y` and `z` part, and these.
        assert_eq!(tree.tree.check_invariants(), 5);
        tree.remove(&deep("x/y"), 0);
        tree.remove(&deep("#"), 2);
        assert_eq!(tree.tree.check_invariants(), 2);
    }

    #[test]
    fn a_shared_subscription_is_one_target_and_goes_with_its_last_member() {
        let mut tree = Subscriptions::default();
        let filter = TopicFilter::new("$share/group/a/+").unwrap();
        tree.insert(&filter, 1, Subscription::default());
        tree.insert(&filter, 2, Subscription::default());
        let mut found = Vec::new();
        tree.find(&TopicName::new("a/b").unwrap(), &mut found);
        assert_eq!(
            found.iter().map(|one| one.target).collect::<Vec<_>>(),
            [SubscriptionTarget::Group(tree.group_of(&filter).unwrap())]
        );
        assert_eq!((tree.count(), tree.shared()), (2, 2));
        tree.remove(&filter, 1);
        tree.remove(&filter, 2);
        assert!(tree.tree.is_empty() && tree.group_of(&filter).is_none());
        assert_eq!((tree.count(), tree.shared()), (0, 0));
    }
}
