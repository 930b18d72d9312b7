//! The subscription tree: one node per topic level.

use std::collections::HashMap;

use super::SessionKey;
use crate::mqtt::{QoS, SubscribeOptions, TopicFilter, TopicName};

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    here: Vec<(SessionKey, SubscribeOptions)>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.here.is_empty()
    }
}

/// One session that is to get a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) session: SessionKey,
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
}

/// Every subscription of every session.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    root: Node,
    count: usize,
}

impl Subscriptions {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn insert(&mut self, filter: &TopicFilter, session: SessionKey, options: SubscribeOptions) {
        let mut node = &mut self.root;
        for level in filter.as_str().split('/') {
            node = node.children.entry(level.into()).or_default();
        }
        match node.here.iter_mut().find(|(key, _)| *key == session) {
            Some(entry) => entry.1 = options,
            None => {
                node.here.push((session, options));
                self.count += 1;
            }
        }
    }

    pub(super) fn remove(&mut self, filter: &TopicFilter, session: SessionKey) {
        let mut levels = filter.as_str().split('/');
        if remove_below(&mut self.root, &mut levels, session) {
            self.count -= 1;
        }
    }

    /// The sessions that get a message of `topic`, each once; `from` published it (No Local).
    pub(super) fn subscribers(&self, topic: &TopicName, from: Option<SessionKey>) -> Vec<Wanted> {
        let mut found = Vec::new();
        let levels: Vec<&str> = topic.as_str().split('/').collect();
        collect(&self.root, &levels, !topic.is_reserved(), from, &mut found);
        merge(found)
    }
}

fn remove_below<'a>(node: &mut Node, levels: &mut impl Iterator<Item = &'a str>, session: SessionKey) -> bool {
    let Some(level) = levels.next() else {
        let before = node.here.len();
        node.here.retain(|(key, _)| *key != session);
        return node.here.len() < before;
    };
    let Some(child) = node.children.get_mut(level) else { return false };
    let removed = remove_below(child, levels, session);
    if child.is_empty() {
        node.children.remove(level);
    }
    removed
}

fn take(node: &Node, from: Option<SessionKey>, found: &mut Vec<Wanted>) {
    let wanted = node.here.iter().filter(|(key, options)| !(options.no_local && from == Some(*key))); // [MQTT-3.8.3-3]
    found.extend(wanted.map(|(key, options)| Wanted { session: *key, qos: options.qos, retain_as_published: options.retain_as_published }));
}

/// `wildcards` is false at the first level of a `$` topic [MQTT-4.7.2-1]. The depth is bounded by the levels of a topic.
fn collect(node: &Node, levels: &[&str], wildcards: bool, from: Option<SessionKey>, found: &mut Vec<Wanted>) {
    if wildcards && let Some(hash) = node.children.get("#") {
        take(hash, from, found);
    }
    let Some((level, rest)) = levels.split_first() else {
        take(node, from, found);
        return;
    };
    if let Some(child) = node.children.get(*level) {
        collect(child, rest, true, from, found);
    }
    if wildcards && let Some(plus) = node.children.get("+") {
        collect(plus, rest, true, from, found);
    }
}

/// Overlapping subscriptions of one session become one copy at the highest QoS.
fn merge(mut found: Vec<Wanted>) -> Vec<Wanted> {
    if found.len() > 1 {
        found.sort_by_key(|wanted| wanted.session);
        found.dedup_by(|next, first| {
            let same = next.session == first.session;
            if same {
                first.qos = first.qos.max(next.qos);
                first.retain_as_published |= next.retain_as_published;
            }
            same
        });
    }
    found
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
                tree.insert(filter, key, SubscribeOptions::default());
            }
            for (key, filter) in filters.iter().enumerate().filter(|(key, _)| remove[*key]) {
                tree.remove(filter, key);
            }
            for name in names.iter().filter_map(|levels| TopicName::new(levels.join("/")).ok()) {
                let found: Vec<SessionKey> = tree.subscribers(&name, None).iter().map(|wanted| wanted.session).collect();
                let expected: Vec<SessionKey> = (0..filters.len()).filter(|key| !remove[*key] && filters[*key].matches(&name)).collect();
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
    fn overlapping_subscriptions_give_one_copy_at_the_highest_qos() {
        let mut tree = Subscriptions::default();
        let options = |qos| SubscribeOptions { qos, ..SubscribeOptions::default() };
        tree.insert(&TopicFilter::new("a/#").unwrap(), 1, options(QoS::AtLeastOnce));
        tree.insert(&TopicFilter::new("a/+").unwrap(), 1, options(QoS::ExactlyOnce));
        tree.insert(&TopicFilter::new("a/b").unwrap(), 1, options(QoS::AtMostOnce));
        let found = tree.subscribers(&TopicName::new("a/b").unwrap(), None);
        assert_eq!(found, [Wanted { session: 1, qos: QoS::ExactlyOnce, retain_as_published: false }]);
    }
}
