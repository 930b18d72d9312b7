//! What is changed in a document before it is typed: names of older versions, references.

use serde_yaml::Value;

use super::{Children, Document, Node, Step};
use crate::config::fault::Place;

impl Document {
    /// Gives a key another name wherever it stands `below` a path, in which `*` stands for anything. Returns the places of the keys;
    /// where the new name stands already nothing is changed.
    pub(in crate::config) fn rename(&mut self, below: &[&str], was: &str, is: &str) -> Vec<Place> {
        let mut places = Vec::new();
        rename_below(&mut self.value, &mut self.places, below, (was, is), &mut places);
        if !places.is_empty() {
            self.original = self.value.clone();
        }
        places
    }

    /// Replaces texts for which `change` returns another one.
    pub(in crate::config) fn change_texts(&mut self, mut change: impl FnMut(&str, Place) -> Option<String>) {
        change_texts(&mut self.value, Some(&self.places), &mut change);
    }
}

fn rename_below(value: &mut Value, node: &mut Node, below: &[&str], (was, is): (&str, &str), places: &mut Vec<Place>) {
    let Some((step, rest)) = below.split_first() else {
        let (Value::Mapping(map), Children::Map(entries)) = (value, &mut node.children) else { return };
        let Some(entry) = entries.iter_mut().find(|(name, _)| name == was).filter(|_| !map.contains_key(is)) else { return };
        if let Some(moved) = map.remove(was) {
            map.insert(is.into(), moved);
            is.clone_into(&mut entry.0);
            places.push(entry.1.key_place);
        }
        return;
    };
    match (value, &mut node.children) {
        (Value::Mapping(map), Children::Map(entries)) => {
            for (name, node) in entries.iter_mut().filter(|(name, _)| *step == "*" || name == step) {
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

fn change_texts(value: &mut Value, node: Option<&Node>, change: &mut impl FnMut(&str, Place) -> Option<String>) {
    let place = node.map_or((1, 1), |node| node.place);
    match value {
        Value::String(text) => {
            if let Some(changed) = change(text, place) {
                *text = changed;
            }
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                change_texts(item, node.and_then(|node| node.child(&Step::Index(index))), change);
            }
        }
        Value::Mapping(map) => {
            for (key, item) in map.iter_mut() {
                let below = key.as_str().and_then(|key| node.and_then(|node| node.child(&Step::from(key))));
                change_texts(item, below, change);
            }
        }
        _ => {}
    }
}
