//! Users that are in a file of their own, put into the document.

use indexmap::IndexMap;
use serde_yaml::{Mapping, Value};

use super::{Children, Document, Node, PathStep};
use crate::config::diagnostics::{Diagnostics, SourceLocation};

impl Document {
    /// The text of a node; any other value is left to the types.
    pub(in crate::config) fn text_at(&self, path: &[PathStep]) -> Option<String> {
        let found = path.iter().try_fold(&self.value, |value, step| match step {
            PathStep::Key(key) => value.get(key.as_str()),
            PathStep::Index(index) => value.get(*index),
        });
        found?.as_str().map(str::to_owned)
    }

    /// Makes the value of a key, if it is the only one, the whole document.
    pub(in crate::config) fn unwrap_key(&mut self, key: &str) {
        let (Some(map), Children::Map(nodes)) =
            (self.value.as_mapping_mut(), &mut self.places.children)
        else {
            return;
        };
        if map.len() != 1 {
            return;
        }
        if let (Some(value), Some(node)) = (map.remove(key), nodes.swap_remove(key)) {
            (self.value, self.places) = (value, node);
        }
    }

    /// Adds the users of a list.
    pub(in crate::config) fn add_users(&mut self, other: Self, faults: &mut Diagnostics) {
        let (Value::Sequence(users), Children::Seq(nodes)) = (other.value, other.places.children)
        else {
            faults.at(
                other.places.place,
                "a file of users is a list; write `- name: ...` for each".to_owned(),
            );
            return;
        };
        self.add(users, nodes);
    }

    /// Adds users of whom name, hash and place are known.
    pub(in crate::config) fn add_named_users(
        &mut self,
        users: Vec<(String, String, SourceLocation)>,
    ) {
        let node = |place: SourceLocation, children: Children| Node {
            key_place: place,
            place,
            end: place,
            children,
        };
        let (mut values, mut nodes) = (Vec::new(), Vec::new());
        for (name, hash, place) in users {
            let keys =
                ["name", "password"].map(|key| (key.to_owned(), node(place, Children::None)));
            nodes.push(node(place, Children::Map(IndexMap::from(keys))));
            let mut user = Mapping::new();
            user.insert("name".into(), name.into());
            user.insert("password".into(), hash.into());
            values.push(Value::Mapping(user));
        }
        self.add(values, nodes);
    }

    fn add(&mut self, users: Vec<Value>, nodes: Vec<Node>) {
        let Some(broker) = self.value.get_mut("broker").and_then(Value::as_mapping_mut) else {
            return;
        };
        let Some(Node {
            children: Children::Map(keys),
            place,
            ..
        }) = self.places.child_mut(&PathStep::from("broker"))
        else {
            return;
        };
        let place = *place;
        let list = broker
            .entry("users".into())
            .or_insert_with(|| Value::Sequence(Vec::new()));
        let empty = || Node {
            key_place: place,
            place,
            end: place,
            children: Children::Seq(Vec::new()),
        };
        let node = keys.entry("users".to_owned()).or_insert_with(empty);
        // Something else than a list is left to the types.
        if let (Value::Sequence(list), Children::Seq(known)) = (list, &mut node.children) {
            list.extend(users);
            known.extend(nodes);
        }
        self.settle();
    }
}
