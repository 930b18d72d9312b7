//! The message that a condition is about.

use std::sync::OnceLock;

use serde_json::Value as Json;

use super::operand::Operand;
use crate::message::{GatewayMessage, Message};
use crate::payload::Payload;
use crate::reading::{Reading, Value, seven_digits};
use crate::time::rfc3339;

/// A payload of more bytes is not looked into: it has no members.
pub(super) const MOST_BYTES: usize = 64 * 1024;

/// A message, or a reading on its way.
#[derive(Debug)]
pub struct Subject<'a> {
    message: &'a Message,
    /// In place of the payload.
    reading: Option<&'a Reading>,
    /// The payload, once a condition has asked for it.
    json: OnceLock<Option<Json>>,
}

impl<'a> Subject<'a> {
    /// A message with its payload.
    pub fn of(message: &'a Message) -> Self {
        Self {
            message,
            reading: None,
            json: OnceLock::new(),
        }
    }

    /// A reading; `message` says how it is published, and has no payload.
    pub fn of_reading(message: &'a Message, reading: &'a Reading) -> Self {
        Self {
            reading: Some(reading),
            ..Self::of(message)
        }
    }

    /// A message of the gateway itself.
    pub fn of_gateway(message: &'a GatewayMessage) -> Self {
        match message {
            GatewayMessage::Message(message) => Self::of(message),
            GatewayMessage::Reading(reading) => Self::of_reading(reading.head(), &reading.reading),
        }
    }

    /// The message, or what a reading is published with.
    pub fn message(&self) -> &'a Message {
        self.message
    }

    /// What a receiver gets.
    pub fn payload(&self) -> Payload {
        match self.reading {
            Some(reading) => Payload::Reading(Box::new(reading.clone())),
            None => self.message.payload.clone().into(),
        }
    }

    /// The value of a name in a condition.
    pub(super) fn value(&self, name: &str) -> Operand {
        let properties = &self.message.properties;
        if let Some(user) = name.strip_prefix("user.") {
            let found = properties.user.iter().find(|(known, _)| **known == *user);
            return found.map_or(Operand::Unknown, |(_, value)| text(value));
        }
        match name {
            "topic" => text(self.message.topic.as_str()),
            "content_type" => properties
                .content_type
                .as_deref()
                .map_or(Operand::Unknown, text),
            _ => match (self.content(name), name.strip_prefix("payload.")) {
                (Operand::Unknown, Some(member)) => self.content(member),
                (content, _) => content,
            },
        }
    }

    fn content(&self, name: &str) -> Operand {
        match self.reading {
            Some(reading) => of_reading(reading, name),
            None => self
                .json
                .get_or_init(|| parse(&self.message.payload))
                .as_ref()
                .map_or(Operand::Unknown, |payload| of_json(payload, name)),
        }
    }
}

fn text(text: &str) -> Operand {
    Operand::Text(text.into())
}

/// A payload as JSON. What is text and no JSON is that text; JSON with a fault is nothing.
fn parse(payload: &[u8]) -> Option<Json> {
    if payload.is_empty() || payload.len() > MOST_BYTES {
        return None;
    }
    if let Ok(json) = serde_json::from_slice(payload) {
        return Some(json);
    }
    let text = std::str::from_utf8(payload).ok()?;
    let is_meant_as_json = text.trim_start().starts_with(['{', '[']);
    (!is_meant_as_json).then(|| Json::String(text.to_owned()))
}

fn of_json(payload: &Json, name: &str) -> Operand {
    let is_bare = !payload.is_object() && !payload.is_array();
    if is_bare {
        return if name == "v" {
            operand(payload)
        } else {
            Operand::Unknown
        };
    }
    // A name with dots may be one member, too.
    if let Some(member) = payload.get(name) {
        return operand(member);
    }
    let found = name
        .split('.')
        .try_fold(payload, |inner, level| match inner {
            Json::Array(list) => list.get(level.parse::<usize>().ok()?),
            _ => inner.get(level),
        });
    found.map_or(Operand::Unknown, operand)
}

fn operand(json: &Json) -> Operand {
    match json {
        Json::Bool(truth) => Operand::Bool(*truth),
        Json::Number(number) => number.as_f64().map_or(Operand::Unknown, Operand::Number),
        Json::String(string) => text(string),
        Json::Null | Json::Array(_) | Json::Object(_) => Operand::Unknown,
    }
}

/// The names and values of the JSON of a reading; its time as it was taken.
fn of_reading(reading: &Reading, name: &str) -> Operand {
    match name {
        "v" => reading.value.as_ref().map_or(Operand::Unknown, of_value),
        "q" => text(reading.quality.name()),
        "reason" => reading.quality.reason().map_or(Operand::Unknown, text),
        "age" => Operand::Number(reading.age.as_secs_f64()),
        "t" => text(&rfc3339(reading.time.unix_ms)),
        "clock" if !reading.time.clock_set => text("unset"),
        _ => list_item(reading, name).map_or(Operand::Unknown, of_value),
    }
}

/// A value of a list: `v.0`.
fn list_item<'r>(reading: &'r Reading, name: &str) -> Option<&'r Value> {
    let Some(Value::List(list)) = &reading.value else {
        return None;
    };
    list.get(name.strip_prefix("v.")?.parse::<usize>().ok()?)
}

fn of_value(value: &Value) -> Operand {
    match value {
        Value::Bool(truth) => Operand::Bool(*truth),
        Value::Text(string) => text(string),
        // The number that is published: a float has seven digits, not those of its next double.
        Value::F32(float) => {
            let shown = seven_digits(*float).to_string().parse();
            Operand::Number(shown.unwrap_or(f64::from(*float)))
        }
        Value::List(_) => Operand::Unknown,
        number => number.as_f64().map_or(Operand::Unknown, Operand::Number),
    }
}
