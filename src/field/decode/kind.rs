//! The types that registers and bytes hold: their sizes, and how bytes (most significant first)
//! become raw values.

use super::bcd::{Bcd, Sign};
use super::raw::Raw;
use super::time;

/// The data type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// A coil, a discrete input, or one bit of a register.
    Bool,
    /// The low byte of a register.
    U8L,
    /// The high byte of a register.
    U8H,
    /// The low byte of a register, signed.
    I8L,
    /// The high byte of a register, signed.
    I8H,
    /// 16 bits, signed.
    I16,
    /// 16 bits.
    U16,
    /// 24 bits, signed; the low three bytes of two registers.
    I24,
    /// 24 bits; the low three bytes of two registers.
    U24,
    /// 32 bits, signed.
    I32,
    /// 32 bits.
    U32,
    /// 48 bits, signed.
    I48,
    /// 48 bits.
    U48,
    /// 64 bits, signed.
    I64,
    /// 64 bits.
    U64,
    /// IEEE 754 half precision.
    F16,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// IBM System/360 single precision.
    Ibm32,
    /// Decimal digits, one in each nibble.
    Bcd(Bcd),
    /// Two words of four decimal digits each, 0 to 9999, the first being the most significant.
    Mod10k32,
    /// Three such words.
    Mod10k48,
    /// Four such words.
    Mod10k64,
    /// 16 bits: a sign, then the magnitude.
    Sm16,
    /// 32 bits: a sign, then the magnitude.
    Sm32,
    /// Characters, as many as `length` says.
    Text,
    /// 32 bits: seconds since 1970.
    Unix32,
    /// 64 bits: seconds since 1970.
    Unix64,
    /// Date and time of IEC 60870-5 (`CP56Time2a`), seven bytes in four registers.
    Cp56,
    /// Six registers: year, month, day, hour, minute, second.
    DateTime,
    /// Six BCD bytes in three registers: year, month, day, hour, minute, second.
    BcdDateTime,
}

impl DataType {
    /// Registers it takes; `None` for text, whose length is configured.
    pub fn words(self) -> Option<u16> {
        Some(match self {
            Self::Bool
            | Self::U8L
            | Self::U8H
            | Self::I8L
            | Self::I8H
            | Self::I16
            | Self::U16
            | Self::F16
            | Self::Sm16 => 1,
            Self::I24
            | Self::U24
            | Self::I32
            | Self::U32
            | Self::F32
            | Self::Ibm32
            | Self::Mod10k32
            | Self::Sm32
            | Self::Unix32 => 2,
            Self::I48 | Self::U48 | Self::Mod10k48 | Self::BcdDateTime => 3,
            Self::I64 | Self::U64 | Self::F64 | Self::Mod10k64 | Self::Unix64 | Self::Cp56 => 4,
            Self::DateTime => 6,
            Self::Bcd(bcd) => u16::from(bcd.bytes).div_ceil(2),
            Self::Text => return None,
        })
    }

    /// Bytes it takes in a frame that is not made of registers; `None` for text.
    pub fn bytes(self) -> Option<u16> {
        Some(match self {
            Self::Bool | Self::U8L | Self::U8H | Self::I8L | Self::I8H => 1,
            Self::I24 | Self::U24 => 3,
            Self::Cp56 => 7,
            Self::Bcd(bcd) => u16::from(bcd.bytes),
            other => 2 * other.words()?,
        })
    }

    /// True for whole numbers, whose bits can be looked at.
    pub fn is_integer(self) -> bool {
        matches!(
            self,
            Self::U8L
                | Self::U8H
                | Self::I8L
                | Self::I8H
                | Self::I16
                | Self::U16
                | Self::I24
                | Self::U24
                | Self::I32
                | Self::U32
                | Self::I48
                | Self::U48
                | Self::I64
                | Self::U64
        )
    }

    /// True for what is no number: text and times.
    pub fn is_text(self) -> bool {
        matches!(
            self,
            Self::Text
                | Self::Unix32
                | Self::Unix64
                | Self::Cp56
                | Self::DateTime
                | Self::BcdDateTime
        )
    }

    /// True for dates.
    pub fn is_time(self) -> bool {
        self.is_text() && self != Self::Text
    }

    /// The least and the largest raw number it holds; `None` for floats of 32 bits and more, and
    /// for what is no number.
    pub fn range(self) -> Option<(f64, f64)> {
        let digits = |count: i32| Some((0.0, 10_f64.powi(count) - 1.0));
        #[allow(clippy::cast_possible_wrap)]
        let half = || 2_f64.powi(self.bits() as i32 - 1);
        // The largest number of double precision below 2^63 and 2^64.
        let below = |number: f64| {
            if self.bits() == 64 {
                number.next_down()
            } else {
                number - 1.0
            }
        };
        match self {
            Self::Bool => Some((0.0, 1.0)),
            Self::F16 => Some((-f64::from(half::f16::MAX), f64::from(half::f16::MAX))),
            Self::Bcd(bcd) => Some(bcd.range()),
            Self::Mod10k32 | Self::Mod10k48 | Self::Mod10k64 => {
                digits(4 * i32::from(self.words()?))
            }
            Self::Sm16 | Self::Sm32 => Some((1.0 - half(), half() - 1.0)),
            kind if kind.is_integer() && kind.is_signed() => Some((-half(), below(half()))),
            kind if kind.is_integer() => Some((0.0, below(2.0 * half()))),
            _ => None,
        }
    }

    /// Bits of a whole number.
    pub fn bits(self) -> u32 {
        match self {
            Self::Bool => 1,
            Self::U8L | Self::U8H | Self::I8L | Self::I8H => 8,
            Self::I24 | Self::U24 => 24,
            Self::Bcd(bcd) => bcd.bits(),
            Self::Cp56 => 56,
            other => 16 * u32::from(other.words().unwrap_or(1)),
        }
    }

    fn is_signed(self) -> bool {
        matches!(
            self,
            Self::I8L | Self::I8H | Self::I16 | Self::I24 | Self::I32 | Self::I48 | Self::I64
        )
    }

    /// The raw value of `bytes`, most significant first, as long as the registers or bytes it
    /// takes.
    pub(super) fn decode(self, bytes: &[u8], zone: &str) -> Result<Raw, &'static str> {
        let number = bytes
            .iter()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        match self {
            Self::Bool => Ok(Raw::Bool(number != 0)),
            Self::U8H | Self::I8H if bytes.len() > 1 => Ok(self.integer(number >> 8)),
            kind if kind.is_integer() => Ok(kind.integer(number)),
            #[allow(clippy::cast_possible_truncation)]
            Self::F16 => Ok(Raw::F32(half::f16::from_bits(number as u16).to_f32())),
            #[allow(clippy::cast_possible_truncation)]
            Self::F32 => Ok(Raw::F32(f32::from_bits(number as u32))),
            Self::F64 => Ok(Raw::F64(f64::from_bits(number))),
            Self::Ibm32 => Ok(Raw::F64(from_ibm(number))),
            Self::Bcd(bcd) => decode_bcd(bcd, number),
            Self::Mod10k32 | Self::Mod10k48 | Self::Mod10k64 => from_mod10k(bytes)
                .map(Raw::UInt)
                .ok_or("not a decimal number (mod 10000)"),
            Self::Sm16 | Self::Sm32 => Ok(Raw::Int(self.sign_magnitude(number))),
            Self::Unix32 | Self::Unix64 => time::from_unix(number),
            Self::Cp56 => time::from_cp56(bytes, zone),
            Self::DateTime => time::from_registers(bytes, zone),
            Self::BcdDateTime => time::from_bcd(bytes, zone),
            _ => Err("text has no number"),
        }
    }

    #[allow(clippy::cast_possible_wrap)]
    fn integer(self, number: u64) -> Raw {
        let unused = 64 - self.bits();
        if self.is_signed() {
            Raw::Int((number << unused) as i64 >> unused)
        } else {
            Raw::UInt(number << unused >> unused)
        }
    }

    /// The bytes of a raw number, most significant first; the error says why this type cannot hold
    /// it.
    pub fn encode(self, raw: Raw) -> Result<Vec<u8>, String> {
        let most = match self {
            Self::F16 => f64::from(half::f16::MAX),
            Self::F32 => f64::from(f32::MAX),
            Self::Ibm32 => 7.2e75,
            _ => f64::INFINITY,
        };
        if raw.as_f64().abs() > most {
            return Err(self.does_not_hold(&raw));
        }
        let size = usize::from(2 * self.words().unwrap_or(1));
        let number = self.bits_of(&raw)?;
        Ok(number
            .to_be_bytes()
            .get(8_usize.saturating_sub(size)..)
            .unwrap_or_default()
            .to_vec())
    }

    /// The bits of a raw number in this type.
    fn bits_of(self, raw: &Raw) -> Result<u64, String> {
        Ok(match self {
            Self::Bool => u64::from(raw.as_f64() != 0.0),
            kind if kind.is_integer() => {
                let number = self.fitting(raw)?;
                if matches!(self, Self::U8H | Self::I8H) {
                    (number & 0xFF) << 8
                } else {
                    number
                }
            }
            #[allow(clippy::cast_possible_truncation)]
            Self::F16 => u64::from(half::f16::from_f32(raw.as_f64() as f32).to_bits()),
            #[allow(clippy::cast_possible_truncation)]
            Self::F32 => u64::from((raw.as_f64() as f32).to_bits()),
            Self::F64 => raw.as_f64().to_bits(),
            Self::Ibm32 => to_ibm(raw.as_f64()),
            Self::Bcd(bcd) => whole(raw)
                .and_then(|whole| bcd.bits_of(whole))
                .ok_or_else(|| self.does_not_hold(raw))?,
            Self::Mod10k32 | Self::Mod10k48 | Self::Mod10k64 => self.in_thousands(raw)?,
            Self::Sm16 | Self::Sm32 => self.sign_magnitude_of(raw)?,
            Self::Unix32 => self.unix_of(raw, u32::MAX.into())?,
            Self::Unix64 => self.unix_of(raw, u64::MAX)?,
            _ => {
                return Err(format!(
                    "values of the type {} cannot be written",
                    self.name()
                ));
            }
        })
    }

    fn sign_magnitude(self, number: u64) -> i64 {
        let sign = 1_u64 << (self.bits() - 1);
        let magnitude = i64::try_from(number & !sign).unwrap_or(0);
        if number & sign == 0 {
            magnitude
        } else {
            -magnitude
        }
    }

    fn sign_magnitude_of(self, raw: &Raw) -> Result<u64, String> {
        let whole = whole(raw).ok_or_else(|| self.does_not_hold(raw))?;
        let magnitude = u64::try_from(whole.unsigned_abs()).unwrap_or(u64::MAX);
        let sign = 1_u64 << (self.bits() - 1);
        if magnitude >= sign {
            return Err(self.does_not_hold(raw));
        }
        Ok(magnitude | if whole < 0 { sign } else { 0 })
    }

    /// Seconds since 1970, `most` at the latest.
    fn unix_of(self, raw: &Raw, most: u64) -> Result<u64, String> {
        whole(raw)
            .and_then(|whole| u64::try_from(whole).ok())
            .filter(|seconds| *seconds <= most)
            .ok_or_else(|| self.does_not_hold(raw))
    }

    /// The bytes that a simulator shows for a raw number that is in the range, most significant
    /// first: what cannot be written, too.
    pub(super) fn shown(self, raw: Raw) -> Vec<u8> {
        let size = usize::from(2 * self.words().unwrap_or(1));
        let bytes = match self {
            Self::Cp56 => time::to_cp56(raw.as_f64()),
            Self::DateTime => time::to_registers(raw.as_f64()),
            Self::BcdDateTime => time::to_bcd(raw.as_f64()),
            other => other.encode(raw).ok(),
        };
        bytes.unwrap_or_else(|| vec![0; size])
    }

    fn does_not_hold(self, raw: &Raw) -> String {
        format!("the type {} does not hold {}", self.name(), raw.as_f64())
    }

    /// The bits of a whole number that fits this integer type.
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation)]
    fn fitting(self, raw: &Raw) -> Result<u64, String> {
        let whole = whole(raw).ok_or_else(|| self.does_not_hold(raw))?;
        let bits = self.bits();
        let (low, high) = if self.is_signed() {
            (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1)
        } else {
            (0, (1_i128 << bits) - 1)
        };
        if !(low..=high).contains(&whole) {
            return Err(self.does_not_hold(raw));
        }
        let mask = (1_i128 << bits) - 1;
        Ok((whole & mask) as u64)
    }

    /// Words of four decimal digits each.
    fn in_thousands(self, raw: &Raw) -> Result<u64, String> {
        let whole = whole(raw)
            .and_then(|whole| u64::try_from(whole).ok())
            .ok_or_else(|| self.does_not_hold(raw))?;
        let (mut rest, mut number) = (whole, 0_u64);
        for word in 0..self.words().unwrap_or(1) {
            number |= (rest % 10_000) << (16 * word);
            rest /= 10_000;
        }
        if rest == 0 {
            Ok(number)
        } else {
            Err(self.does_not_hold(raw))
        }
    }

    /// True if a register of this type can hold `number`, or holds the bits that `number` is
    /// written with (0x8000 in an i16, 0xFFFF in a bcd16).
    pub fn holds(self, number: f64) -> bool {
        let are_bits = || number.fract() == 0.0 && (0.0..=self.most_bits()).contains(&number);
        match self {
            Self::F16 | Self::F32 | Self::F64 | Self::Ibm32 => true,
            // Longer than any number.
            Self::DateTime | Self::Text => false,
            kind if kind.is_signed() => {
                number.fract() == 0.0
                    && (-(self.most_bits() + 1.0) / 2.0..=self.most_bits()).contains(&number)
            }
            kind if kind.is_integer() || kind == Self::Bool => are_bits(),
            kind => kind.shows(number) || are_bits(),
        }
    }

    /// The greatest number that its bits make.
    #[allow(clippy::cast_possible_wrap)]
    fn most_bits(self) -> f64 {
        if self.bits() >= 64 {
            1.9e19
        } else {
            2_f64.powi(self.bits() as i32) - 1.0
        }
    }

    /// True if a sentinel is the number that is read, and not its bits: of the types whose number
    /// is not made of all the bits.
    pub(super) fn shows(self, number: f64) -> bool {
        match self {
            Self::Bcd(bcd) => bcd.shows(number),
            Self::Mod10k32 | Self::Mod10k48 | Self::Mod10k64 => {
                number.fract() == 0.0
                    && (0.0..10_000_f64.powi(i32::from(self.words().unwrap_or(1))))
                        .contains(&number)
            }
            Self::Sm16 | Self::Sm32 => {
                number.fract() == 0.0 && number.abs() <= (self.most_bits() - 1.0) / 2.0
            }
            Self::Unix32
            | Self::Unix64
            | Self::Cp56
            | Self::DateTime
            | Self::BcdDateTime
            | Self::Text => false,
            _ => true,
        }
    }

    /// The value of a sentinel that is written as plain bits: 32768 is -32768 in an i16.
    #[allow(clippy::cast_possible_wrap)]
    pub fn as_held(self, number: f64) -> f64 {
        if !self.is_signed() {
            return number;
        }
        let whole = 2_f64.powi(self.bits() as i32);
        if number >= whole / 2.0 {
            number - whole
        } else {
            number
        }
    }
}

fn decode_bcd(bcd: Bcd, number: u64) -> Result<Raw, &'static str> {
    match (bcd.number(number), bcd.sign) {
        (Some(number), Sign::Never) => Ok(Raw::UInt(number.unsigned_abs())),
        (Some(number), _) => Ok(Raw::Int(number)),
        (None, _) => Err("not a decimal number (BCD)"),
    }
}

/// A whole number, rounded to the nearest.
#[allow(clippy::cast_possible_truncation)]
fn whole(raw: &Raw) -> Option<i128> {
    match raw {
        Raw::Bool(b) => Some(i128::from(*b)),
        Raw::Int(i) => Some(i128::from(*i)),
        Raw::UInt(u) => Some(i128::from(*u)),
        Raw::F32(_) | Raw::F64(_) => Some(raw.as_f64().round())
            .filter(|f| f.is_finite() && f.abs() < 1e30)
            .map(|f| f as i128),
        Raw::Text(_) => None,
    }
}

fn from_mod10k(bytes: &[u8]) -> Option<u64> {
    let words = bytes.chunks_exact(2).map(|pair| {
        pair.iter()
            .fold(0_u64, |word, byte| word << 8 | u64::from(*byte))
    });
    words.into_iter().try_fold(0_u64, |number, word| {
        (word < 10_000).then(|| number * 10_000 + word)
    })
}

/// Sign, seven bits of exponent to the base 16 around 64, 24 bits of fraction.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap
)]
fn from_ibm(number: u64) -> f64 {
    let fraction = (number & 0x00FF_FFFF) as f64 / f64::from(1 << 24);
    let exponent = ((number >> 24) & 0x7F) as i32 - 64;
    let magnitude = fraction * 16_f64.powi(exponent);
    if number & 0x8000_0000 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn to_ibm(value: f64) -> u64 {
    if value == 0.0 {
        return 0;
    }
    let mut fraction = value.abs();
    let mut exponent = 64_i32;
    while fraction >= 1.0 {
        fraction /= 16.0;
        exponent += 1;
    }
    while fraction < 1.0 / 16.0 && exponent > 0 {
        fraction *= 16.0;
        exponent -= 1;
    }
    let sign = if value < 0.0 { 0x8000_0000 } else { 0 };
    sign | (exponent.clamp(0, 127) as u64) << 24
        | ((fraction * f64::from(1 << 24)) as u64).min(0x00FF_FFFF)
}
