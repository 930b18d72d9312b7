//! Messages of instruments to values. Pure.

use std::sync::Arc;

use regex::bytes::Captures;

use super::script::Pattern;
use crate::field::decode::Meaning;
use crate::field::{Device, Source, Values};
use crate::reading::Value;

/// Where a value stands in a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// The group of this name in the device's `match`.
    Group(String),
    /// The first group of a pattern of its own.
    Find(Pattern),
    /// Bytes from here on; below zero counted from the end.
    Byte(isize),
}

/// A value in the messages of an instrument.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Where.
    pub place: Place,
    /// Only in messages with this pattern.
    pub when: Option<Pattern>,
    /// What it means.
    pub meaning: Meaning,
}

/// Bytes of a message that are changed before anything is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subtract {
    /// What is taken from each byte.
    pub value: u8,
    /// The first byte.
    pub from: usize,
    /// The first byte that stays, counted from the end, below zero.
    pub to: isize,
}

impl Subtract {
    pub(super) fn apply(self, message: &mut [u8]) {
        let end = message.len().saturating_sub(self.to.unsigned_abs());
        if let Some(bytes) = message.get_mut(self.from..end) {
            bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_sub(self.value));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| bytes.iter().map(|byte| char::from(*byte)).collect(), str::to_owned)
}

impl Found {
    /// The value in a message; `None` if this message does not bring it.
    fn value(&self, message: &[u8], captures: Option<&Captures<'_>>) -> Option<Result<Value, Arc<str>>> {
        if self.when.as_ref().is_some_and(|when| !when.0.is_match(message)) {
            return None;
        }
        match &self.place {
            Place::Group(name) => captures?.name(name).map(|found| self.meaning.decode_text(&text(found.as_bytes()))),
            Place::Find(pattern) => {
                let captures = pattern.0.captures(message)?;
                let found = captures.get(1).or_else(|| captures.get(0))?;
                Some(self.meaning.decode_text(&text(found.as_bytes())))
            }
            Place::Byte(at) => {
                let from = if *at < 0 { message.len().checked_sub(at.unsigned_abs())? } else { at.unsigned_abs() };
                let Some(bytes) = message.get(from..from + self.meaning.bytes()) else {
                    return Some(Err("the message is too short".into()));
                };
                Some(self.meaning.decode_bytes(bytes))
            }
        }
    }
}

/// The values that a message brings; empty if it is none of this device's.
pub(super) fn values(device: &Device, pattern: Option<&Pattern>, message: &[u8]) -> Values {
    let captures = match pattern {
        Some(pattern) => match pattern.0.captures(message) {
            Some(captures) => Some(captures),
            None => return Vec::new(),
        },
        None => None,
    };
    let found = device.points.iter().filter_map(|point| match &point.source {
        Source::Found(found) => Some((point.id, found.value(message, captures.as_ref())?)),
        _ => None,
    });
    found.collect()
}
