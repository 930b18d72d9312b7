//! The tree of topic filters: the subscriptions that match a topic. Levels that lead to one place
//! only are in one node, so that a filter takes about its text, however many levels it has.
//!
//! Invariants:
//! * Below the root every node is the end of a filter or the place where two part; any other is one
//!   with the node below it.
//! * Finding allocates nothing but room in the caller's list.
//! * What is left after filters were removed takes no more than what is in it.

use std::collections::HashMap;
use std::num::NonZeroU32;

use super::SessionKey;
use super::delivery::Subscription;
use crate::mqtt::{QoS, TopicFilter, TopicName};

/// A shared subscription, by its place in [`super::Subscriptions`].
pub(super) type GroupKey = usize;

/// The receiver of the messages of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SubscriptionTarget {
    /// A session.
    Session(SessionKey),
    /// One member of a shared subscription.
    Group(GroupKey),
}

/// A subscription that matches a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FilterMatch {
    pub(super) target: SubscriptionTarget,
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    pub(super) no_local: bool,
    pub(super) identifier: Option<NonZeroU32>,
}

/// As many children as one looks through faster than one computes a hash; most nodes have few.
const FEW: usize = 8;

/// Bytes of a filter in the tree besides its text, at most: the node it ends in, the node it parts
/// from others at, their places in their parents, and the subscription. In bytes, about.
pub(super) const FILTER_OVERHEAD: usize =
    2 * (size_of::<Node>() + 48) + 2 * size_of::<(SubscriptionTarget, Subscription)>();

/// The nodes below a node, by the level that leads there.
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
    fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    fn get(&self, level: &str) -> Option<&Node> {
        match self {
            Self::Few(few) => few
                .iter()
                .find(|(name, _)| **name == *level)
                .map(|(_, node)| &**node),
            Self::Many(many) => many.get(level).map(|node| &**node),
        }
    }

    fn get_mut(&mut self, level: &str) -> Option<&mut Node> {
        match self {
            Self::Few(few) => few
                .iter_mut()
                .find(|(name, _)| **name == *level)
                .map(|(_, node)| &mut **node),
            Self::Many(many) => many.get_mut(level).map(|node| &mut **node),
        }
    }

    /// The child of a level, made by `make` if needed.
    fn get_or_insert(&mut self, level: &str, make: impl FnOnce() -> Box<Node>) -> &mut Node {
        if let Self::Few(few) = self
            && few.len() >= FEW
            && few.iter().all(|(name, _)| **name != *level)
        {
            *self = Self::Many(std::mem::take(few).into_iter().collect());
        }
        match self {
            Self::Few(few) => {
                let place = few
                    .iter()
                    .position(|(name, _)| **name == *level)
                    .unwrap_or_else(|| {
                        few.reserve_exact(1);
                        few.push((level.into(), make()));
                        few.len() - 1
                    });
                // The place was found or made above.
                #[allow(clippy::indexing_slicing)]
                &mut few[place].1
            }
            Self::Many(many) => many.entry(level.into()).or_insert_with(make),
        }
    }

    fn remove(&mut self, level: &str) {
        match self {
            Self::Few(few) => {
                few.retain(|(name, _)| **name != *level);
                few.shrink_to_fit();
            }
            Self::Many(many) => {
                many.remove(level);
                if many.len() <= FEW / 2 {
                    *self = Self::Few(many.drain().collect());
                } else if many.capacity() > 4 * many.len() {
                    many.shrink_to_fit();
                }
            }
        }
    }

    /// The only child, taken out.
    fn take_only(&mut self) -> Option<(Box<str>, Box<Node>)> {
        match self {
            Self::Few(few) if few.len() == 1 => std::mem::take(few).pop(),
            _ => None,
        }
    }

    #[cfg(test)]
    fn nodes(&self) -> Vec<&Node> {
        match self {
            Self::Few(few) => few.iter().map(|(_, node)| &**node).collect(),
            Self::Many(many) => many.values().map(|node| &**node).collect(),
        }
    }
}

/// The subscriptions that end in a node, in the order of the targets.
type List = Vec<(SubscriptionTarget, Subscription)>;

/// Paths are levels with a slash before each: `/a/+/b`; none at all is an empty text.
#[derive(Debug, Default)]
struct Node {
    /// Levels after the one that leads to this node, all of which must match.
    path: Box<str>,
    /// `path` has no wildcards: it is compared as a text.
    is_literal: bool,
    children: Children,
    plus: Option<Box<Node>>,
    /// Filters that end here.
    here: List,
    /// Filters that continue with `#`.
    below: List,
}

/// The first level of a path, and the path after it; `None` at its end.
fn first_level(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix('/')?;
    Some(path.split_at(path.find('/').unwrap_or(path.len())))
}

/// How many bytes two paths have in common, in whole levels.
fn common(one: &str, other: &str) -> usize {
    let (mut left, mut right, mut length) = (one, other, 0);
    while let (Some((level, rest)), Some((other_level, other_rest))) =
        (first_level(left), first_level(right))
        && level == other_level
    {
        length += level.len() + 1;
        (left, right) = (rest, other_rest);
    }
    length
}

impl Node {
    fn with_path(path: &str) -> Box<Self> {
        let mut node = Box::<Self>::default();
        node.set_path(path.into());
        node
    }

    fn set_path(&mut self, path: Box<str>) {
        self.is_literal = !path.contains('+');
        self.path = path;
    }

    fn is_end(&self) -> bool {
        !self.here.is_empty() || !self.below.is_empty()
    }

    /// The child that a level leads to, made with `rest` as its path if needed.
    fn child_or_insert(&mut self, level: &str, rest: &str) -> &mut Self {
        let make = || Self::with_path(rest);
        if level == "+" {
            self.plus.get_or_insert_with(make)
        } else {
            self.children.get_or_insert(level, make)
        }
    }

    /// Parts the path after `length` bytes: what is behind goes into a node below.
    fn split(&mut self, length: usize) {
        let path = std::mem::take(&mut self.path);
        let (before, behind) = path.split_at_checked(length).unwrap_or((&path, ""));
        let Some((level, rest)) = first_level(behind) else {
            return self.set_path(before.into());
        };
        let mut lower = std::mem::take(self);
        lower.set_path(rest.into());
        self.set_path(before.into());
        *self.child_or_insert(level, "") = lower;
    }

    /// Becomes one with the only node below, if no filter ends here.
    fn join(&mut self) {
        if self.is_end() || self.children.len() + usize::from(self.plus.is_some()) != 1 {
            return;
        }
        let only = self
            .plus
            .take()
            .map(|node| ("+".into(), node))
            .or_else(|| self.children.take_only());
        let Some((level, lower)) = only else { return };
        let path = format!("{}/{level}{}", self.path, lower.path);
        *self = *lower;
        self.set_path(path.into());
    }

    /// The list a path ends in, made if needed.
    fn list(&mut self, path: &str, is_open: bool) -> &mut List {
        let (mut node, mut rest) = (self, path);
        while let Some((level, behind)) = first_level(rest) {
            node = node.child_or_insert(level, behind);
            let length = common(&node.path, behind);
            if length < node.path.len() {
                node.split(length);
            }
            rest = behind.get(length..).unwrap_or_default();
        }
        if is_open {
            &mut node.below
        } else {
            &mut node.here
        }
    }

    /// True if the target had the subscription. The depth is bounded by the levels of a filter.
    fn remove(&mut self, path: &str, is_open: bool, target: SubscriptionTarget) -> bool {
        let Some((level, behind)) = first_level(path) else {
            return take_out(
                if is_open {
                    &mut self.below
                } else {
                    &mut self.here
                },
                target,
            );
        };
        let child = if level == "+" {
            self.plus.as_deref_mut()
        } else {
            self.children.get_mut(level)
        };
        let Some(child) = child else { return false };
        let rest = behind
            .strip_prefix(&*child.path)
            .filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let Some(rest) = rest else { return false };
        let removed = child.remove(rest, is_open, target);
        if !removed || child.is_end() {
            return removed;
        }
        if child.children.len() == 0 && child.plus.is_none() {
            if level == "+" {
                self.plus = None;
            } else {
                self.children.remove(level);
            }
        } else {
            child.join();
        }
        removed
    }

    /// The rest of a topic after the path of this node; `None` if they do not match.
    fn after_path<'a>(&self, topic: &'a str) -> Option<&'a str> {
        if self.is_literal {
            return topic
                .strip_prefix(&*self.path)
                .filter(|rest| rest.is_empty() || rest.starts_with('/'));
        }
        let (mut path, mut topic) = (&*self.path, topic);
        while let Some((wanted, behind)) = first_level(path) {
            let (level, rest) = first_level(topic)?;
            if wanted != "+" && wanted != level {
                return None;
            }
            (path, topic) = (behind, rest);
        }
        Some(topic)
    }

    /// Adds the matches for the rest of a topic; returns how many lists gave some. The depth is
    /// bounded by the levels of a topic.
    fn collect(&self, topic: &str, found: &mut Vec<FilterMatch>) -> usize {
        let lists = take(&self.below, found);
        match first_level(topic) {
            Some((level, rest)) => lists + self.collect_below(level, rest, true, found),
            None => lists + take(&self.here, found),
        }
    }

    fn collect_below(
        &self,
        level: &str,
        rest: &str,
        wildcards: bool,
        found: &mut Vec<FilterMatch>,
    ) -> usize {
        let mut lists = 0;
        if let Some(child) = self.children.get(level)
            && let Some(rest) = child.after_path(rest)
        {
            lists += child.collect(rest, found);
        }
        if wildcards
            && let Some(plus) = &self.plus
            && let Some(rest) = plus.after_path(rest)
        {
            lists += plus.collect(rest, found);
        }
        lists
    }
}

fn take(list: &List, found: &mut Vec<FilterMatch>) -> usize {
    found.extend(list.iter().map(|(target, subscription)| FilterMatch {
        target: *target,
        qos: subscription.options.qos,
        retain_as_published: subscription.options.retain_as_published,
        no_local: subscription.options.no_local,
        identifier: subscription.identifier,
    }));
    usize::from(!list.is_empty())
}

fn take_out(list: &mut List, target: SubscriptionTarget) -> bool {
    let Ok(place) = list.binary_search_by_key(&target, |(known, _)| *known) else {
        return false;
    };
    list.remove(place);
    if list.capacity() > 4 * list.len() {
        list.shrink_to_fit();
    }
    true
}

/// The levels of a filter, none of `#` alone, and whether it ends with `#`.
fn parts(filter: &TopicFilter) -> (Option<&str>, bool) {
    let plain = filter.plain();
    match plain.strip_suffix('#') {
        Some("") => (None, true),
        Some(path) => (path.strip_suffix('/'), true),
        None => (Some(plain), false),
    }
}

/// Every filter, and who has it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    root: Node,
}

impl Tree {
    /// Adds or replaces a subscription; true if the target had none with this filter.
    pub(super) fn put(
        &mut self,
        filter: &TopicFilter,
        target: SubscriptionTarget,
        subscription: Subscription,
    ) -> bool {
        let (path, is_open) = parts(filter);
        let list = match path {
            Some(path) => self.root.list(&format!("/{path}"), is_open),
            None => &mut self.root.below,
        };
        match list.binary_search_by_key(&target, |(known, _)| *known) {
            Ok(place) => {
                if let Some((_, known)) = list.get_mut(place) {
                    *known = subscription;
                }
                false
            }
            Err(place) => {
                if list.is_empty() {
                    // Most filters have one subscriber.
                    list.reserve_exact(1);
                }
                list.insert(place, (target, subscription));
                true
            }
        }
    }

    /// True if the target had the subscription.
    pub(super) fn take_out(&mut self, filter: &TopicFilter, target: SubscriptionTarget) -> bool {
        let (path, is_open) = parts(filter);
        match path {
            Some(path) => self.root.remove(&format!("/{path}"), is_open, target),
            None => take_out(&mut self.root.below, target),
        }
    }

    /// Adds every subscription that matches `topic` to `found`; returns how many nodes gave some.
    /// Within one node no target is there twice, and they are sorted. Wildcards at the first level
    /// do not match `$` topics [MQTT-4.7.2-1].
    pub(super) fn find(&self, topic: &TopicName, found: &mut Vec<FilterMatch>) -> usize {
        let wildcards = !topic.is_reserved();
        let lists = if wildcards {
            take(&self.root.below, found)
        } else {
            0
        };
        let topic = topic.as_str();
        let (level, rest) = topic.split_at(topic.find('/').unwrap_or(topic.len()));
        lists + self.root.collect_below(level, rest, wildcards, found)
    }

    /// True without subscriptions.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        !self.root.is_end() && self.root.children.len() == 0 && self.root.plus.is_none()
    }

    /// Panics if a node is there that should not be; counts nodes and bytes of paths and levels.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) -> usize {
        fn check(node: &Node, is_root: bool) -> usize {
            let branches = node.children.len() + usize::from(node.plus.is_some());
            assert!(
                is_root || node.is_end() || branches > 1,
                "a node that only leads to another: {node:?}"
            );
            assert_eq!(
                node.is_literal || is_root,
                !node.path.contains('+') || is_root
            );
            for list in [&node.here, &node.below] {
                assert!(
                    list.is_sorted_by(|one, next| one.0 < next.0),
                    "the order of the targets"
                );
            }
            let below = node
                .children
                .nodes()
                .into_iter()
                .chain(node.plus.as_deref());
            1 + below.map(|node| check(node, false)).sum::<usize>()
        }
        check(&self.root, true)
    }
}
