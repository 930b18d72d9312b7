//! Changes to a document before it is typed: names of older versions, parts, references.

use serde_yaml::Value;

use super::{Children, Document, Node, PathStep};
use crate::config::diagnostics::{Diagnostics, START, SourceLocation};

/// Sections whose entries have names.
const NAMED: [&str; 2] = ["profiles", "classes"];

impl Document {
    /// Renames a key everywhere `below` a path, in which `*` matches anything. Returns the places
    /// of the keys; a mapping that has the new name already is not changed.
    pub(in crate::config) fn rename(
        &mut self,
        below: &[&str],
        was: &str,
        is: &str,
    ) -> Vec<SourceLocation> {
        let renaming = Renaming { was, is };
        let mut places = Vec::new();
        renaming.apply(&mut self.value, &mut self.places, below, &mut places);
        if !places.is_empty() {
            self.original = self.value.clone();
        }
        places
    }

    /// The texts of a key at the top: one, or those of a list. Any other value is left to the
    /// types.
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

    /// Takes over another part of the file: lists are continued, profiles and classes added,
    /// everything else must be new. `settle` ends it.
    pub(in crate::config) fn absorb(&mut self, other: Self, faults: &mut Diagnostics) {
        let (Value::Mapping(own), Value::Mapping(mut theirs)) = (&mut self.value, other.value)
        else {
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
            let Some(value) = theirs.remove(name.as_str()).filter(|_| name != "version") else {
                continue;
            };
            let known = own.get_mut(name.as_str()).zip(own_nodes.get_mut(&name));
            match known {
                Some((own_value, own_node)) => {
                    let section = Section {
                        name: &name,
                        value: own_value,
                        node: own_node,
                    };
                    section.extend(value, node, faults);
                }
                None => {
                    own.insert(name.as_str().into(), value);
                    own_nodes.insert(name, node);
                }
            }
        }
    }

    /// The present content counts as given; after parts were absorbed.
    pub(in crate::config) fn settle(&mut self) {
        self.original = self.value.clone();
    }

    /// All values below keys for passwords.
    pub(in crate::config) fn secrets(&self) -> Vec<String> {
        let mut found = Vec::new();
        secrets_below(&self.value, false, &mut found);
        found
    }

    /// Replaces texts for which `change` returns another one.
    pub(in crate::config) fn change_texts(
        &mut self,
        mut change: impl FnMut(&str, SourceLocation) -> Option<String>,
    ) {
        change_texts(&mut self.value, Some(&self.places), &mut change);
    }
}

/// A section of the file that another part continues.
struct Section<'a> {
    name: &'a str,
    value: &'a mut Value,
    node: &'a mut Node,
}

impl Section<'_> {
    fn extend(self, value: Value, node: Node, faults: &mut Diagnostics) {
        match (self.value, value, &mut self.node.children, node.children) {
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
                Value::Mapping(mut more),
                Children::Map(nodes),
                Children::Map(more_nodes),
            ) if NAMED.contains(&self.name) => {
                for (entry, node) in more_nodes {
                    if entries.contains_key(entry.as_str()) {
                        faults.at(node.key_place, twice(&format!("\"{entry}\"")));
                    } else if let Some(value) = more.remove(entry.as_str()) {
                        entries.insert(entry.as_str().into(), value);
                        nodes.insert(entry, node);
                    }
                }
            }
            _ => faults.at(node.key_place, twice(&format!("`{}`", self.name))),
        }
    }
}

fn twice(what: &str) -> String {
    format!("{what} is in another part of the file already; remove one")
}

/// A key with another name.
struct Renaming<'a> {
    was: &'a str,
    is: &'a str,
}

impl Renaming<'_> {
    /// Renames the key everywhere `below` a node; adds the places of the keys.
    fn apply(
        &self,
        value: &mut Value,
        node: &mut Node,
        below: &[&str],
        places: &mut Vec<SourceLocation>,
    ) {
        let Some((step, rest)) = below.split_first() else {
            places.extend(self.rename(value, node));
            return;
        };
        match (value, &mut node.children) {
            (Value::Mapping(map), Children::Map(entries)) => {
                for (name, node) in entries {
                    if (*step == "*" || name == step)
                        && let Some(value) = map.get_mut(name.as_str())
                    {
                        self.apply(value, node, rest, places);
                    }
                }
            }
            (Value::Sequence(items), Children::Seq(nodes)) if *step == "*" => {
                for (value, node) in items.iter_mut().zip(nodes) {
                    self.apply(value, node, rest, places);
                }
            }
            _ => {}
        }
    }

    /// Renames the key in a mapping, unless the new name is there already; returns the place of the
    /// key.
    fn rename(&self, value: &mut Value, node: &mut Node) -> Option<SourceLocation> {
        let (Value::Mapping(map), Children::Map(entries)) = (value, &mut node.children) else {
            return None;
        };
        let node = entries.get(self.was).cloned()?;
        if map.contains_key(self.is) {
            return None;
        }
        let moved = map.remove(self.was)?;
        map.insert(self.is.into(), moved);
        entries.swap_remove(self.was);
        let place = node.key_place;
        entries.insert(self.is.to_owned(), node);
        Some(place)
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
    change: &mut impl FnMut(&str, SourceLocation) -> Option<String>,
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
                    node.and_then(|node| node.child(&PathStep::Index(index))),
                    change,
                );
            }
        }
        Value::Mapping(map) => {
            for (key, item) in map.iter_mut() {
                let below = key
                    .as_str()
                    .and_then(|key| node.and_then(|node| node.child(&PathStep::from(key))));
                change_texts(item, below, change);
            }
        }
        _ => {}
    }
}
