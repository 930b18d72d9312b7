//! What is changed in a document before it is typed: names of older versions, references.

use serde_yaml::Value;

use super::{Children, Document, Node, Step};
use crate::config::fault::{Faults, Place, START};

/// Sections whose entries have names.
const NAMED: [&str; 2] = ["profiles", "classes"];

impl Document {
    /// Gives a key another name wherever it stands `below` a path, in which `*` stands for anything. Returns the places of the keys;
    /// where the new name stands already nothing is changed.
    pub(in crate::config) fn rename(&mut self, below: &[&str], was: &str, is: &str) -> Vec<Place> {
        let mut places = Vec::new();
        rename_below(
            &mut self.value,
            &mut self.places,
            below,
            (was, is),
            &mut places,
        );
        if !places.is_empty() {
            self.original = self.value.clone();
        }
        places
    }

    /// The texts of a key at the top: one, or those of a list. Something else that stands there is left to the types.
    pub(in crate::config) fn texts_at(&self, key: &str) -> Vec<String> {
        match self.value.get(key) {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Sequence(items)) => items
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Takes over what another part of the file says: lists are continued, profiles and classes added, everything else must be new. `settle` ends it.
    pub(in crate::config) fn absorb(&mut self, other: Self, faults: &mut Faults) {
        let (Value::Mapping(own), Value::Mapping(theirs)) = (&mut self.value, other.value) else {
            faults.at(
                other.places.place,
                "a part of a file is a mapping; begin with a key such as `devices:`".to_owned(),
            );
            return;
        };
        let (Children::Map(own_nodes), Children::Map(their_nodes)) =
            (&mut self.places.children, other.places.children)
        else {
            return;
        };
        for (name, node) in their_nodes {
            // Each part was brought to the newest version by itself.
            let Some(value) = theirs
                .get(name.as_str())
                .filter(|_| name != "version")
                .cloned()
            else {
                continue;
            };
            let Some((own_value, own_node)) =
                own.get_mut(name.as_str()).zip(own_nodes.get_mut(&name))
            else {
                own.insert(name.as_str().into(), value);
                own_nodes.insert(name, node);
                continue;
            };
            match (own_value, value, &mut own_node.children, node.children) {
                (
                    Value::Sequence(items),
                    Value::Sequence(more),
                    Children::Seq(nodes),
                    Children::Seq(more_nodes),
                ) => {
                    items.extend(more);
                    nodes.extend(more_nodes);
                }
                (
                    Value::Mapping(entries),
                    Value::Mapping(more),
                    Children::Map(nodes),
                    Children::Map(more_nodes),
                ) if NAMED.contains(&name.as_str()) => {
                    for (entry, node) in more_nodes {
                        if entries.contains_key(entry.as_str()) {
                            faults.at(
                                node.key_place,
                                format!(
                                    "\"{entry}\" is in another part of the file already; remove one"
                                ),
                            );
                        } else if let Some(value) = more.get(entry.as_str()) {
                            entries.insert(entry.as_str().into(), value.clone());
                            nodes.insert(entry, node);
                        }
                    }
                }
                _ => faults.at(
                    node.key_place,
                    format!("`{name}` is in another part of the file already; remove one"),
                ),
            }
        }
    }

    /// What the document says from here on counts as given; after parts were absorbed.
    pub(in crate::config) fn settle(&mut self) {
        self.original = self.value.clone();
    }

    /// What stands below keys for passwords, whatever it is.
    pub(in crate::config) fn secrets(&self) -> Vec<String> {
        let mut found = Vec::new();
        secrets_below(&self.value, false, &mut found);
        found
    }

    /// Replaces texts for which `change` returns another one.
    pub(in crate::config) fn change_texts(
        &mut self,
        mut change: impl FnMut(&str, Place) -> Option<String>,
    ) {
        change_texts(&mut self.value, Some(&self.places), &mut change);
    }
}

fn rename_below(
    value: &mut Value,
    node: &mut Node,
    below: &[&str],
    (was, is): (&str, &str),
    places: &mut Vec<Place>,
) {
    let Some((step, rest)) = below.split_first() else {
        let (Value::Mapping(map), Children::Map(entries)) = (value, &mut node.children) else {
            return;
        };
        let Some(node) = entries.get(was).filter(|_| !map.contains_key(is)).cloned() else {
            return;
        };
        if let Some(moved) = map.remove(was) {
            map.insert(is.into(), moved);
            places.push(node.key_place);
            entries.swap_remove(was);
            entries.insert(is.to_owned(), node);
        }
        return;
    };
    match (value, &mut node.children) {
        (Value::Mapping(map), Children::Map(entries)) => {
            for (name, node) in entries
                .iter_mut()
                .filter(|(name, _)| *step == "*" || name.as_str() == *step)
            {
                if let Some(value) = map.get_mut(name.as_str()) {
                    rename_below(value, node, rest, (was, is), places);
                }
            }
        }
        (Value::Sequence(items), Children::Seq(nodes)) if *step == "*" => {
            for (value, node) in items.iter_mut().zip(nodes) {
                rename_below(value, node, rest, (was, is), places);
            }
        }
        _ => {}
    }
}

fn secrets_below(value: &Value, is_secret: bool, found: &mut Vec<String>) {
    match value {
        Value::String(text) if is_secret => found.push(text.clone()),
        Value::Number(number) if is_secret => found.push(number.to_string()),
        Value::Sequence(items) => items
            .iter()
            .for_each(|item| secrets_below(item, is_secret, found)),
        Value::Mapping(map) => map.iter().for_each(|(key, value)| {
            let is_key = key
                .as_str()
                .is_some_and(|key| ["password", "scram"].contains(&key));
            secrets_below(value, is_secret || is_key, found);
        }),
        _ => {}
    }
}

fn change_texts(
    value: &mut Value,
    node: Option<&Node>,
    change: &mut impl FnMut(&str, Place) -> Option<String>,
) {
    let place = node.map_or(START, |node| node.place);
    match value {
        Value::String(text) => {
            if let Some(changed) = change(text, place) {
                *text = changed;
            }
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                change_texts(
                    item,
                    node.and_then(|node| node.child(&Step::Index(index))),
                    change,
                );
            }
        }
        Value::Mapping(map) => {
            for (key, item) in map.iter_mut() {
                let below = key
                    .as_str()
                    .and_then(|key| node.and_then(|node| node.child(&Step::from(key))));
                change_texts(item, below, change);
            }
        }
        _ => {}
    }
}
