//! The requests that write to registers and coils: one value each, or several that follow one
//! another. Pure.

use serde::Deserialize;

use crate::field::decode::Register;
use crate::field::{Device, Point, PointSource};
use crate::reading::{PointId, Value};

/// How registers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    /// One register or coil by function 6 or 5, more by 16 or 15.
    #[default]
    Auto,
    /// Always by function 16 or 15: some devices know no other.
    Multiple,
    /// By function 23, which reads back in the same request.
    Exchange,
}

/// One request that writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Holding registers.
    Words {
        /// From zero.
        address: u16,
        /// Their new content.
        words: Vec<u16>,
        /// How.
        function: Function,
    },
    /// Coils.
    Bits {
        /// From zero.
        address: u16,
        /// Their new states.
        bits: Vec<bool>,
        /// How.
        function: Function,
    },
    /// Some bits of a holding register: register = (register AND `and`) OR (`or` AND NOT `and`).
    Mask {
        /// From zero.
        address: u16,
        /// Bits that stay.
        and: u16,
        /// Bits that are set.
        or: u16,
    },
}

impl Action {
    /// The request that sets a register to `value`; the error says why it cannot hold it.
    fn of(register: &Register, function: Function, value: &Value) -> Result<Self, String> {
        let address = register.address;
        if let Some(mask) = register.mask_of(value) {
            let (and, or) = mask?;
            return Ok(Self::Mask { address, and, or });
        }
        let words = register.encode_exactly(value)?;
        Ok(if register.table.is_bits() {
            Self::Bits {
                address,
                bits: words.into_iter().map(|word| word != 0).collect(),
                function,
            }
        } else {
            Self::Words {
                address,
                words,
                function,
            }
        })
    }

    /// The first register or coil, and how many.
    pub fn span(&self) -> (u16, u16) {
        let count = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        match self {
            Self::Words { address, words, .. } => (*address, count(words.len())),
            Self::Bits { address, bits, .. } => (*address, count(bits.len())),
            Self::Mask { address, .. } => (*address, 1),
        }
    }

    /// The words that it writes; bits are 0 or 1.
    fn words(&self) -> Vec<u16> {
        match self {
            Self::Words { words, .. } => words.clone(),
            Self::Bits { bits, .. } => bits.iter().map(|bit| u16::from(*bit)).collect(),
            Self::Mask { or, .. } => vec![*or],
        }
    }
}

/// A value as a register takes it: "on" for a bit is true, "12.5" for a number is 12.5. The error
/// says why the register cannot hold it.
pub fn wanted(register: &Register, value: &Value) -> Result<Value, String> {
    let value = register.meaning.in_its_type(value);
    Action::of(register, Function::Auto, &value).map(|_| value)
}

/// The value that the device shows once `value` was written to a register.
pub fn shown(register: &Register, value: Value) -> Value {
    let action = Action::of(register, Function::Auto, &value);
    action
        .ok()
        .and_then(|action| register.decode(&action.words(), None).ok())
        .unwrap_or(value)
}

/// The requests that write `values` to the points of a device: one, if their registers follow one
/// another; more only where every point allows it. The error says why they cannot be written.
pub fn requests(device: &Device, values: &[(PointId, Value)]) -> Result<Vec<Action>, String> {
    let mut parts = Vec::new();
    for (id, value) in values {
        let point = device.points.iter().find(|point| point.id == *id);
        let Some((point, register)) = point.and_then(|point| Some((point, point.register()?)))
        else {
            return Err("this point has no register".to_owned());
        };
        let how = point.write.as_ref().map(|rules| rules.method.registers());
        let how = how.unwrap_or_default();
        parts.push((Action::of(register, how.function, value)?, how.allow_split));
    }
    joined(parts)
}

/// Of the points of a device those with registers, by their identifiers.
pub(super) fn registers<'a>(
    device: &'a Device,
    values: &'a [(PointId, Value)],
) -> impl Iterator<Item = (PointId, &'a Register)> {
    let point = |id: PointId| device.points.iter().find(move |point| point.id == id);
    values
        .iter()
        .filter_map(move |(id, _)| Some((*id, point(*id).and_then(Point::register)?)))
}

fn joined(mut parts: Vec<(Action, bool)>) -> Result<Vec<Action>, String> {
    let may_split = parts.iter().all(|(_, allow)| *allow);
    parts.sort_by_key(|(action, _)| action.span());
    let mut joined: Vec<Action> = Vec::new();
    for (action, _) in parts {
        let apart = match joined.last_mut() {
            Some(last) => join(last, action),
            None => Some(action),
        };
        joined.extend(apart);
    }
    if joined.len() > 1 && !may_split {
        return Err("these points do not follow one another in the device, so they cannot be written at once; write them one by one, or allow it with `allow_split: true`".to_owned());
    }
    Ok(joined)
}

/// Appends `next` to `last` if its registers follow, else gives it back.
fn join(last: &mut Action, next: Action) -> Option<Action> {
    let (start, count) = last.span();
    let follows = u32::from(start) + u32::from(count) == u32::from(next.span().0);
    match (last, next) {
        (
            Action::Words {
                words, function, ..
            },
            Action::Words { words: more, .. },
        ) if follows => {
            words.extend(more);
            if *function != Function::Exchange {
                *function = Function::Multiple;
            }
            None
        }
        (Action::Bits { bits, function, .. }, Action::Bits { bits: more, .. }) if follows => {
            bits.extend(more);
            *function = Function::Multiple;
            None
        }
        (_, next) => Some(next),
    }
}

impl Point {
    /// Its register, if it is in a Modbus device.
    pub fn register(&self) -> Option<&Register> {
        match &self.source {
            PointSource::Register { register, .. } => Some(register),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::decode::{DataType, Part, Table};

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
    fn values_become_what_their_registers_hold() {
        let action = |register: &Register, value: Value| {
            Action::of(register, Function::Auto, &wanted(register, &value)?)
        };
        let words = |words: &[u16]| {
            Ok(Action::Words {
                address: 19,
                words: words.to_vec(),
                function: Function::Auto,
            })
        };
        let mut setpoint = Register::new(Table::Holding, 19, DataType::I16);
        setpoint.meaning.scale = 0.1;
        assert_eq!(action(&setpoint, Value::F64(12.5)), words(&[125]));
        assert_eq!(action(&setpoint, Value::Text("12.5".into())), words(&[125]));
        assert!(
            action(&setpoint, Value::Int(9_999_999))
                .unwrap_err()
                .contains("hold")
        );
        assert!(action(&setpoint, Value::Text("warm".into())).is_err());
        let coil = Register::new(Table::Coil, 3, DataType::Bool);
        let bits = |bit| {
            Ok(Action::Bits {
                address: 3,
                bits: vec![bit],
                function: Function::Auto,
            })
        };
        assert_eq!(action(&coil, Value::Text("ON".into())), bits(true));
        assert_eq!(action(&coil, Value::Int(0)), bits(false));
        let mut bit = Register::new(Table::Holding, 4, DataType::U16);
        bit.meaning.part = Part::Bit(2);
        assert_eq!(
            action(&bit, Value::Bool(true)),
            Ok(Action::Mask {
                address: 4,
                and: 0xFFFB,
                or: 4
            })
        );
    }
}
