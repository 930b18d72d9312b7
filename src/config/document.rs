//! A YAML document with the place of every node, read into types with all faults at once.
//!
//! serde_yaml parses and types; it knows no positions and stops at the first fault. So the
//! structure is read once more for the positions, and typing is repeated: each fault is noted, the
//! node that caused it is taken out, and the rest is tried again.

mod change;
mod filters;
mod lenient;
mod nodes;
pub(super) mod removed;
mod syntax;
pub mod table;
mod users;

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};
use serde_yaml::Value;

use super::diagnostics::{Diagnostics, SourceLocation};
use super::suggestion::suggestion;
use super::{other_tools, schema};
use lenient::Lenient;
use nodes::{Builder, Children, Node};

/// Faults of one file that are looked for; a file with more is not one of ours.
const MAX_FAULTS: usize = 100;
/// After each fault the rest is read again: of a large file fewer faults are looked for, so that
/// they take no longer than those of a small one.
const MOST_READ: usize = 4_000_000;
const LEAST_FAULTS: usize = 10;
/// Settings that are planned: not known, but not a slip of the pen either.
const NOT_YET: [&str; 1] = ["budget"];

/// The key of points.
const POINTS: &str = "points";
/// Lists of mappings: at the top, and inside others.
const LISTS: [&str; 6] = ["lines", "devices", "uplinks", "users", "send", "receive"];
const LISTS_INSIDE: [&str; 3] = ["users", "send", "receive"];

/// A step from a node to one below it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum PathStep {
    Key(String),
    Index(usize),
}

impl From<&str> for PathStep {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<&String> for PathStep {
    fn from(key: &String) -> Self {
        Self::Key(key.clone())
    }
}

impl From<usize> for PathStep {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// A parsed file.
#[derive(Debug)]
pub(super) struct Document {
    value: Value,
    places: Node,
    /// The file before anything was taken out: names that are in it count as given.
    original: Value,
}

impl Document {
    /// Parses YAML. Syntax faults and keys that are used twice are noted.
    pub(super) fn parse(text: &str, faults: &mut Diagnostics) -> Option<Self> {
        Self::parse_file(0, text, faults)
    }

    /// The same for a file that has a number.
    pub(super) fn parse_file(number: usize, text: &str, faults: &mut Diagnostics) -> Option<Self> {
        let places = Builder::build(number, text, faults)?;
        let mut value: Value = match serde_yaml::from_str(text) {
            Ok(Lenient(value)) => value,
            Err(error) => {
                let place = error
                    .location()
                    .map_or(SourceLocation::start_of(number), |at| {
                        SourceLocation::new(number, at.line(), at.column())
                    });
                let second = text
                    .lines()
                    .enumerate()
                    .skip(1)
                    .find(|(_, line)| line.starts_with("---"))
                    .map(|(index, _)| index + 1);
                match second.filter(|_| error.to_string().contains("more than one document")) {
                    Some(line) => faults.at(
                        SourceLocation::new(number, line, 1),
                        "a file is one document; remove `---` and what follows".to_owned(),
                    ),
                    None if faults.is_empty() => faults.at(place, format!("not YAML: {error}")),
                    None => {}
                }
                return None;
            }
        };
        if let Err(error) = value.apply_merge() {
            faults.at(
                SourceLocation::start_of(number),
                format!("`<<` does not name a mapping: {error}"),
            );
        }
        if value.is_null() {
            return None;
        }
        Some(Self {
            original: value.clone(),
            value,
            places,
        })
    }

    /// The document as `T`; every fault on the way is noted. `None` if not even the rest makes a
    /// `T`.
    pub(super) fn typed<T: DeserializeOwned>(&mut self, faults: &mut Diagnostics) -> Option<T> {
        let mut removed = self.take_away(faults);
        let most_faults = (MOST_READ / self.places.size()).clamp(LEAST_FAULTS, MAX_FAULTS);
        for _ in 0..most_faults {
            let error = match serde_path_to_error::deserialize(self.value.clone()) {
                Ok(typed) => return Some(typed),
                Err(error) => error,
            };
            let path = self.note(&error, &removed, faults);
            if let Some((PathStep::Key(key), parent)) = path.split_last() {
                removed.insert((self.place(parent), key.clone()));
            }
            if path.is_empty() || !self.remove(&path) {
                return None;
            }
        }
        faults.at(
            SourceLocation::start_of(self.places.place.file),
            format!("more than {most_faults} faults; correct these first"),
        );
        None
    }

    /// Notes a fault of serde; returns the path of the node that caused it. `removed` are keys that
    /// were taken out before.
    fn note(
        &self,
        error: &serde_path_to_error::Error<serde_yaml::Error>,
        removed: &HashSet<(SourceLocation, String)>,
        faults: &mut Diagnostics,
    ) -> Vec<PathStep> {
        let mut path = steps(error.path());
        let message = error.inner().to_string();
        let place = self.place(&path);
        if let Some(unknown) = quoted(&message, "unknown field `") {
            if path.last() != Some(&PathStep::Key(unknown.to_owned())) {
                path.push(PathStep::Key(unknown.to_owned()));
            }
            faults.at(self.key_place(&path), unknown_key(unknown, &message));
        } else if let Some(missing) = quoted(&message, "missing field `") {
            // A key that was taken out for a fault of its own is not missing.
            if !removed.contains(&(place, missing.to_owned())) {
                faults.at(
                    place,
                    format!("\"{missing}\" is missing; add `{missing}: ...` here"),
                );
            }
        } else {
            let why = self.misfit(&path).unwrap_or_else(|| readable(&message));
            faults.at(place, why);
        }
        path
    }

    /// The message for a mapping in the wrong place: instead of a list, or one level too high.
    fn misfit(&self, path: &[PathStep]) -> Option<String> {
        let value = path
            .iter()
            .try_fold(&self.value, |value, step| match step {
                PathStep::Key(key) => value.get(key.as_str()),
                PathStep::Index(index) => value.get(*index),
            })?;
        let (PathStep::Key(key), above) = path.split_last()? else {
            return None;
        };
        let is_point = matches!(above.last(), Some(PathStep::Key(above)) if above == POINTS);
        if is_point && !value.is_mapping() && schema::is_key_of_a_point(key) {
            return Some(format!(
                "`{key}` belongs to a point; indent it below the name of its point"
            ));
        }
        if key == "units"
            && matches!(above, [.., PathStep::Key(above), PathStep::Key(_)] if above == POINTS)
            && value.is_string()
        {
            return Some(
                "`units` is a table of units and factors; for the unit of the value write `unit:`"
                    .to_owned(),
            );
        }
        if key == "write"
            && matches!(above, [.., PathStep::Key(above), PathStep::Key(_)] if above == POINTS)
            && !value.is_mapping()
        {
            return Some(
                "write `true` here, or what may be written: { min: 0, max: 50 }".to_owned(),
            );
        }
        let is_list = LISTS.contains(&key.as_str())
            && (above.is_empty() || LISTS_INSIDE.contains(&key.as_str()));
        match value.as_mapping() {
            Some(map) if is_list && map.is_empty() => Some(format!(
                "`{key}` is a list; write `{key}: []` for none, or remove it"
            )),
            Some(_) if is_list => Some(format!(
                "`{key}` is a list; put `- ` before the first key of each of its items"
            )),
            _ => None,
        }
    }

    /// The place of a node, or of the nearest one above it.
    pub(super) fn place(&self, path: &[PathStep]) -> SourceLocation {
        self.nearest(path).place
    }

    /// Where a node begins and ends.
    pub(super) fn extent(&self, path: &[PathStep]) -> (SourceLocation, SourceLocation) {
        let node = self.nearest(path);
        (node.place, node.end)
    }

    /// True if this key is at the top with nothing below it.
    pub(super) fn is_empty(&self, key: &str) -> bool {
        self.original.get(key).is_some_and(Value::is_null)
    }

    /// True if the file has this key at its top, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.original.get(key).is_some()
    }

    /// True if a section has a key, with any value.
    pub(super) fn has_in(&self, section: &str, key: &str) -> bool {
        self.original
            .get(section)
            .and_then(|section| section.get(key))
            .is_some()
    }

    /// True if a node was typed.
    pub(super) fn has_at(&self, path: &[PathStep]) -> bool {
        path.iter()
            .try_fold(&self.places, |node, step| node.child(step))
            .is_some()
    }

    /// The place of the key of a node.
    pub(super) fn key_place(&self, path: &[PathStep]) -> SourceLocation {
        self.nearest(path).key_place
    }

    /// A whole number at the top, with its place; any other value is left to the types.
    pub(super) fn number_at_top(&self, key: &str) -> Option<(u64, SourceLocation)> {
        let number = self.value.get(key)?.as_u64()?;
        Some((number, self.place(&[PathStep::from(key)])))
    }

    fn nearest(&self, path: &[PathStep]) -> &Node {
        let mut node = &self.places;
        for step in path {
            match node.child(step) {
                Some(child) => node = child,
                None => break,
            }
        }
        node
    }

    /// The values of `key` in every item of the list `list`, faulty items included.
    pub(super) fn names(&self, list: &str, key: &str) -> Vec<String> {
        let items = self.original.get(list).and_then(Value::as_sequence);
        items
            .into_iter()
            .flatten()
            .filter_map(|item| item.get(key)?.as_str().map(str::to_owned))
            .collect()
    }

    /// The keys of the mapping `key`, faulty ones included.
    pub(super) fn keys(&self, key: &str) -> Vec<String> {
        let entries = self.original.get(key).and_then(Value::as_mapping);
        entries
            .into_iter()
            .flatten()
            .filter_map(|(key, _)| key.as_str().map(str::to_owned))
            .collect()
    }

    fn remove(&mut self, path: &[PathStep]) -> bool {
        let Some((last, above)) = path.split_last() else {
            return false;
        };
        let mut value = &mut self.value;
        let mut node = Some(&mut self.places);
        for step in above {
            let next = match step {
                PathStep::Key(key) => value.get_mut(key.as_str()),
                PathStep::Index(index) => value.get_mut(*index),
            };
            let Some(next) = next else { return false };
            value = next;
            node = node.and_then(|node| node.child_mut(step));
        }
        if let Some(node) = node {
            match (&mut node.children, last) {
                (Children::Map(entries), PathStep::Key(key)) => drop(entries.shift_remove(key)),
                (Children::Seq(items), PathStep::Index(index)) if *index < items.len() => {
                    drop(items.remove(*index));
                }
                _ => {}
            }
        }
        match (value, last) {
            (Value::Mapping(map), PathStep::Key(key)) => remove_key(map, key),
            (Value::Sequence(items), PathStep::Index(index)) if *index < items.len() => {
                items.remove(*index);
                true
            }
            _ => false,
        }
    }
}

/// Keys may be numbers in the file and texts in a path.
fn remove_key(map: &mut serde_yaml::Mapping, key: &str) -> bool {
    let found = map.keys().find(|candidate| match candidate {
        Value::String(text) => text == key,
        Value::Number(number) => number.to_string() == key,
        Value::Bool(truth) => truth.to_string() == key,
        _ => false,
    });
    let found = found.cloned();
    found.is_some_and(|key| map.remove(&key).is_some())
}

fn steps(path: &Path) -> Vec<PathStep> {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(PathStep::Index(*index)),
            Segment::Map { key } => Some(PathStep::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// The word between `before` and the next backtick.
fn quoted<'a>(message: &'a str, before: &str) -> Option<&'a str> {
    message.strip_prefix(before)?.split('`').next()
}

fn unknown_key(key: &str, message: &str) -> String {
    if NOT_YET.contains(&key) {
        return format!("\"{key}\" is not in this version; remove it");
    }
    let known: Vec<&str> = message
        .split('`')
        .skip(3)
        .step_by(2)
        .filter(|known| *known != removed::REMOVED)
        .collect();
    let hint = other_tools::meant(key, &known).unwrap_or_else(|| suggestion(key, known));
    format!("\"{key}\" is not a setting here; {hint}")
}

/// serde's words for people who have never heard of serde.
fn readable(message: &str) -> String {
    if let Some(typed) = quoted(message, "unknown variant `") {
        let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
        return format!(
            "\"{typed}\" is not possible here; {}",
            suggestion(typed, known)
        );
    }
    if let Some((_, length)) = message.split_once("expected an array of length ") {
        return format!("type a list of {length}: [ ... ]");
    }
    let plain = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "));
    match plain.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((found, expected)) => {
            let expected = match expected {
                "u8" => "a whole number from 0 to 255",
                "u16" => "a whole number from 0 to 65535",
                "u32" | "u64" | "usize" => "a whole number",
                "f64" => "a number",
                "a string" | "path string" => "text, in quotes if it is a number: '7'",
                "i64" => "a whole number",
                "a boolean" => "true or false",
                "a Value::Tagged enum" => "one of the words that gateway.yaml names for it",
                "a sequence" => "a list: [ ... ]",
                "field identifier" => "keys of letters; a decimal comma is a point here: 0.1",
                "a map" => "a mapping: { key: value }",
                other if other.starts_with("struct") => "a mapping: { key: value }",
                other => other,
            };
            match found.split('"').nth(1).and_then(without_zeros) {
                Some(number) if expected.contains("number") => {
                    format!(
                        "{found} is not possible here: a leading zero makes it text; type {number}"
                    )
                }
                _ => format!("{found} is not possible here; type {expected}"),
            }
        }
        None => message.to_owned(),
    }
}

/// The number in digits that begin with a zero.
fn without_zeros(text: &str) -> Option<u64> {
    text.strip_prefix('0')
        .filter(|rest| !rest.is_empty())
        .and_then(|_| text.parse().ok())
}
