//! The fixed data structure of old meters: two counters [EN 13757-3:2004, annex K; M-Bus
//! documentation 4.8, 6.2]. Pure.

use super::data::{Coding, RawValue, Sense, value};
use super::qualifier::Qualifier;
use super::record::{MeterRecord, Occasion, ValueOrder};
use super::vif::{self, OTHER, Significance, VifTable};
use crate::field::meter_units::MeterNumber;

/// Identification, access number, status, medium and units, two counters.
pub(super) const FIXED_LENGTH: usize = 16;
/// Status: the counters are signed binary numbers, else BCD.
const IS_BINARY: u8 = 0x01;
/// Status: the counters were kept at a fixed date.
const IS_KEPT: u8 = 0x02;
/// Of the second counter: the unit of the first, kept at a fixed date.
const AS_FIRST: u8 = 0x3E;

/// First code, code of the table that has the unit, power of ten; three codes each.
const UNITS: [(u8, u8, i32); 16] = [
    (0x02, 0x03, 0),
    (0x05, 0x80, 0),
    (0x08, 0x81, 0),
    (0x0B, 0x82, 0),
    (0x0E, 0x83, 0),
    (0x11, 0x84, 0),
    (0x14, 0x2B, 0),
    (0x17, 0x85, 0),
    (0x1A, 0x86, 0),
    (0x1D, 0x33, 0),
    (0x20, 0x36, 0),
    (0x26, 0x10, 0),
    (0x29, 0x13, 0),
    (0x2C, 0x16, 0),
    (0x2F, 0x38, 0),
    (0x32, 0x3B, 0),
];

fn meaning(code: u8) -> Significance {
    let plain = |code| vif::significance(VifTable::Primary, code);
    match code {
        0x35..=0x37 => {
            let mut found = plain(0x3E);
            found.exponent += i32::from(code - 0x35);
            found
        }
        0x39 => plain(0x6E),
        0x3F => plain(0x89),
        _ => {
            let row = UNITS
                .iter()
                .find(|(first, ..)| code.checked_sub(*first).is_some_and(|more| more < 3));
            row.map_or(Significance::plain(OTHER), |(first, vif, power)| {
                let mut found = plain(*vif);
                found.exponent += power + i32::from(code - first);
                found
            })
        }
    }
}

/// The two counters: `units` are the two bytes of medium and units, `counters` the eight behind.
pub(super) fn counters(
    status: u8,
    units: [u8; 2],
    counters: &[u8],
    order: ValueOrder,
) -> Vec<MeterRecord> {
    let coding = if status & IS_BINARY == 0 {
        Coding::Bcd(4)
    } else {
        Coding::Integer(4)
    };
    let [first, second] = units.map(|unit| unit & 0x3F);
    let codes = [first, if second == AS_FIRST { first } else { second }];
    let is_kept = [
        status & IS_KEPT != 0,
        second == AS_FIRST || status & IS_KEPT != 0,
    ];
    let parts = counters.chunks_exact(4).zip(codes).zip(is_kept);
    let record = |((bytes, code), is_kept): ((&[u8], u8), bool)| {
        let mut bytes = bytes.to_vec();
        if order == ValueOrder::MostFirst {
            bytes.reverse();
        }
        let found = meaning(code);
        let sense = if found.unit.is_some() {
            Sense::Measured
        } else {
            Sense::Plain
        };
        let value = match value(coding, sense, &bytes) {
            RawValue::Number(number) => {
                RawValue::Number(MeterNumber::shifted(number, found.exponent))
            }
            other => other,
        };
        MeterRecord {
            occasion: Occasion::Instantaneous,
            storage: u64::from(is_kept),
            tariff: 0,
            subunit: 0,
            kind: found.kind,
            qualifiers: Vec::<Qualifier>::new(),
            text_unit: None,
            unit: found.unit,
            value,
        }
    };
    parts.map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u8, units: [u8; 2], bytes: [u8; 8], order: ValueOrder, expected: [&str; 2]) {
        let records = counters(status, units, &bytes, order);
        let shown: Vec<String> = records.iter().map(ToString::to_string).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn both_counters_have_their_unit() {
        // M-Bus documentation 4.8, 6.2: a water meter, 1 l and the same at a fixed date.
        let bytes = [0x01, 0x00, 0x00, 0x00, 0x35, 0x01, 0x00, 0x00];
        check(
            0,
            [0xE9, 0x7E],
            bytes,
            ValueOrder::LeastFirst,
            [
                "volume instantaneous 0 0 0 = 0.001 m3",
                "volume instantaneous 1 0 0 = 0.135 m3",
            ],
        );
        let turned = [0, 0, 0, 1, 0, 0, 1, 0x35];
        check(
            0,
            [0xE9, 0x7E],
            turned,
            ValueOrder::MostFirst,
            [
                "volume instantaneous 0 0 0 = 0.001 m3",
                "volume instantaneous 1 0 0 = 0.135 m3",
            ],
        );
        check(
            1,
            [0x05, 0x18],
            [0x10, 0x27, 0, 0, 2, 0, 0, 0],
            ValueOrder::LeastFirst,
            [
                "energy instantaneous 0 0 0 = 10000 kWh",
                "power instantaneous 0 0 0 = 20 kW",
            ],
        );
        check(
            0,
            [0x36, 0x3F],
            [1, 0, 0, 0, 2, 0, 0, 0],
            ValueOrder::LeastFirst,
            [
                "volume_flow instantaneous 0 0 0 = 10 m3/h",
                "counter instantaneous 0 0 0 = 2",
            ],
        );
    }

    #[test]
    fn all_codes_have_a_meaning_or_none() {
        for code in 0..=0x3F {
            let found = meaning(code);
            assert!(
                found.kind == OTHER || found.unit.is_some() || code >= 0x38,
                "{code:02x}"
            );
        }
    }
}
