//! What somebody wants written, checked against what may be written. Pure.
//!
//! Order: the text, the value in the type of the register (scale, words, range), the limits of the YAML. What is refused here has
//! touched nothing.

use serde::Serialize;
use serde_json::Value as Json;

use crate::field::decode::{Kind, Part, Register};
use crate::field::write::{Action, Function, Rules};
use crate::reading::{PointId, Value};
use crate::time::rfc3339;

/// One point that can be written.
#[derive(Debug, Clone)]
pub struct WritablePoint {
    /// Its name in the device.
    pub name: String,
    /// Which point.
    pub id: PointId,
    /// Where it is.
    pub register: Register,
    /// What may be written.
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
    /// Reads a plain value, `{"value", "id", "deadline_ms"}`, or for a group its points by name, alone or as `value`.
    pub(super) fn read(payload: &[u8], is_group: bool) -> Result<Self, String> {
        let text = std::str::from_utf8(payload)
            .map_err(|_| "the payload is not UTF-8 text".to_owned())?
            .trim();
        if text.is_empty() {
            return Err("the payload is empty; write a value".to_owned());
        }
        let (mut id, mut deadline_ms) = (None, None);
        let wanted = match serde_json::from_str(text) {
            Ok(Json::Object(mut fields)) if fields.contains_key("value") => {
                id = fields.remove("id");
                deadline_ms = match fields.remove("deadline_ms") {
                    None => None,
                    Some(ms) => Some(
                        ms.as_u64()
                            .ok_or("deadline_ms is a whole number of milliseconds")?,
                    ),
                };
                let value = fields.remove("value").unwrap_or_default();
                if let Some(unknown) = fields.keys().next() {
                    return Err(format!(
                        "\"{unknown}\" is not known here; write value, id and deadline_ms"
                    ));
                }
                value
            }
            Ok(other) => other,
            // What is no JSON is a word.
            Err(_) => Json::String(text.to_owned()),
        };
        let values = match (wanted, is_group) {
            (Json::Object(points), true) => points
                .into_iter()
                .map(|(name, value)| Ok((name, plain(value)?)))
                .collect::<Result<_, String>>()?,
            (_, true) => {
                return Err(
                    "a group takes an object of its points, such as {\"a\": 1, \"b\": 2}"
                        .to_owned(),
                );
            }
            (value, false) => vec![(String::new(), plain(value)?)],
        };
        Ok(Self {
            values,
            id,
            deadline_ms,
        })
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
    /// The request that writes `value`; the error says why it is not written.
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

    /// What the device shows when an action has been done: `value` as its registers hold it.
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
        if meaning.kind == Kind::Text || meaning.words.iter().any(|(_, word)| word == text) {
            return value.clone();
        }
        let is_bit = matches!(meaning.part, Part::Bit(_)) || meaning.kind == Kind::Bool;
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

/// The requests for several points: one, if their registers follow one another; more only where that is allowed.
pub(super) fn joined(mut parts: Vec<(Action, bool)>) -> Result<Vec<Action>, String> {
    if let [(_, _)] = parts.as_slice() {
        return Ok(parts.into_iter().map(|(action, _)| action).collect());
    }
    let allow_split = parts.iter().all(|(_, allow)| *allow);
    parts.sort_by_key(|(action, _)| action.span());
    let mut joined: Vec<Action> = Vec::new();
    for (action, _) in parts {
        let follows = joined.last().is_some_and(|last| {
            let (start, count) = last.span();
            u32::from(start) + u32::from(count) == u32::from(action.span().0)
        });
        match (joined.last_mut(), action) {
            (
                Some(Action::Words {
                    words, function, ..
                }),
                Action::Words { words: more, .. },
            ) if follows => {
                words.extend(more);
                *function = if *function == Function::Exchange {
                    Function::Exchange
                } else {
                    Function::Multiple
                };
            }
            (Some(Action::Bits { bits, function, .. }), Action::Bits { bits: more, .. })
                if follows =>
            {
                bits.extend(more);
                *function = Function::Multiple;
            }
            (_, other) => joined.push(other),
        }
    }
    if joined.len() > 1 && !allow_split {
        return Err("these points do not follow one another in the device, so they cannot be written at once; write them one by one, or allow it with `allow_split: true`".to_owned());
    }
    Ok(joined)
}

/// How a write ended, as it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    Ok,
    Rejected,
    Exception,
    TimeoutUnknown,
    VerifyMismatch,
    Expired,
}

impl Status {
    /// As it is published.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Rejected => "rejected",
            Self::Exception => "exception",
            Self::TimeoutUnknown => "timeout_unknown",
            Self::VerifyMismatch => "verify_mismatch",
            Self::Expired => "expired",
        }
    }
}

/// What is published on `.../set/result`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    pub(super) status: Status,
    pub(super) code: Option<u8>,
    pub(super) reason: Option<String>,
    /// What the device holds now, by point; a single point has the empty name.
    pub(super) values: Vec<(String, Value)>,
}

impl Verdict {
    pub(super) fn new(status: Status) -> Self {
        Self {
            status,
            code: None,
            reason: None,
            values: Vec::new(),
        }
    }

    pub(super) fn rejected(reason: impl Into<String>) -> Self {
        Self {
            reason: Some(reason.into()),
            ..Self::new(Status::Rejected)
        }
    }

    pub(super) fn json(&self, id: Option<&Json>, unix_ms: i64) -> String {
        #[derive(Serialize)]
        struct Shape<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            id: Option<&'a Json>,
            status: Status,
            #[serde(skip_serializing_if = "Option::is_none")]
            code: Option<u8>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            value: Option<Json>,
            ts: String,
        }
        let value = match self.values.as_slice() {
            [] => None,
            [(name, value)] if name.is_empty() => Some(json(value)),
            several => Some(Json::Object(
                several
                    .iter()
                    .map(|(name, value)| (name.clone(), json(value)))
                    .collect(),
            )),
        };
        let shape = Shape {
            id,
            status: self.status,
            code: self.code,
            reason: self.reason.as_deref(),
            value,
            ts: rfc3339(unix_ms),
        };
        crate::payload::json::text(&shape)
    }
}

fn json(value: &Value) -> Json {
    // A number that JSON does not have, such as NaN, is null.
    serde_json::to_value(crate::payload::json::Number::from(value)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::decode::Table;
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

    fn member(table: Table, address: u16, kind: Kind) -> WritablePoint {
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
        let mut setpoint = member(Table::Holding, 19, Kind::I16);
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
        let coil = member(Table::Coil, 3, Kind::Bool);
        let bits = |bit| {
            Ok(Action::Bits {
                address: 3,
                bits: vec![bit],
                function: Function::Auto,
            })
        };
        assert_eq!(coil.action(&Value::Text("ON".into())), bits(true));
        assert_eq!(coil.action(&Value::Int(0)), bits(false));
        let mut bit = member(Table::Holding, 4, Kind::U16);
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

    #[test]
    fn what_follows_one_another_is_one_request() {
        let words = |address, words: &[u16]| Action::Words {
            address,
            words: words.to_vec(),
            function: Function::Auto,
        };
        let both = joined(vec![(words(5, &[3]), false), (words(3, &[1, 2]), false)]).unwrap();
        assert_eq!(
            both,
            [Action::Words {
                address: 3,
                words: vec![1, 2, 3],
                function: Function::Multiple
            }]
        );
        assert!(
            joined(vec![(words(5, &[3]), false), (words(3, &[1]), true)])
                .unwrap_err()
                .contains("allow_split")
        );
        assert_eq!(
            joined(vec![(words(5, &[3]), true), (words(3, &[1]), true)])
                .unwrap()
                .len(),
            2
        );
        assert_eq!(
            joined(vec![(words(5, &[3]), false)]).unwrap(),
            [words(5, &[3])]
        );
    }

    #[test]
    fn verdicts_are_told_as_documented() {
        let done = Verdict {
            values: vec![(String::new(), Value::F64(12.5))],
            ..Verdict::new(Status::Ok)
        };
        assert_eq!(
            done.json(Some(&"a".into()), 1_769_847_330_250),
            r#"{"id":"a","status":"ok","value":12.5,"ts":"2026-01-31T08:15:30.250Z"}"#
        );
        let no = Verdict {
            code: Some(2),
            ..Verdict::new(Status::Exception)
        };
        assert_eq!(
            no.json(None, 1_769_847_330_250),
            r#"{"status":"exception","code":2,"ts":"2026-01-31T08:15:30.250Z"}"#
        );
        let unknown = Verdict::new(Status::TimeoutUnknown).json(None, 0);
        assert!(unknown.contains("timeout_unknown"), "{unknown}");
    }
}
