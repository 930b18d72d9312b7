//! The register of a point: numbers as manuals print them, or counted from zero.

use super::at;
use super::context::PointCheck;
use crate::config::file;
use crate::config::renamed::renamed;
use crate::field::decode::{ByteOrder, RECORDS, Table};

/// A register, a bit or a record of a file, counted from zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RegisterAddress {
    pub(super) table: Table,
    pub(super) address: u16,
}

impl RegisterAddress {
    /// The register that manuals print with this number of up to five digits, or of six.
    fn of_printed(number: u32) -> Option<Self> {
        let (table, address) = match number {
            1..=9_999 => (Table::Coil, number - 1),
            10_001..=19_999 => (Table::Discrete, number - 10_001),
            30_001..=39_999 => (Table::Input, number - 30_001),
            40_001..=49_999 => (Table::Holding, number - 40_001),
            100_001..=165_536 => (Table::Discrete, number - 100_001),
            300_001..=365_536 => (Table::Input, number - 300_001),
            400_001..=465_536 => (Table::Holding, number - 400_001),
            _ => return None,
        };
        let address = u16::try_from(address).ok()?;
        Some(Self { table, address })
    }
}

impl PointCheck<'_, '_> {
    /// Order of bytes and words: of the point, its device, its profile.
    pub(super) fn order(&self) -> ByteOrder {
        let base = self.context.base("byte_order");
        self.spec
            .byte_order
            .or(self.context.device.byte_order)
            .or(base.and_then(|profile| profile.byte_order))
            .unwrap_or_default()
    }

    /// The register; `Some(None)` for a simulated point without one.
    #[allow(clippy::option_option)]
    pub(super) fn address(&mut self) -> Option<Option<RegisterAddress>> {
        match self.given_addresses()?.as_slice() {
            [one] => {
                self.printed_from_zero(*one);
                self.moved(*one).map(Some)
            }
            [] if self.context.simulated => Some(None),
            [] => {
                self.missing("at", self.without_address());
                None
            }
            _ => {
                let name = self.name;
                self.fault("at", format!("point \"{name}\" says twice where its value is; keep one of at, holding, input, coil, discrete, file"));
                None
            }
        }
    }

    /// Every register that the point names; `None` if one of them is faulty.
    fn given_addresses(&mut self) -> Option<Vec<RegisterAddress>> {
        let spec = self.spec;
        if spec.file.is_some() != spec.record.is_some() || spec.file == Some(0) {
            self.missing("file", "a value in a file needs both numbers; write `file: 4, record: 0` (files are counted from 1, records from 0)");
            return None;
        }
        if spec
            .record
            .as_ref()
            .is_some_and(|record| record.0 >= RECORDS)
        {
            self.fault(
                "record",
                "a file has the records 0 to 9999; write one of these",
            );
            return None;
        }
        let tables = [
            (Some(Table::Holding), spec.holding),
            (Some(Table::Input), spec.input),
            (Some(Table::Coil), spec.coil),
            (Some(Table::Discrete), spec.discrete),
            (spec.file.map(Table::File), spec.record),
        ];
        let from_zero = tables.into_iter().filter_map(|(table, address)| {
            Some(RegisterAddress {
                table: table?,
                address: address?.0,
            })
        });
        let mut given: Vec<RegisterAddress> = from_zero.collect();
        if let Some(file::Printed(printed)) = spec.at {
            let Some(place) = RegisterAddress::of_printed(printed) else {
                self.fault("at", format!("{printed} is not a register as manuals print them: 1-9999 coils, 10001-19999 discrete inputs, 30001-39999 input registers, 40001-49999 holding registers; to count from zero write `holding: {printed}`"));
                return None;
            };
            given.push(place);
        }
        Some(given)
    }

    /// The message for a point without a register: it may override a point of the profile by a name
    /// that the profile does not have.
    fn without_address(&self) -> String {
        let name = self.name;
        let renamed = self
            .context
            .profile
            .and_then(|profile| renamed(name, |new| profile.points.contains_key(new)));
        match renamed {
            Some(new) => format!("the profile has no point \"{name}\"; it is called \"{new}\""),
            None => format!(
                "point \"{name}\" does not say where its value is; add `at: 40001` (as printed in the manual) or `holding: 0` (from zero)"
            ),
        }
    }

    /// The register in a device whose registers begin at a `base`.
    fn moved(&mut self, place: RegisterAddress) -> Option<RegisterAddress> {
        // Records of files do not move.
        let base = if matches!(place.table, Table::File(_)) {
            0
        } else {
            self.context.device.base.unwrap_or(0)
        };
        let moved = place.address.checked_add(base);
        if moved.is_none() {
            self.check.fault(
                &at!["devices", self.context.index, "base"],
                format!(
                    "point \"{}\" would be at register {}; the last one is 65535",
                    self.name,
                    u32::from(place.address) + u32::from(base)
                ),
            );
        }
        Some(RegisterAddress {
            address: moved?,
            ..place
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_register_numbers_are_understood() {
        let check = |number: u32, expected: Option<(Table, u16)>| {
            let place = RegisterAddress::of_printed(number);
            let place = place.map(|place| (place.table, place.address));
            assert_eq!(place, expected, "{number}");
        };
        check(40_001, Some((Table::Holding, 0)));
        check(400_108, Some((Table::Holding, 107)));
        check(465_536, Some((Table::Holding, 65_535)));
        check(30_010, Some((Table::Input, 9)));
        check(10_001, Some((Table::Discrete, 0)));
        check(1, Some((Table::Coil, 0)));
        for none in [0, 40_000, 20_000] {
            check(none, None);
        }
    }
}
