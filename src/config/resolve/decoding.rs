//! How the registers or the text of a point are decoded.

use std::collections::HashSet;
use std::sync::Arc;

use super::context::PointCheck;
use super::register_address::RegisterAddress;
use crate::config::file::{self, BitOrder};
use crate::field::decode::{Array, Bcd, DataType, Meaning, Part, Register, Sentinel, Sign, Table};
use crate::field::modbus::plan::Limits;

/// Values of one array.
const MOST_ELEMENTS: u16 = 125;

impl PointCheck<'_, '_> {
    /// The register with its meaning; a value that reaches too far is a fault.
    pub(super) fn register(&mut self, place: RegisterAddress) -> Option<Register> {
        let RegisterAddress { table, address } = place;
        let meaning = self.meaning(table)?;
        let register = Register {
            table,
            address,
            meaning,
        };
        let most = Limits::default().of(table);
        if register.width() > most {
            self.fault(
                "type",
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
            self.fault("type", format!("the value reaches past the last {last}"));
        }
        Some(register)
    }

    pub(super) fn meaning(&mut self, table: Table) -> Option<Meaning> {
        let spec = self.spec;
        let kind = self.kind(table)?;
        let mut meaning = Meaning {
            order: self.order(),
            part: self.part(kind),
            words: self.words(kind),
            flags: self.flags(kind),
            scale: spec.scale.unwrap_or(1.0),
            offset: spec.offset.unwrap_or(0.0),
            decimals: spec.decimals,
            broken: spec
                .broken_value
                .iter()
                .flat_map(|list| list.0.iter().map(|broken| broken.0.clone()))
                .collect(),
            min: spec.min,
            max: spec.max,
            length: spec.length.unwrap_or(0),
            characters: spec.characters.unwrap_or_default(),
            as_text: spec.as_text.unwrap_or(false),
            ..Meaning::new(kind)
        };
        if (!meaning.words.is_empty() || !meaning.flags.is_empty())
            && !kind.is_integer()
            && kind != DataType::Bool
        {
            self.fault(
                "type",
                "`words` and `flags` need a whole number; write `type: u16`, or remove `type`",
            );
        }
        self.check_numbers(&meaning);
        self.check_text(kind);
        if let Some(zone) = self.zone() {
            meaning.zone = zone;
        }
        meaning.array = self.array(table, &meaning);
        Some(meaning)
    }

    fn array(&mut self, table: Table, meaning: &Meaning) -> Option<Array> {
        let array = self.spec.array?;
        let size = if self.context.is_text {
            meaning.kind.bytes()
        } else {
            meaning.kind.words()
        };
        let each = if table.is_bits() {
            1
        } else {
            size.unwrap_or(meaning.length).max(1)
        };
        let stride = array.stride.unwrap_or(each);
        if !(1..=MOST_ELEMENTS).contains(&array.count) || stride < each {
            self.fault(
                "array",
                format!("write 1 to {MOST_ELEMENTS} values and a stride of at least {each}"),
            );
        }
        Some(Array {
            count: array.count,
            stride,
        })
    }

    /// Text for raw numbers; what a plain instrument writes has its words beside it.
    fn words(&mut self, kind: DataType) -> Arc<[(i64, Arc<str>)]> {
        let spec = self.spec;
        if self.context.is_text && spec.byte.is_none() && kind == DataType::Text {
            return Arc::default();
        }
        let words = || spec.words.iter().flatten();
        if words().any(|(raw, _)| raw.number().is_none()) {
            self.fault("words", "the keys of `words` must be whole numbers here; only text of a plain instrument (`find` with `type: string`) has words for text",
            );
        }
        words()
            .filter_map(|(raw, text)| Some((raw.number()?, Arc::from(text.as_str()))))
            .collect()
    }

    fn check_numbers(&mut self, meaning: &Meaning) {
        let spec = self.spec;
        if meaning.scale == 0.0 || !meaning.scale.is_finite() {
            self.fault(
                "scale",
                "this scale would make every value 0; type the factor from the manual, such as 0.1",
            );
        }
        if !meaning.offset.is_finite() {
            self.fault("offset", "type a number");
        }
        if spec.decimals.is_some_and(|decimals| decimals > 15) {
            self.fault("decimals", "a number has at most 15 decimals");
        }
        if let (Some(min), Some(max)) = (spec.min, spec.max)
            && min > max
        {
            self.fault(
                "min",
                format!("no value is at least {min} and at most {max}"),
            );
        }
        for broken in meaning.broken.iter() {
            self.check_broken(meaning.kind, broken);
        }
        let is_scaled = spec.scale.is_some()
            || spec.offset.is_some()
            || spec.decimals.is_some()
            || spec.scale_from.is_some();
        if is_scaled && (meaning.kind.is_text() || !meaning.flags.is_empty()) {
            self.fault("scale", "text has no scale; remove it");
        }
    }

    /// A raw value that means "no value" must be one that the type can read.
    fn check_broken(&mut self, kind: DataType, broken: &Sentinel) {
        // Values of instruments that send text are text before they are numbers.
        let is_written = self.context.is_text && self.spec.byte.is_none();
        let why = match broken {
            Sentinel::Number(number) if kind.is_text() && (is_written || !kind.holds(*number)) => {
                format!("this type reads text, and never {number}; type what it reads then, in quotation marks")
            }
            Sentinel::Number(number) if !kind.holds(*number) => never_holds(*number),
            Sentinel::Range(..) if kind.is_text() => {
                "this type reads text, which has no range; type what it reads then, in quotation marks".to_owned()
            }
            Sentinel::Range(first, last) => {
                let outside = [*first, *last].into_iter().find(|number| !kind.holds(*number));
                let (first, last) = (kind.as_held(*first), kind.as_held(*last));
                match outside {
                    Some(number) => never_holds(number),
                    None if first > last => {
                        format!("no value of this type is from {first} to {last}; type the smaller one first")
                    }
                    None => return,
                }
            }
            Sentinel::Text(text) if !kind.is_text() && !is_written => {
                format!("a register of this type never holds \"{text}\"; type the raw value as a number, such as 32767 or 0xFFFF")
            }
            _ => return,
        };
        self.fault("broken_value", why);
    }

    fn check_text(&mut self, kind: DataType) {
        let spec = self.spec;
        let name = self.name;
        match (kind, spec.length) {
            (DataType::Text, None) => {
                self.missing(
                    "length",
                    format!("point \"{name}\" is text; add `length:`, its registers"),
                );
            }
            (DataType::Text, Some(1..=125)) => {}
            (DataType::Text, Some(_)) => self.fault("length", "type 1 to 125 registers"),
            (_, Some(_)) => self.fault("length", "only `type: string` has a length; remove it"),
            (_, None) => {}
        }
        if spec.characters.is_some() && kind != DataType::Text {
            self.fault(
                "characters",
                "only `type: string` has characters; remove it",
            );
        }
    }

    /// `Z`, `+02:00`
    fn zone(&mut self) -> Option<Arc<str>> {
        let spec = self.spec;
        let zone = spec.zone.as_deref()?;
        let bytes = zone.as_bytes();
        let is_offset = bytes.len() == 6
            && matches!(bytes.first(), Some(b'+' | b'-'))
            && bytes.get(3) == Some(&b':')
            && zone.chars().filter(char::is_ascii_digit).count() == 4;
        if zone != "Z" && !is_offset {
            self.fault(
                "zone",
                "type the zone of the device's clock as Z (UTC) or +02:00",
            );
        }
        Some(zone.into())
    }

    /// Which part of the register is meant, its bits counted from the least significant, which is
    /// 0.
    fn part(&mut self, kind: DataType) -> Part {
        let spec = self.spec;
        let bits = u8::try_from(kind.bits()).unwrap_or(64);
        let given = [spec.bit.is_some(), spec.bits.is_some(), spec.mask.is_some()];
        if given.iter().filter(|given| **given).count() > 1 {
            self.fault("bit", "keep one of bit, bits and mask");
        }
        if let Some(bit) = spec.bit {
            return Part::Bit(self.bit_place(bit, bits, "bit"));
        }
        if let Some([one, other]) = spec.bits {
            let one = self.bit_place(one, bits, "bits");
            let other = self.bit_place(other, bits, "bits");
            self.check_digits("bits", kind, u32::from(one.min(other)));
            return Part::Bits {
                low: one.min(other),
                count: one.abs_diff(other) + 1,
            };
        }
        match spec.mask {
            Some(mask) => self.masked(mask, kind, bits),
            None => Part::Whole,
        }
    }

    /// The bit of a number, from the least significant, which is 0; also for a bit that the type
    /// does not have.
    fn bit_place(&mut self, bit: u8, bits: u8, key: &str) -> u8 {
        let order = self.spec.bit_order.unwrap_or_default();
        let Some(place) = counted(bit, bits, order) else {
            let first = u8::from(matches!(order, BitOrder::Lsb1 | BitOrder::Msb1));
            let which = match order {
                BitOrder::Lsb0 | BitOrder::Lsb1 => "least",
                BitOrder::Msb0 | BitOrder::Msb1 => "most",
            };
            let last = first + bits - 1;
            self.fault(
                key,
                format!("a register of this type has the bits {first} to {last}, {first} being the {which} significant"),
            );
            return 0;
        };
        place
    }

    fn masked(&mut self, mask: u64, kind: DataType, bits: u8) -> Part {
        let low = mask.trailing_zeros();
        let is_run = mask != 0 && (mask >> low).wrapping_add(1).is_power_of_two();
        let count = mask.count_ones();
        if !is_run || low + count > u32::from(bits) {
            self.fault(
                "mask",
                "the ones of a mask must be adjacent and inside the register, such as 0x00F0",
            );
            return Part::Whole;
        }
        self.check_digits("mask", kind, low);
        Part::Bits {
            low: u8::try_from(low).unwrap_or(0),
            count: u8::try_from(count).unwrap_or(1),
        }
    }

    /// Decimal digits take four bits each.
    fn check_digits(&mut self, key: &str, kind: DataType, low: u32) {
        if matches!(kind, DataType::Bcd(_)) && !low.is_multiple_of(4) {
            self.fault(
                key,
                format!("a digit of a BCD number begins at bit 0, 4, 8 or 12, and not at {low}"),
            );
        }
    }

    fn flags(&mut self, kind: DataType) -> Arc<[(u8, Arc<str>)]> {
        let spec = self.spec;
        let bits = u8::try_from(kind.bits()).unwrap_or(64);
        let mut seen = HashSet::new();
        let mut flags = Vec::new();
        for (bit, text) in spec.flags.iter().flatten() {
            match counted(*bit, bits, spec.bit_order.unwrap_or_default()) {
                Some(bit) if seen.insert(bit) => flags.push((bit, Arc::from(text.as_str()))),
                _ => self.fault("flags", format!("a register of this type has no bit {bit}")),
            }
        }
        flags.into()
    }

    fn kind(&mut self, table: Table) -> Option<DataType> {
        let spec = self.spec;
        let name = self.name;
        let has_part = spec.bit.is_some() || spec.bits.is_some() || spec.mask.is_some();
        if table.is_bits() {
            if matches!(spec.kind, None | Some(DataType::Bool)) && !has_part {
                return Some(DataType::Bool);
            }
            self.fault("type", single_bit(spec));
            return None;
        }
        if has_part {
            return self.kind_of_part();
        }
        let is_coded = spec.words.is_some() || spec.flags.is_some();
        let kind = spec.kind.or(is_coded.then_some(DataType::U16));
        if kind.is_none() {
            self.missing(
                "type",
                format!("point \"{name}\" has no type; add `type: u16` (or i16, u32, i32, u64, i64, f32, f64)"),
            );
        }
        kind
    }

    /// The type of which the point is a part.
    fn kind_of_part(&mut self) -> Option<DataType> {
        let is_unsigned = |bcd: &Bcd| bcd.sign == Sign::Never;
        match self.spec.kind {
            None | Some(DataType::Bool) => Some(DataType::U16),
            Some(DataType::Bcd(bcd)) if self.spec.bit.is_none() && is_unsigned(&bcd) => {
                self.spec.kind
            }
            Some(DataType::Bcd(_)) => {
                self.fault(
                    "type",
                    "`bits` and `mask` pick digits of a BCD number without a sign; type bcd16, or u16 for a single bit",
                );
                None
            }
            Some(kind) if !kind.is_integer() => {
                self.fault(
                    "type",
                    "`bit` picks bits of a whole number; type u16, or remove `type`",
                );
                None
            }
            kind => kind,
        }
    }
}

fn never_holds(number: impl std::fmt::Display) -> String {
    format!(
        "a register of this type never holds {number}; type the raw value, before scale and with its sign"
    )
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

/// The message for a single bit with a type; small numbers in `at` are often meant as registers.
fn single_bit(spec: &file::PointConfig) -> String {
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
