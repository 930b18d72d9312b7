//! What the YAML says about meters: their address, and which record is which point. Pure.

use std::fmt;
use std::sync::Arc;

use super::data::RawValue;
use super::frame::SELECTED;
use super::qualifier::{self, Qualifier};
use super::record::{MeterRecord, Occasion};
use super::telegram::Identity;
use super::vif::Kind;
use crate::field::meter_units::{MeterUnit, Plausibility};
use crate::reading::Value;

/// The largest primary address.
pub const LARGEST_ADDRESS: u8 = 250;

/// How a meter is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MeterAddress {
    /// By its number on the bus, 0 to 250.
    Primary(u8),
    /// By what it is: it is selected, and then asked as 253.
    Secondary(SecondaryAddress),
}

impl MeterAddress {
    /// The address of its requests.
    pub fn of_requests(self) -> u8 {
        match self {
            Self::Primary(address) => address,
            Self::Secondary(_) => SELECTED,
        }
    }
}

impl fmt::Display for MeterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary(address) => write!(f, "{address}"),
            Self::Secondary(address) => write!(f, "{address}"),
        }
    }
}

/// A secondary address, as it is sent; F in place of a digit and FF in place of a byte fit all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecondaryAddress(pub [u8; 8]);

impl SecondaryAddress {
    /// The address with eight digits, F for any, and nothing known of the rest.
    pub fn of_digits(digits: &str) -> Option<Self> {
        let is_hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let bytes: [u8; 4] = u32::from_str_radix(digits, 16)
            .ok()
            .filter(|_| digits.len() == 8 && is_hexadecimal)?
            .to_le_bytes();
        let is_digit = |nibble: u8| nibble <= 9 || nibble == 0x0F;
        if bytes
            .iter()
            .any(|byte| !is_digit(byte >> 4) || !is_digit(byte & 0x0F))
        {
            return None;
        }
        let [a, b, c, d] = bytes;
        Some(Self([a, b, c, d, 0xFF, 0xFF, 0xFF, 0xFF]))
    }

    /// The whole address of a meter.
    pub fn of(identity: Identity) -> Self {
        let Identity {
            number,
            manufacturer,
            version,
            medium,
        } = identity;
        let text = format!("{number:08}");
        let digits = Self::of_digits(&text).map_or([0xFF; 4], |address| {
            let [a, b, c, d, ..] = address.0;
            [a, b, c, d]
        });
        let [a, b, c, d] = digits;
        let [low, high] = manufacturer.to_le_bytes();
        Self([a, b, c, d, low, high, version, medium])
    }

    /// True if a meter with this whole address answers to it.
    pub fn fits(self, other: Self) -> bool {
        let digits = |bytes: [u8; 8]| {
            let [a, b, c, d, ..] = bytes;
            [d, c, b, a].map(|byte| [byte >> 4, byte & 0x0F]).concat()
        };
        let same_digits = digits(self.0)
            .into_iter()
            .zip(digits(other.0))
            .all(|(own, other)| own == 0x0F || own == other);
        let [.., low, high, version, medium] = self.0;
        let [.., other_low, other_high, other_version, other_medium] = other.0;
        let is_any_maker = [low, high] == [0xFF, 0xFF];
        let fits = |own: u8, other: u8| own == 0xFF || own == other;
        same_digits
            && (is_any_maker || [low, high] == [other_low, other_high])
            && fits(version, other_version)
            && fits(medium, other_medium)
    }
}

impl fmt::Display for SecondaryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "{:08X}", u32::from_le_bytes([a, b, c, d]))
    }
}

/// The code of a manufacturer's three letters.
pub fn manufacturer(letters: &str) -> Option<u16> {
    let letters: [u8; 3] = letters.as_bytes().try_into().ok()?;
    letters.iter().try_fold(0_u16, |code, letter| {
        let number = letter.is_ascii_uppercase().then(|| letter - b'@')?;
        Some((code << 5) | u16::from(number))
    })
}

/// A meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeterSpec {
    /// How it is reached.
    pub address: MeterAddress,
    /// It is told to begin with its first telegram before each readout.
    pub reset: bool,
    /// Its status byte says nothing about its values.
    pub ignore_status: bool,
}

/// Which record of a meter is a point.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordSelector {
    /// What it is; `None`: whatever has the index.
    pub kind: Option<Kind>,
    /// Its function.
    pub occasion: Occasion,
    /// 0 is the present value.
    pub storage: u64,
    /// Its tariff.
    pub tariff: u32,
    /// Its part of the meter.
    pub subunit: u16,
    /// What changes the meaning of its kind.
    pub qualifier: Option<Qualifier>,
    /// Its place among all records of a readout, from zero.
    pub index: Option<usize>,
    /// The unit of the point; `None`: it has none.
    pub unit: Option<MeterUnit>,
    /// What is published of its numbers.
    pub plausibility: Plausibility,
}

impl RecordSelector {
    /// The present value of a kind, in its usual unit.
    pub fn of(kind: Kind) -> Self {
        Self {
            kind: Some(kind),
            occasion: Occasion::Instantaneous,
            storage: 0,
            tariff: 0,
            subunit: 0,
            qualifier: None,
            index: None,
            unit: kind.dimension().and_then(MeterUnit::of),
            plausibility: Plausibility::default(),
        }
    }

    fn fits(&self, record: &MeterRecord) -> bool {
        let qualifiers = match self.qualifier {
            Some(wanted) => record.qualifiers.contains(&wanted),
            None => qualifier::is_plain(&record.qualifiers),
        };
        Some(record.kind) == self.kind
            && record.occasion == self.occasion
            && record.storage == self.storage
            && record.tariff == self.tariff
            && record.subunit == self.subunit
            && qualifiers
    }

    /// The record among those of a readout, or the reason why there is none, or more than one.
    fn find<'a>(&self, records: &'a [MeterRecord]) -> Result<&'a MeterRecord, Arc<str>> {
        let count = records.len();
        if let Some(index) = self.index {
            let record = records.get(index).ok_or_else(|| {
                format!("the meter sends {count} records, none with index {index}")
            })?;
            if self.kind.is_some_and(|kind| kind != record.kind) {
                return Err(
                    format!("record {index} of the meter is {}", record.kind.name()).into(),
                );
            }
            return Ok(record);
        }
        let mut fitting = records
            .iter()
            .enumerate()
            .filter(|(_, record)| self.fits(record));
        match (fitting.next(), fitting.next()) {
            (None, _) => Err(format!("the meter sends {count} records, none is {self}").into()),
            (Some((_, record)), None) => Ok(record),
            (Some((first, _)), Some((second, _))) => Err(format!(
                "records {first} and {second} of the meter are both {self}; add `index: {first}` or `index: {second}`"
            )
            .into()),
        }
    }

    /// The value of the point in a readout, or the reason why it has none.
    pub fn value(&self, records: &[MeterRecord]) -> Result<Value, Arc<str>> {
        let record = self.find(records)?;
        let number = match &record.value {
            RawValue::Nothing => return Err("the record has no data".into()),
            RawValue::Invalid(why) => return Err((*why).into()),
            RawValue::Text(text) => return Ok(Value::Text(Arc::clone(text))),
            RawValue::Number(number) => *number,
        };
        let unit = record
            .unit
            .filter(|_| !qualifier::replaces_unit(&record.qualifiers));
        number.of_point(unit, self.unit, self.plausibility)
    }
}

/// In the words of the YAML.
impl fmt::Display for RecordSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.map_or("any kind", Kind::name))?;
        if self.occasion != Occasion::Instantaneous {
            write!(f, " {}", self.occasion.name())?;
        }
        if let Some(qualifier) = self.qualifier {
            write!(f, " {qualifier}")?;
        }
        let numbers = [
            ("storage", self.storage),
            ("tariff", self.tariff.into()),
            ("subunit", self.subunit.into()),
        ];
        for (name, number) in numbers.iter().filter(|(_, number)| *number != 0) {
            write!(f, " {name} {number}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::mbus::record::{ValueOrder, records};

    /// Energy, the same a month ago, flow of two parts of the meter, both the same.
    const TELEGRAM: [u8; 25] = [
        0x04, 0x06, 0x10, 0x27, 0, 0, 0x44, 0x06, 0x20, 0x4E, 0, 0, 0x02, 0x3B, 0x13, 0x01, 0x02,
        0x3B, 0x14, 0x01, 0x02, 0x5A, 0x00, 0x80, 0x2F,
    ];

    fn value(selector: &RecordSelector) -> Result<Value, Arc<str>> {
        selector.value(&records(&TELEGRAM, ValueOrder::LeastFirst).list)
    }

    fn of(kind: &str) -> RecordSelector {
        RecordSelector::of(Kind::named(kind).unwrap())
    }

    #[test]
    fn a_record_is_found_by_what_it_is_and_its_number_is_in_the_unit_of_the_point() {
        assert_eq!(value(&of("energy")), Ok(Value::F64(10_000.0)));
        let kept = RecordSelector {
            storage: 1,
            unit: MeterUnit::named("MWh"),
            ..of("energy")
        };
        assert_eq!(value(&kept), Ok(Value::F64(20.0)));
        let second = RecordSelector {
            index: Some(3),
            ..of("volume_flow")
        };
        assert_eq!(value(&second), Ok(Value::F64(0.276)));
    }

    #[test]
    fn a_record_that_is_not_there_or_not_alone_is_no_value() {
        let why = |selector: &RecordSelector| value(selector).unwrap_err().to_string();
        assert!(why(&of("volume")).contains("none is volume"));
        assert!(why(&of("volume_flow")).contains("index: 2"));
        assert!(why(&of("flow_temperature")).contains("no value"));
        let other = |index| RecordSelector {
            index: Some(index),
            ..of("energy")
        };
        assert!(why(&other(2)).contains("volume_flow") && why(&other(9)).contains("index 9"));
        let bar = RecordSelector {
            unit: MeterUnit::named("bar"),
            ..of("energy")
        };
        assert!(why(&bar).contains("bar"));
        let small = RecordSelector {
            plausibility: Plausibility {
                max: Some(5.0),
                ..Plausibility::default()
            },
            ..of("energy")
        };
        assert!(why(&small).contains("plausible"));
    }

    #[test]
    fn secondary_addresses_have_wildcards() {
        let meter = SecondaryAddress([0x78, 0x56, 0x34, 0x12, 0x24, 0x40, 1, 7]);
        for digits in ["12345678", "FFFFFFFF", "1234FFFF", "FFFFFF78", "1F3F5F7F"] {
            assert!(
                SecondaryAddress::of_digits(digits).unwrap().fits(meter),
                "{digits}"
            );
        }
        assert!(!SecondaryAddress::of_digits("1235FFFF").unwrap().fits(meter));
        for wrong in ["1234567", "123456789", "1234567A", "+2345678"] {
            assert_eq!(SecondaryAddress::of_digits(wrong), None, "{wrong}");
        }
        let identity = Identity {
            number: 12_345_678,
            manufacturer: manufacturer("PAD").unwrap(),
            version: 1,
            medium: 7,
        };
        assert_eq!(SecondaryAddress::of(identity), meter);
        assert_eq!(manufacturer("pad"), None);
    }
}
