//! The command in a payload, checked against the points that may be written. Pure.
//!
//! Order: the text, the value in the type of its point (scale, words, range), the limits of the
//! YAML. A command that is refused here has touched nothing.

use std::time::Instant;

use serde_json::{Map, Value as Json};

use crate::field::Point;
use crate::field::write::Rules;
use crate::reading::Value;

/// One point that can be written.
#[derive(Debug, Clone)]
pub struct WritablePoint {
    /// The point.
    pub point: Point,
    /// Which values, and how.
    pub rules: Rules,
}

/// A payload of a `.../set` topic.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Command {
    /// By the name of the point; a single value has the empty name.
    pub(super) values: Vec<(String, Value)>,
    pub(super) id: Option<Json>,
    pub(super) deadline_ms: Option<u64>,
}

impl Command {
    /// Reads a plain value, `{"value", "id", "deadline_ms"}`, or for a group its points by name,
    /// alone or as `value`.
    pub(super) fn read(payload: &[u8], is_group: bool) -> Result<Self, String> {
        let text = std::str::from_utf8(payload)
            .map_err(|_| "the payload is not UTF-8 text".to_owned())?
            .trim();
        if text.is_empty() {
            return Err("the payload is empty; write a value".to_owned());
        }
        let wanted = match serde_json::from_str(text) {
            Ok(Json::Object(fields)) if fields.contains_key("value") => {
                return Self::from_fields(fields, is_group);
            }
            Ok(other) => other,
            // Text that is no JSON is a word.
            Err(_) => Json::String(text.to_owned()),
        };
        Ok(Self {
            values: values(wanted, is_group)?,
            id: None,
            deadline_ms: None,
        })
    }

    fn from_fields(mut fields: Map<String, Json>, is_group: bool) -> Result<Self, String> {
        let id = fields.remove("id");
        let deadline_ms = fields
            .remove("deadline_ms")
            .map(|ms| {
                ms.as_u64()
                    .ok_or("deadline_ms is a whole number of milliseconds")
            })
            .transpose()?;
        let value = fields.remove("value").unwrap_or_default();
        if let Some(unknown) = fields.keys().next() {
            return Err(format!(
                "\"{unknown}\" is not known here; write value, id and deadline_ms"
            ));
        }
        Ok(Self {
            values: values(value, is_group)?,
            id,
            deadline_ms,
        })
    }
}

/// The values by the names of their points.
fn values(wanted: Json, is_group: bool) -> Result<Vec<(String, Value)>, String> {
    match (wanted, is_group) {
        (Json::Object(points), true) => points
            .into_iter()
            .map(|(name, value)| Ok((name, plain(value)?)))
            .collect(),
        (_, true) => {
            Err("a group takes an object of its points, such as {\"a\": 1, \"b\": 2}".to_owned())
        }
        (value, false) => Ok(vec![(String::new(), plain(value)?)]),
    }
}

fn plain(value: Json) -> Result<Value, String> {
    match value {
        Json::Bool(b) => Ok(Value::Bool(b)),
        Json::String(text) => Ok(Value::Text(text.into())),
        Json::Number(number) => {
            let whole = number
                .as_i64()
                .map(Value::Int)
                .or_else(|| number.as_u64().map(Value::UInt));
            whole
                .or_else(|| number.as_f64().map(Value::F64))
                .ok_or_else(|| format!("{number} is too large"))
        }
        other => Err(format!(
            "{other} is not a value; write a number, true, false, or text"
        )),
    }
}

impl WritablePoint {
    /// Refuses a write that comes sooner after the last one than the rules allow.
    pub(super) fn check_pause(&self, last: Option<Instant>, now: Instant) -> Result<(), String> {
        let pause = self.rules.at_most_every.unwrap_or_default();
        if last.is_some_and(|last| now.saturating_duration_since(last) < pause) {
            let pause = humantime::format_duration(pause);
            return Err(format!("this is written at most every {pause}; try later"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::PointSource;
    use crate::field::decode::{DataType, Register, Table};
    use crate::field::signal::Signal;
    use crate::field::write::{RegisterRules, WriteMethod};
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn payloads_are_values_or_objects() {
        let read = |text: &str| {
            Command::read(text.as_bytes(), false)
                .map(|command| (command.values[0].1.clone(), command.id, command.deadline_ms))
        };
        assert_eq!(read("12"), Ok((Value::Int(12), None, None)));
        assert_eq!(read(" 12.5 "), Ok((Value::F64(12.5), None, None)));
        assert_eq!(read("auto"), Ok((Value::Text("auto".into()), None, None)));
        assert_eq!(read("\"7\""), Ok((Value::Text("7".into()), None, None)));
        assert_eq!(
            read(r#"{"value":true,"id":"a-1","deadline_ms":500}"#),
            Ok((Value::Bool(true), Some("a-1".into()), Some(500)))
        );
        assert!(read(r#"{"value":1,"idd":2}"#).unwrap_err().contains("idd"));
        assert!(read(r#"{"value":null}"#).is_err() && read("[1]").is_err() && read("").is_err());
        assert!(read(r#"{"value":1,"deadline_ms":"soon"}"#).is_err());
        let group = Command::read(br#"{"b":2,"a":1}"#, true).unwrap();
        assert_eq!(
            group.values,
            [
                ("a".to_owned(), Value::Int(1)),
                ("b".to_owned(), Value::Int(2))
            ]
        );
        assert!(Command::read(b"5", true).unwrap_err().contains("object"));
    }

    #[test]
    fn limits_come_after_the_type() {
        let mut register = Register::new(Table::Holding, 19, DataType::I16);
        register.meaning.scale = 0.1;
        let rules = Rules {
            min: Some(0.0),
            max: Some(50.0),
            step: Some(0.5),
            at_most_every: None,
            good_for: Duration::from_secs(10),
            read_back: None,
            repeat: true,
            method: WriteMethod::Registers(RegisterRules::default()),
        };
        let setpoint = Point {
            source: PointSource::Register {
                register: Arc::new(register),
                exponent: None,
            },
            write: Some(Box::new(rules)),
            ..Point::simulated("setpoint", Signal::default())
        };
        let refusal = |value| setpoint.accepts(&value).unwrap_err();
        assert_eq!(setpoint.accepts(&Value::F64(12.5)), Ok(Value::F64(12.5)));
        assert_eq!(
            setpoint.accepts(&Value::Text("12.5".into())),
            Ok(Value::F64(12.5))
        );
        assert!(refusal(Value::Int(51)).contains("above"));
        assert!(refusal(Value::Int(-1)).contains("below"));
        assert!(refusal(Value::F64(12.3)).contains("steps"));
        assert!(refusal(Value::Int(9_999_999)).contains("hold"));
        assert!(setpoint.accepts(&Value::Text("warm".into())).is_err());
        let read_only = Point {
            write: None,
            ..setpoint.clone()
        };
        assert!(read_only.accepts(&Value::Int(1)).is_err());
    }
}
