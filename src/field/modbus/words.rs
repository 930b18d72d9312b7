//! Requests for registers, and the values in their answers. Pure.
//!
//! Invariants:
//! * The number of registers in an answer is checked here; the library does not check it.
//! * A value is never shown without the scale that belongs to it.

use std::sync::Arc;

use tokio_modbus::{Request, Response};

use super::block::{Block, BlockPoint};
use super::frames;
use crate::field::decode::{Register, Table};
use crate::field::{PollError, Sample, Values};
use crate::reading::Value;

/// The request for `count` registers or bits from `start` on.
pub(super) fn reading(table: Table, start: u16, count: u16) -> Request<'static> {
    match table {
        Table::Holding => Request::ReadHoldingRegisters(start, count),
        Table::Input => Request::ReadInputRegisters(start, count),
        Table::Coil => Request::ReadCoils(start, count),
        Table::Discrete => Request::ReadDiscreteInputs(start, count),
        Table::File(file) => {
            // One group: seven bytes, the kind of reference, which is always 6, file, first record,
            // records.
            let places = [file, start, count].into_iter().flat_map(u16::to_be_bytes);
            Request::Custom(
                frames::READ_FILE,
                [7, 6].into_iter().chain(places).collect(),
            )
        }
    }
}

/// Bytes of whole RTU frames, there and back.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameLengths {
    pub(super) request: u32,
    /// The longest that is expected.
    pub(super) answer: u32,
}

impl FrameLengths {
    pub(super) const fn new(request: u32, answer: u32) -> Self {
        Self { request, answer }
    }
}

/// Lengths of the frames that ask for `bytes` of data, and that bring them.
pub(super) fn frame_lengths(table: Table, bytes: u32) -> FrameLengths {
    if matches!(table, Table::File(_)) {
        FrameLengths::new(12, 7 + bytes)
    } else {
        FrameLengths::new(8, 5 + bytes)
    }
}

/// The records in the answer about one group: its length, that of the group, the kind of reference.
fn records(data: &[u8]) -> Option<Vec<u16>> {
    let [all, group, 6, records @ ..] = data else {
        return None;
    };
    let is_whole = usize::from(*all) == data.len() - 1 && usize::from(*group) == data.len() - 2;
    is_whole.then(|| {
        records
            .chunks_exact(2)
            .map(|pair| {
                pair.iter()
                    .fold(0, |word, byte| word << 8 | u16::from(*byte))
            })
            .collect()
    })
}

/// The registers or bits of an answer, if their number is right.
pub(super) fn words(response: Response, expected: u16) -> Result<Vec<u16>, PollError> {
    let (values, is_bits): (Vec<u16>, bool) = match response {
        Response::ReadHoldingRegisters(words) | Response::ReadInputRegisters(words) => {
            (words, false)
        }
        Response::ReadCoils(bits) | Response::ReadDiscreteInputs(bits) => {
            (bits.into_iter().map(u16::from).collect(), true)
        }
        Response::Custom(frames::READ_FILE, data) => {
            let records = records(&data)
                .ok_or_else(|| PollError::Garbled("the answer holds no file records".to_owned()))?;
            (records, false)
        }
        _ => {
            return Err(PollError::Garbled(
                "received an answer to another request".to_owned(),
            ));
        }
    };
    let expected = usize::from(expected);
    // Bits are padded to whole bytes on the wire.
    let fits = if is_bits {
        values.len() == expected || values.len() == expected.next_multiple_of(8)
    } else {
        values.len() == expected
    };
    if fits {
        Ok(values)
    } else {
        Err(PollError::Garbled(format!(
            "received {} values instead of {expected}",
            values.len()
        )))
    }
}

/// The range of a scale register [SunSpec Information Model 1.2, sunssf: -10 to 10]; another value
/// is a device that starts, or a wrong address.
const POWERS_OF_TEN: std::ops::RangeInclusive<i64> = -10..=10;

/// The power of ten in a scale register, or why a value cannot be scaled by it.
fn power_of_ten(value: &Value) -> Result<i32, Arc<str>> {
    let power = match value {
        Value::Int(power) => Some(*power),
        Value::UInt(power) => i64::try_from(*power).ok(),
        _ => None,
    };
    let plausible = power
        .filter(|power| POWERS_OF_TEN.contains(power))
        .and_then(|power| i32::try_from(power).ok());
    plausible.ok_or_else(|| {
        format!("power of ten {value} is not plausible: a scale register holds -10 to 10").into()
    })
}

impl Block {
    /// The words of a register, or why they are not there.
    fn part<'a>(&self, words: &'a [u16], register: &Register) -> Result<&'a [u16], Arc<str>> {
        let from = usize::from(register.address.saturating_sub(self.start));
        words
            .get(from..from + usize::from(register.width()))
            .ok_or_else(|| "the answer is too short".into())
    }

    /// The values of the points, out of the words of an answer.
    pub(super) fn decode(&self, words: &[u16]) -> Values {
        let value = |point: &BlockPoint| {
            let scale = point.exponent.as_ref();
            let exponent = scale
                .map(|register| power_of_ten(&register.decode(self.part(words, register)?, None)?))
                .transpose()?;
            point
                .register
                .decode(self.part(words, &point.register)?, exponent)
        };
        self.points
            .iter()
            .map(|point| Sample::new(point.id, value(point)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_of_ten_that_no_scale_register_holds_is_no_scale() {
        for power in -10..=10 {
            assert_eq!(
                power_of_ten(&Value::Int(power)),
                Ok(i32::try_from(power).unwrap()),
                "{power}"
            );
        }
        // 10^23 made 123 a good 1.23e25.
        for power in [
            Value::Int(11),
            Value::Int(-11),
            Value::Int(23),
            Value::Int(30),
            Value::UInt(65_526),
            Value::Int(i64::MIN),
        ] {
            assert!(
                power_of_ten(&power).unwrap_err().contains("not plausible"),
                "{power}"
            );
        }
        assert!(
            power_of_ten(&Value::Bool(true)).is_err(),
            "a value is never shown without the scale that belongs to it"
        );
    }
}
