//! What a meter reports: the values of a GetListResponse, by their OBIS codes [BSI TR-03109-1,
//! annex IV, 6.2; IEC 62056-61]. Pure.

use std::fmt;
use std::str::FromStr;

use super::frame;
use super::tlv::{SmlReader, SmlValue};
use crate::field::meter_units::{MeterNumber, MeterUnit};

/// The body of a message that brings values.
const GET_LIST_RESPONSE: i64 = 0x0701;

/// What a value is, such as `1-0:1.8.0*255`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Obis(pub [u8; 6]);

impl fmt::Display for Obis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, last] = self.0;
        write!(f, "{a}-{b}:{c}.{d}.{e}*{last}")
    }
}

impl FromStr for Obis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = || {
            let (medium, rest) = text.split_once('-')?;
            let (channel, rest) = rest.split_once(':')?;
            let (rest, last) = rest.split_once('*').unwrap_or((rest, "255"));
            let mut groups = rest.split('.');
            let parts = [
                medium,
                channel,
                groups.next()?,
                groups.next()?,
                groups.next()?,
                last,
            ];
            if groups.next().is_some() {
                return None;
            }
            let numbers = parts.map(|part| part.parse::<u8>().ok());
            let [Some(a), Some(b), Some(c), Some(d), Some(e), Some(f)] = numbers else {
                return None;
            };
            Some(Self([a, b, c, d, e, f]))
        };
        parts().ok_or_else(|| {
            format!("`{text}` is no OBIS code; write it as the meter does, such as 1-0:1.8.0*255")
        })
    }
}

impl Obis {
    /// The unit in which its value is published unless the YAML names another.
    pub fn usual_unit(self) -> Option<MeterUnit> {
        let [a, _, c, d, ..] = self.0;
        let is_energy = matches!(d, 8 | 9 | 29);
        let name =
            match (a, c) {
                (
                    1,
                    1 | 2 | 15 | 16 | 21 | 22 | 35 | 36 | 41 | 42 | 55 | 56 | 61 | 62 | 75 | 76,
                ) if is_energy => "kWh",
                (
                    1,
                    1 | 2 | 15 | 16 | 21 | 22 | 35 | 36 | 41 | 42 | 55 | 56 | 61 | 62 | 75 | 76,
                ) if matches!(d, 4 | 6 | 7) => "W",
                (1, 3 | 4) if is_energy => "kvarh",
                (1, 3 | 4) if d == 7 => "var",
                (1, 9 | 29 | 49 | 69) if d == 7 => "VA",
                (1, 12 | 32 | 52 | 72) if d == 7 => "V",
                (1, 11 | 31 | 51 | 71 | 91) if d == 7 => "A",
                (1, 14) if d == 7 => "Hz",
                (1, 81) if d == 7 => "\u{b0}",
                (7 | 8, _) if is_energy || d == 1 || d == 2 => "m3",
                _ => return None,
            };
        MeterUnit::named(name)
    }
}

/// A value of a meter.
#[derive(Debug, Clone, PartialEq)]
pub struct ListEntry {
    /// What it is.
    pub obis: Obis,
    /// Its unit; `None`: it has none, or one that is not known.
    pub unit: Option<MeterUnit>,
    /// The value.
    pub value: EntryValue,
}

/// The value of an entry.
#[derive(Debug, Clone, PartialEq)]
pub enum EntryValue {
    /// A number, in the unit of the entry.
    Number(MeterNumber),
    /// True or false.
    Bool(bool),
    /// Characters, or digits of octets.
    Text(String),
    /// The meter has none.
    Missing,
}

/// The units of DLMS that meters use [IEC 62056-62, table 6].
const UNITS: [(i64, &str); 14] = [
    (8, "\u{b0}"),
    (9, "\u{b0}C"),
    (13, "m3"),
    (14, "m3"),
    (15, "m3/h"),
    (27, "W"),
    (28, "VA"),
    (29, "var"),
    (30, "Wh"),
    (32, "varh"),
    (33, "A"),
    (35, "V"),
    (44, "Hz"),
    (56, "%"),
];

/// The code with which a simulated meter sends a unit, and the factor from that into this.
pub(super) fn code_of(unit: MeterUnit) -> Option<(u8, f64)> {
    UNITS.iter().find_map(|(code, name)| {
        let factor = MeterUnit::factor(unit, MeterUnit::named(name)?)?;
        Some((u8::try_from(*code).ok()?, factor))
    })
}

/// All values of the messages in a frame. What comes after a message that cannot be read is left
/// out.
pub fn entries(messages: &[u8]) -> Vec<ListEntry> {
    let mut reader = SmlReader::new(messages);
    let mut entries = Vec::new();
    loop {
        reader.skip_ends();
        let before = reader.rest();
        let Some(message) = reader.next_value() else {
            return entries;
        };
        let length = before.len().saturating_sub(reader.rest().len());
        let bytes = before.get(..length).unwrap_or_default();
        if has_right_checksum(&message, bytes) {
            entries.extend(entries_of(&message).unwrap_or_default());
        }
    }
}

/// Each message has a checksum of its own, over what stands before it.
fn has_right_checksum(message: &SmlValue<'_>, bytes: &[u8]) -> bool {
    let Some(sent) = message
        .list()
        .and_then(|parts| parts.get(4))
        .and_then(SmlValue::number)
        .and_then(|sum| u16::try_from(sum).ok())
    else {
        return false;
    };
    // Type and length, one or two bytes of the number, and the end of the message.
    let tail = if sent <= 0xFF && bytes.iter().rev().nth(2) == Some(&0x62) {
        3
    } else {
        4
    };
    let covered = bytes.get(..bytes.len().saturating_sub(tail));
    covered.is_some_and(|covered| frame::is_right(covered, sent.to_be_bytes()))
}

fn entries_of(message: &SmlValue<'_>) -> Option<Vec<ListEntry>> {
    let body = message.list()?.get(3)?.list()?;
    let [tag, content] = body else {
        return None;
    };
    if tag.number()? & 0xFFFF != GET_LIST_RESPONSE {
        return None;
    }
    let values = content.list()?.get(4)?.list()?;
    Some(values.iter().filter_map(entry).collect())
}

fn entry(value: &SmlValue<'_>) -> Option<ListEntry> {
    let [name, _, _, unit, scaler, value, ..] = value.list()? else {
        return None;
    };
    let obis = Obis(name.octets()?.try_into().ok()?);
    let exponent = scaler
        .number()
        .and_then(|scaler| i32::try_from(scaler).ok());
    let exponent = exponent.unwrap_or_default();
    let code = unit.number();
    let row = UNITS.iter().find(|(known, _)| Some(*known) == code);
    let value = match value {
        SmlValue::Octets(octets) => EntryValue::Text(text(octets)),
        SmlValue::Bool(state) => EntryValue::Bool(*state),
        other => match other.number() {
            Some(mantissa) => EntryValue::Number(MeterNumber::Exact { mantissa, exponent }),
            None => EntryValue::Missing,
        },
    };
    Some(ListEntry {
        obis,
        unit: row.and_then(|(_, name)| MeterUnit::named(name)),
        value,
    })
}

/// Characters if all can be shown, else digits.
fn text(octets: &[u8]) -> String {
    let is_shown = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    if octets.iter().all(is_shown) {
        octets.iter().map(|byte| char::from(*byte)).collect()
    } else {
        octets.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_written_as_on_the_meter() {
        let code: Obis = "1-0:1.8.0*255".parse().unwrap();
        assert_eq!(code, Obis([1, 0, 1, 8, 0, 255]));
        assert_eq!("1-0:1.8.0".parse(), Ok(code));
        assert_eq!(code.to_string(), "1-0:1.8.0*255");
        assert_eq!(code.usual_unit().unwrap().name, "kWh");
        for wrong in [
            "",
            "1.8.0",
            "1-0:1.8",
            "1-0:1.8.0.1",
            "1-0:1.8.256",
            "1-0:1.8.0*",
        ] {
            assert!(wrong.parse::<Obis>().is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #![proptest_config(crate::testing::cases(512, module_path!()))]

        #[test]
        fn any_messages_are_read_to_an_end(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
        ) {
            let _ = entries(&bytes);
        }
    }
}
