//! Records of a telegram with the variable data structure: what a value is, and the value itself
//! [EN 13757-3, 6]. Pure; whatever the bytes are, reading them ends.

use std::sync::Arc;

use serde::Deserialize;

use super::data::{self, Coding, RawValue, Sense};
use super::qualifier::{self, Qualifier};
use super::vif::{self, Kind, OTHER, PLAIN_TEXT, Significance, VifTable};
use crate::field::meter_units::{MeterNumber, MeterUnit};

/// Further DIF or VIF bytes that one record may have.
const MOST_EXTENSIONS: usize = 10;
/// More than the longest telegram has room for.
const MOST_RECORDS: usize = 256;

/// Which of several values of the same kind it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Occasion {
    /// The value of the moment.
    #[default]
    Instantaneous,
    /// The largest value.
    Maximum,
    /// The smallest value.
    Minimum,
    /// The value while an error lasted.
    Error,
}

impl Occasion {
    /// By the first byte of a record.
    fn of(dif: u8) -> Self {
        match dif & 0x30 {
            0x00 => Self::Instantaneous,
            0x10 => Self::Maximum,
            0x20 => Self::Minimum,
            _ => Self::Error,
        }
    }

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Instantaneous => "instantaneous",
            Self::Maximum => "maximum",
            Self::Minimum => "minimum",
            Self::Error => "error",
        }
    }
}

/// One value of a meter.
#[derive(Debug, Clone, PartialEq)]
pub struct MeterRecord {
    /// Its function.
    pub occasion: Occasion,
    /// 0 is the present value; others are kept from earlier.
    pub storage: u64,
    /// Its tariff.
    pub tariff: u32,
    /// The part of the meter that measures it.
    pub subunit: u16,
    /// What it is.
    pub kind: Kind,
    /// What changes the meaning of its kind, such as "per hour" or "time of the lower limit".
    pub qualifiers: Vec<Qualifier>,
    /// The unit that a manufacturer wrote in text.
    pub text_unit: Option<Arc<str>>,
    /// Its unit; `None`: it has none.
    pub unit: Option<MeterUnit>,
    /// Its value in that unit.
    pub value: RawValue,
}

/// The records of a telegram.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MeterRecords {
    /// In the order of the telegram.
    pub list: Vec<MeterRecord>,
    /// The meter has more than fit into one telegram.
    pub more_follow: bool,
    /// Why the rest of the telegram could not be read.
    pub broken: Option<&'static str>,
}

/// The order of the bytes of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueOrder {
    /// The least significant first (mode 1).
    LeastFirst,
    /// The most significant first (mode 2).
    MostFirst,
}

/// Bytes that are read one after the other.
struct RecordReader<'a>(&'a [u8]);

impl<'a> RecordReader<'a> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

/// The records in the bytes behind the header. What comes after a record that cannot be read is
/// left out: its place is unknown.
pub(super) fn records(bytes: &[u8], order: ValueOrder) -> MeterRecords {
    let mut reader = RecordReader(bytes);
    let mut records = MeterRecords::default();
    while let Some(dif) = reader.next() {
        match dif {
            // Idle filler.
            0x2F => continue,
            0x0F => break,
            0x1F => {
                records.more_follow = true;
                break;
            }
            _ if dif & 0x0F == 0x0F => {
                records.broken = Some("a data field is reserved");
                break;
            }
            _ => {}
        }
        match record(dif, &mut reader, order) {
            Ok(record) => records.list.push(record),
            Err(why) => {
                records.broken = Some(why);
                break;
            }
        }
        if records.list.len() >= MOST_RECORDS {
            records.broken = Some("the telegram has too many records");
            break;
        }
    }
    records
}

const SHORT: &str = "the telegram ends in the middle of a record";

fn record(
    dif: u8,
    reader: &mut RecordReader<'_>,
    order: ValueOrder,
) -> Result<MeterRecord, &'static str> {
    let mut record = MeterRecord {
        occasion: Occasion::of(dif),
        storage: u64::from(dif >> 6) & 1,
        tariff: 0,
        subunit: 0,
        kind: OTHER,
        qualifiers: Vec::new(),
        text_unit: None,
        unit: None,
        value: RawValue::Nothing,
    };
    if dif & 0x80 != 0 {
        extend(&mut record, reader)?;
    }
    let exponent = information(&mut record, reader)?;
    let coding = Coding::of(dif).ok_or("a data field is reserved")?;
    let sense = sense_of(&record, coding);
    let value = match coding.length() {
        Some(length) => {
            let bytes = reader.take(length).ok_or(SHORT)?;
            match order {
                ValueOrder::LeastFirst => data::value(coding, sense, bytes),
                ValueOrder::MostFirst => {
                    let turned: Vec<u8> = bytes.iter().rev().copied().collect();
                    data::value(coding, sense, &turned)
                }
            }
        }
        None => {
            let length = reader.next().ok_or(SHORT)?;
            let (value, count) = data::variable(length, reader.0).ok_or(SHORT)?;
            reader.take(count).ok_or(SHORT)?;
            value
        }
    };
    record.value = scaled(value, exponent, &record);
    Ok(record)
}

/// The further bytes of the DIF: storage, tariff and subunit.
fn extend(record: &mut MeterRecord, reader: &mut RecordReader<'_>) -> Result<(), &'static str> {
    for place in 0..u32::try_from(MOST_EXTENSIONS).unwrap_or_default() {
        let byte = reader.next().ok_or(SHORT)?;
        record.storage |= u64::from(byte & 0x0F) << (1 + 4 * place);
        record.tariff |= u32::from((byte >> 4) & 0x03) << (2 * place);
        record.subunit |= u16::from((byte >> 6) & 0x01) << place;
        if byte & 0x80 == 0 {
            return Ok(());
        }
    }
    Err("a record has too many further data fields")
}

/// The VIF with what extends it: kind, unit and qualifiers. Gives the power of ten.
fn information(
    record: &mut MeterRecord,
    reader: &mut RecordReader<'_>,
) -> Result<i32, &'static str> {
    let vif = reader.next().ok_or(SHORT)?;
    let mut is_extended = vif & 0x80 != 0;
    let found = match vif & 0x7F {
        0x7C => {
            let count = usize::from(reader.next().ok_or(SHORT)?);
            let unit = data::text(reader.take(count).ok_or(SHORT)?);
            record.text_unit = Some(unit.into());
            Significance::plain(PLAIN_TEXT)
        }
        0x7B | 0x7D if is_extended => {
            let table = if vif & 0x7F == 0x7B {
                VifTable::Second
            } else {
                VifTable::First
            };
            let code = reader.next().ok_or(SHORT)?;
            is_extended = code & 0x80 != 0;
            vif::significance(table, code & 0x7F)
        }
        code => vif::significance(VifTable::Primary, code),
    };
    record.kind = found.kind;
    record.unit = found.unit;
    let is_ours = vif & 0x7F == 0x7F;
    let more = if is_extended {
        extensions(record, reader, is_ours)?
    } else {
        0
    };
    Ok(found.exponent + more)
}

/// Further VIF bytes; `is_ours`: they are the business of the manufacturer. Gives what they add to
/// the power of ten.
fn extensions(
    record: &mut MeterRecord,
    reader: &mut RecordReader<'_>,
    mut is_ours: bool,
) -> Result<i32, &'static str> {
    let mut exponent = 0;
    for _ in 0..MOST_EXTENSIONS {
        let byte = reader.next().ok_or(SHORT)?;
        let is_last = byte & 0x80 == 0;
        match byte & 0x7F {
            // What follows is the business of the manufacturer.
            0x7F if !is_ours => {
                is_ours = true;
                if is_last {
                    record.qualifiers.push(Qualifier::of_manufacturer(0));
                }
            }
            code if is_ours => record.qualifiers.push(Qualifier::of_manufacturer(code)),
            code @ 0x70..=0x77 => exponent += i32::from(code) - 0x76,
            0x7D => exponent += 3,
            code => record.qualifiers.push(Qualifier::of(code)),
        }
        if is_last {
            return Ok(exponent);
        }
    }
    Err("a record has too many further value information fields")
}

fn sense_of(record: &MeterRecord, coding: Coding) -> Sense {
    let length = coding.length().unwrap_or_default();
    let is_time = match record.kind.name() {
        "date" | "date_time" | "battery_change" | "start_of_tariff" => true,
        _ => record
            .qualifiers
            .iter()
            .any(|qualifier| qualifier.is_time()),
    };
    if is_time && matches!(coding, Coding::Integer(_)) && matches!(length, 2 | 3 | 4 | 6) {
        Sense::Time
    } else if record.unit.is_some() {
        Sense::Measured
    } else {
        Sense::Plain
    }
}

fn scaled(value: RawValue, exponent: i32, record: &MeterRecord) -> RawValue {
    if let Some(why) = record.qualifiers.iter().find_map(|which| which.fault()) {
        return RawValue::Invalid(why);
    }
    match value {
        RawValue::Number(number) if !qualifier::replaces_unit(&record.qualifiers) => {
            RawValue::Number(MeterNumber::shifted(number, exponent))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: &[&str]) {
        let records = records(bytes, ValueOrder::LeastFirst);
        let shown: Vec<String> = records.list.iter().map(ToString::to_string).collect();
        assert_eq!(shown, expected, "{records:?}");
    }

    #[test]
    fn records_tell_what_they_are() {
        // M-Bus documentation 4.8, 6.4.1.
        check(
            &[
                0x03, 0x13, 0x15, 0x31, 0x00, 0xDA, 0x02, 0x3B, 0x13, 0x01, 0x8B, 0x60, 0x04, 0x37,
                0x18, 0x02,
            ],
            &[
                "volume instantaneous 0 0 0 = 12.565 m3",
                "volume_flow maximum 5 0 0 = 0.113 m3/h",
                "energy instantaneous 0 2 1 = 218370 Wh",
            ],
        );
        // Multiplied by 10^-3, per hour; an error of the record.
        check(
            &[
                0x02, 0x83, 0x73, 0xD0, 0x07, 0x02, 0x83, 0x22, 1, 0, 0x02, 0x83, 0x15, 1, 0,
            ],
            &[
                "energy instantaneous 0 0 0 = 2 Wh",
                "energy per_hour instantaneous 0 0 0 = 1 Wh",
                "energy instantaneous 0 0 0 = ! the meter has no value",
            ],
        );
        // A unit in text, the manufacturer's own, a filler.
        check(
            &[
                0x2F, 0x02, 0x7C, 0x03, b'H', b'R', b'%', 0x36, 0, 0x01, 0xFF, 0x13, 7,
            ],
            &[
                "plain_text_unit (%RH) instantaneous 0 0 0 = 54",
                "manufacturer_specific 0xff13 instantaneous 0 0 0 = 7",
            ],
        );
    }

    #[test]
    fn what_cannot_be_read_ends_the_telegram_and_is_said() {
        for bytes in [
            &[0x04, 0x06, 1, 2][..],
            &[0x04],
            &[0x84, 0x80],
            &[0x0D, 0x78, 0x05, 1],
            &[0x02, 0x7C, 0x20, 1],
            &[0x3F],
        ] {
            let records = records(bytes, ValueOrder::LeastFirst);
            assert!(
                records.list.is_empty() && records.broken.is_some(),
                "{bytes:?}"
            );
        }
        let many = records(&[0x00, 0x06].repeat(300), ValueOrder::LeastFirst);
        assert_eq!(many.list.len(), MOST_RECORDS);
        let more = records(&[0x01, 0x06, 1, 0x1F, 9, 9], ValueOrder::LeastFirst);
        assert!(more.more_follow && more.list.len() == 1);
    }

    #[test]
    fn the_most_significant_byte_may_come_first() {
        let records = records(&[0x02, 0x03, 0x12, 0x34], ValueOrder::MostFirst);
        assert_eq!(
            records.list[0].to_string(),
            "energy instantaneous 0 0 0 = 4660 Wh"
        );
    }

    proptest::proptest! {
        #![proptest_config(crate::testing::cases(512, module_path!()))]

        #[test]
        fn any_bytes_are_read_to_an_end(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
        ) {
            for order in [ValueOrder::LeastFirst, ValueOrder::MostFirst] {
                for record in records(&bytes, order).list {
                    let _ = record.to_string();
                }
            }
        }
    }
}
