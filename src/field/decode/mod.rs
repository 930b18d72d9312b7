//! Registers and bytes to values and back. Pure.
//!
//! Used for Modbus registers and for the bytes of plain serial frames alike. A type is a line in
//! `kind`.

mod bcd;
pub mod guess;
mod kind;
mod names;
mod order;
mod other_names;
mod raw;
mod register;
mod time;
mod written;

use std::sync::Arc;

pub use bcd::{Bcd, Sign};
pub use kind::DataType;
pub use order::ByteOrder;
pub use raw::Raw;
pub use register::Register;

use crate::reading::Value;

/// The four tables of Modbus, and its files.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// Read and write bits.
    Coil,
    /// Read-only bits.
    Discrete,
    /// Read-only registers.
    Input,
    /// Read and write registers.
    Holding,
    /// The records of a file with this number, each a register [Modbus application protocol 1.1b3,
    /// 6.14].
    File(u16),
}

/// The records of a file: 0 to 9999 [Modbus application protocol 1.1b3, 6.14].
pub const RECORDS: u16 = 10_000;

impl Table {
    /// True for coils and discrete inputs.
    pub fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }

    /// As in the YAML: `holding`, `input`, `coil`, `discrete`, `file`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coil => "coil",
            Self::Discrete => "discrete",
            Self::Input => "input",
            Self::Holding => "holding",
            Self::File(_) => "file",
        }
    }

    /// An address in words, such as `holding 100` or `file 4, record 10`.
    pub fn place(self, address: u32) -> String {
        match self {
            Self::File(file) => format!("file {file}, record {address}"),
            table => format!("{} {address}", table.name()),
        }
    }

    /// The number of addresses.
    pub fn places(self) -> u32 {
        if matches!(self, Self::File(_)) {
            RECORDS.into()
        } else {
            65_536
        }
    }
}

/// A part of a whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// One bit, 0 being the least significant.
    Bit(u8),
    /// Some bits, from the lowest on.
    Bits {
        /// 0 is the least significant.
        low: u8,
        /// The number of bits.
        count: u8,
    },
}

/// Which bytes of registers hold the characters of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Characters {
    /// Two in each register.
    #[default]
    Both,
    /// One in each register, in the low byte.
    Low,
    /// One in each register, in the high byte.
    High,
}

/// Several values of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array {
    /// The number of values.
    pub count: u16,
    /// Registers (or bytes) from the beginning of one to the beginning of the next.
    pub stride: u16,
}

/// A raw value that means "no value".
#[derive(Debug, Clone, PartialEq)]
pub enum Sentinel {
    /// A number; where the type cannot show it, its bits.
    Number(f64),
    /// All numbers from the first to the last, as a register holds them before scale and offset.
    Range(f64, f64),
    /// The text of a string or a date.
    Text(Arc<str>),
}

/// The meaning of registers or bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Meaning {
    /// The type.
    pub kind: DataType,
    /// Order of bytes and words.
    pub order: ByteOrder,
    /// The part of a whole number.
    pub part: Part,
    /// Value = raw x scale + offset.
    pub scale: f64,
    /// See `scale`.
    pub offset: f64,
    /// Digits after the point; `None`: as many as scale and offset have.
    pub decimals: Option<u8>,
    /// Raw values that mean "no value".
    pub broken: Arc<[Sentinel]>,
    /// Text for raw values; those without stay numbers.
    pub words: Arc<[(i64, Arc<str>)]>,
    /// Names of bits; the value is the list of those that are set.
    pub flags: Arc<[(u8, Arc<str>)]>,
    /// Values below are not plausible.
    pub min: Option<f64>,
    /// Values above are not plausible.
    pub max: Option<f64>,
    /// Length of a text, in registers or bytes.
    pub length: u16,
    /// The bytes that hold the characters of a text.
    pub characters: Characters,
    /// The zone of dates, such as `Z` or `+02:00`.
    pub zone: Arc<str>,
    /// Several of them.
    pub array: Option<Array>,
    /// Numbers become text, because a receiver may not hold 64 bits.
    pub as_text: bool,
}

impl Default for Meaning {
    fn default() -> Self {
        Self::new(DataType::U16)
    }
}

impl Meaning {
    /// A plain value.
    pub fn new(kind: DataType) -> Self {
        Self {
            kind,
            order: ByteOrder::ABCD,
            part: Part::Whole,
            scale: 1.0,
            offset: 0.0,
            decimals: None,
            broken: Arc::default(),
            words: Arc::default(),
            flags: Arc::default(),
            min: None,
            max: None,
            length: 0,
            characters: Characters::Both,
            zone: Arc::from("Z"),
            array: None,
            as_text: false,
        }
    }

    /// Numbers that mean "no value": the first and the last of each range, which are one for a
    /// number by itself.
    pub fn broken_numbers(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.broken.iter().filter_map(|broken| match broken {
            Sentinel::Number(number) => Some((*number, *number)),
            Sentinel::Range(first, last) => Some((*first, *last)),
            Sentinel::Text(_) => None,
        })
    }

    /// Registers one value takes.
    fn words_each(&self) -> u16 {
        self.kind.words().unwrap_or(self.length).max(1)
    }

    /// Bytes one value takes in a frame that is not made of registers.
    fn bytes_each(&self) -> u16 {
        self.kind.bytes().unwrap_or(self.length).max(1)
    }

    /// Bytes it takes in a frame that is not made of registers.
    pub fn bytes(&self) -> usize {
        self.span(self.bytes_each())
    }

    fn span(&self, each: u16) -> usize {
        self.array.map_or(usize::from(each), |array| {
            usize::from(array.stride) * usize::from(array.count.saturating_sub(1))
                + usize::from(each)
        })
    }

    /// The value in the bytes of a frame; the error is the reason for bad quality.
    pub fn decode_bytes(&self, bytes: &[u8]) -> Result<Value, Arc<str>> {
        let each = usize::from(self.bytes_each());
        self.elements(
            usize::from(self.array.map_or(0, |array| array.stride)),
            |from| {
                let bytes = bytes
                    .get(from..from + each)
                    .ok_or("the frame is too short")?;
                if self.kind == DataType::Text {
                    return self.text(bytes);
                }
                let mut bytes = bytes.to_vec();
                self.order.arrange(&mut bytes);
                self.value(&bytes, None)
            },
        )
    }

    /// Text as an instrument wrote it: a number if the type is one.
    pub fn decode_text(&self, text: &str) -> Result<Value, Arc<str>> {
        let text = text.trim();
        let unreadable = || {
            Arc::from(format!(
                "`{}` is not a number",
                text.chars().take(40).collect::<String>()
            ))
        };
        self.is_there(text)?;
        let raw = if self.kind.is_text() {
            return Ok(Value::Text(text.into()));
        } else if self.kind == DataType::Bool {
            match text.to_ascii_lowercase().as_str() {
                "1" | "true" | "on" | "yes" => Raw::Bool(true),
                "0" | "false" | "off" | "no" => Raw::Bool(false),
                _ => return Err(unreadable()),
            }
        } else {
            // Some write a decimal comma, a plus sign, or blanks between sign and digits.
            let plain: String = text
                .chars()
                .filter(|c| !c.is_whitespace())
                .map(|c| if c == ',' { '.' } else { c })
                .collect();
            let plain = plain.strip_prefix('+').unwrap_or(&plain);
            match (self.kind, plain.parse::<i64>()) {
                (kind, Ok(whole)) if kind.is_integer() => Raw::Int(whole),
                (DataType::F32, _) => Raw::F32(plain.parse().map_err(|_| unreadable())?),
                _ => Raw::F64(plain.parse().map_err(|_| unreadable())?),
            }
        };
        self.meant(raw, None)
    }

    fn elements(
        &self,
        stride: usize,
        one: impl Fn(usize) -> Result<Value, Arc<str>>,
    ) -> Result<Value, Arc<str>> {
        let Some(array) = self.array else {
            return one(0);
        };
        let all = (0..usize::from(array.count)).map(|index| {
            one(index * stride).map_err(|why| Arc::from(format!("element {index}: {why}")))
        });
        all.collect::<Result<Vec<Value>, Arc<str>>>()
            .map(Value::List)
    }

    fn text(&self, bytes: &[u8]) -> Result<Value, Arc<str>> {
        let end = bytes
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(bytes.len());
        let bytes = bytes.get(..end).unwrap_or_default();
        // Devices that are not of UTF-8 are mostly of Latin-1, where every byte is a character.
        let text = std::str::from_utf8(bytes).map_or_else(
            |_| bytes.iter().map(|byte| char::from(*byte)).collect(),
            str::to_owned,
        );
        let text = text.trim();
        self.is_there(text)?;
        Ok(Value::Text(text.into()))
    }

    /// Fails if the device reports that it has no value.
    fn is_there(&self, text: &str) -> Result<(), Arc<str>> {
        let is_broken = self
            .broken
            .iter()
            .any(|broken| matches!(broken, Sentinel::Text(broken) if **broken == *text));
        if is_broken {
            Err(NO_VALUE.into())
        } else {
            Ok(())
        }
    }

    /// True if a range of numbers that mean "no value" fits, by its first and its last.
    fn is_broken(&self, fits: impl Fn(f64, f64) -> bool) -> bool {
        self.broken_numbers().any(|(first, last)| fits(first, last))
    }

    /// The value of bytes that are most significant first.
    fn value(&self, bytes: &[u8], exponent: Option<i32>) -> Result<Value, Arc<str>> {
        let bits = bytes
            .iter()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
            & ones(u8::try_from(self.kind.bits()).unwrap_or(64));
        #[allow(clippy::cast_precision_loss)]
        let is_hidden = |first: f64, last: f64| !(self.kind.shows(first) && self.kind.shows(last));
        if self.is_broken(|first, last| {
            is_hidden(first, last) && (first..=last).contains(&(bits as f64))
        }) {
            return Err(NO_VALUE.into());
        }
        let raw = match (self.kind, self.part) {
            (DataType::Bcd(_), Part::Bits { low, count }) => {
                let part = bits.checked_shr(u32::from(low)).unwrap_or(0) & ones(count);
                bcd::digits(part, u32::from(count))
                    .map(Raw::UInt)
                    .ok_or("not a decimal number (BCD)")
            }
            (kind, _) => kind.decode(bytes, &self.zone),
        };
        match (raw, self.kind) {
            // Meters show errors with digits above nine.
            (Err(why), DataType::Bcd(bcd)) => {
                Err(format!("{why}: {bits:0width$X}", width = 2 * usize::from(bcd.bytes)).into())
            }
            (raw, _) => self.meant(raw?, exponent),
        }
    }

    fn meant(&self, raw: Raw, exponent: Option<i32>) -> Result<Value, Arc<str>> {
        if let Raw::Text(text) = raw {
            self.is_there(&text)?;
            return Ok(Value::Text(text));
        }
        if !raw.as_f64().is_finite() {
            return Err("not a number".into());
        }
        if self.is_broken(|first, last| {
            raw.is_between(self.kind.as_held(first), self.kind.as_held(last))
        }) {
            return Err(NO_VALUE.into());
        }
        let raw = self.part_of(raw);
        if !self.flags.is_empty() {
            return Ok(self.names_of_bits(&raw));
        }
        if let Some((_, text)) = raw
            .as_i64()
            .and_then(|raw| self.words.iter().find(|(value, _)| *value == raw))
        {
            return Ok(Value::Text(text.clone()));
        }
        let value = self.scaled(&raw, exponent);
        let Some(number) = value.as_f64().filter(|number| number.is_finite()) else {
            return Err("not a number".into());
        };
        if self.min.is_some_and(|min| number < min) || self.max.is_some_and(|max| number > max) {
            return Err(format!("not plausible: {value}").into());
        }
        Ok(if self.as_text {
            Value::Text(value.to_string().into())
        } else {
            value
        })
    }

    #[allow(clippy::cast_sign_loss)]
    fn part_of(&self, raw: Raw) -> Raw {
        if matches!(self.kind, DataType::Bcd(_)) {
            // Its part was taken before its digits were read.
            return raw;
        }
        let bits = match raw {
            Raw::Int(i) => i as u64,
            Raw::UInt(u) => u,
            other => return other,
        };
        match self.part {
            Part::Whole => raw,
            Part::Bit(bit) => Raw::Bool(bits.checked_shr(u32::from(bit)).unwrap_or(0) & 1 == 1),
            Part::Bits { low, count } => {
                Raw::UInt(bits.checked_shr(u32::from(low)).unwrap_or(0) & ones(count))
            }
        }
    }

    #[allow(clippy::cast_sign_loss)]
    fn names_of_bits(&self, raw: &Raw) -> Value {
        let bits = raw.as_i64().map_or_else(
            || if let Raw::UInt(u) = raw { *u } else { 0 },
            |bits| bits as u64,
        );
        let set = (0..64_u8).filter(|bit| bits >> bit & 1 == 1);
        let name = |bit: u8| {
            self.flags
                .iter()
                .find(|(known, _)| *known == bit)
                .map(|(_, name)| name.clone())
        };
        Value::List(
            set.map(|bit| Value::Text(name(bit).unwrap_or_else(|| format!("bit {bit}").into())))
                .collect(),
        )
    }

    #[allow(clippy::float_cmp)]
    fn scaled(&self, raw: &Raw, exponent: Option<i32>) -> Value {
        let factor = exponent.map_or(self.scale, |exponent| self.scale * 10_f64.powi(exponent));
        if factor == 1.0 && self.offset == 0.0 && self.decimals.is_none() {
            return match raw {
                Raw::Bool(b) => Value::Bool(*b),
                Raw::Int(i) => Value::Int(*i),
                Raw::UInt(u) => Value::UInt(*u),
                Raw::F32(f) => Value::F32(*f),
                other => Value::F64(other.as_f64()),
            };
        }
        let value = raw.as_f64() * factor + self.offset;
        if let Some(decimals) = self.decimals {
            return Value::F64(round_to(value, usize::from(decimals)));
        }
        match raw {
            #[allow(clippy::cast_possible_truncation)]
            Raw::F32(_) => Value::F32(value as f32),
            Raw::F64(_) | Raw::Text(_) => Value::F64(value),
            // A scaled integer has the decimals of its scale and no more.
            _ => Value::F64(round_to(value, decimals(factor).max(decimals(self.offset)))),
        }
    }

    /// The raw value of a value to be written; the error says why there is none.
    #[allow(clippy::float_cmp)]
    pub fn raw_of(&self, value: &Value) -> Result<Raw, String> {
        let is_unscaled = self.scale == 1.0 && self.offset == 0.0;
        match value {
            Value::List(_) => Err("a list cannot be written".to_owned()),
            Value::Bool(b) if matches!(self.part, Part::Bit(_)) || self.kind == DataType::Bool => {
                Ok(Raw::Bool(*b))
            }
            Value::Bool(_) => Err("true and false are for single bits; write a number".to_owned()),
            _ if !self.words.is_empty() => self.raw_of_word(value),
            Value::Text(text) => Err(format!("\"{text}\" is not a number")),
            Value::Int(i) if is_unscaled => Ok(Raw::Int(*i)),
            Value::UInt(u) if is_unscaled => Ok(Raw::UInt(*u)),
            other => {
                let raw = (other.as_f64().unwrap_or(f64::NAN) - self.offset) / self.scale;
                if raw.is_finite() {
                    Ok(Raw::F64(raw))
                } else {
                    Err("not a number".to_owned())
                }
            }
        }
    }

    /// The raw value that has a text, by the text or by the raw value itself.
    fn raw_of_word(&self, value: &Value) -> Result<Raw, String> {
        let mut words = self.words.iter();
        let found = words.find(|(raw, word)| match value {
            Value::Text(text) => word == text,
            Value::Int(i) => raw == i,
            _ => false,
        });
        found.map(|(raw, _)| Raw::Int(*raw)).ok_or_else(|| {
            let known: Vec<&str> = self.words.iter().map(|(_, word)| word.as_ref()).collect();
            let given = match value {
                Value::Text(text) => format!("\"{text}\""),
                other => other.to_string(),
            };
            format!("{given} is not one of {}", known.join(", "))
        })
    }

    /// The least and the largest raw number that its type, or its bits, hold; `None` where that is
    /// no bound.
    pub fn raw_range(&self) -> Option<(f64, f64)> {
        #[allow(clippy::cast_precision_loss)]
        match self.part {
            Part::Bit(_) => Some((0.0, 1.0)),
            Part::Bits { count, .. } => Some((0.0, ones(count) as f64)),
            Part::Whole => self.kind.range(),
        }
    }

    /// The bytes of one value in a frame that is not made of registers, as a simulator shows it.
    pub fn encode_bytes(&self, value: f64) -> Vec<u8> {
        let mut bytes = self
            .kind
            .shown(self.nearest((value - self.offset) / self.scale));
        let length = usize::from(self.bytes_each());
        // Types of one or three bytes are the low ones of their registers.
        bytes.drain(..bytes.len().saturating_sub(length));
        self.order.arrange(&mut bytes);
        bytes
    }

    /// `raw` as near as the type allows; for what a simulator shows.
    fn nearest(&self, raw: f64) -> Raw {
        Raw::F64(
            self.raw_range()
                .map_or(raw, |(least, most)| raw.clamp(least, most)),
        )
    }
}

/// The reason for bad quality at a sentinel.
const NO_VALUE: &str = "the device reports that it has no value";

fn ones(count: u8) -> u64 {
    1_u64
        .checked_shl(u32::from(count))
        .map_or(u64::MAX, |bit| bit - 1)
}

/// Digits after the point in the shortest decimal form of a number.
fn decimals(number: f64) -> usize {
    number
        .to_string()
        .split_once('.')
        .map_or(0, |(_, digits)| digits.len())
}

/// Rounded to a number of digits after the point.
pub(super) fn round_to(value: f64, decimals: usize) -> f64 {
    let factor = 10_f64.powi(i32::try_from(decimals.min(15)).unwrap_or(15));
    let scaled = value * factor;
    if scaled.abs() < 9e15 {
        scaled.round() / factor
    } else {
        value
    }
}

mod tests;
