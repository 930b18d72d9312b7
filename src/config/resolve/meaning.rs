//! What the registers of a point mean.

use std::collections::HashSet;
use std::sync::Arc;

use super::Check;
use super::field::Context;
use crate::config::file::{self, BitOrder};
use crate::field::decode::{Array, Bcd, Kind, Meaning, Part, Register, Sentinel, Sign, Table};
use crate::field::modbus::plan::Limits;

/// Values of one array.
const MOST_ELEMENTS: u16 = 125;

impl Context<'_> {
    pub(super) fn register(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
        (table, address): (Table, u16),
    ) -> Option<Register> {
        let meaning = self.meaning(check, name, spec, table)?;
        let register = Register {
            table,
            address,
            meaning,
        };
        let most = Limits::default().of(table);
        if register.width() > most {
            check.fault(
                &self.path(name, "type"),
                format!(
                    "the value takes {} registers, and a request at most {most}",
                    register.width()
                ),
            );
        }
        if u32::from(address) + u32::from(register.width()) > table.places() {
            let last = if matches!(table, Table::File(_)) {
                "record of the file"
            } else {
                "register of the device"
            };
            check.fault(
                &self.path(name, "type"),
                format!("the value reaches past the last {last}"),
            );
        }
        Some(register)
    }

    pub(super) fn meaning(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
        table: Table,
    ) -> Option<Meaning> {
        let kind = self.kind(check, name, spec, table)?;
        let mut meaning = Meaning::new(kind);
        meaning.order = self.order(spec);
        meaning.part = self.part(check, name, spec, kind);
        meaning.words = self.words(check, name, spec, kind);
        meaning.flags = self.flags(check, name, spec, kind);
        meaning.scale = spec.scale.unwrap_or(1.0);
        meaning.offset = spec.offset.unwrap_or(0.0);
        meaning.decimals = spec.decimals;
        meaning.broken = spec
            .broken_value
            .iter()
            .flat_map(|list| list.0.iter().map(|broken| broken.0.clone()))
            .collect();
        meaning.min = spec.min;
        meaning.max = spec.max;
        meaning.length = spec.length.unwrap_or(0);
        meaning.characters = spec.characters.unwrap_or_default();
        meaning.as_text = spec.as_text.unwrap_or(false);
        if (!meaning.words.is_empty() || !meaning.flags.is_empty())
            && !kind.is_integer()
            && kind != Kind::Bool
        {
            check.fault(
                &self.path(name, "type"),
                "`words` and `flags` need a whole number; write `type: u16`, or remove `type`",
            );
        }
        self.check_numbers(check, name, spec, &meaning);
        self.check_text(check, name, spec, kind);
        if let Some(zone) = self.zone(check, name, spec) {
            meaning.zone = zone;
        }
        if let Some(array) = spec.array {
            let size = if self.is_text {
                kind.bytes()
            } else {
                kind.words()
            };
            let each = if table.is_bits() {
                1
            } else {
                size.unwrap_or(meaning.length).max(1)
            };
            let stride = array.stride.unwrap_or(each);
            if !(1..=MOST_ELEMENTS).contains(&array.count) || stride < each {
                check.fault(
                    &self.path(name, "array"),
                    format!("write 1 to {MOST_ELEMENTS} values and a stride of at least {each}"),
                );
            }
            meaning.array = Some(Array {
                count: array.count,
                stride,
            });
        }
        Some(meaning)
    }

    /// Text for raw numbers; what a plain instrument writes has its words beside it.
    fn words(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
        kind: Kind,
    ) -> Arc<[(i64, Arc<str>)]> {
        if self.is_text && spec.byte.is_none() && kind == Kind::Text {
            return Arc::default();
        }
        let words = || spec.words.iter().flatten();
        if words().any(|(raw, _)| raw.number().is_none()) {
            check.fault(
                &self.path(name, "words"),
                "the keys of `words` must be whole numbers here; only text of a plain instrument (`find` with `type: string`) has words for text",
            );
        }
        words()
            .filter_map(|(raw, text)| Some((raw.number()?, Arc::from(text.as_str()))))
            .collect()
    }

    fn check_numbers(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
        meaning: &Meaning,
    ) {
        if meaning.scale == 0.0 || !meaning.scale.is_finite() {
            check.fault(
                &self.path(name, "scale"),
                "this scale would make every value 0; type the factor from the manual, such as 0.1",
            );
        }
        if !meaning.offset.is_finite() {
            check.fault(&self.path(name, "offset"), "type a number");
        }
        if spec.decimals.is_some_and(|decimals| decimals > 15) {
            check.fault(
                &self.path(name, "decimals"),
                "a number has at most 15 decimals",
            );
        }
        if let (Some(min), Some(max)) = (spec.min, spec.max)
            && min > max
        {
            check.fault(
                &self.path(name, "min"),
                format!("no value is at least {min} and at most {max}"),
            );
        }
        for broken in meaning.broken.iter() {
            self.check_broken(check, name, spec, (meaning.kind, broken));
        }
        let is_scaled = spec.scale.is_some()
            || spec.offset.is_some()
            || spec.decimals.is_some()
            || spec.scale_from.is_some();
        if is_scaled && (meaning.kind.is_text() || !meaning.flags.is_empty()) {
            check.fault(&self.path(name, "scale"), "text has no scale; remove it");
        }
    }

    /// A raw value that means "no value" must be one that the type can read.
    fn check_broken(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
        (kind, broken): (Kind, &Sentinel),
    ) {
        let path = self.path(name, "broken_value");
        // What an instrument writes is text before it is a number.
        let is_written = self.is_text && spec.byte.is_none();
        match broken {
            Sentinel::Number(number) if kind.is_text() && (is_written || !kind.holds(*number)) => {
                check.fault(&path, format!("this type reads text, and never {number}; type what it reads then, in quotation marks"));
            }
            Sentinel::Number(number) if !kind.holds(*number) => check
                .fault(&path, format!("a register of this type never holds {number}; type the raw value, before scale and with its sign")),
            Sentinel::Range(..) if kind.is_text() => {
                check.fault(&path, "this type reads text, which has no range; type what it reads then, in quotation marks");
            }
            Sentinel::Range(first, last) => match [*first, *last].into_iter().find(|number| !kind.holds(*number)) {
                Some(number) => check.fault(
                    &path,
                    format!("a register of this type never holds {number}; type the raw value, before scale and with its sign"),
                ),
                None if kind.as_held(*first) > kind.as_held(*last) => {
                    let (first, last) = (kind.as_held(*first), kind.as_held(*last));
                    check.fault(&path, format!("no value of this type is from {first} to {last}; type the smaller one first"));
                }
                None => {}
            },
            Sentinel::Text(text) if !kind.is_text() && !is_written => check.fault(
                &path,
                format!("a register of this type never holds \"{text}\"; type the raw value as a number, such as 32767 or 0xFFFF"),
            ),
            _ => {}
        }
    }

    fn check_text(&self, check: &mut Check<'_>, name: &str, spec: &file::Point, kind: Kind) {
        match (kind, spec.length) {
            (Kind::Text, None) => {
                check.missing(
                    &self.path(name, "length"),
                    format!("point \"{name}\" is text; add `length:`, its registers"),
                );
            }
            (Kind::Text, Some(1..=125)) => {}
            (Kind::Text, Some(_)) => {
                check.fault(&self.path(name, "length"), "type 1 to 125 registers");
            }
            (_, Some(_)) => check.fault(
                &self.path(name, "length"),
                "only `type: string` has a length; remove it",
            ),
            (_, None) => {}
        }
        if spec.characters.is_some() && kind != Kind::Text {
            check.fault(
                &self.path(name, "characters"),
                "only `type: string` has characters; remove it",
            );
        }
    }

    /// `Z`, `+02:00`
    fn zone(&self, check: &mut Check<'_>, name: &str, spec: &file::Point) -> Option<Arc<str>> {
        let zone = spec.zone.as_deref()?;
        let bytes = zone.as_bytes();
        let is_offset = bytes.len() == 6
            && matches!(bytes.first(), Some(b'+' | b'-'))
            && bytes.get(3) == Some(&b':')
            && zone.chars().filter(char::is_ascii_digit).count() == 4;
        if zone != "Z" && !is_offset {
            check.fault(
                &self.path(name, "zone"),
                "type the zone of the device's clock as Z (UTC) or +02:00",
            );
        }
        Some(zone.into())
    }

    /// Which part of the register is meant, its bits counted from the least significant, which is 0.
    fn part(&self, check: &mut Check<'_>, name: &str, spec: &file::Point, kind: Kind) -> Part {
        let bits = u8::try_from(kind.bits()).unwrap_or(64);
        let given = [spec.bit.is_some(), spec.bits.is_some(), spec.mask.is_some()];
        if given.iter().filter(|given| **given).count() > 1 {
            check.fault(&self.path(name, "bit"), "keep one of bit, bits and mask");
        }
        let mut place = |bit: u8, key: &str| {
            let found = counted(bit, bits, spec.bit_order.unwrap_or_default());
            if found.is_none() {
                let order = spec.bit_order.unwrap_or_default();
                let first = u8::from(matches!(order, BitOrder::Lsb1 | BitOrder::Msb1));
                let which = if matches!(order, BitOrder::Lsb0 | BitOrder::Lsb1) {
                    "least"
                } else {
                    "most"
                };
                check.fault(
                    &self.path(name, key),
                    format!("a register of this type has the bits {first} to {}, {first} being the {which} significant", first + bits - 1),
                );
            }
            found.unwrap_or(0)
        };
        if let Some(bit) = spec.bit {
            return Part::Bit(place(bit, "bit"));
        }
        if let Some([one, other]) = spec.bits {
            let (one, other) = (place(one, "bits"), place(other, "bits"));
            self.check_digits(check, (name, "bits"), kind, u32::from(one.min(other)));
            return Part::Bits {
                low: one.min(other),
                count: one.abs_diff(other) + 1,
            };
        }
        let Some(mask) = spec.mask else {
            return Part::Whole;
        };
        let low = mask.trailing_zeros();
        let is_run = mask != 0 && (mask >> low).wrapping_add(1).is_power_of_two();
        let count = mask.count_ones();
        if !is_run || low + count > u32::from(bits) {
            check.fault(
                &self.path(name, "mask"),
                "the ones of a mask must be adjacent and inside the register, such as 0x00F0",
            );
            return Part::Whole;
        }
        self.check_digits(check, (name, "mask"), kind, low);
        Part::Bits {
            low: u8::try_from(low).unwrap_or(0),
            count: u8::try_from(count).unwrap_or(1),
        }
    }

    /// Decimal digits take four bits each.
    fn check_digits(&self, check: &mut Check<'_>, (name, key): (&str, &str), kind: Kind, low: u32) {
        if matches!(kind, Kind::Bcd(_)) && !low.is_multiple_of(4) {
            check.fault(
                &self.path(name, key),
                format!("a digit of a BCD number begins at bit 0, 4, 8 or 12, and not at {low}"),
            );
        }
    }

    fn flags(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
        kind: Kind,
    ) -> Arc<[(u8, Arc<str>)]> {
        let bits = u8::try_from(kind.bits()).unwrap_or(64);
        let mut seen = HashSet::new();
        let mut flags = Vec::new();
        for (bit, text) in spec.flags.iter().flatten() {
            match counted(*bit, bits, spec.bit_order.unwrap_or_default()) {
                Some(bit) if seen.insert(bit) => flags.push((bit, Arc::from(text.as_str()))),
                _ => check.fault(
                    &self.path(name, "flags"),
                    format!("a register of this type has no bit {bit}"),
                ),
            }
        }
        flags.into()
    }

    fn kind(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
        table: Table,
    ) -> Option<Kind> {
        let has_part = spec.bit.is_some() || spec.bits.is_some() || spec.mask.is_some();
        match (spec.kind, table.is_bits(), has_part) {
            (None | Some(Kind::Bool), true, false) => Some(Kind::Bool),
            (_, true, _) => {
                check.fault(&self.path(name, "type"), single_bit(spec));
                None
            }
            (None | Some(Kind::Bool), false, true) => Some(Kind::U16),
            (
                Some(Kind::Bcd(Bcd {
                    sign: Sign::Never, ..
                })),
                false,
                true,
            ) if spec.bit.is_none() => spec.kind,
            (Some(Kind::Bcd(_)), false, true) => {
                check.fault(
                    &self.path(name, "type"),
                    "`bits` and `mask` pick digits of a BCD number without a sign; type bcd16, or u16 for a single bit",
                );
                None
            }
            (Some(kind), false, true) if !kind.is_integer() => {
                check.fault(
                    &self.path(name, "type"),
                    "`bit` picks bits of a whole number; type u16, or remove `type`",
                );
                None
            }
            (Some(kind), false, _) => Some(kind),
            (None, false, false) if spec.words.is_some() || spec.flags.is_some() => Some(Kind::U16),
            (None, false, false) => {
                check.missing(
                    &self.path(name, "type"),
                    format!("point \"{name}\" has no type; add `type: u16` (or i16, u32, i32, u64, i64, f32, f64)"),
                );
                None
            }
        }
    }
}

/// The place of a bit, counted from the least significant, which is 0.
fn counted(bit: u8, bits: u8, order: BitOrder) -> Option<u8> {
    let place = match order {
        BitOrder::Lsb0 => Some(bit),
        BitOrder::Lsb1 => bit.checked_sub(1),
        BitOrder::Msb0 => bits.checked_sub(1)?.checked_sub(bit),
        BitOrder::Msb1 => bits.checked_sub(bit).filter(|_| bit > 0),
    };
    place.filter(|place| *place < bits)
}

/// What is wrong with the type of a single bit; small numbers in `at` are often meant as registers.
fn single_bit(spec: &file::Point) -> String {
    match spec.at.filter(|printed| printed.0 < 10_000) {
        Some(file::Printed(number)) => format!(
            "`at: {number}` is a coil, a single bit; for the holding register {number} of a manual that counts from one write `at: {}`, else `holding: {number}`",
            40_000 + number
        ),
        None => "coils and discrete inputs are single bits; remove `type` and `bit`".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_counted_as_manuals_do() {
        assert_eq!(counted(3, 16, BitOrder::Lsb0), Some(3));
        assert_eq!(counted(1, 16, BitOrder::Lsb1), Some(0));
        assert_eq!(counted(0, 16, BitOrder::Msb0), Some(15));
        assert_eq!(counted(16, 16, BitOrder::Msb1), Some(0));
        assert_eq!(
            (
                counted(16, 16, BitOrder::Lsb0),
                counted(0, 16, BitOrder::Lsb1),
                counted(0, 16, BitOrder::Msb1)
            ),
            (None, None, None)
        );
    }
}
