//! The command in a payload, checked against the points that may be written. Pure.
//!
//! Order: the text, the value in the type of the register (scale, words, range), the limits of the
//! YAML. A command that is refused here has touched nothing.

use std::time::Instant;

use serde_json::{Map, Value as Json};

use crate::field::decode::{DataType, Part, Register};
use crate::field::write::{Action, Rules};
use crate::reading::{PointId, Value};

/// One point that can be written.
#[derive(Debug, Clone)]
pub struct WritablePoint {
    /// Its name in the device.
    pub name: String,
    /// Which point.
    pub id: PointId,
    /// Where it is.
    pub register: Register,
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
    /// The request that writes `value`; the error says why it must not be written.
    pub(super) fn action(&self, value: &Value) -> Result<Action, String> {
        let value = self.in_its_type(value);
        let mask = self.register.mask_of(&value);
        let action = match mask {
            Some(mask) => {
                let (and, or) = mask?;
                Action::Mask {
                    address: self.register.address,
                    and,
                    or,
                }
            }
            None => self.whole(self.register.encode_exactly(&value)?),
        };
        self.within_limits(&value)?;
        Ok(action)
    }

    /// Refuses a write that comes sooner after the last one than the rules allow.
    pub(super) fn check_pause(&self, last: Option<Instant>, now: Instant) -> Result<(), String> {
        let pause = self.rules.at_most_every.unwrap_or_default();
        if last.is_some_and(|last| now.saturating_duration_since(last) < pause) {
            let pause = humantime::format_duration(pause);
            return Err(format!("this is written at most every {pause}; try later"));
        }
        Ok(())
    }

    /// The value that the device shows after an action: `value` as its registers hold it.
    pub(super) fn shown(&self, action: &Action, value: Value) -> Value {
        let words = match action {
            Action::Words { words, .. } => words.clone(),
            Action::Bits { bits, .. } => bits.iter().map(|bit| u16::from(*bit)).collect(),
            Action::Mask { or, .. } => vec![*or],
        };
        self.register.decode(&words, None).unwrap_or(value)
    }

    fn whole(&self, words: Vec<u16>) -> Action {
        let (address, function) = (self.register.address, self.rules.function);
        if self.register.table.is_bits() {
            Action::Bits {
                address,
                bits: words.into_iter().map(|word| word != 0).collect(),
                function,
            }
        } else {
            Action::Words {
                address,
                words,
                function,
            }
        }
    }

    /// "on" for a bit is true, "12.5" for a number is 12.5.
    fn in_its_type(&self, value: &Value) -> Value {
        let meaning = &self.register.meaning;
        let Value::Text(text) = value else {
            return value.clone();
        };
        if meaning.kind == DataType::Text || meaning.words.iter().any(|(_, word)| word == text) {
            return value.clone();
        }
        let is_bit = matches!(meaning.part, Part::Bit(_)) || meaning.kind == DataType::Bool;
        match text.to_ascii_lowercase().as_str() {
            "on" | "true" if is_bit => Value::Bool(true),
            "off" | "false" if is_bit => Value::Bool(false),
            plain => plain.parse().map_or_else(|_| value.clone(), Value::F64),
        }
    }

    fn within_limits(&self, value: &Value) -> Result<(), String> {
        let Some(number) = value.as_f64() else {
            return Ok(());
        };
        let Rules { min, max, step, .. } = self.rules;
        if let Some(min) = min.filter(|min| number < *min) {
            return Err(format!(
                "{value} is below the least that may be written, {min}"
            ));
        }
        if let Some(max) = max.filter(|max| number > *max) {
            return Err(format!(
                "{value} is above the most that may be written, {max}"
            ));
        }
        if let Some(step) = step {
            let steps = (number - min.unwrap_or(0.0)) / step;
            if (steps - steps.round()).abs() > 1e-6 {
                return Err(format!("{value} is not a whole number of steps of {step}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::decode::Table;
    use crate::field::write::Function;
    use std::time::Duration;

    fn rules() -> Rules {
        let good_for = Duration::from_secs(10);
        let (min, max, step, at_most_every, read_back) = (None, None, None, None, None);
        Rules {
            min,
            max,
            step,
            at_most_every,
            good_for,
            read_back,
            function: Function::Auto,
            repeat: true,
            allow_split: false,
        }
    }

    fn member(table: Table, address: u16, kind: DataType) -> WritablePoint {
        WritablePoint {
            name: "p".to_owned(),
            id: PointId(0),
            register: Register::new(table, address, kind),
            rules: rules(),
        }
    }

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
        let mut setpoint = member(Table::Holding, 19, DataType::I16);
        setpoint.register.meaning.scale = 0.1;
        setpoint.rules = Rules {
            min: Some(0.0),
            max: Some(50.0),
            step: Some(0.5),
            ..rules()
        };
        let words = |words: &[u16]| {
            Ok(Action::Words {
                address: 19,
                words: words.to_vec(),
                function: Function::Auto,
            })
        };
        assert_eq!(setpoint.action(&Value::F64(12.5)), words(&[125]));
        assert_eq!(setpoint.action(&Value::Text("12.5".into())), words(&[125]));
        assert!(
            setpoint
                .action(&Value::Int(51))
                .unwrap_err()
                .contains("above")
        );
        assert!(
            setpoint
                .action(&Value::Int(-1))
                .unwrap_err()
                .contains("below")
        );
        assert!(
            setpoint
                .action(&Value::F64(12.3))
                .unwrap_err()
                .contains("steps")
        );
        assert!(
            setpoint
                .action(&Value::Int(9_999_999))
                .unwrap_err()
                .contains("hold")
        );
        assert!(setpoint.action(&Value::Text("warm".into())).is_err());
        let coil = member(Table::Coil, 3, DataType::Bool);
        let bits = |bit| {
            Ok(Action::Bits {
                address: 3,
                bits: vec![bit],
                function: Function::Auto,
            })
        };
        assert_eq!(coil.action(&Value::Text("ON".into())), bits(true));
        assert_eq!(coil.action(&Value::Int(0)), bits(false));
        let mut bit = member(Table::Holding, 4, DataType::U16);
        bit.register.meaning.part = Part::Bit(2);
        assert_eq!(
            bit.action(&Value::Bool(true)),
            Ok(Action::Mask {
                address: 4,
                and: 0xFFFB,
                or: 4
            })
        );
    }
}
