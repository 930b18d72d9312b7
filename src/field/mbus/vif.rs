//! What the value information field of a record says: the kind of its value, its unit and power of
//! ten [EN 13757-3, tables 10 to 16]. Pure.

use crate::field::meter_units::{Dimension, MeterUnit};

/// A kind of value, by the word for it in the YAML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(&'static str);

/// Of records with a code that no table has.
pub const OTHER: Kind = Kind("other");
/// Of records that name their unit in text.
pub const PLAIN_TEXT: Kind = Kind("plain_text_unit");

impl Kind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        self.0
    }

    /// The kind of a word.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|kind| kind.0 == name)
    }

    /// All kinds; some several times.
    pub fn all() -> impl Iterator<Item = Self> {
        let rows = PRIMARY
            .iter()
            .chain(&FIRST_EXTENSION)
            .chain(&SECOND_EXTENSION);
        let tables = rows.map(|row| Self(row.2));
        tables.chain([OTHER, PLAIN_TEXT])
    }

    /// What its values measure; `None`: they are numbers without a unit, text or times.
    pub fn dimension(self) -> Option<Dimension> {
        let mut rows = PRIMARY
            .iter()
            .chain(&FIRST_EXTENSION)
            .chain(&SECOND_EXTENSION);
        let row = rows.find(|row| row.2 == self.0)?;
        MeterUnit::named(row.4).map(|unit| unit.dimension)
    }
}

/// The meaning of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Significance {
    /// What it is.
    pub kind: Kind,
    /// Its unit; `None`: it has none.
    pub unit: Option<MeterUnit>,
    /// Value = raw x 10^exponent, in the unit.
    pub exponent: i32,
}

impl Significance {
    /// Of a kind without unit.
    pub const fn plain(kind: Kind) -> Self {
        Self {
            kind,
            unit: None,
            exponent: 0,
        }
    }
}

/// First and last code, kind, exponent of the first code, unit. Each further code has the next
/// power of ten.
type Row = (u8, u8, &'static str, i32, &'static str);

const PRIMARY: [Row; 48] = [
    (0x00, 0x07, "energy", -3, "Wh"),
    (0x08, 0x0F, "energy", 0, "J"),
    (0x10, 0x17, "volume", -6, "m3"),
    (0x18, 0x1F, "mass", -3, "kg"),
    (0x20, 0x20, "on_time", 0, "s"),
    (0x21, 0x21, "on_time", 0, "min"),
    (0x22, 0x22, "on_time", 0, "h"),
    (0x23, 0x23, "on_time", 0, "d"),
    (0x24, 0x24, "operating_time", 0, "s"),
    (0x25, 0x25, "operating_time", 0, "min"),
    (0x26, 0x26, "operating_time", 0, "h"),
    (0x27, 0x27, "operating_time", 0, "d"),
    (0x28, 0x2F, "power", -3, "W"),
    (0x30, 0x37, "power", 0, "J/h"),
    (0x38, 0x3F, "volume_flow", -6, "m3/h"),
    (0x40, 0x47, "volume_flow", -7, "m3/min"),
    (0x48, 0x4F, "volume_flow", -9, "m3/s"),
    (0x50, 0x57, "mass_flow", -3, "kg/h"),
    (0x58, 0x5B, "flow_temperature", -3, "\u{b0}C"),
    (0x5C, 0x5F, "return_temperature", -3, "\u{b0}C"),
    (0x60, 0x63, "temperature_difference", -3, "K"),
    (0x64, 0x67, "external_temperature", -3, "\u{b0}C"),
    (0x68, 0x6B, "pressure", -3, "bar"),
    (0x6C, 0x6C, "date", 0, ""),
    (0x6D, 0x6D, "date_time", 0, ""),
    (0x6E, 0x6E, "hca", 0, ""),
    (0x70, 0x70, "averaging_duration", 0, "s"),
    (0x71, 0x71, "averaging_duration", 0, "min"),
    (0x72, 0x72, "averaging_duration", 0, "h"),
    (0x73, 0x73, "averaging_duration", 0, "d"),
    (0x74, 0x74, "actuality_duration", 0, "s"),
    (0x75, 0x75, "actuality_duration", 0, "min"),
    (0x76, 0x76, "actuality_duration", 0, "h"),
    (0x77, 0x77, "actuality_duration", 0, "d"),
    (0x78, 0x78, "fabrication_number", 0, ""),
    (0x79, 0x79, "identification", 0, ""),
    (0x7A, 0x7A, "bus_address", 0, ""),
    (0x7F, 0x7F, "manufacturer_specific", 0, ""),
    // Counters of the fixed data structure, which have no codes of their own.
    (0x80, 0x80, "energy", 0, "kWh"),
    (0x81, 0x81, "energy", 0, "MWh"),
    (0x82, 0x82, "energy", 0, "kJ"),
    (0x83, 0x83, "energy", 0, "MJ"),
    (0x84, 0x84, "energy", 0, "GJ"),
    (0x85, 0x85, "power", 0, "kW"),
    (0x86, 0x86, "power", 0, "MW"),
    (0x87, 0x87, "volume", 0, "l"),
    (0x88, 0x88, "volume_flow", 0, "l/h"),
    (0x89, 0x89, "counter", 0, ""),
];

/// After FD.
const FIRST_EXTENSION: [Row; 58] = [
    (0x00, 0x03, "credit", -3, ""),
    (0x04, 0x07, "debit", -3, ""),
    (0x08, 0x08, "access_number", 0, ""),
    (0x09, 0x09, "medium", 0, ""),
    (0x0A, 0x0A, "manufacturer", 0, ""),
    (0x0B, 0x0B, "parameter_set", 0, ""),
    (0x0C, 0x0C, "model", 0, ""),
    (0x0D, 0x0D, "hardware_version", 0, ""),
    (0x0E, 0x0E, "firmware_version", 0, ""),
    (0x0F, 0x0F, "software_version", 0, ""),
    (0x10, 0x10, "customer_location", 0, ""),
    (0x11, 0x11, "customer", 0, ""),
    (0x16, 0x16, "password", 0, ""),
    (0x17, 0x17, "error_flags", 0, ""),
    (0x18, 0x18, "error_mask", 0, ""),
    (0x1A, 0x1A, "digital_output", 0, ""),
    (0x1B, 0x1B, "digital_input", 0, ""),
    (0x1C, 0x1C, "baud_rate", 0, ""),
    (0x1D, 0x1D, "response_delay", 0, ""),
    (0x1E, 0x1E, "retries", 0, ""),
    (0x20, 0x20, "first_storage", 0, ""),
    (0x21, 0x21, "last_storage", 0, ""),
    (0x22, 0x22, "storage_size", 0, ""),
    (0x24, 0x24, "storage_interval", 0, "s"),
    (0x25, 0x25, "storage_interval", 0, "min"),
    (0x26, 0x26, "storage_interval", 0, "h"),
    (0x27, 0x27, "storage_interval", 0, "d"),
    (0x28, 0x28, "storage_interval_months", 0, ""),
    (0x29, 0x29, "storage_interval_years", 0, ""),
    (0x2C, 0x2C, "since_last_readout", 0, "s"),
    (0x2D, 0x2D, "since_last_readout", 0, "min"),
    (0x2E, 0x2E, "since_last_readout", 0, "h"),
    (0x2F, 0x2F, "since_last_readout", 0, "d"),
    (0x30, 0x30, "start_of_tariff", 0, ""),
    (0x31, 0x31, "duration_of_tariff", 0, "min"),
    (0x32, 0x32, "duration_of_tariff", 0, "h"),
    (0x33, 0x33, "duration_of_tariff", 0, "d"),
    (0x34, 0x34, "period_of_tariff", 0, "s"),
    (0x35, 0x35, "period_of_tariff", 0, "min"),
    (0x36, 0x36, "period_of_tariff", 0, "h"),
    (0x37, 0x37, "period_of_tariff", 0, "d"),
    (0x3A, 0x3A, "dimensionless", 0, ""),
    (0x40, 0x4F, "voltage", -9, "V"),
    (0x50, 0x5F, "current", -12, "A"),
    (0x60, 0x60, "reset_counter", 0, ""),
    (0x61, 0x61, "cumulation_counter", 0, ""),
    (0x62, 0x62, "control_signal", 0, ""),
    (0x63, 0x63, "day_of_week", 0, ""),
    (0x64, 0x64, "week_number", 0, ""),
    (0x65, 0x65, "day_change", 0, ""),
    (0x66, 0x66, "parameter_activation", 0, ""),
    (0x67, 0x67, "supplier", 0, ""),
    (0x68, 0x68, "since_last_cumulation", 0, "h"),
    (0x69, 0x69, "since_last_cumulation", 0, "d"),
    (0x6C, 0x6C, "battery_operation", 0, "h"),
    (0x6D, 0x6D, "battery_operation", 0, "d"),
    (0x70, 0x70, "battery_change", 0, ""),
    (0x71, 0x71, "radio_level", 0, "dBm"),
];

/// After FB.
const SECOND_EXTENSION: [Row; 18] = [
    (0x00, 0x01, "energy", -1, "MWh"),
    (0x02, 0x03, "reactive_energy", 0, "kvarh"),
    (0x08, 0x09, "energy", -1, "GJ"),
    (0x0C, 0x0F, "energy", -1, "Mcal"),
    (0x10, 0x11, "volume", 2, "m3"),
    (0x14, 0x17, "reactive_power", -3, "kvar"),
    (0x18, 0x19, "mass", 2, "t"),
    (0x1A, 0x1B, "humidity", -1, "%"),
    (0x28, 0x29, "power", -1, "MW"),
    (0x2A, 0x2A, "voltage_angle", -1, "\u{b0}"),
    (0x2B, 0x2B, "current_angle", -1, "\u{b0}"),
    (0x2C, 0x2F, "frequency", -3, "Hz"),
    (0x30, 0x31, "power", -1, "GJ/h"),
    (0x34, 0x37, "apparent_power", -3, "kVA"),
    (0x68, 0x6B, "pressure", -3, "bar"),
    (0x70, 0x70, "counter", 0, ""),
    (0x74, 0x77, "temperature_limit", -3, "\u{b0}C"),
    (0x78, 0x7F, "largest_power", -3, "W"),
];

/// The table in which a code is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VifTable {
    /// The first byte.
    Primary,
    /// The byte after FD.
    First,
    /// The byte after FB.
    Second,
}

/// The meaning of a code; [`OTHER`] for one that the table does not have.
pub fn significance(table: VifTable, code: u8) -> Significance {
    let rows: &[Row] = match table {
        VifTable::Primary => &PRIMARY,
        VifTable::First => &FIRST_EXTENSION,
        VifTable::Second => &SECOND_EXTENSION,
    };
    let found = rows
        .iter()
        .find(|(first, last, ..)| (*first..=*last).contains(&code));
    found.map_or(
        Significance::plain(OTHER),
        |(first, _, kind, exponent, unit)| Significance {
            kind: Kind(kind),
            unit: MeterUnit::named(unit),
            exponent: exponent + i32::from(code.saturating_sub(*first)),
        },
    )
}

/// A code with which a simulated meter sends a kind, three places behind the point if it has them.
pub(super) fn code(kind: Kind) -> Option<(VifTable, u8, Significance)> {
    let in_table = |table, rows: &[Row]| {
        let row = rows.iter().find(|row| row.2 == kind.0 && row.0 < 0x80)?;
        let (first, last, _, exponent, _) = *row;
        let wanted = u8::try_from(-3 - exponent).unwrap_or_default();
        let code = first.saturating_add(wanted).min(last);
        Some((table, code, significance(table, code)))
    };
    in_table(VifTable::Primary, &PRIMARY)
        .or_else(|| in_table(VifTable::First, &FIRST_EXTENSION))
        .or_else(|| in_table(VifTable::Second, &SECOND_EXTENSION))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_of_the_tables_is_known_and_a_kind_has_one_dimension() {
        let rows = PRIMARY
            .iter()
            .chain(&FIRST_EXTENSION)
            .chain(&SECOND_EXTENSION);
        for (first, last, kind, _, unit) in rows {
            assert!(first <= last, "{kind}");
            let dimension = MeterUnit::named(unit).map(|unit| unit.dimension);
            assert_eq!(dimension.is_some(), !unit.is_empty(), "{kind} {unit}");
            assert_eq!(
                Kind::named(kind).unwrap().dimension(),
                dimension,
                "{kind} {unit}"
            );
        }
    }

    #[test]
    fn codes_have_the_unit_and_power_of_ten_of_the_standard() {
        let check = |table, code, kind: &str, exponent, unit: &str| {
            let found = significance(table, code);
            assert_eq!(found.kind.name(), kind, "{code:02x}");
            assert_eq!(found.exponent, exponent, "{code:02x}");
            assert_eq!(found.unit.map_or("", |unit| unit.name), unit, "{code:02x}");
        };
        check(VifTable::Primary, 0x06, "energy", 3, "Wh");
        check(VifTable::Primary, 0x0F, "energy", 7, "J");
        check(VifTable::Primary, 0x13, "volume", -3, "m3");
        check(VifTable::Primary, 0x3B, "volume_flow", -3, "m3/h");
        check(VifTable::Primary, 0x6F, "other", 0, "");
        check(VifTable::First, 0x48, "voltage", -1, "V");
        check(VifTable::First, 0x5C, "current", 0, "A");
        check(VifTable::Second, 0x01, "energy", 0, "MWh");
    }
}
