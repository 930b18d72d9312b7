//! Registers to values and back. Pure.

use std::sync::Arc;

use serde::Deserialize;

use crate::reading::Value;

/// The four tables of Modbus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Read and write bits.
    Coil,
    /// Read-only bits.
    Discrete,
    /// Read-only registers.
    Input,
    /// Read and write registers.
    Holding,
}

impl Table {
    /// True for coils and discrete inputs.
    pub fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }
}

/// What the registers of a point mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A coil, a discrete input, or one bit of a register.
    Bool,
    /// 16 bits, signed.
    I16,
    /// 16 bits.
    U16,
    /// 32 bits, signed.
    I32,
    /// 32 bits.
    U32,
    /// 64 bits, signed.
    I64,
    /// 64 bits.
    U64,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
}

impl Kind {
    /// True if a register of this type can hold `number`.
    pub fn holds(self, number: f64) -> bool {
        let (low, high) = match self {
            Self::Bool => (0.0, 1.0),
            Self::I16 => (f64::from(i16::MIN), f64::from(i16::MAX)),
            Self::U16 => (0.0, f64::from(u16::MAX)),
            Self::I32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
            Self::U32 => (0.0, f64::from(u32::MAX)),
            Self::I64 => (-9.3e18, 9.3e18),
            Self::U64 => (0.0, 1.9e19),
            Self::F32 | Self::F64 => return true,
        };
        (low..=high).contains(&number) && number.fract() == 0.0
    }
}

/// The order of the bytes of a 32-bit value on the wire, A being the most significant; 64-bit values extend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum ByteOrder {
    /// As the standard has it.
    #[default]
    #[serde(alias = "big")]
    ABCD,
    /// Words swapped.
    #[serde(alias = "word-swap")]
    CDAB,
    /// Bytes of each word swapped.
    #[serde(alias = "byte-swap")]
    BADC,
    /// Both.
    #[serde(alias = "little")]
    DCBA,
}

impl ByteOrder {
    fn swaps_words(self) -> bool {
        matches!(self, Self::CDAB | Self::DCBA)
    }

    fn swaps_bytes(self) -> bool {
        matches!(self, Self::BADC | Self::DCBA)
    }
}

/// Where a point is and what it means.
#[derive(Debug, Clone, PartialEq)]
pub struct Register {
    /// Which table.
    pub table: Table,
    /// From zero, as on the wire.
    pub address: u16,
    /// The type.
    pub kind: Kind,
    /// Order of bytes and words.
    pub order: ByteOrder,
    /// One bit of a 16-bit register, 0 being the least significant.
    pub bit: Option<u8>,
    /// Value = raw x scale + offset.
    pub scale: f64,
    /// See `scale`.
    pub offset: f64,
    /// The raw value that means "sensor broken".
    pub broken: Option<f64>,
    /// Text for raw values; those without stay numbers.
    pub words: Vec<(i64, Arc<str>)>,
}

/// A raw value, before scaling.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Raw {
    Bool(bool),
    Int(i64),
    UInt(u64),
    F32(f32),
    F64(f64),
}

impl Raw {
    #[allow(clippy::cast_precision_loss)]
    fn as_f64(self) -> f64 {
        match self {
            Self::Bool(b) => f64::from(u8::from(b)),
            Self::Int(i) => i as f64,
            Self::UInt(u) => u as f64,
            Self::F32(f) => f64::from(f),
            Self::F64(f) => f,
        }
    }

    /// True if it is `number`, in the precision it was measured in.
    #[allow(clippy::float_cmp, clippy::cast_possible_truncation)]
    fn is(self, number: f64) -> bool {
        match self {
            Self::F32(f) => f == number as f32,
            other => other.as_f64() == number,
        }
    }

    fn as_i64(self) -> Option<i64> {
        match self {
            Self::Bool(b) => Some(i64::from(b)),
            Self::Int(i) => Some(i),
            Self::UInt(u) => i64::try_from(u).ok(),
            Self::F32(_) | Self::F64(_) => None,
        }
    }
}

impl Register {
    /// A register without scaling.
    pub fn new(table: Table, address: u16, kind: Kind) -> Self {
        Self { table, address, kind, order: ByteOrder::ABCD, bit: None, scale: 1.0, offset: 0.0, broken: None, words: Vec::new() }
    }

    /// How many registers (or bits of a bit table) it takes.
    pub fn width(&self) -> u16 {
        if self.table.is_bits() {
            return 1;
        }
        match self.kind {
            Kind::Bool | Kind::I16 | Kind::U16 => 1,
            Kind::I32 | Kind::U32 | Kind::F32 => 2,
            Kind::I64 | Kind::U64 | Kind::F64 => 4,
        }
    }

    /// The value in `words`, which are [`Register::width`] many; the error is the reason for bad quality.
    pub fn decode(&self, words: &[u16]) -> Result<Value, Arc<str>> {
        let raw = self.raw(words).ok_or("the answer is too short")?;
        if !raw.as_f64().is_finite() {
            return Err("not a number".into());
        }
        if self.broken.is_some_and(|broken| raw.is(broken)) {
            return Err("the device says the sensor is broken".into());
        }
        if let Some((_, text)) = raw.as_i64().and_then(|raw| self.words.iter().find(|(value, _)| *value == raw)) {
            return Ok(Value::Text(text.clone()));
        }
        let value = self.scaled(raw);
        if value.as_f64().is_some_and(f64::is_finite) { Ok(value) } else { Err("not a number".into()) }
    }

    #[allow(clippy::float_cmp)]
    fn scaled(&self, raw: Raw) -> Value {
        if self.scale == 1.0 && self.offset == 0.0 {
            return match raw {
                Raw::Bool(b) => Value::Bool(b),
                Raw::Int(i) => Value::Int(i),
                Raw::UInt(u) => Value::UInt(u),
                Raw::F32(f) => Value::F32(f),
                Raw::F64(f) => Value::F64(f),
            };
        }
        let value = raw.as_f64() * self.scale + self.offset;
        match raw {
            // A scaled integer has the decimals of its scale and no more.
            Raw::Bool(_) | Raw::Int(_) | Raw::UInt(_) => Value::F64(round_to(value, decimals(self.scale).max(decimals(self.offset)))),
            #[allow(clippy::cast_possible_truncation)]
            Raw::F32(_) => Value::F32(value as f32),
            Raw::F64(_) => Value::F64(value),
        }
    }

    fn raw(&self, words: &[u16]) -> Option<Raw> {
        let first = *words.first()?;
        if self.table.is_bits() {
            return Some(Raw::Bool(first != 0));
        }
        let bytes = self.in_order(words.get(..usize::from(self.width()))?);
        let number = bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        if let Some(bit) = self.bit {
            return Some(Raw::Bool(number >> bit & 1 == 1));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
        Some(match self.kind {
            Kind::Bool => Raw::Bool(number != 0),
            Kind::U16 | Kind::U32 | Kind::U64 => Raw::UInt(number),
            Kind::I16 => Raw::Int(i64::from(number as u16 as i16)),
            Kind::I32 => Raw::Int(i64::from(number as u32 as i32)),
            Kind::I64 => Raw::Int(number as i64),
            Kind::F32 => Raw::F32(f32::from_bits(number as u32)),
            Kind::F64 => Raw::F64(f64::from_bits(number)),
        })
    }

    /// The bytes, most significant first.
    fn in_order(&self, words: &[u16]) -> Vec<u8> {
        let mut words = words.to_vec();
        if self.order.swaps_words() {
            words.reverse();
        }
        words.iter().flat_map(|word| if self.order.swaps_bytes() { word.to_le_bytes() } else { word.to_be_bytes() }).collect()
    }

    /// The registers that show `value`, as near as the type allows; what a simulator answers.
    pub fn encode(&self, value: f64) -> Vec<u16> {
        if self.table.is_bits() {
            return vec![u16::from(value >= 0.5)];
        }
        let raw = (value - self.offset) / self.scale;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let number = match (self.bit, self.kind) {
            (Some(bit), _) => u64::from(value >= 0.5) << bit,
            (None, Kind::Bool) => u64::from(raw >= 0.5),
            (None, Kind::I16) => u64::from(raw.round() as i16 as u16),
            (None, Kind::U16) => u64::from(raw.round() as u16),
            (None, Kind::I32) => u64::from(raw.round() as i32 as u32),
            (None, Kind::U32) => u64::from(raw.round() as u32),
            (None, Kind::I64) => raw.round() as i64 as u64,
            (None, Kind::U64) => raw.round() as u64,
            (None, Kind::F32) => u64::from((raw as f32).to_bits()),
            (None, Kind::F64) => raw.to_bits(),
        };
        let width = usize::from(self.width());
        #[allow(clippy::cast_possible_truncation)]
        let mut words: Vec<u16> = (0..width).rev().map(|word| (number >> (16 * word)) as u16).collect();
        if self.order.swaps_bytes() {
            for word in &mut words {
                *word = word.swap_bytes();
            }
        }
        if self.order.swaps_words() {
            words.reverse();
        }
        words
    }
}

/// Digits after the point in the shortest decimal form of a number.
fn decimals(number: f64) -> usize {
    number.to_string().split_once('.').map_or(0, |(_, digits)| digits.len())
}

fn round_to(value: f64, decimals: usize) -> f64 {
    let factor = 10_f64.powi(i32::try_from(decimals.min(15)).unwrap_or(15));
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn register(kind: Kind, order: ByteOrder) -> Register {
        Register { order, ..Register::new(Table::Holding, 0, kind) }
    }

    fn check(kind: Kind, order: ByteOrder, words: &[u16], expected: &str) {
        let value = register(kind, order).decode(words).unwrap();
        assert_eq!(value.to_string(), expected, "{kind:?} {order:?}");
    }

    #[test]
    fn every_type_in_every_order() {
        use ByteOrder::{ABCD, BADC, CDAB, DCBA};
        check(Kind::F32, ABCD, &[0x4365, 0x6666], "229.4");
        check(Kind::F32, CDAB, &[0x6666, 0x4365], "229.4");
        check(Kind::F32, BADC, &[0x6543, 0x6666], "229.4");
        check(Kind::F32, DCBA, &[0x6666, 0x6543], "229.4");
        check(Kind::U16, ABCD, &[0x1234], "4660");
        check(Kind::U16, DCBA, &[0x1234], "13330");
        check(Kind::I16, ABCD, &[0xFFFE], "-2");
        check(Kind::U32, CDAB, &[0x0002, 0x0001], "65538");
        check(Kind::I32, ABCD, &[0xFFFF, 0xFFFF], "-1");
        check(Kind::I64, DCBA, &[0xFEFF, 0xFFFF, 0xFFFF, 0xFFFF], "-2");
        check(Kind::U64, CDAB, &[4, 3, 2, 1], "281483566841860");
        check(Kind::F64, ABCD, &[0x4009, 0x21FB, 0x5444, 0x2D18], "3.141592653589793");
    }

    #[test]
    fn scale_bits_words_and_sentinels() {
        let temperature = Register { scale: 0.1, broken: Some(32767.0), ..register(Kind::I16, ByteOrder::ABCD) };
        assert_eq!(temperature.decode(&[123]).unwrap().to_string(), "12.3");
        assert_eq!(temperature.decode(&[0xFFFF]).unwrap().to_string(), "-0.1");
        assert!(temperature.decode(&[32767]).unwrap_err().contains("broken"));
        let bit = Register { bit: Some(3), ..register(Kind::Bool, ByteOrder::ABCD) };
        assert_eq!((bit.decode(&[8]), bit.decode(&[7])), (Ok(Value::Bool(true)), Ok(Value::Bool(false))));
        let mode = Register { words: vec![(0, "stop".into()), (1, "auto".into())], ..register(Kind::U16, ByteOrder::ABCD) };
        assert_eq!(mode.decode(&[1]), Ok(Value::Text("auto".into())));
        assert_eq!(mode.decode(&[9]), Ok(Value::UInt(9)));
        let exact = Register { broken: Some(-999.9), ..register(Kind::F32, ByteOrder::ABCD) };
        assert!(exact.decode(&exact.encode(-999.9)).unwrap_err().contains("broken"));
        let huge = Register { scale: 1000.0, ..register(Kind::F32, ByteOrder::ABCD) };
        assert!(huge.decode(&[0x7F61, 0xB1E6]).is_err(), "3e38 x 1000 is no 32-bit float");
        assert!(register(Kind::F32, ByteOrder::ABCD).decode(&[0x7FC0, 0]).is_err());
        assert!(register(Kind::F32, ByteOrder::ABCD).decode(&[0x7FC0]).is_err());
    }

    proptest! {
        #[test]
        fn what_a_simulator_encodes_is_decoded_to_the_same_number(
            kind in prop::sample::select(vec![Kind::I16, Kind::U16, Kind::I32, Kind::U32, Kind::I64, Kind::U64, Kind::F32, Kind::F64]),
            order in prop::sample::select(vec![ByteOrder::ABCD, ByteOrder::CDAB, ByteOrder::BADC, ByteOrder::DCBA]),
            number in 0_u16..30_000,
        ) {
            let register = register(kind, order);
            let words = register.encode(f64::from(number));
            prop_assert_eq!(words.len(), usize::from(register.width()));
            prop_assert_eq!(register.decode(&words).unwrap().as_f64(), Some(f64::from(number)));
        }
    }
}
