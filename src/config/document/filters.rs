//! Rules of uplinks with a list of filters: one rule for each, with the place of its filter.

use serde_yaml::Value;

use super::{Children, Document, Node, PathStep};

const FILTER: &str = "filter";

impl Document {
    /// Makes several rules of one whose filter is a list. An empty list is left to the types.
    pub(in crate::config) fn expand_filters(&mut self) {
        let (Some(Value::Sequence(uplinks)), Some(node)) = (
            self.value.get_mut("uplinks"),
            self.places.child_mut(&PathStep::from("uplinks")),
        ) else {
            return;
        };
        let Children::Seq(nodes) = &mut node.children else {
            return;
        };
        for (uplink, node) in uplinks.iter_mut().zip(nodes) {
            for list in ["send", "receive"] {
                let (Some(Value::Sequence(rules)), Some(node)) =
                    (uplink.get_mut(list), node.child_mut(&PathStep::from(list)))
                else {
                    continue;
                };
                if let Children::Seq(nodes) = &mut node.children {
                    expand(rules, nodes);
                }
            }
        }
        self.settle();
    }
}

fn expand(rules: &mut Vec<Value>, nodes: &mut Vec<Node>) {
    let (mut all, mut places) = (Vec::new(), Vec::new());
    for (rule, node) in std::mem::take(rules).into_iter().zip(std::mem::take(nodes)) {
        let filters = rule
            .get(FILTER)
            .and_then(Value::as_sequence)
            .cloned()
            .unwrap_or_default();
        let filter_nodes = match node
            .child(&PathStep::from(FILTER))
            .map(|node| &node.children)
        {
            Some(Children::Seq(nodes)) => nodes.clone(),
            _ => Vec::new(),
        };
        if filters.is_empty() || filters.len() != filter_nodes.len() {
            all.push(rule);
            places.push(node);
            continue;
        }
        for (filter, filter_node) in filters.into_iter().zip(filter_nodes) {
            let (mut one, mut place) = (rule.clone(), node.clone());
            if let Some(map) = one.as_mapping_mut() {
                map.insert(FILTER.into(), filter);
            }
            if let Children::Map(keys) = &mut place.children {
                keys.insert(FILTER.to_owned(), filter_node);
            }
            all.push(one);
            places.push(place);
        }
    }
    (*rules, *nodes) = (all, places);
}
