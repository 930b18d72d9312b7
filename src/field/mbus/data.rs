//! The data of a record: integers, BCD, floats, text and times [EN 13757-3, annex A]. Pure; reads
//! no byte that is not there.

use std::sync::Arc;

use crate::field::meter_units::MeterNumber;

/// The value of a record as sent.
#[derive(Debug, Clone, PartialEq)]
pub enum RawValue {
    /// The record has no data.
    Nothing,
    /// A number.
    Number(MeterNumber),
    /// Text, or a time: `2026-01-31`, `2026-01-31T08:15`, `08:15:30`.
    Text(Arc<str>),
    /// What the meter sends in place of a value.
    Invalid(&'static str),
}

/// How data is coded, by the low half of the DIF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// No data.
    Nothing,
    /// Signed, of so many bytes.
    Integer(usize),
    /// A float of four bytes.
    Float,
    /// Digits, two a byte.
    Bcd(usize),
    /// The first byte says how long it is.
    Variable,
}

impl Coding {
    /// Of a data field; `None` for special functions.
    pub(super) fn of(field: u8) -> Option<Self> {
        Some(match field & 0x0F {
            0x00 | 0x08 => Self::Nothing,
            bytes @ 0x01..=0x04 => Self::Integer(usize::from(bytes)),
            0x05 => Self::Float,
            0x06 => Self::Integer(6),
            0x07 => Self::Integer(8),
            bytes @ 0x09..=0x0C => Self::Bcd(usize::from(bytes - 8)),
            0x0D => Self::Variable,
            0x0E => Self::Bcd(6),
            _ => return None,
        })
    }

    /// The length of its data; variable data has a first byte that says so.
    pub(super) fn length(self) -> Option<usize> {
        match self {
            Self::Nothing => Some(0),
            Self::Integer(bytes) | Self::Bcd(bytes) => Some(bytes),
            Self::Float => Some(4),
            Self::Variable => None,
        }
    }
}

/// What data means beyond its coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sense {
    /// A number with a unit: the largest negative integer says that there is none.
    Measured,
    /// A number without.
    Plain,
    /// A date, a time, or both.
    Time,
}

/// The value in data of a fixed length, least significant byte first.
pub(super) fn value(coding: Coding, sense: Sense, bytes: &[u8]) -> RawValue {
    match coding {
        Coding::Nothing | Coding::Variable => RawValue::Nothing,
        Coding::Integer(_) if sense == Sense::Time => time(bytes),
        Coding::Integer(_) => integer(bytes, sense),
        Coding::Float => float(bytes),
        Coding::Bcd(_) => bcd(bytes),
    }
}

fn number(mantissa: i64) -> RawValue {
    let exponent = 0;
    RawValue::Number(MeterNumber::Exact { mantissa, exponent })
}

fn integer(bytes: &[u8], sense: Sense) -> RawValue {
    let width = u32::try_from(bytes.len() * 8).unwrap_or(u32::MAX);
    if !(8..=64).contains(&width) {
        return RawValue::Invalid("its length is not that of a number");
    }
    let raw = bytes
        .iter()
        .rev()
        .fold(0_u64, |raw, byte| (raw << 8) | u64::from(*byte));
    let spare = 64 - width;
    let signed = (raw << spare).cast_signed() >> spare;
    let least = i64::MIN >> spare;
    if sense == Sense::Measured && signed == least && width > 8 {
        return RawValue::Invalid("the meter has no value");
    }
    number(signed)
}

fn float(bytes: &[u8]) -> RawValue {
    let Ok(bytes) = <[u8; 4]>::try_from(bytes) else {
        return RawValue::Invalid("its length is not that of a number");
    };
    let number = f32::from_le_bytes(bytes);
    if !number.is_finite() {
        return RawValue::Invalid("the meter has no value");
    }
    RawValue::Number(MeterNumber::Float {
        number,
        exponent: 0,
    })
}

/// Digits, the last two first; F in the place of the first digit is a minus sign.
fn bcd(bytes: &[u8]) -> RawValue {
    let nibbles = bytes.iter().rev().flat_map(|byte| [byte >> 4, byte & 0x0F]);
    let (mut digits, mut is_negative) = (0_i64, false);
    for (place, nibble) in nibbles.enumerate() {
        match nibble {
            0..=9 => match digits.checked_mul(10) {
                Some(tens) => digits = tens + i64::from(nibble),
                None => return RawValue::Invalid("it has too many digits"),
            },
            0x0F if place == 0 => is_negative = true,
            _ => return RawValue::Invalid("the meter has no value: digits that are not decimal"),
        }
    }
    number(if is_negative { -digits } else { digits })
}

/// Variable data: the length byte `length` with what follows; also how many bytes that are. `None`:
/// the data ends before, or the byte is reserved.
pub(super) fn variable(length: u8, rest: &[u8]) -> Option<(RawValue, usize)> {
    let (count, is_text) = match length {
        0x00..=0xBF => (usize::from(length), true),
        0xC0..=0xC9 => (usize::from(length - 0xC0), false),
        0xD0..=0xD9 => (usize::from(length - 0xD0), false),
        0xE0..=0xEF => (usize::from(length - 0xE0), false),
        0xF0..=0xF4 => (4 * usize::from(length - 0xEC), false),
        0xF5 => (48, false),
        0xF6 => (64, false),
        _ => return None,
    };
    let bytes = rest.get(..count)?;
    let value = if is_text {
        RawValue::Text(text(bytes).into())
    } else {
        match length {
            0xC0..=0xC9 => bcd(bytes),
            0xD0..=0xD9 => negative(bcd(bytes)),
            0xE0..=0xE8 if count > 0 => integer(bytes, Sense::Plain),
            _ => RawValue::Text(hexadecimal(bytes).into()),
        }
    };
    Some((value, count))
}

fn negative(value: RawValue) -> RawValue {
    match value {
        RawValue::Number(MeterNumber::Exact { mantissa, exponent }) => {
            RawValue::Number(MeterNumber::Exact {
                mantissa: mantissa.saturating_neg(),
                exponent,
            })
        }
        other => other,
    }
}

/// Characters of ISO 8859-1, the last one first; without those that no screen shows.
pub(super) fn text(bytes: &[u8]) -> String {
    let characters = bytes.iter().rev().map(|byte| char::from(*byte));
    let shown: String = characters.filter(|c| !c.is_control()).collect();
    shown.trim().to_owned()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .rev()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

const NOT_SET: RawValue = RawValue::Invalid("the meter has no valid time");

/// Types G (date), J (time), F (date and time) and I (with seconds), by their length.
fn time(bytes: &[u8]) -> RawValue {
    match *bytes {
        [low, high] => date(low, high),
        [second, minute, hour] => {
            let (second, minute, hour) = (second & 0x3F, minute & 0x3F, hour & 0x1F);
            if second > 59 || minute > 59 || hour > 23 {
                return NOT_SET;
            }
            RawValue::Text(format!("{hour:02}:{minute:02}:{second:02}").into())
        }
        [minute, hour, day, month] => date_and_time(None, [minute, hour, day, month]),
        [second, minute, hour, day, month, _] => {
            date_and_time(Some(second & 0x3F), [minute, hour, day, month])
        }
        _ => RawValue::Invalid("its length is not that of a time"),
    }
}

/// Day, month and year of the two bytes that all types share.
fn day_of(low: u8, high: u8) -> Option<(u16, u8, u8)> {
    let (day, month) = (low & 0x1F, high & 0x0F);
    let year = ((high & 0xF0) >> 1) | (low >> 5);
    let is_date = (1..=31).contains(&day) && (1..=12).contains(&month) && year <= 99;
    // Type F may add hundreds; a meter without them is of this century, or of the end of the last.
    let century = if year > 80 { 1900 } else { 2000 };
    is_date.then_some((century + u16::from(year), month, day))
}

fn date(low: u8, high: u8) -> RawValue {
    match day_of(low, high) {
        Some((year, month, day)) => RawValue::Text(format!("{year:04}-{month:02}-{day:02}").into()),
        None => NOT_SET,
    }
}

fn date_and_time(second: Option<u8>, [minute, hour, low, high]: [u8; 4]) -> RawValue {
    // Bit 7 says that the clock is not valid.
    if minute & 0x80 != 0 && second.is_none() {
        return NOT_SET;
    }
    let hundreds = u16::from((hour >> 5) & 0x03);
    let (minute, hour) = (minute & 0x3F, hour & 0x1F);
    let Some((year, month, day)) = day_of(low, high)
        .filter(|_| minute <= 59 && hour <= 23 && second.is_none_or(|second| second <= 59))
    else {
        return NOT_SET;
    };
    let year = if hundreds == 0 || second.is_some() {
        year
    } else {
        1900 + 100 * hundreds + year % 100
    };
    let seconds = second.map_or_else(String::new, |second| format!(":{second:02}"));
    RawValue::Text(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}{seconds}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(field: u8, sense: Sense, bytes: &[u8], expected: &str) {
        let coding = Coding::of(field).unwrap();
        assert_eq!(coding.length(), Some(bytes.len()));
        let shown = match value(coding, sense, bytes) {
            RawValue::Nothing => "nothing".to_owned(),
            RawValue::Number(number) => number.value().to_string(),
            RawValue::Text(text) => text.to_string(),
            RawValue::Invalid(why) => format!("! {why}"),
        };
        assert!(
            shown == expected || (expected == "!" && shown.starts_with('!')),
            "{shown}"
        );
    }

    #[test]
    fn numbers_are_signed_and_their_last_byte_comes_first() {
        check(1, Sense::Plain, &[0xFF], "-1");
        check(2, Sense::Measured, &[0x34, 0x12], "4660");
        check(3, Sense::Measured, &[0xFE, 0xFF, 0xFF], "-2");
        check(6, Sense::Measured, &[0, 0, 0, 0, 1, 0], "4294967296");
        check(4, Sense::Measured, &[0, 0, 0, 0x80], "!");
        check(4, Sense::Plain, &[0, 0, 0, 0x80], "-2147483648");
        check(7, Sense::Plain, &[0xFF; 8], "-1");
        check(5, Sense::Measured, &0.1_f32.to_le_bytes(), "0.1");
        check(5, Sense::Measured, &f32::NAN.to_le_bytes(), "!");
    }

    #[test]
    fn digits_have_a_sign_and_nothing_but_digits() {
        check(0x0B, Sense::Measured, &[0x15, 0x31, 0x00], "3115");
        check(0x0A, Sense::Measured, &[0x23, 0xF1], "-123");
        check(0x0C, Sense::Measured, &[0xFF, 0xFF, 0xFF, 0xFF], "!");
        check(0x09, Sense::Measured, &[0x1A], "!");
        check(0x0E, Sense::Measured, &[0x99; 6], "999999999999");
    }

    #[test]
    fn times_are_written_as_iso_8601_does() {
        check(2, Sense::Time, &[0x5F, 0x1C], "2010-12-31");
        check(
            4,
            Sense::Time,
            &[0x1A, 0x2F, 0x65, 0x11],
            "2011-01-05T15:26",
        );
        check(4, Sense::Time, &[0x9A, 0x2F, 0x65, 0x11], "!");
        check(3, Sense::Time, &[30, 15, 8], "08:15:30");
        check(
            6,
            Sense::Time,
            &[30, 15, 8, 0x5F, 0x1C, 0],
            "2010-12-31T08:15:30",
        );
        check(2, Sense::Time, &[0xFF, 0xFF], "!");
        check(2, Sense::Time, &[0, 0], "!");
    }

    #[test]
    fn variable_data_says_how_long_it_is() {
        assert_eq!(
            variable(3, b"cba rest"),
            Some((RawValue::Text("abc".into()), 3))
        );
        assert_eq!(variable(0xD2, &[0x34, 0x12]), Some((number(-1234), 2)));
        assert_eq!(variable(0xE2, &[0xFF, 0xFF]), Some((number(-1), 2)));
        assert_eq!(variable(9, b"short"), None);
        assert_eq!(variable(0xFF, b"short"), None);
    }
}
