//! Keys without a value, and the switch `write: true`. `none`, or nothing at all, takes away what
//! the profile of a device says; anywhere else nothing is a fault, so that no key is typed in vain.

use std::collections::HashSet;

use serde_yaml::Value;

use super::{Document, PathStep, syntax};
use crate::config::diagnostics::{Diagnostics, SourceLocation};

/// The key below which the names of what is taken away are kept; no one can mean it by accident.
pub(in crate::config) const REMOVED: &str = "(taken away)";
/// The word that takes away.
const NONE: &str = "none";
/// The key of points that takes true for all defaults, and false for `none`.
const WRITE: &str = "write";
/// Keys that a device may take away from its profile, its line and the file, beside `text:` and its
/// points.
pub(in crate::config) const OF_DEVICES: [&str; 14] = [
    "byte_order",
    "identify",
    "max_registers",
    "max_bits",
    "max_hold",
    "holes",
    "pause",
    "first_answer_within",
    "every",
    "deadband",
    "at_least_every",
    "stale_after",
    "class",
    "decimals",
];

impl Document {
    /// Moves the keys that take something away into a list of their own, and notes those that have
    /// no value and take nothing away. Returns what was taken out: the place of the mapping, and
    /// the key.
    pub(super) fn take_away(
        &mut self,
        faults: &mut Diagnostics,
    ) -> HashSet<(SourceLocation, String)> {
        let mut taken = HashSet::new();
        let mut empty: Vec<Vec<PathStep>> = Vec::new();
        walk(&mut self.value, &mut Vec::new(), &mut empty);
        for path in empty {
            let Some((PathStep::Key(key), above)) = path.split_last() else {
                continue;
            };
            taken.insert((self.place(above), key.clone()));
            let place = self.key_place(&path);
            let line = faults
                .line(place)
                .get(place.column.saturating_sub(1)..)
                .unwrap_or_default();
            let rest = line
                .trim_start_matches(|c: char| c != ':')
                .get(1..)
                .unwrap_or_default();
            let message = match syntax::comment(rest).and_then(|start| rest.get(start..)) {
                Some(comment)
                    if rest.trim_start().starts_with('#') && !comment.trim_end().contains(' ') =>
                {
                    let meant = comment.trim_end().trim_end_matches(['}', ']']);
                    format!(
                        "\"{key}\" has no value, because # begins a comment; write it in quotes: '{meant}'"
                    )
                }
                _ => format!("\"{key}\" has no value; type one, or remove the key"),
            };
            faults.at(place, message);
        }
        taken
    }
}

/// The meaning of a key that may have no value.
enum Fate {
    Kept,
    /// `write: true`.
    AllDefaults,
    /// `none`, nothing at all, or `write: false`.
    TakesAway,
    /// A fault: nothing is said.
    Empty,
}

fn fate(path: &[PathStep], key: &str, value: &Value) -> Fate {
    let is_null = value.is_null();
    let switch = value.as_bool().filter(|_| key == WRITE);
    let is_none = is_null || value.as_str() == Some(NONE);
    if (switch.is_some() || is_none) && takes_away(path, key) {
        return match switch {
            Some(true) => Fate::AllDefaults,
            _ => Fate::TakesAway,
        };
    }
    // Empty sections at the top are noted where they are used.
    if is_null && !path.is_empty() {
        Fate::Empty
    } else {
        Fate::Kept
    }
}

fn walk(value: &mut Value, path: &mut Vec<PathStep>, empty: &mut Vec<Vec<PathStep>>) {
    match value {
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                path.push(PathStep::Index(index));
                walk(item, path, empty);
                path.pop();
            }
        }
        Value::Mapping(map) => {
            let mut removed: Vec<Value> = Vec::new();
            map.retain(|key, value| {
                let Some(name) = key.as_str() else {
                    return true;
                };
                match fate(path, name, value) {
                    Fate::Kept => return true,
                    Fate::AllDefaults => {
                        *value = Value::Mapping(serde_yaml::Mapping::new());
                        return true;
                    }
                    Fate::TakesAway => removed.push(key.clone()),
                    Fate::Empty => {
                        empty.push(path.iter().cloned().chain([PathStep::from(name)]).collect());
                    }
                }
                false
            });
            for (key, value) in map.iter_mut() {
                let Some(name) = key.as_str() else { continue };
                path.push(PathStep::from(name));
                walk(value, path, empty);
                path.pop();
            }
            if !removed.is_empty() {
                map.insert(REMOVED.into(), Value::Sequence(removed));
            }
        }
        _ => {}
    }
}

/// True for a key of a place that may take something away: the text, the frame or a point of a
/// device or a profile, the pauses of a device.
fn takes_away(path: &[PathStep], key: &str) -> bool {
    let words: Vec<&str> = path
        .iter()
        .map(|step| {
            if let PathStep::Key(key) = step {
                key.as_str()
            } else {
                "*"
            }
        })
        .collect();
    let within = match words.as_slice() {
        ["devices", "*"] => return OF_DEVICES.contains(&key),
        ["devices", "*", "pause"] => return true,
        ["devices", "*", rest @ ..] | ["profiles", _, rest @ ..] => rest,
        // A file of one profile.
        rest => rest,
    };
    match within {
        ["text"] => key != "frame",
        ["text", "frame"] | ["points", _] => true,
        _ => false,
    }
}
