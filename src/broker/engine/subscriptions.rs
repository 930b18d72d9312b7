//! The subscription tree: one node per topic level. Sessions, shared subscriptions and taps stand in it alike.
//!
//! Invariants: a node without anything in it or below it is removed; finding allocates nothing but room in the caller's list.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use slab::Slab;

use super::SessionKey;
use super::session::Subscription;
use crate::mqtt::{QoS, TopicFilter, TopicName};

/// A shared subscription, by its place in [`Subscriptions`].
pub(super) type GroupKey = usize;

/// Who gets the messages of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A session.
    Session(SessionKey),
    /// One member of a shared subscription.
    Group(GroupKey),
    /// A tap, by its index.
    Tap(usize),
}

/// As many children as one looks through faster than one computes a hash; most nodes have one.
const FEW: usize = 8;

/// The nodes below a node.
#[derive(Debug)]
enum Children {
    Few(Vec<(Box<str>, Box<Node>)>),
    Many(HashMap<Box<str>, Box<Node>>),
}

impl Default for Children {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Children {
    fn is_empty(&self) -> bool {
        match self {
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }

    fn get(&self, level: &str) -> Option<&Node> {
        match self {
            Self::Few(few) => few.iter().find(|(name, _)| **name == *level).map(|(_, node)| &**node),
            Self::Many(many) => many.get(level).map(|node| &**node),
        }
    }

    fn get_mut(&mut self, level: &str) -> Option<&mut Node> {
        match self {
            Self::Few(few) => few.iter_mut().find(|(name, _)| **name == *level).map(|(_, node)| &mut **node),
            Self::Many(many) => many.get_mut(level).map(|node| &mut **node),
        }
    }

    fn get_or_insert(&mut self, level: &str) -> &mut Node {
        if let Self::Few(few) = self
            && few.len() >= FEW
            && few.iter().all(|(name, _)| **name != *level)
        {
            *self = Self::Many(std::mem::take(few).into_iter().collect());
        }
        match self {
            Self::Few(few) => {
                let place = few.iter().position(|(name, _)| **name == *level).unwrap_or_else(|| {
                    few.reserve_exact(1);
                    few.push((level.into(), Box::default()));
                    few.len() - 1
                });
                // The place was found or made above.
                #[allow(clippy::indexing_slicing)]
                &mut few[place].1
            }
            Self::Many(many) => many.entry(level.into()).or_default(),
        }
    }

    fn remove(&mut self, level: &str) {
        match self {
            Self::Few(few) => few.retain(|(name, _)| **name != *level),
            Self::Many(many) => {
                many.remove(level);
                if many.is_empty() {
                    *self = Self::default();
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct Node {
    children: Children,
    plus: Option<Box<Node>>,
    /// Filters that end here.
    here: Vec<(Target, Subscription)>,
    /// Filters that go on with `#`.
    below: Vec<(Target, Subscription)>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.here.is_empty() && self.below.is_empty()
    }
}

/// One session (group, tap) that is to get a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) target: Target,
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    pub(super) no_local: bool,
    pub(super) identifier: Option<NonZeroU32>,
}

/// A shared subscription.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) filter: Arc<TopicFilter>,
    pub(super) members: Vec<(SessionKey, Subscription)>,
    /// Who was chosen last.
    pub(super) last: usize,
}

/// Every subscription of every session.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    root: Node,
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

    /// Adds or replaces a subscription.
    pub(super) fn insert(&mut self, filter: &TopicFilter, session: SessionKey, subscription: Subscription) {
        if !filter.is_shared() {
            self.count += usize::from(put(&mut self.root, filter, Target::Session(session), subscription));
            return;
        }
        let key = match self.by_filter.get(filter) {
            Some(key) => *key,
            None => {
                let key = self.groups.insert(Group { filter: Arc::new(filter.clone()), members: Vec::new(), last: 0 });
                self.by_filter.insert(filter.clone(), key);
                put(&mut self.root, filter, Target::Group(key), Subscription::default());
                key
            }
        };
        let Some(group) = self.groups.get_mut(key) else { return };
        match group.members.iter_mut().find(|(member, _)| *member == session) {
            Some((_, known)) => *known = subscription,
            None => {
                group.members.push((session, subscription));
                self.count += 1;
                self.shared += 1;
            }
        }
    }

    /// Adds a tap.
    pub(super) fn tap(&mut self, filter: &TopicFilter, index: usize) {
        put(&mut self.root, filter, Target::Tap(index), Subscription::default());
    }

    /// Takes a tap out.
    pub(super) fn untap(&mut self, filter: &TopicFilter, index: usize) {
        take_out(&mut self.root, filter, Target::Tap(index));
    }

    pub(super) fn remove(&mut self, filter: &TopicFilter, session: SessionKey) {
        if !filter.is_shared() {
            self.count -= usize::from(take_out(&mut self.root, filter, Target::Session(session)));
            return;
        }
        let Some(key) = self.by_filter.get(filter).copied() else { return };
        let Some(group) = self.groups.get_mut(key) else { return };
        let before = group.members.len();
        group.members.retain(|(member, _)| *member != session);
        let left = before - group.members.len();
        self.count -= left;
        self.shared -= left;
        if group.members.is_empty() {
            self.groups.remove(key);
            self.by_filter.remove(filter);
            take_out(&mut self.root, filter, Target::Group(key));
        }
    }

    /// The members of a shared subscription.
    pub(super) fn group_mut(&mut self, key: GroupKey) -> Option<&mut Group> {
        self.groups.get_mut(key)
    }

    /// The group of a `$share` filter.
    pub(super) fn group_of(&self, filter: &TopicFilter) -> Option<GroupKey> {
        self.by_filter.get(filter).copied()
    }

    /// The taps that want messages of `topic`.
    pub(super) fn taps_of(&self, topic: &TopicName) -> Vec<usize> {
        let mut found = Vec::new();
        self.find(topic, &mut found);
        let taps = found.iter().filter_map(|wanted| if let Target::Tap(index) = wanted.target { Some(index) } else { None });
        let mut taps: Vec<usize> = taps.collect();
        taps.dedup();
        taps
    }

    /// Everybody who is to get a message of `topic`, into `found`: sorted, and as often as they have subscriptions that match.
    pub(super) fn find(&self, topic: &TopicName, found: &mut Vec<Wanted>) {
        let before = found.len();
        let nodes = collect(&self.root, Some(topic.as_str()), !topic.is_reserved(), found);
        // Within one node nobody stands twice.
        if nodes > 1
            && let Some(new) = found.get_mut(before..)
        {
            new.sort_unstable_by_key(|wanted| wanted.target);
        }
    }
}

/// The list a filter ends in, made if needed.
fn list<'a>(root: &'a mut Node, filter: &TopicFilter) -> &'a mut Vec<(Target, Subscription)> {
    let mut node = root;
    for level in filter.plain().split('/') {
        match level {
            "#" => return &mut node.below,
            "+" => node = node.plus.get_or_insert_default(),
            _ => node = node.children.get_or_insert(level),
        }
    }
    &mut node.here
}

/// True if the target had no such subscription.
fn put(root: &mut Node, filter: &TopicFilter, target: Target, subscription: Subscription) -> bool {
    let list = list(root, filter);
    match list.iter_mut().find(|(known, _)| *known == target) {
        Some((_, known)) => {
            *known = subscription;
            false
        }
        None => {
            if list.is_empty() {
                // Most filters have one subscriber.
                list.reserve_exact(1);
            }
            list.push((target, subscription));
            true
        }
    }
}

/// True if the target had the subscription.
fn take_out(root: &mut Node, filter: &TopicFilter, target: Target) -> bool {
    remove_below(root, &mut filter.plain().split('/'), target)
}

fn remove_below<'a>(node: &mut Node, levels: &mut impl Iterator<Item = &'a str>, target: Target) -> bool {
    let from = |list: &mut Vec<(Target, Subscription)>| {
        let before = list.len();
        list.retain(|(known, _)| *known != target);
        list.len() < before
    };
    match levels.next() {
        None => from(&mut node.here),
        Some("#") => from(&mut node.below),
        Some("+") => {
            let Some(plus) = node.plus.as_mut() else { return false };
            let removed = remove_below(plus, levels, target);
            if plus.is_empty() {
                node.plus = None;
            }
            removed
        }
        Some(level) => {
            let Some(child) = node.children.get_mut(level) else { return false };
            let removed = remove_below(child, levels, target);
            if child.is_empty() {
                node.children.remove(level);
            }
            removed
        }
    }
}

fn take(list: &[(Target, Subscription)], found: &mut Vec<Wanted>) -> usize {
    found.extend(list.iter().map(|(target, subscription)| Wanted {
        target: *target,
        qos: subscription.options.qos,
        retain_as_published: subscription.options.retain_as_published,
        no_local: subscription.options.no_local,
        identifier: subscription.identifier,
    }));
    usize::from(!list.is_empty())
}

/// How many nodes gave something. `wildcards` is false at the first level of a `$` topic [MQTT-4.7.2-1]. The depth is bounded by the
/// levels of a topic.
fn collect(node: &Node, levels: Option<&str>, wildcards: bool, found: &mut Vec<Wanted>) -> usize {
    let mut nodes = if wildcards { take(&node.below, found) } else { 0 };
    let Some(levels) = levels else { return nodes + take(&node.here, found) };
    let (level, rest) = match levels.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (levels, None),
    };
    if let Some(child) = node.children.get(level) {
        nodes += collect(child, rest, true, found);
    }
    if wildcards && let Some(plus) = &node.plus {
        nodes += collect(plus, rest, true, found);
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn level() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "", "$x"])
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_matching_one_by_one_finds(
            filters in prop::collection::vec(prop::collection::vec(prop::sample::select(vec!["a", "b", "", "+", "#", "$x"]), 1..4), 1..12),
            names in prop::collection::vec(prop::collection::vec(level(), 1..4), 1..8),
            remove in prop::collection::vec(any::<bool>(), 12),
        ) {
            let filters: Vec<TopicFilter> = filters.iter().filter_map(|levels| TopicFilter::new(levels.join("/")).ok()).collect();
            let mut tree = Subscriptions::default();
            for (key, filter) in filters.iter().enumerate() {
                tree.insert(filter, key, Subscription::default());
            }
            for (key, filter) in filters.iter().enumerate().filter(|(key, _)| remove[*key]) {
                tree.remove(filter, key);
            }
            for name in names.iter().filter_map(|levels| TopicName::new(levels.join("/")).ok()) {
                let mut found = Vec::new();
                tree.find(&name, &mut found);
                let mut found: Vec<Target> = found.iter().map(|wanted| wanted.target).collect();
                found.sort_unstable();
                let expected: Vec<Target> =
                    (0..filters.len()).filter(|key| !remove[*key] && filters[*key].matches(&name)).map(Target::Session).collect();
                prop_assert_eq!(found, expected, "{}", name);
            }
            for (key, filter) in filters.iter().enumerate() {
                tree.remove(filter, key);
            }
            prop_assert!(tree.root.is_empty());
            prop_assert_eq!(tree.count(), 0);
        }
    }

    #[test]
    fn a_shared_subscription_is_one_target_and_goes_with_its_last_member() {
        let mut tree = Subscriptions::default();
        let filter = TopicFilter::new("$share/group/a/+").unwrap();
        tree.insert(&filter, 1, Subscription::default());
        tree.insert(&filter, 2, Subscription::default());
        let mut found = Vec::new();
        tree.find(&TopicName::new("a/b").unwrap(), &mut found);
        assert_eq!(found.iter().map(|wanted| wanted.target).collect::<Vec<_>>(), [Target::Group(tree.group_of(&filter).unwrap())]);
        assert_eq!((tree.count(), tree.shared()), (2, 2));
        tree.remove(&filter, 1);
        tree.remove(&filter, 2);
        assert!(tree.root.is_empty() && tree.group_of(&filter).is_none());
        assert_eq!((tree.count(), tree.shared()), (0, 0));
    }
}
